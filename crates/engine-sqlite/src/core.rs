//! What capture has in common whatever the journal mode: cuts, generations, alerts, the state file.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use tidemark_engine::{Alert, COMPLETE_UNTIL, LogCut, Poll, Probe, Progress};
use tidemark_format::LogSeq;
use tidemark_format::pages::{PageDigest, PagesHead, PagesWriter};
use tidemark_host::Clock;

use crate::behind::Look;
use crate::book::{Book, Change};
use crate::config::SqliteConfig;
use crate::error::SqliteError;
use crate::files::DatabaseFile;
use crate::map::{MapFile, key_id};
use crate::pending::Pending;
use crate::record::{self, Snapshot};
use crate::scan::{BaseRun, DiffRun};
use crate::stamp::Stamp;
use crate::state::{MapState, State, StateFolder};
use crate::tail::Cursor;
use crate::witness::Witnesses;

/// Where the capture that uses a [`Core`] stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position {
    pub(crate) cursor: Option<Cursor>,
    pub(crate) rewound_from: u32,
    pub(crate) stamp: Option<Stamp>,
    /// What is captured ends at a commit.
    pub(crate) at_commit: bool,
}

/// The common part of both captures. Dropped after every connection (it holds the database file).
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: SqliteConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) file: DatabaseFile,
    pub(crate) folder: StateFolder,
    pub(crate) state: State,
    pub(crate) book: Option<Book>,
    pub(crate) pending: Pending,
    /// Size of the database in pages after the last captured commit.
    pub(crate) pages: u32,
    pub(crate) base: Option<BaseRun>,
    /// The base in the works was given up by the engine, and the caller doesn't know yet.
    pub(crate) base_void: bool,
    pub(crate) diff: Option<DiffRun>,
    /// Something may have been missed: a catch-up must begin.
    pub(crate) lost: Option<String>,
    /// The last cut was a piece: a restorable one is owed, even an empty one.
    pub(crate) owed: bool,
    /// The log ends in a piece: nothing is promised before a restorable cut has followed it.
    pub(crate) ends_in_piece: bool,
    /// A cut must come even when nothing changed (a generation or a base begins or ends).
    pub(crate) forced: bool,
    /// The bound of a cut was reached: nothing more is captured before one.
    pub(crate) full: bool,
    pub(crate) last_commit: Option<Timestamp>,
    /// Everything committed by then is captured.
    pub(crate) complete_until: Option<Timestamp>,
    pub(crate) sealed: Option<Snapshot>,
    /// What the file of a database in WAL mode looked like last.
    pub(crate) look: Option<Look>,
    pub(crate) witnesses: Witnesses,
    pub(crate) alerts: BTreeMap<&'static str, String>,
}

impl Core {
    pub(crate) fn page_size(&self) -> u32 {
        self.state.page_size
    }

    pub(crate) fn page_bytes(&self) -> usize {
        usize::try_from(self.state.page_size).unwrap_or(usize::MAX)
    }

    /// The book, which exists once a generation was opened.
    pub(crate) fn book(&self) -> Result<&Book, SqliteError> {
        self.book
            .as_ref()
            .ok_or(SqliteError::Contract("no generation is open yet"))
    }

    pub(crate) fn book_mut(&mut self) -> Result<&mut Book, SqliteError> {
        self.book
            .as_mut()
            .ok_or(SqliteError::Contract("no generation is open yet"))
    }

    /// Now, but never before a commit seen earlier.
    pub(crate) fn observed_now(&self) -> Timestamp {
        let now = self.clock.now();
        self.last_commit.map_or(now, |last| last.max(now))
    }

