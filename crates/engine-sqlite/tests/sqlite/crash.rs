//! The agent is killed at seeded moments, under load, with and without losing what it hadn't synced.

use std::path::Path;
use std::time::Duration;

use tidemark_engine::conformance::Rig;
use tidemark_testkit::sqlite::{Dice, Job, Shape, committed};

use crate::support::Lab;

/// Loss of power: the map is what it was when it was synced last.
fn copy_folder(from: &Path, to: &Path) {
    drop(std::fs::remove_dir_all(to));
    std::fs::create_dir_all(to).expect("a step of the test");
    for entry in std::fs::read_dir(from).expect("a step of the test") {
        let entry = entry.expect("a step of the test");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a step of the test");
    }
}

/// One life of the agent, ended at a moment that `dice` chooses.
fn live_and_die(rig: &mut Rig, lab: &Lab, dice: &mut Dice) {
    let state = lab.folder.path().join("state");
    let synced = lab.folder.path().join("synced");
    rig.open();
    rig.sync();
    copy_folder(&state, &synced);
    for _ in 0..dice.below(25) {
        match dice.below(12) {
            0..5 => std::thread::sleep(rig.poll().next.min(Duration::from_millis(15))),
            5..9 => drop(rig.cut_once()),
            9 if rig.bases.is_empty() || dice.below(3) == 0 => {
                let complete = dice.below(4) == 0;
                rig.base_with(complete, |_| {});
                // A finished base stored the state: that much is durable.
                rig.sync();
                copy_folder(&state, &synced);
            }
            10 if !rig.bases.is_empty() => {
                rig.sync();
                copy_folder(&state, &synced);
            }
            _ => {
                rig.poll();
            }
        }
    }
    match dice.below(5) {
        // Between cut and spool.
        0 => drop(rig.cut_unsealed()),
        // Between spool and sealed.
        1 => {
            if let Some(cut) = rig.cut_unsealed() {
                rig.spool(cut);
            }
        }
        // In the middle of a base.
        2 if !rig.bases.is_empty() => {
            let next = rig.next;
            rig.capture()
                .begin_base(next, false)
                .expect("a step of the test");
            copy_folder(&state, &synced);
            rig.poll();
            rig.capture()
                .base_slice(64 << 10, &mut tidemark_engine::Workspace::new())
                .expect("a step of the test");
            rig.cut_once();
        }
        _ => {}
    }
    rig.crash();
    if dice.below(3) == 0 {
        copy_folder(&synced, &state);
    }
}

fn torture(seed: u64, rounds: u64, journal_mode: &'static str) {
    let mut dice = Dice::new(seed);
    let mut lab = Lab::new(&Shape {
        bytes: 1 << 20,
        journal_mode,
        ..Shape::default()
    });
    lab.config.cut_bytes = 256 << 10;
    lab.config.hand_off_bytes = 512 << 10;
    lab.config.stall_max = Duration::from_secs(5);
    let mut rig = lab.rig();
    let stop = lab.folder.path().join("stop");
    let job = |writer: u64, checkpoint: &str| Job {
        stop: Some(stop.clone()),
        checkpoint: Some(checkpoint.to_owned()).filter(|_| journal_mode == "wal"),
        checkpoint_every_ms: 30,
        rate: Some(200.0),
        for_ms: Some(120_000),
        ..lab.job(writer)
    };
    // Transactions larger than a cut.
    let large = Job {
        rows: 300,
        row_bytes: 1500,
        rate: Some(3.0),
        ..job(3, "PASSIVE")
    };
    let writers = [job(1, "TRUNCATE"), job(2, "PASSIVE"), large].map(|job| lab.start(&job));
    for round in 0..rounds {
        live_and_die(&mut rig, &lab, &mut dice);
        if let Some(last) = rig.restorable().last() {
            let found = committed(&lab.restore(&rig, *last));
            found.unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
        }
    }
    std::fs::write(&stop, "").expect("a step of the test");
    for writer in writers {
        writer.wait().expect("a step of the test");
    }
    rig.open();
    rig.base(false);
    rig.cut();
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn a_killed_agent_restores_committed_prefixes_whatever_the_moment() {
    for seed in [1, 2, 3] {
        torture(seed, 12, "wal");
    }
}

#[test]
fn a_killed_agent_of_a_database_without_wal_does_as_well() {
    torture(4, 8, "delete");
}

/// The seed of a failure goes here.
#[test]
fn run_this_seed() {
    if let Ok(seed) = std::env::var("TIDEMARK_SEED") {
        torture(seed.parse().unwrap(), 40, "wal");
    }
}
