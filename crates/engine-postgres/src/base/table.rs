//! The files of a generation: path → stable number, and where each file's digests stand.
//!
//! A number is never given to another file inside the generation; a file that is gone keeps its place,
//! without a path. Number 0 is the layout's.
//!
//! **Bounds.** 200,000 files take about 20 MB: all paths lie in one buffer, and the index holds
//! nothing but numbers.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use tidemark_format::postgres::layout::{LAYOUT_PATH, UNIT_BYTES};

use super::error::BaseError;

/// A slot of the index that holds no file.
const FREE: u32 = u32::MAX;
const SLOTS_MIN: usize = 1024;

/// A file in one base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its true length.
    pub(crate) bytes: u64,
    /// Where its digests begin in that base's store.
    pub(crate) digests_at: u64,
}

impl Place {
    /// Not in that base: no store reaches so far.
    const NOWHERE: Self = Self {
        bytes: 0,
        digests_at: u64::MAX,
    };

    fn known(self) -> Option<Self> {
        (self != Self::NOWHERE).then_some(self)
    }

    /// How many units it has, the padded last one included.
    pub(crate) const fn units(&self) -> u64 {
        self.bytes.div_ceil(UNIT_BYTES as u64)
    }
}

/// A file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    path_at: u32,
    path_bytes: u32,
    /// In the base before.
    before: Place,
    /// In the base that is being made.
    now: Place,
}

/// Every file that the generation has seen.
#[derive(Debug)]
pub(crate) struct FileTable {
    paths: Vec<u8>,
    entries: Vec<Entry>,
    /// Open addressing: numbers of files with a path, a power of two of slots.
    slots: Vec<u32>,
    used: usize,
    hasher: BuildHasherDefault<DefaultHasher>,
}

impl FileTable {
    /// An empty table with the layout's place.
    pub(crate) fn new() -> Result<Self, BaseError> {
        let mut table = Self::empty();
        table.number(LAYOUT_PATH)?;
        Ok(table)
    }

    fn empty() -> Self {
        Self {
            paths: Vec::new(),
            entries: Vec::new(),
            slots: vec![FREE; SLOTS_MIN],
            used: 0,
            hasher: BuildHasherDefault::new(),
        }
    }

    /// An empty table to be filled by [`Self::load`] with every number in order.
    pub(crate) fn to_be_loaded() -> Self {
        Self::empty()
    }

    /// The next number, as the base before has it.
    pub(crate) fn load(&mut self, path: &str, before: Place) -> Result<(), BaseError> {
        let number = self.append(path)?;
        if let Some(entry) = self.entry_mut(number) {
            entry.before = if path.is_empty() {
                Place::NOWHERE
            } else {
                before
            };
        }
        Ok(())
    }

    pub(crate) const fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of `path`, a new one if it isn't known.
    pub(crate) fn number(&mut self, path: &str) -> Result<u32, BaseError> {
        match self.find(path) {
            Ok(number) => Ok(number),
            Err(_slot) => self.append(path),
        }
    }

    /// The file in the base before.
    pub(crate) fn before(&self, number: u32) -> Option<Place> {
        self.entry(number)?.before.known()
    }

    /// Notes the file in the base that is being made; false if it was noted already.
    pub(crate) fn note(&mut self, number: u32, place: Place) -> bool {
        let Some(entry) = self.entry_mut(number) else {
            return false;
        };
        std::mem::replace(&mut entry.now, place).known().is_none()
    }

    /// Every number's path and place in the base that is being made; files that are not in it have
    /// an empty path.
    pub(crate) fn now(&self) -> impl Iterator<Item = (&str, Place)> {
        let gone = Place {
            bytes: 0,
            digests_at: 0,
        };
        self.entries
            .iter()
            .map(move |entry| match entry.now.known() {
                Some(place) => (self.path(entry), place),
                None => ("", gone),
            })
    }

    fn entry(&self, number: u32) -> Option<&Entry> {
        self.entries.get(usize::try_from(number).ok()?)
    }

