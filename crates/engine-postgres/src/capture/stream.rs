//! One stream of one timeline, from the start of a segment to its end.
//!
//! What comes first repeats what was captured: it is hashed, not kept, and compared at the place where
//! capture stands. From there on everything goes to the scanner and into the buffer.
//!
//! **Liveness.** The server hears from us at least every [`Limits::status_every`], and at once when it
//! asks or when something became safe. It is asked itself when it is silent, and given up when it stays so.
//!
//! **Cost.** A busy server sends a message for each commit: they are read together, every
//! [`Limits::gather`].

use std::time::Duration;

use tidemark_format::postgres::Lsn;
use tokio::time::Instant;

use super::Limits;
use super::alerts::Trouble;
use super::buffer::Scanned;
use super::record::{Mark, SegmentHash};
use super::shared::Shared;
use crate::replication::{Flushed, Stream, StreamEvent, Switch};
use crate::wal::{PgTime, Record, Scanner};
use crate::wire::{Connection, WireError};

/// While the buffer is full the server's questions are not read: it hears from us by itself.
const STATUS_WHILE_FULL: Duration = Duration::from_millis(500);

/// How a stream ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The timeline has ended.
    Timeline(Connection, Switch),
    /// It is begun again after a wait.
    Again(Trouble),
    /// This life is over.
    Broken(String),
    /// Something else is to be done.
    Stop,
}

/// What was captured before and comes again.
struct Prefix {
    until: Lsn,
    hash: SegmentHash,
    hasher: blake3::Hasher,
}

/// A stream that runs.
pub(super) struct Streaming<'a> {
    shared: &'a Shared,
    limits: &'a Limits,
    stream: Stream,
    scanner: Scanner,
    prefix: Option<Prefix>,
    /// The first record is all that shows that this is still the same log.
    follows: bool,
    /// The server is told nothing before this.
    kept: Lsn,
    /// Something of this life was captured before.
    goes_on: bool,
    found: Vec<Record>,
    heard: Instant,
    asked: bool,
    told: Option<Instant>,
    reported: Flushed,
    owes_reply: bool,
    /// The server stops and waits for us.
    stops: Option<Instant>,
}

impl<'a> Streaming<'a> {
    /// Takes over a stream that begins at `from`, the start of a segment.
    ///
    /// `kept`: what the slot holds begins no later. It moves to whatever it is told, back as well.
    pub(super) fn begin(
        shared: &'a Shared,
        limits: &'a Limits,
        mut stream: Stream,
        from: Lsn,
        kept: Lsn,
    ) -> Self {
        let (tip, _) = shared.tip();
        let (segment, last) = {
            let inner = shared.lock();
            (inner.buffer.segment(), inner.buffer.last())
        };
        let mut scanner = Scanner::new(tip.timeline, segment, from);
        let mut known = tip.mark;
        let mut follows = false;
        if from == tip.at() {
            // No byte comes again. If there were some, the first record has to follow them.
            known = Mark::begin(from);
            follows = tip.mark != known;
            if let Some(last) = last.filter(|_| follows) {
                scanner = scanner.after(last);
            }
        }
        let prefix = Prefix {
            until: tip.at(),
            hash: known.hash,
            hasher: blake3::Hasher::new(),
        };
        shared.streams(stream.peer());
        stream.read_every(limits.gather);
        Self {
            scanner,
            follows,
            kept,
            goes_on: tip.mark != Mark::begin(tip.at()),
            shared,
            limits,
            stream,
            prefix: Some(prefix),
            found: Vec::new(),
            heard: Instant::now(),
            asked: false,
            told: None,
            reported: Flushed::default(),
            owes_reply: false,
            stops: None,
        }
    }

