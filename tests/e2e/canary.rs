//! The canary through the shipped programs: written if the config asks for it, back after a restore, gone
//! after `retire`; and nothing at all is written without being asked for.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::Value;
use tidemark_engine_postgres::wal::{Event, Scanner};
use tidemark_engine_postgres::{SegmentSize, TimelineId};
use tidemark_engine_sqlite::canary;
use tidemark_testkit::postgres::Options;
use tidemark_tests::eventually;

use crate::pg_restore::newest;
use crate::pg_site::PgSite;
use crate::process::{Daemon, SOON, pass};
use crate::site::{Site, instant};
use crate::status::Status;
use crate::writer::{self, Habits, Writer, assert_committed_prefix};

/// How often, in these tests.
const EVERY: &str = "\"1s\"";
/// The rounds in which the agent is killed.
const KILLS: usize = 6;

fn with_canary(site: &Site, form: &str) {
    site.set("canary", &format!("\"{form}\""));
    site.set("canary_every", EVERY);
}

/// What the running agent says of the canaries of a source.
fn live(status: &Status, source: &str) -> Value {
    status.0["daemon"]["sources"][source]["canary"].clone()
}

/// Waits until the agent has written canary `number`.
#[track_caller]
pub(crate) fn wait_written(site: &Site, source: &str, number: u64) -> Value {
    eventually(&format!("canary {number} is written"), SOON, || {
        let canary = live(&site.status(), source);
        (canary["seq"].as_u64() >= Some(number)).then_some(canary)
    })
}

/// The canaries that stand in a SQLite file now: number → instant and nonce.
fn rows(path: &Path) -> BTreeMap<i64, (String, String)> {
    let app = writer::open(path);
    let Ok(mut statement) = app.prepare("SELECT seq, at, nonce FROM tidemark_canary") else {
        return BTreeMap::new();
    };
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))
        .expect("rows");
    rows.collect::<Result<_, _>>().expect("rows are read")
}

