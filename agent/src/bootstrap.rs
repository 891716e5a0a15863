//! The only place where components are built: from a checked config to everything that
//! [`crate::run`] is given. Nothing else in the agent opens a region, an engine or a key.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidemark_engine::Engine;
use tidemark_engine_postgres::conninfo::{Process, Surroundings};
use tidemark_engine_postgres::{Limits, LogMemory, PostgresConfig, PostgresEngine};
use tidemark_engine_sqlite::{SqliteConfig, SqliteEngine};
use tidemark_format::sign::SigningKey;
use tidemark_format::{Hash, SourceName};
use tidemark_host::config::{Ack, AgentConfig, Engine as EngineConfig, Region, Settings, Source};
use tidemark_host::files::{self, FileError};
use tidemark_host::lock::StateLock;
use tidemark_host::{Clock, Cpu, HostFacts, Rng, RngExt as _, SystemClock, SystemRng};
use tidemark_storage::region::{AgentRegion, OpenOptions, open_for_agent};
use tidemark_storage::wrap::RetryPolicy;
use tokio::runtime::Handle;

use crate::ship::link::OpenRegion;
use crate::source::canary;
use crate::state::{StateDir, WriterState};
use crate::{AgentError, Result};

/// Capture threads at most: capturing waits for the page cache, not for cores.
const CAPTURE_THREADS_MAX: usize = 4;
/// Threads for heavy work at most, unless the config says otherwise: beside a database there are
/// better uses for cores than compressing faster than any region takes it.
const CPU_THREADS_MAX: usize = 8;
/// Threads that read a data directory at most: it may be read as fast as it is compressed.
const BASE_READERS_MAX: usize = 4;
/// Share of `memory` for servers' log that was received and not cut.
const LOG_SHARE: u64 = 8;
/// Tries inside the store; the shippers have their own, longer patience.
const RETRY: RetryPolicy = RetryPolicy {
    tries_max: 2,
    first_wait_max: Duration::from_millis(100),
    wait_max: Duration::from_millis(500),
};

/// A region that can be opened.
#[derive(Debug, Clone)]
pub struct RegionPart {
    /// As configured.
    pub config: Region,
    /// Opens it.
    pub opener: Arc<dyn OpenRegion>,
}

/// Everything that the daemon works with.
#[derive(Debug)]
pub struct Components {
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
    /// Where heavy work runs.
    pub cpu: Cpu,
    /// Threads that capture.
    pub capture_threads: NonZeroUsize,
    /// The machine.
    pub host: HostFacts,
    /// The regions.
    pub regions: Vec<RegionPart>,
    /// The engines, by source.
    pub engines: BTreeMap<SourceName, Arc<dyn Engine>>,
    /// The agent's key.
    pub signer: SigningKey,
    /// The state directory's identity.
    pub writer: WriterState,
    /// The state directory is ours.
    pub lock: StateLock,
}

/// Builds the components of an installed agent; engines that talk to a server do it on `runtime`.
///
/// # Errors
/// A state directory that is in use or can't be written, a signing key that can't be used.
pub fn components(config: &AgentConfig, runtime: &Handle) -> Result<Components> {
    let (clock, rng) = (SystemClock::shared(), SystemRng::shared());
    let regions = config
        .regions
        .iter()
        .map(|region| RegionPart {
            config: region.clone(),
            opener: Arc::new(Opener {
                region: region.clone(),
                clock: Arc::clone(&clock),
                rng: Arc::clone(&rng),
            }),
        })
        .collect();
    let memory = log_memory(config);
    let made = |source: &Source| engine(source, &clock, runtime, (threads(config), &memory));
    let engines = config
        .sources
        .iter()
        .map(|source| (source.name.clone(), made(source)))
        .collect();
    local_components(config, regions, engines, (clock, rng))
}

