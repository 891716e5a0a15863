//! Records: their header, and those few whose content a restore needs.

use jiff::{SignedDuration, Timestamp};
use tidemark_engine::canary::{CANARY_NAME, Canary};

use tidemark_format::postgres::{Lsn, TimelineId};

/// Bytes of a record's header.
pub(super) const HEAD_BYTES: usize = 24;
/// The server refuses to write larger records (`XLogRecordMaxSize`).
pub(super) const RECORD_BYTES_MAX: u32 = 1020 << 20;
/// The checksum stands at the header's end and covers what is before it.
pub(super) const HEAD_CHECKED_BYTES: usize = 20;

const MANAGER_LOG: u8 = 0;
const MANAGER_TRANSACTION: u8 = 1;
const MANAGER_TABLESPACE: u8 = 5;
/// Messages of applications to logical subscribers; above it only managers of extensions and later versions.
const MANAGER_MESSAGE: u8 = 21;
/// A canary's message is far smaller; others, of any length, are nobody's business here.
const CANARY_BYTES_MAX: u32 = 512;

/// A time as PostgreSQL counts it: microseconds since 2000-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTime(pub i64);

impl PgTime {
    /// Seconds from 1970 to 2000.
    const EPOCH: i64 = 946_684_800;

    /// As a timestamp; none outside the years that one can hold (nobody's clock).
    #[must_use]
    pub fn timestamp(self) -> Option<Timestamp> {
        let since = SignedDuration::from_micros(self.0);
        Timestamp::from_second(Self::EPOCH)
            .ok()?
            .checked_add(since)
            .ok()
    }

    /// Of a timestamp, to the microsecond before it.
    #[must_use]
    pub fn of(at: Timestamp) -> Option<Self> {
        let micros = at.as_nanosecond().div_euclid(1000);
        let micros = i64::try_from(micros).ok()?;
        Some(Self(
            micros.checked_sub(Self::EPOCH.checked_mul(1_000_000)?)?,
        ))
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its changes count.
    Committed,
    /// They don't.
    Aborted,
}

/// What a record means for a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A transaction ended, also a prepared one.
    End {
        /// Its id; 0 if it had none.
        xid: u32,
        /// How.
        outcome: Outcome,
        /// When, by the server's clock. Not ordered by position: backends take it before they write.
        at: PgTime,
        /// Ids of its subtransactions (savepoints): they have no end of their own.
        inner: Vec<u32>,
    },
    /// A named point (`pg_create_restore_point`).
    Point {
        /// Its name, as bytes of the database's encoding.
        name: Vec<u8>,
        /// When.
        at: PgTime,
    },
    /// The rest of the segment is empty (`pg_switch_wal`, `archive_timeout`).
    Switch,
    /// A checkpoint; with `shutdown` the server stopped cleanly (or was promoted) here.
    Checkpoint {
        /// Whether the server stopped.
        shutdown: bool,
        /// Replay from this checkpoint starts there.
        redo: Lsn,
        /// The timeline that begins or goes on.
        timeline: TimelineId,
        /// Whether whole pages are logged at their first change (`full_page_writes`).
        full_pages: bool,
    },
    /// Recovery ended here and another timeline began.
    EndOfRecovery {
        /// The new timeline.
        timeline: TimelineId,
        /// The one before.
        previous: TimelineId,
    },
    /// Settings that replay depends on changed (`wal_level` among them).
    ParameterChange {
        /// `minimal` (0), `replica` (1), `logical` (2).
        wal_level: i32,
    },
    /// A base backup that the server made ended.
    BackupEnd,
    /// A tablespace was made. Replay makes it again, at the same place.
    Tablespace {
        /// Its object id.
        oid: u32,
        /// Its folder; empty for one inside the data directory.
        place: Vec<u8>,
    },
    /// A canary of the agent's. It counts once its transaction is committed.
    Canary {
        /// The transaction.
        xid: u32,
        /// The canary's number.
        seq: u64,
        /// The instant in it, by the agent's clock.
        at: Timestamp,
    },
}

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub(super) bytes: u32,
    pub(super) xid: u32,
    pub(super) previous: Lsn,
    pub(super) info: u8,
    pub(super) manager: u8,
    pub(super) checksum: u32,
}

