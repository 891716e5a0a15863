//! Whether a source's log still reaches what a drill restored: from storage and signed evidence, without an
//! identity. What it means is decided by [`tidemark_planner::drill::kept`].

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use tidemark_format::{Epoch, LogSeq};
use tidemark_host::output;
use tidemark_ledger::timeline::Timeline;
use tidemark_planner::drill::kept::{self, Kept, Restored};

use crate::drill::past;
use crate::evidence::chain::Chain;
use crate::repository::Repository;

/// The end of a log that drills restored and that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CutShort {
    /// The state that was restored, as `--to` takes it.
    pub restored: String,
    /// The last log object of its epoch that is left in any region.
    pub left: Option<String>,
    /// The drill's record.
    pub evidence_id: String,
    /// When the drill was made.
    pub at: Timestamp,
}

impl CutShort {
    /// None if the log reaches everything that a drill restored, or nobody can tell: a region that was read
    /// then may not be among those read now.
    #[must_use]
    pub fn of(repository: &Repository, timeline: &Timeline, chains: &[Chain]) -> Option<Self> {
        let furthest = past::furthest(chains, timeline.source())?;
        let read: Vec<String> = places(repository, timeline).collect();
        let restored = Restored {
            epoch: furthest.epoch,
            seq: furthest.seq,
            places: furthest.places,
        };
        let Kept::Cut { last } = kept::kept(&restored, &read, &ends(timeline)) else {
            return None;
        };
        let log = |seq: LogSeq| format!("log:{}:{seq}", furthest.epoch);
        Some(Self {
            restored: log(furthest.seq),
            left: last.map(log),
            evidence_id: furthest.id,
            at: furthest.at,
        })
    }

    /// In a line.
    #[must_use]
    pub fn line(&self) -> String {
        let left = match &self.left {
            Some(left) => format!("ends at {left}"),
            None => "is gone".to_owned(),
        };
        let at = output::instant(self.at);
        let Self {
            restored,
            evidence_id,
            ..
        } = self;
        format!(
            "CUT SHORT: it {left}, and a drill restored {restored} on {at} (evidence {evidence_id})"
        )
    }

    /// What it means, and what to do.
    #[must_use]
    pub fn next(&self) -> String {
        let restored = &self.restored;
        format!(
            "the end of the log was removed or lost in every region: {restored} was restored once and can't be any more. Find out \
             who can delete in the regions, and whether their own older versions or snapshots still have meta/log/ and \
             meta/point/; on the source's host begin anew from what is there (tidemark-agent snapshot --base). Accepted as \
             lost: drill run, then evidence sign-off of that drill (docs/RUNBOOK.md#drills-on-a-schedule)"
        )
    }
}

/// Where the regions are that tell something of the source, if only that it isn't there.
fn places<'a>(
    repository: &'a Repository,
    timeline: &'a Timeline,
) -> impl Iterator<Item = String> + 'a {
    let read = repository.regions.iter();
    let read = read.filter(|region| {
        let mut failed = timeline.failed.iter();
        !failed.any(|(name, _)| name == region.name())
    });
    read.map(|region| region.config.url.place())
}

/// The last log object of each epoch that any region has; what another agent's take-over made void is there.
fn ends(timeline: &Timeline) -> BTreeMap<Epoch, LogSeq> {
    let mut ends = BTreeMap::new();
    for (_, history) in timeline.histories() {
        for epoch in history.all_epochs() {
            let named = epoch.names.keys().chain(epoch.void.keys()).max();
            if let Some(last) = named {
                let end = ends.entry(epoch.epoch).or_insert(*last);
                *end = (*end).max(*last);
            }
        }
    }
    ends
}