/// Builds the components around regions and engines that the caller made.
///
/// # Errors
/// As [`components`].
pub fn local_components(
    config: &AgentConfig,
    regions: Vec<RegionPart>,
    engines: BTreeMap<SourceName, Arc<dyn Engine>>,
    machine: (Arc<dyn Clock>, Arc<dyn Rng>),
) -> Result<Components> {
    let (clock, rng) = machine;
    let state = StateDir::new(&config.state_dir);
    files::create_private_folder(state.root())?;
    let lock = StateLock::take(state.root())?;
    let signer = load_signing_key(&state.agent_key())?;
    let writer = WriterState::load_or_new(&state.writer(), &*rng)?;
    let at_least_one = |threads: usize| NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
    Ok(Components {
        clock,
        rng,
        cpu: Cpu::pool(at_least_one(threads(config)))?,
        capture_threads: at_least_one(cores().min(CAPTURE_THREADS_MAX).min(config.sources.len())),
        host: HostFacts::gather(),
        regions,
        engines,
        signer,
        writer,
        lock,
    })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Threads for heavy work.
fn threads(config: &AgentConfig) -> usize {
    config
        .threads
        .map_or_else(|| cores().min(CPU_THREADS_MAX), NonZeroUsize::get)
}

/// Memory for the log of servers that waits to be cut; all PostgreSQL sources share it.
fn log_memory(config: &AgentConfig) -> Arc<LogMemory> {
    let servers = config.sources.iter();
    let servers = servers.filter(|source| matches!(source.engine, EngineConfig::Postgres { .. }));
    LogMemory::new(config.memory.get() / LOG_SHARE, servers.count())
}

/// The engine of a source; `threads` is how many are for heavy work.
fn engine(
    source: &Source,
    clock: &Arc<dyn Clock>,
    runtime: &Handle,
    (threads, memory): (usize, &Arc<LogMemory>),
) -> Arc<dyn Engine> {
    match &source.engine {
        EngineConfig::Sqlite { path } => sqlite(path, &source.settings, clock),
        EngineConfig::Postgres { conninfo, slot } => {
            let mut config = postgres(conninfo, slot, &source.settings);
            config.base_readers = threads.min(BASE_READERS_MAX);
            let around = Arc::new(Named(slot.clone()));
            let engine = PostgresEngine::new(config, around, runtime.clone(), Arc::clone(clock));
            Arc::new(engine.sharing(Arc::clone(memory)))
        }
    }
}

/// How a PostgreSQL cluster is captured.
fn postgres(conninfo: &str, slot: &str, settings: &Settings) -> PostgresConfig {
    PostgresConfig {
        conninfo: conninfo.to_owned(),
        slot: slot.to_owned(),
        ack: match settings.ack {
            Ack::Spool => tidemark_engine_postgres::Ack::Spool,
            Ack::Regions => tidemark_engine_postgres::Ack::Regions,
        },
        slot_keep_max: Some(settings.slot_keep_max.get()),
        canary: canary::form(settings),
        fast_checkpoint: true,
        base_rate: settings.base_rate.clone(),
        zone: settings.timezone.clone(),
        base_readers: 1,
        limits: Limits::default(),
    }
}

/// This process, with a name by which the server knows the agent's connections where nothing gives
/// them one: its slot's, which `synchronous_standby_names` may list.
#[derive(Debug)]
struct Named(String);

impl Surroundings for Named {
    fn variable(&self, name: &str) -> Option<String> {
        let default = || (name == "PGAPPNAME").then(|| self.0.clone());
        Process.variable(name).or_else(default)
    }

    fn read(&self, path: &Path) -> std::io::Result<Option<String>> {
        Process.read(path)
    }

    fn mode(&self, path: &Path) -> Option<u32> {
        Process.mode(path)
    }

    fn user(&self) -> Option<String> {
        Process.user()
    }
}

/// The engine of a SQLite file.
#[must_use]
pub fn sqlite(path: &Path, settings: &Settings, clock: &Arc<dyn Clock>) -> Arc<dyn Engine> {
    let mut config = SqliteConfig::new(path);
    config.wal_max_bytes = settings.wal_max.get();
    config.canary = canary::form(settings).is_some();
    Arc::new(SqliteEngine::new(config, Arc::clone(clock)))
}

#[derive(Debug)]
struct Opener {
    region: Region,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
}

#[async_trait]
impl OpenRegion for Opener {
    async fn open(&self) -> tidemark_storage::Result<AgentRegion> {
        let mut options = OpenOptions::new(Arc::clone(&self.clock), Arc::clone(&self.rng));
        options.retry = RETRY;
        options.credentials_directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into);
        open_for_agent(&self.region.name, &self.region.url, &options).await
    }
}

/// Makes the agent's signing key, which must not be there yet.
///
/// # Errors
/// The disk, or a key that is there.
pub fn create_signing_key(
    path: &Path,
    rng: &dyn Rng,
) -> std::result::Result<SigningKey, FileError> {
    let secret: [u8; 32] = rng.bytes();
    let text = format!("{}\n", Hash(secret));
    files::write_new(path, text.as_bytes(), files::PRIVATE)?;
    Ok(SigningKey::from_secret(&secret))
}

/// Reads the agent's signing key.
///
/// # Errors
/// [`AgentError::SigningKey`] when it is missing, readable by others, or no key.
pub fn load_signing_key(path: &Path) -> Result<SigningKey> {
    let refuse = |why: String| AgentError::SigningKey {
        path: path.to_owned(),
        why,
    };
    let bytes = files::read_private(path).map_err(|error| {
        if error.is_not_found() {
            refuse("it is not there".to_owned())
        } else {
            refuse(crate::policy::with_causes(&error))
        }
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|_binary| refuse("it is no text".to_owned()))?;
    let secret: Hash = text
        .trim()
        .parse()
        .map_err(|_not_hex| refuse("it is not 64 hex digits".to_owned()))?;
    Ok(SigningKey::from_secret(&secret.0))
}

#[cfg(test)]
mod tests {
    use tidemark_host::{Exit, TestRng};

    use super::*;

    #[test]
    fn a_signing_key_reads_back_and_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.key");
        let missing = load_signing_key(&path).unwrap_err();
        assert_eq!(crate::policy::code(&missing).exit, Exit::Config);
        let key = create_signing_key(&path, &TestRng::seeded(1)).unwrap();
        assert_eq!(load_signing_key(&path).unwrap().public(), key.public());
        assert!(create_signing_key(&path, &TestRng::seeded(2)).is_err());
        std::fs::write(&path, "short").unwrap();
        assert!(matches!(
            load_signing_key(&path),
            Err(AgentError::SigningKey { .. })
        ));
    }
}
