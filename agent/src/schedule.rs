//! When a base, a generation or a recovery point is due: pure decisions.
//!
//! Wall time counts for the crontab alone (it speaks of civil time); everything else is elapsed
//! time. A clock that stepped back makes no base due; its caller begins the schedule anew from there.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tidemark_format::LogSeq;
use tidemark_host::clock::Monotonic;
use tidemark_planner::schedule::Schedule;

/// How soon after a base that repaired a region the next one may: a region that comes and goes must
/// not make the agent read the database all the time.
const REPAIR_GAP: SignedDuration = SignedDuration::from_mins(10);
/// How soon after any base the first repair may, and one of a region that has no base at all, and so
/// nothing that could be restored.
const SOON: SignedDuration = SignedDuration::from_secs(10);
/// How soon after a base failed the next one is tried.
pub const BASE_RETRY: Duration = Duration::from_secs(30);

/// What is known when it is asked whether a base is due.
#[derive(Debug, Clone, Copy, Default)]
pub struct BaseFacts {
    /// The engine has no finished complete base in the open generation, or there is no generation.
    pub needs_complete: bool,
    /// A person asked for a base.
    pub asked: bool,
    /// A region that can be reached lacks a base that ours build on.
    pub region_needs_complete: bool,
    /// That region has no base at all.
    pub region_is_bare: bool,
    /// A region that can be reached has a hole in its log, which any base heals.
    pub region_needs_base: bool,
    /// When the last base was begun, finished or not.
    pub last_begun: Option<Timestamp>,
    /// When the generation was opened.
    pub generation_opened: Option<Timestamp>,
    /// It was opened to repair a region.
    pub generation_repairs: bool,
}

/// Whether a base is due, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseDue {
    /// Not now.
    No,
    /// One that builds on the last.
    Incremental,
    /// A complete one, in a new generation.
    Complete,
}

/// When bases are made.
#[derive(Debug, Clone)]
pub struct BasePlan {
    /// The crontab line.
    pub schedule: Schedule,
    /// How often a generation opens.
    pub generation: Duration,
}

impl BasePlan {
    /// Whether a base is due now.
    #[must_use]
    pub fn due(&self, facts: &BaseFacts, now: Timestamp) -> BaseDue {
        if facts.needs_complete {
            return BaseDue::Complete;
        }
        let begun = facts.last_begun.map(|begun| begun.min(now));
        let since = |gap| begun.is_none_or(|begun| now.duration_since(begun) >= gap);
        let repairs = facts.region_needs_complete && since(SOON) && may_repair(facts, now);
        let scheduled = begun
            .and_then(|begun| self.schedule.next_after(begun))
            .is_some_and(|next| next <= now);
        let heals = facts.region_needs_base && !facts.region_needs_complete && since(REPAIR_GAP);
        if !repairs && !scheduled && !facts.asked && !heals {
            return BaseDue::No;
        }
        // One that builds on what a region lacks could never be there.
        if facts.region_needs_complete || self.generation_is_over(facts.generation_opened, now) {
            BaseDue::Complete
        } else {
            BaseDue::Incremental
        }
    }

    fn generation_is_over(&self, opened: Option<Timestamp>, now: Timestamp) -> bool {
        let length = SignedDuration::try_from(self.generation).unwrap_or(SignedDuration::MAX);
        opened.is_none_or(|opened| now.duration_since(opened) >= length)
    }

    /// When the schedule alone makes the next base due.
    #[must_use]
    pub fn next(&self, facts: &BaseFacts, now: Timestamp) -> Option<Timestamp> {
        self.schedule
            .next_after(facts.last_begun.map_or(now, |begun| begun.min(now)))
    }
}

/// Whether a region may have a complete base made now that nobody asked for.
fn may_repair(facts: &BaseFacts, now: Timestamp) -> bool {
    if facts.region_is_bare || !facts.generation_repairs {
        return true;
    }
    let opened = facts.generation_opened.map(|opened| opened.min(now));
    opened.is_none_or(|opened| now.duration_since(opened) >= REPAIR_GAP)
}

