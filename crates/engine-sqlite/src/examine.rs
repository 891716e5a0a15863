//! A restored database, looked at: is it whole, what is in it, does it answer what its owner asks?
//!
//! Everything is read through connections that can't write: the file is opened as immutable, so that
//! not even a journal appears beside it, and what the user asks goes through an authorizer
//! ([`ask`]).
//!
//! **Invariant.** Nothing of a row leaves: counts, digests, the single values of the user's statements.
//!
//! **Failure.** A file that is no database is an error. Anything that is wrong with a database is a
//! finding, and the other checks go on.

mod ask;
mod look;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, InterruptHandle, OpenFlags};
use tidemark_engine::Error;
use tidemark_engine::examine::{Examined, Finding, LEVEL_REPLAY, Questions, Status};
use tidemark_host::{Clock, Monotonic};

use crate::error::SqliteError;

/// The longest that one statement may take, unless the questions say.
const STATEMENT_SECONDS: u32 = 300;
/// Steps of SQLite's machine between two looks at the clock: some tenths of a millisecond.
const STEPS: i32 = 10_000;
/// Between two looks at it beside a statement whose steps are long.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What is to be examined.
#[derive(Debug, Clone)]
pub struct Examination {
    /// The database.
    pub path: PathBuf,
    /// What is asked.
    pub questions: Questions,
    /// For durations and time limits.
    pub clock: Arc<dyn Clock>,
    /// Set from another thread to end it.
    pub cancel: Arc<AtomicBool>,
}

/// Asks a restored database everything.
///
/// # Errors
/// [`tidemark_engine::ErrorKind::Corrupt`] if it is no database, or the library's.
pub fn examine(what: &Examination) -> Result<Examined, Error> {
    Ok(run(what)?)
}

fn run(what: &Examination) -> Result<Examined, SqliteError> {
    let limit = Duration::from_secs(u64::from(
        what.questions
            .statement_seconds
            .unwrap_or(STATEMENT_SECONDS),
    ));
    let mut examined = Examined {
        server: Some(format!("SQLite {}", rusqlite::version())),
        ..Examined::default()
    };
    let mut bench = Bench {
        clock: Arc::clone(&what.clock),
        limit,
        examined: &mut examined,
    };
    bench.note(|| look::pages(&what.path))?;
    if what.questions.full {
        bench.content(&what.path)?;
    }
    let (connection, timer) = open(what, limit)?;
    // Reading everything takes as long as it takes.
    bench.note(|| look::integrity(&connection, what.questions.full))?;
    bench.note(|| Ok(look::foreign_keys(&connection)))?;
    if what.questions.canary {
        bench.canary(&connection);
    }
    if what.questions.counts {
        bench.counts(&connection, &timer);
    }
    bench.schema(&connection);
    let answers = ask::all(
        &what.questions.statements,
        &connection_for_user(what, limit)?,
    );
    examined.answers = answers;
    for name in [
        "journal_mode",
        "page_size",
        "encoding",
        "user_version",
        "query_only",
    ] {
        if let Some(value) = look::pragma(&connection, name) {
            examined.settings.insert(name.to_owned(), value);
        }
    }
    Ok(examined)
}

fn connection_for_user(
    what: &Examination,
    limit: Duration,
) -> Result<(Connection, Timer), SqliteError> {
    let (mut connection, timer) = open(what, limit)?;
    ask::restrict(&mut connection).map_err(SqliteError::sqlite(
        "restricting the connection",
        &what.path,
    ))?;
    Ok((connection, timer))
}

/// Ends statements that take too long, and everything once nobody waits any more.
#[derive(Clone)]
struct Timer {
    clock: Arc<dyn Clock>,
    limit: Duration,
    ends: Arc<Mutex<Option<Monotonic>>>,
    cancel: Arc<AtomicBool>,
    handle: Arc<InterruptHandle>,
}

impl Timer {
    /// Runs `work`, which is interrupted at its limit.
    fn limited<T>(&self, work: impl FnOnce() -> T) -> T {
        self.set(Some(self.clock.monotonic().after(self.limit)));
        // A whole count is one step to the progress handler: that alone would never end it.
        let done = std::thread::scope(|scope| {
            let (done, ended) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || self.watch(&ended));
            let result = work();
            drop(done);
            result
        });
        self.set(None);
        done
    }

    /// Interrupts whatever runs too long, until there is nothing more to watch.
    fn watch(&self, ended: &Receiver<()>) {
        while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            if self.is_over() {
                self.handle.interrupt();
            }
        }
    }

    fn set(&self, ends: Option<Monotonic>) {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = ends;
    }

    fn is_over(&self) -> bool {
        let ends = *self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        self.cancel.load(Ordering::Relaxed)
            || ends.is_some_and(|ends| self.clock.monotonic() >= ends)
    }
}

