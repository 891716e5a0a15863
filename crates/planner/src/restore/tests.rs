//! Single cases in words, then random histories against a plain re-statement of the rules.

use jiff::SignedDuration;
use proptest::prelude::*;
use tidemark_format::{BaseNumber, Incarnation};

use super::*;

mod past;
mod recoverable;
mod server;

fn second(n: i64) -> Timestamp {
    Timestamp::from_second(n).unwrap()
}

fn object(seq: u64, commit: i64) -> LogFact {
    let fact = ObjectFact {
        incarnation: Incarnation([1; 16]),
        first_commit: Some(second(commit)),
        last_commit: Some(second(commit)),
        captured_at: second(commit),
        restorable: true,
    };
    LogFact {
        seq: LogSeq(seq),
        bytes: 100,
        state: LogState::Object(fact),
    }
}

fn piece(seq: u64) -> LogFact {
    let LogState::Object(fact) = object(seq, 0).state else {
        unreachable!()
    };
    let fact = ObjectFact {
        first_commit: None,
        last_commit: None,
        restorable: false,
        ..fact
    };
    LogFact {
        seq: LogSeq(seq),
        bytes: 100,
        state: LogState::Object(fact),
    }
}

fn gap(seq: u64) -> LogFact {
    LogFact {
        seq: LogSeq(seq),
        bytes: 10,
        state: LogState::Gap("spool was full".to_owned()),
    }
}

fn base(generation: u64, number: u32, start: u64, usable_from: u64, bytes: u64) -> BaseFact {
    let id = BaseId {
        generation: LogSeq(generation),
        number: BaseNumber(number),
    };
    BaseFact {
        id,
        parent: number.checked_sub(1).map(|n| BaseId {
            number: BaseNumber(n),
            ..id
        }),
        incarnation: Incarnation([1; 16]),
        start: LogSeq(start),
        usable_from: LogSeq(usable_from),
        stored_bytes: bytes,
        opens: true,
    }
}

fn point(seq: u64, log_seq: u64, committed: i64) -> PointFact {
    PointFact {
        seq: PointSeq(seq),
        log_seq: LogSeq(log_seq),
        committed: second(committed),
        name: None,
    }
}

/// Objects 0 to 9, one every ten seconds from 100 on; a base usable from 1; a point at 5.
fn plain() -> Facts {
    let mut epoch = EpochFacts::new(Epoch(1));
    epoch.log = (0..10_u8)
        .map(|n| object(n.into(), 100 + 10 * i64::from(n)))
        .collect();
    epoch.bases = vec![base(0, 0, 0, 1, 1000)];
    epoch.points = vec![point(0, 5, 155)];
    Facts {
        epochs: vec![epoch],
        caught_up: None,
    }
}

fn ends(facts: &Facts, target: Target) -> (u64, i64) {
    let plan = plan(facts, &target).unwrap();
    (plan.last_log.0, plan.reached.as_second())
}

fn refused(facts: &Facts, target: Target) -> NotRecoverable {
    *plan(facts, &target).unwrap_err()
}

#[test]
fn to_a_time_includes_it_and_before_excludes_it() {
    let facts = plain();
    assert_eq!(ends(&facts, Target::At(second(130))), (3, 130));
    assert_eq!(ends(&facts, Target::At(second(139))), (3, 130));
    assert_eq!(ends(&facts, Target::Before(second(130))), (2, 120));
    let plan = plan(&facts, &Target::At(second(139))).unwrap();
    assert_eq!(
        (plan.proof, plan.exact, plan.sealed),
        (Proof::LaterObject(LogSeq(4)), true, true)
    );
}

#[test]
fn latest_goes_on_past_the_newest_point() {
    let plan = plan(&plain(), &Target::Latest).unwrap();
    assert_eq!(
        (plan.last_log, plan.sealed, plan.proof),
        (LogSeq(9), false, Proof::EndOfLog)
    );
    assert_eq!(
        (plan.first_log, plan.base_bytes, plan.log_bytes),
        (LogSeq(0), 1000, 1000)
    );
}

