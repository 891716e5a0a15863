//! Restoring: a base and its log into a data directory, recovery to a target, and the proof of its end.
//!
//! ```text
//! expect_files · write_run …   files, folders, tablespaces in a partial directory     (files, spaces)
//! apply_log …                  segments of pg_wal, read along to find the target      (log, stop)
//! finish                       the server's own recovery to that record, then the
//!                              new timeline's history must name that record's end     (finish, server)
//! ```
//!
//! With [`TargetOptions::overlap`] the server replays while log still arrives (feed).
//!
//! The directory keeps its temporary name: renaming it is the caller's last step. Until everything
//! stands it has no `pg_control`, so no server starts on half of it.
//!
//! **Order.** As [`Materialise`] says, `expect_files` in every run, also one that goes on; and file 0, the base's layout, is written before files below
//! `pg_tblspc/` and before the first payload, for it says where they belong.
//!
//! **Failure and resume.** Every write may be repeated, by this process or a later one, until
//! [`Materialise::finish`] begins recovery; after that an interrupted run is begun anew ([`discard`]).
//!
//! **Cancellation.** [`TargetOptions::cancel`] ends a recovery within moments.

mod binaries;
mod control;
mod delta;
mod error;
mod feed;
mod files;
mod finish;
mod log;
mod reading;
pub(crate) mod sandbox;
mod segments;
mod server;
mod settings;
mod spaces;
mod stop;
mod tree;

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tidemark_engine::{Applied, EndProof, Error, Materialise, PageRun};
use tidemark_format::body::FileEntry;
use tidemark_format::postgres::layout::Layout;
use tidemark_host::Clock;

use files::Files;
use finish::{Earlier, Finishing, Running};
use log::Log;
use tree::Tree;

pub use binaries::Binaries;
pub use delta::{Existing, adopt, look};
pub use error::RestoreError;
pub use server::Replay;
pub use spaces::{TablespaceMap, check_places, discard};
pub use stop::{Stop, StopFound};
pub use tree::RunAs;

/// Told how far replay is, now and then, from the thread that finishes.
pub type Watch = Arc<dyn Fn(Replay) + Send + Sync>;

/// What is to become of a base and its log.
#[derive(Clone)]
pub struct TargetOptions {
    /// Where replay stops.
    pub stop: Stop,
    /// Where tablespaces go, if not to their old places.
    pub tablespaces: TablespaceMap,
    /// Where the server's programs are; searched for if none is given.
    pub pg_bin: Option<PathBuf>,
    /// Whether recovery is run and proved, or left to whoever starts the server.
    pub finish: bool,
    /// Whether the server may begin while log still arrives: only if all of it is of the base's own
    /// timeline.
    pub overlap: bool,
    /// Whether what stands in the folder already is compared, and written only where it differs. The
    /// folder was made ready for that ([`adopt`]).
    pub compare: bool,
    /// Settings in addition for the recovery, such as a library that the log depends on.
    pub settings: Vec<(String, String)>,
    /// Told how far replay is.
    pub watch: Option<Watch>,
    /// Set from another thread to end a recovery.
    pub cancel: Arc<AtomicBool>,
    /// For time limits.
    pub clock: Arc<dyn Clock>,
}

impl TargetOptions {
    /// To `stop`, finished, with programs that are searched for, tablespaces in their old places.
    #[must_use]
    pub fn new(stop: Stop, clock: Arc<dyn Clock>) -> Self {
        Self {
            stop,
            tablespaces: TablespaceMap::default(),
            pg_bin: None,
            finish: true,
            overlap: false,
            compare: false,
            settings: Vec::new(),
            watch: None,
            cancel: Arc::new(AtomicBool::new(false)),
            clock,
        }
    }

    /// The server's programs for data of `major`.
    ///
    /// # Errors
    /// [`RestoreError::NoBinaries`], [`RestoreError::WrongVersion`].
    pub fn binaries(&self, major: u16) -> Result<Binaries, RestoreError> {
        Binaries::find(major, self.pg_bin.as_deref(), std::env::var_os("PATH"))
    }
}

impl fmt::Debug for TargetOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TargetOptions")
            .field("stop", &self.stop)
            .field("tablespaces", &self.tablespaces)
            .field("pg_bin", &self.pg_bin)
            .field("finish", &self.finish)
            .field("overlap", &self.overlap)
            .field("compare", &self.compare)
            .finish_non_exhaustive()
    }
}

