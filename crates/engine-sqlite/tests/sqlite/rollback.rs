//! Databases without WAL: compared under a read lock that is let go at `max_stall`, and what happens
//! to them while they are captured.

use std::time::Duration;

use jiff::Timestamp;
use tidemark_engine::conformance::Rig;
use tidemark_engine::{ErrorKind, Verdict};
use tidemark_engine_sqlite::SqliteError;
use tidemark_host::{Monotonic, SystemClock};
use tidemark_testkit::sqlite::{Job, Shape, committed};

use crate::support::{Lab, PATIENCE, capture_while, now, poll_until};
use crate::waits::{LockWatch, RUNS, fact};

/// Where SQLite's SHARED lock lies.
const SHARED_BYTE: u64 = 0x4000_0002;
/// Every other look is at a whole slice of pages: what it takes comes on top of `max_stall`.
const SLICE_MS: u64 = 100;

fn rollback(bytes: u64) -> Lab {
    Lab::new(&Shape {
        bytes,
        journal_mode: "delete",
        ..Shape::default()
    })
}

#[test]
fn a_look_that_would_take_longer_than_max_stall_is_given_up_with_an_alert() {
    // Noise only adds: the least of some runs counts.
    let mut runs = (0..RUNS).map(|_| longest_look());
    assert!(
        runs.any(|ms| ms <= SLICE_MS),
        "in each of {RUNS} runs the read lock was held for more than {SLICE_MS} ms"
    );
}

/// How long the read lock was held at most, in milliseconds.
#[expect(clippy::unwrap_used, reason = "a step of the test")]
#[expect(clippy::print_stderr, reason = "shown when the test fails")]
fn longest_look() -> u64 {
    // GIVEN a database that takes longer to compare than commits may be held up, and a busy writer
    let mut lab = rollback(24 << 20);
    lab.config.stall_max = Duration::from_millis(1);
    let mut rig = lab.protected();
    let watch = LockWatch::start(lab.path(), "READ", SHARED_BYTE);
    let stop = lab.folder.path().join("stop");
    let writer = lab.start(&Job {
        stop: Some(stop.clone()),
        rate: Some(200.0),
        ..lab.job(1)
    });
    // WHEN it is captured
    let mut message = None;
    poll_until(&mut rig, "a look is given up", |rig| {
        rig.cut_once();
        let alerts = rig.poll().alerts;
        let alert = alerts
            .into_iter()
            .find(|alert| alert.code == "sqlite.max-stall");
        message = alert.map(|alert| alert.message);
        message.is_some()
    });
    for _ in 0..100 {
        rig.cut_once();
        std::thread::sleep(rig.poll().next.min(Duration::from_millis(5)));
    }
    // THEN the alert says what to do, and nobody was held up for longer than one slice takes
    let message = message.unwrap();
    assert!(
        message.contains("max_stall (1 ms)") && message.contains("journal_mode=WAL"),
        "{message}"
    );
    let seen = watch.end();
    assert!(seen.times > 0, "no lock was seen");
    let inside_ms = fact(&mut rig, "read_lock_held_max_ms");
    eprintln!("read lock: {seen:?} from outside, {inside_ms} ms from inside");
    let longest = seen.without_pause(seen.longest_ms().max(inside_ms));
    // WHEN the writer rests THEN the alert ends, and everything is there
    std::fs::write(&stop, "").unwrap();
    let transactions = writer.wait().unwrap().transactions;
    assert!(transactions > 0);
    poll_until(&mut rig, "the alert ends", |rig| {
        rig.cut_once();
        rig.poll().alerts.is_empty()
    });
    rig.cut();
    let last = *rig.restorable().last().unwrap();
    assert_eq!(
        committed(&lab.restore(&rig, last)).unwrap(),
        [(1, i64::try_from(transactions).unwrap())]
    );
    lab.assert_restores_byte_equal(rig);
    longest
}

#[test]
fn within_max_stall_every_look_is_a_state_of_the_database_while_it_is_written() {
    for mode in ["delete", "truncate", "persist"] {
        let lab = Lab::new(&Shape {
            bytes: 4 << 20,
            journal_mode: mode,
            ..Shape::default()
        });
        let mut rig = lab.protected();
        let before = rig.restorable().len();
        let stop = lab.folder.path().join("stop");
        let writer = lab.start(&Job {
            stop: Some(stop.clone()),
            rate: Some(100.0),
            vacuum_every_ms: Some(700),
            ..lab.job(1)
        });
        // Some VACUUMs long, and on a busy machine until some looks were quick enough.
        let enough = now().after(Duration::from_secs(2));
        poll_until(&mut rig, "looks succeed while it is written", |rig| {
            rig.cut_once();
            now() >= enough && rig.restorable().len() > before + 2
        });
        std::fs::write(&stop, "").unwrap();
        capture_while(&mut rig, Duration::from_millis(50), &mut [writer]);
        let points = rig.restorable();
        for seq in points.iter().step_by(points.len() / 3 + 1) {
            committed(&lab.restore(&rig, *seq)).unwrap();
        }
        lab.assert_restores_byte_equal(rig);
    }
}

