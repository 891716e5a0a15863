//! What the tests of this crate share: a database in a folder, captured, changed by child processes,
//! restored and compared.
//!
//! Children, because a test that opened the database in this process would drop the capture's locks
//! when it closes it (see the crate's HAZARD).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;
use tidemark_engine::conformance::Rig;
use tidemark_engine::{Engine, Materialise, OpenRequest, ProofResult, Wake};
use tidemark_engine_sqlite::{SqliteConfig, SqliteEngine, SqliteTarget, beside, check};
use tidemark_format::{Incarnation, LogSeq};
use tidemark_host::{Clock, Monotonic, SystemClock};
use tidemark_testkit::sqlite::{Child, Job, Shape, create, run_if_child};

/// The test that is a child process when told so; every test binary has one of this name.
pub(crate) const CHILD: &str = "child_process_entry";

/// Whatever somebody else has to come to does so long before, also on a machine that stands still for a while.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// How long those stay who are sent away before.
pub(crate) const LONG_MS: u64 = 1_800_000;

/// To be called by the test named [`CHILD`].
pub(crate) fn be_a_child() {
    run_if_child().expect("the workload runs");
}

/// A folder with a database in it.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) folder: TempDir,
    pub(crate) config: SqliteConfig,
}

impl Lab {
    /// A database of this shape.
    pub(crate) fn new(shape: &Shape) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.db");
        create(&path, shape).expect("a database");
        let mut config = SqliteConfig::new(path);
        config.scan_every = Duration::ZERO;
        Self { folder, config }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.config.path
    }

    pub(crate) fn engine(&self) -> SqliteEngine {
        SqliteEngine::new(self.config.clone(), SystemClock::shared())
    }

    pub(crate) fn rig(&self) -> Rig {
        Rig::new(
            Box::new(self.engine()) as Box<dyn Engine>,
            self.folder.path().join("state"),
        )
    }

    /// Why the database can't be opened.
    pub(crate) fn engine_error(&self) -> tidemark_engine::Error {
        let request = OpenRequest {
            folder: self.folder.path().join("refused"),
            records: &mut std::iter::empty(),
            candidate: Incarnation([1; 16]),
            wake: Wake::nobody(),
        };
        self.engine().open(request).expect_err("it is refused")
    }

    /// A rig with a first base.
    pub(crate) fn protected(&self) -> Rig {
        let mut rig = self.rig();
        rig.open();
        rig.base(true);
        rig
    }

    /// A job on this database.
    pub(crate) fn job(&self, seed: u64) -> Job {
        Job {
            path: self.path().to_path_buf(),
            seed,
            ..Job::default()
        }
    }

    /// Does `job` in another process, and waits for its end.
    pub(crate) fn run(&self, job: &Job) {
        self.start(job).wait().expect("the job is done");
    }

    /// Starts `job` in another process.
    pub(crate) fn start(&self, job: &Job) -> Child {
        Child::of_this_test_binary(CHILD, job).expect("a child")
    }

    /// Commits `transactions` transactions.
    pub(crate) fn change(&self, seed: u64, transactions: u64) {
        self.run(&Job {
            transactions: Some(transactions),
            ..self.job(seed)
        });
    }

    /// Starts `job`, and waits until it has the database open, and its read transaction if it is to hold one.
    pub(crate) fn start_ready(&self, job: Job) -> Child {
        let ready = self.folder.path().join(format!("ready-{}", job.seed));
        drop(std::fs::remove_file(&ready));
        let child = self.start(&Job {
            ready: Some(ready.clone()),
            transactions: Some(0),
            ..job
        });
        eventually("the other process is ready", || ready.exists());
        child
    }

    /// Another process that reads, and goes on with that read transaction until it is killed.
    pub(crate) fn reader(&self) -> Child {
        self.start_ready(Job {
            hold_read_ms: Some(LONG_MS),
            ..self.job(9)
        })
    }

    /// Another process that keeps the database open and does nothing.
    pub(crate) fn somebody(&self) -> Child {
        self.start_ready(Job {
            // What opens it, with its log.
            sql: Some("SELECT count(*) FROM ledger".to_owned()),
            idle_ms: Some(LONG_MS),
            ..self.job(99)
        })
    }

    /// A restore target called `name`.
    pub(crate) fn target(&self, name: &str) -> (Box<dyn Materialise>, PathBuf) {
        let path = self.folder.path().join(name);
        for suffix in ["", "-wal", "-shm"] {
            drop(std::fs::remove_file(beside(&path, suffix)));
        }
        let target = SqliteTarget::open(&path, &self.folder.path().join("restored.db"));
        (Box::new(target.expect("a target")), path)
    }

    /// Restores to `seq`; SQLite itself must find nothing wrong with it.
    pub(crate) fn restore(&self, rig: &Rig, seq: LogSeq) -> PathBuf {
        let (target, path) = self.target("restored.partial");
        let proof = rig.restore(seq, target).expect("the restore succeeds");
        assert_eq!(proof.result, ProofResult::Equal, "{seq} is proved");
        check(&path).expect("integrity_check passes");
        path
    }

    /// Ends the capture, and compares the last restorable state with the source, byte by byte.
    pub(crate) fn assert_restores_byte_equal(&self, mut rig: Rig) {
        let last = *rig.restorable().last().expect("something is restorable");
        let restored = self.restore(&rig, last);
        rig.crash();
        assert_same(
            &self.image(),
            &std::fs::read(restored).expect("the restored file"),
        );
    }

    /// Whether the log was put into the file after it was written last.
    pub(crate) fn is_settled(&self) -> bool {
        let modified = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified());
        let (log, file) = (
            modified(&beside(self.path(), "-wal")),
            modified(self.path()),
        );
        log.expect("a log") <= file.expect("a database")
    }

    /// The database's bytes, its log put into it. No capture may be open.
    pub(crate) fn image(&self) -> Vec<u8> {
        let app = Connection::open(self.path()).expect("the source opens");
        app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .expect("a checkpoint");
        drop(app);
        std::fs::read(self.path()).expect("the source's bytes")
    }
}

