//! One epoch's log laid out: instants that never decrease, runs without a hole, and the windows in
//! which every instant can be restored.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use tidemark_format::{Epoch, Incarnation, LogSeq};

use super::facts::{
    BaseFact, BaseId, Damage, EpochFacts, Facts, LogFact, LogState, ObjectFact, Told,
};
use super::server::{ServerLog, ServerPlace};
use super::{Bound, Why};

/// A position that can be restored, and the instant it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The epoch.
    pub epoch: Epoch,
    /// The log object at whose end it is.
    pub seq: LogSeq,
    /// When its last commit was made, or first seen.
    pub at: Timestamp,
    /// Where that is in the server's log, if the source has one.
    pub server: Option<ServerPlace>,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (log:{}:{}", self.at, self.epoch, self.seq)?;
        if let Some(server) = &self.server {
            write!(f, ", {server}")?;
        }
        f.write_str(")")
    }
}

/// A span without gaps: every instant in it can be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverableWindow {
    /// Its first position.
    pub from: Reach,
    /// Its last.
    pub to: Reach,
    /// Up to here it is proved that nothing was committed after `to`: a restore to any instant up
    /// to this one ends at `to`.
    pub until: Timestamp,
    /// The last position that a recovery point covers, if any does.
    pub sealed_to: Option<Reach>,
}

/// What replaying a part of an epoch's log reads, in bytes.
#[must_use]
pub fn replay_bytes(facts: &Facts, epoch: Epoch, first: LogSeq, last: LogSeq) -> u64 {
    let found = facts.epochs.iter().find(|known| known.epoch == epoch);
    found.map_or(0, |known| Timeline::new(known).replay_bytes(first, last))
}

/// The windows of a history, oldest first.
#[must_use]
pub fn windows(facts: &Facts) -> Vec<RecoverableWindow> {
    let mut all: Vec<RecoverableWindow> = facts
        .epochs
        .iter()
        .flat_map(|epoch| Timeline::new(epoch).windows())
        .collect();
    let newest = facts.epochs.last().map(|epoch| epoch.epoch);
    let last = all
        .last_mut()
        .filter(|window| Some(window.to.epoch) == newest);
    if let (Some(window), Some(beat)) = (last, &facts.caught_up)
        && beat.log_seq <= window.to.seq
    {
        window.until = window.until.max(beat.at);
    }
    all
}

/// A run of the log without a hole, in one incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: LogSeq,
    pub(super) last: LogSeq,
    /// None if no head of it was read.
    pub(super) incarnation: Option<Incarnation>,
}

/// One epoch's log laid out.
pub(super) struct Timeline<'a> {
    pub(super) facts: &'a EpochFacts,
    /// One for each entry of the log: the largest commit time up to it.
    times: Vec<Option<Timestamp>>,
    /// One for each entry of the log, and one more: the bytes before it. A sum is asked for every base of a
    /// history that may hold a million objects.
    bytes_before: Vec<u64>,
    runs: Vec<Run>,
    /// Those that open, by their ids.
    bases: BTreeMap<BaseId, &'a BaseFact>,
}

impl<'a> Timeline<'a> {
    pub(super) fn new(facts: &'a EpochFacts) -> Self {
        let mut times = Vec::with_capacity(facts.log.len());
        let mut bytes_before = Vec::with_capacity(facts.log.len().saturating_add(1));
        let mut bytes = 0_u64;
        bytes_before.push(bytes);
        let mut time: Option<Timestamp> = None;
        let mut life: Option<Incarnation> = None;
        let mut commits_seen = false;
        let mut floor: Option<Timestamp> = None;
        for entry in &facts.log {
            if let LogState::Object(object) | LogState::Closed(object) = &entry.state {
                if life != Some(object.incarnation) {
                    // Its log may repeat commits of before: they don't make it stand for their instants.
                    floor = life.map(|_earlier| object.captured_at);
                    life = Some(object.incarnation);
                    commits_seen = false;
                }
                commits_seen |= object.last_commit.is_some();
                // Before the first commit that was seen in this life, the state is as of when it was
                // captured: what an earlier life committed last says nothing of what went between.
                let captured = (!commits_seen).then_some(object.captured_at);
                let own = object.last_commit.or(captured).max(floor);
                time = time.max(own);
            }
            times.push(time);
            bytes = bytes.saturating_add(entry.bytes);
            bytes_before.push(bytes);
        }
        let open = facts.bases.iter().filter(|base| base.opens);
        Self {
            facts,
            times,
            bytes_before,
            runs: runs(&facts.log),
            bases: open.map(|base| (base.id, base)).collect(),
        }
    }

