//! The shipped program on a whole repository: a full disk and Ctrl-C, each followed by the same
//! command again.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use tidemark_format::LogSeq;
use tidemark_host::{Clock as _, SystemClock};

use crate::world::World;

const BIN: &str = env!("CARGO_BIN_EXE_tidemark-restore");

fn words(world: &World) -> Vec<String> {
    let region = format!("dir:{}", world.regions[0].path.display());
    let (target, identity) = (world.path("restored.db"), world.path("identity"));
    [
        "restore",
        "--to",
        "latest",
        "--target",
        &target,
        "--identity",
        &identity,
        "--region",
        &region,
    ]
    .map(str::to_owned)
    .to_vec()
}

fn large(mib: usize) -> (World, LogSeq) {
    let mut world = World::new(1);
    for _ in 0..mib {
        world.insert(1 << 20);
    }
    world.base();
    let last = world.insert(300);
    (world, last)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_disk_that_fills_midway_ends_with_15_and_the_same_command_ends_it() {
    let (world, last) = large(4);
    // A limit on the size of files stands for a full disk: the write fails in the middle.
    let limited = Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\"",
            BIN,
        ])
        .args(words(&world))
        .output()
        .unwrap();
    assert_eq!(limited.status.code(), Some(15), "{}", said(&limited));
    assert!(said(&limited).contains("TM1502"), "{}", said(&limited));
    assert!(!world.target().exists());
    let again = Command::new(BIN).args(words(&world)).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
    world.assert_restored(last);
}

#[test]
fn a_restore_resumes_after_ctrl_c() {
    let (world, last) = large(24);
    let partial = world.dir.path().join(".restored.db.tidemark-partial");
    let began = SystemClock.monotonic();
    let mut interrupted = false;
    while !interrupted {
        let tried = SystemClock.monotonic().since(began);
        assert!(
            tried < Duration::from_secs(600),
            "never caught in the middle"
        );
        let mut child = Command::new(BIN)
            .args(words(&world))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while fs::metadata(&partial).map_or(0, |meta| meta.len()) < 1 << 20
            && child.try_wait().unwrap().is_none()
        {
            std::thread::yield_now();
        }
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().is_ok());
        let ended = child.wait().unwrap();
        interrupted = ended.code() == Some(1) && partial.exists();
        if !interrupted {
            // It was quicker: from the beginning.
            assert_eq!(ended.code(), Some(0), "{ended:?}");
            fs::remove_file(world.target()).unwrap();
        }
    }
    assert!(!world.target().exists());
    let again = Command::new(BIN).args(words(&world)).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
    world.assert_restored(last);
}
