//! The files of a database: names beside it, identity, reading pages, the checks before opening.
//!
//! HAZARD: closing any descriptor of the database file drops every POSIX lock that this process
//! holds on it, those of SQLite too. So it is opened once, before the connections, and dropped
//! after them; nothing else in this process may open it meanwhile.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use tidemark_format::pages::is_page_size;

use crate::error::SqliteError;

/// `app.db` and `-wal` give `app.db-wal`.
#[must_use]
pub fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

/// Which file this is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct FileId {
    /// The device.
    pub(crate) device: u64,
    /// The inode on it; its number is used again once the file is gone.
    pub(crate) inode: u64,
    /// When the file was made, in nanoseconds, where the file system knows.
    pub(crate) born: Option<u64>,
}

impl FileId {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let born = metadata.created().ok();
        let born = born.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            born: born.and_then(|born| u64::try_from(born.as_nanos()).ok()),
        }
    }
}

/// The first 100 bytes of a database, as far as we use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DatabaseHeader {
    /// Bytes per page.
    pub(crate) page_size: u32,
    /// Whether the journal mode is WAL.
    pub(crate) wal: bool,
    /// Goes up with every commit in rollback modes; stands still in WAL mode.
    pub(crate) change_counter: u32,
    /// What the application calls itself.
    pub(crate) application_id: u32,
    /// The application's own schema version.
    pub(crate) user_version: u32,
    /// Text encoding: 1 UTF-8, 2 and 3 UTF-16.
    pub(crate) encoding: u32,
}

impl DatabaseHeader {
    /// Reads the header; `None` if the bytes don't begin a SQLite database.
    #[must_use]
    pub(crate) fn parse(bytes: &[u8; 100]) -> Option<Self> {
        let be32 = |at: usize| {
            bytes
                .get(at..)
                .and_then(<[u8]>::first_chunk::<4>)
                .map_or(0, |four| u32::from_be_bytes(*four))
        };
        let size_field = be32(14) & 0xffff;
        let page_size = if size_field == 1 { 65536 } else { size_field };
        if !bytes.starts_with(b"SQLite format 3\0") || !is_page_size(page_size) {
            return None;
        }
        Some(Self {
            page_size,
            wal: bytes.get(18..20) == Some(&[2, 2]),
            change_counter: be32(24),
            application_id: be32(68),
            user_version: be32(60),
            encoding: be32(56),
        })
    }
}

/// The database file itself, read page by page beside SQLite.
#[derive(Debug)]
pub(crate) struct DatabaseFile {
    file: File,
    path: PathBuf,
    id: FileId,
}

impl DatabaseFile {
    /// Opens `path` after every check that needs no SQLite.
    ///
    /// # Errors
    /// [`SqliteError::Vanished`], `Unreadable`, `NotOwner`, `Network`, `NotADatabase`.
    pub(crate) fn open(path: &Path) -> Result<Self, SqliteError> {
        let path = match std::fs::canonicalize(path) {
            Ok(path) => path,
            Err(error) => return Err(absent_or_unreadable(path, error)),
        };
        // Before opening: of a FIFO that would wait for ever.
        match std::fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() => return Err(SqliteError::NotADatabase { path }),
            Ok(_) => {}
            Err(error) => return Err(absent_or_unreadable(&path, error)),
        }
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => return Err(absent_or_unreadable(&path, error)),
        };
        let metadata = file
            .metadata()
            .map_err(SqliteError::io("looking at the database", &path))?;
        if !metadata.is_file() {
            return Err(SqliteError::NotADatabase { path });
        }
        let agent = rustix::process::geteuid().as_raw();
        if metadata.uid() != agent {
            return Err(SqliteError::NotOwner {
                path,
                owner: metadata.uid(),
                agent,
            });
        }
        let system = rustix::fs::fstatfs(&file)
            .map_err(|error| SqliteError::io("asking for the file system", &path)(error.into()))?;
        if let Some(kind) = shared_file_system(system.f_type.cast_unsigned()) {
            return Err(SqliteError::Network { path, kind });
        }
        if metadata.len() == 0 {
            return Err(SqliteError::Vanished { path });
        }
        let database = Self {
            file,
            path,
            id: FileId::of(&metadata),
        };
        database.header()?;
        Ok(database)
    }

    /// The database's real path.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Which file it is.
    #[must_use]
    pub(crate) const fn id(&self) -> FileId {
        self.id
    }

    /// The header as it stands in the file now (in WAL mode it may lag behind the log).
    ///
    /// # Errors
    /// [`SqliteError::NotADatabase`], [`SqliteError::Io`].
    pub(crate) fn header(&self) -> Result<DatabaseHeader, SqliteError> {
        let mut bytes = [0u8; 100];
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(SqliteError::NotADatabase {
                    path: self.path.clone(),
                });
            }
            Err(error) => return Err(SqliteError::io("reading the database", &self.path)(error)),
        }
        DatabaseHeader::parse(&bytes).ok_or_else(|| SqliteError::NotADatabase {
            path: self.path.clone(),
        })
    }

    /// Size, modification time and the like.
    ///
    /// # Errors
    /// [`SqliteError::Io`].
    pub(crate) fn metadata(&self) -> Result<Metadata, SqliteError> {
        self.file
            .metadata()
            .map_err(SqliteError::io("looking at the database", &self.path))
    }

    /// Reads pages from `first` (from 1) into `buffer`; says how many whole pages there were.
    ///
    /// # Errors
    /// [`SqliteError::Io`].
    pub(crate) fn read_pages(
        &self,
        first: u32,
        page_size: u32,
        buffer: &mut [u8],
    ) -> Result<u32, SqliteError> {
        let mut offset = u64::from(first.saturating_sub(1)) * u64::from(page_size);
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset) {
                Ok(0) => break,
                Ok(n) => {
                    filled += n;
                    offset += u64::try_from(n).unwrap_or(0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(SqliteError::io("reading the database", &self.path)(error));
                }
            }
        }
        let whole = u64::try_from(filled).unwrap_or(0) / u64::from(page_size);
        Ok(u32::try_from(whole).unwrap_or(u32::MAX))
    }

    /// Whether SQLite uses a write-ahead log: the header says so, or there is one. A backup copied
    /// under a log in use may say otherwise, and the log still counts.
    ///
    /// # Errors
    /// Those of [`Self::header`].
    pub(crate) fn uses_wal(&self) -> Result<bool, SqliteError> {
        let log = || std::fs::metadata(beside(&self.path, "-wal"));
        Ok(self.header()?.wal || log().is_ok_and(|log| log.len() > 0))
    }

    /// Whether it is in a rollback-journal mode and has pages of this size.
    ///
    /// # Errors
    /// [`SqliteError::ModeChanged`], [`SqliteError::PageSizeChanged`], and those of [`Self::header`].
    pub(crate) fn check_rollback(&self, page_size: u32) -> Result<(), SqliteError> {
        let header = self.header()?;
        let path = || self.path.clone();
        if self.uses_wal()? {
            Err(SqliteError::ModeChanged { path: path() })
        } else if header.page_size == page_size {
            Ok(())
        } else {
            Err(SqliteError::PageSizeChanged { path: path() })
        }
    }

    /// Whether the path still names this file.
    ///
    /// # Errors
    /// [`SqliteError::Vanished`] when nothing is there, [`SqliteError::Replaced`] when another is.
    pub(crate) fn check_in_place(&self) -> Result<(), SqliteError> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) if FileId::of(&metadata) == self.id => Ok(()),
            Ok(_) => Err(SqliteError::Replaced {
                path: self.path.clone(),
            }),
            Err(error) => Err(absent_or_unreadable(&self.path, error)),
        }
    }
}

