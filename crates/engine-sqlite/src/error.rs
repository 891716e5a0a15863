//! What can go wrong with a SQLite source or target, and what the caller does then.

use std::io;
use std::path::{Path, PathBuf};

use tidemark_engine::{Error, ErrorKind};
use tidemark_format::FormatError;
use tidemark_host::files::FileError;

/// An error of the SQLite engine: what happened, what it means, what to do.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// No file there.
    #[error(
        "{path}: there is no database; check the path, or create the database first (an empty file is none yet)"
    )]
    Vanished {
        /// The database.
        path: PathBuf,
    },
    /// It can't be opened for reading and writing.
    #[error(
        "{path}: the database can't be opened by this user; give its owner's account to the agent (the unit's User=)"
    )]
    Unreadable {
        /// The database.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not SQLite.
    #[error(
        "{path}: the file is not a SQLite database (encrypted databases can't be captured page by page either)"
    )]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// A file system that is shared between machines.
    #[error(
        "{path}: the file lies on {kind}, where another machine may write and SQLite's locks don't reach it; run the agent on the machine that holds the disk, or move the database to a local file system"
    )]
    Network {
        /// The database.
        path: PathBuf,
        /// The kind of file system.
        kind: &'static str,
    },
    /// Run by somebody else than the owner.
    #[error(
        "{path}: the file belongs to user {owner}, the agent runs as user {agent}; it would create -wal and -shm files that the application can't write. Run one agent per owner: User={owner} in the unit (tidemark-agent@.service)"
    )]
    NotOwner {
        /// The database.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
        /// The agent's.
        agent: u32,
    },
    /// Somebody holds it in `locking_mode=EXCLUSIVE`.
    #[error(
        "{path}: another process holds the database in EXCLUSIVE locking mode, so nobody else can read it; set PRAGMA locking_mode=NORMAL in the application"
    )]
    Exclusive {
        /// The database.
        path: PathBuf,
    },
    /// `-wal` and `-shm` can't be made.
    #[error(
        "{path}: the folder can't be written by this user, so SQLite can't open its -wal and -shm files there; mount it read-write for the agent (ReadWritePaths= in the unit)"
    )]
    ReadOnlyFolder {
        /// The database.
        path: PathBuf,
    },
    /// Another file has its name now.
    #[error(
        "{path}: the database was replaced by another file; it is opened again and compared page by page"
    )]
    Replaced {
        /// The database.
        path: PathBuf,
    },
    /// WAL on or off.
    #[error("{path}: the journal mode was changed between WAL and another; it is opened again")]
    ModeChanged {
        /// The database.
        path: PathBuf,
    },
    /// The page size is another one: VACUUM wrote the whole database anew.
    #[error(
        "{path}: the database was rebuilt with another page size; it is opened again, and begins a new history"
    )]
    PageSizeChanged {
        /// The database.
        path: PathBuf,
    },
    /// Its log or wal-index was taken away or replaced while it was open.
    #[error(
        "{path}: this file was removed or replaced while the database was in use; the database is opened again and compared. Never remove -wal or -shm files: commits in them are lost"
    )]
    LogReplaced {
        /// The `-wal` or `-shm` file.
        path: PathBuf,
    },
    /// The file of a database in WAL mode changed without a checkpoint.
    #[error(
        "{path}: the file was written behind SQLite's back while its log was in use ({how}), for example by copying a backup over it; the database is opened again and compared page by page. Old and new pages may be mixed in it now: run PRAGMA integrity_check on it. Restore into a new file, and rename it while nobody has the database open"
    )]
    WrittenBehind {
        /// The database.
        path: PathBuf,
        /// What shows it.
        how: String,
    },
    /// A catch-up began while a base was read.
    #[error(
        "{path}: something was missed while the base was read, so it would not be exact; begin the base again"
    )]
    BaseVoid {
        /// The database.
        path: PathBuf,
    },
    /// Somebody else holds a lock that will pass.
    #[error("{path}: the database is busy; it is tried again")]
    Busy {
        /// The database.
        path: PathBuf,
    },
    /// The library refused.
    #[error("{path}: SQLite failed while {action}")]
    Sqlite {
        /// What was done.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// What the library said.
        #[source]
        source: rusqlite::Error,
    },
    /// The system refused.
    #[error("{path}: the system failed while {action}")]
    Io {
        /// What was done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// One of our own small files could not be written.
    #[error(
        "the engine's state could not be written; make room or correct the folder's permissions"
    )]
    StateFile(#[from] FileError),
    /// Our own folder holds what we didn't write.
    #[error(
        "{path}: the engine's local state is damaged ({why}); move the folder away: a new generation with a complete base begins, what is in the regions stays restorable"
    )]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The canary's table could not be dropped.
    #[error(
        "{path}: the canary's table could not be dropped; run DROP TABLE tidemark_canary in the database"
    )]
    CanaryRemains {
        /// The database.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<Self>,
    },
    /// A payload that isn't sound.
    #[error("a log payload is not sound; restore from another region")]
    Payload(#[from] FormatError),
    /// Runs or payloads that contradict each other.
    #[error("{path}: the base and the log contradict each other: {why}")]
    Contradiction {
        /// The target.
        path: PathBuf,
        /// How.
        why: String,
    },
    /// Restored bytes aren't the source's.
    #[error(
        "{path}: the restored database is not what the agent sealed (digest {found}, sealed {sealed}); don't use it, restore from another region or to another instant"
    )]
    DigestDiffers {
        /// The target.
        path: PathBuf,
        /// Computed over the target.
        found: String,
        /// In the last payload.
        sealed: String,
    },
    /// A journal that SQLite would play into the restored file.
    #[error(
        "{path}: this file belongs to another database of that name, and SQLite would replay it into the restored one; move it away first"
    )]
    Stray {
        /// The `-wal`, `-shm` or `-journal` file.
        path: PathBuf,
    },
    /// The database fails SQLite's own check.
    #[error(
        "{path}: PRAGMA integrity_check reports: {report}. If the digest was proved equal, this is what the database itself was at that instant: check the live one, and restore to an earlier instant"
    )]
    Integrity {
        /// The database.
        path: PathBuf,
        /// Its first lines.
        report: String,
    },
    /// The caller broke the contract.
    #[error("the engine was used against its contract: {0}; please report this")]
    Contract(&'static str),
}

