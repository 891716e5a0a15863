//! PostgreSQL's part of the format: positions, and the payload of a log object.
//!
//! # Payload of a log object
//!
//! ```text
//!  0   4  magic "TMPG"
//!  4   1  version = 1      5  3  zero
//!  8   8  system identifier, u64 LE (all numbers are little-endian)
//! 16   4  timeline, at least 1
//! 20   4  bytes of a segment: a power of two from 1 MiB to 1 GiB
//! 24   8  start: position of the first byte of log that follows
//! 32   8  end: position after the last one
//! 40   8  last record: where the last record that ends at or before `end` starts; 0 if none is known
//! 48   8  last record: where it ends, aligned to 8; 0 likewise
//! 56      varint n, then n times: timeline u32, counted bytes: history files, ascending
//!  …      end − start bytes: the log of that timeline
//! ```
//!
//! Applied in the order of the log, payloads of one timeline append to one another. The first one of a
//! timeline above 1 carries the histories that lead to it. A cut may fall anywhere, also inside a
//! record: what replays is told by *last record*, whose start is what `recovery_target_lsn` names and
//! whose end is where a server that replayed it says that it stopped.

pub mod layout;
mod position;

pub use position::{Lsn, ParsePosition, SegmentName, SegmentSize, TimelineId};

use crate::FormatError;
use crate::wire::{Reader, put_varint};

const MAGIC: &[u8; 4] = b"TMPG";
const VERSION: u8 = 1;
const WHAT: &str = "postgresql log payload";

/// A record's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordSpan {
    /// Its first byte.
    pub start: Lsn,
    /// Where the next one may begin.
    pub end: Lsn,
}

/// A timeline's history file, as the server wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryFile<'a> {
    /// Whose.
    pub timeline: TimelineId,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// A range of the log of one timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRange<'a> {
    /// The database system it is of.
    pub system: u64,
    /// The branch.
    pub timeline: TimelineId,
    /// Bytes of a segment.
    pub segment: SegmentSize,
    /// Where the bytes begin.
    pub start: Lsn,
    /// The last record that ends at or before the end.
    pub last_record: Option<RecordSpan>,
    /// History files, ascending.
    pub histories: Vec<HistoryFile<'a>>,
    /// The log.
    pub bytes: &'a [u8],
}

impl<'a> LogRange<'a> {
    /// Where the bytes end.
    #[must_use]
    pub fn end(&self) -> Lsn {
        self.start
            .plus(u64::try_from(self.bytes.len()).unwrap_or(u64::MAX))
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`FormatError`] for anything but exactly what [`Self::encode`] writes.
    pub fn decode(payload: &'a [u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(payload, WHAT);
        if &reader.array::<4>()? != MAGIC {
            return Err(FormatError::Magic);
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        if reader.array::<3>()? != [0; 3] {
            return Err(reader.invalid("reserved bits are set"));
        }
        let system = reader.u64()?;
        let timeline = TimelineId(reader.u32()?);
        let segment = SegmentSize::new(reader.u32()?)
            .ok_or_else(|| reader.invalid("the segment size is not one of PostgreSQL's"))?;
        let (start, end) = (Lsn(reader.u64()?), Lsn(reader.u64()?));
        let last_record = RecordSpan {
            start: Lsn(reader.u64()?),
            end: Lsn(reader.u64()?),
        };
        let last_record = (last_record.end != Lsn(0)).then_some(last_record);
        if timeline.0 == 0 || start > end {
            return Err(reader.invalid("the range is not one of a timeline"));
        }
        if last_record
            .is_some_and(|record| record.start >= record.end || record.end > end.aligned())
        {
            return Err(reader.invalid("the last record does not lie before the end"));
        }
        let histories = read_histories(&mut reader, timeline)?;
        let length = usize::try_from(end.since(start))
            .ok()
            .filter(|length| *length == reader.remaining())
            .ok_or_else(|| reader.invalid("the range is not as long as the bytes that follow"))?;
        Ok(Self {
            system,
            timeline,
            segment,
            start,
            last_record,
            histories,
            bytes: reader.bytes(length)?,
        })
    }

    /// Writes a payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let histories: usize = self.histories.iter().map(|file| file.bytes.len()).sum();
        let mut out = Vec::with_capacity(
            self.bytes
                .len()
                .saturating_add(histories)
                .saturating_add(128),
        );
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[VERSION, 0, 0, 0]);
        out.extend_from_slice(&self.system.to_le_bytes());
        out.extend_from_slice(&self.timeline.0.to_le_bytes());
        let segment = u32::try_from(self.segment.bytes()).unwrap_or(0);
        out.extend_from_slice(&segment.to_le_bytes());
        out.extend_from_slice(&self.start.0.to_le_bytes());
        out.extend_from_slice(&self.end().0.to_le_bytes());
        let (start, end) = self
            .last_record
            .map_or((0, 0), |record| (record.start.0, record.end.0));
        out.extend_from_slice(&start.to_le_bytes());
        out.extend_from_slice(&end.to_le_bytes());
        put_varint(&mut out, length(self.histories.len()));
        for file in &self.histories {
            out.extend_from_slice(&file.timeline.0.to_le_bytes());
            put_varint(&mut out, length(file.bytes.len()));
            out.extend_from_slice(file.bytes);
        }
        out.extend_from_slice(self.bytes);
        out
    }
}

