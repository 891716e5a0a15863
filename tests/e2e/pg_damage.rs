//! Objects of a server's log and base that are there and wrong: with one good copy left the other region
//! makes it good and it is told; with none, what can still be had is named, and then had.

use std::path::{Path, PathBuf};

use tidemark_testkit::postgres::{Options, Stop};

use crate::objects::{objects, read, write};
use crate::pg_restore::{newest, restore, rows, start};
use crate::pg_site::PgSite;

/// Flips a bit in what is encrypted: of a pack in its middle, where pages are, else near the end, past
/// a head of any length.
fn flip_body(path: &Path) {
    let mut bytes = read(path);
    let is_pack = path.to_string_lossy().contains("/pack/");
    let place = if is_pack {
        bytes.len() / 2
    } else {
        bytes.len() - 40
    };
    bytes[place] ^= 4;
    write(path, &bytes);
}

/// Damages an object in the first regions of the site, tries, and puts them back.
fn damaged(site: &PgSite, regions: usize, key: &str, then: impl FnOnce()) {
    let paths: Vec<PathBuf> = (0..regions)
        .map(|region| site.site.region_folder(region).join(key))
        .collect();
    let good: Vec<Vec<u8>> = paths.iter().map(|path| read(path)).collect();
    for path in &paths {
        flip_body(path);
    }
    then();
    for (path, bytes) in paths.iter().zip(good) {
        write(path, &bytes);
    }
}

/// The last key below a prefix for which something holds.
fn newest_key(site: &PgSite, prefix: &str) -> String {
    let found = objects(&site.site.region_folder(0), prefix);
    found.into_keys().next_back().expect("an object")
}

#[test]
fn damaged_objects_of_a_server_fall_back_or_fail_closed_with_what_can_be_had() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    site.load(0..50);
    let daemon = site.start_protected();
    let newest_log = || {
        let key = newest_key(&site, "meta/log/main/00000001/");
        let seq = key
            .rsplit('/')
            .next()
            .and_then(|seq| seq.parse::<u64>().ok());
        let seq = seq.expect("a number");
        (key, seq)
    };
    let (_, good) = newest_log();
    site.load(50..100);
    site.wait_protected();
    let (middle, _) = newest_log();
    site.load(100..150);
    site.wait_protected();
    site.cluster.stop(Stop::Kill).unwrap();
    daemon.terminate();
    let pack = newest_key(&site, "data/pack/main/");
    let all = site.site.regions.len();

    // One region's copy: the other one makes it good, and it is told.
    for key in [&middle, &pack] {
        damaged(&site, 1, key, || {
            let (ran, cluster) = restore(&site, &["--to", "latest"]);
            let ran = ran.ends_with(3);
            ran.says(&[key.as_str(), "is damaged in region region-a"]);
            start(&cluster);
            assert_eq!(rows(&cluster), "150|149");
        });
    }

    // Every copy of a log object: nothing is handed over, and what can be had is named.
    damaged(&site, all, &middle, || {
        let (ran, cluster) = restore(&site, &["--to", "latest"]);
        let ran = ran.ends_with(13).says(&["is damaged", "--to log:1:"]);
        assert!(!cluster.data_dir().exists());
        let said = format!("{}{}", ran.out, ran.err);
        let (_, rest) = said.split_once("--to log:1:").expect("a position");
        let seq: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let named: u64 = seq.parse().expect("a number");
        assert!(named >= good, "{named} after {good}");
        let (ran, cluster) = restore(&site, &["--to", &format!("log:1:{named}")]);
        ran.ends_with(0);
        start(&cluster);
        // All that came before the damaged object, without a hole: it may hold none of the rows, but what
        // the server wrote by itself after them.
        let rows = rows(&cluster);
        let (count, last) = rows.split_once('|').expect("two numbers");
        let (count, last): (u32, u32) = (count.parse().unwrap(), last.parse().unwrap());
        assert!((50..=100).contains(&count) && last + 1 == count, "{rows}");
    });

    // Every copy of the only base's pack: there is no other way to any state.
    damaged(&site, all, &pack, || {
        let (ran, cluster) = restore(&site, &["--to", "latest"]);
        ran.ends_with(13).says(&[
            "is damaged",
            &pack,
            "nothing in the regions given can be restored",
        ]);
        assert!(!cluster.data_dir().exists());
        let verified = site.site.tool(&["verify", "--json"]).ends_with(13).json();
        assert!(
            verified["damages"].to_string().contains(&pack),
            "{verified}"
        );
    });

    // All copies good again: nothing of the damage stays.
    let (ran, cluster) = restore(&site, &["--to", "latest"]);
    ran.ok();
    start(&cluster);
    assert_eq!(rows(&cluster), "150|149");
}

#[test]
fn restore_that_ends_while_its_server_replays_goes_on_there() {
    let Some(postgres) = newest() else { return };
    // Small segments: replay begins long before the log's end has arrived.
    let options = Options {
        segment_megabytes: 1,
        ..Options::default()
    };
    let site = PgSite::new(&postgres, &options);
    let daemon = site.start_protected();
    for round in 0..6_u32 {
        site.load(round * 500..round * 500 + 500);
        site.wait_protected();
    }
    site.cluster.stop(Stop::Kill).unwrap();
    daemon.terminate();
    let log = objects(&site.site.region_folder(0), "meta/log/main/00000001/");
    let last = log.keys().rev().nth(1).expect("many objects").clone();
    // GIVEN a restore that meets damage near the log's end
    let cluster = tidemark_testkit::postgres::Cluster::empty(&postgres).unwrap();
    let target = cluster.data_dir().display().to_string();
    let bin = postgres.bin().display().to_string();
    let words = [
        "restore", "--to", "latest", "--target", &target, "--pg-bin", &bin, "--json",
    ];
    let half = cluster.socket_dir().join(".data.tidemark-partial");
    damaged(&site, site.site.regions.len(), &last, || {
        site.site.tool(&words).ends_with(13);
        assert!(half.join(".tidemark/recovery-begun").exists());
        assert!(!half.join("postmaster.pid").exists(), "no server is left");
    });
    // WHEN the same command runs again with all of it there
    let report = site.site.tool(&words).ok().json();
    // THEN it goes on, and ends at the same state
    assert!(report["resumed_objects"].as_u64() > Some(3), "{report}");
    assert_eq!(
        report["fetched_bytes"].as_u64().map(|read| read < 1 << 20),
        Some(true),
        "{report}"
    );
    assert!(!half.exists());
    start(&cluster);
    assert_eq!(rows(&cluster), "3000|2999");
}