#[test]
fn a_time_past_the_log_needs_a_proof_that_nothing_is_missing() {
    let mut facts = plain();
    let error = refused(&facts, Target::At(second(300)));
    assert_eq!(error.why, Why::TooLate);
    assert_eq!(error.before.as_ref().unwrap().at, second(190));
    assert!(
        error.to_string().contains("1970-01-01T00:03:10Z"),
        "{error}"
    );

    facts.caught_up = Some(CaughtUp {
        log_seq: LogSeq(9),
        at: second(300),
    });
    assert_eq!(ends(&facts, Target::At(second(300))), (9, 190));
    assert_eq!(refused(&facts, Target::At(second(301))).why, Why::TooLate);

    facts.caught_up = None;
    facts.epochs[0].points.push(point(1, 9, 250));
    assert_eq!(ends(&facts, Target::At(second(250))), (9, 190));
}

#[test]
fn a_beat_about_a_later_object_than_is_here_proves_nothing() {
    let mut facts = plain();
    facts.caught_up = Some(CaughtUp {
        log_seq: LogSeq(10),
        at: second(300),
    });
    assert_eq!(refused(&facts, Target::At(second(300))).why, Why::TooLate);
}

#[test]
fn before_the_first_usable_position_nothing_is_promised() {
    let error = refused(&plain(), Target::At(second(105)));
    assert_eq!(error.why, Why::NoBase { epoch: Epoch(1) });
    assert_eq!(error.after.unwrap().at, second(110));
    assert_eq!(refused(&plain(), Target::At(second(50))).why, Why::TooEarly);
    assert_eq!(
        refused(&Facts::default(), Target::Latest).why,
        Why::NothingYet
    );
}

#[test]
fn a_hole_before_the_newest_point_is_an_error_that_names_what_can_be_proved() {
    let mut facts = plain();
    facts.epochs[0].log.remove(4);
    for target in [
        Target::Latest,
        Target::At(second(150)),
        Target::At(second(135)),
    ] {
        let error = refused(&facts, target);
        assert!(
            matches!(error.why, Why::Hole { seq: LogSeq(4), .. }),
            "{error:?}"
        );
        assert_eq!(error.before.unwrap().seq, LogSeq(3));
    }
    assert_eq!(ends(&facts, Target::At(second(130))), (3, 130));
}

#[test]
fn a_hole_past_the_newest_point_ends_the_log_and_later_objects_are_only_named() {
    let mut facts = plain();
    facts.epochs[0].log.remove(7);
    let plan = plan(&facts, &Target::Latest).unwrap();
    assert_eq!(plan.last_log, LogSeq(6));
    assert_eq!(plan.newest_log, Some((Epoch(1), LogSeq(9))));
    assert!(matches!(
        refused(&facts, Target::At(second(185))).why,
        Why::Hole { .. }
    ));
}

#[test]
fn after_a_gap_a_new_base_makes_a_new_window() {
    let mut facts = plain();
    facts.epochs[0].log[4] = gap(4);
    facts.epochs[0].bases.push(base(5, 0, 5, 6, 2000));
    facts.epochs[0].points = vec![point(0, 3, 133), point(1, 8, 185)];
    assert_eq!(ends(&facts, Target::Latest), (9, 190));
    assert_eq!(
        ends(&facts, Target::At(second(133))),
        (3, 130),
        "the point says so"
    );
    assert!(matches!(
        refused(&facts, Target::At(second(134))).why,
        Why::Hole { .. }
    ));
    let all = windows(&facts);
    let spans: Vec<_> = all.iter().map(|w| (w.from.seq.0, w.to.seq.0)).collect();
    assert_eq!(spans, [(1, 3), (6, 9)]);
    assert_eq!(all[0].until, second(133));
    assert_eq!(all[1].sealed_to.as_ref().unwrap().seq, LogSeq(8));
}

