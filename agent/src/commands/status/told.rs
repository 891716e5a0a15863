//! What this host knows beside the regions: the running daemon's word, why it ended, which sources are
//! retired.
//!
//! **Invariant:** it may make a judgement worse or explain it, never better.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tidemark_engine_postgres::Followed;
use tidemark_engine_postgres::conninfo::{ConnInfo, Process};
use tidemark_engine_postgres::probe::{self, SlotNow, SlotState};
use tidemark_format::SourceName;
use tidemark_host::config::{AgentConfig, Engine};
use tidemark_host::output::{bytes, instant};

use super::super::ended::Ended;
use super::verdict::{Health, Side};
use crate::control::ClientError;
use crate::ship::lane::Standing;
use crate::state::{SourceRecord, StateDir};
use crate::status_live::{LiveSource, LiveStatus, region_exposure};

/// What is known here.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) live: Option<LiveStatus>,
    /// Why the daemon, which runs, doesn't answer.
    pub(super) silent: Option<String>,
    pub(super) ended: Option<Ended>,
    pub(super) retired: BTreeSet<SourceName>,
    /// What retired sources left at their databases.
    left_behind: BTreeMap<SourceName, String>,
    /// What stands on the servers of sources that are not retired while no agent runs.
    slots: BTreeMap<SourceName, SlotSeen>,
    /// The daemon runs with another config than the file holds now.
    pub(super) config_changed: bool,
}

/// A replication slot that nobody reads from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlotSeen {
    slot: String,
    /// Bytes of log that the server keeps for it; none if the server can't be asked.
    held_bytes: Option<u64>,
    /// The server keeps nothing for it any more.
    is_lost: bool,
    /// It is not there, and was.
    is_gone: bool,
    /// The server has removed log that was not captured.
    is_recycled: bool,
}

impl SlotSeen {
    /// Asks the servers of all sources, while no agent does; those that have no slot are left out.
    pub(super) async fn all(config: &AgentConfig) -> BTreeMap<SourceName, Self> {
        let asked = config.sources.iter().filter_map(|source| {
            let Engine::Postgres { conninfo, slot } = &source.engine else {
                return None;
            };
            Some(async move {
                let info = ConnInfo::parse(conninfo, &Process).ok()?;
                let folder = StateDir::new(&config.state_dir).engine(&source.name);
                let followed = Followed::load(&folder);
                let found = probe::slot(&info, slot, followed.as_ref()).await;
                let seen = Self::of(slot, found.as_ref(), followed.is_some())?;
                Some((source.name.clone(), seen))
            })
        });
        let found = futures_util::future::join_all(asked).await;
        found.into_iter().flatten().collect()
    }

    /// What was `found`; nothing where there is no slot and nothing was `captured` yet.
    fn of(slot: &str, found: Option<&SlotNow>, captured: bool) -> Option<Self> {
        let state = found.and_then(|now| now.state.as_ref());
        let is_gone = found.is_some_and(|now| now.state.is_none());
        if is_gone && !captured {
            return None;
        }
        Some(Self {
            slot: slot.to_owned(),
            held_bytes: state.and_then(|state| state.held_bytes),
            is_lost: state.is_some_and(SlotState::is_lost),
            is_gone,
            is_recycled: found.is_some_and(|now| now.recycled),
        })
    }

    /// What it means and what to do.
    fn text(&self, name: &SourceName) -> String {
        let slot = &self.slot;
        if self.is_gone && self.is_recycled {
            return format!(
                "replication slot {slot} is gone, and the server has removed log that was not captured: what was \
                 committed since can't be captured any more. When the agent starts it begins a new incarnation with a \
                 complete base: until then what is committed can't be restored"
            );
        }
        if self.is_gone {
            return format!(
                "replication slot {slot} is gone while the agent is stopped: the server may remove log that is not \
                 captured any moment. Start the agent now: it goes on without a hole if the log is still there"
            );
        }
        if self.is_lost {
            return format!(
                "replication slot {slot} is lost: the server has dropped log that was not captured. The agent makes it \
                 anew, with a base, when it starts: until then what is committed can't be restored"
            );
        }
        let held = self
            .held_bytes
            .map_or_else(String::new, |held| format!(", {} by now,", bytes(held)));
        format!(
            "nobody reads from replication slot {slot} while the agent is stopped, and the server keeps its log for \
             it{held} until its disk is full. Before the agent is removed for good: tidemark-agent retire --source \
             {name}, or on the server SELECT pg_drop_replication_slot('{slot}');"
        )
    }
}

/// What the running daemon says would be lost, where nothing else can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Word {
    pub(super) loss_ms: u64,
    pub(super) quorum_loss_ms: u64,
    /// Everything committed up to here is in some region.
    pub(super) safe_until: Timestamp,
}

