//! What was lost and how exact the instant was, measured inside the restored database.
//!
//! **Loss** (RPO): the disaster is the declaration of the drill. With a canary it is how long before that
//! the newest canary that came back was written; without, how long before that everything committed is
//! proved to have come back, by the log. Only a drill of the newest state measures it.
//!
//! **Precision** (PITR): the target minus the newest canary at or before it; the canary after it must be
//! absent. Without a canary it is told from the log: nothing at all if the state is exactly that of the
//! instant.
//!
//! **Clocks.** Commits carry the source's time and the declaration the drill host's. Both measured their
//! difference to a region's clock, so the difference between them is known and corrected; where no region
//! tells it the result says "unwitnessed". A clock of the source that stepped between two recovery points
//! is told by the time since boot that they carry.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tidemark_format::RegionId;

use super::{Check, CheckStatus, Rung};

/// What two clocks may differ without anybody having to look.
pub const SKEW_MAX: SignedDuration = SignedDuration::from_secs(5);
/// What a clock may have moved between two recovery points beside passing: a time service slews it.
pub const STEP_MAX: SignedDuration = SignedDuration::from_secs(2);
/// How often a canary is written unless something else is said.
pub const CANARY_EVERY_SECONDS: u64 = 30;
/// A canary that is older than the state it stands in by so many of its intervals is frozen.
const CANARIES_MISSED_MAX: u64 = 3;
/// And no less than this: one may be late.
const CANARY_SPARE_SECONDS: u64 = 5;

/// What says how the source's clock and the drill host's differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum Witness {
    /// They are one clock.
    SameHost,
    /// A region, to which both were compared: the source's is so many milliseconds ahead.
    Region {
        /// Milliseconds; negative if the source's is behind.
        source_ahead_ms: i64,
    },
    /// Both hosts say that a time service keeps their clocks.
    TimeServices,
    /// Nothing.
    Unwitnessed,
}

impl Witness {
    /// How far the source's clock is ahead, as far as that is known.
    #[must_use]
    pub fn source_ahead(self) -> SignedDuration {
        match self {
            Self::Region { source_ahead_ms } => SignedDuration::from_millis(source_ahead_ms),
            Self::SameHost | Self::TimeServices | Self::Unwitnessed => SignedDuration::ZERO,
        }
    }

    /// As records name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SameHost => "same_host",
            Self::Region { .. } => "region",
            Self::TimeServices => "time_services",
            Self::Unwitnessed => "unwitnessed",
        }
    }
}

/// One side's clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClockSide {
    /// Whether a time service keeps it; none if nobody knows.
    pub synchronised: Option<bool>,
    /// By region: its clock minus this one, in milliseconds.
    pub region_offset_ms: BTreeMap<RegionId, i64>,
}

/// What says how the clocks of source and drill host differ.
#[must_use]
pub fn witness(source: &ClockSide, drill: &ClockSide, same_host: bool) -> Witness {
    if same_host {
        return Witness::SameHost;
    }
    let mut differences: Vec<i64> = source
        .region_offset_ms
        .iter()
        .filter_map(|(region, own)| {
            let other = drill.region_offset_ms.get(region)?;
            // region − drill − (region − source)
            other.checked_sub(*own)
        })
        .collect();
    differences.sort_unstable();
    if let Some(source_ahead_ms) = differences.get(differences.len() / 2).copied() {
        return Witness::Region { source_ahead_ms };
    }
    match (source.synchronised, drill.synchronised) {
        (Some(true), Some(true)) => Witness::TimeServices,
        _ => Witness::Unwitnessed,
    }
}

/// What a recovery point says of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Wall time.
    pub at: Timestamp,
    /// Milliseconds since boot, sleep included.
    pub boot_ms: u64,
}

/// The largest step of the source's clock between two recovery points that follow each other in one run
/// of its machine.
#[must_use]
pub fn largest_step(ticks: &[Tick]) -> Option<(Tick, SignedDuration)> {
    ticks
        .windows(2)
        .filter_map(|pair| {
            let [before, after] = pair else { return None };
            // After a reboot it counts anew.
            let booted = after.boot_ms.checked_sub(before.boot_ms)?;
            let booted = SignedDuration::from_millis(i64::try_from(booted).ok()?);
            let step = after.at.duration_since(before.at).checked_sub(booted)?;
            (step.abs() > STEP_MAX).then_some((*after, step))
        })
        .max_by_key(|(_, step)| step.abs())
}

