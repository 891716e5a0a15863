//! Drills through the shipped programs: what a drill proves, what it measures, and that nothing which is
//! wrong with a backup, a database or the drill's own surroundings ever passes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::Value;
use tidemark_tests::eventually;

use crate::drill_defects::{held, report};
use crate::objects::{copy_folder, flip, objects, read, remove, swap, truncate, write};
use crate::process::{Daemon, Ran, SOON, is_root, now, pass, skip};
use crate::site::Site;
use crate::writer;

pub(crate) const PASSED: i32 = 0;
pub(crate) const EXCEPTIONS: i32 = 3;
pub(crate) const FAILED: i32 = 18;

/// Runs a drill from `regions`.
pub(crate) fn drill_from(site: &Site, regions: &[&str], words: &[&str]) -> Ran {
    let own = ["drill", "run", "--allow-source-host", "--json"];
    site.tool_on(regions, &[&own, words].concat())
}

/// Runs a drill from all regions.
pub(crate) fn drill(site: &Site, words: &[&str]) -> Ran {
    let regions: Vec<&str> = site.regions.iter().map(String::as_str).collect();
    drill_from(site, &regions, words)
}

/// A site that was protected for a while and is not written to any more.
pub(crate) fn protected() -> Site {
    let site = Site::new();
    protect(&site);
    site
}

fn protect(site: &Site) {
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    for _ in 0..4 {
        writer::write(&site.database, 25);
        site.agent(&["snapshot"]).ok();
    }
    site.wait_shipped();
    daemon.terminate();
}

/// The checks of a report with this status.
fn checks(report: &Value, status: &str) -> Vec<String> {
    let all = report["checks"].as_array().expect("checks");
    let own = all.iter().filter(|check| check["status"] == status);
    own.map(|check| check["id"].as_str().expect("a name").to_owned())
        .collect()
}

/// Nothing of a scratch may be left where the drills of this site made theirs.
fn assert_no_scratch(report: &Value) {
    let teardown = &report["handling"]["teardown"];
    assert_eq!(teardown["verified_absent"], true, "{report:#}");
    if let Some(path) = report["environment"]["scratch_path"].as_str() {
        assert!(!Path::new(path).exists(), "{path} is still there");
    }
}

/// The record of the newest drill, as it was signed.
pub(crate) fn newest_record(site: &Site) -> Value {
    let listed = site.tool(&["evidence", "list", "--kind", "drills", "--json"]);
    let records = listed.json()["records"].clone();
    let last = records.as_array().and_then(|all| all.last().cloned());
    let id = last.expect("a record")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    site.tool(&["evidence", "show", &id, "--json"]).json()
}

#[track_caller]
fn assert_phases_sum_to_the_total(report: &Value) {
    let phases = report["phases"].as_array().expect("phases");
    let counted = phases.iter().filter(|phase| phase["counted"] == true);
    let sum: u64 = counted.filter_map(|phase| phase["took_ms"].as_u64()).sum();
    let total = report["rto_ms"].as_u64().expect("an RTO");
    let off = sum.abs_diff(total);
    assert!(
        off * 100 <= total.max(100),
        "{sum} ms of {total} ms: {report:#}"
    );
}

