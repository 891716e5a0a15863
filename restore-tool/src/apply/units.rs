//! Which bytes of which packs a restore needs: the chain of bases, newest page wins, cut into
//! pieces of work that are fetched by one request each. Pure.
//!
//! The cut depends on nothing but the bases, so an interrupted restore finds the same units again.

use std::collections::BTreeMap;
use std::ops::Range;

use tidemark_format::body::{BaseIndex, FramePlace, Run};
use tidemark_format::crypt::FRAME_LEN;

/// Most bytes fetched by one request: large enough that a request's latency doesn't matter, small
/// enough that a handful in flight stay within a few dozen MiB.
pub const UNIT_BYTES_MAX: u64 = 8 << 20;
/// Bytes nobody needs that are fetched along rather than asking twice.
const GAP_BYTES_MAX: u64 = 256 << 10;
/// Pages in a chunk of the map of pages seen.
const CHUNK_PAGES: u64 = 4096;

/// Pages of one frame that end up in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The frame.
    pub frame: u32,
    /// Where in its content the first page begins.
    pub offset: u32,
    /// The source's file.
    pub file: u32,
    /// The first page.
    pub first: u64,
    /// How many pages.
    pub count: u32,
    /// Bytes per page.
    pub page_size: u32,
}

impl Piece {
    /// Bytes of pages.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.count).saturating_mul(u64::from(self.page_size))
    }
}

/// Frames of one pack that are fetched together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Index into the chain of bases, oldest first.
    pub base: usize,
    /// Index into that base's packs.
    pub pack: usize,
    /// The bytes of the pack object.
    pub range: Range<u64>,
    /// What is taken out of them, by frame.
    pub pieces: Vec<Piece>,
}

impl Unit {
    /// Bytes of pages that it writes.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        self.pieces.iter().map(Piece::bytes).fold(0, u64::saturating_add)
    }

    /// Bytes fetched.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }
}

/// Cuts a chain of bases, oldest first, into units: each page is taken once, from the newest base
/// that holds it.
#[must_use]
pub fn cut(chain: &[BaseIndex]) -> Vec<Unit> {
    let mut seen = Seen::default();
    let mut units = Vec::new();
    for (base, index) in chain.iter().enumerate().rev() {
        let mut by_pack: BTreeMap<usize, Vec<Piece>> = BTreeMap::new();
        // Within a base, too, what was stored later wins.
        for run in index.runs.iter().rev() {
            let Ok(pack) = usize::try_from(run.pack) else { continue };
            seen.take_new(run, by_pack.entry(pack).or_default());
        }
        for (pack, mut pieces) in by_pack {
            if let Some(places) = index.packs.get(pack) {
                pieces.sort_by_key(|piece| (piece.frame, piece.offset));
                group(base, pack, &places.frames, pieces, &mut units);
            }
        }
    }
    units
}

fn place_of(frames: &[FramePlace], frame: u32) -> Option<Range<u64>> {
    let place = frames.get(usize::try_from(frame).ok()?)?;
    let length = u64::try_from(FRAME_LEN).ok()?.checked_add(u64::from(place.sealed))?;
    Some(place.offset..place.offset.checked_add(length)?)
}

fn group(
    base: usize,
    pack: usize,
    frames: &[FramePlace],
    pieces: Vec<Piece>,
    units: &mut Vec<Unit>,
) {
    let mut open: Option<Unit> = None;
    for piece in pieces {
        // Decoding a base index has checked that every run's frame exists.
        let Some(place) = place_of(frames, piece.frame) else { continue };
        if let Some(unit) = &mut open {
            let near = place.start <= unit.range.end.saturating_add(GAP_BYTES_MAX);
            let fits = place.end.saturating_sub(unit.range.start) <= UNIT_BYTES_MAX;
            if near && fits && place.start >= unit.range.start {
                unit.range.end = unit.range.end.max(place.end);
                unit.pieces.push(piece);
                continue;
            }
        }
        units.extend(open.replace(Unit { base, pack, range: place, pieces: vec![piece] }));
    }
    units.extend(open);
}

/// Pages that a newer base has given already: a bitmap in chunks, so that its size follows what is
/// touched and not the largest page number.
#[derive(Default)]
struct Seen {
    chunks: BTreeMap<(u32, u64), [u64; 64]>,
}

