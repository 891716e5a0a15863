//! What a restore needs: which bases, which log, where it ends; or why it can't be done.
//!
//! - **A restore position** is the end of a log object marked restorable. `To T` ends at the largest
//!   one whose last commit is at or before T, `before T` at the largest one before T; later epochs
//!   are later, whatever the clocks say.
//! - **It fails closed.** The log from the base to the end must be there without a gap. And that no
//!   commit up to T is missing must be provable: by a later object, a recovery point or a beat. Only
//!   `latest` may end where the log ends. Otherwise [`NotRecoverable`] names the nearest instants that
//!   can be proved.
//! - **A server's log is divisible**: replay may end after any commit, so a time needs every object up to
//!   the first whose commits pass it, and [`Stop`] tells the engine where to end in it. Positions,
//!   transactions and points that were named on the server are found in the same way.
//! - What stands past the end that `latest` reaches is told by [`beyond()`]: an end before it is not all.
//!   What is damaged there and must have been there is a refusal.
//! - What the reader's identity can't open is gone round; where that can't be, the refusal says so.
//! - Of the bases that would do, the one with the fewest bytes to fetch is taken; of a server's log every byte
//!   to replay counts beside: its server replays hardly faster than a region is read.
//! - Replay never crosses an epoch, a gap or an incarnation.

mod beyond;
mod facts;
mod recoverable;
mod refusal;
mod server;
#[cfg(test)]
mod tests;
mod timeline;

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use tidemark_format::postgres::Lsn;
use tidemark_format::{Epoch, LogSeq, PointSeq};

pub use beyond::{Beyond, beyond};
pub use facts::{
    BaseFact, BaseId, CaughtUp, Damage, EpochFacts, Facts, LogFact, LogState, ObjectFact,
    PointFact, Told, Voucher,
};
pub use recoverable::{HOLE_IS_NEWS, Hole, HoleWhy, Recoverable, recoverable};
pub use refusal::{NotRecoverable, Why};
pub use server::{Mark, ServerLog, ServerPlace};
pub use timeline::{Reach, RecoverableWindow, replay_bytes, windows};

use refusal::refusal;
use timeline::{Run, Timeline};

/// Where to restore to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// As far as the log goes.
    Latest,
    /// This instant, included.
    At(Timestamp),
    /// Just short of this instant.
    Before(Timestamp),
    /// The end of one log object.
    Position {
        /// The epoch.
        epoch: Epoch,
        /// The object.
        seq: LogSeq,
    },
    /// A recovery point.
    Point(PointName),
    /// A place in a server's log.
    Mark(Mark),
}

/// Where replay ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// At the end of the last log object.
    End,
    /// Ahead of the first commit past an instant; there is one in the last log object.
    Time(Timestamp, Bound),
    /// At a position of the server's log: behind the record that starts there or, if none does, behind
    /// the first after it; or ahead of it.
    Lsn(Lsn, Bound),
    /// At the end of a transaction.
    Xid(u32, Bound),
    /// At a point that was named on the server.
    Name(String),
}

/// Names a recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PointName {
    /// By the name that a person gave it; of several, the newest.
    Name(String),
    /// By its number.
    At {
        /// The epoch.
        epoch: Epoch,
        /// Its place in the epoch.
        seq: PointSeq,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::At(at) => write!(f, "{at}"),
            Self::Before(at) => write!(f, "before {at}"),
            Self::Position { epoch, seq } => write!(f, "log:{epoch}:{seq}"),
            Self::Point(PointName::Name(name)) => write!(f, "point:{name}"),
            Self::Point(PointName::At { epoch, seq }) => write!(f, "point:{epoch}/{seq}"),
            Self::Mark(mark) => write!(f, "{mark}"),
        }
    }
}

/// Why nothing that was committed up to the target is missing from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The next object was committed after the target.
    LaterObject(LogSeq),
    /// The end is the target itself.
    SameInstant,
    /// A recovery point says so.
    Point(PointSeq),
    /// The last log object itself says so.
    Object,
    /// The agent's beat says so.
    Beat,
    /// The end itself was asked for.
    AskedFor,
    /// `latest`: as far as the log read goes; other regions may hold more.
    EndOfLog,
}

