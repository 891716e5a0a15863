//! What there is of a source in a period, in a few figures: how many, how far apart, since when. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_format::SourceName;
use tidemark_host::output;

use super::{Backup, What};

/// The longest time without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// When the one before it was sealed.
    pub from: Timestamp,
    /// When the next was, or until when none was.
    pub to: Timestamp,
    /// How long that is.
    pub seconds: u64,
    /// Whether none came since, up to the end of the period or to now.
    pub open: bool,
}

impl Gap {
    /// How long, from when, and whether anything ended it.
    #[must_use]
    pub fn words(&self) -> String {
        let long = output::duration(Duration::from_secs(self.seconds));
        let since = if self.open { ", none since" } else { "" };
        format!("{long} from {}{since}", output::instant(self.from))
    }
}

/// A source in a period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The source.
    pub source: SourceName,
    /// Its engine.
    pub engine: String,
    /// Whether it was retired: nothing of it is captured any more, and none is due.
    pub retired: bool,
    /// Full backups of the period that can be restored from.
    pub bases: usize,
    /// Recovery points of the period that count.
    pub points: usize,
    /// Rows of the period that are not good in every region that has what came later.
    pub in_doubt: usize,
    /// Bytes of the period's rows in one region.
    pub stored_bytes: u64,
    /// The oldest full backup that is kept, in whatever period.
    pub oldest_kept: Option<Timestamp>,
    /// The newest.
    pub newest_base: Option<Timestamp>,
    /// The newest recovery point.
    pub newest_point: Option<Timestamp>,
    /// The longest time between two full backups, as far as it lies in the period.
    pub longest_between_bases: Option<Gap>,
    /// The same of recovery points. A database in which nothing is committed gets none: no loss follows from
    /// this alone.
    pub longest_between_points: Option<Gap>,
}

/// Figures of what counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The period's beginning.
    pub from: Option<Timestamp>,
    /// Its end.
    pub to: Option<Timestamp>,
    /// Now.
    pub now: Timestamp,
    /// Whether the source is at rest.
    pub retired: bool,
}

impl Summary {
    /// For people.
    #[must_use]
    pub fn line(&self) -> String {
        let bases = output::count(self.bases, "full backup");
        let points = output::count(self.points, "recovery point");
        let gap = |what: &str, gap: Option<&Gap>| {
            gap.map_or_else(String::new, |gap| {
                format!("; longest between {what} {}", gap.words())
            })
        };
        format!(
            "{}: {bases}, {points}{}{}",
            self.source,
            gap("full backups", self.longest_between_bases.as_ref()),
            gap("points", self.longest_between_points.as_ref()),
        )
    }

    /// Of all rows of a source, those outside of the period, too: what was before it bounds its first gap.
    #[must_use]
    pub fn of(source: &SourceName, engine: &str, rows: &[Backup], asked: &Asked) -> Self {
        let counting = |what: What| {
            let own = rows
                .iter()
                .filter(move |row| row.what == what && row.state.counts());
            let mut all: Vec<Timestamp> = own.filter_map(|row| row.sealed).collect();
            all.sort_unstable();
            all
        };
        let period = (asked.from, asked.to);
        let here = || rows.iter().filter(|row| row.is_in(period));
        let count = |what: What| {
            let own = here().filter(|row| row.what == what && row.state.counts());
            own.count()
        };
        let (bases, points) = (counting(What::Base), counting(What::RecoveryPoint));
        let stored = here().filter_map(|row| row.stored_bytes);
        Self {
            source: source.clone(),
            engine: engine.to_owned(),
            retired: asked.retired,
            bases: count(What::Base),
            points: count(What::RecoveryPoint),
            in_doubt: here().filter(|row| row.is_in_doubt()).count(),
            stored_bytes: stored.fold(0, u64::saturating_add),
            oldest_kept: bases.first().copied(),
            newest_base: bases.last().copied(),
            newest_point: points.last().copied(),
            longest_between_bases: longest(&bases, asked),
            longest_between_points: longest(&points, asked),
        }
    }
}

