//! The read path: fetch → check → decrypt → decompress, from whichever region has a good copy.
//!
//! ```text
//! Identity ─ opens ─► session secrets ─ keys of ─► log objects, bases, packs
//! RegionSet ─ fetches, falls back per object, remembers what was damaged where
//! Opener = both;  FrameFetcher = the parallel way to a base's pages
//! ```
//!
//! **Invariants.** Nothing is handed out before its tag, its place and its number were checked: an
//! object moved to another source, kind, name or repository, cut at a frame's end or changed in
//! one bit is an error. Memory is bounded by the caller's cap, never by what an object claims.
//!
//! **Failure.** Damage in one region is noted ([`RegionSet::damages`]) and the next region is
//! asked; only when no region has a good copy does a read fail. A wrong key is never taken for damage.
//!
//! **What it deliberately doesn't do:** it writes to no region, and decides neither what to restore
//! nor whom to trust: links come from `ledger`, which checked signers.

mod bodies;
mod cipher;
mod error;
mod fetch;
mod identity;
mod opener;
mod regions;
mod session;

pub use bodies::{LOG_BYTES_MAX, OpenedPack, open_base, open_log, open_pack};
pub use error::{Attempt, Error, ErrorKind, Result};
pub use fetch::{
    FetchStats, FrameAt, FrameFetcher, FrameSink, IN_FLIGHT_BYTES, PackFrames, SinkError,
};
pub use identity::{FileRights, Identity, seal_identity};
pub use opener::{BASE_INDEX_BYTES_MAX, OpenedBase, OpenedLog, Opener, SignerCheck};
pub use regions::{Damage, DamageKind, Fetched, RegionReader, RegionSet};
pub use session::SessionSecret;
