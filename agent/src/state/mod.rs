//! What the agent keeps in its state directory.
//!
//! ```text
//! lock                  one daemon per directory
//! agent.key             the signing key, made by init
//! writer.json           this directory's writer id, and the last beat's number
//! control.sock          while the daemon runs
//! sessions/SESSION      sealed session secrets that a region still lacks
//! sources/NAME/record   where the source stands ([`SourceRecord`])
//! sources/NAME/spool/   sealed objects that a region still lacks, with their records
//! sources/NAME/engine/  the engine's own folder
//! ```
//!
//! **Crash consistency.** A record may lag behind its spool, never run ahead of it: it is written
//! after the items it speaks of, and items are removed only after a record that covers them is
//! durable. [`SourceRecord::replay`] brings a record up to its spool.

pub mod item;
pub mod source;
pub mod spool;
pub mod writer;

use std::path::{Path, PathBuf};

use tidemark_format::{SessionId, SourceName};

pub use item::Item;
pub use source::SourceRecord;
pub use spool::{Order, Spool, SpoolError, SpoolUsage};
pub use writer::WriterState;

/// The places in a state directory.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// The state directory at `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The signing key, as 64 hex digits; mode 0600.
    #[must_use]
    pub fn agent_key(&self) -> PathBuf {
        self.root.join("agent.key")
    }

    /// Who this directory is.
    #[must_use]
    pub fn writer(&self) -> PathBuf {
        self.root.join("writer.json")
    }

    /// The daemon's control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// Folder of the sessions' sealed secrets.
    #[must_use]
    pub fn sessions(&self) -> PathBuf {
        self.root.join("sessions")
    }

    /// A session's sealed secret.
    #[must_use]
    pub fn session(&self, session: SessionId) -> PathBuf {
        self.sessions().join(session.to_string())
    }

    /// Folder of all sources.
    #[must_use]
    pub fn sources(&self) -> PathBuf {
        self.root.join("sources")
    }

    /// Folder of a source.
    #[must_use]
    pub fn source(&self, source: &SourceName) -> PathBuf {
        self.sources().join(source.as_str())
    }

    /// Where a source stands.
    #[must_use]
    pub fn record(&self, source: &SourceName) -> PathBuf {
        self.source(source).join("record")
    }

    /// A source's spool.
    #[must_use]
    pub fn spool(&self, source: &SourceName) -> PathBuf {
        self.source(source).join("spool")
    }

    /// The engine's own folder of a source.
    #[must_use]
    pub fn engine(&self, source: &SourceName) -> PathBuf {
        self.source(source).join("engine")
    }
}
