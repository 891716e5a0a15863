//! A server's log: targets inside objects, and places that only the log itself knows.

use serde_json::json;
use tidemark_format::postgres::TimelineId;

use super::*;

/// Facts of the `n`th object of [`served`]: a kilobyte of log, a record in its last quarter.
fn part(n: u64, from: u64) -> ServerLog {
    let start = from + n * 0x1000;
    ServerLog {
        timeline: Some(TimelineId(1)),
        start: Some(Lsn(start)),
        end: Some(Lsn(start + 0x1000)),
        last_record: Some(Lsn(start + 0xC00)),
        xids: Some((
            u32::try_from(10 * n).unwrap(),
            u32::try_from(10 * n + 9).unwrap(),
        )),
        points: Vec::new(),
    }
}

fn tell(epoch: &mut EpochFacts, seq: u64, server: ServerLog) {
    let told = Told {
        transactions: 3,
        complete_until: None,
        server: Some(server),
    };
    epoch.told.insert(LogSeq(seq), told);
}

/// As [`plain`], of a server: object n holds commits from 101 + 10 n to 110 + 10 n.
fn served() -> Facts {
    let mut facts = plain();
    let epoch = &mut facts.epochs[0];
    epoch.divisible = true;
    for n in 0..10 {
        let at = 100 + 10 * i64::try_from(n).unwrap();
        epoch.log[usize::try_from(n).unwrap()] = spanning(n, at + 1, at + 10);
        tell(epoch, n, part(n, 0x300_0000));
    }
    epoch.points = vec![point(0, 5, 160)];
    facts
}

fn lsn(at: u64) -> Target {
    Target::Mark(Mark::Lsn(Lsn(at), Bound::Included))
}

fn xid(xid: u32) -> Target {
    Target::Mark(Mark::Xid(xid, Bound::Included))
}

fn named(name: &str) -> Target {
    Target::Mark(Mark::Name(name.to_owned()))
}

#[test]
fn a_time_needs_the_object_that_passes_it_and_ends_inside() {
    let facts = served();
    let plan = plan(&facts, &Target::At(second(134))).unwrap();
    assert_eq!(plan.last_log, LogSeq(3));
    assert_eq!(plan.stop, Stop::Time(second(134), Bound::Included));
    assert_eq!(
        (plan.proof, plan.exact),
        (Proof::LaterObject(LogSeq(3)), true)
    );
    assert_eq!(
        plan.reached,
        second(131),
        "known without reading the object"
    );
}

#[test]
fn the_last_commit_of_an_object_may_have_others_at_its_instant_behind_it() {
    let facts = served();
    let to = plan(&facts, &Target::At(second(130))).unwrap();
    assert_eq!(to.last_log, LogSeq(3));
    let before = plan(&facts, &Target::Before(second(130))).unwrap();
    assert_eq!(
        before.last_log,
        LogSeq(2),
        "it holds the commit that must not be there"
    );
    assert_eq!(before.stop, Stop::Time(second(130), Bound::Excluded));
}

#[test]
fn an_instant_past_the_last_commit_of_an_idle_server_ends_at_the_logs_end() {
    let mut facts = served();
    let late = Target::At(second(207));
    let refusal = refused(&facts, late.clone());
    assert_eq!(refusal.why, Why::TooLate);
    facts.caught_up = Some(CaughtUp {
        log_seq: LogSeq(9),
        at: second(300),
    });
    let by_beat = plan(&facts, &late).unwrap();
    assert_eq!((by_beat.last_log, &by_beat.stop), (LogSeq(9), &Stop::End));
    let refusal = refused(&facts, Target::At(second(301)));
    assert!(
        refusal.to_string().contains("up to 1970-01-01T00:05:00Z"),
        "{refusal}"
    );

    facts.caught_up = None;
    facts.epochs[0]
        .told
        .get_mut(&LogSeq(9))
        .unwrap()
        .complete_until = Some(second(207));
    let by_object = plan(&facts, &late).unwrap();
    assert_eq!(
        (by_object.proof, by_object.stop),
        (Proof::Object, Stop::End)
    );
    assert_eq!(windows(&facts)[0].until, second(207));
}

#[test]
fn a_base_that_may_come_too_late_is_taken_only_without_another() {
    let mut facts = served();
    facts.epochs[0].bases.push(base(0, 1, 3, 4, 1));
    let numbers = |target: i64| {
        let plan = plan(&facts, &Target::At(second(target))).unwrap();
        plan.bases.iter().map(|id| id.number.0).collect::<Vec<_>>()
    };
    assert_eq!(
        numbers(145),
        [0],
        "log object 4 makes the new one usable, perhaps behind the instant"
    );
    assert_eq!(numbers(155), [0, 1]);
    let early = plan(&served(), &Target::At(second(115))).unwrap();
    assert_eq!(
        early.last_log,
        LogSeq(1),
        "the engine says whether it is before the base"
    );
    assert_eq!(
        refused(&served(), Target::At(second(105))).why,
        Why::NoBase { epoch: Epoch(1) }
    );
    assert_eq!(
        refused(&served(), Target::At(second(99))).why,
        Why::TooEarly
    );
}

