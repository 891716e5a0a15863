//! What a region's driver begins, as soon as it may.

use std::sync::Arc;

use tidemark_format::SourceName;
use tidemark_host::RngExt as _;

use super::{Done, Driver};
use crate::ship::lane::Lane;
use crate::ship::shipping::ship;
use crate::state::Order;

impl Driver {
    /// Begins everything that may be begun now.
    pub(super) fn begin(&mut self) {
        self.begin_look();
        if !self.greeted {
            self.begin_greeting();
            return;
        }
        self.begin_probe();
        self.begin_beat();
        self.begin_checks();
        self.begin_watches();
        let now = self.tools.clock.monotonic();
        while let Some((source, order)) = self.queue.next(now) {
            self.begin_shipping(source, order);
        }
    }

    fn begin_greeting(&mut self) {
        let Some((_, beat)) = self.beat.clone() else {
            return;
        };
        if self.greeting || self.look.is_under_way() || !self.may_try() {
            return;
        }
        self.greeting = true;
        let (link, greeter) = (Arc::clone(&self.link), Arc::clone(&self.tools.greeter));
        self.work.push(Box::pin(async move {
            Done::Greeted(greeter.greet(&link, &beat).await)
        }));
    }

    /// Finds out once per process what the region enforces: points say so.
    fn begin_probe(&mut self) {
        let Some(stores) = self.link.open_stores().filter(|_| !self.probed) else {
            return;
        };
        self.probed = true;
        let put = self.tools.rng.id();
        self.work.push(Box::pin(async move {
            Done::Probed(stores.probe.probe(&put).await)
        }));
    }

    fn begin_beat(&mut self) {
        let newer = self
            .beat
            .as_ref()
            .filter(|(number, _)| *number > self.beaten);
        let Some((number, beat)) = newer.cloned().filter(|_| !self.beating) else {
            return;
        };
        self.beating = true;
        // One try for each beat, also while the region is away: it may be what finds it back.
        self.beaten = number;
        let (link, greeter) = (Arc::clone(&self.link), Arc::clone(&self.tools.greeter));
        self.work.push(Box::pin(async move {
            Done::Beaten {
                number,
                result: greeter.beat(&link, &beat).await,
            }
        }));
    }

    fn begin_checks(&mut self) {
        if !self.may_try() {
            return;
        }
        for (source, known) in self
            .sources
            .iter_mut()
            .filter(|(_, known)| known.must_be_checked())
        {
            known.checking = true;
            let (link, greeter) = (Arc::clone(&self.link), Arc::clone(&self.tools.greeter));
            let (source, own) = (source.clone(), known.own);
            known.moved = false;
            let link_of = Arc::clone(&known.link_of);
            // What left the spool since the source was opened is known by the lane alone.
            let lane = self.queue.lane(&source);
            let known_here = lane.map(Lane::may_show).unwrap_or_default();
            self.work.push(Box::pin(async move {
                let link_of = move |seq| {
                    let mut here = known_here.iter();
                    let here = here.find(|(known, _)| *known == seq);
                    here.map_or_else(|| link_of(seq), |(_, link)| Some(*link))
                };
                let result = greeter.look_at(&link, &source, own, &link_of).await;
                Done::LookedAt { source, result }
            }));
        }
    }

    fn begin_shipping(&mut self, source: SourceName, order: Order) {
        let Some(lane) = self.queue.lane(&source).cloned() else {
            return;
        };
        let (link, items) = (Arc::clone(&self.link), Arc::clone(&self.tools.items));
        let disk = self.tools.disk.clone();
        let clock = Arc::clone(&self.tools.clock);
        self.work.push(Box::pin(async move {
            let from = (&items, &disk);
            let result = ship(&link, from, &*clock, (&source, order), &lane).await;
            Done::Shipped {
                source,
                order,
                result,
            }
        }));
    }
}
