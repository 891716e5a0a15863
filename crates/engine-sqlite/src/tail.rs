//! Reading the log from the last captured frame to the last commit, checksum by checksum.
//!
//! Reads no further than the wal-index allows, so never a frame that may still be rewritten. Fills
//! [`Pending`] up to the bound of a cut and stops between transactions where it can; a transaction
//! that is larger than a cut is taken in pieces.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_engine::Workspace;

use crate::error::SqliteError;
use crate::files::beside;
use crate::pending::Pending;
use crate::seen::Seen;
use crate::shm::WalIndex;
use crate::wal::{self, ByteOrder, Checksum, FrameHeader, WalHeader};

/// Read at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// The last captured frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// The life of the log.
    pub(crate) salts: [u32; 2],
    /// The frame; 0 before the first.
    pub(crate) frame: u32,
    /// The running checksum after it; of no meaning at 0.
    pub(crate) checksum: Checksum,
}

impl Cursor {
    /// Before the first frame of a log.
    pub(crate) const fn start(salts: [u32; 2]) -> Self {
        Self {
            salts,
            frame: 0,
            checksum: [0, 0],
        }
    }

    /// Whether both stand at the same place of the same log.
    pub(crate) fn is_at(&self, other: &Self) -> bool {
        (self.salts, self.frame) == (other.salts, other.frame)
    }

    /// At the last commit.
    pub(crate) const fn at_end(index: &WalIndex) -> Self {
        Self {
            salts: index.salts,
            frame: index.frames,
            checksum: index.checksum,
        }
    }
}

/// How reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TailEnd {
    /// Everything up to the index's last commit is captured.
    Caught,
    /// The bound of a cut is reached.
    Full,
    /// The log isn't the one of the index (any more): look at the index again.
    Stale,
}

/// The open `-wal` file. It carries no locks, so it may be closed at any time.
#[derive(Debug)]
pub(crate) struct Tail {
    file: File,
    path: PathBuf,
    page_size: u32,
}

/// What one reading works on.
pub(crate) struct Reading<'a> {
    pub(crate) cursor: &'a mut Cursor,
    pub(crate) pending: &'a mut Pending,
    /// Set to the size of the database at each commit.
    pub(crate) pages: &'a mut u32,
    /// A time from before the index was read.
    pub(crate) now: Timestamp,
    /// No commit is given an earlier time.
    pub(crate) not_before: Option<Timestamp>,
    /// When frames were first seen.
    pub(crate) seen: &'a Seen,
    pub(crate) bound: usize,
}

impl Reading<'_> {
    /// When the next frame was first seen.
    fn time_of_next(&self) -> Timestamp {
        let seen = self.seen.at(self.cursor.frame.saturating_add(1));
        let at = seen.unwrap_or(self.now);
        self.not_before.map_or(at, |earliest| earliest.max(at))
    }
}

impl Tail {
    /// Opens the log of the database at `database`.
    pub(crate) fn open(database: &Path, page_size: u32) -> Result<Self, SqliteError> {
        let path = beside(database, "-wal");
        let file = File::open(&path).map_err(SqliteError::io("opening the WAL", &path))?;
        Ok(Self {
            file,
            path,
            page_size,
        })
    }

    /// Whether the log that others would open is this one.
    ///
    /// # Errors
    /// [`SqliteError::LogReplaced`], [`SqliteError::Io`].
    pub(crate) fn check_in_place(&self) -> Result<(), SqliteError> {
        crate::files::check_log_in_place(&self.file, &self.path)
    }

    /// A cursor after frame `frame` of the log that `index` describes; `None` if it isn't that log.
    pub(crate) fn cursor_at(
        &self,
        index: &WalIndex,
        frame: u32,
    ) -> Result<Option<Cursor>, SqliteError> {
        if frame == 0 {
            return Ok(Some(Cursor::start(index.salts)));
        }
        let header = self
            .frame_header(frame)?
            .filter(|header| header.salts == index.salts);
        Ok(header.map(|header| Cursor {
            salts: header.salts,
            frame,
            checksum: header.checksum,
        }))
    }

    /// Whether the frame that `cursor` names still stands in the log. A log that was never written
    /// has no salts and proves nothing: any number of them may have come and gone.
    pub(crate) fn holds(&self, cursor: &Cursor, index: &WalIndex) -> Result<bool, SqliteError> {
        let nameless = cursor.salts == [0, 0];
        if nameless || cursor.salts != index.salts || cursor.frame > index.frames {
            return Ok(false);
        }
        Ok(self
            .cursor_at(index, cursor.frame)?
            .is_some_and(|there| cursor.frame == 0 || there.checksum == cursor.checksum))
    }

    fn frame_header(&self, frame: u32) -> Result<Option<FrameHeader>, SqliteError> {
        let mut bytes = [0u8; wal::FRAME_HEADER_BYTES];
        let there = self.read_exact(&mut bytes, wal::frame_offset(frame, self.page_size))?;
        Ok(if there {
            FrameHeader::parse(&bytes)
        } else {
            None
        })
    }

