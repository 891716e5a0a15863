//! From files' bytes to page runs: cut into units, digested, compared with the base before, gathered.
//!
//! Every unit gets a digest in the new store; only units that differ from the base before are given
//! out (all of them in a complete base). Pages of relations are checked on the way.
//!
//! **Bounds.** One batch of about [`BATCH_BYTES`], one unit, the stores' windows and the table.

use tidemark_engine::PageRun;
use tidemark_format::postgres::Lsn;
use tidemark_format::postgres::layout::{BadPage, UNIT_BYTES};

use super::checksum::{self, PAGE_BYTES, Verdict, relation_segment};
use super::digests::{DIGEST_BYTES, Digest, Store, StoreWriter, digest};
use super::error::BaseError;
use super::readers::{Look, Piece};
use super::table::{FileTable, Place};

/// A batch is handed over once it has this much, which may be twice as much by then; a run is never
/// longer.
pub(crate) const BATCH_BYTES: usize = 1 << 20;
/// Bad pages that are listed one by one.
const BAD_LISTED_MAX: usize = 1000;

/// How pages are checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checks {
    /// Pages older than this must be right.
    pub(crate) start: Lsn,
    /// Pages of a whole segment of a relation.
    pub(crate) segment_blocks: u64,
}

impl Checks {
    /// The block of its relation that page `number` of a segment is.
    pub(crate) fn block(self, segment: u32, number: u64) -> Option<u32> {
        let before = u64::from(segment).checked_mul(self.segment_blocks)?;
        u32::try_from(before.checked_add(number)?).ok()
    }
}

/// Pages that were wrong.
#[derive(Debug, Clone, Default)]
pub(crate) struct BadPages {
    pub(crate) listed: Vec<BadPage>,
    pub(crate) total: u64,
    /// The first one's file and page, for people.
    pub(crate) first: Option<(String, u64)>,
}

/// The file that is being read.
#[derive(Debug)]
struct Current {
    number: u32,
    path: String,
    /// The segment of the relation whose pages are to be checked.
    segment: Option<u32>,
    before: Option<Place>,
    place: Place,
    /// The next unit.
    unit: u64,
    /// Bytes still to come.
    left: u64,
    /// Every unit is given out.
    whole: bool,
}

impl BadPages {
    fn note(&mut self, current: &Current, page: u64) {
        self.total += 1;
        if self.first.is_none() {
            self.first = Some((current.path.clone(), page));
        }
        if self.listed.len() < BAD_LISTED_MAX {
            self.listed.push(BadPage {
                file: current.number,
                page,
            });
        }
    }
}

/// Makes page runs from files.
#[derive(Debug)]
pub(crate) struct Builder {
    key: [u8; 32],
    before: Option<Store>,
    store: StoreWriter,
    table: FileTable,
    checks: Option<Checks>,
    current: Option<Current>,
    unit: Vec<u8>,
    run: Option<PageRun>,
    batch: Vec<PageRun>,
    batch_bytes: usize,
    bad: BadPages,
    image_bytes: u64,
}

const MIXED: BaseError = BaseError::Contract("files of a base were mixed up");

impl Builder {
    /// `before` is the store of the base before; without it every unit is given out.
    pub(crate) fn new(
        key: [u8; 32],
        before: Option<Store>,
        store: StoreWriter,
        table: FileTable,
    ) -> Self {
        Self {
            key,
            before,
            store,
            table,
            checks: None,
            current: None,
            unit: Vec::with_capacity(PAGE_BYTES),
            run: None,
            batch: Vec::new(),
            batch_bytes: 0,
            bad: BadPages::default(),
            image_bytes: 0,
        }
    }

    /// From now on pages of relations are checked.
    pub(crate) const fn check(&mut self, checks: Checks) {
        self.checks = Some(checks);
    }

    pub(crate) const fn bad(&self) -> &BadPages {
        &self.bad
    }

