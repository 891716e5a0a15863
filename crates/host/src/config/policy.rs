//! Policy files: a published policy's clauses, each with its own words and how it is decided.
//!
//! Host knows no planner: whether a clause's kind and what stands beside it fit together is asked
//! through a function.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::diagnose::{ConfigError, Findings, Span};
use super::regions::{Country, parsed, required};
use crate::{duration, files};

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFile {
    /// Its name.
    pub name: String,
    /// Whose it is, and what it is called.
    pub title: String,
    /// Its clauses, in order.
    pub clauses: Vec<PolicyClause>,
}

/// A clause of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyClause {
    /// Its name in the policy.
    pub id: String,
    /// What it is about.
    pub title: String,
    /// The policy's own words.
    pub words: String,
    /// How it is decided.
    pub kind: String,
    /// How much, or how long, at most.
    pub within: Option<Duration>,
    /// How far back.
    pub over: Option<Duration>,
    /// How often.
    pub every: Option<Repeat>,
    /// How many at least.
    pub at_least: Option<usize>,
    /// How many people at most.
    pub people_max: Option<usize>,
    /// Countries.
    pub countries: Vec<Country>,
    /// Only drills of a disaster count.
    pub scenario: bool,
    /// Only drills that were signed off count.
    pub signed_off: bool,
    /// Only what was probed counts.
    pub probed: bool,
    /// What of the policy's words is not decided by it.
    pub not_decided: Option<String>,
}

/// How often something is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// In every month of the calendar.
    Month,
    /// Never longer apart.
    Time(Duration),
}

