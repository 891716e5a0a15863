//! `run`: the daemon, until SIGTERM or SIGINT; the second one stops it at once. SIGHUP has it read
//! credentials, keyring and recipients again, as `config reload` does.

use std::sync::Arc;

use tidemark_cli::service::signals;
use tidemark_host::{
    Exit, allocator,
    log::{self, LogSurroundings},
};

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
    signals::hang_up(Arc::clone(&shutdown.reload)).map_err(failed)?;
    signals::stop([shutdown.stop, shutdown.abort]).map_err(failed)
}
