//! The engine beside real servers, 14 to 18.

mod base;
mod capture;
mod conformance;
mod examine;
mod login;
mod replication;
mod restore;
mod scripted;
mod wal;
