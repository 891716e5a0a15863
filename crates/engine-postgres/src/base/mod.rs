//! Bases: the server's own base backup as page runs, each after the first only what changed.
//!
//! # Invariants
//!
//! - A base is taken by one task per source ([`take`]) on a connection of its own: over the network, or
//!   from the data directory ([`local`]). [`Bases`] is what the capture holds: it never waits for them.
//! - Numbers of files are stable inside a generation; number 0 is the layout
//!   ([`tidemark_format::postgres::layout`]).
//! - Whether a page changed is told by a digest of every page of the base before, kept on disk
//!   ([`digests`]). That base is the newest *published* one: [`Bases::done`] moves it on.
//! - A slice is `done` only once the log is received up to the base's stop position: without it the
//!   base could not be made consistent.
//!
//! # Failure
//!
//! Whatever goes wrong ends the base ([`tidemark_engine::ErrorKind::Retry`]) and leaves the one before
//! as it was. Damaged or lost digests cost a complete base. A page that is wrong on the server itself
//! is stored as it is, listed in the layout and told as an alert for as long as the newest base has it.
//!
//! # Crash consistency
//!
//! A store has its name only once it is whole and synced, and becomes the parent only when the base is
//! published. A crash between is settled by [`Bases::unfinished`].
//!
//! # Bounds
//!
//! About 3 MiB of pages between the socket and the caller, 3 MiB more for each thread that reads a data
//! directory, and the table of the files while a base
//! runs (about 20 MB for 200,000 files); nothing between bases.

pub(crate) mod checksum;
mod databases;
pub(crate) mod digests;
mod error;
mod exclude;
mod listing;
mod local;
mod outside;
mod pages;
mod readers;
mod server;
mod settings;
pub(crate) mod state;
pub(crate) mod table;
mod take;
pub(crate) mod tar;
mod walk;

use std::collections::VecDeque;
use std::path::PathBuf;

use tidemark_engine::{Alert, BaseSlice, BaseStart, Error, PageRun, Progress, UnfinishedBase};
use tidemark_format::LogSeq;
use tidemark_format::postgres::Lsn;
use tidemark_format::postgres::layout::UNIT_BYTES;
use tidemark_host::files;
use tokio::sync::mpsc;

pub use error::BaseError;
pub use settings::{LogStart, Reading, Settings};
pub use tar::TarError;

use crate::conninfo::ConnInfo;
use digests::Store;
use state::{Begun, State, sweep};
use table::FileTable;
use take::{Shared, Work};

/// Pages are wrong on the server.
pub const ALERT_BAD_PAGES: &str = "postgresql.bad-pages";
/// Something in the data directory is in no base.
pub const ALERT_LEFT_OUT: &str = "postgresql.left-out";
/// A base waits for a standby's restart point.
pub const ALERT_BASE_WAITS: &str = "postgresql.base-waits";
/// Batches between the task and the caller, of about a mebibyte each.
const BATCHES_AHEAD: usize = 1;

/// A base in the works.
#[derive(Debug)]
struct Running {
    number: u64,
    runs: mpsc::Receiver<Vec<PageRun>>,
    shared: Shared,
    task: tokio::task::JoinHandle<()>,
    /// Received and not given out yet.
    waiting: VecDeque<PageRun>,
    /// The last slice was given out.
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The bases of one source.
#[derive(Debug)]
pub struct Bases {
    folder: PathBuf,
    settings: Settings,
    state: State,
    running: Option<Running>,
    reading: Reading,
}

impl Bases {
    /// Opens the folder, which nobody else writes in; makes it if it is missing.
    ///
    /// # Errors
    /// The system's.
    pub fn open(folder: PathBuf, settings: Settings) -> Result<Self, Error> {
        Self::opened(folder, settings).map_err(Error::from)
    }

