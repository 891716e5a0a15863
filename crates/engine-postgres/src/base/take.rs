//! The task that takes one base backup: from the connection to page runs in a bounded channel.
//!
//! **Backpressure.** A full channel stops reading the socket, and the server waits; nothing of a base
//! backup times out there. **Cancellation.** Dropped at any await it leaves a store without its name,
//! which is none; the server ends the backup when the connection goes. **Failure.** Everything ends the
//! base: the first error is its outcome.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemark_engine::PageRun;
use tidemark_format::postgres::layout::{BranchPosition, LAYOUT_PATH};
use tokio::sync::mpsc;

use super::checksum::PAGE_BYTES;
use super::databases;
use super::digests::{Store, StoreWriter};
use super::error::BaseError;
use super::exclude;
use super::listing::Listing;
use super::local::{self, Session};
use super::outside::{self, Outside};
use super::pages::{BadPages, Builder, Checks};
use super::server::{self, Server};
use super::table::FileTable;
use super::tar::{Entry, Event, Kind, Tar};
use super::{LogStart, Reading, Settings};
use crate::replication::{BackupEvent, BackupOptions, BaseBackup, ServerTablespace};
use crate::wire::{Connection, Mode};

/// A server that sends nothing for so long while it copies is not there any more.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(300);
/// A checkpoint at once takes as long as writing the server's dirty memory.
const FAST_START_MAX: Duration = Duration::from_secs(3600);
/// A checkpoint at leisure takes up to `checkpoint_timeout`, which is at most a day.
const SPREAD_START_MAX: Duration = Duration::from_secs(26 * 3600);
/// How long to wait for a standby's restart point, and how often to look: primaries make a
/// checkpoint every five minutes unless told otherwise, if anything was written.
pub(super) const EARLY_TRIES_MAX: u32 = 300;
pub(super) const EARLY_WAIT: Duration = Duration::from_secs(3);

/// How a base ended well.
#[derive(Debug, Clone)]
pub(super) struct Finished {
    pub(super) image_bytes: u64,
    pub(super) bad: BadPages,
    /// What was left out and somebody may miss.
    pub(super) left_out: Option<String>,
}

/// What the task tells while it runs.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) start: Option<BranchPosition>,
    pub(super) stop: Option<BranchPosition>,
    /// Bytes received.
    pub(super) done: u64,
    /// Bytes to come in all, as the server estimates.
    pub(super) total: u64,
    /// Why it waits, for people.
    pub(super) waits: Option<String>,
    /// Set last.
    pub(super) outcome: Option<Result<Finished, BaseError>>,
}

/// [`Told`], from both sides.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Told>>);

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one base needs.
pub(super) struct Work {
    pub(super) settings: Settings,
    pub(super) folder: PathBuf,
    pub(super) number: u64,
    pub(super) key: [u8; 32],
    /// The base before.
    pub(super) before: Option<(Store, FileTable)>,
    pub(super) log: LogStart,
    pub(super) runs: mpsc::Sender<Vec<PageRun>>,
    pub(super) shared: Shared,
    pub(super) reading: Reading,
}

/// Takes the base; the outcome stands in [`Told`].
pub(super) async fn take(work: Work) {
    let (shared, wake) = (work.shared.clone(), work.settings.wake.clone());
    let outcome = Box::pin(run(work)).await;
    shared.lock().outcome = Some(outcome);
    wake.wake();
}

async fn run(work: Work) -> Result<Finished, BaseError> {
    let outside = Box::pin(outside::collect(&work.settings.info)).await;
    if work.reading == Reading::Remote {
        return Box::pin(remote(work, outside)).await;
    }
    match Box::pin(Session::open(&work)).await {
        Ok(session) => Box::pin(local::take(session, work, outside)).await,
        Err(why) if work.reading == Reading::Local => Err(BaseError::NotLocal { why }),
        Err(why) => {
            tracing::info!(
                why,
                "the data directory is not read here: the base comes over the network"
            );
            Box::pin(remote(work, outside)).await
        }
    }
}

async fn remote(work: Work, outside: Outside) -> Result<Finished, BaseError> {
    let (mut backup, server) = begin_backup(&work).await?;
    let Some(BackupEvent::Tablespaces(spaces)) = next(&mut backup, SILENCE_MAX).await? else {
        return Err(contents("no list of tablespaces came"));
    };
    let kilobytes: u64 = spaces.iter().filter_map(|space| space.kilobytes).sum();
    work.shared.lock().total = kilobytes << 10;
    let mut taking = Taking::new(work, server, &spaces)?;
    while let Some(event) = next(&mut backup, SILENCE_MAX).await? {
        for path in backup.left_out() {
            taking.left_out(&path)?;
        }
        match event {
            BackupEvent::Archive { name, .. } => taking.archive(&name)?,
            BackupEvent::Data(data) => {
                taking.shared.lock().done += data.len() as u64;
                taking.data(&data).await?;
                let wait = taking.settings.pace.passed(data.len() as u64);
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
            }
            BackupEvent::Progress(_) => {}
            BackupEvent::End { at, timeline } => {
                taking.end_archive()?;
                taking.builder.note_server(backup.has_bad_pages());
                let stop = BranchPosition { timeline, lsn: at };
                backup.into_connection().close().await;
                return Box::pin(taking.finish(outside, stop)).await;
            }
            _ => return Err(contents("another message came than an archive's")),
        }
    }
    Err(contents("it has no end"))
}

