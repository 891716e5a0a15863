//! The evidence record's envelope: DSSE around an in-toto statement, chained per signer.
//!
//! Plain JSON, not the binary envelope, so that an auditor's own tools read it: signatures by
//! `openssl`, hashes by `sha256sum`. The statement's `predicate` carries `seq` (dense per signer) and
//! `prev_sha256`; what drills, accesses and disposals put beside them is theirs.
//!
//! **Invariant:** the stored bytes are exactly what [`encode`] writes: the signature covers the payload
//! alone, and [`Unverified::is_as_written`] everything around it.

use std::fmt;
use std::str::FromStr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::Digest as _;

use crate::{
    FormatError, IdError, KeyId,
    sign::{PublicKey, SigningKey},
};

/// The payload type of every record.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The statement type.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The largest record, in bytes as stored.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
const WHAT: &str = "evidence record";

/// A SHA-256, as everybody's tools compute it; BLAKE3 ([`crate::Hash`]) stands everywhere else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }
}

/// A [`Sha256`] of bytes that come piece by piece.
#[derive(Debug, Clone, Default)]
pub struct Hashing(sha2::Sha256);

impl Hashing {
    /// The next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all pieces.
    #[must_use]
    pub fn done(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl FromStr for Sha256 {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_not_hex| IdError::Hex {
            what: "SHA-256",
            expected: 64,
            got: text.chars().take(80).collect(),
        })?;
        Ok(Self(bytes))
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// A DSSE envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dsse {
    /// What the payload is.
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// The payload, base64.
    pub payload: String,
    /// Who signed it.
    pub signatures: Vec<DsseSignature>,
}

/// One signature of a DSSE envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DsseSignature {
    /// The signer's key id, hex.
    pub keyid: KeyId,
    /// The signature, base64.
    pub sig: String,
}

/// A subject of a statement: an object of the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its key.
    pub name: String,
    /// Digests by algorithm: `blake3` (an object's link) or `sha256` (its bytes) → hex.
    pub digest: std::collections::BTreeMap<String, String>,
}

/// An in-toto statement as we write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Always [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub statement_type: String,
    /// What it is about.
    pub subject: Vec<Subject>,
    /// What kind of evidence.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// The evidence.
    pub predicate: Predicate,
}

/// The part that all kinds of evidence share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predicate {
    /// The record's number: dense per signer, from 0.
    pub seq: u64,
    /// SHA-256 of the record before it, as stored; none for the first.
    #[serde(default)]
    pub prev_sha256: Option<Sha256>,
    /// When it was made.
    pub created_at: jiff::Timestamp,
    /// Everything else, by kind.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// Signs a statement and gives the bytes to store.
///
/// # Errors
/// [`FormatError::Head`] when it can't be written as JSON.
pub fn encode(statement: &Statement, signer: &SigningKey) -> Result<Vec<u8>, FormatError> {
    let failed = |error: serde_json::Error| FormatError::Head {
        what: WHAT,
        why: error.to_string(),
    };
    let payload = serde_json::to_vec(statement).map_err(failed)?;
    let signature = signer.sign(&pre_authentication(PAYLOAD_TYPE, &payload));
    let envelope = Dsse {
        payload_type: PAYLOAD_TYPE.to_owned(),
        payload: STANDARD.encode(&payload),
        signatures: vec![DsseSignature {
            keyid: signer.public().id(),
            sig: STANDARD.encode(signature),
        }],
    };
    serde_json::to_vec(&envelope).map_err(failed)
}

/// A record taken apart, whose signature nobody has checked yet.
#[derive(Debug, Clone)]
pub struct Unverified {
    envelope: Dsse,
    payload: Vec<u8>,
    /// What it says.
    pub statement: Statement,
}

