//! A repository in memory, written as an agent would write it.

use std::sync::Arc;

use jiff::Timestamp;
use tidemark_format::envelope;
use tidemark_format::heads::{
    BaseHead, BaseRef, BeatHead, BeatSource, ClaimHead, ClaimReason, ClockFacts, EpochEnd, Facts,
    FenceHead, Gap, KeyringHead, LogHead, Member, PointHead, Role,
};
use tidemark_format::sign::SigningKey;
use tidemark_format::{
    BaseNumber, Epoch, Hash, Incarnation, Key, LogSeq, ObjectId, PointSeq, SessionId, SourceName,
    WriterId, keys,
};
use tidemark_host::{RngExt as _, TestRng};
use tidemark_ledger::custody::{Change, NewKeys, amend, first_keyring, member};
use tidemark_ledger::history::{Beats, LoadOptions, SourceHistory};
use tidemark_ledger::{Keyring, Result, Signed};
use tidemark_storage::{CreateStore as _, MemoryStore, ReadStore};

pub(crate) fn second(n: i64) -> Timestamp {
    Timestamp::from_second(n).unwrap()
}

pub(crate) fn app() -> SourceName {
    SourceName::new("app").unwrap()
}

/// A region, its repository's keys, and one enrolled agent.
#[derive(Debug)]
pub(crate) struct Repo {
    pub(crate) store: MemoryStore,
    pub(crate) keys: NewKeys,
    pub(crate) agent: SigningKey,
    pub(crate) rng: TestRng,
}

impl Repo {
    pub(crate) async fn new() -> Self {
        let rng = TestRng::seeded(11);
        let keys = NewKeys::generate(&rng, second(1));
        let agent = SigningKey::from_secret(&[1; 32]);
        let repo = Self {
            store: MemoryStore::new("a"),
            keys,
            agent,
            rng,
        };
        let recipients = vec![repo.keys.identity.entry(), repo.keys.escrow.entry()];
        let agent = member(
            Role::Agent,
            repo.agent.public(),
            "db-1".to_owned(),
            second(1),
        );
        let first = first_keyring(
            &repo.keys.root,
            recipients,
            vec![agent],
            repo.rng.id(),
            second(1),
        );
        repo.put(&first.unwrap()).await;
        repo
    }

    pub(crate) async fn put(&self, object: &Signed) {
        object.create(&self.store).await.unwrap();
    }

    pub(crate) async fn keyring(&self) -> Arc<Keyring> {
        Arc::new(
            Keyring::load(&self.store, &self.keys.root.trust())
                .await
                .unwrap(),
        )
    }

    pub(crate) async fn change(&self, changes: Vec<Change>) {
        let keyring = self.keyring().await;
        let next = amend(
            &keyring,
            &self.keys.root,
            changes,
            self.rng.id(),
            second(500),
        )
        .unwrap();
        self.put(&next).await;
    }

    pub(crate) async fn enrol(&self, key: &SigningKey) {
        let new: Member = member(Role::Agent, key.public(), "db-2".to_owned(), second(2));
        self.change(vec![Change::AddMember(new)]).await;
    }

    pub(crate) async fn history(&self) -> Result<SourceHistory> {
        self.history_in(&self.store).await
    }

    pub(crate) async fn history_in(&self, store: &MemoryStore) -> Result<SourceHistory> {
        let keyring = self.keyring().await;
        let beats = Beats::load(store, &keyring).await?;
        let store: Arc<dyn ReadStore> = Arc::new(store.clone());
        SourceHistory::load(store, keyring, &app(), &beats, &LoadOptions::default()).await
    }

    /// A copy of the region, without the keys for which `leave_out` holds.
    pub(crate) async fn copy(&self, leave_out: impl Fn(&Key) -> bool) -> MemoryStore {
        let copy = MemoryStore::new("b");
        for key in self.store.keys().into_iter().filter(|key| !leave_out(key)) {
            let bytes = self.store.get(&key).await.unwrap();
            copy.create(&key, bytes, &self.rng.id()).await.unwrap();
        }
        copy
    }

