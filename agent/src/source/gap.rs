//! Giving up what was shipped nowhere: the spool is full and no region has any of it
//! (`protect = "database"`, invariant 8).
//!
//! ```text
//! freeze every lane → close the database → roll the record back → drop items, newest first
//!   → a signed gap in the first free place → lanes open again → capture begins anew with a region
//! ```
//!
//! **Invariants.** An item that any region may have been asked to create stays: a gap never stands
//! under a name that could hold an object. Crash at any point: the items that are still there are
//! replayed onto the rolled-back record, whose missing generation forces a complete base either way.

use std::collections::BTreeSet;

use jiff::Timestamp;
use tidemark_format::heads::Gap;
use tidemark_format::{Hash, LogSeq, RegionName};
use tidemark_host::Monotonic;
use tidemark_seal::{LogDraft, gap_object};

use super::driver::{Driver, Hold};
use super::slot::Command;
use crate::ship::region::Command as RegionCommand;
use crate::state::item::ItemHead;
use crate::state::source::PointTail;
use crate::state::{Order, Spool, SpoolError};
use crate::{Result, policy};

/// How often a source that let go of everything asks whether a region is back.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// A range that is being given up.
#[derive(Debug)]
pub(super) struct GapTurn {
    /// The regions that have stopped.
    pub(super) frozen: BTreeSet<RegionName>,
    /// The gap is sealed; what remains is to wait for a region.
    sealed: bool,
    look_at: Monotonic,
}

/// What is dropped, and what stays before it.
struct Cut {
    /// The first order that goes.
    from: Order,
    /// All that go, newest last.
    orders: Vec<Order>,
    /// The last log object that stays, if a dropped one tells.
    last: Option<(LogSeq, Hash)>,
    /// The end of the points that stay, if a dropped one tells.
    point: Option<PointTail>,
    /// The first commit that is given up.
    since: Option<Timestamp>,
}

impl Driver {
    /// Begins to give up what was shipped nowhere.
    pub(super) fn begin_gap(&mut self) {
        if self.gap.is_some() || self.draining {
            return;
        }
        self.gap = Some(GapTurn {
            frozen: BTreeSet::new(),
            sealed: false,
            look_at: self.now(),
        });
        for outlet in &self.parts.outlets {
            drop(
                outlet
                    .commands
                    .send(RegionCommand::Freeze(self.record.source.clone())),
            );
        }
        self.base_failed("the spool is full");
        self.parts.slot.tell(Command::Close);
    }

    /// Carries it on: once everything stands still, and then until a region is back.
    pub(super) async fn advance_gap(&mut self) {
        let Some(gap) = &self.gap else { return };
        if gap.sealed {
            self.begin_anew_with_a_region();
            return;
        }
        let all = self
            .parts
            .outlets
            .iter()
            .all(|outlet| gap.frozen.contains(&outlet.link.name));
        if !all || self.hold != Hold::Closed {
            return;
        }
        if let Err(error) = self.give_up_unshipped().await {
            self.alert("spool.gap", &policy::with_causes(&error));
        }
        if let Some(gap) = &mut self.gap {
            gap.sealed = true;
        }
        self.open_lanes().await;
    }

    fn begin_anew_with_a_region(&mut self) {
        let now = self.now();
        let Some(gap) = &mut self.gap else { return };
        if now < gap.look_at {
            return;
        }
        gap.look_at = now.after(LOOK_EVERY);
        if self.parts.outlets.iter().any(|outlet| outlet.link.is_up()) {
            self.gap = None;
            self.room_again();
            self.open();
        }
    }

    /// When to look again whether a region is back.
    pub(super) fn gap_due_at(&self) -> Option<Monotonic> {
        self.gap
            .as_ref()
            .filter(|gap| gap.sealed)
            .map(|gap| gap.look_at)
    }