#[test]
fn a_position_is_found_in_the_object_whose_records_reach_it() {
    let facts = served();
    let ends = |at: u64| plan(&facts, &lsn(at)).map(|plan| plan.last_log.0);
    assert_eq!(ends(0x300_4000), Ok(4));
    assert_eq!(ends(0x300_4BFF), Ok(4));
    assert_eq!(
        ends(0x300_4C00),
        Ok(5),
        "the record that starts there ends in it"
    );
    assert_eq!(ends(0x300_A000), Ok(9), "the very end of the chain");
    assert_eq!(refused(&facts, lsn(0x300_A001)).why, Why::TooLate);
    let early = refused(&facts, lsn(0x200_0000));
    assert_eq!((&early.why, &early.before), (&Why::TooEarly, &None));
    assert_eq!(early.after, early.earliest, "the nearest is the earliest");
    let plan = plan(&facts, &lsn(0x300_4000)).unwrap();
    assert_eq!(plan.stop, Stop::Lsn(Lsn(0x300_4000), Bound::Included));
}

#[test]
fn a_transaction_is_looked_for_wherever_it_may_be() {
    let mut facts = served();
    assert_eq!(plan(&facts, &xid(57)).unwrap().last_log, LogSeq(5));
    // Ids are given early and committed late: it may be in either.
    facts.epochs[0]
        .told
        .get_mut(&LogSeq(7))
        .unwrap()
        .server
        .as_mut()
        .unwrap()
        .xids = Some((50, 79));
    assert_eq!(plan(&facts, &xid(57)).unwrap().last_log, LogSeq(7));
    assert_eq!(refused(&facts, xid(4711)).why, Why::Unknown("transaction"));
    // A head that says nothing may be the one.
    facts.epochs[0].told.remove(&LogSeq(8));
    assert_eq!(plan(&facts, &xid(4711)).unwrap().last_log, LogSeq(8));
}

#[test]
fn of_points_named_on_the_server_the_newest_of_a_name_is_taken_from_a_base_behind_the_others() {
    let mut facts = served();
    let name = |facts: &mut Facts, seq: u64| {
        let told = facts.epochs[0].told.get_mut(&LogSeq(seq)).unwrap();
        told.server.as_mut().unwrap().points = vec!["v2".to_owned()];
    };
    name(&mut facts, 3);
    let one = plan(&facts, &named("v2")).unwrap();
    assert_eq!(
        (one.last_log, one.stop),
        (LogSeq(3), Stop::Name("v2".to_owned()))
    );
    name(&mut facts, 8);
    assert!(
        plan(&facts, &named("v2")).is_err(),
        "replay from the only base would end at the first"
    );
    facts.epochs[0].bases.push(base(0, 1, 5, 6, 1));
    let newest = plan(&facts, &named("v2")).unwrap();
    assert_eq!((newest.last_log, newest.first_log), (LogSeq(8), LogSeq(5)));
    assert!(matches!(refused(&facts, named("v3")).why, Why::Unknown(_)));
}

#[test]
fn a_position_of_an_earlier_life_is_refused_with_its_window() {
    let mut facts = served();
    for n in 6..10 {
        let entry = &mut facts.epochs[0].log[n];
        if let LogState::Object(object) = &mut entry.state {
            object.incarnation = Incarnation([2; 16]);
        }
        let n = u64::try_from(n).unwrap();
        tell(&mut facts.epochs[0], n, part(n, 0x900_0000));
    }
    facts.epochs[0].bases.push(base(6, 0, 6, 7, 1));
    facts.epochs[0].bases[1].incarnation = Incarnation([2; 16]);
    assert_eq!(plan(&facts, &lsn(0x900_8000)).unwrap().last_log, LogSeq(8));
    let refusal = refused(&facts, lsn(0x300_3000));
    assert!(matches!(refusal.why, Why::OtherLife { .. }), "{refusal:?}");
    let window = &windows(&facts)[0];
    assert!(
        refusal
            .to_string()
            .contains(&format!("from {} to {}", window.from, window.to)),
        "{refusal}"
    );
    assert_eq!((refusal.before, refusal.after), (None, None));
}

