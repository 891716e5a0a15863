//! Which frames of which packs a restore needs: the chain of bases, newest page wins. Pure.
//!
//! The cut depends on nothing but the bases, so an interrupted restore finds the same units again
//! under the same numbers.

use std::collections::BTreeMap;

use tidemark_format::body::Run;

/// Pages in a chunk of the map of pages seen.
const CHUNK_PAGES: u64 = 4096;

/// Pages of one frame that end up in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where in the frame's content the first page begins.
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

/// Which frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameName {
    /// Index into the chain of bases, oldest first.
    pub base: usize,
    /// Index into that base's packs.
    pub pack: u32,
    /// The frame in the pack.
    pub frame: u32,
}

/// A frame that is needed, and what is taken out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit<'a> {
    /// Which.
    pub name: FrameName,
    placed: &'a [(FrameName, Piece)],
}

impl<'a> Unit<'a> {
    /// Its pages.
    pub fn pieces(self) -> impl Iterator<Item = &'a Piece> {
        self.placed.iter().map(|(_, piece)| piece)
    }

    /// Bytes of pages that it writes.
    #[must_use]
    pub fn page_bytes(self) -> u64 {
        self.pieces().map(Piece::bytes).fold(0, u64::saturating_add)
    }
}

/// All units, sorted by name; a unit's number is its place.
///
/// One allocation for all pieces: a terabyte has a million of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Units {
    placed: Vec<(FrameName, Piece)>,
    /// Where each unit's pieces begin.
    starts: Vec<usize>,
}

impl Units {
    /// The unit of a number.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<Unit<'_>> {
        let from = *self.starts.get(number)?;
        let next = number.checked_add(1).and_then(|next| self.starts.get(next));
        let placed = self
            .placed
            .get(from..next.copied().unwrap_or(self.placed.len()))?;
        let (name, _) = placed.first()?;
        Some(Unit {
            name: *name,
            placed,
        })
    }

    /// The number of the unit of a frame.
    #[must_use]
    pub fn find(&self, name: FrameName) -> Option<usize> {
        let named = |from: &usize| self.placed.get(*from).map(|(name, _)| *name);
        self.starts.binary_search_by_key(&Some(name), named).ok()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Unit<'_>> {
        (0..self.starts.len()).filter_map(|number| self.get(number))
    }
}

/// Cuts a chain of bases into units: each page is taken once, from the newest base that holds it.
#[derive(Debug, Default)]
pub struct Cutter {
    seen: Seen,
    placed: Vec<(FrameName, Piece)>,
}

impl Cutter {
    /// Takes the next older base, `base` being its index in the chain, oldest first.
    pub fn add(&mut self, base: usize, runs: &[Run]) {
        // Within a base, too, what was stored later wins.
        for run in runs.iter().rev() {
            let name = FrameName {
                base,
                pack: run.pack,
                frame: run.frame,
            };
            self.seen
                .take_new(run, |piece| self.placed.push((name, piece)));
        }
    }

    /// The units.
    #[must_use]
    pub fn finish(self) -> Units {
        let Self { seen, mut placed } = self;
        drop(seen);
        placed.shrink_to_fit();
        placed.sort_unstable_by_key(|(name, piece)| (*name, piece.offset, piece.first));
        let mut starts = Vec::new();
        let mut last = None;
        for (at, (name, _)) in placed.iter().enumerate() {
            if last.replace(*name) != Some(*name) {
                starts.push(at);
            }
        }
        starts.shrink_to_fit();
        Units { placed, starts }
    }
}

/// Pages that a newer base has given already: a bitmap in chunks, so that its size follows what is
/// touched and not the largest page number.
#[derive(Debug, Default)]
struct Seen {
    chunks: BTreeMap<(u32, u64), Chunk>,
}

/// A chunk's pages. A server has files by the hundred thousand, nearly all of them a few pages long:
/// those take a word and no more.
#[derive(Debug)]
enum Chunk {
    /// The first 64 pages; no later one was seen.
    Small(u64),
    /// All of them.
    Whole(Box<[u64; 64]>),
}

impl Chunk {
    /// Marks a page; whether it was new.
    fn mark(&mut self, page: u64) -> bool {
        let bit = 1u64 << (page % 64);
        let at = usize::try_from(page / 64).unwrap_or(usize::MAX);
        if let Self::Small(word) = self
            && at > 0
        {
            let mut words = Box::new([0; 64]);
            words[0] = *word;
            *self = Self::Whole(words);
        }
        let word = match self {
            Self::Small(word) => Some(word),
            Self::Whole(words) => words.get_mut(at),
        };
        word.is_some_and(|word| {
            let new = *word & bit == 0;
            *word |= bit;
            new
        })
    }
}

