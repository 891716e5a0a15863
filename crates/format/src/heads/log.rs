//! A source's log: its objects, its epochs' claims and the fences that end them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Facts;
use crate::{
    Epoch, Hash, Incarnation, LogSeq, ObjectId, PutId, RepoId, SessionId, SourceName, WriterId,
    envelope::{Head, Kind},
};

/// Where an earlier epoch ended, as the first object of the next one says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochEnd {
    /// The epoch that ended.
    pub epoch: Epoch,
    /// Its last valid log object; none if it wrote none.
    pub seq: Option<LogSeq>,
    /// The link of that object.
    pub link: Option<Hash>,
}

/// A range of the log that was shipped nowhere and never will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Why, in words for people.
    pub reason: String,
    /// The last instant before it that can be restored, as far as the agent knew.
    pub since: Option<Timestamp>,
}

/// The head of a log object: the clear, signed part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHead {
    /// The repository.
    pub repo: RepoId,
    /// The source.
    pub source: SourceName,
    /// The engine that made the body, e.g. `sqlite`.
    pub engine: String,
    /// The source's life.
    pub incarnation: Incarnation,
    /// The writer's term.
    pub epoch: Epoch,
    /// The place in the epoch.
    pub seq: LogSeq,
    /// The attempt that created this object.
    pub put: PutId,
    /// The link of the object before it in this epoch; none for object 0.
    pub prev: Option<Hash>,
    /// In object 0 of every epoch but the first: where the epoch before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<EpochEnd>,
    /// The generation it belongs to: the sequence of the object that opened it.
    pub generation: LogSeq,
    /// Whether the source can be restored to the end of this object: false for all but the last
    /// piece of a change that spans several, and for gaps.
    pub restorable: bool,
    /// Transactions that end in it, as far as the engine can tell.
    pub transactions: u64,
    /// When the first of them was committed, or first seen committed.
    pub first_commit: Option<Timestamp>,
    /// When the last of them was committed, or first seen committed.
    pub last_commit: Option<Timestamp>,
    /// When the agent cut it.
    pub captured_at: Timestamp,
    /// Set in a gap object, which has no body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
    /// The session whose secret opens the body.
    pub session: Option<SessionId>,
    /// The body's object id.
    pub object: Option<ObjectId>,
    /// The engine's own words: sizes, positions.
    #[serde(default)]
    pub facts: Facts,
    /// The body's length.
    pub body_len: u64,
    /// The body's hash.
    pub body_hash: Hash,
}

impl LogHead {
    /// Whether this object opens its generation.
    #[must_use]
    pub fn opens_generation(&self) -> bool {
        self.generation == self.seq
    }
}

impl Head for LogHead {
    const KIND: Kind = Kind::Log;

    fn body(&self) -> Option<(u64, Hash)> {
        Some((self.body_len, self.body_hash))
    }
}

/// Ends an epoch: stands in the place of the next log object of the epoch it fences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceHead {
    /// The repository.
    pub repo: RepoId,
    /// The source.
    pub source: SourceName,
    /// The epoch that ends here.
    pub epoch: Epoch,
    /// The place it takes.
    pub seq: LogSeq,
    /// The attempt that created it.
    pub put: PutId,
    /// The epoch that takes over.
    pub by_epoch: Epoch,
    /// The writer that takes over.
    pub by_writer: WriterId,
    /// When.
    pub at: Timestamp,
}

impl Head for FenceHead {
    const KIND: Kind = Kind::Fence;
}

/// Why an epoch was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimReason {
    /// The source's first epoch.
    New,
    /// `take-over`, asked for by a person.
    TakeOver,
}

/// A writer's claim of an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimHead {
    /// The repository.
    pub repo: RepoId,
    /// The source.
    pub source: SourceName,
    /// The epoch claimed.
    pub epoch: Epoch,
    /// The state directory that claims it.
    pub writer: WriterId,
    /// The host it is on, for people.
    pub host: String,
    /// The attempt that created this.
    pub put: PutId,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: ClaimReason,
}

impl Head for ClaimHead {
    const KIND: Kind = Kind::Claim;
}
