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
        /// The first commit in it; of a gap, since when something is lacking.
        first_commit: Option<Timestamp>,
        /// It stands for a range that was given up: nothing is replayed across it.
        gap: bool,
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
    /// Every log object of the spool from this order up to the cursor is here.
    #[serde(default)]
    pub holds_from: Order,
    /// Log objects that were given up here and may be here all the same: a try whose answer was
    /// lost. By them the region is known again; the next object that is durable here makes them
    /// void.
    #[serde(default)]
    pub tried: Vec<(LogSeq, Hash)>,
    /// The config names the region no more: nothing waits for it, and it holds nothing that counts.
    #[serde(default)]
    pub parted: bool,
    /// Objects that were durable here are gone: until a complete base that begins at this log object or
    /// later is whole here, nothing that stands here counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LogSeq>,
}

/// How far a region gives up what it lacks: what another region holds, and no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GiveUp {
    /// The cursor that this was decided on. A lane that has moved since is asked anew.
    pub from: Order,
    /// The log objects from there on that may have been tried.
    pub tried: Vec<(LogSeq, Hash)>,
    /// Where the lane goes on.
    pub to: Order,
    /// The log object with which it goes on, as far as is known.
    pub log: LogSeq,
    /// The newest base before that.
    pub newest_base: Option<BaseRef>,
    /// Bytes that still wait behind it.
    pub backlog_bytes: u64,
}

