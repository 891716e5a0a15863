//! The three narrow traits and the values they speak in.
//!
//! All are object safe and shared as `Arc<dyn …>`. Every future may be dropped at any await: a
//! dropped create may or may not have happened, and doing it again with the same put-id is safe.

use std::fmt::Debug;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tidemark_format::{Key, PutId};

use crate::Result;

/// The largest object that a read accepts. Ours are of about 8 MiB; a hostile store must not make
/// a reader allocate without end.
pub const OBJECT_BYTES_MAX: u64 = 256 << 20;

/// What a store knows of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Bytes.
    pub size: u64,
    /// When the store took it, by the store's clock.
    pub modified: Option<Timestamp>,
    /// The put-id stored beside it; a directory keeps none.
    pub put_id: Option<PutId>,
}

/// One object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry {
    /// Its name.
    pub key: Key,
    /// Bytes.
    pub size: u64,
    /// When the store took it, by the store's clock.
    pub modified: Option<Timestamp>,
}

/// Part of a listing.
///
/// Names in one folder come in byte order. How the contents of folder `a` and the key `a-b` are
/// ordered differs between servers (`/` as a byte, or folder by folder), and paging across such
/// names can show a key twice there: page within a folder, and find folders by
/// [`ReadStore::folders`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListPage {
    /// At most as many as asked for.
    pub entries: Vec<ListEntry>,
    /// Whether keys may follow after the last one.
    pub more: bool,
}

/// One stored version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The store's name for it; `None` where the store keeps no versions.
    pub id: Option<String>,
    /// Bytes.
    pub size: u64,
    /// When the store took it.
    pub modified: Option<Timestamp>,
    /// Whether a plain read would return it.
    pub latest: bool,
}

/// Which version of an object a read takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadMode {
    /// Whatever the store returns.
    #[default]
    Plain,
    /// On a versioned bucket, the first that was ever stored under the name: a later overwrite or
    /// delete by a stolen agent key changes nothing. Costs one more request for a key that wasn't
    /// listed before. Falls back to a plain read where the store keeps no versions.
    OldestVersion,
}

/// How a successful create came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// By this call.
    New,
    /// The very object was there: an earlier try of ours, whose answer was lost.
    AlreadyMine,
}

/// Whether the store itself keeps us from replacing objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateOnly {
    /// It does: versions that this credential can't delete, or a policy that refuses an overwrite.
    Enforced,
    /// It doesn't: create-only is our own good behaviour.
    Advisory,
}

impl CreateOnly {
    /// As people and JSON see it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Advisory => "advisory",
        }
    }
}

/// What probing a store with this credential has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// Whether create-only is enforced.
    pub create_only: CreateOnly,
    /// Why, in a few words.
    pub because: String,
    /// Whether a conditional create is honoured at all. Where it isn't, fencing doesn't work and
    /// the store must not be used by two writers.
    pub conditional_create: bool,
    /// Whether the bucket keeps versions, if that could be told.
    pub versioned: Option<bool>,
}

/// Reads objects.
#[async_trait]
pub trait ReadStore: Debug + Send + Sync {
    /// The whole object.
    async fn get(&self, key: &Key) -> Result<Bytes>;

    /// The bytes of `range`, cut off at the object's end: empty when it starts at or past it.
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes>;

    /// Size, time and put-id.
    async fn head(&self, key: &Key) -> Result<ObjectInfo>;

    /// Keys that begin with `prefix` and come after `start_after`, at most `limit` (at least one).
    /// What isn't a valid key (somebody else's file) is left out.
    async fn list(&self, prefix: &str, start_after: Option<&Key>, limit: usize)
    -> Result<ListPage>;

    /// The names of the folders directly below `prefix` (empty, or ending in `/`), in byte order:
    /// which sources there are, which epochs, without listing their objects.
    async fn folders(&self, prefix: &str) -> Result<Vec<String>>;

    /// Every stored version of an object, newest first; one without an id where the store keeps
    /// no versions. Deletion markers are left out.
    async fn versions(&self, key: &Key) -> Result<Vec<Version>>;
}

/// Creates objects, and nothing else.
#[async_trait]
pub trait CreateStore: Debug + Send + Sync {
    /// Stores `body` under `key` unless something is there.
    ///
    /// A retry with the same `put` after a lost response answers [`Created::AlreadyMine`].
    /// [`Error::Exists`](crate::Error::Exists) means that another object holds the name.
    async fn create(&self, key: &Key, body: Bytes, put: &PutId) -> Result<Created>;
}

/// Deletes objects: held only by the keeper, with a credential of its own.
#[async_trait]
pub trait DeleteStore: Debug + Send + Sync {
    /// Deletes the object with all its versions. Deleting what isn't there succeeds.
    async fn delete(&self, key: &Key) -> Result<()>;
}

/// A store's own clock, as far as its answers tell (invariant 10: it informs, never decides).
pub trait Witness: Debug + Send + Sync {
    /// The store's last `Date` header minus our clock when it came in; to the second.
    fn date_offset(&self) -> Option<SignedDuration>;
}

/// Finds out what a store enforces.
#[async_trait]
pub trait Probe: Debug + Send + Sync {
    /// Probes with this store's credential. May leave the object `meta/probe` behind.
    async fn probe(&self, put: &PutId) -> Result<ProbeReport>;
}

/// The part of `body` that `range` asks for, cut off at its end.
pub(crate) fn slice(body: &Bytes, range: Range<u64>) -> Bytes {
    let clip = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(body.len());
    let (start, end) = (clip(range.start), clip(range.end));
    if start < end {
        body.slice(start..end)
    } else {
        Bytes::new()
    }
}
