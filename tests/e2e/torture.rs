//! Everything an application can do to SQLite at once, and every moment of it comes back.

use std::time::Duration;

use tidemark_testkit::sqlite::{Child, Job, Shape, committed, create};
use tidemark_tests::{eventually, program};

use crate::process::{long, pass};
use crate::site::{Restored, Site};
use crate::writer::assert_same_pages;

const WRITERS: u64 = 4;
const FOR: Duration = Duration::from_secs(60);
const FOR_LONG: Duration = Duration::from_secs(600);
const POINTS_MIN: usize = 60;
/// Enough to take one from every corner of the run, few enough for CI.
const POINTS_TRIED: usize = 72;
/// Restores at a time.
const AT_ONCE: usize = 2;

/// Four writers; the first also truncates the log, the second also vacuums.
fn jobs(site: &Site, stop: &std::path::Path) -> Vec<Job> {
    let job = |seed| Job {
        path: site.database.clone(),
        seed,
        stop: Some(stop.to_owned()),
        rate: Some(40.0),
        busy_ms: 30_000,
        checkpoint: (seed == 1).then(|| "TRUNCATE".to_owned()),
        checkpoint_every_ms: 250,
        vacuum_every_ms: (seed == 2).then_some(3_000),
        ..Job::default()
    };
    (1..=WRITERS).map(job).collect()
}

#[test]
fn four_writers_with_vacuum_and_truncate_come_back_at_every_point() {
    let site = Site::plan();
    create(
        &site.database,
        &Shape {
            auto_vacuum: 2,
            bytes: 500_000,
            ..Shape::default()
        },
    )
    .unwrap();
    site.init();
    let mut daemon = site.start();
    site.agent(&["snapshot"]).ok();
    let stop = site.path("stop");
    let jobs = jobs(&site, &stop);
    let workload = program("workload");
    let writers: Vec<Child> = jobs
        .iter()
        .map(|job| Child::of_binary(&workload, job).unwrap())
        .collect();
    pass(if long() { FOR_LONG } else { FOR });
    // One a second; on a machine that is slower than that the writers go on until there are enough.
    eventually("enough points are sealed", FOR * 5, || {
        let (_, newest) = site.status().point("region-a")?;
        (usize::try_from(newest).ok()? > POINTS_MIN).then_some(())
    });
    std::fs::write(&stop, "").unwrap();
    for writer in writers {
        let done = writer.wait().unwrap();
        assert!(done.transactions > 100, "a writer was held up: {done:?}");
    }
    daemon.assert_running();
    site.wait_shipped();
    daemon.terminate();
    let last = site.restore_latest(0);
    let expected = committed(&site.database).unwrap();
    assert_eq!(committed(&last.path).unwrap(), expected);
    assert_same_pages(&site.database, &last.path);
    intermediate_points_restore_clean(&site);
}

fn intermediate_points_restore_clean(site: &Site) {
    let list = site.tool(&["list", "--points", "--json"]).ok().json();
    let points = list["sources"][0]["points"].as_array().expect("points");
    assert!(
        points.len() >= POINTS_MIN,
        "only {} points were sealed",
        points.len()
    );
    let step = (points.len() / POINTS_TRIED).max(1);
    let targets: Vec<String> = points
        .iter()
        .step_by(step)
        .map(|point| format!("log:{}:{}", point["epoch"], point["log_seq"]))
        .collect();
    assert!(targets.len() >= POINTS_MIN);
    let share = targets.len().div_ceil(AT_ONCE);
    std::thread::scope(|scope| {
        for (number, targets) in targets.chunks(share).enumerate() {
            scope.spawn(move || {
                let mut before = Vec::new();
                for target in targets {
                    let restored = point_restores_clean(site, number, target);
                    let now = committed(&restored.path).unwrap();
                    assert!(now >= before, "{target} holds less than an earlier point");
                    std::fs::remove_file(&restored.path).unwrap();
                    before = now;
                }
            });
        }
    });
}

#[track_caller]
fn point_restores_clean(site: &Site, region: usize, target: &str) -> Restored {
    let restored = site
        .restore(&[&site.regions[region]], &["--to", target])
        .ok();
    let app = rusqlite::Connection::open(&restored.path).unwrap();
    let check: String = app
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok", "{target}");
    restored
}
