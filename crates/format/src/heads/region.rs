//! A region's marker.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    PutId, RegionId, RepoId,
    envelope::{Head, Kind},
};

/// Says which repository and which region this place is, so that two URLs of one place count once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionHead {
    /// The repository.
    pub repo: RepoId,
    /// The region.
    pub region: RegionId,
    /// The attempt that created it.
    pub put: PutId,
    /// When.
    pub at: Timestamp,
}

impl Head for RegionHead {
    const KIND: Kind = Kind::Region;
}
