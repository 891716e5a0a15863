//! Starting: from components to running tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidemark_engine::Engine;
use tidemark_format::heads::Facts;
use tidemark_format::{KeyId, RegionName, RepoId, SourceName, WriterId, keys};
use tidemark_host::config::{AgentConfig, Protect, Source};
use tidemark_host::lock::StateLock;
use tidemark_host::{HostFacts, Monotonic};
use tidemark_ledger::Trust;
use tidemark_planner::schedule::Schedule;
use tidemark_seal::Sealed;
use tidemark_storage::ReadStore;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Rest;
use super::claims::{self, Local};
use crate::beats::Beats;
use crate::bootstrap::Components;
use crate::budget::Budget;
use crate::control::{self, Asked};
use crate::disk::Disk;
use crate::metrics::{Metrics, SharedMetrics};
use crate::room::Room;
use crate::schedule::BasePlan;
use crate::sessions::Sessions;
use crate::ship::greet::{GreetError, Greeter, Identity};
use crate::ship::link::RegionLink;
use crate::ship::region::{Command, Driver as RegionDriver, Tools};
use crate::source::driver::{Driver, Ended, Outlet, Shared, SourceParts};
use crate::source::pool::Pool;
use crate::source::requests::Request;
use crate::source::slot::{Parts, Slot};
use crate::state::{SpoolUsage, StateDir, WriterState};
use crate::status_live::{Board, LiveStatus, SourceState};
use crate::store::ItemStore;
use crate::{AgentError, Result, metrics_http, policy};

/// How long a region may take to be greeted before the start goes on without it.
const GREET_TIME: Duration = Duration::from_secs(10);
/// How often a source that waits for a region asks again.
const CLAIM_EVERY: Duration = Duration::from_secs(2);
/// Requests that wait for one source.
const REQUESTS_MAX: usize = 16;
/// Shares of `memory`: cuts on their way to the spool, items on their way to the regions, packs.
/// The rest is the engines' pending pages, the buffers of transfers and the program itself.
const CUT_SHARE: u64 = 12;
const FRESH_SHARE: u64 = 16;
const PACK_SHARE: u64 = 8;

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
    pub(super) fn status(&self) -> LiveStatus {
        let (sources, regions) =
            self.board.read(|sources, regions, _| (sources.clone(), regions.clone()));
        LiveStatus {
            schema: "tidemark.agent.live".to_owned(),
            version: 1,
            at: self.clock.now(),
            pid: std::process::id(),
            repo: self.repo,
            writer: self.writer,
            agent: self.agent,
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
    pub(super) cloned: UnboundedReceiver<String>,
    pub(super) no_room: UnboundedReceiver<SourceName>,
    pub(super) fenced: Option<(SourceName, String)>,
    pub(super) configured: usize,
    pub(super) ready: bool,
    pub(super) line: String,
    pub(super) watchdog: Option<Duration>,
    pub(super) alive_at: Monotonic,
    _lock: StateLock,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Running({} sources)", self.configured)
    }
}

/// What a start has made before anything runs.
struct Prepared {
    greeter: Arc<Greeter>,
    links: Vec<Arc<RegionLink>>,
    sessions: Arc<Sessions>,
    board: Arc<Board>,
}

fn trust(config: &AgentConfig) -> Result<Trust> {
    let first = config.recipients.first().ok_or(tidemark_seal::Error::NoRecipients)?;
    Ok(Trust { repo: first.repo, root: config.root })
}

fn prepare(config: &AgentConfig, components: &Components) -> Result<Prepared> {
    let trust = trust(config)?;
    let machine = (Arc::clone(&components.clock), Arc::clone(&components.rng));
    let names: BTreeSet<RegionName> =
        components.regions.iter().map(|region| region.config.name.clone()).collect();
    let sessions = Arc::new(Sessions::new(
        StateDir::new(&config.state_dir),
        components.signer.clone(),
        config.recipients.clone(),
        names,
        machine.clone(),
        trust.repo,
    )?);
    let identity = Identity {
        trust,
        signer: components.signer.clone(),
        writer: components.writer.writer,
        host: components.host.hostname.clone(),
        recipients: config.recipients.clone(),
    };
    let greeter = Arc::new(Greeter::new(identity, machine.0, machine.1));
    let mut links: Vec<Arc<RegionLink>> = components
        .regions
        .iter()
        .map(|region| {
            Arc::new(RegionLink::new(
                region.config.name.clone(),
                region.config.failure_domain.clone(),
                region.config.country.as_ref().map(ToString::to_string),
                Arc::clone(&region.opener),
                Arc::clone(&sessions),
            ))
        })
        .collect();
    // The same order on every host: two copies of one state directory meet in the same region first.
    links.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Prepared { greeter, links, sessions, board: Arc::new(Board::default()) })
}

