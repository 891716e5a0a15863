//! The capture that the agent polls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tidemark_engine::canary::{Canary, CanaryForm, CanaryOutcome};
use tidemark_engine::{
    Alert, BaseSlice, BaseStart, COMPLETE_UNTIL, Capture, Error, LogCut, Poll, Probe, Wake,
    Workspace,
};
use tidemark_format::LogSeq;
use tidemark_format::postgres::layout::UNIT_BYTES;
use tidemark_format::postgres::{HistoryFile, LogRange, Lsn, RecordSpan};
use tidemark_host::Clock;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::alerts::COMMITS_WAIT;
use super::buffer::{Buffer, Piece};
use super::canary::CanaryPen;
use super::cuts::Cuts;
use super::memory::LogMemory;
use super::pulse::Pulse;
use super::receiver::Receiver;
use super::record::{Record, State, StateFolder};
use super::server::Connector;
use super::shared::{Inner, Seen, Shared};
use super::{Ack, CUT_BYTES, Limits};
use crate::base::{Bases, LogStart};
use crate::error::PostgresError;
use crate::wire::LINK;

/// How soon a poll follows if nothing wakes it.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// While a whole cut waits: the next one is made that soon, and a caller that holds cuts back does not spin.
const POLL_SOON: Duration = Duration::from_millis(10);
/// A pulse older than this is asked for anew by every poll.
const PULSE_FRESH: Duration = Duration::from_millis(250);
/// Commits that wait longer than this for the regions are told.
const COMMITS_PATIENCE: Duration = Duration::from_secs(5);
/// Backends take a commit's time a moment before they write it: on a standby, where nobody can be asked,
/// what is older than this than the newest commit is taken to be complete.
const STANDBY_SLACK: SignedDuration = SignedDuration::from_secs(2);

/// What a capture is begun with.
pub(crate) struct Begin {
    pub(crate) state: State,
    pub(crate) folder: StateFolder,
    pub(crate) bases: Bases,
    /// Cuts sealed before whose records were kept.
    pub(crate) sealed: Vec<(LogSeq, Lsn)>,
    pub(crate) seen: Seen,
    pub(crate) connector: Connector,
    pub(crate) slot: String,
    pub(crate) ack: Ack,
    pub(crate) keep_max: Option<u64>,
    pub(crate) canary: Option<CanaryForm>,
    pub(crate) limits: Limits,
    pub(crate) memory: Arc<LogMemory>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) wake: Wake,
}

/// A server whose log is captured.
#[derive(Debug)]
pub(crate) struct PgCapture {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
    state: State,
    /// What the state file holds.
    stored: State,
    folder: StateFolder,
    bases: Bases,
    cuts: Cuts,
    ack: Ack,
    limits: Limits,
    slot: String,
    connector: Connector,
    /// A restorable cut is owed, even an empty one.
    owed: bool,
    canary: Option<CanaryPen>,
}

impl Drop for PgCapture {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl PgCapture {
    /// Begins to receive.
    pub(crate) fn begin(begin: Begin, runtime: &Handle) -> Self {
        let Begin {
            state,
            folder,
            bases,
            sealed,
            seen,
            connector,
            slot,
            ack,
            keep_max,
            canary,
            limits,
            memory,
            clock,
            wake,
        } = begin;
        let cuts = Cuts::new(ack, &sealed, clock.monotonic());
        let buffer = Buffer::after(&state.cursor);
        let acked = Lsn(state.acked);
        let shared = Shared::new(buffer, acked, clock, wake, (limits, memory));
        if state.sealed.is_none() {
            shared.counts_from(seen.identity.flushed);
        }
        shared.follows(state.newest());
        shared.saw(seen);
        let shared = Arc::new(shared);
        let receiver = Receiver {
            shared: Arc::clone(&shared),
            connector: connector.clone(),
            slot: slot.clone(),
            limits,
        };
        let pen = (Arc::clone(&shared), connector.clone(), limits);
        let canary = canary.map(|form| CanaryPen::begin(form, pen, &folder, runtime));
        let again = connector.clone();
        let pulse = Pulse {
            shared: Arc::clone(&shared),
            connector,
            limits,
            keep_max,
        };
        Self {
            tasks: [runtime.spawn(receiver.run()), runtime.spawn(pulse.run())],
            shared,
            stored: state.clone(),
            state,
            folder,
            bases,
            cuts,
            ack,
            limits,
            slot,
            connector: again,
            owed: false,
            canary,
        }
    }

