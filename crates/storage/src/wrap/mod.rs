//! Behaviour by stacking: each wrapper is one file and implements the traits its inner store has.
//!
//! Usual order, outermost first: [`Metered`], [`Retrying`], [`Limited`], the store. Retries inside
//! the meter count once for callers; put a second `Metered` inside to count attempts.
//! `Faulty` sits where the fault belongs: inside `Retrying` for the network, outside for the agent.

mod fault;
mod limit;
mod meta_only;
mod meter;
mod prefix;
mod retry;

pub use fault::{Fault, FaultControl, Faulty, When};
pub use limit::Limited;
pub use meta_only::MetaOnly;
pub use meter::{Meter, MeterSnapshot, Metered, OpCount};
pub use prefix::Prefixed;
pub use retry::{RetryPolicy, Retrying};
