//! What counts in a region, and what is said of what doesn't.

use tidemark_format::envelope;
use tidemark_format::heads::{LogHead, PointHead};
use tidemark_format::sign::SigningKey;
use tidemark_format::{Epoch, Hash, LogSeq, PointSeq, RegionName, keys};
use tidemark_ledger::history::{
    Expect, Freshness, Hole, HoleKind, LogState, PointsWanted, SourceHistory, Standing, holes,
};
use tidemark_ledger::{LedgerError, LedgerErrorKind, Signed};
use tidemark_storage::wrap::{Fault, FaultControl, Faulty, When};
use tidemark_storage::{CreateStore as _, DeleteStore as _, ReadStore as _};

use crate::support::{Repo, Writer, app, plain, second};

fn log_key(seq: u64) -> tidemark_format::Key {
    keys::log(&app(), Epoch(1), LogSeq(seq))
}

async fn damaged(history: &SourceHistory, seq: u64) -> String {
    let log = history.whole_log(Epoch(1)).await.unwrap();
    let entry = log.iter().find(|entry| entry.seq == LogSeq(seq)).unwrap();
    match &entry.state {
        LogState::Damaged(error) => {
            assert_eq!(error.kind(), LedgerErrorKind::Integrity);
            error.to_string()
        }
        other => panic!("{seq}: {other:?}"),
    }
}

#[tokio::test]
async fn a_plain_history_shows_log_points_base_and_tail() {
    let repo = Repo::new().await;
    plain(&repo).await;
    let history = repo.history().await.unwrap();
    assert!(history.troubles().is_empty(), "{:?}", history.troubles());
    let newest = history.newest().unwrap();
    assert_eq!((newest.points.len(), newest.bases.len()), (2, 1));
    assert_eq!(newest.standing, Standing::Live);
    let log = history.whole_log(Epoch(1)).await.unwrap();
    assert!(log.iter().all(|entry| entry.state.object().is_some()));
    let tail: Vec<u64> = history
        .tail()
        .await
        .unwrap()
        .iter()
        .map(|entry| entry.seq.0)
        .collect();
    assert_eq!(tail, [7, 8, 9]);
    assert!(history.missing().is_empty() && newest.stray().is_empty());
}

#[tokio::test]
async fn an_unknown_source_names_those_there_are() {
    let repo = Repo::new().await;
    plain(&repo).await;
    let keyring = repo.keyring().await;
    let source = tidemark_format::SourceName::new("other").unwrap();
    let store = std::sync::Arc::new(repo.store.clone());
    let options = tidemark_ledger::history::LoadOptions::default();
    let beats = tidemark_ledger::history::Beats::default();
    let error = SourceHistory::load(store, keyring, &source, &beats, &options)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), LedgerErrorKind::Missing);
    assert!(error.to_string().contains("app"), "{error}");
}

#[tokio::test]
async fn past_the_newest_point_the_tail_ends_at_the_first_missing_object() {
    let repo = Repo::new().await;
    plain(&repo).await;
    repo.store.delete(&log_key(8)).await.unwrap();
    let history = repo.history().await.unwrap();
    let tail: Vec<u64> = history
        .tail()
        .await
        .unwrap()
        .iter()
        .map(|entry| entry.seq.0)
        .collect();
    assert_eq!(tail, [7]);
    assert_eq!(history.newest().unwrap().stray(), [LogSeq(9)]);
}

#[tokio::test]
async fn what_a_point_covers_and_is_not_there_is_missing_and_not_forgotten() {
    let repo = Repo::new().await;
    plain(&repo).await;
    for seq in 5..10 {
        repo.store.delete(&log_key(seq)).await.unwrap();
    }
    let history = repo.history().await.unwrap();
    let missing: Vec<_> = history
        .missing()
        .iter()
        .map(|run| (run.first.0, run.last.0))
        .collect();
    assert_eq!(missing, [(5, 6)]);
    let log = history.whole_log(Epoch(1)).await.unwrap();
    assert!(matches!(log[5].state, LogState::Missing) && log.len() == 7);
    let holes = holes(Epoch(1), &log);
    assert!(
        matches!(
            holes[..],
            [Hole {
                kind: HoleKind::Missing,
                ..
            }]
        ),
        "{holes:?}"
    );
    assert_eq!((holes[0].first, holes[0].last), (LogSeq(5), LogSeq(6)));
}

