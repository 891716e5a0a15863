//! Decisions, pure: when something is due, what a restore needs, what may be deleted.
//!
//! Everything comes in as arguments, the time included, and a value goes out that can be printed,
//! tested and refused before anyone acts on it. No clock, no file system, no async runtime.

pub mod drill;
pub mod objectives;
pub mod restore;
pub mod rota;
pub mod schedule;

pub use schedule::{Schedule, ScheduleError};
