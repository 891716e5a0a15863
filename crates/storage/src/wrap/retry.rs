//! Tries again when a store didn't answer, with exponential backoff and full jitter.
//!
//! Only [`ErrorKind::Unreachable`] is tried again: it covers lost connections, timeouts, 5xx,
//! throttling and the 409 of a conditional put. Trying a create again is safe because the put-id
//! stays the same. "Full", "denied" and "missing" don't get better by waiting here; the owner of
//! the outage (the shipper) decides when to come back.
//!
//! **Cancellation:** dropping the future ends the waiting. The total is bounded by the policy's
//! number of tries, each bounded by the store's own timeouts.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_format::{Key, PutId};
use tidemark_host::{Rng, RngExt};

use crate::{
    CreateStore, Created, DeleteStore, ErrorKind, ListPage, ObjectInfo, Probe, ProbeReport,
    ReadStore, Result, Version,
};

/// How often and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first included; at least one.
    pub tries_max: u32,
    /// The longest first wait; it doubles with every try.
    pub first_wait_max: Duration,
    /// The longest wait.
    pub wait_max: Duration,
}

impl RetryPolicy {
    /// For an interactive or shipping path: about ten seconds of waiting at most.
    pub const STANDARD: Self = Self {
        tries_max: 6,
        first_wait_max: Duration::from_millis(200),
        wait_max: Duration::from_secs(5),
    };

    /// One try: for callers with a retry loop of their own.
    pub const NONE: Self = Self {
        tries_max: 1,
        ..Self::STANDARD
    };

    /// The wait before try `done + 1`: anything between nothing and the doubled bound, so that
    /// many agents that lost one store don't come back together.
    fn wait(&self, done: u32, rng: &dyn Rng) -> Duration {
        let doubled = self
            .first_wait_max
            .saturating_mul(1_u32.checked_shl(done - 1).unwrap_or(u32::MAX));
        let bound = doubled.min(self.wait_max);
        let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(rng.below(micros.saturating_add(1)))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::STANDARD
    }
}

/// A store that is tried again.
#[derive(Debug, Clone)]
pub struct Retrying<S> {
    inner: S,
    policy: RetryPolicy,
    rng: Arc<dyn Rng>,
}

impl<S> Retrying<S> {
    /// Tries `inner` again as `policy` says; `rng` draws the jitter.
    #[must_use]
    pub const fn new(inner: S, policy: RetryPolicy, rng: Arc<dyn Rng>) -> Self {
        Self { inner, policy, rng }
    }

    async fn retry<T, F>(&self, mut attempt: impl FnMut() -> F + Send) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let mut done = 0_u32;
        loop {
            let result = attempt().await;
            done = done.saturating_add(1);
            match result {
                Err(error)
                    if error.kind() == ErrorKind::Unreachable && done < self.policy.tries_max =>
                {
                    tracing::debug!(error = %error, tries = done, "store will be tried again");
                    tokio::time::sleep(self.policy.wait(done, &*self.rng)).await;
                }
                result => return result,
            }
        }
    }
}

#[async_trait]
impl<S: ReadStore> ReadStore for Retrying<S> {
    async fn get(&self, key: &Key) -> Result<Bytes> {
        self.retry(|| self.inner.get(key)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.retry(|| self.inner.get_range(key, range.clone()))
            .await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        self.retry(|| self.inner.head(key)).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&Key>,
        limit: usize,
    ) -> Result<ListPage> {
        self.retry(|| self.inner.list(prefix, start_after, limit))
            .await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.retry(|| self.inner.folders(prefix)).await
    }

    async fn versions(&self, key: &Key) -> Result<Vec<Version>> {
        self.retry(|| self.inner.versions(key)).await
    }
}

#[async_trait]
impl<S: CreateStore> CreateStore for Retrying<S> {
    async fn create(&self, key: &Key, body: Bytes, put: &PutId) -> Result<Created> {
        self.retry(|| self.inner.create(key, body.clone(), put))
            .await
    }
}

#[async_trait]
impl<S: DeleteStore> DeleteStore for Retrying<S> {
    async fn delete(&self, key: &Key) -> Result<()> {
        self.retry(|| self.inner.delete(key)).await
    }
}

#[async_trait]
impl<S: Probe> Probe for Retrying<S> {
    async fn probe(&self, put: &PutId) -> Result<ProbeReport> {
        self.retry(|| self.inner.probe(put)).await
    }
}

#[cfg(test)]
mod tests {
    use tidemark_host::TestRng;

    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_never_pass_it() {
        let rng = TestRng::seeded(1);
        let policy = RetryPolicy::STANDARD;
        for done in 1..100 {
            assert!(policy.wait(done, &rng) <= policy.wait_max);
        }
        let longest = (0..200).map(|_| policy.wait(1, &rng)).max();
        assert!(longest <= Some(policy.first_wait_max));
        assert!(
            longest > Some(policy.first_wait_max / 2),
            "jitter uses the whole range"
        );
    }
}
