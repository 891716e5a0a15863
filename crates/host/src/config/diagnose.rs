//! Problems in a config file as people read them: place, line, caret, and what to write instead.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::ConfigFile;
use crate::codes::{self, Code};
use crate::files::FileError;

/// A config file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// None was given and none is at the default places.
    #[error(
        "there is no config file at {}; {}",
        searched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or "),
        remedy(searched)
    )]
    Missing {
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// It can't be read.
    #[error("the config file can't be read")]
    Unreadable(#[source] FileError),
    /// It was read and is not valid; every problem found.
    #[error("{}", problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n\n"))]
    Refused {
        /// At least one.
        problems: Vec<Problem>,
    },
}

/// Only the agent's config is made by a command; the restore tool needs none.
fn remedy(searched: &[PathBuf]) -> &'static str {
    let restore = ConfigFile::Restore.name();
    if searched.iter().any(|path| path.ends_with(restore)) {
        "none is needed: options say all that it could (--region, --identity). To have one: tidemark-restore init, or name it with --config FILE"
    } else {
        "tidemark-agent init makes one; or name it with --config FILE"
    }
}

impl ConfigError {
    /// The code that `explain` knows. A residency problem is named only if it is the only kind.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Missing { .. } => codes::CONFIG_MISSING,
            Self::Unreadable(_) => codes::CONFIG_INVALID,
            Self::Refused { problems } => {
                let kind = problems.iter().map(|problem| problem.kind).min();
                kind.unwrap_or(ProblemKind::Value).code()
            }
        }
    }
}

/// What sort of problem; the first in this order names the whole error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// A key that doesn't exist.
    UnknownKey,
    /// A value that can't be read, is out of range or missing.
    Value,
    /// Values that can't hold together.
    Conflict,
    /// A database that this build can't protect.
    Engine,
    /// A region outside the residency list.
    Residency,
}

impl ProblemKind {
    const fn code(self) -> Code {
        match self {
            Self::UnknownKey => codes::CONFIG_UNKNOWN_KEY,
            Self::Value => codes::CONFIG_INVALID,
            Self::Conflict => codes::CONFIG_CONFLICT,
            Self::Engine => codes::ENGINE_UNSUPPORTED,
            Self::Residency => codes::RESIDENCY,
        }
    }
}

/// One problem, with its place in the file where it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What sort.
    pub kind: ProblemKind,
    /// The file.
    pub file: PathBuf,
    /// Line and column, from 1; `None` for something that is missing as a whole.
    pub place: Option<(usize, usize)>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The line and how many of its characters are meant.
    excerpt: Option<(String, usize)>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if let (Some((line, column)), Some((text, width))) = (self.place, &self.excerpt) {
            let number = line.to_string();
            let margin = " ".repeat(number.len());
            let before = " ".repeat(column.saturating_sub(1));
            let carets = "^".repeat((*width).max(1));
            write!(
                f,
                "\n{margin} |\n{number} | {text}\n{margin} | {before}{carets}"
            )?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  = {hint}")?;
        }
        Ok(())
    }
}

/// A line as it may be shown: a connection string may hold a password, so of such a line only the key is.
fn without_secret((line, width): (String, usize)) -> (String, usize) {
    if !line.contains("postgres") && !line.contains("password") {
        return (line, width);
    }
    match line.split_once('=') {
        Some((key, _value)) => (format!("{key}= …"), 1),
        None => ("…".to_owned(), 1),
    }
}

/// A file's text, and the problems found in it so far.
#[derive(Debug)]
pub(super) struct Findings<'a> {
    file: &'a Path,
    text: &'a str,
    problems: Vec<Problem>,
}

/// A place in the text.
pub(super) type Span = Option<Range<usize>>;

impl<'a> Findings<'a> {
    pub(super) const fn new(file: &'a Path, text: &'a str) -> Self {
        Self {
            file,
            text,
            problems: Vec::new(),
        }
    }

    /// Notes a problem; the same one for a second source is not repeated.
    pub(super) fn add(
        &mut self,
        kind: ProblemKind,
        span: &Span,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        let (place, excerpt) = match span {
            Some(span) => {
                let (place, excerpt) = locate(self.text, span);
                (Some(place), Some(without_secret(excerpt)))
            }
            None => (None, None),
        };
        let file = self.file.to_owned();
        let problem = Problem {
            kind,
            file,
            place,
            message: message.into(),
            hint,
            excerpt,
        };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// A value that can't be used.
    pub(super) fn value(&mut self, span: &Span, message: impl Into<String>) {
        self.add(ProblemKind::Value, span, message, None);
    }

    /// Two values that can't hold together.
    pub(super) fn conflict(&mut self, span: &Span, message: impl Into<String>, hint: &str) {
        self.add(ProblemKind::Conflict, span, message, Some(hint.to_owned()));
    }

    /// `checked`, unless something was found.
    pub(super) fn finish<T>(mut self, checked: Option<T>) -> Result<T, ConfigError> {
        match checked {
            Some(checked) if self.problems.is_empty() => Ok(checked),
            _ => {
                // What is missing as a whole has no place: it comes after what can be pointed at.
                self.problems
                    .sort_by_key(|problem| (problem.place.is_none(), problem.place));
                Err(ConfigError::Refused {
                    problems: self.problems,
                })
            }
        }
    }

    /// What the TOML reader refused. `elsewhere` explains keys of other tables.
    pub(super) fn syntax(
        mut self,
        error: &toml::de::Error,
        elsewhere: &dyn Fn(&str, &[&str]) -> Option<String>,
    ) -> ConfigError {
        let span = error.span();
        if let Some((key, valid)) = unknown_key(error.message()) {
            let hint = elsewhere(key, &valid).unwrap_or_else(|| hint(key, &valid, "keys here"));
            let message = format!("unknown key `{key}`");
            self.add(ProblemKind::UnknownKey, &span, message, Some(hint));
        } else {
            let hint = if error.message().contains("expected a string") {
                Some("write the value in quotes, with its unit: \"10s\", \"128MiB\"")
            } else if error.message().contains("map, expected a sequence") {
                Some(
                    "there may be several, so write two brackets on each side: [[region]], [[source]]",
                )
            } else {
                None
            };
            let hint = hint.map(str::to_owned);
            self.add(ProblemKind::Value, &span, error.message(), hint);
        }
        ConfigError::Refused {
            problems: self.problems,
        }
    }
}

/// The key and the valid ones, out of serde's own words for an unknown field.
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once('`')?;
    // Every other piece between back quotes is a name.
    Some((key, rest.split('`').skip(1).step_by(2).collect()))
}