    /// This life is over: remembered first, so that opening again begins a new one.
    fn ended(&mut self, reason: String) -> Error {
        if self.state.broken.is_none() {
            self.state.broken = Some(reason.clone());
        }
        match self.store() {
            Ok(()) => PostgresError::Broken { reason }.into(),
            Err(error) => error.into(),
        }
    }

    fn store(&mut self) -> Result<(), PostgresError> {
        let followed = self.shared.lock().followed;
        self.state.follows(followed);
        if self.state != self.stored {
            self.folder.store(&self.state)?;
            self.stored = self.state.clone();
        }
        Ok(())
    }

    /// Why this life is over, if it is.
    fn over(&self, inner: &Inner) -> Option<String> {
        if let Some(reason) = &inner.broken {
            return Some(reason.clone());
        }
        // The slot is gone: once all that came is safe, a base can be afforded again.
        let drained = inner.buffer.bytes() == 0 && self.cuts.is_settled();
        let let_go = inner.let_go.as_ref().filter(|let_go| let_go.dropped);
        let_go.filter(|_| drained).map(|gone| gone.reason.clone())
    }

    fn alerts(&self, inner: &Inner) -> Vec<Alert> {
        let now = self.shared.clock.monotonic();
        let mut alerts = inner.alerts(now, self.limits.alert_after);
        let waits = self
            .cuts
            .waits(now)
            .filter(|waits| *waits >= COMMITS_PATIENCE);
        if let Some(waits) = waits {
            alerts.push(Alert {
                code: COMMITS_WAIT,
                message: format!(
                    "log waits for {} s to be durable in the regions: with ack = \"regions\" commits that wait for this standby don't return. See which region is missing (`tidemark-agent status`); to let commits go on without it, take this source out of synchronous_standby_names, or set ack = \"spool\"",
                    waits.as_secs()
                ),
                halts: false,
            });
        }
        alerts.extend(self.bases.alerts());
        alerts
    }

    fn tell(&mut self, acked: Option<Lsn>) -> Result<(), PostgresError> {
        let Some(acked) = acked.filter(|acked| acked.0 > self.state.acked) else {
            return Ok(());
        };
        if self.ack == Ack::Regions {
            // Sealed cuts tell it after a crash; durable ones don't.
            self.folder.note_acked(acked.0)?;
        }
        self.state.acked = acked.0;
        let mut inner = self.shared.lock();
        inner.acked = inner.acked.max(acked);
        drop(inner);
        self.shared.nudge.notify_one();
        Ok(())
    }

