//! Capturing a database in a rollback-journal mode: no log to follow, so its pages are compared.
//!
//! Pass 1 reads the whole file without a lock and takes in what differs (perhaps torn: its cuts are
//! not restorable). Pass 2 holds SHARED: if nothing was written since pass 1 began, that was a state
//! of the database; otherwise it compares again, quickly, because little differs now. It holds up
//! writers no longer than `stall_max`: past that it gives up, alerts, and tries again.
//!
//! The base reads its slices under SHARED, and only while the file is what was captured last.

use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tidemark_engine::canary::{Canary, CanaryOutcome};
use tidemark_engine::{BaseSlice, BaseStart, Capture, Error, LogCut, Poll, Probe, Workspace};
use tidemark_format::LogSeq;
use tidemark_host::Monotonic;

use crate::canary::CanaryPen;
use crate::core::{Core, Position};
use crate::error::SqliteError;
use crate::scan::DiffSlice;
use crate::stamp::Stamp;

/// Read by one poll of pass 1.
const FIRST_PASS_BYTES: u32 = 8 << 20;
/// Read between two looks at the clock in pass 2.
const SECOND_PASS_BYTES: u32 = 4 << 20;
/// Somebody writes: try again after this.
const BUSY_AGAIN: Duration = Duration::from_millis(20);
/// A lock that is held this long is worth an alert.
const LOCKED_LONG: Duration = Duration::from_secs(30);
/// Polls while nothing happens.
const IDLE: Duration = Duration::from_millis(250);

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing, or waiting for the next look.
    Idle,
    /// Reading without a lock, since the file had this stamp.
    FirstPass(Stamp),
    /// Pass 1 is through; the lock is to be taken.
    SecondPass(Stamp),
}

/// A database in a rollback-journal mode. Field order is drop order: the connection before the file.
#[derive(Debug)]
pub(crate) struct RollbackCapture {
    connection: Connection,
    pen: CanaryPen,
    core: Core,
    stage: Stage,
    /// What was captured last, as a whole.
    captured: Option<Stamp>,
    /// What is captured is a state of the database.
    consistent: bool,
    looked: Option<Monotonic>,
    locked_since: Option<Monotonic>,
    /// The longest time that SHARED was ours, in which nobody could commit.
    hold_max: Duration,
}

impl RollbackCapture {
    pub(crate) fn new(connection: Connection, core: Core, captured: Option<Stamp>) -> Self {
        Self {
            connection,
            pen: CanaryPen::default(),
            core,
            stage: Stage::Idle,
            captured,
            consistent: captured.is_some(),
            looked: None,
            locked_since: None,
            hold_max: Duration::ZERO,
        }
    }

