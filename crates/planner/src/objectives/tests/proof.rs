//! What drills prove.

use super::*;

const YEAR: Duration = Duration::from_secs(366 * 86_400);

fn monthly() -> Rule {
    Rule::Drill {
        every: Every::Month,
        over: YEAR,
        scenario: false,
        signed_off: false,
    }
}

fn yearly(scenario: bool, signed_off: bool) -> Rule {
    Rule::Drill {
        every: Every::Time(YEAR),
        over: YEAR * 2,
        scenario,
        signed_off,
    }
}

#[test]
fn time_to_be_back_passes_by_the_newest_drill_and_fails_by_its_projection() {
    let rule = Rule::Rto {
        within: DAY,
        over: YEAR,
    };
    let mut facts = good();
    judged(
        &rule,
        &facts,
        Verdict::NotProved,
        &["no drill", "drill run"],
    );
    facts.drills.push(drill("d1", DAY * 3));
    judged(
        &rule,
        &facts,
        Verdict::Pass,
        &[
            "back in 20 min",
            "1 h for the full size",
            "at most 1 d",
            "d1",
        ],
    );
    // What was not tried itself is not called measured.
    assert_eq!(judge(&rule, &facts).basis, Basis::Projected);
    facts.drills[0].rto_projected = Some(MINUTE * 20);
    assert_eq!(judge(&rule, &facts).basis, Basis::Measured);
    facts.drills[0].rto_projected = Some(DAY + HOUR);
    judged(&rule, &facts, Verdict::Fail, &["1 d 1 h for the full size"]);
    let mut failed = drill("d2", DAY);
    failed.verdict = DrillVerdict::Fail;
    failed.because = "a page is wrong".to_owned();
    facts.drills.push(failed);
    judged(
        &rule,
        &facts,
        Verdict::Fail,
        &["failed: a page is wrong", "evidence show d2"],
    );
    facts.drills[1].verdict = DrillVerdict::Inconclusive;
    facts.drills[0].rto_projected = None;
    judged(&rule, &facts, Verdict::Pass, &["d1"]);
}

#[test]
fn a_time_to_be_back_and_a_return_on_the_sources_own_host_are_called_that() {
    let rto = Rule::Rto {
        within: DAY,
        over: YEAR,
    };
    let back = Rule::ReturnOfData { over: YEAR };
    let mut facts = good();
    facts.drills.push(drill("d1", DAY));
    for rule in [&rto, &back] {
        let apart = judged(rule, &facts, Verdict::Pass, &[]);
        assert!(!apart.measured.contains("own host"), "{apart:?}");
    }
    facts.drills[0].segregated = false;
    judged(
        &rto,
        &facts,
        Verdict::Pass,
        &[
            "2026-11-21 on the source's own host",
            "another host",
            "is not shown",
        ],
    );
    judged(
        &back,
        &facts,
        Verdict::Pass,
        &["2026-11-21 on the source's own host"],
    );
    facts.drills[0].verdict = DrillVerdict::Fail;
    judged(&rto, &facts, Verdict::Fail, &["own host) failed"]);
    judged(&back, &facts, Verdict::Fail, &["own host, failed"]);
}

#[test]
fn drills_by_signers_that_nobody_vouched_for_are_counted_among_what_does_not_count() {
    let mut facts = good();
    for id in ["d1", "d2"] {
        let mut unknown = drill(id, DAY);
        unknown.discounted = Some("its signer k is not enrolled yet (keys enrol)".to_owned());
        facts.drills.push(unknown);
    }
    let words = [
        "2 not counted",
        "k is not enrolled yet",
        "keys enrol --all --root",
    ];
    let rto = Rule::Rto {
        within: DAY,
        over: YEAR,
    };
    judged(&rto, &facts, Verdict::NotProved, &words);
    let back = Rule::ReturnOfData { over: YEAR };
    judged(&back, &facts, Verdict::NotProved, &words);
    facts.drills[0].discounted = None;
    facts.drills[0].verdict = DrillVerdict::Inconclusive;
    judged(&rto, &facts, Verdict::NotProved, &["it was inconclusive"]);
    facts.drills[0].verdict = DrillVerdict::Pass;
    judged(&rto, &facts, Verdict::Pass, &["d1", "1 not counted"]);
}

