//! Judges a source from what the regions show. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::gather::{RegionFacts, SourceFacts};
use super::holes;

/// A clock that is further behind the newest capture than this tells no loss: hosts with a time service
/// differ by less.
const CLOCK_BEHIND: Duration = Duration::from_secs(30);

/// How things are; the worst of all sources is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Health {
    /// All well.
    Healthy,
    /// Somebody should look.
    Warning,
    /// Somebody must act now.
    Critical,
    /// Nothing can be said.
    Unknown,
}

/// What is asked of a source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demands {
    pub(super) durable_in: usize,
    pub(super) ship_every: Duration,
    pub(super) beat_every: Duration,
    /// The objective, if one is set.
    pub(super) rpo: Option<Duration>,
}

impl Demands {
    /// Past this the exposure is news: the objective, or what the intervals make normal, threefold.
    pub(super) fn exposure_limit(&self) -> Duration {
        self.rpo
            .unwrap_or_else(|| self.ship_every.max(self.beat_every).saturating_mul(3))
    }
}

/// What this host adds to what the regions show.
#[derive(Debug, Clone, Default)]
pub(super) struct Side {
    /// A daemon runs.
    pub(super) runs: bool,
    /// Why the last one ended, if a new start would end the same way; or why one that runs says nothing.
    pub(super) ended: Option<String>,
    /// Nothing of the source is captured any more, as somebody asked.
    pub(super) retired: bool,
    /// What a retired source left at its database, and how to take it away.
    pub(super) left_behind: Option<String>,
    pub(super) notes: Vec<(Health, String)>,
}

/// The judgement.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Judgement {
    pub(super) health: Health,
    /// Since the instant up to which every commit is in at least one region that answers.
    pub(super) exposure_ms: Option<u64>,
    /// The same for the number of failure domains that `durable_in` asks for.
    pub(super) quorum_exposure_ms: Option<u64>,
    /// The newest capture is so much later than this host's clock, which therefore tells no exposure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) clock_behind_ms: Option<u64>,
    pub(super) limit_ms: u64,
    /// What to look at, most urgent first.
    pub(super) findings: Vec<String>,
}

/// Judges one source.
pub(super) fn judge(
    regions: &[(&RegionFacts, Option<&SourceFacts>)],
    demands: &Demands,
    side: &Side,
    now: Timestamp,
) -> Judgement {
    if side.retired {
        return at_rest(demands, side.left_behind.as_ref());
    }
    let safe = safe_in(regions);
    let best = safe.iter().filter_map(|(_, until)| *until).max();
    let quorum = nth_domain(&safe, demands.durable_in);
    let behind = clock_behind(regions, now);
    let age =
        |until: Timestamp| Duration::try_from(now.duration_since(until)).unwrap_or(Duration::ZERO);
    let limit = demands.exposure_limit();
    let mut health = Health::Healthy;
    let mut findings = Vec::new();
    let mut find = |level: Health, text: String| {
        health = health.max(level);
        findings.push(text);
    };
    let readable = regions
        .iter()
        .filter(|(region, _)| region.away.is_none())
        .count();
    let distrusted = not_believed(regions);
    for text in &distrusted {
        find(Health::Critical, text.clone());
    }
    if let Some(behind) = behind {
        find(Health::Warning, behind_words(behind));
    }
    match (best.map(age), quorum.map(age)) {
        (None, _) if readable == 0 => find(
            Health::Unknown,
            "no region can be read: nothing can be said about what would be lost".to_owned(),
        ),
        (None, _) => find(
            Health::Critical,
            "nothing can be restored yet: no base and log are complete in any region".to_owned(),
        ),
        (Some(exposure), _) if exposure > limit => find(
            Health::Critical,
            format!("what was committed since {} is in no region", words(best)),
        ),
        (Some(_), None) => find(Health::Warning, too_few(demands.durable_in)),
        (Some(_), Some(exposure)) if exposure > limit => find(
            Health::Warning,
            format!("{} (since {})", too_few(demands.durable_in), words(quorum)),
        ),
        (Some(_), Some(_)) => {}
    }
    // Starting an agent that nobody believes would help nobody.
    if distrusted.is_empty() {
        if let Some(ended) = &side.ended {
            find(Health::Critical, ended.clone());
        } else if !side.runs {
            let text = "the agent is not running: systemctl start tidemark-agent";
            find(Health::Critical, text.to_owned());
        }
    }
    for (level, text) in troubles(regions).into_iter().chain(side.notes.clone()) {
        find(level, text);
    }
    let told = |until: Option<Timestamp>| until.filter(|_| behind.is_none()).map(age).map(millis);
    Judgement {
        health,
        exposure_ms: told(best),
        quorum_exposure_ms: told(quorum),
        clock_behind_ms: behind.map(millis),
        limit_ms: millis(limit),
        findings,
    }
}

