//! Giving up what was shipped nowhere: the spool is full and no region has any of it
//! (`protect = "database"`, invariant 8).
//!
//! ```text
//! freeze every lane → close the database → roll the record back → drop items, newest first
//!   → a signed gap in the first free place → lanes open again → capture begins anew with a region
//! ```
//!
//! **Invariants.** An item that any region may have been asked to create stays: a gap never stands
//! under a name that could hold an object. What was spooled first stays, half of the bytes, for it follows
//! on what the regions have: the gap begins where the outage outgrew that half. A source that is asked
//! again gives up the rest. Nor does one stand for what an earlier process spooled: it may
//! have shipped that without writing it down. What was cut and not sealed is dropped with the capture
//! that cut it: its numbers are given out again. Crash at any point: the record on the disk says that a
//! range is being given up (`giving_up`), and the next start goes on with that before anything else;
//! a record that can't be written gives nothing up.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use tidemark_format::heads::Gap;
use tidemark_format::{Hash, LogSeq, RegionName};
use tidemark_host::Monotonic;
use tidemark_seal::{LogDraft, gap_object};

use super::driver::{Driver, Hold};
use super::slot::Command;
use crate::ship::region::Command as RegionCommand;
use crate::state::item::ItemHead;
use crate::state::source::{GivingUp, PointTail};
use crate::state::{Order, Spool, SpoolError};
use crate::{AgentError, Result, policy};

/// How often a source that let go of everything asks whether a region is back, or tries again what
/// did not go.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// A range that is being given up.
#[derive(Debug)]
pub(super) struct GapTurn {
    /// The regions that have stopped.
    pub(super) frozen: BTreeSet<RegionName>,
    stage: Stage,
    look_at: Monotonic,
    /// Nothing stays that may go.
    all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Until every region has stopped and the database is let go of.
    Stopping,
    /// Everything stands still.
    Still,
    /// The gap is sealed; what remains is to wait for a region.
    Sealed,
}

/// What is dropped, and what stays before it.
struct Cut {
    /// The first order that goes.
    from: Order,
    /// Whether anything goes.
    any: bool,
    /// The last log object that stays, if a dropped one tells.
    last: Option<(LogSeq, Hash)>,
    /// The end of the points that stay, if a dropped one tells.
    point: Option<PointTail>,
    /// The first commit that is given up.
    since: Option<Timestamp>,
}

impl Driver {
    /// Begins to give up what was shipped nowhere, if no region answers: one that does makes room by
    /// itself, however slowly.
    pub(super) fn begin_gap(&mut self) {
        let answers = self.parts.outlets.iter().any(|outlet| outlet.link.is_up());
        let busy = |gap: &GapTurn| gap.all || gap.stage != Stage::Sealed;
        if answers || self.gap.as_ref().is_some_and(busy) || self.draining {
            return;
        }
        let all = self.gap.is_some();
        self.gap = Some(GapTurn {
            all,
            ..self.gap_turn(Stage::Stopping)
        });
        for outlet in &self.parts.outlets {
            drop(
                outlet
                    .commands
                    .send(RegionCommand::Freeze(self.record.source.clone())),
            );
        }
        self.base_failed("the spool has no room");
        self.parts.slot.tell(Command::Close);
    }

    /// The agent ended while a range was being given up: it is given up before anything else.
    pub(super) fn go_on_giving_up(&mut self) {
        self.hold = Hold::Closed;
        self.gap = Some(self.gap_turn(Stage::Still));
    }

    fn gap_turn(&self, stage: Stage) -> GapTurn {
        GapTurn {
            frozen: BTreeSet::new(),
            stage,
            look_at: self.now(),
            all: false,
        }
    }

    /// Carries it on: once everything stands still, and then until a region is back.
    pub(super) async fn advance_gap(&mut self) {
        let Some(gap) = &mut self.gap else { return };
        if gap.stage == Stage::Stopping {
            let mut regions = self.parts.outlets.iter().map(|outlet| &outlet.link.name);
            if !regions.all(|name| gap.frozen.contains(name)) || self.hold != Hold::Closed {
                return;
            }
            gap.stage = Stage::Still;
            // The capture is gone: what it had cut and nobody sealed is captured anew, under the
            // same numbers.
            self.waiting.clear();
        }
        let now = self.shared.clock.monotonic();
        if now < gap.look_at {
            return;
        }
        gap.look_at = now.after(LOOK_EVERY);
        match gap.stage {
            Stage::Stopping => {}
            Stage::Still => self.give_up_and_seal().await,
            Stage::Sealed => self.begin_anew_with_a_region(),
        }
    }

