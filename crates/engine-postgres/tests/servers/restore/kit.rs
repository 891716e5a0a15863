//! A source whose base and log are turned into what an agent would have sealed, and the restored cluster.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tidemark_engine::{EndProof, Error, Materialise, PageRun};
use tidemark_engine_postgres::restore::{PostgresTarget, RestoreError, Stop, TargetOptions};
use tidemark_engine_postgres::wal::{Event, Scanner};
use tidemark_engine_postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
use tidemark_format::body::FileEntry;
use tidemark_format::postgres::layout::{BranchPosition, LAYOUT_PATH, Layout, Tablespace};
use tidemark_format::postgres::{HistoryFile, LogRange};
use tidemark_host::SystemClock;
use tidemark_testkit::postgres::{Cluster, Options, Owner, Postgres};

const PAGE: usize = 8192;
/// Pages of a run: small, so that runs of one file come from several threads.
const RUN_PAGES: usize = 7;

/// A base as an agent takes it.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    pub(crate) layout: Layout,
    pub(crate) files: Vec<FileEntry>,
    /// By file.
    contents: Vec<Vec<u8>>,
}

/// A server to be restored.
pub(crate) fn source(postgres: &Postgres, options: Options) -> Cluster {
    let options = options
        .with("wal_keep_size", "4GB")
        .with("max_prepared_transactions", "5")
        .with("autovacuum", "off");
    Cluster::start(postgres, &options).expect("a cluster")
}

pub(crate) fn lsn(cluster: &Cluster) -> Lsn {
    let text = cluster.query("SELECT pg_current_wal_insert_lsn()");
    text.parse().expect("a position")
}

/// Everything written so far is flushed: where that ends.
pub(crate) fn flushed(cluster: &Cluster) -> Lsn {
    // A commit of its own that waits for its flush.
    cluster
        .sql("CREATE TABLE IF NOT EXISTS flush_marks (n int); INSERT INTO flush_marks VALUES (1)");
    let text = cluster.query("SELECT pg_current_wal_flush_lsn()");
    text.parse().expect("a position")
}

fn after<'a>(text: &'a str, mark: &str) -> &'a str {
    let (_, rest) = text.split_once(mark).expect(mark);
    rest.split_whitespace().next().expect("a word")
}

/// Where the backup that began at `start` ended: after the record that says so.
fn stop_of(cluster: &Cluster, start: BranchPosition, segment: SegmentSize) -> BranchPosition {
    let from = segment.start(start.lsn);
    let end = cluster.query("SELECT pg_current_wal_flush_lsn()");
    let end = end.parse().expect("a position");
    let mut scanner = Scanner::new(start.timeline, segment, from);
    let mut records = Vec::new();
    let log = log_bytes(cluster, start.timeline, segment, from, end);
    scanner.feed(&log, &mut records).expect("a sound log");
    let ended = records
        .iter()
        .rfind(|record| record.event == Event::BackupEnd);
    BranchPosition {
        lsn: ended.expect("a backup ended").span.end,
        ..start
    }
}

/// Tablespaces outside the data directory.
fn tablespaces(cluster: &Cluster) -> Vec<Tablespace> {
    let spaces = cluster.query(
        "SELECT oid || '=' || pg_tablespace_location(oid) FROM pg_tablespace WHERE oid > 16383",
    );
    let lines = spaces.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (oid, location) = line.split_once('=').expect("a place");
            Tablespace {
                oid: oid.parse().expect("a number"),
                location: location.to_owned(),
            }
        })
        .collect()
}

/// The server's own base backup: into `copy`, and a folder for each tablespace.
fn copy_to(cluster: &Cluster, place: &Path, tablespaces: &[Tablespace]) {
    let mut command = cluster.command("pg_basebackup");
    command.args(["--checkpoint=fast", "--wal-method=none", "--no-manifest"]);
    command
        .args(["--no-sync", "--pgdata"])
        .arg(place.join("copy"));
    for Tablespace { oid, location } in tablespaces {
        let there = place.join(oid.to_string());
        let there = there.display();
        command.arg(format!("--tablespace-mapping={location}={there}"));
    }
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
}

