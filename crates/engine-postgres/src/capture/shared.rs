//! What the receiver, the pulse and the capture share.
//!
//! Held for moments only, never across an await. The receiver appends and reports troubles, the pulse
//! says what the server had flushed, the capture takes cuts out and says what is safe.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tidemark_engine::{Alert, Wake};
use tidemark_format::postgres::{Lsn, TimelineId};
use tidemark_host::{Clock, Monotonic};
use tokio::sync::Notify;

use super::CUT_BYTES;
use super::alerts::{KEEP_MAX, Trouble};
use super::buffer::{Buffer, Histories, OtherBytes, Tip};
use super::complete::Complete;
use crate::replication::Identity;
use crate::wal::{Record, Span};

/// The slot was let go because it held too much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LetGo {
    /// Why, for people.
    pub(super) reason: String,
    /// Whether it is dropped on the server already.
    pub(super) dropped: bool,
}

/// What a server last said about itself.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// As in `17.4`.
    pub(crate) version: Option<String>,
    /// Whether it is in recovery.
    pub(crate) standby: bool,
    /// Who it is, and how far.
    pub(crate) identity: Identity,
}

/// What keeps the stream from flowing, and since when.
#[derive(Debug, Clone)]
struct Since {
    trouble: Trouble,
    since: Monotonic,
}

/// A stream that lasted this long has left behind what was wrong before.
const STEADY: Duration = Duration::from_secs(5);

/// Guarded by the lock.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) buffer: Buffer,
    pub(super) complete: Complete,
    /// What the server may be told as flushed.
    pub(super) acked: Lsn,
    /// Where the slot begins to keep log while nothing is acknowledged.
    floor: Lsn,
    /// Why this life of the source can't go on.
    pub(super) broken: Option<String>,
    pub(super) let_go: Option<LetGo>,
    trouble: Option<Since>,
    /// Since when it streams.
    flows: Option<Monotonic>,
    /// Whom the log streams from.
    pub(super) peer: Option<String>,
    pub(super) seen: Option<Seen>,
    /// What the slot may hold now: more than it should only while it holds less and less.
    allowance: Option<u64>,
    last_pulse: Option<Monotonic>,
}

