//! A small repository in memory: one agent, one session, recipients as wanted.

use std::sync::Arc;

use bytes::Bytes;
use hpke::{Deserializable, Kem as _, Serializable, kem::X25519HkdfSha256 as Kem};
use jiff::Timestamp;
use tidemark_format::{
    BaseNumber, Epoch, Hash, Incarnation, KeyId, LogSeq, PutId, RegionName, RepoId, SourceName,
    body::FileEntry,
    envelope::{Envelope, Head, encode},
    heads::{Facts, LogHead},
    recipient::{IdentityKey, RecipientKey},
    sign::SigningKey,
};
use tidemark_host::{Cpu, Rng, SystemClock, TestRng};
use tidemark_open::{Identity, Opener, RegionReader, RegionSet, SessionSecret};
use tidemark_seal::{
    BaseDraft, BaseEnd, BaseTools, BaseWriter, FinishedBase, LogDraft, Sealed, Session, seal_log,
};
use tidemark_storage::{CreateStore, MemoryStore, ReadStore};

pub(crate) const REPO: RepoId = RepoId([7; 16]);
pub(crate) const INCARNATION: Incarnation = Incarnation([3; 16]);
pub(crate) const PAGE: u32 = 4096;

pub(crate) fn identity_key(byte: u8, repo: RepoId) -> IdentityKey {
    IdentityKey {
        secret: [byte; 32],
        repo,
        root: KeyId([9; 16]),
    }
}

pub(crate) fn identity(byte: u8) -> Identity {
    Identity::from_key(identity_key(byte, REPO))
}

pub(crate) fn recipient(byte: u8) -> RecipientKey {
    let secret = <Kem as hpke::Kem>::PrivateKey::from_bytes(&[byte; 32]).unwrap();
    let public = Kem::sk_to_pk(&secret).to_bytes().into();
    RecipientKey {
        public,
        repo: REPO,
        root: KeyId([9; 16]),
    }
}

pub(crate) fn app() -> SourceName {
    SourceName::new("app").unwrap()
}

/// An agent with a session sealed to recipients 1 and 2.
pub(crate) struct World {
    pub(crate) signer: SigningKey,
    pub(crate) rng: Arc<dyn Rng>,
    pub(crate) session: Session,
    pub(crate) session_object: Sealed,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::seeded(1)
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        let signer = SigningKey::from_secret(&[5; 32]);
        let rng = TestRng::shared(seed);
        let to = [recipient(1), recipient(2)];
        let (session, session_object) =
            Session::begin(REPO, &to, &signer, rng.as_ref(), Timestamp::UNIX_EPOCH).unwrap();
        Self {
            signer,
            rng,
            session,
            session_object,
        }
    }

    pub(crate) fn secret(&self) -> SessionSecret {
        let object = &self.session_object;
        SessionSecret::open(&identity(1), &object.key, &object.bytes)
            .unwrap()
            .0
    }

    pub(crate) fn log(&self, source: &str, payload: &[u8]) -> (Sealed, LogHead) {
        let draft = draft(source);
        seal_log(
            &self.session,
            draft,
            payload,
            1,
            &self.signer,
            self.rng.as_ref(),
        )
        .unwrap()
    }

    pub(crate) fn tools(&self, cpu: Cpu) -> BaseTools {
        let rng = Arc::clone(&self.rng);
        BaseTools {
            level: 1,
            cpu,
            signer: self.signer.clone(),
            rng,
        }
    }

    pub(crate) fn base_writer(&self, cpu: Cpu) -> BaseWriter {
        BaseWriter::new(&self.session, base_draft(), self.tools(cpu))
    }

    /// A base of `pages` pages (see [`pages`]) in slices of 100, with all its packs.
    pub(crate) fn base(&self, cpu: Cpu, count: u64) -> FinishedBase {
        let mut writer = self.base_writer(cpu);
        let mut packs = Vec::new();
        let mut at = 0;
        while at < count {
            let slice = (count - at).min(100);
            packs.extend(writer.push(0, at, PAGE, &pages(at, slice)).unwrap());
            at += slice;
        }
        let mut finished = writer.finish(base_end(count)).unwrap();
        packs.append(&mut finished.packs);
        FinishedBase { packs, ..finished }
    }

    /// Signs a head over another body, as a thief with the agent's key could.
    pub(crate) fn resign<H: Head>(&self, head: &H, body: &[u8]) -> Vec<u8> {
        encode(head, &self.signer, body).unwrap()
    }
}

