//! `policy check`: each clause of a policy, decided from what is on record. Needs no identity.
//!
//! Ends with 17 when a clause fails, with 3 when one is not proved or not yet, or a region could not be
//! read; with 0 when all of them hold.

use jiff::Timestamp;
use serde::Serialize;
use tidemark_format::SourceName;
use tidemark_host::Exit;
use tidemark_host::output::{self, Document, Table};
use tidemark_planner::objectives::{self as planner, Basis, Facts, Verdict};

use super::list::RegionAway;
use crate::cli::PolicyCommand;
use crate::error::{Error, Result};
use crate::evidence::shelf;
use crate::identity;
use crate::policies::{self, Looked, Policy};
use crate::repository::{Repository, Settings, Tools};

/// `policy check`.
#[derive(Debug, Clone, Serialize)]
struct Checked {
    /// The policy's name.
    policy: String,
    /// Whose it is.
    title: String,
    /// When it was judged.
    at: Timestamp,
    /// The repository.
    repository: String,
    /// Whether the root was pinned by an identity; else it is what the region itself says.
    root_pinned: bool,
    /// Regions that could not be read.
    away: Vec<RegionAway>,
    /// The worst verdict.
    verdict: Verdict,
    /// The sources.
    sources: Vec<SourceChecked>,
}

/// A source.
#[derive(Debug, Clone, Serialize)]
struct SourceChecked {
    /// Its name.
    source: SourceName,
    /// The worst verdict.
    verdict: Verdict,
    /// Every clause, in the policy's order.
    clauses: Vec<ClauseChecked>,
}

/// A clause.
#[derive(Debug, Clone, Serialize)]
struct ClauseChecked {
    /// Its name in the policy.
    id: String,
    /// What it is about.
    title: String,
    /// The policy's own words.
    words: String,
    /// How it stands.
    verdict: Verdict,
    /// What that rests on.
    basis: Basis,
    /// What was found.
    measured: String,
    /// What shows it.
    proof: Vec<String>,
    /// What to do next.
    next: Option<String>,
    /// What of the policy's words this verdict does not speak of.
    not_decided: Option<String>,
}

/// Runs one of them.
///
/// # Errors
/// The policy can't be read, or no region can.
pub async fn run(command: &PolicyCommand, settings: &Settings, tools: &Tools) -> Result<Exit> {
    let PolicyCommand::Check { policy } = command;
    let policy = policy.as_deref().map(Policy::load).transpose()?;
    let trust = identity::trust_if_at_hand(settings);
    let repository = Repository::open(settings, trust, tools).await?;
    let shelf = shelf::read(&repository, settings.state.as_deref()).await?;
    let names: Vec<SourceName> = match &settings.source {
        Some(name) => vec![repository.source(Some(name)).await?],
        None => repository.sources().await?.into_iter().collect(),
    };
    let mut sources = Vec::new();
    let mut shown: Option<Policy> = policy.clone();
    for source in names {
        let objectives = settings.objectives.of(&source);
        let own = policy
            .clone()
            .unwrap_or_else(|| Policy::promised(&objectives));
        let looked = Looked::for_policy(&own);
        let of = (&source, &objectives);
        let facts = policies::facts(&repository, &shelf, of, &looked, (settings, tools));
        let facts = Box::pin(facts).await?;
        sources.push(judged(&source, &own, &facts));
        shown.get_or_insert(own);
    }
    let Some(shown) = shown else {
        return Err(Error::NoSource {
            asked: "yet".to_owned(),
            known: String::new(),
        });
    };
    if sources.iter().all(|source| source.clauses.is_empty()) {
        return Err(Error::TargetText(
            "nothing is promised: name a policy (--policy NAME or FILE), or write [objectives] into restore.toml"
                .to_owned(),
        ));
    }
    let away = repository.away.iter().map(|away| RegionAway {
        region: away.name.clone(),
        why: tidemark_storage::chain(&away.error),
    });
    let checked = Checked {
        policy: shown.name,
        title: shown.title,
        at: tools.clock.now(),
        repository: repository.trust.repo.to_string(),
        root_pinned: repository.pinned,
        away: away.collect(),
        verdict: worst(sources.iter().map(|source| source.verdict)),
        sources,
    };
    tools.console.show(&checked);
    Ok(exit(checked.verdict, checked.away.is_empty()))
}

fn exit(worst: Verdict, all_read: bool) -> Exit {
    match worst {
        Verdict::Fail => Exit::Policy,
        Verdict::NotProved | Verdict::NotYet => Exit::Exceptions,
        Verdict::Pass if all_read => Exit::Ok,
        Verdict::Pass => Exit::Exceptions,
    }
}

