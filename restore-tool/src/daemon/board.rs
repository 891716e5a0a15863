//! How the schedule stands, for people and machines: each drill, what stands against it, one line for systemd.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use tidemark_format::{DrillName, SourceName};
use tidemark_host::Code;
use tidemark_host::output::{age, instant};

/// What a drill is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Doing {
    /// Nothing until the next slot.
    Waiting,
    /// It is due and will be run here, not before then.
    Due {
        /// When.
        at: Timestamp,
    },
    /// It runs here.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// Another host has the turn.
    Elsewhere {
        /// Which.
        host: String,
    },
    /// It was tried as often as it may be.
    GivenUp,
    /// The regions have not been read yet, or can't be.
    Unknown,
}

impl Doing {
    /// As people see it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Due { .. } => "due",
            Self::Running { .. } => "running",
            Self::Elsewhere { .. } => "elsewhere",
            Self::GivenUp => "given up",
            Self::Unknown => "unknown",
        }
    }
}

/// How a drill ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Last {
    /// The slot.
    pub slot: Timestamp,
    /// When it ended.
    pub at: Timestamp,
    /// On which host.
    pub host: String,
    /// How.
    pub verdict: String,
    /// Its record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_id: Option<String>,
    /// How long it took until the database was back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_ms: Option<u64>,
    /// What was lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpo_ms: Option<u64>,
}

/// A scheduled drill as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scheduled {
    /// Its source.
    pub source: SourceName,
    /// Its schedule, with the zone.
    pub schedule: String,
    /// What it is doing.
    pub doing: Doing,
    /// The next slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// Since when it has not been done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_since: Option<Timestamp>,
    /// Slots that passed without a result before the newest one.
    pub missed: u32,
    /// Whether it should have been done by now.
    pub overdue: bool,
    /// How the last one ended that came to a result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Last>,
    /// When the last one passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed_at: Option<Timestamp>,
}

/// A condition that a person should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// Its code, which `explain` knows.
    pub code: String,
    /// What it is about.
    pub about: String,
    /// What is the matter, and what to do.
    pub text: String,
    /// Since when.
    pub since: Timestamp,
}

/// How something that is promised stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Well.
    Held,
    /// More than three quarters of it are used up.
    AtRisk,
    /// It is not kept.
    Broken,
}

/// Something that is promised of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Promise {
    /// Of which source.
    pub source: SourceName,
    /// What, as the config calls it.
    pub objective: &'static str,
    /// How it stands.
    pub standing: Standing,
    /// What was found, and what to do.
    pub text: String,
}

impl Promise {
    /// What an alert about it is about.
    #[must_use]
    pub fn about(&self) -> String {
        format!("{} {}", self.source, self.objective)
    }
}

/// Everything that is shown. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Shown>>);

#[derive(Debug, Default)]
struct Shown {
    drills: BTreeMap<DrillName, Scheduled>,
    alerts: BTreeMap<(String, String), Alert>,
    promises: Vec<Promise>,
}

impl Board {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The drills.
    #[must_use]
    pub fn drills(&self) -> BTreeMap<DrillName, Scheduled> {
        self.shown().drills.clone()
    }

    /// What stands against them.
    #[must_use]
    pub fn alerts(&self) -> Vec<Alert> {
        self.shown().alerts.values().cloned().collect()
    }

    /// The drills are these now.
    pub fn set(&self, drills: BTreeMap<DrillName, Scheduled>) {
        self.shown().drills = drills;
    }

    /// What is promised, and how it stands now.
    pub fn promises(&self, promises: &[Promise]) {
        self.shown().promises = promises.to_vec();
    }

    /// What is promised.
    #[must_use]
    pub fn promised(&self) -> Vec<Promise> {
        self.shown().promises.clone()
    }

    /// A drill does something else.
    pub fn doing(&self, drill: &DrillName, doing: Doing) {
        if let Some(scheduled) = self.shown().drills.get_mut(drill) {
            scheduled.doing = doing;
        }
    }

    /// Something stands against it: told once, however often it is found.
    pub fn alert(&self, code: Code, about: &str, text: &str, now: Timestamp) {
        if self.told(code, about, text, now) {
            tracing::error!(code = code.id, about, "{text}");
        }
    }

