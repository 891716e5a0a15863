//! Any instant of the window: what had been committed by then comes back, nothing later.

use std::time::Duration;

use jiff::Timestamp;
use tidemark_format::envelope::Envelope;
use tidemark_format::heads::LogHead;
use tidemark_tests::eventually;

use crate::objects::{objects, read};
use crate::process::{Daemon, Ran, SOON, now, pass};
use crate::site::Site;
use crate::writer::{
    Commit, Habits, Writer, assert_committed_prefix, begun_by, finished_by, write,
};

/// Time in which nothing is committed, so that the next object is of another instant.
const QUIET: Duration = Duration::from_millis(1_200);
/// As the sites of tests have it.
const SHIP_EVERY: Duration = Duration::from_millis(200);
/// Transactions under load among which instants are chosen.
const MANY: i64 = 250;

#[test]
fn instant_between_two_bursts_gives_exactly_the_first() {
    let site = Site::new();
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    let mut bursts = Vec::new();
    for _ in 0..4 {
        let journal = write(&site.database, 25);
        // The agent has seen all of it: what is committed later is of a later instant.
        site.wait_shipped();
        bursts.push((now(), journal.last().expect("a burst").n));
    }
    site.wait_shipped();
    daemon.terminate();
    for (at, n) in &bursts {
        for region in 0..2 {
            let url = site.regions[region].as_str();
            let restored = site.restore(&[url], &["--to", &at.to_string()]).ok();
            assert_eq!(assert_committed_prefix(&restored.path), *n, "at {at}");
            assert!(restored.reached_at() <= *at, "{}", restored.ran);
            assert_eq!(restored.report()["commit_times"], "observed");
        }
    }
}

#[test]
fn any_instant_under_load_is_reached_within_the_ship_interval_and_never_passed() {
    let site = Site::new();
    let daemon = site.start();
    let writer = Writer::start(
        &site.database,
        &Habits {
            per_second: 60,
            checkpoints: Some(11),
        },
    );
    site.agent(&["snapshot"]).ok();
    let from = site.restore_first(&writer.journal());
    eventually("enough was committed since the first state", SOON, || {
        let last = writer.journal().last().map(|commit| commit.n)?;
        (last > from + MANY).then_some(())
    });
    site.wait_shipped();
    let journal = writer.stop();
    daemon.terminate();
    // The ship interval, and as much again to look at the clock; on a machine that kept the agent from its
    // core, as long as the log itself tells that it took from one object to the next.
    let grace = longest_between_objects(&site) + 2 * SHIP_EVERY;
    eprintln!("within {grace:?}");
    let inside: Vec<&Commit> = journal.iter().filter(|commit| commit.n > from).collect();
    for share in 1..=8 {
        let at = inside[inside.len() * share / 9].done;
        let restored = site
            .restore(&[&site.regions[share % 2]], &["--to", &at.to_string()])
            .ok();
        let k = assert_committed_prefix(&restored.path);
        assert!(
            k <= begun_by(&journal, at),
            "{k} came back for {at}: later than asked for"
        );
        let least = finished_by(&journal, at - grace);
        assert!(
            k >= least,
            "{k} came back for {at}; {least} had been committed well before"
        );
    }
}

/// The longest time that lies between the ends of two log objects that follow each other.
fn longest_between_objects(site: &Site) -> Duration {
    let log = objects(&site.region_folder(0), "meta/log/").into_values();
    let ends: Vec<Timestamp> = log
        .filter_map(|path| {
            let bytes = read(&path);
            let (_, head) = Envelope::open::<LogHead>(&bytes).ok()?;
            Some(head.captured_at)
        })
        .collect();
    assert!(ends.len() > 5, "only {} objects", ends.len());
    let between = ends.windows(2).map(|two| two[1].duration_since(two[0]));
    let longest = between.max().expect("several objects");
    Duration::try_from(longest).expect("captured in order")
}

impl Site {
    /// The last transaction of the first state that can be restored.
    fn restore_first(&self, journal: &[Commit]) -> i64 {
        let list = self.tool(&["list", "--json"]).ok().json();
        let first = &list["sources"][0]["windows"][0]["from"]["at"];
        let at = crate::site::instant(first).expect("the window's beginning");
        finished_by(journal, at) + 20
    }
}

#[test]
fn before_excludes_the_position_and_the_instant_that_to_includes() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    write(&site.database, 20);
    site.wait_shipped();
    pass(QUIET);
    write(&site.database, 20);
    site.wait_shipped();
    daemon.terminate();
    let url = site.regions[0].as_str();
    let latest = site.restore(&[url], &["--to", "latest"]).ok();
    assert_eq!(assert_committed_prefix(&latest.path), 60);
    let reached = &latest.report()["reached"];
    let position = format!("log:{}:{}", reached["epoch"], reached["seq"]);
    let at = latest.reached_at().to_string();
    for target in [position.as_str(), at.as_str(), "latest"] {
        let to = site.restore(&[url], &["--to", target]).ok();
        assert_eq!(assert_committed_prefix(&to.path), 60, "--to {target}");
        let before = site.restore(&[url], &["--before", target]).ok();
        let k = assert_committed_prefix(&before.path);
        assert!((40..60).contains(&k), "--before {target} gave {k}");
        assert!(before.reached_at() < latest.reached_at());
    }
}

