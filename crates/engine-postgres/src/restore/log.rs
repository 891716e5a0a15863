//! The log on its way to the disk, read along to find where replay is to stop.
//!
//! Every payload is checked: the same system, the same segment size, no gap and nothing twice, and a
//! timeline that descends from the one before. Each record's checksum is checked by the scanner from the
//! base's start on, so the server meets nothing that was not looked at here.
//!
//! **Timelines.** A payload of a new timeline repeats the fork's segment from its start. Log of the old
//! one past the fork is of a branch that died: what was counted or found there is void, and the log is
//! read again from the disk up to the fork.
//!
//! **Failure.** After an error the log is spent. An interrupted restore goes on with any later payload:
//! what comes before it is read from the disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemark_format::postgres::layout::Layout;
use tidemark_format::postgres::{LogRange, Lsn, SegmentSize, TimelineId};

use super::error::RestoreError;
use super::files::Files;
use super::reading::{Last, Reading, Start, before_consistent};
use super::segments::{Leg, Segments};
use super::stop::{Judge, Stop, StopFound, start_after};
use crate::timeline::History;
use crate::wal::{Scanner, Version};

/// Read back from the disk at once.
const READ_BYTES: u64 = 1 << 20;

/// What the layout says about the log.
#[derive(Debug, Clone, Copy)]
struct Base {
    system: u64,
    version: Version,
    timeline: TimelineId,
    /// The first record that is replayed.
    start: Lsn,
    /// Consistent from here on.
    stop: Lsn,
}

/// The timeline that comes in.
#[derive(Debug)]
struct Branch {
    timeline: TimelineId,
    /// The next byte.
    position: Lsn,
    /// None while the log is of a timeline before the base's.
    reading: Option<Reading>,
}

/// The log of a target.
#[derive(Debug)]
pub(super) struct Log {
    segments: Segments,
    base: Base,
    judge: Judge,
    branch: Option<Branch>,
    found: Option<StopFound>,
    histories: BTreeSet<TimelineId>,
    /// A server replays beside: it may read the log up to here.
    fed: Option<Lsn>,
}

impl Log {
    pub(super) fn new(
        files: Arc<Files>,
        layout: &Layout,
        stop: Stop,
    ) -> Result<Self, RestoreError> {
        let differs = |why: String| RestoreError::LayoutDiffers { why };
        let size = SegmentSize::new(layout.segment_bytes)
            .ok_or_else(|| differs("the segment size is not one of PostgreSQL's".to_owned()))?;
        let version = Version::of_major(layout.major)
            .ok_or_else(|| differs(format!("PostgreSQL {} is unknown", layout.major)))?;
        Ok(Self {
            segments: Segments::new(files, size),
            base: Base {
                system: layout.system,
                version,
                timeline: layout.start.timeline,
                start: layout.start.lsn,
                stop: layout.stop.lsn,
            },
            judge: Judge::new(stop),
            branch: None,
            found: None,
            histories: BTreeSet::new(),
            fed: None,
        })
    }

    /// The record that the target means, once it is known.
    pub(super) const fn found(&self) -> Option<&StopFound> {
        self.found.as_ref()
    }

    const fn size(&self) -> SegmentSize {
        self.segments.size()
    }

    /// Takes the next payload.
    pub(super) fn apply(&mut self, payload: &[u8]) -> Result<(), RestoreError> {
        let range = LogRange::decode(payload).map_err(RestoreError::Payload)?;
        if range.system != self.base.system {
            return Err(RestoreError::OtherSystem {
                expected: self.base.system,
                found: range.system,
            });
        }
        if range.segment != self.size() {
            return Err(RestoreError::OtherSegments {
                expected: self.size().bytes(),
                found: range.segment.bytes(),
            });
        }
        self.take_histories(&range)?;
        match self.branch.as_ref().map(|branch| branch.timeline) {
            None => self.join(&range)?,
            Some(timeline) if timeline == range.timeline => {}
            Some(timeline) if timeline > range.timeline => {
                return Err(RestoreError::NotADescendant {
                    timeline: range.timeline,
                    parent: timeline,
                    at: self.position(),
                });
            }
            Some(_) if self.fed.is_some() => {
                return Err(RestoreError::Contract(
                    "a timeline that nobody announced, while a server replays",
                ));
            }
            Some(_) => self.switch(&range)?,
        }
        if self.found.is_some() {
            return Ok(());
        }
        self.append(&range)
    }

