//! Stores of immutable objects: S3, a directory, memory.
//!
//! Reading, creating and deleting are three independent traits ([`ReadStore`], [`CreateStore`],
//! [`DeleteStore`]), so that a part is handed only the power it needs: the agent never holds a
//! `DeleteStore`, and its `ReadStore` is narrowed to `meta/` ([`wrap::MetaOnly`]). Behaviour
//! is stacked from small wrappers ([`wrap`]) of the same traits; [`region`] does the stacking for a
//! region's URL.
//!
//! **Invariants.** Objects are immutable: a create never replaces. A create that returned is
//! durable. "Refused" is never reported as "absent" ([`ErrorKind::Unknown`]).
//!
//! **What it deliberately doesn't do:** it knows no object's content, no keys of cryptography and
//! no quorum.

mod arrivals;
#[cfg(feature = "conformance")]
pub mod conformance;
mod dir;
mod error;
mod memory;
pub mod region;
mod s3;
mod shared;
mod store;
pub mod wrap;

pub use arrivals::{Watcher, watched};
pub use dir::DirStore;
pub use error::{Cause, Error, ErrorKind, Op, Place, Result, chain};
pub use memory::MemoryStore;
pub use region::{AgentRegion, OpenOptions, Region};
pub use s3::{S3Options, S3Store};
pub use store::{
    CreateOnly, CreateStore, Created, DeleteStore, ListEntry, ListPage, OBJECT_BYTES_MAX,
    ObjectInfo, Probe, ProbeReport, ReadMode, ReadStore, Version, Witness,
};
