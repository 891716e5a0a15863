//! A drill: a restore into a sandbox that measures what was lost and how long it took, and leaves signed
//! evidence.
//!
//! ```text
//! declare ─ regions under the scenario ─ which instant ─ chain of what it needs, in every region ─
//!   restore into a scratch (ciphertext, decrypt, materialise) ─ sandbox: replay, checks ─ RPO, PITR error ─
//!   ║ RTO ends here ║ ─ other regions' bytes ─ destroy the scratch ─ verdict ─ record
//! ```
//!
//! # Invariants
//!
//! - What a drill means is decided by [`tidemark_planner::drill`] alone, from what was observed.
//! - The process that holds keys never runs the restored database ([`crate::sandbox`]).
//! - Whatever happens, the scratch is destroyed and a record written: of a drill that failed as of one that
//!   passed, of one that was stopped, and, by the next command with the same identity, of one that was
//!   killed.
//! - No row leaves the sandbox: only counts, digests, durations.
//!
//! # Cancellation
//!
//! When `stop` fires, or the drill's time is over, it ends as inconclusive; scratch and record as always.

mod boxed;
mod choose;
mod climb;
mod clocks;
mod course;
mod examined;
mod fault;
mod ladder;
mod left;
pub mod past;
mod record;
pub mod report;
pub mod request;
mod signer;

use std::time::Duration;

use serde_json::json;
use tidemark_host::Exit;
use tidemark_planner::drill::{Judged, Verdict, judge};
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::evidence::access::tell;
use crate::evidence::begun::Begun;
use crate::evidence::book::{self, Desk, Pen};
use crate::evidence::record::Draft;
use crate::identity::KeyHolder;
use crate::repository::{Settings, Tools};

use climb::Climb;
use course::Course;
use record::Writing;

pub(crate) use choose::context;
pub(crate) use left::sweep;
pub use report::DrillReport;
pub use request::{Assertion, Framework, Governance, Plan, Request, Scenario, Trigger};

/// The type of a drill's record.
pub const RESTORE_DRILL: &str = "restore_drill";

/// What came of a drill.
#[derive(Debug)]
pub struct Drilled {
    /// What it means.
    pub judged: Judged,
    /// The record's id, if one was written.
    pub evidence_id: Option<String>,
    /// For people and scripts.
    pub report: DrillReport,
    /// How a command ends that ran it.
    pub exit: Exit,
}

/// Runs a drill, from the declaration to the record.
///
/// # Errors
/// Only what keeps it from being a drill: no identity, words that mean nothing, a host on which none may
/// run. Everything else is in the verdict.
pub async fn run(
    request: &Request,
    settings: &Settings,
    tools: &Tools,
    stop: &CancellationToken,
) -> Result<Drilled> {
    let mut course = Course::declared(&tools.clock, &request.objectives);
    begin_access(request, settings, tools);
    let holder = KeyHolder::find(settings, &tools.console)?;
    let identity = holder.identity()?;
    tools.access.used(&identity);
    let pen = Pen::of(&identity);
    let writing = Writing::of(request, settings, tools, identity.recipient().id());
    // Before anything is looked at: whatever ends this process leaves a trace.
    let state = settings.state.as_deref();
    let begun = state.and_then(|state| {
        Begun::note(
            state,
            pen.key.public().id(),
            &writing.run_id,
            &writing.unended(&course),
        )
    });
    course.ended("declare");
    let (stop, is_late) = limited(stop, request.timeout);
    let climb = Climb {
        request,
        settings,
        tools,
        stop: &stop,
        writing: &writing,
        begun: begun.as_ref(),
        trust: pen.trust,
        signer: pen.key.public(),
    };
    if let Err(refused) = Box::pin(climb.run(&mut course, holder)).await {
        begun.into_iter().for_each(Begun::ended);
        return Err(refused);
    }
    stop.cancel();
    let late = request.timeout.filter(|_| is_late.is_cancelled());
    late.into_iter().for_each(|limit| course.ended_late(limit));
    let judged = judge(&course.observed, &course.objectives);
    let fields = writing.fields(&course, &judged);
    let now = tools.clock.now();
    let subject = course.subject.clone();
    let draft = Draft::new(RESTORE_DRILL, subject, fields, now, tools.rng.as_ref());
    let written = Box::pin(book::append(&Desk::of(settings), &pen, &draft, tools)).await;
    let (mut evidence_id, mut not_stored, mut enrol) = (None, None, None);
    match written {
        Ok(written) => {
            tell(&written, "drill", &tools.console);
            evidence_id = Some(written.record.id());
            enrol = written.enrol;
            if written.stored.is_empty() {
                not_stored = Some("the record waits on this machine for a region".to_owned());
            }
            if let Some(begun) = begun {
                begun.ended();
            }
        }
        // The note stays: the next command makes an inconclusive record of it.
        Err(error) => not_stored = Some(format!("no record was written: {error}")),
    }
    tools.access.note(
        "drill",
        &json!({ "verdict": judged.verdict, "evidence_id": evidence_id }),
    );
    let mut report = DrillReport::new(request, &course, &judged, evidence_id.clone(), not_stored);
    report.vouched_for_by(enrol);
    Ok(Drilled {
        exit: exit(&judged, &course),
        judged,
        evidence_id,
        report,
    })
}

/// A stop that also comes when the drill's time is over, and whether that was it.
fn limited(
    stop: &CancellationToken,
    timeout: Option<Duration>,
) -> (CancellationToken, CancellationToken) {
    let (stop, is_late) = (stop.child_token(), CancellationToken::new());
    if let Some(timeout) = timeout {
        let (ends, late) = (stop.clone(), is_late.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = ends.cancelled() => {}
                () = tokio::time::sleep(timeout) => {
                    late.cancel();
                    ends.cancel();
                }
            }
        });
    }
    (stop, is_late)
}

/// How a command ends: an inconclusive drill as what kept it from an answer.
fn exit(judged: &Judged, course: &Course) -> Exit {
    match judged.verdict {
        Verdict::Pass => Exit::Ok,
        Verdict::PassWithExceptions => Exit::Exceptions,
        Verdict::Fail => Exit::Drill,
        Verdict::Inconclusive => match course.fault.as_ref().map(|fault| fault.exit) {
            Some(exit) if exit != Exit::Ok && exit != Exit::Exceptions => exit,
            _ => Exit::Failed,
        },
    }
}

fn begin_access(request: &Request, settings: &Settings, tools: &Tools) {
    let asked = json!({
        "select": request.select.to_string(),
        "scenario": request.scenario.as_ref().map(ToString::to_string),
        "plan": request.plan.plan_id,
        "allow_source_host": request.allow_source_host,
    });
    let reason = request.reason.as_deref();
    tools.access.begin("drill", &asked, reason, settings, tools);
}
