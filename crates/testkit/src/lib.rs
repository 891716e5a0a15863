//! For tests only: real servers, a TCP proxy, and what several test suites share.
//!
//! Not a dependency of anything that ships.
pub mod net;
pub mod s3;
pub mod sqlite;
