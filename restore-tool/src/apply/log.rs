//! The log: fetched and opened ahead, applied in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tidemark_format::heads::LogHead;
use tidemark_open::OpenedLog;
use tidemark_planner::restore::ServerLog;
use tidemark_storage::{Watcher, watched};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::engine::Engine;
use super::{Ledger, Work};
use crate::error::{Error, Result};
use crate::plan::RestorePlan;
use crate::progress::Progress;

/// Bytes of log objects that are read ahead of replay, as stored and as opened.
pub const LOG_AHEAD_BYTES: u32 = 48 << 20;
/// How much larger an object is once it is opened, if its head doesn't say: more than most.
const OPENED_TIMES: u64 = 4;
/// Objects that are read ahead: small ones cost a request's latency each.
const LOG_AHEAD_OBJECTS: usize = 32;
/// How often what is applied is noted.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// Applies the plan's log; returns the engine and the bytes read.
pub(super) async fn apply(
    work: &Work,
    plan: &RestorePlan,
    ledger: &Arc<Ledger>,
    engine: Engine,
) -> Result<(Engine, u64)> {
    let kept = ledger.now();
    let objects = u64::try_from(plan.log.len()).unwrap_or(u64::MAX);
    // The last one again in any case: it carries the digest that the proof needs.
    let skip = kept.applied.min(objects.saturating_sub(1));
    let todo = plan
        .log
        .get(usize::try_from(skip).unwrap_or(usize::MAX)..)
        .unwrap_or_default();
    let total = todo
        .iter()
        .map(|object| object.size)
        .fold(0, u64::saturating_add);
    // Before the first page is changed: a killed run must not be taken for one that ended earlier.
    ledger.expect_up_to(objects)?;
    let progress = Progress::begin(&work.tools.console, &work.tools.clock, "log", total, 0);
    let room = Arc::new(Semaphore::new(
        usize::try_from(LOG_AHEAD_BYTES).unwrap_or(usize::MAX),
    ));
    let mut ahead = stream::iter(todo)
        .map(|object| {
            let (opener, room) = (Arc::clone(&work.opener), Arc::clone(&room));
            let (key, link, size) = (object.key.clone(), object.link, object.size);
            let bytes = room_of(&object.head, size);
            let arriving = Arriving::of(&progress, size);
            async move {
                let permit = room
                    .acquire_many_owned(bytes)
                    .await
                    .map_err(|_closed| Error::Interrupted)?;
                let watcher: Watcher = {
                    let arriving = Arc::clone(&arriving);
                    Arc::new(move |bytes| arriving.more(bytes))
                };
                let reading = async move { opener.log(&key, link).await };
                let opened = joined(tokio::spawn(watched(watcher, reading)).await)??;
                arriving.more(size);
                Ok::<_, Error>((opened, permit, size))
            }
        })
        .buffered(LOG_AHEAD_OBJECTS);
    let mut engine = engine;
    let mut applied = skip;
    let mut read = 0_u64;
    let mut saved = work.tools.clock.monotonic();
    let mut heads = todo.iter().map(|object| &object.head);
    while !engine.has_met_its_stop(heads.next())
        && let Some((opened, permit, size)) = ahead.try_next().await?
    {
        engine = one(work, engine, opened, permit).await?;
        read = read.saturating_add(size);
        applied = applied.saturating_add(1);
        ledger.change(|notes| notes.applied = applied);
        let now = work.tools.clock.monotonic();
        if now.since(saved) >= SAVE_EVERY {
            saved = now;
            engine.sync()?;
            let ledger = Arc::clone(ledger);
            work.tools.cpu.run(move || ledger.save()).await?;
        }
    }
    progress.finish();
    Ok((engine, read))
}

/// What an object takes of [`LOG_AHEAD_BYTES`]; one that is larger takes all.
fn room_of(head: &LogHead, stored: u64) -> u32 {
    let span = |log: ServerLog| Some(log.end?.since(log.start?));
    let opened = ServerLog::read(&head.facts).and_then(span);
    let opened = opened.unwrap_or_else(|| stored.saturating_mul(OPENED_TIMES));
    let bytes = u32::try_from(stored.saturating_add(opened));
    bytes.map_or(LOG_AHEAD_BYTES, |bytes| bytes.min(LOG_AHEAD_BYTES))
}

/// What has arrived of one object.
struct Arriving {
    progress: Arc<Progress>,
    left: AtomicU64,
}

impl Arriving {
    fn of(progress: &Arc<Progress>, size: u64) -> Arc<Self> {
        Arc::new(Self {
            progress: Arc::clone(progress),
            left: AtomicU64::new(size),
        })
    }

    /// So many bytes more, as long as some are left: those of a second try don't count again.
    fn more(&self, bytes: u64) {
        let take = |left: u64| Some(left.saturating_sub(bytes));
        let before = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let before = before.unwrap_or_default();
        if before > 0 {
            self.progress.add(before.min(bytes));
        }
    }
}

/// A panic goes on where the task is awaited; a cancelled task belongs to a stopped restore.
pub(super) fn joined<T>(result: std::result::Result<T, tokio::task::JoinError>) -> Result<T> {
    result.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_cancelled) => Error::Interrupted,
    })
}

async fn one(
    work: &Work,
    mut engine: Engine,
    opened: OpenedLog,
    permit: OwnedSemaphorePermit,
) -> Result<Engine> {
    let job = work.tools.cpu.run(move || {
        let applied = engine.apply_log(&opened.payload);
        // The payload's memory is free: the next object may be read.
        drop((opened, permit));
        applied.map(|_| engine)
    });
    Ok(job.await?)
}
