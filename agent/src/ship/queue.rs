//! Whose turn it is in one region, and when a region that failed is tried again: pure.
//!
//! **Invariants.** At most one item of a source is under way (creates are in order per source and
//! region); at most [`AT_ONCE`] sources at a time; while the region is away a single one, so that a
//! region that comes back is not met by everything at once. Sources take turns.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use jiff::Timestamp;
use tidemark_format::{LogSeq, RegionId, SourceName};
use tidemark_host::{Monotonic, Rng, RngExt as _};

use super::holding::Loss;
use super::lane::{Admission, Content, GiveUp, Lane, Standing};
use crate::state::spool::Order;

/// Sources that ship at the same time into one region: enough to hide the latency of one.
pub const AT_ONCE: usize = 8;
/// The first wait after a failure.
const WAIT_FIRST: Duration = Duration::from_millis(250);
/// The longest wait: a region that is back is noticed within this time.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// One source in this region.
#[derive(Debug, Clone)]
struct Track {
    lane: Lane,
    /// The spool's end.
    end: Order,
    /// The log's end as far as the spool holds it.
    log_next: LogSeq,
    /// Bytes of the items from the cursor to the end.
    backlog_bytes: u64,
    /// The first commit that isn't durable here, or an earlier instant.
    oldest: Option<Timestamp>,
    busy: bool,
    held: bool,
}

impl Track {
    fn has_work(&self) -> bool {
        !self.busy && !self.held && self.lane.cursor < self.end
    }

    fn lacks_log(&self) -> bool {
        self.lane.log_through.map_or(LogSeq(0), LogSeq::next) < self.log_next
            && self.lane.cursor < self.end
    }
}

/// What people want to know of one source in this region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackView {
    /// The lane.
    pub lane: Lane,
    /// Whether it has everything it should.
    pub standing: Standing,
    /// Items that wait.
    pub behind: u64,
    /// Their bytes.
    pub backlog_bytes: u64,
    /// The first commit in the spool that isn't durable here; `None`: all of it is.
    pub lacking_since: Option<Timestamp>,
}

/// A time during which the region fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// Since when.
    pub since: Timestamp,
    /// Tries that failed.
    pub failures: u32,
    /// When the next one is due.
    pub retry_at: Monotonic,
}

/// The queue of one region.
#[derive(Debug, Default)]
pub struct Queue {
    tracks: BTreeMap<SourceName, Track>,
    ready: BTreeSet<SourceName>,
    last: Option<SourceName>,
    busy: usize,
    outage: Option<Outage>,
}

impl Queue {
    /// A source takes part, with its lane, the spool's and the log's end, the bytes that wait and
    /// since when.
    pub fn open(&mut self, source: &SourceName, lane: Lane, ends: Ends) {
        let track = Track {
            lane,
            end: ends.order,
            log_next: ends.log,
            backlog_bytes: ends.backlog_bytes,
            oldest: ends.oldest,
            busy: false,
            held: false,
        };
        self.tracks.insert(source.clone(), track);
        self.refresh(source);
    }

    /// An item was appended to the source's spool.
    pub fn appended(&mut self, source: &SourceName, bytes: u64, content: &Content) {
        if let Some(track) = self.tracks.get_mut(source) {
            if let Content::Log {
                seq, first_commit, ..
            } = content
            {
                if !track.lacks_log() {
                    track.oldest = *first_commit;
                }
                track.log_next = seq.next();
            }
            track.end = track.end.saturating_add(1);
            track.backlog_bytes = track.backlog_bytes.saturating_add(bytes);
        }
        self.refresh(source);
    }

    /// The next item to ship, if one may be begun now. It is under way until
    /// [`Self::settled`] or [`Self::failed`].
    pub fn next(&mut self, now: Monotonic) -> Option<(SourceName, Order)> {
        let at_once = match self.outage {
            Some(outage) if now < outage.retry_at => return None,
            Some(_) => 1,
            None => AT_ONCE,
        };
        if self.busy >= at_once {
            return None;
        }
        let source = self.turn()?;
        let track = self.tracks.get_mut(&source)?;
        track.busy = true;
        self.busy = self.busy.saturating_add(1);
        let order = track.lane.cursor;
        self.ready.remove(&source);
        self.last = Some(source.clone());
        Some((source, order))
    }

