//! What happened while nobody captured is found by comparing, and only that is shipped.

use std::time::Duration;

use tidemark_engine::{ErrorKind, Verdict};
use tidemark_testkit::sqlite::{Job, Shape, committed, create};

use crate::support::{Lab, capture_while, poll_until};

fn shipped_since(rig: &tidemark_engine::conformance::Rig, first: tidemark_format::LogSeq) -> u64 {
    rig.log
        .range(first..)
        .map(|(_, cut)| cut.bytes_changed)
        .sum()
}

#[test]
fn a_restart_goes_on_in_the_same_log() {
    let lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    lab.change(1, 10);
    rig.cut();
    rig.crash();
    // A reader keeps the log alive while the agent is away.
    let mut reader = lab.reader();
    lab.change(2, 10);
    assert_eq!(rig.open(), Verdict::Continues);
    rig.cut();
    reader.kill();
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_log_that_restarts_right_after_opening_is_noticed() {
    // GIVEN commits made while the agent was away, all of them in the database file already
    let lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    lab.change(1, 10);
    rig.cut();
    rig.crash();
    let mut reader = lab.somebody();
    let sql = "UPDATE data SET kind = 'changed' WHERE id % 7 = 0; PRAGMA wal_checkpoint(PASSIVE)";
    lab.run(&Job {
        sql: Some(sql.to_owned()),
        transactions: Some(0),
        ..lab.job(2)
    });
    // WHEN the log goes on, and is restarted before the first poll
    assert_eq!(rig.open(), Verdict::Continues);
    lab.change(3, 3);
    rig.cut();
    // THEN what was missed is found
    reader.kill();
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn after_downtime_only_what_changed_is_shipped() {
    let lab = Lab::new(&Shape {
        bytes: 20 << 20,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    rig.crash();
    // GIVEN changes, checkpointed, and a log that is deleted when the last connection closes
    lab.run(&Job {
        transactions: Some(30),
        checkpoint: Some("TRUNCATE".to_owned()),
        checkpoint_every_ms: 0,
        ..lab.job(1)
    });
    // WHEN the agent comes back
    let verdict = rig.open();
    assert!(matches!(verdict, Verdict::CatchUp { .. }), "{verdict:?}");
    let first = rig.next;
    rig.cut();
    // THEN little is shipped, and the result is exact
    let shipped = shipped_since(&rig, first);
    assert!(shipped > 0 && shipped < 3 << 20, "{shipped} bytes");
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_catch_up_larger_than_a_cut_runs_while_the_application_writes() {
    let mut lab = Lab::new(&Shape {
        bytes: 8 << 20,
        ..Shape::default()
    });
    lab.config.cut_bytes = 256 << 10;
    let mut rig = lab.protected();
    rig.crash();
    lab.run(&Job {
        sql: Some("UPDATE data SET body = randomblob(900) WHERE id % 2".to_owned()),
        transactions: Some(1),
        ..lab.job(1)
    });
    rig.open();
    let job = Job {
        for_ms: Some(2_000),
        checkpoint: Some("RESTART".to_owned()),
        checkpoint_every_ms: 20,
        ..lab.job(2)
    };
    capture_while(&mut rig, Duration::from_millis(50), &mut [lab.start(&job)]);
    assert!(rig.log.values().filter(|cut| !cut.restorable).count() > 3);
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_catch_up_that_is_interrupted_begins_again() {
    let mut lab = Lab::new(&Shape {
        bytes: 4 << 20,
        ..Shape::default()
    });
    lab.config.cut_bytes = 128 << 10;
    let mut rig = lab.protected();
    rig.crash();
    lab.run(&Job {
        sql: Some("UPDATE data SET body = randomblob(900)".to_owned()),
        transactions: Some(1),
        ..lab.job(1)
    });
    for _ in 0..3 {
        assert!(matches!(rig.open(), Verdict::CatchUp { .. }));
        for _ in 0..6 {
            rig.poll();
            rig.cut_once();
        }
        rig.crash();
    }
    rig.open();
    rig.cut();
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_database_replaced_by_a_version_of_itself_is_compared() {
    let lab = Lab::new(&Shape {
        bytes: 10 << 20,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    // GIVEN a copy that was changed and renamed over the database, its log removed
    let copy = lab.folder.path().join("copy.db");
    let run = |program: &str, arguments: [&std::path::Path; 2]| {
        assert!(
            std::process::Command::new(program)
                .args(arguments)
                .status()
                .unwrap()
                .success()
        );
    };
    run("cp", [lab.path(), &copy]);
    lab.run(&Job {
        path: copy.clone(),
        transactions: Some(5),
        ..lab.job(1)
    });
    run("mv", [&copy, lab.path()]);
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(tidemark_engine_sqlite::beside(lab.path(), suffix)).unwrap();
    }
    // WHEN the capture notices
    let mut work = tidemark_engine::Workspace::new();
    let error = loop {
        match rig.capture().poll(&mut work) {
            Ok(poll) => std::thread::sleep(poll.next),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Reopen, "{error}");
    rig.crash();
    // THEN it is the same source, compared
    let verdict = rig.open();
    assert!(
        matches!(&verdict, Verdict::CatchUp { reason } if reason.contains("replaced")),
        "{verdict:?}"
    );
    let first = rig.next;
    rig.cut();
    assert!(shipped_since(&rig, first) < 2 << 20);
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn another_database_of_the_same_name_is_a_new_incarnation() {
    let lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    let before = rig.incarnation;
    for shape in [
        Shape {
            bytes: 1 << 20,
            seed: 99,
            ..Shape::default()
        },
        Shape {
            bytes: 1 << 20,
            page_size: 8192,
            ..Shape::default()
        },
    ] {
        rig.crash();
        for suffix in ["", "-wal", "-shm"] {
            drop(std::fs::remove_file(tidemark_engine_sqlite::beside(
                lab.path(),
                suffix,
            )));
        }
        create(lab.path(), &shape).unwrap();
        let verdict = rig.open();
        assert!(
            matches!(verdict, Verdict::NewIncarnation { .. }),
            "{verdict:?}"
        );
        assert_ne!(rig.incarnation, before);
        rig.base(true);
        lab.change(1, 3);
        rig.cut();
    }
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_damaged_page_map_costs_bytes_but_never_correctness() {
    let lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    lab.change(1, 5);
    rig.cut();
    rig.sync();
    rig.crash();
    // GIVEN a map with a flipped byte
    let map = lab.folder.path().join("state/map-1");
    let mut bytes = std::fs::read(&map).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&map, bytes).unwrap();
    let verdict = rig.open();
    assert!(
        matches!(&verdict, Verdict::CatchUp { reason } if reason.contains("damaged")),
        "{verdict:?}"
    );
    rig.cut();
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_reader_that_never_ends_makes_the_agent_let_go_and_catch_up_later() {
    // GIVEN an application reader that pins the log, and a small bound
    let mut lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    lab.config.wal_max_bytes = 2 << 20;
    lab.config.hand_off_bytes = 1 << 20;
    let mut rig = lab.protected();
    let mut reader = lab.reader();
    lab.run(&Job {
        transactions: Some(300),
        rows: 10,
        ..lab.job(1)
    });
    let is_released = |rig: &mut tidemark_engine::conformance::Rig| {
        rig.cut_once();
        rig.poll()
            .alerts
            .iter()
            .any(|alert| alert.code == "sqlite.wal-max")
    };
    poll_until(&mut rig, "the mark is released at the bound", is_released);
    // WHEN the reader ends and the application starts its log anew
    reader.kill();
    lab.run(&Job {
        transactions: Some(50),
        checkpoint: Some("TRUNCATE".to_owned()),
        checkpoint_every_ms: 0,
        ..lab.job(2)
    });
    // THEN the alert ends, and nothing is missing
    poll_until(&mut rig, "the alert ends", |rig| !is_released(rig));
    rig.cut();
    let last = *rig.restorable().last().unwrap();
    assert_eq!(
        committed(&lab.restore(&rig, last)).unwrap(),
        [(1, 300), (2, 50)]
    );
    lab.assert_restores_byte_equal(rig);
}

/// Polls until everything is in the file and the mark rests, as at a database that nobody writes.
fn at_rest(lab: &Lab, rig: &mut tidemark_engine::conformance::Rig) {
    poll_until(rig, "everything is in the file", |_| lab.is_settled());
    for _ in 0..20 {
        std::thread::sleep(rig.poll().next.min(Duration::from_millis(25)));
        rig.cut_once();
    }
}

/// Copies `from` over the database: into the same file, under the log that the capture holds open.
fn copy_over(lab: &Lab, from: &std::path::Path) {
    let status = std::process::Command::new("cp")
        .args([from, lab.path()])
        .status();
    assert!(status.expect("cp runs").success());
}

#[test]
fn a_backup_copied_over_the_database_behind_the_log_is_noticed_and_compared() {
    for commits_at_once in [false, true] {
        // GIVEN a backup, commits after it, and an application that ended in order
        let lab = Lab::new(&Shape {
            bytes: 1 << 20,
            ..Shape::default()
        });
        let mut rig = lab.protected();
        let backup = lab.folder.path().join("backup.db");
        lab.change(5, 1);
        at_rest(&lab, &mut rig);
        // By another process: closing the file in this one would drop the capture's locks.
        let copied = std::process::Command::new("cp")
            .args([lab.path(), &backup])
            .status();
        assert!(copied.unwrap().success());
        lab.change(2, 5);
        at_rest(&lab, &mut rig);
        let points = rig.restorable().len();
        // WHEN the operator copies the backup over it, and the application goes on
        copy_over(&lab, &backup);
        if commits_at_once {
            lab.change(3, 2);
        }
        // THEN the capture notices, before it takes a commit for one of the old file
        let mut work = tidemark_engine::Workspace::new();
        let deadline = crate::support::now().after(crate::support::PATIENCE);
        let error = loop {
            match rig.capture().poll(&mut work) {
                Ok(poll) => std::thread::sleep(poll.next),
                Err(error) => break error,
            }
            assert!(crate::support::now() < deadline, "nobody noticed");
        };
        assert_eq!(error.kind(), ErrorKind::Reopen, "{error}");
        while rig.cut_once().is_some() {}
        assert_eq!(rig.restorable().len(), points, "nothing is promised");
        rig.crash();
        let verdict = rig.open();
        if matches!(verdict, Verdict::NewIncarnation { .. }) {
            rig.base(true);
        } else {
            assert!(matches!(verdict, Verdict::CatchUp { .. }), "{verdict:?}");
        }
        lab.change(4, 2);
        rig.cut();
        lab.assert_restores_byte_equal(rig);
    }
}
