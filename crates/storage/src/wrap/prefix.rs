//! A store narrowed to the keys below a prefix, which its user doesn't see.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_format::{IdError, Key, PutId};

use crate::{
    CreateStore, Created, DeleteStore, Error, ListEntry, ListPage, ObjectInfo, Place, ReadStore,
    Result, Version,
};

/// What is below one prefix of a store.
#[derive(Debug, Clone)]
pub struct Prefixed<S> {
    inner: S,
    /// Ends in `/`.
    prefix: String,
}

impl<S> Prefixed<S> {
    /// Narrows `inner` to what is below `prefix`, a folder's name without the last `/`.
    ///
    /// # Errors
    /// When `prefix` is no valid key.
    pub fn new(inner: S, prefix: &str) -> std::result::Result<Self, IdError> {
        let folder = Key::new(prefix)?;
        Ok(Self {
            inner,
            prefix: format!("{folder}/"),
        })
    }

    fn full(&self, key: &Key) -> Result<Key> {
        Key::new(format!("{}{key}", self.prefix)).map_err(|error| {
            Error::invalid(
                &Place::new(&self.prefix),
                "a key below this prefix is too long",
                Some(std::sync::Arc::new(error)),
            )
        })
    }
}

#[async_trait]
impl<S: ReadStore> ReadStore for Prefixed<S> {
    async fn get(&self, key: &Key) -> Result<Bytes> {
        self.inner.get(&self.full(key)?).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.inner.get_range(&self.full(key)?, range).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        self.inner.head(&self.full(key)?).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&Key>,
        limit: usize,
    ) -> Result<ListPage> {
        let after = start_after.map(|key| self.full(key)).transpose()?;
        let wanted = format!("{}{prefix}", self.prefix);
        let page = self.inner.list(&wanted, after.as_ref(), limit).await?;
        let entries = page.entries.into_iter().filter_map(|entry| {
            let key = Key::new(entry.key.as_str().strip_prefix(&self.prefix)?).ok()?;
            Some(ListEntry { key, ..entry })
        });
        Ok(ListPage {
            entries: entries.collect(),
            more: page.more,
        })
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.inner
            .folders(&format!("{}{prefix}", self.prefix))
            .await
    }

    async fn versions(&self, key: &Key) -> Result<Vec<Version>> {
        self.inner.versions(&self.full(key)?).await
    }
}

#[async_trait]
impl<S: CreateStore> CreateStore for Prefixed<S> {
    async fn create(&self, key: &Key, body: Bytes, put: &PutId) -> Result<Created> {
        self.inner.create(&self.full(key)?, body, put).await
    }
}

#[async_trait]
impl<S: DeleteStore> DeleteStore for Prefixed<S> {
    async fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(&self.full(key)?).await
    }
}
