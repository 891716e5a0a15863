//! A sandbox that runs, as the parent holds it: a pipe whose end means that the parent is gone, and lines that
//! tell how far it is. Both kinds speak the same: a child process by its standard streams, a unit of systemd's by
//! the connection that started it.
//!
//! **Cancellation.** Whatever becomes of this process, the pipe closes, and the sandbox ends. Of a unit the lines
//! end only when systemd has no process of it left.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::error::SandboxError;
use super::job::{Job, Outcome, RESULT, SAID};
use super::run::{Options, Told};

/// What it takes at most to end when it is told to, and to say so at its limit.
const GRACE: Duration = Duration::from_secs(15);
/// What is kept of what a sandbox said before it was lost.
const SAID_MAX: usize = 600;

/// A line of the sandbox's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// Why it can't even begin.
    Unusable(String),
    /// How far it is.
    #[serde(untagged)]
    Told(Told),
}

/// A sandbox that runs.
pub(super) struct Running {
    /// None for a unit.
    child: Option<Child>,
    /// The sandbox ends when this closes.
    pipe: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    lines: Option<Box<dyn AsyncRead + Send + Unpin>>,
    folder: PathBuf,
    has_begun: bool,
    unusable: Option<String>,
}

/// How it ended.
pub(super) enum Ended {
    Outcome(Box<Outcome>),
    /// It never got as far as to look around.
    NotBegun(String),
    Nothing(String),
    TooLong,
}

impl Running {
    /// Starts a child process.
    pub(super) fn child(command: &mut Command, folder: &Path) -> Result<Self, SandboxError> {
        let said = folder.join(SAID);
        let file =
            File::create(&said).map_err(SandboxError::io("make the sandbox's log", &said))?;
        forget(folder);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .process_group(0)
            .kill_on_drop(true);
        let program = PathBuf::from(command.as_std().get_program());
        let mut child = command
            .spawn()
            .map_err(SandboxError::io("start the sandbox", &program))?;
        let pipe = child.stdin.take().map(|pipe| Box::new(pipe) as Box<_>);
        let lines = child.stdout.take().map(|lines| Box::new(lines) as Box<_>);
        Ok(Self {
            child: Some(child),
            pipe,
            lines,
            folder: folder.to_path_buf(),
            has_begun: false,
            unusable: None,
        })
    }

    /// Has systemd start a unit: by a connection, whose first line names the folder.
    ///
    /// # Errors
    /// Why nobody answers, in words.
    pub(super) async fn unit(socket: &Path, folder: &Path) -> Result<Self, String> {
        let why = |error: std::io::Error| format!("{}: {error}", socket.display());
        forget(folder);
        let stream = UnixStream::connect(socket).await.map_err(why)?;
        let (lines, mut pipe) = stream.into_split();
        let mut line = serde_json::to_vec(folder).map_err(|error| why(error.into()))?;
        line.push(b'\n');
        pipe.write_all(&line).await.map_err(why)?;
        Ok(Self {
            child: None,
            pipe: Some(Box::new(pipe)),
            lines: Some(Box::new(lines)),
            folder: folder.to_path_buf(),
            has_begun: false,
            unusable: None,
        })
    }

