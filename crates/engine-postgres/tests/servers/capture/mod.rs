//! Capture driven as the agent drives it, beside real servers.
//!
//! [`Desk`] plays the agent: it keeps records as the spool does, seals cuts, says what is durable, opens
//! again when it is told to. What it kept is put together and compared with the servers' own files.

mod acks;
mod bases;
mod bounds;
mod canary;
mod lives;
mod log;
mod pairs;
mod quiet;
mod scripted;
mod trouble;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidemark_engine::{
    BaseSlice, Capture, Engine, Error, ErrorKind, LogCut, OpenRequest, Poll, Verdict, Wake,
    Workspace,
};
use tidemark_engine_postgres::wal::{Record, Scanner};
use tidemark_engine_postgres::{
    LogMemory, Lsn, PostgresConfig, PostgresEngine, SegmentName, SegmentSize, TimelineId,
};
use tidemark_format::postgres::LogRange;
use tidemark_format::{Incarnation, LogSeq};
use tidemark_host::{Clock as _, Monotonic, SystemClock};
use tidemark_testkit::postgres::{Cluster, Options, Owner, Stop};

use crate::replication::Nothing;

/// Nothing here takes this long, on no machine.
const PATIENCE: Duration = Duration::from_secs(300);
const STEP: Duration = Duration::from_millis(5);

pub(crate) fn now() -> Monotonic {
    SystemClock.monotonic()
}

/// The time of day.
pub(crate) fn today() -> jiff::Timestamp {
    SystemClock.now()
}

pub(crate) fn since(begun: Monotonic) -> Duration {
    now().since(begun)
}

/// A sealed cut.
pub(crate) struct Kept {
    pub(crate) seq: LogSeq,
    pub(crate) incarnation: Incarnation,
    pub(crate) cut: LogCut,
}

impl Kept {
    pub(crate) fn range(&self) -> LogRange<'_> {
        LogRange::decode(&self.cut.payload).expect("a payload of ours")
    }
}

/// Plays the agent.
pub(crate) struct Desk {
    engine: PostgresEngine,
    folder: TempDir,
    capture: Option<Box<dyn Capture>>,
    work: Workspace,
    records: BTreeMap<LogSeq, Vec<u8>>,
    next: LogSeq,
    candidates: u8,
    /// Cuts are told to be durable as soon as they are sealed.
    pub(crate) durable_at_once: bool,
    pub(crate) incarnation: Option<Incarnation>,
    pub(crate) kept: Vec<Kept>,
    // Dropped last: tasks run on it.
    _runtime: tokio::runtime::Runtime,
}

impl Desk {
    pub(crate) fn new(conninfo: &str, tune: impl FnOnce(&mut PostgresConfig)) -> Self {
        Self::sharing(conninfo, &LogMemory::new(16 << 20, 1), tune)
    }

