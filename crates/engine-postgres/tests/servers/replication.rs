//! The replication client on real servers: log-in, slots, streaming, timelines, base backups.

use std::path::Path;
use std::time::Duration;

use tidemark_engine_postgres::conninfo::{ConnInfo, Surroundings};
use tidemark_engine_postgres::replication::{
    self, BackupEvent, BackupOptions, BaseBackup, Flushed, Identity, Started, Stream, StreamEvent,
};
use tidemark_engine_postgres::wal::{Event, PgTime, Scanner, Version};
use tidemark_engine_postgres::wire::{Connection, Mode, WireErrorKind};
use tidemark_engine_postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
use tidemark_testkit::postgres::{Cluster, Options, Postgres, Stop};

/// Nothing here takes this long, on no machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A server that hangs up on nobody who stands still for some seconds, as a busy test does.
fn patient() -> Options {
    Options::default().with("wal_sender_timeout", "60s")
}

/// An environment with nothing in it.
pub(crate) struct Nothing;

impl Surroundings for Nothing {
    fn variable(&self, _name: &str) -> Option<String> {
        None
    }

    fn read(&self, _path: &Path) -> std::io::Result<Option<String>> {
        Ok(None)
    }

    fn mode(&self, _path: &Path) -> Option<u32> {
        None
    }

    fn user(&self) -> Option<String> {
        None
    }
}

fn info(cluster: &Cluster, more: &str) -> ConnInfo {
    let text = format!(
        "host={} user=postgres dbname=postgres {more}",
        cluster.socket_dir().display()
    );
    ConnInfo::parse(&text, &Nothing).expect("a connection string")
}

async fn connect(cluster: &Cluster, mode: Mode) -> Connection {
    Connection::open(&info(cluster, ""), mode)
        .await
        .expect("the server lets us in")
}

fn lsn(cluster: &Cluster, function: &str) -> Lsn {
    let text = cluster.query(&format!("SELECT {function}"));
    text.parse().expect("a position")
}

