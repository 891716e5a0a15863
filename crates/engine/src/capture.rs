//! The capture side of the contract.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tidemark_format::body::FileEntry;
use tidemark_format::{Incarnation, LogSeq};

use crate::canary::{Canary, CanaryOutcome};
use crate::error::Error;

/// Everything captured so far, or the next bounded piece of it, ready to be sealed.
#[derive(Clone, Default)]
pub struct LogCut {
    /// The engine's bytes: opaque to everyone else, encrypted by the caller.
    pub payload: Vec<u8>,
    /// The plain local record to be fsynced beside the sealed object, given back at the next open.
    pub record: Vec<u8>,
    /// Whether the end of this cut is a state the database was in. If not, more follows: cut again.
    pub restorable: bool,
    /// Transactions that ended in this cut.
    pub transactions: u64,
    /// When the first of them was first seen (`observed`); never decreasing from cut to cut.
    pub first_commit: Option<Timestamp>,
    /// When the last of them was first seen.
    pub last_commit: Option<Timestamp>,
    /// Clear facts for the object's head.
    pub facts: BTreeMap<String, serde_json::Value>,
    /// Bytes of database pages in this cut, before compression.
    pub bytes_changed: u64,
}

impl fmt::Debug for LogCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogCut")
            .field("payload_bytes", &self.payload.len())
            .field("record_bytes", &self.record.len())
            .field("restorable", &self.restorable)
            .field("transactions", &self.transactions)
            .field("last_commit", &self.last_commit)
            .finish_non_exhaustive()
    }
}

/// The fact of a restorable cut that says up to which instant everything committed is in it or in an
/// earlier one (RFC 3339). The last commit's own time says less: another may have been made with it.
pub const COMPLETE_UNTIL: &str = "complete_until";

/// A condition that an operator should know, true now; it is listed in every poll while it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Stable name, for example `sqlite.wal-max`.
    pub code: &'static str,
    /// What happens, what it means, what to do.
    pub message: String,
    /// Nothing is captured while it lasts, and nothing but what the message asks for ends it: who waits
    /// for a capture is told this instead of waiting on.
    pub halts: bool,
}

/// How far a long task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes looked at.
    pub done: u64,
    /// Bytes to look at, as far as known now.
    pub total: u64,
}

/// What a poll found.
#[derive(Debug, Clone, Default)]
pub struct Poll {
    /// Poll again after this long. Zero: there is more to do at once (a catch-up runs).
    pub next: Duration,
    /// Captured bytes that wait in memory for the next cut.
    pub pending_bytes: u64,
    /// When the oldest of them was first seen: the exposure counts from here.
    pub oldest_pending: Option<Timestamp>,
    /// Everything that was committed by then is captured: it stands in cuts, or in memory for the
    /// next one. Nobody but the engine knows: a poll may have found the database locked. It stands still
    /// while nothing more is captured, as when [`Self::cut_now`] waits for a cut.
    pub complete_until: Option<Timestamp>,
    /// The bound of one cut is reached: cut now, nothing more is captured before.
    pub cut_now: bool,
    /// What holds now and should be known.
    pub alerts: Vec<Alert>,
    /// A catch-up by digest runs; cuts are not restorable until it ends.
    pub catching_up: Option<Progress>,
}

/// Consecutive pages of one file.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PageRun {
    /// Which file of the source; always 0 for SQLite.
    pub file: u32,
    /// The first page, counted from 0.
    pub first: u64,
    /// How many pages.
    pub count: u32,
    /// Bytes per page.
    pub page_size: u32,
    /// `count * page_size` bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for PageRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PageRun(file {}, {} + {} of {} B)",
            self.file, self.first, self.count, self.page_size
        )
    }
}

/// A base has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseStart {
    /// The log sequence from which replay onto this base starts: the next cut. That cut always
    /// comes, even when nothing changes.
    pub start: LogSeq,
    /// Whether it holds every page (the engine makes it so when it has to: the first base of a
    /// generation, an unfinished one before it).
    pub complete: bool,
    /// Bytes per page.
    pub page_size: u32,
    /// Pages of the database at its start.
    pub pages: u64,
}

/// The next pages of a base.
#[derive(Debug, Clone, Default)]
pub struct BaseSlice {
    /// Runs of changed pages, ascending; may be empty while the engine waits (a catch-up runs).
    pub runs: Vec<PageRun>,
    /// No more pages. The last restorable cut made after this (call `cut` until one comes: one
    /// always comes) is where the base is usable from.
    pub done: bool,
    /// How far through the database this is.
    pub progress: Progress,
    /// With `done`: the source's files and their true lengths. A file's number is its place here; one
    /// that is gone since the generation began keeps its place and has an empty path.
    pub files: Vec<FileEntry>,
}

