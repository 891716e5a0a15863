//! Facts about time: when everything up to which instant was safe, and what can be restored.
//!
//! **Cost.** A month has a quarter of a million log objects, and a head costs a request. Recovery points
//! are read first; log heads and beats only where points alone leave an exposure that a clause minds.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tidemark_format::heads::LogHead;
use tidemark_format::{Epoch, Key, LogSeq, keys};
use tidemark_ledger::survey::{Avoid, Scope, Survey};
use tidemark_ledger::timeline::{EpochView, Timeline};
use tidemark_ledger::{Verified, list_all};
use tidemark_planner::objectives::{
    BaseMade, Facts, Gap, HoleFact, OldestObject, PointMade, Trace, Witness,
};
use tidemark_planner::restore::{self as planner, RecoverableWindow};

use super::exposed::{CLOSER_MAX, Exposed};
use super::gather::Looked;
use super::links;
use crate::error::Result;
use crate::repository::Repository;

/// Under which name a head says up to when everything is captured.
const COMPLETE_UNTIL: &str = "complete_until";

/// Adds what the history says.
///
/// # Errors
/// No region can be read.
pub(super) async fn add(
    facts: &mut Facts,
    repository: &Repository,
    timeline: &Timeline,
    looked: &Looked,
) -> Result<()> {
    facts.retired = timeline.is_retired();
    facts.divisible = timeline.is_divisible();
    let since = facts.now.checked_sub(looked.over).unwrap_or(Timestamp::MIN);
    let mut survey = Survey::new(timeline, &Avoid::default(), Scope::Whole).await?;
    let recoverable = planner::recoverable(&survey.facts());
    facts.earliest = recoverable.earliest();
    facts.through = recoverable.through();
    facts.holes = recoverable.holes.iter().map(hole).collect();
    facts.begins = begins(timeline, facts.earliest);
    let history = History {
        windows: recoverable.windows,
        arrivals: arrivals(repository, timeline).await?,
        timeline,
    };
    if looked.every_head && !facts.divisible {
        for view in timeline.epochs() {
            let from = from(view, since);
            survey.read(view.epoch, from..end(view)).await?;
        }
    }
    let end = history.last_said().filter(|_| facts.retired);
    let span = (since, end.unwrap_or(facts.now));
    let mut exposed = Exposed::new(repository, &history, span);
    facts.gaps = exposed.gaps(&mut survey, looked.finest).await?;
    let few = if looked.exactly { CLOSER_MAX } else { 0 };
    (facts.gaps, facts.bounds) = exposed.longest(&mut survey, looked.finest, few).await?;
    facts.coarsest = coarsest(&survey, since);
    facts.oldest = oldest(timeline, &mut survey).await?;
    facts.server_link = links::of(timeline, &mut survey, since).await?;
    bodies(facts, &survey);
    made(facts, timeline);
    Ok(())
}

/// From which place on the log is in the span.
fn from(view: &EpochView, since: Timestamp) -> LogSeq {
    let earlier = view.points.partition_point(|point| point.head.at < since);
    let before = earlier.checked_sub(1).and_then(|at| view.points.get(at));
    before.map_or(LogSeq(0), |point| point.head.log_seq)
}

fn end(view: &EpochView) -> LogSeq {
    view.names
        .keys()
        .next_back()
        .map_or(LogSeq(0), |last| last.next())
}

fn hole(hole: &planner::Hole) -> HoleFact {
    HoleFact {
        from: hole.from,
        to: hole.to(),
        why: hole.why.to_string(),
    }
}

/// The first instant of the history: what is kept begins there, unless older parts were deleted; then
/// whoever claimed the first epoch says when it began.
fn begins(timeline: &Timeline, earliest: Option<Timestamp>) -> Option<Timestamp> {
    let first = timeline.epochs().first();
    let cut = first.is_some_and(|view| {
        view.epoch > Epoch(1) || view.names.keys().next().is_some_and(|seq| *seq > LogSeq(0))
    });
    if !cut {
        return earliest;
    }
    let claims = timeline
        .histories()
        .flat_map(|(_, history)| history.all_epochs());
    let claimed = claims
        .filter_map(|epoch| Some(epoch.claim.as_ref()?.head.at))
        .min();
    claimed.or(earliest)
}

