//! Finds the records of a timeline's log in a stream of bytes.
//!
//! **Invariants.** [`Scanner::position`] is the next byte wanted. [`Scanner::last`] is the last record
//! that was seen whole and whose checksum is right: a log cut anywhere after its end replays through
//! it. After an error the scanner is spent.
//!
//! **Memory.** Of a record only its header is kept, and the content of the few kinds that carry an
//! event, up to [`CONTENT_BYTES_MAX`]; checksums run along.

use crc_fast::{CrcAlgorithm, Digest};

use super::page::{self, PageHead};
use super::record::{self, Event, HEAD_BYTES, HEAD_CHECKED_BYTES, RECORD_BYTES_MAX, RecordHead};
use super::{BadWal, PAGE_BYTES, Version};
use tidemark_format::postgres::{Lsn, SegmentSize, TimelineId};

/// A commit of a million subtransactions is 4 MB; nothing wanted is larger.
const CONTENT_BYTES_MAX: u32 = 64 << 20;

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first byte: what `recovery_target_lsn` is compared with.
    pub start: Lsn,
    /// Where the next record may begin: what a history names when replay ended after it.
    pub end: Lsn,
}

/// A record that means something for a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where.
    pub span: Span,
    /// The record before it, if that was seen whole too: what replay ends with if it stops before this.
    pub previous: Option<Span>,
    /// What.
    pub event: Event,
}

/// A record being read.
struct Open {
    start: Lsn,
    /// Bytes still to come.
    rest: u64,
    head: [u8; HEAD_BYTES],
    head_len: usize,
    parsed: Option<RecordHead>,
    content: Vec<u8>,
    checksum: Digest,
}

enum State {
    /// At a page's start: its header is gathered.
    Page,
    /// Between records.
    Between,
    /// In the rest of a record whose beginning was never seen.
    Tail(u64),
    /// In a record.
    Inside(Box<Open>),
    /// After a switch: nothing until the segment's end.
    Nothing,
}

/// Reads the log of one timeline.
pub struct Scanner {
    timeline: TimelineId,
    segment: SegmentSize,
    at: Lsn,
    state: State,
    /// What [`State::Page`] goes back to once the header is read.
    resume: Option<State>,
    page: [u8; page::LONG_BYTES],
    page_len: usize,
    version: Option<Version>,
    system: Option<u64>,
    last: Option<Span>,
    first: Option<Lsn>,
    loud: Option<Lsn>,
    /// What the first record has to name as the one before it.
    previous: Option<Lsn>,
    /// The last whole record before the first byte.
    follows: Option<Span>,
    /// For records that are whole at once.
    checksum: Digest,
}