    fn cut_of(
        &mut self,
        seq: LogSeq,
        piece: &Piece,
        bytes: &[u8],
        complete: Option<Timestamp>,
    ) -> Result<LogCut, PostgresError> {
        let end = piece.cursor.end();
        let stop = self.bases.stop_lsn();
        let restorable = piece.restorable && stop.is_none_or(|stop| end >= stop);
        let histories = piece.histories.as_deref().unwrap_or_default();
        let range = LogRange {
            system: piece.cursor.system,
            timeline: piece.timeline,
            segment: piece.cursor.segment(),
            start: piece.start,
            last_record: piece.last.map(|last| RecordSpan {
                start: last.start,
                end: last.end,
            }),
            histories: histories
                .iter()
                .map(|(timeline, bytes)| HistoryFile {
                    timeline: *timeline,
                    bytes,
                })
                .collect(),
            bytes,
        };
        let record = Record {
            incarnation: self.state.incarnation,
            seq,
            cursor: piece.cursor.clone(),
        };
        let mut facts = BTreeMap::from([("postgres".to_owned(), facts_of(piece))]);
        if let Some(complete) = complete.filter(|_| restorable) {
            facts.insert(COMPLETE_UNTIL.to_owned(), complete.to_string().into());
        }
        Ok(LogCut {
            payload: range.encode(),
            record: record.encode()?,
            restorable,
            transactions: piece.summary.commits,
            first_commit: piece.summary.first,
            last_commit: piece.summary.latest,
            facts,
            bytes_changed: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        })
    }
}

/// What a cut says in the clear.
fn facts_of(piece: &Piece) -> Value {
    let mut facts = json!({
        "timeline": piece.timeline.0,
        "start": piece.start.to_string(),
        "end": piece.cursor.end().to_string(),
    });
    let more = [
        (
            "last_record",
            piece.last.map(|last| last.end.to_string().into()),
        ),
        (
            "xids",
            piece.summary.xids.map(|(low, high)| json!([low, high])),
        ),
        (
            "points",
            (!piece.summary.points.is_empty()).then(|| json!(piece.summary.points)),
        ),
    ];
    if let Some(map) = facts.as_object_mut() {
        for (name, value) in more {
            map.extend(value.map(|value| (name.to_owned(), value)));
        }
    }
    facts
}

/// Everything committed by then is here.
fn complete_until(inner: &Inner) -> Option<Timestamp> {
    if inner.is_standby() {
        let newest = inner.buffer.latest_commit()?;
        return newest.checked_sub(STANDBY_SLACK).ok();
    }
    inner.complete.until(inner.buffer.received())
}

impl Capture for PgCapture {
    fn poll(&mut self, _work: &mut Workspace) -> Result<Poll, Error> {
        let shared = Arc::clone(&self.shared);
        let inner = shared.lock();
        if let Some(reason) = self.over(&inner) {
            drop(inner);
            return Err(self.ended(reason));
        }
        let rests = inner.is_at_rest(shared.clock.now(), self.limits.quiet_max);
        let pending = if rests {
            0
        } else {
            inner.buffer.next_bytes(CUT_BYTES)
        };
        let can_owe = self.owed && !inner.buffer.is_behind();
        // Nothing waits on its way to the regions: commits that wait for them shall not wait for a timer.
        let at_once = self.ack == Ack::Regions && self.cuts.is_settled() && pending > 0;
        let poll = Poll {
            next: if pending >= CUT_BYTES {
                POLL_SOON
            } else {
                POLL_EVERY
            },
            pending_bytes: u64::try_from(pending).unwrap_or(u64::MAX),
            oldest_pending: inner.buffer.oldest().filter(|_| pending > 0),
            complete_until: complete_until(&inner),
            cut_now: inner.is_due() || can_owe || at_once,
            alerts: self.alerts(&inner),
            catching_up: None,
        };
        let age = inner.pulse_age(shared.clock.monotonic());
        drop(inner);
        if age.is_none_or(|age| age >= PULSE_FRESH) {
            shared.ask.notify_one();
        }
        Ok(poll)
    }

    fn cut(&mut self, next_seq: LogSeq, work: &mut Workspace) -> Result<Option<LogCut>, Error> {
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        let was_full = inner.buffer.bytes() >= self.limits.buffer_max || inner.is_due();
        let taken = inner.buffer.take(CUT_BYTES, self.owed, &mut work.buffer);
        let Some(piece) = taken else {
            return Ok(None);
        };
        inner.was_cut();
        let complete = if inner.is_standby() {
            complete_until(&inner)
        } else {
            inner.complete.cut_at(piece.cursor.end())
        };
        let more = inner.is_due();
        let link = inner.seen.as_ref().map(|seen| seen.link);
        drop(inner);
        if was_full {
            shared.nudge.notify_one();
        }
        if more {
            shared.wake();
        }
        let mut cut = self.cut_of(next_seq, &piece, &work.buffer, complete)?;
        let link = link.map(|link| (LINK.to_owned(), link.name().into()));
        cut.facts.extend(link);
        self.owed &= !cut.restorable;
        let now = shared.clock.monotonic();
        self.cuts.made(next_seq, piece.cursor, now);
        Ok(Some(cut))
    }

