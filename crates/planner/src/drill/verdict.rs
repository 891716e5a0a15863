//! What a drill means.
//!
//! # The rules, the worst first
//!
//! 1. The sandbox let something out, or its scratch is not gone: FAIL, whatever else was proved.
//! 2. A check failed, or an objective was missed: FAIL.
//! 3. What a drill needs of its own surroundings was not there (a region, space, a program), or it was
//!    killed: INCONCLUSIVE. It counts as no drill.
//! 4. The database had to be mended, or anything given was damaged, or something asks for a look:
//!    PASS_WITH_EXCEPTIONS at best.
//! 5. The whole ladder was climbed: PASS. Not all of it: INCONCLUSIVE.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::measure::{Loss, Precision};
use super::{Check, CheckStatus, Rung, reached};

/// Seconds below which milliseconds matter to whoever reads them.
const EXACT_BELOW_SECONDS: u64 = 10;

/// What a drill means, the worse the later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// Everything is as promised.
    #[serde(rename = "PASS")]
    Pass,
    /// The database came back, and something beside it was not as it should be.
    #[serde(rename = "PASS_WITH_EXCEPTIONS")]
    PassWithExceptions,
    /// Nobody knows: the drill itself could not be made.
    #[serde(rename = "INCONCLUSIVE")]
    Inconclusive,
    /// It did not come back as promised.
    #[serde(rename = "FAIL")]
    Fail,
}

impl Verdict {
    /// As records name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::PassWithExceptions => "PASS_WITH_EXCEPTIONS",
            Self::Fail => "FAIL",
            Self::Inconclusive => "INCONCLUSIVE",
        }
    }

    /// As generic readers of test results name it (in-toto's test-result); an inconclusive drill is no
    /// result they know, and nothing that is known to have passed.
    #[must_use]
    pub const fn test_result(self) -> &'static str {
        match self {
            Self::Pass => "PASSED",
            Self::PassWithExceptions => "WARNED",
            Self::Fail | Self::Inconclusive => "FAILED",
        }
    }

    /// The verdict of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        [
            Self::Pass,
            Self::PassWithExceptions,
            Self::Fail,
            Self::Inconclusive,
        ]
        .into_iter()
        .find(|verdict| verdict.name() == name)
    }

    /// Whether it counts as a restore test that was passed.
    #[must_use]
    pub const fn is_passed(self) -> bool {
        matches!(self, Self::Pass | Self::PassWithExceptions)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was promised.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Objectives {
    /// The loss that is bearable, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpo_target_s: Option<u64>,
    /// How soon the database must be back, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_target_s: Option<u64>,
    /// How exact an instant must be met, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pitr_precision_target_s: Option<u64>,
    /// Days that must be restorable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_min_d: Option<u64>,
    /// Days after which nothing may be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_max_d: Option<u64>,
    /// Countries that may hold it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub residency_allow: Vec<String>,
}

/// What a drill saw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Every check.
    pub checks: Vec<Check>,
    /// What had to be mended.
    pub fixes: Vec<String>,
    /// What is damaged in any region given.
    pub damages: Vec<String>,
    /// What else was not as it should be.
    pub exceptions: Vec<String>,
    /// What keeps the drill from an answer that is not the backup's fault.
    pub infrastructure: Option<String>,
    /// What says that something of the sandbox could get out.
    pub egress: Option<String>,
    /// What is left of the scratch.
    pub scratch_left: Option<String>,
    /// Whether a scenario was asked for.
    pub scenario: bool,
    /// From the declaration to the last check, in milliseconds.
    pub rto_ms: Option<u64>,
    /// What was lost.
    pub loss: Option<Loss>,
    /// How exact the instant was.
    pub precision: Option<Precision>,
}

/// What it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// The highest rung that was reached.
    pub rung: Option<Rung>,
    /// Why it failed or is inconclusive: the first is the one to begin with.
    pub causes: Vec<String>,
    /// Why it passed with exceptions only.
    pub exceptions: Vec<String>,
    /// Whether the loss was bearable; none without an objective or a measure.
    pub rpo_met: Option<bool>,
    /// Whether it was soon enough.
    pub rto_met: Option<bool>,
    /// Whether the instant was met.
    pub pitr_met: Option<bool>,
}

