//! Shared stores are stores: the traits for `Arc`, so that wrappers stack on what is opened once.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::SignedDuration;
use tidemark_format::{Key, PutId};

use crate::{
    CreateStore, Created, DeleteStore, ListPage, ObjectInfo, Probe, ProbeReport, ReadStore, Result,
    Version, Witness,
};

#[async_trait]
impl<S: ReadStore + ?Sized> ReadStore for Arc<S> {
    async fn get(&self, key: &Key) -> Result<Bytes> {
        (**self).get(key).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        (**self).get_range(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        (**self).head(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&Key>,
        limit: usize,
    ) -> Result<ListPage> {
        (**self).list(prefix, start_after, limit).await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        (**self).folders(prefix).await
    }

    async fn versions(&self, key: &Key) -> Result<Vec<Version>> {
        (**self).versions(key).await
    }
}

#[async_trait]
impl<S: CreateStore + ?Sized> CreateStore for Arc<S> {
    async fn create(&self, key: &Key, body: Bytes, put: &PutId) -> Result<Created> {
        (**self).create(key, body, put).await
    }
}

#[async_trait]
impl<S: DeleteStore + ?Sized> DeleteStore for Arc<S> {
    async fn delete(&self, key: &Key) -> Result<()> {
        (**self).delete(key).await
    }
}

impl<S: Witness + ?Sized> Witness for Arc<S> {
    fn date_offset(&self) -> Option<SignedDuration> {
        (**self).date_offset()
    }
}

#[async_trait]
impl<S: Probe + ?Sized> Probe for Arc<S> {
    async fn probe(&self, put: &PutId) -> Result<ProbeReport> {
        (**self).probe(put).await
    }
}
