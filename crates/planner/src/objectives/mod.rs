//! Objectives: what a policy promises, judged by what is on record. Pure.
//!
//! A policy is a list of clauses; each has a [`Rule`], which says what is measured and how much is
//! enough. [`judge`] decides one rule over the [`Facts`] of one source.
//!
//! **Invariants.** Nothing is decided from a configuration: what somebody merely wrote down is
//! [`Basis::Declared`] and says so. What can't be decided is [`Verdict::NotProved`] with the reason, and
//! a history that is younger than what the clause speaks of is [`Verdict::NotYet`]; neither is a pass.
//! A clause about a time (exposure, instants, images, points) speaks of its whole window; one about what is
//! to happen every so often (drills) of the newest: it passes as soon as one counts and none is overdue, and
//! says "so far" while the history is younger than its window. What is already broken is
//! [`Verdict::Fail`], however young the history is.

mod exposure;
mod facts;
mod guard;
mod loss;
mod proof;
mod rule;
#[cfg(test)]
mod tests;
mod words;

use std::fmt;

use serde::Serialize;

pub use exposure::{Gap, Trace, Witness, exposures};
pub use facts::{
    AccessLog, BaseMade, Declared, DrillFact, DrillVerdict, Facts, Holder, HoleFact, OldestObject,
    PointMade, RegionFact, ReturnFact, ReviewFact, ServerLink, SessionFact, Transport,
};
pub use rule::{Every, Parameters, Rule, RuleError};

/// How a clause stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// It holds.
    Pass,
    /// Nothing speaks against it, and the history is younger than what it speaks of.
    NotYet,
    /// It can't be decided from what is on record.
    NotProved,
    /// It is broken.
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::NotYet => "NOT YET",
            Self::NotProved => "NOT PROVED",
            Self::Fail => "FAIL",
        })
    }
}

/// What a verdict rests on; the weakest of what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Signed objects of the repository, and the store's own times.
    Measured,
    /// An attempt that was made and must fail, with a signed result.
    Probed,
    /// Computed from what was measured, for what was not tried itself.
    Projected,
    /// What a person wrote down; nobody checked it.
    Declared,
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Measured => "measured",
            Self::Probed => "probed",
            Self::Projected => "projected",
            Self::Declared => "declared",
        })
    }
}

/// A clause, judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// How it stands.
    pub verdict: Verdict,
    /// What that rests on.
    pub basis: Basis,
    /// What was found, in words that an auditor reads.
    pub measured: String,
    /// What shows it: evidence ids and names of objects.
    pub proof: Vec<String>,
    /// What to do next; none if nothing is to be done.
    pub next: Option<String>,
}

impl Judged {
    fn new(verdict: Verdict, basis: Basis, measured: impl Into<String>) -> Self {
        Self {
            verdict,
            basis,
            measured: measured.into(),
            proof: Vec::new(),
            next: None,
        }
    }

    fn pass(basis: Basis, measured: impl Into<String>) -> Self {
        Self::new(Verdict::Pass, basis, measured)
    }

    fn fail(basis: Basis, measured: impl Into<String>) -> Self {
        Self::new(Verdict::Fail, basis, measured)
    }

    fn unproved(basis: Basis, measured: impl Into<String>) -> Self {
        Self::new(Verdict::NotProved, basis, measured)
    }

    fn by<T: Into<String>>(mut self, proof: impl IntoIterator<Item = T>) -> Self {
        self.proof.extend(proof.into_iter().map(Into::into));
        self
    }

    fn then(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

/// Judges one rule over the facts of one source.
#[must_use]
pub fn judge(rule: &Rule, facts: &Facts) -> Judged {
    match rule {
        Rule::Rpo { within, over } => loss::rpo(facts, *within, *over),
        Rule::Pitr { within, over } => loss::pitr(facts, *within, *over),
        Rule::KeptAtMost { within } => loss::kept_at_most(facts, *within),
        Rule::FullBackups { every, over } => loss::full_backups(facts, *every, *over),
        Rule::Snapshots { every, over } => loss::snapshots(facts, *every, *over),
        Rule::Rto { within, over } => proof::rto(facts, *within, *over),
        Rule::Drill {
            every,
            over,
            scenario,
            signed_off,
        } => proof::cadence(facts, *every, *over, (*scenario, *signed_off)),
        Rule::IsolatedDrills { over } => proof::isolated(facts, *over),
        Rule::ReturnOfData { over } => proof::return_of_data(facts, *over),
        Rule::Locations { at_least } => guard::locations(facts, *at_least),
        Rule::Residency { countries, probed } => guard::residency(facts, countries, *probed),
        Rule::LeastPrivilege => guard::least_privilege(facts),
        Rule::EncryptedInTransit => guard::in_transit(facts),
        Rule::EncryptedAtRest => guard::at_rest(facts),
        Rule::DatabaseAtRest => guard::database_at_rest(facts),
        Rule::NamedPeople { people_max } => guard::named_people(facts, *people_max),
        Rule::AccessLog => guard::access_log(facts),
        Rule::AccessReview { over } => guard::access_review(facts, *over),
        Rule::RemovalOfAccess => guard::removal_of_access(facts),
        Rule::HotStandby => Judged::unproved(
            Basis::Measured,
            "no signed record of a standby's lag exists: this version runs no standby",
        )
        .then("a standby that another program runs can't be judged here; show the auditor its own records"),
        Rule::Alerting => Judged::unproved(
            Basis::Measured,
            "no record of a test alert that reached somebody exists: this version sends none",
        )
        .then("tidemark-agent serves tidemark_alert_active and tidemark_objective_at_risk: show the auditor the alert \
               rule over them and a message that it sent"),
        Rule::Disposal => Judged::unproved(
            Basis::Measured,
            "no certificate of a disposal exists: this version deletes nothing",
        )
        .then("data of one customer can be disposed of by itself only where it is a source of its own"),
    }
}
