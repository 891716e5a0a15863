//! The spool of one source: sealed objects in the order in which every region gets them.
//!
//! One file per item: the object as it goes to the regions, a plain local record beside it (the
//! engine's, or the agent's own facts), and a trailer that says where each ends. Only sealed
//! (encrypted, signed) objects and digests stand here, never a page in plain.
//!
//! **Invariants.** Orders are dense and an item is fsynced, with its folder, before the next one is
//! begun: so after a crash only the last file can be torn, and a torn file was never reported as
//! sealed. It is removed at open.
//!
//! **What it deliberately doesn't do:** it decides nothing. When an item may go is the ledger of
//! cursors' question (`state::source`), how much may stand here is `ship::bounds`'.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tidemark_format::{Hash, SourceName};
use tidemark_host::files::{self, FileError};

use super::item::{Item, ItemHead};

/// Ends every spool file.
const MAGIC: [u8; 8] = *b"TMSPOOL1";
/// Lengths of object and record, hash of both, magic.
const TRAILER_BYTES: usize = 8 + 8 + 32 + 8;
/// A sealed object is about 8 MiB; more than this can't be ours.
const ITEM_BYTES_MAX: u64 = 256 << 20;

/// The spool could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The system refused.
    #[error("can't {action} {} in the spool", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file that isn't what was written.
    #[error(
        "{} is damaged: the spool's disk lost bytes that had been fsynced; what is in the regions is untouched, \
         move this file away and take the source over with `tidemark-agent take-over`",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A small file of ours.
    #[error(transparent)]
    File(#[from] FileError),
}

impl SpoolError {
    /// The read was cancelled: the process stops.
    pub(crate) fn cancelled(source: &SourceName, error: crate::AgentError) -> Self {
        let path = PathBuf::from(source.as_str());
        Self::Io {
            action: "go on with",
            path,
            source: std::io::Error::other(error),
        }
    }

    /// Whether the disk or quota is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let full = [
            std::io::ErrorKind::StorageFull,
            std::io::ErrorKind::QuotaExceeded,
        ];
        match self {
            Self::Io { source, .. } => full.contains(&source.kind()),
            Self::Damaged { .. } => false,
            Self::File(error) => error.is_full(),
        }
    }
}

/// Bytes in all spools of an agent, counted as they come and go.
#[derive(Debug, Clone, Default)]
pub struct SpoolUsage(Arc<AtomicU64>);

impl SpoolUsage {
    /// Bytes now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn sub(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// An item's place in its source's spool; dense.
pub type Order = u64;

/// The spool of one source.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    usage: SpoolUsage,
    own: SpoolUsage,
}

impl Spool {
    /// Opens (or makes) the spool in `folder`; returns it with the orders that stand in it,
    /// ascending. A torn last item is removed.
    ///
    /// # Errors
    /// [`SpoolError`]; [`SpoolError::Damaged`] when an item before the last one is cut.
    pub fn open(folder: &Path, usage: SpoolUsage) -> Result<(Self, Vec<Order>), SpoolError> {
        files::create_private_folder(folder)?;
        let spool = Self {
            folder: folder.to_owned(),
            usage,
            own: SpoolUsage::default(),
        };
        let mut orders = spool.list()?;
        if let Some(last) = orders.last().copied() {
            let whole = match spool.read(last) {
                Ok((object, record, hash)) => hash_of(&object, &record) == hash,
                Err(SpoolError::Damaged { .. }) => false,
                Err(error) => return Err(error),
            };
            if !whole {
                spool.unlink(last)?;
                orders.pop();
            }
        }
        for order in &orders {
            spool.count(spool.size(*order)?);
        }
        Ok((spool, orders))
    }

    fn count(&self, bytes: u64) {
        self.usage.add(bytes);
        self.own.add(bytes);
    }

