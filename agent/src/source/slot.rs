//! A source on the capture pool: the only code that talks to an engine.
//!
//! One turn does what commands ask, then a poll, a cut, a slice of a base or a sync of the page map
//! as they are due. It decides *when* to cut (`cuts`: on the timer, at the engine's bound, on demand);
//! everything else is the driver's decision.
//!
//! **Invariants.** At most [`UNSEALED_MAX`] cuts wait to be sealed. A generation opens only when
//! every cut before it is sealed. Cuts' sequences are dense.
//!
//! **Failure.** An engine's error ends the capture unless it passes by itself: what was captured is
//! cut first, then the driver is told and opens it again later. Other sources don't notice.

mod bases;
mod canary;
mod cuts;
mod messages;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tidemark_engine::{
    Capture, Engine, Error, ErrorKind, OpenRequest, Opened, Poll, Wake, Workspace,
};
use tidemark_format::{Incarnation, LogSeq};
use tidemark_host::Monotonic;

use super::pool::Turns;
use super::refusal::of_engine_error;
use crate::status_live::SourceState;
use bases::BaseTurn;
pub use canary::Canaries;
use canary::CanaryTurn;
use cuts::{Ticket, UNSEALED_MAX};
use messages::Inbox;
pub use messages::{Command, Event, Handle, Parts, Records};

/// How often the page map is fsynced, which lets the spool drop its records.
const SYNC_EVERY: Duration = Duration::from_secs(10);
/// How soon a call that failed for a passing reason is made again.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Passing failures in a row after which the capture is opened anew.
const RETRIES_MAX: u32 = 25;
/// How often a capture that isn't polled looks at the bound of the database's own log.
const BOUNDS_EVERY: Duration = Duration::from_millis(20);

/// A capture that failed.
#[derive(Debug)]
struct Failure {
    kind: ErrorKind,
    verdict: crate::policy::Verdict,
    message: String,
}

impl Failure {
    fn of(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            verdict: of_engine_error(error),
            message: crate::policy::with_causes(error),
        }
    }
}

/// A source on the pool.
pub struct Slot {
    parts: Parts,
    wake: Wake,
    /// The engine has asked for a turn.
    woken: Arc<AtomicBool>,
    inbox: Inbox,
    capture: Option<Box<dyn Capture>>,
    next_seq: LogSeq,
    /// Up to where the log is durable, where the database waits for that.
    durable: Option<LogSeq>,
    /// Sequence and first commit of the cuts that wait to be sealed.
    unsealed: VecDeque<(LogSeq, Option<Timestamp>)>,
    next_poll: Monotonic,
    last_cut: Option<Monotonic>,
    /// A cut that failed is tried again then.
    cut_again: Monotonic,
    last_sync: Monotonic,
    sealed_since_sync: bool,
    sync_asked: bool,
    pending_bytes: u64,
    pending_since: Option<Timestamp>,
    cut_now: bool,
    /// Cut until a restorable end, whatever the timer says.
    force: bool,
    tickets: Vec<Ticket>,
    /// Up to when everything committed stood in restorable cuts, by the last poll.
    covered: Option<Timestamp>,
    hold: bool,
    base: BaseTurn,
    canaries: Option<CanaryTurn>,
    retries: u32,
    /// The capture ends once everything is cut.
    ending: Option<Failure>,
    /// What the database that failed looked like.
    stamp: Option<String>,
    closing: bool,
    retiring: bool,
    /// What canaries were kept in is to be taken away, too.
    removing_canary: bool,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({}, next {})", self.parts.source, self.next_seq)
    }
}

