//! Load for SQLite databases: writers, checkpointers and vacuumers, in this process or in a child.
//!
//! Data is half random blobs, half text, so that compression is neither hopeless nor a gift. Every
//! transaction also enters `(writer, n)` into `ledger`, n without gaps, so that a restored database
//! shows whether it is a committed prefix. The same seed makes the same rows.
//!
//! A child is either the `workload` binary of this crate or the running test binary itself: a test
//! named in [`Child::of_this_test_binary`] calls [`run_if_child`] and is that child when it is told to.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use serde::{Deserialize, Serialize};

/// Between two looks at a gate.
const LOOK: Duration = Duration::from_millis(1);
/// How the test binary is told that it is a child.
const JOB_VARIABLE: &str = "TIDEMARK_WORKLOAD_JOB";
const WORDS: [&str; 32] = [
    "tide", "mark", "harbour", "ledger", "signal", "anchor", "current", "the", "of", "and", "to",
    "in", "is", "it", "for", "on", "with", "as", "was", "at", "by", "be", "restore", "commit",
    "page", "order", "customer", "invoice", "payment", "address", "street", "number",
];

/// A small deterministic generator (splitmix64): load must repeat, not be unguessable.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// A generator from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }

    /// `bytes` random bytes.
    pub fn blob(&mut self, bytes: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes + 8);
        while out.len() < bytes {
            out.extend_from_slice(&self.roll().to_le_bytes());
        }
        out.truncate(bytes);
        out
    }

    /// About `bytes` bytes of words.
    pub fn text(&mut self, bytes: usize) -> String {
        let mut out = String::with_capacity(bytes + 16);
        while out.len() < bytes {
            let word = usize::try_from(self.below(32)).unwrap_or(0);
            out.push_str(WORDS.get(word).copied().unwrap_or("tide"));
            out.push(' ');
        }
        out
    }
}

/// How a database begins.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Bytes per page.
    pub page_size: u32,
    /// `wal`, `delete`, `truncate`, `persist`.
    pub journal_mode: &'static str,
    /// 0 none, 1 full, 2 incremental.
    pub auto_vacuum: u32,
    /// About how much data to begin with.
    pub bytes: u64,
    /// Seed of that data.
    pub seed: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            page_size: 4096,
            journal_mode: "wal",
            auto_vacuum: 0,
            bytes: 0,
            seed: 1,
        }
    }
}

/// Makes the database at `path`.
///
/// # Errors
/// The library's.
pub fn create(path: &Path, shape: &Shape) -> rusqlite::Result<()> {
    let mut app = Connection::open(path)?;
    app.execute_batch(&format!(
        "PRAGMA page_size={}; PRAGMA auto_vacuum={}; PRAGMA journal_mode={}; PRAGMA synchronous=NORMAL;
         CREATE TABLE ledger(writer INTEGER, n INTEGER, PRIMARY KEY(writer, n)) WITHOUT ROWID;
         CREATE TABLE data(id INTEGER PRIMARY KEY, kind TEXT, body BLOB);
         CREATE INDEX data_kind ON data(kind, id);",
        shape.page_size, shape.auto_vacuum, shape.journal_mode
    ))?;
    let mut dice = Dice::new(shape.seed);
    let mut written = 0;
    while written < shape.bytes {
        let batch = app.transaction()?;
        for _ in 0..2000 {
            written += insert(&batch, &mut dice, 1000)?;
            if written >= shape.bytes {
                break;
            }
        }
        batch.commit()?;
    }
    Ok(())
}

