//! The engine beside real servers, 14 to 18.

mod replication;
mod wal;
