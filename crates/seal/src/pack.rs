//! One pack under construction: frames come in by number, the footer is its last frame.

use std::sync::Arc;

use tidemark_format::{
    Hash, ObjectId,
    body::{FramePlace, PackFooter, PackRef, Run},
    crypt::FRAME_SEALED_MAX,
    envelope::Kind,
    heads::PackHead,
    keys,
};
use tidemark_host::RngExt;

use crate::{
    Error, Sealed, Session,
    base::{BaseDraft, BaseTools},
    cipher::{FrameNumber, ObjectKey},
    object::Body,
};

/// Stored bytes at which a pack is closed.
pub(crate) const PACK_BYTES: u64 = 8 << 20;
/// Raw bytes at which a pack is closed, however well they compress.
pub(crate) const PACK_RAW_MAX: u64 = 64 << 20;

/// A pack whose frames are being sealed.
#[derive(Debug)]
pub(crate) struct PackUnderWay {
    object: ObjectId,
    pub(crate) key: Arc<ObjectKey>,
    body: Option<Body>,
    /// By frame: where its length field stands in the body, ciphertext bytes, raw bytes.
    places: Vec<FramePlace>,
    /// Frames given out to be sealed.
    pub(crate) dispatched: u32,
    /// Raw bytes of them.
    pub(crate) raw_dispatched: u64,
    raw_arrived: u64,
    /// No more frames will be given out.
    pub(crate) closed: bool,
    /// Index of its first run in the base's list.
    pub(crate) first_run: usize,
}

impl PackUnderWay {
    pub(crate) fn new(
        session: &Session,
        draft: &BaseDraft,
        tools: &BaseTools,
        first_run: usize,
    ) -> Self {
        let object: ObjectId = tools.rng.id();
        let key = session.object_key(Kind::Pack, &draft.source, draft.incarnation, object);
        Self {
            object,
            key: Arc::new(key),
            body: None,
            places: Vec::new(),
            dispatched: 0,
            raw_dispatched: 0,
            raw_arrived: 0,
            closed: false,
            first_run,
        }
    }

    /// Stored bytes so far.
    pub(crate) fn stored(&self) -> u64 {
        self.body.as_ref().map_or(0, |body| len(body.bytes()))
    }

    /// Raw bytes that are being sealed.
    pub(crate) const fn raw_under_way(&self) -> u64 {
        self.raw_dispatched.saturating_sub(self.raw_arrived)
    }

    /// Whether all frames are in and none will follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.closed && u32::try_from(self.places.len()) == Ok(self.dispatched)
    }

    /// Appends the next frame, sealed with its length field before it.
    pub(crate) fn arrive(&mut self, frame: &[u8], raw: u32) {
        // A frame more than the mark at which it is closed: the buffer seldom grows.
        let expected = usize::try_from(PACK_BYTES).unwrap_or(0) + FRAME_SEALED_MAX;
        let body = self
            .body
            .get_or_insert_with(|| Body::new(&self.key, expected));
        self.places.push(FramePlace {
            offset: len(body.bytes()),
            sealed: u32::try_from(frame.len().saturating_sub(4)).unwrap_or(u32::MAX),
            raw,
        });
        body.append(frame);
        self.raw_arrived = self.raw_arrived.saturating_add(u64::from(raw));
    }

    /// Appends the footer, writes the head, and says how the base refers to this pack.
    pub(crate) fn finish(
        mut self,
        session: &Session,
        draft: &BaseDraft,
        tools: &BaseTools,
        runs: &[Run],
    ) -> Result<(Sealed, PackRef), Error> {
        let footer = PackFooter {
            frames: self.places.iter().map(|place| place.raw).collect(),
            runs: runs.iter().map(|run| Run { pack: 0, ..*run }).collect(),
        };
        let footer = footer.encode();
        let mut body = self
            .body
            .take()
            .unwrap_or_else(|| Body::new(&self.key, footer.len()));
        let offset = len(body.bytes());
        let last = FrameNumber {
            number: self.dispatched,
            last: true,
        };
        body.append_frame(&self.key, &footer, last, tools.level)?;
        let sealed = len(body.bytes()).saturating_sub(offset).saturating_sub(4);
        self.places.push(FramePlace {
            offset,
            sealed: narrow(sealed),
            raw: narrow(len(&footer)),
        });
        let head = PackHead {
            repo: session.repo(),
            source: draft.source.clone(),
            incarnation: draft.incarnation,
            generation: draft.generation,
            put: tools.rng.id(),
            session: session.id(),
            object: self.object,
            body_len: len(body.bytes()),
            body_hash: Hash::of(body.bytes()),
        };
        let key = keys::pack(&draft.source, draft.epoch, draft.generation, self.object);
        let (object, before_body) = body.finish(key, head.put, &head, &tools.signer)?;
        let before_body = u64::try_from(before_body).unwrap_or(u64::MAX);
        for place in &mut self.places {
            place.offset = place.offset.saturating_add(before_body);
        }
        let reference = PackRef {
            object: self.object,
            session: session.id(),
            link: object.link,
            size: len(&object.bytes),
            frames: self.places,
        };
        Ok((object, reference))
    }
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn narrow(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
