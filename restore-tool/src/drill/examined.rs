//! From what the sandbox answered to checks and measures.

use jiff::Timestamp;
use tidemark_engine::examine::{CanarySeen, Examined, Finding, Status, as_recorded};
use tidemark_engine::{EndProof, ProofResult};
use tidemark_format::evidence::Sha256;
use tidemark_ledger::timeline::POSTGRESQL;
use tidemark_planner::drill::measure::{CANARY_EVERY_SECONDS, Canary, Measured, Witness};
use tidemark_planner::drill::{Baseline, Check, CheckStatus, Expectation, Rung, expect};

use super::course::Course;
use super::fault::words;
use super::request::{Assertion, Request};
use crate::plan::{Asked, Goal, RestorePlan};
use crate::sandbox::{Cause, Outcome};

/// The engine's facts about the end of a server's log.
const SERVER: &str = "postgres";
/// The fact of a log object that says how the source's canary is written, and which was the last.
const CANARY: &str = "canary";

/// How often the source's canary is written at the state that is restored, in seconds; none if it keeps
/// none there.
pub(super) fn canary_of(request: &Request, plan: &RestorePlan) -> Option<u64> {
    let fact = plan.log.last().and_then(|last| last.head.facts.get(CANARY));
    // Without a number none has been written yet.
    let written = fact.filter(|fact| fact.get("seq").is_some_and(|seq| !seq.is_null()));
    let every = fact.and_then(|fact| fact.get("every_ms")?.as_u64());
    let every = every.map_or(CANARY_EVERY_SECONDS, |ms| ms.div_ceil(1000));
    let kept = request.canary.unwrap_or_else(|| written.is_some());
    kept.then_some(every)
}

/// Everything that is judged together.
pub(super) struct Seen<'a> {
    pub(super) request: &'a Request,
    pub(super) asked: &'a Asked,
    pub(super) plan: &'a RestorePlan,
    pub(super) proof: &'a EndProof,
    pub(super) complete_until: Option<Timestamp>,
    pub(super) canary_every_s: Option<u64>,
    pub(super) witness: Witness,
    pub(super) outcome: &'a Outcome,
}

