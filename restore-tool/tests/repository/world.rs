//! A repository made by the real write path, of a real SQLite database, in directories: every commit
//! at a time the test chooses, and the database's bytes after each of them kept to compare with.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use tidemark_format::body::FileEntry;
use tidemark_format::envelope::Head;
use tidemark_format::heads::{
    BaseRef, BeatHead, BeatSource, ClaimHead, ClaimReason, ClockFacts, Facts, Gap, PointHead,
    RegionHead, Role,
};
use tidemark_format::pages::{PageDigest, PagesHead, PagesWriter};
use tidemark_format::recipient::RecipientKey;
use tidemark_format::sign::SigningKey;
use tidemark_format::{
    BaseNumber, Epoch, Hash, Incarnation, Key, LogSeq, PointSeq, RepoId, SourceName, keys,
};
use tidemark_host::output::testing::Captured;
use tidemark_host::{Cpu, Exit, Rng, RngExt as _, SimClock, SystemRng};
use tidemark_ledger::custody::{self, IdentityFile, NewKeys, RootFile, first_keyring};
use tidemark_restore_tool::cli::Cli;
use tidemark_restore_tool::repository::{Environment, Tools};
use tidemark_restore_tool::{commands, report};
use tidemark_seal::{
    BaseDraft, BaseEnd, BaseTools, BaseWriter, LogDraft, Sealed, Session, gap_object, seal_log,
    sign,
};
use tokio_util::sync::CancellationToken;

/// When the source's life begins.
pub(crate) const BEGAN: &str = "2026-05-01T12:00:00Z";
const PAGE: usize = 4096;

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) exit: Exit,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The document on standard output.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error}: {} / {}", self.out, self.err))
    }
}

/// A region's directory.
#[derive(Debug, Clone)]
pub(crate) struct RegionDir {
    pub(crate) path: PathBuf,
    /// While it is away, nothing is stored in it.
    pub(crate) away: bool,
}

impl RegionDir {
    fn put(&self, key: &Key, bytes: &[u8]) {
        let path = self.file(key.as_str());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// The file of an object.
    pub(crate) fn file(&self, key: &str) -> PathBuf {
        self.path.join(key)
    }

    /// Files whose keys begin with `prefix`, in order.
    pub(crate) fn files(&self, prefix: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.path, &mut found);
        found.retain(|path| {
            path.strip_prefix(&self.path)
                .unwrap()
                .to_string_lossy()
                .starts_with(prefix)
        });
        found.sort();
        found
    }

    /// Turns one bit of the last byte of a file.
    pub(crate) fn flip(path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    }

    /// Cuts a file's last byte off.
    pub(crate) fn truncate(path: &Path) {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// A protected source and its regions.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) keys: NewKeys,
    pub(crate) agent: SigningKey,
    pub(crate) regions: Vec<RegionDir>,
    pub(crate) source: SourceName,
    pub(crate) engine: &'static str,
    pub(crate) clock: SimClock,
    /// Where evidence waits and is kept; nowhere unless a test says so.
    pub(crate) state: Option<PathBuf>,
    /// How long a region may say nothing.
    pub(crate) patience: tidemark_restore_tool::patience::Patience,
    /// The database's bytes after each log object that is a restore position.
    pub(crate) images: BTreeMap<LogSeq, Vec<u8>>,
    /// When each of them was committed.
    pub(crate) times: BTreeMap<LogSeq, Timestamp>,
    pub(crate) epoch: Epoch,
    pub(crate) log_seq: LogSeq,
    prev: Option<Hash>,
    rng: Arc<dyn Rng>,
    session: Session,
    database: Connection,
    incarnation: Incarnation,
    generation: LogSeq,
    digest_key: [u8; 32],
    /// What the log has carried so far.
    image: Vec<u8>,
    bases: Vec<(BaseRef, Vec<u8>)>,
    points: Vec<(PointSeq, Hash)>,
    beats: u64,
}

impl World {
    /// A repository with `regions` regions, a source `app` with a table, and its first base.
    pub(crate) fn new(regions: usize) -> Self {
        let mut world = Self::empty(regions);
        world.commit("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)");
        world.base();
        world
    }