impl Seen {
    /// Marks the run's pages; those that were not marked before become pieces.
    fn take_new(&mut self, run: &Run, pieces: &mut Vec<Piece>) {
        let mut open: Option<Piece> = None;
        for at in 0..run.count {
            let page = run.first.saturating_add(u64::from(at));
            if self.mark(run.file, page) {
                match &mut open {
                    Some(piece) => piece.count = piece.count.saturating_add(1),
                    None => {
                        open = Some(Piece {
                            frame: run.frame,
                            offset: run.offset.saturating_add(at.saturating_mul(run.page_size)),
                            file: run.file,
                            first: page,
                            count: 1,
                            page_size: run.page_size,
                        });
                    }
                }
            } else {
                pieces.extend(open.take());
            }
        }
        pieces.extend(open);
    }

    /// Whether the page was new.
    fn mark(&mut self, file: u32, page: u64) -> bool {
        let chunk = self.chunks.entry((file, page / CHUNK_PAGES)).or_insert([0; 64]);
        let within = page % CHUNK_PAGES;
        let word = usize::try_from(within / 64).ok().and_then(|at| chunk.get_mut(at));
        let bit = 1u64 << (within % 64);
        word.is_some_and(|word| {
            let new = *word & bit == 0;
            *word |= bit;
            new
        })
    }
}

#[cfg(test)]
mod tests {
    use tidemark_format::body::PackRef;
    use tidemark_format::{Hash, ObjectId, SessionId};

    use super::*;

    const PAGE: u32 = 4096;

    fn pack(sealed: &[u32]) -> PackRef {
        let mut offset = 500;
        let frames = sealed
            .iter()
            .map(|sealed| {
                let place = FramePlace { offset, sealed: *sealed, raw: 1 << 20 };
                offset += u64::from(*sealed) + 4;
                place
            })
            .collect();
        PackRef {
            object: ObjectId([1; 16]),
            session: SessionId([2; 16]),
            hash: Hash([3; 32]),
            size: offset,
            frames,
        }
    }

    fn run(first: u64, count: u32, pack: u32, frame: u32) -> Run {
        Run { file: 0, first, count, page_size: PAGE, pack, frame, offset: 0 }
    }

    fn base(packs: Vec<PackRef>, runs: Vec<Run>) -> BaseIndex {
        BaseIndex { digest_key: [0; 32], files: vec![], packs, runs }
    }

    fn pages(units: &[Unit]) -> Vec<(usize, u64, u32, u32)> {
        let pieces = units.iter().flat_map(|u| u.pieces.iter().map(move |p| (u.base, p)));
        let mut all: Vec<_> =
            pieces.map(|(base, p)| (base, p.first, p.count, p.offset)).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn each_page_comes_once_from_the_newest_base_that_holds_it() {
        let old = base(vec![pack(&[1000])], vec![run(0, 10, 0, 0)]);
        let new = base(vec![pack(&[1000])], vec![run(3, 2, 0, 0)]);
        let units = cut(&[old, new]);
        assert_eq!(
            pages(&units),
            [(0, 0, 3, 0), (0, 5, 5, 5 * PAGE), (1, 3, 2, 0)]
        );
    }

    #[test]
    fn frames_that_lie_together_are_fetched_by_one_request_and_far_ones_by_two() {
        let frames = [1000, 1000, 400_000, 1000];
        let near = base(vec![pack(&frames)], vec![run(0, 1, 0, 0), run(1, 1, 0, 1)]);
        let units = cut(&[near]);
        assert_eq!(units.len(), 1);
        assert_eq!(units[0].range, 500..500 + 2 * 1004);
        let far = base(vec![pack(&frames)], vec![run(0, 1, 0, 0), run(1, 1, 0, 3)]);
        assert_eq!(cut(&[far]).len(), 2);
    }

    #[test]
    fn a_unit_stays_within_its_bound() {
        let frames = vec![1 << 20; 20];
        let runs = (0..20).map(|n| run(u64::from(n) * 256, 256, 0, n)).collect();
        let units = cut(&[base(vec![pack(&frames)], runs)]);
        assert!(units.iter().all(|unit| unit.stored_bytes() <= UNIT_BYTES_MAX));
        assert_eq!(units.iter().map(Unit::page_bytes).sum::<u64>(), 20 << 20);
    }

    #[test]
    fn a_page_stored_twice_in_one_base_is_taken_as_stored_last() {
        let twice = base(vec![pack(&[1000, 1000])], vec![run(7, 1, 0, 0), run(7, 1, 0, 1)]);
        let units = cut(&[twice]);
        assert_eq!(units.len(), 1);
        assert_eq!(units[0].pieces[0].frame, 1);
    }
}
