//! `policy check` over long histories, made at the times that a test chooses: the whole window counts.

use std::fs;

use serde_json::Value;
use tidemark_host::Exit;

use crate::world::{Ran, World};

const HOUR: u64 = 3600;
/// Beats in a half of a day.
const HALF: u64 = 12;

/// A month: two commits a day, each with its point, an image a day, a beat an hour.
fn a_month() -> World {
    let mut world = World::new(2);
    for half in 0..64 {
        world.insert(20);
        if half % 2 == 0 {
            world.base();
        }
        world.point(None);
        for _hour in 0..HALF {
            world.pass(HOUR);
            world.beat();
        }
    }
    world
}

async fn check(world: &World, policy: &str) -> Ran {
    world.run(&["policy", "check", "--policy", policy]).await
}

/// A policy of one clause.
async fn clause(world: &World, rule: &str) -> (Exit, Value) {
    let path = world.path("policy.toml");
    let text = format!(
        "name = \"own\"\ntitle = \"Own\"\n[[clause]]\nid = \"a\"\ntitle = \"A\"\nwords = \"We do.\"\n{rule}\n"
    );
    fs::write(&path, text).unwrap();
    let ran = check(world, &path).await;
    let clause = ran.json()["sources"][0]["clauses"][0].clone();
    (ran.exit, clause)
}

fn said(clause: &Value, words: &[&str]) {
    let text = clause.to_string();
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

const LOSS: &str = "kind = \"rpo\"\nwithin = \"90m\"\nover = \"30d\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_month_is_judged_over_all_of_it_and_beats_say_that_an_idle_source_lost_nothing() {
    let world = a_month();
    let (exit, judged) = clause(&world, LOSS).await;
    assert_eq!(exit, Exit::Ok, "{judged}");
    said(&judged, &["PASS", "longest exposure 1 h", "no gap"]);
    for rule in [
        "kind = \"snapshots\"\nevery = \"1d\"\nover = \"30d\"",
        "kind = \"full-backups\"\nevery = \"1d\"\nover = \"30d\"",
        "kind = \"kept-at-most\"\nwithin = \"33d\"",
        "kind = \"encrypted-at-rest\"",
    ] {
        let (exit, judged) = clause(&world, rule).await;
        assert_eq!(exit, Exit::Ok, "{judged}");
    }
    let (exit, judged) = clause(&world, "kind = \"kept-at-most\"\nwithin = \"31d\"").await;
    assert_eq!(exit, Exit::Policy, "{judged}");
    said(&judged, &["older than 31 d", "meta/"]);
    // Nobody's access was removed, no TLS was seen, of the database itself nothing is known: none is a pass.
    for (rule, why) in [
        ("removal-of-access", "no removal to judge"),
        ("encrypted-in-transit", "no connection with TLS was seen"),
        ("database-encrypted-at-rest", "the database itself"),
    ] {
        let (exit, judged) = clause(&world, &format!("kind = \"{rule}\"")).await;
        assert_eq!(exit, Exit::Exceptions, "{judged}");
        said(&judged, &["NOT_PROVED", why]);
    }
    let loadster = check(&world, "loadster").await;
    assert_eq!(loadster.exit, Exit::Exceptions, "{loadster:?}");
    let open = "\"not_decided\":\"what the application itself transmits\"";
    assert!(loadster.out.contains(open), "{loadster:?}");
    // WHEN five hours of silence lie three weeks back
    let beats: Vec<_> = (0..2)
        .map(|region| world.regions[region].files("meta/beat/"))
        .collect();
    for files in &beats {
        // Named so that the newest stand first.
        let oldest_first: Vec<_> = files.iter().rev().collect();
        for file in &oldest_first[123..128] {
            fs::remove_file(file).unwrap();
        }
    }
    // THEN the window shows it
    let (exit, judged) = clause(&world, LOSS).await;
    assert_eq!(exit, Exit::Policy, "{judged}");
    said(
        &judged,
        &[
            "FAIL",
            "1 exposure longer than 1 h 30 min",
            "6 h",
            "beat 123",
            "it is over",
        ],
    );
    let shorter = LOSS.replace("30d", "7d");
    let (exit, judged) = clause(&world, &shorter).await;
    assert_eq!(exit, Exit::Ok, "it is not within a week: {judged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_told_with_its_time_and_a_young_history_with_its_days() {
    let mut world = World::new(1);
    world.insert(20);
    world.point(None);
    let young = check(&world, "loadster").await;
    assert_eq!(young.exit, Exit::Exceptions, "{young:?}");
    assert!(young.out.contains(" of 30 d; "), "{young:?}");
    world.pass(HOUR);
    world.gap("INSERT INTO t(v) VALUES ('lost')");
    world.pass(HOUR);
    world.base();
    world.insert(20);
    world.point(None);
    let strict = "kind = \"rpo\"\nwithin = \"30m\"\nover = \"3d\"";
    let (exit, judged) = clause(&world, strict).await;
    assert_eq!(exit, Exit::Policy, "{judged}");
    said(
        &judged,
        &["1 gap that can't be restored", "the spool was full"],
    );
    let (exit, judged) = clause(&world, "kind = \"pitr\"\nwithin = \"1m\"\nover = \"1h\"").await;
    assert_eq!(exit, Exit::Policy, "{judged}");
    said(&judged, &["can't be restored", "the spool was full"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_that_was_rejected_first_is_told_with_the_approval_that_followed() {
    let mut world = World::new(1);
    world.insert(5);
    world.point(None);
    world.state = Some(world.dir.path().join("state"));
    let root = world.path("root");
    let run = async |words: &[&str]| {
        let ran = world.run(words).await;
        assert_eq!(ran.exit, Exit::Ok, "{words:?}: {ran:?}");
        ran
    };
    run(&["keys", "list", "--for-review"]).await;
    run(&["keys", "enrol", "--all", "--root", &root]).await;
    let listed = run(&["evidence", "list", "--kind", "access"]).await.json();
    let records = listed["records"].as_array().unwrap().clone();
    let own = records.iter().find(|one| one["action"] == "keys-list");
    let id = own.unwrap()["id"].as_str().unwrap();
    for decision in ["rejected", "approved"] {
        let words = ["evidence", "sign-off", id, "--reviewer", "Ann"];
        let more = ["--ticket", "T-1", "--decision", decision];
        run(&[&words[..], &more].concat()).await;
    }
    let rule = "kind = \"access-review\"\nover = \"366d\"";
    let (exit, judged) = clause(&world, rule).await;
    assert_eq!(exit, Exit::Ok, "{judged}");
    said(
        &judged,
        &["was approved, after it was rejected by Ann at ", "(T-1)"],
    );
}
