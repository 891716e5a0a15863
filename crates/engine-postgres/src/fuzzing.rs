//! What this crate reads that a server, a network or a crash may have spoiled: for hostile bytes only, no
//! part of the interface. Each call ends without a panic and takes no more memory than `bytes` allow.

use std::hint::black_box;
use std::path::Path;

use crc_fast::{CrcAlgorithm, Digest};
use tidemark_format::LogSeq;
use tidemark_format::postgres::{Lsn, SegmentSize, TimelineId};

use crate::base::digests::{self, Store, StoreWriter};
use crate::base::state::State as BaseState;
use crate::base::table::{FileTable, Place};
use crate::base::tar::Tar;
use crate::capture::record::{Cursor, Record, State};
use crate::conninfo::ConnInfo;
use crate::replication::{
    self, BackupOptions, BaseBackup, Started, Stream, StreamEvent, history, identify, read_slot,
};
use crate::timeline::History;
use crate::wal::{PAGE_BYTES, Scanner};
use crate::wire::Connection;

const KEY: [u8; 32] = [7; 32];
const BASE: u64 = 3;
const SEGMENT: SegmentSize = SegmentSize::DEFAULT;
const START: Lsn = Lsn(0x0300_0000);
/// Magic numbers of the pages of 14 to 18.
const PAGES: [u16; 5] = [0xD10D, 0xD110, 0xD113, 0xD116, 0xD118];
const PAGE_HEAD_BYTES: usize = 40;
const RECORD_HEAD_BYTES: usize = 24;

/// Reads `bytes` as a base backup's archive that comes in pieces, as they are and with the checksum of every
/// header put right.
pub fn archive(bytes: &[u8]) {
    pieces_of_archive(bytes);
    let mut summed = bytes.to_vec();
    for block in summed.chunks_exact_mut(512) {
        if block.get(257..262) == Some(b"ustar") {
            put_sum(block);
        }
    }
    pieces_of_archive(&summed);
}

