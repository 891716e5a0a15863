//! `drill run --due`: what the daemon would do now, once, for hosts that have a timer instead.

use serde::Serialize;
use tidemark_format::DrillName;
use tidemark_host::Exit;
use tidemark_host::output::{Document, Table, instant};
use tidemark_planner::drill::Verdict;
use tokio_util::sync::CancellationToken;

use super::board::{Doing, Scheduled};
use super::conduct::{Conduct, Outcome};
use super::driver::write_metrics;
use super::rota::Rota;
use crate::error::Result;
use crate::repository::Tools;

/// What was due and what came of it.
#[derive(Debug, Serialize)]
pub struct DrillsDue {
    /// Every drill of the config.
    pub drills: Vec<One>,
}

/// A drill.
#[derive(Debug, Serialize)]
pub struct One {
    /// Its name.
    pub name: DrillName,
    /// How it stands now.
    #[serde(flatten)]
    pub scheduled: Scheduled,
    /// How it ended, if it was run now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ran: Option<Ran>,
}

/// A drill that was run now.
#[derive(Debug, Clone, Serialize)]
pub struct Ran {
    /// How it ended.
    pub verdict: Verdict,
    /// Its record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence_id: Option<String>,
    /// Why it did not simply pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl From<Outcome> for Ran {
    fn from(outcome: Outcome) -> Self {
        Self {
            verdict: outcome.verdict,
            evidence_id: outcome.evidence_id,
            why: outcome.why,
        }
    }
}

impl Document for DrillsDue {
    const SCHEMA: &'static str = "tidemark-restore.drills-due";

    fn text(&self, out: &mut String) {
        if self.drills.is_empty() {
            out.push_str("No drill is scheduled: write a [[drill]] into restore.toml.\n");
            return;
        }
        let mut table = Table::new();
        table.row(["drill", "source", "now", "last result", "next"]);
        for one in &self.drills {
            let now = one.ran.as_ref().map_or_else(
                || doing(&one.scheduled.doing),
                |ran| format!("{}{}", ran.verdict, shown(ran.why.as_deref())),
            );
            let last = one.scheduled.last.as_ref();
            let next = one.scheduled.next.map(instant);
            table.row([
                one.name.to_string(),
                one.scheduled.source.to_string(),
                now,
                last.map_or_else(
                    || "never".to_owned(),
                    |last| format!("{} {}", last.verdict, instant(last.at)),
                ),
                next.unwrap_or_else(|| "never".to_owned()),
            ]);
        }
        table.write("  ", out);
        for one in self.drills.iter().filter(|one| one.scheduled.overdue) {
            out.push_str(&format!(
                "{} is overdue: until a drill passes nothing is proved.\n",
                one.name
            ));
        }
    }
}

fn shown(why: Option<&str>) -> String {
    why.map(|why| format!(" ({why})")).unwrap_or_default()
}

fn doing(doing: &Doing) -> String {
    match doing {
        Doing::Elsewhere { host } => format!("running on {host}"),
        Doing::Due { at } => format!("due at {}", instant(*at)),
        other => other.name().to_owned(),
    }
}

/// Runs what is due, each drill at most once.
///
/// # Errors
/// A turn that is due could not be taken; this host's key was revoked.
pub(super) async fn run(
    mut rota: Rota,
    conduct: &dyn Conduct,
    tools: &Tools,
    stop: &CancellationToken,
) -> Result<(DrillsDue, Exit)> {
    let mut ran: Vec<(DrillName, Option<Outcome>)> = Vec::new();
    loop {
        let looked = rota.look().await;
        if let Some(error) = rota.revoked() {
            return Err(error.into());
        }
        let is_new = |name: &DrillName| ran.iter().all(|(done, _)| done != name);
        let due = looked
            .due
            .iter()
            .find(|due| is_new(&due.planned.drill.name));
        let Some(due) = due.filter(|_| !stop.is_cancelled()) else {
            break;
        };
        let name = due.planned.drill.name.clone();
        let outcome = rota.run(due, conduct, stop).await?;
        ran.push((name, outcome));
    }
    if let Some(path) = &rota.settings.drills.metrics_file {
        write_metrics(path, &rota, tools.clock.as_ref());
    }
    let mut ran: std::collections::BTreeMap<_, _> = ran.into_iter().collect();
    let all = rota.board.drills().into_iter();
    let drills: Vec<One> = all
        .map(|(name, scheduled)| One {
            ran: ran.remove(&name).flatten().map(Ran::from),
            name,
            scheduled,
        })
        .collect();
    let exit = exit(&drills);
    Ok((DrillsDue { drills }, exit))
}

/// The worst of them: a drill that failed, one that is overdue, one that came to nothing, exceptions.
fn exit(drills: &[One]) -> Exit {
    let verdicts = || {
        drills
            .iter()
            .filter_map(|one| Some(one.ran.as_ref()?.verdict))
    };
    let any = |verdict| verdicts().any(|one| one == verdict);
    if any(Verdict::Fail) || drills.iter().any(|one| one.scheduled.overdue) {
        Exit::Drill
    } else if any(Verdict::Inconclusive)
        || drills
            .iter()
            .any(|one| one.scheduled.doing == Doing::Unknown)
    {
        Exit::Failed
    } else if any(Verdict::PassWithExceptions) {
        Exit::Exceptions
    } else {
        Exit::Ok
    }
}