    /// One that shares memory with others.
    pub(crate) fn sharing(
        conninfo: &str,
        memory: &Arc<LogMemory>,
        tune: impl FnOnce(&mut PostgresConfig),
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let source = "the-source".parse().expect("a name");
        let mut config = PostgresConfig::new(conninfo, &source);
        config.limits.pulse_every = Duration::from_millis(100);
        config.limits.alert_after = Duration::from_millis(200);
        config.limits.again_max = Duration::from_millis(500);
        tune(&mut config);
        let clock = SystemClock::shared();
        let engine =
            PostgresEngine::new(config, Arc::new(Nothing), runtime.handle().clone(), clock);
        Self {
            engine: engine.sharing(Arc::clone(memory)),
            folder: tempfile::tempdir().expect("a folder"),
            capture: None,
            work: Workspace::new(),
            records: BTreeMap::new(),
            next: LogSeq(0),
            candidates: 0,
            durable_at_once: true,
            incarnation: None,
            kept: Vec::new(),
            _runtime: runtime,
        }
    }

    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self::new(&conninfo(cluster), |_| {})
    }

    pub(crate) fn engine(&self) -> &PostgresEngine {
        &self.engine
    }

    /// Opens once.
    pub(crate) fn try_open(&mut self) -> Result<Verdict, Error> {
        self.capture = None;
        // As the agent: the life that is known is the candidate.
        self.candidates += 1;
        let fresh = Incarnation([self.candidates; 16]);
        let request = OpenRequest {
            folder: self.folder.path().join("engine"),
            records: &mut self.records.clone().into_iter(),
            candidate: self.incarnation.unwrap_or(fresh),
            wake: Wake::nobody(),
        };
        let opened = self.engine.open(request)?;
        self.capture = Some(opened.capture);
        self.incarnation = Some(opened.incarnation);
        Ok(opened.verdict)
    }

    /// Opens, as often as the agent would.
    pub(crate) fn open(&mut self) -> Verdict {
        let begun = now();
        loop {
            match self.try_open() {
                Ok(verdict) => return verdict,
                Err(error) if error.kind() == ErrorKind::Vanished && since(begun) < PATIENCE => {
                    std::thread::sleep(STEP * 10);
                }
                Err(error) => panic!("it does not open: {error} {error:?}"),
            }
        }
    }

    /// The agent dies.
    pub(crate) fn crash(&mut self) {
        self.capture = None;
    }

    pub(crate) fn capture(&mut self) -> &mut dyn Capture {
        &mut **self.capture.as_mut().expect("it is open")
    }

    pub(crate) fn try_poll(&mut self) -> Result<Poll, Error> {
        let capture = self.capture.as_mut().expect("it is open");
        capture.poll(&mut self.work)
    }

    pub(crate) fn poll(&mut self) -> Poll {
        self.try_poll().expect("a poll succeeds")
    }

    /// A cut that isn't sealed.
    pub(crate) fn cut_unsealed(&mut self) -> Option<LogCut> {
        let capture = self.capture.as_mut().expect("it is open");
        capture
            .cut(self.next, &mut self.work)
            .expect("a cut succeeds")
    }

    /// Keeps object and record without telling the engine.
    pub(crate) fn spool(&mut self, cut: LogCut) -> LogSeq {
        let seq = self.next;
        self.records.insert(seq, cut.record.clone());
        self.kept.push(Kept {
            seq,
            incarnation: self.incarnation.expect("it is open"),
            cut,
        });
        self.next = seq.next();
        seq
    }

    /// Cuts and seals; whether there was something.
    pub(crate) fn cut(&mut self) -> bool {
        let Some(cut) = self.cut_unsealed() else {
            return false;
        };
        let seq = self.spool(cut);
        self.capture().sealed(seq).expect("it is sealed");
        if self.durable_at_once {
            self.capture().durable(seq).expect("it is durable");
        }
        true
    }

    /// The engine's folder is gone.
    pub(crate) fn lose_folder(&mut self) {
        std::fs::remove_dir_all(self.folder.path().join("engine")).expect("removed");
    }

    /// The number of the next cut.
    pub(crate) const fn next_seq(&self) -> LogSeq {
        self.next
    }

    /// A slice of the base.
    pub(crate) fn slice(&mut self, max_bytes: usize) -> Result<BaseSlice, Error> {
        let capture = self.capture.as_mut().expect("it is open");
        capture.base_slice(max_bytes, &mut self.work)
    }

    /// Lets go of records as the agent does now and then.
    pub(crate) fn sync(&mut self) {
        if let Some(seq) = self.capture().map_synced().expect("the state is stored") {
            self.records.retain(|record, _| *record > seq);
        }
    }

    /// The end of what was kept of the present life.
    pub(crate) fn end(&self) -> Option<Lsn> {
        let last = self.kept.last()?;
        (Some(last.incarnation) == self.incarnation).then(|| last.range().end())
    }

    /// Polls and cuts until `done`; opens again whenever it has to, and tells the verdicts.
    pub(crate) fn run_until(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Vec<Verdict> {
        let begun = now();
        let mut verdicts = Vec::new();
        loop {
            match self.try_poll() {
                Ok(_) => while self.cut() {},
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Reopen, "{error}");
                    while self.cut() {}
                    verdicts.push(self.open());
                }
            }
            if done(self) {
                return verdicts;
            }
            if since(begun) > PATIENCE {
                let alerts = self.try_poll().map(|poll| poll.alerts);
                panic!("never: {what}; kept up to {:?}; {alerts:?}", self.end());
            }
            std::thread::sleep(STEP);
        }
    }

    /// A turn as the agent gives it: a cut only if something is said to wait for one.
    pub(crate) fn turn(&mut self) -> Poll {
        let poll = self.poll();
        if poll.cut_now || poll.pending_bytes > 0 {
            self.cut();
        }
        poll
    }

    /// Everything received so far.
    pub(crate) fn received(&mut self) -> Lsn {
        let probe = self.capture().probe().expect("probed");
        let received = probe.facts["received"].as_str().expect("text");
        received.parse().expect("a position")
    }

    /// Captures up to where the server's log is flushed now, in this life.
    pub(crate) fn catch_up(&mut self, cluster: &Cluster) -> Lsn {
        let end = flushed(cluster);
        let verdicts = self.run_until("the log is captured", |desk| desk.end() >= Some(end));
        assert_eq!(verdicts, [], "it is the same life");
        end
    }

    /// The log of the present life by timeline: where it starts, and its bytes. Payloads append.
    pub(crate) fn log(&self) -> BTreeMap<TimelineId, (Lsn, Vec<u8>)> {
        let mut log: BTreeMap<TimelineId, (Lsn, Vec<u8>)> = BTreeMap::new();
        let mut newest = TimelineId(0);
        for kept in &self.kept {
            if Some(kept.incarnation) != self.incarnation {
                continue;
            }
            let range = kept.range();
            assert!(range.timeline >= newest, "timelines follow one another");
            newest = range.timeline;
            let (start, bytes) = log
                .entry(range.timeline)
                .or_insert_with(|| (range.start, Vec::new()));
            let end = start.plus(u64::try_from(bytes.len()).expect("fits"));
            assert_eq!(range.start, end, "payloads append to one another");
            bytes.extend_from_slice(range.bytes);
        }
        log
    }

    /// What the log says, scanned from its first byte: every record, and the commits that cuts counted.
    pub(crate) fn scanned(
        &self,
        timeline: TimelineId,
        segment: SegmentSize,
    ) -> (Vec<Record>, Scanner) {
        let log = self.log();
        let (start, bytes) = &log[&timeline];
        let mut scanner = Scanner::new(timeline, segment, *start);
        let mut found = Vec::new();
        scanner.feed(bytes, &mut found).expect("the log is sound");
        (found, scanner)
    }

    /// Compares a timeline's log with the files in a folder; says how many bytes were compared.
    pub(crate) fn assert_same_as(
        &self,
        folder: &Path,
        timeline: TimelineId,
        segment: SegmentSize,
    ) -> usize {
        let log = self.log();
        let (start, bytes) = &log[&timeline];
        let mut compared = 0;
        let mut at = *start;
        let end = start.plus(u64::try_from(bytes.len()).expect("fits"));
        while at < end {
            let name = SegmentName::of(timeline, at, segment).text(segment);
            let file = [folder.join(&name), folder.join(format!("{name}.partial"))]
                .into_iter()
                .find_map(|path| std::fs::read(path).ok());
            let from = usize::try_from(at.since(*start)).expect("fits");
            let until = usize::try_from(segment.next(at).since(*start)).expect("fits");
            let part = &bytes[from..until.min(bytes.len())];
            // What the server has recycled can't be compared any more.
            if let Some(file) = file {
                let skip = usize::try_from(segment.offset(at)).expect("fits");
                assert!(file[skip..skip + part.len()] == *part, "{name} differs");
                compared += part.len();
            }
            at = segment.next(at);
        }
        compared
    }
}

