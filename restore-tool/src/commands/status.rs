//! `status`: one screen at 3 a.m., from storage only. How much would be lost now, how long to be
//! back, to which instants, is it proved, what next.
//!
//! Ends with 0 ok, 1 warning, 2 critical, 3 unknown; the worst source counts.

mod clock;
pub mod kept;
mod measured;
mod promised;

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tidemark_format::{RegionId, RegionName, SourceName};
use tidemark_host::Exit;
use tidemark_host::config::Objectives;
use tidemark_host::output::{self, Document, Table};
use tidemark_ledger::history::{LoadOptions, PointsWanted};
use tidemark_ledger::read_marker;
use tidemark_ledger::timeline::Timeline;

use self::kept::CutShort;
use self::measured::Estimate;
use self::promised::Promised;
use super::list::RegionAway;
use crate::error::Result;
use crate::evidence::drills::{self, Drill, Proof, Verdict};
use crate::evidence::shelf::{self, Shelf};
use crate::identity;
use crate::plan::{self, Asked, Avoid, Goal, Recoverable};
use crate::repository::{Repository, Settings, Tools};

/// Beats that may stay out before a silent agent is news.
const BEATS_MISSED: u32 = 3;
/// And no less than this: a beat may be late.
const SILENCE_WARNING: Duration = Duration::from_secs(2 * 60);
/// From here on a silent agent is an alarm, unless it beats more seldom.
const SILENCE_CRITICAL: Duration = Duration::from_secs(10 * 60);
/// An agent that is silent for longer than the RPO of the strictest preset is news.
const EXPOSURE_WARNING: Duration = Duration::from_secs(5 * 60);
/// And for three times that an alarm.
const EXPOSURE_CRITICAL: Duration = Duration::from_secs(15 * 60);

/// What there is to do about a source at rest.
const RETIRED: &str = "nothing to do: the source was retired on its host, nothing of it is captured any more; what \
                       was captured stays restorable";

/// In place of a proof.
const UNTOLD: &str =
    "can't be told: the evidence can't be read (tidemark-restore evidence list says why)";

/// Evidence records of each signer that an overview reads: a year of daily drills.
const EVIDENCE_NEWEST: usize = 400;

/// How bad it is; also the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All is well.
    Ok,
    /// Something should be looked at.
    Warning,
    /// Something must be done.
    Critical,
    /// It can't be told.
    Unknown,
}

/// `status`.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The worst of all.
    pub health: Health,
    /// When it was asked.
    pub at: Timestamp,
    /// Why nothing can be told.
    pub unknown: Option<String>,
    /// Regions that could not be read.
    pub away: Vec<RegionAway>,
    /// The sources.
    pub sources: Vec<SourceStatus>,
}

/// A source.
#[derive(Debug, Clone, Serialize)]
pub struct SourceStatus {
    /// Its name.
    pub source: SourceName,
    /// How bad it is.
    pub health: Health,
    /// `retired`: nothing of it is captured any more, as somebody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
    /// Its engine.
    pub engine: Option<String>,
    /// Bytes of the database.
    pub bytes: u64,
    /// Everything up to here is in the regions.
    pub covered_until: Option<Timestamp>,
    /// So this much would be lost now, in seconds.
    pub exposure_seconds: Option<u64>,
    /// The newest capture is so many seconds later than this host's clock, which therefore tells no loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_behind_seconds: Option<u64>,
    /// A restore to the newest state takes about this long, in seconds.
    pub restore_seconds: Option<u64>,
    /// What that rests on.
    pub restore_basis: String,
    /// What can be restored, and what between can't.
    #[serde(flatten)]
    pub recoverable: Recoverable,
    /// The end of the log that a drill restored and that no region has any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut_short: Option<CutShort>,
    /// What the config promises; none if it promises nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promised: Option<String>,
    /// Whether drills have proved it.
    pub proved: String,
    /// The same for scripts: the last proof, the last try, what is due; none if the evidence can't be read.
    pub proof: Option<Proof>,
    /// Each region.
    pub regions: Vec<RegionStatus>,
    /// What to do next; empty when there is nothing.
    pub next: Vec<String>,
}

