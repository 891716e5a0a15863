//! Hostile bytes in the agent's own state: spoiled spool files and records give a typed error or are
//! dropped, never a panic, never memory beyond what their size allows. Inputs, time and measure are
//! those of `tests/fuzz`; a binary of its own, because its allocator counts.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]
#![expect(
    clippy::print_stdout,
    reason = "how much was tried is part of the result"
)]

#[path = "../../tests/fuzz/hostile.rs"]
mod hostile;

use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use hostile::{attack, files};
use tidemark_agent::state::item::{BaseRecord, Item};
use tidemark_agent::state::{SourceRecord, Spool, SpoolUsage};
use tidemark_format::envelope::{Envelope, Kind};
use tidemark_format::{Epoch, RegionName, SourceName, WriterId};

/// What stands beside an item's object, at most.
const RECORD_BYTES: usize = 64;
const SPOOLED: [Kind; 3] = [Kind::Log, Kind::Base, Kind::Point];

fn file_of(folder: &Path, order: u64) -> std::path::PathBuf {
    folder.join(format!("{order:016}"))
}

fn open(folder: &Path) -> Option<Spool> {
    let opened = Spool::open(folder, SpoolUsage::default());
    opened.ok().map(|(spool, _orders)| spool)
}

/// Sound spool files of every kind that stands in one.
fn sound_items() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(folder.path()).unwrap();
    let spooled = |bytes: &Vec<u8>| {
        Envelope::parse(bytes).is_ok_and(|envelope| SPOOLED.contains(&envelope.kind))
    };
    let objects = files("tests/format/golden/v1/region");
    let record = BaseRecord {
        packs_in: vec![RegionName::new("a").unwrap()],
    };
    let record = serde_json::to_vec(&record).unwrap();
    let mut sound = Vec::new();
    for (order, object) in (1..).zip(objects.iter().filter(|object| spooled(object))) {
        spool.append(order, object, &record).unwrap();
        let (item, _head) = spool.item(order).unwrap();
        assert_eq!(item.bytes, object.as_slice());
        sound.push(std::fs::read(file_of(folder.path(), order)).unwrap());
    }
    assert!(sound.len() > 3, "golden objects of every spooled kind");
    sound
}

#[test]
fn spool_files_survive_hostile_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    attack("spool", sound_items(), |bytes| {
        // As the last file, which may be torn: it is taken away, or read as any other.
        std::fs::write(file_of(folder, 1), bytes).unwrap();
        drop(open(folder));
        std::fs::write(file_of(folder, 1), bytes).unwrap();
        if let Some(spool) = open(folder) {
            std::fs::write(file_of(folder, 1), bytes).unwrap();
            drop(black_box(spool.item(1)));
            drop(black_box(spool.object(1)));
            drop(black_box(spool.record(1)));
            drop(black_box(spool.object_bytes(1)));
        }
        // What the hash of a spool file keeps away from the reader of items.
        let (object, record) = bytes.split_at(bytes.len().saturating_sub(RECORD_BYTES));
        drop(black_box(Item::read(
            1,
            Bytes::copy_from_slice(object),
            record,
        )));
        drop(black_box(Item::read(
            1,
            Bytes::copy_from_slice(bytes),
            b"{\"packs_in\":[]}",
        )));
    });
}

#[test]
fn records_of_sources_survive_hostile_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record.json");
    let name = SourceName::new("app").unwrap();
    let mut sound = SourceRecord::claimed(name, Epoch(1), WriterId([1; 16]), None);
    sound.lane(&RegionName::new("a").unwrap());
    attack("record", vec![sound.to_bytes()], |bytes| {
        std::fs::write(&path, bytes).unwrap();
        drop(black_box(SourceRecord::load(&path)));
    });
}
