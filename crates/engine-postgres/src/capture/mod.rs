//! Capturing a server's log: a stream on a slot, cut into objects, and what the server is told is safe.
//!
//! ```text
//! receiver (task)   connects, decides ([`plan`]), streams ([`stream`]), scans → [`buffer`]
//! pulse (task)      asks the server what it has flushed → [`complete`], and what the slot holds
//! PgCapture         polled by the agent: cuts out of the buffer, says what is sealed and durable
//! ```
//!
//! # Invariants
//!
//! - The flush position that the server hears is the end of a sealed cut (`ack = "spool"`) or of a
//!   durable one (`ack = "regions"`), and never goes back.
//! - The log goes on at the byte where it ended, after the bytes before it in its segment were read
//!   again and found the same. Where it can't, this life is over: the capture says "open again", and
//!   opening begins a new incarnation and says why. There is no silent gap.
//! - A cut never mixes timelines; a new timeline begins at the start of the segment of its fork.
//! - `poll`, `cut` and `sealed` never wait for the network.
//!
//! # Bounds
//!
//! The buffer holds [`Limits::buffer_max`], and all buffers together what [`LogMemory`] has; when one is
//! full its socket isn't read. The server's disk is
//! bounded by `slot_keep_max`: past it the slot is dropped, and once everything captured is safe a new
//! incarnation begins.
//!
//! # What it does not do
//!
//! It fetches no page (that is [`crate::base`]'s) and restores nothing. On a standby it can't know what
//! its primary has committed and not sent: "complete until" follows the newest commit there.

mod alerts;
mod buffer;
mod canary;
mod complete;
mod cuts;
mod followed;
mod live;
mod memory;
pub(crate) mod plan;
mod pulse;
mod receiver;
pub(crate) mod record;
pub(crate) mod server;
mod shared;
mod stream;
mod summary;

use std::time::Duration;

pub use followed::Followed;
pub(crate) use live::{Begin, PgCapture};
pub use memory::LogMemory;
pub(crate) use receiver::drop_slot;
pub use server::Stale;
pub(crate) use shared::Seen;

/// Bytes of log in one cut at most.
pub(crate) const CUT_BYTES: usize = 8 << 20;

/// What the server is told as flushed, and so when a synchronous commit returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// What is sealed and fsynced in the spool.
    Spool,
    /// What as many failure domains hold as make "durable".
    Regions,
}

/// Times and sizes of a capture; the defaults are what is meant for servers in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of log of this source that wait in memory at most; then the stream isn't read.
    pub buffer_max: usize,
    /// The server hears from us at least this often.
    pub status_every: Duration,
    /// A server that is silent this long, although it was asked, is taken for dead.
    pub silence_max: Duration,
    /// How long any question may take.
    pub answer_max: Duration,
    /// The first wait before connecting again.
    pub again_min: Duration,
    /// The longest.
    pub again_max: Duration,
    /// How often the server is asked what it has flushed.
    pub pulse_every: Duration,
    /// What ends by itself within this time is no alert.
    pub alert_after: Duration,
    /// How long a server that stops may wait for us.
    pub stop_wait: Duration,
    /// How long log waits to be cut in which only the server keeps house: nobody would miss it, and an idle
    /// server shall cost no objects. A little of it waits, no more than a source has memory of its own.
    pub quiet_max: Duration,
    /// How long the log of many small commits gathers at the server's end before it is read: waking up
    /// for each costs more than the log itself. Zero where commits wait for us.
    pub gather: Duration,
}

impl Limits {
    /// As they are where a server's commits wait for us, or don't.
    pub(crate) const fn where_waited_for(mut self, ack: Ack) -> Self {
        if matches!(ack, Ack::Regions) {
            self.gather = Duration::ZERO;
        }
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            buffer_max: 16 << 20,
            status_every: Duration::from_secs(5),
            silence_max: Duration::from_secs(30),
            answer_max: Duration::from_secs(15),
            again_min: Duration::from_millis(100),
            again_max: Duration::from_secs(5),
            pulse_every: Duration::from_secs(1),
            alert_after: Duration::from_secs(5),
            stop_wait: Duration::from_secs(60),
            quiet_max: Duration::from_secs(600),
            gather: Duration::from_millis(5),
        }
    }
}
