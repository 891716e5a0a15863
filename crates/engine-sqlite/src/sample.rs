//! A small live application, for `demo` and for trials: one table of orders that grows commit by commit.
//!
//! It behaves as applications do: WAL mode, one transaction for each order, its own checkpoints by
//! SQLite's default. Nothing of the engine uses it.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, params};

/// An order, as the application committed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// 1, 2, 3 …
    pub id: i64,
    /// When the application placed it, just before it committed.
    pub placed_at: Timestamp,
    /// What was ordered.
    pub item: String,
}

/// The application, with its database open.
#[derive(Debug)]
pub struct Shop {
    connection: Connection,
}

/// Something SQLite refused.
#[derive(Debug, thiserror::Error)]
#[error("the sample application: {0}")]
pub struct SampleError(#[from] rusqlite::Error);

impl Shop {
    /// Makes the database.
    ///
    /// # Errors
    /// SQLite's.
    pub fn create(path: &Path) -> Result<Self, SampleError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.execute_batch(
            "CREATE TABLE orders(id INTEGER PRIMARY KEY, placed_us INTEGER NOT NULL, \
             item TEXT NOT NULL, receipt BLOB NOT NULL)",
        )?;
        Ok(Self { connection })
    }

    /// Commits an order; `receipt` is what fills the database.
    ///
    /// # Errors
    /// SQLite's.
    pub fn place(&mut self, order: &Order, receipt: &[u8]) -> Result<(), SampleError> {
        self.connection.execute(
            "INSERT INTO orders(id, placed_us, item, receipt) VALUES(?1, ?2, ?3, ?4)",
            params![
                order.id,
                order.placed_at.as_microsecond(),
                order.item,
                receipt
            ],
        )?;
        Ok(())
    }
}

/// Every order of a database, after a full integrity check.
///
/// # Errors
/// SQLite's, among them a failed integrity check.
pub fn read_orders(path: &Path) -> Result<(String, Vec<Order>), SampleError> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    let mut query = connection.prepare("SELECT id, placed_us, item FROM orders ORDER BY id")?;
    let orders = query
        .query_map([], |row| {
            let micros: i64 = row.get(1)?;
            Ok(Order {
                id: row.get(0)?,
                placed_at: Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH),
                item: row.get(2)?,
            })
        })?
        .collect::<Result<Vec<_>, _>>()?;
    Ok((verdict, orders))
}