    async fn give_up_unshipped(&mut self) -> Result<()> {
        // The item at a lane's cursor may have been tried.
        let tried = self
            .record
            .lanes
            .values()
            .map(|lane| lane.cursor.saturating_add(1))
            .max();
        let from = tried.unwrap_or(0).min(self.record.next_order);
        let spool = std::sync::Arc::clone(&self.parts.spool);
        let cut = self
            .blocking("read the spool", move || find_cut(&spool, from))
            .await??;
        if cut.orders.is_empty() {
            return Ok(());
        }
        self.waiting.clear();
        self.unsynced.clear();
        let last = cut.last.or_else(|| self.last_before(cut.since.is_some()));
        self.record.roll_back(cut.from, last, cut.point.clone());
        let next = self.record.log.next.next();
        for lane in self.record.lanes.values_mut() {
            lane.unbroken_from = next;
            lane.hole_since = lane.hole_since.into_iter().chain(cut.since).min();
        }
        self.ends = crate::points::Ends::default();
        if let Some(end) = self.record.log.restorable {
            self.ends.sealed(end);
        }
        // The record first: what is replayed onto it after a crash is whole either way.
        self.flush().await;
        let (spool, orders) = (std::sync::Arc::clone(&self.parts.spool), cut.orders.clone());
        let engine = self.shared.state.engine(self.name());
        let work = move || drop_items(&spool, &orders, &engine);
        self.blocking("drop what was shipped nowhere", work)
            .await??;
        for order in &cut.orders {
            self.shared.items.forget(self.name(), *order);
        }
        self.removed = self.removed.min(cut.from);
        self.seal_gap(cut.since).await
    }

    /// The last log object, where nothing that is dropped tells it: nothing of the log is dropped.
    fn last_before(&self, log_is_dropped: bool) -> Option<(LogSeq, Hash)> {
        let tail = self.record.log.next.previous().zip(self.record.log.link);
        tail.filter(|_| !log_is_dropped)
    }

    async fn seal_gap(&mut self, since: Option<Timestamp>) -> Result<()> {
        let seq = self.record.log.next;
        let record = &self.record;
        let draft = LogDraft {
            source: record.source.clone(),
            engine: self.parts.engine.to_owned(),
            incarnation: record.incarnation.unwrap_or_else(|| [0; 16].into()),
            epoch: record.epoch,
            seq,
            prev: record.log.link,
            follows: record.follows.clone().filter(|_| seq == LogSeq(0)),
            generation: seq,
            restorable: false,
            transactions: 0,
            first_commit: None,
            last_commit: None,
            captured_at: record.not_before_the_log(self.shared.clock.now()),
            facts: tidemark_format::heads::Facts::new(),
        };
        let gap = Gap {
            reason: "the spool was full while no region could be reached".to_owned(),
            since: record.log.restorable.map(|end| end.committed).or(since),
        };
        let shared = &self.shared;
        let (sealed, head) = gap_object(shared.repo, draft, gap, &shared.signer, &*shared.rng)?;
        self.spool_log(sealed, head, Vec::new).await?;
        // The engine begins anew: it has no record of a gap.
        self.unsynced.clear();
        self.record.log.synced_order = self.record.next_order;
        self.flush().await;
        let text = "a range was given up: the spool was full while no region could be reached. A signed gap says \
                    so; a new base follows as soon as a region is back";
        self.alert("log.gap", text);
        Ok(())
    }
}

/// Everything from `from` on, and what stood right before it.
fn find_cut(spool: &Spool, from: Order) -> std::result::Result<Cut, SpoolError> {
    let orders: Vec<Order> = spool
        .list()?
        .into_iter()
        .filter(|order| *order >= from)
        .collect();
    let mut cut = Cut {
        from,
        orders: orders.clone(),
        last: None,
        point: None,
        since: None,
    };
    let mut logs = false;
    for order in orders {
        match spool.item(order)?.1 {
            ItemHead::Log(head) => {
                if !logs {
                    cut.last = head.seq.previous().zip(head.prev);
                    logs = true;
                }
                cut.since = cut.since.or(head.first_commit);
            }
            ItemHead::Point(head) if cut.point.is_none() => {
                cut.point = Some(PointTail {
                    next: head.seq,
                    link: head.prev,
                    log_seq: None,
                    at: None,
                });
            }
            ItemHead::Point(_) | ItemHead::Base(_) => {}
        }
    }
    Ok(cut)
}

/// Newest first, so that what a crash leaves is a chain without a hole; then the engine's folder,
/// whose page map speaks of what is gone.
fn drop_items(spool: &Spool, orders: &[Order], engine: &std::path::Path) -> Result<()> {
    for order in orders.iter().rev() {
        spool.remove_if_there(*order)?;
    }
    match std::fs::remove_dir_all(engine) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(crate::AgentError::Io {
                action: "remove the page map of what was given up",
                source,
            })
        }
        _ => Ok(()),
    }
}
