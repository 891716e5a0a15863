//! The encrypted body: a 128-byte header and its frames. Layout only; ciphers are in `seal` and `open`.
//!
//! ```text
//!   0   8  "TMCRYPT1"
//!   8   1  suite, 1     9  1  kind     10  2  zero
//!  12   4  largest raw frame, little-endian (1 MiB)
//!  16  16  repository
//!  32  16  source tag: the first 16 bytes of BLAKE3(name)
//!  48  16  incarnation
//!  64  16  object id
//!  80  16  session id
//!  96  32  key commitment
//! 128      frames: length of the ciphertext (u32, little-endian), then the ciphertext with its tag
//! ```
//!
//! - Object key ‖ commitment = HKDF-SHA256(ikm = session secret, salt = object id,
//!   info = "tidemark-v1 object" ‖ header bytes 0 .. 96), 64 bytes.
//! - A frame's plaintext is one zstd frame of at most 1 MiB of content, its content size stated.
//! - Nonce = seven zero bytes ‖ frame number (u32, big-endian) ‖ 1 for the last frame, else 0.
//! - Associated data = the 128 header bytes. So nothing can be moved to another place, and an
//!   object cut at a frame's end has no last frame.
//!
//! The header is derivable from the signed head and the key, so a single frame can be fetched by
//! range and opened without it.

use crate::{
    FormatError, Incarnation, ObjectId, RepoId, SessionId, SourceName,
    envelope::{Kind, SUITE},
    wire::Reader,
};

/// The first bytes of an encrypted body.
pub const MAGIC: [u8; 8] = *b"TMCRYPT1";
/// Length of the header.
pub const HEADER: usize = 128;
/// Bytes of the header that key derivation binds: all but the commitment.
pub const BOUND: usize = 96;
/// Most raw bytes in a frame.
pub const FRAME_RAW_MAX: usize = 1 << 20;
/// Most ciphertext bytes in a frame: what zstd may add to incompressible data, and the tag.
pub const FRAME_SEALED_MAX: usize = FRAME_RAW_MAX + 16 * 1024;
/// Bytes of a frame's length.
pub const FRAME_LEN: usize = 4;
/// Bytes of an AES-GCM tag.
pub const TAG: usize = 16;
/// HKDF's info prefix for object keys.
pub const OBJECT_INFO: &[u8] = b"tidemark-v1 object";
/// HKDF's info for the commitment of a session's secret.
pub const SESSION_COMMITMENT_INFO: &[u8] = b"tidemark-v1 session commitment";
/// HPKE's info prefix; the repository's and the session's id follow.
pub const HPKE_INFO: &[u8] = b"tidemark-v1 session";

/// What an encrypted body belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CryptHeader {
    /// The kind of object.
    pub kind: Kind,
    /// The repository.
    pub repo: RepoId,
    /// The source's tag.
    pub source: [u8; 16],
    /// The source's life.
    pub incarnation: Incarnation,
    /// The object.
    pub object: ObjectId,
    /// The session.
    pub session: SessionId,
}

/// The tag by which a source stands in crypt headers.
#[must_use]
pub fn source_tag(source: &SourceName) -> [u8; 16] {
    let mut tag = [0u8; 16];
    blake3::Hasher::new()
        .update(source.as_str().as_bytes())
        .finalize_xof()
        .fill(&mut tag);
    tag
}

