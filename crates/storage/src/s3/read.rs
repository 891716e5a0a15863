//! Reading: whole objects, ranges, sizes, listings.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::{Bytes, BytesMut};
use tidemark_format::{Key, PutId};

use super::observe::is_error_document;
use super::{Inner, S3Store, Versioning, errors, timestamp};
use crate::{
    Error, ErrorKind, ListEntry, ListPage, OBJECT_BYTES_MAX, ObjectInfo, Op, ReadMode, ReadStore,
    Result, Version,
};

/// S3 never returns more keys at a time.
pub(super) const PAGE_KEYS_MAX: usize = 1000;

/// The metadata entry that holds the put-id.
pub(super) const PUT_ID: &str = "put-id";

/// Bytes in front of a body that can be an error document.
const ERROR_DOCUMENT_BYTES_MAX: usize = 16 << 10;

impl Inner {
    /// One GET; `None` when the range starts past the object's end.
    async fn get_once(
        &self,
        key: &Key,
        version: Option<&str>,
        range: Option<&Range<u64>>,
    ) -> Result<Option<Bytes>> {
        let asked = range.map_or(0, |range| range.end.saturating_sub(range.start));
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .set_version_id(version.map(str::to_owned))
            .set_range(range.map(|r| format!("bytes={}-{}", r.start, r.end.saturating_sub(1))));
        let call = Box::pin(request.send());
        let answer = self
            .attempt(Op::Get, key.as_str(), asked.min(OBJECT_BYTES_MAX), async {
                Ok(call.await)
            })
            .await?;
        let output = match answer {
            Ok(output) => output,
            Err(error) => {
                let past_end = errors::answer(&error).is_some_and(|answer| answer.status == 416);
                if range.is_some() && past_end {
                    return Ok(None);
                }
                return Err(errors::sort(&self.place, Op::Get, key.as_str(), error));
            }
        };
        self.saw_version(output.version_id());
        let size = self.checked_size(key, &output)?;
        self.attempt(
            Op::Get,
            key.as_str(),
            size,
            Box::pin(self.body(key, size, output)),
        )
        .await
        .map(Some)
    }

    fn checked_size(&self, key: &Key, output: &GetObjectOutput) -> Result<u64> {
        let size = output
            .content_length()
            .and_then(|size| u64::try_from(size).ok());
        match size {
            Some(size) if size <= OBJECT_BYTES_MAX => Ok(size),
            Some(size) => Err(Error::Corrupt {
                place: self.place.clone(),
                key: key.to_string(),
                why: format!("{size} bytes, more than any object of ours has"),
            }),
            None => Err(Error::unreachable(
                &self.place,
                Op::Get,
                key.as_str(),
                "the answer does not say how long it is",
                None,
            )),
        }
    }