    fn sealed(&mut self, seq: LogSeq) -> Result<(), Error> {
        let (cursor, acked) = self.cuts.sealed(seq);
        if let Some(cursor) = cursor {
            self.state.cursor = cursor;
            self.state.sealed = Some(seq);
        }
        Ok(self.tell(acked)?)
    }

    fn durable(&mut self, seq: LogSeq) -> Result<(), Error> {
        let acked = self.cuts.durable(seq);
        self.tell(acked)?;
        if acked.is_some() && self.ack == Ack::Regions {
            // What came meanwhile may be cut at once.
            self.shared.wake();
        }
        Ok(())
    }

    fn give_up(&mut self) -> Result<(), Error> {
        let reason = "what was captured could not be kept: the spool gave it up".to_owned();
        self.state.broken.get_or_insert_with(|| reason.clone());
        self.store()?;
        self.shared.broke(reason);
        Ok(())
    }

    fn map_synced(&mut self) -> Result<Option<LogSeq>, Error> {
        self.store()?;
        Ok(self.cuts.settled())
    }

    fn open_generation(&mut self, digest_key: [u8; 32]) -> Result<(), Error> {
        self.shared.lock().buffer.tell_histories();
        self.bases.open_generation(digest_key)
    }

    fn begin_base(&mut self, next_seq: LogSeq, complete: bool) -> Result<BaseStart, Error> {
        let (log, peer) = {
            let mut inner = self.shared.lock();
            inner.buffer.tell_histories();
            let log = LogStart {
                system: inner.buffer.system(),
                from: inner.buffer.next_start().1,
            };
            (log, inner.peer.clone())
        };
        // Of several servers the one whose log it is.
        let info = peer.and_then(|peer| self.connector.info_of(&peer).ok());
        if let Some(info) = info {
            self.bases.take_from(info);
        }
        let start = self.bases.begin(next_seq, complete, log)?;
        self.owed = true;
        Ok(start)
    }

    fn base_slice(&mut self, max_bytes: usize, _work: &mut Workspace) -> Result<BaseSlice, Error> {
        let received = self.shared.lock().buffer.received();
        let slice = self.bases.slice(max_bytes, received)?;
        // It is usable from a cut that comes even if nothing is written any more.
        self.owed |= slice.done;
        Ok(slice)
    }

    fn base_stands(&mut self) -> Result<(), Error> {
        self.bases.stands()
    }

    fn base_done(&mut self) -> Result<(), Error> {
        self.bases.done()
    }

    fn base_abandoned(&mut self) {
        self.bases.abandoned();
    }

    fn canary(&mut self, canary: &Canary) {
        if let Some(pen) = &mut self.canary {
            pen.write(&self.folder, canary);
        }
    }

    fn canary_outcome(&mut self) -> Option<CanaryOutcome> {
        self.canary.as_ref()?.take_told()
    }

    fn probe(&mut self) -> Result<Probe, Error> {
        let inner = self.shared.lock();
        let mut facts = BTreeMap::from([
            (
                "system".to_owned(),
                inner.buffer.system().to_string().into(),
            ),
            ("slot".to_owned(), self.slot.clone().into()),
            (
                "received".to_owned(),
                inner.buffer.received().to_string().into(),
            ),
            ("acknowledged".to_owned(), inner.acked.to_string().into()),
            ("standby".to_owned(), inner.is_standby().into()),
        ]);
        let mut held = 0;
        if let Some(Seen { identity, .. }) = &inner.seen {
            held = identity.flushed.since(inner.acked);
            facts.insert("timeline".to_owned(), identity.timeline.0.into());
        }
        let bytes = self.bases.image_bytes();
        Ok(Probe {
            bytes,
            page_size: UNIT_BYTES,
            pages: bytes.div_ceil(u64::from(UNIT_BYTES)),
            log_bytes: if inner.acked == Lsn(0) { 0 } else { held },
            version: inner
                .seen
                .as_ref()
                .and_then(|seen| seen.version.clone())
                .unwrap_or_default(),
            facts,
        })
    }

    fn release(self: Box<Self>) {}
}
