//! Restoring: pages into a file, and the proof that it is the source.
//!
//! The target is written under a temporary name that the caller gives and renames at the end. A
//! `-wal`, `-shm` or `-journal` beside either name is refused: SQLite would replay a stranger's log
//! into the restored database. Every write may be repeated, so an interrupted restore goes on with
//! [`SqliteTarget::open`] on the file it left.
//!
//! The journal mode stays as it was in the source: the application finds the database as it left it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, OpenFlags};
use tidemark_engine::{Applied, EndProof, Error, Materialise, PageRun, ProofResult};
use tidemark_format::pages::{LogPages, PageDigest, PagesHead, is_page_size, lock_byte_page};

use crate::error::SqliteError;
use crate::files::{DatabaseHeader, beside};

/// Read at once by one thread of the proof.
const PROOF_BYTES: u32 = 1 << 20;
/// More threads than this don't read a disk faster.
const PROOF_THREADS: usize = 8;

/// A database being restored into a file.
#[derive(Debug)]
pub struct SqliteTarget {
    file: File,
    path: PathBuf,
    page_size: OnceLock<u32>,
    last: Option<PagesHead>,
    /// Where the last byte that was ever written stands.
    written: AtomicU64,
}

impl SqliteTarget {
    /// Opens `partial`, the temporary name, for a database that will be called `target`; what an
    /// earlier attempt wrote there stays.
    ///
    /// # Errors
    /// [`SqliteError::Stray`] for a journal beside either name, [`SqliteError::Io`].
    pub fn open(partial: &Path, target: &Path) -> Result<Self, Error> {
        for name in [partial, target] {
            for suffix in ["-wal", "-shm", "-journal"] {
                let stray = beside(name, suffix);
                if stray.symlink_metadata().is_ok() {
                    return Err(SqliteError::Stray { path: stray }.into());
                }
            }
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(partial)
            .map_err(SqliteError::io("making the target", partial))?;
        let metadata = file.metadata();
        let length = metadata
            .map_err(SqliteError::io("measuring the target", partial))?
            .len();
        Ok(Self {
            file,
            path: partial.to_path_buf(),
            page_size: OnceLock::new(),
            last: None,
            written: AtomicU64::new(length),
        })
    }

    fn agree_on_page_size(&self, page_size: u32) -> Result<(), SqliteError> {
        let contradiction = |why: String| SqliteError::Contradiction {
            path: self.path.clone(),
            why,
        };
        if !is_page_size(page_size) {
            return Err(contradiction(format!("{page_size} is no page size")));
        }
        let agreed = *self.page_size.get_or_init(|| page_size);
        if agreed == page_size {
            Ok(())
        } else {
            Err(contradiction(format!(
                "pages of {page_size} bytes after pages of {agreed}"
            )))
        }
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), SqliteError> {
        let end = at.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.written.fetch_max(end, Ordering::Relaxed);
        self.file
            .write_all_at(bytes, at)
            .map_err(SqliteError::io("writing the target", &self.path))
    }

    fn write_pages(&self, run: &PageRun) -> Result<(), SqliteError> {
        self.agree_on_page_size(run.page_size)?;
        let length = u64::from(run.count) * u64::from(run.page_size);
        let end = run.first.checked_add(u64::from(run.count));
        let sound = run.file == 0
            && u64::try_from(run.bytes.len()).ok() == Some(length)
            && end.is_some_and(|end| end <= u64::from(u32::MAX));
        if !sound {
            let why = "a run of pages contradicts itself".to_owned();
            return Err(SqliteError::Contradiction {
                path: self.path.clone(),
                why,
            });
        }
        self.write_at(&run.bytes, run.first * u64::from(run.page_size))
    }

    fn apply(&mut self, payload: &[u8]) -> Result<Applied, SqliteError> {
        let pages = LogPages::decode(payload)?;
        let page_size = pages.head.page_size;
        self.agree_on_page_size(page_size)?;
        for (number, page) in pages.pages() {
            self.write_at(page, u64::from(number - 1) * u64::from(page_size))?;
        }
        // Shortened at once: pages that come back later must not show what stood there before.
        let length = u64::from(pages.head.database_pages) * u64::from(page_size);
        self.file
            .set_len(length)
            .map_err(SqliteError::io("sizing the target", &self.path))?;
        self.last = Some(pages.head);
        Ok(Applied {
            pages: u64::try_from(pages.len()).unwrap_or(0),
            database_pages: u64::from(pages.head.database_pages),
            provable: pages.head.digest.is_some(),
        })
    }

    fn prove(&self) -> Result<EndProof, SqliteError> {
        let Some(head) = self.last else {
            return Err(SqliteError::Contradiction {
                path: self.path.clone(),
                why: "a base alone is not a state of the database; at least one log object must follow".to_owned(),
            });
        };
        let length = u64::from(head.database_pages) * u64::from(head.page_size);
        let digest = match head.digest {
            // Reading it back would take for ever, and prove nothing.
            Some(_) if length > self.written.load(Ordering::Relaxed) => {
                return Err(SqliteError::Contradiction {
                    path: self.path.clone(),
                    why: "the database is longer than everything that was written".to_owned(),
                });
            }
            Some(sealed) => {
                let found = self.digest(&head)?;
                if found != sealed {
                    return Err(SqliteError::DigestDiffers {
                        path: self.path.clone(),
                        found: format!("{:032x}", found.0),
                        sealed: format!("{:032x}", sealed.0),
                    });
                }
                Some(format!("{:032x}", found.0))
            }
            None => None,
        };
        let header = self.header()?;
        if header.page_size != head.page_size {
            return Err(SqliteError::NotADatabase {
                path: self.path.clone(),
            });
        }
        self.file
            .sync_all()
            .map_err(SqliteError::io("syncing the target", &self.path))?;
        let result = if digest.is_some() {
            ProofResult::Equal
        } else {
            ProofResult::NoDigest
        };
        let mode = if header.wal { "wal" } else { "rollback" };
        Ok(EndProof {
            result,
            digest,
            pages: u64::from(head.database_pages),
            page_size: head.page_size,
            facts: BTreeMap::from([
                ("journal_mode".to_owned(), mode.into()),
                ("user_version".to_owned(), header.user_version.into()),
            ]),
        })
    }

    fn header(&self) -> Result<DatabaseHeader, SqliteError> {
        let mut bytes = [0u8; 100];
        let there = self.file.read_exact_at(&mut bytes, 0).is_ok();
        DatabaseHeader::parse(&bytes)
            .filter(|_| there)
            .ok_or_else(|| SqliteError::NotADatabase {
                path: self.path.clone(),
            })
    }

    /// The digest of the whole file, read by a few threads.
    fn digest(&self, head: &PagesHead) -> Result<PageDigest, SqliteError> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = u32::try_from(threads.min(PROOF_THREADS)).unwrap_or(1);
        let share = head.database_pages / threads + 1;
        let parts: Vec<Result<PageDigest, SqliteError>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    let first = thread.saturating_mul(share).saturating_add(1);
                    let last = first.saturating_add(share - 1).min(head.database_pages);
                    scope.spawn(move || self.digest_part(head, first, last))
                })
                .collect();
            let broken = || SqliteError::Contract("a thread of the proof ended early");
            workers
                .into_iter()
                .map(|worker| worker.join().map_err(|_panic| broken())?)
                .collect()
        });
        parts
            .into_iter()
            .try_fold(PageDigest::default(), |sum, part| Ok(sum.plus(part?)))
    }

    fn digest_part(
        &self,
        head: &PagesHead,
        first: u32,
        last: u32,
    ) -> Result<PageDigest, SqliteError> {
        let page_bytes = usize::try_from(head.page_size).unwrap_or(usize::MAX);
        let lock_page = lock_byte_page(head.page_size);
        let window = (PROOF_BYTES / head.page_size).max(1);
        let mut buffer = vec![0; usize::try_from(window).unwrap_or(0) * page_bytes];
        let mut sum = PageDigest::default();
        let mut position = first;
        while position <= last {
            let count = window.min(last - position + 1);
            let wanted = buffer
                .split_at_mut(usize::try_from(count).unwrap_or(0) * page_bytes)
                .0;
            self.file
                .read_exact_at(wanted, u64::from(position - 1) * u64::from(head.page_size))
                .map_err(SqliteError::io("reading the target back", &self.path))?;
            for (number, page) in (position..).zip(wanted.chunks_exact(page_bytes)) {
                if number != lock_page {
                    sum = sum.plus(PageDigest::of(&head.digest_key, number, page));
                }
            }
            position += count;
        }
        Ok(sum)
    }
}

