//! One object's key, and its frames: checked, decrypted into scratch, decompressed to where they belong.

use std::cell::RefCell;
use std::fmt;
use std::io::Cursor;

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{AeadInOut, inout::InOutBuf},
};
use hkdf::Hkdf;
use sha2::Sha256;
use tidemark_format::{
    Key,
    crypt::{CryptHeader, FRAME_RAW_MAX, FRAME_SEALED_MAX, HEADER, OBJECT_INFO, TAG, nonce},
};
use zeroize::Zeroizing;
use zstd::{bulk::Decompressor, zstd_safe};

use crate::{Error, Result, SessionSecret};

thread_local! {
    /// Contexts and buffers are made once per thread, not per frame.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

#[derive(Default)]
struct Scratch {
    packed: Vec<u8>,
    decompressor: Option<Decompressor<'static>>,
}

/// The key of one object, and the header that its frames are bound to.
pub(crate) struct ObjectKey {
    cipher: Aes256Gcm,
    header: [u8; HEADER],
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectKey")
    }
}

/// Which frame it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameNumber {
    pub(crate) number: u32,
    pub(crate) last: bool,
}

impl ObjectKey {
    /// Derives it from the session's secret.
    pub(crate) fn derive(secret: &SessionSecret, header: &CryptHeader) -> Self {
        let mut derived = Zeroizing::new([0u8; 64]);
        Hkdf::<Sha256>::new(Some(&header.object.0), secret.secret())
            .expand_multi_info(
                &[OBJECT_INFO, &header.bound_bytes()],
                derived.as_mut_slice(),
            )
            .expect("HKDF-SHA256 gives 64 bytes");
        let mut key = Zeroizing::new([0u8; 32]);
        let mut commitment = [0u8; 32];
        key.copy_from_slice(&derived[..32]);
        commitment.copy_from_slice(&derived[32..]);
        Self {
            cipher: Aes256Gcm::new((&*key).into()),
            header: header.bytes(&commitment),
        }
    }

    /// Checks that a body begins with this key's header and returns what follows it.
    pub(crate) fn check_header<'a>(&self, name: &Key, body: &'a [u8]) -> Result<&'a [u8]> {
        let (found, commitment) = CryptHeader::parse(body).map_err(Error::format(name))?;
        let (header, frames) = body
            .split_at_checked(HEADER)
            .ok_or_else(|| Error::Misplaced {
                key: name.to_string(),
                why: "its encrypted body has no header",
            })?;
        let (mine, _) = CryptHeader::parse(&self.header).map_err(Error::format(name))?;
        if found != mine {
            let why = "its encrypted body belongs to another object";
            return Err(Error::Misplaced {
                key: name.to_string(),
                why,
            });
        }
        if !self.header.ends_with(&commitment) {
            return Err(Error::Commitment {
                key: name.to_string(),
            });
        }
        debug_assert_eq!(header, self.header);
        Ok(frames)
    }

    /// Opens a frame and appends its content to `out`. `out` is as before if the frame is refused.
    pub(crate) fn open_frame(
        &self,
        name: &Key,
        sealed: &[u8],
        frame: FrameNumber,
        out: &mut Vec<u8>,
    ) -> Result<usize> {
        let refuse = |why| Error::Frame {
            key: name.to_string(),
            frame: frame.number,
            why,
        };
        if sealed.len() > FRAME_SEALED_MAX {
            return Err(refuse("is larger than a frame may be"));
        }
        let (ciphertext, tag) = sealed
            .split_last_chunk::<TAG>()
            .ok_or_else(|| refuse("is shorter than its tag"))?;
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.packed.len() < ciphertext.len() {
                scratch.packed.resize(FRAME_SEALED_MAX, 0);
            }
            let packed = scratch
                .packed
                .get_mut(..ciphertext.len())
                .unwrap_or_default();
            let through =
                InOutBuf::new(ciphertext, packed).map_err(|_length| refuse("has no room"))?;
            let nonce = nonce(frame.number, frame.last).into();
            self.cipher
                .decrypt_inout_detached(&nonce, &self.header, through, &(*tag).into())
                .map_err(|_forged| refuse("does not open: changed, moved or cut"))?;
            let packed = scratch.packed.get(..ciphertext.len()).unwrap_or_default();
            decompress_onto(&mut scratch.decompressor, packed, out).map_err(refuse)
        })
    }
}

/// Appends the content of one zstd frame; reserves what the frame says it holds, at most a frame's.
fn decompress_onto(
    kept: &mut Option<Decompressor<'static>>,
    packed: &[u8],
    out: &mut Vec<u8>,
) -> std::result::Result<usize, &'static str> {
    let not_zstd = "does not hold one whole zstd frame";
    let content = match zstd_safe::get_frame_content_size(packed) {
        Ok(Some(bytes)) => usize::try_from(bytes).unwrap_or(usize::MAX),
        Ok(None) | Err(_) => return Err("does not say how much it holds"),
    };
    if content > FRAME_RAW_MAX {
        return Err("claims more content than a frame may hold");
    }
    if zstd_safe::find_frame_compressed_size(packed) != Ok(packed.len()) {
        return Err(not_zstd);
    }
    let before = out.len();
    out.reserve(content);
    // Taken out while it works: a context that failed in the middle isn't used again.
    let mut context = match kept.take() {
        Some(context) => context,
        None => Decompressor::new().map_err(|_memory| "can't be decompressed: no memory")?,
    };
    let mut behind = Cursor::new(&mut *out);
    behind.set_position(u64::try_from(before).unwrap_or(u64::MAX));
    let done = context.decompress_to_buffer(packed, &mut behind);
    match done {
        Ok(bytes) if bytes == content => {
            *kept = Some(context);
            Ok(content)
        }
        Ok(_) | Err(_) => {
            out.truncate(before);
            Err(not_zstd)
        }
    }
}
