//! The one error of this crate.
//!
//! A kind exists only where a caller acts differently. The text says what happened, what it means
//! and what to do; the cause is attached as `source`, never pasted in.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use tidemark_format::{Key, PutId};

/// What happened below; shared, because one failure may be reported to several waiters.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Which store an error came from, as people know it: a region's URL without its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(Arc<str>);

impl Place {
    /// Names a store.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// Reading an object, whole or in part.
    Get,
    /// Asking for an object's size and put-id.
    Head,
    /// Listing keys or versions.
    List,
    /// Creating an object.
    Create,
    /// Deleting an object.
    Delete,
    /// Probing what the store enforces.
    Probe,
}

impl Op {
    /// Every operation, in the order of counters.
    pub const ALL: [Self; 6] = [
        Self::Get,
        Self::Head,
        Self::List,
        Self::Create,
        Self::Delete,
        Self::Probe,
    ];

    /// A constant lower-case name, for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Probe => "probe",
        }
    }

    const fn doing(self) -> &'static str {
        match self {
            Self::Get => "reading",
            Self::Head => "asking for",
            Self::List => "listing",
            Self::Create => "creating",
            Self::Delete => "deleting",
            Self::Probe => "probing with",
        }
    }
}

/// How a caller should act on an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The store answered that the object isn't there.
    Missing,
    /// The store refused to say: neither absent nor present may be concluded.
    Unknown,
    /// The credential lacks the right to write, delete or configure.
    Denied,
    /// The name is taken by somebody else's object.
    Exists,
    /// The store didn't answer, or asked to come back later: worth another try.
    Unreachable,
    /// The bytes that came back can't be right.
    Corrupt,
    /// No space is left.
    Full,
    /// The request itself is wrong: configuration, a wrong bucket, a bug.
    Invalid,
}

impl ErrorKind {
    /// A constant lower-case name, for metrics and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::Denied => "denied",
            Self::Exists => "exists",
            Self::Unreachable => "unreachable",
            Self::Corrupt => "corrupt",
            Self::Full => "full",
            Self::Invalid => "invalid",
        }
    }
}

/// Why a store couldn't do as asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// See [`ErrorKind::Missing`].
    #[error("{place} has no object {key}")]
    Missing {
        /// The store.
        place: Place,
        /// The object.
        key: String,
    },
    /// See [`ErrorKind::Unknown`].
    #[error(
        "{place} refused {} {key}: it may or may not exist; give the credential the right to read and list it", op.doing()
    )]
    Unknown {
        /// The store.
        place: Place,
        /// What was refused.
        op: Op,
        /// The object or prefix.
        key: String,
        /// The store's answer.
        #[source]
        source: Option<Cause>,
    },
    /// See [`ErrorKind::Denied`].
    #[error(
        "{place} denied {} {key}: the credential lacks that right; compare its policy with config/iam/", op.doing()
    )]
    Denied {
        /// The store.
        place: Place,
        /// What was denied.
        op: Op,
        /// The object.
        key: String,
        /// The store's answer.
        #[source]
        source: Option<Cause>,
    },
    /// See [`ErrorKind::Exists`].
    #[error("{place} already has another object {key}{}", owner(put_id.as_ref()))]
    Exists {
        /// The store.
        place: Place,
        /// The object.
        key: String,
        /// The put-id it carries, if the store could be asked.
        put_id: Option<PutId>,
    },
    /// See [`ErrorKind::Unreachable`].
    #[error("{place} could not be reached while {} {key}: {why}", op.doing())]
    Unreachable {
        /// The store.
        place: Place,
        /// What was being done.
        op: Op,
        /// The object or prefix.
        key: String,
        /// In a few words, and what to check.
        why: String,
        /// What happened below.
        #[source]
        source: Option<Cause>,
    },
    /// See [`ErrorKind::Corrupt`].
    #[error("{place} returned wrong bytes for {key}: {why}; another region may hold a good copy")]
    Corrupt {
        /// The store.
        place: Place,
        /// The object.
        key: String,
        /// What is wrong with them.
        why: String,
    },
    /// See [`ErrorKind::Full`].
    #[error("{place} is full: {key} was not stored and nothing was damaged; free space there")]
    Full {
        /// The store.
        place: Place,
        /// The object.
        key: String,
        /// What happened below.
        #[source]
        source: Option<Cause>,
    },
    /// See [`ErrorKind::Invalid`].
    #[error("{place} can't be used like this: {why}")]
    Invalid {
        /// The store.
        place: Place,
        /// What is wrong and how to set it right.
        why: String,
        /// What happened below.
        #[source]
        source: Option<Cause>,
    },
}

fn owner(put_id: Option<&PutId>) -> String {
    put_id.map_or_else(
        || " (whose it is could not be read)".to_owned(),
        |id| format!(" (put {})", id.short()),
    )
}

impl Error {
    /// How to act on it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } => ErrorKind::Missing,
            Self::Unknown { .. } => ErrorKind::Unknown,
            Self::Denied { .. } => ErrorKind::Denied,
            Self::Exists { .. } => ErrorKind::Exists,
            Self::Unreachable { .. } => ErrorKind::Unreachable,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Full { .. } => ErrorKind::Full,
            Self::Invalid { .. } => ErrorKind::Invalid,
        }
    }

    /// The store it came from.
    #[must_use]
    pub const fn place(&self) -> &Place {
        match self {
            Self::Missing { place, .. }
            | Self::Unknown { place, .. }
            | Self::Denied { place, .. }
            | Self::Exists { place, .. }
            | Self::Unreachable { place, .. }
            | Self::Corrupt { place, .. }
            | Self::Full { place, .. }
            | Self::Invalid { place, .. } => place,
        }
    }

    pub(crate) fn missing(place: &Place, key: &Key) -> Self {
        Self::Missing {
            place: place.clone(),
            key: key.to_string(),
        }
    }

    pub(crate) fn unreachable(
        place: &Place,
        op: Op,
        key: &str,
        why: impl Into<String>,
        source: Option<Cause>,
    ) -> Self {
        Self::Unreachable {
            place: place.clone(),
            op,
            key: key.to_owned(),
            why: why.into(),
            source,
        }
    }

    pub(crate) fn invalid(place: &Place, why: impl Into<String>, source: Option<Cause>) -> Self {
        Self::Invalid {
            place: place.clone(),
            why: why.into(),
            source,
        }
    }
}

/// The whole chain of causes in one line, for a log or an answer to people.
///
/// Errors here attach their cause instead of pasting it; whoever reports one uses this.
#[must_use]
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let part = cause.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = cause.source();
    }
    text
}
