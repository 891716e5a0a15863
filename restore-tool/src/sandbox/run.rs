//! The parent's side: makes the sandbox, watches it, reads what it left.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemark_host::files::write_atomic;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::error::SandboxError;
use super::isolate::{Inside, Method, Tried, is_under_systemd, ladder, unit_name};
use super::job::{Cause, JOB, Job, Outcome, RESULT, SAID};
use super::passwd::Account;
use super::probe::namespace;
use super::scratch::Scratch;

/// The hidden command of this program.
const COMMAND: &str = "sandbox-run";
/// What it takes at most to end when it is told to, and to say so at its limit.
const GRACE: Duration = Duration::from_secs(15);
/// What is kept of what a sandbox said before it was lost.
const SAID_MAX: usize = 600;
/// Owner only.
const PRIVATE: u32 = 0o600;
const EVERYBODY_RUNS: u32 = 0o755;

/// How far the sandbox is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// What it does.
    pub phase: String,
    /// How much of it is done.
    pub done: u64,
    /// How much there is to do; 0 if nobody knows.
    pub total: u64,
}

/// Told how far the sandbox is.
pub type Watch = Arc<dyn Fn(&Told) + Send + Sync>;

/// How a sandbox is run.
#[derive(Clone, Default)]
pub struct Options {
    /// This program, if it isn't the one that runs.
    pub program: Option<PathBuf>,
    /// One method and no other.
    pub method: Option<Method>,
    /// Told how far it is.
    pub watch: Option<Watch>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("program", &self.program)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// Runs `job` in a sandbox and waits for its end.
///
/// # Errors
/// [`SandboxError::NoIsolation`], [`SandboxError::Interrupted`], the system's. What the sandbox itself met
/// is in [`Outcome::failure`].
pub async fn run(
    mut job: Job,
    scratch: &Scratch,
    options: &Options,
    stop: &CancellationToken,
) -> Result<Outcome, SandboxError> {
    let folder = scratch.path().to_path_buf();
    scratch.give(&job.data)?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(SandboxError::io(
            "find this program",
            Path::new("/proc/self/exe"),
        ))?,
    };
    let program = usable(&program, scratch.account(), &scratch.job())?;
    let inside = Inside {
        folder: folder.clone(),
        account: scratch.account().cloned(),
        hidden: job.forbidden.clone(),
    };
    job.outside_network = namespace("net");
    job.outside_processes = namespace("pid");
    let methods = options.method.map_or_else(
        || ladder(is_under_systemd(), rustix::process::geteuid().is_root()),
        |method| vec![method],
    );
    for method in methods {
        if let Err(why) = inside.tried(method) {
            job.tried.push(Tried::new(method, why));
            continue;
        }
        job.method = method.name().to_owned();
        job.has_parent = method != Method::Unit;
        write(&job, scratch)?;
        let mut command = command(&inside, method, &program);
        match start(&mut command, &folder)?
            .ended(&job, options, stop)
            .await?
        {
            Ended::Outcome(outcome) => return Ok(*outcome),
            // Whoever may not start the unit finds that out here.
            Ended::Nothing(why) if method == Method::Unit => {
                job.tried.push(Tried::new(method, why));
            }
            Ended::Nothing(why) => return Ok(lost(&job, why)),
            Ended::TooLong => return Ok(too_long(&job)),
        }
    }
    let tried: Vec<String> = job
        .tried
        .iter()
        .map(|tried| format!("{}: {}", tried.method, tried.why))
        .collect();
    Err(SandboxError::NoIsolation {
        tried: tried.join("; "),
    })
}

fn lost(job: &Job, why: String) -> Outcome {
    with_method(job, Outcome::failed(Cause::Lost, why))
}

fn too_long(job: &Job) -> Outcome {
    let seconds = job.limits.seconds;
    let what = format!("it took longer than the {seconds} s that it may, and was ended");
    with_method(job, Outcome::failed(Cause::Limit, what))
}

fn with_method(job: &Job, mut outcome: Outcome) -> Outcome {
    outcome.isolation.method.clone_from(&job.method);
    outcome.isolation.tried.clone_from(&job.tried);
    outcome
}

fn write(job: &Job, scratch: &Scratch) -> Result<(), SandboxError> {
    let path = scratch.path().join(JOB);
    let io = |source: std::io::Error| SandboxError::io("write the job", &path)(source);
    let bytes = serde_json::to_vec_pretty(job).map_err(|error| io(error.into()))?;
    write_atomic(&path, &bytes, PRIVATE).map_err(|error| io(std::io::Error::other(error)))?;
    scratch.give(&path)
}

/// The program, where the user that it runs as may run it: a copy, if nowhere else.
fn usable(
    program: &Path,
    account: Option<&Account>,
    folder: &Path,
) -> Result<PathBuf, SandboxError> {
    let open_to_all = |path: &Path, bits: u32| {
        let mode = path.metadata().map(|there| there.permissions().mode());
        mode.is_ok_and(|mode| mode & bits == bits)
    };
    let above = program.ancestors().skip(1);
    let reached = open_to_all(program, 0o005)
        && above
            .filter(|above| !above.as_os_str().is_empty())
            .all(|above| open_to_all(above, 0o001));
    if account.is_none() || reached {
        return Ok(program.to_path_buf());
    }
    let copy = folder.join("tidemark-restore");
    let io = || SandboxError::io("copy this program", &copy);
    std::fs::copy(program, &copy).map_err(io())?;
    std::fs::set_permissions(&copy, Permissions::from_mode(EVERYBODY_RUNS)).map_err(io())?;
    Ok(copy)
}

