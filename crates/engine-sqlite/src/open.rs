//! Opening a source: the checks, the local state brought up to date, and the verdict on what
//! happened since.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use tidemark_engine::{Engine, Error, OpenRequest, Opened, UnfinishedBase, Verdict};
use tidemark_format::pages::{PageDigest, lock_byte_page};
use tidemark_format::{Incarnation, LogSeq};
use tidemark_host::Clock;

use crate::behind::{Change, Look};
use crate::book::{self, Book};
use crate::canary;
use crate::capture::WalCapture;
use crate::config::SqliteConfig;
use crate::core::Core;
use crate::error::SqliteError;
use crate::files::{DatabaseFile, FileId};
use crate::log::{Hold, Log, size_of};
use crate::map::{MapFile, key_id};
use crate::marks::Marks;
use crate::pending::Pending;
use crate::record::{self, Snapshot};
use crate::rollback::RollbackCapture;
use crate::seen::Seen;
use crate::shm::Shm;
use crate::stamp::Stamp;
use crate::state::{MapState, State, StateFolder};
use crate::tail::{Cursor, Tail};
use crate::witness::Witnesses;

/// Pages looked at to tell a restored or copied database from another one.
const SAMPLES: u32 = 256;
/// Fewer known samples than this decide nothing.
const SAMPLES_MIN: u32 = 8;

/// The SQLite engine for one database.
#[derive(Debug)]
pub struct SqliteEngine {
    config: SqliteConfig,
    clock: Arc<dyn Clock>,
}

impl SqliteEngine {
    /// An engine for the database that `config` names.
    #[must_use]
    pub const fn new(config: SqliteConfig, clock: Arc<dyn Clock>) -> Self {
        Self { config, clock }
    }
}

impl Engine for SqliteEngine {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn stamp(&self) -> Option<String> {
        let folder = self.config.path.parent();
        let places = [Some(self.config.path.as_path()), folder];
        let looks = places.into_iter().flatten().map(crate::files::look);
        Some(looks.collect::<Vec<_>>().join("; "))
    }

    fn open(&self, request: OpenRequest<'_>) -> Result<Opened, Error> {
        let file = DatabaseFile::open(&self.config.path)?;
        let folder = StateFolder::open(request.folder)?;
        let mut known = Known::load(&folder, request.records)?;
        let now = self.clock.now();
        let look = Look::before_opening(&file, now);
        if let Some(known) = &mut known {
            known.note_written_behind(look.as_ref(), now);
        }
        let (mut core, past) = self.core(file, folder, known, request.candidate)?;
        let incarnation = core.state.incarnation;
        let needs_complete_base = core.state.parent.is_none();
        let unfinished_base = core.state.base.map(|base| UnfinishedBase {
            start: base.start,
            complete: base.complete,
        });
        let (capture, verdict) = if core.file.uses_wal()? {
            core.look = look;
            open_wal(core, past)?
        } else {
            open_rollback(core, past)?
        };
        Ok(Opened {
            capture,
            incarnation,
            verdict,
            needs_complete_base,
            unfinished_base,
        })
    }

    fn remove_canary(&self) -> Result<Option<String>, Error> {
        match canary::take_away(&self.config.path) {
            Ok(was_there) => Ok(was_there.then(|| "the canary's table was dropped".to_owned())),
            Err(error) => Err(SqliteError::CanaryRemains {
                path: self.config.path.clone(),
                source: Box::new(error),
            }
            .into()),
        }
    }
}

/// What is known from before, records included.
struct Known {
    state: State,
    book: Option<Book>,
    sealed: Option<Snapshot>,
    /// The map was damaged and begins anew: everything will differ.
    damaged: bool,
}

