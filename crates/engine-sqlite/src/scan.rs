//! Reading the database file in slices while it lives: bases and catch-ups.
//!
//! **Why a slice may be read while the mark moves.** The file holds nothing but captured commits:
//! a checkpoint copies frames only up to the mark, and the mark never passes what is captured. What
//! the file lacks at the start is captured again (the capture rewinds to the last frame in the file),
//! so it goes with the first cut. A page torn by a checkpoint is one whose frame is captured: it
//! goes with a cut, too. So base plus every cut since is exact, and a page that differs from the
//! map without being captured is a change that was missed.

use tidemark_engine::{BaseSlice, BaseStart, PageRun, Workspace};
use tidemark_format::LogSeq;
use tidemark_format::body::FileEntry;
use tidemark_format::pages::{PageDigest, lock_byte_page};

use crate::book::WINDOW_PAGES;
use crate::core::Core;
use crate::error::SqliteError;
use crate::map::Entry;
use crate::state::BaseState;

/// The longest run of a base.
const RUN_BYTES: u32 = 1 << 20;

/// A base in the works.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BaseRun {
    /// Its number: cuts since its start carry it or a larger one.
    pub(crate) tag: u32,
    /// The number of the base before; `None` for a complete one.
    parent: Option<u32>,
    position: u32,
    end: u32,
    /// The first restorable cut after its last slice.
    usable: Option<LogSeq>,
    /// That cut is sealed: whatever is missed from now on, the base is exact.
    exact: bool,
}

impl BaseRun {
    /// A restorable cut was made.
    pub(crate) fn note_cut(&mut self, seq: LogSeq) {
        if self.position > self.end {
            self.usable.get_or_insert(seq);
        }
    }

    /// A cut was sealed.
    pub(crate) fn note_sealed(&mut self, seq: LogSeq) {
        self.exact |= self.usable == Some(seq);
    }

    const fn will_read(&self, number: u32) -> bool {
        self.parent.is_none() && self.position <= number && number <= self.end
    }

    pub(crate) const fn holds_everything(&self) -> bool {
        self.parent.is_none() && self.position > self.end
    }
}

/// The one file of a source, as bases name it.
const MAIN_FILE: &str = "main";

/// A catch-up in the works.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiffRun {
    /// Cuts since its start carry this number or a larger one.
    tag: u32,
    /// What was captured since its start is newer than the file (in WAL mode), never older.
    log_is_newer: bool,
    /// The next page to compare.
    pub(crate) position: u32,
    found: u64,
}

/// How a slice of a catch-up ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiffSlice {
    /// There is more.
    More,
    /// Cut before there can be more.
    Full,
    /// Every page was compared.
    Done,
}

impl Core {
    /// Begins a base with the next cut; the caller has rewound its capture to what the file holds.
    pub(crate) fn begin_base(
        &mut self,
        start: LogSeq,
        complete: bool,
    ) -> Result<BaseStart, SqliteError> {
        // Pieces of a transaction that is still to be captured to its end may have made it larger.
        let end = self.pages.max(self.book()?.now().pages);
        let parent = self.state.parent.filter(|_| !complete);
        self.state.tag += 1;
        let tag = self.state.tag;
        self.state.base = Some(BaseState {
            tag,
            complete: parent.is_none(),
            start,
        });
        // The number must be durable before the first cut carries it.
        self.folder.store(&self.state)?;
        self.base_void = false;
        self.base = Some(BaseRun {
            tag,
            parent,
            position: 1,
            end,
            usable: None,
            exact: false,
        });
        self.forced = true;
        Ok(BaseStart {
            start,
            complete: parent.is_none(),
            page_size: self.page_size(),
            pages: u64::from(end),
        })
    }

    /// The next pages of the base. Call only while the file holds captured commits and nothing else.
    pub(crate) fn base_slice(&mut self, max_bytes: usize) -> Result<BaseSlice, SqliteError> {
        self.check_base_stands()?;
        let Some(mut base) = self.base else {
            return Err(SqliteError::Contract(
                "a slice was asked for without a base",
            ));
        };
        let mut runs = Vec::new();
        let mut bytes = 0;
        while bytes < max_bytes && base.position <= base.end && self.lost.is_none() {
            let (run, next) = self.next_run(&base, max_bytes - bytes)?;
            base.position = next;
            if let Some(run) = run {
                bytes += run.bytes.len();
                runs.push(run);
            } else if base.parent.is_some() && bytes == 0 {
                // One window without a change is enough for one call: polls want their turn.
                break;
            }
        }
        let done = base.position > base.end;
        self.forced |= done;
        self.base = Some(base);
        let progress = self.progress(base.position);
        let main = done.then(|| FileEntry {
            path: MAIN_FILE.to_owned(),
            bytes: progress.total,
        });
        Ok(BaseSlice {
            runs,
            done,
            progress,
            files: main.into_iter().collect(),
        })
    }

