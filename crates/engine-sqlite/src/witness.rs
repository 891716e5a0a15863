//! Witnesses: pages whose content shows whether the file is still the one that was captured.
//!
//! A few pages of every cut, until they are captured again. Once a checkpoint has put a witness into
//! the file, no other may write it: whatever is written to the file later must be captured first, and
//! ends the witness. So at any moment at which the file holds captured commits only, a witness in it
//! that isn't what the chain holds was written behind the log.
//!
//! **Why that finds a copied backup.** Say that somebody puts an earlier state of the database into the
//! file while a checkpoint runs. A page is wrong afterwards exactly if it was changed since that
//! state and no later checkpoint put it right; and what a later checkpoint writes is captured, so it is no
//! witness. Hence each witness that was changed since that state differs, and the youngest one was changed
//! after every state that is older than the last cuts. Pages that change all the time end as
//! witnesses by themselves and leave their place to others that stood longer.
//!
//! At rest, when everything captured is in the file, more can be said of any page: the oldest of those that
//! wait for a cut are compared too, and a few spread over the whole file, others each time.
//!
//! Memory: [`WITNESSES_MAX`] page numbers. They stand in the record, so that the next agent has them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tidemark_engine::Workspace;
use tidemark_format::pages::PageDigest;

use crate::book::Book;
use crate::core::Core;
use crate::error::SqliteError;
use crate::shm::WalIndex;
use crate::tail::Cursor;

/// Witnesses in all.
const WITNESSES_MAX: usize = 32;
/// Of one cut.
const OF_A_CUT: usize = 8;
/// Pages that wait for a cut, looked at at rest.
const WAITING: usize = 8;
/// Pages spread over the file, looked at at rest; up to twice as many.
const SPREAD: u32 = 16;

/// What is left of one cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct OfCut {
    salts: [u32; 2],
    /// They stand in the log up to this frame.
    frame: u32,
    pages: Vec<u32>,
}

/// The witnesses of one database, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Witnesses(VecDeque<OfCut>);

impl Witnesses {
    /// A cut of `entries` (ascending) leaves `pages` pages; capture stands at `cursor`.
    pub(crate) fn note_cut(&mut self, entries: &[(u32, PageDigest)], pages: u32, cursor: &Cursor) {
        let captured = |page: u32| entries.binary_search_by_key(&page, |entry| entry.0).is_ok();
        for cut in &mut self.0 {
            cut.pages.retain(|page| *page <= pages && !captured(*page));
        }
        let every = entries.len().div_ceil(OF_A_CUT).max(1);
        // From the end: there a growing database has the pages that won't change again so soon.
        let picked = entries.iter().rev().step_by(every).map(|entry| entry.0);
        self.0.push_back(OfCut {
            salts: cursor.salts,
            frame: cursor.frame,
            pages: picked.filter(|page| *page <= pages).collect(),
        });
        self.0.retain(|cut| !cut.pages.is_empty());
        let mut room = WITNESSES_MAX;
        for cut in self.0.iter_mut().rev() {
            cut.pages.truncate(room);
            room -= cut.pages.len();
        }
        self.0.retain(|cut| !cut.pages.is_empty());
    }

    /// Those that a checkpoint has put into the file, youngest first.
    fn in_file(&self, index: &WalIndex) -> impl Iterator<Item = u32> {
        let (salts, backfilled) = (index.salts, index.backfilled);
        self.0
            .iter()
            .rev()
            // A log is restarted only when all of it is in the file.
            .filter(move |cut| cut.salts != salts || cut.frame <= backfilled)
            .flat_map(|cut| cut.pages.iter().copied())
    }
}