    /// Waits for its end.
    pub(super) async fn ended(
        mut self,
        job: &Job,
        options: &Options,
        stop: &CancellationToken,
    ) -> Result<Ended, SandboxError> {
        let limit = Duration::from_secs(job.limits.seconds).saturating_add(GRACE);
        let waited = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            waited = tokio::time::timeout(limit, self.watched(options)) => Some(waited),
        };
        let status = match waited {
            Some(Ok(status)) => {
                status.map_err(SandboxError::io("wait for the sandbox", &self.folder))?
            }
            unfinished => {
                self.end().await;
                return match unfinished {
                    None => Err(SandboxError::Interrupted),
                    Some(_) => Ok(Ended::TooLong),
                };
            }
        };
        Ok(match Outcome::load(&self.folder) {
            Some(outcome) => Ended::Outcome(Box::new(outcome)),
            None if self.has_begun => Ended::Nothing(self.said(status)),
            None => Ended::NotBegun(self.said(status)),
        })
    }

    /// Reads its lines until it has ended.
    async fn watched(&mut self, options: &Options) -> std::io::Result<Option<ExitStatus>> {
        if let Some(lines) = self.lines.take() {
            let mut lines = BufReader::new(lines).lines();
            while let Some(line) = lines.next_line().await? {
                self.hear(&line, options);
            }
        }
        match &mut self.child {
            Some(child) => child.wait().await.map(Some),
            None => Ok(None),
        }
    }

    fn hear(&mut self, line: &str, options: &Options) {
        match serde_json::from_str(line) {
            Ok(Line::Told(told)) => {
                self.has_begun = true;
                if let Some(watch) = &options.watch {
                    watch(&told);
                }
            }
            Ok(Line::Unusable(why)) => self.unusable = Some(why),
            // What a library writes there is nobody's word.
            Err(_foreign) => {}
        }
    }

    /// Ends it at once.
    async fn end(&mut self) {
        // Its pipe is closed: it ends by itself, and its server with it.
        self.pipe = None;
        let ended = tokio::time::timeout(GRACE, self.watched(&Options::default())).await;
        if ended.is_err()
            && let Some(child) = &mut self.child
        {
            drop(child.kill().await);
        }
    }

    fn said(&self, status: Option<ExitStatus>) -> String {
        if let Some(why) = &self.unusable {
            return why.clone();
        }
        let Some(status) = status else {
            return "the unit ended without an answer: journalctl -u 'tidemark-sandbox@*' says why"
                .to_owned();
        };
        let said = std::fs::read_to_string(self.folder.join(SAID)).unwrap_or_default();
        let from = said.chars().count().saturating_sub(SAID_MAX);
        let tail: String = said.chars().skip(from).collect();
        format!("it ended without an answer ({status}): {}", tail.trim())
    }
}

/// What an earlier method left says nothing about this one.
fn forget(folder: &Path) {
    std::fs::remove_file(folder.join(RESULT)).ok();
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, Write as _};
    use std::os::unix::net::UnixListener;

    use tidemark_engine::examine::Questions;

    use super::*;

    /// A unit that answers its connection with `answer`, and ends when it is told to.
    fn unit(dir: &Path, answer: &'static str, waits: bool) -> std::thread::JoinHandle<String> {
        let listener = UnixListener::bind(dir.join("sock")).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = std::io::BufReader::new(stream.try_clone().unwrap());
            let mut folder = String::new();
            lines.read_line(&mut folder).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            if waits {
                // To the end of the parent's half.
                assert_eq!(lines.read_line(&mut String::new()).unwrap(), 0);
            }
            folder
        })
    }

    async fn ended(
        dir: &Path,
        answer: &'static str,
        stop: Option<CancellationToken>,
    ) -> Result<Ended, SandboxError> {
        std::fs::create_dir_all(dir.join("job")).unwrap();
        let unit = unit(dir, answer, stop.is_some());
        let running = Running::unit(&dir.join("sock"), dir).await.unwrap();
        let job = Job::new("sqlite", dir.join("data"), Questions::default());
        let stop = stop.unwrap_or_default();
        let ended = running.ended(&job, &Options::default(), &stop).await;
        let told: PathBuf = serde_json::from_str(&unit.join().unwrap()).unwrap();
        assert_eq!(told, dir);
        ended
    }

    const BEGUN: &str = "{\"phase\":\"isolate\",\"done\":0,\"total\":0}\nnobody's word\n";

    #[tokio::test]
    async fn a_unit_that_could_not_begin_is_told_from_one_that_was_lost() {
        let dir = tempfile::tempdir().unwrap();
        let why = "{\"unusable\":\"it does not see /big\"}\n";
        let Ended::NotBegun(said) = ended(dir.path(), why, None).await.unwrap() else {
            panic!("it had begun");
        };
        assert_eq!(said, "it does not see /big");
        let dir = tempfile::tempdir().unwrap();
        let Ended::NotBegun(said) = ended(dir.path(), "", None).await.unwrap() else {
            panic!("it had begun");
        };
        assert!(said.contains("journalctl"), "{said}");
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            ended(dir.path(), BEGUN, None).await.unwrap(),
            Ended::Nothing(_)
        ));
    }

    #[tokio::test]
    async fn a_unit_is_told_to_end_by_the_end_of_its_connection() {
        let dir = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        let ended = ended(dir.path(), BEGUN, Some(stop)).await;
        assert!(matches!(ended, Err(SandboxError::Interrupted)));
    }

    #[tokio::test]
    async fn where_nobody_listens_there_is_no_unit() {
        let dir = tempfile::tempdir().unwrap();
        let refused = Running::unit(&dir.path().join("sock"), dir.path()).await;
        let Err(why) = refused else {
            panic!("somebody answered");
        };
        assert!(why.contains("sock"), "{why}");
    }
}
