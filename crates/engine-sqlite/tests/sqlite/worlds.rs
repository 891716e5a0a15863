//! Databases as they are found in the world: odd shapes, odd applications, logs of every condition.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rusqlite::{Connection, FileControl};
use tidemark_engine::conformance::Rig;
use tidemark_engine::{ErrorKind, Verdict};
use tidemark_engine_sqlite::{SqliteError, beside};
use tidemark_testkit::sqlite::{Job, Shape, committed};

use crate::support::{Lab, available, capture_while, eventually, poll_until};

/// Debian's own sqlite3 program runs `script` on the database.
fn shell(lab: &Lab, arguments: &[&str], script: &str) {
    let mut program = Command::new("sqlite3")
        .args(["-bail", "-cmd", ".timeout 10000"])
        .args(arguments)
        .arg(lab.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("a step of the test");
    let mut input = program.stdin.take().expect("a step of the test");
    std::io::Write::write_all(&mut input, script.as_bytes()).expect("a step of the test");
    drop(input);
    assert!(
        program.wait().expect("a step of the test").success(),
        "{script}"
    );
}

/// The next error of polling.
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
fn a_huge_log_that_nobody_ever_checkpointed_is_taken_over() {
    // GIVEN an application without automatic checkpoints, and a log of many times its database
    let lab = Lab::new(&Shape {
        bytes: 200_000,
        ..Shape::default()
    });
    let mut other = lab.somebody();
    lab.run(&Job {
        transactions: Some(60),
        rows: 200,
        row_bytes: 3_000,
        append_only: true,
        auto_checkpoint: Some(0),
        ..lab.job(1)
    });
    let log = beside(lab.path(), "-wal");
    assert!(std::fs::metadata(&log).expect("a step of the test").len() > 30 << 20);
    // WHEN the agent comes and the application commits now and then
    let mut rig = lab.protected();
    poll_until(&mut rig, "the log begins anew", |rig| {
        lab.change(2, 1);
        rig.cut();
        rig.capture().probe().expect("a step of the test").log_bytes < 1 << 20
    });
    // THEN nothing is missing
    other.kill();
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_transaction_larger_than_wal_max_is_captured() {
    let mut lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    lab.config.wal_max_bytes = 4 << 20;
    lab.config.hand_off_bytes = 1 << 20;
    lab.config.cut_bytes = 1 << 20;
    let mut rig = lab.protected();
    let sql = "INSERT INTO data(kind, body) SELECT 'big', randomblob(3000) FROM
               (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < 5000) SELECT x FROM c)";
    let large = Job {
        sql: Some(sql.to_owned()),
        transactions: Some(20),
        ..lab.job(1)
    };
    capture_while(
        &mut rig,
        Duration::from_millis(50),
        &mut [lab.start(&large)],
    );
    poll_until(&mut rig, "no alert stands", |rig| {
        rig.cut_once();
        rig.poll().alerts.is_empty()
    });
    rig.cut();
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_database_of_one_page_is_captured() {
    for page_size in [512, 4096, 65536] {
        let lab = Lab::new(&Shape::default());
        std::fs::remove_file(lab.path()).expect("a step of the test");
        let app = Connection::open(lab.path()).expect("a step of the test");
        app.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA user_version=1"
        ))
        .expect("a step of the test");
        drop(app);
        let mut rig = lab.protected();
        assert_eq!(rig.capture().probe().expect("a step of the test").pages, 1);
        lab.run(&Job {
            sql: Some(
                "PRAGMA user_version=2; CREATE TABLE ledger(writer INTEGER, n INTEGER)".to_owned(),
            ),
            transactions: Some(0),
            ..lab.job(1)
        });
        rig.cut();
        lab.assert_restores_byte_equal(rig);
    }
}

