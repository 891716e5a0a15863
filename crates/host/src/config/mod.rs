//! The config files: read once, checked once, then types that nobody checks again.
//!
//! What the user wrote (`raw`: unknown keys refused, every value with its place in the file) becomes
//! [`AgentConfig`] or [`RestoreConfig`] in one pass that reports every problem at once, each with
//! line, caret and what to write instead. Defaults stand in one table ([`keys`]), from which
//! [`mod@write`] also renders the file that `init` leaves behind.
//!
//! Host knows no planner and no engine: whether a schedule or a connection string can be read is asked
//! through [`Surroundings`].

mod agent;
mod diagnose;
mod drills;
pub mod keys;
mod objectives;
mod policy;
mod raw;
mod regions;
mod restore;
mod settings;
mod sources;
#[cfg(test)]
mod tests;
pub mod write;

use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;

pub use agent::AgentConfig;
pub use diagnose::{ConfigError, Problem, ProblemKind, hint};
pub use drills::{Assertion, Drill, DrillChecks, DrillRules, Drills, Expected};
pub use objectives::{Objectives, Promises};
pub use policy::{ClauseRefusal, PolicyClause, PolicyFile, Repeat};
pub use regions::{Country, Region, failure_domains};
pub use restore::RestoreConfig;
pub use settings::{Ack, CanaryMode, Protect, Settings};
pub use sources::{Engine, Source, name_from_path, name_from_words, slot_of, without_password};

/// The folder of installed config files.
pub const SYSTEM_FOLDER: &str = "/etc/tidemark";

/// Which config file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigFile {
    /// The agent's.
    Agent,
    /// The restore tool's.
    Restore,
}

impl ConfigFile {
    /// The file's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent.toml",
            Self::Restore => "restore.toml",
        }
    }

    /// The file to read: the one given, else the system's, else the one in the current directory.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] when none was given and neither default is there.
    pub fn find(self, given: Option<&Path>) -> Result<PathBuf, ConfigError> {
        if let Some(path) = given {
            return Ok(path.to_owned());
        }
        let searched = [
            Path::new(SYSTEM_FOLDER).join(self.name()),
            PathBuf::from(self.name()),
        ];
        match searched.iter().find(|path| path.exists()) {
            Some(path) => Ok(path.clone()),
            None => Err(ConfigError::Missing {
                searched: searched.to_vec(),
            }),
        }
    }
}

/// What decides beside the file.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// `$STATE_DIRECTORY`, which systemd sets; it wins over `state_dir`.
    pub state_directory: Option<&'a Path>,
    /// Says why a schedule can't be used in a zone (`planner::Schedule::parse` behind it).
    pub check_schedule: &'a dyn Fn(&str, &TimeZone) -> Result<(), String>,
    /// Says why a connection string can't be read (`engine-postgres` behind it).
    pub check_postgres: &'a dyn Fn(&str) -> Result<(), String>,
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings")
            .field("state_directory", &self.state_directory)
            .finish_non_exhaustive()
    }
}

/// `$STATE_DIRECTORY` as systemd sets it: the first of its folders.
#[must_use]
pub fn state_directory() -> Option<PathBuf> {
    let value = std::env::var("STATE_DIRECTORY").ok()?;
    value
        .split(':')
        .next()
        .filter(|first| !first.is_empty())
        .map(PathBuf::from)
}
