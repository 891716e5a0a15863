//! What says "up to here everything is durable": bases, recovery points and beats.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Facts;
use crate::{
    BaseNumber, Epoch, Hash, Incarnation, LogSeq, ObjectId, PointSeq, PutId, RegionId, RepoId,
    SessionId, SourceName,
    envelope::{Head, Kind},
};

/// Names a base of the same epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRef {
    /// Its generation.
    pub generation: LogSeq,
    /// Its number.
    pub number: BaseNumber,
    /// Its link.
    pub link: Hash,
}

/// The head of a base: a full logical image, stored as what changed against its parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseHead {
    /// The repository.
    pub repo: RepoId,
    /// The source.
    pub source: SourceName,
    /// The engine.
    pub engine: String,
    /// The source's life.
    pub incarnation: Incarnation,
    /// The writer's term.
    pub epoch: Epoch,
    /// The generation.
    pub generation: LogSeq,
    /// The place in the generation.
    pub number: BaseNumber,
    /// The attempt that created it.
    pub put: PutId,
    /// The base it builds on; none exactly for number 0, which is complete.
    pub parent: Option<BaseRef>,
    /// The log object that was next when reading began: replay starts with it.
    pub start: LogSeq,
    /// The first log object after which replay gives a consistent database.
    pub usable_from: LogSeq,
    /// The link of that object.
    pub usable_link: Hash,
    /// When reading began.
    pub started_at: Timestamp,
    /// When the last page had been stored.
    pub finished_at: Timestamp,
    /// Bytes of the source's image.
    pub image_bytes: u64,
    /// Bytes of pages that this base holds itself.
    pub changed_bytes: u64,
    /// Bytes of its packs as stored.
    pub stored_bytes: u64,
    /// How many packs.
    pub packs: u32,
    /// The session whose secret opens the body.
    pub session: SessionId,
    /// The body's object id.
    pub object: ObjectId,
    /// The engine's own words.
    #[serde(default)]
    pub facts: Facts,
    /// The body's length.
    pub body_len: u64,
    /// The body's hash.
    pub body_hash: Hash,
}

impl BaseHead {
    /// The reference by which others name this base, given its link.
    #[must_use]
    pub const fn reference(&self, link: Hash) -> BaseRef {
        BaseRef {
            generation: self.generation,
            number: self.number,
            link,
        }
    }
}

impl Head for BaseHead {
    const KIND: Kind = Kind::Base;

    fn body(&self) -> Option<(u64, Hash)> {
        Some((self.body_len, self.body_hash))
    }
}

/// What the agent's clocks said: they inform people and decide nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClockFacts {
    /// Milliseconds since boot, suspended time included.
    pub boot_ms: u64,
    /// Whether the kernel's clock was synchronised; none if that can't be told.
    pub synchronised: Option<bool>,
    /// By region: its last Date header minus our clock, in milliseconds.
    #[serde(default)]
    pub region_offset_ms: BTreeMap<RegionId, i64>,
}

/// A recovery point: everything up to here is durable in the region that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointHead {
    /// The repository.
    pub repo: RepoId,
    /// The source.
    pub source: SourceName,
    /// The engine.
    pub engine: String,
    /// The source's life.
    pub incarnation: Incarnation,
    /// The writer's term.
    pub epoch: Epoch,
    /// The place in the epoch.
    pub seq: PointSeq,
    /// The attempt that created it.
    pub put: PutId,
    /// The link of the point before it in this epoch; none for point 0.
    pub prev: Option<Hash>,
    /// When it was sealed.
    pub at: Timestamp,
    /// Everything committed up to this instant is in the log up to `log_seq`.
    pub committed: Timestamp,
    /// The last log object it covers.
    pub log_seq: LogSeq,
    /// That object's link.
    pub log_link: Hash,
    /// The newest base it rests on; its generation's complete base is reached through parents.
    pub base: BaseRef,
    /// A name that a person gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The clocks.
    pub clock: ClockFacts,
    /// By region: `enforced` or `advisory`, as probed.
    #[serde(default)]
    pub create_only: BTreeMap<RegionId, String>,
    /// Open facts: sizes, versions, host id, config hash.
    #[serde(default)]
    pub facts: Facts,
}

impl Head for PointHead {
    const KIND: Kind = Kind::Point;
}

/// One source in a beat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatSource {
    /// The source.
    pub source: SourceName,
    /// The writer's term.
    pub epoch: Epoch,
    /// The last log object; none if there is none yet.
    pub log_seq: Option<LogSeq>,
    /// Its link.
    pub log_link: Option<Hash>,
    /// The instant at which the agent had captured everything: nothing newer was committed then.
    /// None while it can't say so (catching up, paused, source unreadable).
    pub caught_up_at: Option<Timestamp>,
    /// Why it can't say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// An agent's beat: one object for all its sources, so that an idle one costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatHead {
    /// The repository.
    pub repo: RepoId,
    /// Counts the agent's beats; stored inverted in the key so that a listing shows the newest first.
    pub number: u64,
    /// The attempt that created it.
    pub put: PutId,
    /// When.
    pub at: Timestamp,
    /// The agent's host, for people.
    pub host: String,
    /// The clocks.
    pub clock: ClockFacts,
    /// How often the agent means to beat, in milliseconds: silence of several times this is news.
    pub every_ms: u64,
    /// Its sources.
    pub sources: Vec<BeatSource>,
    /// Open facts.
    #[serde(default)]
    pub facts: Facts,
}

impl Head for BeatHead {
    const KIND: Kind = Kind::Beat;
}
