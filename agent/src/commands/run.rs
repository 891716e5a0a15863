//! `run`: the daemon, until SIGTERM or SIGINT; the second one stops it at once.

use tidemark_host::{
    Exit,
    log::{self, LogSurroundings},
};
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, context};
use crate::{
    Shutdown, bootstrap,
    cli::{Global, RunArgs},
};

/// Runs the daemon.
pub(super) fn run(global: &Global, args: &RunArgs) -> Result<Exit, Failure> {
    let config = context::config(global)?;
    log::start(&LogSurroundings::of_process(args.log_json), false)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let components = bootstrap::components(&config)?;
    context::service_runtime()?.block_on(async {
        let shutdown = Shutdown::default();
        let signals = listen(shutdown.clone())?;
        let ended = crate::run(&config, components, shutdown).await;
        signals.abort();
        ended.map_err(Failure::from)
    })?;
    Ok(Exit::Ok)
}

fn listen(shutdown: Shutdown) -> Result<tokio::task::JoinHandle<()>, Failure> {
    let failed = |source| Failure::Folder { path: "signal handlers".into(), source };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(tokio::spawn(async move {
        for stop in [&shutdown.stop, &shutdown.abort] {
            tokio::select! {
                biased;
                _received = terminate.recv() => {}
                _received = interrupt.recv() => {}
            }
            stop.cancel();
        }
    }))
}
