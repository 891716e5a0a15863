//! How long a drill took, phase by phase, and how long a restore would take.
//!
//! **RTO** runs from the declaration to the last check of the restored database. What comes after (reading
//! the other regions' copies, destroying the scratch, writing the record) delays nobody's recovery and is
//! listed as not counted.
//!
//! **Invariant:** the counted phases follow each other without a gap, for a phase ends when the next one
//! begins: their sum is the total.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// How long it took, by a clock that doesn't step.
    pub took_ms: u64,
    /// Whether it belongs to the RTO.
    pub counted: bool,
    /// Bytes that it moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Objects that it moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// Bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u64>,
}

/// Writes phases down as they follow each other.
#[derive(Debug, Clone)]
pub struct Timing {
    declared_at: Timestamp,
    phases: Vec<Phase>,
    /// Since the declaration, at the end of the last phase.
    elapsed: Duration,
    /// At the last check passed.
    counted: Option<Duration>,
}

impl Timing {
    /// The clock starts.
    #[must_use]
    pub const fn declared(at: Timestamp) -> Self {
        Self {
            declared_at: at,
            phases: Vec::new(),
            elapsed: Duration::ZERO,
            counted: None,
        }
    }

    /// When it started.
    #[must_use]
    pub const fn declared_at(&self) -> Timestamp {
        self.declared_at
    }

    /// A phase ended, so long after the declaration.
    pub fn ended(&mut self, name: &str, elapsed: Duration) {
        self.moved(name, elapsed, None, None);
    }

    /// A phase ended that moved bytes and objects.
    pub fn moved(
        &mut self,
        name: &str,
        elapsed: Duration,
        bytes: Option<u64>,
        objects: Option<u64>,
    ) {
        let elapsed = elapsed.max(self.elapsed);
        let took_ms = milliseconds(elapsed).saturating_sub(milliseconds(self.elapsed));
        let throughput = bytes.and_then(|bytes| {
            let rate = u128::from(bytes) * 1000 / u128::from(took_ms.max(1));
            u64::try_from(rate).ok()
        });
        self.phases.push(Phase {
            name: name.to_owned(),
            start: self.at(self.elapsed),
            end: self.at(elapsed),
            took_ms,
            counted: self.counted.is_none(),
            bytes,
            objects,
            throughput,
        });
        self.elapsed = elapsed;
    }

    /// What took `took` of the time that has passed since the last phase's end, such as a step of another
    /// process that told how long it took. No more than has passed.
    pub fn within(&mut self, name: &str, took: Duration, elapsed: Duration) {
        let end = self.elapsed.saturating_add(took).min(elapsed);
        self.ended(name, end);
    }

    /// The last check was made: what comes now is not counted.
    pub fn checked(&mut self) {
        self.counted.get_or_insert(self.elapsed);
    }

    /// All phases.
    #[must_use]
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// From the declaration to the last check; none before that was made.
    #[must_use]
    pub fn rto(&self) -> Option<Duration> {
        self.counted
    }

    /// What the phases of these names took.
    #[must_use]
    pub fn of(&self, names: &[&str]) -> Duration {
        let all = self.phases.iter();
        let own = all.filter(|phase| names.contains(&phase.name.as_str()));
        Duration::from_millis(own.map(|phase| phase.took_ms).sum())
    }

    fn at(&self, elapsed: Duration) -> Timestamp {
        let after = SignedDuration::try_from(elapsed).unwrap_or(SignedDuration::MAX);
        let at = self.declared_at.checked_add(after);
        at.unwrap_or(Timestamp::MAX)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How much work a restore is, and how much time of each kind it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Bytes of bases to fetch.
    pub base_bytes: u64,
    /// Bytes of log to fetch.
    pub log_bytes: u64,
    /// Bytes of log to replay.
    pub replay_bytes: u64,
    /// Bytes of the database.
    pub image_bytes: u64,
}

/// What a drill measured, by what each kind of time grows with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// What doesn't grow: looking, deciding, starting.
    pub fixed: Duration,
    /// With the bases' bytes.
    pub bases: Duration,
    /// With the log's bytes as they are stored.
    pub log: Duration,
    /// With the log's bytes as they are replayed.
    pub replay: Duration,
    /// With the database's size: proofs and checks that read all of it.
    pub image: Duration,
}

