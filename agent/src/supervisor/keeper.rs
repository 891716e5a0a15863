//! Who gives way when the spool is full.

use std::collections::BTreeMap;

use tidemark_format::{RegionName, SourceName};
use tidemark_host::config::Protect;

use super::Running;
use crate::room::{Backlog, GiveWay, give_way};
use crate::source::requests::Request;

/// The engine whose log waits at a server (`slot_keep_max` bounds it).
const SERVER: &str = "postgresql";

impl Running {
    /// A source found no room: the backlog that frees the most is given up, if another region has
    /// what is in it. Otherwise the source holds until there is room again.
    pub(super) fn make_room(&mut self, source: &SourceName) {
        let own_bound = self.over_own_bound(source);
        let backlogs: BTreeMap<SourceName, BTreeMap<RegionName, Backlog>> =
            self.shared.board.read(|sources, _, _| {
                let all = sources
                    .iter()
                    .filter(|(name, _)| !own_bound || *name == source);
                all.map(|(name, live)| {
                    let lanes = live.lanes.iter();
                    let waits = lanes.map(|(region, lane)| {
                        let (items, bytes) = (lane.behind, lane.backlog_bytes);
                        (region.clone(), Backlog { items, bytes })
                    });
                    (name.clone(), waits.collect())
                })
                .collect()
            });
        match give_way(&backlogs) {
            GiveWay::Backlog { source, region } => {
                if let Some(requests) = self.requests.get(&source) {
                    // A full mailbox means that it is being told already.
                    drop(requests.try_send(Request::GiveUp(region)));
                }
            }
            // A server keeps its own log, as long as its slot may: nothing is lost while that waits there.
            GiveWay::Nothing if self.waits_at_its_server(source) => {}
            GiveWay::Nothing => self.give_up_unshipped(source, own_bound),
        }
    }

    fn waits_at_its_server(&self, source: &SourceName) -> bool {
        self.shared.board.read(|sources, _, _| {
            let live = sources.get(source);
            live.is_some_and(|live| live.engine == SERVER)
        })
    }

    /// What fills the spool was shipped nowhere. With `protect = "chain"` it stays, and the source
    /// that found no room holds its log; with `protect = "database"` the largest one is given up.
    fn give_up_unshipped(&self, source: &SourceName, own_bound: bool) {
        let largest = self.shared.board.read(|sources, _, _| {
            let may = |name: &SourceName| {
                self.protect.get(name) == Some(&Protect::Database) && (!own_bound || name == source)
            };
            let all = sources.iter().filter(|(name, _)| may(name));
            let sizes = all.map(|(name, live)| {
                let bytes = live
                    .lanes
                    .values()
                    .map(|lane| lane.backlog_bytes)
                    .min()
                    .unwrap_or(0);
                (bytes, name.clone())
            });
            sizes.max()
        });
        let Some((bytes, largest)) = largest.filter(|(bytes, _)| *bytes > 0) else {
            return;
        };
        if let Some(requests) = self.requests.get(&largest) {
            tracing::debug!(source = %largest, bytes, "what was shipped nowhere leaves the spool no room");
            // A full mailbox means that it is being told already.
            drop(requests.try_send(Request::GiveUpUnshipped));
        }
    }

    /// Whether it is the source's own bound that stopped it, while all together have room.
    fn over_own_bound(&self, source: &SourceName) -> bool {
        let room = &self.shared.room;
        let own = self.spool_max.get(source).copied().unwrap_or(u64::MAX);
        room.usage().bytes() < room.bytes_max() && own < room.bytes_max()
    }
}
