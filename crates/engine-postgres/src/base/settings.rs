//! How bases are taken, and onto which log.

use std::fmt;

use tidemark_engine::Wake;
use tidemark_format::postgres::Lsn;
use tidemark_host::Pace;

use crate::conninfo::ConnInfo;

/// Where a base's bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// From the data directory if it can be read and is certainly the server's; else over the network.
    #[default]
    Auto,
    /// From the data directory, or not at all.
    Local,
    /// Over the network.
    Remote,
}

/// How bases are taken.
#[derive(Clone)]
pub struct Settings {
    /// Where the server is.
    pub info: ConnInfo,
    /// Runs the task.
    pub runtime: tokio::runtime::Handle,
    /// What the server calls the backup in its log.
    pub label: String,
    /// Checkpoint at once instead of at leisure.
    pub fast_checkpoint: bool,
    /// How fast it is read.
    pub pace: Pace,
    /// Threads that read a data directory while a base is taken from it.
    pub readers: usize,
    /// Called when there is something for [`super::Bases::slice`].
    pub wake: Wake,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("label", &self.label)
            .field("fast_checkpoint", &self.fast_checkpoint)
            .field("pace", &self.pace)
            .finish_non_exhaustive()
    }
}

/// The log onto which a base must fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStart {
    /// The captured system: no other may answer.
    pub system: u64,
    /// Where the cut begins that the base starts with.
    pub from: Lsn,
}
