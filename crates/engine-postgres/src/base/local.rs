//! A base read from the data directory itself, between the start and the stop of a backup in one
//! session: several times as fast as the server's own base backup, which one process sends.
//!
//! It is taken only if the directory can be read and is certainly the server's own: the control file
//! names its system, and `postmaster.pid` its port and start. Otherwise the reason is told and the base
//! comes over the network. The session is the backup: if it goes, the base fails.

use std::path::PathBuf;
use std::time::Duration;

use tidemark_format::postgres::Lsn;
use tidemark_format::postgres::layout::BranchPosition;
use tokio::task::JoinHandle;

use super::error::BaseError;
use super::outside::Outside;
use super::server::{self, Server};
use super::take::{
    EARLY_TRIES_MAX, EARLY_WAIT, Finished, SILENCE_MAX, Taking, Work, contents, start_max,
};
use super::walk::{Walk, control_system};
use crate::wire::{Connection, Mode, quote_literal};

/// How far the server's two notes of its start may lie apart.
const START_APART_MAX: Duration = Duration::from_secs(120);
/// `pg_default` and `pg_global`.
const OWN_SPACES: [u32; 2] = [1663, 1664];
/// How often the session is asked whether it lives while files are read.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How long the questions may take.
const ASK_MAX: Duration = Duration::from_secs(60);

/// A session with a server whose data directory can be read.
pub(super) struct Session {
    connection: Connection,
    server: Server,
    root: PathBuf,
}

impl Session {
    /// Opens one, or says why the data directory is not for reading.
    pub(super) async fn open(work: &Work) -> Result<Self, String> {
        let opened = tokio::time::timeout(ASK_MAX, Box::pin(Self::ask(work))).await;
        opened.unwrap_or_else(|_elapsed| Err("the server takes too long to answer".to_owned()))
    }

    async fn ask(work: &Work) -> Result<Self, String> {
        let opened = Connection::open(&work.settings.info, Mode::Database).await;
        let mut connection = opened.map_err(|error| error.to_string())?;
        let server = server::ask(&mut connection).await;
        let server = server.map_err(|error| error.to_string())?;
        let function = if server.major < 15 {
            "pg_start_backup(text, boolean, boolean)"
        } else {
            "pg_backup_start(text, boolean)"
        };
        let sql = format!(
            "SELECT (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS root, \
             (SELECT setting FROM pg_settings WHERE name = 'port') AS port, \
             extract(epoch FROM pg_postmaster_start_time())::bigint AS started, \
             has_function_privilege({}, 'EXECUTE') AS may",
            quote_literal(function)
        );
        let set = connection.query_one(&sql).await;
        let set = set.map_err(|error| error.to_string())?;
        if set.value("may") != Some("t") {
            return Err(format!("this role may not EXECUTE {function}"));
        }
        let root = set.value("root").filter(|root| !root.is_empty());
        let root =
            root.ok_or("this role may not see data_directory (GRANT pg_read_all_settings)")?;
        let root = PathBuf::from(root);
        let port = set.value("port").unwrap_or_default();
        let started = set
            .value("started")
            .and_then(|started| started.parse().ok());
        same_server(&root, server.system, port, started.unwrap_or_default())?;
        Ok(Self {
            connection,
            server,
            root,
        })
    }

    /// Starts a backup: where replay begins.
    async fn start(&mut self, work: &Work) -> Result<Lsn, BaseError> {
        let (label, fast) = (
            quote_literal(&work.settings.label),
            work.settings.fast_checkpoint,
        );
        let sql = if self.server.major < 15 {
            format!("SELECT pg_start_backup({label}, {fast}, false) AS at")
        } else {
            format!("SELECT pg_backup_start({label}, {fast}) AS at")
        };
        self.position(&sql, start_max(fast)).await.map(|(at, _)| at)
    }