    fn entry_mut(&mut self, number: u32) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(number).ok()?)
    }

    fn path(&self, entry: &Entry) -> &str {
        let from = usize::try_from(entry.path_at).unwrap_or(usize::MAX);
        let length = usize::try_from(entry.path_bytes).unwrap_or(usize::MAX);
        let bytes = from
            .checked_add(length)
            .and_then(|to| self.paths.get(from..to));
        // Only text was put in.
        std::str::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
    }

    fn append(&mut self, path: &str) -> Result<u32, BaseError> {
        let number = u32::try_from(self.entries.len()).ok();
        let number = number.filter(|number| *number != FREE);
        let at = u32::try_from(self.paths.len()).ok();
        let length = u32::try_from(path.len()).ok();
        let (Some(number), Some(path_at), Some(path_bytes)) = (number, at, length) else {
            return Err(BaseError::TooManyFiles);
        };
        reserve(&mut self.paths, path.len());
        self.paths.extend_from_slice(path.as_bytes());
        reserve(&mut self.entries, 1);
        self.entries.push(Entry {
            path_at,
            path_bytes,
            before: Place::NOWHERE,
            now: Place::NOWHERE,
        });
        if path.is_empty() {
            return Ok(number);
        }
        // At most three quarters full, so that a search ends soon.
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        if let Err(slot) = self.find(path) {
            self.slots[slot] = number;
            self.used += 1;
        }
        Ok(number)
    }

    /// The number of `path`, or the slot where it would stand.
    fn find(&self, path: &str) -> Result<u32, usize> {
        let mask = self.slots.len() - 1;
        let hash = self.hasher.hash_one(path);
        let mut slot = usize::try_from(hash & mask as u64).unwrap_or(0);
        loop {
            let number = self.slots[slot];
            if number == FREE {
                return Err(slot);
            }
            if self
                .entry(number)
                .is_some_and(|entry| self.path(entry) == path)
            {
                return Ok(number);
            }
            slot = (slot + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let slots = self.slots.len() * 2;
        let old = std::mem::replace(&mut self.slots, vec![FREE; slots]);
        for number in old.into_iter().filter(|number| *number != FREE) {
            let path = self.entry(number).map(|entry| self.path(entry));
            if let Some(Err(slot)) = path.map(|path| self.find(path)) {
                self.slots[slot] = number;
            }
        }
    }

    /// Bytes that it occupies.
    #[cfg(test)]
    fn memory(&self) -> usize {
        self.paths.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.slots.capacity() * size_of::<u32>()
    }
}

/// Makes room by a quarter, not by doubling: these are the largest buffers of a base.
fn reserve<T>(buffer: &mut Vec<T>, more: usize) {
    if buffer.capacity() - buffer.len() < more {
        buffer.reserve_exact(more.max(buffer.len() / 4 + 1024));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(bytes: u64) -> Place {
        Place {
            bytes,
            digests_at: 0,
        }
    }

    #[test]
    fn numbers_are_stable_and_the_layout_is_the_first() {
        let mut table = FileTable::new().unwrap();
        assert_eq!(table.number(LAYOUT_PATH).unwrap(), 0);
        for n in 0..5000u32 {
            assert_eq!(table.number(&format!("base/1/{n}")).unwrap(), n + 1);
        }
        for n in (0..5000u32).rev() {
            assert_eq!(table.number(&format!("base/1/{n}")).unwrap(), n + 1);
        }
    }

    #[test]
    fn a_file_that_is_gone_keeps_its_place_and_gets_a_new_number_when_it_comes_back() {
        let mut table = FileTable::new().unwrap();
        let (a, b) = (table.number("a").unwrap(), table.number("b").unwrap());
        assert!(table.note(0, place(1)) && table.note(b, place(9)));
        assert!(!table.note(b, place(9)), "twice");
        let now: Vec<_> = table
            .now()
            .map(|(path, place)| (path.to_owned(), place))
            .collect();
        assert_eq!(now[usize::try_from(a).unwrap()].0, "");
        assert_eq!(now[usize::try_from(b).unwrap()], ("b".to_owned(), place(9)));
        // The next base.
        let mut next = FileTable::to_be_loaded();
        for (path, place) in &now {
            next.load(path, *place).unwrap();
        }
        assert_eq!(next.number("b").unwrap(), b);
        assert_eq!(next.before(b), Some(place(9)));
        let again = next.number("a").unwrap();
        assert!(again > b && next.before(again).is_none());
        assert_eq!(next.before(a), None);
    }

    #[test]
    fn two_hundred_thousand_files_take_less_than_thirty_mebibytes() {
        let mut table = FileTable::new().unwrap();
        for n in 0..200_000u32 {
            let path = format!("pg_tblspc/16385/PG_18_202506291/16384/{}", 16_400 + n);
            let number = table.number(&path).unwrap();
            table.note(number, place(8192));
        }
        assert_eq!(table.len(), 200_001);
        let mebibytes = table.memory() >> 20;
        assert!(mebibytes < 30, "{mebibytes} MiB");
    }

    #[test]
    fn lengths_are_counted_in_units() {
        for (bytes, units) in [(0, 0), (1, 1), (8192, 1), (8193, 2)] {
            assert_eq!(place(bytes).units(), units);
        }
    }
}