impl Seen<'_> {
    /// Writes the checks down, and what they measure.
    pub(super) fn judge(&self, course: &mut Course) {
        self.replay(course);
        let none = Examined::default();
        let examined = self.outcome.examined.as_ref().unwrap_or(&none);
        for finding in &examined.findings {
            course.check(check_of(finding));
        }
        course.observed.fixes.extend(examined.fixes.iter().cloned());
        if let Some(failure) = &self.outcome.failure {
            self.failed(failure.cause, &failure.what, course);
        }
        if self.outcome.examined.is_some() {
            self.answers(examined, course);
            self.measure(examined, course);
        }
        // Where nothing of the database was started, nothing could leave.
        let ran = self.outcome.examined.is_some() || self.outcome.replayed.is_some();
        if let Some(why) = self.outcome.isolation.broken().filter(|_| ran) {
            course.observed.egress = Some(why);
        }
    }

    fn failed(&self, cause: Cause, what: &str, course: &mut Course) {
        let failed =
            |rung: Rung| Check::of(rung, format!("{rung}.sandbox"), words(rung), false).why(what);
        match cause {
            Cause::Replay => course.check(failed(Rung::Replay)),
            Cause::Database => course.check(failed(Rung::Logical)),
            Cause::Egress => course.observed.egress = Some(what.to_owned()),
            Cause::Setup | Cause::Limit | Cause::Lost => {
                course.observed.infrastructure = Some(what.to_owned());
            }
        }
    }

    /// What the restore itself, and a server's recovery, say of where replay ended.
    fn replay(&self, course: &mut Course) {
        let name = words(Rung::Replay);
        let replay = |good| Check::of(Rung::Replay, "replay.end", name, good);
        let end = self.plan.end;
        if self.is_server() {
            let promised = self.fact("lsn").unwrap_or_default();
            if let Some(replayed) = &self.outcome.replayed {
                let (end, timeline) = (&replayed.end, replayed.timeline);
                course.check(
                    replay(*end == promised)
                        .expected(promised.clone())
                        .actual(format!("{end} on timeline {timeline}")),
                );
                course.source.set("timeline", &replayed.timeline);
            }
            course.recovery.set("recovered_lsn", &promised);
            course.recovery_pt.set("target_lsn", &promised);
        } else {
            course.check(replay(true).actual(format!("log:{}:{}", end.epoch, end.seq)));
        }
        if !self.is_server() {
            let digest = Check::new(
                Rung::Materialise,
                "materialise.digest",
                "the digest of the whole equals the source's",
                CheckStatus::Passed,
            );
            course.check(match (&self.proof.digest, self.proof.result) {
                (Some(found), ProofResult::Equal) => digest.expected(found).actual(found),
                _ => Check {
                    status: CheckStatus::Warned,
                    ..digest.why("the last log object carries no digest of the whole")
                },
            });
        }
    }

    fn is_server(&self) -> bool {
        let base = self.plan.base();
        base.is_some_and(|base| base.head.engine == POSTGRESQL)
    }

    fn fact(&self, name: &str) -> Option<String> {
        let fact = self.proof.facts.get(SERVER)?.get(name)?;
        fact.as_str().map(str::to_owned)
    }

    /// Counts, schema, the user's own statements.
    fn answers(&self, examined: &Examined, course: &mut Course) {
        let reached = self.last_commit(examined);
        let mut baseline = Baseline::of(&course.earlier, reached);
        if self.request.counts {
            if let Some(baseline) = baseline.as_mut().filter(|_| !counted_all(examined)) {
                // What was not counted is not gone.
                let counted = |table: &String| examined.counts.contains_key(table);
                baseline.counts.retain(|table, _| counted(table));
            }
            let fall = self.request.count_fall_percent;
            let counts = expect::counts(&examined.counts, baseline.as_ref(), fall);
            counts.into_iter().for_each(|check| course.check(check));
            course.recovery.set("counts", &examined.counts);
        }
        let schema = expect::schema(examined.schema_digest.as_deref(), baseline.as_ref());
        schema.into_iter().for_each(|check| course.check(check));
        course.notes.extend(self.request.notes.iter().cloned());
        for assertion in &self.request.assertions {
            let answer = examined.answers.get(&assertion.id);
            course.check(assertion_check(assertion, answer));
        }
        if let Some(baseline) = &baseline {
            course.recovery.set("compared_with", &baseline.evidence_id);
        }
        course
            .recovery
            .set("schema_digest", &examined.schema_digest);
        course
            .recovery
            .set("content_digest", &examined.content_digest);
        course.recovery.set("collations", &examined.collations);
        course.recovery.set("bytes", &examined.size_bytes);
        if !examined.prepared.is_empty() {
            course.recovery.set("prepared", &examined.prepared);
        }
        course.source.set("engine_version", &examined.server);
    }

    /// The last commit that came back, as the database, the log or the plan tells it.
    fn last_commit(&self, examined: &Examined) -> Option<Timestamp> {
        let ended = self.fact("ended_at").and_then(|at| at.parse().ok());
        let planned = (!self.is_server()).then_some(self.plan.end.at);
        examined.last_commit.or(ended).or(planned)
    }

    /// The newest canary that came back: from the database, or from the log that was replayed.
    fn canary(&self, examined: &Examined) -> Option<CanarySeen> {
        let in_log = || {
            let fact = self.proof.facts.get(CANARY)?;
            serde_json::from_value(fact.clone()).ok()
        };
        examined.canary.clone().or_else(in_log)
    }

    fn measure(&self, examined: &Examined, course: &mut Course) {
        let canary = self.canary(examined);
        let target = match self.asked.goal {
            Goal::Time(at) => Some(at),
            _ => None,
        };
        let latest = matches!(self.asked.goal, Goal::Latest);
        let measured = Measured {
            declared_at: course.timing.declared_at(),
            target,
            latest,
            last_commit: self.last_commit(examined),
            complete_until: self
                .complete_until
                .filter(|_| latest && self.plan.beyond.is_none()),
            exact: self.plan.exact,
            canary: canary.as_ref().map(|seen| Canary {
                seq: seen.seq,
                at: seen.at,
                next_absent: seen.next_absent,
            }),
            canary_expected: self.canary_every_s.is_some(),
            canary_every_s: self.canary_every_s.unwrap_or(CANARY_EVERY_SECONDS),
            witness: self.witness,
        };
        for check in measured.checks() {
            course.check(check);
        }
        course.observed.loss = measured.loss();
        course.observed.precision = measured.precision();
        course
            .recovery
            .set("last_recovered_commit_at", &measured.last_commit);
        course
            .recovery
            .set("last_source_commit_at", &measured.complete_until);
        course
            .recovery
            .set("reached_at", &measured.last_commit.or(target));
        let canary = canary.map(|seen| {
            serde_json::json!({ "seq": seen.seq, "ts": seen.at, "next_absent": seen.next_absent })
        });
        course.recovery.set("canary", &canary);
        if let Some(loss) = &course.observed.loss {
            course
                .recovery
                .set("rpo_measured_s", &seconds(loss.lost_ms));
            course.recovery.set("rpo_basis", &loss.basis);
            course.recovery.set("rpo_witness", &loss.witness.name());
        }
        if let Some(precision) = &course.observed.precision {
            course.recovery.set("pitr_error_ms", &precision.error_ms);
            course.recovery.set("pitr_basis", &precision.basis);
        }
    }
}

