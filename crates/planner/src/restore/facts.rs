//! What is known of a source's history, as plain facts. Whoever read the repository fills them in
//! and has checked signatures and links; here nothing is trusted or doubted any more.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use tidemark_format::heads::{BaseHead, LogHead, PointHead};
use tidemark_format::{BaseNumber, Epoch, Incarnation, LogSeq, PointSeq};

use super::server::ServerLog;

/// The name under which a log head's facts say up to when everything is captured.
const COMPLETE_UNTIL: &str = "complete_until";

/// A source's history in one region, or in several put together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The epochs on the chain, oldest first, each up to its end.
    pub epochs: Vec<EpochFacts>,
    /// The newest beat of the newest epoch's writer, if it says that the agent is caught up.
    pub caught_up: Option<CaughtUp>,
}

impl Facts {
    /// The same for a reader who opens everything; none if nothing is closed.
    pub(super) fn opened(&self) -> Option<Self> {
        let mut opened = self.clone();
        let mut any = false;
        for epoch in &mut opened.epochs {
            for base in epoch.bases.iter_mut().filter(|base| !base.opens) {
                base.opens = true;
                any = true;
            }
            for entry in &mut epoch.log {
                if let LogState::Closed(fact) = entry.state {
                    entry.state = LogState::Object(fact);
                    any = true;
                }
            }
        }
        any.then_some(opened)
    }
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
    /// Whether replay may end inside a log object, after any of its commits: a server's log.
    pub divisible: bool,
    /// What heads say beside what stands in the log, by place.
    pub told: BTreeMap<LogSeq, Told>,
}

impl EpochFacts {
    /// An epoch of which nothing is known yet.
    #[must_use]
    pub const fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            divisible: false,
            told: BTreeMap::new(),
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
    /// A good log object that the reader's identity can't open: replay can't pass it.
    Closed(ObjectFact),
    /// Nothing, where something should be.
    Missing,
    /// Something that can't be believed.
    Damaged(Damage),
    /// An object whose head was not read: replay may pass it and can't end there.
    Unread,
}

/// What is wrong with something that can't be believed, and whether it must be there at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// In words.
    pub why: String,
    /// What says that the log went on there. Without it, past the end of the log, nobody can tell
    /// bit rot of the last object from what a stranger left.
    pub vouched: Option<Voucher>,
}

/// What says of a damaged object that it was one of the log's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voucher {
    /// Its own head, which is whole and signed.
    ItsHead,
    /// A recovery point covers it.
    Point,
    /// A base rests on it.
    Base,
    /// The agent's beat names it, or one behind it.
    Beat,
    /// More than one region has something there.
    Regions,
}

impl fmt::Display for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ItsHead => "its own signed head says so",
            Self::Point => "a recovery point covers it",
            Self::Base => "a base rests on it",
            Self::Beat => "the agent's beat counts it",
            Self::Regions => "more than one region has it",
        })
    }
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

/// What a head says beside that, as open facts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// How many transactions end in the object.
    pub transactions: u64,
    /// Everything committed up to here is in the log up to the object, as the engine says.
    pub complete_until: Option<Timestamp>,
    /// Which part of a server's log it holds.
    pub server: Option<ServerLog>,
}

impl Told {
    /// From a verified head; none if it says nothing.
    #[must_use]
    pub fn read(head: &LogHead) -> Option<Self> {
        let until = head.facts.get(COMPLETE_UNTIL);
        // Facts are open: one that can't be read says nothing.
        let told = Self {
            transactions: head.transactions,
            complete_until: until.and_then(|text| text.as_str()?.parse().ok()),
            server: ServerLog::read(&head.facts),
        };
        (told.complete_until.is_some() || told.server.is_some()).then_some(told)
    }
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

    /// The same for a reader whose identity can't open it. A gap holds nothing that needs opening.
    #[must_use]
    pub fn closed(mut self) -> Self {
        if let LogState::Object(fact) = self.state {
            self.state = LogState::Closed(fact);
        }
        self
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
    /// Whether the reader's identity opens it, as far as that is known.
    pub opens: bool,
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
            opens: true,
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
