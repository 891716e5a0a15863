//! What is known of a source's history, as plain facts. Whoever read the repository fills them in
//! and has checked signatures and links; here nothing is trusted or doubted any more.

use jiff::Timestamp;
use tidemark_format::heads::{BaseHead, LogHead, PointHead};
use tidemark_format::{BaseNumber, Epoch, Incarnation, LogSeq, PointSeq};

/// A source's history in one region, or in several put together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The epochs on the chain, oldest first, each up to its end.
    pub epochs: Vec<EpochFacts>,
    /// The newest beat of the newest epoch's writer, if it says that the agent is caught up.
    pub caught_up: Option<CaughtUp>,
}

/// What a beat proves: nothing was committed after `log_seq` up to `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaughtUp {
    /// The last log object.
    pub log_seq: LogSeq,
    /// The instant.
    pub at: Timestamp,
}

/// One epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochFacts {
    /// The epoch.
    pub epoch: Epoch,
    /// Its log in order. A sequence that is left out between the first and the last is missing;
    /// what stands before the first was not looked at, or was deleted by retention.
    pub log: Vec<LogFact>,
    /// Its bases.
    pub bases: Vec<BaseFact>,
    /// Its recovery points, oldest first.
    pub points: Vec<PointFact>,
}

impl EpochFacts {
    /// An epoch of which nothing is known yet.
    #[must_use]
    pub const fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            log: Vec::new(),
            bases: Vec::new(),
            points: Vec::new(),
        }
    }
}

/// One place of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFact {
    /// The place.
    pub seq: LogSeq,
    /// Bytes as stored.
    pub bytes: u64,
    /// What stands there.
    pub state: LogState,
}

/// What stands at a place of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogState {
    /// A log object.
    Object(ObjectFact),
    /// A signed gap: shipped nowhere, with the reason.
    Gap(String),
    /// Nothing, where something should be.
    Missing,
    /// Something that can't be believed, with the reason.
    Damaged(String),
    /// An object whose head was not read: replay may pass it and can't end there.
    Unread,
}

/// What a log object's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectFact {
    /// The source's life.
    pub incarnation: Incarnation,
    /// When the first of its transactions was committed.
    pub first_commit: Option<Timestamp>,
    /// When the last was.
    pub last_commit: Option<Timestamp>,
    /// When the agent cut it.
    pub captured_at: Timestamp,
    /// Whether it is a restore position.
    pub restorable: bool,
}

impl LogFact {
    /// From a verified head and the object's size.
    #[must_use]
    pub fn read(head: &LogHead, bytes: u64) -> Self {
        let state = match &head.gap {
            Some(gap) => LogState::Gap(gap.reason.clone()),
            None => LogState::Object(ObjectFact {
                incarnation: head.incarnation,
                first_commit: head.first_commit,
                last_commit: head.last_commit,
                captured_at: head.captured_at,
                restorable: head.restorable,
            }),
        };
        Self {
            seq: head.seq,
            bytes,
            state,
        }
    }
}

/// Names a base within its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseId {
    /// Its generation.
    pub generation: LogSeq,
    /// Its number there.
    pub number: BaseNumber,
}

/// One base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseFact {
    /// Which.
    pub id: BaseId,
    /// The base it builds on; none for a complete one.
    pub parent: Option<BaseId>,
    /// The source's life.
    pub incarnation: Incarnation,
    /// The first log object to replay on it.
    pub start: LogSeq,
    /// The first after which the result is consistent.
    pub usable_from: LogSeq,
    /// Bytes as stored, without its parents'.
    pub stored_bytes: u64,
}

impl BaseFact {
    /// From a verified head.
    #[must_use]
    pub fn read(head: &BaseHead) -> Self {
        let parent = head.parent.as_ref();
        Self {
            id: BaseId {
                generation: head.generation,
                number: head.number,
            },
            parent: parent.map(|p| BaseId {
                generation: p.generation,
                number: p.number,
            }),
            incarnation: head.incarnation,
            start: head.start,
            usable_from: head.usable_from,
            stored_bytes: head.stored_bytes,
        }
    }
}

/// One recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointFact {
    /// Which.
    pub seq: PointSeq,
    /// The last log object it covers.
    pub log_seq: LogSeq,
    /// Everything committed up to here is in the log up to `log_seq`.
    pub committed: Timestamp,
    /// A name that a person gave it.
    pub name: Option<String>,
}

impl PointFact {
    /// From a verified head.
    #[must_use]
    pub fn read(head: &PointHead) -> Self {
        Self {
            seq: head.seq,
            log_seq: head.log_seq,
            committed: head.committed,
            name: head.name.clone(),
        }
    }
}