/// Shared by the tasks and the capture.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// Room was made, something became safe, or it is over: for the receiver.
    pub(super) nudge: Notify,
    /// Somebody wants to know what is complete: for the pulse.
    pub(super) ask: Notify,
    pub(super) clock: Arc<dyn Clock>,
    wake: Wake,
    buffer_max: usize,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(
        buffer: Buffer,
        acked: Lsn,
        clock: Arc<dyn Clock>,
        wake: Wake,
        buffer_max: usize,
    ) -> Self {
        let floor = buffer.received();
        Self {
            inner: Mutex::new(Inner {
                buffer,
                complete: Complete::default(),
                acked,
                floor,
                broken: None,
                let_go: None,
                trouble: None,
                flows: None,
                peer: None,
                seen: None,
                allowance: None,
                last_pulse: None,
            }),
            nudge: Notify::new(),
            ask: Notify::new(),
            clock,
            wake,
            buffer_max,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a turn of the capture.
    pub(super) fn wake(&self) {
        self.wake.wake();
    }

    /// Where the stream goes on, and whether the histories of its branch are unknown.
    pub(super) fn tip(&self) -> (Tip, bool) {
        let inner = self.lock();
        (inner.buffer.tip(), inner.buffer.lacks_histories())
    }

    pub(super) fn has_room(&self) -> bool {
        self.lock().buffer.bytes() < self.buffer_max
    }

    pub(super) fn acked(&self) -> Lsn {
        self.lock().acked
    }

    /// Whether the receiver has to stop streaming.
    pub(super) fn must_stop(&self) -> bool {
        let inner = self.lock();
        inner.let_go.is_some() || inner.broken.is_some()
    }

    /// The stream flows, from `peer`.
    pub(super) fn streams(&self, peer: &str) {
        let mut inner = self.lock();
        if inner.peer.as_deref() != Some(peer) {
            inner.complete.forget();
            inner.peer = Some(peer.to_owned());
        }
        inner.flows = Some(self.clock.monotonic());
        drop(inner);
        self.ask.notify_one();
    }

    /// A server was looked at.
    pub(super) fn saw(&self, seen: Seen) {
        self.lock().seen = Some(seen);
    }

    /// The stream does not flow.
    pub(super) fn trouble(&self, trouble: Trouble) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        // One that comes again as soon as it streams is still the same one.
        let flowed = inner.flows.take().is_some_and(|at| now.since(at) >= STEADY);
        let known = inner.trouble.as_ref().filter(|_| !flowed);
        let since = known.map_or(now, |known| known.since);
        inner.trouble = Some(Since { trouble, since });
    }

    /// The segment's bytes before the tip were seen again.
    pub(super) fn resume(&self, hasher: blake3::Hasher, last: Option<Span>) {
        self.lock().buffer.resume(hasher, last);
    }

    /// Takes in bytes of the log.
    pub(super) fn append(
        &self,
        bytes: &[u8],
        last: Option<Span>,
        found: &[Record],
    ) -> Result<(), OtherBytes> {
        let now = self.clock.now();
        let mut inner = self.lock();
        let was_empty = inner.buffer.bytes() == 0;
        let was_due = inner.buffer.is_due(CUT_BYTES);
        inner.buffer.append(bytes, last, found, now)?;
        inner.trouble = None;
        let wakes = was_empty || (!was_due && inner.buffer.is_due(CUT_BYTES));
        drop(inner);
        if wakes {
            self.wake();
        }
        Ok(())
    }

    /// The timeline has ended.
    pub(super) fn switch(&self, next: TimelineId, at: Lsn, histories: Histories) {
        self.lock().buffer.switch(next, at, histories);
        self.wake();
    }

    /// This life can't go on.
    pub(super) fn broke(&self, reason: String) {
        let mut inner = self.lock();
        inner.broken.get_or_insert(reason);
        drop(inner);
        self.nudge.notify_one();
        self.wake();
    }

    /// The pulse's answer; asked at `asked`.
    pub(super) fn pulse(&self, identity: Identity, asked: Timestamp, keep_max: Option<u64>) {
        let mut inner = self.lock();
        if identity.system != inner.buffer.system() {
            // The receiver meets it, too, and knows what to do.
            return;
        }
        inner.complete.told(identity.flushed, asked);
        let held = identity.flushed.since(inner.acked.max(inner.floor));
        if let Some(seen) = &mut inner.seen {
            seen.identity = identity;
        }
        inner.last_pulse = Some(self.clock.monotonic());
        if let Some(keep_max) = keep_max
            && inner.let_go.is_none()
            && inner.holds_too_much(held, keep_max)
        {
            inner.let_go = Some(LetGo {
                reason: format!(
                    "the replication slot held {} MiB of log on the server, more than slot_keep_max ({} MiB)",
                    held >> 20,
                    keep_max >> 20
                ),
                dropped: false,
            });
            drop(inner);
            self.nudge.notify_one();
            self.wake();
        }
    }

    /// The slot that held too much is dropped.
    pub(super) fn slot_dropped(&self) {
        let mut inner = self.lock();
        if let Some(let_go) = &mut inner.let_go {
            let_go.dropped = true;
        }
        drop(inner);
        self.wake();
    }
}

impl Inner {
    /// Whether the slot has to be let go. What it held at the start is allowed while it gets less: an
    /// agent that was away catches up with it.
    fn holds_too_much(&mut self, held: u64, keep_max: u64) -> bool {
        let allowance = self.allowance.unwrap_or_else(|| held.max(keep_max));
        self.allowance = Some(allowance.min(held).max(keep_max));
        held > allowance
    }

    pub(super) fn is_standby(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.standby)
    }

    /// What is asked for often is answered often: how long ago the last pulse was.
    pub(super) fn pulse_age(&self, now: Monotonic) -> Option<Duration> {
        self.last_pulse.map(|last| now.since(last))
    }

    /// What people should know.
    pub(super) fn alerts(&self, now: Monotonic, patience: Duration) -> Vec<Alert> {
        let mut alerts = Vec::new();
        if let Some(let_go) = &self.let_go {
            let state = if let_go.dropped {
                "The slot is dropped, so that the server can remove its log"
            } else {
                "The slot is being dropped"
            };
            alerts.push(Alert {
                code: KEEP_MAX,
                message: format!(
                    "{}. {state}; what is captured is still shipped, then a new incarnation with a complete base begins by itself. Commits since then are not captured. See why shipping is slow (`tidemark-agent status`), or raise slot_keep_max",
                    let_go.reason
                ),
            });
        }
        let long = |since: &&Since| {
            let patience = if since.trouble.brief {
                patience.saturating_mul(4)
            } else {
                patience
            };
            now.since(since.since) >= patience
        };
        let steady = self.flows.is_some_and(|at| now.since(at) >= STEADY);
        if let Some(since) = self.trouble.as_ref().filter(long).filter(|_| !steady) {
            alerts.push(Alert {
                code: since.trouble.code,
                message: since.trouble.message.clone(),
            });
        }
        alerts
    }
}
