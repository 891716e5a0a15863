//! Who may write what, and to whom secrets are sealed: signed by the root, nobody else.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Facts;
use crate::{
    BaseNumber, Epoch, Hash, LogSeq, PointSeq, PutId, RepoId, SourceName,
    envelope::{Head, Kind},
    evidence::Sha256,
    recipient::RecipientKey,
    sign::PublicKey,
};

/// What a member may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Logs, bases, points, beats, claims, fences, sessions, region markers.
    Agent,
    /// Drill evidence.
    Drill,
    /// Retention, repair and disposal evidence; fences and copies made by repair.
    Keeper,
}

/// The last log object of an epoch that a revoked agent's signature still counts for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidUntil {
    /// The source.
    pub source: SourceName,
    /// The epoch.
    pub epoch: Epoch,
    /// The last object that stays valid.
    pub seq: LogSeq,
    /// Its link.
    pub link: Hash,
}

/// The last recovery point of an epoch that a revoked agent's signature still counts for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointAnchor {
    /// The source.
    pub source: SourceName,
    /// The epoch.
    pub epoch: Epoch,
    /// The last point that stays valid.
    pub seq: PointSeq,
    /// Its link.
    pub link: Hash,
}

/// The last base of a generation that a revoked agent's signature still counts for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseAnchor {
    /// The source.
    pub source: SourceName,
    /// The epoch.
    pub epoch: Epoch,
    /// The generation.
    pub generation: LogSeq,
    /// The last base that stays valid; those that it builds on stay valid with it.
    pub number: BaseNumber,
    /// Its link.
    pub link: Hash,
}

/// A claim that a revoked agent's signature still counts for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimAnchor {
    /// The source.
    pub source: SourceName,
    /// The epoch that it took.
    pub epoch: Epoch,
    /// Its link.
    pub link: Hash,
}

/// A fence that a revoked key's signature still counts for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceAnchor {
    /// The source.
    pub source: SourceName,
    /// The epoch that it ended.
    pub epoch: Epoch,
    /// Its place in the log.
    pub seq: LogSeq,
    /// Its link.
    pub link: Hash,
}

/// The last evidence record that a revoked key's signature still counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceAnchor {
    /// Its number in the key's chain; those before it stay valid with it.
    pub seq: u64,
    /// The SHA-256 of its bytes as stored.
    pub sha256: Sha256,
}

/// What a revoked key had signed besides its log: so that no date that a thief writes into an
/// object makes it count. Where regions held different last objects, each of them is listed, the
/// furthest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Anchors {
    /// Every claim.
    #[serde(default)]
    pub claims: Vec<ClaimAnchor>,
    /// Every fence.
    #[serde(default)]
    pub fences: Vec<FenceAnchor>,
    /// The last point of each epoch.
    #[serde(default)]
    pub points: Vec<PointAnchor>,
    /// The last base of each generation.
    #[serde(default)]
    pub bases: Vec<BaseAnchor>,
    /// The number of the newest beat; none if there was none.
    #[serde(default)]
    pub beat: Option<u64>,
    /// The last evidence record. Without it (written before it was known) a record counts by the time that
    /// it states itself; empty, none counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Vec<EvidenceAnchor>>,
    /// What newer writers added.
    #[serde(flatten)]
    pub more: Facts,
}

/// A removal of access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// What the key had written by then and stays valid, being linked by hash; what isn't covered
    /// here is refused.
    #[serde(default)]
    pub valid_until: Vec<ValidUntil>,
    /// What else it had signed by then. Without it (written before anchors were known, or of a
    /// recipient) an object counts by the time that it states itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchors: Option<Anchors>,
    /// What newer writers added.
    #[serde(flatten)]
    pub more: Facts,
}

impl Revocation {
    /// A removal that leaves nothing valid of what a member signed; of a recipient, all there is.
    #[must_use]
    pub const fn new(at: Timestamp, reason: String) -> Self {
        Self {
            at,
            reason,
            valid_until: Vec::new(),
            anchors: None,
            more: Facts::new(),
        }
    }
}

/// A signing key and its role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What it may sign.
    pub role: Role,
    /// The key.
    pub key: PublicKey,
    /// Whose it is.
    pub name: String,
    /// When it was enrolled.
    pub added_at: Timestamp,
    /// Set once it may sign no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
    /// What newer writers added: kept when the next version is made.
    #[serde(flatten)]
    pub more: Facts,
}

/// A key to which secrets are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientEntry {
    /// The key.
    pub key: RecipientKey,
    /// Whose it is.
    pub name: String,
    /// When it was added.
    pub added_at: Timestamp,
    /// Set once new sessions are no longer sealed to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
    /// What newer writers added: kept when the next version is made.
    #[serde(flatten)]
    pub more: Facts,
}

/// The keyring: dense versions, each naming the one before; the highest one counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyringHead {
    /// The repository.
    pub repo: RepoId,
    /// 1 for the first.
    pub version: u32,
    /// The link of the version before; none for the first.
    pub prev: Option<Hash>,
    /// The attempt that created it.
    pub put: PutId,
    /// When.
    pub at: Timestamp,
    /// Who may sign.
    pub members: Vec<Member>,
    /// To whom secrets are sealed.
    pub recipients: Vec<RecipientEntry>,
    /// What newer writers added: kept when the next version is made.
    #[serde(flatten)]
    pub more: Facts,
}

impl Head for KeyringHead {
    const KIND: Kind = Kind::Keyring;
}

/// A request to be enrolled, signed by the key that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolHead {
    /// The repository.
    pub repo: RepoId,
    /// The role asked for.
    pub role: Role,
    /// The key that asks (it also signs).
    pub key: PublicKey,
    /// A name for people: the host.
    pub name: String,
    /// The attempt that created it.
    pub put: PutId,
    /// When.
    pub at: Timestamp,
}

impl Head for EnrolHead {
    const KIND: Kind = Kind::Enrol;
}
