//! Reads what the regions show of the configured sources. Every region on its own: one that is away
//! is a fact about that region.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tidemark_engine::COMPLETE_UNTIL;
use tidemark_format::heads::{BaseHead, LogHead};
use tidemark_format::sign::PublicKey;
use tidemark_format::{Epoch, LogSeq, PointSeq, RegionId, RegionName, SourceName};
use tidemark_host::config::{AgentConfig, Region};
use tidemark_ledger::{
    Keyring, LedgerErrorKind, Trust, Verified,
    history::{Beats, LoadOptions, LogEntry, PointsWanted, SourceHistory},
    read_marker,
};
use tidemark_storage::region::{AgentRegion, open_for_agent};

use super::super::context::Machine;
use super::super::standing::{
    Standing, agent_key, known_region, not_the_region, own_epoch, revoked, standing, taken_over,
};
use super::holes::{Hole, left_by_take_overs};
use super::together::{self, Seen};
use crate::{domains, enrolment, policy};

/// The newest recovery point of a source in a region.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PointFacts {
    pub(crate) epoch: Epoch,
    pub(crate) seq: PointSeq,
    pub(crate) link: String,
    pub(crate) committed: Timestamp,
    pub(crate) at: Timestamp,
}

/// One source in one region.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SourceFacts {
    pub(crate) source: SourceName,
    pub(crate) epoch: Option<Epoch>,
    pub(crate) point: Option<PointFacts>,
    /// The last log object that a restore would reach.
    pub(crate) log_through: Option<LogSeq>,
    /// Everything committed up to here would come back from this region alone.
    pub(crate) safe_until: Option<Timestamp>,
    /// When the agent last said that it was there, and how often it means to.
    pub(crate) beat_at: Option<Timestamp>,
    pub(crate) beat_every_ms: Option<u64>,
    /// Holes in the log, but for those that a take-over left.
    pub(crate) gaps: usize,
    /// What the region lacks since a take-over at which it lagged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) holes: Vec<Hole>,
    /// Objects that don't count, and why.
    pub(crate) troubles: Vec<String>,
    /// Nothing of it is here yet.
    pub(crate) absent: bool,
    /// Another agent has claimed it under a later epoch: who, and what to do.
    pub(crate) taken_over: Option<String>,
}

/// One region.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RegionFacts {
    pub(crate) name: String,
    pub(crate) place: String,
    /// In which it counts, which may be another than the config gives it.
    pub(crate) domain: String,
    #[serde(skip)]
    pub(crate) id: Option<RegionId>,
    #[serde(skip)]
    pub(crate) device: Option<u64>,
    pub(crate) country: Option<String>,
    pub(crate) keyring_version: Option<u32>,
    /// `enrolled`, `not-enrolled` or `revoked`: how the root stands to this agent there.
    pub(crate) agent: Option<&'static str>,
    /// Why nothing that this agent writes counts there, and what to do.
    pub(crate) not_believed: Option<String>,
    /// Why it can't be read.
    pub(crate) away: Option<String>,
    pub(crate) sources: Vec<SourceFacts>,
}

/// How long a region may take to open, and again to show its keyring.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long one that has answered may take over a source: a long log is listed page by page.
const SOURCE_WITHIN: Duration = Duration::from_secs(30);

/// Why a region can't be read, in words.
#[derive(Debug)]
struct Away(String);

impl std::fmt::Display for Away {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A region that swallows what is sent to it must not keep the others' answer back.
async fn within<T>(
    time: Duration,
    read: impl Future<Output = tidemark_ledger::Result<T>>,
) -> Result<T, Away> {
    match tokio::time::timeout(time, read).await {
        Ok(done) => done.map_err(|error| Away(policy::with_causes(&error))),
        Err(_late) => Err(Away(format!(
            "no answer within {}",
            tidemark_host::output::duration(time)
        ))),
    }
}

/// What is asked of the regions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Only this source.
    pub(crate) only: Option<&'a SourceName>,
    /// Everything that says what can be restored: the other questions need the newest alone.
    pub(crate) windows: bool,
}

