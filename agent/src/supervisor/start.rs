//! Starting: from components to running tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidemark_engine::Engine;
use tidemark_format::{Hash, KeyId, RegionName, RepoId, SourceName, WriterId, keys};
use tidemark_host::config::{AgentConfig, Protect, Source};
use tidemark_host::lock::StateLock;
use tidemark_host::{Monotonic, codes};
use tidemark_seal::Sealed;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Rest;
use super::claims::Local;
use super::clock_watch::ClockWatch;
use super::filling::Filling;
use super::prepare::{
    Prepared, beats, domains, facts, greet_all, last_errors, load_all, prepare, task_ended,
    with_config,
};
use super::shippers::Shippers;
use super::sources::{Claimer, Making};
use crate::beats::Beats;
use crate::bootstrap::Components;
use crate::budget::Budget;
use crate::control::{self, Asked};
use crate::disk::Disk;
use crate::metrics::Metrics;
use crate::room::Room;
use crate::ship::greet::Greeter;
use crate::ship::link::RegionLink;
use crate::ship::looking::AGENT;
use crate::ship::region::{Command, Driver as RegionDriver, Tools};
use crate::source::driver::{Ended, Outlet, Shared};
use crate::source::pool::Pool;
use crate::source::requests::Request;
use crate::source::slot::{Parts, Slot};
use crate::state::{SpoolUsage, StateDir};
use crate::status_live::{Board, LiveStatus, SourceState};
use crate::store::ItemStore;
use crate::{AgentError, Result, metrics_http, policy};

/// Requests that wait for one source.
const REQUESTS_MAX: usize = 16;
/// Shares of `memory`: cuts on their way to the spool, items on their way to the regions, packs.
/// The rest is the engines' pending pages, the buffers of transfers and the program itself.
const CUT_SHARE: u64 = 12;
const FRESH_SHARE: u64 = 16;
const PACK_SHARE: u64 = 8;
/// Bases at a time: each holds a few frames of 1 MiB and up to two packs of 8 MiB.
const BASES_AT_ONCE: usize = 2;

/// Beats from one look round the regions to the next: two listings for fifteen objects.
const BEATS_A_LOOK: u32 = 15;
/// The longest time between two looks, however rare the beats.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(3600);

/// Makes the status that is shown.
#[derive(Debug)]
pub(super) struct Reporter {
    board: Arc<Board>,
    clock: Arc<dyn tidemark_host::Clock>,
    room: Arc<Room>,
    repo: RepoId,
    writer: WriterId,
    agent: KeyId,
}

impl Reporter {
    fn new(shared: &Shared, greeter: &Greeter) -> Self {
        Self {
            board: Arc::clone(&shared.board),
            clock: Arc::clone(&shared.clock),
            room: Arc::clone(&shared.room),
            repo: greeter.repo,
            writer: greeter.writer,
            agent: shared.signer.public().id(),
        }
    }