    fn turn(&self) -> Option<SourceName> {
        let after = self.last.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.ready.range((after, Bound::Unbounded)).next();
        later.or_else(|| self.ready.iter().next()).cloned()
    }

    /// Whether an item of the source is under way.
    #[must_use]
    pub fn is_busy(&self, source: &SourceName) -> bool {
        self.tracks.get(source).is_some_and(|track| track.busy)
    }

    /// A source's lane.
    #[must_use]
    pub fn lane(&self, source: &SourceName) -> Option<&Lane> {
        self.tracks.get(source).map(|track| &track.lane)
    }

    /// The item that was under way is created or passed over. Returns the lane as it is now.
    pub fn settled(
        &mut self,
        source: &SourceName,
        order: Order,
        how: Admission,
        content: &Content,
        bytes: u64,
    ) -> Option<Lane> {
        self.busy = self.busy.saturating_sub(1);
        if how == Admission::Ship {
            self.outage = None;
        }
        let track = self.tracks.get_mut(source)?;
        track.busy = false;
        // Given up in the meantime: the cursor is already past it.
        if track.lane.cursor == order {
            match how {
                Admission::Ship => track.lane.shipped(content),
                Admission::Skip => track.lane.skipped(content),
            }
            track.backlog_bytes = track.backlog_bytes.saturating_sub(bytes);
        }
        if !track.lacks_log() {
            track.oldest = None;
        }
        let lane = track.lane.clone();
        self.refresh(source);
        Some(lane)
    }

    /// The item that was under way was not created: the region is away until it answers again.
    pub fn failed(&mut self, source: &SourceName, now: (Timestamp, Monotonic), rng: &dyn Rng) {
        self.busy = self.busy.saturating_sub(1);
        if let Some(track) = self.tracks.get_mut(source) {
            track.busy = false;
        }
        self.refresh(source);
        self.away(now, rng);
    }

    /// The region failed.
    pub fn away(&mut self, now: (Timestamp, Monotonic), rng: &dyn Rng) {
        let (wall, monotonic) = now;
        let outage = self.outage.get_or_insert(Outage {
            since: wall,
            failures: 0,
            retry_at: monotonic,
        });
        // Requests that were under way together fail together: that is one failure.
        if monotonic >= outage.retry_at {
            outage.failures = outage.failures.saturating_add(1);
            outage.retry_at = monotonic.after(backoff(outage.failures, rng));
        }
    }

    /// The region answered.
    pub const fn answered(&mut self) {
        self.outage = None;
    }

    /// The source's item that was under way will never be created, nor any after it.
    pub fn stop(&mut self, source: &SourceName) {
        if let Some(track) = self.tracks.get_mut(source) {
            track.held = true;
            if std::mem::take(&mut track.busy) {
                self.busy = self.busy.saturating_sub(1);
            }
        }
        self.refresh(source);
    }

    /// Holds the source's items back, or lets them go again.
    pub fn hold(&mut self, source: &SourceName, held: bool) {
        if let Some(track) = self.tracks.get_mut(source) {
            track.held = held;
        }
        self.refresh(source);
    }

    /// What of the source waits here before `until` is given up. Returns the lane as it is now;
    /// `None` if it has moved since that was decided.
    pub fn give_up(&mut self, source: &SourceName, until: &GiveUp) -> Option<Lane> {
        let track = self.tracks.get_mut(source)?;
        if track.lane.cursor != until.from || until.to <= until.from || until.to > track.end {
            return None;
        }
        track.lane.give_up(until, track.oldest);
        track.backlog_bytes = until.backlog_bytes;
        if !track.lacks_log() {
            track.oldest = None;
        }
        let lane = track.lane.clone();
        self.refresh(source);
        Some(lane)
    }

    /// The region is the place `id`. If it was another one, the source joins it anew, from the spool's
    /// end on: returns the lane as it is then.
    pub fn is_place(&mut self, source: &SourceName, id: RegionId) -> Option<Lane> {
        let track = self.tracks.get_mut(source)?;
        let before = track.lane.region.replace(id)?;
        if before == id {
            return None;
        }
        track.lane = track.lane.emptied(track.end, track.log_next);
        track.lane.region = Some(id);
        track.backlog_bytes = 0;
        track.oldest = None;
        let lane = track.lane.clone();
        self.refresh(source);
        Some(lane)
    }

