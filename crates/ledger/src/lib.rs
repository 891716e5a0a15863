//! Reads and verifies `meta/`, and writes the few objects that decide who may write: keyring,
//! enrolments, region markers, claims and fences.
//!
//! **Invariants.** Nothing is believed before its signature, its signer's role and its place were
//! checked: a head must say what its key says, so an object moved to another name is noticed.
//! What can't be reached is an error of the region, never "absent"; what is there and wrong is
//! damage, never skipped in silence.
//!
//! **What it deliberately doesn't do:** it never decrypts, reads no `data/`, and knows no engine.
//! Which base and log a restore needs is `planner`'s decision over the facts gathered here
//! ([`survey`]).

pub mod custody;
mod error;
pub mod fencing;
pub mod history;
mod keyring;
mod object;
mod read;
mod region;
pub mod survey;
pub mod timeline;

pub use error::{LedgerError, LedgerErrorKind, Result};
pub use history::SourceHistory;
pub use keyring::{Keyring, Subject, Trust};
pub use object::{Placed, Signed, Verified};
pub use read::{list_all, read_verified, source_names, sources};
pub use region::{Marker, ensure_marker, ensure_readme, read_marker};