/// The clocks' checks. One that is as it should be is recorded and not passed: clocks are told of drills
/// that never came to the database, and a rung is proved by what passed at it.
#[must_use]
pub fn clocks(witness: Witness, source: &ClockSide, ticks: &[Tick]) -> Vec<Check> {
    let mut all = Vec::new();
    let new = |id: &str, name: &str, status| Check::new(Rung::Replay, id, name, status);
    let ahead = witness.source_ahead();
    let name = "the source's clock against the drill host's";
    all.push(match witness {
        Witness::Unwitnessed => new("clock.skew", name, CheckStatus::Recorded)
            .actual("unwitnessed")
            .why("no region told both clocks' difference to its own, and not both say that a time service keeps them"),
        _ if ahead.abs() > SKEW_MAX => new("clock.skew", name, CheckStatus::Warned)
            .expected(format!("within {SKEW_MAX:#}"))
            .actual(sided(ahead))
            .why("clock skew: what was measured is corrected by it; instants that people name for this source are off by it"),
        _ => new("clock.skew", name, CheckStatus::Recorded)
            .expected(format!("within {SKEW_MAX:#}"))
            .actual(format!("{} ({})", sided(ahead), witness.name())),
    });
    if source.synchronised == Some(false) {
        all.push(
            new(
                "clock.synchronised",
                "a time service keeps the source's clock",
                CheckStatus::Warned,
            )
            .why("clock skew: it runs there and has not synchronised the clock"),
        );
    }
    let name = "the source's clock only went forward, as fast as time";
    match largest_step(ticks) {
        Some((tick, step)) => all.push(
            new("clock.steps", name, CheckStatus::Warned)
                .actual(format!("it was set by {} before {}", signed(step), tick.at))
                .why("clock skew: instants around that are not what a clock on the wall said"),
        ),
        None if ticks.len() > 1 => all.push(new("clock.steps", name, CheckStatus::Recorded)),
        None => {}
    }
    all
}

fn sided(ahead: SignedDuration) -> String {
    if ahead.is_zero() {
        return "no difference".to_owned();
    }
    let side = if ahead.is_negative() {
        "behind"
    } else {
        "ahead"
    };
    format!("{:#} {side}", ahead.abs())
}

fn signed(step: SignedDuration) -> String {
    let sign = if step.is_negative() { "−" } else { "+" };
    format!("{sign}{:#}", step.abs())
}

/// What rests on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The canary in the restored database.
    Canary,
    /// Commit times in the log.
    Log,
}

impl Basis {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Canary => "by the canary",
            Self::Log => "by commit times in the log",
        }
    }
}

/// The newest canary that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Its number.
    pub seq: u64,
    /// When it was written, by the source's clock.
    pub at: Timestamp,
    /// Whether the one after it is absent.
    pub next_absent: bool,
}

/// What is known when the restored database was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// When the disaster was declared, by the drill host's clock.
    pub declared_at: Timestamp,
    /// The instant that was asked for, by the source's clock; none for the newest state or a position.
    pub target: Option<Timestamp>,
    /// Whether the newest state was asked for.
    pub latest: bool,
    /// The last commit that came back.
    pub last_commit: Option<Timestamp>,
    /// Nothing else was committed up to here, as the log says.
    pub complete_until: Option<Timestamp>,
    /// Whether the state is exactly that of the target, as the log says.
    pub exact: bool,
    /// The canary, where the source keeps one.
    pub canary: Option<Canary>,
    /// Whether the source keeps one.
    pub canary_expected: bool,
    /// How often it is written, in seconds.
    pub canary_every_s: u64,
    /// What the clocks say.
    pub witness: Witness,
}

/// How much was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// For so long before the disaster.
    pub lost_ms: u64,
    /// Measured how.
    pub basis: Basis,
    /// How the clocks were compared.
    pub witness: Witness,
}

/// How far from its target the restored instant is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Precision {
    /// So much before it.
    pub error_ms: u64,
    /// Measured how.
    pub basis: Basis,
}

