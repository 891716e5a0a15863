//! A revoked key in a thief's hands: whatever date he writes, what the key had not signed when it
//! was revoked does not count, and what it had signed does.

use tidemark_format::envelope::{self, Envelope};
use tidemark_format::heads::{Anchors, BaseHead, ClaimHead, PointHead, Revocation};
use tidemark_format::{BaseNumber, Epoch, Hash, LogSeq, PointSeq, PutId, keys};
use tidemark_ledger::custody::{Change, anchors, valid_until};
use tidemark_ledger::history::{Beats, LoadOptions, LogState, PointsWanted, SourceHistory};
use tidemark_ledger::{LedgerErrorKind, Signed};
use tidemark_storage::{CreateStore as _, MemoryStore, ReadStore as _};

use crate::support::{Repo, Writer, app, plain, second};

/// Revokes the agent's key at 400, from what `regions` hold.
async fn revoke(repo: &Repo, regions: &[&MemoryStore]) -> Anchors {
    let key = repo.agent.public();
    let mut histories = Vec::new();
    let mut signed = Anchors::default();
    for store in regions {
        let beats = Beats::load(*store, &*repo.keyring().await).await.unwrap();
        signed.beat = signed.beat.max(beats.newest_of(&key));
        histories.push(repo.history_in(store).await.unwrap());
    }
    anchors(&histories, &key, &mut signed);
    let revocation = Revocation {
        valid_until: valid_until(&histories, &key).await.unwrap(),
        anchors: Some(signed.clone()),
        ..Revocation::new(second(400), "stolen".to_owned())
    };
    repo.change(vec![Change::RevokeMember { key, revocation }])
        .await;
    signed
}

fn refused(history: &SourceHistory) -> Vec<&str> {
    let troubles = history.troubles().iter();
    troubles
        .filter(|trouble| trouble.error.kind() == LedgerErrorKind::Key)
        .map(|trouble| trouble.key.as_str())
        .collect()
}

fn point_names(history: &SourceHistory, epoch: Epoch) -> Vec<u64> {
    let points = history.epoch(epoch).unwrap().points.iter();
    points.map(|point| point.head.seq.0).collect()
}

async fn put_in(store: &MemoryStore, point: &PointHead, writer: &Writer<'_>) {
    let signed = Signed::new(point, &writer.key).unwrap();
    signed.create(store).await.unwrap();
}

/// A base of the first generation like the one that is there.
async fn another_base(writer: &Writer<'_>, number: u32) -> String {
    let (store, rng) = (&writer.repo.store, &writer.repo.rng);
    let place = |number| keys::base(&app(), writer.epoch, LogSeq(0), BaseNumber(number));
    let first = store.get(&place(0)).await.unwrap();
    let (_, head) = Envelope::open::<BaseHead>(&first).unwrap();
    let head = BaseHead {
        number: BaseNumber(number),
        parent: writer.base,
        put: tidemark_host::RngExt::id::<PutId>(rng),
        ..head
    };
    let bytes = envelope::encode(&head, &writer.key, b"body").unwrap();
    store
        .create(&place(number), bytes.into(), &head.put)
        .await
        .unwrap();
    place(number).to_string()
}

#[tokio::test]
async fn whatever_date_a_thief_writes_only_what_the_key_had_signed_counts() {
    // GIVEN an agent with a log, two points, a base and a beat, revoked at 400
    let repo = Repo::new().await;
    let mut writer = plain(&repo).await;
    writer.beat(3, 9, 200).await;
    revoke(&repo, &[&repo.store]).await;
    // WHEN a thief of its key writes objects that all say they are from before
    let point = Signed::new(&writer.point_head(9), &writer.key).unwrap();
    writer.point(9).await;
    let base = another_base(&writer, 1).await;
    writer.beat(4, 9, 390).await;
    let mut claimed = Writer::claim(&repo, 2, &writer.key).await;
    claimed.ship(1).await;
    writer.fence(10, 2, &writer.key).await;
    // THEN each of them is refused by name
    let history = repo.history().await.unwrap();
    let claim = keys::claim(&app(), Epoch(2)).to_string();
    let fence = keys::log(&app(), Epoch(1), LogSeq(10)).to_string();
    let found = refused(&history);
    for wanted in [point.key.as_str(), &base, &claim, &fence] {
        assert!(found.contains(&wanted), "{wanted} in {found:?}");
    }
    let beats = Beats::load(&repo.store, &*repo.keyring().await)
        .await
        .unwrap();
    assert_eq!(beats.newest_of(&writer.key.public()), Some(3));
    assert_eq!(beats.troubles.len(), 1);
    // AND what it had signed counts as before
    let epoch = history.epoch(Epoch(1)).unwrap();
    assert_eq!(point_names(&history, Epoch(1)), [0, 1]);
    assert_eq!(epoch.bases.len(), 1);
    assert!(epoch.claim.is_some() && epoch.fence.is_none());
    assert_eq!(history.newest().unwrap().epoch, Epoch(1));
    assert_eq!(history.newest_point().unwrap().head.seq, PointSeq(1));
    assert_eq!(history.tail().await.unwrap().last().unwrap().seq, LogSeq(9));
}

