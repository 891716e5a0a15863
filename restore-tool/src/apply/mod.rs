//! From plan to database: the bases' frames in parallel, then the log in order, then the proof.
//!
//! ```text
//! bases ─ cut ─► frames ─ fetched in parallel, opened on every core ─► pages into the partial file
//! log   ─ fetched ahead, in order ─► applied one after the other, until the engine has met its stop
//!         (a server replays meanwhile, as far as the stop can't be)
//! engine.finish ─ digest of the whole equals the sealed one, or a server ended where promised ─►
//!   fsync ─► rename
//! ```
//!
//! **Bounds.** [`tidemark_open::IN_FLIGHT_BYTES`] for bases, [`LOG_AHEAD_BYTES`] for the log; beside them
//! the newest base's table of files, and some 60 bytes for each frame that is needed.
//!
//! **Cancellation.** When `stop` fires, what is on the disk is noted and the partial file stays: the
//! next run of the same restore goes on there. Notes are also written every few seconds, so that a
//! kill loses little. **Failure:** the same; a full disk is an error that leaves the notes.

mod base;
mod earlier;
mod engine;
mod layout;
mod log;
pub mod units;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidemark_format::heads::BaseHead;
use tidemark_format::postgres::layout::Layout;
use tidemark_format::{Hash, SourceName};
use tidemark_ledger::timeline::POSTGRESQL;
use tidemark_open::Opener;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::plan::RestorePlan;
use crate::repository::Tools;
use crate::target::resume::Notes;
use crate::target::{Partial, Target};

pub use engine::{Ended, ServerOptions};
pub use log::LOG_AHEAD_BYTES;

use engine::Engine;

/// What a finished restore has to tell.
#[derive(Debug, Clone)]
pub struct Done {
    /// What the engine reached and proved.
    pub proof: Ended,
    /// Bytes read from the regions.
    pub fetched_bytes: u64,
    /// Page bytes of the bases that were on the disk already.
    pub resumed_bytes: u64,
    /// Log objects that were on the disk already.
    pub resumed_objects: u64,
    /// How long the bases took.
    pub bases: Duration,
    /// How long the log took.
    pub log: Duration,
    /// How long the proof took.
    pub prove: Duration,
}

/// Notes and the file they are about.
#[derive(Debug)]
pub(crate) struct Ledger {
    notes: Mutex<Notes>,
    /// As last made durable.
    durable: Mutex<Notes>,
    partial: Partial,
    path: PathBuf,
}

