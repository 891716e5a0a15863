//! What is known of a drill while it runs: what was observed, how long everything took, and the sections
//! of its record as far as they are filled.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tidemark_format::evidence::Subject;
use tidemark_host::{Clock, Monotonic, codes};
use tidemark_planner::drill::timing::Timing;
use tidemark_planner::drill::{Check, Earlier, Objectives, Observed, Rung};

use super::fault::{self, Fault};
use super::ladder::Found;
use crate::error::Error;
use crate::evidence::record::field;

/// A section of a record.
#[derive(Debug, Clone, Default)]
pub(super) struct Section(pub(super) Map<String, Value>);

impl Section {
    /// Sets a field; what isn't known stays out.
    pub(super) fn set(&mut self, name: &str, value: &impl Serialize) {
        let value = field(value);
        if !value.is_null() {
            self.0.insert(name.to_owned(), value);
        }
    }
}

/// The key that a line of damage begins with.
fn key_of(line: &str) -> &str {
    line.split([' ', ':']).next().unwrap_or_default()
}

/// A drill under way.
#[derive(Debug)]
pub(super) struct Course {
    clock: Arc<dyn Clock>,
    began: Monotonic,
    /// When everything took place.
    pub(super) timing: Timing,
    /// What was observed.
    pub(super) observed: Observed,
    /// Names of the regions that are read.
    pub(super) regions: Vec<String>,
    /// What was promised: by the request, else by the config.
    pub(super) objectives: Objectives,
    /// What is being proved, for what goes wrong meanwhile.
    pub(super) rung: Rung,
    /// What kept it from going on.
    pub(super) fault: Option<Fault>,
    /// What the record is about.
    pub(super) subject: Vec<Subject>,
    /// What the reader should know.
    pub(super) notes: Vec<String>,
    /// The source.
    pub(super) source: Section,
    /// The recovery point.
    pub(super) recovery_pt: Section,
    /// Where it ran.
    pub(super) environment: Section,
    /// What came back.
    pub(super) recovery: Section,
    /// What became of the data.
    pub(super) handling: Section,
    /// The clocks.
    pub(super) clocks: Section,
    /// What earlier drills found.
    pub(super) earlier: Vec<Earlier>,
    /// How many of the regions given were not read.
    pub(super) unread: usize,
    /// Milliseconds that a restore of everything would take.
    pub(super) projected_full_ms: Option<u64>,
    /// And one of the state with the most log.
    pub(super) projected_worst_ms: Option<u64>,
}

impl Course {
    /// The disaster is declared.
    pub(super) fn declared(clock: &Arc<dyn Clock>, objectives: &Objectives) -> Self {
        let at: Timestamp = clock.now();
        Self {
            began: clock.monotonic(),
            clock: Arc::clone(clock),
            timing: Timing::declared(at),
            observed: Observed::default(),
            regions: Vec::new(),
            objectives: objectives.clone(),
            rung: Rung::Chain,
            fault: None,
            subject: Vec::new(),
            notes: Vec::new(),
            source: Section::default(),
            recovery_pt: Section::default(),
            environment: Section::default(),
            recovery: Section::default(),
            handling: Section::default(),
            clocks: Section::default(),
            earlier: Vec::new(),
            unread: 0,
            projected_full_ms: None,
            projected_worst_ms: None,
        }
    }

    /// Since the declaration.
    pub(super) fn elapsed(&self) -> Duration {
        self.clock.monotonic().since(self.began)
    }

    /// A phase ended now.
    pub(super) fn ended(&mut self, phase: &str) {
        let elapsed = self.elapsed();
        self.timing.ended(phase, elapsed);
    }

    /// Of the time since the last phase, so much was this.
    pub(super) fn within(&mut self, phase: &str, took: Duration) {
        let elapsed = self.elapsed();
        self.timing.within(phase, took, elapsed);
    }

    /// A check was made.
    pub(super) fn check(&mut self, check: Check) {
        self.observed.checks.push(check);
    }

    /// Something was found in the regions.
    pub(super) fn found(&mut self, found: Found) {
        self.observed.checks.extend(found.checks);
        self.damaged(found.damages);
        self.observed.exceptions.extend(found.exceptions);
    }

