//! The commands, one module each: from settings to a document and an exit code.

mod check;
pub mod drill;
pub mod evidence;
pub mod init;
pub mod keys;
pub mod list;
pub mod policy;
pub mod restore;
pub mod status;
pub mod verify;
pub mod wal_get;

use std::path::PathBuf;

use tidemark_host::codes;
use tidemark_host::config::{ConfigFile, RestoreConfig};
use tidemark_host::output::Console;
use tidemark_host::{Cpu, Exit};
use tokio_util::sync::CancellationToken;

use crate::apply::stopped;
use crate::cli::{self, Cli, Command, Config, Global};
use crate::error::{Error, Result};
use crate::manual;
use crate::repository::{Environment, Settings, Tools};
use crate::sandbox;

/// Runs one command.
///
/// # Errors
/// Whatever keeps it from its end; [`crate::policy`] knows the exit code.
pub async fn run(
    cli: Cli,
    environment: &Environment,
    tools: &Tools,
    stop: &CancellationToken,
) -> Result<Exit> {
    // A restore ends by itself, so that the next run goes on where it was; a drill, so that its scratch is
    // gone. Everything else holds nothing that a sudden end could harm: what it writes is created whole or
    // not at all.
    let ends_itself = matches!(
        cli.command,
        Command::Run | Command::Restore(_) | Command::Drill(cli::Drill::Run(_))
    );
    let state = state_to_look_through(&cli, environment);
    let done = Box::pin(dispatch(cli, environment, tools, stop));
    let ended = if ends_itself {
        done.await
    } else {
        stopped(stop, done).await
    };
    Box::pin(tools.access.end(&ended, tools)).await;
    if let Some(state) = state {
        Box::pin(left_by_drills(state, tools)).await;
    }
    ended
}

/// Where drills that were killed note their scratch, for commands that have the time to destroy it
/// afterwards. Drills and their daemon do so before anything else.
fn state_to_look_through(cli: &Cli, environment: &Environment) -> Option<PathBuf> {
    match cli.command {
        Command::Drill(cli::Drill::List)
        | Command::Evidence(_)
        | Command::List(_)
        | Command::Plan(_)
        | Command::Policy(_)
        | Command::Restore(_)
        | Command::Status
        | Command::Verify(_) => settings(&cli.global, environment).ok()?.state,
        _ => None,
    }
}

/// What a killed drill left is production data: it must not lie there until the next one.
async fn left_by_drills(state: PathBuf, tools: &Tools) {
    let clock = std::sync::Arc::clone(&tools.clock);
    let swept =
        tokio::task::spawn_blocking(move || crate::drill::sweep(&state, clock.as_ref(), false));
    for left in swept.await.unwrap_or_default() {
        let note = format!("of a drill that was killed something is left: {left}");
        tools.console.complain(&note);
    }
}

async fn dispatch(
    cli: Cli,
    environment: &Environment,
    tools: &Tools,
    stop: &CancellationToken,
) -> Result<Exit> {
    let Cli { global, command } = cli;
    match command {
        Command::SandboxRun { folder } => sandbox::child::run(&folder, tools).await,
        Command::Init(args) => Box::pin(init::run(&args, &global, environment, tools)).await,
        Command::Run => Box::pin(crate::daemon::run(&global, environment, tools, stop)).await,
        Command::Explain { code } => explain(code.as_deref(), tools),
        Command::Completions { shell } => {
            tools.console.raw(&manual::completions(shell));
            Ok(Exit::Ok)
        }
        Command::Man { dir } => {
            manual::man(&dir)?;
            Ok(Exit::Ok)
        }
        Command::Config(Config::Check { file }) => {
            check_config(file.as_deref().or(global.config.as_deref()), tools)
        }
        Command::Drill(command) => {
            let settings = settings(&global, environment)?;
            let tools = with_pool(tools, &settings)?;
            Box::pin(drill::run(command, &settings, &tools, stop)).await
        }
        Command::Evidence(command) => {
            let settings = settings(&global, environment)?;
            Box::pin(evidence::run(command, &settings, tools)).await
        }
        Command::Keys(keys) => keys::run(keys, &global, environment, tools).await,
        Command::List(args) => list::run(&args, &settings(&global, environment)?, tools).await,
        Command::Policy(command) => {
            let settings = settings(&global, environment)?;
            Box::pin(policy::run(&command, &settings, tools)).await
        }
        Command::Plan(args) => {
            restore::plan_only(&args, &settings(&global, environment)?, tools).await
        }
        Command::Restore(args) => {
            let settings = settings(&global, environment)?;
            let tools = with_pool(tools, &settings)?;
            restore::begin(&args, &settings, &tools);
            restore::run(&args, &settings, &tools, stop).await
        }
        Command::Verify(args) => {
            let settings = settings(&global, environment)?;
            let tools = with_pool(tools, &settings)?;
            verify::run(&args, &settings, &tools).await
        }
        Command::WalGet(args) => {
            let settings = settings(&global, environment)?;
            wal_get::run(&args, &settings, tools).await
        }
        Command::Status => Ok(status::run(&settings(&global, environment)?, tools).await),
    }
}

fn settings(global: &Global, environment: &Environment) -> Result<Settings> {
    Settings::gather(global, environment)
}

/// The pool that a config may size; tests bring their own.
fn with_pool(tools: &Tools, settings: &Settings) -> Result<Tools> {
    let mut tools = tools.clone();
    if let Some(threads) = settings.threads {
        tools.cpu = Cpu::pool(threads)?;
    }
    Ok(tools)
}

fn explain(code: Option<&str>, tools: &Tools) -> Result<Exit> {
    let text = match code {
        Some(code) => codes::explain(code).ok_or_else(|| Error::CodeUnknown(code.to_owned()))?,
        None => codes::overview(),
    };
    tools.console.raw(&text);
    Ok(Exit::Ok)
}

fn check_config(file: Option<&std::path::Path>, tools: &Tools) -> Result<Exit> {
    let path = ConfigFile::Restore.find(file)?;
    let config = RestoreConfig::load(&path, &crate::daemon::CHECKS_AND_PLACES)?;
    let regions = config
        .regions
        .iter()
        .map(|region| region.url.place())
        .collect();
    tools.console.show(&check::ConfigChecked {
        file: path.display().to_string(),
        regions,
    });
    Ok(Exit::Ok)
}

/// A pool of one thread for each core.
///
/// # Errors
/// The system refuses threads.
pub fn default_pool() -> Result<Cpu> {
    let cores = std::thread::available_parallelism().unwrap_or(std::num::NonZeroUsize::MIN);
    Ok(Cpu::pool(cores)?)
}

/// Stop signals: the first of Ctrl-C and SIGTERM asks the work to end, a second one means now.
#[must_use]
pub fn stop_on_signal() -> (CancellationToken, CancellationToken) {
    let (stop, now) = (CancellationToken::new(), CancellationToken::new());
    let fire = [stop.clone(), now.clone()];
    tokio::spawn(async move {
        for token in fire {
            one_signal().await;
            token.cancel();
        }
    });
    (stop, now)
}

async fn one_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            // Without the handler the signal ends the process at once: nothing to wait for.
            Err(_refused) => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

/// The tools of the real process, which write to `console`; what is done with a key goes into `access`.
///
/// # Errors
/// The system refuses threads.
pub fn system_tools(console: Console, access: crate::evidence::access::Access) -> Result<Tools> {
    Ok(Tools {
        clock: tidemark_host::SystemClock::shared(),
        rng: tidemark_host::SystemRng::shared(),
        cpu: default_pool()?,
        console,
        access,
    })
}
