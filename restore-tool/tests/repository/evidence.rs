//! Evidence: what restores leave, in which regions, and every way to tamper with a chain.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tidemark_format::keys;
use tidemark_host::Exit;
use tidemark_open::Identity;

use crate::world::{Ran, World};

/// A world with something to restore, whose restores keep their records in a state folder.
fn world(regions: usize) -> World {
    let mut world = World::new(regions);
    world.insert(100);
    world.point(None);
    world.state = Some(world.dir.path().join("state"));
    world
}

fn key_of(world: &World) -> tidemark_format::sign::SigningKey {
    Identity::from_key(world.keys.identity.key.clone()).evidence_key()
}

/// The files of a region's records, by number.
fn records(world: &World, region: usize) -> Vec<PathBuf> {
    world.regions[region].files(keys::EVIDENCE)
}

/// One restore from some regions; its target is removed again.
async fn restore(world: &World, regions: &[usize]) -> Ran {
    let target = world.target().display().to_string();
    let words = ["restore", "--to", "latest", "--target", &target];
    let ran = world.run_in(regions, &words).await;
    drop(fs::remove_file(&target));
    ran
}

/// The root signs the evidence key in.
async fn enrol(world: &World) {
    let root = world.path("root");
    let ran = world
        .run(&["keys", "enrol", "--all", "--root", &root])
        .await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
}

async fn verify(world: &World) -> (Exit, Value) {
    let ran = world.run(&["evidence", "verify"]).await;
    (ran.exit, ran.json())
}

fn findings(report: &Value) -> Vec<&str> {
    let all = report["findings"].as_array().unwrap();
    all.iter().map(|f| f["what"].as_str().unwrap()).collect()
}

