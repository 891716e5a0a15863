//! A record as it is made and as it is read. Pure.
//!
//! What isn't known stays out of a record; nothing is invented to fill a field.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tidemark_format::evidence::{
    self, Predicate, RECORD_BYTES_MAX, STATEMENT_TYPE, Sha256, Statement, Subject, Unverified,
};
use tidemark_format::sign::{PublicKey, SigningKey};
use tidemark_format::{FormatError, Hash, KeyId, RepoId};
use tidemark_host::Rng;
use tidemark_host::RngExt as _;

/// The version of the records' fields.
pub const SCHEMA_VERSION: u32 = 1;
/// The type of a record of access.
pub const ACCESS: &str = "access";
/// The type of a review of another record.
pub const SIGN_OFF: &str = "sign_off";
/// The type of a record of what was disposed of.
pub const DISPOSAL: &str = "disposal";
/// Where the types are described.
const PREDICATES: &str = "https://tidemark.dev/evidence";
/// The longest text that a record takes from elsewhere (a reason, an error), in bytes.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// What is to be recorded, before it has a place in its signer's chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    predicate_type: String,
    subject: Vec<Subject>,
    created_at: Timestamp,
    rest: Map<String, Value>,
}

impl Draft {
    /// A record of type `kind` about `subject`, with `fields`.
    #[must_use]
    pub fn new(
        kind: &str,
        subject: Vec<Subject>,
        fields: Map<String, Value>,
        now: Timestamp,
        rng: &dyn Rng,
    ) -> Self {
        let created_at = whole_milliseconds(now);
        let mut rest = fields;
        rest.insert("schema_version".to_owned(), SCHEMA_VERSION.into());
        rest.insert("evidence_id".to_owned(), new_id(created_at, rng).into());
        rest.insert("type".to_owned(), kind.into());
        rest.insert(
            "tool".to_owned(),
            json!({ "name": "tidemark-restore", "version": tidemark_host::facts::VERSION }),
        );
        Self {
            predicate_type: format!("{PREDICATES}/{}/v1", kind.replace('_', "-")),
            subject,
            created_at,
            rest,
        }
    }

    /// When it was made.
    pub(super) const fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// What a record says, to be given another place: it was never stored.
    #[must_use]
    pub fn again(record: &Record) -> Self {
        let statement = record.statement.clone();
        Self {
            predicate_type: statement.predicate_type,
            subject: statement.subject,
            created_at: statement.predicate.created_at,
            rest: statement.predicate.rest,
        }
    }

    /// Signs it as number `seq` after `prev`.
    ///
    /// # Errors
    /// [`FormatError`] when it is larger than a record may be.
    pub fn sign(
        &self,
        seq: u64,
        prev: Option<Sha256>,
        repo: RepoId,
        key: &SigningKey,
    ) -> Result<Record, FormatError> {
        let mut rest = self.rest.clone();
        rest.insert("repository".to_owned(), repo.to_string().into());
        rest.insert(
            "signer".to_owned(),
            json!({ "public_key": key.public().to_string() }),
        );
        let statement = Statement {
            statement_type: STATEMENT_TYPE.to_owned(),
            subject: self.subject.clone(),
            predicate_type: self.predicate_type.clone(),
            predicate: Predicate {
                seq,
                prev_sha256: prev,
                created_at: self.created_at,
                rest,
            },
        };
        let bytes = evidence::encode(&statement, key)?;
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(FormatError::Invalid {
                what: "evidence record",
                why: "it is larger than a record may be",
            });
        }
        Ok(Record::of(bytes.into(), key.public(), statement))
    }
}

/// A record that its signer signed.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// As it is stored.
    pub bytes: Bytes,
    /// The SHA-256 of that.
    pub sha256: Sha256,
    /// Who signed it.
    pub signer: PublicKey,
    /// What it says.
    pub statement: Statement,
    body: Value,
}

impl Record {
    fn of(bytes: Bytes, signer: PublicKey, statement: Statement) -> Self {
        Self {
            sha256: Sha256::of(&bytes),
            body: Value::Object(statement.predicate.rest.clone()),
            bytes,
            signer,
            statement,
        }
    }

