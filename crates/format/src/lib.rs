//! Repository format v1: every persisted byte, and nothing else.
//!
//! `docs/FORMAT.md` is the norm; this crate reads like it, module by section. Pure: no clock, no
//! randomness, no file system, no async runtime. Decoders take hostile bytes: they answer with a
//! typed error, never panic, and never allocate more than the input's size.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod body;
pub mod crypt;
pub mod envelope;
mod error;
pub mod evidence;
pub mod heads;
pub mod ids;
pub mod keys;
pub mod pages;
pub mod postgres;
pub mod recipient;
pub mod restore_md;
pub mod sign;
pub mod wire;
pub mod words;

pub use error::FormatError;
pub use ids::{
    BaseNumber, DrillName, Epoch, Hash, IdError, Incarnation, Key, KeyId, LogSeq, ObjectId,
    PointSeq, PutId, RegionId, RegionName, RepoId, SessionId, SourceName, WriterId,
};
