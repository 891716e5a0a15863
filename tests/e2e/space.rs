//! Full disks: under the spool, under a region, under a restore's target. On small file systems in
//! memory, mounted for the test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tidemark_host::{Clock as _, SystemClock};
use tidemark_testkit::sqlite::{Job, Shape, committed, create, run};
use tidemark_tests::eventually;

use crate::process::{Daemon, Ran, SOON, is_root, now, skip};
use crate::site::Site;
use crate::writer::{assert_committed_prefix, write};

const SPACE: i32 = 15;
/// A request that nothing can bring about is answered after 30 s.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(120);
/// A stop waits 5 s for room, not its 60.
const STOPS_WITHIN: Duration = Duration::from_secs(50);

/// A small file system, unmounted when dropped.
#[derive(Debug)]
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of `mebibytes` at `path`; `None`, loudly, where that can't be.
    pub(crate) fn mount(path: &Path, mebibytes: u32) -> Option<Self> {
        if !is_root() {
            skip("only root can mount a small file system");
            return None;
        }
        std::fs::create_dir_all(path).expect("a mount point");
        let options = format!("size={mebibytes}m,mode=0700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tidemark-test"])
            .arg(path)
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(path.to_owned()));
        }
        skip("no file system can be mounted here, a container needs the right to (CAP_SYS_ADMIN)");
        None
    }

    pub(crate) fn resize(&self, mebibytes: u32) {
        let options = format!("remount,size={mebibytes}m");
        let remounted = Command::new("mount")
            .args(["-o", &options])
            .arg(&self.0)
            .status();
        assert!(remounted.unwrap().success(), "room is made");
    }

    /// Fills it to its last page, by a file of this name.
    pub(crate) fn fill(&self, name: &str) {
        fill(&self.0.join(name));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// Fills a file system to its last page.
fn fill(ballast: &Path) {
    let filled = Command::new("dd")
        .args(["if=/dev/zero", "bs=4k"])
        .arg(format!("of={}", ballast.display()))
        .output();
    assert!(!filled.unwrap().status.success(), "the disk is full");
}

#[test]
fn restore_to_a_full_disk_is_refused_before_anything_is_written() {
    let site = Site::plan();
    let Some(disk) = SmallDisk::mount(&site.path("small"), 4) else {
        return;
    };
    create(
        &site.database,
        &Shape {
            bytes: 8 << 20,
            ..Shape::default()
        },
    )
    .unwrap();
    site.init();
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    daemon.terminate();
    let target = disk.0.join("back.db");
    for command in ["plan", "restore"] {
        let mut ran = site.command("tidemark-restore");
        ran.args([
            command,
            "--to",
            "latest",
            "--region",
            &site.regions[0],
            "--target",
        ]);
        let ran = Ran::of(ran.arg(&target).arg("--identity").arg(&site.identity));
        ran.ends_with(SPACE).says(&["free"]);
    }
    assert_eq!(std::fs::read_dir(&disk.0).unwrap().count(), 0);
    disk.resize(64);
    let mut again = site.restore_command(&[&site.regions[0]], &target);
    Ran::of(again.args(["--to", "latest"])).ok();
    assert!(target.exists());
}

/// A small database that is protected with a point of its own, and an agent that may spool little.
fn protect_with_a_small_spool(site: &Site) -> Daemon {
    let shape = Shape {
        bytes: 1 << 20,
        ..Shape::default()
    };
    create(&site.database, &shape).unwrap();
    site.init();
    site.set("spool_max", "\"16MiB\"");
    site.set("spool_keep_free", "\"4MiB\"");
    let daemon = site.start();
    site.agent(&["snapshot", "--name", "before"]).ok();
    daemon
}

#[test]
fn full_spool_gives_up_a_signed_range_spares_the_database_and_recovers() {
    let site = Site::plan();
    let state = site.path("host/.tidemark");
    let Some(_disk) = SmallDisk::mount(&state, 40) else {
        return;
    };
    let mut daemon = protect_with_a_small_spool(&site);
    let folders: Vec<_> = (0..2)
        .map(|n| (site.region_folder(n), site.fresh("hidden")))
        .collect();
    for (region, hidden) in &folders {
        std::fs::rename(region, hidden).unwrap();
    }
    // More than the spool may hold, and more than its disk.
    let job = Job {
        path: site.database.clone(),
        transactions: Some(700),
        rows: 40,
        row_bytes: 2_000,
        ..Job::default()
    };
    run(&job).unwrap();
    let full = eventually("the agent says that the spool is full", SOON * 2, || {
        let status = site.status();
        let full = status.alerts().iter().any(|code| code.contains("TM1501"));
        full.then_some(status)
    });
    assert!(
        full.0["daemon"]["spool_bytes"].as_u64() <= Some(16 << 20),
        "{}",
        full.0
    );
    daemon.assert_running();
    eventually("the range is given up under a signed gap", SOON * 2, || {
        let alerts = site.status().alerts();
        alerts.iter().any(|code| code == "log.gap").then_some(())
    });
    for (region, hidden) in &folders {
        std::fs::rename(hidden, region).unwrap();
    }
    run(&Job {
        transactions: Some(20),
        ..job
    })
    .unwrap();
    site.wait_shipped();
    daemon.assert_running();
    daemon.terminate();
    let expected = committed(&site.database).unwrap();
    for region in 0..2 {
        assert_eq!(
            committed(&site.restore_latest(region).path).unwrap(),
            expected
        );
    }
    // It was durable in one failure domain when the regions went: one of the two has it.
    let urls: Vec<&str> = site.regions.iter().map(String::as_str).collect();
    let before = site.restore(&urls, &["--to", "point:before"]);
    assert!(matches!(before.ran.code, 0 | 3), "{}", before.ran);
    let list = site.tool(&["list"]).ok();
    let windows = list.out.lines().filter(|line| line.contains(") to "));
    assert_eq!(
        windows.count(),
        2,
        "before and after what was given up: {list}"
    );
}

#[test]
fn full_disk_under_the_state_directory_is_named_harms_no_commit_and_passes() {
    let site = Site::plan();
    let state = site.path("host/.tidemark");
    let Some(_disk) = SmallDisk::mount(&state, 64) else {
        return;
    };
    crate::writer::create(&site.database);
    site.init();
    site.set("spool_keep_free", "\"1MiB\"");
    site.set("wal_max", "\"16MiB\"");
    let mut daemon = site.start();
    site.agent(&["snapshot"]).ok();
    let ballast = state.join("ballast");
    fill(&ballast);
    let journal = write(&site.database, 400);
    eventually("the full disk is named with what to do", SOON, || {
        let status = site.status().0.to_string();
        (status.contains("TM1502") && status.contains("state_dir")).then_some(())
    });
    daemon.assert_running();
    site.agent(&["explain", "TM1502"]).ok().says(&["spool"]);
    let wal = std::fs::metadata(site.path("host/app.db-wal"))
        .unwrap()
        .len();
    assert!(wal <= 24 << 20, "the log has {wal} bytes");
    std::fs::remove_file(&ballast).unwrap();
    site.wait_shipped();
    eventually("the alert goes with the trouble", SOON, || {
        let alerts = site.status().alerts();
        let stands = alerts.iter().any(|code| code.contains("TM1502"));
        (!stands).then_some(())
    });
    daemon.assert_running();
    daemon.terminate();
    for region in 0..2 {
        let k = assert_committed_prefix(&site.restore_latest(region).path);
        assert_eq!(k, journal.last().unwrap().n);
    }
}

#[test]
fn wal_stays_bounded_while_much_more_is_written_than_wal_max_and_the_state_directory_is_full() {
    const WAL_MAX: u64 = 16 << 20;
    let site = Site::plan();
    let state = site.path("host/.tidemark");
    let Some(_disk) = SmallDisk::mount(&state, 64) else {
        return;
    };
    create(&site.database, &Shape::default()).unwrap();
    site.init();
    site.set("spool_keep_free", "\"1MiB\"");
    site.set("wal_max", "\"16MiB\"");
    let mut daemon = site.start();
    site.agent(&["snapshot"]).ok();
    let ballast = state.join("ballast");
    fill(&ballast);
    // 160 MB through the log, which the application itself puts into the file now and then.
    let job = Job {
        path: site.database.clone(),
        transactions: Some(2_000),
        // 10 MB a second: what keeps the agent from its core for a few seconds stays below the bound.
        rate: Some(125.0),
        rows: 40,
        row_bytes: 2_000,
        ..Job::default()
    };
    run(&job).unwrap();
    // Its file never shrinks while it is in use: what it has now is the most that it ever had.
    let wal = std::fs::metadata(format!("{}-wal", site.database.display()))
        .unwrap()
        .len();
    assert!(wal > WAL_MAX / 4, "the load was too small: {wal} bytes");
    // Above the bound: what is written between two looks, and until a checkpoint has come to the end.
    assert!(wal <= WAL_MAX * 5, "the log has {wal} bytes");
    eventually("the full disk is named", SOON, || {
        let alerts = site.status().alerts();
        alerts
            .iter()
            .any(|code| code.contains("TM1502"))
            .then_some(())
    });
    daemon.assert_running();
    std::fs::remove_file(&ballast).unwrap();
    site.wait_shipped();
    eventually("the alerts go with the trouble", SOON * 2, || {
        site.status().alerts().is_empty().then_some(())
    });
    daemon.assert_running();
    daemon.terminate();
    let expected = committed(&site.database).unwrap();
    for region in 0..2 {
        assert_eq!(
            committed(&site.restore_latest(region).path).unwrap(),
            expected
        );
    }
}

#[test]
fn empty_directory_where_a_region_was_is_taken_for_an_unmounted_disk_and_left_alone() {
    let site = Site::plan();
    crate::writer::create(&site.database);
    site.init();
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.terminate();
    let (region, hidden) = (site.region_folder(1), site.fresh("hidden"));
    std::fs::rename(&region, &hidden).unwrap();
    std::fs::create_dir(&region).unwrap();
    let mut daemon = site.start();
    let journal = write(&site.database, 40);
    eventually("the agent says what it looks like", SOON, || {
        let status = site.status().0.to_string();
        (status.contains("TM1001") && status.contains("unmounted")).then_some(())
    });
    assert_eq!(std::fs::read_dir(&region).unwrap().count(), 0);
    std::fs::remove_dir(&region).unwrap();
    std::fs::rename(&hidden, &region).unwrap();
    site.wait_shipped();
    daemon.assert_running();
    daemon.terminate();
    let k = assert_committed_prefix(&site.restore_latest(1).path);
    assert_eq!(k, journal.last().unwrap().n);
}

#[test]
fn full_region_is_named_and_the_other_one_goes_on_until_there_is_room() {
    let site = Site::plan();
    let region = site.region_folder(0);
    let Some(disk) = SmallDisk::mount(&region, 8) else {
        return;
    };
    crate::writer::create(&site.database);
    site.init();
    let mut daemon = site.start();
    site.agent(&["snapshot"]).ok();
    let ballast = region.join("ballast");
    fill(&ballast);
    let journal = write(&site.database, 200);
    site.wait_shipped_to(1, now());
    eventually("the full region is named", SOON, || {
        let status = site.status().0.to_string();
        (status.contains("TM1502") && status.contains("region-a")).then_some(())
    });
    daemon.assert_running();
    std::fs::remove_file(&ballast).unwrap();
    site.wait_shipped();
    daemon.terminate();
    let k = assert_committed_prefix(&site.restore_latest(0).path);
    assert_eq!(k, journal.last().unwrap().n);
    drop(disk);
}

#[test]
fn agent_whose_disk_has_no_room_from_the_start_says_so_answers_and_stops() {
    let site = Site::plan();
    let state = site.path("host/.tidemark");
    let Some(_disk) = SmallDisk::mount(&state, 64) else {
        return;
    };
    create(&site.database, &Shape::default()).unwrap();
    site.init();
    // More than the disk has: there never was any room.
    site.set("spool_keep_free", "\"1GiB\"");
    let daemon = site.start();
    let folder = state.display().to_string();
    eventually("the full disk is named", SOON, || {
        let status = site.agent(&["status"]);
        let names = ["TM1502", &folder, "1 GiB"];
        names
            .iter()
            .all(|name| status.out.contains(name))
            .then_some(())
    });
    site.agent(&["doctor"]).ends_with(2).says(&[
        "state disk",
        &folder,
        "spool_keep_free = 1GiB",
        "nothing is captured",
    ]);
    // No base can begin: who asks for a point is told so, and not kept waiting for it.
    let snapshot = site.agent(&["snapshot"]).ends_with(SPACE);
    let snapshot = snapshot.says(&["no base can begin", "spool_keep_free = 1GiB"]);
    assert!(snapshot.took < SNAPSHOT_WITHIN, "{:?}", snapshot.took);
    let begun = SystemClock.monotonic();
    daemon.terminate();
    let took = SystemClock.monotonic().since(begun);
    assert!(took < STOPS_WITHIN, "{took:?}");
}
