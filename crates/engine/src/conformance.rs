//! What every engine must do, as a suite that its tests run, and the bench on which they run it.
//!
//! [`Rig`] plays the agent and the restore tool: it keeps records as the spool does, seals cuts, makes
//! bases, crashes at the worst moments, and restores to any sequence. An engine's own tests use it,
//! too. Failures panic with what was expected: this is test code behind a feature.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tidemark_format::body::FileEntry;
use tidemark_format::{Incarnation, LogSeq};

use crate::{
    Capture, EndProof, Engine, ErrorKind, LogCut, Materialise, OpenRequest, Opened, PageRun, Poll,
    ProofResult, Verdict, Wake, Workspace,
};

/// Bytes asked for by one slice of a base.
const SLICE_BYTES: usize = 256 << 10;
/// No engine needs more rounds than this to come to rest in a test.
const ROUNDS_MAX: u32 = 200_000;
/// Opening is tried so often while somebody else still holds the source.
const OPENS_MAX: u32 = 10_000;
/// Between two looks at what happens elsewhere.
const STEP: Duration = Duration::from_millis(1);

/// Tells the time by the clock that the engine was given.
pub type Now = Box<dyn Fn() -> Timestamp>;

/// A sealed cut.
#[derive(Debug, Clone)]
pub struct StoredCut {
    /// The engine's payload.
    pub payload: Vec<u8>,
    /// Whether it ends at a state of the database.
    pub restorable: bool,
    /// Bytes of pages in it.
    pub bytes_changed: u64,
}

/// A finished base.
#[derive(Debug, Clone)]
pub struct StoredBase {
    /// Replay starts with this cut.
    pub start: LogSeq,
    /// And must go at least to this one.
    pub usable: LogSeq,
    /// Whether it stands alone.
    pub complete: bool,
    /// Its pages.
    pub runs: Vec<PageRun>,
    /// Its files.
    pub files: Vec<FileEntry>,
}

impl StoredBase {
    /// Pages in it.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }
}

/// Agent, spool and repository in one, in memory.
pub struct Rig {
    engine: Box<dyn Engine>,
    folder: PathBuf,
    capture: Option<Box<dyn Capture>>,
    work: Workspace,
    records: BTreeMap<LogSeq, Vec<u8>>,
    generations: u8,
    /// Of an engine that captures a server.
    server: Option<Now>,
    /// Every sealed cut.
    pub log: BTreeMap<LogSeq, StoredCut>,
    /// Every finished base, oldest first.
    pub bases: Vec<StoredBase>,
    /// The sequence of the next cut.
    pub next: LogSeq,
    /// The incarnation that the last open named.
    pub incarnation: Option<Incarnation>,
}

impl std::fmt::Debug for Rig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Rig({} cuts, {} bases)",
            self.log.len(),
            self.bases.len()
        )
    }
}

impl Rig {
    /// A rig whose engine keeps its state in `folder`.
    #[must_use]
    pub fn new(engine: Box<dyn Engine>, folder: PathBuf) -> Self {
        Self {
            engine,
            folder,
            capture: None,
            work: Workspace::new(),
            records: BTreeMap::new(),
            generations: 0,
            server: None,
            log: BTreeMap::new(),
            bases: Vec::new(),
            next: LogSeq(0),
            incarnation: None,
        }
    }

    /// The engine captures a server: in its own time, which `now` tells, and file 0 of each of its bases is
    /// a layout that every base holds whole and a restore needs first.
    #[must_use]
    pub fn of_server(mut self, now: Option<Now>) -> Self {
        self.server = now;
        self
    }

    /// Opens the source, and a generation if there is none with a base; begins a new incarnation's
    /// log at 0.
    pub fn open(&mut self) -> Verdict {
        let opened = self.opened();
        if self
            .incarnation
            .is_some_and(|before| before != opened.incarnation)
        {
            self.records.clear();
            self.log.clear();
            self.bases.clear();
            self.next = LogSeq(0);
        }
        self.incarnation = Some(opened.incarnation);
        self.capture = Some(opened.capture);
        if opened.needs_complete_base {
            self.open_generation();
        }
        opened.verdict
    }

    fn opened(&mut self) -> Opened {
        for _ in 0..OPENS_MAX {
            let request = OpenRequest {
                folder: self.folder.clone(),
                records: &mut self.records.clone().into_iter(),
                candidate: Incarnation([self.generations.wrapping_add(1); 16]),
                wake: Wake::nobody(),
            };
            match self.engine.open(request) {
                Ok(opened) => return opened,
                // A server that has not noticed yet that the agent died.
                Err(error) if error.kind() == ErrorKind::Vanished && self.server.is_some() => {
                    std::thread::sleep(STEP * 10);
                }
                Err(error) => panic!("the source opens: {error}"),
            }
        }
        panic!("the source never opens");
    }

