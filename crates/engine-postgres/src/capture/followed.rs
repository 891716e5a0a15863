//! What was captured of a server so far, as the source's own folder remembers it: read by those who have to
//! know which of several servers goes on, and whether it still has what comes next.

use std::path::Path;

use tidemark_format::postgres::{Lsn, SegmentName};

use super::plan::Sought;
use super::record::{State, StateFolder};

/// What was captured so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    sought: Sought,
    next: Lsn,
}

impl Followed {
    /// As an engine's folder remembers it; none if nothing was captured there, or the file can't be read.
    #[must_use]
    pub fn load(folder: &Path) -> Option<Self> {
        let folder = StateFolder::there(folder.to_owned());
        let state = folder.load().ok().flatten()?;
        Some(Self::of(&state, Lsn(folder.noted_acked())))
    }

    fn of(state: &State, acked: Lsn) -> Self {
        // What was shipped since the state was stored is in records; the server's own slot knows of it.
        let next = state.cursor.end().max(acked);
        Self {
            sought: state.sought(),
            next,
        }
    }

    /// What is looked for among several servers.
    pub(crate) const fn sought(&self) -> &Sought {
        &self.sought
    }

    /// What is captured next begins there.
    #[must_use]
    pub const fn next(&self) -> Lsn {
        self.next
    }

    /// The segment that holds it, as its file is named on every timeline: without the first eight letters.
    pub(crate) fn next_segment(&self) -> Option<String> {
        let place = self.sought.place?;
        let name = SegmentName::of(place.timeline, self.next, place.segment);
        name.text(place.segment).get(8..).map(str::to_owned)
    }

    /// One for tests.
    #[cfg(test)]
    pub(crate) fn at(next: Lsn) -> Self {
        use tidemark_format::Incarnation;
        use tidemark_format::postgres::{SegmentSize, TimelineId};

        use super::record::Cursor;
        let cursor = Cursor::begin(7, TimelineId(2), SegmentSize::DEFAULT, next);
        Self::of(&State::begin(Incarnation([1; 16]), 1, cursor), next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_segment_is_named_as_its_file_without_the_timeline() {
        let followed = Followed::at(Lsn(0x1_0300_1234));
        assert_eq!(followed.next(), Lsn(0x1_0300_1234));
        let segment = followed.next_segment();
        assert_eq!(segment.as_deref(), Some("0000000100000003"));
    }

    #[test]
    fn nothing_is_made_where_nothing_was_captured() {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = folder.path().join("engine");
        assert_eq!(Followed::load(&engine), None);
        assert!(!engine.exists());
    }
}
