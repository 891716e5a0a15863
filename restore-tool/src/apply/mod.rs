//! From plan to database: the bases' frames in parallel, then the log in order, then the proof.
//!
//! ```text
//! bases ─ cut ─► frames ─ fetched 8 at a time, opened on every core ─► pages into the partial file
//! log   ─ fetched ahead, in order ─► applied one after the other
//! engine.finish ─ digest of the whole equals the sealed one ─► fsync ─► rename
//! ```
//!
//! **Bounds.** Requests in flight times 8 MiB for bases, [`LOG_AHEAD_BYTES`] for the log.
//!
//! **Cancellation.** When `stop` fires, what is on the disk is noted and the partial file stays: the
//! next run of the same restore goes on there. Notes are also written every few seconds, so that a
//! kill loses little. **Failure:** the same; a full disk is an error that leaves the notes.

mod base;
mod log;
pub mod units;

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidemark_engine::{EndProof, Materialise};
use tidemark_engine_sqlite::SqliteTarget;
use tidemark_format::heads::BaseHead;
use tidemark_format::{Hash, SourceName};
use tidemark_open::{OpenedBase, Opener};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::plan::RestorePlan;
use crate::repository::Tools;
use crate::target::resume::Notes;
use crate::target::{Target, TargetError};

pub use log::LOG_AHEAD_BYTES;

/// What a finished restore has to tell.
#[derive(Debug, Clone)]
pub struct Done {
    /// The engine's proof.
    pub proof: EndProof,
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
    file: File,
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
        self.file.sync_data().map_err(|source| TargetError::Io {
            action: "sync",
            path: self.path.clone(),
            source,
        })?;
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
    work.target.check_space(plan.image_bytes())?;
    let file = work.target.open_partial()?;
    let fresh = Notes::new(head.repo, source.clone(), name_of_bases(plan));
    let objects = u64::try_from(plan.log.len()).unwrap_or(u64::MAX);
    let kept = Notes::load(&work.target.notes_path(), &fresh, objects);
    if kept.is_none() {
        begin_anew(&work.target, &file)?;
    }
    let notes = kept.unwrap_or(fresh);
    let ledger = Arc::new(Ledger {
        durable: Mutex::new(notes.clone()),
        notes: Mutex::new(notes),
        file,
        path: work.target.notes_path(),
    });
    let before = ledger.now();
    if before.bases_done || before.applied > 0 || !before.units.is_empty() {
        work.tools.console.note(
            "going on where an earlier run of this restore stopped: what it verified is not read again",
        );
    }
    let ran = run(work, plan, &ledger, head).await;
    match ran {
        Ok(mut done) => {
            done.resumed_objects = before.applied;
            work.target.publish(&ledger.file)?;
            Ok(done)
        }
        Err(error) => {
            // The error is what matters; without notes the next run only begins anew.
            drop(ledger.save());
            Err(error)
        }
    }
}

async fn run(
    work: &Work,
    plan: &RestorePlan,
    ledger: &Arc<Ledger>,
    head: &BaseHead,
) -> Result<Done> {
    let clock = &work.tools.clock;
    let engine = materialise(head, &work.target)?;
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
    let proof = work.tools.cpu.run(move || engine.finish()).await?;
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

fn materialise(head: &BaseHead, target: &Target) -> Result<Arc<Box<dyn Materialise>>> {
    match head.engine.as_str() {
        "sqlite" => {
            let opened = SqliteTarget::open(target.partial_path(), target.path())?;
            Ok(Arc::new(Box::new(opened)))
        }
        other => Err(Error::EngineUnknown {
            source_name: head.source.clone(),
            engine: other.to_owned(),
        }),
    }
}

/// What is in the partial file is of another plan, or nothing.
fn begin_anew(target: &Target, file: &File) -> Result<()> {
    drop(std::fs::remove_file(target.notes_path()));
    file.set_len(0).map_err(|source| {
        TargetError::Io {
            action: "empty",
            path: target.partial_path().to_owned(),
            source,
        }
        .into()
    })
}

/// Names the bases, and with them the cut into units.
fn name_of_bases(plan: &RestorePlan) -> Hash {
    let links: Vec<u8> = plan.bases.iter().flat_map(|base| base.link.0).collect();
    Hash::of(&links)
}

/// Opens the chain of bases.
pub(crate) async fn open_bases(
    opener: &Opener,
    plan: &RestorePlan,
) -> Result<Vec<Arc<OpenedBase>>> {
    let opening = plan
        .bases
        .iter()
        .map(|base| opener.base(&base.key, base.link));
    let opened = futures_util::future::try_join_all(opening).await?;
    Ok(opened.into_iter().map(Arc::new).collect())
}
