//! Waiting for something to become true, with a deadline.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(50);

/// Polls until `probe` answers, and panics after `within` with what was waited for.
///
/// # Panics
/// When the time is over.
#[expect(
    clippy::disallowed_methods,
    reason = "tests wait for real processes, in real time"
)]
pub fn eventually<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// As [`eventually`], for a probe that says why not yet: the panic tells the last reason.
///
/// # Panics
/// When the time is over.
#[expect(
    clippy::disallowed_methods,
    reason = "tests wait for real processes, in real time"
)]
pub fn eventually_ok<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> T {
    let mut last = String::new();
    let started = Instant::now();
    eventually(what, within, || match probe() {
        Ok(found) => Some(found),
        Err(why) => {
            assert!(
                started.elapsed() + POLL < within,
                "not within {within:?}: {what}; last: {why}; before: {last}"
            );
            last = why;
            None
        }
    })
}

/// Polls for the whole of `long` and panics as soon as `holds` does not.
///
/// # Panics
/// When `holds` is false once.
#[expect(
    clippy::disallowed_methods,
    reason = "tests watch real processes, in real time"
)]
pub fn throughout(what: &str, long: Duration, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while started.elapsed() < long {
        assert!(
            holds(),
            "after {:?} of {long:?}, no longer: {what}",
            started.elapsed()
        );
        std::thread::sleep(POLL);
    }
}