pub(crate) fn conninfo(cluster: &Cluster) -> String {
    format!(
        "host={} user=postgres dbname=postgres",
        cluster.socket_dir().display()
    )
}

pub(crate) fn flushed(cluster: &Cluster) -> Lsn {
    let text = cluster.query("SELECT pg_current_wal_flush_lsn()");
    text.parse().expect("a position")
}

/// A server that keeps what it wrote, to be compared with, and hangs up on nobody who stands still for some
/// seconds, as processes do on a busy machine.
pub(crate) fn keeping() -> Options {
    Options::default()
        .with("wal_keep_size", "1GB")
        .with("wal_sender_timeout", "60s")
}

/// Stops the server while the log is drained, as it waits for us.
pub(crate) fn stop_while_draining(desk: &mut Desk, cluster: &Cluster, how: Stop) {
    std::thread::scope(|scope| {
        let stops = scope.spawn(|| cluster.stop(how).expect("it stops"));
        desk.run_until("the server has stopped", |_| stops.is_finished());
    });
}

/// A place that stands for whichever server is there: a link to its socket's folder.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let place = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        place.becomes(cluster);
        place
    }

    fn link(&self) -> PathBuf {
        self.folder.path().join("server")
    }

    pub(crate) fn becomes(&self, cluster: &Cluster) {
        drop(std::fs::remove_file(self.link()));
        std::os::unix::fs::symlink(cluster.socket_dir(), self.link()).expect("linked");
    }

    pub(crate) fn conninfo(&self) -> String {
        format!(
            "host={} user=postgres dbname=postgres",
            self.link().display()
        )
    }
}

/// Two servers of which the one that takes writes is meant.
pub(crate) fn pair(one: &Cluster, two: &Cluster) -> String {
    format!(
        "host={},{} user=postgres dbname=postgres target_session_attrs=read-write",
        one.socket_dir().display(),
        two.socket_dir().display()
    )
}

/// A file of a server's, put there by hand.
pub(crate) fn put(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
    Owner::get().own(path).expect("owned");
}

/// Waits for something that the server does by itself.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = now();
    while !holds() {
        assert!(since(begun) < PATIENCE, "never: {what}");
        std::thread::sleep(STEP);
    }
}

pub(crate) fn reason(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::NewIncarnation { reason } => reason,
        other => panic!("not a new life: {other:?}"),
    }
}
