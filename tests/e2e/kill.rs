//! The agent is killed at any moment: what a restore brings back is a committed prefix, and nothing
//! that was called durable is missing.

use std::time::Duration;

use tidemark_testkit::sqlite::Dice;
use tidemark_tests::eventually;

use crate::process::{SOON, long, pass};
use crate::site::Site;
use crate::status::Status;
use crate::writer::{Habits, Writer, assert_committed_prefix, assert_same_pages, finished_by};

const ROUNDS: u64 = 30;
const ROUNDS_LONG: u64 = 300;
/// Of these the first are over before there need be a first base.
const ROUNDS_OF_THE_BASE: u64 = 4;
/// A kill comes within this time after the start: also in the middle of starting.
const LIFE_MS_MAX: u64 = 1_400;
const REGIONS: [&str; 2] = ["region-a", "region-b"];

/// `TIDEMARK_SEED=N` repeats a run.
fn seed() -> u64 {
    let given = std::env::var("TIDEMARK_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    given.unwrap_or(20_261_121)
}

/// What is durable once the agent ran undisturbed: on a slow machine no shorter life makes a first base.
fn protected(site: &Site) -> Status {
    let daemon = site.start();
    site.wait_shipped();
    let status = site.status();
    daemon.terminate();
    status
}

#[test]
fn agent_killed_at_any_moment_loses_nothing_that_it_called_durable() {
    let seed = seed();
    eprintln!("TIDEMARK_SEED={seed}");
    let site = Site::new();
    let writer = Writer::start(
        &site.database,
        &Habits {
            per_second: 150,
            checkpoints: Some(seed),
        },
    );
    let mut dice = Dice::new(seed);
    let mut known: Option<Status> = None;
    let mut restores = 0;
    for round in 0..if long() { ROUNDS_LONG } else { ROUNDS } {
        if round == ROUNDS_OF_THE_BASE {
            known = Some(protected(&site));
        }
        let mut daemon = site.launch();
        pass(Duration::from_millis(dice.below(LIFE_MS_MAX)));
        // Half of the kills come right after somebody was told what is durable.
        if dice.below(2) == 0 {
            known = Some(site.status());
            pass(Duration::from_millis(dice.below(100)));
        }
        daemon.assert_running();
        daemon.kill();
        let region = usize::try_from(round % 2).unwrap_or(0);
        let durable = known
            .as_ref()
            .and_then(|status| status.safe_until(REGIONS[region]));
        let through = known
            .as_ref()
            .and_then(|status| status.log_through(REGIONS[region]));
        let Some(durable) = durable else { continue };
        let restored = site.restore_latest(region);
        let k = assert_committed_prefix(&restored.path);
        let journal = writer.journal();
        let promised = finished_by(&journal, durable);
        assert!(
            k >= promised,
            "round {round}: transaction {promised} was durable in {} by {durable}, {k} came back",
            REGIONS[region]
        );
        assert!(
            restored.report()["reached"]["seq"].as_u64() >= through,
            "round {round}"
        );
        std::fs::remove_file(&restored.path).unwrap();
        restores += 1;
    }
    assert!(
        restores >= 20,
        "only {restores} restores: the agent was hardly ever ready"
    );
    assert!(
        writer.checkpoints() > 100,
        "the application ran {} checkpoints",
        writer.checkpoints()
    );
    let journal = writer.stop();
    let daemon = site.start();
    site.wait_shipped();
    daemon.terminate();
    for region in 0..2 {
        let restored = site.restore_latest(region);
        let k = assert_committed_prefix(&restored.path);
        assert_eq!(k, journal.last().expect("transactions").n);
        assert_same_pages(&site.database, &restored.path);
    }
}

#[test]
fn application_killed_in_the_middle_of_a_transaction_loses_nothing_that_was_committed() {
    use tidemark_testkit::sqlite::{Child, Job, Shape, committed, create};
    let site = Site::plan();
    create(&site.database, &Shape::default()).unwrap();
    site.init();
    let daemon = site.start();
    for round in 1..=5 {
        let job = Job {
            path: site.database.clone(),
            seed: 1,
            rows: 40,
            ..Job::default()
        };
        let mut app = Child::of_binary(&tidemark_tests::program("workload"), &job).unwrap();
        pass(Duration::from_millis(300 + 70 * round));
        assert!(app.is_running());
        app.kill();
    }
    let done = committed(&site.database).unwrap();
    site.wait_shipped();
    let restored = site.restore_latest(0);
    assert_eq!(committed(&restored.path).unwrap(), done);
    daemon.terminate();
    let again = site.restore_latest(1);
    assert_same_pages(&site.database, &again.path);
}

#[test]
fn agent_that_is_told_to_stop_ships_everything_and_seals_a_last_point() {
    let site = Site::new();
    site.set("ship_every", "\"20s\"");
    site.set("snapshot_every", "\"1h\"");
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    let points = || site.status().point("region-a");
    let before = eventually("a first point", SOON, points);
    let journal = crate::writer::write(&site.database, 200);
    daemon.terminate();
    assert!(points() > Some(before), "no last point");
    for region in 0..2 {
        let restored = site.restore_latest(region);
        assert_eq!(
            assert_committed_prefix(&restored.path),
            journal.last().unwrap().n
        );
        assert_eq!(restored.report()["sealed"], true, "{}", restored.ran);
    }
}
