//! The commands' side of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::{LINE_BYTES_MAX, Request, Response};

/// How long a daemon that is well may take to say how it is.
const SIGN_OF_LIFE_WITHIN: Duration = Duration::from_secs(3);

/// The daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon listens.
    #[error("no agent runs on this state directory ({})", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection failed.
    #[error("the running agent didn't answer on {}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It listens and says nothing: it was stopped by a signal, or it hangs.
    #[error(
        "the agent does not answer on {}; it is stopped or hangs ({process}): systemctl restart tidemark-agent",
        path.display()
    )]
    Silent {
        /// The socket.
        path: PathBuf,
        /// Which process, and the state that the system gives it.
        process: String,
    },
    /// An answer that can't be read: another version of the agent runs.
    #[error("the running agent's answer can't be read: is it another version? restart it")]
    Answer(#[source] serde_json::Error),
}

/// A connection to the running daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon of the state directory whose socket is at `path`.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`].
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Self {
                path: path.to_owned(),
                stream: BufReader::new(stream),
            }),
            Err(source) => Err(ClientError::NotRunning {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Asks how the daemon is, which it answers at once when it is well.
    ///
    /// # Errors
    /// [`ClientError`], [`ClientError::Silent`] when nothing comes in time.
    pub async fn status(&mut self) -> Result<Response, ClientError> {
        let asked = tokio::time::timeout(SIGN_OF_LIFE_WITHIN, self.ask(&Request::Status)).await;
        asked.unwrap_or_else(|_late| {
            Err(ClientError::Silent {
                path: self.path.clone(),
                process: self.process(),
            })
        })
    }

    /// Who listens, and in which state the system has it.
    fn process(&self) -> String {
        let peer = self.stream.get_ref().peer_cred().ok();
        let Some(pid) = peer.and_then(|peer| peer.pid()) else {
            return "its process is not known".to_owned();
        };
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let state = text.lines().find_map(|line| line.strip_prefix("State:"));
        format!("pid {pid}, state {}", state.map_or("unknown", str::trim))
    }

    /// Asks, and waits for the answer: as long as it takes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ask(&mut self, request: &Request) -> Result<Response, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(ClientError::Answer)?;
        line.push(b'\n');
        let mut answer = Vec::new();
        let exchange = async {
            self.stream.get_mut().write_all(&line).await?;
            (&mut self.stream)
                .take(LINE_BYTES_MAX)
                .read_until(b'\n', &mut answer)
                .await?;
            if answer.is_empty() {
                Err(io::ErrorKind::UnexpectedEof.into())
            } else {
                Ok(())
            }
        };
        let broken = |source| ClientError::Broken {
            path: self.path.clone(),
            source,
        };
        exchange.await.map_err(broken)?;
        serde_json::from_slice(&answer).map_err(ClientError::Answer)
    }
}
