//! Claims and take-overs over real stores: who goes on, who is told what.

use std::sync::Arc;
use std::time::Duration;

use tidemark_format::heads::ClaimReason;
use tidemark_format::sign::SigningKey;
use tidemark_format::{Epoch, Hash, Key, LogSeq, RegionId, RegionName, SourceName, WriterId, keys};
use tidemark_host::TestRng;
use tidemark_ledger::fencing::{
    Own, RegionHandle, RegionView, Writer, claim_new, inspect, join, newest_name, take_over,
};
use tidemark_ledger::{Keyring, LedgerErrorKind, read_verified};
use tidemark_storage::wrap::{Fault, FaultControl, Faulty, When};
use tidemark_storage::{CreateStore as _, MemoryStore};

use crate::support::{self, Repo, app, second};

const ME: WriterId = WriterId([1; 16]);

fn handle(id: u8, store: &MemoryStore) -> RegionHandle {
    RegionHandle {
        name: RegionName::new(format!("r{id}")).unwrap(),
        id: RegionId([id; 16]),
        domain: format!("d{id}"),
        read: Arc::new(store.clone()),
        create: Arc::new(store.clone()),
    }
}

fn regions(stores: &[&MemoryStore]) -> Vec<RegionHandle> {
    (1..)
        .zip(stores)
        .map(|(id, store)| handle(id, store))
        .collect()
}

struct Agent {
    source: SourceName,
    key: SigningKey,
    keyring: Arc<Keyring>,
    rng: TestRng,
}

impl Agent {
    async fn of(repo: &Repo, seed: u64) -> Self {
        let (key, keyring) = (repo.agent.clone(), repo.keyring().await);
        Self {
            source: app(),
            key,
            keyring,
            rng: TestRng::seeded(seed),
        }
    }

    fn writer(&self, writer: WriterId) -> Writer<'_> {
        Writer {
            source: &self.source,
            writer,
            host: "db-1",
            key: &self.key,
            keyring: &self.keyring,
            rng: &self.rng,
            now: second(50),
        }
    }
}

fn nothing(_seq: LogSeq) -> Option<Hash> {
    None
}

#[tokio::test]
async fn a_new_source_is_claimed_once_and_an_interrupted_claim_is_gone_on_with() {
    let repo = Repo::new().await;
    let (a, b) = (repo.store.clone(), MemoryStore::new("b"));
    let agent = Agent::of(&repo, 1).await;
    // Only one region was reached before the crash.
    let half = claim_new(&regions(&[&a]), 1, &agent.writer(ME))
        .await
        .unwrap();
    let whole = claim_new(&regions(&[&a, &b]), 2, &agent.writer(ME))
        .await
        .unwrap();
    assert_eq!((half.epoch, whole.epoch), (Epoch(1), Epoch(1)));
    assert_eq!((whole.follows, whole.joined.len()), (None, 2));
    let other = agent.writer(WriterId([2; 16]));
    let error = claim_new(&regions(&[&a, &b]), 2, &other).await.unwrap_err();
    assert_eq!(error.kind(), LedgerErrorKind::Fenced);
    assert!(error.to_string().contains("db-1") && error.to_string().contains("take-over"));
}

#[tokio::test]
async fn of_two_agents_that_claim_at_once_exactly_one_goes_on() {
    let repo = Repo::new().await;
    for seed in 0..20 {
        let (a, b) = (MemoryStore::new("a"), MemoryStore::new("b"));
        let agent = Agent::of(&repo, seed).await;
        // The two name the regions in another order, and every request takes its own time.
        let (mut first, mut second) = (regions(&[&a, &b]), regions(&[&a, &b]));
        second.reverse();
        for region in first.iter_mut().chain(&mut second) {
            let control = FaultControl::seeded(seed);
            let now_and_then = When::Probability(0.5);
            control.add(
                None,
                "",
                now_and_then,
                Fault::Delay(Duration::from_millis(1)),
            );
            region.read = Arc::new(Faulty::new(Arc::clone(&region.read), control.clone()));
            region.create = Arc::new(Faulty::new(Arc::clone(&region.create), control.clone()));
        }
        let one = agent.writer(ME);
        let two = agent.writer(WriterId([2; 16]));
        let (one, two) = tokio::join!(claim_new(&first, 2, &one), claim_new(&second, 2, &two));
        assert!(one.is_ok() != two.is_ok(), "seed {seed}: {one:?} {two:?}");
    }
}

