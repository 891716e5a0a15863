//! Who has a turn of a scheduled drill, and how it ended: several hosts share one schedule by it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Facts;
use crate::{
    DrillName, Hash, PutId, RepoId, SourceName,
    envelope::{Head, Kind},
};

/// What a host says of its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrillStep {
    /// It takes the turn.
    Taken,
    /// It still has it: the drill runs.
    Held,
    /// The drill ended; facts say how.
    Ended,
    /// It gives the turn back without a result.
    Released,
    /// A newer writer's: the turn is still had.
    #[serde(other)]
    Other,
}

/// One step of a turn. The steps of a slot are numbered; who finds a number taken takes the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillClaimHead {
    /// The repository.
    pub repo: RepoId,
    /// The drill.
    pub drill: DrillName,
    /// The source that it restores.
    pub source: SourceName,
    /// When the schedule called for it; whole seconds.
    pub slot: Timestamp,
    /// The step's number in the slot.
    pub seq: u32,
    /// The attempt that created this object.
    pub put: PutId,
    /// What is said.
    pub step: DrillStep,
    /// The link of the step that took the turn; none in that step itself.
    #[serde(default)]
    pub claim: Option<Hash>,
    /// When, by the signer's clock.
    pub at: Timestamp,
    /// Until when the turn is had unless more is heard; none once it is over.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// The host, for people.
    pub host: String,
    /// The schedule with its zone, for a change of it starts anew.
    pub schedule: String,
    /// How the drill ended, and what newer writers add.
    #[serde(default)]
    pub facts: Facts,
}

impl Head for DrillClaimHead {
    const KIND: Kind = Kind::DrillClaim;
}