#[test]
fn sqlite_canary_survives_kills_under_load_and_comes_back_with_the_database() {
    let site = Site::new();
    with_canary(&site, "table");
    let writer = Writer::start(
        &site.database,
        &Habits {
            per_second: 150,
            checkpoints: Some(3),
        },
    );
    // GIVEN an agent that is killed again and again while the application writes
    let mut known = BTreeMap::new();
    let look = |known: &mut BTreeMap<i64, (String, String)>| {
        let there = rows(&site.database);
        // AND none is left out: the newest few are there at any time, over a kill of the agent, too
        let dense: Vec<i64> = there
            .keys()
            .next()
            .map_or(0.., |first| *first..)
            .take(there.len())
            .collect();
        let numbers: Vec<i64> = there.keys().copied().collect();
        assert_eq!(numbers, dense);
        for (seq, canary) in there {
            // THEN no number is ever used for another canary
            let before = known.entry(seq).or_insert_with(|| canary.clone());
            assert_eq!(*before, canary, "canary {seq} was written twice");
        }
    };
    for round in 1..=KILLS {
        let mut daemon = site.start();
        let next = known.last_key_value().map_or(1, |(seq, _)| seq + 2);
        eventually("two more canaries are written", SOON, || {
            look(&mut known);
            let newest = known.last_key_value().map(|(seq, _)| *seq);
            (newest >= Some(next)).then_some(())
        });
        pass(Duration::from_millis(u64::try_from(round).unwrap() * 37));
        daemon.kill();
        look(&mut known);
    }
    // AND its instants go up with its numbers
    let times: Vec<Timestamp> = known.values().map(|(at, _)| at.parse().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    // WHEN the newest state is restored
    let daemon = site.start();
    let said = wait_written(&site, "app", 2);
    assert_eq!(said["form"], "table", "{said}");
    drop(writer.stop());
    site.agent(&["snapshot"]).ok();
    daemon.terminate();
    let last = rows(&site.database).pop_last().expect("canaries").0;
    let restored = site.restore_latest(0);
    assert_committed_prefix(&restored.path);
    // THEN the last canary is in it
    let seen = canary::read(&Connection::open(&restored.path).unwrap()).unwrap();
    let seen = seen.expect("the canary comes back");
    assert_eq!(i64::try_from(seen.seq).unwrap(), last);
    assert!(seen.next_absent && seen.at >= *times.last().unwrap());
}

#[test]
fn recovery_points_status_and_metrics_tell_of_the_canary_and_retire_takes_it_away() {
    let site = Site::new();
    with_canary(&site, "table");
    let daemon = site.start();
    let canary = wait_written(&site, "app", 2);
    let at = instant(&canary["at"]).expect("an instant");
    assert_eq!(canary["every_ms"], 1_000);
    // The screen has it, too.
    let screen = site.agent(&["status"]);
    assert!(screen.out.contains("Canary       number "), "{screen}");
    assert!(screen.out.contains("as a table every 1 s"), "{screen}");
    site.agent(&["doctor"])
        .says(&["a canary in tidemark_canary"]);
    site.agent(&["snapshot"]).ok();
    let heads = heads(&site, "meta/point");
    let newest = heads.last().expect("a recovery point");
    let fact = &newest["facts"]["canary"];
    assert_eq!(fact["form"], "table", "{newest}");
    assert!(fact["seq"].as_u64() >= canary["seq"].as_u64(), "{fact}");
    assert!(instant(&fact["at"]) >= Some(at), "{fact}");
    let logs = self::heads(&site, "meta/log");
    assert!(
        logs.iter()
            .any(|head| head["facts"]["canary"]["seq"].is_u64())
    );
    // What a drill needs to refuse the source's host, and to correct for its clock.
    assert!(newest["facts"]["host_id"].is_string(), "{newest}");
    assert!(newest["clock"]["boot_ms"].is_u64(), "{newest}");
    // WHEN it is retired
    site.agent(&["retire", "--yes"])
        .ok()
        .says(&["canary's table was dropped"]);
    daemon.terminate();
    // THEN there is no table, and what was sealed still has it
    assert!(rows(&site.database).is_empty());
    let restored = site.restore_latest(1);
    assert!(!rows(&restored.path).is_empty());
}

/// The heads of the objects below a prefix in the first region, by name.
fn heads(site: &Site, prefix: &str) -> Vec<Value> {
    let mut paths = Vec::new();
    walk(&site.region_folder(0).join(prefix), &mut paths);
    paths.sort();
    let head = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).expect("an object");
        let length = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
        let end = 16 + usize::try_from(length).unwrap();
        serde_json::from_slice(&bytes[16..end]).expect("a head")
    };
    paths.iter().map(head).collect()
}