/// A restore, planned.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct RestorePlan {
    /// The epoch.
    pub epoch: Epoch,
    /// The bases to lay over each other, the complete one first.
    pub bases: Vec<BaseId>,
    /// The first log object to replay.
    pub first_log: LogSeq,
    /// The last.
    pub last_log: LogSeq,
    /// Where in it replay ends.
    pub stop: Stop,
    /// The instant reached: when the last commit in it was made, or first seen. If replay ends inside
    /// an object, the last one that is known without reading it.
    pub reached: Timestamp,
    /// Where the last log object ends in the server's log, if the source has one.
    pub server: Option<ServerPlace>,
    /// Whether that is exactly the state at the target: if not, the object after the end holds
    /// commits from before the target and from after it, and none of them is restored.
    pub exact: bool,
    /// Why nothing else is missing.
    pub proof: Proof,
    /// Whether a recovery point covers the end.
    pub sealed: bool,
    /// Bytes of bases to fetch.
    pub base_bytes: u64,
    /// Bytes of log to fetch.
    pub log_bytes: u64,
    /// Bytes of log to replay: of a server's log what it held there.
    pub replay_bytes: u64,
    /// The newest log object there is, if it is past the end.
    pub newest_log: Option<(Epoch, LogSeq)>,
}

impl RestorePlan {
    /// Bytes to fetch in all.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.base_bytes.saturating_add(self.log_bytes)
    }

    /// How many log objects to replay.
    #[must_use]
    pub const fn log_objects(&self) -> u64 {
        self.last_log
            .0
            .saturating_sub(self.first_log.0)
            .saturating_add(1)
    }
}

/// Plans a restore.
///
/// # Errors
/// [`NotRecoverable`], with what can be restored instead.
pub fn plan(facts: &Facts, target: &Target) -> Result<RestorePlan, Box<NotRecoverable>> {
    let timelines = timelines(facts);
    decide(facts, &timelines, target).map_err(|why| {
        let why = closed(facts, target).unwrap_or(why);
        Box::new(refusal(facts, &timelines, target, why))
    })
}

/// A history that is laid out once and planned for several targets.
pub(crate) struct Laid<'a> {
    facts: &'a Facts,
    timelines: Vec<Timeline<'a>>,
}

impl<'a> Laid<'a> {
    pub(crate) fn out(facts: &'a Facts) -> Self {
        Self {
            facts,
            timelines: timelines(facts),
        }
    }

    /// As [`plan()`], without the words of a refusal.
    pub(crate) fn plan(&self, target: &Target) -> Option<RestorePlan> {
        decide(self.facts, &self.timelines, target).ok()
    }

    /// The restore positions from which the most must be replayed: the last ones before another base can be
    /// used, and those at the ends of what replay can pass.
    pub(crate) fn last_positions(&self) -> impl Iterator<Item = Target> {
        self.timelines.iter().flat_map(|timeline| {
            let bases = timeline.facts.bases.iter();
            let before = bases.filter_map(|base| base.usable_from.previous());
            let ends = timeline.runs().iter().map(|run| run.last);
            let all = before.chain(ends);
            let epoch = timeline.facts.epoch;
            let position = |seq| timeline.last_position(seq);
            let positions: BTreeSet<LogSeq> = all.filter_map(position).collect();
            positions
                .into_iter()
                .map(move |seq| Target::Position { epoch, seq })
        })
    }

    /// The last restore position of each epoch that stands for an instant up to this one.
    pub(crate) fn last_positions_by(&self, at: Timestamp) -> impl Iterator<Item = Target> {
        self.timelines.iter().filter_map(move |timeline| {
            let in_time = |seq: &LogSeq| timeline.time(*seq).is_some_and(|time| time <= at);
            let seq = timeline.positions().rev().find(in_time)?;
            let epoch = timeline.facts.epoch;
            Some(Target::Position { epoch, seq })
        })
    }
}

fn timelines(facts: &Facts) -> Vec<Timeline<'_>> {
    facts.epochs.iter().map(Timeline::new).collect()
}

