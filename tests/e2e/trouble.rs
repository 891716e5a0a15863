//! Trouble with the database itself: gone, replaced, no database, somebody else's, held by a reader
//! that never ends, or in another journal mode. The agent says so and goes on when it can.

use std::time::Duration;

use rusqlite::Connection;
use tidemark_tests::{eventually, throughout};

use crate::process::{SOON, is_root, now, skip};
use crate::site::Site;
use crate::status::Status;
use crate::writer::{assert_committed_prefix, assert_same_pages, create, create_with, open, write};

/// Waits until the daemon alerts about the source, and says something with one of `words` in it.
#[track_caller]
fn wait_alert(site: &Site, words: &[&str]) -> Status {
    eventually(&format!("an alert about {words:?}"), SOON, || {
        let status = site.status();
        let alerts = status.0["daemon"]["alerts"].to_string();
        words
            .iter()
            .all(|word| alerts.contains(word))
            .then_some(status)
    })
}

#[track_caller]
fn wait_no_alert(site: &Site) {
    eventually("all alerts are over", SOON, || {
        site.status().alerts().is_empty().then_some(())
    });
}

#[test]
fn vanished_database_raises_an_alert_and_capture_resumes_when_it_is_back() {
    let site = Site::new();
    let mut daemon = site.start();
    write(&site.database, 40);
    site.agent(&["snapshot"]).ok();
    let away = site.path("away");
    std::fs::create_dir(&away).unwrap();
    let moved = away.join("app.db");
    std::fs::rename(&site.database, &moved).unwrap();
    wait_alert(&site, &["TM0102"]);
    daemon.assert_running();
    // What is in the regions is as safe as it was.
    assert_eq!(assert_committed_prefix(&site.restore_latest(0).path), 40);
    for suffix in ["-wal", "-shm"] {
        let rest = format!("{}{suffix}", site.database.display());
        let to = format!("{}{suffix}", moved.display());
        if std::path::Path::new(&rest).exists() {
            std::fs::rename(rest, to).unwrap();
        }
    }
    for suffix in ["", "-wal", "-shm"] {
        let from = format!("{}{suffix}", moved.display());
        if std::path::Path::new(&from).exists() {
            std::fs::rename(from, format!("{}{suffix}", site.database.display())).unwrap();
        }
    }
    write(&site.database, 40);
    site.wait_shipped();
    wait_no_alert(&site);
    daemon.terminate();
    assert_eq!(assert_committed_prefix(&site.restore_latest(1).path), 80);
}

#[test]
fn database_replaced_by_rename_is_a_new_life_and_both_lives_restore() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 40);
    site.agent(&["snapshot", "--name", "old-life"]).ok();
    site.wait_shipped();
    let other = site.path("other.db");
    create(&other);
    write(&other, 7);
    crate::writer::checkpoint(&other);
    for suffix in ["-wal", "-shm"] {
        let stale = format!("{}{suffix}", site.database.display());
        drop(std::fs::remove_file(stale));
    }
    std::fs::rename(&other, &site.database).unwrap();
    write(&site.database, 5);
    eventually("the new database is what restores", SOON * 2, || {
        let restored = site.restore(&[&site.regions[0]], &["--to", "latest"]);
        (restored.ran.code == 0 && assert_committed_prefix(&restored.path) == 12).then_some(())
    });
    daemon.terminate();
    let old = site
        .restore(&[&site.regions[0]], &["--to", "point:old-life"])
        .ok();
    assert_eq!(assert_committed_prefix(&old.path), 40);
}

