//! What a restored database is asked, and what it answers: plain types.
//!
//! An engine examines a database that a restore has put into a sandbox. Questions go in as a file,
//! answers come out as one, for the process that runs the database holds no key, and the process that
//! holds keys never runs the database.
//!
//! # Invariants
//!
//! - No row of the user's is ever in an answer: only counts, digests, durations, and the single values
//!   of the user's own statements, of which text is kept as a digest ([`as_recorded`]).
//! - An engine tells what it saw. Whether a count or an answer is as it should be is decided where the
//!   expectations are, by the planner.
//! - A check that could not be made is [`Status::NotRun`] with the reason, never left out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_format::Hash;

/// The rung of the ladder that a finding belongs to: the pages as they lie on the disk.
pub const LEVEL_MATERIALISE: &str = "materialise";
/// The rung of replay: where the log ended, and the canary.
pub const LEVEL_REPLAY: &str = "replay";
/// The rung of logical checks: what the database says of itself.
pub const LEVEL_LOGICAL: &str = "logical";

/// Characters kept of a text that tells what a database said: enough for its message, too few for rows.
pub const TOLD_MAX: usize = 400;

/// What a restored database is asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Questions {
    /// Every check that reads everything: `integrity_check` instead of `quick_check`, amcheck over every
    /// index instead of those of the catalogs.
    pub full: bool,
    /// Whether the source keeps a canary that must be read back.
    pub canary: bool,
    /// Whether rows are counted, table by table.
    pub counts: bool,
    /// Statements of the user's own, each of which answers one value.
    pub statements: Vec<Statement>,
    /// The longest that one statement, and one check of one table, may take.
    pub statement_seconds: Option<u32>,
}

/// A statement of the user's that answers one value. What the value should be is the planner's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Its name, in answers.
    pub id: String,
    /// The database it is asked in, for an engine that has several; else the one of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// One SELECT.
    pub sql: String,
}

/// What a restored database answered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Examined {
    /// Every check, in the order it was made.
    pub findings: Vec<Finding>,
    /// Rows per table: `table` for SQLite, `database.schema.table` for a server.
    pub counts: BTreeMap<String, u64>,
    /// A digest over all definitions, equal for equal schemas.
    pub schema_digest: Option<String>,
    /// A digest over the whole content, where the engine has one that the source's can be compared with.
    pub content_digest: Option<String>,
    /// Collation → the version that the machine of the sandbox has of it.
    pub collations: BTreeMap<String, String>,
    /// The newest canary found, if one was asked for.
    pub canary: Option<CanarySeen>,
    /// When the last transaction that the database replayed was committed.
    pub last_commit: Option<Timestamp>,
    /// What had to be mended before the database could be used, each in one line: `reindex …`.
    pub fixes: Vec<String>,
    /// The user's statements: name → what was answered ([`as_recorded`]), or why there is no answer.
    pub answers: BTreeMap<String, Result<String, String>>,
    /// Settings as they were in force while the database was asked.
    pub settings: BTreeMap<String, String>,
    /// Settings of the source that were found in the restored files and kept from taking effect: name →
    /// a digest of the value, for values hold addresses and passwords.
    pub left_over: BTreeMap<String, String>,
    /// Global ids of transactions that stand prepared, as digests.
    pub prepared: Vec<String>,
    /// Bytes of the database on the disk.
    pub size_bytes: u64,
    /// The server that was run, as it names itself; or the library.
    pub server: Option<String>,
}

/// One check and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable name: `sqlite.integrity`, `postgres.checksums`.
    pub id: String,
    /// The rung: [`LEVEL_MATERIALISE`], [`LEVEL_REPLAY`] or [`LEVEL_LOGICAL`].
    pub level: String,
    /// The check in words, as a person reads it.
    pub name: String,
    /// What came of it.
    pub status: Status,
    /// What it should have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    /// Why it is so, or why it was not made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How long it took.
    pub took_ms: u64,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It was as it must be.
    Passed,
    /// It was not.
    Failed,
    /// Worth a person's look; a drill with it passes with exceptions at best.
    Warned,
    /// Nothing to compare with: written down.
    Recorded,
    /// It could not be made; the reason is told.
    NotRun,
}

