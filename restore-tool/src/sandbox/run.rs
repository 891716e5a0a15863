//! The parent's side: makes the sandbox, watches it, reads what it left.

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemark_host::files::write_atomic;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::error::SandboxError;
use super::isolate::{Inside, Method, SOCKET, Tried, is_under_systemd, ladder};
use super::job::{Cause, JOB, Job, Outcome};
use super::passwd::Account;
use super::probe::namespace;
use super::running::{Ended, Running};
use super::scratch::Scratch;

/// The hidden command of this program.
const COMMAND: &str = "sandbox-run";
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
        write(&within(&job, method), scratch)?;
        let started = match method {
            Method::Unit => Running::unit(Path::new(SOCKET), &folder).await,
            _ => Ok(Running::child(
                &mut command(&inside, method, &program),
                &folder,
            )?),
        };
        let running = match started {
            Ok(running) => running,
            Err(why) => {
                job.tried.push(Tried::new(method, why));
                continue;
            }
        };
        match running.ended(&job, options, stop).await? {
            Ended::Outcome(outcome) if outcome.isolation.method.is_empty() => {
                return Ok(with_method(&job, *outcome));
            }
            Ended::Outcome(outcome) => return Ok(*outcome),
            // A unit that doesn't see the scratch, or that nobody may start, shows here.
            Ended::NotBegun(why) if method == Method::Unit => {
                job.tried.push(Tried::new(method, why));
            }
            Ended::NotBegun(why) | Ended::Nothing(why) => return Ok(lost(&job, why)),
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

/// What the job is where it is run: a unit sees this process, and must not be able to enter it.
fn within(job: &Job, method: Method) -> Job {
    let mut job = job.clone();
    if method == Method::Unit {
        let own = PathBuf::from(format!("/proc/{}", std::process::id()));
        job.forbidden
            .extend([own.join("environ"), own.join("root")]);
    }
    job
}

fn lost(job: &Job, why: String) -> Outcome {
    with_method(job, Outcome::failed(Cause::Lost, why))
}

fn too_long(job: &Job) -> Outcome {
    with_method(job, Outcome::too_long(&job.limits))
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
