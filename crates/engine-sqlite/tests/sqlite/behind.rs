//! A backup copied over the live database (`cp backup.db app.db`), whatever happens at the same time.
//!
//! The copies differ from the database in the content of rows only, so that a mixture of the two is
//! sound to SQLite and the restored bytes can be held against the source's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tidemark_engine::conformance::Rig;
use tidemark_engine::{Error, ErrorKind, ProofResult, Verdict, Workspace};
use tidemark_engine_sqlite::SqliteConfig;
use tidemark_host::Monotonic;
use tidemark_testkit::sqlite::{Child, Dice, Job, Shape};

use crate::support::{Lab, PATIENCE, assert_same, now, poll_until};

/// Rows get another content of the same length; `part` of 50 says which.
fn rewrite(part: u32) -> String {
    format!("UPDATE data SET body = randomblob(length(body)) WHERE id % 50 = {part}")
}

/// Another process runs `sql`, without a checkpoint of its own.
fn run(lab: &Lab, sql: &str) {
    lab.run(&Job {
        sql: Some(sql.to_owned()),
        transactions: Some(0),
        auto_checkpoint: Some(0),
        ..lab.job(1)
    });
}

fn program(name: &str, arguments: &[&str], paths: &[&Path]) {
    let status = Command::new(name).args(arguments).args(paths).status();
    assert!(status.expect("a step of the test").success(), "{name}");
}

/// Polls and cuts until everything is in the file and the mark rests.
fn at_rest(lab: &Lab, rig: &mut Rig) {
    poll_until(rig, "everything is in the file", |_| lab.is_settled());
    for _ in 0..20 {
        std::thread::sleep(rig.poll().next.min(Duration::from_millis(25)));
        rig.cut_once();
    }
}

/// Polls until what was committed is captured, and the mark has moved past it.
fn captured(rig: &mut Rig) {
    let deadline = now().after(PATIENCE);
    loop {
        let poll = rig.poll();
        if poll.pending_bytes > 0 {
            return;
        }
        assert!(now() < deadline, "nothing is captured");
        std::thread::sleep(poll.next);
    }
}

/// A protected database that another process keeps open, and a backup: a part of the rows changed since.
struct Scene {
    lab: Lab,
    rig: Rig,
    backup: PathBuf,
    other: Child,
}

impl Scene {
    fn new() -> Self {
        Self::with(|_config| {})
    }

    fn with(configure: impl FnOnce(&mut SqliteConfig)) -> Self {
        let mut lab = Lab::new(&Shape {
            bytes: 2 << 20,
            ..Shape::default()
        });
        configure(&mut lab.config);
        let mut rig = lab.protected();
        let other = lab.somebody();
        run(&lab, &rewrite(2));
        at_rest(&lab, &mut rig);
        let backup = lab.folder.path().join("backup.db");
        program("cp", &[], &[lab.path(), &backup]);
        run(&lab, &rewrite(1));
        captured(&mut rig);
        rig.cut();
        at_rest(&lab, &mut rig);
        Self {
            lab,
            rig,
            backup,
            other,
        }
    }

    fn copy_over(&self) {
        program("cp", &[], &[&self.backup, self.lab.path()]);
    }

    /// Polls and cuts at the engine's pace until it complains.
    fn noticed(&mut self) -> Error {
        let points = self.rig.restorable().len();
        let mut work = Workspace::new();
        let deadline = now().after(PATIENCE);
        let error = loop {
            match self.rig.capture().poll(&mut work) {
                Ok(poll) => std::thread::sleep(poll.next),
                Err(error) => break error,
            }
            assert!(now() < deadline, "nobody noticed");
        };
        assert_eq!(error.kind(), ErrorKind::Reopen, "{error}");
        assert!(
            error.to_string().contains("behind SQLite's back"),
            "{error}"
        );
        while self.rig.cut_once().is_some() {}
        assert_eq!(self.rig.restorable().len(), points, "nothing is promised");
        self.rig.crash();
        error
    }

    /// Opens, compares, goes on; the restored bytes are the source's.
    fn assert_mended(mut self) {
        let verdict = self.rig.open();
        assert!(matches!(verdict, Verdict::CatchUp { .. }), "{verdict:?}");
        run(&self.lab, &rewrite(40));
        self.rig.cut();
        self.other.kill();
        self.lab.assert_restores_byte_equal(self.rig);
    }
}

#[test]
fn a_copy_that_falls_together_with_a_checkpoint_is_found_by_its_pages() {
    for copied_first in [false, true] {
        let mut scene = Scene::new();
        // GIVEN frames that a checkpoint may put into the file: the mark stands behind them
        run(&scene.lab, &rewrite(10));
        captured(&mut scene.rig);
        // WHEN both happen between two polls
        if copied_first {
            scene.copy_over();
        }
        run(&scene.lab, "PRAGMA wal_checkpoint(PASSIVE)");
        if !copied_first {
            scene.copy_over();
        }
        // THEN the content tells
        let error = scene.noticed().to_string();
        assert!(error.contains("differs"), "{error}");
        scene.assert_mended();
    }
}

