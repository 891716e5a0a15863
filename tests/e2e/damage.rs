//! Damage in a region: with a good copy elsewhere a restore goes on and says so; alone it fails
//! closed, names what is wrong and the latest instant that is provable.

use std::path::{Path, PathBuf};

use crate::objects::{copy_folder, flip, objects, read, remove, swap, truncate, write};
use crate::process::now;
use crate::site::{Restored, Site};
use crate::writer::{self, assert_committed_prefix};

const NOT_RECOVERABLE: i32 = 14;
const INTEGRITY: i32 = 13;
const EXCEPTIONS: i32 = 3;
/// How many transactions the site has.
const TRANSACTIONS: i64 = 150;

/// A site that was protected for a while and is not written to any more.
fn protected() -> Site {
    let site = Site::new();
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    for _ in 0..5 {
        writer::write(&site.database, TRANSACTIONS / 5);
        site.agent(&["snapshot"]).ok();
    }
    site.wait_shipped();
    daemon.terminate();
    site
}

/// The objects of region-a that a restore of the newest state needs, one of each kind.
fn needed(site: &Site) -> Vec<(&'static str, PathBuf)> {
    let region = site.region_folder(0);
    let log: Vec<PathBuf> = objects(&region, "meta/log/").into_values().collect();
    let first = |prefix: &str| {
        let found = objects(&region, prefix).into_values().next();
        found.unwrap_or_else(|| panic!("no {prefix}"))
    };
    vec![
        ("a log object", log[log.len() - 2].clone()),
        ("a base", first("meta/base/")),
        ("a pack", first("data/pack/")),
        ("a session", first("data/session/")),
    ]
}

/// Does something to an object, tries, and puts the object back.
fn with_damage(path: &Path, damage: impl FnOnce(&Path), then: impl FnOnce()) {
    let good = read(path);
    damage(path);
    then();
    drop(std::fs::remove_file(path));
    write_new(path, &good);
}

fn write_new(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn both(site: &Site) -> Restored {
    site.restore(&[&site.regions[0], &site.regions[1]], &["--to", "latest"])
}

fn alone(site: &Site) -> Restored {
    site.restore(&[&site.regions[0]], &["--to", "latest"])
}

#[track_caller]
fn assert_whole(restored: &Restored) {
    assert_eq!(assert_committed_prefix(&restored.path), TRANSACTIONS);
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .and_then(|name| name.to_str())
        .expect("a name")
        .to_owned()
}

#[test]
fn damaged_object_is_read_from_the_other_region_and_fails_closed_alone() {
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 3] = [
        ("flipped", flip),
        ("truncated", truncate),
        ("missing", remove),
    ];
    let site = protected();
    for (what, path) in needed(&site) {
        for (how, damage) in damages {
            with_damage(&path, damage, || {
                let restored = both(&site);
                assert!(
                    restored.ran.code == EXCEPTIONS || restored.ran.code == 0,
                    "{what} {how}: {}",
                    restored.ran
                );
                let restored = Restored { ..restored };
                assert_whole(&restored);
                if restored.ran.code == EXCEPTIONS {
                    let said = restored.exceptions();
                    assert!(said.contains("region-a"), "{what} {how}: {said}");
                }
                let refused = alone(&site);
                // A base that only a newer base names is not missed by name yet: it ends with another
                // code than it should (docs/TESTING.md), and delivers nothing all the same.
                if what.contains("base") && how == "missing" && refused.ran.code == NOT_RECOVERABLE
                {
                    refused.refused(NOT_RECOVERABLE, &[]);
                    return;
                }
                if refused.ran.code == EXCEPTIONS {
                    // An older base and more log reach the same state.
                    assert_whole(&refused);
                } else {
                    assert_eq!(refused.ran.code, INTEGRITY, "{what} {how}: {}", refused.ran);
                    let name = file_name(&path);
                    let named = refused.ran.err.contains(&name)
                        || refused.ran.err.contains(name.trim_start_matches('0'));
                    assert!(named, "{what} {how}: {}", refused.ran);
                    refused.refused(INTEGRITY, &[]);
                }
            });
        }
    }
    both(&site).ok();
}

