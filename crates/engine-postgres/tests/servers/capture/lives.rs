//! What can't go on begins a new life and says why; what can, goes on.

use tidemark_engine::{Engine, ErrorKind, Verdict};
use tidemark_engine_postgres::{Lsn, SegmentSize, TimelineId};
use tidemark_testkit::postgres::{Cluster, Options, Owner, Postgres, Stop};

use super::{Desk, Place, conninfo, eventually, flushed, keeping, reason};

const FIRST: TimelineId = TimelineId::FIRST;
const SEGMENT: SegmentSize = SegmentSize::DEFAULT;

/// A file-level copy of a cluster that does not run.
fn copy_of(cluster: &Cluster, postgres: &Postgres) -> Cluster {
    let copy = Cluster::empty(postgres).expect("a folder");
    let copied = Owner::get()
        .command("cp")
        .arg("-a")
        .arg(cluster.data_dir())
        .arg(copy.data_dir())
        .status()
        .expect("cp runs");
    assert!(copied.success());
    let settings = copy.data_dir().join("postgresql.conf");
    let mut text = std::fs::read_to_string(&settings).expect("read");
    let socket = copy.socket_dir().display();
    text.push_str(&format!("\nunix_socket_directories = '{socket}'\n"));
    std::fs::write(&settings, text).expect("written");
    copy
}

#[test]
fn another_cluster_under_the_same_name_is_a_new_life_on_every_major() {
    for postgres in Postgres::all() {
        // GIVEN a captured server
        let one = Cluster::start(&postgres, &keeping()).expect("a cluster");
        let place = Place::of(&one);
        let mut desk = Desk::new(&place.conninfo(), |_| {});
        assert_eq!(desk.open(), Verdict::New);
        one.sql("CREATE TABLE t (n int)");
        desk.catch_up(&one);
        let before = desk.incarnation;
        // WHEN another cluster takes its place while it is captured
        let other = Cluster::empty(&postgres).expect("a folder");
        let made = postgres
            .command("initdb")
            .args([
                "--username=postgres",
                "--auth=trust",
                "--no-sync",
                "--pgdata",
            ])
            .arg(other.data_dir())
            .stdout(std::process::Stdio::null())
            .status();
        assert!(made.expect("initdb runs").success());
        let settings = other.data_dir().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&settings).expect("read");
        let socket = other.socket_dir().display();
        text.push_str(&format!(
            "\nlisten_addresses = ''\nunix_socket_directories = '{socket}'\n"
        ));
        std::fs::write(&settings, text).expect("written");
        other.start_again().expect("it starts");
        place.becomes(&other);
        one.stop(Stop::Kill).expect("killed");
        // THEN its log is a life of its own
        other.sql("CREATE TABLE u (n int)");
        let verdicts = desk.run_until("a new life", |desk| desk.incarnation != before);
        assert!(
            reason(&verdicts[0]).contains("another database system"),
            "{verdicts:?}"
        );
        desk.catch_up(&other);
        assert!(desk.assert_same_as(&other.data_dir().join("pg_wal"), FIRST, SEGMENT) > 1_000);
        // AND it stays that life
        desk.crash();
        assert_eq!(desk.open(), Verdict::Continues);
    }
}

#[test]
fn a_file_level_copy_of_the_same_server_is_a_new_life() {
    let Some(postgres) = Postgres::of(17) else {
        return;
    };
    for writes_more in [false, true] {
        // GIVEN a server, a copy of its files, and log captured since
        let one = Cluster::start(&postgres, &keeping()).expect("a cluster");
        one.sql("CREATE TABLE t (n int)");
        one.stop(Stop::Fast).expect("it stops");
        let copy = copy_of(&one, &postgres);
        one.start_again().expect("it starts");
        let place = Place::of(&one);
        let mut desk = Desk::new(&place.conninfo(), |_| {});
        desk.open();
        one.sql("INSERT INTO t SELECT generate_series(1, 1000)");
        desk.catch_up(&one);
        // WHEN the copy runs in its place: with less log than was captured, or more
        desk.crash();
        one.stop(Stop::Kill).expect("killed");
        copy.start_again().expect("it starts");
        if writes_more {
            copy.sql("INSERT INTO t SELECT generate_series(1, 5000)");
        }
        place.becomes(&copy);
        // THEN that is noticed, by its words or by its bytes
        let before = desk.incarnation;
        let mut verdicts = vec![desk.open()];
        verdicts.extend(desk.run_until("a new life", |desk| desk.incarnation != before));
        let why = reason(verdicts.last().expect("there"));
        let expected = if writes_more {
            "is not the one that was captured"
        } else {
            "older copy"
        };
        assert!(why.contains(expected), "{verdicts:?}");
        copy.sql("INSERT INTO t VALUES (0)");
        desk.catch_up(&copy);
    }
}

