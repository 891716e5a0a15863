//! Noticing that a database in WAL mode was written behind SQLite's back (`cp backup.db app.db`).
//!
//! Only a checkpoint writes the file of a database in WAL mode. While the mark sits on READ_LOCK(0)
//! no checkpoint can; at other times one shows in the wal-index: it says how far it will come before
//! it writes, and how far it came afterwards. So a file that changed between two looks without either
//! was written by somebody else, and what the log says no longer describes it.

use std::os::unix::fs::MetadataExt;

use crate::core::Core;
use crate::error::SqliteError;
use crate::files::FileId;
use crate::shm::{Shm, WalIndex};

/// The file and the wal-index at one instant at which no checkpoint wrote.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quiet {
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    index: WalIndex,
    /// The mark sits on READ_LOCK(0): no checkpoint can write.
    at_rest: bool,
}

impl Quiet {
    /// What stands now; `None` if a checkpoint may be writing, or was ended before its end.
    pub(crate) fn look(
        core: &Core,
        shm: &Shm,
        at_rest: impl FnOnce(&WalIndex) -> bool,
    ) -> Result<Option<Self>, SqliteError> {
        let Some(before) = shm.read_unless_backfilling()? else {
            return Ok(None);
        };
        let metadata = core.file.metadata()?;
        if shm.read_unless_backfilling()? != Some(before) {
            return Ok(None);
        }
        Ok(Some(Self {
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            index: before,
            at_rest: at_rest(&before),
        }))
    }

    fn same_file(&self, now: &Self) -> bool {
        (self.bytes, self.modified, self.changed) == (now.bytes, now.modified, now.changed)
    }

    /// Whether a checkpoint explains how the file changed from this to `now`.
    fn is_explained(&self, now: &Self) -> bool {
        let checkpointed =
            self.index.salts != now.index.salts || self.index.backfilled != now.index.backfilled;
        self.same_file(now) || (checkpointed && !self.at_rest)
    }
}

impl Core {
    /// Compares what stands now with `earlier`, between which the mark did not move.
    pub(crate) fn check_not_written_behind(
        &mut self,
        shm: &Shm,
        earlier: Option<&Quiet>,
    ) -> Result<(), SqliteError> {
        let Some(earlier) = earlier else {
            return Ok(());
        };
        let explained = match Quiet::look(self, shm, |_| false)? {
            Some(now) => earlier.is_explained(&now),
            None => true,
        };
        if explained {
            return Ok(());
        }
        self.lost = Some("the database file was written behind SQLite's back".to_owned());
        self.complete_until = None;
        self.void_base();
        // The next opening takes it for a file that was put in its place, and compares every page.
        self.state.file = FileId::default();
        self.folder.store(&self.state)?;
        Err(SqliteError::WrittenBehind {
            path: self.file.path().to_path_buf(),
        })
    }
}
