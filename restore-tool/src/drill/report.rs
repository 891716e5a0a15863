//! What a drill proved, on one screen.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tidemark_host::output::{self, Document, Table};
use tidemark_planner::drill::measure::{Basis, Witness};
use tidemark_planner::drill::{
    Check, CheckStatus, Judged, Loss, Objectives, Phase, Precision, Rung, Verdict, expect,
};

use super::course::Course;
use super::past;
use super::request::Request;

/// Times below are shown to the millisecond.
const EXACT_BELOW_MS: u64 = 10_000;

/// `drill run`.
#[derive(Debug, Clone, Serialize)]
pub struct DrillReport {
    /// The source; empty if the drill didn't get so far.
    pub source: String,
    /// Its engine.
    pub engine: Option<String>,
    /// What it means.
    pub verdict: Verdict,
    /// The highest rung of the ladder that was reached.
    pub rung: Option<Rung>,
    /// Why it failed or is inconclusive.
    pub causes: Vec<String>,
    /// What was not as it should be.
    pub exceptions: Vec<String>,
    /// What the reader should know.
    pub notes: Vec<String>,
    /// How the instant was chosen.
    pub selection: String,
    /// What was asked for, in words that `restore --to` takes.
    pub asked: Option<String>,
    /// The scenario.
    pub scenario: Option<String>,
    /// The state that was restored.
    pub position: Option<String>,
    /// The last commit that came back.
    pub reached_at: Option<Timestamp>,
    /// When the disaster was declared.
    pub declared_at: Timestamp,
    /// From then to the last check, in milliseconds.
    pub rto_ms: Option<u64>,
    /// Whether that was soon enough.
    pub rto_met: Option<bool>,
    /// Milliseconds that a restore of everything would take.
    pub projected_full_ms: Option<u64>,
    /// Milliseconds that a restore of the state with the most log would take.
    pub projected_worst_replay_ms: Option<u64>,
    /// What was lost.
    pub loss: Option<Loss>,
    /// Whether that was bearable.
    pub rpo_met: Option<bool>,
    /// How exact the instant was.
    pub precision: Option<Precision>,
    /// Whether that was exact enough.
    pub pitr_met: Option<bool>,
    /// What was promised.
    pub objectives: Objectives,
    /// Where the time went.
    pub phases: Vec<Phase>,
    /// Every check.
    pub checks: Vec<Check>,
    /// What had to be mended.
    pub fixes: Vec<String>,
    /// Where it ran, and how that was sealed.
    pub environment: Value,
    /// What became of the restored data.
    pub handling: Value,
    /// The record.
    pub evidence_id: Option<String>,
    /// Why no region has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_stored: Option<String>,
    /// What to do next.
    pub next: Vec<String>,
}

