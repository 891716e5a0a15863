//! The one error of this crate.

use tidemark_format::{FormatError, KeyId, RepoId};

/// How a caller should act on an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The configuration is wrong (recipients): a person must act, trying again is of no use.
    Config,
    /// The caller broke a rule of this crate, or a library failed where it can't.
    Bug,
}

/// Why something could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody could ever open what would be sealed.
    #[error(
        "no recipient is left to seal to: give at least one recovery key (recipients = [\"tmr1…\"])"
    )]
    NoRecipients,
    /// A recipient of another repository.
    #[error(
        "recipient {recipient} belongs to repository {found}, not to {expected}: use a recovery key made for this repository"
    )]
    ForeignRecipient {
        /// The key's id.
        recipient: KeyId,
        /// This repository.
        expected: RepoId,
        /// The repository that the key names.
        found: RepoId,
    },
    /// A recipient's public key that nothing can be sealed to.
    #[error(
        "nothing can be sealed to recipient {recipient}: its public key is not valid; make a new one (keys new)"
    )]
    BadRecipient {
        /// The key's id.
        recipient: KeyId,
        /// HPKE's words.
        #[source]
        source: hpke::HpkeError,
    },
    /// An object would be larger than readers accept.
    #[error("a {what} of {bytes} bytes is larger than readers accept ({max}): cut it earlier")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Pages that can't stand in a base.
    #[error("these pages can't stand in a base: {0}")]
    Pages(&'static str),
    /// The head can't be written.
    #[error("the object's head can't be written")]
    Head(#[from] FormatError),
    /// zstd failed.
    #[error("compression failed: is memory left?")]
    Compress(#[source] std::io::Error),
    /// AES-GCM failed, which it can't for frames of this size.
    #[error("encryption failed (a bug: please report it)")]
    Encrypt,
    /// A worker went away in the middle of a frame.
    #[error("a worker thread died while sealing a frame (a bug: please report it)")]
    WorkerGone,
}

impl Error {
    /// How to act on it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRecipients | Self::ForeignRecipient { .. } | Self::BadRecipient { .. } => {
                ErrorKind::Config
            }
            Self::TooLarge { .. }
            | Self::Pages(_)
            | Self::Head(_)
            | Self::Compress(_)
            | Self::Encrypt
            | Self::WorkerGone => ErrorKind::Bug,
        }
    }
}