    pub(crate) fn keyring_head(&self) -> KeyringHead {
        KeyringHead {
            repo: self.keys.repo(),
            version: 1,
            prev: None,
            put: self.rng.id(),
            at: second(1),
            members: Vec::new(),
            recipients: vec![self.keys.identity.entry()],
            more: Facts::new(),
        }
    }
}

/// One epoch being written.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) repo: &'a Repo,
    pub(crate) epoch: Epoch,
    pub(crate) key: SigningKey,
    pub(crate) links: Vec<Hash>,
    pub(crate) points: Vec<Hash>,
    pub(crate) base: Option<BaseRef>,
}

impl<'a> Writer<'a> {
    /// Claims an epoch.
    pub(crate) async fn claim(repo: &'a Repo, epoch: u32, key: &SigningKey) -> Self {
        let claim = ClaimHead {
            repo: repo.keys.repo(),
            source: app(),
            epoch: Epoch(epoch),
            writer: WriterId([u8::try_from(epoch).unwrap(); 16]),
            host: "db".to_owned(),
            put: repo.rng.id(),
            at: second(10),
            reason: ClaimReason::New,
        };
        repo.put(&Signed::new(&claim, key).unwrap()).await;
        let (links, points) = (Vec::new(), Vec::new());
        Self {
            repo,
            epoch: Epoch(epoch),
            key: key.clone(),
            links,
            points,
            base: None,
        }
    }

    pub(crate) fn next(&self) -> LogSeq {
        LogSeq(self.links.len() as u64)
    }

    /// The head of the next log object: one every ten seconds from 100 on.
    pub(crate) fn head(&self) -> LogHead {
        let seq = self.next();
        let at = second(100 + 10 * i64::try_from(seq.0).unwrap());
        LogHead {
            repo: self.repo.keys.repo(),
            source: app(),
            engine: "sqlite".to_owned(),
            incarnation: Incarnation([5; 16]),
            epoch: self.epoch,
            seq,
            put: self.repo.rng.id(),
            prev: self.links.last().copied(),
            follows: None,
            generation: LogSeq(0),
            restorable: true,
            transactions: 1,
            first_commit: Some(at),
            last_commit: Some(at),
            captured_at: at,
            gap: None,
            session: Some(SessionId([1; 16])),
            object: Some(ObjectId([2; 16])),
            facts: std::collections::BTreeMap::new(),
            body_len: 4,
            body_hash: Hash::of(b"body"),
        }
    }

    /// Ships one log object as `head` says.
    pub(crate) async fn ship_head(&mut self, head: &LogHead) -> Key {
        let body: &[u8] = if head.gap.is_some() { b"" } else { b"body" };
        let bytes = envelope::encode(head, &self.key, body).unwrap();
        let key = keys::log(&app(), head.epoch, head.seq);
        self.links
            .push(Hash::of(&bytes[..bytes.len() - body.len()]));
        self.repo
            .store
            .create(&key, bytes.into(), &head.put)
            .await
            .unwrap();
        key
    }

    pub(crate) async fn ship(&mut self, count: usize) {
        for _ in 0..count {
            let head = self.head();
            self.ship_head(&head).await;
        }
    }

    pub(crate) async fn ship_gap(&mut self) {
        let gap = Gap {
            reason: "spool full".to_owned(),
            since: None,
        };
        let head = LogHead {
            gap: Some(gap),
            restorable: false,
            body_len: 0,
            body_hash: Hash::of(b""),
            ..self.head()
        };
        self.ship_head(&head).await;
    }

    pub(crate) async fn follow(&mut self, end: EpochEnd) {
        let head = LogHead {
            follows: Some(end),
            ..self.head()
        };
        self.ship_head(&head).await;
    }

    pub(crate) fn end_at(&self, seq: u64) -> EpochEnd {
        let link = self.links[usize::try_from(seq).unwrap()];
        EpochEnd {
            epoch: self.epoch,
            seq: Some(LogSeq(seq)),
            link: Some(link),
        }
    }

