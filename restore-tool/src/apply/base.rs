//! The bases: every needed frame once, in parallel, straight into the partial file.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tidemark_engine::PageRun;
use tidemark_host::{Clock, Monotonic};
use tidemark_open::{FrameAt, FrameFetcher, FrameSink, OpenedBase, PackFrames, SinkError};

use super::engine::Engine;
use super::layout::LAYOUT_FILE;
use super::units::{Cutter, FrameName, Unit, Units};
use super::{Ledger, Work};
use crate::error::{Error, Result};
use crate::plan::RestorePlan;
use crate::progress::Progress;

/// Reads at once: small ones cost a store's latency each; large ones are bounded by their bytes.
const REQUESTS_AT_ONCE: usize = 16;
/// Bases that are opened at once.
const BASES_AT_ONCE: usize = 2;
/// How often what is on the disk is noted.
const SAVE_EVERY: Duration = Duration::from_secs(5);

thread_local! {
    /// A frame's pages on their way to the engine: a buffer for each of the pool's threads, not for each
    /// mebibyte.
    static RUN: RefCell<PageRun> = RefCell::default();
}

/// What the bases took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BaseDone {
    pub(super) fetched_bytes: u64,
    pub(super) resumed_bytes: u64,
}

pub(super) async fn write(
    work: &Work,
    plan: &RestorePlan,
    ledger: &Arc<Ledger>,
    engine: &Arc<Engine>,
) -> Result<BaseDone> {
    let kept = ledger.now();
    if kept.bases_done {
        if let Some(newest) = plan.base() {
            let newest = work.opener.base(&newest.key, newest.link).await?;
            engine.expect_files(&newest.index.files)?;
        }
        return Ok(BaseDone {
            fetched_bytes: 0,
            resumed_bytes: plan.image_bytes(),
        });
    }
    let (bases, units) = cut(work, plan, engine).await?;
    let mut wanted: [Vec<PackFrames>; 2] = Default::default();
    let (mut total, mut resumed_bytes) = (0_u64, 0_u64);
    for (number, unit) in (0_u64..).zip(units.iter()) {
        let bytes = unit.page_bytes();
        total = total.saturating_add(bytes);
        if kept.units.contains(number) {
            resumed_bytes = resumed_bytes.saturating_add(bytes);
            continue;
        }
        // A server's layout says where other files belong.
        let [first, rest] = &mut wanted;
        if engine.wants_layout_first() && holds_layout(unit) {
            want(first, &bases, unit.name);
        } else {
            want(rest, &bases, unit.name);
        }
    }
    let wanted = wanted.into_iter().filter(|packs| !packs.is_empty());
    let progress = Progress::begin(
        &work.tools.console,
        &work.tools.clock,
        "bases",
        total,
        resumed_bytes,
    );
    let sink = Arc::new(Sink {
        units,
        engine: Mutex::new(Some(Arc::clone(engine))),
        ledger: Arc::clone(ledger),
        progress: Arc::clone(&progress),
        clock: Arc::clone(&work.tools.clock),
        saved: Mutex::new(work.tools.clock.monotonic()),
        running: AtomicU64::new(0),
    });
    let fetched = fetch(work, wanted, &sink).await;
    // The engine goes on to the log: nobody else may hold it.
    sink.close();
    let fetched_bytes = fetched?;
    progress.finish();
    Ok(BaseDone {
        fetched_bytes,
        resumed_bytes,
    })
}

/// Fetches one group of frames after the other; the bytes read.
async fn fetch(
    work: &Work,
    groups: impl Iterator<Item = Vec<PackFrames>>,
    sink: &Arc<Sink>,
) -> Result<u64> {
    let mut bytes = 0_u64;
    for wanted in groups {
        let fetcher = FrameFetcher::new(Arc::clone(&work.opener), REQUESTS_AT_ONCE);
        let sink: Arc<dyn FrameSink> = Arc::<Sink>::clone(sink);
        let stats = fetcher.run(wanted, sink).await?;
        bytes = bytes.saturating_add(stats.stored_bytes);
    }
    Ok(bytes)
}