    /// The open capture.
    pub fn capture(&mut self) -> &mut dyn Capture {
        &mut **self.capture.as_mut().expect("the source is open")
    }

    /// Opens a generation under another key.
    pub fn open_generation(&mut self) {
        self.generations = self.generations.wrapping_add(1);
        let key = [self.generations; 32];
        self.capture()
            .open_generation(key)
            .expect("a generation opens");
    }

    /// One poll.
    pub fn poll(&mut self) -> Poll {
        let capture = self.capture.as_mut().expect("the source is open");
        capture.poll(&mut self.work).expect("a poll succeeds")
    }

    /// A cut that is never sealed, as when the agent is killed right after it.
    pub fn cut_unsealed(&mut self) -> Option<LogCut> {
        let capture = self.capture.as_mut().expect("the source is open");
        capture
            .cut(self.next, &mut self.work)
            .expect("a cut succeeds")
    }

    /// Polls until everything committed so far can be cut, and doesn't seal it.
    pub fn await_cut(&mut self) -> LogCut {
        let wanted = self.now();
        for _ in 0..ROUNDS_MAX {
            let poll = self.poll();
            if self.is_behind(&poll, wanted) {
                if poll.cut_now {
                    // Nothing more is captured before.
                    self.cut_once();
                }
                continue;
            }
            if let Some(cut) = self.cut_unsealed() {
                return cut;
            }
        }
        panic!("nothing came to be cut");
    }

    fn now(&self) -> Option<Timestamp> {
        self.server.as_ref().map(|now| now())
    }

    /// Whether the engine may not have heard yet of all that was committed at `wanted`.
    fn is_behind(&self, poll: &Poll, wanted: Option<Timestamp>) -> bool {
        let behind = wanted.is_some() && poll.complete_until < wanted;
        if behind {
            std::thread::sleep(STEP);
        }
        behind
    }

    /// Whether the engine says that its source has to be opened again.
    pub fn asks_to_reopen(&mut self) -> bool {
        let capture = self.capture.as_mut().expect("the source is open");
        let polled = capture.poll(&mut self.work);
        polled.is_err_and(|error| error.kind() == ErrorKind::Reopen)
    }

    /// Keeps object and record, as the spool does, without telling the engine.
    pub fn spool(&mut self, cut: LogCut) -> LogSeq {
        let seq = self.next;
        self.records.insert(seq, cut.record);
        let stored = StoredCut {
            payload: cut.payload,
            restorable: cut.restorable,
            bytes_changed: cut.bytes_changed,
        };
        self.log.insert(seq, stored);
        self.next = seq.next();
        seq
    }

    /// Cuts and seals once.
    pub fn cut_once(&mut self) -> Option<LogSeq> {
        let cut = self.cut_unsealed()?;
        let seq = self.spool(cut);
        self.capture().sealed(seq).expect("a cut is sealed");
        Some(seq)
    }

    /// Polls and cuts until the last cut is restorable and nothing is left; says which it was.
    pub fn cut(&mut self) -> Option<LogSeq> {
        let mut last = None;
        let wanted = self.now();
        for _ in 0..ROUNDS_MAX {
            let poll = self.poll();
            let behind = self.is_behind(&poll, wanted);
            // Also while it waits: an engine whose bound is reached captures nothing more before.
            let cut = self.cut_once();
            last = cut.or(last);
            let restorable = self
                .log
                .last_key_value()
                .is_none_or(|(_, cut)| cut.restorable);
            if restorable && !behind && cut.is_none() && poll.catching_up.is_none() {
                return last;
            }
        }
        panic!("capture did not come to rest");
    }

    /// Polls and cuts until a restorable cut comes, however much more there is.
    pub fn cut_restorable(&mut self) -> LogSeq {
        for _ in 0..ROUNDS_MAX {
            let seq = self.cut_once();
            let restorable = |seq: &LogSeq| self.log.get(seq).is_some_and(|cut| cut.restorable);
            if let Some(seq) = seq.filter(restorable) {
                return seq;
            }
            let poll = self.poll();
            if self.server.is_some() {
                std::thread::sleep(poll.next.min(STEP));
            }
        }
        panic!("no restorable cut came");
    }

    /// Fsyncs the map and lets go of records.
    pub fn sync(&mut self) {
        if let Some(seq) = self.capture().map_synced().expect("the map syncs") {
            self.records.retain(|record, _| *record > seq);
        }
    }

