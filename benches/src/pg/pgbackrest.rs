//! The peer of bases and restores: pgBackRest as the distribution ships it (`benches/run` installs it), set
//! as Tidemark is in these rows: zstd at level 3, encrypted, two workers. Beyond that it has what its
//! guide recommends: small files bundled, log pushed and fetched ahead in the background.
//!
//! It runs as the servers' user, with its folder beside the run's. It speaks S3 over TLS alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tidemark_testkit::postgres::{Cluster, Owner};

use crate::process::{self, Running, Usage};
use crate::region::{Region, Secure};

/// Where the distribution puts it.
const PROGRAM: &str = "/usr/bin/pgbackrest";
const STANZA: &str = "bench";
/// What a row shares with Tidemark's setting, and what the guide recommends.
const SETTING: &[&str] = &[
    "compress-type=zst",
    "compress-level=3",
    "process-max=2",
    "start-fast=y",
    "repo1-cipher-type=aes-256-cbc",
    "repo1-cipher-pass=a-pass-phrase-of-the-bench",
    "repo1-bundle=y",
    "archive-async=y",
    // Nothing is deleted in a run.
    "repo1-retention-full=1000",
    "expire-auto=n",
    "log-level-console=warn",
    "log-level-file=off",
];

/// What the server needs for it beside its own settings; until it is prepared the log goes nowhere.
pub(crate) const ARCHIVING: &[(&str, &str)] =
    &[("archive_mode", "on"), ("archive_command", "true")];

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backup {
    /// Everything.
    Full,
    /// Files that changed since the last one.
    Incremental,
}

/// A configured pgBackRest with a repository of its own for one server.
#[derive(Debug)]
pub(crate) struct PgBackRest {
    folder: tempfile::TempDir,
}

impl PgBackRest {
    /// Makes a repository in `bucket`, or else in a folder of its own, and lets the server, which must
    /// have `archive_mode` on, archive into it.
    pub(crate) fn prepare(cluster: &Cluster, bucket: Option<&Region>) -> Result<Self> {
        ensure!(
            Path::new(PROGRAM).exists(),
            "pgBackRest is missing: apt-get install pgbackrest"
        );
        let folder = tempfile::Builder::new()
            .prefix("tidemark-bench-pgbackrest-")
            .tempdir()?;
        let peer = Self { folder };
        for name in ["", "repository", "log", "lock", "spool"] {
            let path = peer.path().join(name);
            std::fs::create_dir_all(&path)?;
            Owner::get().own(&path)?;
        }
        std::fs::write(peer.config(), peer.configuration(cluster, bucket)?)?;
        process::run(peer.command().arg("stanza-create"))?;
        let push = format!(
            "{PROGRAM} --config={} --stanza={STANZA} archive-push %p",
            peer.config().display()
        );
        archive(cluster, &push)?;
        peer.catch_up()?;
        Ok(peer)
    }

    fn configuration(&self, cluster: &Cluster, bucket: Option<&Region>) -> Result<String> {
        let mut lines = vec!["[global]".to_owned()];
        let repository = Region::Folder(self.path().join("repository"));
        lines.extend(bucket.unwrap_or(&repository).repository()?);
        if let Some(Region::Bucket {
            secure: Secure { authority, .. },
            ..
        }) = bucket
        {
            // A copy that its user may read.
            let copy = self.path().join("ca.pem");
            std::fs::copy(authority, &copy)?;
            Owner::get().own(&copy)?;
            lines.push(format!("repo1-storage-ca-file={}", copy.display()));
        }
        lines.extend(SETTING.iter().map(|line| (*line).to_owned()));
        for name in ["log", "lock", "spool"] {
            lines.push(format!("{name}-path={}", self.path().join(name).display()));
        }
        lines.push(format!("[{STANZA}]"));
        lines.push(format!("pg1-path={}", cluster.data_dir().display()));
        lines.push(format!(
            "pg1-socket-path={}",
            cluster.socket_dir().display()
        ));
        lines.push(format!("pg1-port={}", cluster.port()));
        lines.push("pg1-user=postgres".to_owned());
        Ok(lines.join("\n") + "\n")
    }

    /// Makes a backup, and waits until the log that it needs is in the repository.
    pub(crate) fn backup(&self, kind: Backup) -> Result<Usage> {
        let mut command = self.command();
        command.arg("backup").arg(match kind {
            Backup::Full => "--type=full",
            Backup::Incremental => "--type=incr",
        });
        Running::start(&mut command, &self.path().join("backup.log"))?.finish()
    }

    /// Waits until all log so far is in the repository.
    pub(crate) fn catch_up(&self) -> Result<()> {
        let check = process::run(self.command().arg("check"));
        check.map(drop).context("pgBackRest's own check")
    }

    /// Bytes of the newest backup in the repository's folder, without the log.
    pub(crate) fn newest_backup_bytes(&self) -> Result<u64> {
        let backups = self.path().join("repository/backup").join(STANZA);
        let mut labels = Vec::new();
        for entry in std::fs::read_dir(&backups)? {
            let entry = entry?;
            // A link names the newest one, too.
            let is_backup = entry.path().join("backup.manifest").exists();
            if entry.file_type()?.is_dir() && is_backup {
                labels.push(entry.path());
            }
        }
        labels.sort();
        let newest = labels.pop().context("there is no backup")?;
        Ok(Region::Folder(newest).held()?.1)
    }

    /// Restores the files to `target`, an empty folder; the log comes when a server is started on them.
    pub(crate) fn restore(&self, target: &Path) -> Result<Usage> {
        let mut command = self.command();
        command.arg("restore");
        command.arg(format!("--pg1-path={}", target.display()));
        Running::start(&mut command, &self.path().join("restore.log"))?.finish()
    }

    /// Lets the server archive nowhere again.
    pub(crate) fn detach(self, cluster: &Cluster) -> Result<()> {
        archive(cluster, "true")
    }

    fn command(&self) -> Command {
        let mut command = Owner::get().command(PROGRAM);
        command.env_clear().env("PATH", "/usr/bin:/bin");
        command.current_dir("/");
        command.arg(format!("--config={}", self.config().display()));
        command.arg(format!("--stanza={STANZA}"));
        command
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn config(&self) -> PathBuf {
        self.path().join("pgbackrest.conf")
    }
}

/// Has the server hand each segment of its log to `command`.
fn archive(cluster: &Cluster, command: &str) -> Result<()> {
    cluster.try_sql(&format!(
        "ALTER SYSTEM SET archive_command = '{command}'; SELECT pg_reload_conf()"
    ))?;
    Ok(())
}
