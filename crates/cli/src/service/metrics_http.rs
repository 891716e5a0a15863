//! The loopback endpoint for metrics: `GET /metrics`, one answer per connection, nothing else.
//!
//! A dozen lines of HTTP/1.1 instead of a server library: it listens on loopback only, reads at
//! most [`HEAD_BYTES_MAX`] and answers with one text.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The text's type.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The longest request that is read.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// How long a client may take.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Clients at a time.
const CLIENTS_MAX: usize = 8;

/// Makes the text that is served.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// Listens at `address` (the caller checked that it is loopback).
///
/// # Errors
/// When the address can't be bound.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, render: Render, stop: CancellationToken) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _done = clients.join_next(), if !clients.is_empty() => {}
            accepted = listener.accept(), if clients.len() < CLIENTS_MAX => {
                if let Ok((stream, _peer)) = accepted {
                    let render = Arc::clone(&render);
                    clients.spawn(tokio::time::timeout(TIME_MAX, answer(stream, render)));
                }
            }
        }
    }
    clients.shutdown().await;
}

async fn answer(mut stream: TcpStream, render: Render) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let response = if head.starts_with(b"GET /metrics ") {
        let body = render();
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    } else {
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
    };
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn metrics_are_served_and_nothing_else_is() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let render: Render = Arc::new(|| "tidemark_alerts 0\n# EOF\n".to_owned());
        let server = tokio::spawn(serve(listener, render, stop.clone()));
        let text = get(address, "/metrics").await;
        assert!(
            text.starts_with("HTTP/1.1 200") && text.ends_with("# EOF\n"),
            "{text}"
        );
        assert!(
            get(address, "/etc/passwd")
                .await
                .starts_with("HTTP/1.1 404")
        );
        stop.cancel();
        server.await.unwrap();
    }
}
