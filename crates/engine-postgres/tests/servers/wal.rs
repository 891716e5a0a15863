//! What the scanner finds in a real server's log, against the server's own `pg_waldump`.

use std::process::Stdio;

use tidemark_engine_postgres::wal::{Event, Outcome, Record, Scanner};
use tidemark_engine_postgres::{Lsn, SegmentSize, TimelineId};
use tidemark_testkit::postgres::{Cluster, Options, Postgres, Stop};

/// Transactions of every kind, with records from a few bytes to megabytes.
const WORK: &str = "
    CREATE TABLE t (id int PRIMARY KEY, body text);
    INSERT INTO t SELECT n, repeat(md5(n::text), n % 50) FROM generate_series(1, 20000) n;
    SELECT pg_create_restore_point('before the release');
    BEGIN; INSERT INTO t VALUES (-1, 'gone'); SAVEPOINT a; INSERT INTO t VALUES (-2, 'x');
    ROLLBACK TO a; INSERT INTO t VALUES (-3, 'y'); COMMIT;
    BEGIN; DELETE FROM t; ROLLBACK;
    BEGIN; INSERT INTO t VALUES (-4, 'prepared'); PREPARE TRANSACTION 'one'; COMMIT PREPARED 'one';
    BEGIN; CREATE TABLE u (a int); INSERT INTO u VALUES (1); PREPARE TRANSACTION 'two';
    ROLLBACK PREPARED 'two';
    SELECT pg_switch_wal();
    UPDATE t SET body = body || 'z' WHERE id % 3 = 0;
    CREATE TABLE big AS SELECT string_agg(md5(n::text), '') AS body FROM generate_series(1, 400000) n;
    DROP TABLE big;
    CHECKPOINT;
    INSERT INTO t VALUES (-5, 'last');
";

/// The cluster's log, whole segments from the first that is there.
fn log(cluster: &Cluster, segment: SegmentSize) -> (Lsn, Vec<u8>) {
    let folder = cluster.data_dir().join("pg_wal");
    let current = cluster.query("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .expect("the folder is there")
        .filter_map(|entry| entry.expect("an entry").file_name().into_string().ok())
        .filter(|name| name.len() == 24 && *name <= current)
        .collect();
    names.sort();
    let first = tidemark_engine_postgres::SegmentName::parse(&names[0], segment)
        .expect("the server's name");
    let mut bytes = Vec::new();
    for name in names {
        bytes.extend(std::fs::read(folder.join(name)).expect("readable"));
    }
    (first.start, bytes)
}

/// Transaction ends that `pg_waldump` shows: position, id, whether it committed, time.
fn dumped(cluster: &Cluster, from: Lsn, to: Lsn) -> Vec<(Lsn, u32, bool, String)> {
    let output = cluster
        .command("pg_waldump")
        .args(["--rmgr=Transaction", "--path"])
        .arg(cluster.data_dir().join("pg_wal"))
        .arg(format!("--start={from}"))
        .arg(format!("--end={to}"))
        .stdin(Stdio::null())
        .output()
        .expect("pg_waldump runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut ends = Vec::new();
    for line in text.lines() {
        let (head, desc) = line.split_once("desc: ").expect("a description");
        let (kind, rest) = desc.split_once(' ').expect("a kind");
        let committed = match kind {
            "COMMIT" | "COMMIT_PREPARED" => true,
            "ABORT" | "ABORT_PREPARED" => false,
            _ => continue,
        };
        let field = |name: &str| {
            let (_, value) = head.split_once(name).expect("a field");
            value
                .trim_start()
                .split(',')
                .next()
                .expect("a value")
                .to_owned()
        };
        let (xid, time) = if kind.ends_with("PREPARED") {
            let (xid, time) = rest.split_once(": ").expect("the prepared id");
            (xid.trim().to_owned(), time)
        } else {
            (field("tx:"), rest)
        };
        let time = time.split(" UTC").next().expect("a time").to_owned();
        let lsn: Lsn = field("lsn:").parse().expect("a position");
        ends.push((lsn, xid.parse().expect("an id"), committed, time));
    }
    ends
}

fn ends(found: &[Record]) -> Vec<(Lsn, u32, bool, String)> {
    found
        .iter()
        .filter_map(|record| match &record.event {
            Event::End {
                xid, outcome, at, ..
            } => {
                let at = at.timestamp().expect("a time of ours");
                let at = at.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string();
                let committed = *outcome == Outcome::Committed;
                Some((record.span.start, *xid, committed, at))
            }
            _ => None,
        })
        .collect()
}

fn the_scanner_agrees_with_the_server(postgres: &Postgres, megabytes: u32) {
    // GIVEN a server that did everything that ends up in its log
    let options = Options {
        segment_megabytes: megabytes,
        ..Options::default()
    }
    .with("max_prepared_transactions", "5")
    .with("wal_level", "logical")
    .with("wal_keep_size", "2GB");
    let cluster = Cluster::start(postgres, &options).expect("a cluster");
    cluster.sql(WORK);
    let end: Lsn = cluster
        .query("SELECT pg_current_wal_flush_lsn()")
        .parse()
        .expect("a position");
    let segment = SegmentSize::new(megabytes << 20).expect("a size");
    // WHEN its log is read up to there
    let (start, bytes) = log(&cluster, segment);
    let length = usize::try_from(end.since(start)).expect("fits");
    let mut scanner = Scanner::new(TimelineId::FIRST, segment, start);
    let mut found = Vec::new();
    for piece in bytes[..length].chunks(131_072) {
        scanner.feed(piece, &mut found).expect("a sound log");
    }
    // THEN every transaction's end is where pg_waldump sees it, with its id and its time
    assert_eq!(
        scanner.version().map(|version| version.major()),
        Some(postgres.major())
    );
    let system = cluster.query("SELECT system_identifier FROM pg_control_system()");
    assert_eq!(scanner.system().map(|id| id.to_string()), Some(system));
    let first = scanner.first().expect("a record");
    assert_eq!(ends(&found), dumped(&cluster, first, end));
    assert!(ends(&found).len() >= 12, "{:?}", ends(&found));
    let event = |wanted: &dyn Fn(&Event) -> bool| found.iter().any(|record| wanted(&record.event));
    assert!(event(
        &|event| matches!(event, Event::Point { name, .. } if name == b"before the release")
    ));
    assert!(event(&|event| *event == Event::Switch));
    assert!(event(&|event| matches!(
        event,
        Event::Checkpoint {
            shutdown: false,
            ..
        }
    )));
    assert_eq!(scanner.last().map(|last| last.end), Some(end));
    // AND a server that stops cleanly says so in its last record
    cluster.stop(Stop::Fast).expect("it stops");
}

#[test]
fn the_scanner_agrees_with_pg_waldump_on_every_major() {
    for postgres in Postgres::all() {
        the_scanner_agrees_with_the_server(&postgres, 16);
    }
}

#[test]
fn the_scanner_agrees_with_pg_waldump_at_every_segment_size() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    for megabytes in [1, 64] {
        the_scanner_agrees_with_the_server(&postgres, megabytes);
    }
}
