//! Restore fails closed: damage, gaps and strangers' journals are errors, never a wrong database.

use tidemark_engine::{ErrorKind, Materialise, PageRun};
use tidemark_engine_sqlite::{SqliteError, SqliteTarget, check};
use tidemark_testkit::sqlite::Shape;

use crate::support::Lab;

#[test]
fn a_missing_cut_is_found_by_the_digest() {
    let lab = Lab::new(&Shape {
        bytes: 300_000,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    let mut cuts = Vec::new();
    for seed in 1..4 {
        lab.change(seed, 2);
        cuts.extend(rig.cut());
    }
    rig.log.remove(&cuts[1]);
    let (target, _) = lab.target("partial");
    let error = rig.restore(cuts[2], target).expect_err("a gap is an error");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        matches!(error.inner(), Some(SqliteError::DigestDiffers { .. })),
        "{error}"
    );
}

#[test]
fn a_flipped_bit_of_a_payload_or_a_base_is_found() {
    let lab = Lab::new(&Shape {
        bytes: 300_000,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    lab.change(1, 3);
    let last = rig.cut().unwrap();
    let (log, bases) = (rig.log.clone(), rig.bases.clone());
    let length = log[&last].payload.len();
    for at in (0..length).step_by(length / 40).chain(4..70) {
        rig.log.get_mut(&last).unwrap().payload[at] ^= 0x10;
        let (target, _) = lab.target("partial");
        assert!(rig.restore(last, target).is_err(), "byte {at}");
        rig.log.clone_from(&log);
    }
    rig.bases[0].runs[0].bytes[40_000] ^= 1;
    let (target, _) = lab.target("partial");
    assert!(rig.restore(last, target).is_err());
    rig.bases = bases;
    let (target, _) = lab.target("partial");
    assert!(rig.restore(last, target).is_ok());
}

#[test]
fn a_journal_beside_the_target_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (partial, target) = (
        folder.path().join("app.db.partial"),
        folder.path().join("app.db"),
    );
    for stray in [
        "app.db-wal",
        "app.db-shm",
        "app.db-journal",
        "app.db.partial-wal",
    ] {
        let stray = folder.path().join(stray);
        std::fs::write(&stray, "x").unwrap();
        let error = SqliteTarget::open(&partial, &target).expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        std::fs::remove_file(&stray).unwrap();
    }
    assert!(SqliteTarget::open(&partial, &target).is_ok());
}

#[test]
fn hostile_runs_and_payloads_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("partial");
    let mut target = SqliteTarget::open(&path, &folder.path().join("app.db")).unwrap();
    let good = PageRun {
        file: 0,
        first: 0,
        count: 1,
        page_size: 512,
        bytes: vec![0; 512],
    };
    target.write_run(&good).unwrap();
    for bad in [
        PageRun {
            page_size: 1000,
            bytes: vec![0; 1000],
            ..good.clone()
        },
        PageRun {
            page_size: 1024,
            bytes: vec![0; 1024],
            ..good.clone()
        },
        PageRun {
            count: 2,
            ..good.clone()
        },
        PageRun {
            file: 1,
            ..good.clone()
        },
        PageRun {
            first: u64::MAX,
            ..good
        },
    ] {
        assert!(target.write_run(&bad).is_err(), "{bad:?}");
    }
    assert!(target.apply_log(b"TMSQ").is_err());
    assert_eq!(
        Box::new(target).finish().expect_err("no state").kind(),
        ErrorKind::Corrupt
    );
}

#[test]
fn integrity_check_reports_what_sqlite_finds() {
    let lab = Lab::new(&Shape {
        bytes: 300_000,
        ..Shape::default()
    });
    let mut image = lab.image();
    let path = lab.folder.path().join("a copy?.db");
    std::fs::write(&path, &image).unwrap();
    check(&path).unwrap();
    image[4096 * 3..4096 * 3 + 200].fill(0xee);
    std::fs::write(&path, &image).unwrap();
    let error = check(&path).expect_err("damage");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn a_restore_that_was_interrupted_goes_on() {
    let lab = Lab::new(&Shape {
        bytes: 300_000,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    lab.change(1, 5);
    let last = rig.cut().unwrap();
    // GIVEN a target with the base and garbage behind its end
    let path = lab.folder.path().join("partial");
    let open = || SqliteTarget::open(&path, &lab.folder.path().join("new.db")).unwrap();
    let first = open();
    for run in &rig.bases[0].runs {
        first.write_run(run).unwrap();
    }
    drop(first);
    let mut half = std::fs::read(&path).unwrap();
    half.extend_from_slice(&[0xaa; 10_000]);
    std::fs::write(&path, half).unwrap();
    // WHEN it is done again from the start THEN it is proved
    rig.restore(last, Box::new(open())).unwrap();
    check(&path).unwrap();
}
