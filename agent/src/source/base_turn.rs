//! A source's bases: when one begins, what its end is, and what comes of it.
//!
//! The next base after a recipient was added is complete: he could not open one that builds on bases
//! of before.
//!
//! A generation opens even while no region answers (its log is spooled); its base then begins as
//! soon as one does. A base that fails is abandoned and tried again; until it is published nothing
//! names it.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use tidemark_engine::{BaseSlice, BaseStart};
use tidemark_format::body::FileEntry;
use tidemark_format::heads::{BaseHead, BaseRef, Facts};
use tidemark_format::{BaseNumber, KeyId, LogSeq, RegionName};
use tidemark_host::{Monotonic, Pace, RngExt as _};
use tidemark_seal::{BaseDraft, BaseEnd, BaseTools, FinishedBase};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::driver::{Driver, Hold};
use super::slot::Command;
use crate::bases::{BaseParts, Message, run};
use crate::policy;
use crate::schedule::{BASE_RETRY, BaseDue, BaseFacts};
use crate::ship::lane::{Content, Standing};
use crate::ship::link::RegionLink;
use crate::state::item::BaseRecord;
use crate::state::source::{Generation, Restorable};
use crate::status_live::LiveBase;

/// How often a base that has to wait for its turn or for a region asks again.
const TURN_WAIT: std::time::Duration = std::time::Duration::from_millis(100);
/// How often a region that lacks a base is looked after.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);

/// The bases of one source.
#[derive(Debug, Default)]
pub(super) struct BaseTurn {
    /// The open generation has no base to build on, or there is none open.
    pub(super) needs_complete: bool,
    /// A generation must open before anything is cut.
    pub(super) opens_first: bool,
    /// The slot was told to begin.
    beginning: Option<Beginning>,
    running: Option<Running>,
    last_begun: Option<Timestamp>,
    retry_at: Option<Monotonic>,
    /// The regions that took every pack of the newest base and of those it builds on, as far as this
    /// process made them: their lanes may not have come that far yet.
    whole_in: Option<BTreeSet<RegionName>>,
    /// Counts those that were published by this process.
    pub(super) published: u64,
}

#[derive(Debug)]
struct Beginning {
    /// The digest key, if a generation opens.
    generation: Option<[u8; 32]>,
    /// Who can open all of it, if it builds on no other.
    readers: Option<BTreeSet<KeyId>>,
    /// A region lacks what the bases so far build on.
    repairs: bool,
    /// The turn, unless all that is to be done now is to open the generation.
    turn: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Running {
    _turn: OwnedSemaphorePermit,
    task: JoinHandle<()>,
    slices: mpsc::UnboundedSender<BaseSlice>,
    messages: mpsc::UnboundedReceiver<Message>,
    start: LogSeq,
    complete: bool,
    since: Timestamp,
    end: Option<AwaitedEnd>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct AwaitedEnd {
    to: oneshot::Sender<BaseEnd>,
    image_bytes: u64,
    files: Vec<FileEntry>,
    ticket: u64,
    /// The end, while the engine is asked whether the base is exact.
    usable: Option<Restorable>,
}

impl BaseTurn {
    /// The next message of the base that runs; never, if none does.
    pub(super) async fn message(&mut self) -> Message {
        match &mut self.running {
            Some(running) => match running.messages.recv().await {
                Some(message) => message,
                None => Message::Failed {
                    why: "its task ended".to_owned(),
                },
            },
            None => std::future::pending().await,
        }
    }

    /// The next pages, for the base that runs.
    pub(super) fn slice(&self, slice: BaseSlice) {
        if let Some(running) = &self.running {
            drop(running.slices.send(slice));
        }
    }

    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some() || self.beginning.is_some()
    }
}

impl Driver {
    fn base_facts(&self) -> BaseFacts {
        let lanes = self
            .parts
            .outlets
            .iter()
            .filter(|outlet| outlet.link.is_up());
        let lanes: Vec<_> = lanes
            .filter_map(|outlet| {
                let name = &outlet.link.name;
                let whole_in = self.base.whole_in.as_ref();
                let missed = whole_in.is_some_and(|whole| !whole.contains(name));
                let lane = self.record.lanes.get(name)?;
                Some((lane, missed || lane.needs_complete_base()))
            })
            .collect();
        BaseFacts {
            needs_complete: self.base.needs_complete,
            asked: self.base_is_asked(),
            region_needs_complete: lanes.iter().any(|(_, complete)| *complete),
            region_is_bare: lanes
                .iter()
                .any(|(lane, complete)| *complete && lane.base.is_none()),
            region_needs_base: lanes
                .iter()
                .any(|(lane, _)| lane.standing() == Standing::Repairing),
            last_begun: self
                .base
                .last_begun
                .or_else(|| self.record.base.map(|base| base.finished_at)),
            generation_opened: self.record.generation.as_ref().map(|open| open.at),
            generation_repairs: self
                .record
                .generation
                .as_ref()
                .is_some_and(|open| open.repairs),
        }
    }