/// A data directory being restored.
#[derive(Debug)]
pub struct PostgresTarget {
    files: Arc<Files>,
    options: TargetOptions,
    owner: Option<RunAs>,
    log: Option<Log>,
    binaries: Option<Binaries>,
    /// A server that replays already.
    running: Option<Running>,
    /// An earlier run's server has changed files.
    goes_on: bool,
}

impl PostgresTarget {
    /// Opens `partial`, the temporary folder, for a data directory that will be called `target`; what an
    /// earlier run wrote there stays.
    ///
    /// # Errors
    /// [`RestoreError::OwnerIsRoot`], [`RestoreError::RecoveryBegun`], [`RestoreError::Running`],
    /// [`RestoreError::Io`].
    pub fn open(partial: &Path, target: &Path, options: TargetOptions) -> Result<Self, Error> {
        let owner = owner_of(target, options.finish)?;
        let absolute =
            std::path::absolute(partial).map_err(RestoreError::io("naming the target", partial))?;
        let tree = Tree::open(&absolute, owner)
            .map_err(RestoreError::io("making the target", &absolute))?;
        let goes_on = refuse_used(&tree, &options)?;
        let target =
            std::path::absolute(target).map_err(RestoreError::io("naming the target", target))?;
        let spaces = options.tablespaces.clone();
        let files = Files::new(tree, &target, spaces, owner, options.compare);
        Ok(Self {
            files: Arc::new(files),
            options,
            owner,
            log: None,
            binaries: None,
            running: None,
            goes_on,
        })
    }

    /// The layout of the newest base, once its file (file 0) is written.
    ///
    /// # Errors
    /// [`RestoreError::Layout`] if it is not sound; a contract's breach if it is not there.
    pub fn layout(&self) -> Result<Arc<Layout>, Error> {
        Ok(self.files.layout()?)
    }

    /// The record that the target means, as soon as the log applied so far holds it: no more log is
    /// needed then. One exception: if the log goes on with a timeline that left this one before
    /// [`StopFound::end`], that timeline's first payload must still come, and voids it.
    #[must_use]
    pub fn reached(&self) -> Option<&StopFound> {
        self.log.as_ref().and_then(Log::found)
    }

    /// Whether an earlier run's server replayed here already and will go on: the base is not written
    /// again then, and a caller who doesn't know that all of it is there begins anew ([`discard`]).
    #[must_use]
    pub const fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// [`RestoreError::Io`].
    pub fn sync(&self) -> Result<(), Error> {
        Ok(self.files.sync()?)
    }

    fn log(&mut self) -> Result<&mut Log, RestoreError> {
        if self.log.is_none() {
            let layout = self.files.layout()?;
            // Better now than after hours of log.
            if self.options.finish {
                self.binaries = Some(self.options.binaries(layout.major)?);
            }
            let stop = self.options.stop.clone();
            refuse_early(&self.files, &layout, &stop)?;
            self.log = Some(Log::new(Arc::clone(&self.files), &layout, stop)?);
        }
        self.log
            .as_mut()
            .ok_or(RestoreError::Contract("there is no log"))
    }

    fn apply(&mut self, payload: &[u8]) -> Result<Applied, RestoreError> {
        let log = self.log()?;
        log.apply(payload)?;
        self.replay_beside()?;
        Ok(Applied {
            pages: 0,
            database_pages: 0,
            provable: true,
        })
    }

    /// Hands the server what it may replay; it is started as soon as there is something.
    fn replay_beside(&mut self) -> Result<(), RestoreError> {
        let Some(log) = self.log.as_mut().filter(|_| self.options.overlap) else {
            return Ok(());
        };
        let is_fed = log.feed()?;
        if let Some(running) = &mut self.running {
            return running.check();
        }
        if let Some(binaries) = self.binaries.as_ref().filter(|_| is_fed) {
            let layout = self.layout_of_whole(self.goes_on)?;
            self.running = Some(self.finishing(&layout).begin(binaries)?);
        }
        Ok(())
    }

    /// The layout; the files are brought to their lengths, unless a server has changed them.
    fn layout_of_whole(&self, changed: bool) -> Result<Arc<Layout>, RestoreError> {
        if changed {
            self.files.layout()
        } else {
            self.files.complete()
        }
    }

