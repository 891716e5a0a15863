//! Counts requests, bytes, errors and time of one store. Reading the counts never blocks a request.
//!
//! A [`Meter`] is shared by the readers and creators of one region; its snapshot feeds `status` and
//! the metrics endpoint.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_format::{Key, PutId};
use tidemark_host::{Clock, Monotonic};

use crate::{
    CreateStore, Created, DeleteStore, ErrorKind, ListPage, ObjectInfo, Op, Probe, ProbeReport,
    ReadStore, Result, Version,
};

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    busy_micros: AtomicU64,
    slowest_micros: AtomicU64,
}

/// The counters of one store.
#[derive(Debug)]
pub struct Meter {
    clock: Arc<dyn Clock>,
    counters: [Counters; Op::ALL.len()],
    in_flight: AtomicU64,
}

/// One operation's counts since the meter was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpCount {
    /// Which operation.
    pub op: Op,
    /// Calls that ended.
    pub requests: u64,
    /// Of these, the ones that failed; "missing" and "exists" are answers, not failures.
    pub errors: u64,
    /// Bytes of bodies moved by the ones that succeeded.
    pub bytes: u64,
    /// Their time in all.
    pub busy: Duration,
    /// The longest one.
    pub slowest: Duration,
}

/// What a meter showed at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeterSnapshot {
    /// By operation, in the order of [`Op::ALL`].
    pub ops: Vec<OpCount>,
    /// Calls that have begun and not ended.
    pub in_flight: u64,
}

impl MeterSnapshot {
    /// Calls of all kinds that ended.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.ops.iter().map(|count| count.requests).sum()
    }

    /// The counts of `op`.
    #[must_use]
    pub fn of(&self, op: Op) -> Option<&OpCount> {
        self.ops.iter().find(|count| count.op == op)
    }
}

impl Meter {
    /// A meter at zero.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            counters: Default::default(),
            in_flight: AtomicU64::new(0),
        })
    }

    /// What has been counted so far.
    #[must_use]
    pub fn snapshot(&self) -> MeterSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let ops = Op::ALL
            .iter()
            .zip(&self.counters)
            .map(|(op, counters)| OpCount {
                op: *op,
                requests: load(&counters.requests),
                errors: load(&counters.errors),
                bytes: load(&counters.bytes),
                busy: Duration::from_micros(load(&counters.busy_micros)),
                slowest: Duration::from_micros(load(&counters.slowest_micros)),
            });
        MeterSnapshot {
            ops: ops.collect(),
            in_flight: load(&self.in_flight),
        }
    }

    fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight {
            meter: self,
            began: self.clock.monotonic(),
        }
    }
}

/// A call under way; dropping it (also by cancellation) takes it out of the count.
struct InFlight<'a> {
    meter: &'a Meter,
    began: Monotonic,
}

impl InFlight<'_> {
    fn end<T>(&self, op: Op, result: &Result<T>, bytes: usize) {
        let at = Op::ALL.iter().position(|other| *other == op);
        let Some(counters) = at.and_then(|at| self.meter.counters.get(at)) else {
            return;
        };
        let took = self.meter.clock.monotonic().since(self.began);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        counters.requests.fetch_add(1, Ordering::Relaxed);
        counters.busy_micros.fetch_add(micros, Ordering::Relaxed);
        counters.slowest_micros.fetch_max(micros, Ordering::Relaxed);
        match result {
            Ok(_) => {
                counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), ErrorKind::Missing | ErrorKind::Exists) => {}
            Err(_) => {
                counters.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.meter.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A store that is counted.
#[derive(Debug, Clone)]
pub struct Metered<S> {
    inner: S,
    meter: Arc<Meter>,
}

impl<S> Metered<S> {
    /// Counts what goes through `inner` in `meter`.
    #[must_use]
    pub const fn new(inner: S, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }

    async fn count<T: Send>(
        &self,
        op: Op,
        call: impl Future<Output = Result<T>> + Send,
        bytes: impl FnOnce(&T) -> usize + Send,
    ) -> Result<T> {
        let running = self.meter.begin();
        let result = call.await;
        let moved = result.as_ref().map_or(0, bytes);
        running.end(op, &result, moved);
        result
    }
}

#[async_trait]
impl<S: ReadStore> ReadStore for Metered<S> {
    async fn get(&self, key: &Key) -> Result<Bytes> {
        self.count(Op::Get, self.inner.get(key), Bytes::len).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.count(Op::Get, self.inner.get_range(key, range), Bytes::len)
            .await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        self.count(Op::Head, self.inner.head(key), |_| 0).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&Key>,
        limit: usize,
    ) -> Result<ListPage> {
        self.count(Op::List, self.inner.list(prefix, start_after, limit), |_| 0)
            .await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.count(Op::List, self.inner.folders(prefix), |_| 0)
            .await
    }

    async fn versions(&self, key: &Key) -> Result<Vec<Version>> {
        self.count(Op::List, self.inner.versions(key), |_| 0).await
    }
}

#[async_trait]
impl<S: CreateStore> CreateStore for Metered<S> {
    async fn create(&self, key: &Key, body: Bytes, put: &PutId) -> Result<Created> {
        let size = body.len();
        self.count(Op::Create, self.inner.create(key, body, put), |_| size)
            .await
    }
}

#[async_trait]
impl<S: DeleteStore> DeleteStore for Metered<S> {
    async fn delete(&self, key: &Key) -> Result<()> {
        self.count(Op::Delete, self.inner.delete(key), |()| 0).await
    }
}

#[async_trait]
impl<S: Probe> Probe for Metered<S> {
    async fn probe(&self, put: &PutId) -> Result<ProbeReport> {
        self.count(Op::Probe, self.inner.probe(put), |_| 0).await
    }
}