    /// A base over the first objects, usable from `usable_from`: the first complete, each later one upon it.
    pub(crate) async fn base(&mut self, usable_from: u64) {
        let number = self.base.map_or(BaseNumber(0), |base| base.number.next());
        let head = BaseHead {
            repo: self.repo.keys.repo(),
            source: app(),
            engine: "sqlite".to_owned(),
            incarnation: Incarnation([5; 16]),
            epoch: self.epoch,
            generation: LogSeq(0),
            number,
            put: self.repo.rng.id(),
            parent: self.base,
            start: LogSeq(0),
            usable_from: LogSeq(usable_from),
            usable_link: self.links[usize::try_from(usable_from).unwrap()],
            started_at: second(100),
            finished_at: second(110),
            image_bytes: 1,
            changed_bytes: 1,
            stored_bytes: 1,
            packs: 1,
            session: SessionId([1; 16]),
            object: ObjectId([2; 16]),
            facts: std::collections::BTreeMap::new(),
            body_len: 4,
            body_hash: Hash::of(b"body"),
        };
        let bytes = envelope::encode(&head, &self.key, b"body").unwrap();
        let link = Hash::of(&bytes[..bytes.len() - 4]);
        self.base = Some(head.reference(link));
        let key = keys::base(&app(), self.epoch, LogSeq(0), number);
        self.repo
            .store
            .create(&key, bytes.into(), &head.put)
            .await
            .unwrap();
    }

    pub(crate) fn point_head(&self, log_seq: u64) -> PointHead {
        PointHead {
            repo: self.repo.keys.repo(),
            source: app(),
            engine: "sqlite".to_owned(),
            incarnation: Incarnation([5; 16]),
            epoch: self.epoch,
            seq: PointSeq(self.points.len() as u64),
            put: self.repo.rng.id(),
            prev: self.points.last().copied(),
            at: second(105 + 10 * i64::try_from(log_seq).unwrap()),
            committed: second(105 + 10 * i64::try_from(log_seq).unwrap()),
            log_seq: LogSeq(log_seq),
            log_link: self.links[usize::try_from(log_seq).unwrap()],
            base: self.base.unwrap(),
            name: None,
            clock: ClockFacts::default(),
            create_only: std::collections::BTreeMap::new(),
            facts: std::collections::BTreeMap::new(),
        }
    }

    pub(crate) async fn point(&mut self, log_seq: u64) {
        let signed = Signed::new(&self.point_head(log_seq), &self.key).unwrap();
        self.points.push(signed.link);
        self.repo.put(&signed).await;
    }

    pub(crate) async fn fence(&self, seq: u64, by: u32, key: &SigningKey) {
        let head = FenceHead {
            repo: self.repo.keys.repo(),
            source: app(),
            epoch: self.epoch,
            seq: LogSeq(seq),
            put: self.repo.rng.id(),
            by_epoch: Epoch(by),
            by_writer: WriterId([9; 16]),
            at: second(300),
        };
        self.repo.put(&Signed::new(&head, key).unwrap()).await;
    }

    pub(crate) async fn beat(&self, number: u64, log_seq: u64, caught_up_at: i64) {
        let source = BeatSource {
            source: app(),
            epoch: self.epoch,
            log_seq: Some(LogSeq(log_seq)),
            log_link: Some(self.links[usize::try_from(log_seq).unwrap()]),
            caught_up_at: Some(second(caught_up_at)),
            trouble: None,
        };
        let head = BeatHead {
            repo: self.repo.keys.repo(),
            number,
            put: self.repo.rng.id(),
            at: second(caught_up_at),
            host: "db".to_owned(),
            clock: ClockFacts::default(),
            every_ms: 60_000,
            sources: vec![source],
            facts: std::collections::BTreeMap::new(),
        };
        self.repo.put(&Signed::new(&head, &self.key).unwrap()).await;
    }
}

/// Ten objects, a base usable from 1, points at 3 and 6.
pub(crate) async fn plain(repo: &Repo) -> Writer<'_> {
    let mut writer = Writer::claim(repo, 1, &repo.agent).await;
    writer.ship(10).await;
    writer.base(1).await;
    writer.point(3).await;
    writer.point(6).await;
    writer
}