/// What is known about the database, for status and doctor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Probe {
    /// Size of the database in bytes.
    pub bytes: u64,
    /// Bytes per page.
    pub page_size: u32,
    /// Pages.
    pub pages: u64,
    /// Size of its own log on disk.
    pub log_bytes: u64,
    /// Version of the engine's library or server.
    pub version: String,
    /// What tells this database from others, and other facts worth keeping.
    pub facts: BTreeMap<String, serde_json::Value>,
}

/// Scratch memory, one per capture thread, lent to every call: no database keeps a buffer.
#[derive(Default)]
pub struct Workspace {
    /// Bytes of any content between calls.
    pub buffer: Vec<u8>,
}

impl Workspace {
    /// An empty workspace.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The buffer, `bytes` long, content unspecified.
    pub fn take(&mut self, bytes: usize) -> &mut [u8] {
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes, 0);
        }
        self.buffer.split_at_mut(bytes).0
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workspace({} B)", self.buffer.len())
    }
}

/// What opening found out about the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is known about this database: a new incarnation begins.
    New,
    /// Nothing was missed: the log goes on where the last sealed record ended.
    Continues,
    /// Something was missed: the same database, compared page by page while polled.
    CatchUp {
        /// Why, for people.
        reason: String,
    },
    /// The folder belongs to another life of the source: a new incarnation begins.
    NewIncarnation {
        /// Why, for people.
        reason: String,
    },
}

/// A base that was begun and neither done nor abandoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnfinishedBase {
    /// Where it started.
    pub start: LogSeq,
    /// Whether it was to hold every page.
    pub complete: bool,
}

/// Asks for a turn soon, from any thread: something came that a poll would find.
#[derive(Clone)]
pub struct Wake(Option<Arc<dyn Fn() + Send + Sync>>);

impl Wake {
    /// Asks by calling `ask`, which must not block.
    pub fn new(ask: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(ask)))
    }

    /// For callers that poll on their own time alone.
    #[must_use]
    pub const fn nobody() -> Self {
        Self(None)
    }

    /// Asks for a turn.
    pub fn wake(&self) {
        if let Some(ask) = &self.0 {
            ask();
        }
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wake")
    }
}

/// What an engine is given at open.
pub struct OpenRequest<'a> {
    /// The engine's own folder for this source; made if it is missing. Nobody else writes in it.
    pub folder: PathBuf,
    /// Every record whose cut is sealed and which [`Capture::map_synced`] has not released, in
    /// order. More than that is wrong, less is a lost state.
    pub records: &'a mut dyn Iterator<Item = (LogSeq, Vec<u8>)>,
    /// Random; becomes the incarnation if a new one begins.
    pub candidate: Incarnation,
    /// For engines that are told by others that there is something new.
    pub wake: Wake,
}

impl fmt::Debug for OpenRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenRequest")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// A source, opened.
pub struct Opened {
    /// The capture.
    pub capture: Box<dyn Capture>,
    /// The life of the source that is captured.
    pub incarnation: Incarnation,
    /// What happened since it was captured last.
    pub verdict: Verdict,
    /// No generation has a finished complete base: call [`Capture::open_generation`] (unless the
    /// one that is open is to go on) and begin one.
    pub needs_complete_base: bool,
    /// The last base begun before, if it was not finished. If the caller finds it published, it
    /// calls [`Capture::base_done`] before anything else; otherwise it abandons it.
    pub unfinished_base: Option<UnfinishedBase>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("incarnation", &self.incarnation)
            .field("verdict", &self.verdict)
            .field("needs_complete_base", &self.needs_complete_base)
            .finish_non_exhaustive()
    }
}

/// An engine, configured for one source.
pub trait Engine: Send + Sync + fmt::Debug {
    /// Which engine: `sqlite`, `postgresql`.
    fn name(&self) -> &'static str;

