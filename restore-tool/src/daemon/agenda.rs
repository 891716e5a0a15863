//! The schedule as the config and the evidence show it, for whoever asks: without an identity, and without a
//! turn's claim being looked at. Whether a drill runs at this moment the daemon's own status line knows.
//!
//! **Invariants.** Only a record that stands and came to a verdict counts as a result: what is overdue here is
//! overdue whatever a host says of itself.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use tidemark_format::heads::DrillStep;
use tidemark_format::{DrillName, Hash, SourceName};
use tidemark_host::output::{age, instant};
use tidemark_planner::rota::{Known, Standing, Step};

use super::notes;
use super::plan::Planned;
use crate::error::{Error, Result};
use crate::evidence::drills::{Drill, Verdict};
use crate::repository::Settings;

/// A drill of the config, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its name.
    pub name: DrillName,
    /// Its source.
    pub source: SourceName,
    /// Its schedule, with the zone.
    pub schedule: String,
    /// When it is due next.
    pub next: Option<Timestamp>,
    /// How the last one ended.
    pub last: Option<Last>,
    /// When the last one passed that proves something.
    pub passed_at: Option<Timestamp>,
    /// Since when it has not been done.
    pub due_since: Option<Timestamp>,
    /// Slots that passed without a result before the newest one.
    pub missed: u32,
    /// Whether it should have been done by now.
    pub overdue: bool,
}

/// How a scheduled drill ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Last {
    /// How.
    pub verdict: Option<Verdict>,
    /// When its record was made.
    pub at: Timestamp,
    /// The record.
    pub evidence_id: String,
}

/// Every drill of the config, by what `drills` says, the oldest record first.
///
/// # Errors
/// A schedule that can't be read; the config's door has seen to that.
pub fn agenda(settings: &Settings, drills: &[Drill], now: Timestamp) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for drill in &settings.drills.drills {
        if settings
            .source
            .as_ref()
            .is_some_and(|only| *only != drill.source)
        {
            continue;
        }
        let planned = Planned::new(drill.clone()).map_err(Error::Schedule)?;
        let name = &planned.drill.name;
        let noted = settings
            .state
            .as_deref()
            .and_then(|state| notes::since(state, name, &planned.schedule_text));
        entries.push(entry(&planned, drills, noted, now));
    }
    Ok(entries)
}

fn entry(planned: &Planned, drills: &[Drill], noted: Option<Timestamp>, now: Timestamp) -> Entry {
    let name = &planned.drill.name;
    let own: Vec<&Drill> = drills
        .iter()
        .filter(|drill| drill.plan.as_deref() == Some(name.as_str()))
        .collect();
    let slots: BTreeMap<Timestamp, Vec<Step>> = own
        .iter()
        .filter_map(|drill| Some((drill.slot?, vec![step(drill, planned)?])))
        .collect();
    let declared = own
        .iter()
        .map(|drill| drill.declared_at.unwrap_or(drill.at));
    let known = Known {
        schedule: &planned.schedule,
        rules: &planned.rules,
        slots: &slots,
        // Where nobody ever wrote it down, it begins now.
        since: noted.into_iter().chain(declared).min().unwrap_or(now),
        seed: 0,
    };
    let standing = Standing::judge(&known, now);
    let passed = own.iter().rev().find(|drill| drill.proves());
    Entry {
        name: name.clone(),
        source: planned.drill.source.clone(),
        schedule: planned.schedule_text.clone(),
        next: standing.next,
        last: own.last().map(|drill| Last {
            verdict: drill.verdict,
            at: drill.at,
            evidence_id: drill.id.clone(),
        }),
        passed_at: passed.map(|drill| drill.at),
        due_since: standing.due_since,
        missed: standing.missed,
        overdue: standing.overdue,
    }
}

/// What the end of a turn says; none of a drill that counts for nothing.
fn step(drill: &Drill, planned: &Planned) -> Option<Step> {
    let counts = drill.doubt.is_none()
        && drill
            .verdict
            .is_some_and(|verdict| verdict != Verdict::Inconclusive);
    counts.then(|| Step {
        seq: 0,
        step: DrillStep::Ended,
        link: Hash::of(drill.id.as_bytes()),
        claim: None,
        at: drill.at,
        until: None,
        seen_for: std::time::Duration::ZERO,
        abandoned: false,
        conclusive: true,
        same_schedule: drill.schedule.as_deref() == Some(planned.schedule_text.as_str()),
    })
}