/// Greets every region, one after the other. Returns those that answered.
async fn greet_all(prepared: &Prepared, beat: &Sealed) -> Result<BTreeSet<RegionName>> {
    let mut up = BTreeSet::new();
    for link in &prepared.links {
        let greeting = tokio::time::timeout(GREET_TIME, prepared.greeter.greet(link, beat));
        match greeting.await {
            Ok(Ok(())) => {
                link.set_up(true);
                up.insert(link.name.clone());
            }
            Ok(Err(GreetError::Cloned(why))) => {
                tracing::error!(why, "a copy of this state directory runs elsewhere");
                return Err(AgentError::Cloned);
            }
            Ok(Err(error)) => {
                let text = policy::with_causes(&error);
                tracing::warn!(region = %link.name, error = %text, "the region is away at the start; others go on");
                prepared.board.region(&link.name, |live| live.last_error = Some(text));
            }
            Err(_elapsed) => {
                tracing::warn!(region = %link.name, "the region doesn't answer at the start; others go on");
                let why = format!("no answer within {} s", GREET_TIME.as_secs());
                prepared.board.region(&link.name, |live| live.last_error = Some(why));
            }
        }
    }
    Ok(up)
}

/// The domain of each region: two places that are one (the same marker, the same device) fail
/// together, whatever the config says.
fn domains(links: &[Arc<RegionLink>], board: &Board) -> BTreeMap<RegionName, String> {
    let mut domains: BTreeMap<RegionName, String> = BTreeMap::new();
    let mut seen: Vec<(&RegionLink, Option<u64>)> = Vec::new();
    for link in links {
        let device = link.open_stores().and_then(|stores| stores.device);
        let twin = seen.iter().find(|(other, on)| {
            (other.id().is_some() && other.id() == link.id()) || (on.is_some() && *on == device)
        });
        let domain = match twin {
            Some((other, _)) => {
                tracing::warn!(
                    region = %link.name,
                    other = %other.name,
                    "both regions are on one device: they fail together and count as one failure domain"
                );
                domains.get(&other.name).cloned().unwrap_or_else(|| other.domain.clone())
            }
            None => link.domain.clone(),
        };
        board.region(&link.name, |live| live.domain.clone_from(&domain));
        domains.insert(link.name.clone(), domain);
        seen.push((link, device));
    }
    domains
}

fn facts(config: &AgentConfig, host: &HostFacts) -> Facts {
    let mut facts = Facts::new();
    facts.insert("agent_version".to_owned(), host.version.clone().into());
    facts.insert("host_id".to_owned(), host.host_id.clone().into());
    facts.insert("hostname".to_owned(), host.hostname.clone().into());
    facts.insert("kernel".to_owned(), host.kernel.clone().into());
    facts.insert("config_hash".to_owned(), config.hash.to_string().into());
    facts
}

fn beats(config: &AgentConfig, components: &Components, prepared: &Prepared) -> Beats {
    let state = StateDir::new(&config.state_dir);
    Beats {
        repo: prepared.greeter.repo,
        signer: components.signer.clone(),
        host: components.host.hostname.clone(),
        every: config.beat_every(),
        facts: facts(config, &components.host),
        path: state.writer(),
        state: components.writer.clone(),
        board: Arc::clone(&prepared.board),
        clock: Arc::clone(&components.clock),
        rng: Arc::clone(&components.rng),
    }
}

