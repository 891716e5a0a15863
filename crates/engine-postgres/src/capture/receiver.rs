//! The task that receives the log: connects, decides, streams, and begins again when that ends.
//!
//! One task per source, no thread. It alone appends to the buffer. When the buffer is full it stops
//! reading and goes on telling the server that it lives.
//!
//! **Failure.** Whatever ends a stream is kept as the present trouble, and the server is connected to
//! again, soon at first; every time it is looked at anew: who it is, on which timeline, which slot. What
//! can't go on is broken for good: the capture tells the agent, and a new life begins by opening again.
//!
//! **Cancellation.** The task is aborted when the capture is dropped: sockets close, nothing else is held.

use std::sync::Arc;
use std::time::Duration;

use tidemark_format::postgres::{Lsn, SegmentSize};

use super::Limits;
use super::alerts::Trouble;
use super::buffer::Tip;
use super::plan::{Place, Plan, SlotStep, Sought, decide};
use super::server::{Connector, LookError, Looked, NO_FILE, histories, look, within};
use super::shared::{Seen, Shared};
use super::stream::{Ended, Streaming};
use crate::replication::{self, Started};
use crate::wire::{Connection, WireError, WireErrorKind};

/// The slot was invalidated, or never kept anything.
const SLOT_SPENT: &str = "55000";
const SLOT_ACTIVE: &str = "55006";
const NO_SLOT: &str = "42704";
const SLOT_THERE: &str = "42710";

/// How a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// It is tried again after a wait.
    Again(Trouble),
    /// This life is over.
    Broken(String),
    /// Something else is to be done first.
    Stop,
}

impl From<LookError> for End {
    fn from(error: LookError) -> Self {
        Self::Again(match error {
            LookError::ConnInfo(error) => Trouble::of_conninfo(&error),
            LookError::Wire(error) => Trouble::of(&error),
            LookError::Slow { what, seconds } => Trouble::slow(what, seconds),
            LookError::Stale(stale) => Trouble::parted(&stale),
        })
    }
}

/// What the next try does otherwise than the one before; forgotten after a success.
#[derive(Debug, Default)]
struct Tries {
    /// The slot was invalidated: it is dropped, and made again.
    spent: bool,
    /// The log ended with a segment that the server has removed since: only its last record's place can be
    /// compared.
    segment_gone: bool,
}

/// Receives the log of one source.
#[derive(Debug, Clone)]
pub(super) struct Receiver {
    pub(super) shared: Arc<Shared>,
    pub(super) connector: Connector,
    pub(super) slot: String,
    pub(super) limits: Limits,
}

impl Receiver {
    /// Receives until this life is over.
    pub(super) async fn run(self) {
        let mut wait = self.limits.again_min;
        let mut tries = Tries::default();
        loop {
            let (let_go, broken) = {
                let inner = self.shared.lock();
                (inner.let_go.is_some(), inner.broken.is_some())
            };
            if broken {
                return;
            }
            if let_go {
                self.drop_slot().await;
                return;
            }
            let before = self.shared.tip().0;
            match Box::pin(self.session(&mut tries)).await {
                End::Broken(reason) => {
                    self.shared.broke(reason);
                    return;
                }
                End::Stop => continue,
                End::Again(trouble) => {
                    tracing::debug!(slot = %self.slot, code = trouble.code, why = %trouble.message, "the log is streamed again");
                    if self.shared.tip().0 != before {
                        wait = self.limits.again_min;
                        tries = Tries::default();
                    }
                    self.shared.trouble(trouble);
                }
            }
            self.pause(wait).await;
            wait = wait.saturating_mul(2).min(self.limits.again_max);
        }
    }