/// The newest canary in a restored database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanarySeen {
    /// Its number.
    pub seq: u64,
    /// When the agent wrote it, by the clock of its host.
    pub at: Timestamp,
    /// Whether the canary after it is absent, as it must be.
    pub next_absent: bool,
    /// Canaries found.
    pub rows: u64,
}

impl Finding {
    /// A finding without details.
    #[must_use]
    pub fn new(level: &str, id: &str, name: impl Into<String>, status: Status) -> Self {
        Self {
            id: id.to_owned(),
            level: level.to_owned(),
            name: name.into(),
            status,
            expected: None,
            actual: None,
            why: None,
            took_ms: 0,
        }
    }

    /// With what it should have been and what it was.
    #[must_use]
    pub fn compared(mut self, expected: impl Into<String>, actual: impl Into<String>) -> Self {
        self.expected = Some(told(&expected.into()));
        self.actual = Some(told(&actual.into()));
        self
    }

    /// With what it was, nothing to compare with.
    #[must_use]
    pub fn actual(mut self, actual: impl Into<String>) -> Self {
        self.actual = Some(told(&actual.into()));
        self
    }

    /// With the reason.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(told(&why.into()));
        self
    }

    /// With the time it took.
    #[must_use]
    pub fn took(mut self, took: std::time::Duration) -> Self {
        self.took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self
    }
}

/// A text cut to [`TOLD_MAX`] characters, on one line.
#[must_use]
pub fn told(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(TOLD_MAX)
        .collect();
    if text.chars().count() > TOLD_MAX {
        line.push('…');
    }
    line
}

/// How an answer of the user's own statement is written down: a number, a truth value or "null" as it
/// is, any other text as its digest. An expectation goes the same way before it is compared.
#[must_use]
pub fn as_recorded(answer: &str) -> String {
    let text = answer.trim();
    match text {
        "t" | "true" => return "true".to_owned(),
        "f" | "false" => return "false".to_owned(),
        "null" => return "null".to_owned(),
        _ => {}
    }
    let number = text.len() <= 40
        && text.bytes().any(|b| b.is_ascii_digit())
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'))
        && text.parse::<f64>().is_ok_and(f64::is_finite);
    if number {
        return text.to_owned();
    }
    format!("blake3:{}", Hash::of(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_readable_and_text_leaves_only_its_digest() {
        assert_eq!(as_recorded(" 42 "), "42");
        assert_eq!(as_recorded("-1.5e3"), "-1.5e3");
        assert_eq!(as_recorded("t"), "true");
        assert_eq!(as_recorded("null"), "null");
        for text in ["anna@example.org", "inf", "nan", "2026-11-22", "1 2", ""] {
            let kept = as_recorded(text);
            assert!(kept.starts_with("blake3:"), "{text:?} became {kept}");
            assert_eq!(kept, as_recorded(text));
        }
    }

    #[test]
    fn what_a_database_said_is_kept_short_and_on_one_line() {
        assert_eq!(told("a\nb"), "a b");
        assert_eq!(told(&"x".repeat(1000)).chars().count(), TOLD_MAX + 1);
    }

    #[test]
    fn answers_go_through_a_file_and_come_back() {
        let mut examined = Examined {
            size_bytes: 7,
            ..Examined::default()
        };
        examined.answers.insert("a".to_owned(), Ok("1".to_owned()));
        examined
            .answers
            .insert("b".to_owned(), Err("no such table".to_owned()));
        examined.findings.push(
            Finding::new(LEVEL_LOGICAL, "x", "An x", Status::NotRun).why("there is no x here"),
        );
        let text = serde_json::to_string(&examined).unwrap();
        assert_eq!(serde_json::from_str::<Examined>(&text).unwrap(), examined);
    }

    #[test]
    fn a_later_field_does_not_stop_an_earlier_reader() {
        let examined: Examined =
            serde_json::from_str(r#"{"size_bytes": 3, "something_new": true}"#).unwrap();
        assert_eq!(examined.size_bytes, 3);
    }
}