    /// The same without anything of the source but its claim.
    pub(crate) fn empty(regions: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rng = SystemRng::shared();
        let clock = SimClock::at(BEGAN.parse().unwrap());
        let now = BEGAN.parse().unwrap();
        let keys = NewKeys::generate(rng.as_ref(), now);
        let agent = custody::new_signing_key(rng.as_ref());
        IdentityFile::write(&dir.path().join("identity"), &keys.identity).unwrap();
        RootFile::write(&dir.path().join("root"), &keys.root).unwrap();
        let recipients = [keys.identity.recipient(), keys.escrow.recipient()];
        let begun = Session::begin(keys.repo(), &recipients, &agent, rng.as_ref(), now);
        let (session, sealed) = begun.unwrap();
        let names = ["north", "south", "east"];
        let regions = names[..regions]
            .iter()
            .map(|name| RegionDir {
                path: dir.path().join(name),
                away: false,
            })
            .collect();
        let database = Connection::open(dir.path().join("source.db")).unwrap();
        let world = Self {
            keys,
            agent,
            regions,
            source: SourceName::new("app").unwrap(),
            engine: "sqlite",
            clock,
            state: None,
            patience: tidemark_restore_tool::patience::Patience::default(),
            images: BTreeMap::new(),
            times: BTreeMap::new(),
            epoch: Epoch(1),
            log_seq: LogSeq(0),
            prev: None,
            session,
            database,
            incarnation: rng.id(),
            generation: LogSeq(0),
            digest_key: rng.bytes(),
            image: Vec::new(),
            bases: Vec::new(),
            points: Vec::new(),
            beats: 0,
            rng,
            dir,
        };
        world.found(now, &sealed);
        world
    }

    /// Keyring, markers, claim and session.
    fn found(&self, now: Timestamp, session: &Sealed) {
        for region in &self.regions {
            fs::create_dir_all(&region.path).unwrap();
        }
        let entries = vec![self.keys.identity.entry(), self.keys.escrow.entry()];
        let member = custody::member(Role::Agent, self.agent.public(), "db-host".into(), now);
        let keyring =
            first_keyring(&self.keys.root, entries, vec![member], self.rng.id(), now).unwrap();
        for region in &self.regions {
            region.put(&keyring.key, &keyring.bytes);
            let head = RegionHead {
                repo: self.repo(),
                region: self.rng.id(),
                put: self.rng.id(),
                at: now,
            };
            region.put(
                &keys::region(),
                &sign(keys::region(), head.put, &head, &self.agent)
                    .unwrap()
                    .bytes,
            );
        }
        self.put(session);
        self.claim(ClaimReason::New);
    }

    fn claim(&self, reason: ClaimReason) {
        let head = ClaimHead {
            repo: self.repo(),
            source: self.source.clone(),
            epoch: self.epoch,
            writer: self.rng.id(),
            host: "db-host".into(),
            put: self.rng.id(),
            at: self.now(),
            reason,
        };
        self.signed(keys::claim(&self.source, self.epoch), &head);
    }

    pub(crate) fn repo(&self) -> RepoId {
        self.keys.repo()
    }

