//! What a region's head looks like for one writer: free, ours, or another's.

use jiff::Timestamp;
use tidemark_format::heads::{ClaimHead, FenceHead, LogHead, Role};
use tidemark_format::{Epoch, FormatError, Hash, Key, LogSeq, PutId, SourceName, WriterId, keys};
use tidemark_storage::ReadStore;

use crate::object::Verified;
use crate::read::{claim_name, head_bytes, list_all, read_verified, verify_head};
use crate::{Keyring, LedgerError, Result};

/// Another writer that has the source: what exit 11 tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its state directory.
    pub writer: WriterId,
    /// Its host, for people; empty if its claim isn't in this region.
    pub host: String,
    /// When it claimed, or when it wrote the object that isn't ours.
    pub since: Timestamp,
    /// The newest log object of its epoch here.
    pub newest: Option<LogSeq>,
}

impl Foreign {
    /// The error that names it.
    #[must_use]
    pub fn error(&self, source: &SourceName) -> LedgerError {
        LedgerError::Fenced {
            source_name: source.clone(),
            epoch: self.epoch,
            writer: self.writer,
            host: self.host.clone(),
            since: self.since,
        }
    }
}

/// The newest object of our log in a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastObject {
    /// Its place.
    pub seq: LogSeq,
    /// Its link.
    pub link: Hash,
    /// The attempt that created it.
    pub put: PutId,
}

/// What a region shows a writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegionView {
    /// Nobody ever claimed the source here.
    Free,
    /// Claimed before, not by our epoch yet: [`join`](super::join) it before writing.
    NotJoined {
        /// The highest epoch here.
        highest: Epoch,
    },
    /// Ours.
    Ours {
        /// The newest object; none if nothing was shipped here yet.
        last: Option<LastObject>,
    },
    /// Another writer's.
    Foreign(Foreign),
}

/// A writer, as its own state directory knows it.
pub struct Own<'a> {
    /// The state directory.
    pub writer: WriterId,
    /// Its epoch.
    pub epoch: Epoch,
    /// The link of the object that it sealed under a sequence, if it ever did: a cloned or restored
    /// state directory has the same ids and is told apart by this alone.
    pub link_of: &'a (dyn Fn(LogSeq) -> Option<Hash> + Sync),
}

impl std::fmt::Debug for Own<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Own({}, epoch {})", self.writer.short(), self.epoch)
    }
}

/// What a dense name of the log holds.
enum Held {
    Log(Box<Verified<LogHead>>),
    Fence(Box<Verified<FenceHead>>),
}

/// Looks at a region's head with a writer's eyes. Without `own` (a new source, or lost state) every
/// claim is another's.
///
/// # Errors
/// The region's, or what is wrong with the objects that decide.
pub async fn inspect(
    store: &dyn ReadStore,
    keyring: &Keyring,
    source: &SourceName,
    own: Option<&Own<'_>>,
) -> Result<RegionView> {
    let claims = claims(store, keyring, source).await?;
    let Some(highest) = claims.last() else {
        return Ok(RegionView::Free);
    };
    let Some(own) = own.filter(|own| own.epoch >= highest.head.epoch) else {
        return Ok(RegionView::Foreign(
            claimed_by(store, source, highest).await?,
        ));
    };
    let Some(claim) = claims.iter().find(|claim| claim.head.epoch == own.epoch) else {
        return Ok(RegionView::NotJoined {
            highest: highest.head.epoch,
        });
    };
    if claim.head.writer != own.writer {
        return Ok(RegionView::Foreign(claimed_by(store, source, claim).await?));
    }
    let known = |seq| keys::log(source, own.epoch, LogSeq(seq));
    let Some(last) = newest_name(store, &keys::logs(source, own.epoch), known).await? else {
        return Ok(RegionView::Ours { last: None });
    };
    let key = keys::log(source, own.epoch, LogSeq(last));
    match held(store, keyring, &key).await? {
        Held::Fence(fence) => Ok(RegionView::Foreign(Foreign {
            epoch: fence.head.by_epoch,
            writer: fence.head.by_writer,
            host: String::new(),
            since: fence.head.at,
            newest: None,
        })),
        Held::Log(object) => {
            let (seq, link) = (object.head.seq, object.link);
            if (own.link_of)(seq) == Some(link) {
                let last = LastObject {
                    seq,
                    link,
                    put: object.head.put,
                };
                return Ok(RegionView::Ours { last: Some(last) });
            }
            // Our own ids and not our object: another life of this state directory.
            Ok(RegionView::Foreign(Foreign {
                epoch: own.epoch,
                writer: claim.head.writer,
                host: claim.head.host.clone(),
                since: object.head.captured_at,
                newest: Some(seq),
            }))
        }
    }
}