    fn position(&self) -> Lsn {
        self.branch
            .as_ref()
            .map_or(Lsn(0), |branch| branch.position)
    }

    fn take_histories(&mut self, range: &LogRange<'_>) -> Result<(), RestoreError> {
        for file in &range.histories {
            History::parse(file.timeline, file.bytes).map_err(RestoreError::History)?;
            self.segments.history(file.timeline, file.bytes)?;
            self.histories.insert(file.timeline);
        }
        Ok(())
    }

    fn append(&mut self, range: &LogRange<'_>) -> Result<(), RestoreError> {
        let at = self.position();
        let (timeline, start) = (range.timeline, range.start);
        if start > at {
            return Err(RestoreError::Gap {
                timeline,
                from: at,
                to: start,
            });
        }
        if start < at {
            return Err(RestoreError::Overlap {
                timeline,
                at,
                start,
            });
        }
        self.segments.write(timeline, start, range.bytes)?;
        self.read(start, range.bytes)?;
        if let Some(branch) = &mut self.branch {
            branch.position = range.end();
        }
        Ok(())
    }

    /// The first payload of this run.
    fn join(&mut self, range: &LogRange<'_>) -> Result<(), RestoreError> {
        let base = self.base;
        if range.timeline < base.timeline {
            // The base was begun while the log was still on the timeline before.
            self.branch = Some(Branch {
                timeline: range.timeline,
                position: range.start,
                reading: None,
            });
            return Ok(());
        }
        self.history_of(base.timeline)?;
        if range.timeline == base.timeline && range.start <= base.start {
            self.segments
                .begin(base.timeline, range.start, base.system, base.version)?;
            self.branch = Some(self.base_branch(range.start));
            return Ok(());
        }
        // An earlier run wrote what comes before.
        let legs = self.way_to(range.timeline, range.start)?;
        self.catch_up(&legs)
    }

    /// The base's own timeline, `position` being the next byte to come.
    fn base_branch(&self, position: Lsn) -> Branch {
        let base = self.base;
        let scanner = Scanner::at_record(base.timeline, self.size(), base.start, base.version);
        Branch {
            timeline: base.timeline,
            position,
            reading: Some(Reading::new(
                scanner,
                self.start_of(base.timeline, base.start),
                None,
            )),
        }
    }

    /// A timeline that left its parent at `fork`.
    fn branch_from(&self, timeline: TimelineId, fork: Lsn, carried: Option<Last>) -> Branch {
        let scanner = Scanner::new(timeline, self.size(), fork);
        Branch {
            timeline,
            position: self.size().start(fork),
            reading: Some(Reading::new(
                scanner,
                self.start_of(timeline, fork),
                carried,
            )),
        }
    }

    const fn start_of(&self, timeline: TimelineId, from: Lsn) -> Start {
        Start {
            timeline,
            from,
            size: self.size(),
            consistent: self.base.stop,
        }
    }

    fn history_of(&self, timeline: TimelineId) -> Result<History, RestoreError> {
        if timeline == TimelineId::FIRST {
            return Ok(History::first());
        }
        let bytes = self.segments.read_history(timeline)?;
        let bytes = bytes.ok_or(RestoreError::HistoryMissing { timeline })?;
        History::parse(timeline, &bytes).map_err(RestoreError::History)
    }

