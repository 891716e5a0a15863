//! From a configured source to its running driver: an epoch resumed, or claimed as soon as enough
//! regions answer.

use std::sync::Arc;
use std::time::Duration;

use tidemark_format::{RegionName, SourceName};
use tidemark_host::codes;
use tidemark_host::config::Source;
use tidemark_planner::schedule::Schedule;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio_util::sync::CancellationToken;

use super::claims::{self, Local};
use super::domains::domains;
use crate::schedule::BasePlan;
use crate::ship::greet::Greeter;
use crate::ship::link::RegionLink;
use crate::ship::looking::AGENT;
use crate::source::driver::{Driver, Ended, Outlet, Shared, SourceParts};
use crate::source::requests::Request;
use crate::source::slot::{Event, Handle};
use crate::status_live::SourceState;
use crate::{AgentError, Result, policy};

/// How often a source that waits for a region asks again.
const CLAIM_EVERY: Duration = Duration::from_secs(2);
/// So many tries are no news: an agent that was just enrolled greets its regions one after another.
const QUIET_TRIES: u32 = 4;

/// A source's ends of its slot and of the requests to it.
pub(super) type SlotEnds = (Handle, UnboundedReceiver<Event>, mpsc::Receiver<Request>);

/// A source on its way to its driver.
pub(super) struct Making {
    pub(super) claimer: Claimer,
    pub(super) engine: &'static str,
    pub(super) outlets: Vec<Outlet>,
}

impl Making {
    /// Claims the source if that must be, then drives it.
    pub(super) async fn run(
        self,
        local: Option<Local>,
        ends: SlotEnds,
        stop: CancellationToken,
    ) -> (SourceName, Ended) {
        let name = self.claimer.source.name.clone();
        let (local, joined) = match local {
            Some(local) => (local, Vec::new()),
            None => match self.claimer.claim(&stop).await {
                Ok(claimed) => claimed,
                Err(ended) => return (name, ended),
            },
        };
        let (slot, events, requests) = ends;
        let settings = self.claimer.source.settings.clone();
        let schedule = Schedule::parse(&settings.base_schedule, settings.timezone.clone());
        let Ok(schedule) = schedule else {
            // The config was checked with the very same parser.
            return (name, Ended::Drained);
        };
        let parts = SourceParts {
            engine: self.engine,
            plan: BasePlan {
                schedule,
                generation: settings.generation,
            },
            settings,
            spool: Arc::new(local.spool),
            orders: local.orders,
            record: local.record,
            joined,
            slot,
            events,
            outlets: self.outlets,
            requests,
        };
        self.claimer
            .shared
            .items
            .open(&name, Arc::clone(&parts.spool));
        Driver::new(self.claimer.shared, parts).run(stop).await
    }
}

/// Claims a new source, as soon as enough regions answer.
pub(super) struct Claimer {
    pub(super) greeter: Arc<Greeter>,
    pub(super) shared: Arc<Shared>,
    pub(super) links: Vec<Arc<RegionLink>>,
    pub(super) source: Source,
}

impl Claimer {
    async fn claim(
        &self,
        stop: &CancellationToken,
    ) -> std::result::Result<(Local, Vec<RegionName>), Ended> {
        let name = &self.source.name;
        let mut tries = 0_u32;
        loop {
            tries = tries.saturating_add(1);
            let error = match self.try_claim().await {
                Ok(claimed) => {
                    self.shared.board.clear("source.claim", name.as_str());
                    return Ok(claimed);
                }
                Err(error) => error,
            };
            let text = policy::with_causes(&error);
            let now = self.shared.clock.now();
            if policy::code(&error) == codes::FENCED {
                self.shared.board.alert("TM1101", name.as_str(), &text, now);
                self.shared
                    .board
                    .source(name, |live| live.state = SourceState::Fenced);
                return Err(Ended::Fenced(text));
            }
            let board = &self.shared.board;
            if board.message(codes::NOT_ENROLLED.id, AGENT).is_some() {
                // Told once, for all sources.
                board.clear("source.claim", name.as_str());
                tries = 0;
                board.source(name, |live| live.state = SourceState::WaitingForEnrolment);
            } else {
                if tries > QUIET_TRIES {
                    board.alert("source.claim", name.as_str(), &text, now);
                }
                board.source(name, |live| live.state = SourceState::WaitingForRegion);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Ended::Drained),
                () = tokio::time::sleep(CLAIM_EVERY) => {}
            }
        }
    }

    async fn try_claim(&self) -> Result<(Local, Vec<RegionName>)> {
        let regions = claims::handles(&self.links, &domains(&self.links));
        let (name, durable_in) = (&self.source.name, self.source.settings.durable_in);
        let claimed = claims::claim(&self.greeter, &regions, name, durable_in).await?;
        let joined = claimed.joined.clone();
        let (shared, source) = (Arc::clone(&self.shared), name.clone());
        let work = move || {
            claims::store_claim(&shared.state, &source, &claimed)?;
            claims::load(&shared.state, &source, shared.room.usage())
        };
        match self.shared.disk.run("write the claim", work).await?? {
            Some(local) => Ok((local, joined)),
            None => Err(AgentError::Refused("the claim's record is gone".to_owned())),
        }
    }
}
