//! What can be wrong with persisted bytes.

use crate::ids::{Hash, IdError, KeyId};

/// Bytes that aren't what format v1 says. Always about data, never about the program: callers
/// treat every variant but [`FormatError::Version`] and [`FormatError::Suite`] as damage or forgery.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes end too early.
    #[error("{what}: the bytes end before the structure does (truncated)")]
    Truncated {
        /// The structure.
        what: &'static str,
    },
    /// A field holds what it may not.
    #[error("{what}: {why}")]
    Invalid {
        /// The structure.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// Not one of our objects.
    #[error("not a Tidemark object: the magic is missing")]
    Magic,
    /// Written by a newer program.
    #[error("format version {0} is newer than this program reads (1): use a newer tidemark")]
    Version(u8),
    /// Encrypted or signed with algorithms that this program doesn't have.
    #[error("cipher suite {0} is unknown to this program: use a newer tidemark")]
    Suite(u8),
    /// An object of another kind stands here.
    #[error("expected a {expected} object, found a {found}")]
    Kind {
        /// What was asked for.
        expected: &'static str,
        /// What stands here.
        found: String,
    },
    /// The JSON head can't be read.
    #[error("{what}: the head is not valid: {why}")]
    Head {
        /// The kind of object.
        what: &'static str,
        /// The parser's words.
        why: String,
    },
    /// The signature isn't the signer's.
    #[error("{what}: the signature of {signer} does not fit the bytes (changed or forged)")]
    Signature {
        /// The kind of object.
        what: &'static str,
        /// Who is said to have signed.
        signer: KeyId,
    },
    /// The body isn't the one that was signed.
    #[error("{what}: the body is not the one that was signed (expected hash {expected})")]
    Body {
        /// The kind of object.
        what: &'static str,
        /// The signed hash.
        expected: Hash,
    },
    /// A name or id is malformed.
    #[error(transparent)]
    Id(#[from] IdError),
}
