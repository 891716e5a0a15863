//! What is captured is the server's log, byte for byte, whatever happens to the server or to us.

use std::process::Stdio;

use tidemark_engine::Verdict;
use tidemark_engine_postgres::wal::{Event, Outcome, Record};
use tidemark_engine_postgres::{Ack, LogMemory, Lsn, SegmentSize, TimelineId};
use tidemark_testkit::postgres::{Cluster, Postgres, Stop};

use super::{Desk, conninfo, eventually, flushed, keeping, stop_while_draining};

const SEGMENT: SegmentSize = SegmentSize::DEFAULT;
const FIRST: TimelineId = TimelineId::FIRST;

/// Cuts counted every commit of the log, and each once.
fn assert_counted_once(desk: &Desk, found: &[Record]) {
    let commits = found.iter().filter(|record| {
        matches!(
            record.event,
            Event::End {
                outcome: Outcome::Committed,
                ..
            }
        )
    });
    let counted: u64 = desk.kept.iter().map(|kept| kept.cut.transactions).sum();
    assert_eq!(counted, u64::try_from(commits.count()).expect("fits"));
}

fn survives_the_server(postgres: &Postgres) {
    // GIVEN a server, its log received by us and by pg_receivewal
    let cluster = Cluster::start(postgres, &keeping()).expect("a cluster");
    let beside = tempfile::tempdir().expect("a folder");
    tidemark_testkit::postgres::Owner::get()
        .own(beside.path())
        .expect("owned");
    let mut desk = Desk::of(&cluster);
    assert_eq!(desk.open(), Verdict::New);
    let mut receiver = cluster
        .command("pg_receivewal")
        .arg("--directory")
        .arg(beside.path())
        .args(["--no-sync", "--no-loop"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pg_receivewal starts");
    eventually("pg_receivewal receives", || {
        let count = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pg_receivewal' AND state = 'streaming'";
        cluster.query(count) == "1"
    });
    // WHEN rows are written, a segment is switched, the server stops cleanly
    cluster.sql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 100000) n");
    cluster.sql("SELECT pg_switch_wal(); INSERT INTO t VALUES (0, 'x'); SELECT pg_create_restore_point('mark');");
    desk.catch_up(&cluster);
    stop_while_draining(&mut desk, &cluster, Stop::Fast);
    receiver
        .wait()
        .expect("pg_receivewal ended with the server");
    // THEN the very last record is the one of the clean stop
    let (found, _) = desk.scanned(FIRST, SEGMENT);
    let last = found.last().map(|record| &record.event);
    assert!(
        matches!(last, Some(Event::Checkpoint { shutdown: true, .. })),
        "{last:?}"
    );
    assert!(desk.assert_same_as(beside.path(), FIRST, SEGMENT) > 5_000_000);
    crashes_while_writing(&mut desk, &cluster);
    everything_is_there_once(&mut desk, &cluster);
}

/// It runs again, crashes twice in the middle of writing, and runs again.
fn crashes_while_writing(desk: &mut Desk, cluster: &Cluster) {
    for _ in 0..2 {
        cluster.start_again().expect("it starts");
        std::thread::scope(|scope| {
            let writes = scope.spawn(|| {
                let work =
                    "INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 200000) n;";
                // It is killed in one of these.
                drop(cluster.try_sql(&work.repeat(50)));
            });
            let before = desk.end();
            desk.run_until("some of it is captured", |desk| {
                desk.end()
                    .zip(before)
                    .is_some_and(|(now, before)| now.since(before) > 20_000_000)
            });
            cluster.stop(Stop::Kill).expect("killed");
            drop(writes.join());
        });
    }
    cluster.start_again().expect("it starts");
    cluster.sql("INSERT INTO t VALUES (-1, 'last')");
}

/// It is all there, in one life, byte for byte as in the server's files.
fn everything_is_there_once(desk: &mut Desk, cluster: &Cluster) {
    let end = desk.catch_up(cluster);
    let compared = desk.assert_same_as(&cluster.data_dir().join("pg_wal"), FIRST, SEGMENT);
    assert!(compared > 40_000_000, "{compared}");
    let (found, scanner) = desk.scanned(FIRST, SEGMENT);
    assert_eq!(scanner.last().map(|last| last.end), Some(end));
    // AND every commit was counted once, their times never go back, and the point is named
    assert_counted_once(desk, &found);
    let times: Vec<_> = desk
        .kept
        .iter()
        .flat_map(|kept| [kept.cut.first_commit, kept.cut.last_commit])
        .flatten()
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    let named = desk
        .kept
        .iter()
        .any(|kept| kept.cut.facts["postgres"]["points"][0] == "mark");
    assert!(named, "the restore point is told");
}

#[test]
fn the_log_is_the_servers_through_stops_and_crashes_on_every_major() {
    for postgres in Postgres::all() {
        survives_the_server(&postgres);
    }
}

/// Everything is in memory.
fn receives_all(desk: &mut Desk, cluster: &Cluster) {
    let end = flushed(cluster);
    eventually("it is received", || {
        let poll = desk.poll();
        assert!(poll.pending_bytes <= 8 << 20);
        desk.received() >= end
    });
}

/// It dies before the cut, after it, with its record in the spool, or sealed.
fn dies_at_some_point(desk: &mut Desk, round: u32) {
    let cut = if round.is_multiple_of(4) {
        None
    } else {
        desk.cut_unsealed()
    };
    match (round % 4, cut) {
        (2, Some(cut)) => {
            desk.spool(cut);
        }
        (3, Some(cut)) => {
            let seq = desk.spool(cut);
            desk.capture().sealed(seq).expect("sealed");
            desk.capture().durable(seq).expect("durable");
        }
        _ => {}
    }
}

#[test]
fn the_agent_may_die_at_any_point_and_nothing_is_twice_or_missing() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    for ack in [Ack::Spool, Ack::Regions] {
        let cluster = Cluster::start(&postgres, &keeping()).expect("a cluster");
        // A whole segment waits in memory after a switch, and more.
        let memory = LogMemory::new(64 << 20, 1);
        let mut desk = Desk::sharing(&conninfo(&cluster), &memory, |config| {
            config.ack = ack;
            config.limits.buffer_max = 32 << 20;
        });
        desk.open();
        cluster.sql("CREATE TABLE t (n int, body text)");
        let mut told = Lsn(0);
        for round in 0..24_u32 {
            cluster.sql(&format!(
                "INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, {}) n",
                1 + (round % 5) * 4_000
            ));
            if round % 7 == 3 {
                cluster.sql("SELECT pg_switch_wal()");
            }
            receives_all(&mut desk, &cluster);
            // WHEN
            dies_at_some_point(&mut desk, round);
            if round % 3 == 0 {
                desk.sync();
            }
            desk.crash();
            // THEN it goes on in the same life, and the server never hears less than before
            let verdict = desk.open();
            assert!(
                matches!(verdict, Verdict::Continues | Verdict::New),
                "{verdict:?}"
            );
            let slot = cluster.query("SELECT restart_lsn FROM pg_replication_slots");
            let slot: Lsn = slot.parse().expect("a position");
            assert!(slot >= told, "{slot} after {told}");
            told = slot;
        }
        desk.catch_up(&cluster);
        assert!(
            desk.assert_same_as(&cluster.data_dir().join("pg_wal"), FIRST, SEGMENT) > 1_000_000
        );
        let (found, _) = desk.scanned(FIRST, SEGMENT);
        assert_counted_once(&desk, &found);
        // AND what is told to the server arrives there
        let end = desk.end().expect("a log").to_string();
        eventually("the slot moves on", || {
            cluster.query("SELECT restart_lsn FROM pg_replication_slots") == end
        });
    }
}
