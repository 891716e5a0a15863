//! An application whose every state is known: transaction `n` does the same on every machine, so the
//! database after the first `k` transactions can be told from `k` alone.
//!
//! The journal of what was committed when is kept outside the database, in the test's memory: it
//! survives whatever happens to agent and database.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, params};
use tidemark_testkit::sqlite::Dice;

use crate::process::{now, pass};

const ACCOUNTS: i64 = 64;
/// Every so many transactions one is large: more pages than a cache of a few holds.
const LARGE_EVERY: i64 = 60;
const LARGE_ROWS: i64 = 200;
const BUSY: Duration = Duration::from_secs(20);

/// Makes the database, empty.
pub(crate) fn create(path: &Path) {
    create_with(path, 4096, "wal");
}

/// Makes the database with this page size and journal mode.
pub(crate) fn create_with(path: &Path, page_size: u32, journal_mode: &str) {
    let app = Connection::open(path).expect("a database is made");
    app.execute_batch(&format!(
        "PRAGMA page_size={page_size}; PRAGMA journal_mode={journal_mode};
         CREATE TABLE ledger(n INTEGER PRIMARY KEY);
         CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, last INTEGER NOT NULL);
         CREATE TABLE entry(n INTEGER PRIMARY KEY, body BLOB NOT NULL);
         CREATE TABLE bulk(n INTEGER, i INTEGER, body BLOB NOT NULL, PRIMARY KEY(n, i));
         WITH RECURSIVE ids(id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM ids WHERE id < {ACCOUNTS} - 1)
         INSERT INTO account SELECT id, 0, 0 FROM ids;"
    ))
    .expect("tables are made");
}

/// A transaction that came back as committed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Commit {
    /// Its number, from 1 without gaps.
    pub(crate) n: i64,
    /// Just before it began.
    pub(crate) began: Timestamp,
    /// Just after the commit returned.
    pub(crate) done: Timestamp,
}

/// How an application behaves.
#[derive(Debug, Clone)]
pub(crate) struct Habits {
    /// Transactions per second at most.
    pub(crate) per_second: u64,
    /// Runs checkpoints of all kinds at moments that this seed decides.
    pub(crate) checkpoints: Option<u64>,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            per_second: 100,
            checkpoints: None,
        }
    }
}

/// A running application.
#[derive(Debug)]
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    journal: Arc<Mutex<Vec<Commit>>>,
    checkpoints: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Writer {
    /// Begins to write.
    pub(crate) fn start(path: &Path, habits: &Habits) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let journal = Arc::new(Mutex::new(Vec::new()));
        let checkpoints = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        {
            let (stop, journal) = (Arc::clone(&stop), Arc::clone(&journal));
            let (mut app, every) = (
                open(path),
                Duration::from_secs(1) / as_u32(habits.per_second),
            );
            threads.push(std::thread::spawn(move || {
                let mut n = last(&app);
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let commit = transact(&mut app, n);
                    journal
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(commit);
                    pass(every);
                }
            }));
        }
        if let Some(seed) = habits.checkpoints {
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&checkpoints));
            let app = open(path);
            threads.push(std::thread::spawn(move || {
                let mut dice = Dice::new(seed);
                while !stop.load(Ordering::Relaxed) {
                    let kinds = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"];
                    let kind = kinds[usize::try_from(dice.below(4)).unwrap_or(0)];
                    let sql = format!("PRAGMA wal_checkpoint({kind})");
                    app.query_row(&sql, [], |_| Ok(()))
                        .expect("a checkpoint runs");
                    count.fetch_add(1, Ordering::Relaxed);
                    pass(Duration::from_millis(20 + dice.below(200)));
                }
            }));
        }
        Self {
            stop,
            journal,
            checkpoints,
            threads,
        }
    }

    /// Everything committed so far.
    pub(crate) fn journal(&self) -> Vec<Commit> {
        self.journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many checkpoints it ran.
    pub(crate) fn checkpoints(&self) -> u64 {
        self.checkpoints.load(Ordering::Relaxed)
    }

    /// Stops writing and closes the database; everything that was committed.
    pub(crate) fn stop(mut self) -> Vec<Commit> {
        self.halt();
        self.journal()
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the application works");
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.halt();
    }
}

