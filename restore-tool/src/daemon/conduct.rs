//! Running the drill of a turn: behind a trait, so that the schedule is tested without a database.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tidemark_format::heads::Facts;
use tidemark_host::codes::{self, Code};
use tidemark_planner::drill::Verdict;
use tokio_util::sync::CancellationToken;

use crate::drill::{self, Drilled, Request};
use crate::evidence::access::Access;
use crate::policy;
use crate::repository::{Settings, Tools};

/// A drill ends itself when its time is over, and records that. One that doesn't notice is told so much later
/// at most.
const NOTICES: Duration = Duration::from_secs(5);
/// A drill that was told to end has so long for its scratch and its record.
const GRACE: Duration = Duration::from_secs(120);

/// How a drill ended, as far as the schedule is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    pub(super) evidence_id: Option<String>,
    pub(super) rto_ms: Option<u64>,
    pub(super) rpo_ms: Option<u64>,
    /// Why it did not simply pass.
    pub(super) why: Option<String>,
    /// What that is called.
    pub(super) code: Option<Code>,
}

impl Outcome {
    /// It came to nothing.
    fn inconclusive(why: String, code: Code) -> Self {
        Self {
            verdict: Verdict::Inconclusive,
            evidence_id: None,
            rto_ms: None,
            rpo_ms: None,
            why: Some(why),
            code: Some(code),
        }
    }

    fn of(drilled: &Drilled) -> Self {
        let judged = &drilled.judged;
        let mut causes = judged.causes.iter().chain(&judged.exceptions);
        let code = match judged.verdict {
            Verdict::Pass => None,
            Verdict::PassWithExceptions => Some(codes::WITH_EXCEPTIONS),
            Verdict::Fail => Some(codes::DRILL_FAILED),
            Verdict::Inconclusive => Some(codes::DRILL_INCONCLUSIVE),
        };
        Self {
            verdict: judged.verdict,
            evidence_id: drilled.evidence_id.clone(),
            rto_ms: drilled.report.rto_ms,
            rpo_ms: drilled.report.loss.map(|loss| loss.lost_ms),
            why: causes.next().cloned(),
            code,
        }
    }

    /// As the end of the turn says it to the other hosts.
    pub(super) fn facts(&self) -> Facts {
        let mut facts = Facts::from_iter([("verdict".to_owned(), json!(self.verdict.name()))]);
        let mut note = |name: &str, value: Option<serde_json::Value>| {
            if let Some(value) = value {
                facts.insert(name.to_owned(), value);
            }
        };
        note("evidence_id", self.evidence_id.as_ref().map(|id| json!(id)));
        note("rto_ms", self.rto_ms.map(|ms| json!(ms)));
        note("rpo_ms", self.rpo_ms.map(|ms| json!(ms)));
        note("code", self.code.map(|code| json!(code.id)));
        facts
    }
}

/// Runs drills. On the daemon's own task: nothing hands one to another thread.
#[async_trait(?Send)]
pub(super) trait Conduct: std::fmt::Debug + Send + Sync {
    /// Runs one; `stop` ends it early, as inconclusive.
    async fn conduct(
        &self,
        request: &Request,
        settings: &Settings,
        tools: &Tools,
        stop: &CancellationToken,
    ) -> Outcome;
}

/// The real ones.
#[derive(Debug)]
pub(super) struct Conductor;

#[async_trait(?Send)]
impl Conduct for Conductor {
    async fn conduct(
        &self,
        request: &Request,
        settings: &Settings,
        tools: &Tools,
        stop: &CancellationToken,
    ) -> Outcome {
        // Each drill leaves an access record of its own.
        let tools = Tools {
            access: Access::default(),
            ..tools.clone()
        };
        let drilled = Box::pin(drill::run(request, settings, &tools, stop));
        let (outcome, ended) = match drilled.await {
            Ok(drilled) => (Outcome::of(&drilled), Ok(drilled.exit)),
            Err(error) => {
                let text = tidemark_storage::chain(&error);
                (
                    Outcome::inconclusive(text, policy::code(&error)),
                    Err(error),
                )
            }
        };
        Box::pin(tools.access.end(&ended, &tools)).await;
        tools.access.last_words(&tools.console);
        outcome
    }
}

/// Runs a drill, no longer than `timeout` and a grace for its end.
pub(super) async fn within(
    conduct: &dyn Conduct,
    request: &Request,
    (settings, tools): (&Settings, &Tools),
    timeout: Duration,
    stop: &CancellationToken,
) -> Outcome {
    // The drill's own limit: it alone can say in its record where it was.
    let request = Request {
        timeout: Some(request.timeout.map_or(timeout, |own| own.min(timeout))),
        ..request.clone()
    };
    // A child: that its time is over must not stop the daemon.
    let stop = stop.child_token();
    let mut drill = conduct.conduct(&request, settings, tools, &stop);
    tokio::select! {
        biased;
        outcome = &mut drill => return outcome,
        () = tokio::time::sleep(timeout.saturating_add(NOTICES.min(timeout))) => {}
    }
    stop.cancel();
    let late = |ended: &str| {
        let timeout = tidemark_host::duration::render(timeout);
        Outcome::inconclusive(
            format!("it took longer than timeout = \"{timeout}\" and {ended}"),
            codes::DRILL_INCONCLUSIVE,
        )
    };
    match tokio::time::timeout(GRACE, drill).await {
        // Its own words, if it came to an end with any.
        Ok(outcome) if outcome.why.is_some() => outcome,
        Ok(outcome) => Outcome {
            evidence_id: outcome.evidence_id,
            ..late("was ended")
        },
        Err(_elapsed) => late("did not end when it was told to"),
    }
}
