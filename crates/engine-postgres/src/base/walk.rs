//! Reading a data directory while its server writes in it, on a thread that may block.
//!
//! What changes meanwhile is written anew by replay, so nothing that moves is an error: a file may
//! vanish, shrink (the rest is zeros then, as in the server's own backups), grow (what is past its
//! length at the start is left), or be torn in a page; a page whose checksum is wrong is read again,
//! and only then called bad. `global/pg_control` comes last, read until its own checksum is right.
//!
//! One thread walks; what is found is read, checked and digested by several ([`super::readers`]) and
//! gathered here in the order of the walk.
//!
//! **Cancellation.** It ends when nobody takes the pages any more.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crc_fast::CrcAlgorithm;
use rustix::fs::Advice;
use tidemark_engine::{PageRun, Wake};
use tidemark_host::Pace;
use tokio::sync::mpsc;

use super::checksum::relation_segment;
use super::error::BaseError;
use super::exclude::{self, Folder};
use super::listing::Listing;
use super::pages::Builder;
use super::readers::{AGAIN_WAIT, Piece, READ_BYTES, Readers, Wanted};
use super::take::Shared;

/// Files and pieces that were found and not gathered yet, empty files among them.
const FOUND_MAX: usize = 256;
/// Whoever waits for the rate looks so often whether to go on.
const PACE: Duration = Duration::from_millis(100);
/// The control file is written in one piece, and rarely.
const CONTROL_TRIES_MAX: u32 = 100;
/// Where the control file stands.
const CONTROL_PATH: &str = "global/pg_control";

/// A data directory that is read.
pub(super) struct Walk {
    pub(super) builder: Builder,
    pub(super) listing: Listing,
    pub(super) runs: mpsc::Sender<Vec<PageRun>>,
    pub(super) wake: Wake,
    pub(super) shared: Shared,
    /// The data directory.
    pub(super) root: PathBuf,
    /// How many threads read.
    pub(super) readers: usize,
    pub(super) pace: Pace,
}

/// Found, in the order in which it is gathered.
enum Found {
    File(FoundFile),
    /// The readers have it.
    Piece,
    End,
}

struct FoundFile {
    path: String,
    on_disk: PathBuf,
    bytes: u64,
    mode: u32,
}

/// A walk with its readers.
struct Walking<'a> {
    walk: &'a mut Walk,
    readers: Readers,
    found: VecDeque<Found>,
    /// The file that is gathered.
    on_disk: PathBuf,
    /// Buffers that are free again.
    spare: Vec<Vec<u8>>,
}

impl Walk {
    /// Reads the data directory and the folders of tablespaces, given as path in the base and on disk.
    pub(super) fn everything(&mut self, spaces: &[(String, PathBuf)]) -> Result<(), BaseError> {
        let root = self.root.clone();
        let look = self.builder.look();
        std::thread::scope(|scope| {
            let readers = Readers::start(scope, self.readers, look);
            let readers = readers.map_err(BaseError::io("starting to read", &root))?;
            let mut walking = Walking {
                walk: self,
                readers,
                found: VecDeque::new(),
                on_disk: PathBuf::new(),
                spare: Vec::new(),
            };
            walking.below("", &root)?;
            for (path, place) in spaces {
                match mode_of(place) {
                    Ok(mode) => walking.walk.listing.folder(path.clone(), mode),
                    // Dropped meanwhile: the log says so.
                    Err(BaseError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                        continue;
                    }
                    Err(error) => return Err(error),
                }
                walking.below(path, place)?;
            }
            walking.gather_all()
        })?;
        let control = read_control(&root)?;
        self.listing
            .file(CONTROL_PATH, mode_of(&root.join(CONTROL_PATH))?);
        self.whole_file(CONTROL_PATH, &control)
    }

    /// A file whose content is known.
    pub(super) fn whole_file(&mut self, path: &str, bytes: &[u8]) -> Result<(), BaseError> {
        self.builder.begin_file(path, bytes.len() as u64, false)?;
        self.feed(bytes)?;
        self.builder.end_file()
    }

