//! Whether every region's shipper moves, judged from what stands on the board alone: so that a
//! deadlock, or a request that its own deadline doesn't end, shows whatever its cause.
//!
//! Pure: [`Shippers`] is told how things stand and when. A region that is away, a source that is
//! paused, fenced or full waits for something that has a name, and is not called stuck.
//!
//! **Failure.** What hangs is named in `status` first; if it still hangs long after, the keep-alive
//! stops and the service manager starts the agent anew, which goes on from the spool.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_format::{LogSeq, PointSeq, RegionName, SourceName};
use tidemark_host::Monotonic;

use crate::status_live::{LiveRegion, LiveSource, SourceState};

/// A create of 8 MiB over the slowest link that is waited for takes three minutes.
const NAMED_AFTER: Duration = Duration::from_secs(15 * 60);
/// Beats that must have come in [`NAMED_AFTER`], however rarely they are made.
const BEATS: u32 = 3;
/// So many times as long as until it is named, and the keep-alive stops.
const HANGS_TIMES: u32 = 3;

/// Something that must move, as it stood when it moved last.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// A region's newest beat.
    Beat(Option<u64>),
    /// A source's log, points and backlog in a region.
    Lane(Option<LogSeq>, Option<PointSeq>, u64, u64),
}

/// A region, and the source if it is about one.
type Part = (RegionName, Option<SourceName>);

/// A shipper that doesn't move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stuck {
    /// The region.
    pub(super) region: RegionName,
    /// The source, if only it is stuck there.
    pub(super) source: Option<SourceName>,
    /// For how long.
    pub(super) since: Duration,
}

/// What moved when.
#[derive(Debug)]
pub(super) struct Shippers {
    parts: BTreeMap<Part, (Standing, Monotonic)>,
    named_after: Duration,
}

impl Shippers {
    /// Watches agents that beat every `beat_every`.
    pub(super) fn new(beat_every: Duration) -> Self {
        Self {
            parts: BTreeMap::new(),
            named_after: NAMED_AFTER.max(beat_every.saturating_mul(BEATS)),
        }
    }

    /// What doesn't move though it should.
    pub(super) fn look(
        &mut self,
        sources: &BTreeMap<SourceName, LiveSource>,
        regions: &BTreeMap<RegionName, LiveRegion>,
        now: Monotonic,
    ) -> Vec<Stuck> {
        let mut stand = BTreeMap::new();
        for (region, live) in regions.iter().filter(|(_, live)| live.up) {
            stand.insert((region.clone(), None), Standing::Beat(live.beat));
            let lanes = sources.iter().filter(|(_, source)| must_move(source));
            for (source, live) in lanes {
                if let Some(lane) = live.lanes.get(region).filter(|lane| lane.behind > 0) {
                    let (log, point) = (lane.log_through, lane.point_through);
                    let standing = Standing::Lane(log, point, lane.behind, lane.backlog_bytes);
                    stand.insert((region.clone(), Some(source.clone())), standing);
                }
            }
        }
        // What is away, paused or done begins anew when it must move again.
        self.parts.retain(|part, _| stand.contains_key(part));
        for (part, standing) in stand {
            let (moved, at) = self
                .parts
                .entry(part)
                .or_insert_with(|| (standing.clone(), now));
            if *moved != standing {
                (*moved, *at) = (standing, now);
            }
        }
        let stands = self.parts.iter().map(|((region, source), (_, at))| Stuck {
            region: region.clone(),
            source: source.clone(),
            since: now.since(*at),
        });
        stands
            .filter(|stuck| stuck.since >= self.named_after)
            .collect()
    }

    /// Whether it hangs for so long that only a new start may help.
    pub(super) fn hangs(&self, stuck: &Stuck) -> bool {
        stuck.since >= self.named_after.saturating_mul(HANGS_TIMES)
    }
}

const fn must_move(source: &LiveSource) -> bool {
    match source.state {
        SourceState::Capturing | SourceState::CatchingUp | SourceState::WaitingForDatabase => true,
        SourceState::Starting
        | SourceState::WaitingForEnrolment
        | SourceState::WaitingForRegion
        | SourceState::HeldByFullSpool
        | SourceState::HeldByFullDisk
        | SourceState::Paused
        | SourceState::Fenced
        | SourceState::Retired => false,
    }
}

