//! Real PostgreSQL servers for tests, 14 to 18: each test its own cluster, on a private Unix socket.
//!
//! `tests/install-postgres` installs them. Without it a test prints `SKIPPED: …` and passes, unless
//! `TIDEMARK_REQUIRE_SERVERS=1` says that a missing server is a failure (as `tests/run` does).
//!
//! A server refuses to run as root: as root everything runs as an unprivileged user ([`Owner`]).
//!
//! **Cancellation:** a cluster dies, and its folder goes, with the process that started it, however
//! that ends: a shell around it waits for the end of a pipe that only the test process holds.

mod cluster;
mod owner;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

pub use cluster::{Cluster, Frozen, Options, Stop};
pub use owner::Owner;

/// The majors that are supported, oldest first.
pub const MAJORS: [u16; 5] = [14, 15, 16, 17, 18];

/// An installed major version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgres {
    major: u16,
    bin: PathBuf,
}

impl Postgres {
    fn find(major: u16) -> Result<Self> {
        let tools = std::env::var_os("TIDEMARK_TOOLS")
            .map(PathBuf::from)
            .or_else(|| {
                std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/tidemark-tools"))
            });
        let bin = tools
            .context("neither TIDEMARK_TOOLS nor HOME is set")?
            .join("postgres")
            .join(major.to_string())
            .join("bin");
        ensure!(
            bin.join("postgres").is_file(),
            "no PostgreSQL {major} at {}: run tests/install-postgres",
            bin.display()
        );
        // The user that runs it can't pass through root's home.
        let bin = bin.canonicalize()?;
        Ok(Self { major, bin })
    }

    /// An installed server of this major; `None`, and loudly, if there is none.
    ///
    /// # Panics
    /// If it isn't installed and `TIDEMARK_REQUIRE_SERVERS=1`.
    #[must_use]
    pub fn of(major: u16) -> Option<Self> {
        match Self::find(major) {
            Ok(found) => Some(found),
            Err(why) if std::env::var_os("TIDEMARK_REQUIRE_SERVERS").is_some() => {
                panic!("{why:#}")
            }
            Err(why) => {
                crate::say_skipped(&format!("{why:#}"));
                None
            }
        }
    }

    /// Every supported major that is installed.
    ///
    /// # Panics
    /// If one isn't and `TIDEMARK_REQUIRE_SERVERS=1`.
    #[must_use]
    pub fn all() -> Vec<Self> {
        MAJORS.into_iter().filter_map(Self::of).collect()
    }

    /// As in `PostgreSQL 17`.
    #[must_use]
    pub const fn major(&self) -> u16 {
        self.major
    }

    /// Where its programs are.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// One of its programs, to be run as the clusters' owner, in a clean environment.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Owner::get().command(self.bin.join(program.as_ref()));
        command.env_clear().env("PATH", "/usr/bin:/bin");
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        // Servers from wheels load their own libraries; the system's may be of another major.
        let libraries = self.bin.with_file_name("lib");
        if libraries.join("libpq.so.5").exists() {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.current_dir("/");
        command
    }
}