/// Applies the rules.
#[must_use]
pub fn judge(observed: &Observed, objectives: &Objectives) -> Judged {
    let met = |measured: Option<u64>, target: Option<u64>| {
        Some(measured? <= target?.saturating_mul(1000))
    };
    let lost = observed.loss.map(|loss| loss.lost_ms);
    let error = observed.precision.map(|precision| precision.error_ms);
    let rpo_met = met(lost, objectives.rpo_target_s);
    let rto_met = met(observed.rto_ms, objectives.rto_target_s);
    let pitr_met = met(error, objectives.pitr_precision_target_s);
    let rung = reached(&observed.checks);
    let mut causes = failures(observed);
    let missed = [
        (rpo_met, "RPO", lost, objectives.rpo_target_s),
        (rto_met, "RTO", observed.rto_ms, objectives.rto_target_s),
        (
            pitr_met,
            "precision",
            error,
            objectives.pitr_precision_target_s,
        ),
    ];
    for (met, name, measured, target) in missed {
        if let (Some(false), Some(measured), Some(target)) = (met, measured, target) {
            let measured = exactly(measured);
            causes.push(format!(
                "objective missed: {name} of {measured} s, and {target} s were promised"
            ));
        }
    }
    let exceptions = exceptions(observed);
    let needed = if observed.scenario {
        Rung::Scenario
    } else {
        Rung::Logical
    };
    let verdict = if !causes.is_empty() {
        Verdict::Fail
    } else if let Some(why) = &observed.infrastructure {
        causes.push(why.clone());
        Verdict::Inconclusive
    } else if rung < Some(needed) {
        causes.push(not_climbed(rung, needed, &observed.checks));
        Verdict::Inconclusive
    } else if exceptions.is_empty() {
        Verdict::Pass
    } else {
        Verdict::PassWithExceptions
    };
    if verdict == Verdict::Fail {
        // What kept it from going on is worth knowing, too.
        causes.extend(observed.infrastructure.clone());
    }
    Judged {
        verdict,
        rung,
        causes,
        exceptions,
        rpo_met,
        rto_met,
        pitr_met,
    }
}

/// Milliseconds in seconds, so that what was missed can be told from what was promised.
fn exactly(ms: u64) -> String {
    let (seconds, rest) = (ms / 1000, ms % 1000);
    if rest == 0 || seconds >= EXACT_BELOW_SECONDS {
        return ms.div_ceil(1000).to_string();
    }
    format!("{seconds}.{rest:03}")
}

fn failures(observed: &Observed) -> Vec<String> {
    let mut causes = Vec::new();
    if let Some(egress) = &observed.egress {
        causes.push(format!("the sandbox was not sealed: {egress}"));
    }
    if let Some(left) = &observed.scratch_left {
        causes.push(format!("the scratch was not destroyed: {left}"));
    }
    let failed = observed.checks.iter();
    let failed = failed.filter(|check| check.status == CheckStatus::Failed);
    causes.extend(failed.map(Check::sentence));
    causes
}

fn exceptions(observed: &Observed) -> Vec<String> {
    let fixes = observed.fixes.iter();
    let mut all: Vec<String> = fixes
        .map(|fix| format!("a fix was needed: {fix}"))
        .collect();
    let damages = observed.damages.iter();
    all.extend(damages.map(|damage| format!("damage: {damage}")));
    let warned = observed.checks.iter();
    let warned = warned.filter(|check| check.status == CheckStatus::Warned);
    all.extend(warned.map(Check::sentence));
    all.extend(observed.exceptions.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|line| seen.insert(line.clone()));
    all
}

