//! Restores to where they were asked to, and what they say about it.

use std::fs;

use tidemark_format::LogSeq;
use tidemark_host::Exit;

use crate::world::{World, moved};

/// Ten commits, a point after the fifth, a second base after the eighth.
fn lived() -> World {
    let mut world = World::new(1);
    for n in 0..10 {
        world.insert(500);
        if n == 4 {
            world.point(Some("before-upgrade"));
        }
        if n == 7 {
            world.base();
        }
    }
    world.point(None);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_goes_past_the_newest_point_and_is_proved_by_the_digest() {
    let mut world = lived();
    let last = world.insert(100);
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let report = ran.json();
    assert_eq!(report["schema"], "tidemark-restore.restore");
    assert_eq!(report["proof"], "digest-equal");
    assert_eq!(report["sealed"], false);
    assert_eq!(report["reached"]["seq"], last.0);
    assert!(
        ran.err.contains("tidemark-restore.plan"),
        "the plan comes first: {}",
        ran.err
    );
    let again = report["protect_again"][0].as_str().unwrap();
    assert!(
        again.contains("tidemark-agent init --sqlite") && again.contains("tmr1"),
        "{again}"
    );
    world.assert_restored(last);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_state_is_restored_by_its_position_and_by_its_time() {
    let world = lived();
    let first = LogSeq(1);
    for (seq, at) in world.times.range(first..) {
        let ran = world.restore(&format!("log:1:{seq}")).await;
        assert_eq!(ran.exit, Exit::Ok, "{seq}: {ran:?}");
        world.assert_restored(*seq);
        let ran = world.restore(&at.to_string()).await;
        assert_eq!(ran.exit, Exit::Ok, "{at}: {ran:?}");
        world.assert_restored(*seq);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn to_includes_an_instant_and_before_excludes_it() {
    let world = lived();
    let (seq, at) = world.times.range(LogSeq(5)..).next().unwrap();
    let target = world.path("restored.db");
    let ran = world
        .run(&["restore", "--before", &at.to_string(), "--target", &target])
        .await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    world.assert_restored(LogSeq(seq.0 - 1));
    let ran = world
        .run(&[
            "restore",
            "--before",
            &format!("log:1:{seq}"),
            "--target",
            &target,
        ])
        .await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    world.assert_restored(LogSeq(seq.0 - 1));
    let ran = world.restore(&moved(*at, 3)).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    world.assert_restored(*seq);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_point_is_restored() {
    let world = lived();
    let ran = world.restore("point:before-upgrade").await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert_eq!(ran.json()["sealed"], true);
    world.assert_restored(LogSeq(6));
    let ran = world.restore("point:unknown").await;
    assert_eq!(ran.exit, Exit::NotRecoverable, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_middle_of_a_large_change_is_refused_and_its_end_is_restored() {
    let mut world = lived();
    let last = world.large_commit(3);
    let ran = world.restore(&format!("log:1:{}", last.0 - 1)).await;
    assert_eq!(ran.exit, Exit::NotRecoverable, "{ran:?}");
    assert!(ran.err.contains("only its last one"), "{}", ran.err);
    assert_eq!(world.restore("latest").await.exit, Exit::Ok);
    world.assert_restored(last);
}

#[tokio::test(flavor = "multi_thread")]
async fn later_than_everything_is_refused_and_names_the_latest_instant() {
    let mut world = lived();
    let last = world.log_seq.previous().unwrap();
    let at = world.times[&last];
    let ran = world.restore(&moved(at, 300)).await;
    assert_eq!(ran.exit, Exit::NotRecoverable, "{ran:?}");
    assert!(
        ran.err.contains("TM1401") && ran.err.contains(&at.to_string()),
        "{}",
        ran.err
    );
    assert!(!world.target().exists());
    // An idle source's beat says that nothing is missing.
    world.pass(600);
    world.beat();
    let ran = world.restore(&moved(at, 300)).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    world.assert_restored(last);
}

#[tokio::test(flavor = "multi_thread")]
async fn earlier_than_the_window_and_inside_a_gap_are_refused_with_what_can_be_had() {
    let mut world = lived();
    let ran = world.restore("2026-04-01T00:00:00Z").await;
    assert_eq!(ran.exit, Exit::NotRecoverable, "{ran:?}");
    let before = world.log_seq.previous().unwrap();
    world.gap("INSERT INTO t(v) VALUES ('lost')");
    let in_gap = world.now();
    world.base();
    world.insert(100);
    world.point(None);
    let ran = world.restore(&in_gap.to_string()).await;
    assert_eq!(ran.exit, Exit::NotRecoverable, "{ran:?}");
    assert!(ran.err.contains("TM1403"), "{}", ran.err);
    // Both sides of the gap are there.
    assert_eq!(
        world.restore(&format!("log:1:{before}")).await.exit,
        Exit::Ok
    );
    world.assert_restored(before);
    assert_eq!(world.restore("latest").await.exit, Exit::Ok);
    world.assert_restored(world.log_seq.previous().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_exists_or_has_a_stray_log_is_refused_before_anything_is_read() {
    let world = lived();
    fs::write(world.target(), b"precious").unwrap();
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
    assert_eq!(fs::read(world.target()).unwrap(), b"precious");
    fs::remove_file(world.target()).unwrap();
    let stray = world.dir.path().join("restored.db-wal");
    fs::write(&stray, b"").unwrap();
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
    assert!(ran.err.contains("restored.db-wal"), "{}", ran.err);
    fs::remove_file(stray).unwrap();
    let ran = world
        .run(&[
            "restore",
            "--to",
            "latest",
            "--target",
            &world.path("nowhere/x.db"),
        ])
        .await;
    assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_a_restore_would_do_and_writes_nothing() {
    let world = lived();
    let target = world.path("restored.db");
    let ran = world
        .run(&["plan", "--to", "latest", "--target", &target])
        .await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let plan = ran.json();
    assert_eq!(plan["schema"], "tidemark-restore.plan");
    assert_eq!(plan["source"], "app");
    assert!(plan["stored_bytes"].as_u64().unwrap() > 0);
    assert!(
        plan["notes"][0]
            .as_str()
            .unwrap()
            .contains("only one region"),
        "{plan}"
    );
    assert!(!world.target().exists());
    assert!(
        !world
            .dir
            .path()
            .join(".restored.db.tidemark-partial")
            .exists()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_points_of_one_name_the_newest_is_taken_and_all_are_named() {
    let mut world = World::new(1);
    world.insert(100);
    world.point(Some("release"));
    let last = world.insert(100);
    world.point(Some("release"));
    world.insert(100);
    let ran = world.restore("point:release").await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let notes = ran.json()["notes"].to_string();
    assert!(
        notes.contains("the newest is taken, point:1/1") && notes.contains("also: point:1/0"),
        "{notes}"
    );
    world.assert_restored(last);
}
