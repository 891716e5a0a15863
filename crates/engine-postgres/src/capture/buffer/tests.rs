//! The buffer by itself: what goes in comes out, with what it means.

use super::*;
use crate::wal::{Event, Outcome};

const START: Lsn = Lsn(0x0300_0000);
const SEGMENT: SegmentSize = match SegmentSize::new(1 << 20) {
    Some(size) => size,
    None => SegmentSize::DEFAULT,
};
const MAX: usize = 8 << 20;

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn begun() -> Buffer {
    let cursor = Cursor::begin(7, TimelineId(1), SEGMENT, START.plus(0x28));
    let mut buffer = Buffer::after(&cursor);
    buffer.resume(blake3::Hasher::new(), None);
    buffer
}

fn pattern(from: usize, bytes: usize) -> Vec<u8> {
    (from..from + bytes)
        .map(|n| u8::try_from(n % 251).expect("small"))
        .collect()
}

fn span(start: u64, end: u64) -> Span {
    Span {
        start: START.plus(start),
        end: START.plus(end),
    }
}

fn commit(xid: u32, span: Span, at: i64) -> Record {
    Record {
        span,
        previous: None,
        event: Event::End {
            xid,
            outcome: Outcome::Committed,
            at: crate::wal::PgTime(at),
            inner: Vec::new(),
        },
    }
}

/// As a scanner would say: what means something is what somebody may miss.
fn scanned(last: Option<Span>, found: &[Record]) -> Scanned<'_> {
    Scanned {
        last,
        loud: found.iter().map(|record| record.span.end).max(),
        found,
    }
}

fn feed(buffer: &mut Buffer, from: usize, bytes: usize, last: Option<Span>, found: &[Record]) {
    buffer
        .append(&pattern(from, bytes), &scanned(last, found), now())
        .expect("the same bytes");
}

fn take(buffer: &mut Buffer, even_empty: bool) -> Option<(Piece, Vec<u8>)> {
    let mut bytes = Vec::new();
    buffer
        .take(MAX, even_empty, &mut bytes)
        .map(|piece| (piece, bytes))
}

#[test]
fn what_went_in_comes_out_in_order_with_what_it_means() {
    let mut buffer = begun();
    let late = commit(9, span(0x100, 0x140), 50);
    let early = commit(8, span(0x140, 0x180), 40);
    feed(
        &mut buffer,
        0,
        0x180,
        Some(span(0x140, 0x180)),
        &[late, early],
    );
    let (piece, bytes) = take(&mut buffer, false).expect("a piece");
    assert_eq!(bytes, pattern(0, 0x180));
    assert_eq!(
        (piece.start, piece.cursor.end()),
        (START, START.plus(0x180))
    );
    assert_eq!(piece.last, Some(span(0x140, 0x180)));
    assert_eq!(piece.summary.commits, 2);
    assert_eq!(piece.summary.xids, Some((8, 9)));
    assert!(piece.restorable && piece.histories.is_none());
    let hash: SegmentHash = blake3::hash(&pattern(0, 0x180)).into();
    assert_eq!(piece.cursor.end.hash, hash);
    assert!(take(&mut buffer, false).is_none());
    // A commit that took its time earlier than the newest so far does not turn time back.
    feed(
        &mut buffer,
        0x180,
        8,
        None,
        &[commit(7, span(0x180, 0x188), 10)],
    );
    let (next, _) = take(&mut buffer, false).expect("a piece");
    assert_eq!(next.summary.first, piece.summary.latest);
    assert_eq!(next.summary.latest, piece.summary.latest);
}

#[test]
fn an_empty_piece_comes_only_when_it_is_asked_for_and_a_record_is_known() {
    let mut buffer = begun();
    assert!(take(&mut buffer, true).is_none(), "no record is known yet");
    feed(&mut buffer, 0, 0x100, Some(span(0x28, 0x100)), &[]);
    take(&mut buffer, false).expect("a piece");
    assert!(take(&mut buffer, false).is_none());
    let (piece, bytes) = take(&mut buffer, true).expect("an empty piece");
    assert!(bytes.is_empty() && piece.restorable);
    assert_eq!(piece.start, piece.cursor.end());
}

#[test]
fn pieces_are_bounded_and_their_hashes_are_of_their_segment() {
    let mut buffer = begun();
    let all = 3 << 20;
    feed(&mut buffer, 0, all, Some(span(0x28, 0x100)), &[]);
    let mut got = Vec::new();
    let mut bytes = Vec::new();
    while let Some(piece) = buffer.take(1_000_000, false, &mut bytes) {
        got.extend_from_slice(&bytes);
        let end = usize::try_from(piece.cursor.end().since(START)).expect("small");
        let segment = (end - 1) / (1 << 20) * (1 << 20);
        let hash: SegmentHash = blake3::hash(&pattern(0, end)[segment..]).into();
        assert_eq!(piece.cursor.end.hash, hash, "at {end}");
        assert!(bytes.len() <= 1_000_000);
    }
    assert_eq!(got, pattern(0, all));
    assert_eq!(buffer.bytes(), 0);
}

#[test]
fn a_new_timeline_that_repeats_other_bytes_is_noticed() {
    let mut buffer = begun();
    feed(&mut buffer, 0, 0x100, Some(span(0x80, 0x100)), &[]);
    buffer.switch(TimelineId(2), START.plus(0x100), Arc::from([]));
    buffer.resume(blake3::Hasher::new(), None);
    let mut other = pattern(0, 0x200);
    other[5] ^= 1;
    let refused = buffer.append(&other, &Scanned::default(), now());
    let at = START.plus(0x100);
    assert_eq!(refused, Err(OtherBytes { at }));
}

