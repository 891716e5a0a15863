//! Signed log past the last state that the regions read can bring back: nobody may take it for the end.

use std::fs;

use tidemark_format::LogSeq;
use tidemark_host::Exit;

use crate::world::{Ran, World};

/// Two regions: a gap, and behind it log whose only base stands in the first. The last state before it,
/// and the last of all.
fn base_elsewhere() -> (World, LogSeq, LogSeq) {
    let mut world = World::new(2);
    world.insert(100);
    world.point(None);
    let before = world.insert(100);
    world.gap("INSERT INTO t(v) VALUES ('lost')");
    world.base();
    let last = world.insert(100);
    let bases = world.regions[1].files("meta/base/");
    let newest = bases.iter().max().unwrap();
    fs::remove_file(newest).unwrap();
    (world, before, last)
}

async fn latest_in(world: &World, regions: &[usize], command: &str) -> Ran {
    let target = world.path("restored.db");
    let words = [command, "--to", "latest", "--target", &target];
    world.run_in(regions, &words).await
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_names_the_log_past_a_gap_whose_base_is_in_another_region() {
    let (world, before, last) = base_elsewhere();
    let plan = latest_in(&world, &[1], "plan").await;
    assert_eq!(plan.exit, Exit::Exceptions, "{plan:?}");
    let plan = plan.json();
    assert_eq!(plan["beyond"]["first"], before.0 + 1, "{plan}");
    assert_eq!(plan["beyond"]["last"], last.0, "{plan}");
    let why = plan["beyond"]["why"].as_str().unwrap();
    assert!(why.contains("is a gap") && why.contains("base"), "{why}");
    assert!(!plan["because"].as_str().unwrap().contains("end of the log"));

    let ran = latest_in(&world, &[1], "restore").await;
    assert_eq!(ran.exit, Exit::Exceptions, "{ran:?}");
    let first = ran.json()["exceptions"][0].as_str().unwrap().to_owned();
    assert!(
        first.contains(&format!("log:1:{last}")) && first.contains("--region"),
        "{first}"
    );
    world.assert_restored(before);

    // With the other region nothing is later than what is reached, whichever is named first.
    for regions in [[0, 1], [1, 0]] {
        let ran = latest_in(&world, &regions, "restore").await;
        assert!(ran.json()["beyond"].is_null(), "{ran:?}");
        world.assert_restored(last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn list_status_and_verify_tell_it_too() {
    let (world, before, last) = base_elsewhere();
    let list = world.run_in(&[1], &["list"]).await.json();
    let source = &list["sources"][0];
    assert_eq!(source["windows"][0]["to"]["seq"], before.0, "{source}");
    assert_eq!(source["beyond"]["first"], before.0 + 1, "{source}");
    assert_eq!(source["beyond"]["last"], last.0, "{source}");

    let status = world.run_in(&[1], &["status"]).await;
    assert_eq!(status.exit.code(), 1, "{status:?}");
    let next = status.json()["sources"][0]["next"].to_string();
    assert!(
        next.contains("can't be restored from the regions"),
        "{next}"
    );

    for words in [&["verify"][..], &["verify", "--quick"]] {
        let ran = world.run_in(&[1], words).await;
        assert_eq!(ran.exit, Exit::Exceptions, "{ran:?}");
        let report = ran.json();
        assert_eq!(report["damages"].as_array().unwrap().len(), 0, "{report}");
        assert_eq!(
            report["exceptions"].as_array().unwrap().len(),
            1,
            "{report}"
        );
        let both = world.run(words).await;
        assert_eq!(both.exit, Exit::Ok, "{both:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_names_the_log_past_a_hole() {
    let mut world = World::new(1);
    world.insert(100);
    world.point(None);
    let hole = world.insert(100);
    let last = world.insert(100);
    fs::remove_file(world.log_file(0, hole)).unwrap();
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Exceptions, "{ran:?}");
    assert_eq!(ran.json()["beyond"]["first"], last.0, "{ran:?}");
    world.assert_restored(LogSeq(hole.0 - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_a_warning_after_missed_beats_and_critical_after_ten_minutes() {
    let mut world = World::new(1);
    world.insert(100);
    world.point(None);
    world.beat();
    for (seconds, health) in [(170, 0), (20, 1), (400, 1), (20, 2)] {
        world.pass(seconds);
        let ran = world.run(&["status"]).await;
        assert_eq!(ran.exit.code(), health, "{seconds}: {ran:?}");
        let told = ran.out.contains("nothing has come for");
        assert_eq!(told, health > 0, "{ran:?}");
    }
}