#[test]
fn a_test_every_month_passes_and_a_month_without_one_fails_by_name() {
    let mut facts = good();
    facts.begins = Some(ago(DAY * 100));
    facts.drills = [80, 50, 20]
        .iter()
        .map(|days| drill(&format!("d{days}"), DAY * *days))
        .collect();
    judged(
        &monthly(),
        &facts,
        Verdict::Pass,
        &["3 drills", "newest of 2026-11-02 passed"],
    );
    facts.drills.remove(1);
    judged(
        &monthly(),
        &facts,
        Verdict::Fail,
        &["no drill that counts in October 2026"],
    );
}

#[test]
fn the_month_of_the_beginning_and_the_running_one_are_not_missed_yet() {
    let mut facts = good();
    facts.begins = Some(ago(DAY * 30));
    judged(
        &monthly(),
        &facts,
        Verdict::NotYet,
        &["no drill that counts yet"],
    );
    facts.begins = Some(ago(DAY * 60));
    judged(&monthly(), &facts, Verdict::Fail, &["October 2026"]);
    facts.drills.push(drill("d1", DAY * 40));
    judged(&monthly(), &facts, Verdict::Pass, &["d1"]);
}

#[test]
fn drills_that_ran_beside_production_failed_or_were_inconclusive_do_not_count() {
    let mut facts = good();
    facts.begins = Some(ago(DAY * 60));
    facts.drills.push(drill("d1", DAY * 40));
    let refused = |facts: &Facts, words: &str| {
        judged(&monthly(), facts, Verdict::Fail, &["October 2026", words]);
    };
    facts.drills[0].segregated = false;
    refused(&facts, "on the source's own host");
    facts.drills[0].segregated = true;
    facts.drills[0].verdict = DrillVerdict::Inconclusive;
    refused(&facts, "inconclusive");
    facts.drills[0].verdict = DrillVerdict::Fail;
    refused(&facts, "it failed");
    facts.drills[0].verdict = DrillVerdict::PassWithExceptions;
    judged(&monthly(), &facts, Verdict::Pass, &["with exceptions"]);
    facts.drills[0].discounted = Some("its signer is not enrolled".to_owned());
    refused(&facts, "not enrolled");
}

#[test]
fn a_newest_drill_that_failed_fails_the_clause_although_those_before_it_passed() {
    let mut facts = good();
    facts.drills.push(drill("d1", DAY * 10));
    let mut failed = drill("d2", DAY);
    failed.verdict = DrillVerdict::Fail;
    failed.because = "a page is wrong".to_owned();
    facts.drills.push(failed);
    for rule in [yearly(false, false), monthly()] {
        judged(
            &rule,
            &facts,
            Verdict::Fail,
            &[
                "the newest drill, of 2026-11-21 12:00:00 UTC, failed: a page is wrong",
                "1 drill before it passed, the last at 2026-11-12",
                "evidence show d2",
            ],
        );
    }
    // One that says nothing takes nothing away, and a plain one says nothing of a disaster.
    facts.drills[1].verdict = DrillVerdict::Inconclusive;
    judged(&yearly(false, false), &facts, Verdict::Pass, &["d1"]);
    facts.drills[1].verdict = DrillVerdict::Fail;
    facts.drills[0].scenario = Some("fresh-host".to_owned());
    judged(&yearly(true, false), &facts, Verdict::Pass, &["d1"]);
    facts.drills[1].scenario = Some("fresh-host".to_owned());
    judged(&yearly(true, true), &facts, Verdict::Fail, &["d2"]);
    // The next one that passes mends it.
    facts.drills.push(drill("d3", HOUR));
    judged(
        &yearly(false, false),
        &facts,
        Verdict::Pass,
        &[
            "the newest of 2026-11-22 passed",
            "2026-11-21: it failed",
            "d3",
        ],
    );
}

#[test]
fn a_history_younger_than_the_window_passes_so_far_and_says_so() {
    let mut facts = good();
    facts.begins = Some(ago(MINUTE * 4));
    facts.drills.push(drill("d1", MINUTE));
    for rule in [monthly(), yearly(false, false)] {
        judged(&rule, &facts, Verdict::Pass, &["so far (4 min of "]);
    }
    facts.begins = Some(ago(DAY * 800));
    facts.drills.insert(0, drill("d0", DAY * 366));
    let whole = judged(&yearly(false, false), &facts, Verdict::Pass, &["2 drills"]);
    assert!(!whole.measured.contains("so far"), "{whole:?}");
}

#[test]
fn of_many_drills_that_do_not_count_three_are_told_and_how_many_more() {
    let mut facts = good();
    for hour in (1..=5).rev() {
        let mut beside = drill(&format!("b{hour}"), HOUR * hour);
        beside.segregated = false;
        facts.drills.push(beside);
    }
    judged(
        &yearly(false, false),
        &facts,
        Verdict::NotYet,
        &["own host; and 2 more"],
    );
}

