//! What people ask of a source: points, bases, pauses, retirement; and the agent's own stop.
//!
//! A snapshot is answered when its point is durable in W failure domains and was seen there
//! ([`super::sight`]), when its time is over, or soon after it is plain that nothing but a region's return
//! can make it so ([`super::stuck`]).

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tidemark_format::{LogSeq, PointSeq, RegionName};
use tidemark_host::Monotonic;
use tidemark_host::config::Ack;
use tokio::sync::oneshot;

use super::driver::{Driver, Ended, Hold};
use super::sight::Look;
use super::slot::Command;
use crate::control::SealedPoint;
use crate::points::{PointFacts, PointTools, seal_point};
use crate::schedule::{PointFacts as DueFacts, beat_of, point_due};
use crate::ship::lane::Content;
use crate::ship::link::RegionLink;
use crate::ship::quorum;
use crate::ship::region::Command as RegionCommand;
use crate::state::source::{Pause, Restorable};
use crate::status_live::SourceState;
use crate::supervisor::remains::REMAINS;
use crate::{AgentError, Result, domains, policy};

/// How long a stop waits for the regions.
pub(super) const DRAIN_TIME: Duration = Duration::from_secs(60);

/// How long a stop waits for a moment in which everything committed can be captured.
pub(super) const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What else stands on a server whose commits waited for the regions.
const NOBODY_ANSWERS: &str = ". Commits that wait for this agent would now wait for ever: if synchronous_standby_names \
                              still names it, run ALTER SYSTEM SET synchronous_standby_names = ''; SELECT \
                              pg_reload_conf();";

/// A request to a source.
#[derive(Debug)]
pub enum Request {
    /// Cut, ship and seal a point.
    Snapshot {
        /// Make a base first.
        base: bool,
        /// A name for the point.
        name: Option<String>,
        /// How long to wait.
        wait: Duration,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<SealedPoint>>,
    },
    /// Ship nothing for a while.
    Pause {
        /// Until when.
        until: Timestamp,
        /// Why.
        reason: String,
        /// Done.
        answer: oneshot::Sender<Result<()>>,
    },
    /// Ship again.
    Resume {
        /// Done.
        answer: oneshot::Sender<Result<()>>,
    },
    /// Seal a last point and let go for good.
    Retire {
        /// Done.
        answer: oneshot::Sender<Result<SealedPoint>>,
    },
    /// The spool is full: give this region's backlog up.
    GiveUp(RegionName),
    /// The spool is full and nothing in it is anywhere else: give up what was shipped nowhere.
    GiveUpUnshipped,
}

/// A snapshot, retirement or stop under way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) kind: Kind,
    pub(super) stage: Stage,
    pub(super) deadline: Monotonic,
    pub(super) begun: Monotonic,
    /// Since when nothing moves it.
    pub(super) stuck_since: Option<Monotonic>,
    /// The regions are being asked whether they still hold what they had.
    pub(super) look: Option<Look>,
    /// A region that had it didn't answer that: it is asked again then.
    pub(super) look_again_at: Option<Monotonic>,
}

/// Who retired a source, and its last point.
pub(super) type Retiring = (oneshot::Sender<Result<SealedPoint>>, SealedPoint);

#[derive(Debug)]
pub(super) enum Kind {
    Snapshot {
        name: Option<String>,
        answer: oneshot::Sender<Result<SealedPoint>>,
    },
    Retire {
        answer: oneshot::Sender<Result<SealedPoint>>,
    },
    Stop,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Until so many bases were published.
    Base(u64),
    /// Until the cut is made and sealed.
    Cut(u64),
    /// Until the log is durable up to here.
    Durable(Restorable),
    /// Until the point is.
    Point {
        seq: PointSeq,
        last: Restorable,
    },
    Done,
}

impl Driver {
    /// Asks the slot to cut everything committed by now; the ticket comes back when it has.
    pub(super) fn ticket(&mut self) -> u64 {
        self.ticket_within(None)
    }