fn decide(facts: &Facts, timelines: &[Timeline<'_>], target: &Target) -> Result<RestorePlan, Why> {
    match target {
        Target::Latest => latest(timelines),
        Target::At(at) => at_time(facts, timelines, *at, Bound::Included),
        Target::Before(at) => at_time(facts, timelines, *at, Bound::Excluded),
        Target::Position { epoch, seq } => position(timelines, *epoch, *seq),
        Target::Point(name) => point(timelines, name),
        Target::Mark(mark) => server::at_mark(timelines, mark),
    }
}

/// Whether an identity that opens everything would have reached the target.
fn closed(facts: &Facts, target: &Target) -> Option<Why> {
    let opened = facts.opened()?;
    let reached = decide(&opened, &timelines(&opened), target).ok()?;
    Some(Why::Closed {
        epoch: reached.epoch,
        seq: reached.last_log,
    })
}

/// Whether what was named itself belongs to what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// `--to`.
    Included,
    /// `--before`.
    Excluded,
}

impl Bound {
    const fn word(self) -> &'static str {
        match self {
            Self::Included => "",
            Self::Excluded => "before ",
        }
    }

    fn holds(self, commit: Timestamp, at: Timestamp) -> bool {
        match self {
            Self::Included => commit <= at,
            Self::Excluded => commit < at,
        }
    }
}

/// Where to end, and why that is right.
struct End {
    seq: LogSeq,
    proof: Proof,
    exact: bool,
    stop: Stop,
    /// The first object in which replay may end.
    first: LogSeq,
    /// The base must begin behind it.
    after: Option<LogSeq>,
}

impl End {
    /// At the end of an object.
    const fn of(seq: LogSeq, proof: Proof) -> Self {
        Self {
            seq,
            proof,
            exact: true,
            stop: Stop::End,
            first: seq,
            after: None,
        }
    }
}

