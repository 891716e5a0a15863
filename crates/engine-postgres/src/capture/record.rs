//! Where capture stands: the record beside every sealed cut, and the small state file.
//!
//! **Crash consistency.** A record is fsynced by the agent with the object it belongs to, so the newest
//! record says where the log goes on. The state file is written whole or not at all; it holds what the
//! records said that were let go since, and why the log can't go on, if it can't. Both are plain JSON
//! and hold no byte of the database.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_format::postgres::{Lsn, SegmentSize, TimelineId};
use tidemark_format::{Incarnation, LogSeq};
use tidemark_host::files;

use super::plan::{Place, Sought};
use crate::error::PostgresError;
use crate::wal::Span;

/// The state file's name in the engine's folder.
const STATE: &str = "capture.json";
/// The file beside it with what the server was told last.
const ACKED: &str = "acknowledged";
/// The number of the last canary that was sent.
const CANARY: &str = "canary";
const VERSION: u32 = 1;

/// The hash of a segment's bytes from its start up to a position: the same position in another log
/// has another hash.
pub(crate) type SegmentHash = [u8; 32];

/// The hash of nothing: no byte of the segment was seen.
pub(crate) fn nothing() -> SegmentHash {
    blake3::hash(&[]).into()
}

/// A position and the hash up to it: of the segment that the byte before it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The position.
    pub(crate) at: u64,
    /// The hash of its segment up to there.
    #[serde(with = "hex::serde")]
    pub(crate) hash: SegmentHash,
}

impl Mark {
    /// At the start of a segment of which nothing was seen.
    pub(crate) fn begin(at: Lsn) -> Self {
        Self {
            at: at.0,
            hash: nothing(),
        }
    }

    /// Where the bytes begin that the hash is of. A log that ends with a segment is compared by the whole
    /// of that segment.
    pub(crate) fn from(&self, segment: SegmentSize) -> Lsn {
        let at = Lsn(self.at);
        if segment.offset(at) == 0 && self.hash != nothing() {
            return Lsn(self.at.saturating_sub(segment.bytes()));
        }
        segment.start(at)
    }
}

/// Where capture stood after a cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// The database system.
    pub(crate) system: u64,
    /// Bytes of a segment.
    pub(crate) segment_bytes: u32,
    /// The branch.
    pub(crate) timeline: u32,
    /// The next byte, and the hash up to it.
    pub(crate) end: Mark,
    /// The last record seen whole before it: start and end.
    pub(crate) last_record: Option<(u64, u64)>,
    /// The furthest end of any cut: before it no cut is a restore position.
    pub(crate) high: u64,
    /// The timeline is new: up to here its bytes have to be those of its parent.
    pub(crate) again: Option<Mark>,
    /// The newest commit time in the log so far.
    pub(crate) latest_commit: Option<Timestamp>,
}

impl Cursor {
    /// A new life's, at the start of a segment.
    pub(crate) fn begin(system: u64, timeline: TimelineId, segment: SegmentSize, at: Lsn) -> Self {
        let start = segment.start(at);
        Self {
            system,
            segment_bytes: u32::try_from(segment.bytes()).unwrap_or(0),
            timeline: timeline.0,
            end: Mark::begin(start),
            last_record: None,
            high: start.0,
            again: None,
            latest_commit: None,
        }
    }

    /// Bytes of a segment.
    pub(crate) fn segment(&self) -> SegmentSize {
        SegmentSize::new(self.segment_bytes).unwrap_or(SegmentSize::DEFAULT)
    }

    /// The branch.
    pub(crate) const fn timeline(&self) -> TimelineId {
        TimelineId(self.timeline)
    }

    /// The next byte.
    pub(crate) const fn end(&self) -> Lsn {
        Lsn(self.end.at)
    }

    /// What the server may be told as flushed once everything up to here is safe. It keeps its log from
    /// that byte's segment on. A log that ends with a segment would leave nothing to compare with when it
    /// goes on: so one byte less is told, unless a record ends there, for whose commit somebody may wait.
    pub(crate) fn told(&self) -> Lsn {
        let end = self.end();
        let waited_for = self.last_record.is_none_or(|(_, last)| last >= end.0);
        if self.segment().offset(end) == 0 && !waited_for {
            return Lsn(end.0.saturating_sub(1));
        }
        end
    }

    /// The last record seen whole.
    pub(crate) fn last(&self) -> Option<Span> {
        self.last_record.map(|(start, end)| Span {
            start: Lsn(start),
            end: Lsn(end),
        })
    }
}

/// The record beside a sealed cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The life it belongs to.
    pub(crate) incarnation: Incarnation,
    /// The cut.
    pub(crate) seq: LogSeq,
    /// Where capture stood after it.
    pub(crate) cursor: Cursor,
}

