//! The driver of one source: one task that seals what its slot cuts, spools it, hands it to every
//! region, and decides when points and bases are due.
//!
//! ```text
//! slot's events ─┐
//! regions' lanes ├─▶ one input at a time ─▶ seal waiting cuts ─▶ base? ─▶ point? ─▶ requests ─▶ flush
//! requests       ┘
//! ```
//!
//! **Invariants.** A cut is sealed in order, fsynced with its record, and only then is the slot told
//! and any region handed the object. The record on disk covers every item that is removed.
//!
//! **Failure.** A database that can't be opened or a spool that is full is an alert and is tried
//! again; other sources don't notice. Another writer ends the driver ([`Ended::Fenced`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tidemark_engine::LogCut;
use tidemark_format::heads::Facts;
use tidemark_format::sign::SigningKey;
use tidemark_format::{LogSeq, RegionName, RepoId, SourceName};
use tidemark_host::codes::Code;
use tidemark_host::{Clock, Cpu, Monotonic, Rng};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::acks::Acks;
use super::base_turn::BaseTurn;
use super::canary::CanaryWatch;
use super::reopen::Reopen;
use super::requests::{Job, Request, Retiring};
use super::short::Shortages;
use super::slot::{Command, Event, Handle};
use super::sweep::Sweep;
use crate::budget::{Budget, Permit};
use crate::disk::Disk;
use crate::metrics::SharedMetrics;
use crate::points;
use crate::repeats::Repeats;
use crate::room::Room;
use crate::schedule::BasePlan;
use crate::sessions::Sessions;
use crate::ship::link::RegionLink;
use crate::ship::region::{Command as RegionCommand, Report};
use crate::state::{Order, SourceRecord, Spool, StateDir};
use crate::status_live::{Board, SourceState};
use crate::store::ItemStore;

/// How often it is looked after what people wait for.
const JOBS_LOOK: Duration = Duration::from_secs(1);

/// What all sources of an agent share.
#[derive(Debug)]
pub struct Shared {
    /// The repository.
    pub repo: RepoId,
    /// The agent's key.
    pub signer: SigningKey,
    /// The state directory.
    pub state: StateDir,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
    /// Where sealing runs.
    pub cpu: Cpu,
    /// The process's session.
    pub sessions: Arc<Sessions>,
    /// Items on their way.
    pub items: Arc<ItemStore>,
    /// Where people look.
    pub board: Arc<Board>,
    /// Counters.
    pub metrics: SharedMetrics,
    /// Where blocking work on files is done.
    pub disk: Disk,
    /// Turns at making bases: each holds frames and packs in memory.
    pub base_turns: Arc<Semaphore>,
    /// Memory for packs.
    pub pack_budget: Arc<Budget>,
    /// The spool's bounds.
    pub room: Arc<Room>,
    /// Open facts for points.
    pub facts: Facts,
    /// Told when the spool has no room for a source.
    pub no_room: UnboundedSender<SourceName>,
}

/// A region as a source's driver sees it.
#[derive(Debug, Clone)]
pub struct Outlet {
    /// The region.
    pub link: Arc<RegionLink>,
    /// Its driver.
    pub commands: UnboundedSender<RegionCommand>,
}

/// A source's own parts.
#[derive(Debug)]
pub struct SourceParts {
    /// The engine's name.
    pub engine: &'static str,
    /// How it is protected.
    pub settings: tidemark_host::config::Settings,
    /// When bases are due.
    pub plan: BasePlan,
    /// Its spool.
    pub spool: Arc<Spool>,
    /// The orders that stood in it.
    pub orders: Vec<Order>,
    /// Where it stands, replayed.
    pub record: SourceRecord,
    /// Regions that hold this epoch's claim for sure.
    pub joined: Vec<RegionName>,
    /// Its slot.
    pub slot: Handle,
    /// The slot's events.
    pub events: UnboundedReceiver<Event>,
    /// Every region.
    pub outlets: Vec<Outlet>,
    /// Requests to it.
    pub requests: Receiver<Request>,
}

/// How a driver ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The agent stops.
    Drained,
    /// Another writer has the source.
    Fenced(String),
    /// A person retired it.
    Retired,
}

/// A cut that waits to be sealed.
pub(super) struct WaitingCut {
    pub(super) seq: LogSeq,
    pub(super) cut: Arc<LogCut>,
    pub(super) at: Timestamp,
    pub(super) permit: Permit,
}

/// How the database is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// It is being opened.
    Opening,
    /// It is captured.
    Open,
    /// It failed and is opened again then.
    Waiting { until: Monotonic },
    /// It is let go of for good.
    Closed,
}