/// A source in one region.
#[derive(Debug, Clone, Serialize)]
pub struct RegionStatus {
    /// The region.
    pub region: RegionName,
    /// Its newest recovery point, as `--expect` takes it.
    pub newest_point: Option<String>,
    /// The same as `--to` takes it.
    pub point: Option<String>,
    /// When that was sealed.
    pub sealed: Option<Timestamp>,
    /// Everything committed up to here is in it.
    pub committed: Option<Timestamp>,
    /// `enforced`, `advisory` or `unknown`: whether the store keeps a stolen agent key from overwriting.
    pub create_only: String,
}

/// `status`. What keeps it from an answer is an answer, too.
pub async fn run(settings: &Settings, tools: &Tools) -> Exit {
    let status = match look(settings, tools).await {
        Ok(status) => status,
        Err(error) => Status {
            health: Health::Unknown,
            at: tools.clock.now(),
            unknown: Some(tidemark_storage::chain(&error)),
            away: Vec::new(),
            sources: Vec::new(),
        },
    };
    tools.console.show(&status);
    match status.health {
        Health::Ok => Exit::Ok,
        Health::Warning => Exit::Failed,
        Health::Critical => Exit::Usage,
        Health::Unknown => Exit::Exceptions,
    }
}

async fn look(settings: &Settings, tools: &Tools) -> Result<Status> {
    let trust = identity::trust_if_at_hand(settings);
    let repository = Repository::open(settings, trust, tools).await?;
    let names = match &settings.source {
        Some(name) => vec![repository.source(Some(name)).await?],
        None => repository.sources().await?.into_iter().collect(),
    };
    // What can't be read of it is said where it is asked for.
    let state = settings.state.as_deref();
    let shelf = shelf::read_newest(&repository, state, EVIDENCE_NEWEST)
        .await
        .ok();
    let evidence = shelf.as_ref().map(Evidence::of);
    let mut sources = Vec::new();
    for name in names {
        let objectives = settings.objectives.of(&name);
        let asked = (&name, &objectives);
        sources.push(source(&repository, asked, evidence.as_ref(), tools).await?);
    }
    let away: Vec<RegionAway> = repository
        .away
        .iter()
        .map(|away| RegionAway {
            region: away.name.clone(),
            why: tidemark_storage::chain(&away.error),
        })
        .collect();
    let worst = sources.iter().map(|source| source.health).max();
    let unknown = sources
        .is_empty()
        .then(|| "the repository holds no source yet".to_owned());
    Ok(Status {
        health: worst.unwrap_or(Health::Unknown),
        at: tools.clock.now(),
        unknown,
        away,
        sources,
    })
}

/// What is on record.
struct Evidence<'a> {
    shelf: &'a Shelf,
    drills: Vec<Drill>,
}

impl<'a> Evidence<'a> {
    fn of(shelf: &'a Shelf) -> Self {
        Self {
            shelf,
            drills: drills::all(&shelf.chains),
        }
    }
}

