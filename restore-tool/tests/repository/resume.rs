//! Interrupted restores go on where they were, and never mix two plans.

use std::fs;

use tidemark_format::LogSeq;
use tidemark_host::Exit;
use tokio_util::sync::CancellationToken;

use crate::world::{RegionDir, World};

fn partial(world: &World) -> std::path::PathBuf {
    world.dir.path().join(".restored.db.tidemark-partial")
}

/// A database of a few packs' frames, and a log after it.
fn large() -> (World, LogSeq) {
    let mut world = World::new(1);
    for _ in 0..6 {
        world.insert(700_000);
    }
    world.base();
    world.insert(300);
    let last = world.insert(300);
    (world, last)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_restore_leaves_its_target_untouched_and_the_next_one_ends_it() {
    let (world, last) = large();
    let stop = CancellationToken::new();
    stop.cancel();
    let target = world.path("restored.db");
    let words = ["restore", "--to", "latest", "--target", &target];
    let ran = world.run_stoppable(&[0], &words, &stop).await;
    assert_eq!(ran.exit, Exit::Failed, "{ran:?}");
    assert!(ran.err.contains("TM0106"), "{}", ran.err);
    assert!(!world.target().exists());
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    world.assert_restored(last);
    assert!(!partial(&world).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_verified_is_not_fetched_again() {
    let (world, last) = large();
    // The log's end is missing for now: the bases are written, then the restore fails.
    let tail = world.log_file(0, last);
    let bytes = fs::read(&tail).unwrap();
    RegionDir::flip(&tail);
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    assert!(partial(&world).exists());
    fs::write(&tail, bytes).unwrap();
    // Without the packs the next run can only succeed on what is there already.
    for pack in world.regions[0].files("data/pack/") {
        fs::remove_file(pack).unwrap();
    }
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert!(
        ran.json()["resumed_bytes"].as_u64().unwrap() > 4_000_000,
        "{ran:?}"
    );
    world.assert_restored(last);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_end_does_not_inherit_a_later_ones_pages() {
    let (world, last) = large();
    let tail = world.log_file(0, last);
    let bytes = fs::read(&tail).unwrap();
    RegionDir::flip(&tail);
    assert_eq!(world.restore("latest").await.exit, Exit::Integrity);
    fs::write(&tail, bytes).unwrap();
    let earlier = LogSeq(last.0 - 1);
    let ran = world.restore(&format!("log:1:{earlier}")).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    world.assert_restored(earlier);
}
