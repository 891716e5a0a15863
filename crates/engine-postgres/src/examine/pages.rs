//! Every page of every relation, read as it lies on the disk, its checksum computed anew.
//!
//! Everything is replayed, and the files are listed while the server is down. It may run while they are read:
//! it writes pages again that it had found sound (a reader's hints), and a page that is read in the middle of
//! that looks wrong for a moment. So one that looks wrong is read again; damage stays.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tidemark_engine::examine::{Finding, LEVEL_MATERIALISE, Status};
use tidemark_format::postgres::Lsn;

use crate::base::checksum::{PAGE_BYTES, Verdict, look, relation_segment};
use crate::restore::sandbox::Pages;

/// Read at once.
const READ_PAGES: usize = 128;
/// More threads than this don't read a disk faster.
const THREADS: usize = 4;
/// Bad pages that are named.
const NAMED: usize = 5;
/// How often a page that looks wrong is read again, and how long after.
const AGAIN: u32 = 20;
const AGAIN_AFTER: Duration = Duration::from_millis(5);
/// How often the first few: a writer that a busy machine holds up is not taken for damage.
const AGAIN_FIRST: u32 = 200;
/// How many these are.
const FIRST_PAGES: u64 = 4;
/// So many pages are not being written at one time: more of them are not read again.
const AGAIN_PAGES: u64 = 100;
/// Nothing is newer than this: replay is over.
const NEVER: Lsn = Lsn(u64::MAX);

/// What reading files found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Read {
    files: u64,
    pages: u64,
    bad: u64,
    named: Vec<String>,
}

impl Read {
    fn plus(mut self, other: Self) -> Self {
        self.files = self.files.saturating_add(other.files);
        self.pages = self.pages.saturating_add(other.pages);
        self.bad = self.bad.saturating_add(other.bad);
        self.named.extend(other.named);
        self
    }

    fn bad(&mut self, what: String) {
        self.bad = self.bad.saturating_add(1);
        if self.named.len() < NAMED {
            self.named.push(what);
        }
    }
}

/// A relation's file below the data directory, and its length.
type Listed = (String, u64);

/// Reads all pages of the cluster in `data` that `files` had.
pub(super) fn check(
    data: &Path,
    files: std::io::Result<Vec<Listed>>,
    kind: Pages,
    cancel: &AtomicBool,
) -> Finding {
    if !kind.checksums {
        return finding(Status::NotRun).why(
            "the cluster was made without data checksums (initdb --data-checksums; pg_checksums --enable)",
        );
    }
    if usize::try_from(kind.bytes) != Ok(PAGE_BYTES) {
        return finding(Status::NotRun)
            .why(format!("pages of {} bytes are not known here", kind.bytes));
    }
    let read = files.and_then(|files| read_all(data, &files, kind.of_a_file, cancel));
    match read {
        Ok(read) if read.bad == 0 => finding(Status::Passed)
            .compared("0 bad pages", "0 bad pages")
            .why(format!("{} pages in {} files", read.pages, read.files)),
        Ok(read) => finding(Status::Failed)
            .compared("0 bad pages", format!("{} bad pages", read.bad))
            .why(format!("of {}: {}", read.pages, read.named.join(", "))),
        Err(error) => finding(Status::Failed).why(format!("the files can't be read: {error}")),
    }
}

fn finding(status: Status) -> Finding {
    Finding::new(
        LEVEL_MATERIALISE,
        "postgres.checksums",
        "every page has the checksum that it was written with",
        status,
    )
}

/// What is told if reading ended by a fault of ours.
pub(super) fn unread() -> Finding {
    finding(Status::NotRun).why("reading the pages ended early")
}

/// Files of relations. The server must be down.
pub(super) fn files(data: &Path) -> std::io::Result<Vec<Listed>> {
    let mut found = Vec::new();
    for top in ["base", "global", "pg_tblspc"] {
        walk(data, PathBuf::from(top), &mut found)?;
    }
    found.sort_unstable();
    Ok(found)
}

fn walk(data: &Path, folder: PathBuf, found: &mut Vec<Listed>) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(data.join(&folder)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        // Tablespaces are links to folders elsewhere.
        let metadata = std::fs::metadata(data.join(&path))?;
        if metadata.is_dir() {
            walk(data, path, found)?;
        } else if let Some(text) = path
            .to_str()
            .filter(|text| relation_segment(text).is_some())
        {
            found.push((text.to_owned(), metadata.len()));
        }
    }
    Ok(())
}

fn read_all(
    data: &Path,
    files: &[Listed],
    of_a_file: u32,
    cancel: &AtomicBool,
) -> std::io::Result<Read> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = AtomicUsize::new(0);
    let work = || -> std::io::Result<Read> {
        let mut read = Read::default();
        let mut buffer = vec![0; READ_PAGES * PAGE_BYTES];
        while let Some((path, length)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            if cancel.load(Ordering::Relaxed) {
                return Err(std::io::Error::from(std::io::ErrorKind::Interrupted));
            }
            let first = relation_segment(path).unwrap_or(0).wrapping_mul(of_a_file);
            one(data, (path, *length, first), &mut buffer, &mut read)?;
        }
        Ok(read)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(THREADS))
            .map(|_| scope.spawn(work))
            .collect();
        workers
            .into_iter()
            .try_fold(Read::default(), |sum, worker| {
                let read = worker
                    .join()
                    .map_err(|_panic| std::io::Error::other("a reading thread ended early"))?;
                Ok(sum.plus(read?))
            })
    })
}

