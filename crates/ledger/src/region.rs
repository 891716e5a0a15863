//! A region's marker and its `RESTORE.md`.
//!
//! The marker gives a place an id of its own, so that two URLs of one bucket, or two directories
//! on one device, are told for what they are. Whoever comes first makes it; who loses the race
//! reads back who won.

use bytes::Bytes;
use jiff::Timestamp;
use tidemark_format::heads::RegionHead;
use tidemark_format::sign::SigningKey;
use tidemark_format::{PutId, RegionId, RepoId, keys, restore_md};
use tidemark_host::{Rng, RngExt as _};
use tidemark_storage::{CreateStore, ErrorKind, ReadStore};

use crate::object::{Signed, Verified};
use crate::read::read_verified;
use crate::{LedgerError, Result};

/// A region's marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// The region's own id.
    pub region: RegionId,
    /// The repository it belongs to.
    pub repo: RepoId,
    /// When it was made.
    pub at: Timestamp,
    /// Whether this call made it.
    pub created: bool,
}

impl Marker {
    fn of(head: &RegionHead, created: bool) -> Self {
        Self {
            region: head.region,
            repo: head.repo,
            at: head.at,
            created,
        }
    }
}

/// Reads the marker; `None` where the store says that there is none.
///
/// # Errors
/// The region's, or [`LedgerErrorKind::Integrity`](crate::LedgerErrorKind::Integrity) for a
/// damaged one.
pub async fn read_marker(store: &dyn ReadStore) -> Result<Option<Marker>> {
    match read_verified::<RegionHead>(store, &keys::region(), None).await {
        Ok(object) => Ok(Some(Marker::of(&object.head, false))),
        Err(LedgerError::Storage(error)) if error.kind() == ErrorKind::Missing => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the marker, and makes it if there is none.
///
/// # Errors
/// [`LedgerError::OtherRepository`] when the place belongs to another repository; the region's.
pub async fn ensure_marker(
    read: &dyn ReadStore,
    create: &dyn CreateStore,
    repo: RepoId,
    signer: &SigningKey,
    rng: &dyn Rng,
    now: Timestamp,
) -> Result<Marker> {
    if let Some(marker) = read_marker(read).await? {
        return belongs(marker, repo);
    }
    let head = RegionHead {
        repo,
        region: rng.id(),
        put: rng.id(),
        at: now,
    };
    let signed = Signed::new(&head, signer)?;
    match signed.create(create).await {
        Ok(_created) => Ok(Marker::of(&head, true)),
        Err(LedgerError::Storage(error)) if error.kind() == ErrorKind::Exists => {
            let found: Verified<RegionHead> = read_verified(read, &keys::region(), None).await?;
            belongs(Marker::of(&found.head, found.head.put == head.put), repo)
        }
        Err(error) => Err(error),
    }
}

fn belongs(marker: Marker, repo: RepoId) -> Result<Marker> {
    if marker.repo == repo {
        Ok(marker)
    } else {
        Err(LedgerError::OtherRepository {
            found: marker.repo,
            expected: repo,
        })
    }
}

/// Makes `RESTORE.md` if it isn't there. Every writer makes the same bytes, so whose it is doesn't
/// matter.
///
/// # Errors
/// The region's.
pub async fn ensure_readme(create: &dyn CreateStore, repo: RepoId, rng: &dyn Rng) -> Result<()> {
    let put: PutId = rng.id();
    let body = Bytes::from(restore_md::text(repo));
    match create.create(&keys::readme(), body, &put).await {
        Ok(_created) => Ok(()),
        Err(error) if error.kind() == ErrorKind::Exists => Ok(()),
        Err(error) => Err(error.into()),
    }
}
