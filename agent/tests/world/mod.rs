//! A small world for tests of the whole agent: a repository in memory regions whose faults a test
//! controls, a live SQLite database, and an agent that runs in this process.
#![expect(dead_code, reason = "each test binary uses a part of it")]
#![expect(clippy::print_stdout, reason = "shown only when a test fails")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tidemark_agent::bootstrap::{self, RegionPart};
use tidemark_agent::control::{Client, Request, Response};
use tidemark_agent::status_live::LiveStatus;
use tidemark_agent::{AgentError, Components, Shutdown};
use tidemark_engine_sqlite::sample::{Order, Shop};
use tidemark_format::heads::Role;
use tidemark_format::{RegionName, SourceName};
use tidemark_host::config::{AgentConfig, Surroundings};
use tidemark_host::{Clock, Monotonic, NtpState, SystemClock, SystemRng};
use tidemark_ledger::custody::{NewKeys, first_keyring, member};
use tidemark_ledger::history::{Beats, LoadOptions};
use tidemark_ledger::{Keyring, SourceHistory};
use tidemark_storage::region::AgentRegion;
use tidemark_storage::wrap::{Fault, FaultControl, Faulty, MetaOnly, Meter, When};
use tidemark_storage::{CreateStore, MemoryStore, Place, ReadStore};
use tidemark_testkit::sqlite::Dice;
use tokio::task::JoinHandle;

/// Longer than anything that works takes, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);

/// A region in memory.
#[derive(Debug, Clone)]
pub(crate) struct TestRegion {
    pub(crate) name: RegionName,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) faults: FaultControl,
    /// As a directory's: two on one are one failure domain.
    pub(crate) device: Option<u64>,
}

impl TestRegion {
    fn new(name: &str) -> Self {
        Self {
            name: RegionName::new(name).unwrap(),
            store: Arc::new(MemoryStore::new(name)),
            faults: FaultControl::seeded(7),
            device: None,
        }
    }

    fn open(&self) -> AgentRegion {
        let faulty = Faulty::new(Arc::clone(&self.store), self.faults.clone());
        let create: Arc<dyn CreateStore> = Arc::new(faulty.clone());
        AgentRegion {
            name: self.name.clone(),
            place: Place::new(self.name.as_str()),
            meta: Arc::new(MetaOnly::new(faulty)),
            urgent: Arc::clone(&create),
            create,
            probe: Arc::clone(&self.store) as _,
            witness: Arc::clone(&self.store) as _,
            meter: Meter::new(SystemClock::shared()),
            device: self.device,
        }
    }

    /// Names that begin with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> Vec<String> {
        let keys = self.store.keys().into_iter().map(|key| key.to_string());
        keys.filter(|key| key.starts_with(prefix)).collect()
    }
}

/// The machine's clocks with what a test adds to them: hours that pass at once, a wall clock that
/// somebody steps. Everything that waits for real goes on.
#[derive(Debug, Clone, Default)]
pub(crate) struct TestClock(Arc<Mutex<Shift>>);

#[derive(Debug, Clone, Copy, Default)]
struct Shift {
    passed: Duration,
    wall: SignedDuration,
}

impl TestClock {
    /// Lets time pass on all clocks.
    pub(crate) fn pass(&self, time: Duration) {
        self.0.lock().unwrap().passed += time;
    }

    /// Steps the wall clock alone, by seconds.
    pub(crate) fn step(&self, seconds: i64) {
        self.0.lock().unwrap().wall += SignedDuration::from_secs(seconds);
    }

    fn shift(&self) -> Shift {
        *self.0.lock().unwrap()
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let shift = self.shift();
        SystemClock.now() + shift.passed + shift.wall
    }

    fn monotonic(&self) -> Monotonic {
        SystemClock.monotonic().after(self.shift().passed)
    }

    fn since_boot(&self) -> Duration {
        SystemClock.since_boot() + self.shift().passed
    }

    fn ntp(&self) -> NtpState {
        SystemClock.ntp()
    }
}

/// The world.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) regions: Vec<TestRegion>,
    pub(crate) keys: NewKeys,
    pub(crate) settings: String,
    pub(crate) sources: Vec<String>,
    pub(crate) clock: TestClock,
}