pub(crate) fn draft(source: &str) -> LogDraft {
    LogDraft {
        source: SourceName::new(source).unwrap(),
        engine: "sqlite".to_owned(),
        incarnation: INCARNATION,
        epoch: Epoch(1),
        seq: LogSeq(4),
        prev: Some(Hash([1; 32])),
        follows: None,
        generation: LogSeq(0),
        restorable: true,
        transactions: 2,
        first_commit: None,
        last_commit: None,
        captured_at: Timestamp::UNIX_EPOCH,
        facts: Facts::new(),
    }
}

pub(crate) fn base_draft() -> BaseDraft {
    BaseDraft {
        source: app(),
        engine: "sqlite".to_owned(),
        incarnation: INCARNATION,
        epoch: Epoch(1),
        generation: LogSeq(0),
        number: BaseNumber(0),
        parent: None,
        start: LogSeq(0),
        started_at: Timestamp::UNIX_EPOCH,
        digest_key: [8; 32],
    }
}

pub(crate) fn base_end(pages: u64) -> BaseEnd {
    let bytes = pages * u64::from(PAGE);
    BaseEnd {
        usable_from: LogSeq(3),
        usable_link: Hash([2; 32]),
        finished_at: Timestamp::UNIX_EPOCH,
        image_bytes: bytes,
        files: vec![FileEntry {
            path: "main".to_owned(),
            bytes,
        }],
        facts: Facts::new(),
    }
}

/// Pages that tell which they are: every other one is random, the rest text.
pub(crate) fn pages(first: u64, count: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for page in first..first + count {
        let mut bytes = vec![0; PAGE as usize];
        if page % 2 == 0 {
            TestRng::seeded(page).fill(&mut bytes);
        } else {
            let text = format!("page {page} of the table of orders; ");
            for (slot, byte) in bytes.iter_mut().zip(text.bytes().cycle()) {
                *slot = byte;
            }
        }
        out.extend(bytes);
    }
    out
}

pub(crate) fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    TestRng::seeded(len as u64).fill(&mut bytes);
    bytes
}

/// The body and the head of an object.
pub(crate) fn apart<H: Head>(object: &Sealed) -> (H, Vec<u8>) {
    let (envelope, head) = Envelope::open::<H>(&object.bytes).unwrap();
    (head, envelope.body.to_vec())
}

pub(crate) async fn store(store: &MemoryStore, objects: &[&Sealed]) {
    for object in objects {
        store
            .create(&object.key, object.bytes.clone(), &object.put)
            .await
            .unwrap();
    }
}

pub(crate) async fn put(store: &MemoryStore, object: &Sealed, bytes: Vec<u8>) {
    store
        .create(&object.key, Bytes::from(bytes), &PutId([0; 16]))
        .await
        .unwrap();
}

pub(crate) fn regions(stores: Vec<(&str, Arc<dyn ReadStore>)>) -> Arc<RegionSet> {
    let readers = stores
        .into_iter()
        .map(|(name, store)| RegionReader {
            name: RegionName::new(name).unwrap(),
            store,
        })
        .collect();
    Arc::new(RegionSet::new(readers, SystemClock::shared()).unwrap())
}

/// Opens with identity 1 and believes the world's agent.
pub(crate) fn opener(world: &World, regions: Arc<RegionSet>, cpu: Cpu) -> Arc<Opener> {
    let agent = world.signer.public();
    let signers = Arc::new(move |signer: &_, _kind| *signer == agent);
    Arc::new(Opener::new(identity(1), regions, signers, cpu))
}