async fn source(
    repository: &Repository,
    (name, objectives): (&SourceName, &Objectives),
    evidence: Option<&Evidence<'_>>,
    tools: &Tools,
) -> Result<SourceStatus> {
    let options = LoadOptions {
        points: PointsWanted::OVERVIEW,
    };
    let timeline = repository.timeline(name, &options).await?;
    let now = tools.clock.now();
    let recoverable = plan::recoverable(&timeline, now).await?;
    let covered_until = recoverable.recoverable_through;
    let retired = timeline.is_retired();
    // Nothing is lost any more of a source at rest: nothing of it is to be kept.
    let last = last_heard(&timeline, &recoverable);
    let behind = clock::behind(last, now).filter(|_| !retired && covered_until.is_some());
    let told_until = covered_until.filter(|_| !retired && behind.is_none());
    let exposure = told_until.map(|until| gone(now, until));
    let planned = plan::plan(&timeline, &latest(), &Avoid::default(), false).await;
    let regions = regions(repository, &timeline).await;
    let mut next = Vec::new();
    let mut health = if retired {
        next.push(RETIRED.to_owned());
        Health::Ok
    } else {
        let silence = Silence::of(&timeline, last, now);
        exposure_health((exposure, behind), silence.as_ref(), &mut next)
    };
    let news = recoverable.news();
    if !news.is_empty() {
        health = health.max(Health::Warning);
    }
    next.extend(news);
    if let Err(error) = &planned {
        health = health.max(Health::Critical);
        next.push(format!("the newest state can't be restored: {error}"));
    }
    doubts(&timeline, &regions, &mut next, &mut health);
    not_read(repository, &timeline, &mut next, &mut health);
    let cut_short = cut_short(repository, &timeline, evidence, &mut next, &mut health);
    let proof = evidence.map(|evidence| Proof::of(&evidence.drills, name, now));
    if let Some(proof) = proof.as_ref().filter(|_| !retired) {
        not_proved(proof, &mut next, &mut health);
    }
    let promised = Promised::of(objectives, exposure, proof.as_ref(), now);
    let promises = promised.line.clone().filter(|_| !retired);
    if !retired {
        promised.tell_on(&mut next, &mut health);
    }
    let plan = planned.ok();
    let estimate = plan
        .as_ref()
        .map(|plan| estimate(name, plan.stored_bytes(), evidence, now));
    Ok(SourceStatus {
        source: name.clone(),
        health,
        state: retired.then_some("retired"),
        engine: timeline.engine().map(str::to_owned),
        bytes: plan.as_ref().map_or(0, plan::RestorePlan::image_bytes),
        covered_until,
        exposure_seconds: exposure.map(|exposure| exposure.as_secs()),
        clock_behind_seconds: behind.map(|behind| behind.as_secs()),
        restore_seconds: estimate.as_ref().map(|estimate| estimate.seconds),
        restore_basis: estimate.map_or_else(String::new, |estimate| estimate.basis),
        recoverable,
        cut_short,
        promised: promises,
        proved: proof
            .as_ref()
            .map_or_else(|| UNTOLD.to_owned(), |proof| proof.sentence(now)),
        proof,
        regions,
        next,
    })
}

/// The newest state.
fn latest() -> Asked {
    Asked {
        goal: Goal::Latest,
        inclusive: true,
        text: "latest".to_owned(),
        assumed_local: false,
        assumed_today: false,
    }
}

/// What is gone of the log's end, though a drill restored it.
fn cut_short(
    repository: &Repository,
    timeline: &Timeline,
    evidence: Option<&Evidence<'_>>,
    next: &mut Vec<String>,
    health: &mut Health,
) -> Option<CutShort> {
    let cut = CutShort::of(repository, timeline, &evidence?.shelf.chains)?;
    *health = (*health).max(Health::Critical);
    next.push(cut.next());
    Some(cut)
}

/// What somebody should do about the proof.
fn not_proved(proof: &Proof, next: &mut Vec<String>, health: &mut Health) {
    if let Some(news) = proof.news() {
        let last = proof.last.as_ref();
        let failed = last.is_some_and(|last| last.verdict == Some(Verdict::Fail));
        let own = if failed {
            Health::Critical
        } else {
            Health::Warning
        };
        *health = (*health).max(own);
        next.push(news);
    }
}

fn estimate(
    name: &SourceName,
    bytes: u64,
    evidence: Option<&Evidence<'_>>,
    now: Timestamp,
) -> Estimate {
    let chains = evidence.map_or(&[][..], |evidence| evidence.shelf.chains.as_slice());
    let drills = evidence.map_or(&[][..], |evidence| evidence.drills.as_slice());
    Estimate::of(name, bytes, chains, drills, now)
}

/// What is wrong in single regions.
fn doubts(
    timeline: &Timeline,
    regions: &[RegionStatus],
    next: &mut Vec<String>,
    health: &mut Health,
) {
    if timeline.troubles().next().is_some() {
        *health = (*health).max(Health::Warning);
        next.push(
            "some objects don't count: tidemark-restore verify says which and why".to_owned(),
        );
    }
    lag(timeline, next, health);
    let beats = timeline.histories().filter_map(|(_, one)| one.caught_up());
    let newest = beats.max_by_key(|beat| beat.beat_at);
    let trouble = newest.and_then(|beat| beat.trouble.as_ref());
    // Its own word: the regions alone don't show yet what it can't do. Of a source at rest it is an old one.
    if let Some(trouble) = trouble.filter(|_| !timeline.is_retired()) {
        *health = (*health).max(Health::Warning);
        next.push(format!(
            "the agent says that it does not capture as it should ({trouble}): tidemark-agent status on its host says why"
        ));
    }
    if let [only] = regions
        && only.create_only == "advisory"
    {
        // Worth knowing, and no alarm: a directory can't be anything else.
        next.push("the only region is advisory: a stolen agent key could overwrite it; add a versioned bucket".to_owned());
    }
}