    fn regions_up(&self) -> Vec<Arc<RegionLink>> {
        let links = self.parts.outlets.iter().map(|outlet| &outlet.link);
        links.filter(|link| link.is_up()).cloned().collect()
    }

    /// Begins a base if one is due and can be made.
    pub(super) fn begin_base_if_due(&mut self) {
        self.end_base_if_ready();
        if self.base.is_running() || self.hold != Hold::Open || self.draining {
            return;
        }
        let now = self.now();
        let may = self.base.retry_at.is_none_or(|retry| now >= retry)
            && !self.regions_up().is_empty()
            && self.record.paused.is_none();
        if !may && !self.base.opens_first {
            return;
        }
        let wall = self.shared.clock.now();
        let mut facts = self.base_facts();
        if facts.last_begun > Some(wall) {
            // The clock stepped back: the schedule goes on from here, not from what is to come again.
            self.base.last_begun = Some(wall);
            facts.last_begun = Some(wall);
        }
        let readers = self.shared.sessions.readers();
        let due = match self.parts.plan.due(&facts, wall) {
            // What it would build on is closed to a recipient that was added since.
            BaseDue::Incremental if self.generation_is_closed_to(&readers) => BaseDue::Complete,
            due => due,
        };
        let (generation, complete) = match due {
            BaseDue::No => return,
            BaseDue::Incremental => (None, false),
            BaseDue::Complete if self.generation_is_unused() => (None, true),
            BaseDue::Complete => (Some(self.shared.rng.bytes()), true),
        };
        let turn = Arc::clone(&self.shared.base_turns).try_acquire_owned().ok();
        if turn.is_none() && !self.base.opens_first {
            self.base.retry_at = Some(now.after(TURN_WAIT));
            return;
        }
        self.base.beginning = Some(Beginning {
            generation,
            readers: complete.then_some(readers),
            repairs: facts.region_needs_complete,
            turn,
        });
        self.parts.slot.tell(Command::BeginBase {
            generation,
            complete,
        });
    }

    /// Whether a generation is open that no base was published in.
    fn generation_is_unused(&self) -> bool {
        let unused = |open: &Generation| open.next_base == BaseNumber(0);
        !self.base.opens_first && self.record.generation.as_ref().is_some_and(unused)
    }

    fn generation_is_closed_to(&self, readers: &BTreeSet<KeyId>) -> bool {
        let open = self.record.generation.as_ref();
        open.is_some_and(|open| open.is_closed_to(readers))
    }

    pub(super) async fn on_base_began(&mut self, start: BaseStart) {
        let Some(Beginning {
            generation,
            readers,
            repairs,
            turn,
        }) = self.base.beginning.take()
        else {
            self.parts.slot.tell(Command::BaseAbandoned);
            return;
        };
        let now = self.record.not_before_the_log(self.shared.clock.now());
        if let Some(digest_key) = generation {
            self.record.generation = Some(Generation {
                opened: start.start,
                at: now,
                digest_key,
                next_base: BaseNumber(0),
                readers: BTreeSet::new(),
                repairs,
            });
            // Until it has one, whatever becomes of this try.
            self.base.needs_complete = true;
            // The key must outlive a crash before the first object of the generation does.
            self.flush().await;
        }
        if let (Some(open), Some(readers)) = (&mut self.record.generation, readers) {
            open.readers = readers;
            self.changed();
        }
        if std::mem::take(&mut self.base.opens_first) {
            self.parts.slot.tell(Command::Hold(false));
        }
        let regions = self.regions_up();
        let Some(turn) = turn.filter(|_| !regions.is_empty()) else {
            // The generation is open and its log goes on; its base comes when it can.
            self.parts.slot.tell(Command::BaseAbandoned);
            self.base.retry_at = Some(self.now().after(TURN_WAIT));
            return;
        };
        self.base.last_begun = Some(now);
        match self.base_parts(start, regions, now).await {
            Ok((parts, running)) => {
                let running = running(tokio::spawn(run(parts)), turn);
                self.show(|live| {
                    live.base = Some(LiveBase {
                        complete: running.complete,
                        done: 0,
                        total: start.pages.saturating_mul(u64::from(start.page_size)),
                        since: now,
                    });
                });
                self.base.running = Some(running);
            }
            Err(error) => self.base_failed(&policy::with_causes(&error)),
        }
    }

