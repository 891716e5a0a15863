//! `tidemark-agent`: see `tidemark_agent::cli` for the commands.

use std::process::ExitCode;

use clap::Parser;
use tidemark_agent::{cli::Cli, commands};
use tidemark_host::{Exit, codes, output::Console};

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => commands::execute(&cli),
        Err(words) => refuse(&words),
    }
}

/// Help and version are answers; anything else is an error, which a script wants as it wants all.
fn refuse(words: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|word| word == "--json");
    if !words.use_stderr() || !json {
        words.exit()
    }
    let text = words.to_string();
    let console = Console::standard(true);
    console.refuse("tidemark-agent.error", codes::USAGE, text.trim());
    Exit::Usage.into()
}