fn insert(app: &Connection, dice: &mut Dice, bytes: usize) -> rusqlite::Result<u64> {
    if dice.below(2) == 0 {
        app.prepare_cached("INSERT INTO data(kind, body) VALUES('blob', ?1)")?
            .execute(params![dice.blob(bytes)])?;
    } else {
        app.prepare_cached("INSERT INTO data(kind, body) VALUES('text', ?1)")?
            .execute(params![dice.text(bytes)])?;
    }
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// What a process does to a database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Job {
    /// The database.
    pub path: PathBuf,
    /// Also the writer's number in `ledger`.
    pub seed: u64,
    /// Ends after this many transactions.
    pub transactions: Option<u64>,
    /// Ends after this many milliseconds.
    pub for_ms: Option<u64>,
    /// Ends when this file exists.
    pub stop: Option<PathBuf>,
    /// Transactions per second; as fast as it goes without.
    pub rate: Option<f64>,
    /// Rows changed by a transaction.
    pub rows: u32,
    /// Bytes of a new row.
    pub row_bytes: usize,
    /// Only inserts; otherwise also random updates and deletes.
    pub append_only: bool,
    /// Runs this checkpoint (`PASSIVE`, `FULL`, `RESTART`, `TRUNCATE`) …
    pub checkpoint: Option<String>,
    /// … every this many milliseconds.
    pub checkpoint_every_ms: u64,
    /// Runs VACUUM every this many milliseconds.
    pub vacuum_every_ms: Option<u64>,
    /// `PRAGMA wal_autocheckpoint`; SQLite's default without.
    pub auto_checkpoint: Option<u32>,
    /// `PRAGMA busy_timeout` in milliseconds.
    pub busy_ms: u64,
    /// SQL to run first.
    pub sql: Option<String>,
    /// Reads first, and keeps that read transaction open for this long.
    pub hold_read_ms: Option<u64>,
    /// Keeps the database open for this long, before the first transaction, and does nothing.
    pub idle_ms: Option<u64>,
    /// A file that is made once the SQL has run and what is to be kept open is open.
    pub ready: Option<PathBuf>,
    /// No more transactions than this file has bytes: it waits for more. Each that was made adds a byte to a
    /// file of this name that ends with `.made`. So nobody gets ahead of whoever watches, however slow.
    pub gate: Option<PathBuf>,
    /// Its end with an error is part of the test: nothing is printed of it.
    pub may_fail: bool,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            seed: 1,
            transactions: None,
            for_ms: None,
            stop: None,
            rate: None,
            rows: 3,
            row_bytes: 400,
            append_only: false,
            checkpoint: None,
            checkpoint_every_ms: 100,
            vacuum_every_ms: None,
            auto_checkpoint: None,
            busy_ms: 10_000,
            sql: None,
            hold_read_ms: None,
            idle_ms: None,
            ready: None,
            gate: None,
            may_fail: false,
        }
    }
}

impl Job {
    /// The variable, and its value, by which a process knows that it is to do this job.
    ///
    /// # Panics
    /// Never: a job is plain data.
    #[must_use]
    pub fn for_a_child(&self) -> (&'static str, String) {
        let text = serde_json::to_string(self).expect("a job is plain data");
        (JOB_VARIABLE, text)
    }
}

/// What a job did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Transactions committed.
    pub transactions: u64,
    /// Checkpoints run.
    pub checkpoints: u64,
    /// Times somebody else's lock was longer than the busy timeout.
    pub busy: u64,
    /// Commit latency, microseconds: median, 99 of 100, the longest.
    pub commit_us: [u64; 3],
    /// The longest checkpoint, microseconds.
    pub checkpoint_max_us: u64,
}

fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

fn micros(since: Duration) -> u64 {
    u64::try_from(now().saturating_sub(since).as_micros()).unwrap_or(u64::MAX)
}

/// Does `job` in this process.
///
/// # Errors
/// The library's, but for locks that others held too long: those are counted.
pub fn run(job: &Job) -> rusqlite::Result<Summary> {
    let mut app = begin(job)?;
    let writer = i64::try_from(job.seed).unwrap_or(1);
    let mut n: i64 = app.query_row(
        "SELECT coalesce(max(n), 0) FROM ledger WHERE writer=?1",
        [writer],
        |row| row.get(0),
    )?;
    let mut dice = Dice::new(job.seed);
    let mut summary = Summary::default();
    let mut latencies = Vec::new();
    let begun = now();
    let (mut checkpointed, mut vacuumed) = (begun, begun);
    while !is_done(job, begun, summary.transactions) {
        if !may_go_on(job, summary.transactions) {
            std::thread::sleep(LOOK);
            continue;
        }
        if job.checkpoint.is_some() && is_due(job.checkpoint_every_ms, &mut checkpointed) {
            checkpoint(&app, job, &mut summary)?;
        }
        if job
            .vacuum_every_ms
            .is_some_and(|ms| is_due(ms, &mut vacuumed))
        {
            tolerate(app.execute_batch("VACUUM"), &mut summary)?;
        }
        let since = now();
        if tolerate(
            transaction(&mut app, job, writer, n + 1, &mut dice),
            &mut summary,
        )? {
            n += 1;
            summary.transactions += 1;
            latencies.push(micros(since));
            tell_made(job);
        }
        pace(job, begun, summary.transactions);
    }
    latencies.sort_unstable();
    let last = latencies.len().saturating_sub(1);
    let at = |part: usize| latencies.get(last * part / 100).copied().unwrap_or(0);
    summary.commit_us = [at(50), at(99), at(100)];
    Ok(summary)
}