impl Core {
    /// A page that isn't what was captured, of those that are looked at: the witnesses and, if the
    /// file holds everything captured, `spread` says which others. Call only while the file holds
    /// captured commits and nothing else.
    pub(crate) fn differing_page(
        &self,
        index: &WalIndex,
        spread: Option<u32>,
        work: &mut Workspace,
    ) -> Result<Option<u32>, SqliteError> {
        let Some(book) = &self.book else {
            return Ok(None);
        };
        let buffer = work.take(self.page_bytes());
        for number in self.witnesses.in_file(index) {
            let stands = number <= self.pages && self.pending.leaves(number);
            if stands && !self.is_as_captured(book, number, true, buffer)? {
                return Ok(Some(number));
            }
        }
        let Some(round) = spread else {
            return Ok(None);
        };
        for (number, captured) in self.pending.pages(self.page_bytes()).take(WAITING) {
            let there = self.file.read_pages(number, self.page_size(), buffer)? == 1;
            if !there || *buffer != *captured {
                return Ok(Some(number));
            }
        }
        let pages = book.now().pages.min(self.pages);
        let every = (pages / SPREAD).max(1);
        let mut number = 1 + round % every;
        while number <= pages {
            if self.pending.leaves(number) && !self.is_as_captured(book, number, false, buffer)? {
                return Ok(Some(number));
            }
            number = number.saturating_add(every);
        }
        Ok(None)
    }

    /// Whether the file has page `number` as the chain does; yes if nothing is known of it.
    fn is_as_captured(
        &self,
        book: &Book,
        number: u32,
        was_cut: bool,
        buffer: &mut [u8],
    ) -> Result<bool, SqliteError> {
        let there = self.file.read_pages(number, self.page_size(), buffer)? == 1;
        let entry = book.entries(number, 1)?.first().copied();
        match entry.filter(|entry| entry.is_known()) {
            Some(entry) => Ok(there && entry.digest == PageDigest::of(book.key(), number, buffer)),
            // Cut before this generation was opened: the map before it knows.
            None if was_cut => Ok(!book.olds_differ(number, buffer)?),
            None => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(witnesses: &mut Witnesses, pages: &[u32], frame: u32) {
        let entries: Vec<_> = pages.iter().map(|page| (*page, PageDigest(1))).collect();
        let cursor = Cursor {
            frame,
            ..Cursor::start([1, 1])
        };
        witnesses.note_cut(&entries, 100_000, &cursor);
    }

    fn index(salts: [u32; 2], backfilled: u32) -> WalIndex {
        WalIndex {
            page_size: 4096,
            frames: 1_000_000,
            pages: 100_000,
            checksum: [0, 0],
            salts,
            backfilled,
        }
    }

    fn in_file(witnesses: &Witnesses, salts: [u32; 2], backfilled: u32) -> Vec<u32> {
        witnesses.in_file(&index(salts, backfilled)).collect()
    }

    #[test]
    fn a_page_that_is_captured_again_is_no_witness_of_the_cut_before() {
        let mut witnesses = Witnesses::default();
        cut(&mut witnesses, &[1, 2, 7], 10);
        cut(&mut witnesses, &[1, 2, 9], 20);
        assert_eq!(in_file(&witnesses, [1, 1], 10), [7]);
        assert_eq!(in_file(&witnesses, [1, 1], 20), [9, 2, 1, 7]);
        assert_eq!(in_file(&witnesses, [1, 1], 9), [] as [u32; 0]);
        // The log was restarted: all of it is in the file.
        assert_eq!(in_file(&witnesses, [2, 5], 0), [9, 2, 1, 7]);
    }

    #[test]
    fn pages_that_change_all_the_time_leave_their_place_to_those_that_stood_longer() {
        let mut witnesses = Witnesses::default();
        cut(&mut witnesses, &[500], 1);
        for round in 0..1_000 {
            cut(&mut witnesses, &[1, 2, 3, 4], round + 2);
        }
        assert!(in_file(&witnesses, [9, 9], 0).contains(&500));
    }

    #[test]
    fn there_are_never_more_than_the_bound_and_the_youngest_stay() {
        let mut witnesses = Witnesses::default();
        for round in 0..1_000u32 {
            let pages: Vec<u32> = (0..50).map(|page| round * 50 + page + 1).collect();
            cut(&mut witnesses, &pages, round);
        }
        let left = in_file(&witnesses, [9, 9], 0);
        assert_eq!(left.len(), WITNESSES_MAX);
        assert_eq!(left.first(), Some(&50_000));
        let shrunk = Cursor::start([1, 1]);
        witnesses.note_cut(&[], 10, &shrunk);
        assert_eq!(in_file(&witnesses, [9, 9], 0), [] as [u32; 0]);
    }
}