/// A connection that can't write, to a file that nobody else changes.
fn open(what: &Examination, limit: Duration) -> Result<(Connection, Timer), SqliteError> {
    let path = &what.path;
    let failed = |action: &'static str| SqliteError::sqlite(action, path);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let name = crate::restore::immutable_name(path)?;
    let mut connection =
        Connection::open_with_flags(name, flags).map_err(failed("opening the database"))?;
    let harden = |connection: &Connection| {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        // Functions of the schema's own choosing run in nobody's name here.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.pragma_update(None, "query_only", true)?;
        connection.pragma_update(None, "cell_size_check", true)
    };
    harden(&connection).map_err(failed("hardening the connection"))?;
    let timer = Timer {
        clock: Arc::clone(&what.clock),
        limit,
        ends: Arc::default(),
        cancel: Arc::clone(&what.cancel),
        handle: Arc::new(connection.get_interrupt_handle()),
    };
    let watch = timer.clone();
    connection
        .progress_handler(STEPS, Some(move || watch.is_over()))
        .map_err(failed("limiting the connection"))?;
    Ok((connection, timer))
}

/// Where findings go, with the time they took.
struct Bench<'a> {
    clock: Arc<dyn Clock>,
    limit: Duration,
    examined: &'a mut Examined,
}

impl Bench<'_> {
    fn note(
        &mut self,
        check: impl FnOnce() -> Result<Finding, SqliteError>,
    ) -> Result<(), SqliteError> {
        let began = self.clock.monotonic();
        let finding = check()?;
        let took = self.clock.monotonic().since(began);
        self.examined.findings.push(finding.took(took));
        Ok(())
    }

    /// The digest over the whole file. That the pages are the source's was proved when they were laid out,
    /// with a key that nothing in here has.
    fn content(&mut self, path: &Path) -> Result<(), SqliteError> {
        let began = self.clock.monotonic();
        let (digest, bytes) = look::content(path)?;
        let finding = Finding::new(
            tidemark_engine::examine::LEVEL_MATERIALISE,
            "sqlite.content",
            "the digest of the whole file",
            Status::Recorded,
        );
        let took = self.clock.monotonic().since(began);
        let finding = finding.actual(&digest).took(took);
        self.examined.findings.push(finding);
        self.examined.content_digest = Some(digest);
        self.examined.size_bytes = bytes;
        Ok(())
    }

    fn canary(&mut self, connection: &Connection) {
        let finding = |status| {
            Finding::new(
                LEVEL_REPLAY,
                "canary",
                "the newest canary is there, and none after it",
                status,
            )
        };
        let found = match crate::canary::read(connection) {
            Ok(Some(seen)) => {
                let status = if seen.next_absent {
                    Status::Passed
                } else {
                    Status::Failed
                };
                let said = format!("number {} of {}, {} rows", seen.seq, seen.at, seen.rows);
                self.examined.canary = Some(seen);
                finding(status).actual(said)
            }
            Ok(None) => finding(Status::Failed).why("the database holds no canary"),
            Err(error) => finding(Status::Failed).why(error.to_string()),
        };
        self.examined.findings.push(found);
    }

    fn counts(&mut self, connection: &Connection, timer: &Timer) {
        let began = self.clock.monotonic();
        let counted = look::counts(connection, |work| timer.limited(work));
        let took = self.clock.monotonic().since(began);
        let name = "every table can be read to its end";
        let finding = Finding::new(
            tidemark_engine::examine::LEVEL_LOGICAL,
            "sqlite.readable",
            name,
            counted.status(),
        );
        let finding = match counted.complaint(self.limit) {
            Some(why) => finding.why(why),
            None => finding.actual(format!("{} tables", counted.rows.len())),
        };
        self.examined.findings.push(finding.took(took));
        self.examined.counts = counted.rows;
    }

    fn schema(&mut self, connection: &Connection) {
        let began = self.clock.monotonic();
        let finding = Finding::new(
            tidemark_engine::examine::LEVEL_LOGICAL,
            "sqlite.schema",
            "the digest of all definitions",
            Status::Recorded,
        );
        let finding = match look::schema(connection) {
            Ok(digest) => {
                self.examined.schema_digest = Some(digest.clone());
                finding.actual(digest)
            }
            Err(error) => {
                let mut finding = finding.why(error.to_string());
                finding.status = Status::Failed;
                finding
            }
        };
        let took = self.clock.monotonic().since(began);
        self.examined.findings.push(finding.took(took));
        self.examined.collations = look::collations(connection);
        if self.examined.size_bytes == 0 {
            self.examined.size_bytes = look::size(connection);
        }
    }
}

#[cfg(test)]
mod tests;
