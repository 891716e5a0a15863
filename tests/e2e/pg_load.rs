//! Applications of a PostgreSQL server: a session that stays open, one that commits rows and keeps a
//! journal of them, and one that watches what the server was told as flushed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use tidemark_format::postgres::Lsn;
use tidemark_testkit::postgres::Cluster;

use crate::pg_site::SLOT;
use crate::process::{now, pass};

/// Between two commits, and between two looks.
const COMMIT_EVERY: Duration = Duration::from_millis(4);
const LOOK_EVERY: Duration = Duration::from_millis(4);

/// An open session: one statement, one row.
#[derive(Debug)]
pub(crate) struct Session {
    psql: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Session {
    /// Opens one.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let mut command = cluster.command("psql");
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
        command.args(["--set", "ON_ERROR_STOP=1", "--file=-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut psql = command.stderr(Stdio::null()).spawn().expect("psql runs");
        let input = psql.stdin.take().expect("its input");
        let output = BufReader::new(psql.stdout.take().expect("its output"));
        Self {
            psql,
            input,
            output,
        }
    }

    /// The only row of a statement; `None` once the server is gone.
    pub(crate) fn ask(&mut self, sql: &str) -> Option<String> {
        writeln!(self.input, "{sql};").ok()?;
        self.input.flush().ok()?;
        let mut line = String::new();
        let read = self.output.read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.psql.kill());
        drop(self.psql.wait());
    }
}

/// A commit that the server answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// Its number, from 1 on without gaps.
    pub(crate) id: u64,
    /// When the answer was there.
    pub(crate) done: Timestamp,
}

/// Commits rows to the table `load`, one after another, until the server is gone or it is stopped.
#[derive(Debug)]
pub(crate) struct Rows {
    stop: Arc<AtomicBool>,
    journal: Arc<Mutex<Vec<Row>>>,
    thread: Option<JoinHandle<()>>,
}

impl Rows {
    /// Begins to commit, with the row that `id` names.
    pub(crate) fn start(cluster: &Cluster, first: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let journal = Arc::new(Mutex::new(Vec::new()));
        let (stopped, kept) = (Arc::clone(&stop), Arc::clone(&journal));
        let mut session = Session::of(cluster);
        let thread = std::thread::spawn(move || {
            let mut id = first;
            while !stopped.load(Ordering::Relaxed) {
                let sql = format!(
                    "INSERT INTO load (id, text) VALUES ({id}, repeat(md5('{id}'), 20)) RETURNING id"
                );
                if session.ask(&sql) != Some(id.to_string()) {
                    return;
                }
                let row = Row { id, done: now() };
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(row);
                id += 1;
                pass(COMMIT_EVERY);
            }
        });
        Self {
            stop,
            journal,
            thread: Some(thread),
        }
    }

    /// What was answered so far.
    pub(crate) fn journal(&self) -> Vec<Row> {
        self.journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The newest row that was answered; 0 before the first.
    pub(crate) fn last(&self) -> u64 {
        self.journal().last().map_or(0, |row| row.id)
    }

    /// Ends it; the journal.
    pub(crate) fn stop(mut self) -> Vec<Row> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it ends");
        }
        self.journal()
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The newest of `journal` that was answered by `at`; 0 if none was.
pub(crate) fn answered_by(journal: &[Row], at: Timestamp) -> u64 {
    let before = journal.iter().take_while(|row| row.done <= at);
    before.last().map_or(0, |row| row.id)
}

/// The rows in a restored server: from the first on without a gap, each with its content; the last.
#[track_caller]
pub(crate) fn assert_rows_without_gap(cluster: &Cluster) -> u64 {
    let told = cluster.query(
        "SELECT count(*), coalesce(max(id), 0),
            count(*) FILTER (WHERE text = repeat(md5(id::text), 20)) FROM load",
    );
    let numbers: Vec<u64> = told
        .split('|')
        .map(|part| part.parse().expect("a number"))
        .collect();
    assert!(
        numbers[0] == numbers[1] && numbers[0] == numbers[2],
        "rows, the last of them, whole ones: {told}"
    );
    numbers[1]
}

/// What the server was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    /// The furthest position that it was told as flushed.
    pub(crate) flushed: Lsn,
    /// From where on its slot keeps log.
    pub(crate) kept: Lsn,
    /// Where its slot began to keep log, when it was first seen.
    pub(crate) kept_from: Option<Lsn>,
    /// Looks that showed a position.
    pub(crate) looks: u64,
}

impl Told {
    /// Adds a look; why it must not be, if so. The stream of an agent that has only begun says nothing
    /// yet, and the slot follows what the stream says a moment later.
    fn add(&mut self, stream: Lsn, slot: Lsn) -> Option<String> {
        for (what, at, before) in [("stream", stream, self.flushed), ("slot", slot, self.kept)] {
            if at != Lsn(0) && at < before {
                return Some(format!("{what}: {at} after {before}"));
            }
        }
        if stream != Lsn(0) {
            self.flushed = stream;
            self.looks += 1;
        }
        if slot != Lsn(0) {
            self.kept = slot;
            self.kept_from.get_or_insert(slot);
        }
        None
    }
}

/// Looks at the agent's slot all the time: what the server was told never goes back.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
    thread: Option<JoinHandle<Option<String>>>,
}

impl Watch {
    /// Begins to look.
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::new(Mutex::new(Told {
            flushed: Lsn(0),
            kept: Lsn(0),
            kept_from: None,
            looks: 0,
        }));
        let (stopped, kept) = (Arc::clone(&stop), Arc::clone(&told));
        let mut session = Session::of(cluster);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // A server that is gone has nothing more to say.
                let row = session.ask(&look())?;
                let found: Vec<Lsn> = row.split(' ').filter_map(|at| at.parse().ok()).collect();
                let [stream, slot] = found[..] else {
                    return Some(format!("not two positions: {row}"));
                };
                let mut told = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(why) = told.add(stream, slot) {
                    return Some(why);
                }
                drop(told);
                pass(LOOK_EVERY);
            }
            None
        });
        Self {
            stop,
            told,
            thread: Some(thread),
        }
    }

    /// What the server was told so far. Panics if that ever went back.
    #[track_caller]
    pub(crate) fn told(&mut self) -> Told {
        if self
            .thread
            .as_ref()
            .is_some_and(|thread| thread.is_finished())
        {
            self.end();
        }
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        if let Some(why) = thread.join().expect("it ends") {
            panic!("what the server was told went back: {why}");
        }
    }

    /// Ends it.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        self.end();
        self.told()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The flush position of the stream, if it told one, and the slot's.
fn look() -> String {
    format!(
        "SELECT coalesce(max(r.flush_lsn), '0/0') || ' ' || coalesce(max(s.restart_lsn), '0/0')
         FROM pg_replication_slots s LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid
         WHERE s.slot_name = '{SLOT}'"
    )
    .replace('\n', " ")
}