pub(super) fn contents(why: &str) -> BaseError {
    BaseError::Contents(why.to_owned())
}

/// The next event, or an error if none comes.
async fn next(backup: &mut BaseBackup, wait: Duration) -> Result<Option<BackupEvent>, BaseError> {
    match tokio::time::timeout(wait, backup.next()).await {
        Ok(event) => Ok(event?),
        Err(_elapsed) => Err(BaseError::Silent {
            seconds: wait.as_secs(),
        }),
    }
}

/// How long a backup may take to start.
pub(super) const fn start_max(fast: bool) -> Duration {
    if fast {
        FAST_START_MAX
    } else {
        SPREAD_START_MAX
    }
}

impl Work {
    /// Whether replay from where `server` started fits the log; false: a standby may later.
    pub(super) fn may_start(&self, server: &Server) -> Result<bool, BaseError> {
        let at = server.start.lsn;
        let mut told = self.shared.lock();
        if at >= self.log.from {
            (told.start, told.waits) = (Some(server.start), None);
            return Ok(true);
        }
        let early = BaseError::StartsEarly {
            start: at,
            log: self.log.from,
        };
        if !server.standby {
            return Err(early);
        }
        told.waits = Some(early.to_string());
        Ok(false)
    }
}

/// Starts the backup. On a standby it begins at the last restart point: waits for one in our log.
async fn begin_backup(work: &Work) -> Result<(BaseBackup, Server), BaseError> {
    let settings = &work.settings;
    let options = BackupOptions {
        label: settings.label.clone(),
        fast: settings.fast_checkpoint,
        // A rate may change by the hour: it is kept by reading no faster.
        rate_kilobytes: None,
        // The server reads a page again before it calls it wrong.
        verify_checksums: true,
        manifest: false,
        zstd_level: None,
    };
    let wait = start_max(options.fast);
    for _ in 0..EARLY_TRIES_MAX {
        let mut connection = Connection::open(&settings.info, Mode::Physical).await?;
        let mut server = server::ask(&mut connection).await?;
        if server.system != work.log.system {
            return Err(BaseError::OtherSystem {
                expected: work.log.system,
                found: server.system,
            });
        }
        let mut backup = BaseBackup::start(connection, &options).await?;
        let Some(BackupEvent::Start { at, timeline }) = next(&mut backup, wait).await? else {
            return Err(contents("no start came"));
        };
        server.start = BranchPosition { timeline, lsn: at };
        if work.may_start(&server)? {
            return Ok((backup, server));
        }
        drop(backup);
        tokio::time::sleep(EARLY_WAIT).await;
    }
    Err(contents(
        "the standby made no restart point in the captured log",
    ))
}

/// An archive that is being read.
#[derive(Debug)]
struct Archive {
    tar: Tar,
    /// What its paths are below, with a slash.
    prefix: String,
    in_file: bool,
}

/// Between the server's start and its end.
pub(super) struct Taking {
    pub(super) builder: Builder,
    server: Server,
    pub(super) runs: mpsc::Sender<Vec<PageRun>>,
    pub(super) settings: Settings,
    pub(super) shared: Shared,
    archive: Option<Archive>,
    pub(super) listing: Listing,
}

impl Taking {
    pub(super) fn new(
        work: Work,
        server: Server,
        spaces: &[ServerTablespace],
    ) -> Result<Self, BaseError> {
        let store = StoreWriter::create(&work.folder, work.number, &work.key)?;
        let (before, table) = match work.before {
            Some((before, table)) => (Some(before), table),
            None => (None, FileTable::new()?),
        };
        let mut builder = Builder::new(work.key, before, store, table);
        if server.checksums && usize::try_from(server.block_bytes) == Ok(PAGE_BYTES) {
            builder.check(Checks {
                start: server.start.lsn,
                segment_blocks: server.relation_segment_blocks,
            });
        }
        let mut listing = Listing::default();
        for (oid, location) in spaces.iter().filter_map(|space| space.place.as_ref()) {
            listing.tablespace(*oid, location)?;
        }
        Ok(Self {
            builder,
            server,
            runs: work.runs,
            settings: work.settings,
            shared: work.shared,
            archive: None,
            listing,
        })
    }

