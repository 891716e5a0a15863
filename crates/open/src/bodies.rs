//! Whole objects with their session's secret: pure functions over bytes.
//!
//! Each checks signature, body hash, that the head fits the key it was read from, the crypt header
//! against the head, the key commitment, and every frame in order up to the marked last one. Whether
//! the signer may sign, or the link is the one in a chain, is the caller's question.

use tidemark_format::{
    Incarnation, Key, ObjectId, SourceName,
    body::{BaseIndex, PackFooter, PackRef},
    crypt::{CryptHeader, FRAME_LEN, FRAME_RAW_MAX, FRAME_SEALED_MAX, Frames, TAG, source_tag},
    envelope::{Envelope, Kind},
    heads::{BaseHead, LogHead, PackHead},
    keys,
};
use tidemark_storage::OBJECT_BYTES_MAX;

use crate::{
    Error, Result, SessionSecret,
    cipher::{FrameNumber, ObjectKey},
};

/// The most that a log object's payload may hold: what `seal` refuses to exceed.
pub const LOG_BYTES_MAX: usize = 64 << 20;

/// A pack, read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedPack {
    /// Its head.
    pub head: PackHead,
    /// What stands in its frames.
    pub footer: PackFooter,
}

/// Opens a log object that was read from `key`, with at most `max` bytes of payload.
///
/// # Errors
/// Of kind `Integrity`; also for a gap, which holds nothing to open.
pub fn open_log(
    key: &Key,
    bytes: &[u8],
    secret: &SessionSecret,
    max: usize,
) -> Result<(LogHead, Vec<u8>)> {
    let mut payload = Vec::new();
    let head = open_log_into(key, bytes, secret, max, &mut payload)?;
    Ok((head, payload))
}

/// The same, into a buffer that is empty.
pub(crate) fn open_log_into(
    key: &Key,
    bytes: &[u8],
    secret: &SessionSecret,
    max: usize,
    payload: &mut Vec<u8>,
) -> Result<LogHead> {
    let (envelope, head) = Envelope::open::<LogHead>(bytes).map_err(Error::format(key))?;
    let place = keys::log(&head.source, head.epoch, head.seq);
    if place != *key && keys::late_log(&head.source, head.epoch, head.seq) != *key {
        return Err(misplaced(key, "it says that it stands elsewhere"));
    }
    let (Some(session), Some(object)) = (head.session, head.object) else {
        return Err(misplaced(key, "it is a gap, which holds nothing"));
    };
    let owner = Owner {
        source: &head.source,
        incarnation: head.incarnation,
        object,
    };
    if session != secret.session() || head.repo != secret.repo() {
        return Err(misplaced(
            key,
            "it belongs to another session or repository",
        ));
    }
    let cipher = owner.key(Kind::Log, secret);
    open_all(key, envelope.body, &cipher, max, payload)?;
    Ok(head)
}

/// Opens a base that was read from `key`, with at most `max` bytes of index.
///
/// # Errors
/// Of kind `Integrity`.
pub fn open_base(
    key: &Key,
    bytes: &[u8],
    secret: &SessionSecret,
    max: usize,
) -> Result<(BaseHead, BaseIndex)> {
    let (envelope, head) = Envelope::open::<BaseHead>(bytes).map_err(Error::format(key))?;
    if keys::base(&head.source, head.epoch, head.generation, head.number) != *key {
        return Err(misplaced(key, "it says that it stands elsewhere"));
    }
    if head.session != secret.session() || head.repo != secret.repo() {
        return Err(misplaced(
            key,
            "it belongs to another session or repository",
        ));
    }
    let owner = Owner {
        source: &head.source,
        incarnation: head.incarnation,
        object: head.object,
    };
    let cipher = owner.key(Kind::Base, secret);
    let mut index = Vec::new();
    open_all(key, envelope.body, &cipher, max, &mut index)?;
    let index = BaseIndex::decode(&index).map_err(Error::format(key))?;
    check_index(key, &head, &index)?;
    Ok((head, index))
}

