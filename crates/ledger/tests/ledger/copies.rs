//! One keyring in several regions: the same bytes everywhere, or nothing is changed.

use std::sync::Arc;

use tidemark_format::heads::Role;
use tidemark_format::sign::SigningKey;
use tidemark_format::{Key, RegionName, keys};
use tidemark_host::RngExt as _;
use tidemark_ledger::custody::{Change, KeyringCopies, KeyringCopy, amend, first_keyring, member};
use tidemark_ledger::{Keyring, LedgerError, Result, Signed};
use tidemark_storage::{MemoryStore, ReadStore as _};

use crate::support::{Repo, second};

const REGIONS: [&str; 3] = ["a", "b", "c"];

fn empty() -> Vec<MemoryStore> {
    REGIONS.map(MemoryStore::new).to_vec()
}

async fn copies(repo: &Repo, stores: &[MemoryStore]) -> Result<KeyringCopies> {
    let mut copies = Vec::new();
    for (name, store) in REGIONS.iter().zip(stores) {
        let name = RegionName::new(*name).unwrap();
        let (read, create) = (Arc::new(store.clone()), Arc::new(store.clone()));
        let trust = repo.keys.root.trust();
        copies.push(KeyringCopy::load(name, read, create, &trust).await?);
    }
    KeyringCopies::new(copies)
}

/// A first version; each call signs another one.
fn first(repo: &Repo) -> Signed {
    let agent = member(Role::Agent, repo.agent.public(), "db".to_owned(), second(1));
    let recipients = vec![repo.keys.identity.entry(), repo.keys.escrow.entry()];
    let (root, put) = (&repo.keys.root, repo.rng.id());
    first_keyring(root, recipients, vec![agent], put, second(1)).unwrap()
}

/// The version after `keyring`, which enrols the agent of this number.
fn next(repo: &Repo, keyring: &Keyring, agent: u8) -> Signed {
    let key = SigningKey::from_secret(&[agent; 32]).public();
    let new = member(Role::Agent, key, "another".to_owned(), second(2));
    let change = vec![Change::AddMember(new)];
    amend(keyring, &repo.keys.root, change, repo.rng.id(), second(3)).unwrap()
}

async fn versions(store: &MemoryStore) -> Vec<Key> {
    let page = store.list(keys::KEYRINGS, None, 100).await.unwrap();
    page.entries.into_iter().map(|entry| entry.key).collect()
}

async fn publish(copies: &KeyringCopies, next: Option<&Signed>) -> Vec<Result<()>> {
    let published = copies.publish(next).await;
    published.into_iter().map(|one| one.result).collect()
}

#[tokio::test]
async fn the_first_version_is_the_same_object_in_every_region() {
    let (repo, stores) = (Repo::new().await, empty());
    let found = copies(&repo, &stores).await.unwrap();
    assert!(found.newest().is_none());
    let signed = first(&repo);
    for result in publish(&found, Some(&signed)).await {
        result.unwrap();
    }
    for store in &stores {
        assert_eq!(store.get(&signed.key).await.unwrap(), signed.bytes);
    }
}

#[tokio::test]
async fn regions_that_lag_get_what_they_missed_and_then_the_new_version() {
    // GIVEN three versions in a, one in b, none in c.
    let (repo, stores) = (Repo::new().await, empty());
    let (one, two, three) = {
        let store = &stores[0];
        let trust = repo.keys.root.trust();
        let one = first(&repo);
        one.create(store).await.unwrap();
        let keyring = Keyring::load(store, &trust).await.unwrap();
        let two = next(&repo, &keyring, 2);
        two.create(store).await.unwrap();
        let keyring = Keyring::load(store, &trust).await.unwrap();
        (one, two, next(&repo, &keyring, 3))
    };
    one.create(&stores[1]).await.unwrap();
    let found = copies(&repo, &stores).await.unwrap();
    assert_eq!(found.newest().unwrap().version(), 2);
    let lagging: Vec<_> = found.lagging().map(RegionName::as_str).collect();
    assert_eq!(lagging, ["b", "c"]);
    // WHEN the third is published.
    for result in publish(&found, Some(&three)).await {
        result.unwrap();
    }
    // THEN all hold the same three, and each can be read alone.
    for store in &stores {
        for signed in [&one, &two, &three] {
            assert_eq!(store.get(&signed.key).await.unwrap(), signed.bytes);
        }
        let keyring = Keyring::load(store, &repo.keys.root.trust()).await.unwrap();
        assert_eq!(keyring.version(), 3);
    }
    let found = copies(&repo, &stores).await.unwrap();
    assert_eq!(found.lagging().count(), 0);
    assert!(publish(&found, None).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn keyrings_that_were_signed_apart_are_refused_by_region_and_version() {
    let (repo, stores) = (Repo::new().await, empty());
    let one = first(&repo);
    for store in &stores {
        one.create(store).await.unwrap();
    }
    let keyring = Keyring::load(&stores[0], &repo.keys.root.trust()).await;
    let keyring = keyring.unwrap();
    next(&repo, &keyring, 2).create(&stores[0]).await.unwrap();
    next(&repo, &keyring, 3).create(&stores[2]).await.unwrap();
    let error = copies(&repo, &stores).await.unwrap_err();
    let LedgerError::KeyringsDisagree {
        region,
        other,
        version,
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!((region.as_str(), other.as_str(), *version), ("a", "c", 2));
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    assert!(!error.to_string().contains("can't be trusted"), "{error}");
}

#[tokio::test]
async fn a_version_that_lost_the_race_goes_into_no_further_region() {
    // GIVEN regions that were looked at before somebody else's second version came into the first.
    let (repo, stores) = (Repo::new().await, empty());
    let one = first(&repo);
    for store in &stores {
        one.create(store).await.unwrap();
    }
    let found = copies(&repo, &stores).await.unwrap();
    let keyring = found.newest().unwrap();
    next(&repo, keyring, 2).create(&stores[0]).await.unwrap();
    // WHEN ours is published.
    let results = publish(&found, Some(&next(&repo, keyring, 3))).await;
    // THEN no region has it, so that theirs can still reach all.
    assert!(results.iter().all(Result::is_err), "{results:?}");
    assert!(
        results[0]
            .as_ref()
            .unwrap_err()
            .to_string()
            .contains("somebody else")
    );
    for store in &stores[1..] {
        assert_eq!(versions(store).await, [keys::keyring(1)]);
    }
}
