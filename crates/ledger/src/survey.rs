//! What is known of a source for a decision: names of the whole log, and the heads that were read.
//!
//! A long history has hundreds of thousands of log objects, and a head costs a request. So the heads
//! that can't matter stay unread (`planner` may pass them and never ends there), and what a plan uses
//! is read in full before anybody acts on it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use jiff::Timestamp;
use tidemark_format::heads::{BaseRef, LogHead};
use tidemark_format::{Epoch, Hash, LogSeq, SessionId, keys};
use tidemark_planner::restore::{
    BaseFact, CaughtUp, Damage, EpochFacts, Facts, LogFact, LogState, PointFact, Told, Voucher,
};

use crate::history::Standing;
use crate::timeline::{EpochView, Lack, Place, Timeline};
use crate::{Result, Verified};

/// A gap object has no body: anything larger is none.
const GAP_OBJECT_BYTES_MAX: u64 = 3072;
/// Heads read at once while looking for a restorable one.
const LOOK_BACK: u64 = 16;
/// Heads read at once while looking for a place in a server's log.
const LOOK_FAR: u64 = 512;

/// How much of the history a decision is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of it: `list`, and a restore to a time. Wants all recovery points loaded: they tell where
    /// no gap can be.
    Whole,
    /// What follows the newest base: the rest stays unread unless a plan comes to use it.
    Newest,
}

/// A timeline and the heads read so far.
#[derive(Debug)]
pub struct Survey<'a> {
    timeline: &'a Timeline,
    known: BTreeMap<(Epoch, LogSeq), Place>,
    avoid: Avoid,
}

/// What a plan must do without: what turned out to have no good copy anywhere although its head has,
/// found while restoring, and what the identity doesn't open.
#[derive(Debug, Clone, Default)]
pub struct Avoid {
    /// Sessions that were not sealed to the identity.
    pub closed: BTreeSet<SessionId>,
    /// Links of bases.
    pub bases: Vec<Hash>,
    /// Log objects, with what is wrong with them.
    pub log: BTreeMap<(Epoch, LogSeq), String>,
}

impl<'a> Survey<'a> {
    /// Reads what every decision needs: gaps, bases' ends, the unsealed tail, the ends of runs.
    ///
    /// # Errors
    /// No region can be read.
    pub async fn new(timeline: &'a Timeline, avoid: &Avoid, scope: Scope) -> Result<Self> {
        let mut survey = Self {
            timeline,
            known: BTreeMap::new(),
            avoid: avoid.clone(),
        };
        for view in timeline.epochs() {
            survey.look(view, scope).await?;
        }
        // What stands on both sides of a hole is where one can go instead.
        for (epoch, seq) in avoid.log.keys().copied() {
            if let Some(before) = seq.previous() {
                survey.back_to_a_commit(epoch, before).await?;
            }
            survey.on_to_a_position(epoch, seq.next()).await?;
        }
        Ok(survey)
    }

    async fn look(&mut self, view: &EpochView, scope: Scope) -> Result<()> {
        let epoch = view.epoch;
        let newest = view.bases.last().map_or(LogSeq(0), |base| base.head.start);
        let from = match scope {
            Scope::Whole => LogSeq(0),
            Scope::Newest => newest,
        };
        let small = view
            .names
            .range(from..)
            .filter(|(_, size)| **size <= GAP_OBJECT_BYTES_MAX);
        for seq in small.map(|(seq, _)| *seq) {
            if !is_between_points_of_one_base(view, seq) {
                self.read(epoch, seq..seq.next()).await?;
            }
        }
        for base in view.bases.iter().filter(|base| base.head.start >= from) {
            let seq = base.head.usable_from;
            self.back_to_a_commit(epoch, seq).await?;
        }
        for run in dense_runs(view) {
            self.back_to_a_commit(epoch, run.end.previous().unwrap_or(run.start))
                .await?;
        }
        if let Some(last) = view.names.keys().next_back() {
            let sealed = view
                .points
                .last()
                .map_or(LogSeq(0), |point| point.head.log_seq);
            self.read(epoch, sealed..last.next()).await?;
            self.back_to_a_commit(epoch, sealed).await?;
        }
        Ok(())
    }

