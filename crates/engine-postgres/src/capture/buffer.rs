//! Log that was received and not cut yet: bounded, in order, per timeline.
//!
//! Pure. Bytes come in by [`Buffer::append`] and go out by [`Buffer::take`], in pieces that never mix
//! timelines. Beside them it keeps what a cut says about itself: where its last whole record stands,
//! how many commits are in it and when, and the hash of its segment up to its end.
//!
//! **Invariants.** Pieces of one timeline append to one another. A new timeline begins at the start of a
//! segment, with bytes that have to be those of its parent. A transaction is counted once, however often
//! its bytes come.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tidemark_format::postgres::{Lsn, SegmentSize, TimelineId};

use super::record::{Cursor, Mark, SegmentHash, nothing};
use super::summary::Summary;
use crate::wal::{Record, Scanner, Span};

/// Bytes of a chunk: cuts end where chunks end.
const CHUNK_BYTES: usize = 256 << 10;
/// A chunk that begins with as much is given its room at once: more comes.
const STREAM_BYTES: usize = 64 << 10;

/// History files, ascending.
pub(crate) type Histories = Arc<[(TimelineId, Bytes)]>;

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    end: Lsn,
    last: Option<Span>,
    /// The hash up to its end; known once the next chunk begins.
    hash: Option<SegmentHash>,
    since: Timestamp,
    summary: Summary,
}

/// What is waiting on one timeline.
#[derive(Debug)]
struct Run {
    timeline: TimelineId,
    /// None until the server was asked.
    histories: Option<Histories>,
    /// The next cut says them.
    tell_histories: bool,
    /// Where the next cut begins, and the hash up to there.
    at: Mark,
    /// The last whole record before it.
    last: Option<Span>,
    /// The next byte wanted.
    end: Lsn,
    chunks: VecDeque<Chunk>,
}

/// Bytes that came are not those that came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OtherBytes {
    /// Up to where they were compared.
    pub(crate) at: Lsn,
}

/// Where the stream has to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tip {
    /// The branch.
    pub(crate) timeline: TimelineId,
    /// The next byte, and the hash up to it.
    pub(crate) mark: Mark,
}

impl Tip {
    pub(crate) const fn at(&self) -> Lsn {
        Lsn(self.mark.at)
    }
}

/// What was found in bytes of the log.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Scanned<'a> {
    /// The last record that is whole in them or before them.
    pub(crate) last: Option<Span>,
    /// The end of the last one that somebody may miss.
    pub(crate) loud: Option<Lsn>,
    /// Those that mean something, in them.
    pub(crate) found: &'a [Record],
}

impl<'a> Scanned<'a> {
    /// After `scanner` has seen the bytes and found what is in `found`.
    pub(crate) const fn by(scanner: &Scanner, found: &'a [Record]) -> Self {
        Self {
            last: scanner.last(),
            loud: scanner.loud(),
            found,
        }
    }
}

/// A piece of the log, taken out to be cut.
#[derive(Debug)]
pub(crate) struct Piece {
    /// The branch.
    pub(crate) timeline: TimelineId,
    /// Its first byte.
    pub(crate) start: Lsn,
    /// The last whole record that ends in it or before it.
    pub(crate) last: Option<Span>,
    /// To be told with it.
    pub(crate) histories: Option<Histories>,
    /// What its records mean.
    pub(crate) summary: Summary,
    /// Whether it is a state the database was in, and no earlier one than was cut before.
    pub(crate) restorable: bool,
    /// Where capture stands after it.
    pub(crate) cursor: Cursor,
}

/// Log that waits to be cut.
#[derive(Debug)]
pub(crate) struct Buffer {
    system: u64,
    segment: SegmentSize,
    runs: VecDeque<Run>,
    /// Of the last run's segment up to its end; none until the bytes before were seen again.
    hasher: Option<blake3::Hasher>,
    /// The hash at the last run's end while there is no hasher.
    known: SegmentHash,
    bytes: usize,
    /// Up to here the bytes have to be as they were.
    again: Option<Mark>,
    /// The furthest end of any cut.
    high: Lsn,
    /// The furthest byte that ever came: transactions before it are counted.
    counted: Lsn,
    /// The end of the last record that somebody may miss.
    loud: Lsn,
    latest_commit: Option<Timestamp>,
}

