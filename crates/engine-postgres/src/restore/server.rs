//! The server's own recovery, run as a child: started, watched, stopped.
//!
//! Nothing of the source's settings is used: they may name libraries, archives and peers that this
//! machine must not touch. What recovery depends on comes from `pg_control`.
//!
//! **Cancellation.** When asked to stop, when this is dropped, and when this process dies (a shell waits
//! for the end of a pipe), the server is ended at once. **Time limits** hold for starting and stopping
//! only: a long log takes as long as it takes, and says how far it is.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tidemark_format::postgres::{Lsn, SegmentName, SegmentSize};
use tidemark_host::Clock;

use super::error::RestoreError;
use super::tree::RunAs;

/// A server says that it is there within this time, however long recovery takes then.
const START_MAX: Duration = Duration::from_secs(120);
/// Stopping writes everything that is in memory.
const STOP_MAX: Duration = Duration::from_secs(900);
/// A server that is ended at once has nothing to write.
const END_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOG_LINES: usize = 20;
/// Ends the server when this process is gone.
const GUARD: &str = r#"read -r _; kill -QUIT "$1""#;

/// How far replay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// Where it began.
    pub from: Lsn,
    /// The segment it is in starts here.
    pub at: Lsn,
    /// Where it is to end.
    pub to: Lsn,
}

/// What a run needs.
pub(super) struct Run {
    pub(super) program: PathBuf,
    pub(super) data: PathBuf,
    pub(super) log: PathBuf,
    pub(super) settings: Vec<(String, String)>,
    pub(super) owner: Option<RunAs>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) cancel: Arc<AtomicBool>,
}

/// A server that runs.
pub(super) struct Server {
    run: Run,
    child: Child,
    guard: Child,
    ended: bool,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("data", &self.run.data)
            .field("process", &self.child.id())
            .finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn start(run: Run) -> Result<Self, RestoreError> {
        let log = File::create(&run.log)
            .and_then(|log| Ok((log.try_clone()?, log)))
            .map_err(RestoreError::io("making the server's log", &run.log))?;
        let mut command = Command::new(&run.program);
        command.arg("-D").arg(&run.data);
        for (name, value) in &run.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdin(Stdio::null()).stdout(log.0).stderr(log.1);
        clean(&mut command, run.owner);
        let failed = |program: &Path| {
            let program = program.to_path_buf();
            move |source| RestoreError::Program { program, source }
        };
        let mut child = command.spawn().map_err(failed(&run.program))?;
        match guard(child.id()).spawn() {
            Ok(guard) => Ok(Self {
                run,
                child,
                guard,
                ended: false,
            }),
            Err(error) => {
                drop(child.kill());
                drop(child.wait());
                Err(failed(Path::new("/bin/sh"))(error))
            }
        }
    }

    /// Whether it still runs, and is still wanted.
    pub(super) fn check(&mut self) -> Result<(), RestoreError> {
        self.check_cancelled()?;
        match self.exited()? {
            None => Ok(()),
            Some(status) => Err(self.failed(&format!(
                "the server ended during recovery ({status}), so the target was not reached"
            ))),
        }
    }

