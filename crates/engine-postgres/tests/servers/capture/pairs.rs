//! Pairs of servers: the one that takes writes is followed, whatever its timelines are called, and a hole
//! is never passed over.

use tidemark_engine_postgres::wal::Event;
use tidemark_engine_postgres::{SegmentSize, TimelineId};
use tidemark_host::{Clock as _, SystemClock};
use tidemark_testkit::postgres::{Cluster, Options, Postgres, Stop};

use super::{Desk, Place, eventually, flushed, keeping, pair, put, reason, stop_while_draining};

const SEGMENT: SegmentSize = SegmentSize::DEFAULT;
const FIRST: TimelineId = TimelineId::FIRST;

/// The standby has replayed what its primary has written; so it streams, too.
fn has_everything(standby: &Cluster, primary: &Cluster) {
    let end = flushed(primary);
    eventually("the standby has everything", || {
        standby.query(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")) == "t"
    });
}

fn follows_a_promotion(postgres: &Postgres) {
    // GIVEN a pair, of which the one that takes writes is captured
    // (It archives, so the last segment of the old timeline is renamed there.)
    let options = keeping()
        .with("archive_mode", "on")
        .with("archive_command", "/bin/true");
    let primary = Cluster::start(postgres, &options).expect("a cluster");
    let standby = primary.standby("other").expect("a standby");
    let mut desk = Desk::new(&pair(&primary, &standby), |_| {});
    desk.open();
    primary.sql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 50000) n");
    desk.catch_up(&primary);
    has_everything(&standby, &primary);
    // WHEN the primary stops, and a promotion that failed has burnt the next timeline's id
    stop_while_draining(&mut desk, &primary, Stop::Fast);
    let left = desk.end().expect("a log");
    let burnt = standby.data_dir().join("pg_wal/00000002.history");
    put(&burnt, "1\t0/1000000\tburnt\n");
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
    let mut desk = Desk::new(&pair(&primary, &standby), |_| {});
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

/// Stops a server and starts it again as a standby of nobody.
fn becomes_standby(cluster: &Cluster) {
    cluster.sql("ALTER SYSTEM SET primary_conninfo = ''");
    cluster.sql("ALTER SYSTEM SET primary_slot_name = ''");
    cluster.stop(Stop::Fast).expect("it stops");
    put(&cluster.data_dir().join("standby.signal"), "");
    cluster.start_again().expect("it starts");
}

#[test]
fn two_promotions_while_the_agent_was_away_are_followed_with_every_history() {
    let Some(postgres) = Postgres::of(17) else {
        return;
    };
    // GIVEN a captured server, and an agent that is away
    let primary = Cluster::start(&postgres, &keeping()).expect("a cluster");
    let standby = primary.standby("other").expect("a standby");
    let place = Place::of(&primary);
    let mut desk = Desk::new(&place.conninfo(), |_| {});
    desk.open();
    primary.sql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 50000) n");
    desk.catch_up(&primary);
    let life = desk.incarnation;
    desk.crash();
    has_everything(&standby, &primary);
    // WHEN another one takes over, fails over again, and on the way an id is burnt
    primary.stop(Stop::Fast).expect("it stops");
    standby.promote().expect("promoted");
    standby.sql("INSERT INTO t SELECT n, 'second' FROM generate_series(1, 5000) n");
    becomes_standby(&standby);
    let pg_wal = standby.data_dir().join("pg_wal");
    put(&pg_wal.join("00000003.history"), "1\t0/1000000\tburnt\n");
    standby.promote().expect("promoted");
    standby.sql("INSERT INTO t SELECT n, 'fourth' FROM generate_series(1, 5000) n");
    place.becomes(&standby);
    // THEN the same life goes on, through all of them
    desk.open();
    desk.catch_up(&standby);
    assert_eq!(desk.incarnation, life);
    let timelines: Vec<TimelineId> = desk.log().keys().copied().collect();
    assert_eq!(timelines, [FIRST, TimelineId(2), TimelineId(4)]);
    for timeline in timelines {
        assert!(desk.assert_same_as(&pg_wal, timeline, SEGMENT) > 100_000);
    }
    // AND each one's first object carries all the histories that lead to it
    for (timeline, wanted) in [(TimelineId(2), vec![2]), (TimelineId(4), vec![2, 4])] {
        let first = desk
            .kept
            .iter()
            .find(|kept| kept.range().timeline == timeline)
            .expect("there");
        let range = first.range();
        let told: Vec<u32> = range.histories.iter().map(|file| file.timeline.0).collect();
        assert_eq!(told, wanted);
        for file in &range.histories {
            let name = format!("{:08X}.history", file.timeline.0);
            assert_eq!(file.bytes, std::fs::read(pg_wal.join(name)).expect("there"));
        }
    }
}