impl Known {
    fn load(
        folder: &StateFolder,
        records: &mut dyn Iterator<Item = (LogSeq, Vec<u8>)>,
    ) -> Result<Option<Self>, SqliteError> {
        let Some(mut state) = folder.load()? else {
            return Ok(None);
        };
        let mut sealed = state.sealed.clone();
        let Some(map_state) = state.map.clone() else {
            return Ok(Some(Self {
                state,
                book: None,
                sealed,
                damaged: false,
            }));
        };
        let pages = sealed
            .as_ref()
            .map_or(map_state.pages, |sealed| sealed.pages);
        let (mut map, mut damaged) =
            match MapFile::open(folder.path(), map_state.number, map_state.key, pages) {
                Ok(map) => (map, false),
                Err(SqliteError::State { .. }) => (
                    MapFile::create(folder.path(), map_state.number, map_state.key, pages)?,
                    true,
                ),
                Err(error) => return Err(error),
            };
        for (_seq, bytes) in records {
            let (snapshot, entries) = record::decode(&bytes, folder.path())?;
            // Of an earlier generation: its map was made durable when this one was opened.
            if snapshot.key_id == key_id(&map_state.key) {
                book::apply(&mut map, &snapshot, &entries)?;
                state.tag = state.tag.max(snapshot.tag);
                // Of the same cut the state knows as much, and looked later.
                let known = |sealed: &Snapshot| sealed.is_same_cut(&snapshot);
                sealed = sealed.filter(known).or(Some(snapshot));
            }
        }
        // Earlier maps know nothing of the cuts since; beside a damaged one they would mislead.
        let olds = if damaged {
            Vec::new()
        } else {
            open_olds(folder, &state.olds)
        };
        let mut book = Book::new(map, olds, state.page_size)?;
        let digest = format!("{:032x}", book.now().sum.0);
        let expected = sealed.as_ref().and_then(|sealed| sealed.digest.clone());
        if expected.is_some_and(|expected| expected != digest || book.now().unknown > 0) {
            let pages = book.now().pages;
            let map = MapFile::create(folder.path(), map_state.number, map_state.key, pages)?;
            book = Book::new(map, Vec::new(), state.page_size)?;
            damaged = true;
        }
        Ok(Some(Self {
            state,
            book: Some(book),
            sealed,
            damaged,
        }))
    }
}

impl Known {
    /// A file that was written since the last record, by no checkpoint, is treated as one that was put
    /// in the place of the one known.
    fn note_written_behind(&mut self, look: Option<&Look>, now: Timestamp) {
        let sealed = self.sealed.as_ref();
        let recorded = sealed.and_then(|sealed| sealed.look.as_ref());
        let change = recorded
            .zip(look)
            .map(|(recorded, look)| recorded.compare(look, false, now));
        if change == Some(Change::Behind) {
            self.state.file = FileId::default();
        }
    }
}

/// The maps of generations whose successor has no base yet; one that is lost only costs bytes.
fn open_olds(folder: &StateFolder, olds: &[MapState]) -> Vec<MapFile> {
    olds.iter()
        .filter_map(|old| MapFile::open(folder.path(), old.number, old.key, old.pages).ok())
        .collect()
}

/// What the past means for the verdict.
struct Past {
    /// The verdict that is certain already.
    verdict: Option<Verdict>,
    /// Why the log can't simply go on.
    gap: Option<String>,
    sealed: Option<Snapshot>,
}

impl SqliteEngine {
    fn core(
        &self,
        file: DatabaseFile,
        folder: StateFolder,
        known: Option<Known>,
        candidate: Incarnation,
    ) -> Result<(Core, Past), SqliteError> {
        let header = file.header()?;
        let fresh = State::new(
            candidate,
            header.page_size,
            file.id(),
            header.application_id,
        );
        let (state, book, past) = match known {
            None => (
                fresh,
                None,
                Past {
                    verdict: Some(Verdict::New),
                    gap: None,
                    sealed: None,
                },
            ),
            Some(known) => match other_life(&known, &file, header.page_size)? {
                Some(reason) => {
                    // Stored first: a crash between the two must not leave a map-less old life that
                    // the other database would be appended to.
                    folder.store(&fresh)?;
                    forget(&folder, &known.state);
                    let verdict = Some(Verdict::NewIncarnation { reason });
                    (
                        fresh,
                        None,
                        Past {
                            verdict,
                            gap: None,
                            sealed: None,
                        },
                    )
                }
                None => carry_on(known, &file),
            },
        };
        if state.sealed.is_none() && past.sealed.is_none() {
            folder.store(&state)?;
        }
        let last = past.sealed.as_ref();
        let core = Core {
            config: self.config.clone(),
            clock: Arc::clone(&self.clock),
            folder,
            pages: last.map_or(0, |sealed| sealed.pages),
            owed: last.is_some_and(|sealed| !sealed.restorable),
            ends_in_piece: last.is_some_and(|sealed| !sealed.restorable),
            last_commit: last.and_then(|sealed| sealed.last_commit),
            complete_until: None,
            look: None,
            witnesses: last.map_or_else(Witnesses::default, |sealed| sealed.witnesses.clone()),
            sealed: past.sealed.clone(),
            file,
            state,
            book,
            pending: Pending::default(),
            base: None,
            base_void: false,
            diff: None,
            lost: None,
            forced: false,
            full: false,
            alerts: BTreeMap::new(),
        };
        Ok((core, past))
    }
}

fn carry_on(known: Known, file: &DatabaseFile) -> (State, Option<Book>, Past) {
    let mut state = known.state;
    let mut gap = None;
    if state.behind.is_some() {
        // Whoever opened the database meanwhile may have put those frames into the file.
        gap = Some("the file was written behind a log that may have hidden pages of it".to_owned());
    }
    if state.file != file.id() {
        gap = Some("the database file was replaced, or written behind SQLite's back".to_owned());
    } else if known.damaged {
        gap = Some("the local page map was damaged".to_owned());
    } else if known
        .sealed
        .as_ref()
        .is_some_and(|sealed| sealed.catching_up)
    {
        gap = Some("a catch-up was interrupted".to_owned());
    }
    let verdict = known.sealed.is_none().then_some(Verdict::New);
    if verdict.is_some() {
        state.file = file.id();
    }
    (
        state,
        known.book,
        Past {
            verdict,
            gap,
            sealed: known.sealed,
        },
    )
}

