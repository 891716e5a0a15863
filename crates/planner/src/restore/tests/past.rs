//! What stands past the end, what is damaged there, and what an identity can't open.

use super::*;

fn damaged(why: &str, vouched: Option<Voucher>) -> LogState {
    LogState::Damaged(Damage {
        why: why.to_owned(),
        vouched,
    })
}

/// The same for an identity that can't open the object at `seq`.
fn close(facts: &mut Facts, seq: usize) {
    let entry = &mut facts.epochs[0].log[seq];
    *entry = entry.clone().closed();
}

/// What stands past the end that `latest` reaches.
fn past_latest(facts: &Facts) -> Option<Beyond> {
    let latest = plan(facts, &Target::Latest).unwrap();
    beyond(facts, (latest.epoch, latest.last_log))
}

#[test]
fn past_the_last_state_stands_what_has_no_base_here() {
    let mut facts = plain();
    assert_eq!(past_latest(&facts), None);

    // A gap, and a generation behind it whose base is elsewhere.
    facts.epochs[0].log[7] = gap(7);
    let found = past_latest(&facts).unwrap();
    assert_eq!(
        (found.first, found.last),
        ((Epoch(1), LogSeq(7)), (Epoch(1), LogSeq(9)))
    );
    assert_eq!(
        (found.objects, found.from, found.to),
        (2, Some(second(180)), Some(second(190)))
    );
    assert!(found.why.to_string().contains("log:1:7 is a gap"));
    assert_eq!(found.to_string(), "log:1:7 to log:1:9");

    // With the base everything is reached.
    facts.epochs[0].bases.push(base(8, 0, 8, 9, 1000));
    assert_eq!(past_latest(&facts), None);
}

#[test]
fn past_the_last_state_stands_what_a_hole_or_damage_cuts_off() {
    let mut facts = plain();
    facts.epochs[0].log.remove(8);
    let found = past_latest(&facts).unwrap();
    assert_eq!((found.first.1, found.objects), (LogSeq(9), 1));
    assert!(found.why.to_string().contains("log:1:8 is missing"));

    let mut facts = plain();
    facts.epochs[0].log[8].state = damaged("bit rot", None);
    let found = past_latest(&facts).unwrap();
    assert_eq!((found.first.1, found.from), (LogSeq(8), Some(second(190))));
    assert_eq!((found.objects, found.damaged), (1, 1));
    // A place without anything is no log.
    facts.epochs[0].log[9].state = LogState::Missing;
    facts.epochs[0].log[8].state = LogState::Missing;
    assert_eq!(past_latest(&facts), None);
}

#[test]
fn a_damaged_last_object_is_told_and_is_a_refusal_if_something_says_that_it_was_one() {
    let mut facts = plain();
    facts.epochs[0].log[9].state = damaged("bit rot, or a stranger's", None);
    assert_eq!(ends(&facts, Target::Latest).0, 8);
    let found = past_latest(&facts).unwrap();
    assert_eq!(
        (found.first.1, found.objects, found.damaged),
        (LogSeq(9), 0, 1)
    );
    assert!(found.why.to_string().contains("a stranger's"));
    for by in [
        Voucher::ItsHead,
        Voucher::Base,
        Voucher::Beat,
        Voucher::Regions,
    ] {
        facts.epochs[0].log[9].state = damaged("bit rot", Some(by));
        let refused = refused(&facts, Target::Latest);
        assert!(
            refused.why.to_string().contains(&by.to_string()),
            "{refused}"
        );
        assert_eq!(refused.before.unwrap().seq, LogSeq(8));
        // What was committed before it is as good as ever.
        assert_eq!(ends(&facts, Target::At(second(175))).0, 7);
    }
}

#[test]
fn a_base_that_does_not_open_is_gone_round_by_a_dearer_one() {
    let mut facts = plain();
    facts.epochs[0].bases.push(base(3, 0, 3, 4, 9000));
    let chosen = |facts: &Facts| plan(facts, &Target::Latest).unwrap().bases[0].generation.0;
    assert_eq!(chosen(&facts), 0);
    facts.epochs[0].bases[0].opens = false;
    close(&mut facts, 0);
    assert_eq!(chosen(&facts), 3);
    // A parent that doesn't open closes what builds on it.
    facts.epochs[0].bases.push(base(0, 1, 5, 6, 10));
    assert_eq!(chosen(&facts), 3);
}

#[test]
fn what_an_identity_does_not_open_is_refused_with_the_earliest_instant_that_it_opens() {
    let mut facts = plain();
    facts.epochs[0].bases.push(base(3, 0, 3, 4, 9000));
    facts.epochs[0].bases[0].opens = false;
    for seq in 0..3 {
        close(&mut facts, seq);
    }
    let early = [
        Target::At(second(125)),
        Target::Before(second(130)),
        Target::Position {
            epoch: Epoch(1),
            seq: LogSeq(2),
        },
    ];
    for target in early {
        let refused = refused(&facts, target);
        assert_eq!(
            refused.why,
            Why::Closed {
                epoch: Epoch(1),
                seq: LogSeq(2)
            }
        );
        assert_eq!(refused.earliest.as_ref().unwrap().seq, LogSeq(4));
        assert!(refused.to_string().contains("log:1:4"), "{refused}");
    }
    // Before everything there is nothing for anybody.
    assert_eq!(refused(&facts, Target::At(second(90))).why, Why::TooEarly);
    // Nothing newer opens: so far as it does, and what is past it is told.
    close(&mut facts, 9);
    assert_eq!(ends(&facts, Target::Latest).0, 8);
    assert_eq!(past_latest(&facts).unwrap().objects, 1);
    close(&mut facts, 5);
    let refused = refused(&facts, Target::Latest);
    assert!(matches!(refused.why, Why::Closed { .. }), "{refused}");
}

#[test]
fn past_the_last_state_stand_a_later_epoch_and_no_pieces_of_an_unfinished_change() {
    let mut facts = plain();
    facts.epochs[0].log.push(piece(10));
    assert_eq!(past_latest(&facts), None);
    let mut next = EpochFacts::new(Epoch(2));
    next.log = vec![object(0, 300)];
    facts.epochs.push(next);
    let found = past_latest(&facts).unwrap();
    assert_eq!(
        (found.first, found.why),
        ((Epoch(2), LogSeq(0)), Why::NoBase { epoch: Epoch(2) })
    );
}
