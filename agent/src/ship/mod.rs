//! Shipping: one ordered queue per source and region, fed from one spool.
//!
//! Pure parts: [`lane`] (what a region has and still gets), [`quorum`] (what "durable" means) and
//! [`queue`] (whose turn it is, and when a region that failed is tried again). The driver
//! ([`region`]) carries out what they decide, one task per region, so that a dead region never
//! holds up another.

mod emptied;
pub mod greet;
mod holding;
pub mod lane;
pub mod link;
pub(crate) mod looking;
#[cfg(test)]
mod model;
pub mod queue;
pub mod quorum;
pub mod region;
pub(crate) mod shipping;