/// Why this is another life of the source, if it is.
fn other_life(
    known: &Known,
    file: &DatabaseFile,
    page_size: u32,
) -> Result<Option<String>, SqliteError> {
    if known.state.page_size != page_size {
        return Ok(Some(format!(
            "the page size is {page_size}, it was {}",
            known.state.page_size
        )));
    }
    let (Some(book), false) = (&known.book, known.state.file == file.id()) else {
        return Ok(None);
    };
    let pages = book.now().pages;
    let step = (pages / SAMPLES).max(1);
    let mut buffer = vec![0; usize::try_from(page_size).unwrap_or(0)];
    let (mut compared, mut equal) = (0u32, 0u32);
    let mut number = 1u32;
    while number <= pages {
        let entry = book
            .entries(number, 1)?
            .first()
            .copied()
            .unwrap_or_default();
        if entry.is_known() && number != lock_byte_page(page_size) {
            compared += 1;
            let there = file.read_pages(number, page_size, &mut buffer)? == 1;
            equal +=
                u32::from(there && PageDigest::of(book.key(), number, &buffer) == entry.digest);
        }
        number = number.saturating_add(step);
    }
    let unrelated = compared >= SAMPLES_MIN && equal.saturating_mul(20) < compared;
    Ok(unrelated.then(|| {
        format!("another database has its name ({equal} of {compared} sampled pages are the same)")
    }))
}

fn forget(folder: &StateFolder, state: &State) {
    for map in state.map.iter().chain(&state.olds) {
        MapFile::remove(folder.path(), map.number);
    }
}

type OpenedCapture = (Box<dyn tidemark_engine::Capture>, Verdict);

fn open_wal(mut core: Core, past: Past) -> Result<OpenedCapture, SqliteError> {
    let path = core.file.path().to_path_buf();
    let page_size = core.page_size();
    // The mark first, then the comparison: from here on nothing is missed.
    let marks = Marks::open(&path)?;
    let tail = Tail::open(&path, page_size)?;
    let shm = Shm::open(&path)?;
    let start = Cursor::start([0, 0]);
    let mut log = Log {
        shm,
        tail,
        cursor: start,
        rewound_from: 0,
        hold: Hold::None,
        seen: Seen::default(),
        hides: false,
    };
    let index = log.index(&core)?;
    let saved = past.sealed.as_ref().and_then(|sealed| sealed.cursor);
    let holds = match &saved {
        Some(cursor) => log.tail.holds(cursor, &index)?,
        None => false,
    };
    let verdict = match (past.verdict, past.gap, saved) {
        (Some(verdict), _, _) => {
            log.cursor = Cursor::at_end(&index);
            log.hold = Hold::MaybeAtRest;
            core.pages = size_of(&index, &core)?;
            verdict
        }
        (None, None, Some(cursor)) if holds => {
            log.cursor = cursor;
            log.rewound_from = past.sealed.as_ref().map_or(0, |sealed| sealed.rewound_from);
            core.pending.open_transaction =
                past.sealed.is_some_and(|sealed| sealed.open_transaction);
            Verdict::Continues
        }
        (None, gap, _) => {
            log.cursor = Cursor::at_end(&index);
            core.pages = size_of(&index, &core)?;
            let reason = gap.unwrap_or_else(|| {
                "the WAL is not the one that was captured: it was restarted while nobody captured".to_owned()
            });
            core.lost = Some(reason.clone());
            Verdict::CatchUp { reason }
        }
    };
    Ok((Box::new(WalCapture::new(marks, log, core)), verdict))
}

fn open_rollback(mut core: Core, past: Past) -> Result<OpenedCapture, SqliteError> {
    let connection = RollbackCapture::connect(&core)?;
    let stamp = Stamp::of(&core.file)?;
    let saved = past.sealed.as_ref().and_then(|sealed| sealed.stamp);
    let verdict = match (past.verdict, past.gap) {
        (Some(verdict), _) => verdict,
        (None, None) if saved == Some(stamp) => Verdict::Continues,
        (None, gap) => Verdict::CatchUp {
            reason: gap
                .unwrap_or_else(|| "the database was written while nobody captured".to_owned()),
        },
    };
    let captured = Some(stamp).filter(|_| verdict == Verdict::Continues);
    core.pages = stamp.pages(core.page_size());
    Ok((
        Box::new(RollbackCapture::new(connection, core, captured)),
        verdict,
    ))
}