    async fn base_parts(
        &mut self,
        start: BaseStart,
        regions: Vec<Arc<RegionLink>>,
        since: Timestamp,
    ) -> crate::Result<(
        BaseParts,
        impl FnOnce(JoinHandle<()>, OwnedSemaphorePermit) -> Running + use<>,
    )> {
        let session = self.session().await?;
        let (slices, from_slot) = mpsc::unbounded_channel();
        let (to, messages) = mpsc::unbounded_channel();
        let parts = BaseParts {
            session,
            draft: self.base_draft(start, since),
            tools: BaseTools {
                level: self.parts.settings.compression,
                cpu: self.shared.cpu.clone(),
                signer: self.shared.signer.clone(),
                rng: Arc::clone(&self.shared.rng),
            },
            regions,
            budget: Arc::clone(&self.shared.pack_budget),
            pace: self.pace(),
            slot: self.parts.slot.clone(),
            slices: from_slot,
            to,
        };
        let complete = parts.draft.parent.is_none();
        let running = move |task, turn| Running {
            _turn: turn,
            task,
            slices,
            messages,
            start: start.start,
            complete,
            since,
            end: None,
        };
        Ok((parts, running))
    }

    fn pace(&self) -> Pace {
        let settings = &self.parts.settings;
        let (rate, zone) = (settings.base_rate.clone(), settings.timezone.clone());
        Pace::new(rate, zone, Arc::clone(&self.shared.clock))
    }

    fn base_draft(&self, start: BaseStart, started_at: Timestamp) -> BaseDraft {
        let record = &self.record;
        let open = record.generation.as_ref();
        let generation = open.map_or(start.start, |open| open.opened);
        let number = open.map_or(BaseNumber(0), |open| open.next_base);
        let parent = record.base.map(|base| base.reference);
        let in_generation = |parent: &BaseRef| parent.generation == generation;
        BaseDraft {
            source: record.source.clone(),
            engine: self.parts.engine.to_owned(),
            incarnation: record.incarnation.unwrap_or_else(|| [0; 16].into()),
            epoch: record.epoch,
            generation,
            number,
            parent: parent.filter(|parent| number != BaseNumber(0) && in_generation(parent)),
            start: start.start,
            started_at,
            digest_key: open.map_or([0; 32], |open| open.digest_key),
        }
    }

    pub(super) async fn on_base(&mut self, message: Message) {
        match message {
            Message::Progress(progress) => self.show(|live| {
                if let Some(base) = &mut live.base {
                    (base.done, base.total) = (progress.done, progress.total);
                }
            }),
            Message::PagesRead {
                end,
                image_bytes,
                files,
            } => {
                let ticket = self.ticket();
                if let Some(running) = &mut self.base.running {
                    running.end = Some(AwaitedEnd {
                        to: end,
                        image_bytes,
                        files,
                        ticket,
                        usable: None,
                    });
                }
            }
            Message::Finished { base, packs_in } => self.base_finished(*base, packs_in).await,
            Message::Failed { why } => self.base_failed(&why),
        }
    }

    /// Asks the engine whether the base is exact, once everything cut up to its end is sealed.
    fn end_base_if_ready(&mut self) {
        let Some(running) = &mut self.base.running else {
            return;
        };
        let Some(end) = &mut running.end else { return };
        let Some(next_seq) = self.tickets_done.get(&end.ticket) else {
            return;
        };
        let usable = self
            .record
            .log
            .restorable
            .filter(|last| last.seq >= running.start);
        if usable.is_none() || self.record.log.next < *next_seq {
            return;
        }
        self.tickets_done.remove(&end.ticket);
        end.usable = usable;
        self.parts.slot.tell(Command::ConfirmBase);
    }