#[test]
fn pieces_of_a_large_commit_are_no_ends() {
    let mut facts = plain();
    facts.epochs[0].log[6] = piece(6);
    facts.epochs[0].log[7] = piece(7);
    assert_eq!(ends(&facts, Target::At(second(175))), (5, 150));
    let position = Target::Position {
        epoch: Epoch(1),
        seq: LogSeq(6),
    };
    assert_eq!(refused(&facts, position).why, Why::NotAPosition);
}

#[test]
fn a_point_is_found_by_name_or_number_and_ends_where_it_says() {
    let mut facts = plain();
    facts.epochs[0].points[0].name = Some("before-upgrade".to_owned());
    let by_name = Target::Point(PointName::Name("before-upgrade".to_owned()));
    assert_eq!(ends(&facts, by_name), (5, 150));
    assert_eq!(
        ends(
            &facts,
            Target::Point(PointName::At {
                epoch: Epoch(1),
                seq: PointSeq(0)
            })
        ),
        (5, 150)
    );
    let unknown = Target::Point(PointName::Name("x".to_owned()));
    assert_eq!(refused(&facts, unknown).why, Why::Unknown("recovery point"));
}

#[test]
fn an_object_that_straddles_the_instant_makes_the_end_inexact() {
    let mut facts = plain();
    if let LogState::Object(object) = &mut facts.epochs[0].log[4].state {
        object.first_commit = Some(second(131));
    }
    let straddled = plan(&facts, &Target::At(second(135))).unwrap();
    assert_eq!((straddled.last_log, straddled.exact), (LogSeq(3), false));
    assert!(plan(&facts, &Target::At(second(130))).unwrap().exact);
}

#[test]
fn the_base_with_the_fewest_bytes_is_taken_with_its_parents() {
    let mut facts = plain();
    facts.epochs[0].bases.push(base(0, 1, 4, 5, 10));
    let id = |number| BaseId {
        generation: LogSeq(0),
        number: BaseNumber(number),
    };
    let near = plan(&facts, &Target::At(second(190))).unwrap();
    assert_eq!(
        (near.bases, near.first_log),
        (vec![id(0), id(1)], LogSeq(4))
    );
    let far = plan(&facts, &Target::At(second(140))).unwrap();
    assert_eq!((far.bases, far.first_log), (vec![id(0)], LogSeq(0)));
    // A parent that is gone leaves the child useless.
    facts.epochs[0].bases.remove(0);
    assert!(plan(&facts, &Target::At(second(190))).is_err());
}

#[test]
fn replay_never_crosses_an_epoch_or_a_life_of_the_database() {
    let mut facts = plain();
    let mut second_epoch = EpochFacts::new(Epoch(2));
    second_epoch.log = vec![object(0, 300), object(1, 310)];
    facts.epochs.push(second_epoch);
    // The new epoch has no base yet: the latest is still the end of the old one.
    assert_eq!(ends(&facts, Target::Latest), (9, 190));
    assert_eq!(
        refused(&facts, Target::At(second(305))).why,
        Why::NoBase { epoch: Epoch(2) }
    );
    assert_eq!(refused(&facts, Target::At(second(250))).why, Why::TooLate);

    let mut facts = plain();
    for entry in &mut facts.epochs[0].log[7..] {
        if let LogState::Object(object) = &mut entry.state {
            object.incarnation = Incarnation([2; 16]);
        }
    }
    assert_eq!(ends(&facts, Target::Latest), (6, 160));
    assert!(matches!(
        refused(&facts, Target::At(second(180))).why,
        Why::Hole { seq: LogSeq(6), .. } | Why::NoBase { .. }
    ));
}

#[test]
fn a_source_without_a_commit_is_restorable_as_of_its_capture() {
    let mut facts = plain();
    facts.epochs[0].log = vec![piece(0), piece(1)];
    for entry in &mut facts.epochs[0].log {
        if let LogState::Object(object) = &mut entry.state {
            object.restorable = true;
            object.captured_at = second(400);
        }
    }
    facts.epochs[0].points.clear();
    assert_eq!(ends(&facts, Target::Latest), (1, 400));
    assert_eq!(ends(&facts, Target::At(second(400))), (1, 400));
}

