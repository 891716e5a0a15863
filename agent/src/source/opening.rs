//! Opening a source: what the spool still knows, and in which generation the log goes on.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemark_engine::{ErrorKind, UnfinishedBase, Verdict};
use tidemark_format::{Hash, Incarnation, LogSeq, RegionName};
use tidemark_host::{Monotonic, RngExt as _};

use super::driver::{Driver, Hold};
use super::short::logs;
use super::slot::{Command, Records};
use crate::policy;
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
        let given_up = self.record.giving_up.is_some();
        if given_up {
            self.go_on_giving_up();
        } else {
            self.find_unsynced().await;
            self.open_lanes().await;
        }
        let record = &self.record;
        self.show(|live| {
            live.engine = self.parts.engine.to_owned();
            live.durable_in = self.parts.settings.durable_in;
            live.epoch = record.epoch;
            live.log_seq = record.log.next.previous();
            live.log_link = record.log.link;
            live.point = record.point.next.previous();
            live.point_at = record.point.at;
            live.base_at = record.base.map(|base| base.finished_at);
        });
        self.say_lost_log();
        self.show_canary(None);
        self.show_pause();
        if !given_up {
            self.open();
        }
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

    /// Regions that the config names no more: the spool keeps nothing for them.
    async fn part_lanes(&mut self) {
        let named: BTreeSet<RegionName> = self
            .parts
            .outlets
            .iter()
            .map(|outlet| outlet.link.name.clone())
            .collect();
        let lanes = self.record.lanes.iter();
        let leaving = lanes.filter(|(name, lane)| !named.contains(*name) && !lane.parted);
        let leaving: Vec<_> = leaving.map(|(n, lane)| (n.clone(), lane.cursor)).collect();
        for (name, cursor) in leaving {
            let (spool, end) = (Arc::clone(&self.parts.spool), self.record.next_order);
            let tried = self
                .blocking("read the spool", move || logs(&spool, cursor..end))
                .await;
            tracing::info!(source = %self.name(), region = %name, "the config names this region no more");
            if let (Some(lane), Ok(tried)) = (self.record.lanes.get_mut(&name), tried) {
                lane.part(&tried);
                self.changed();
            }
        }
    }

    pub(super) async fn open_lanes(&mut self) {
        self.part_lanes().await;
        let spool = Arc::clone(&self.parts.spool);
        let begin = self.blocking("read the spool", move || beginning(&spool));
        let (first, log) = begin.await.ok().flatten().unzip();
        let first = first.unwrap_or(self.record.next_order);
        let log = log.flatten().unwrap_or(self.record.log.next);
        let base = self.record.base.map(|base| base.reference);
        for outlet in self.parts.outlets.clone() {
            let name = outlet.link.name.clone();
            let lane = self.record.lane(&name);
            // What was removed was settled in every region that the config named then.
            lane.rejoin(first, log, base);
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

    /// The capture ended, or didn't begin: when it is tried again, and who hears of it.
    pub(super) fn on_failed(&mut self, kind: ErrorKind, verdict: policy::Verdict, message: &str) {
        self.base_failed("the capture ended");
        if self.hold == Hold::Closed {
            return;
        }
        let now = self.now();
        let wait = self.reopen.failed(kind == ErrorKind::Reopen, now);
        self.hold = Hold::Waiting {
            until: now.after(wait),
        };
        let news = self.reopen.is_news(message);
        if verdict.response == policy::Response::Retry {
            if news {
                tracing::warn!(source = %self.name(), error = message, "the capture ended and begins again");
            }
            return;
        }
        let code = format!("source.{}", verdict.code.id);
        let name = self.name().clone();
        self.shared
            .board
            .keep_alerts("source.", name.as_str(), &[&code]);
        self.alert(&code, message);
        self.failure = Some((verdict.code, message.to_owned()));
        self.show(|live| live.state = SourceState::WaitingForDatabase);
    }

    /// Something about the database that failed has changed: an open may go well now.
    pub(super) fn on_changed(&mut self) {
        if let Hold::Waiting { .. } = self.hold
            && !self.draining
        {
            self.reopen.changed();
            self.hold = Hold::Waiting { until: self.now() };
        }
    }

    pub(super) fn reopen_if_due(&mut self) {
        let Hold::Waiting { until } = self.hold else {
            return;
        };
        if self.draining {
            return;
        }
        let now = self.now();
        if now < until {
            if now >= self.reopen.look_at() {
                self.reopen.looking(now);
                self.parts.slot.tell(Command::Look);
            }
        } else if self.waiting.is_empty() && self.gap.is_none() {
            self.open();
        }
    }

    /// When a database that failed is looked at, or opened again.
    pub(super) fn reopen_due_at(&self) -> Option<Monotonic> {
        match self.hold {
            // An input brings what an open still waits for.
            Hold::Waiting { .. } if self.draining || !self.waiting.is_empty() => None,
            Hold::Waiting { .. } if self.gap.is_some() => None,
            Hold::Waiting { until } => Some(until.min(self.reopen.look_at())),
            Hold::Opening | Hold::Open | Hold::Closed => None,
        }
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
                self.lost_log(reason);
            }
        }
        self.hold = Hold::Open;
        self.failure = None;
        self.reopen.opened(self.now());
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
        if another {
            // Nothing of this life can be replayed onto a base of the one before: no point may say so.
            self.record.base = None;
        }
        self.changed();
        self.acknowledge_anew();
        self.parts.slot.tell(Command::Probe);
        self.remove_unwanted_canary();
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

/// The first item of the spool, and the first log object in it.
fn beginning(spool: &Spool) -> Option<(Order, Option<LogSeq>)> {
    let orders = spool.list().unwrap_or_default();
    let log_at = |order: &Order| match spool.item(*order) {
        Ok((_, ItemHead::Log(head))) => Some(head.seq),
        _ => None,
    };
    Some((*orders.first()?, orders.iter().find_map(log_at)))
}

/// Bytes of the objects from `cursor` on, as they are counted when they come, and the first commit among them.
pub(super) fn backlog(spool: &Spool, cursor: Order) -> (u64, Option<jiff::Timestamp>) {
    let orders: Vec<Order> = spool
        .list()
        .unwrap_or_default()
        .into_iter()
        .filter(|order| *order >= cursor)
        .collect();
    let bytes = orders
        .iter()
        .filter_map(|order| spool.object_bytes(*order).ok())
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

/// Finds the link of an object that this agent sealed: by the lane (and what it gave up after a try), the
/// log's end or the spool.
fn link_of(record: &SourceRecord, lane: &crate::ship::lane::Lane, spool: &Arc<Spool>) -> LinkOf {
    let ends = [
        lane.log_through.zip(lane.log_link),
        record.log.next.previous().zip(record.log.link),
    ];
    let tried = lane.tried.iter().copied();
    let known: Vec<(LogSeq, Hash)> = ends.into_iter().flatten().chain(tried).collect();
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
