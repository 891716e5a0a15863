//! What the records of a range of the log mean: the open facts of an object's head. Pure.

use jiff::Timestamp;

use crate::wal::{Event, Outcome};

/// Names of restore points told in the head of one object.
const POINTS_MAX: usize = 64;

/// What the records of a range mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Commits.
    pub(crate) commits: u64,
    /// When the first of them was made.
    pub(crate) first: Option<Timestamp>,
    /// The latest of them.
    pub(crate) latest: Option<Timestamp>,
    /// Smallest and largest id of a committed transaction, subtransactions included.
    pub(crate) xids: Option<(u32, u32)>,
    /// Names of restore points.
    pub(crate) points: Vec<String>,
    /// The server stopped in it.
    pub(crate) shutdown: bool,
}

impl Summary {
    pub(super) fn add(&mut self, event: &Event) {
        match event {
            Event::End {
                xid,
                outcome: Outcome::Committed,
                at,
                inner,
            } => {
                self.commits = self.commits.saturating_add(1);
                let at = at.timestamp();
                self.first = self.first.or(at);
                self.latest = self.latest.max(at);
                // Who names a subtransaction means the one that it is a part of.
                for xid in inner.iter().chain([xid]).filter(|xid| **xid != 0) {
                    let (low, high) = self.xids.unwrap_or((*xid, *xid));
                    self.xids = Some((low.min(*xid), high.max(*xid)));
                }
            }
            Event::Point { name, .. } if self.points.len() < POINTS_MAX => {
                self.points.push(String::from_utf8_lossy(name).into_owned());
            }
            Event::Checkpoint { shutdown, .. } => self.shutdown = *shutdown,
            _ => {}
        }
    }

    pub(super) fn merge(&mut self, later: &Self) {
        self.commits = self.commits.saturating_add(later.commits);
        self.first = self.first.or(later.first);
        self.latest = self.latest.max(later.latest);
        self.xids = match (self.xids, later.xids) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, other) => one.or(other),
        };
        let room = POINTS_MAX.saturating_sub(self.points.len());
        self.points.extend(later.points.iter().take(room).cloned());
        self.shutdown |= later.shutdown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::PgTime;

    fn of(events: &[Event]) -> Summary {
        let mut summary = Summary::default();
        for event in events {
            summary.add(event);
        }
        summary
    }

    fn end(xid: u32, outcome: Outcome, at: i64) -> Event {
        Event::End {
            xid,
            outcome,
            at: PgTime(at),
            inner: Vec::new(),
        }
    }

    #[test]
    fn commits_count_and_aborts_dont() {
        let summary = of(&[
            end(9, Outcome::Committed, 5_000_000),
            end(3, Outcome::Aborted, 9_000_000),
            end(4, Outcome::Committed, 1_000_000),
            // Without an id: nothing was written.
            end(0, Outcome::Committed, 2_000_000),
        ]);
        assert_eq!(summary.commits, 3);
        assert_eq!(summary.xids, Some((4, 9)));
        assert_eq!(summary.first, PgTime(5_000_000).timestamp());
        assert_eq!(summary.latest, PgTime(5_000_000).timestamp());
    }

    #[test]
    fn names_of_points_are_bounded() {
        let point = |n: usize| Event::Point {
            name: format!("p{n}").into_bytes(),
            at: PgTime(0),
        };
        let many: Vec<Event> = (0..100).map(point).collect();
        let mut summary = of(&many);
        summary.merge(&of(&many));
        assert_eq!(summary.points.len(), POINTS_MAX);
        assert_eq!(summary.points[0], "p0");
    }
}
