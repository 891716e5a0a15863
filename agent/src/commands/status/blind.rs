//! `status` with a config that can't be used: the daemon runs on with the one that it read at its start
//! and knows how things stand, so its word is shown before the config's error.

use std::path::PathBuf;

use serde::Serialize;
use tidemark_host::{
    config::{ConfigFile, state_directory},
    output::{Console, Document, duration},
};

use super::super::{Failure, context};
use super::ask_daemon;
use super::render::agent_text;
use crate::{cli::Global, status_live::LiveStatus};

/// Where the state directory is when nothing says otherwise.
const STATE_DIR: &str = "/var/lib/tidemark";

#[derive(Serialize)]
struct Blind {
    daemon: LiveStatus,
}

impl Document for Blind {
    const SCHEMA: &'static str = "tidemark-agent.status-live";

    fn text(&self, out: &mut String) {
        out.push_str("The config file can't be used (see below). The agent runs on with the one it has read:\n");
        for (name, source) in &self.daemon.sources {
            out.push_str(&format!(
                "{name}  {}   loss now {}, by the agent's word\n",
                source.state.name(),
                duration(self.daemon.exposure(name))
            ));
        }
        agent_text(&self.daemon, out);
    }
}

/// Shows what the daemon says, if one answers where the broken file, or nothing, says that its state is.
pub(in crate::commands) fn show(global: &Global, console: &Console) -> Result<(), Failure> {
    let runtime = context::runtime()?;
    if let Some(daemon) = runtime.block_on(ask_daemon(&state_dir(global))) {
        console.show(&Blind { daemon });
    }
    Ok(())
}

fn state_dir(global: &Global) -> PathBuf {
    let file = ConfigFile::Agent.find(global.config.as_deref()).ok();
    let text = file.and_then(|path| std::fs::read_to_string(path).ok());
    let said = text.as_deref().and_then(said);
    state_directory()
        .or(said)
        .unwrap_or_else(|| PathBuf::from(STATE_DIR))
}

/// The `state_dir` of a text that need not be right anywhere else.
fn said(text: &str) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let value = line.trim().strip_prefix("state_dir")?.trim_start();
        let value = value.strip_prefix('=')?.trim_start();
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let inner = value.get(1..)?.split(quote).next()?;
        Some(PathBuf::from(inner))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_is_found_in_a_file_that_is_wrong_elsewhere() {
        let text = "colour = \n state_dir=\"/srv/state\" # here\n[[regio]]\n";
        assert_eq!(said(text), Some(PathBuf::from("/srv/state")));
        assert_eq!(said("# state_dir = \"/x\"\nstate_dirs = 1"), None);
    }
}
