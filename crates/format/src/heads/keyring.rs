//! Who may write what, and to whom secrets are sealed: signed by the root, nobody else.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Epoch, Hash, LogSeq, PutId, RepoId, SourceName,
    envelope::{Head, Kind},
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
