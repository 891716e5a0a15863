//! A live database in WAL mode: every commit is captured, whatever its application does.

use std::time::Duration;

use tidemark_testkit::sqlite::{Job, Shape, committed, let_through};

use crate::support::{Lab, assert_same, capture_while, poll_until};

const CUT_EVERY: Duration = Duration::from_millis(100);
/// Transactions of each writer that competes with others. By count, not by time: SQLite's waiting
/// isn't fair, whoever holds the write lock takes it again while the others sleep up to 100 ms.
const EACH: u64 = 300;

#[test]
fn every_page_size_is_captured_and_restored() {
    for page_size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        let lab = Lab::new(&Shape {
            page_size,
            bytes: 300_000,
            ..Shape::default()
        });
        let mut rig = lab.protected();
        let mut writer = [lab.start(&Job {
            transactions: Some(150),
            ..lab.job(1)
        })];
        capture_while(&mut rig, CUT_EVERY, &mut writer);
        lab.assert_restores_byte_equal(rig);
    }
}

#[test]
fn application_checkpoints_of_every_kind_lose_nothing() {
    // GIVEN four writers, each with its own kind of checkpoint, as often as it can
    let lab = Lab::new(&Shape {
        bytes: 3 << 20,
        ..Shape::default()
    });
    let mut rig = lab.rig();
    rig.open();
    let mut writers: Vec<_> = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"]
        .into_iter()
        .zip(1..)
        .map(|(mode, seed)| {
            lab.start(&Job {
                transactions: Some(EACH),
                rate: Some(150.0),
                checkpoint: Some(mode.to_owned()),
                checkpoint_every_ms: 15,
                ..lab.job(seed)
            })
        })
        .collect();
    // WHEN a base is made meanwhile, and everything is captured to the end
    rig.base_with(true, |_| std::thread::sleep(Duration::from_millis(5)));
    capture_while(&mut rig, CUT_EVERY, &mut writers);
    // (On a slow machine the writers are done before a few cuts are.)
    for seed in 5..8 {
        lab.change(seed, 1);
        rig.cut();
    }
    // THEN points on the way are committed prefixes, and the end is the source byte by byte
    let points = rig.restorable();
    assert!(points.len() > 3, "{} points", points.len());
    for seq in points.iter().step_by(points.len() / 4) {
        committed(&lab.restore(&rig, *seq)).unwrap();
    }
    for writer in writers {
        let summary = writer.wait().unwrap();
        assert_eq!(summary.transactions, EACH);
        assert!(summary.checkpoints > 0, "{summary:?}");
    }
    assert!(rig.poll().catching_up.is_none());
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn the_wal_stays_small_although_nobody_else_checkpoints() {
    let lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    // It writes all the time, and is never far ahead of the polls: neither while these stand still nor on a
    // machine too slow for its pace, where it would never leave the lock free for a moment.
    let gate = lab.folder.path().join("gate");
    let job = Job {
        transactions: Some(3_000),
        auto_checkpoint: Some(0),
        rate: Some(1_000.0),
        rows: 5,
        gate: Some(gate.clone()),
        ..lab.job(1)
    };
    let mut writer = [lab.start(&job)];
    let mut largest = 0;
    while writer[0].is_running() {
        let poll = rig.poll();
        let_through(&gate, 50);
        largest = largest.max(rig.capture().probe().unwrap().log_bytes);
        if poll.cut_now {
            rig.cut_once();
        }
        std::thread::sleep(poll.next);
    }
    rig.cut();
    assert!(largest < 40 << 20, "the WAL grew to {largest} bytes");
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn at_rest_the_log_is_in_the_file_and_a_truncate_does_not_wait() {
    let lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    lab.change(1, 20);
    poll_until(&mut rig, "the WAL is put into the file at rest", |rig| {
        rig.cut_once();
        lab.is_settled()
    });
    // WHEN the application truncates without any patience
    let job = Job {
        sql: Some("PRAGMA wal_checkpoint(TRUNCATE)".to_owned()),
        busy_ms: 0,
        ..lab.job(2)
    };
    lab.run(&Job {
        transactions: Some(1),
        ..job
    });
    rig.cut();
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn vacuum_and_auto_vacuum_shrink_what_is_restored() {
    for auto_vacuum in [0, 1, 2] {
        let lab = Lab::new(&Shape {
            auto_vacuum,
            bytes: 2 << 20,
            ..Shape::default()
        });
        let mut rig = lab.protected();
        let sql = "DELETE FROM data WHERE id % 3 > 0; PRAGMA incremental_vacuum; VACUUM";
        lab.run(&Job {
            sql: Some(sql.to_owned()),
            transactions: Some(5),
            ..lab.job(1)
        });
        rig.cut();
        let job = Job {
            for_ms: Some(1_500),
            vacuum_every_ms: Some(200),
            ..lab.job(2)
        };
        capture_while(&mut rig, CUT_EVERY, &mut [lab.start(&job)]);
        rig.base(false);
        lab.change(3, 10);
        rig.cut();
        lab.assert_restores_byte_equal(rig);
    }
}

#[test]
fn an_application_that_is_killed_loses_only_what_it_had_not_committed() {
    let lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    for seed in 1..6 {
        let mut writer = lab.start(&Job {
            rows: 50,
            ..lab.job(seed)
        });
        for _ in 0..30 {
            let poll = rig.poll();
            std::thread::sleep(poll.next.min(Duration::from_millis(5)));
        }
        writer.kill();
        rig.cut();
    }
    // A kill between the last frame and the index leaves a transaction that nobody was told of: the
    // next commit writes over it while somebody has the index, and recovery would bring it back
    // once nobody has. One more commit makes both the same.
    lab.change(9, 1);
    rig.cut();
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_transaction_larger_than_a_cut_spans_several_and_only_its_last_is_restorable() {
    let mut lab = Lab::new(&Shape {
        bytes: 100_000,
        ..Shape::default()
    });
    lab.config.cut_bytes = 1 << 20;
    let mut rig = lab.protected();
    let first = rig.next;
    let sql = "INSERT INTO data(kind, body) SELECT 'big', randomblob(3000) FROM
               (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < 3000) SELECT x FROM c)";
    lab.run(&Job {
        sql: Some(sql.to_owned()),
        transactions: Some(0),
        ..lab.job(1)
    });
    let last = rig.cut().unwrap();
    let pieces: Vec<bool> = rig
        .log
        .range(first..=last)
        .map(|(_, cut)| cut.restorable)
        .collect();
    let (end, before) = pieces.split_last().unwrap();
    assert!(
        *end && before.len() >= 5 && !before.contains(&true),
        "{pieces:?}"
    );
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn many_small_transactions_beyond_a_cut_end_between_transactions() {
    let mut lab = Lab::new(&Shape {
        bytes: 100_000,
        ..Shape::default()
    });
    lab.config.cut_bytes = 128 << 10;
    let mut rig = lab.protected();
    lab.change(1, 400);
    let first = rig.next;
    while rig.cut_once().is_some() {}
    assert!(rig.log.range(first..).count() > 3);
    assert!(rig.log.range(first..).all(|(_, cut)| cut.restorable));
    for seq in rig.restorable().iter().step_by(3) {
        committed(&lab.restore(&rig, *seq)).unwrap();
    }
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn capturing_writes_nothing_into_the_database() {
    let lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    let before = lab.image();
    let mut rig = lab.protected();
    for _ in 0..200 {
        rig.poll();
    }
    rig.cut();
    rig.crash();
    assert_same(&before, &lab.image());
}
