//! `tidemark-restore`: reads the command line and the environment, and hands everything else on.

use std::path::PathBuf;
use std::process::ExitCode;

use tidemark_host::Exit;
use tidemark_host::log::{self, LogSurroundings};
use tidemark_host::output::Console;
use tidemark_restore_tool::cli::{Cli, Command, HIDDEN};
use tidemark_restore_tool::commands::wal_get;
use tidemark_restore_tool::error::Error;
use tidemark_restore_tool::evidence::access::Access;
use tidemark_restore_tool::patience::Patience;
use tidemark_restore_tool::repository::Environment;
use tidemark_restore_tool::{commands, report};

fn main() -> ExitCode {
    let cli: Cli = match tidemark_cli::parse(HIDDEN) {
        Ok(cli) => cli,
        Err(words) => return refuse(&words),
    };
    // A server asks for one segment after the other: each time twice the start would be felt.
    if matches!(cli.command, Command::WalGet(_)) {
        return hand_to_a_server(cli);
    }
    // Without it a restore only takes more memory.
    drop(tidemark_host::allocator::settle());
    let console = Console::standard(cli.global.json);
    let access = Access::default();
    let exit = match start(cli, &console, &access) {
        Ok(exit) => exit,
        Err(error) => report(&error, &console),
    };
    access.last_words(&console);
    console.delivered(exit).into()
}

/// A server takes every small exit code for "no such file", that of a panic among them.
fn hand_to_a_server(cli: Cli) -> ExitCode {
    let unknown = ExitCode::from(wal_get::UNKNOWN);
    let console = Console::standard(cli.global.json);
    let answered = std::panic::catch_unwind(|| {
        let access = Access::default();
        start(cli, &console, &access).map_err(|error| report(&error, &console))
    });
    match answered {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(_)) | Err(_) => unknown,
    }
}

/// To a server, what can't be read is nothing that it could know.
fn refuse(words: &clap::Error) -> ExitCode {
    let for_a_server = std::env::args_os().any(|word| word == "wal-get");
    if words.use_stderr() && for_a_server {
        drop(words.print());
        return ExitCode::from(wal_get::UNKNOWN);
    }
    tidemark_cli::refuse(words, "tidemark-restore.error")
}

/// Where a user's programs keep their state.
fn state_home() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let own = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    own.filter(|path| path.is_absolute())
        .map(|path| path.join("tidemark"))
}

fn start(cli: Cli, console: &Console, access: &Access) -> Result<Exit, Error> {
    let environment = Environment {
        region: std::env::var("TIDEMARK_REGION").ok(),
        identity: std::env::var_os("TIDEMARK_IDENTITY").map(Into::into),
        credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into),
        state_directory: tidemark_host::config::state_directory(),
        state_home: state_home(),
        sudo_user: std::env::var("SUDO_USER").ok(),
        patience: Patience::default(),
    };
    let is_daemon = matches!(cli.command, Command::Run);
    log::start(&LogSurroundings::of_process(cli.global.json), !is_daemon)?;
    let tools = commands::system_tools(console.clone(), access.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Io {
            action: "start the runtime",
            source,
        })?;
    let exit = runtime.block_on(async {
        let (stop, now) = commands::stop_on_signal();
        let done = Box::pin(commands::run(cli, &environment, &tools, &stop));
        tokio::select! {
            biased;
            done = done => done,
            () = now.cancelled() => Err(Error::Interrupted),
        }
    });
    // A request that still hangs must not keep a finished command.
    runtime.shutdown_background();
    exit
}
