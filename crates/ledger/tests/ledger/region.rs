//! The marker: one region, one id, whoever comes first.

use tidemark_format::{RepoId, keys};
use tidemark_host::TestRng;
use tidemark_ledger::{LedgerErrorKind, ensure_marker, ensure_readme, read_marker};
use tidemark_storage::{MemoryStore, ReadStore as _};

use crate::support::{Repo, second};

#[tokio::test]
async fn the_first_makes_the_marker_and_the_others_find_it() {
    let repo = Repo::new().await;
    let (store, rng) = (MemoryStore::new("m"), TestRng::seeded(1));
    assert_eq!(read_marker(&store).await.unwrap(), None);
    let id = repo.keys.repo();
    let first = ensure_marker(&store, &store, id, &repo.agent, &rng, second(1))
        .await
        .unwrap();
    let again = ensure_marker(&store, &store, id, &repo.agent, &rng, second(2))
        .await
        .unwrap();
    assert!(first.created && !again.created);
    assert_eq!((first.region, first.at), (again.region, again.at));
}

#[tokio::test]
async fn a_place_of_another_repository_is_refused() {
    let repo = Repo::new().await;
    let (store, rng) = (MemoryStore::new("m"), TestRng::seeded(1));
    let other = RepoId([9; 16]);
    ensure_marker(&store, &store, other, &repo.agent, &rng, second(1))
        .await
        .unwrap();
    let refused = ensure_marker(
        &store,
        &store,
        repo.keys.repo(),
        &repo.agent,
        &rng,
        second(2),
    )
    .await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), LedgerErrorKind::NoRepository);
    assert!(error.to_string().contains(&other.to_string()), "{error}");
}

#[tokio::test]
async fn restore_md_is_made_once_and_may_be_made_again() {
    let (store, rng) = (MemoryStore::new("m"), TestRng::seeded(1));
    let id = RepoId([9; 16]);
    ensure_readme(&store, id, &rng).await.unwrap();
    ensure_readme(&store, id, &rng).await.unwrap();
    let text = store.get(&keys::readme()).await.unwrap();
    assert!(
        String::from_utf8(text.to_vec())
            .unwrap()
            .contains(&id.to_string())
    );
}