    /// What was looked for in the region when its lane was `before` is gone. Returns the lane as it is now;
    /// `None` if it names that no more.
    pub(super) fn rolled_back(
        &mut self,
        source: &SourceName,
        before: &Lane,
        loss: &Loss,
    ) -> Option<Lane> {
        let track = self.tracks.get_mut(source)?;
        let lane = &track.lane;
        let named = match loss.log {
            Some(gone) => lane.log_through >= Some(gone) && lane.unbroken_from <= gone.next(),
            None => lane.base.is_some() && lane.base == before.base,
        };
        if !named || lane.region != before.region {
            return None;
        }
        track.lane = lane.rolled_back(track.log_next, loss.until, loss.newest);
        let lane = track.lane.clone();
        self.refresh(source);
        Some(lane)
    }

    /// When something is due that no event will bring.
    #[must_use]
    pub fn wake_at(&self) -> Option<Monotonic> {
        let waiting = !self.ready.is_empty();
        self.outage
            .filter(|_| waiting)
            .map(|outage| outage.retry_at)
    }

    /// The outage, if there is one.
    #[must_use]
    pub const fn outage(&self) -> Option<Outage> {
        self.outage
    }

    /// Whether nothing waits and nothing is under way.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.busy == 0 && self.ready.is_empty()
    }

    /// Items under way.
    #[must_use]
    pub const fn busy(&self) -> usize {
        self.busy
    }

    /// One source as people want to see it.
    #[must_use]
    pub fn view(&self, source: &SourceName) -> Option<TrackView> {
        let track = self.tracks.get(source)?;
        let hole = track
            .lane
            .hole_since
            .filter(|_| track.lane.standing() == Standing::Repairing);
        let lacking = track.oldest.filter(|_| track.lacks_log());
        Some(TrackView {
            lane: track.lane.clone(),
            standing: track.lane.standing(),
            behind: track.end.saturating_sub(track.lane.cursor),
            backlog_bytes: track.backlog_bytes,
            lacking_since: hole.into_iter().chain(lacking).min(),
        })
    }

    fn refresh(&mut self, source: &SourceName) {
        if self.tracks.get(source).is_some_and(Track::has_work) {
            self.ready.insert(source.clone());
        } else {
            self.ready.remove(source);
        }
    }
}

/// Where a source's spool ends when a region opens its lane.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ends {
    /// The next order.
    pub order: Order,
    /// The next log object.
    pub log: LogSeq,
    /// Bytes between the lane's cursor and the end.
    pub backlog_bytes: u64,
    /// The first commit among them.
    pub oldest: Option<Timestamp>,
}

/// Exponential, with the upper half drawn at random: many agents that lost one region don't come
/// back together.
fn backoff(failures: u32, rng: &dyn Rng) -> Duration {
    let doubled = WAIT_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let bound = doubled.min(WAIT_MAX);
    let half = u64::try_from(bound.as_millis() / 2).unwrap_or(u64::MAX);
    Duration::from_millis(half.saturating_add(rng.below(half.saturating_add(1))))
}

#[cfg(test)]
mod tests {
    use tidemark_format::Hash;
    use tidemark_host::TestRng;

    use super::*;

    fn name(text: &str) -> SourceName {
        SourceName::new(text).unwrap()
    }

    fn log(seq: u64) -> Content {
        let first_commit = i64::try_from(seq).unwrap();
        let first_commit = Some(Timestamp::from_second(first_commit).unwrap());
        Content::Log {
            seq: LogSeq(seq),
            link: Hash::of(b""),
            first_commit,
            gap: false,
        }
    }

    fn at(seconds: u64) -> (Timestamp, Monotonic) {
        let wall = Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap();
        (wall, Monotonic::from_origin(Duration::from_secs(seconds)))
    }

    fn queue(sources: &[&str]) -> Queue {
        let mut queue = Queue::default();
        for source in sources {
            queue.open(&name(source), Lane::from_start(), Ends::default());
        }
        queue
    }

    fn settle(queue: &mut Queue, source: &str, order: Order) {
        let content = log(order);
        queue.settled(&name(source), order, Admission::Ship, &content, 10);
    }