/// Replaces a stored record, as somebody with the right to write could.
fn overwrite(path: &Path, bytes: &[u8]) {
    drop(fs::remove_file(path));
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_leaves_a_signed_record_in_every_region_and_asks_to_be_enrolled() {
    let world = world(2);
    let target = world.path("restored.db");
    let words = ["restore", "--to", "latest", "--target", &target];
    let ran = world
        .run(&[&words[..], &["--reason", "INC-7, =lost"]].concat())
        .await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    // THEN the same record stands in both regions
    let (north, south) = (records(&world, 0), records(&world, 1));
    assert_eq!((north.len(), south.len()), (1, 1));
    assert_eq!(fs::read(&north[0]).unwrap(), fs::read(&south[0]).unwrap());
    // AND says who, why, what and how it ended
    let listed = world.run(&["evidence", "list"]).await;
    assert_eq!(listed.exit, Exit::Ok, "{listed:?}");
    let record = &listed.json()["records"][0];
    assert_eq!(record["action"], "restore");
    assert_eq!(record["outcome"], "ok");
    assert_eq!(record["reason"], "INC-7, =lost");
    assert_eq!(record["source"], "app");
    let id = record["id"].as_str().unwrap().to_owned();
    let shown = world.run(&["evidence", "show", &id[..13]]).await.json();
    let predicate = &shown["statement"]["predicate"];
    assert_eq!(predicate["recovery"]["proof"], "digest-equal");
    assert_eq!(predicate["read_from"][1]["region"], "south");
    assert!(predicate["actor"]["uid"].is_u64());
    assert!(shown["statement"]["subject"].as_array().unwrap().len() >= 2);
    // AND the signer isn't vouched for until the root says so
    let (exit, report) = verify(&world).await;
    assert_eq!(
        (exit, findings(&report)),
        (Exit::Exceptions, vec!["not-enrolled"])
    );
    enrol(&world).await;
    let (exit, report) = verify(&world).await;
    assert_eq!((exit, findings(&report)), (Exit::Ok, vec![]), "{report}");
    // The enrolment left one, too, signed by the identity at hand.
    assert_eq!(report["records"], 2);
    let members = world.run(&["keys", "list"]).await.json();
    assert_eq!(members["members"][1]["role"], "drill");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_restore_and_other_uses_of_the_identity_are_recorded() {
    let world = world(1);
    let target = world.path("restored.db");
    let before = [
        "restore",
        "--to",
        "2020-01-01T00:00:00Z",
        "--target",
        &target,
    ];
    let ran = world.run(&before).await;
    assert_eq!(ran.exit, Exit::NotRecoverable, "{ran:?}");
    assert_eq!(world.run(&["verify"]).await.exit, Exit::Ok);
    assert_eq!(world.run(&["verify", "--quick"]).await.exit, Exit::Ok);
    assert_eq!(world.run(&["keys", "check"]).await.exit, Exit::Ok);
    assert_eq!(world.run(&["list"]).await.exit, Exit::Ok);
    let listed = world
        .run(&["evidence", "list", "--kind", "access"])
        .await
        .json();
    let all: Vec<(&str, &str)> = listed["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| {
            (
                r["action"].as_str().unwrap(),
                r["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        all,
        [
            ("restore", "failed"),
            ("verify", "ok"),
            ("keys-check", "ok")
        ]
    );
    let id = listed["records"][0]["id"].as_str().unwrap();
    let shown = world.run(&["evidence", "show", id]).await.json();
    assert_eq!(shown["statement"]["predicate"]["result"]["exit"], 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_was_away_gets_what_it_missed_before_anything_new() {
    let world = world(2);
    restore(&world, &[0, 1]).await;
    restore(&world, &[0]).await;
    restore(&world, &[0]).await;
    assert_eq!((records(&world, 0).len(), records(&world, 1).len()), (3, 1));
    enrol(&world).await;
    let (north, south) = (records(&world, 0), records(&world, 1));
    assert_eq!((north.len(), south.len()), (4, 4));
    for (one, other) in north.iter().zip(&south) {
        assert_eq!(fs::read(one).unwrap(), fs::read(other).unwrap());
    }
    assert_eq!(verify(&world).await.0, Exit::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_goes_on_although_the_region_with_the_newest_record_is_away() {
    // GIVEN a record that only the north has
    let world = world(2);
    restore(&world, &[0]).await;
    // WHEN the next command sees only the south
    restore(&world, &[1]).await;
    // THEN the south has both, in order, because this machine remembers
    assert_eq!(records(&world, 1).len(), 2);
    enrol(&world).await;
    let (exit, report) = verify(&world).await;
    assert_eq!((exit, findings(&report)), (Exit::Ok, vec![]), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_identity_on_two_machines_goes_on_with_one_chain() {
    let mut world = world(2);
    restore(&world, &[0, 1]).await;
    world.state = Some(world.dir.path().join("another-machine"));
    restore(&world, &[0, 1]).await;
    world.state = Some(world.dir.path().join("state"));
    restore(&world, &[0, 1]).await;
    enrol(&world).await;
    let (exit, report) = verify(&world).await;
    assert_eq!(
        (exit, &report["records"]),
        (Exit::Ok, &4.into()),
        "{report}"
    );
    // BUT if they don't see each other's regions, both records stay and the fork is named
    restore(&world, &[0]).await;
    world.state = Some(world.dir.path().join("another-machine"));
    restore(&world, &[1]).await;
    let (exit, report) = verify(&world).await;
    assert_eq!(exit, Exit::Integrity, "{report}");
    assert!(findings(&report).contains(&"forked"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_no_region_takes_waits_and_the_next_command_sends_it_first() {
    let world = world(1);
    // GIVEN a region that can be read and in which nothing can be created
    let folder = world.regions[0].path.join("meta/evidence");
    fs::write(&folder, "in the way").unwrap();
    let ran = restore(&world, &[0]).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert!(ran.err.contains("evidence-waits"), "{ran:?}");
    fs::remove_file(&folder).unwrap();
    let (exit, report) = verify(&world).await;
    assert_eq!(exit, Exit::Exceptions, "{report}");
    assert_eq!(findings(&report), ["not-enrolled", "waiting"], "{report}");
    // WHEN the region can be written to again
    restore(&world, &[0]).await;
    // THEN both are there, in the order in which they happened
    assert_eq!(records(&world, 0).len(), 2);
    enrol(&world).await;
    let listed = world.run(&["evidence", "list"]).await;
    assert_eq!(listed.exit, Exit::Ok, "{listed:?}");
    let report = listed.json();
    assert_eq!(report["records"].as_array().unwrap().len(), 3);
    assert_eq!(report["records"][0]["seq"], 0);
    assert_eq!(findings(&report), Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_tamper_with_a_chain_is_named() {
    let mut world = world(2);
    for _ in 0..3 {
        restore(&world, &[0, 1]).await;
    }
    enrol(&world).await;
    // Only the regions count here: no copy of this machine's helps.
    world.state = None;
    assert_eq!(verify(&world).await.0, Exit::Ok);
    let both = [records(&world, 0), records(&world, 1)];
    let original: Vec<Vec<u8>> = both[0].iter().map(|path| fs::read(path).unwrap()).collect();
    let put_back = || {
        for paths in &both {
            for (path, bytes) in paths.iter().zip(&original) {
                overwrite(path, bytes);
            }
        }
    };
    let edited = String::from_utf8(original[1].clone())
        .unwrap()
        .replacen('A', "B", 1);
    let key = tidemark_format::sign::SigningKey::from_secret(&[9; 32]);
    let foreign = tidemark_format::evidence::Unverified::parse(&original[1]).unwrap();
    let foreign = tidemark_format::evidence::encode(&foreign.statement, &key).unwrap();
    type Tamper<'a> = Box<dyn Fn() + 'a>;
    let (both, original) = (&both, &original);
    let cases: Vec<(&str, Exit, Tamper<'_>)> = vec![
        (
            "damaged",
            Exit::Integrity,
            Box::new(move || overwrite(&both[0][1], edited.as_bytes())),
        ),
        (
            "damaged",
            Exit::Integrity,
            Box::new(move || overwrite(&both[1][1], &foreign)),
        ),
        (
            "missing",
            Exit::Integrity,
            Box::new(move || {
                both.iter()
                    .for_each(|paths| fs::remove_file(&paths[1]).unwrap());
            }),
        ),
        (
            "reordered",
            Exit::Integrity,
            Box::new(move || {
                for paths in both {
                    overwrite(&paths[0], &original[1]);
                    overwrite(&paths[1], &original[0]);
                }
            }),
        ),
        (
            "only-in",
            Exit::Exceptions,
            Box::new(move || fs::remove_file(&both[0][3]).unwrap()),
        ),
    ];
    for (what, exit, tamper) in cases {
        tamper();
        let (found, report) = verify(&world).await;
        assert_eq!(found, exit, "{what}: {report}");
        assert!(findings(&report).contains(&what), "{what}: {report}");
        put_back();
    }
    assert_eq!(verify(&world).await.0, Exit::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_revoked_signer_signs_afterwards_does_not_count() {
    let world = world(1);
    restore(&world, &[0]).await;
    enrol(&world).await;
    let key = key_of(&world).public().id().to_string();
    world.pass(60);
    let root = world.path("root");
    let revoke = [
        "keys", "revoke", &key, "--reason", "lost", "--root", &root, "--yes",
    ];
    assert_eq!(world.run(&revoke).await.exit, Exit::Ok);
    let (exit, report) = verify(&world).await;
    assert_eq!(exit, Exit::Ok, "{report}");
    let before = report["records"].as_u64().unwrap();
    world.pass(60);
    restore(&world, &[0]).await;
    let (exit, report) = verify(&world).await;
    assert_eq!(exit, Exit::Integrity, "{report}");
    assert!(findings(&report).contains(&"not-trusted"), "{report}");
    // The revocation names the last record that counts, so that no date helps whoever has the key.
    let refused = report["findings"].as_array().unwrap();
    assert_eq!(refused[0]["seq"], before, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_is_a_second_record_and_the_newest_decision_counts() {
    let world = world(2);
    restore(&world, &[0, 1]).await;
    let listed = world.run(&["evidence", "list"]).await.json();
    let id = listed["records"][0]["id"].as_str().unwrap().to_owned();
    let before = fs::read(&records(&world, 0)[0]).unwrap();
    enrol(&world).await;
    for decision in ["rejected", "approved"] {
        world.pass(60);
        let words = [
            "evidence",
            "sign-off",
            &id,
            "--reviewer",
            "Ann",
            "--ticket",
            "T-1",
        ];
        let ran = world
            .run(&[&words[..], &["--decision", decision]].concat())
            .await;
        assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
        assert_eq!(ran.json()["same_signer"], true);
    }
    let listed = world
        .run(&["evidence", "list", "--kind", "access"])
        .await
        .json();
    assert_eq!(listed["records"].as_array().unwrap().len(), 2);
    assert_eq!(listed["records"][0]["reviewed"]["decision"], "approved");
    let decisions = listed["records"][0]["decisions"].as_array().unwrap();
    assert_eq!(decisions.len(), 2, "every decision is shown: {listed}");
    assert_eq!(decisions[0]["decision"], "rejected");
    assert_eq!(fs::read(&records(&world, 0)[0]).unwrap(), before);
    let review = world.run(&["evidence", "list"]).await.json()["records"][3]["id"].clone();
    let words = ["evidence", "sign-off", review.as_str().unwrap()];
    let more = ["--reviewer", "A", "--ticket", "T", "--decision", "approved"];
    assert_eq!(
        world.run(&[&words[..], &more].concat()).await.exit,
        Exit::Usage
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_of_a_signer_that_nobody_vouched_for_is_shown_and_counts_for_nothing() {
    let world = world(1);
    restore(&world, &[0]).await;
    let listed = world.run(&["evidence", "list"]).await.json();
    let id = listed["records"][0]["id"].as_str().unwrap().to_owned();
    let words = ["evidence", "sign-off", &id, "--reviewer", "Mallory"];
    let more = ["--ticket", "T", "--decision", "approved"];
    let ran = world.run(&[&words[..], &more].concat()).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let record = world.run(&["evidence", "show", &id]).await.json();
    assert_eq!(record["reviewed"], Value::Null, "{record}");
    assert_eq!(record["decisions"][0]["reviewer"], "Mallory");
    assert_eq!(record["decisions"][0]["standing"], "not enrolled yet");
    let csv = ["evidence", "export", "--kind", "access"];
    let csv = world.run(&csv).await.out;
    assert!(csv.contains("approved by Mallory (T)"), "{csv}");
    assert!(csv.contains("not enrolled yet: does not count"), "{csv}");
    // WHEN the root vouches for the signer, it counts
    enrol(&world).await;
    let record = world.run(&["evidence", "show", &id]).await.json();
    assert_eq!(record["reviewed"]["decision"], "approved", "{record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_process_died_is_recorded_by_the_next_one() {
    use tidemark_restore_tool::evidence::begun::{Begun, Unended};
    let world = world(1);
    let state = world.state.clone().unwrap();
    let fields = serde_json::json!({ "action": "restore", "reason": "INC-9", "run_id": "run" });
    let unended = Unended::access("access", fields.as_object().unwrap().clone(), world.now());
    let signer = key_of(&world).public().id();
    let begun = Begun::note(&state, signer, "run", &unended).unwrap();
    // While it lives, nobody says that it died.
    restore(&world, &[0]).await;
    assert_eq!(records(&world, 0).len(), 1);
    // WHEN its process is gone
    drop(begun);
    world.pass(60);
    restore(&world, &[0]).await;
    // THEN the record stands before that of the command that noticed
    let listed = world.run(&["evidence", "list"]).await.json();
    let all = listed["records"].as_array().unwrap();
    assert_eq!(all.len(), 3, "{listed}");
    assert_eq!(all[1]["outcome"], "did-not-end", "{listed}");
    assert_eq!(all[1]["reason"], "INC-9");
    assert_eq!(all[2]["outcome"], "ok");
    // AND once
    restore(&world, &[0]).await;
    assert_eq!(records(&world, 0).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_is_another_than_at_the_last_use_is_on_record() {
    let world = world(1);
    let config = world.path("restore.toml");
    let with = ["keys", "check", "--config", &config];
    fs::write(&config, "memory = \"128MiB\"\n").unwrap();
    for _ in 0..2 {
        assert_eq!(world.run(&with).await.exit, Exit::Ok);
    }
    let before = tidemark_format::evidence::Sha256::of(&fs::read(&config).unwrap());
    fs::write(&config, "memory = \"256MiB\"\n").unwrap();
    for _ in 0..2 {
        assert_eq!(world.run(&with).await.exit, Exit::Ok);
    }
    let listed = world.run(&["evidence", "list"]).await.json();
    let actions: Vec<&str> = listed["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["action"].as_str().unwrap())
        .collect();
    let check = "keys-check";
    assert_eq!(actions, [check, check, "config-change", check, check]);
    let id = listed["records"][2]["id"].as_str().unwrap();
    let shown = world.run(&["evidence", "show", id]).await.json();
    let said = &shown["statement"]["predicate"];
    assert_eq!(said["request"]["before_sha256"], before.to_string());
    assert!(said["actor"]["uid"].is_u64(), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restores_record_says_with_which_options_it_ran() {
    let world = world(1);
    let target = world.path("restored.db");
    let words = ["restore", "--to", "latest", "--target", &target];
    let ran = world
        .run(&[&words[..], &["--map-tablespace", "/a=/b", "--no-finish"]].concat())
        .await;
    assert_eq!(ran.exit, Exit::Usage, "of SQLite there is none: {ran:?}");
    let listed = world.run(&["evidence", "list"]).await.json();
    let id = listed["records"][0]["id"].as_str().unwrap();
    let shown = world.run(&["evidence", "show", id]).await.json();
    let request = &shown["statement"]["predicate"]["request"];
    assert_eq!(request["map_tablespace"][0], "/a=/b", "{request}");
    assert_eq!(request["no_finish"], true);
    assert_eq!(request["delta"], false);
    assert_eq!(request["other_system"], false);
    assert!(request.get("pg_bin").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_hold_the_period_with_its_failures_and_say_what_they_are() {
    let world = world(2);
    restore(&world, &[0, 1]).await;
    world.pass(2 * 24 * 3600);
    let target = world.path("restored.db");
    world
        .run(&[
            "restore",
            "--to",
            "2020-01-01T00:00:00Z",
            "--target",
            &target,
        ])
        .await;
    let (out, page) = (world.path("access.csv"), world.path("access.html"));
    let export = [
        "evidence",
        "export",
        "--kind",
        "access",
        "--from",
        "2026-05-02",
    ];
    let ran = world.run(&[&export[..], &["--out", &out]].concat()).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let csv = fs::read_to_string(&out).unwrap();
    assert_eq!(csv.matches("\r\n").count(), 2, "{csv}");
    assert!(csv.contains(",failed,14,"), "{csv}");
    let meta: Value =
        serde_json::from_str(&fs::read_to_string(world.path("access.csv.meta.json")).unwrap())
            .unwrap();
    assert_eq!(meta["rows"], 1);
    assert_eq!(meta["signers"][0]["rows"], serde_json::json!([1, 1]));
    assert_eq!(meta["signers"][0]["chain"], serde_json::json!([0, 1]));
    let sum = tidemark_format::evidence::Sha256::of(csv.as_bytes());
    assert_eq!(meta["sha256"], sum.to_string());
    assert!(
        meta["command"]
            .as_str()
            .unwrap()
            .ends_with("--from '2026-05-02' --format csv")
    );
    // An export replaces nothing.
    let again = world.run(&[&export[..], &["--out", &out]].concat()).await;
    assert_eq!(again.exit, Exit::Usage, "{again:?}");
    let html = [&export[..4], &["--format", "html", "--out", &page]].concat();
    assert_eq!(world.run(&html).await.exit, Exit::Ok);
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!doctype html>") && !html.contains("<script"));
    let lines = world
        .run(&[&export[..4], &["--format", "ndjson"]].concat())
        .await;
    assert_eq!(lines.out.lines().count(), 2, "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_is_judged_as_regions_are_and_an_edited_file_is_named() {
    let world = world(1);
    restore(&world, &[0]).await;
    enrol(&world).await;
    let pack = world.path("pack");
    let export = [
        "evidence", "export", "--kind", "all", "--format", "pack", "--out", &pack,
    ];
    let ran = world.run(&export).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let verify = ["evidence", "verify", &pack];
    let ran = world.run(&verify).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert_eq!(ran.json()["records"], 2);
    // WHEN the table is changed and the list of sums with it
    let table = Path::new(&pack).join("evidence.csv");
    let text = fs::read_to_string(&table).unwrap();
    overwrite(&table, text.replacen(",ok,", ",no,", 1).as_bytes());
    let sums = Path::new(&pack).join("SHA256SUMS");
    let sum = |text: &str| tidemark_format::evidence::Sha256::of(text.as_bytes()).to_string();
    let list = fs::read_to_string(&sums).unwrap();
    let list = list.replace(&sum(&text), &sum(&fs::read_to_string(&table).unwrap()));
    overwrite(&sums, list.as_bytes());
    // THEN the records say otherwise
    let ran = world.run(&verify).await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    assert!(
        ran.json()["files"][0]
            .as_str()
            .unwrap()
            .contains("evidence.csv")
    );
}
