//! The agent: protects databases by shipping their log, bases and recovery points to every region.

pub mod control;
mod error;
pub mod policy;
pub mod schedule;
pub mod ship;
pub mod state;
pub mod status_live;

pub use error::{AgentError, Result};
