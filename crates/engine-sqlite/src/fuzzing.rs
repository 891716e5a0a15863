//! What this crate reads of files that others, or a crash, may have spoiled: for hostile bytes only, no
//! part of the interface. Each call ends without a panic and takes no more memory than `bytes` allow.

use std::hint::black_box;
use std::path::Path;

use tidemark_engine::Workspace;
use tidemark_format::LogSeq;
use tidemark_format::pages::PageDigest;

use crate::book::Book;
use crate::files::{DatabaseHeader, beside};
use crate::map::MapFile;
use crate::pending::Pending;
use crate::record::{self, Snapshot};
use crate::seen::Seen;
use crate::shm::WalIndex;
use crate::state::State;
use crate::tail::{Cursor, Reading, Tail};
use crate::wal::WalHeader;
use crate::witness::Witnesses;

/// What a cut holds at most here.
const CUT_BYTES: usize = 64 << 10;
const KEY: [u8; 32] = [7; 32];

/// Follows `bytes` as a write-ahead log, of which the index claims `frames` frames; `folder` is the
/// caller's own.
pub fn log(folder: &Path, bytes: &[u8], frames: u32) -> Option<usize> {
    if let Some(index) = bytes.first_chunk() {
        black_box(WalIndex::parse(index));
    }
    let header = WalHeader::parse(bytes.first_chunk()?)?;
    let database = folder.join("hostile.db");
    std::fs::write(beside(&database, "-wal"), bytes).ok()?;
    let tail = Tail::open(&database, header.page_size).ok()?;
    let index = WalIndex {
        page_size: header.page_size,
        frames,
        pages: frames,
        checksum: [0, 0],
        salts: header.salts,
        backfilled: 0,
    };
    let (mut cursor, mut pending, mut pages) = (Cursor::start(header.salts), Pending::default(), 0);
    let mut reading = Reading {
        cursor: &mut cursor,
        pending: &mut pending,
        pages: &mut pages,
        now: jiff::Timestamp::UNIX_EPOCH,
        not_before: None,
        seen: &Seen::default(),
        bound: CUT_BYTES,
    };
    drop(tail.read(&index, &mut reading, &mut Workspace::new()));
    drop(tail.holds(&cursor, &index));
    Some(pending.bytes())
}

/// Reads `bytes` as each of the engine's own files and as the start of a database.
pub fn own_file(folder: &Path, bytes: &[u8]) {
    drop(record::decode(bytes, folder));
    drop(serde_json::from_slice::<State>(bytes));
    black_box(bytes.first_chunk().map(DatabaseHeader::parse));
    if std::fs::write(folder.join("map-1"), bytes).is_err() {
        return;
    }
    let pages = u32::try_from(bytes.len() / 10).unwrap_or(u32::MAX);
    if let Ok(map) = MapFile::open(folder, 1, KEY, pages) {
        drop(Book::new(map, Vec::new(), 512).map(|book| book.entries(1, 64)));
    }
}

/// Sound bytes for [`own_file`]: a record, and a map of `pages` pages.
///
/// # Panics
/// Only if `folder` can't be written.
#[must_use]
pub fn sound_files(folder: &Path, pages: u32) -> Vec<Vec<u8>> {
    let entries: Vec<_> = (1..=pages)
        .map(|number| (number, PageDigest(u128::from(number) << 64)))
        .collect();
    let snapshot = Snapshot {
        seq: LogSeq(3),
        key_id: crate::map::key_id(&KEY),
        tag: 1,
        pages,
        restorable: true,
        catching_up: false,
        cursor: Some(Cursor::start([1, 2])),
        rewound_from: 0,
        open_transaction: false,
        stamp: None,
        digest: None,
        last_commit: None,
        look: None,
        witnesses: Witnesses::default(),
    };
    let record = record::encode(&snapshot, &entries).expect("plain data");
    let mut map = MapFile::create(folder, 1, KEY, pages).expect("a folder that can be written");
    crate::book::apply(&mut map, &snapshot, &entries).expect("a folder that can be written");
    let map = std::fs::read(folder.join("map-1")).expect("a folder that can be read");
    vec![record, map]
}
