//! A source that finds no room in the spool: it holds, makes room from what nobody needs, and gives
//! up for one region what another one holds.
//!
//! ```text
//! no room ─▶ hold the cuts, sync the page map, write the record ─▶ still none after a second:
//!   the supervisor is asked ─▶ a region's backlog, up to where another one has all of it
//!                           └▶ or a signed gap (`gap`), while no region answers
//! ```
//!
//! **Invariant.** A range leaves the spool only through a region or under a signed gap: a lane is
//! never moved past what no other lane holds.

use std::sync::Arc;
use std::time::Duration;

use tidemark_format::{Hash, LogSeq, RegionName};
use tidemark_host::Monotonic;

use super::driver::Driver;
use super::opening::backlog;
use super::slot::Command;
use crate::Result;
use crate::room::Shortage;
use crate::ship::lane::{GiveUp, TRIED_MAX};
use crate::ship::region::Command as RegionCommand;
use crate::state::item::ItemHead;
use crate::state::{Order, Spool};
use crate::status_live::SourceState;

/// How soon a spool that was full is tried again, and how often somebody is asked to give way.
pub(super) const ROOM_WAIT: Duration = Duration::from_secs(1);

/// How long there has to be room before people are told that a shortage is over: one that comes and goes
/// with every cut is one.
const STEADY: Duration = Duration::from_secs(10);

/// What people were told is short, and when it was met last.
#[derive(Debug, Default)]
pub(super) struct Shortages(Vec<(Shortage, Monotonic)>);

impl Shortages {
    fn met(&mut self, shortage: Shortage, now: Monotonic) {
        self.0.retain(|(known, _)| *known != shortage);
        self.0.push((shortage, now));
    }

    /// Those that were not met for a while: they are forgotten.
    fn over(&mut self, now: Monotonic) -> Vec<Shortage> {
        let over = |at: &Monotonic| now.since(*at) >= STEADY;
        let gone = self.0.iter().filter(|(_, at)| over(at));
        let gone = gone.map(|(shortage, _)| *shortage).collect();
        self.0.retain(|(_, at)| !over(at));
        gone
    }

    fn due(&self) -> Option<Monotonic> {
        self.0.iter().map(|(_, at)| at.after(STEADY)).min()
    }

    /// The one that was met last.
    pub(super) fn newest(&self) -> Option<Shortage> {
        self.0.last().map(|(shortage, _)| *shortage)
    }
}

impl Driver {
    /// There is no room for what waits.
    pub(super) fn no_room(&mut self, shortage: Shortage) {
        let now = self.now();
        match self.room_at {
            Some(at) if now < at => return,
            // What nobody needs any more is being removed.
            Some(_) if self.sweeps() => {}
            // It was removed, and it was not enough.
            Some(_) => drop(self.shared.no_room.send(self.record.source.clone())),
            None => {
                self.parts.slot.tell(Command::Hold(true));
            }
        }
        let state = match shortage {
            Shortage::Spool => SourceState::HeldByFullSpool,
            Shortage::Disk => SourceState::HeldByFullDisk,
        };
        let first = self.room_at.is_none();
        self.show(|live| {
            use SourceState::{HeldByFullDisk, HeldByFullSpool};
            if first || matches!(live.state, HeldByFullSpool | HeldByFullDisk) {
                live.state = state;
            }
        });
        self.room_at = Some(now.after(ROOM_WAIT));
        // Records that the engine no longer needs go once its map is on the disk.
        self.parts.slot.tell(Command::Sync);
        self.shortages.met(shortage, now);
        self.alert(shortage.code().id, &self.lacks(shortage));
    }

    /// A shortage in words.
    pub(super) fn lacks(&self, shortage: Shortage) -> String {
        let spool_max = self.parts.settings.spool_max.get();
        self.shared.room.says(shortage, spool_max)
    }

    /// There is room again.
    pub(super) fn room_again(&mut self) {
        if self.room_at.take().is_some() {
            self.parts.slot.tell(Command::Hold(false));
            self.show(|live| live.state = SourceState::Capturing);
        }
    }

    /// Takes back what was said of a shortage once there has been room for a while.
    pub(super) fn end_shortages(&mut self) {
        if self.room_at.is_some() {
            return;
        }
        for shortage in self.shortages.over(self.now()) {
            self.clear(shortage.code().id);
        }
    }

