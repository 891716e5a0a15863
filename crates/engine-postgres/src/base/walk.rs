//! Reading a data directory while its server writes in it, on a thread that may block.
//!
//! What changes meanwhile is written anew by replay, so nothing that moves is an error: a file may
//! vanish, shrink (the rest is zeros then, as in the server's own backups), grow (what is past its
//! length at the start is left), or be torn in a page; a page whose checksum is wrong is read again,
//! and only then called bad. `global/pg_control` comes last, read until its own checksum is right.
//!
//! **Cancellation.** It ends when nobody takes the pages any more.

use std::collections::HashSet;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crc_fast::CrcAlgorithm;
use rustix::fs::Advice;
use tidemark_engine::{PageRun, Wake};
use tokio::sync::mpsc;

use super::checksum::{self, PAGE_BYTES, Verdict, relation_segment};
use super::error::BaseError;
use super::exclude::{self, Folder};
use super::listing::Listing;
use super::pages::{Builder, Checks};
use super::take::Shared;

/// Read at once.
const READ_BYTES: usize = 1 << 20;
/// A torn page is whole again as soon as the write that tore it is over.
const AGAIN_MAX: u32 = 5;
const AGAIN_WAIT: Duration = Duration::from_millis(10);
/// A rate is kept by waits of at least this much, and looks at once in a while whether to go on.
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
    pub(super) checks: Option<Checks>,
    /// The data directory.
    pub(super) root: PathBuf,
    /// Kilobytes a second at most.
    pub(super) rate_kilobytes: Option<u32>,
    /// Bytes since the last wait for the rate.
    pub(super) unpaced: u64,
    /// The bytes that were read.
    pub(super) buffer: Vec<u8>,
}