/// A server whose log ends with a segment, and the desk that has captured it up to there; and what is done
/// before it is captured.
fn ends_with_a_segment(
    options: &Options,
    postgres: &Postgres,
    before: impl FnOnce(&Cluster) -> Option<Cluster>,
) -> (Cluster, Option<Cluster>, Place, Desk) {
    let one = Cluster::start(postgres, options).expect("a cluster");
    one.sql("CREATE TABLE t (n int)");
    let copy = before(&one);
    let place = Place::of(&one);
    let mut desk = Desk::new(&place.conninfo(), |_| {});
    desk.open();
    // Nothing comes after the switch for a while; if the server logs something all the same, once more.
    eventually("the log ends with a segment", || {
        one.sql("INSERT INTO t SELECT generate_series(1, 100); CHECKPOINT; SELECT pg_switch_wal()");
        let end = desk.catch_up(&one);
        SEGMENT.offset(end) == 0 && desk.end() == Some(end)
    });
    (one, copy, place, desk)
}

#[test]
fn a_log_that_ended_with_a_segment_goes_on_in_the_same_life() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    // GIVEN a log that ends with a segment: the server keeps that segment for us
    let (one, _, _place, mut desk) = ends_with_a_segment(&Options::default(), &postgres, |_| None);
    let end = desk.end().expect("a log");
    let told = end.0 - 1;
    eventually("the slot is moved", || {
        one.query("SELECT restart_lsn FROM pg_replication_slots") == Lsn(told).to_string()
    });
    // WHEN the agent comes back, or comes back after its slot went and with it that segment
    for loses_the_slot in [false, true] {
        desk.crash();
        if loses_the_slot {
            eventually("the server lets the slot go", || {
                one.query("SELECT count(*) FROM pg_replication_slots WHERE active") == "0"
            });
            one.sql("SELECT pg_drop_replication_slot('tidemark_the_source')");
            one.sql("CHECKPOINT; CHECKPOINT");
        }
        // THEN it goes on
        assert_eq!(desk.open(), Verdict::Continues);
        desk.catch_up(&one);
        if !loses_the_slot {
            one.sql("INSERT INTO t VALUES (0); SELECT pg_switch_wal()");
            desk.catch_up(&one);
        }
    }
    one.sql("INSERT INTO t VALUES (1)");
    desk.catch_up(&one);
    let pg_wal = one.data_dir().join("pg_wal");
    assert!(desk.assert_same_as(&pg_wal, FIRST, SEGMENT) > 0);
}

#[test]
fn a_copy_is_told_apart_although_the_log_ended_with_a_segment() {
    let Some(postgres) = Postgres::of(16) else {
        return;
    };
    for keeps in [true, false] {
        let options = if keeps { keeping() } else { Options::default() };
        let (one, copy, place, mut desk) = ends_with_a_segment(&options, &postgres, |one| {
            one.stop(Stop::Fast).expect("it stops");
            let copy = copy_of(one, &postgres);
            one.start_again().expect("it starts");
            Some(copy)
        });
        let (copy, end) = (copy.expect("made"), desk.end().expect("a log"));
        desk.crash();
        one.stop(Stop::Kill).expect("killed");
        // WHEN the copy wrote other rows, as far as that and further
        copy.start_again().expect("it starts");
        while flushed(&copy) <= end {
            copy.sql("INSERT INTO t SELECT generate_series(1, 3); SELECT pg_switch_wal(); INSERT INTO t VALUES (1); CHECKPOINT;");
        }
        place.becomes(&copy);
        // THEN it is told by the segment before, or, where the copy has removed that, by its last record
        let before = desk.incarnation;
        let mut verdicts = vec![desk.open()];
        verdicts.extend(desk.run_until("a new life", |desk| desk.incarnation != before));
        let why = reason(verdicts.last().expect("there"));
        assert!(
            why.contains("is not the one that was captured"),
            "{verdicts:?}"
        );
        copy.sql("INSERT INTO t VALUES (0)");
        desk.catch_up(&copy);
    }
}