impl World {
    /// A repository in regions of these names; the agent's state and the databases are in a
    /// temporary folder.
    pub(crate) async fn new(regions: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (rng, now) = (SystemRng, SystemClock.now());
        let keys = NewKeys::generate(&rng, now);
        let world = Self {
            dir,
            regions: regions.iter().map(|name| TestRegion::new(name)).collect(),
            keys,
            settings: "ship_every = \"100ms\"\nsnapshot_every = \"1s\"\nbeat_every = \"1s\"\n"
                .to_owned(),
            sources: vec!["app".to_owned()],
            clock: TestClock::default(),
        };
        std::fs::create_dir_all(world.state_dir()).unwrap();
        let signer =
            bootstrap::create_signing_key(&world.state_dir().join("agent.key"), &rng).unwrap();
        let entries = vec![world.keys.identity.entry(), world.keys.escrow.entry()];
        let other = world.other_state_dir();
        std::fs::create_dir_all(&other).unwrap();
        let second = bootstrap::create_signing_key(&other.join("agent.key"), &rng).unwrap();
        let members = [signer, second]
            .map(|key| member(Role::Agent, key.public(), "test".to_owned(), now))
            .to_vec();
        let keyring = first_keyring(
            &world.keys.root,
            entries,
            members,
            tidemark_host::RngExt::id(&rng),
            now,
        )
        .unwrap();
        for region in &world.regions {
            keyring.create(&*region.store).await.unwrap();
        }
        world
    }

    /// [`Self::new`] with two regions, `a` and `b`, and more settings for the top of the config.
    pub(crate) async fn with(settings: &str) -> Self {
        let mut world = Self::new(&["a", "b"]).await;
        world.settings.push_str(settings);
        world
    }

    /// A database with a few orders in it, and an agent that protects it.
    pub(crate) fn protect(&self) -> (App, Agent) {
        let mut shop = self.shop("app");
        shop.work(20, 2000);
        let agent = self.start();
        (shop, agent)
    }

    /// Every request to a region fails.
    pub(crate) fn cut_off(&self, region: usize) {
        let faults = &self.regions[region].faults;
        faults.add(None, "", When::Always, Fault::FailBefore);
    }

    /// A region answers again.
    pub(crate) fn bring_back(&self, region: usize) {
        self.regions[region].faults.clear();
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The state directory of another agent, with an enrolled key of its own and nothing else.
    pub(crate) fn other_state_dir(&self) -> PathBuf {
        self.dir.path().join("other-state")
    }

    pub(crate) fn database(&self, source: &str) -> PathBuf {
        self.dir.path().join(format!("{source}.db"))
    }

    /// The config, for a state directory.
    pub(crate) fn config_for(&self, state_dir: &std::path::Path) -> AgentConfig {
        use std::fmt::Write as _;
        let recipient = self.keys.identity.recipient();
        let mut text = format!(
            "state_dir = {:?}\nspool_keep_free = \"0%\"\nrecipients = [\"{recipient}\"]\n{}",
            state_dir.display().to_string(),
            self.settings
        );
        for region in &self.regions {
            let (name, place) = (&region.name, self.dir.path().join(region.name.as_str()));
            write!(
                text,
                "[[region]]\nname = \"{name}\"\nurl = \"dir:{}\"\n",
                place.display()
            )
            .unwrap();
        }
        for source in &self.sources {
            let path = self.database(source);
            write!(text, "[[source]]\nname = \"{source}\"\nsqlite = {path:?}\n").unwrap();
        }
        let around = Surroundings {
            state_directory: None,
            check_schedule: &|_: &str, _: &_| Ok(()),
            check_postgres: &|_: &str| Ok(()),
        };
        AgentConfig::parse(&text, &self.dir.path().join("agent.toml"), &around)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn config(&self) -> AgentConfig {
        self.config_for(&self.state_dir())
    }

    pub(crate) fn components_for(&self, config: &AgentConfig) -> Result<Components, AgentError> {
        let parts = config
            .regions
            .iter()
            .zip(&self.regions)
            .map(|(config, region)| RegionPart {
                config: config.clone(),
                opener: Arc::new(region.open()),
            })
            .collect();
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let engines: BTreeMap<_, _> = config
            .sources
            .iter()
            .filter_map(|source| {
                let path = source.engine.sqlite()?;
                let engine = bootstrap::sqlite(path, &source.settings, &clock);
                Some((source.name.clone(), engine))
            })
            .collect();
        bootstrap::local_components(config, parts, engines, (clock, SystemRng::shared()))
    }

    /// Starts an agent on a state directory.
    pub(crate) fn start_on(&self, state_dir: &std::path::Path) -> Agent {
        let config = self.config_for(state_dir);
        let components = self.components_for(&config).unwrap();
        let shutdown = Shutdown::default();
        let socket = config.state_dir.join("control.sock");
        let task = {
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                let ended = tidemark_agent::run(&config, components, shutdown).await;
                println!("the agent ended: {ended:?}");
                ended
            })
        };
        Agent {
            task,
            shutdown,
            socket,
        }
    }