impl Unverified {
    /// Takes a record apart.
    ///
    /// # Errors
    /// [`FormatError`] when it isn't a record, or larger than one may be.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let invalid = |why| FormatError::Invalid { what: WHAT, why };
        let failed = |error: serde_json::Error| FormatError::Head {
            what: WHAT,
            why: error.to_string(),
        };
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(invalid("it is larger than a record may be"));
        }
        let envelope: Dsse = serde_json::from_slice(bytes).map_err(failed)?;
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(invalid("the payload is not an in-toto statement"));
        }
        let payload = STANDARD
            .decode(&envelope.payload)
            .map_err(|_bad| invalid("the payload is not base64"))?;
        let statement: Statement = serde_json::from_slice(&payload).map_err(failed)?;
        if statement.statement_type != STATEMENT_TYPE {
            return Err(invalid("the statement is of another type"));
        }
        Ok(Self {
            envelope,
            payload,
            statement,
        })
    }

    /// Whose signatures it carries, as it says itself.
    pub fn signers(&self) -> impl Iterator<Item = KeyId> {
        self.envelope.signatures.iter().map(|one| one.keyid)
    }

    /// Whether `bytes`, of which it was taken, are written as [`encode`] writes: what stands around the
    /// payload is not signed.
    #[must_use]
    pub fn is_as_written(&self, bytes: &[u8]) -> bool {
        serde_json::to_vec(&self.envelope).is_ok_and(|written| written == bytes)
    }

    /// Checks that `signer` signed it.
    ///
    /// # Errors
    /// [`FormatError::Signature`].
    pub fn verify(&self, signer: &PublicKey) -> Result<(), FormatError> {
        let message = pre_authentication(&self.envelope.payload_type, &self.payload);
        let signed = self
            .envelope
            .signatures
            .iter()
            .filter(|one| one.keyid == signer.id())
            .any(|one| {
                STANDARD
                    .decode(&one.sig)
                    .ok()
                    .and_then(|raw| <[u8; 64]>::try_from(raw).ok())
                    .is_some_and(|raw| signer.verifies(&message, &raw))
            });
        if signed {
            return Ok(());
        }
        Err(FormatError::Signature {
            what: WHAT,
            signer: signer.id(),
        })
    }
}

/// Reads a record and checks that `signer` signed it.
///
/// # Errors
/// [`FormatError`] when it isn't a record, or isn't this signer's.
pub fn decode(bytes: &[u8], signer: &PublicKey) -> Result<Statement, FormatError> {
    let record = Unverified::parse(bytes)?;
    record.verify(signer)?;
    Ok(record.statement)
}

/// DSSE's pre-authentication encoding.
fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    )
    .into_bytes();
    out.extend_from_slice(payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement() -> Statement {
        Statement {
            statement_type: STATEMENT_TYPE.to_owned(),
            subject: vec![],
            predicate_type: "https://tidemark.dev/restore/v1".to_owned(),
            predicate: Predicate {
                seq: 0,
                prev_sha256: None,
                created_at: jiff::Timestamp::UNIX_EPOCH,
                rest: serde_json::Map::from_iter([("verdict".to_owned(), "PASS".into())]),
            },
        }
    }

    #[test]
    fn a_digest_of_pieces_is_the_digest_of_the_whole() {
        let mut hashing = Hashing::default();
        hashing.update(b"one,");
        hashing.update(b"two");
        assert_eq!(hashing.done(), Sha256::of(b"one,two"));
    }

    #[test]
    fn a_record_reads_back_for_its_signer_only() {
        let key = SigningKey::from_secret(&[3; 32]);
        let bytes = encode(&statement(), &key).unwrap();
        assert_eq!(decode(&bytes, &key.public()), Ok(statement()));
        let other = SigningKey::from_secret(&[4; 32]).public();
        assert!(matches!(
            decode(&bytes, &other),
            Err(FormatError::Signature { .. })
        ));
    }

    #[test]
    fn a_changed_payload_is_noticed() {
        let key = SigningKey::from_secret(&[3; 32]);
        let bytes = encode(&statement(), &key).unwrap();
        let mut record: Dsse = serde_json::from_slice(&bytes).unwrap();
        let payload = STANDARD.decode(&record.payload).unwrap();
        let forged = String::from_utf8(payload).unwrap().replace("PASS", "FAIL");
        record.payload = STANDARD.encode(forged);
        let forged = serde_json::to_vec(&record).unwrap();
        assert!(matches!(
            decode(&forged, &key.public()),
            Err(FormatError::Signature { .. })
        ));
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let key = SigningKey::from_secret(&[3; 32]);
        let bytes = encode(&statement(), &key).unwrap();
        let good = |bytes: &[u8]| {
            Unverified::parse(bytes).is_ok_and(|record| {
                record.is_as_written(bytes) && record.verify(&key.public()).is_ok()
            })
        };
        assert!(good(&bytes));
        for place in 0..bytes.len() {
            // Bit 5 makes a capital of a small letter.
            for bit in [1, 1 << 5] {
                let mut changed = bytes.clone();
                changed[place] ^= bit;
                assert!(!good(&changed), "byte {place}, bit {bit}");
            }
        }
    }

    #[test]
    fn the_digest_is_everybodys() {
        // FIPS 180-4's example.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sha256::of(b"abc").to_string(), abc);
        assert_eq!(abc.parse(), Ok(Sha256::of(b"abc")));
    }
}