    /// Whether the server itself found any.
    pub(crate) fn note_server(&mut self, found: bool) {
        if found {
            // It may count pages that can't be checked here.
            self.bad.total = self.bad.total.max(1);
        }
    }

    /// Bytes of all files so far.
    pub(crate) const fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// A file of `bytes` begins; `whole`: give out all of it, whatever the base before has.
    pub(crate) fn begin_file(
        &mut self,
        path: &str,
        bytes: u64,
        whole: bool,
    ) -> Result<(), BaseError> {
        let number = self.table.number(path)?;
        let place = Place {
            bytes,
            digests_at: self.store.at(),
        };
        if !self.table.note(number, place) {
            return Err(BaseError::Contents(format!("{path} came twice")));
        }
        let checked = self.checks.and_then(|_| relation_segment(path));
        self.current = Some(Current {
            number,
            path: path.to_owned(),
            segment: checked,
            before: self.table.before(number),
            place,
            unit: 0,
            left: bytes,
            whole: whole || self.before.is_none(),
        });
        Ok(())
    }

    /// Takes bytes of the file, until a batch is full: what is left of them.
    pub(crate) fn data<'a>(&mut self, mut data: &'a [u8]) -> Result<&'a [u8], BaseError> {
        let mut current = self.current.take().ok_or(MIXED)?;
        while !data.is_empty() && self.batch_bytes < BATCH_BYTES {
            let wanted = (PAGE_BYTES - self.unit.len()).min(data.len());
            let (piece, rest) = data.split_at(wanted);
            data = rest;
            let length = piece.len() as u64;
            current.left = current.left.checked_sub(length).ok_or(MIXED)?;
            if self.unit.is_empty() && piece.len() == PAGE_BYTES {
                self.take_unit(&mut current, piece)?;
                continue;
            }
            self.unit.extend_from_slice(piece);
            if self.unit.len() == PAGE_BYTES || current.left == 0 {
                let mut unit = std::mem::take(&mut self.unit);
                unit.resize(PAGE_BYTES, 0);
                let taken = self.take_unit(&mut current, &unit);
                unit.clear();
                self.unit = unit;
                taken?;
            }
        }
        self.current = Some(current);
        Ok(data)
    }

    /// Takes a piece of the file that was read and digested already; a batch should not be full. Its
    /// buffer, to be used again, unless it was given out.
    pub(super) fn piece(&mut self, piece: Piece) -> Result<Vec<u8>, BaseError> {
        let mut current = self.current.take().ok_or(MIXED)?;
        let length = piece.length as u64;
        current.left = current.left.checked_sub(length).ok_or(MIXED)?;
        // Pieces but the last one end with a page.
        let whole_pages = piece.length == piece.bytes.len() || current.left == 0;
        if !self.unit.is_empty() || !whole_pages {
            return Err(MIXED);
        }
        for page in piece.bad {
            self.bad.note(&current, page);
        }
        let first = current.unit;
        current.unit += piece.digests.len() as u64;
        if current.whole {
            for new in &piece.digests {
                self.store.push(new)?;
            }
            self.give_out_whole(&current, first, piece.bytes);
            self.current = Some(current);
            Ok(Vec::new())
        } else {
            let (pages, _none) = piece.bytes.as_chunks::<PAGE_BYTES>();
            for ((page, new), number) in pages.iter().zip(&piece.digests).zip(first..) {
                self.take_digested(&current, number, page, new)?;
            }
            self.end_run();
            self.current = Some(current);
            Ok(piece.bytes)
        }
    }

    /// The file is over.
    pub(crate) fn end_file(&mut self) -> Result<(), BaseError> {
        let current = self.current.take().ok_or(MIXED)?;
        if current.left > 0 || current.unit != current.place.units() {
            return Err(MIXED);
        }
        self.image_bytes = self.image_bytes.saturating_add(current.place.bytes);
        self.end_run();
        Ok(())
    }

    fn take_unit(&mut self, current: &mut Current, unit: &[u8]) -> Result<(), BaseError> {
        let number = current.unit;
        current.unit += 1;
        self.check_page(current, number, unit);
        let new = digest(&self.key, unit);
        self.take_digested(current, number, unit, &new)
    }

    /// Gives a unit out unless the base before has it.
    fn take_digested(
        &mut self,
        current: &Current,
        number: u64,
        unit: &[u8],
        new: &Digest,
    ) -> Result<(), BaseError> {
        self.store.push(new)?;
        let known = current.before.filter(|place| number < place.units());
        let same = match (&mut self.before, known) {
            (Some(before), Some(place)) if !current.whole => {
                let at = place.digests_at.saturating_add(number * DIGEST_BYTES);
                before.digest(at)? == Some(*new)
            }
            _ => false,
        };
        if same {
            self.end_run();
        } else {
            self.give_out(current, number, unit);
        }
        Ok(())
    }

    fn give_out(&mut self, current: &Current, number: u64, unit: &[u8]) {
        // Changed pages stand alone as a rule; a whole file's run is as long as what is left of it.
        let more = match self.before {
            Some(_) => 0,
            None => usize::try_from(current.left).unwrap_or(usize::MAX),
        };
        let room = more
            .saturating_add(unit.len())
            .min(BATCH_BYTES.saturating_sub(self.batch_bytes));
        let run = self.run.get_or_insert_with(|| PageRun {
            file: current.number,
            first: number,
            count: 0,
            page_size: UNIT_BYTES,
            bytes: Vec::with_capacity(room.max(unit.len())),
        });
        run.count += 1;
        run.bytes.extend_from_slice(unit);
        self.batch_bytes += unit.len();
    }

    /// Gives out pages that are a run of their own, as they are.
    fn give_out_whole(&mut self, current: &Current, first: u64, bytes: Vec<u8>) {
        self.end_run();
        self.batch_bytes += bytes.len();
        self.batch.push(PageRun {
            file: current.number,
            first,
            count: u32::try_from(bytes.len() / PAGE_BYTES).unwrap_or(u32::MAX),
            page_size: UNIT_BYTES,
            bytes,
        });
    }

    fn end_run(&mut self) {
        if let Some(mut run) = self.run.take() {
            // A changed page here and there must not keep a buffer for all that follows.
            run.bytes.shrink_to_fit();
            self.batch.push(run);
        }
    }

    fn check_page(&mut self, current: &Current, number: u64, unit: &[u8]) {
        let (Some(checks), Some(segment)) = (self.checks, current.segment) else {
            return;
        };
        // Only whole pages: a relation's file may end in a part of one after a crash.
        let whole = (number + 1) * u64::from(UNIT_BYTES) <= current.place.bytes;
        let Some(page) = unit.first_chunk::<PAGE_BYTES>().filter(|_| whole) else {
            return;
        };
        let Some(block) = checks.block(segment, number) else {
            return;
        };
        if checksum::look(page, block, checks.start) == Verdict::Bad {
            self.bad.note(current, number);
        }
    }

    /// How others look at pages, whose pieces then come checked and digested.
    pub(super) const fn look(&mut self) -> Look {
        Look {
            key: self.key,
            checks: self.checks.take(),
        }
    }

    /// Whether a batch should be taken before more data comes.
    pub(crate) const fn is_full(&self) -> bool {
        self.batch_bytes >= BATCH_BYTES
    }

    /// The runs gathered so far.
    pub(crate) fn take_batch(&mut self) -> Vec<PageRun> {
        self.end_run();
        self.batch_bytes = 0;
        std::mem::take(&mut self.batch)
    }

    /// Makes the new store durable.
    pub(crate) fn finish(self) -> Result<(), BaseError> {
        self.store.finish(&self.table)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const KEY: [u8; 32] = [3; 32];

    fn feed(builder: &mut Builder, mut piece: &[u8], runs: &mut Vec<PageRun>) {
        while !piece.is_empty() {
            piece = builder.data(piece).unwrap();
            if builder.is_full() {
                runs.extend(builder.take_batch());
            }
        }
    }

    /// Makes base `number` of these files; the runs given out.
    fn base(folder: &Path, number: u64, files: &[(&str, Vec<u8>)]) -> Vec<PageRun> {
        let before = number
            .checked_sub(1)
            .map(|before| Store::open(folder, before, &KEY).expect("the base before is whole"));
        let (before, table) = match before {
            Some((store, table)) => (Some(store), table),
            None => (None, FileTable::new().unwrap()),
        };
        let store = StoreWriter::create(folder, number, &KEY).unwrap();
        let mut builder = Builder::new(KEY, before, store, table);
        let mut runs = Vec::new();
        for (path, bytes) in files {
            builder.begin_file(path, bytes.len() as u64, false).unwrap();
            for piece in bytes.chunks(5000) {
                feed(&mut builder, piece, &mut runs);
            }
            builder.end_file().unwrap();
        }
        runs.extend(builder.take_batch());
        builder.finish().unwrap();
        runs
    }

    fn shape(runs: &[PageRun]) -> Vec<(u32, u64, u32)> {
        runs.iter()
            .map(|run| (run.file, run.first, run.count))
            .collect()
    }

    fn pages(content: &[u8]) -> Vec<u8> {
        content
            .iter()
            .flat_map(|byte| [*byte; PAGE_BYTES])
            .collect()
    }

    #[test]
    fn a_complete_base_holds_every_unit_and_pads_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            ("small", b"PG_VERSION\n".to_vec()),
            ("empty", Vec::new()),
            ("three", pages(&[1, 2, 3])),
        ];
        let runs = base(folder.path(), 0, &files);
        assert_eq!(shape(&runs), [(1, 0, 1), (3, 0, 3)]);
        assert_eq!(runs[0].bytes.len(), PAGE_BYTES);
        assert!(runs[0].bytes.starts_with(b"PG_VERSION\n\0\0"));
        assert_eq!(runs[1].bytes, pages(&[1, 2, 3]));
    }

    #[test]
    fn the_next_base_holds_only_what_changed() {
        let folder = tempfile::tempdir().unwrap();
        let all = pages(&[1, 2, 3, 4, 5, 6]);
        base(folder.path(), 0, &[("a", all), ("b", pages(&[9]))]);
        let changed = pages(&[1, 7, 3, 7, 7, 6]);
        let runs = base(
            folder.path(),
            1,
            &[("a", changed.clone()), ("b", pages(&[9]))],
        );
        assert_eq!(shape(&runs), [(1, 1, 1), (1, 3, 2)]);
        assert!(base(folder.path(), 2, &[("b", pages(&[9])), ("a", changed)]).is_empty());
    }

    #[test]
    fn a_file_that_shrank_and_grew_again_is_stored_where_it_grew() {
        let folder = tempfile::tempdir().unwrap();
        base(folder.path(), 0, &[("a", pages(&[1, 2, 3, 4]))]);
        assert!(base(folder.path(), 1, &[("a", pages(&[1, 2]))]).is_empty());
        let runs = base(folder.path(), 2, &[("a", pages(&[1, 2, 3]))]);
        assert_eq!(shape(&runs), [(1, 2, 1)]);
    }

    #[test]
    fn a_file_that_vanished_and_came_back_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        base(folder.path(), 0, &[("a", pages(&[1])), ("b", pages(&[2]))]);
        assert!(base(folder.path(), 1, &[("b", pages(&[2]))]).is_empty());
        let runs = base(folder.path(), 2, &[("a", pages(&[1])), ("b", pages(&[2]))]);
        assert_eq!(shape(&runs), [(3, 0, 1)]);
        let files = super::super::digests::files(folder.path(), 2, &KEY).unwrap();
        let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["", "", "b", "a"], "the layout was not written here");
    }

    #[test]
    fn runs_and_batches_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..=255).cycle().take(700).collect();
        let runs = base(folder.path(), 0, &[("a", pages(&content))]);
        assert!(runs.iter().all(|run| run.bytes.len() <= BATCH_BYTES));
        let whole: Vec<u8> = runs.into_iter().flat_map(|run| run.bytes).collect();
        assert_eq!(whole, pages(&content));
    }

    #[test]
    fn bad_pages_are_counted_and_listed_but_not_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let store = StoreWriter::create(folder.path(), 0, &KEY).unwrap();
        let mut builder = Builder::new(KEY, None, store, FileTable::new().unwrap());
        builder.check(Checks {
            start: Lsn(u64::MAX),
            segment_blocks: 131_072,
        });
        // Neither new nor right.
        let spoiled = pages(&[0, 5, 0]);
        for path in ["base/1/16384", "pg_xact/0000"] {
            builder
                .begin_file(path, spoiled.len() as u64, false)
                .unwrap();
            assert!(builder.data(&spoiled).unwrap().is_empty());
            builder.end_file().unwrap();
        }
        assert_eq!(builder.bad().listed, [BadPage { file: 1, page: 1 }]);
        assert_eq!(builder.bad().first, Some(("base/1/16384".to_owned(), 1)));
        let given: u32 = builder.take_batch().iter().map(|run| run.count).sum();
        assert_eq!(given, 6);
    }

    #[test]
    fn a_file_that_comes_twice_or_with_other_bytes_than_announced_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = StoreWriter::create(folder.path(), 0, &KEY).unwrap();
        let mut builder = Builder::new(KEY, None, store, FileTable::new().unwrap());
        builder.begin_file("a", 10, false).unwrap();
        assert!(builder.data(&[0; 11]).is_err());
        builder.begin_file("b", 10, false).unwrap();
        builder.data(&[0; 9]).unwrap();
        assert!(builder.end_file().is_err());
        assert!(builder.begin_file("a", 10, false).is_err());
    }

    /// Names the child process of the test below.
    const CHILD: &str = "TIDEMARK_TEST_MEMORY_OF_200000_FILES";
    /// More than the table (30 MiB) and what a test process takes anyway.
    const CHILD_MEMORY_MAX_KB: u64 = 64 << 10;

    /// The most memory that this process ever had.
    fn memory_max_kb() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let digits = line.unwrap().trim().trim_end_matches(" kB");
        digits.parse().unwrap()
    }

    #[test]
    fn bases_of_two_hundred_thousand_files_stay_small_in_memory() {
        if std::env::var_os(CHILD).is_none() {
            // Only in a process of its own is the most memory this test's.
            let name =
                "base::pages::tests::bases_of_two_hundred_thousand_files_stay_small_in_memory";
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name, "--test-threads=1"])
                .env(CHILD, "1")
                .output()
                .unwrap();
            assert!(
                child.status.success(),
                "{}",
                String::from_utf8_lossy(&child.stdout)
            );
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        for number in 0..3 {
            let before = u64::checked_sub(number, 1);
            let (before, table) = match before {
                Some(before) => {
                    let (store, table) = Store::open(folder.path(), before, &KEY).unwrap();
                    (Some(store), table)
                }
                None => (None, FileTable::new().unwrap()),
            };
            let store = StoreWriter::create(folder.path(), number, &KEY).unwrap();
            let mut builder = Builder::new(KEY, before, store, table);
            let mut runs = 0;
            for file in 0..200_000 {
                let path = format!("pg_tblspc/16385/PG_18_202506291/16384/{}", 16_400 + file);
                builder.begin_file(&path, 8, false).unwrap();
                builder.data(b"8 bytes!").unwrap();
                builder.end_file().unwrap();
                if builder.is_full() {
                    runs += builder.take_batch().len();
                }
            }
            runs += builder.take_batch().len();
            builder.finish().unwrap();
            assert_eq!(runs, if number == 0 { 200_000 } else { 0 });
        }
        let memory = memory_max_kb();
        assert!(memory < CHILD_MEMORY_MAX_KB, "{memory} kB");
    }
}