#[test]
fn swapped_objects_are_told_and_the_other_region_is_used() {
    let site = protected();
    let log: Vec<PathBuf> = objects(&site.region_folder(0), "meta/log/")
        .into_values()
        .collect();
    let (one, other) = (log[log.len() - 3].clone(), log[log.len() - 2].clone());
    swap(&one, &other);
    let restored = both(&site);
    assert_eq!(restored.ran.code, EXCEPTIONS, "{}", restored.ran);
    assert_whole(&restored);
    alone(&site).refused(INTEGRITY, &["swapped"]);
}

#[test]
fn hole_in_the_log_names_the_latest_provable_state_which_then_restores() {
    let site = protected();
    let log: Vec<PathBuf> = objects(&site.region_folder(0), "meta/log/")
        .into_values()
        .collect();
    let missing = &log[log.len() - 2];
    let seq: u64 = file_name(missing).parse().unwrap();
    remove(missing);
    let before = format!("1:{}", seq - 1);
    alone(&site).refused(INTEGRITY, &[&before]);
    let restored = site.restore(&[&site.regions[0]], &["--to", &before]);
    assert!(
        restored.ran.code == 0 || restored.ran.code == EXCEPTIONS,
        "{}",
        restored.ran
    );
    assert!(assert_committed_prefix(&restored.path) < TRANSACTIONS);
}

#[test]
fn hole_past_the_newest_point_ends_the_chain_and_is_no_error() {
    let site = Site::new();
    site.set("snapshot_every", "\"1h\"");
    let mut daemon = site.start();
    writer::write(&site.database, 30);
    site.agent(&["snapshot"]).ok();
    for _ in 0..4 {
        writer::write(&site.database, 10);
        site.wait_shipped();
    }
    daemon.kill();
    let log: Vec<PathBuf> = objects(&site.region_folder(0), "meta/log/")
        .into_values()
        .collect();
    remove(&log[log.len() - 2]);
    let restored = alone(&site);
    assert!(
        restored.ran.code == 0 || restored.ran.code == EXCEPTIONS,
        "{}",
        restored.ran
    );
    let k = assert_committed_prefix(&restored.path);
    assert!((30..70).contains(&k), "{k} came back");
    site.tool_on(&[&site.regions[0]], &["list"])
        .says(&["Stray"]);
    // The other region has it all.
    let other = site.restore(&[&site.regions[1]], &["--to", "latest"]);
    assert_eq!(assert_committed_prefix(&other.path), 70, "{}", other.ran);
}

#[test]
fn forged_object_of_an_unknown_signer_is_refused() {
    let site = protected();
    // An object of another repository's agent, in the place of ours: well formed, well signed.
    let forger = protected();
    let log = |site: &Site| objects(&site.region_folder(0), "meta/log/");
    let theirs: Vec<PathBuf> = log(&forger).into_values().collect();
    let ours: Vec<PathBuf> = log(&site).into_values().collect();
    let (victim, forged) = (&ours[ours.len() - 2], read(&theirs[theirs.len() - 2]));
    write(victim, &forged);
    let restored = both(&site);
    assert_eq!(restored.ran.code, EXCEPTIONS, "{}", restored.ran);
    assert_whole(&restored);
    let refused = alone(&site);
    assert!(
        [12, INTEGRITY].contains(&refused.ran.code),
        "{}",
        refused.ran
    );
    assert!(!refused.path.exists());
    // A signature that was changed, with everything else as it was.
    let mut bytes = read(&log(&site).into_values().nth(ours.len() - 3).unwrap());
    let head = usize::try_from(u32::from_le_bytes(bytes[12..16].try_into().unwrap())).unwrap();
    bytes[16 + head + 32] ^= 1;
    write(&ours[ours.len() - 3], &bytes);
    let refused = alone(&site);
    assert_eq!(refused.ran.code, INTEGRITY, "{}", refused.ran);
    assert!(!refused.path.exists());
}

