//! Makes logs for tests, laid out as the server lays them out.

use crc_fast::{CrcAlgorithm, Digest};

use super::{PAGE_BYTES, Span};
use tidemark_format::postgres::{Lsn, SegmentSize};

pub(super) const SYSTEM: u64 = 7_000_000_000_000_000_001;
const MAGIC_15: u16 = 0xD110;
const BTREE: u8 = 11;

/// A log that grows.
pub(super) struct Builder {
    segment: SegmentSize,
    start: Lsn,
    bytes: Vec<u8>,
    previous: Lsn,
}

impl Builder {
    pub(super) fn new(start: Lsn, segment: SegmentSize) -> Self {
        Self {
            segment,
            start,
            bytes: Vec::new(),
            previous: Lsn(0),
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    fn at(&self) -> Lsn {
        self.start
            .plus(u64::try_from(self.bytes.len()).expect("small"))
    }

    fn page_head(&mut self, rest: u32, flags: u16) {
        let at = self.at();
        let long = self.segment.offset(at) == 0;
        let continues = u16::from(rest > 0);
        let flags = flags | continues | if long { 2 } else { 0 };
        self.bytes.extend(MAGIC_15.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(1_u32.to_le_bytes());
        self.bytes.extend(at.0.to_le_bytes());
        self.bytes.extend(rest.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(SYSTEM.to_le_bytes());
            let size = u32::try_from(self.segment.bytes()).expect("fits");
            self.bytes.extend(size.to_le_bytes());
            self.bytes
                .extend(u32::try_from(PAGE_BYTES).expect("fits").to_le_bytes());
        }
    }

    /// Room at the current place; begins a page if there is none.
    fn room(&mut self, rest: u32, flags: u16) -> usize {
        if self.at().0.is_multiple_of(PAGE_BYTES) {
            self.page_head(rest, flags);
        }
        usize::try_from(PAGE_BYTES - self.at().0 % PAGE_BYTES).expect("small")
    }

    fn align(&mut self) {
        while !self.at().0.is_multiple_of(8) {
            self.bytes.push(0);
        }
    }

    fn lay(&mut self, record: &[u8]) {
        let mut rest = record;
        while !rest.is_empty() {
            let left = if rest.len() == record.len() {
                0
            } else {
                rest.len()
            };
            let room = self.room(u32::try_from(left).expect("small"), 0);
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
    }

    fn record(xid: u32, previous: Lsn, info: u8, manager: u8, body: &[u8]) -> Vec<u8> {
        let mut head = Vec::new();
        head.extend(u32::try_from(24 + body.len()).expect("small").to_le_bytes());
        head.extend(xid.to_le_bytes());
        head.extend(previous.0.to_le_bytes());
        head.extend([info, manager, 0, 0]);
        let mut checksum = Digest::new(CrcAlgorithm::Crc32Iscsi);
        checksum.update(body);
        checksum.update(&head);
        let checksum = u32::try_from(checksum.finalize()).expect("32 bits");
        head.extend(checksum.to_le_bytes());
        head.extend(body);
        head
    }

    fn push(&mut self, xid: u32, info: u8, manager: u8, body: &[u8]) -> Span {
        self.align();
        self.room(0, 0);
        let start = self.at();
        let record = Self::record(xid, self.previous, info, manager, body);
        self.lay(&record);
        self.align();
        self.previous = start;
        Span {
            start,
            end: self.at(),
        }
    }

    fn content(data: &[u8]) -> Vec<u8> {
        let mut body = match u8::try_from(data.len()) {
            Ok(short) => vec![255, short],
            Err(_) => {
                let mut long = vec![254];
                long.extend(u32::try_from(data.len()).expect("small").to_le_bytes());
                long
            }
        };
        body.extend(data);
        body
    }

    pub(super) fn commit(&mut self, xid: u32, at: i64) -> Span {
        self.push(xid, 0x00, 1, &Self::content(&at.to_le_bytes()))
    }

    pub(super) fn commit_prepared(&mut self, xid: u32, at: i64) -> Span {
        let mut data = Vec::new();
        data.extend(at.to_le_bytes());
        // Database, two subtransactions, one relation, one invalidation, the prepared id.
        data.extend(0b1_1111_u32.to_le_bytes());
        data.extend([0; 8]);
        data.extend(2_i32.to_le_bytes());
        data.extend([1; 8]);
        data.extend(1_i32.to_le_bytes());
        data.extend([2; 12]);
        data.extend(1_i32.to_le_bytes());
        data.extend([3; 16]);
        data.extend(xid.to_le_bytes());
        self.push(0, 0x80 | 0x30, 1, &Self::content(&data))
    }

    pub(super) fn point(&mut self, name: &str, at: i64) -> Span {
        let mut data = Vec::new();
        data.extend(at.to_le_bytes());
        data.extend(name.as_bytes());
        data.resize(72, 0);
        self.push(0, 0x70, 0, &Self::content(&data))
    }

    /// A message as `pg_logical_emit_message` writes it.
    pub(super) fn message(&mut self, xid: u32, prefix: &str, content: &str) -> Span {
        let length = |bytes: usize| u64::try_from(bytes).expect("small").to_le_bytes();
        let mut data = Vec::new();
        data.extend(5_u32.to_le_bytes());
        data.extend([u8::from(xid != 0), 0, 0, 0]);
        data.extend(length(prefix.len() + 1));
        data.extend(length(content.len()));
        data.extend(prefix.as_bytes());
        data.push(0);
        data.extend(content.as_bytes());
        self.push(xid, 0x00, 21, &Self::content(&data))
    }

    pub(super) fn checkpoint(&mut self, shutdown: bool, redo: Lsn, timeline: u32) -> Span {
        let mut data = Vec::new();
        data.extend(redo.0.to_le_bytes());
        data.extend(timeline.to_le_bytes());
        data.extend(timeline.to_le_bytes());
        data.push(1);
        data.resize(88, 0);
        let info = if shutdown { 0x00 } else { 0x10 };
        self.push(0, info, 0, &Self::content(&data))
    }

    /// A record that nobody wants to see, with `bytes` of content.
    pub(super) fn filler(&mut self, bytes: u32) -> Span {
        let bytes = usize::try_from(bytes).expect("fits");
        let data: Vec<u8> = (0..251).cycle().take(bytes).collect();
        self.push(0, 0x10, BTREE, &Self::content(&data))
    }

    pub(super) fn switch(&mut self) -> Span {
        let span = self.push(0, 0x40, 0, &[]);
        while self.segment.offset(self.at()) != 0 {
            self.bytes.push(0);
        }
        span
    }

    /// The server crashed in the middle of a record: its first page stands, the next one starts over.
    pub(super) fn broken_record(&mut self, bytes: u32) {
        self.align();
        let room = self.room(0, 0);
        let body = vec![7; usize::try_from(bytes).expect("fits")];
        let record = Self::record(0, self.previous, 0x10, BTREE, &Self::content(&body));
        assert!(record.len() > room, "it must cross a page");
        self.bytes.extend(&record[..room]);
        self.page_head(0, 8);
        // What the server writes first after such a page.
        let mut lost = Vec::new();
        lost.extend(self.previous.0.to_le_bytes());
        lost.extend([0; 8]);
        self.push(0, 0xD0, 0, &Self::content(&lost));
    }
}
