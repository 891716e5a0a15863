//! Decides from what a server says whether and how the log goes on. Pure: no connection, no clock.
//!
//! **Invariant.** The log only ever goes on at the byte where it ended, on a branch that this byte is
//! on. What can't be decided from the server's words (whether the bytes before are the same) is
//! checked while they stream.

use tidemark_format::postgres::{Lsn, SegmentSize, TimelineId};

use crate::replication::{Identity, Slot};
use crate::timeline::History;

/// What a server says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Who it is.
    pub(crate) identity: Identity,
    /// Bytes of its segments.
    pub(crate) segment: SegmentSize,
    /// Whether it is in recovery.
    pub(crate) standby: bool,
    /// How its timeline came about; none if it doesn't have the file.
    pub(crate) history: Option<History>,
    /// Our slot on it.
    pub(crate) slot: Option<Slot>,
}

/// Where the log was captured up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The database system.
    pub(crate) system: u64,
    /// Bytes of a segment.
    pub(crate) segment: SegmentSize,
    /// The branch.
    pub(crate) timeline: TimelineId,
    /// The next byte.
    pub(crate) at: Lsn,
    /// From here on the bytes before it are compared.
    pub(crate) from: Lsn,
}

/// What is looked for among several servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sought {
    /// Where the log goes on; none if nothing was captured yet.
    pub(crate) place: Option<Place>,
    /// The newest timeline that was followed.
    pub(crate) newest: TimelineId,
}

impl Sought {
    /// Nothing was captured yet.
    pub(crate) const ANYTHING: Self = Self {
        place: None,
        newest: TimelineId(0),
    };
}

/// What to do about the slot before the log streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotStep {
    /// It is there and keeps log.
    Use,
    /// It is not there: make it.
    Create,
    /// It keeps nothing any more: drop it, then make it.
    Recreate,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Stream `timeline` from the start of the segment of the next byte.
    Stream {
        /// First.
        slot: SlotStep,
        /// The branch to ask for.
        timeline: TimelineId,
        /// From here.
        from: Lsn,
    },
    /// Not now: ask again later.
    Wait(String),
    /// The log does not go on there: a new incarnation has to begin.
    Broken(String),
}

/// What to do about the slot.
pub(crate) fn slot_step(slot: Option<&Slot>) -> SlotStep {
    match slot {
        None => SlotStep::Create,
        Some(slot) if slot.restart.is_none() => SlotStep::Recreate,
        Some(_) => SlotStep::Use,
    }
}

/// Whether the log goes on from `place`, and how.
pub(crate) fn decide(view: &View, place: &Place) -> Plan {
    let who = &view.identity;
    if who.system != place.system {
        return Plan::Broken(format!(
            "another database system answers: its identifier is {}, it was {} (another server, a new cluster, or pg_upgrade)",
            who.system, place.system
        ));
    }
    if view.segment != place.segment {
        return Plan::Broken(format!(
            "the segments of the log have {} bytes, they had {} (pg_resetwal)",
            view.segment.bytes(),
            place.segment.bytes()
        ));
    }
    if let Some(reason) = left_before(view, place) {
        return reason;
    }
    if who.timeline == place.timeline && who.flushed < place.at {
        let reason = format!(
            "the server's log ends at {}, and it was captured up to {}",
            who.flushed, place.at
        );
        // A standby that starts replays for a while what it had before.
        return if view.standby {
            Plan::Wait(format!("{reason}: the standby has to catch up first"))
        } else {
            Plan::Broken(format!(
                "{reason}: an older copy of the server was started (a restored snapshot or backup)"
            ))
        };
    }
    Plan::Stream {
        slot: slot_step(view.slot.as_ref()),
        timeline: place.timeline,
        from: place.from,
    }
}

