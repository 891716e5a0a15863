//! The signed heads, one module by purpose.
//!
//! Heads are JSON: read by people and by `decode.py`, signed as stored. Unknown keys are ignored
//! by readers and stay part of what is signed; those of the keyring, whose next version is made from
//! the last one, are kept. What a head must hold is not optional here. Times are RFC 3339 in UTC;
//! ids are hex.

mod drill;
mod keyring;
mod log;
mod point;
mod region;
mod session;

pub use drill::{DrillClaimHead, DrillStep};
pub use keyring::{
    Anchors, BaseAnchor, ClaimAnchor, EnrolHead, EvidenceAnchor, FenceAnchor, KeyringHead, Member,
    PointAnchor, RecipientEntry, Revocation, Role, ValidUntil,
};
pub use log::{ClaimHead, ClaimReason, EpochEnd, FenceHead, Gap, LogHead};
pub use point::{BaseHead, BaseRef, BeatHead, BeatSource, ClockFacts, PointHead};
pub use region::RegionHead;
pub use session::{PackHead, SealedTo, SessionHead};

/// Open facts: named values that newer writers may add to; readers keep what they don't know.
pub type Facts = std::collections::BTreeMap<String, serde_json::Value>;