/// Regions that were given and say nothing of the source: what they hold is not known, and what is shown
/// rests on the others alone.
fn not_read(
    repository: &Repository,
    timeline: &Timeline,
    next: &mut Vec<String>,
    health: &mut Health,
) {
    let away = repository.away.iter();
    let away = away.map(|away| (&away.name, tidemark_storage::chain(&away.error)));
    let failed = timeline.failed.iter();
    let failed = failed.map(|(name, error)| (name, tidemark_storage::chain(error)));
    for (name, why) in away.chain(failed) {
        *health = (*health).max(Health::Warning);
        next.push(format!("region {name} could not be read: {why}"));
    }
    for name in &timeline.lacking {
        *health = (*health).max(Health::Warning);
        next.push(format!(
            "region {name} holds nothing of this source: until it does, it is no second copy"
        ));
    }
}

/// The time since an instant, none if it is to come.
fn gone(now: Timestamp, since: Timestamp) -> Duration {
    let gone = now.duration_since(since);
    if gone.is_negative() {
        Duration::ZERO
    } else {
        gone.unsigned_abs()
    }
}

/// The latest instant of which anything was heard.
fn last_heard(timeline: &Timeline, recoverable: &Recoverable) -> Option<Timestamp> {
    let past = recoverable.beyond.as_ref().and_then(|past| past.to);
    let newest = recoverable.recoverable_through.max(past);
    let beats = timeline.histories().filter_map(|(_, one)| one.caught_up());
    let beat = beats.map(|beat| beat.beat_at).max();
    let point = timeline.newest_point().map(|point| point.head.at);
    beat.max(point).max(newest)
}

/// How long nothing has come, and whether that is longer than the agent's beats make normal.
struct Silence {
    since: Duration,
    health: Health,
}

impl Silence {
    /// None if something came lately. `last` is [`last_heard`]'s.
    fn of(timeline: &Timeline, last: Option<Timestamp>, now: Timestamp) -> Option<Self> {
        let beats = timeline.histories().filter_map(|(_, one)| one.caught_up());
        let beat = beats.max_by_key(|beat| beat.beat_at);
        let last = last?;
        let every = beat.map_or(Duration::ZERO, |beat| Duration::from_millis(beat.every_ms));
        let warning = every.saturating_mul(BEATS_MISSED).max(SILENCE_WARNING);
        let critical = warning.saturating_mul(2).max(SILENCE_CRITICAL);
        let since = gone(now, last);
        let health = match since {
            since if since > critical => Health::Critical,
            since if since > warning => Health::Warning,
            _ => return None,
        };
        Some(Self { since, health })
    }
}

fn exposure_health(
    (exposure, clock_behind): (Option<Duration>, Option<Duration>),
    silence: Option<&Silence>,
    next: &mut Vec<String>,
) -> Health {
    if let Some(behind) = clock_behind {
        next.push(clock::next(behind));
        return Health::Warning;
    }
    if let (Some(age), Some(silence)) = (exposure, silence) {
        next.push(format!(
            "nothing has come for {}: the agent may be down or cut off (tidemark-agent status on its host)",
            output::duration(silence.since)
        ));
        let late = if age > EXPOSURE_CRITICAL {
            Health::Critical
        } else {
            Health::Warning
        };
        return silence.health.max(late);
    }
    match exposure {
        None => {
            next.push(
                "nothing can be restored yet: look at the agent (tidemark-agent status)".to_owned(),
            );
            Health::Critical
        }
        Some(age) if age > EXPOSURE_CRITICAL => {
            next.push(format!(
                "nothing committed for {} is here: what does tidemark-agent status say on its host?",
                output::duration(age)
            ));
            Health::Critical
        }
        Some(age) if age > EXPOSURE_WARNING => {
            next.push("the agent is late: look at tidemark-agent status on its host".to_owned());
            Health::Warning
        }
        Some(_) => Health::Ok,
    }
}

