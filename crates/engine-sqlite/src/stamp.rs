//! What a rollback-journal database looks like from outside: equal stamps mean nothing was written.

use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::SqliteError;
use crate::files::DatabaseFile;

/// Two writes within one tick of the file system's clock leave the same time.
const TICK_SECONDS: f64 = 0.1;

/// Change counter, size and modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    change_counter: u32,
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// Takes the stamp of the file now.
    pub(crate) fn of(file: &DatabaseFile) -> Result<Self, SqliteError> {
        let metadata = file.metadata()?;
        Ok(Self {
            change_counter: file.header()?.change_counter,
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }

    /// Whether a write right after this stamp would change it: its time is older than a tick.
    pub(crate) fn is_settled(&self, now: Timestamp) -> bool {
        let (seconds, nanos) = self.modified;
        let modified = i32::try_from(nanos)
            .ok()
            .and_then(|nanos| Timestamp::new(seconds, nanos).ok());
        modified.is_some_and(|modified| {
            (now.duration_since(modified).as_secs_f64()).abs() > TICK_SECONDS
        })
    }

    /// Whole pages in the file.
    pub(crate) fn pages(&self, page_size: u32) -> u32 {
        u32::try_from(self.bytes / u64::from(page_size)).unwrap_or(u32::MAX)
    }
}
