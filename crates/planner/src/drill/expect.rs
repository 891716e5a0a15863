//! Whether a value is as expected: a user's assertion, or what earlier drills counted.
//!
//! **Invariant:** without an expectation a value is recorded, never passed. A user's assertion that isn't
//! met fails; a count that fell asks for a look, for data may be deleted on purpose, and asks again until a
//! person accepts it: a count that was found wanting measures nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Check, CheckStatus, Rung};

/// Rows that may go between two drills before somebody should look, in percent.
pub const COUNT_FALL_PERCENT: u8 = 20;
/// Values closer than this are the same number.
const EPSILON: f64 = 1e-9;

/// How far from the expected value an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tolerance {
    /// Not at all.
    #[default]
    None,
    /// By so much.
    Absolute(f64),
    /// By so many hundredths of what is expected.
    Percent(f64),
}

impl Tolerance {
    fn around(self, expected: f64) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Absolute(by) => by.abs(),
            Self::Percent(percent) => (expected * percent / 100.0).abs(),
        }
    }

    /// As records show it; nothing if there is none.
    #[must_use]
    pub fn shown(self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Absolute(by) => Some(format!("± {by}")),
            Self::Percent(percent) => Some(format!("± {percent} %")),
        }
    }
}

impl std::str::FromStr for Tolerance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (number, percent) = match text.strip_suffix('%') {
            Some(number) => (number.trim(), true),
            None => (text, false),
        };
        let value: f64 = number
            .parse()
            .ok()
            .filter(|value: &f64| value.is_finite() && *value >= 0.0)
            .ok_or_else(|| {
                format!("{text:?} is no tolerance: write a number (10) or a share (5%)")
            })?;
        Ok(match (value, percent) {
            (0.0, _) => Self::None,
            (value, true) => Self::Percent(value),
            (value, false) => Self::Absolute(value),
        })
    }
}

/// What a statement must answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expectation {
    /// This value; a number within the tolerance. Text is compared as it is recorded.
    Equals(String),
    /// At least this number.
    AtLeast(f64),
    /// At most this number.
    AtMost(f64),
}

impl Expectation {
    /// As records show it.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Equals(value) => value.clone(),
            Self::AtLeast(least) => format!("at least {least}"),
            Self::AtMost(most) => format!("at most {most}"),
        }
    }

    /// Whether `answer` is that.
    #[must_use]
    pub fn is_met(&self, answer: &str, tolerance: Tolerance) -> bool {
        let number = number(answer);
        let near = |expected: f64, difference: fn(f64, f64) -> f64| {
            let limit = tolerance.around(expected) + EPSILON;
            number.is_some_and(|answer| difference(answer, expected) <= limit)
        };
        match self {
            Self::Equals(expected) => match self::number(expected) {
                Some(expected) => near(expected, |answer, expected| (answer - expected).abs()),
                None => answer == expected,
            },
            Self::AtLeast(least) => near(*least, |answer, least| least - answer),
            Self::AtMost(most) => near(*most, |answer, most| answer - most),
        }
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim()
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite())
}

/// Judges the answer to a user's statement.
#[must_use]
pub fn assertion(
    id: &str,
    answer: Option<&Result<String, String>>,
    expectation: Option<&Expectation>,
    tolerance: Tolerance,
) -> Check {
    let check = |status| {
        let mut check = Check::new(
            Rung::Logical,
            format!("assertion.{id}"),
            format!("assertion {id}"),
            status,
        );
        check.tolerance = tolerance.shown();
        check.expected = expectation.map(Expectation::shown);
        check
    };
    match (answer, expectation) {
        (None, _) => check(CheckStatus::NotRun).why("the database was not asked"),
        // Whoever wrote it wanted an answer.
        (Some(Err(why)), _) => check(CheckStatus::Failed).why(why.as_str()),
        (Some(Ok(answer)), None) => check(CheckStatus::Recorded).actual(answer.as_str()),
        (Some(Ok(answer)), Some(expectation)) => {
            let status = if expectation.is_met(answer, tolerance) {
                CheckStatus::Passed
            } else {
                CheckStatus::Failed
            };
            check(status).actual(answer.as_str())
        }
    }
}

