//! What a drill is asked to do: the command line and the schedule fill the same struct.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tidemark_format::{RegionName, SourceName};
use tidemark_planner::drill::expect::COUNT_FALL_PERCENT;
use tidemark_planner::drill::{Expectation, Objectives, Select, Tolerance};

use crate::sandbox;

/// A drill.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Which source; the only one if none is named.
    pub source: Option<SourceName>,
    /// Which instant.
    pub select: Select,
    /// Under which conditions.
    pub scenario: Option<Scenario>,
    /// Although this is the host that the source runs on: recorded as not segregated.
    pub allow_source_host: bool,
    /// Addresses of production, `HOST:PORT`, that must not answer from here.
    pub production: Vec<String>,
    /// Why, for the records.
    pub reason: Option<String>,
    /// Which plan it belongs to.
    pub plan: Plan,
    /// What was promised.
    pub objectives: Objectives,
    /// What the restored database must answer.
    pub assertions: Vec<Assertion>,
    /// What the reader should know of the assertions, once they were asked.
    pub notes: Vec<String>,
    /// Whether rows are counted, table by table.
    pub counts: bool,
    /// Rows that may be fewer than an earlier drill counted, in percent.
    pub count_fall_percent: u8,
    /// Every check that reads everything.
    pub full: bool,
    /// Whether the source keeps a canary; as its recovery points say if none is said here.
    pub canary: Option<bool>,
    /// The folder in which the scratch is made; the usual one if none is given.
    pub scratch: Option<PathBuf>,
    /// The folder of the server's programs.
    pub pg_bin: Option<PathBuf>,
    /// Libraries of the server that may be loaded.
    pub libraries: Vec<String>,
    /// The longest that all of it may take; longer is inconclusive.
    pub timeout: Option<Duration>,
    /// How much of the machine the sandbox may take.
    pub limits: sandbox::Limits,
    /// Who answers for it, and where it is discussed.
    pub governance: Governance,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            source: None,
            select: Select::Latest,
            scenario: None,
            allow_source_host: false,
            production: Vec::new(),
            reason: None,
            plan: Plan::default(),
            objectives: Objectives::default(),
            assertions: Vec::new(),
            notes: Vec::new(),
            counts: true,
            count_fall_percent: COUNT_FALL_PERCENT,
            full: true,
            canary: None,
            scratch: None,
            pg_bin: None,
            libraries: Vec::new(),
            timeout: None,
            limits: sandbox::Limits::default(),
            governance: Governance::default(),
        }
    }
}

/// What set a drill off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// A person.
    #[default]
    Manual,
    /// The schedule.
    Scheduled,
    /// Something happened.
    Incident,
}

/// The plan that a drill belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Plan {
    /// Its name; none for a drill by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_id: Option<String>,
    /// A hash of how it is written in the config.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_version: Option<String>,
    /// Its schedule, with its zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// When the schedule called for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<Timestamp>,
    /// What set it off.
    pub trigger: Trigger,
    /// What it is evidence for: `SOC2:A1.3`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frameworks: Vec<Framework>,
}

/// A requirement of somebody's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Framework {
    /// Its name.
    pub id: String,
}

/// A statement that the restored database must answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Assertion {
    /// Its name.
    pub id: String,
    /// The database it is asked in, of a server.
    pub database: Option<String>,
    /// One SELECT of one value.
    pub sql: String,
    /// What it must be; without it the answer is recorded.
    pub expect: Option<Expectation>,
    /// How far from it.
    pub tolerance: Tolerance,
}

/// Who answers for a drill.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Governance {
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The runbook that was followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
    /// Where it is discussed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket_url: Option<String>,
    /// When the next one is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_due: Option<Timestamp>,
}

/// The conditions of an exercise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scenario {
    /// Everything but this region is gone.
    OnlyRegion(RegionName),
    /// This region is gone.
    WithoutRegion(RegionName),
    /// Nothing that was written after this instant is believed: an intruder was there.
    AsOf(Timestamp),
    /// A new machine: nothing of this one but the programs, the identity and the regions.
    FreshHost,
}

impl std::fmt::Display for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OnlyRegion(region) => write!(f, "only-region={region}"),
            Self::WithoutRegion(region) => write!(f, "without-region={region}"),
            Self::AsOf(at) => write!(f, "as-of={at}"),
            Self::FreshHost => f.write_str("fresh-host"),
        }
    }
}

impl Scenario {
    /// Reads one; `instant` knows how people write an instant.
    ///
    /// # Errors
    /// Words for whoever typed it.
    pub fn read(
        text: &str,
        instant: impl FnOnce(&str) -> Result<Timestamp, String>,
    ) -> Result<Self, String> {
        let text = text.trim();
        if text == "fresh-host" {
            return Ok(Self::FreshHost);
        }
        let region = |name: &str| name.parse().map_err(|_bad| no_scenario(text));
        match text.split_once('=') {
            Some(("only-region", name)) => Ok(Self::OnlyRegion(region(name)?)),
            Some(("without-region", name)) => Ok(Self::WithoutRegion(region(name)?)),
            Some(("as-of", at)) => Ok(Self::AsOf(instant(at)?)),
            _ => Err(no_scenario(text)),
        }
    }
}

fn no_scenario(text: &str) -> String {
    format!(
        "{text:?} is no scenario: write only-region=NAME, without-region=NAME, as-of=TIME or fresh-host"
    )
}

/// As a config file writes it, where an instant has its zone.
impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::read(text, |at| {
            at.parse()
                .map_err(|_bad| format!("{at:?} is no instant: write as-of=2026-11-22T09:00:00Z"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_reads_back_as_it_is_shown() {
        for text in [
            "only-region=region-a",
            "without-region=b",
            "as-of=2026-11-22T09:00:00Z",
            "fresh-host",
        ] {
            assert_eq!(text.parse::<Scenario>().unwrap().to_string(), text);
        }
        for text in ["", "fresh", "only-region=", "as-of=noon", "only-region=A b"] {
            let refused = text.parse::<Scenario>().unwrap_err();
            assert!(refused.contains("write"), "{refused}");
        }
    }

    #[test]
    fn a_drill_by_default_is_of_the_newest_state_and_makes_every_check() {
        let request = Request::default();
        assert_eq!(request.select, Select::Latest);
        assert!(request.full && request.counts && !request.allow_source_host);
        assert_eq!(request.plan.trigger, Trigger::Manual);
    }
}
