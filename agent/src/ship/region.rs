//! The driver of one region: one task that greets it, ships every source's items in turn, and comes
//! back to it after an outage.
//!
//! **Failure.** A region that fails is asked again after a growing wait; nothing here blocks another
//! region. An object that isn't ours under one of our names stops its source and is told to the
//! source's driver.
//!
//! **Cancellation.** Dropping the driver drops what is under way: it is done again with the same
//! put-ids.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use tidemark_format::{Epoch, SourceName, WriterId};
use tidemark_host::{Monotonic, RngExt as _, codes};
use tidemark_ledger::LedgerErrorKind;
use tidemark_seal::Sealed;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::greet::{GreetError, Seen};
use super::lane::{Admission, Content, Lane};
use super::link::{RegionLink, ShipError};
use super::looking::{AGENT, Look};
use super::queue::Queue;
pub use super::region_messages::{Command, LinkOf, Opening, Report, Tools};
use super::shipping::{Shipped, meaning, ship, ship_meaning};
use crate::policy::{self, Response};
use crate::state::Order;
use crate::status_live::LiveLane;

/// How long a region may be away before people are told: a passing failure is not news.
const AWAY_ALERT: Duration = Duration::from_secs(60);

/// What came of something that was under way.
pub(super) enum Done {
    Greeted(Result<(), GreetError>),
    Looked {
        /// The beat that greeted, if the region had to be greeted before.
        greeted: Option<u64>,
        result: Result<Seen, GreetError>,
    },
    Beaten {
        number: u64,
        result: Result<(), GreetError>,
    },
    Probed(tidemark_storage::Result<tidemark_storage::ProbeReport>),
    LookedAt {
        source: SourceName,
        result: Result<(), GreetError>,
    },
    Shipped {
        source: SourceName,
        order: Order,
        result: Result<Shipped, ShipError>,
    },
}

pub(super) struct Known {
    own: (WriterId, Epoch),
    link_of: LinkOf,
    to: UnboundedSender<Report>,
    pub(super) checked: bool,
    checking: bool,
    /// What was given up while it is looked at may be what it shows.
    moved: bool,
    held: bool,
    frozen: bool,
    fenced: bool,
}

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// The driver of one region.
pub struct Driver {
    pub(super) link: Arc<RegionLink>,
    pub(super) tools: Tools,
    pub(super) queue: Queue,
    pub(super) sources: BTreeMap<SourceName, Known>,
    pub(super) work: FuturesUnordered<Work>,
    pub(super) greeted: bool,
    pub(super) greeting: bool,
    pub(super) look: Look,
    pub(super) beat: Option<(u64, Sealed)>,
    beating: bool,
    pub(super) beaten: u64,
    probed: bool,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Driver({})", self.link.name)
    }
}

impl Driver {
    /// A driver; `greeted` if the region was greeted already, with the beat of that number.
    #[must_use]
    pub fn new(link: Arc<RegionLink>, tools: Tools, greeted: Option<u64>) -> Self {
        Self {
            link,
            tools,
            queue: Queue::default(),
            sources: BTreeMap::new(),
            work: FuturesUnordered::new(),
            greeted: greeted.is_some(),
            greeting: false,
            look: Look::default(),
            beat: None,
            beating: false,
            beaten: greeted.unwrap_or(0),
            probed: false,
        }
    }