#[test]
fn a_drill_of_a_file_climbs_the_ladder_measures_and_leaves_signed_evidence() {
    // GIVEN a protected database that is not written to any more
    let site = protected();
    // WHEN it is drilled
    let ran = drill(&site, &["--reason", "T-1", "--rpo", "1h", "--rto", "1h"]).ends_with(PASSED);
    // THEN the whole ladder was climbed, and everything that was promised measured
    let report = ran.json();
    assert_eq!(report["schema"], "tidemark-restore.drill", "{ran}");
    assert_eq!(report["verdict"], "PASS", "{ran}");
    assert_eq!(report["rung"], "logical", "{ran}");
    assert_eq!(report["rpo_met"], true, "{ran}");
    assert_eq!(report["rto_met"], true, "{ran}");
    assert_phases_sum_to_the_total(&report);
    assert!(checks(&report, "failed").is_empty(), "{ran}");
    assert!(
        checks(&report, "passed").contains(&"materialise.digest".to_owned()),
        "{ran}"
    );
    assert!(report["projected_worst_replay_ms"].is_u64(), "{ran}");
    // AND nothing could have left it, nothing is left of it, and it says where it ran
    let isolation = &report["environment"]["isolation"];
    assert_eq!(isolation["egress_probe_result"], "refused", "{ran}");
    assert_eq!(
        report["environment"]["segregated_from_source"]["value"], false,
        "{ran}"
    );
    assert_no_scratch(&report);
    // AND the record stands in both regions, with every section
    let root = format!("{}.root", site.identity.display());
    site.tool(&["keys", "enrol", "--all", "--root", &root]).ok();
    site.tool(&["evidence", "verify"]).ok();
    let record = newest_record(&site);
    let text = record.to_string();
    for section in [
        "plan",
        "objectives",
        "source",
        "recovery_pt",
        "environment",
        "actor",
        "timing",
        "recovery",
        "checks",
        "fixes",
        "result",
        "handling",
        "governance",
        "clock",
        "tool",
    ] {
        assert!(
            text.contains(&format!("\"{section}\"")),
            "no {section} in {record:#}"
        );
    }
    assert!(text.contains("\"rows_exported\":0"), "{record:#}");
    // AND a second drill counts against it, and both are listed with how far they went
    let again = drill(&site, &["--select", "oldest"]);
    assert_eq!(again.json()["verdict"], "PASS", "{again}");
    let listed = site.tool(&["drill", "list", "--json"]).ok();
    let list = listed.json();
    assert_eq!(list["schema"], "tidemark-restore.drills");
    assert_eq!(list["drills"].as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!(list["proved"][0]["rung"], "logical", "{listed}");
    site.tool(&["drill", "list"])
        .ok()
        .says(&["PASS", "up to logical", "latest"]);
}

#[test]
fn a_count_passes_only_against_an_earlier_drill() {
    let site = Site::new();
    let app = writer::open(&site.database);
    app.execute_batch(
        "CREATE TABLE orders(id INTEGER PRIMARY KEY); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL \
         SELECT i + 1 FROM n WHERE i < 100) INSERT INTO orders SELECT i FROM n",
    )
    .unwrap();
    drop(app);
    protect(&site);
    let first = drill(&site, &[]).ends_with(PASSED).json();
    let counts = |status: &str, report: &Value| {
        let all = checks(report, status);
        all.iter().filter(|id| id.starts_with("count.")).count()
    };
    assert_eq!(counts("passed", &first), 0, "{first:#}");
    assert!(counts("recorded", &first) >= 4, "{first:#}");
    // Only an enrolled signer's drills prove anything.
    let root = format!("{}.root", site.identity.display());
    site.tool(&["keys", "enrol", "--all", "--root", &root]).ok();
    let second = drill(&site, &[]).ends_with(PASSED).json();
    assert!(counts("passed", &second) >= 4, "{second:#}");
    // AND rows that went since then ask for a look
    let app = writer::open(&site.database);
    app.execute("DELETE FROM orders WHERE id > 50", []).unwrap();
    drop(app);
    protect(&site);
    let third = drill(&site, &[]).ends_with(EXCEPTIONS).json();
    assert!(
        third["exceptions"].to_string().contains("rows of"),
        "{third:#}"
    );
    // AND again, until a person approves what was found; what isn't counted isn't gone
    let fourth = drill(&site, &[]).ends_with(EXCEPTIONS).json();
    assert_eq!(checks(&fourth, "warned"), checks(&third, "warned"));
    drill(&site, &["--no-counts"]).ends_with(PASSED);
    let id = fourth["evidence_id"].as_str().expect("a record");
    let sign = ["evidence", "sign-off", id, "--reviewer", "Ann"];
    let how = ["--ticket", "T-1", "--decision", "approved"];
    site.tool(&[&sign[..], &how].concat()).ok();
    drill(&site, &[]).ends_with(PASSED);
    // AND a log that ends before what was restored fails, with regions that are whole otherwise
    remove_the_end_of_the_log(&site);
    let shorter = drill(&site, &[]).ends_with(FAILED).json();
    let causes = shorter["causes"].to_string();
    assert!(causes.contains("is in no region any more"), "{shorter:#}");
}

/// Takes the newest recovery points, and the log that they cover, out of every region.
fn remove_the_end_of_the_log(site: &Site) {
    for region in 0..site.regions.len() {
        let folder = site.region_folder(region);
        for kind in ["meta/point/", "meta/log/"] {
            let all = objects(&folder, kind);
            all.values().rev().take(2).for_each(|path| remove(path));
        }
    }
}

#[test]
fn any_instant_is_met_and_nothing_later_comes_back() {
    let site = Site::new();
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    writer::write(&site.database, 20);
    pass(Duration::from_millis(600));
    let between = now();
    pass(Duration::from_millis(600));
    writer::write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.terminate();
    let ran = drill(
        &site,
        &["--select", &between.to_string(), "--precision", "1m"],
    );
    let report = ran.json();
    assert_eq!(report["verdict"], "PASS", "{ran}");
    assert_eq!(report["pitr_met"], true, "{ran}");
    assert!(
        report["precision"]["error_ms"].as_u64() <= Some(60_000),
        "{ran}"
    );
    let reached: Timestamp = report["reached_at"].as_str().unwrap().parse().unwrap();
    assert!(reached <= between, "{ran}");
    assert!(
        report["loss"].is_null(),
        "an older state tells of no loss: {ran}"
    );
    for select in ["random", "worst-replay"] {
        let ran = drill(&site, &["--select", select]);
        assert_eq!(ran.json()["verdict"], "PASS", "{ran}");
        assert_eq!(ran.json()["selection"], select, "{ran}");
    }
}

#[test]
fn scenarios_narrow_what_is_read_and_prove_it() {
    let site = Site::new();
    protect(&site);
    let early = now();
    pass(Duration::from_millis(50));
    protect(&site);
    for (scenario, code) in [
        ("only-region=region-b".to_owned(), PASSED),
        ("without-region=region-a".to_owned(), PASSED),
        (format!("as-of={early}"), PASSED),
        // This machine is the source's own.
        ("fresh-host".to_owned(), EXCEPTIONS),
    ] {
        let ran = drill(&site, &["--scenario", &scenario]).ends_with(code);
        let report = ran.json();
        assert_eq!(report["scenario"], scenario.as_str(), "{ran}");
        assert_eq!(report["rung"], "scenario", "{scenario}: {ran}");
    }
    // AND what was written after the instant is not there
    let ran = drill(&site, &["--scenario", &format!("as-of={early}")]);
    let reached: Timestamp = ran.json()["reached_at"].as_str().unwrap().parse().unwrap();
    assert!(reached <= early, "{ran}");
    // AND a region that is gone fails only the drill that needs it
    std::fs::rename(site.region_folder(1), site.path("away")).unwrap();
    let ran = drill(&site, &["--scenario", "only-region=region-b"]);
    assert_eq!(ran.code, 16, "{ran}");
    assert_eq!(ran.json()["verdict"], "INCONCLUSIVE", "{ran}");
    drill(&site, &["--scenario", "without-region=region-b"]).ends_with(PASSED);
    drill(&site, &["--scenario", "only-region=nowhere"])
        .ends_with(2)
        .says(&["region-a"]);
}

/// Something done to a region, and what a drill from it alone must say.
struct Defect {
    what: &'static str,
    rung_reached: Option<&'static str>,
    rung_failed: &'static str,
    spoil: fn(&Path),
}

/// The log, oldest first.
fn log(region: &Path) -> Vec<PathBuf> {
    objects(region, "meta/log/").into_values().collect()
}

fn pack(region: &Path) -> PathBuf {
    let packs: Vec<PathBuf> = objects(region, "data/pack/").into_values().collect();
    packs.first().expect("a pack").clone()
}

/// Changes the last byte: the head is good, and what it names isn't there.
fn flip_body(path: &Path) {
    let mut bytes = read(path);
    let last = bytes.last_mut().expect("a body");
    *last ^= 1;
    write(path, &bytes);
}

const DEFECTS: [Defect; 7] = [
    Defect {
        what: "a gap in the log",
        rung_reached: None,
        rung_failed: "chain",
        spoil: |region| {
            let log = log(region);
            remove(&log[log.len() - 3]);
        },
    },
    Defect {
        what: "a stale part: an older object in the place of a newer one",
        rung_reached: None,
        rung_failed: "chain",
        spoil: |region| {
            let log = log(region);
            let old = read(&log[log.len() - 4]);
            write(&log[log.len() - 2], &old);
        },
    },
    Defect {
        what: "two objects that changed places",
        rung_reached: None,
        rung_failed: "chain",
        spoil: |region| {
            let log = log(region);
            swap(&log[log.len() - 2], &log[log.len() - 3]);
        },
    },
    Defect {
        what: "a flipped byte in the log",
        rung_reached: Some("chain"),
        rung_failed: "ciphertext",
        spoil: |region| {
            let log = log(region);
            flip_body(&log[log.len() - 2]);
        },
    },
    Defect {
        what: "a flipped byte in the base",
        rung_reached: Some("chain"),
        rung_failed: "ciphertext",
        spoil: |region| flip(&pack(region)),
    },
    Defect {
        what: "a truncated pack",
        rung_reached: Some("chain"),
        rung_failed: "ciphertext",
        spoil: |region| truncate(&pack(region)),
    },
    Defect {
        what: "a base that is gone",
        rung_reached: None,
        rung_failed: "chain",
        spoil: |region| {
            for base in objects(region, "meta/base/").into_values() {
                remove(&base);
            }
        },
    },
];

#[test]
fn damage_fails_a_drill_at_its_rung_alone_and_is_an_exception_beside_a_good_copy() {
    let site = protected();
    let alone = [site.regions[0].as_str()];
    drill_from(&site, &alone, &[]).ends_with(PASSED);
    for Defect {
        what,
        rung_reached,
        rung_failed,
        spoil,
    } in &DEFECTS
    {
        // GIVEN one region with the defect
        let kept = site.fresh("kept");
        copy_folder(&site.region_folder(0), &kept);
        spoil(&site.region_folder(0));
        // WHEN it is all there is, THEN the drill fails and the verdict names it
        let ran = drill_from(&site, &alone, &[]);
        assert_eq!(ran.code, FAILED, "{what}: {ran}");
        let report = ran.json();
        assert_eq!(report["verdict"], "FAIL", "{what}: {ran}");
        assert_eq!(report["rung"].as_str(), *rung_reached, "{what}: {ran}");
        let cause = report["causes"][0].as_str().expect("a cause");
        assert!(cause.starts_with(rung_failed), "{what}: {cause}");
        // WHEN there is a good copy, THEN it passes with exceptions that name the damage and the region
        let ran = drill(&site, &[]);
        assert_eq!(ran.code, EXCEPTIONS, "{what}: {ran}");
        let report = ran.json();
        assert_eq!(report["verdict"], "PASS_WITH_EXCEPTIONS", "{what}: {ran}");
        assert!(
            report["exceptions"].to_string().contains("region-a"),
            "{what}: {ran}"
        );
        // AND so it does when the restore reads from the other region first
        let turned = [site.regions[1].as_str(), site.regions[0].as_str()];
        let ran = drill_from(&site, &turned, &[]);
        assert_eq!(
            ran.code, EXCEPTIONS,
            "{what}, the other region first: {ran}"
        );
        std::fs::remove_dir_all(site.region_folder(0)).unwrap();
        std::fs::rename(&kept, site.region_folder(0)).unwrap();
    }
    drill(&site, &[]).ends_with(PASSED);
}

#[test]
fn the_log_of_another_database_is_no_part_of_this_one() {
    let (site, other) = (protected(), protected());
    let alone = [site.regions[0].as_str()];
    let (own, foreign) = (log(&site.region_folder(0)), log(&other.region_folder(0)));
    let place = &own[own.len() - 2];
    write(place, &read(&foreign[foreign.len() - 2]));
    let ran = drill_from(&site, &alone, &[]);
    assert_eq!(ran.code, FAILED, "{ran}");
    let cause = ran.json()["causes"][0].to_string();
    assert!(cause.contains("chain"), "{cause}");
}

#[test]
fn a_key_that_opens_nothing_fails_at_decrypting() {
    let site = protected();
    // GIVEN an identity of the same repository that nothing was ever sealed to
    let stranger = site.path("stranger");
    let listed = site.tool(&["keys", "list", "--json"]).ok().json();
    let any = listed["recipients"][0]["recipient"]
        .as_str()
        .expect("a key")
        .to_owned();
    let mut new = site.command("tidemark-restore");
    new.args(["keys", "new", "--repository", &any, "--out"]);
    Ran::of(new.arg(&stranger)).ok();
    // WHEN a drill uses it
    let mut command = site.command("tidemark-restore");
    command.args(["drill", "run", "--allow-source-host", "--json"]);
    command.args(["--region", &site.regions[0], "--identity"]);
    let ran = Ran::of(command.arg(&stranger));
    // THEN it fails, and says that the key is the matter
    assert_eq!(ran.code, FAILED, "{ran}");
    let report = ran.json();
    assert_eq!(report["verdict"], "FAIL", "{ran}");
    let cause = report["causes"][0].as_str().expect("a cause");
    assert!(cause.starts_with("decrypt"), "{cause}");
}

#[test]
fn a_row_that_was_deleted_behind_the_databases_back_is_found_by_asking_it() {
    // GIVEN a table whose index still has what the table has not: every page is as it was signed
    let site = Site::new();
    let app = Connection::open(&site.database).unwrap();
    app.execute_batch(
        "CREATE TABLE victim(id INTEGER PRIMARY KEY, name TEXT); CREATE INDEX victim_name ON victim(name); \
         INSERT INTO victim VALUES (1, 'a'), (2, 'b'), (3, 'c'); PRAGMA writable_schema = ON; \
         CREATE TABLE hidden AS SELECT * FROM sqlite_schema WHERE name = 'victim_name'; \
         DELETE FROM sqlite_schema WHERE name = 'victim_name';",
    )
    .unwrap();
    drop(app);
    let app = Connection::open(&site.database).unwrap();
    app.execute_batch(
        "DELETE FROM victim WHERE id = 2; PRAGMA writable_schema = ON; \
         INSERT INTO sqlite_schema SELECT * FROM hidden; DROP TABLE hidden;",
    )
    .unwrap();
    drop(app);
    protect(&site);
    // WHEN it is drilled
    let ran = drill(&site, &[]);
    // THEN everything up to replay is proved, and the database itself says no
    assert_eq!(ran.code, FAILED, "{ran}");
    let report = ran.json();
    assert_eq!(report["rung"], "replay", "{ran}");
    let cause = report["causes"][0].as_str().expect("a cause");
    assert!(cause.starts_with("logical"), "{cause}");
}

#[test]
fn a_canary_that_nobody_writes_any_more_fails_a_drill_that_relies_on_it() {
    let site = Site::new();
    site.set("canary", "\"table\"");
    site.set("canary_every", "\"1s\"");
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    let canaries = || -> i64 {
        let app = writer::open(&site.database);
        let asked = app.query_row("SELECT max(seq) FROM tidemark_canary", [], |row| row.get(0));
        asked.unwrap_or_default()
    };
    eventually("canaries are written", SOON, || {
        (canaries() > 1).then_some(())
    });
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    // GIVEN a canary that is alive: the drill measures by it
    let ran = drill(&site, &[]).ends_with(PASSED);
    assert_eq!(ran.json()["loss"]["basis"], "canary", "{ran}");
    // WHEN something keeps it from being written while the log goes on
    let app = writer::open(&site.database);
    app.execute_batch(
        "CREATE TRIGGER frozen BEFORE INSERT ON tidemark_canary BEGIN SELECT RAISE(IGNORE); END; \
         CREATE TRIGGER kept BEFORE DELETE ON tidemark_canary BEGIN SELECT RAISE(IGNORE); END",
    )
    .unwrap();
    drop(app);
    pass(Duration::from_secs(9));
    writer::write(&site.database, 5);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    // THEN the drill fails, and says that it is frozen
    let ran = drill(&site, &[]);
    assert_eq!(ran.code, FAILED, "{ran}");
    let cause = ran.json()["causes"][0]
        .as_str()
        .expect("a cause")
        .to_owned();
    assert!(
        cause.starts_with("replay") && cause.contains("frozen"),
        "{cause}"
    );
    daemon.terminate();
}

#[test]
fn a_clock_that_was_set_is_told_and_never_passes_unseen() {
    if !is_root() {
        skip("only root makes a time namespace");
        return;
    }
    let site = Site::new();
    protect(&site);
    // GIVEN an agent on a machine whose time since boot says that the clock was set back ten minutes
    let mut command = std::process::Command::new("unshare");
    command.args(["--time", "--boottime", "600", "--fork", "--kill-child"]);
    let agent = site.command("tidemark-agent");
    command
        .arg(agent.get_program())
        .arg("run")
        .arg("--config")
        .arg(&site.config);
    command.current_dir(site.path(""));
    let mut daemon = Daemon::start(&mut command, &site.path("skewed-log"));
    let before = now();
    writer::write(&site.database, 5);
    eventually("the regions hold it", SOON, || {
        daemon.assert_running();
        let status = site.status();
        let names = status.regions();
        let safe = |name: &&String| status.safe_until(name) >= Some(before);
        (names.iter().filter(safe).count() == 2).then_some(())
    });
    site.agent(&["snapshot"]).ok();
    daemon.kill();
    // THEN a drill over that names it
    let ran = drill(&site, &[]).ends_with(EXCEPTIONS);
    assert!(
        ran.json()["exceptions"].to_string().contains("clock skew"),
        "{ran}"
    );
}

#[test]
fn a_drill_that_is_killed_is_inconclusive_on_record_and_leaves_nothing() {
    let site = protected();
    // GIVEN a drill that dies in the middle
    let (mut daemon, scratch) = held(&site, &[]);
    daemon.kill();
    assert!(scratch.exists(), "nobody could destroy it");
    // WHEN the next command uses the identity
    let next = drill(&site, &[]);
    assert_eq!(next.code, PASSED, "{next}");
    assert!(!scratch.exists(), "{} is still there", scratch.display());
    // THEN the one that died is on record, as one that counts for nothing
    let list = site.tool(&["drill", "list", "--json"]).json();
    let verdicts: Vec<&str> = list["drills"]
        .as_array()
        .expect("drills")
        .iter()
        .filter_map(|drill| drill["verdict"].as_str())
        .collect();
    let died = verdicts
        .iter()
        .filter(|verdict| **verdict == "INCONCLUSIVE");
    assert_eq!(died.count(), 1, "{list:#}");
    assert!(verdicts.contains(&"PASS"), "{list:#}");
}

#[test]
fn a_scratch_that_stays_fails_a_drill_that_proved_everything() {
    let site = protected();
    let scratch = site.path("scratch");
    std::fs::create_dir(&scratch).unwrap();
    // The user that runs the restored database must get there.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(site.path(""), open).unwrap();
    let immovable = |flag: &str, path: &Path| {
        let ran = std::process::Command::new("chattr")
            .arg(flag)
            .arg(path)
            .output();
        ran.is_ok_and(|ran| ran.status.success())
    };
    let probe = scratch.join("probe");
    std::fs::write(&probe, "x").unwrap();
    let able = is_root() && immovable("+i", &probe) && immovable("-i", &probe);
    if !able {
        // Where files can't be made immovable, the scratch's own tests show it.
        return;
    }
    std::fs::remove_file(&probe).unwrap();
    // GIVEN a file in the scratch that can't be removed; once the database is being laid out, nothing else
    // there changes hands
    let place = scratch.display().to_string();
    let (mut daemon, own) = held(&site, &["--scratch", &place]);
    let nail = own.join("nail");
    std::fs::write(&nail, "x").unwrap();
    assert!(immovable("+i", &nail), "{}", nail.display());
    daemon.go_on();
    let code = daemon.wait();
    assert!(immovable("-i", &nail), "{}", nail.display());
    // THEN the drill fails, and names what is left
    assert_eq!(code, FAILED, "{}", daemon.log());
    let said = report(&daemon);
    let cause = said["causes"][0].as_str().expect("a cause");
    assert!(cause.contains("scratch"), "{cause}");
}

#[test]
fn the_sources_own_host_is_refused_unless_it_is_said() {
    let site = protected();
    let ran = site.tool(&["drill", "run"]);
    assert_ne!(ran.code, PASSED, "{ran}");
    assert!(ran.err.contains("--allow-source-host"), "{ran}");
    let list = site.tool(&["drill", "list", "--json"]).json();
    assert_eq!(list["drills"].as_array().map(Vec::len), Some(0), "{list:#}");
}