fn as_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX).max(1)
}

/// The application's connection.
pub(crate) fn open(path: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let app = Connection::open_with_flags(path, flags).expect("the database opens");
    app.busy_timeout(BUSY).expect("a timeout is set");
    app.execute_batch("PRAGMA synchronous=NORMAL")
        .expect("a setting");
    app
}

/// The last transaction that a database holds.
pub(crate) fn last(app: &Connection) -> i64 {
    app.query_row("SELECT coalesce(max(n), 0) FROM ledger", [], |row| {
        row.get(0)
    })
    .expect("a ledger")
}

/// Commits the next `count` transactions.
pub(crate) fn write(path: &Path, count: i64) -> Vec<Commit> {
    let mut app = open(path);
    let from = last(&app);
    (from + 1..=from + count)
        .map(|n| transact(&mut app, n))
        .collect()
}

/// Transaction `n`.
pub(crate) fn transact(app: &mut Connection, n: i64) -> Commit {
    let began = now();
    let change = app
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .expect("a transaction begins");
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        change
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(values))
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    };
    let (account, amount) = payment(n);
    run("INSERT INTO ledger VALUES(?1)", params![n]);
    run(
        "UPDATE account SET balance=balance+?1, last=?2 WHERE id=?3",
        params![amount, n, account],
    );
    run("INSERT INTO entry VALUES(?1, ?2)", params![n, body(n, 0)]);
    if n % 4 == 0 {
        run("DELETE FROM entry WHERE n=?1", params![n - 3]);
    }
    if n % LARGE_EVERY == 0 {
        for i in 0..LARGE_ROWS {
            run(
                "INSERT INTO bulk VALUES(?1, ?2, ?3)",
                params![n, i, body(n, i + 1)],
            );
        }
        run("DELETE FROM bulk WHERE n=?1", params![n - 2 * LARGE_EVERY]);
    }
    change.commit().expect("a commit");
    Commit {
        n,
        began,
        done: now(),
    }
}

fn dice(n: i64, salt: i64) -> Dice {
    let seed = n
        .unsigned_abs()
        .wrapping_mul(1_000_003)
        .wrapping_add(salt.unsigned_abs());
    Dice::new(seed)
}

fn payment(n: i64) -> (i64, i64) {
    let mut dice = dice(n, 1_000);
    let account = i64::try_from(dice.below(ACCOUNTS.unsigned_abs())).unwrap_or(0);
    (account, i64::try_from(dice.below(100)).unwrap_or(0) - 50)
}

fn body(n: i64, salt: i64) -> Vec<u8> {
    let mut dice = dice(n, salt);
    let length = 50 + usize::try_from(dice.below(600)).unwrap_or(0);
    dice.blob(length)
}

