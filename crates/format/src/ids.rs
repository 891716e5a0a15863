//! Names and numbers that stand in persisted bytes, each a type of its own.
//!
//! Binary ids are random (made by `host`, never here) and written as lower-case hex. Sequences are
//! dense: the next one is always the last one plus one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Why a name, id or key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text isn't hex of the right length.
    #[error("{what}: expected {expected} hex digits, got {got:?}")]
    Hex {
        /// The kind of id.
        what: &'static str,
        /// How many digits it has.
        expected: usize,
        /// What was given.
        got: String,
    },
    /// A name breaks the rule `[a-z0-9][a-z0-9-]*`, at most 63 characters.
    #[error(
        "{what} {got:?} is not a name: use lower-case letters, digits and '-', first a letter or digit, at most 63"
    )]
    Name {
        /// The kind of name.
        what: &'static str,
        /// What was given.
        got: String,
    },
    /// A key has an empty or hostile part.
    #[error("object key {0:?} is not valid")]
    Key(String),
}

macro_rules! binary_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Bytes in this id.
            pub const LEN: usize = $len;

            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first eight hex digits: enough for people to tell two apart.
            #[must_use]
            pub fn short(&self) -> String {
                hex::encode(self.0).chars().take(8).collect()
            }
        }

        impl From<[u8; $len]> for $name {
            fn from(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0u8; $len];
                let canonical = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if !canonical || hex::decode_to_slice(text, &mut bytes).is_err() {
                    return Err(IdError::Hex {
                        what: stringify!($name),
                        expected: 2 * $len,
                        got: text.chars().take(80).collect(),
                    });
                }
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

binary_id!(
    /// A repository: one set of keys and sources, kept whole in every region.
    RepoId, 16
);
binary_id!(
    /// One life of a source (a SQLite lineage, a PostgreSQL system). A new one never appends to an old one.
    Incarnation, 16
);
binary_id!(
    /// A sealed object; the salt of its key.
    ObjectId, 16
);
binary_id!(
    /// A session: the time during which an agent holds one sealing secret.
    SessionId, 16
);
binary_id!(
    /// One attempt to create an object: read back, it tells a lost response from a lost race.
    PutId, 16
);
binary_id!(
    /// A region, as its own marker says: two URLs of one bucket carry the same.
    RegionId, 16
);
binary_id!(
    /// An agent's state directory: the only writer of its epochs.
    WriterId, 16
);
binary_id!(
    /// The first 16 bytes of BLAKE3 over an Ed25519 public key.
    KeyId, 16
);
binary_id!(
    /// BLAKE3-256.
    Hash, 32
);

impl Hash {
    /// The hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Checks `text` against the rule for names.
            ///
            /// # Errors
            /// [`IdError::Name`] when it breaks the rule.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
                let ok = text.len() <= 63
                    && text.bytes().next().is_some_and(plain)
                    && text.bytes().all(|b| plain(b) || b == b'-');
                if ok { Ok(Self(text)) } else { Err(IdError::Name { what: $what, got: text }) }
            }

            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
            }
        }
    };
}

name!(
    /// A protected database's name.
    SourceName, "source"
);
name!(
    /// A region's name, as the config gives it (its id stands in the region itself).
    RegionName, "region"
);
name!(
    /// A scheduled drill's name: hosts that share it share its schedule.
    DrillName, "drill"
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $width:literal) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// The one before this, if there is one.
            #[must_use]
            pub fn previous(self) -> Option<Self> {
                self.0.checked_sub(1).map(Self)
            }

            /// As it stands in an object key: zero-padded, so that names sort by number.
            #[must_use]
            pub fn in_key(self) -> String {
                format!(concat!("{:0", $width, "}"), self.0)
            }

            /// Reads what [`Self::in_key`] wrote; `None` for anything else.
            #[must_use]
            pub fn from_key(text: &str) -> Option<Self> {
                let digits = text.len() == $width && text.bytes().all(|b| b.is_ascii_digit());
                if digits { text.parse().ok().map(Self) } else { None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A writer's term for a source; a higher one fences every lower one. The first is 1.
    Epoch, u32, 8
);
number!(
    /// A log object's place in its epoch, dense from 0.
    LogSeq, u64, 16
);
number!(
    /// A recovery point's place in its epoch, dense from 0.
    PointSeq, u64, 16
);
number!(
    /// A base's place in its generation, dense from 0; 0 is complete.
    BaseNumber, u32, 6
);

/// An object's name below a region's prefix, e.g. `meta/log/app/00000001/0000000000000042`.
///
/// Parts are separated by `/`, none is empty, `.` or `..`, and all are of `[A-Za-z0-9._-]`: the
/// same key is a safe S3 key and a safe relative path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`IdError::Key`] when a part is empty, `.`, `..` or holds another character.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        let part_ok = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if text.len() <= 512 && text.split('/').all(part_ok) {
            Ok(Self(text))
        } else {
            Err(IdError::Key(text.chars().take(200).collect()))
        }
    }

    /// The key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_ids_read_back_and_refuse_other_lengths_and_upper_case() {
        let id = RepoId([0xab; 16]);
        assert_eq!(id.to_string().parse::<RepoId>(), Ok(id));
        assert!("ab".parse::<RepoId>().is_err());
        assert!(id.to_string().to_uppercase().parse::<RepoId>().is_err());
    }

    #[test]
    fn names_follow_the_rule() {
        assert!(SourceName::new("15-main").is_ok());
        for bad in ["", "-a", "A", "a_b", "a/b", &"x".repeat(64)] {
            assert!(SourceName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keys_refuse_traversal() {
        assert!(Key::new("meta/log/app/00000001/0000000000000042").is_ok());
        for bad in ["", "/a", "a/", "a//b", "a/../b", "a/./b", "a b", "a\0"] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_in_keys_sort_and_read_back() {
        assert!(LogSeq(9).in_key() < LogSeq(10).in_key());
        assert_eq!(LogSeq::from_key(&LogSeq(42).in_key()), Some(LogSeq(42)));
        assert_eq!(LogSeq::from_key("42"), None);
    }
}
