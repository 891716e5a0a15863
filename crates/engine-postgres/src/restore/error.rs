//! What can go wrong with a restore, what it means, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use tidemark_engine::{Error, ErrorKind};
use tidemark_format::FormatError;
use tidemark_format::postgres::{Lsn, TimelineId};

use crate::timeline::BadHistory;
use crate::wal::BadWal;

/// An error of a PostgreSQL restore.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The base's file table can't be one.
    #[error("the base's list of files is not sound: {why}; restore from another region")]
    Table {
        /// What is wrong.
        why: String,
    },
    /// A run of pages contradicts itself or the table.
    #[error("pages of the base's file {file} are not sound: {why}; restore from another region")]
    Run {
        /// The file's number.
        file: u32,
        /// What is wrong.
        why: &'static str,
    },
    /// Fewer pages came than the table promises.
    #[error(
        "{path} is {found} bytes long and the base lists {listed}: pages are missing; restore from another region"
    )]
    Incomplete {
        /// The file, as the table names it.
        path: String,
        /// Its length here.
        found: u64,
        /// As listed.
        listed: u64,
    },
    /// The layout is not sound.
    #[error("the base's layout is not sound; restore from another region")]
    Layout(#[source] FormatError),
    /// The layout and the files don't fit.
    #[error("the base's layout does not fit its files: {why}; restore from another region")]
    LayoutDiffers {
        /// How.
        why: String,
    },
    /// A tablespace's place is in use.
    #[error(
        "{location}: the tablespace {oid} belongs there, and the folder is not empty; empty it, or give the tablespace another place with --map-tablespace {original}=NEW"
    )]
    TablespaceTaken {
        /// Its object id.
        oid: u32,
        /// Where it was to go.
        location: PathBuf,
        /// Where it was on the server.
        original: String,
    },
    /// A tablespace that the log makes, at a place that can't be had.
    #[error(
        "{place}: the tablespace {oid} was made there after the base, and {why}; restore on a machine where this folder is empty or absent, to an instant before the tablespace was made, or from a base after it (`tidemark-agent snapshot --base` while the source lives), whose tablespaces can be mapped"
    )]
    TablespaceMade {
        /// Its object id.
        oid: u32,
        /// Where replay makes it.
        place: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A mapping of tablespaces that can't be followed.
    #[error("--map-tablespace {old}={new}: {why}")]
    TablespaceMap {
        /// The place on the server.
        old: String,
        /// The place here.
        new: String,
        /// What is wrong.
        why: String,
    },
    /// The payload is not sound.
    #[error("a log object's payload is not sound; restore from another region")]
    Payload(#[source] FormatError),
    /// Log of another cluster.
    #[error(
        "the log is of the database system {found}, the base of {expected}: they don't belong together"
    )]
    OtherSystem {
        /// The base's.
        expected: u64,
        /// The log's.
        found: u64,
    },
    /// Segments of another size.
    #[error(
        "the log has segments of {found} bytes, the base's server of {expected}: they don't belong together"
    )]
    OtherSegments {
        /// The base's.
        expected: u64,
        /// The log's.
        found: u64,
    },
    /// Log is missing.
    #[error(
        "the log of timeline {timeline} is missing from {from} to {to}: nothing after {from} can be restored from this chain"
    )]
    Gap {
        /// The branch.
        timeline: TimelineId,
        /// The first missing byte.
        from: Lsn,
        /// The first one that is there.
        to: Lsn,
    },
    /// Log that is there twice.
    #[error(
        "the log of timeline {timeline} goes back from {at} to {start}: an object out of order or of another history"
    )]
    Overlap {
        /// The branch.
        timeline: TimelineId,
        /// How far the log was.
        at: Lsn,
        /// Where the object starts.
        start: Lsn,
    },
    /// The timeline is no descendant of the one before it.
    #[error(
        "timeline {timeline} does not go on from timeline {parent} at {at}: its history leaves it elsewhere or never knew it"
    )]
    NotADescendant {
        /// The new branch.
        timeline: TimelineId,
        /// The one the log was on.
        parent: TimelineId,
        /// How far.
        at: Lsn,
    },
    /// Nobody wrote how a timeline came to be.
    #[error(
        "the log of timeline {timeline} comes without its history, so where it left its parent is unknown"
    )]
    HistoryMissing {
        /// The branch.
        timeline: TimelineId,
    },
    /// A history that is none.
    #[error("a history of the log is not sound; restore from another region")]
    History(#[source] BadHistory),
    /// The log's bytes are not what a server would replay.
    #[error("the log is damaged; restore from another region, or to an instant before that place")]
    Wal(#[source] BadWal),
    /// Only a base.
    #[error(
        "no log followed the base: a base alone is not a state of the database; at least the log made while it was taken must follow"
    )]
    NoLog,
    /// The log ends before the target.
    #[error(
        "{wanted} is not in this log, which ends at {ends} on timeline {timeline}; choose a target up to there"
    )]
    NotReached {
        /// The target, in words.
        wanted: String,
        /// Where the log's last whole record ends.
        ends: Lsn,
        /// On which branch.
        timeline: TimelineId,
    },
    /// The target lies before the base is usable.
    #[error(
        "{wanted} lies before {consistent}, where this base becomes consistent; restore it from an older base"
    )]
    BeforeConsistent {
        /// The target, in words.
        wanted: String,
        /// Where the base ended.
        consistent: Lsn,
    },
    /// No server of that version.
    #[error(
        "PostgreSQL {major} is needed to finish the restore and was not found ({looked}); install it (Debian: apt install postgresql-{major}), or name its folder: --pg-bin DIR, or pg_bin in restore.toml for drills. A restore, not a drill, can leave the recovery to you (restore --no-finish)"
    )]
    NoBinaries {
        /// The major version.
        major: u16,
        /// Where was looked, and what was there.
        looked: String,
    },
    /// A server of another version.
    #[error(
        "{bin}: these are the programs of PostgreSQL {found}, the data is of {major}; install PostgreSQL {major} and name its folder with --pg-bin DIR"
    )]
    WrongVersion {
        /// The folder.
        bin: PathBuf,
        /// What it says.
        found: String,
        /// The data's.
        major: u16,
    },
    /// PostgreSQL does not run as root.
    #[error(
        "{folder} belongs to root, and PostgreSQL refuses to run as root: give the folder to the user that will run the server (chown postgres {folder}), or restore as that user"
    )]
    OwnerIsRoot {
        /// The target's parent.
        folder: PathBuf,
    },
    /// A server runs there.
    #[error(
        "{folder}: a server is running in this folder (process {pid}); stop it first (as an earlier run of this restore may have left it: kill -INT {pid})"
    )]
    Running {
        /// The folder.
        folder: PathBuf,
        /// The process.
        pid: String,
    },
    /// An earlier recovery was cut off.
    #[error(
        "{folder}: recovery was begun here by an earlier run and did not end, so its files can't be written again; remove the folder and begin anew"
    )]
    RecoveryBegun {
        /// The folder.
        folder: PathBuf,
    },
    /// The caller wanted to stop.
    #[error("the restore was interrupted; run it again")]
    Interrupted,
    /// The server could not recover.
    #[error("{why}. The server's log ends with:\n{log}")]
    Recovery {
        /// What happened and what it means.
        why: String,
        /// The last lines.
        log: String,
    },
    /// A server that does not react.
    #[error(
        "the server did not {what} within {seconds} s and was ended; is the disk stuck? Its log ends with:\n{log}"
    )]
    Hung {
        /// What it was to do.
        what: &'static str,
        /// How long it had.
        seconds: u64,
        /// The last lines.
        log: String,
    },
    /// Recovery ended elsewhere.
    #[error(
        "recovery ended at {found} and not at {promised}, where it was to end: don't use this database, and report this"
    )]
    EndDiffers {
        /// Where it was to end.
        promised: String,
        /// Where it did.
        found: String,
    },
    /// `pg_control` is not readable as such.
    #[error("{path} is not sound: {why}; restore from another region")]
    Control {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// A program could not be run.
    #[error(
        "{program} can't be run; check that its folder is open to the user that owns the target"
    )]
    Program {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system refused.
    #[error("{path}: the system failed while {action}")]
    Io {
        /// What was done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The caller broke the contract.
    #[error("the engine was used against its contract: {0}; please report this")]
    Contract(&'static str),
}

impl RestoreError {
    /// Attaches an input/output error.
    pub(super) fn io<'a, E: Into<io::Error>>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(E) -> Self + use<'a, E> {
        move |source| Self::Io {
            action,
            path: path.to_path_buf(),
            source: source.into(),
        }
    }

    /// What the caller does next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TablespaceTaken { .. }
            | Self::TablespaceMade { .. }
            | Self::TablespaceMap { .. }
            | Self::NotReached { .. }
            | Self::BeforeConsistent { .. }
            | Self::NoBinaries { .. }
            | Self::WrongVersion { .. }
            | Self::OwnerIsRoot { .. }
            | Self::Running { .. }
            | Self::RecoveryBegun { .. }
            | Self::NoLog => ErrorKind::Refused,
            Self::Interrupted => ErrorKind::Retry,
            Self::Io { source, .. } if is_full(source) => ErrorKind::Full,
            Self::Io { .. } | Self::Program { .. } | Self::Hung { .. } | Self::Recovery { .. } => {
                ErrorKind::Io
            }
            Self::Table { .. }
            | Self::Run { .. }
            | Self::Incomplete { .. }
            | Self::Layout(_)
            | Self::LayoutDiffers { .. }
            | Self::Payload(_)
            | Self::OtherSystem { .. }
            | Self::OtherSegments { .. }
            | Self::Gap { .. }
            | Self::Overlap { .. }
            | Self::NotADescendant { .. }
            | Self::HistoryMissing { .. }
            | Self::History(_)
            | Self::Wal(_)
            | Self::EndDiffers { .. }
            | Self::Control { .. } => ErrorKind::Corrupt,
            Self::Contract(_) => ErrorKind::Bug,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

impl From<RestoreError> for Error {
    fn from(error: RestoreError) -> Self {
        Self::wrapping(error.kind(), error)
    }
}
