//! One base under way: slices from the capture thread, frames through the CPU pool, packs to every
//! region that answers.
//!
//! ```text
//! slot ── slice ──▶ writer (blocking) ── packs ──▶ uploads, a few at a time ──▶ regions
//! ```
//!
//! **Failure.** A region that doesn't take a pack within [`PATIENCE`] is left out of this base: it
//! will be repairing, its packs are not spooled, the others go on. When none is left the base fails
//! and is abandoned; packs without a base are garbage that nobody refers to.
//!
//! **Bounds.** Packs in memory by the budget, slices two at a time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tidemark_engine::{BaseSlice, Progress};
use tidemark_format::RegionName;
use tidemark_format::body::FileEntry;
use tidemark_host::Pace;
use tidemark_seal::{BaseDraft, BaseEnd, BaseTools, BaseWriter, FinishedBase, Sealed, Session};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::budget::{Budget, Permit};
use crate::policy;
use crate::ship::link::{RegionLink, ShipError, ToCreate};
use crate::source::slot::{Command, Handle};

/// Pages per slice: large enough to fill frames, small enough that marks keep moving between.
const SLICE_BYTES: usize = 1 << 20;
/// Slices that are asked for ahead.
const SLICES_AHEAD: usize = 2;
/// How long a region may fail to take a pack before the base goes on without it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The wait between tries.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How often memory for a pack is looked for.
const BUDGET_WAIT: Duration = Duration::from_millis(5);

/// What a base task tells its driver.
#[derive(Debug)]
pub enum Message {
    /// How far it is.
    Progress(Progress),
    /// All pages are read: the driver cuts, and answers with the end.
    PagesRead {
        /// Where the end goes.
        end: oneshot::Sender<BaseEnd>,
        /// Bytes of the database, as far as the engine knows.
        image_bytes: u64,
        /// Its files.
        files: Vec<FileEntry>,
    },
    /// All packs are durable in these regions.
    Finished {
        /// The base object and its head.
        base: Box<FinishedBase>,
        /// The regions that hold all packs.
        packs_in: Vec<RegionName>,
    },
    /// It can't be finished.
    Failed {
        /// Why.
        why: String,
    },
}

/// What a base task works with.
#[derive(Debug)]
pub struct BaseParts {
    /// The session that seals it.
    pub session: Session,
    /// What is known at its start.
    pub draft: BaseDraft,
    /// For the writer.
    pub tools: BaseTools,
    /// The regions that answer now.
    pub regions: Vec<Arc<RegionLink>>,
    /// Memory for packs.
    pub budget: Arc<Budget>,
    /// How fast the database is read.
    pub pace: Pace,
    /// Where slices are asked for.
    pub slot: Handle,
    /// Where they come from.
    pub slices: mpsc::UnboundedReceiver<BaseSlice>,
    /// Where messages go.
    pub to: mpsc::UnboundedSender<Message>,
}

/// Runs a base to its end.
pub async fn run(parts: BaseParts) {
    let to = parts.to.clone();
    let message = match Run::new(parts).run().await {
        Ok((base, packs_in)) => Message::Finished {
            base: Box::new(base),
            packs_in,
        },
        Err(why) => Message::Failed { why },
    };
    // The driver is gone only when the agent stops.
    drop(to.send(message));
}

struct Run {
    /// Away while it works.
    writer: Option<BaseWriter>,
    uploads: Uploads,
    slot: Handle,
    slices: mpsc::UnboundedReceiver<BaseSlice>,
    to: mpsc::UnboundedSender<Message>,
    pace: Pace,
    /// What was read so far.
    done: u64,
}

impl Run {
    fn new(parts: BaseParts) -> Self {
        let uploads = Uploads {
            regions: parts.regions,
            left_out: BTreeSet::new(),
            session: parts.session.id(),
            budget: parts.budget,
            running: JoinSet::new(),
        };
        Self {
            writer: Some(BaseWriter::new(&parts.session, parts.draft, parts.tools)),
            uploads,
            slot: parts.slot,
            slices: parts.slices,
            to: parts.to,
            pace: parts.pace,
            done: 0,
        }
    }

    async fn run(mut self) -> Result<(FinishedBase, Vec<RegionName>), String> {
        let (image_bytes, files) = self.read_pages().await?;
        let (sender, end) = oneshot::channel();
        drop(self.to.send(Message::PagesRead {
            end: sender,
            image_bytes,
            files,
        }));
        let end = end
            .await
            .map_err(|_dropped| "it was abandoned".to_owned())?;
        let mut finished = self
            .with_writer(move |writer| (None, writer.finish(end)))
            .await?;
        for pack in std::mem::take(&mut finished.packs) {
            self.uploads.begin(pack).await?;
        }
        let packs_in = self.uploads.finish().await?;
        Ok((finished, packs_in))
    }

