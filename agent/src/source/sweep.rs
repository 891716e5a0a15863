//! Writes a source's record, and sweeps from its spool what the record covers and nobody needs.
//!
//! **Invariant.** The record on disk covers every item that is removed.
//!
//! Removing a thousand small files takes seconds on some disks: it is done beside everything else, one
//! sweep at a time, so that no cut and no commit waits for it. A driver that ends waits for its last.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::driver::Driver;
use crate::state::Order;
use crate::{AgentError, Result, policy};

/// How often the record is written while it changes; the spool keeps what it covers until then.
const FLUSH_EVERY: Duration = Duration::from_secs(5);
/// How often it is written while the spool is short of room.
const FLUSH_EVERY_SHORT: Duration = Duration::from_millis(250);

/// A sweep under way.
#[derive(Debug)]
pub(super) struct Sweep {
    until: Order,
    task: JoinHandle<Result<()>>,
}

/// A sweep that has ended.
#[derive(Debug)]
pub(super) struct Swept {
    until: Order,
    result: Result<()>,
}

impl Sweep {
    /// Waits for the end of the one under way; for ever if there is none.
    pub(super) async fn end(running: &mut Option<Self>) -> Swept {
        let Some(sweep) = running else {
            return std::future::pending().await;
        };
        let ended = (&mut sweep.task).await;
        let until = sweep.until;
        *running = None;
        let result = ended.unwrap_or_else(|error| {
            Err(AgentError::Io {
                action: "remove what every region has",
                source: std::io::Error::other(error),
            })
        });
        Swept { until, result }
    }
}

impl Driver {
    pub(super) const fn flush_every(&self) -> Duration {
        if self.room_at.is_some() {
            FLUSH_EVERY_SHORT
        } else {
            FLUSH_EVERY
        }
    }

    /// Writes the record and begins to sweep. Whether the record was written.
    pub(super) async fn flush(&mut self) -> bool {
        self.flushed_at = self.now();
        self.dirty = false;
        let path = self.shared.state.record(&self.record.source);
        let bytes = self.record.to_bytes();
        let needed = self
            .unsynced
            .front()
            .map_or(self.record.next_order, |(_, order)| *order);
        let until = self.record.settled().min(needed);
        let write = move || {
            tidemark_host::files::write_atomic(&path, &bytes, tidemark_host::files::PRIVATE)
        };
        match self.blocking("write the record", write).await {
            Ok(Ok(())) => {
                self.clear("state.write");
                self.sweep(until);
                true
            }
            Ok(Err(error)) => {
                self.dirty = true;
                self.alert("state.write", &policy::with_causes(&error));
                false
            }
            Err(error) => {
                tracing::debug!(error = %error, "the record is not written");
                false
            }
        }
    }

    /// The last flush: nothing that could go is left behind.
    pub(super) async fn flush_all(&mut self) {
        self.end_sweep().await;
        self.flush().await;
        self.end_sweep().await;
    }

    /// Whether items are being removed: there may soon be more room.
    pub(super) const fn sweeps(&self) -> bool {
        self.sweep.is_some()
    }

    /// Removes the items before `until`, unless others are still being removed: the next flush does it.
    fn sweep(&mut self, until: Order) {
        if self.sweep.is_some() {
            self.dirty = true;
            return;
        }
        let from = self.removed;
        if from >= until {
            return;
        }
        let (spool, disk) = (Arc::clone(&self.parts.spool), self.shared.disk.clone());
        let task = tokio::spawn(async move {
            let work = move || -> Result<()> {
                for order in from..until {
                    spool.remove_if_there(order)?;
                }
                Ok(())
            };
            disk.run("remove what every region has", work).await?
        });
        self.sweep = Some(Sweep { until, task });
    }

    async fn end_sweep(&mut self) {
        if self.sweep.is_some() {
            let swept = Sweep::end(&mut self.sweep).await;
            self.on_swept(swept);
        }
    }

    pub(super) fn on_swept(&mut self, swept: Swept) {
        match swept.result {
            Ok(()) => {
                for order in self.removed..swept.until {
                    self.shared.items.forget(&self.record.source, order);
                }
                self.removed = self.removed.max(swept.until);
            }
            Err(error) => {
                self.dirty = true;
                self.alert("state.write", &policy::with_causes(&error));
            }
        }
    }
}