/// Loads what the state directory knows of every source. Blocks.
fn load_all(
    config: &AgentConfig,
    usage: &SpoolUsage,
) -> Result<BTreeMap<SourceName, Option<Local>>> {
    let state = StateDir::new(&config.state_dir);
    config
        .sources
        .iter()
        .map(|source| Ok((source.name.clone(), claims::load(&state, &source.name, usage)?)))
        .collect()
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
        let up = greet_all(&prepared, &beat).await?;
        if up.is_empty() && loaded.values().all(Option::is_none) {
            return Err(AgentError::NoRegion { why: last_errors(&prepared.board) });
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
        let Prepared { greeter, links, sessions, board } = prepared;
        let metrics: SharedMetrics = Arc::new(Metrics::new());
        let state = StateDir::new(&config.state_dir);
        let room = Arc::new(Room::new(
            usage,
            config.spool_max,
            config.spool_keep_free,
            state.root().to_owned(),
            Arc::clone(&components.clock),
        ));
        let memory = config.memory.get();
        let items = Arc::new(ItemStore::new(memory / FRESH_SHARE));
        let (no_room_to, no_room) = mpsc::unbounded_channel();
        let domains = domains(&links, &board);
        let reporter = Arc::new(Reporter {
            board: Arc::clone(&board),
            clock: Arc::clone(&components.clock),
            room: Arc::clone(&room),
            repo: greeter.repo,
            writer: greeter.writer,
            agent: components.signer.public().id(),
        });
        let shared = Arc::new(Shared {
            repo: greeter.repo,
            signer: components.signer.clone(),
            state: state.clone(),
            clock: Arc::clone(&components.clock),
            rng: Arc::clone(&components.rng),
            cpu: components.cpu.clone(),
            sessions,
            items,
            board,
            metrics,
            disk: Disk::default(),
            pack_budget: Budget::new(memory / PACK_SHARE),
            room,
            facts: facts(config, &components.host),
            no_room: no_room_to,
        });
        let pool = Pool::start(components.capture_threads, Arc::clone(&components.clock))
            .map_err(|source| AgentError::Io { action: "start the capture threads", source })?;
        let mut starting = Starting {
            greeter: Arc::clone(&greeter),
            shared: Arc::clone(&shared),
            domains,
            links: links.clone(),
            rest: Rest::new(),
            stop_rest: CancellationToken::new(),
        };
        let (outlets, cloned) = starting.regions(&first);
        let stop_beats = CancellationToken::new();
        let senders = outlets.iter().map(|outlet| outlet.commands.clone()).collect();
        let mut beats = JoinSet::new();
        beats.spawn(first.beats.run(senders, stop_beats.clone()));
        let asked = starting.control(config, &reporter).await?;
        let alive_at = components.clock.monotonic();
        let mut running = Self {
            shared,
            greeter,
            links,
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
            cloned,
            no_room,
            fenced: None,
            configured: config.sources.len(),
            ready: false,
            line: String::new(),
            watchdog: crate::systemd::watchdog(),
            alive_at,
            _lock: components.lock,
        };
        let cut_budget = Budget::new(memory / CUT_SHARE);
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
        if local.as_ref().is_some_and(|local| local.record.retired.is_some()) {
            self.shared.board.source(&name, |live| live.state = SourceState::Retired);
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
        self.spool_max.insert(name.clone(), source.settings.spool_max.get());
        self.protect.insert(name.clone(), source.settings.protect);
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
        self.sources.spawn(async move {
            making.run(local, (slot, events, requests), stop).await
        });
    }
}

struct FirstBeat {
    beats: Beats,
    beat: Sealed,
    up: BTreeSet<RegionName>,
}

fn task_ended(error: tokio::task::JoinError) -> AgentError {
    AgentError::Io { action: "start", source: std::io::Error::other(error) }
}

fn last_errors(board: &Board) -> String {
    let errors: Vec<String> = board.read(|_, regions, _| {
        let errors = regions.iter().filter_map(|(name, live)| Some((name, live.last_error.clone()?)));
        errors.map(|(name, error)| format!("{name}: {error}")).collect()
    });
    errors.join("; ")
}

fn with_config(
    config: &AgentConfig,
    mut loaded: BTreeMap<SourceName, Option<Local>>,
) -> Vec<(&Source, Option<Local>)> {
    let sources = config.sources.iter();
    sources.map(|source| (source, loaded.remove(&source.name).flatten())).collect()
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
    fn regions(&mut self, first: &FirstBeat) -> (Vec<Outlet>, UnboundedReceiver<String>) {
        let (cloned_to, cloned) = mpsc::unbounded_channel();
        let number = keys::beat_number(&first.beat.key);
        let mut outlets = Vec::new();
        for link in &self.links {
            let tools = self.tools(&cloned_to);
            let greeted = number.filter(|_| first.up.contains(&link.name));
            let driver = RegionDriver::new(Arc::clone(link), tools, greeted);
            let (commands, receiver) = mpsc::unbounded_channel();
            drop(commands.send(Command::Beat(first.beat.clone())));
            self.rest.spawn(driver.run(receiver, self.stop_rest.clone()));
            outlets.push(Outlet { link: Arc::clone(link), commands });
        }
        (outlets, cloned)
    }

    fn tools(&self, cloned: &UnboundedSender<String>) -> Tools {
        Tools {
            greeter: Arc::clone(&self.greeter),
            items: Arc::clone(&self.shared.items),
            disk: self.shared.disk.clone(),
            board: Arc::clone(&self.shared.board),
            metrics: Arc::clone(&self.shared.metrics),
            clock: Arc::clone(&self.shared.clock),
            rng: Arc::clone(&self.shared.rng),
            cloned: cloned.clone(),
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
                board.alert("control.socket", "agent", &policy::with_causes(&error), clock.now());
            }
        });
        if let Some(address) = config.metrics {
            let listener = metrics_http::listen(address)
                .await
                .map_err(|source| AgentError::Io { action: "listen for metrics", source })?;
            let (reporter, metrics) = (Arc::clone(reporter), Arc::clone(&self.shared.metrics));
            let render: metrics_http::Render =
                Arc::new(move || metrics.render(&reporter.status()));
            self.rest.spawn(metrics_http::serve(listener, render, self.stop_rest.clone()));
        }
        Ok(asked)
    }
}