    async fn body(&self, key: &Key, size: u64, mut output: GetObjectOutput) -> Result<Bytes> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let cut =
            |why: &str, source| Error::unreachable(&self.place, Op::Get, key.as_str(), why, source);
        let mut bytes = BytesMut::with_capacity(size);
        while let Some(chunk) = output.body.next().await {
            let chunk = chunk.map_err(|error| {
                cut("the connection broke off in a body", Some(Arc::new(error)))
            })?;
            if bytes.len().saturating_add(chunk.len()) > size {
                return Err(cut("more bytes came than were announced", None));
            }
            bytes.extend_from_slice(&chunk);
        }
        if bytes.len() != size {
            return Err(cut("fewer bytes came than were announced", None));
        }
        if size <= ERROR_DOCUMENT_BYTES_MAX && is_error_document(&bytes) {
            return Err(cut(
                "it said 200 and sent an error instead of the object",
                None,
            ));
        }
        Ok(bytes.freeze())
    }

    async fn head_once(&self, key: &Key, version: Option<&str>) -> Result<ObjectInfo> {
        let request = self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .set_version_id(version.map(str::to_owned));
        let call = Box::pin(request.send());
        let output = self
            .attempt(Op::Head, key.as_str(), 0, async {
                call.await
                    .map_err(|error| errors::sort(&self.place, Op::Head, key.as_str(), error))
            })
            .await?;
        self.saw_version(output.version_id());
        let put_id = output.metadata().and_then(|all| all.get(PUT_ID));
        let size = output
            .content_length()
            .and_then(|size| u64::try_from(size).ok());
        Ok(ObjectInfo {
            size: size.unwrap_or(0),
            modified: timestamp(output.last_modified()),
            put_id: put_id.and_then(|text| text.parse::<PutId>().ok()),
        })
    }

    /// A plain HEAD. Its 404 has no body, so it doesn't tell a missing object from a missing
    /// bucket: "missing" is said only after a GET has said so, too.
    pub(super) async fn head_plain(&self, key: &Key) -> Result<ObjectInfo> {
        match self.head_once(key, None).await {
            Err(Error::Missing { .. }) => match self.get_once(key, None, Some(&(0..1))).await {
                Ok(_) => self.head_once(key, None).await,
                Err(error) => Err(error),
            },
            result => result,
        }
    }

    /// Whether first versions are wanted and may exist.
    fn looks_for_first(&self) -> bool {
        self.mode == ReadMode::OldestVersion && self.versioning() != Versioning::NotKept
    }

    /// Reads with the first version of `key` where versions are kept.
    async fn get_chosen(&self, key: &Key, range: Option<&Range<u64>>) -> Result<Option<Bytes>> {
        if self.mode == ReadMode::Plain {
            return self.get_once(key, None, range).await;
        }
        if self.versioning() != Versioning::Kept {
            // The answer shows whether the bucket keeps versions; most often that is all there is
            // to it. A missing object may be one that a later deletion marker hides.
            match self.get_once(key, None, range).await {
                Ok(bytes) if self.versioning() != Versioning::Kept => return Ok(bytes),
                Err(error) if error.kind() != ErrorKind::Missing => return Err(error),
                _ => {}
            }
        }
        match self.first_version(key).await? {
            Some(version) => self.get_once(key, Some(&version), range).await,
            None => self.get_once(key, None, range).await,
        }
    }

    /// One page of a plain listing; the continuation token of the next.
    async fn list_once(
        &self,
        prefix: &str,
        start_after: Option<&Key>,
        token: Option<String>,
        keys_max: usize,
    ) -> Result<(Vec<ListEntry>, Option<String>)> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(format!("{}{prefix}", self.prefix))
            .set_start_after(start_after.map(|key| self.name(key)))
            .set_continuation_token(token)
            .max_keys(i32::try_from(keys_max.min(PAGE_KEYS_MAX)).unwrap_or(1000));
        let call = Box::pin(request.send());
        let output = self
            .attempt(Op::List, prefix, 0, async {
                call.await
                    .map_err(|error| errors::sort(&self.place, Op::List, prefix, error))
            })
            .await
            .map_err(|error| self.list_error(prefix, error))?;
        let entries = output.contents().iter().filter_map(|object| {
            let name = object.key()?.strip_prefix(&self.prefix)?;
            Some(ListEntry {
                key: Key::new(name).ok()?,
                size: object
                    .size()
                    .and_then(|size| u64::try_from(size).ok())
                    .unwrap_or(0),
                modified: timestamp(object.last_modified()),
            })
        });
        let entries = entries.collect();
        let more = output.is_truncated().unwrap_or(false);
        Ok((entries, output.next_continuation_token.filter(|_| more)))
    }

    /// A listing has no object to be missing: a 404 concerns the bucket.
    fn list_error(&self, prefix: &str, error: Error) -> Error {
        if error.kind() == ErrorKind::Missing {
            return Error::invalid(
                &self.place,
                format!("listing {prefix} found no bucket"),
                None,
            );
        }
        error
    }

    /// The folders directly below `prefix`, by S3's delimiter.
    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let full = format!("{}{prefix}", self.prefix);
        let mut folders = BTreeSet::new();
        let mut token = None;
        loop {
            let request = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(&full)
                .delimiter("/")
                .set_continuation_token(token);
            let call = Box::pin(request.send());
            let output = self
                .attempt(Op::List, prefix, 0, async {
                    call.await
                        .map_err(|error| errors::sort(&self.place, Op::List, prefix, error))
                })
                .await
                .map_err(|error| self.list_error(prefix, error))?;
            let names = output.common_prefixes().iter().filter_map(|common| {
                let name = common.prefix()?.strip_prefix(&full)?;
                Some(name.trim_end_matches('/').to_owned())
            });
            folders.extend(names);
            let more = output.is_truncated().unwrap_or(false);
            token = output.next_continuation_token.filter(|_| more);
            if token.is_none() {
                return Ok(folders.into_iter().collect());
            }
        }
    }

    async fn list_plain(
        &self,
        prefix: &str,
        start_after: Option<&Key>,
        limit: usize,
    ) -> Result<ListPage> {
        let limit = limit.max(1);
        let mut page = ListPage::default();
        let mut token = None;
        loop {
            let wanted = limit.saturating_sub(page.entries.len());
            let after = if token.is_none() { start_after } else { None };
            let (entries, next) = self.list_once(prefix, after, token, wanted).await?;
            page.entries.extend(entries);
            page.more = next.is_some();
            if page.entries.len() >= limit || next.is_none() {
                return Ok(page);
            }
            token = next;
        }
    }
}

#[async_trait]
impl ReadStore for S3Store {
    async fn get(&self, key: &Key) -> Result<Bytes> {
        let bytes = self.inner.get_chosen(key, None).await?;
        Ok(bytes.unwrap_or_default())
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let bytes = self.inner.get_chosen(key, Some(&range)).await?;
        Ok(bytes.unwrap_or_default())
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        let inner = &self.inner;
        if inner.looks_for_first()
            && let Some(version) = inner.first_version(key).await?
        {
            return inner.head_once(key, Some(&version)).await;
        }
        inner.head_plain(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&Key>,
        limit: usize,
    ) -> Result<ListPage> {
        let inner = &self.inner;
        if inner.looks_for_first()
            && let Some(page) = inner
                .list_first_versions(prefix, start_after, limit)
                .await?
        {
            return Ok(page);
        }
        inner.list_plain(prefix, start_after, limit).await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.inner.folders(prefix).await
    }

    async fn versions(&self, key: &Key) -> Result<Vec<Version>> {
        self.inner.versions_of(key).await
    }
}
