//! What can be wrong with a server that is drilled, and strange about it: a history that is missing, a fix
//! that the restore needs, a server that hangs, libraries and databases that the drill's host knows nothing of.
//! Every defect is named at its rung and never passes; what is only strange passes.

use std::process::Command;
use tidemark_testkit::postgres::{Options, Postgres, Stop};

use crate::canary::{server, wait_written};
use crate::drill::{EXCEPTIONS, FAILED, PASSED};
use crate::drill_defects::{a_mount_stays_in_the_scratch, check, held_when, processes_of, report};
use crate::objects::{objects, read, remove, write};
use crate::pg_restore::newest;
use crate::pg_site::{PgSite, load};
use crate::process::{Ran, long};

fn bin(site: &PgSite) -> String {
    site.cluster.postgres().bin().display().to_string()
}

fn drill(site: &PgSite, words: &[&str]) -> Ran {
    let bin = bin(site);
    crate::drill::drill(&site.site, &[&["--pg-bin", &bin], words].concat())
}

fn alone(site: &PgSite) -> Ran {
    let bin = bin(site);
    crate::drill::drill_from(&site.site, &[&site.site.regions[0]], &["--pg-bin", &bin])
}

fn cause(ran: &Ran) -> String {
    ran.json()["causes"][0]
        .as_str()
        .expect("a cause")
        .to_owned()
}

/// Agent and server are stopped once everything is safe.
fn protect(site: &PgSite) {
    let daemon = site.start_protected();
    site.load(10_000..10_020);
    site.wait_protected();
    daemon.terminate();
}

#[test]
fn a_missing_or_damaged_history_of_a_fail_over_fails_the_drill_unless_another_region_has_it() {
    let Some(postgres) = newest() else { return };
    let (site, standby) = PgSite::pair(&postgres);
    let daemon = site.start_protected();
    site.load(0..50);
    site.wait_protected();
    let before = objects(&site.site.region_folder(0), "meta/log/");
    site.fail_over(&standby);
    load(&standby, 50..100);
    site.wait_protected();
    standby.stop(Stop::Kill).unwrap();
    daemon.terminate();
    // Both branches come back.
    let ran = drill(&site, &["--quick"]).ends_with(PASSED);
    assert_eq!(
        check(&ran.json(), "count.postgres.public.load")["actual"],
        "100",
        "{ran}"
    );
    // GIVEN the object that brings the new branch's history file
    let after = objects(&site.site.region_folder(0), "meta/log/");
    let mut new = after.iter().filter(|(key, _)| !before.contains_key(*key));
    let (key, path) = new.next().expect("an object after the fail-over");
    let good = read(path);
    // WHEN it is gone from the only region
    remove(path);
    let ran = alone(&site).ends_with(FAILED);
    assert!(cause(&ran).starts_with("chain"), "{ran}");
    assert!(cause(&ran).contains("log"), "{ran}");
    // OR there, and not what was signed
    let mut bad = good.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    std::fs::write(path, &bad).unwrap();
    let ran = alone(&site).ends_with(FAILED);
    assert!(cause(&ran).starts_with("ciphertext"), "{ran}");
    assert!(cause(&ran).contains(key.as_str()), "{ran}");
    // THEN beside a good copy it is an exception that names it
    let ran = drill(&site, &["--quick"]).ends_with(EXCEPTIONS);
    let exceptions = ran.json()["exceptions"].to_string();
    assert!(
        exceptions.contains(key.as_str()) && exceptions.contains("region-a"),
        "{ran}"
    );
    write(path, &good);
}