fn lag(timeline: &Timeline, next: &mut Vec<String>, health: &mut Health) {
    let freshness = timeline.freshness();
    for region in freshness.forked {
        *health = Health::Critical;
        next.push(format!(
            "region {region} holds another chain under the same names: don't restore from it alone"
        ));
    }
    for older in freshness.older {
        let lag = older.newest_here.as_ref().map(|here| {
            older
                .newest_elsewhere
                .committed
                .duration_since(here.committed)
                .unsigned_abs()
        });
        if lag.is_none_or(|lag| lag > EXPOSURE_WARNING) {
            *health = (*health).max(Health::Warning);
            next.push(format!(
                "region {} is behind the others: see tidemark-agent status",
                older.region
            ));
        }
    }
}

async fn regions(repository: &Repository, timeline: &Timeline) -> Vec<RegionStatus> {
    let mut all = Vec::new();
    for (name, history) in timeline.histories() {
        let region = repository
            .regions
            .iter()
            .find(|region| region.name() == name);
        let id: Option<RegionId> = match region {
            // A marker that can't be read leaves the level unknown; verify tells why.
            Some(region) => read_marker(region.store.read.as_ref())
                .await
                .ok()
                .flatten()
                .map(|marker| marker.region),
            None => None,
        };
        let point = history.newest_point();
        let level = point
            .zip(id)
            .and_then(|(point, id)| point.head.create_only.get(&id).cloned());
        all.push(RegionStatus {
            region: name.clone(),
            newest_point: history.tip().map(|tip| tip.to_string()),
            point: point.map(|point| format!("point:{}/{}", point.head.epoch, point.head.seq)),
            sealed: point.map(|point| point.head.at),
            committed: point.map(|point| point.head.committed),
            create_only: level.unwrap_or_else(|| "unknown".to_owned()),
        });
    }
    all
}

impl Document for Status {
    const SCHEMA: &'static str = "tidemark-restore.status";

    fn text(&self, out: &mut String) {
        if let Some(why) = &self.unknown {
            out.push_str(&format!("Status unknown: {why}\n"));
        }
        for away in &self.away {
            out.push_str(&format!(
                "Region {} could not be read: {}\n",
                away.region, away.why
            ));
        }
        for source in &self.sources {
            source.text(self.at, out);
        }
    }
}

impl SourceStatus {
    fn text(&self, now: Timestamp, out: &mut String) {
        let word = match self.health {
            Health::Ok if self.state.is_some() => "RETIRED",
            Health::Ok => "HEALTHY",
            Health::Warning => "WARNING",
            Health::Critical => "CRITICAL",
            Health::Unknown => "UNKNOWN",
        };
        let engine = self.engine.as_deref().unwrap_or("unknown engine");
        let size = output::bytes(self.bytes);
        out.push_str(&format!("{}  {engine}  {size}  {word}\n", self.source));
        let seconds = |s: Option<u64>| {
            s.map_or_else(
                || "unknown".to_owned(),
                |s| output::duration(Duration::from_secs(s)),
            )
        };
        let mut table = Table::new();
        let lost = if self.state.is_some() {
            "not judged: the source is retired".to_owned()
        } else if let Some(behind) = self.clock_behind_seconds {
            let behind = output::duration(Duration::from_secs(behind));
            format!("can't be told: this host's clock is {behind} behind the newest capture")
        } else {
            seconds(self.exposure_seconds)
        };
        table.row(["Lost if lost now".to_owned(), lost]);
        let time = seconds(self.restore_seconds);
        table.row([
            "Time to be back".to_owned(),
            if self.restore_basis.is_empty() {
                time
            } else {
                format!("about {time} ({})", self.restore_basis)
            },
        ]);
        self.recoverable.rows(&mut table);
        if let Some(cut) = &self.cut_short {
            table.row(["Log".to_owned(), cut.line()]);
        }
        if let Some(promised) = &self.promised {
            table.row(["Promised".to_owned(), promised.clone()]);
        }
        table.row(["Proved".to_owned(), self.proved.clone()]);
        for region in &self.regions {
            // As the agent's status says it: when it was sealed.
            let newest = match (&region.point, region.sealed) {
                (Some(point), Some(sealed)) => {
                    format!("{point} of {}", output::age(now, sealed))
                }
                _ => "no recovery point".to_owned(),
            };
            let level = &region.create_only;
            table.row([
                format!("Region {}", region.region),
                format!("{newest}, create-only {level}"),
            ]);
        }
        if self.next.is_empty() {
            table.row(["Next", "nothing to do"]);
        }
        for next in &self.next {
            table.row(["Next".to_owned(), next.clone()]);
        }
        table.write("  ", out);
    }
}
