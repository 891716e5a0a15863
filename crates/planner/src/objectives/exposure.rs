//! How much would have been lost at the worst moment: from signed objects and when they arrived.
//!
//! Every object that a region holds says "everything committed up to `until` is here", from the moment
//! that it arrived. Between two arrivals what would be lost grows by the second, idle or not: that a
//! source was idle is itself a thing that an object (a beat) has to say. So the longest exposure is the
//! longest time from what was last known to be safe to the next arrival.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use tidemark_format::{Epoch, LogSeq, PointSeq};

use super::words;

/// Which object says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trace {
    /// A log object.
    Log(Epoch, LogSeq),
    /// A recovery point.
    Point(Epoch, PointSeq),
    /// An agent's beat, by its number.
    Beat(u64),
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(epoch, seq) => write!(f, "log:{epoch}:{seq}"),
            Self::Point(epoch, seq) => write!(f, "point:{epoch}/{seq}"),
            Self::Beat(number) => write!(f, "beat {number}"),
        }
    }
}

impl Serialize for Trace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An object that says up to when everything is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Witness {
    /// Since when it is in a region.
    pub arrived: Timestamp,
    /// Everything committed up to here can be restored with it.
    pub until: Timestamp,
    /// Which object.
    pub trace: Trace,
}

/// A time in which nothing newer than its beginning was safe anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Everything committed up to here was safe.
    pub from: Timestamp,
    /// When something newer arrived, or now.
    pub to: Timestamp,
    /// What said so at its beginning.
    pub after: Trace,
    /// What ended it; none if it lasts.
    pub before: Option<Trace>,
}

impl Gap {
    /// How much would have been lost at its end.
    #[must_use]
    pub fn length(&self) -> Duration {
        words::between(self.from, self.to)
    }
}

/// Every time in which what would be lost grew, oldest first, as far as it reaches past `since`. `to` is
/// now, or the end of a source that was retired.
#[must_use]
pub fn exposures(witnesses: &[Witness], since: Timestamp, to: Timestamp) -> Vec<Gap> {
    let mut sorted: Vec<&Witness> = witnesses.iter().filter(|one| one.arrived <= to).collect();
    sorted.sort_by_key(|one| (one.arrived, one.until));
    let mut gaps = Vec::new();
    let mut safe: Option<&Witness> = None;
    for witness in sorted {
        let Some(before) = safe else {
            safe = Some(witness);
            continue;
        };
        if witness.until <= before.until {
            continue;
        }
        if witness.arrived > since {
            gaps.push(Gap {
                from: before.until,
                to: witness.arrived,
                after: before.trace,
                before: Some(witness.trace),
            });
        }
        safe = Some(witness);
    }
    gaps.extend(safe.map(|last| Gap {
        from: last.until,
        to,
        after: last.trace,
        before: None,
    }));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn witness(arrived: i64, until: i64, number: u64) -> Witness {
        Witness {
            arrived: at(arrived),
            until: at(until),
            trace: Trace::Beat(number),
        }
    }

    #[test]
    fn exposure_grows_until_something_newer_arrives() {
        let all = [witness(10, 5, 1), witness(70, 65, 2), witness(130, 125, 3)];
        let gaps = exposures(&all, at(0), at(140));
        let told: Vec<(i64, i64)> = gaps
            .iter()
            .map(|gap| (gap.from.as_second(), gap.to.as_second()))
            .collect();
        assert_eq!(told, [(5, 70), (65, 130), (125, 140)]);
        assert_eq!(gaps[0].length(), Duration::from_secs(65));
        assert_eq!(gaps[2].before, None);
    }

    #[test]
    fn what_arrives_late_and_says_nothing_new_ends_nothing() {
        // Log that waited in the spool for an hour: it arrives with the times of when it was captured.
        let all = [
            witness(10, 5, 1),
            witness(3700, 60, 2),
            witness(3701, 3600, 3),
            witness(3702, 100, 4),
        ];
        let gaps = exposures(&all, at(0), at(3710));
        assert_eq!(
            gaps.iter().map(Gap::length).max(),
            Some(Duration::from_secs(3695))
        );
        assert_eq!(gaps.len(), 3);
    }

    #[test]
    fn only_what_reaches_past_the_beginning_counts() {
        let all = [witness(10, 5, 1), witness(70, 65, 2), witness(130, 125, 3)];
        assert_eq!(exposures(&all, at(100), at(140)).len(), 2);
        assert_eq!(exposures(&[], at(0), at(140)), []);
    }
}
