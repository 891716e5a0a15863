//! Policies: whose clauses are judged, and the facts they are judged by.
//!
//! A preset quotes a published policy in its own words; a file of the same form may take its place, and
//! what `[objectives]` of the config promises is a policy, too. `planner` judges; here the facts are
//! gathered: from signed objects, from evidence, from the stores' own times, and last from what somebody
//! declared, which is called that.

mod beats;
mod exposed;
mod gather;
mod links;
mod loss;
mod places;
mod records;

use std::path::Path;
use std::time::Duration;

use tidemark_host::config::{ConfigError, Objectives, PolicyClause, PolicyFile, Repeat};
use tidemark_host::duration;
use tidemark_planner::objectives::{Every, Parameters, Rule};

pub use gather::{Looked, facts};
pub use records::KEYS_LIST;

use crate::error::{Error, Result};

/// The published policies that are part of this program, by name.
pub const PRESETS: [(&str, &str); 5] = [
    (
        "tasklexa",
        include_str!("../../../config/policies/tasklexa.toml"),
    ),
    (
        "heretask",
        include_str!("../../../config/policies/heretask.toml"),
    ),
    ("soc2", include_str!("../../../config/policies/soc2.toml")),
    (
        "loadster",
        include_str!("../../../config/policies/loadster.toml"),
    ),
    (
        "xaasware",
        include_str!("../../../config/policies/xaasware.toml"),
    ),
];

/// What an own promise is judged over where nothing is said.
const MONTH: Duration = Duration::from_secs(30 * 86_400);
/// A drill that shows how long a restore takes is no older than this.
const RTO_OVER: Duration = Duration::from_secs(92 * 86_400);

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Whose it is, and what it is called.
    pub title: String,
    /// Its clauses, in order.
    pub clauses: Vec<Clause>,
}

/// A clause of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// Its name in the policy.
    pub id: String,
    /// What it is about.
    pub title: String,
    /// The policy's own words.
    pub words: String,
    /// How it is decided.
    pub rule: Rule,
    /// What of its words is not decided by that.
    pub not_decided: Option<String>,
}

impl Policy {
    /// A preset by its name, or a file.
    ///
    /// # Errors
    /// There is no such preset or file, or it can't be used.
    pub fn load(word: &str) -> Result<Self> {
        if let Some((name, text)) = PRESETS.iter().find(|(name, _)| *name == word) {
            let file = format!("{name}.toml");
            let read = PolicyFile::parse(text, Path::new(&file), &check);
            return Ok(Self::of(read?));
        }
        let path = Path::new(word);
        if !path.exists() {
            let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
            return Err(Error::TargetText(format!(
                "there is neither a policy nor a file called {word:?}; policies: {}",
                names.join(", ")
            )));
        }
        let read: std::result::Result<PolicyFile, ConfigError> = PolicyFile::load(path, &check);
        Ok(Self::of(read?))
    }

    fn of(file: PolicyFile) -> Self {
        let clauses = file.clauses.into_iter().filter_map(|clause| {
            // What can't be read was refused with its place before.
            let rule = rule(&clause).ok()?;
            Some(Clause {
                id: clause.id,
                title: clause.title,
                words: clause.words,
                rule,
                not_decided: clause.not_decided,
            })
        });
        Self {
            clauses: clauses.collect(),
            name: file.name,
            title: file.title,
        }
    }

