//! When each frame of the log was first seen.
//!
//! The log's end is noted, with the time, whenever the wal-index is read; frames are captured later,
//! sometimes much later when cuts wait. So a commit's time doesn't depend on how fast its pages
//! were read, and it is known up to which instant everything is captured.

use std::collections::VecDeque;

use jiff::Timestamp;

/// Ends that are remembered while capturing lags behind; past it every other one is forgotten, and
/// times become coarser, never earlier.
const MARKS_MAX: usize = 1024;

/// Ends of the log and when they were first seen, both ascending.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    marks: VecDeque<(u32, Timestamp)>,
}

impl Seen {
    /// The log ended with `frames` at `at`, a time from before it was looked at.
    pub(crate) fn note(&mut self, frames: u32, at: Timestamp) {
        let newest = self.marks.back().copied();
        if newest.is_some_and(|(last, _)| last >= frames) {
            return;
        }
        if self.marks.len() >= MARKS_MAX {
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        let at = newest.map_or(at, |(_, last)| last.max(at));
        self.marks.push_back((frames, at));
    }

    /// When `frame` was first seen; `None` if that was before everything remembered here.
    pub(crate) fn at(&self, frame: u32) -> Option<Timestamp> {
        let first = self.marks.partition_point(|(end, _)| *end < frame);
        self.marks.get(first).map(|(_, at)| *at)
    }

    /// The newest time at which the log ended with `frame` or before it.
    pub(crate) fn passed(&self, frame: u32) -> Option<Timestamp> {
        let after = self.marks.partition_point(|(end, _)| *end <= frame);
        let last = after.checked_sub(1)?;
        self.marks.get(last).map(|(_, at)| *at)
    }

    /// Frames up to this one won't be asked for any more.
    pub(crate) fn forget(&mut self, frame: u32) {
        while self.marks.front().is_some_and(|(end, _)| *end <= frame) {
            self.marks.pop_front();
        }
    }

    /// Another log begins.
    pub(crate) fn clear(&mut self) {
        self.marks.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_frame_has_the_time_at_which_the_log_was_first_seen_to_hold_it() {
        let mut seen = Seen::default();
        for (frames, second) in [(10, 1), (10, 2), (30, 3), (30, 4), (31, 5)] {
            seen.note(frames, at(second));
        }
        assert_eq!(seen.at(10), Some(at(1)));
        assert_eq!(seen.at(11), Some(at(3)));
        assert_eq!(seen.at(31), Some(at(5)));
        assert_eq!(seen.at(32), None);
    }

    #[test]
    fn only_an_end_that_was_reached_counts_as_complete() {
        let mut seen = Seen::default();
        seen.note(10, at(1));
        seen.note(30, at(3));
        assert_eq!(seen.passed(9), None);
        assert_eq!(seen.passed(29), Some(at(1)));
        assert_eq!(seen.passed(30), Some(at(3)));
    }

    #[test]
    fn a_long_lag_makes_times_coarser_and_never_earlier() {
        let mut seen = Seen::default();
        for n in 1..5000 {
            seen.note(n, at(i64::from(n)));
        }
        for n in [1, 100, 2500, 4998] {
            assert!(seen.at(n) >= Some(at(i64::from(n))));
            assert!(seen.passed(n) <= Some(at(i64::from(n))));
        }
        assert!(seen.marks.len() <= MARKS_MAX);
        seen.forget(4000);
        assert!(seen.at(3).is_some_and(|time| time >= at(4000)));
        seen.clear();
        assert_eq!(seen.at(1), None);
    }
}