    /// Makes a base; `between` runs after every slice, before a poll and a cut. Begins again as
    /// often as the engine asks for it.
    pub fn base_with(&mut self, complete: bool, mut between: impl FnMut(&mut Self)) {
        for _ in 0..10 {
            if self.try_base(complete, &mut between) {
                return;
            }
            self.cut_restorable();
        }
        panic!("every base was given up");
    }

    fn try_base(&mut self, complete: bool, between: &mut impl FnMut(&mut Self)) -> bool {
        let next = self.next;
        let start = self.capture().begin_base(next, complete);
        let start = start.expect("a base begins");
        assert_eq!(start.start, self.next, "a base starts with the next cut");
        let (mut runs, mut files) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS_MAX {
            assert!(round + 1 < ROUNDS_MAX, "the base did not come to its end");
            let capture = self.capture.as_mut().expect("the source is open");
            let slice = match capture.base_slice(SLICE_BYTES, &mut self.work) {
                Ok(slice) => slice,
                Err(error) if error.kind() == ErrorKind::Retry => return false,
                Err(error) => panic!("a slice is read: {error}"),
            };
            let waits = slice.runs.is_empty();
            runs.extend(slice.runs);
            if slice.done {
                files = slice.files;
                break;
            }
            between(self);
            let poll = self.poll();
            if waits {
                // The engine waits for somebody else: rounds without end are no measure of that.
                std::thread::sleep(poll.next.min(Duration::from_millis(1)));
            }
            if round % 4 == 3 {
                self.cut_once();
            }
        }
        let usable = self.cut_restorable();
        if self.capture().base_stands().is_err() {
            return false;
        }
        let base = StoredBase {
            start: start.start,
            usable,
            complete: start.complete,
            runs,
            files,
        };
        // Published first, as the agent does: a crash between the two finds it there.
        self.bases.push(base);
        self.capture().base_done().expect("the base is done");
        true
    }

    /// Makes a base while nothing else happens.
    pub fn base(&mut self, complete: bool) {
        self.base_with(complete, |_| {});
    }

    /// The agent dies: what wasn't sealed is gone, the records stay.
    pub fn crash(&mut self) {
        self.capture = None;
    }

    /// The restorable sequences that some base reaches.
    #[must_use]
    pub fn restorable(&self) -> Vec<LogSeq> {
        let first = self.bases.iter().map(|base| base.usable).min();
        let reached = |seq: &LogSeq| first.is_some_and(|first| *seq >= first);
        self.log
            .iter()
            .filter(|(seq, cut)| cut.restorable && reached(seq))
            .map(|(seq, _)| *seq)
            .collect()
    }

    /// Restores to `seq` into `target`.
    ///
    /// # Errors
    /// The engine's.
    pub fn restore(
        &self,
        seq: LogSeq,
        mut target: Box<dyn Materialise>,
    ) -> Result<EndProof, crate::Error> {
        let newest = self.bases.iter().rposition(|base| base.usable <= seq);
        let newest = newest.expect("a base reaches that sequence");
        let (chain, _) = self.bases.split_at(newest + 1);
        let oldest = chain
            .iter()
            .rposition(|base| base.complete)
            .expect("some base is complete");
        let chain = chain.split_at(oldest).1;
        let newest = chain.last().expect("a chain has a last base");
        target.expect_files(&newest.files)?;
        let is_layout = |run: &&PageRun| self.server.is_some() && run.file == 0;
        for run in newest.runs.iter().filter(is_layout) {
            target.write_run(run)?;
        }
        for run in chain.iter().flat_map(|base| &base.runs) {
            if !is_layout(&run) {
                target.write_run(run)?;
            }
        }
        let start = newest.start;
        for (_, cut) in self.log.range(start..=seq) {
            target.apply_log(&cut.payload)?;
        }
        target.finish()
    }
}

/// A database that the suite may change, and compare with what was restored.
pub trait Subject {
    /// An engine for it.
    fn engine(&self) -> Box<dyn Engine>;
    /// A new empty folder for the engine's state.
    fn folder(&self) -> PathBuf;
    /// Commits some changes, others for each `seed`. Nobody else writes.
    fn change(&mut self, seed: u64);
    /// A restore target, and where the restored database will be.
    fn target(&self) -> (Box<dyn Materialise>, PathBuf);
    /// Whether the database restored at `restored` is the one that is there now. No capture is open.
    fn equals(&mut self, restored: &Path) -> bool;
    /// See [`Rig::of_server`]; none for an engine whose polls read the database themselves.
    fn server(&self) -> Option<Now> {
        None
    }
    /// Bytes that the database may write at any moment without a change.
    fn bytes_by_itself(&self) -> u64 {
        0
    }
    /// Pages that the engine writes into every base, whatever changed.
    fn pages_of_every_base(&self) -> u64 {
        0
    }
}