impl Told {
    pub(super) fn new(
        config: &AgentConfig,
        heard: Result<Option<LiveStatus>, ClientError>,
        mut slots: BTreeMap<SourceName, SlotSeen>,
    ) -> Self {
        let (live, silent) = match heard {
            Ok(live) => (live, None),
            Err(silent) => (None, Some(silent.to_string())),
        };
        let state = StateDir::new(&config.state_dir);
        let mut retired = BTreeSet::new();
        let mut left_behind = BTreeMap::new();
        for source in &config.sources {
            let name = &source.name;
            let record = SourceRecord::load(&state.record(name)).ok().flatten();
            let Some(record) = record else {
                // What was never captured has left nothing at a server that can't be asked.
                slots.retain(|of, seen| of != name || seen.held_bytes.is_some());
                continue;
            };
            if record.retired.is_some() {
                left_behind.extend(record.left_behind.map(|left| (name.clone(), left)));
                retired.insert(name.clone());
                slots.remove(name);
            }
        }
        let runs_with = live.as_ref().and_then(|live| live.config);
        Self {
            ended: Ended::load(config).filter(|_| live.is_none() && silent.is_none()),
            retired,
            left_behind,
            slots,
            config_changed: runs_with.is_some_and(|hash| hash != config.hash),
            live,
            silent,
        }
    }

    pub(super) fn source(&self, name: &SourceName) -> Option<&LiveSource> {
        self.live.as_ref()?.sources.get(name)
    }

    /// What it adds to the judgement of a source.
    pub(super) fn side(&self, name: &SourceName) -> Side {
        let mut notes = Vec::new();
        if let Some((reason, until)) = self.source(name).and_then(|live| live.paused.as_ref()) {
            let text = format!(
                "shipping of {name} is paused until {} ({reason}): tidemark-agent resume ships again now",
                instant(*until)
            );
            notes.push((Health::Warning, text));
        }
        notes.extend(self.repairs(name));
        let live = self.live.as_ref();
        for alert in live.into_iter().flat_map(|live| &live.alerts) {
            let others = live.is_some_and(|live| {
                let mut sources = live.sources.keys();
                sources.any(|source| source.as_str() == alert.about) && alert.about != name.as_str()
            });
            if !others && alert.code != "paused" {
                let text = format!("{}: tidemark-agent explain {}", alert.about, alert.code);
                notes.push((Health::Warning, text));
            }
        }
        if self.config_changed {
            let text = "the agent runs with an earlier config than the file holds: systemctl restart tidemark-agent \
                        applies it";
            notes.push((Health::Warning, text.to_owned()));
        }
        if let (Some(slot), None, None) = (self.slots.get(name), live, &self.silent) {
            notes.push((Health::Warning, slot.text(name)));
        }
        Side {
            runs: live.is_some(),
            ended: self
                .silent
                .clone()
                .or_else(|| self.ended.as_ref().map(Ended::words)),
            retired: self.retired.contains(name),
            left_behind: self.left_behind.get(name).cloned(),
            notes,
        }
    }

    /// The regions that lack a base, and what becomes of that.
    fn repairs(&self, name: &SourceName) -> Vec<(Health, String)> {
        let Some((live, source)) = self.live.as_ref().zip(self.source(name)) else {
            return Vec::new();
        };
        let lanes = source.lanes.iter();
        let repairing = lanes.filter(|(_, lane)| lane.standing == Standing::Repairing);
        let words = repairing.map(|(region, _)| {
            let up = live.regions.get(region).is_some_and(|region| region.up);
            let what = match (&source.base, up) {
                (_, false) => "a complete base repairs it as soon as it answers".to_owned(),
                (Some(base), true) => {
                    let done = base.done.saturating_mul(100) / base.total.max(1);
                    format!("a base that repairs it is under way, {done} % of the database are read")
                }
                (None, true) => "a base repairs it by itself within about 10 min, or at once: tidemark-agent snapshot \
                                 --base"
                    .to_owned(),
            };
            let text =
                format!("region {region} is being repaired: it gets no new recovery point of {name} until it has a \
                         base of its own; {what}");
            (Health::Warning, text)
        });
        words.collect()
    }

