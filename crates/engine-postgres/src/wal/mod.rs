//! The write-ahead log as bytes: pages, records, and what a restore needs to find in them.
//!
//! [`Scanner`] is fed the log of one timeline in pieces of any size, in order, and tells where
//! records end and which of them are commits, named points, switches or checkpoints. It checks every
//! page header, every back link and every checksum: bytes that PostgreSQL would not replay are an
//! error here, at capture, and not a surprise at restore.
//!
//! Layouts are those of PostgreSQL 14 to 18 on little-endian machines. Of records it looks into
//! only those of the transaction and log managers, so others may change without breaking it.

mod page;
mod record;
mod scan;
#[cfg(test)]
mod testing;

pub use page::{PAGE_BYTES, Version};
pub use record::{Event, Outcome, PgTime};
pub use scan::{Record, Scanner, Span};

use tidemark_format::postgres::{Lsn, TimelineId};

/// Bytes that are not the log they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log of timeline {timeline} is not valid at {at}: {why}")]
pub struct BadWal {
    /// The branch.
    pub timeline: TimelineId,
    /// Where.
    pub at: Lsn,
    /// What is wrong there.
    pub why: &'static str,
}