impl Buffer {
    /// An empty buffer that goes on after `cursor`.
    pub(crate) fn after(cursor: &Cursor) -> Self {
        let run = Run {
            timeline: cursor.timeline(),
            histories: None,
            tell_histories: false,
            at: cursor.end,
            last: cursor.last(),
            end: cursor.end(),
            chunks: VecDeque::new(),
        };
        Self {
            system: cursor.system,
            segment: cursor.segment(),
            runs: VecDeque::from([run]),
            hasher: None,
            known: cursor.end.hash,
            bytes: 0,
            again: cursor.again.filter(|again| again.at > cursor.end.at),
            high: Lsn(cursor.high),
            counted: Lsn(cursor.high.max(cursor.end.at)),
            loud: Lsn(0),
            latest_commit: cursor.latest_commit,
        }
    }

    fn back(&mut self) -> Option<&mut Run> {
        self.runs.back_mut()
    }

    /// Where the stream has to go on.
    pub(crate) fn tip(&self) -> Tip {
        Tip {
            timeline: self
                .runs
                .back()
                .map_or(TimelineId::FIRST, |run| run.timeline),
            mark: Mark {
                at: self.received().0,
                hash: self.hash(),
            },
        }
    }

    /// The hash at the end.
    fn hash(&self) -> SegmentHash {
        self.hasher
            .as_ref()
            .map_or(self.known, |hasher| hasher.finalize().into())
    }

    /// The database system.
    pub(crate) const fn system(&self) -> u64 {
        self.system
    }

    /// Bytes of a segment.
    pub(crate) const fn segment(&self) -> SegmentSize {
        self.segment
    }

    /// Bytes that wait.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that wait for the next cut.
    pub(crate) fn next_bytes(&self, max: usize) -> usize {
        let front = self.runs.iter().find(|run| !run.chunks.is_empty());
        let bytes = front.map_or(0, |run| {
            run.chunks.iter().map(|chunk| chunk.bytes.len()).sum()
        });
        bytes.min(max)
    }

