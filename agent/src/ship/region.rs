//! The driver of one region: one task that greets it, ships every source's items in turn, and comes
//! back to it after an outage.
//!
//! **Failure.** A region that fails is asked again after a growing wait; nothing here blocks another
//! region. An object that isn't ours under one of our names stops its source and is told to the
//! source's driver.
//!
//! What it may begin stands in `begin`, what comes of that in `outcomes`, what people see of it in
//! `shown`.
//!
//! **Cancellation.** Dropping the driver drops what is under way: it is done again with the same
//! put-ids.

mod begin;
mod messages;
mod outcomes;
mod shown;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use tidemark_format::{Epoch, SourceName, WriterId};
use tidemark_host::Monotonic;
use tidemark_seal::Sealed;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::greet::{GreetError, Seen};
use super::holding::{Holding, Watch};
use super::lane::Lane;
use super::link::{RegionLink, ShipError};
use super::looking::Look;
use super::queue::Queue;
use super::shipping::Shipped;
use crate::state::Order;
pub use messages::{Command, Found, LinkOf, Opening, Report, Tools};

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
    Watched {
        source: SourceName,
        /// As it was when that began.
        lane: Box<Lane>,
        result: Result<Holding, GreetError>,
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
    pub(super) watch: Watch,
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
            Command::LookFor { source, ticket } => self.look_for(&source, ticket),
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
            watch: Watch::of(&lane),
        };
        let lost = lane.lost.is_some();
        self.queue.open(&source, lane, ends);
        self.sources.insert(source.clone(), known);
        self.is_another_place();
        self.release(&source);
        self.show(&source);
        if lost {
            self.say_rolled_back(&source, None);
        }
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
}

impl Known {
    pub(super) const fn epoch(&self) -> Epoch {
        self.own.1
    }

    pub(super) fn send(&self, report: Report) {
        drop(self.to.send(report));
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
