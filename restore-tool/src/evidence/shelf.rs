//! Reads evidence from where it stands: regions, this machine's own copy, the folder of a pack.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use tidemark_format::evidence::RECORD_BYTES_MAX;
use tidemark_format::heads::EvidenceAnchor;
use tidemark_format::sign::PublicKey;
use tidemark_format::{KeyId, keys};
use tidemark_ledger::custody::enrolments;
use tidemark_ledger::{Keyring, LedgerError, list_all};
use tidemark_storage::{ErrorKind, ReadStore};

use super::chain::{Chain, Finding, Place, Weight, judge};
use super::local::Local;
use super::record::Record;
use super::reviews;
use crate::error::Result;
use crate::repository::Repository;

/// Records read from one place at a time.
const AT_ONCE: usize = 16;
/// Names of somebody else's bytes that are passed over in search of a signer's last record.
const PASSED_MAX: usize = 64;

/// Everything that is on file, judged.
#[derive(Debug)]
pub struct Shelf {
    /// A chain for each signer.
    pub chains: Vec<Chain>,
    /// Regions that were read.
    pub regions: Vec<String>,
    /// Regions that weren't, and why.
    pub away: Vec<(String, String)>,
}

/// Reads every region of `repository`, and this machine's own records if there is a state folder.
///
/// # Errors
/// No region can be read.
pub async fn read(repository: &Repository, state: Option<&Path>) -> Result<Shelf> {
    read_newest(repository, state, usize::MAX).await
}

/// The same of each signer's newest records alone: enough for an overview, not for a verdict on a chain.
///
/// # Errors
/// No region can be read.
pub async fn read_newest(
    repository: &Repository,
    state: Option<&Path>,
    at_most: usize,
) -> Result<Shelf> {
    let mut away: Vec<(String, String)> = repository
        .away
        .iter()
        .map(|away| (away.name.to_string(), tidemark_storage::chain(&away.error)))
        .collect();
    let all = repository.regions.iter().map(|region| async move {
        let store = region.store.read.as_ref();
        let held = held_by(store, &repository.keyring, at_most).await;
        (region.name().to_string(), held)
    });
    let mut regions = Vec::new();
    let mut first = None;
    for (name, held) in join_all(all).await {
        match held {
            Ok(held) => regions.push((name, held)),
            Err(error) => {
                away.push((name, tidemark_storage::chain(&error)));
                first = first.or(Some(error));
            }
        }
    }
    if let (Some(error), true) = (first, regions.is_empty()) {
        return Err(error.into());
    }
    Ok(assemble(regions, away, &repository.keyring, state))
}

/// Reads one store by itself: a pack.
///
/// # Errors
/// It can't be read.
pub(super) async fn of_store(
    name: &str,
    store: &dyn ReadStore,
    keyring: &Keyring,
) -> Result<Shelf> {
    let held = held_by(store, keyring, usize::MAX).await?;
    let regions = vec![(name.to_owned(), held)];
    Ok(assemble(regions, Vec::new(), keyring, None))
}

fn assemble(
    regions: Vec<(String, Held)>,
    away: Vec<(String, String)>,
    keyring: &Keyring,
    state: Option<&Path>,
) -> Shelf {
    let names = regions.iter().map(|(name, _)| name.clone()).collect();
    let mut asking = BTreeMap::new();
    let mut by_signer: BTreeMap<KeyId, Vec<Place>> = BTreeMap::new();
    for (_, held) in &regions {
        asking.extend(held.asking.iter().map(|(id, key)| (*id, *key)));
        for signer in held.signers.keys() {
            by_signer.entry(*signer).or_default();
        }
    }
    // This machine may serve several repositories: only who is known here belongs to this one.
    let members = keyring.members().iter().map(|member| member.key.id());
    let known: BTreeSet<KeyId> = members.chain(asking.keys().copied()).collect();
    for signer in state.map(Local::signers).unwrap_or_default() {
        if known.contains(&signer) {
            by_signer.entry(signer).or_default();
        }
    }
    for (name, mut held) in regions {
        for (signer, places) in &mut by_signer {
            let mut place = held.signers.remove(signer).unwrap_or_default();
            place.name.clone_from(&name);
            places.push(place);
        }
    }
    let mut chains = Vec::new();
    for (signer, mut places) in by_signer {
        let local = state.map(|state| Local::at(state, signer).place());
        let (local, waiting) = local.unwrap_or_default();
        places.extend(local);
        let mut chain = judge(signer, &places, keyring, &asking);
        chain.findings.extend(waits(signer, waiting));
        chains.push(chain);
    }
    if away.is_empty() {
        // What is missing here could be in a region that was not read.
        for finding in reviews::cut_off(&chains) {
            let own = chains.iter().position(|one| one.signer == finding.signer);
            if let Some(chain) = chains.get_mut(own.unwrap_or_default()) {
                chain.findings.push(finding);
            }
        }
    }
    Shelf {
        chains,
        regions: names,
        away,
    }
}