impl SqliteError {
    /// Attaches an input/output error.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// Attaches a library error; a lock held by others becomes [`Self::Busy`].
    pub(crate) fn sqlite(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(rusqlite::Error) -> Self {
        let path = path.to_path_buf();
        move |source| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                Self::Busy { path }
            }
            Some(rusqlite::ErrorCode::NotADatabase) => Self::NotADatabase { path },
            _ => Self::Sqlite {
                action,
                path,
                source,
            },
        }
    }

    /// What the caller does next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Vanished { .. } | Self::Unreadable { .. } => ErrorKind::Vanished,
            Self::NotADatabase { .. }
            | Self::Network { .. }
            | Self::NotOwner { .. }
            | Self::Exclusive { .. }
            | Self::ReadOnlyFolder { .. }
            | Self::Stray { .. } => ErrorKind::Refused,
            Self::Replaced { .. }
            | Self::ModeChanged { .. }
            | Self::PageSizeChanged { .. }
            | Self::WrittenBehind { .. }
            | Self::LogReplaced { .. } => ErrorKind::Reopen,
            Self::Busy { .. } | Self::BaseVoid { .. } | Self::CanaryRemains { .. } => {
                ErrorKind::Retry
            }
            Self::StateFile(error) if error.is_full() => ErrorKind::Full,
            Self::Io { source, .. } if is_full(source) => ErrorKind::Full,
            Self::Sqlite { .. } | Self::Io { .. } | Self::StateFile(_) => ErrorKind::Io,
            Self::State { .. }
            | Self::Payload(_)
            | Self::Contradiction { .. }
            | Self::DigestDiffers { .. }
            | Self::Integrity { .. } => ErrorKind::Corrupt,
            Self::Contract(_) => ErrorKind::Bug,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            // A limit on the size of files, as a service manager or ulimit sets it.
            | io::ErrorKind::FileTooLarge
    )
}

impl From<SqliteError> for Error {
    fn from(error: SqliteError) -> Self {
        Self::wrapping(error.kind(), error)
    }
}
