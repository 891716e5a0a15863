//! Databases that can't be protected are refused, each with its own error and remedy.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;
use tidemark_engine::{Engine, Error, ErrorKind, OpenRequest, Wake};
use tidemark_engine_sqlite::{SqliteConfig, SqliteEngine, SqliteError};
use tidemark_format::Incarnation;
use tidemark_host::SystemClock;
use tidemark_testkit::sqlite::{Shape, create};

use crate::support::{available, skip};

fn open(path: &Path) -> Error {
    let state = path.with_extension("state");
    let engine = SqliteEngine::new(SqliteConfig::new(path), SystemClock::shared());
    let mut none = std::iter::empty();
    let request = OpenRequest {
        folder: state,
        records: &mut none,
        candidate: Incarnation([1; 16]),
        wake: Wake::nobody(),
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

/// A folder of this machine, mounted through sshfs: its SFTP server is a child, no network is needed.
struct NetworkMount {
    folder: tempfile::TempDir,
}

impl NetworkMount {
    fn of(source: &Path) -> Option<Self> {
        let server = Path::new("/usr/lib/openssh/sftp-server");
        if !available("sshfs")
            || (!server.exists()
                && !skip("sftp-server is missing: apt-get install openssh-sftp-server"))
        {
            return None;
        }
        let folder = tempfile::tempdir().expect("a step of the test");
        let instead_of_ssh = folder.path().join("ssh");
        std::fs::write(
            &instead_of_ssh,
            format!("#!/bin/sh\nexec {}\n", server.display()),
        )
        .expect("a step of the test");
        std::fs::set_permissions(&instead_of_ssh, std::fs::Permissions::from_mode(0o755))
            .expect("a step of the test");
        let mount = Self { folder };
        std::fs::create_dir(mount.path()).expect("a step of the test");
        let mounted = std::process::Command::new("sshfs")
            .arg("-o")
            .arg(format!("ssh_command={}", instead_of_ssh.display()))
            .arg(format!("anywhere:{}", source.display()))
            .arg(mount.path())
            .output();
        let refused = match mounted {
            Ok(mounted) if mounted.status.success() => return Some(mount),
            Ok(mounted) => String::from_utf8_lossy(&mounted.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        skip(&format!(
            "sshfs can't mount here, a container needs /dev/fuse and the right to mount \
             (--device /dev/fuse, CAP_SYS_ADMIN): {refused}"
        ));
        None
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("mounted")
    }
}

impl Drop for NetworkMount {
    fn drop(&mut self) {
        for program in ["fusermount3", "umount"] {
            let done = std::process::Command::new(program)
                .args(if program == "umount" {
                    &["-l"][..]
                } else {
                    &["-u"][..]
                })
                .arg(self.path())
                .status();
            if done.is_ok_and(|status| status.success()) {
                return;
            }
        }
    }
}

#[test]
fn a_database_on_a_mounted_network_file_system_is_refused_with_the_remedy() {
    // GIVEN a database that can be opened where it lies, and the same through a network file system
    let source = tempfile::tempdir().unwrap();
    let database = source.path().join("app.db");
    create(&database, &Shape::default()).unwrap();
    let Some(mount) = NetworkMount::of(source.path()) else {
        return;
    };
    let error = open(&mount.path().join("app.db"));
    // THEN it is refused there, before SQLite touches it, and told where the agent has to run
    assert!(
        matches!(error.inner(), Some(SqliteError::Network { .. })),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Refused);
    let text = error.to_string();
    assert!(
        text.contains("FUSE") && text.contains("run the agent on the machine"),
        "{text}"
    );
    for suffix in ["-wal", "-shm"] {
        assert!(!tidemark_engine_sqlite::beside(&database, suffix).exists());
    }
}

#[test]
fn bytes_that_look_encrypted_or_damaged_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let noise: Vec<u8> = (0..8192u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
        .collect();
    let mut only_a_magic = noise.clone();
    only_a_magic[..16].copy_from_slice(b"SQLite format 3\0");
    for bytes in [
        &noise[..],
        &only_a_magic,
        &noise[..50],
        b"SQLite format 3\0",
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = open(&path);
        assert!(
            matches!(error.inner(), Some(SqliteError::NotADatabase { .. })),
            "{error}"
        );
    }
}