    /// Bytes of this source's items.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.own.bytes()
    }

    /// The oldest item's order.
    #[must_use]
    pub fn first(&self) -> Option<Order> {
        self.list().ok()?.first().copied()
    }

    /// Every item's order, ascending.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn list(&self) -> Result<Vec<Order>, SpoolError> {
        let io = |source| SpoolError::Io {
            action: "list",
            path: self.folder.clone(),
            source,
        };
        let mut orders = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let digits = name.to_str().filter(|name| name.len() == 16);
            if let Some(order) = digits.and_then(|name| name.parse().ok()) {
                orders.push(order);
            }
        }
        orders.sort_unstable();
        Ok(orders)
    }

    fn path(&self, order: Order) -> PathBuf {
        self.folder.join(format!("{order:016}"))
    }

    /// Bytes that an item takes.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn size(&self, order: Order) -> Result<u64, SpoolError> {
        let path = self.path(order);
        let meta = std::fs::metadata(&path);
        meta.map(|meta| meta.len())
            .map_err(|source| SpoolError::Io {
                action: "look at",
                path,
                source,
            })
    }

    /// Bytes of an item's object: what a region takes of it.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn object_bytes(&self, order: Order) -> Result<u64, SpoolError> {
        let (_file, place) = self.place(order)?;
        Ok(u64::try_from(place.object).unwrap_or(u64::MAX))
    }

    /// Stores an item, durably. Returns the bytes it takes.
    ///
    /// # Errors
    /// [`SpoolError`]; nothing of the item is left then.
    pub fn append(&self, order: Order, object: &[u8], record: &[u8]) -> Result<u64, SpoolError> {
        let path = self.path(order);
        let io = |source| SpoolError::Io {
            action: "write",
            path: path.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        let written = write_item(file, object, record)
            .map_err(io)
            .and_then(|bytes| Ok(files::sync_folder(&self.folder).map(|()| bytes)?));
        match written {
            Ok(bytes) => {
                self.count(bytes);
                Ok(bytes)
            }
            Err(error) => {
                // Best effort: the write's own error is what the caller must see, and a torn file
                // is removed at the next open.
                drop(std::fs::remove_file(&path));
                Err(error)
            }
        }
    }

    /// The object of an item.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn object(&self, order: Order) -> Result<Bytes, SpoolError> {
        let (file, place) = self.place(order)?;
        let mut object = vec![0; place.object];
        self.read_exact(order, &file, &mut object, 0)?;
        Ok(Bytes::from(object))
    }

    /// An item with its head, every byte checked.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn item(&self, order: Order) -> Result<(Item, ItemHead), SpoolError> {
        let (object, record, hash) = self.read(order)?;
        let damaged = || SpoolError::Damaged {
            path: self.path(order),
        };
        if hash_of(&object, &record) != hash {
            return Err(damaged());
        }
        Item::read(order, Bytes::from(object), &record).map_err(|_not_ours| damaged())
    }

    /// The record of an item.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn record(&self, order: Order) -> Result<Vec<u8>, SpoolError> {
        let (file, place) = self.place(order)?;
        let mut record = vec![0; place.record];
        let at = u64::try_from(place.object).unwrap_or(u64::MAX);
        self.read_exact(order, &file, &mut record, at)?;
        Ok(record)
    }

    /// Removes an item. Not fsynced: an item that comes back after a crash is shipped again, which
    /// changes nothing.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn remove(&self, order: Order) -> Result<(), SpoolError> {
        let bytes = self.size(order)?;
        self.unlink(order)?;
        self.usage.sub(bytes);
        self.own.sub(bytes);
        Ok(())
    }

    /// Removes an item that may be gone already.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn remove_if_there(&self, order: Order) -> Result<(), SpoolError> {
        if self.path(order).exists() {
            self.remove(order)
        } else {
            Ok(())
        }
    }

    fn unlink(&self, order: Order) -> Result<(), SpoolError> {
        let path = self.path(order);
        std::fs::remove_file(&path).map_err(|source| SpoolError::Io {
            action: "remove",
            path,
            source,
        })
    }

    fn read(&self, order: Order) -> Result<(Vec<u8>, Vec<u8>, Hash), SpoolError> {
        let (file, place) = self.place(order)?;
        let mut object = vec![0; place.object];
        self.read_exact(order, &file, &mut object, 0)?;
        let mut record = vec![0; place.record];
        let at = u64::try_from(place.object).unwrap_or(u64::MAX);
        self.read_exact(order, &file, &mut record, at)?;
        Ok((object, record, place.hash))
    }

    fn place(&self, order: Order) -> Result<(File, Place), SpoolError> {
        let path = self.path(order);
        let read = || -> std::io::Result<Option<(File, Place)>> {
            let mut file = File::open(&path)?;
            let len = file.metadata()?.len();
            let trailer_len = u64::try_from(TRAILER_BYTES).unwrap_or(u64::MAX);
            if len < trailer_len || len > ITEM_BYTES_MAX {
                return Ok(None);
            }
            file.seek(SeekFrom::Start(len.saturating_sub(trailer_len)))?;
            let mut trailer = [0; TRAILER_BYTES];
            file.read_exact(&mut trailer)?;
            Ok(Place::parse(&trailer, len).map(|place| (file, place)))
        };
        match read() {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(SpoolError::Damaged { path }),
            Err(source) => Err(SpoolError::Io {
                action: "read",
                path,
                source,
            }),
        }
    }

    fn read_exact(
        &self,
        order: Order,
        file: &File,
        buffer: &mut [u8],
        at: u64,
    ) -> Result<(), SpoolError> {
        file.read_exact_at(buffer, at)
            .map_err(|source| SpoolError::Io {
                action: "read",
                path: self.path(order),
                source,
            })
    }
}

