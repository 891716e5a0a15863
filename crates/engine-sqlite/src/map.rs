//! The page map on disk: for each page its digest and when it last changed.
//!
//! ```text
//!  0   8  magic "TMSQMAP1"     8  8  which digest key (a hash of it)     16  16  zero
//! 32      20 bytes per page, from page 1: digest (16, zero = unknown), tag (u32 LE)
//! ```
//!
//! The tag is the number of the base that was the newest when the change was cut, so "what changed
//! since base n" is "tag ≥ n": nothing is swapped or cleared when a base begins.
//!
//! **Crash consistency.** Writes go to the page cache; [`MapFile::sync`] makes them durable. What was
//! written since is written again from the records, which hold absolute values. Memory: none that
//! grows with the database, the kernel's page cache is the only cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tidemark_format::pages::PageDigest;

use crate::disk;
use crate::error::SqliteError;

const MAGIC: &[u8; 8] = b"TMSQMAP1";
const HEADER_BYTES: u64 = 32;
const ENTRY_BYTES: usize = 20;

/// What is known about a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Entry {
    /// Its digest as the chain of bases and cuts has it; zero if that is not known.
    pub(crate) digest: PageDigest,
    /// The newest base's number when it changed last.
    pub(crate) tag: u32,
}

impl Entry {
    /// Whether the digest is known.
    pub(crate) fn is_known(self) -> bool {
        self.digest != PageDigest::default()
    }
}

/// A hash by which a map is told from one under another key.
pub(crate) fn key_id(key: &[u8; 32]) -> [u8; 8] {
    blake3::hash(key)
        .as_bytes()
        .first_chunk::<8>()
        .copied()
        .unwrap_or_default()
}

/// One generation's map.
#[derive(Debug)]
pub(crate) struct MapFile {
    file: File,
    path: PathBuf,
    key: [u8; 32],
    number: u64,
    pages: u32,
}

impl MapFile {
    fn path_of(folder: &Path, number: u64) -> PathBuf {
        folder.join(format!("map-{number}"))
    }

    /// Makes an empty map for a database of `pages` pages.
    pub(crate) fn create(
        folder: &Path,
        number: u64,
        key: [u8; 32],
        pages: u32,
    ) -> Result<Self, SqliteError> {
        let path = Self::path_of(folder, number);
        let file = disk::create(&path).map_err(SqliteError::io("making the page map", &path))?;
        let map = Self {
            file,
            path,
            key,
            number,
            pages,
        };
        let mut header = [0u8; 32];
        let (magic, rest) = header.split_at_mut(8);
        magic.copy_from_slice(MAGIC);
        rest.split_at_mut(8).0.copy_from_slice(&key_id(&key));
        map.write_at(&header, 0)?;
        map.sync()?;
        Ok(map)
    }

    /// Opens the map `number`, which must be under `key`.
    pub(crate) fn open(
        folder: &Path,
        number: u64,
        key: [u8; 32],
        pages: u32,
    ) -> Result<Self, SqliteError> {
        let path = Self::path_of(folder, number);
        let damaged = |why: &str| SqliteError::State {
            path: path.clone(),
            why: why.to_owned(),
        };
        let file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("it is missing"));
            }
            Err(error) => return Err(SqliteError::io("opening the page map", &path)(error)),
        };
        let mut header = [0u8; 32];
        if file.read_exact_at(&mut header, 0).is_err() {
            return Err(damaged("it is too short"));
        }
        let sound = header.starts_with(MAGIC) && header.get(8..16) == Some(&key_id(&key)[..]);
        if !sound {
            return Err(damaged("it is another generation's"));
        }
        Ok(Self {
            file,
            path,
            key,
            number,
            pages,
        })
    }

    /// Deletes a map that nobody needs any more.
    pub(crate) fn remove(folder: &Path, number: u64) {
        // A leftover costs space only, and its number is never used again.
        drop(disk::remove(&Self::path_of(folder, number)));
    }

    pub(crate) const fn key(&self) -> &[u8; 32] {
        &self.key
    }

    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    pub(crate) const fn pages(&self) -> u32 {
        self.pages
    }

    /// Sets the size of the database that this map is about; entries beyond it are forgotten.
    pub(crate) fn set_pages(&mut self, pages: u32) -> Result<(), SqliteError> {
        if pages < self.pages {
            let length = offset(pages.saturating_add(1));
            let now = self
                .file
                .metadata()
                .map_err(self.failed("measuring the page map"))?
                .len();
            if now > length {
                disk::set_len(&self.file, &self.path, length)
                    .map_err(self.failed("shortening the page map"))?;
            }
        }
        self.pages = pages;
        Ok(())
    }

    /// The entries of `count` pages from `first`; beyond the size nothing is known.
    pub(crate) fn read(&self, first: u32, count: u32) -> Result<Vec<Entry>, SqliteError> {
        let wanted = usize::try_from(count).unwrap_or(0);
        let within = self
            .pages
            .saturating_add(1)
            .saturating_sub(first)
            .min(count);
        let mut bytes = vec![0u8; usize::try_from(within).unwrap_or(0) * ENTRY_BYTES];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let at = offset(first) + u64::try_from(filled).unwrap_or(0);
            match self.file.read_at(rest, at) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("reading the page map")(error)),
            }
        }
        let (chunks, _none) = bytes.as_chunks::<ENTRY_BYTES>();
        let mut entries: Vec<Entry> = chunks.iter().map(decode).collect();
        entries.resize(wanted, Entry::default());
        Ok(entries)
    }

    /// Writes the entries of consecutive pages from `first`.
    pub(crate) fn write(&self, first: u32, entries: &[Entry]) -> Result<(), SqliteError> {
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY_BYTES);
        for entry in entries {
            bytes.extend_from_slice(&entry.digest.to_bytes());
            bytes.extend_from_slice(&entry.tag.to_le_bytes());
        }
        self.write_at(&bytes, offset(first))
    }

    /// Makes everything written so far durable.
    pub(crate) fn sync(&self) -> Result<(), SqliteError> {
        disk::sync(&self.file, &self.path).map_err(self.failed("syncing the page map"))
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), SqliteError> {
        disk::write_at(&self.file, &self.path, bytes, at)
            .map_err(self.failed("writing the page map"))
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> SqliteError {
        SqliteError::io(action, &self.path)
    }
}

fn offset(page: u32) -> u64 {
    let entry_bytes = u64::try_from(ENTRY_BYTES).unwrap_or(0);
    HEADER_BYTES + u64::from(page.saturating_sub(1)) * entry_bytes
}

fn decode(bytes: &[u8; ENTRY_BYTES]) -> Entry {
    let (digest, tag) = bytes.split_at(16);
    Entry {
        digest: PageDigest::from_bytes(digest.first_chunk::<16>().copied().unwrap_or_default()),
        tag: u32::from_le_bytes(tag.first_chunk::<4>().copied().unwrap_or_default()),
    }
}
