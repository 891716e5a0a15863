//! Where replay is to stop: the target as the user names it, and the record that it means.
//!
//! A server is only ever told a record's position and a timeline. It would resolve times, transactions
//! and names by itself, but a time after the last commit of an idle database is a fatal error to it, and
//! the position at the very end of a log likewise. So they are resolved here, by its own rules, in the
//! order of the log:
//!
//! - a time stops before the first end of a transaction (commit or abort) past it. Commits are not
//!   ordered by their times: what was committed before the target but logged after that is not replayed;
//! - a transaction and a named point stop after their record (`inclusive`), or before it. The first
//!   record of that name or id after the base counts;
//! - a position replays every record that starts at or before it, or, exclusive, before it.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use tidemark_engine::examine::CanarySeen;
use tidemark_format::postgres::{Lsn, TimelineId};

use crate::wal::{Event, Outcome, PAGE_BYTES, PgTime, Span};

/// Where replay is to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// With the last whole record of the log.
    End,
    /// At an instant, with everything committed at it.
    AtOrBefore(Timestamp),
    /// At an instant, without what was committed at it.
    Before(Timestamp),
    /// At a position.
    Lsn {
        /// The position.
        at: Lsn,
        /// Whether a record that starts there is replayed.
        inclusive: bool,
    },
    /// At the end of a transaction.
    Xid {
        /// Its id, without an epoch.
        id: u32,
        /// Whether that is replayed.
        inclusive: bool,
    },
    /// After a named point.
    Name {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = |inclusive: &bool| if *inclusive { "" } else { "the state before " };
        match self {
            Self::End => f.write_str("the end of the log"),
            Self::AtOrBefore(at) => write!(f, "{at}"),
            Self::Before(at) => write!(f, "the state before {at}"),
            Self::Lsn { at, inclusive } => write!(f, "{}position {at}", before(inclusive)),
            Self::Xid { id, inclusive } => {
                write!(f, "{}the end of transaction {id}", before(inclusive))
            }
            Self::Name { name } => write!(f, "the named point {name:?}"),
        }
    }
}

/// The record that a target means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopFound {
    /// The branch that the record is on.
    pub timeline: TimelineId,
    /// Where the last record to be replayed starts: what the server is told.
    pub start: Lsn,
    /// Where a server that replayed it says that it stopped: what the proof compares with.
    pub end: Lsn,
    /// The latest commit that is replayed, as far as one is in the log read.
    pub ended_at: Option<Timestamp>,
    /// Commits replayed.
    pub commits: u64,
    /// The newest canary whose message is replayed, as far as one is in the log read.
    pub canary: Option<CanarySeen>,
    /// What stops replay there, in words.
    pub because: String,
}

/// What a record means for the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Replay goes on.
    On,
    /// Replay ends before it.
    StopBefore,
    /// Replay ends with it.
    StopAfter,
}

/// Messages of transactions that are open are remembered up to so many; the agent has one at a time.
const OPEN_CANARIES_MAX: usize = 64;

/// The canaries that are replayed.
#[derive(Debug, Clone, Default)]
struct Canaries {
    /// Of transactions that have not ended.
    open: BTreeMap<u32, (u64, Timestamp)>,
    newest: Option<CanarySeen>,
}

impl Canaries {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Canary { xid, seq, at } if self.open.len() < OPEN_CANARIES_MAX => {
                self.open.insert(*xid, (*seq, *at));
            }
            Event::End { xid, outcome, .. } => {
                let ended = self.open.remove(xid);
                if let Some((seq, at)) = ended.filter(|_| *outcome == Outcome::Committed) {
                    let before = self.newest.as_ref().map_or(0, |seen| seen.rows);
                    self.newest = Some(CanarySeen {
                        seq,
                        at,
                        // Replay stops before it.
                        next_absent: true,
                        rows: before.saturating_add(1),
                    });
                }
            }
            // Whatever was open when the server crashed never ended.
            Event::Checkpoint { shutdown: true, .. } | Event::EndOfRecovery { .. } => {
                self.open.clear();
            }
            _ => {}
        }
    }
}

/// Weighs the log's events against the target. Pure.
#[derive(Debug, Clone)]
pub(super) struct Judge {
    stop: Stop,
    /// For times: the first instant that is too late.
    too_late: Option<PgTime>,
    last_commit: Option<PgTime>,
    commits: u64,
    canaries: Canaries,
}

