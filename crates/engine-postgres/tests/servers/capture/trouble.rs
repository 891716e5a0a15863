//! Networks and servers that behave badly: nothing is lost, and it is said what is wrong.

use std::net::SocketAddr;
use std::time::Duration;

use tidemark_engine::ErrorKind;
use tidemark_engine_postgres::{SegmentSize, TimelineId};
use tidemark_testkit::net::{Mode, Proxy};
use tidemark_testkit::postgres::{Cluster, Options, Postgres, Stop};

use super::{Desk, conninfo, eventually, now, since};

#[test]
fn a_link_that_dies_or_is_cut_is_noticed_and_taken_up_again() {
    let Some(postgres) = Postgres::of(18) else {
        return;
    };
    // GIVEN a server behind a network
    let options = Options {
        tcp: true,
        ..Options::default().with("wal_keep_size", "1GB")
    };
    let cluster = Cluster::start(&postgres, &options).expect("a cluster");
    cluster.set_hba("host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust");
    let server = SocketAddr::from(([127, 0, 0, 1], cluster.port()));
    let proxy = Proxy::to(server).expect("a proxy");
    let text = format!(
        "host=127.0.0.1 port={} user=postgres dbname=postgres sslmode=disable connect_timeout=2",
        proxy.addr().port()
    );
    let mut desk = Desk::new(&text, |config| {
        config.limits.silence_max = Duration::from_millis(1500);
        config.limits.answer_max = Duration::from_secs(2);
    });
    desk.open();
    cluster.sql("CREATE TABLE t (n int)");
    desk.catch_up(&cluster);
    for mode in [Mode::BlackHole, Mode::Cut] {
        // WHEN it dies or is cut
        proxy.set(mode);
        cluster.sql("INSERT INTO t SELECT generate_series(1, 1000)");
        eventually("it is said", || {
            let alerts = desk.poll().alerts;
            alerts
                .iter()
                .any(|alert| alert.code == "postgresql.unreachable")
        });
        // THEN it goes on as soon as it can
        proxy.set(Mode::Pass);
        desk.catch_up(&cluster);
        eventually("nothing is wrong any more", || {
            desk.poll().alerts.is_empty()
        });
    }
    // AND a slow one only makes it slow
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    cluster.sql("INSERT INTO t SELECT generate_series(1, 50000)");
    desk.catch_up(&cluster);
    desk.assert_same_as(
        &cluster.data_dir().join("pg_wal"),
        TimelineId::FIRST,
        SegmentSize::DEFAULT,
    );
}

#[test]
fn a_server_that_hangs_is_told_in_time_and_nothing_is_claimed_meanwhile() {
    let Some(postgres) = Postgres::of(17) else {
        return;
    };
    // GIVEN a captured server
    let cluster = Cluster::start(&postgres, &Options::default()).expect("a cluster");
    let text = format!("{} connect_timeout=2", conninfo(&cluster));
    let mut desk = Desk::new(&text, |config| {
        config.limits.silence_max = Duration::from_millis(1500);
        config.limits.answer_max = Duration::from_secs(1);
    });
    desk.open();
    cluster.sql("CREATE TABLE t (n int)");
    desk.catch_up(&cluster);
    eventually("it is known to be complete", || {
        desk.poll().complete_until.is_some()
    });
    // WHEN every process of it stands still
    let frozen = cluster.freeze().expect("frozen");
    let (begun, since_when) = (now(), super::today());
    // THEN it is told soon, and nothing after that is called complete
    eventually("it is told", || {
        let poll = desk.poll();
        assert!(poll.complete_until <= Some(since_when), "{poll:?}");
        let mut codes = poll.alerts.iter().map(|alert| alert.code);
        codes.any(|code| code == "postgresql.unreachable")
    });
    // By the limit that it was given, and not by the usual one of half a minute.
    assert!(since(begun) < Duration::from_secs(25), "{:?}", since(begun));
    let told = now();
    eventually("time passes", || {
        let poll = desk.poll();
        assert!(poll.complete_until <= Some(since_when), "{poll:?}");
        assert!(!poll.alerts.is_empty(), "it stays told");
        since(told) > Duration::from_secs(2)
    });
    // AND all goes on when the server does
    drop(frozen);
    cluster.sql("INSERT INTO t VALUES (1)");
    desk.catch_up(&cluster);
    eventually("nothing is wrong any more, and time goes on", || {
        let poll = desk.poll();
        poll.alerts.is_empty() && poll.complete_until > Some(since_when)
    });
}

#[test]
fn a_server_that_is_away_is_an_alert_and_no_end() {
    let Some(postgres) = Postgres::of(14) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &Options::default()).expect("a cluster");
    let mut desk = Desk::of(&cluster);
    desk.open();
    cluster.sql("CREATE TABLE t (n int)");
    desk.catch_up(&cluster);
    cluster.stop(Stop::Kill).expect("killed");
    eventually("it is said", || {
        let alerts = desk.poll().alerts;
        alerts
            .iter()
            .any(|alert| alert.code == "postgresql.unreachable")
    });
    // Opening while it is away is to be tried again.
    let error = desk.try_open().expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::Vanished);
    cluster.start_again().expect("it starts");
    desk.open();
    cluster.sql("INSERT INTO t VALUES (1)");
    desk.catch_up(&cluster);
}

#[test]
fn an_agent_that_keeps_nothing_does_not_keep_a_server_from_stopping() {
    let Some(postgres) = Postgres::of(16) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &Options::default()).expect("a cluster");
    let mut desk = Desk::new(&conninfo(&cluster), |config| {
        config.limits.stop_wait = Duration::from_secs(1);
    });
    desk.open();
    cluster.sql("CREATE TABLE t (n int)");
    desk.catch_up(&cluster);
    // WHEN the server stops and nothing is sealed
    let begun = now();
    std::thread::scope(|scope| {
        let stops = scope.spawn(|| cluster.stop(Stop::Fast).expect("it stops"));
        eventually("a cut is asked for at once", || {
            desk.poll().cut_now || stops.is_finished()
        });
        stops.join().expect("it stopped");
    });
    // THEN it stops all the same, and what it wrote last is read again
    // (Usually it would wait for a minute.)
    assert!(since(begun) < Duration::from_secs(50));
    cluster.start_again().expect("it starts");
    desk.catch_up(&cluster);
    desk.assert_same_as(
        &cluster.data_dir().join("pg_wal"),
        TimelineId::FIRST,
        SegmentSize::DEFAULT,
    );
}

#[test]
fn two_agents_on_one_slot_are_told_apart() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &Options::default()).expect("a cluster");
    let mut desk = Desk::of(&cluster);
    desk.open();
    desk.run_until("it streams", |_| {
        cluster.query("SELECT count(*) FROM pg_replication_slots WHERE active") == "1"
    });
    let mut other = Desk::new(&conninfo(&cluster), |config| {
        config.limits.answer_max = Duration::from_secs(1);
    });
    // (On a busy machine a question may be the first to take longer than that.)
    eventually("it is said who has the slot", || {
        let error = other.try_open().expect_err("the slot is in use");
        error.to_string().contains("another agent")
    });
    // AND the first one goes on.
    cluster.sql("CREATE TABLE t (n int)");
    desk.catch_up(&cluster);
}
