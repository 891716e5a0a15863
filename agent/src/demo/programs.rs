//! The two shipped programs as children: found beside this one, run, and killed if the demo ends early.

use std::{
    fs::File,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::commands::Failure;

/// How long a fresh agent may take until it answers; it takes a moment.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Which program.
#[derive(Debug, Clone, Copy)]
pub(super) enum Program {
    /// `tidemark-agent`: this very file.
    Agent,
    /// `tidemark-restore`, beside it.
    Restore,
}

/// Where they are.
pub(super) struct Programs {
    agent: PathBuf,
    restore: PathBuf,
}

impl Programs {
    /// Finds them.
    pub(super) fn find() -> Result<Self, Failure> {
        let agent = std::env::current_exe().map_err(|source| Failure::Folder {
            path: PathBuf::from("/proc/self/exe"),
            source,
        })?;
        let restore = agent.with_file_name("tidemark-restore");
        if restore.is_file() {
            Ok(Self { agent, restore })
        } else {
            Err(Failure::NoRestoreTool(restore))
        }
    }

    fn path(&self, program: Program) -> &Path {
        match program {
            Program::Agent => &self.agent,
            Program::Restore => &self.restore,
        }
    }

    /// Runs a program to its end; what it printed.
    pub(super) fn run<S: AsRef<str>>(
        &self,
        program: Program,
        words: &[S],
    ) -> Result<String, Failure> {
        let path = self.path(program);
        let output = quiet(path, words)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| Failure::Folder {
                path: path.to_owned(),
                source,
            })?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(printed);
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(Failure::Demo {
            what: format!(
                "{} {} ended with {}:\n{printed}{complaint}",
                path.display(),
                words.first().map_or("", AsRef::as_ref),
                output.status
            ),
        })
    }

    /// Runs the agent to its end.
    pub(super) fn agent<S: AsRef<str>>(&self, words: &[S]) -> Result<String, Failure> {
        self.run(Program::Agent, words)
    }

    /// Starts the agent's daemon.
    pub(super) fn start<S: AsRef<str>>(&self, words: &[S], log: &Path) -> Result<Daemon, Failure> {
        let failed = |source| Failure::Folder {
            path: self.agent.clone(),
            source,
        };
        let output = File::create(log).map_err(failed)?;
        let child = quiet(&self.agent, words)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            .spawn()
            .map_err(failed)?;
        Ok(Daemon {
            child,
            log: log.to_owned(),
        })
    }
}

/// A child that doesn't inherit what would turn it to another repository or service manager.
fn quiet<S: AsRef<str>>(path: &Path, words: &[S]) -> Command {
    let mut command = Command::new(path);
    command.args(words.iter().map(AsRef::as_ref));
    for name in [
        "TIDEMARK_REGION",
        "TIDEMARK_IDENTITY",
        "STATE_DIRECTORY",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
    ] {
        command.env_remove(name);
    }
    command
}

/// A running agent; killed when dropped, so that a failed demo leaves nothing behind.
pub(super) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Waits until it answers on its control socket.
    pub(super) fn wait_until_it_answers(&mut self, socket: &Path) -> Result<(), Failure> {
        for _try in 0..ANSWERS_WITHIN.as_millis() / ASK_EVERY.as_millis() {
            if UnixStream::connect(socket).is_ok() {
                return Ok(());
            }
            self.still_runs()?;
            std::thread::sleep(ASK_EVERY);
        }
        Err(self.failed("the agent did not answer in time"))
    }

    fn still_runs(&mut self) -> Result<(), Failure> {
        let path = || PathBuf::from("tidemark-agent run");
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(&format!("the agent ended by itself: {status}"))),
            Err(source) => Err(Failure::Folder {
                path: path(),
                source,
            }),
        }
    }

    fn failed(&self, what: &str) -> Failure {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        Failure::Demo {
            what: format!("{what}; its log:\n{log}"),
        }
    }

    /// SIGKILL: no goodbye, as in a disaster.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        let failed = |source| Failure::Folder {
            path: PathBuf::from("tidemark-agent run"),
            source,
        };
        self.still_runs()?;
        self.child
            .kill()
            .and_then(|()| self.child.wait().map(drop))
            .map_err(failed)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing to be done if it is gone already.
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}
