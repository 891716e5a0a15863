//! Starting: from components to running tasks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_engine::Engine;
use tidemark_format::{Hash, SourceName};
use tidemark_host::config::{Ack, AgentConfig, Protect, Source};
use tidemark_host::lock::StateLock;
use tidemark_host::{Monotonic, codes};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Rest;
use super::claims::Local;
use super::clock_watch::ClockWatch;
use super::domains::Domains;
use super::filling::Filling;
use super::prepare::{
    CUT_SHARE, Greeted, Prepared, beats, greet_all, last_errors, load_all, prepare, share,
    task_ended, with_config,
};
use super::reporter::Reporter;
use super::shippers::Shippers;
use super::sources::{Claimer, Making};
use super::tasks::{FirstBeat, Starting, commands, look_every};
use crate::beats::Beats;
use crate::bootstrap::Components;
use crate::budget::Budget;
use crate::control::Asked;
use crate::ship::greet::Greeter;
use crate::ship::link::RegionLink;
use crate::ship::looking::AGENT;
use crate::source::canary;
use crate::source::driver::{Ended, Outlet, Shared};
use crate::source::pool::Pool;
use crate::source::requests::Request;
use crate::source::slot::{Parts, Slot};
use crate::state::SpoolUsage;
use crate::status_live::SourceState;
use crate::{AgentError, Result};

/// Requests that wait for one source.
const REQUESTS_MAX: usize = 16;

/// Everything that runs.
pub(crate) struct Running {
    pub(super) shared: Arc<Shared>,
    pub(super) greeter: Arc<Greeter>,
    pub(super) links: Vec<Arc<RegionLink>>,
    pub(super) outlets: Vec<Outlet>,
    /// The config's hash, as it was read at the start.
    pub(super) config: Hash,
    pub(super) reporter: Arc<Reporter>,
    pub(super) sources: JoinSet<(SourceName, Ended)>,
    pub(super) requests: BTreeMap<SourceName, mpsc::Sender<Request>>,
    pub(super) spool_max: BTreeMap<SourceName, u64>,
    pub(super) protect: BTreeMap<SourceName, Protect>,
    pub(super) rest: Rest,
    /// What takes away at a database what a retired source left there.
    pub(super) engines: BTreeMap<SourceName, Arc<dyn Engine>>,
    /// One task, which ends with the agent.
    pub(super) beats: JoinSet<Beats>,
    pub(super) pool: Option<Pool>,
    pub(super) stop_sources: CancellationToken,
    pub(super) stop_beats: CancellationToken,
    pub(super) stop_rest: CancellationToken,
    pub(super) asked: mpsc::Receiver<Asked>,
    pub(super) fatal: UnboundedReceiver<AgentError>,
    pub(super) no_room: UnboundedReceiver<SourceName>,
    pub(super) fenced: Option<(SourceName, String)>,
    pub(super) configured: usize,
    pub(super) ready: bool,
    pub(super) line: String,
    pub(super) watchdog: Option<Duration>,
    pub(super) alive_at: Monotonic,
    pub(super) clock_watch: ClockWatch,
    pub(super) shippers: Shippers,
    pub(super) filling: Filling,
    pub(super) domains: Domains,
    pub(super) reminded_at: Monotonic,
    _lock: StateLock,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Running({} sources)", self.configured)
    }
}

/// Greets the regions with the first beat whose number no copy has used.
async fn greet(prepared: &Prepared, mut beats: Beats) -> Result<FirstBeat> {
    // It ends: each number that is taken was used by a copy that is fenced, and ends at its next object.
    loop {
        let made = tokio::task::spawn_blocking(move || {
            let beat = beats.make();
            (beats, beat)
        });
        let (made_by, beat) = made.await.map_err(task_ended)?;
        let beat = beat?;
        match greet_all(prepared, &beat).await? {
            Greeted::By(up) => {
                return Ok(FirstBeat {
                    beats: made_by,
                    beat,
                    up,
                });
            }
            Greeted::NumberTaken => beats = made_by,
        }
    }
}

impl Running {
    /// Starts everything.
    pub(crate) async fn start(config: &AgentConfig, components: Components) -> Result<Self> {
        let prepared = prepare(config, &components)?;
        let usage = SpoolUsage::default();
        let loaded = {
            let (config, usage) = (config.clone(), usage.clone());
            tokio::task::spawn_blocking(move || load_all(&config, &usage)).await
        };
        let loaded = loaded.map_err(task_ended)??;
        for (name, local) in &loaded {
            prepared.board.source(name, |live| {
                if let Some(local) = local {
                    live.epoch = local.record.epoch;
                    live.log_seq = local.record.log.next.previous();
                    live.log_link = local.record.log.link;
                }
            });
        }
        for link in &prepared.links {
            let locals = loaded.values().flatten();
            let mut lanes = locals.filter_map(|local| local.record.lanes.get(&link.name));
            if let Some(id) = lanes.find_map(|lane| lane.region) {
                link.expect(id);
            }
        }
        let first = greet(&prepared, beats(config, &components, &prepared)).await?;
        // An agent that waits for its enrolment begins by itself; one that has reached nobody can't
        // even ask.
        let asks = prepared.board.message(codes::NOT_ENROLLED.id, AGENT);
        if first.up.is_empty() && asks.is_none() && loaded.values().all(Option::is_none) {
            return Err(AgentError::NoRegion {
                why: last_errors(&prepared.board),
            });
        }
        Self::run_all(config, components, prepared, loaded, (usage, first)).await
    }

