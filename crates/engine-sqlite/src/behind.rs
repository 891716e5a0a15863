//! Noticing that the file of a database in WAL mode was written behind SQLite's back
//! (`cp backup.db app.db`).
//!
//! Only a checkpoint writes that file, and it shows in the wal-index: how far it will come stands
//! there before it writes the first page, how far it came afterwards. While the mark sits on
//! READ_LOCK(0) none can write at all. Every [`Look`] takes the file's size and times and what the
//! wal-index says of checkpoints, and is compared with the look before it. No interval is left out:
//! the chain goes on over polls that end early, while the mark is released, and, through the local
//! record, from one agent to the next. One of three things follows:
//!
//! 1. **Nothing wrote.** Size and times are the same, and the time was older than a tick of the file
//!    system's clock.
//! 2. **Somebody else wrote**, for certain: size or modification time differ, and no checkpoint can
//!    have done it: the wal-index shows none, or the mark sat on READ_LOCK(0) throughout, or the time
//!    went back (`cp -p`, `rsync -a`). Every page is compared with what was captured.
//! 3. **Doubt.** A checkpoint wrote, perhaps not alone; or only the change time differs (`chmod`); or
//!    the two looks are within one tick. Then the content decides, before the next cut: see
//!    [`crate::witness`].
//!
//! **What that finds.** A write that falls together with no checkpoint: always, whatever it wrote, at
//! the next full poll (20 ms under load, 250 ms at rest), the next cut or the next start. A write that
//! does fall together with one: as [`crate::witness`] says: every copy of an earlier state that differs
//! in one of the witnesses, and nearly every copy of anything else.
//!
//! **What it doesn't find**, before the next complete base reads every page: within the few
//! milliseconds of a checkpoint, a change of single pages that are no witnesses, or a copy of a state so
//! young that no witness changed since. And somebody who sets back the modification time of what
//! he wrote, to the nanosecond.

use std::os::unix::fs::MetadataExt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tidemark_engine::Workspace;
use tidemark_host::Monotonic;

use crate::core::Core;
use crate::error::SqliteError;
use crate::files::{DatabaseFile, FileId};
use crate::log::Log;
use crate::shm::{Backfill, Shm};
use crate::tail::Cursor;

/// Two writes within one tick of the file system's clock may leave the same time.
const TICK: SignedDuration = SignedDuration::from_millis(100);
/// While checkpoints go on, the content is looked at this often; and before every cut.
const CHECK_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// The file and what the wal-index says of checkpoints, at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Look {
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    backfill: Backfill,
    /// A checkpoint may be writing, or was ended before its end.
    open: bool,
    /// A write right after this look may leave the same time.
    recent: bool,
}

/// What happened between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    Doubtful,
    Behind,
}

impl Look {
    /// What stands now; `None` while somebody writes the wal-index.
    fn take(core: &Core, shm: &Shm) -> Result<Option<Self>, SqliteError> {
        let Some(before) = shm.backfill()? else {
            return Ok(None);
        };
        let look = Self::of(&core.file, before, core.clock.now())?;
        let steady = shm.backfill()? == Some(before);
        Ok(Some(Self {
            open: look.open || !steady,
            ..look
        }))
    }

    /// What stands before any connection of ours is open; `None` if there is no wal-index.
    pub(crate) fn before_opening(file: &DatabaseFile, now: Timestamp) -> Option<Self> {
        let backfill = Shm::peek(file.path())?;
        Self::of(file, backfill, now).ok()
    }

    fn of(file: &DatabaseFile, backfill: Backfill, now: Timestamp) -> Result<Self, SqliteError> {
        let metadata = file.metadata()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Ok(Self {
            bytes: metadata.len(),
            modified,
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            backfill,
            open: backfill.is_open(),
            recent: time(modified).is_none_or(|at| now.duration_since(at).abs() < TICK),
        })
    }

    /// What happened from this look to `now`, if the mark sat on READ_LOCK(0) throughout or not.
    pub(crate) fn compare(&self, now: &Self, at_rest: bool, clock: Timestamp) -> Change {
        if (self.bytes, self.modified) == (now.bytes, now.modified) {
            return if self.changed == now.changed && !self.recent {
                Change::Nothing
            } else {
                Change::Doubtful
            };
        }
        let checkpointed = self.open || now.open || self.backfill != now.backfill;
        // A clock that was set back lets a checkpoint's time go back, too.
        let went_back = now.modified < self.modified
            && time(self.modified).is_some_and(|earlier| earlier <= clock);
        if at_rest || !checkpointed || went_back {
            Change::Behind
        } else {
            Change::Doubtful
        }
    }
}

fn time((seconds, nanos): (i64, i64)) -> Option<Timestamp> {
    let nanos = i32::try_from(nanos).ok()?;
    Timestamp::new(seconds, nanos).ok()
}

/// What is known besides the last look, which stands in the core.
#[derive(Debug)]
pub(crate) struct Guard {
    /// While the mark sits on READ_LOCK(0): where capture stood when it was put there.
    rest: Option<Cursor>,
    /// It did so at the last look, and has not moved since.
    rested: bool,
    /// The content must be looked at.
    doubt: bool,
    /// It was, since the doubt arose, as far as that goes while the log holds more than the file.
    glanced: bool,
    checked: Monotonic,
    /// Which pages are looked at next.
    round: u32,
}

impl Guard {
    /// The chain goes on from the look that stands in the core.
    pub(crate) const fn new() -> Self {
        Self {
            rest: None,
            rested: false,
            doubt: true,
            glanced: false,
            checked: Monotonic::from_origin(std::time::Duration::ZERO),
            round: 0,
        }
    }

