//! What the chain of bases and cuts holds, page by page: the map on disk, the cuts not sealed yet on
//! top of it, and the digest of the whole.
//!
//! **Invariant.** An entry of the map is the digest of the page as a restore of the chain would have
//! it. It changes when a cut is sealed ([`Book::seal`]), and becomes known when a base reads a page
//! that nothing captured and unsealed touches ([`Book::learn`]). So comparing the database with the
//! map finds everything that the chain lacks.
//!
//! A new generation has a new key: its map begins unknown, and the maps before stay readable until
//! its first base is done.

use std::collections::VecDeque;
use std::path::Path;

use tidemark_format::LogSeq;
use tidemark_format::pages::{PageDigest, lock_byte_page};

use crate::error::SqliteError;
use crate::map::{Entry, MapFile};
use crate::record::Snapshot;

/// Entries read at once when many are looked at.
pub(crate) const WINDOW_PAGES: u32 = 4096;
/// Two pages no further apart than this are looked up with one read.
const GAP_PAGES: u32 = 256;

#[derive(Debug)]
struct Unsealed {
    snapshot: Snapshot,
    entries: Vec<(u32, PageDigest)>,
}

/// What a cut does to the digest of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) pages: u32,
    pub(crate) sum: PageDigest,
    /// Pages whose digest isn't known after it.
    pub(crate) unknown: u32,
}

/// The pages of one source.
#[derive(Debug)]
pub(crate) struct Book {
    map: MapFile,
    olds: Vec<MapFile>,
    unsealed: VecDeque<Unsealed>,
    now: Change,
    lock_page: u32,
}

impl Book {
    /// A book over `map`, everything sealed.
    pub(crate) fn new(
        map: MapFile,
        olds: Vec<MapFile>,
        page_size: u32,
    ) -> Result<Self, SqliteError> {
        let nothing = Change {
            pages: 0,
            sum: PageDigest::default(),
            unknown: 0,
        };
        let lock_page = lock_byte_page(page_size);
        let mut book = Self {
            map,
            olds,
            unsealed: VecDeque::new(),
            now: nothing,
            lock_page,
        };
        book.recount()?;
        Ok(book)
    }

    pub(crate) const fn key(&self) -> &[u8; 32] {
        self.map.key()
    }

    /// After every cut made so far, sealed or not.
    pub(crate) const fn now(&self) -> Change {
        self.now
    }

    pub(crate) fn has_unsealed(&self) -> bool {
        !self.unsealed.is_empty()
    }

    /// Opens a new generation; the maps before stay as long as `keep_old`.
    pub(crate) fn rekey(
        &mut self,
        map: MapFile,
        keep_old: bool,
        folder: &Path,
    ) -> Result<(), SqliteError> {
        let old = std::mem::replace(&mut self.map, map);
        if keep_old {
            self.olds.push(old);
        } else {
            MapFile::remove(folder, old.number());
        }
        self.recount()
    }

    /// The generation's own map is whole: forget the ones before.
    pub(crate) fn drop_olds(&mut self, folder: &Path) {
        for old in self.olds.drain(..) {
            MapFile::remove(folder, old.number());
        }
    }

    /// Forgets the cuts that were never sealed.
    pub(crate) fn forget_unsealed(&mut self) -> Result<(), SqliteError> {
        self.unsealed.clear();
        self.recount()
    }

    fn recount(&mut self) -> Result<(), SqliteError> {
        let pages = self.map.pages();
        let mut change = Change {
            pages,
            sum: PageDigest::default(),
            unknown: 0,
        };
        let mut first = 1u32;
        while first <= pages {
            let count = WINDOW_PAGES.min(pages - first + 1);
            for (number, entry) in (first..).zip(self.map.read(first, count)?) {
                if number == self.lock_page {
                } else if entry.is_known() {
                    change.sum = change.sum.plus(entry.digest);
                } else {
                    change.unknown += 1;
                }
            }
            first = first.saturating_add(count);
        }
        self.now = change;
        Ok(())
    }

    /// What is known about `count` pages from `first`, unsealed cuts included.
    pub(crate) fn entries(&self, first: u32, count: u32) -> Result<Vec<Entry>, SqliteError> {
        let mut entries = self.map.read(first, count)?;
        let slot =
            |number: u32| usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
        for cut in &self.unsealed {
            let kept = slot(cut.snapshot.pages.saturating_add(1)).min(entries.len());
            if cut.snapshot.pages < first {
                entries.fill(Entry::default());
            } else if let Some(beyond) = entries.get_mut(kept..) {
                beyond.fill(Entry::default());
            }
            let from = cut.entries.partition_point(|(number, _)| *number < first);
            for (number, digest) in cut.entries.get(from..).unwrap_or_default() {
                match entries.get_mut(slot(*number)) {
                    Some(entry) => {
                        *entry = Entry {
                            digest: *digest,
                            tag: cut.snapshot.tag,
                        }
                    }
                    None => break,
                }
            }
        }
        Ok(entries)
    }

