//! A store in a directory: a disk, a mount, a drive to be carried away.
//!
//! **Invariants.** An object's file appears under its name whole and fsynced, or not at all, and
//! exactly one of several racers wins: a rename would let all of them win, so publishing is
//! `renameat2(RENAME_NOREPLACE)`, or link and unlink where the file system lacks it. A create that
//! returned is durable: the file, its directory entry and every parent made for it are fsynced.
//!
//! **Whose object is it?** A directory keeps no put-id beside an object (extended attributes don't
//! survive copies to other file systems, and a second file can't be created in one step with the
//! first). Every object of the repository carries its put-id in its own signed bytes, so *equal
//! bytes mean our own earlier try* and different bytes mean somebody else's.
//!
//! **Failure.** No space left is `Full`. A root that vanished (an unmounted disk) is
//! `Unreachable`, never "every object is missing".
//!
//! **Crash consistency.** What a crash leaves is in `.tidemark-tmp/` below the root; files there
//! that are a day old are removed when the store is opened for writing.
//!
//! **What it deliberately doesn't do:** it touches no file that it didn't make, follows no symbolic
//! link below its root, and enforces nothing: whoever may write the directory may replace objects
//! (`advisory`).

mod publish;
mod walk;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use rustix::fs::{Mode, OFlags};
use tidemark_format::{Key, PutId};
use tidemark_host::Buffers;

use crate::{
    CreateOnly, CreateStore, Created, DeleteStore, Error, ListPage, OBJECT_BYTES_MAX, ObjectInfo,
    Op, Place, Probe, ProbeReport, ReadStore, Result, Version, Witness,
};

/// Where unfinished files are, below the root.
const TEMPORARY: &str = ".tidemark-tmp";

/// A store in a directory. Clones are the same store.
#[derive(Debug, Clone)]
pub struct DirStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    place: Place,
    root: PathBuf,
    device: u64,
    /// Directories whose entries, up to the root, are known to be durable.
    durable_dirs: Mutex<HashSet<PathBuf>>,
    /// Tells the temporary files of this process apart.
    serial: AtomicU64,
    buffers: Buffers,
}

impl DirStore {
    /// Opens the store at `root`, which must exist: a missing one is more likely an unmounted disk
    /// than a wish for a new one.
    ///
    /// # Errors
    /// `Unreachable` when it isn't there, `Denied` or `Invalid` when it can't be used.
    pub fn open(root: &Path) -> Result<Self> {
        let place = Place::new(&format!("dir:{}", root.display()));
        let found = fs::metadata(root).map_err(|error| failed(&place, Op::List, "", error))?;
        if !found.is_dir() {
            return Err(Error::invalid(&place, "it is not a directory", None));
        }
        let device = std::os::unix::fs::MetadataExt::dev(&found);
        Ok(Self {
            inner: Arc::new(Inner {
                place,
                root: root.to_owned(),
                device,
                durable_dirs: Mutex::default(),
                serial: AtomicU64::new(0),
                buffers: Buffers::default(),
            }),
        })
    }

    /// Makes the directory if it isn't there, then opens it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn create_root(root: &Path) -> Result<Self> {
        let place = Place::new(&format!("dir:{}", root.display()));
        fs::create_dir_all(root).map_err(|error| failed(&place, Op::Create, "", error))?;
        let store = Self::open(root)?;
        if let Some(parent) = root
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            sync_dir(parent).map_err(|error| failed(&store.inner.place, Op::Create, "", error))?;
        }
        Ok(store)
    }

    /// The device that holds it: two directories on one device are one failure domain.
    #[must_use]
    pub fn device_id(&self) -> u64 {
        self.inner.device
    }

    /// Removes unfinished files that are at least a day old at `now`; returns how many.
    ///
    /// # Errors
    /// When the folder of unfinished files can't be read.
    pub fn sweep_temporary(&self, now: Timestamp) -> Result<usize> {
        self.inner.sweep(now)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(error) => Err(Error::invalid(
                &self.inner.place,
                "its worker died (a bug: please report it)",
                Some(Arc::new(error)),
            )),
        }
    }
}

impl Inner {
    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn fail(&self, op: Op, key: &Key, error: io::Error) -> Error {
        let absent = matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        );
        if absent && self.root_is_there() {
            return Error::missing(&self.place, key);
        }
        failed(&self.place, op, key.as_str(), error)
    }

    /// The root on the device where it was opened: not its empty mount point.
    fn root_is_there(&self) -> bool {
        fs::metadata(&self.root)
            .is_ok_and(|found| std::os::unix::fs::MetadataExt::dev(&found) == self.device)
    }

    fn open_file(&self, op: Op, key: &Key) -> Result<(File, fs::Metadata)> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::open(self.path(key), flags, Mode::empty())
            .map_err(|error| self.fail(op, key, error.into()))?;
        let file = File::from(file);
        let found = file.metadata().map_err(|error| self.fail(op, key, error))?;
        if !found.is_file() {
            return Err(Error::missing(&self.place, key));
        }
        Ok((file, found))
    }

    fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes> {
        let (mut file, found) = self.open_file(Op::Get, key)?;
        let range = range.unwrap_or(0..found.len());
        let end = range.end.min(found.len());
        let length = end.saturating_sub(range.start);
        if length > OBJECT_BYTES_MAX {
            return Err(Error::Corrupt {
                place: self.place.clone(),
                key: key.to_string(),
                why: format!("{length} bytes, more than any object of ours has"),
            });
        }
        let capacity = usize::try_from(length).unwrap_or(0);
        let mut bytes = self.buffers.take(capacity);
        let read = || -> io::Result<()> {
            if range.start > 0 {
                file.seek(SeekFrom::Start(range.start))?;
            }
            file.take(length).read_to_end(&mut bytes)?;
            Ok(())
        };
        read().map_err(|error| self.fail(Op::Get, key, error))?;
        Ok(self.buffers.filled(bytes))
    }

    fn head(&self, key: &Key) -> Result<ObjectInfo> {
        let found = fs::symlink_metadata(self.path(key))
            .map_err(|error| self.fail(Op::Head, key, error))?;
        if !found.is_file() {
            return Err(Error::missing(&self.place, key));
        }
        Ok(ObjectInfo {
            size: found.len(),
            modified: modified(&found),
            put_id: None,
        })
    }

    fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }
}

