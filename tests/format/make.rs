//! Makes the golden repository: a small one with every kind of object, from a seed.
//!
//! The epochs: 1 writes log 0 to 4 with bases 0 and 1 and points 0 and 1, and is fenced in this region
//! at 4, although it ends at 4 (another region was fenced at 5), so object 4 stands under a late
//! name. Epoch 2 follows (1, 4), begins a generation of its own with a complete base, and holds a
//! gap object past its last point.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::json;
use tidemark_format::{
    BaseNumber, Epoch, Hash, Incarnation, LogSeq, PointSeq, SourceName, WriterId,
    body::{BaseIndex, FileEntry, FramePlace, PackFooter, PackRef, Run},
    envelope::Head,
    evidence,
    heads::{
        BaseRef, BeatHead, BeatSource, ClaimHead, ClaimReason, ClockFacts, EpochEnd, Facts,
        FenceHead, Gap, PointHead, RegionHead, Role,
    },
    keys,
    pages::{PageDigest, PagesHead, PagesWriter, lock_byte_page},
    restore_md,
    sign::SigningKey,
};
use tidemark_host::{Cpu, Rng, RngExt, TestRng};
use tidemark_ledger::custody::{self, IdentityFile, NewKeys};
use tidemark_seal::{
    BaseDraft, BaseEnd, BaseTools, LogDraft, Sealed, Session, gap_object, seal_log, sign,
};

const PAGE: usize = 1024;
pub(crate) const SOURCE: &str = "app";

/// The states through which the golden database goes, as whole files.
pub(crate) fn states(scratch: &Path) -> Vec<Vec<u8>> {
    let path = scratch.join("states.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(
        "PRAGMA page_size = 1024; CREATE TABLE t(id INTEGER PRIMARY KEY, word TEXT, fill BLOB)",
    )
    .unwrap();
    let mut states = vec![fs::read(&path).unwrap()];
    for round in 0i64..6 {
        for row in 0..8 {
            let fill: Vec<u8> = (0..200)
                .map(|at| u8::try_from((at * 7 + row + round) % 251).unwrap())
                .collect();
            db.execute(
                "INSERT OR REPLACE INTO t VALUES(?1, ?2, ?3)",
                rusqlite::params![round * 4 + row, format!("round {round} row {row}"), fill],
            )
            .unwrap();
        }
        if round == 4 {
            db.execute_batch("DELETE FROM t WHERE id < 12; VACUUM")
                .unwrap();
        }
        states.push(fs::read(&path).unwrap());
    }
    states
}