/// What is known when it is asked whether a recovery point is due.
#[derive(Debug, Clone, Copy)]
pub struct PointFacts {
    /// The newest log object that can be restored to and is durable in at least one region.
    pub durable: Option<LogSeq>,
    /// The log object that the last point covers.
    pub covered: Option<LogSeq>,
    /// Where the newest base is usable from; none if there is no base.
    pub usable_from: Option<LogSeq>,
    /// Since the last point was sealed, in this process.
    pub since_last: Option<Duration>,
    /// `snapshot_every`.
    pub every: Duration,
    /// A new base was published since the last point.
    pub new_base: bool,
}

/// Whether a recovery point is due: when something new is durable and it is time, and at once for
/// the first one and after a base, which older points don't name.
#[must_use]
pub fn point_due(facts: &PointFacts) -> bool {
    let (Some(durable), Some(usable_from)) = (facts.durable, facts.usable_from) else {
        return false;
    };
    if durable < usable_from {
        return false;
    }
    let news = facts.covered.is_none_or(|covered| durable > covered);
    let time = facts.since_last.is_none_or(|since| since >= facts.every);
    (news && time) || facts.new_base
}

/// The moment that counts as the time of a point sealed at `now`, so that the next is due one
/// interval later: the beat that `now` answers. A point waits for its log object, and counted from
/// its own late moment every wait would be added to all later ones. After a beat was missed
/// altogether the count begins anew.
#[must_use]
pub fn beat_of(last: Option<Monotonic>, now: Monotonic, every: Duration) -> Monotonic {
    let Some(beat) = last.map(|last| last.after(every)) else {
        return now;
    };
    if beat <= now && now.since(beat) < every {
        beat
    } else {
        now
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn plan() -> BasePlan {
        BasePlan {
            schedule: Schedule::parse("30 2 * * *", TimeZone::UTC).unwrap(),
            generation: Duration::from_secs(7 * 86_400),
        }
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn facts() -> BaseFacts {
        BaseFacts {
            last_begun: Some(time("2026-05-01T02:30:01Z")),
            generation_opened: Some(time("2026-05-01T02:30:01Z")),
            ..BaseFacts::default()
        }
    }

    #[test]
    fn the_first_base_is_due_at_once_and_complete() {
        let facts = BaseFacts {
            needs_complete: true,
            ..BaseFacts::default()
        };
        assert_eq!(
            plan().due(&facts, time("2026-05-01T12:00:00Z")),
            BaseDue::Complete
        );
    }

    #[test]
    fn bases_follow_the_schedule_and_catch_up_what_was_missed() {
        let due = |now| plan().due(&facts(), time(now));
        assert_eq!(due("2026-05-02T02:29:59Z"), BaseDue::No);
        assert_eq!(due("2026-05-02T02:30:00Z"), BaseDue::Incremental);
        assert_eq!(due("2026-05-04T17:00:00Z"), BaseDue::Incremental);
    }

    #[test]
    fn a_generation_that_is_over_opens_the_next_at_the_scheduled_base() {
        assert_eq!(
            plan().due(&facts(), time("2026-05-08T02:30:00Z")),
            BaseDue::Incremental
        );
        assert_eq!(
            plan().due(&facts(), time("2026-05-08T02:30:01Z")),
            BaseDue::Complete
        );
    }

    #[test]
    fn a_region_that_lacks_a_base_gets_a_complete_one_soon_but_not_all_the_time() {
        let mut facts = BaseFacts {
            region_needs_complete: true,
            region_needs_base: true,
            ..facts()
        };
        let due = |facts: &BaseFacts, now| plan().due(facts, time(now));
        assert_eq!(due(&facts, "2026-05-01T02:30:05Z"), BaseDue::No);
        assert_eq!(due(&facts, "2026-05-01T02:30:12Z"), BaseDue::Complete);
        facts.generation_repairs = true;
        assert_eq!(due(&facts, "2026-05-01T02:39:00Z"), BaseDue::No);
        assert_eq!(due(&facts, "2026-05-01T02:41:00Z"), BaseDue::Complete);
    }

    #[test]
    fn no_base_builds_on_one_that_a_region_lacks() {
        let lacking = BaseFacts {
            region_needs_complete: true,
            region_needs_base: true,
            generation_repairs: true,
            last_begun: Some(time("2026-05-01T12:00:00Z")),
            generation_opened: Some(time("2026-05-01T12:00:00Z")),
            ..BaseFacts::default()
        };
        let asked = BaseFacts {
            asked: true,
            ..lacking
        };
        let due = |facts: &BaseFacts, now| plan().due(facts, time(now));
        assert_eq!(due(&lacking, "2026-05-01T12:00:01Z"), BaseDue::No);
        assert_eq!(due(&asked, "2026-05-01T12:00:01Z"), BaseDue::Complete);
        assert_eq!(due(&lacking, "2026-05-02T02:30:00Z"), BaseDue::Complete);
    }

    #[test]
    fn a_region_without_any_base_waits_seconds_not_minutes() {
        let facts = BaseFacts {
            region_needs_complete: true,
            region_is_bare: true,
            ..facts()
        };
        assert_eq!(
            plan().due(&facts, time("2026-05-01T02:30:05Z")),
            BaseDue::No
        );
        assert_eq!(
            plan().due(&facts, time("2026-05-01T02:30:12Z")),
            BaseDue::Complete
        );
    }

    #[test]
    fn a_hole_in_a_regions_log_is_healed_by_any_base() {
        let facts = BaseFacts {
            region_needs_base: true,
            ..facts()
        };
        assert_eq!(
            plan().due(&facts, time("2026-05-01T02:41:00Z")),
            BaseDue::Incremental
        );
    }

    #[test]
    fn a_base_that_was_asked_for_is_due() {
        let facts = BaseFacts {
            asked: true,
            ..facts()
        };
        assert_eq!(
            plan().due(&facts, time("2026-05-01T05:00:00Z")),
            BaseDue::Incremental
        );
    }

    #[test]
    fn a_clock_that_stepped_back_makes_no_base_due() {
        assert_eq!(
            plan().due(&facts(), time("2026-04-30T12:00:00Z")),
            BaseDue::No
        );
    }

    #[test]
    fn a_point_is_due_when_something_new_is_durable_and_it_is_time() {
        let facts = PointFacts {
            durable: Some(LogSeq(5)),
            covered: Some(LogSeq(4)),
            usable_from: Some(LogSeq(1)),
            since_last: Some(Duration::from_secs(300)),
            every: Duration::from_secs(300),
            new_base: false,
        };
        assert!(point_due(&facts));
        assert!(!point_due(&PointFacts {
            since_last: Some(Duration::from_secs(299)),
            ..facts
        }));
        assert!(!point_due(&PointFacts {
            covered: Some(LogSeq(5)),
            ..facts
        }));
        assert!(!point_due(&PointFacts {
            usable_from: None,
            ..facts
        }));
        assert!(!point_due(&PointFacts {
            usable_from: Some(LogSeq(6)),
            ..facts
        }));
        assert!(point_due(&PointFacts {
            covered: None,
            since_last: None,
            ..facts
        }));
        assert!(point_due(&PointFacts {
            covered: Some(LogSeq(5)),
            new_base: true,
            ..facts
        }));
    }

    #[test]
    fn late_points_keep_the_beat_and_a_missed_one_begins_it_anew() {
        let every = Duration::from_secs(60);
        let at = |secs| Monotonic::default().after(Duration::from_secs(secs));
        assert_eq!(beat_of(None, at(5), every), at(5));
        assert_eq!(beat_of(Some(at(5)), at(65), every), at(65));
        assert_eq!(beat_of(Some(at(5)), at(80), every), at(65));
        assert_eq!(beat_of(Some(at(5)), at(130), every), at(130));
        // Sooner than due: asked for by an operator, or the first with a new base.
        assert_eq!(beat_of(Some(at(5)), at(20), every), at(20));
    }
}
