//! Evidence: what was done with this repository's backups, by whom and how it ended, on records that
//! stand on their own.
//!
//! A record is a signed in-toto statement ([`tidemark_format::evidence`]). Each signer numbers its
//! records densely and names in each the SHA-256 of the one before it, so that none can be changed, left
//! out or reordered unnoticed. The signer is derived from the recovery identity: who can read the backups
//! can say so, and nothing more has to be kept.
//!
//! [`backups`], [`chain`], [`csv`], [`drills`], [`plots`] and [`html`] are pure; [`book`] writes, [`shelf`] reads.

pub mod access;
pub mod actor;
pub mod backups;
pub mod begun;
pub mod book;
pub mod chain;
mod config_seen;
pub mod csv;
pub mod drills;
pub mod html;
mod local;
pub mod pack;
pub mod plots;
pub mod record;
pub mod reviews;
pub mod rows;
pub mod shelf;
