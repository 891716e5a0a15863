//! What is lost and what is kept.

use super::*;

const RPO: Rule = Rule::Rpo {
    within: Duration::from_secs(300),
    over: Duration::from_secs(3 * 86_400),
};
const PITR: Rule = Rule::Pitr {
    within: Duration::from_secs(60),
    over: Duration::from_secs(30 * 86_400),
};

#[test]
fn rpo_passes_by_the_longest_exposure_of_the_window_and_fails_by_one_that_is_longer() {
    let mut facts = good();
    let passed = judged(
        &RPO,
        &facts,
        Verdict::Pass,
        &["longest exposure 1 min", "at most 5 min", "no gap"],
    );
    assert_eq!(passed.basis, Basis::Measured);
    // One that ended before the window began is not its matter.
    facts.gaps.insert(0, gap(DAY * 4, DAY * 3 + HOUR, 7));
    judged(&RPO, &facts, Verdict::Pass, &[]);
    facts.gaps.push(gap(DAY, DAY - MINUTE * 12, 77));
    judged(
        &RPO,
        &facts,
        Verdict::Fail,
        &[
            "1 exposure longer than 5 min",
            "12 min",
            "2026-11-21 12:00:00 UTC",
            "log:1:77",
            "it is over",
        ],
    );
    facts.gaps.push(gap(MINUTE * 7, Duration::ZERO, 78));
    judged(&RPO, &facts, Verdict::Fail, &["2 exposures", "it lasts"]);
}

#[test]
fn an_exposure_between_whose_ends_not_everything_was_read_is_told_as_an_upper_bound() {
    let mut facts = good();
    let exact = judged(
        &RPO,
        &facts,
        Verdict::Pass,
        &["longest exposure 1 min (until"],
    );
    assert!(!exact.measured.contains("upper bound"), "{exact:?}");
    // Whatever its ends are: log objects with others between them, as well as points.
    let between_logs = gap(DAY, DAY - MINUTE * 3, 77);
    facts.gaps.push(between_logs);
    facts.bounds.push(between_logs);
    judged(
        &RPO,
        &facts,
        Verdict::Pass,
        &["longest exposure at most 3 min (until", "an upper bound"],
    );
    // One that is as long and was read exactly is told as such.
    facts.gaps.insert(0, gap(DAY * 2, DAY * 2 - MINUTE * 3, 5));
    let exact = judged(
        &RPO,
        &facts,
        Verdict::Pass,
        &["longest exposure 3 min (until"],
    );
    assert!(!exact.measured.contains("upper bound"), "{exact:?}");
}

#[test]
fn a_promise_that_is_shorter_than_the_agents_own_pace_is_called_that_and_no_outage() {
    let mut facts = good();
    let second = Duration::from_secs(1);
    let strict = Rule::Rpo {
        within: second * 5,
        over: HOUR,
    };
    facts.gaps = (1..60)
        .rev()
        .map(|n| gap(second * (10 * n + 10), second * (10 * n), n.into()))
        .collect();
    let pace = [
        "59 exposures",
        "half of all exposures are 10 s or longer",
        "ship_every",
    ];
    judged(&strict, &facts, Verdict::Fail, &pace);
    // What goes on for as long as that is the pace, too; what lasts for longer is not.
    facts.gaps.push(gap(second * 10, Duration::ZERO, 60));
    judged(&strict, &facts, Verdict::Fail, &["the agent's own pace"]);
    facts.gaps.push(gap(MINUTE, Duration::ZERO, 61));
    judged(&strict, &facts, Verdict::Fail, &[]);
    let one = Rule::Rpo {
        within: second * 30,
        over: HOUR,
    };
    judged(&one, &facts, Verdict::Fail, &["it lasts"]);
}

#[test]
fn rpo_fails_by_a_gap_that_nobody_can_restore() {
    let mut facts = good();
    facts.holes.push(HoleFact {
        from: ago(HOUR * 5),
        to: ago(HOUR * 4),
        why: "log:1:9 is a gap (spool full)".to_owned(),
    });
    judged(
        &RPO,
        &facts,
        Verdict::Fail,
        &["1 gap that can't be restored", "spool full"],
    );
    facts.holes[0].from = ago(HOUR * 4 + MINUTE);
    judged(&RPO, &facts, Verdict::Pass, &["1 gap shorter"]);
}

#[test]
fn rpo_of_a_young_history_is_not_yet_and_of_a_broken_one_is_fail_at_once() {
    let mut facts = good();
    facts.begins = Some(ago(DAY));
    facts.gaps.retain(|gap| gap.from > ago(DAY));
    judged(&RPO, &facts, Verdict::NotYet, &["1 d of 3 d"]);
    facts.gaps.push(gap(HOUR, MINUTE, 1));
    judged(&RPO, &facts, Verdict::Fail, &["59 min"]);
    facts.gaps.clear();
    judged(
        &RPO,
        &facts,
        Verdict::NotProved,
        &["nothing of this source"],
    );
}