/// Log objects that were given up and may be there, at most: more than are created between two
/// writes of the record. Past it those in the middle of an outage are forgotten: answers get lost
/// when it begins and when it ends.
pub const TRIED_MAX: usize = 512;

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
            holds_from: 0,
            tried: Vec::new(),
            parted: false,
            lost: None,
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
            holds_from: end,
            tried: Vec::new(),
            parted: false,
            lost: None,
        }
    }

    /// The lane of a region that was emptied: as one that joins. What went there last may have come
    /// after that.
    #[must_use]
    pub fn emptied(&self, end: Order, next: LogSeq) -> Self {
        let mut lane = Self::joining(end, next, self.newest_base);
        lane.may_have(&self.tried);
        let last = self.log_through.zip(self.log_link);
        lane.may_have(last.as_slice());
        lane
    }

    /// The lane of a region that lacks what was durable there, when the log goes on with `next`: what
    /// waits goes on being shipped, and nothing of before counts. `until` is the instant up to which
    /// everything committed is in what is left, `newest` the newest log object there.
    #[must_use]
    pub fn rolled_back(
        &self,
        next: LogSeq,
        until: Option<Timestamp>,
        newest: Option<(LogSeq, Hash)>,
    ) -> Self {
        let mut lane = self.clone();
        let last = self.log_through.zip(self.log_link);
        lane.may_have(newest.as_slice());
        lane.may_have(last.as_slice());
        let has = self.log_through.map_or(LogSeq(0), LogSeq::next);
        lane.unbroken_from = self.unbroken_from.max(has);
        lane.holds_from = self.cursor;
        lane.hole_since = self.hole_since.into_iter().chain(until).min();
        lane.lost = Some(next);
        (lane.log_through, lane.log_link) = (None, None);
        (lane.base, lane.point_through) = (None, None);
        lane
    }

    /// Whether `content` is to be created in `region`.
    #[must_use]
    pub fn admit(&self, region: &RegionName, content: &Content) -> Admission {
        let whole = match content {
            Content::Log { .. } => true,
            // The packs of a base that began before something was found to be gone may be gone, too.
            Content::Base { start, .. } if self.lost.is_some_and(|lost| *start < lost) => false,
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
            Content::Log {
                seq,
                link,
                first_commit,
                gap,
            } => {
                self.log_through = Some(*seq);
                self.log_link = Some(*link);
                self.tried.retain(|(tried, _)| tried > seq);
                if *gap {
                    self.unbroken_from = seq.next();
                    self.hole_since = self.hole_since.into_iter().chain(*first_commit).min();
                }
            }
            Content::Base {
                reference, start, ..
            } => {
                self.base = Some(HeldBase {
                    reference: *reference,
                    start: *start,
                });
                self.newest_base = Some(*reference);
                self.lost = None;
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

    /// How far this lane may give up what it lacks, given the others: up to the furthest cursor of
    /// a region that holds every log object in between. `None`: nobody holds what is next here.
    ///
    /// Whatever is given up here is thereby durable elsewhere: a range leaves the spool either
    /// through a region or under a signed gap.
    #[must_use]
    pub fn may_give_up<'a>(&self, others: impl IntoIterator<Item = &'a Self>) -> Option<&'a Self> {
        others
            .into_iter()
            .filter(|other| other.cursor > self.cursor && other.holds_from <= self.cursor)
            .max_by_key(|other| other.cursor)
    }

    /// What lies before `until`, committed from `oldest` on, is given up here. Points resume with the
    /// next base even if nothing but points was given up: by that a reader tells a repair from
    /// points that somebody removed.
    pub fn give_up(&mut self, until: &GiveUp, oldest: Option<Timestamp>) {
        self.cursor = until.to;
        self.holds_from = until.to;
        self.newest_base = until.newest_base.or(self.newest_base);
        self.may_have(&until.tried);
        let has = self.log_through.map_or(LogSeq(0), LogSeq::next);
        if until.log > has.max(self.unbroken_from) {
            self.hole_since = self.hole_since.into_iter().chain(oldest).min();
        }
        self.unbroken_from = self.unbroken_from.max(until.log);
    }

    /// Log objects that this lane knows, one of which may be the region's newest: beside these only
    /// the spool's may be.
    #[must_use]
    pub fn may_show(&self) -> Vec<(LogSeq, Hash)> {
        let last = self.log_through.zip(self.log_link);
        last.into_iter().chain(self.tried.iter().copied()).collect()
    }

    /// Log objects that may be here, though nobody heard of it.
    fn may_have(&mut self, tried: &[(LogSeq, Hash)]) {
        for tried in tried {
            self.tried.push(*tried);
            if self.tried.len() > TRIED_MAX {
                self.tried.remove(TRIED_MAX / 2);
            }
        }
    }

    /// The config names the region no more: the spool keeps nothing for it from now on. `tried` are
    /// the log objects behind the cursor, which an earlier process may have shipped.
    pub fn part(&mut self, tried: &[(LogSeq, Hash)]) {
        if !std::mem::replace(&mut self.parted, true) {
            self.may_have(tried);
        }
    }

    /// The config names the region again, when the spool begins at `first`, before the log object
    /// `log`, and the newest base is `newest_base`. What left the spool meanwhile is given up.
    pub fn rejoin(&mut self, first: Order, log: LogSeq, newest_base: Option<BaseRef>) {
        self.parted = false;
        if self.cursor < first {
            let until = GiveUp {
                from: self.cursor,
                tried: Vec::new(),
                to: first,
                log,
                newest_base,
                backlog_bytes: 0,
            };
            self.give_up(&until, None);
        }
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
            gap: false,
        }
    }

    fn point(log_seq: u64, number: u32) -> Content {
        Content::Point {
            seq: PointSeq(0),
            log_seq: LogSeq(log_seq),
            base: reference(number),
        }
    }

    fn until(from: Order, to: Order, log: u64) -> GiveUp {
        GiveUp {
            from,
            tried: vec![(LogSeq(from), Hash::of(b""))],
            to,
            log: LogSeq(log),
            newest_base: None,
            backlog_bytes: 0,
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
    fn a_region_that_lost_what_it_had_counts_again_with_a_complete_base_that_began_after_that() {
        let mut lane = Lane::from_start();
        pass(&mut lane, &log(0));
        pass(&mut lane, &base(0, 0, &[here()]));
        pass(&mut lane, &log(1));
        let until = Some(Timestamp::UNIX_EPOCH);
        let mut lane = lane.rolled_back(LogSeq(3), until, Some((LogSeq(0), Hash::of(b""))));
        assert_eq!(lane.standing(), Standing::Repairing);
        assert!(lane.needs_complete_base());
        assert_eq!((lane.hole_since, lane.log_through), (until, None));
        assert_eq!(
            lane.may_show().len(),
            2,
            "what is there and what was: both are its own"
        );
        pass(&mut lane, &log(2));
        assert_eq!(pass(&mut lane, &point(2, 0)), Admission::Skip);
        let complete = |start| Content::Base {
            reference: reference(7),
            parent: None,
            start: LogSeq(start),
            packs_in: vec![here()],
        };
        // It was under way when it was found out: its packs may be gone with the rest.
        assert_eq!(pass(&mut lane, &complete(2)), Admission::Skip);
        assert_eq!(lane.hole_since, until);
        pass(&mut lane, &log(3));
        assert_eq!(pass(&mut lane, &complete(3)), Admission::Ship);
        assert_eq!(pass(&mut lane, &point(3, 7)), Admission::Ship);
        assert_eq!((lane.standing(), lane.lost), (Standing::Whole, None));
        assert_eq!(lane.hole_since, None);
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
        lane.give_up(&until(2, 10, 8), None);
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

    #[test]
    fn only_what_another_region_holds_is_given_up() {
        let at = |cursor, holds_from| Lane {
            cursor,
            holds_from,
            ..Lane::from_start()
        };
        let behind = at(10, 0);
        assert_eq!(behind.may_give_up([]), None);
        assert_eq!(behind.may_give_up([&at(10, 0)]), None, "as far as this one");
        assert_eq!(
            behind.may_give_up([&at(40, 11)]),
            None,
            "it gave up or never had what is next here"
        );
        let others = [at(12, 0), at(40, 10), at(90, 50)];
        assert_eq!(behind.may_give_up(&others), Some(&at(40, 10)));
    }

    #[test]
    fn an_object_that_was_tried_and_given_up_is_known_again_until_a_later_one_is_there() {
        let mut lane = Lane::from_start();
        lane.give_up(&until(0, 4, 4), None);
        assert_eq!(lane.tried, [(LogSeq(0), Hash::of(b""))]);
        lane.give_up(&until(4, 6, 6), None);
        assert_eq!(lane.tried.len(), 2);
        pass(&mut lane, &log(6));
        assert_eq!(lane.tried, []);
        for order in 7..1_000 {
            lane.give_up(&until(order, order + 1, order + 1), None);
        }
        let seqs: Vec<u64> = lane.tried.iter().map(|(seq, _)| seq.0).collect();
        assert_eq!(seqs.len(), TRIED_MAX);
        assert_eq!((seqs.first(), seqs.last()), (Some(&7), Some(&999)));
    }

    #[test]
    fn giving_up_a_base_without_any_log_leaves_no_hole_but_a_base_to_wait_for() {
        let mut lane = Lane::from_start();
        pass(&mut lane, &log(0));
        pass(&mut lane, &base(0, 0, &[here()]));
        let mut past = until(2, 3, 1);
        past.newest_base = Some(reference(1));
        lane.give_up(&past, None);
        assert_eq!(lane.hole_since, None);
        assert_eq!(lane.standing(), Standing::Repairing);
        assert!(lane.needs_complete_base());
    }

    #[test]
    fn a_region_that_left_the_config_goes_on_where_it_was_if_the_spool_still_has_it() {
        let mut lane = Lane::from_start();
        pass(&mut lane, &log(0));
        pass(&mut lane, &base(0, 0, &[here()]));
        lane.part(&[(LogSeq(1), Hash::of(b"1"))]);
        lane.part(&[(LogSeq(2), Hash::of(b"2"))]);
        assert_eq!(
            lane.tried,
            [(LogSeq(1), Hash::of(b"1"))],
            "the rest never went there"
        );
        let mut soon = lane.clone();
        soon.rejoin(2, LogSeq(1), Some(reference(0)));
        assert_eq!((soon.standing(), soon.cursor), (Standing::Whole, 2));
        lane.rejoin(9, LogSeq(7), Some(reference(1)));
        assert_eq!((lane.standing(), lane.cursor), (Standing::Repairing, 9));
        assert_eq!(lane.unbroken_from, LogSeq(7));
        assert!(!lane.parted);
    }

    #[test]
    fn points_before_a_gap_are_there_and_none_rests_on_what_is_behind_it() {
        let mut lane = Lane::from_start();
        pass(&mut lane, &log(0));
        pass(&mut lane, &base(0, 0, &[here()]));
        assert_eq!(pass(&mut lane, &point(0, 0)), Admission::Ship);
        let gap = Content::Log {
            seq: LogSeq(1),
            link: Hash::of(b""),
            first_commit: None,
            gap: true,
        };
        pass(&mut lane, &gap);
        pass(&mut lane, &log(2));
        assert_eq!(lane.standing(), Standing::Repairing);
        assert_eq!(pass(&mut lane, &point(2, 0)), Admission::Skip);
    }
}