impl Slot {
    /// Puts a source on `pool`.
    #[must_use]
    pub fn add(pool: &super::pool::Pool, parts: Parts) -> Handle {
        let inbox = Arc::new(Mutex::new(VecDeque::new()));
        let waker = pool.waker();
        let slot_inbox = Arc::clone(&inbox);
        let now = parts.clock.monotonic();
        let own = pool.waker();
        let woken = Arc::new(AtomicBool::new(false));
        let to_wake = Arc::clone(&woken);
        let canaries = parts.canaries.map(|wanted| CanaryTurn::new(wanted, now));
        let id = pool.add(move |id| Self {
            canaries,
            removing_canary: false,
            parts,
            wake: Wake::new(move || {
                to_wake.store(true, Ordering::Release);
                own.wake(id);
            }),
            woken,
            inbox: slot_inbox,
            capture: None,
            next_seq: LogSeq(0),
            durable: None,
            unsealed: VecDeque::new(),
            next_poll: now,
            last_cut: None,
            cut_again: now,
            last_sync: now,
            sealed_since_sync: false,
            sync_asked: false,
            pending_bytes: 0,
            pending_since: None,
            cut_now: false,
            force: false,
            tickets: Vec::new(),
            covered: None,
            hold: false,
            base: BaseTurn::default(),
            retries: 0,
            ending: None,
            stamp: None,
            closing: false,
            retiring: false,
        });
        Handle { inbox, waker, id }
    }

