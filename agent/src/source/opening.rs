//! Opening a source: what the spool still knows, and in which generation the log goes on.

use std::sync::Arc;

use tidemark_engine::{UnfinishedBase, Verdict};
use tidemark_format::{Hash, Incarnation, LogSeq};
use tidemark_host::RngExt as _;

use super::driver::{Driver, Hold};
use super::slot::{Command, Records};
use crate::ship::lane::Content;
use crate::ship::queue::Ends;
use crate::ship::region::{Command as RegionCommand, LinkOf, Opening};
use crate::state::item::ItemHead;
use crate::state::{Order, SourceRecord, Spool};
use crate::status_live::SourceState;

/// What the slot found out at opening.
pub(super) struct Opened {
    pub(super) incarnation: Incarnation,
    pub(super) verdict: Verdict,
    pub(super) needs_complete_base: bool,
    pub(super) unfinished_base: Option<UnfinishedBase>,
}

impl Driver {
    /// Hands the source to every region and opens it.
    pub(super) async fn start(&mut self) {
        self.find_unsynced().await;
        self.open_lanes().await;
        let record = &self.record;
        self.show(|live| {
            live.engine = self.parts.engine.to_owned();
            live.epoch = record.epoch;
            live.log_seq = record.log.next.previous();
            live.log_link = record.log.link;
            live.point = record.point.next.previous();
            live.point_at = record.point.at;
            live.base_at = record.base.map(|base| base.finished_at);
        });
        self.show_pause();
        self.open();
    }

    /// Finds the log objects whose records the engine may still need.
    async fn find_unsynced(&mut self) {
        let orders = std::mem::take(&mut self.parts.orders);
        let spool = Arc::clone(&self.parts.spool);
        let from = self.record.log.synced_order;
        let found = self
            .blocking("read the spool", move || unsynced(&spool, &orders, from))
            .await;
        if let Ok(found) = found {
            self.unsynced = found.into();
        }
    }

    pub(super) async fn open_lanes(&mut self) {
        let oldest = self.parts.spool.first();
        for outlet in self.parts.outlets.clone() {
            let name = outlet.link.name.clone();
            let lane = self.record.lane(&name);
            // What was removed was settled in every lane.
            lane.cursor = lane.cursor.max(oldest.unwrap_or(lane.cursor));
            let lane = lane.clone();
            let (spool, cursor) = (Arc::clone(&self.parts.spool), lane.cursor);
            let waits = self
                .blocking("read the spool", move || backlog(&spool, cursor))
                .await;
            let (backlog_bytes, oldest) = waits.unwrap_or_default();
            let ends = Ends {
                order: self.record.next_order,
                log: self.record.log.next,
                backlog_bytes,
                oldest,
            };
            let opening = Opening {
                source: self.record.source.clone(),
                epoch: self.record.epoch,
                writer: self.record.writer,
                link_of: link_of(&self.record, &lane, &self.parts.spool),
                joined: self.parts.joined.contains(&name),
                lane,
                ends,
                to: self.report_to.clone(),
                held: self.record.paused.is_some(),
            };
            drop(outlet.commands.send(RegionCommand::Open(Box::new(opening))));
        }
    }

    /// Opens the database, with the records that its page map may lack.
    pub(super) fn open(&mut self) {
        self.hold = Hold::Opening;
        let spool = Arc::clone(&self.parts.spool);
        let records: Records = Box::new(self.unsynced.clone().into_iter().map_while(
            move |(seq, order)| match spool.record(order) {
                Ok(record) => Some((seq, record)),
                Err(error) => {
                    // Fewer records than needed: the engine compares page by page.
                    tracing::warn!(error = %error, "a record of the spool can't be read");
                    None
                }
            },
        ));
        let candidate = self
            .record
            .incarnation
            .unwrap_or_else(|| self.shared.rng.id());
        let next_seq = self.record.log.next;
        self.parts.slot.tell(Command::Open {
            next_seq,
            records,
            candidate,
        });
    }