fn walk(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn without_a_canary_not_a_byte_of_the_database_changes() {
    let site = Site::plan();
    writer::create(&site.database);
    writer::write(&site.database, 40);
    // As an application leaves it that has ended: everything is in the file.
    writer::checkpoint(&site.database);
    let before = std::fs::read(&site.database).unwrap();
    site.init();
    let daemon = site.start();
    site.agent(&["snapshot", "--base"]).ok();
    assert!(live(&site.status(), "app").is_null());
    pass(Duration::from_secs(2));
    site.agent(&["snapshot"]).ok();
    daemon.terminate();
    assert!(
        std::fs::read(&site.database).unwrap() == before,
        "the agent has changed the database"
    );
    let log = site.database.with_file_name("app.db-wal");
    let logged = std::fs::metadata(log).map_or(0, |file| file.len());
    assert_eq!(logged, 0, "the agent has written into the log");
}

#[test]
fn canary_that_is_switched_off_is_taken_away() {
    let site = Site::new();
    with_canary(&site, "table");
    let daemon = site.start();
    wait_written(&site, "app", 1);
    daemon.terminate();
    site.set("canary", "\"off\"");
    let daemon = site.start();
    eventually("the table is gone", SOON, || {
        rows(&site.database).is_empty().then_some(())
    });
    daemon.terminate();
}

/// A cluster whose agent writes canaries.
pub(crate) fn server(form: &str) -> Option<(PgSite, Daemon)> {
    let site = PgSite::new(&newest()?, &Options::default());
    with_canary(&site.site, form);
    let daemon = site.start_protected();
    Some((site, daemon))
}

#[test]
fn server_keeps_canaries_in_a_schema_that_an_administrator_gives_it() {
    let Some((site, daemon)) = server("table") else {
        return;
    };
    // GIVEN a role that may make no schema: doctor prints what to run
    let said = site.site.agent(&["doctor"]);
    let statement = "CREATE SCHEMA IF NOT EXISTS tidemark AUTHORIZATION \"tidemark\";";
    assert!(said.out.contains(statement), "{said}");
    eventually("status says why there is none", SOON, || {
        let canary = live(&site.site.status(), "main");
        let why = canary["why_not"].as_str().map(str::to_owned);
        why.filter(|why| why.contains(statement))
    });
    // WHEN it is run
    site.cluster.sql(statement);
    // THEN canaries come, through a kill of the agent, too
    wait_written(&site.site, "main", 2);
    let mut daemon = daemon;
    daemon.kill();
    let before: u64 = last_row(&site);
    let daemon = site.site.start();
    wait_written(&site.site, "main", before + 2);
    assert!(live(&site.site.status(), "main")["why_not"].is_null());
    let numbers = site
        .cluster
        .query("SELECT count(*) = max(seq) - min(seq) + 1 FROM tidemark.canary");
    assert_eq!(numbers, "t", "they are dense");
    // AND retire takes table and schema away
    site.site
        .agent(&["retire", "--yes"])
        .ok()
        .says(&["table and schema were dropped", "slot"]);
    let left = site
        .cluster
        .query("SELECT to_regnamespace('tidemark') IS NULL");
    assert_eq!(left, "t");
    daemon.terminate();
}

fn last_row(site: &PgSite) -> u64 {
    let last = site.cluster.query("SELECT max(seq) FROM tidemark.canary");
    last.parse().expect("a number")
}

#[test]
fn server_sends_canaries_into_its_log_without_a_table() {
    let Some((site, mut daemon)) = server("message") else {
        return;
    };
    let first = wait_written(&site.site, "main", 1)["seq"].as_u64().unwrap();
    let from = site
        .cluster
        .query("SELECT pg_walfile_name(pg_current_wal_lsn())");
    wait_written(&site.site, "main", first + 2);
    daemon.kill();
    let daemon = site.site.start();
    let canary = wait_written(&site.site, "main", first + 4);
    assert_eq!(canary["form"], "message");
    assert_eq!(
        site.cluster
            .query("SELECT to_regnamespace('tidemark') IS NULL"),
        "t"
    );
    site.site.agent(&["snapshot"]).ok();
    daemon.terminate();
    // The log has each once, and committed or not, none twice.
    let segment = std::fs::read(site.cluster.data_dir().join("pg_wal").join(&from)).unwrap();
    let mut scanner = Scanner::new(TimelineId(1), SegmentSize::DEFAULT, start_of(&from));
    let mut found = Vec::new();
    // The rest of the segment is empty: that is where the log ends.
    drop(scanner.feed(&segment, &mut found));
    let numbers: Vec<u64> = found
        .iter()
        .filter_map(|record| match record.event {
            Event::Canary { seq, .. } => Some(seq),
            _ => None,
        })
        .collect();
    assert!(
        numbers.last() >= Some(&(first + 4)) && numbers.len() >= 3,
        "{numbers:?}"
    );
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
}

/// Where the segment of a log file begins.
fn start_of(name: &str) -> tidemark_engine_postgres::Lsn {
    let number = |part: &str| u64::from_str_radix(part, 16).expect("hexadecimal");
    let (high, low) = (number(&name[8..16]), number(&name[16..24]));
    tidemark_engine_postgres::Lsn((high << 32) + low * (16 << 20))
}
