//! A server's log: which part of it an object holds, and in which objects a target lies.
//!
//! Heads tell it as open facts. What a head doesn't tell may be in its object: such an object is read,
//! never passed over. The engine stops replay at the record itself, so reading too far harms nobody.

use std::fmt;

use tidemark_format::LogSeq;
use tidemark_format::heads::Facts;
use tidemark_format::postgres::{Lsn, TimelineId};

use super::facts::{EpochFacts, Told};
use super::timeline::{Reach, Run, Timeline};
use super::{Bound, End, Proof, RestorePlan, Stop, Why, with_base};

/// The fact of a log head that holds these.
const FACT: &str = "postgres";

/// Which part of a server's log an object holds, as far as its head says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerLog {
    /// The branch.
    pub timeline: Option<TimelineId>,
    /// Where the bytes begin.
    pub start: Option<Lsn>,
    /// Where they end.
    pub end: Option<Lsn>,
    /// How far whole records reach: the end of the last one.
    pub last_record: Option<Lsn>,
    /// The smallest and the largest id of the transactions that are committed in it.
    pub xids: Option<(u32, u32)>,
    /// Named points in it.
    pub points: Vec<String>,
}

impl ServerLog {
    /// From a head's facts; none if they say nothing of a server's log.
    #[must_use]
    pub fn read(facts: &Facts) -> Option<Self> {
        let own = facts.get(FACT)?.as_object()?;
        let lsn = |name: &str| own.get(name)?.as_str()?.parse().ok();
        let number = |value: &serde_json::Value| value.as_u64()?.try_into().ok();
        let xids = own.get("xids").and_then(serde_json::Value::as_array);
        let points = own.get("points").and_then(serde_json::Value::as_array);
        let points = points.into_iter().flatten();
        Some(Self {
            timeline: own.get("timeline").and_then(number).map(TimelineId),
            start: lsn("start"),
            end: lsn("end"),
            last_record: lsn("last_record"),
            xids: xids.and_then(|pair| match pair.as_slice() {
                [min, max] => number(min).zip(number(max)),
                _ => None,
            }),
            points: points
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect(),
        })
    }

    /// Where the part ends.
    #[must_use]
    pub fn place(&self) -> Option<ServerPlace> {
        Some(ServerPlace {
            timeline: self.timeline?,
            lsn: self.end?,
        })
    }
}

/// A position of a server's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerPlace {
    /// The branch.
    pub timeline: TimelineId,
    /// Where on it.
    pub lsn: Lsn,
}

impl fmt::Display for ServerPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LSN {} on timeline {}", self.lsn, self.timeline)
    }
}

/// A place that is found in the log itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// A position.
    Lsn(Lsn, Bound),
    /// The end of a transaction.
    Xid(u32, Bound),
    /// A point that was named on the server.
    Name(String),
}

impl Mark {
    const fn stop_word(&self) -> &'static str {
        match self {
            Self::Lsn(..) => "position of the server's log",
            Self::Xid(..) => "transaction",
            Self::Name(_) => "point, sealed by the agent or named on the server,",
        }
    }

    fn stop(&self) -> Stop {
        match self {
            Self::Lsn(at, bound) => Stop::Lsn(*at, *bound),
            Self::Xid(xid, bound) => Stop::Xid(*xid, *bound),
            Self::Name(name) => Stop::Name(name.clone()),
        }
    }

    /// Whether the mark may lie in an object; `None`: its head doesn't say.
    fn may_be_in(&self, told: Option<&Told>) -> Option<bool> {
        let told = told?;
        let server = told.server.as_ref()?;
        match self {
            Self::Lsn(at, _) => Some(server.last_record? > *at),
            Self::Xid(..) if told.transactions == 0 => Some(false),
            Self::Xid(xid, _) => {
                let (min, max) = server.xids?;
                Some((min..=max).contains(xid))
            }
            Self::Name(name) => Some(server.points.contains(name)),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lsn(at, bound) => write!(f, "{}{at}", bound.word()),
            Self::Xid(xid, bound) => write!(f, "{}xid:{xid}", bound.word()),
            Self::Name(name) => write!(f, "point:{name}"),
        }
    }
}

/// Objects in which a mark may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    /// The first that may hold it.
    first: LogSeq,
    /// The last that is needed.
    last: LogSeq,
    /// The base must begin behind this one, which holds an earlier mark of the same name.
    after: Option<LogSeq>,
}

/// Plans a restore to a mark: the newest life of the database, and in it the newest run that has it.
pub(super) fn at_mark(timelines: &[Timeline<'_>], mark: &Mark) -> Result<RestorePlan, Why> {
    let runs = || {
        let newest_first = timelines.iter().rev();
        newest_first
            .flat_map(|timeline| timeline.runs().iter().rev().map(move |run| (timeline, run)))
    };
    let (newest, _) = runs().next().ok_or(Why::NothingYet)?;
    let life = newest.runs().last().and_then(|run| run.incarnation);
    let of_life = |run: &Run| run.incarnation.is_none_or(|of| Some(of) == life);
    let mut found =
        runs().filter_map(|(timeline, run)| Some((timeline, run, span(timeline, run, mark)?)));
    let Some((timeline, run, span)) = found.next() else {
        return Err(absent(timelines, mark));
    };
    let planned = with_base(timelines, timeline, &end(mark, &span));
    if of_life(run) && (planned.is_ok() || !timeline.begins_a_life(run)) {
        return planned;
    }
    // A life that went on from the middle of another repeats its positions and numbers: what its first
    // base comes too late for, the other one may have.
    let restorable = |timeline: &Timeline<'_>, span: &Span| {
        with_base(timelines, timeline, &end(mark, span)).is_ok()
    };
    let mut others = std::iter::once((timeline, run, span)).chain(found);
    let other = others.find(|(timeline, run, span)| !of_life(run) && restorable(timeline, span));
    match other {
        Some((timeline, run, _)) => Err(other_life(timeline, run)),
        None if of_life(run) => planned,
        None => Err(other_life(timeline, run)),
    }
}