impl Base {
    /// Takes a base of a running server.
    pub(crate) fn take(cluster: &Cluster) -> Self {
        let place = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755))
            .expect("open");
        Owner::get().own(place.path()).expect("owned");
        let copy = place.path().join("copy");
        let tablespaces = tablespaces(cluster);
        copy_to(cluster, place.path(), &tablespaces);
        let label = std::fs::read_to_string(copy.join("backup_label")).expect("a label");
        let timeline = after(&label, "START TIMELINE: ").parse().expect("an id");
        let at = |lsn: &str| BranchPosition {
            timeline: TimelineId(timeline),
            lsn: lsn.parse().expect("a position"),
        };
        let start = at(after(&label, "START WAL LOCATION: "));
        let system = cluster.query("SELECT system_identifier FROM pg_control_system()");
        let segment =
            cluster.query("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'");
        let segment_bytes = segment.parse().expect("a number");
        let size = SegmentSize::new(segment_bytes).expect("a size");
        let standby = cluster.query("SELECT pg_is_in_recovery()") == "t";
        let stop = if standby {
            at(&cluster.query("SELECT pg_last_wal_replay_lsn()"))
        } else {
            stop_of(cluster, start, size)
        };
        let mut found = Found::default();
        found.walk(&copy, "");
        for Tablespace { oid, .. } in &tablespaces {
            found.walk(
                &place.path().join(oid.to_string()),
                &format!("pg_tblspc/{oid}/"),
            );
        }
        let layout = Layout {
            version: Layout::VERSION,
            server: cluster.query("SHOW server_version"),
            major: cluster.postgres().major(),
            system: system.parse().expect("a number"),
            start,
            stop,
            segment_bytes,
            block_bytes: 8192,
            relation_segment_blocks: 131_072,
            checksums: true,
            standby,
            file_mode: 0o600,
            folder_mode: 0o700,
            folders: found.folders,
            modes: BTreeMap::new(),
            tablespaces,
            links: Vec::new(),
            settings: Vec::new(),
            settings_notes: Vec::new(),
            bad_pages: Vec::new(),
            bad_pages_total: 0,
            skipped: BTreeMap::new(),
        };
        let mut base = Self {
            layout,
            files: Vec::new(),
            contents: Vec::new(),
        };
        base.push(LAYOUT_PATH, base.layout.encode());
        for (path, content) in found.files {
            base.push(&path, content);
        }
        // A file that is gone keeps its number.
        base.push("", Vec::new());
        base
    }

    fn push(&mut self, path: &str, content: Vec<u8>) {
        self.files.push(FileEntry {
            path: path.to_owned(),
            bytes: u64::try_from(content.len()).expect("fits"),
        });
        self.contents.push(content);
    }

    pub(crate) fn segment(&self) -> SegmentSize {
        SegmentSize::new(self.layout.segment_bytes).expect("a size")
    }

    /// The pages of a file, in runs.
    fn runs(&self, file: usize) -> Vec<PageRun> {
        let runs = self.contents[file].chunks(RUN_PAGES * PAGE);
        (0_u64..)
            .zip(runs)
            .map(|(number, bytes)| {
                let mut bytes = bytes.to_vec();
                bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
                PageRun {
                    file: u32::try_from(file).expect("few"),
                    first: number * u64::try_from(RUN_PAGES).expect("few"),
                    count: u32::try_from(bytes.len() / PAGE).expect("few"),
                    page_size: 8192,
                    bytes,
                }
            })
            .collect()
    }

    /// Writes it, the layout first, the rest from three threads.
    pub(crate) fn write(&self, target: &PostgresTarget) -> Result<(), Error> {
        target.expect_files(&self.files)?;
        // A parent of the chain may hold pages that no file has room for any more.
        for stale in [
            (0, 500),
            (u32::try_from(self.files.len() - 1).expect("few"), 0),
        ] {
            target.write_run(&PageRun {
                file: stale.0,
                first: stale.1,
                count: 1,
                page_size: 8192,
                bytes: vec![0xEE; PAGE],
            })?;
        }
        for run in self.runs(0) {
            target.write_run(&run)?;
        }
        let share = |thread: usize| -> Result<(), Error> {
            for file in (1..self.files.len()).filter(|file| file % 3 == thread) {
                for run in self.runs(file).into_iter().rev() {
                    target.write_run(&run)?;
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads = [0, 1, 2].map(|thread| scope.spawn(move || share(thread)));
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("no panic"))
        })
    }
}

#[derive(Default)]
struct Found {
    folders: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
}

impl Found {
    fn walk(&mut self, folder: &Path, prefix: &str) {
        let mut entries: Vec<_> = std::fs::read_dir(folder)
            .expect("readable")
            .map(|entry| entry.expect("an entry"))
            .collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().into_string().expect("text");
            let path = format!("{prefix}{name}");
            let kind = entry.file_type().expect("known");
            if kind.is_symlink() {
                continue;
            }
            if kind.is_dir() {
                self.folders.push(path.clone());
                self.walk(&entry.path(), &format!("{path}/"));
            } else {
                self.files
                    .push((path, std::fs::read(entry.path()).expect("readable")));
            }
        }
    }
}

