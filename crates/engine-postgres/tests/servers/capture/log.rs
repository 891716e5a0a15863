//! What is captured is the server's log, byte for byte, whatever happens to the server or to us.

use std::process::Stdio;

use tidemark_engine::{COMPLETE_UNTIL, Verdict};
use tidemark_engine_postgres::wal::{Event, Outcome, Record};
use tidemark_engine_postgres::{Ack, Lsn, SegmentSize, TimelineId};
use tidemark_testkit::postgres::{Cluster, Options, Postgres, Stop};

use super::{Desk, conninfo, eventually, flushed, reason};

const SEGMENT: SegmentSize = SegmentSize::DEFAULT;
const FIRST: TimelineId = TimelineId::FIRST;

fn keeping() -> Options {
    Options::default().with("wal_keep_size", "1GB")
}

/// Stops the server while the log is drained, as it waits for us.
fn stop_while_draining(desk: &mut Desk, cluster: &Cluster, how: Stop) {
    std::thread::scope(|scope| {
        let stops = scope.spawn(|| cluster.stop(how).expect("it stops"));
        desk.run_until("the server has stopped", |_| stops.is_finished());
    });
}

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

fn follows_a_promotion(postgres: &Postgres) {
    // GIVEN a pair, of which the one that takes writes is captured
    let primary = Cluster::start(postgres, &keeping()).expect("a cluster");
    let standby = primary.standby("other").expect("a standby");
    let (one, two) = (
        primary.socket_dir().display(),
        standby.socket_dir().display(),
    );
    let pair =
        format!("host={one},{two} user=postgres dbname=postgres target_session_attrs=read-write");
    let mut desk = Desk::new(&pair, |_| {});
    desk.open();
    primary.sql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 50000) n");
    desk.catch_up(&primary);
    // WHEN the primary stops, and a promotion that failed has burnt the next timeline's id
    stop_while_draining(&mut desk, &primary, Stop::Fast);
    let left = desk.end().expect("a log");
    let burnt = standby.data_dir().join("pg_wal/00000002.history");
    std::fs::write(&burnt, "1\t0/1000000\tburnt\n").expect("written");
    tidemark_testkit::postgres::Owner::get()
        .own(&burnt)
        .expect("owned");
    standby.promote().expect("promoted");
    standby.sql("INSERT INTO t SELECT n, 'after' FROM generate_series(1, 50000) n");
    // THEN the same life goes on, on the timeline that the new primary names
    desk.catch_up(&standby);
    let log = desk.log();
    let timelines: Vec<TimelineId> = log.keys().copied().collect();
    assert_eq!(timelines, [FIRST, TimelineId(3)]);
    let (start, _) = &log[&TimelineId(3)];
    assert_eq!(
        *start,
        SEGMENT.start(left),
        "it begins with the fork's segment"
    );
    let pg_wal = standby.data_dir().join("pg_wal");
    assert!(desk.assert_same_as(&pg_wal, TimelineId(3), SEGMENT) > 1_000_000);
    // AND the first object of the new one carries its history
    let first = desk
        .kept
        .iter()
        .find(|kept| kept.range().timeline == TimelineId(3));
    let histories = first.expect("there").range().histories.len();
    assert_eq!(histories, 1);
    let told = std::fs::read(pg_wal.join("00000003.history")).expect("there");
    assert_eq!(first.expect("there").range().histories[0].bytes, told);
    let (found, _) = desk.scanned(TimelineId(3), SEGMENT);
    assert!(
        found
            .iter()
            .any(|record| matches!(record.event, Event::EndOfRecovery { .. })
                || matches!(record.event, Event::Checkpoint { .. }))
    );
    // AND nothing that repeats the old timeline is a restore position
    let behind = desk.kept.iter().filter(|kept| {
        kept.range().timeline == TimelineId(3) && kept.range().end() < left && kept.cut.restorable
    });
    assert_eq!(behind.count(), 0);
}

#[test]
fn a_promotion_is_followed_within_the_same_life_on_every_major() {
    for postgres in Postgres::all() {
        follows_a_promotion(&postgres);
    }
}

#[test]
fn a_failover_that_lost_what_was_captured_begins_a_new_life() {
    let Some(postgres) = Postgres::of(16) else {
        return;
    };
    let primary = Cluster::start(&postgres, &keeping()).expect("a cluster");
    let standby = primary.standby("other").expect("a standby");
    let (one, two) = (
        primary.socket_dir().display(),
        standby.socket_dir().display(),
    );
    let pair =
        format!("host={one},{two} user=postgres dbname=postgres target_session_attrs=read-write");
    let mut desk = Desk::new(&pair, |_| {});
    desk.open();
    // GIVEN log that we have and the standby hasn't
    standby.stop(Stop::Fast).expect("it stops");
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) n");
    desk.catch_up(&primary);
    primary.stop(Stop::Kill).expect("killed");
    // WHEN the standby takes over
    standby.start_again().expect("it starts");
    standby.promote().expect("promoted");
    // THEN the life ends, and says why
    let verdicts = desk.run_until("a new life", |desk| {
        desk.kept
            .last()
            .is_some_and(|kept| kept.range().timeline == TimelineId(2))
    });
    assert_eq!(verdicts.len(), 1);
    assert!(
        reason(&verdicts[0]).contains("left timeline 1"),
        "{verdicts:?}"
    );
}

/// Everything is in memory.
fn receives_all(desk: &mut Desk, cluster: &Cluster) {
    let end = flushed(cluster);
    eventually("it is received", || {
        let poll = desk.poll();
        assert!(poll.pending_bytes <= 8 << 20);
        let probe = desk.capture().probe().expect("probed");
        let received = probe.facts["received"].as_str().expect("text");
        received.parse::<Lsn>().expect("a position") >= end
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
        let mut desk = Desk::new(&conninfo(&cluster), |config| config.ack = ack);
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

#[test]
fn an_idle_server_costs_no_object_and_is_known_to_be_complete() {
    for postgres in Postgres::all() {
        let cluster = Cluster::start(&postgres, &keeping()).expect("a cluster");
        let mut desk = Desk::of(&cluster);
        desk.open();
        cluster.sql("CREATE TABLE t (n int); CHECKPOINT");
        desk.catch_up(&cluster);
        // GIVEN a server at rest
        let mut before = jiff::Timestamp::UNIX_EPOCH;
        desk.run_until("it is complete", |desk| {
            let poll = desk.poll();
            before = poll.complete_until.unwrap_or(before);
            poll.pending_bytes == 0 && poll.complete_until.is_some()
        });
        // THEN no cut comes, and the instant up to which all is known goes on
        let cuts = desk.kept.len();
        eventually("time goes on", || {
            let poll = desk.poll();
            let second = std::time::Duration::from_secs(1);
            poll.complete_until
                .is_some_and(|until| until > before + second)
        });
        assert!(!desk.cut(), "nothing is there to be cut");
        assert_eq!(desk.kept.len(), cuts);
        // AND a cut says up to when it is complete: not before its own commit
        cluster.sql("INSERT INTO t VALUES (1)");
        desk.run_until("a cut that is complete", |desk| {
            let kept = desk.kept.last().expect("there");
            let until = kept
                .cut
                .facts
                .get(COMPLETE_UNTIL)
                .and_then(|at| at.as_str());
            let until = until.and_then(|until| until.parse::<jiff::Timestamp>().ok());
            if until.is_none() || desk.kept.len() == cuts {
                cluster.sql("INSERT INTO t VALUES (2)");
            }
            desk.kept.len() > cuts && until > Some(before)
        });
    }
}