    /// Waits, but not when there is something else to do.
    async fn pause(&self, wait: Duration) {
        let until = tokio::time::Instant::now() + wait;
        while !self.shared.must_stop() {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => return,
                () = self.shared.nudge.notified() => {}
            }
        }
    }

    /// From connecting to the end of the stream.
    async fn session(&self, tries: &mut Tries) -> End {
        match self.try_session(tries).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn try_session(&self, tries: &mut Tries) -> Result<End, End> {
        let (tip, lacks_histories) = self.shared.tip();
        let (place, newest) = {
            let inner = self.shared.lock();
            let place = Place {
                system: inner.buffer.system(),
                segment: inner.buffer.segment(),
                timeline: tip.timeline,
                at: tip.at(),
                from: Self::begins_at(&tip, inner.buffer.segment(), tries),
            };
            (place, inner.followed)
        };
        let sought = Sought {
            place: Some(place),
            newest,
        };
        let limit = self.limits.answer_max;
        let Looked {
            mut connection,
            view,
            version,
            info: _,
        } = look(&self.connector, &self.slot, limit, &sought).await?;
        self.shared.saw(Seen {
            version,
            standby: view.standby,
            link: connection.link(),
            identity: view.identity.clone(),
        });
        let (step, timeline, from) = match decide(&view, &place) {
            Plan::Stream {
                slot,
                timeline,
                from,
            } => (slot, timeline, from),
            Plan::Wait(reason) => return Err(End::Again(Trouble::waits(&reason))),
            Plan::Broken(reason) => return Err(End::Broken(reason)),
        };
        self.shared.follows(view.identity.timeline);
        let step = if tries.spent {
            SlotStep::Recreate
        } else {
            step
        };
        if lacks_histories {
            let known = within(
                limit,
                "tell its timelines' histories",
                histories(&mut connection, timeline),
            )
            .await?;
            self.shared.lock().buffer.set_histories(known);
        }
        self.prepare_slot(&mut connection, step).await?;
        let kept = match (step, &view.slot) {
            (SlotStep::Use, Some(slot)) => slot.restart.unwrap_or(Lsn(0)),
            // It keeps log from a checkpoint on, which is no later than what is flushed now.
            _ => {
                let identify = replication::identify(&mut connection);
                within(limit, "say who it is", identify).await?.flushed
            }
        };
        tries.spent = false;
        let start = replication::start(connection, Some(&self.slot), from, timeline);
        let started = tokio::time::timeout(limit, start).await;
        let started = started
            .map_err(|_elapsed| End::Again(Trouble::slow("begin to stream", limit.as_secs())))?;
        let started = started.map_err(|error| self.end_of(&error, from, tries))?;
        Ok(self.follow(started, (from, kept), tries).await)
    }

    /// Streams one timeline after the other, the first from the first place on; what lies before the
    /// second is nothing new to the server.
    async fn follow(
        &self,
        mut started: Started,
        (mut from, kept): (Lsn, Lsn),
        tries: &mut Tries,
    ) -> End {
        loop {
            let (connection, switch) = match started {
                Started::Ended(connection, switch) => (connection, switch),
                Started::Streaming(stream) => {
                    let streaming =
                        Streaming::begin(&self.shared, &self.limits, stream, from, kept);
                    match streaming.run().await {
                        Ok(Ended::Timeline(connection, switch)) => (connection, switch),
                        Ok(Ended::Stop) => return End::Stop,
                        Ok(Ended::Again(trouble)) => return End::Again(trouble),
                        Ok(Ended::Broken(reason)) => return End::Broken(reason),
                        Err(error) => return self.end_of(&error, from, tries),
                    }
                }
            };
            started = match self.next_timeline(connection, switch).await {
                Ok(Ok(started)) => started,
                Ok(Err(error)) => return self.end_of(&error, from, tries),
                Err(end) => return end,
            };
            from = self.shared.tip().0.at();
        }
    }

    /// Goes on to the timeline that follows, by the server's own word.
    async fn next_timeline(
        &self,
        mut connection: Connection,
        switch: replication::Switch,
    ) -> Result<Result<Started, WireError>, End> {
        let at = self.shared.tip().0.at();
        if switch.at < at {
            return Err(End::Broken(format!(
                "timeline {} began at {}, before {at}, up to where its parent was captured",
                switch.next, switch.at
            )));
        }
        let limit = self.limits.answer_max;
        let known = within(
            limit,
            "tell its timelines' histories",
            histories(&mut connection, switch.next),
        )
        .await?;
        tracing::info!(slot = %self.slot, timeline = %switch.next, at = %switch.at, "the server is on a new timeline");
        self.shared.switch(switch.next, switch.at, known);
        let tip = self.shared.tip().0;
        let start = replication::start(connection, Some(&self.slot), tip.at(), tip.timeline);
        tokio::time::timeout(limit, start)
            .await
            .map_err(|_elapsed| End::Again(Trouble::slow("begin to stream", limit.as_secs())))
    }

    async fn prepare_slot(&self, connection: &mut Connection, step: SlotStep) -> Result<(), End> {
        if step == SlotStep::Use {
            return Ok(());
        }
        let limit = self.limits.answer_max;
        let work = async {
            if step == SlotStep::Recreate {
                match replication::drop_slot(connection, &self.slot).await {
                    Err(error) if error.code() != Some(NO_SLOT) => return Err(error),
                    _ => {}
                }
            }
            match replication::create_slot(connection, &self.slot).await {
                Err(error) if error.code() == Some(SLOT_THERE) => Ok(()),
                made => made,
            }
        };
        let done = tokio::time::timeout(limit, work).await;
        match done {
            Ok(Ok(())) => {
                tracing::info!(slot = %self.slot, "the replication slot was made");
                Ok(())
            }
            Ok(Err(error)) if error.kind() == WireErrorKind::Gone => {
                Err(End::Again(Trouble::of(&error)))
            }
            Ok(Err(error)) => Err(End::Again(Trouble::slot_refused(&self.slot, &error))),
            Err(_elapsed) => Err(End::Again(Trouble::slow("make the slot", limit.as_secs()))),
        }
    }

    /// Where to begin so that the bytes before the tip can be compared.
    fn begins_at(tip: &Tip, segment: SegmentSize, tries: &Tries) -> Lsn {
        if tries.segment_gone {
            segment.start(tip.at())
        } else {
            tip.mark.from(segment)
        }
    }

    /// What an error of a stream that began at `from` means.
    fn end_of(&self, error: &WireError, from: Lsn, tries: &mut Tries) -> End {
        let (tip, segment) = {
            let inner = self.shared.lock();
            (inner.buffer.tip(), inner.buffer.segment())
        };
        match error.code() {
            // The segment before is gone, and only it: nothing is missing.
            Some(NO_FILE) if from < segment.start(tip.at()) => {
                tries.segment_gone = true;
                End::Again(Trouble::slot_again(error))
            }
            Some(NO_FILE) => End::Broken(format!(
                "the server has removed log that was not captured yet ({error}): the slot was dropped, or max_slot_wal_keep_size was reached, or a new server without our slot took over"
            )),
            Some(SLOT_SPENT) => {
                tries.spent = true;
                End::Again(Trouble::slot_again(error))
            }
            Some(NO_SLOT) => End::Again(Trouble::slot_again(error)),
            Some(SLOT_ACTIVE) => End::Again(Trouble::slot_busy(&self.slot, error)),
            _ => End::Again(Trouble::of(error)),
        }
    }

    /// The slot held too much: it goes, whenever the server can be reached.
    async fn drop_slot(&self) {
        loop {
            match self.try_drop_slot().await {
                Ok(()) => break,
                Err(End::Again(trouble)) => self.shared.trouble(trouble),
                Err(_never) => {}
            }
            tokio::time::sleep(self.limits.again_max).await;
        }
        tracing::warn!(slot = %self.slot, "the replication slot was dropped: it held more than slot_keep_max");
        self.shared.slot_dropped();
    }

    async fn try_drop_slot(&self) -> Result<(), End> {
        drop_slot(&self.connector, &self.slot, self.limits.answer_max)
            .await
            .map(|_was_there| ())
            .map_err(End::from)
    }
}

/// Drops the slot on every server that answers; whether there was one.
pub(crate) async fn drop_slot(
    connector: &Connector,
    slot: &str,
    limit: Duration,
) -> Result<bool, LookError> {
    let info = connector.info().map_err(LookError::ConnInfo)?;
    let mut was_there = false;
    // After a fail-over more than one server may have it, and it is of use on none.
    for mut connection in Connection::open_all(&info, crate::wire::Mode::Physical).await? {
        let work = async {
            match replication::drop_slot(&mut connection, slot).await {
                Err(error) if error.code() == Some(NO_SLOT) => Ok(false),
                Err(error) => Err(error),
                Ok(()) => Ok(true),
            }
        };
        was_there |= within(limit, "drop the slot (it is in use)", work).await?;
        connection.close().await;
    }
    Ok(was_there)
}
