//! Versions: finding the first one of a key, whatever was written over it since.
//!
//! S3 lists a key's versions together, newest first, so the last one listed is the oldest.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use tidemark_format::Key;

use super::{FIRST_VERSIONS_MAX, Inner, errors, timestamp};
use crate::{Error, ErrorKind, ListEntry, ListPage, Op, Result, Version};

/// Pages of versions of one key that are read at most: a thief's million versions must not keep a
/// restore busy for ever.
const VERSION_PAGES_MAX: usize = 100;

/// Whether it was said already that versions can't be listed.
static SAID: AtomicBool = AtomicBool::new(false);

/// Where the next page begins.
#[derive(Debug, Clone, Default)]
struct Marker {
    key: Option<String>,
    version: Option<String>,
}

impl Inner {
    /// One page of versions whose full names begin with `prefix`.
    async fn versions_once(
        &self,
        prefix: &str,
        marker: Marker,
    ) -> Result<(ListObjectVersionsOutput, Option<Marker>)> {
        let request = self
            .client
            .list_object_versions()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_key_marker(marker.key)
            .set_version_id_marker(marker.version);
        let call = Box::pin(request.send());
        let output = self
            .attempt(Op::List, prefix, 0, async {
                call.await
                    .map_err(|error| errors::sort(&self.place, Op::List, prefix, error))
            })
            .await?;
        let next = output.is_truncated().unwrap_or(false).then(|| Marker {
            key: output.next_key_marker().map(str::to_owned),
            version: output.next_version_id_marker().map(str::to_owned),
        });
        Ok((output, next.filter(|marker| marker.key.is_some())))
    }

    /// Every version id of `key`, newest first, deletion markers apart; `None` where the store
    /// can't or won't list versions.
    async fn listed(&self, key: &Key) -> Result<Option<(Vec<Version>, Vec<String>)>> {
        let name = self.name(key);
        let (mut versions, mut markers) = (Vec::new(), Vec::new());
        let mut from = Marker::default();
        for _ in 0..VERSION_PAGES_MAX {
            let (page, next) = match self.versions_once(&name, from).await {
                Ok(page) => page,
                Err(error) if refuses(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            for found in page
                .versions()
                .iter()
                .filter(|found| found.key() == Some(&name))
            {
                versions.push(Version {
                    id: found.version_id().map(str::to_owned),
                    size: found
                        .size()
                        .and_then(|size| u64::try_from(size).ok())
                        .unwrap_or(0),
                    modified: timestamp(found.last_modified()),
                    latest: found.is_latest().unwrap_or(false),
                });
            }
            let deleted = page
                .delete_markers()
                .iter()
                .filter(|found| found.key() == Some(&name));
            markers.extend(deleted.filter_map(|found| found.version_id().map(str::to_owned)));
            match next {
                Some(marker) if marker.key.as_ref() == Some(&name) => from = marker,
                _ => return Ok(Some((versions, markers))),
            }
        }
        Err(Error::Corrupt {
            place: self.place.clone(),
            key: key.to_string(),
            why: "it has more versions than anybody honest makes".to_owned(),
        })
    }

    /// The id of the first version of `key`; `None` where no versions can be listed or none is.
    pub(super) async fn first_version(&self, key: &Key) -> Result<Option<String>> {
        let known = {
            let known = self
                .first_versions
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            known.get(key).cloned()
        };
        if known.is_some() {
            return Ok(known);
        }
        let Some((versions, _)) = self.listed(key).await? else {
            self.say_refused();
            return Ok(None);
        };
        let first = versions.last().and_then(|version| version.id.clone());
        if let Some(id) = &first {
            self.remember(key.clone(), id.clone());
        }
        Ok(first)
    }

    fn remember(&self, key: Key, id: String) {
        let mut known = self
            .first_versions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.len() >= FIRST_VERSIONS_MAX {
            known.clear();
        }
        known.insert(key, id);
    }

    fn say_refused(&self) {
        if !SAID.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                place = %self.place,
                "versions can't be listed: reading the newest ones; grant s3:ListBucketVersions so that overwrites can be undone"
            );
        }
    }

    /// A page of first versions; `None` where versions can't be listed.
    pub(super) async fn list_first_versions(
        &self,
        prefix: &str,
        start_after: Option<&Key>,
        limit: usize,
    ) -> Result<Option<ListPage>> {
        let full = format!("{}{prefix}", self.prefix);
        let mut from = Marker {
            key: start_after.map(|key| self.name(key)),
            version: None,
        };
        let mut page = ListPage::default();
        loop {
            let (output, next) = match self.versions_once(&full, from).await {
                Ok(found) => found,
                Err(error) if refuses(&error) => {
                    self.say_refused();
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            for found in output.versions() {
                let name = found.key().and_then(|name| name.strip_prefix(&self.prefix));
                let Some(key) = name.and_then(|name| Key::new(name).ok()) else {
                    continue;
                };
                // Some servers begin with the marker itself.
                if start_after == Some(&key) {
                    continue;
                }
                let entry = ListEntry {
                    key,
                    size: found
                        .size()
                        .and_then(|size| u64::try_from(size).ok())
                        .unwrap_or(0),
                    modified: timestamp(found.last_modified()),
                };
                let same = page
                    .entries
                    .last()
                    .is_some_and(|last| last.key == entry.key);
                if same {
                    page.entries.pop();
                } else if page.entries.len() >= limit.max(1) {
                    page.more = true;
                    return Ok(Some(page));
                }
                if let Some(id) = found.version_id() {
                    self.remember(entry.key.clone(), id.to_owned());
                }
                page.entries.push(entry);
            }
            match next {
                Some(marker) => from = marker,
                None => return Ok(Some(page)),
            }
        }
    }

    /// See [`crate::ReadStore::versions`].
    pub(super) async fn versions_of(&self, key: &Key) -> Result<Vec<Version>> {
        match self.listed(key).await? {
            Some((versions, _)) if versions.is_empty() => Err(Error::missing(&self.place, key)),
            Some((versions, _)) => Ok(versions),
            None => {
                let info = self.head_plain(key).await?;
                let only = Version {
                    id: None,
                    size: info.size,
                    modified: info.modified,
                    latest: true,
                };
                Ok(vec![only])
            }
        }
    }

    /// Every id under which something of `key` is stored, deletion markers included; `None` where
    /// versions can't be listed.
    pub(super) async fn every_id(&self, key: &Key) -> Result<Option<Vec<String>>> {
        let Some((versions, markers)) = self.listed(key).await? else {
            return Ok(None);
        };
        let ids = versions.into_iter().filter_map(|version| version.id);
        Ok(Some(ids.chain(markers).collect()))
    }
}

/// The credential may not, or the server can't, list versions.
fn refuses(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unknown | ErrorKind::Invalid)
}