fn not_climbed(rung: Option<Rung>, needed: Rung, checks: &[Check]) -> String {
    let next = Rung::ALL
        .into_iter()
        .find(|next| Some(*next) > rung)
        .unwrap_or(needed);
    let mut own = checks.iter().filter(|check| check.level == next);
    let not_run = own.find(|check| check.status == CheckStatus::NotRun);
    let why = not_run.map_or_else(
        || "no check of it was made".to_owned(),
        |check| check.sentence(),
    );
    format!("the rung {next} was not reached: {why}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::drill::measure::{Basis, Witness};

    fn climbed() -> Observed {
        let rungs = Rung::ALL.iter().filter(|rung| **rung < Rung::Scenario);
        Observed {
            checks: rungs
                .map(|rung| Check::of(*rung, rung.name(), "a check", true))
                .collect(),
            rto_ms: Some(4000),
            loss: Some(Loss {
                lost_ms: 9000,
                basis: Basis::Canary,
                witness: Witness::SameHost,
            }),
            ..Observed::default()
        }
    }

    fn verdict(observed: &Observed) -> Verdict {
        judge(observed, &Objectives::default()).verdict
    }

    #[test]
    fn a_climbed_ladder_passes() {
        let judged = judge(&climbed(), &Objectives::default());
        assert_eq!(judged.verdict, Verdict::Pass);
        assert_eq!(judged.rung, Some(Rung::Logical));
        assert!(judged.causes.is_empty() && judged.exceptions.is_empty());
        assert_eq!((judged.rpo_met, judged.rto_met), (None, None));
    }

    #[test]
    fn a_fix_damage_or_a_warning_lowers_a_pass_to_exceptions_that_name_it() {
        type Spoil = fn(&mut Observed);
        let cases: [(Spoil, &str); 4] = [
            (|o| o.fixes.push("reindex a".into()), "reindex a"),
            (|o| o.damages.push("meta/x in b".into()), "meta/x in b"),
            (|o| o.exceptions.push("b is away".into()), "b is away"),
            (
                |o| {
                    o.checks.push(Check::new(
                        Rung::Logical,
                        "w",
                        "collations differ",
                        CheckStatus::Warned,
                    ));
                },
                "collations differ",
            ),
        ];
        for (spoil, named) in cases {
            let mut observed = climbed();
            spoil(&mut observed);
            let judged = judge(&observed, &Objectives::default());
            assert_eq!(judged.verdict, Verdict::PassWithExceptions, "{named}");
            assert!(judged.exceptions[0].contains(named), "{judged:?}");
        }
    }

    #[test]
    fn a_failed_check_fails_whatever_the_surroundings_say() {
        let mut observed = climbed();
        observed.infrastructure = Some("region b does not answer".to_owned());
        assert_eq!(verdict(&observed), Verdict::Inconclusive);
        observed
            .checks
            .push(Check::of(Rung::Replay, "end", "replay ended there", false));
        let judged = judge(&observed, &Objectives::default());
        assert_eq!(judged.verdict, Verdict::Fail);
        assert_eq!(judged.rung, Some(Rung::Materialise));
        assert!(judged.causes[0].contains("replay ended there"));
    }

    #[test]
    fn a_leak_or_a_scratch_that_stays_fails_a_drill_that_proved_everything() {
        let mut leaking = climbed();
        leaking.egress = Some("192.0.2.1 answered".to_owned());
        let mut left = climbed();
        left.scratch_left = Some("/scratch/x is still there".to_owned());
        for (observed, named) in [(leaking, "192.0.2.1"), (left, "/scratch/x")] {
            let judged = judge(&observed, &Objectives::default());
            assert_eq!(judged.verdict, Verdict::Fail);
            assert!(judged.causes[0].contains(named));
        }
    }

    #[test]
    fn a_missed_objective_fails_and_says_by_how_much() {
        let objectives = Objectives {
            rpo_target_s: Some(8),
            rto_target_s: Some(4),
            pitr_precision_target_s: Some(60),
            ..Objectives::default()
        };
        let judged = judge(&climbed(), &objectives);
        assert_eq!(judged.verdict, Verdict::Fail);
        assert_eq!(judged.rpo_met, Some(false));
        assert_eq!(judged.rto_met, Some(true));
        assert_eq!(judged.pitr_met, None, "no instant was asked for");
        assert_eq!(
            judged.causes,
            ["objective missed: RPO of 9 s, and 8 s were promised"]
        );
    }

    #[test]
    fn a_ladder_that_was_not_climbed_is_inconclusive_and_names_the_rung() {
        let mut observed = climbed();
        observed.checks.retain(|check| check.level != Rung::Logical);
        observed.checks.push(
            Check::new(Rung::Logical, "amcheck", "amcheck", CheckStatus::NotRun)
                .why("the extension is not installed here"),
        );
        let judged = judge(&observed, &Objectives::default());
        assert_eq!(judged.verdict, Verdict::Inconclusive);
        assert_eq!(judged.rung, Some(Rung::Replay));
        assert!(judged.causes[0].contains("not installed"), "{judged:?}");
        assert_eq!(verdict(&Observed::default()), Verdict::Inconclusive);
    }

    #[test]
    fn a_scenario_must_be_proved_where_one_was_asked_for() {
        let mut observed = climbed();
        observed.scenario = true;
        assert_eq!(verdict(&observed), Verdict::Inconclusive);
        observed
            .checks
            .push(Check::of(Rung::Scenario, "s", "only region a", true));
        assert_eq!(verdict(&observed), Verdict::Pass);
    }

    #[test]
    fn verdicts_are_named_for_life() {
        for (verdict, name) in [
            (Verdict::Pass, "PASS"),
            (Verdict::PassWithExceptions, "PASS_WITH_EXCEPTIONS"),
            (Verdict::Fail, "FAIL"),
            (Verdict::Inconclusive, "INCONCLUSIVE"),
        ] {
            assert_eq!(verdict.name(), name);
            assert_eq!(Verdict::of_name(name), Some(verdict));
            assert_eq!(serde_json::to_value(verdict).unwrap(), name);
        }
    }

    fn any_check() -> impl Strategy<Value = Check> {
        let statuses = [
            CheckStatus::Passed,
            CheckStatus::Failed,
            CheckStatus::Warned,
            CheckStatus::Recorded,
            CheckStatus::NotRun,
        ];
        (0..Rung::ALL.len(), 0..statuses.len()).prop_map(move |(rung, status)| {
            Check::new(Rung::ALL[rung], "c", "a check", statuses[status])
        })
    }

    proptest! {
        #[test]
        fn nothing_that_is_wrong_ever_passes(
            checks in proptest::collection::vec(any_check(), 0..12),
            fixes in 0_usize..2,
            damages in 0_usize..2,
            infrastructure: bool,
            egress: bool,
            left: bool,
            late: bool,
        ) {
            let some = |on: bool| on.then(|| "something".to_owned());
            let observed = Observed {
                checks: checks.clone(),
                fixes: vec!["reindex".to_owned(); fixes],
                damages: vec!["damage".to_owned(); damages],
                infrastructure: some(infrastructure),
                egress: some(egress),
                scratch_left: some(left),
                rto_ms: Some(if late { 2000 } else { 1 }),
                ..Observed::default()
            };
            let objectives = Objectives { rto_target_s: Some(1), ..Objectives::default() };
            let judged = judge(&observed, &objectives);
            let any = |status| checks.iter().any(|check| check.status == status);
            if egress || left || late || any(CheckStatus::Failed) {
                prop_assert_eq!(judged.verdict, Verdict::Fail);
            } else if infrastructure {
                prop_assert_eq!(judged.verdict, Verdict::Inconclusive);
            }
            if judged.verdict.is_passed() {
                prop_assert!(judged.rung >= Some(Rung::Logical));
                prop_assert!(judged.causes.is_empty());
            } else {
                prop_assert!(!judged.causes.is_empty(), "a cause is named");
            }
            if fixes + damages > 0 || any(CheckStatus::Warned) {
                prop_assert!(judged.verdict != Verdict::Pass);
            }
        }
    }
}