struct Place {
    object: usize,
    record: usize,
    hash: Hash,
}

impl Place {
    fn parse(trailer: &[u8; TRAILER_BYTES], len: u64) -> Option<Self> {
        let (object, rest) = trailer.split_first_chunk::<8>()?;
        let (record, rest) = rest.split_first_chunk::<8>()?;
        let (hash, magic) = rest.split_first_chunk::<32>()?;
        let (object, record) = (u64::from_le_bytes(*object), u64::from_le_bytes(*record));
        let sum = object
            .checked_add(record)?
            .checked_add(u64::try_from(TRAILER_BYTES).ok()?)?;
        (magic == MAGIC && sum == len).then_some(())?;
        Some(Self {
            object: usize::try_from(object).ok()?,
            record: usize::try_from(record).ok()?,
            hash: Hash(*hash),
        })
    }
}

fn hash_of(object: &[u8], record: &[u8]) -> Hash {
    // Of the hashes, so that nothing has to be joined in memory first.
    Hash::of(&[Hash::of(object).0, Hash::of(record).0].concat())
}

fn write_item(mut file: File, object: &[u8], record: &[u8]) -> std::io::Result<u64> {
    let length = |part: &[u8]| u64::try_from(part.len()).unwrap_or(u64::MAX);
    let mut trailer = Vec::with_capacity(TRAILER_BYTES);
    trailer.extend_from_slice(&length(object).to_le_bytes());
    trailer.extend_from_slice(&length(record).to_le_bytes());
    trailer.extend_from_slice(&hash_of(object, record).0);
    trailer.extend_from_slice(&MAGIC);
    for part in [object, record, &trailer] {
        file.write_all(part)?;
    }
    file.sync_data()?;
    Ok([object, record, &trailer].into_iter().map(length).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(folder: &Path) -> (Spool, Vec<Order>, SpoolUsage) {
        let usage = SpoolUsage::default();
        let (spool, orders) = Spool::open(folder, usage.clone()).unwrap();
        (spool, orders, usage)
    }

    #[test]
    fn items_read_back_after_a_restart_and_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (first, _, used) = spool(dir.path());
        let bytes = first.append(7, b"object", b"record").unwrap();
        first.append(8, b"next", b"").unwrap();
        let (again, orders, usage) = spool(dir.path());
        assert_eq!(orders, [7, 8]);
        assert_eq!(again.object(7).unwrap(), Bytes::from_static(b"object"));
        assert_eq!(again.record(7).unwrap(), b"record");
        assert_eq!(again.object_bytes(7).unwrap(), 6);
        assert_eq!(usage.bytes(), used.bytes());
        again.remove(8).unwrap();
        assert_eq!(usage.bytes(), bytes);
    }

    #[test]
    fn a_torn_last_item_is_dropped_and_a_torn_earlier_one_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let (first, _, _) = spool(dir.path());
        for order in 1..=3 {
            first.append(order, &[7; 100], b"record").unwrap();
        }
        let cut = |order: u64| {
            let path = dir.path().join(format!("{order:016}"));
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        };
        cut(3);
        let (again, orders, _) = spool(dir.path());
        assert_eq!(orders, [1, 2]);
        cut(1);
        assert!(matches!(again.object(1), Err(SpoolError::Damaged { .. })));
    }

    #[test]
    fn a_last_item_whose_bytes_never_reached_the_disk_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (first, _, _) = spool(dir.path());
        first.append(1, &[7; 100], b"").unwrap();
        let path = dir.path().join(format!("{:016}", 1));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[50] = 0;
        std::fs::write(&path, bytes).unwrap();
        assert!(spool(dir.path()).1.is_empty());
    }

    #[test]
    fn an_order_is_never_written_twice() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, _, _) = spool(dir.path());
        spool.append(1, b"a", b"").unwrap();
        assert!(spool.append(1, b"b", b"").is_err());
        assert_eq!(spool.object(1).unwrap(), Bytes::from_static(b"a"));
    }
}
