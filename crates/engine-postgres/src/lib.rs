//! PostgreSQL 14 to 18: what a server's log is made of, and where its positions lie.
//!
//! Own protocol, no client library: [`conninfo`] (as libpq's users write it), [`wire`] (messages, TLS,
//! log-in), [`replication`] (its commands). On them stands capture: [`PostgresEngine`] opens a server, a
//! stream on a slot becomes cuts, [`base`] its files' pages. [`wal`] reads the log itself, which knows
//! better than any clock what was committed when. Positions are persisted, so they are `format`'s.

pub mod base;
pub mod canary;
mod capture;
pub mod conninfo;
mod engine;
mod error;
pub mod examine;
#[doc(hidden)]
pub mod fuzzing;
pub mod probe;
pub mod replication;
pub mod restore;
pub mod timeline;
pub mod wal;
pub mod wire;

pub use capture::{Ack, Followed, Limits, LogMemory, Stale};
pub use engine::{PostgresConfig, PostgresEngine, slot_name};
pub use error::PostgresError;
pub use tidemark_format::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