/// Objects 0 to 4 of one life, commits up to 140; then 5 to 7 of another that begins with a base of
/// what was committed while nobody looked, and sees no commit of its own.
fn after_a_hole() -> Facts {
    let mut facts = plain();
    let epoch = &mut facts.epochs[0];
    for (entry, captured) in epoch.log[5..8].iter_mut().zip([300, 301, 302]) {
        if let LogState::Object(object) = &mut entry.state {
            object.incarnation = Incarnation([2; 16]);
            (object.first_commit, object.last_commit) = (None, None);
            object.captured_at = second(captured);
        }
    }
    epoch.log.truncate(8);
    let mut second_base = base(5, 0, 5, 6, 1000);
    second_base.incarnation = Incarnation([2; 16]);
    epoch.bases.push(second_base);
    epoch.points.clear();
    facts
}

#[test]
fn a_new_life_stands_for_no_instant_before_it_was_captured() {
    let facts = after_a_hole();
    // What was committed in between is in its base: an instant in the hole is neither its nor the old one's.
    assert!(matches!(
        refused(&facts, Target::At(second(250))).why,
        Why::Hole { .. }
    ));
    assert!(matches!(
        refused(&facts, Target::Before(second(299))).why,
        Why::Hole { .. }
    ));
    assert_eq!(ends(&facts, Target::At(second(140))), (4, 140));
    let (seq, at) = ends(&facts, Target::Latest);
    assert!(seq >= 6 && at >= 300, "{seq} {at}");
    assert_eq!(windows(&facts)[1].from.at, second(301));
}

#[test]
fn commits_that_a_new_life_repeats_do_not_make_it_stand_for_their_instants() {
    // A server was set back to an earlier instant: the new life's log begins with commits of before it.
    let mut facts = after_a_hole();
    for entry in &mut facts.epochs[0].log[5..8] {
        if let LogState::Object(object) = &mut entry.state {
            (object.first_commit, object.last_commit) = (Some(second(110)), Some(second(120)));
        }
    }
    assert_eq!(ends(&facts, Target::At(second(140))), (4, 140));
    assert!(matches!(
        refused(&facts, Target::At(second(250))).why,
        Why::Hole { .. }
    ));
    assert_eq!(windows(&facts)[1].from.at, second(300));
}

// ---- random histories ----

#[derive(Debug, Clone)]
struct Slot {
    kind: u8,
    wait: i64,
    span: i64,
}

fn slots() -> impl Strategy<Value = Vec<Slot>> {
    let slot = (0..20_u8, 0..20_i64, 0..5_i64);
    let slot = slot.prop_map(|(kind, wait, span)| Slot { kind, wait, span });
    prop::collection::vec(slot, 1..24)
}

/// A log with a clock that goes on: gaps, missing places, pieces and objects.
fn laid_out(slots: &[Slot], now: &mut i64) -> Vec<LogFact> {
    let mut log = Vec::new();
    for (seq, slot) in (0..).zip(slots) {
        let first = *now + slot.wait + 1;
        *now = first + slot.span;
        log.extend(match slot.kind {
            0 => Some(gap(seq)),
            1 => None,
            2 | 3 => Some(piece(seq)),
            _ => Some(spanning(seq, first, *now)),
        });
    }
    log
}

fn spanning(seq: u64, first: i64, last: i64) -> LogFact {
    let mut entry = object(seq, last);
    if let LogState::Object(object) = &mut entry.state {
        object.first_commit = Some(second(first));
    }
    entry
}