    #[test]
    fn a_source_has_one_item_under_way_and_sources_take_turns() {
        let mut queue = queue(&["a", "b"]);
        for seq in 0..2 {
            queue.appended(&name("a"), 10, &log(seq));
        }
        queue.appended(&name("b"), 10, &log(0));
        assert_eq!(queue.next(at(0).1), Some((name("a"), 0)));
        assert_eq!(queue.next(at(0).1), Some((name("b"), 0)));
        assert_eq!(queue.next(at(0).1), None);
        settle(&mut queue, "a", 0);
        assert_eq!(queue.next(at(0).1), Some((name("a"), 1)));
    }

    #[test]
    fn a_region_that_is_away_is_asked_by_one_source_after_a_wait() {
        let mut queue = queue(&["a", "b"]);
        queue.appended(&name("a"), 10, &log(0));
        queue.appended(&name("b"), 10, &log(0));
        let rng = TestRng::seeded(1);
        assert!(queue.next(at(10).1).is_some() && queue.next(at(10).1).is_some());
        queue.failed(&name("a"), at(10), &rng);
        queue.failed(&name("b"), at(10), &rng);
        assert_eq!(queue.outage().map(|outage| outage.failures), Some(1));
        assert_eq!(queue.next(at(10).1), None);
        assert!(queue.wake_at().is_some_and(|wake| wake <= at(11).1));
        assert_eq!(queue.next(at(11).1), Some((name("a"), 0)));
        assert_eq!(queue.next(at(11).1), None, "one at a time while it is away");
        settle(&mut queue, "a", 0);
        assert_eq!(queue.outage(), None);
        assert_eq!(queue.next(at(11).1), Some((name("b"), 0)));
    }

    #[test]
    fn waits_grow_to_their_bound() {
        let rng = TestRng::seeded(1);
        assert!(backoff(1, &rng) <= WAIT_FIRST);
        assert!((0..100).all(|n| backoff(n, &rng) <= WAIT_MAX));
        assert!(backoff(40, &rng) >= WAIT_MAX / 2);
    }

    #[test]
    fn exposure_counts_from_the_first_commit_that_is_not_there() {
        let mut queue = queue(&["a"]);
        let lacking = |queue: &Queue| queue.view(&name("a")).unwrap().lacking_since;
        assert_eq!(lacking(&queue), None);
        queue.appended(&name("a"), 10, &log(0));
        queue.appended(&name("a"), 10, &log(1));
        assert_eq!(lacking(&queue), Some(at(0).0));
        queue.next(at(0).1);
        settle(&mut queue, "a", 0);
        assert!(lacking(&queue).is_some());
        queue.next(at(0).1);
        settle(&mut queue, "a", 1);
        assert_eq!(lacking(&queue), None);
        assert_eq!(queue.view(&name("a")).unwrap().backlog_bytes, 0);
    }

    #[test]
    fn an_item_that_was_given_up_while_under_way_does_not_move_the_cursor_back() {
        let mut queue = queue(&["a"]);
        for seq in 0..3 {
            queue.appended(&name("a"), 10, &log(seq));
        }
        queue.next(at(0).1);
        let until = GiveUp {
            from: 0,
            tried: vec![(LogSeq(0), Hash::of(b""))],
            to: 3,
            log: LogSeq(3),
            newest_base: None,
            backlog_bytes: 0,
        };
        let moved = GiveUp {
            from: 1,
            ..until.clone()
        };
        assert_eq!(queue.give_up(&name("a"), &moved), None);
        let lane = queue.give_up(&name("a"), &until).unwrap();
        assert_eq!(lane.tried, [(LogSeq(0), Hash::of(b""))]);
        assert_eq!((lane.cursor, lane.unbroken_from), (3, LogSeq(3)));
        let content = log(0);
        let lane = queue
            .settled(&name("a"), 0, Admission::Ship, &content, 10)
            .unwrap();
        assert_eq!(lane.cursor, 3);
        assert!(queue.is_drained());
    }

    #[test]
    fn a_held_source_ships_nothing_until_it_is_let_go() {
        let mut queue = queue(&["a"]);
        queue.hold(&name("a"), true);
        queue.appended(&name("a"), 10, &log(0));
        assert_eq!(queue.next(at(0).1), None);
        queue.hold(&name("a"), false);
        assert!(queue.next(at(0).1).is_some());
    }
}