/// What may have been meant by a name that isn't among those `known`, and which there are: `what` says
/// what they are.
#[must_use]
pub fn hint(name: &str, known: &[&str], what: &str) -> String {
    let mut all = known.to_vec();
    all.sort_unstable();
    let list = format!("{what}: {}", all.join(", "));
    match nearest(name, known).as_slice() {
        [] => list,
        near => format!("did you mean {}? {list}", near.join(" or ")),
    }
}

/// Keys that somebody may have meant, the nearest first, at most two.
fn nearest<'k>(key: &str, valid: &[&'k str]) -> Vec<&'k str> {
    let reach = (key.len() / 3).clamp(1, 3);
    let mut near: Vec<(usize, &str)> = valid
        .iter()
        .map(|candidate| (distance(key, candidate), *candidate))
        .filter(|(distance, _)| *distance <= reach)
        .collect();
    near.sort_unstable();
    near.into_iter()
        .map(|(_, candidate)| candidate)
        .take(2)
        .collect()
}

/// Levenshtein distance, `-` and `_` taken as equal.
fn distance(one: &str, two: &str) -> usize {
    let letters = |text: &str| -> Vec<u8> {
        text.bytes()
            .map(|b| {
                if b == b'-' {
                    b'_'
                } else {
                    b.to_ascii_lowercase()
                }
            })
            .collect()
    };
    let (one, two) = (letters(one), letters(two));
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, (b, pair)) in two.iter().zip(row.windows(2)).enumerate() {
            let (diagonal, above) = (pair.first().copied(), pair.last().copied());
            let left = next.get(j).copied().unwrap_or(usize::MAX);
            let replaced = diagonal
                .unwrap_or(usize::MAX)
                .saturating_add(usize::from(a != b));
            let moved = above.unwrap_or(usize::MAX).min(left).saturating_add(1);
            next.push(replaced.min(moved));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

/// Line and column of a span's start, its line, and how many characters of that line it covers.
fn locate(text: &str, span: &Range<usize>) -> ((usize, usize), (String, usize)) {
    let start = floor(text, span.start);
    let before = text.get(..start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = text
        .get(line_start..)
        .and_then(|rest| rest.lines().next())
        .unwrap_or_default();
    let column = text
        .get(line_start..start)
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    let end = floor(text, span.end.min(line_start + line.len()));
    let width = text.get(start..end).unwrap_or_default().chars().count();
    let number = before.matches('\n').count() + 1;
    ((number, column), (line.to_owned(), width.max(1)))
}

/// The last character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_keys_are_found_and_far_ones_are_not() {
        let valid = ["ship_every", "snapshot_every", "beat_every", "memory"];
        assert_eq!(nearest("shipevery", &valid), ["ship_every"]);
        assert_eq!(nearest("ship-every", &valid), ["ship_every"]);
        assert_eq!(nearest("memroy", &valid), ["memory"]);
        assert!(nearest("colour", &valid).is_empty());
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn problems_come_in_the_files_order_and_what_is_missing_comes_last() {
        let text = "one\ntwo\nthree\n";
        let mut findings = Findings::new(Path::new("agent.toml"), text);
        findings.value(&None, "there is no source");
        findings.value(&Some(8..13), "third");
        findings.value(&Some(0..3), "first");
        findings.value(&Some(4..7), "second");
        let said = findings.finish(None::<()>).unwrap_err().to_string();
        let places: Vec<usize> = ["first", "second", "third", "there is no source"]
            .iter()
            .map(|word| said.find(word).unwrap())
            .collect();
        assert!(places.is_sorted(), "{said}");
    }

    #[test]
    fn a_place_is_counted_in_characters_and_the_caret_stays_on_its_line() {
        let text = "a = 1\né = \"two\nthree\"\n";
        let start = text.find('"').unwrap();
        let ((line, column), (excerpt, width)) = locate(text, &(start..text.len()));
        assert_eq!(
            (line, column, excerpt.as_str(), width),
            (2, 5, "é = \"two", 4)
        );
    }
}