    /// The same, where the journal has it already. Returns whether it is new.
    pub fn told(&self, code: Code, about: &str, text: &str, now: Timestamp) -> bool {
        let key = (code.id.to_owned(), about.to_owned());
        let mut shown = self.shown();
        if let Some(alert) = shown.alerts.get_mut(&key) {
            text.clone_into(&mut alert.text);
            return false;
        }
        let alert = Alert {
            code: key.0.clone(),
            about: key.1.clone(),
            text: text.to_owned(),
            since: now,
        };
        shown.alerts.insert(key, alert);
        true
    }

    /// It does no longer.
    pub fn clear(&self, code: Code, about: &str) {
        let key = (code.id.to_owned(), about.to_owned());
        if self.shown().alerts.remove(&key).is_some() {
            tracing::info!(code = code.id, about, "no longer");
        }
    }

    /// What stands with `code` about anything that `keep` doesn't name does no longer.
    pub fn clear_but(&self, code: Code, keep: impl Fn(&str) -> bool) {
        let all = self.alerts();
        let gone = all.iter().filter(|alert| alert.code == code.id);
        for alert in gone.filter(|alert| !keep(&alert.about)) {
            self.clear(code, &alert.about);
        }
    }

    /// The line that `systemctl status` shows.
    #[must_use]
    pub fn line(&self, now: Timestamp) -> String {
        let shown = self.shown();
        let mut line = String::new();
        for (name, drill) in &shown.drills {
            if !line.is_empty() {
                line.push_str(" · ");
            }
            let last = drill.last.as_ref().map_or_else(
                || "never drilled".to_owned(),
                |last| format!("{} {}", last.verdict, age(now, last.at)),
            );
            let doing = match (&drill.doing, drill.next) {
                (Doing::Waiting, Some(next)) => format!("next {}", instant(next)),
                (Doing::Elsewhere { host }, _) => format!("running on {host}"),
                (doing, _) => doing.name().to_owned(),
            };
            line.push_str(&format!("{name}: {last}, {doing}"));
            if drill.overdue {
                line.push_str(", OVERDUE");
            }
        }
        if line.is_empty() {
            line.push_str("no drill is scheduled: write a [[drill]] into restore.toml");
        }
        let alerts = shown.alerts.len();
        if alerts > 0 {
            line.push_str(&format!(" · {alerts} alert(s), see the journal"));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use tidemark_host::codes;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn scheduled(doing: Doing) -> Scheduled {
        Scheduled {
            source: SourceName::new("app").unwrap(),
            schedule: "0 3 * * * UTC".to_owned(),
            doing,
            next: Some(at(10_800)),
            due_since: None,
            missed: 0,
            overdue: false,
            last: None,
            passed_at: None,
        }
    }

    #[test]
    fn the_line_says_how_each_drill_ended_and_what_comes_next() {
        let board = Board::default();
        assert!(board.line(at(0)).contains("no drill is scheduled"));
        let name = DrillName::new("nightly").unwrap();
        board.set([(name.clone(), scheduled(Doing::Waiting))].into());
        let line = board.line(at(7200));
        assert_eq!(line, "nightly: never drilled, next 1970-01-01 03:00:00 UTC");
        let mut drill = scheduled(Doing::Elsewhere {
            host: "db2".to_owned(),
        });
        drill.last = Some(Last {
            slot: at(0),
            at: at(3600),
            host: "db2".to_owned(),
            verdict: "FAIL".to_owned(),
            evidence_id: None,
            rto_ms: None,
            rpo_ms: None,
        });
        drill.overdue = true;
        board.set([(name, drill)].into());
        let line = board.line(at(7200));
        assert!(line.contains("nightly: FAIL 1 h ago"), "{line}");
        assert!(line.ends_with("running on db2, OVERDUE"), "{line}");
    }

    #[test]
    fn an_alert_stands_once_until_it_is_cleared() {
        let board = Board::default();
        board.alert(codes::REGION_AWAY, "aarhus", "it is away", at(1));
        board.alert(codes::REGION_AWAY, "aarhus", "it is still away", at(2));
        let alerts = board.alerts();
        assert_eq!((alerts.len(), alerts[0].since), (1, at(1)));
        assert_eq!(alerts[0].text, "it is still away");
        assert!(board.line(at(3)).contains("1 alert(s)"));
        board.clear_but(codes::REGION_AWAY, |about| about == "aarhus");
        assert_eq!(board.alerts().len(), 1);
        board.clear_but(codes::REGION_AWAY, |_about| false);
        assert!(board.alerts().is_empty());
    }
}
