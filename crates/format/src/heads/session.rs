//! Sessions, and the packs sealed in them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Hash, Incarnation, KeyId, LogSeq, ObjectId, PutId, RepoId, SessionId, SourceName,
    envelope::{Head, Kind},
};

/// The session secret, sealed to one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedTo {
    /// The recipient's key id.
    pub recipient: KeyId,
    /// HPKE's encapsulated key.
    #[serde(with = "hex::serde")]
    pub encapsulated: Vec<u8>,
    /// The sealed secret.
    #[serde(with = "hex::serde")]
    pub sealed: Vec<u8>,
}

/// A session: 32 secret bytes that live in one agent process, stored sealed before the first
/// object that needs them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionHead {
    /// The repository.
    pub repo: RepoId,
    /// The session.
    pub session: SessionId,
    /// The attempt that created it.
    pub put: PutId,
    /// When it began.
    pub at: Timestamp,
    /// Commits to the secret: a recipient that opens another one is told so.
    pub commitment: Hash,
    /// The secret, sealed to each recipient.
    pub recipients: Vec<SealedTo>,
}

impl Head for SessionHead {
    const KIND: Kind = Kind::Session;
}

/// The head of a pack: pages of one base. Its name is random, so nobody contends for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackHead {
    /// The repository.
    pub repo: RepoId,
    /// The source.
    pub source: SourceName,
    /// The source's life.
    pub incarnation: Incarnation,
    /// The generation.
    pub generation: LogSeq,
    /// The attempt that created it.
    pub put: PutId,
    /// The session whose secret opens the body.
    pub session: SessionId,
    /// The body's object id, which is also the pack's name.
    pub object: ObjectId,
    /// The body's length.
    pub body_len: u64,
    /// The body's hash.
    pub body_hash: Hash,
}

impl Head for PackHead {
    const KIND: Kind = Kind::Pack;

    fn body(&self) -> Option<(u64, Hash)> {
        Some((self.body_len, self.body_hash))
    }
}
