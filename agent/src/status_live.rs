//! How things stand, as the running daemon knows it: one board that every driver writes its part on
//! and that `status`, systemd's status line, the metrics and the beats read.
//!
//! It informs people and decides nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_format::{
    Epoch, Hash, KeyId, LogSeq, PointSeq, RegionId, RegionName, RepoId, SourceName, WriterId,
};

use crate::domains::distinct;
use crate::ship::lane::Standing;
use crate::ship::quorum;

/// What a source is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceState {
    /// It is about to be opened.
    #[default]
    Starting,
    /// No region could be reached to claim it yet.
    WaitingForRegion,
    /// The root has not signed for this agent yet, so it can't be claimed.
    WaitingForEnrolment,
    /// The database can't be opened; it is tried again and again.
    WaitingForDatabase,
    /// What was missed while the agent was away is being found.
    CatchingUp,
    /// It is captured.
    Capturing,
    /// The spool is full and no range may be given up: nothing is cut until there is room.
    HeldByFullSpool,
    /// The disk under the spool has no more room than stays free: nothing is cut until there is.
    HeldByFullDisk,
    /// A person paused shipping.
    Paused,
    /// Another writer has it.
    Fenced,
    /// Retired for good.
    Retired,
}

impl SourceState {
    /// Whether the agent has it in hand, or has said why not: what systemd's READY waits for.
    #[must_use]
    pub const fn is_settled(self) -> bool {
        !matches!(self, Self::Starting)
    }

    /// As JSON and metrics name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::WaitingForRegion => "waiting-for-region",
            Self::WaitingForEnrolment => "waiting-for-enrolment",
            Self::WaitingForDatabase => "waiting-for-database",
            Self::CatchingUp => "catching-up",
            Self::Capturing => "capturing",
            Self::HeldByFullSpool => "held-by-full-spool",
            Self::HeldByFullDisk => "held-by-full-disk",
            Self::Paused => "paused",
            Self::Fenced => "fenced",
            Self::Retired => "retired",
        }
    }
}

/// Something a person should know, true now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveAlert {
    /// A stable name: a code that `explain` knows, or the engine's.
    pub code: String,
    /// What it is about: a source or region, or the agent.
    pub about: String,
    /// What happens, what it means, what to do.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
}

/// One source in one region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveLane {
    /// Whether it has everything it should.
    pub standing: Standing,
    /// The first commit in the spool that isn't durable there.
    pub lacking_since: Option<Timestamp>,
    /// Objects that wait.
    pub behind: u64,
    /// Their bytes.
    pub backlog_bytes: u64,
    /// The last log object that is durable there.
    pub log_through: Option<LogSeq>,
    /// The last recovery point that is durable there.
    pub point_through: Option<PointSeq>,
}

/// A base under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveBase {
    /// Whether it holds every page.
    pub complete: bool,
    /// Bytes of the database looked at.
    pub done: u64,
    /// Bytes of the database.
    pub total: u64,
    /// Since when.
    pub since: Timestamp,
}

/// The canaries of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveCanary {
    /// `table` or `message`.
    pub form: String,
    /// How often.
    pub every_ms: u64,
    /// The number of the last one that was written.
    pub seq: Option<u64>,
    /// The instant in it.
    pub at: Option<Timestamp>,
    /// Why none is written now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LiveSource {
    /// What it is doing.
    pub state: SourceState,
    /// The engine.
    pub engine: String,
    /// The writer's term.
    pub epoch: Epoch,
    /// The last log object that is sealed.
    pub log_seq: Option<LogSeq>,
    /// Its link.
    pub log_link: Option<Hash>,
    /// Where it ends, as the database counts: an LSN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// The instant at which everything had been captured and sealed up to `log_seq`.
    pub caught_up_at: Option<Timestamp>,
    /// The first commit that is captured and not sealed yet.
    pub pending_since: Option<Timestamp>,
    /// The last recovery point that was sealed.
    pub point: Option<PointSeq>,
    /// When.
    pub point_at: Option<Timestamp>,
    /// When the newest base was finished.
    pub base_at: Option<Timestamp>,
    /// A base under way.
    pub base: Option<LiveBase>,
    /// How many failure domains make durable.
    pub durable_in: usize,
    /// Every region it is shipped to.
    pub lanes: BTreeMap<RegionName, LiveLane>,
    /// The database's size in bytes, if known.
    pub database_bytes: Option<u64>,
    /// When the log of a server was last found not to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_lost_at: Option<Timestamp>,
    /// Why shipping is paused, and until when.
    pub paused: Option<(String, Timestamp)>,
    /// The RPO that its config promises, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo_ms: Option<u64>,
    /// What keeps everything from being captured, until somebody ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<String>,
    /// The canaries, where they are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<LiveCanary>,
}

