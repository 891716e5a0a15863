//! All facts of one source.

use std::time::Duration;

use tidemark_format::SourceName;
use tidemark_host::config::Objectives;
use tidemark_ledger::history::{LoadOptions, PointsWanted};
use tidemark_planner::objectives::{Declared, Facts};

use super::{Policy, loss, places, records};
use crate::error::Result;
use crate::evidence::shelf::Shelf;
use crate::repository::{Repository, Settings, Tools};

/// How much of the history is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    /// How far back.
    pub over: Duration,
    /// Exposures longer than this are looked at closely.
    pub finest: Duration,
    /// Whether every head of that time is read.
    pub every_head: bool,
    /// Whether the longest exposure is to be told exactly, where that is cheap.
    pub exactly: bool,
    /// How it stands now is all that is asked: one recovery point is read.
    pub only_now: bool,
}

impl Looked {
    /// As much as a policy needs.
    #[must_use]
    pub fn for_policy(policy: &Policy) -> Self {
        Self {
            over: policy.over(),
            finest: policy.finest(),
            every_head: policy.wants_every_head(),
            exactly: policy.tells_exposure(),
            only_now: false,
        }
    }
}

/// Everything that is on record of a source.
///
/// # Errors
/// No region can be read.
pub async fn facts(
    repository: &Repository,
    shelf: &Shelf,
    (source, objectives): (&SourceName, &Objectives),
    looked: &Looked,
    (settings, tools): (&Settings, &Tools),
) -> Result<Facts> {
    let options = LoadOptions {
        points: if looked.only_now {
            PointsWanted::Newest(1)
        } else {
            PointsWanted::All
        },
    };
    let timeline = repository.timeline(source, &options).await?;
    let mut facts = Facts::new(tools.clock.now());
    loss::add(&mut facts, repository, &timeline, looked).await?;
    places::add(&mut facts, repository, &timeline, settings).await?;
    records::add(&mut facts, &shelf.chains, source);
    facts.declared = Declared {
        kept_at_most: objectives.kept_at_most,
        people: objectives.people.clone(),
        machines: objectives.machines.clone(),
    };
    Ok(facts)
}
