//! Objects ready to be created.

use bytes::Bytes;
use tidemark_format::{
    FormatError, Hash, Key, PutId,
    crypt::{FRAME_RAW_MAX, HEADER},
    envelope::{Envelope, Head, encode},
    sign::SigningKey,
};

use crate::{
    Error,
    cipher::{FrameNumber, ObjectKey},
};

/// An object that is complete: it only has to be created under its key, in every region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Where it belongs.
    pub key: Key,
    /// All its bytes.
    pub bytes: Bytes,
    /// The attempt's id, which stands in its head.
    pub put: PutId,
    /// Its link.
    pub link: Hash,
}

impl Sealed {
    /// An object read back from the spool, to be shipped as it is.
    ///
    /// # Errors
    /// [`FormatError`] when the bytes are no whole envelope with a put-id (a torn spool file).
    pub fn from_spool(key: Key, bytes: Bytes) -> Result<Self, FormatError> {
        #[derive(serde::Deserialize)]
        struct Put {
            put: PutId,
        }
        let envelope = Envelope::parse(&bytes)?;
        let head: Put =
            serde_json::from_slice(envelope.head_json()).map_err(|error| FormatError::Head {
                what: envelope.kind.name(),
                why: error.to_string(),
            })?;
        let link = envelope.link();
        Ok(Self {
            key,
            put: head.put,
            link,
            bytes,
        })
    }
}

/// Signs an object without a body: claims, fences, points, beats, region markers, requests,
/// keyrings. `put` must be the one in the head.
///
/// # Errors
/// [`Error::Head`] when the head is larger than it may be.
pub fn sign<H: Head>(key: Key, put: PutId, head: &H, signer: &SigningKey) -> Result<Sealed, Error> {
    let bytes = encode(head, signer, &[])?;
    let link = Hash::of(&bytes);
    Ok(Sealed {
        key,
        bytes: bytes.into(),
        put,
        link,
    })
}

/// Room kept before a body for the head that is written last, so that the body isn't moved.
const HEAD_ROOM: usize = 4096;

/// An encrypted body under construction.
#[derive(Debug)]
pub(crate) struct Body {
    bytes: Vec<u8>,
}

impl Body {
    /// Begins a body that will hold about `expected` bytes.
    pub(crate) fn new(key: &ObjectKey, expected: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEAD_ROOM + HEADER + expected);
        bytes.resize(HEAD_ROOM, 0);
        bytes.extend_from_slice(key.header());
        Self { bytes }
    }

    /// The bytes so far, without the room for the head.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(HEAD_ROOM..).unwrap_or_default()
    }

    /// Appends a frame that was sealed elsewhere.
    pub(crate) fn append(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
    }

    /// Seals `raw` as this body's next frame.
    pub(crate) fn append_frame(
        &mut self,
        key: &ObjectKey,
        raw: &[u8],
        place: FrameNumber,
        level: i32,
    ) -> Result<(), Error> {
        key.append_frame(&mut self.bytes, raw, place, level)
    }

    /// Seals all of `content` as the frames of this body, the last one marked.
    pub(crate) fn append_all(
        &mut self,
        key: &ObjectKey,
        content: &[u8],
        level: i32,
    ) -> Result<(), Error> {
        // Empty content is one empty frame: every body ends with a last frame.
        let frames = content.len().div_ceil(FRAME_RAW_MAX).max(1);
        for at in 0..frames {
            let from = at * FRAME_RAW_MAX;
            let to = content.len().min(from + FRAME_RAW_MAX);
            let number = u32::try_from(at).map_err(|_huge| Error::Encrypt)?;
            let place = FrameNumber {
                number,
                last: at + 1 == frames,
            };
            self.append_frame(key, &content[from..to], place, level)?;
        }
        Ok(())
    }

    /// Writes the head and signature before the body. Returns the object and how many bytes stand
    /// before its body.
    pub(crate) fn finish<H: Head>(
        self,
        key: Key,
        put: PutId,
        head: &H,
        signer: &SigningKey,
    ) -> Result<(Sealed, usize), Error> {
        let prefix = encode(head, signer, &[])?;
        let link = Hash::of(&prefix);
        let bytes = match HEAD_ROOM.checked_sub(prefix.len()) {
            Some(start) => {
                let mut all = self.bytes;
                all[start..HEAD_ROOM].copy_from_slice(&prefix);
                Bytes::from(all).slice(start..)
            }
            None => Bytes::from([prefix.as_slice(), self.bytes()].concat()),
        };
        Ok((
            Sealed {
                key,
                bytes,
                put,
                link,
            },
            prefix.len(),
        ))
    }
}