/// Log of one timeline, from `from` to `to`, as it stands in the cluster's folder.
pub(crate) fn log_bytes(
    cluster: &Cluster,
    timeline: TimelineId,
    segment: SegmentSize,
    from: Lsn,
    to: Lsn,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = from;
    while at < to {
        let name = SegmentName::of(timeline, at, segment).text(segment);
        let file = cluster.data_dir().join("pg_wal").join(name);
        let content = std::fs::read(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let end = segment.next(at).min(to);
        let offset = |lsn: Lsn| usize::try_from(lsn.since(segment.start(at))).expect("fits");
        bytes.extend_from_slice(&content[offset(at)..offset(end)]);
        at = end;
    }
    bytes
}

/// One stretch of log, cut into payloads at odd places.
#[derive(Debug, Clone)]
pub(crate) struct Stretch {
    pub(crate) system: u64,
    pub(crate) timeline: TimelineId,
    pub(crate) segment: SegmentSize,
    pub(crate) from: Lsn,
    pub(crate) bytes: Vec<u8>,
    pub(crate) histories: Vec<(TimelineId, Vec<u8>)>,
}

impl Stretch {
    pub(crate) fn of(cluster: &Cluster, base: &Base, timeline: u32, from: Lsn, to: Lsn) -> Self {
        let timeline = TimelineId(timeline);
        let segment = base.segment();
        let folder = cluster.data_dir().join("pg_wal");
        let histories = (2..=timeline.0)
            .map(TimelineId)
            .filter_map(|id| Some((id, std::fs::read(folder.join(id.history_file())).ok()?)))
            .collect();
        Self {
            system: base.layout.system,
            timeline,
            segment,
            from,
            bytes: log_bytes(cluster, timeline, segment, from, to),
            histories,
        }
    }

    /// Payloads of about `size` bytes.
    pub(crate) fn payloads(&self, size: usize) -> Vec<Vec<u8>> {
        let mut at = self.from;
        let mut payloads = Vec::new();
        for (number, bytes) in self.bytes.chunks(size).enumerate() {
            let histories = if number == 0 {
                &self.histories[..]
            } else {
                &[]
            };
            let range = LogRange {
                system: self.system,
                timeline: self.timeline,
                segment: self.segment,
                start: at,
                last_record: None,
                histories: histories
                    .iter()
                    .map(|(timeline, bytes)| HistoryFile {
                        timeline: *timeline,
                        bytes,
                    })
                    .collect(),
                bytes,
            };
            payloads.push(range.encode());
            at = range.end();
        }
        payloads
    }
}

/// A place for a restored cluster.
pub(crate) struct Place {
    pub(crate) cluster: Cluster,
    pub(crate) postgres: Postgres,
}

impl Place {
    pub(crate) fn new(postgres: &Postgres) -> Self {
        Self {
            cluster: Cluster::empty(postgres).expect("a folder"),
            postgres: postgres.clone(),
        }
    }

    pub(crate) fn partial(&self) -> PathBuf {
        self.cluster.socket_dir().join(".data.tidemark-partial")
    }

    pub(crate) fn options(&self, stop: Stop) -> TargetOptions {
        let mut options = TargetOptions::new(stop, Arc::new(SystemClock));
        options.pg_bin = Some(self.postgres.bin().to_path_buf());
        options
    }

    pub(crate) fn open(&self, options: TargetOptions) -> Result<PostgresTarget, Error> {
        PostgresTarget::open(&self.partial(), &self.cluster.data_dir(), options)
    }

    /// Restores everything given, up to the proof.
    pub(crate) fn restore(
        &self,
        base: &Base,
        log: &[Vec<u8>],
        options: TargetOptions,
    ) -> Result<EndProof, Error> {
        let mut target = self.open(options)?;
        base.write(&target)?;
        for payload in log {
            if target.reached().is_some() {
                break;
            }
            target.apply_log(payload)?;
        }
        Box::new(target).finish()
    }

    /// Gives the directory its name and starts its server.
    pub(crate) fn start(&self) {
        let data = self.cluster.data_dir();
        std::fs::rename(self.partial(), &data).expect("renamed");
        let socket = format!(
            "\nunix_socket_directories = '{}'\n",
            self.cluster.socket_dir().display()
        );
        let config = data.join("postgresql.conf");
        let text = std::fs::read_to_string(&config).expect("a config") + &socket;
        std::fs::write(&config, text).expect("written");
        self.cluster.start_again().expect("it starts");
    }

    /// The server's own check of every page, while it is stopped.
    pub(crate) fn check_pages(&self) {
        let output = self
            .cluster
            .command("pg_checksums")
            .args(["--check", "--pgdata"])
            .arg(self.partial())
            .output()
            .expect("it runs");
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The server's own check of every table and index.
    pub(crate) fn check_tables(&self) {
        let output = self
            .cluster
            .command("pg_amcheck")
            .args(["--all", "--install-missing", "--heapallindexed"])
            .output()
            .expect("it runs");
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

pub(crate) fn fact(proof: &EndProof, name: &str) -> String {
    match &proof.facts["postgres"][name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub(crate) fn inner(error: &Error) -> &RestoreError {
    error.inner().unwrap_or_else(|| panic!("{error:?}"))
}

/// Everything below is private and belongs to one user.
pub(crate) fn assert_private(folder: &Path, owner: u32) {
    for entry in std::fs::read_dir(folder).expect("readable") {
        let entry = entry.expect("an entry");
        let metadata = entry.metadata().expect("there");
        assert_eq!(metadata.uid(), owner, "{:?}", entry.path());
        if metadata.is_symlink() {
            continue;
        }
        assert_eq!(metadata.mode() & 0o077, 0, "{:?}", entry.path());
        if metadata.is_dir() {
            assert_private(&entry.path(), owner);
        }
    }
}

/// Removes what a restore left at this place.
pub(crate) fn clear(place: &Place) {
    tidemark_engine_postgres::restore::discard(&place.partial()).expect("removed");
}

/// Waits for what will be, for five minutes and more.
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..15_000 {
        if is() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("it never came about: {what}");
}
