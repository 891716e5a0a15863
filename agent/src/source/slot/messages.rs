//! What passes between a source's slot on the capture pool and its driver.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tidemark_engine::canary::CanaryOutcome;
use tidemark_engine::{
    BaseSlice, BaseStart, Engine, ErrorKind, LogCut, Probe, UnfinishedBase, Verdict,
};
use tidemark_format::{Incarnation, LogSeq, SourceName};
use tidemark_host::{Clock, Rng};
use tokio::sync::mpsc::UnboundedSender;

use super::Canaries;
use crate::budget::{Budget, Permit};
use crate::source::pool::{SlotId, Waker};
use crate::status_live::Board;

/// What an engine's records are read from when it opens; lazily, one at a time.
pub type Records = Box<dyn Iterator<Item = (LogSeq, Vec<u8>)> + Send>;

/// What a driver tells its slot.
pub enum Command {
    /// Open the source. The next cut is `next_seq`.
    Open {
        /// The next cut's sequence.
        next_seq: LogSeq,
        /// The sealed records that the page map may not hold yet.
        records: Records,
        /// The incarnation if a new one begins.
        candidate: Incarnation,
    },
    /// Cut everything that is committed by now, up to a restorable end.
    Cut {
        /// Comes back in [`Event::CutDone`].
        ticket: u64,
        /// After this long what can be had is enough; `None`: only everything is.
        patience: Option<Duration>,
    },
    /// The cut is fsynced in the spool.
    Sealed(LogSeq),
    /// As many failure domains as make "durable" hold everything up to here.
    Durable(LogSeq),
    /// Begin a base; in a new generation if a digest key is given.
    BeginBase {
        /// The new generation's digest key.
        generation: Option<[u8; 32]>,
        /// Whether it holds every page.
        complete: bool,
    },
    /// Read the next pages of the base.
    Slice {
        /// At most about so many bytes.
        max_bytes: usize,
    },
    /// The cut that the base is usable from is sealed: is the base exact?
    ConfirmBase,
    /// The base is published.
    BaseDone,
    /// The base won't be published.
    BaseAbandoned,
    /// Cut nothing until told otherwise (the spool is full).
    Hold(bool),
    /// Fsync the page map now: the spool is short of room.
    Sync,
    /// Look at the database.
    Probe,
    /// Look, without opening it, whether the database that failed is another one now.
    Look,
    /// Fsync the page map and let go of the database.
    Close,
    /// Let go of the database for good, and take away what is kept at it.
    Retire {
        /// What canaries were kept in among it.
        canary: bool,
    },
    /// Take away what canaries were kept in: none are wanted any more.
    RemoveCanary,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open { .. } => "Open",
            Self::Cut { .. } => "Cut",
            Self::Sealed(_) => "Sealed",
            Self::Durable(_) => "Durable",
            Self::BeginBase { .. } => "BeginBase",
            Self::Slice { .. } => "Slice",
            Self::ConfirmBase => "ConfirmBase",
            Self::BaseDone => "BaseDone",
            Self::BaseAbandoned => "BaseAbandoned",
            Self::Hold(_) => "Hold",
            Self::Sync => "Sync",
            Self::Probe => "Probe",
            Self::Look => "Look",
            Self::Close => "Close",
            Self::Retire { .. } => "Retire",
            Self::RemoveCanary => "RemoveCanary",
        })
    }
}

/// What a slot tells its driver.
#[derive(Debug)]
pub enum Event {
    /// The source is open.
    Opened {
        /// The life of the source.
        incarnation: Incarnation,
        /// What opening found out.
        verdict: Verdict,
        /// No finished complete base in the open generation.
        needs_complete_base: bool,
        /// A base that was begun before and not ended.
        unfinished_base: Option<UnfinishedBase>,
    },
    /// The capture ended; it may be opened again.
    Failed {
        /// What kind of failure.
        kind: ErrorKind,
        /// What to do about it.
        verdict: crate::policy::Verdict,
        /// What happened, with its causes.
        message: String,
    },
    /// Something about the database that failed has changed.
    Changed,
    /// A cut was made.
    Cut {
        /// Its sequence.
        seq: LogSeq,
        /// What it holds.
        cut: LogCut,
        /// When it was made.
        at: Timestamp,
        /// The memory it takes; given back when dropped.
        permit: Permit,
    },
    /// Everything that had been captured when it was asked for is in cuts before `next_seq`.
    CutDone {
        /// From [`Command::Cut`].
        ticket: u64,
        /// The next cut's sequence.
        next_seq: LogSeq,
    },
    /// The base begins.
    BaseBegan(BaseStart),
    /// The next pages of the base.
    Slice(BaseSlice),
    /// The base is exact: it may be published.
    BaseConfirmed,
    /// The base can't go on.
    BaseFailed {
        /// Why.
        message: String,
    },
    /// Records up to here are no longer needed.
    Synced(LogSeq),
    /// What is known of the database.
    Probed(Probe),
    /// What came of a canary.
    Canary(CanaryOutcome),
    /// What canaries were kept in was taken away, or why that could not be done and what to do by hand.
    CanaryRemoved(Result<Option<String>, String>),
    /// The database is let go of.
    Closed,
    /// It is let go of for good: what was taken away at it, or why that could not be done and what to do
    /// by hand.
    Retired(Result<Option<String>, String>),
}

/// The driver's end of a slot.
#[derive(Clone)]
pub struct Handle {
    pub(super) inbox: Inbox,
    pub(super) waker: Waker,
    pub(super) id: SlotId,
}

/// Commands that wait for the slot's next turn.
pub(super) type Inbox = Arc<Mutex<VecDeque<Command>>>;

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle(slot {})", self.id)
    }
}

impl Handle {
    /// Tells the slot.
    pub fn tell(&self, command: Command) {
        self.inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(command);
        self.waker.wake(self.id);
    }
}

/// What a slot is made of.
#[derive(Debug)]
pub struct Parts {
    /// The source.
    pub source: SourceName,
    /// Its engine.
    pub engine: Arc<dyn Engine>,
    /// The engine's folder.
    pub folder: PathBuf,
    /// How long changes wait at most.
    pub ship_every: Duration,
    /// The database waits for the regions: changes are cut as soon as those before them are durable.
    pub prompt: bool,
    /// The canaries that are wanted, if they are.
    pub canaries: Option<Canaries>,
    /// Memory for cuts, shared by all sources.
    pub budget: Arc<Budget>,
    /// Where people look.
    pub board: Arc<Board>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Draws nonces.
    pub rng: Arc<dyn Rng>,
    /// Where events go.
    pub events: UnboundedSender<Event>,
}