    /// Reads the bytes stored in the chain of `signer`, whose public key may be in `keys`, or in the record
    /// itself: a key's id is a hash of it.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn read(
        bytes: &Bytes,
        signer: KeyId,
        keys: &BTreeMap<KeyId, PublicKey>,
    ) -> Result<Self, String> {
        let read = Unverified::parse(bytes).map_err(|error| error.to_string())?;
        if !read.signers().any(|key| key == signer) {
            let found: Vec<String> = read.signers().map(|key| key.to_string()).collect();
            return Err(format!(
                "it is signed by {}, a foreign key, and stands in the chain of {signer}",
                found.join(", ")
            ));
        }
        let own = read.statement.predicate.rest.get("signer");
        let own = own
            .and_then(|signer| signer.get("public_key"))
            .and_then(Value::as_str);
        let own = own.and_then(|text| text.parse::<PublicKey>().ok());
        let own = own.filter(|key| key.id() == signer);
        let key = keys.get(&signer).copied().or(own).ok_or_else(|| {
            "its signer's public key is neither in it nor in the keyring, so nobody can check the signature"
                .to_owned()
        })?;
        read.verify(&key).map_err(|_bad| {
            "its signature is not its signer's: it was edited, or it is a forgery".to_owned()
        })?;
        if !read.is_as_written(bytes) {
            return Err("what stands around its signed part was edited".to_owned());
        }
        Ok(Self::of(bytes.clone(), key, read.statement))
    }

    /// Its number in its signer's chain.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        self.statement.predicate.seq
    }

    /// The record's own id.
    #[must_use]
    pub fn id(&self) -> String {
        self.text("/evidence_id").map_or_else(
            || format!("{}-{}", self.signer.id().short(), self.seq()),
            str::to_owned,
        )
    }

    /// What kind of evidence it is; empty if it doesn't say.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text("/type").unwrap_or_default()
    }

    /// When it was made, by its signer's clock.
    #[must_use]
    pub const fn created_at(&self) -> Timestamp {
        self.statement.predicate.created_at
    }

    /// A field, by its JSON pointer.
    #[must_use]
    pub fn field(&self, pointer: &str) -> Option<&Value> {
        self.body.pointer(pointer).filter(|value| !value.is_null())
    }

    /// A text field, by its JSON pointer.
    #[must_use]
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.field(pointer)?.as_str()
    }

    /// A field as a cell shows it: texts as they are, lists joined, everything else as JSON.
    #[must_use]
    pub fn cell(&self, pointer: &str) -> String {
        self.field(pointer).map(shown).unwrap_or_default()
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(shown).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// A subject that is named by its link.
#[must_use]
pub fn linked(name: &str, link: Hash) -> Subject {
    digest(name, "blake3", link.to_string())
}

/// A subject that is named by the hash of its bytes.
#[must_use]
pub fn hashed(name: &str, sha256: Sha256) -> Subject {
    digest(name, "sha256", sha256.to_string())
}

fn digest(name: &str, algorithm: &str, hex: String) -> Subject {
    Subject {
        name: name.to_owned(),
        digest: [(algorithm.to_owned(), hex)].into(),
    }
}

/// `value` as a field, without what is empty in it.
#[must_use]
pub fn field<T: Serialize>(value: &T) -> Value {
    let value = serde_json::to_value(value).unwrap_or(Value::Null);
    match value {
        Value::String(text) => Value::String(cut(text)),
        other => other,
    }
}

/// A text of a length that a record takes.
fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX)
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    text
}

fn whole_milliseconds(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

/// A UUID of version 7: the time, then chance.
pub(super) fn new_id(at: Timestamp, rng: &dyn Rng) -> String {
    let mut id: [u8; 16] = rng.bytes();
    let time = u64::try_from(at.as_millisecond()).unwrap_or_default();
    id[..6].copy_from_slice(&time.to_be_bytes()[2..]);
    id[6] = 0x70 | (id[6] & 0x0f);
    id[8] = 0x80 | (id[8] & 0x3f);
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    use tidemark_host::TestRng;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn an_id_is_a_uuid_that_sorts_by_time() {
        let rng = TestRng::seeded(1);
        let one = new_id(at("2026-11-22T09:00:00Z"), &rng);
        let two = new_id(at("2026-11-22T09:00:00.001Z"), &rng);
        assert!(one < two, "{one} {two}");
        assert_eq!(one.len(), 36);
        assert_eq!(&one[14..15], "7");
        assert!(["8", "9", "a", "b"].contains(&&one[19..20]), "{one}");
    }

    #[test]
    fn a_record_reads_back_and_carries_its_signers_key() {
        let key = SigningKey::from_secret(&[1; 32]);
        let fields = Map::from_iter([("reason".to_owned(), field(&"x".repeat(10_000)))]);
        let now = at("2026-11-22T09:00:00.123456789Z");
        let draft = Draft::new(ACCESS, vec![], fields, now, &TestRng::seeded(1));
        let record = draft.sign(0, None, RepoId([1; 16]), &key).unwrap();
        let read = Record::read(&record.bytes, key.public().id(), &BTreeMap::new()).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.created_at().to_string(), "2026-11-22T09:00:00.123Z");
        assert!(read.text("/reason").unwrap().len() < 9000);
        assert_eq!(
            Draft::again(&read).sign(0, None, RepoId([1; 16]), &key),
            Ok(record)
        );
    }

    #[test]
    fn a_foreign_signature_is_told_from_an_edited_record() {
        let key = SigningKey::from_secret(&[1; 32]);
        let draft = Draft::new(
            ACCESS,
            vec![],
            Map::new(),
            Timestamp::UNIX_EPOCH,
            &TestRng::seeded(1),
        );
        let record = draft.sign(0, None, RepoId([1; 16]), &key).unwrap();
        let other = SigningKey::from_secret(&[2; 32]).public().id();
        let refused = Record::read(&record.bytes, other, &BTreeMap::new()).unwrap_err();
        assert!(refused.contains("foreign key"), "{refused}");
        let forged = draft
            .sign(0, None, RepoId([1; 16]), &SigningKey::from_secret(&[2; 32]))
            .unwrap();
        let text = String::from_utf8(forged.bytes.to_vec()).unwrap();
        let forged = text.replace(&other.to_string(), &key.public().id().to_string());
        let keys = [(key.public().id(), key.public())].into();
        let refused = Record::read(&forged.into(), key.public().id(), &keys).unwrap_err();
        assert!(refused.contains("edited"), "{refused}");
    }
}