#[test]
fn no_cut_is_made_of_what_comes_after_a_copy_that_a_checkpoint_hides() {
    let mut scene = Scene::new();
    run(&scene.lab, &rewrite(10));
    captured(&mut scene.rig);
    scene.copy_over();
    run(&scene.lab, "PRAGMA wal_checkpoint(PASSIVE)");
    run(&scene.lab, &rewrite(20));
    let next = scene.rig.next;
    let cut = scene.rig.capture().cut(next, &mut Workspace::new());
    assert_eq!(cut.expect_err("it is noticed").kind(), ErrorKind::Reopen);
    scene.rig.crash();
    scene.assert_mended();
}

#[test]
fn a_copy_after_a_poll_that_ended_early_is_noticed() {
    let mut scene = Scene::new();
    // GIVEN a wal-index that can't be read, as while somebody writes it, and polls that end there
    let index = tidemark_engine_sqlite::beside(scene.lab.path(), "-shm");
    let first = scene.lab.folder.path().join("first");
    let all = |from: &Path, to: &Path| {
        let (from, to) = (
            format!("if={}", from.display()),
            format!("of={}", to.display()),
        );
        let arguments = [
            "bs=48",
            "count=1",
            "conv=notrunc",
            "status=none",
            &from,
            &to,
        ];
        program("dd", &arguments, &[]);
    };
    all(&index, &first);
    all(Path::new("/dev/zero"), &index);
    let polls = (0..3).map(|_| {
        std::thread::sleep(Duration::from_millis(30));
        scene.rig.poll()
    });
    assert!(polls.last().is_some());
    // WHEN the copy falls into that time
    scene.copy_over();
    all(&first, &index);
    // THEN it is noticed
    scene.noticed();
    scene.assert_mended();
}

#[test]
fn a_copy_while_the_mark_is_released_is_noticed() {
    for checkpointed in [false, true] {
        // GIVEN a reader that pins a log above its bound
        let mut scene = Scene::with(|config| {
            config.hand_off_bytes = 512 << 10;
            config.wal_max_bytes = 1 << 20;
        });
        let mut reader = scene.lab.reader();
        poll_until(&mut scene.rig, "the mark is released", |rig| {
            run(&scene.lab, &rewrite(10));
            rig.cut_once();
            !rig.poll().alerts.is_empty()
        });
        while scene.rig.cut_once().is_some() {}
        // WHEN the copy is made then
        if checkpointed {
            reader.kill();
            run(&scene.lab, "PRAGMA wal_checkpoint(PASSIVE)");
        }
        scene.copy_over();
        // THEN it is noticed
        scene.noticed();
        reader.kill();
        scene.assert_mended();
    }
}

#[test]
fn a_copy_while_nobody_captured_is_noticed_although_the_log_is_the_same() {
    let mut scene = Scene::new();
    scene.rig.sync();
    scene.rig.crash();
    scene.copy_over();
    let verdict = scene.rig.open();
    assert!(
        matches!(&verdict, Verdict::CatchUp { reason } if reason.contains("behind")),
        "{verdict:?}"
    );
    scene.rig.crash();
    scene.assert_mended();
}

#[test]
fn a_copy_and_a_checkpoint_while_nobody_captured_are_told_by_the_pages() {
    for copied_first in [false, true] {
        // GIVEN a log that goes on, for not all of it is in the file
        let mut scene = Scene::new();
        run(&scene.lab, &rewrite(30));
        captured(&mut scene.rig);
        scene.rig.cut();
        scene.rig.crash();
        run(&scene.lab, &rewrite(10));
        if copied_first {
            scene.copy_over();
        }
        run(&scene.lab, "PRAGMA wal_checkpoint(PASSIVE)");
        if !copied_first {
            scene.copy_over();
        }
        assert_eq!(scene.rig.open(), Verdict::Continues);
        let error = scene.noticed().to_string();
        assert!(error.contains("differs"), "{error}");
        scene.assert_mended();
    }
}

#[test]
fn commits_and_checkpoints_while_nobody_captured_are_no_copy() {
    let mut scene = Scene::new();
    run(&scene.lab, &rewrite(30));
    captured(&mut scene.rig);
    scene.rig.cut();
    scene.rig.crash();
    for part in [10, 20, 40] {
        run(&scene.lab, &rewrite(part));
    }
    run(&scene.lab, "PRAGMA wal_checkpoint(PASSIVE)");
    let first = scene.rig.next;
    assert_eq!(scene.rig.open(), Verdict::Continues);
    scene.rig.cut();
    at_rest(&scene.lab, &mut scene.rig);
    assert!(scene.rig.next > first);
    scene.other.kill();
    scene.lab.assert_restores_byte_equal(scene.rig);
}

#[test]
fn a_copy_that_keeps_its_times_is_noticed_beside_a_checkpoint() {
    let mut scene = Scene::new();
    run(&scene.lab, &rewrite(10));
    captured(&mut scene.rig);
    run(&scene.lab, "PRAGMA wal_checkpoint(PASSIVE)");
    program("cp", &["-p"], &[&scene.backup, scene.lab.path()]);
    scene.noticed();
    scene.assert_mended();
}