/// Less of a kind of work than this tells nothing of its rate.
const TELLING_BYTES: u64 = 64 << 10;

/// The time that `work` takes, at the rates of a drill that did `done` in `spent`.
#[must_use]
pub fn project(spent: &Spent, done: &Work, work: &Work) -> Duration {
    let scaled = |time: Duration, done: u64, work: u64| {
        if done < TELLING_BYTES {
            return time;
        }
        let nanoseconds = time.as_nanos().saturating_mul(u128::from(work)) / u128::from(done);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    };
    spent
        .fixed
        .saturating_add(scaled(spent.bases, done.base_bytes, work.base_bytes))
        .saturating_add(scaled(spent.log, done.log_bytes, work.log_bytes))
        .saturating_add(scaled(spent.replay, done.replay_bytes, work.replay_bytes))
        .saturating_add(scaled(spent.image, done.image_bytes, work.image_bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn what_comes_after_the_last_check_is_listed_and_not_counted() {
        let mut timing = Timing::declared(start());
        timing.ended("look", SECOND);
        assert_eq!(timing.rto(), None);
        timing.moved("bases", SECOND * 5, Some(4 << 20), Some(3));
        timing.checked();
        timing.ended("regions", SECOND * 9);
        assert_eq!(timing.rto(), Some(SECOND * 5));
        let counted: Vec<_> = timing.phases().iter().map(|phase| phase.counted).collect();
        assert_eq!(counted, [true, true, false]);
        assert_eq!(timing.phases()[1].throughput, Some(1 << 20));
        assert_eq!(timing.phases()[2].end.to_string(), "2026-11-22T12:00:09Z");
        assert_eq!(timing.of(&["look", "regions"]), SECOND * 5);
    }

    #[test]
    fn a_step_of_another_process_takes_no_more_than_has_passed() {
        let mut timing = Timing::declared(start());
        timing.ended("look", SECOND);
        timing.within("replay", SECOND * 2, SECOND * 10);
        timing.within("checks", SECOND * 60, SECOND * 10);
        assert_eq!(timing.of(&["replay"]), SECOND * 2);
        assert_eq!(timing.of(&["checks"]), SECOND * 7);
    }

    #[test]
    fn three_times_the_work_takes_three_times_what_grows() {
        let spent = Spent {
            fixed: SECOND,
            bases: SECOND * 4,
            log: SECOND,
            replay: SECOND,
            image: SECOND * 3,
        };
        let done = Work {
            base_bytes: 100 << 20,
            log_bytes: 10 << 20,
            replay_bytes: 40 << 20,
            image_bytes: 200 << 20,
        };
        let three = Work {
            base_bytes: 300 << 20,
            log_bytes: 30 << 20,
            replay_bytes: 120 << 20,
            image_bytes: 600 << 20,
        };
        assert_eq!(project(&spent, &done, &done), SECOND * 10);
        assert_eq!(project(&spent, &done, &three), SECOND * 28);
        let longer = Work {
            log_bytes: 50 << 20,
            replay_bytes: 400 << 20,
            ..done
        };
        assert_eq!(project(&spent, &done, &longer), SECOND * 23);
    }

    #[test]
    fn next_to_no_work_tells_no_rate() {
        let spent = Spent {
            log: SECOND,
            ..Spent::default()
        };
        let done = Work {
            log_bytes: 100,
            ..Work::default()
        };
        let work = Work {
            log_bytes: 1 << 40,
            ..Work::default()
        };
        assert_eq!(project(&spent, &done, &work), SECOND);
    }

    proptest! {
        #[test]
        fn counted_phases_sum_to_the_total(steps in proptest::collection::vec(0_u64..100_000_000, 1..30)) {
            let mut timing = Timing::declared(start());
            let mut elapsed = Duration::ZERO;
            for (number, step) in steps.iter().enumerate() {
                elapsed += Duration::from_micros(*step);
                timing.ended(&number.to_string(), elapsed);
            }
            timing.checked();
            timing.ended("after", elapsed + SECOND);
            let sum: u64 = timing.phases().iter().filter(|phase| phase.counted).map(|phase| phase.took_ms).sum();
            prop_assert_eq!(Some(sum), timing.rto().map(milliseconds));
            for pair in timing.phases().windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
            }
        }
    }
}