impl Measured {
    /// The loss, if the newest state was restored.
    #[must_use]
    pub fn loss(&self) -> Option<Loss> {
        if !self.latest {
            return None;
        }
        let (kept, basis) = match (&self.canary, self.canary_expected) {
            (Some(canary), _) => (canary.at, Basis::Canary),
            // One that should be there and isn't tells of no loss at all.
            (None, true) => return None,
            (None, false) => (self.last_commit.max(self.complete_until)?, Basis::Log),
        };
        let lost = self.declared_by_the_source().duration_since(kept);
        Some(Loss {
            lost_ms: u64::try_from(lost.as_millis()).unwrap_or(0),
            basis,
            witness: self.witness,
        })
    }

    /// The error of the restored instant, if one was asked for.
    #[must_use]
    pub fn precision(&self) -> Option<Precision> {
        let target = self.target?;
        let (error, basis) = match &self.canary {
            Some(canary) => (target.duration_since(canary.at), Basis::Canary),
            None if self.canary_expected => return None,
            None if self.exact => (SignedDuration::ZERO, Basis::Log),
            None => (
                target.duration_since(self.last_commit.max(self.complete_until)?),
                Basis::Log,
            ),
        };
        // A canary past its target is no precision: [`Self::checks`] fails it.
        let error_ms = u64::try_from(error.as_millis()).ok()?;
        Some(Precision { error_ms, basis })
    }

    /// When the disaster was declared, had the source's clock been looked at.
    fn declared_by_the_source(&self) -> Timestamp {
        let ahead = self.witness.source_ahead();
        self.declared_at
            .checked_add(ahead)
            .unwrap_or(self.declared_at)
    }

    fn canary_silence_max(&self) -> SignedDuration {
        let missed = self.canary_every_s.saturating_mul(CANARIES_MISSED_MAX);
        let seconds = missed.saturating_add(CANARY_SPARE_SECONDS);
        SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
    }