    pub(super) fn status(&self) -> LiveStatus {
        let (sources, regions) = self
            .board
            .read(|sources, regions, _| (sources.clone(), regions.clone()));
        LiveStatus {
            schema: "tidemark.agent.live".to_owned(),
            version: 1,
            at: self.clock.now(),
            pid: std::process::id(),
            repo: self.repo,
            writer: self.writer,
            agent: self.agent,
            config: None,
            spool_bytes_per_s: None,
            sources,
            regions,
            spool_bytes: self.room.usage().bytes(),
            spool_max: self.room.bytes_max(),
            alerts: self.board.alerts(),
        }
    }
}

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
    pub(super) reminded_at: Monotonic,
    _lock: StateLock,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Running({} sources)", self.configured)
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
        let mut beats = beats(config, &components, &prepared);
        let made = tokio::task::spawn_blocking(move || {
            let beat = beats.make();
            (beats, beat)
        });
        let (beats, beat) = made.await.map_err(task_ended)?;
        let beat = beat?;
        for link in &prepared.links {
            let locals = loaded.values().flatten();
            let mut lanes = locals.filter_map(|local| local.record.lanes.get(&link.name));
            if let Some(id) = lanes.find_map(|lane| lane.region) {
                link.expect(id);
            }
        }
        let up = greet_all(&prepared, &beat).await?;
        // An agent that waits for its enrolment begins by itself; one that has reached nobody can't
        // even ask.
        let asks = prepared.board.message(codes::NOT_ENROLLED.id, AGENT);
        if up.is_empty() && asks.is_none() && loaded.values().all(Option::is_none) {
            return Err(AgentError::NoRegion {
                why: last_errors(&prepared.board),
            });
        }
        let first = FirstBeat { beats, beat, up };
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
        let domains = domains(&prepared.links, &prepared.board);
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
            domains,
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
            reminded_at: alive_at,
            _lock: components.lock,
        };
        let cut_budget = Budget::new(config.memory.get() / CUT_SHARE);
        for (source, local) in with_config(config, loaded) {
            let engine = components.engines.get(&source.name).cloned();
            let Some(engine) = engine else { continue };
            running.start_source(&starting, source, engine, local, (&outlets, &cut_budget));
        }
        running.rest = starting.rest;
        Ok(running)
    }

    fn start_source(
        &mut self,
        starting: &Starting,
        source: &Source,
        engine: Arc<dyn Engine>,
        local: Option<Local>,
        common: (&[Outlet], &Arc<Budget>),
    ) {
        let name = source.name.clone();
        if local
            .as_ref()
            .is_some_and(|local| local.record.retired.is_some())
        {
            self.shared
                .board
                .source(&name, |live| live.state = SourceState::Retired);
            return;
        }
        let Some(pool) = &self.pool else { return };
        let (requests_to, requests) = mpsc::channel(REQUESTS_MAX);
        let (events_to, events) = mpsc::unbounded_channel();
        let parts = Parts {
            source: name.clone(),
            engine: Arc::clone(&engine),
            folder: self.shared.state.engine(&name),
            ship_every: source.settings.ship_every,
            budget: Arc::clone(common.1),
            board: Arc::clone(&self.shared.board),
            clock: Arc::clone(&self.shared.clock),
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
                domains: starting.domains.clone(),
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

/// What all sources share.
fn share(
    config: &AgentConfig,
    components: &Components,
    prepared: &Prepared,
    spool: (SpoolUsage, UnboundedSender<SourceName>),
) -> Arc<Shared> {
    let (usage, no_room) = spool;
    let state = StateDir::new(&config.state_dir);
    let memory = config.memory.get();
    let room = Room::new(
        usage,
        config.spool_max,
        config.spool_keep_free,
        state.root().to_owned(),
        Arc::clone(&components.clock),
    );
    Arc::new(Shared {
        repo: prepared.greeter.repo,
        signer: components.signer.clone(),
        state,
        clock: Arc::clone(&components.clock),
        rng: Arc::clone(&components.rng),
        cpu: components.cpu.clone(),
        sessions: Arc::clone(&prepared.sessions),
        items: Arc::new(ItemStore::new(memory / FRESH_SHARE)),
        board: Arc::clone(&prepared.board),
        metrics: Arc::new(Metrics::new()),
        disk: Disk::default(),
        base_turns: Arc::new(Semaphore::new(BASES_AT_ONCE)),
        pack_budget: Budget::new(memory / PACK_SHARE),
        room: Arc::new(room),
        facts: facts(config, &components.host),
        no_room,
    })
}

fn commands(outlets: &[Outlet]) -> Vec<UnboundedSender<Command>> {
    let all = outlets.iter().map(|outlet| outlet.commands.clone());
    all.collect()
}

/// How often the regions are looked around. Tied to the beats, so that it costs a fixed share of them;
/// a revoked recipient is sealed to no longer than this.
fn look_every(beat_every: Duration) -> Duration {
    beat_every.saturating_mul(BEATS_A_LOOK).min(LOOK_EVERY_MAX)
}

struct FirstBeat {
    beats: Beats,
    beat: Sealed,
    up: BTreeSet<RegionName>,
}

/// What the tasks are started with.
struct Starting {
    greeter: Arc<Greeter>,
    shared: Arc<Shared>,
    domains: BTreeMap<RegionName, String>,
    links: Vec<Arc<RegionLink>>,
    rest: Rest,
    stop_rest: CancellationToken,
}

impl Starting {
    /// Starts the regions' drivers.
    fn regions(
        &mut self,
        first: &FirstBeat,
        look_every: Duration,
    ) -> (Vec<Outlet>, UnboundedReceiver<AgentError>) {
        let (fatal_to, fatal) = mpsc::unbounded_channel();
        let number = keys::beat_number(&first.beat.key);
        let mut outlets = Vec::new();
        for link in &self.links {
            let tools = self.tools(&fatal_to, look_every);
            let greeted = number.filter(|_| first.up.contains(&link.name));
            let driver = RegionDriver::new(Arc::clone(link), tools, greeted);
            let (commands, receiver) = mpsc::unbounded_channel();
            drop(commands.send(Command::Beat(first.beat.clone())));
            self.rest
                .spawn(driver.run(receiver, self.stop_rest.clone()));
            outlets.push(Outlet {
                link: Arc::clone(link),
                commands,
            });
        }
        (outlets, fatal)
    }

    fn tools(&self, fatal: &UnboundedSender<AgentError>, look_every: Duration) -> Tools {
        Tools {
            greeter: Arc::clone(&self.greeter),
            items: Arc::clone(&self.shared.items),
            disk: self.shared.disk.clone(),
            board: Arc::clone(&self.shared.board),
            metrics: Arc::clone(&self.shared.metrics),
            clock: Arc::clone(&self.shared.clock),
            rng: Arc::clone(&self.shared.rng),
            look_every,
            fatal: fatal.clone(),
        }
    }

    /// Starts the control socket and the metrics endpoint.
    async fn control(
        &mut self,
        config: &AgentConfig,
        reporter: &Arc<Reporter>,
    ) -> Result<mpsc::Receiver<Asked>> {
        let (asked_to, asked) = mpsc::channel(REQUESTS_MAX);
        let path = self.shared.state.control_socket();
        let stop = self.stop_rest.clone();
        let board = Arc::clone(&self.shared.board);
        let clock = Arc::clone(&self.shared.clock);
        self.rest.spawn(async move {
            if let Err(error) = control::serve(&path, asked_to, stop).await {
                // Protection goes on; commands fall back to reading the regions.
                board.alert(
                    "control.socket",
                    "agent",
                    &policy::with_causes(&error),
                    clock.now(),
                );
            }
        });
        if let Some(address) = config.metrics {
            let listener =
                metrics_http::listen(address)
                    .await
                    .map_err(|source| AgentError::Io {
                        action: "listen for metrics",
                        source,
                    })?;
            let (reporter, metrics) = (Arc::clone(reporter), Arc::clone(&self.shared.metrics));
            let render: metrics_http::Render = Arc::new(move || metrics.render(&reporter.status()));
            self.rest.spawn(metrics_http::serve(
                listener,
                render,
                self.stop_rest.clone(),
            ));
        }
        Ok(asked)
    }
}
