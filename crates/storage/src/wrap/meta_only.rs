//! A reader narrowed to `meta/`: what the agent is given, so that it can't read data even where a
//! credential would let it (invariant 6).

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_format::Key;

use crate::{Error, ListPage, ObjectInfo, Op, Place, ReadStore, Result, Version};

/// The only part that may be read.
const META: &str = "meta/";

/// A reader of `meta/` and nothing else.
#[derive(Debug, Clone)]
pub struct MetaOnly<S> {
    inner: S,
}

impl<S> MetaOnly<S> {
    /// Narrows `inner`.
    #[must_use]
    pub const fn new(inner: S) -> Self {
        Self { inner }
    }
}

fn check(op: Op, key: &str) -> Result<()> {
    if key.starts_with(META) {
        return Ok(());
    }
    Err(Error::Denied {
        place: Place::new("the agent's view of a region, narrowed to meta/,"),
        op,
        key: key.to_owned(),
        source: None,
    })
}

#[async_trait]
impl<S: ReadStore> ReadStore for MetaOnly<S> {
    async fn get(&self, key: &Key) -> Result<Bytes> {
        check(Op::Get, key.as_str())?;
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        check(Op::Get, key.as_str())?;
        self.inner.get_range(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        check(Op::Head, key.as_str())?;
        self.inner.head(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&Key>,
        limit: usize,
    ) -> Result<ListPage> {
        check(Op::List, prefix)?;
        self.inner.list(prefix, start_after, limit).await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        check(Op::List, prefix)?;
        self.inner.folders(prefix).await
    }

    async fn versions(&self, key: &Key) -> Result<Vec<Version>> {
        check(Op::List, key.as_str())?;
        self.inner.versions(key).await
    }
}