    fn opened(folder: PathBuf, settings: Settings) -> Result<Self, BaseError> {
        files::create_private_folder(&folder)?;
        let state = State::load(&folder)?;
        let bases = Self {
            folder,
            settings,
            state,
            running: None,
            reading: Reading::default(),
        };
        bases.sweep();
        Ok(bases)
    }

    /// Says where the bytes of bases are to come from, beginning with the next one.
    pub const fn read_from(&mut self, reading: Reading) {
        self.reading = reading;
    }

    /// Says which server is to be asked, beginning with the next one.
    pub fn take_from(&mut self, info: ConnInfo) {
        self.settings.info = info;
    }

    /// Removes the stores that are not needed.
    fn sweep(&self) {
        let begun = self.state.begun.map(|begun| begun.number);
        let keep: Vec<u64> = self.state.parent.into_iter().chain(begun).collect();
        sweep(&self.folder, &keep);
    }

    fn remember(&self) -> Result<(), BaseError> {
        self.state.store(&self.folder)
    }

    /// Whether no base of the open generation is published, as far as is known here.
    #[must_use]
    pub const fn needs_complete(&self) -> bool {
        self.state.key.is_none() || self.state.parent.is_none()
    }

    /// The base begun last, if it was neither done nor abandoned.
    #[must_use]
    pub fn unfinished(&self) -> Option<UnfinishedBase> {
        self.state.begun.map(|begun| UnfinishedBase {
            start: begun.start,
            complete: begun.complete,
        })
    }

    /// A new generation with a new digest key: its first base is complete.
    ///
    /// # Errors
    /// The system's.
    pub fn open_generation(&mut self, key: [u8; 32]) -> Result<(), Error> {
        self.start_over(Some(key)).map_err(Error::from)
    }

    /// A new incarnation: nothing here is of it.
    ///
    /// # Errors
    /// The system's.
    pub fn forget(&mut self) -> Result<(), Error> {
        self.start_over(None).map_err(Error::from)
    }

    fn start_over(&mut self, key: Option<[u8; 32]>) -> Result<(), BaseError> {
        self.running = None;
        self.state.key = key;
        self.state.parent = None;
        self.state.begun = None;
        self.state.bad_pages = None;
        self.state.left_out = None;
        self.remember()?;
        self.sweep();
        Ok(())
    }

    /// Begins a base that starts with the cut `next_seq`, which begins at `log.from`. An unfinished
    /// one is abandoned.
    ///
    /// # Errors
    /// The system's.
    pub fn begin(
        &mut self,
        next_seq: LogSeq,
        complete: bool,
        log: LogStart,
    ) -> Result<BaseStart, Error> {
        self.started(next_seq, complete, log).map_err(Error::from)
    }

    fn started(
        &mut self,
        start: LogSeq,
        complete: bool,
        log: LogStart,
    ) -> Result<BaseStart, BaseError> {
        let key = self.state.key.ok_or(BaseError::Contract(
            "a base was begun before any generation",
        ))?;
        self.abandon();
        let before = if complete { None } else { self.parent(&key) };
        let complete = before.is_none();
        let number = self.state.next;
        self.state.next += 1;
        self.state.begun = Some(Begun {
            number,
            start,
            complete,
        });
        self.remember()?;
        self.sweep();
        let (sender, runs) = mpsc::channel(BATCHES_AHEAD);
        let shared = Shared::default();
        let task = self.settings.runtime.spawn(take::take(Work {
            settings: self.settings.clone(),
            folder: self.folder.clone(),
            number,
            key,
            before,
            log,
            runs: sender,
            shared: shared.clone(),
            reading: self.reading,
        }));
        self.running = Some(Running {
            number,
            runs,
            shared,
            task,
            waiting: VecDeque::new(),
            ended: false,
        });
        Ok(BaseStart {
            start,
            complete,
            page_size: UNIT_BYTES,
            pages: self.state.image_bytes.div_ceil(u64::from(UNIT_BYTES)),
        })
    }

