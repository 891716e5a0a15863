//! When a canary is due, and what came of it.
//!
//! Canaries keep step with the clock that never goes back: a late one doesn't move those after it. A busy
//! database is tried again a moment later, so that one that is written without a pause gets them, too.

use std::time::Duration;

use tidemark_engine::canary::{Canary, CanaryOutcome};
use tidemark_host::{Monotonic, RngExt as _};

use super::{Event, Slot};

/// How soon a busy database is tried again.
const BUSY_AGAIN: Duration = Duration::from_millis(50);
/// Bytes of a nonce.
const NONCE_BYTES: usize = 8;

/// What a slot needs to know to have canaries written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canaries {
    /// How often.
    pub every: Duration,
    /// The number of the last one.
    pub after: u64,
}

/// The canaries of a slot.
#[derive(Debug)]
pub(super) struct CanaryTurn {
    wanted: Canaries,
    /// When the next one is due.
    due: Monotonic,
    /// Then it is tried; later than due while the database is busy.
    next: Monotonic,
    /// One was asked for, and nobody knows yet what came of it.
    is_asked: bool,
}

impl CanaryTurn {
    pub(super) const fn new(wanted: Canaries, now: Monotonic) -> Self {
        Self {
            wanted,
            due: now,
            next: now,
            is_asked: false,
        }
    }

    /// The next one, `every` after the one that was due.
    fn step(&mut self, now: Monotonic) {
        let step = self.due.after(self.wanted.every);
        // After a long pause those that were missed are not made up for.
        self.due = if step > now {
            step
        } else {
            now.after(self.wanted.every)
        };
        self.next = self.due;
    }

    /// Notes what came of one; whether the driver is to hear it.
    fn came(&mut self, outcome: &CanaryOutcome, now: Monotonic) -> bool {
        self.is_asked = false;
        if *outcome != CanaryOutcome::Busy {
            if let CanaryOutcome::Written { seq, .. } = outcome {
                self.wanted.after = self.wanted.after.max(*seq);
            }
            self.step(now);
            return true;
        }
        self.next = now.after(BUSY_AGAIN);
        // Only one that misses its turn is worth a word.
        let late = now.since(self.due) >= self.wanted.every;
        if late {
            self.due = self.due.after(self.wanted.every);
        }
        late
    }

    /// The capture ended: nobody will tell what came of the one asked for.
    pub(super) const fn forget(&mut self) {
        self.is_asked = false;
    }

    /// How long until one is tried; none while one is on its way.
    pub(super) fn wait(&self, now: Monotonic) -> Option<Duration> {
        (!self.is_asked).then(|| self.next.since(now))
    }
}

impl Slot {
    /// Asks for a canary if one is due, and hears what came of the last.
    pub(super) fn canary(&mut self, now: Monotonic) {
        if self.is_stuck() || self.closing || self.retiring {
            return;
        }
        let (Some(turn), Some(capture)) = (&mut self.canaries, &mut self.capture) else {
            return;
        };
        if turn.wait(now).is_some_and(|wait| wait.is_zero()) {
            turn.is_asked = true;
            let nonce: [u8; NONCE_BYTES] = self.parts.rng.bytes();
            let canary = Canary {
                seq: turn.wanted.after.saturating_add(1),
                at: self.parts.clock.now(),
                nonce: nonce.iter().map(|byte| format!("{byte:02x}")).collect(),
            };
            capture.canary(&canary);
        }
        let Some(outcome) = capture.canary_outcome() else {
            return;
        };
        if turn.came(&outcome, now) {
            self.send(Event::Canary(outcome));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_origin(Duration::from_secs(seconds))
    }

    fn turn() -> CanaryTurn {
        let wanted = Canaries {
            every: EVERY,
            after: 6,
        };
        CanaryTurn::new(wanted, at(100))
    }

    fn written(seq: u64) -> CanaryOutcome {
        let at = jiff::Timestamp::UNIX_EPOCH;
        CanaryOutcome::Written { seq, at }
    }

    #[test]
    fn a_late_canary_does_not_move_those_after_it() {
        let mut turn = turn();
        assert_eq!(turn.wait(at(100)), Some(Duration::ZERO));
        assert!(turn.came(&written(7), at(104)));
        assert_eq!(turn.wait(at(104)), Some(Duration::from_secs(26)));
        assert_eq!(turn.wanted.after, 7);
        // Those missed in a long sleep are not made up for.
        assert!(turn.came(&written(8), at(1000)));
        assert_eq!(turn.wait(at(1000)), Some(EVERY));
    }

    #[test]
    fn a_busy_database_is_tried_again_and_told_once_it_missed_its_turn() {
        let mut turn = turn();
        assert!(!turn.came(&CanaryOutcome::Busy, at(100)));
        assert_eq!(turn.wait(at(100)), Some(BUSY_AGAIN));
        assert!(turn.came(&CanaryOutcome::Busy, at(130)));
        assert!(!turn.came(&CanaryOutcome::Busy, at(131)));
        assert!(turn.came(&written(7), at(132)));
        assert_eq!(turn.wait(at(132)), Some(Duration::from_secs(28)));
        assert!(!turn.came(&CanaryOutcome::Busy, at(161)));
    }

    #[test]
    fn while_one_is_on_its_way_no_other_is_asked_for() {
        let mut turn = turn();
        turn.is_asked = true;
        assert_eq!(turn.wait(at(500)), None);
    }
}