#[test]
fn file_that_is_no_database_raises_an_alert_and_another_source_goes_on() {
    let site = Site::new();
    let broken = site.path("host/broken.db");
    std::fs::write(&broken, vec![7_u8; 20_000]).unwrap();
    let config = std::fs::read_to_string(&site.config).unwrap();
    let more = format!(
        "\n[[source]]\nname = \"broken\"\nsqlite = \"{}\"\n",
        broken.display()
    );
    std::fs::write(&site.config, config + &more).unwrap();
    let mut daemon = site.start();
    write(&site.database, 40);
    site.agent(&["snapshot", "--source", "app"]).ok();
    wait_alert(&site, &["broken"]);
    daemon.assert_running();
    let restored = site
        .restore(&[&site.regions[0]], &["--to", "latest", "--source", "app"])
        .ok();
    assert_eq!(assert_committed_prefix(&restored.path), 40);
    assert_eq!(
        std::fs::read(&broken).unwrap(),
        vec![7_u8; 20_000],
        "it was written to"
    );
    daemon.terminate();
}

#[test]
fn database_of_another_owner_is_refused_with_the_remedy_and_left_alone() {
    if !is_root() {
        skip("only root can make a file somebody else's");
        return;
    }
    let site = Site::new();
    let nobody = 65_534;
    std::os::unix::fs::chown(&site.database, Some(nobody), Some(nobody)).unwrap();
    let folder = site.path("host");
    let beside = |suffix: &str| folder.join(format!("app.db{suffix}")).exists();
    assert!(!beside("-wal") && !beside("-shm"));
    site.agent(&["doctor"]).says(&["owner"]);
    let mut daemon = site.launch();
    let said = eventually("the agent says whose it is", SOON, || {
        let log = daemon.log();
        (log.contains("belongs to") || daemon.ended().is_some()).then_some(log)
    });
    assert!(
        said.contains("runs as user 0") && said.contains("User=65534"),
        "{said}"
    );
    if let Some(code) = daemon.ended() {
        assert_eq!(code, 78, "{said}");
    }
    throughout(
        "nothing is made beside the database",
        Duration::from_secs(2),
        || !beside("-wal") && !beside("-shm"),
    );
}

#[test]
fn reader_that_never_ends_is_alerted_at_wal_max_and_caught_up_afterwards() {
    let site = Site::new();
    site.set("wal_max", "\"1MiB\"");
    let mut daemon = site.start();
    write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    let reader = open(&site.database);
    reader.execute_batch("BEGIN").unwrap();
    let seen: i64 = reader
        .query_row("SELECT count(*) FROM ledger", [], |row| row.get(0))
        .unwrap();
    assert_eq!(seen, 20);
    write(&site.database, 900);
    wait_alert(&site, &["wal"]);
    daemon.assert_running();
    reader.execute_batch("COMMIT").unwrap();
    drop(reader);
    write(&site.database, 100);
    site.wait_shipped();
    wait_no_alert(&site);
    daemon.terminate();
    let restored = site.restore_latest(0);
    assert_eq!(assert_committed_prefix(&restored.path), 1020);
    assert_same_pages(&site.database, &restored.path);
}

const HOLD: &str = "PRAGMA locking_mode=EXCLUSIVE; BEGIN IMMEDIATE; DELETE FROM bulk; COMMIT";

#[test]
fn database_held_exclusively_is_named_and_taken_up_when_it_is_let_go() {
    let site = Site::new();
    let app = open(&site.database);
    app.execute_batch(HOLD).unwrap();
    let mut daemon = site.start();
    let status = wait_alert(&site, &["EXCLUSIVE", "locking_mode=NORMAL"]);
    assert_eq!(status.alerts(), ["source.TM7808"]);
    daemon.assert_running();
    drop(app);
    wait_no_alert(&site);
    write(&site.database, 30);
    site.wait_shipped();
    daemon.terminate();
    assert_eq!(assert_committed_prefix(&site.restore_latest(0).path), 30);
}

#[test]
fn application_that_turns_exclusive_under_capture_is_told_no_and_capture_goes_on() {
    let site = Site::new();
    let mut daemon = site.start();
    write(&site.database, 10);
    site.agent(&["snapshot"]).ok();
    let app = open(&site.database);
    app.busy_timeout(Duration::from_millis(100)).unwrap();
    // SQLite gives nobody the file alone while somebody else reads it.
    let refused = app.execute_batch(HOLD).unwrap_err();
    assert_eq!(
        refused.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseBusy)
    );
    drop(app);
    write(&site.database, 20);
    site.wait_shipped();
    wait_no_alert(&site);
    daemon.assert_running();
    daemon.terminate();
    assert_eq!(assert_committed_prefix(&site.restore_latest(0).path), 30);
}

