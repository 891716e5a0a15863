//! `run`: the daemon, until SIGTERM or SIGINT; the second one stops it at once. SIGHUP has it read
//! credentials, keyring and recipients again, as `config reload` does.

use std::sync::Arc;

use tidemark_host::{
    Exit, allocator,
    log::{self, LogSurroundings},
};
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, context, ended};
use crate::{
    Shutdown, bootstrap,
    cli::{Global, RunArgs},
};

/// Runs the daemon.
pub(super) fn run(global: &Global, args: &RunArgs) -> Result<Exit, Failure> {
    if let Err(error) = allocator::settle() {
        tracing::warn!(error = %error, "the allocator keeps its defaults");
    }
    let config = context::config(global)?;
    log::start(&LogSurroundings::of_process(args.log_json), false)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let runtime = context::service_runtime()?;
    let components = bootstrap::components(&config, runtime.handle())?;
    ended::forget(&config);
    let ended = runtime.block_on(async {
        let shutdown = Shutdown::default();
        let signals = listen(shutdown.clone())?;
        let ended = crate::run(&config, components, shutdown).await;
        signals.abort();
        ended.map_err(Failure::from)
    });
    if let Err(failure) = &ended {
        ended::keep(&config, failure);
    }
    ended.map(|()| Exit::Ok)
}

fn listen(shutdown: Shutdown) -> Result<tokio::task::JoinHandle<()>, Failure> {
    let failed = |source| Failure::Folder {
        path: "signal handlers".into(),
        source,
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(failed)?;
    // Unheard, it would end the agent without draining.
    let reload = Arc::clone(&shutdown.reload);
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            tracing::info!("SIGHUP: credentials, keyring and recipients are read again");
            reload.notify_one();
        }
    });
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