#[tokio::test]
async fn forged_points_do_not_hide_the_last_good_one_from_a_quick_look() {
    let repo = Repo::new().await;
    let mut writer = plain(&repo).await;
    revoke(&repo, &[&repo.store]).await;
    for log_seq in [7, 8, 9] {
        writer.point(log_seq).await;
    }
    let keyring = repo.keyring().await;
    let options = LoadOptions {
        points: PointsWanted::Newest(1),
    };
    let store = std::sync::Arc::new(repo.store.clone());
    let history = SourceHistory::load(store, keyring, &app(), &Beats::default(), &options)
        .await
        .unwrap();
    assert_eq!(history.newest_point().unwrap().head.seq, PointSeq(1));
}

#[tokio::test]
async fn a_region_that_was_behind_at_the_revocation_can_not_be_filled_up_with_forgeries() {
    // GIVEN two regions, of which one holds log 0 to 7 and point 0 only
    let repo = Repo::new().await;
    let writer = plain(&repo).await;
    let late = |key: &tidemark_format::Key| {
        let log = |seq| keys::log(&app(), Epoch(1), LogSeq(seq));
        [log(8), log(9), keys::point(&app(), Epoch(1), PointSeq(1))].contains(key)
    };
    let behind = repo.copy(late).await;
    let signed = revoke(&repo, &[&behind, &repo.store]).await;
    let listed: Vec<u64> = signed.points.iter().map(|last| last.seq.0).collect();
    assert_eq!(
        listed,
        [1, 0],
        "the furthest first, then the other region's"
    );
    // WHEN a thief writes what is missing there, linked to what is there
    let forged = PointHead {
        seq: PointSeq(1),
        prev: Some(writer.points[0]),
        name: Some("forged".to_owned()),
        ..writer.point_head(6)
    };
    put_in(&behind, &forged, &writer).await;
    let mut head = writer.head();
    (head.seq, head.prev) = (LogSeq(8), Some(writer.links[7]));
    let bytes = envelope::encode(&head, &writer.key, b"body").unwrap();
    let place = keys::log(&app(), Epoch(1), LogSeq(8));
    behind
        .create(&place, bytes.into(), &head.put)
        .await
        .unwrap();
    let newest = repo.keyring().await.version();
    let keyring = keys::keyring(newest);
    let version = repo.store.get(&keyring).await.unwrap();
    behind
        .create(&keyring, version, &PutId([3; 16]))
        .await
        .unwrap();
    // THEN neither counts there
    let history = repo.history_in(&behind).await.unwrap();
    assert_eq!(point_names(&history, Epoch(1)), [0]);
    let log = history.whole_log(Epoch(1)).await.unwrap();
    let LogState::Damaged(error) = &log[8].state else {
        panic!("{:?}", log[8])
    };
    assert_eq!(error.kind(), LedgerErrorKind::Key);
    assert!(log[..8].iter().all(|entry| entry.state.object().is_some()));
    // AND the other region shows all that the key had signed
    let history = repo.history().await.unwrap();
    assert_eq!(point_names(&history, Epoch(1)), [0, 1]);
    let log = history.whole_log(Epoch(1)).await.unwrap();
    assert!(log.iter().all(|entry| entry.state.object().is_some()));
}

#[tokio::test]
async fn a_point_in_the_place_of_a_lost_one_does_not_hang_on_the_anchor() {
    let repo = Repo::new().await;
    let writer = plain(&repo).await;
    revoke(&repo, &[&repo.store]).await;
    let lost = keys::point(&app(), Epoch(1), PointSeq(0));
    let region = repo.copy(|key| *key == lost).await;
    let forged = PointHead {
        seq: PointSeq(0),
        prev: None,
        ..writer.point_head(3)
    };
    put_in(&region, &forged, &writer).await;
    let history = repo.history_in(&region).await.unwrap();
    assert_eq!(refused(&history), [lost.as_str()]);
    assert_eq!(point_names(&history, Epoch(1)), [1]);
}