impl Entry {
    /// For a table: name, source, schedule, next, last, and what is the matter.
    #[must_use]
    pub fn row(&self, now: Timestamp) -> [String; 6] {
        let last = self.last.as_ref().map_or_else(
            || "never".to_owned(),
            |last| {
                let verdict = last.verdict.map_or("unknown", Verdict::name);
                format!("{verdict} {}", age(now, last.at))
            },
        );
        let state = match self.due_since {
            Some(since) if self.overdue => format!("OVERDUE since {}", instant(since)),
            // Whether it runs at this moment only the daemon's own status line knows.
            Some(since) => format!("due since {}, unless it runs now", instant(since)),
            None => String::new(),
        };
        [
            self.name.to_string(),
            self.source.to_string(),
            self.schedule.clone(),
            self.next.map_or_else(|| "never".to_owned(), instant),
            last,
            state,
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tidemark_host::config::RestoreConfig;

    use super::*;
    use crate::daemon::CHECKS;
    use crate::evidence::drills;
    use crate::evidence::drills::tests::chain;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn planned() -> Planned {
        let text = "[[drill]]\nname = \"nightly\"\nsource = \"app\"\nschedule = \"0 3 * * *\"\ntimezone = \"UTC\"\n";
        let config = RestoreConfig::parse_with(text, Path::new("/restore.toml"), &CHECKS);
        Planned::new(config.unwrap().drills.drills[0].clone()).unwrap()
    }

    /// Runs of slots of November 2026: day, how it ended.
    fn runs(runs: &[(u8, &str)]) -> Vec<Drill> {
        let verdicts: Vec<&str> = runs.iter().map(|(_, verdict)| *verdict).collect();
        let mut drills = drills::all(&[chain(&verdicts)]);
        for (drill, (day, _)) in drills.iter_mut().zip(runs) {
            drill.plan = Some("nightly".to_owned());
            drill.schedule = Some(planned().schedule_text);
            drill.slot = Some(at(&format!("2026-11-{day:02}T03:00:00Z")));
            drill.at = at(&format!("2026-11-{day:02}T03:10:00Z"));
            drill.declared_at = drill.slot;
        }
        drills
    }

    #[test]
    fn a_drill_that_was_done_is_not_due_before_its_next_slot() {
        let drills = runs(&[(20, "PASS"), (21, "FAIL")]);
        let entry = entry(&planned(), &drills, None, at("2026-11-21T12:00:00Z"));
        assert_eq!(entry.next, Some(at("2026-11-22T03:00:00Z")));
        assert_eq!(
            (entry.due_since, entry.overdue, entry.missed),
            (None, false, 0)
        );
        let last = entry.last.as_ref().unwrap();
        assert_eq!(last.verdict, Some(Verdict::Fail));
        assert_eq!(entry.passed_at, Some(at("2026-11-20T03:10:00Z")));
        let row = entry.row(at("2026-11-21T03:40:00Z"));
        assert_eq!(row[2], "0 3 * * * UTC");
        assert_eq!(row[4], "FAIL 30 min ago");
        assert_eq!(row[5], "");
    }

    #[test]
    fn what_counts_for_nothing_leaves_a_drill_due_and_then_overdue() {
        // A drill of another name says nothing of this one.
        let mut drills = runs(&[(20, "PASS"), (21, "INCONCLUSIVE"), (22, "PASS")]);
        drills[2].plan = Some("weekly".to_owned());
        let due = entry(&planned(), &drills, None, at("2026-11-21T12:00:00Z"));
        assert_eq!(due.due_since, Some(at("2026-11-21T03:00:00Z")));
        assert!(!due.overdue);
        assert_eq!(
            due.last.as_ref().unwrap().verdict,
            Some(Verdict::Inconclusive)
        );
        let later = entry(&planned(), &drills, None, at("2026-11-22T12:00:00Z"));
        assert!(later.overdue && later.missed == 1, "{later:?}");
        let row = later.row(at("2026-11-22T12:00:00Z"));
        assert_eq!(row[5], "OVERDUE since 2026-11-21 03:00:00 UTC");
    }

    #[test]
    fn a_drill_that_never_ran_is_overdue_from_when_a_host_wrote_it_down() {
        let now = at("2026-11-22T12:00:00Z");
        let new = entry(&planned(), &[], None, now);
        assert_eq!((new.due_since, new.overdue), (None, false));
        assert_eq!(new.row(now)[4], "never");
        let noted = entry(&planned(), &[], Some(at("2026-11-19T12:00:00Z")), now);
        assert!(noted.overdue && noted.missed == 2, "{noted:?}");
    }
}
