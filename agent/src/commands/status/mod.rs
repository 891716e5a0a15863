//! `status`: one screen that answers what a person asks at 3 a.m., from what is in the regions.
//!
//! **Invariant:** losses and windows are judged from storage alone, so a dead or lying daemon can't
//! make them look better. What the running daemon knows beside that (spool, alerts, a base under
//! way) is shown as its word. Exit: 0 well, 1 look at it, 2 act now, 3 nothing can be said.

mod gather;
mod render;
mod verdict;

use tidemark_host::{Exit, config::AgentConfig, output::Console};

use super::{
    Failure,
    context::{self, Machine},
};
use crate::{
    cli::Global,
    control::{Client, Request, Response},
    state::StateDir,
    status_live::LiveStatus,
};

/// Runs `status`.
pub(super) fn status(global: &Global, console: &Console) -> Result<Exit, Failure> {
    let config = context::config(global)?;
    if let Some(name) = &global.source
        && config.source(name).is_none()
    {
        return Err(Failure::Usage(format!(
            "there is no source {name} in {}",
            config.file.display()
        )));
    }
    let machine = Machine::new();
    let runtime = context::runtime()?;
    let facts = runtime.block_on(async {
        let live = ask_daemon(&config).await;
        let regions = gather::gather(&config, global.source.as_ref(), &machine).await;
        (live, regions)
    });
    let report = render::Report::new(&config, facts.1, facts.0, machine.clock.now());
    console.show(&report);
    Ok(report.exit())
}

/// What the running daemon says, if one runs and answers.
async fn ask_daemon(config: &AgentConfig) -> Option<LiveStatus> {
    let socket = StateDir::new(&config.state_dir).control_socket();
    let mut client = Client::connect(&socket).await.ok()?;
    match client.ask(&Request::Status).await.ok()? {
        Response::Status(live) => Some(*live),
        Response::Points { .. } | Response::Done { .. } | Response::Refused { .. } => None,
    }
}
