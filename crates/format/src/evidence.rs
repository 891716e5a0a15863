//! The evidence record's envelope: DSSE around an in-toto statement, chained per signer.
//!
//! Plain JSON, not the binary envelope, so that an auditor's own tools read it. The statement's
//! `predicate` carries `seq` (dense per signer) and `prev_sha256`… of any content: what drills,
//! backups and disposals put in it is theirs.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::{
    FormatError, Hash, KeyId,
    sign::{PublicKey, SigningKey},
};

/// The payload type of every record.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The statement type.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const WHAT: &str = "evidence record";

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

/// A subject of a statement: a recovery point, by its link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its key.
    pub name: String,
    /// Digests by algorithm: `blake3` → hex.
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
    /// BLAKE3 of the record before it, as stored; none for the first.
    pub prev: Option<Hash>,
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

/// Reads a record and checks that `signer` signed it.
///
/// # Errors
/// [`FormatError`] when it isn't a record, or isn't this signer's.
pub fn decode(bytes: &[u8], signer: &PublicKey) -> Result<Statement, FormatError> {
    let invalid = |why| FormatError::Invalid { what: WHAT, why };
    let failed = |error: serde_json::Error| FormatError::Head {
        what: WHAT,
        why: error.to_string(),
    };
    let envelope: Dsse = serde_json::from_slice(bytes).map_err(failed)?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(invalid("the payload is not an in-toto statement"));
    }
    let payload = STANDARD
        .decode(&envelope.payload)
        .map_err(|_bad| invalid("the payload is not base64"))?;
    let message = pre_authentication(&envelope.payload_type, &payload);
    let signed = envelope
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
    if !signed {
        return Err(FormatError::Signature {
            what: WHAT,
            signer: signer.id(),
        });
    }
    let statement: Statement = serde_json::from_slice(&payload).map_err(failed)?;
    if statement.statement_type != STATEMENT_TYPE {
        return Err(invalid("the statement is of another type"));
    }
    Ok(statement)
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
                prev: None,
                created_at: jiff::Timestamp::UNIX_EPOCH,
                rest: serde_json::Map::from_iter([("verdict".to_owned(), "PASS".into())]),
            },
        }
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
}
