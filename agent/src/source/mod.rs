//! Protecting one source: a slot that captures, and a driver that seals, spools and decides.
//!
//! ```text
//! capture pool (few OS threads)         source driver (one task per source)
//!   slot: poll, cut, base slices  ──▶     seal → spool → every region's queue
//!                                 ◀──     sealed, begin base, next slice
//! ```
//!
//! The slot is synchronous and talks to the engine alone; the driver never touches the database.

mod acks;
mod base_turn;
pub(crate) mod canary;
pub mod driver;
mod gap;
mod lost;
mod opening;
pub mod pool;
pub mod refusal;
mod reopen;
pub mod requests;
mod sealing;
mod short;
mod sight;
pub mod slot;
mod stuck;
mod sweep;
