//! Drills of a server through the shipped programs: replayed and asked by a process without keys, and
//! what is wrong with it named at its rung.

use jiff::Timestamp;
use serde_json::Value;
use tidemark_testkit::postgres::{Options, Postgres};

use crate::objects::{copy_folder, flip, objects, remove};
use crate::pg_restore::newest;
use crate::pg_site::PgSite;
use crate::process::Ran;

const PASSED: i32 = 0;
const EXCEPTIONS: i32 = 3;
const FAILED: i32 = 18;

fn drill(site: &PgSite, words: &[&str]) -> Ran {
    let bin = site.cluster.postgres().bin().display().to_string();
    crate::drill::drill(&site.site, &[&["--pg-bin", &bin], words].concat())
}

fn alone(site: &PgSite, words: &[&str]) -> Ran {
    let bin = site.cluster.postgres().bin().display().to_string();
    let words = [&["--pg-bin", &bin], words].concat();
    crate::drill::drill_from(&site.site, &[&site.site.regions[0]], &words)
}

fn cause(ran: &Ran) -> String {
    ran.json()["causes"][0]
        .as_str()
        .expect("a cause")
        .to_owned()
}

fn check<'a>(report: &'a Value, id: &str) -> Option<&'a Value> {
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["id"] == id)
}

#[test]
fn a_drill_of_a_server_replays_and_asks_it_in_a_sandbox_and_meets_any_instant() {
    // The one that most hosts have; the others are drilled with the newest.
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let site = PgSite::new(&postgres, &Options::default());
    site.load(0..200);
    let daemon = site.start_protected();
    site.load(200..300);
    site.cluster.sql("SELECT pg_sleep(0.3)");
    let between = site
        .cluster
        .query("SELECT to_json(clock_timestamp())#>>'{}'");
    site.cluster.sql("SELECT pg_sleep(0.3)");
    site.load(300..400);
    site.wait_protected();
    daemon.terminate();
    // WHEN the newest state is drilled
    let ran = drill(&site, &["--rto", "1h", "--rpo", "1h"]);
    let report = ran.json();
    // THEN every rung was climbed, by the server's own recovery and its own checks
    assert_eq!(report["verdict"], "PASS", "{ran}");
    assert_eq!(ran.code, PASSED, "{ran}");
    assert_eq!(report["rung"], "logical", "{ran}");
    assert_eq!(
        check(&report, "replay.end").expect("the end")["status"],
        "passed"
    );
    let phases = report["phases"].as_array().expect("phases");
    let counted = phases.iter().filter(|phase| phase["counted"] == true);
    let sum: u64 = counted.filter_map(|phase| phase["took_ms"].as_u64()).sum();
    let total = report["rto_ms"].as_u64().expect("an RTO");
    assert!(
        sum.abs_diff(total) * 100 <= total,
        "{sum} of {total}: {report:#}"
    );
    for phase in ["bases", "log", "replay", "checks"] {
        assert!(
            phases.iter().any(|one| one["name"] == phase),
            "no {phase}: {ran}"
        );
    }
    let isolation = &report["environment"]["isolation"];
    assert_eq!(isolation["egress_probe_result"], "refused", "{ran}");
    assert_eq!(isolation["listen_addresses"], "", "{ran}");
    assert_eq!(isolation["archive_mode"], "off", "{ran}");
    assert_eq!(
        report["handling"]["teardown"]["verified_absent"], true,
        "{ran}"
    );
    let counted = check(&report, "count.postgres.public.load").expect("a count");
    assert_eq!(counted["actual"], "400", "{ran}");
    // AND an instant between two transactions is met exactly
    let ran = drill(
        &site,
        &["--quick", "--select", &between, "--precision", "1m"],
    );
    let report = ran.json();
    assert_eq!(report["verdict"], "PASS", "{ran}");
    let counted = check(&report, "count.postgres.public.load").expect("a count");
    assert_eq!(counted["actual"], "300", "{ran}");
    let reached: Timestamp = report["reached_at"].as_str().unwrap().parse().unwrap();
    assert!(reached <= between.parse().unwrap(), "{ran}");
}

#[test]
fn what_is_wrong_with_a_server_fails_its_drill_at_the_right_rung() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    site.load(0..100);
    // GIVEN a row that an index doesn't have: every page is as it was signed
    site.cluster
        .sql("UPDATE pg_index SET indisready = false WHERE indexrelid = 'load_pkey'::regclass");
    site.cluster
        .sql("INSERT INTO load (id, text) VALUES (1000, 'unseen')");
    site.cluster
        .sql("UPDATE pg_index SET indisready = true WHERE indexrelid = 'load_pkey'::regclass");
    let daemon = site.start_protected();
    site.load(100..150);
    site.wait_protected();
    daemon.terminate();
    // WHEN it is drilled, THEN replay is proved, and the server's own checker says no
    let ran = alone(&site, &[]);
    assert_eq!(ran.code, FAILED, "{ran}");
    assert_eq!(ran.json()["rung"], "replay", "{ran}");
    assert!(cause(&ran).starts_with("logical"), "{ran}");
    // AND a flipped byte of the base, or a missing piece of the log, is met before that
    let region = site.site.region_folder(0);
    let kept = site.site.fresh("kept");
    copy_folder(&region, &kept);
    let packs: Vec<_> = objects(&region, "data/pack/").into_values().collect();
    flip(packs.first().expect("a pack"));
    let ran = alone(&site, &[]);
    assert_eq!(ran.code, FAILED, "{ran}");
    assert!(cause(&ran).starts_with("ciphertext"), "{ran}");
    std::fs::remove_dir_all(&region).unwrap();
    std::fs::rename(&kept, &region).unwrap();
    let log: Vec<_> = objects(&region, "meta/log/").into_values().collect();
    remove(&log[log.len() - 2]);
    let ran = alone(&site, &[]);
    assert_eq!(ran.code, FAILED, "{ran}");
    assert!(cause(&ran).starts_with("chain"), "{ran}");
}

#[test]
fn settings_of_production_are_found_and_kept_from_taking_effect() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    site.cluster
        .sql("ALTER SYSTEM SET primary_conninfo = 'host=production.example user=rep'");
    site.cluster
        .sql("ALTER SYSTEM SET archive_command = 'cp %p /production/%f'");
    site.load(0..20);
    let daemon = site.start_protected();
    site.load(20..40);
    site.wait_protected();
    daemon.terminate();
    let ran = drill(&site, &[]);
    let report = ran.json();
    assert_eq!(ran.code, EXCEPTIONS, "{ran}");
    let left = &report["environment"]["left_over"];
    assert!(left.to_string().contains("primary_conninfo"), "{ran}");
    assert!(
        !ran.out.contains("production.example"),
        "an address left the sandbox: {ran}"
    );
    assert!(
        report["exceptions"]
            .to_string()
            .contains("primary_conninfo"),
        "{ran}"
    );
}
