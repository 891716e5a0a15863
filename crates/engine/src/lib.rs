//! The engine contract: how a database becomes log cuts and base pages, and how those become a
//! database again.
//!
//! An engine knows no repository, no region and no key of ours. It is synchronous and polled from a
//! small shared set of capture threads: it starts no thread and keeps no large buffer of its own
//! ([`Workspace`] is lent to it by the thread).
//!
//! # The loop of a capture thread
//!
//! ```text
//! engine.open(request)                      → Opened { incarnation, verdict, needs_complete_base, capture }
//! open_generation(key)                        when needs_complete_base (or the schedule says so)
//! begin_base(next_seq, complete) → S          then between polls: base_slice … until done, cut until
//!                                             restorable → U, sealed(U), base_stands, publish, base_done
//! poll()          every `Poll::next`          marks move, the log is read to its last commit
//! cut(next_seq)   on the timer, at cut_now, again at once while `restorable` is false
//!    agent: seal, write object and record to the spool, fsync
//! sealed(seq)     the page map may advance
//! map_synced()    now and then                records up to the sequence it names may go
//! ```
//!
//! # Invariants
//!
//! - A cut holds everything captured so far, or a bounded piece of it: then `restorable` is false
//!   and the rest follows in the next cuts. Applied in order up to a restorable cut, cuts turn a
//!   base into exactly the bytes the database had at that commit.
//! - Between `cut` and `sealed` the engine keeps no durable trace of the cut. A crash there is
//!   healed at the next [`Engine::open`], from the database and from the records that the spool kept.
//! - What the engine keeps in its folder is a cache of what was sealed: losing it costs a new
//!   generation with a complete base, never a wrong restore.
//!
//! # Failure
//!
//! Every call returns [`Error`] with a [`ErrorKind`] that says what the caller does next. After
//! [`ErrorKind::Reopen`] only `cut` and `sealed` still make sense, then the capture is dropped.

pub mod canary;
mod capture;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
pub mod examine;
mod restore;

pub use capture::{
    Alert, BaseSlice, BaseStart, COMPLETE_UNTIL, Capture, Engine, LogCut, OpenRequest, Opened,
    PageRun, Poll, Probe, Progress, UnfinishedBase, Verdict, Wake, Workspace,
};
pub use error::{Error, ErrorKind};
pub use restore::{Applied, EndProof, Materialise, ProofResult};