/// Which of several servers is captured: the newest on which the log goes on, else the newest on which a
/// new life may begin. None if all of them are on older timelines than what was followed: after a
/// fail-over the old primary may be up again, and what is committed there is no part of the cluster.
pub(crate) fn choose(views: &[&View], sought: &Sought) -> Option<usize> {
    let newest_of = |fits: &dyn Fn(&View) -> bool| {
        let fitting = views.iter().enumerate().filter(|(_, view)| fits(view));
        // Of several on one timeline the first: the order of the connection string.
        let newest = fitting.rev().max_by_key(|(_, view)| view.identity.timeline);
        newest.map(|(index, _)| index)
    };
    let Some(place) = &sought.place else {
        let system = views.first()?.identity.system;
        return newest_of(&|view| view.identity.system == system);
    };
    let of_ours = |view: &View| view.identity.system == place.system;
    if !views.iter().any(|view| of_ours(view)) {
        return newest_of(&|_| true);
    }
    let fresh = |view: &View| of_ours(view) && view.identity.timeline >= sought.newest;
    let streams = |view: &View| matches!(decide(view, place), Plan::Stream { .. });
    let waits = |view: &View| matches!(decide(view, place), Plan::Wait(_));
    newest_of(&|view| fresh(view) && streams(view))
        .or_else(|| newest_of(&|view| fresh(view) && waits(view)))
        .or_else(|| newest_of(&fresh))
}

/// Whether the server's branch left ours before the place.
fn left_before(view: &View, place: &Place) -> Option<Plan> {
    let now = view.identity.timeline;
    if now == place.timeline {
        return None;
    }
    let Some(history) = &view.history else {
        return Some(Plan::Broken(format!(
            "the server is on timeline {now} and doesn't have its history, so nobody knows where it left timeline {}",
            place.timeline
        )));
    };
    match history.left_at(place.timeline) {
        Some(fork) if place.at <= fork => None,
        Some(fork) => Some(Plan::Broken(format!(
            "timeline {now} left timeline {} at {fork}, before {}, up to where it was captured (pg_rewind, a restore to an earlier instant, or a failover to a standby that had not received everything)",
            place.timeline, place.at
        ))),
        None => Some(Plan::Broken(format!(
            "timeline {now}, on which the server is, does not come from timeline {}, on which it was captured",
            place.timeline
        ))),
    }
}