    fn read_exact(&self, buffer: &mut [u8], at: u64) -> Result<bool, SqliteError> {
        match self.file.read_exact_at(buffer, at) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(SqliteError::io("reading the WAL", &self.path)(error)),
        }
    }

    /// Captures from the cursor to the index's last commit, or until the bound is reached.
    pub(crate) fn read(
        &self,
        index: &WalIndex,
        reading: &mut Reading<'_>,
        work: &mut Workspace,
    ) -> Result<TailEnd, SqliteError> {
        if reading.cursor.frame >= index.frames {
            return Ok(TailEnd::Caught);
        }
        let mut header = [0u8; wal::HEADER_BYTES];
        self.read_exact(&mut header, 0)?;
        let Some(header) = WalHeader::parse(&header).filter(|header| header.salts == index.salts)
        else {
            return Ok(TailEnd::Stale);
        };
        if header.page_size != self.page_size || reading.cursor.salts != header.salts {
            return Ok(TailEnd::Stale);
        }
        if reading.cursor.frame == 0 {
            reading.cursor.checksum = header.checksum;
        }
        let frame_bytes = wal::frame_bytes(self.page_size);
        loop {
            let left = index.frames.saturating_sub(reading.cursor.frame);
            if left == 0 {
                return Ok(TailEnd::Caught);
            }
            let chunk_frames = (CHUNK_BYTES / frame_bytes).max(1).min(u64::from(left));
            let chunk = work.take(usize::try_from(chunk_frames * frame_bytes).unwrap_or(0));
            if !self.read_exact(
                chunk,
                wal::frame_offset(reading.cursor.frame + 1, self.page_size),
            )? {
                return Ok(TailEnd::Stale);
            }
            if let Some(end) = self.consume(header.order, index, reading, chunk)? {
                return Ok(end);
            }
        }
    }

    /// Takes in whole transactions from `chunk`; `None` to go on with the next chunk.
    fn consume(
        &self,
        order: ByteOrder,
        index: &WalIndex,
        reading: &mut Reading<'_>,
        chunk: &[u8],
    ) -> Result<Option<TailEnd>, SqliteError> {
        let page_bytes = usize::try_from(self.page_size).unwrap_or(usize::MAX);
        let frame_bytes = page_bytes.saturating_add(wal::FRAME_HEADER_BYTES);
        let mut rest = chunk;
        while rest.len() >= frame_bytes {
            if !reading.pending.open_transaction {
                match self.may_begin(index, reading, rest, frame_bytes)? {
                    Begin::Yes => reading.pending.open_transaction = true,
                    Begin::NextChunk if rest.len() < chunk.len() => return Ok(None),
                    Begin::NextChunk | Begin::Unended => return Ok(Some(TailEnd::Stale)),
                    Begin::Full => return Ok(Some(TailEnd::Full)),
                }
            }
            if reading.pending.room(reading.bound, page_bytes) == 0 {
                return Ok(Some(TailEnd::Full));
            }
            let (bytes, after) = rest.split_at(frame_bytes);
            let Some(frame) = wal::frame(order, index.salts, reading.cursor.checksum, bytes) else {
                return Ok(Some(TailEnd::Stale));
            };
            let at = reading.time_of_next();
            reading.pending.put(frame.header.page, frame.data, at);
            reading.cursor.frame += 1;
            reading.cursor.checksum = frame.header.checksum;
            if frame.header.commit_pages > 0 {
                *reading.pages = frame.header.commit_pages;
                reading.pending.shrink(frame.header.commit_pages);
                reading.pending.commit(at);
            }
            rest = after;
        }
        Ok(None)
    }

    /// Whether the transaction at the start of `rest` may be taken in.
    fn may_begin(
        &self,
        index: &WalIndex,
        reading: &Reading<'_>,
        rest: &[u8],
        frame_bytes: usize,
    ) -> Result<Begin, SqliteError> {
        let page_bytes = usize::try_from(self.page_size).unwrap_or(usize::MAX);
        let room = reading.pending.room(reading.bound, page_bytes);
        let fits = |frames: usize| {
            if frames <= room || reading.pending.bytes() == 0 {
                Begin::Yes
            } else {
                Begin::Full
            }
        };
        let commits =
            |bytes: &[u8]| FrameHeader::parse(bytes).is_some_and(|head| head.commit_pages > 0);
        if let Some(last) = rest.chunks_exact(frame_bytes).position(commits) {
            return Ok(fits(last + 1));
        }
        let in_chunk = rest.len() / frame_bytes;
        let next = reading
            .cursor
            .frame
            .saturating_add(u32::try_from(in_chunk).unwrap_or(u32::MAX));
        if next >= index.frames {
            return Ok(Begin::Unended);
        }
        // Larger than what is left of this chunk: a fresh chunk may show its end, else its frame
        // headers do.
        if u64::try_from(rest.len()).unwrap_or(u64::MAX) < CHUNK_BYTES / 2 {
            return Ok(Begin::NextChunk);
        }
        let mut frames = in_chunk;
        for frame in next + 1..=index.frames {
            frames += 1;
            if frames > room {
                return Ok(fits(frames));
            }
            match self.frame_header(frame)? {
                Some(header) if header.salts != index.salts => return Ok(Begin::Unended),
                Some(header) if header.commit_pages > 0 => return Ok(fits(frames)),
                Some(_) => {}
                None => return Ok(Begin::Unended),
            }
        }
        Ok(Begin::Unended)
    }
}

enum Begin {
    Yes,
    /// Read again from here.
    NextChunk,
    /// Cut first.
    Full,
    /// No commit up to the index's last: not the log of the index.
    Unended,
}
