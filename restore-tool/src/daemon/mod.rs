//! `run`: the daemon that owns the schedule of drills; and `drill run --due`, the same for a timer.
//!
//! ```text
//! config ─ plan ─┐                    ┌─ turn: claim ─ drill ─ end
//! regions ─ claims ─ rota (judged by planner::rota) ─ board ─ status line, metrics, alerts
//! state dir ─ notes ┘
//! ```
//!
//! # Invariants
//!
//! - Nothing is run without a claim that a region took: hosts that share a region never run one slot twice.
//! - After downtime each drill is run once, for its newest slot; the others are told as missed.
//! - A drill that was not done is told: as due, then as overdue ([`tidemark_host::codes::DRILL_OVERDUE`]),
//!   by an event, a metric and the status line.
//! - What `[objectives]` promises is told at risk before it is broken, by an event and a metric.
//! - No region that can be read means no drill begun: another host may have the turn.
//!
//! # Failure and stopping
//!
//! A region that is away, a config that can't be used after SIGHUP, a drill that fails: the daemon goes on
//! and says so. SIGTERM ends the drill under way as inconclusive, with its record, and gives the turn back;
//! the next host that looks takes it. A host that dies loses its turn when the claim's time is over.
//!
//! # What it deliberately does not do
//!
//! It restores nothing but drills, repairs nothing and deletes nothing.

pub mod agenda;
pub mod board;
mod claims;
mod conduct;
mod driver;
mod due;
pub mod metrics;
mod notes;
mod plan;
mod promises;
mod rota;
mod turn;

#[cfg(test)]
mod tests;

use serde_json::json;
use tidemark_host::Exit;
use tokio_util::sync::CancellationToken;

use crate::cli::Global;
use crate::error::Result;
use crate::evidence::access::Access;
use crate::evidence::begun;
use crate::identity;
use crate::repository::{Environment, Settings, Tools};
use board::Board;
use conduct::Conductor;
use driver::Driver;
use rota::Rota;

pub use agenda::agenda;
pub use due::DrillsDue;
pub(crate) use plan::assertion;
pub use plan::{CHECKS, CHECKS_AND_PLACES};

/// Runs the daemon until `stop`.
///
/// # Errors
/// What keeps it from starting: config, identity, state directory, the metrics' address.
pub async fn run(
    global: &Global,
    environment: &Environment,
    tools: &Tools,
    stop: &CancellationToken,
) -> Result<Exit> {
    let gather = || Settings::gather(global, environment);
    let settings = gather()?;
    settings.regions()?;
    settle(&settings, tools).await?;
    if let Some(state) = settings.state.clone() {
        let clock = std::sync::Arc::clone(&tools.clock);
        let swept =
            tokio::task::spawn_blocking(move || crate::drill::sweep(&state, clock.as_ref(), true));
        for left in swept.await.unwrap_or_default() {
            tracing::error!(what = %left, "of a drill that was killed something is left: production data; remove it by hand");
        }
    }
    let driver = Driver {
        rota: Rota::new(settings, Board::default(), tools)?,
        conduct: &Conductor,
        gather: &gather,
        tools: tools.clone(),
        stop: stop.clone(),
    };
    Box::pin(driver.run()).await
}

/// What a process that died here had begun goes on record now, not with the next drill, which may be a
/// month away.
async fn settle(settings: &Settings, tools: &Tools) -> Result<()> {
    let identity = identity::load(settings, &tools.console)?;
    let signer = identity.evidence_key().public().id();
    let state = settings.state.as_deref();
    if state.is_none_or(|state| begun::left(state, signer).is_empty()) {
        return Ok(());
    }
    let why = Some("the schedule goes on after a process that did not end");
    let tools = Tools {
        access: Access::default(),
        ..tools.clone()
    };
    tools.access.begin("run", &json!({}), why, settings, &tools);
    tools.access.used(&identity);
    Box::pin(tools.access.end(&Ok(Exit::Ok), &tools)).await;
    Ok(())
}

/// Runs what is due now, once.
///
/// # Errors
/// As [`run`], and a turn that could not be taken.
pub async fn run_due(settings: Settings, tools: &Tools, stop: &CancellationToken) -> Result<Exit> {
    settings.regions()?;
    let rota = Rota::new(settings, Board::default(), tools)?;
    let (document, exit) = Box::pin(due::run(rota, &Conductor, tools, stop)).await?;
    tools.console.show(&document);
    Ok(exit)
}