#[test]
fn reserved_bytes_at_the_end_of_each_page_are_kept() {
    let lab = Lab::new(&Shape::default());
    std::fs::remove_file(lab.path()).expect("a step of the test");
    let app = Connection::open(lab.path()).expect("a step of the test");
    let mut reserved = 32;
    app.file_control(Some(c"main"), FileControl::ReserveBytes(&mut reserved))
        .expect("a step of the test");
    app.execute_batch(
        "PRAGMA journal_mode=WAL;
         CREATE TABLE ledger(writer INTEGER, n INTEGER, PRIMARY KEY(writer, n)) WITHOUT ROWID;
         CREATE TABLE data(id INTEGER PRIMARY KEY, kind TEXT, body BLOB)",
    )
    .expect("a step of the test");
    drop(app);
    assert_eq!(
        std::fs::read(lab.path()).expect("a step of the test")[20],
        32
    );
    let mut rig = lab.protected();
    lab.change(1, 50);
    rig.cut();
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_log_with_a_torn_end_and_remains_of_an_earlier_one_is_read_as_sqlite_reads_it() {
    // GIVEN an application that was killed, its log cut within a frame, then garbage
    let lab = Lab::new(&Shape {
        bytes: 500_000,
        ..Shape::default()
    });
    let mut writer = lab.start(&Job {
        auto_checkpoint: Some(0),
        ..lab.job(1)
    });
    let log = beside(lab.path(), "-wal");
    let length = || std::fs::metadata(&log).map_or(0, |log| log.len());
    eventually("the log has grown", || length() > 2 << 20);
    writer.kill();
    let file = std::fs::File::options()
        .write(true)
        .open(&log)
        .expect("a step of the test");
    let torn = length() - 1_000;
    file.set_len(torn).expect("a step of the test");
    file.write_all_at(&[0x5a; 9_000], torn)
        .expect("a step of the test");
    drop(file);
    // WHEN the agent is the first to open the database
    let mut rig = lab.protected();
    let last = *rig.restorable().last().expect("a step of the test");
    committed(&lab.restore(&rig, last)).expect("a step of the test");
    lab.change(2, 5);
    rig.cut();
    // THEN what it has is what SQLite recovers
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_wal_index_or_log_that_is_removed_while_in_use_is_noticed_and_compared() {
    for suffix in ["-shm", "-wal"] {
        let lab = Lab::new(&Shape {
            bytes: 500_000,
            ..Shape::default()
        });
        let mut rig = lab.protected();
        lab.change(1, 5);
        rig.cut();
        // WHEN somebody tidies up, and the application goes on with files of its own
        std::fs::remove_file(beside(lab.path(), suffix)).expect("a step of the test");
        let error = refused(&mut rig);
        assert_eq!(error.kind(), ErrorKind::Reopen, "{error}");
        assert!(
            matches!(error.inner(), Some(SqliteError::LogReplaced { .. })),
            "{error}"
        );
        rig.crash();
        lab.change(2, 20);
        // THEN it is opened anew, and what they wrote is found
        rig.open();
        lab.change(3, 5);
        rig.cut();
        lab.assert_restores_byte_equal(rig);
    }
}

#[test]
fn a_symbolic_link_is_the_database_that_it_names() {
    let mut lab = Lab::new(&Shape {
        bytes: 300_000,
        ..Shape::default()
    });
    let real = lab.folder.path().join("elsewhere");
    std::fs::create_dir(&real).expect("a step of the test");
    let real = real.join("real.db");
    std::fs::rename(lab.path(), &real).expect("a step of the test");
    std::os::unix::fs::symlink(&real, lab.path()).expect("a step of the test");
    lab.config.path = lab.path().to_path_buf();
    let mut rig = lab.protected();
    lab.change(1, 20);
    rig.cut();
    assert!(beside(&real, "-wal").exists() && !beside(lab.path(), "-wal").exists());
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn an_older_sqlite_with_memory_maps_temporary_tables_and_several_databases_is_captured() {
    if !available("sqlite3") {
        return;
    }
    let lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    let second = lab.folder.path().join("second.db");
    let script = format!(
        "PRAGMA mmap_size=100000000; PRAGMA temp_store=FILE; ATTACH '{}' AS second;
         PRAGMA second.journal_mode=WAL; CREATE TABLE IF NOT EXISTS second.copy(id, body);
         CREATE TEMP TABLE some AS SELECT * FROM data WHERE id % 5 = 0;
         BEGIN; INSERT INTO second.copy SELECT id, body FROM some;
         UPDATE data SET body = randomblob(700) WHERE id IN (SELECT id FROM some); COMMIT;
         PRAGMA wal_checkpoint(RESTART); DELETE FROM data WHERE id % 11 = 0;
         PRAGMA wal_checkpoint(TRUNCATE); PRAGMA optimize;",
        second.display()
    );
    for _ in 0..5 {
        std::thread::scope(|scope| {
            let done = scope.spawn(|| shell(&lab, &[], &script));
            while !done.is_finished() {
                let poll = rig.poll();
                rig.cut_once();
                std::thread::sleep(poll.next);
            }
            done.join().expect("a step of the test");
        });
    }
    rig.cut();
    lab.assert_restores_byte_equal(rig);
}

/// Runs `script` in sqlite3 under another VFS until the answer is dropped; `ready` is made when it
/// holds its locks.
struct OtherVfs(std::process::Child);

impl OtherVfs {
    fn start(lab: &Lab, vfs: &str, script: &str) -> Self {
        let ready = lab.folder.path().join("ready");
        drop(std::fs::remove_file(&ready));
        let mut program = Command::new("sqlite3")
            .args(["-vfs", vfs])
            .arg(lab.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("a step of the test");
        let script = format!(
            "{script}\n.output {}\n.print ready\n.output\n",
            ready.display()
        );
        let input = program.stdin.as_mut().expect("a step of the test");
        std::io::Write::write_all(input, script.as_bytes()).expect("a step of the test");
        eventually("the other VFS is at work", || is_written(&ready));
        Self(program)
    }
}

fn is_written(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.len() > 0)
}

impl Drop for OtherVfs {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn an_application_with_the_exclusive_vfs_is_refused_and_one_with_dot_files_is_never_taken_torn() {
    if !available("sqlite3") {
        return;
    }
    let lab = Lab::new(&Shape {
        bytes: 300_000,
        ..Shape::default()
    });
    let app = OtherVfs::start(&lab, "unix-excl", "INSERT INTO ledger VALUES(1, 1);");
    let error = lab.engine_error();
    assert!(
        matches!(error.inner(), Some(SqliteError::Exclusive { .. })),
        "{error}"
    );
    drop(app);
    // Dot-file locks stop nobody but their own kind: a commit in the middle of a look is seen by its
    // traces in the file.
    let lab = Lab::new(&Shape {
        bytes: 300_000,
        journal_mode: "delete",
        ..Shape::default()
    });
    let mut rig = lab.protected();
    for round in 0..5 {
        let sql = format!(
            "INSERT INTO ledger VALUES(7, {}); UPDATE data SET body = randomblob(900);",
            round + 1
        );
        drop(OtherVfs::start(&lab, "unix-dotfile", &sql));
        rig.cut();
        let last = *rig.restorable().last().expect("a step of the test");
        assert_eq!(
            committed(&lab.restore(&rig, last)).expect("a step of the test"),
            [(7, round + 1)]
        );
    }
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_capture_that_goes_away_for_many_restarts_of_the_log_finds_them_all() {
    let lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    let mut other = lab.somebody();
    for seed in 1..4 {
        rig.cut();
        rig.crash();
        lab.run(&Job {
            transactions: Some(60),
            checkpoint: Some("RESTART".to_owned()),
            checkpoint_every_ms: 0,
            ..lab.job(seed)
        });
        let verdict = rig.open();
        assert!(matches!(verdict, Verdict::CatchUp { .. }), "{verdict:?}");
    }
    other.kill();
    rig.cut();
    lab.assert_restores_byte_equal(rig);
}
