//! The commands, one module each. A command reads words and config, asks the parts that know, and
//! returns a document and how to exit; it decides nothing that the parts could decide.

mod config;
mod context;
mod doctor;
mod ended;
mod failure;
mod init;
mod manual;
mod names;
mod operate;
mod ownership;
mod run;
mod standing;
mod status;
mod systemd_files;

use std::process::ExitCode;

use tidemark_host::{Exit, codes, output::Console};

use crate::{
    cli::{Cli, Command, Config},
    demo,
};

pub use context::Failure;

/// Runs the command and tells how the process ends.
pub fn execute(cli: &Cli) -> ExitCode {
    let console = Console::standard(cli.global.json);
    let outcome = match &cli.command {
        command if !takes_places(command) && names_places(cli) => Err(Failure::Usage(
            "--region and --identity are for init: other commands use the regions of the config file. \
             tidemark-restore status --region URL looks at any region"
                .to_owned(),
        )),
        Command::Run(args) => run::run(&cli.global, args),
        Command::Init(args) => init::init(&cli.global, args, &console),
        Command::Demo(args) => demo::demo(args, &console),
        Command::Snapshot(args) => operate::snapshot(&cli.global, args, &console),
        Command::Status => status::status(&cli.global, &console),
        Command::Doctor => doctor::doctor(&cli.global, &console),
        Command::Pause { duration, reason } => {
            operate::pause(&cli.global, duration, reason, &console)
        }
        Command::Resume => operate::resume(&cli.global, &console),
        Command::Retire { yes } => operate::retire(&cli.global, *yes, &console),
        Command::TakeOver { yes } => operate::take_over(&cli.global, *yes, &console),
        Command::Config(Config::Check { file }) => {
            config::check(&cli.global, file.as_deref(), &console)
        }
        Command::Config(Config::Show) => config::show(&cli.global, &console),
        Command::Config(Config::Reload) => operate::reload(&cli.global, &console),
        Command::Explain { code } => explain(code.as_deref(), &console),
        Command::Completions { shell } => {
            console.raw(&manual::completions(*shell));
            Ok(Exit::Ok)
        }
        Command::Man { dir } => manual::man(dir),
    };
    let exit = match outcome {
        Ok(exit) => exit,
        Err(failure) => failure::report(&failure, &console),
    };
    console.delivered(exit).into()
}

/// Whether the command reads `--region` and `--identity`.
const fn takes_places(command: &Command) -> bool {
    matches!(command, Command::Init(_))
}

const fn names_places(cli: &Cli) -> bool {
    !cli.global.region.is_empty() || cli.global.identity.is_some()
}

fn explain(code: Option<&str>, console: &Console) -> Result<Exit, Failure> {
    let Some(asked) = code else {
        console.raw(&codes::overview());
        return Ok(Exit::Ok);
    };
    match codes::explain(asked) {
        Some(text) => {
            console.raw(&text);
            Ok(Exit::Ok)
        }
        None => {
            console.complain(&format!(
                "there is no code {asked}; these are all there are:"
            ));
            console.raw(&codes::overview());
            Ok(Exit::Usage)
        }
    }
}
