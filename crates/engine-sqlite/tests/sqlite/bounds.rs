//! The bound of the log, `wal_max`, while the capture can't go on for a reason of our own: no cut goes
//! out, polls fail, or there are none. The mark is let go, and nothing is missing afterwards.

use std::time::Duration;

use tidemark_engine::conformance::Rig;
use tidemark_engine::{ErrorKind, Verdict, Workspace};
use tidemark_engine_sqlite::beside;
use tidemark_testkit::sqlite::{Job, Shape, committed, let_through};

use crate::support::{Lab, PATIENCE, now, poll_until};

const WAL_MAX: u64 = 4 << 20;
/// What one writer commits: ten times as much.
const TRANSACTIONS: u64 = 500;

fn lab() -> Lab {
    let mut lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    lab.config.wal_max_bytes = WAL_MAX;
    lab.config.hand_off_bytes = 1 << 20;
    lab.config.cut_bytes = 1 << 20;
    lab
}

fn is_raised(rig: &mut Rig) -> bool {
    let alerts = rig.poll().alerts;
    alerts.iter().any(|alert| alert.code == "sqlite.wal-max")
}

/// Does `step` again and again while an application writes; says how large the log became.
fn largest_log_while(lab: &Lab, rig: &mut Rig, mut step: impl FnMut(&mut Rig)) -> u64 {
    // It is never far ahead of the steps, however long they stand still: what is shown is what they do.
    let gate = lab.folder.path().join("gate");
    let mut writer = lab.start(&Job {
        transactions: Some(TRANSACTIONS),
        rows: 40,
        row_bytes: 2_000,
        gate: Some(gate.clone()),
        ..lab.job(1)
    });
    while writer.is_running() {
        step(rig);
        let_through(&gate, 5);
        std::thread::sleep(Duration::from_millis(2));
    }
    // It never shrinks while it is in use: what it has now is the most that it ever had.
    let log = std::fs::metadata(beside(lab.path(), "-wal")).expect("a log");
    assert!(log.len() > WAL_MAX / 2, "the load was too small: {log:?}");
    log.len()
}

/// Cuts and polls until everything is captured and the alert is gone.
fn assert_caught_up(lab: &Lab, mut rig: Rig) {
    poll_until(&mut rig, "the alert ends", |rig| {
        rig.cut_once();
        !is_raised(rig)
    });
    rig.cut();
    let last = *rig.restorable().last().expect("something is restorable");
    let restored = committed(&lab.restore(&rig, last)).expect("what was committed");
    assert_eq!(restored, [(1, 500)]);
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_log_whose_cuts_can_not_go_out_is_let_go_at_its_bound_and_caught_up_later() {
    // GIVEN a capture whose cuts are held, as by a full spool
    let lab = lab();
    let mut rig = lab.protected();
    let mut raised = Vec::new();
    // WHEN the application writes much more than wal_max
    let bytes = largest_log_while(&lab, &mut rig, |rig| raised.push(is_raised(rig)));
    // THEN its log stays small, the alert comes once and stays, and nothing is missing
    assert!(bytes <= WAL_MAX * 3, "the log has {bytes} bytes");
    assert!(raised.is_sorted(), "the alert came and went");
    assert_eq!(raised.last(), Some(&true));
    assert_caught_up(&lab, rig);
}

#[test]
fn a_log_of_which_every_poll_fails_is_let_go_at_its_bound_and_caught_up_later() {
    // GIVEN a capture that must write down something before it goes on
    let lab = lab();
    let mut rig = lab.protected();
    lab.change(2, 3);
    rig.cut();
    let copy = lab.folder.path().join("copy.db");
    for (from, to) in [(lab.path(), copy.as_path()), (copy.as_path(), lab.path())] {
        // By another process: closing the file in this one would drop the capture's locks.
        let copied = std::process::Command::new("cp").args([from, to]).status();
        assert!(copied.expect("cp runs").success());
    }
    let mut work = Workspace::new();
    let deadline = now().after(PATIENCE);
    while rig.capture().poll(&mut work).is_ok() {
        assert!(now() < deadline, "nobody noticed the copy");
        std::thread::sleep(Duration::from_millis(5));
    }
    // … and can't
    let (state, away) = (
        lab.folder.path().join("state"),
        lab.folder.path().join("away"),
    );
    std::fs::rename(&state, &away).expect("a step of the test");
    // WHEN the application writes much more than wal_max
    let mut failed = 0;
    let bytes = largest_log_while(&lab, &mut rig, |rig| {
        if let Err(error) = rig.capture().poll(&mut work) {
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            failed += 1;
        }
    });
    // THEN its log stays small, and nothing is missing
    assert!(failed > 0, "no poll failed");
    assert!(bytes <= WAL_MAX * 3, "the log has {bytes} bytes");
    std::fs::rename(&away, &state).expect("a step of the test");
    rig.crash();
    if matches!(rig.open(), Verdict::NewIncarnation { .. }) {
        rig.base(true);
    }
    rig.cut();
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_log_that_nobody_polls_is_let_go_at_its_bound_and_caught_up_later() {
    // GIVEN a capture that ends, and its last cut can't go out yet
    let lab = lab();
    let mut rig = lab.protected();
    // WHEN the application writes much more than wal_max
    let bytes = largest_log_while(&lab, &mut rig, |rig| rig.capture().keep_bounds());
    // THEN its log stays small, and nothing is missing
    assert!(bytes <= WAL_MAX * 3, "the log has {bytes} bytes");
    assert_caught_up(&lab, rig);
}
