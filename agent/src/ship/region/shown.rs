//! What people see of a region, and of every source in it.

use tidemark_format::SourceName;

use super::Driver;
use crate::status_live::LiveLane;

impl Driver {
    pub(in crate::ship) fn show_region(&self, last_error: Option<String>) {
        let now = self.tools.clock.now();
        let stores = self.link.open_stores();
        let up = self.greeted && self.queue.outage().is_none();
        self.link.set_up(up);
        self.tools.board.region(&self.link.name, |live| {
            if live.up != up || live.since.is_none() {
                live.since = Some(now);
            }
            live.up = up;
            live.id = self.link.id();
            live.country.clone_from(&self.link.country);
            live.last_error = last_error;
            if live.domain.is_empty() {
                live.domain.clone_from(&self.link.domain);
            }
            if let Some(stores) = stores {
                live.place = stores.place.to_string();
                let offset = stores
                    .witness
                    .date_offset()
                    .map(|offset| offset.as_millis());
                live.clock_offset_ms = offset.and_then(|offset| i64::try_from(offset).ok());
            }
        });
    }

    pub(super) fn show(&self, source: &SourceName) {
        let Some(view) = self.queue.view(source) else {
            return;
        };
        let lane = LiveLane {
            standing: view.standing,
            lacking_since: view.lacking_since,
            behind: view.behind,
            backlog_bytes: view.backlog_bytes,
            log_through: view.lane.log_through,
            point_through: view.lane.point_through,
        };
        self.tools.board.source(source, |live| {
            live.lanes.insert(self.link.name.clone(), lane);
        });
    }
}
