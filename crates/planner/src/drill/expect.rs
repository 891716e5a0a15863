//! Whether a value is as expected: a user's assertion, or what the last passed drill counted.
//!
//! **Invariant:** without an expectation a value is recorded, never passed. A user's assertion that isn't
//! met fails; a count that fell against the last passed drill asks for a look, for data may be deleted
//! on purpose.

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

/// What the last passed drill of a source counted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Baseline {
    /// The drill's record.
    pub evidence_id: String,
    /// The instant that it restored.
    pub reached_at: Option<Timestamp>,
    /// Rows by table.
    pub counts: BTreeMap<String, u64>,
    /// The schema.
    pub schema_digest: Option<String>,
    /// Collations and their versions.
    pub collations: BTreeMap<String, String>,
}

impl Baseline {
    /// Whether it may be compared with a state of `reached`: an older state may have fewer rows.
    #[must_use]
    pub fn suits(&self, reached: Option<Timestamp>) -> bool {
        matches!((self.reached_at, reached), (Some(then), Some(now)) if then <= now)
    }
}

/// Judges rows by table against the last passed drill.
#[must_use]
pub fn counts(
    found: &BTreeMap<String, u64>,
    baseline: Option<&Baseline>,
    fall_percent: u8,
) -> Vec<Check> {
    let check = |table: &str, status| {
        let id = format!("count.{table}");
        Check::new(Rung::Logical, id, format!("rows of {table}"), status)
    };
    let against = |table: &str, rows: u64, before: u64| {
        let least = least(before, fall_percent);
        let status = if rows >= least {
            CheckStatus::Passed
        } else {
            CheckStatus::Warned
        };
        let mut check = check(table, status)
            .expected(format!("at least {least}"))
            .actual(rows.to_string());
        check.tolerance = Some(format!(
            "{fall_percent} % fewer than the {before} of the last passed drill"
        ));
        check
    };
    let known = |table: &str| baseline.and_then(|baseline| baseline.counts.get(table).copied());
    let mut all: Vec<Check> = found
        .iter()
        .map(|(table, rows)| match known(table) {
            Some(before) => against(table, *rows, before),
            None => check(table, CheckStatus::Recorded).actual(rows.to_string()),
        })
        .collect();
    let before = baseline.into_iter().flat_map(|baseline| &baseline.counts);
    for (table, rows) in before.filter(|(table, _)| !found.contains_key(*table)) {
        let gone = check(table, CheckStatus::Warned)
            .expected(format!("at least {}", least(*rows, fall_percent)))
            .actual("no such table")
            .why("the last passed drill counted it");
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
        let baseline = Baseline {
            counts: [
                ("a".to_owned(), 100),
                ("b".to_owned(), 100),
                ("d".to_owned(), 7),
            ]
            .into(),
            ..Baseline::default()
        };
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

    #[test]
    fn an_older_state_is_not_measured_by_a_newer_one() {
        let at = |text: &str| text.parse::<Timestamp>().ok();
        let baseline = Baseline {
            reached_at: at("2026-11-20T00:00:00Z"),
            ..Baseline::default()
        };
        assert!(baseline.suits(at("2026-11-20T00:00:00Z")));
        assert!(!baseline.suits(at("2026-11-19T00:00:00Z")));
        assert!(!baseline.suits(None));
        assert!(!Baseline::default().suits(at("2026-11-19T00:00:00Z")));
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
