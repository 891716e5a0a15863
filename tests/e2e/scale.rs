//! Many databases, idle databases, a large database: what one agent costs stays bounded.

use serde_json::Value;
use tidemark_host::{Clock as _, SystemClock};
use tidemark_testkit::sqlite::{Job, Shape, create, run};
use tidemark_tests::eventually;

use crate::objects::keys;
use crate::process::{SOON, long};
use crate::site::Site;
use crate::writer::{self, assert_committed_prefix, write};

const SOURCES: usize = 200;
/// A few dozen: the capture pool, one thread a core for hashing, the runtime.
const THREADS_MAX: u64 = 40;
const KIB_PER_MIB: u64 = 1024;

#[test]
fn hundreds_of_databases_under_one_agent_need_no_thread_each_and_all_come_back() {
    let site = Site::new();
    let mut config = std::fs::read_to_string(&site.config).unwrap();
    let path = |number: usize| site.path(&format!("host/app{number}.db"));
    for number in 1..SOURCES {
        writer::create(&path(number));
        config.push_str(&format!(
            "\n[[source]]\nname = \"app{number}\"\nsqlite = \"{}\"\n",
            path(number).display()
        ));
    }
    std::fs::write(&site.config, config).unwrap();
    site.set("ship_every", "\"1s\"");
    site.set("beat_every", "\"2s\"");
    let mut daemon = site.start();
    for number in 1..SOURCES {
        write(&path(number), 3);
    }
    let at = crate::process::now();
    eventually("every database is in both regions", SOON * 4, || {
        let status = site.status();
        let regions = status.0["regions"].as_array()?.clone();
        let whole = |region: &Value| {
            let sources = region["sources"].as_array().map_or(&[][..], Vec::as_slice);
            let safe = sources.iter().filter(|source| {
                crate::site::instant(&source["safe_until"]).is_some_and(|until| until >= at)
            });
            safe.count() == SOURCES
        };
        regions.iter().all(whole).then_some(())
    });
    daemon.assert_running();
    let (threads, peak) = (daemon.proc_status("Threads"), daemon.proc_status("VmHWM"));
    assert!(
        threads <= THREADS_MAX,
        "{threads} threads for {SOURCES} databases"
    );
    assert!(
        peak <= 128 * KIB_PER_MIB,
        "{peak} kB for {SOURCES} databases"
    );
    daemon.terminate();
    for number in [1, SOURCES / 2, SOURCES - 1] {
        let source = format!("app{number}");
        let words = ["--to", "latest", "--source", &source];
        let restored = site.restore(&[&site.regions[0]], &words).ok();
        assert_eq!(assert_committed_prefix(&restored.path), 3);
    }
}

/// Adds sources `app1` to `app{count - 1}` beside the site's own, each with a small database.
fn add_sources(site: &Site, count: usize) -> Vec<std::path::PathBuf> {
    let mut config = std::fs::read_to_string(&site.config).unwrap();
    let paths: Vec<_> = (1..count)
        .map(|number| site.path(&format!("host/app{number}.db")))
        .collect();
    for (number, path) in paths.iter().enumerate() {
        writer::create(path);
        let (number, path) = (number + 1, path.display());
        config.push_str(&format!(
            "\n[[source]]\nname = \"app{number}\"\nsqlite = \"{path}\"\n"
        ));
    }
    std::fs::write(&site.config, config).unwrap();
    paths
}

/// How many sources have a recovery point in the first region.
fn points(site: &Site) -> usize {
    let sources = std::fs::read_dir(site.region_folder(0).join("meta/point"));
    sources.map_or(0, Iterator::count)
}

#[test]
fn hundred_databases_share_a_few_threads_and_one_that_is_gone_stops_no_other() {
    const HUNDRED: usize = 100;
    let site = Site::new();
    let paths = add_sources(&site, HUNDRED);
    site.set("ship_every", "\"500ms\"");
    let mut daemon = site.start();
    eventually("all have a point", SOON * 4, || {
        (points(&site) == HUNDRED).then_some(())
    });
    let (gone, others) = paths.split_first().unwrap();
    for suffix in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(format!("{}{suffix}", gone.display())));
    }
    for path in others {
        write(path, 3);
    }
    let at = crate::process::now();
    eventually("every other one is in both regions", SOON * 4, || {
        let status = site.status();
        let regions = status.0["regions"].as_array()?.clone();
        let others_are_safe = |region: &Value| {
            let sources = region["sources"].as_array().map_or(&[][..], Vec::as_slice);
            let safe = |source: &&Value| {
                let until = crate::site::instant(&source["safe_until"]);
                until.is_some_and(|until| until >= at) || source["source"] == "app1"
            };
            sources.iter().filter(safe).count() == HUNDRED
        };
        regions.iter().all(others_are_safe).then_some(())
    });
    eventually("nothing else is wrong", SOON, || {
        (site.status().alerts() == ["source.TM0102"]).then_some(())
    });
    let threads = daemon.proc_status("Threads");
    assert!(
        threads <= THREADS_MAX,
        "{threads} threads for {HUNDRED} databases"
    );
    daemon.assert_running();
    daemon.terminate();
    for (source, rows) in [("app1", 0), ("app2", 3), ("app99", 3)] {
        let words = ["--to", "latest", "--source", source];
        let restored = site.restore(&[&site.regions[0]], &words).ok();
        assert_eq!(assert_committed_prefix(&restored.path), rows, "{source}");
    }
}