type SlotEnds = (
    crate::source::slot::Handle,
    UnboundedReceiver<crate::source::slot::Event>,
    mpsc::Receiver<Request>,
);

/// A source on its way to its driver.
struct Making {
    claimer: Claimer,
    engine: &'static str,
    outlets: Vec<Outlet>,
}

impl Making {
    /// Claims the source if that must be, then drives it.
    async fn run(
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
            plan: BasePlan { schedule, generation: settings.generation },
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
        self.claimer.shared.items.open(&name, Arc::clone(&parts.spool));
        Driver::new(self.claimer.shared, parts).run(stop).await
    }
}

/// Claims a new source, as soon as enough regions answer.
struct Claimer {
    greeter: Arc<Greeter>,
    shared: Arc<Shared>,
    links: Vec<Arc<RegionLink>>,
    domains: BTreeMap<RegionName, String>,
    source: Source,
}

impl Claimer {
    async fn claim(
        &self,
        stop: &CancellationToken,
    ) -> std::result::Result<(Local, Vec<RegionName>), Ended> {
        let name = &self.source.name;
        loop {
            let error = match self.try_claim().await {
                Ok(claimed) => {
                    self.shared.board.clear("source.claim", name.as_str());
                    return Ok(claimed);
                }
                Err(error) => error,
            };
            let text = policy::with_causes(&error);
            let now = self.shared.clock.now();
            if policy::code(&error) == tidemark_host::codes::FENCED {
                self.shared.board.alert("TM1101", name.as_str(), &text, now);
                self.shared.board.source(name, |live| live.state = SourceState::Fenced);
                return Err(Ended::Fenced(text));
            }
            self.shared.board.alert("source.claim", name.as_str(), &text, now);
            self.shared.board.source(name, |live| live.state = SourceState::WaitingForRegion);
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Ended::Drained),
                () = tokio::time::sleep(CLAIM_EVERY) => {}
            }
        }
    }

    async fn try_claim(&self) -> Result<(Local, Vec<RegionName>)> {
        let regions = claims::handles(&self.links, &self.domains);
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

/// A take-over under way: regions greeted, no beat written yet.
pub(super) struct TakingOver {
    pub(super) greeter: Arc<Greeter>,
    pub(super) links: Vec<Arc<RegionLink>>,
    pub(super) domains: BTreeMap<RegionName, String>,
    state: StateDir,
    writer: WriterState,
    agent: KeyId,
    _lock: StateLock,
}

impl TakingOver {
    /// Reaches the regions, without a beat: whoever is to be fenced may be using its numbers.
    pub(super) async fn begin(config: &AgentConfig, components: Components) -> Result<Self> {
        let prepared = prepare(config, &components)?;
        let mut last = None;
        for link in &prepared.links {
            match prepared.greeter.greet_without_beat(link).await {
                Ok(()) => link.set_up(true),
                Err(error) => last = Some(policy::with_causes(&error)),
            }
        }
        if prepared.links.iter().all(|link| !link.is_up()) {
            return Err(AgentError::NoRegion { why: last.unwrap_or_default() });
        }
        let domains = domains(&prepared.links, &prepared.board);
        Ok(Self {
            domains,
            state: StateDir::new(&config.state_dir),
            greeter: prepared.greeter,
            links: prepared.links,
            agent: components.signer.public().id(),
            writer: components.writer,
            _lock: components.lock,
        })
    }

    /// Goes on with a beat number that nobody used.
    pub(super) async fn finish(&mut self) -> Result<()> {
        for link in self.links.iter().filter(|link| link.is_up()) {
            let Some(stores) = link.open_stores() else { continue };
            let newest = newest_beat(&*stores.meta, self.agent).await?;
            self.writer.last_beat = self.writer.last_beat.max(newest);
        }
        self.writer.store(&self.state.writer())?;
        Ok(())
    }
}

async fn newest_beat(store: &dyn ReadStore, agent: KeyId) -> Result<u64> {
    let page = store.list(&keys::beats(agent), None, 1).await?;
    Ok(page.entries.first().and_then(|entry| keys::beat_number(&entry.key)).unwrap_or(0))
}