    /// What is known about `numbers`, which ascend.
    fn entries_of(&self, numbers: &[u32]) -> Result<Vec<Entry>, SqliteError> {
        let mut out = Vec::with_capacity(numbers.len());
        let mut rest = numbers;
        while let Some(first) = rest.first().copied() {
            let mut last = first;
            let together = rest.iter().take_while(|number| {
                let near = **number - last <= GAP_PAGES && **number - first < WINDOW_PAGES;
                last = if near { **number } else { last };
                near
            });
            let (group, after) = rest.split_at(together.count());
            let window = self.entries(first, last - first + 1)?;
            out.extend(group.iter().map(|number| {
                window
                    .get(usize::try_from(number - first).unwrap_or(usize::MAX))
                    .copied()
                    .unwrap_or_default()
            }));
            rest = after;
        }
        Ok(out)
    }

    /// What a cut of `entries` (ascending) that leaves `pages` pages would do.
    pub(crate) fn change(
        &self,
        entries: &[(u32, PageDigest)],
        pages: u32,
    ) -> Result<Change, SqliteError> {
        let mut change = Change { pages, ..self.now };
        let mut first = pages.saturating_add(1);
        while first <= self.now.pages {
            let count = WINDOW_PAGES.min(self.now.pages - first + 1);
            for (number, entry) in (first..).zip(self.entries(first, count)?) {
                if number == self.lock_page {
                } else if entry.is_known() {
                    change.sum = change.sum.minus(entry.digest);
                } else {
                    change.unknown = change.unknown.saturating_sub(1);
                }
            }
            first = first.saturating_add(count);
        }
        if pages > self.now.pages {
            let with_lock_page = (self.now.pages + 1..=pages).contains(&self.lock_page);
            change.unknown += pages - self.now.pages - u32::from(with_lock_page);
        }
        let numbers: Vec<u32> = entries.iter().map(|(number, _)| *number).collect();
        for ((number, digest), old) in entries.iter().zip(self.entries_of(&numbers)?) {
            if *number == self.lock_page {
            } else if old.is_known() && *number <= self.now.pages {
                change.sum = change.sum.minus(old.digest).plus(*digest);
            } else {
                change.unknown = change.unknown.saturating_sub(1);
                change.sum = change.sum.plus(*digest);
            }
        }
        Ok(change)
    }

    /// Enters a cut that is not sealed yet.
    pub(crate) fn enter(
        &mut self,
        change: Change,
        snapshot: Snapshot,
        entries: Vec<(u32, PageDigest)>,
    ) {
        self.now = change;
        self.unsealed.push_back(Unsealed { snapshot, entries });
    }

    /// The oldest unsealed cut, `seq`, is sealed: the map advances.
    pub(crate) fn seal(&mut self, seq: LogSeq) -> Result<Snapshot, SqliteError> {
        let Some(cut) = self.unsealed.front().filter(|cut| cut.snapshot.seq == seq) else {
            return Err(SqliteError::Contract("a cut was sealed out of order"));
        };
        apply(&mut self.map, &cut.snapshot, &cut.entries)?;
        let sealed = self.unsealed.pop_front().map(|cut| cut.snapshot);
        sealed.ok_or(SqliteError::Contract("a cut vanished while it was sealed"))
    }

    /// The base read these pages, and nothing captured touches them: what was unknown is known now.
    pub(crate) fn learn(&mut self, pages: &[(u32, PageDigest)]) -> Result<(), SqliteError> {
        for group in consecutive(pages) {
            let Some((first, _)) = group.first().copied() else {
                continue;
            };
            let count = u32::try_from(group.len()).unwrap_or(0);
            let mut entries = self.map.read(first, count)?;
            for (entry, (number, digest)) in entries.iter_mut().zip(group) {
                if !entry.is_known() && *number <= self.map.pages() && *number != self.lock_page {
                    entry.digest = *digest;
                    self.now.sum = self.now.sum.plus(*digest);
                    self.now.unknown = self.now.unknown.saturating_sub(1);
                }
            }
            let within = self
                .map
                .pages()
                .saturating_add(1)
                .saturating_sub(first)
                .min(count);
            entries.truncate(usize::try_from(within).unwrap_or(0));
            self.map.write(first, &entries)?;
        }
        Ok(())
    }

    /// Whether `page` is what an earlier generation's map says; `None` if no map knows it.
    pub(crate) fn old_equals(&self, number: u32, page: &[u8]) -> Result<Option<bool>, SqliteError> {
        for old in self.olds.iter().rev() {
            let entry = old.read(number, 1)?.first().copied().unwrap_or_default();
            if entry.is_known() {
                return Ok(Some(
                    entry.digest == PageDigest::of(old.key(), number, page),
                ));
            }
        }
        Ok(None)
    }

