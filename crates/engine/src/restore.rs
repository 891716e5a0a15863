//! The restore side of the contract.

use std::collections::BTreeMap;
use std::fmt;

use tidemark_format::body::FileEntry;

use crate::capture::PageRun;
use crate::error::Error;

/// What a log payload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Pages written.
    pub pages: u64,
    /// Size of the database after it, in pages.
    pub database_pages: u64,
    /// Whether it carries the digest of the whole database after it.
    pub provable: bool,
}

/// Whether the restored bytes are the source's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofResult {
    /// The digest over the whole restored database equals the one the agent sealed.
    Equal,
    /// The last log object carries no digest (the generation's first base was not complete then).
    NoDigest,
    /// The database's own server replayed the log, every record's checksum right, and stopped exactly
    /// where it was to.
    Replayed,
    /// Everything is in place, and replay is left to whoever starts the server.
    Unproved,
}

/// Where a restore ended, and what was proved about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndProof {
    /// What was proved. A digest that differs is an error, not a result.
    pub result: ProofResult,
    /// The digest over the whole, as hex, if there was one.
    pub digest: Option<String>,
    /// Pages in the restored database.
    pub pages: u64,
    /// Bytes per page.
    pub page_size: u32,
    /// Facts about the restored database.
    pub facts: BTreeMap<String, serde_json::Value>,
}

/// A restore target being written.
///
/// Page runs of one base may be written from several threads and in any order; the bases of a chain
/// one after the other, oldest first; then payloads in the order of the log. Every write may be
/// repeated, so an interrupted restore goes on by doing its last steps again.
pub trait Materialise: Send + Sync + fmt::Debug {
    /// Told once, before the first page: the files as the newest base of the chain lists them. Pages of
    /// older bases that no file there has room for are not wanted.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] if the list can't be one of this engine's, or the system's.
    fn expect_files(&self, files: &[FileEntry]) -> Result<(), Error> {
        let _ = files;
        Ok(())
    }

    /// Writes pages of a base.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] if the run contradicts itself or an earlier one, or the system's.
    fn write_run(&self, run: &PageRun) -> Result<(), Error>;

    /// Applies one log payload.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] if the payload is not sound, or the system's.
    fn apply_log(&mut self, payload: &[u8]) -> Result<Applied, Error>;

    /// Whether the log applied so far holds the target, so that no more of it is needed. An engine
    /// that has no target of its own needs all it is given.
    fn has_reached_stop(&self) -> bool {
        false
    }

    /// Brings the database to its final size, proves it against the last payload's digest and
    /// fsyncs it. The target keeps its temporary name: renaming it is the caller's last step.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] if the digest differs or the result is no database, or the system's.
    fn finish(self: Box<Self>) -> Result<EndProof, Error>;
}
