//! The agent: protects databases by shipping their log, bases and recovery points to every region.

pub mod bases;
pub mod beats;
pub mod bootstrap;
pub mod budget;
pub mod cli;
pub mod commands;
pub mod control;
mod demo;
pub mod disk;
mod domains;
pub mod enrolment;
mod error;
mod folders;
pub mod metrics;
pub mod objectives;
pub mod points;
pub mod policy;
mod repeats;
pub mod room;
pub mod schedule;
pub mod sessions;
pub mod ship;
pub mod source;
pub mod state;
pub mod status_live;
pub mod store;
mod supervisor;
pub mod systemd;
pub mod transit;

pub use bootstrap::Components;
pub use error::{AgentError, Result};
pub use supervisor::{Shutdown, run, snapshot_once, take_over};
