//! The one error of this crate: what happened, what it means, what to do.

use jiff::Timestamp;
use tidemark_format::recipient::RecipientKey;
use tidemark_format::{Epoch, FormatError, KeyId, RegionName, RepoId, SourceName, WriterId};
use tidemark_host::files::FileError;
use tidemark_storage::{Error as StorageError, ErrorKind as StorageErrorKind};

/// `Result` with this crate's [`LedgerError`].
pub type Result<T> = std::result::Result<T, LedgerError>;

/// How a caller acts on a [`LedgerError`]; each has its own exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerErrorKind {
    /// There is no repository here, or it is another one.
    NoRepository,
    /// Another writer has the source.
    Fenced,
    /// A key isn't trusted, was revoked, or a key file can't be used.
    Key,
    /// Something is there and is not what was signed.
    Integrity,
    /// What was asked for isn't in the repository.
    Missing,
    /// A region can't be read or written.
    Region,
}

/// Why `meta/` could not be read, trusted or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A region failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Bytes that aren't what the format says.
    #[error("{key} is damaged or forged; another region may hold a good copy")]
    Format {
        /// The object.
        key: String,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
    /// A good object under a name that isn't its own.
    #[error(
        "{key} holds an object that says it is {says}: it was moved or swapped; another region may hold the right one"
    )]
    Misplaced {
        /// Where it was found.
        key: String,
        /// Where it belongs.
        says: String,
    },
    /// The stored size contradicts the signed one.
    #[error(
        "{key} is {found} bytes long and was signed as {signed} (truncated or extended); another region may hold a good copy"
    )]
    Size {
        /// The object.
        key: String,
        /// As listed.
        found: u64,
        /// As signed.
        signed: u64,
    },
    /// Two objects of one chain don't fit.
    #[error("{key}: {why}")]
    Chain {
        /// The object.
        key: String,
        /// What doesn't fit.
        why: String,
    },
    /// An epoch without the claim that it began with.
    #[error(
        "the claim with which epoch {epoch} of source {source_name} began is not there, and objects of that epoch are: it was deleted or lost, in this region alone or with more. What is here is believed only as far as its signatures and links go; give the other regions, too, and start the agent anew, which writes the claim of its own epoch again"
    )]
    ClaimLost {
        /// The source.
        source_name: SourceName,
        /// The epoch.
        epoch: Epoch,
    },
    /// No keyring or marker.
    #[error("no repository here: {missing} is not in this region; check the URL and its prefix")]
    NoRepository {
        /// What would have to be there.
        missing: String,
    },
    /// A place that belongs to another repository.
    #[error(
        "this region belongs to repository {found}, not to {expected}: check the URL, or give this repository a prefix of its own"
    )]
    OtherRepository {
        /// As its marker says.
        found: RepoId,
        /// As asked for.
        expected: RepoId,
    },
    /// The keyring can't be believed.
    #[error("the keyring can't be trusted: {why}")]
    Keyring {
        /// Why.
        why: String,
    },
    /// Two regions hold keyrings that the root signed apart from each other.
    #[error(
        "regions {region} and {other} hold different keyrings from version {version} on, so a new version could follow only one of them and would leave the other unreadable: nothing was changed. Each can still be restored from by itself. Find out which one is right (tidemark-restore keys list --region URL, one region at a time), then give the other one a new, empty prefix in the agent's config and here; the agent fills it"
    )]
    KeyringsDisagree {
        /// A region.
        region: RegionName,
        /// The other one.
        other: RegionName,
        /// The first version that differs.
        version: u32,
    },
    /// A change of the keyring that makes no sense, or that nobody could undo.
    #[error("the keyring was not changed: {why}")]
    Unchanged {
        /// Why.
        why: String,
    },
    /// Nobody could read what is written from then on.
    #[error(
        "recipient {name} ({id}) is the last one: without it nobody could read what is written from now on. Add another one first: on the host that is to read, tidemark-restore keys new --repository {key} --out FILE; then here tidemark-restore keys enrol --recipient"
    )]
    LastRecipient {
        /// Its name in the keyring.
        name: String,
        /// Its id.
        id: KeyId,
        /// Its public key.
        key: RecipientKey,
    },
    /// A keyring older than one that was seen before.
    #[error(
        "the keyring is at version {found} here, but version {seen} was seen before: this region was rolled back or is behind; read another region"
    )]
    KeyringOlder {
        /// The highest version here.
        found: u32,
        /// The highest version seen before.
        seen: u32,
    },
    /// A signer that the root never enrolled.
    #[error(
        "{what} was signed by key {signer}, which the keyring doesn't know; if it is an agent of yours, enrol it: tidemark-restore keys enrol"
    )]
    UnknownSigner {
        /// The signer.
        signer: KeyId,
        /// What was signed.
        what: String,
    },
    /// A signer whose role doesn't allow it.
    #[error("{what} was signed by {name} (key {signer}), whose role does not allow that")]
    WrongRole {
        /// The signer.
        signer: KeyId,
        /// Its name in the keyring.
        name: String,
        /// What was signed.
        what: String,
    },
    /// A signer that was revoked.
    #[error(
        "{what} was signed by {name} (key {signer}), which was revoked at {at} ({reason}); what it signed after that is not accepted"
    )]
    Revoked {
        /// The signer.
        signer: KeyId,
        /// Its name in the keyring.
        name: String,
        /// When it was revoked.
        at: Timestamp,
        /// Why.
        reason: String,
        /// What was signed.
        what: String,
    },
    /// Another writer has the source.
    #[error("source {source_name} belongs to another writer since {since}: epoch {epoch}, writer {} on host {host:?}. Two agents must not write one source. If that one is gone for good, run: tidemark-agent take-over", writer.short())]
    Fenced {
        /// The source.
        source_name: SourceName,
        /// The other writer's epoch.
        epoch: Epoch,
        /// The other writer.
        writer: WriterId,
        /// Its host, for people.
        host: String,
        /// Since when.
        since: Timestamp,
    },
    /// Fewer regions answered than a claim or take-over needs.
    #[error(
        "{action} needs {needed} of {total} regions and only {reached} could be used; it is safe to try again"
    )]
    TooFewRegions {
        /// What was tried.
        action: &'static str,
        /// Regions that did as asked.
        reached: usize,
        /// How many are needed.
        needed: usize,
        /// How many there are.
        total: usize,
        /// The last refusal.
        #[source]
        source: Option<Box<Self>>,
    },
    /// A source that isn't there.
    #[error("there is no source {source_name:?} here; there is: {known}")]
    UnknownSource {
        /// The source asked for.
        source_name: SourceName,
        /// Those that there are.
        known: String,
    },
    /// A region is older than was expected.
    #[error(
        "this region is older than what was seen elsewhere: {why}; read the other region, or pass --accept-older"
    )]
    Older {
        /// What is missing.
        why: String,
    },
    /// A key file that can't be used.
    #[error("{what} can't be used: {why}")]
    KeyFile {
        /// Which file.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A local file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

impl LedgerError {
    /// How to act on it.
    #[must_use]
    pub fn kind(&self) -> LedgerErrorKind {
        match self {
            Self::Storage(error) => match error.kind() {
                StorageErrorKind::Corrupt => LedgerErrorKind::Integrity,
                StorageErrorKind::Missing => LedgerErrorKind::Missing,
                StorageErrorKind::Unknown
                | StorageErrorKind::Denied
                | StorageErrorKind::Exists
                | StorageErrorKind::Unreachable
                | StorageErrorKind::Full
                | StorageErrorKind::Invalid => LedgerErrorKind::Region,
            },
            Self::Format { .. }
            | Self::Misplaced { .. }
            | Self::Size { .. }
            | Self::Chain { .. }
            | Self::ClaimLost { .. }
            | Self::Older { .. } => LedgerErrorKind::Integrity,
            Self::NoRepository { .. } | Self::OtherRepository { .. } => {
                LedgerErrorKind::NoRepository
            }
            Self::Keyring { .. }
            | Self::KeyringsDisagree { .. }
            | Self::Unchanged { .. }
            | Self::LastRecipient { .. }
            | Self::KeyringOlder { .. }
            | Self::UnknownSigner { .. }
            | Self::WrongRole { .. }
            | Self::Revoked { .. }
            | Self::KeyFile { .. }
            | Self::File(_) => LedgerErrorKind::Key,
            Self::Fenced { .. } => LedgerErrorKind::Fenced,
            Self::TooFewRegions { .. } => LedgerErrorKind::Region,
            Self::UnknownSource { .. } => LedgerErrorKind::Missing,
        }
    }

    /// Whether this tells about the object (damaged, forged, not trusted), not about the region.
    #[must_use]
    pub fn is_about_the_object(&self) -> bool {
        match self.kind() {
            LedgerErrorKind::Integrity | LedgerErrorKind::Key => true,
            LedgerErrorKind::NoRepository
            | LedgerErrorKind::Fenced
            | LedgerErrorKind::Missing
            | LedgerErrorKind::Region => false,
        }
    }

    pub(crate) fn format(key: impl ToString) -> impl FnOnce(FormatError) -> Self {
        let key = key.to_string();
        move |source| Self::Format { key, source }
    }
}