    /// The next run, and the page to go on with.
    fn next_run(
        &mut self,
        base: &BaseRun,
        max_bytes: usize,
    ) -> Result<(Option<PageRun>, u32), SqliteError> {
        let lock_page = lock_byte_page(self.page_size());
        let room = u32::try_from(max_bytes).unwrap_or(RUN_BYTES).min(RUN_BYTES);
        let run_pages = (room / self.page_size()).max(1);
        let left = base.end - base.position + 1;
        let window = match base.parent {
            Some(_) => WINDOW_PAGES.min(left),
            None => run_pages.min(left),
        };
        let entries = self.book()?.entries(base.position, window)?;
        let wanted = |number: u32, entry: &Entry| {
            let changed = match base.parent {
                Some(parent) => !entry.is_known() || (parent..base.tag).contains(&entry.tag),
                None => true,
            };
            changed && number != lock_page
        };
        let numbered = || (base.position..).zip(&entries);
        let Some((first, _)) = numbered().find(|(number, entry)| wanted(*number, entry)) else {
            return Ok((None, base.position + window));
        };
        let count = numbered()
            .skip_while(|(number, _)| *number < first)
            .take_while(|(number, entry)| wanted(*number, entry) && number - first < run_pages)
            .count();
        let count = u32::try_from(count).unwrap_or(0);
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * self.page_bytes()];
        let whole = self.file.read_pages(first, self.page_size(), &mut bytes)?;
        bytes.truncate(usize::try_from(whole).unwrap_or(0) * self.page_bytes());
        let skip = usize::try_from(first - base.position).unwrap_or(0);
        self.check_run(
            first,
            &bytes,
            entries.get(skip..).unwrap_or_default(),
            base.tag,
        )?;
        // The file ends before the database does: the rest is in the log.
        let next = if whole < count {
            base.end + 1
        } else {
            first + count
        };
        let run = PageRun {
            file: 0,
            first: u64::from(first - 1),
            count: whole,
            page_size: self.page_size(),
            bytes,
        };
        Ok((Some(run).filter(|run| run.count > 0), next))
    }

    /// Compares pages of a base with what is known, and learns what is not.
    fn check_run(
        &mut self,
        first: u32,
        bytes: &[u8],
        entries: &[Entry],
        tag: u32,
    ) -> Result<(), SqliteError> {
        let mut learned = Vec::new();
        let book = self.book()?;
        let mut differing = None;
        for ((number, page), entry) in (first..)
            .zip(bytes.chunks_exact(self.page_bytes()))
            .zip(entries)
        {
            if self.pending.has(number) || (entry.is_known() && entry.tag >= tag) {
                continue;
            }
            let digest = PageDigest::of(book.key(), number, page);
            if !entry.is_known() {
                learned.push((number, digest));
            } else if entry.digest != digest {
                differing = Some(number);
            }
        }
        self.book_mut()?.learn(&learned)?;
        if let Some(number) = differing {
            self.lost = Some(format!("page {number} is not what was captured"));
        }
        Ok(())
    }

    /// Something was missed: pages that the running base has passed while they were captured may
    /// never be cut as they were. It must begin again.
    pub(crate) fn void_base(&mut self) {
        let stands = |base: &BaseRun| base.exact || base.position == 1;
        if !self.base.as_ref().is_some_and(stands) {
            self.base_void |= self.base.take().is_some();
        }
    }

    /// See [`tidemark_engine::Capture::base_stands`].
    pub(crate) fn check_base_stands(&mut self) -> Result<(), SqliteError> {
        if self.base_void {
            self.state.base = None;
            return Err(SqliteError::BaseVoid {
                path: self.file.path().to_path_buf(),
            });
        }
        Ok(())
    }

    /// See [`tidemark_engine::Capture::base_done`].
    pub(crate) fn base_done(&mut self) -> Result<(), SqliteError> {
        self.check_base_stands()?;
        let Some(base) = self.state.base else {
            return Err(SqliteError::Contract("no base was begun"));
        };
        if self.base.is_some_and(|run| run.position <= run.end) {
            return Err(SqliteError::Contract(
                "a base was called done before its last slice",
            ));
        }
        self.book()?.sync()?;
        self.state.base = None;
        self.state.parent = Some(base.tag);
        let was_based = self.state.ever_based;
        self.state.ever_based = true;
        self.state.olds.clear();
        self.state.sealed.clone_from(&self.sealed);
        self.folder.store(&self.state)?;
        let folder = self.folder.path().to_path_buf();
        self.book_mut()?.drop_olds(&folder);
        if !was_based && self.base.is_none() {
            // Published before a crash: what the map lost then is found by comparing.
            self.lost
                .get_or_insert_with(|| "the first base was published before a crash".to_owned());
        }
        self.base = None;
        Ok(())
    }

    /// See [`tidemark_engine::Capture::base_abandoned`].
    pub(crate) fn base_abandoned(&mut self) {
        self.base_void = false;
        self.base = None;
        self.state.base = None;
    }

    /// Begins a catch-up; the caller has rewound its capture to what the file holds.
    pub(crate) fn begin_diff(&mut self, log_is_newer: bool) {
        self.lost = None;
        self.owed = true;
        self.state.tag += 1;
        self.diff = Some(DiffRun {
            tag: self.state.tag,
            log_is_newer,
            position: 1,
            found: 0,
        });
    }

    /// Compares about `max_bytes` of the file with what the chain holds.
    pub(crate) fn diff_slice(
        &mut self,
        max_bytes: u32,
        work: &mut Workspace,
    ) -> Result<DiffSlice, SqliteError> {
        let Some(mut diff) = self.diff else {
            return Ok(DiffSlice::Done);
        };
        let run_pages = (RUN_BYTES / self.page_size()).max(1);
        let mut left = (max_bytes / self.page_size()).max(1);
        let end = loop {
            if diff.position > self.pages {
                break DiffSlice::Done;
            }
            if left == 0 {
                break DiffSlice::More;
            }
            let count = run_pages.min(self.pages - diff.position + 1).min(left);
            let compared = self.compare(&mut diff, count, work)?;
            left -= compared.min(left);
            if compared < count {
                break DiffSlice::Full;
            }
        };
        self.diff = Some(diff);
        if end == DiffSlice::Done {
            self.diff = None;
            // Only now is this file the one that the chain continues.
            self.state.file = self.file.id();
            if diff.found > 0 {
                let now = self.observed_now();
                self.pending.observe(now);
            }
        }
        Ok(end)
    }

    /// Compares `count` pages from the run's position; says how many before the bound was reached.
    fn compare(
        &mut self,
        diff: &mut DiffRun,
        count: u32,
        work: &mut Workspace,
    ) -> Result<u32, SqliteError> {
        let page_bytes = self.page_bytes();
        let page_size = self.page_size();
        let lock_page = lock_byte_page(page_size);
        let now = self.observed_now();
        let book = self
            .book
            .as_ref()
            .ok_or(SqliteError::Contract("no generation is open yet"))?;
        let entries = book.entries(diff.position, count)?;
        let buffer = work.take(usize::try_from(count).unwrap_or(0) * page_bytes);
        buffer.fill(0);
        let whole = self.file.read_pages(diff.position, page_size, buffer)?;
        if let Some(beyond) = buffer.get_mut(usize::try_from(whole).unwrap_or(0) * page_bytes..) {
            // Pages that the file lacks and no commit wrote read as zeros.
            beyond.fill(0);
        }
        let mut compared = 0;
        for (page, entry) in buffer.chunks_exact(page_bytes).zip(&entries) {
            let number = diff.position;
            let pending = self.pending.has(number);
            let captured = pending || (entry.is_known() && entry.tag >= diff.tag);
            let skipped = number == lock_page || (captured && diff.log_is_newer);
            let same = if skipped {
                true
            } else if pending {
                false
            } else if entry.is_known() {
                entry.digest == PageDigest::of(book.key(), number, page)
            } else {
                // Unknown in this generation. Its first base, if it still comes to this page, holds
                // it; what an earlier generation's log reads here must still be shipped.
                let first_base_comes = self.state.parent.is_none()
                    && self.base.is_none_or(|base| base.will_read(number));
                first_base_comes
                    && book
                        .old_equals(number, page)?
                        .unwrap_or(!self.state.ever_based)
            };
            let room = pending || self.pending.room(self.config.cut_bytes, page_bytes) > 0;
            if !same && !room {
                self.full = true;
                break;
            }
            if !same {
                self.pending.put(number, page, now);
                diff.found += 1;
            }
            diff.position += 1;
            compared += 1;
        }
        Ok(compared)
    }
}
