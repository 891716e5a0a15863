//! What an interrupted restore remembers: which units of the bases are safely in the partial file,
//! and how far the log was applied.
//!
//! Only what was verified, written and fsynced is noted, so a note is never ahead of the disk. Notes
//! of another plan are of no use: then everything begins anew. A log object applied past the noted
//! one does no harm when applied again in order, provided the new end is not before it; that is what
//! `may_reach` is for.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tidemark_format::{Hash, RepoId, SourceName};
use tidemark_host::files::{self, FileError};

/// The version of this file; another one is not read.
const VERSION: u32 = 1;

/// A set of unit numbers, kept as ascending ranges: a restore of a terabyte has a million units, done
/// nearly in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnitSet {
    /// First and one past the last.
    ranges: Vec<(u64, u64)>,
}

impl UnitSet {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether `unit` is in it.
    #[must_use]
    pub fn contains(&self, unit: u64) -> bool {
        let at = self.ranges.partition_point(|(_, end)| *end <= unit);
        self.ranges.get(at).is_some_and(|(first, _)| *first <= unit)
    }

    /// Adds `unit`.
    pub fn insert(&mut self, unit: u64) {
        let at = self.ranges.partition_point(|(_, end)| *end < unit);
        let end = unit.saturating_add(1);
        match self.ranges.get_mut(at) {
            Some((first, last)) if *first <= unit && unit < *last => {}
            Some((_, last)) if *last == unit => {
                *last = end;
                let joins = self
                    .ranges
                    .get(at + 1)
                    .is_some_and(|(next, _)| *next == end);
                if joins {
                    let (_, last) = self.ranges.remove(at + 1);
                    if let Some(range) = self.ranges.get_mut(at) {
                        range.1 = last;
                    }
                }
            }
            Some((first, _)) if *first == end => *first = unit,
            Some(_) | None => self.ranges.insert(at, (unit, end)),
        }
    }
}

/// What is in the partial file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    version: u32,
    /// The repository.
    pub repo: RepoId,
    /// The source.
    pub source: SourceName,
    /// Names the bases and the cut into units.
    pub bases: Hash,
    /// Units of the bases that are on the disk.
    pub units: UnitSet,
    /// All units are: the log comes next.
    pub bases_done: bool,
    /// Log objects that are on the disk, counted along the plan.
    pub applied: u64,
    /// Log objects that may be on the disk.
    pub may_reach: u64,
}

impl Notes {
    /// Nothing is done yet.
    #[must_use]
    pub const fn new(repo: RepoId, source: SourceName, bases: Hash) -> Self {
        Self {
            version: VERSION,
            repo,
            source,
            bases,
            units: UnitSet::new(),
            bases_done: false,
            applied: 0,
            may_reach: 0,
        }
    }

    /// The notes at `path` if they fit this plan: same bases, and an end (`log_objects` along the
    /// plan) that no earlier run went past. Unreadable notes are no notes.
    #[must_use]
    pub fn load(path: &Path, fresh: &Self, log_objects: u64) -> Option<Self> {
        let notes: Self = serde_json::from_str(&files::read_text(path).ok()?).ok()?;
        let fits = notes.version == VERSION
            && notes.repo == fresh.repo
            && notes.source == fresh.source
            && notes.bases == fresh.bases
            && notes.applied <= notes.may_reach
            && notes.may_reach <= log_objects;
        fits.then_some(notes)
    }

    /// Writes the notes. What they name must be fsynced before.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        files::write_atomic(path, &bytes, files::PRIVATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes() -> Notes {
        let mut notes = Notes::new(
            RepoId([1; 16]),
            SourceName::new("app").unwrap(),
            Hash([2; 32]),
        );
        notes.units.insert(0);
        notes.units.insert(3);
        notes
    }

    #[test]
    fn a_set_of_units_joins_what_touches() {
        let mut set = UnitSet::new();
        for unit in [5, 1, 3, 2, 9, 4, 4, 0] {
            set.insert(unit);
        }
        assert_eq!(set.ranges, [(0, 6), (9, 10)]);
        assert!((0..6).all(|unit| set.contains(unit)));
        assert!(!set.contains(6) && set.contains(9) && !set.contains(10));
    }

    #[test]
    fn notes_read_back_for_the_same_plan_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes");
        let mut written = notes();
        written.applied = 4;
        written.may_reach = 9;
        written.save(&path).unwrap();
        assert_eq!(Notes::load(&path, &notes(), 9), Some(written));
        assert_eq!(
            Notes::load(&path, &notes(), 8),
            None,
            "an earlier run went further"
        );
        let mut other = notes();
        other.bases = Hash([3; 32]);
        assert_eq!(Notes::load(&path, &other, 9), None);
        std::fs::write(&path, b"{").unwrap();
        assert_eq!(Notes::load(&path, &notes(), 9), None);
    }
}
