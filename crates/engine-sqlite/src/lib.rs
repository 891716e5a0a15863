//! The SQLite engine: a live database captured from beside the application, and restored.
//!
//! Nothing is written into the user's database, unless a canary is asked for ([`canary`]); the only
//! checkpoints are PASSIVE; no thread, and no buffer that grows with the database. In WAL mode every
//! commit is captured ([`capture`]); in other modes the pages are compared ([`rollback`]). What was
//! missed, whatever the reason, is found by comparing pages with the map of what was sealed ([`book`],
//! [`scan`]).
//!
//! HAZARD for whoever uses this crate: in the process that captures a database nothing else may open
//! that database file or its `-shm`. Closing any descriptor of them drops SQLite's POSIX locks.

mod behind;
mod book;
mod bound;
pub mod canary;
mod capture;
mod config;
mod core;
mod disk;
mod error;
pub mod examine;
mod files;
mod holds;
mod log;
mod map;
mod marks;
mod open;
mod pending;
mod record;
mod restore;
mod rollback;
mod scan;
mod seen;
mod shm;
mod stamp;
mod state;
mod tail;
mod wal;
mod witness;

#[doc(hidden)]
pub mod fuzzing;
pub mod sample;

pub use config::SqliteConfig;
pub use error::SqliteError;
pub use files::{beside, shared_file_system};
pub use open::SqliteEngine;
pub use restore::{SqliteTarget, check};