    /// Reads heads from `seq` down until one is a restore position that tells its time.
    ///
    /// # Errors
    /// No region can be read.
    pub async fn back_to_a_commit(&mut self, epoch: Epoch, seq: LogSeq) -> Result<()> {
        let mut end = seq.next();
        while end > LogSeq(0) {
            let from = LogSeq(end.0.saturating_sub(LOOK_BACK));
            self.read(epoch, from..end).await?;
            let range = (epoch, from)..(epoch, end);
            let told = self.known.range(range).any(|(_, place)| {
                place.found.as_ref().is_none_or(|object| {
                    object.head.restorable && object.head.last_commit.is_some()
                })
            });
            if told {
                return Ok(());
            }
            end = from;
        }
        Ok(())
    }

    /// Reads heads from `seq` on until one is a restore position.
    ///
    /// # Errors
    /// No region can be read.
    pub async fn on_to_a_position(&mut self, epoch: Epoch, seq: LogSeq) -> Result<()> {
        let Some(last) = self
            .timeline
            .epoch(epoch)
            .and_then(|view| view.names.keys().next_back())
        else {
            return Ok(());
        };
        let mut from = seq;
        while from <= *last {
            let end = LogSeq(from.0.saturating_add(LOOK_BACK)).min(last.next());
            self.read(epoch, from..end).await?;
            let mut places = self.known.range((epoch, from)..(epoch, end));
            if places.any(|(_, place)| place.found.as_ref().is_none_or(|o| o.head.restorable)) {
                return Ok(());
            }
            from = end;
        }
        Ok(())
    }

    /// Reads the heads around an instant: between the last recovery point before it and the first
    /// after it, in every epoch.
    ///
    /// # Errors
    /// No region can be read.
    pub async fn around(&mut self, at: Timestamp) -> Result<()> {
        for view in self.timeline.epochs() {
            let later = view
                .points
                .partition_point(|point| point.head.committed < at);
            let from = later
                .checked_sub(1)
                .and_then(|before| view.points.get(before));
            let from = from.map_or(LogSeq(0), |point| point.head.log_seq);
            // The first point past the instant covers it; one more, for the object after the end.
            let to = view
                .points
                .get(later)
                .map(|point| point.head.log_seq.next());
            let last = view
                .names
                .keys()
                .next_back()
                .map_or(LogSeq(0), |last| last.next());
            let to = to.map_or(last, |to| to.next().min(last));
            self.read(view.epoch, from..to).await?;
            self.back_to_a_commit(view.epoch, from).await?;
        }
        Ok(())
    }

    /// Reads on from a place until a head tells of a commit past an instant.
    ///
    /// # Errors
    /// No region can be read.
    pub async fn on_past(&mut self, at: Timestamp) -> Result<()> {
        for view in self.timeline.epochs() {
            let after = |(_, place): (_, &Place)| {
                let found = place.found.as_ref();
                found.is_some_and(|object| object.head.last_commit.is_some_and(|last| last <= at))
            };
            let epoch = view.epoch;
            let whole = (epoch, LogSeq(0))..=(epoch, LogSeq(u64::MAX));
            let before = self
                .known
                .range(whole)
                .rev()
                .find(|known| after((known.0, known.1)));
            let mut from = before.map_or(LogSeq(0), |((_, seq), _)| seq.next());
            let last = view.names.keys().next_back().copied();
            while last.is_some_and(|last| from <= last) {
                let end = LogSeq(from.0.saturating_add(LOOK_BACK));
                self.read(epoch, from..end).await?;
                let mut read = self.known.range((epoch, from)..(epoch, end));
                if read.any(|(_, place)| {
                    let found = place.found.as_ref();
                    found.is_none_or(|object| object.head.last_commit.is_some_and(|last| last > at))
                }) {
                    break;
                }
                from = end;
            }
        }
        Ok(())
    }

    /// Reads heads from the newest back until `enough` says so of one; else all of them.
    ///
    /// # Errors
    /// No region can be read.
    pub async fn back_until(&mut self, enough: impl Fn(&LogHead) -> bool) -> Result<()> {
        for view in self.timeline.epochs().iter().rev() {
            let epoch = view.epoch;
            let last = view.names.keys().next_back();
            let mut end = last.map_or(LogSeq(0), |last| last.next());
            while end > LogSeq(0) {
                let from = LogSeq(end.0.saturating_sub(LOOK_FAR));
                self.read(epoch, from..end).await?;
                let mut read = self.known.range((epoch, from)..(epoch, end));
                if read.any(|(_, place)| place.found.as_ref().is_some_and(|o| enough(&o.head))) {
                    return Ok(());
                }
                end = from;
            }
        }
        Ok(())
    }