fn worst(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    verdicts.max().unwrap_or(Verdict::NotProved)
}

fn judged(source: &SourceName, policy: &Policy, facts: &Facts) -> SourceChecked {
    let clauses: Vec<ClauseChecked> = policy
        .clauses
        .iter()
        .map(|clause| {
            let judged = planner::judge(&clause.rule, facts);
            ClauseChecked {
                id: clause.id.clone(),
                title: clause.title.clone(),
                words: clause.words.clone(),
                verdict: judged.verdict,
                basis: judged.basis,
                measured: judged.measured,
                proof: judged.proof,
                next: judged.next,
                not_decided: clause.not_decided.clone(),
            }
        })
        .collect();
    SourceChecked {
        source: source.clone(),
        verdict: worst(clauses.iter().map(|clause| clause.verdict)),
        clauses,
    }
}

impl Document for Checked {
    const SCHEMA: &'static str = "tidemark-restore.policy-check";

    fn text(&self, out: &mut String) {
        out.push_str(&format!("{} ({})\n", self.title, self.policy));
        for away in &self.away {
            out.push_str(&format!(
                "Region {} could not be read: {}\n",
                away.region, away.why
            ));
        }
        if !self.root_pinned {
            out.push_str("The root is the one that the region names itself: give --identity to compare it with your own\n");
        }
        for source in &self.sources {
            source.text(out);
        }
    }
}

impl SourceChecked {
    fn text(&self, out: &mut String) {
        let count = |verdict: Verdict| {
            let all = self
                .clauses
                .iter()
                .filter(|clause| clause.verdict == verdict);
            all.count()
        };
        let all = [
            Verdict::Pass,
            Verdict::Fail,
            Verdict::NotProved,
            Verdict::NotYet,
        ];
        let counts = all.iter().filter(|verdict| count(**verdict) > 0);
        let counts: Vec<String> = counts
            .map(|verdict| format!("{} {verdict}", count(*verdict)))
            .collect();
        let total = output::count(self.clauses.len(), "clause");
        out.push_str(&format!(
            "\n{}: {total}, {}\n",
            self.source,
            counts.join(", ")
        ));
        for clause in &self.clauses {
            clause.text(out);
        }
    }
}

impl ClauseChecked {
    fn text(&self, out: &mut String) {
        out.push_str(&format!(
            "\n  {}  {} ({})\n",
            self.verdict, self.title, self.id
        ));
        let mut table = Table::new();
        table.row(["says".to_owned(), format!("“{}”", self.words)]);
        table.row(["found".to_owned(), self.measured.clone()]);
        table.row(["basis".to_owned(), self.basis.to_string()]);
        if !self.proof.is_empty() {
            table.row(["proof".to_owned(), self.proof.join(", ")]);
        }
        if let Some(open) = &self.not_decided {
            table.row(["open".to_owned(), format!("not decided here: {open}")]);
        }
        if let Some(next) = &self.next {
            table.row(["next".to_owned(), next.clone()]);
        }
        table.write("    ", out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_by_the_worst_verdict_and_by_what_could_not_be_read() {
        for (verdict, all_read, ends) in [
            (Verdict::Pass, true, Exit::Ok),
            (Verdict::Pass, false, Exit::Exceptions),
            (Verdict::NotYet, true, Exit::Exceptions),
            (Verdict::NotProved, true, Exit::Exceptions),
            (Verdict::Fail, false, Exit::Policy),
        ] {
            assert_eq!(exit(verdict, all_read), ends);
        }
        let all = [Verdict::NotYet, Verdict::Fail, Verdict::Pass];
        assert_eq!(worst(all.into_iter()), Verdict::Fail);
    }

    #[test]
    fn a_screen_shows_each_clause_with_its_words_and_what_to_do() {
        let facts = Facts::new("2026-11-22T12:00:00Z".parse().unwrap());
        let policy = Policy::load("soc2").unwrap();
        let source = judged(&"app".parse().unwrap(), &policy, &facts);
        let mut screen = String::new();
        source.text(&mut screen);
        for words in [
            "app: 11 clauses, 1 FAIL, ",
            "FAIL  Full backups made and retained (full-backups)",
            "“Service data is encrypted-at-rest.”",
            "basis  measured",
            "next   tidemark-agent snapshot --base on its host",
            "open   not decided here: how the database itself and other services store their data",
        ] {
            assert!(screen.contains(words), "no {words:?} in:\n{screen}");
        }
    }
}
