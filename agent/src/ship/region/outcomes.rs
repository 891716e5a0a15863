//! What came of what a region's driver began: the region answers, is away, or another writer has a
//! source there.

use std::time::Duration;

use tidemark_format::SourceName;
use tidemark_host::codes;
use tidemark_ledger::LedgerErrorKind;

use super::{Done, Driver, Report};
use crate::policy::{self, Response};
use crate::ship::greet::GreetError;
use crate::ship::lane::{Admission, Content, Lane};
use crate::ship::link::ShipError;
use crate::ship::looking::AGENT;
use crate::ship::shipping::{Shipped, away_text, meaning, ship_meaning};
use crate::state::Order;

/// How long a region may be away before people are told: a passing failure is not news.
const AWAY_ALERT: Duration = Duration::from_secs(60);

impl Driver {
    pub(super) fn done(&mut self, done: Done) {
        match done {
            Done::Greeted(result) => {
                self.greeting = false;
                match result {
                    Ok(()) => self.greeted(),
                    Err(error) => self.greeting_failed(&error),
                }
            }
            Done::Beaten { number, result } => {
                self.beating = false;
                match result {
                    Ok(()) => {
                        self.tools
                            .board
                            .region(&self.link.name, |live| live.beat = Some(number));
                        self.answered();
                    }
                    Err(error) => self.greeting_failed(&error),
                }
            }
            Done::Looked { greeted, result } => self.looked(greeted, result),
            Done::Probed(result) => self.found_out(result),
            Done::LookedAt { source, result } => self.looked_at(&source, result),
            Done::Watched {
                source,
                lane,
                result,
            } => self.watched(&source, &lane, result),
            Done::Shipped {
                source,
                order,
                result,
            } => self.shipped(&source, order, result),
        }
    }

    pub(in crate::ship) fn greeted(&mut self) {
        self.greeted = true;
        self.is_another_place();
        self.tools.board.clear(codes::NOT_ENROLLED.id, AGENT);
        self.look_later();
        if let Some((number, _)) = &self.beat {
            self.beaten = self.beaten.max(*number);
        }
        self.answered();
    }

    pub(in crate::ship) fn greeting_failed(&mut self, error: &GreetError) {
        if !self.not_believed(error) {
            self.away(error, meaning(error));
        }
    }

    fn found_out(&self, result: tidemark_storage::Result<tidemark_storage::ProbeReport>) {
        match result {
            Ok(report) => {
                let level = report.create_only.name().to_owned();
                self.tools
                    .board
                    .region(&self.link.name, |live| live.create_only = Some(level));
                if !report.conditional_create {
                    let text = "this store ignores If-None-Match: two writers could replace each other's objects \
                                there; use another store, or a bucket policy that requires the header";
                    let now = self.tools.clock.now();
                    self.tools
                        .board
                        .alert("store.create-only", self.link.name.as_str(), text, now);
                }
            }
            // Points then don't say; `doctor` probes with words.
            Err(error) => tracing::debug!(region = %self.link.name, error = %error, "not probed"),
        }
    }

    fn looked_at(&mut self, source: &SourceName, result: Result<(), GreetError>) {
        let Some(known) = self.sources.get_mut(source) else {
            return;
        };
        known.checking = false;
        let moved = std::mem::take(&mut known.moved);
        match result {
            Ok(()) => {
                known.checked = true;
                known.watch.look_soon();
                self.answered();
            }
            // Looked at again, with what the lane knows since.
            Err(GreetError::Ledger(error)) if error.kind() == LedgerErrorKind::Fenced && moved => {}
            Err(GreetError::Ledger(error)) if error.kind() == LedgerErrorKind::Fenced => {
                self.fenced(source, &error);
            }
            Err(error) => self.away(&error, meaning(&error)),
        }
        self.release(source);
    }

    pub(in crate::ship) fn fenced(&mut self, source: &SourceName, error: &dyn std::error::Error) {
        if let Some(known) = self.sources.get_mut(source) {
            known.fenced = true;
            let why = policy::with_causes(error);
            drop(known.to.send(Report::Fenced { why }));
        }
        self.queue.stop(source);
    }

    fn shipped(&mut self, source: &SourceName, order: Order, result: Result<Shipped, ShipError>) {
        match result {
            Ok(Shipped { item, how, took }) => {
                let bytes = u64::try_from(item.bytes.len()).unwrap_or(u64::MAX);
                if how == Admission::Ship {
                    self.tools
                        .metrics
                        .shipped(source, &self.link.name, bytes, took);
                    self.answered();
                }
                let lane = self.queue.settled(source, order, how, &item.content, bytes);
                if let Some(lane) = lane {
                    self.report(source, lane);
                }
                if let Content::Base { .. } = item.content {
                    self.is_whole_again();
                }
            }
            Err(error @ ShipError::Foreign { .. }) => self.fenced(source, &error),
            Err(error) => {
                // It is greeted anew, and prepared if that is safe.
                self.greeted &= !matches!(error, ShipError::Emptied { .. });
                self.queue.failed(source, self.now(), &*self.tools.rng);
                self.away(&error, ship_meaning(&error));
            }
        }
        self.report_frozen(source);
    }

    pub(super) fn report_frozen(&self, source: &SourceName) {
        let Some(known) = self.sources.get(source).filter(|known| known.frozen) else {
            return;
        };
        let Some(lane) = self
            .queue
            .lane(source)
            .filter(|_| !self.queue.is_busy(source))
        else {
            return;
        };
        let (region, lane) = (self.link.name.clone(), lane.clone());
        drop(known.to.send(Report::Frozen { region, lane }));
    }

    pub(in crate::ship) fn report(&mut self, source: &SourceName, mut lane: Lane) {
        lane.region = self.link.id();
        if let Some(known) = self.sources.get(source) {
            let region = self.link.name.clone();
            drop(known.to.send(Report::Lane { region, lane }));
        }
        self.show(source);
    }

    /// The region answered.
    fn answered(&mut self) {
        let before = self.queue.outage();
        self.queue.answered();
        let name = self.link.name.as_str();
        for code in [codes::REGION_AWAY.id, "region."] {
            self.tools.board.keep_alerts(code, name, &[]);
        }
        if before.is_some() {
            tracing::info!(region = name, "the region answers again");
        }
        let up = self
            .tools
            .board
            .read(|_, regions, _| regions.get(&self.link.name).is_some_and(|live| live.up));
        if !up || before.is_some() {
            self.show_region(None);
        }
    }

    /// The region failed.
    pub(in crate::ship) fn away(
        &mut self,
        error: &dyn std::error::Error,
        verdict: policy::Verdict,
    ) {
        let now = self.now();
        let first = self.queue.outage().is_none();
        self.queue.away(now, &*self.tools.rng);
        let text = away_text(&self.link, error);
        let name = &self.link.name;
        self.tools.metrics.failed(name, verdict.code.id);
        if first {
            tracing::warn!(region = %name, error = %text, "the region is away; others go on");
        }
        let long = self
            .queue
            .outage()
            .is_some_and(|outage| now.0.duration_since(outage.since).unsigned_abs() >= AWAY_ALERT);
        if long || verdict.response == Response::Alert {
            let code = format!("region.{}", verdict.code.id);
            self.tools.board.alert(&code, name.as_str(), &text, now.0);
        }
        self.show_region(Some(text));
        self.cannot_be_looked_for();
    }
}