impl Record {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, PostgresError> {
        serde_json::to_vec(self)
            .map_err(|_never| PostgresError::Contract("a record did not serialise"))
    }

    pub(crate) fn decode(bytes: &[u8], folder: &Path) -> Result<Self, PostgresError> {
        serde_json::from_slice(bytes).map_err(|source| PostgresError::State {
            path: folder.to_path_buf(),
            why: "a record beside a sealed object can't be read",
            source: Some(source),
        })
    }
}

/// What is known between runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// The life that is captured.
    pub(crate) incarnation: Incarnation,
    /// How many lives there were: tells their ids apart.
    pub(crate) lives: u64,
    /// The newest sealed cut whose record may be gone; none before the first.
    pub(crate) sealed: Option<LogSeq>,
    /// Where capture stood after it, or begins.
    pub(crate) cursor: Cursor,
    /// What the server was told as flushed, at least.
    pub(crate) acked: u64,
    /// Why this life can't go on.
    pub(crate) broken: Option<String>,
    /// The newest timeline that was followed; the log may still be on one before.
    #[serde(default)]
    pub(crate) newest: u32,
}

impl State {
    /// A new life's.
    pub(crate) const fn begin(incarnation: Incarnation, lives: u64, cursor: Cursor) -> Self {
        Self {
            version: VERSION,
            incarnation,
            lives,
            sealed: None,
            newest: cursor.timeline,
            cursor,
            acked: 0,
            broken: None,
        }
    }

    /// The newest timeline that was followed.
    pub(crate) fn newest(&self) -> TimelineId {
        TimelineId(self.newest.max(self.cursor.timeline))
    }

    /// A server on this timeline is followed.
    pub(crate) fn follows(&mut self, timeline: TimelineId) {
        self.newest = self.newest.max(timeline.0);
    }

    /// Where the log goes on.
    pub(crate) fn place(&self) -> Place {
        let segment = self.cursor.segment();
        Place {
            system: self.cursor.system,
            segment,
            timeline: self.cursor.timeline(),
            at: self.cursor.end(),
            from: self.cursor.end.from(segment),
        }
    }

    /// What goes on from here is looked for among several servers.
    pub(crate) fn sought(&self) -> Sought {
        Sought {
            place: Some(self.place()),
            newest: self.newest(),
        }
    }

    /// Brings the state up to date with the records kept; those of other lives don't count. Where each of
    /// this life ends, as it is told.
    pub(crate) fn replay(
        &mut self,
        records: &mut dyn Iterator<Item = (LogSeq, Vec<u8>)>,
        folder: &Path,
    ) -> Result<Vec<(LogSeq, Lsn)>, PostgresError> {
        let mut ends = Vec::new();
        for (_seq, bytes) in records {
            let record = Record::decode(&bytes, folder)?;
            if record.incarnation != self.incarnation {
                continue;
            }
            ends.push((record.seq, record.cursor.told()));
            if Some(record.seq) > self.sealed {
                self.sealed = Some(record.seq);
                self.cursor = record.cursor;
            }
        }
        Ok(ends)
    }
}

/// The engine's folder.
#[derive(Debug, Clone)]
pub(crate) struct StateFolder(PathBuf);

impl StateFolder {
    /// Makes it if it is missing.
    pub(crate) fn open(folder: PathBuf) -> Result<Self, PostgresError> {
        std::fs::create_dir_all(&folder).map_err(|source| PostgresError::Io {
            action: "make the folder",
            path: folder.clone(),
            source,
        })?;
        Ok(Self(folder))
    }

    /// One that may not be there: for reading.
    pub(crate) const fn there(folder: PathBuf) -> Self {
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Where the bases of a life are kept.
    pub(crate) fn bases(&self, incarnation: Incarnation) -> PathBuf {
        self.0.join(format!("bases-{incarnation}"))
    }

    /// Removes what belongs to other lives.
    pub(crate) fn forget_others(&self, incarnation: Incarnation) {
        let kept = self.bases(incarnation);
        let Ok(entries) = std::fs::read_dir(&self.0) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let bases = entry.file_name().to_string_lossy().starts_with("bases-");
            if bases && path != kept {
                // What stays is only garbage.
                drop(std::fs::remove_dir_all(path));
            }
        }
    }

