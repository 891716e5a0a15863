//! The sandbox: where a restored database is run, so that nothing gets out of it and nobody's keys get in.
//!
//! The process that holds keys never runs the restored database, and the process that runs the
//! database holds no key: [`run()`] starts `tidemark-restore sandbox-run FOLDER` in an isolation of its
//! own and reads what it left there.
//!
//! ```text
//! refuse_here(&Production, &HostFacts, allow) → Segregation       not on the source's host, not beside it
//! Scratch::make(&Wanted, rng)                 → Scratch           tmpfs, encrypted or plain: recorded
//!     restore into scratch.data()                                 (a server: with no_finish, so that the
//!                                                                 keyless process replays)
//! run(job, &scratch, &Options, &stop)         → Outcome           isolation, replayed, examined, failure
//! scratch.destroy(&clock)                     → Destroyed         absent, as verified; an error otherwise
//! ```
//!
//! A [`Job`] for SQLite is `Job::new("sqlite", scratch.data(), questions)`; for PostgreSQL
//! `Job::new("postgresql", …)` with `replay = ReplayGoal::of(&proof.facts)` of what the restore proved
//! (`tidemark_engine_postgres::examine`). [`Outcome::failure`] says why the database could not be asked:
//! [`Cause::is_infrastructure`] tells a drill that failed from one that proved nothing. An `Outcome`
//! with a failure still tells isolation and phases, as far as it came. Errors of [`run()`] itself are
//! always infrastructure, but for [`SandboxError::NoIsolation`].
//!
//! # Invariants
//!
//! - Nothing of the database is started before the sandbox was probed from inside and found closed: a
//!   network of its own without a route, attempts to leave that the system refuses at once.
//! - Under systemd the database is in another unit than the one that holds the identity, and that unit can't enter
//!   this process.
//! - The child has a cleared environment, no identity, no region; it may read nothing that it is told to
//!   keep away from, which it checks. As root everything in it runs as an unprivileged user.
//! - What leaves is `result.json`: counts, digests, durations ([`tidemark_engine::examine`]).
//!
//! # Cancellation
//!
//! When the parent dies, stops or runs out of time, the child ends, and the server with it.

pub mod child;
mod error;
mod isolate;
mod job;
mod limits;
mod passwd;
mod probe;
mod refuse;
mod run;
mod running;
pub mod scratch;

pub use error::SandboxError;
pub use isolate::{Method, Tried};
pub use job::{Attempt, Cause, Failure, Isolation, Job, Limits, Outcome, Phase};
pub use refuse::{Production, Segregation, refuse_here};
pub use run::{Options, Told, Watch, run};
pub use scratch::{Destroyed, Kind, Scratch, Wanted};
