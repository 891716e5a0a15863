//! Damage, forgery, rollback and the wrong keys: told apart, never restored past, and gone round
//! where another region has a good copy.

use std::fs;

use tidemark_format::LogSeq;
use tidemark_format::sign::SigningKey;
use tidemark_host::Exit;
use tidemark_ledger::custody::{IdentityFile, NewKeys};

use crate::world::{RegionDir, World};

/// Two regions, a few commits, a point, a second base, a tail.
fn lived(regions: usize) -> (World, LogSeq) {
    let mut world = World::new(regions);
    for _ in 0..4 {
        world.insert(300);
    }
    world.point(None);
    world.base();
    for _ in 0..4 {
        world.insert(300);
    }
    world.point(None);
    let last = world.insert(300);
    (world, last)
}

type Spoil = fn(&std::path::Path);

fn remove(path: &std::path::Path) {
    fs::remove_file(path).unwrap();
}

const WAYS: [(&str, Spoil); 3] = [
    ("flipped", RegionDir::flip),
    ("truncated", RegionDir::truncate),
    ("missing", remove),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_object_stops_a_restore_and_names_the_latest_provable_state() {
    for (name, spoil) in WAYS {
        let (world, last) = lived(1);
        // Covered by the newest point: less must not be handed over.
        let broken = LogSeq(last.0 - 2);
        spoil(&world.log_file(0, broken));
        let ran = world.restore("latest").await;
        assert_eq!(ran.exit, Exit::Integrity, "{name}: {ran:?}");
        assert!(!world.target().exists(), "{name}");
        let before = LogSeq(broken.0 - 1);
        if name != "flipped" {
            // A flipped bit of the body is found while it is read; the names tell of the others.
            assert!(
                ran.err.contains(&world.times[&before].to_string()),
                "{name}: {}",
                ran.err
            );
        }
        let ran = world.restore(&format!("log:1:{before}")).await;
        assert_eq!(ran.exit, Exit::Ok, "{name}: {ran:?}");
        world.assert_restored(before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_region_fills_in_for_each_damaged_object_and_the_damage_is_reported() {
    for (name, spoil) in WAYS {
        for prefix in ["meta/log/", "meta/base/", "data/pack/", "data/session/"] {
            let (world, last) = lived(2);
            for path in world.regions[0].files(prefix) {
                spoil(&path);
            }
            let ran = world.restore("latest").await;
            assert_eq!(ran.exit, Exit::Exceptions, "{name} {prefix}: {ran:?}");
            let exceptions = ran.json()["exceptions"].to_string();
            assert!(
                exceptions.contains("north"),
                "{name} {prefix}: {exceptions}"
            );
            world.assert_restored(last);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_different_objects_of_both_regions_is_gone_round() {
    let (world, last) = lived(2);
    RegionDir::flip(&world.log_file(0, LogSeq(last.0 - 1)));
    RegionDir::flip(&world.log_file(1, LogSeq(last.0 - 2)));
    remove(&world.log_file(0, LogSeq(last.0 - 3)));
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Exceptions, "{ran:?}");
    world.assert_restored(last);
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_that_hold_one_base_each_of_a_parent_and_its_child_restore_together() {
    for (name, spoil) in WAYS {
        // GIVEN a base that builds on another, and log from before it in neither region
        let (world, last) = lived(2);
        let bases = |region: usize| world.regions[region].files("meta/base/");
        assert_eq!(bases(0).len(), 2);
        for region in [0, 1] {
            fs::remove_file(world.log_file(region, LogSeq(2))).unwrap();
        }
        // WHEN each region has lost another one of the two
        spoil(&bases(0)[0]);
        spoil(&bases(1)[1]);
        // THEN either alone is not enough, and both are
        for region in [0, 1] {
            let target = world.path("restored.db");
            let words = ["restore", "--to", "latest", "--target", &target];
            let ran = world.run_in(&[region], &words).await;
            assert_eq!(ran.exit, Exit::Integrity, "{name} {region}: {ran:?}");
        }
        let ran = world.restore("latest").await;
        assert_eq!(ran.exit, Exit::Exceptions, "{name}: {ran:?}");
        let report = ran.json();
        assert_eq!(report["bases"], 2, "{name}: {report}");
        let told = report["exceptions"].to_string();
        assert!(told.contains("north"), "{name}: {told}");
        // Of a body only the first copy is read, if that is good.
        assert!(
            told.contains("south") || name == "flipped",
            "{name}: {told}"
        );
        world.assert_restored(last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_damaged_everywhere_is_gone_round_by_an_older_one() {
    let (world, last) = lived(1);
    let bases = world.regions[0].files("meta/base/");
    assert_eq!(bases.len(), 2);
    RegionDir::flip(&bases[1]);
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Exceptions, "{ran:?}");
    assert_eq!(ran.json()["bases"], 1);
    world.assert_restored(last);
    RegionDir::flip(&bases[0]);
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
}

/// A character of the head: nothing in the object can be believed any more.
fn rot(path: &std::path::Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[40] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_last_object_that_nothing_vouches_for_is_an_exception_and_says_what_may_be_missing()
 {
    // GIVEN the only region, whose last object, past the newest point, has rotten
    let (world, last) = lived(1);
    rot(&world.log_file(0, last));
    let before = LogSeq(last.0 - 1);
    for command in ["plan", "restore"] {
        let target = world.path("restored.db");
        let words = [command, "--to", "latest", "--target", &target];
        let ran = world.run(&words).await;
        assert_eq!(ran.exit, Exit::Exceptions, "{command}: {ran:?}");
        let found = ran.json();
        assert_eq!(found["beyond"]["damaged"], 1, "{found}");
        let because = found["because"].as_str().unwrap();
        assert!(because.contains("perhaps not the newest"), "{because}");
        if command == "restore" {
            let told = found["exceptions"][0].as_str().unwrap();
            assert!(
                told.contains("is missing") && told.contains("north"),
                "{told}"
            );
        }
    }
    world.assert_restored(before);
    // So say the other commands.
    let list = world.run(&["list"]).await.json();
    assert_eq!(list["sources"][0]["beyond"]["damaged"], 1, "{list}");
    let status = world.run(&["status"]).await;
    assert!(status.out.contains("stands past the end"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_last_object_that_something_signed_counts_is_an_error() {
    // A beat counts it.
    let (mut world, last) = lived(1);
    world.beat();
    rot(&world.log_file(0, last));
    refused_and_accepted(&world, last, "beat").await;
    // Its head is whole, and the body is cut.
    let (world, last) = lived(1);
    RegionDir::truncate(&world.log_file(0, last));
    refused_and_accepted(&world, last, "its own signed head").await;
    // Two regions hold something there.
    let (world, last) = lived(2);
    rot(&world.log_file(0, last));
    RegionDir::truncate(&world.log_file(1, last));
    rot(&world.log_file(1, last));
    refused_and_accepted(&world, last, "more than one region").await;
    // A base rests on it.
    let mut world = World::new(1);
    world.insert(300);
    world.point(None);
    world.base();
    let last = world.log_seq.previous().unwrap();
    rot(&world.log_file(0, last));
    refused_and_accepted(&world, last, "a base rests on it").await;
}

/// Refuses `latest`, names why and what there is, and hands that over when it is accepted.
async fn refused_and_accepted(world: &World, last: LogSeq, by: &str) {
    let before = LogSeq(last.0 - 1);
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Integrity, "{by}: {ran:?}");
    let named = format!("log:1:{before}");
    assert!(ran.err.contains(by) && ran.err.contains(&named), "{ran:?}");
    assert!(!world.target().exists());
    let target = world.path("restored.db");
    let words = ["restore", "--to", "latest", "--target", &target];
    let ran = world.run(&[&words[..], &["--accept-older"]].concat()).await;
    assert_eq!(ran.exit, Exit::Exceptions, "{by}: {ran:?}");
    world.assert_restored(before);
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_objects_are_noticed() {
    let (world, last) = lived(1);
    let (one, two) = (
        world.log_file(0, LogSeq(last.0 - 2)),
        world.log_file(0, LogSeq(last.0 - 3)),
    );
    let bytes = fs::read(&one).unwrap();
    fs::copy(&two, &one).unwrap();
    fs::write(&two, bytes).unwrap();
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    assert!(!world.target().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_object_signed_by_somebody_else_is_refused() {
    let (mut world, last) = lived(1);
    world.agent = SigningKey::from_secret(&[9; 32]);
    world.insert(100);
    // Past the newest point the chain ends where it can't be believed, and what stands there is told.
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Exceptions, "{ran:?}");
    let told = ran.json()["exceptions"].to_string();
    assert!(told.contains("doesn't know"), "{told}");
    world.assert_restored(last);
    world.point(None);
    let ran = world.run(&["verify", "--quick"]).await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    assert!(ran.out.contains("doesn't know"), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_identity_and_one_that_others_may_read_are_told_apart() {
    let (world, _) = lived(1);
    let other = NewKeys::generate(&tidemark_host::TestRng::seeded(5), world.now());
    IdentityFile::write(&world.dir.path().join("other"), &other.identity).unwrap();
    let target = world.path("restored.db");
    let restore = |identity: String| {
        let (world, target) = (&world, &target);
        async move {
            world
                .run(&[
                    "restore",
                    "--to",
                    "latest",
                    "--target",
                    target,
                    "--identity",
                    &identity,
                ])
                .await
        }
    };
    let ran = restore(world.path("other")).await;
    assert_eq!(ran.exit, Exit::Key, "{ran:?}");
    let ran = restore(world.path("nowhere")).await;
    assert_eq!(ran.exit, Exit::Key, "{ran:?}");
    let open = world.path("identity");
    let mut rights = fs::metadata(&open).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o644);
    fs::set_permissions(&open, rights).unwrap();
    let ran = restore(open).await;
    assert_eq!(ran.exit, Exit::Key, "{ran:?}");
    assert!(ran.err.contains("chmod 600"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_escrow_opens_what_the_identity_opens() {
    let (world, last) = lived(1);
    IdentityFile::write(&world.dir.path().join("escrow"), &world.keys.escrow).unwrap();
    let ran = world
        .run(&[
            "restore",
            "--to",
            "latest",
            "--target",
            &world.path("restored.db"),
            "--identity",
            &world.path("escrow"),
        ])
        .await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    world.assert_restored(last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agents_earlier_log_counts_and_its_later_one_does_not() {
    let (mut world, last) = lived(1);
    let agent = world.agent.public().id().to_string();
    let ran = world
        .run(&[
            "keys",
            "revoke",
            &agent,
            "--reason",
            "stolen",
            "--root",
            &world.path("root"),
            "--yes",
        ])
        .await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    world.insert(100);
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Exceptions, "{ran:?}");
    let told = ran.json()["exceptions"].to_string();
    assert!(told.contains("revoked"), "{told}");
    world.assert_restored(last);
    let later = world.log_seq.previous().unwrap();
    let ran = world.restore(&format!("log:1:{later}")).await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    assert!(ran.err.contains("revoked"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thief_of_a_revoked_key_can_not_backdate_a_point_a_base_or_a_claim() {
    // GIVEN a revoked agent, whose revocation says what it had signed
    let (mut world, last) = lived(2);
    let agent = world.agent.public().id().to_string();
    let root = world.path("root");
    let words = ["keys", "revoke", &agent, "--reason", "stolen", "--root"];
    let ran = world.run(&[&words[..], &[&root, "--yes"]].concat()).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    // WHEN a thief goes on with its key, by a clock that never passed the revocation (the world's
    // stood still): a log, a base and a point that rests on both
    world.insert(100);
    world.base();
    world.point(Some("forged"));
    // THEN a restore neither believes nor is stopped by any of it, and says what was refused
    let ran = world.restore("latest").await;
    assert!(matches!(ran.exit, Exit::Ok | Exit::Exceptions), "{ran:?}");
    world.assert_restored(last);
    let listed = world.run(&["list"]).await;
    assert!(!listed.out.contains("forged"), "{}", listed.out);
    let checked = world.run(&["verify", "--quick"]).await;
    assert_eq!(checked.exit, Exit::Integrity, "{checked:?}");
    for refused in ["meta/point/", "meta/base/"] {
        assert!(
            format!("{}{}", checked.out, checked.err).contains(refused),
            "{refused} in {checked:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_regions_the_older_one_is_reported_and_the_newer_one_restored() {
    let mut world = World::new(2);
    world.insert(100);
    world.point(None);
    world.regions[0].away = true;
    world.pass(3600);
    let last = world.insert(100);
    world.point(None);
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Exceptions, "{ran:?}");
    assert!(
        ran.json()["exceptions"].to_string().contains("rolled back"),
        "{ran:?}"
    );
    world.assert_restored(last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_without_the_expected_point_is_refused_unless_older_is_accepted() {
    let mut world = World::new(2);
    let old = world.insert(100);
    world.point(None);
    world.regions[0].away = true;
    world.pass(60);
    let last = world.insert(100);
    let expected = world.point(None);
    let target = world.path("restored.db");
    let words = [
        "restore", "--to", "latest", "--target", &target, "--expect", &expected,
    ];
    let ran = world.run_in(&[0], &words).await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    assert!(ran.err.contains("TM1304"), "{}", ran.err);
    let ran = world
        .run_in(&[0], &[&words[..], &["--accept-older"]].concat())
        .await;
    assert_eq!(ran.exit, Exit::Exceptions, "{ran:?}");
    world.assert_restored(old);
    let ran = world.run_in(&[1], &words).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    world.assert_restored(last);
}

#[tokio::test(flavor = "multi_thread")]
async fn from_one_region_alone_the_newest_point_and_its_age_are_told() {
    let mut world = World::new(2);
    world.insert(100);
    world.point(None);
    world.pass(7200);
    let ran = world
        .run_in(
            &[0],
            &[
                "plan",
                "--to",
                "latest",
                "--target",
                &world.path("restored.db"),
            ],
        )
        .await;
    let notes = ran.json()["notes"].to_string();
    assert!(
        notes.contains("2 h") && notes.contains("nobody can tell"),
        "{notes}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newest_point_that_no_region_can_back_is_an_error_and_can_be_accepted() {
    let mut world = World::new(2);
    let old = world.insert(100);
    world.point(None);
    world.regions[0].away = true;
    let lost = world.insert(100);
    world.point(None);
    fs::remove_file(world.log_file(1, lost)).unwrap();
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    let target = world.path("restored.db");
    let ran = world
        .run(&[
            "restore",
            "--to",
            "latest",
            "--target",
            &target,
            "--accept-older",
        ])
        .await;
    assert!(matches!(ran.exit, Exit::Ok | Exit::Exceptions), "{ran:?}");
    world.assert_restored(old);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_away_is_an_exception_and_none_at_all_an_error() {
    let (world, last) = lived(2);
    fs::rename(&world.regions[0].path, world.dir.path().join("unplugged")).unwrap();
    let ran = world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Exceptions, "{ran:?}");
    world.assert_restored(last);
    let ran = world.run_in(&[0], &["list"]).await;
    assert_eq!(ran.exit, Exit::Region, "{ran:?}");
    fs::create_dir(&world.regions[0].path).unwrap();
    let ran = world.run_in(&[0], &["list"]).await;
    assert_eq!(ran.exit, Exit::NoRepository, "{ran:?}");
}
