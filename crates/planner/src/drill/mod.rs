//! What a restore drill proves, decided from what was measured.
//!
//! A drill climbs a ladder: chain → ciphertext → decrypt → materialise → replay → logical → scenario.
//! Each rung is a set of [`Check`]s. Everything here is pure: which instant is drilled ([`select`]), how
//! long it took and would take ([`timing`]), what was lost and how exact the instant was ([`measure`]),
//! whether a value is as expected ([`expect`]), what it all means ([`verdict`]), and whether what was
//! restored once is still there ([`kept`]).
//!
//! # Invariants
//!
//! - A check without an expectation is never passed: it is recorded.
//! - A rung is reached if every rung below it was, at least one check of it passed and none failed.
//! - What did not run counts for nothing; infrastructure that failed makes a drill inconclusive, and an
//!   inconclusive drill counts as none.
//! - Nothing here raises a verdict: every rule can only lower it.

pub mod expect;
pub mod kept;
pub mod measure;
pub mod select;
pub mod timing;
pub mod verdict;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use expect::{Baseline, Earlier, Expectation, Tolerance};
pub use measure::{Loss, Measured, Precision, Witness};
pub use select::{Chosen, Select};
pub use timing::{Phase, Timing};
pub use verdict::{Judged, Objectives, Observed, Verdict, judge};

/// How far up the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Every object that the restore needs is there, signed and linked, in every region.
    Chain,
    /// Its bytes are the ones that were signed.
    Ciphertext,
    /// The identity opens them.
    Decrypt,
    /// They are laid out as files that are what the source's were.
    Materialise,
    /// The log was replayed to the very place that was meant.
    Replay,
    /// The database itself says that it is whole, and answers as expected.
    Logical,
    /// And all that under the conditions of a scenario.
    Scenario,
}

impl Rung {
    /// All, from the bottom.
    pub const ALL: [Self; 7] = [
        Self::Chain,
        Self::Ciphertext,
        Self::Decrypt,
        Self::Materialise,
        Self::Replay,
        Self::Logical,
        Self::Scenario,
    ];

    /// As records and screens name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Ciphertext => "ciphertext",
            Self::Decrypt => "decrypt",
            Self::Materialise => "materialise",
            Self::Replay => "replay",
            Self::Logical => "logical",
            Self::Scenario => "scenario",
        }
    }

    /// The rung of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rung| rung.name() == name)
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// It was as expected.
    Passed,
    /// It was not.
    Failed,
    /// Worth a person's look.
    Warned,
    /// There was nothing to compare with, or it proves nothing of the backup.
    Recorded,
    /// It could not be made.
    NotRun,
}

impl CheckStatus {
    /// As records name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Warned => "warned",
            Self::Recorded => "recorded",
            Self::NotRun => "not_run",
        }
    }
}

/// One check, as it stands in the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// A stable name.
    pub id: String,
    /// The rung.
    pub level: Rung,
    /// In words.
    pub name: String,
    /// Of a user's statement, what tells it from another one of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement_sha256: Option<String>,
    /// What it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    /// How far from it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<String>,
    /// What came of it.
    pub status: CheckStatus,
    /// Why it is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How long it took.
    #[serde(default)]
    pub duration_ms: u64,
}

impl Check {
    /// A check without details.
    #[must_use]
    pub fn new(
        level: Rung,
        id: impl Into<String>,
        name: impl Into<String>,
        status: CheckStatus,
    ) -> Self {
        Self {
            id: id.into(),
            level,
            name: name.into(),
            statement_sha256: None,
            expected: None,
            actual: None,
            tolerance: None,
            status,
            why: None,
            duration_ms: 0,
        }
    }

    /// Passed or failed, as `good` says.
    #[must_use]
    pub fn of(level: Rung, id: impl Into<String>, name: impl Into<String>, good: bool) -> Self {
        let status = if good {
            CheckStatus::Passed
        } else {
            CheckStatus::Failed
        };
        Self::new(level, id, name, status)
    }

    /// With what it was.
    #[must_use]
    pub fn actual(mut self, actual: impl Into<String>) -> Self {
        self.actual = Some(actual.into());
        self
    }

    /// With what it should have been.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// With the reason.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// The line that names it where it failed.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut line = format!("{}: {}", self.level, self.name);
        match (&self.expected, &self.actual) {
            (Some(expected), Some(actual)) => {
                line.push_str(&format!(": expected {expected}, found {actual}"));
            }
            (None, Some(actual)) => line.push_str(&format!(": {actual}")),
            (_, None) => {}
        }
        if let Some(why) = &self.why {
            line.push_str(&format!(": {why}"));
        }
        line
    }
}

/// The highest rung that was reached. A scenario is a rung only where one was asked for.
#[must_use]
pub fn reached(checks: &[Check]) -> Option<Rung> {
    let mut highest = None;
    for rung in Rung::ALL {
        let mut own = checks.iter().filter(|check| check.level == rung);
        let passed = own.clone().any(|check| check.status == CheckStatus::Passed);
        if !passed || own.any(|check| check.status == CheckStatus::Failed) {
            break;
        }
        highest = Some(rung);
    }
    highest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(rung: Rung) -> Check {
        Check::of(rung, rung.name(), "a check", true)
    }

    #[test]
    fn a_rung_is_reached_only_over_all_the_rungs_below_it() {
        assert_eq!(reached(&[]), None);
        let mut checks: Vec<Check> = Rung::ALL[..4].iter().map(|rung| passed(*rung)).collect();
        assert_eq!(reached(&checks), Some(Rung::Materialise));
        checks.push(passed(Rung::Logical));
        assert_eq!(
            reached(&checks),
            Some(Rung::Materialise),
            "replay was not proved"
        );
        checks.push(Check::new(Rung::Replay, "x", "x", CheckStatus::Recorded));
        assert_eq!(reached(&checks), Some(Rung::Materialise));
        checks.push(passed(Rung::Replay));
        assert_eq!(reached(&checks), Some(Rung::Logical));
        checks.push(Check::of(Rung::Ciphertext, "y", "y", false));
        assert_eq!(reached(&checks), Some(Rung::Chain));
    }

    #[test]
    fn rungs_are_named_for_life() {
        for rung in Rung::ALL {
            assert_eq!(Rung::of_name(rung.name()), Some(rung));
            let json = serde_json::to_value(rung).unwrap();
            assert_eq!(json, rung.name());
        }
        assert_eq!(Rung::of_name("roof"), None);
    }

    #[test]
    fn a_failed_check_is_named_with_both_values_and_the_reason() {
        let check = Check::of(Rung::Logical, "rows", "rows of orders", false)
            .expected("10")
            .actual("9")
            .why("the assertion of drill nightly");
        assert_eq!(
            check.sentence(),
            "logical: rows of orders: expected 10, found 9: the assertion of drill nightly"
        );
    }
}