/// Compares two databases; names the first page that differs.
pub(crate) fn assert_same(source: &[u8], restored: &[u8]) {
    assert_eq!(source.len(), restored.len(), "sizes differ");
    let differs = source
        .chunks(512)
        .zip(restored.chunks(512))
        .position(|(one, other)| one != other);
    assert_eq!(differs, None, "the first 512-byte block that differs");
}

/// Polls until `done`, at the pace the engine asks for.
pub(crate) fn poll_until(rig: &mut Rig, what: &str, mut done: impl FnMut(&mut Rig) -> bool) {
    let deadline = now().after(PATIENCE);
    loop {
        let poll = rig.poll();
        if done(rig) {
            return;
        }
        assert!(now() < deadline, "never came true: {what}");
        std::thread::sleep(poll.next.min(Duration::from_millis(20)));
    }
}

/// Polls at the engine's pace and cuts every `cut_every`, as the agent does, while `children` run.
pub(crate) fn capture_while(rig: &mut Rig, cut_every: Duration, children: &mut [Child]) {
    let mut last_cut = now();
    while children.iter_mut().any(Child::is_running) {
        let poll = rig.poll();
        if poll.cut_now || now().since(last_cut) >= cut_every {
            last_cut = now();
            while rig
                .cut_once()
                .is_some_and(|seq| rig.log.get(&seq).is_some_and(|cut| !cut.restorable))
            {
            }
        }
        std::thread::sleep(poll.next);
    }
    rig.cut();
}

/// Time for deadlines.
pub(crate) fn now() -> Monotonic {
    SystemClock.monotonic()
}

/// Waits until `done`.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = now().after(PATIENCE);
    while !done() {
        assert!(now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether `program` is there, which Debian has in a package of the same name. Without it a test is
/// skipped, unless `TIDEMARK_REQUIRE_SERVERS` is set.
pub(crate) fn available(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    found || skip(&format!("{program} is missing: apt-get install {program}"))
}

/// Whether strace is there and may trace.
pub(crate) fn may_trace() -> bool {
    if !available("strace") {
        return false;
    }
    let tried = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "true"])
        .output();
    let refused = match tried {
        Ok(tried) if tried.status.success() => return true,
        Ok(tried) => String::from_utf8_lossy(&tried.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    skip(&format!(
        "strace may not trace here, a container needs the right to (CAP_SYS_PTRACE): {refused}"
    ))
}

/// Says that a test is skipped; fails where nothing may be.
#[expect(clippy::print_stderr, reason = "a skipped test is loud")]
pub(crate) fn skip(why: &str) -> bool {
    let required = std::env::var_os("TIDEMARK_REQUIRE_SERVERS").is_some_and(|value| value == "1");
    assert!(!required, "{why}, and TIDEMARK_REQUIRE_SERVERS=1 is set");
    eprintln!("SKIPPED: {why}");
    false
}