#[tokio::test]
async fn what_retention_took_from_the_beginning_is_not_missing() {
    let repo = Repo::new().await;
    plain(&repo).await;
    for seq in 0..3 {
        repo.store.delete(&log_key(seq)).await.unwrap();
    }
    assert!(repo.history().await.unwrap().missing().is_empty());
}

#[tokio::test]
async fn a_truncated_a_flipped_and_a_swapped_object_are_each_noticed() {
    let repo = Repo::new().await;
    plain(&repo).await;
    let bytes = repo.store.get(&log_key(2)).await.unwrap();
    repo.store
        .overwrite(&log_key(2), bytes.slice(..bytes.len() - 1));
    let mut flipped = repo.store.get(&log_key(4)).await.unwrap().to_vec();
    flipped[60] ^= 1;
    repo.store.overwrite(&log_key(4), flipped.into());
    let other = repo.store.get(&log_key(7)).await.unwrap();
    repo.store.overwrite(&log_key(6), other);
    let history = repo.history().await.unwrap();
    assert!(damaged(&history, 2).await.contains("truncated"));
    assert!(damaged(&history, 4).await.contains("damaged or forged"));
    assert!(damaged(&history, 6).await.contains("moved or swapped"));
}

#[tokio::test]
async fn an_object_that_does_not_follow_the_one_before_breaks_the_chain() {
    let repo = Repo::new().await;
    let mut writer = Writer::claim(&repo, 1, &repo.agent).await;
    writer.ship(3).await;
    let head = LogHead {
        prev: Some(Hash([3; 32])),
        ..writer.head()
    };
    writer.ship_head(&head).await;
    let history = repo.history().await.unwrap();
    assert!(damaged(&history, 3).await.contains("does not follow"));
    assert_eq!(history.tail().await.unwrap().len(), 3);
}

#[tokio::test]
async fn an_object_that_a_point_does_not_name_is_not_believed() {
    // The agent's own key signed both: only the point's link tells them apart.
    let repo = Repo::new().await;
    let writer = plain(&repo).await;
    let head = LogHead {
        seq: LogSeq(6),
        prev: Some(writer.links[5]),
        ..writer.head()
    };
    let bytes = envelope::encode(&head, &repo.agent, b"body").unwrap();
    repo.store.overwrite(&log_key(6), bytes.into());
    let history = repo.history().await.unwrap();
    assert!(damaged(&history, 6).await.contains("recovery point"));
}

