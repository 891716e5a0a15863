//! What the server is told as flushed, and what waits for it.

use std::time::Duration;

use tidemark_engine_postgres::{Ack, Lsn};
use tidemark_testkit::postgres::{Cluster, Options, Postgres};

use super::{Desk, conninfo, eventually, flushed, now, since};

fn synchronous(postgres: &Postgres, ack: Ack) -> (Cluster, Desk) {
    let options = Options::default().with("synchronous_standby_names", "tide");
    let cluster = Cluster::start(postgres, &options).expect("a cluster");
    let text = format!("{} application_name=tide", conninfo(&cluster));
    let mut desk = Desk::new(&text, |config| config.ack = ack);
    desk.open();
    // Not waiting itself, so that there is something to write to.
    cluster.sql("SET synchronous_commit = local; CREATE TABLE t (n int);");
    desk.catch_up(&cluster);
    desk.run_until("the server knows us as its standby", |_| {
        cluster.query("SELECT sync_state FROM pg_stat_replication WHERE application_name = 'tide'")
            == "sync"
    });
    (cluster, desk)
}

fn waits(cluster: &Cluster) -> bool {
    cluster.query("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == "1"
}

#[test]
fn a_synchronous_commit_returns_once_the_regions_hold_it_and_not_before_on_every_major() {
    for postgres in Postgres::all() {
        let (cluster, mut desk) = synchronous(&postgres, Ack::Regions);
        desk.durable_at_once = false;
        std::thread::scope(|scope| {
            // GIVEN a commit
            let commit = scope.spawn(|| cluster.sql("INSERT INTO t VALUES (1)"));
            eventually("it waits", || waits(&cluster));
            // WHEN it is captured and sealed, at once and not by a timer
            let before = desk.kept.len();
            eventually("a cut is asked for", || desk.poll().cut_now);
            while desk.cut() {}
            assert!(desk.kept.len() > before);
            let earlier = desk.kept[before - 1].seq;
            desk.capture().durable(earlier).expect("durable");
            // THEN it waits on until its own object is durable
            std::thread::sleep(Duration::from_millis(300));
            let end = desk.end().expect("a log");
            if end >= flushed(&cluster) {
                assert!(waits(&cluster) && !commit.is_finished());
            }
            let last = desk.kept.last().expect("there").seq;
            desk.capture().durable(last).expect("durable");
            desk.durable_at_once = true;
            desk.run_until("it returns", |_| commit.is_finished());
        });
    }
}

#[test]
fn commits_that_wait_for_the_regions_are_told_within_ten_seconds() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let (cluster, mut desk) = synchronous(&postgres, Ack::Regions);
    desk.durable_at_once = false;
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| cluster.sql("INSERT INTO t VALUES (1)"));
        eventually("it waits", || waits(&cluster));
        let told = now();
        let (mut polled, mut apart) = (told, Duration::ZERO);
        desk.run_until("it is told", |desk| {
            apart = apart.max(since(std::mem::replace(&mut polled, now())));
            let alerts = desk.poll().alerts;
            alerts
                .iter()
                .any(|alert| alert.code == "postgresql.commits-wait")
        });
        // But for what a machine that stood still between two polls took.
        let took = since(told);
        assert!(took < Duration::from_secs(10) + apart * 4, "{took:?}");
        let last = desk.kept.last().expect("there").seq;
        desk.capture().durable(last).expect("durable");
        desk.durable_at_once = true;
        desk.run_until("it returns", |_| commit.is_finished());
        assert_eq!(desk.poll().alerts, []);
    });
}

#[test]
fn a_commit_returns_once_it_is_sealed_if_the_spool_is_enough() {
    let Some(postgres) = Postgres::of(14) else {
        return;
    };
    let (cluster, mut desk) = synchronous(&postgres, Ack::Spool);
    desk.durable_at_once = false;
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| {
            cluster.sql("SET synchronous_commit = remote_apply; INSERT INTO t VALUES (1)");
        });
        eventually("it waits", || waits(&cluster));
        desk.run_until("it returns", |_| commit.is_finished());
    });
}

#[test]
fn a_full_buffer_keeps_the_connection_and_loses_nothing() {
    let Some(postgres) = Postgres::of(17) else {
        return;
    };
    // GIVEN a buffer of a mebibyte, and a server that hangs up on clients silent for eight seconds
    let options = Options::default()
        .with("wal_sender_timeout", "8s")
        .with("wal_keep_size", "1GB");
    let cluster = Cluster::start(&postgres, &options).expect("a cluster");
    let mut desk = Desk::new(&conninfo(&cluster), |config| {
        config.limits.buffer_max = 1 << 20;
    });
    desk.open();
    cluster.sql("CREATE TABLE t (n int)");
    desk.catch_up(&cluster);
    let pid = || cluster.query("SELECT active_pid FROM pg_replication_slots");
    let before = pid();
    // WHEN nothing is cut for longer, and much is written
    cluster.sql("INSERT INTO t SELECT generate_series(1, 500000)");
    eventually("the buffer is full", || {
        desk.poll().pending_bytes >= 1 << 20
    });
    let full = now();
    eventually("time passes", || {
        let poll = desk.poll();
        assert!(poll.pending_bytes < 2 << 20, "{}", poll.pending_bytes);
        since(full) > Duration::from_secs(10)
    });
    // THEN it is still the same connection, and everything comes
    assert_eq!(pid(), before, "the server did not hang up");
    let end = desk.catch_up(&cluster);
    assert!(end > Lsn(20 << 20));
    desk.assert_same_as(
        &cluster.data_dir().join("pg_wal"),
        tidemark_engine_postgres::TimelineId::FIRST,
        tidemark_engine_postgres::SegmentSize::DEFAULT,
    );
}