/// The histories that a region shows, for the view of all regions together.
type Shown = Vec<(RegionName, SourceHistory)>;

/// Reads all regions at once.
pub(crate) async fn gather(
    config: &AgentConfig,
    wanted: Wanted<'_>,
    machine: &Machine,
) -> (Vec<RegionFacts>, BTreeMap<SourceName, Seen>) {
    let options = &machine.open_options();
    let reads = config.regions.iter().map(|region| async move {
        let mut facts = RegionFacts::unread(region);
        let mut shown = Shown::new();
        let read = async {
            let opened = open_for_agent(&region.name, &region.url, options);
            let store = within(FIRST_ANSWER_WITHIN, async { Ok(opened.await?) }).await?;
            let reading = Reading {
                config,
                wanted,
                region,
                store: &store,
            };
            reading.read(&mut facts, &mut shown).await
        };
        if let Err(why) = read.await {
            facts.away = Some(why.to_string());
        }
        (facts, shown)
    });
    let read = futures_util::future::join_all(reads).await;
    let (mut all, shown): (Vec<RegionFacts>, Vec<Shown>) = read.into_iter().unzip();
    let seen = if wanted.windows {
        together::see(shown.into_iter().flatten()).await
    } else {
        BTreeMap::new()
    };
    let places: Vec<domains::Place<'_>> = all
        .iter()
        .map(|facts| (facts.domain.as_str(), facts.id, facts.device))
        .collect();
    let counted = domains::counted(&places);
    for (facts, (domain, _twin)) in all.iter_mut().zip(counted) {
        facts.domain = domain;
    }
    (all, seen)
}

impl RegionFacts {
    fn unread(region: &Region) -> Self {
        Self {
            name: region.name.to_string(),
            place: region.url.place(),
            domain: region.failure_domain.clone(),
            id: None,
            device: None,
            country: region.country.as_ref().map(ToString::to_string),
            keyring_version: None,
            agent: None,
            not_believed: None,
            away: None,
            sources: Vec::new(),
        }
    }
}

/// One region that is read.
struct Reading<'a> {
    config: &'a AgentConfig,
    wanted: Wanted<'a>,
    region: &'a Region,
    store: &'a AgentRegion,
}

impl Reading<'_> {
    async fn read(&self, facts: &mut RegionFacts, shown: &mut Shown) -> Result<(), Away> {
        facts.device = self.store.device;
        let asked = self.config.sources.iter().map(|source| &source.name);
        let asked = asked.filter(|name| self.wanted.only.is_none_or(|only| only == *name));
        let marker = read_marker(self.store.meta.as_ref());
        let marker = within(FIRST_ANSWER_WITHIN, marker).await?;
        facts.id = marker.map(|marker| marker.region);
        // Whether anybody is enrolled in the region can't be told where the region isn't.
        if facts.id.is_none()
            && let Some(known) = known_region(self.config, &self.region.name)
        {
            return Err(Away(not_the_region(&facts.place, known)));
        }
        let keyring = read_keyring(self.config, self.store, facts);
        let Some((keyring, beats)) = within(FIRST_ANSWER_WITHIN, keyring).await? else {
            facts.sources = asked.map(absent).collect();
            return Ok(());
        };
        for name in asked {
            let (source, history) = self.source(name, &keyring, &beats).await?;
            facts.sources.push(source);
            shown.extend(history.map(|history| (self.region.name.clone(), history)));
        }
        Ok(())
    }

    /// What the region shows of a source. A day of recovery points is read if windows are wanted; a region
    /// that is too slow for that still says how new it is.
    async fn source(
        &self,
        name: &SourceName,
        keyring: &Arc<Keyring>,
        beats: &Beats,
    ) -> Result<(SourceFacts, Option<SourceHistory>), Away> {
        if self.wanted.windows {
            let all = self.load(name, keyring, beats, PointsWanted::OVERVIEW);
            if let Ok(read) = tokio::time::timeout(SOURCE_WITHIN, all).await {
                return read.map_err(|error| Away(policy::with_causes(&error)));
            }
        }
        let newest = self.load(name, keyring, beats, PointsWanted::Newest(2));
        let (facts, _history) = within(SOURCE_WITHIN, newest).await?;
        Ok((facts, None))
    }

    async fn load(
        &self,
        name: &SourceName,
        keyring: &Arc<Keyring>,
        beats: &Beats,
        points: PointsWanted,
    ) -> tidemark_ledger::Result<(SourceFacts, Option<SourceHistory>)> {
        let (meta, keyring) = (Arc::clone(&self.store.meta), Arc::clone(keyring));
        let options = LoadOptions { points };
        match SourceHistory::load(meta, keyring, name, beats, &options).await {
            Ok(history) => {
                let facts = SourceFacts {
                    taken_over: overtaken(&history, own_epoch(self.config, name)),
                    ..read_source(&history).await?
                };
                Ok((facts, Some(history)))
            }
            Err(error) if error.kind() == LedgerErrorKind::Missing => Ok((absent(name), None)),
            Err(error) => Err(error),
        }
    }
}