    /// Runs until `stop`, or until nobody commands any more.
    pub async fn run(mut self, mut commands: UnboundedReceiver<Command>, stop: CancellationToken) {
        self.show_region(None);
        if self.greeted {
            self.look_later();
        }
        loop {
            self.begin();
            let wake = self.wake();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(done) = self.work.next(), if !self.work.is_empty() => self.done(done),
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                () = sleep(wake) => {}
            }
        }
    }

    pub(super) fn now(&self) -> (Timestamp, Monotonic) {
        (self.tools.clock.now(), self.tools.clock.monotonic())
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open(opening) => self.open(*opening),
            Command::Appended {
                source,
                bytes,
                content,
            } => {
                self.queue.appended(&source, bytes, &content);
                self.show(&source);
            }
            Command::GiveUp(source, until) => {
                if let Some(lane) = self.queue.give_up(&source, &until) {
                    if let Some(known) = self.sources.get_mut(&source) {
                        known.moved = known.checking;
                    }
                    self.report(&source, lane);
                }
            }
            Command::Hold(source, held) => {
                if let Some(known) = self.sources.get_mut(&source) {
                    known.held = held;
                }
                self.release(&source);
            }
            Command::Freeze(source) => {
                if let Some(known) = self.sources.get_mut(&source) {
                    known.frozen = true;
                }
                self.release(&source);
                self.report_frozen(&source);
            }
            Command::Beat(beat) => {
                let number = tidemark_format::keys::beat_number(&beat.key).unwrap_or(0);
                self.beat = Some((number, beat));
            }
            Command::Reload(answer) => self.reload(answer),
        }
    }

    fn open(&mut self, opening: Opening) {
        let Opening {
            source,
            epoch,
            writer,
            lane,
            ends,
            joined,
            link_of,
            to,
            held,
        } = opening;
        let known = Known {
            own: (writer, epoch),
            link_of,
            to,
            checked: joined,
            checking: false,
            moved: false,
            held,
            frozen: false,
            fenced: false,
        };
        self.queue.open(&source, lane, ends);
        self.sources.insert(source.clone(), known);
        self.is_another_place();
        self.release(&source);
        self.show(&source);
    }

    /// Lets a source's items go if nothing stands against it.
    pub(super) fn release(&mut self, source: &SourceName) {
        if let Some(known) = self.sources.get(source) {
            let held = known.held || known.frozen || known.fenced || !known.checked;
            self.queue.hold(source, held);
        }
    }

    /// When something is due that no event will bring.
    fn wake(&self) -> Option<Duration> {
        let now = self.tools.clock.monotonic();
        let waiting = !self.greeted || self.sources.values().any(Known::must_be_checked);
        let outage = self
            .queue
            .outage()
            .filter(|_| waiting)
            .map(|outage| outage.retry_at);
        outage
            .into_iter()
            .chain(self.queue.wake_at())
            .chain(self.look_wake().filter(|_| !self.greeting))
            .min()
            .map(|due| due.since(now))
    }

    fn may_try(&self) -> bool {
        let now = self.tools.clock.monotonic();
        self.queue
            .outage()
            .is_none_or(|outage| now >= outage.retry_at)
    }

    /// Begins everything that may be begun now.
    fn begin(&mut self) {
        self.begin_look();
        if !self.greeted {
            self.begin_greeting();
            return;
        }
        self.begin_probe();
        self.begin_beat();
        self.begin_checks();
        let now = self.tools.clock.monotonic();
        while let Some((source, order)) = self.queue.next(now) {
            self.begin_shipping(source, order);
        }
    }

    fn begin_greeting(&mut self) {
        let Some((_, beat)) = self.beat.clone() else {
            return;
        };
        if self.greeting || self.look.is_under_way() || !self.may_try() {
            return;
        }
        self.greeting = true;
        let (link, greeter) = (Arc::clone(&self.link), Arc::clone(&self.tools.greeter));
        self.work.push(Box::pin(async move {
            Done::Greeted(greeter.greet(&link, &beat).await)
        }));
    }

    /// Finds out once per process what the region enforces: points say so.
    fn begin_probe(&mut self) {
        let Some(stores) = self.link.open_stores().filter(|_| !self.probed) else {
            return;
        };
        self.probed = true;
        let put = self.tools.rng.id();
        self.work.push(Box::pin(async move {
            Done::Probed(stores.probe.probe(&put).await)
        }));
    }

    fn begin_beat(&mut self) {
        let newer = self
            .beat
            .as_ref()
            .filter(|(number, _)| *number > self.beaten);
        let Some((number, beat)) = newer.cloned().filter(|_| !self.beating) else {
            return;
        };
        self.beating = true;
        // One try for each beat, also while the region is away: it may be what finds it back.
        self.beaten = number;
        let (link, greeter) = (Arc::clone(&self.link), Arc::clone(&self.tools.greeter));
        self.work.push(Box::pin(async move {
            Done::Beaten {
                number,
                result: greeter.beat(&link, &beat).await,
            }
        }));
    }

    fn begin_checks(&mut self) {
        if !self.may_try() {
            return;
        }
        for (source, known) in self
            .sources
            .iter_mut()
            .filter(|(_, known)| known.must_be_checked())
        {
            known.checking = true;
            let (link, greeter) = (Arc::clone(&self.link), Arc::clone(&self.tools.greeter));
            let (source, own) = (source.clone(), known.own);
            known.moved = false;
            let link_of = Arc::clone(&known.link_of);
            // What left the spool since the source was opened is known by the lane alone.
            let lane = self.queue.lane(&source);
            let known_here = lane.map(Lane::may_show).unwrap_or_default();
            self.work.push(Box::pin(async move {
                let link_of = move |seq| {
                    let mut here = known_here.iter();
                    let here = here.find(|(known, _)| *known == seq);
                    here.map_or_else(|| link_of(seq), |(_, link)| Some(*link))
                };
                let result = greeter.look_at(&link, &source, own, &link_of).await;
                Done::LookedAt { source, result }
            }));
        }
    }

    fn begin_shipping(&mut self, source: SourceName, order: Order) {
        let Some(lane) = self.queue.lane(&source).cloned() else {
            return;
        };
        let (link, items) = (Arc::clone(&self.link), Arc::clone(&self.tools.items));
        let disk = self.tools.disk.clone();
        let clock = Arc::clone(&self.tools.clock);
        self.work.push(Box::pin(async move {
            let from = (&items, &disk);
            let result = ship(&link, from, &*clock, (&source, order), &lane).await;
            Done::Shipped {
                source,
                order,
                result,
            }
        }));
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Greeted(result) => {
                self.greeting = false;
                match result {
                    Ok(()) => self.greeted(),
                    Err(error) => self.greeting_failed(&error),
                }
            }
            Done::Beaten { number, result } => {
                self.beating = false;
                match result {
                    Ok(()) => {
                        self.tools
                            .board
                            .region(&self.link.name, |live| live.beat = Some(number));
                        self.answered();
                    }
                    Err(error) => self.greeting_failed(&error),
                }
            }
            Done::Looked { greeted, result } => self.looked(greeted, result),
            Done::Probed(result) => self.found_out(result),
            Done::LookedAt { source, result } => self.looked_at(&source, result),
            Done::Shipped {
                source,
                order,
                result,
            } => self.shipped(&source, order, result),
        }
    }

    pub(super) fn greeted(&mut self) {
        self.greeted = true;
        self.is_another_place();
        self.tools.board.clear(codes::NOT_ENROLLED.id, AGENT);
        self.look_later();
        if let Some((number, _)) = &self.beat {
            self.beaten = self.beaten.max(*number);
        }
        self.answered();
    }

    pub(super) fn greeting_failed(&mut self, error: &GreetError) {
        if !self.not_believed(error) {
            self.away(error, meaning(error));
        }
    }

    fn found_out(&self, result: tidemark_storage::Result<tidemark_storage::ProbeReport>) {
        match result {
            Ok(report) => {
                let level = report.create_only.name().to_owned();
                self.tools
                    .board
                    .region(&self.link.name, |live| live.create_only = Some(level));
                if !report.conditional_create {
                    let text = "this store ignores If-None-Match: two writers could replace each other's objects \
                                there; use another store, or a bucket policy that requires the header";
                    let now = self.tools.clock.now();
                    self.tools
                        .board
                        .alert("store.create-only", self.link.name.as_str(), text, now);
                }
            }
            // Points then don't say; `doctor` probes with words.
            Err(error) => tracing::debug!(region = %self.link.name, error = %error, "not probed"),
        }
    }

    fn looked_at(&mut self, source: &SourceName, result: Result<(), GreetError>) {
        let Some(known) = self.sources.get_mut(source) else {
            return;
        };
        known.checking = false;
        let moved = std::mem::take(&mut known.moved);
        match result {
            Ok(()) => {
                known.checked = true;
                self.answered();
            }
            // Looked at again, with what the lane knows since.
            Err(GreetError::Ledger(error)) if error.kind() == LedgerErrorKind::Fenced && moved => {}
            Err(GreetError::Ledger(error)) if error.kind() == LedgerErrorKind::Fenced => {
                self.fenced(source, &error);
            }
            Err(error) => self.away(&error, meaning(&error)),
        }
        self.release(source);
    }

    pub(super) fn fenced(&mut self, source: &SourceName, error: &dyn std::error::Error) {
        if let Some(known) = self.sources.get_mut(source) {
            known.fenced = true;
            let why = policy::with_causes(error);
            drop(known.to.send(Report::Fenced { why }));
        }
        self.queue.stop(source);
    }

    fn shipped(&mut self, source: &SourceName, order: Order, result: Result<Shipped, ShipError>) {
        match result {
            Ok(Shipped { item, how, took }) => {
                let bytes = u64::try_from(item.bytes.len()).unwrap_or(u64::MAX);
                if how == Admission::Ship {
                    self.tools
                        .metrics
                        .shipped(source, &self.link.name, bytes, took);
                    self.answered();
                }
                let lane = self.queue.settled(source, order, how, &item.content, bytes);
                if let Some(lane) = lane {
                    self.report(source, lane);
                }
                if let Content::Base { .. } = item.content {
                    self.is_whole_again();
                }
            }
            Err(error @ ShipError::Foreign { .. }) => self.fenced(source, &error),
            Err(error) => {
                // It is greeted anew, and prepared if that is safe.
                self.greeted &= !matches!(error, ShipError::Emptied { .. });
                self.queue.failed(source, self.now(), &*self.tools.rng);
                self.away(&error, ship_meaning(&error));
            }
        }
        self.report_frozen(source);
    }

    fn report_frozen(&self, source: &SourceName) {
        let Some(known) = self.sources.get(source).filter(|known| known.frozen) else {
            return;
        };
        let Some(lane) = self
            .queue
            .lane(source)
            .filter(|_| !self.queue.is_busy(source))
        else {
            return;
        };
        let (region, lane) = (self.link.name.clone(), lane.clone());
        drop(known.to.send(Report::Frozen { region, lane }));
    }

    pub(super) fn report(&mut self, source: &SourceName, mut lane: Lane) {
        lane.region = self.link.id();
        if let Some(known) = self.sources.get(source) {
            let region = self.link.name.clone();
            drop(known.to.send(Report::Lane { region, lane }));
        }
        self.show(source);
    }

    /// The region answered.
    fn answered(&mut self) {
        let before = self.queue.outage();
        self.queue.answered();
        let name = self.link.name.as_str();
        for code in [codes::REGION_AWAY.id, "region."] {
            self.tools.board.keep_alerts(code, name, &[]);
        }
        if before.is_some() {
            tracing::info!(region = name, "the region answers again");
        }
        let up = self
            .tools
            .board
            .read(|_, regions, _| regions.get(&self.link.name).is_some_and(|live| live.up));
        if !up || before.is_some() {
            self.show_region(None);
        }
    }

    /// The region failed.
    pub(super) fn away(&mut self, error: &dyn std::error::Error, verdict: policy::Verdict) {
        let now = self.now();
        let first = self.queue.outage().is_none();
        self.queue.away(now, &*self.tools.rng);
        let text = policy::with_causes(error);
        let name = &self.link.name;
        self.tools.metrics.failed(name, verdict.code.id);
        if first {
            tracing::warn!(region = %name, error = %text, "the region is away; others go on");
        }
        let long = self
            .queue
            .outage()
            .is_some_and(|outage| now.0.duration_since(outage.since).unsigned_abs() >= AWAY_ALERT);
        if long || verdict.response == Response::Alert {
            let code = format!("region.{}", verdict.code.id);
            self.tools.board.alert(&code, name.as_str(), &text, now.0);
        }
        self.show_region(Some(text));
    }

    pub(super) fn show_region(&self, last_error: Option<String>) {
        let now = self.tools.clock.now();
        let stores = self.link.open_stores();
        let up = self.greeted && self.queue.outage().is_none();
        self.link.set_up(up);
        self.tools.board.region(&self.link.name, |live| {
            if live.up != up || live.since.is_none() {
                live.since = Some(now);
            }
            live.up = up;
            live.id = self.link.id();
            live.country.clone_from(&self.link.country);
            live.last_error = last_error;
            if live.domain.is_empty() {
                live.domain.clone_from(&self.link.domain);
            }
            if let Some(stores) = stores {
                live.place = stores.place.to_string();
                let offset = stores
                    .witness
                    .date_offset()
                    .map(|offset| offset.as_millis());
                live.clock_offset_ms = offset.and_then(|offset| i64::try_from(offset).ok());
            }
        });
    }

    fn show(&self, source: &SourceName) {
        let Some(view) = self.queue.view(source) else {
            return;
        };
        let lane = LiveLane {
            standing: view.standing,
            lacking_since: view.lacking_since,
            behind: view.behind,
            backlog_bytes: view.backlog_bytes,
            log_through: view.lane.log_through,
            point_through: view.lane.point_through,
        };
        self.tools.board.source(source, |live| {
            live.lanes.insert(self.link.name.clone(), lane);
        });
    }
}

impl Known {
    pub(super) const fn epoch(&self) -> Epoch {
        self.own.1
    }

    pub(super) const fn is_fenced(&self) -> bool {
        self.fenced
    }

    const fn must_be_checked(&self) -> bool {
        !self.checked && !self.checking && !self.fenced
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
