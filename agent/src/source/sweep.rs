//! Writes a source's record, and sweeps from its spool what the record covers and nobody needs.
//!
//! **Invariant.** The record on disk covers every item that is removed.
//!
//! Removing a thousand small files takes seconds on some disks: it is done beside everything else, one
//! sweep at a time, so that no cut and no commit waits for it. A driver that ends waits for its last.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::driver::Driver;
use crate::disk::Disk;
use crate::state::{Order, Spool};
use crate::{AgentError, Result, policy};

/// How often the record is written while it changes; the spool keeps what it covers until then.
const FLUSH_EVERY: Duration = Duration::from_secs(5);
/// How often it is written while the spool is short of room.
const FLUSH_EVERY_SHORT: Duration = Duration::from_millis(250);

const ACTION: &str = "remove what every region has";

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

/// Up to which item the spool may be emptied: what is `settled` in every region and whose record the
/// engine doesn't need any more (the first that it may need is `needed`), and nothing that is not there.
fn removable(settled: Order, needed: Option<Order>, next: Order) -> Order {
    settled.min(needed.unwrap_or(next))
}

impl Sweep {
    /// Begins to remove items, of which some may be gone already.
    fn begin(spool: Arc<Spool>, disk: Disk, orders: Range<Order>) -> Self {
        let until = orders.end;
        let task = tokio::spawn(async move {
            let work = move || -> Result<()> {
                for order in orders {
                    spool.remove_if_there(order)?;
                }
                Ok(())
            };
            disk.run(ACTION, work).await?
        });
        Self { until, task }
    }

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
                action: ACTION,
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
        let needed = self.unsynced.front().map(|(_, order)| *order);
        let until = removable(self.record.settled(), needed, self.record.next_order);
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
        let spool = Arc::clone(&self.parts.spool);
        self.sweep = Some(Sweep::begin(spool, self.shared.disk.clone(), from..until));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::SpoolUsage;

    /// A spool with items 1 to 5.
    fn spool(folder: &std::path::Path) -> Arc<Spool> {
        let (spool, _) = Spool::open(folder, SpoolUsage::default()).unwrap();
        for order in 1..=5 {
            spool.append(order, b"object", b"record").unwrap();
        }
        Arc::new(spool)
    }

    #[test]
    fn only_what_every_region_has_and_the_engine_does_not_need_may_go() {
        // The slowest region has settled what stands before 7; the engine may need 5 and what follows.
        assert_eq!(removable(7, Some(5), 20), 5);
        assert_eq!(removable(7, Some(9), 20), 7);
        assert_eq!(removable(7, None, 20), 7);
        // A lane may say that it is past the end: nothing is removed that comes later.
        assert_eq!(removable(25, None, 20), 20);
        assert_eq!(removable(0, Some(5), 20), 0);
    }

    #[tokio::test]
    async fn a_sweep_removes_what_it_was_told_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path());
        // One is gone already, as after a crash in the middle.
        spool.remove(2).unwrap();
        let mut running = Some(Sweep::begin(Arc::clone(&spool), Disk::default(), 1..4));
        let swept = Sweep::end(&mut running).await;
        swept.result.unwrap();
        assert_eq!(swept.until, 4);
        assert!(running.is_none(), "it has ended");
        assert_eq!(spool.list().unwrap(), [4, 5]);
    }

    #[tokio::test]
    async fn a_sweep_that_fails_says_so_and_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path());
        // What can't be removed as a file.
        spool.remove(2).unwrap();
        let item = folder.path().join(format!("{:016}", 2));
        std::fs::create_dir(&item).unwrap();
        let mut running = Some(Sweep::begin(Arc::clone(&spool), Disk::default(), 1..4));
        let swept = Sweep::end(&mut running).await;
        assert!(swept.result.is_err());
        assert!(running.is_none(), "the next flush begins another");
        // What came before it is gone, and the one behind it stays for that next one.
        assert!(spool.object(1).is_err() && spool.object(3).is_ok());
    }

    #[tokio::test]
    async fn without_a_sweep_nobody_is_told_of_an_end() {
        let soon = Duration::from_millis(20);
        let mut none = None;
        let told = tokio::time::timeout(soon, Sweep::end(&mut none)).await;
        assert!(told.is_err());
    }

    #[tokio::test]
    async fn a_sweep_whose_task_dies_is_an_error_and_no_panic() {
        let task = tokio::spawn(std::future::pending::<Result<()>>());
        task.abort();
        let mut running = Some(Sweep { until: 3, task });
        let swept = Sweep::end(&mut running).await;
        assert!(matches!(swept.result, Err(AgentError::Io { .. })));
    }
}