#[test]
fn a_new_primary_that_no_longer_has_what_is_missing_begins_a_new_life() {
    let Some(postgres) = Postgres::of(18) else {
        return;
    };
    // GIVEN a pair that keeps little, and an agent that is away
    let options = Options::default()
        .with("max_wal_size", "32MB")
        .with("min_wal_size", "32MB");
    let primary = Cluster::start(&postgres, &options).expect("a cluster");
    let standby = primary.standby("other").expect("a standby");
    let mut desk = Desk::new(&pair(&primary, &standby), |_| {});
    desk.open();
    primary.sql("CREATE TABLE t (n int)");
    desk.catch_up(&primary);
    let before = desk.incarnation;
    desk.crash();
    // WHEN the primary writes on, the standby takes over and recycles what it has
    for _ in 0..6 {
        primary.sql("INSERT INTO t SELECT generate_series(1, 200000); SELECT pg_switch_wal();");
    }
    has_everything(&standby, &primary);
    primary.stop(Stop::Kill).expect("killed");
    standby.promote().expect("promoted");
    for _ in 0..3 {
        standby.sql("INSERT INTO t VALUES (0); SELECT pg_switch_wal(); CHECKPOINT;");
    }
    // THEN the slot that is made there begins later than what was captured ends, and that is said
    let mut verdicts = vec![desk.open()];
    verdicts.extend(desk.run_until("a new life", |desk| desk.incarnation != before));
    let why = reason(verdicts.last().expect("there"));
    assert!(why.contains("removed log"), "{verdicts:?}");
    // AND the new life is whole from its own start on
    standby.sql("INSERT INTO t VALUES (1)");
    desk.catch_up(&standby);
    let slot = standby.query("SELECT active FROM pg_replication_slots");
    assert_eq!(slot, "t", "the slot is on the new primary");
}

#[test]
fn a_standby_that_is_promoted_while_it_streams_is_a_primary_from_then_on() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    // GIVEN a captured standby
    let primary = Cluster::start(&postgres, &keeping()).expect("a cluster");
    let standby = primary.standby("other").expect("a standby");
    primary.sql("CREATE TABLE t (n int)");
    let mut desk = Desk::of(&standby);
    desk.open();
    desk.run_until("the log is captured", |desk| desk.end().is_some());
    // WHEN it is promoted, and nobody writes
    primary.stop(Stop::Kill).expect("killed");
    standby.promote().expect("promoted");
    let promoted = SystemClock.now();
    // THEN all up to now is known to be captured, not only what was before the newest commit
    let verdicts = desk.run_until("it is a primary", |desk| {
        desk.poll().complete_until >= Some(promoted)
    });
    assert_eq!(verdicts, [], "it is the same life");
}

/// What the capture says is wrong now.
fn alerts(desk: &mut Desk) -> Vec<&'static str> {
    desk.poll().alerts.iter().map(|alert| alert.code).collect()
}

#[test]
fn an_old_primary_that_is_up_again_is_never_gone_back_to() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    // GIVEN a fail-over that was followed
    let primary = Cluster::start(&postgres, &keeping()).expect("a cluster");
    let standby = primary.standby("other").expect("a standby");
    let mut desk = Desk::new(&pair(&primary, &standby), |_| {});
    desk.open();
    primary.sql("CREATE TABLE t (n int)");
    desk.catch_up(&primary);
    has_everything(&standby, &primary);
    primary.stop(Stop::Kill).expect("killed");
    standby.promote().expect("promoted");
    standby.sql("INSERT INTO t SELECT generate_series(1, 1000)");
    desk.catch_up(&standby);
    let life = desk.incarnation;
    // WHEN the old primary is up again, takes writes, and is the only one that answers
    primary.start_again().expect("it starts");
    primary.sql("INSERT INTO t SELECT generate_series(1, 2000)");
    stop_while_draining(&mut desk, &standby, Stop::Fast);
    // THEN it is named as stale, and nothing of it is captured
    let old = primary.socket_dir().display().to_string();
    let verdicts = desk.run_until("the stale server is told", |desk| {
        alerts(desk).contains(&"postgresql.parted")
    });
    assert_eq!(verdicts, [], "no life begins there");
    let message = desk.poll().alerts.into_iter().map(|alert| alert.message);
    assert!(message.collect::<String>().contains(&old));
    // AND opening does not go back to it either
    desk.crash();
    let refused = desk.try_open().expect_err("no other server answers");
    assert_eq!(refused.kind(), tidemark_engine::ErrorKind::Vanished);
    assert!(refused.to_string().contains("timeline 2"), "{refused}");
    // AND the same life goes on as soon as the new primary is back, beside the old one
    standby.start_again().expect("it starts");
    desk.open();
    standby.sql("INSERT INTO t SELECT generate_series(1, 10)");
    desk.catch_up(&standby);
    assert_eq!(desk.incarnation, life);
    let timelines: Vec<TimelineId> = desk.log().keys().copied().collect();
    assert_eq!(timelines, [FIRST, TimelineId(2)]);
}

#[test]
fn of_two_primaries_a_new_life_begins_on_the_newer_one_whichever_is_named_first() {
    let Some(postgres) = Postgres::of(17) else {
        return;
    };
    // GIVEN two primaries, of which nothing was captured
    let old = Cluster::start(&postgres, &keeping()).expect("a cluster");
    let new = old.standby("other").expect("a standby");
    old.sql("CREATE TABLE t (n int)");
    new.promote().expect("promoted");
    for text in [pair(&old, &new), pair(&new, &old)] {
        let mut desk = Desk::new(&text, |_| {});
        // WHEN the first life begins
        desk.open();
        new.sql("SELECT pg_switch_wal()");
        desk.catch_up(&new);
        // THEN it is of the newer one
        assert!(desk.log().contains_key(&TimelineId(2)));
        desk.crash();
        let slots =
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'tidemark_the_source'";
        assert_eq!(old.query(slots), "0");
        eventually("the slot is let go", || {
            new.try_sql("SELECT pg_drop_replication_slot('tidemark_the_source')")
                .is_ok()
        });
    }
}
