//! Log objects and gaps.

use jiff::Timestamp;
use tidemark_format::{
    Epoch, Hash, Incarnation, LogSeq, ObjectId, RepoId, SourceName,
    envelope::Kind,
    heads::{EpochEnd, Facts, Gap, LogHead},
    keys,
    sign::SigningKey,
};
use tidemark_host::{Rng, RngExt};

use crate::{
    Error, Sealed, Session,
    object::{self, Body},
};

/// The largest payload of a log object. Engines cut at about 8 MiB; readers bound their memory by this.
pub const LOG_PAYLOAD_MAX: usize = 64 << 20;

/// What the head of a log object says beside what sealing adds (see [`LogHead`] for the fields).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDraft {
    /// The source.
    pub source: SourceName,
    /// The engine, e.g. `sqlite`.
    pub engine: String,
    /// The source's life.
    pub incarnation: Incarnation,
    /// The writer's term.
    pub epoch: Epoch,
    /// The place in the epoch.
    pub seq: LogSeq,
    /// The link of the object before it; none for object 0.
    pub prev: Option<Hash>,
    /// In object 0 of every epoch but the first.
    pub follows: Option<EpochEnd>,
    /// The generation it belongs to; `seq` itself when it opens one.
    pub generation: LogSeq,
    /// Whether replay may end behind it.
    pub restorable: bool,
    /// Transactions that end in it.
    pub transactions: u64,
    /// When the first of them was committed.
    pub first_commit: Option<Timestamp>,
    /// When the last of them was committed.
    pub last_commit: Option<Timestamp>,
    /// When it was cut.
    pub captured_at: Timestamp,
    /// The engine's own words.
    pub facts: Facts,
}

impl LogDraft {
    fn into_head(self, repo: RepoId, rng: &dyn Rng) -> LogHead {
        LogHead {
            repo,
            source: self.source,
            engine: self.engine,
            incarnation: self.incarnation,
            epoch: self.epoch,
            seq: self.seq,
            put: rng.id(),
            prev: self.prev,
            follows: self.follows,
            generation: self.generation,
            restorable: self.restorable,
            transactions: self.transactions,
            first_commit: self.first_commit,
            last_commit: self.last_commit,
            captured_at: self.captured_at,
            gap: None,
            session: None,
            object: None,
            facts: self.facts,
            body_len: 0,
            body_hash: Hash::of(&[]),
        }
    }
}

/// Seals a log object. Computes for about 3 ms per MiB of payload: call it from a CPU pool.
///
/// # Errors
/// [`Error::TooLarge`] for a payload beyond [`LOG_PAYLOAD_MAX`]; otherwise only bugs.
pub fn seal_log(
    session: &Session,
    draft: LogDraft,
    payload: &[u8],
    level: i32,
    signer: &SigningKey,
    rng: &dyn Rng,
) -> Result<(Sealed, LogHead), Error> {
    if payload.len() > LOG_PAYLOAD_MAX {
        let (bytes, max) = (payload.len(), LOG_PAYLOAD_MAX);
        return Err(Error::TooLarge {
            what: "log payload",
            bytes,
            max,
        });
    }
    let object: ObjectId = rng.id();
    let key = session.object_key(Kind::Log, &draft.source, draft.incarnation, object);
    let mut body = Body::new(&key, payload.len() / 2);
    body.append_all(&key, payload, level)?;
    let mut head = draft.into_head(session.repo(), rng);
    head.session = Some(session.id());
    head.object = Some(object);
    head.body_len = u64::try_from(body.bytes().len()).unwrap_or(u64::MAX);
    head.body_hash = Hash::of(body.bytes());
    let name = keys::log(&head.source, head.epoch, head.seq);
    let (sealed, _before_body) = body.finish(name, head.put, &head, signer)?;
    Ok((sealed, head))
}

/// Signs a gap: the range was shipped nowhere and never will be. It can't be restored to.
///
/// # Errors
/// [`Error::Head`] when the head is larger than it may be.
pub fn gap_object(
    repo: RepoId,
    draft: LogDraft,
    gap: Gap,
    signer: &SigningKey,
    rng: &dyn Rng,
) -> Result<(Sealed, LogHead), Error> {
    let mut head = draft.into_head(repo, rng);
    head.restorable = false;
    head.gap = Some(gap);
    let name = keys::log(&head.source, head.epoch, head.seq);
    let sealed = object::sign(name, head.put, &head, signer)?;
    Ok((sealed, head))
}
