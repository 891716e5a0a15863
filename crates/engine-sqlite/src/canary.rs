//! The canary in a SQLite file: the one thing that the agent writes into it, and only when asked to.
//!
//! One table of a few rows, by a connection of its own between two polls. It never waits: a database that
//! somebody else writes is busy, and the next try comes a moment later.
//!
//! **Crash consistency.** The number is read and written in one transaction, so the database itself knows
//! which one is next: a killed agent neither leaves one out nor uses one twice.
//!
//! **What it does not do.** It makes no checkpoint, plays no journal of the application back, and leaves
//! the journal mode as it is.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};
use tidemark_engine::canary::{CANARIES_KEPT, Canary, CanaryOutcome, newest};
use tidemark_engine::examine::CanarySeen;

use crate::error::SqliteError;
use crate::files::beside;
use crate::marks::connect;

const MAKE: &str = "CREATE TABLE IF NOT EXISTS main.tidemark_canary\
                    (seq INTEGER PRIMARY KEY, at TEXT NOT NULL, nonce TEXT NOT NULL)";
const LAST: &str = "SELECT coalesce(max(seq), 0) FROM main.tidemark_canary";
const ADD: &str = "INSERT INTO main.tidemark_canary(seq, at, nonce) VALUES (?1, ?2, ?3)";
const FORGET: &str = "DELETE FROM main.tidemark_canary WHERE seq <= ?1";
const IS_THERE: &str =
    "SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = 'tidemark_canary'";
const ALL: &str = "SELECT seq, at FROM main.tidemark_canary ORDER BY seq";
const TAKE_AWAY: &str = "DROP TABLE IF EXISTS main.tidemark_canary";
/// How long taking the table away waits for writers: somebody retires the source and looks on.
const TAKE_AWAY_WAIT: Duration = Duration::from_secs(5);
/// The first bytes of a journal that holds nothing are zeros.
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// What writes canaries. Dropped before the database's file is.
#[derive(Debug, Default)]
pub(crate) struct CanaryPen {
    connection: Option<Connection>,
    told: Option<CanaryOutcome>,
}

impl CanaryPen {
    /// Writes a canary if that can be done at once.
    pub(crate) fn write(&mut self, path: &Path, canary: &Canary) {
        let outcome = match self.try_write(path, canary) {
            Ok(seq) => CanaryOutcome::Written { seq, at: canary.at },
            Err(SqliteError::Busy { .. }) => CanaryOutcome::Busy,
            Err(error) => {
                self.connection = None;
                CanaryOutcome::Failed { why: told(&error) }
            }
        };
        self.told = Some(outcome);
    }

    /// What came of the last one, once.
    pub(crate) const fn take_told(&mut self) -> Option<CanaryOutcome> {
        self.told.take()
    }

    fn try_write(&mut self, path: &Path, canary: &Canary) -> Result<u64, SqliteError> {
        if journal_is_in_use(path) {
            // A writer at work, or one that died: then the journal is the application's to play back.
            return Err(SqliteError::Busy {
                path: path.to_path_buf(),
            });
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => pen(path)?,
        };
        let connection = self.connection.insert(connection);
        write_on(connection, canary).map_err(SqliteError::sqlite("writing the canary", path))
    }
}

/// A connection that writes and does nothing else.
fn pen(path: &Path) -> Result<Connection, SqliteError> {
    let connection = connect(path)?;
    connection
        .pragma_update(None, "wal_autocheckpoint", 0)
        .map_err(SqliteError::sqlite("preparing the canary", path))?;
    Ok(connection)
}

fn write_on(connection: &Connection, canary: &Canary) -> Result<u64, rusqlite::Error> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let written = add(connection, canary).and_then(|seq| {
        connection.execute_batch("COMMIT")?;
        Ok(seq)
    });
    if written.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    written
}

fn add(connection: &Connection, canary: &Canary) -> Result<u64, rusqlite::Error> {
    connection.execute_batch(MAKE)?;
    let last: i64 = connection.query_row(LAST, [], |row| row.get(0))?;
    let least = i64::try_from(canary.seq).unwrap_or(i64::MAX);
    let seq = last.saturating_add(1).max(least);
    let at = canary.at.to_string();
    connection.execute(ADD, params![seq, at, canary.nonce])?;
    let kept = i64::try_from(CANARIES_KEPT).unwrap_or(i64::MAX);
    connection.execute(FORGET, [seq.saturating_sub(kept)])?;
    Ok(u64::try_from(seq).unwrap_or(canary.seq))
}

/// Whether a rollback journal stands beside the database that may have to be played back.
fn journal_is_in_use(path: &Path) -> bool {
    use std::io::Read as _;
    let mut magic = [0; 8];
    let read = std::fs::File::open(beside(path, "-journal"))
        .and_then(|mut journal| journal.read_exact(&mut magic));
    read.is_ok() && magic == JOURNAL_MAGIC
}

