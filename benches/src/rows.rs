//! The rows, by the names that `benches/run` takes.

mod bytes;
mod catch_up;
mod commit_latency;
mod exposure;
mod first_base;
mod idle_sources;
mod loss;
mod memory;
mod pg_cost;
mod pg_drill;
mod pg_exposure;
mod pg_first_base;
mod pg_log;
mod pg_memory;
mod pg_projection;
mod pg_restore;
mod pg_second_base;
mod pg_sync_commit;
mod requests_cpu;
mod restore;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use crate::load::Commit;
use crate::report::Row;
use crate::{Setting, data};

/// In the order of the results.
pub(crate) const NAMES: &[&str] = &[
    "exposure-p99",
    "commit-latency",
    "loss",
    "bytes",
    "requests-cpu",
    "first-base",
    "restore",
    "memory",
    "catch-up",
    "idle-sources",
    "pg-log",
    "pg-exposure",
    "pg-sync-commit",
    "pg-cost",
    "pg-first-base",
    "pg-second-base",
    "pg-restore",
    "pg-memory",
    "pg-drill",
    "pg-projection",
];

/// The size of the database that a small application has.
const SMALL: u64 = 86 << 20;
/// The size of a large one.
const LARGE: u64 = 1 << 30;
/// The part of its transactions that an application must have made for its run to count.
const KEPT_UP: f64 = 0.95;
/// What is set so that both sides do the same: Litestream ships every second, at a comparable level
/// of compression. Encryption is always on.
const LIKE_THE_PEER: &[(&str, &str)] = &[("ship_every", "\"1s\""), ("compression", "3")];
/// As pgBackRest is set in the rows that run it beside: two workers, the same compression.
const LIKE_PGBACKREST: &[(&str, &str)] = &[
    ("ship_every", "\"1s\""),
    ("compression", "3"),
    ("threads", "2"),
];

/// Measures a row.
pub(crate) fn measure(name: &str, setting: &Setting) -> Result<Row> {
    match name {
        "exposure-p99" => exposure::measure(setting),
        "commit-latency" => commit_latency::measure(setting),
        "loss" => loss::measure(setting),
        "bytes" => bytes::measure(setting),
        "requests-cpu" => requests_cpu::measure(setting),
        "first-base" => first_base::measure(setting),
        "restore" => restore::measure(setting),
        "memory" => memory::measure(setting),
        "catch-up" => catch_up::measure(setting),
        "idle-sources" => idle_sources::measure(setting),
        "pg-log" => pg_log::measure(setting),
        "pg-exposure" => pg_exposure::measure(setting),
        "pg-sync-commit" => pg_sync_commit::measure(setting),
        "pg-cost" => pg_cost::measure(setting),
        "pg-first-base" => pg_first_base::measure(setting),
        "pg-second-base" => pg_second_base::measure(setting),
        "pg-restore" => pg_restore::measure(setting),
        "pg-memory" => pg_memory::measure(setting),
        "pg-drill" => pg_drill::measure(setting),
        "pg-projection" => pg_projection::measure(setting),
        _ => bail!("no row is called {name}; rows: {}", NAMES.join(" ")),
    }
}

/// Databases, made once for all rows and copied for each run, and the folder that a row happens in.
#[derive(Debug)]
struct Originals {
    data: PathBuf,
    folder: tempfile::TempDir,
}

impl Originals {
    /// Makes the folder that everything of a row happens in.
    fn new(setting: &Setting) -> Result<Self> {
        Ok(Self {
            data: setting.data.clone(),
            folder: tempfile::Builder::new()
                .prefix("tidemark-bench-")
                .tempdir()?,
        })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A fresh folder for one run, with a copy of the database of this size in it, on the disk: what
    /// is measured doesn't share the disk with what was prepared.
    fn run(&self, name: &str, bytes: u64, page_size: u32) -> Result<Run> {
        let original = self.data.join(format!("{bytes}-{page_size}.db"));
        if !original.exists() {
            data::make(&original, bytes, page_size)?;
        }
        let home = self.path().join(name);
        std::fs::create_dir_all(&home)?;
        let database = home.join("app.db");
        std::fs::copy(&original, &database)?;
        std::fs::File::open(&database)?.sync_all()?;
        Ok(Run { home, database })
    }
}

/// Fails if the application did not keep its rate: what was measured then is another load.
fn must_have_kept_up(commits: &[Commit], rate: u32, seconds: f64) -> Result<()> {
    let wanted = f64::from(rate) * seconds;
    ensure!(
        commits.len() as f64 >= KEPT_UP * wanted,
        "the application made {} transactions where {wanted:.0} were wanted: is the machine busy?",
        commits.len()
    );
    Ok(())
}

/// One run's folder; removed with everything in it when the run is over.
#[derive(Debug)]
struct Run {
    home: PathBuf,
    database: PathBuf,
}

impl Drop for Run {
    fn drop(&mut self) {
        // What is left goes with the row's folder.
        drop(std::fs::remove_dir_all(&self.home));
    }
}