impl CryptHeader {
    /// The 96 bytes that key derivation binds.
    #[must_use]
    pub fn bound_bytes(&self) -> [u8; BOUND] {
        let mut out = [0u8; BOUND];
        let frame = u32::try_from(FRAME_RAW_MAX)
            .unwrap_or(u32::MAX)
            .to_le_bytes();
        let parts: [&[u8]; 8] = [
            &MAGIC,
            &[SUITE, self.kind.number(), 0, 0],
            &frame,
            &self.repo.0,
            &self.source,
            &self.incarnation.0,
            &self.object.0,
            &self.session.0,
        ];
        for (slot, byte) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *slot = *byte;
        }
        out
    }

    /// The whole header.
    #[must_use]
    pub fn bytes(&self, commitment: &[u8; 32]) -> [u8; HEADER] {
        let mut out = [0u8; HEADER];
        let bound = self.bound_bytes();
        for (slot, byte) in out.iter_mut().zip(bound.iter().chain(commitment)) {
            *slot = *byte;
        }
        out
    }

    /// Reads a header and its commitment.
    ///
    /// # Errors
    /// [`FormatError`] when it isn't one.
    pub fn parse(bytes: &[u8]) -> Result<(Self, [u8; 32]), FormatError> {
        let mut reader = Reader::new(bytes, "encrypted body");
        if reader.array::<8>()? != MAGIC {
            return Err(reader.invalid("the magic is missing"));
        }
        let suite = reader.u8()?;
        if suite != SUITE {
            return Err(FormatError::Suite(suite));
        }
        let kind = Kind::from_number(reader.u8()?)
            .ok_or_else(|| reader.invalid("the kind of object is unknown"))?;
        let zero = reader.array::<2>()?;
        let frame = reader.u32()?;
        if zero != [0, 0] || usize::try_from(frame) != Ok(FRAME_RAW_MAX) {
            return Err(reader.invalid("a fixed field has another value"));
        }
        let header = Self {
            kind,
            repo: RepoId(reader.array()?),
            source: reader.array()?,
            incarnation: Incarnation(reader.array()?),
            object: ObjectId(reader.array()?),
            session: SessionId(reader.array()?),
        };
        Ok((header, reader.array()?))
    }
}

/// The nonce of frame `number`.
#[must_use]
pub fn nonce(number: u32, last: bool) -> [u8; 12] {
    let [a, b, c, d] = number.to_be_bytes();
    [0, 0, 0, 0, 0, 0, 0, a, b, c, d, u8::from(last)]
}

/// Splits a body into its frames' ciphertexts.
#[derive(Debug)]
pub struct Frames<'a> {
    reader: Reader<'a>,
    number: u32,
}

/// One frame's ciphertext and place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its number.
    pub number: u32,
    /// Whether the body ends with it.
    pub last: bool,
    /// Ciphertext and tag.
    pub sealed: &'a [u8],
}

impl<'a> Frames<'a> {
    /// Reads the frames behind the header.
    #[must_use]
    pub const fn new(after_header: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(after_header, "frame"),
            number: 0,
        }
    }

    /// The next frame; `None` behind the last.
    ///
    /// # Errors
    /// [`FormatError`] when a length is impossible or the bytes end early.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'a>>, FormatError> {
        if self.reader.remaining() == 0 {
            return Ok(None);
        }
        let len = usize::try_from(self.reader.u32()?).unwrap_or(usize::MAX);
        if !(TAG..=FRAME_SEALED_MAX).contains(&len) {
            return Err(self.reader.invalid("a frame has an impossible length"));
        }
        let sealed = self.reader.bytes(len)?;
        let number = self.number;
        self.number = number
            .checked_add(1)
            .ok_or_else(|| self.reader.invalid("more frames than there are nonces"))?;
        Ok(Some(Frame {
            number,
            last: self.reader.remaining() == 0,
            sealed,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back() {
        let header = CryptHeader {
            kind: Kind::Pack,
            repo: RepoId([1; 16]),
            source: [2; 16],
            incarnation: Incarnation([3; 16]),
            object: ObjectId([4; 16]),
            session: SessionId([5; 16]),
        };
        assert_eq!(
            CryptHeader::parse(&header.bytes(&[6; 32])),
            Ok((header, [6; 32]))
        );
        assert!(CryptHeader::parse(&header.bytes(&[6; 32])[..127]).is_err());
    }

    #[test]
    fn nonces_differ_by_number_and_by_last() {
        assert_ne!(nonce(1, false), nonce(2, false));
        assert_ne!(nonce(1, false), nonce(1, true));
    }
}