impl std::fmt::Debug for Scanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scanner")
            .field("timeline", &self.timeline)
            .field("at", &self.at)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl Scanner {
    /// A scanner that begins with the segment of `at`: its first byte comes first. Records that began
    /// in an earlier segment are skipped.
    #[must_use]
    pub fn new(timeline: TimelineId, segment: SegmentSize, at: Lsn) -> Self {
        Self {
            timeline,
            segment,
            at: segment.start(at),
            state: State::Page,
            resume: None,
            page: [0; page::LONG_BYTES],
            page_len: 0,
            version: None,
            system: None,
            last: None,
            first: None,
            loud: None,
            previous: None,
            follows: None,
            checksum: Digest::new(CrcAlgorithm::Crc32Iscsi),
        }
    }

    /// A scanner that begins with a record of a server of `version`, at `at`: a base names one.
    #[must_use]
    pub fn at_record(
        timeline: TimelineId,
        segment: SegmentSize,
        at: Lsn,
        version: Version,
    ) -> Self {
        let state = if at.0.is_multiple_of(PAGE_BYTES) {
            State::Page
        } else {
            State::Between
        };
        Self {
            at,
            state,
            version: Some(version),
            ..Self::new(timeline, segment, at)
        }
    }

    /// The first record has to follow `last`, the last whole one before the first byte (with at most the
    /// one between them that goes on there).
    #[must_use]
    pub const fn after(mut self, last: Span) -> Self {
        self.follows = Some(last);
        self
    }

    /// The next byte wanted.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        self.at
    }

    /// The last record seen whole.
    #[must_use]
    pub const fn last(&self) -> Option<Span> {
        self.last
    }

    /// Where the first record seen from its beginning starts.
    #[must_use]
    pub const fn first(&self) -> Option<Lsn> {
        self.first
    }

    /// The end of the last record that somebody may miss. The others are a server's housekeeping: they
    /// belong to no transaction, and the server would do the same again (checkpoints, hints, vacuum).
    #[must_use]
    pub const fn loud(&self) -> Option<Lsn> {
        self.loud
    }

    /// Who wrote this log; none before the first page.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// The system's identifier; none before a segment's first page.
    #[must_use]
    pub const fn system(&self) -> Option<u64> {
        self.system
    }

    /// Takes the next bytes and appends what was found in them to `found`.
    ///
    /// # Errors
    /// [`BadWal`]: PostgreSQL would stop replay there.
    pub fn feed(&mut self, mut bytes: &[u8], found: &mut Vec<Record>) -> Result<(), BadWal> {
        while !bytes.is_empty() {
            let taken = self.step(bytes, found).map_err(|why| BadWal {
                timeline: self.timeline,
                at: self.at,
                why,
            })?;
            self.at = self.at.plus(taken.try_into().unwrap_or(u64::MAX));
            bytes = bytes.get(taken..).unwrap_or_default();
            self.turn_page();
        }
        Ok(())
    }

    /// At the end of a page its successor's header comes first.
    fn turn_page(&mut self) {
        if !self.at.0.is_multiple_of(PAGE_BYTES) || matches!(self.state, State::Page) {
            return;
        }
        let new_segment = self.segment.offset(self.at) == 0;
        match std::mem::replace(&mut self.state, State::Page) {
            // Pages after a switch may be empty, headers and all.
            State::Nothing if !new_segment => self.state = State::Nothing,
            State::Nothing => self.resume = Some(State::Between),
            other => self.resume = Some(other),
        }
    }

    /// Bytes from here to the page's end, no more than `bytes` has.
    fn in_page<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let left = PAGE_BYTES.saturating_sub(self.at.0 % PAGE_BYTES);
        prefix(bytes, left)
    }

    /// Takes some of `bytes`, at least one; says how many.
    fn step(&mut self, bytes: &[u8], found: &mut Vec<Record>) -> Result<usize, &'static str> {
        let bytes = self.in_page(bytes);
        match &mut self.state {
            State::Page => self.header(bytes),
            State::Nothing => Ok(bytes.len()),
            State::Tail(rest) => {
                let taken = prefix(bytes, *rest).len();
                *rest = rest.saturating_sub(taken.try_into().unwrap_or(u64::MAX));
                if *rest == 0 {
                    self.state = State::Between;
                }
                Ok(taken)
            }
            State::Between => self.begin(bytes, found),
            State::Inside(_) => self.inside(bytes, found),
        }
    }

    /// Gathers a page's header and reads it.
    fn header(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let start = Lsn(self.at.0 & !(PAGE_BYTES.wrapping_sub(1)));
        let want = page::head_bytes(start, self.segment);
        let missing = want.saturating_sub(self.page_len);
        let taken = bytes.len().min(missing);
        let place = self.page_len..self.page_len.saturating_add(taken);
        if let (Some(place), Some(new)) = (self.page.get_mut(place), bytes.get(..taken)) {
            place.copy_from_slice(new);
        }
        self.page_len = self.page_len.saturating_add(taken);
        if self.page_len == want {
            let head = self.page.get(..want).unwrap_or_default();
            let head = page::parse(head, start, self.segment)?;
            self.page_len = 0;
            self.turned(&head)?;
        }
        Ok(taken)
    }

    /// A page's header is known: what goes on in it?
    fn turned(&mut self, head: &PageHead) -> Result<(), &'static str> {
        if self.version.is_some_and(|version| version != head.version) {
            return Err("the page is of another major version than the one before");
        }
        self.version = Some(head.version);
        // The first segment of a timeline begins with pages of its parent.
        if head.timeline > self.timeline {
            return Err("the page belongs to a later timeline");
        }
        if let Some((system, _)) = head.system {
            if self.system.is_some_and(|known| known != system) {
                return Err("the page belongs to another database system");
            }
            self.system = Some(system);
        }
        let rest = head.continues.map(u64::from);
        if let Some(last) = self.follows.take() {
            let goes_on = rest.is_some() && !head.overwrites;
            self.previous = Some(if goes_on {
                self.begun_at(last.end)
            } else {
                last.start
            });
        }
        self.state = match (self.resume.take(), rest) {
            // The server crashed inside the record that was open here, and starts over.
            (Some(State::Inside(_) | State::Tail(_)), _) if head.overwrites => State::Between,
            (Some(State::Inside(open)), Some(rest)) if rest == open.rest => State::Inside(open),
            (Some(State::Tail(known)), Some(rest)) if rest == known => State::Tail(rest),
            (Some(State::Inside(_) | State::Tail(_)), _) => {
                return Err("the page does not go on with the record of the page before");
            }
            (None, Some(rest)) => State::Tail(rest),
            (Some(_), Some(_)) => return Err("the page goes on with a record that never began"),
            (_, None) => State::Between,
        };
        Ok(())
    }

    /// Where the record begins that comes after `end`: behind a page's header, if a page begins there.
    fn begun_at(&self, end: Lsn) -> Lsn {
        if end.0.is_multiple_of(PAGE_BYTES) {
            let head = page::head_bytes(end, self.segment);
            return end.plus(u64::try_from(head).unwrap_or(0));
        }
        end
    }

    /// Between records: skips the padding, then begins one.
    fn begin(&mut self, bytes: &[u8], found: &mut Vec<Record>) -> Result<usize, &'static str> {
        let padding = self.at.aligned().since(self.at);
        if padding > 0 {
            return Ok(prefix(bytes, padding).len());
        }
        if let Some(taken) = self.whole(bytes, found)? {
            return Ok(taken);
        }
        self.state = State::Inside(Box::new(Open {
            start: self.at,
            rest: u64::MAX,
            head: [0; HEAD_BYTES],
            head_len: 0,
            parsed: None,
            content: Vec::new(),
            checksum: Digest::new(CrcAlgorithm::Crc32Iscsi),
        }));
        self.inside(bytes, found)
    }

    fn inside(&mut self, bytes: &[u8], found: &mut Vec<Record>) -> Result<usize, &'static str> {
        let previous = self.before();
        let State::Inside(open) = &mut self.state else {
            return Err("the scanner is not in a record");
        };
        let taken = open.take(bytes, previous)?;
        if open.rest > 0 {
            return Ok(taken);
        }
        let end = self.at.plus(taken.try_into().unwrap_or(u64::MAX)).aligned();
        let span = Span {
            start: open.start,
            end,
        };
        let (head, event) = open.finish(self.version.map_or(0, Version::major))?;
        self.ended(span, &head, event, found);
        Ok(taken)
    }

    /// Most records stand whole in a page: they are read where they are. None if this one doesn't, or is
    /// no record.
    fn whole(
        &mut self,
        bytes: &[u8],
        found: &mut Vec<Record>,
    ) -> Result<Option<usize>, &'static str> {
        let Some((first, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let head = RecordHead::parse(first);
        let length = usize::try_from(head.bytes).unwrap_or(usize::MAX);
        let content = length.checked_sub(HEAD_BYTES).and_then(|n| rest.get(..n));
        let Some(content) = content else {
            return Ok(None);
        };
        checked(&head, self.before())?;
        self.checksum.reset();
        self.checksum.update(content);
        self.checksum
            .update(first.get(..HEAD_CHECKED_BYTES).unwrap_or_default());
        let major = self.version.map_or(0, Version::major);
        let event = finished(&head, self.checksum.finalize(), content, major)?;
        let span = Span {
            start: self.at,
            end: self.at.plus(u64::from(head.bytes)).aligned(),
        };
        self.ended(span, &head, event, found);
        Ok(Some(length))
    }

    /// What the next record has to name as the one before it, if that is known.
    fn before(&self) -> Option<Lsn> {
        self.last.map(|last| last.start).or(self.previous)
    }

    /// A record was seen whole.
    fn ended(
        &mut self,
        span: Span,
        head: &RecordHead,
        event: Option<Event>,
        found: &mut Vec<Record>,
    ) {
        if !head.is_housekeeping(event.as_ref()) {
            self.loud = Some(span.end);
        }
        self.first.get_or_insert(span.start);
        let previous = self.last.replace(span);
        self.state = if event == Some(Event::Switch) {
            State::Nothing
        } else {
            State::Between
        };
        found.extend(event.map(|event| Record {
            span,
            previous,
            event,
        }));
    }
}