/// Everything an engine must do. `make` makes a new database with some content.
pub fn suite(make: &dyn Fn() -> Box<dyn Subject>) {
    let cases: [fn(&mut dyn Subject); 7] = [
        a_base_and_its_log_are_the_database,
        an_idle_database_gives_no_cut,
        a_crash_before_sealed_loses_nothing,
        a_crash_after_the_spool_has_it_ships_nothing_twice,
        a_second_base_holds_only_what_changed,
        what_was_given_up_is_found_again,
        a_new_generation_restores_on_its_own,
    ];
    for case in cases {
        case(&mut *make());
    }
}

fn begin(subject: &dyn Subject) -> Rig {
    let mut rig = Rig::new(subject.engine(), subject.folder()).of_server(subject.server());
    assert_eq!(rig.open(), Verdict::New);
    rig.base(true);
    rig.cut();
    rig
}

fn proves_equal(mut rig: Rig, subject: &mut dyn Subject) {
    let last = *rig.restorable().last().expect("something is restorable");
    let (target, path) = subject.target();
    let proof = rig.restore(last, target).expect("the restore succeeds");
    let proved = proof.digest.is_some() || proof.result == ProofResult::Replayed;
    assert!(proved, "the end is provable");
    rig.crash();
    assert!(subject.equals(&path), "the restored database is the source");
}

fn a_base_and_its_log_are_the_database(subject: &mut dyn Subject) {
    let mut rig = begin(subject);
    for seed in 0..5 {
        subject.change(seed);
        rig.cut();
    }
    proves_equal(rig, subject);
}

fn an_idle_database_gives_no_cut(subject: &mut dyn Subject) {
    let mut rig = begin(subject);
    subject.change(1);
    rig.cut();
    for _ in 0..50 {
        let poll = rig.poll();
        // What a server writes for itself comes to be cut if somebody asks, and calls for no cut.
        let calls = rig.server.is_none() || poll.cut_now || poll.pending_bytes > 0;
        assert!(!calls || rig.cut_once().is_none(), "nothing changed");
    }
}

fn a_crash_before_sealed_loses_nothing(subject: &mut dyn Subject) {
    let mut rig = begin(subject);
    subject.change(1);
    rig.await_cut();
    rig.crash();
    rig.open();
    rig.cut();
    proves_equal(rig, subject);
}

fn a_crash_after_the_spool_has_it_ships_nothing_twice(subject: &mut dyn Subject) {
    let mut rig = begin(subject);
    rig.sync();
    subject.change(1);
    let cut = rig.await_cut();
    let whole = cut.restorable;
    rig.spool(cut);
    rig.crash();
    let verdict = rig.open();
    assert!(!whole || verdict == Verdict::Continues, "{verdict:?}");
    let after = rig
        .cut()
        .and_then(|seq| rig.log.get(&seq))
        .map_or(0, |cut| cut.bytes_changed);
    let by_itself = subject.bytes_by_itself();
    assert!(
        after <= by_itself,
        "{after} bytes although the record was there"
    );
    subject.change(2);
    rig.cut();
    proves_equal(rig, subject);
}

fn a_second_base_holds_only_what_changed(subject: &mut dyn Subject) {
    let mut rig = begin(subject);
    subject.change(1);
    rig.cut();
    rig.base(false);
    rig.base(false);
    let always = subject.pages_of_every_base();
    let pages: Vec<u64> = rig.bases.iter().map(StoredBase::pages).collect();
    assert!(
        matches!(pages.as_slice(), [all, some, none] if some < all && *none <= always),
        "pages of the bases: {pages:?}"
    );
    subject.change(2);
    rig.cut();
    proves_equal(rig, subject);
}

fn what_was_given_up_is_found_again(subject: &mut dyn Subject) {
    let mut rig = begin(subject);
    subject.change(1);
    rig.await_cut();
    rig.capture().give_up().expect("cuts are given up");
    if rig.asks_to_reopen() {
        // An engine that can't find it in the database itself begins a new life.
        rig.crash();
        let verdict = rig.open();
        assert!(
            matches!(verdict, Verdict::NewIncarnation { .. }),
            "{verdict:?}"
        );
        rig.base(true);
    }
    rig.cut();
    proves_equal(rig, subject);
}

fn a_new_generation_restores_on_its_own(subject: &mut dyn Subject) {
    let mut rig = begin(subject);
    subject.change(1);
    rig.cut();
    rig.open_generation();
    rig.base(false);
    let base = rig.bases.pop().expect("a base was made");
    assert!(base.complete, "the first base of a generation is complete");
    rig.bases = vec![base];
    subject.change(2);
    rig.cut();
    proves_equal(rig, subject);
}