fn put_sum(block: &mut [u8]) {
    if let Some(field) = block.get_mut(148..156) {
        field.fill(b' ');
    }
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    if let Some(field) = block.get_mut(148..156) {
        field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn pieces_of_archive(bytes: &[u8]) {
    let place = bytes.first().copied().map_or(0, usize::from);
    let (one, two) = bytes.split_at((place * 37).min(bytes.len()));
    let mut tar = Tar::new();
    for mut piece in [one, two] {
        loop {
            match tar.next(&mut piece) {
                Ok(Some(event)) => drop(black_box(event)),
                Ok(None) => break,
                Err(_told) => return,
            }
        }
    }
    drop(tar.finish());
}

/// Reads `bytes` as the log of a timeline, in pieces.
pub fn log(bytes: &[u8]) {
    for size in [bytes.len().max(1), 113] {
        let mut scanner = Scanner::new(TimelineId(1), SEGMENT, START);
        let mut found = Vec::new();
        for piece in bytes.chunks(size) {
            if scanner.feed(piece, &mut found).is_err() {
                break;
            }
        }
        black_box((found.len(), scanner.last(), scanner.system()));
    }
}

/// Reads `bytes` as a record that a server would replay: the first three say of which version, manager and
/// kind it is, the rest is its content.
pub fn record(bytes: &[u8]) {
    let Some(([version, manager, info], content)) = bytes.split_first_chunk() else {
        return;
    };
    let room = usize::try_from(PAGE_BYTES).unwrap_or(0) - PAGE_HEAD_BYTES - RECORD_HEAD_BYTES;
    let content = content.get(..room).unwrap_or(content);
    let magic = PAGES
        .get(usize::from(*version) % PAGES.len())
        .copied()
        .unwrap_or_default();
    // The transaction manager is 1, the log's 0.
    log(&page(magic, manager & 1, *info, content));
}

/// The first page of a segment, with one record.
fn page(magic: u16, manager: u8, info: u8, content: &[u8]) -> Vec<u8> {
    let mut page = magic.to_le_bytes().to_vec();
    page.extend(2_u16.to_le_bytes());
    page.extend(1_u32.to_le_bytes());
    page.extend(START.0.to_le_bytes());
    page.extend([0; 8]);
    page.extend(7_u64.to_le_bytes());
    page.extend(u32::try_from(SEGMENT.bytes()).unwrap_or(0).to_le_bytes());
    page.extend(u32::try_from(PAGE_BYTES).unwrap_or(0).to_le_bytes());
    let length = u32::try_from(content.len() + RECORD_HEAD_BYTES).unwrap_or(u32::MAX);
    let mut head = length.to_le_bytes().to_vec();
    head.extend(9_u32.to_le_bytes());
    head.extend(0_u64.to_le_bytes());
    head.extend([info, manager, 0, 0]);
    let mut sum = Digest::new(CrcAlgorithm::Crc32Iscsi);
    sum.update(content);
    sum.update(&head);
    let sum = u32::try_from(sum.finalize()).unwrap_or(0);
    page.extend(head);
    page.extend(sum.to_le_bytes());
    page.extend(content);
    page
}

/// Reads `bytes` as a timeline's history.
pub fn timeline(bytes: &[u8]) {
    if let Ok(history) = History::parse(TimelineId(9), bytes) {
        black_box(history.branch_of(START));
        black_box(history.continues(TimelineId(1), START));
    }
}

/// Reads `bytes` as each of the engine's own files; `folder` is the caller's own.
pub fn own_file(folder: &Path, bytes: &[u8]) {
    drop(Record::decode(bytes, folder));
    drop(serde_json::from_slice::<State>(bytes));
    drop(serde_json::from_slice::<BaseState>(bytes));
    if std::fs::write(digests::path_of(folder, BASE), bytes).is_err() {
        return;
    }
    if let Ok((mut store, table)) = Store::open(folder, BASE, &KEY) {
        for at in [0, 32, 48, 1 << 20, u64::MAX] {
            drop(black_box(store.digest(at)));
        }
        black_box(table.len());
    }
}

/// Sound bytes for [`own_file`]: a record, a state, a base's digests.
///
/// # Panics
/// Only if `folder` can't be written.
#[must_use]
pub fn sound_files(folder: &Path) -> Vec<Vec<u8>> {
    let incarnation = tidemark_format::Incarnation([3; 16]);
    let cursor = Cursor::begin(7, TimelineId(2), SEGMENT, START);
    let record = Record {
        incarnation,
        seq: LogSeq(4),
        cursor: cursor.clone(),
    };
    let record = record.encode().expect("a record");
    let state = State::begin(incarnation, 1, cursor);
    let state = serde_json::to_vec(&state).expect("a state");
    let mut table = FileTable::new().expect("a table");
    let mut writer = StoreWriter::create(folder, BASE, &KEY).expect("a store");
    for name in ["base/1/1259", "global/pg_control", "base/5/16384.1"] {
        let place = Place {
            bytes: 3 * 8192,
            digests_at: writer.at(),
        };
        let number = table.number(name).expect("a number");
        for unit in 0..3 {
            writer.push(&[unit; 16]).expect("a digest");
        }
        table.note(number, place);
    }
    writer.finish(&table).expect("a whole store");
    let digests = std::fs::read(digests::path_of(folder, BASE)).expect("the store");
    vec![record, state, digests]
}

/// Listens to `bytes` as to a server: at log-in, and as the answer to each command.
pub async fn speech(info: &ConnInfo, bytes: &[u8]) {
    drop(black_box(Connection::over(bytes).log_in_as(info).await));
    let mut connection = Connection::over(bytes);
    while let Ok(message) = connection.next().await {
        black_box(message);
    }
    drop(black_box(identify(&mut Connection::over(bytes)).await));
    drop(black_box(
        read_slot(&mut Connection::over(bytes), "s").await,
    ));
    drop(black_box(
        history(&mut Connection::over(bytes), TimelineId(2)).await,
    ));
    let started = replication::start(Connection::over(bytes), None, START, TimelineId(1)).await;
    if let Ok(Started::Streaming(stream)) = started {
        listen(stream).await;
    }
    for major in ["14.0", "18.0"] {
        backup(major, bytes).await;
    }
}

async fn listen(mut stream: Stream) {
    while let Ok(event) = stream.next().await {
        if let StreamEvent::Ended(_) | StreamEvent::Stopped = black_box(event) {
            return;
        }
    }
}

async fn backup(version: &str, bytes: &[u8]) {
    let mut connection = Connection::over(bytes);
    connection.claim_version(version);
    let options = BackupOptions {
        label: "base".to_owned(),
        fast: true,
        rate_kilobytes: None,
        verify_checksums: true,
        manifest: true,
        zstd_level: None,
    };
    let Ok(mut backup) = BaseBackup::start(connection, &options).await else {
        return;
    };
    while let Ok(Some(event)) = backup.next().await {
        black_box(event);
    }
}
