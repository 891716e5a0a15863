//! Why a command failed: the errors of the crates below, and the tool's own.
//!
//! Texts say what happened, what it means and what to do; [`crate::policy`] alone turns them into
//! codes.

use std::path::PathBuf;

use tidemark_format::{KeyId, RegionName, RepoId, SourceName};
use tidemark_host::config::ConfigError;
use tidemark_host::files::FileError;
use tidemark_host::region_url::RegionUrlError;
use tidemark_host::time_spec::TimeSpecError;

use crate::manual::ManError;
use crate::target::TargetError;

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing `meta/`.
    #[error(transparent)]
    Ledger(#[from] tidemark_ledger::LedgerError),
    /// Opening what is encrypted.
    #[error(transparent)]
    Open(#[from] tidemark_open::Error),
    /// A region could not be opened.
    #[error(transparent)]
    Storage(#[from] tidemark_storage::Error),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] tidemark_engine::Error),
    /// The target can't be used.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The config file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A local file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Man pages.
    #[error(transparent)]
    Man(#[from] ManError),
    /// A region URL can't be read.
    #[error("--region: {0}")]
    RegionUrl(#[source] RegionUrlError),
    /// The time can't be read.
    #[error(transparent)]
    Time(#[from] TimeSpecError),
    /// What was asked for can't be had.
    #[error(transparent)]
    NotRecoverable(#[from] crate::plan::NotRecoverable),
    /// No region was named.
    #[error(
        "no region was given: name at least one place that holds the repository, such as --region dir:/mnt/backup (or TIDEMARK_REGION)"
    )]
    NoRegion,
    /// A folder in which a region should be, and nothing is.
    #[error(
        "region {region}: there is nothing at all in {}: is the disk mounted? If it should be there, mount it and run the same command again; if the folder is new, no agent has written into it yet",
        folder.display()
    )]
    BareFolder {
        /// The region.
        region: RegionName,
        /// The folder.
        folder: PathBuf,
    },
    /// An agent asked to be enrolled, and the root has signed nobody in.
    #[error(
        "region {region}: this repository is begun and nobody is enrolled yet, so nothing in it counts so far: run tidemark-restore keys enrol --all --root FILE.root with the same regions, on the host that has the root key"
    )]
    NobodyEnrolled {
        /// The region.
        region: RegionName,
    },
    /// None of the regions could be read.
    #[error("none of the {count} regions given could be read; the first said")]
    AllRegionsFailed {
        /// How many.
        count: usize,
        /// The first one's error.
        #[source]
        first: Box<Self>,
    },
    /// An identity is needed.
    #[error(
        "this needs the recovery identity: --identity FILE (or TIDEMARK_IDENTITY); without one nothing can be decrypted"
    )]
    NoIdentity,
    /// Several sources and none was named.
    #[error("this repository holds several sources ({known}): name one with --source")]
    SourceUnclear {
        /// Their names.
        known: String,
    },
    /// The source isn't there.
    #[error("there is no source {asked} in this repository{known}")]
    NoSource {
        /// What was asked for, with "named" before it, or "yet".
        asked: String,
        /// Those that there are.
        known: String,
    },
    /// Regions of different repositories.
    #[error(
        "region {region} belongs to another repository than region {first}: restore reads one repository at a time"
    )]
    MixedRepositories {
        /// The one that differs.
        region: RegionName,
        /// The first one.
        first: RegionName,
    },
    /// An identity of one repository, and regions of another one.
    #[error(
        "{identity} belongs to repository {own}, and what is there ({regions}) is repository {held}: nothing was opened. Name an identity of repository {held} (--identity FILE; keys list --region URL without an identity shows whose), or the regions of repository {own} (--region URL). If this identity has opened these very regions before, somebody put another repository in their place: compare its root {root} with the printed key card before you believe it"
    )]
    OtherRepository {
        /// Which identity.
        identity: String,
        /// Its repository.
        own: RepoId,
        /// The regions' names.
        regions: String,
        /// The repository that they hold.
        held: RepoId,
        /// That repository's root.
        root: KeyId,
    },
    /// The target can't be read as an instant or position.
    #[error("{0}")]
    TargetText(String),
    /// A region was rolled back, or may have been.
    #[error("{0}; if you know why and want it all the same, add --accept-older")]
    Stale(String),
    /// Damage was found by `verify`.
    #[error(
        "{objects} objects are damaged or missing; they are listed above. Another region may hold good copies: verify it too"
    )]
    Damaged {
        /// How many.
        objects: usize,
    },
    /// Something that the restore needs is damaged in every region given, or closed to the identity.
    #[error("nothing was delivered, because something that is needed {what}; {instead}")]
    DamagedOnTheWay {
        /// What is wrong with it.
        what: &'static str,
        /// What can be had instead, and how.
        instead: String,
        /// What is damaged.
        #[source]
        damage: Box<Self>,
    },
    /// A part of a server's log of which nobody can say what it holds, or whether it is.
    #[error(
        "{0}; a server that took this for the log's end would lose what follows, so nothing was handed to it"
    )]
    LogUnknown(String),
    /// An engine that this build doesn't have.
    #[error(
        "source {source_name} is a {engine} database, which this build can't restore: use a newer tidemark-restore"
    )]
    EngineUnknown {
        /// The source.
        source_name: SourceName,
        /// The engine's name.
        engine: String,
    },
    /// A question and nobody to answer.
    #[error("{what}; there is no terminal to ask, so say --yes if you mean it")]
    NotConfirmed {
        /// What would be done.
        what: String,
    },
    /// A passphrase that can't be taken.
    #[error("{0}")]
    Passphrase(String),
    /// A question answered with no.
    #[error("nothing was changed")]
    Declined,
    /// Nothing to try an identity on.
    #[error("no agent has written anything yet that the identity could be tried on")]
    NothingWritten,
    /// The wrong key file, or a key that isn't there.
    #[error("{0}")]
    KeyUnknown(String),
    /// A key file exists.
    #[error("{} exists: a key is never overwritten; choose another name, or move it away", .0.display())]
    KeyFileExists(PathBuf),
    /// The root key isn't this repository's.
    #[error("{} is the root key {found}, and this repository's keyring is signed by {expected}", file.display())]
    WrongRoot {
        /// The file.
        file: PathBuf,
        /// Its key.
        found: KeyId,
        /// The repository's.
        expected: KeyId,
    },
    /// Nothing is known under this code.
    #[error("{0:?} is neither an exit code nor an error code; `explain` alone lists them all")]
    CodeUnknown(String),
    /// A worker pool.
    #[error(transparent)]
    Cpu(#[from] tidemark_host::cpu::CpuError),
    /// Logging.
    #[error(transparent)]
    Log(#[from] tidemark_host::log::LogError),
    /// Stopped by a signal.
    #[error("stopped; run the same command again and it goes on where it was")]
    Interrupted,
    /// The restored file isn't what was sealed.
    #[error("{0}")]
    Unproved(String),
    /// `init` makes a config, and never replaces one.
    #[error(
        "{} exists, and is not replaced; change it, or name another with --config FILE",
        .0.display()
    )]
    ConfigExists(PathBuf),
    /// Somebody else runs the schedule here.
    #[error(
        "the schedule of drills is owned by another process here ({}, process {holder}): one on a state directory is \
         enough; stop it first, or give this one a state_dir of its own",
        folder.display()
    )]
    DrillsOwned {
        /// The folder that it holds.
        folder: PathBuf,
        /// Its process id.
        holder: String,
    },
    /// The schedule needs a place for its notes.
    #[error(
        "the schedule of drills needs a state directory: set state_dir in restore.toml ($STATE_DIRECTORY under systemd)"
    )]
    NoStateFolder,
    /// A region that says nothing.
    #[error(
        "region {region} does not answer: nothing came from it for {}. Is the network cut, or the server stuck? If another region holds the repository, name that one (--region)",
        tidemark_host::output::duration(*waited)
    )]
    RegionSilent {
        /// Which.
        region: RegionName,
        /// How long.
        waited: std::time::Duration,
    },
    /// The regions neither answered nor refused.
    #[error("the regions did not answer in time")]
    RegionsSilent,
    /// A schedule that the config's door let through.
    #[error(transparent)]
    Schedule(#[from] tidemark_planner::ScheduleError),
    /// A drill's sandbox.
    #[error(transparent)]
    Sandbox(#[from] crate::sandbox::SandboxError),
    /// A terminal or another stream failed.
    #[error("can't {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}