/// The longest gap of ascending instants that ends in the period; of a source that is at work also the one
/// that nothing has ended yet.
fn longest(all: &[Timestamp], asked: &Asked) -> Option<Gap> {
    let end = asked.to.map_or(asked.now, |to| to.min(asked.now));
    let begin = asked.from.unwrap_or(Timestamp::MIN);
    let pairs = all.windows(2).filter_map(|pair| match pair {
        [from, to] if *to >= begin && *from < end => Some((*from, *to)),
        _ => None,
    });
    // One that reaches over the period's end is as long as it is, where the period is over.
    let closed = pairs.map(|(from, to)| gap(from, to, false));
    let last = all.last().filter(|last| !asked.retired && **last < end);
    let open = last.map(|last| gap(*last, end, true));
    closed.chain(open).max_by_key(|gap| gap.seconds)
}

fn gap(from: Timestamp, to: Timestamp, open: bool) -> Gap {
    Gap {
        from,
        to,
        seconds: to.duration_since(from).unsigned_abs().as_secs(),
        open,
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::tests::backup;
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn asked(from: Option<&str>, to: Option<&str>, retired: bool) -> Asked {
        Asked {
            from: from.map(at),
            to: to.map(at),
            now: at("2026-11-10T00:00:00Z"),
            retired,
        }
    }

    fn rows() -> Vec<Backup> {
        let days = ["01", "02", "05", "06", "07"];
        let base = |(number, day): (usize, &&str)| {
            let sealed = format!("2026-11-{day}T03:00:00Z");
            backup(What::Base, number as u64, &sealed)
        };
        days.iter().enumerate().map(base).collect()
    }

    fn of(rows: &[Backup], asked: &Asked) -> Summary {
        Summary::of(&rows[0].source.clone(), "sqlite", rows, asked)
    }

    #[test]
    fn the_longest_gap_is_found_and_one_that_nothing_ended_yet_is_one() {
        let rows = rows();
        let found = of(&rows, &asked(None, None, true));
        let gap = found.longest_between_bases.unwrap();
        assert_eq!((gap.seconds, gap.open), (3 * 24 * 3600, false));
        assert_eq!(gap.from, at("2026-11-02T03:00:00Z"));
        assert_eq!((found.bases, found.points), (5, 0));
        assert_eq!(found.oldest_kept, Some(at("2026-11-01T03:00:00Z")));
        // A source at work gets none for as long as it gets none.
        let mut late = asked(None, None, false);
        late.now = at("2026-11-20T03:00:00Z");
        let gap = of(&rows, &late).longest_between_bases.unwrap();
        assert_eq!((gap.seconds, gap.open), (13 * 24 * 3600, true));
    }

    #[test]
    fn a_gap_counts_where_it_ends_in_the_period_or_reaches_over_it() {
        let rows = rows();
        let begins_before = asked(
            Some("2026-11-04T00:00:00Z"),
            Some("2026-11-06T00:00:00Z"),
            false,
        );
        let found = of(&rows, &begins_before);
        assert_eq!(found.bases, 1);
        assert_eq!(found.longest_between_bases.unwrap().seconds, 3 * 24 * 3600);
        let after = asked(
            Some("2026-11-06T00:00:00Z"),
            Some("2026-11-08T00:00:00Z"),
            true,
        );
        let found = of(&rows, &after).longest_between_bases.unwrap();
        assert_eq!(found.seconds, 24 * 3600);
    }

    #[test]
    fn what_does_not_count_closes_no_gap_and_is_in_doubt() {
        let mut rows = rows();
        rows[2].state = State::Unusable;
        let found = of(&rows, &asked(None, None, true));
        assert_eq!((found.bases, found.in_doubt), (4, 1));
        assert_eq!(found.longest_between_bases.unwrap().seconds, 4 * 24 * 3600);
    }
}