    /// Lists a folder; it is given back if what it holds is wanted, too.
    fn folder(&mut self, path: String, mode: u32) -> Option<String> {
        match exclude::folder(&path) {
            Folder::Leave => None,
            Folder::Empty => {
                self.listing.folder(path, mode);
                None
            }
            Folder::Take => {
                self.listing.folder(path.clone(), mode);
                Some(path)
            }
        }
    }

    /// A folder's entries by name; none if it is gone.
    fn entries(&mut self, folder: &str, on_disk: &Path) -> Result<Option<Vec<Entry>>, BaseError> {
        let failed = |error| BaseError::io("listing the data directory", on_disk)(error);
        let mut found = Vec::new();
        let listed = match std::fs::read_dir(on_disk) {
            Ok(listed) => listed,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        for entry in listed {
            let entry = entry.map_err(failed)?;
            let shown = entry.file_name().to_string_lossy().into_owned();
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            let Ok(name) = entry.file_name().into_string() else {
                self.listing
                    .skip(shown, "its name is no text that a base can hold");
                continue;
            };
            let path = path_in(folder, &name);
            if meta.is_symlink() && exclude::is_data(&path) {
                let path = on_disk.join(&name).display().to_string();
                return Err(BaseError::Linked { path });
            }
            // The log, and what is emptied, may stand elsewhere: what is restored has it inside.
            let elsewhere = meta.is_symlink() && exclude::is_folder_elsewhere(&path);
            if !(meta.is_file() || meta.is_dir() || elsewhere) {
                self.listing.leave_out(path);
                continue;
            }
            let mode = if elsewhere {
                0o700
            } else {
                meta.mode() & 0o7777
            };
            found.push(Entry {
                name,
                is_folder: meta.is_dir() || elsewhere,
                mode,
            });
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Some(found))
    }

    fn feed(&mut self, mut data: &[u8]) -> Result<(), BaseError> {
        self.came(data.len() as u64)?;
        while !data.is_empty() {
            self.hand_over_if_full()?;
            data = self.builder.data(data)?;
        }
        Ok(())
    }

    fn piece(&mut self, piece: Piece) -> Result<Vec<u8>, BaseError> {
        self.came(piece.length as u64)?;
        self.hand_over_if_full()?;
        self.builder.piece(piece)
    }

    /// So much was read.
    fn came(&mut self, bytes: u64) -> Result<(), BaseError> {
        // In a base in which nothing changed, only this tells that nobody wants it any more.
        if self.runs.is_closed() {
            return Err(BaseError::Stopped);
        }
        self.shared.lock().done += bytes;
        self.pace(bytes);
        Ok(())
    }

    fn hand_over_if_full(&mut self) -> Result<(), BaseError> {
        if self.builder.is_full() {
            let batch = self.builder.take_batch();
            let sent = self.runs.blocking_send(batch);
            sent.map_err(|_nobody_listens| BaseError::Stopped)?;
            self.wake.wake();
        }
        Ok(())
    }

    /// Keeps to the rate.
    fn pace(&mut self, bytes: u64) {
        let mut left = self.pace.passed(bytes);
        // Ends soon after nobody wants the base any more.
        while !left.is_zero() && !self.runs.is_closed() {
            std::thread::sleep(left.min(PACE));
            left = left.saturating_sub(PACE);
        }
    }
}

impl Walking<'_> {
    /// Everything below one folder; not recursive, so that no depth is too deep.
    fn below(&mut self, path: &str, place: &Path) -> Result<(), BaseError> {
        let mut folders = vec![path.to_owned()];
        while let Some(folder) = folders.pop() {
            let inside = folder.get(path.len()..).unwrap_or_default();
            let on_disk = place.join(inside.trim_start_matches('/'));
            let Some(entries) = self.walk.entries(&folder, &on_disk)? else {
                continue;
            };
            let unlogged: HashSet<u32> = entries
                .iter()
                .filter_map(|entry| exclude::init_fork(&entry.name))
                .collect();
            for entry in entries {
                let below = path_in(&folder, &entry.name);
                if entry.is_folder {
                    folders.extend(self.walk.folder(below, entry.mode));
                } else if exclude::takes_file(&below, &unlogged) {
                    self.file(&below, &on_disk.join(&entry.name))?;
                }
            }
        }
        Ok(())
    }