    /// Objects are damaged: each line begins with an object's key and names regions. One that is known
    /// already of all the regions that a line names is not told again.
    pub(super) fn damaged(&mut self, lines: Vec<String>) {
        for line in lines {
            let is_known = {
                let key = key_of(&line);
                let same = self.observed.damages.iter();
                let same: Vec<&String> = same.filter(|known| key_of(known) == key).collect();
                let mut named = self.regions.iter().filter(|region| line.contains(*region));
                !same.is_empty()
                    && named.all(|region| same.iter().any(|known| known.contains(region)))
            };
            if !is_known {
                self.observed.damages.push(line);
            }
        }
    }

    /// It took longer than it may, and was told to end. What had kept it from proving anything before that
    /// stays its cause.
    pub(super) fn ended_late(&mut self, limit: Duration) {
        let limit = tidemark_host::duration::render(limit);
        let rung = self.rung;
        let late = format!(
            "it took longer than the {limit} that it may (timeout), and was ended at {rung}: {}",
            fault::words(rung)
        );
        let before = self.fault.as_ref();
        let before = before.filter(|fault| fault.code != codes::INTERRUPTED.id);
        match (before, &mut self.observed.infrastructure) {
            (Some(_), Some(why)) => why.push_str(&format!("; and {late}")),
            // The backup itself failed.
            (Some(_), None) => self.observed.exceptions.push(late),
            (None, why) => {
                *why = Some(late);
                self.fault = None;
            }
        }
    }

    /// It can't go on.
    pub(super) fn stopped_by(&mut self, error: &Error) {
        let fault = Fault::of(error, self.rung);
        match fault.check() {
            Some(check) => self.check(check),
            None => self.observed.infrastructure = Some(format!("{} ({})", fault.text, fault.code)),
        }
        self.fault = Some(fault);
    }
}

#[cfg(test)]
mod tests {
    use tidemark_host::SimClock;

    use super::*;

    fn course() -> Course {
        let clock: Arc<dyn Clock> = Arc::new(SimClock::at(Timestamp::UNIX_EPOCH));
        Course::declared(&clock, &Objectives::default())
    }

    #[test]
    fn a_drill_that_took_too_long_says_its_limit_and_where_it_was() {
        let mut course = course();
        course.rung = Rung::Replay;
        course.stopped_by(&Error::Interrupted);
        course.ended_late(Duration::from_secs(90));
        let why = course.observed.infrastructure.unwrap();
        assert!(
            why.contains("than the 1m30s that it may (timeout)")
                && why.ends_with("ended at replay: replaying the log to its end"),
            "{why}"
        );
        assert!(!why.contains("TM0106") && course.fault.is_none(), "{why}");
    }

    #[test]
    fn what_kept_a_drill_from_proving_anything_stays_its_cause_when_it_takes_too_long_too() {
        let mut revoked = course();
        revoked.stopped_by(&Error::Interrupted);
        revoked.signer_revoked("the key was revoked".to_owned());
        revoked.ended_late(Duration::from_secs(90));
        let why = revoked.observed.infrastructure.unwrap();
        assert!(
            why.starts_with("the key was revoked; and it took longer"),
            "{why}"
        );
        assert_eq!(revoked.fault.unwrap().code, codes::SIGNER_REVOKED.id);
        // A backup that failed has failed, however long the rest took.
        let mut failed = course();
        failed.stopped_by(&Error::NoIdentity);
        failed.ended_late(Duration::from_secs(90));
        assert_eq!(failed.observed.infrastructure, None);
        let told = failed.observed.exceptions.concat();
        assert!(told.contains("(timeout)"), "{told}");
        assert!(failed.fault.is_some());
    }

    #[test]
    fn an_object_that_is_damaged_in_a_region_is_told_once() {
        let mut course = course();
        course.regions = vec!["region-a".to_owned(), "region-b".to_owned()];
        let lines = [
            "meta/log/x in region region-a: it is not there",
            "meta/log/x is missing in region region-a: no such object",
            "meta/log/x: region-a: it is not there; region-b: it is not there",
            "meta/log/y is damaged in region region-a: hash",
        ];
        course.damaged(lines.iter().map(|line| (*line).to_owned()).collect());
        let told: Vec<&str> = course.observed.damages.iter().map(String::as_str).collect();
        assert_eq!(told, [lines[0], lines[2], lines[3]]);
    }
}