    /// When the next of them may be over.
    pub(super) fn shortage_due_at(&self) -> Option<Monotonic> {
        self.shortages.due().filter(|_| self.room_at.is_none())
    }

    /// When what waits is tried again.
    pub(super) fn room_due_at(&self) -> Option<Monotonic> {
        self.room_at.filter(|_| !self.waiting.is_empty())
    }

    /// Gives up for a region, if that was asked for, what another one holds.
    pub(super) async fn give_up_if_asked(&mut self) {
        let Some(region) = self.give_up_asked.take() else {
            return;
        };
        if self.gap.is_some() {
            return;
        }
        match self.what_to_give_up(&region).await {
            Ok(Some(until)) => self.give_up(&region, until),
            Ok(None) => {}
            Err(error) => tracing::debug!(error = %error, "nothing is given up"),
        }
    }

    async fn what_to_give_up(&self, region: &RegionName) -> Result<Option<GiveUp>> {
        let outlets = self.parts.outlets.iter().map(|outlet| &outlet.link.name);
        let others = outlets
            .filter(|name| *name != region)
            .filter_map(|name| self.record.lanes.get(name));
        let lane = self.record.lanes.get(region);
        let Some((lane, other)) = lane.and_then(|lane| Some((lane, lane.may_give_up(others)?)))
        else {
            return Ok(None);
        };
        let (from, to) = (lane.cursor, other.cursor);
        let log = other.log_through.map_or(LogSeq(0), LogSeq::next);
        let newest_base = other.newest_base;
        // The item at the cursor, and what a process that was killed may have shipped without
        // writing it down.
        let tried_to = from.saturating_add(1).max(to.min(self.found));
        let spool = Arc::clone(&self.parts.spool);
        let read = self.blocking("read the spool", move || {
            (logs(&spool, from..tried_to), backlog(&spool, to).0)
        });
        let (tried, backlog_bytes) = read.await?;
        Ok(Some(GiveUp {
            from,
            tried,
            to,
            log,
            newest_base,
            backlog_bytes,
        }))
    }

    fn give_up(&mut self, region: &RegionName, until: GiveUp) {
        let now = self.now();
        let mut outlets = self.parts.outlets.iter();
        let Some(outlet) = outlets.find(|outlet| outlet.link.name == *region) else {
            return;
        };
        // While the region is away and the database is written to, this comes every second.
        if let Some(unsaid) = self.given_up.happens(region.clone(), now) {
            let shortage = self.shortages.newest().unwrap_or(Shortage::Spool);
            let (code, full) = (shortage.code().id, shortage.what());
            let code = format!("region.{code}");
            tracing::warn!(
                source = %self.record.source,
                code,
                unsaid,
                "{full} is full: what region {region} lacks of this source and another region holds is given up \
                 there; the next base repairs it"
            );
        }
        let command = RegionCommand::GiveUp(self.record.source.clone(), until);
        drop(outlet.commands.send(command));
    }
}

/// The log objects of `orders`, the first ones.
pub(super) fn logs(spool: &Spool, orders: std::ops::Range<Order>) -> Vec<(LogSeq, Hash)> {
    let log_at = |order| match spool.item(order) {
        Ok((item, ItemHead::Log(head))) => Some((head.seq, item.link)),
        _ => None,
    };
    orders.take(TRIED_MAX).filter_map(log_at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_that_comes_and_goes_stays_told_until_there_is_room_for_a_while() {
        let at = |seconds| Monotonic::from_origin(Duration::from_secs(seconds));
        let mut told = Shortages::default();
        assert_eq!((told.due(), told.newest()), (None, None));
        told.met(Shortage::Disk, at(0));
        for second in 1..30 {
            assert_eq!(told.over(at(second)), []);
            told.met(Shortage::Disk, at(second));
        }
        // The other one comes and goes beside it.
        told.met(Shortage::Spool, at(31));
        assert_eq!(told.newest(), Some(Shortage::Spool));
        assert_eq!(told.due(), Some(at(39)));
        assert_eq!(told.over(at(38)), []);
        assert_eq!(told.over(at(39)), [Shortage::Disk]);
        assert_eq!(told.over(at(39)), [], "it is said once");
        assert_eq!(told.over(at(41)), [Shortage::Spool]);
        assert_eq!(told.due(), None);
    }
}