/// Up to when each region holds everything, by its domain.
fn safe_in<'a>(
    regions: &[(&'a RegionFacts, Option<&SourceFacts>)],
) -> Vec<(&'a str, Option<Timestamp>)> {
    let safe = regions.iter().map(|(region, source)| {
        let until = source.and_then(|source| source.safe_until);
        (region.domain.as_str(), until)
    });
    safe.collect()
}

/// How far this host's clock is behind the newest capture, if it is so more than a little.
fn clock_behind(
    regions: &[(&RegionFacts, Option<&SourceFacts>)],
    now: Timestamp,
) -> Option<Duration> {
    let facts = regions.iter().filter_map(|(_, source)| *source);
    let newest = facts
        .filter_map(|source| {
            let sealed = source.point.as_ref().map(|point| point.at);
            source.safe_until.max(source.beat_at).max(sealed)
        })
        .max()?;
    let behind = Duration::try_from(newest.duration_since(now)).ok()?;
    (behind > CLOCK_BEHIND).then_some(behind)
}

fn behind_words(behind: Duration) -> String {
    format!(
        "this host's clock is {} behind the newest capture, so what would be lost now can't be told: it went back, or was \
         ahead when that was captured. Look (timedatectl status), and set it right; until time has passed the newest \
         capture, restore by recovery point (tidemark-restore list) and not by instant",
        tidemark_host::output::duration(behind)
    )
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

/// A retired source: nothing new is to be kept, and nothing is to be done but what was left.
fn at_rest(demands: &Demands, left_behind: Option<&String>) -> Judgement {
    Judgement {
        health: if left_behind.is_some() {
            Health::Warning
        } else {
            Health::Healthy
        },
        exposure_ms: None,
        quorum_exposure_ms: None,
        clock_behind_ms: None,
        limit_ms: millis(demands.exposure_limit()),
        findings: left_behind.cloned().into_iter().collect(),
    }
}

/// Why nothing that this agent writes of the source counts: the root or another writer says so.
fn not_believed(regions: &[(&RegionFacts, Option<&SourceFacts>)]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (region, source) in regions {
        let taken_over = source.and_then(|source| source.taken_over.as_ref());
        for text in region.not_believed.iter().chain(taken_over) {
            if !found.contains(text) {
                found.push(text.clone());
            }
        }
    }
    found
}

/// What is wrong beside the exposure.
fn troubles(regions: &[(&RegionFacts, Option<&SourceFacts>)]) -> Vec<(Health, String)> {
    let mut found = Vec::new();
    for (region, source) in regions {
        let name = &region.name;
        if let Some(why) = &region.away {
            found.push((
                Health::Warning,
                format!("region {name} can't be read: {why}"),
            ));
        }
        let Some(source) = source else { continue };
        if source.gaps > 0 {
            let text = format!("region {name}: {} gaps in the log", source.gaps);
            found.push((Health::Warning, text));
        }
        let troubles = source.troubles.iter();
        found.extend(troubles.map(|text| (Health::Critical, format!("region {name}: {text}"))));
    }
    found.extend(holes::told(regions).into_iter().map(|hole| {
        let level = if hole.is_open {
            Health::Warning
        } else {
            Health::Healthy
        };
        (level, format!("{}; {}", hole.found, hole.remedy))
    }));
    found
}

fn too_few(durable_in: usize) -> String {
    format!("fewer than {durable_in} failure domains hold everything")
}

fn words(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "ever".to_owned(), tidemark_host::output::instant)
}

/// The instant up to which `wanted` failure domains hold everything.
fn nth_domain(safe: &[(&str, Option<Timestamp>)], wanted: usize) -> Option<Timestamp> {
    let mut best: std::collections::BTreeMap<&str, Timestamp> = std::collections::BTreeMap::new();
    for (domain, until) in safe {
        if let Some(until) = until {
            let held = best.entry(domain).or_insert(*until);
            *held = (*held).max(*until);
        }
    }
    let mut instants: Vec<Timestamp> = best.into_values().collect();
    instants.sort_unstable_by(|a, b| b.cmp(a));
    instants.get(wanted.max(1) - 1).copied()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    pub(in super::super) fn region(name: &str, safe_until: Option<i64>) -> RegionFacts {
        let source = SourceFacts {
            source: "app".parse().unwrap(),
            epoch: None,
            point: None,
            log_through: None,
            safe_until: safe_until.map(at),
            beat_at: None,
            beat_every_ms: None,
            gaps: 0,
            holes: vec![],
            troubles: vec![],
            absent: false,
            taken_over: None,
        };
        RegionFacts {
            name: name.into(),
            place: name.into(),
            domain: name.into(),
            id: None,
            device: None,
            country: None,
            keyring_version: Some(1),
            agent: Some("enrolled"),
            not_believed: None,
            away: None,
            sources: vec![source],
        }
    }

    fn judged(regions: &[RegionFacts], runs: bool) -> Judgement {
        let demands = Demands {
            durable_in: 2,
            ship_every: Duration::from_secs(10),
            beat_every: Duration::from_secs(60),
            rpo: Some(Duration::from_secs(100)),
        };
        let pairs: Vec<_> = regions
            .iter()
            .map(|one| (one, one.sources.first()))
            .collect();
        let side = Side {
            runs,
            ..Side::default()
        };
        judge(&pairs, &demands, &side, at(1000))
    }

    #[test]
    fn an_agent_that_was_fenced_is_not_told_to_start_and_a_retired_source_needs_nothing() {
        let region = region("a", Some(10));
        let pairs = [(&region, region.sources.first())];
        let demands = Demands {
            durable_in: 1,
            ship_every: Duration::from_secs(10),
            beat_every: Duration::from_secs(60),
            rpo: None,
        };
        let mut side = Side {
            ended: Some("fenced by web2".into()),
            ..Side::default()
        };
        let judgement = judge(&pairs, &demands, &side, at(11));
        assert_eq!(judgement.health, Health::Critical);
        assert_eq!(judgement.findings, ["fenced by web2"]);
        side.retired = true;
        let judgement = judge(&pairs, &demands, &side, at(1_000_000));
        assert_eq!(
            (judgement.health, judgement.findings.len()),
            (Health::Healthy, 0)
        );
    }

    #[test]
    fn the_best_region_bounds_the_loss_and_the_second_the_quorum() {
        let judgement = judged(&[region("a", Some(990)), region("b", Some(950))], true);
        assert_eq!(judgement.health, Health::Healthy);
        assert_eq!(judgement.exposure_ms, Some(10_000));
        assert_eq!(judgement.quorum_exposure_ms, Some(50_000));
    }

    #[test]
    fn a_region_that_lags_is_a_warning_and_both_lagging_is_critical() {
        let one = judged(&[region("a", Some(990)), region("b", Some(500))], true);
        assert_eq!(one.health, Health::Warning);
        let both = judged(&[region("a", Some(500)), region("b", Some(500))], true);
        assert_eq!(both.health, Health::Critical);
    }

    #[test]
    fn a_clock_that_went_back_tells_no_loss_and_is_a_warning() {
        let behind = judged(&[region("a", Some(8000)), region("b", Some(8000))], true);
        assert_eq!(behind.health, Health::Warning);
        assert_eq!(
            (behind.exposure_ms, behind.quorum_exposure_ms),
            (None, None)
        );
        assert_eq!(behind.clock_behind_ms, Some(7_000_000));
        assert!(
            behind.findings[0].contains("1 h 56 min behind"),
            "{behind:?}"
        );
        // Clocks never agree wholly.
        let little = judged(&[region("a", Some(1010)), region("b", Some(1000))], true);
        assert_eq!(
            (little.health, little.exposure_ms),
            (Health::Healthy, Some(0))
        );
        // What the agent said of itself tells it, too.
        let mut later = region("a", Some(990));
        later.sources[0].beat_at = Some(at(8000));
        let later = judged(&[later, region("b", Some(990))], true);
        assert_eq!(later.health, Health::Warning);
    }

    #[test]
    fn a_dead_daemon_is_critical_however_fresh_the_regions_are() {
        let judgement = judged(&[region("a", Some(999)), region("b", Some(999))], false);
        assert_eq!(judgement.health, Health::Critical);
    }

    #[test]
    fn an_agent_that_nobody_believes_is_critical_and_is_told_what_to_do_first() {
        let mut one = region("a", Some(999));
        one.not_believed = Some("run keys enrol".into());
        let mut other = region("b", Some(999));
        other.not_believed.clone_from(&one.not_believed);
        let judgement = judged(&[one.clone(), other], false);
        assert_eq!(judgement.health, Health::Critical);
        assert_eq!(judgement.findings, ["run keys enrol"]);
        one.not_believed = None;
        one.sources[0].taken_over = Some("run take-over".into());
        let judgement = judged(&[one, region("b", Some(999))], false);
        assert_eq!(judgement.findings, ["run take-over"]);
    }

    #[test]
    fn regions_that_cannot_be_read_leave_nothing_to_say() {
        let mut away = region("a", None);
        away.away = Some("refused".into());
        away.sources.clear();
        assert_eq!(judged(&[away], true).health, Health::Unknown);
    }
}