    /// Starts the agent.
    pub(crate) fn start(&self) -> Agent {
        self.start_on(&self.state_dir())
    }

    /// Makes a database with the sample application's table.
    pub(crate) fn shop(&self, source: &str) -> App {
        App {
            shop: Shop::create(&self.database(source)).unwrap(),
            dice: Dice::new(1),
            next: 1,
        }
    }

    /// What a region shows of a source.
    pub(crate) async fn history(&self, region: usize, source: &str) -> SourceHistory {
        let store = Arc::clone(&self.regions[region].store) as Arc<dyn ReadStore>;
        let trust = self.keys.root.trust();
        let keyring = Arc::new(Keyring::load(&*store, &trust).await.unwrap());
        let beats = Beats::load(&*store, &keyring).await.unwrap();
        let source = SourceName::new(source).unwrap();
        SourceHistory::load(store, keyring, &source, &beats, &LoadOptions::default())
            .await
            .unwrap()
    }

    /// Checks that a region holds a source's log without a hole, every point whole, no trouble.
    pub(crate) async fn assert_sound(&self, region: usize, source: &str) -> SourceHistory {
        let history = self.history(region, source).await;
        let troubles: Vec<String> = history
            .troubles()
            .iter()
            .map(|trouble| format!("{}: {:?}", trouble.key, trouble.error))
            .collect();
        assert!(troubles.is_empty(), "{troubles:?}");
        assert!(history.missing().is_empty(), "{:?}", history.missing());
        for epoch in history.epochs() {
            for point in &epoch.points {
                assert!(
                    epoch.base(&point.head.base).is_some(),
                    "the point's base is there"
                );
                assert!(
                    epoch.names.contains_key(&point.head.log_seq),
                    "the point's log is there"
                );
            }
        }
        history
    }
}

/// A live application.
pub(crate) struct App {
    shop: Shop,
    dice: Dice,
    next: i64,
}

impl App {
    /// Commits `count` orders with receipts of `bytes`.
    pub(crate) fn work(&mut self, count: usize, bytes: usize) {
        for _ in 0..count {
            let order = Order {
                id: self.next,
                placed_at: SystemClock.now(),
                item: format!("item {}", self.next),
            };
            self.shop.place(&order, &self.dice.blob(bytes)).unwrap();
            self.next += 1;
        }
    }
}

/// An agent that runs in this process.
pub(crate) struct Agent {
    pub(crate) task: JoinHandle<Result<(), AgentError>>,
    pub(crate) shutdown: Shutdown,
    socket: PathBuf,
}

impl Agent {
    pub(crate) async fn ask(&self, request: &Request) -> Response {
        let mut client = eventually("the control socket answers", async || {
            Client::connect(&self.socket).await.ok()
        })
        .await;
        client.ask(request).await.unwrap()
    }

    pub(crate) async fn status(&self) -> LiveStatus {
        match self.ask(&Request::Status).await {
            Response::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the status is as wanted.
    pub(crate) async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&LiveStatus) -> bool,
    ) -> LiveStatus {
        eventually(what, async || {
            let status = self.status().await;
            if wanted(&status) {
                Ok(status)
            } else {
                Err(format!("{status:#?}"))
            }
            .ok()
        })
        .await
    }

    /// A recovery point now.
    pub(crate) async fn snapshot(
        &self,
        name: Option<&str>,
    ) -> Vec<tidemark_agent::control::SealedPoint> {
        let request = Request::snapshot(None, false, name.map(str::to_owned), DEADLINE);
        match self.ask(&request).await {
            Response::Points { points } => points,
            other => panic!("{other:?}\n{:#?}", self.status().await),
        }
    }

    /// Stops it in order.
    pub(crate) async fn stop(self) -> Result<(), AgentError> {
        self.shutdown.stop.cancel();
        tokio::time::timeout(DEADLINE * 2, self.task)
            .await
            .expect("it stops in time")
            .unwrap()
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(self) -> Result<(), AgentError> {
        tokio::time::timeout(DEADLINE, self.task)
            .await
            .expect("it ends in time")
            .unwrap()
    }

    /// Drops it in the middle of whatever it does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

/// Waits until `check` gives something.
pub(crate) async fn eventually<T>(what: &str, check: impl AsyncFn() -> Option<T>) -> T {
    let tries = async {
        loop {
            if let Some(value) = check().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(DEADLINE, tries).await {
        Ok(value) => value,
        Err(_elapsed) => panic!("not within {DEADLINE:?}: {what}"),
    }
}