    pub(crate) fn now(&self) -> Timestamp {
        tidemark_host::Clock::now(&self.clock)
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    fn put(&self, sealed: &Sealed) {
        for region in self.regions.iter().filter(|region| !region.away) {
            region.put(&sealed.key, &sealed.bytes);
        }
    }

    fn signed<H: Head>(&self, key: Key, head: &H) -> Sealed {
        let put = self.rng.id();
        let sealed = sign(key, put, head, &self.agent).unwrap();
        self.put(&sealed);
        sealed
    }

    /// Runs SQL ten seconds later and ships what it changed as one log object.
    pub(crate) fn commit(&mut self, sql: &str) -> LogSeq {
        self.pass(10);
        self.database.execute_batch(sql).unwrap();
        self.ship(1)
    }

    /// Inserts a row of `bytes` random letters.
    pub(crate) fn insert(&mut self, bytes: usize) -> LogSeq {
        let letters: String = (0..bytes / 2 + 1)
            .map(|_| format!("{:02x}", self.rng.bytes::<1>()[0]))
            .collect();
        self.commit(&format!(
            "INSERT INTO t(v) VALUES ('{}')",
            &letters[..bytes]
        ))
    }

    /// A commit that spans `pieces` log objects.
    pub(crate) fn large_commit(&mut self, pieces: usize) -> LogSeq {
        self.pass(10);
        let rows = "x".repeat(3000);
        let insert = format!("INSERT INTO t(v) VALUES ('{rows}');");
        self.database
            .execute_batch(&format!("BEGIN;{}COMMIT;", insert.repeat(pieces * 4)))
            .unwrap();
        self.ship(pieces)
    }

    /// Ships what changed since the last time; the last log object's sequence.
    fn ship(&mut self, pieces: usize) -> LogSeq {
        let after = fs::read(self.dir.path().join("source.db")).unwrap();
        let changed = changed_pages(&self.image, &after);
        let share = changed.len().div_ceil(pieces).max(1);
        let mut parts: Vec<&[u32]> = changed.chunks(share).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let count = parts.len();
        let mut last = self.log_seq;
        for (at, part) in parts.into_iter().enumerate() {
            let ends = at + 1 == count;
            last = self.log_object(&after, part, ends);
        }
        self.image.clone_from(&after);
        self.times.insert(last, self.now());
        self.images.insert(last, after);
        last
    }

    fn log_object(&mut self, after: &[u8], pages: &[u32], ends: bool) -> LogSeq {
        let digest =
            (ends && !self.bases.is_empty()).then(|| whole_digest(&self.digest_key, after));
        let head = PagesHead {
            page_size: u32::try_from(PAGE).unwrap(),
            database_pages: u32::try_from(after.len() / PAGE).unwrap(),
            digest_key: self.digest_key,
            digest,
        };
        let mut writer = PagesWriter::new(&head, pages);
        for number in pages {
            writer.page(page(after, *number));
        }
        let commit = ends.then(|| self.now());
        let draft = LogDraft {
            restorable: ends,
            ..self.draft(commit)
        };
        let sealed = seal_log(
            &self.session,
            draft,
            &writer.finish(),
            1,
            &self.agent,
            self.rng.as_ref(),
        );
        self.append(&sealed.unwrap().0)
    }

    fn draft(&self, commit: Option<Timestamp>) -> LogDraft {
        LogDraft {
            source: self.source.clone(),
            engine: self.engine.into(),
            incarnation: self.incarnation,
            epoch: self.epoch,
            seq: self.log_seq,
            prev: self.prev,
            follows: None,
            generation: self.generation,
            restorable: true,
            transactions: 1,
            first_commit: commit,
            last_commit: commit,
            captured_at: self.now(),
            facts: Facts::new(),
        }
    }

    fn append(&mut self, sealed: &Sealed) -> LogSeq {
        self.put(sealed);
        let seq = self.log_seq;
        self.prev = Some(sealed.link);
        self.log_seq = seq.next();
        seq
    }

    /// A range that was shipped nowhere; a new generation with a complete base must follow.
    pub(crate) fn gap(&mut self, sql: &str) -> LogSeq {
        self.pass(10);
        self.database.execute_batch(sql).unwrap();
        self.image = fs::read(self.dir.path().join("source.db")).unwrap();
        let gap = Gap {
            reason: "the spool was full".into(),
            since: None,
        };
        let draft = LogDraft {
            transactions: 0,
            ..self.draft(None)
        };
        let (sealed, _) =
            gap_object(self.repo(), draft, gap, &self.agent, self.rng.as_ref()).unwrap();
        let seq = self.append(&sealed);
        self.generation = self.log_seq;
        self.bases.clear();
        seq
    }

    /// A base of what the log has carried, changed pages against the one before; then the cut that
    /// makes it usable.
    pub(crate) fn base(&mut self) -> BaseRef {
        let start = self.log_seq;
        let parent = self.bases.last().cloned();
        let number = BaseNumber(u32::try_from(self.bases.len()).unwrap());
        let draft = BaseDraft {
            source: self.source.clone(),
            engine: "sqlite".into(),
            incarnation: self.incarnation,
            epoch: self.epoch,
            generation: self.generation,
            number,
            parent: parent.as_ref().map(|(parent, _)| *parent),
            start,
            started_at: self.now(),
            digest_key: self.digest_key,
        };
        let tools = BaseTools {
            level: 1,
            cpu: Cpu::Inline,
            signer: self.agent.clone(),
            rng: Arc::clone(&self.rng),
        };
        let mut writer = BaseWriter::new(&self.session, draft, tools);
        let before = parent.map_or_else(Vec::new, |(_, image)| image);
        for number in changed_pages(&before, &self.image) {
            let pushed = writer.push(0, u64::from(number) - 1, 4096, page(&self.image, number));
            pushed.unwrap().iter().for_each(|pack| self.put(pack));
        }
        // A base is followed by the cut after which it is usable.
        let placeholder = BaseRef {
            generation: self.generation,
            number,
            link: Hash([0; 32]),
        };
        self.bases.push((placeholder, self.image.clone()));
        let bytes = u64::try_from(self.image.len()).unwrap();
        self.pass(1);
        let usable_from = self.ship(1);
        let finished = writer.finish(BaseEnd {
            usable_from,
            usable_link: self.prev.unwrap(),
            finished_at: self.now(),
            image_bytes: bytes,
            files: vec![FileEntry {
                path: "main".into(),
                bytes,
            }],
            facts: Facts::new(),
        });
        let finished = finished.unwrap();
        finished.packs.iter().for_each(|pack| self.put(pack));
        self.put(&finished.base);
        let reference = finished.head.reference(finished.base.link);
        self.bases.last_mut().unwrap().0 = reference;
        reference
    }

    /// The same of a file that had so many more bytes while it was read.
    pub(crate) fn fuzzy_base(&mut self, bytes: usize) -> BaseRef {
        let junk = (0..bytes.div_ceil(PAGE) * PAGE / 32).flat_map(|_| self.rng.bytes::<32>());
        let junk: Vec<u8> = junk.collect();
        self.image.extend(junk);
        self.base()
    }

    /// Ships a payload of any engine with what its head says.
    pub(crate) fn payload(
        &mut self,
        payload: &[u8],
        facts: Facts,
        commits: Option<(Timestamp, Timestamp)>,
    ) -> LogSeq {
        let draft = LogDraft {
            facts,
            transactions: u64::from(commits.is_some()),
            first_commit: commits.map(|(first, _)| first),
            ..self.draft(commits.map(|(_, last)| last))
        };
        let rng = self.rng.as_ref();
        let sealed = seal_log(&self.session, draft, payload, 1, &self.agent, rng);
        let sealed = sealed.unwrap().0;
        self.append(&sealed)
    }

    /// A complete base of whole files, usable from the log object before.
    pub(crate) fn files(&mut self, start: LogSeq, files: &[(&str, Vec<u8>)]) {
        let draft = BaseDraft {
            source: self.source.clone(),
            engine: self.engine.into(),
            incarnation: self.incarnation,
            epoch: self.epoch,
            generation: self.generation,
            number: BaseNumber(0),
            parent: None,
            start,
            started_at: self.now(),
            digest_key: self.digest_key,
        };
        let tools = BaseTools {
            level: 1,
            cpu: Cpu::Inline,
            signer: self.agent.clone(),
            rng: Arc::clone(&self.rng),
        };
        let mut writer = BaseWriter::new(&self.session, draft, tools);
        let mut table = Vec::new();
        for (number, (path, bytes)) in (0..).zip(files) {
            let mut padded = bytes.clone();
            padded.resize(bytes.len().next_multiple_of(8192), 0);
            let packs = writer.push(number, 0, 8192, &padded).unwrap();
            packs.iter().for_each(|pack| self.put(pack));
            table.push(FileEntry {
                path: (*path).into(),
                bytes: u64::try_from(bytes.len()).unwrap(),
            });
        }
        let finished = writer.finish(BaseEnd {
            usable_from: self.log_seq.previous().unwrap(),
            usable_link: self.prev.unwrap(),
            finished_at: self.now(),
            image_bytes: table.iter().map(|file| file.bytes).sum(),
            files: table,
            facts: Facts::new(),
        });
        let finished = finished.unwrap();
        finished.packs.iter().for_each(|pack| self.put(pack));
        self.put(&finished.base);
        let reference = finished.head.reference(finished.base.link);
        self.bases.push((reference, Vec::new()));
    }

    /// From here on another life of the source.
    pub(crate) fn new_life(&mut self) {
        self.incarnation = self.rng.id();
        self.new_generation();
    }

    /// From here on a new generation, whose first base is complete.
    pub(crate) fn new_generation(&mut self) {
        self.generation = self.log_seq;
        self.bases.clear();
    }

    /// From here on everything is sealed to `recipients`.
    pub(crate) fn new_session(&mut self, recipients: &[RecipientKey]) {
        let rng = Arc::clone(&self.rng);
        let begun = Session::begin(
            self.repo(),
            recipients,
            &self.agent,
            rng.as_ref(),
            self.now(),
        );
        let (session, sealed) = begun.unwrap();
        self.session = session;
        self.put(&sealed);
    }

    /// Seals a recovery point over everything shipped; `SEQ:HASH`.
    pub(crate) fn point(&mut self, name: Option<&str>) -> String {
        let (seq, prev) = match self.points.last() {
            Some((seq, link)) => (seq.next(), Some(*link)),
            None => (PointSeq(0), None),
        };
        let head = PointHead {
            repo: self.repo(),
            source: self.source.clone(),
            engine: self.engine.into(),
            incarnation: self.incarnation,
            epoch: self.epoch,
            seq,
            put: self.rng.id(),
            prev,
            at: self.now(),
            committed: self.now(),
            log_seq: self.log_seq.previous().unwrap(),
            log_link: self.prev.unwrap(),
            base: self.bases.last().unwrap().0,
            name: name.map(str::to_owned),
            clock: ClockFacts::default(),
            create_only: BTreeMap::new(),
            facts: Facts::new(),
        };
        let sealed = self.signed(keys::point(&self.source, self.epoch, seq), &head);
        self.points.push((seq, sealed.link));
        format!("{seq}:{}", sealed.link)
    }

    /// The agent's beat: caught up now.
    pub(crate) fn beat(&mut self) {
        self.beats += 1;
        let source = BeatSource {
            source: self.source.clone(),
            epoch: self.epoch,
            log_seq: self.log_seq.previous(),
            log_link: self.prev,
            caught_up_at: Some(self.now()),
            trouble: None,
        };
        let head = BeatHead {
            repo: self.repo(),
            number: self.beats,
            put: self.rng.id(),
            at: self.now(),
            host: "db-host".into(),
            clock: ClockFacts::default(),
            every_ms: 60_000,
            sources: vec![source],
            facts: Facts::new(),
        };
        self.signed(keys::beat(self.agent.public().id(), self.beats), &head);
    }

    /// The file of a log object in a region.
    pub(crate) fn log_file(&self, region: usize, seq: LogSeq) -> PathBuf {
        self.regions[region].file(keys::log(&self.source, self.epoch, seq).as_str())
    }

    /// Where restores go.
    pub(crate) fn target(&self) -> PathBuf {
        self.dir.path().join("restored.db")
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Runs a command with all regions and the identity.
    pub(crate) async fn run(&self, words: &[&str]) -> Ran {
        let regions: Vec<usize> = (0..self.regions.len()).collect();
        self.run_in(&regions, words).await
    }

    /// Runs a command with some of the regions.
    pub(crate) async fn run_in(&self, regions: &[usize], words: &[&str]) -> Ran {
        self.run_stoppable(regions, words, &CancellationToken::new())
            .await
    }

    /// The same, stoppable.
    pub(crate) async fn run_stoppable(
        &self,
        regions: &[usize],
        words: &[&str],
        stop: &CancellationToken,
    ) -> Ran {
        let mut line: Vec<String> = vec!["tidemark-restore".into()];
        line.extend(words.iter().map(|word| (*word).to_owned()));
        for region in regions {
            line.push("--region".into());
            line.push(format!("dir:{}", self.regions[*region].path.display()));
        }
        if !words.contains(&"--identity") {
            line.extend(["--identity".into(), self.path("identity")]);
        }
        line.push("--json".into());
        let cli = Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{error}"));
        let captured = Captured::new(true);
        let tools = self.tools(&captured);
        let environment = Environment {
            state_home: self.state.clone(),
            patience: self.patience,
            credentials: Some(self.dir.path().join("credentials")),
            ..Environment::default()
        };
        let ran = Box::pin(commands::run(cli, &environment, &tools, stop)).await;
        let exit = ran.unwrap_or_else(|error| report(&error, &captured.console));
        Ran {
            exit,
            out: captured.out(),
            err: captured.err(),
        }
    }

    /// What a process is given that says what it says into `captured`.
    pub(crate) fn tools(&self, captured: &Captured) -> Tools {
        Tools {
            clock: self.clock.shared(),
            rng: SystemRng::shared(),
            cpu: Cpu::pool(std::num::NonZeroUsize::new(2).unwrap()).unwrap(),
            console: captured.console.clone(),
            access: tidemark_restore_tool::evidence::access::Access::default(),
        }
    }

    /// Restores to the default target.
    pub(crate) async fn restore(&self, target: &str) -> Ran {
        self.run(&[
            "restore",
            "--to",
            target,
            "--target",
            &self.path("restored.db"),
        ])
        .await
    }

    /// Fails unless the restored file is the database as it was after `seq`.
    pub(crate) fn assert_restored(&self, seq: LogSeq) {
        let restored = fs::read(self.target()).unwrap();
        let same = self
            .images
            .iter()
            .find(|(_, image)| **image == restored)
            .map(|(seq, _)| seq);
        assert!(
            restored == self.images[&seq],
            "expected the state after {seq}, got {same:?}"
        );
        let database = Connection::open(self.target()).unwrap();
        let answer: String = database
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(answer, "ok");
        drop(database);
        fs::remove_file(self.target()).unwrap();
    }
}

/// An instant so many seconds from another one, as `--to` takes it.
pub(crate) fn moved(at: Timestamp, seconds: i64) -> String {
    at.checked_add(SignedDuration::from_secs(seconds))
        .unwrap()
        .to_string()
}

fn page(image: &[u8], number: u32) -> &[u8] {
    let from = (usize::try_from(number).unwrap() - 1) * PAGE;
    &image[from..from + PAGE]
}

fn changed_pages(before: &[u8], after: &[u8]) -> Vec<u32> {
    let pages = u32::try_from(after.len() / PAGE).unwrap();
    let old = u32::try_from(before.len() / PAGE).unwrap();
    (1..=pages)
        .filter(|n| *n > old || page(before, *n) != page(after, *n))
        .collect()
}

fn whole_digest(key: &[u8; 32], image: &[u8]) -> PageDigest {
    let pages = u32::try_from(image.len() / PAGE).unwrap();
    (1..=pages)
        .map(|number| PageDigest::of(key, number, page(image, number)))
        .fold(PageDigest::default(), PageDigest::plus)
}