    pub(super) fn on_opened(&mut self, opened: Opened) {
        let name = self.name().clone();
        match &opened.verdict {
            Verdict::New => tracing::info!(source = %name, "a new database is captured"),
            Verdict::Continues => tracing::info!(source = %name, "the log goes on without a gap"),
            Verdict::CatchUp { reason } => {
                tracing::info!(source = %name, reason, "what was missed is being found");
            }
            Verdict::NewIncarnation { reason } => {
                tracing::warn!(source = %name, reason, "this is another database: its history begins anew");
            }
        }
        self.hold = Hold::Open;
        self.shared.board.keep_alerts("source.", name.as_str(), &[]);
        let catching_up = matches!(opened.verdict, Verdict::CatchUp { .. });
        self.show(|live| {
            live.state = if catching_up {
                SourceState::CatchingUp
            } else {
                SourceState::Capturing
            };
        });
        self.show_pause();
        if let Some(unfinished) = opened.unfinished_base {
            let published = self
                .record
                .base
                .is_some_and(|base| base.start == unfinished.start);
            let command = if published {
                Command::BaseDone
            } else {
                Command::BaseAbandoned
            };
            self.parts.slot.tell(command);
        }
        let another = self.record.incarnation != Some(opened.incarnation);
        let no_generation = self.record.generation.is_none();
        self.record.incarnation = Some(opened.incarnation);
        self.changed();
        self.parts.slot.tell(Command::Probe);
        self.base.needs_complete =
            another || no_generation || opened.needs_complete_base || self.record.base.is_none();
        if another || no_generation {
            // Nothing may be cut before the new generation is open.
            self.base.opens_first = true;
        } else {
            self.parts.slot.tell(Command::Hold(false));
        }
    }
}

/// Log objects from `from` on.
fn unsynced(spool: &Spool, orders: &[Order], from: Order) -> Vec<(LogSeq, Order)> {
    let mut found = Vec::new();
    for order in orders.iter().copied().filter(|order| *order >= from) {
        if let Ok((_, ItemHead::Log(head))) = spool.item(order) {
            found.push((head.seq, order));
        }
    }
    found
}

/// Bytes from `cursor` on, and the first commit among them.
fn backlog(spool: &Spool, cursor: Order) -> (u64, Option<jiff::Timestamp>) {
    let orders: Vec<Order> = spool
        .list()
        .unwrap_or_default()
        .into_iter()
        .filter(|order| *order >= cursor)
        .collect();
    let bytes = orders
        .iter()
        .filter_map(|order| spool.size(*order).ok())
        .sum();
    let first = orders.iter().find_map(|order| match spool.item(*order) {
        Ok((item, _)) => match item.content {
            Content::Log { first_commit, .. } => first_commit,
            Content::Base { .. } | Content::Point { .. } => None,
        },
        Err(_damaged) => None,
    });
    (bytes, first)
}

/// Finds the link of an object that this agent sealed: by the lane, the log's end or the spool.
fn link_of(record: &SourceRecord, lane: &crate::ship::lane::Lane, spool: &Arc<Spool>) -> LinkOf {
    let known: Vec<(LogSeq, Hash)> = [
        lane.log_through.zip(lane.log_link),
        record.log.next.previous().zip(record.log.link),
    ]
    .into_iter()
    .flatten()
    .collect();
    let spool = Arc::clone(spool);
    Arc::new(move |wanted| {
        if let Some((_, link)) = known.iter().find(|(seq, _)| *seq == wanted) {
            return Some(*link);
        }
        let orders = spool.list().unwrap_or_default();
        orders
            .into_iter()
            .find_map(|order| match spool.item(order) {
                Ok((item, ItemHead::Log(head))) if head.seq == wanted => Some(item.link),
                _ => None,
            })
    })
}