/// The newest canary in a database; none if there is no table of canaries, or none in it.
///
/// # Errors
/// The library's: the table can't be read as what it should be.
pub fn read(connection: &Connection) -> Result<Option<CanarySeen>, rusqlite::Error> {
    let is_there = connection
        .query_row(IS_THERE, [], |_| Ok(()))
        .optional()?
        .is_some();
    if !is_there {
        return Ok(None);
    }
    let mut statement = connection.prepare(ALL)?;
    let rows = statement.query_map([], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
    })?;
    let mut found = Vec::new();
    for row in rows {
        let (seq, at) = row?;
        // What is no time is no canary of ours.
        if let (Ok(seq), Ok(at)) = (u64::try_from(seq), at.parse()) {
            found.push((seq, at));
        }
    }
    Ok(newest(&found))
}

/// Takes the table away; whether there was one. Nothing else in this process may hold the file open by other
/// means than SQLite's.
pub(crate) fn take_away(path: &Path) -> Result<bool, SqliteError> {
    if !path.exists() {
        return Ok(false);
    }
    let failed = || SqliteError::sqlite("taking the canary away", path);
    let connection = connect(path)?;
    connection.busy_timeout(TAKE_AWAY_WAIT).map_err(failed())?;
    let was_there = connection
        .query_row(IS_THERE, [], |_| Ok(()))
        .optional()
        .map_err(failed())?
        .is_some();
    if was_there {
        connection.execute_batch(TAKE_AWAY).map_err(failed())?;
    }
    Ok(was_there)
}

/// An error and what the library says.
fn told(error: &SqliteError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let connection = Connection::open(&path).unwrap();
        let wal = "PRAGMA journal_mode = WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)";
        connection.execute_batch(wal).unwrap();
        // Kept open by the caller's folder: the file stays as an application leaves it.
        drop(connection);
        (folder, path)
    }

    fn canary(seq: u64, second: i64) -> Canary {
        Canary {
            seq,
            at: jiff::Timestamp::from_second(second).unwrap(),
            nonce: format!("{second:016x}"),
        }
    }

    fn seen(path: &Path) -> Option<CanarySeen> {
        read(&Connection::open(path).unwrap()).unwrap()
    }

    #[test]
    fn numbers_go_on_where_the_database_has_them_and_few_rows_stay() {
        let (_folder, path) = database();
        assert_eq!(seen(&path), None);
        for second in 1..=20 {
            // Each by a pen of its own: what a killed agent's successor has.
            let mut pen = CanaryPen::default();
            pen.write(&path, &canary(1, second));
            let seq = u64::try_from(second).unwrap();
            let at = jiff::Timestamp::from_second(second).unwrap();
            assert_eq!(pen.take_told(), Some(CanaryOutcome::Written { seq, at }));
            assert_eq!(pen.take_told(), None);
        }
        let seen = seen(&path).unwrap();
        assert_eq!((seen.seq, seen.rows), (20, CANARIES_KEPT));
        assert_eq!(seen.at, jiff::Timestamp::from_second(20).unwrap());
    }

    #[test]
    fn a_number_is_never_below_the_least_asked_for() {
        let (_folder, path) = database();
        let mut pen = CanaryPen::default();
        pen.write(&path, &canary(41, 5));
        assert_eq!(seen(&path).map(|seen| seen.seq), Some(41));
        Connection::open(&path)
            .unwrap()
            .execute_batch("DELETE FROM tidemark_canary")
            .unwrap();
        pen.write(&path, &canary(42, 6));
        assert_eq!(seen(&path).map(|seen| seen.seq), Some(42));
    }

    #[test]
    fn a_busy_database_is_not_waited_for() {
        let (_folder, path) = database();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut pen = CanaryPen::default();
        pen.write(&path, &canary(1, 1));
        assert_eq!(pen.take_told(), Some(CanaryOutcome::Busy));
        other.execute_batch("COMMIT").unwrap();
        pen.write(&path, &canary(1, 1));
        assert!(matches!(
            pen.take_told(),
            Some(CanaryOutcome::Written { seq: 1, .. })
        ));
    }

    #[test]
    fn a_journal_that_an_application_left_is_not_played_back() {
        let (_folder, path) = database();
        std::fs::write(beside(&path, "-journal"), JOURNAL_MAGIC).unwrap();
        let mut pen = CanaryPen::default();
        pen.write(&path, &canary(1, 1));
        assert_eq!(pen.take_told(), Some(CanaryOutcome::Busy));
        assert!(beside(&path, "-journal").exists());
        // One that holds nothing, as journal_mode = PERSIST leaves it, is in nobody's way.
        std::fs::write(beside(&path, "-journal"), [0; 512]).unwrap();
        assert!(!journal_is_in_use(&path));
    }

    #[test]
    fn a_table_that_is_not_ours_is_told() {
        let (_folder, path) = database();
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE tidemark_canary(bird)")
            .unwrap();
        let mut pen = CanaryPen::default();
        pen.write(&path, &canary(1, 1));
        let Some(CanaryOutcome::Failed { why }) = pen.take_told() else {
            panic!("it was written")
        };
        assert!(why.contains("seq"), "{why}");
    }

    #[test]
    fn taking_it_away_leaves_no_table() {
        let (folder, path) = database();
        assert!(!take_away(&path).unwrap());
        CanaryPen::default().write(&path, &canary(1, 1));
        assert!(take_away(&path).unwrap());
        assert_eq!(seen(&path), None);
        assert!(!take_away(&folder.path().join("none.db")).unwrap());
    }
}
