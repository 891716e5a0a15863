//! Names of recovery points are given once for a source: `point:NAME` then means one state.
//!
//! What is taken stands in the regions, in the points of every epoch; a region that is away can't be
//! asked. Reading all points costs a request each and is done for a named snapshot only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tidemark_format::SourceName;
use tidemark_host::config::{AgentConfig, Region};
use tidemark_host::output::{Console, instant};
use tidemark_host::point_name::PointName;
use tidemark_ledger::history::{Beats, LoadOptions, SourceHistory};
use tidemark_ledger::{Keyring, LedgerErrorKind, Trust};
use tidemark_storage::region::open_for_agent;

use super::Failure;
use super::context::Machine;

/// How long a region may take to show its points.
const POINTS_WITHIN: Duration = Duration::from_secs(60);

/// Refuses a name that a recovery point of one of the sources has already.
pub(super) async fn refuse_taken(
    config: &AgentConfig,
    only: Option<&SourceName>,
    name: &PointName,
    console: &Console,
) -> Result<(), Failure> {
    let machine = Machine::new();
    let reads = config.regions.iter().map(|region| {
        let read = taken_in(config, region, only, name, &machine);
        tokio::time::timeout(POINTS_WITHIN, read)
    });
    let mut asked = false;
    let mut taken: BTreeMap<SourceName, Timestamp> = BTreeMap::new();
    for answer in futures_util::future::join_all(reads).await {
        if let Ok(Ok(found)) = answer {
            asked = true;
            taken.extend(found);
        }
    }
    if !asked {
        console.note("no region could be asked whether the name is taken");
    }
    match taken.into_iter().next() {
        None => Ok(()),
        Some((source, at)) => Err(Failure::Usage(format!(
            "a recovery point of {source} is named {name} already, of {}: a name is given once; take another one",
            instant(at)
        ))),
    }
}

/// The points of this name in one region, by source.
async fn taken_in(
    config: &AgentConfig,
    region: &Region,
    only: Option<&SourceName>,
    name: &PointName,
    machine: &Machine,
) -> tidemark_ledger::Result<BTreeMap<SourceName, Timestamp>> {
    let mut taken = BTreeMap::new();
    let Some(recipient) = config.recipients.first() else {
        return Ok(taken);
    };
    let trust = Trust {
        root: config.root,
        ..Trust::of(recipient)
    };
    let store = open_for_agent(&region.name, &region.url, &machine.open_options()).await?;
    let keyring = Arc::new(Keyring::load(store.meta.as_ref(), &trust).await?);
    let sources = config.sources.iter().map(|source| &source.name);
    for source in sources.filter(|source| only.is_none_or(|only| only == *source)) {
        let (meta, keyring) = (Arc::clone(&store.meta), Arc::clone(&keyring));
        let options = LoadOptions::default();
        let loaded = SourceHistory::load(meta, keyring, source, &Beats::default(), &options).await;
        let history = match loaded {
            Ok(history) => history,
            Err(error) if error.kind() == LedgerErrorKind::Missing => continue,
            Err(error) => return Err(error),
        };
        let mut points = history.epochs().flat_map(|epoch| &epoch.points);
        let named = points.find(|point| point.head.name.as_deref() == Some(name.as_str()));
        taken.extend(named.map(|point| (source.clone(), point.head.committed)));
    }
    Ok(taken)
}
