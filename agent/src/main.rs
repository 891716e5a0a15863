//! `tidemark-agent`: see `tidemark_agent::cli` for the commands.

use std::process::ExitCode;

use tidemark_agent::{
    cli::{Cli, HIDDEN},
    commands,
};

fn main() -> ExitCode {
    match tidemark_cli::parse::<Cli>(HIDDEN) {
        Ok(cli) => commands::execute(&cli),
        Err(words) => tidemark_cli::refuse(&words, "tidemark-agent.error"),
    }
}