/// One file of that length, whose first page is at the block given with it.
fn one(
    data: &Path,
    (path, length, first): (&str, u64, u32),
    buffer: &mut [u8],
    read: &mut Read,
) -> std::io::Result<()> {
    let file = std::fs::File::open(data.join(path))?;
    read.files = read.files.saturating_add(1);
    let mut block = first;
    let mut at = 0_u64;
    while at < length {
        let rest = usize::try_from(length.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = rest.min(buffer.len());
        let count = fill(&file, buffer.get_mut(..wanted).unwrap_or_default(), at)?;
        let filled = buffer.get(..count).unwrap_or_default();
        let (pages, rest) = filled.as_chunks::<PAGE_BYTES>();
        for page in pages {
            read.pages = read.pages.saturating_add(1);
            let is_sound = look(page, block, NEVER) == Verdict::Sound
                || read.bad < AGAIN_PAGES && settles(&file, at, block, tries(read.bad))?;
            if !is_sound {
                read.bad(format!("{path} page {block}"));
            }
            block = block.wrapping_add(1);
            at = at.saturating_add(PAGE_BYTES as u64);
        }
        if !rest.is_empty() {
            read.bad(format!("{path} ends within a page"));
            return Ok(());
        }
        if count < wanted {
            read.bad(format!("{path} became shorter"));
            return Ok(());
        }
    }
    Ok(())
}

/// How often a page that looks wrong is read again, if so many were found bad before.
const fn tries(bad: u64) -> u32 {
    if bad < FIRST_PAGES {
        AGAIN_FIRST
    } else {
        AGAIN
    }
}

/// Whether a page that looks wrong was only being written.
fn settles(file: &std::fs::File, at: u64, block: u32, tries: u32) -> std::io::Result<bool> {
    let mut page = [0; PAGE_BYTES];
    for _ in 0..tries {
        std::thread::sleep(AGAIN_AFTER);
        if fill(file, &mut page, at)? == PAGE_BYTES && look(&page, block, NEVER) == Verdict::Sound {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Fills the buffer as far as the file goes.
fn fill(file: &std::fs::File, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let from = at.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
        let count = file.read_at(rest, from)?;
        if count == 0 {
            break;
        }
        filled += count;
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::checksum::page_checksum;

    const KIND: Pages = Pages {
        checksums: true,
        bytes: 8192,
        of_a_file: 131_072,
    };

    fn page(block: u32) -> Vec<u8> {
        let mut page = [0u8; PAGE_BYTES];
        page[14] = 24;
        page[100..200].fill(7);
        let sum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page.to_vec()
    }

    fn cluster(pages: Vec<u8>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(dir.path().join("base/5")).expect("made");
        std::fs::write(dir.path().join("base/5/1259"), pages).expect("written");
        std::fs::write(dir.path().join("base/5/PG_VERSION"), "15").expect("written");
        dir
    }

    fn checked(dir: &tempfile::TempDir) -> Finding {
        check(dir.path(), files(dir.path()), KIND, &AtomicBool::new(false))
    }

    #[test]
    fn more_pages_than_are_read_at_once_are_all_looked_at() {
        let pages: Vec<u8> = (0..300).flat_map(page).collect();
        let finding = checked(&cluster(pages.clone()));
        assert_eq!(finding.status, Status::Passed);
        assert!(
            finding
                .why
                .expect("a count")
                .starts_with("300 pages in 1 files")
        );
        let mut flipped = pages;
        flipped[257 * PAGE_BYTES + 4000] ^= 1;
        let finding = checked(&cluster(flipped));
        assert_eq!(finding.status, Status::Failed);
        assert!(
            finding
                .why
                .expect("a name")
                .contains("base/5/1259 page 257")
        );
    }

    #[test]
    fn a_cut_page_and_one_at_another_place_are_bad() {
        let mut pages: Vec<u8> = page(0);
        pages.extend(page(0));
        pages.extend([1; 100]);
        let finding = checked(&cluster(pages));
        assert_eq!(finding.actual.as_deref(), Some("2 bad pages"));
        assert!(finding.why.expect("names").contains("ends within a page"));
    }

    #[test]
    fn a_page_that_is_being_written_is_read_again() {
        let dir = cluster(page(0));
        let path = dir.path().join("base/5/1259");
        let mut torn = page(0);
        torn[200] = 1;
        std::fs::write(&path, torn).expect("written");
        let finding = std::thread::scope(|scope| {
            let reader = scope.spawn(|| checked(&dir));
            std::thread::sleep(AGAIN_AFTER * 3);
            std::fs::write(&path, page(0)).expect("written");
            reader.join().expect("it ends")
        });
        assert_eq!(finding.status, Status::Passed);
    }

    #[test]
    fn what_the_server_adds_meanwhile_is_not_looked_at() {
        let dir = cluster(page(0));
        let listed = files(dir.path());
        let mut longer = page(0);
        longer.extend([9; 100]);
        std::fs::write(dir.path().join("base/5/1259"), longer).expect("written");
        let finding = check(dir.path(), listed, KIND, &AtomicBool::new(false));
        assert_eq!(finding.status, Status::Passed);
    }

    #[test]
    fn without_checksums_nothing_is_claimed() {
        let kind = Pages {
            checksums: false,
            ..KIND
        };
        let dir = cluster(page(0));
        let finding = check(dir.path(), files(dir.path()), kind, &AtomicBool::new(false));
        assert_eq!(finding.status, Status::NotRun);
    }
}
