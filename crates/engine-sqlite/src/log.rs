//! Following the write-ahead log: from the wal-index to captured pages, and noticing what was lost.
//!
//! **Why nothing is missed.** A mark on a frame forbids every restart of the log. A mark on READ_LOCK(0)
//! (which SQLite gives when everything is in the database file) allows one restart: but only while
//! the log still ends where the mark was taken, and everything up to there was captured before the
//! mark before it was given up. After that restart nothing can be put into the file until the mark
//! moves, so no second one follows. A restart that these rules exclude is a loss: a catch-up begins.

use tidemark_engine::Workspace;

use crate::core::Core;
use crate::error::SqliteError;
use crate::files::FileId;
use crate::seen::Seen;
use crate::shm::{Shm, WalIndex};
use crate::tail::{Cursor, Reading, Tail, TailEnd};

/// What the mark that is held allows others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// It stands on a frame: the log can't be restarted.
    Pinned,
    /// It may stand on READ_LOCK(0): one restart is fine.
    MaybeAtRest,
    /// None is held, or it was taken before everything up to it was captured: a restart may have
    /// lost something.
    None,
}

/// How capturing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Captured {
    /// The index that was followed last.
    pub(crate) index: WalIndex,
    /// Everything it commits is captured.
    pub(crate) all: bool,
}

/// The log of one database.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) shm: Shm,
    pub(crate) tail: Tail,
    pub(crate) cursor: Cursor,
    /// Frames up to this one were captured before; until it is reached nothing is restorable.
    pub(crate) rewound_from: u32,
    pub(crate) hold: Hold,
    /// When frames that may not be captured yet were first seen.
    pub(crate) seen: Seen,
    /// Some of its frames hide pages of a file that was written behind SQLite's back.
    pub(crate) hides: bool,
}

/// How often a log that changes under our eyes is looked at again within one call.
const ATTEMPTS: u32 = 20;

impl Log {
    /// The wal-index; [`SqliteError::Busy`] while somebody writes it.
    pub(crate) fn index(&self, core: &Core) -> Result<WalIndex, SqliteError> {
        let busy = || SqliteError::Busy {
            path: core.file.path().to_path_buf(),
        };
        self.shm.read()?.ok_or_else(busy)
    }

    /// Captured frames are being captured once more.
    pub(crate) const fn is_rewinding(&self) -> bool {
        self.cursor.frame < self.rewound_from
    }

    /// What is captured ends at a commit of the source.
    pub(crate) const fn at_commit(&self) -> bool {
        !self.is_rewinding()
    }

    /// Captures everything that is committed, up to the bound of a cut.
    pub(crate) fn capture(
        &mut self,
        core: &mut Core,
        work: &mut Workspace,
    ) -> Result<Captured, SqliteError> {
        let mut stale = 0;
        loop {
            // Before the index: whatever is committed after this instant is not promised.
            let now = core.observed_now();
            let index = self.index(core)?;
            self.follow(&index, core);
            self.seen.note(index.frames, now);
            let mut reading = Reading {
                now,
                not_before: core.last_commit,
                seen: &self.seen,
                cursor: &mut self.cursor,
                bound: core.config.cut_bytes,
                pages: &mut core.pages,
                pending: &mut core.pending,
            };
            match self.tail.read(&index, &mut reading, work)? {
                TailEnd::Caught => {
                    self.seen.forget(index.frames);
                    if !self.is_rewinding() {
                        core.complete(now);
                    }
                    return Ok(Captured { index, all: true });
                }
                TailEnd::Full => {
                    core.full = true;
                    let passed = self.seen.passed(self.cursor.frame);
                    self.seen.forget(self.cursor.frame);
                    if let Some(passed) = passed.filter(|_| !self.is_rewinding()) {
                        core.complete(passed);
                    }
                    return Ok(Captured { index, all: false });
                }
                TailEnd::Stale if stale < ATTEMPTS => {
                    stale += 1;
                    std::thread::yield_now();
                }
                TailEnd::Stale => {
                    lose(core, "the WAL is not what its index says");
                    return Ok(Captured { index, all: false });
                }
            }
        }
    }

    /// Notices restarts.
    fn follow(&mut self, index: &WalIndex, core: &mut Core) {
        if index.salts == self.cursor.salts {
            if index.frames < self.cursor.frame {
                lose(core, "the WAL is shorter than what was captured of it");
                self.cursor = Cursor::start(index.salts);
                self.seen.clear();
            }
            return;
        }
        if self.hold != Hold::MaybeAtRest {
            lose(core, "the WAL was restarted while no mark kept it");
        } else if core.pending.open_transaction || self.is_rewinding() {
            lose(
                core,
                "the WAL was restarted under frames that were still to be captured",
            );
        }
        self.cursor = Cursor::start(index.salts);
        self.rewound_from = 0;
        self.seen.clear();
    }

    /// Goes back to what the database file holds, so that the rest is captured (once more).
    pub(crate) fn rewind(&mut self, core: &Core) -> Result<WalIndex, SqliteError> {
        for _attempt in 0..ATTEMPTS {
            let index = self.index(core)?;
            if index.salts != self.cursor.salts {
                return Ok(index);
            }
            if index.backfilled >= self.cursor.frame {
                return Ok(index);
            }
            if let Some(cursor) = self.tail.cursor_at(&index, index.backfilled)? {
                self.rewound_from = self.rewound_from.max(self.cursor.frame);
                self.cursor = cursor;
                return Ok(index);
            }
        }
        Err(SqliteError::Busy {
            path: core.file.path().to_path_buf(),
        })
    }

    /// After a loss: everything that isn't in the database file is captured from the start.
    ///
    /// If the file was written behind SQLite's back, what was put into it may be gone. The log still has
    /// it, and readers see it there as long as they need the log at all; when all of it is in the file
    /// or it is restarted, they see what the file says. So all of the log is captured now, and the
    /// file compared again then.
    pub(crate) fn restart(&mut self, core: &mut Core) -> Result<(), SqliteError> {
        for _attempt in 0..ATTEMPTS {
            let index = self.index(core)?;
            let behind =
                core.state.file == FileId::default() || core.state.behind == Some(index.salts);
            let hides = behind && !index.is_backfilled();
            let from = if hides { 0 } else { index.backfilled };
            if let Some(cursor) = self.tail.cursor_at(&index, from)? {
                self.cursor = cursor;
                self.rewound_from = index.frames;
                self.hides = hides;
                core.pages = size_of(&index, core)?;
                if behind {
                    core.state.behind = Some(index.salts).filter(|_| index.frames > 0);
                    core.folder.store(&core.state)?;
                }
                return Ok(());
            }
        }
        Err(SqliteError::Busy {
            path: core.file.path().to_path_buf(),
        })
    }
}

/// The size of the database: as the last commit says, or the file if the log is empty.
pub(crate) fn size_of(index: &WalIndex, core: &Core) -> Result<u32, SqliteError> {
    if index.pages > 0 {
        return Ok(index.pages);
    }
    let pages = core.file.metadata()?.len() / u64::from(core.page_size());
    Ok(u32::try_from(pages).unwrap_or(u32::MAX))
}

fn lose(core: &mut Core, reason: &str) {
    core.lost.get_or_insert_with(|| reason.to_owned());
}