fn history() -> impl Strategy<Value = Facts> {
    let epoch = (
        slots(),
        prop::collection::vec((0..24_u64, 0..4_u64, 0..5000_u64), 0..4),
        prop::collection::vec((0..24_u64, 0..30_i64), 0..3),
    );
    (
        prop::collection::vec(epoch, 1..3),
        prop::option::of((0..24_u64, 0..60_i64)),
    )
        .prop_map(|(epochs, beat)| {
            let mut now = 1000_i64;
            let mut facts = Facts::default();
            for (slots, bases, points) in epochs {
                let number = u32::try_from(facts.epochs.len()).unwrap() + 1;
                let mut epoch = EpochFacts::new(Epoch(number));
                epoch.log = laid_out(&slots, &mut now);
                for (generation, (start, delay, bytes)) in (0..).zip(bases) {
                    epoch
                        .bases
                        .push(base(generation, 0, start, start + delay, bytes));
                }
                // Honest points only: what was committed by then is in the log up to there.
                for (seq, (log_seq, slack)) in (0..).zip(points) {
                    if let Some(committed) = honest(&epoch.log, log_seq, slack) {
                        epoch.points.push(point(seq, log_seq, committed));
                    }
                }
                epoch.points.sort_by_key(|point| point.log_seq);
                facts.epochs.push(epoch);
                now += 100; // a new writer starts after what the old one promised
            }
            let last = facts.epochs.last().unwrap();
            facts.caught_up = beat.and_then(|(log_seq, slack)| {
                let at = honest(&last.log, log_seq, slack)?;
                Some(CaughtUp {
                    log_seq: LogSeq(log_seq),
                    at: second(at),
                })
            });
            facts
        })
}

/// An instant up to which an honest agent could say that everything is in the log up to `seq`.
fn honest(log: &[LogFact], seq: u64, slack: i64) -> Option<i64> {
    let times = |entry: &LogFact| match &entry.state {
        LogState::Object(object) => object.last_commit.zip(object.first_commit),
        _ => None,
    };
    let reached = log
        .iter()
        .filter(|e| e.seq.0 <= seq)
        .filter_map(times)
        .next_back()?
        .0
        .as_second();
    let next = log
        .iter()
        .filter(|e| e.seq.0 > seq)
        .find_map(times)
        .map(|(_, first)| first.as_second());
    Some(next.map_or(reached + slack, |next| {
        (reached + slack).min(next - 1).max(reached)
    }))
}

/// Plainly: is every object from some base's start to `seq` there, and the base usable by then?
fn restorable(epoch: &EpochFacts, seq: LogSeq) -> bool {
    let is_object = |seq: u64| {
        let mut found = epoch.log.iter().filter(|entry| entry.seq.0 == seq);
        found
            .next()
            .is_some_and(|entry| matches!(entry.state, LogState::Object(_)))
    };
    epoch.bases.iter().any(|base| {
        base.usable_from <= seq && base.start <= seq && (base.start.0..=seq.0).all(is_object)
    })
}

/// The restore positions with their times, in order.
fn positions(epoch: &EpochFacts) -> Vec<(LogSeq, Timestamp)> {
    let mut time: Option<Timestamp> = None;
    let mut all = Vec::new();
    for entry in &epoch.log {
        let LogState::Object(object) = &entry.state else {
            continue;
        };
        let captured = time.is_none().then_some(object.captured_at);
        let own = object.last_commit.or(captured);
        time = time.max(own);
        if object.restorable {
            all.push((entry.seq, time.unwrap()));
        }
    }
    all
}