#[test]
fn a_fix_that_the_restore_needs_is_on_record_and_no_pass() {
    // One that has collations with versions of their own.
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let site = PgSite::new(&postgres, &Options::default());
    site.load(0..20);
    // GIVEN an index that was sorted by another version of a collation than this host has
    site.cluster.sql(
        "CREATE COLLATION ours (provider = icu, locale = 'da'); CREATE INDEX ON load (text COLLATE ours); \
         UPDATE pg_collation SET collversion = '1.0' WHERE collname = 'ours'",
    );
    let daemon = site.start_protected();
    site.load(20..40);
    site.wait_protected();
    // AND settings that were raised after the base: replay must bear the log of a larger server
    site.cluster.sql(
        "ALTER SYSTEM SET max_connections = 333; ALTER SYSTEM SET max_prepared_transactions = 7",
    );
    site.cluster.stop(Stop::Fast).unwrap();
    site.cluster.start_again().unwrap();
    site.load(40..60);
    site.wait_protected();
    daemon.terminate();
    let ran = drill(&site, &[]).ends_with(EXCEPTIONS);
    let report = ran.json();
    assert_eq!(report["rung"], "logical", "{ran}");
    assert_eq!(
        check(&report, "count.postgres.public.load")["actual"],
        "60",
        "{ran}"
    );
    let exceptions = report["exceptions"].to_string();
    assert!(
        exceptions.contains("a fix was needed: reindex database"),
        "{ran}"
    );
    assert!(
        report["fixes"][0]
            .as_str()
            .unwrap()
            .contains("had version 1.0"),
        "{ran}"
    );
    let record = crate::drill::newest_record(&site.site).to_string();
    assert!(record.contains("reindex database"), "{record}");
}

#[test]
fn a_canary_in_the_log_is_what_a_drill_of_a_server_measures_by() {
    let Some((site, daemon)) = server("message") else {
        return;
    };
    let written = wait_written(&site.site, "main", 3)["seq"].as_u64().unwrap();
    site.load(0..10);
    site.wait_protected();
    site.site.agent(&["snapshot"]).ok();
    daemon.terminate();
    let ran = drill(&site, &["--quick", "--rpo", "1h"]).ends_with(PASSED);
    let report = ran.json();
    assert_eq!(report["loss"]["basis"], "canary", "{ran}");
    assert_eq!(report["rpo_met"], true, "{ran}");
    let found = check(&report, "canary");
    assert_eq!(found["status"], "passed", "{ran}");
    let number = found["actual"].as_str().unwrap().strip_prefix("number ");
    let number = number.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    assert!(number >= Some(written), "{number:?} of {written}: {ran}");
    // No table was needed for it.
    assert_eq!(
        site.cluster
            .query("SELECT to_regnamespace('tidemark') IS NULL"),
        "t"
    );
}

#[test]
fn a_server_that_hangs_ends_with_the_drill_s_time_and_what_is_mounted_in_its_scratch_is_spared() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    protect(&site);
    let bin = bin(&site);
    // GIVEN a restored server that stands still from its first moments on, in a drill that has the time to
    // get there on whatever machine
    let usual = drill(&site, &["--quick"]).ends_with(PASSED).took;
    let time = format!("{}s", (usual.as_secs() * 2).max(8));
    let words = ["--pg-bin", &bin, "--timeout", &time];
    let (mut daemon, scratch, ()) = held_when(&site.site, &words, |scratch| {
        let all = processes_of(&scratch.join("data")).into_iter();
        let mut servers = all.filter(|(_, words)| words.contains("postgres -D"));
        let server = servers.next()?.0.to_string();
        let stopped = Command::new("kill").args(["-s", "STOP", &server]).output();
        stopped.ok()?.status.success().then_some(())
    });
    daemon.go_on();
    // THEN the drill ends, as one that proves nothing, and nothing is left of it
    let code = daemon.wait();
    let said = report(&daemon);
    assert_eq!(said["verdict"], "INCONCLUSIVE", "{code}: {said:#}");
    assert!(said["causes"].to_string().contains("timeout"), "{said:#}");
    assert_eq!(
        said["handling"]["teardown"]["verified_absent"], true,
        "{said:#}"
    );
    assert!(!scratch.exists());
    assert!(processes_of(&scratch).is_empty());
    // A file system of somebody's in the scratch
    a_mount_stays_in_the_scratch(&site.site, &["--pg-bin", &bin]);
    drill(&site, &["--quick"]).ends_with(PASSED);
}