/// Reads a database that nobody writes to without leaving anything beside it, checks that it is
/// whole and exactly the state after some number of transactions; that number.
#[track_caller]
pub(crate) fn assert_committed_prefix(path: &Path) -> i64 {
    let url = format!("file:{}?immutable=1", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let app = Connection::open_with_flags(url, flags).expect("the database opens");
    let check: String = app
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("a check");
    assert_eq!(check, "ok", "{}", path.display());
    let k = last(&app);
    let numbers: Vec<i64> = column(&app, "SELECT n FROM ledger ORDER BY n");
    assert_eq!(
        numbers,
        (1..=k).collect::<Vec<_>>(),
        "transactions without a gap"
    );
    assert_eq!(
        accounts(&app),
        accounts_after(k),
        "balances after {k} transactions"
    );
    let entries: Vec<i64> = column(&app, "SELECT n FROM entry ORDER BY n");
    let gone = |n: i64| (n + 3) % 4 == 0 && n + 3 <= k;
    assert_eq!(
        entries,
        (1..=k).filter(|n| !gone(*n)).collect::<Vec<_>>(),
        "entries after {k}"
    );
    each(&app, "SELECT n, 0, body FROM entry", 0);
    let bulk: Vec<i64> = column(&app, "SELECT DISTINCT n FROM bulk ORDER BY n");
    let newest = k - k % LARGE_EVERY;
    let expected: Vec<i64> = [newest - LARGE_EVERY, newest]
        .into_iter()
        .filter(|n| *n > 0)
        .collect();
    assert_eq!(bulk, expected, "large transactions after {k}");
    let rows: i64 = app
        .query_row("SELECT count(*) FROM bulk", [], |row| row.get(0))
        .expect("a count");
    assert_eq!(
        rows,
        LARGE_ROWS * i64::try_from(expected.len()).unwrap_or(0)
    );
    each(&app, "SELECT n, i, body FROM bulk", 1);
    k
}

fn column(app: &Connection, sql: &str) -> Vec<i64> {
    let mut rows = app.prepare(sql).expect("a query");
    let rows = rows.query_map([], |row| row.get(0)).expect("rows");
    rows.collect::<Result<_, _>>().expect("numbers")
}

fn accounts(app: &Connection) -> Vec<(i64, i64)> {
    let mut rows = app
        .prepare("SELECT balance, last FROM account ORDER BY id")
        .expect("a query");
    let rows = rows
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("rows");
    rows.collect::<Result<_, _>>().expect("accounts")
}

fn accounts_after(k: i64) -> Vec<(i64, i64)> {
    let mut accounts = vec![(0, 0); usize::try_from(ACCOUNTS).unwrap_or(0)];
    for n in 1..=k {
        let (account, amount) = payment(n);
        let entry = &mut accounts[usize::try_from(account).unwrap_or(0)];
        *entry = (entry.0 + amount, n);
    }
    accounts
}

fn each(app: &Connection, sql: &str, salt: i64) {
    let mut rows = app.prepare(sql).expect("a query");
    let mut rows = rows.query([]).expect("rows");
    while let Some(row) = rows.next().expect("a row") {
        let (n, i): (i64, i64) = (row.get(0).expect("n"), row.get(1).expect("i"));
        let found: Vec<u8> = row.get(2).expect("a body");
        assert_eq!(found, body(n, i + salt), "{sql}: {n}, {i}");
    }
}

/// The last transaction of the journal that was finished by `at`; 0 if none.
pub(crate) fn finished_by(journal: &[Commit], at: Timestamp) -> i64 {
    journal
        .iter()
        .filter(|commit| commit.done <= at)
        .map(|commit| commit.n)
        .max()
        .unwrap_or(0)
}

/// The last transaction of the journal that had begun by `at`; 0 if none.
pub(crate) fn begun_by(journal: &[Commit], at: Timestamp) -> i64 {
    journal
        .iter()
        .filter(|commit| commit.began <= at)
        .map(|commit| commit.n)
        .max()
        .unwrap_or(0)
}

/// Brings everything that stands in the WAL into the database's file. Nobody else may have it open.
pub(crate) fn checkpoint(path: &Path) {
    let app = open(path);
    let busy: i64 = app
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .expect("a checkpoint");
    assert_eq!(busy, 0, "somebody still reads {}", path.display());
}

/// Page for page the same. Nobody may have either open: reading a database's file by hand drops the
/// locks of this whole process on it.
#[track_caller]
pub(crate) fn assert_same_pages(source: &Path, restored: &Path) {
    checkpoint(source);
    let read =
        |path: &Path| std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (source_bytes, bytes) = (read(source), read(restored));
    assert_eq!(
        source_bytes.len(),
        bytes.len(),
        "sizes of {} and {}",
        source.display(),
        restored.display()
    );
    let size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
        1 => 65_536,
        size => usize::from(size),
    };
    let different = source_bytes
        .chunks(size)
        .zip(bytes.chunks(size))
        .position(|(a, b)| a != b);
    assert_eq!(
        different,
        None,
        "a page (from 0) differs between {} and {}",
        source.display(),
        restored.display()
    );
}
