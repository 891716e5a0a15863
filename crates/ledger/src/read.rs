//! Reading `meta/`: whole listings, and heads by their first bytes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::future::try_join_all;
use tidemark_format::envelope::{Envelope, HEAD_PROBE};
use tidemark_format::{Epoch, FormatError, Key, SourceName, keys};
use tidemark_storage::{ListEntry, ReadStore};

use crate::object::{Placed, Verified};
use crate::{LedgerError, Result};

/// Keys per listing request: what S3 returns at most.
const LIST_PAGE: usize = 1000;
const HEAD_PROBE_BYTES: u64 = HEAD_PROBE as u64;

/// Every object whose key begins with `prefix`, in order.
///
/// # Errors
/// The store's.
pub async fn list_all(store: &dyn ReadStore, prefix: &str) -> Result<Vec<ListEntry>> {
    let mut all: Vec<ListEntry> = Vec::new();
    loop {
        let after = all.last().map(|entry| entry.key.clone());
        let page = store.list(prefix, after.as_ref(), LIST_PAGE).await?;
        let got = page.entries.len();
        all.extend(page.entries);
        if !page.more || got == 0 {
            return Ok(all);
        }
    }
}

/// The sources that have a claim here, with their claimed epochs.
///
/// # Errors
/// The store's.
pub async fn sources(store: &dyn ReadStore) -> Result<BTreeMap<SourceName, BTreeSet<Epoch>>> {
    let mut found: BTreeMap<SourceName, BTreeSet<Epoch>> = BTreeMap::new();
    for entry in list_all(store, keys::CLAIMS).await? {
        if let Some((source, epoch)) = claim_name(&entry.key) {
            found.entry(source).or_default().insert(epoch);
        }
    }
    Ok(found)
}

/// The sources that have anything here: a claim, or log, recovery points or bases whose claims were lost.
/// Four listings, however many objects there are.
///
/// # Errors
/// The store's.
pub async fn source_names(store: &dyn ReadStore) -> Result<BTreeSet<SourceName>> {
    let mut found: BTreeSet<SourceName> = sources(store).await?.into_keys().collect();
    let parts = ["log", "point", "base"].map(|kind| format!("meta/{kind}/"));
    let listed = try_join_all(parts.iter().map(|part| store.folders(part))).await?;
    for (part, names) in parts.iter().zip(listed) {
        for name in names {
            let Ok(source) = SourceName::new(&name) else {
                continue;
            };
            // A directory keeps the folders of what was deleted.
            if !found.contains(&source)
                && !store
                    .list(&format!("{part}{name}/"), None, 1)
                    .await?
                    .entries
                    .is_empty()
            {
                found.insert(source);
            }
        }
    }
    Ok(found)
}

/// What a key in `meta/claim/` names.
pub(crate) fn claim_name(key: &Key) -> Option<(SourceName, Epoch)> {
    let (source, epoch) = key.as_str().strip_prefix(keys::CLAIMS)?.split_once('/')?;
    Some((SourceName::new(source).ok()?, Epoch::from_key(epoch)?))
}

/// Everything of an object that stands before its body.
pub(crate) async fn head_bytes(store: &dyn ReadStore, key: &Key) -> Result<Bytes> {
    let probe = store.get_range(key, 0..HEAD_PROBE_BYTES).await?;
    let needed = Envelope::head_bytes(&probe).map_err(LedgerError::format(key))?;
    if needed <= probe.len() {
        return Ok(probe.slice(..needed));
    }
    let cut = || LedgerError::Format {
        key: key.to_string(),
        source: FormatError::Truncated { what: "object" },
    };
    let end = u64::try_from(needed).unwrap_or(u64::MAX);
    let whole = store.get_range(key, 0..end).await?;
    if whole.len() < needed {
        return Err(cut());
    }
    Ok(whole.slice(..needed))
}

/// Takes an object's first bytes apart: structure and signature, and the size if it was listed.
pub(crate) fn verify_head<H: Placed>(
    key: &Key,
    before_body: &[u8],
    listed: Option<u64>,
) -> Result<Verified<H>> {
    let envelope = Envelope::parse(before_body).map_err(LedgerError::format(key))?;
    let head = envelope.head::<H>().map_err(LedgerError::format(key))?;
    envelope
        .verify_signature()
        .map_err(LedgerError::format(key))?;
    let prefix_bytes = u64::try_from(envelope.prefix_len()).unwrap_or(u64::MAX);
    let size = prefix_bytes.saturating_add(head.body().map_or(0, |(len, _hash)| len));
    let object = Verified {
        key: key.clone(),
        head,
        link: envelope.link(),
        signer: envelope.signer,
        prefix_bytes,
        size,
    };
    check_size(&object, listed)?;
    Ok(object)
}

/// Compares the size that a region lists with the signed one.
pub(crate) fn check_size<H>(object: &Verified<H>, listed: Option<u64>) -> Result<()> {
    match listed.filter(|found| *found != object.size) {
        None => Ok(()),
        Some(found) => Err(LedgerError::Size {
            key: object.key.to_string(),
            found,
            signed: object.size,
        }),
    }
}

/// Reads the head of the object at `key` and checks structure and signature; with `listed`, also
/// that the stored size is the signed one. Role and place are the caller's to check.
///
/// # Errors
/// The store's, or what is wrong with the object.
pub async fn read_verified<H: Placed>(
    store: &dyn ReadStore,
    key: &Key,
    listed: Option<u64>,
) -> Result<Verified<H>> {
    verify_head(key, &head_bytes(store, key).await?, listed)
}
