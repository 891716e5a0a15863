//! What all regions together show of a source: the one judgement of what can be restored, from the same
//! facts and by the same rules as the restore tool's.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_format::{RegionName, SourceName};
use tidemark_ledger::SourceHistory;
use tidemark_ledger::survey::{Avoid, Scope, Survey};
use tidemark_ledger::timeline::Timeline;
use tidemark_planner::restore::{Recoverable, recoverable};

use crate::policy;

/// How long may pass until what a source's regions show together is read: most of it was just read.
const WITHIN: Duration = Duration::from_secs(30);

/// What can be restored of a source, or why that can't be told.
pub(crate) type Seen = Result<Recoverable, String>;

/// Puts the histories of all regions together, source by source.
pub(super) async fn see(
    shown: impl Iterator<Item = (RegionName, SourceHistory)>,
) -> BTreeMap<SourceName, Seen> {
    let mut of_source: BTreeMap<SourceName, Vec<(RegionName, SourceHistory)>> = BTreeMap::new();
    for (region, history) in shown {
        let all = of_source.entry(history.source().clone()).or_default();
        all.push((region, history));
    }
    let mut seen = BTreeMap::new();
    for (name, histories) in of_source {
        let timeline = Timeline::merge(name.clone(), histories, Vec::new(), Vec::new());
        seen.insert(name, judge(&timeline).await);
    }
    seen
}

async fn judge(timeline: &Timeline) -> Seen {
    let avoid = Avoid::default();
    let survey = Survey::new(timeline, &avoid, Scope::Whole);
    match tokio::time::timeout(WITHIN, survey).await {
        Ok(Ok(survey)) => Ok(recoverable(&survey.facts())),
        Ok(Err(error)) => Err(policy::with_causes(&error)),
        Err(_late) => Err(format!(
            "it was not read within {}",
            tidemark_host::output::duration(WITHIN)
        )),
    }
}