impl RecordHead {
    pub(super) fn parse(bytes: &[u8; HEAD_BYTES]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            bytes: fields.u32().unwrap_or(0),
            xid: fields.u32().unwrap_or(0),
            previous: Lsn(fields.u64().unwrap_or(0)),
            info: fields.u8().unwrap_or(0),
            manager: fields.u8().unwrap_or(u8::MAX),
            checksum: fields.skip(2).and_then(Fields::u32).unwrap_or(0),
        }
    }

    /// Whether [`event`] wants to see the record's content.
    pub(super) const fn is_wanted(&self) -> bool {
        match self.manager {
            MANAGER_TRANSACTION => matches!(self.info & 0x70, 0x00 | 0x20 | 0x30 | 0x40),
            MANAGER_LOG => matches!(
                self.info & 0xF0,
                0x00 | 0x10 | 0x40 | 0x50 | 0x60 | 0x70 | 0x90
            ),
            MANAGER_TABLESPACE => self.info & 0xF0 == 0x00,
            MANAGER_MESSAGE => self.info & 0xF0 == 0x00 && self.bytes <= CANARY_BYTES_MAX,
            _ => false,
        }
    }

    /// Whether nobody would miss the record: it belongs to no transaction and says nothing to a restore.
    pub(super) const fn is_housekeeping(&self, event: Option<&Event>) -> bool {
        let nobodys = self.xid == 0 && self.manager < MANAGER_MESSAGE;
        let says_nothing = matches!(
            event,
            None | Some(Event::Checkpoint {
                shutdown: false,
                ..
            })
        );
        nobodys && says_nothing
    }
}

/// A cursor that ends with `None`.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<PgTime> {
        self.take().map(i64::from_le_bytes).map(PgTime)
    }

    fn skip(&mut self, n: usize) -> Option<&mut Self> {
        self.0 = self.0.get(n..)?;
        Some(self)
    }

    /// Skips a counted list of items of `item` bytes each.
    fn skip_list(&mut self, item: usize) -> Option<()> {
        let n = usize::try_from(self.i32()?).ok()?;
        self.skip(n.checked_mul(item)?).map(|_| ())
    }
}

/// What stands after the header and its block-free preamble: the manager's own data.
fn content(body: &[u8]) -> Option<Fields<'_>> {
    let mut fields = Fields(body);
    loop {
        match fields.u8()? {
            // Origin, and the id of the transaction that a subtransaction belongs to.
            253 => fields.skip(2)?,
            252 => fields.skip(4)?,
            255 => {
                let n = usize::from(fields.u8()?);
                return (fields.0.len() == n).then_some(fields);
            }
            254 => {
                let n = usize::try_from(fields.u32()?).ok()?;
                return (fields.0.len() == n).then_some(fields);
            }
            // A page: none of the records wanted here has one.
            _ => return None,
        };
    }
}

/// Reads the event out of a wanted record's content, `body` being everything after the header.
///
/// # Errors
/// In words: a record whose checksum is right and which still isn't what it should be.
pub(super) fn event(
    head: &RecordHead,
    body: &[u8],
    major: u16,
) -> Result<Option<Event>, &'static str> {
    const BAD: &str = "a record's content is not what its kind says (a newer PostgreSQL?)";
    match head.manager {
        MANAGER_TRANSACTION => {
            let mut data = content(body).ok_or(BAD)?;
            transaction(head, &mut data, major).ok_or(BAD).map(Some)
        }
        // A switch is the one record without any data.
        MANAGER_LOG if head.info & 0xF0 == 0x40 => Ok(Some(Event::Switch)),
        MANAGER_LOG => {
            let mut data = content(body).ok_or(BAD)?;
            log(head.info & 0xF0, &mut data).ok_or(BAD).map(Some)
        }
        MANAGER_TABLESPACE => {
            let mut data = content(body).ok_or(BAD)?;
            let oid = data.u32().ok_or(BAD)?;
            let place = data.0.split(|byte| *byte == 0).next().unwrap_or(&[]);
            let place = place.to_vec();
            Ok(Some(Event::Tablespace { oid, place }))
        }
        // Anybody may send messages: what is none of ours is no error.
        MANAGER_MESSAGE => Ok(content(body).and_then(|mut data| canary(head, &mut data))),
        _ => Ok(None),
    }
}