/// Records that wait are in no chain yet.
fn waits(signer: KeyId, waiting: usize) -> Option<Finding> {
    let records = tidemark_host::output::count(waiting, "record");
    (waiting > 0).then(|| Finding {
        weight: Weight::Exception,
        what: "waiting",
        signer,
        seq: None,
        place: None,
        why: format!(
            "{records} on this machine could not be stored in any region yet; the next command that leaves a record sends \
             them first"
        ),
    })
}

struct Held {
    signers: BTreeMap<KeyId, Place>,
    asking: BTreeMap<KeyId, PublicKey>,
}

async fn held_by(
    store: &dyn ReadStore,
    keyring: &Keyring,
    at_most: usize,
) -> std::result::Result<Held, LedgerError> {
    let mut signers = BTreeMap::new();
    for folder in store.folders(keys::EVIDENCE).await? {
        if let Ok(signer) = folder.trim_end_matches('/').parse::<KeyId>() {
            signers.insert(signer, place_of(store, signer, at_most).await?);
        }
    }
    let asking = enrolments(store, keyring).await?;
    let asking = asking.into_iter().map(|request| request.head.key);
    Ok(Held {
        signers,
        asking: asking.map(|key| (key.id(), key)).collect(),
    })
}

async fn place_of(
    store: &dyn ReadStore,
    signer: KeyId,
    at_most: usize,
) -> std::result::Result<Place, LedgerError> {
    let mut place = Place::default();
    let entries = list_all(store, &keys::evidences(signer)).await?;
    let mut numbered: Vec<_> = entries
        .into_iter()
        .filter_map(|entry| Some((keys::evidence_number(&entry.key)?, entry)))
        .collect();
    numbered.sort_by_key(|(number, _)| *number);
    let left_out = numbered.len().saturating_sub(at_most);
    let read = numbered.split_off(left_out);
    place.from = match (left_out, read.first()) {
        (0, _) | (_, None) => 0,
        (_, Some((first, _))) => *first,
    };
    let mut wanted = Vec::new();
    for (number, entry) in read {
        if usize::try_from(entry.size).is_ok_and(|size| size <= RECORD_BYTES_MAX) {
            wanted.push((number, entry.key));
        } else {
            let why = "it is larger than a record may be".to_owned();
            place.unfit.insert(number, why);
        }
    }
    let reads = wanted
        .into_iter()
        .map(|(number, key)| async move { (number, store.get(&key).await) });
    let mut reads = futures_util::stream::iter(reads).buffer_unordered(AT_ONCE);
    while let Some((number, read)) = reads.next().await {
        match read {
            Ok(bytes) => {
                place.records.insert(number, bytes);
            }
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => {
                place.unfit.insert(number, tidemark_storage::chain(&error));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(place)
}

/// The last record that `key` signed, in each of several regions; where they differ, each of them.
///
/// # Errors
/// A region can't be read.
pub async fn last_records<'a>(
    stores: impl Iterator<Item = &'a dyn ReadStore>,
    key: &PublicKey,
) -> Result<Vec<EvidenceAnchor>> {
    let known = BTreeMap::from([(key.id(), *key)]);
    let mut found = BTreeSet::new();
    for store in stores {
        let entries = list_all(store, &keys::evidences(key.id())).await?;
        let numbers = entries
            .iter()
            .filter_map(|entry| keys::evidence_number(&entry.key));
        let numbers: BTreeSet<u64> = numbers.collect();
        for number in numbers.into_iter().rev().take(PASSED_MAX) {
            let bytes = store.get(&keys::evidence(key.id(), number)).await?;
            let record = Record::read(&bytes, key.id(), &known).ok();
            if let Some(record) = record.filter(|record| record.seq() == number) {
                found.insert((Reverse(number), record.sha256));
                break;
            }
        }
    }
    let anchors = found.into_iter();
    Ok(anchors
        .map(|(Reverse(seq), sha256)| EvidenceAnchor { seq, sha256 })
        .collect())
}