proptest! {
    #[test]
    fn the_end_is_the_largest_position_in_time_and_never_less_than_asked(
        facts in history(),
        at in 990..1700_i64,
        before: bool,
    ) {
        let at = second(at);
        let target = if before { Target::Before(at) } else { Target::At(at) };
        let in_time = |time: Timestamp| if before { time < at } else { time <= at };
        let candidates = facts.epochs.iter().flat_map(|epoch| {
            positions(epoch).into_iter().filter(|(_, time)| in_time(*time)).map(move |(seq, time)| (epoch, seq, time))
        });
        let wanted = candidates.last();
        match plan(&facts, &target) {
            Ok(plan) => {
                let (epoch, seq, time) = wanted.unwrap();
                prop_assert_eq!((plan.epoch, plan.last_log, plan.reached), (epoch.epoch, seq, time));
                prop_assert!(restorable(epoch, seq));
                // Nothing unknown right behind the end, unless something says that it is later.
                let said = epoch.points.iter().any(|p| p.committed >= at && p.log_seq <= seq)
                    || facts.caught_up.is_some_and(|b| b.at >= at && b.log_seq <= seq);
                let next = epoch.log.iter().find(|entry| entry.seq == seq.next());
                let known = next.is_some_and(|entry| matches!(entry.state, LogState::Object(_)));
                prop_assert!(said || known || time == at);
                // The plan itself is whole: parents first, log without a hole, bytes summed.
                prop_assert!(plan.first_log <= plan.last_log);
                prop_assert_eq!(plan.log_bytes, plan.log_objects() * 100);
            }
            Err(error) => {
                if let Some((epoch, seq, time)) = wanted {
                    let covered = facts.epochs.last().is_some_and(|last| last.epoch == epoch.epoch)
                        && facts.caught_up.is_some_and(|b| b.at >= at && b.log_seq <= seq);
                    let same = !before && time == at;
                    prop_assert!(!restorable(epoch, seq) || !(covered || same), "{}", error);
                }
            }
        }
    }

    #[test]
    fn every_instant_of_a_window_can_be_restored_and_the_nearest_named_can_too(
        facts in history(),
        part in 0..=100_i32,
    ) {
        for window in windows(&facts) {
            let span = window.until.duration_since(window.from.at);
            let at = window.from.at.checked_add(span * part / 100).unwrap();
            let in_window = plan(&facts, &Target::At(at));
            prop_assert!(in_window.is_ok(), "{:?} {}", window, in_window.unwrap_err());
        }
        for at in [second(990), second(1100), second(2000)] {
            let Err(error) = plan(&facts, &Target::At(at)) else { continue };
            for reach in [error.before, error.after, error.earliest, error.latest].into_iter().flatten() {
                let target = Target::Position { epoch: reach.epoch, seq: reach.seq };
                let planned = plan(&facts, &target).unwrap();
                prop_assert_eq!(planned.reached, reach.at);
            }
        }
    }

    #[test]
    fn latest_is_never_older_than_what_a_recovery_point_promises(facts in history()) {
        let sealed = facts.epochs.iter().rev().find_map(|e| Some((e.epoch, e.points.last()?.log_seq)));
        if let Ok(plan) = plan(&facts, &Target::Latest) {
            let epoch = facts.epochs.iter().find(|epoch| epoch.epoch == plan.epoch).unwrap();
            prop_assert!(restorable(epoch, plan.last_log));
            if let Some((sealed_epoch, sealed_seq)) = sealed {
                prop_assert!(plan.epoch >= sealed_epoch);
                let between = epoch.log.iter().filter(|entry| {
                    plan.epoch == sealed_epoch && entry.seq > plan.last_log && entry.seq <= sealed_seq
                });
                for entry in between {
                    // Only pieces of a change that never ended.
                    let position = matches!(&entry.state, LogState::Object(object) if !object.restorable);
                    prop_assert!(position);
                }
            }
        }
    }

    #[test]
    fn the_base_taken_is_the_cheapest_that_would_do(facts in history()) {
        let Ok(plan) = plan(&facts, &Target::Latest) else { return Ok(()) };
        let epoch = facts.epochs.iter().find(|epoch| epoch.epoch == plan.epoch).unwrap();
        for base in &epoch.bases {
            let mut only = epoch.clone();
            only.bases = vec![base.clone()];
            if base.usable_from <= plan.last_log && restorable(&only, plan.last_log) {
                let log = (plan.last_log.0 - base.start.0 + 1) * 100;
                prop_assert!(plan.bytes() <= base.stored_bytes + log);
            }
        }
    }
}

#[test]
fn a_refusal_names_the_latest_instant_and_its_reason() {
    let facts = plain();
    let late = second(190)
        .checked_add(SignedDuration::from_secs(60))
        .unwrap();
    let error = refused(&facts, Target::Before(late));
    assert!(
        error
            .to_string()
            .contains("the latest instant that can be restored is"),
        "{error}"
    );
    assert!(std::error::Error::source(&error).is_some());
}
