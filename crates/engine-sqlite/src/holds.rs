//! How long others waited for us, and how long the next locked phase of a hand-off will take.
//!
//! Two things of ours can hold up a commit: the write lock during a hand-off's locked phase, and a
//! mark that a blocking checkpoint of the application (FULL, RESTART, TRUNCATE) waits for with the
//! write lock in its hands. The first is foreseen: its cost is that of a checkpoint of as many
//! frames, two fsyncs among it, and the unlocked phase has just run one on the same disk.

use std::time::Duration;

use tidemark_host::Monotonic;

use crate::shm::WalIndex;

/// The locked phase begins only if it is expected to end within this.
pub(crate) const LOCKED_MAX: Duration = Duration::from_millis(25);

/// What was measured of one capture.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    /// The longest time that the write lock was ours.
    pub(crate) write_lock: Duration,
    /// The longest time that a blocking checkpoint waited for our mark, at most: from the last look
    /// that found none.
    pub(crate) mark: Duration,
    nobody_waited: Monotonic,
    somebody_waits: bool,
    /// When a blocking checkpoint was seen last.
    waited: Option<Monotonic>,
    round: Option<(u32, Duration)>,
}

impl Holds {
    /// Nobody waits at `now`.
    pub(crate) fn begin(now: Monotonic) -> Self {
        Self {
            nobody_waited: now,
            ..Self::default()
        }
    }

    /// Looked for a blocking checkpoint.
    pub(crate) const fn looked(&mut self, now: Monotonic, waits: bool) {
        self.somebody_waits = waits;
        if waits {
            self.waited = Some(now);
        } else {
            self.nobody_waited = now;
        }
    }

    /// Whether a blocking checkpoint was seen within the last `time`.
    pub(crate) fn waited_within(&self, now: Monotonic, time: Duration) -> bool {
        self.waited.is_some_and(|at| now.since(at) < time)
    }

    /// The mark has moved on: what waited for it goes on.
    pub(crate) fn mark_moved(&mut self, now: Monotonic) {
        if self.somebody_waits {
            self.mark = self.mark.max(now.since(self.nobody_waited));
            // Whoever waits from here on waits for something else, or for the next move.
            self.nobody_waited = now;
        }
    }

    /// The write lock was ours for `time`.
    pub(crate) fn write_locked(&mut self, time: Duration) {
        self.write_lock = self.write_lock.max(time);
    }

    /// A checkpoint without the lock put `frames` frames into the file.
    pub(crate) const fn checkpointed(&mut self, frames: u32, took: Duration) {
        if frames > 0 {
            self.round = Some((frames, took));
        }
    }

    /// How long a checkpoint of `frames` takes; `None` if none was measured.
    pub(crate) fn expected(&self, frames: u32) -> Option<Duration> {
        let (measured, took) = self.round?;
        // Fewer frames cost no less: two fsyncs are most of it.
        Some(took.saturating_mul(frames.div_ceil(measured).max(1)))
    }

    /// Measure again: what is known comes from a moment that may be over.
    pub(crate) const fn forget(&mut self) {
        self.round = None;
    }
}

/// How much the locked phase of a hand-off may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LockedBound {
    pub(crate) pressure: u32,
    pub(crate) frames: u32,
    pub(crate) time: Option<Duration>,
}

impl LockedBound {
    /// Whether what is left of the log may be put into the file while others wait.
    pub(crate) fn allows(&self, index: &WalIndex, holds: &Holds) -> bool {
        let tail = index.frames - index.backfilled;
        let expected = holds.expected(tail).unwrap_or_default();
        tail <= self.frames && self.time.is_none_or(|most| expected <= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::default().after(Duration::from_millis(ms))
    }

    #[test]
    fn a_locked_phase_is_expected_to_cost_what_the_last_checkpoint_did() {
        let mut holds = Holds::begin(at(0));
        assert_eq!(holds.expected(10), None);
        holds.checkpointed(100, Duration::from_millis(8));
        holds.checkpointed(0, Duration::ZERO);
        assert_eq!(holds.expected(0), Some(Duration::from_millis(8)));
        assert_eq!(holds.expected(100), Some(Duration::from_millis(8)));
        assert_eq!(holds.expected(101), Some(Duration::from_millis(16)));
        holds.forget();
        assert_eq!(holds.expected(1), None);
    }

    #[test]
    fn a_wait_is_counted_from_the_last_look_that_found_nobody() {
        let mut holds = Holds::begin(at(0));
        holds.looked(at(5), false);
        holds.mark_moved(at(7));
        assert_eq!(holds.mark, Duration::ZERO);
        holds.looked(at(10), true);
        holds.looked(at(15), true);
        holds.mark_moved(at(18));
        assert_eq!(holds.mark, Duration::from_millis(13));
        holds.looked(at(20), true);
        holds.mark_moved(at(21));
        assert_eq!(holds.mark, Duration::from_millis(13));
    }
}
