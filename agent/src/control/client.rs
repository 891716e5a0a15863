//! The commands' side of the control socket.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::{LINE_BYTES_MAX, Request, Response};

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