    async fn give_up_and_seal(&mut self) {
        let sealed = self.give_up_unshipped().await;
        let over = match &sealed {
            Ok(()) => {
                self.clear("spool.gap");
                true
            }
            Err(error) => {
                self.alert("spool.gap", &policy::with_causes(error));
                // Nothing is given up yet, and a region that is back makes room.
                self.record.giving_up.is_none()
                    && self.parts.outlets.iter().any(|outlet| outlet.link.is_up())
            }
        };
        if over {
            if let Some(gap) = &mut self.gap {
                gap.stage = Stage::Sealed;
            }
            self.open_lanes().await;
        }
    }

    fn begin_anew_with_a_region(&mut self) {
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
            .filter(|gap| gap.stage != Stage::Stopping)
            .map(|gap| gap.look_at)
    }

    async fn give_up_unshipped(&mut self) -> Result<()> {
        if self.record.giving_up.is_none() {
            self.roll_back_unshipped().await?;
        }
        let Some(GivingUp { since }) = self.record.giving_up else {
            return Ok(());
        };
        self.drop_given_up().await?;
        self.seal_gap(since).await
    }

    /// Rolls the record back to before what was shipped nowhere, on the disk, too. Nothing is
    /// dropped before that is done.
    async fn roll_back_unshipped(&mut self) -> Result<()> {
        let from = self.record.first_untried(self.found);
        let all = self.gap.as_ref().is_some_and(|gap| gap.all);
        let spool = Arc::clone(&self.parts.spool);
        let cut = self
            .blocking("read the spool", move || {
                let from = if all {
                    from
                } else {
                    second_half(&spool, from)?
                };
                find_cut(&spool, from)
            })
            .await??;
        if !cut.any {
            return Ok(());
        }
        let before = self.record.clone();
        let last = cut.last.or_else(|| self.last_before(cut.since.is_some()));
        self.record.roll_back(cut.from, last, cut.point, cut.since);
        if !self.flush().await {
            self.record = before;
            return Err(AgentError::Refused(
                "what was shipped nowhere leaves the spool no room, and the record can't be written either: nothing is \
                 given up; free space on the disk of state_dir, or bring a region back"
                    .to_owned(),
            ));
        }
        self.unsynced.clear();
        self.ends = crate::points::Ends::default();
        if let Some(end) = self.record.log.restorable {
            self.ends.sealed(end);
        }
        Ok(())
    }

    /// Drops what the record no longer knows.
    async fn drop_given_up(&mut self) -> Result<()> {
        let from = self.record.next_order;
        let spool = Arc::clone(&self.parts.spool);
        let engine = self.shared.state.engine(self.name());
        let work = move || drop_items(&spool, from, &engine);
        let dropped = self
            .blocking("drop what was shipped nowhere", work)
            .await??;
        for order in dropped {
            self.shared.items.forget(self.name(), order);
        }
        self.removed = self.removed.min(from);
        Ok(())
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
        self.record.giving_up = None;
        self.flush().await;
        let text = "a range was given up: the spool was full while no region could be reached. A signed gap says \
                    so; a new base follows as soon as a region is back";
        self.alert("log.gap", text);
        Ok(())
    }
}

/// Where the second half of the bytes from `from` on begins: there is room for others once it is gone.
fn second_half(spool: &Spool, from: Order) -> std::result::Result<Order, SpoolError> {
    let mut orders = spool.list()?;
    orders.retain(|order| *order >= from);
    let sizes = orders.iter().map(|order| spool.object_bytes(*order));
    let sizes = sizes.collect::<std::result::Result<Vec<u64>, _>>()?;
    let mut left = sizes.iter().sum::<u64>() / 2;
    let mut sized = orders.iter().zip(&sizes);
    let kept = sized.find(|(_, bytes)| match left.checked_sub(**bytes) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    });
    Ok(kept.map_or(from, |(order, _)| *order))
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
        any: !orders.is_empty(),
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

/// Everything from `from` on, then the engine's folder, whose page map speaks of what is gone. Returns
/// what went.
fn drop_items(spool: &Spool, from: Order, engine: &std::path::Path) -> Result<Vec<Order>> {
    let mut orders = spool.list()?;
    orders.retain(|order| *order >= from);
    for order in orders.iter().rev() {
        spool.remove_if_there(*order)?;
    }
    match std::fs::remove_dir_all(engine) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(AgentError::Io {
            action: "remove the page map of what was given up",
            source,
        }),
        _ => Ok(orders),
    }
}
