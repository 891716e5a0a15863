//! One row of the results: measures it, prints measured, goal, MET or MISSED, and keeps the answer in
//! `benches/RESULTS.md`. `benches/run` calls it; `tidemark-bench load …` is the application that the
//! rows put beside the agent, a process of its own so that its CPU time is not the agent's.
#![expect(clippy::print_stdout, reason = "a bench talks to whoever started it")]
#![expect(clippy::disallowed_methods, reason = "a bench measures real time")]

mod data;
mod load;
mod peer;
mod process;
mod proxy;
mod region;
mod report;
mod rows;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

/// Pairs of alternating runs, of which the median counts.
const PAIRS: usize = 5;

/// What every row gets.
#[derive(Debug)]
struct Setting {
    /// Where `tidemark-agent` and `tidemark-restore` are.
    programs: PathBuf,
    /// Pairs of runs.
    pairs: usize,
}

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments
        .next()
        .context("usage: tidemark-bench NAME --programs DIR [--pairs N]")?;
    if name == "load" {
        load::application(&arguments.collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut setting = Setting {
        programs: PathBuf::from("target/release"),
        pairs: PAIRS,
    };
    while let Some(option) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--programs" => setting.programs = std::path::absolute(value)?,
            "--pairs" => setting.pairs = value.parse().context("--pairs takes a number")?,
            _ => bail!("unknown option {option}"),
        }
    }
    let row = rows::measure(&name, &setting)?;
    println!("{row}");
    row.keep()?;
    Ok(if row.is_met() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
