//! What one region has of one source, and what of the spool it still gets: pure.
//!
//! A lane walks the source's spool in order. **Invariant 3** is decided here: a base is created in a
//! region only if all its packs are there and so is its parent; a point only if the base it names
//! is there whole and the log from that base's start to the point has no hole. Whatever fails that
//! is skipped (the region is *repairing*), and the lane goes on: older holes block nothing.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_format::heads::BaseRef;
use tidemark_format::{Hash, LogSeq, PointSeq, RegionId, RegionName};

use crate::state::spool::Order;

/// What an item of the spool is, as far as shipping is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A log object or gap.
    Log {
        /// Its place in the epoch.
        seq: LogSeq,
        /// Its link.
        link: Hash,
        /// The first commit in it.
        first_commit: Option<Timestamp>,
    },
    /// A base.
    Base {
        /// What others name it by.
        reference: BaseRef,
        /// What it builds on.
        parent: Option<BaseRef>,
        /// Where replay onto it starts.
        start: LogSeq,
        /// The regions that hold all its packs.
        packs_in: Vec<RegionName>,
    },
    /// A recovery point.
    Point {
        /// Its place in the epoch.
        seq: PointSeq,
        /// The last log object it covers.
        log_seq: LogSeq,
        /// The base it rests on.
        base: BaseRef,
    },
}

/// A base that a region holds whole, parents included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBase {
    /// What others name it by.
    pub reference: BaseRef,
    /// Where replay onto it starts.
    pub start: LogSeq,
}

/// Whether an item is created in a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Create it.
    Ship,
    /// What it refers to is not there: pass over it.
    Skip,
}

/// How a region stands with a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It has, or is getting, everything.
    Whole,
    /// It lacks a base or a range of the log: no points until the next base is complete there.
    Repairing,
}

/// One region's view of one source's spool. Stored in the source's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// The region's own id, once it was reached: another one means another place.
    #[serde(default)]
    pub region: Option<RegionId>,
    /// Every item before this one is settled here: created, skipped or given up.
    pub cursor: Order,
    /// The last log object that is durable here.
    pub log_through: Option<LogSeq>,
    /// Its link, by which the region is known again after a restart.
    #[serde(default)]
    pub log_link: Option<Hash>,
    /// Log objects from here to `log_through` are here without a hole.
    pub unbroken_from: LogSeq,
    /// The newest base that is whole here.
    pub base: Option<HeldBase>,
    /// The newest base that passed, created here or not.
    pub newest_base: Option<BaseRef>,
    /// The last point that is durable here.
    pub point_through: Option<PointSeq>,
    /// The first commit in a range that was given up here and that no base has healed yet.
    #[serde(default)]
    pub hole_since: Option<Timestamp>,
}

impl Lane {
    /// The lane of a region that has taken part since the epoch's beginning.
    #[must_use]
    pub const fn from_start() -> Self {
        Self {
            region: None,
            cursor: 0,
            log_through: None,
            log_link: None,
            unbroken_from: LogSeq(0),
            base: None,
            newest_base: None,
            point_through: None,
            hole_since: None,
        }
    }

    /// The lane of a region that joins when the spool has reached `end`, the log `next` and bases
    /// `newest_base`.
    #[must_use]
    pub const fn joining(end: Order, next: LogSeq, newest_base: Option<BaseRef>) -> Self {
        Self {
            region: None,
            cursor: end,
            log_through: None,
            log_link: None,
            unbroken_from: next,
            base: None,
            newest_base,
            point_through: None,
            hole_since: None,
        }
    }

    /// Whether `content` is to be created in `region`.
    #[must_use]
    pub fn admit(&self, region: &RegionName, content: &Content) -> Admission {
        let whole = match content {
            Content::Log { .. } => true,
            Content::Base {
                parent, packs_in, ..
            } => {
                packs_in.contains(region)
                    && parent
                        .is_none_or(|parent| self.base.is_some_and(|held| held.reference == parent))
            }
            Content::Point { log_seq, base, .. } => {
                self.base
                    .is_some_and(|held| held.reference == *base && self.unbroken_from <= held.start)
                    && self.log_through >= Some(*log_seq)
            }
        };
        if whole {
            Admission::Ship
        } else {
            Admission::Skip
        }
    }

    /// The item at the cursor is durable here.
    pub fn shipped(&mut self, content: &Content) {
        self.cursor = self.cursor.saturating_add(1);
        match content {
            Content::Log { seq, link, .. } => {
                self.log_through = Some(*seq);
                self.log_link = Some(*link);
            }
            Content::Base {
                reference, start, ..
            } => {
                self.base = Some(HeldBase {
                    reference: *reference,
                    start: *start,
                });
                self.newest_base = Some(*reference);
                self.hole_since = self.hole_since.filter(|_| self.unbroken_from > *start);
            }
            Content::Point { seq, .. } => self.point_through = Some(*seq),
        }
    }

    /// The item at the cursor is passed over.
    pub fn skipped(&mut self, content: &Content) {
        self.cursor = self.cursor.saturating_add(1);
        if let Content::Base { reference, .. } = content {
            self.newest_base = Some(*reference);
        }
    }