#[test]
fn lives_that_overlap_after_a_split_brain_are_told_apart_by_their_windows() {
    let mut facts = served();
    // GIVEN a second life from object 6 on, which repeats log and numbers from object 3 on, and whose base
    // is usable from object 8 on
    for n in 6..10 {
        let entry = &mut facts.epochs[0].log[n];
        if let LogState::Object(object) = &mut entry.state {
            object.incarnation = Incarnation([2; 16]);
        }
        let n = u64::try_from(n).unwrap();
        let again = ServerLog {
            timeline: Some(TimelineId(2)),
            ..part(n - 3, 0x300_0000)
        };
        tell(&mut facts.epochs[0], n, again);
    }
    facts.epochs[0].bases.push(base(6, 0, 6, 8, 1));
    facts.epochs[0].bases[1].incarnation = Incarnation([2; 16]);
    let all = windows(&facts);
    let words = |window: &RecoverableWindow| format!("from {} to {}", window.from, window.to);
    // THEN what both have is the newest life's
    assert_eq!(plan(&facts, &lsn(0x300_5800)).unwrap().last_log, LogSeq(8));
    assert_eq!(plan(&facts, &xid(57)).unwrap().last_log, LogSeq(8));
    // AND what the newest has only before its base, the window of the other one has
    for target in [lsn(0x300_3800), xid(37)] {
        let refusal = refused(&facts, target);
        assert!(matches!(refusal.why, Why::OtherLife { .. }), "{refusal:?}");
        let said = refusal.to_string();
        assert!(said.contains(&words(&all[0])), "{said}");
        assert!(!said.contains(&words(&all[1])), "{said}");
    }
    // AND where the other one can't be restored either, the newest says why
    facts.epochs[0].bases.remove(0);
    let refusal = refused(&facts, xid(37));
    assert!(!matches!(refusal.why, Why::OtherLife { .. }), "{refusal:?}");
}

#[test]
fn a_hole_of_the_same_life_hides_no_position_before_it() {
    let mut facts = served();
    facts.epochs[0].log[6] = gap(6);
    facts.epochs[0].told.remove(&LogSeq(6));
    facts.epochs[0].bases.push(base(7, 0, 7, 8, 1));
    assert_eq!(plan(&facts, &lsn(0x300_3000)).unwrap().last_log, LogSeq(3));
    assert_eq!(plan(&facts, &lsn(0x300_9000)).unwrap().last_log, LogSeq(9));
}

#[test]
fn facts_that_say_less_than_expected_say_nothing() {
    let facts = |value| std::iter::once(("postgres".to_owned(), value)).collect();
    let full = json!({
        "timeline": 2, "start": "0/3000000", "end": "0/3001000", "last_record": "0/3000C00",
        "xids": [7, 9], "points": ["a", "b"], "later": {"x": 1},
    });
    let read = ServerLog::read(&facts(full)).unwrap();
    assert_eq!(read.xids, Some((7, 9)));
    assert_eq!(read.points, ["a", "b"]);
    assert_eq!(
        read.place().unwrap().to_string(),
        "LSN 0/3001000 on timeline 2"
    );
    let odd = json!({"timeline": -1, "start": 7, "end": "x", "xids": [1], "points": 3});
    assert_eq!(ServerLog::read(&facts(odd)), Some(ServerLog::default()));
    assert_eq!(ServerLog::read(&facts(json!("text"))), None);
}

#[test]
fn a_base_that_saves_replay_is_worth_more_bytes() {
    let mut facts = served();
    // Ten objects of 100 bytes as stored, of 4 KiB each as replayed.
    let bases = |bytes| vec![base(0, 0, 0, 1, 1000), base(0, 1, 6, 7, bytes)];
    facts.epochs[0].bases = bases(600 + 6 * 0x1000 - 1);
    let plan_now = plan(&facts, &Target::Latest).unwrap();
    assert_eq!(plan_now.first_log, LogSeq(6));
    assert_eq!((plan_now.log_bytes, plan_now.replay_bytes), (400, 0x4000));
    facts.epochs[0].bases = bases(600 + 6 * 0x1000 + 1);
    let plan_now = plan(&facts, &Target::Latest).unwrap();
    assert_eq!(plan_now.first_log, LogSeq(0));
    assert_eq!(plan_now.replay_bytes, 0xA000);
}

#[test]
fn heads_that_are_known_stand_for_the_others() {
    let mut facts = served();
    let epoch = &mut facts.epochs[0];
    let number = epoch.epoch;
    epoch.told.retain(|seq, _told| seq.0 >= 8);
    assert_eq!(replay_bytes(&facts, number, LogSeq(0), LogSeq(9)), 0xA000);
    facts.epochs[0].told.clear();
    assert_eq!(replay_bytes(&facts, number, LogSeq(0), LogSeq(9)), 1000);
}
