//! Databases that can't be protected are refused, each with its own error and remedy.

use std::path::Path;

use rusqlite::Connection;
use tidemark_engine::{Engine, Error, ErrorKind, OpenRequest};
use tidemark_engine_sqlite::{SqliteConfig, SqliteEngine, SqliteError};
use tidemark_format::Incarnation;
use tidemark_host::SystemClock;
use tidemark_testkit::sqlite::{Shape, create};

fn open(path: &Path) -> Error {
    let state = path.with_extension("state");
    let engine = SqliteEngine::new(SqliteConfig::new(path), SystemClock::shared());
    let mut none = std::iter::empty();
    let request = OpenRequest {
        folder: state,
        records: &mut none,
        candidate: Incarnation([1; 16]),
    };
    engine.open(request).expect_err("it is refused")
}

#[test]
fn a_database_that_is_not_there_is_vanished() {
    let folder = tempfile::tempdir().unwrap();
    let error = open(&folder.path().join("none.db"));
    assert_eq!(error.kind(), ErrorKind::Vanished);
    // An empty file is what a crash at creation leaves: no database yet.
    std::fs::write(folder.path().join("empty.db"), "").unwrap();
    assert_eq!(
        open(&folder.path().join("empty.db")).kind(),
        ErrorKind::Vanished
    );
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text.db");
    std::fs::write(&path, "x".repeat(5000)).unwrap();
    let error = open(&path);
    assert!(
        matches!(error.inner(), Some(SqliteError::NotADatabase { .. })),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[test]
fn a_database_of_another_user_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    create(&path, &Shape::default()).unwrap();
    let me = rustix::process::geteuid().as_raw();
    if std::os::unix::fs::chown(&path, Some(me + 1), None).is_err() {
        // Only root may give files away; the check itself is the same for everyone.
        return;
    }
    let error = open(&path);
    assert!(
        matches!(error.inner(), Some(SqliteError::NotOwner { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("User="), "{error}");
    assert!(
        !tidemark_engine_sqlite::beside(&path, "-shm").exists(),
        "nothing was made beside it"
    );
}

#[test]
fn a_database_in_exclusive_mode_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    create(&path, &Shape::default()).unwrap();
    let app = Connection::open(&path).unwrap();
    app.execute_batch("PRAGMA locking_mode=EXCLUSIVE; INSERT INTO ledger VALUES(1, 1)")
        .unwrap();
    let error = open(&path);
    assert!(
        matches!(error.inner(), Some(SqliteError::Exclusive { .. })),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[test]
fn a_database_that_vanishes_or_is_replaced_is_noticed() {
    let lab = crate::support::Lab::new(&Shape::default());
    let mut rig = lab.protected();
    std::fs::rename(lab.path(), lab.path().with_extension("away")).unwrap();
    let mut work = tidemark_engine::Workspace::new();
    let error = loop {
        match rig.capture().poll(&mut work) {
            Ok(poll) => std::thread::sleep(poll.next),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Vanished);
}
