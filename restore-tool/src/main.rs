//! `tidemark-restore`: reads the command line and the environment, and hands everything else on.

use std::process::ExitCode;

use clap::Parser as _;
use tidemark_host::Exit;
use tidemark_host::log::{self, LogSurroundings};
use tidemark_host::output::Console;
use tidemark_restore_tool::cli::Cli;
use tidemark_restore_tool::error::Error;
use tidemark_restore_tool::repository::Environment;
use tidemark_restore_tool::{commands, report};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let console = Console::standard(cli.global.json);
    match start(cli) {
        Ok(exit) => exit.into(),
        Err(error) => report(&error, &console).into(),
    }
}

fn start(cli: Cli) -> Result<Exit, Error> {
    let environment = Environment {
        region: std::env::var("TIDEMARK_REGION").ok(),
        identity: std::env::var_os("TIDEMARK_IDENTITY").map(Into::into),
        credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(Into::into),
    };
    log::start(&LogSurroundings::of_process(cli.global.json), true)?;
    let tools = commands::system_tools(cli.global.json)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Io {
            action: "start the runtime",
            source,
        })?;
    let exit = runtime.block_on(async {
        let stop = commands::stop_on_signal();
        Box::pin(commands::run(cli, &environment, &tools, &stop)).await
    });
    // A request that still hangs must not keep a finished command.
    runtime.shutdown_background();
    exit
}
