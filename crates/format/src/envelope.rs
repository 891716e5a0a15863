//! The envelope: the outer bytes of every object but `RESTORE.md` and evidence records.
//!
//! ```text
//!  0   8  "TIDEMARK"
//!  8   1  format version, 1
//!  9   1  kind
//! 10   1  suite, 1
//! 11   1  zero
//! 12   4  length of the head, little-endian
//! 16   n  the head: JSON, signed as it stands (unknown keys are part of what is signed)
//!      32  the signer's Ed25519 public key
//!      64  the signature over "tidemark-v1\0" ‖ bytes 0 .. 16 + n ‖ signer
//!      …  the body; its length and BLAKE3 stand in the head
//! ```
//!
//! **Invariant:** the *link* of an object is the BLAKE3 of everything before the body. So links and
//! signatures are checked by reading the first bytes alone, without a recovery identity.

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    FormatError, Hash,
    sign::{PublicKey, SigningKey},
    wire::Reader,
};

/// The first eight bytes of every object.
pub const MAGIC: [u8; 8] = *b"TIDEMARK";
/// The format's version.
pub const VERSION: u8 = 1;
/// Suite 1: Ed25519, BLAKE3, HPKE (X25519, HKDF-SHA256, AES-256-GCM), AES-256-GCM, zstd.
pub const SUITE: u8 = 1;
/// Bytes before the head.
pub const FIXED: usize = 16;
/// Bytes of signer and signature, behind the head.
pub const SEAL: usize = 96;
/// The largest head: a beat of 20,000 sources is about 4 MB.
pub const HEAD_MAX: usize = 8 << 20;
/// How much of an object to read first when only its head is wanted.
pub const HEAD_PROBE: usize = 4096;
const DOMAIN: &[u8] = b"tidemark-v1\0";

/// What an object is. The numbers are the format's and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A session's secret, sealed to the recipients.
    Session = 1,
    /// A pack of pages of a base.
    Pack = 2,
    /// A range of a source's log, or a gap in it.
    Log = 3,
    /// The end of an epoch, in the place of a log object.
    Fence = 4,
    /// A base.
    Base = 5,
    /// A recovery point.
    Point = 6,
    /// An agent's beat.
    Beat = 7,
    /// The claim of an epoch.
    Claim = 8,
    /// A region's marker.
    Region = 9,
    /// The keyring, signed by the root.
    Keyring = 10,
    /// An agent's request to be enrolled.
    Enrol = 11,
    /// A step of a host's turn at a scheduled drill.
    DrillClaim = 12,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 12] = [
        Self::Session,
        Self::Pack,
        Self::Log,
        Self::Fence,
        Self::Base,
        Self::Point,
        Self::Beat,
        Self::Claim,
        Self::Region,
        Self::Keyring,
        Self::Enrol,
        Self::DrillClaim,
    ];

    /// The number in byte 9.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind behind a number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Pack => "pack",
            Self::Log => "log",
            Self::Fence => "fence",
            Self::Base => "base",
            Self::Point => "recovery point",
            Self::Beat => "beat",
            Self::Claim => "claim",
            Self::Region => "region marker",
            Self::Keyring => "keyring",
            Self::Enrol => "enrolment request",
            Self::DrillClaim => "drill claim",
        }
    }
}

/// A head that stands in an envelope.
pub trait Head: Serialize + DeserializeOwned {
    /// The kind it belongs to.
    const KIND: Kind;

    /// The body's length and hash, if this kind has a body.
    fn body(&self) -> Option<(u64, Hash)> {
        None
    }
}

/// Writes an object: head, signature and body.
///
/// # Errors
/// [`FormatError::Head`] when the head exceeds [`HEAD_MAX`].
pub fn encode<H: Head>(head: &H, signer: &SigningKey, body: &[u8]) -> Result<Vec<u8>, FormatError> {
    let what = H::KIND.name();
    let json = serde_json::to_vec(head).map_err(|error| FormatError::Head {
        what,
        why: error.to_string(),
    })?;
    let len = u32::try_from(json.len())
        .ok()
        .filter(|_| json.len() <= HEAD_MAX)
        .ok_or_else(|| FormatError::Head {
            what,
            why: format!("{} bytes are more than fit", json.len()),
        })?;
    let room = FIXED
        .saturating_add(json.len())
        .saturating_add(SEAL)
        .saturating_add(body.len());
    let mut out = Vec::with_capacity(room);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, H::KIND.number(), SUITE, 0]);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&json);
    let signer_key = signer.public();
    let signature = signer.sign(&signed_bytes(&out, &signer_key));
    out.extend_from_slice(&signer_key.0);
    out.extend_from_slice(&signature);
    out.extend_from_slice(body);
    Ok(out)
}

fn signed_bytes(unsigned: &[u8], signer: &PublicKey) -> Vec<u8> {
    [DOMAIN, unsigned, &signer.0].concat()
}

