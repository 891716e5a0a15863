//! Whose regions these are, when the identity's root signed none of them: the wrong file or the wrong
//! regions, told apart from regions of ours in which somebody put another keyring.
//!
//! **Invariant.** Only where everything that says whose a region is (keyring, marker, the claims of its
//! sources) agrees on one other repository, in every region given, is it called another repository. One
//! object that says otherwise, or can't be read, and it stays what it looks like: a keyring that can't be
//! trusted.

use std::path::Path;

use tidemark_format::envelope::Head;
use tidemark_format::heads::{ClaimHead, RegionHead};
use tidemark_format::{Key, RepoId, keys};
use tidemark_host::config::Region as RegionConfig;
use tidemark_ledger::{Keyring, LedgerError, Placed, Trust, list_all, read_verified};
use tidemark_storage::{OpenOptions, ReadStore, region};

use crate::error::Error;
use crate::repository::{Settings, self_declared};

/// Claims that are looked at.
const CLAIMS_MAX: usize = 16;

/// Whether a region's keyring is one that the pinned root did not sign.
const fn is_another_root(error: &Error) -> bool {
    matches!(error, Error::Ledger(LedgerError::Keyring { .. }))
}

/// What a failure to open any region was, if all of them belong to one other repository; else that
/// failure.
pub(crate) async fn explained(
    error: Error,
    settings: &Settings,
    trust: Trust,
    options: &OpenOptions,
) -> Error {
    let first = match &error {
        Error::AllRegionsFailed { first, .. } => first,
        other => other,
    };
    if !is_another_root(first) {
        return error;
    }
    let mut held: Option<Trust> = None;
    for config in &settings.regions {
        match held_by(config, trust, options).await {
            Some(theirs) if held.is_none_or(|held| held == theirs) => held = Some(theirs),
            _ => return error,
        }
    }
    let names = settings.regions.iter().map(|region| region.name.as_str());
    held.map_or(error, |held| Error::OtherRepository {
        identity: of(settings.identity.as_deref()),
        own: trust.repo,
        regions: names.collect::<Vec<_>>().join(", "),
        held: held.repo,
        root: held.root,
    })
}

fn of(file: Option<&Path>) -> String {
    match file {
        Some(file) if file == Path::new("-") => "the identity from standard input".to_owned(),
        Some(file) => format!("the identity {}", file.display()),
        None => "the root that was pinned".to_owned(),
    }
}

/// The one other repository that everything in a region says it is of.
async fn held_by(config: &RegionConfig, ours: Trust, options: &OpenOptions) -> Option<Trust> {
    let store = region::open(&config.name, &config.url, options)
        .await
        .ok()?;
    let store = store.read.as_ref();
    let theirs = self_declared(store).await.ok()?;
    if theirs.repo == ours.repo || theirs.root == ours.root {
        return None;
    }
    Keyring::load(store, &theirs).await.ok()?;
    let is_theirs = is_of::<RegionHead>(store, &keys::region(), theirs.repo).await;
    if !is_theirs {
        return None;
    }
    for claim in list_all(store, keys::CLAIMS)
        .await
        .ok()?
        .iter()
        .take(CLAIMS_MAX)
    {
        if !is_of::<ClaimHead>(store, &claim.key, theirs.repo).await {
            return None;
        }
    }
    Some(theirs)
}

async fn is_of<H: Placed + Head>(store: &dyn ReadStore, key: &Key, repo: RepoId) -> bool {
    let read = read_verified::<H>(store, key, None).await;
    read.is_ok_and(|object| object.check_place(repo).is_ok())
}
