//! `tidemark-restore`: reads the command line and the environment, and hands everything else on.

use std::process::ExitCode;

use tidemark_host::Exit;
use tidemark_host::log::{self, LogSurroundings};
use tidemark_host::output::Console;
use tidemark_restore_tool::cli::{Cli, HIDDEN};
use tidemark_restore_tool::error::Error;
use tidemark_restore_tool::repository::Environment;
use tidemark_restore_tool::{commands, report};

fn main() -> ExitCode {
    let cli: Cli = match tidemark_cli::parse(HIDDEN) {
        Ok(cli) => cli,
        Err(words) => return tidemark_cli::refuse(&words, "tidemark-restore.error"),
    };
    let console = Console::standard(cli.global.json);
    let exit = match start(cli, &console) {
        Ok(exit) => exit,
        Err(error) => report(&error, &console),
    };
    console.delivered(exit).into()
}

fn start(cli: Cli, console: &Console) -> Result<Exit, Error> {
    let environment = Environment {
        region: std::env::var("TIDEMARK_REGION").ok(),
        identity: std::env::var_os("TIDEMARK_IDENTITY").map(Into::into),
        credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into),
    };
    log::start(&LogSurroundings::of_process(cli.global.json), true)?;
    let tools = commands::system_tools(console.clone())?;
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
