//! Which frames of which packs a restore needs: the chain of bases, newest page wins. Pure.
//!
//! The cut depends on nothing but the bases, so an interrupted restore finds the same units again
//! under the same numbers.

use std::collections::BTreeMap;

use tidemark_format::body::{BaseIndex, Run};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Which.
    pub name: FrameName,
    /// Its pages.
    pub pieces: Vec<Piece>,
}

impl Unit {
    /// Bytes of pages that it writes.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        self.pieces
            .iter()
            .map(Piece::bytes)
            .fold(0, u64::saturating_add)
    }
}

/// Cuts a chain of bases, oldest first, into units, sorted by name: each page is taken once, from the
/// newest base that holds it.
#[must_use]
pub fn cut(chain: &[&BaseIndex]) -> Vec<Unit> {
    let mut seen = Seen::default();
    let mut units: BTreeMap<FrameName, Vec<Piece>> = BTreeMap::new();
    for (base, index) in chain.iter().enumerate().rev() {
        // Within a base, too, what was stored later wins.
        for run in index.runs.iter().rev() {
            let new = seen.take_new(run);
            if !new.is_empty() {
                let name = FrameName {
                    base,
                    pack: run.pack,
                    frame: run.frame,
                };
                units.entry(name).or_default().extend(new);
            }
        }
    }
    units
        .into_iter()
        .map(|(name, pieces)| Unit { name, pieces })
        .collect()
}

/// Pages that a newer base has given already: a bitmap in chunks, so that its size follows what is
/// touched and not the largest page number.
#[derive(Default)]
struct Seen {
    chunks: BTreeMap<(u32, u64), Chunk>,
}

/// A chunk's pages. A server has files by the hundred thousand, nearly all of them a few pages long:
/// those take a word and no more.
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
    fn take_new(&mut self, run: &Run) -> Vec<Piece> {
        let mut pieces = Vec::new();
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
                pieces.extend(open.take());
            }
        }
        pieces.extend(open);
        pieces
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

    fn base(runs: Vec<Run>) -> BaseIndex {
        BaseIndex {
            digest_key: [0; 32],
            files: vec![],
            packs: vec![],
            runs,
        }
    }

    fn pages(units: &[Unit]) -> Vec<(usize, u64, u32, u32)> {
        let pieces = units
            .iter()
            .flat_map(|u| u.pieces.iter().map(move |p| (u.name.base, p)));
        let mut all: Vec<_> = pieces
            .map(|(base, p)| (base, p.first, p.count, p.offset))
            .collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn each_page_comes_once_from_the_newest_base_that_holds_it() {
        let old = base(vec![run(0, 10, 0, 0)]);
        let new = base(vec![run(3, 2, 0, 0)]);
        let units = cut(&[&old, &new]);
        assert_eq!(
            pages(&units),
            [(0, 0, 3, 0), (0, 5, 5, 5 * PAGE), (1, 3, 2, 0)]
        );
    }

    #[test]
    fn units_are_numbered_the_same_each_time_and_cover_every_byte() {
        let runs = (0..20)
            .rev()
            .map(|n| run(u64::from(n) * 256, 256, n / 7, n % 7))
            .collect();
        let index = base(runs);
        let units = cut(&[&index]);
        assert!(units.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert_eq!(units, cut(&[&index]));
        assert_eq!(units.iter().map(Unit::page_bytes).sum::<u64>(), 20 << 20);
    }

    #[test]
    fn a_page_stored_twice_in_one_base_is_taken_as_stored_last() {
        let units = cut(&[&base(vec![run(7, 1, 0, 0), run(7, 1, 0, 1)])]);
        assert_eq!(units.len(), 1);
        assert_eq!(units[0].name.frame, 1);
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
        let units = cut(&[&base(vec![run(0, 4, 0, 0)]), &base(vec![run(0, 8, 0, 0)])]);
        assert_eq!(units.len(), 1);
        assert_eq!(units[0].name.base, 1);
    }
}
