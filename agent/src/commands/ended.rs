//! Why the agent stopped for good, kept beside its state: so that `status` and `doctor` can say with the
//! agent dead that it is fenced or revoked, by whom, and what the choices are, instead of "start it".
//!
//! It informs people and decides nothing. Written by `run` when it ends with a code after which the
//! service manager doesn't start it again; gone with the next start and after a take-over.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_host::{Exit, SystemClock, config::AgentConfig, files, output::instant};

use super::Failure;
use crate::{policy, state::StateDir};

/// Why, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) at: Timestamp,
    pub(super) code: String,
    pub(super) message: String,
}

fn path(config: &AgentConfig) -> PathBuf {
    StateDir::new(&config.state_dir).root().join("ended.json")
}

impl Ended {
    /// What was kept, if anything can be read.
    pub(super) fn load(config: &AgentConfig) -> Option<Self> {
        let text = files::read_text(&path(config)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// As `status` and `doctor` say it.
    pub(super) fn words(&self) -> String {
        format!(
            "the agent stopped at {} and is not started again by itself ({}): {}",
            instant(self.at),
            self.code,
            self.message
        )
    }
}

/// Keeps why the daemon ended, if a new start would end the same way.
pub(super) fn keep(config: &AgentConfig, failure: &Failure) {
    let code = failure.code();
    if !matches!(code.exit, Exit::Fenced | Exit::Key) {
        return;
    }
    let ended = Ended {
        at: SystemClock::shared().now(),
        code: code.id.to_owned(),
        message: policy::with_causes(failure),
    };
    // The journal has it, too: a full disk must not hide why the agent ended.
    if let Ok(bytes) = serde_json::to_vec(&ended) {
        drop(files::write_atomic(&path(config), &bytes, files::PRIVATE));
    }
}

/// What was kept is over.
pub(super) fn forget(config: &AgentConfig) {
    drop(std::fs::remove_file(path(config)));
}
