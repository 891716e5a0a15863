//! What the log holds past the last state that can be restored: signed, and of no use without what is
//! missing here; or damaged, and nobody knows whose. Nobody may take the end before it for the end of
//! everything.

use std::fmt;

use jiff::Timestamp;
use tidemark_format::{Epoch, LogSeq};

use super::Why;
use super::facts::{Facts, LogFact, LogState};
use super::timeline::Timeline;

/// Log past the end that a restore reaches, which can't be restored from what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beyond {
    /// The first of it: a gap, or an object behind a hole.
    pub first: (Epoch, LogSeq),
    /// The last of it.
    pub last: (Epoch, LogSeq),
    /// How many objects of it carry data; none if only a gap stands there, or what is damaged.
    pub objects: u64,
    /// How many can't be believed: they may be the source's own, damaged, or anybody's.
    pub damaged: u64,
    /// The earliest instant that its heads tell.
    pub from: Option<Timestamp>,
    /// The latest.
    pub to: Option<Timestamp>,
    /// Why it can't be restored.
    pub why: Why,
}

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((epoch, first), (last_epoch, last)) = (self.first, self.last);
        write!(f, "log:{epoch}:{first}")?;
        if self.first != self.last {
            write!(f, " to log:{last_epoch}:{last}")?;
        }
        Ok(())
    }
}

/// What stands past `end`, the last state that can be restored; none if the log ends there. The pieces
/// of a change that never ended commit nothing and are not counted.
#[must_use]
pub fn beyond(facts: &Facts, end: (Epoch, LogSeq)) -> Option<Beyond> {
    let (epoch, seq) = end;
    let reached = facts.epochs.iter().find(|one| one.epoch == epoch)?;
    let timeline = Timeline::new(reached);
    let run_end = timeline.run_of(seq).map_or(seq, |run| run.last);
    let same = reached.log.iter().filter(|entry| entry.seq > run_end);
    let same = same.map(|entry| (epoch, entry));
    let later = facts.epochs.iter().filter(|one| one.epoch > epoch);
    let later = later.flat_map(|one| one.log.iter().map(move |entry| (one.epoch, entry)));
    let there: Vec<(Epoch, &LogFact)> = same
        .chain(later)
        .filter(|(_, entry)| stands(&entry.state))
        .collect();
    let (first, last) = (there.first()?, there.last()?);
    let times = || there.iter().filter_map(|(_, entry)| times(&entry.state));
    let count = |wanted: fn(&LogState) -> bool| {
        let found = there.iter().filter(|(_, entry)| wanted(&entry.state));
        u64::try_from(found.count()).unwrap_or(u64::MAX)
    };
    let why = if first.0 == epoch {
        timeline.hole(run_end.next())
    } else {
        Why::NoBase { epoch: first.0 }
    };
    Some(Beyond {
        first: (first.0, first.1.seq),
        last: (last.0, last.1.seq),
        objects: count(carries),
        damaged: count(|state| matches!(state, LogState::Damaged(_))),
        from: times().map(|(from, _)| from).min(),
        to: times().map(|(_, to)| to).max(),
        why,
    })
}

/// Whether anything stands there.
const fn stands(state: &LogState) -> bool {
    match state {
        LogState::Object(_)
        | LogState::Closed(_)
        | LogState::Gap(_)
        | LogState::Damaged(_)
        | LogState::Unread => true,
        LogState::Missing => false,
    }
}

/// Whether it is a log object with data.
const fn carries(state: &LogState) -> bool {
    match state {
        LogState::Object(_) | LogState::Closed(_) | LogState::Unread => true,
        LogState::Gap(_) | LogState::Missing | LogState::Damaged(_) => false,
    }
}

/// The first and the last instant that an object tells.
fn times(state: &LogState) -> Option<(Timestamp, Timestamp)> {
    match state {
        LogState::Object(object) | LogState::Closed(object) => {
            let last = object.last_commit.unwrap_or(object.captured_at);
            Some((object.first_commit.unwrap_or(last), last))
        }
        LogState::Gap(_) | LogState::Missing | LogState::Damaged(_) | LogState::Unread => None,
    }
}