/// One region.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LiveRegion {
    /// Its URL without options.
    pub place: String,
    /// Its own id, once it was reached.
    pub id: Option<RegionId>,
    /// Regions of one domain count once.
    pub domain: String,
    /// A directory that this agent has not seen yet: it may be on the device of another one, and what it
    /// holds doesn't count until that is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unseen: bool,
    /// As declared.
    pub country: Option<String>,
    /// Whether it answers.
    pub up: bool,
    /// Since when it is as `up` says.
    pub since: Option<Timestamp>,
    /// The last error, while it is away.
    pub last_error: Option<String>,
    /// `enforced` or `advisory`, once probed.
    pub create_only: Option<String>,
    /// Its clock minus ours, in milliseconds.
    pub clock_offset_ms: Option<i64>,
    /// The last beat that is there.
    pub beat: Option<u64>,
}

/// How things stand: what the control socket answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveStatus {
    /// `tidemark.agent.live`.
    pub schema: String,
    /// 1.
    pub version: u32,
    /// When.
    pub at: Timestamp,
    /// The daemon's process.
    pub pid: u32,
    /// The repository.
    pub repo: RepoId,
    /// The state directory.
    pub writer: WriterId,
    /// The agent's signing key.
    pub agent: KeyId,
    /// The hash of the config that it runs with.
    #[serde(default)]
    pub config: Option<Hash>,
    /// By name.
    pub sources: BTreeMap<SourceName, LiveSource>,
    /// By name.
    pub regions: BTreeMap<RegionName, LiveRegion>,
    /// Bytes in the spool.
    pub spool_bytes: u64,
    /// The most it may hold.
    pub spool_max: u64,
    /// By how much it grew in each second of late, if it did.
    #[serde(default)]
    pub spool_bytes_per_s: Option<u64>,
    /// What a person should know now.
    pub alerts: Vec<LiveAlert>,
}

impl LiveStatus {
    /// How much would be lost if the source vanished now and this many failure domains remained:
    /// time since the first commit that isn't durable in W of them. Zero if there is none.
    #[must_use]
    pub fn exposure(&self, source: &SourceName) -> Duration {
        self.sources.get(source).map_or(Duration::ZERO, |live| {
            exposure(live, &self.regions, self.at)
        })
    }
}

fn exposure(
    live: &LiveSource,
    regions: &BTreeMap<RegionName, LiveRegion>,
    now: Timestamp,
) -> Duration {
    let lanes = live.lanes.iter().map(|(name, lane)| {
        let region = regions.get(name);
        let unseen = region.filter(|region| region.unseen);
        let unknown = unseen.and_then(|region| region.since);
        let domain = region.map_or("", |region| region.domain.as_str());
        (domain, lane.lacking_since.or(unknown))
    });
    let lanes: Vec<(&str, Option<Timestamp>)> = lanes.collect();
    let sealed = if lanes.is_empty() {
        None
    } else {
        let domains = distinct(lanes.iter().map(|(domain, _)| *domain));
        quorum::lacking_since(lanes, quorum::width(live.durable_in, domains))
    };
    age(sealed.into_iter().chain(live.pending_since).min(), now)
}

fn age(since: Option<Timestamp>, now: Timestamp) -> Duration {
    let age = since.map(|since| now.duration_since(since));
    age.and_then(|age| Duration::try_from(age).ok())
        .unwrap_or(Duration::ZERO)
}

/// Exposure of one source in one region: what that region alone lacks.
#[must_use]
pub fn region_exposure(live: &LiveSource, lane: &LiveLane, now: Timestamp) -> Duration {
    age(
        lane.lacking_since
            .into_iter()
            .chain(live.pending_since)
            .min(),
        now,
    )
}

#[derive(Debug, Default)]
struct Written {
    sources: BTreeMap<SourceName, LiveSource>,
    regions: BTreeMap<RegionName, LiveRegion>,
    /// By (code, about).
    alerts: BTreeMap<(String, String), LiveAlert>,
}

/// The board.
#[derive(Debug, Default)]
pub struct Board {
    written: Mutex<Written>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a source's part.
    pub fn source(&self, name: &SourceName, change: impl FnOnce(&mut LiveSource)) {
        change(self.lock().sources.entry(name.clone()).or_default());
    }

    /// Changes a region's part.
    pub fn region(&self, name: &RegionName, change: impl FnOnce(&mut LiveRegion)) {
        change(self.lock().regions.entry(name.clone()).or_default());
    }

    /// Raises an alert; the log hears of it once, when it begins.
    pub fn alert(&self, code: &str, about: &str, message: &str, now: Timestamp) {
        let mut written = self.lock();
        let key = (code.to_owned(), about.to_owned());
        if let Some(alert) = written.alerts.get_mut(&key) {
            message.clone_into(&mut alert.message);
            return;
        }
        let alert = LiveAlert {
            code: code.to_owned(),
            about: about.to_owned(),
            message: message.to_owned(),
            since: now,
        };
        written.alerts.insert(key, alert);
        drop(written);
        tracing::error!(code, about, "{message}");
    }

    /// Takes an alert back, if it stands.
    pub fn clear(&self, code: &str, about: &str) {
        let gone = self
            .lock()
            .alerts
            .remove(&(code.to_owned(), about.to_owned()));
        if gone.is_some() {
            tracing::info!(code, about, "the condition is over");
        }
    }