#[tokio::test]
async fn a_take_over_ends_the_old_epoch_at_the_highest_fence() {
    // GIVEN a writer that got six objects into one region and ten into the other.
    let repo = Repo::new().await;
    let mut old = support::Writer::claim(&repo, 1, &repo.agent).await;
    old.ship(6).await;
    let behind = repo.copy(|_key| false).await;
    old.ship(4).await;
    // WHEN another host takes over.
    let agent = Agent::of(&repo, 3).await;
    let both = regions(&[&behind, &repo.store]);
    let claimed = take_over(&both, 1, &agent.writer(ME)).await.unwrap();
    // THEN everything counts, and both regions are fenced where they stood.
    assert_eq!(claimed.epoch, Epoch(2));
    assert_eq!(claimed.follows, Some(old.end_at(9)));
    assert_ne!(claimed.writer, ME, "a take-over is a writer of its own");
    let fenced = |seq| keys::log(&app(), Epoch(1), LogSeq(seq));
    assert!(behind.keys().contains(&fenced(6)) && repo.store.keys().contains(&fenced(10)));
    // AND the old writer sees who fenced it.
    let link_of = |seq: LogSeq| old.links.get(usize::try_from(seq.0).unwrap()).copied();
    let own = Own {
        writer: WriterId([1; 16]),
        epoch: Epoch(1),
        link_of: &link_of,
    };
    let view = inspect(&repo.store, &agent.keyring, &app(), Some(&own))
        .await
        .unwrap();
    let RegionView::Foreign(foreign) = view else {
        panic!("{view:?}")
    };
    assert_eq!((foreign.epoch, foreign.writer), (Epoch(2), claimed.writer));
}

#[tokio::test]
async fn a_take_over_that_reaches_too_few_regions_says_so_and_can_be_repeated() {
    let repo = Repo::new().await;
    let mut old = support::Writer::claim(&repo, 1, &repo.agent).await;
    old.ship(3).await;
    let copy = repo.copy(|_key| false).await;
    let agent = Agent::of(&repo, 4).await;
    let mut both = regions(&[&repo.store, &copy]);
    let control = FaultControl::seeded(1);
    control.add(None, "", When::Always, Fault::FailBefore);
    both[1].read = Arc::new(Faulty::new(copy.clone(), control.clone()));
    // With W = 1 of two, both domains must be fenced.
    let error = take_over(&both, 1, &agent.writer(ME)).await.unwrap_err();
    assert_eq!(error.kind(), LedgerErrorKind::Region);
    assert!(error.to_string().contains("2 of 2"), "{error}");
    // With W = 2 one is enough; the other is joined when it is back.
    let claimed = take_over(&both, 2, &agent.writer(ME)).await.unwrap();
    assert_eq!(claimed.joined.len(), 1);
    let away = handle(2, &copy);
    let writer = agent.writer(claimed.writer);
    let own = Own {
        writer: claimed.writer,
        epoch: claimed.epoch,
        link_of: &nothing,
    };
    let view = inspect(&copy, &agent.keyring, &app(), Some(&own))
        .await
        .unwrap();
    assert_eq!(view, RegionView::NotJoined { highest: Epoch(1) });
    join(&away, claimed.epoch, &writer).await.unwrap();
    assert!(
        copy.keys()
            .contains(&keys::log(&app(), Epoch(1), LogSeq(3)))
    );
    let view = inspect(&copy, &agent.keyring, &app(), Some(&own))
        .await
        .unwrap();
    assert_eq!(view, RegionView::Ours { last: None });
    // A second join changes nothing.
    join(&away, claimed.epoch, &writer).await.unwrap();
}

