//! Captured pages that wait for the next cut, newest wins.
//!
//! They are copies: once the mark has moved on, SQLite may overwrite the log they came from.
//! Bounded by the caller: it asks [`Pending::room`] before it adds.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// Pages in memory, and the commits they came with.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    slots: BTreeMap<u32, usize>,
    arena: Vec<u8>,
    /// Transactions that ended since the last cut.
    pub(crate) transactions: u64,
    /// When the first of them was seen.
    pub(crate) first_commit: Option<Timestamp>,
    /// When the last of them was seen.
    pub(crate) last_commit: Option<Timestamp>,
    /// When the oldest page came in.
    pub(crate) oldest: Option<Timestamp>,
    /// The newest pages belong to a transaction whose end is not captured yet.
    pub(crate) open_transaction: bool,
    /// The smallest size of the database in pages since the last cut: what stood beyond it is gone.
    smallest: Option<u32>,
}

impl Pending {
    /// Takes in a page.
    pub(crate) fn put(&mut self, number: u32, page: &[u8], now: Timestamp) {
        self.oldest.get_or_insert(now);
        if let Some(at) = self.slots.get(&number)
            && let Some(old) = self.arena.get_mut(*at..*at + page.len())
        {
            old.copy_from_slice(page);
            return;
        }
        self.slots.insert(number, self.arena.len());
        self.arena.extend_from_slice(page);
    }

    /// The transaction whose pages came last has ended.
    pub(crate) fn commit(&mut self, now: Timestamp) {
        self.observe(now);
        self.open_transaction = false;
    }

    /// A change of unknown time was found.
    pub(crate) fn observe(&mut self, now: Timestamp) {
        self.transactions += 1;
        self.oldest.get_or_insert(now);
        self.first_commit.get_or_insert(now);
        self.last_commit = self.last_commit.max(Some(now));
    }

    /// Takes everything; an open transaction stays open.
    pub(crate) fn take(&mut self) -> Self {
        let open_transaction = self.open_transaction;
        std::mem::replace(
            self,
            Self {
                open_transaction,
                ..Self::default()
            },
        )
    }

    /// Drops pages beyond `pages`.
    pub(crate) fn shrink(&mut self, pages: u32) {
        self.smallest = Some(self.smallest.map_or(pages, |smallest| smallest.min(pages)));
        self.slots.split_off(&pages.saturating_add(1));
    }

    /// Whether page `number` is as it was at the last cut.
    pub(crate) fn leaves(&self, number: u32) -> bool {
        !self.has(number) && self.smallest.is_none_or(|smallest| number <= smallest)
    }

    pub(crate) fn has(&self, number: u32) -> bool {
        self.slots.contains_key(&number)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// Nothing to cut.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.transactions == 0
    }

    /// How many more pages of `page_size` fit below `bound`.
    pub(crate) fn room(&self, bound: usize, page_size: usize) -> usize {
        bound.saturating_sub(self.arena.len()) / page_size
    }

    /// The largest page number.
    pub(crate) fn last_number(&self) -> u32 {
        self.slots.last_key_value().map_or(0, |(number, _)| *number)
    }

    /// The pages, ascending.
    pub(crate) fn pages(&self, page_size: usize) -> impl Iterator<Item = (u32, &[u8])> {
        self.slots.iter().filter_map(move |(number, at)| {
            self.arena
                .get(*at..*at + page_size)
                .map(|page| (*number, page))
        })
    }
}