    /// What the newest published base has; nothing if there is none, or it is damaged.
    fn parent(&mut self, key: &[u8; 32]) -> Option<(Store, FileTable)> {
        let number = self.state.parent?;
        match Store::open(&self.folder, number, key) {
            Ok(opened) => Some(opened),
            Err(error) => {
                tracing::warn!(error = %error, "the page digests can't be used: this base is complete");
                self.state.parent = None;
                None
            }
        }
    }

    /// The next pages; nothing while the server is waited for. `received` is where the log ends that
    /// is captured.
    ///
    /// # Errors
    /// [`tidemark_engine::ErrorKind::Retry`]: the base failed and must be begun again.
    pub fn slice(&mut self, max_bytes: usize, received: Lsn) -> Result<BaseSlice, Error> {
        match self.sliced(max_bytes, received) {
            Ok(slice) => Ok(slice),
            Err(error) => {
                self.running = None;
                // Whatever failed, the base is given up; a repeated call would not help it.
                Err(match error {
                    BaseError::Contract(_) => error.into(),
                    _ => Error::wrapping(tidemark_engine::ErrorKind::Retry, error),
                })
            }
        }
    }

    fn sliced(&mut self, max_bytes: usize, received: Lsn) -> Result<BaseSlice, BaseError> {
        let Some(running) = self.running.as_mut().filter(|running| !running.ended) else {
            return Err(BaseError::Contract("a slice was asked for without a base"));
        };
        // Looked at before the channel: what was sent before the outcome is in the channel then.
        let outcome = running.shared.lock().outcome.take();
        let runs = running.take_runs(max_bytes);
        let stop = match outcome {
            Some(Err(error)) => return Err(error),
            Some(Ok(finished)) => {
                let mut told = running.shared.lock();
                let stop = told.stop;
                told.outcome = Some(Ok(finished));
                stop
            }
            None if running.task.is_finished() && running.shared.lock().outcome.is_none() => {
                return Err(BaseError::Stopped);
            }
            None => None,
        };
        let drained = running.waiting.is_empty() && running.runs.is_empty();
        let logged = stop.is_some_and(|stop| received >= stop.lsn);
        let progress = running.progress();
        if !(drained && logged) {
            return Ok(BaseSlice {
                runs,
                done: false,
                progress,
                files: Vec::new(),
            });
        }
        let key = self.state.key.ok_or(BaseError::Stopped)?;
        let files = digests::files(&self.folder, running.number, &key)?;
        running.ended = true;
        Ok(BaseSlice {
            runs,
            done: true,
            progress,
            files,
        })
    }

    /// Whether the base that was read to its end is exact.
    ///
    /// # Errors
    /// [`tidemark_engine::ErrorKind::Retry`]: it was given up meanwhile.
    pub fn stands(&self) -> Result<(), Error> {
        match &self.running {
            Some(running) if running.ended => Ok(()),
            _ => Err(BaseError::Stopped.into()),
        }
    }

    /// The base is published: the next one holds what differs from it.
    ///
    /// # Errors
    /// The system's; the next base then holds more than it must.
    pub fn done(&mut self) -> Result<(), Error> {
        self.finished().map_err(Error::from)
    }

    fn finished(&mut self) -> Result<(), BaseError> {
        let Some(begun) = self.state.begun else {
            return Err(BaseError::Contract("no base was begun"));
        };
        let running = self.running.take();
        if running.as_ref().is_some_and(|running| !running.ended) {
            return Err(BaseError::Contract("a base was done before its end"));
        }
        let whole = digests::path_of(&self.folder, begun.number).exists();
        self.state.parent = whole.then_some(begun.number);
        self.state.begun = None;
        if let Some(Ok(finished)) = running.and_then(|running| running.shared.lock().outcome.take())
        {
            self.state.image_bytes = finished.image_bytes;
            self.state.bad_pages = bad_pages(&finished.bad);
            self.state.left_out = finished.left_out.as_deref().map(left_out);
        }
        self.remember()?;
        self.sweep();
        Ok(())
    }