/// A passed drill of a source: what of it later ones may be measured by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Earlier {
    /// The drill's record.
    pub evidence_id: String,
    /// When that was made.
    pub made_at: Timestamp,
    /// The instant that it restored.
    pub reached_at: Option<Timestamp>,
    /// Rows by table, as far as nothing was wrong with them or a person accepted them since; none of a
    /// table whose absence a person accepted.
    pub counts: BTreeMap<String, Option<u64>>,
    /// The schema.
    pub schema_digest: Option<String>,
    /// Collations and their versions.
    pub collations: BTreeMap<String, String>,
}

/// Rows that a drill counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub rows: u64,
    /// The drill's record.
    pub evidence_id: String,
}

/// What a drill is measured by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Baseline {
    /// The newest drill's record of those it is of.
    pub evidence_id: String,
    /// Rows by table.
    pub counts: BTreeMap<String, Counted>,
    /// The schema.
    pub schema_digest: Option<String>,
    /// Collations and their versions.
    pub collations: BTreeMap<String, String>,
}

impl Baseline {
    /// Of `earlier` drills, for a state of `reached`: a later state says nothing of it. Of each table the
    /// latest state counts whose count was as it must be, so that a loss that was found once is found
    /// again until a person accepts it.
    #[must_use]
    pub fn of(earlier: &[Earlier], reached: Option<Timestamp>) -> Option<Self> {
        let suits = |then: Option<Timestamp>| matches!((then, reached), (Some(then), Some(now)) if then <= now);
        let suiting = earlier.iter().filter(|drill| suits(drill.reached_at));
        let mut suiting: Vec<&Earlier> = suiting.collect();
        suiting.sort_by_key(|drill| (drill.reached_at, drill.made_at));
        let newest = suiting.last()?;
        let mut counts = BTreeMap::new();
        for drill in &suiting {
            for (table, rows) in &drill.counts {
                let evidence_id = drill.evidence_id.clone();
                match *rows {
                    Some(rows) => counts.insert(table.clone(), Counted { rows, evidence_id }),
                    None => counts.remove(table),
                };
            }
        }
        let mut schemas = suiting.iter().rev();
        Some(Self {
            evidence_id: newest.evidence_id.clone(),
            counts,
            schema_digest: schemas.find_map(|drill| drill.schema_digest.clone()),
            collations: newest.collations.clone(),
        })
    }
}

/// How the id of a table's check begins.
const COUNT: &str = "count.";

/// The table that a check counted, if that is what it did.
#[must_use]
pub fn counted(check_id: &str) -> Option<&str> {
    check_id.strip_prefix(COUNT)
}

/// Judges rows by table, if they were counted, against the drills before.
#[must_use]
pub fn counts(
    found: &BTreeMap<String, u64>,
    baseline: Option<&Baseline>,
    fall_percent: u8,
) -> Vec<Check> {
    let check = |table: &str, status| {
        let id = format!("{COUNT}{table}");
        Check::new(Rung::Logical, id, format!("rows of {table}"), status)
    };
    let against = |table: &str, rows: u64, before: &Counted| {
        let least = least(before.rows, fall_percent);
        let status = if rows >= least {
            CheckStatus::Passed
        } else {
            CheckStatus::Warned
        };
        let mut check = check(table, status)
            .expected(format!("at least {least}"))
            .actual(rows.to_string());
        check.tolerance = Some(format!(
            "{fall_percent} % fewer than the {} of drill {}",
            before.rows, before.evidence_id
        ));
        if status == CheckStatus::Warned {
            check.why = Some(format!(
                "drill {} counted {}",
                before.evidence_id, before.rows
            ));
        }
        check
    };
    let known = |table: &str| baseline.and_then(|baseline| baseline.counts.get(table));
    let mut all: Vec<Check> = found
        .iter()
        .map(|(table, rows)| match known(table) {
            Some(before) => against(table, *rows, before),
            None => check(table, CheckStatus::Recorded).actual(rows.to_string()),
        })
        .collect();
    let before = baseline.into_iter().flat_map(|baseline| &baseline.counts);
    for (table, before) in before.filter(|(table, _)| !found.contains_key(*table)) {
        let gone = check(table, CheckStatus::Warned)
            .expected(format!("at least {}", least(before.rows, fall_percent)))
            .actual("no such table")
            .why(format!(
                "drill {} counted {}",
                before.evidence_id, before.rows
            ));
        all.push(gone);
    }
    all
}