#[test]
fn database_that_turned_exclusive_while_the_agent_was_down_is_caught_up_when_it_is_let_go() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 10);
    site.agent(&["snapshot"]).ok();
    daemon.terminate();
    let app = open(&site.database);
    app.execute_batch(HOLD).unwrap();
    let mut daemon = site.start();
    wait_alert(&site, &["TM7808"]);
    app.execute_batch("INSERT INTO bulk VALUES (0, 0, x'00')")
        .unwrap();
    app.execute_batch("DELETE FROM bulk").unwrap();
    drop(app);
    wait_no_alert(&site);
    write(&site.database, 15);
    site.wait_shipped();
    daemon.assert_running();
    daemon.terminate();
    let restored = site.restore_latest(0);
    assert_eq!(assert_committed_prefix(&restored.path), 25);
    assert_same_pages(&site.database, &restored.path);
}

#[test]
fn databases_of_every_journal_mode_and_page_size_come_back_page_for_page() {
    for (mode, page_size) in [
        ("delete", 4096),
        ("truncate", 1024),
        ("persist", 65_536),
        ("wal", 512),
        ("wal", 65_536),
    ] {
        let site = Site::plan();
        create_with(&site.database, page_size, mode);
        site.init();
        let daemon = site.start();
        write(&site.database, 130);
        site.wait_shipped();
        write(&site.database, 130);
        site.wait_shipped();
        daemon.terminate();
        let restored = site.restore_latest(0);
        assert_eq!(
            assert_committed_prefix(&restored.path),
            260,
            "{mode} {page_size}"
        );
        if mode == "wal" {
            assert_same_pages(&site.database, &restored.path);
        } else {
            let bytes = |path: &std::path::Path| std::fs::read(path).unwrap();
            assert!(
                bytes(&site.database) == bytes(&restored.path),
                "{mode} {page_size}"
            );
        }
    }
}

#[test]
fn agent_writes_nothing_into_the_database_and_leaves_the_application_alone() {
    let site = Site::new();
    write(&site.database, 50);
    let tables = |path: &std::path::Path| -> String {
        let app = Connection::open(path).unwrap();
        let sql = "SELECT group_concat(name || sql) FROM sqlite_master";
        app.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let before = tables(&site.database);
    crate::writer::checkpoint(&site.database);
    let bytes = std::fs::read(&site.database).unwrap();
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    site.wait_shipped_to(2, now());
    daemon.terminate();
    crate::writer::checkpoint(&site.database);
    assert!(
        std::fs::read(&site.database).unwrap() == bytes,
        "the database's pages changed"
    );
    assert_eq!(tables(&site.database), before);
}

#[test]
fn after_downtime_only_what_changed_is_shipped() {
    let site = Site::plan();
    let shape = tidemark_testkit::sqlite::Shape {
        bytes: 20 << 20,
        ..Default::default()
    };
    tidemark_testkit::sqlite::create(&site.database, &shape).unwrap();
    site.init();
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.terminate();
    let stored = || -> u64 {
        let objects = crate::objects::objects(&site.region_folder(0), "");
        objects
            .values()
            .map(|path| std::fs::metadata(path).unwrap().len())
            .sum()
    };
    let before = stored();
    let app = open(&site.database);
    app.execute_batch("UPDATE data SET kind='tex' WHERE id % 1000 = 0")
        .unwrap();
    drop(app);
    crate::writer::checkpoint(&site.database);
    let daemon = site.start();
    site.wait_shipped();
    daemon.terminate();
    let shipped = stored() - before;
    assert!(
        shipped < 600_000,
        "{shipped} bytes were shipped for 20 changed rows of 20 MiB"
    );
    assert_same_pages(&site.database, &site.restore_latest(0).path);
}