/// What people are told.
pub(super) fn text(stuck: &Stuck) -> String {
    let (region, minutes) = (&stuck.region, stuck.since.as_secs() / 60);
    let what = stuck.source.as_ref().map_or_else(
        || "no beat was shipped".to_owned(),
        |source| format!("nothing of source {source} was shipped, though something waits,"),
    );
    format!(
        "{what} to region {region} for {minutes} minutes, and the region is not away: the agent itself hangs there. \
         Everything is in the spool; if it goes on, the service manager starts the agent anew, which takes it up"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ship::lane::Standing as LaneStanding;
    use crate::status_live::LiveLane;

    const MINUTE: Duration = Duration::from_secs(60);

    struct World {
        sources: BTreeMap<SourceName, LiveSource>,
        regions: BTreeMap<RegionName, LiveRegion>,
        shippers: Shippers,
        minute: u64,
    }

    fn app() -> SourceName {
        SourceName::new("app").unwrap()
    }

    fn aarhus() -> RegionName {
        RegionName::new("aarhus").unwrap()
    }

    impl World {
        fn new() -> Self {
            let lane = LiveLane {
                standing: LaneStanding::Whole,
                lacking_since: None,
                behind: 0,
                backlog_bytes: 0,
                log_through: Some(LogSeq(1)),
                point_through: None,
            };
            let source = LiveSource {
                state: SourceState::Capturing,
                lanes: [(aarhus(), lane)].into(),
                ..LiveSource::default()
            };
            let region = LiveRegion {
                up: true,
                beat: Some(0),
                ..LiveRegion::default()
            };
            Self {
                sources: [(app(), source)].into(),
                regions: [(aarhus(), region)].into(),
                shippers: Shippers::new(MINUTE),
                minute: 0,
            }
        }

        fn source(&mut self) -> &mut LiveSource {
            self.sources.get_mut(&app()).unwrap()
        }

        fn lane(&mut self) -> &mut LiveLane {
            self.source().lanes.get_mut(&aarhus()).unwrap()
        }

        fn region(&mut self) -> &mut LiveRegion {
            self.regions.get_mut(&aarhus()).unwrap()
        }

        fn beat(&mut self) {
            let minute = self.minute;
            self.region().beat = Some(minute);
        }

        /// A minute passes in which `does` happens.
        fn minute(&mut self, does: impl FnOnce(&mut Self)) -> Vec<Stuck> {
            self.minute += 1;
            does(self);
            let now = Monotonic::from_origin(MINUTE * u32::try_from(self.minute).unwrap());
            self.shippers.look(&self.sources, &self.regions, now)
        }

        fn hangs(&self, stuck: &[Stuck]) -> bool {
            stuck.iter().any(|stuck| self.shippers.hangs(stuck))
        }
    }

    #[test]
    fn a_shipper_that_beats_and_ships_is_never_stuck() {
        let mut world = World::new();
        for _ in 0..500 {
            let stuck = world.minute(|world| {
                world.beat();
                let lane = world.lane();
                lane.behind = 3;
                lane.log_through = lane.log_through.map(LogSeq::next);
            });
            assert_eq!(stuck, []);
        }
    }

    #[test]
    fn an_idle_source_needs_no_more_than_beats() {
        let mut world = World::new();
        for _ in 0..500 {
            assert_eq!(world.minute(World::beat), []);
        }
    }

    #[test]
    fn a_driver_that_hangs_is_named_first_and_then_ends_the_keep_alive() {
        let mut world = World::new();
        let mut named = None;
        let mut hung = None;
        for minute in 1..100 {
            let stuck = world.minute(|_| {});
            if !stuck.is_empty() {
                named.get_or_insert(minute);
                assert_eq!((&stuck[0].region, &stuck[0].source), (&aarhus(), &None));
            }
            if world.hangs(&stuck) {
                hung.get_or_insert(minute);
            }
        }
        assert_eq!((named, hung), (Some(16), Some(46)));
    }

    #[test]
    fn a_request_that_never_ends_is_found_though_beats_go_on() {
        let mut world = World::new();
        let mut last = Vec::new();
        for _ in 0..60 {
            last = world.minute(|world| {
                world.beat();
                world.lane().behind = 1;
            });
        }
        assert_eq!(last.len(), 1);
        assert_eq!(last[0].source, Some(app()));
        assert!(world.hangs(&last));
        assert!(text(&last[0]).contains("app") && text(&last[0]).contains("aarhus"));
        let moved = world.minute(|world| {
            world.beat();
            world.lane().log_through = Some(LogSeq(2));
        });
        assert_eq!(moved, [], "it moves again");
    }

    #[test]
    fn what_waits_for_something_with_a_name_is_not_stuck() {
        let mut world = World::new();
        world.lane().behind = 5;
        for _ in 0..500 {
            assert_eq!(world.minute(|world| world.region().up = false), []);
        }
        world.region().up = true;
        world.source().state = SourceState::Paused;
        for _ in 0..500 {
            assert_eq!(world.minute(World::beat), []);
        }
        world.source().state = SourceState::Capturing;
        assert_eq!(world.minute(World::beat), [], "the pause doesn't count");
    }

    #[test]
    fn rare_beats_are_waited_for() {
        let mut world = World::new();
        world.shippers = Shippers::new(MINUTE * 60);
        for minute in 0..600 {
            let stuck = world.minute(|world| {
                if minute % 60 == 0 {
                    world.beat();
                }
            });
            assert_eq!(stuck, []);
        }
    }
}