    /// What a config promises of a source.
    #[must_use]
    pub fn promised(objectives: &Objectives) -> Self {
        let over = objectives.window.unwrap_or(MONTH);
        let timed = [
            objectives
                .rpo
                .map(|within| ("rpo", within, Rule::Rpo { within, over })),
            objectives.rto.map(|within| {
                let over = RTO_OVER;
                ("rto", within, Rule::Rto { within, over })
            }),
            objectives
                .pitr_precision
                .map(|within| ("pitr_precision", within, Rule::Pitr { within, over })),
            objectives.kept_at_most.map(|most| {
                let within = Some(most);
                ("kept_at_most", most, Rule::KeptAtMost { within })
            }),
            objectives
                .drill_every
                .map(|every| ("drill_every", every, drills(every))),
        ];
        let mut clauses: Vec<Clause> = timed
            .into_iter()
            .flatten()
            .map(|(id, time, rule)| own(id, &format!("\"{}\"", duration::render(time)), rule))
            .collect();
        if !objectives.residency.is_empty() {
            let countries = objectives.residency.iter().map(ToString::to_string);
            let countries: Vec<String> = countries.collect();
            let written = format!("{countries:?}");
            let probed = false;
            clauses.push(own(
                "residency",
                &written,
                Rule::Residency { countries, probed },
            ));
        }
        if !objectives.people.is_empty() || !objectives.machines.is_empty() {
            let written = format!("{:?}", objectives.people);
            clauses.push(own(
                "people",
                &written,
                Rule::NamedPeople { people_max: None },
            ));
        }
        Self {
            name: "objectives".to_owned(),
            title: "what [objectives] of restore.toml promises".to_owned(),
            clauses,
        }
    }

    /// How far back the history has to be looked at.
    #[must_use]
    pub fn over(&self) -> Duration {
        let all = self.clauses.iter().filter_map(|clause| match &clause.rule {
            Rule::Rpo { over, .. }
            | Rule::Pitr { over, .. }
            | Rule::FullBackups { over, .. }
            | Rule::Snapshots { over, .. } => Some(*over),
            _ => None,
        });
        all.max().unwrap_or(Duration::ZERO)
    }

    /// The longest exposure that no clause minds: what is longer is looked at closely.
    #[must_use]
    pub fn finest(&self) -> Duration {
        let all = self.clauses.iter().filter_map(|clause| match &clause.rule {
            Rule::Rpo { within, .. } | Rule::Pitr { within, .. } => Some(*within),
            Rule::Snapshots { every, .. } => Some(*every),
            _ => None,
        });
        all.min().unwrap_or(Duration::MAX)
    }

    /// Whether a clause tells how long the longest exposure was.
    #[must_use]
    pub fn tells_exposure(&self) -> bool {
        let mut rules = self.clauses.iter().map(|clause| &clause.rule);
        rules.any(|rule| matches!(rule, Rule::Rpo { .. }))
    }

    /// Whether every head of the window is to be read.
    #[must_use]
    pub fn wants_every_head(&self) -> bool {
        self.clauses
            .iter()
            .any(|clause| matches!(clause.rule, Rule::Pitr { .. }))
    }
}

/// A clause of what a config promises, quoted as it is written there.
fn own(id: &str, written: &str, rule: Rule) -> Clause {
    let title = match id {
        "rpo" => "Recovery point objective",
        "rto" => "Recovery time objective",
        "pitr_precision" => "Any instant of the window",
        "kept_at_most" => "Kept no longer",
        "drill_every" => "Drills",
        "residency" => "Where copies stand",
        _ => "Who can decrypt",
    };
    Clause {
        id: id.to_owned(),
        title: title.to_owned(),
        words: format!("{id} = {written}"),
        rule,
        not_decided: None,
    }
}

/// Drills as often as a config promises.
const fn drills(every: Duration) -> Rule {
    Rule::Drill {
        every: Every::Time(every),
        over: every.saturating_mul(2),
        scenario: false,
        signed_off: false,
    }
}

fn rule(
    clause: &PolicyClause,
) -> std::result::Result<Rule, tidemark_planner::objectives::RuleError> {
    let parameters = Parameters {
        within: clause.within,
        over: clause.over,
        every: clause.every.map(|every| match every {
            Repeat::Month => Every::Month,
            Repeat::Time(time) => Every::Time(time),
        }),
        at_least: clause.at_least,
        people_max: clause.people_max,
        countries: clause.countries.iter().map(ToString::to_string).collect(),
        scenario: clause.scenario,
        signed_off: clause.signed_off,
        probed: clause.probed,
    };
    Rule::read(&clause.kind, &parameters)
}