struct Maker {
    root: PathBuf,
    rng: Arc<dyn Rng>,
    keys: NewKeys,
    agent: SigningKey,
    session: Session,
    source: SourceName,
    incarnation: Incarnation,
    digest_key: [u8; 32],
    clock: i64,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

impl Maker {
    fn put(&self, sealed: &Sealed) {
        self.write(sealed.key.as_str(), &sealed.bytes);
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.root.join("region").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn plain(&self, name: &str, bytes: &[u8]) {
        let path = self.root.join("plain").join(name).join("golden");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn tick(&mut self) -> Timestamp {
        self.clock += 10;
        at(self.clock)
    }

    fn signed<H: Head>(&self, key: tidemark_format::Key, head: &H) -> Sealed {
        let put = self.rng.id();
        let sealed = sign(key, put, head, &self.agent).unwrap();
        self.put(&sealed);
        sealed
    }

    fn payload(&self, before: &[u8], after: &[u8], with_digest: bool) -> Vec<u8> {
        let changed = changed_pages(before, after);
        let head = PagesHead {
            page_size: u32::try_from(PAGE).unwrap(),
            database_pages: u32::try_from(after.len() / PAGE).unwrap(),
            digest_key: self.digest_key,
            digest: with_digest.then(|| whole_digest(&self.digest_key, after)),
        };
        let mut writer = PagesWriter::new(&head, &changed);
        for number in &changed {
            let from = (usize::try_from(*number).unwrap() - 1) * PAGE;
            writer.page(&after[from..from + PAGE]);
        }
        writer.finish()
    }

    fn draft(&mut self, epoch: u32, seq: u64, generation: u64, prev: Option<Hash>) -> LogDraft {
        let now = self.tick();
        LogDraft {
            source: self.source.clone(),
            engine: "sqlite".into(),
            incarnation: self.incarnation,
            epoch: Epoch(epoch),
            seq: LogSeq(seq),
            prev,
            follows: None,
            generation: LogSeq(generation),
            restorable: true,
            transactions: 8,
            first_commit: Some(now),
            last_commit: Some(now),
            captured_at: now,
            facts: Facts::from_iter([("page_size".into(), json!(PAGE))]),
        }
    }

    fn log(&self, draft: LogDraft, payload: &[u8]) -> Sealed {
        let (sealed, _head) = seal_log(
            &self.session,
            draft,
            payload,
            1,
            &self.agent,
            self.rng.as_ref(),
        )
        .unwrap();
        sealed
    }

    fn base(
        &mut self,
        draft: BaseDraft,
        image: &[u8],
        pages: &[u32],
        usable: (LogSeq, Hash),
    ) -> (Sealed, BaseRef) {
        let tools = BaseTools {
            level: 1,
            cpu: Cpu::Inline,
            signer: self.agent.clone(),
            rng: Arc::clone(&self.rng),
        };
        let finished_at = self.tick();
        let mut writer = tidemark_seal::BaseWriter::new(&self.session, draft, tools);
        for number in pages {
            let first = u64::from(*number) - 1;
            let from = usize::try_from(first).unwrap() * PAGE;
            let packs = writer
                .push(0, first, 1024, &image[from..from + PAGE])
                .unwrap();
            packs.iter().for_each(|pack| self.put(pack));
        }
        let finished = writer
            .finish(BaseEnd {
                usable_from: usable.0,
                usable_link: usable.1,
                finished_at,
                image_bytes: u64::try_from(image.len()).unwrap(),
                files: vec![FileEntry {
                    path: "main".into(),
                    bytes: u64::try_from(image.len()).unwrap(),
                }],
                facts: Facts::new(),
            })
            .unwrap();
        finished.packs.iter().for_each(|pack| self.put(pack));
        self.put(&finished.base);
        let reference = finished.head.reference(finished.base.link);
        (finished.base, reference)
    }

    fn base_draft(
        &mut self,
        epoch: u32,
        generation: u64,
        number: u32,
        parent: Option<BaseRef>,
        start: u64,
    ) -> BaseDraft {
        BaseDraft {
            source: self.source.clone(),
            engine: "sqlite".into(),
            incarnation: self.incarnation,
            epoch: Epoch(epoch),
            generation: LogSeq(generation),
            number: BaseNumber(number),
            parent,
            start: LogSeq(start),
            started_at: self.tick(),
            digest_key: self.digest_key,
        }
    }

    fn point(
        &mut self,
        epoch: u32,
        seq: u64,
        prev: Option<Hash>,
        log: (u64, Hash),
        base: BaseRef,
    ) -> Sealed {
        let now = self.tick();
        let head = PointHead {
            repo: self.keys.repo(),
            source: self.source.clone(),
            engine: "sqlite".into(),
            incarnation: self.incarnation,
            epoch: Epoch(epoch),
            seq: PointSeq(seq),
            put: self.rng.id(),
            prev,
            at: now,
            committed: now,
            log_seq: LogSeq(log.0),
            log_link: log.1,
            base,
            name: (seq == 1).then(|| "before-migration".to_owned()),
            clock: ClockFacts {
                boot_ms: 1_000,
                synchronised: Some(true),
                ..ClockFacts::default()
            },
            create_only: Default::default(),
            facts: Facts::from_iter([("host_id".into(), json!("golden"))]),
        };
        self.signed(keys::point(&head.source, head.epoch, head.seq), &head)
    }

    fn claim(&mut self, epoch: u32, reason: ClaimReason) {
        let head = ClaimHead {
            repo: self.keys.repo(),
            source: self.source.clone(),
            epoch: Epoch(epoch),
            writer: WriterId([u8::try_from(epoch).unwrap(); 16]),
            host: "golden".into(),
            put: self.rng.id(),
            at: self.tick(),
            reason,
        };
        self.signed(keys::claim(&head.source, head.epoch), &head);
    }
}

fn changed_pages(before: &[u8], after: &[u8]) -> Vec<u32> {
    let pages = after.len() / PAGE;
    let differs = |number: &usize| {
        let range = (number - 1) * PAGE..number * PAGE;
        before.get(range.clone()) != after.get(range)
    };
    (1..=pages)
        .filter(differs)
        .map(|number| u32::try_from(number).unwrap())
        .collect()
}

fn whole_digest(key: &[u8; 32], image: &[u8]) -> PageDigest {
    let lock = lock_byte_page(u32::try_from(PAGE).unwrap());
    image
        .chunks(PAGE)
        .zip(1u32..)
        .filter(|(_, number)| *number != lock)
        .fold(PageDigest::default(), |sum, (page, number)| {
            sum.plus(PageDigest::of(key, number, page))
        })
}

/// Writes the golden files below `root`. The last state is `expected.db`. Returns the agent's key.
pub(crate) fn make(root: &Path, scratch: &Path) -> SigningKey {
    let rng = TestRng::shared(20_261_121);
    let keys = NewKeys::generate(rng.as_ref(), at(0));
    let agent = custody::new_signing_key(rng.as_ref());
    let recipients = [keys.identity.recipient(), keys.escrow.recipient()];
    let (session, envelope) =
        Session::begin(keys.repo(), &recipients, &agent, rng.as_ref(), at(1)).unwrap();
    let mut maker = Maker {
        root: root.to_owned(),
        keys,
        agent,
        session,
        source: SOURCE.parse().unwrap(),
        incarnation: rng.id(),
        digest_key: rng.bytes(),
        rng,
        clock: 10,
    };
    maker.put(&envelope);
    custody_files(&maker, root);
    let states = states(scratch);
    let end = first_epoch(&mut maker, &states);
    second_epoch(&mut maker, &states, end);
    others(&mut maker, &states);
    fs::write(root.join("expected.db"), &states[5]).unwrap();
    maker.agent
}

fn custody_files(maker: &Maker, root: &Path) {
    let keys = &maker.keys;
    fs::create_dir_all(root.join("text")).unwrap();
    fs::write(
        root.join("text/identity"),
        IdentityFile::text(&keys.identity).as_bytes(),
    )
    .unwrap();
    fs::write(
        root.join("text/recipient"),
        keys.identity.recipient().to_string(),
    )
    .unwrap();
    fs::write(root.join("text/secret"), keys.escrow.key.reveal()).unwrap();
    fs::write(
        root.join("text/key"),
        "meta/log/app/00000001/0000000000000004",
    )
    .unwrap();
    let member = custody::member(Role::Agent, maker.agent.public(), "golden".into(), at(2));
    let entries = vec![keys.identity.entry(), keys.escrow.entry()];
    let first =
        custody::first_keyring(&keys.root, entries, vec![member], maker.rng.id(), at(2)).unwrap();
    maker.write(first.key.as_str(), &first.bytes);
    let region = RegionHead {
        repo: keys.repo(),
        region: maker.rng.id(),
        put: maker.rng.id(),
        at: at(3),
    };
    maker.signed(keys::region(), &region);
    maker.write(keys::README, restore_md::text(keys.repo()).as_bytes());
    let asks = SigningKey::from_secret(&[9; 32]);
    let request = custody::enrol_request(
        keys.repo(),
        Role::Drill,
        "drill host",
        &asks,
        maker.rng.id(),
        at(4),
    )
    .unwrap();
    maker.write(request.key.as_str(), &request.bytes);
}

fn first_epoch(maker: &mut Maker, states: &[Vec<u8>]) -> EpochEnd {
    maker.claim(1, ClaimReason::New);
    let all = |image: &[u8]| changed_pages(&[], image);
    // Object 0 opens the generation; base 0 is read while objects 0 and 1 are written, with the
    // pages of an older state: replay from its start makes them right.
    let base_draft = maker.base_draft(1, 0, 0, None, 0);
    let mut links = Vec::new();
    for seq in 0..5u64 {
        let state = usize::try_from(seq).unwrap();
        let before = if seq == 0 {
            Vec::new()
        } else {
            states[state - 1].clone()
        };
        let payload = maker.payload(&before, &states[state], seq > 0);
        let draft = maker.draft(1, seq, 0, links.last().copied());
        let mut sealed = maker.log(draft, &payload);
        links.push(sealed.link);
        if seq == 4 {
            sealed.key = keys::late_log(&maker.source, Epoch(1), LogSeq(4));
        }
        maker.put(&sealed);
    }
    let (_base, zero) = maker.base(
        base_draft,
        &states[0],
        &all(&states[0]),
        (LogSeq(1), links[1]),
    );
    let point = maker.point(1, 0, None, (1, links[1]), zero);
    let draft = maker.base_draft(1, 0, 1, Some(zero), 2);
    let changed = changed_pages(&states[0], &states[2]);
    let (_base, one) = maker.base(draft, &states[2], &changed, (LogSeq(2), links[2]));
    maker.point(1, 1, Some(point.link), (3, links[3]), one);
    let fence = FenceHead {
        repo: maker.keys.repo(),
        source: maker.source.clone(),
        epoch: Epoch(1),
        seq: LogSeq(4),
        put: maker.rng.id(),
        by_epoch: Epoch(2),
        by_writer: WriterId([2; 16]),
        at: maker.tick(),
    };
    maker.signed(keys::log(&fence.source, fence.epoch, fence.seq), &fence);
    EpochEnd {
        epoch: Epoch(1),
        seq: Some(LogSeq(4)),
        link: Some(links[4]),
    }
}

fn second_epoch(maker: &mut Maker, states: &[Vec<u8>], end: EpochEnd) {
    maker.claim(2, ClaimReason::TakeOver);
    maker.digest_key = maker.rng.bytes();
    let base_draft = maker.base_draft(2, 0, 0, None, 0);
    let payload = maker.payload(&states[4], &states[5], true);
    let mut draft = maker.draft(2, 0, 0, None);
    draft.follows = Some(end);
    let zero = maker.log(draft, &payload);
    maker.put(&zero);
    let all = changed_pages(&[], &states[5]);
    let (_base, base) = maker.base(base_draft, &states[5], &all, (LogSeq(0), zero.link));
    maker.point(2, 0, None, (0, zero.link), base);
    let mut draft = maker.draft(2, 1, 0, Some(zero.link));
    draft.transactions = 0;
    (draft.first_commit, draft.last_commit) = (None, None);
    let gap = Gap {
        reason: "the spool was full".into(),
        since: Some(at(maker.clock)),
    };
    let (sealed, _head) = gap_object(
        maker.keys.repo(),
        draft,
        gap,
        &maker.agent,
        maker.rng.as_ref(),
    )
    .unwrap();
    maker.put(&sealed);
    let beat = BeatHead {
        repo: maker.keys.repo(),
        number: 7,
        put: maker.rng.id(),
        at: maker.tick(),
        host: "golden".into(),
        clock: ClockFacts::default(),
        every_ms: 60_000,
        sources: vec![BeatSource {
            source: maker.source.clone(),
            epoch: Epoch(2),
            log_seq: Some(LogSeq(0)),
            log_link: Some(zero.link),
            caught_up_at: Some(at(maker.clock)),
            trouble: None,
        }],
        facts: Facts::new(),
    };
    maker.signed(keys::beat(maker.agent.public().id(), 7), &beat);
}

/// Evidence, and the plain insides of encrypted bodies.
fn others(maker: &mut Maker, states: &[Vec<u8>]) {
    let statement = evidence::Statement {
        statement_type: evidence::STATEMENT_TYPE.into(),
        subject: vec![],
        predicate_type: "https://tidemark.dev/restore-drill/v1".into(),
        predicate: evidence::Predicate {
            seq: 0,
            prev_sha256: None,
            created_at: maker.tick(),
            rest: serde_json::Map::from_iter([("verdict".to_owned(), json!("PASS"))]),
        },
    };
    let record = evidence::encode(&statement, &maker.agent).unwrap();
    let key = keys::evidence(maker.agent.public().id(), 0);
    maker.write(key.as_str(), &record);
    let run = Run {
        file: 0,
        first: 3,
        count: 2,
        page_size: 1024,
        pack: 0,
        frame: 0,
        offset: 0,
    };
    let index = BaseIndex {
        digest_key: maker.digest_key,
        files: vec![FileEntry {
            path: "main".into(),
            bytes: 9 * 1024,
        }],
        packs: vec![PackRef {
            object: maker.rng.id(),
            session: maker.rng.id(),
            link: Hash::of(b"golden"),
            size: 4096,
            frames: vec![
                FramePlace {
                    offset: 700,
                    sealed: 1500,
                    raw: 2048,
                },
                FramePlace {
                    offset: 2204,
                    sealed: 60,
                    raw: 20,
                },
            ],
        }],
        runs: vec![run],
    };
    maker.plain("base-index", &index.encode());
    maker.plain(
        "pack-footer",
        &PackFooter {
            frames: vec![2048],
            runs: vec![run],
        }
        .encode(),
    );
    maker.plain("pages", &maker.payload(&states[1], &states[2], true));
}