fn transaction(head: &RecordHead, data: &mut Fields<'_>, major: u16) -> Option<Event> {
    let at = data.time()?;
    let kind = head.info & 0x70;
    let prepared = kind == 0x30 || kind == 0x40;
    let more = if head.info & 0x80 != 0 {
        data.u32()?
    } else {
        0
    };
    let inner = subtransactions(more, data)?;
    let xid = if prepared {
        prepared_xid(more, data, major)?
    } else {
        head.xid
    };
    let outcome = if kind == 0x00 || kind == 0x30 {
        Outcome::Committed
    } else {
        Outcome::Aborted
    };
    Some(Event::End {
        xid,
        outcome,
        at,
        inner,
    })
}

/// The first two lists of those that a transaction's end may carry.
fn subtransactions(more: u32, data: &mut Fields<'_>) -> Option<Vec<u32>> {
    const DATABASE: u32 = 1;
    const SUBTRANSACTIONS: u32 = 1 << 1;
    if more & DATABASE != 0 {
        data.skip(8)?;
    }
    if more & SUBTRANSACTIONS == 0 {
        return Some(Vec::new());
    }
    let n = usize::try_from(data.i32()?).ok()?;
    // What is counted must be there before room is made for it.
    let bytes = data.0.get(..n.checked_mul(4)?)?;
    data.skip(bytes.len())?;
    let ids = bytes.chunks_exact(4).map(|id| Fields(id).u32());
    ids.collect()
}

/// The id of a prepared transaction stands behind further lists, which have to be skipped.
fn prepared_xid(more: u32, data: &mut Fields<'_>, major: u16) -> Option<u32> {
    const RELATIONS: u32 = 1 << 2;
    const INVALIDATIONS: u32 = 1 << 3;
    const TWO_PHASE: u32 = 1 << 4;
    const DROPPED_STATISTICS: u32 = 1 << 8;
    if more & RELATIONS != 0 {
        data.skip_list(12)?;
    }
    if more & DROPPED_STATISTICS != 0 {
        data.skip_list(if major >= 18 { 16 } else { 12 })?;
    }
    if more & INVALIDATIONS != 0 {
        data.skip_list(16)?;
    }
    (more & TWO_PHASE != 0).then(|| data.u32())?
}

/// A message of the agent's: the database, whether it belongs to the transaction, and two lengths stand
/// before its prefix, which ends with a zero.
fn canary(head: &RecordHead, data: &mut Fields<'_>) -> Option<Event> {
    data.skip(4)?;
    let transactional = data.u8()? != 0;
    data.skip(3)?;
    let prefix_bytes = usize::try_from(data.u64()?).ok()?;
    let content_bytes = usize::try_from(data.u64()?).ok()?;
    let prefix = data.0.get(..prefix_bytes)?;
    let content = data.skip(prefix_bytes)?.0.get(..content_bytes)?;
    let is_ours = prefix.strip_suffix(&[0]) == Some(CANARY_NAME.as_bytes());
    if !is_ours || !transactional || head.xid == 0 {
        return None;
    }
    let Canary { seq, at, .. } = serde_json::from_slice(content).ok()?;
    Some(Event::Canary {
        xid: head.xid,
        seq,
        at,
    })
}

fn log(kind: u8, data: &mut Fields<'_>) -> Option<Event> {
    Some(match kind {
        0x00 | 0x10 => {
            let redo = Lsn(data.u64()?);
            let timeline = TimelineId(data.u32()?);
            data.skip(4)?;
            Event::Checkpoint {
                shutdown: kind == 0x00,
                redo,
                timeline,
                full_pages: data.u8()? != 0,
            }
        }
        0x50 => Event::BackupEnd,
        0x60 => {
            // Six settings in 18 as in 14: connections, workers, senders, prepared, locks, wal_level.
            data.skip(20)?;
            Event::ParameterChange {
                wal_level: data.i32()?,
            }
        }
        0x70 => {
            let at = data.time()?;
            let name = data.take::<64>()?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or(&[]).to_vec();
            Event::Point { name, at }
        }
        0x90 => {
            // The time of it; from 17 on wal_level follows.
            data.time()?;
            let timeline = TimelineId(data.u32()?);
            let previous = TimelineId(data.u32()?);
            Event::EndOfRecovery { timeline, previous }
        }
        _ => return None,
    })
}
