//! Recovery points: "everything up to here is durable", signed, chained, the same bytes everywhere.
//!
//! A point is sealed over a log object that is durable in at least one region; each region creates
//! it only once what it names is durable there ([`crate::ship::lane`]). Its facts are open: newer
//! agents add to them, readers keep what they don't know.

use std::collections::BTreeMap;

use tidemark_format::heads::{ClockFacts, Facts, PointHead};
use tidemark_format::sign::SigningKey;
use tidemark_format::{Incarnation, RegionId, RepoId, keys};
use tidemark_host::{Clock, NtpState, Rng, RngExt as _};
use tidemark_seal::{Error as SealError, Sealed, sign};

use crate::state::SourceRecord;
use crate::state::source::Restorable;
use crate::status_live::Board;

/// What a point says beside what the record knows.
#[derive(Debug, Clone, Default)]
pub struct PointFacts {
    /// A name that a person gave it.
    pub name: Option<String>,
    /// It is the source's last one.
    pub retired: bool,
    /// Open facts of the agent: versions, host, config hash.
    pub agent: Facts,
}

/// What points are sealed with.
pub struct PointTools<'a> {
    /// The repository.
    pub repo: RepoId,
    /// The engine.
    pub engine: &'a str,
    /// The agent's key.
    pub signer: &'a SigningKey,
    /// The clocks.
    pub clock: &'a dyn Clock,
    /// Draws put-ids.
    pub rng: &'a dyn Rng,
    /// What the regions' clocks and probes say.
    pub board: &'a Board,
}

impl std::fmt::Debug for PointTools<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PointTools({})", self.engine)
    }
}

/// Seals the point over `last`. `None` if there is no base for it to rest on, or the base isn't
/// usable that early.
///
/// # Errors
/// A head that is larger than it may be.
pub fn seal_point(
    record: &SourceRecord,
    last: Restorable,
    facts: PointFacts,
    tools: &PointTools<'_>,
) -> Result<Option<(Sealed, PointHead)>, SealError> {
    let (Some(base), Some(incarnation)) = (record.base, record.incarnation) else {
        return Ok(None);
    };
    if last.seq < base.usable_from {
        return Ok(None);
    }
    let head = head(record, last, (base.reference, incarnation), facts, tools);
    let key = keys::point(&head.source, head.epoch, head.seq);
    let sealed = sign(key, head.put, &head, tools.signer)?;
    Ok(Some((sealed, head)))
}

fn head(
    record: &SourceRecord,
    last: Restorable,
    rests_on: (tidemark_format::heads::BaseRef, Incarnation),
    facts: PointFacts,
    tools: &PointTools<'_>,
) -> PointHead {
    let (base, incarnation) = rests_on;
    let mut open = facts.agent;
    if facts.retired {
        open.insert("retired".to_owned(), true.into());
    }
    PointHead {
        repo: tools.repo,
        source: record.source.clone(),
        engine: tools.engine.to_owned(),
        incarnation,
        epoch: record.epoch,
        seq: record.point.next,
        put: tools.rng.id(),
        prev: record.point.link,
        // Neither before the log nor before the last point, whatever the clock does.
        at: record
            .not_before_the_log(tools.clock.now())
            .max(record.point.at.unwrap_or(jiff::Timestamp::MIN)),
        committed: last.committed,
        log_seq: last.seq,
        log_link: last.link,
        base,
        name: facts.name,
        clock: clock_facts(tools.clock, tools.board),
        create_only: create_only(tools.board),
        facts: open,
    }
}

/// What the clocks say, for people and drills.
#[must_use]
pub fn clock_facts(clock: &dyn Clock, board: &Board) -> ClockFacts {
    let offsets: BTreeMap<RegionId, i64> = board.read(|_, regions, _| {
        regions
            .values()
            .filter_map(|live| Some((live.id?, live.clock_offset_ms?)))
            .collect()
    });
    ClockFacts {
        boot_ms: u64::try_from(clock.since_boot().as_millis()).unwrap_or(u64::MAX),
        synchronised: match clock.ntp() {
            NtpState::Synchronised => Some(true),
            NtpState::Unsynchronised => Some(false),
            NtpState::Unknown => None,
        },
        region_offset_ms: offsets,
    }
}