/// The driver of one source.
pub struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) parts: SourceParts,
    pub(super) reports: UnboundedReceiver<Report>,
    pub(super) report_to: UnboundedSender<Report>,
    pub(super) record: SourceRecord,
    pub(super) waiting: VecDeque<WaitingCut>,
    pub(super) room_at: Option<Monotonic>,
    /// What people were told is short.
    pub(super) shortages: Shortages,
    /// The region whose backlog is to give way.
    pub(super) give_up_asked: Option<RegionName>,
    /// The regions whose backlog gave way, so that it isn't said every time.
    pub(super) given_up: Repeats<RegionName>,
    /// Log objects whose records the engine may still need.
    pub(super) unsynced: VecDeque<(LogSeq, Order)>,
    pub(super) ends: points::Ends,
    pub(super) point_at: Option<Monotonic>,
    pub(super) new_base: bool,
    pub(super) base: BaseTurn,
    pub(super) canary: CanaryWatch,
    pub(super) acks: Acks,
    pub(super) jobs: Vec<Job>,
    /// Who waits until the source is let go of for good.
    pub(super) retiring: Option<Retiring>,
    pub(super) next_ticket: u64,
    pub(super) tickets_done: BTreeMap<u64, LogSeq>,
    pub(super) hold: Hold,
    pub(super) reopen: Reopen,
    /// Why the database can't be opened, until it can.
    pub(super) failure: Option<(Code, String)>,
    /// When a pause is over at the latest, whatever the wall clock does.
    pub(super) pause_over: Option<Monotonic>,
    pub(super) gap: Option<super::gap::GapTurn>,
    pub(super) dirty: bool,
    pub(super) flushed_at: Monotonic,
    pub(super) removed: Order,
    /// What is being removed.
    pub(super) sweep: Option<Sweep>,
    /// Where the spool ended when this process began: what stands before it may have been tried by the
    /// one before, whatever the record says.
    pub(super) found: Order,
    pub(super) draining: bool,
    pub(super) ending: Option<Ended>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Driver({})", self.record.source)
    }
}

