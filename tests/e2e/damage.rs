//! Damage in a region: with a good copy elsewhere a restore goes on and says so; alone it fails
//! closed, names what is wrong and the latest instant that is provable.

use std::path::{Path, PathBuf};

use crate::objects::{copy_folder, flip, objects, read, remove, swap, truncate, write};
use crate::process::now;
use crate::site::{Restored, Site};
use crate::writer::{self, assert_committed_prefix};

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

/// An object of region-a that a restore of the newest state reads.
struct Needed {
    what: &'static str,
    path: PathBuf,
    /// Whether an older base and more log reach the same state without it.
    spare: bool,
}

/// A site with a second base on top of the complete one, so that a restore reads both: most of what
/// there is was written over and over, and some was never touched again.
fn protected_by_two_bases() -> (Site, Vec<Needed>) {
    let site = Site::plan();
    writer::create(&site.database);
    site.init();
    let app = writer::open(&site.database);
    for (table, rows) in [("still", 150), ("churn", 250)] {
        let sql = format!(
            "CREATE TABLE {table} (bytes BLOB); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL \
             SELECT i + 1 FROM n WHERE i < {rows}) INSERT INTO {table} SELECT randomblob(1000) FROM n"
        );
        app.execute_batch(&sql).unwrap();
    }
    let region = site.region_folder(0);
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    let complete_pack = objects(&region, "data/pack/");
    for round in 0..5 {
        app.execute("UPDATE churn SET bytes = randomblob(1000)", [])
            .unwrap();
        writer::write(&site.database, TRANSACTIONS / 5);
        let words: &[&str] = match round {
            3 => &["snapshot", "--base"],
            _ => &["snapshot"],
        };
        site.agent(words).ok();
    }
    drop(app);
    site.wait_shipped();
    daemon.terminate();
    let paths = |prefix: &str| -> Vec<PathBuf> { objects(&region, prefix).into_values().collect() };
    let (log, bases) = (paths("meta/log/"), paths("meta/base/"));
    let packs = paths("data/pack/");
    assert_eq!((bases.len(), packs.len(), complete_pack.len()), (2, 2, 1));
    let (complete, other): (Vec<PathBuf>, Vec<PathBuf>) = packs
        .into_iter()
        .partition(|path| complete_pack.values().any(|known| known == path));
    let one = |what, path: &PathBuf, spare| Needed {
        what,
        path: path.clone(),
        spare,
    };
    let needed = vec![
        one("a log object", &log[log.len() - 2], false),
        one("the complete base", &bases[0], false),
        one("the base on top", &bases[1], true),
        one("the complete base's pack", &complete[0], false),
        one("the pack on top", &other[0], true),
        one("the session", &paths("data/session/")[0], false),
    ];
    (site, needed)
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
    let (site, needed) = protected_by_two_bases();
    for Needed { what, path, spare } in &needed {
        for (how, damage) in damages {
            with_damage(path, damage, || {
                let restored = both(&site);
                assert_eq!(
                    restored.ran.code, EXCEPTIONS,
                    "{what} {how}: {}",
                    restored.ran
                );
                assert_whole(&restored);
                assert_named(&restored.exceptions(), &site, path);
                assert!(restored.exceptions().contains("region-a"), "{what} {how}");
                let restored = alone(&site);
                if *spare {
                    assert_eq!(
                        restored.ran.code, EXCEPTIONS,
                        "{what} {how}: {}",
                        restored.ran
                    );
                    assert_whole(&restored);
                    assert_named(&restored.exceptions(), &site, path);
                } else {
                    assert_named(&restored.ran.err, &site, path);
                    restored.refused(INTEGRITY, &[]);
                }
            });
        }
    }
    both(&site).ok();
}

/// Says which object of which region, by its key, or as a log object by its position.
#[track_caller]
fn assert_named(said: &str, site: &Site, path: &Path) {
    let key = path.strip_prefix(site.region_folder(0)).unwrap();
    let key = key.to_str().unwrap();
    let position = key.starts_with("meta/log/").then(|| {
        let seq: u64 = file_name(path).parse().unwrap();
        format!("1:{seq} ")
    });
    let named = said.contains(key) || position.is_some_and(|position| said.contains(&position));
    assert!(named, "{key} is not named: {said}");
    assert!(
        said.contains("region-a") || key.starts_with("meta/"),
        "{said}"
    );
}

/// Changes the last byte: the head is good, and what it names isn't there.
fn flip_body(path: &Path) {
    let mut bytes = read(path);
    let last = bytes.last_mut().expect("a body");
    *last ^= 1;
    write(path, &bytes);
}

#[test]
fn damaged_body_alone_names_the_latest_provable_state_which_then_restores() {
    let (site, needed) = protected_by_two_bases();
    let find = |what: &str| {
        let one = needed.iter().find(|one| one.what == what);
        one.expect("one of those above").path.clone()
    };
    let log = find("a log object");
    let seq: u64 = file_name(&log).parse().unwrap();
    let before = format!("log:1:{}", seq - 1);
    let url = site.regions[0].as_str();
    let named = ["TM1301", "nothing was delivered", &format!("--to {before}")];
    with_damage(&log, flip_body, || {
        alone(&site).refused(INTEGRITY, &named);
        let restored = site.restore(&[url], &["--to", &before]).ok();
        assert!(assert_committed_prefix(&restored.path) < TRANSACTIONS);
    });
    // A pack that every way needs: nothing is left to name.
    with_damage(&find("the complete base's pack"), flip_body, || {
        let words = ["TM1301", "nothing was delivered", "give all regions"];
        alone(&site).refused(INTEGRITY, &words);
    });
    // Both: the base on top is gone round, the log can't be. To before it nobody reads the pack on top,
    // whose base begins later.
    with_damage(&log, flip_body, || {
        with_damage(&find("the pack on top"), flip_body, || {
            alone(&site).refused(INTEGRITY, &named);
            let restored = site.restore(&[url], &["--to", &before]).ok();
            assert!(assert_committed_prefix(&restored.path) < TRANSACTIONS);
        });
    });
    alone(&site).ok();
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
    let before = format!("log:1:{}", seq - 1);
    alone(&site).refused(INTEGRITY, &[&before]);
    let restored = site.restore(&[&site.regions[0]], &["--to", &before]).ok();
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
    assert_eq!(restored.ran.code, EXCEPTIONS, "{}", restored.ran);
    assert!(restored.ran.out.contains("\"beyond\":"), "{}", restored.ran);
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
    // By a moment only, as a region is that is fed more slowly: that is worth a note, no alarm.
    let beside = both(&site).ok();
    assert_eq!(assert_committed_prefix(&beside.path), 80);
    let words = beside.notes();
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
    let alone = site.restore(&[url], &["--to", "latest"]).ok();
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
    let good = read(&pack);
    // The last byte is in no page, and a restore that needs some pages only may not read it.
    for damage in [truncate, flip] {
        damage(&pack);
        site.tool_on(&[&site.regions[0]], &["verify"])
            .ends_with(INTEGRITY)
            .says(&[&file_name(&pack)]);
        write(&pack, &good);
    }
    site.tool_on(&[&site.regions[0]], &["verify"]).ok();
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