fn begin(job: &Job) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let app = Connection::open_with_flags(&job.path, flags)?;
    app.busy_timeout(Duration::from_millis(job.busy_ms))?;
    app.execute_batch("PRAGMA synchronous=NORMAL")?;
    if let Some(pages) = job.auto_checkpoint {
        app.query_row(
            &format!("PRAGMA wal_autocheckpoint={pages}"),
            [],
            |_| Ok(()),
        )?;
    }
    if let Some(sql) = &job.sql {
        app.execute_batch(sql)?;
    }
    if let Some(ms) = job.hold_read_ms {
        app.execute_batch("BEGIN")?;
        app.query_row("SELECT count(*) FROM ledger", [], |_| Ok(()))?;
        tell_ready(job);
        std::thread::sleep(Duration::from_millis(ms));
        app.execute_batch("COMMIT")?;
    }
    tell_ready(job);
    if let Some(ms) = job.idle_ms {
        std::thread::sleep(Duration::from_millis(ms));
    }
    Ok(app)
}

fn tell_ready(job: &Job) {
    if let Some(ready) = &job.ready {
        std::fs::write(ready, "").expect("the test's folder can be written");
    }
}

/// Whether its gate, if it has one, lets through one more than so many.
fn may_go_on(job: &Job, transactions: u64) -> bool {
    job.gate
        .as_ref()
        .is_none_or(|gate| bytes_of(gate) > transactions)
}

fn tell_made(job: &Job) {
    if let Some(gate) = &job.gate {
        add_bytes(&made(gate), 1);
    }
}

/// Where the transactions made through a gate are counted.
fn made(gate: &Path) -> PathBuf {
    gate.with_added_extension("made")
}

fn bytes_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len())
}

fn add_bytes(path: &Path, count: usize) {
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path);
    let written =
        file.and_then(|mut file| std::io::Write::write_all(&mut file, &vec![b'.'; count]));
    written.expect("the test's folder can be written");
}

/// Lets `count` more transactions through [`Job::gate`], if those that were let through before are made.
///
/// # Panics
/// If its folder can't be written.
pub fn let_through(gate: &Path, count: usize) {
    if bytes_of(&made(gate)) >= bytes_of(gate) {
        add_bytes(gate, count);
    }
}

fn is_done(job: &Job, begun: Duration, transactions: u64) -> bool {
    let elapsed = now().saturating_sub(begun);
    job.transactions.is_some_and(|all| transactions >= all)
        || job
            .for_ms
            .is_some_and(|ms| elapsed >= Duration::from_millis(ms))
        || job.stop.as_ref().is_some_and(|stop| stop.exists())
}

fn is_due(every_ms: u64, last: &mut Duration) -> bool {
    let due = now().saturating_sub(*last) >= Duration::from_millis(every_ms);
    *last = if due { now() } else { *last };
    due
}

fn checkpoint(app: &Connection, job: &Job, summary: &mut Summary) -> rusqlite::Result<()> {
    let Some(mode) = job.checkpoint.as_deref() else {
        return Ok(());
    };
    let since = now();
    let done = app.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
    tolerate(done, summary)?;
    summary.checkpoints += 1;
    summary.checkpoint_max_us = summary.checkpoint_max_us.max(micros(since));
    Ok(())
}

fn pace(job: &Job, begun: Duration, transactions: u64) {
    let Some(rate) = job.rate else { return };
    let done = f64::from(u32::try_from(transactions).unwrap_or(u32::MAX));
    let due = begun + Duration::from_secs_f64(done / rate);
    let ahead = due.saturating_sub(now());
    if !ahead.is_zero() {
        std::thread::sleep(ahead);
    }
}