/// When regions took each log object: the earliest.
async fn arrivals(
    repository: &Repository,
    timeline: &Timeline,
) -> Result<BTreeMap<(Epoch, LogSeq), Timestamp>> {
    let mut found: BTreeMap<(Epoch, LogSeq), Timestamp> = BTreeMap::new();
    for region in &repository.regions {
        for view in timeline.epochs() {
            let prefix = keys::logs(timeline.source(), view.epoch);
            // A region that is away now was told elsewhere, and says nothing.
            let Ok(entries) = list_all(region.store.read.as_ref(), &prefix).await else {
                continue;
            };
            for entry in entries {
                let (Some(seq), Some(at)) = (seq_of(&entry.key), entry.modified) else {
                    continue;
                };
                let first = found.entry((view.epoch, seq)).or_insert(at);
                *first = (*first).min(at);
            }
        }
    }
    Ok(found)
}

fn seq_of(key: &Key) -> Option<LogSeq> {
    keys::dense(key).ok().map(|(_, _, seq)| LogSeq(seq))
}

/// What is asked of the history again and again.
pub(super) struct History<'a> {
    windows: Vec<RecoverableWindow>,
    arrivals: BTreeMap<(Epoch, LogSeq), Timestamp>,
    pub(super) timeline: &'a Timeline,
}

impl History<'_> {
    /// The window that a place of the log is in: only what is in one can be restored.
    fn window(&self, epoch: Epoch, seq: LogSeq) -> Option<&RecoverableWindow> {
        let mut windows = self.windows.iter();
        windows.find(|window| {
            window.from.epoch == epoch && window.from.seq <= seq && seq <= window.to.seq
        })
    }

    pub(super) fn holds(&self, epoch: Epoch, seq: LogSeq) -> bool {
        self.window(epoch, seq).is_some()
    }

    /// The instant of the newest point: what a source at rest ended with.
    fn last_said(&self) -> Option<Timestamp> {
        self.timeline.newest_point().map(|point| point.head.at)
    }

    /// Everything that points and the heads read say.
    pub(super) fn witnesses(&self, survey: &Survey<'_>) -> Vec<Witness> {
        let points = self.timeline.epochs().iter().flat_map(|view| &view.points);
        let points = points
            .filter(|point| self.holds(point.head.epoch, point.head.log_seq))
            .map(|point| Witness {
                arrived: point.head.at,
                until: point.head.committed,
                trace: Trace::Point(point.head.epoch, point.head.seq),
            });
        let heads = survey.heads().filter_map(|object| self.of_head(object));
        points.chain(heads).collect()
    }

    fn of_head(&self, object: &Verified<LogHead>) -> Option<Witness> {
        let head = &object.head;
        let complete = head
            .facts
            .get(COMPLETE_UNTIL)
            .and_then(|text| text.as_str()?.parse().ok());
        let until: Timestamp = head.last_commit.max(complete)?;
        if !head.restorable || head.gap.is_some() {
            return None;
        }
        let window = self.window(head.epoch, head.seq)?;
        Some(Witness {
            arrived: self.arrived(head).max(self.usable(window)),
            until,
            trace: Trace::Log(head.epoch, head.seq),
        })
    }

    /// When an object was safe: the store's own time, and no later than the point that says so. A copied
    /// region has the copy's times, which say nothing.
    fn arrived(&self, head: &LogHead) -> Timestamp {
        let taken = self.arrivals.get(&(head.epoch, head.seq)).copied();
        let view = self.timeline.epoch(head.epoch);
        let sealed = view.and_then(|view| {
            let after = view
                .points
                .partition_point(|point| point.head.log_seq < head.seq);
            view.points.get(after).map(|point| point.head.at)
        });
        let earliest = [taken, sealed].into_iter().flatten().min();
        earliest.map_or(head.captured_at, |at| at.max(head.captured_at))
    }

    /// Since when anything of a window can be restored: its first base.
    fn usable(&self, window: &RecoverableWindow) -> Timestamp {
        let view = self.timeline.epoch(window.from.epoch);
        let bases = view.into_iter().flat_map(|view| &view.bases);
        let first = bases.filter(|base| base.head.usable_from <= window.from.seq);
        let first = first.filter(|base| {
            base.head.usable_from == window.from.seq || base.head.start <= window.from.seq
        });
        first
            .map(|base| base.head.finished_at)
            .min()
            .unwrap_or(Timestamp::MIN)
    }

    /// The log between two points.
    pub(super) fn between(&self, gap: &Gap) -> Vec<(Epoch, std::ops::Range<LogSeq>)> {
        let place = |trace: Trace| match trace {
            Trace::Log(epoch, seq) => Some((epoch, seq)),
            Trace::Point(epoch, seq) => {
                let view = self.timeline.epoch(epoch)?;
                let point = view.points.iter().find(|point| point.head.seq == seq)?;
                Some((epoch, point.head.log_seq))
            }
            Trace::Beat(_) => None,
        };
        let Some((first, from)) = place(gap.after) else {
            return Vec::new();
        };
        let last = gap.before.and_then(place);
        let views = self
            .timeline
            .epochs()
            .iter()
            .filter(|view| view.epoch >= first);
        let views = views.filter(|view| last.is_none_or(|(epoch, _)| view.epoch <= epoch));
        views
            .map(|view| {
                let from = if view.epoch == first { from } else { LogSeq(0) };
                let to = last
                    .filter(|(epoch, _)| *epoch == view.epoch)
                    .map(|(_, seq)| seq.next());
                (view.epoch, from..to.unwrap_or_else(|| end(view)))
            })
            .collect()
    }
}

