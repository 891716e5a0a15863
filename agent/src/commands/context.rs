//! What commands share: the config found and checked, regions opened, errors named.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tidemark_engine_postgres::conninfo::check_text;
use tidemark_host::{
    Clock, Rng, SystemClock, SystemRng,
    config::{AgentConfig, ConfigError, ConfigFile, Region, Surroundings, state_directory},
};
use tidemark_planner::schedule::Schedule;
use tidemark_storage::region::{AgentRegion, OpenOptions, open_for_agent};

pub use super::failure::Failure;
use crate::cli::Global;

/// Reads and checks the config at `path`.
pub(super) fn load(path: &Path) -> Result<AgentConfig, Failure> {
    with_surroundings(|around| AgentConfig::load(path, around))
}

/// Checks `text` as the content of `path`.
pub(super) fn parse(text: &str, path: &Path) -> Result<AgentConfig, Failure> {
    let path = std::path::absolute(path).unwrap_or_else(|_no_directory| path.to_owned());
    with_surroundings(|around| AgentConfig::parse(text, &path, around))
}

fn with_surroundings(
    read: impl FnOnce(&Surroundings<'_>) -> Result<AgentConfig, ConfigError>,
) -> Result<AgentConfig, Failure> {
    let state = state_directory();
    let surroundings = Surroundings {
        state_directory: state.as_deref(),
        check_schedule: &Schedule::check,
        check_postgres: &|text| check_text(text).map_err(|error| error.to_string()),
    };
    Ok(read(&surroundings)?)
}

/// The config that the options name, or the default one.
pub(super) fn config(global: &Global) -> Result<AgentConfig, Failure> {
    let path = ConfigFile::Agent.find(global.config.as_deref())?;
    if !path.exists() {
        let searched = vec![path];
        return Err(ConfigError::Missing { searched }.into());
    }
    load(&path)
}

/// The machine's clock and randomness, taken once.
pub(super) struct Machine {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) rng: Arc<dyn Rng>,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self {
            clock: SystemClock::shared(),
            rng: SystemRng::shared(),
        }
    }

    /// How commands open regions.
    pub(super) fn open_options(&self) -> OpenOptions {
        let mut options = OpenOptions::new(Arc::clone(&self.clock), Arc::clone(&self.rng));
        options.credentials_directory =
            std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        options
    }
}

/// A runtime for a command that talks to regions: one thread is enough.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Folder {
            path: PathBuf::from("the async runtime"),
            source,
        })
}

/// Threads for file work: tokio's own bound is 512, and a hundred sources that fsync at once take
/// them all.
const FILE_THREADS_MAX: usize = 16;

/// A runtime for the daemon's own work. It waits for the network and the disk; what costs time on a
/// core runs on pools of its own, so two threads are enough.
pub(super) fn service_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(FILE_THREADS_MAX)
        .enable_all()
        .build()
        .map_err(|source| Failure::Folder {
            path: PathBuf::from("the async runtime"),
            source,
        })
}

/// Opens regions for the agent's use; each on its own, so that one that is away is only that.
pub(super) async fn open_regions(
    regions: &[Region],
    options: &OpenOptions,
) -> Vec<(Region, tidemark_storage::Result<AgentRegion>)> {
    let mut opened = Vec::with_capacity(regions.len());
    for region in regions {
        let store = open_for_agent(&region.name, &region.url, options).await;
        opened.push((region.clone(), store));
    }
    opened
}