/// On which branch a new life begins that starts at `at`.
pub(crate) fn branch_of(view: &View, at: Lsn) -> TimelineId {
    view.history
        .as_ref()
        .map_or(view.identity.timeline, |history| history.branch_of(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place {
        system: 7,
        segment: SegmentSize::DEFAULT,
        timeline: TimelineId(1),
        at: Lsn(0x0300_1000),
        from: Lsn(0x0300_0000),
    };

    fn view(timeline: u32, flushed: u64, history: &str) -> View {
        let timeline = TimelineId(timeline);
        let history = if history.is_empty() {
            History::first()
        } else {
            History::parse(timeline, history.as_bytes()).expect("a history")
        };
        View {
            identity: Identity {
                system: 7,
                timeline,
                flushed: Lsn(flushed),
            },
            segment: SegmentSize::DEFAULT,
            standby: false,
            history: Some(history),
            slot: Some(Slot {
                kind: "physical".to_owned(),
                restart: Some(Lsn(0x0300_0000)),
                timeline: None,
            }),
        }
    }

    fn streams(view: &View) -> bool {
        matches!(
            decide(view, &PLACE),
            Plan::Stream {
                from: Lsn(0x0300_0000),
                timeline: TimelineId(1),
                ..
            }
        )
    }

    fn reason(view: &View) -> String {
        match decide(view, &PLACE) {
            Plan::Broken(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_log_goes_on_from_the_start_of_the_segment() {
        assert!(streams(&view(1, 0x0300_1000, "")));
        assert!(streams(&view(1, 0x0900_0000, "")));
    }

    #[test]
    fn a_slot_that_is_gone_or_lost_is_made_again_and_the_log_tried() {
        let mut gone = view(1, 0x0300_1000, "");
        gone.slot = None;
        let step = |view: &View| match decide(view, &PLACE) {
            Plan::Stream { slot, .. } => slot,
            other => panic!("{other:?}"),
        };
        assert_eq!(step(&gone), SlotStep::Create);
        let mut lost = view(1, 0x0300_1000, "");
        lost.slot.as_mut().expect("there").restart = None;
        assert_eq!(step(&lost), SlotStep::Recreate);
    }

    #[test]
    fn another_system_or_segment_size_is_another_life() {
        let mut other = view(1, 0x0300_1000, "");
        other.identity.system = 8;
        assert!(reason(&other).contains("another database system"));
        let mut other = view(1, 0x0300_1000, "");
        other.segment = SegmentSize::new(1 << 20).expect("a size");
        assert!(reason(&other).contains("segments"));
    }

    #[test]
    fn a_primary_that_is_behind_us_is_an_older_copy_and_a_standby_only_late() {
        let mut behind = view(1, 0x0300_0FF8, "");
        assert!(reason(&behind).contains("older copy"));
        behind.standby = true;
        assert!(matches!(decide(&behind, &PLACE), Plan::Wait(_)));
    }

    #[test]
    fn a_promotion_is_followed_if_it_left_at_or_after_our_place() {
        assert!(streams(&view(2, 0x0300_2000, "1\t0/3001000\tx\n")));
        assert!(streams(&view(
            5,
            0x0300_2000,
            "1\t0/3001010\tx\n3\t0/3001100\tx\n"
        )));
        let rewound = view(2, 0x0900_0000, "1\t0/3000FF8\tx\n");
        assert!(reason(&rewound).contains("pg_rewind"));
    }

    /// Of these servers.
    fn chosen(views: &[&View], newest: u32) -> Option<usize> {
        let sought = Sought {
            place: Some(PLACE),
            newest: TimelineId(newest),
        };
        choose(views, &sought)
    }

    #[test]
    fn of_several_servers_the_newest_is_captured_on_which_the_log_goes_on() {
        let old = view(1, 0x0900_0000, "");
        let new = view(2, 0x0400_0000, "1\t0/3002000\tx\n");
        let newer = view(3, 0x0400_0000, "1\t0/3002000\tx\n2\t0/3003000\tx\n");
        assert_eq!(chosen(&[&old, &new], 1), Some(1));
        assert_eq!(chosen(&[&old, &newer, &new], 1), Some(1));
        assert_eq!(chosen(&[&old, &old], 1), Some(0), "the string's order");
        // It left ours before what was captured: where that goes on is captured.
        let parted = view(2, 0x0900_0000, "1\t0/3000FF8\tx\n");
        assert_eq!(chosen(&[&parted, &old], 1), Some(1));
        // Alone it is what the cluster has become.
        assert_eq!(chosen(&[&parted], 1), Some(0));
        let nothing = choose(&[&old, &new], &Sought::ANYTHING);
        assert_eq!(nothing, Some(1), "nothing was captured yet");
    }

    #[test]
    fn an_older_timeline_than_was_followed_is_never_gone_back_to() {
        let old = view(1, 0x0900_0000, "");
        let new = view(2, 0x0400_0000, "1\t0/3002000\tx\n");
        // The log goes on there by its bytes: it still stands before the fork.
        assert!(streams(&old));
        assert_eq!(chosen(&[&old], 2), None);
        assert_eq!(chosen(&[&old, &new], 2), Some(1));
        // Another system is none of its branches, and only counts where none of ours answers.
        let mut other = view(1, 0x0900_0000, "");
        other.identity.system = 8;
        assert_eq!(chosen(&[&old, &other], 2), None);
        assert_eq!(chosen(&[&other], 2), Some(0));
    }

    #[test]
    fn a_standby_that_is_late_is_waited_for_only_if_no_other_server_goes_on() {
        let mut late = view(1, 0x0300_0FF8, "");
        late.standby = true;
        let primary = view(1, 0x0900_0000, "");
        assert_eq!(chosen(&[&late, &primary], 1), Some(1));
        assert_eq!(chosen(&[&late], 1), Some(0));
    }

    #[test]
    fn a_branch_that_does_not_come_from_ours_is_another_life() {
        let mut sibling = view(3, 0x0900_0000, "2\t0/3002000\tx\n");
        assert!(reason(&sibling).contains("does not come from"));
        sibling.history = None;
        assert!(reason(&sibling).contains("history"));
    }
}
