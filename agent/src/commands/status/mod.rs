//! `status`: one screen that answers what a person asks at 3 a.m., from what is in the regions.
//!
//! **Invariant:** losses and windows are judged from storage alone, so a dead or lying daemon can't
//! make them look better. What the running daemon knows beside that (spool, alerts, a base under
//! way) is shown as its word. Exit: 0 well, 1 look at it, 2 act now, 3 nothing can be said.

pub(super) mod blind;
mod gather;
mod holes;
mod render;
mod together;
mod told;
mod verdict;

use std::collections::BTreeMap;
use std::path::Path;

use tidemark_format::SourceName;
use tidemark_host::{
    Exit,
    config::{AgentConfig, Source},
    output::{Console, instant},
};

use self::gather::Wanted;
use super::{
    Failure,
    context::{self, Machine},
    operate,
};
use crate::{
    cli::Global,
    control::{Client, ClientError, Response},
    state::StateDir,
    status_live::LiveStatus,
};

/// Runs `status`.
pub(super) fn status(global: &Global, console: &Console) -> Result<Exit, Failure> {
    let config = match context::config(global) {
        Ok(config) => config,
        Err(failure) => {
            blind::show(global, console)?;
            return Err(failure);
        }
    };
    operate::known(&config, global.source.as_ref())?;
    let machine = Machine::new();
    let runtime = context::runtime()?;
    let facts = runtime.block_on(async {
        let live = async {
            let heard = hear_daemon(&config.state_dir).await;
            let slots = match &heard {
                Ok(None) => told::SlotSeen::all(&config).await,
                Ok(Some(_)) | Err(_) => BTreeMap::new(),
            };
            (heard, slots)
        };
        let wanted = Wanted {
            only: global.source.as_ref(),
            windows: true,
        };
        let regions = gather::gather(&config, wanted, &machine);
        tokio::join!(live, regions)
    });
    let (heard, slots) = facts.0;
    let told = told::Told::new(&config, heard, slots);
    let report = render::Report::new(&config, facts.1, told, machine.clock.now());
    console.show(&report);
    Ok(report.exit())
}

/// The newest recovery point of a source that a take-over leaves standing, as a line for people; nothing
/// if no region shows one.
pub(super) async fn newest_point(config: &AgentConfig, source: &SourceName) -> String {
    let wanted = Wanted {
        only: Some(source),
        windows: false,
    };
    let (regions, _seen) = gather::gather(config, wanted, &Machine::new()).await;
    let facts = regions.iter().flat_map(|region| &region.sources);
    let points = facts.filter_map(|facts| facts.point.as_ref());
    let newest = points.max_by_key(|point| (point.epoch, point.seq));
    newest.map_or_else(String::new, |point| {
        format!(
            "The newest recovery point that stays is {}:{}, everything committed up to {}.\n",
            point.epoch,
            point.seq,
            instant(point.committed)
        )
    })
}

/// What regions lack of their sources since a take-over.
pub(super) async fn holes(config: &AgentConfig, machine: &Machine) -> Vec<holes::Told> {
    let wanted = Wanted {
        only: None,
        windows: false,
    };
    let (regions, _seen) = gather::gather(config, wanted, machine).await;
    let of_source = |source: &Source| {
        let pairs: Vec<_> = regions
            .iter()
            .map(|region| {
                let mut facts = region.sources.iter();
                (region, facts.find(|one| one.source == source.name))
            })
            .collect();
        holes::told(&pairs)
    };
    config.sources.iter().flat_map(of_source).collect()
}

/// What the daemon on a state directory says, if one runs and answers.
pub(super) async fn ask_daemon(state_dir: &Path) -> Option<LiveStatus> {
    hear_daemon(state_dir).await.ok().flatten()
}

/// What the daemon on a state directory says, if one runs; an error if it listens and says nothing.
pub(super) async fn hear_daemon(state_dir: &Path) -> Result<Option<LiveStatus>, ClientError> {
    let socket = StateDir::new(state_dir).control_socket();
    let Ok(mut client) = Client::connect(&socket).await else {
        return Ok(None);
    };
    match client.status().await {
        Ok(Response::Status(live)) => Ok(Some(*live)),
        Err(silent @ ClientError::Silent { .. }) => Err(silent),
        Ok(Response::Points { .. } | Response::Done { .. } | Response::Refused { .. }) | Err(_) => {
            Ok(None)
        }
    }
}