#[test]
fn any_instant_passes_by_windows_and_drills_together() {
    let mut facts = good();
    facts.drills.push(drill("d1", DAY * 2));
    facts.drills.push(drill("d2", DAY));
    judged(
        &PITR,
        &facts,
        Verdict::Pass,
        &["2 drills measured an error of at most 40 s", "d1 d2"],
    );
    facts.drills[0].pitr_error = Some(MINUTE * 2);
    judged(&PITR, &facts, Verdict::Fail, &["2 min off", "d1"]);
    facts.drills.clear();
    judged(
        &PITR,
        &facts,
        Verdict::NotProved,
        &["no drill has measured", "drill run"],
    );
    // Those that were made are named, with why they say nothing of it.
    let why = |change: &dyn Fn(&mut DrillFact), words: &[&str]| {
        let mut facts = facts.clone();
        let mut one = drill("d1", DAY);
        change(&mut one);
        facts.drills.push(one);
        judged(&PITR, &facts, Verdict::NotProved, words);
    };
    why(
        &|one| one.pitr_error = None,
        &["1 not counted: 2026-11-21: it measured no precision (no canary"],
    );
    why(
        &|one| one.segregated = false,
        &["it ran on the source's own host"],
    );
    why(
        &|one| one.discounted = Some("its signer k is not enrolled yet (keys enrol)".to_owned()),
        &["k is not enrolled", "keys enrol --all --root"],
    );
}

#[test]
fn any_instant_fails_by_a_hole_by_blindness_and_by_coarse_states() {
    let whole = || {
        let mut facts = good();
        facts.drills.push(drill("d1", DAY));
        facts
    };
    let mut facts = whole();
    facts.holes.push(HoleFact {
        from: ago(DAY * 20),
        to: ago(DAY * 20 - MINUTE * 2),
        why: "epoch 2 took over".to_owned(),
    });
    judged(
        &PITR,
        &facts,
        Verdict::Fail,
        &["1 span", "epoch 2 took over"],
    );
    let mut facts = whole();
    facts.gaps.push(gap(DAY * 9, DAY * 9 - HOUR, 5));
    judged(&PITR, &facts, Verdict::Fail, &["the agent was not looking"]);
    // A server's own log has every commit, whoever was looking.
    facts.divisible = true;
    judged(&PITR, &facts, Verdict::Pass, &[]);
    let mut facts = whole();
    facts.coarsest = Some(gap(DAY * 3, DAY * 3 - MINUTE * 2, 8));
    judged(&PITR, &facts, Verdict::Fail, &["2 min apart", "ship_every"]);
    let mut facts = whole();
    facts.earliest = Some(ago(DAY * 10));
    judged(&PITR, &facts, Verdict::Fail, &["can be restored any more"]);
    facts.begins = Some(ago(DAY * 10));
    judged(&PITR, &facts, Verdict::NotYet, &["10 d of 30 d"]);
}

#[test]
fn what_is_kept_too_long_fails_and_without_a_limit_nobody_can_tell() {
    let mut facts = good();
    let rule = Rule::KeptAtMost { within: None };
    judged(
        &rule,
        &facts,
        Verdict::NotProved,
        &["40 d old", "declared nowhere", "kept_at_most"],
    );
    facts.declared.kept_at_most = Some(DAY * 90);
    judged(
        &rule,
        &facts,
        Verdict::Pass,
        &["of at most 90 d", "meta/log/app/1/0"],
    );
    facts.declared.kept_at_most = Some(DAY * 30);
    judged(&rule, &facts, Verdict::Fail, &["older than 30 d"]);
    let own = Rule::KeptAtMost {
        within: Some(DAY * 60),
    };
    judged(&own, &facts, Verdict::Pass, &["of at most 60 d"]);
}

#[test]
fn full_backups_pass_as_often_as_said_and_fail_when_one_was_left_out() {
    let rule = Rule::FullBackups {
        every: DAY,
        over: DAY * 30,
    };
    let mut facts = good();
    judged(
        &rule,
        &facts,
        Verdict::Pass,
        &["30 full images made in the last 30 d"],
    );
    facts.bases.remove(20);
    judged(
        &rule,
        &facts,
        Verdict::Fail,
        &["1 time longer than 1 d", "none begun from 2026-11-07"],
    );
    facts.bases.truncate(20);
    judged(&rule, &facts, Verdict::Fail, &["to 2026-11-22 12:00:00"]);
    facts.bases.clear();
    judged(&rule, &facts, Verdict::Fail, &["no full image"]);
    let mut facts = good();
    facts.earliest = Some(ago(DAY * 3));
    judged(&rule, &facts, Verdict::Fail, &["30 d are to be kept"]);
}

#[test]
fn daily_snapshots_pass_and_fail_by_a_day_without_one() {
    let rule = Rule::Snapshots {
        every: DAY,
        over: DAY * 30,
    };
    let mut facts = good();
    judged(
        &rule,
        &facts,
        Verdict::Pass,
        &["recovery points in the last 30 d", "point:1/0"],
    );
    facts
        .points
        .retain(|point| point.at < ago(DAY * 3) || point.at > ago(DAY));
    judged(
        &rule,
        &facts,
        Verdict::Fail,
        &["1 time longer than 1 d", "none from 2026-11-19"],
    );
    facts.points.clear();
    judged(&rule, &facts, Verdict::Fail, &["no recovery point"]);
}

#[test]
fn a_source_at_which_nothing_happened_needs_no_snapshot_of_it() {
    let rule = Rule::Snapshots {
        every: DAY,
        over: DAY * 30,
    };
    let mut facts = good();
    facts.points.retain(|point| point.at < ago(DAY * 3));
    judged(&rule, &facts, Verdict::Fail, &["to 2026-11-22"]);
    for gap in &mut facts.gaps {
        if gap.from > ago(DAY * 3 + HOUR) {
            gap.after = Trace::Beat(1);
        }
    }
    judged(&rule, &facts, Verdict::Pass, &[]);
    // Silence proves nothing.
    facts.gaps.retain(|gap| gap.from < ago(DAY * 2));
    judged(&rule, &facts, Verdict::Fail, &["none from"]);
}
