//! Which engine a source needs, and what a server's takes beside pages and log.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tidemark_engine::{Applied, EndProof, Error as EngineError, Materialise, PageRun};
use tidemark_engine_postgres::restore::{
    PostgresTarget, Replay, RestoreError, Stop, TablespaceMap, TargetOptions, Watch,
};
use tidemark_engine_sqlite::SqliteTarget;
use tidemark_format::body::FileEntry;
use tidemark_format::heads::{BaseHead, LogHead};
use tidemark_format::postgres::layout::Layout;
use tidemark_planner::restore::{Bound, ServerLog, Stop as PlannedStop};
use tokio_util::sync::CancellationToken;

use super::{Programs, Work};
use tidemark_ledger::timeline::POSTGRESQL;

use crate::error::{Error, Result};
use crate::plan::RestorePlan;
use crate::progress::Progress;

/// What engines reached and proved.
pub type Ended = EndProof;

/// What a server's restore takes beside a target.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Where tablespaces go.
    pub tablespaces: TablespaceMap,
    /// Where the server's programs are.
    pub pg_bin: Option<PathBuf>,
    /// Recovery is left to the user.
    pub no_finish: bool,
}

/// The engine of a restore.
#[derive(Debug)]
pub(super) enum Engine {
    /// One that makes a file.
    File(Box<dyn Materialise>),
    /// A server's, which knows where it is to stop.
    Server {
        target: Box<PostgresTarget>,
        cancel: Arc<AtomicBool>,
    },
}

impl Engine {
    /// Opens the partial file or folder of `work`.
    pub(super) fn open(head: &BaseHead, plan: &RestorePlan, work: &Work) -> Result<Self> {
        let (partial, path) = (work.target.partial_path(), work.target.path());
        match head.engine.as_str() {
            "sqlite" => Ok(Self::File(Box::new(SqliteTarget::open(partial, path)?))),
            POSTGRESQL => {
                let mut options =
                    TargetOptions::new(stop(&plan.stop), Arc::clone(&work.tools.clock));
                options.tablespaces = work.server.tablespaces.clone();
                options.pg_bin.clone_from(&work.server.pg_bin);
                options.finish = !work.server.no_finish;
                options.overlap = is_of_one_timeline(plan);
                options.compare = work.target.is_over();
                options.watch = Some(watch(work));
                let cancel = Arc::clone(&options.cancel);
                let target = Box::new(PostgresTarget::open(partial, path, options)?);
                Ok(Self::Server { target, cancel })
            }
            other => Err(Error::EngineUnknown {
                source_name: head.source.clone(),
                engine: other.to_owned(),
            }),
        }
    }

    fn target(&self) -> &dyn Materialise {
        match self {
            Self::File(target) => target.as_ref(),
            Self::Server { target, .. } => target.as_ref(),
        }
    }

    pub(super) fn expect_files(&self, files: &[FileEntry]) -> std::result::Result<(), EngineError> {
        self.target().expect_files(files)
    }

    pub(super) fn write_run(&self, run: &PageRun) -> std::result::Result<(), EngineError> {
        self.target().write_run(run)
    }

    pub(super) fn apply_log(
        &mut self,
        payload: &[u8],
    ) -> std::result::Result<Applied, EngineError> {
        match self {
            Self::File(target) => target.apply_log(payload),
            Self::Server { target, .. } => target.apply_log(payload),
        }
    }

    /// Whether the files' own description must be on the disk before the others.
    pub(super) const fn wants_layout_first(&self) -> bool {
        matches!(self, Self::Server { .. })
    }