fn at_time(
    facts: &Facts,
    timelines: &[Timeline<'_>],
    at: Timestamp,
    bound: Bound,
) -> Result<RestorePlan, Why> {
    for timeline in timelines.iter().rev() {
        if timeline.facts.divisible
            && let Some(seq) = timeline.crossing(at, bound)
        {
            let end = End {
                stop: Stop::Time(at, bound),
                ..End::of(seq, Proof::LaterObject(seq))
            };
            return with_base(timelines, timeline, &end);
        }
        let in_time = |seq: &LogSeq| {
            timeline
                .time(*seq)
                .is_some_and(|time| bound.holds(time, at))
        };
        let Some(seq) = timeline.positions().rev().find(in_time) else {
            continue;
        };
        let end = covered(facts, timelines, timeline, (seq, at, bound))?;
        return with_base(timelines, timeline, &end);
    }
    let any = timelines
        .iter()
        .any(|timeline| timeline.positions().next().is_some());
    Err(if any { Why::TooEarly } else { Why::NothingYet })
}

/// Proves that no commit up to `at` stands behind `seq`.
fn covered(
    facts: &Facts,
    timelines: &[Timeline<'_>],
    timeline: &Timeline<'_>,
    (seq, at, bound): (LogSeq, Timestamp, Bound),
) -> Result<End, Why> {
    let proved = |proof| Ok(End::of(seq, proof));
    if bound == Bound::Included && timeline.time(seq) == Some(at) {
        return Ok(End {
            exact: timeline.next_begins_after(seq, at, bound),
            ..End::of(seq, Proof::SameInstant)
        });
    }
    if let Ok(next) = timeline.next_position(seq) {
        return Ok(End {
            exact: timeline.next_begins_after(seq, at, bound),
            ..End::of(seq, Proof::LaterObject(next))
        });
    }
    let told = timeline.told(seq).and_then(|told| told.complete_until);
    if told.is_some_and(|until| until >= at) {
        return proved(Proof::Object);
    }
    let points = timeline.facts.points.iter();
    let mut proving = points.filter(|point| point.log_seq <= seq && point.committed >= at);
    if let Some(point) = proving.next() {
        return proved(Proof::Point(point.seq));
    }
    let newest = timelines
        .last()
        .is_some_and(|last| last.facts.epoch == timeline.facts.epoch);
    let beat = facts.caught_up.as_ref().filter(|_| newest);
    if beat.is_some_and(|beat| beat.log_seq <= seq && beat.at >= at) {
        return proved(Proof::Beat);
    }
    Err(match timeline.next_position(seq) {
        Err(Some(hole)) => timeline.hole(hole),
        Ok(_) | Err(None) => Why::TooLate,
    })
}

fn position(timelines: &[Timeline<'_>], epoch: Epoch, seq: LogSeq) -> Result<RestorePlan, Why> {
    let mut found = timelines
        .iter()
        .filter(|timeline| timeline.facts.epoch == epoch);
    let timeline = found.next().ok_or(Why::Unknown("position"))?;
    match timeline.state(seq) {
        None => Err(Why::Unknown("position")),
        Some(LogState::Object(object)) if object.restorable => {
            with_base(timelines, timeline, &End::of(seq, Proof::AskedFor))
        }
        Some(LogState::Object(_)) => Err(Why::NotAPosition),
        Some(
            LogState::Gap(_)
            | LogState::Closed(_)
            | LogState::Missing
            | LogState::Damaged(_)
            | LogState::Unread,
        ) => Err(timeline.hole(seq)),
    }
}

fn point(timelines: &[Timeline<'_>], name: &PointName) -> Result<RestorePlan, Why> {
    let named = |epoch: Epoch, point: &PointFact| match name {
        PointName::Name(name) => point.name.as_deref() == Some(name),
        PointName::At { epoch: of, seq } => epoch == *of && point.seq == *seq,
    };
    let mut found = timelines.iter().rev().filter_map(|timeline| {
        let mut points = timeline.facts.points.iter().rev();
        let point = points.find(|point| named(timeline.facts.epoch, point))?;
        Some((timeline, point))
    });
    let (timeline, point) = found.next().ok_or(Why::Unknown("recovery point"))?;
    // The pieces of an unfinished change may stand last: they commit nothing.
    let run = timeline
        .run_of(point.log_seq)
        .ok_or_else(|| timeline.hole(point.log_seq))?;
    let mut ends = timeline
        .positions()
        .rev()
        .filter(|seq| *seq <= point.log_seq);
    let seq = ends
        .find(|seq| *seq >= run.first)
        .ok_or(Why::NotAPosition)?;
    with_base(timelines, timeline, &End::of(seq, Proof::Point(point.seq)))
}

fn latest(timelines: &[Timeline<'_>]) -> Result<RestorePlan, Why> {
    let mut ends = timelines.iter().rev().filter_map(|timeline| {
        Some((
            timeline,
            timeline.windows().last().map(|window| window.to.seq)?,
        ))
    });
    let sealed = timelines
        .iter()
        .rev()
        .find_map(|timeline| Some((timeline, timeline.facts.points.last()?.log_seq)));
    let Some((timeline, seq)) = ends.next() else {
        return Err(match sealed {
            Some((timeline, seq)) => broken_before(timeline, seq),
            None => Why::NothingYet,
        });
    };
    // Before the newest recovery point nothing may be missing; past it the log ends where it ends.
    if let Some((sealed_in, sealed)) = sealed {
        let reaches = timeline.run_of(seq).is_some_and(|run| run.last >= sealed);
        let same = timeline.facts.epoch == sealed_in.facts.epoch;
        if timeline.facts.epoch < sealed_in.facts.epoch || (same && !reaches) {
            return Err(broken_before(sealed_in, sealed));
        }
    }
    if let Some(why) = lost_past(timelines, timeline, seq) {
        return Err(why);
    }
    with_base(timelines, timeline, &End::of(seq, Proof::EndOfLog))
}

/// The first object past `seq`, which `timeline` reaches, that is damaged and was one of the log's.
fn lost_past(timelines: &[Timeline<'_>], timeline: &Timeline<'_>, seq: LogSeq) -> Option<Why> {
    let end = timeline.run_of(seq).map_or(seq, |run| run.last);
    let reached = timeline.facts.epoch;
    let later = timelines.iter().filter(|one| one.facts.epoch >= reached);
    let mut lost = later.filter_map(|one| {
        let mut log = one.facts.log.iter();
        let entry = log.find(|entry| {
            let past = one.facts.epoch > reached || entry.seq > end;
            past && matches!(&entry.state, LogState::Damaged(damage) if damage.vouched.is_some())
        })?;
        Some(one.hole(entry.seq))
    });
    lost.next()
}

/// Why the newest recovery point, which covers `sealed`, can't be reached.
fn broken_before(timeline: &Timeline<'_>, sealed: LogSeq) -> Why {
    match timeline.run_of(sealed) {
        None => timeline.hole(sealed),
        Some(run) => timeline.blocked(&run),
    }
}

/// Chooses the base and finishes the plan.
fn with_base(
    timelines: &[Timeline<'_>],
    timeline: &Timeline<'_>,
    end: &End,
) -> Result<RestorePlan, Why> {
    let epoch = timeline.facts.epoch;
    let run: Run = timeline
        .run_of(end.seq)
        .ok_or_else(|| timeline.hole(end.seq))?;
    let usable = timeline.bases_of(&run).filter(|base| {
        base.usable_from <= end.seq && end.after.is_none_or(|after| base.start > after)
    });
    let costs = usable.filter_map(|base| {
        let (chain, base_bytes) = timeline.chain(base)?;
        let log_bytes = timeline.log_bytes(base.start, end.seq);
        Some((base, chain, base_bytes, log_bytes))
    });
    let is_server = timeline
        .told(end.seq)
        .is_some_and(|told| told.server.is_some());
    let replay_bytes = |base: &BaseFact| timeline.replay_bytes(base.start, end.seq);
    // Where replay ends inside an object, a base that becomes usable in the same one may come too late:
    // it is taken only if there is no other, and the engine decides.
    let late = |base: &BaseFact| end.stop != Stop::End && base.usable_from >= end.first;
    let cheapest = costs.min_by_key(|(base, _, base_bytes, log_bytes)| {
        (
            late(base),
            base_bytes
                .saturating_add(*log_bytes)
                .saturating_add(if is_server { replay_bytes(base) } else { 0 }),
            std::cmp::Reverse(base.start),
        )
    });
    let Some((base, bases, base_bytes, log_bytes)) = cheapest else {
        return Err(timeline.blocked(&run));
    };
    let newest_log = timelines
        .iter()
        .rev()
        .find_map(|timeline| Some((timeline.facts.epoch, timeline.facts.log.last()?.seq)));
    Ok(RestorePlan {
        epoch,
        bases,
        first_log: base.start,
        last_log: end.seq,
        stop: end.stop.clone(),
        reached: reached(timeline, end).unwrap_or(Timestamp::MIN),
        server: timeline.reach(end.seq).and_then(|reach| reach.server),
        exact: end.exact,
        proof: end.proof,
        sealed: timeline
            .facts
            .points
            .last()
            .is_some_and(|point| end.seq <= point.log_seq),
        base_bytes,
        log_bytes,
        replay_bytes: replay_bytes(base),
        newest_log: newest_log.filter(|newest| *newest > (epoch, end.seq)),
    })
}

/// The latest instant that the end is known to reach without reading the object in which it lies.
fn reached(timeline: &Timeline<'_>, end: &End) -> Option<Timestamp> {
    match &end.stop {
        Stop::End => timeline.time(end.seq),
        Stop::Time(at, bound) => {
            let mut before = timeline.positions().rev().filter(|seq| *seq < end.seq);
            let told =
                before.find_map(|seq| timeline.time(seq).filter(|time| bound.holds(*time, *at)));
            let own = timeline
                .object(end.seq)
                .and_then(|object| object.first_commit);
            told.max(own.filter(|first| bound.holds(*first, *at)))
        }
        Stop::Lsn(..) | Stop::Xid(..) | Stop::Name(_) => {
            let before = end.first.previous().and_then(|seq| timeline.time(seq));
            before.or_else(|| timeline.object(end.first)?.first_commit)
        }
    }
}