/// `false` if somebody else's lock was in the way.
fn tolerate(done: rusqlite::Result<()>, summary: &mut Summary) -> rusqlite::Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            ) =>
        {
            summary.busy += 1;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn transaction(
    app: &mut Connection,
    job: &Job,
    writer: i64,
    n: i64,
    dice: &mut Dice,
) -> rusqlite::Result<()> {
    let change = app.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for _ in 0..job.rows {
        let rows: i64 = change
            .prepare_cached("SELECT coalesce(max(id), 0) FROM data")?
            .query_row([], |row| row.get(0))?;
        let some = i64::try_from(dice.below(u64::try_from(rows).unwrap_or(0))).unwrap_or(0) + 1;
        match if job.append_only { 0 } else { dice.below(4) } {
            0 | 1 => {
                insert(&change, dice, job.row_bytes)?;
            }
            2 => {
                let body = dice.blob(job.row_bytes);
                change
                    .prepare_cached("UPDATE data SET body=?1 WHERE id=?2")?
                    .execute(params![body, some])?;
            }
            _ => {
                change
                    .prepare_cached("DELETE FROM data WHERE id=?1")?
                    .execute([some])?;
            }
        }
    }
    change
        .prepare_cached("INSERT INTO ledger VALUES(?1, ?2)")?
        .execute([writer, n])?;
    change.commit()
}

/// For each writer how many transactions the database holds; an error if a number is missing.
///
/// # Errors
/// What is wrong, for people.
pub fn committed(path: &Path) -> anyhow::Result<Vec<(i64, i64)>> {
    let app = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut rows = app.prepare(
        "SELECT writer, count(*), min(n), max(n) FROM ledger GROUP BY writer ORDER BY writer",
    )?;
    let rows = rows.query_map([], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    })?;
    let mut found = Vec::new();
    for row in rows {
        let (writer, count, first, last): (i64, i64, i64, i64) = row?;
        anyhow::ensure!(
            first == 1 && last == count,
            "writer {writer}: {count} transactions, {first} to {last}"
        );
        found.push((writer, count));
    }
    Ok(found)
}

/// A job in a process of its own; killed when dropped.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
}

impl Child {
    /// Runs `job` in this test binary, which has a test `name` that calls [`run_if_child`].
    ///
    /// # Errors
    /// The system's.
    pub fn of_this_test_binary(name: &str, job: &Job) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
        Self::spawn(command, job)
    }

    /// Runs `job` in the `workload` binary at `binary`.
    ///
    /// # Errors
    /// The system's.
    pub fn of_binary(binary: &Path, job: &Job) -> anyhow::Result<Self> {
        Self::spawn(Command::new(binary), job)
    }

    fn spawn(mut command: Command, job: &Job) -> anyhow::Result<Self> {
        let stderr = if job.may_fail {
            Stdio::null()
        } else {
            Stdio::inherit()
        };
        let (variable, job) = job.for_a_child();
        let process = command
            .env(variable, job)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()?;
        Ok(Self { process })
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }

    /// Waits for its end, and reads what it did.
    ///
    /// # Errors
    /// It failed, or said nothing.
    pub fn wait(mut self) -> anyhow::Result<Summary> {
        let mut text = String::new();
        if let Some(mut out) = self.process.stdout.take() {
            std::io::Read::read_to_string(&mut out, &mut text)?;
        }
        let status = self.process.wait()?;
        anyhow::ensure!(status.success(), "the workload failed: {status}\n{text}");
        let line = text
            .lines()
            .find_map(|line| line.split_once("SUMMARY ").map(|(_, json)| json));
        Ok(serde_json::from_str(line.unwrap_or_default())?)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// If this process was started as a [`Child`], does its job and says what it did.
///
/// # Errors
/// The job's.
pub fn run_if_child() -> anyhow::Result<bool> {
    let Ok(job) = std::env::var(JOB_VARIABLE) else {
        return Ok(false);
    };
    let summary = run(&serde_json::from_str(&job)?)?;
    let line = format!("\nSUMMARY {}\n", serde_json::to_string(&summary)?);
    std::io::Write::write_all(&mut std::io::stdout().lock(), line.as_bytes())?;
    Ok(true)
}