    /// Waits for `work` as long as the session lives: without it the backup is none.
    async fn kept_until<T>(&mut self, work: JoinHandle<T>) -> Result<T, BaseError> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done.map_err(|_panicked| BaseError::Stopped),
                () = tokio::time::sleep(ASK_EVERY) => {
                    let asked = self.connection.query_one("SELECT 1");
                    let answered = tokio::time::timeout(SILENCE_MAX, asked).await;
                    drop(answered.map_err(|_elapsed| silent(SILENCE_MAX))??);
                }
            }
        }
    }

    /// Stops it: where it is consistent, the label, the map of tablespaces.
    async fn stop(&mut self) -> Result<(Lsn, String, String), BaseError> {
        let sql = if self.server.major < 15 {
            "SELECT lsn AS at, labelfile AS label, spcmapfile AS map FROM pg_stop_backup(false, false)"
        } else {
            "SELECT lsn AS at, labelfile AS label, spcmapfile AS map FROM pg_backup_stop(false)"
        };
        let (at, set) = self.position(sql, SILENCE_MAX).await?;
        let text = |name| set.value(name).unwrap_or_default().to_owned();
        Ok((at, text("label"), text("map")))
    }

    async fn position(
        &mut self,
        sql: &str,
        wait: Duration,
    ) -> Result<(Lsn, crate::wire::ResultSet), BaseError> {
        let asked = tokio::time::timeout(wait, self.connection.query_one(sql)).await;
        let set = asked.map_err(|_elapsed| silent(wait))??;
        let at = set.value("at").and_then(|at| at.parse().ok());
        Ok((at.ok_or_else(|| contents("no position came"))?, set))
    }

    /// Tablespaces and the folders in them that are this server's: number, location.
    async fn spaces(&mut self) -> Result<(Vec<(u32, String)>, String), BaseError> {
        let sql = "SELECT oid, pg_tablespace_location(oid), \
                   (SELECT catalog_version_no FROM pg_control_system()) \
                   FROM pg_tablespace ORDER BY oid";
        let set = self.connection.query_one(sql).await?;
        let mut spaces = Vec::new();
        let mut version = String::new();
        for row in &set.rows {
            version = format!(
                "PG_{}_{}",
                self.server.major,
                row.text(2).unwrap_or_default()
            );
            let oid = row.text(0).and_then(|oid| oid.parse().ok());
            let location = row.text(1).unwrap_or_default();
            // The two of every server have no place of their own.
            if let Some(oid) = oid.filter(|oid| !OWN_SPACES.contains(oid)) {
                spaces.push((oid, location.to_owned()));
            }
        }
        Ok((spaces, version))
    }

    /// Roughly how large the cluster is, if the role may know.
    async fn size(&mut self) -> u64 {
        let sql = "SELECT sum(pg_tablespace_size(oid))::bigint AS bytes FROM pg_tablespace";
        let set = self.connection.query_one(sql).await.ok();
        let bytes = set.and_then(|set| set.value("bytes")?.parse().ok());
        bytes.unwrap_or(0)
    }
}

const fn silent(wait: Duration) -> BaseError {
    BaseError::Silent {
        seconds: wait.as_secs(),
    }
}

/// Whether the folder is the one that this very server runs in.
fn same_server(
    root: &std::path::Path,
    system: u64,
    port: &str,
    started: u64,
) -> Result<(), String> {
    let shown = root.display();
    let control = std::fs::read(root.join("global/pg_control"));
    let control = control.map_err(|error| format!("{shown} can't be read: {error}"))?;
    if control_system(&control) != Some(system) {
        return Err(format!("{shown} on this machine is another server's"));
    }
    let pid = std::fs::read_to_string(root.join("postmaster.pid"));
    let pid = pid.map_err(|error| format!("{shown}/postmaster.pid can't be read: {error}"))?;
    let lines: Vec<&str> = pid.lines().map(str::trim).collect();
    let since: Option<u64> = lines.get(2).and_then(|line| line.parse().ok());
    let near = since.is_some_and(|since| since.abs_diff(started) <= START_APART_MAX.as_secs());
    if lines.get(3) == Some(&port) && near {
        return Ok(());
    }
    Err(format!(
        "{shown} on this machine belongs to another server's process"
    ))
}

/// Takes the base.
pub(super) async fn take(
    mut session: Session,
    work: Work,
    outside: Outside,
) -> Result<Finished, BaseError> {
    session = begin(session, &work).await?;
    let (spaces, version) = session.spaces().await?;
    let size = session.size().await;
    work.shared.lock().total = size;
    let root = session.root.clone();
    let mut folders = Vec::new();
    let mut taking = Taking::new(work, session.server.clone(), &[])?;
    for (oid, location) in spaces {
        taking.listing.tablespace(oid, &location)?;
        let place = root.join(format!("pg_tblspc/{oid}")).join(&version);
        folders.push((format!("pg_tblspc/{oid}/{version}"), place));
    }
    let mut walk = Walk {
        builder: taking.builder,
        listing: taking.listing,
        runs: taking.runs.clone(),
        wake: taking.settings.wake.clone(),
        shared: taking.shared.clone(),
        root,
        readers: taking.settings.readers,
        pace: taking.settings.pace.clone(),
    };
    let walking = tokio::task::spawn_blocking(move || walk.everything(&folders).map(|()| walk));
    let walk = session.kept_until(walking).await??;
    taking.builder = walk.builder;
    taking.listing = walk.listing;
    let (at, label, map) = session.stop().await?;
    let stop = BranchPosition {
        timeline: session.server.start.timeline,
        lsn: at,
    };
    check_label(&label, session.server.start)?;
    taking
        .small_file("backup_label", label.as_bytes(), false)
        .await?;
    if !map.is_empty() {
        taking
            .small_file("tablespace_map", map.as_bytes(), false)
            .await?;
    }
    session.connection.close().await;
    Box::pin(taking.finish(outside, stop)).await
}