fn check(clause: &PolicyClause) -> std::result::Result<(), (&'static str, String)> {
    rule(clause)
        .map(|_rule| ())
        .map_err(|error| (error.key, error.message))
}

#[cfg(test)]
mod tests {
    use tidemark_format::evidence::Sha256;

    use super::*;

    /// Each preset's number of clauses, and the SHA-256 of its clauses' words, one a line: they are quoted
    /// from what its owner published, and nobody mends a quotation.
    const QUOTED: [(&str, usize, &str); 5] = [
        (
            "tasklexa",
            5,
            "0514d760b7a77afb28f38d678581d89b8a902d5320eae2537ad5485587a3ff1a",
        ),
        (
            "heretask",
            8,
            "974a36ad73510f6652da555a4be0b27d2cd148e50722f701a62763f45008cdaa",
        ),
        (
            "soc2",
            11,
            "b4d24017033d88e16aa7c12116fb1d64b71f81423bb8e9d67a5ba934e2e57a11",
        ),
        (
            "loadster",
            6,
            "960dd14627678e2f0615a87fde126aa8b04266b7495091839ac4a844dfbf12ff",
        ),
        (
            "xaasware",
            9,
            "3c3d5845c73fc393bb56a441f3523b9d4aa76bc410e45f48d85558769f526f21",
        ),
    ];

    #[test]
    fn every_preset_can_be_read_and_quotes_the_policy_it_is_named_after() {
        for ((name, clauses, digest), (preset, _)) in QUOTED.iter().zip(PRESETS) {
            let policy = Policy::load(preset).unwrap();
            assert_eq!((policy.name.as_str(), preset), (*name, *name));
            assert_eq!(policy.clauses.len(), *clauses, "{name}");
            let words: Vec<&str> = policy
                .clauses
                .iter()
                .map(|clause| clause.words.as_str())
                .collect();
            assert!(words.iter().all(|words| words.len() > 20), "{name}");
            let found = Sha256::of(words.join("\n").as_bytes()).to_string();
            assert_eq!(found, *digest, "{name}");
        }
    }

    #[test]
    fn what_neither_is_a_preset_nor_a_file_is_refused_with_the_names() {
        let refused = Policy::load("sox").unwrap_err().to_string();
        assert!(refused.contains("tasklexa, heretask, soc2"), "{refused}");
    }

    #[test]
    fn an_own_file_is_read_as_a_preset_is_and_refused_with_line_and_caret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.toml");
        let text = PRESETS[0].1.replace("within = \"5m\"", "within = \"1m\"");
        std::fs::write(&path, text).unwrap();
        let own = Policy::load(path.to_str().unwrap()).unwrap();
        assert_eq!(own.finest(), Duration::from_secs(60));
        assert_eq!(own.over(), Duration::from_secs(3 * 86_400));
        let text = PRESETS[0]
            .1
            .replace("at_least = 2", "at_least = 2\nover = \"3d\"");
        std::fs::write(&path, text).unwrap();
        let refused = Policy::load(path.to_str().unwrap()).unwrap_err();
        let refused = tidemark_storage::chain(&refused);
        for words in [
            "own.toml:",
            "`over` means nothing to a clause of kind \"locations\"",
            "^^^^",
        ] {
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn what_a_config_promises_is_a_policy_too() {
        let objectives = Objectives {
            rpo: Some(Duration::from_secs(300)),
            drill_every: Some(MONTH),
            people: vec!["Ann".to_owned()],
            ..Objectives::default()
        };
        let policy = Policy::promised(&objectives);
        let words: Vec<&str> = policy
            .clauses
            .iter()
            .map(|clause| clause.words.as_str())
            .collect();
        assert_eq!(
            words,
            [
                "rpo = \"5m\"",
                "drill_every = \"30d\"",
                "people = [\"Ann\"]"
            ]
        );
        assert!(Policy::promised(&Objectives::default()).clauses.is_empty());
    }
}
