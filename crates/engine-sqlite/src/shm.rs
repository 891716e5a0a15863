//! SQLite's wal-index (`-shm`): the last commit, how much is in the file already, who holds what.
//!
//! HAZARD: closing any descriptor of the `-shm` file drops every POSIX lock that this process
//! holds on it, those of SQLite too. [`Shm`] is opened once, after the connections, and must be
//! dropped after them (field order in its owner).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};
use serde::{Deserialize, Serialize};

use crate::error::SqliteError;
use crate::wal::{ByteOrder, Checksum, checksum};

/// The two copies of the header, the checkpoint information, the lock bytes.
const INDEX_BYTES: usize = 136;
const COPY_BYTES: usize = 48;
const WRITE_LOCK: u64 = 120;
const CHECKPOINT_LOCK: u64 = 121;
/// How far a checkpoint means to come, published before it writes the first page.
const BACKFILL_ATTEMPTED: usize = 128;

/// What the wal-index says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WalIndex {
    /// Bytes per page.
    pub(crate) page_size: u32,
    /// The last committed frame; 0 when the log is empty.
    pub(crate) frames: u32,
    /// Size of the database in pages, after that commit.
    pub(crate) pages: u32,
    /// The running checksum after that frame.
    pub(crate) checksum: Checksum,
    /// The life of the log.
    pub(crate) salts: [u32; 2],
    /// Frames up to this one are in the database file.
    pub(crate) backfilled: u32,
}

impl WalIndex {
    /// Reads the index; `None` while somebody is writing it.
    #[must_use]
    pub(crate) fn parse(bytes: &[u8; INDEX_BYTES]) -> Option<Self> {
        let (first, rest) = bytes.split_at(COPY_BYTES);
        let (second, rest) = rest.split_at(COPY_BYTES);
        let sum = checksum(ByteOrder::native(), [0, 0], first.split_at(40).0);
        let initialised = first.get(12).is_some_and(|flag| *flag != 0);
        if first != second || !initialised || sum != [ne32(first, 40), ne32(first, 44)] {
            return None;
        }
        let size_field = u32::from(ne16(first, 14));
        let page_size = (size_field & 0xfe00) | ((size_field & 1) << 16);
        // SQLite copies the salts as they stand in the log, big-endian.
        let salts = [u32::from_be(ne32(first, 32)), u32::from_be(ne32(first, 36))];
        let frames = ne32(first, 16);
        Some(Self {
            page_size,
            frames,
            pages: ne32(first, 20),
            checksum: [ne32(first, 24), ne32(first, 28)],
            salts,
            // A restart publishes the header before it resets this field.
            backfilled: Some(ne32(rest, 0))
                .filter(|backfilled| *backfilled <= frames)
                .unwrap_or(0),
        })
    }

    /// Everything committed is in the database file.
    #[must_use]
    pub(crate) const fn is_backfilled(&self) -> bool {
        self.backfilled == self.frames
    }
}

/// What the index says of checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backfill {
    salts: [u32; 2],
    /// Frames up to this one are in the database file.
    done: u32,
    /// Frames up to this one may be.
    attempted: u32,
}

impl Backfill {
    fn parse(bytes: &[u8; INDEX_BYTES]) -> Option<Self> {
        let index = WalIndex::parse(bytes)?;
        Some(Self {
            salts: index.salts,
            done: index.backfilled,
            // Nothing is left that an earlier attempt could still mean.
            attempted: if index.is_backfilled() {
                index.backfilled
            } else {
                ne32(bytes, BACKFILL_ATTEMPTED)
            },
        })
    }

    /// Everything attempted was done.
    #[cfg(test)]
    pub(crate) const fn at(salts: [u32; 2], done: u32) -> Self {
        Self {
            salts,
            done,
            attempted: done,
        }
    }

    /// A checkpoint may be writing into the database file, or was ended halfway.
    pub(crate) const fn is_open(&self) -> bool {
        self.attempted != self.done
    }
}

fn ne32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk::<4>)
        .map_or(0, |four| u32::from_ne_bytes(*four))
}

fn ne16(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk::<2>)
        .map_or(0, |two| u16::from_ne_bytes(*two))
}

/// The open `-shm` file.
#[derive(Debug)]
pub(crate) struct Shm {
    file: File,
    path: PathBuf,
}

impl Shm {
    /// Opens the index of the database at `database`, whose connections are open already.
    ///
    /// # Errors
    /// [`SqliteError::Io`].
    pub(crate) fn open(database: &Path) -> Result<Self, SqliteError> {
        let path = crate::files::beside(database, "-shm");
        // F_GETLK for a write lock needs a descriptor that may write.
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(SqliteError::io("opening the wal-index", &path))?;
        Ok(Self { file, path })
    }

    /// Reads the index; `None` while somebody is writing it.
    ///
    /// # Errors
    /// [`SqliteError::Io`].
    pub(crate) fn read(&self) -> Result<Option<WalIndex>, SqliteError> {
        self.read_as(WalIndex::parse)
    }

    /// What it says of checkpoints; `None` while somebody is writing it.
    ///
    /// # Errors
    /// [`SqliteError::Io`].
    pub(crate) fn backfill(&self) -> Result<Option<Backfill>, SqliteError> {
        self.read_as(Backfill::parse)
    }

    /// The same before any connection is open: nothing of it stays open, and no lock is there to drop.
    pub(crate) fn peek(database: &Path) -> Option<Backfill> {
        let file = File::open(crate::files::beside(database, "-shm")).ok()?;
        let mut bytes = [0u8; INDEX_BYTES];
        file.read_exact_at(&mut bytes, 0).ok()?;
        Backfill::parse(&bytes)
    }

    fn read_as<T>(
        &self,
        parse: impl Fn(&[u8; INDEX_BYTES]) -> Option<T>,
    ) -> Result<Option<T>, SqliteError> {
        let mut bytes = [0u8; INDEX_BYTES];
        for _attempt in 0..10 {
            match self.file.read_exact_at(&mut bytes, 0) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => {
                    return Err(SqliteError::io("reading the wal-index", &self.path)(error));
                }
            }
            if let Some(parsed) = parse(&bytes) {
                return Ok(Some(parsed));
            }
            std::thread::yield_now();
        }
        Ok(None)
    }

    /// Whether the index that others would open is this one.
    ///
    /// # Errors
    /// [`SqliteError::LogReplaced`], [`SqliteError::Io`].
    pub(crate) fn check_in_place(&self) -> Result<(), SqliteError> {
        crate::files::check_log_in_place(&self.file, &self.path)
    }

    /// Whether another process runs a checkpoint that holds off writers (FULL, RESTART, TRUNCATE):
    /// it keeps both the write and the checkpoint lock, and waits for our mark among others.
    #[must_use]
    pub(crate) fn blocking_checkpoint_elsewhere(&self) -> bool {
        let writer = self.holder(WRITE_LOCK);
        writer.is_some() && writer == self.holder(CHECKPOINT_LOCK)
    }

    fn holder(&self, byte: u64) -> Option<rustix::process::Pid> {
        let lock = Flock {
            start: byte,
            length: 1,
            pid: None,
            typ: FlockType::WriteLock,
            offset_type: FlockOffsetType::Set,
        };
        // Not knowing costs a slower move of the mark, nothing else.
        fcntl_getlk(&self.file, &lock)
            .ok()
            .flatten()
            .and_then(|held| held.pid)
    }
}
