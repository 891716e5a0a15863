//! What is later than the last state that the regions read can bring back, in words.

use jiff::Timestamp;
use serde::Serialize;
use tidemark_format::{Epoch, LogSeq};
use tidemark_host::output;
use tidemark_planner::restore::{self as planner, Why};

/// Log past the last state that can be restored from the regions read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Beyond {
    /// The epoch of the first object.
    pub first_epoch: Epoch,
    /// The first object: it may be a gap.
    pub first: LogSeq,
    /// The epoch of the last object.
    pub last_epoch: Epoch,
    /// The last object.
    pub last: LogSeq,
    /// How many of them carry data.
    pub objects: u64,
    /// How many can't be believed: damaged, or put there by somebody else.
    pub damaged: u64,
    /// The earliest instant that they tell.
    pub from: Option<Timestamp>,
    /// The latest.
    pub to: Option<Timestamp>,
    /// Why they can't be restored.
    pub why: String,
}

impl From<planner::Beyond> for Beyond {
    fn from(beyond: planner::Beyond) -> Self {
        let why = match &beyond.why {
            Why::Hole { epoch, seq, what } => format!("log:{epoch}:{seq} {what}"),
            Why::NoBase { epoch } => format!("epoch {epoch} begins there"),
            other => other.to_string(),
        };
        let without = if beyond.objects == 0 {
            ""
        } else {
            ", and no usable base from behind that is in the regions read"
        };
        Self {
            first_epoch: beyond.first.0,
            first: beyond.first.1,
            last_epoch: beyond.last.0,
            last: beyond.last.1,
            objects: beyond.objects,
            damaged: beyond.damaged,
            from: beyond.from,
            to: beyond.to,
            why: format!("{why}{without}"),
        }
    }
}

impl Beyond {
    /// Which objects, how many and from when.
    #[must_use]
    pub fn span(&self) -> String {
        let (epoch, first, last_epoch, last) =
            (self.first_epoch, self.first, self.last_epoch, self.last);
        let mut span = format!("log:{epoch}:{first}");
        if (epoch, first) != (last_epoch, last) {
            span.push_str(&format!(" to log:{last_epoch}:{last}"));
        }
        let many = |count: u64, what: &str| match count {
            0 => None,
            1 => Some(format!("1 {what}")),
            n => Some(format!("{n} {what}s")),
        };
        let parts = [
            many(self.objects, "log object"),
            many(self.damaged, "damaged object"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let objects = match parts.as_slice() {
            [] => "a gap".to_owned(),
            _ => parts.join(", "),
        };
        let when = match (self.from, self.to) {
            (Some(from), Some(to)) => {
                format!(", {} to {}", output::instant(from), output::instant(to))
            }
            _ => String::new(),
        };
        format!("{span} ({objects}{when})")
    }

    /// Whether something signed says that it is log: else it may be anybody's.
    #[must_use]
    pub const fn is_certain(&self) -> bool {
        self.objects > 0 || self.damaged == 0
    }

    /// The first words of a document whose end is not the newest state.
    #[must_use]
    pub fn warning(&self) -> String {
        let perhaps = if self.is_certain() { "" } else { "PERHAPS " };
        format!("{perhaps}NOT THE NEWEST STATE: {}", self.sentence())
    }

    /// As `list` shows it.
    #[must_use]
    pub fn line(&self) -> String {
        let (span, why) = (self.span(), &self.why);
        format!("  Not restorable from the regions read:\n    {span}: {why}\n")
    }

    /// What the reason for the end is called.
    #[must_use]
    pub const fn label(beyond: Option<&Self>) -> &'static str {
        match beyond {
            None => "complete",
            Some(_) => "ends there",
        }
    }

    /// What is later, why it can't be restored, and what to do.
    #[must_use]
    pub fn sentence(&self) -> String {
        if !self.is_certain() {
            return format!(
                "{} stands past the end, and nothing else that was read says whether the log went on there: {}. If it was the agent's, what was committed after the end is missing; give the other regions, too (--region)",
                self.span(),
                self.why
            );
        }
        format!(
            "{} is later and can't be restored from the regions read: {}; give the other regions, too (--region), or wait for the agent's next base",
            self.span(),
            self.why
        )
    }
}