    /// Streams until it ends.
    pub(super) async fn run(mut self) -> Result<Ended, WireError> {
        if let Some(ended) = self.end_prefix() {
            return Ok(ended);
        }
        let mut had_room = true;
        loop {
            let room = self.shared.has_room();
            if room && !had_room {
                // Nothing was read meanwhile, so nothing could be heard.
                self.heard = Instant::now();
                self.asked = false;
            }
            had_room = room;
            let due = self.next_due(room);
            let event = tokio::select! {
                biased;
                event = self.stream.next(), if room => Some(event?),
                () = self.shared.nudge.notified() => None,
                () = self.shared.memory.freed(), if !room => None,
                () = tokio::time::sleep_until(due) => None,
            };
            if let Some(event) = event {
                self.heard = Instant::now();
                self.asked = false;
                match self.take(event) {
                    Next::Go => {}
                    Next::End(ended) => return Ok(ended),
                    Next::Switch(switch) => {
                        return Ok(Ended::Timeline(self.stream.into_connection(), switch));
                    }
                }
            }
            if self.shared.must_stop() {
                return Ok(Ended::Stop);
            }
            if let Some(ended) = self.keep_alive(room).await? {
                return Ok(ended);
            }
        }
    }

    /// When something has to be done although nothing comes.
    fn next_due(&self, room: bool) -> Instant {
        let every = if room {
            self.limits.status_every
        } else {
            STATUS_WHILE_FULL
        };
        let mut due = self.told.map_or(self.heard, |told| told + every);
        if room {
            let silence = if self.asked {
                self.limits.silence_max
            } else {
                self.limits.silence_max / 3
            };
            due = due.min(self.heard + silence);
        }
        if let Some(stops) = self.stops {
            due = due.min(stops + self.limits.stop_wait);
        }
        due
    }

    /// Reports what is due; the end if the server is dead or has waited long enough.
    async fn keep_alive(&mut self, room: bool) -> Result<Option<Ended>, WireError> {
        let now = Instant::now();
        let silence = now - self.heard;
        if room && silence >= self.limits.silence_max {
            let seconds = self.limits.silence_max.as_secs();
            return Ok(Some(Ended::Again(Trouble::silent(
                self.stream.peer(),
                seconds,
            ))));
        }
        let asks = room && !self.asked && silence >= self.limits.silence_max / 3;
        let acked = Some(self.shared.acked()).filter(|acked| *acked >= self.kept);
        let acked = acked.unwrap_or(Lsn(0));
        if self
            .stops
            .is_some_and(|since| now - since >= self.limits.stop_wait)
            && acked < self.scanner.position()
        {
            let seconds = self.limits.stop_wait.as_secs();
            return Ok(Some(Ended::Again(Trouble::hung_up(seconds))));
        }
        let every = if room {
            self.limits.status_every
        } else {
            STATUS_WHILE_FULL
        };
        let is_due = self.told.is_none_or(|told| now - told >= every);
        if !(is_due || asks || self.owes_reply || acked > self.reported.flushed) {
            return Ok(None);
        }
        self.report(acked, asks).await
    }

    async fn report(&mut self, acked: Lsn, asks: bool) -> Result<Option<Ended>, WireError> {
        let flushed = acked.max(self.reported.flushed);
        // What was only received is in memory: a commit with `synchronous_commit = remote_write` must not
        // take it for written.
        let report = Flushed {
            written: flushed,
            flushed,
            applied: flushed,
        };
        let at = PgTime::of(self.shared.clock.now()).unwrap_or(PgTime(0));
        let limit = self.limits.silence_max;
        let sent = tokio::time::timeout(limit, self.stream.report(report, at, asks)).await;
        match sent {
            Ok(sent) => sent?,
            Err(_elapsed) => {
                let trouble = Trouble::silent(self.stream.peer(), limit.as_secs());
                return Ok(Some(Ended::Again(trouble)));
            }
        }
        self.reported = report;
        self.told = Some(Instant::now());
        self.owes_reply = false;
        self.asked |= asks;
        Ok(None)
    }