fn command(inside: &Inside, method: Method, program: &Path) -> Command {
    if method == Method::Unit {
        let mut command = Command::new("systemctl");
        command.args(["start", "--no-ask-password"]);
        command.arg(unit_name(&inside.folder));
        return command;
    }
    let mut words: Vec<OsString> = inside.before(method);
    words.push(program.into());
    words.push(COMMAND.into());
    words.push(inside.folder.clone().into());
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    surround(&mut command, &inside.folder);
    command
}

/// Nothing of this process's surroundings but where libraries are.
fn surround(command: &mut Command, folder: &Path) {
    let libraries = std::env::var_os("LD_LIBRARY_PATH");
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    command
        .env("HOME", folder)
        .env("TMPDIR", folder.join("job"));
    if let Some(libraries) = libraries {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command.current_dir("/");
}

/// A sandbox that runs.
struct Running {
    child: Child,
    folder: PathBuf,
}

/// How it ended.
enum Ended {
    Outcome(Box<Outcome>),
    Nothing(String),
    TooLong,
}

fn start(command: &mut Command, folder: &Path) -> Result<Running, SandboxError> {
    let said = folder.join(SAID);
    let file = File::create(&said).map_err(SandboxError::io("make the sandbox's log", &said))?;
    // What an earlier method left says nothing about this one.
    std::fs::remove_file(folder.join(RESULT)).ok();
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(file)
        .process_group(0)
        .kill_on_drop(true);
    let program = PathBuf::from(command.as_std().get_program());
    let child = command
        .spawn()
        .map_err(SandboxError::io("start the sandbox", &program))?;
    Ok(Running {
        child,
        folder: folder.to_path_buf(),
    })
}

impl Running {
    async fn ended(
        mut self,
        job: &Job,
        options: &Options,
        stop: &CancellationToken,
    ) -> Result<Ended, SandboxError> {
        // The child ends when this pipe closes, whatever becomes of this process.
        let pipe = self.child.stdin.take();
        let limit = Duration::from_secs(job.limits.seconds).saturating_add(GRACE);
        let waited = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            waited = tokio::time::timeout(limit, self.watched(options)) => Some(waited),
        };
        drop(pipe);
        let status = match waited {
            Some(Ok(status)) => {
                status.map_err(SandboxError::io("wait for the sandbox", &self.folder))?
            }
            unfinished => {
                self.end(job).await;
                return match unfinished {
                    None => Err(SandboxError::Interrupted),
                    Some(_) => Ok(Ended::TooLong),
                };
            }
        };
        Ok(match Outcome::load(&self.folder) {
            Some(outcome) => Ended::Outcome(Box::new(outcome)),
            None => Ended::Nothing(self.said(status)),
        })
    }

    async fn watched(&mut self, options: &Options) -> std::io::Result<ExitStatus> {
        if let Some(out) = self.child.stdout.take() {
            let mut lines = BufReader::new(out).lines();
            while let Some(line) = lines.next_line().await? {
                if let (Some(watch), Ok(told)) = (&options.watch, serde_json::from_str(&line)) {
                    watch(&told);
                }
            }
        }
        self.child.wait().await
    }

    /// Ends it at once.
    async fn end(&mut self, job: &Job) {
        if job.method == Method::Unit.name() {
            let mut stop = Command::new("systemctl");
            stop.args(["stop", "--no-ask-password"]);
            drop(stop.arg(unit_name(&self.folder)).output().await);
        }
        // Its pipe is closed: it ends by itself, and its server with it.
        let ended = tokio::time::timeout(GRACE, self.child.wait()).await;
        if ended.is_err() {
            drop(self.child.kill().await);
        }
    }

    fn said(&self, status: ExitStatus) -> String {
        let said = std::fs::read_to_string(self.folder.join(SAID)).unwrap_or_default();
        let from = said.chars().count().saturating_sub(SAID_MAX);
        let tail: String = said.chars().skip(from).collect();
        format!("it ended without an answer ({status}): {}", tail.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_the_user_can_not_reach_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (program, folder) = (dir.path().join("program"), dir.path().join("job"));
        std::fs::write(&program, "#!").unwrap();
        std::fs::set_permissions(&program, Permissions::from_mode(0o700)).unwrap();
        std::fs::create_dir(&folder).unwrap();
        let account = Account {
            name: "nobody".to_owned(),
            uid: 65_534,
            gid: 65_534,
        };
        assert_eq!(usable(&program, None, &folder).unwrap(), program);
        let copy = usable(&program, Some(&account), &folder).unwrap();
        assert_eq!(copy, folder.join("tidemark-restore"));
        let mode = copy.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn nothing_of_this_processs_environment_goes_in() {
        let mut command = Command::new("true");
        surround(&mut command, Path::new("/x"));
        let names: Vec<String> = command
            .as_std()
            .get_envs()
            .map(|(name, _)| name.to_string_lossy().into_owned())
            .collect();
        for name in names {
            let known = ["HOME", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ"];
            assert!(known.contains(&name.as_str()), "{name}");
        }
    }
}