    async fn run_all(
        config: &AgentConfig,
        components: Components,
        prepared: Prepared,
        loaded: BTreeMap<SourceName, Option<Local>>,
        begun: (SpoolUsage, FirstBeat),
    ) -> Result<Self> {
        let (usage, first) = begun;
        let (no_room_to, no_room) = mpsc::unbounded_channel();
        let mut domains = Domains::default();
        domains.tell(&prepared.links, &prepared.board);
        let shared = share(config, &components, &prepared, (usage, no_room_to));
        let Prepared { greeter, links, .. } = prepared;
        let reporter = Arc::new(Reporter::new(&shared, &greeter));
        let pool = Pool::start(components.capture_threads, Arc::clone(&components.clock)).map_err(
            |source| AgentError::Io {
                action: "start the capture threads",
                source,
            },
        )?;
        let mut starting = Starting {
            greeter: Arc::clone(&greeter),
            shared: Arc::clone(&shared),
            links,
            rest: Rest::new(),
            stop_rest: CancellationToken::new(),
        };
        let (outlets, fatal) = starting.regions(&first, look_every(config.beat_every()));
        let stop_beats = CancellationToken::new();
        let senders = commands(&outlets);
        let mut beats = JoinSet::new();
        beats.spawn(first.beats.run(senders, stop_beats.clone()));
        let asked = starting.control(config, &reporter).await?;
        let alive_at = components.clock.monotonic();
        let mut running = Self {
            shared,
            greeter,
            links: starting.links.clone(),
            outlets: outlets.clone(),
            config: config.hash,
            reporter,
            sources: JoinSet::new(),
            requests: BTreeMap::new(),
            spool_max: BTreeMap::new(),
            protect: BTreeMap::new(),
            rest: Rest::new(),
            engines: components.engines,
            beats,
            pool: Some(pool),
            stop_sources: CancellationToken::new(),
            stop_beats,
            stop_rest: starting.stop_rest.clone(),
            asked,
            fatal,
            no_room,
            fenced: None,
            configured: config.sources.len(),
            ready: false,
            line: String::new(),
            watchdog: crate::systemd::watchdog(),
            alive_at,
            clock_watch: ClockWatch::new(components.clock.now(), alive_at),
            shippers: Shippers::new(config.beat_every()),
            filling: Filling::default(),
            domains,
            reminded_at: alive_at,
            _lock: components.lock,
        };
        let cut_budget = Budget::new(config.memory.get() / CUT_SHARE);
        for (source, local) in with_config(config, loaded) {
            running.start_source(&starting, source, local, (&outlets, &cut_budget));
        }
        running.rest = starting.rest;
        running.take_away_all_remains();
        Ok(running)
    }

    fn start_source(
        &mut self,
        starting: &Starting,
        source: &Source,
        local: Option<Local>,
        common: (&[Outlet], &Arc<Budget>),
    ) {
        let name = source.name.clone();
        let rpo = source.settings.rpo.map(|rpo| rpo.as_millis());
        let rpo = rpo.and_then(|ms| u64::try_from(ms).ok());
        self.shared.board.source(&name, |live| live.rpo_ms = rpo);
        if local
            .as_ref()
            .is_some_and(|local| local.record.retired.is_some())
        {
            self.shared
                .board
                .source(&name, |live| live.state = SourceState::Retired);
            return;
        }
        let engine = self.engines.get(&name).cloned();
        let (Some(pool), Some(engine)) = (&self.pool, engine) else {
            return;
        };
        let (requests_to, requests) = mpsc::channel(REQUESTS_MAX);
        let (events_to, events) = mpsc::unbounded_channel();
        let parts = Parts {
            source: name.clone(),
            engine: Arc::clone(&engine),
            folder: self.shared.state.engine(&name),
            ship_every: source.settings.ship_every,
            prompt: source.settings.ack == Ack::Regions,
            canaries: canary::wanted(&source.settings, local.as_ref().map(|local| &local.record)),
            budget: Arc::clone(common.1),
            board: Arc::clone(&self.shared.board),
            clock: Arc::clone(&self.shared.clock),
            rng: Arc::clone(&self.shared.rng),
            events: events_to,
        };
        let slot = Slot::add(pool, parts);
        self.requests.insert(name.clone(), requests_to);
        self.spool_max
            .insert(name.clone(), source.settings.spool_max.get());
        self.protect.insert(name, source.settings.protect);
        let making = Making {
            claimer: Claimer {
                greeter: Arc::clone(&starting.greeter),
                shared: Arc::clone(&self.shared),
                links: starting.links.clone(),
                source: source.clone(),
            },
            engine: engine.name(),
            outlets: common.0.to_vec(),
        };
        let stop = self.stop_sources.clone();
        self.sources
            .spawn(async move { making.run(local, (slot, events, requests), stop).await });
    }
}