    /// The base is exact: it is told its end.
    pub(super) fn on_base_confirmed(&mut self) {
        let ended = self
            .base
            .running
            .as_mut()
            .and_then(|running| running.end.take());
        let Some(AwaitedEnd {
            to,
            image_bytes,
            files,
            usable: Some(usable),
            ..
        }) = ended
        else {
            return;
        };
        let end = BaseEnd {
            usable_from: usable.seq,
            usable_link: usable.link,
            finished_at: self.record.not_before_the_log(self.shared.clock.now()),
            image_bytes,
            files,
            facts: Facts::new(),
        };
        // A task that ended meanwhile says so itself.
        drop(to.send(end));
    }

    async fn base_finished(&mut self, base: FinishedBase, packs_in: Vec<RegionName>) {
        let Some(running) = self.base.running.take() else {
            return;
        };
        let link = base.base.link;
        let reference = base.head.reference(link);
        let content = Content::Base {
            reference,
            parent: base.head.parent,
            start: base.head.start,
            packs_in: packs_in.clone(),
        };
        let beside = BaseRecord {
            packs_in: packs_in.clone(),
        };
        let record = move || serde_json::to_vec(&beside).unwrap_or_default();
        let session = Some(base.head.session);
        if let Err(error) = self.append(&base.base, session, content, record).await {
            self.base.running = Some(running);
            self.base_failed(&policy::with_causes(&error));
            return;
        }
        self.whole_in(&base.head, packs_in);
        self.record.base_sealed(&base.head, link);
        self.changed();
        self.parts.slot.tell(Command::BaseDone);
        self.parts.slot.tell(Command::Probe);
        self.base.needs_complete = false;
        self.base.retry_at = None;
        self.base.published = self.base.published.saturating_add(1);
        self.new_base = true;
        self.shared.metrics.base_sealed(self.name());
        self.clear("base.failed");
        self.mend_lost_log();
        self.show(|live| {
            live.base = None;
            live.base_at = Some(base.head.finished_at);
        });
        tracing::info!(
            source = %self.name(),
            generation = %base.head.generation,
            number = %base.head.number,
            stored_bytes = base.head.stored_bytes,
            seconds = self.shared.clock.now().duration_since(running.since).as_secs(),
            "a base is complete"
        );
    }

    /// Notes where every pack of the newest base is, and of those that it builds on.
    fn whole_in(&mut self, head: &BaseHead, packs_in: Vec<RegionName>) {
        let mut whole: BTreeSet<RegionName> = packs_in.into_iter().collect();
        if let (Some(_), Some(before)) = (head.parent, &self.base.whole_in) {
            whole.retain(|name| before.contains(name));
        }
        self.base.whole_in = Some(whole);
    }

    /// The base that runs or was to begin comes to nothing.
    pub(super) fn base_failed(&mut self, why: &str) {
        let began = self.base.beginning.take().is_some();
        let Some(running) = self.base.running.take() else {
            if began {
                self.base.retry_at = Some(self.now().after(BASE_RETRY));
            }
            return;
        };
        drop(running);
        self.parts.slot.tell(Command::BaseAbandoned);
        self.base.retry_at = Some(self.now().after(BASE_RETRY));
        self.show(|live| live.base = None);
        self.alert(
            "base.failed",
            &format!("the base was abandoned and is tried again: {why}"),
        );
    }

    /// When a base is due that no input will bring.
    pub(super) fn base_due_at(&self) -> Option<Monotonic> {
        if self.base.is_running() || self.hold != Hold::Open || self.draining {
            return None;
        }
        let (wall, now) = (self.shared.clock.now(), self.now());
        let facts = self.base_facts();
        let scheduled = self.parts.plan.next(&facts, wall).map(|next| {
            let wait = next.duration_since(wall);
            now.after(wait.try_into().unwrap_or_default())
        });
        let wanted = facts.needs_complete || facts.asked;
        let again = self.base.retry_at.filter(|_| wanted);
        let wait = if facts.region_needs_complete {
            LOOK_AGAIN
        } else {
            BASE_RETRY
        };
        let look_again = (wanted || facts.region_needs_base).then(|| now.after(wait));
        scheduled
            .into_iter()
            .chain(again.filter(|at| *at > now))
            .chain(look_again)
            .min()
    }
}
