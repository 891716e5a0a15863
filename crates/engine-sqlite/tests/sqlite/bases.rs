//! Bases: fuzzy, incremental, beyond the lock-byte page, over generations.

use std::time::Duration;

use tidemark_testkit::sqlite::{Job, Shape};

use crate::support::{Lab, capture_while};

#[test]
fn bases_read_under_load_restore_byte_equal() {
    // GIVEN a writer that changes pages everywhere and checkpoints all the time
    let lab = Lab::new(&Shape {
        bytes: 12 << 20,
        ..Shape::default()
    });
    let mut rig = lab.rig();
    rig.open();
    let job = Job {
        for_ms: Some(5_000),
        checkpoint: Some("TRUNCATE".to_owned()),
        checkpoint_every_ms: 40,
        ..lab.job(1)
    };
    let mut writer = [lab.start(&job)];
    // WHEN a complete base and incremental ones are read meanwhile
    let slowly =
        |_: &mut tidemark_engine::conformance::Rig| std::thread::sleep(Duration::from_millis(10));
    rig.base_with(true, slowly);
    rig.base_with(false, slowly);
    rig.open_generation();
    rig.base_with(false, slowly);
    assert!(
        rig.bases
            .iter()
            .map(|base| base.complete)
            .eq([true, false, true])
    );
    rig.base_with(false, slowly);
    capture_while(&mut rig, Duration::from_millis(100), &mut writer);
    // THEN each of them leads to the same end
    let last = *rig.restorable().last().unwrap();
    let bases = rig.bases.clone();
    for kept in (1..bases.len()).rev() {
        lab.restore(&rig, last);
        rig.bases.truncate(kept);
    }
    rig.bases = bases;
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_base_begun_inside_a_transaction_holds_the_pages_that_grew() {
    // GIVEN a growing transaction larger than several cuts, made while the agent was away
    let mut lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    lab.config.cut_bytes = 256 << 10;
    let mut rig = lab.protected();
    lab.change(1, 3);
    rig.cut();
    rig.crash();
    let mut other = lab.somebody();
    let sql = "INSERT INTO data(kind, body) SELECT 'big', randomblob(3000) FROM
               (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < 800) SELECT x FROM c);
               PRAGMA wal_checkpoint(PASSIVE)";
    let large = Job {
        sql: Some(sql.to_owned()),
        transactions: Some(0),
        ..lab.job(2)
    };
    lab.run(&Job {
        auto_checkpoint: Some(0),
        ..large
    });
    // WHEN the agent has shipped some of its pieces and begins a base
    rig.open();
    let pieces: Vec<_> = (0..4).filter_map(|_| rig.cut_once()).collect();
    assert!(pieces.last().is_some_and(|seq| !rig.log[seq].restorable));
    rig.bases.clear();
    rig.base(true);
    // THEN the base and what follows it are the database
    other.kill();
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn an_abandoned_base_leaves_its_pages_to_the_next() {
    let lab = Lab::new(&Shape {
        bytes: 2 << 20,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    lab.change(1, 20);
    rig.cut();
    let next = rig.next;
    rig.capture().begin_base(next, false).unwrap();
    rig.cut();
    lab.change(2, 5);
    rig.cut();
    rig.capture().base_abandoned();
    rig.base(false);
    let last = rig
        .cut()
        .unwrap_or_else(|| *rig.restorable().last().unwrap());
    assert!(
        rig.bases
            .last()
            .is_some_and(|base| base.usable <= last && !base.complete)
    );
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_database_beyond_the_lock_byte_page_is_restored() {
    // GIVEN a database that passes 1 GiB with few pages of data: large pages, mostly empty blobs
    let lab = Lab::new(&Shape {
        page_size: 65536,
        ..Shape::default()
    });
    let sql = "PRAGMA synchronous=OFF; INSERT INTO data(kind, body) SELECT 'zero', zeroblob(1000000) FROM
               (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < 1100) SELECT x FROM c);
               PRAGMA wal_checkpoint(TRUNCATE)";
    lab.run(&Job {
        sql: Some(sql.to_owned()),
        transactions: Some(1),
        ..lab.job(1)
    });
    assert!(std::fs::metadata(lab.path()).unwrap().len() > (1 << 30) + 65536 * 10);
    // WHEN it is captured while it changes on both sides of that page
    let mut rig = lab.protected();
    let sql = "UPDATE data SET kind='one' WHERE id IN (1, 500, 1080, 1099)";
    lab.run(&Job {
        sql: Some(sql.to_owned()),
        transactions: Some(3),
        ..lab.job(2)
    });
    rig.cut();
    rig.base(false);
    lab.change(3, 2);
    rig.cut();
    // THEN the digest of the whole proves it
    let last = *rig.restorable().last().unwrap();
    let restored = lab.restore(&rig, last);
    rig.crash();
    drop(lab.image());
    let compared = std::process::Command::new("cmp")
        .arg(lab.path())
        .arg(&restored)
        .status();
    assert!(compared.unwrap().success(), "the restored file differs");
}