impl Walk {
    /// Reads the data directory and the folders of tablespaces, given as path in the base and on disk.
    pub(super) fn everything(&mut self, spaces: &[(String, PathBuf)]) -> Result<(), BaseError> {
        self.buffer.resize(READ_BYTES, 0);
        let root = self.root.clone();
        self.below("", &root)?;
        for (path, place) in spaces {
            self.listing.folder(path.clone(), mode_of(place)?);
            self.below(path, place)?;
        }
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

    /// Everything below one folder; not recursive, so that no depth is too deep.
    fn below(&mut self, path: &str, place: &Path) -> Result<(), BaseError> {
        let mut folders = vec![path.to_owned()];
        while let Some(folder) = folders.pop() {
            let inside = folder.get(path.len()..).unwrap_or_default();
            let on_disk = place.join(inside.trim_start_matches('/'));
            let Some(entries) = self.entries(&folder, &on_disk)? else {
                continue;
            };
            let unlogged: HashSet<u32> = entries
                .iter()
                .filter_map(|entry| exclude::init_fork(&entry.name))
                .collect();
            for entry in entries {
                let below = match folder.as_str() {
                    "" => entry.name.clone(),
                    folder => format!("{folder}/{}", entry.name),
                };
                if entry.is_folder {
                    folders.extend(self.folder(below, entry.mode));
                } else if exclude::takes_file(&below, &unlogged) {
                    self.file(&below, &on_disk.join(&entry.name))?;
                }
            }
        }
        Ok(())
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
            // The log may stand elsewhere: what is restored has it inside.
            let is_log = folder.is_empty() && name == "pg_wal";
            if !(meta.is_file() || meta.is_dir() || is_log) {
                self.listing
                    .skip(format!("{folder}/{name}"), "it is neither file nor folder");
                continue;
            }
            found.push(Entry {
                name,
                is_folder: meta.is_dir() || is_log,
                mode: if is_log { 0o700 } else { meta.mode() & 0o7777 },
            });
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Some(found))
    }

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
        self.builder.begin_file(path, length, false)?;
        self.listing.file(path, meta.mode() & 0o7777);
        let checks = self
            .checks
            .and_then(|checks| Some((checks, relation_segment(path)?)));
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut at = 0;
        while at < length {
            let left = usize::try_from(length - at).unwrap_or(READ_BYTES);
            let piece = buffer.split_at_mut(left.min(READ_BYTES)).0;
            fill(&file, piece, at).map_err(failed)?;
            if let Some((checks, segment)) = checks {
                self.check(&file, piece, at, checks, segment)
                    .map_err(failed)?;
            }
            self.feed(piece)?;
            at += piece.len() as u64;
        }
        self.buffer = buffer;
        self.builder.end_file()
    }

    /// Looks at the pages read from `at`; those that are wrong are read again.
    fn check(
        &mut self,
        file: &File,
        piece: &mut [u8],
        at: u64,
        checks: Checks,
        segment: u32,
    ) -> std::io::Result<()> {
        let first = at / PAGE_BYTES as u64;
        let (pages, _part) = piece.as_chunks_mut::<PAGE_BYTES>();
        for (page, number) in pages.iter_mut().zip(first..) {
            let Some(block) = checks.block(segment, number) else {
                continue;
            };
            let mut tries = 0;
            while checksum::look(page, block, checks.start) == Verdict::Bad {
                if tries == AGAIN_MAX {
                    self.builder.note_bad(number);
                    break;
                }
                tries += 1;
                std::thread::sleep(AGAIN_WAIT);
                fill(file, page, number * PAGE_BYTES as u64)?;
            }
        }
        Ok(())
    }

    fn feed(&mut self, mut data: &[u8]) -> Result<(), BaseError> {
        // In a base in which nothing changed, only this tells that nobody wants it any more.
        if self.runs.is_closed() {
            return Err(BaseError::Stopped);
        }
        self.shared.lock().done += data.len() as u64;
        self.pace(data.len() as u64);
        while !data.is_empty() {
            if self.builder.is_full() {
                let batch = self.builder.take_batch();
                let sent = self.runs.blocking_send(batch);
                sent.map_err(|_nobody_listens| BaseError::Stopped)?;
                self.wake.wake();
            }
            data = self.builder.data(data)?;
        }
        Ok(())
    }

    /// Keeps to the rate.
    fn pace(&mut self, bytes: u64) {
        let Some(rate) = self.rate_kilobytes else {
            return;
        };
        self.unpaced += bytes;
        let due = self.unpaced.saturating_mul(1000) / (u64::from(rate.max(1)) << 10);
        if due < u64::try_from(PACE.as_millis()).unwrap_or(1) {
            return;
        }
        self.unpaced = 0;
        let mut left = Duration::from_millis(due);
        // Ends soon after nobody wants the base any more.
        while !left.is_zero() && !self.runs.is_closed() {
            std::thread::sleep(left.min(PACE));
            left = left.saturating_sub(PACE);
        }
    }
}

/// Something in a folder.
struct Entry {
    name: String,
    is_folder: bool,
    mode: u32,
}

fn mode_of(path: &Path) -> Result<u32, BaseError> {
    let meta = std::fs::metadata(path);
    let meta = meta.map_err(BaseError::io("looking at the data directory", path))?;
    Ok(meta.mode() & 0o7777)
}

/// Reads from `at`; what the file doesn't have any more is zeros.
fn fill(file: &File, mut piece: &mut [u8], mut at: u64) -> std::io::Result<()> {
    while !piece.is_empty() {
        match file.read_at(piece, at) {
            Ok(0) => {
                piece.fill(0);
                return Ok(());
            }
            Ok(read) => {
                piece = piece.split_at_mut(read).1;
                at += read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The control file, whole.
pub(super) fn read_control(root: &Path) -> Result<Vec<u8>, BaseError> {
    let path = root.join(CONTROL_PATH);
    for _ in 0..CONTROL_TRIES_MAX {
        let read = std::fs::read(&path);
        let bytes = read.map_err(BaseError::io("reading the control file", &path))?;
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