impl Seen {
    /// Marks the run's pages; those that were not marked before become pieces.
    fn take_new(&mut self, run: &Run, mut take: impl FnMut(Piece)) {
        let mut open: Option<Piece> = None;
        for at in 0..run.count {
            let page = run.first.saturating_add(u64::from(at));
            if self.mark(run.file, page) {
                match &mut open {
                    Some(piece) => piece.count = piece.count.saturating_add(1),
                    None => {
                        open = Some(Piece {
                            offset: run.offset.saturating_add(at.saturating_mul(run.page_size)),
                            file: run.file,
                            first: page,
                            count: 1,
                            page_size: run.page_size,
                        });
                    }
                }
            } else {
                open.take().into_iter().for_each(&mut take);
            }
        }
        open.into_iter().for_each(take);
    }

    /// Whether the page was new.
    fn mark(&mut self, file: u32, page: u64) -> bool {
        let chunk = self
            .chunks
            .entry((file, page / CHUNK_PAGES))
            .or_insert(Chunk::Small(0));
        chunk.mark(page % CHUNK_PAGES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u32 = 4096;

    fn run(first: u64, count: u32, pack: u32, frame: u32) -> Run {
        Run {
            file: 0,
            first,
            count,
            page_size: PAGE,
            pack,
            frame,
            offset: 0,
        }
    }

    /// Cuts a chain, oldest first.
    fn cut(chain: &[&[Run]]) -> Units {
        let mut cutter = Cutter::default();
        for (base, runs) in chain.iter().enumerate().rev() {
            cutter.add(base, runs);
        }
        cutter.finish()
    }

    fn pages(units: &Units) -> Vec<(usize, u64, u32, u32)> {
        let pieces = units
            .iter()
            .flat_map(|u| u.pieces().map(move |p| (u.name.base, p)));
        let mut all: Vec<_> = pieces
            .map(|(base, p)| (base, p.first, p.count, p.offset))
            .collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn each_page_comes_once_from_the_newest_base_that_holds_it() {
        let units = cut(&[&[run(0, 10, 0, 0)], &[run(3, 2, 0, 0)]]);
        assert_eq!(
            pages(&units),
            [(0, 0, 3, 0), (0, 5, 5, 5 * PAGE), (1, 3, 2, 0)]
        );
    }

    #[test]
    fn units_are_numbered_the_same_each_time_and_cover_every_byte() {
        let runs: Vec<Run> = (0..20)
            .rev()
            .map(|n| run(u64::from(n) * 256, 256, n / 7, n % 7))
            .collect();
        let units = cut(&[&runs]);
        assert!(units.iter().map(|unit| unit.name).is_sorted());
        for (number, unit) in units.iter().enumerate() {
            assert_eq!(units.find(unit.name), Some(number));
        }
        assert_eq!(units.iter().count(), 20);
        assert_eq!(units, cut(&[&runs]));
        assert_eq!(units.iter().map(Unit::page_bytes).sum::<u64>(), 20 << 20);
    }

    #[test]
    fn a_page_stored_twice_in_one_base_is_taken_as_stored_last() {
        let units = cut(&[&[run(7, 1, 0, 0), run(7, 1, 0, 1)]]);
        let frames: Vec<u32> = units.iter().map(|unit| unit.name.frame).collect();
        assert_eq!(frames, [1]);
    }

    #[test]
    fn the_map_of_pages_is_as_large_as_the_files_and_forgets_nothing_when_it_grows() {
        let mut seen = Seen::default();
        assert!(seen.mark(1, 3) && !seen.mark(1, 3));
        assert!(matches!(
            seen.chunks.values().next(),
            Some(Chunk::Small(0b1000))
        ));
        assert!(seen.mark(1, 64) && !seen.mark(1, 64));
        assert!(!seen.mark(1, 3), "noted before it grew");
        assert!(seen.mark(1, 4095) && seen.mark(1, 4096) && seen.mark(2, 3));
        assert_eq!(seen.chunks.len(), 3);
        assert!(size_of::<Chunk>() <= 16);
    }

    #[test]
    fn a_base_that_a_newer_one_covers_is_not_fetched() {
        let units = cut(&[&[run(0, 4, 0, 0)], &[run(0, 8, 0, 0)]]);
        let bases: Vec<usize> = units.iter().map(|unit| unit.name.base).collect();
        assert_eq!(bases, [1]);
    }
}