    /// Opens the connection that takes SHARED, read-only: recovery is the application's.
    pub(crate) fn connect(core: &Core) -> Result<Connection, SqliteError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let path = core.file.path();
        let connection = Connection::open_with_flags(path, flags)
            .map_err(SqliteError::sqlite("opening the database", path))?;
        connection
            .busy_timeout(Duration::ZERO)
            .map_err(SqliteError::sqlite("setting a timeout", path))?;
        Ok(connection)
    }

    /// Runs `work` while SHARED is held: nobody writes meanwhile. `None` if a writer is at it.
    fn under_shared<T>(
        &mut self,
        work: impl FnOnce(&mut Core) -> Result<T, SqliteError>,
    ) -> Result<Option<T>, SqliteError> {
        let path = self.core.file.path().to_path_buf();
        self.connection
            .execute_batch("BEGIN")
            .map_err(SqliteError::sqlite("beginning to read", &path))?;
        let read = self
            .connection
            .query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
        let begun = self.core.clock.monotonic();
        let page_size = self.core.page_size();
        let done = match read {
            Ok(_) => self
                .core
                .file
                .check_rollback(page_size)
                .and_then(|()| work(&mut self.core).map(Some)),
            // A journal that only the application may roll back counts as a writer at work.
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ReadOnly) => {
                Ok(None)
            }
            Err(error) => match SqliteError::sqlite("taking a read lock", &path)(error) {
                SqliteError::Busy { .. } => Ok(None),
                error => Err(error),
            },
        };
        self.connection
            .execute_batch("ROLLBACK")
            .map_err(SqliteError::sqlite("giving up a read", &path))?;
        self.hold_max = self.hold_max.max(self.core.clock.monotonic().since(begun));
        self.note_lock(done.as_ref().is_ok_and(Option::is_none));
        done
    }

    fn note_lock(&mut self, locked: bool) {
        let now = self.core.clock.monotonic();
        if !locked {
            self.locked_since = None;
            self.core.alerts.remove("sqlite.locked");
            return;
        }
        let since = *self.locked_since.get_or_insert(now);
        if now.since(since) >= LOCKED_LONG {
            self.core.alerts.insert(
                "sqlite.locked",
                "the application has held the database locked, or left a journal to be rolled back, for more than 30 s: nothing can be captured. End its transaction, open the database with it once, or use PRAGMA locking_mode=NORMAL.".to_owned(),
            );
        }
    }

    fn poll_once(&mut self, work: &mut Workspace) -> Result<Poll, SqliteError> {
        self.core.file.check_in_place()?;
        self.core.file.check_rollback(self.core.page_size())?;
        let next = match self.stage {
            _ if self.core.book.is_none() => IDLE,
            Stage::Idle => self.look()?,
            Stage::FirstPass(stamp) => self.first_pass(stamp, work)?,
            Stage::SecondPass(stamp) => self.second_pass(stamp, work)?,
        };
        let mut poll = self.core.poll_answer(next, self.consistent);
        if self.stage != Stage::Idle {
            // Between the passes, too: what is captured isn't all of it yet.
            let progress = self.core.progress(self.core.pages);
            poll.catching_up.get_or_insert(progress);
        }
        Ok(poll)
    }

    /// Begins pass 1 if the file isn't what was captured.
    fn look(&mut self) -> Result<Duration, SqliteError> {
        let now = self.core.clock.monotonic();
        let rested = self
            .looked
            .is_none_or(|last| now.since(last) >= self.core.config.scan_every);
        // What is captured waits to be cut as the state it is, or a cut is owed that says so.
        let uncut = !self.core.pending.is_empty() || self.core.ends_in_piece;
        let waits = self.consistent && uncut;
        if !rested || waits {
            return Ok(self.core.config.scan_every.min(IDLE));
        }
        let at = self.core.clock.now();
        if self.core.lost.is_none() && self.captured == Some(Stamp::of(&self.core.file)?) {
            self.looked = Some(now);
            self.core.complete(at);
            return Ok(self.core.config.scan_every.min(IDLE));
        }
        let Some(stamp) = self.under_shared(|core| Stamp::of(&core.file))? else {
            return Ok(BUSY_AGAIN);
        };
        if self.core.lost.is_some() {
            self.core.void_base();
        }
        self.begin(stamp);
        Ok(Duration::ZERO)
    }

    fn begin(&mut self, stamp: Stamp) {
        self.consistent = false;
        self.core.pages = stamp.pages(self.core.page_size());
        self.core.begin_diff(false);
        self.stage = Stage::FirstPass(stamp);
    }

    fn first_pass(&mut self, stamp: Stamp, work: &mut Workspace) -> Result<Duration, SqliteError> {
        if self.core.lost.is_some() {
            self.core.void_base();
            self.begin(stamp);
        }
        match self.core.diff_slice(FIRST_PASS_BYTES, work)? {
            DiffSlice::More => Ok(Duration::ZERO),
            DiffSlice::Full => Ok(BUSY_AGAIN),
            DiffSlice::Done => {
                self.stage = Stage::SecondPass(stamp);
                Ok(Duration::ZERO)
            }
        }
    }

    fn second_pass(&mut self, first: Stamp, work: &mut Workspace) -> Result<Duration, SqliteError> {
        let (begun, at) = (self.core.clock.monotonic(), self.core.clock.now());
        let outcome = self.under_shared(|core| {
            let stamp = Stamp::of(&core.file)?;
            if stamp == first && first.is_settled(core.clock.now()) {
                return Ok((DiffSlice::Done, stamp));
            }
            core.pages = stamp.pages(core.page_size());
            core.begin_diff(false);
            loop {
                let slice = core.diff_slice(SECOND_PASS_BYTES, work)?;
                if slice == DiffSlice::Done && Stamp::of(&core.file)? != stamp {
                    // A writer that SQLite's locks don't stop (another VFS, `nolock`): no state of it.
                    return Ok((DiffSlice::More, stamp));
                }
                let late = core.clock.monotonic().since(begun) >= core.config.stall_max;
                if slice != DiffSlice::More || late {
                    return Ok((slice, stamp));
                }
            }
        })?;
        self.looked = Some(self.core.clock.monotonic());
        match outcome {
            None => Ok(BUSY_AGAIN),
            Some((DiffSlice::Done, stamp)) => {
                self.stage = Stage::Idle;
                self.captured = Some(stamp);
                self.consistent = true;
                self.core.complete(at);
                self.core.pending.shrink(self.core.pages);
                self.core.alerts.remove("sqlite.max-stall");
                Ok(self.core.config.scan_every.min(IDLE))
            }
            Some((DiffSlice::Full, _)) => {
                self.begin(first);
                Ok(BUSY_AGAIN)
            }
            Some((DiffSlice::More, _)) => {
                self.stage = Stage::Idle;
                self.core.diff = None;
                self.captured = None;
                self.core.alerts.insert(
                    "sqlite.max-stall",
                    format!(
                        "comparing the database under a read lock takes longer than max_stall ({} ms), which would hold up the application: this look was given up. Use WAL (PRAGMA journal_mode=WAL), or raise max_stall.",
                        self.core.config.stall_max.as_millis()
                    ),
                );
                Ok(self.core.config.scan_every)
            }
        }
    }
}

