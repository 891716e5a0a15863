//! What can go wrong between us and a server.

use std::fmt;

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WireErrorKind {
    /// The server is not there, or went away: try again later.
    Gone,
    /// It is starting, stopping, or has no connection left: try again later.
    Busy,
    /// Log-in or privileges: a person must act.
    Denied,
    /// TLS can't be set up as asked: a person must act.
    Tls,
    /// The server refused a command; its code says why.
    Refused,
    /// What came is not the protocol.
    Protocol,
}

/// An error as the server words it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `PANIC`.
    pub severity: String,
    /// Five characters, the same in every language.
    pub code: String,
    /// What happened.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What the server suggests.
    pub hint: Option<String>,
    /// Where in the server's source it comes from: the same in every language.
    pub routine: Option<String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(f, "; {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

/// An error of a connection.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// No server could be reached.
    #[error("{peer} can't be reached")]
    Unreachable {
        /// The address.
        peer: String,
        /// The system's.
        #[source]
        source: std::io::Error,
    },
    /// An address did not answer in time.
    #[error("{peer} does not answer within {seconds} s")]
    Timeout {
        /// The address.
        peer: String,
        /// How long it had.
        seconds: u64,
    },
    /// The connection broke.
    #[error("the connection to {peer} is gone")]
    Gone {
        /// The address.
        peer: String,
        /// The system's.
        #[source]
        source: std::io::Error,
    },
    /// The server reports an error.
    #[error("the server says: {0}")]
    Server(Box<ServerError>),
    /// Every address was tried, and none will do.
    #[error("no server will do: {}", .0.join("; "))]
    NoTarget(Vec<String>),
    /// TLS is wanted and can't be had, or the server's certificate doesn't hold.
    #[error("TLS with {peer}: {why}")]
    Tls {
        /// The address.
        peer: String,
        /// What is wrong and what to do.
        why: String,
        /// The library's.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// TLS is wanted, and the server answered that it has none.
    #[error("TLS with {0}: the server has no TLS: set ssl = on there, or sslmode=disable here")]
    NoTls(String),
    /// Log-in fails on our side.
    #[error("log-in to {peer}: {why}")]
    Login {
        /// The address.
        peer: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// A message that can't be sent.
    #[error("a message of {0} bytes is longer than the protocol allows")]
    TooLong(usize),
    /// What came is not the protocol.
    #[error("the server does not speak the protocol as expected: {0}")]
    Protocol(&'static str),
}

impl WireError {
    pub(super) fn gone(peer: &str, source: std::io::Error) -> Self {
        Self::Gone {
            peer: peer.to_owned(),
            source,
        }
    }

    pub(super) fn closed(peer: &str) -> Self {
        Self::gone(peer, std::io::ErrorKind::UnexpectedEof.into())
    }

    /// What the server reported, if it did.
    #[must_use]
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Self::Server(error) => Some(error),
            _ => None,
        }
    }

    /// The server's code, if it reported one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.server().map(|error| error.code.as_str())
    }

    /// What the caller does next.
    #[must_use]
    pub fn kind(&self) -> WireErrorKind {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Gone { .. } => {
                WireErrorKind::Gone
            }
            Self::NoTarget(_) => WireErrorKind::Busy,
            Self::Tls { .. } | Self::NoTls(_) => WireErrorKind::Tls,
            Self::Login { .. } => WireErrorKind::Denied,
            Self::TooLong(_) | Self::Protocol(_) => WireErrorKind::Protocol,
            Self::Server(error) => match error.code.get(..2).unwrap_or_default() {
                // Invalid authorization; insufficient privilege.
                "28" => WireErrorKind::Denied,
                _ if error.code == "42501" => WireErrorKind::Denied,
                // Too many connections; shutting down, starting up, crashed.
                "53" | "57" | "58" if error.code != "58P01" => WireErrorKind::Busy,
                "08" => WireErrorKind::Gone,
                _ => WireErrorKind::Refused,
            },
        }
    }
}