    /// Reads the heads of a range that aren't known yet.
    ///
    /// # Errors
    /// No region can be read.
    pub async fn read(&mut self, epoch: Epoch, range: Range<LogSeq>) -> Result<()> {
        let Some(view) = self.timeline.epoch(epoch) else {
            return Ok(());
        };
        let mut wanted: Vec<Range<LogSeq>> = Vec::new();
        for seq in view.names.range(range).map(|(seq, _)| *seq) {
            if self.known.contains_key(&(epoch, seq)) {
                continue;
            }
            match wanted.last_mut() {
                Some(span) if span.end == seq => span.end = seq.next(),
                _ => wanted.push(seq..seq.next()),
            }
        }
        for span in wanted {
            for place in self.timeline.log(epoch, span).await? {
                self.known.insert((epoch, place.seq), place);
            }
        }
        Ok(())
    }

    /// Reads a range as one, so that every link in it is checked, and replaces what was known.
    ///
    /// # Errors
    /// No region can be read.
    pub async fn settle(&mut self, epoch: Epoch, range: Range<LogSeq>) -> Result<Vec<Place>> {
        let places = self.timeline.log(epoch, range).await?;
        for place in &places {
            self.known.insert((epoch, place.seq), place.clone());
        }
        Ok(places)
    }

    /// Bases that would serve and don't, because something is there and wrong; each with the reason.
    #[must_use]
    pub fn damaged_bases(&self) -> Vec<String> {
        let troubles = self.timeline.troubles();
        let of_base = troubles.filter(|(_, trouble)| trouble.key.starts_with("meta/base/"));
        of_base
            .map(|(region, trouble)| {
                let why = tidemark_storage::chain(trouble.error.as_ref());
                format!("{region}: {}: {why}", trouble.key)
            })
            .collect()
    }

    /// Bases that no region has although something signed names them: the newest recovery point, or
    /// a base that builds on them.
    #[must_use]
    pub fn missing_bases(&self) -> Vec<String> {
        let epochs = self.timeline.epochs();
        let here = |link: Hash| {
            let mut all = epochs.iter().flat_map(|view| &view.bases);
            all.any(|base| base.link == link)
        };
        let newest = epochs.iter().rev().find_map(|view| view.points.last());
        let by_point = newest.map(|point| {
            let head = &point.head;
            let who = "the newest recovery point".to_owned();
            (head.base, (&head.source, head.epoch), who)
        });
        let by_child = epochs
            .iter()
            .flat_map(|view| &view.bases)
            .filter_map(|base| {
                let head = &base.head;
                Some((
                    head.parent?,
                    (&head.source, head.epoch),
                    base.key.to_string(),
                ))
            });
        let mut lines: BTreeMap<String, String> = BTreeMap::new();
        for (base, (source, epoch), who) in by_point.into_iter().chain(by_child) {
            let BaseRef {
                generation,
                number,
                link,
            } = base;
            if !here(link) {
                let key = keys::base(source, epoch, generation, number).to_string();
                lines.entry(key).or_insert(who);
            }
        }
        let told = lines
            .into_iter()
            .map(|(key, who)| format!("{key}, which {who} names, is not there"));
        told.collect()
    }

    /// A place that was read.
    #[must_use]
    pub fn place(&self, epoch: Epoch, seq: LogSeq) -> Option<&Place> {
        self.known.get(&(epoch, seq))
    }

    /// The heads that were read, oldest first.
    pub fn heads(&self) -> impl DoubleEndedIterator<Item = &Verified<LogHead>> {
        self.known.values().filter_map(|place| place.found.as_ref())
    }

    /// Places that were looked at and have no good copy anywhere.
    pub fn lost(&self) -> impl Iterator<Item = (Epoch, LogSeq)> {
        let lost = self.known.iter().filter(|(_, place)| place.found.is_none());
        lost.map(|(place, _)| *place)
    }

    /// Whether the identity is known not to open what a session sealed.
    #[must_use]
    pub fn is_closed(&self, session: Option<SessionId>) -> bool {
        session.is_some_and(|session| self.avoid.closed.contains(&session))
    }

    /// Leaves a base out.
    pub fn avoid(&mut self, link: Hash) {
        self.avoid.bases.push(link);
    }

    /// The last restore position before `seq` among the heads read.
    #[must_use]
    pub fn position_before(&self, epoch: Epoch, seq: LogSeq) -> Option<LogSeq> {
        let mut before = self.known.range((epoch, LogSeq(0))..(epoch, seq)).rev();
        before
            .find(|(_, place)| {
                place
                    .found
                    .as_ref()
                    .is_some_and(|object| object.head.restorable)
            })
            .map(|((_, seq), _)| *seq)
    }

