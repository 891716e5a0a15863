//! The rows, by the names that `benches/run` takes.

mod bytes;
mod catch_up;
mod commit_latency;
mod exposure;
mod first_base;
mod idle_sources;
mod loss;
mod memory;
mod requests_cpu;
mod restore;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

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
];

/// The size of the database that a small application has.
const SMALL: u64 = 86 << 20;
/// The size of a large one.
const LARGE: u64 = 1 << 30;
/// What is set so that both sides do the same: Litestream ships every second, at a comparable level
/// of compression. Encryption is always on.
const LIKE_THE_PEER: &[(&str, &str)] = &[("ship_every", "\"1s\""), ("compression", "3")];

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
        _ => bail!("no row is called {name}; rows: {}", NAMES.join(" ")),
    }
}

/// Databases of one row: made once, copied for each run.
#[derive(Debug)]
struct Originals {
    folder: tempfile::TempDir,
}

impl Originals {
    /// Makes the folder that everything of a row happens in.
    fn new() -> Result<Self> {
        Ok(Self {
            folder: tempfile::Builder::new()
                .prefix("tidemark-bench-")
                .tempdir()?,
        })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A fresh folder for one run, with a copy of the database of this size in it.
    fn run(&self, name: &str, bytes: u64, page_size: u32) -> Result<Run> {
        let original = self.path().join(format!("{bytes}-{page_size}.db"));
        if !original.exists() {
            data::make(&original, bytes, page_size)?;
        }
        let home = self.path().join(name);
        std::fs::create_dir_all(&home)?;
        let database = home.join("app.db");
        std::fs::copy(&original, &database)?;
        Ok(Run { home, database })
    }
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
