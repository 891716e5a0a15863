//! Memory for log that was received and not cut yet: one bound for all sources of a process.
//!
//! Every source has a little of its own ([`OWN_BYTES`]), so that each goes on however much the others
//! hold. Beyond that it takes from the pool, piece by piece, and never more than four times what is left:
//! one source alone may have four fifths of it, many that can't let go share it evenly, and something is
//! always left for the next.
//!
//! **When nothing is left** a source stops reading its socket, and TCP holds the server back; what it has
//! is cut at once ([`Share::is_short`]), and so is what the others hold.
//!
//! **Bound.** The pool, and for each source [`OWN_BYTES`] and what its connection's buffer holds, a
//! message and what one read brings.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// What a source may hold whatever the others do.
pub(super) const OWN_BYTES: u64 = 256 << 10;
/// No message of a stream has more log (`MAX_SEND_SIZE` of the server).
const MESSAGE_BYTES: u64 = 128 << 10;
/// A source may hold this many times what is left.
const TIMES_FREE: u64 = 4;

/// The pool that the sources of a process share.
#[derive(Debug)]
pub struct LogMemory {
    bytes_max: u64,
    taken: AtomicU64,
    /// Sources that found too little.
    short: AtomicU64,
    freed: Notify,
}

impl LogMemory {
    /// Memory of `bytes_max` for `sources`: what each has of its own is part of it.
    #[must_use]
    pub fn new(bytes_max: u64, sources: usize) -> Arc<Self> {
        let own = OWN_BYTES.saturating_mul(u64::try_from(sources).unwrap_or(u64::MAX));
        Arc::new(Self {
            bytes_max: bytes_max.saturating_sub(own),
            taken: AtomicU64::new(0),
            short: AtomicU64::new(0),
            freed: Notify::new(),
        })
    }

    /// Bytes that sources hold beside their own.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }

    /// Resolves when something was given back since this was called.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Takes `bytes` more for one that has `held`.
    fn try_take(&self, held: u64, bytes: u64) -> bool {
        let fits = |taken: u64| {
            let sum = taken.checked_add(bytes)?;
            let free = self.bytes_max.checked_sub(sum)?;
            (held.saturating_add(bytes) <= free.saturating_mul(TIMES_FREE)).then_some(sum)
        };
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)
            .is_ok()
    }

    fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            self.taken.fetch_sub(bytes, Ordering::AcqRel);
            self.freed.notify_waiters();
        }
    }
}

/// What one source has of the pool; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    memory: Arc<LogMemory>,
    taken: u64,
    short: bool,
}

impl Share {
    pub(super) fn of(memory: Arc<LogMemory>) -> Self {
        Self {
            memory,
            taken: 0,
            short: false,
        }
    }

    /// Makes sure of room for one more message beside the `held` bytes.
    pub(super) fn has_room(&mut self, held: u64) -> bool {
        let wanted = held.saturating_add(MESSAGE_BYTES).saturating_sub(OWN_BYTES);
        let more = wanted.saturating_sub(self.taken);
        let has = more == 0 || self.memory.try_take(self.taken, more);
        if has {
            self.taken = self.taken.saturating_add(more);
        }
        self.set_short(!has);
        has
    }

    /// Only `held` bytes are left.
    pub(super) fn holds(&mut self, held: u64) {
        let needed = held.saturating_sub(OWN_BYTES);
        let spare = self.taken.saturating_sub(needed);
        self.taken = self.taken.saturating_sub(spare);
        self.memory.give_back(spare);
        if spare > 0 {
            self.set_short(false);
        }
    }

    /// What is held has to be cut soon: this source has found too little, or another one has, and this one
    /// holds what isn't its own.
    pub(super) fn is_short(&self) -> bool {
        self.short || (self.taken > 0 && self.memory.short.load(Ordering::Acquire) > 0)
    }

    fn set_short(&mut self, short: bool) {
        if short == self.short {
            return;
        }
        self.short = short;
        if short {
            self.memory.short.fetch_add(1, Ordering::AcqRel);
        } else {
            self.memory.short.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set_short(false);
        self.memory.give_back(self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes messages until there is no room; what it holds then.
    fn fill(share: &mut Share) -> u64 {
        let mut held = 0;
        while share.has_room(held) {
            held += MESSAGE_BYTES;
        }
        held
    }

    #[test]
    fn the_sum_is_bounded_and_something_is_left_for_everyone() {
        let bytes_max = 16 << 20;
        let memory = LogMemory::new(bytes_max, 10);
        let mut shares: Vec<Share> = (0..10).map(|_| Share::of(Arc::clone(&memory))).collect();
        // WHEN all of them take what they can and none lets go
        let held: Vec<u64> = shares.iter_mut().map(fill).collect();
        // THEN nobody has nothing, and the sum is what was given
        assert!(held[0] > 8 << 20, "{held:?}");
        assert!(held.iter().all(|held| *held >= OWN_BYTES), "{held:?}");
        assert!(held.iter().sum::<u64>() <= bytes_max, "{held:?}");
        assert!(shares.iter().all(Share::is_short));
        // AND what one gives back another takes
        let taken = memory.taken();
        shares[0].holds(0);
        assert!(memory.taken() < taken);
        assert!(fill(&mut shares[9]) > held[9]);
        drop(shares);
        assert_eq!(memory.taken(), 0);
    }

    #[test]
    fn too_many_sources_for_the_memory_still_have_their_own() {
        let memory = LogMemory::new(1 << 20, 50);
        let mut share = Share::of(Arc::clone(&memory));
        assert_eq!(fill(&mut share), OWN_BYTES);
        assert_eq!(memory.taken(), 0);
        share.holds(0);
        assert!(share.has_room(0));
    }

    #[test]
    fn who_holds_much_hears_that_another_has_too_little() {
        let memory = LogMemory::new(2 << 20, 2);
        let mut one = Share::of(Arc::clone(&memory));
        let mut two = Share::of(Arc::clone(&memory));
        assert!(one.has_room(OWN_BYTES + MESSAGE_BYTES));
        assert!(!one.is_short());
        fill(&mut two);
        assert!(one.is_short(), "the other one waits");
        one.holds(OWN_BYTES);
        assert!(!one.is_short(), "it has nothing that is not its own");
    }
}