/// Who is believed in a region, and what the agents' beats there say; none without a keyring.
async fn read_keyring(
    config: &AgentConfig,
    store: &AgentRegion,
    facts: &mut RegionFacts,
) -> tidemark_ledger::Result<Option<(Arc<Keyring>, Beats)>> {
    let first = config.recipients.first();
    let trust = first
        .map(Trust::of)
        .ok_or_else(|| tidemark_ledger::LedgerError::NoRepository {
            missing: "a recipient in the config".to_owned(),
        })?;
    let trust = Trust {
        root: config.root,
        ..trust
    };
    let agent = agent_key(config);
    let (keyring, standing) = standing(store.meta.as_ref(), &trust, agent).await?;
    facts.stands(config, agent, &standing);
    let Some(keyring) = keyring.map(Arc::new) else {
        return Ok(None);
    };
    facts.keyring_version = Some(keyring.version());
    let beats = Beats::load(store.meta.as_ref(), &keyring).await?;
    Ok(Some((keyring, beats)))
}

impl RegionFacts {
    fn stands(&mut self, config: &AgentConfig, agent: Option<PublicKey>, standing: &Standing) {
        let (word, why) = match standing {
            Standing::Enrolled => ("enrolled", None),
            Standing::NotEnrolled => {
                let command = agent.map(|key| enrolment::command(key.id(), &config.regions));
                let why = command.map(|command| enrolment::waiting(&command));
                ("not-enrolled", why)
            }
            Standing::Revoked { why } => ("revoked", Some(revoked(why))),
        };
        self.agent = Some(word);
        self.not_believed = why;
    }
}

/// Who has claimed the source after this state directory did.
fn overtaken(history: &SourceHistory, own: Option<Epoch>) -> Option<String> {
    let own = own?;
    let mut claims = history
        .all_epochs()
        .filter_map(|epoch| epoch.claim.as_ref());
    let newest = claims.next_back();
    let head = &newest.filter(|claim| claim.head.epoch > own)?.head;
    let other = (head.epoch, head.host.as_str(), head.at);
    Some(taken_over(history.source(), own, other))
}

fn absent(source: &SourceName) -> SourceFacts {
    SourceFacts {
        source: source.clone(),
        epoch: None,
        point: None,
        log_through: None,
        safe_until: None,
        beat_at: None,
        beat_every_ms: None,
        gaps: 0,
        holes: Vec::new(),
        troubles: Vec::new(),
        absent: true,
        taken_over: None,
    }
}