async fn claimed_by(
    store: &dyn ReadStore,
    source: &SourceName,
    claim: &Verified<ClaimHead>,
) -> Result<Foreign> {
    let epoch = claim.head.epoch;
    let name = |seq| keys::log(source, epoch, LogSeq(seq));
    let newest = newest_name(store, &keys::logs(source, epoch), name).await?;
    Ok(Foreign {
        epoch,
        writer: claim.head.writer,
        host: claim.head.host.clone(),
        since: claim.head.at,
        newest: newest.map(LogSeq),
    })
}

/// The claims of a source that an enrolled agent signed, by epoch. Damaged and forged ones don't
/// decide who writes.
pub(super) async fn claims(
    store: &dyn ReadStore,
    keyring: &Keyring,
    source: &SourceName,
) -> Result<Vec<Verified<ClaimHead>>> {
    let mut good = Vec::new();
    for entry in list_all(store, &keys::claims(source)).await? {
        if claim_name(&entry.key).is_none() {
            continue;
        }
        let read = read_verified::<ClaimHead>(store, &entry.key, Some(entry.size)).await;
        match read {
            Ok(claim) if keyring.accept(&claim, &[Role::Agent]).is_ok() => good.push(claim),
            Ok(_forged) => {}
            Err(error) if error.is_about_the_object() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(good)
}

/// Reads what a dense name of the log holds.
async fn held(store: &dyn ReadStore, keyring: &Keyring, key: &Key) -> Result<Held> {
    let bytes = head_bytes(store, key).await?;
    match verify_head::<FenceHead>(key, &bytes, None) {
        Ok(fence) => {
            keyring.accept(&fence, &[Role::Agent, Role::Keeper])?;
            Ok(Held::Fence(Box::new(fence)))
        }
        Err(LedgerError::Format {
            source: FormatError::Kind { .. },
            ..
        }) => {
            let object = verify_head::<LogHead>(key, &bytes, None)?;
            keyring.accept(&object, &[Role::Agent])?;
            Ok(Held::Log(Box::new(object)))
        }
        Err(error) => Err(error),
    }
}

/// The fence at a name, or `None` where a log object stands.
pub(super) async fn fence_at(
    store: &dyn ReadStore,
    keyring: &Keyring,
    key: &Key,
) -> Result<Option<FenceHead>> {
    Ok(match held(store, keyring, key).await? {
        Held::Fence(fence) => Some(fence.head),
        Held::Log(_) => None,
    })
}

/// The link of the log object at a name.
pub(super) async fn link_at(store: &dyn ReadStore, keyring: &Keyring, key: &Key) -> Result<Hash> {
    match held(store, keyring, key).await? {
        Held::Log(object) => Ok(object.link),
        Held::Fence(_) => Err(LedgerError::Chain {
            key: key.to_string(),
            why: "a fence stands where the epoch's last object was".to_owned(),
        }),
    }
}

/// Names looked at in one listing request once the end is near.
const NEAR_END: usize = 1000;

/// The highest dense number below `prefix`, found by a few dozen listings however long the log is.
/// `name` makes the key of a number.
///
/// # Errors
/// The store's.
pub async fn newest_name(
    store: &dyn ReadStore,
    prefix: &str,
    name: impl Fn(u64) -> Key,
) -> Result<Option<u64>> {
    let after = |from: Option<Key>| async move { store.list(prefix, from.as_ref(), 1).await };
    let number = |key: &Key| keys::dense(key).ok().map(|(_, _, seq)| seq);
    let first = after(None).await?;
    let Some(mut low) = first.entries.first().and_then(|entry| number(&entry.key)) else {
        return Ok(None);
    };
    // Gallops until nothing follows, then halves the span between.
    let mut step: u64 = 1024;
    let mut high = None;
    loop {
        let probe = match high {
            None => low.saturating_add(step),
            Some(high) if high - low <= NEAR_END as u64 => break,
            Some(high) => low + (high - low) / 2,
        };
        match after(Some(name(probe)))
            .await?
            .entries
            .first()
            .and_then(|entry| number(&entry.key))
        {
            Some(further) => {
                low = further;
                step = step.saturating_mul(4);
            }
            None => high = Some(probe),
        }
    }
    let mut last = name(low);
    loop {
        let page = store.list(prefix, Some(&last), NEAR_END).await?;
        if let Some(entry) = page.entries.last() {
            last = entry.key.clone();
        }
        if !page.more || page.entries.is_empty() {
            return Ok(number(&last));
        }
    }
}
