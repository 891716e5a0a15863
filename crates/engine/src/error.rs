//! One error for every engine: what happened, what it means, what to do, and what the caller does.

use std::error::Error as StdError;

/// What the caller does next; a kind exists only where that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Passing: try the same call again after a wait.
    Retry,
    /// The database under this capture is another one now (replaced, other journal mode): cut what
    /// was captured, drop the capture and open again.
    Reopen,
    /// The database is not there, or can't be reached now: drop the capture, open again later, alert.
    Vanished,
    /// This database can't be protected as it is set up; an operator must act. Stop this source.
    Refused,
    /// Bytes that must be right are not: a payload on restore, a page map on capture.
    Corrupt,
    /// The disk that holds the engine's folder or the restore target is full.
    Full,
    /// The operating system refused an operation.
    Io,
    /// The caller broke the contract.
    Bug,
}

/// An engine's error. Its text says what happened, what it means and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error without a cause.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// An error of `kind` whose text is that of `cause`, an engine's own typed error.
    ///
    /// The cause's own cause stays reachable through [`StdError::source`]; the engine's error itself
    /// through [`Self::inner`].
    #[must_use]
    pub fn wrapping<E: StdError + Send + Sync + 'static>(kind: ErrorKind, cause: E) -> Self {
        Self {
            kind,
            message: cause.to_string(),
            source: Some(Box::new(cause)),
        }
    }

    /// What the caller does next.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The engine's own error, if it is of type `E`.
    #[must_use]
    pub fn inner<E: StdError + 'static>(&self) -> Option<&E> {
        self.source
            .as_ref()
            .and_then(|cause| cause.downcast_ref::<E>())
    }
}
