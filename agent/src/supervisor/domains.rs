//! What people are told of failure domains: at the start, and again whenever a place shows what it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_format::RegionName;

use crate::domains::{self, Counted};
use crate::ship::link::RegionLink;
use crate::status_live::Board;

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Domains {
    told: BTreeMap<RegionName, Counted>,
}

impl Domains {
    /// Writes on the board how every region counts, where that has changed.
    pub(super) fn tell(&mut self, links: &[Arc<RegionLink>], board: &Board) {
        let now = counted(links);
        for (name, counted) in &now {
            let before = self.told.get(name);
            if before == Some(counted) {
                continue;
            }
            if let Some(other) = &counted.twin
                && before.is_none_or(|before| before.twin.as_ref() != Some(other))
            {
                tracing::warn!(
                    region = %name,
                    other = %other,
                    "both regions are on one device: they fail together and count as one failure domain"
                );
            }
            board.region(name, |live| {
                live.domain.clone_from(&counted.domain);
                live.unseen = counted.unseen;
            });
        }
        self.told = now;
    }
}

/// The domain of each region, as far as it is known now.
pub(super) fn domains(links: &[Arc<RegionLink>]) -> BTreeMap<RegionName, String> {
    let counted = counted(links).into_iter();
    counted.map(|(name, place)| (name, place.domain)).collect()
}

fn counted(links: &[Arc<RegionLink>]) -> BTreeMap<RegionName, Counted> {
    let links: Vec<&RegionLink> = links.iter().map(|link| &**link).collect();
    domains::of(&links)
}
