//! The hole that a region keeps when it lagged at a take-over: what it lacks, what that means, what to do.
//!
//! The old writer's last objects never came to it, and the fence stands in their place. The agent can't
//! copy them from another region: it may read no data. Restores that are given the other region find them
//! there; from this one alone, nothing between the hole and the first base behind it comes back.

use jiff::Timestamp;
use serde::Serialize;
use tidemark_format::{Epoch, LogSeq};
use tidemark_ledger::history::{SourceHistory, Standing};

use super::gather::{RegionFacts, SourceFacts, instant_of, usable_from};

/// Log objects that a region lacks since a take-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Hole {
    /// The epoch that was taken over.
    pub(crate) epoch: Epoch,
    /// The first object that is missing.
    pub(crate) first: LogSeq,
    /// The last.
    pub(crate) last: LogSeq,
    /// The instant of the last object before it.
    pub(crate) until: Option<Timestamp>,
    /// The instant from which on a base behind it serves restores.
    pub(crate) again_from: Option<Timestamp>,
}

/// What people are told of a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) region: String,
    /// No base stands behind it yet: later instants don't come back either.
    pub(crate) is_open: bool,
    /// What is missing and what that means.
    pub(crate) found: String,
    pub(crate) remedy: String,
}

/// The holes that take-overs left in one region.
pub(super) async fn left_by_take_overs(
    history: &SourceHistory,
) -> tidemark_ledger::Result<Vec<Hole>> {
    let mut holes = Vec::new();
    for run in history.missing() {
        let Some(ended) = history.epoch(run.epoch) else {
            continue;
        };
        let fence = ended.fence.as_ref().map(|fence| fence.head.seq);
        let at_its_end = matches!(ended.standing, Standing::Ended { last, .. } if last == run.last);
        if fence != Some(run.first) || !at_its_end {
            continue;
        }
        let until = match run.first.previous() {
            Some(before) => instant_of(history, run.epoch, before).await?,
            None => None,
        };
        let again_from = usable_from(history, run.epoch.next()).await?;
        holes.push(Hole {
            epoch: run.epoch,
            first: run.first,
            last: run.last,
            until,
            again_from,
        });
    }
    Ok(holes)
}

/// What is told of the holes of one source.
pub(super) fn told(regions: &[(&RegionFacts, Option<&SourceFacts>)]) -> Vec<Told> {
    let mut all = Vec::new();
    for (region, source) in regions {
        let Some(source) = source else { continue };
        for hole in &source.holes {
            let holders = regions.iter().filter(|(other, facts)| {
                other.name != region.name
                    && other.away.is_none()
                    && facts.is_some_and(|facts| holds(facts, hole))
            });
            let holders: Vec<&str> = holders.map(|(other, _)| other.name.as_str()).collect();
            all.push(words(region, source, hole, &holders));
        }
    }
    all
}

/// Whether a region has what stands in another one's hole.
fn holds(facts: &SourceFacts, hole: &Hole) -> bool {
    let lacks = |own: &Hole| own.epoch == hole.epoch && own.first <= hole.last;
    !facts.absent && facts.gaps == 0 && !facts.holes.iter().any(lacks)
}

fn words(region: &RegionFacts, source: &SourceFacts, hole: &Hole, holders: &[&str]) -> Told {
    let Hole {
        epoch, first, last, ..
    } = hole;
    let name = &region.name;
    let instant = tidemark_host::output::instant;
    let before = hole.until.map_or_else(
        || "nothing".to_owned(),
        |until| format!("nothing after {}", instant(until)),
    );
    let then = match hole.again_from {
        Some(from) => format!("{before} and before {} comes back", instant(from)),
        None => format!("{before} comes back yet"),
    };
    let found = format!(
        "region {name} lagged when {} was taken over and lacks log:{epoch}:{first} to log:{epoch}:{last}: from it \
         alone {then}",
        source.source
    );
    let mut remedy = match holders {
        [] => "no other region that answers has them now".to_owned(),
        some => format!(
            "for an instant between, restore with {} as well",
            some.join(" or ")
        ),
    };
    if hole.again_from.is_none() {
        remedy.push_str(
            "; for later ones the agent makes a complete base there by itself within about 10 min after the region \
             answers, or at once: tidemark-agent snapshot --base",
        );
    } else {
        remedy.push_str("; later ones need nothing");
    }
    Told {
        region: name.clone(),
        is_open: hole.again_from.is_none(),
        found,
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::tests::region;
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn hole(again_from: Option<i64>) -> Hole {
        Hole {
            epoch: Epoch(1),
            first: LogSeq(12),
            last: LogSeq(20),
            until: Some(at(100)),
            again_from: again_from.map(at),
        }
    }

    fn told_of(regions: &[RegionFacts]) -> Vec<Told> {
        let pairs: Vec<_> = regions
            .iter()
            .map(|one| (one, one.sources.first()))
            .collect();
        told(&pairs)
    }

    #[test]
    fn a_hole_is_told_with_what_it_means_and_who_has_what_is_missing() {
        let mut lagged = region("b", Some(990));
        lagged.sources[0].holes.push(hole(Some(500)));
        let all = told_of(&[region("a", Some(990)), lagged.clone()]);
        let [one] = &all[..] else { panic!("{all:?}") };
        assert_eq!((one.region.as_str(), one.is_open), ("b", false));
        assert!(one.found.contains("log:1:12 to log:1:20"), "{one:?}");
        assert!(one.found.contains("00:01:40") && one.found.contains("00:08:20"));
        assert!(one.remedy.contains("restore with a as well"), "{one:?}");
        let mut away = region("a", None);
        away.away = Some("refused".to_owned());
        assert!(
            told_of(&[away, lagged])[0]
                .remedy
                .contains("no other region")
        );
    }

    #[test]
    fn until_a_base_stands_behind_it_a_hole_is_a_warning_and_says_that_one_comes() {
        let mut lagged = region("b", Some(990));
        lagged.sources[0].holes.push(hole(None));
        let one = told_of(&[lagged]).remove(0);
        assert!(one.is_open);
        assert!(one.remedy.contains("snapshot --base"), "{one:?}");
    }
}