impl Ledger {
    /// Changes the notes in memory.
    pub(crate) fn change(&self, with: impl FnOnce(&mut Notes)) {
        with(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A copy of the notes.
    pub(crate) fn now(&self) -> Notes {
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Makes what is noted durable: first the pages, then the notes that name them.
    pub(crate) fn save(&self) -> Result<()> {
        // Taken before the sync: a page noted meanwhile may not be covered by it.
        let notes = self.now();
        self.partial.sync()?;
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        notes.save(&self.path)?;
        *durable = notes;
        Ok(())
    }

    /// Notes that log objects up to `objects` may be on the disk, without waiting for the pages
    /// before them: what was durable stays noted, and no more.
    pub(crate) fn expect_up_to(&self, objects: u64) -> Result<()> {
        self.change(|notes| notes.may_reach = notes.may_reach.max(objects));
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.may_reach = durable.may_reach.max(objects);
        Ok(durable.save(&self.path)?)
    }
}

/// Everything a restore works with.
#[derive(Debug, Clone)]
pub struct Work {
    /// Opens what is encrypted.
    pub opener: Arc<Opener>,
    /// Where the database goes.
    pub target: Target,
    /// What a server's restore takes beside that.
    pub server: ServerOptions,
    /// Clocks and console.
    pub tools: Tools,
    /// Fires on Ctrl-C.
    pub stop: CancellationToken,
}

/// Executes a plan up to and with the rename.
///
/// # Errors
/// [`Error::Interrupted`] when stopped; damage everywhere; the target's errors.
pub async fn execute(work: &Work, source: &SourceName, plan: &RestorePlan) -> Result<Done> {
    let Some(head) = plan.base().map(|base| &base.head) else {
        return Err(Error::Unproved(
            "the plan names no base: this is a bug".to_owned(),
        ));
    };
    work.target.check_space(plan.needed_bytes())?;
    work.target.take_over()?;
    earlier::ended(&work.target, &*work.tools.clock).await?;
    let Opened {
        engine,
        partial,
        notes,
    } = open(work, source, plan, head).inspect_err(|_| say_where(work))?;
    let ledger = Arc::new(Ledger {
        durable: Mutex::new(notes.clone()),
        notes: Mutex::new(notes),
        partial,
        path: work.target.notes_path(),
    });
    let before = ledger.now();
    if before.bases_done || before.applied > 0 || !before.units.is_empty() {
        work.tools.console.note(
            "going on where an earlier run of this restore stopped: what it verified is not read again",
        );
    }
    let went_on = engine.goes_on();
    let ran = run(work, plan, &ledger, engine).await;
    match ran {
        Ok(mut done) => {
            done.resumed_objects = before.applied;
            work.target.publish(&ledger.partial)?;
            Ok(done)
        }
        Err(error) => {
            leave(work, &ledger, went_on && matches!(error, Error::Engine(_)));
            Err(error)
        }
    }
}

/// What a restore works on.
struct Opened {
    engine: Engine,
    partial: Partial,
    notes: Notes,
}

/// Opens what an earlier run of the same restore left, or begins anew.
fn open(work: &Work, source: &SourceName, plan: &RestorePlan, head: &BaseHead) -> Result<Opened> {
    let mut partial = work.target.open_partial()?;
    let fresh = Notes::new(head.repo, source.clone(), name_of_bases(plan));
    let objects = u64::try_from(plan.log.len()).unwrap_or(u64::MAX);
    let kept = Notes::load(&work.target.notes_path(), &fresh, objects);
    if kept.is_none() {
        partial = begin_anew(&work.target, partial)?;
    }
    let notes = kept.unwrap_or_else(|| fresh.clone());
    match Engine::open(head, plan, work) {
        Err(error) if !engine::is_begun(&error) => return Err(error),
        // The notes may be older than what the server has done.
        Ok(engine) if notes.bases_done || !engine.goes_on() => {
            return Ok(Opened {
                engine,
                partial,
                notes,
            });
        }
        Ok(_) | Err(_) => {}
    }
    let partial = begin_anew(&work.target, partial)?;
    Ok(Opened {
        engine: Engine::open(head, plan, work)?,
        partial,
        notes: fresh,
    })
}

/// Where a data directory is that is restored over, when that didn't end.
fn say_where(work: &Work) {
    if !work.target.is_over() {
        return;
    }
    let partial = work.target.partial_path().display().to_string();
    work.tools.console.note(&format!(
        "the data directory is half restored and can't be used: it stands at {partial}, and the same command goes on there"
    ));
    work.tools.console.event(&serde_json::json!({
        "schema": "tidemark-restore.progress", "version": 1, "phase": "unfinished", "at": partial,
    }));
}

/// Leaves what is there for a later run; `spent` if that must not go on with it.
fn leave(work: &Work, ledger: &Ledger, spent: bool) {
    if work.target.is_folder() {
        // Tablespaces may lie on other disks, and the notes name their pages, too.
        rustix::fs::sync();
    }
    say_where(work);
    // The error is what matters; without notes the next run only begins anew.
    if spent {
        // What an earlier run's server left may be why.
        drop(std::fs::remove_file(work.target.notes_path()));
    } else {
        drop(ledger.save());
    }
}

async fn run(
    work: &Work,
    plan: &RestorePlan,
    ledger: &Arc<Ledger>,
    engine: Engine,
) -> Result<Done> {
    let clock = &work.tools.clock;
    let engine = Arc::new(engine);
    let began = clock.monotonic();
    let base = stopped(&work.stop, base::write(work, plan, ledger, &engine)).await?;
    ledger.change(|notes| notes.bases_done = true);
    let bases_took = clock.monotonic().since(began);
    let began = clock.monotonic();
    let mut engine = Arc::into_inner(engine)
        .ok_or_else(|| Error::Unproved("frames are still being written: a bug".to_owned()))?;
    let (returned, log_bytes) = stopped(&work.stop, log::apply(work, plan, ledger, engine)).await?;
    engine = returned;
    let log_took = clock.monotonic().since(began);
    let began = clock.monotonic();
    let note = work.tools.console.clone();
    note.event(&serde_json::json!({
        "schema": "tidemark-restore.progress", "version": 1, "phase": "prove",
    }));
    let proof = engine.finish(work).await?;
    Ok(Done {
        proof,
        fetched_bytes: base.fetched_bytes.saturating_add(log_bytes),
        resumed_bytes: base.resumed_bytes,
        resumed_objects: 0,
        bases: bases_took,
        log: log_took,
        prove: clock.monotonic().since(began),
    })
}

/// What can be refused before anything is written and only the base itself knows: the version of a
/// server, whose programs were found.
///
/// # Errors
/// The base can't be read, or the server's programs are not there.
pub async fn look_at_server(
    opener: &Arc<Opener>,
    plan: &RestorePlan,
    options: &ServerOptions,
) -> Result<Option<ServerNeeds>> {
    let Some(newest) = plan.base().filter(|base| base.head.engine == POSTGRESQL) else {
        return Ok(None);
    };
    let base = Arc::new(opener.base(&newest.key, newest.link).await?);
    let layout = layout::read(opener, &base).await?;
    Ok(Some(ServerNeeds {
        programs: engine::check_server(&layout, options)?,
        version: layout.server.clone(),
        system: layout.system.to_string(),
        tablespaces: layout
            .tablespaces
            .iter()
            .map(|space| space.location.clone())
            .collect(),
        layout,
    }))
}

/// A server's programs on this host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Programs {
    /// Where they are.
    pub folder: PathBuf,
    /// Their version.
    pub version: String,
}

/// What a base's server needs on this host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ServerNeeds {
    /// Its version.
    pub version: String,
    /// The cluster's own number, which all copies of it share.
    pub system: String,
    /// The programs of that version here; none if they are not looked for.
    pub programs: Option<Programs>,
    /// Where its tablespaces were.
    pub tablespaces: Vec<String>,
    /// All that the base says beside its files.
    #[serde(skip)]
    pub layout: Layout,
}

impl ServerNeeds {
    /// Whether its tablespaces can have their places: known before anything is written.
    ///
    /// # Errors
    /// The engine's, with the remedy.
    pub fn check_places(&self, target: &Target, options: &ServerOptions) -> Result<()> {
        let standing = target.existing().unwrap_or_else(|| target.partial_path());
        let checked = tidemark_engine_postgres::restore::check_places(
            &options.tablespaces,
            &self.layout,
            target.path(),
            Some(standing),
            target.is_over(),
        );
        Ok(checked.map_err(tidemark_engine::Error::from)?)
    }
}

/// Ends with [`Error::Interrupted`] as soon as `stop` fires.
pub(crate) async fn stopped<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Error::Interrupted),
        done = work => done,
    }
}

/// What is in the partial file or folder is of another plan, or nothing.
fn begin_anew(target: &Target, partial: Partial) -> Result<Partial> {
    drop(std::fs::remove_file(target.notes_path()));
    if !target.is_folder() {
        partial.empty()?;
        return Ok(partial);
    }
    if target.is_over() {
        // What is right in it stays.
        tidemark_engine_postgres::restore::adopt(target.partial_path())
            .map_err(tidemark_engine::Error::from)?;
        return Ok(partial);
    }
    // Tablespaces elsewhere are part of it. The folder goes, and the lock with it.
    tidemark_engine_postgres::restore::discard(target.partial_path())
        .map_err(tidemark_engine::Error::from)?;
    drop(partial);
    Ok(target.open_partial()?)
}

/// Names the bases, and with them the cut into units.
fn name_of_bases(plan: &RestorePlan) -> Hash {
    let links: Vec<u8> = plan.bases.iter().flat_map(|base| base.link.0).collect();
    Hash::of(&links)
}