    /// The way from the base's start to `to` on `timeline`, a leg for every timeline.
    fn way_to(&self, timeline: TimelineId, to: Lsn) -> Result<Vec<Leg>, RestoreError> {
        let base = self.base;
        let history = self.history_of(timeline)?;
        if !history.continues(base.timeline, base.stop) {
            return Err(RestoreError::NotADescendant {
                timeline,
                parent: base.timeline,
                at: base.stop,
            });
        }
        let mut legs = Vec::new();
        let mut from = base.start;
        for fork in history.forks() {
            if fork.parent < base.timeline {
                continue;
            }
            // One that was left where it began has no log.
            if from < fork.at {
                legs.push(Leg {
                    timeline: fork.parent,
                    from,
                    to: fork.at,
                });
            }
            from = fork.at;
        }
        legs.push(Leg { timeline, from, to });
        Ok(legs)
    }

    /// Reads from the disk what was written before, from the base's start to the end of the last leg.
    fn catch_up(&mut self, legs: &[Leg]) -> Result<(), RestoreError> {
        self.judge.restart();
        self.found = None;
        self.branch = None;
        for leg in legs {
            let branch = if leg.timeline == self.base.timeline {
                self.base_branch(self.base.start)
            } else {
                self.branch_from(leg.timeline, leg.from, self.last())
            };
            let mut at = branch.position;
            self.branch = Some(branch);
            // Of points of one name the newest is meant.
            let newest = matches!(self.judge.stop(), Stop::Name { .. });
            while at < leg.to && (newest || self.found.is_none()) {
                let before = self.found.take();
                let now = leg.to.since(at).min(READ_BYTES);
                let mut bytes = vec![0; usize::try_from(now).unwrap_or(0)];
                let is_there = self.segments.read(leg.timeline, at, &mut bytes)?;
                let read = is_there.then(|| self.read(at, &bytes));
                match read {
                    Some(Ok(())) => {}
                    // What no earlier run wrote is zeros, or not there at all.
                    Some(Err(RestoreError::Wal(_))) | None => {
                        return Err(RestoreError::Gap {
                            timeline: leg.timeline,
                            from: self.last().map_or(leg.from, |last| last.end),
                            to: leg.to,
                        });
                    }
                    Some(Err(error)) => return Err(error),
                }
                self.found = self.found.take().or(before);
                at = at.plus(now);
            }
            if let Some(branch) = &mut self.branch {
                branch.position = at;
            }
            if self.found.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A payload of a later timeline comes.
    fn switch(&mut self, range: &LogRange<'_>) -> Result<(), RestoreError> {
        let Some((parent, position, is_read)) = self
            .branch
            .as_ref()
            .map(|branch| (branch.timeline, branch.position, branch.reading.is_some()))
        else {
            return Err(RestoreError::Contract("no timeline to leave"));
        };
        let timeline = range.timeline;
        if !is_read && timeline <= self.base.timeline {
            self.branch = None;
            return self.join(range);
        }
        let history = self.history_of(timeline)?;
        let forks = history.forks();
        let fork = history
            .left_at(parent)
            .ok_or(RestoreError::NotADescendant {
                timeline,
                parent,
                at: position,
            })?;
        if self.found.as_ref().is_some_and(|found| found.end <= fork) {
            return Ok(());
        }
        let base = self.base;
        if !history.continues(base.timeline, base.stop) {
            return Err(RestoreError::NotADescendant {
                timeline,
                parent: base.timeline,
                at: base.stop,
            });
        }
        // Timelines between that never wrote anything are nothing to miss.
        let through = forks.last().map_or(fork, |last| last.at);
        if position < fork || through > fork {
            return Err(RestoreError::Gap {
                timeline: parent,
                from: position.min(fork),
                to: through,
            });
        }
        if self.last().is_some_and(|last| last.end > fork) || self.found.is_some() {
            // The old timeline went on past the fork: that branch is dead.
            let mut legs = self.way_to(timeline, self.size().start(fork))?;
            legs.pop();
            self.catch_up(&legs)?;
            if self.found.is_some() {
                return Ok(());
            }
        }
        self.branch = Some(self.branch_from(timeline, fork, self.last()));
        Ok(())
    }

    /// The last whole record on the way.
    fn last(&self) -> Option<Last> {
        self.branch.as_ref()?.reading.as_ref()?.last()
    }

    /// Reads log that starts at `at`: up to the target if that is in it.
    fn read(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), RestoreError> {
        let reading = self
            .branch
            .as_mut()
            .and_then(|branch| branch.reading.as_mut());
        if let Some(reading) = reading.filter(|_| self.found.is_none()) {
            self.found = reading.read(at, bytes, &mut self.judge)?;
            for (oid, place) in reading.take_made() {
                self.segments.files().take_made(oid, &place)?;
            }
        }
        Ok(())
    }

    fn timeline(&self) -> TimelineId {
        self.branch
            .as_ref()
            .map_or(self.base.timeline, |branch| branch.timeline)
    }

    /// Marks the segments that replay passes whatever comes; whether there are any.
    pub(super) fn feed(&mut self) -> Result<bool, RestoreError> {
        let base = self.base;
        let settled = match (&self.found, self.last()) {
            (Some(found), _) => Some((found.timeline, found.start)),
            (None, Some(last)) => Some((last.timeline, last.start)),
            (None, None) => None,
        };
        let settled = settled.filter(|(timeline, _)| *timeline == base.timeline);
        let settled = settled.map_or(Lsn(0), |(_, start)| start);
        let mut next = self.fed.unwrap_or_else(|| self.size().start(base.start));
        while self.size().next(next) <= settled {
            if self.fed.is_none() {
                self.segments.begin_feed()?;
            }
            self.segments.feed(base.timeline, next)?;
            next = self.size().next(next);
            self.fed = Some(next);
        }
        Ok(self.fed.is_some())
    }

    /// No more log comes: the target as found, and nothing else in the folder of the log. A server that
    /// replays meanwhile finds nothing behind the target.
    pub(super) fn conclude(&mut self) -> Result<StopFound, RestoreError> {
        let found = match &self.found {
            Some(found) => found.clone(),
            None => self.at_the_end()?,
        };
        let to = match self.fed {
            Some(fed) if found.start < fed || found.timeline != self.timeline() => {
                return Err(RestoreError::Contract(
                    "a target behind which a server may have replayed",
                ));
            }
            Some(_) => found.end,
            None => self.position(),
        };
        let legs = self.way_to(self.timeline(), to)?;
        let mut timelines = self.histories.clone();
        timelines.extend(legs.iter().map(|leg| leg.timeline));
        timelines.extend(
            self.history_of(self.timeline())?
                .forks()
                .iter()
                .map(|fork| fork.parent),
        );
        self.segments.tidy(&legs, &timelines)?;
        if self.fed.is_some() {
            self.segments.end_feed()?;
        }
        Ok(found)
    }

    /// The target was not met: it lies at the end, or past it.
    fn at_the_end(&self) -> Result<StopFound, RestoreError> {
        let last = self.last().ok_or(RestoreError::NoLog)?;
        let first_of_segment = self.size().offset(last.end) == 0;
        let is_met = match self.judge.stop() {
            Stop::End | Stop::AtOrBefore(_) | Stop::Before(_) => true,
            Stop::Lsn { at, .. } => *at <= start_after(last.end, first_of_segment),
            Stop::Xid { .. } | Stop::Name { .. } => false,
        };
        if !is_met {
            return Err(RestoreError::NotReached {
                wanted: self.judge.stop().to_string(),
                ends: last.end,
                timeline: last.timeline,
            });
        }
        if last.end < self.base.stop {
            return Err(before_consistent(&self.judge, self.base.stop));
        }
        let because = "with the last record of the log".to_owned();
        Ok(self
            .judge
            .found(last.timeline, last.start, last.end, because))
    }
}