/// The number that the unit gives `key`, in KiB or without a unit.
fn of_the_unit(key: &str) -> u64 {
    let unit = tidemark_tests::read("systemd/tidemark-agent.service");
    let value = unit
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = value.unwrap_or_else(|| panic!("the unit has no {key}"));
    match value.strip_suffix('M') {
        Some(mebibytes) => mebibytes.parse::<u64>().unwrap() * KIB_PER_MIB,
        None => value.parse().unwrap(),
    }
}

#[test]
fn thousand_idle_databases_fit_into_the_units_memory_and_descriptors() {
    const MEASURED: u64 = 300;
    const PROMISED: u64 = 1000;
    const KIB_EACH: u64 = 200;
    const DESCRIPTORS_EACH: u64 = 10;
    let cost = |daemon: &crate::process::Daemon| {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
        let descriptors = u64::try_from(descriptors.count()).unwrap();
        (daemon.proc_status("VmHWM"), descriptors)
    };
    let site = Site::new();
    site.set("ship_every", "\"1s\"");
    site.set("beat_every", "\"2s\"");
    let daemon = site.start();
    eventually("it has a point", SOON, || {
        (points(&site) == 1).then_some(())
    });
    let one = cost(&daemon);
    daemon.terminate();
    drop(add_sources(&site, usize::try_from(MEASURED).unwrap()));
    let daemon = site.start();
    eventually("all have a point", SOON * 4, || {
        (points(&site) == usize::try_from(MEASURED).unwrap()).then_some(())
    });
    let many = cost(&daemon);
    daemon.terminate();
    let each = |one: u64, many: u64| many.saturating_sub(one).div_ceil(MEASURED - 1);
    let (kib, descriptors) = (each(one.0, many.0), each(one.1, many.1));
    assert!(kib <= KIB_EACH, "{kib} KiB a source: {one:?} {many:?}");
    assert!(descriptors <= DESCRIPTORS_EACH, "{descriptors} descriptors");
    assert!(
        one.0 + PROMISED * kib <= of_the_unit("MemoryHigh"),
        "{kib} KiB"
    );
    assert!(one.1 + PROMISED * descriptors <= of_the_unit("LimitNOFILE"));
}

#[test]
fn idle_source_costs_only_the_agents_beats() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    let region = site.region_folder(0);
    let other = |keys: Vec<String>| -> Vec<String> {
        keys.into_iter()
            .filter(|key| !key.starts_with("meta/beat/"))
            .collect()
    };
    let beats = || keys(&region, "meta/beat/").len();
    // A base that is under way, or a point that is due, may still come.
    let mut last = (other(keys(&region, "")), beats());
    eventually("it comes to rest for three beats", SOON, || {
        let now = other(keys(&region, ""));
        if now != last.0 {
            last = (now, beats());
        }
        (beats() >= last.1 + 3).then_some(())
    });
    let (before, first) = last;
    let began = SystemClock.monotonic();
    let already = beats();
    eventually("five more beats", SOON, || {
        (beats() >= already + 5).then_some(())
    });
    let more = beats() - already;
    let seconds = SystemClock.monotonic().since(began).as_secs();
    assert!(
        more <= usize::try_from(seconds).unwrap() + 2,
        "{more} beats in {seconds} s"
    );
    assert_eq!(
        other(keys(&region, "")),
        before,
        "an idle source costs objects of its own in {} beats",
        beats() - first
    );
    // And yet it is known to be caught up now.
    site.wait_shipped();
    daemon.terminate();
}

#[test]
fn memory_stays_bounded_for_a_large_database_of_small_pages_under_load_and_with_a_region_away() {
    let site = Site::plan();
    let bytes = if long() { 1 << 30 } else { 160 << 20 };
    create(
        &site.database,
        &Shape {
            page_size: 512,
            bytes,
            ..Shape::default()
        },
    )
    .unwrap();
    site.init();
    site.set("memory", "\"64MiB\"");
    let daemon = site.start();
    let job = Job {
        path: site.database.clone(),
        for_ms: Some(6_000),
        rate: Some(200.0),
        ..Job::default()
    };
    run(&job).unwrap();
    site.agent(&["snapshot", "--base"]).ok();
    let hidden = site.path("hidden");
    std::fs::rename(site.region_folder(1), &hidden).unwrap();
    run(&Job {
        for_ms: Some(4_000),
        ..job
    })
    .unwrap();
    std::fs::rename(&hidden, site.region_folder(1)).unwrap();
    site.wait_shipped();
    let peak = daemon.proc_status("VmHWM");
    assert!(peak <= 64 * KIB_PER_MIB, "the agent needed {peak} kB");
    daemon.terminate();
    writer::assert_same_pages(&site.database, &site.restore_latest(1).path);
}