#[test]
fn a_slot_that_was_dropped_is_made_again_and_nothing_is_missed() {
    for postgres in Postgres::all() {
        let cluster = Cluster::start(&postgres, &keeping()).expect("a cluster");
        let mut desk = Desk::of(&cluster);
        desk.open();
        cluster.sql("CREATE TABLE t (n int)");
        desk.catch_up(&cluster);
        desk.crash();
        eventually("the server lets the slot go", || {
            cluster.query("SELECT count(*) FROM pg_replication_slots WHERE active") == "0"
        });
        cluster.sql("SELECT pg_drop_replication_slot('tidemark_the_source')");
        cluster.sql("INSERT INTO t SELECT generate_series(1, 100000)");
        assert_eq!(desk.open(), Verdict::Continues);
        desk.catch_up(&cluster);
        desk.assert_same_as(&cluster.data_dir().join("pg_wal"), FIRST, SEGMENT);
    }
}

fn notices_recycled_log(postgres: &Postgres) {
    // GIVEN a server that keeps little, and an agent that is away
    let options = Options::default()
        .with("max_slot_wal_keep_size", "16MB")
        .with("max_wal_size", "32MB")
        .with("min_wal_size", "32MB");
    let cluster = Cluster::start(postgres, &options).expect("a cluster");
    let mut desk = Desk::of(&cluster);
    desk.open();
    cluster.sql("CREATE TABLE t (n int)");
    desk.catch_up(&cluster);
    desk.crash();
    let before = desk.incarnation;
    // WHEN it writes more than it keeps
    for _ in 0..8 {
        cluster.sql(
            "INSERT INTO t SELECT generate_series(1, 200000); SELECT pg_switch_wal(); CHECKPOINT;",
        );
    }
    let lost = cluster.query("SELECT wal_status FROM pg_replication_slots");
    assert_eq!(lost, "lost", "the server let the slot go");
    // THEN a new life begins, with a slot that keeps log again
    let mut verdicts = vec![desk.open()];
    verdicts.extend(desk.run_until("a new life", |desk| desk.incarnation != before));
    let why = reason(verdicts.last().expect("there"));
    assert!(why.contains("removed log"), "{verdicts:?}");
    cluster.sql("INSERT INTO t VALUES (0)");
    desk.catch_up(&cluster);
    let kept = cluster.query("SELECT wal_status FROM pg_replication_slots");
    assert_eq!(kept, "reserved");
}

#[test]
fn log_that_the_server_removed_is_a_new_life_on_every_major() {
    for postgres in Postgres::all() {
        notices_recycled_log(&postgres);
    }
}