    /// What must hold of canary and commits.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        let mut all = Vec::new();
        self.check_canary(&mut all);
        let new = |id: &str, name: &str, good| Check::of(Rung::Replay, id, name, good);
        if let (Some(target), Some(last)) = (self.target, self.last_commit) {
            all.push(
                new(
                    "replay.last_commit",
                    "nothing committed after the target came back",
                    last <= target,
                )
                .expected(format!("at most {target}"))
                .actual(last.to_string()),
            );
        }
        let newest = self.canary.map(|canary| canary.at).max(self.last_commit);
        let declared = self.declared_by_the_source();
        if let Some(newest) = newest
            && newest.duration_since(declared) > SKEW_MAX
        {
            let name = "what came back was committed before the drill was declared";
            all.push(
                Check::new(Rung::Replay, "clock.future", name, CheckStatus::Warned)
                    .expected(format!("at most {declared}"))
                    .actual(newest.to_string())
                    .why("clock skew: the source's clock is ahead of the drill host's, or was; losses measured with it are too small"),
            );
        }
        all
    }

    fn check_canary(&self, all: &mut Vec<Check>) {
        let new = |id: &str, name: &str, good| Check::of(Rung::Replay, id, name, good);
        let Some(canary) = self.canary else {
            if self.canary_expected {
                let why = "the source keeps a canary, and none came back";
                all.push(new("canary.present", "the canary came back", false).why(why));
            }
            return;
        };
        let found = format!("number {} of {}", canary.seq, canary.at);
        all.push(
            new(
                "canary.next_absent",
                "the canary after the last one is absent",
                canary.next_absent,
            )
            .actual(found.clone()),
        );
        if let Some(target) = self.target {
            all.push(
                new(
                    "canary.target",
                    "the last canary is no later than the target",
                    canary.at <= target,
                )
                .expected(format!("at most {target}"))
                .actual(found.clone()),
            );
        }
        // The state is as of here, by the source's clock.
        let as_of = self.target.or(self.complete_until).max(self.last_commit);
        if let Some(as_of) = as_of {
            let silence = as_of.duration_since(canary.at);
            let most = self.canary_silence_max();
            let mut check = new(
                "canary.moves",
                "the canary was written until the restored state",
                silence <= most,
            )
            .expected(format!("within {most:#} of {as_of}"))
            .actual(found);
            if check.status == CheckStatus::Failed {
                check = check.why(
                    "the canary is frozen: the log goes on and nobody writes it, so it proves neither loss nor precision",
                );
            }
            all.push(check);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_780_000_000 + seconds).unwrap()
    }

    fn measured() -> Measured {
        Measured {
            declared_at: at(1000),
            target: None,
            latest: true,
            last_commit: Some(at(900)),
            complete_until: Some(at(990)),
            exact: true,
            canary: None,
            canary_expected: false,
            canary_every_s: CANARY_EVERY_SECONDS,
            witness: Witness::SameHost,
        }
    }

    fn canary(seconds: i64) -> Option<Canary> {
        Some(Canary {
            seq: 7,
            at: at(seconds),
            next_absent: true,
        })
    }

    fn failed(measured: &Measured) -> Vec<String> {
        let checks = measured.checks().into_iter();
        let bad = checks.filter(|check| check.status != CheckStatus::Passed);
        bad.map(|check| check.id).collect()
    }

    #[test]
    fn loss_is_measured_by_the_canary_or_else_by_what_the_log_proves() {
        let by_log = measured().loss().unwrap();
        assert_eq!((by_log.lost_ms, by_log.basis), (10_000, Basis::Log));
        let with = Measured {
            canary: canary(960),
            canary_expected: true,
            ..measured()
        };
        let loss = with.loss().unwrap();
        assert_eq!((loss.lost_ms, loss.basis), (40_000, Basis::Canary));
        assert!(failed(&with).is_empty());
    }

    #[test]
    fn only_the_newest_state_tells_of_loss() {
        let older = Measured {
            latest: false,
            target: Some(at(500)),
            ..measured()
        };
        assert_eq!(older.loss(), None);
    }

    #[test]
    fn a_canary_that_is_expected_and_missing_fails_and_measures_nothing() {
        let without = Measured {
            canary_expected: true,
            ..measured()
        };
        assert_eq!(without.loss(), None);
        assert_eq!(failed(&without), ["canary.present"]);
    }

    #[test]
    fn a_frozen_canary_is_named() {
        let frozen = Measured {
            canary: canary(600),
            canary_expected: true,
            ..measured()
        };
        assert_eq!(failed(&frozen), ["canary.moves"]);
        let said = &frozen.checks()[1];
        assert!(said.sentence().contains("frozen"), "{}", said.sentence());
    }

    #[test]
    fn precision_is_the_target_minus_the_canary_whose_successor_is_absent() {
        let exact = Measured {
            latest: false,
            target: Some(at(960)),
            last_commit: Some(at(955)),
            canary: canary(930),
            canary_expected: true,
            ..measured()
        };
        let precision = exact.precision().unwrap();
        assert_eq!(
            (precision.error_ms, precision.basis),
            (30_000, Basis::Canary)
        );
        assert!(failed(&exact).is_empty(), "{:?}", failed(&exact));
        let too_far = Measured {
            canary: canary(961),
            last_commit: Some(at(961)),
            ..exact
        };
        assert_eq!(too_far.precision(), None);
        assert_eq!(failed(&too_far), ["canary.target", "replay.last_commit"]);
        let mut next_there = exact;
        next_there.canary.as_mut().unwrap().next_absent = false;
        assert_eq!(failed(&next_there), ["canary.next_absent"]);
    }

    #[test]
    fn without_a_canary_the_log_says_how_exact_the_state_is() {
        let exact = Measured {
            latest: false,
            target: Some(at(950)),
            complete_until: None,
            ..measured()
        };
        assert_eq!(exact.precision().unwrap().error_ms, 0);
        let coarse = Measured {
            exact: false,
            ..exact
        };
        assert_eq!(coarse.precision().unwrap().error_ms, 50_000);
    }

    #[test]
    fn clocks_are_compared_through_a_region_and_the_loss_is_corrected() {
        let side = |ms: i64| ClockSide {
            synchronised: None,
            region_offset_ms: [(RegionId([1; 16]), ms)].into(),
        };
        // The region is 600 s behind the source's clock and 1 s ahead of the drill host's.
        let seen = witness(&side(-600_000), &side(1000), false);
        assert_eq!(
            seen,
            Witness::Region {
                source_ahead_ms: 601_000
            }
        );
        let skewed = Measured {
            last_commit: Some(at(1500)),
            complete_until: None,
            witness: seen,
            ..measured()
        };
        // Declared at 1000 here, which is 1601 there.
        assert_eq!(skewed.loss().unwrap().lost_ms, 101_000);
        let checks = clocks(seen, &side(-600_000), &[]);
        assert_eq!(checks[0].status, CheckStatus::Warned);
        assert!(checks[0].sentence().contains("clock skew"));
    }

    #[test]
    fn without_a_witness_a_future_commit_tells_of_skew() {
        let none = ClockSide::default();
        assert_eq!(witness(&none, &none, false), Witness::Unwitnessed);
        assert_eq!(witness(&none, &none, true), Witness::SameHost);
        let kept = ClockSide {
            synchronised: Some(true),
            ..ClockSide::default()
        };
        assert_eq!(witness(&kept, &kept, false), Witness::TimeServices);
        let ahead = Measured {
            last_commit: Some(at(1600)),
            witness: Witness::Unwitnessed,
            ..measured()
        };
        assert_eq!(failed(&ahead), ["clock.future"]);
        let checks = clocks(Witness::Unwitnessed, &none, &[]);
        assert_eq!(checks[0].actual.as_deref(), Some("unwitnessed"));
    }

    #[test]
    fn a_clock_that_was_set_is_told_by_the_time_since_boot() {
        let tick = |wall: i64, boot: u64| Tick {
            at: at(wall),
            boot_ms: boot * 1000,
        };
        let steady = [tick(0, 100), tick(300, 400), tick(600, 701)];
        assert_eq!(largest_step(&steady), None);
        let stepped = [
            tick(0, 100),
            tick(300, 400),
            tick(1200, 700),
            tick(1500, 1000),
        ];
        let (where_, step) = largest_step(&stepped).unwrap();
        assert_eq!((where_.at, step.as_secs()), (at(1200), 600));
        let rebooted = [tick(0, 100_000), tick(9000, 20)];
        assert_eq!(largest_step(&rebooted), None);
        let checks = clocks(Witness::SameHost, &ClockSide::default(), &stepped);
        assert_eq!(checks[1].status, CheckStatus::Warned);
    }

    #[test]
    fn clocks_that_are_right_prove_no_rung() {
        let tick = |wall: i64, boot: u64| Tick {
            at: at(wall),
            boot_ms: boot * 1000,
        };
        let below = Rung::ALL
            .into_iter()
            .take_while(|rung| *rung < Rung::Replay);
        let mut checks: Vec<Check> = below
            .map(|rung| Check::of(rung, rung.name(), "a check", true))
            .collect();
        let own = clocks(
            Witness::SameHost,
            &ClockSide::default(),
            &[tick(0, 100), tick(300, 400)],
        );
        assert_eq!(own.len(), 2);
        checks.extend(own);
        assert_eq!(super::super::reached(&checks), Some(Rung::Materialise));
    }

    proptest! {
        #[test]
        fn a_difference_of_clocks_that_a_region_sees_changes_no_loss(
            skew in -100_000_i64..100_000, region in -100_000_i64..100_000, lost in 0_i64..100_000,
        ) {
            // The same history, written by a clock that is ahead by `skew` milliseconds.
            let ms = SignedDuration::from_millis;
            let kept = at(1000) - ms(lost) + ms(skew);
            let side = |offset: i64| ClockSide {
                synchronised: None,
                region_offset_ms: [(RegionId([1; 16]), offset)].into(),
            };
            let seen = witness(&side(region - skew), &side(region), false);
            let measured = Measured {
                last_commit: Some(kept),
                complete_until: None,
                witness: seen,
                ..measured()
            };
            prop_assert_eq!(measured.loss().unwrap().lost_ms, u64::try_from(lost).unwrap());
        }

        #[test]
        fn precision_is_never_negative_and_never_past_the_target(error in -100_i64..100_000) {
            let exact = Measured {
                latest: false,
                target: Some(at(960)),
                canary: Some(Canary {
                    seq: 1,
                    at: at(960) - SignedDuration::from_millis(error),
                    next_absent: true,
                }),
                ..measured()
            };
            prop_assert_eq!(exact.precision().map(|p| p.error_ms), u64::try_from(error).ok());
        }
    }
}
