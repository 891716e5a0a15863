//! The pulse: a second, light connection that asks the server now and then up to where its log is
//! flushed.
//!
//! From that follow what is complete, and how much the slot holds. It is always connected to the very
//! server that the log streams from: another one of the same cluster may be behind it.
//!
//! **Failure.** It says nothing then, and connects again; the receiver knows why.

use std::sync::Arc;
use std::time::Duration;

use super::Limits;
use super::server::Connector;
use super::shared::Shared;
use crate::replication;
use crate::wire::{Connection, Mode};

/// It is asked no more often than this, however many ask.
const APART: Duration = Duration::from_millis(100);
/// What the server calls it, beside the stream.
const APPLICATION_NAME: &str = "tidemark pulse";
/// Whether it is a standby, as [`replication::show`] tells it.
pub(super) const IN_RECOVERY: &str = "in_hot_standby";

/// Asks the server of one source.
#[derive(Debug)]
pub(super) struct Pulse {
    pub(super) shared: Arc<Shared>,
    pub(super) connector: Connector,
    pub(super) limits: Limits,
    pub(super) keep_max: Option<u64>,
}

impl Pulse {
    /// Asks until it is dropped.
    pub(super) async fn run(self) {
        let mut connection: Option<Connection> = None;
        loop {
            tokio::select! {
                biased;
                () = self.shared.ask.notified() => {}
                () = tokio::time::sleep(self.limits.pulse_every) => {}
            }
            let Some(peer) = self.shared.lock().peer.clone() else {
                continue;
            };
            let kept = connection.take().filter(|known| known.peer() == peer);
            connection = Box::pin(self.beat(kept, &peer)).await;
            let apart = if connection.is_some() {
                APART
            } else {
                self.limits.pulse_every
            };
            tokio::time::sleep(apart).await;
        }
    }

    /// One question. The connection, if it can be used again.
    async fn beat(&self, kept: Option<Connection>, peer: &str) -> Option<Connection> {
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let mut info = self.connector.info_of(peer).ok()?;
                // Nobody's synchronous standby.
                info.application_name = Some(APPLICATION_NAME.to_owned());
                Connection::open(&info, Mode::Physical).await.ok()?
            }
        };
        self.look_whether_promoted(&mut connection).await?;
        // Before the question: what is flushed when it is answered was so afterwards at the latest.
        let asked = self.shared.clock.now();
        let answer = replication::identify(&mut connection);
        let answer = tokio::time::timeout(self.limits.answer_max, answer).await;
        let identity = answer.ok()?.ok()?;
        self.shared.pulse(identity, asked, self.keep_max);
        Some(connection)
    }

    /// A standby that is promoted goes on with the same stream: only asking tells that it is a primary.
    async fn look_whether_promoted(&self, connection: &mut Connection) -> Option<()> {
        if !self.shared.lock().is_standby() {
            return Some(());
        }
        let answer = replication::show(connection, IN_RECOVERY);
        let answer = tokio::time::timeout(self.limits.answer_max, answer).await;
        if answer.ok()?.ok()? != "on" {
            let mut inner = self.shared.lock();
            // What it said as a standby was of another server's commits.
            inner.complete.forget();
            if let Some(seen) = &mut inner.seen {
                seen.standby = false;
            }
        }
        Some(())
    }
}