#[async_trait]
impl ReadStore for DirStore {
    async fn get(&self, key: &Key) -> Result<Bytes> {
        let key = key.clone();
        self.run(move |inner| inner.read(&key, None)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let key = key.clone();
        self.run(move |inner| inner.read(&key, Some(range))).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        let key = key.clone();
        self.run(move |inner| inner.head(&key)).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&Key>,
        limit: usize,
    ) -> Result<ListPage> {
        let (prefix, after) = (prefix.to_owned(), start_after.cloned());
        self.run(move |inner| inner.walk(&prefix, after.as_ref(), limit))
            .await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let prefix = prefix.to_owned();
        self.run(move |inner| inner.folders(&prefix)).await
    }

    async fn versions(&self, key: &Key) -> Result<Vec<Version>> {
        let info = self.head(key).await?;
        Ok(vec![Version {
            id: None,
            size: info.size,
            modified: info.modified,
            latest: true,
        }])
    }
}

#[async_trait]
impl CreateStore for DirStore {
    async fn create(&self, key: &Key, body: Bytes, put: &PutId) -> Result<Created> {
        let (key, put) = (key.clone(), *put);
        self.run(move |inner| inner.publish(&key, &body, &put))
            .await
    }
}

#[async_trait]
impl DeleteStore for DirStore {
    async fn delete(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.run(move |inner| {
            match fs::remove_file(inner.path(&key)).map_err(|e| inner.fail(Op::Delete, &key, e)) {
                Ok(()) => {}
                Err(Error::Missing { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
            let path = inner.path(&key);
            path.parent()
                .map_or(Ok(()), sync_dir)
                .map_err(|error| failed(&inner.place, Op::Delete, key.as_str(), error))
        })
        .await
    }
}

impl Witness for DirStore {
    fn date_offset(&self) -> Option<SignedDuration> {
        None
    }
}

#[async_trait]
impl Probe for DirStore {
    async fn probe(&self, _put: &PutId) -> Result<ProbeReport> {
        Ok(ProbeReport {
            create_only: CreateOnly::Advisory,
            because: "a directory enforces nothing against who may write it".to_owned(),
            conditional_create: true,
            versioned: Some(false),
        })
    }
}

/// What an I/O error means for the caller.
fn failed(place: &Place, op: Op, key: &str, error: io::Error) -> Error {
    let cause = |error: io::Error| -> Option<crate::Cause> { Some(Arc::new(error)) };
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Error::Full {
                place: place.clone(),
                key: key.to_owned(),
                source: cause(error),
            }
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => match op {
            Op::Get | Op::Head | Op::List => Error::Unknown {
                place: place.clone(),
                op,
                key: key.to_owned(),
                source: cause(error),
            },
            Op::Create | Op::Delete | Op::Probe => Error::Denied {
                place: place.clone(),
                op,
                key: key.to_owned(),
                source: cause(error),
            },
        },
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::unreachable(
            place,
            op,
            key,
            "the directory is not there: is its disk mounted?",
            cause(error),
        ),
        io::ErrorKind::IsADirectory => Error::invalid(
            place,
            format!("{key} is a directory there, made by somebody else"),
            cause(error),
        ),
        _ => Error::unreachable(
            place,
            op,
            key,
            "the file system reported an error",
            cause(error),
        ),
    }
}

fn modified(found: &fs::Metadata) -> Option<Timestamp> {
    let since = found
        .modified()
        .ok()?
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    Timestamp::from_second(i64::try_from(since.as_secs()).ok()?).ok()
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn what_the_system_says_is_sorted_by_what_the_caller_can_do() {
        let place = Place::new("dir:/x");
        let kind = |op, error| failed(&place, op, "k", io::Error::from(error)).kind();
        assert_eq!(
            kind(Op::Create, io::ErrorKind::StorageFull),
            ErrorKind::Full
        );
        assert_eq!(
            kind(Op::Create, io::ErrorKind::QuotaExceeded),
            ErrorKind::Full
        );
        assert_eq!(
            kind(Op::Create, io::ErrorKind::PermissionDenied),
            ErrorKind::Denied
        );
        assert_eq!(
            kind(Op::Create, io::ErrorKind::ReadOnlyFilesystem),
            ErrorKind::Denied
        );
        assert_eq!(
            kind(Op::Get, io::ErrorKind::PermissionDenied),
            ErrorKind::Unknown
        );
        assert_eq!(
            kind(Op::List, io::ErrorKind::NotFound),
            ErrorKind::Unreachable
        );
    }
}
