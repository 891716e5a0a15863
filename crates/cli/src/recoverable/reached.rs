//! States that a restore reaches, as documents show them.

use jiff::Timestamp;
use serde::Serialize;
use tidemark_format::postgres::{Lsn, TimelineId};
use tidemark_format::{Epoch, LogSeq};
use tidemark_host::output;
use tidemark_planner::restore::{Reach, RecoverableWindow, ServerPlace};

/// A state of the source that a restore reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reached {
    /// The epoch.
    pub epoch: Epoch,
    /// The log object after which it holds.
    pub seq: LogSeq,
    /// When its last commit was made, or first seen.
    pub at: Timestamp,
    /// Where that is in the server's log, if the source has one.
    #[serde(flatten)]
    pub server: Option<ServerReached>,
}

/// A position of a server's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ServerReached {
    /// The branch.
    #[serde(serialize_with = "timeline_number")]
    pub timeline: TimelineId,
    /// Where on it.
    #[serde(serialize_with = "as_text")]
    pub lsn: Lsn,
}

impl From<ServerPlace> for ServerReached {
    fn from(place: ServerPlace) -> Self {
        Self {
            timeline: place.timeline,
            lsn: place.lsn,
        }
    }
}

fn timeline_number<S: serde::Serializer>(timeline: &TimelineId, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u32(timeline.0)
}

fn as_text<S: serde::Serializer>(shown: &impl std::fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(shown)
}

impl From<&Reach> for Reached {
    fn from(reach: &Reach) -> Self {
        Self {
            epoch: reach.epoch,
            seq: reach.seq,
            at: reach.at,
            server: reach.server.map(Into::into),
        }
    }
}

impl std::fmt::Display for Reached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} (log:{}:{}",
            output::instant(self.at),
            self.epoch,
            self.seq
        )?;
        if let Some(server) = &self.server {
            write!(f, ", LSN {} on timeline {}", server.lsn, server.timeline)?;
        }
        f.write_str(")")
    }
}

/// Instants that can be restored, without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The first state.
    pub from: Reached,
    /// The last state.
    pub to: Reached,
    /// Nothing else was committed up to here: later than `to` when the source was idle.
    pub covers_until: Timestamp,
    /// The last state that a recovery point covers.
    pub sealed_to: Option<Reached>,
}

impl From<RecoverableWindow> for Window {
    fn from(window: RecoverableWindow) -> Self {
        Self {
            from: (&window.from).into(),
            to: (&window.to).into(),
            covers_until: window.until,
            sealed_to: window.sealed_to.as_ref().map(Into::into),
        }
    }
}
