//! The restore tool: brings databases back from a repository and says what it proved.
//!
//! It needs one region and a recovery identity, nothing else: no agent, no config, no local state
//! (invariant 4). It never writes into a source's log.
//!
//! **Fails closed** (invariant 5): a gap, a wrong hash or a bad signature before the newest recovery
//! point is an error that names the latest instant that is provable. It never hands over less than
//! was asked for.

pub mod apply;
pub mod cli;
pub mod manual;
pub mod output;
pub mod progress;
pub mod target;