/// Starts the backup; on a standby, once its restart point lies in the captured log.
async fn begin(mut session: Session, work: &Work) -> Result<Session, BaseError> {
    for _ in 0..EARLY_TRIES_MAX {
        if session.server.system != work.log.system {
            return Err(BaseError::OtherSystem {
                expected: work.log.system,
                found: session.server.system,
            });
        }
        session.server.start.lsn = session.start(work).await?;
        if work.may_start(&session.server)? {
            return Ok(session);
        }
        // The backup ends with its session.
        session.connection.close().await;
        tokio::time::sleep(EARLY_WAIT).await;
        session = Session::open(work).await.map_err(BaseError::Contents)?;
    }
    Err(contents(
        "the standby made no restart point in the captured log",
    ))
}

/// The label must be of the backup that was started.
fn check_label(label: &str, start: BranchPosition) -> Result<(), BaseError> {
    let timeline = label
        .lines()
        .find_map(|line| line.strip_prefix("START TIMELINE: "))
        .and_then(|timeline| timeline.trim().parse().ok());
    let at = label
        .lines()
        .find_map(|line| line.strip_prefix("START WAL LOCATION: "))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    if timeline == Some(start.timeline.0) && at == Some(start.lsn) {
        return Ok(());
    }
    Err(contents("the backup's label is not of its start"))
}

#[cfg(test)]
mod tests {
    use tidemark_format::postgres::TimelineId;

    use super::*;

    /// A data directory of `system`, whose server started at 1000 on port 5432.
    fn data_directory(system: u64) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut control = vec![0; 8192];
        control[..8].copy_from_slice(&system.to_le_bytes());
        control[8..12].copy_from_slice(&1300u32.to_le_bytes());
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &control[..288]);
        let sum = u32::try_from(sum).unwrap();
        control[288..292].copy_from_slice(&sum.to_le_bytes());
        std::fs::create_dir(folder.path().join("global")).unwrap();
        std::fs::write(folder.path().join("global/pg_control"), control).unwrap();
        let pid = "4711\n/data\n1000\n5432\n/tmp\n\n";
        std::fs::write(folder.path().join("postmaster.pid"), pid).unwrap();
        folder
    }

    #[test]
    fn a_data_directory_is_read_only_if_it_is_certainly_the_servers_own() {
        let folder = data_directory(77);
        let root = folder.path();
        assert_eq!(same_server(root, 77, "5432", 1001), Ok(()));
        assert!(
            same_server(root, 78, "5432", 1001).is_err(),
            "another system"
        );
        assert!(
            same_server(root, 77, "5433", 1001).is_err(),
            "a copy on another port"
        );
        assert!(
            same_server(root, 77, "5432", 5000).is_err(),
            "a copy started later"
        );
        std::fs::remove_file(root.join("postmaster.pid")).unwrap();
        assert!(
            same_server(root, 77, "5432", 1001).is_err(),
            "no server runs there"
        );
        std::fs::write(root.join("global/pg_control"), [0; 8192]).unwrap();
        assert!(
            same_server(root, 77, "5432", 1001).is_err(),
            "no control file"
        );
    }

    #[test]
    fn a_label_of_another_start_is_refused() {
        let label = "START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\n\
                     CHECKPOINT LOCATION: 0/3000060\nSTART TIMELINE: 1\n";
        let at = |lsn, timeline| BranchPosition {
            timeline: TimelineId(timeline),
            lsn: Lsn(lsn),
        };
        assert!(check_label(label, at(0x0300_0028, 1)).is_ok());
        assert!(check_label(label, at(0x0300_0028, 2)).is_err());
        assert!(check_label(label, at(0x0300_0060, 1)).is_err());
        assert!(check_label("", at(0x0300_0028, 1)).is_err());
    }
}
