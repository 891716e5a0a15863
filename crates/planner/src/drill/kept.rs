//! Whether a state that was restored once is still there, as far as the names of the log tell. Pure.
//!
//! **Invariant:** a log is called cut short only where every place that was read when it was longer is read
//! now: a region that is behind, or was not asked, is no loss. What a take-over made void is still there, and
//! an epoch that was disposed of as a whole lost nothing of its end.

use std::collections::BTreeMap;

use tidemark_format::{Epoch, LogSeq};

/// A state that signed evidence says was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The epoch of its last log object.
    pub epoch: Epoch,
    /// That object.
    pub seq: LogSeq,
    /// The places that were read then.
    pub places: Vec<String>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The log still reaches it, or its epoch was disposed of.
    Yes,
    /// Its end is nowhere any more.
    Cut {
        /// The last log object that is left of the epoch.
        last: Option<LogSeq>,
    },
    /// Not every place that was read then could be read now.
    Unknown,
}

/// Judges by the places that are read now, and the last log object of each epoch that any of them has,
/// void ones included.
#[must_use]
pub fn kept(restored: &Restored, places: &[String], ends: &BTreeMap<Epoch, LogSeq>) -> Kept {
    let last = ends.get(&restored.epoch).copied();
    let goes_on = || ends.keys().any(|epoch| *epoch > restored.epoch);
    let is_read = |place: &String| places.contains(place);
    match last {
        Some(last) if last >= restored.seq => Kept::Yes,
        None if goes_on() => Kept::Yes,
        _ if restored.places.is_empty() || !restored.places.iter().all(is_read) => Kept::Unknown,
        last => Kept::Cut { last },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(ends: &[(u32, u64)], read: &[&str]) -> Kept {
        let restored = Restored {
            epoch: Epoch(2),
            seq: LogSeq(50),
            places: vec!["a".to_owned(), "b".to_owned()],
        };
        let ends = ends
            .iter()
            .map(|(epoch, seq)| (Epoch(*epoch), LogSeq(*seq)));
        let read: Vec<String> = read.iter().map(|place| (*place).to_owned()).collect();
        kept(&restored, &read, &ends.collect())
    }

    #[test]
    fn a_log_that_ends_before_what_was_restored_was_cut_where_everything_is_read() {
        let cut = |last: u64| Kept::Cut {
            last: Some(LogSeq(last)),
        };
        assert_eq!(judged(&[(2, 49)], &["a", "b"]), cut(49));
        assert_eq!(judged(&[(1, 90), (2, 49)], &["b", "c", "a"]), cut(49));
        // A new life after it brings nothing back.
        assert_eq!(judged(&[(2, 49), (3, 7)], &["a", "b"]), cut(49));
        // Nothing of it is left at all.
        assert_eq!(judged(&[(1, 90)], &["a", "b"]), Kept::Cut { last: None });
    }

    #[test]
    fn growth_a_new_epoch_a_disposal_and_a_region_that_was_not_read_are_no_loss() {
        for (ends, read) in [
            (&[(2, 50)][..], &["a", "b"][..]),
            (&[(2, 51), (3, 0)], &["a"]),
            (&[(3, 0)], &["a", "b"]),
        ] {
            assert_eq!(judged(ends, read), Kept::Yes, "{ends:?}");
        }
        // The one that is read may be behind the other.
        assert_eq!(judged(&[(2, 49)], &["a"]), Kept::Unknown);
        assert_eq!(judged(&[(2, 49)], &["c", "b"]), Kept::Unknown);
        assert_eq!(judged(&[], &[]), Kept::Unknown);
    }

    #[test]
    fn what_names_no_place_proves_no_loss() {
        let restored = Restored {
            epoch: Epoch(1),
            seq: LogSeq(5),
            places: Vec::new(),
        };
        let ends = [(Epoch(1), LogSeq(1))].into();
        assert_eq!(kept(&restored, &["a".to_owned()], &ends), Kept::Unknown);
    }
}
