//! The peer of capture: pg_receivewal, and zstd over the files that it wrote.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tidemark_format::postgres::Lsn;
use tidemark_testkit::postgres::{Cluster, Owner};

use crate::process::{Running, Usage};
use crate::region::WAIT_MAX;

const POLL: std::time::Duration = std::time::Duration::from_millis(20);
/// What it calls itself on the server.
const NAME: &str = "pg_receivewal";
/// What it is writing at.
pub(crate) const PARTIAL: &str = "partial";

/// A running pg_receivewal with the folder that it writes to.
#[derive(Debug)]
pub(crate) struct ReceiveWal {
    process: Running,
    folder: PathBuf,
}

impl ReceiveWal {
    /// Starts it from where the server's log ends, or from its slot; returns when it streams.
    pub(crate) fn start(cluster: &Cluster, slot: Option<&str>) -> Result<Self> {
        let folder = cluster.socket_dir().join("receivewal");
        std::fs::create_dir_all(&folder)?;
        Owner::get().own(&folder)?;
        let mut command = cluster.command("pg_receivewal");
        command.arg("--directory").arg(&folder);
        command.arg("--status-interval=1");
        if let Some(slot) = slot {
            command.args(["--slot", slot]);
        }
        let log = cluster.socket_dir().join("receivewal.log");
        let mut started = Self {
            process: Running::start(&mut command, &log)?,
            folder,
        };
        started.wait(cluster, None)?;
        Ok(started)
    }

    /// Waits until it has everything that the server has now.
    pub(crate) fn wait_for_all(&mut self, cluster: &Cluster) -> Result<()> {
        let end = cluster.try_sql("SELECT pg_current_wal_flush_lsn()")?;
        self.wait(cluster, Some(end.parse()?))
    }

    fn wait(&mut self, cluster: &Cluster, end: Option<Lsn>) -> Result<()> {
        let sql = format!(
            "SELECT write_lsn FROM pg_stat_replication WHERE application_name = '{NAME}' AND state = 'streaming'"
        );
        let started = Instant::now();
        loop {
            let written = cluster.try_sql(&sql)?;
            if end.is_none() && !written.is_empty() {
                return Ok(());
            }
            if end.is_some_and(|end| written.parse::<Lsn>().is_ok_and(|written| written >= end)) {
                return Ok(());
            }
            self.process.must_run()?;
            ensure!(started.elapsed() < WAIT_MAX, "{NAME} doesn't follow");
            std::thread::sleep(POLL);
        }
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        self.process.usage()
    }

    /// Where it writes.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends it; what it wrote stays.
    pub(crate) fn stop(self) -> Result<()> {
        self.process.stop()
    }
}

/// Compresses the whole segments in the folder, one process each as they would be while they come:
/// CPU seconds and bytes of log.
pub(crate) fn compress(folder: &Path, level: &str, log: &Path) -> Result<(f64, u64)> {
    let (mut seconds, mut bytes) = (0.0, 0);
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == PARTIAL) {
            continue;
        }
        bytes += std::fs::metadata(&path)?.len();
        let mut zstd = Command::new("zstd");
        zstd.arg(format!("-{level}"))
            .args(["--quiet", "--single-thread"]);
        seconds += Running::start(zstd.arg(&path), log)?.finish()?.cpu_seconds;
    }
    ensure!(bytes > 0, "{NAME} finished no segment");
    Ok((seconds, bytes))
}

/// Bytes of log between two positions that the server told.
pub(crate) fn bytes_between(from: &str, to: &str) -> Result<u64> {
    let (from, to): (Lsn, Lsn) = (from.parse()?, to.parse()?);
    to.0.checked_sub(from.0).context("the log went back")
}