/// What can be seen of `path` without opening it: identity, owner, rights, size, last changes.
pub(crate) fn look(path: &Path) -> String {
    match std::fs::metadata(path) {
        Ok(seen) => format!(
            "{}:{} {}:{} {:o} {} {}.{} {}.{}",
            seen.dev(),
            seen.ino(),
            seen.uid(),
            seen.gid(),
            seen.mode(),
            seen.size(),
            seen.mtime(),
            seen.mtime_nsec(),
            seen.ctime(),
            seen.ctime_nsec()
        ),
        Err(error) => error.kind().to_string(),
    }
}

/// Whether `path`, a log or wal-index, still names the open `file`.
///
/// # Errors
/// [`SqliteError::LogReplaced`], [`SqliteError::Io`].
pub(crate) fn check_log_in_place(file: &File, path: &Path) -> Result<(), SqliteError> {
    let open = file
        .metadata()
        .map_err(SqliteError::io("looking at the log", path))?;
    match std::fs::metadata(path) {
        Ok(there) if (there.dev(), there.ino()) == (open.dev(), open.ino()) => Ok(()),
        Ok(_) => Err(SqliteError::LogReplaced {
            path: path.to_path_buf(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SqliteError::LogReplaced {
            path: path.to_path_buf(),
        }),
        Err(error) => Err(SqliteError::io("looking at the log", path)(error)),
    }
}

fn absent_or_unreadable(path: &Path, error: io::Error) -> SqliteError {
    let path = path.to_path_buf();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => SqliteError::Vanished { path },
        _ => SqliteError::Unreadable {
            path,
            source: error,
        },
    }
}

/// The name of a file system that other machines may write, or `None` for a local one.
#[must_use]
pub fn shared_file_system(f_type: u64) -> Option<&'static str> {
    let kind = match f_type & 0xffff_ffff {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x4750_4653 => "GPFS",
        0x0bd0_0bd0 => "Lustre",
        0x0102_1997 => "9p",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x00c3_6400 => "Ceph",
        0x7461_636f => "OCFS2",
        0x0116_1970 => "GFS2",
        0x7375_7245 => "Coda",
        0x564c => "NCP",
        // sshfs, virtiofs and cluster file systems look all the same from here.
        0x6573_5546 => "a FUSE or virtiofs mount",
        _ => return None,
    };
    Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_file_systems_are_known_by_their_type() {
        assert_eq!(shared_file_system(0x6969), Some("NFS"));
        assert_eq!(shared_file_system(0xff53_4d42), Some("SMB"));
        for local in [
            0xef53,
            0x5846_5342,
            0x9123_683e,
            0x0102_1994,
            0x794c_7630,
            0x2fc1_2fc1,
        ] {
            assert_eq!(shared_file_system(local), None, "{local:x}");
        }
    }

    #[test]
    fn a_page_size_field_of_one_means_65536() {
        let mut bytes = [0u8; 100];
        bytes[..16].copy_from_slice(b"SQLite format 3\0");
        bytes[16..20].copy_from_slice(&[0, 1, 2, 2]);
        let header = DatabaseHeader::parse(&bytes).unwrap();
        assert_eq!((header.page_size, header.wal), (65536, true));
    }
}