    /// What the daemon says would be lost of a source.
    pub(super) fn word(&self, name: &SourceName) -> Option<Word> {
        let live = self.live.as_ref()?;
        let source = live.sources.get(name)?;
        let lags = source.lanes.values();
        let best = lags
            .map(|lane| region_exposure(source, lane, live.at))
            .min()?;
        let safe_until = live
            .at
            .checked_sub(SignedDuration::try_from(best).ok()?)
            .ok()?;
        Some(Word {
            loss_ms: millis(best),
            quorum_loss_ms: millis(live.exposure(name)),
            safe_until,
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::status_live::{LiveAlert, LiveBase, LiveLane, LiveRegion, LiveStatus};

    pub(in super::super) fn live() -> LiveStatus {
        let at = Timestamp::from_second(100).unwrap();
        LiveStatus {
            schema: String::new(),
            version: 1,
            at,
            pid: 1,
            repo: tidemark_format::RepoId([0; 16]),
            writer: tidemark_format::WriterId([0; 16]),
            agent: tidemark_format::KeyId([0; 16]),
            config: None,
            sources: [("app", Some(("move".to_owned(), at))), ("shop", None)]
                .map(|(name, paused)| {
                    let live = LiveSource {
                        paused,
                        ..LiveSource::default()
                    };
                    (name.parse().unwrap(), live)
                })
                .into(),
            regions: [].into(),
            spool_bytes: 0,
            spool_max: 0,
            spool_bytes_per_s: None,
            alerts: vec![LiveAlert {
                code: "sqlite.wal-max".into(),
                about: "shop".into(),
                message: "held".into(),
                since: at,
            }],
        }
    }

    /// What is said of `app` while region `b` lacks a base.
    fn said_of_a_repair(up: bool, base: Option<LiveBase>) -> String {
        let mut live = live();
        let lane = |standing| LiveLane {
            standing,
            lacking_since: None,
            behind: 0,
            backlog_bytes: 0,
            log_through: None,
            point_through: None,
        };
        for name in ["a", "b"] {
            let region = LiveRegion {
                up: up || name == "a",
                ..LiveRegion::default()
            };
            live.regions.insert(name.parse().unwrap(), region);
        }
        live.alerts.clear();
        let app = live.sources.get_mut(&"app".parse().unwrap()).unwrap();
        app.paused = None;
        app.base = base;
        app.lanes
            .insert("a".parse().unwrap(), lane(Standing::Whole));
        app.lanes
            .insert("b".parse().unwrap(), lane(Standing::Repairing));
        let told = Told {
            live: Some(live),
            ..Told::default()
        };
        let notes = told.side(&"app".parse().unwrap()).notes;
        let [(level, text)] = &notes[..] else {
            panic!("{notes:?}")
        };
        assert_eq!(*level, Health::Warning);
        assert!(text.starts_with("region b is being repaired"), "{text}");
        assert!(text.contains("no new recovery point of app"), "{text}");
        text.clone()
    }

    #[test]
    fn a_region_that_lacks_a_base_says_what_becomes_of_it() {
        let away = said_of_a_repair(false, None);
        assert!(away.contains("as soon as it answers"), "{away}");
        let soon = said_of_a_repair(true, None);
        assert!(soon.contains("within about 10 min"), "{soon}");
        assert!(soon.contains("tidemark-agent snapshot --base"), "{soon}");
        let base = |done, total| {
            Some(LiveBase {
                complete: true,
                done,
                total,
                since: Timestamp::from_second(90).unwrap(),
            })
        };
        let under_way = said_of_a_repair(true, base(30, 40));
        assert!(under_way.contains("under way, 75 %"), "{under_way}");
        let begun = said_of_a_repair(true, base(0, 0));
        assert!(begun.contains("under way, 0 %"), "{begun}");
        // A base that others make doesn't help a region that is away.
        assert_eq!(said_of_a_repair(false, base(30, 40)), away);
    }

    #[test]
    fn a_slot_is_told_as_it_stands_and_only_while_no_agent_runs() {
        let app: SourceName = "app".parse().unwrap();
        let seen = |held_bytes, is_lost| SlotSeen {
            slot: "tidemark_app".to_owned(),
            held_bytes,
            is_lost,
            is_gone: false,
            is_recycled: false,
        };
        let said = |slot: SlotSeen, live: Option<LiveStatus>| {
            let told = Told {
                live,
                slots: [(app.clone(), slot)].into(),
                ..Told::default()
            };
            let notes = told.side(&app).notes;
            notes.into_iter().map(|(_, text)| text).collect::<String>()
        };
        let holds = said(seen(Some(3 << 20), false), None);
        assert!(holds.contains("3 MiB by now") && holds.contains("retire --source app"));
        let lost = said(seen(Some(0), true), None);
        assert!(
            lost.contains("is lost") && !lost.contains("retire"),
            "{lost}"
        );
        let runs = said(seen(Some(3 << 20), false), Some(live()));
        assert!(!runs.contains("tidemark_app"), "{runs}");
    }

    #[test]
    fn a_pause_says_until_when_and_an_alert_is_no_reason_to_do_nothing() {
        let told = Told {
            live: Some(live()),
            ..Told::default()
        };
        let app = told.side(&"app".parse().unwrap());
        assert_eq!(app.notes.len(), 1);
        assert!(app.notes[0].1.contains("1970-01-01") && app.notes[0].1.contains("resume"));
        let shop = told.side(&"shop".parse().unwrap());
        assert_eq!(
            shop.notes,
            [(
                Health::Warning,
                "shop: tidemark-agent explain sqlite.wal-max".to_owned()
            )]
        );
    }
}
