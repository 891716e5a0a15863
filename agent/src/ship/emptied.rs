//! A region that is another place than it was: emptied, or a new bucket under the old address.
//!
//! Everything of ours is gone there: every source joins it anew and a complete base repairs it. That an
//! unmounted directory is never taken for such a place is held where a marker would be made
//! ([`RegionLink::may_be_prepared`](super::link::RegionLink::may_be_prepared)).

use tidemark_format::SourceName;

use super::holding::ROLLED_BACK;
use super::lane::{Lane, Standing};
use super::region::Driver;

/// The alert that says so, until every source is whole there again.
const EMPTIED: &str = "place.emptied";

impl Driver {
    /// The region was greeted: whoever wrote to another place under its name joins this one.
    pub(super) fn is_another_place(&mut self) {
        let Some(id) = self.link.id() else { return };
        let sources: Vec<SourceName> = self.sources.keys().cloned().collect();
        let queue = &mut self.queue;
        let moved: Vec<(SourceName, Lane)> = sources
            .into_iter()
            .filter_map(|source| queue.is_place(&source, id).map(|lane| (source, lane)))
            .collect();
        if moved.is_empty() {
            return;
        }
        self.link.sessions().are_lost_in(&self.link.name);
        for (source, lane) in moved {
            if let Some(known) = self.sources.get_mut(&source) {
                known.checked = false;
            }
            self.report(&source, lane);
            self.release(&source);
        }
        let text = "everything that it held is gone: it was emptied, or its address leads to another place. It is \
                    prepared anew, and the next base, a complete one, repairs it; what it held before is only in \
                    the other regions";
        let now = self.tools.clock.now();
        self.tools
            .board
            .alert(EMPTIED, self.link.name.as_str(), text, now);
    }

    /// Takes the alerts back once every source is whole there.
    pub(super) fn is_whole_again(&self) {
        let lanes = self.sources.keys().map(|source| self.queue.lane(source));
        let mut lanes = lanes.flatten();
        if lanes.all(|lane| lane.base.is_some() && lane.standing() == Standing::Whole) {
            for code in [EMPTIED, ROLLED_BACK] {
                self.tools.board.clear(code, self.link.name.as_str());
            }
        }
    }
}
