//! Histories of timelines: which branch left which one, and where.
//!
//! A history file lists the ancestors of a timeline, oldest first, each with the position at which
//! it was left. Everything here is decided from such files alone: ids need not be consecutive (a
//! promotion that failed burns one), and a branch is found by its row, never by counting.

use tidemark_format::postgres::{Lsn, TimelineId};

/// An ancestor, and where it was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// The branch that was left.
    pub parent: TimelineId,
    /// Where: bytes before it are the parent's, from it on the child's.
    pub at: Lsn,
}

/// The ancestry of one timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    timeline: TimelineId,
    forks: Vec<Fork>,
}

/// A history file that the server would not have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the history of timeline {timeline} is not valid at line {line}: {why}")]
pub struct BadHistory {
    timeline: TimelineId,
    line: usize,
    why: &'static str,
}

impl History {
    /// The history of the first timeline, which has no file.
    #[must_use]
    pub const fn first() -> Self {
        Self {
            timeline: TimelineId::FIRST,
            forks: Vec::new(),
        }
    }

    /// Reads a history file. Comments, blank lines and the reason at a line's end are skipped.
    ///
    /// # Errors
    /// [`BadHistory`]: not a file that a server would follow.
    pub fn parse(timeline: TimelineId, file: &[u8]) -> Result<Self, BadHistory> {
        let mut forks: Vec<Fork> = Vec::new();
        for (index, line) in file.split(|byte| *byte == b'\n').enumerate() {
            let bad = |why| BadHistory {
                timeline,
                line: index.saturating_add(1),
                why,
            };
            // The reason may be in any encoding (it can name a restore point): only what stands
            // before it has to be text.
            let mut words = line
                .split(|byte| byte.is_ascii_whitespace())
                .filter(|word| !word.is_empty());
            let Some(id) = words.next().filter(|word| !word.starts_with(b"#")) else {
                continue;
            };
            let text = |word| std::str::from_utf8(word).ok();
            let parent = text(id)
                .and_then(|id| id.parse().ok())
                .filter(|id| *id > 0)
                .ok_or_else(|| bad("it does not begin with a timeline's id"))?;
            let at = words
                .next()
                .and_then(text)
                .and_then(|lsn| lsn.parse().ok())
                .ok_or_else(|| bad("no log position follows the timeline's id"))?;
            let fork = Fork {
                parent: TimelineId(parent),
                at,
            };
            if fork.parent >= timeline
                || forks.last().is_some_and(|last| last.parent >= fork.parent)
            {
                return Err(bad("ids of timelines do not ascend"));
            }
            if forks.last().is_some_and(|last| last.at > fork.at) {
                return Err(bad("positions do not ascend"));
            }
            forks.push(fork);
        }
        if forks.is_empty() {
            return Err(BadHistory {
                timeline,
                line: 1,
                why: "it names no ancestor",
            });
        }
        Ok(Self { timeline, forks })
    }

    /// Whose history it is.
    #[must_use]
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The ancestors, oldest first.
    #[must_use]
    pub fn forks(&self) -> &[Fork] {
        &self.forks
    }

    /// The branch that the byte at `lsn` belongs to, on the way to this timeline.
    #[must_use]
    pub fn branch_of(&self, lsn: Lsn) -> TimelineId {
        self.forks
            .iter()
            .find(|fork| lsn < fork.at)
            .map_or(self.timeline, |fork| fork.parent)
    }

    /// Where `ancestor` was left on the way here; none if it is not an ancestor (or this timeline).
    #[must_use]
    pub fn left_at(&self, ancestor: TimelineId) -> Option<Lsn> {
        self.forks
            .iter()
            .find(|fork| fork.parent == ancestor)
            .map(|fork| fork.at)
    }

    /// Whether a log that ends at `lsn` on `timeline` is a beginning of this one.
    #[must_use]
    pub fn continues(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        timeline == self.timeline || self.left_at(timeline).is_some_and(|left| lsn <= left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(timeline: u32, file: &str) -> Result<History, BadHistory> {
        History::parse(TimelineId(timeline), file.as_bytes())
    }

    #[test]
    fn a_history_is_read_as_the_server_wrote_it() {
        let file = "1\t0/513A4F8\tno recovery target specified\n\n# a comment\n 3 0/A000000\tafter 2026-11-21\n";
        let history = parse(7, file).expect("a history");
        assert_eq!(
            history.forks(),
            [
                Fork {
                    parent: TimelineId(1),
                    at: Lsn(0x513_A4F8)
                },
                Fork {
                    parent: TimelineId(3),
                    at: Lsn(0xA00_0000)
                }
            ]
        );
        assert_eq!(history.branch_of(Lsn(0)), TimelineId(1));
        assert_eq!(history.branch_of(Lsn(0x513_A4F7)), TimelineId(1));
        assert_eq!(history.branch_of(Lsn(0x513_A4F8)), TimelineId(3));
        assert_eq!(history.branch_of(Lsn(0xA00_0000)), TimelineId(7));
    }

    #[test]
    fn the_reason_may_be_in_any_encoding() {
        let file = b"1\t0/10\tat restore point \"b\xE9ta\"\n";
        assert!(History::parse(TimelineId(2), file).is_ok());
    }

    #[test]
    fn a_log_past_the_fork_is_no_beginning_of_the_new_branch() {
        let history = parse(3, "1\t0/100\tx\n2\t0/200\tx\n").expect("a history");
        assert!(history.continues(TimelineId(1), Lsn(0x100)));
        assert!(!history.continues(TimelineId(1), Lsn(0x101)));
        assert!(history.continues(TimelineId(2), Lsn(0x180)));
        assert!(history.continues(TimelineId(3), Lsn(0x900)));
        assert!(!history.continues(TimelineId(4), Lsn(0)));
    }

    #[test]
    fn files_that_no_server_wrote_are_refused_with_the_line() {
        for (file, line) in [
            ("x\t0/1\n", 1),
            ("0\t0/1\n", 1),
            ("1\n", 1),
            ("1\tzero\n", 1),
            ("", 1),
            ("1\t0/2\n2\t0/1\n", 2),
            ("2\t0/1\n1\t0/2\n", 2),
            ("# ok\n5\t0/1\n", 2),
        ] {
            let error = parse(5, file).expect_err(file);
            assert_eq!(error.line, line, "{file:?}");
        }
        assert!(History::parse(TimelineId(2), b"\xFF\xFE\t0/1").is_err());
    }
}
