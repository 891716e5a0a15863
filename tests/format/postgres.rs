//! Golden files of what PostgreSQL adds to the format: a log object's payload and a base's layout.
//! They were written by hand from `docs/FORMAT.md`, not by the code that is tested here.

use std::fs;

use tidemark_format::postgres::layout::Layout;
use tidemark_format::postgres::{HistoryFile, LogRange, Lsn, RecordSpan, SegmentSize, TimelineId};

const SYSTEM: u64 = 7_312_345_678_901_234_567;

fn golden(name: &str) -> Vec<u8> {
    let path = tidemark_tests::root()
        .join("tests/format/golden/postgres-v1")
        .join(name);
    fs::read(&path).unwrap()
}

#[test]
fn log_payload_of_postgresql_reads_as_it_was_written_and_writes_the_same_bytes() {
    let bytes = golden("log-payload");
    let log: Vec<u8> = (0u32..300)
        .map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap())
        .collect();
    let second = b"1\t0/2000148\tno recovery target specified\n";
    let third = [&second[..], b"2\t0/3000000\tno recovery target specified\n"].concat();
    let expected = LogRange {
        system: SYSTEM,
        timeline: TimelineId(3),
        segment: SegmentSize::DEFAULT,
        start: Lsn(0x0300_0028),
        last_record: Some(RecordSpan {
            start: Lsn(0x0300_0060),
            end: Lsn(0x0300_00D8),
        }),
        histories: vec![
            HistoryFile {
                timeline: TimelineId(2),
                bytes: second,
            },
            HistoryFile {
                timeline: TimelineId(3),
                bytes: &third,
            },
        ],
        bytes: &log,
    };
    assert_eq!(LogRange::decode(&bytes).unwrap(), expected);
    assert_eq!(expected.encode(), bytes);
    let empty = golden("log-payload-empty");
    let range = LogRange::decode(&empty).unwrap();
    assert_eq!((range.start, range.last_record), (Lsn(0x0010_0000), None));
    assert_eq!(range.segment, SegmentSize::new(1 << 20).unwrap());
    assert_eq!(range.encode(), empty);
}

#[test]
fn layout_of_a_postgresql_base_reads_as_it_was_written() {
    let layout = Layout::decode(&golden("layout")).unwrap();
    assert_eq!((layout.system, layout.major), (SYSTEM, 15));
    assert_eq!(layout.start.timeline, TimelineId(3));
    assert_eq!(
        (layout.start.lsn, layout.stop.lsn),
        (Lsn(0x0300_0028), Lsn(0x0300_0100))
    );
    assert_eq!((layout.file_mode, layout.folder_mode), (0o600, 0o700));
    assert_eq!(layout.mode("base/1", true), 0o755);
    assert_eq!(layout.mode("base", true), 0o700);
    assert_eq!(layout.tablespaces[0].location, "/srv/fast");
    assert_eq!(layout.links[0].target, "/run/stat");
    assert_eq!(
        layout.settings[1].missing.as_deref(),
        Some("permission denied")
    );
    assert_eq!((layout.bad_pages[0].file, layout.bad_pages_total), (7, 1));
    assert_eq!(layout.skipped["base/1/9"], "vanished");
    let again = Layout::decode(&layout.encode()).unwrap();
    assert_eq!(again, layout);
}
