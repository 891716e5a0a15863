//! Whether the wall clock shows an earlier time than it did: it informs people and decides nothing.
//!
//! Pure: [`ClockWatch`] is told what the clocks show and says what changed. Wall and monotonic clock
//! run at one rate (both are slewed alike), so their difference changes by steps alone.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tidemark_host::{Monotonic, duration};

/// A step of less is a time service at work.
const STEP_MIN: SignedDuration = SignedDuration::from_secs(3);

/// What the clock did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It shows an earlier time than before, by so much.
    SteppedBack {
        /// How far it is behind what it, or a recovery point, had shown.
        by: Duration,
        /// What it had shown: from here on all is as it was.
        until: Timestamp,
    },
    /// It has passed what it had shown before.
    CaughtUp,
}

/// What the wall clock has shown.
#[derive(Debug)]
pub(super) struct ClockWatch {
    last: (Timestamp, Monotonic),
    /// The latest time that was shown, while the clock is behind it.
    behind: Option<Timestamp>,
}

impl ClockWatch {
    /// A watch that begins now.
    pub(super) const fn new(wall: Timestamp, now: Monotonic) -> Self {
        Self {
            last: (wall, now),
            behind: None,
        }
    }

    /// The clocks show this, and the newest recovery point `written`. What changed, if anything.
    pub(super) fn look(
        &mut self,
        wall: Timestamp,
        now: Monotonic,
        written: Option<Timestamp>,
    ) -> Option<Change> {
        let (last_wall, last) = std::mem::replace(&mut self.last, (wall, now));
        let passed = SignedDuration::try_from(now.since(last)).unwrap_or(SignedDuration::MAX);
        let expected = last_wall.checked_add(passed).unwrap_or(Timestamp::MAX);
        // The first look of a process whose machine came back with an old time knows it from these.
        let shown = written.map_or(expected, |written| written.max(expected));
        if let Some(until) = self.behind {
            let again = expected.duration_since(wall) >= STEP_MIN;
            let until = if again { until.max(expected) } else { until };
            if wall < until {
                self.behind = Some(until);
                return again.then(|| stepped_back(wall, until));
            }
            self.behind = None;
            return Some(Change::CaughtUp);
        }
        if shown.duration_since(wall) < STEP_MIN {
            return None;
        }
        self.behind = Some(shown);
        Some(stepped_back(wall, shown))
    }
}

fn stepped_back(wall: Timestamp, until: Timestamp) -> Change {
    let by = Duration::try_from(until.duration_since(wall)).unwrap_or_default();
    Change::SteppedBack { by, until }
}

/// What people are told.
pub(super) fn text(by: Duration, until: Timestamp) -> String {
    let by = duration::render(Duration::from_secs(by.as_secs()));
    format!(
        "the wall clock went back by {by}. Everything is captured, shipped and sealed as before; until the clock \
         passes {until:.0}, times of commits and recovery points stand still at the last one, so restore to a \
         position, not to a time, in that span. Check the time service (timedatectl)"
    )
}

#[cfg(test)]
mod tests {
    use tidemark_host::{Clock as _, SimClock};

    use super::*;

    struct World {
        clock: SimClock,
        watch: ClockWatch,
    }

    impl World {
        fn new() -> Self {
            let clock = SimClock::at("2026-05-01T12:00:00Z".parse().unwrap());
            let watch = ClockWatch::new(clock.now(), clock.monotonic());
            Self { clock, watch }
        }

        fn look(&mut self) -> Option<Change> {
            self.watch
                .look(self.clock.now(), self.clock.monotonic(), None)
        }

        fn pass(&mut self, seconds: u64) -> Option<Change> {
            self.clock.advance(Duration::from_secs(seconds));
            self.look()
        }

        fn step(&mut self, seconds: i64) -> Option<Change> {
            self.clock.step_wall(SignedDuration::from_secs(seconds));
            self.look()
        }
    }

    fn back(change: Option<Change>) -> u64 {
        match change {
            Some(Change::SteppedBack { by, .. }) => by.as_secs(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_step_back_is_told_once_and_again_when_time_has_caught_up() {
        let mut world = World::new();
        assert_eq!(world.pass(100), None);
        assert_eq!(back(world.step(-60)), 60);
        for _ in 0..59 {
            assert_eq!(world.pass(1), None);
        }
        assert_eq!(world.pass(1), Some(Change::CaughtUp));
        assert_eq!(world.pass(1000), None);
    }

    #[test]
    fn a_clock_that_is_set_right_again_has_caught_up() {
        let mut world = World::new();
        assert_eq!(back(world.step(-86_400)), 86_400);
        assert_eq!(world.pass(10), None);
        assert_eq!(world.step(86_400), Some(Change::CaughtUp));
    }

    #[test]
    fn a_second_step_back_is_told_with_the_whole_distance() {
        let mut world = World::new();
        assert_eq!(back(world.step(-60)), 60);
        assert_eq!(world.pass(10), None);
        assert_eq!(back(world.step(-3600)), 3650, "behind what it showed first");
        assert_eq!(world.pass(3649), None);
        assert_eq!(world.pass(1), Some(Change::CaughtUp));
    }

    #[test]
    fn steps_forward_sleep_and_a_time_service_at_work_are_no_news() {
        let mut world = World::new();
        assert_eq!(world.step(3600), None);
        assert_eq!(world.step(-2), None);
        assert_eq!(world.pass(100_000), None);
    }

    #[test]
    fn a_machine_that_comes_back_with_an_old_time_is_known_by_its_points() {
        let mut world = World::new();
        let clock = world.clock.clone();
        let written = clock.now() + SignedDuration::from_hours(1);
        let look =
            |watch: &mut ClockWatch| watch.look(clock.now(), clock.monotonic(), Some(written));
        assert_eq!(back(look(&mut world.watch)), 3600);
        assert_eq!(look(&mut world.watch), None);
        clock.advance(Duration::from_secs(3600));
        assert_eq!(look(&mut world.watch), Some(Change::CaughtUp));
        assert_eq!(look(&mut world.watch), None);
    }
}