async fn read_source(history: &SourceHistory) -> tidemark_ledger::Result<SourceFacts> {
    let tail = history.tail().await?;
    // The last piece of a catch-up or of a large commit is a place to stop at, those before it aren't.
    let newest = reached(history, &tail)
        .iter()
        .rev()
        .filter_map(|entry| entry.state.object())
        .find(|object| object.head.restorable);
    let point = history.newest_point();
    let caught_up = history.caught_up();
    let any_base = usable_from(history, Epoch(0)).await?.is_some();
    let holes = left_by_take_overs(history).await?;
    // Log without a base to apply it to brings nothing back.
    let safe_until = if any_base {
        safe_until(history, &tail)
    } else {
        None
    };
    Ok(SourceFacts {
        source: history.source().clone(),
        epoch: history.newest().map(|epoch| epoch.epoch),
        point: point.map(|point| PointFacts {
            epoch: point.head.epoch,
            seq: point.head.seq,
            link: point.link.short(),
            committed: point.head.committed,
            at: point.head.at,
        }),
        log_through: newest
            .map(|object| object.head.seq)
            .or_else(|| point.map(|point| point.head.log_seq)),
        safe_until,
        beat_at: caught_up.map(|beat| beat.beat_at),
        beat_every_ms: caught_up.map(|beat| beat.every_ms),
        gaps: history.missing().len().saturating_sub(holes.len()),
        holes,
        troubles: history
            .troubles()
            .iter()
            .map(|trouble| {
                format!(
                    "{}: {}",
                    trouble.key,
                    policy::with_causes(trouble.error.as_ref())
                )
            })
            .collect(),
        absent: false,
        taken_over: None,
    })
}

/// Up to which instant everything would come back.
fn safe_until(history: &SourceHistory, tail: &[LogEntry]) -> Option<Timestamp> {
    let reached = reached(history, tail);
    let heads = || {
        reached
            .iter()
            .filter_map(|entry| entry.state.object())
            .map(|object| &object.head)
    };
    let said = heads().rev().find(|head| head.restorable).and_then(said_by);
    // A beat counts as far as the log object it names is here, and can be reached.
    let beat = history
        .caught_up()
        .filter(|beat| beat.here && reached.len() == tail.len());
    let point = history.newest_point().map(|point| point.head.committed);
    said.max(point).max(beat.and_then(|beat| beat.at))
}

/// What of the tail some base here can be brought to: after a gap, or where another life of the
/// database or another epoch begins, nothing before a base of its own is complete.
fn reached<'a>(history: &SourceHistory, tail: &'a [LogEntry]) -> &'a [LogEntry] {
    let Some(newest) = history.newest().filter(|epoch| !epoch.bases.is_empty()) else {
        return &[];
    };
    let mut life = newest.points.last().map(|point| point.head.incarnation);
    let mut end = tail.len();
    for (at, object) in tail.iter().map(|entry| entry.state.object()).enumerate() {
        let Some(head) = object.map(|object| &object.head) else {
            continue;
        };
        let breaks = head.gap.is_some() || life.is_some_and(|life| life != head.incarnation);
        if breaks {
            let mends = |base: &Verified<BaseHead>| base.head.start >= head.seq;
            end = if newest.bases.iter().any(mends) {
                tail.len()
            } else {
                end.min(at)
            };
        }
        life = Some(head.incarnation);
    }
    tail.get(..end).unwrap_or(tail)
}

/// An engine that can't say it is taken at its last commit.
fn said_by(head: &LogHead) -> Option<Timestamp> {
    let said = head
        .facts
        .get(COMPLETE_UNTIL)
        .and_then(|fact| fact.as_str());
    said.map_or(head.last_commit, |text| text.parse().ok())
}

/// The instant of the first log object that a base of `epoch` or a later one makes usable.
pub(super) async fn usable_from(
    history: &SourceHistory,
    epoch: Epoch,
) -> tidemark_ledger::Result<Option<Timestamp>> {
    for epoch in history.epochs().filter(|one| one.epoch >= epoch) {
        let first = epoch.bases.iter().min_by_key(|base| base.head.usable_from);
        let Some(base) = first else { continue };
        let instant = instant_of(history, epoch.epoch, base.head.usable_from).await?;
        if instant.is_some() {
            return Ok(instant);
        }
    }
    Ok(None)
}

/// The instant of a log object, if it is here.
pub(super) async fn instant_of(
    history: &SourceHistory,
    epoch: Epoch,
    at: LogSeq,
) -> tidemark_ledger::Result<Option<Timestamp>> {
    let entries = history.log(epoch, at..at.next()).await?;
    let object = entries.first().and_then(|entry| entry.state.object());
    Ok(object.map(|object| object.head.last_commit.unwrap_or(object.head.captured_at)))
}