fn least(before: u64, fall_percent: u8) -> u64 {
    let kept = u64::from(100_u8.saturating_sub(fall_percent));
    let whole = before / 100 * kept;
    whole.saturating_add((before % 100 * kept).div_ceil(100))
}

/// The schema against the last passed drill: a change is told, for migrations are made on purpose.
#[must_use]
pub fn schema(found: Option<&str>, baseline: Option<&Baseline>) -> Option<Check> {
    let found = found?;
    let before = baseline.and_then(|baseline| baseline.schema_digest.as_deref());
    let check = |status| {
        Check::new(Rung::Logical, "schema", "digest of all definitions", status).actual(found)
    };
    Some(match before {
        Some(before) if before == found => check(CheckStatus::Passed).expected(before),
        Some(before) => check(CheckStatus::Recorded).why(format!(
            "it was {before} in the last passed drill: the schema changed"
        )),
        None => check(CheckStatus::Recorded),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn equals(value: &str) -> Expectation {
        Expectation::Equals(value.to_owned())
    }

    #[test]
    fn a_number_is_compared_within_its_tolerance_and_text_as_it_is() {
        for (expectation, answer, tolerance, met) in [
            (equals("100"), "100", "0", true),
            (equals("100"), "100.0", "0", true),
            (equals("100"), "101", "0", false),
            (equals("100"), "105", "5%", true),
            (equals("100"), "94", "5%", false),
            (equals("100"), "90", "10", true),
            (equals("true"), "true", "0", true),
            (equals("true"), "false", "50%", false),
            (Expectation::AtLeast(10.0), "10", "0", true),
            (Expectation::AtLeast(10.0), "9", "0", false),
            (Expectation::AtLeast(10.0), "9", "1", true),
            (Expectation::AtMost(10.0), "1000", "0", false),
            (Expectation::AtMost(10.0), "blake3:ab", "0", false),
        ] {
            let tolerance = tolerance.parse().unwrap();
            assert_eq!(
                expectation.is_met(answer, tolerance),
                met,
                "{expectation:?} {answer}"
            );
        }
        for text in ["", "x", "-1", "nan", "5 %%", "inf"] {
            assert!(text.parse::<Tolerance>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_statement_without_an_expectation_is_recorded_and_one_without_an_answer_fails() {
        let five = Ok("5".to_owned());
        let none = Tolerance::None;
        let (fifth, sixth) = (equals("5"), equals("6"));
        let status = |answer, expectation| assertion("a", answer, expectation, none).status;
        assert_eq!(status(Some(&five), None), CheckStatus::Recorded);
        assert_eq!(status(Some(&five), Some(&fifth)), CheckStatus::Passed);
        assert_eq!(status(Some(&five), Some(&sixth)), CheckStatus::Failed);
        assert_eq!(status(None, Some(&fifth)), CheckStatus::NotRun);
        let refused = Err("no such table".to_owned());
        assert_eq!(status(Some(&refused), None), CheckStatus::Failed);
    }

    #[test]
    fn a_count_passes_only_against_the_last_passed_drill() {
        let found: BTreeMap<String, u64> = [
            ("a".to_owned(), 80),
            ("b".to_owned(), 79),
            ("c".to_owned(), 1),
        ]
        .into();
        assert!(
            counts(&found, None, 20)
                .iter()
                .all(|check| check.status == CheckStatus::Recorded)
        );
        let before = earlier("2026-11-20T00:00:00Z", &[("a", 100), ("b", 100), ("d", 7)]);
        let baseline = Baseline::of(&[before], at("2026-11-20T00:00:00Z")).unwrap();
        let judged = counts(&found, Some(&baseline), 20);
        let statuses: Vec<_> = judged.iter().map(|check| check.status).collect();
        assert_eq!(
            statuses,
            [
                CheckStatus::Passed,
                CheckStatus::Warned,
                CheckStatus::Recorded,
                CheckStatus::Warned
            ]
        );
        assert!(judged[3].sentence().contains("rows of d"));
    }

    fn at(text: &str) -> Option<Timestamp> {
        text.parse().ok()
    }

    fn earlier(reached: &str, counts: &[(&str, u64)]) -> Earlier {
        let counts = counts
            .iter()
            .map(|(table, rows)| ((*table).to_owned(), Some(*rows)));
        Earlier {
            evidence_id: format!("of {reached}"),
            reached_at: at(reached),
            counts: counts.collect(),
            ..Earlier::default()
        }
    }

    #[test]
    fn an_older_state_is_not_measured_by_a_newer_one() {
        let before = [earlier("2026-11-20T00:00:00Z", &[("a", 1)])];
        assert!(Baseline::of(&before, at("2026-11-20T00:00:00Z")).is_some());
        assert!(Baseline::of(&before, at("2026-11-19T00:00:00Z")).is_none());
        assert!(Baseline::of(&before, None).is_none());
        let nowhere = [Earlier::default()];
        assert!(Baseline::of(&nowhere, at("2026-11-19T00:00:00Z")).is_none());
    }

    #[test]
    fn a_loss_is_found_again_until_a_person_accepts_it() {
        let now = at("2026-11-25T00:00:00Z");
        let good = earlier("2026-11-20T00:00:00Z", &[("a", 2500), ("b", 10)]);
        // A drill that found fewer leaves nothing of that table to be measured by; one of an older state,
        // made later, is older all the same.
        let mut fewer = earlier("2026-11-21T00:00:00Z", &[("b", 10)]);
        let older = Earlier {
            made_at: now.unwrap(),
            ..earlier("2026-11-01T00:00:00Z", &[("a", 100)])
        };
        let status = |earlier: &[Earlier], found: &[(&str, u64)]| {
            let found = found
                .iter()
                .map(|(table, rows)| ((*table).to_owned(), *rows));
            let baseline = Baseline::of(earlier, now);
            let all = counts(&found.collect(), baseline.as_ref(), 20);
            all.iter().map(|check| check.status).collect::<Vec<_>>()
        };
        let all = [good.clone(), fewer.clone(), older.clone()];
        assert_eq!(
            status(&all, &[("a", 1300), ("b", 10)]),
            [CheckStatus::Warned, CheckStatus::Passed]
        );
        assert_eq!(
            status(&all, &[("b", 10)]),
            [CheckStatus::Passed, CheckStatus::Warned]
        );
        // WHEN somebody accepts the count, or that the table is gone
        fewer.counts.insert("a".to_owned(), Some(1300));
        let accepted = [good.clone(), fewer.clone(), older.clone()];
        assert_eq!(
            status(&accepted, &[("a", 1300), ("b", 10)]),
            [CheckStatus::Passed, CheckStatus::Passed]
        );
        fewer.counts.insert("a".to_owned(), None);
        assert_eq!(
            status(&[good, fewer, older], &[("b", 10)]),
            [CheckStatus::Passed]
        );
    }

    #[test]
    fn a_changed_schema_is_told_and_an_equal_one_passes() {
        let baseline = Baseline {
            schema_digest: Some("aa".to_owned()),
            ..Baseline::default()
        };
        let status = |found, baseline| schema(found, baseline).map(|check| check.status);
        assert_eq!(status(None, Some(&baseline)), None);
        assert_eq!(
            status(Some("aa"), Some(&baseline)),
            Some(CheckStatus::Passed)
        );
        assert_eq!(
            status(Some("bb"), Some(&baseline)),
            Some(CheckStatus::Recorded)
        );
        assert_eq!(status(Some("bb"), None), Some(CheckStatus::Recorded));
    }

    proptest! {
        #[test]
        fn the_least_count_is_the_kept_share_rounded_up(before in 0_u64..=1 << 50, percent in 0_u8..=100) {
            let kept = u128::from(100 - percent);
            let expected = (u128::from(before) * kept).div_ceil(100);
            prop_assert_eq!(u128::from(least(before, percent)), expected);
        }

        #[test]
        fn a_value_equals_itself_whatever_the_tolerance(value in -1e12_f64..1e12, percent in 0.0_f64..100.0) {
            let text = value.to_string();
            prop_assert!(Expectation::Equals(text.clone()).is_met(&text, Tolerance::Percent(percent)));
            prop_assert!(Expectation::AtLeast(value).is_met(&text, Tolerance::None));
            prop_assert!(Expectation::AtMost(value).is_met(&text, Tolerance::None));
        }
    }
}
