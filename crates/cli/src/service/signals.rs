//! Signals of a daemon: SIGTERM and SIGINT ask it to stop, SIGHUP to read again what may have changed.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The first of SIGTERM and SIGINT cancels the first token, the next one the second.
///
/// # Errors
/// The system refuses handlers.
pub fn stop(tokens: [CancellationToken; 2]) -> io::Result<JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::spawn(async move {
        for token in tokens {
            tokio::select! {
                biased;
                _received = terminate.recv() => {}
                _received = interrupt.recv() => {}
            }
            token.cancel();
        }
    }))
}

/// Each SIGHUP is handed on; unheard, it would end the process.
///
/// # Errors
/// The system refuses handlers.
pub fn hang_up(reload: Arc<Notify>) -> io::Result<JoinHandle<()>> {
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            reload.notify_one();
        }
    }))
}