    /// Whether a server of an earlier run has changed what the bases wrote, and will go on from there.
    pub(super) const fn goes_on(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Server { target, .. } => target.goes_on(),
        }
    }

    /// Makes durable what lies outside the partial folder, too.
    pub(super) fn sync(&self) -> std::result::Result<(), EngineError> {
        match self {
            Self::File(_) => Ok(()),
            Self::Server { target, .. } => target.sync(),
        }
    }

    /// Whether no more log is needed; `next` would come. A timeline that left this one before the stop
    /// voids it.
    pub(super) fn has_met_its_stop(&self, next: Option<&LogHead>) -> bool {
        match self {
            Self::File(target) => target.has_reached_stop(),
            Self::Server { target, .. } => target.reached().is_some_and(|found| {
                let log = next.and_then(|head| ServerLog::read(&head.facts));
                let voids = log.is_some_and(|log| {
                    log.timeline != Some(found.timeline)
                        && log.start.is_none_or(|start| start < found.end)
                });
                !voids
            }),
        }
    }

    /// Ends the restore; `stop` ends a server's recovery within moments.
    pub(super) async fn finish(self, work: &Work) -> Result<Ended> {
        match self {
            Self::File(target) => Ok(work.tools.cpu.run(move || target.finish()).await?),
            Self::Server { target, cancel } => {
                let watcher = tokio::spawn(cancelled(work.stop.clone(), cancel));
                // Hours of waiting for a process: no thread of the pool is kept for it.
                let finished = tokio::task::spawn_blocking(move || target.finish()).await;
                watcher.abort();
                match super::log::joined(finished)? {
                    Err(error) if is(&error, |why| matches!(why, RestoreError::Interrupted)) => {
                        Err(Error::Interrupted)
                    }
                    ended => Ok(ended?),
                }
            }
        }
    }
}

/// Whether all of the log is of one timeline, as its heads say.
fn is_of_one_timeline(plan: &RestorePlan) -> bool {
    let told = |head: &LogHead| ServerLog::read(&head.facts)?.timeline;
    let mut timelines = plan.log.iter().map(|object| told(&object.head));
    let first = timelines.next().flatten();
    first.is_some() && timelines.all(|timeline| timeline == first)
}

async fn cancelled(stop: CancellationToken, cancel: Arc<AtomicBool>) {
    stop.cancelled().await;
    cancel.store(true, Ordering::Release);
}

/// Whether an earlier run began recovery in the folder: then nothing in it is of use.
pub(super) fn is_begun(error: &Error) -> bool {
    matches!(error, Error::Engine(error) if is(error, |why| matches!(why, RestoreError::RecoveryBegun { .. })))
}

fn is(error: &EngineError, wanted: impl Fn(&RestoreError) -> bool) -> bool {
    error.inner::<RestoreError>().is_some_and(wanted)
}

/// The programs that a base's server needs: what can be refused before anything is written.
///
/// # Errors
/// The engine's, with the remedy.
pub(super) fn check_server(layout: &Layout, options: &ServerOptions) -> Result<Option<Programs>> {
    if options.no_finish {
        return Ok(None);
    }
    let found = tidemark_engine_postgres::restore::Binaries::find(
        layout.major,
        options.pg_bin.as_deref(),
        std::env::var_os("PATH"),
    );
    let found = found.map_err(EngineError::from)?;
    Ok(Some(Programs {
        folder: found.folder().to_owned(),
        version: found.version().to_owned(),
    }))
}

fn stop(planned: &PlannedStop) -> Stop {
    let inclusive = |bound: &Bound| *bound == Bound::Included;
    match planned {
        PlannedStop::End => Stop::End,
        PlannedStop::Time(at, Bound::Included) => Stop::AtOrBefore(*at),
        PlannedStop::Time(at, Bound::Excluded) => Stop::Before(*at),
        PlannedStop::Lsn(at, bound) => Stop::Lsn {
            at: *at,
            inclusive: inclusive(bound),
        },
        PlannedStop::Xid(id, bound) => Stop::Xid {
            id: *id,
            inclusive: inclusive(bound),
        },
        PlannedStop::Name(name) => Stop::Name { name: name.clone() },
    }
}

/// Shows how far replay is: a bar over the log from where it begins to where it ends.
fn watch(work: &Work) -> Watch {
    let (console, clock) = (work.tools.console.clone(), Arc::clone(&work.tools.clock));
    let shown: Mutex<Option<(Arc<Progress>, u64)>> = Mutex::new(None);
    Arc::new(move |replay: Replay| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let total = replay.to.since(replay.from);
        let (progress, before) =
            shown.get_or_insert_with(|| (Progress::begin(&console, &clock, "replay", total, 0), 0));
        let done = replay.at.since(replay.from).min(total);
        progress.add(done.saturating_sub(*before));
        *before = done.max(*before);
        if done == total {
            progress.finish();
        }
    })
}