    fn send(&self, event: Event) {
        // The driver is gone only when the agent stops.
        drop(self.parts.events.send(event));
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Open {
                next_seq,
                records,
                candidate,
            } => {
                self.open(next_seq, records, candidate);
            }
            Command::Cut { ticket, patience } => self.cut_asked(ticket, patience),
            Command::Sealed(seq) => self.sealed(seq),
            Command::Durable(seq) => self.durable(seq),
            Command::BeginBase {
                generation,
                complete,
            } => {
                self.base.asked = Some((generation, complete));
                self.base.slices.clear();
            }
            Command::Slice { max_bytes } => self.base.slices.push_back(max_bytes),
            Command::ConfirmBase => self.confirm_base(),
            Command::BaseDone => {
                let result = self.capture.as_mut().map(|capture| capture.base_done());
                if let Some(Err(error)) = result {
                    self.fail(&error);
                }
            }
            Command::BaseAbandoned => {
                self.base = BaseTurn::default();
                if let Some(capture) = &mut self.capture {
                    capture.base_abandoned();
                }
            }
            Command::Hold(hold) => self.hold = hold,
            Command::Sync => self.sync_asked = true,
            Command::Probe => {
                if let Some(Ok(probe)) = self.capture.as_mut().map(|capture| capture.probe()) {
                    self.send(Event::Probed(probe));
                }
            }
            Command::Look => self.look(),
            Command::Close => self.closing = true,
            Command::Retire { canary } => {
                self.retiring = true;
                self.removing_canary = canary;
            }
            Command::RemoveCanary => {
                let removed = self.parts.engine.remove_canary();
                let result = removed.map_err(|error| crate::policy::with_causes(&error));
                self.send(Event::CanaryRemoved(result));
            }
        }
    }

    fn open(&mut self, next_seq: LogSeq, mut records: Records, candidate: Incarnation) {
        self.drop_capture();
        self.next_seq = next_seq;
        self.durable = None;
        let request = OpenRequest {
            folder: self.parts.folder.clone(),
            records: &mut records,
            candidate,
            wake: self.wake.clone(),
        };
        match self.parts.engine.open(request) {
            Ok(opened) => self.opened(opened),
            Err(error) => {
                self.ending = Some(Failure::of(&error));
                self.end();
            }
        }
    }

    /// Tells the driver if the database that failed is another one now.
    fn look(&mut self) {
        if self.capture.is_some() {
            return;
        }
        let stamp = self.parts.engine.stamp();
        if stamp != self.stamp {
            self.stamp = stamp;
            self.send(Event::Changed);
        }
    }

    fn opened(&mut self, opened: Opened) {
        let now = self.parts.clock.monotonic();
        self.capture = Some(opened.capture);
        (self.next_poll, self.last_sync) = (now, now);
        self.last_cut = None;
        self.retries = 0;
        // Nothing is cut before the driver has said in which generation.
        self.hold = true;
        self.send(Event::Opened {
            incarnation: opened.incarnation,
            verdict: opened.verdict,
            needs_complete_base: opened.needs_complete_base,
            unfinished_base: opened.unfinished_base,
        });
    }

    fn sealed(&mut self, seq: LogSeq) {
        self.unsealed.retain(|(waiting, _)| *waiting > seq);
        self.sealed_since_sync = true;
        let result = self.capture.as_mut().map(|capture| capture.sealed(seq));
        if let Some(Err(error)) = result {
            self.fail(&error);
        }
        self.show();
    }

    /// The database may be told, and what waited for that is cut.
    fn durable(&mut self, seq: LogSeq) {
        self.durable = self.durable.max(Some(seq));
        self.next_poll = self.parts.clock.monotonic();
        let result = self.capture.as_mut().map(|capture| capture.durable(seq));
        if let Some(Err(error)) = result {
            self.fail(&error);
        }
    }

    /// Lets go of the database, or for good.
    fn let_go(&mut self) {
        if std::mem::take(&mut self.closing) {
            self.drop_capture();
            self.send(Event::Closed);
        }
        if std::mem::take(&mut self.retiring) {
            self.drop_capture();
            let canary = std::mem::take(&mut self.removing_canary);
            let taken_away = take_away(&*self.parts.engine, canary);
            self.send(Event::Retired(taken_away));
        }
    }

    /// An engine's call failed.
    fn fail(&mut self, error: &Error) {
        let passing = matches!(
            error.kind(),
            ErrorKind::Retry | ErrorKind::Io | ErrorKind::Full
        );
        self.retries = self.retries.saturating_add(1);
        if passing && self.retries < RETRIES_MAX {
            tracing::debug!(source = %self.parts.source, error = %error, "capture is tried again");
            self.next_poll = self.parts.clock.monotonic().after(RETRY_AFTER);
        } else if self.ending.is_none() {
            self.ending = Some(Failure::of(error));
            self.force = true;
        }
    }

    fn drop_capture(&mut self) {
        if let Some(capture) = self.capture.take() {
            capture.release();
        }
        self.unsealed.clear();
        self.pending_bytes = 0;
        self.pending_since = None;
        self.cut_now = false;
        self.force = false;
        self.covered = None;
        self.ending = None;
        self.base = BaseTurn::default();
        if let Some(canaries) = &mut self.canaries {
            canaries.forget();
        }
    }

    /// Ends the capture and tells the driver why.
    fn end(&mut self) {
        let ending = self.ending.take();
        let tickets = std::mem::take(&mut self.tickets);
        self.drop_capture();
        if let Some(failure) = ending {
            self.stamp = self.parts.engine.stamp();
            self.send(Event::Failed {
                kind: failure.kind,
                verdict: failure.verdict,
                message: failure.message,
            });
        }
        for ticket in tickets {
            self.cut_done(&ticket);
        }
    }

    /// Something failed: polls wait until it is tried again, or there are none any more.
    const fn is_stuck(&self) -> bool {
        self.retries > 0 || self.ending.is_some()
    }

    fn poll(&mut self, now: Monotonic, work: &mut Workspace) {
        let is_stuck = self.is_stuck();
        let Some(capture) = &mut self.capture else {
            return;
        };
        if now < self.next_poll || self.ending.is_some() {
            if is_stuck {
                capture.keep_bounds();
            }
            return;
        }
        let at = self.parts.clock.now();
        match capture.poll(work) {
            Ok(poll) => {
                self.retries = 0;
                self.next_poll = self.parts.clock.monotonic().after(poll.next);
                self.pending_bytes = poll.pending_bytes;
                self.pending_since = if poll.pending_bytes == 0 {
                    None
                } else {
                    poll.oldest_pending.or(Some(at))
                };
                self.cut_now = poll.cut_now;
                self.force |= !self.tickets.is_empty();
                let all = self.pending_bytes == 0 && poll.catching_up.is_none();
                self.covered = poll.complete_until.filter(|_| all);
                self.report(&poll, at);
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Writes on the board what the last poll found.
    fn report(&self, poll: &Poll, at: Timestamp) {
        let source = &self.parts.source;
        let (alerts, catching_up) = (&poll.alerts, poll.catching_up.is_some());
        for alert in alerts {
            self.parts
                .board
                .alert(alert.code, source.as_str(), &alert.message, at);
        }
        let codes: Vec<&str> = alerts.iter().map(|alert| alert.code).collect();
        let prefix = self.parts.engine.name();
        self.parts
            .board
            .keep_alerts(prefix, source.as_str(), &codes);
        let halts = alerts.iter().find(|alert| alert.halts);
        let halted = halts.map(|alert| alert.message.clone());
        let everything = self.unsealed.is_empty() && self.pending_bytes == 0 && !catching_up;
        self.parts.board.source(source, |live| {
            live.halted = halted;
            if everything {
                live.caught_up_at = live.caught_up_at.max(poll.complete_until);
            }
            let moves = matches!(live.state, SourceState::Capturing | SourceState::CatchingUp);
            if moves {
                live.state = if catching_up {
                    SourceState::CatchingUp
                } else {
                    SourceState::Capturing
                };
            }
        });
        self.show();
    }

    /// Writes on the board since when something is not sealed.
    fn show(&self) {
        let cuts = self.unsealed.iter().filter_map(|(_, first)| *first);
        let since = cuts.chain(self.pending_since).min();
        self.parts
            .board
            .source(&self.parts.source, |live| live.pending_since = since);
    }

    fn sync(&mut self, now: Monotonic) {
        let asked = std::mem::take(&mut self.sync_asked);
        let due = self.sealed_since_sync && (asked || now.since(self.last_sync) >= SYNC_EVERY);
        if !due && !self.closing && !self.retiring {
            return;
        }
        self.last_sync = now;
        self.sealed_since_sync = false;
        let Some(capture) = &mut self.capture else {
            return;
        };
        match capture.map_synced() {
            Ok(Some(seq)) => self.send(Event::Synced(seq)),
            Ok(None) => {}
            Err(error) => self.fail(&error),
        }
    }

    fn next_turn(&self, now: Monotonic, blocked: Option<Duration>) -> Option<Duration> {
        self.capture.as_ref()?;
        let mut wait = match &self.ending {
            Some(_) => BOUNDS_EVERY,
            None if self.is_stuck() => self.next_poll.since(now).min(BOUNDS_EVERY),
            None => self.next_poll.since(now),
        };
        if self.pending_bytes > 0 && !self.hold && self.unsealed.len() < UNSEALED_MAX {
            wait = wait.min(
                self.wait_for_cut(now)
                    .max(blocked.unwrap_or(Duration::ZERO)),
            );
        }
        if let Some(blocked) = blocked {
            wait = wait.min(blocked);
        }
        if !self.base.slices.is_empty() && self.retries == 0 {
            let until = self.base.wait_until.map(|until| until.since(now));
            wait = wait.min(until.unwrap_or(Duration::ZERO));
        }
        if self.sealed_since_sync {
            wait = wait.min(self.last_sync.after(SYNC_EVERY).since(now));
        }
        let canary = self.canaries.as_ref().and_then(|turn| turn.wait(now));
        if let Some(canary) = canary.filter(|_| !self.is_stuck()) {
            wait = wait.min(canary);
        }
        Some(wait)
    }
}

impl Turns for Slot {
    fn turn(&mut self, work: &mut Workspace) -> Option<Duration> {
        loop {
            let command = self
                .inbox
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            match command {
                Some(command) => self.obey(command),
                None => break,
            }
        }
        let now = self.parts.clock.monotonic();
        if self.woken.swap(false, Ordering::Acquire) {
            self.next_poll = now;
            // Whoever waited for pages of a base may have some now.
            self.base.wait_until = None;
        }
        self.poll(now, work);
        self.canary(now);
        self.begin_base();
        let blocked = self.cut(now, work);
        if self.ending.is_some() && !self.force && self.unsealed.is_empty() {
            self.end();
        }
        if self.retries == 0 {
            self.slice(work);
        }
        self.sync(now);
        self.let_go();
        self.next_turn(self.parts.clock.monotonic(), blocked)
    }
}

/// Takes away what stands at the database of a source that is retired, and what canaries were kept in if
/// there were any. What was done, or why not all of it could be.
pub(crate) fn take_away(engine: &dyn Engine, canary: bool) -> Result<Option<String>, String> {
    let said = |done: Result<Option<String>, Error>| {
        done.map_err(|error| crate::policy::with_causes(&error))
    };
    let rest = said(engine.retire());
    let canary = if canary {
        said(engine.remove_canary())
    } else {
        Ok(None)
    };
    match (rest, canary) {
        (Ok(rest), Ok(canary)) => {
            let done: Vec<String> = rest.into_iter().chain(canary).collect();
            Ok((!done.is_empty()).then(|| done.join("; ")))
        }
        (Err(rest), Err(canary)) => Err(format!("{rest}; {canary}")),
        (Err(why), Ok(_)) | (Ok(_), Err(why)) => Err(why),
    }
}
