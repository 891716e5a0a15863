//! The databases that rows are measured on: half random blobs, half text, the same bytes every time.

use std::path::Path;

use anyhow::{Context, Result};
use rusqlite::{Connection, params};

/// Bytes of a row's payload.
const PAYLOAD: usize = 400;
/// Rows of a transaction while filling.
const ROWS_AT_ONCE: u64 = 5_000;
const WORDS: &[&str] = &[
    "order",
    "invoice",
    "customer",
    "pending",
    "shipped",
    "address",
    "street",
    "total",
    "payment",
    "received",
    "returned",
    "account",
    "balance",
    "review",
    "comment",
    "holiday",
    "warehouse",
    "quantity",
    "discount",
    "delivery",
    "monday",
    "winter",
    "express",
    "north",
    "harbour",
    "paper",
];

/// A small generator of repeatable randomness (xorshift64*).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What one row holds: an incompressible blob, or text that compresses as prose does.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    Blob(Vec<u8>),
    Text(String),
}

impl Payload {
    pub(crate) fn draw(random: &mut Random) -> Self {
        if random.below(2) == 0 {
            let mut blob = Vec::with_capacity(PAYLOAD);
            while blob.len() < PAYLOAD {
                blob.extend_from_slice(&random.next().to_le_bytes());
            }
            return Self::Blob(blob);
        }
        let mut text = String::with_capacity(PAYLOAD + 16);
        while text.len() < PAYLOAD {
            let words = WORDS.len() as u64;
            let at = usize::try_from(random.below(words)).unwrap_or_default();
            text.push_str(WORDS.get(at).copied().unwrap_or_default());
            text.push(' ');
        }
        Self::Text(text)
    }
}

impl rusqlite::ToSql for Payload {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match self {
            Self::Blob(blob) => blob.to_sql(),
            Self::Text(text) => text.to_sql(),
        }
    }
}

/// Opens a database as the application does.
pub(crate) fn open(path: &Path) -> Result<Connection> {
    let database = Connection::open(path).with_context(|| path.display().to_string())?;
    database.busy_timeout(std::time::Duration::from_secs(30))?;
    database.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")?;
    Ok(database)
}

/// Makes a database of about `bytes`, checkpointed, with nothing left in its WAL.
pub(crate) fn make(path: &Path, bytes: u64, page_size: u32) -> Result<()> {
    let mut database = Connection::open(path)?;
    database.execute_batch(&format!(
        "PRAGMA page_size = {page_size}; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
         CREATE TABLE entry (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, payload);"
    ))?;
    let mut random = Random::new(7);
    loop {
        let transaction = database.transaction()?;
        {
            let sql = "INSERT INTO entry (at, payload) VALUES (0, ?1)";
            let mut insert = transaction.prepare_cached(sql)?;
            for _ in 0..ROWS_AT_ONCE {
                insert.execute(params![Payload::draw(&mut random)])?;
            }
        }
        transaction.commit()?;
        let pages: u64 = pragma(&database, "page_count")?;
        if pages * u64::from(page_size) >= bytes {
            break;
        }
    }
    database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA synchronous = NORMAL;")?;
    Ok(())
}

/// An integer that SQLite tells of the database.
pub(crate) fn pragma(database: &Connection, name: &str) -> Result<u64> {
    let value: i64 = database.pragma_query_value(None, name, |row| row.get(0))?;
    Ok(u64::try_from(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_database_every_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (folder.path().join("1.db"), folder.path().join("2.db"));
        for path in [&one, &two] {
            make(path, 4 << 20, 4096).expect("a database");
        }
        let (one, two) = (
            std::fs::read(one).expect("bytes"),
            std::fs::read(two).expect("bytes"),
        );
        assert!(one.len() >= 4 << 20);
        // The first hundred bytes hold counters that SQLite alone understands.
        assert!(one.get(4096..) == two.get(4096..));
    }
}