impl Capture for RollbackCapture {
    fn poll(&mut self, work: &mut Workspace) -> Result<Poll, Error> {
        Ok(self.poll_once(work)?)
    }

    fn cut(&mut self, next_seq: LogSeq, _work: &mut Workspace) -> Result<Option<LogCut>, Error> {
        if self.stage != Stage::Idle && !self.core.is_full() {
            // Between the passes it would be a piece, and at the pace of the cuts every one could be.
            return Ok(None);
        }
        let position = Position {
            cursor: None,
            rewound_from: 0,
            stamp: self.captured.filter(|_| self.consistent),
            at_commit: self.consistent,
        };
        let cut = self.core.cut(next_seq, &position)?;
        if cut.is_none() {
            // Somebody asked although nothing waits: whoever did wants what is there now.
            self.looked = None;
        }
        Ok(cut)
    }

    fn sealed(&mut self, seq: LogSeq) -> Result<(), Error> {
        Ok(self.core.seal(seq)?)
    }

    fn give_up(&mut self) -> Result<(), Error> {
        self.captured = None;
        self.consistent = false;
        self.stage = Stage::Idle;
        self.core.diff = None;
        Ok(self.core.give_up()?)
    }

    fn map_synced(&mut self) -> Result<Option<LogSeq>, Error> {
        Ok(self.core.sync_map()?)
    }

    fn open_generation(&mut self, digest_key: [u8; 32]) -> Result<(), Error> {
        Ok(self.core.open_generation(digest_key)?)
    }

    fn begin_base(&mut self, next_seq: LogSeq, complete: bool) -> Result<BaseStart, Error> {
        Ok(self.core.begin_base(next_seq, complete)?)
    }

    fn base_slice(&mut self, max_bytes: usize, _work: &mut Workspace) -> Result<BaseSlice, Error> {
        if self.stage != Stage::Idle || !self.consistent || self.core.lost.is_some() {
            return Ok(BaseSlice::default());
        }
        let captured = self.captured;
        let slice = self.under_shared(|core| {
            if captured == Some(Stamp::of(&core.file)?) {
                core.base_slice(max_bytes).map(Some)
            } else {
                Ok(None)
            }
        })?;
        match slice.flatten() {
            Some(slice) => Ok(slice),
            None => {
                // The next poll looks at once.
                self.looked = None;
                Ok(BaseSlice::default())
            }
        }
    }

    fn base_stands(&mut self) -> Result<(), Error> {
        Ok(self.core.check_base_stands()?)
    }

    fn base_done(&mut self) -> Result<(), Error> {
        Ok(self.core.base_done()?)
    }

    fn base_abandoned(&mut self) {
        self.core.base_abandoned();
    }

    fn canary(&mut self, canary: &Canary) {
        if self.core.config.canary {
            self.pen.write(self.core.file.path(), canary);
        }
    }

    fn canary_outcome(&mut self) -> Option<CanaryOutcome> {
        self.pen.take_told()
    }

    fn probe(&mut self) -> Result<Probe, Error> {
        let mut probe = self.core.probe("rollback", 0)?;
        let hold_ms = u64::try_from(self.hold_max.as_millis()).unwrap_or(u64::MAX);
        probe
            .facts
            .insert("read_lock_held_max_ms".to_owned(), hold_ms.into());
        Ok(probe)
    }

    fn release(self: Box<Self>) {}
}