/// Opens the chain from the newest base on and cuts it. Of each base only its packs stay: the tables of
/// files and pages are as large as the cluster, and there may be many bases.
async fn cut(
    work: &Work,
    plan: &RestorePlan,
    engine: &Engine,
) -> Result<(Vec<Arc<OpenedBase>>, Units)> {
    let newest = plan.bases.len().saturating_sub(1);
    let mut opening = stream::iter(plan.bases.iter().enumerate().rev())
        .map(async |(number, base)| {
            let opened = work.opener.base(&base.key, base.link).await?;
            Ok::<_, Error>((number, opened))
        })
        .buffered(BASES_AT_ONCE);
    let mut cutter = Cutter::default();
    let mut bases = Vec::new();
    while let Some((number, mut base)) = opening.try_next().await? {
        let files = std::mem::take(&mut base.index.files);
        if number == newest {
            engine.expect_files(&files)?;
        }
        drop(files);
        cutter.add(number, &std::mem::take(&mut base.index.runs));
        bases.push(Arc::new(base));
    }
    bases.reverse();
    Ok((bases, cutter.finish()))
}

fn holds_layout(unit: Unit<'_>) -> bool {
    unit.pieces().any(|piece| piece.file == LAYOUT_FILE)
}

/// Adds a frame to its pack, as the fetcher takes them.
fn want(packs: &mut Vec<PackFrames>, bases: &[Arc<OpenedBase>], name: FrameName) {
    match packs.last_mut() {
        Some(last) if (last.tag, last.pack) == (name.base, name.pack) => {
            last.frames.push(name.frame);
        }
        _ => packs.extend(bases.get(name.base).map(|base| PackFrames {
            base: Arc::clone(base),
            pack: name.pack,
            frames: vec![name.frame],
            tag: name.base,
        })),
    }
}

/// Takes frames on the pool's threads.
struct Sink {
    units: Units,
    engine: Mutex<Option<Arc<Engine>>>,
    ledger: Arc<Ledger>,
    progress: Arc<Progress>,
    clock: Arc<dyn Clock>,
    saved: Mutex<Monotonic>,
    running: AtomicU64,
}

impl Sink {
    fn engine(&self) -> Option<Arc<Engine>> {
        self.engine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn close(&self) {
        drop(
            self.engine
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }

    fn take(&self, at: FrameAt, content: &[u8]) -> std::result::Result<(), SinkError> {
        let name = FrameName {
            base: at.tag,
            pack: at.pack,
            frame: at.frame,
        };
        let Some(number) = self.units.find(name) else {
            return Ok(());
        };
        let (Some(unit), Some(engine)) = (self.units.get(number), self.engine()) else {
            return Ok(());
        };
        for piece in unit.pieces() {
            let from = usize::try_from(piece.offset)?;
            let end = from.saturating_add(usize::try_from(piece.bytes())?);
            let bytes = content
                .get(from..end)
                .ok_or("a run of pages points outside its frame")?;
            RUN.with_borrow_mut(|run| {
                (run.file, run.first) = (piece.file, piece.first);
                (run.count, run.page_size) = (piece.count, piece.page_size);
                run.bytes.clear();
                run.bytes.extend_from_slice(bytes);
                engine.write_run(run)
            })?;
        }
        let number = u64::try_from(number)?;
        self.ledger.change(|notes| notes.units.insert(number));
        Ok(())
    }

    fn save(&self) -> Result<()> {
        if let Some(engine) = self.engine() {
            engine.sync()?;
        }
        self.ledger.save()
    }

    /// Whether this thread is the one that saves the notes now.
    fn is_time_to_save(&self) -> bool {
        let now = self.clock.monotonic();
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let due = now.since(*saved) >= SAVE_EVERY;
        if due {
            *saved = now;
        }
        due
    }
}

impl FrameSink for Sink {
    fn arrived(&self, bytes: u64) {
        self.progress.add(bytes);
    }

    fn frame(&self, at: FrameAt, content: &[u8]) -> std::result::Result<(), SinkError> {
        self.take(at, content)?;
        // One thread syncs; the others go on writing.
        if self.is_time_to_save() && self.running.fetch_add(1, Ordering::AcqRel) == 0 {
            let saved = self.save();
            self.running.store(0, Ordering::Release);
            saved?;
        }
        Ok(())
    }
}