#[test]
fn named_point_and_plan_say_what_restore_then_does() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 30);
    let sealed = site
        .agent(&["snapshot", "--name", "before-v2", "--json"])
        .ok()
        .json();
    assert_eq!(sealed["points"][0]["name"], "before-v2");
    write(&site.database, 30);
    site.wait_shipped();
    daemon.terminate();
    let url = site.regions[1].as_str();
    let target = site.path("planned.db");
    let mut plan = site.command("tidemark-restore");
    plan.args([
        "plan",
        "--to",
        "point:before-v2",
        "--region",
        url,
        "--json",
        "--target",
    ]);
    let plan = Ran::of(plan.arg(&target)).ok().json();
    let restored = site.restore(&[url], &["--to", "point:before-v2"]).ok();
    assert_eq!(assert_committed_prefix(&restored.path), 30);
    assert_eq!(plan["reaches"], restored.report()["reached"]);
    assert_eq!(plan["sealed"], true);
    site.tool(&["list"]).ok().says(&["before-v2"]);
}

#[test]
fn names_of_points_follow_a_rule_and_are_given_once() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 10);
    for name in [
        "1/4",
        "latest",
        "-90m",
        "2026-05-01",
        "now",
        "",
        "a b",
        "log:1:4",
    ] {
        let word = format!("--name={name}");
        let refused = site.agent(&["snapshot", &word]).ends_with(2);
        let told = ["recovery point's name is 1 to 64", "take"];
        assert!(
            told.iter().any(|words| refused.err.contains(words)),
            "{name:?}: {refused}"
        );
    }
    site.agent(&["snapshot", "--name", "before-v2"]).ok();
    let list = site.tool(&["list", "--json"]).ok().json();
    let points = list["sources"][0]["points"].as_array().expect("points");
    let named = points.iter().find(|point| point["name"] == "before-v2");
    let at: Timestamp = named.expect("the named one")["committed"]
        .as_str()
        .and_then(|at| at.parse().ok())
        .expect("its time");
    let at = at.strftime("%Y-%m-%d %H:%M:%S").to_string();
    write(&site.database, 10);
    site.agent(&["snapshot", "--name", "before-v2"])
        .ends_with(2)
        .says(&["before-v2", &at]);
    // Without a daemon the same holds.
    daemon.terminate();
    site.agent(&["snapshot", "--name", "before-v2"])
        .ends_with(2)
        .says(&[&at]);
    site.agent(&["snapshot", "--name", "before-v3"]).ok();
}

#[test]
fn restore_that_was_interrupted_goes_on_where_it_was() {
    use tidemark_testkit::sqlite::{Shape, create};
    let site = Site::plan();
    create(
        &site.database,
        &Shape {
            bytes: 96 << 20,
            ..Shape::default()
        },
    )
    .unwrap();
    site.init();
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.terminate();
    let target = site.path("back.db");
    let partial = site.path(".back.db.tidemark-partial");
    let restore = |signal: bool| {
        let mut command = site.restore_command(&[&site.regions[0]], &target);
        command.args(["--to", "latest", "--json"]);
        if !signal {
            return Ran::of(&mut command).ok();
        }
        let blocks = || {
            let meta = std::fs::metadata(&partial).ok()?;
            Some(std::os::unix::fs::MetadataExt::blocks(&meta))
        };
        // It stands still in its middle, so that the signal comes there; one that was too fast for this
        // test is begun anew.
        let middle = || blocks().is_some_and(|blocks| (8_000..120_000).contains(&blocks));
        let (mut running, log) = loop {
            let log = site.fresh("interrupted");
            let mut running = Daemon::start(&mut command, &log);
            while !middle() && running.ended().is_none() {
                pass(Duration::from_millis(5));
            }
            if running.hold() && middle() {
                break (running, log);
            }
            running.kill();
            drop(std::fs::remove_file(&partial));
            drop(std::fs::remove_file(&target));
        };
        running.signal("INT");
        running.go_on();
        let code = running.wait();
        assert_eq!(code, 1, "{}", running.log());
        Ran::of(std::process::Command::new("cat").arg(&log))
    };
    let interrupted = restore(true);
    assert!(
        interrupted.out.contains("goes on where it was"),
        "{interrupted}"
    );
    assert!(!target.exists() && partial.exists(), "{interrupted}");
    let report = restore(false).json();
    assert!(report["resumed_bytes"].as_u64() > Some(0), "{report}");
    assert_eq!(report["proof"], "digest-equal");
    assert!(!partial.exists());
    crate::writer::assert_same_pages(&site.database, &target);
}