    /// Leaves of the alerts about `about` whose code begins with `prefix` only those in `keep`.
    pub fn keep_alerts(&self, prefix: &str, about: &str, keep: &[&str]) {
        let gone: Vec<String> = self
            .lock()
            .alerts
            .keys()
            .filter(|(code, whom)| {
                whom == about && code.starts_with(prefix) && !keep.contains(&code.as_str())
            })
            .map(|(code, _about)| code.clone())
            .collect();
        for code in gone {
            self.clear(&code, about);
        }
    }

    /// Everything that stands there now, for one who reads it.
    pub fn read<T>(
        &self,
        with: impl FnOnce(
            &BTreeMap<SourceName, LiveSource>,
            &BTreeMap<RegionName, LiveRegion>,
            usize,
        ) -> T,
    ) -> T {
        let written = self.lock();
        with(&written.sources, &written.regions, written.alerts.len())
    }

    /// The message of an alert that stands.
    #[must_use]
    pub fn message(&self, code: &str, about: &str) -> Option<String> {
        let written = self.lock();
        let alert = written.alerts.get(&(code.to_owned(), about.to_owned()));
        alert.map(|alert| alert.message.clone())
    }

    /// The alerts that stand.
    #[must_use]
    pub fn alerts(&self) -> Vec<LiveAlert> {
        self.lock().alerts.values().cloned().collect()
    }

    /// How much would be lost of a source now.
    #[must_use]
    pub fn exposure_of(&self, source: &SourceName, now: Timestamp) -> Option<Duration> {
        let written = self.lock();
        let live = written.sources.get(source)?;
        Some(exposure(live, &written.regions, now))
    }

    /// The largest exposure of all sources, and whose it is.
    #[must_use]
    pub fn worst_exposure(&self, now: Timestamp) -> Option<(SourceName, Duration)> {
        let written = self.lock();
        let all = written
            .sources
            .iter()
            .filter(|(_, live)| live.state != SourceState::Retired);
        all.map(|(name, live)| (name.clone(), exposure(live, &written.regions, now)))
            .max_by_key(|(_, exposure)| *exposure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn lane(lacking: Option<i64>) -> LiveLane {
        LiveLane {
            standing: Standing::Whole,
            lacking_since: lacking.map(at),
            behind: 0,
            backlog_bytes: 0,
            log_through: None,
            point_through: None,
        }
    }

    fn board(lanes: &[(&str, Option<i64>)], durable_in: usize) -> (Board, SourceName) {
        let board = Board::default();
        let app = SourceName::new("app").unwrap();
        for (name, lacking) in lanes {
            let region = RegionName::new(*name).unwrap();
            board.region(&region, |live| live.domain = (*name).to_owned());
            board.source(&app, |live| {
                live.durable_in = durable_in;
                live.lanes.insert(region, lane(*lacking));
            });
        }
        (board, app)
    }

    #[test]
    fn exposure_is_the_age_of_what_the_quorum_lacks() {
        let (board, app) = board(&[("a", None), ("b", Some(40))], 2);
        assert_eq!(
            board.worst_exposure(at(100)),
            Some((app.clone(), Duration::from_secs(60)))
        );
        board.source(&app, |live| live.durable_in = 1);
        assert_eq!(
            board.worst_exposure(at(100)),
            Some((app.clone(), Duration::ZERO))
        );
        board.source(&app, |live| live.pending_since = Some(at(90)));
        assert_eq!(
            board.worst_exposure(at(100)),
            Some((app, Duration::from_secs(10)))
        );
    }

    #[test]
    fn exposure_counts_no_more_domains_than_there_are_and_nothing_that_an_unseen_directory_holds() {
        let (board, app) = board(&[("a", Some(40)), ("b", None)], 3);
        let exposure = |board: &Board| board.worst_exposure(at(100)).map(|(_, age)| age.as_secs());
        assert_eq!(exposure(&board), Some(60), "two of two");
        let change = |name: &str, change: &dyn Fn(&mut LiveRegion)| {
            board.region(&RegionName::new(name).unwrap(), |live| change(live));
        };
        change("b", &|live| live.domain = "a".to_owned());
        assert_eq!(exposure(&board), Some(0), "one of one: b has everything");
        change("b", &|live| {
            "b".clone_into(&mut live.domain);
            live.unseen = true;
            live.since = Some(at(20));
        });
        assert_eq!(
            exposure(&board),
            Some(80),
            "what b holds since it is away is not known"
        );
        board.source(&app, |live| live.durable_in = 1);
        assert_eq!(exposure(&board), Some(60));
    }

    #[test]
    fn an_alert_stands_until_it_is_cleared() {
        let board = Board::default();
        board.alert("TM1601", "a", "away", at(1));
        board.alert("TM1601", "a", "still away", at(2));
        board.alert("sqlite.wal-max", "app", "held", at(2));
        assert_eq!(board.alerts().len(), 2);
        assert_eq!(board.alerts()[0].since, at(1));
        board.keep_alerts("sqlite.", "app", &[]);
        board.clear("TM1601", "a");
        assert!(board.alerts().is_empty());
    }
}