    fn finishing<'a>(&'a self, layout: &'a Layout) -> Finishing<'a> {
        Finishing {
            files: &self.files,
            layout,
            options: &self.options,
            owner: self.owner,
        }
    }

    fn end(mut self) -> Result<EndProof, RestoreError> {
        let running = self.running.take();
        if self.goes_on && running.is_none() {
            // It had been fed before, and this log is too short for that.
            return Err(self.spent());
        }
        let mut log = self.log.take().ok_or(RestoreError::NoLog)?;
        if let Some(running) = running {
            let layout = self.files.layout()?;
            let finishing = self.finishing(&layout);
            // From now on recovery may end, and then nobody can go on with it.
            finishing.note(false)?;
            let found = log.conclude()?;
            return finishing.end(running, &found);
        }
        let found = log.conclude()?;
        let layout = self.files.complete()?;
        let finishing = self.finishing(&layout);
        match &self.binaries {
            Some(binaries) => finishing.recover(binaries, &found),
            None => finishing.prepare_only(&found),
        }
    }

    fn spent(&self) -> RestoreError {
        RestoreError::RecoveryBegun {
            folder: self.files.tree.path().to_path_buf(),
        }
    }
}

impl Materialise for PostgresTarget {
    fn expect_files(&self, files: &[FileEntry]) -> Result<(), Error> {
        self.files.expect(files)?;
        // What a server made here since then belongs.
        if !self.goes_on {
            self.files.prune()?;
        }
        Ok(())
    }

    fn write_run(&self, run: &PageRun) -> Result<(), Error> {
        if self.goes_on {
            return Err(self.spent().into());
        }
        Ok(self.files.write(run)?)
    }

    fn apply_log(&mut self, payload: &[u8]) -> Result<Applied, Error> {
        Ok(self.apply(payload)?)
    }

    fn has_reached_stop(&self) -> bool {
        self.reached().is_some()
    }

    fn finish(self: Box<Self>) -> Result<EndProof, Error> {
        Ok(self.end()?)
    }
}

/// As root: the owner of the folder that the target will be in.
fn owner_of(target: &Path, finish: bool) -> Result<Option<RunAs>, RestoreError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let absolute =
        std::path::absolute(target).map_err(RestoreError::io("naming the target", target))?;
    let above = absolute.ancestors().skip(1);
    let Some((folder, metadata)) = above
        .map(|folder| (folder, std::fs::metadata(folder)))
        .find_map(|(folder, metadata)| Some((folder, metadata.ok()?)))
    else {
        return Ok(None);
    };
    if metadata.uid() != 0 {
        return Ok(Some(RunAs {
            uid: metadata.uid(),
            gid: metadata.gid(),
        }));
    }
    if finish {
        return Err(RestoreError::OwnerIsRoot {
            folder: folder.to_path_buf(),
        });
    }
    Ok(None)
}

/// An instant before a checkpoint that the base holds: the log after the base says nothing about it,
/// and a server would take its own first moment for it.
fn refuse_early(files: &Files, layout: &Layout, stop: &Stop) -> Result<(), RestoreError> {
    let (Stop::AtOrBefore(at) | Stop::Before(at)) = stop else {
        return Ok(());
    };
    let made = finish::control_of(files)?.checkpoint_at;
    if made.is_some_and(|made| *at < made) {
        return Err(RestoreError::BeforeConsistent {
            wanted: stop.to_string(),
            consistent: layout.stop.lsn,
        });
    }
    Ok(())
}

/// Neither where a recovery was begun that can't go on, nor where a server runs, is anything written.
/// Whether one was begun that can.
fn refuse_used(tree: &Tree, options: &TargetOptions) -> Result<bool, RestoreError> {
    let folder = || tree.path().to_path_buf();
    if let Some(pid) = spaces::server_in(tree)? {
        return Err(RestoreError::Running {
            folder: folder(),
            pid,
        });
    }
    match finish::earlier(tree, &options.stop)? {
        Earlier::Nothing => Ok(false),
        Earlier::GoesOn if options.finish && options.overlap => Ok(true),
        Earlier::GoesOn | Earlier::Spent => Err(RestoreError::RecoveryBegun { folder: folder() }),
    }
}
