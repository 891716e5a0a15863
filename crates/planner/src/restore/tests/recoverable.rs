//! What can be restored as people are shown it: windows, and what is between them.

use super::*;

/// The same object in another life of the database.
fn in_life(life: u8, mut entry: LogFact) -> LogFact {
    if let LogState::Object(fact) = &mut entry.state {
        fact.incarnation = Incarnation([life; 16]);
    }
    entry
}

/// A base of another life.
fn base_of(life: u8, base: BaseFact) -> BaseFact {
    BaseFact {
        incarnation: Incarnation([life; 16]),
        ..base
    }
}

/// Objects 0 to 4 of a first life, 5 to 9 of a second, whose base is usable from 7.
fn two_lives() -> Facts {
    let mut facts = plain();
    let epoch = &mut facts.epochs[0];
    for entry in &mut epoch.log[5..] {
        *entry = in_life(2, entry.clone());
    }
    epoch.points = vec![point(0, 3, 130)];
    epoch.bases.push(base_of(2, base(5, 0, 5, 7, 1000)));
    facts
}

#[test]
fn one_life_is_one_window_without_a_hole() {
    let all = recoverable(&plain());
    assert_eq!((all.windows.len(), all.holes.len()), (1, 0));
    assert_eq!(all.earliest(), Some(second(110)));
    assert_eq!(all.through(), Some(second(190)));
    assert_eq!(recoverable(&Facts::default()), Recoverable::default());
}

#[test]
fn two_lives_are_two_windows_and_the_hole_between_them_is_named() {
    let facts = two_lives();
    let all = recoverable(&facts);
    assert_eq!(all.windows.len(), 2);
    let [hole] = &all.holes[..] else {
        panic!("{all:?}")
    };
    assert_eq!((hole.from, hole.to()), (second(140), second(170)));
    assert_eq!(
        hole.why,
        HoleWhy::OtherLife {
            epoch: Epoch(1),
            seq: LogSeq(5)
        }
    );
    assert_eq!(all.through(), Some(second(190)));
    // What is called a hole is refused, and what is called a window is not.
    assert_eq!(ends(&facts, Target::At(second(140))).0, 4);
    assert!(plan(&facts, &Target::At(second(155))).is_err());
    assert_eq!(ends(&facts, Target::At(second(170))).0, 7);
}

#[test]
fn a_gap_says_why_and_what_was_proved_before_it_is_no_part_of_the_hole() {
    let mut facts = plain();
    let epoch = &mut facts.epochs[0];
    epoch.log[6] = gap(6);
    epoch.bases.push(base(7, 0, 7, 8, 1000));
    let all = recoverable(&facts);
    let [hole] = &all.holes[..] else {
        panic!("{all:?}")
    };
    // The point at 5 proves that nothing else was committed up to 155, and 6 would have come at 160.
    assert_eq!(
        (hole.from, hole.to()),
        (second(155).max(second(150)), second(180))
    );
    assert!(
        hole.why
            .to_string()
            .contains("log:1:6 is a gap (spool was full)"),
        "{}",
        hole.why
    );
}

#[test]
fn a_take_over_that_missed_nothing_leaves_no_hole_and_one_that_missed_something_is_no_news() {
    let mut facts = plain();
    let mut next = EpochFacts::new(Epoch(2));
    next.log = vec![object(0, 300), object(1, 310)];
    next.bases = vec![base(0, 0, 0, 0, 1000)];
    facts.epochs.push(next);
    let all = recoverable(&facts);
    let [hole] = &all.holes[..] else {
        panic!("{all:?}")
    };
    assert_eq!(hole.why, HoleWhy::TakeOver { epoch: Epoch(2) });
    assert!(!hole.is_news(second(301)));
    facts.epochs[0].points.push(point(1, 9, 300));
    assert_eq!(recoverable(&facts).holes, []);
}

#[test]
fn a_hole_is_news_for_a_while_and_stays_a_fact() {
    let all = recoverable(&two_lives());
    let day = HOLE_IS_NEWS.as_secs();
    assert_eq!(all.news(second(200)).count(), 1);
    assert_eq!(all.news(second(170 + day)).count(), 0);
    assert_eq!(all.holes.len(), 1);
}

#[test]
fn a_life_without_a_base_yet_is_beyond_and_no_window() {
    let mut facts = two_lives();
    facts.epochs[0].bases.pop();
    let all = recoverable(&facts);
    assert_eq!((all.windows.len(), all.holes.len()), (1, 0));
    assert_eq!(all.through(), Some(second(140)));
    assert_eq!(all.beyond.map(|past| past.first.1), Some(LogSeq(5)));
}
