//! What an operator or a test may set for one SQLite source.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of one source.
#[derive(Debug, Clone)]
pub struct SqliteConfig {
    /// The database.
    pub path: PathBuf,
    /// At this size of its WAL the mark is released, so that we never fill the database's disk.
    pub wal_max_bytes: u64,
    /// How long a database without WAL may be locked for its readers' sake.
    pub stall_max: Duration,
    /// At this size of the WAL we put it into the database ourselves.
    pub hand_off_bytes: u64,
    /// How much one cut holds.
    pub cut_bytes: usize,
    /// How often a database without WAL is looked at.
    pub scan_every: Duration,
    /// Whether canaries may be written into it.
    pub canary: bool,
}

impl SqliteConfig {
    /// The settings for `path`, everything at its default.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            wal_max_bytes: 1 << 30,
            stall_max: Duration::from_millis(250),
            // Twice what an application's own automatic checkpoint waits for (1000 pages).
            hand_off_bytes: 8 << 20,
            cut_bytes: 8 << 20,
            scan_every: Duration::from_secs(1),
            canary: false,
        }
    }
}
