//! The write path: content → compress → encrypt → signed, immutable objects that are ready to be created.
//!
//! **Invariants.** This crate can't open what it sealed: it holds a session's secret in memory for
//! as long as the session lasts and recipients' *public* keys, nothing more. Every object has a key
//! of its own and counts its frames, so no nonce is ever used twice, whatever crashes. What it
//! returns ([`Sealed`]) is complete and final: shipping it again ships the same bytes.
//!
//! **Cost.** One buffer in, one out: a frame is compressed straight into its object and encrypted
//! where it stands; compression contexts are kept per thread.
//!
//! **What it deliberately doesn't do:** it takes no decisions about when to cut, knows no engine,
//! and stores nothing.

mod base;
mod cipher;
mod error;
mod log;
mod object;
mod pack;
mod session;

pub use base::{BaseDraft, BaseEnd, BaseTools, BaseWriter, FinishedBase};
pub use error::{Error, ErrorKind};
pub use log::{LOG_PAYLOAD_MAX, LogDraft, gap_object, seal_log};
pub use object::{Sealed, sign};
pub use session::{SESSION_HOURS_MAX, Session};
