//! The clocks of the source's host and of this one, as both measured them against the regions'.

use tidemark_format::Epoch;
use tidemark_host::HostFacts;
use tidemark_ledger::read_marker;
use tidemark_ledger::timeline::Timeline;
use tidemark_planner::drill::measure::{self, ClockSide, Tick, Witness};

use super::record::synchronised;
use crate::plan::RestorePlan;
use crate::repository::{Repository, Tools};

/// Recovery points whose times are compared.
const TICKS_MAX: usize = 512;
/// The fact of a point that names the agent's host.
const HOST_ID: &str = "host_id";

/// What the clocks say.
#[derive(Debug, Clone)]
pub(super) struct Clocks {
    pub(super) witness: Witness,
    pub(super) source: ClockSide,
    pub(super) drill: ClockSide,
    pub(super) ticks: Vec<Tick>,
}

/// Asks.
pub(super) async fn gather(
    timeline: &Timeline,
    repository: &Repository,
    plan: &RestorePlan,
    tools: &Tools,
) -> Clocks {
    let newest = timeline.newest_point();
    let source = newest.map(|point| ClockSide {
        synchronised: point.head.clock.synchronised,
        region_offset_ms: point.head.clock.region_offset_ms.clone(),
    });
    let source = source.unwrap_or_default();
    let mut drill = ClockSide {
        synchronised: synchronised(tools.clock.ntp()),
        ..ClockSide::default()
    };
    for region in &repository.regions {
        let marker = read_marker(region.store.read.as_ref()).await;
        let offset = region.store.witness.date_offset();
        if let (Ok(Some(marker)), Some(offset)) = (marker, offset)
            && let Ok(offset) = i64::try_from(offset.as_millis())
        {
            drill.region_offset_ms.insert(marker.region, offset);
        }
    }
    Clocks {
        witness: measure::witness(&source, &drill, is_same_host(timeline)),
        ticks: ticks(timeline, plan),
        source,
        drill,
    }
}

/// Whether the newest recovery point was sealed on this machine.
fn is_same_host(timeline: &Timeline) -> bool {
    let here = HostFacts::gather().host_id;
    let newest = timeline.newest_point();
    let there = newest.and_then(|point| point.head.facts.get(HOST_ID)?.as_str());
    !here.is_empty() && there == Some(here.as_str())
}

/// The times of the recovery points that the restored log passes.
fn ticks(timeline: &Timeline, plan: &RestorePlan) -> Vec<Tick> {
    let (Some(first), Some(last)) = (plan.log.first(), plan.log.last()) else {
        return Vec::new();
    };
    let epoch: Epoch = first.head.epoch;
    let range = first.head.seq..=last.head.seq;
    let points = timeline.epoch(epoch).map(|view| view.points.as_slice());
    let own = points
        .unwrap_or_default()
        .iter()
        .filter(|point| range.contains(&point.head.log_seq));
    let mut all: Vec<Tick> = own
        .map(|point| Tick {
            at: point.head.at,
            boot_ms: point.head.clock.boot_ms,
        })
        .collect();
    let more = all.len().saturating_sub(TICKS_MAX);
    all.drain(..more);
    all
}