fn create_only(board: &Board) -> BTreeMap<RegionId, String> {
    board.read(|_, regions, _| {
        regions
            .values()
            .filter_map(|live| Some((live.id?, live.create_only.clone()?)))
            .collect()
    })
}

/// The restorable ends of log objects that no region may have yet, so that the newest durable one
/// can be told. Bounded: in a long outage the oldest go, which costs nothing but an older point.
#[derive(Debug, Default)]
pub struct Ends {
    waiting: std::collections::VecDeque<Restorable>,
    durable: Option<Restorable>,
}

/// Most ends that are kept.
const ENDS_MAX: usize = 4096;

impl Ends {
    /// A restorable object was sealed.
    pub fn sealed(&mut self, end: Restorable) {
        if self.waiting.len() >= ENDS_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(end);
    }

    /// Some region has the log through `through`: returns the newest end that is durable.
    pub fn durable_through(
        &mut self,
        through: Option<tidemark_format::LogSeq>,
    ) -> Option<Restorable> {
        while let Some(end) = self.waiting.front().copied() {
            if Some(end.seq) > through {
                break;
            }
            self.durable = Some(end);
            self.waiting.pop_front();
        }
        self.durable
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tidemark_format::{Hash, LogSeq, RegionName};
    use tidemark_host::SimClock;

    use super::*;

    #[test]
    fn points_and_beats_say_what_a_drill_corrects_for() {
        let board = Board::default();
        let (near, far) = (RegionId([1; 16]), RegionId([2; 16]));
        for (name, id, offset) in [
            ("near", near, Some(-3)),
            ("far", far, Some(7_000)),
            // A directory has no clock of its own.
            ("disk", RegionId([3; 16]), None),
        ] {
            board.region(&RegionName::new(name).unwrap(), |live| {
                (live.id, live.clock_offset_ms) = (Some(id), offset);
            });
        }
        let clock = SimClock::at(Timestamp::UNIX_EPOCH);
        let facts = clock_facts(&clock, &board);
        assert_eq!((facts.boot_ms, facts.synchronised), (3_600_000, Some(true)));
        assert_eq!(facts.region_offset_ms, [(near, -3), (far, 7_000)].into());
        // A step of the wall clock shows beside the time since boot, which goes on.
        clock.step_wall(jiff::SignedDuration::from_hours(-5));
        clock.set_ntp(NtpState::Unsynchronised);
        let facts = clock_facts(&clock, &board);
        assert_eq!(
            (facts.boot_ms, facts.synchronised),
            (3_600_000, Some(false))
        );
        clock.set_ntp(NtpState::Unknown);
        assert_eq!(clock_facts(&clock, &board).synchronised, None);
    }

    fn end(seq: u64) -> Restorable {
        let committed = Timestamp::from_second(i64::try_from(seq).unwrap()).unwrap();
        Restorable {
            seq: LogSeq(seq),
            link: Hash::of(b""),
            committed,
        }
    }

    #[test]
    fn the_newest_durable_end_is_told() {
        let mut ends = Ends::default();
        for seq in [0, 2, 5] {
            ends.sealed(end(seq));
        }
        assert_eq!(ends.durable_through(None), None);
        assert_eq!(ends.durable_through(Some(LogSeq(3))), Some(end(2)));
        assert_eq!(ends.durable_through(Some(LogSeq(1))), Some(end(2)));
        assert_eq!(ends.durable_through(Some(LogSeq(9))), Some(end(5)));
    }

    #[test]
    fn ends_are_bounded() {
        let mut ends = Ends::default();
        for seq in 0..10_000 {
            ends.sealed(end(seq));
        }
        assert!(ends.waiting.len() <= ENDS_MAX);
        assert_eq!(ends.durable_through(Some(LogSeq(20_000))), Some(end(9_999)));
    }
}
