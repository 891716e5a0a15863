//! The one error of this crate.

use std::fmt;

use tidemark_format::{
    FormatError, Hash, Key, KeyId, RegionName, RepoId, SessionId, recipient::KeyTextError,
};
use tidemark_host::files::FileError;
use tidemark_storage::ErrorKind as StoreKind;

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// How a caller should act on an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The identity is wrong, damaged or not allowed to open this (exit code 12).
    Key,
    /// Bytes were changed, cut, moved or forged (exit code 13).
    Integrity,
    /// A region could not be asked, so nothing can be concluded: try again (exit code 16).
    Region,
    /// No region has the object, and all were asked (exit code 14).
    Missing,
    /// The caller's target failed, not the repository.
    Target,
    /// The call is wrong: no regions given.
    Invalid,
}

/// One region's answer in [`Error::NoGoodCopy`].
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The region.
    pub region: RegionName,
    /// What was wrong, the causes included.
    pub why: String,
    /// How it counts.
    pub kind: ErrorKind,
}

/// Why something could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The identity file can't be read, or others may read it.
    #[error("the identity file can't be used")]
    IdentityFile(#[source] FileError),
    /// It is no identity file, or a part is missing.
    #[error("the identity file is not whole: {0}; take the escrow copy")]
    IdentityText(&'static str),
    /// A key word in it is damaged.
    #[error("the identity file holds a damaged key; take the escrow copy")]
    IdentityKey(#[from] KeyTextError),
    /// Its secret is sealed and no passphrase was given.
    #[error(
        "the identity is sealed by a passphrase, and there is no terminal to ask on: name a private file that holds it by --passphrase-file"
    )]
    PassphraseNeeded,
    /// The passphrase doesn't open it.
    #[error(
        "the passphrase does not open the identity: it is another one, or the file was changed"
    )]
    WrongPassphrase,
    /// The passphrase's parameters ask for more than this machine should give.
    #[error("the identity's passphrase parameters can't be used on this machine ({0})")]
    PassphraseCost(String),
    /// The identity belongs to another repository.
    #[error(
        "the identity belongs to repository {identity}, {key} to {found}: use the identity that was made for this repository"
    )]
    WrongRepository {
        /// The identity's.
        identity: RepoId,
        /// The object's.
        found: RepoId,
        /// The object.
        key: String,
    },
    /// The session was not sealed to this identity.
    #[error(
        "session {session} was sealed to {recipients}, not to this identity ({identity}): use one of those, or the escrow"
    )]
    NotARecipient {
        /// The session.
        session: SessionId,
        /// This identity's key id.
        identity: KeyId,
        /// The recipients' key ids.
        recipients: String,
    },
    /// The bytes aren't what the format says.
    #[error("{key} is damaged or forged")]
    Format {
        /// The object.
        key: String,
        /// What is wrong.
        #[source]
        source: FormatError,
    },
    /// Somebody signed who is no enrolled agent.
    #[error("{key} is signed by {signer}, whom the keyring doesn't know as an agent")]
    Signer {
        /// The object.
        key: String,
        /// Who signed.
        signer: KeyId,
    },
    /// The object says that it belongs elsewhere.
    #[error("{key} is not the object that belongs there: {why}")]
    Misplaced {
        /// The object.
        key: String,
        /// What doesn't fit.
        why: &'static str,
    },
    /// Its link or hash isn't the one that refers to it.
    #[error("{key} is not the object that was linked (expected {expected})")]
    Unlinked {
        /// The object.
        key: String,
        /// What the reference says.
        expected: Hash,
    },
    /// The secret opened isn't the one committed to.
    #[error(
        "{key}: the key commitment does not fit; it was sealed with another secret than it says"
    )]
    Commitment {
        /// The object.
        key: String,
    },
    /// A frame doesn't open.
    #[error("{key}: frame {frame} {why}")]
    Frame {
        /// The object.
        key: String,
        /// The frame's number.
        frame: u32,
        /// What is wrong.
        why: &'static str,
    },
    /// More content than the caller allows.
    #[error("{key} holds more than {max} bytes, more than an agent would have written")]
    TooLarge {
        /// The object.
        key: String,
        /// The cap.
        max: usize,
    },
    /// No region gave a good copy.
    #[error("no region has a good copy of {key}: {}", list(.attempts))]
    NoGoodCopy {
        /// The object.
        key: String,
        /// What each region answered.
        attempts: Vec<Attempt>,
    },
    /// Nothing to read from.
    #[error("no region was given: name at least one (--region URL)")]
    NoRegions,
    /// The one who takes the pages failed.
    #[error("the restored pages could not be taken")]
    Target(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn list(all: &[Attempt]) -> String {
    let mut text = String::new();
    for (at, one) in all.iter().enumerate() {
        let between = if at == 0 { "" } else { "; " };
        text.push_str(&format!("{between}{}: {}", one.region, one.why));
    }
    text
}

impl Error {
    /// How to act on it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::IdentityFile(_)
            | Self::IdentityText(_)
            | Self::IdentityKey(_)
            | Self::PassphraseNeeded
            | Self::WrongPassphrase
            | Self::PassphraseCost(_)
            | Self::WrongRepository { .. }
            | Self::NotARecipient { .. } => ErrorKind::Key,
            Self::Format { .. }
            | Self::Signer { .. }
            | Self::Misplaced { .. }
            | Self::Unlinked { .. }
            | Self::Commitment { .. }
            | Self::Frame { .. }
            | Self::TooLarge { .. } => ErrorKind::Integrity,
            Self::NoGoodCopy { attempts, .. } => worst(attempts),
            Self::NoRegions => ErrorKind::Invalid,
            Self::Target(_) => ErrorKind::Target,
        }
    }

    pub(crate) fn format(key: &Key) -> impl Fn(FormatError) -> Self + use<> {
        let key = key.to_string();
        move |source| Self::Format {
            key: key.clone(),
            source,
        }
    }

    /// The whole chain of causes in one line.
    pub(crate) fn chain(&self) -> String {
        tidemark_storage::chain(self)
    }
}

/// A region that couldn't be asked may hold the good copy; then damage; absent only if all say so.
fn worst(attempts: &[Attempt]) -> ErrorKind {
    let any = |kind| attempts.iter().any(|one| one.kind == kind);
    if any(ErrorKind::Region) {
        ErrorKind::Region
    } else if any(ErrorKind::Integrity) {
        ErrorKind::Integrity
    } else {
        ErrorKind::Missing
    }
}

/// How a store's failure to read counts.
pub(crate) const fn store_kind(kind: StoreKind) -> ErrorKind {
    match kind {
        StoreKind::Missing => ErrorKind::Missing,
        StoreKind::Corrupt => ErrorKind::Integrity,
        StoreKind::Unknown
        | StoreKind::Denied
        | StoreKind::Exists
        | StoreKind::Unreachable
        | StoreKind::Full
        | StoreKind::Invalid => ErrorKind::Region,
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.region, self.why)
    }
}