impl Judge {
    pub(super) fn new(stop: Stop) -> Self {
        let too_late = match &stop {
            // Times have whole microseconds: past the target means at least the next one.
            Stop::AtOrBefore(at) => PgTime::of(*at).map(|time| PgTime(time.0.saturating_add(1))),
            Stop::Before(at) => PgTime::of(*at).map(|time| {
                let whole = time.timestamp() == Some(*at);
                PgTime(time.0.saturating_add(i64::from(!whole)))
            }),
            _ => None,
        };
        Self {
            stop,
            too_late,
            last_commit: None,
            commits: 0,
            canaries: Canaries::default(),
        }
    }

    pub(super) const fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Forgets what was replayed.
    pub(super) fn restart(&mut self) {
        self.last_commit = None;
        self.commits = 0;
        self.canaries = Canaries::default();
    }

    /// Weighs the next event; what is replayed counts.
    pub(super) fn weigh(&mut self, event: &Event) -> Judgement {
        let judgement = self.judgement(event);
        if judgement != Judgement::StopBefore {
            self.count(event);
        }
        judgement
    }

    fn judgement(&self, event: &Event) -> Judgement {
        match (&self.stop, event) {
            (Stop::AtOrBefore(_) | Stop::Before(_), Event::End { at, .. })
                if self.too_late.is_some_and(|too_late| *at >= too_late) =>
            {
                Judgement::StopBefore
            }
            (Stop::Xid { id, inclusive }, Event::End { xid, inner, .. })
                if id == xid || inner.contains(id) =>
            {
                if *inclusive {
                    Judgement::StopAfter
                } else {
                    Judgement::StopBefore
                }
            }
            (Stop::Name { name }, Event::Point { name: found, .. })
                if name.as_bytes() == found.as_slice() =>
            {
                Judgement::StopAfter
            }
            _ => Judgement::On,
        }
    }

    fn count(&mut self, event: &Event) {
        if let Event::End {
            outcome: Outcome::Committed,
            at,
            ..
        } = event
        {
            self.commits = self.commits.saturating_add(1);
            self.last_commit = self.last_commit.max(Some(*at));
        }
        self.canaries.take(event);
    }

    /// The target as found: the last record to be replayed is `record`, and a server that replayed it
    /// says that it stopped at `end`.
    pub(super) fn found(
        &self,
        timeline: TimelineId,
        record: Lsn,
        end: Lsn,
        because: String,
    ) -> StopFound {
        StopFound {
            timeline,
            start: record,
            end,
            ended_at: self.last_commit.and_then(PgTime::timestamp),
            commits: self.commits,
            canary: self.canaries.newest.clone(),
            because,
        }
    }
}

/// Where the record that ends before the one at `next` ended, as a server says: a page's header is
/// not counted.
pub(super) const fn end_before(next: Lsn, segment_header: bool) -> Lsn {
    let into = next.0 % PAGE_BYTES;
    let header = if segment_header { 40 } else { 24 };
    if into == header {
        Lsn(next.0 - into)
    } else {
        next
    }
}

/// Where the record after one that ends at `end` may start, at the latest.
pub(super) const fn start_after(end: Lsn, segment_header: bool) -> Lsn {
    let header = if segment_header { 40 } else { 24 };
    if end.0.is_multiple_of(PAGE_BYTES) {
        end.plus(header)
    } else {
        end
    }
}