#[test]
fn a_restore_every_year_passes_fails_and_is_not_yet() {
    let mut facts = good();
    judged(
        &yearly(false, false),
        &facts,
        Verdict::NotYet,
        &["40 d old"],
    );
    facts.drills.push(drill("d1", DAY * 10));
    judged(&yearly(false, false), &facts, Verdict::Pass, &["d1"]);
    facts.drills.clear();
    facts.begins = Some(ago(DAY * 500));
    judged(
        &yearly(false, false),
        &facts,
        Verdict::Fail,
        &["the 500 d from"],
    );
    facts.drills.push(drill("d1", DAY * 400));
    judged(
        &yearly(false, false),
        &facts,
        Verdict::Fail,
        &["the 400 d from"],
    );
}

#[test]
fn a_disaster_is_exercised_only_by_a_scenario_that_somebody_signed_off() {
    let mut facts = good();
    facts.drills.push(drill("d1", DAY * 10));
    judged(
        &yearly(true, true),
        &facts,
        Verdict::NotYet,
        &["no drill of a disaster"],
    );
    facts.drills[0].scenario = Some("without-region=a".to_owned());
    judged(
        &yearly(true, true),
        &facts,
        Verdict::NotProved,
        &["not signed off", "evidence sign-off d1"],
    );
    facts.drills[0].signed_off = Some("Ann".to_owned());
    judged(
        &yearly(true, true),
        &facts,
        Verdict::Pass,
        &["signed off by Ann"],
    );
    facts.drills.clear();
    facts.begins = Some(ago(DAY * 500));
    judged(
        &yearly(true, true),
        &facts,
        Verdict::Fail,
        &["no drill of a disaster that counts"],
    );
}

#[test]
fn restored_data_stays_in_its_sandbox_or_the_clause_fails() {
    let rule = Rule::IsolatedDrills { over: YEAR };
    let mut facts = good();
    judged(&rule, &facts, Verdict::NotProved, &["no drill"]);
    facts.drills.push(drill("d1", DAY));
    let passed = judged(
        &rule,
        &facts,
        Verdict::Pass,
        &["could not be reached", "destroyed"],
    );
    assert_eq!(passed.basis, Basis::Probed);
    let with = |change: &dyn Fn(&mut DrillFact)| {
        let mut facts = facts.clone();
        change(&mut facts.drills[0]);
        facts
    };
    let open = with(&|drill| drill.egress_refused = Some(false));
    judged(
        &rule,
        &open,
        Verdict::Fail,
        &["the network could be reached", "d1"],
    );
    let left = with(&|drill| drill.destroyed = Some(false));
    judged(&rule, &left, Verdict::Fail, &["was not destroyed"]);
    let rows = with(&|drill| drill.rows_exported = Some(3));
    judged(&rule, &rows, Verdict::Fail, &["rows left"]);
    let unsaid = with(&|drill| drill.egress_refused = None);
    judged(&rule, &unsaid, Verdict::NotProved, &["does not say"]);
    let beside = with(&|drill| drill.segregated = false);
    judged(&rule, &beside, Verdict::NotProved, &["own host"]);
    // One that ended before anything was restored says nothing, wherever it ran.
    let mut ended = drill("d2", HOUR);
    ended.verdict = DrillVerdict::Fail;
    (ended.segregated, ended.egress_refused, ended.destroyed) = (false, None, None);
    let mut with_ended = facts.clone();
    with_ended.drills.push(ended.clone());
    judged(
        &rule,
        &with_ended,
        Verdict::Pass,
        &[
            "1 drill: ",
            "1 drill that ended before anything was restored",
        ],
    );
    with_ended.drills = vec![ended];
    judged(&rule, &with_ended, Verdict::NotProved, &["no drill of"]);
}

#[test]
fn data_can_be_handed_back_if_somebody_has_done_it() {
    let rule = Rule::ReturnOfData { over: YEAR };
    let mut facts = good();
    judged(&rule, &facts, Verdict::NotProved, &["no restore"]);
    facts.returns.push(ReturnFact {
        id: "r1".to_owned(),
        at: ago(DAY),
        worked: true,
    });
    judged(
        &rule,
        &facts,
        Verdict::Pass,
        &["was brought back on 2026-11-21", "source of its own", "r1"],
    );
    facts.returns.push(ReturnFact {
        id: "r2".to_owned(),
        at: ago(HOUR),
        worked: false,
    });
    judged(
        &rule,
        &facts,
        Verdict::Fail,
        &["failed", "evidence show r2"],
    );
}
