//! Blocking work on files: a few at a time, so that a hundred sources don't start a hundred threads.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::{AgentError, Result};

/// Pieces of blocking work at a time: what a disk can sync side by side, not one thread per source.
const AT_ONCE: usize = 8;

/// Where blocking work on files is done.
#[derive(Debug, Clone)]
pub struct Disk {
    permits: Arc<Semaphore>,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Disk {
    /// Does `work` on a thread where blocking is allowed, when its turn comes.
    ///
    /// # Errors
    /// Only when the runtime stops; `action` says what was not done.
    pub async fn run<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        // Nobody closes the semaphore; if somebody did, unlimited is better than never.
        let _permit = self.permits.acquire().await.ok();
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| AgentError::Io {
                action,
                source: std::io::Error::other(error),
            })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_few_pieces_of_work_run_at_a_time() {
        let disk = Disk::default();
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = (0..100).map(|_| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            disk.run("test", move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
            })
        });
        for done in futures_util::future::join_all(work).await {
            done.unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= AT_ONCE);
    }
}
