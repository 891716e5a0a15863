//! The daemon's side of the control socket: turns lines into questions to the supervisor.

use std::io;
use std::path::Path;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{LINE_BYTES_MAX, Request, Response};

/// Commands that are answered at the same time: more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16;
/// Who may talk to the daemon: its user and its group.
const SOCKET_MODE: u32 = 0o660;

/// A question, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Response>,
}

/// Listens at `path` until `stop`, and hands every request to `asked`.
pub(crate) async fn serve(
    path: &Path,
    asked: mpsc::Sender<Asked>,
    stop: CancellationToken,
) -> io::Result<()> {
    // Only the holder of the state directory's lock comes here: a socket that stands there is stale.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(SOCKET_MODE);
    std::fs::set_permissions(path, mode)?;
    let mut open = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _done = open.join_next(), if !open.is_empty() => {}
            accepted = listener.accept(), if open.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _peer)) => {
                    open.spawn(talk(stream, asked.clone()));
                }
                Err(error) => tracing::debug!(error = %error, "a command could not connect"),
            },
        }
    }
    open.shutdown().await;
    // Best effort: the next start removes a stale socket, too.
    drop(std::fs::remove_file(path));
    Ok(())
}

async fn talk(stream: UnixStream, asked: mpsc::Sender<Asked>) {
    if let Err(error) = converse(stream, &asked).await {
        tracing::debug!(error = %error, "a command went away before its answer");
    }
}

async fn converse(stream: UnixStream, asked: &mpsc::Sender<Asked>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        (&mut stream)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .await?;
        if line.is_empty() {
            return Ok(());
        }
        let response = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => answer(request, asked).await,
            Err(error) => Response::Refused {
                code: tidemark_host::codes::USAGE.id.to_owned(),
                message: format!("this request can't be read: {error}"),
            },
        };
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        stream.get_mut().write_all(&line).await?;
    }
}

async fn answer(request: Request, asked: &mpsc::Sender<Asked>) -> Response {
    let (sender, receiver) = oneshot::channel();
    let sent = asked
        .send(Asked {
            request,
            answer: sender,
        })
        .await;
    let stopping = || Response::Refused {
        code: tidemark_host::codes::INTERRUPTED.id.to_owned(),
        message: "the agent is stopping".to_owned(),
    };
    match sent {
        Ok(()) => receiver.await.unwrap_or_else(|_dropped| stopping()),
        Err(_closed) => stopping(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Client;

    #[tokio::test]
    async fn a_request_reaches_the_supervisor_and_its_answer_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let (sender, mut receiver) = mpsc::channel::<Asked>(1);
        let stop = CancellationToken::new();
        let server = {
            let (path, stop) = (path.clone(), stop.clone());
            tokio::spawn(async move { serve(&path, sender, stop).await })
        };
        let supervisor = tokio::spawn(async move {
            while let Some(asked) = receiver.recv().await {
                let message = format!("{:?}", asked.request);
                asked.answer.send(Response::Done { message }).unwrap();
            }
        });
        let mut client = loop {
            match Client::connect(&path).await {
                Ok(client) => break client,
                Err(_not_yet) => tokio::task::yield_now().await,
            }
        };
        for _ in 0..2 {
            let response = client.ask(&Request::Status).await.unwrap();
            assert_eq!(
                response,
                Response::Done {
                    message: "Status".to_owned()
                }
            );
        }
        stop.cancel();
        server.await.unwrap().unwrap();
        supervisor.await.unwrap();
        assert!(!path.exists());
    }
}