    /// Whether earlier generations know `page`, and none of them as it is. What a generation learned that
    /// was never finished may be torn, so one alone proves nothing while another says otherwise.
    pub(crate) fn olds_differ(&self, number: u32, page: &[u8]) -> Result<bool, SqliteError> {
        let mut differ = false;
        for old in &self.olds {
            let entry = old.read(number, 1)?.first().copied().unwrap_or_default();
            if entry.is_known() && entry.digest == PageDigest::of(old.key(), number, page) {
                return Ok(false);
            }
            differ |= entry.is_known();
        }
        Ok(differ)
    }

    /// Makes the map durable.
    pub(crate) fn sync(&self) -> Result<(), SqliteError> {
        self.map.sync()
    }
}

/// Brings `map` to the state after a sealed cut. May be repeated.
pub(crate) fn apply(
    map: &mut MapFile,
    snapshot: &Snapshot,
    entries: &[(u32, PageDigest)],
) -> Result<(), SqliteError> {
    map.set_pages(snapshot.pages)?;
    for group in consecutive(entries) {
        if let Some((first, _)) = group.first() {
            let written: Vec<Entry> = group
                .iter()
                .map(|(_, digest)| Entry {
                    digest: *digest,
                    tag: snapshot.tag,
                })
                .collect();
            map.write(*first, &written)?;
        }
    }
    Ok(())
}

/// Splits ascending pages into groups without a gap.
fn consecutive(pages: &[(u32, PageDigest)]) -> impl Iterator<Item = &[(u32, PageDigest)]> {
    pages.chunk_by(|(one, _), (other, _)| one.checked_add(1) == Some(*other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(seq: u64, tag: u32, pages: u32) -> Snapshot {
        Snapshot {
            seq: LogSeq(seq),
            key_id: [0; 8],
            tag,
            pages,
            restorable: true,
            catching_up: false,
            cursor: None,
            rewound_from: 0,
            open_transaction: false,
            stamp: None,
            digest: None,
            last_commit: None,
            look: None,
            witnesses: crate::witness::Witnesses::default(),
        }
    }

    fn cut(book: &mut Book, seq: u64, entries: &[(u32, u128)], pages: u32) {
        let entries: Vec<_> = entries.iter().map(|(n, d)| (*n, PageDigest(*d))).collect();
        let change = book.change(&entries, pages).unwrap();
        book.enter(change, snapshot(seq, 1, pages), entries);
    }

    fn book(folder: &Path, pages: u32) -> Book {
        let map = MapFile::create(folder, 1, [1; 32], pages).unwrap();
        Book::new(map, Vec::new(), 4096).unwrap()
    }

    #[test]
    fn the_sum_follows_cuts_that_are_not_sealed_shrink_and_grow_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = book(folder.path(), 0);
        cut(&mut book, 0, &[(1, 10), (2, 20), (3, 30)], 3);
        assert_eq!(
            book.now(),
            Change {
                pages: 3,
                sum: PageDigest(60),
                unknown: 0
            }
        );
        cut(&mut book, 1, &[(1, 11)], 1);
        assert_eq!(
            book.now(),
            Change {
                pages: 1,
                sum: PageDigest(11),
                unknown: 0
            }
        );
        // Page 2 grows back without content: unknown, whatever the first cut said.
        cut(&mut book, 2, &[(3, 31)], 3);
        assert_eq!(
            book.now(),
            Change {
                pages: 3,
                sum: PageDigest(42),
                unknown: 1
            }
        );
        for seq in 0..3 {
            book.seal(LogSeq(seq)).unwrap();
        }
        let before = book.now();
        book.recount().unwrap();
        assert_eq!(book.now(), before);
    }

    #[test]
    fn forgotten_cuts_leave_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = book(folder.path(), 0);
        cut(&mut book, 0, &[(1, 10)], 1);
        book.seal(LogSeq(0)).unwrap();
        cut(&mut book, 1, &[(1, 99), (2, 5)], 2);
        book.forget_unsealed().unwrap();
        assert_eq!(
            book.now(),
            Change {
                pages: 1,
                sum: PageDigest(10),
                unknown: 0
            }
        );
    }

    #[test]
    fn a_base_teaches_only_what_was_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = book(folder.path(), 4);
        cut(&mut book, 0, &[(2, 20)], 4);
        book.seal(LogSeq(0)).unwrap();
        let read: Vec<_> = (1..=4u32).map(|n| (n, PageDigest(u128::from(n)))).collect();
        book.learn(&read).unwrap();
        assert_eq!(
            book.now(),
            Change {
                pages: 4,
                sum: PageDigest(1 + 20 + 3 + 4),
                unknown: 0
            }
        );
    }

    #[test]
    fn a_database_of_more_than_a_gibibyte_counts_no_lock_byte_page() {
        let folder = tempfile::tempdir().unwrap();
        let map = MapFile::create(folder.path(), 1, [1; 32], 16_384).unwrap();
        let mut book = Book::new(map, Vec::new(), 65536).unwrap();
        assert_eq!(book.now().unknown, 16_384);
        cut(&mut book, 0, &[(16_386, 1)], 16_386);
        assert_eq!(book.now().unknown, 16_384);
    }
}