impl DrillReport {
    pub(super) fn new(
        request: &Request,
        course: &Course,
        judged: &Judged,
        evidence_id: Option<String>,
        not_stored: Option<String>,
    ) -> Self {
        let text = |section: &super::course::Section, name: &str| {
            section
                .0
                .get(name)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let observed = &course.observed;
        Self {
            source: text(&course.source, "name").unwrap_or_default(),
            engine: text(&course.source, "engine"),
            verdict: judged.verdict,
            rung: judged.rung,
            causes: judged.causes.clone(),
            exceptions: judged.exceptions.clone(),
            notes: course.notes.clone(),
            selection: request.select.to_string(),
            asked: text(&course.recovery_pt, "asked"),
            scenario: request.scenario.as_ref().map(ToString::to_string),
            position: text(&course.recovery, "position"),
            reached_at: text(&course.recovery, "reached_at").and_then(|at| at.parse().ok()),
            declared_at: course.timing.declared_at(),
            rto_ms: observed.rto_ms,
            rto_met: judged.rto_met,
            projected_full_ms: course.projected_full_ms,
            projected_worst_replay_ms: course.projected_worst_ms,
            loss: observed.loss,
            rpo_met: judged.rpo_met,
            precision: observed.precision,
            pitr_met: judged.pitr_met,
            objectives: course.objectives.clone(),
            phases: course.timing.phases().to_vec(),
            checks: observed.checks.clone(),
            fixes: observed.fixes.clone(),
            environment: Value::Object(course.environment.0.clone()),
            handling: Value::Object(course.handling.0.clone()),
            next: next(judged, &observed.checks, evidence_id.as_deref()),
            evidence_id,
            not_stored,
        }
    }

    fn restored(&self) -> Option<String> {
        let position = self.position.as_ref()?;
        let at = self
            .reached_at
            .map_or_else(String::new, |at| format!("{} ", output::instant(at)));
        let chosen = match &self.asked {
            Some(asked) if *asked != self.selection => {
                format!("{}: {asked}", self.selection)
            }
            _ => self.selection.clone(),
        };
        Some(format!("{at}({position}), chosen: {chosen}"))
    }

    fn rto(&self) -> Option<String> {
        let took = exactly(self.rto_ms?);
        let mut line = format!("back after {took}");
        line.push_str(&promised(self.rto_met, self.objectives.rto_target_s));
        let time = |ms: u64| output::duration(Duration::from_millis(ms));
        if let (Some(full), Some(worst)) = (self.projected_full_ms, self.projected_worst_replay_ms)
        {
            line.push_str(&format!(
                "; projected: newest state {}, most log to replay {}",
                time(full),
                time(worst)
            ));
        }
        Some(line)
    }

    fn rpo(&self) -> Option<String> {
        let loss = self.loss?;
        let mut line = format!("{} lost, {}", exactly(loss.lost_ms), loss.basis.words());
        if loss.witness == Witness::Unwitnessed {
            line.push_str(" (the clocks are unwitnessed)");
        }
        line.push_str(&promised(self.rpo_met, self.objectives.rpo_target_s));
        Some(line)
    }

    /// The record counts for nothing before somebody has vouched for its signer: that comes first.
    pub(super) fn vouched_for_by(&mut self, enrol: Option<String>) {
        let words = "# where the root key is: until then the record counts for nothing";
        let enrol = enrol.map(|command| format!("{command}   {words}"));
        self.next.splice(0..0, enrol);
    }

    fn pitr(&self) -> Option<String> {
        let precision = self.precision?;
        let mut line = match (precision.error_ms, precision.basis) {
            (0, Basis::Log) => "exactly the state of that instant, by the log".to_owned(),
            (error, basis) => format!(
                "{} before the instant asked for, {}",
                exactly(error),
                basis.words()
            ),
        };
        let target = self.objectives.pitr_precision_target_s;
        line.push_str(&promised(self.pitr_met, target));
        Some(line)
    }

    fn ladder(&self) -> String {
        let mut failed = false;
        let rungs = Rung::ALL.iter().filter_map(|rung| {
            let mut own = self
                .checks
                .iter()
                .filter(|check| check.level == *rung)
                .peekable();
            if failed || own.peek().is_none() {
                return None;
            }
            failed = own.any(|check| check.status == CheckStatus::Failed);
            let mark = if failed {
                " ✗"
            } else if self.rung >= Some(*rung) {
                " ✓"
            } else {
                " –"
            };
            Some(format!("{rung}{mark}"))
        });
        let rungs: Vec<String> = rungs.collect();
        if rungs.is_empty() {
            "nothing was reached".to_owned()
        } else {
            rungs.join(", ")
        }
    }

    fn tally(&self) -> String {
        let count = |status: CheckStatus| {
            let own = self.checks.iter().filter(|check| check.status == status);
            own.count()
        };
        let parts = [
            (CheckStatus::Passed, "passed"),
            (CheckStatus::Failed, "failed"),
            (CheckStatus::Warned, "to look at"),
            (CheckStatus::Recorded, "recorded"),
            (CheckStatus::NotRun, "not made"),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .map(|(status, word)| (count(status), word))
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        parts.join(", ")
    }

    fn time(&self) -> String {
        let counted = self.phases.iter().filter(|phase| phase.counted);
        let parts: Vec<String> = counted
            .filter(|phase| phase.took_ms > 0)
            .map(|phase| {
                let took = output::duration(Duration::from_millis(phase.took_ms));
                format!("{} {took}", phase.name)
            })
            .collect();
        parts.join(", ")
    }

    fn sandbox(&self) -> Option<String> {
        let text = |pointer: &str| self.environment.pointer(pointer)?.as_str();
        let method = text("/isolation/method")?;
        let egress = text("/isolation/egress_probe_result").unwrap_or("not probed");
        let scratch = text("/scratch").unwrap_or("unknown");
        let gone = self.handling.pointer("/teardown/verified_absent");
        let gone = if gone.and_then(Value::as_bool) == Some(true) {
            "destroyed"
        } else {
            "NOT DESTROYED"
        };
        let apart = self.environment.pointer("/segregated_from_source/value");
        let apart = if apart.and_then(Value::as_bool) == Some(true) {
            ""
        } else {
            "; on the source's own host: counts for no clause on drills, its times only as measured there"
        };
        Some(format!(
            "{method}, way out {egress}; scratch ({scratch}) {gone}{apart}"
        ))
    }
}

/// Short times to the millisecond, so that a promise that was missed by little is seen to be.
fn exactly(ms: u64) -> String {
    if !(1000..EXACT_BELOW_MS).contains(&ms) || ms.is_multiple_of(1000) {
        return output::duration(Duration::from_millis(ms));
    }
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

fn promised(met: Option<bool>, target_s: Option<u64>) -> String {
    let (Some(met), Some(target)) = (met, target_s) else {
        return String::new();
    };
    let target = output::duration(Duration::from_secs(target));
    let kept = if met { "kept" } else { "MISSED" };
    format!(" (promised {target}: {kept})")
}

/// What to do about findings that stay until a person accepts them.
fn accept(checks: &[Check], evidence: Option<&str>) -> Vec<String> {
    let found = |is: fn(&str) -> bool| {
        let mut bad = checks.iter();
        bad.any(|check| {
            matches!(check.status, CheckStatus::Failed | CheckStatus::Warned) && is(&check.id)
        })
    };
    let mut next = Vec::new();
    let mut meant = Vec::new();
    if found(|id| id == past::KEPT) {
        next.push(
            "give the regions that still have the end of the log, or bring it back from the buckets' older versions; \
             their access logs say who removed it"
                .to_owned(),
        );
        meant.push("the log ends earlier on purpose");
    }
    if found(|id| expect::counted(id).is_some()) {
        meant.push("the rows went on purpose");
    }
    if let (Some(id), false) = (evidence, meant.is_empty()) {
        next.push(format!(
            "tidemark-restore evidence sign-off {id} --reviewer NAME --ticket TICKET --decision approved   # only if {}: \
             later drills then measure by this one, and find it again until then",
            meant.join(", and ")
        ));
    }
    next
}

fn next(judged: &Judged, checks: &[Check], evidence: Option<&str>) -> Vec<String> {
    let show = evidence
        .map(|id| format!("tidemark-restore evidence show {id}   # every check, as it was signed"));
    let mut next = match judged.verdict {
        Verdict::Pass => {
            let sign = evidence.map(|id| {
                format!(
                    "tidemark-restore evidence sign-off {id} --reviewer NAME --ticket TICKET --decision approved"
                )
            });
            return sign.into_iter().collect();
        }
        Verdict::PassWithExceptions => Vec::new(),
        Verdict::Fail => match judged.rung {
            None | Some(Rung::Chain | Rung::Ciphertext) => vec![
                "tidemark-restore verify   # which objects are damaged, in which region".to_owned(),
                "tidemark-restore list   # which instants can be restored all the same".to_owned(),
            ],
            Some(_) => vec![
                "tidemark-restore drill run --select oldest   # whether an earlier state comes back"
                    .to_owned(),
            ],
        },
        Verdict::Inconclusive => {
            vec![
                "mend what is named above and run the drill again: this one counts as none"
                    .to_owned(),
            ]
        }
    };
    next.extend(accept(checks, evidence));
    next.extend(show);
    next
}

impl Document for DrillReport {
    const SCHEMA: &'static str = "tidemark-restore.drill";

    fn text(&self, out: &mut String) {
        let source = if self.source.is_empty() {
            "(no source)"
        } else {
            self.source.as_str()
        };
        let engine = self.engine.as_ref();
        let engine = engine.map_or_else(String::new, |engine| format!(" ({engine})"));
        out.push_str(&format!("\nDrill of {source}{engine}: {}\n", self.verdict));
        for cause in &self.causes {
            out.push_str(&format!("  because: {cause}\n"));
        }
        let mut table = Table::new();
        let mut row = |name: &str, text: Option<String>| {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                table.row([name.to_owned(), text]);
            }
        };
        row("scenario", self.scenario.clone());
        row("proved", Some(self.ladder()));
        row("restored", self.restored());
        row("RTO", self.rto());
        row("RPO", self.rpo());
        row("precision", self.pitr());
        row("time", Some(self.time()));
        row("checks", Some(self.tally()));
        row("sandbox", self.sandbox());
        row("evidence", self.evidence_id.clone());
        row("", self.not_stored.clone());
        table.write("  ", out);
        for note in &self.notes {
            out.push_str(&format!("  note: {note}\n"));
        }
        if !self.exceptions.is_empty() {
            out.push_str("With exceptions:\n");
        }
        for exception in &self.exceptions {
            out.push_str(&format!("  {exception}\n"));
        }
        if !self.next.is_empty() {
            out.push_str("Next:\n");
        }
        for line in &self.next {
            out.push_str(&format!("  {line}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemark_host::SimClock;
    use tidemark_planner::drill::judge;

    use super::*;

    fn course() -> Course {
        let clock: Arc<dyn tidemark_host::Clock> =
            Arc::new(SimClock::at("2026-11-22T12:00:00Z".parse().unwrap()));
        let objectives = Objectives {
            rto_target_s: Some(3600),
            ..Objectives::default()
        };
        let mut course = Course::declared(&clock, &objectives);
        course.source.set("name", &"app");
        course.source.set("engine", &"sqlite");
        for rung in Rung::ALL.into_iter().filter(|rung| *rung < Rung::Scenario) {
            course.check(Check::of(rung, rung.name(), "a check", true));
        }
        course.observed.rto_ms = Some(4100);
        course
    }

    fn text(course: &Course) -> String {
        let request = Request::default();
        let judged = judge(&course.observed, &course.objectives);
        let id = Some("0191-abc".to_owned());
        output::to_text(&DrillReport::new(&request, course, &judged, id, None))
    }

    #[test]
    fn a_pass_says_how_far_how_long_and_what_was_promised() {
        let said = text(&course());
        assert!(said.contains("Drill of app (sqlite): PASS"), "{said}");
        assert!(
            said.contains("chain ✓") && said.contains("logical ✓"),
            "{said}"
        );
        assert!(
            said.contains("promised 1 h") && said.contains("kept"),
            "{said}"
        );
        assert!(said.contains("sign-off 0191-abc"), "{said}");
    }

    #[test]
    fn a_record_that_nobody_vouched_for_is_not_signed_off_first() {
        let course = course();
        let judged = judge(&course.observed, &course.objectives);
        let id = Some("0191-abc".to_owned());
        let mut report = DrillReport::new(&Request::default(), &course, &judged, id, None);
        report.vouched_for_by(Some("tidemark-restore keys enrol 1234".to_owned()));
        assert!(report.next[0].starts_with("tidemark-restore keys enrol 1234   # "));
        assert!(report.next[1].contains("sign-off"), "{:?}", report.next);
    }

    #[test]
    fn a_failure_begins_with_its_cause_and_shows_where_the_ladder_broke() {
        let mut course = course();
        course.check(
            Check::of(Rung::Ciphertext, "c", "bytes as signed", false).why("meta/log/app/1/7"),
        );
        let said = text(&course);
        let first = said.trim_start().lines().nth(1).unwrap();
        assert!(first.contains("because: ciphertext") && first.contains("meta/log/app/1/7"));
        assert!(
            said.contains("ciphertext ✗") && !said.contains("decrypt"),
            "{said}"
        );
        assert!(said.contains("tidemark-restore verify"), "{said}");
    }
}
