//! Who may write a source: claims, fences, take-overs (invariant 7).
//!
//! - An epoch belongs to one state directory. Its claim stands in every region that it writes to.
//! - `needed` = N − W + 1 of the N failure domains must take a claim or a fence, for every set of W
//!   domains that acknowledged an object then has one of them in it.
//! - A take-over claims the next epoch, one region after the other in the order of their ids, so
//!   that of two at once one loses at the first region. It then fences the epochs below, newest
//!   first, each region at its next free sequence. The old epoch ends at the **highest** fence minus
//!   one: the lowest would cut off acknowledged objects.
//! - A region that could not be reached is claimed and fenced before anything is written there
//!   ([`join`]); with one fence missing the old writer can still reach at most W − 1 domains.
//!
//! [`state`] decides and is pure; `driver` acts. The tests explore every interleaving of
//! writers and take-overs for small N and W.

mod driver;
mod inspect;
#[cfg(test)]
mod model;
pub mod state;

pub use driver::{Claimed, RegionHandle, Writer, claim_new, join, take_over};
pub use inspect::{Foreign, LastObject, Own, RegionView, inspect, newest_name};
pub use state::{Failure, Mode, Rules};