    fn take(&mut self, event: StreamEvent) -> Next {
        match event {
            StreamEvent::Data { start, bytes, .. } => {
                let expected = self.scanner.position();
                if start != expected {
                    return Next::End(Ended::Again(Trouble::gap(expected, start)));
                }
                match self.take_bytes(&bytes) {
                    Some(ended) => Next::End(ended),
                    None => Next::Go,
                }
            }
            StreamEvent::Keepalive { reply_wanted, .. } => {
                self.owes_reply |= reply_wanted;
                Next::Go
            }
            StreamEvent::Ended(switch) => Next::Switch(switch),
            StreamEvent::Stopped => Next::End(Ended::Again(Trouble::stopped())),
        }
    }

    fn take_bytes(&mut self, mut bytes: &[u8]) -> Option<Ended> {
        if let Some(prefix) = &mut self.prefix {
            let left = prefix.until.since(self.scanner.position());
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            let (before, rest) = bytes.split_at(left.min(bytes.len()));
            prefix.hasher.update(before);
            bytes = rest;
            if let Err(bad) = self.scanner.feed(before, &mut self.found) {
                return Some(Ended::Again(Trouble::damaged(&bad)));
            }
            // What was found there was counted when it came first.
            self.found.clear();
            if let Some(ended) = self.end_prefix() {
                return Some(ended);
            }
        }
        if bytes.is_empty() {
            return None;
        }
        self.found.clear();
        if let Err(bad) = self.scanner.feed(bytes, &mut self.found) {
            let other = self.follows && self.scanner.first().is_none();
            return Some(if other {
                other_bytes(self.shared.tip().0.at())
            } else {
                Ended::Again(Trouble::damaged(&bad))
            });
        }
        if let Some(ended) = self.note_minimal() {
            return Some(ended);
        }
        let scanned = Scanned::by(&self.scanner, &self.found);
        let appended = self.shared.append(bytes, &scanned);
        self.note_stop();
        appended.err().map(|other| other_bytes(other.at))
    }

    /// At the place where capture stands the bytes before it have to be the same.
    fn end_prefix(&mut self) -> Option<Ended> {
        let prefix = self
            .prefix
            .take_if(|prefix| self.scanner.position() >= prefix.until)?;
        let hash: SegmentHash = prefix.hasher.finalize().into();
        if hash != prefix.hash {
            return Some(other_bytes(prefix.until));
        }
        self.shared.resume(prefix.hasher, self.scanner.last());
        None
    }

    /// Log that lacks changes can't be replayed: no server gets past this place. A new life begins behind it.
    fn note_minimal(&self) -> Option<Ended> {
        use crate::wal::Event;
        let floor = if self.goes_on { Lsn(0) } else { self.kept };
        let minimal = |record: &&Record| {
            matches!(record.event, Event::ParameterChange { wal_level } if wal_level < 1)
                && record.span.start >= floor
        };
        let record = self.found.iter().find(minimal)?;
        Some(Ended::Broken(format!(
            "the server was started with wal_level = minimal at {}: its log lacks changes from there on",
            record.span.start
        )))
    }

    /// A server that stops waits until what it wrote last is safe here.
    fn note_stop(&mut self) {
        use crate::wal::Event;
        for record in &self.found {
            if let Event::Checkpoint { shutdown, .. } = record.event {
                self.stops = shutdown.then(Instant::now);
            }
        }
        let goes_on = |record: &Record| !matches!(record.event, Event::Checkpoint { .. });
        if self.found.last().is_some_and(goes_on) {
            self.stops = None;
        }
    }
}

/// What to do after an event.
enum Next {
    Go,
    End(Ended),
    Switch(Switch),
}

fn other_bytes(at: Lsn) -> Ended {
    Ended::Broken(format!(
        "the server's log before {at} is not the one that was captured, although system and timeline are the same: a copy of the server was started, or it was restored from a snapshot"
    ))
}
