//! `tidemark-agent`: see `tidemark_agent::cli` for the commands.

use std::process::ExitCode;

use clap::Parser;
use tidemark_agent::{cli::Cli, commands};

fn main() -> ExitCode {
    commands::execute(&Cli::parse())
}