/// Takes the stream's bytes until it reaches `end`, reporting all of it as flushed.
async fn take(stream: &mut Stream, mut at: Lsn, end: Lsn) -> Vec<u8> {
    let mut log = Vec::new();
    let all = async {
        while at < end {
            match stream.next().await.expect("it streams") {
                StreamEvent::Data { start, bytes, .. } => {
                    assert_eq!(start, at, "no gap and no repetition");
                    at = at.plus(u64::try_from(bytes.len()).expect("fits"));
                    log.extend_from_slice(&bytes);
                }
                StreamEvent::Keepalive { .. } => {}
                other => panic!("{other:?}"),
            }
            let flushed = Flushed {
                written: at,
                flushed: at,
                applied: at,
            };
            stream
                .report(flushed, PgTime(0), false)
                .await
                .expect("the server listens");
        }
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("the log comes");
    log
}

/// A stream of all that a new slot keeps, and where it begins.
async fn stream_of_a_new_slot(cluster: &Cluster, segment: SegmentSize) -> (Stream, Lsn, Identity) {
    let mut connection = connect(cluster, Mode::Database).await;
    let told = replication::segment_size(&mut connection).await;
    assert_eq!(told.expect("told"), segment);
    let slot = replication::read_slot(&mut connection, "tide").await;
    assert_eq!(slot.expect("answered"), None);
    let made = replication::create_slot(&mut connection, "tide").await;
    made.expect("a slot");
    let again = replication::create_slot(&mut connection, "tide").await;
    assert_eq!(again.expect_err("there is one").code(), Some("42710"));
    let slot = replication::read_slot(&mut connection, "tide").await;
    let slot = slot.expect("answered").expect("there");
    assert_eq!(slot.kind, "physical");
    let from = segment.start(slot.restart.expect("reserved"));
    let who = replication::identify(&mut connection).await.expect("told");
    assert_eq!(who.timeline, TimelineId(1));
    let history = replication::history(&mut connection, who.timeline).await;
    assert_eq!(history.expect("answered"), None);
    let started = replication::start(connection, Some("tide"), from, who.timeline).await;
    match started.expect("it starts") {
        Started::Streaming(stream) => (stream, from, who),
        Started::Ended(..) => panic!("the timeline has not ended"),
    }
}

/// Compares a stream's bytes with the server's own files.
fn assert_same_as_files(cluster: &Cluster, segment: SegmentSize, from: Lsn, log: &[u8]) {
    let folder = cluster.data_dir().join("pg_wal");
    let end = from.plus(u64::try_from(log.len()).expect("fits"));
    let mut at = from;
    while at < end {
        let name = SegmentName::of(TimelineId::FIRST, at, segment);
        let file = std::fs::read(folder.join(name.text(segment))).expect("kept");
        let offset = usize::try_from(at.since(from)).expect("fits");
        let length = usize::try_from(end.since(at))
            .expect("fits")
            .min(file.len());
        let same = log[offset..offset + length] == file[..length];
        assert!(same, "segment at {at}");
        at = segment.next(at);
    }
}

/// Scans what a stream still brings until the server stops: the last event.
async fn last_event(stream: &mut Stream, mut at: Lsn, scanner: &mut Scanner) -> Option<Event> {
    let mut found = Vec::new();
    loop {
        match stream.next().await {
            Ok(StreamEvent::Data { bytes, .. }) => {
                at = at.plus(u64::try_from(bytes.len()).expect("fits"));
                scanner.feed(&bytes, &mut found).expect("sound");
            }
            Ok(StreamEvent::Keepalive { .. }) => {}
            Ok(StreamEvent::Stopped) => return found.pop().map(|record| record.event),
            other => panic!("{other:?}"),
        }
        let flushed = Flushed {
            written: at,
            flushed: at,
            applied: at,
        };
        // It may have hung up already: what it sent before is still to be read.
        drop(stream.report(flushed, PgTime(0), false).await);
    }
}

async fn streams_what_the_server_wrote(postgres: &Postgres) {
    // GIVEN a server with a slot
    let options = patient().with("wal_keep_size", "512MB");
    let cluster = Cluster::start(postgres, &options).expect("a cluster");
    let segment = SegmentSize::DEFAULT;
    // WHEN it is streamed from the segment that the slot keeps, while rows are written
    let (mut stream, from, who) = stream_of_a_new_slot(&cluster, segment).await;
    cluster.sql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 200000) n");
    cluster.sql("SELECT pg_switch_wal(); INSERT INTO t VALUES (0, 'last');");
    let end = lsn(&cluster, "pg_current_wal_flush_lsn()");
    let log = take(&mut stream, from, end).await;
    // THEN it is the server's own log, byte for byte, and sound
    let whole = usize::try_from(end.since(from)).expect("fits");
    assert_same_as_files(&cluster, segment, from, &log[..whole]);
    let mut scanner = Scanner::new(who.timeline, segment, from);
    let mut found = Vec::new();
    scanner.feed(&log[..whole], &mut found).expect("sound");
    assert_eq!(scanner.system(), Some(who.system));
    assert_eq!(scanner.last().map(|last| last.end), Some(end));
    assert_eq!(
        scanner.version().map(Version::major),
        Some(postgres.major())
    );
    // AND a clean stop sends everything before it hangs up
    scanner.feed(&log[whole..], &mut found).expect("sound");
    let stops = tokio::task::spawn_blocking(move || {
        cluster.stop(Stop::Fast).expect("it stops");
        cluster
    });
    let at = from.plus(u64::try_from(log.len()).expect("fits"));
    let last = last_event(&mut stream, at, &mut scanner).await;
    assert!(
        matches!(last, Some(Event::Checkpoint { shutdown: true, .. })),
        "{last:?}"
    );
    drop(stops.await.expect("it stopped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_is_the_servers_log_byte_for_byte_on_every_major() {
    for postgres in Postgres::all() {
        streams_what_the_server_wrote(&postgres).await;
    }
}

async fn follows_a_promotion(postgres: &Postgres) {
    // GIVEN a standby that is promoted while it is streamed from
    let primary = Cluster::start(postgres, &patient()).expect("a cluster");
    let standby = primary.standby("standby").expect("a standby");
    primary.sql("CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 1000)");
    let end = lsn(&primary, "pg_current_wal_flush_lsn()");
    let follows = async {
        while lsn(&standby, "pg_last_wal_replay_lsn()") < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, follows)
        .await
        .unwrap_or_else(|_elapsed| panic!("the standby follows: {}", standby.log()));
    let segment = SegmentSize::DEFAULT;
    let from = segment.start(end);
    let mut connection = connect(&standby, Mode::Physical).await;
    let who = replication::identify(&mut connection).await.expect("told");
    assert_eq!(who.timeline, TimelineId(1));
    let started = replication::start(connection, None, from, who.timeline).await;
    let Started::Streaming(mut stream) = started.expect("it starts") else {
        panic!("the timeline has not ended");
    };
    primary.stop(Stop::Fast).expect("it stops");
    standby.promote().expect("it is promoted");
    // WHEN the old timeline ends
    let switch = tokio::time::timeout(PATIENCE, async {
        loop {
            match stream.next().await.expect("it streams") {
                StreamEvent::Ended(switch) => break switch,
                StreamEvent::Data { .. } | StreamEvent::Keepalive { .. } => {}
                StreamEvent::Stopped => panic!("the standby runs"),
            }
        }
    })
    .await
    .expect("the timeline ends");
    // THEN the server names its successor, and its history says the same
    assert_eq!(switch.next, TimelineId(2));
    let mut connection = stream.into_connection();
    let file = replication::history(&mut connection, switch.next).await;
    let file = file.expect("told").expect("a file");
    let history = tidemark_engine_postgres::timeline::History::parse(switch.next, &file);
    assert_eq!(
        history.expect("valid").left_at(TimelineId(1)),
        Some(switch.at)
    );
    // AND starting exactly where the old one ended says so at once
    let started = replication::start(connection, None, switch.at, TimelineId(1)).await;
    let Started::Ended(connection, same) = started.expect("answered") else {
        panic!("there is nothing to stream");
    };
    assert_eq!(same, switch);
    // AND the new one streams from its segment's start
    let from = segment.start(switch.at);
    let started = replication::start(connection, None, from, switch.next).await;
    let Started::Streaming(mut stream) = started.expect("it starts") else {
        panic!("the new timeline goes on");
    };
    standby.sql("INSERT INTO t VALUES (0)");
    let end = lsn(&standby, "pg_current_wal_flush_lsn()");
    let log = take(&mut stream, from, end).await;
    let mut scanner = Scanner::new(switch.next, segment, from);
    scanner
        .feed(&log, &mut Vec::new())
        .expect("sound across the switch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_is_followed_by_the_servers_own_word_on_every_major() {
    for postgres in Postgres::all() {
        follows_a_promotion(&postgres).await;
    }
}

/// Names of the entries of a tar archive, and whether `pg_control` is last of the files.
fn entries(archive: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0;
    while let Some(head) = archive.get(at..at + 512) {
        let name: Vec<u8> = head[..100]
            .iter()
            .copied()
            .take_while(|byte| *byte != 0)
            .collect();
        if name.is_empty() {
            break;
        }
        let size: String = head[124..135]
            .iter()
            .map(|byte| char::from(*byte))
            .collect();
        let size = usize::from_str_radix(size.trim_matches(['\0', ' ']), 8).expect("octal");
        names.push(String::from_utf8(name).expect("text"));
        at += 512 + size.div_ceil(512) * 512;
    }
    names
}

async fn takes_a_base_backup(postgres: &Postgres) {
    let cluster = Cluster::start(postgres, &patient()).expect("a cluster");
    let space = tempfile::tempdir().expect("a folder");
    tidemark_testkit::postgres::Owner::get()
        .own(space.path())
        .expect("owned");
    std::fs::set_permissions(
        space.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .expect("private");
    let place = space.path().display();
    cluster.sql(&format!("CREATE TABLESPACE elsewhere LOCATION '{place}'"));
    cluster.sql("CREATE TABLE t (n int) TABLESPACE elsewhere; INSERT INTO t SELECT generate_series(1, 100000)");
    let options = BackupOptions {
        label: "a 'base'".to_owned(),
        fast: true,
        rate_kilobytes: None,
        verify_checksums: true,
        manifest: true,
        zstd_level: None,
    };
    let connection = connect(&cluster, Mode::Physical).await;
    let mut backup = BaseBackup::start(connection, &options)
        .await
        .expect("it starts");
    let mut archives: Vec<(String, Vec<u8>)> = Vec::new();
    let (mut first, mut last, mut spaces) = (None, None, 0);
    while let Some(event) = backup.next().await.expect("it goes on") {
        match event {
            BackupEvent::Start { at, timeline } => first = Some((at, timeline)),
            BackupEvent::Tablespaces(list) => spaces = list.len(),
            BackupEvent::Archive { name, .. } => archives.push((name, Vec::new())),
            BackupEvent::Manifest => archives.push(("manifest".to_owned(), Vec::new())),
            BackupEvent::Data(data) => archives
                .last_mut()
                .expect("one began")
                .1
                .extend_from_slice(&data),
            BackupEvent::Progress(_) => {}
            BackupEvent::End { at, timeline } => last = Some((at, timeline)),
        }
    }
    let (start, end) = (first.expect("a start"), last.expect("an end"));
    assert!(start.0 < end.0 && start.1 == end.1);
    assert_eq!(spaces, 2);
    assert_eq!(archives.len(), 3, "two archives and the manifest");
    assert!(archives[0].0.ends_with(".tar") && archives[0].0 != "base.tar");
    let base = entries(&archives[1].1);
    assert_eq!(archives[1].0, "base.tar");
    assert_eq!(base.first().map(String::as_str), Some("backup_label"));
    assert_eq!(base.last().map(String::as_str), Some("global/pg_control"));
    assert!(base.iter().any(|name| name == "tablespace_map"));
    let manifest = String::from_utf8(archives[2].1.clone()).expect("text");
    assert!(manifest.contains("Manifest-Checksum"), "{manifest}");
    // The connection is good for more.
    let mut connection = backup.into_connection();
    replication::identify(&mut connection)
        .await
        .expect("it answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn base_backups_of_every_major_look_the_same() {
    for postgres in Postgres::all() {
        takes_a_base_backup(&postgres).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_server_are_told_and_leave_the_connection_usable() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &patient()).expect("a cluster");
    let mut connection = connect(&cluster, Mode::Physical).await;
    replication::identify(&mut connection).await.expect("told");
    let future = Lsn(0x7000_0000_0000_0000);
    let started = replication::start(connection, None, future, TimelineId(1)).await;
    let refused = match started {
        // The server says "copy", and then why not.
        Ok(Started::Streaming(mut stream)) => stream.next().await.expect_err("ahead of the server"),
        Ok(other) => panic!("{other:?}"),
        Err(error) => error,
    };
    assert_eq!(refused.kind(), WireErrorKind::Refused);
    let mut connection = connect(&cluster, Mode::Sql).await;
    let error = connection.query("SELECT 1/0").await.expect_err("refused");
    assert_eq!(error.code(), Some("22012"));
    let one = connection
        .query_one("SELECT 1 AS one")
        .await
        .expect("it works");
    assert_eq!(one.value("one"), Some("1"));
    connection.close().await;
    let nobody = info(&cluster, "user=nobody");
    let error = Connection::open(&nobody, Mode::Sql)
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), WireErrorKind::Denied);
    cluster.stop(Stop::Kill).expect("killed");
    let error = Connection::open(&info(&cluster, ""), Mode::Sql)
        .await
        .expect_err("gone");
    assert_eq!(error.kind(), WireErrorKind::Gone);
}
