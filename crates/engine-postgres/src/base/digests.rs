//! The store of a base: a digest for every unit of every file, then the table of the files.
//!
//! ```text
//!  0   8  magic "TMPGDIG1"    8  8  number of the base    16  16  which key (a hash of it)
//! 32      16 bytes per unit, file by file, in the order of the backup
//!  …      table: per number, path length u32, path, length u64, offset of its first digest u64
//! −56  8  offset of the table    8  how many numbers    32  BLAKE3 of all that but the digests
//!      8  magic "TMPGEND1"
//! ```
//!
//! **Crash consistency.** Written under a temporary name, fsynced, renamed: a store with its name is
//! whole. The digests carry no checksum of their own, on purpose: a damaged one is unequal to
//! everything, so that its page is stored once more. A damaged table is an error, and the next base
//! complete.
//!
//! **Bounds.** Both sides keep one window of [`WINDOW_BYTES`]. The file is 1/512 of the data.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use tidemark_format::body::FileEntry;
use tidemark_format::postgres::layout::PATH_BYTES_MAX;
use tidemark_host::files;

use super::error::BaseError;
use super::table::{FileTable, Place};

const MAGIC: &[u8; 8] = b"TMPGDIG1";
const END_MAGIC: &[u8; 8] = b"TMPGEND1";
const HEADER_BYTES: u64 = 32;
const FOOTER_BYTES: u64 = 56;
/// Bytes of a digest.
pub(crate) const DIGEST_BYTES: u64 = 16;
/// Read and written at once: 4096 digests, which is 32 MiB of data.
const WINDOW_BYTES: usize = 64 << 10;

/// A unit's digest.
pub(crate) type Digest = [u8; 16];

/// The digest of a unit.
pub(crate) fn digest(key: &[u8; 32], unit: &[u8]) -> Digest {
    let hash = blake3::keyed_hash(key, unit);
    let first = hash.as_bytes().first_chunk::<16>();
    first.copied().unwrap_or_default()
}

fn header(number: u64, key: &[u8; 32]) -> [u8; 32] {
    let mut header = [0; 32];
    let hash = blake3::hash(key);
    let number = number.to_le_bytes();
    let fields = MAGIC.iter().chain(&number).chain(hash.as_bytes());
    for (to, from) in header.iter_mut().zip(fields) {
        *to = *from;
    }
    header
}

/// Where the store of base `number` stands.
pub(crate) fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("base-{number}"))
}

/// A store that is being written.
#[derive(Debug)]
pub(crate) struct StoreWriter {
    out: BufWriter<File>,
    at: u64,
    part: PathBuf,
    path: PathBuf,
    hash: blake3::Hasher,
}