/// The first `n` bytes, or all if there are fewer.
fn prefix(bytes: &[u8], n: u64) -> &[u8] {
    usize::try_from(n)
        .ok()
        .and_then(|n| bytes.get(..n))
        .unwrap_or(bytes)
}

/// What a header has to be: of a record that can be, and that follows `previous`.
fn checked(head: &RecordHead, previous: Option<Lsn>) -> Result<(), &'static str> {
    if head.bytes > RECORD_BYTES_MAX {
        return Err("a record is longer than any can be");
    }
    if head.is_wanted() && head.bytes > CONTENT_BYTES_MAX {
        return Err("a transaction's record is longer than any can be");
    }
    if previous.is_some_and(|previous| previous != head.previous) {
        return Err("a record does not name the one before it");
    }
    Ok(())
}

/// The checksum of a record and its event.
fn finished(
    head: &RecordHead,
    sum: u64,
    content: &[u8],
    major: u16,
) -> Result<Option<Event>, &'static str> {
    if sum != u64::from(head.checksum) {
        return Err("a record's checksum does not fit its bytes");
    }
    if head.is_wanted() {
        record::event(head, content, major)
    } else {
        Ok(None)
    }
}

impl Open {
    /// Takes what belongs to this record; says how much.
    fn take(&mut self, bytes: &[u8], previous: Option<Lsn>) -> Result<usize, &'static str> {
        let Some(head) = self.parsed else {
            return self.take_head(bytes, previous);
        };
        let new = prefix(bytes, self.rest);
        self.checksum.update(new);
        if head.is_wanted() {
            self.content.extend_from_slice(new);
        }
        self.rest = self
            .rest
            .saturating_sub(new.len().try_into().unwrap_or(u64::MAX));
        Ok(new.len())
    }

    fn take_head(&mut self, bytes: &[u8], previous: Option<Lsn>) -> Result<usize, &'static str> {
        let missing = HEAD_BYTES.saturating_sub(self.head_len);
        let taken = bytes.len().min(missing);
        let place = self.head_len..self.head_len.saturating_add(taken);
        if let (Some(place), Some(new)) = (self.head.get_mut(place), bytes.get(..taken)) {
            place.copy_from_slice(new);
        }
        self.head_len = self.head_len.saturating_add(taken);
        let so_far = u64::try_from(self.head_len).unwrap_or(u64::MAX);
        // The length comes first and never crosses a page: a page's header says how much is left.
        if let Some(length) = self.head.first_chunk::<4>().filter(|_| self.head_len >= 4) {
            let length = u32::from_le_bytes(*length);
            if length == 0 {
                return Err("there is no record here (the log ends)");
            }
            self.rest = u64::from(length)
                .checked_sub(so_far)
                .ok_or("a record is shorter than its header")?;
        }
        if self.head_len == HEAD_BYTES {
            let head = RecordHead::parse(&self.head);
            checked(&head, previous)?;
            self.parsed = Some(head);
        }
        Ok(taken)
    }

    /// Checks the record and reads its event.
    fn finish(&mut self, major: u16) -> Result<(RecordHead, Option<Event>), &'static str> {
        let Some(head) = self.parsed else {
            return Err("a record is shorter than its header");
        };
        self.checksum
            .update(self.head.get(..HEAD_CHECKED_BYTES).unwrap_or_default());
        let event = finished(&head, self.checksum.finalize(), &self.content, major)?;
        Ok((head, event))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{Builder, SYSTEM};
    use super::*;
    use crate::wal::{Outcome, PgTime};

    const SEGMENT: SegmentSize = match SegmentSize::new(1 << 20) {
        Some(size) => size,
        None => SegmentSize::DEFAULT,
    };
    const START: Lsn = Lsn(0x0300_0000);

    fn scanner() -> Scanner {
        Scanner::new(TimelineId(1), SEGMENT, START)
    }

    fn scan(wal: &[u8], piece: usize) -> (Vec<Record>, Scanner, Result<(), BadWal>) {
        let mut scanner = scanner();
        let mut found = Vec::new();
        let done = wal
            .chunks(piece.max(1))
            .try_for_each(|piece| scanner.feed(piece, &mut found));
        (found, scanner, done)
    }

    /// Commits and other records of many sizes, some across pages and one across many.
    fn log(sizes: &[u32]) -> (Vec<u8>, Vec<Span>) {
        let mut builder = Builder::new(START, SEGMENT);
        let mut spans = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            let number = u32::try_from(index).expect("few");
            spans.push(builder.commit(700 + number, i64::from(number)));
            spans.push(builder.filler(*size));
        }
        (builder.bytes(), spans)
    }

    #[test]
    fn commits_are_found_with_their_times_across_pages_and_segments() {
        // GIVEN three megabytes of records, so that segments of one are crossed
        let (wal, spans) = log(&[10, 8_100, 30_000, 1_000_000, 7, 1_500_000, 1]);
        // WHEN they are read in odd pieces
        let (found, scanner, done) = scan(&wal, 4_097);
        // THEN every commit is there, and the end is the last record's
        assert_eq!(done, Ok(()));
        assert_eq!(found.len(), 7);
        for (index, record) in found.iter().enumerate() {
            let number = u32::try_from(index).expect("few");
            assert_eq!(
                record.event,
                Event::End {
                    xid: 700 + number,
                    outcome: Outcome::Committed,
                    at: PgTime(i64::from(number)),
                    inner: Vec::new(),
                }
            );
            assert_eq!(record.span, spans[2 * index]);
        }
        assert_eq!(scanner.last(), spans.last().copied());
        assert_eq!(scanner.first(), spans.first().map(|span| span.start));
        assert_eq!(scanner.system(), Some(SYSTEM));
        assert_eq!(scanner.version().map(Version::major), Some(15));
    }

    #[test]
    fn a_log_that_goes_on_in_another_segment_has_to_follow_the_record_before() {
        // GIVEN records that end in the first segment, or go on into the second
        let second = usize::try_from(SEGMENT.bytes()).expect("fits");
        for (size, switched) in [(900_000, true), (1_500_000, false)] {
            let mut builder = Builder::new(START, SEGMENT);
            let mut spans = vec![builder.commit(7, 1), builder.filler(size)];
            if switched {
                spans.push(builder.switch());
            }
            spans.push(builder.commit(8, 2));
            let wal = builder.bytes();
            let boundary = START.plus(SEGMENT.bytes());
            let last = spans.iter().rfind(|span| span.end <= boundary);
            let last = *last.expect("a record before");
            let follow = |last: Span| {
                let mut scanner = Scanner::new(TimelineId(1), SEGMENT, boundary).after(last);
                scanner.feed(&wal[second..], &mut Vec::new())
            };
            assert_eq!(follow(last), Ok(()), "{size}");
            let other = Span {
                start: last.start.plus(8),
                end: last.end.plus(8),
            };
            let refused = follow(other).expect_err("another log");
            assert!(refused.why.contains("the one before"), "{refused}");
        }
    }

    #[test]
    fn records_of_no_transaction_are_housekeeping() {
        let mut builder = Builder::new(START, SEGMENT);
        let commit = builder.commit(7, 1);
        builder.filler(40);
        builder.checkpoint(false, START, 1);
        let (_, scanner, _) = scan(&builder.bytes(), 100);
        assert_eq!(scanner.loud(), Some(commit.end));
        let point = builder.point("p", 5);
        let (_, scanner, _) = scan(&builder.bytes(), 100);
        assert_eq!(scanner.loud(), Some(point.end));
        let stop = builder.checkpoint(true, START, 1);
        let (_, scanner, _) = scan(&builder.bytes(), 100);
        assert_eq!(scanner.loud(), Some(stop.end));
    }

    #[test]
    fn a_log_cut_anywhere_ends_with_the_last_whole_record() {
        let (wal, spans) = log(&[50, 9_000, 20_000]);
        for cut in (0..wal.len()).step_by(97).chain([wal.len()]) {
            let (_, scanner, done) = scan(&wal[..cut], 8_192);
            assert_eq!(done, Ok(()), "cut at {cut}");
            // A record's end is aligned: up to 7 bytes of padding may be missing.
            let whole = spans.iter().rfind(|span| {
                let end = span.end.since(START);
                u64::try_from(cut).expect("small") + 7 >= end
            });
            let last = scanner.last();
            assert!(
                last == whole.copied()
                    || last.is_some_and(|last| Some(last.end) <= whole.map(|whole| whole.end)),
                "cut at {cut}: {last:?}"
            );
        }
    }

    #[test]
    fn reading_begins_at_any_segment_and_skips_the_record_that_began_before() {
        let (wal, spans) = log(&[10, 1_500_000, 20, 30]);
        let second = usize::try_from(SEGMENT.bytes()).expect("fits");
        let mut scanner = Scanner::new(TimelineId(1), SEGMENT, START.plus(SEGMENT.bytes()));
        let mut found = Vec::new();
        scanner.feed(&wal[second..], &mut found).expect("sound");
        assert_eq!(scanner.last(), spans.last().copied());
        // The record of 1.5 MB began in the first segment: what is seen first comes after it.
        assert_eq!(scanner.first(), Some(spans[4].start));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn reading_begins_in_the_middle_of_a_segment_at_a_record_that_is_known() {
        let (wal, spans) = log(&[10, 8_100, 30_000, 1_500_000, 20]);
        for from in 0..spans.len() {
            let at = spans[from].start;
            let version = Version::of_major(15).expect("known");
            let mut scanner = Scanner::at_record(TimelineId(1), SEGMENT, at, version);
            let mut found = Vec::new();
            let rest = &wal[usize::try_from(at.since(START)).expect("small")..];
            scanner.feed(rest, &mut found).expect("sound");
            assert_eq!(scanner.first(), Some(at));
            assert_eq!(scanner.last(), spans.last().copied());
            for record in &found {
                let place = spans.iter().position(|span| *span == record.span);
                let before = place
                    .filter(|place| *place > from)
                    .map(|place| spans[place - 1]);
                assert_eq!(record.previous, before);
            }
        }
    }

    #[test]
    fn after_a_switch_the_rest_of_the_segment_is_nothing() {
        let mut builder = Builder::new(START, SEGMENT);
        builder.commit(1, 1);
        let switch = builder.switch();
        let after = builder.commit(2, 2);
        let (found, scanner, done) = scan(&builder.bytes(), 1_000);
        assert_eq!(done, Ok(()));
        assert_eq!(found[1].event, Event::Switch);
        assert_eq!(found[1].span, switch);
        assert_eq!(found[2].span, after);
        assert_eq!(scanner.last(), Some(after));
    }

    #[test]
    fn a_record_that_the_server_never_finished_is_void() {
        let mut builder = Builder::new(START, SEGMENT);
        builder.commit(1, 1);
        builder.broken_record(20_000);
        let after = builder.commit(2, 2);
        let (found, scanner, done) = scan(&builder.bytes(), 777);
        assert_eq!(done, Ok(()));
        assert_eq!(found.len(), 2);
        assert_eq!(scanner.last(), Some(after));
    }

    #[test]
    fn named_points_prepared_transactions_and_checkpoints_are_told() {
        let mut builder = Builder::new(START, SEGMENT);
        builder.point("before-release", 5);
        builder.commit_prepared(4_242, 6);
        builder.checkpoint(true, Lsn(0x0300_0028), 1);
        let (found, _, done) = scan(&builder.bytes(), 100);
        assert_eq!(done, Ok(()));
        let events: Vec<Event> = found.into_iter().map(|record| record.event).collect();
        assert_eq!(
            events,
            [
                Event::Point {
                    name: b"before-release".to_vec(),
                    at: PgTime(5)
                },
                Event::End {
                    xid: 4_242,
                    outcome: Outcome::Committed,
                    at: PgTime(6),
                    inner: vec![0x0101_0101; 2],
                },
                Event::Checkpoint {
                    shutdown: true,
                    redo: Lsn(0x0300_0028),
                    timeline: TimelineId(1),
                    full_pages: true
                },
            ]
        );
    }

    #[test]
    fn canaries_are_found_among_the_messages_of_others() {
        let canary = r#"{"seq":7,"at":"1970-01-01T00:01:00Z","nonce":"00ff"}"#;
        let mut builder = Builder::new(START, SEGMENT);
        builder.message(3, "tidemark_canary", canary);
        // Of somebody else, outside of any transaction, no canary, and too long for one.
        builder.message(4, "cdc", canary);
        builder.message(0, "tidemark_canary", canary);
        builder.message(5, "tidemark_canary", "not ours");
        let last = builder.message(6, "tidemark_canary", &"x".repeat(70_000));
        let (found, scanner, done) = scan(&builder.bytes(), 100);
        assert_eq!(done, Ok(()));
        assert_eq!(scanner.last(), Some(last));
        let events: Vec<Event> = found.into_iter().map(|record| record.event).collect();
        let at = jiff::Timestamp::from_second(60).expect("a time");
        assert_eq!(events, [Event::Canary { xid: 3, seq: 7, at }]);
    }

    #[test]
    fn foreign_and_stale_pages_are_refused() {
        let (wal, _) = log(&[30_000]);
        let page = usize::try_from(PAGE_BYTES).expect("fits");
        let spoiled = |at: usize, bytes: &[u8]| {
            let mut wal = wal.clone();
            wal[at..at + bytes.len()].copy_from_slice(bytes);
            scan(&wal, 512).2.expect_err("refused").why
        };
        assert!(spoiled(page, &[0, 0]).contains("magic"));
        assert!(spoiled(page + 8, &[1]).contains("another place"));
        assert!(spoiled(page + 4, &[9]).contains("later timeline"));
        assert!(spoiled(page, &0xD116_u16.to_le_bytes()).contains("major version"));
        assert!(spoiled(page + 16, &[0xFF]).contains("does not go on"));
        assert!(spoiled(32, &[0, 0, 0, 4]).contains("segment size"));
    }

    proptest! {
        #[test]
        fn any_piece_size_finds_the_same(
            sizes in prop::collection::vec(0_u32..40_000, 1..12),
            piece in 1_usize..20_000,
        ) {
            let (wal, spans) = log(&sizes);
            let (found, scanner, done) = scan(&wal, piece);
            prop_assert_eq!(done, Ok(()));
            prop_assert_eq!(scanner.last(), spans.last().copied());
            prop_assert_eq!(found.len(), sizes.len());
        }

        #[test]
        fn a_flipped_bit_never_passes_for_more_than_padding(
            sizes in prop::collection::vec(0_u32..3_000, 1..6),
            place in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let (wal, _) = log(&sizes);
            let (good, scanner, _) = scan(&wal, wal.len());
            let mut bad = wal;
            let at = place.index(bad.len());
            bad[at] ^= 1 << bit;
            let (found, spoiled, done) = scan(&bad, bad.len());
            if done.is_ok() {
                // Padding, or a length that grew and waits for more: the same records, or fewer.
                prop_assert!(good.starts_with(&found));
                prop_assert!(spoiled.last().map(|span| span.end) <= scanner.last().map(|span| span.end));
            }
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
            let (_, scanner, _) = scan(&bytes, 1_111);
            prop_assert!(scanner.position() <= START.plus(20_000));
        }
    }
}