    /// Opens the source for capture. No other capture of the same source may be open in this process.
    ///
    /// # Errors
    /// Refusals, an absent database, the system's errors.
    fn open(&self, request: OpenRequest<'_>) -> Result<Opened, Error>;

    /// What an open would meet, as far as it is cheap to look at: another text than before means
    /// that an open which failed may go well now. `None` if nothing can be told without opening.
    fn stamp(&self) -> Option<String> {
        None
    }

    /// The source is retired: takes away what the engine keeps at the database, such as a replication
    /// slot. What was done, for people; nothing if there was nothing to do.
    ///
    /// # Errors
    /// It could not be taken away; the text says what to do by hand.
    fn retire(&self) -> Result<Option<String>, Error> {
        Ok(None)
    }

    /// No canaries are wanted any more: takes away what they were kept in. What was done, for people;
    /// nothing if there was nothing to do.
    ///
    /// # Errors
    /// It could not be taken away; the text says what to do by hand.
    fn remove_canary(&self) -> Result<Option<String>, Error> {
        Ok(None)
    }
}

/// A database that is being captured.
pub trait Capture: Send {
    /// Moves the marks, reads the log to its last commit, does a slice of a catch-up. Never blocks long.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`]; a failed poll may be repeated.
    fn poll(&mut self, work: &mut Workspace) -> Result<Poll, Error>;

    /// Called often while [`Self::poll`] isn't: a call failed and waits to be repeated, or the capture
    /// ends and its last cut can't go out yet. Whatever failed, the database's own log must not grow past
    /// its bound for our sake: at it, what holds the log is let go.
    fn keep_bounds(&mut self) {}

    /// Cuts everything captured so far, or the next piece of at most about 8 MiB.
    ///
    /// `next_seq` is the sequence the cut will have. `None`: nothing new. Cuts may be made before
    /// earlier ones are sealed; they must be sealed in order.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`]; nothing is lost, the call may be repeated.
    fn cut(&mut self, next_seq: LogSeq, work: &mut Workspace) -> Result<Option<LogCut>, Error>;

    /// The cut's object and record are fsynced in the spool: the page map advances.
    ///
    /// # Errors
    /// The map could not be written: the record must then be kept (as it must until
    /// [`Self::map_synced`] names it), and the capture opened again.
    fn sealed(&mut self, seq: LogSeq) -> Result<(), Error>;

    /// As many failure domains as make "durable" hold everything up to `seq`. Engines whose database
    /// waits for that may tell it so.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    fn durable(&mut self, seq: LogSeq) -> Result<(), Error> {
        let _ = seq;
        Ok(())
    }

    /// Cuts that were made and will never be sealed (the spool gave them up): they and everything
    /// pending are forgotten, and a catch-up finds what they held.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    fn give_up(&mut self) -> Result<(), Error>;

    /// Fsyncs the map; the records up to the sequence returned are not needed any more.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`]; the records are still needed then.
    fn map_synced(&mut self) -> Result<Option<LogSeq>, Error>;

    /// A new generation with a new digest key; every cut made before must be sealed. Its first base
    /// is complete; until that is done, cuts carry no digest of the whole.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    fn open_generation(&mut self, digest_key: [u8; 32]) -> Result<(), Error>;

    /// Begins a base that starts with the next cut, `next_seq`. An unfinished one is abandoned.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    fn begin_base(&mut self, next_seq: LogSeq, complete: bool) -> Result<BaseStart, Error>;

    /// The next pages of the base, at most about `max_bytes`. Call [`Self::poll`] between slices,
    /// by the same thread, so that marks keep moving.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Retry`]: something was missed meanwhile, the base is given up and must be
    /// begun again (with its next number). Other kinds: the call may be repeated.
    fn base_slice(&mut self, max_bytes: usize, work: &mut Workspace) -> Result<BaseSlice, Error>;

    /// Whether the base read to its end is exact. Ask once the cut it is usable from is sealed, and
    /// before it is published.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Retry`] as for [`Self::base_slice`]: don't publish it, begin again.
    fn base_stands(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// The base is published: the next one holds what changed since this one began.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`]; without it the next base holds more than it must, never less.
    fn base_done(&mut self) -> Result<(), Error>;

    /// The base won't be published: the next one holds what changed since the one before.
    fn base_abandoned(&mut self);

    /// Writes a canary, or begins to; an engine that was not told how does nothing. It never waits for the
    /// database or the network, and no failure of it concerns the capture.
    fn canary(&mut self, canary: &Canary) {
        let _ = canary;
    }

    /// What came of the last canary, once that is known; told once.
    fn canary_outcome(&mut self) -> Option<CanaryOutcome> {
        None
    }

    /// What is known about the database now.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    fn probe(&mut self) -> Result<Probe, Error>;

    /// Gives up every hold on the database. Dropping a capture does the same.
    fn release(self: Box<Self>);
}
