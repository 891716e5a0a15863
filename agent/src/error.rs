//! Why the agent stopped, or couldn't do what it was asked.

use std::path::PathBuf;

use tidemark_format::SourceName;
use tidemark_host::cpu::CpuError;
use tidemark_host::files::FileError;
use tidemark_host::lock::LockError;
use tidemark_ledger::LedgerError;

use crate::room::Shortage;
use crate::ship::greet::Collision;
use crate::state::SpoolError;
use crate::state::source::RecordError;

/// `Result` with this crate's [`AgentError`].
pub type Result<T> = std::result::Result<T, AgentError>;

/// Why the agent stopped, or couldn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Another writer has a source.
    #[error("source {source_name} is fenced: {why}")]
    Fenced {
        /// The source.
        source_name: SourceName,
        /// Whose it is and what to do.
        why: String,
    },
    /// A copy of this state directory runs elsewhere.
    #[error(
        "a copy of this machine or of its state directory runs with this agent's own key ({}). Nothing was written to any \
         source's log. Decide which machine has the database that your users write to. On the other one stop the agent, \
         move config and state_dir away and run `tidemark-agent init`, which makes a new key; then run \
         `tidemark-agent take-over` on the right one and start its agent",
        .0.why
    )]
    Cloned(Box<Collision>),
    /// The root has not signed for this agent's key yet.
    #[error("{}", crate::enrolment::waiting(.command))]
    NotEnrolled {
        /// What enrols it.
        command: String,
    },
    /// The root took this agent's key back.
    #[error(
        "this agent's key was revoked, so nothing that it signs counts any more ({why}). What it had written before stays \
         restorable. If this host is to be protected again: move config and state_dir away and run `tidemark-agent init`, \
         which makes a new key; it has to be enrolled"
    )]
    Revoked {
        /// As the keyring says.
        why: String,
    },
    /// No region can be used, and there is nothing that could be done without one.
    #[error(
        "no region could be reached and no source has an epoch to resume: nothing can be protected yet ({why})"
    )]
    NoRegion {
        /// The last refusal.
        why: String,
    },
    /// The agent has no signing key.
    #[error("{} can't be used: {why}; run `tidemark-agent init` to make one", path.display())]
    SigningKey {
        /// Where it should be.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A source that isn't in the config.
    #[error("there is no source {name:?} in this config; there is: {known}")]
    UnknownSource {
        /// As asked for.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// The state directory can't be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file of the state directory.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A small file.
    #[error(transparent)]
    File(#[from] FileError),
    /// What stands in `meta/`, or a region.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A region.
    #[error(transparent)]
    Storage(#[from] tidemark_storage::Error),
    /// Sealing.
    #[error(transparent)]
    Seal(#[from] tidemark_seal::Error),
    /// A database.
    #[error("source {source_name}: {source}")]
    Engine {
        /// The source.
        source_name: SourceName,
        /// What the engine says.
        source: tidemark_engine::Error,
    },
    /// Worker threads.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// An operation of the system.
    #[error("can't {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// What was asked for can't be done now.
    #[error("{0}")]
    Refused(String),
    /// It was asked for while the agent was stopping.
    #[error(
        "the agent is stopping: it ships what it has captured and seals a last recovery point by itself, and what it \
         can't ship stays in the spool until it runs again. Run this command again when it does"
    )]
    Stopping,
    /// It took longer than was allowed.
    #[error("{what} was not durable within {seconds} s: {why}")]
    Late {
        /// What was asked for.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
        /// What it waits for.
        why: String,
    },
    /// Nothing was captured for it: the engine waits for somebody.
    #[error("{what} was not made within {seconds} s: {why}")]
    Halted {
        /// What was asked for.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
        /// Which it is.
        code: tidemark_host::codes::Code,
        /// What keeps everything from being captured, and what to do.
        why: String,
    },
    /// The spool or its disk had no room for it.
    #[error("{what} was not durable within {seconds} s: {why}")]
    NoRoom {
        /// What was asked for.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
        /// Which it is.
        shortage: Shortage,
        /// What is full.
        why: String,
    },
}