/// Where nothing of it may have an effect on a drill.
const STRANGE: &str = "CREATE DATABASE latin1 ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'; \
    CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'; \
    CREATE DATABASE closed; \
    CREATE ROLE gone; CREATE TABLE orphan (a int PRIMARY KEY); INSERT INTO orphan VALUES (1); \
    ALTER TABLE orphan OWNER TO gone; DELETE FROM pg_authid WHERE rolname = 'gone'; \
    ALTER SYSTEM SET search_path = 'nowhere'; ALTER SYSTEM SET default_transaction_isolation = 'serializable'; \
    ALTER SYSTEM SET statement_timeout = '1ms'; ALTER SYSTEM SET row_security = off; \
    ALTER SYSTEM SET log_directory = '/nowhere'; ALTER SYSTEM SET unix_socket_directories = '/nowhere'; \
    ALTER SYSTEM SET archive_command = 'false'; ALTER SYSTEM SET shared_preload_libraries = 'not_on_this_host'; \
    CREATE SUBSCRIPTION theirs CONNECTION 'host=production.example' PUBLICATION p WITH (connect = false); \
    UPDATE pg_subscription SET subenabled = true";

/// What the words of a script for a database are written in.
fn database_encoding(database: &str) -> &'static str {
    if database == "ascii" {
        "SQL_ASCII"
    } else {
        "UTF8"
    }
}

fn make_strange(site: &PgSite) {
    for statement in STRANGE.split("; ") {
        site.cluster.sql(statement);
    }
    let many = if long() { 200 } else { 2 };
    for number in 0..many {
        site.cluster.sql(&format!("CREATE DATABASE many{number}"));
    }
    let inside = |database: &str, sql: &str| {
        let done = site
            .cluster
            .command("psql")
            .env("PGCLIENTENCODING", database_encoding(database))
            .args(["--no-psqlrc", "--dbname", database, "--command", sql])
            .output();
        let done = done.unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    };
    inside(
        "latin1",
        "CREATE TABLE \"na\u{ef}ve\" (a text); INSERT INTO \"na\u{ef}ve\" VALUES ('\u{e9}')",
    );
    inside(
        "ascii",
        "CREATE TABLE raw (a text); INSERT INTO raw VALUES (E'\\\\xe9')",
    );
    inside(
        "closed",
        "CREATE TABLE inner_table AS SELECT generate_series(1, 7) a",
    );
    site.cluster
        .sql("UPDATE pg_database SET datallowconn = false WHERE datname = 'closed'");
}

#[test]
fn a_strange_server_is_examined_to_its_end_and_what_of_it_acts_is_told() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    make_strange(&site);
    protect(&site);
    let ran = drill(&site, &["--quick"]);
    let report = ran.json();
    // What would reach for production is an exception; everything else is as it should be.
    assert_eq!(ran.code, EXCEPTIONS, "{ran}");
    assert_eq!(report["rung"], "logical", "{ran}");
    assert_eq!(
        report["exceptions"].as_array().map(Vec::len),
        Some(1),
        "{ran}"
    );
    assert!(
        report["exceptions"]
            .to_string()
            .contains("subscription: theirs"),
        "{ran}"
    );
    assert!(!ran.out.contains("production.example"), "{ran}");
    for (count, rows) in [
        ("count.closed.public.inner_table", "7"),
        ("count.latin1.public.na\u{ef}ve", "1"),
        ("count.ascii.public.raw", "1"),
        ("count.postgres.public.orphan", "1"),
    ] {
        assert_eq!(check(&report, count)["actual"], rows, "{ran}");
    }
    let databases = check(&report, "postgres.databases");
    assert!(
        databases["why"].as_str().unwrap().contains("closed"),
        "{databases}"
    );
    let left = report["environment"]["left_over"].to_string();
    for name in [
        "archive_command",
        "shared_preload_libraries",
        "subscription: theirs",
    ] {
        assert!(left.contains(name), "no {name} in {left}");
    }
    assert_eq!(report["environment"]["isolation"]["preload"], "", "{ran}");
}
