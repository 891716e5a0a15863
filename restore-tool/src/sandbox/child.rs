//! `sandbox-run FOLDER`: what happens inside. It reads the job, looks for a way out, and only if there is
//! none, touches the database.
//!
//! **Cancellation.** When the parent's pipe closes, everything ends within moments: what is asked is given up,
//! the server is ended; what hangs all the same is ended with this process.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tidemark_engine::ErrorKind;
use tidemark_engine::examine::Examined;
use tidemark_engine_postgres::examine::{ExamineError, Sandbox};
use tidemark_engine_postgres::restore::{Replay, Watch};
use tidemark_engine_sqlite::examine::{Examination, examine};
use tidemark_host::files::write_atomic;
use tidemark_host::output::Console;
use tidemark_host::{Clock, Exit};
use tidemark_ledger::timeline::POSTGRESQL;

use super::job::{Cause, Failure, JOB, Job, Outcome, Phase, RESULT};
use super::run::Told;
use super::{limits, probe};
use crate::error::{Error, Result};
use crate::repository::Tools;

/// From the parent's end to ours.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
const SQLITE: &str = "sqlite";
const PRIVATE: u32 = 0o600;

/// Runs the job that is in `folder`.
///
/// # Errors
/// The job can't be read, or what came of it not be written.
pub async fn run(folder: &Path, tools: &Tools) -> Result<Exit> {
    let path = folder.join(JOB);
    let io = |action| move |source| Error::Io { action, source };
    let text = std::fs::read(&path).map_err(io("read the sandbox's job"))?;
    let job: Job = serde_json::from_slice(&text)
        .map_err(|error| io("understand the sandbox's job")(error.into()))?;
    let work = Work {
        cancel: Arc::default(),
        clock: Arc::clone(&tools.clock),
        console: tools.console.clone(),
        job: Arc::new(job),
    };
    if work.job.has_parent {
        work.end_with_parent();
    }
    // Hours of waiting for a server: no thread of the runtime's is kept for it.
    let done = tokio::task::spawn_blocking(move || work.outcome()).await;
    let outcome = done.unwrap_or_else(|panic| Outcome::failed(Cause::Lost, panic.to_string()));
    let path = folder.join(RESULT);
    let bytes = serde_json::to_vec_pretty(&outcome)
        .map_err(|error| io("write what the sandbox found")(error.into()))?;
    write_atomic(&path, &bytes, PRIVATE).map_err(Error::File)?;
    // What came of it stands in the file: whoever started this reads it there.
    Ok(Exit::Ok)
}

#[derive(Clone)]
struct Work {
    job: Arc<Job>,
    clock: Arc<dyn Clock>,
    console: Console,
    cancel: Arc<AtomicBool>,
}

impl Work {
    /// Ends everything when the parent's end of the pipe is gone.
    fn end_with_parent(&self) {
        let cancel = Arc::clone(&self.cancel);
        // It waits for as long as the parent lives; nobody waits for it.
        std::thread::spawn(move || {
            let mut byte = [0; 1];
            while matches!(std::io::stdin().read(&mut byte), Ok(1..)) {}
            cancel.store(true, Ordering::Relaxed);
            std::thread::sleep(ENDS_WITHIN);
            // The server's guard ends the server, and a process table of its own goes with this process.
            std::process::abort();
        });
    }

    fn outcome(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let mut phase = Phases {
            clock: Arc::clone(&self.clock),
            outcome: &mut outcome,
        };
        phase.of("isolate", |outcome| {
            outcome.limits = limits::apply(&self.job.limits);
            outcome.isolation = probe::look(&self.job);
            match outcome.isolation.broken() {
                Some(what) => Err(Failure {
                    cause: Cause::Egress,
                    what: format!("{what}; nothing of the database was started"),
                }),
                None => Ok(()),
            }
        });
        if outcome.failure.is_none() {
            self.ask(&mut outcome);
        }
        outcome
    }

    fn ask(&self, outcome: &mut Outcome) {
        let clock = Arc::clone(&self.clock);
        let mut phase = Phases { clock, outcome };
        match self.job.engine.as_str() {
            SQLITE => phase.of("checks", |outcome| {
                outcome.examined = Some(self.sqlite()?);
                Ok(())
            }),
            POSTGRESQL => self.server(&mut phase),
            other => {
                let what = format!("this build can't examine a {other} database");
                phase.outcome.failure = Some(Failure {
                    cause: Cause::Setup,
                    what,
                });
            }
        }
    }

    fn sqlite(&self) -> std::result::Result<Examined, Failure> {
        let examination = Examination {
            path: self.job.data.clone(),
            questions: self.job.questions.clone(),
            content: self.job.content.clone(),
            clock: Arc::clone(&self.clock),
            cancel: Arc::clone(&self.cancel),
        };
        examine(&examination).map_err(|error| Failure {
            cause: match error.kind() {
                ErrorKind::Full | ErrorKind::Io | ErrorKind::Bug => Cause::Setup,
                _ => Cause::Database,
            },
            what: tidemark_storage::chain(&error),
        })
    }

    fn server(&self, phase: &mut Phases<'_>) {
        let mut sandbox = Sandbox::new(self.job.data.clone(), Arc::clone(&self.clock));
        sandbox.pg_bin.clone_from(&self.job.pg_bin);
        sandbox.libraries.clone_from(&self.job.libraries);
        sandbox.watch = Some(self.watch());
        sandbox.cancel = Arc::clone(&self.cancel);
        if let Some(goal) = &self.job.replay {
            phase.of("replay", |outcome| {
                outcome.replayed = Some(sandbox.replay(goal).map_err(|error| failure(&error))?);
                Ok(())
            });
        }
        if phase.outcome.failure.is_some() {
            return;
        }
        phase.of("checks", |outcome| {
            let goal = self.job.replay.as_ref();
            let examined = sandbox.examine(&self.job.questions, goal);
            outcome.examined = Some(examined.map_err(|error| failure(&error))?);
            Ok(())
        });
    }

    fn watch(&self) -> Watch {
        let console = self.console.clone();
        Arc::new(move |replay: Replay| {
            let told = Told {
                phase: "replay".to_owned(),
                done: replay.at.since(replay.from),
                total: replay.to.since(replay.from),
            };
            if let Ok(line) = serde_json::to_string(&told) {
                console.raw(&format!("{line}\n"));
            }
        })
    }
}

fn failure(error: &ExamineError) -> Failure {
    let cause = match error {
        error if error.is_infrastructure() => Cause::Setup,
        ExamineError::Replay(_) => Cause::Replay,
        _ => Cause::Database,
    };
    Failure {
        cause,
        what: tidemark_storage::chain(error),
    }
}

/// Measures what takes how long.
struct Phases<'a> {
    clock: Arc<dyn Clock>,
    outcome: &'a mut Outcome,
}

impl Phases<'_> {
    fn of(
        &mut self,
        name: &str,
        work: impl FnOnce(&mut Outcome) -> std::result::Result<(), Failure>,
    ) {
        let began: Timestamp = self.clock.now();
        let since = self.clock.monotonic();
        let done = work(self.outcome);
        let took = self.clock.monotonic().since(since);
        self.outcome.phases.push(Phase {
            name: name.to_owned(),
            began,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
        if let Err(failure) = done {
            self.outcome.failure = Some(failure);
        }
    }
}
