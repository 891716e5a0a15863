//! What `list`, `status` and `verify` see, with and without an identity.

use std::fs;

use tidemark_format::LogSeq;
use tidemark_host::Exit;

use crate::world::{RegionDir, World};

/// Runs without an identity at hand.
async fn blind(world: &World, words: &[&str]) -> crate::world::Ran {
    world
        .run(&[words, &["--identity", "/nonexistent/identity"]].concat())
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn list_shows_windows_points_and_the_unsealed_tail_without_an_identity() {
    let mut world = World::new(1);
    world.insert(100);
    world.point(Some("v1"));
    let last = world.insert(100);
    let ran = blind(&world, &["list"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let list = ran.json();
    assert_eq!(
        (&list["schema"], &list["version"]),
        (&"tidemark-restore.list".into(), &1.into())
    );
    assert_eq!(list["root_pinned"], false);
    let source = &list["sources"][0];
    assert_eq!(source["source"], "app");
    assert_eq!(source["windows"].as_array().unwrap().len(), 1);
    assert_eq!(source["windows"][0]["from"]["seq"], 1);
    assert_eq!(source["windows"][0]["to"]["seq"], last.0);
    assert_eq!(source["points"][0]["name"], "v1");
    assert_eq!(source["unsealed"]["objects"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn list_shows_two_windows_around_a_gap_and_strays_past_a_hole() {
    let mut world = World::new(1);
    world.insert(100);
    world.gap("INSERT INTO t(v) VALUES ('lost')");
    world.base();
    world.insert(100);
    world.point(None);
    let hole = world.insert(100);
    world.insert(100);
    fs::remove_file(world.log_file(0, hole)).unwrap();
    let source = world.run(&["list"]).await.json()["sources"][0].clone();
    assert_eq!(source["windows"].as_array().unwrap().len(), 2, "{source}");
    assert_eq!(source["windows"][1]["to"]["seq"], hole.0 - 1);
    assert_eq!(source["strays"][0]["first"], hole.0 + 1, "{source}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_sources_must_be_named_and_an_unknown_one_is_told_so() {
    let world = World::new(1);
    let ran = world.run(&["list", "--source", "other"]).await;
    assert_eq!(ran.exit, Exit::NoRepository, "{ran:?}");
    assert!(ran.err.contains("there is: app"), "{}", ran.err);
    let claim = world.regions[0].file("meta/claim/app/00000001");
    let other = world.regions[0].file("meta/claim/web/00000001");
    fs::create_dir_all(other.parent().unwrap()).unwrap();
    fs::copy(claim, other).unwrap();
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
    assert!(ran.err.contains("TM0205"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_well_while_beats_come_and_critical_when_they_stop() {
    let mut world = World::new(2);
    world.insert(100);
    world.point(None);
    world.pass(600);
    world.beat();
    world.pass(30);
    let ran = blind(&world, &["status"]).await;
    assert_eq!(ran.exit.code(), 0, "{ran:?}");
    let status = ran.json();
    assert_eq!(status["schema"], "tidemark-restore.status");
    assert_eq!(status["sources"][0]["exposure_seconds"], 30);
    assert_eq!(status["sources"][0]["regions"].as_array().unwrap().len(), 2);
    assert!(
        status["sources"][0]["proved"]
            .as_str()
            .unwrap()
            .contains("no drill")
    );
    world.pass(400);
    assert_eq!(blind(&world, &["status"]).await.exit.code(), 1);
    world.pass(4000);
    assert_eq!(blind(&world, &["status"]).await.exit.code(), 2);
    for region in &world.regions {
        fs::remove_dir_all(&region.path).unwrap();
    }
    assert_eq!(blind(&world, &["status"]).await.exit.code(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_reads_every_byte_and_names_each_damaged_object_in_its_region() {
    let mut world = World::new(2);
    let seq = world.insert(100);
    world.point(None);
    let ran = world.run(&["verify"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert!(ran.json()["bytes"].as_u64().unwrap() > 0);
    RegionDir::flip(&world.log_file(1, seq));
    let pack = world.regions[0].files("data/pack/").remove(0);
    RegionDir::flip(&pack);
    let ran = world.run(&["verify"]).await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    let report = ran.json();
    let damages = report["damages"].as_array().unwrap();
    assert_eq!(damages.len(), 2, "{damages:?}");
    assert_eq!(damages[0]["region"], "north");
    assert!(
        damages[0]["object"]
            .as_str()
            .unwrap()
            .starts_with("data/pack/")
    );
    assert_eq!(damages[1]["region"], "south");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_quick_checks_signatures_and_links_without_an_identity() {
    let mut world = World::new(1);
    world.insert(100);
    world.insert(100);
    world.point(None);
    let ran = blind(&world, &["verify", "--quick"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert_eq!(ran.json()["root_pinned"], false);
    let path = world.log_file(0, LogSeq(2));
    let bytes =
        fs::read_to_string(&path).map_or_else(|_| fs::read(&path).unwrap(), String::into_bytes);
    let mut changed = bytes;
    // A character of the head.
    changed[40] ^= 1;
    fs::write(&path, changed).unwrap();
    let ran = blind(&world, &["verify", "--quick"]).await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    let ran = blind(&world, &["verify"]).await;
    assert_eq!(
        ran.exit,
        Exit::Key,
        "without --quick an identity is needed: {ran:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_object_before_the_newest_point_is_damage() {
    let mut world = World::new(1);
    let seq = world.insert(100);
    world.insert(100);
    world.point(None);
    fs::remove_file(world.log_file(0, seq)).unwrap();
    let ran = world.run(&["verify"]).await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_a_region_that_lacks_the_newest_point_since_when_and_what_to_do() {
    let mut world = World::new(2);
    world.insert(100);
    world.point(None);
    let since = world.now();
    world.regions[1].away = true;
    world.pass(3600);
    world.insert(100);
    world.point(None);
    for words in [&["verify"][..], &["verify", "--quick"]] {
        let ran = world.run(words).await;
        assert_eq!(ran.exit, Exit::Exceptions, "{ran:?}");
        let told = ran.json()["exceptions"].to_string();
        let since = since.strftime("%H:%M:%S").to_string();
        for word in ["south", &since, "1 h", "point:1/1", "tidemark-agent status"] {
            assert!(told.contains(word), "{word}: {told}");
        }
        // Each by itself is whole.
        for region in [0, 1] {
            let alone = world.run_in(&[region], words).await;
            assert_eq!(alone.exit, Exit::Ok, "{alone:?}");
        }
    }
}
