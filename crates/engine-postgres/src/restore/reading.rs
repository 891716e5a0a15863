//! The log of one timeline, record by record, to the one that the target means.
//!
//! Pure: bytes go in, in order, and the target comes out once it is met.

use tidemark_format::postgres::{Lsn, SegmentSize, TimelineId};

use super::error::RestoreError;
use super::stop::{Judge, Judgement, Stop, StopFound, describe, end_before};
use crate::wal::{Event, PAGE_BYTES, Record, Scanner, Span};

/// Past a position that is the target, no more than one record may end in what is read at once.
const STEP_BYTES: u64 = 8;

/// A record on the way that replay takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) timeline: TimelineId,
    pub(super) start: Lsn,
    /// As a server that stopped there says.
    pub(super) end: Lsn,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) timeline: TimelineId,
    /// Records before it were counted on the timeline before, or belong to the base.
    pub(super) from: Lsn,
    pub(super) size: SegmentSize,
    /// The base is consistent from here on.
    pub(super) consistent: Lsn,
}

/// One timeline being read.
#[derive(Debug)]
pub(super) struct Reading {
    start: Start,
    scanner: Scanner,
    /// The last record on the timelines before.
    carried: Option<Last>,
    /// The switch that was seen last.
    switch: Option<Span>,
    /// Tablespaces that replay will make, by id and place, and nobody has looked at yet.
    made: Vec<(u32, Vec<u8>)>,
}

impl Reading {
    pub(super) const fn new(scanner: Scanner, start: Start, carried: Option<Last>) -> Self {
        Self {
            start,
            scanner,
            carried,
            switch: None,
            made: Vec::new(),
        }
    }

    /// Tablespaces that replay will make, since this was asked last.
    pub(super) fn take_made(&mut self) -> Vec<(u32, Vec<u8>)> {
        std::mem::take(&mut self.made)
    }

    /// The last whole record on the way.
    pub(super) fn last(&self) -> Option<Last> {
        match self.scanner.last() {
            Some(span) if span.start >= self.start.from => {
                let end = if self.switch == Some(span) {
                    self.segment_end(span.end)
                } else {
                    span.end
                };
                Some(Last {
                    timeline: self.start.timeline,
                    start: span.start,
                    end,
                })
            }
            _ => self.carried,
        }
    }

    /// A switch leaves the rest of its segment empty.
    const fn segment_end(&self, at: Lsn) -> Lsn {
        let size = self.start.size;
        if size.offset(at) == 0 {
            at
        } else {
            size.next(at)
        }
    }

    /// Reads log that starts at `at`, up to the target if that is in it.
    pub(super) fn read(
        &mut self,
        at: Lsn,
        bytes: &[u8],
        judge: &mut Judge,
    ) -> Result<Option<StopFound>, RestoreError> {
        let before = self.scanner.position().since(at);
        let before = usize::try_from(before).unwrap_or(usize::MAX);
        let mut rest = bytes.get(before..).unwrap_or_default();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.step_bytes(judge.stop()).min(rest.len()));
            let found = self.feed(now, judge)?;
            if found.is_some() {
                return Ok(found);
            }
            rest = later;
        }
        Ok(None)
    }

    fn step_bytes(&self, stop: &Stop) -> usize {
        let position = self.scanner.position();
        let step = match stop {
            Stop::Lsn { at, .. } if position < *at => at.since(position),
            Stop::Lsn { .. } => STEP_BYTES,
            _ => u64::MAX,
        };
        usize::try_from(step).unwrap_or(usize::MAX)
    }

    fn feed(&mut self, bytes: &[u8], judge: &mut Judge) -> Result<Option<StopFound>, RestoreError> {
        let before = self.last();
        let mut records = Vec::new();
        self.scanner
            .feed(bytes, &mut records)
            .map_err(RestoreError::Wal)?;
        let switch = |record: &&Record| record.event == Event::Switch;
        if let Some(record) = records.iter().rfind(switch) {
            self.switch = Some(record.span);
        }
        if let (Stop::Lsn { at, inclusive }, Some(last)) = (judge.stop(), self.last())
            && before != Some(last)
            && (last.start > *at || (!inclusive && last.start == *at))
        {
            let because = format!("before the record at {}", last.start);
            return self
                .stop_before(before, last.start, because, judge)
                .map(Some);
        }
        let from = self.start.from;
        // Of points of one name the newest is meant, and several may stand in one object: the planner has
        // seen to it that none of them stands in an earlier one.
        let newest = matches!(judge.stop(), Stop::Name { .. });
        let (mut named, mut last_named) = (0_u32, None);
        for record in records.iter().filter(|record| record.span.start >= from) {
            if let Event::Tablespace { oid, place } = &record.event {
                self.made.push((*oid, place.clone()));
            }
            match judge.weigh(&record.event) {
                Judgement::On => {}
                Judgement::StopAfter => {
                    let because = format!("with {}", describe(&record.event, record.span));
                    let Span { start, end } = record.span;
                    let found = judge.found(self.start.timeline, start, end, because);
                    if !newest {
                        return self.consistent(found, judge).map(Some);
                    }
                    named = named.saturating_add(1);
                    last_named = Some(found);
                }
                Judgement::StopBefore => {
                    let because = format!("before {}", describe(&record.event, record.span));
                    let previous = self.previous(record);
                    let next = record.span.start;
                    return self.stop_before(previous, next, because, judge).map(Some);
                }
            }
        }
        let Some(mut found) = last_named else {
            return Ok(None);
        };
        if named > 1 {
            found.because = format!("{}, the newest of {named} of that name", found.because);
        }
        self.consistent(found, judge).map(Some)
    }

    /// The record before `record`, on the way.
    fn previous(&self, record: &Record) -> Option<Last> {
        record
            .previous
            .filter(|span| span.start >= self.start.from)
            .map(|span| Last {
                timeline: self.start.timeline,
                start: span.start,
                end: span.end,
            })
            .or(self.carried)
    }

    /// Replay stops before the record at `next`: with the one before it.
    fn stop_before(
        &self,
        previous: Option<Last>,
        next: Lsn,
        because: String,
        judge: &Judge,
    ) -> Result<StopFound, RestoreError> {
        let previous = previous.ok_or_else(|| before_consistent(judge, self.start.consistent))?;
        // After a switch the next record says where that ended.
        let end = if previous.timeline == self.start.timeline {
            let page = Lsn(next.0 & !(PAGE_BYTES.wrapping_sub(1)));
            end_before(next, self.start.size.offset(page) == 0)
        } else {
            previous.end
        };
        let found = judge.found(previous.timeline, previous.start, end, because);
        self.consistent(found, judge)
    }

    fn consistent(&self, found: StopFound, judge: &Judge) -> Result<StopFound, RestoreError> {
        if found.end < self.start.consistent {
            return Err(before_consistent(judge, self.start.consistent));
        }
        Ok(found)
    }
}

/// The target lies before the base is usable.
pub(super) fn before_consistent(judge: &Judge, consistent: Lsn) -> RestoreError {
    RestoreError::BeforeConsistent {
        wanted: judge.stop().to_string(),
        consistent,
    }
}
