//! Rows of the results: measures them, prints measured, goal, MET or MISSED, and keeps each answer in
//! `benches/RESULTS.md`. `benches/run` calls it; `tidemark-bench load …` is the application that the
//! rows put beside the agent, a process of its own so that its CPU time is not the agent's.
//!
//! **Failure.** A row that can't be measured is told and counts as missed; the others go on.
#![expect(clippy::print_stdout, reason = "a bench talks to whoever started it")]
#![expect(clippy::disallowed_methods, reason = "a bench measures real time")]

mod data;
mod load;
mod peer;
mod pg;
mod process;
mod proxy;
mod region;
mod report;
mod rows;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

/// Pairs of alternating runs, of which the median counts.
const PAIRS: usize = 5;
/// Bytes of a PostgreSQL cluster, unless another size is asked for: to try a row.
const DATABASE: u64 = 2_600_000_000;

/// What every row gets.
#[derive(Debug)]
struct Setting {
    /// Where databases are made once for all rows.
    data: PathBuf,
    /// Where `tidemark-agent` and `tidemark-restore` are.
    programs: PathBuf,
    /// Pairs of runs.
    pairs: usize,
    /// Bytes of the cluster that PostgreSQL rows are measured on.
    database: u64,
}

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|name| name == "load").is_some() {
        load::application(&arguments.collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let data = tempfile::Builder::new()
        .prefix("tidemark-bench-data-")
        .tempdir()?;
    let mut names = Vec::new();
    let mut setting = Setting {
        data: data.path().to_owned(),
        programs: PathBuf::from("target/release"),
        pairs: PAIRS,
        database: DATABASE,
    };
    while let Some(word) = arguments.next() {
        let mut value = || {
            let value = arguments.next();
            value.with_context(|| format!("{word} needs a value"))
        };
        match word.as_str() {
            "--programs" => setting.programs = std::path::absolute(value()?)?,
            "--data" => setting.data = std::path::absolute(value()?)?,
            "--database" => {
                setting.database = value()?.parse().context("--database takes bytes")?;
            }
            "--pairs" => setting.pairs = value()?.parse().context("--pairs takes a number")?,
            name if rows::NAMES.contains(&name) => names.push(word),
            _ => bail!(
                "no row and no option is called {word}; rows: {}",
                rows::NAMES.join(" ")
            ),
        }
    }
    ensure!(setting.pairs > 0, "--pairs takes a number above 0");
    ensure!(
        !names.is_empty(),
        "usage: tidemark-bench NAME… --programs DIR [--pairs N] [--data DIR] [--database BYTES]"
    );
    let mut missed = 0;
    for name in &names {
        if !measured_and_met(name, &setting)? {
            missed += 1;
        }
    }
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Measures a row, tells and keeps its answer.
fn measured_and_met(name: &str, setting: &Setting) -> Result<bool> {
    let started = Instant::now();
    let row = match rows::measure(name, setting) {
        Ok(row) => row,
        Err(error) => {
            println!("{name}: not measured: {error:#}\n");
            return Ok(false);
        }
    };
    println!("{row}  took {:.0} s\n", started.elapsed().as_secs_f64());
    row.keep()?;
    Ok(row.is_met())
}