#[test]
fn what_a_new_timeline_repeats_is_no_restore_position() {
    let mut buffer = begun();
    feed(&mut buffer, 0, 0x100, Some(span(0x80, 0x100)), &[]);
    take(&mut buffer, false).expect("a piece");
    buffer.switch(TimelineId(2), START.plus(0x100), Arc::from([]));
    buffer.resume(blake3::Hasher::new(), None);
    feed(&mut buffer, 0, 0x80, Some(span(0x28, 0x80)), &[]);
    let (piece, _) = take(&mut buffer, false).expect("a piece");
    assert!(!piece.restorable && piece.cursor.again.is_some());
    assert!(take(&mut buffer, true).is_none(), "more comes for certain");
    // Killed here, it goes on and still compares.
    let mut next = Buffer::after(&piece.cursor);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&pattern(0, 0x80));
    next.resume(hasher, None);
    feed(&mut next, 0x80, 0x100, Some(span(0x100, 0x180)), &[]);
    let (piece, _) = take(&mut next, false).expect("a piece");
    assert!(piece.restorable && piece.cursor.again.is_none());
}

#[test]
fn timelines_are_never_mixed_and_the_new_one_tells_its_histories() {
    let mut buffer = begun();
    feed(
        &mut buffer,
        0,
        0x100,
        Some(span(0x80, 0x100)),
        &[commit(1, span(0x80, 0x100), 1)],
    );
    let histories: Histories = Arc::from([(TimelineId(3), Bytes::from_static(b"1\t0/3000100\n"))]);
    buffer.switch(TimelineId(3), START.plus(0x100), histories);
    assert!(buffer.is_due(MAX));
    buffer.resume(blake3::Hasher::new(), None);
    feed(
        &mut buffer,
        0,
        0x200,
        Some(span(0x180, 0x200)),
        &[
            commit(1, span(0x80, 0x100), 1),
            commit(2, span(0x180, 0x200), 2),
        ],
    );
    let (old, bytes) = take(&mut buffer, false).expect("the old branch");
    assert_eq!((old.timeline, bytes.len()), (TimelineId(1), 0x100));
    let hash: SegmentHash = blake3::hash(&pattern(0, 0x100)).into();
    assert_eq!(old.cursor.end.hash, hash);
    let (new, bytes) = take(&mut buffer, false).expect("the new branch");
    assert_eq!((new.timeline, new.start), (TimelineId(3), START));
    assert_eq!(bytes, pattern(0, 0x200));
    assert_eq!(new.histories.map(|all| all.len()), Some(1));
    assert_eq!(new.summary.xids, Some((2, 2)));
}

#[test]
fn capture_goes_on_after_the_cursor_of_any_cut() {
    let mut buffer = begun();
    feed(&mut buffer, 0, 0x100, Some(span(0x80, 0x100)), &[]);
    let (piece, _) = take(&mut buffer, false).expect("a piece");
    let mut next = Buffer::after(&piece.cursor);
    assert_eq!(next.tip(), buffer.tip());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&pattern(0, 0x100));
    next.resume(hasher, None);
    feed(&mut next, 0x100, 0x10, None, &[]);
    let (piece, bytes) = take(&mut next, false).expect("a piece");
    assert_eq!(bytes, pattern(0x100, 0x10));
    assert_eq!(piece.last, Some(span(0x80, 0x100)));
}

#[test]
fn a_log_that_ends_with_a_segment_is_compared_by_the_whole_segment() {
    let mut buffer = begun();
    let whole = 1 << 20;
    feed(&mut buffer, 0, whole, Some(span(0x28, 0x100)), &[]);
    let (piece, _) = take(&mut buffer, false).expect("a piece");
    let hash: SegmentHash = blake3::hash(&pattern(0, whole)).into();
    assert_eq!(piece.cursor.end.hash, hash);
    assert_eq!(piece.cursor.end.from(SEGMENT), START);
    // It goes on with a hash of its own, in this life and in the next one.
    let mut next = Buffer::after(&piece.cursor);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&pattern(0, whole));
    next.resume(hasher, None);
    for buffer in [&mut buffer, &mut next] {
        feed(buffer, whole, 0x80, None, &[]);
        let (piece, _) = take(buffer, false).expect("a piece");
        let hash: SegmentHash = blake3::hash(&pattern(whole, 0x80)).into();
        assert_eq!(piece.cursor.end.hash, hash);
        assert_eq!(piece.cursor.end.from(SEGMENT), START.plus(1 << 20));
    }
}

#[test]
fn what_nobody_would_miss_is_quiet_until_somebody_commits() {
    let mut buffer = begun();
    assert!(buffer.is_quiet());
    feed(&mut buffer, 0, 0x100, Some(span(0x28, 0x100)), &[]);
    assert!(buffer.is_quiet());
    let commit = [commit(9, span(0x100, 0x140), 50)];
    feed(&mut buffer, 0x100, 0x40, Some(span(0x100, 0x140)), &commit);
    assert!(!buffer.is_quiet());
    feed(&mut buffer, 0x140, 0x40, Some(span(0x140, 0x180)), &[]);
    assert!(!buffer.is_quiet(), "the commit still waits");
    take(&mut buffer, false).expect("a piece");
    feed(&mut buffer, 0x180, 0x40, Some(span(0x180, 0x1C0)), &[]);
    assert!(buffer.is_quiet());
    // A new timeline is for everyone.
    buffer.switch(TimelineId(2), START.plus(0x1C0), Arc::from([]));
    assert!(!buffer.is_quiet());
}
