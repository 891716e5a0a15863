//! Full disks: under the spool, under a region, under a restore's target. On small file systems in
//! memory, mounted for the test.

use std::path::{Path, PathBuf};
use std::process::Command;

use tidemark_testkit::sqlite::{Shape, create};
use tidemark_tests::eventually;

use crate::process::{Ran, SOON, is_root, now, skip};
use crate::site::Site;
use crate::writer::{assert_committed_prefix, write};

const SPACE: i32 = 15;

/// A small file system, unmounted when dropped.
#[derive(Debug)]
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of `mebibytes` at `path`; `None`, loudly, where that can't be.
    fn mount(path: &Path, mebibytes: u32) -> Option<Self> {
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
        skip("this machine mounts no file system in memory");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
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
    let filled = Command::new("dd")
        .args(["if=/dev/zero", "bs=64k"])
        .arg(format!("of={}", ballast.display()))
        .output();
    assert!(!filled.unwrap().status.success(), "the disk is full");
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
