//! When the mark is let go although it could still be moved or waited for: the bound of the log.
//!
//! What is captured waits in memory for a cut, and no more is captured than a cut holds. So while cuts
//! can't go out (the spool has no room) the mark stands, and the log grows behind it. A transaction
//! that is larger than the bound looks the same for a while, and is captured piece by piece: that it
//! is large is no reason to let go. That the log grows on, or that nothing moves, is one.

use std::time::Duration;

use tidemark_host::Monotonic;

/// Above its bound, a log may grow by this part of the bound while it is being captured.
const GROWTH_PART: u64 = 4;
/// Above its bound, a log of which nothing could be captured for so long is let go.
const STANDS_MAX: Duration = Duration::from_secs(10);

/// Why a log grew above `wal_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grows {
    /// A reader of the application keeps it from being put into the file.
    BehindAReader,
    /// What it holds could not be taken on.
    UnderUs,
}

impl Grows {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::BehindAReader => {
                "a reader of the application has been open so long that nothing can be put into the database. The agent has released its own mark; commits may be captured late and the window becomes coarser. End that reader."
            }
            Self::UnderUs => {
                "the agent can't take on what is committed, for a reason that its other alerts name. So that the database's disk isn't filled it has released its own mark: what is committed now is captured later, by comparing pages, and the window becomes coarser. Remove that reason."
            }
        }
    }
}

/// A log above its bound of which something is still to be captured.
#[derive(Debug, Clone, Copy)]
struct Over {
    /// Its size when it was first seen so.
    bytes: u64,
    /// The last captured frame.
    frame: u32,
    /// When another one was last captured.
    moved: Monotonic,
}

/// Watches a log of which something is still to be captured.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    over: Option<Over>,
}

impl Bound {
    /// Everything is captured, or the log is small.
    pub(crate) const fn is_kept(&mut self) {
        self.over = None;
    }

    /// The log has `bytes`, more than `max`, and was captured up to `frame`: whether to let go of it.
    pub(crate) fn is_over(&mut self, bytes: u64, max: u64, frame: u32, now: Monotonic) -> bool {
        let over = self.over.get_or_insert(Over {
            bytes,
            frame,
            moved: now,
        });
        if over.frame != frame {
            over.frame = frame;
            over.moved = now;
        }
        let grown = bytes.saturating_sub(over.bytes) >= max / GROWTH_PART;
        grown || now.since(over.moved) >= STANDS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Monotonic {
        Monotonic::default().after(Duration::from_millis(ms))
    }

    #[test]
    fn a_large_transaction_is_waited_for_as_long_as_it_is_captured() {
        let mut bound = Bound::default();
        for second in 0..100u32 {
            let now = at(u64::from(second) * 1_000);
            assert!(!bound.is_over(900, 100, second, now));
        }
        assert!(bound.is_over(900, 100, 99, at(109_000)));
    }

    #[test]
    fn a_log_that_grows_on_is_let_go() {
        let mut bound = Bound::default();
        assert!(!bound.is_over(101, 100, 1, at(0)));
        assert!(!bound.is_over(120, 100, 2, at(1)));
        assert!(bound.is_over(126, 100, 3, at(2)));
        bound.is_kept();
        assert!(!bound.is_over(126, 100, 3, at(3)));
    }
}