    /// Whether nobody would miss what waits: only the server keeps house in it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.runs.len() == 1
            && self
                .runs
                .front()
                .is_some_and(|run| self.loud <= Lsn(run.at.at))
    }

    /// Whether a cut should not wait: its bound is reached, a timeline's rest waits, or the server stops
    /// and waits for us.
    pub(crate) fn is_due(&self, max: usize) -> bool {
        let stopped = self
            .runs
            .back()
            .and_then(|run| run.chunks.back())
            .is_some_and(|chunk| chunk.summary.shutdown);
        self.bytes >= max || stopped || self.runs.len() > 1 && self.bytes > 0
    }

    /// When the oldest byte came.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.runs
            .iter()
            .flat_map(|run| run.chunks.front())
            .map(|chunk| chunk.since)
            .next()
    }

    /// Whether bytes that were cut before come again.
    pub(crate) fn is_behind(&self) -> bool {
        self.received() < self.high
    }

    /// Everything received on the newest branch.
    pub(crate) fn received(&self) -> Lsn {
        self.runs.back().map_or(Lsn(0), |run| run.end)
    }

    /// The last whole record before the tip.
    pub(crate) fn last(&self) -> Option<Span> {
        let run = self.runs.back()?;
        run.chunks.back().map_or(run.last, |chunk| chunk.last)
    }

    /// The segment's bytes up to the tip were seen again: `hasher` ran over them, and `last` is the last
    /// whole record among them.
    pub(crate) fn resume(&mut self, hasher: blake3::Hasher, last: Option<Span>) {
        self.hasher = Some(hasher);
        if let Some(run) = self.back()
            && run.chunks.is_empty()
        {
            run.last = last.or(run.last);
        }
    }

    /// The history of the branch that streams.
    pub(crate) fn set_histories(&mut self, histories: Histories) {
        if let Some(run) = self.back() {
            run.histories = Some(histories);
        }
    }

    /// Whether they are still to be asked for.
    pub(crate) fn lacks_histories(&self) -> bool {
        self.runs.back().is_some_and(|run| run.histories.is_none())
    }

    /// Takes the next bytes of the log.
    pub(crate) fn append(
        &mut self,
        mut bytes: &[u8],
        scanned: &Scanned<'_>,
        now: Timestamp,
    ) -> Result<(), OtherBytes> {
        let Scanned { last, loud, found } = *scanned;
        let counted = self.counted;
        let fresh = found.iter().filter(|record| record.span.end > counted);
        let fresh: Vec<&Record> = fresh.collect();
        while !bytes.is_empty() {
            let room = self.room();
            let (now_bytes, rest) = bytes.split_at(room.min(bytes.len()));
            self.push(now_bytes, now);
            self.check()?;
            bytes = rest;
        }
        if let Some(chunk) = self.back().and_then(|run| run.chunks.back_mut()) {
            chunk.last = last.or(chunk.last);
            for record in fresh {
                chunk.summary.add(&record.event);
            }
        }
        self.counted = self.counted.max(self.received());
        self.loud = loud.unwrap_or(self.loud);
        Ok(())
    }

    /// How much fits before the next boundary.
    fn room(&self) -> usize {
        let end = self.received();
        let mut room = self.segment.next(end).since(end);
        if let Some(again) = self.again.filter(|again| again.at > end.0) {
            room = room.min(again.at.saturating_sub(end.0));
        }
        usize::try_from(room).unwrap_or(usize::MAX).min(CHUNK_BYTES)
    }

    fn push(&mut self, bytes: &[u8], now: Timestamp) {
        let segment = self.segment;
        let fits = self
            .runs
            .back()
            .and_then(|run| run.chunks.back())
            .is_some_and(|chunk| chunk.bytes.len().saturating_add(bytes.len()) <= CHUNK_BYTES);
        if !fits {
            self.close_chunk();
        }
        let mut hasher = self.hasher.take().unwrap_or_default();
        if segment.offset(self.received()) == 0 {
            hasher.reset();
        }
        hasher.update(bytes);
        if let Some(run) = self.runs.back_mut() {
            run.end = run.end.plus(length(bytes.len()));
            if !fits {
                let last = run.chunks.back().map_or(run.last, |chunk| chunk.last);
                let room = if bytes.len() < STREAM_BYTES {
                    bytes.len()
                } else {
                    CHUNK_BYTES
                };
                run.chunks.push_back(Chunk {
                    bytes: Vec::with_capacity(room),
                    end: run.end,
                    last,
                    hash: None,
                    since: now,
                    summary: Summary::default(),
                });
            }
            if let Some(chunk) = run.chunks.back_mut() {
                chunk.bytes.extend_from_slice(bytes);
                chunk.end = run.end;
            }
        }
        self.bytes = self.bytes.saturating_add(bytes.len());
        self.hasher = Some(hasher);
    }

    /// No more bytes go into the newest chunk: the hash at its end is the one of now.
    fn close_chunk(&mut self) {
        let hash = self.hash();
        if let Some(chunk) = self.back().and_then(|run| run.chunks.back_mut()) {
            chunk.hash = Some(hash);
        }
    }

    /// Where the bytes have to be as they were.
    fn check(&mut self) -> Result<(), OtherBytes> {
        let at = self.received();
        match self.again {
            Some(again) if again.at == at.0 => {
                self.again = None;
                if again.hash == self.hash() {
                    Ok(())
                } else {
                    Err(OtherBytes { at })
                }
            }
            _ => Ok(()),
        }
    }

    /// The branch has ended at `at`, and `next` goes on from there: its first segment repeats the bytes
    /// before.
    pub(crate) fn switch(&mut self, next: TimelineId, at: Lsn, histories: Histories) {
        let tip = self.tip();
        let start = self.segment.start(at);
        self.again = Some(tip.mark).filter(|mark| mark.at == at.0 && mark.at > start.0);
        self.close_chunk();
        self.begin_run(next, start, Some(histories));
    }

    fn begin_run(&mut self, timeline: TimelineId, start: Lsn, histories: Option<Histories>) {
        self.runs.push_back(Run {
            timeline,
            histories,
            tell_histories: true,
            at: Mark::begin(start),
            last: None,
            end: start,
            chunks: VecDeque::new(),
        });
        self.hasher = None;
        self.known = nothing();
        self.loud = Lsn(0);
        self.drop_spent_runs();
    }

    /// The next cut tells the histories again: a restore may begin with it.
    pub(crate) fn tell_histories(&mut self) {
        self.drop_spent_runs();
        if let Some(front) = self.runs.front_mut() {
            front.tell_histories = true;
        }
    }

    /// Where the next cut begins.
    pub(crate) fn next_start(&self) -> (TimelineId, Lsn) {
        let waits = self.runs.iter().find(|run| !run.chunks.is_empty());
        let run = waits.or_else(|| self.runs.back());
        run.map_or((TimelineId::FIRST, Lsn(0)), |run| {
            (run.timeline, Lsn(run.at.at))
        })
    }

    fn drop_spent_runs(&mut self) {
        while self.runs.len() > 1 && self.runs.front().is_some_and(|run| run.chunks.is_empty()) {
            self.runs.pop_front();
        }
    }

    /// Takes out the next piece of at most about `max` bytes, writing them to `into`. An empty piece
    /// comes only if `even_empty` and nothing is awaited that was there before.
    pub(crate) fn take(
        &mut self,
        max: usize,
        even_empty: bool,
        into: &mut Vec<u8>,
    ) -> Option<Piece> {
        self.drop_spent_runs();
        into.clear();
        let behind = self.is_behind();
        let open_hash = self.hash();
        let only = self.runs.len() == 1;
        let run = self.runs.front_mut()?;
        let untold =
            run.tell_histories && run.timeline != TimelineId::FIRST && run.histories.is_none();
        if untold || run.chunks.is_empty() && (!even_empty || behind || run.last.is_none()) {
            return None;
        }
        let (start, mut summary) = (Lsn(run.at.at), Summary::default());
        while let Some(chunk) = run.chunks.front() {
            if !into.is_empty() && into.len().saturating_add(chunk.bytes.len()) > max {
                break;
            }
            into.extend_from_slice(&chunk.bytes);
            summary.merge(&chunk.summary);
            run.last = chunk.last;
            run.at = Mark {
                at: chunk.end.0,
                hash: chunk.hash.unwrap_or(open_hash),
            };
            run.chunks.pop_front();
        }
        self.bytes = self.bytes.saturating_sub(into.len());
        let histories = run.histories.clone().filter(|_| run.tell_histories);
        run.tell_histories = false;
        let (timeline, last, at) = (run.timeline, run.last, run.at);
        let restorable = last.is_some() && at.at >= self.high.0;
        self.high = self.high.max(Lsn(at.at));
        if summary.first.is_some() {
            summary.first = summary.first.max(self.latest_commit);
        }
        self.latest_commit = self.latest_commit.max(summary.latest);
        if summary.latest.is_some() {
            summary.latest = self.latest_commit;
        }
        let again = self.again.filter(|again| only && again.at > at.at);
        Some(Piece {
            timeline,
            start,
            last,
            histories,
            summary,
            restorable,
            cursor: self.cursor(timeline, at, last, again),
        })
    }

    fn cursor(
        &self,
        timeline: TimelineId,
        end: Mark,
        last: Option<Span>,
        again: Option<Mark>,
    ) -> Cursor {
        Cursor {
            system: self.system,
            segment_bytes: u32::try_from(self.segment.bytes()).unwrap_or(0),
            timeline: timeline.0,
            end,
            last_record: last.map(|span| (span.start.0, span.end.0)),
            high: self.high.0,
            again,
            latest_commit: self.latest_commit,
        }
    }

    /// The newest commit time that was cut or waits.
    pub(crate) fn latest_commit(&self) -> Option<Timestamp> {
        let waiting = self
            .runs
            .iter()
            .flat_map(|run| &run.chunks)
            .filter_map(|chunk| chunk.summary.latest);
        waiting.chain(self.latest_commit).max()
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