impl StoreWriter {
    pub(crate) fn create(folder: &Path, number: u64, key: &[u8; 32]) -> Result<Self, BaseError> {
        let path = path_of(folder, number);
        let part = path.with_extension("part");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(files::PRIVATE)
            .open(&part)
            .map_err(BaseError::io("making the page digests", &part))?;
        let header = header(number, key);
        let mut hash = blake3::Hasher::new();
        hash.update(&header);
        let mut writer = Self {
            out: BufWriter::with_capacity(WINDOW_BYTES, file),
            at: 0,
            part,
            path,
            hash,
        };
        writer.write(&header)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BaseError> {
        let written = self.out.write_all(bytes);
        written.map_err(BaseError::io("writing the page digests", &self.part))?;
        self.at = self.at.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Where the next digest will stand.
    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn push(&mut self, digest: &Digest) -> Result<(), BaseError> {
        self.write(digest)
    }

    /// Adds the table and makes the store durable under its name.
    pub(crate) fn finish(mut self, table: &FileTable) -> Result<(), BaseError> {
        let table_at = self.at;
        let mut record = Vec::new();
        for (path, place) in table.now() {
            record.clear();
            let length = u32::try_from(path.len()).unwrap_or(u32::MAX);
            record.extend_from_slice(&length.to_le_bytes());
            record.extend_from_slice(path.as_bytes());
            record.extend_from_slice(&place.bytes.to_le_bytes());
            record.extend_from_slice(&place.digests_at.to_le_bytes());
            self.hash.update(&record);
            self.write(&record)?;
        }
        let mut footer = Vec::new();
        footer.extend_from_slice(&table_at.to_le_bytes());
        footer.extend_from_slice(&(table.len() as u64).to_le_bytes());
        self.hash.update(&footer);
        footer.extend_from_slice(self.hash.finalize().as_bytes());
        footer.extend_from_slice(END_MAGIC);
        self.write(&footer)?;
        let failed = |action| BaseError::io(action, &self.part);
        let file = self.out.into_inner();
        let file = file.map_err(|error| failed("writing the page digests")(error.into_error()))?;
        file.sync_all()
            .map_err(failed("syncing the page digests"))?;
        std::fs::rename(&self.part, &self.path).map_err(failed("naming the page digests"))?;
        if let Some(folder) = self.path.parent() {
            files::sync_folder(folder)?;
        }
        Ok(())
    }
}

/// The store of the base before.
#[derive(Debug)]
pub(crate) struct Store {
    file: File,
    path: PathBuf,
    digests_end: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Store {
    /// Opens the store of base `number`, which must be whole and under `key`: and its files.
    pub(crate) fn open(
        folder: &Path,
        number: u64,
        key: &[u8; 32],
    ) -> Result<(Self, FileTable), BaseError> {
        let path = path_of(folder, number);
        let mut table = FileTable::to_be_loaded();
        let (file, digests_end) =
            read_table(&path, number, key, |name, place| table.load(name, place))?;
        let store = Self {
            file,
            path,
            digests_end,
            window: Vec::new(),
            window_at: 0,
        };
        Ok((store, table))
    }

    /// The digest at `at`; none if the store doesn't reach so far.
    pub(crate) fn digest(&mut self, at: u64) -> Result<Option<Digest>, BaseError> {
        if at.saturating_add(DIGEST_BYTES) > self.digests_end {
            return Ok(None);
        }
        if let Some(known) = self.in_window(at) {
            return Ok(Some(known));
        }
        let most = usize::try_from(self.digests_end - at).unwrap_or(WINDOW_BYTES);
        self.window.resize(most.min(WINDOW_BYTES), 0);
        let read = self.file.read_exact_at(&mut self.window, at);
        read.map_err(BaseError::io("reading the page digests", &self.path))?;
        self.window_at = at;
        Ok(self.in_window(at))
    }

    fn in_window(&self, at: u64) -> Option<Digest> {
        let offset = usize::try_from(at.checked_sub(self.window_at)?).ok()?;
        self.window.get(offset..)?.first_chunk::<16>().copied()
    }
}

/// The files of a base as its store lists them.
pub(crate) fn files(
    folder: &Path,
    number: u64,
    key: &[u8; 32],
) -> Result<Vec<FileEntry>, BaseError> {
    let mut files = Vec::new();
    read_table(&path_of(folder, number), number, key, |path, place| {
        files.push(FileEntry {
            path: path.to_owned(),
            bytes: place.bytes,
        });
        Ok(())
    })?;
    Ok(files)
}

/// Reads a store's table: the file, and where its digests end.
fn read_table(
    path: &Path,
    number: u64,
    key: &[u8; 32],
    mut each: impl FnMut(&str, Place) -> Result<(), BaseError>,
) -> Result<(File, u64), BaseError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::NotFound => BaseError::Store {
            path: path.to_owned(),
            why: "they are missing or cut",
        },
        _ => BaseError::io("reading the page digests", path)(source),
    };
    let damaged = |why| BaseError::Store {
        path: path.to_owned(),
        why,
    };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut head = [0; 32];
    file.read_exact_at(&mut head, 0).map_err(failed)?;
    if head != header(number, key) {
        return Err(damaged("they are another base's"));
    }
    let footer_at = size.checked_sub(FOOTER_BYTES);
    let footer_at = footer_at.ok_or_else(|| damaged("they are cut"))?;
    let mut footer = [0; 56];
    file.read_exact_at(&mut footer, footer_at).map_err(failed)?;
    let (table_at, rest) = take_u64(&footer);
    let (count, rest) = take_u64(rest);
    let (hash, end) = rest.split_at(32);
    let within = (HEADER_BYTES..=footer_at).contains(&table_at);
    if end != END_MAGIC || !within {
        return Err(damaged("they have no end"));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&head);
    let mut input = BufReader::with_capacity(WINDOW_BYTES, &file);
    input.seek(SeekFrom::Start(table_at)).map_err(failed)?;
    let mut input = input.take(footer_at - table_at);
    let mut record = Vec::new();
    for _ in 0..count {
        read_record(&mut input, &mut record).map_err(failed)?;
        hasher.update(&record);
        let (name, place) = record.split_at(record.len() - 16);
        let name = name.get(4..).unwrap_or_default();
        let name = std::str::from_utf8(name).map_err(|_text| damaged("a path is no text"))?;
        let (bytes, digests_at) = take_u64(place);
        let (digests_at, _) = take_u64(digests_at);
        each(name, Place { bytes, digests_at })?;
    }
    let whole = input.limit() == 0;
    hasher.update(footer.get(..16).unwrap_or_default());
    if !whole || hasher.finalize().as_bytes() != hash {
        return Err(damaged("the table is not what was written"));
    }
    Ok((file, table_at))
}

/// One record of the table.
fn read_record(input: &mut impl Read, record: &mut Vec<u8>) -> std::io::Result<()> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let name = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if name > PATH_BYTES_MAX {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    record.clear();
    record.extend_from_slice(&length);
    record.resize(4 + name + 16, 0);
    input.read_exact(record.split_at_mut(4).1)
}

fn take_u64(bytes: &[u8]) -> (u64, &[u8]) {
    match bytes.split_first_chunk::<8>() {
        Some((first, rest)) => (u64::from_le_bytes(*first), rest),
        None => (0, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    /// A store with a file of `units` units beside an empty layout.
    fn store(folder: &Path, units: u8) -> FileTable {
        let mut writer = StoreWriter::create(folder, 3, &KEY).unwrap();
        let mut table = FileTable::new().unwrap();
        let number = table.number("base/1/1").unwrap();
        let place = Place {
            bytes: u64::from(units) * 8192,
            digests_at: writer.at(),
        };
        for unit in 0..units {
            writer.push(&[unit; 16]).unwrap();
        }
        table.note(number, place);
        let layout = Place {
            bytes: 0,
            digests_at: writer.at(),
        };
        table.note(0, layout);
        writer.finish(&table).unwrap();
        table
    }

    #[test]
    fn a_store_reads_back_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), 200);
        let (mut store, mut table) = Store::open(folder.path(), 3, &KEY).unwrap();
        let number = table.number("base/1/1").unwrap();
        let place = table.before(number).unwrap();
        assert_eq!((number, place.units()), (1, 200));
        for unit in [0u8, 199, 5, 100, 198] {
            let at = place.digests_at + u64::from(unit) * DIGEST_BYTES;
            assert_eq!(store.digest(at).unwrap(), Some([unit; 16]));
        }
        let end = place.digests_at + 200 * DIGEST_BYTES;
        assert_eq!(store.digest(end).unwrap(), None);
        let files = files(folder.path(), 3, &KEY).unwrap();
        assert_eq!(files.len(), 2);
        assert_eq!(
            (files[1].path.as_str(), files[1].bytes),
            ("base/1/1", 200 * 8192)
        );
    }

    #[test]
    fn a_store_that_is_not_finished_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = StoreWriter::create(folder.path(), 3, &KEY).unwrap();
        writer.push(&[1; 16]).unwrap();
        drop(writer);
        let error = Store::open(folder.path(), 3, &KEY).unwrap_err();
        assert!(matches!(error, BaseError::Store { .. }), "{error}");
    }

    #[test]
    fn every_damage_to_the_table_is_noticed_and_none_to_a_digest_hurts() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), 2);
        let path = path_of(folder.path(), 3);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let in_digests = (32..64).contains(&at);
            assert_eq!(
                Store::open(folder.path(), 3, &KEY).is_ok(),
                in_digests,
                "{at}"
            );
        }
        for end in 0..good.len() {
            std::fs::write(&path, &good[..end]).unwrap();
            assert!(Store::open(folder.path(), 3, &KEY).is_err(), "{end}");
        }
        std::fs::write(&path, &good).unwrap();
        assert!(
            Store::open(folder.path(), 3, &[8; 32]).is_err(),
            "another key"
        );
        std::fs::rename(&path, path_of(folder.path(), 4)).unwrap();
        assert!(
            Store::open(folder.path(), 4, &KEY).is_err(),
            "another number"
        );
    }
}