#[test]
fn a_slot_that_holds_too_much_is_let_go_and_a_new_life_follows_what_was_captured() {
    let Some(postgres) = Postgres::of(18) else {
        return;
    };
    // GIVEN a captured server, of whose log the slot may hold 8 MiB
    let cluster = Cluster::start(&postgres, &keeping()).expect("a cluster");
    let mut desk = Desk::new(&conninfo(&cluster), |config| {
        config.slot_keep_max = Some(8 << 20);
        config.limits.buffer_max = 2 << 20;
    });
    desk.open();
    cluster.sql("CREATE TABLE t (n int)");
    desk.catch_up(&cluster);
    let before = desk.incarnation;
    // WHEN nothing can be sealed and more is written
    cluster.sql("INSERT INTO t SELECT generate_series(1, 300000)");
    eventually("the slot is gone", || {
        let told = match desk.try_poll() {
            Ok(poll) => {
                let mut codes = poll.alerts.iter().map(|alert| alert.code);
                codes.any(|code| code == "postgresql.slot-keep-max")
            }
            // Nothing had come since the last cut: there is nothing left to be cut.
            Err(error) => error.kind() == ErrorKind::Reopen,
        };
        told && cluster.query("SELECT count(*) FROM pg_replication_slots") == "0"
    });
    // THEN what was captured can still be cut, and then a new life begins
    let verdicts = desk.run_until("a new life", |desk| desk.incarnation != before);
    assert!(
        reason(&verdicts[0]).contains("slot_keep_max"),
        "{verdicts:?}"
    );
    cluster.sql("INSERT INTO t VALUES (0)");
    desk.catch_up(&cluster);
    desk.assert_same_as(&cluster.data_dir().join("pg_wal"), FIRST, SEGMENT);
    assert_eq!(desk.poll().alerts, []);
}

#[test]
fn an_agent_that_was_away_catches_up_with_more_than_the_slot_may_hold() {
    let Some(postgres) = Postgres::of(16) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &keeping()).expect("a cluster");
    let mut desk = Desk::new(&conninfo(&cluster), |config| {
        config.slot_keep_max = Some(4 << 20);
    });
    desk.open();
    cluster.sql("CREATE TABLE t (n int)");
    desk.catch_up(&cluster);
    desk.crash();
    cluster.sql("INSERT INTO t SELECT generate_series(1, 500000)");
    assert_eq!(desk.open(), Verdict::Continues);
    desk.catch_up(&cluster);
    desk.assert_same_as(&cluster.data_dir().join("pg_wal"), FIRST, SEGMENT);
}

#[test]
fn what_was_given_up_ends_the_life() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &keeping()).expect("a cluster");
    let mut desk = Desk::of(&cluster);
    desk.open();
    cluster.sql("CREATE TABLE t (n int)");
    desk.catch_up(&cluster);
    let before = desk.incarnation;
    desk.capture().give_up().expect("given up");
    let error = desk.try_poll().expect_err("open again");
    assert_eq!(error.kind(), ErrorKind::Reopen);
    // Even if the agent dies in between.
    desk.crash();
    let verdict = desk.open();
    assert!(reason(&verdict).contains("spool"), "{verdict:?}");
    assert!(desk.incarnation != before, "it has another id");
    cluster.sql("INSERT INTO t VALUES (1)");
    desk.catch_up(&cluster);
}

#[test]
fn a_lost_folder_never_goes_on_under_the_same_id() {
    let Some(postgres) = Postgres::of(14) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &keeping()).expect("a cluster");
    let mut desk = Desk::of(&cluster);
    desk.open();
    cluster.sql("CREATE TABLE t (n int)");
    desk.catch_up(&cluster);
    let before = desk.incarnation;
    // WHEN what was kept here is lost, and log may be missing
    desk.crash();
    desk.lose_folder();
    assert_eq!(desk.open(), Verdict::New);
    // THEN nothing is appended to the life before
    assert!(desk.incarnation != before);
    cluster.sql("INSERT INTO t VALUES (1)");
    desk.catch_up(&cluster);
}

#[test]
fn a_retired_source_leaves_no_slot() {
    for postgres in Postgres::all() {
        let cluster = Cluster::start(&postgres, &keeping()).expect("a cluster");
        let mut desk = Desk::of(&cluster);
        desk.open();
        desk.crash();
        let done = desk.engine().retire().expect("retired");
        assert!(
            done.expect("something was done")
                .contains("tidemark_the_source")
        );
        assert_eq!(
            cluster.query("SELECT count(*) FROM pg_replication_slots"),
            "0"
        );
        assert_eq!(desk.engine().retire().expect("retired"), None);
        cluster.stop(Stop::Fast).expect("it stops");
        let error = desk.engine().retire().expect_err("nobody is there");
        assert!(
            error.to_string().contains("pg_drop_replication_slot"),
            "{error}"
        );
    }
}