    /// Everything before `end`, committed from `oldest` on, is given up here; the log goes on with
    /// `next`.
    pub fn give_up(&mut self, end: Order, next: LogSeq, oldest: Option<Timestamp>) {
        self.cursor = end;
        self.unbroken_from = next;
        self.hole_since = self.hole_since.into_iter().chain(oldest).min();
    }

    /// How the region stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let whole = match (self.newest_base, self.base) {
            (None, _) => true,
            (Some(newest), Some(held)) => {
                held.reference == newest && self.unbroken_from <= held.start
            }
            (Some(_), None) => false,
        };
        if whole {
            Standing::Whole
        } else {
            Standing::Repairing
        }
    }

    /// Whether only a new complete base can make this region whole: one that builds on what is
    /// here is not possible.
    #[must_use]
    pub fn needs_complete_base(&self) -> bool {
        match (self.newest_base, self.base) {
            (None, _) => false,
            (Some(newest), Some(held)) => held.reference != newest,
            (Some(_), None) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemark_format::BaseNumber;

    use super::*;

    fn here() -> RegionName {
        RegionName::new("here").unwrap()
    }

    fn reference(number: u32) -> BaseRef {
        BaseRef {
            generation: LogSeq(0),
            number: BaseNumber(number),
            link: Hash::of(&number.to_le_bytes()),
        }
    }

    fn base(number: u32, start: u64, packs_in: &[RegionName]) -> Content {
        Content::Base {
            reference: reference(number),
            parent: number.checked_sub(1).map(reference),
            start: LogSeq(start),
            packs_in: packs_in.to_vec(),
        }
    }

    fn log(seq: u64) -> Content {
        Content::Log {
            seq: LogSeq(seq),
            link: Hash::of(b""),
            first_commit: None,
        }
    }

    fn point(log_seq: u64, number: u32) -> Content {
        Content::Point {
            seq: PointSeq(0),
            log_seq: LogSeq(log_seq),
            base: reference(number),
        }
    }

    fn pass(lane: &mut Lane, content: &Content) -> Admission {
        let admission = lane.admit(&here(), content);
        match admission {
            Admission::Ship => lane.shipped(content),
            Admission::Skip => lane.skipped(content),
        }
        admission
    }

    #[test]
    fn a_point_follows_its_base_and_its_log() {
        let mut lane = Lane::from_start();
        assert_eq!(lane.admit(&here(), &point(0, 0)), Admission::Skip);
        pass(&mut lane, &log(0));
        pass(&mut lane, &base(0, 0, &[here()]));
        assert_eq!(lane.admit(&here(), &point(1, 0)), Admission::Skip);
        pass(&mut lane, &log(1));
        assert_eq!(pass(&mut lane, &point(1, 0)), Admission::Ship);
        assert_eq!((lane.standing(), lane.cursor), (Standing::Whole, 4));
    }

    #[test]
    fn a_region_without_the_packs_is_repairing_until_a_complete_base_comes() {
        let mut lane = Lane::from_start();
        pass(&mut lane, &log(0));
        pass(&mut lane, &base(0, 0, &[here()]));
        assert_eq!(pass(&mut lane, &base(1, 1, &[])), Admission::Skip);
        assert_eq!(lane.standing(), Standing::Repairing);
        assert!(lane.needs_complete_base());
        assert_eq!(pass(&mut lane, &point(0, 1)), Admission::Skip);
        // A base that builds on the missing one is of no use here.
        assert_eq!(pass(&mut lane, &base(2, 1, &[here()])), Admission::Skip);
        pass(&mut lane, &log(1));
        let complete = Content::Base {
            reference: reference(7),
            parent: None,
            start: LogSeq(1),
            packs_in: vec![here()],
        };
        assert_eq!(pass(&mut lane, &complete), Admission::Ship);
        assert_eq!(lane.standing(), Standing::Whole);
        assert_eq!(pass(&mut lane, &point(1, 7)), Admission::Ship);
    }

    #[test]
    fn a_hole_in_the_log_is_healed_by_any_base_that_starts_behind_it() {
        let mut lane = Lane::from_start();
        pass(&mut lane, &log(0));
        pass(&mut lane, &base(0, 0, &[here()]));
        lane.give_up(10, LogSeq(8), None);
        assert_eq!(
            (lane.standing(), lane.needs_complete_base()),
            (Standing::Repairing, false)
        );
        pass(&mut lane, &log(8));
        assert_eq!(pass(&mut lane, &point(8, 0)), Admission::Skip);
        assert_eq!(pass(&mut lane, &base(1, 8, &[here()])), Admission::Ship);
        assert_eq!(pass(&mut lane, &point(8, 1)), Admission::Ship);
        assert_eq!(lane.standing(), Standing::Whole);
    }

    #[test]
    fn a_region_that_joins_late_needs_a_complete_base() {
        let lane = Lane::joining(40, LogSeq(30), Some(reference(0)));
        assert_eq!(lane.standing(), Standing::Repairing);
        assert!(lane.needs_complete_base());
    }
}