/// The widest object of several commits: none of the states within it can be restored by itself.
fn coarsest(survey: &Survey<'_>, since: Timestamp) -> Option<Gap> {
    let wide = survey.heads().filter_map(|object| {
        let head = &object.head;
        let (from, to) = (head.first_commit?, head.last_commit?);
        let trace = Trace::Log(head.epoch, head.seq);
        (head.transactions > 1 && to > since).then_some(Gap {
            from,
            to,
            after: trace,
            before: None,
        })
    });
    wide.max_by_key(Gap::length)
}

/// The oldest thing that is kept of a source.
async fn oldest(timeline: &Timeline, survey: &mut Survey<'_>) -> Result<Option<OldestObject>> {
    if let Some(view) = timeline.epochs().first()
        && let Some(first) = view.names.keys().next()
    {
        survey.read(view.epoch, *first..first.next()).await?;
    }
    let heads = survey
        .heads()
        .map(|object| (object.head.captured_at, &object.key));
    let views = || timeline.epochs().iter();
    let bases = views()
        .flat_map(|view| &view.bases)
        .map(|base| (base.head.started_at, &base.key));
    let points = views()
        .flat_map(|view| &view.points)
        .map(|point| (point.head.at, &point.key));
    let oldest = heads.chain(bases).chain(points).min();
    Ok(oldest.map(|(at, key)| OldestObject {
        key: key.to_string(),
        at,
    }))
}

/// Which objects with a body are encrypted: those that name the session which opens them.
fn bodies(facts: &mut Facts, survey: &Survey<'_>) {
    let with_body = survey.heads().filter(|object| object.head.body_len > 0);
    for object in with_body {
        facts.bodies = facts.bodies.saturating_add(1);
        if object.head.session.is_none() || object.head.object.is_none() {
            facts.plain_bodies.push(object.key.to_string());
        }
    }
}

/// Images and points.
fn made(facts: &mut Facts, timeline: &Timeline) {
    for view in timeline.epochs() {
        facts.bodies = facts.bodies.saturating_add(view.bases.len());
        facts.bases.extend(view.bases.iter().map(|base| BaseMade {
            key: base.key.to_string(),
            started_at: base.head.started_at,
            finished_at: base.head.finished_at,
        }));
        facts
            .points
            .extend(view.points.iter().map(|point| PointMade {
                name: format!("point:{}/{}", point.head.epoch, point.head.seq),
                at: point.head.at,
                committed: point.head.committed,
            }));
    }
    facts.bases.sort_by_key(|base| base.started_at);
    facts.points.sort_by_key(|point| point.at);
}
