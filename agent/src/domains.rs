//! Failure domains as they are counted: one judgement for the daemon, `status`, `doctor` and `snapshot`.
//!
//! Two places that are one (the same marker, the same device) fail together, whatever the config says.
//! A directory that was away at the start may be on the device of another one: until this process has
//! read its marker it is *unseen*, and what it holds counts for nothing. It is counted as the config has it,
//! so that what is to be durable is not less for that.

use std::collections::BTreeMap;

use tidemark_format::{RegionId, RegionName};

use crate::ship::link::RegionLink;

/// One region: the domain that the config gives it, its own id and its device, as far as they are known.
pub(crate) type Place<'a> = (&'a str, Option<RegionId>, Option<u64>);

/// The domain in which each region counts, and which earlier region it is one with, if it is.
pub(crate) fn counted(places: &[Place<'_>]) -> Vec<(String, Option<usize>)> {
    let mut all: Vec<(String, Option<usize>)> = Vec::with_capacity(places.len());
    for (at, (configured, id, device)) in places.iter().enumerate() {
        let twin = places
            .iter()
            .take(at)
            .position(|(_, other_id, other_device)| {
                (id.is_some() && other_id == id) || (device.is_some() && other_device == device)
            });
        let shared = twin
            .and_then(|twin| all.get(twin))
            .map(|(domain, _)| domain.clone());
        all.push((shared.unwrap_or_else(|| (*configured).to_owned()), twin));
    }
    all
}

/// One region as it is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counted {
    /// The domain in which it counts.
    pub(crate) domain: String,
    /// The earlier region that it is one with.
    pub(crate) twin: Option<RegionName>,
    /// See the module.
    pub(crate) unseen: bool,
}

/// How regions count, by what they have shown so far.
pub(crate) fn of(links: &[&RegionLink]) -> BTreeMap<RegionName, Counted> {
    let places: Vec<Place<'_>> = links
        .iter()
        .map(|link| (link.domain.as_str(), link.id(), link.device()))
        .collect();
    let each = links.iter().zip(counted(&places));
    each.map(|(link, (domain, twin))| {
        let twin = twin.and_then(|twin| links.get(twin));
        let counted = Counted {
            domain,
            twin: twin.map(|twin| twin.name.clone()),
            unseen: link.is_unseen(),
        };
        (link.name.clone(), counted)
    })
    .collect()
}

/// How many different ones there are.
pub(crate) fn distinct<'a>(domains: impl Iterator<Item = &'a str>) -> usize {
    let all: std::collections::BTreeSet<&str> = domains.collect();
    all.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_on_one_device_or_with_one_marker_count_once() {
        let id = Some(RegionId([1; 16]));
        let places = [
            ("a", id, Some(7)),
            ("b", None, Some(7)),
            ("c", id, None),
            ("d", None, None),
        ];
        let counted = counted(&places);
        let domains: Vec<&str> = counted.iter().map(|(domain, _)| domain.as_str()).collect();
        assert_eq!(domains, ["a", "a", "a", "d"]);
        assert_eq!(counted[1].1, Some(0));
        assert_eq!(distinct(domains.into_iter()), 2);
    }
}