#[test]
fn region_that_was_rolled_back_is_refused_beside_a_newer_one_and_by_expectation() {
    let site = Site::new();
    let daemon = site.start();
    writer::write(&site.database, 40);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    let old = site.path("old");
    copy_folder(&site.region_folder(0), &old);
    writer::write(&site.database, 40);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.terminate();
    let list = site.tool(&["list", "--points", "--json"]).ok().json();
    let points = list["sources"][0]["points"].as_array().expect("points");
    let expect = points.last().expect("a point")["expect"]
        .as_str()
        .expect("its words")
        .to_owned();
    std::fs::remove_dir_all(site.region_folder(0)).unwrap();
    copy_folder(&old, &site.region_folder(0));
    // Beside a newer region: what is newest comes back, never the old state.
    let beside = both(&site);
    assert!(
        beside.ran.code == 0 || beside.ran.code == EXCEPTIONS,
        "{}",
        beside.ran
    );
    assert_eq!(assert_committed_prefix(&beside.path), 80);
    let words = format!("{}\n{}", beside.exceptions(), beside.notes());
    assert!(
        words.contains("region-a") && words.contains("older"),
        "{words}"
    );
    // With an expectation.
    let url = site.regions[0].as_str();
    let refused = site.restore(&[url], &["--to", "latest", "--expect", &expect]);
    refused.refused(INTEGRITY, &["--accept-older"]);
    let accepted = site.restore(
        &[url],
        &["--to", "latest", "--expect", &expect, "--accept-older"],
    );
    assert_eq!(accepted.ran.code, EXCEPTIONS, "{}", accepted.ran);
    assert_eq!(assert_committed_prefix(&accepted.path), 40);
    // Alone it can't be known: the newest point and its age are printed.
    let alone = site.restore(&[url], &["--to", "latest"]);
    assert!(
        alone.ran.code == 0 || alone.ran.code == EXCEPTIONS,
        "{}",
        alone.ran
    );
    assert_eq!(assert_committed_prefix(&alone.path), 40);
    let notes = alone.notes();
    assert!(
        notes.contains("only one region") && notes.contains("ago"),
        "{notes}"
    );
    let good = site
        .restore(
            &[&site.regions[1]],
            &["--to", "latest", "--expect", &expect],
        )
        .ok();
    assert_eq!(assert_committed_prefix(&good.path), 80);
}

#[test]
fn verify_reads_every_byte_and_its_quick_form_needs_no_identity() {
    let site = protected();
    site.tool(&["verify"]).ok();
    let quick = |region: usize| {
        let mut command = site.command("tidemark-restore");
        command.args(["verify", "--quick", "--region", &site.regions[region]]);
        crate::process::Ran::of(&mut command)
    };
    quick(0).ok();
    let pack = objects(&site.region_folder(0), "data/pack/")
        .into_values()
        .next()
        .unwrap();
    flip(&pack);
    site.tool_on(&[&site.regions[0]], &["verify"])
        .ends_with(INTEGRITY)
        .says(&[&file_name(&pack)]);
    let point = objects(&site.region_folder(1), "meta/point/")
        .into_values()
        .next_back()
        .unwrap();
    truncate_head(&point);
    let found = quick(1);
    assert_eq!(found.code, INTEGRITY, "{found}");
}

fn truncate_head(path: &Path) {
    let bytes = read(path);
    write(path, &bytes[..bytes.len() / 2]);
}

#[test]
fn times_outside_what_is_recoverable_are_refused_with_the_nearest_state() {
    let site = Site::new();
    let before = now();
    let daemon = site.start();
    writer::write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    daemon.terminate();
    let url = site.regions[0].as_str();
    let later = now()
        .checked_add(std::time::Duration::from_secs(3600))
        .unwrap()
        .to_string();
    site.restore(&[url], &["--to", &later])
        .refused(14, &["latest"]);
    let earlier = before
        .checked_sub(std::time::Duration::from_secs(3600))
        .unwrap()
        .to_string();
    site.restore(&[url], &["--to", &earlier])
        .refused(14, &["earliest instant"]);
    site.restore(&[url], &["--to", "point:nobody"])
        .refused(14, &["nobody"]);
    site.restore(&[url], &["--to", "2026-05-01 09:00"])
        .refused(2, &["zone"]);
    site.restore(&[url], &["--to", "gestern"])
        .refused(2, &["gestern"]);
    site.restore(&[url], &["--to", "latest", "--source", "other"])
        .refused(10, &["other", "app"]);
}
