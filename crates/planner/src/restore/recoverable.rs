//! What of a source can be restored, judged once for everybody who shows it: windows, the holes between
//! them, how far the last one reaches.
//!
//! A source lives several lives (a slot was lost, another database stands in its place) and is written by
//! several writers, one after another. Replay crosses neither, so the instants between the end of one
//! window and the beginning of the next can't be restored, however good everything else is.

use jiff::{SignedDuration, Timestamp};
use tidemark_format::{Epoch, LogSeq};

use super::beyond::{Beyond, beyond};
use super::facts::Facts;
use super::timeline::{Reach, RecoverableWindow, Timeline, windows};
use super::{LogState, Why};

/// For so long a hole is news: somebody may not have heard of it yet.
pub const HOLE_IS_NEWS: SignedDuration = SignedDuration::from_hours(24);

/// What of a source can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recoverable {
    /// Every instant in one of these can be restored, oldest first.
    pub windows: Vec<RecoverableWindow>,
    /// Between them, oldest first: no instant in one of these can.
    pub holes: Vec<Hole>,
    /// What is later than the last window and can't be restored from what was read.
    pub beyond: Option<Beyond>,
}

/// Instants between two windows, which can't be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// The last state before it.
    pub after: Reach,
    /// Up to here nothing else was committed: the first instant that is in the hole comes right after.
    pub from: Timestamp,
    /// The first state after it.
    pub before: Reach,
    /// Why.
    pub why: HoleWhy,
}

/// Why instants can't be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoleWhy {
    /// Log was given up, or lost in the store, or could not be read.
    #[error("log:{epoch}:{seq} {what}")]
    Log {
        /// The epoch.
        epoch: Epoch,
        /// The first place that can't be replayed.
        seq: LogSeq,
        /// What is wrong with it.
        what: String,
    },
    /// The log does not go on where it ended: another database, another copy of it, or its log was gone.
    #[error(
        "log:{epoch}:{seq} begins another life of the database: its log did not go on where it had been captured"
    )]
    OtherLife {
        /// The epoch.
        epoch: Epoch,
        /// The first place of the new life.
        seq: LogSeq,
    },
    /// Another writer took over and began with a base of its own.
    #[error("epoch {epoch} took over there and began with a base of its own")]
    TakeOver {
        /// The epoch that began.
        epoch: Epoch,
    },
}

impl Hole {
    /// Where it ends.
    #[must_use]
    pub const fn to(&self) -> Timestamp {
        self.before.at
    }

    /// Whether somebody may not have heard of it yet. A take-over is a person's deed and no news.
    #[must_use]
    pub fn is_news(&self, now: Timestamp) -> bool {
        let took_over = matches!(self.why, HoleWhy::TakeOver { .. });
        !took_over && now.duration_since(self.to()) < HOLE_IS_NEWS
    }
}

impl Recoverable {
    /// Everything committed up to here comes back.
    #[must_use]
    pub fn through(&self) -> Option<Timestamp> {
        self.windows.last().map(|window| window.until)
    }

    /// The earliest instant that can be restored. Not every later one can: see the holes.
    #[must_use]
    pub fn earliest(&self) -> Option<Timestamp> {
        self.windows.first().map(|window| window.from.at)
    }

    /// The holes that somebody may not have heard of yet.
    pub fn news(&self, now: Timestamp) -> impl Iterator<Item = &Hole> {
        self.holes.iter().filter(move |hole| hole.is_news(now))
    }
}

/// Judges a history.
#[must_use]
pub fn recoverable(facts: &Facts) -> Recoverable {
    let windows = windows(facts);
    let pairs = windows.iter().zip(windows.iter().skip(1));
    let holes = pairs.filter_map(|(before, after)| hole(facts, before, after));
    let holes = holes.collect();
    let end = windows
        .last()
        .map(|window| (window.to.epoch, window.to.seq));
    let beyond = end.and_then(|end| beyond(facts, end));
    Recoverable {
        windows,
        holes,
        beyond,
    }
}

/// What lies between two windows; nothing if the first proves that nothing was committed up to the second.
fn hole(facts: &Facts, before: &RecoverableWindow, after: &RecoverableWindow) -> Option<Hole> {
    (before.until < after.from.at).then(|| Hole {
        after: before.to.clone(),
        from: before.until,
        before: after.from.clone(),
        why: why(facts, before, after),
    })
}

fn why(facts: &Facts, before: &RecoverableWindow, after: &RecoverableWindow) -> HoleWhy {
    let epoch = before.to.epoch;
    let took_over = HoleWhy::TakeOver {
        epoch: after.from.epoch,
    };
    let Some(own) = facts.epochs.iter().find(|one| one.epoch == epoch) else {
        return took_over;
    };
    let timeline = Timeline::new(own);
    let end = timeline
        .run_of(before.to.seq)
        .map_or(before.to.seq, |run| run.last);
    let last = own.log.last().map(|entry| entry.seq);
    if epoch != after.from.epoch && last.is_none_or(|last| last <= end) {
        return took_over;
    }
    let seq = end.next();
    if let Some(LogState::Object(_)) = timeline.state(seq) {
        return HoleWhy::OtherLife { epoch, seq };
    }
    match timeline.hole(seq) {
        Why::Hole { epoch, seq, what } => HoleWhy::Log { epoch, seq, what },
        other => HoleWhy::Log {
            epoch,
            seq,
            what: other.to_string(),
        },
    }
}