#[tokio::test]
async fn a_base_that_the_last_one_does_not_build_on_is_refused() {
    let repo = Repo::new().await;
    let mut writer = plain(&repo).await;
    another_base(&writer, 1).await;
    revoke(&repo, &[&repo.store]).await;
    let history = repo.history().await.unwrap();
    assert_eq!(history.epoch(Epoch(1)).unwrap().bases.len(), 2);
    // A complete base in place of the lost first one: the second builds on another.
    let first = keys::base(&app(), Epoch(1), LogSeq(0), BaseNumber(0));
    let region = repo.copy(|key| *key == first).await;
    let bytes = repo.store.get(&first).await.unwrap();
    let (_, head) = Envelope::open::<BaseHead>(&bytes).unwrap();
    let head = BaseHead {
        image_bytes: 2,
        ..head
    };
    let bytes = envelope::encode(&head, &writer.key, b"body").unwrap();
    region
        .create(&first, bytes.into(), &head.put)
        .await
        .unwrap();
    let history = repo.history_in(&region).await.unwrap();
    assert_eq!(refused(&history), [first.as_str()]);
    // AND a generation that the revocation does not know has no base at all.
    writer.base = None;
    let head = BaseHead {
        generation: LogSeq(5),
        ..head
    };
    let place = keys::base(&app(), Epoch(1), LogSeq(5), BaseNumber(0));
    let bytes = envelope::encode(&head, &writer.key, b"body").unwrap();
    repo.store
        .create(&place, bytes.into(), &head.put)
        .await
        .unwrap();
    let history = repo.history().await.unwrap();
    assert_eq!(refused(&history), [place.as_str()]);
}

#[tokio::test]
async fn a_revocation_of_before_anchors_judges_by_the_stated_time() {
    let repo = Repo::new().await;
    let mut writer = plain(&repo).await;
    let key = repo.agent.public();
    let histories = [repo.history().await.unwrap()];
    let revocation = Revocation {
        valid_until: valid_until(&histories, &key).await.unwrap(),
        ..Revocation::new(second(196), "stolen".to_owned())
    };
    assert!(
        !serde_json::to_string(&revocation)
            .unwrap()
            .contains("anchors"),
        "what is not there is not written"
    );
    repo.change(vec![Change::RevokeMember { key, revocation }])
        .await;
    // Of 195, and the next of 205.
    writer.point(9).await;
    writer.links.push(Hash([0; 32]));
    writer.point(10).await;
    let history = repo.history().await.unwrap();
    assert_eq!(point_names(&history, Epoch(1)), [0, 1, 2]);
}

#[tokio::test]
async fn claims_and_fences_of_a_revoked_key_count_if_it_had_made_them() {
    // GIVEN an epoch that the agent took over from another writer, whom it fenced
    let repo = Repo::new().await;
    let other = tidemark_format::sign::SigningKey::from_secret(&[2; 32]);
    repo.enrol(&other).await;
    let mut first = Writer::claim(&repo, 1, &other).await;
    first.ship(3).await;
    first.fence(3, 2, &repo.agent).await;
    let mut second_epoch = Writer::claim(&repo, 2, &repo.agent).await;
    second_epoch.follow(first.end_at(2)).await;
    let signed = revoke(&repo, &[&repo.store]).await;
    assert_eq!((signed.claims.len(), signed.fences.len()), (1, 1));
    // THEN both still count after the revocation
    let history = repo.history().await.unwrap();
    assert!(refused(&history).is_empty(), "{:?}", history.troubles());
    assert!(history.epoch(Epoch(1)).unwrap().fence.is_some());
    assert!(history.epoch(Epoch(2)).unwrap().claim.is_some());
    // AND another claim in its place does not
    let claim = keys::claim(&app(), Epoch(2));
    let region = repo.copy(|key| *key == claim).await;
    let bytes = repo.store.get(&claim).await.unwrap();
    let (_, head) = Envelope::open::<ClaimHead>(&bytes).unwrap();
    let head = ClaimHead {
        host: "thief".to_owned(),
        ..head
    };
    Signed::new(&head, &repo.agent)
        .unwrap()
        .create(&region)
        .await
        .unwrap();
    let history = repo.history_in(&region).await.unwrap();
    assert_eq!(refused(&history), [claim.as_str()]);
}