    fn index(&self, seq: LogSeq) -> Option<usize> {
        self.facts
            .log
            .binary_search_by_key(&seq, |entry| entry.seq)
            .ok()
    }

    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// What the head at `seq` says beside what every head does.
    pub(super) fn told(&self, seq: LogSeq) -> Option<&'a Told> {
        self.facts.told.get(&seq)
    }

    /// The object at `seq`, if its head was read.
    pub(super) fn object(&self, seq: LogSeq) -> Option<&'a ObjectFact> {
        match self.state(seq)? {
            LogState::Object(object) => Some(object),
            LogState::Gap(_)
            | LogState::Closed(_)
            | LogState::Missing
            | LogState::Damaged(_)
            | LogState::Unread => None,
        }
    }

    /// The first object with a commit past the instant, if what is asked for begins before it: its own
    /// first commit, or something in the same run.
    pub(super) fn crossing(&self, at: Timestamp, bound: Bound) -> Option<LogSeq> {
        let passes = |time: &Option<Timestamp>| time.is_some_and(|time| !bound.holds(time, at));
        let index = self.times.iter().position(passes)?;
        let seq = self.facts.log.get(index)?.seq;
        let object = self.object(seq)?;
        // Without a commit it is only known when it was captured.
        object.last_commit?;
        if object
            .first_commit
            .is_some_and(|first| bound.holds(first, at))
        {
            return Some(seq);
        }
        let before = index.checked_sub(1)?;
        (*self.times.get(before)?)?;
        let run = self.run_of(seq)?;
        (run.first < seq).then_some(seq)
    }

    pub(super) fn state(&self, seq: LogSeq) -> Option<&'a LogState> {
        Some(&self.facts.log.get(self.index(seq)?)?.state)
    }

    /// The instant that the end of an object stands for.
    pub(super) fn time(&self, seq: LogSeq) -> Option<Timestamp> {
        *self.times.get(self.index(seq)?)?
    }

    /// Every restore position, oldest first.
    pub(super) fn positions(&self) -> impl DoubleEndedIterator<Item = LogSeq> + use<'a> {
        let log: &'a [LogFact] = &self.facts.log;
        log.iter()
            .filter(|entry| is_position(&entry.state))
            .map(|entry| entry.seq)
    }

    /// The last restore position up to `seq`.
    pub(super) fn last_position(&self, seq: LogSeq) -> Option<LogSeq> {
        let log = &self.facts.log;
        let end = log.partition_point(|entry| entry.seq <= seq);
        let mut before = log.get(..end)?.iter().rev();
        before
            .find(|entry| is_position(&entry.state))
            .map(|entry| entry.seq)
    }

    pub(super) fn run_of(&self, seq: LogSeq) -> Option<Run> {
        self.runs
            .iter()
            .find(|run| run.first <= seq && seq <= run.last)
            .copied()
    }

    /// The next restore position after `seq`, if nothing is unknown between them; else the hole
    /// right behind what is known, or none at the log's end.
    pub(super) fn next_position(&self, seq: LogSeq) -> Result<LogSeq, Option<LogSeq>> {
        let Some(run) = self.run_of(seq) else {
            return Err(Some(seq));
        };
        let within = |next: &LogSeq| *next > seq && *next <= run.last;
        let from = self.index(seq).unwrap_or_default();
        let later = self.facts.log.get(from..).unwrap_or_default();
        let next = later
            .iter()
            .filter(|entry| is_position(&entry.state))
            .map(|entry| entry.seq);
        let behind = run.last.next();
        let ends = self.facts.log.last().is_none_or(|last| last.seq < behind);
        next.into_iter()
            .find(within)
            .ok_or(if ends { None } else { Some(behind) })
    }

    /// Whether every object up to the next position began after the instant asked for.
    pub(super) fn next_begins_after(&self, seq: LogSeq, at: Timestamp, bound: Bound) -> bool {
        let Ok(next) = self.next_position(seq) else {
            return true;
        };
        let (Some(from), Some(to)) = (self.index(seq.next()), self.index(next)) else {
            return false;
        };
        let between = self.facts.log.get(from..=to).unwrap_or_default();
        between.iter().all(|entry| match &entry.state {
            LogState::Object(object) | LogState::Closed(object) => {
                match object.first_commit.or(object.last_commit) {
                    Some(first) => !bound.holds(first, at),
                    None => true,
                }
            }
            LogState::Gap(_) | LogState::Missing | LogState::Damaged(_) | LogState::Unread => false,
        })
    }

    /// Bases that open, begin in a run, belong to its incarnation and become usable in it.
    pub(super) fn bases_of(&self, run: &Run) -> impl Iterator<Item = &'a BaseFact> + use<'a> {
        let run = *run;
        self.facts.bases.iter().filter(move |base| {
            base.opens
                && run.first <= base.start
                && base.start <= base.usable_from
                && base.usable_from <= run.last
                && run.incarnation.is_none_or(|life| life == base.incarnation)
        })
    }

    /// A base and those it builds on, the complete one first, with their bytes; none if one of them
    /// isn't there or doesn't open.
    pub(super) fn chain(&self, base: &BaseFact) -> Option<(Vec<BaseId>, u64)> {
        let mut chain = vec![base.id];
        let mut bytes = base.stored_bytes;
        let mut parent = base.parent;
        while let Some(id) = parent {
            // Numbers only go down, so this ends.
            if chain.last().is_none_or(|last| id >= *last) {
                return None;
            }
            let base = self.bases.get(&id)?;
            chain.push(id);
            bytes = bytes.saturating_add(base.stored_bytes);
            parent = base.parent;
        }
        chain.reverse();
        Some((chain, bytes))
    }

    pub(super) fn log_bytes(&self, first: LogSeq, last: LogSeq) -> u64 {
        let log = &self.facts.log;
        let from = log.partition_point(|entry| entry.seq < first);
        let to = log.partition_point(|entry| entry.seq <= last);
        let before = |index: usize| self.bytes_before.get(index).copied().unwrap_or(0);
        before(to).saturating_sub(before(from))
    }

    /// What replaying the same objects reads. A server's log is more than is stored of it, by a factor that
    /// hangs on what was written; where not every head is known, those that are stand for the others.
    pub(super) fn replay_bytes(&self, first: LogSeq, last: LogSeq) -> u64 {
        let stored = self.log_bytes(first, last);
        let mut known = self
            .facts
            .told
            .range(first..=last)
            .filter_map(|(seq, told)| {
                let server = told.server.as_ref()?;
                Some((*seq, server.start?, server.end?))
            });
        let Some(head) = known.next() else {
            return stored;
        };
        let tail = known.next_back().unwrap_or(head);
        let raw = tail.2.0.saturating_sub(head.1.0);
        let sample = self.log_bytes(head.0, tail.0);
        let all = u128::from(raw) * u128::from(stored) / u128::from(sample.max(1));
        u64::try_from(all).unwrap_or(u64::MAX)
    }

    /// Why nothing in a run before its first usable base can be restored: the hole before the run,
    /// or simply no base.
    pub(super) fn blocked(&self, run: &Run) -> Why {
        let first = self.facts.log.first().map(|entry| entry.seq);
        match run
            .first
            .previous()
            .filter(|hole| first.is_some_and(|first| *hole >= first))
        {
            Some(hole) => self.hole(hole),
            None => Why::NoBase {
                epoch: self.facts.epoch,
            },
        }
    }

    pub(super) fn hole(&self, seq: LogSeq) -> Why {
        let what = match self.state(seq) {
            Some(LogState::Gap(reason)) => format!("is a gap ({reason})"),
            Some(LogState::Damaged(Damage { why, vouched })) => {
                let vouched = vouched.map(|by| format!("; it must be there: {by}"));
                format!("is damaged ({why}{})", vouched.unwrap_or_default())
            }
            Some(LogState::Closed(_)) => {
                "is sealed to other identities than the one given".to_owned()
            }
            Some(LogState::Object(_)) => "begins another life of the database".to_owned(),
            Some(LogState::Unread) => "was not read".to_owned(),
            Some(LogState::Missing) | None => "is missing".to_owned(),
        };
        Why::Hole {
            epoch: self.facts.epoch,
            seq,
            what,
        }
    }

    /// The windows of this epoch, as far as its log and points tell.
    pub(super) fn windows(&self) -> Vec<RecoverableWindow> {
        self.runs
            .iter()
            .filter_map(|run| self.window(run))
            .collect()
    }

    /// Whether nothing is lost before a run: it is a life's first, and lacks no more than a base.
    pub(super) fn begins_a_life(&self, run: &Run) -> bool {
        let before = run.first.previous();
        before.is_none_or(|before| matches!(self.state(before), None | Some(LogState::Object(_))))
    }

    /// The window of a run; none without a usable base.
    pub(super) fn window(&self, run: &Run) -> Option<RecoverableWindow> {
        let whole = self.bases_of(run).filter(|base| self.chain(base).is_some());
        let usable = whole.map(|base| base.usable_from).min()?;
        let inside = |seq: &LogSeq| usable <= *seq && *seq <= run.last;
        let mut positions = self.positions().filter(inside);
        let first = positions.next()?;
        let last = positions.next_back().unwrap_or(first);
        let points = || self.facts.points.iter();
        let to = self.reach(last)?;
        let proved = points()
            .filter(|point| point.log_seq <= last)
            .map(|point| point.committed);
        let told = self.told(last).and_then(|told| told.complete_until);
        let until = proved
            .chain(told)
            .max()
            .map_or(to.at, |proved| proved.max(to.at));
        let sealed = points().map(|point| point.log_seq).max();
        let sealed = sealed.and_then(|sealed| {
            self.positions()
                .rev()
                .filter(inside)
                .find(|seq| *seq <= sealed)
        });
        Some(RecoverableWindow {
            from: self.reach(first)?,
            to,
            until,
            sealed_to: sealed.and_then(|seq| self.reach(seq)),
        })
    }

    pub(super) fn reach(&self, seq: LogSeq) -> Option<Reach> {
        let server = self.told(seq).and_then(|told| told.server.as_ref());
        Some(Reach {
            epoch: self.facts.epoch,
            seq,
            at: self.time(seq)?,
            server: server.and_then(ServerLog::place),
        })
    }
}

fn is_position(state: &LogState) -> bool {
    matches!(state, LogState::Object(object) if object.restorable)
}

/// The maximal runs that replay can pass: dense, no gap, one incarnation.
fn runs(log: &[LogFact]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut open: Option<Run> = None;
    for entry in log {
        let life = match &entry.state {
            LogState::Object(object) => Some(object.incarnation),
            LogState::Unread => None,
            LogState::Gap(_) | LogState::Closed(_) | LogState::Missing | LogState::Damaged(_) => {
                runs.extend(open.take());
                continue;
            }
        };
        let goes_on = open.filter(|run| {
            let same = run.incarnation.is_none() || life.is_none() || run.incarnation == life;
            run.last.next() == entry.seq && same
        });
        if let Some(run) = goes_on {
            let incarnation = run.incarnation.or(life);
            open = Some(Run {
                last: entry.seq,
                incarnation,
                ..run
            });
        } else {
            runs.extend(open.take());
            open = Some(Run {
                first: entry.seq,
                last: entry.seq,
                incarnation: life,
            });
        }
    }
    runs.extend(open);
    runs
}
