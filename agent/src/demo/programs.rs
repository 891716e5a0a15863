//! The two shipped programs as children: found beside this one, run, and killed if the demo ends early.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::commands::Failure;

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
        let agent = std::env::current_exe()
            .map_err(|source| Failure::Folder { path: PathBuf::from("/proc/self/exe"), source })?;
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
            .map_err(|source| Failure::Folder { path: path.to_owned(), source })?;
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
    pub(super) fn start<S: AsRef<str>>(&self, words: &[S]) -> Result<Daemon, Failure> {
        let child = quiet(&self.agent, words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| Failure::Folder { path: self.agent.clone(), source })?;
        Ok(Daemon(child))
    }
}

/// A child that doesn't inherit what would turn it to another repository or service manager.
fn quiet<S: AsRef<str>>(path: &Path, words: &[S]) -> Command {
    let mut command = Command::new(path);
    command.args(words.iter().map(AsRef::as_ref));
    for name in
        ["TIDEMARK_REGION", "TIDEMARK_IDENTITY", "STATE_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC"]
    {
        command.env_remove(name);
    }
    command
}

/// A running agent; killed when dropped, so that a failed demo leaves nothing behind.
pub(super) struct Daemon(Child);

impl Daemon {
    /// SIGKILL: no goodbye, as in a disaster.
    pub(super) fn kill(&mut self) -> Result<(), Failure> {
        let failed = |source| Failure::Folder { path: PathBuf::from("tidemark-agent run"), source };
        if let Some(status) = self.0.try_wait().map_err(failed)? {
            return Err(Failure::Demo { what: format!("the agent had ended by itself: {status}") });
        }
        self.0.kill().and_then(|()| self.0.wait().map(drop)).map_err(failed)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing to be done if it is gone already.
        drop(self.0.kill().and_then(|()| self.0.wait()));
    }
}