#[tokio::test]
async fn an_object_by_a_stranger_is_a_key_error() {
    let repo = Repo::new().await;
    let mut writer = Writer::claim(&repo, 1, &repo.agent).await;
    writer.ship(2).await;
    writer.key = SigningKey::from_secret(&[66; 32]);
    writer.ship(1).await;
    let history = repo.history().await.unwrap();
    let log = history.whole_log(Epoch(1)).await.unwrap();
    let LogState::Damaged(error) = &log[2].state else {
        panic!("{log:?}")
    };
    assert!(
        matches!(**error, LedgerError::UnknownSigner { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_head_larger_than_the_first_read_is_read_whole() {
    let repo = Repo::new().await;
    let mut writer = Writer::claim(&repo, 1, &repo.agent).await;
    let mut head = writer.head();
    head.facts
        .insert("note".to_owned(), "x".repeat(9000).into());
    writer.ship_head(&head).await;
    writer.ship(1).await;
    let log = repo
        .history()
        .await
        .unwrap()
        .whole_log(Epoch(1))
        .await
        .unwrap();
    assert!(log.iter().all(|entry| entry.state.object().is_some()));
}

#[tokio::test]
async fn past_the_end_of_an_epoch_objects_points_and_bases_are_void() {
    let repo = Repo::new().await;
    let first = plain(&repo).await;
    let key = SigningKey::from_secret(&[2; 32]);
    repo.enrol(&key).await;
    let mut second = Writer::claim(&repo, 2, &key).await;
    second.follow(first.end_at(4)).await;
    let history = repo.history().await.unwrap();
    let old = history.epoch(Epoch(1)).unwrap();
    assert_eq!((old.next_seq(), old.void.len()), (LogSeq(5), 5));
    assert_eq!(
        (old.points.len(), old.void_points.len(), old.bases.len()),
        (1, 1, 1)
    );
    assert_eq!(history.newest().unwrap().epoch, Epoch(2));
    assert_eq!(history.newest_point().unwrap().head.log_seq, LogSeq(3));
    assert_eq!(history.whole_log(Epoch(1)).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_fenced_region_shows_the_late_copies_that_repair_brought() {
    let repo = Repo::new().await;
    let first = plain(&repo).await;
    let key = SigningKey::from_secret(&[2; 32]);
    repo.enrol(&key).await;
    let mut second = Writer::claim(&repo, 2, &key).await;
    second.follow(first.end_at(9)).await;
    // This region had only six objects when it was fenced.
    let late = |seq| keys::late_log(&app(), Epoch(1), LogSeq(seq));
    let behind = repo
        .copy(|key| (6..10).any(|seq| *key == log_key(seq)))
        .await;
    let fenced = Repo {
        store: behind.clone(),
        ..Repo::new().await
    };
    Writer {
        repo: &fenced,
        ..first_like(&first)
    }
    .fence(6, 2, &key)
    .await;
    let history = repo.history_in(&behind).await.unwrap();
    let missing: Vec<_> = history
        .missing()
        .iter()
        .map(|run| (run.first.0, run.last.0))
        .collect();
    assert_eq!(missing, [(6, 9)]);
    for seq in 6..10 {
        let bytes = repo.store.get(&log_key(seq)).await.unwrap();
        behind
            .create(&late(seq), bytes, &tidemark_format::PutId([0; 16]))
            .await
            .unwrap();
    }
    let history = repo.history_in(&behind).await.unwrap();
    let old = history.epoch(Epoch(1)).unwrap();
    assert_eq!(old.fence.as_ref().unwrap().head.seq, LogSeq(6));
    let log = history.whole_log(Epoch(1)).await.unwrap();
    assert_eq!(
        log.iter()
            .filter(|entry| entry.state.object().is_some())
            .count(),
        10
    );
}

fn first_like<'a>(writer: &Writer<'a>) -> Writer<'a> {
    Writer {
        repo: writer.repo,
        epoch: writer.epoch,
        key: writer.key.clone(),
        links: writer.links.clone(),
        points: writer.points.clone(),
        base: writer.base,
    }
}

#[tokio::test]
async fn regions_settle_where_an_epoch_ended_from_what_each_shows() {
    let repo = Repo::new().await;
    let first = plain(&repo).await;
    let key = SigningKey::from_secret(&[2; 32]);
    repo.enrol(&key).await;
    let mut second = Writer::claim(&repo, 2, &key).await;
    second.follow(first.end_at(4)).await;
    // This region lost the object that says where epoch 1 ended, and has a later one.
    second.ship(1).await;
    let zero = keys::log(&app(), Epoch(2), LogSeq(0));
    let without = repo.copy(|key| *key == zero).await;
    let alone = repo.history_in(&without).await.unwrap();
    let end = &alone.epoch(Epoch(1)).unwrap().standing;
    assert_eq!(*end, Standing::EndUnknown { by: Epoch(2) });
    let mut both = [alone, repo.history().await.unwrap()];
    SourceHistory::settle(&mut both);
    for history in &both {
        assert_eq!(history.epoch(Epoch(1)).unwrap().next_seq(), LogSeq(5));
    }
}

#[tokio::test]
async fn points_that_do_not_follow_one_another_are_troubles() {
    let repo = Repo::new().await;
    let writer = plain(&repo).await;
    let head = PointHead {
        prev: Some(Hash([3; 32])),
        ..writer.point_head(9)
    };
    repo.put(&Signed::new(&head, &repo.agent).unwrap()).await;
    let history = repo.history().await.unwrap();
    assert_eq!(history.newest_point().unwrap().head.log_seq, LogSeq(6));
    assert!(
        history.troubles()[0]
            .error
            .to_string()
            .contains("does not follow recovery point 1")
    );
    repo.store
        .delete(&keys::point(&app(), Epoch(1), PointSeq(1)))
        .await
        .unwrap();
    assert!(
        repo.history().await.unwrap().troubles()[0]
            .error
            .to_string()
            .contains("not all here")
    );
}

#[tokio::test]
async fn points_that_a_repaired_region_never_got_are_no_trouble() {
    let repo = Repo::new().await;
    let mut writer = Writer::claim(&repo, 1, &repo.agent).await;
    writer.ship(5).await;
    writer.base(1).await;
    writer.point(3).await;
    writer.point(4).await;
    writer.base(4).await;
    writer.ship(5).await;
    writer.point(8).await;
    let troubles = |history: &SourceHistory| history.troubles().len();
    assert_eq!(troubles(&repo.history().await.unwrap()), 0);
    // Not here, and the next one rests on a newer base: it was being repaired then.
    let second = keys::point(&app(), Epoch(1), PointSeq(1));
    repo.store.delete(&second).await.unwrap();
    let history = repo.history().await.unwrap();
    assert_eq!(troubles(&history), 0, "{:?}", history.troubles());
    assert_eq!(history.newest_point().unwrap().head.log_seq, LogSeq(8));
    // On one and the same base somebody removed it.
    writer.point(8).await;
    writer.point(9).await;
    let third = keys::point(&app(), Epoch(1), PointSeq(3));
    repo.store.delete(&third).await.unwrap();
    let history = repo.history().await.unwrap();
    let said = history.troubles()[0].error.to_string();
    assert!(said.contains("3 to 4 are not all here"), "{said}");
}

#[tokio::test]
async fn a_gap_object_is_on_the_chain_and_says_why() {
    let repo = Repo::new().await;
    let mut writer = Writer::claim(&repo, 1, &repo.agent).await;
    writer.ship(2).await;
    writer.ship_gap().await;
    writer.ship(1).await;
    let log = repo
        .history()
        .await
        .unwrap()
        .whole_log(Epoch(1))
        .await
        .unwrap();
    let gap = log[2].state.object().unwrap().head.gap.as_ref().unwrap();
    assert_eq!(gap.reason, "spool full");
    assert!(log[3].state.object().is_some());
    let holes = holes(Epoch(1), &log);
    assert!(matches!(&holes[..], [Hole { kind: HoleKind::Gap(why), .. }] if why == "spool full"));
}

#[tokio::test]
async fn the_newest_good_beat_counts_for_the_newest_epoch_only() {
    let repo = Repo::new().await;
    let writer = plain(&repo).await;
    writer.beat(1, 9, 250).await;
    writer.beat(2, 9, 310).await;
    let history = repo.history().await.unwrap();
    let caught_up = history.caught_up().unwrap();
    assert_eq!((caught_up.at, caught_up.here), (Some(second(310)), true));
    // A damaged newest beat: the one before it is taken.
    repo.store
        .overwrite(&keys::beat(repo.agent.public().id(), 2), "junk".into());
    assert_eq!(
        repo.history().await.unwrap().caught_up().unwrap().at,
        Some(second(250))
    );
    // A region without the object that the beat names is behind.
    let behind = repo.copy(|key| *key == log_key(9)).await;
    assert!(
        !repo
            .history_in(&behind)
            .await
            .unwrap()
            .caught_up()
            .unwrap()
            .here
    );
    let key = SigningKey::from_secret(&[2; 32]);
    repo.enrol(&key).await;
    let mut next = Writer::claim(&repo, 2, &key).await;
    next.follow(writer.end_at(9)).await;
    assert_eq!(repo.history().await.unwrap().caught_up(), None);
}

#[tokio::test]
async fn a_region_that_was_rolled_back_is_told_by_another_or_by_a_note() {
    let repo = Repo::new().await;
    let mut writer = plain(&repo).await;
    let rolled_back = repo.copy(|_key| false).await;
    writer.point(9).await;
    let (newest, older) = (
        repo.history().await.unwrap(),
        repo.history_in(&rolled_back).await.unwrap(),
    );
    let name = |text: &str| RegionName::new(text).unwrap();
    let tips = [(name("a"), newest.tip()), (name("b"), older.tip())];
    let freshness = Freshness::compare(&tips);
    assert_eq!(freshness.fresh, [name("a")]);
    assert_eq!(freshness.older[0].newest_elsewhere.log_seq, LogSeq(9));
    assert!(freshness.check(&name("a")).is_ok());
    let error = freshness.check(&name("b")).unwrap_err();
    assert!(error.to_string().contains("--accept-older"), "{error}");
    let note = newest.tip().unwrap().to_string();
    let expect: Expect = note.parse().unwrap();
    assert!(expect.check(&newest).is_ok() && expect.check(&older).is_err());
    let short: Expect = note[..10].parse().unwrap();
    assert!(short.check(&newest).is_ok());
    assert!("3:12".parse::<Expect>().is_err() && "x".parse::<Expect>().is_err());
}

#[tokio::test]
async fn a_thief_who_overwrites_a_point_changes_nothing_where_versions_are_kept() {
    let versioned = tidemark_storage::MemoryStore::versioned("v");
    let repo = Repo {
        store: versioned.clone(),
        ..Repo::new().await
    };
    let keyring = Repo::new()
        .await
        .store
        .get(&keys::keyring(1))
        .await
        .unwrap();
    versioned
        .create(&keys::keyring(1), keyring, &tidemark_format::PutId([0; 16]))
        .await
        .unwrap();
    let writer = plain(&repo).await;
    let forged = PointHead {
        seq: PointSeq(1),
        ..writer.point_head(3)
    };
    let forged = Signed::new(&forged, &repo.agent).unwrap();
    versioned.overwrite(&forged.key, forged.bytes);
    let first = versioned.with_mode(tidemark_storage::ReadMode::OldestVersion);
    let history = repo.history_in(&first).await.unwrap();
    assert_eq!(history.newest_point().unwrap().head.log_seq, LogSeq(6));
}

#[tokio::test]
async fn a_region_that_fails_is_an_error_and_never_a_hole() {
    let repo = Repo::new().await;
    plain(&repo).await;
    let control = FaultControl::seeded(1);
    let faulty = Faulty::new(repo.store.clone(), control.clone());
    let keyring = repo.keyring().await;
    let beats = tidemark_ledger::history::Beats::default();
    let options = tidemark_ledger::history::LoadOptions {
        points: PointsWanted::Newest(1),
    };
    let store = std::sync::Arc::new(faulty);
    let history = SourceHistory::load(store, keyring, &app(), &beats, &options)
        .await
        .unwrap();
    assert_eq!(history.newest().unwrap().points.len(), 1);
    control.add(None, log_key(5).as_str(), When::Always, Fault::Refuse);
    let error = history.whole_log(Epoch(1)).await.unwrap_err();
    assert_eq!(error.kind(), LedgerErrorKind::Region);
}