fn length(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn read_histories<'a>(
    reader: &mut Reader<'a>,
    timeline: TimelineId,
) -> Result<Vec<HistoryFile<'a>>, FormatError> {
    // Each is a timeline and a count at least.
    let count = reader.count(5)?;
    let mut histories: Vec<HistoryFile<'a>> = Vec::with_capacity(count);
    for _ in 0..count {
        let of = TimelineId(reader.u32()?);
        let after = histories
            .last()
            .map_or(TimelineId::FIRST, |file| file.timeline);
        if of <= after || of > timeline {
            return Err(reader.invalid("histories don't ascend up to the timeline"));
        }
        let bytes = reader.count(1)?;
        let bytes = reader.bytes(bytes)?;
        histories.push(HistoryFile {
            timeline: of,
            bytes,
        });
    }
    Ok(histories)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range<'a>(bytes: &'a [u8], histories: Vec<HistoryFile<'a>>) -> LogRange<'a> {
        LogRange {
            system: 7_123_456_789,
            timeline: TimelineId(3),
            segment: SegmentSize::DEFAULT,
            start: Lsn(0x0300_0028),
            last_record: None,
            histories,
            bytes,
        }
    }

    #[test]
    fn a_payload_reads_back() {
        let mut written = range(
            b"some bytes of log, 32 of them ...",
            vec![
                HistoryFile {
                    timeline: TimelineId(2),
                    bytes: b"1\t0/1\tx\n",
                },
                HistoryFile {
                    timeline: TimelineId(3),
                    bytes: b"1\t0/1\tx\n2\t0/2\ty\n",
                },
            ],
        );
        written.last_record = Some(RecordSpan {
            start: Lsn(0x0300_0000),
            end: Lsn(0x0300_0030),
        });
        assert_eq!(LogRange::decode(&written.encode()), Ok(written));
    }

    #[test]
    fn an_empty_range_reads_back() {
        let written = range(b"", Vec::new());
        assert_eq!(LogRange::decode(&written.encode()), Ok(written));
    }

    #[test]
    fn every_truncation_and_every_extension_is_refused() {
        let history = HistoryFile {
            timeline: TimelineId(3),
            bytes: b"1\t0/1\n",
        };
        let bytes = range(b"0123456789", vec![history]).encode();
        for end in 0..bytes.len() {
            assert!(LogRange::decode(&bytes[..end]).is_err(), "{end}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(LogRange::decode(&longer).is_err());
    }

    #[test]
    fn ranges_that_no_server_has_are_refused() {
        let spoiled = |at: usize, with: &[u8]| {
            let mut bytes = range(b"0123456789", Vec::new()).encode();
            bytes[at..at + with.len()].copy_from_slice(with);
            LogRange::decode(&bytes).map(|_| ())
        };
        assert_eq!(spoiled(0, b"TMSQ"), Err(FormatError::Magic));
        assert_eq!(spoiled(4, &[2]), Err(FormatError::Version(2)));
        assert!(spoiled(5, &[1]).is_err());
        assert!(spoiled(16, &[0]).is_err(), "timeline 0");
        assert!(spoiled(20, &[1]).is_err(), "segment size");
        assert!(spoiled(24, &[0xFF; 8]).is_err(), "start past end");
        assert!(spoiled(48, &[0xFF; 8]).is_err(), "record past end");
        let backward = [2, 0, 0, 0, 0, 0, 0, 0, 1];
        assert!(
            spoiled(40, &backward).is_err(),
            "record ends before it starts"
        );
        let foreign = HistoryFile {
            timeline: TimelineId(4),
            bytes: b"",
        };
        assert!(LogRange::decode(&range(b"", vec![foreign]).encode()).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), keep in 0usize..80) {
            let good = range(b"0123456789", Vec::new()).encode();
            for (to, from) in bytes.iter_mut().zip(&good).take(keep) {
                *to = *from;
            }
            if let Ok(read) = LogRange::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }
}
