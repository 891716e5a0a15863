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

use super::alerts::{KEEP_MAX, Trouble};
use super::buffer::{Buffer, Histories, OtherBytes, Scanned, Tip};
use super::complete::Complete;
use super::memory::{LogMemory, OWN_BYTES, Share};
use super::{CUT_BYTES, Limits};
use crate::replication::Identity;
use crate::wal::Span;
use crate::wire::Link;

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
    /// What the connection to it goes through.
    pub(crate) link: Link,
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
    share: Share,
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
    /// The newest timeline that was followed.
    pub(super) followed: TimelineId,
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
    /// What the buffer takes from it is in [`Share`].
    pub(super) memory: Arc<LogMemory>,
    pub(super) clock: Arc<dyn Clock>,
    wake: Wake,
    limits: Limits,
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
        (limits, memory): (Limits, Arc<LogMemory>),
    ) -> Self {
        let floor = buffer.received();
        let share = Share::of(Arc::clone(&memory));
        Self {
            inner: Mutex::new(Inner {
                buffer,
                share,
                complete: Complete::default(),
                acked,
                floor,
                broken: None,
                let_go: None,
                trouble: None,
                flows: None,
                peer: None,
                seen: None,
                followed: TimelineId(0),
                allowance: None,
                last_pulse: None,
            }),
            nudge: Notify::new(),
            ask: Notify::new(),
            memory,
            clock,
            wake,
            limits,
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

    /// Whether one more message may be read.
    pub(super) fn has_room(&self) -> bool {
        let mut inner = self.lock();
        let was_due = inner.is_due();
        let bytes = inner.buffer.bytes();
        let has = bytes < self.limits.buffer_max && inner.has_memory();
        let wakes = !was_due && inner.is_due();
        drop(inner);
        if wakes {
            self.wake();
        }
        has
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

    /// A slot was made when the log was flushed up to `at`: what is before that the server kept anyway,
    /// since its last checkpoint.
    pub(super) fn counts_from(&self, at: Lsn) {
        let mut inner = self.lock();
        inner.floor = inner.floor.max(at);
    }

    /// A server on this timeline is captured: none on an older one is gone back to.
    pub(super) fn follows(&self, timeline: TimelineId) {
        let mut inner = self.lock();
        inner.followed = inner.followed.max(timeline);
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
    pub(super) fn append(&self, bytes: &[u8], scanned: &Scanned<'_>) -> Result<(), OtherBytes> {
        let now = self.clock.now();
        let mut inner = self.lock();
        let was_quiet = inner.buffer.bytes() == 0 || inner.buffer.is_quiet();
        let was_due = inner.is_due();
        inner.buffer.append(bytes, scanned, now)?;
        inner.trouble = None;
        let wakes = (was_quiet && !inner.buffer.is_quiet()) || (!was_due && inner.is_due());
        drop(inner);
        if wakes {
            self.wake();
        }
        Ok(())
    }

    /// The timeline has ended.
    pub(super) fn switch(&self, next: TimelineId, at: Lsn, histories: Histories) {
        self.lock().buffer.switch(next, at, histories);
        self.follows(next);
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
    fn has_memory(&mut self) -> bool {
        let held = length(self.buffer.bytes());
        self.share.has_room(held)
    }

    /// Log was cut: it is somebody else's now.
    pub(super) fn was_cut(&mut self) {
        let held = length(self.buffer.bytes());
        self.share.holds(held);
    }

    /// Whether a cut should not wait.
    pub(super) fn is_due(&self) -> bool {
        self.buffer.is_due(CUT_BYTES) || (self.share.is_short() && self.buffer.bytes() > 0)
    }

    /// Whether what waits may wait on: a little of what nobody would miss.
    pub(super) fn is_at_rest(&self, now: Timestamp, quiet_max: Duration) -> bool {
        let fresh = self.buffer.oldest().is_none_or(|since| {
            let waits = now.duration_since(since);
            Duration::try_from(waits).is_ok_and(|waits| waits < quiet_max)
        });
        // What follows when the slot was let go waits for the last byte to be safe.
        let waits = self.let_go.is_none() && fresh;
        self.buffer.is_quiet() && length(self.buffer.bytes()) < OWN_BYTES / 2 && waits
    }

    /// Whether the slot has to be let go. What it held at the start is allowed while it gets less, by and
    /// large: an agent that was away catches up with it beside a server that writes.
    fn holds_too_much(&mut self, held: u64, keep_max: u64) -> bool {
        let near = held.saturating_add(keep_max / 4);
        let allowance = self.allowance.unwrap_or_else(|| near.max(keep_max));
        self.allowance = Some(allowance.min(near).max(keep_max));
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
                halts: false,
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
                halts: true,
            });
        }
        alerts
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tidemark_format::postgres::SegmentSize;
    use tidemark_host::SystemClock;

    use super::super::record::Cursor;
    use super::*;

    const START: Lsn = Lsn(0x0300_0000);
    const MEBIBYTE: u64 = 1 << 20;

    fn shared() -> Shared {
        let cursor = Cursor::begin(7, TimelineId(1), SegmentSize::DEFAULT, START);
        let memory = LogMemory::new(16 * MEBIBYTE, 1);
        Shared::new(
            Buffer::after(&cursor),
            Lsn(0),
            SystemClock::shared(),
            Wake::nobody(),
            (Limits::default(), memory),
        )
    }

    #[test]
    fn an_agent_that_was_away_catches_up_beside_a_server_that_writes() {
        let shared = shared();
        let mut inner = shared.lock();
        // GIVEN five times what the slot may hold
        assert!(!inner.holds_too_much(500, 100));
        // WHEN it gets a little more for a moment, and less in the end
        assert!(!inner.holds_too_much(520, 100));
        assert!(!inner.holds_too_much(300, 100));
        assert!(!inner.holds_too_much(320, 100));
        // THEN it must not get as much again
        assert!(inner.holds_too_much(330, 100));
        assert!(!inner.holds_too_much(20, 100));
        assert!(inner.holds_too_much(101, 100));
    }

    #[test]
    fn what_a_server_kept_before_its_slot_was_made_does_not_count() {
        let shared = shared();
        let flushed = |mebibytes: u64| Identity {
            system: 7,
            timeline: TimelineId(1),
            flushed: START.plus(mebibytes * MEBIBYTE),
        };
        // GIVEN a slot that begins with the last checkpoint, far back
        shared.counts_from(flushed(200).flushed);
        let keep_max = Some(64 * MEBIBYTE);
        shared.pulse(flushed(200), Timestamp::UNIX_EPOCH, keep_max);
        shared.pulse(flushed(264), Timestamp::UNIX_EPOCH, keep_max);
        assert!(!shared.must_stop());
        // WHEN more than the slot may hold came since
        shared.pulse(flushed(270), Timestamp::UNIX_EPOCH, keep_max);
        assert!(shared.must_stop());
    }
}