    /// Everything committed by `at` is captured, unless something is being looked for.
    pub(crate) fn complete(&mut self, at: Timestamp) {
        if self.lost.is_none() && self.diff.is_none() {
            self.complete_until = self.complete_until.max(Some(at));
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full || self.pending.room(self.config.cut_bytes, self.page_bytes()) == 0
    }

    /// A cut now would be restorable, if what is captured ends at a commit.
    fn is_restorable(&self, at_commit: bool) -> bool {
        at_commit && self.diff.is_none() && self.lost.is_none() && !self.pending.open_transaction
    }

    /// See [`tidemark_engine::Capture::cut`].
    pub(crate) fn cut(
        &mut self,
        seq: LogSeq,
        position: &Position,
    ) -> Result<Option<LogCut>, SqliteError> {
        let mut restorable = self.is_restorable(position.at_commit);
        let book = self.book()?;
        let wanted = !self.pending.is_empty() || (restorable && (self.forced || self.owed));
        if !wanted {
            return Ok(None);
        }
        let page_bytes = self.page_bytes();
        let entries: Vec<(u32, PageDigest)> = self
            .pending
            .pages(page_bytes)
            .map(|(number, page)| (number, PageDigest::of(book.key(), number, page)))
            .collect();
        // A piece never shortens the database: only its last one knows the size.
        let grown = book.now().pages.max(self.pending.last_number());
        let mut change = book.change(&entries, if restorable { self.pages } else { grown })?;
        let all_known = self.state.parent.is_some()
            || self.base.as_ref().is_some_and(BaseRun::holds_everything);
        let missing = restorable && change.unknown > 0 && all_known;
        if missing {
            restorable = false;
            change = book.change(&entries, grown)?;
        }
        if missing {
            self.lost = Some(format!(
                "{} pages came without being in the WAL",
                change.unknown
            ));
        }
        self.finish_cut(seq, position, restorable, change, entries)
            .map(Some)
    }

    fn finish_cut(
        &mut self,
        seq: LogSeq,
        position: &Position,
        restorable: bool,
        change: Change,
        entries: Vec<(u32, PageDigest)>,
    ) -> Result<LogCut, SqliteError> {
        if let Some(cursor) = &position.cursor {
            self.witnesses.note_cut(&entries, change.pages, cursor);
        }
        let book = self.book()?;
        let digest = (restorable && change.unknown == 0).then_some(change.sum);
        let head = PagesHead {
            page_size: self.page_size(),
            database_pages: change.pages,
            digest_key: *book.key(),
            digest,
        };
        let last_commit = self.pending.last_commit.or(self.last_commit);
        let snapshot = Snapshot {
            seq,
            key_id: key_id(book.key()),
            tag: self.state.tag,
            pages: change.pages,
            restorable,
            catching_up: self.diff.is_some() || self.lost.is_some(),
            cursor: position.cursor,
            rewound_from: position.rewound_from,
            open_transaction: self.pending.open_transaction,
            stamp: position.stamp,
            digest: digest.map(|digest| format!("{:032x}", digest.0)),
            last_commit,
            look: self.look,
            witnesses: self.witnesses.clone(),
        };
        let record = record::encode(&snapshot, &entries)?;
        let pending = self.pending.take();
        let numbers: Vec<u32> = entries.iter().map(|(number, _)| *number).collect();
        let mut writer = PagesWriter::new(&head, &numbers);
        for (_, page) in pending.pages(self.page_bytes()) {
            writer.page(page);
        }
        self.book_mut()?.enter(change, snapshot, entries);
        self.last_commit = last_commit;
        self.full = false;
        if let Some(base) = self.base.as_mut().filter(|_| restorable) {
            base.note_cut(seq);
        }
        self.owed = !restorable;
        self.ends_in_piece = !restorable;
        self.forced &= !restorable;
        let pages = u64::try_from(numbers.len()).unwrap_or(0);
        let mut facts = BTreeMap::from([
            ("page_size".to_owned(), self.page_size().into()),
            ("pages".to_owned(), change.pages.into()),
            ("pages_changed".to_owned(), pages.into()),
        ]);
        if let Some(until) = self.complete_until.filter(|_| restorable) {
            facts.insert(COMPLETE_UNTIL.to_owned(), until.to_string().into());
        }
        Ok(LogCut {
            payload: writer.finish(),
            record,
            restorable,
            transactions: pending.transactions,
            first_commit: pending.first_commit,
            last_commit: pending.last_commit,
            facts,
            bytes_changed: pages * u64::from(self.page_size()),
        })
    }

    /// See [`tidemark_engine::Capture::sealed`].
    pub(crate) fn seal(&mut self, seq: LogSeq) -> Result<(), SqliteError> {
        self.sealed = Some(self.book_mut()?.seal(seq)?);
        if let Some(base) = &mut self.base {
            base.note_sealed(seq);
        }
        Ok(())
    }

    /// See [`tidemark_engine::Capture::give_up`].
    pub(crate) fn give_up(&mut self) -> Result<(), SqliteError> {
        self.pending = Pending::default();
        self.full = false;
        self.complete_until = None;
        self.lost = Some("the spool gave up what was captured".to_owned());
        self.void_base();
        match &mut self.book {
            Some(book) => book.forget_unsealed(),
            None => Ok(()),
        }
    }

    /// See [`tidemark_engine::Capture::map_synced`].
    pub(crate) fn sync_map(&mut self) -> Result<Option<LogSeq>, SqliteError> {
        let (Some(book), Some(sealed)) = (&self.book, &self.sealed) else {
            return Ok(None);
        };
        book.sync()?;
        let seq = sealed.seq;
        let sealed = Snapshot {
            // Nothing was written behind the log since the cut, as far as that shows.
            look: self.look,
            ..sealed.clone()
        };
        if self.state.sealed.as_ref() != Some(&sealed) {
            self.state.sealed = Some(sealed);
            self.folder.store(&self.state)?;
        }
        Ok(Some(seq))
    }

    /// See [`tidemark_engine::Capture::open_generation`].
    pub(crate) fn open_generation(&mut self, key: [u8; 32]) -> Result<(), SqliteError> {
        if self.book.as_ref().is_some_and(Book::has_unsealed) {
            return Err(SqliteError::Contract(
                "a generation opens only when every cut is sealed",
            ));
        }
        let number = self
            .state
            .map
            .iter()
            .chain(&self.state.olds)
            .map(|map| map.number + 1)
            .max();
        let number = number.unwrap_or(1);
        let pages = self
            .book
            .as_ref()
            .map_or(self.pages, |book| book.now().pages);
        if let Some(book) = &self.book {
            book.sync()?;
        }
        let map = MapFile::create(self.folder.path(), number, key, pages)?;
        let old = self.state.map.replace(MapState { number, key, pages });
        if let Some(old) = old.filter(|_| self.state.ever_based) {
            self.state.olds.push(MapState { pages, ..old });
        }
        self.state.parent = None;
        self.state.base = None;
        self.state.sealed.clone_from(&self.sealed);
        self.folder.store(&self.state)?;
        match &mut self.book {
            Some(book) => book.rekey(map, self.state.ever_based, self.folder.path())?,
            None => self.book = Some(Book::new(map, Vec::new(), self.state.page_size)?),
        }
        self.base = None;
        self.forced = true;
        Ok(())
    }

    /// A restorable cut can be made now, and must be, even an empty one: without it what was shipped
    /// since the last one can't be restored, and at rest nothing else would bring it.
    fn owes(&self, at_commit: bool) -> bool {
        let wanted = self.ends_in_piece || self.forced;
        wanted && self.book.is_some() && self.is_restorable(at_commit)
    }

    /// What a poll says, but for the time until the next.
    pub(crate) fn poll_answer(&self, next: std::time::Duration, at_commit: bool) -> Poll {
        let alert = |(code, message): (&&'static str, &String)| Alert {
            code,
            message: message.clone(),
            // Whoever holds its lock lets go of it; how long that takes is theirs.
            halts: false,
        };
        Poll {
            next,
            pending_bytes: u64::try_from(self.pending.bytes()).unwrap_or(u64::MAX),
            oldest_pending: self.pending.oldest,
            complete_until: self.complete_until.filter(|_| !self.ends_in_piece),
            cut_now: self.is_full() || self.owes(at_commit),
            alerts: self.alerts.iter().map(alert).collect(),
            catching_up: self.diff.as_ref().map(|diff| self.progress(diff.position)),
        }
    }

    /// Progress of a scan that will look at `position` next.
    pub(crate) fn progress(&self, position: u32) -> Progress {
        let page_size = u64::from(self.page_size());
        Progress {
            done: u64::from(position.saturating_sub(1).min(self.pages)) * page_size,
            total: u64::from(self.pages) * page_size,
        }
    }

    /// See [`tidemark_engine::Capture::probe`].
    pub(crate) fn probe(&self, journal_mode: &str, log_bytes: u64) -> Result<Probe, SqliteError> {
        let header = self.file.header()?;
        let id = self.file.id();
        let facts = BTreeMap::from([
            ("journal_mode".to_owned(), journal_mode.into()),
            ("application_id".to_owned(), header.application_id.into()),
            ("user_version".to_owned(), header.user_version.into()),
            ("encoding".to_owned(), header.encoding.into()),
            ("device".to_owned(), id.device.into()),
            ("inode".to_owned(), id.inode.into()),
            (
                "incarnation".to_owned(),
                self.state.incarnation.to_string().into(),
            ),
        ]);
        Ok(Probe {
            bytes: u64::from(self.pages) * u64::from(self.page_size()),
            page_size: self.page_size(),
            pages: u64::from(self.pages),
            log_bytes,
            version: rusqlite::version().to_owned(),
            facts,
        })
    }
}