#[tokio::test]
async fn an_abandoned_take_over_is_passed_over() {
    let repo = Repo::new().await;
    let mut old = support::Writer::claim(&repo, 1, &repo.agent).await;
    old.ship(3).await;
    let agent = Agent::of(&repo, 5).await;
    let one = regions(&[&repo.store]);
    take_over(&one, 1, &agent.writer(ME)).await.unwrap();
    let claimed = take_over(&one, 1, &agent.writer(ME)).await.unwrap();
    assert_eq!(
        (claimed.epoch, claimed.follows),
        (Epoch(3), Some(old.end_at(2)))
    );
    assert!(
        repo.store
            .keys()
            .contains(&keys::log(&app(), Epoch(2), LogSeq(0)))
    );
}

#[tokio::test]
async fn a_region_is_free_ours_or_anothers() {
    let repo = Repo::new().await;
    let keyring = repo.keyring().await;
    let own = |link_of| Own {
        writer: WriterId([1; 16]),
        epoch: Epoch(1),
        link_of,
    };
    let view = inspect(&repo.store, &keyring, &app(), None).await.unwrap();
    assert_eq!(view, RegionView::Free);
    let mut writer = support::Writer::claim(&repo, 1, &repo.agent).await;
    writer.ship(3).await;
    let known = |seq: LogSeq| writer.links.get(usize::try_from(seq.0).unwrap()).copied();
    let view = inspect(&repo.store, &keyring, &app(), Some(&own(&known)))
        .await
        .unwrap();
    let RegionView::Ours { last: Some(last) } = view else {
        panic!("{view:?}")
    };
    assert_eq!((last.seq, last.link), (LogSeq(2), writer.links[2]));
    // A restored old state of the same directory doesn't know that object.
    let old = |seq: LogSeq| known(seq).filter(|_| seq.0 < 2);
    let view = inspect(&repo.store, &keyring, &app(), Some(&own(&old)))
        .await
        .unwrap();
    assert!(matches!(view, RegionView::Foreign(_)), "{view:?}");
    // Lost state: whatever was claimed is another's.
    let view = inspect(&repo.store, &keyring, &app(), None).await.unwrap();
    let RegionView::Foreign(foreign) = view else {
        panic!("{view:?}")
    };
    assert_eq!(
        (foreign.host.as_str(), foreign.newest),
        ("db", Some(LogSeq(2)))
    );
}

#[tokio::test]
async fn a_claim_by_a_stranger_fences_nobody() {
    let repo = Repo::new().await;
    let stranger = SigningKey::from_secret(&[77; 32]);
    support::Writer::claim(&repo, 9, &stranger).await;
    let keyring = repo.keyring().await;
    let view = inspect(&repo.store, &keyring, &app(), None).await.unwrap();
    assert_eq!(view, RegionView::Free);
}

#[tokio::test]
async fn the_newest_name_is_found_without_listing_everything() {
    let store = MemoryStore::new("m");
    let name = |seq| keys::log(&app(), Epoch(1), LogSeq(seq));
    let prefix = keys::logs(&app(), Epoch(1));
    assert_eq!(newest_name(&store, &prefix, name).await.unwrap(), None);
    let mut next: u64 = 0;
    for upto in [1, 2, 1000, 1001, 1025, 1026, 7000] {
        while next < upto {
            store
                .create(&name(next), "x".into(), &tidemark_format::PutId([0; 16]))
                .await
                .unwrap();
            next += 1;
        }
        assert_eq!(
            newest_name(&store, &prefix, name).await.unwrap(),
            Some(upto - 1)
        );
    }
}

#[tokio::test]
async fn a_claim_says_why_it_was_made() {
    let repo = Repo::new().await;
    let agent = Agent::of(&repo, 6).await;
    let one = regions(&[&repo.store]);
    claim_new(&one, 1, &agent.writer(ME)).await.unwrap();
    take_over(&one, 1, &agent.writer(ME)).await.unwrap();
    let reason = async |epoch| {
        let key: Key = keys::claim(&app(), Epoch(epoch));
        let claim = read_verified::<tidemark_format::heads::ClaimHead>(&repo.store, &key, None);
        claim.await.unwrap().head.reason
    };
    assert_eq!(
        (reason(1).await, reason(2).await),
        (ClaimReason::New, ClaimReason::TakeOver)
    );
}
