//! `sandbox-run FOLDER`, or `-` to be told the folder by the first line of its input: what happens inside. It reads the job, looks for a way out, and only if there is
//! none, touches the database.
//!
//! **Cancellation.** When the parent's pipe closes, or the time is over that all of it may take, everything
//! ends within moments: what is asked is given up, the server is ended; what hangs all the same is ended with
//! this process.

use std::io::{BufRead as _, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::Access;
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
use super::running::Line;
use super::{limits, probe};
use crate::error::{Error, Result};
use crate::repository::Tools;

/// From the parent's end to ours.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
const SQLITE: &str = "sqlite";
const PRIVATE: u32 = 0o600;

/// Says that the folder's name comes as the first line of standard input.
const BY_INPUT: &str = "-";
/// What it does first.
const ISOLATE: &str = "isolate";

/// Runs the job that is in `folder`.
///
/// # Errors
/// The job can't be read, or what came of it not be written.
pub async fn run(folder: &Path, tools: &Tools) -> Result<Exit> {
    let io = |action| move |source| Error::Io { action, source };
    let folder = if folder == Path::new(BY_INPUT) {
        told().map_err(io("read from the connection where the sandbox's job is"))?
    } else {
        folder.to_path_buf()
    };
    let console = tools.console.clone();
    // Read-only it is of no use either: nobody would learn what came of it.
    let read = std::fs::read(folder.join(JOB)).and_then(|text| {
        rustix::fs::access(&folder, Access::WRITE_OK)?;
        Ok(text)
    });
    let text = read.map_err(|source| {
        let place = folder.parent().unwrap_or(&folder).display();
        let why = format!(
            "the sandbox can't use the scratch in {place} ({source}); in a drop-in of tidemark-sandbox@.service: \
             BindPaths={place}"
        );
        say(&console, &Line::Unusable(why));
        io("read the sandbox's job")(source)
    })?;
    let job: Job = serde_json::from_slice(&text)
        .map_err(|error| io("understand the sandbox's job")(error.into()))?;
    let work = Work {
        cancel: Arc::default(),
        clock: Arc::clone(&tools.clock),
        console,
        job: Arc::new(job),
        is_late: Arc::default(),
    };
    work.end_with_parent();
    work.end_in_time(&folder);
    work.tell(ISOLATE, 0, 0);
    // Hours of waiting for a server: no thread of the runtime's is kept for it.
    let done = tokio::task::spawn_blocking(move || work.outcome()).await;
    let outcome = done.unwrap_or_else(|panic| Outcome::failed(Cause::Lost, panic.to_string()));
    leave(&folder, &outcome)?;
    // What came of it stands in the file: whoever started this reads it there.
    Ok(Exit::Ok)
}

fn leave(folder: &Path, outcome: &Outcome) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(outcome).map_err(|error| Error::Io {
        action: "write what the sandbox found",
        source: error.into(),
    })?;
    write_atomic(&folder.join(RESULT), &bytes, PRIVATE).map_err(Error::File)
}

/// Where the job is: the first line, which the parent sends.
fn told() -> std::io::Result<PathBuf> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn say(console: &Console, line: &Line) {
    if let Ok(line) = serde_json::to_string(line) {
        console.raw(&format!("{line}\n"));
    }
}

#[derive(Clone)]
struct Work {
    job: Arc<Job>,
    clock: Arc<dyn Clock>,
    console: Console,
    cancel: Arc<AtomicBool>,
    /// Whether it was ended because its time was over.
    is_late: Arc<AtomicBool>,
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

    /// Ends everything when its time is over.
    fn end_in_time(&self, folder: &Path) {
        let (cancel, is_late) = (Arc::clone(&self.cancel), Arc::clone(&self.is_late));
        let (limit, folder) = (self.job.limits, folder.to_path_buf());
        // Nobody waits for it, and it dies with this process.
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(limit.seconds));
            is_late.store(true, Ordering::Relaxed);
            cancel.store(true, Ordering::Relaxed);
            std::thread::sleep(ENDS_WITHIN);
            // If even this can't be written, whoever started this knows how long it took.
            drop(leave(&folder, &Outcome::too_long(&limit)));
            std::process::abort();
        });
    }

    fn outcome(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let mut phase = Phases {
            clock: Arc::clone(&self.clock),
            outcome: &mut outcome,
        };
        phase.of(ISOLATE, |outcome| {
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
            self.look_again(&mut outcome);
        }
        if outcome.failure.is_some() && self.is_late.load(Ordering::Relaxed) {
            // What was given up for that says nothing else.
            outcome.failure = Outcome::too_long(&self.job.limits).failure;
        }
        outcome
    }

    /// A way out may have been opened meanwhile.
    fn look_again(&self, outcome: &mut Outcome) {
        let isolation = probe::look(&self.job);
        if let Some(what) = isolation.broken() {
            outcome.isolation = isolation;
            outcome.failure = Some(Failure {
                cause: Cause::Egress,
                what: format!("{what}; it was closed when the database was started"),
            });
        }
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
            clock: Arc::clone(&self.clock),
            cancel: Arc::clone(&self.cancel),
        };
        let examined = examine(&examination).map_err(|error| Failure {
            cause: match error.kind() {
                ErrorKind::Full | ErrorKind::Io | ErrorKind::Bug => Cause::Setup,
                _ => Cause::Database,
            },
            what: tidemark_storage::chain(&error),
        })?;
        if self.cancel.load(Ordering::Relaxed) {
            // What was given up looks as if the database had refused it.
            return Err(Failure {
                cause: Cause::Setup,
                what: "stopped".to_owned(),
            });
        }
        Ok(examined)
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
            let (done, total) = (replay.at.since(replay.from), replay.to.since(replay.from));
            tell(&console, "replay", done, total);
        })
    }

    fn tell(&self, phase: &str, done: u64, total: u64) {
        tell(&self.console, phase, done, total);
    }
}

fn tell(console: &Console, phase: &str, done: u64, total: u64) {
    let phase = phase.to_owned();
    say(console, &Line::Told(Told { phase, done, total }));
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