/// Opens a pack that was read from `key`, handing the content of every data frame to `frame`.
///
/// # Errors
/// Of kind `Integrity`.
pub fn open_pack(
    key: &Key,
    bytes: &[u8],
    secret: &SessionSecret,
    mut frame: impl FnMut(u32, &[u8]),
) -> Result<OpenedPack> {
    let (envelope, head) = Envelope::open::<PackHead>(bytes).map_err(Error::format(key))?;
    if key.file_name() != head.object.to_string() {
        return Err(misplaced(key, "it says that it has another name"));
    }
    if head.session != secret.session() || head.repo != secret.repo() {
        return Err(misplaced(
            key,
            "it belongs to another session or repository",
        ));
    }
    let owner = Owner {
        source: &head.source,
        incarnation: head.incarnation,
        object: head.object,
    };
    let cipher = owner.key(Kind::Pack, secret);
    let mut raw = Vec::new();
    let mut content = Vec::new();
    let mut footer = None;
    let mut frames = Frames::new(cipher.check_header(key, envelope.body)?);
    while let Some(found) = frames.next_frame().map_err(Error::format(key))? {
        content.clear();
        let place = FrameNumber {
            number: found.number,
            last: found.last,
        };
        let bytes = cipher.open_frame(key, found.sealed, place, &mut content)?;
        if found.last {
            footer = Some(PackFooter::decode(&content).map_err(Error::format(key))?);
        } else {
            raw.push(u32::try_from(bytes).unwrap_or(u32::MAX));
            frame(found.number, &content);
        }
    }
    match footer {
        Some(footer) if footer.frames == raw => Ok(OpenedPack { head, footer }),
        Some(_) => Err(misplaced(key, "its footer describes other frames")),
        None => Err(misplaced(key, "it has no footer")),
    }
}

/// What an object's key is derived from, beside the secret.
#[derive(Debug)]
pub(crate) struct Owner<'a> {
    pub(crate) source: &'a SourceName,
    pub(crate) incarnation: Incarnation,
    pub(crate) object: ObjectId,
}

impl Owner<'_> {
    pub(crate) fn key(&self, kind: Kind, secret: &SessionSecret) -> ObjectKey {
        let header = CryptHeader {
            kind,
            repo: secret.repo(),
            source: source_tag(self.source),
            incarnation: self.incarnation,
            object: self.object,
            session: secret.session(),
        };
        ObjectKey::derive(secret, &header)
    }
}

fn misplaced(key: &Key, why: &'static str) -> Error {
    Error::Misplaced {
        key: key.to_string(),
        why,
    }
}

/// All content of a body, at most `max` bytes of it.
fn open_all(
    key: &Key,
    body: &[u8],
    cipher: &ObjectKey,
    max: usize,
    content: &mut Vec<u8>,
) -> Result<()> {
    let mut frames = Frames::new(cipher.check_header(key, body)?);
    let mut ended = false;
    while let Some(frame) = frames.next_frame().map_err(Error::format(key))? {
        let place = FrameNumber {
            number: frame.number,
            last: frame.last,
        };
        cipher.open_frame(key, frame.sealed, place, content)?;
        // A frame holds 1 MiB at most: the cap is overrun by no more than that.
        if content.len() > max {
            return Err(Error::TooLarge {
                key: key.to_string(),
                max,
            });
        }
        ended = frame.last;
    }
    if ended {
        Ok(())
    } else {
        Err(misplaced(key, "its body has no last frame"))
    }
}

/// What the format crate can't know of an index: that its places are possible.
fn check_index(key: &Key, head: &BaseHead, index: &BaseIndex) -> Result<()> {
    if usize::try_from(head.packs) != Ok(index.packs.len()) {
        return Err(misplaced(key, "its head counts other packs than its index"));
    }
    if !index.packs.iter().all(pack_is_possible) {
        return Err(misplaced(key, "its index describes an impossible pack"));
    }
    let in_data = |pack: u32, frame: u32| {
        let pack = usize::try_from(pack)
            .ok()
            .and_then(|at| index.packs.get(at));
        pack.is_some_and(|pack| (frame as usize) < pack.frames.len().saturating_sub(1))
    };
    if !index.runs.iter().all(|run| in_data(run.pack, run.frame)) {
        return Err(misplaced(key, "its index points into a pack's footer"));
    }
    Ok(())
}

fn pack_is_possible(pack: &PackRef) -> bool {
    let mut end = 0;
    let frame_len = FRAME_LEN as u64;
    let ordered = pack.frames.iter().all(|place| {
        let sealed = usize::try_from(place.sealed).unwrap_or(usize::MAX);
        let raw = usize::try_from(place.raw).unwrap_or(usize::MAX);
        let fits = (TAG..=FRAME_SEALED_MAX).contains(&sealed) && raw <= FRAME_RAW_MAX;
        let follows = place.offset >= end;
        let next = place
            .offset
            .checked_add(frame_len + u64::from(place.sealed));
        end = next.unwrap_or(u64::MAX);
        fits && follows && next.is_some()
    });
    ordered && end == pack.size && pack.size <= OBJECT_BYTES_MAX && !pack.frames.is_empty()
}
