//! PostgreSQL 14 to 18: what a server's log is made of, and where its positions lie.
//!
//! Built so far: timelines and their histories ([`timeline`]), and the reader of the write-ahead log
//! ([`wal`]), which finds commits, named points and switches in a stream of any piece size. Nothing
//! captures or restores a server yet. Positions are persisted, so they are `format`'s.

pub mod base;
mod capture;
pub mod conninfo;
mod engine;
mod error;
pub mod probe;
pub mod replication;
pub mod restore;
pub mod timeline;
pub mod wal;
pub mod wire;

pub use capture::{Ack, Limits};
pub use engine::{PostgresConfig, PostgresEngine, slot_name};
pub use error::PostgresError;
pub use tidemark_format::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