    /// A file that is wanted: opens it, and has it read.
    fn file(&mut self, path: &str, on_disk: &Path) -> Result<(), BaseError> {
        let failed = |error| BaseError::io("reading the data directory", on_disk)(error);
        let file = match File::open(on_disk) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let meta = file.metadata().map_err(failed)?;
        let length = meta.len();
        if length > READ_BYTES as u64 {
            // Only advice: what refuses it can be read as well.
            if let Err(error) = rustix::fs::fadvise(&file, 0, None, Advice::Sequential) {
                tracing::trace!(error = %error, "no read-ahead");
            }
        }
        self.find(Found::File(FoundFile {
            path: path.to_owned(),
            on_disk: on_disk.to_owned(),
            bytes: length,
            mode: meta.mode() & 0o7777,
        }))?;
        let (file, segment) = (Arc::new(file), relation_segment(path));
        let mut at = 0;
        while at < length {
            let left = usize::try_from(length - at).unwrap_or(READ_BYTES);
            let bytes = left.min(READ_BYTES);
            while self.readers.are_busy() {
                self.gather()?;
            }
            self.readers.give(Wanted {
                file: Arc::clone(&file),
                at,
                bytes,
                segment,
                spare: self.spare.pop().unwrap_or_default(),
            })?;
            self.find(Found::Piece)?;
            at += bytes as u64;
        }
        self.find(Found::End)
    }

    fn find(&mut self, found: Found) -> Result<(), BaseError> {
        self.found.push_back(found);
        while self.found.len() > FOUND_MAX {
            self.gather()?;
        }
        Ok(())
    }

    fn gather_all(&mut self) -> Result<(), BaseError> {
        while !self.found.is_empty() {
            self.gather()?;
        }
        Ok(())
    }

    /// Takes the oldest of what was found into the base.
    fn gather(&mut self) -> Result<(), BaseError> {
        match self.found.pop_front() {
            None => Ok(()),
            Some(Found::File(file)) => {
                let walk = &mut self.walk;
                walk.builder.begin_file(&file.path, file.bytes, false)?;
                walk.listing.file(&file.path, file.mode);
                self.on_disk = file.on_disk;
                Ok(())
            }
            Some(Found::Piece) => {
                let failed = BaseError::io("reading the data directory", &self.on_disk);
                let piece = self.readers.take()?.map_err(failed)?;
                let buffer = self.walk.piece(piece)?;
                if buffer.capacity() > 0 {
                    self.spare.push(buffer);
                }
                Ok(())
            }
            Some(Found::End) => self.walk.builder.end_file(),
        }
    }
}

/// Something in a folder.
struct Entry {
    name: String,
    is_folder: bool,
    mode: u32,
}