#[test]
fn other_rights_or_another_group_cost_no_comparison() {
    let mut scene = Scene::new();
    let before = scene.rig.next;
    for mode in ["600", "640", "644"] {
        program("chmod", &[mode], &[scene.lab.path()]);
        at_rest(&scene.lab, &mut scene.rig);
        assert_eq!(scene.rig.next, before, "nothing is shipped");
    }
    // Neither when it happened while nobody captured.
    scene.rig.crash();
    program("chmod", &["600"], &[scene.lab.path()]);
    assert_eq!(scene.rig.open(), Verdict::Continues);
    at_rest(&scene.lab, &mut scene.rig);
    assert_eq!(scene.rig.next, before, "nothing is shipped");
    scene.other.kill();
    scene.lab.assert_restores_byte_equal(scene.rig);
}

/// The restored bytes are the source's, sound or not.
fn assert_equals_the_source(lab: &Lab, mut rig: Rig) {
    let last = *rig.restorable().last().expect("something is restorable");
    let (target, restored) = lab.target("restored.partial");
    let proof = rig.restore(last, target).expect("the restore succeeds");
    assert_eq!(proof.result, ProofResult::Equal);
    rig.crash();
    let bytes = std::fs::read(restored).expect("the restored file");
    assert_same(&lab.image(), &bytes);
}

/// One turn of the agent: poll, and cut if it is time. The error that asks to open again, if any.
fn turn(rig: &mut Rig, cut_at: &mut Monotonic) -> Option<Error> {
    let mut work = Workspace::new();
    match rig.capture().poll(&mut work) {
        Ok(poll) => std::thread::sleep(poll.next),
        Err(error) => return Some(error),
    }
    if now().since(*cut_at) > Duration::from_millis(100) {
        *cut_at = now();
        let next = rig.next;
        match rig.capture().cut(next, &mut work) {
            Ok(Some(cut)) => {
                let seq = rig.spool(cut);
                rig.capture().sealed(seq).expect("a cut is sealed");
            }
            Ok(None) => {}
            Err(error) => return Some(error),
        }
    }
    None
}

fn open_again(rig: &mut Rig) {
    rig.crash();
    if matches!(rig.open(), Verdict::NewIncarnation { .. }) {
        rig.base(true);
    }
}

/// A copy at a moment of the seed's choice, over the database of an application that commits and
/// checkpoints all the time. Whatever comes of it, sound or not: in the end the restored bytes are the
/// source's.
fn copied_under_load(seed: u64, vacuumed: bool) {
    let mut dice = Dice::new(seed);
    let lab = Lab::new(&Shape {
        bytes: 2 << 20,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    let backup = lab.folder.path().join("backup.db");
    if vacuumed {
        run(&lab, &format!("VACUUM INTO '{}'", backup.display()));
    } else {
        program("cp", &[], &[lab.path(), &backup]);
    }
    let stop = lab.folder.path().join("stop");
    let writer = lab.start(&Job {
        stop: Some(stop.clone()),
        rate: Some(400.0),
        auto_checkpoint: Some(20),
        // It may find the mixture malformed.
        may_fail: true,
        ..lab.job(2)
    });
    let copy_at = now().after(Duration::from_millis(300 + dice.below(700)));
    let mut cut_at = now();
    while now() < copy_at {
        assert!(turn(&mut rig, &mut cut_at).is_none(), "a false alarm");
    }
    program("cp", &[], &[&backup, lab.path()]);
    let deadline = now().after(PATIENCE);
    while turn(&mut rig, &mut cut_at).is_none() {
        assert!(now() < deadline, "seed {seed}: nobody noticed");
    }
    std::fs::write(&stop, "").expect("a step of the test");
    if vacuumed {
        // Pages in another order and fewer of them: SQLite may not even open or checkpoint the mixture.
        drop(writer.wait());
        return;
    }
    open_again(&mut rig);
    // It may have ended on a damaged database: nobody's fault but the copy's.
    drop(writer.wait());
    while let Some(error) = turn(&mut rig, &mut cut_at) {
        assert_eq!(error.kind(), ErrorKind::Reopen, "{error}");
        open_again(&mut rig);
    }
    // The log ends, so that nothing of it comes back when the next one opens the database.
    let mut last = lab.start(&Job {
        sql: Some("PRAGMA wal_checkpoint(TRUNCATE)".to_owned()),
        transactions: Some(0),
        may_fail: true,
        ..lab.job(3)
    });
    while last.is_running() {
        let error = turn(&mut rig, &mut cut_at);
        assert!(error.is_none(), "seed {seed}: a false alarm: {error:?}");
    }
    if last.wait().is_err() {
        // So damaged that SQLite doesn't even open it: there is nothing that could be compared.
        return;
    }
    rig.cut();
    assert_equals_the_source(&lab, rig);
}

#[test]
fn a_copy_under_load_is_noticed_and_the_restore_equals_the_source_whatever_it_is() {
    for seed in 1..=4 {
        copied_under_load(seed, false);
        copied_under_load(seed, true);
    }
}