/// Whether every table was counted: neither broken, nor left for want of time.
fn counted_all(examined: &Examined) -> bool {
    let mut readable = examined.findings.iter();
    readable.all(|finding| !finding.id.ends_with(".readable") || finding.status == Status::Passed)
}

/// Milliseconds as seconds, for records.
pub(super) fn seconds(ms: u64) -> serde_json::Value {
    // Three digits behind the point, without going through a float that may not hold them.
    let text = format!("{}.{:03}", ms / 1000, ms % 1000);
    serde_json::from_str(&text).unwrap_or_default()
}

fn assertion_check(assertion: &Assertion, answer: Option<&Result<String, String>>) -> Check {
    // An expectation is written down as answers are: text leaves only its digest.
    let expected = assertion.expect.as_ref().map(|expected| match expected {
        Expectation::Equals(value) => Expectation::Equals(as_recorded(value)),
        other => other.clone(),
    });
    let mut check = expect::assertion(
        &assertion.id,
        answer,
        expected.as_ref(),
        assertion.tolerance,
    );
    check.statement_sha256 = Some(Sha256::of(assertion.sql.as_bytes()).to_string());
    check
}

fn check_of(finding: &Finding) -> Check {
    let level = Rung::of_name(&finding.level).unwrap_or(Rung::Logical);
    let status = match finding.status {
        Status::Passed => CheckStatus::Passed,
        Status::Failed => CheckStatus::Failed,
        Status::Warned => CheckStatus::Warned,
        Status::Recorded => CheckStatus::Recorded,
        Status::NotRun => CheckStatus::NotRun,
    };
    Check {
        statement_sha256: None,
        expected: finding.expected.clone(),
        actual: finding.actual.clone(),
        tolerance: None,
        why: finding.why.clone(),
        duration_ms: finding.took_ms,
        ..Check::new(level, finding.id.as_str(), finding.name.as_str(), status)
    }
}

#[cfg(test)]
mod tests {
    use tidemark_engine::examine::LEVEL_MATERIALISE;
    use tidemark_planner::drill::Tolerance;

    use super::*;

    #[test]
    fn a_finding_of_the_sandbox_stands_at_its_rung_with_all_it_says() {
        let finding = Finding::new(
            LEVEL_MATERIALISE,
            "postgres.checksums",
            "checksums",
            Status::Failed,
        )
        .compared("all right", "2 pages are not")
        .why("pg_checksums");
        let check = check_of(&finding);
        assert_eq!(
            (check.level, check.status),
            (Rung::Materialise, CheckStatus::Failed)
        );
        assert!(
            check.sentence().contains("2 pages are not"),
            "{}",
            check.sentence()
        );
    }

    #[test]
    fn text_that_was_expected_is_compared_and_kept_as_a_digest() {
        let assertion = Assertion {
            id: "who".to_owned(),
            database: None,
            sql: "SELECT name FROM people LIMIT 1".to_owned(),
            expect: Some(Expectation::Equals("Anna".to_owned())),
            tolerance: Tolerance::None,
        };
        let answer = Ok(as_recorded("Anna"));
        let check = assertion_check(&assertion, Some(&answer));
        assert_eq!(check.status, CheckStatus::Passed);
        assert!(!format!("{check:?}").contains("Anna"), "{check:?}");
        assert!(check.statement_sha256.is_some());
    }

    #[test]
    fn seconds_keep_their_milliseconds() {
        assert_eq!(seconds(4500).to_string(), "4.5");
        assert_eq!(seconds(12), serde_json::json!(0.012));
    }
}