#[test]
fn log_of_a_server_with_wal_level_minimal_is_never_gone_through() {
    let Some(postgres) = Postgres::of(17) else {
        return;
    };
    // GIVEN a captured server
    let cluster = Cluster::start(&postgres, &keeping()).expect("a cluster");
    let mut desk = Desk::of(&cluster);
    desk.open();
    cluster.sql("CREATE TABLE t (n int)");
    desk.catch_up(&cluster);
    let before = desk.incarnation;
    // WHEN it ran for a while without logging everything, the agent being away
    desk.crash();
    eventually("the slot is let go", || desk.engine().retire().is_ok());
    let restart = |settings: [&str; 2]| {
        for setting in settings {
            cluster.sql(&format!("ALTER SYSTEM {setting}"));
        }
        cluster.stop(Stop::Fast).expect("stopped");
        cluster.start_again().expect("started");
    };
    restart(["SET wal_level = minimal", "SET max_wal_senders = 0"]);
    cluster.sql("CREATE TABLE unlogged_load AS SELECT generate_series(1, 1000) n");
    restart(["RESET wal_level", "RESET max_wal_senders"]);
    // THEN a new life begins behind that, which says why, and goes on
    desk.open();
    let verdicts = desk.run_until("a new life", |desk| desk.incarnation != before);
    assert!(
        reason(&verdicts[0]).contains("wal_level = minimal"),
        "{verdicts:?}"
    );
    let after = desk.incarnation;
    cluster.sql("INSERT INTO t VALUES (1)");
    desk.catch_up(&cluster);
    assert_eq!(desk.incarnation, after, "one new life, and no more");
}

#[test]
fn a_slot_that_is_made_anew_is_never_moved_back_to_what_was_captured_before() {
    let Some(postgres) = Postgres::of(16) else {
        return;
    };
    // GIVEN a captured server that keeps its log without a slot, and an agent that is away
    let cluster = Cluster::start(&postgres, &keeping()).expect("a cluster");
    let mut desk = Desk::of(&cluster);
    desk.open();
    cluster.sql("CREATE TABLE t (n int)");
    desk.catch_up(&cluster);
    let life = desk.incarnation;
    desk.crash();
    let slot = "slot_name = 'tidemark_the_source'";
    eventually("the slot is let go", || {
        let drop = "SELECT pg_drop_replication_slot('tidemark_the_source')";
        cluster.try_sql(drop).is_ok()
    });
    for _ in 0..2 {
        cluster.sql("INSERT INTO t VALUES (1); SELECT pg_switch_wal(); CHECKPOINT");
    }
    // WHEN it comes back, makes the slot anew, and what it had acknowledged lies far before that
    desk.durable_at_once = false;
    desk.open();
    let begins = format!("SELECT restart_lsn FROM pg_replication_slots WHERE {slot} AND active");
    eventually("the agent streams from a new slot", || {
        desk.poll();
        !cluster.query(&begins).is_empty()
    });
    let first: Lsn = cluster.query(&begins).parse().expect("a position");
    assert!(Some(first) > desk.end(), "it begins at a later checkpoint");
    // THEN what the server hears first moves nothing back: it may remove log that nobody else keeps
    let heard = "SELECT count(reply_time) FROM pg_stat_replication WHERE application_name = 'tidemark_the_source'";
    eventually("the server has heard from us", || {
        desk.poll();
        cluster.query(heard) == "1"
    });
    let now: Lsn = cluster.query(&begins).parse().expect("a position");
    assert!(now >= first, "from {first} back to {now}");
    // AND the same log goes on, and moves it on
    desk.durable_at_once = true;
    desk.catch_up(&cluster);
    assert_eq!(desk.incarnation, life);
    eventually("the slot follows", || {
        desk.poll();
        while desk.cut() {}
        let at = cluster.query(&begins).parse::<Lsn>();
        at.is_ok_and(|at| at > first)
    });
}
