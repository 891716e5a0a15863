//! When a database that can't be captured is tried again: at growing intervals, and soon after
//! something about its file changed.
//!
//! Pure: [`Reopen`] is told what happened and when, and says what follows. **Bounds.** A database
//! that is gone for a year costs one try a minute, a look at its file every other second, and one
//! line in the log.

use std::time::Duration;

use tidemark_host::Monotonic;

/// The first wait; it doubles with every failure.
const FIRST: Duration = Duration::from_secs(2);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// How often it is looked, without opening, whether the file is another one meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A capture that lasted this long was a good one: its failure is the first of a new row.
const GOOD: Duration = Duration::from_secs(10);

/// A database that fails, and since when.
#[derive(Debug, Default)]
pub(super) struct Reopen {
    wait: Duration,
    opened_at: Option<Monotonic>,
    looked_at: Monotonic,
    /// What was said of the failure that lasts.
    said: Option<String>,
}

impl Reopen {
    /// It is captured.
    pub(super) fn opened(&mut self, now: Monotonic) {
        self.opened_at = Some(now);
        self.said = None;
    }

    /// It failed, and how long to wait. `at_once`: what is there now should open.
    pub(super) fn failed(&mut self, at_once: bool, now: Monotonic) -> Duration {
        let lasted = self.opened_at.take().map(|since| now.since(since));
        if lasted.is_some_and(|lasted| lasted >= GOOD) {
            self.wait = Duration::ZERO;
        }
        self.looked_at = now;
        if at_once && self.wait.is_zero() {
            // The next failure of this row waits, so that nothing turns in circles.
            self.wait = FIRST / 2;
            return Duration::ZERO;
        }
        self.wait = self.wait.saturating_mul(2).clamp(FIRST, LONGEST);
        self.wait
    }

    /// Something about the file changed: the row of failures is over.
    pub(super) const fn changed(&mut self) {
        self.wait = Duration::ZERO;
    }

    /// Whether this failure is news: another one than that which lasts.
    pub(super) fn is_news(&mut self, message: &str) -> bool {
        if self.said.as_deref() == Some(message) {
            return false;
        }
        self.said = Some(message.to_owned());
        true
    }

    /// When to look at the file next.
    pub(super) const fn look_at(&self) -> Monotonic {
        self.looked_at.after(LOOK_EVERY)
    }

    /// It is being looked at.
    pub(super) const fn looking(&mut self, now: Monotonic) {
        self.looked_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn waits_grow_from_two_seconds_to_a_minute() {
        let mut reopen = Reopen::default();
        let waits: Vec<u64> = (0..8)
            .map(|n| reopen.failed(false, at(n)).as_secs())
            .collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_file_that_changed_and_a_capture_that_lasted_begin_anew() {
        let mut reopen = Reopen::default();
        for second in 0..5 {
            reopen.failed(false, at(second));
        }
        reopen.changed();
        assert_eq!(reopen.failed(false, at(9)), FIRST);
        assert_eq!(reopen.failed(false, at(11)), FIRST * 2);
        reopen.opened(at(20));
        assert_eq!(
            reopen.failed(false, at(21)),
            FIRST * 4,
            "it lasted a second"
        );
        reopen.opened(at(30));
        assert_eq!(reopen.failed(false, at(50)), FIRST, "it lasted twenty");
    }

    #[test]
    fn a_replaced_database_is_opened_at_once_but_never_in_circles() {
        let mut reopen = Reopen::default();
        reopen.opened(at(0));
        assert_eq!(reopen.failed(true, at(1)), Duration::ZERO);
        assert_eq!(reopen.failed(true, at(1)), FIRST);
        assert_eq!(reopen.failed(true, at(3)), FIRST * 2);
    }

    #[test]
    fn the_same_failure_is_news_once() {
        let mut reopen = Reopen::default();
        assert!(reopen.is_news("gone"));
        assert!(!reopen.is_news("gone"));
        assert!(reopen.is_news("somebody else's"));
        assert!(!reopen.is_news("somebody else's"));
        reopen.opened(at(1));
        assert!(
            reopen.is_news("somebody else's"),
            "it had been captured meanwhile"
        );
    }
}