/// What an event is called in a reason.
pub(super) fn describe(event: &Event, span: Span) -> String {
    match event {
        Event::End {
            xid, outcome, at, ..
        } => {
            let what = if *outcome == Outcome::Committed {
                "commit"
            } else {
                "abort"
            };
            let when = at
                .timestamp()
                .map_or_else(String::new, |at| format!(" of {at}"));
            format!("the {what} of transaction {xid}{when} at {}", span.start)
        }
        Event::Point { name, .. } => format!(
            "the named point {:?} at {}",
            String::from_utf8_lossy(name),
            span.start
        ),
        _ => format!("the record at {}", span.start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(xid: u32, micros: i64, outcome: Outcome) -> Event {
        Event::End {
            xid,
            outcome,
            at: PgTime(micros),
            inner: vec![xid + 1000],
        }
    }

    fn time(micros: i64) -> Timestamp {
        PgTime(micros).timestamp().expect("a time")
    }

    /// What a target makes of commits at these times, in the order of the log.
    fn replayed(stop: Stop, micros: &[i64]) -> usize {
        let mut judge = Judge::new(stop);
        let commits = micros
            .iter()
            .map(|micros| end(7, *micros, Outcome::Committed));
        commits
            .take_while(|event| judge.weigh(event) == Judgement::On)
            .count()
    }

    #[test]
    fn an_instant_includes_its_own_commits_and_before_it_does_not() {
        let times = [10, 20, 20, 30];
        assert_eq!(replayed(Stop::AtOrBefore(time(20)), &times), 3);
        assert_eq!(replayed(Stop::Before(time(20)), &times), 1);
        assert_eq!(replayed(Stop::AtOrBefore(time(30)), &times), 4);
        assert_eq!(replayed(Stop::Before(time(10)), &times), 0);
    }

    #[test]
    fn instants_between_microseconds_are_told_apart() {
        let between = Timestamp::from_nanosecond(time(20).as_nanosecond() + 500).expect("a time");
        assert_eq!(replayed(Stop::AtOrBefore(between), &[10, 20, 21]), 2);
        assert_eq!(replayed(Stop::Before(between), &[10, 20, 21]), 2);
    }

    #[test]
    fn the_order_of_the_log_counts_and_aborts_stop_too() {
        // As a server does: an earlier commit that was logged later is not reached.
        assert_eq!(replayed(Stop::AtOrBefore(time(20)), &[10, 21, 19]), 1);
        let mut judge = Judge::new(Stop::AtOrBefore(time(20)));
        let abort = end(8, 21, Outcome::Aborted);
        assert_eq!(judge.weigh(&abort), Judgement::StopBefore);
    }

    #[test]
    fn transactions_and_names_stop_after_their_record() {
        let commit = end(42, 5, Outcome::Committed);
        let xid = |inclusive| Judge::new(Stop::Xid { id: 42, inclusive }).weigh(&commit);
        assert_eq!(xid(true), Judgement::StopAfter);
        assert_eq!(xid(false), Judgement::StopBefore);
        // A subtransaction ends with the transaction that it is a part of.
        let inner = Stop::Xid {
            id: 1042,
            inclusive: true,
        };
        assert_eq!(Judge::new(inner).weigh(&commit), Judgement::StopAfter);
        let point = Event::Point {
            name: b"here".to_vec(),
            at: PgTime(1),
        };
        let name = |name: &str| {
            let name = name.to_owned();
            Judge::new(Stop::Name { name }).weigh(&point)
        };
        assert_eq!(name("here"), Judgement::StopAfter);
        assert_eq!(name("there"), Judgement::On);
    }

    #[test]
    fn only_what_is_replayed_is_counted() {
        let mut judge = Judge::new(Stop::Before(time(30)));
        for event in [
            end(1, 20, Outcome::Committed),
            end(2, 10, Outcome::Committed),
            end(3, 25, Outcome::Aborted),
            end(4, 30, Outcome::Committed),
        ] {
            judge.weigh(&event);
        }
        let found = judge.found(TimelineId(1), Lsn(8), Lsn(16), String::new());
        assert_eq!((found.commits, found.ended_at), (2, Some(time(20))));
    }

    #[test]
    fn a_canary_counts_once_its_transaction_is_committed_and_is_replayed() {
        let canary = |xid, seq| Event::Canary {
            xid,
            seq,
            at: time(i64::try_from(seq).expect("small")),
        };
        let mut judge = Judge::new(Stop::Before(time(30)));
        for event in [
            canary(1, 5),
            end(1, 10, Outcome::Committed),
            canary(2, 6),
            end(2, 11, Outcome::Aborted),
            canary(3, 7),
            end(4, 12, Outcome::Committed),
            end(3, 13, Outcome::Committed),
            canary(5, 8),
            end(5, 30, Outcome::Committed),
        ] {
            judge.weigh(&event);
        }
        let found = judge.found(TimelineId(1), Lsn(8), Lsn(16), String::new());
        let seen = found.canary.expect("two canaries are replayed");
        assert_eq!((seen.seq, seen.at, seen.rows), (7, time(7), 2));
        judge.restart();
        let again = judge.found(TimelineId(1), Lsn(8), Lsn(16), String::new());
        assert_eq!(again.canary, None);
    }

    #[test]
    fn a_records_end_does_not_count_the_next_pages_header() {
        assert_eq!(end_before(Lsn(0x2018), false), Lsn(0x2000));
        assert_eq!(end_before(Lsn(0x100_0028), true), Lsn(0x100_0000));
        assert_eq!(end_before(Lsn(0x2020), false), Lsn(0x2020));
        assert_eq!(start_after(Lsn(0x2000), false), Lsn(0x2018));
        assert_eq!(start_after(Lsn(0x100_0000), true), Lsn(0x100_0028));
        assert_eq!(start_after(Lsn(0x2020), false), Lsn(0x2020));
    }
}