/// Polls until the engine refuses to go on.
fn refused(rig: &mut Rig) -> tidemark_engine::Error {
    let mut work = tidemark_engine::Workspace::new();
    loop {
        match rig.capture().poll(&mut work) {
            Ok(poll) => std::thread::sleep(poll.next.min(Duration::from_millis(10))),
            Err(error) => break error,
        }
    }
}

#[test]
fn a_database_rebuilt_with_another_page_size_begins_a_new_history() {
    let lab = rollback(300_000);
    let mut rig = lab.protected();
    let before = rig.incarnation;
    // WHEN the application changes the page size while the agent captures
    lab.run(&Job {
        sql: Some("PRAGMA page_size=8192; VACUUM".to_owned()),
        transactions: Some(1),
        ..lab.job(1)
    });
    // THEN it is never taken for pages of the old size
    let error = refused(&mut rig);
    assert_eq!(error.kind(), ErrorKind::Reopen, "{error}");
    assert!(
        matches!(error.inner(), Some(SqliteError::PageSizeChanged { .. })),
        "{error}"
    );
    rig.crash();
    assert!(matches!(rig.open(), Verdict::NewIncarnation { .. }));
    assert_ne!(rig.incarnation, before);
    rig.base(true);
    lab.change(2, 3);
    rig.cut();
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn journal_modes_that_change_are_followed_by_opening_again() {
    let lab = rollback(1 << 20);
    let mut rig = lab.protected();
    let switch = |mode: &str, seed: u64| {
        lab.run(&Job {
            sql: Some(format!("PRAGMA journal_mode={mode}")),
            transactions: Some(5),
            ..lab.job(seed)
        });
    };
    // Into WAL: the agent is told by the header.
    switch("wal", 1);
    let error = refused(&mut rig);
    assert_eq!(error.kind(), ErrorKind::Reopen, "{error}");
    rig.crash();
    assert!(matches!(rig.open(), Verdict::CatchUp { .. }));
    lab.change(2, 5);
    rig.cut();
    // Out of WAL while the agent captures: SQLite itself refuses, as with any other reader.
    let child = lab.start(&Job {
        sql: Some("PRAGMA journal_mode=delete".to_owned()),
        may_fail: true,
        busy_ms: 100,
        transactions: Some(1),
        ..lab.job(3)
    });
    let refused_to_switch = child.wait().is_err();
    rig.cut();
    // Out of WAL while it doesn't, and in again.
    rig.crash();
    switch("delete", 4);
    assert!(matches!(rig.open(), Verdict::CatchUp { .. }));
    rig.cut();
    switch("wal", 5);
    drop(refused(&mut rig));
    rig.crash();
    rig.open();
    rig.cut();
    assert!(
        refused_to_switch,
        "the journal mode changed under an open reader"
    );
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_hot_journal_is_left_to_the_application() {
    // GIVEN a transaction larger than its cache, killed in the middle
    let lab = rollback(2 << 20);
    let mut rig = lab.protected();
    let sql = "PRAGMA cache_size=5; BEGIN; UPDATE data SET body = randomblob(900);
               WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT count(*) FROM c";
    let mut writer = lab.start(&Job {
        sql: Some(sql.to_owned()),
        ..lab.job(1)
    });
    let modified = || std::fs::metadata(lab.path()).unwrap().modified().unwrap();
    let before = modified();
    let journal = tidemark_engine_sqlite::beside(lab.path(), "-journal");
    crate::support::eventually("the transaction has spilled", || modified() != before);
    writer.kill();
    assert!(journal.exists());
    // WHEN the agent looks, and starts anew THEN it takes none of it for a state, and rolls nothing back
    let points = rig.restorable().len();
    for _ in 0..20 {
        rig.poll();
        rig.cut_once();
    }
    rig.crash();
    rig.open();
    for _ in 0..20 {
        rig.poll();
        rig.cut_once();
    }
    assert_eq!(rig.restorable().len(), points);
    assert!(journal.exists());
    // WHEN the application comes back THEN what it sees is what is captured
    lab.change(2, 1);
    rig.cut();
    lab.assert_restores_byte_equal(rig);
}

/// What the agent does in one turn: a poll, and cuts if they are due. Returns up to when everything
/// committed is said to be in restorable cuts.
fn turn(rig: &mut Rig, last_cut: &mut Monotonic, every: Duration) -> Option<Timestamp> {
    let poll = rig.poll();
    let all = poll.pending_bytes == 0 && poll.catching_up.is_none();
    if poll.cut_now || (poll.pending_bytes > 0 && now().since(*last_cut) >= every) {
        *last_cut = now();
        while let Some(seq) = rig.cut_once() {
            if rig.log.get(&seq).is_some_and(|cut| cut.restorable) {
                break;
            }
        }
    }
    poll.complete_until.filter(|_| all)
}

fn wall() -> Timestamp {
    SystemClock::shared().now()
}

fn ends_restorable(rig: &Rig) -> bool {
    let last = rig.log.last_key_value();
    last.is_some_and(|(_, cut)| cut.restorable)
}

#[test]
fn whatever_is_cut_between_the_passes_a_restorable_cut_follows_and_nothing_is_claimed_before() {
    for mode in ["delete", "truncate", "persist"] {
        // GIVEN cuts so small that a look needs several
        let mut lab = Lab::new(&Shape {
            bytes: 300_000,
            journal_mode: mode,
            ..Shape::default()
        });
        lab.config.cut_bytes = 16 << 10;
        let mut rig = lab.protected();
        let mut commits = 0;
        let commit = |commits: &mut u64| {
            *commits += 1;
            lab.change(*commits, 1);
            wall()
        };
        let mut last_cut = now();
        for step in 0..6 {
            // WHEN commits fall between the passes, at every step, and a cut is tried after each
            let mut committed_at = commit(&mut commits);
            for n in 0..step + 2 {
                turn(&mut rig, &mut last_cut, Duration::ZERO);
                if n >= step {
                    committed_at = commit(&mut commits);
                }
            }
            // THEN without another commit the log soon ends restorable, and holds what it is said to
            let mut claimed = false;
            for _ in 0..200 {
                let until = turn(&mut rig, &mut last_cut, Duration::ZERO);
                claimed = until >= Some(committed_at);
                if claimed {
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            assert!(claimed, "{mode}, {step}: nothing is claimed at rest");
            assert!(ends_restorable(&rig), "{mode}, {step}");
            let last = *rig.restorable().last().unwrap();
            let there = committed(&lab.restore(&rig, last)).unwrap();
            assert_eq!(there.len() as u64, commits, "{mode}, {step}");
        }
        assert!(
            rig.log.values().any(|cut| !cut.restorable),
            "no piece was cut"
        );
        lab.assert_restores_byte_equal(rig);
    }
}

#[test]
fn under_a_live_writer_with_a_cut_every_200_ms_what_is_claimed_can_be_restored() {
    for mode in ["delete", "truncate", "persist", "wal"] {
        let mut lab = Lab::new(&Shape {
            bytes: 2 << 20,
            journal_mode: mode,
            ..Shape::default()
        });
        lab.config.scan_every = Duration::from_millis(100);
        let mut rig = lab.protected();
        let stop = lab.folder.path().join("stop");
        let writer = lab.start(&Job {
            stop: Some(stop.clone()),
            rate: Some(50.0),
            ..lab.job(1)
        });
        let (mut last_cut, every) = (now(), Duration::from_millis(200));
        let before = rig.restorable().len();
        let enough = now().after(Duration::from_secs(2));
        let deadline = now().after(PATIENCE);
        while now() < enough || rig.restorable().len() < before + 4 {
            assert!(now() < deadline, "{mode}: no restorable cuts under load");
            if turn(&mut rig, &mut last_cut, every).is_some() {
                assert!(
                    ends_restorable(&rig),
                    "{mode}: claimed what ends in a piece"
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        std::fs::write(&stop, "").unwrap();
        let transactions = writer.wait().unwrap().transactions;
        let ended = wall();
        // WHEN it rests THEN it heals by itself
        while turn(&mut rig, &mut last_cut, every) < Some(ended) {
            assert!(now() < deadline, "{mode}: never complete at rest");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(ends_restorable(&rig), "{mode}");
        let last = *rig.restorable().last().unwrap();
        let there = committed(&lab.restore(&rig, last)).unwrap();
        assert_eq!(there, [(1, i64::try_from(transactions).unwrap())], "{mode}");
        lab.assert_restores_byte_equal(rig);
    }
}

#[test]
fn a_cut_that_is_asked_for_brings_a_look_at_once() {
    // GIVEN a database that is looked at once a day
    let mut lab = rollback(300_000);
    lab.config.scan_every = Duration::from_secs(86_400);
    let mut rig = lab.protected();
    rig.cut();
    lab.change(1, 1);
    let committed_at = wall();
    // WHEN cuts are asked for THEN what was committed before is in one of them
    let deadline = now().after(PATIENCE);
    while rig.poll().complete_until < Some(committed_at) {
        assert!(now() < deadline, "nobody looked");
        rig.cut_once();
    }
    rig.cut_once();
    lab.assert_restores_byte_equal(rig);
}
