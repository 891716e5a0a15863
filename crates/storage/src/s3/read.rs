//! Reading: whole objects, ranges, sizes, listings.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::Bytes;
use tidemark_format::{Key, PutId};

use super::observe::{is_error_document, is_web_page};
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

/// A listing that is cut and doesn't say where it goes on.
const NO_ONWARD: &str = "it said that its listing goes on, and not where";

/// How a listing goes on after a page.
enum Onward {
    /// There is no more.
    End,
    /// With this token.
    Token(String),
    /// There is more, and the server doesn't say how to have it.
    Unsaid,
}

/// Whether a content coding means other bytes than those stored.
fn is_changed(coding: &str) -> bool {
    !matches!(coding.trim(), "" | "identity" | "aws-chunked")
}

/// The bytes of `range` out of a whole object; `None` when it starts past the end.
fn cut_out(whole: &Bytes, range: &Range<u64>) -> Option<Bytes> {
    let start = usize::try_from(range.start).unwrap_or(usize::MAX);
    let end = usize::try_from(range.end).unwrap_or(usize::MAX);
    (start < whole.len()).then(|| whole.slice(start..end.min(whole.len())))
}

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
        let partial = output.content_range().is_some();
        let bytes = self
            .attempt(
                Op::Get,
                key.as_str(),
                size,
                Box::pin(self.body(key, size, output)),
            )
            .await?;
        // A server, or a proxy before it, may send the whole object whatever range was asked for.
        Ok(match range {
            Some(range) if !partial => cut_out(&bytes, range),
            _ => Some(bytes),
        })
    }

    fn checked_size(&self, key: &Key, output: &GetObjectOutput) -> Result<u64> {
        let size = output
            .content_length()
            .and_then(|size| u64::try_from(size).ok());
        if let Some(coding) = output
            .content_encoding()
            .filter(|coding| is_changed(coding))
        {
            return Err(Error::unreachable(
                &self.place,
                Op::Get,
                key.as_str(),
                format!(
                    "the object came as {coding}: a proxy in between changes what is stored; \
                     let it pass these requests unchanged"
                ),
                None,
            ));
        }
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
        let mut bytes = self.buffers.take(size);
        while let Some(chunk) = output.body.next().await {
            let chunk = chunk.map_err(|error| {
                cut("the connection broke off in a body", Some(Arc::new(error)))
            })?;
            if bytes.len().saturating_add(chunk.len()) > size {
                return Err(cut("more bytes came than were announced", None));
            }
            bytes.extend_from_slice(&chunk);
            crate::arrivals::arrived(chunk.len());
        }
        if bytes.len() != size {
            return Err(cut("fewer bytes came than were announced", None));
        }
        if is_web_page(&bytes) {
            return Err(cut(
                "it answered with a web page: is endpoint=… the address of its S3 service, and is \
                 no proxy or login page in between?",
                None,
            ));
        }
        if size <= ERROR_DOCUMENT_BYTES_MAX && is_error_document(&bytes) {
            return Err(cut(
                "it said 200 and sent an error instead of the object",
                None,
            ));
        }
        Ok(self.buffers.filled(bytes))
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

    /// One page of a plain listing, and how it goes on.
    async fn list_once(
        &self,
        prefix: &str,
        start_after: Option<&Key>,
        token: Option<String>,
        keys_max: usize,
    ) -> Result<(Vec<ListEntry>, Onward)> {
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
        let onward = match (output.is_truncated(), output.next_continuation_token) {
            (Some(true), Some(token)) => Onward::Token(token),
            (Some(true), None) => Onward::Unsaid,
            (Some(false) | None, _) => Onward::End,
        };
        Ok((entries, onward))
    }

    /// A listing that leads nowhere must not pass for a whole one.
    fn lost(&self, prefix: &str, why: &str) -> Error {
        Error::unreachable(&self.place, Op::List, prefix, why, None)
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
                .set_continuation_token(token.clone());
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
            if !more {
                return Ok(folders.into_iter().collect());
            }
            let next = output.next_continuation_token;
            if next.is_none() || next == token {
                return Err(self.lost(prefix, NO_ONWARD));
            }
            token = next;
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
        let mut token: Option<String> = None;
        loop {
            let wanted = limit.saturating_sub(page.entries.len());
            let reached = page.entries.last().map(|entry| entry.key.clone());
            let reached = reached.or_else(|| start_after.cloned());
            let after = reached.as_ref().filter(|_| token.is_none());
            let asked = token.clone();
            let (mut entries, onward) = self.list_once(prefix, after, token, wanted).await?;
            let empty = entries.is_empty();
            // Some servers begin with the key after which they were asked to begin.
            entries.retain(|entry| Some(&entry.key) > reached.as_ref());
            if entries.is_empty() && !empty {
                let why = "its listing begins again instead of going on: this server can't be used";
                return Err(Error::invalid(&self.place, why, None));
            }
            page.entries.extend(entries);
            page.more = !matches!(onward, Onward::End);
            if page.entries.len() >= limit || !page.more {
                return Ok(page);
            }
            token = match onward {
                Onward::Token(next) if !(empty && asked.as_ref() == Some(&next)) => Some(next),
                // The last key says it as well as a token.
                Onward::Unsaid if !empty => None,
                _ => return Err(self.lost(prefix, NO_ONWARD)),
            };
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
