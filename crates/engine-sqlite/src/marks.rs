//! Two standing connections that hold the read mark hand over hand, and our own checkpoints.
//!
//! As long as one of them reads, the log can't be restarted over frames that aren't captured (SQLite
//! may restart it once when everything is in the database file: then there is nothing in it that was
//! not captured, see [`crate::capture`]). Nothing is ever written; the only checkpoints are PASSIVE.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, OpenFlags};

use crate::error::SqliteError;

/// How long opening waits for somebody's recovery or exclusive moment before it calls it held.
const OPEN_WAIT: Duration = Duration::from_millis(1500);

/// Which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    First,
    Second,
}

impl Slot {
    const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// What a PASSIVE checkpoint did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checkpoint {
    /// Everything is in the database file.
    Complete,
    /// Some reader's mark, or another checkpoint, left frames for later.
    Partial,
}

/// The two connections.
#[derive(Debug)]
pub(crate) struct Marks {
    first: Connection,
    second: Connection,
    holder: Option<Slot>,
    path: PathBuf,
}

impl Marks {
    /// Opens both connections and takes the mark.
    pub(crate) fn open(path: &Path) -> Result<Self, SqliteError> {
        let first = connect(path)?;
        let second = connect(path)?;
        let mut marks = Self {
            first,
            second,
            holder: None,
            path: path.to_path_buf(),
        };
        let wait = |marks: &Self, wait| marks.first.busy_timeout(wait);
        wait(&marks, OPEN_WAIT).map_err(SqliteError::sqlite("setting a timeout", path))?;
        match marks.acquire() {
            Ok(()) => {}
            Err(SqliteError::Busy { path }) => return Err(SqliteError::Exclusive { path }),
            Err(error) => return Err(readable_folder(path, error)),
        }
        wait(&marks, Duration::ZERO).map_err(SqliteError::sqlite("setting a timeout", path))?;
        Ok(marks)
    }

    fn connection(&self, slot: Slot) -> &Connection {
        match slot {
            Slot::First => &self.first,
            Slot::Second => &self.second,
        }
    }

    fn run(&self, slot: Slot, action: &'static str, sql: &str) -> Result<(), SqliteError> {
        self.connection(slot)
            .execute_batch(sql)
            .map_err(SqliteError::sqlite(action, &self.path))
    }

    fn begin_read(&self, slot: Slot) -> Result<(), SqliteError> {
        self.run(slot, "beginning to read", "BEGIN")?;
        // Any read takes the mark; this one needs no schema.
        let read = self
            .connection(slot)
            .query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
            .map_err(SqliteError::sqlite("taking the read mark", &self.path));
        if let Err(error) = read {
            self.run(slot, "giving up a read", "ROLLBACK")?;
            return Err(error);
        }
        Ok(())
    }

    fn end_read(&self, slot: Slot) -> Result<(), SqliteError> {
        self.run(slot, "giving up the read mark", "ROLLBACK")
    }

    /// Whether a mark is held.
    pub(crate) const fn is_held(&self) -> bool {
        self.holder.is_some()
    }

    /// Takes the mark where none is held.
    pub(crate) fn acquire(&mut self) -> Result<(), SqliteError> {
        if self.holder.is_none() {
            self.begin_read(Slot::First)?;
            self.holder = Some(Slot::First);
        }
        Ok(())
    }

    /// Gives the mark up.
    pub(crate) fn release(&mut self) -> Result<(), SqliteError> {
        if let Some(slot) = self.holder.take() {
            self.end_read(slot)?;
        }
        Ok(())
    }

    /// Takes a new mark beside the one held, lets `settle` capture up to it, and gives up the old
    /// one; if `settle` says no, gives up the new one instead.
    pub(crate) fn move_on<E: From<SqliteError>>(
        &mut self,
        settle: impl FnOnce() -> Result<bool, E>,
    ) -> Result<bool, E> {
        let Some(old) = self.holder else {
            return Ok(false);
        };
        self.begin_read(old.other())?;
        match settle() {
            Ok(true) => {
                self.holder = Some(old.other());
                self.end_read(old)?;
                Ok(true)
            }
            Ok(false) => {
                self.end_read(old.other())?;
                Ok(false)
            }
            Err(error) => {
                self.end_read(old.other())?;
                Err(error)
            }
        }
    }

    /// A PASSIVE checkpoint by the connection that doesn't hold the mark.
    pub(crate) fn checkpoint(&self) -> Result<Checkpoint, SqliteError> {
        self.checkpoint_with(self.holder.map_or(Slot::First, Slot::other))
    }

    fn checkpoint_with(&self, slot: Slot) -> Result<Checkpoint, SqliteError> {
        let done = self
            .connection(slot)
            .wal_checkpoint_v2(Some(c"main"), CheckpointMode::PASSIVE);
        match done.map_err(SqliteError::sqlite("checkpointing", &self.path)) {
            Ok((log, done)) if log == done => Ok(Checkpoint::Complete),
            Ok(_) | Err(SqliteError::Busy { .. }) => Ok(Checkpoint::Partial),
            Err(error) => Err(error),
        }
    }

    /// The sealed hand-off: with the write lock held, `seal` captures the last commit, the rest of
    /// the log goes into the database file, and the new mark is taken before anyone may write.
    /// `None` if the write lock never was free while `ask_again` said yes, or `seal` said no.
    ///
    /// Nobody is held up by the asking: it never waits in line, it looks between two writers.
    pub(crate) fn sealed_hand_off<E: From<SqliteError>>(
        &mut self,
        ask_again: impl Fn() -> bool,
        seal: impl FnOnce() -> Result<bool, E>,
    ) -> Result<Option<Checkpoint>, E> {
        let Some(reader) = self.holder else {
            return Ok(None);
        };
        let writer = reader.other();
        loop {
            match self.run(writer, "asking for the write lock", "BEGIN IMMEDIATE") {
                Ok(()) => break,
                Err(SqliteError::Busy { .. }) if ask_again() => std::thread::yield_now(),
                Err(SqliteError::Busy { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let done = self.under_write_lock(reader, seal);
        self.end_read(writer)?;
        done
    }

    fn under_write_lock<E: From<SqliteError>>(
        &mut self,
        reader: Slot,
        seal: impl FnOnce() -> Result<bool, E>,
    ) -> Result<Option<Checkpoint>, E> {
        if !seal()? {
            return Ok(None);
        }
        // The writer's connection reads at the last commit too, so a mark is held throughout.
        self.end_read(reader)?;
        self.holder = None;
        let done = self.checkpoint_with(reader);
        self.begin_read(reader)?;
        self.holder = Some(reader);
        Ok(Some(done?))
    }
}

/// A connection that never waits, and leaves the log as it is when it goes.
pub(crate) fn connect(path: &Path) -> Result<Connection, SqliteError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |error| {
        readable_folder(
            path,
            SqliteError::sqlite("opening the database", path)(error),
        )
    };
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(Duration::ZERO).map_err(failed)?;
    // The application's log stays as it is when we go, also when we are the last to.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(failed)?;
    Ok(connection)
}

fn readable_folder(path: &Path, error: SqliteError) -> SqliteError {
    use rusqlite::ErrorCode::{CannotOpen, PermissionDenied, ReadOnly};
    match &error {
        SqliteError::Sqlite { source, .. } => match source.sqlite_error_code() {
            Some(CannotOpen | PermissionDenied | ReadOnly) => SqliteError::ReadOnlyFolder {
                path: path.to_path_buf(),
            },
            _ => error,
        },
        _ => error,
    }
}
