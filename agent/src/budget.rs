//! A bound on bytes in memory, shared by everything that makes them.
//!
//! One taker may always go on, however large its piece: so nothing that is larger than the bound
//! waits for ever. What is taken is given back when its [`Permit`] is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A bound on bytes in memory.
#[derive(Debug)]
pub struct Budget {
    bytes_max: u64,
    taken: AtomicU64,
}

/// Bytes taken from a budget.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A budget of `bytes_max`.
    #[must_use]
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            taken: AtomicU64::new(0),
        })
    }

    /// Takes `bytes` if they fit, or if nothing is taken.
    #[must_use]
    pub fn try_take(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let bytes = bytes.max(1);
        let fits = |taken: u64| {
            let sum = taken.saturating_add(bytes);
            (taken == 0 || sum <= self.bytes_max).then_some(sum)
        };
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)
            .ok()?;
        Some(Permit {
            budget: Arc::clone(self),
            bytes,
        })
    }

    /// Bytes taken now.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_bounded_and_given_back_and_one_may_always_go_on() {
        let budget = Budget::new(10);
        let large = budget.try_take(100).unwrap();
        assert!(budget.try_take(1).is_none());
        drop(large);
        let one = budget.try_take(6).unwrap();
        assert!(budget.try_take(5).is_none());
        let _two = budget.try_take(4).unwrap();
        drop(one);
        assert_eq!(budget.taken(), 4);
    }
}