    fn archive(&mut self, name: &str) -> Result<(), BaseError> {
        self.end_archive()?;
        let stem = name.strip_suffix(".tar");
        let prefix = match stem.map(|stem| (stem, stem.parse::<u32>())) {
            Some(("base", _)) => String::new(),
            Some((_, Ok(oid))) => format!("pg_tblspc/{oid}/"),
            _ => return Err(contents(&format!("an archive is called {name:?}"))),
        };
        self.archive = Some(Archive {
            tar: Tar::new(),
            prefix,
            in_file: false,
        });
        Ok(())
    }

    fn end_archive(&mut self) -> Result<(), BaseError> {
        if let Some(archive) = self.archive.take() {
            archive.tar.finish()?;
        }
        Ok(())
    }

    async fn data(&mut self, mut input: &[u8]) -> Result<(), BaseError> {
        loop {
            let archive = self.archive.as_mut();
            let archive = archive.ok_or_else(|| contents("data came before an archive"))?;
            let Some(event) = archive.tar.next(&mut input)? else {
                return Ok(());
            };
            match event {
                Event::Data(data) if archive.in_file => self.file_data(data).await?,
                Event::Data(_) => {}
                Event::Entry(entry) => {
                    archive.in_file = entry.kind == Kind::File;
                    let path = format!("{}{}", archive.prefix, entry.path);
                    self.entry(path, entry)?;
                }
                Event::EntryEnd => {
                    if std::mem::take(&mut archive.in_file) {
                        self.builder.end_file()?;
                    }
                }
                Event::Skipped(name) => {
                    let why = "its name is no text that a base can hold";
                    self.listing.skip(name, why);
                }
            }
        }
    }

    async fn file_data(&mut self, mut data: &[u8]) -> Result<(), BaseError> {
        while !data.is_empty() {
            if self.builder.is_full() {
                self.hand_over().await?;
            }
            data = self.builder.data(data)?;
        }
        Ok(())
    }

    async fn hand_over(&mut self) -> Result<(), BaseError> {
        let batch = self.builder.take_batch();
        if batch.is_empty() {
            return Ok(());
        }
        let sent = self.runs.send(batch).await;
        sent.map_err(|_nobody_listens| BaseError::Stopped)?;
        self.settings.wake.wake();
        Ok(())
    }

    fn entry(&mut self, path: String, entry: Entry) -> Result<(), BaseError> {
        match entry.kind {
            Kind::File => {
                self.builder.begin_file(&path, entry.bytes, false)?;
                self.listing.file(&path, entry.mode);
            }
            Kind::Folder if entry.path.is_empty() => {}
            Kind::Folder => self.listing.folder(path, entry.mode),
            Kind::Link => self.listing.link(path, entry.target),
        }
        Ok(())
    }

    /// The server says that it left this out: without data the base is none.
    fn left_out(&mut self, path: &str) -> Result<(), BaseError> {
        // What is absolute is in a tablespace.
        let inside = path.strip_prefix("./");
        if inside.is_none_or(exclude::is_data) {
            let path = inside.unwrap_or(path).to_owned();
            return Err(BaseError::Linked { path });
        }
        self.listing.leave_out(inside.unwrap_or(path).to_owned());
        Ok(())
    }

    /// The server is done: adds the settings and the layout, and makes the digests durable.
    pub(super) async fn finish(
        mut self,
        outside: Outside,
        stop: BranchPosition,
    ) -> Result<Finished, BaseError> {
        // The log up to here is waited for meanwhile.
        self.shared.lock().stop = Some(stop);
        let before = outside.catalogue.as_ref();
        databases::check(&self.settings.info, before, &self.listing).await?;
        let left_out = self.listing.left_out();
        for (path, bytes) in &outside.files {
            self.small_file(path, bytes, false).await?;
        }
        let listing = std::mem::take(&mut self.listing);
        let layout = listing.layout(&self.server, stop, outside, self.builder.bad());
        let layout = layout.encode();
        self.small_file(LAYOUT_PATH, &layout, true).await?;
        self.hand_over().await?;
        let finished = Finished {
            image_bytes: self.builder.image_bytes(),
            bad: self.builder.bad().clone(),
            left_out,
        };
        let builder = self.builder;
        let synced = tokio::task::spawn_blocking(move || builder.finish()).await;
        synced.map_err(|_panicked| BaseError::Stopped)??;
        let mut told = self.shared.lock();
        (told.done, told.total) = (finished.image_bytes, finished.image_bytes);
        drop(told);
        Ok(finished)
    }

    pub(super) async fn small_file(
        &mut self,
        path: &str,
        bytes: &[u8],
        whole: bool,
    ) -> Result<(), BaseError> {
        self.builder.begin_file(path, bytes.len() as u64, whole)?;
        self.file_data(bytes).await?;
        self.builder.end_file()
    }
}