/// Where a restore to a mark ends: the last position at or after the mark's object, for a piece of an
/// unfinished record ends nothing.
fn end(mark: &Mark, span: &Span) -> End {
    End {
        seq: span.last,
        proof: Proof::AskedFor,
        exact: true,
        stop: mark.stop(),
        first: span.first,
        after: span.after,
    }
}

/// In which objects of a run a mark may lie; none if it is surely in none of them.
fn span(timeline: &Timeline<'_>, run: &Run, mark: &Mark) -> Option<Span> {
    let objects = || timeline.objects(run);
    if let Mark::Lsn(at, _) = mark {
        return lsn_span(timeline, run, *at);
    }
    let told =
        |wanted: Option<bool>| objects().filter(move |(_, told)| mark.may_be_in(*told) == wanted);
    let surely = || told(Some(true)).map(|(seq, _)| seq);
    let silent = || told(None).map(|(seq, _)| seq);
    if let Mark::Name(_) = mark
        && let Some(last) = surely().next_back()
    {
        // Of several points of one name the newest is meant; replay would end at the first it meets.
        let after = surely().rfind(|seq| *seq < last);
        let silent_since =
            silent().find(|seq| after.is_none_or(|after| *seq > after) && *seq < last);
        let first = silent_since.unwrap_or(last);
        return Some(Span { first, last, after });
    }
    let first = surely().chain(silent()).min()?;
    let last = surely().chain(silent()).max()?;
    Some(Span {
        first,
        last,
        after: None,
    })
}

/// The object whose whole records reach past the position, so that none that starts at or before it is
/// missing. Without one the position is the very end, or in a record that is not whole.
fn lsn_span(timeline: &Timeline<'_>, run: &Run, at: Lsn) -> Option<Span> {
    let mark = Mark::Lsn(at, Bound::Included);
    let objects = || timeline.objects(run);
    let log = |told: Option<&'_ Told>| told.and_then(|told| told.server.clone());
    let begins = objects().find_map(|(_, told)| log(told)?.start);
    let ends = objects().last().and_then(|(_, told)| log(told)?.end);
    if begins.is_some_and(|begins| at < begins) || ends.is_some_and(|ends| at > ends) {
        return None;
    }
    let surely = objects().find(|(_, told)| mark.may_be_in(*told) == Some(true));
    let last = surely.or_else(|| objects().last()).map(|(seq, _)| seq)?;
    let silent = objects().find(|(seq, told)| *seq < last && mark.may_be_in(*told).is_none());
    Some(Span {
        first: silent.map_or(last, |(seq, _)| seq),
        last,
        after: None,
    })
}

/// Why a mark is in none of the runs.
fn absent(timelines: &[Timeline<'_>], mark: &Mark) -> Why {
    let Mark::Lsn(at, _) = mark else {
        return Why::Unknown(mark.stop_word());
    };
    let spans = timelines.iter().flat_map(|timeline| {
        let runs = timeline.runs().iter();
        runs.flat_map(|run| timeline.objects(run))
            .filter_map(|(_, told)| told?.server.as_ref())
    });
    let known: Vec<&ServerLog> = spans.collect();
    let begins = known.iter().filter_map(|log| log.start).min();
    let ends = known.iter().filter_map(|log| log.end).max();
    match (begins, ends) {
        (Some(begins), _) if *at < begins => Why::TooEarly,
        (_, Some(ends)) if *at > ends => Why::TooLate,
        _ => Why::Unknown(mark.stop_word()),
    }
}

/// A mark that only an earlier life of the database has.
fn other_life(timeline: &Timeline<'_>, run: &Run) -> Why {
    match timeline.window(run) {
        Some(window) => Why::OtherLife {
            from: Some(window.from),
            to: Some(window.to),
        },
        None => Why::OtherLife {
            from: timeline.reach_at_or_after(run.first),
            to: timeline.reach_at_or_before(run.last),
        },
    }
}

impl<'a> Timeline<'a> {
    /// The places of a run, each with what its head says; nothing of one that was not read.
    fn objects(
        &self,
        run: &Run,
    ) -> impl DoubleEndedIterator<Item = (LogSeq, Option<&'a Told>)> + use<'a> {
        let (first, last) = (run.first, run.last);
        let facts: &'a EpochFacts = self.facts;
        let within = facts.log.iter();
        within
            .filter(move |entry| first <= entry.seq && entry.seq <= last)
            .map(|entry| (entry.seq, facts.told.get(&entry.seq)))
    }

    fn reach_at_or_after(&self, seq: LogSeq) -> Option<Reach> {
        let next = self.positions().find(|at| *at >= seq)?;
        self.reach(next)
    }

    fn reach_at_or_before(&self, seq: LogSeq) -> Option<Reach> {
        let before = self.positions().rev().find(|at| *at <= seq)?;
        self.reach(before)
    }
}