    /// Waits until recovery has ended and the server would let clients in.
    pub(super) fn recovered(
        &mut self,
        mut look: impl FnMut(Option<String>),
    ) -> Result<(), RestoreError> {
        let began = self.run.clock.monotonic();
        loop {
            self.check()?;
            match self.state().as_deref() {
                Some("ready") => return Ok(()),
                Some(_) => look(self.replaying()),
                None if self.run.clock.monotonic().since(began) > START_MAX => {
                    self.end();
                    return Err(self.hung("start", START_MAX));
                }
                None => {}
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Stops it cleanly.
    pub(super) fn stop(mut self) -> Result<(), RestoreError> {
        self.signal(Signal::INT);
        let began = self.run.clock.monotonic();
        loop {
            self.check_cancelled()?;
            if let Some(status) = self.exited()? {
                if status.success() {
                    return Ok(());
                }
                return Err(self.failed(&format!("the server did not stop cleanly ({status})")));
            }
            if self.run.clock.monotonic().since(began) > STOP_MAX {
                self.end();
                return Err(self.hung("stop", STOP_MAX));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn check_cancelled(&mut self) -> Result<(), RestoreError> {
        if self.run.cancel.load(Ordering::Relaxed) {
            self.end();
            return Err(RestoreError::Interrupted);
        }
        Ok(())
    }

    fn exited(&mut self) -> Result<Option<std::process::ExitStatus>, RestoreError> {
        let status = self.child.try_wait().map_err(RestoreError::io(
            "waiting for the server",
            &self.run.program,
        ))?;
        self.ended |= status.is_some();
        Ok(status)
    }

    /// `starting`, `ready`, …, from the file that the server keeps about itself.
    fn state(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.run.data.join("postmaster.pid")).ok()?;
        let mut lines = text.lines();
        let ours = lines.next()?.trim().parse() == Ok(self.child.id());
        lines
            .nth(6)
            .filter(|_| ours)
            .map(|state| state.trim().to_owned())
    }

    /// The name of the segment that is being replayed, from the title of the process that does it.
    fn replaying(&self) -> Option<String> {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        children.split_whitespace().find_map(|child| {
            let title = std::fs::read(format!("/proc/{child}/cmdline")).ok()?;
            let title = String::from_utf8_lossy(&title).into_owned();
            let (_, name) = title.split_once("recovering ")?;
            Some(name.get(..24)?.to_owned())
        })
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id.filter(|_| !self.ended) {
            // It may have ended meanwhile: that is seen next.
            rustix::process::kill_process(id, signal).ok();
        }
    }

    /// Ends it at once.
    fn end(&mut self) {
        self.signal(Signal::QUIT);
        let began = self.run.clock.monotonic();
        while !self.ended && self.run.clock.monotonic().since(began) < END_MAX {
            if !matches!(self.child.try_wait(), Ok(None)) {
                self.ended = true;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        if !self.ended {
            drop(self.child.kill());
            drop(self.child.wait());
            self.ended = true;
        }
    }

    fn failed(&self, why: &str) -> RestoreError {
        RestoreError::Recovery {
            why: why.to_owned(),
            log: self.log(),
        }
    }

    fn hung(&self, what: &'static str, limit: Duration) -> RestoreError {
        RestoreError::Hung {
            what,
            seconds: limit.as_secs(),
            log: self.log(),
        }
    }

    fn log(&self) -> String {
        tail(&self.run.log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.ended {
            self.end();
        }
        // Before its pipe closes: there is nobody left to end.
        drop(self.guard.kill());
        drop(self.guard.wait());
    }
}

/// Ends the process once the pipe that it reads from closes.
fn guard(process: u32) -> Command {
    let mut guard = Command::new("/bin/sh");
    guard.args(["-c", GUARD, "sh"]).arg(process.to_string());
    guard.stdin(Stdio::piped()).stdout(Stdio::null());
    guard.stderr(Stdio::null()).process_group(0).env_clear();
    guard
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    if read.is_err() {
        return "(no log)".to_owned();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    lines.get(from..).unwrap_or_default().join("\n")
}

/// Nothing of this process's surroundings but where libraries are, and no terminal's signals.
pub(super) fn clean(command: &mut Command, owner: Option<RunAs>) {
    let libraries = std::env::var_os("LD_LIBRARY_PATH");
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command.env("LC_ALL", "C").env("TZ", "UTC");
    if let Some(libraries) = libraries {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command.current_dir("/").process_group(0);
    if let Some(owner) = owner {
        command.uid(owner.uid).gid(owner.gid);
    }
}

/// Where the segment of this name starts.
pub(super) fn segment_start(name: &str, size: SegmentSize) -> Option<Lsn> {
    SegmentName::parse(name, size).ok().map(|name| name.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn a_server_does_not_outlive_the_process_that_watches_it() {
        // As a server does, it hears the signal even where a shell in the background has it ignored.
        let mut server = Command::new("env")
            .args(["--default-signal=QUIT", "sleep", "600"])
            .spawn()
            .expect("it runs");
        let mut guard = guard(server.id()).spawn().expect("it runs");
        // As when this process is gone: the system closes its pipes.
        drop(guard.stdin.take());
        let ended = server.wait().expect("it ends");
        assert_eq!(ended.signal(), Some(Signal::QUIT.as_raw()));
        guard.wait().expect("it ends");
    }

    #[test]
    fn of_a_log_the_last_lines_are_shown() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        let lines: Vec<String> = (1..=100).map(|line| line.to_string()).collect();
        std::fs::write(&path, lines.join("\n")).expect("written");
        assert_eq!(tail(&path).lines().next(), Some("81"));
        assert_eq!(tail(&dir.path().join("none")), "(no log)");
    }
}