/// What is wrong with a clause: the key, and in words.
pub type ClauseRefusal = (&'static str, String);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    name: Option<Spanned<String>>,
    title: Option<Spanned<String>>,
    #[serde(default)]
    clause: Vec<Spanned<RawClause>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClause {
    id: Option<Spanned<String>>,
    title: Option<Spanned<String>>,
    words: Option<Spanned<String>>,
    kind: Option<Spanned<String>>,
    within: Option<Spanned<String>>,
    over: Option<Spanned<String>>,
    every: Option<Spanned<String>>,
    at_least: Option<Spanned<i64>>,
    people_max: Option<Spanned<i64>>,
    #[serde(default)]
    countries: Vec<Spanned<String>>,
    scenario: Option<Spanned<bool>>,
    signed_off: Option<Spanned<bool>>,
    probed: Option<Spanned<bool>>,
    not_decided: Option<Spanned<String>>,
}

impl PolicyFile {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`]; when the file was read, with every problem in it.
    pub fn load(
        path: &Path,
        check: &dyn Fn(&PolicyClause) -> Result<(), ClauseRefusal>,
    ) -> Result<Self, ConfigError> {
        let text = files::read_text(path).map_err(ConfigError::Unreadable)?;
        Self::parse(&text, path, check)
    }

    /// Checks `text` as the content of `file`. `check` says why a clause's kind and what stands beside it
    /// can't be used.
    ///
    /// # Errors
    /// [`ConfigError::Refused`] with every problem.
    pub fn parse(
        text: &str,
        file: &Path,
        check: &dyn Fn(&PolicyClause) -> Result<(), ClauseRefusal>,
    ) -> Result<Self, ConfigError> {
        let mut findings = Findings::new(file, text);
        let raw: RawPolicy = match toml::from_str(text) {
            Ok(raw) => raw,
            Err(error) => return Err(findings.syntax(&error, &|_key, _valid| None)),
        };
        let name = required(raw.name, "name = \"…\"", &None, &mut findings);
        let title = required(raw.title, "title = \"…\"", &None, &mut findings);
        if raw.clause.is_empty() {
            findings.value(
                &None,
                "there is no [[clause]]: a policy promises at least one thing",
            );
        }
        let mut ids = BTreeSet::new();
        let mut clauses = Vec::new();
        for raw in raw.clause {
            let (clause, id_at) = one(raw, check, &mut findings);
            let Some(clause) = clause else { continue };
            if !ids.insert(clause.id.clone()) {
                findings.value(&id_at, format!("two clauses are called {:?}", clause.id));
            }
            clauses.push(clause);
        }
        let policy = name.zip(title).map(|(name, title)| Self {
            name: name.into_inner(),
            title: title.into_inner(),
            clauses,
        });
        findings.finish(policy)
    }
}

fn one(
    raw: Spanned<RawClause>,
    check: &dyn Fn(&PolicyClause) -> Result<(), ClauseRefusal>,
    findings: &mut Findings<'_>,
) -> (Option<PolicyClause>, Span) {
    let table: Span = Some(raw.span());
    let raw = raw.into_inner();
    let spans = raw.spans();
    let id_at = raw.id.as_ref().map(Spanned::span);
    let id = required(raw.id, "id = \"…\"", &table, findings);
    let title = required(raw.title, "title = \"…\"", &table, findings);
    let words = required(
        raw.words,
        "words = \"…\", quoted from the policy",
        &table,
        findings,
    );
    let kind = required(raw.kind, "kind = \"…\"", &table, findings);
    let within = time(raw.within.as_ref(), findings);
    let over = time(raw.over.as_ref(), findings);
    let every = match raw.every {
        Some(every) if every.get_ref() == "month" => Some(Repeat::Month),
        every => time(every.as_ref(), findings).map(Repeat::Time),
    };
    let at_least = count(raw.at_least.as_ref(), findings);
    let people_max = count(raw.people_max.as_ref(), findings);
    let countries = raw
        .countries
        .iter()
        .filter_map(|text| parsed(text, findings))
        .collect();
    let flag = |flag: Option<Spanned<bool>>| flag.is_some_and(Spanned::into_inner);
    let (Some(id), Some(title), Some(words), Some(kind)) = (id, title, words, kind) else {
        return (None, id_at);
    };
    for text in [Some(&id), Some(&words), raw.not_decided.as_ref()]
        .into_iter()
        .flatten()
    {
        if text.get_ref().trim().is_empty() {
            findings.value(&Some(text.span()), "this can't be empty");
        }
    }
    let clause = PolicyClause {
        id: id.into_inner(),
        title: title.into_inner(),
        words: words.into_inner(),
        kind: kind.into_inner(),
        within,
        over,
        every,
        at_least,
        people_max,
        countries,
        scenario: flag(raw.scenario),
        signed_off: flag(raw.signed_off),
        probed: flag(raw.probed),
        not_decided: raw.not_decided.map(Spanned::into_inner),
    };
    if let Err((key, why)) = check(&clause) {
        let place = spans.iter().find(|(name, _)| *name == key);
        findings.value(&place.map_or(table, |(_, span)| span.clone()), why);
    }
    (Some(clause), id_at)
}

impl RawClause {
    /// Where each key stands.
    fn spans(&self) -> Vec<(&'static str, Span)> {
        let text = |value: &Option<Spanned<String>>| value.as_ref().map(Spanned::span);
        let number = |value: &Option<Spanned<i64>>| value.as_ref().map(Spanned::span);
        let flag = |value: &Option<Spanned<bool>>| value.as_ref().map(Spanned::span);
        let all = [
            ("kind", text(&self.kind)),
            ("within", text(&self.within)),
            ("over", text(&self.over)),
            ("every", text(&self.every)),
            ("at_least", number(&self.at_least)),
            ("people_max", number(&self.people_max)),
            ("countries", self.countries.first().map(Spanned::span)),
            ("scenario", flag(&self.scenario)),
            ("signed_off", flag(&self.signed_off)),
            ("probed", flag(&self.probed)),
        ];
        all.into_iter().filter(|(_, span)| span.is_some()).collect()
    }
}

fn time(text: Option<&Spanned<String>>, findings: &mut Findings<'_>) -> Option<Duration> {
    let text = text?;
    match duration::parse(text.get_ref()) {
        Ok(time) => Some(time),
        Err(error) => {
            findings.value(&Some(text.span()), error.to_string());
            None
        }
    }
}

fn count(number: Option<&Spanned<i64>>, findings: &mut Findings<'_>) -> Option<usize> {
    let number = number?;
    match usize::try_from(*number.get_ref()) {
        Ok(count) if count > 0 => Some(count),
        _ => {
            let message = format!("{} is no number of anything: at least 1", number.get_ref());
            findings.value(&Some(number.span()), message);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAUSE: &str =
        "[[clause]]\nid = \"a\"\ntitle = \"A\"\nwords = \"We do.\"\nkind = \"drill\"\n";

    fn parse(text: &str) -> Result<PolicyFile, String> {
        let text = format!("name = \"own\"\ntitle = \"Own\"\n{text}");
        let check = |clause: &PolicyClause| match clause.within {
            Some(_) => Err(("within", "within means nothing here".to_owned())),
            None => Ok(()),
        };
        PolicyFile::parse(&text, Path::new("own.toml"), &check).map_err(|error| error.to_string())
    }

    #[test]
    fn a_clause_has_its_words_and_how_it_is_decided() {
        let policy = parse(&format!(
            "{CLAUSE}every = \"month\"\nover = \"366d\"\nscenario = true\n"
        ))
        .unwrap();
        let clause = &policy.clauses[0];
        assert_eq!(clause.words, "We do.");
        assert_eq!(clause.every, Some(Repeat::Month));
        assert_eq!(clause.over, Some(Duration::from_secs(366 * 86_400)));
        assert!(clause.scenario && !clause.signed_off);
    }

    #[test]
    fn what_can_not_be_used_is_refused_with_line_and_caret() {
        for (text, words) in [
            (
                format!("{CLAUSE}withn = \"5m\"\n"),
                "own.toml:8:1: unknown key `withn`",
            ),
            (format!("{CLAUSE}withn = \"5m\"\n"), "^^^^^"),
            (
                format!("{CLAUSE}within = \"5m\"\n"),
                "own.toml:8:10: within means nothing here",
            ),
            (format!("{CLAUSE}every = \"often\"\n"), "own.toml:8:9"),
            (format!("{CLAUSE}at_least = 0\n"), "at least 1"),
            (format!("{CLAUSE}{CLAUSE}"), "two clauses are called \"a\""),
            ("[[clause]]\nid = \"a\"\n".to_owned(), "this needs words"),
            (String::new(), "there is no [[clause]]"),
            (CLAUSE.replace("We do.", " "), "this can't be empty"),
        ] {
            let refused = parse(&text).unwrap_err();
            assert!(refused.contains(words), "{words:?} isn't in:\n{refused}");
        }
    }
}
