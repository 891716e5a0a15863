//! A server on what was restored, in memory: the disk is no part of what is compared.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tidemark_testkit::postgres::{Owner, Postgres};

use crate::process;
use crate::region::WAIT_MAX;

/// A file system in memory.
const MEMORY: &str = "/dev/shm";
const POLL: Duration = Duration::from_millis(20);

/// Fills as much memory as will be needed, and gives it back: on a virtual machine the first touch of
/// what was free costs seconds, and whoever came second would not pay them.
fn touch(folder: &Path, bytes: u64) -> Result<()> {
    let file = folder.join("touched");
    let zeros = vec![0; 1 << 20];
    let mut touched = File::create(&file)?;
    for _ in 0..bytes >> 20 {
        touched.write_all(&zeros)?;
    }
    drop(touched);
    Ok(std::fs::remove_file(file)?)
}

/// The same for a process that makes its own file system in memory.
pub(crate) fn touch_memory(bytes: u64) -> Result<()> {
    touch(in_memory(bytes)?.path(), bytes)
}

/// A folder in memory for one restored data directory. The server in it ends with the value.
#[derive(Debug)]
pub(crate) struct Restored {
    postgres: Postgres,
    folder: tempfile::TempDir,
}

impl Restored {
    /// Makes the folder, and the empty data directory in it; `bytes` must fit in memory.
    pub(crate) fn new(postgres: &Postgres, bytes: u64) -> Result<Self> {
        let folder = in_memory(bytes)?;
        touch(folder.path(), bytes)?;
        let restored = Self {
            postgres: postgres.clone(),
            folder,
        };
        let mut make = Owner::get().command("mkdir");
        process::run(make.arg("-m0700").arg(restored.data()))?;
        Ok(restored)
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts the server, and waits until it has taken a write.
    pub(crate) fn start_until_writable(&self) -> Result<()> {
        // The source's archive is none of its business.
        let options = format!(
            "-c archive_mode=off -c unix_socket_directories={}",
            self.folder.path().display()
        );
        let log = self.folder.path().join("log");
        let status = self
            .control("start")
            .args(["--wait", "--timeout=300", "--options", &options, "--log"])
            .arg(&log)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        ensure!(
            status.success(),
            "the restored server did not start:\n{}",
            said()
        );
        let started = Instant::now();
        // It answers before recovery has ended.
        while self.sql("SELECT pg_is_in_recovery()")? != "f" {
            if started.elapsed() > WAIT_MAX {
                bail!("the restored server takes no writes:\n{}", said());
            }
            std::thread::sleep(POLL);
        }
        self.sql("CREATE TABLE written (id int)").map(drop)
    }

    /// Runs a statement: its rows.
    pub(crate) fn sql(&self, sql: &str) -> Result<String> {
        let mut command = self.postgres.command("psql");
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
        command.args(["--username=postgres", "--dbname=postgres", "--host"]);
        command.arg(self.folder.path());
        let rows = process::run(command.args(["--command", sql]))?;
        Ok(rows.trim().to_owned())
    }

    fn control(&self, what: &str) -> Command {
        let mut command = self.postgres.command("pg_ctl");
        command.args([what, "--silent", "--pgdata"]);
        command.arg(self.data()).stdin(Stdio::null());
        command
    }
}

/// A folder in memory for `bytes`, of the servers' user.
pub(crate) fn in_memory(bytes: u64) -> Result<tempfile::TempDir> {
    let free = rustix::fs::statvfs(MEMORY).context(MEMORY)?;
    ensure!(
        free.f_bavail.saturating_mul(free.f_frsize) > bytes,
        "{MEMORY} has no room for {bytes} bytes: mount a larger tmpfs there"
    );
    let folder = tempfile::Builder::new()
        .prefix("tidemark-bench-")
        .tempdir_in(MEMORY)?;
    Owner::get().own(folder.path())?;
    Ok(folder)
}

impl Drop for Restored {
    fn drop(&mut self) {
        let mut stop = self.control("stop");
        stop.args(["--mode=immediate"]);
        // It fails when none runs, which is as well.
        drop(stop.stdout(Stdio::null()).stderr(Stdio::null()).status());
    }
}