    /// The base won't be published.
    pub fn abandoned(&mut self) {
        self.abandon();
        // If it can't be remembered, the next start hears of it as unfinished and abandons it again.
        drop(self.remember());
        self.sweep();
    }

    fn abandon(&mut self) {
        self.running = None;
        self.state.begun = None;
    }

    /// Whether a base is being taken or waits for its publication.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Where replay onto the running base starts, once the server said so.
    #[must_use]
    pub fn start_lsn(&self) -> Option<Lsn> {
        let running = self.running.as_ref()?;
        let start = running.shared.lock().start;
        start.map(|start| start.lsn)
    }

    /// From where on the running base is consistent, once the server said so.
    #[must_use]
    pub fn stop_lsn(&self) -> Option<Lsn> {
        let running = self.running.as_ref()?;
        let stop = running.shared.lock().stop;
        stop.map(|stop| stop.lsn)
    }

    /// Bytes of the cluster's files: as the server estimated for the base that runs, else as the newest
    /// one found them; 0 before the first.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        let running = self.running.as_ref();
        let estimated = running.map(|running| running.shared.lock().total);
        let known = estimated.filter(|bytes| *bytes > 0);
        known.unwrap_or(self.state.image_bytes)
    }

    /// What should be known now.
    #[must_use]
    pub fn alerts(&self) -> Vec<Alert> {
        let mut alerts = Vec::new();
        let (mut waits, mut bad, mut left) = (None, None, self.state.left_out.clone());
        if let Some(running) = &self.running {
            let told = running.shared.lock();
            waits.clone_from(&told.waits);
            if let Some(Ok(finished)) = &told.outcome {
                bad = bad_pages(&finished.bad);
                left = finished.left_out.as_deref().map(left_out);
            }
        }
        let bad = bad.or_else(|| self.state.bad_pages.clone());
        let found = [
            (ALERT_BASE_WAITS, waits),
            (ALERT_BAD_PAGES, bad),
            (ALERT_LEFT_OUT, left),
        ];
        for (code, message) in found {
            if let Some(message) = message {
                alerts.push(Alert {
                    code,
                    message,
                    halts: false,
                });
            }
        }
        alerts
    }
}

impl Running {
    /// Runs of about `max_bytes` in all, without waiting.
    fn take_runs(&mut self, max_bytes: usize) -> Vec<PageRun> {
        let mut runs = Vec::new();
        let mut bytes = 0;
        while bytes < max_bytes {
            if self.waiting.is_empty() {
                match self.runs.try_recv() {
                    Ok(batch) => self.waiting.extend(batch),
                    Err(_none_now_or_ever) => break,
                }
            }
            if let Some(run) = self.waiting.pop_front() {
                bytes += run.bytes.len();
                runs.push(run);
            }
        }
        runs
    }

    fn progress(&self) -> Progress {
        let told = self.shared.lock();
        Progress {
            done: told.done,
            total: told.total.max(told.done),
        }
    }
}

/// What is in no base, in words.
fn left_out(paths: &str) -> String {
    format!(
        "{paths} in the data directory is neither file nor folder (a symbolic link, as a rule): no base has it, and a restored server lacks it. What it leads to can stand in the data directory itself, or outside of it by a setting (config_file, hba_file, log_directory)"
    )
}

/// What is wrong on the server, in words.
fn bad_pages(bad: &pages::BadPages) -> Option<String> {
    if bad.total == 0 {
        return None;
    }
    let first = match &bad.first {
        Some((path, page)) => format!("the first is page {page} of {path}"),
        None => "the server's log names them".to_owned(),
    };
    Some(format!(
        "{} page(s) of the database have a wrong checksum on the server itself, {first}; the base holds them as they are. Find out what they belong to (pg_filenode_relation), check the disk, and restore from a base made before the damage",
        bad.total
    ))
}
