//! At most so many operations at a time on one store; the rest wait in order of arrival.
//!
//! A store that hangs holds its permits until its own timeouts end the attempt, so a limit never
//! outlives what is inside it. Several stores may share one semaphore.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_format::{Key, PutId};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    CreateStore, Created, DeleteStore, ListPage, ObjectInfo, Probe, ProbeReport, ReadStore, Result,
    Version,
};

/// A store behind a concurrency limit.
#[derive(Debug, Clone)]
pub struct Limited<S> {
    inner: S,
    permits: Arc<Semaphore>,
}

impl<S> Limited<S> {
    /// Lets `at_once` operations (at least one) into `inner`.
    #[must_use]
    pub fn new(inner: S, at_once: usize) -> Self {
        Self::sharing(inner, Arc::new(Semaphore::new(at_once.max(1))))
    }

    /// Shares `permits` with other stores.
    #[must_use]
    pub const fn sharing(inner: S, permits: Arc<Semaphore>) -> Self {
        Self { inner, permits }
    }

    /// Waits for a place. Nobody closes the semaphore; if somebody did, going on unlimited is
    /// better than never shipping again.
    async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }
}

#[async_trait]
impl<S: ReadStore> ReadStore for Limited<S> {
    async fn get(&self, key: &Key) -> Result<Bytes> {
        let _permit = self.enter().await;
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let _permit = self.enter().await;
        self.inner.get_range(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        let _permit = self.enter().await;
        self.inner.head(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&Key>,
        limit: usize,
    ) -> Result<ListPage> {
        let _permit = self.enter().await;
        self.inner.list(prefix, start_after, limit).await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let _permit = self.enter().await;
        self.inner.folders(prefix).await
    }

    async fn versions(&self, key: &Key) -> Result<Vec<Version>> {
        let _permit = self.enter().await;
        self.inner.versions(key).await
    }
}

#[async_trait]
impl<S: CreateStore> CreateStore for Limited<S> {
    async fn create(&self, key: &Key, body: Bytes, put: &PutId) -> Result<Created> {
        let _permit = self.enter().await;
        self.inner.create(key, body, put).await
    }
}

#[async_trait]
impl<S: DeleteStore> DeleteStore for Limited<S> {
    async fn delete(&self, key: &Key) -> Result<()> {
        let _permit = self.enter().await;
        self.inner.delete(key).await
    }
}

#[async_trait]
impl<S: Probe> Probe for Limited<S> {
    async fn probe(&self, put: &PutId) -> Result<ProbeReport> {
        let _permit = self.enter().await;
        self.inner.probe(put).await
    }
}