/// The path of an entry of a folder.
fn path_in(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

fn mode_of(path: &Path) -> Result<u32, BaseError> {
    let meta = std::fs::metadata(path);
    let meta = meta.map_err(BaseError::io("looking at the data directory", path))?;
    Ok(meta.mode() & 0o7777)
}

/// The control file, whole.
pub(super) fn read_control(root: &Path) -> Result<Vec<u8>, BaseError> {
    let path = root.join(CONTROL_PATH);
    whole_control(&path, || std::fs::read(&path))
}

/// Reads until the checksum is right: the server may be writing it.
fn whole_control(
    path: &Path,
    mut read: impl FnMut() -> std::io::Result<Vec<u8>>,
) -> Result<Vec<u8>, BaseError> {
    for _ in 0..CONTROL_TRIES_MAX {
        let bytes = read().map_err(BaseError::io("reading the control file", path))?;
        if control_system(&bytes).is_some() {
            return Ok(bytes);
        }
        std::thread::sleep(AGAIN_WAIT);
    }
    Err(BaseError::Contents(format!(
        "{} has a wrong checksum",
        path.display()
    )))
}

/// The system identifier in a control file whose checksum is right.
pub(super) fn control_system(bytes: &[u8]) -> Option<u64> {
    let word = |at: usize| {
        let field = bytes.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*field))
    };
    // Where each version's structure ends: `pg_control_version` of 14 to 16, of 17, and of 18.
    let checksum_at = match word(8)? {
        1300 | 1700 => 288,
        1800 => 292,
        _ => return None,
    };
    let covered = bytes.get(..checksum_at)?;
    let checksum = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, covered);
    let right = checksum == u64::from(word(checksum_at)?);
    right.then_some(u64::from(word(4)?) << 32 | u64::from(word(0)?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::tz::TimeZone;
    use tidemark_host::{Rate, SystemClock};

    use super::super::digests::{StoreWriter, files};
    use super::super::table::FileTable;
    use super::*;

    const KEY: [u8; 32] = [3; 32];

    /// A control file of 15 whose checksum is right.
    fn control() -> Vec<u8> {
        let mut control = vec![0; 8192];
        control[..8].copy_from_slice(&77u64.to_le_bytes());
        control[8..12].copy_from_slice(&1300u32.to_le_bytes());
        let sum = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &control[..288]);
        let sum = u32::try_from(sum).unwrap();
        control[288..292].copy_from_slice(&sum.to_le_bytes());
        control
    }

    fn write(root: &Path, path: &str, bytes: &[u8]) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// A walk that nobody takes the pages of before it is over.
    fn walk(root: &Path, digests: &Path) -> (Walk, mpsc::Receiver<Vec<PageRun>>) {
        let (runs, batches) = mpsc::channel(1000);
        let store = StoreWriter::create(digests, 0, &KEY).unwrap();
        let builder = Builder::new(KEY, None, store, FileTable::new().unwrap());
        let pace = Pace::new(Rate::unlimited(), TimeZone::UTC, SystemClock::shared());
        let walk = Walk {
            builder,
            listing: Listing::default(),
            runs,
            wake: Wake::nobody(),
            shared: Shared::default(),
            root: root.to_owned(),
            readers: 3,
            pace,
        };
        (walk, batches)
    }

    /// The files that a walk found, by path; and the last one's.
    fn gathered(
        mut walk: Walk,
        mut batches: mpsc::Receiver<Vec<PageRun>>,
        digests: &Path,
    ) -> (BTreeMap<String, Vec<u8>>, String) {
        let mut runs = Vec::new();
        while let Ok(batch) = batches.try_recv() {
            runs.extend(batch);
        }
        runs.extend(walk.builder.take_batch());
        walk.builder.finish().unwrap();
        let table = files(digests, 0, &KEY).unwrap();
        let last = table.last().unwrap().path.clone();
        let mut found: Vec<(String, Vec<u8>)> = table
            .into_iter()
            .map(|file| (file.path, vec![0xEE; usize::try_from(file.bytes).unwrap()]))
            .collect();
        for run in runs {
            let at = usize::try_from(run.first).unwrap() * 8192;
            let to = &mut found[usize::try_from(run.file).unwrap()].1[at..];
            let length = to.len().min(run.bytes.len());
            to[..length].copy_from_slice(&run.bytes[..length]);
        }
        (found.into_iter().collect(), last)
    }

    #[test]
    fn everything_wanted_is_gathered_whole_and_the_control_file_comes_last() {
        let (folder, digests) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = folder.path();
        let large: Vec<u8> = (0..=255).cycle().take((5 << 20) + 77).collect();
        write(root, "base/1/2619_large", &large);
        write(root, "base/1/empty", &[]);
        write(root, "PG_VERSION", b"15\n");
        write(root, "postmaster.pid", b"1\n");
        write(root, "pg_wal/000000010000000000000001", b"log");
        write(root, "zzz/last", b"x");
        write(root, CONTROL_PATH, &control());
        for number in 0..600 {
            write(root, &format!("base/5/f{number}"), &[1; 3]);
        }
        let (mut walk, batches) = walk(root, digests.path());
        walk.everything(&[]).unwrap();
        let done = walk.shared.lock().done;
        let (found, last) = gathered(walk, batches, digests.path());
        assert_eq!(last, CONTROL_PATH);
        assert_eq!(done, large.len() as u64 + 3 + 1 + 8192 + 600 * 3);
        assert!(found["base/1/2619_large"] == large);
        assert_eq!(found["PG_VERSION"], b"15\n");
        assert!(found["base/1/empty"].is_empty() && found[CONTROL_PATH] == control());
        let small = |path: &&String| path.starts_with("base/5/f");
        assert_eq!(found.keys().filter(small).count(), 600);
        assert!(!found.contains_key("postmaster.pid"));
        assert!(!found.keys().any(|path| path.starts_with("pg_wal/")));
    }

    #[test]
    fn a_file_that_is_gone_when_its_turn_comes_is_left_out() {
        let (folder, digests) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = folder.path();
        write(root, "here", b"x");
        let (mut walk, batches) = walk(root, digests.path());
        let look = walk.builder.look();
        std::thread::scope(|scope| {
            let mut walking = Walking {
                readers: Readers::start(scope, 2, look).unwrap(),
                walk: &mut walk,
                found: VecDeque::new(),
                on_disk: PathBuf::new(),
                spare: Vec::new(),
            };
            walking.file("gone", &root.join("gone")).unwrap();
            walking.file("here", &root.join("here")).unwrap();
            walking.below("no/folder", &root.join("no/folder")).unwrap();
            walking.gather_all().unwrap();
        });
        let (found, last) = gathered(walk, batches, digests.path());
        assert_eq!(last, "here");
        assert!(!found.contains_key("gone"));
    }

    #[test]
    fn a_database_behind_a_symbolic_link_is_an_error_and_other_links_are_none() {
        let (folder, digests) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = folder.path();
        write(root, "base/1/2619", &[0; 8192]);
        write(root, CONTROL_PATH, &control());
        for link in ["log", "pg_stat_tmp", "pg_wal", "extra.conf"] {
            std::os::unix::fs::symlink("/elsewhere", root.join(link)).unwrap();
        }
        let (mut right, _batches) = walk(root, digests.path());
        right.everything(&[]).unwrap();
        assert_eq!(right.listing.left_out(), Some("extra.conf".to_owned()));
        std::os::unix::fs::symlink("/elsewhere", root.join("base/16384")).unwrap();
        let again = tempfile::tempdir().unwrap();
        let (mut wrong, _batches) = walk(root, again.path());
        let refused = wrong.everything(&[]).unwrap_err();
        assert!(
            matches!(&refused, BaseError::Linked { path } if path.ends_with("base/16384")),
            "{refused}"
        );
    }

    #[test]
    fn a_walk_ends_when_nobody_takes_its_pages() {
        let (folder, digests) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(folder.path(), "file", &[1; 100]);
        write(folder.path(), CONTROL_PATH, &control());
        let (mut walk, batches) = walk(folder.path(), digests.path());
        drop(batches);
        assert!(matches!(walk.everything(&[]), Err(BaseError::Stopped)));
    }

    #[test]
    fn the_control_file_is_read_until_its_checksum_is_right() {
        let mut torn = control();
        torn[100] ^= 1;
        let mut reads = vec![control(), torn.clone(), torn.clone()];
        let read = whole_control(Path::new("x"), || Ok(reads.pop().unwrap()));
        assert_eq!(read.unwrap(), control());
        assert!(reads.is_empty());
        let wrong = whole_control(Path::new("x"), || Ok(torn.clone()));
        assert!(wrong.is_err());
    }
}