    /// The state; none if there never was one, or it is another version's: a lost state.
    pub(crate) fn load(&self) -> Result<Option<State>, PostgresError> {
        let path = self.0.join(STATE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(PostgresError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        let state: Option<State> = serde_json::from_slice(&bytes).ok();
        Ok(state.filter(|state| {
            state.version == VERSION && SegmentSize::new(state.cursor.segment_bytes).is_some()
        }))
    }

    /// Notes what the server is about to be told as flushed, not durably: it outlives this process, and
    /// after a crash of the machine the server's slot itself says what it heard.
    pub(crate) fn note_acked(&self, acked: u64) -> Result<(), PostgresError> {
        let path = self.0.join(ACKED);
        std::fs::write(&path, format!("{acked:016x}")).map_err(|source| PostgresError::Io {
            action: "write",
            path,
            source,
        })
    }

    /// What was noted last; 0 if nothing was.
    pub(crate) fn noted_acked(&self) -> u64 {
        std::fs::read_to_string(self.0.join(ACKED))
            .ok()
            .filter(|text| text.len() == 16)
            .and_then(|text| u64::from_str_radix(&text, 16).ok())
            .unwrap_or(0)
    }

    /// Notes the number of a canary before it is sent, durably: it is never used again.
    pub(crate) fn note_canary(&self, seq: u64) -> Result<(), PostgresError> {
        let path = self.0.join(CANARY);
        files::write_atomic(&path, seq.to_string().as_bytes(), files::PRIVATE)?;
        Ok(())
    }

    /// The last number that was noted; 0 if none was.
    pub(crate) fn noted_canary(&self) -> u64 {
        std::fs::read_to_string(self.0.join(CANARY))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Stores the state, durably.
    pub(crate) fn store(&self, state: &State) -> Result<(), PostgresError> {
        let bytes = serde_json::to_vec_pretty(state)
            .map_err(|_never| PostgresError::Contract("the state did not serialise"))?;
        files::write_atomic(&self.0.join(STATE), &bytes, files::PRIVATE)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(end: u64) -> Cursor {
        let mut cursor = Cursor::begin(7, TimelineId(1), SegmentSize::DEFAULT, Lsn(0x0300_0028));
        cursor.end.at = end;
        cursor
    }

    fn record(incarnation: u8, seq: u64, end: u64) -> (LogSeq, Vec<u8>) {
        let record = Record {
            incarnation: Incarnation([incarnation; 16]),
            seq: LogSeq(seq),
            cursor: cursor(end),
        };
        (LogSeq(seq), record.encode().expect("it serialises"))
    }

    #[test]
    fn the_newest_record_of_this_life_says_where_the_log_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = StateFolder::open(folder.path().join("engine")).expect("made");
        assert_eq!(place.load().expect("read"), None);
        let life = Incarnation([1; 16]);
        let mut state = State::begin(life, 1, cursor(0x0300_0000));
        state.sealed = Some(LogSeq(2));
        place.store(&state).expect("stored");
        let mut state = place.load().expect("read").expect("there");
        let mut records = [
            record(1, 1, 0x0300_0100),
            record(1, 3, 0x0300_0300),
            record(9, 7, 0x0900_0000),
        ]
        .into_iter();
        let ends = state.replay(&mut records, folder.path()).expect("replayed");
        assert_eq!(ends.len(), 2);
        assert_eq!(state.sealed, Some(LogSeq(3)));
        assert_eq!(state.cursor.end(), Lsn(0x0300_0300));
    }

    #[test]
    fn a_log_that_ends_with_a_segment_keeps_that_segment_on_the_server() {
        let mut cursor = cursor(0x0300_0000);
        let whole = cursor.segment().bytes();
        assert_eq!(cursor.end.from(cursor.segment()), Lsn(0x0300_0000));
        cursor.end.hash = [1; 32];
        assert_eq!(cursor.end.from(cursor.segment()), Lsn(0x0300_0000 - whole));
        // The log was switched, or a record goes on in the next segment.
        cursor.last_record = Some((0x02FF_0000, 0x02FF_0040));
        assert_eq!(cursor.told(), Lsn(0x02FF_FFFF));
        // A commit may end there: whoever waits for it must not wait for more.
        cursor.last_record = Some((0x02FF_FFC0, 0x0300_0000));
        assert_eq!(cursor.told(), Lsn(0x0300_0000));
        cursor.end.at = 0x0300_0100;
        assert_eq!(cursor.told(), Lsn(0x0300_0100));
        assert_eq!(cursor.end.from(cursor.segment()), Lsn(0x0300_0000));
    }

    #[test]
    fn a_state_that_cant_be_read_is_a_lost_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = StateFolder::open(folder.path().to_path_buf()).expect("made");
        std::fs::write(folder.path().join(STATE), b"{\"version\":").expect("written");
        assert_eq!(place.load().expect("read"), None);
        assert!(Record::decode(b"{}", folder.path()).is_err());
    }

    #[test]
    fn bases_of_other_lives_are_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = StateFolder::open(folder.path().to_path_buf()).expect("made");
        let (old, new) = (Incarnation([1; 16]), Incarnation([2; 16]));
        std::fs::create_dir(place.bases(old)).expect("made");
        std::fs::create_dir(place.bases(new)).expect("made");
        place.forget_others(new);
        assert!(!place.bases(old).exists() && place.bases(new).exists());
    }
}