impl Materialise for SqliteTarget {
    fn write_run(&self, run: &PageRun) -> Result<(), Error> {
        Ok(self.write_pages(run)?)
    }

    fn apply_log(&mut self, payload: &[u8]) -> Result<Applied, Error> {
        Ok(self.apply(payload)?)
    }

    fn finish(self: Box<Self>) -> Result<EndProof, Error> {
        Ok(self.prove()?)
    }
}

/// Runs SQLite's own `integrity_check` over the restored file at `path`, changing nothing.
///
/// # Errors
/// [`SqliteError::Integrity`] with the first complaints, or the library's error.
pub fn check(path: &Path) -> Result<(), Error> {
    Ok(run_check(path)?)
}

/// What SQLite opens as a file that nobody changes: no `-wal` and `-shm` appear beside it.
pub(crate) fn immutable_name(path: &Path) -> Result<String, SqliteError> {
    let text = path.to_str().ok_or_else(|| SqliteError::Unreadable {
        path: path.to_path_buf(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, "the name is not UTF-8"),
    })?;
    let escaped = text
        .replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23");
    Ok(format!("file:{escaped}?immutable=1"))
}

fn run_check(path: &Path) -> Result<(), SqliteError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let complaint = |report: String| SqliteError::Integrity {
        path: path.to_path_buf(),
        report,
    };
    let failed = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            complaint(error.to_string())
        }
        _ => SqliteError::sqlite("checking the database", path)(error),
    };
    let connection = Connection::open_with_flags(immutable_name(path)?, flags).map_err(failed)?;
    let mut statement = connection
        .prepare("PRAGMA integrity_check(20)")
        .map_err(failed)?;
    let lines = statement
        .query_map([], |row| row.get::<_, String>(0))
        .map_err(failed)?;
    let lines: Vec<String> = lines.collect::<Result<_, _>>().map_err(failed)?;
    if lines == ["ok"] {
        Ok(())
    } else {
        Err(complaint(lines.join("; ")))
    }
}
