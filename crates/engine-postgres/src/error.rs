//! What can go wrong while a server is captured or restored: what happened, what it means, what to do.

use std::path::PathBuf;

use tidemark_engine::{Error, ErrorKind};
use tidemark_host::files::FileError;

use crate::capture::Stale;
use crate::conninfo::ConnInfoError;
use crate::wire::{WireError, WireErrorKind};

/// An error of the PostgreSQL engine.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The connection string is no good.
    #[error("the connection string of this source can't be used; correct it in the config")]
    ConnInfo(#[source] ConnInfoError),
    /// No server answers.
    #[error(
        "PostgreSQL can't be reached: nothing is captured until it can. Check that the server runs and that the connection string names it"
    )]
    Unreachable(#[source] WireError),
    /// The server did not answer in time.
    #[error(
        "PostgreSQL did not answer {what} within {seconds} s; it is asked again. If this stays, look at the server's load and its log"
    )]
    Slow {
        /// What was asked.
        what: &'static str,
        /// How long it had.
        seconds: u64,
    },
    /// Only servers answer that the cluster has left behind.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// The server doesn't let us in, or TLS can't be set up as asked.
    #[error(
        "PostgreSQL doesn't let the agent in: check role, password, pg_hba.conf (a line for database \"replication\") and TLS settings; the role needs REPLICATION and LOGIN"
    )]
    Denied(#[source] WireError),
    /// The server refused something that capture needs.
    #[error("PostgreSQL refused to {what}. {advice}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// What to do.
        advice: &'static str,
        /// What it said.
        #[source]
        source: WireError,
    },
    /// The server's version is not one that is known.
    #[error(
        "the server is PostgreSQL {found}; this version of Tidemark protects 14 to 18. Upgrade the server, or Tidemark"
    )]
    Version {
        /// What it says that it is.
        found: String,
    },
    /// Another program streams from our slot.
    #[error(
        "the replication slot {slot:?} is in use by another connection: another agent may protect this server under the same source name. Stop it, or give this source another name; if it is our own connection of before, the server lets it go after wal_sender_timeout"
    )]
    SlotBusy {
        /// The slot.
        slot: String,
    },
    /// The slot of a retired source could not be dropped.
    #[error(
        "the replication slot could not be dropped, and it keeps log on the server until it is: run SELECT pg_drop_replication_slot('{slot}') there"
    )]
    NotRetired {
        /// The slot.
        slot: String,
        /// Why not.
        #[source]
        source: Box<Self>,
    },
    /// The canary's table could not be dropped.
    #[error(
        "the canary's table could not be dropped: run, in the database of the connection string, DROP TABLE tidemark.canary; DROP SCHEMA tidemark;"
    )]
    CanaryRemains {
        /// Why not.
        #[source]
        source: Box<Self>,
    },
    /// The slot's name belongs to something else.
    #[error(
        "there is a {kind} replication slot named {slot:?}, which is not ours; give this source another name or drop that slot"
    )]
    ForeignSlot {
        /// The slot.
        slot: String,
        /// What kind of slot it is.
        kind: String,
    },
    /// The log can't go on from where it was captured.
    #[error(
        "the log does not go on where it was captured: {reason}. A new incarnation with a complete base begins by itself; what was captured before stays restorable"
    )]
    Broken {
        /// Why.
        reason: String,
    },
    /// A file of the engine's folder is not what it should be.
    #[error("{why} ({})", path.display())]
    State {
        /// The file or its folder.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
        /// The parser's.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// The system refused an operation.
    #[error("can't {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's.
        #[source]
        source: std::io::Error,
    },
    /// A file of the engine's folder could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The caller or this code broke the contract.
    #[error("the engine's contract was broken: {0}")]
    Contract(&'static str),
}

impl PostgresError {
    /// A connection's error, by what it means while a source is opened.
    pub(crate) fn connecting(error: WireError) -> Self {
        match error.kind() {
            WireErrorKind::Denied | WireErrorKind::Tls => Self::Denied(error),
            WireErrorKind::Gone
            | WireErrorKind::Busy
            | WireErrorKind::Refused
            | WireErrorKind::Protocol => Self::Unreachable(error),
        }
    }

    /// What the caller does next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ConnInfo(_) | Self::Version { .. } | Self::ForeignSlot { .. } => {
                ErrorKind::Refused
            }
            // People mend these on the server, where nobody tells the agent.
            Self::Unreachable(_)
            | Self::Stale(_)
            | Self::Slow { .. }
            | Self::Denied(_)
            | Self::Refused { .. }
            | Self::SlotBusy { .. }
            | Self::NotRetired { .. }
            | Self::CanaryRemains { .. } => ErrorKind::Vanished,
            Self::Broken { .. } => ErrorKind::Reopen,
            Self::State { .. } => ErrorKind::Corrupt,
            Self::Io { source, .. } if is_full(source) => ErrorKind::Full,
            Self::Io { .. } => ErrorKind::Io,
            Self::File(error) if error.is_full() => ErrorKind::Full,
            Self::File(_) => ErrorKind::Io,
            Self::Contract(_) => ErrorKind::Bug,
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}

impl From<PostgresError> for Error {
    fn from(error: PostgresError) -> Self {
        Self::wrapping(error.kind(), error)
    }
}