    /// Reads every page. Returns the database's bytes and files.
    async fn read_pages(&mut self) -> Result<(u64, Vec<FileEntry>), String> {
        for _ in 0..SLICES_AHEAD {
            self.slot.tell(Command::Slice {
                max_bytes: SLICE_BYTES,
            });
        }
        loop {
            let mut slice = self.slices.recv().await.ok_or("the capture ended")?;
            let files = std::mem::take(&mut slice.files);
            let (done, progress) = (slice.done, slice.progress);
            let read = progress.done.saturating_sub(self.done);
            self.done = progress.done;
            let wait = self.pace.passed(read);
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            if !done {
                self.slot.tell(Command::Slice {
                    max_bytes: SLICE_BYTES,
                });
            }
            drop(self.to.send(Message::Progress(progress)));
            if !slice.runs.is_empty() {
                for pack in self.push(slice).await? {
                    self.uploads.begin(pack).await?;
                }
            }
            if done {
                return Ok((progress.total, files));
            }
        }
    }

    async fn push(&mut self, slice: BaseSlice) -> Result<Vec<Sealed>, String> {
        self.with_writer(move |mut writer| {
            let mut packs = Vec::new();
            let mut result = Ok(());
            for run in &slice.runs {
                match writer.push(run.file, run.first, run.page_size, &run.bytes) {
                    Ok(more) => packs.extend(more),
                    Err(error) => result = Err(error),
                }
            }
            (Some(writer), result.map(|()| packs))
        })
        .await
    }

    /// Lets the writer work where blocking is allowed: it computes, or waits for the pool.
    async fn with_writer<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(BaseWriter) -> (Option<BaseWriter>, Result<T, tidemark_seal::Error>)
        + Send
        + 'static,
    ) -> Result<T, String> {
        let writer = self.writer.take().ok_or("its writer is gone")?;
        let done = tokio::task::spawn_blocking(move || work(writer)).await;
        let (writer, result) = done.map_err(|error| error.to_string())?;
        self.writer = writer;
        result.map_err(|error| policy::with_causes(&error))
    }
}

struct Uploads {
    regions: Vec<Arc<RegionLink>>,
    left_out: BTreeSet<RegionName>,
    session: tidemark_format::SessionId,
    budget: Arc<Budget>,
    running: JoinSet<Outcome>,
}

/// What came of one pack, by region.
type Outcome = Vec<(RegionName, Result<(), String>)>;

impl Uploads {
    /// Begins to create a pack in every region, as soon as there is memory for it to wait.
    async fn begin(&mut self, pack: Sealed) -> Result<(), String> {
        let bytes = u64::try_from(pack.bytes.len()).unwrap_or(u64::MAX);
        let permit = loop {
            while let Some(done) = self.running.try_join_next() {
                self.ended(done)?;
            }
            if let Some(permit) = self.budget.try_take(bytes) {
                break permit;
            }
            if self.running.is_empty() {
                // Another base has the memory.
                tokio::time::sleep(BUDGET_WAIT).await;
            } else if let Some(done) = self.running.join_next().await {
                self.ended(done)?;
            }
        };
        let regions: Vec<Arc<RegionLink>> = self
            .regions
            .iter()
            .filter(|link| !self.left_out.contains(&link.name))
            .cloned()
            .collect();
        if regions.is_empty() {
            return Err("no region takes its packs".to_owned());
        }
        let object = ToCreate {
            session: Some(self.session),
            ..ToCreate::from(pack)
        };
        self.running
            .spawn(create_everywhere(regions, object, permit));
        Ok(())
    }

    fn ended(&mut self, done: Result<Outcome, tokio::task::JoinError>) -> Result<(), String> {
        for (region, result) in done.map_err(|error| error.to_string())? {
            if let Err(why) = result
                && self.left_out.insert(region.clone())
            {
                tracing::warn!(region = %region, why, "the base goes on without this region");
            }
        }
        if self.left_out.len() < self.regions.len() {
            Ok(())
        } else {
            Err("no region takes its packs".to_owned())
        }
    }

    async fn finish(&mut self) -> Result<Vec<RegionName>, String> {
        while let Some(done) = self.running.join_next().await {
            self.ended(done)?;
        }
        let whole = self.regions.iter().map(|link| link.name.clone());
        Ok(whole.filter(|name| !self.left_out.contains(name)).collect())
    }
}

async fn create_everywhere(
    regions: Vec<Arc<RegionLink>>,
    object: ToCreate,
    _permit: Permit,
) -> Outcome {
    let creates = regions
        .iter()
        .map(|link| async { (link.name.clone(), create(link, &object).await) });
    join_all(creates).await
}

async fn create(link: &RegionLink, object: &ToCreate) -> Result<(), String> {
    let mut last: Option<ShipError> = None;
    let tries = async {
        loop {
            match link.create(object).await {
                Ok(()) => return,
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    };
    match tokio::time::timeout(PATIENCE, tries).await {
        Ok(()) => Ok(()),
        Err(_elapsed) => Err(last.map_or_else(
            || "no answer".to_owned(),
            |error| policy::with_causes(&error),
        )),
    }
}