    /// Everything known, as `planner` takes it.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let epochs = self
            .timeline
            .epochs()
            .iter()
            .map(|view| self.epoch(view))
            .collect();
        let beat = self.timeline.caught_up().filter(|beat| beat.here);
        let caught_up = beat.and_then(|beat| {
            Some(CaughtUp {
                log_seq: beat.log_seq,
                at: beat.at?,
            })
        });
        Facts { epochs, caught_up }
    }

    fn epoch(&self, view: &EpochView) -> EpochFacts {
        let mut log: Vec<LogFact> = view
            .names
            .iter()
            .map(|(seq, size)| self.entry(view, *seq, *size))
            .collect();
        // An epoch that ended further on than any region shows has lost its end.
        if let Standing::Ended { last, .. } = view.standing
            && log.last().is_none_or(|entry| entry.seq < last)
        {
            log.push(LogFact {
                seq: last,
                bytes: 0,
                state: LogState::Missing,
            });
        }
        let mut bases = view
            .bases
            .iter()
            .filter(|base| !self.avoid.bases.contains(&base.link));
        let whole = (view.epoch, LogSeq(0))..=(view.epoch, LogSeq(u64::MAX));
        let told = self.known.range(whole).filter_map(|((_, seq), place)| {
            let head = &place.found.as_ref()?.head;
            Some((*seq, Told::read(head)?))
        });
        EpochFacts {
            epoch: view.epoch,
            divisible: self.timeline.is_divisible(),
            told: told.collect(),
            log,
            bases: bases
                .by_ref()
                .map(|base| BaseFact {
                    opens: !self.is_closed(Some(base.head.session)),
                    ..BaseFact::read(&base.head)
                })
                .collect(),
            points: view
                .points
                .iter()
                .map(|point| PointFact::read(&point.head))
                .collect(),
        }
    }

    fn entry(&self, view: &EpochView, seq: LogSeq, bytes: u64) -> LogFact {
        let state = |state| LogFact { seq, bytes, state };
        let place = (view.epoch, seq);
        if let Some(why) = self.avoid.log.get(&place) {
            // Its head was whole: the log went on there.
            let vouched = Some(Voucher::ItsHead);
            let why = why.clone();
            return state(LogState::Damaged(Damage { why, vouched }));
        }
        let Some(place) = self.known.get(&place) else {
            return state(LogState::Unread);
        };
        match &place.found {
            Some(Verified { head, size, .. }) if self.is_closed(head.session) => {
                LogFact::read(head, *size).closed()
            }
            Some(Verified { head, size, .. }) => LogFact::read(head, *size),
            None if place.is_damaged() => state(LogState::Damaged(Damage {
                why: place.told(),
                vouched: self.voucher(view, place),
            })),
            None => state(LogState::Missing),
        }
    }

    /// What says of a damaged object that the log went on there.
    fn voucher(&self, view: &EpochView, place: &Place) -> Option<Voucher> {
        let seq = place.seq;
        let lacks = |wanted: &[Lack]| {
            let troubles = place.troubles.iter();
            troubles.filter(|one| wanted.contains(&one.lack)).count()
        };
        let mut beats = self.timeline.beats();
        if view.points.iter().any(|point| point.head.log_seq >= seq) {
            Some(Voucher::Point)
        } else if view.bases.iter().any(|base| base.head.usable_from >= seq) {
            Some(Voucher::Base)
        } else if lacks(&[Lack::Cut]) > 0 {
            Some(Voucher::ItsHead)
        } else if beats.any(|beat| beat.epoch == view.epoch && beat.log_seq >= seq) {
            Some(Voucher::Beat)
        } else if lacks(&[Lack::Unreadable, Lack::Unlinked]) > 1 {
            Some(Voucher::Regions)
        } else {
            None
        }
    }
}

/// Runs of names without a hole.
fn dense_runs(view: &EpochView) -> Vec<Range<LogSeq>> {
    let mut runs: Vec<Range<LogSeq>> = Vec::new();
    for seq in view.names.keys().copied() {
        match runs.last_mut() {
            Some(run) if run.end == seq => run.end = seq.next(),
            _ => runs.push(seq..seq.next()),
        }
    }
    runs
}

/// The agent seals no two points that rest on one base across a gap.
fn is_between_points_of_one_base(view: &EpochView, seq: LogSeq) -> bool {
    let after = view
        .points
        .partition_point(|point| point.head.log_seq < seq);
    let before = after.checked_sub(1).and_then(|at| view.points.get(at));
    match (before, view.points.get(after)) {
        (Some(before), Some(after)) => before.head.base == after.head.base,
        _ => false,
    }
}