    /// The mark may stand anywhere, or there is none.
    pub(crate) const fn mark_moves(&mut self) {
        self.rest = None;
        self.rested = false;
    }

    /// The mark sits on READ_LOCK(0), put there when capture stood at `cursor`.
    pub(crate) const fn mark_rests(&mut self, cursor: Cursor) {
        self.rest = Some(cursor);
    }

    /// Looks, and compares with the look before.
    pub(crate) fn look(&mut self, core: &mut Core, shm: &Shm) -> Result<(), SqliteError> {
        let Some(now) = Look::take(core, shm)? else {
            return Ok(());
        };
        let change = core.look.map_or(Change::Doubtful, |last| {
            last.compare(&now, self.rested, core.clock.now())
        });
        core.look = Some(now);
        self.rested = self.rest.is_some();
        match change {
            Change::Nothing => Ok(()),
            Change::Doubtful => {
                self.doubt = true;
                self.glanced = false;
                Ok(())
            }
            Change::Behind => Err(core.written_behind("without a checkpoint".to_owned())?),
        }
    }

    /// Whether the content is due to be looked at in a poll.
    pub(crate) fn is_due(&self, now: Monotonic) -> bool {
        self.doubt && now.since(self.checked) >= CHECK_EVERY
    }

    /// Looks at the content if there is doubt. Call only while the file holds captured commits and
    /// nothing else.
    pub(crate) fn check(
        &mut self,
        core: &mut Core,
        log: &mut Log,
        work: &mut Workspace,
    ) -> Result<(), SqliteError> {
        // Nothing was captured since everything was put into the file, and nothing can be put there.
        let whole = self.rest.is_some_and(|rest| rest.is_at(&log.cursor));
        if !self.doubt || (self.glanced && !whole) {
            return Ok(());
        }
        let Some(index) = log.shm.read()? else {
            return Ok(());
        };
        self.checked = core.clock.monotonic();
        let round = whole.then_some(self.round);
        self.round = self.round.wrapping_add(u32::from(whole));
        self.glanced = true;
        self.doubt = !whole;
        let Some(page) = core.differing_page(&index, round, work)? else {
            return Ok(());
        };
        // A checkpoint passes over a page that is in the log again behind its end, and nevertheless
        // says that it came there. That later frame is committed: it can be captured now.
        if !whole {
            let all = match log.capture(core, work) {
                Ok(captured) => captured.all,
                Err(SqliteError::Busy { .. }) => false,
                Err(error) => return Err(error),
            };
            if !all || core.lost.is_some() || !core.pending.leaves(page) {
                self.glanced = false;
                return Ok(());
            }
        }
        Err(core.written_behind(format!("page {page} differs"))?)
    }
}

impl Core {
    /// What the log says no longer describes the file.
    fn written_behind(&mut self, how: String) -> Result<SqliteError, SqliteError> {
        self.lost = Some(format!(
            "the database file was written behind SQLite's back ({how})"
        ));
        self.complete_until = None;
        self.void_base();
        // The next opening takes it for a file that was put in its place, and compares every page.
        self.state.file = FileId::default();
        self.folder.store(&self.state)?;
        Ok(SqliteError::WrittenBehind {
            path: self.file.path().to_path_buf(),
            how,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> (i64, i64) {
        (1_000 + ms / 1_000, ms % 1_000 * 1_000_000)
    }

    fn look(bytes: u64, modified_ms: i64, backfilled: u32) -> Look {
        Look {
            bytes,
            modified: at(modified_ms),
            changed: at(modified_ms),
            backfill: Backfill::at([1, 2], backfilled),
            open: false,
            recent: false,
        }
    }

    fn compare(earlier: &Look, now: &Look) -> Change {
        earlier.compare(now, false, Timestamp::new(2_000, 0).unwrap())
    }

    #[test]
    fn only_a_checkpoint_that_shows_explains_a_changed_file() {
        let before = look(8192, 0, 5);
        assert_eq!(compare(&before, &before), Change::Nothing);
        assert_eq!(compare(&before, &look(8192, 50, 5)), Change::Behind);
        assert_eq!(compare(&before, &look(4096, 0, 5)), Change::Behind);
        assert_eq!(compare(&before, &look(8192, 50, 6)), Change::Doubtful);
        let open = Look {
            open: true,
            ..look(8192, 50, 5)
        };
        assert_eq!(compare(&before, &open), Change::Doubtful);
        assert_eq!(compare(&open, &look(8192, 90, 5)), Change::Doubtful);
    }

    #[test]
    fn at_rest_no_checkpoint_explains_anything() {
        let (before, now) = (look(8192, 0, 5), look(8192, 50, 6));
        let clock = Timestamp::new(2_000, 0).unwrap();
        assert_eq!(before.compare(&now, true, clock), Change::Behind);
        assert_eq!(before.compare(&before, true, clock), Change::Nothing);
    }

    #[test]
    fn a_time_that_goes_back_is_no_checkpoint_unless_the_clock_did() {
        let (before, now) = (look(8192, 500_000, 5), look(8192, 50, 6));
        assert_eq!(compare(&before, &now), Change::Behind);
        let set_back = Timestamp::new(1_001, 0).unwrap();
        assert_eq!(before.compare(&now, false, set_back), Change::Doubtful);
    }

    #[test]
    fn other_rights_and_writes_within_one_tick_are_doubts() {
        let before = look(8192, 0, 5);
        let other_rights = Look {
            changed: at(77),
            ..before
        };
        assert_eq!(compare(&before, &other_rights), Change::Doubtful);
        let recent = Look {
            recent: true,
            ..before
        };
        assert_eq!(compare(&recent, &before), Change::Doubtful);
        assert_eq!(compare(&before, &recent), Change::Nothing);
    }
}
