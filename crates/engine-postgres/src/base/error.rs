//! What can go wrong while a base is made, and what the caller does then.

use std::io;
use std::path::{Path, PathBuf};

use tidemark_engine::{Error, ErrorKind};
use tidemark_format::postgres::Lsn;
use tidemark_host::files::FileError;

use super::tar::TarError;
use crate::wire::WireError;

/// An error of a base: what happened, what it means, what to do.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The connection or the server's refusal.
    #[error("the base backup failed; it is begun again")]
    Wire(#[from] WireError),
    /// The archive is not one.
    #[error("the base backup can't be read; it is begun again")]
    Tar(#[from] TarError),
    /// The server went silent.
    #[error(
        "the server sent nothing of the base backup for {seconds} s; it is begun again. Look at the server's load and its network"
    )]
    Silent {
        /// How long it had.
        seconds: u64,
    },
    /// Archives that don't fit one another.
    #[error("the base backup is not as the server announced it ({0}); it is begun again")]
    Contents(String),
    /// Another server answers.
    #[error(
        "the server that answers has system identifier {found}, the captured one {expected}: the base would be of another database. Correct the connection string"
    )]
    OtherSystem {
        /// What was captured.
        expected: u64,
        /// Who answers.
        found: u64,
    },
    /// The backup begins before the log that is captured.
    #[error(
        "the base would start at {start}, before the captured log's {log}, so it could not be replayed; a standby starts at its last restart point, which moves with the primary's checkpoints. It is tried again: run CHECKPOINT on the primary to shorten the wait"
    )]
    StartsEarly {
        /// Where replay would begin.
        start: Lsn,
        /// Where the log begins.
        log: Lsn,
    },
    /// The data directory can't be read, and nothing else is allowed.
    #[error("the data directory can't be read for a base: {why}")]
    NotLocal {
        /// Why.
        why: String,
    },
    /// Data behind a symbolic link: no base backup has it, the server's own neither.
    #[error(
        "{path} is a symbolic link, which no base backup follows: a restore would lack what it leads to. Stop the server and move it back into the data directory, or move the database into a tablespace"
    )]
    Linked {
        /// In the data directory.
        path: String,
    },
    /// A database that is in the catalogue, before and after, and of which no folder came.
    #[error(
        "database {name:?} did not come with the base backup (folder {oid} of tablespace {space}): a restore would lack it. Look what stands in its place in the data directory; what is a symbolic link there no base backup follows"
    )]
    DatabaseMissing {
        /// Its name.
        name: String,
        /// Its number.
        oid: u32,
        /// Its tablespace's.
        space: u32,
    },
    /// A tablespace for PostgreSQL's own tests.
    #[error(
        "tablespace {oid} stands inside the data directory (allow_in_place_tablespaces, which PostgreSQL has for its own tests): no copy of it can be restored. Move what it holds into another tablespace and drop it"
    )]
    InPlace {
        /// Its number.
        oid: u32,
    },
    /// More files than numbers.
    #[error("the server has more files than a base can number")]
    TooManyFiles,
    /// The digest store is not what we wrote.
    #[error("{}: the page digests are damaged ({why}); the next base is complete", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The system refused.
    #[error("{}: the system failed while {action}", path.display())]
    Io {
        /// What was done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// One of our own small files.
    #[error(
        "the state of the bases could not be written; make room or correct the folder's permissions"
    )]
    StateFile(#[from] FileError),
    /// The task ended without a word.
    #[error("the base was stopped; it is begun again")]
    Stopped,
    /// The caller's mistake.
    #[error("a base was used against its contract: {0}")]
    Contract(&'static str),
}

impl BaseError {
    pub(super) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// What the caller does next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        match self {
            Self::Contract(_) => ErrorKind::Bug,
            Self::Io { source, .. } if full.contains(&source.kind()) => ErrorKind::Full,
            Self::StateFile(error) if error.is_full() => ErrorKind::Full,
            Self::Io { .. }
            | Self::StateFile(_)
            | Self::Linked { .. }
            | Self::DatabaseMissing { .. }
            | Self::InPlace { .. } => ErrorKind::Io,
            Self::Wire(_)
            | Self::Tar(_)
            | Self::Silent { .. }
            | Self::Contents(_)
            | Self::OtherSystem { .. }
            | Self::StartsEarly { .. }
            | Self::NotLocal { .. }
            | Self::TooManyFiles
            | Self::Store { .. }
            | Self::Stopped => ErrorKind::Retry,
        }
    }
}

impl From<BaseError> for Error {
    fn from(error: BaseError) -> Self {
        Self::wrapping(error.kind(), error)
    }
}
