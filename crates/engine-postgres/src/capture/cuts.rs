//! Cuts on their way: made, sealed, durable; and from them what the server may be told. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tidemark_format::LogSeq;
use tidemark_format::postgres::Lsn;
use tidemark_host::Monotonic;

use super::Ack;
use super::record::Cursor;

/// A cut that was made.
#[derive(Debug, Clone)]
struct Made {
    seq: LogSeq,
    /// None once it is sealed.
    cursor: Option<Cursor>,
    /// What the server is told then.
    end: Lsn,
    at: Monotonic,
}

/// Cuts that are not safe yet.
#[derive(Debug)]
pub(super) struct Cuts {
    ack: Ack,
    made: VecDeque<Made>,
    /// The newest that is as safe as its record has to be kept for.
    settled: Option<LogSeq>,
}

impl Cuts {
    /// `sealed`: cuts of before that are sealed and perhaps not durable.
    pub(super) fn new(ack: Ack, sealed: &[(LogSeq, Lsn)], now: Monotonic) -> Self {
        let made = |(seq, end): &(LogSeq, Lsn)| Made {
            seq: *seq,
            cursor: None,
            end: *end,
            at: now,
        };
        Self {
            ack,
            made: match ack {
                Ack::Spool => VecDeque::new(),
                Ack::Regions => sealed.iter().map(made).collect(),
            },
            settled: match ack {
                Ack::Spool => sealed.last().map(|(seq, _)| *seq),
                Ack::Regions => None,
            },
        }
    }

    /// A cut was made.
    pub(super) fn made(&mut self, seq: LogSeq, cursor: Cursor, at: Monotonic) {
        // A call that is repeated makes the same cut again.
        self.made.retain(|cut| cut.seq < seq);
        self.made.push_back(Made {
            seq,
            end: cursor.told(),
            cursor: Some(cursor),
            at,
        });
    }

    /// The cut is sealed: where capture stands after it, and what may be told now.
    pub(super) fn sealed(&mut self, seq: LogSeq) -> (Option<Cursor>, Option<Lsn>) {
        let cut = self.made.iter_mut().find(|cut| cut.seq == seq);
        let cursor = cut.and_then(|cut| cut.cursor.take());
        match self.ack {
            Ack::Spool => (cursor, self.settle(seq)),
            Ack::Regions => (cursor, None),
        }
    }

    /// Everything up to `seq` is durable: what may be told now.
    pub(super) fn durable(&mut self, seq: LogSeq) -> Option<Lsn> {
        match self.ack {
            Ack::Spool => None,
            Ack::Regions => self.settle(seq),
        }
    }

    fn settle(&mut self, seq: LogSeq) -> Option<Lsn> {
        let mut end = None;
        while let Some(cut) = self.made.front().filter(|cut| cut.seq <= seq) {
            // What isn't sealed can't be durable.
            if cut.cursor.is_some() {
                break;
            }
            end = end.max(Some(cut.end));
            self.settled = self.settled.max(Some(cut.seq));
            self.made.pop_front();
        }
        end
    }

    /// Records up to this one are not needed.
    pub(super) const fn settled(&self) -> Option<LogSeq> {
        self.settled
    }

    /// Nothing is on its way.
    pub(super) fn is_settled(&self) -> bool {
        self.made.is_empty()
    }

    /// How long the oldest of them waits to be durable.
    pub(super) fn waits(&self, now: Monotonic) -> Option<Duration> {
        let waits = self.made.front().map(|cut| now.since(cut.at));
        waits.filter(|_| self.ack == Ack::Regions)
    }
}

#[cfg(test)]
mod tests {
    use tidemark_format::postgres::{SegmentSize, TimelineId};

    use super::*;

    fn cursor(end: u64) -> Cursor {
        let mut cursor = Cursor::begin(7, TimelineId(1), SegmentSize::DEFAULT, Lsn(0));
        cursor.end.at = end;
        cursor
    }

    fn cuts(ack: Ack) -> Cuts {
        let mut cuts = Cuts::new(ack, &[], Monotonic::default());
        for (seq, end) in [(4, 100), (5, 200), (6, 300)] {
            cuts.made(LogSeq(seq), cursor(end), Monotonic::default());
        }
        cuts
    }

    #[test]
    fn what_is_sealed_is_told_if_the_spool_is_enough() {
        let mut cuts = cuts(Ack::Spool);
        assert_eq!(cuts.settled(), None);
        let (cursor, told) = cuts.sealed(LogSeq(4));
        assert_eq!(
            (cursor.map(|c| c.end()), told),
            (Some(Lsn(100)), Some(Lsn(100)))
        );
        assert_eq!(cuts.durable(LogSeq(6)), None);
        assert_eq!(cuts.settled(), Some(LogSeq(4)));
        cuts.sealed(LogSeq(5));
        cuts.sealed(LogSeq(6));
        assert!(cuts.is_settled());
    }

    #[test]
    fn what_is_durable_is_told_if_the_regions_have_to_hold_it() {
        let mut cuts = cuts(Ack::Regions);
        assert_eq!(cuts.durable(LogSeq(4)), None, "it isn't sealed");
        assert_eq!(cuts.sealed(LogSeq(4)).1, None);
        assert_eq!(cuts.sealed(LogSeq(5)).1, None);
        assert_eq!(cuts.settled(), None);
        assert_eq!(cuts.durable(LogSeq(5)), Some(Lsn(200)));
        assert_eq!(cuts.durable(LogSeq(5)), None);
        assert_eq!(cuts.settled(), Some(LogSeq(5)));
        let second = Monotonic::default().after(Duration::from_secs(1));
        assert_eq!(cuts.waits(second), Some(Duration::from_secs(1)));
    }

    #[test]
    fn cuts_of_before_are_told_once_they_are_durable() {
        let before = [(LogSeq(1), Lsn(50)), (LogSeq(2), Lsn(60))];
        let mut cuts = Cuts::new(Ack::Regions, &before, Monotonic::default());
        assert_eq!(cuts.durable(LogSeq(1)), Some(Lsn(50)));
        assert_eq!(cuts.durable(LogSeq(2)), Some(Lsn(60)));
        let cuts = Cuts::new(Ack::Spool, &before, Monotonic::default());
        assert_eq!(cuts.settled(), Some(LogSeq(2)));
    }
}