    fn ticket_within(&mut self, patience: Option<Duration>) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket = ticket.saturating_add(1);
        self.parts.slot.tell(Command::Cut { ticket, patience });
        ticket
    }

    pub(super) fn on_request(&mut self, request: Request) {
        match request {
            Request::Snapshot {
                base,
                name,
                wait,
                answer,
            } => {
                self.begin_snapshot(base, name, wait, answer);
            }
            Request::Pause {
                until,
                reason,
                answer,
            } => {
                let since = self.shared.clock.now();
                self.record.paused = Some(Pause {
                    since,
                    until,
                    reason,
                });
                self.pause_over = None;
                self.hold_lanes(true);
                self.changed();
                self.show_pause();
                drop(answer.send(Ok(())));
            }
            Request::Resume { answer } => {
                self.resume();
                drop(answer.send(Ok(())));
            }
            Request::Retire { answer } => {
                self.resume();
                let ticket = self.ticket();
                self.push_job(Kind::Retire { answer }, Stage::Cut(ticket), DRAIN_TIME);
            }
            Request::GiveUpUnshipped => self.begin_gap(),
            Request::GiveUp(region) => self.give_up_asked = Some(region),
        }
    }

    fn push_job(&mut self, kind: Kind, stage: Stage, wait: Duration) {
        let begun = self.now();
        self.jobs.push(Job {
            kind,
            stage,
            deadline: begun.after(wait),
            begun,
            stuck_since: None,
            look: None,
            look_again_at: None,
        });
    }

    fn begin_snapshot(
        &mut self,
        base: bool,
        name: Option<String>,
        wait: Duration,
        answer: oneshot::Sender<Result<SealedPoint>>,
    ) {
        if self.draining {
            drop(answer.send(Err(AgentError::Stopping)));
            return;
        }
        if let Some(pause) = &self.record.paused {
            let why = format!(
                "shipping is paused until {} ({}); resume first",
                pause.until, pause.reason
            );
            drop(answer.send(Err(AgentError::Refused(why))));
            return;
        }
        let stage = if base {
            Stage::Base(self.next_base())
        } else if self.record.base.is_none() {
            Stage::Base(self.base.published.saturating_add(1))
        } else {
            Stage::Cut(self.ticket())
        };
        self.push_job(Kind::Snapshot { name, answer }, stage, wait);
    }

    /// How many bases are published once one is that begins from now on: one that is under way began before
    /// it was asked for.
    pub(super) fn next_base(&self) -> u64 {
        let running = u64::from(self.base.is_running());
        self.base
            .published
            .saturating_add(1)
            .saturating_add(running)
    }

    /// Whether somebody waits for a base that was not made yet: as long as they do, whatever becomes of one
    /// that was under way when they asked.
    pub(super) fn base_is_asked(&self) -> bool {
        let published = self.base.published;
        let waits = |job: &Job| matches!(&job.stage, Stage::Base(wanted) if published < *wanted);
        self.jobs.iter().any(waits)
    }

    fn hold_lanes(&self, held: bool) {
        for outlet in &self.parts.outlets {
            let command = RegionCommand::Hold(self.record.source.clone(), held);
            drop(outlet.commands.send(command));
        }
    }

    fn resume(&mut self) {
        if self.record.paused.take().is_some() {
            self.hold_lanes(false);
            self.changed();
            self.clear("paused");
            self.show(|live| {
                live.paused = None;
                live.state = SourceState::Capturing;
            });
        }
    }

    pub(super) fn show_pause(&self) {
        if let Some(pause) = &self.record.paused {
            let text = format!("shipping is paused until {}: {}", pause.until, pause.reason);
            self.alert("paused", &text);
            self.show(|live| {
                live.paused = Some((pause.reason.clone(), pause.until));
                live.state = SourceState::Paused;
            });
        }
    }

    pub(super) fn end_pause_that_is_over(&mut self) {
        if self
            .pause_ends_at()
            .is_some_and(|ends_at| ends_at <= self.now())
        {
            tracing::warn!(source = %self.name(), "the pause is over: shipping goes on");
            self.resume();
        }
    }

    /// When the pause is over: when its time has come, and at the latest when it has lasted as long as
    /// was asked for. A clock that steps back doesn't make it longer.
    pub(super) fn pause_ends_at(&mut self) -> Option<Monotonic> {
        let pause = self.record.paused.as_ref()?;
        let now = self.shared.clock.monotonic();
        let left = pause.until.duration_since(self.shared.clock.now());
        let left = Duration::try_from(left).unwrap_or_default();
        let asked = pause.until.duration_since(pause.since);
        let at_most = now.after(Duration::try_from(asked).unwrap_or_default().min(left));
        let over = *self.pause_over.get_or_insert(at_most);
        Some(over.min(now.after(left)))
    }

    /// How many failure domains have the log through `seq` and the point through `point`, as
    /// against how many are needed; and the regions that do.
    pub(super) fn durable(&self, seq: LogSeq, point: Option<PointSeq>) -> (bool, Vec<RegionName>) {
        let mut done = Vec::new();
        let (domains, unseen) = (self.domains(), self.unseen());
        let lanes = self.record.lanes.iter();
        let lanes = lanes.filter(|(_, lane)| !lane.parted).map(|(name, lane)| {
            let there = lane.log_through >= Some(seq)
                && lane.lost.is_none()
                && lane.point_through >= point
                && !unseen.contains(name);
            if there {
                done.push(name.clone());
            }
            (
                domains.get(name).map_or("", String::as_str),
                there.then_some(()),
            )
        });
        let lanes: Vec<_> = lanes.collect();
        (quorum::reached(lanes, self.width(&domains)).is_some(), done)
    }

    pub(super) fn domains(&self) -> std::collections::BTreeMap<RegionName, String> {
        let links: Vec<&RegionLink> = self
            .parts
            .outlets
            .iter()
            .map(|outlet| &*outlet.link)
            .collect();
        domains::of(&links)
            .into_iter()
            .map(|(name, place)| (name, place.domain))
            .collect()
    }

    /// Directories that may be on the device of another one, for all that is known: what they hold
    /// doesn't count yet.
    pub(super) fn unseen(&self) -> BTreeSet<RegionName> {
        let links = self.parts.outlets.iter().map(|outlet| &outlet.link);
        let unseen = links.filter(|link| link.is_unseen());
        unseen.map(|link| link.name.clone()).collect()
    }

    pub(super) fn width(&self, domains: &std::collections::BTreeMap<RegionName, String>) -> usize {
        let mut all: Vec<&str> = domains.values().map(String::as_str).collect();
        all.sort_unstable();
        all.dedup();
        quorum::width(self.parts.settings.durable_in, all.len())
    }

    /// The newest restorable object that some region has.
    fn newest_durable(&mut self) -> Option<Restorable> {
        let through = self
            .record
            .lanes
            .values()
            .filter(|lane| !lane.parted)
            .filter_map(|lane| lane.log_through)
            .max();
        self.ends.durable_through(through)
    }

    /// Seals a point if it is time and something new is durable.
    pub(super) async fn seal_point_if_due(&mut self) {
        if self.record.paused.is_some() {
            return;
        }
        let durable = self.newest_durable();
        let facts = self.due_facts(durable);
        let Some(last) = durable.filter(|_| point_due(&facts)) else {
            return;
        };
        // A base's point waits until the base is usable in what is durable.
        if let Err(error) = self.seal_point(last, PointFacts::default()).await {
            self.alert("point.failed", &policy::with_causes(&error));
            self.point_at = Some(self.now());
        }
    }

    fn due_facts(&self, durable: Option<Restorable>) -> DueFacts {
        DueFacts {
            durable: durable.map(|last| last.seq),
            covered: self.record.point.log_seq,
            usable_from: self.record.base.map(|base| base.usable_from),
            since_last: self.point_at.map(|at| self.now().since(at)),
            every: self.parts.settings.snapshot_every,
            new_base: self.new_base,
        }
    }

    /// When a point is due that no input will bring.
    pub(super) fn point_due_at(&self) -> Option<Monotonic> {
        let news = self.record.log.restorable.map(|last| last.seq) > self.record.point.log_seq;
        self.point_at
            .filter(|_| news)
            .map(|at| at.after(self.parts.settings.snapshot_every))
            .filter(|due| *due > self.now())
    }

    async fn seal_point(
        &mut self,
        last: Restorable,
        mut facts: PointFacts,
    ) -> Result<Option<PointSeq>> {
        facts.agent = self.shared.facts.clone();
        facts.agent.extend(self.canary_fact());
        let tools = PointTools {
            repo: self.shared.repo,
            engine: self.parts.engine,
            signer: &self.shared.signer,
            clock: &*self.shared.clock,
            rng: &*self.shared.rng,
            board: &self.shared.board,
        };
        let Some((sealed, head)) = seal_point(&self.record, last, facts, &tools)? else {
            return Ok(None);
        };
        let content = Content::Point {
            seq: head.seq,
            log_seq: head.log_seq,
            base: head.base,
        };
        self.append(&sealed, None, content, Vec::new).await?;
        self.record.point_sealed(&head, sealed.link);
        self.changed();
        self.point_at = Some(beat_of(
            self.point_at,
            self.now(),
            self.parts.settings.snapshot_every,
        ));
        self.new_base = false;
        self.clear("point.failed");
        self.shared.metrics.point_sealed(self.name());
        self.show(|live| {
            live.point = Some(head.seq);
            live.point_at = Some(head.at);
        });
        Ok(Some(head.seq))
    }

    /// Carries every job as far as it goes now.
    pub(super) async fn advance_jobs(&mut self) {
        let jobs = std::mem::take(&mut self.jobs);
        for mut job in jobs {
            while self.advance_job(&mut job).await {}
            if matches!(job.stage, Stage::Done) {
                continue;
            }
            if self.now() >= job.deadline || self.is_stuck(&mut job) {
                self.late(job);
            } else {
                self.jobs.push(job);
            }
        }
    }

    /// One step of a job; true if another may follow at once.
    async fn advance_job(&mut self, job: &mut Job) -> bool {
        match &job.stage {
            Stage::Base(wanted) => {
                if self.base.published < *wanted {
                    return false;
                }
                job.stage = Stage::Cut(self.ticket());
            }
            Stage::Cut(ticket) => {
                let done = self.tickets_done.get(ticket).copied();
                let Some(next_seq) = done.filter(|next| self.record.log.next >= *next) else {
                    return false;
                };
                let ticket = *ticket;
                self.tickets_done.remove(&ticket);
                let Some(last) = self.record.log.restorable.filter(|_| next_seq.0 > 0) else {
                    job.stage = Stage::Done;
                    return false;
                };
                job.stage = Stage::Durable(last);
            }
            Stage::Durable(last) => {
                let (enough, somewhere) = self.durable(last.seq, None);
                // A stop takes what it can get.
                let stop = matches!(job.kind, Kind::Stop) && !somewhere.is_empty();
                if !enough && !stop {
                    return false;
                }
                let last = *last;
                return self.point_of_job(job, last).await;
            }
            Stage::Point { seq, last } => {
                let (seq, last) = (*seq, *last);
                return self.look_and_answer(job, seq, last);
            }
            Stage::Done => return false,
        }
        true
    }

    async fn point_of_job(&mut self, job: &mut Job, last: Restorable) -> bool {
        let (name, retired) = match &job.kind {
            Kind::Snapshot { name, .. } => (name.clone(), false),
            Kind::Retire { .. } => (None, true),
            Kind::Stop => (None, false),
        };
        let covered = self.record.point.log_seq >= Some(last.seq) && !self.new_base;
        let sealed = if covered && name.is_none() && !retired {
            Ok(self.record.point.next.previous())
        } else {
            self.seal_point(
                last,
                PointFacts {
                    name,
                    retired,
                    ..PointFacts::default()
                },
            )
            .await
        };
        match sealed {
            Ok(Some(seq)) => job.stage = Stage::Point { seq, last },
            // No base yet to rest on.
            Ok(None) if matches!(job.kind, Kind::Stop) => job.stage = Stage::Done,
            Ok(None) => return false,
            Err(error) => {
                self.alert("point.failed", &policy::with_causes(&error));
                return false;
            }
        }
        true
    }

    pub(super) fn done(
        &mut self,
        job: &mut Job,
        seq: PointSeq,
        last: Restorable,
        durable_in: Vec<RegionName>,
    ) {
        job.stage = Stage::Done;
        let away = self.away(&durable_in);
        let point = |name| SealedPoint {
            source: self.record.source.clone(),
            seq,
            name,
            log_seq: last.seq,
            committed: last.committed,
            durable_in,
            away,
            note: None,
        };
        match std::mem::replace(&mut job.kind, Kind::Stop) {
            Kind::Snapshot { name, answer } => drop(answer.send(Ok(point(name)))),
            Kind::Retire { answer } => {
                let point = point(None);
                self.retiring = Some((answer, point));
                self.hold = Hold::Closed;
                let canary = self.has_canary();
                self.parts.slot.tell(Command::Retire { canary });
            }
            Kind::Stop => {}
        }
    }

    /// The regions that lack what the others have because they don't answer; one that is about to be asked
    /// for the first time is only late.
    fn away(&self, durable_in: &[RegionName]) -> Vec<RegionName> {
        self.shared.board.read(|_, regions, _| {
            let away = regions.iter().filter(|(name, live)| {
                !live.up && live.last_error.is_some() && !durable_in.contains(name)
            });
            away.map(|(name, _)| name.clone()).collect()
        })
    }

    /// The database is let go of for good.
    pub(super) fn on_retired(&mut self, taken_away: std::result::Result<Option<String>, String>) {
        let Some((answer, mut point)) = self.retiring.take() else {
            return;
        };
        point.note = match taken_away {
            Ok(note) if self.parts.settings.ack == Ack::Regions => {
                Some(format!("{}{NOBODY_ANSWERS}", note.unwrap_or_default()))
            }
            Ok(note) => note,
            Err(why) => {
                self.alert(REMAINS, &why);
                self.record.left_behind = Some(why.clone());
                Some(why)
            }
        };
        self.record.retired = Some(self.shared.clock.now());
        self.show(|live| live.state = SourceState::Retired);
        self.ending = Some(Ended::Retired);
        self.changed();
        drop(answer.send(Ok(point)));
    }

    /// The agent stops: a last cut, shipped, and a last point, as far as time allows.
    pub(super) fn begin_drain(&mut self) {
        self.draining = true;
        self.tell_who_waits();
        if self.base.is_running() {
            self.base_failed("the agent stops");
            self.clear("base.failed");
        }
        if self.hold == Hold::Open && self.record.paused.is_none() {
            let ticket = self.ticket_within(Some(STOP_PATIENCE));
            self.push_job(Kind::Stop, Stage::Cut(ticket), DRAIN_TIME);
        }
    }

    /// The agent stops: who waits for a base hears that none is made any more, and who waits for the
    /// regions does so no longer than a moment.
    fn tell_who_waits(&mut self) {
        let at_most = self.now().after(STOP_PATIENCE);
        for mut job in std::mem::take(&mut self.jobs) {
            let wants_base = matches!(job.stage, Stage::Base(_));
            match job.kind {
                Kind::Snapshot { answer, .. } if wants_base => {
                    drop(answer.send(Err(AgentError::Stopping)));
                }
                Kind::Snapshot { .. } => {
                    job.deadline = job.deadline.min(at_most);
                    self.jobs.push(job);
                }
                Kind::Retire { .. } | Kind::Stop => self.jobs.push(job),
            }
        }
    }

    /// Lets go of the database once nothing is left to do, and ends.
    pub(super) fn advance_drain(&mut self) {
        let busy = !self.jobs.is_empty() || self.retiring.is_some();
        if !self.draining || busy || self.ending.is_some() {
            return;
        }
        match self.hold {
            Hold::Open | Hold::Opening => {
                self.hold = Hold::Waiting {
                    until: Monotonic::default(),
                };
                self.parts.slot.tell(Command::Close);
            }
            Hold::Closed => self.ending = Some(Ended::Drained),
            Hold::Waiting { until } if until == Monotonic::default() => {}
            Hold::Waiting { .. } => self.ending = Some(Ended::Drained),
        }
    }
}