/// An object taken apart. Nothing is checked but the structure until the caller asks.
#[derive(Debug, Clone)]
pub struct Envelope<'a> {
    /// What the object says it is.
    pub kind: Kind,
    /// Who is said to have signed it.
    pub signer: PublicKey,
    /// The bytes behind the signature (all of them only if the whole object was given).
    pub body: &'a [u8],
    head: &'a [u8],
    unsigned: &'a [u8],
    before_body: &'a [u8],
    signature: [u8; 64],
}

impl<'a> Envelope<'a> {
    /// How many bytes stand before the body, told by the first 16.
    ///
    /// # Errors
    /// Any [`FormatError`] of the fixed part.
    pub fn head_bytes(start: &[u8]) -> Result<usize, FormatError> {
        let (_kind, len) = fixed(&mut Reader::new(start, "object"))?;
        Ok(FIXED.saturating_add(len).saturating_add(SEAL))
    }

    /// Takes `bytes` apart: a whole object, or at least [`Self::head_bytes`] of it.
    ///
    /// # Errors
    /// [`FormatError`] when the structure is wrong or cut.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, "object");
        let (kind, len) = fixed(&mut reader)?;
        let head = reader.bytes(len)?;
        let signer = PublicKey(reader.array()?);
        let signature = reader.array()?;
        let body = reader.bytes(reader.remaining())?;
        let cut = FormatError::Truncated { what: "object" };
        let unsigned = bytes
            .get(..FIXED.saturating_add(len))
            .ok_or_else(|| cut.clone())?;
        let before = FIXED.saturating_add(len).saturating_add(SEAL);
        let before_body = bytes.get(..before).ok_or(cut)?;
        Ok(Self {
            kind,
            signer,
            body,
            head,
            unsigned,
            before_body,
            signature,
        })
    }

    /// The object's link: the BLAKE3 of everything before the body.
    #[must_use]
    pub fn link(&self) -> Hash {
        Hash::of(self.before_body)
    }

    /// Bytes before the body.
    #[must_use]
    pub const fn prefix_len(&self) -> usize {
        self.before_body.len()
    }

    /// The head as it was signed.
    #[must_use]
    pub const fn head_json(&self) -> &'a [u8] {
        self.head
    }

    /// Checks the signature against the signer that the object itself names. Whether that signer
    /// may write this is the keyring's question (`ledger`).
    ///
    /// # Errors
    /// [`FormatError::Signature`].
    pub fn verify_signature(&self) -> Result<(), FormatError> {
        if self
            .signer
            .verifies(&signed_bytes(self.unsigned, &self.signer), &self.signature)
        {
            Ok(())
        } else {
            Err(FormatError::Signature {
                what: self.kind.name(),
                signer: self.signer.id(),
            })
        }
    }

    /// Reads the head as `H`.
    ///
    /// # Errors
    /// [`FormatError::Kind`] or [`FormatError::Head`].
    pub fn head<H: Head>(&self) -> Result<H, FormatError> {
        let expected = H::KIND.name();
        if self.kind != H::KIND {
            return Err(FormatError::Kind {
                expected,
                found: self.kind.name().to_owned(),
            });
        }
        serde_json::from_slice(self.head).map_err(|error| FormatError::Head {
            what: expected,
            why: error.to_string(),
        })
    }

    /// Checks that the body is the one the head was signed for.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] or [`FormatError::Body`].
    pub fn verify_body<H: Head>(&self, head: &H) -> Result<(), FormatError> {
        let what = H::KIND.name();
        let (len, expected) = head.body().unwrap_or_else(|| (0, Hash::of(&[])));
        let have = u64::try_from(self.body.len()).unwrap_or(u64::MAX);
        if have < len {
            return Err(FormatError::Truncated { what });
        }
        if have > len || Hash::of(self.body) != expected {
            return Err(FormatError::Body { what, expected });
        }
        Ok(())
    }

    /// Signature, head and body in one step, for a whole object.
    ///
    /// # Errors
    /// Any of the steps' errors.
    pub fn open<H: Head>(bytes: &'a [u8]) -> Result<(Self, H), FormatError> {
        let envelope = Self::parse(bytes)?;
        let head = envelope.head::<H>()?;
        envelope.verify_signature()?;
        envelope.verify_body(&head)?;
        Ok((envelope, head))
    }
}

fn fixed(reader: &mut Reader<'_>) -> Result<(Kind, usize), FormatError> {
    if reader.array::<8>()? != MAGIC {
        return Err(FormatError::Magic);
    }
    let version = reader.u8()?;
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    let number = reader.u8()?;
    let suite = reader.u8()?;
    if suite != SUITE {
        return Err(FormatError::Suite(suite));
    }
    if reader.u8()? != 0 {
        return Err(reader.invalid("byte 11 is not zero"));
    }
    let kind = Kind::from_number(number).ok_or_else(|| FormatError::Kind {
        expected: "known",
        found: format!("kind {number}"),
    })?;
    let len = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    if len > HEAD_MAX {
        return Err(reader.invalid("the head is larger than it may be"));
    }
    Ok((kind, len))
}