impl Driver {
    /// A driver that has done nothing yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>, mut parts: SourceParts) -> Self {
        let (report_to, reports) = tokio::sync::mpsc::unbounded_channel();
        let now = shared.clock.monotonic();
        let record = parts.record.clone();
        let removed = parts.orders.first().copied().unwrap_or(record.next_order);
        let found = record.next_order;
        let mut ends = points::Ends::default();
        if let Some(last) = record.log.restorable {
            ends.sealed(last);
        }
        let unsynced = std::mem::take(&mut parts.orders);
        let mut driver = Self {
            shared,
            parts,
            reports,
            report_to,
            record,
            waiting: VecDeque::new(),
            room_at: None,
            shortages: Shortages::default(),
            give_up_asked: None,
            given_up: Repeats::default(),
            unsynced: VecDeque::new(),
            ends,
            point_at: None,
            new_base: false,
            base: BaseTurn::default(),
            canary: CanaryWatch::default(),
            acks: Acks::default(),
            jobs: Vec::new(),
            retiring: None,
            next_ticket: 0,
            tickets_done: BTreeMap::new(),
            hold: Hold::Opening,
            reopen: Reopen::default(),
            failure: None,
            pause_over: None,
            gap: None,
            dirty: true,
            flushed_at: now,
            removed,
            sweep: None,
            found,
            draining: false,
            ending: None,
        };
        driver.parts.orders = unsynced;
        driver
    }

    /// Runs until the agent stops or the source ends.
    pub async fn run(mut self, stop: CancellationToken) -> (SourceName, Ended) {
        self.start().await;
        loop {
            let wake = self.wake();
            tokio::select! {
                biased;
                () = stop.cancelled(), if !self.draining => self.begin_drain(),
                Some(report) = self.reports.recv() => self.on_report(report),
                Some(event) = self.parts.events.recv() => self.on_event(event).await,
                message = self.base.message() => self.on_base(message).await,
                Some(request) = self.parts.requests.recv() => self.on_request(request),
                swept = Sweep::end(&mut self.sweep) => self.on_swept(swept),
                () = sleep(wake) => {}
            }
            self.advance().await;
            if let Some(ended) = self.ending.take() {
                self.flush_all().await;
                return (self.record.source.clone(), ended);
            }
        }
    }

    pub(super) fn now(&self) -> Monotonic {
        self.shared.clock.monotonic()
    }

    pub(super) fn name(&self) -> &SourceName {
        &self.record.source
    }

    pub(super) fn show(&self, change: impl FnOnce(&mut crate::status_live::LiveSource)) {
        self.shared.board.source(&self.record.source, change);
    }

    pub(super) fn alert(&self, code: &str, message: &str) {
        let now = self.shared.clock.now();
        self.shared
            .board
            .alert(code, self.record.source.as_str(), message, now);
    }

    pub(super) fn clear(&self, code: &str) {
        self.shared.board.clear(code, self.record.source.as_str());
    }

    /// Everything that may follow from an input, in order.
    async fn advance(&mut self) {
        self.end_pause_that_is_over();
        self.advance_gap().await;
        self.give_up_if_asked().await;
        self.reopen_if_due();
        self.seal_waiting().await;
        self.end_shortages();
        self.begin_base_if_due();
        self.seal_point_if_due().await;
        self.advance_jobs().await;
        self.advance_drain();
        if self.dirty && self.now().since(self.flushed_at) >= self.flush_every() {
            self.flush().await;
        }
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Lane { region, lane } => {
                self.record.lanes.insert(region, lane);
                self.dirty = true;
                self.acknowledge();
            }
            Report::Frozen { region, lane } => {
                self.record.lanes.insert(region.clone(), lane);
                if let Some(gap) = &mut self.gap {
                    gap.frozen.insert(region);
                }
            }
            Report::Found {
                region,
                ticket,
                found,
            } => self.on_found(&region, ticket, found),
            Report::Fenced { why } => {
                let code = tidemark_host::codes::FENCED.id;
                self.alert(code, &why);
                self.show(|live| live.state = SourceState::Fenced);
                self.parts.slot.tell(Command::Close);
                self.ending = Some(Ended::Fenced(why));
            }
        }
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::Opened {
                incarnation,
                verdict,
                needs_complete_base,
                unfinished_base,
            } => {
                let opened = super::opening::Opened {
                    incarnation,
                    verdict,
                    needs_complete_base,
                    unfinished_base,
                };
                self.on_opened(opened);
            }
            Event::Failed {
                kind,
                verdict,
                message,
            } => self.on_failed(kind, verdict, &message),
            Event::Changed => self.on_changed(),
            Event::Cut {
                seq,
                cut,
                at,
                permit,
            } => {
                self.waiting.push_back(WaitingCut {
                    seq,
                    cut: Arc::new(cut),
                    at,
                    permit,
                });
            }
            Event::CutDone { ticket, next_seq } => {
                self.tickets_done.insert(ticket, next_seq);
            }
            Event::BaseBegan(start) => self.on_base_began(start).await,
            Event::Slice(slice) => self.base.slice(slice),
            Event::BaseConfirmed => self.on_base_confirmed(),
            Event::BaseFailed { message } => self.base_failed(&message),
            Event::Synced(seq) => self.on_synced(seq),
            // An engine that would have to ask for it says nothing.
            Event::Probed(probe) if probe.bytes == 0 => {}
            Event::Probed(probe) => self.show(|live| live.database_bytes = Some(probe.bytes)),
            Event::Canary(outcome) => self.on_canary(outcome),
            Event::CanaryRemoved(result) => self.on_canary_removed(result),
            Event::Closed => self.hold = Hold::Closed,
            Event::Retired(result) => self.on_retired(result),
        }
    }

    fn on_synced(&mut self, seq: LogSeq) {
        self.record.log.map_synced = Some(seq);
        while let Some((first, order)) = self.unsynced.front().copied() {
            if first > seq {
                break;
            }
            self.record.log.synced_order = order.saturating_add(1);
            self.unsynced.pop_front();
        }
        self.dirty = true;
    }

    pub(super) const fn changed(&mut self) {
        self.dirty = true;
    }

    /// When something is due that no input will bring.
    fn wake(&mut self) -> Option<Duration> {
        let now = self.now();
        let flush = self
            .dirty
            .then(|| self.flushed_at.after(self.flush_every()));
        let due = [
            flush,
            self.reopen_due_at(),
            self.room_due_at(),
            self.shortage_due_at(),
            self.gap_due_at(),
            self.point_due_at(),
            self.base_due_at(),
        ];
        let pause = self.pause_ends_at();
        // No input tells that a region went away or came back.
        let look = now.after(JOBS_LOOK);
        let jobs = self.jobs.iter().map(|job| job.due().min(look));
        let first = due.into_iter().flatten().chain(jobs).chain(pause).min();
        first.map(|due| due.since(now))
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
