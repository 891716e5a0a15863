//! Why a restore is refused, and what can be restored instead.

use std::fmt;

use jiff::Timestamp;
use tidemark_format::{Epoch, LogSeq};

use super::Target;
use super::facts::Facts;
use super::timeline::{Reach, Timeline, windows};

/// Why a target can't be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Nothing at all can.
    #[error("no base is complete yet, so nothing can be restored")]
    NothingYet,
    /// Before everything.
    #[error("it is before the earliest instant that can be restored")]
    TooEarly,
    /// Past what can be proved.
    #[error(
        "the log read here ends before it, and nothing proves that nothing was committed since"
    )]
    TooLate,
    /// A hole between the base and the end, or right behind the end.
    #[error("log:{epoch}:{seq} {what}, so what was committed there is not known")]
    Hole {
        /// The epoch.
        epoch: Epoch,
        /// The place.
        seq: LogSeq,
        /// What is wrong with it.
        what: String,
    },
    /// The log is there but no base before it.
    #[error("no usable base stands before it in epoch {epoch}")]
    NoBase {
        /// The epoch.
        epoch: Epoch,
    },
    /// It is there, and the reader's identity doesn't open it.
    #[error(
        "what it needs was sealed to other identities than the one given (log:{epoch}:{seq} would be its end)"
    )]
    Closed {
        /// The epoch.
        epoch: Epoch,
        /// Where a restore with another identity would end.
        seq: LogSeq,
    },
    /// Not a restore position.
    #[error("a change spans several log objects there: only its last one is a restore position")]
    NotAPosition,
    /// Only an earlier life of the database has it.
    #[error(
        "no window of the newest life of this database has it, one of an earlier life has{}: {}",
        window(from.as_ref(), to.as_ref()),
        "positions and transaction ids of one life mean nothing in another, so name an instant or a log: position in that window"
    )]
    OtherLife {
        /// The first state of the window that has it.
        from: Option<Reach>,
        /// The last.
        to: Option<Reach>,
    },
    /// No such position or point.
    #[error("there is no such {0} here")]
    Unknown(&'static str),
}

/// Where the window is.
fn window(from: Option<&Reach>, to: Option<&Reach>) -> String {
    match (from, to) {
        (Some(from), Some(to)) => format!(" (its window goes from {from} to {to})"),
        _ => String::new(),
    }
}

/// The target can't be restored from what was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct NotRecoverable {
    /// What was asked for.
    pub target: Target,
    /// Why not.
    #[source]
    pub why: Why,
    /// The nearest position at or before it that can.
    pub before: Option<Reach>,
    /// The nearest after it that can.
    pub after: Option<Reach>,
    /// The earliest of all.
    pub earliest: Option<Reach>,
    /// The latest of all.
    pub latest: Option<Reach>,
    /// Up to here it is proved that nothing else was committed after the latest.
    pub covers_until: Option<Timestamp>,
}

impl fmt::Display for NotRecoverable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't restore to {}: {}", self.target, self.why)?;
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => {
                write!(
                    f,
                    "; the nearest instants that can be restored are {before} and {after}{}",
                    by(before)
                )
            }
            (Some(before), None) => {
                write!(
                    f,
                    "; the latest instant that can be restored is {before}{}",
                    by(before)
                )
            }
            (None, Some(after)) => {
                write!(
                    f,
                    "; the earliest instant that can be restored is {after}{}",
                    by(after)
                )
            }
            (None, None) => Ok(()),
        }?;
        let idle = self.covers_until.zip(self.latest.as_ref());
        let idle = idle.filter(|(until, latest)| *until > latest.at && self.why == Why::TooLate);
        match idle {
            Some((until, _)) => write!(
                f,
                "; nothing else was committed up to {until}, which can be named, too"
            ),
            None => Ok(()),
        }
    }
}

/// How to ask for it.
fn by(reach: &Reach) -> String {
    format!(": --to log:{}:{}", reach.epoch, reach.seq)
}

/// The refusal of `target`, with the nearest that can be restored.
pub(super) fn refusal(
    facts: &Facts,
    timelines: &[Timeline<'_>],
    target: &Target,
    why: Why,
) -> NotRecoverable {
    let all = windows(facts);
    let asked = match &why {
        Why::Closed { epoch, seq } => instant_of(timelines, *epoch, *seq),
        _ => asked_instant(timelines, target),
    };
    let ends = || all.iter().flat_map(|window| [&window.from, &window.to]);
    // What lies before everything has nothing before it, whatever it is called by.
    let first = why == Why::TooEarly;
    let is_before = |reach: &&Reach| !first && asked.is_none_or(|asked| reach.at <= asked);
    // What only another life has is near nothing of this one; the reason names the window.
    let near = || ends().filter(|_| !matches!(why, Why::OtherLife { .. }));
    let before = near().filter(is_before);
    let after = near().filter(|reach| first || asked.is_some_and(|asked| reach.at > asked));
    let before = before
        .max_by_key(|reach| (reach.at, reach.epoch, reach.seq))
        .cloned();
    let after = after
        .min_by_key(|reach| (reach.at, reach.epoch, reach.seq))
        .cloned();
    NotRecoverable {
        target: target.clone(),
        before,
        after,
        why,
        earliest: all.first().map(|window| window.from.clone()),
        latest: all.last().map(|window| window.to.clone()),
        covers_until: all.last().map(|window| window.until),
    }
}

/// The instant that a target stands for, as far as it can be told.
fn asked_instant(timelines: &[Timeline<'_>], target: &Target) -> Option<Timestamp> {
    match target {
        Target::Latest | Target::Point(_) | Target::Mark(_) => None,
        Target::At(at) | Target::Before(at) => Some(*at),
        Target::Position { epoch, seq } => instant_of(timelines, *epoch, *seq),
    }
}

fn instant_of(timelines: &[Timeline<'_>], epoch: Epoch, seq: LogSeq) -> Option<Timestamp> {
    let mut found = timelines.iter();
    let timeline = found.find(|timeline| timeline.facts.epoch == epoch)?;
    timeline.time(seq)
}
