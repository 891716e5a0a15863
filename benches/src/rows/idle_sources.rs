//! A thousand idle databases under one agent: objects, for one as for all.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::Setting;
use crate::data;
use crate::region::{Region, WAIT_MAX};
use crate::report::{Measure, Row, Runs};
use crate::rows::{Originals, Run};
use crate::subject::Tidemark;

const SOURCES: usize = 1000;
/// The edges of a counted minute may take in one beat more or less.
const GOAL_MORE: f64 = 1.0;
const BYTES: u64 = 64 << 10;
/// Beats come every second here, so that a short time stands for a day.
const KEYS: &[(&str, &str)] = &[
    ("ship_every", "\"1s\""),
    ("beat_every", "\"1s\""),
    ("snapshot_every", "\"5s\""),
];
const COUNTED: Duration = Duration::from_secs(30);
/// What is counted is exact: more pairs would say the same.
const PAIRS_MAX: usize = 2;
/// All sources have their first point, and for this long the only thing that came is beats.
const SETTLED: Duration = Duration::from_secs(10);

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let (mut many, mut more) = (Runs::default(), Runs::default());
    let pairs = setting.pairs.min(PAIRS_MAX);
    for number in 0..pairs {
        let run = originals.run(&format!("one-{number}"), BYTES, 4096)?;
        let one = objects_gained(setting, &run, 1)?;
        drop(run);
        let run = originals.run(&format!("many-{number}"), BYTES, 4096)?;
        let all = objects_gained(setting, &run, SOURCES)?;
        many.push(all);
        more.push(all - one);
    }
    Ok(Row {
        name: "idle-sources",
        pairs,
        setting: format!(
            "Objects that a region gains in {} s from {SOURCES} idle databases under one agent \
             ({:.0}), against one; beats every second and points every five stand for a minute and \
             five.",
            COUNTED.as_secs(),
            many.median()
        ),
        measures: vec![Measure::at_most(
            "objects more than for one",
            &more,
            GOAL_MORE,
            "",
        )],
    })
}

fn objects_gained(setting: &Setting, run: &Run, sources: usize) -> Result<f64> {
    let region = Region::Folder(run.home.join("region"));
    let (home, regions) = (run.home.join("t"), [region.clone()]);
    let subject = Tidemark::prepare(setting, &home, &run.database, &regions, KEYS)?;
    let mut databases: Vec<PathBuf> = Vec::new();
    for number in 1..sources {
        let database = run.home.join(format!("extra-{number}.db"));
        data::make(&database, 1, 4096)?;
        databases.push(database);
    }
    subject.add_sources(&databases)?;
    let mut agent = subject.start_protected()?;
    let started = Instant::now();
    let mut last = (region.held()?.0, started);
    // Ten seconds may bring ten beats, and one that was late.
    while last.1.elapsed() < SETTLED || region.protected()? < sources {
        std::thread::sleep(Duration::from_secs(1));
        agent.must_run()?;
        ensure!(started.elapsed() < WAIT_MAX, "objects do not stop coming");
        let held = region.held()?.0;
        if held > last.0 + SETTLED.as_secs() + 1 {
            last = (held, Instant::now());
        }
    }
    let before = region.held()?.0;
    std::thread::sleep(COUNTED);
    let gained = region.held()?.0.saturating_sub(before);
    ensure!(
        gained >= COUNTED.as_secs() / 2,
        "{gained} objects in {COUNTED:?}: the agent's beats do not come"
    );
    agent.stop()?;
    Ok(gained as f64)
}
