//! Servers at rest: they cost no object, whatever they do for themselves, and are known to be complete.

use std::time::Duration;

use tidemark_engine::{COMPLETE_UNTIL, Engine as _};
use tidemark_testkit::postgres::{Cluster, Postgres};

use super::{Desk, conninfo, eventually, keeping, now, since};

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
            let second = Duration::from_secs(1);
            poll.complete_until
                .is_some_and(|until| until > before + second)
        });
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

/// Everything that was committed is cut, and the server is left alone from now on.
fn comes_to_rest(desk: &mut Desk, cluster: &Cluster) {
    cluster.sql("CREATE TABLE t AS SELECT n, 'x' AS text FROM generate_series(1, 1000) n");
    cluster.sql("UPDATE t SET text = 'y'");
    desk.catch_up(cluster);
}

#[test]
fn what_a_server_does_for_itself_costs_no_object() {
    for postgres in [14, 18].into_iter().filter_map(Postgres::of) {
        // GIVEN a server that tidies up often, at rest
        let options = keeping()
            .with("autovacuum_naptime", "1s")
            .with("autovacuum_vacuum_threshold", "1")
            .with("log_autovacuum_min_duration", "0");
        let cluster = Cluster::start(&postgres, &options).expect("a cluster");
        let mut desk = Desk::of(&cluster);
        desk.open();
        comes_to_rest(&mut desk, &cluster);
        // (Statistics of an autovacuum are a transaction, and cost an object.)
        eventually("it has been vacuumed", || {
            desk.turn();
            let vacuumed = "SELECT count(*) FROM pg_stat_user_tables WHERE last_autovacuum IS NOT NULL AND last_autoanalyze IS NOT NULL";
            cluster.query(vacuumed) == "1"
        });
        cluster.sql("ALTER SYSTEM SET autovacuum = off; SELECT pg_reload_conf()");
        eventually("nobody tidies up any more", || {
            let tidies =
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%'";
            cluster.query(tidies) == "0"
        });
        let settled = now();
        eventually("it is at rest", || {
            if desk.turn().pending_bytes > 0 {
                return false;
            }
            since(settled) > Duration::from_secs(1)
        });
        // WHEN it makes checkpoints, reads and hints, and vacuums
        let (cuts, before) = (desk.kept.len(), desk.received());
        cluster.sql("SELECT count(*) FROM t; CHECKPOINT");
        cluster.sql("VACUUM (INDEX_CLEANUP ON, TRUNCATE OFF) t; CHECKPOINT");
        let wrote = super::flushed(&cluster);
        eventually("it is received", || {
            desk.turn();
            desk.received() >= wrote
        });
        assert!(wrote > before, "it wrote log");
        // THEN nothing is cut, and all is known to be complete
        let mut until = jiff::Timestamp::UNIX_EPOCH;
        let begun = super::today();
        eventually("time goes on", || {
            let poll = desk.turn();
            until = until.max(poll.complete_until.unwrap_or(until));
            until > begun
        });
        assert_eq!(desk.kept.len(), cuts, "{}", postgres.major());
        // AND it comes with the next commit, byte for byte
        cluster.sql("INSERT INTO t VALUES (0)");
        eventually("it is cut", || {
            desk.turn();
            desk.kept.len() > cuts
        });
        desk.catch_up(&cluster);
    }
}

#[test]
fn housekeeping_is_cut_when_it_is_old_and_when_it_is_much() {
    let Some(postgres) = Postgres::of(18) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &keeping()).expect("a cluster");
    for (quiet_max, rows) in [(Duration::from_millis(300), 100), (Duration::MAX, 200_000)] {
        let mut desk = Desk::new(&conninfo(&cluster), |config| {
            config.limits.quiet_max = quiet_max;
        });
        desk.open();
        cluster.sql(&format!(
            "DROP TABLE IF EXISTS u; CREATE TABLE u WITH (autovacuum_enabled = off) AS SELECT generate_series(1, {rows}) n; DELETE FROM u"
        ));
        desk.catch_up(&cluster);
        let cuts = desk.kept.len();
        cluster.sql("VACUUM (TRUNCATE OFF) u");
        eventually("it is cut", || {
            desk.turn();
            desk.kept.len() > cuts
        });
        desk.crash();
        eventually("the slot is let go", || desk.engine().retire().is_ok());
    }
}
