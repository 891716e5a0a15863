//! Evidence from a restore to an auditor's desk: records, reviews, exports, and a pack that is verified
//! without any program of ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tidemark_tests::eventually;

use crate::drill::{FAILED, drill, protected};
use crate::objects::{copy_folder, objects, remove};
use crate::process::{Ran, SOON, skip};
use crate::site::Site;
use crate::writer::write;

/// Whether the auditor's tools are here.
fn has_tools() -> bool {
    let works = |program: &str, words: &[&str]| {
        let ran = Command::new(program).args(words).output();
        ran.is_ok_and(|ran| ran.status.success())
    };
    works("openssl", &["version"]) && works("python3", &["--version"])
}

/// Runs a script in the pack, as an auditor would.
fn in_pack(pack: &Path, script: &str) -> (i32, String) {
    let ran = Command::new("sh")
        .args(["-e", "-c", script])
        .current_dir(pack)
        .output()
        .expect("sh runs");
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (ran.status.code().unwrap_or(-1), said)
}

/// The commands in the pack's own recipe.
fn recipe(pack: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(pack.join("HOWTO.md")).expect("a recipe");
    let blocks = text.split("```sh\n").skip(1);
    blocks
        .filter_map(|block| block.split("\n```").next())
        .map(str::to_owned)
        .collect()
}

/// Replaces a read-only file.
fn replace(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).expect("the file is there");
    std::fs::write(path, bytes).expect("it can be written");
}

fn first_record(folder: &Path) -> PathBuf {
    let signer = std::fs::read_dir(folder.join("meta/evidence"))
        .expect("evidence")
        .next();
    let signer = signer.expect("a signer").expect("an entry").path();
    signer.join("0000000000000000")
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
fn restores_are_recorded_reviewed_exported_and_verified_without_our_programs() {
    if !has_tools() {
        skip("openssl and python3 are needed to check a pack as an auditor would");
        return;
    }
    // GIVEN a protected database
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 50);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    drop(daemon);
    // WHEN it is restored, and a second restore fails
    let all: Vec<&str> = site.regions.iter().map(String::as_str).collect();
    let words = ["--to", "latest", "--reason", "INC-42"];
    drop(site.restore(&all, &words).ok());
    let early = ["--to", "2001-01-01T00:00:00Z"];
    drop(site.restore(&all, &early).refused(14, &[]));
    let root = format!("{}.root", site.identity.display());
    site.tool(&["keys", "enrol", "--all", "--root", &root]).ok();
    // THEN both are on record, with why
    let listed = site
        .tool(&["evidence", "list", "--kind", "access", "--json"])
        .ok();
    let records = listed.json()["records"].clone();
    assert_eq!(records[0]["outcome"], "ok", "{listed}");
    assert_eq!(records[0]["reason"], "INC-42", "{listed}");
    assert_eq!(records[1]["outcome"], "failed", "{listed}");
    let id = records[0]["id"].as_str().expect("an id").to_owned();
    site.tool(&[
        "evidence",
        "sign-off",
        &id,
        "--reviewer",
        "Ann",
        "--ticket",
        "T-9",
        "--decision",
        "approved",
    ])
    .ok();
    site.tool(&["evidence", "verify"]).ok();
    // AND the pack is verified by its own recipe
    let pack = site.path("pack");
    let out = pack.display().to_string();
    let export = [
        "evidence", "export", "--kind", "all", "--format", "pack", "--out", &out,
    ];
    site.tool(&export).ok();
    let csv = std::fs::read_to_string(pack.join("evidence.csv")).expect("a table");
    assert!(
        csv.contains("INC-42") && csv.contains(",failed,14,"),
        "{csv}"
    );
    let recipe = recipe(&pack);
    assert_eq!(recipe.len(), 2, "{recipe:?}");
    for script in &recipe {
        let (code, said) = in_pack(&pack, script);
        assert_eq!(code, 0, "{script}\n{said}");
    }
    site.tool(&["evidence", "verify", &out]).ok();
    // AND so is one of a single source
    let narrow = site.path("narrow");
    let out_narrow = narrow.display().to_string();
    let words = [&export[..6], &["--source", "app", "--out", &out_narrow]].concat();
    site.tool(&words).ok();
    let (code, said) = in_pack(&narrow, "python3 verify.py");
    assert_eq!(code, 0, "{said}");
    let rows = std::fs::read_to_string(narrow.join("evidence.csv")).expect("a table");
    assert!(
        rows.lines().count() > 1 && !rows.contains("keys-enrol"),
        "{rows}"
    );
    // AND a later pack has everything that this one has, and not the other way round
    let later = site.path("later");
    let later_out = later.display().to_string();
    let words = [&export[..6], &["--out", &later_out]].concat();
    site.tool(&["keys", "check"]).ok();
    site.tool(&words).ok();
    let since = format!("python3 verify.py --since {out}");
    assert_eq!(in_pack(&later, &since).0, 0);
    let since = format!("python3 verify.py --since {}", later.display());
    let (code, said) = in_pack(&pack, &since);
    assert_eq!(code, 13, "{said}");
    assert!(said.contains("the earlier pack has it"), "{said}");
    // AND neither our program nor the recipe takes a pack in which one byte was changed
    assert_refused(&site, &pack, Path::new("evidence.csv"), "INC-42");
    assert_refused(&site, &pack, Path::new("index.html"), "<table>");
    let record = first_record(&pack.join("region"));
    let record = record.strip_prefix(&pack).expect("in the pack").to_owned();
    assert_refused(&site, &pack, &record, "\"payload\":");
    // AND a changed byte in a region is named
    let stored = first_record(&site.region_folder(0));
    let mut bytes = std::fs::read(&stored).expect("a record");
    bytes[200] ^= 1;
    replace(&stored, &bytes);
    let ran = site.tool(&["evidence", "verify"]);
    assert_eq!(ran.code, 13, "{ran}");
    assert!(ran.out.contains("region-a"), "{ran}");
}

/// Whether a run is noted on this machine that has not ended.
fn is_noted(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        let path = entry.path();
        entry.file_name() == "note.json" || (path.is_dir() && is_noted(&path))
    })
}

#[test]
fn killed_restore_is_on_record_after_the_next_command() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 50);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    drop(daemon);
    // GIVEN a restore that waits for a region that never answers
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = silent.local_addr().expect("an address");
    let never = format!("s3://bucket/prefix?endpoint=http://{at}&region=x&insecure=1&path_style=1");
    let mut regions: Vec<&str> = site.regions.iter().map(String::as_str).collect();
    regions.push(&never);
    let mut restore = site.restore_command(&regions, &site.fresh("killed"));
    restore.args(["--to", "latest", "--reason", "INC-13"]);
    restore
        .env("AWS_ACCESS_KEY_ID", "x")
        .env("AWS_SECRET_ACCESS_KEY", "y");
    let quiet = restore.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.spawn().expect("it starts");
    let state = site.path("state-home");
    eventually("the restore has begun", SOON, || {
        is_noted(&state).then_some(())
    });
    // WHEN it is killed, and the next command uses the identity
    child.kill().expect("killed");
    child.wait().expect("waited");
    assert!(is_noted(&state));
    site.tool(&["keys", "check"]).ok();
    // THEN the killed one is on record, with why it was begun
    let listed = site.tool(&["evidence", "list", "--json"]).ok().json();
    let all = listed["records"].as_array().expect("records").clone();
    let words = |name: &str| -> Vec<String> {
        let cells = all
            .iter()
            .map(|record| record[name].as_str().unwrap_or_default().to_owned());
        cells.collect()
    };
    assert_eq!(words("action"), ["restore", "keys-check"], "{listed}");
    assert_eq!(words("outcome"), ["did-not-end", "ok"], "{listed}");
    assert_eq!(words("reason")[0], "INC-13", "{listed}");
    assert!(!is_noted(&state), "the note is settled");
}

/// One byte of a file is changed, where `word` stands, and then its sum in the list with it.
fn assert_refused(site: &Site, pack: &Path, name: &Path, word: &str) {
    let copy = site.fresh("changed");
    copy_folder(pack, &copy);
    let path = copy.join(name);
    let before = tidemark_format::evidence::Sha256::of(&std::fs::read(&path).expect("a file"));
    let mut bytes = std::fs::read(&path).expect("a file");
    let text = String::from_utf8(bytes.clone()).expect("text");
    let at = text.find(word).expect("the word");
    bytes[at + 1] ^= 1;
    replace(&path, &bytes);
    let (code, said) = in_pack(&copy, "python3 verify.py");
    assert_eq!(code, 13, "{}: {said}", name.display());
    let ran = site.tool(&["evidence", "verify", &copy.display().to_string()]);
    assert_eq!(ran.code, 13, "{}: {ran}", name.display());
    if name.ends_with("index.html") {
        return;
    }
    // The list of sums is unsigned: what is signed must tell without it.
    let after = tidemark_format::evidence::Sha256::of(&bytes);
    let list = std::fs::read_to_string(copy.join("SHA256SUMS")).expect("a list");
    let list = list.replace(&before.to_string(), &after.to_string());
    replace(&copy.join("SHA256SUMS"), list.as_bytes());
    let (code, said) = in_pack(&copy, "python3 verify.py");
    assert_eq!(code, 13, "{}: {said}", name.display());
    let ran = site.tool(&["evidence", "verify", &copy.display().to_string()]);
    assert_eq!(ran.code, 13, "{}: {ran}", name.display());
}

/// Runs the restore tool on some regions as somebody who has no identity.
fn stranger(site: &Site, regions: &[&str], words: &[&str]) -> Ran {
    let mut command = site.command("tidemark-restore");
    command.args(words);
    for region in regions {
        command.args(["--region", region]);
    }
    Ran::of(&mut command)
}

#[test]
fn every_full_backup_and_point_is_exported_and_a_region_that_lacks_a_base_is_named() {
    // GIVEN two full backups, of which the second region lacks the first
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    write(&site.database, 20);
    site.agent(&["snapshot", "--base"]).ok();
    site.wait_shipped();
    daemon.terminate();
    let between = |region: usize, kind: &str| objects(&site.region_folder(region), kind);
    let (bases, points) = (between(0, "meta/base/"), between(0, "meta/point/"));
    assert!(bases.len() > 1, "{bases:?}");
    assert_eq!(between(1, "meta/base/").len(), bases.len());
    let (lost, path) = between(1, "meta/base/").pop_first().expect("a base");
    remove(&path);
    // WHEN somebody without an identity exports them
    let regions: Vec<&str> = site.regions.iter().map(String::as_str).collect();
    let export = ["evidence", "export", "--kind", "backups"];
    let ran = stranger(&site, &regions, &export);
    // THEN each is a row, and the one that a region lacks names that region: what builds on it there is in doubt
    assert_eq!(ran.code, 13, "{ran}");
    let rows: Vec<&str> = ran.out.split_terminator("\r\n").collect();
    assert_eq!(rows.len(), 1 + bases.len() + points.len(), "{ran}");
    for key in bases.keys().chain(points.keys()) {
        assert!(
            rows.iter().any(|row| row.ends_with(key.as_str())),
            "{key}: {ran}"
        );
    }
    let row = rows.iter().find(|row| row.ends_with(lost.as_str()));
    let row = row.expect("the base's row");
    assert!(row.contains(",in-part,region-a,region-b,,"), "{row}");
    assert!(ran.err.contains("in doubt"), "{ran}");
    // AND from the whole region alone nothing is in doubt
    let ran = stranger(&site, &regions[..1], &export).ok();
    assert!(!ran.err.contains("in doubt"), "{ran}");
    // AND a period has its own, in every form
    let json = |words: &[&str]| {
        let words = [&export[..], &["--format", "json"], words].concat();
        stranger(&site, &regions[..1], &words).ok().json()
    };
    let all = json(&[]);
    assert_eq!(all["sources"][0]["bases"], bases.len(), "{all:#}");
    let newest = all["sources"][0]["newest_base"]
        .as_str()
        .expect("an instant");
    let later = json(&["--from", newest]);
    assert_eq!(later["sources"][0]["bases"], 1, "{later:#}");
    let before = json(&["--to", "2001-01-01"]);
    assert_eq!(before["backups"], serde_json::json!([]), "{before:#}");
    let page = site.path("backups.html");
    let out = page.display().to_string();
    let words = [&export[..], &["--format", "html", "--out", &out]].concat();
    stranger(&site, &regions[..1], &words).ok();
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(page.contains("longest between full backups"), "{page}");
    // AND nothing was disposed of, which is said
    let ran = stranger(
        &site,
        &regions,
        &["evidence", "export", "--kind", "disposals"],
    )
    .ok();
    assert_eq!(ran.out.lines().count(), 1, "{ran}");
    assert!(ran.err.contains("nothing in this version deletes"), "{ran}");
}

/// Takes the newest recovery points, and the log that they cover, out of a region.
fn cut(site: &Site, region: usize) {
    let folder = site.region_folder(region);
    for kind in ["meta/point/", "meta/log/"] {
        let all = objects(&folder, kind);
        all.values().rev().take(2).for_each(|path| remove(path));
    }
}

#[test]
fn a_log_that_was_cut_short_is_told_by_status_and_a_region_that_is_behind_is_no_alarm() {
    // GIVEN a source whose newest state a drill restored
    let site = protected();
    let root = format!("{}.root", site.identity.display());
    drill(&site, &["--no-counts"]).ends_with(0);
    site.tool(&["keys", "enrol", "--all", "--root", &root]).ok();
    let regions: Vec<&str> = site.regions.iter().map(String::as_str).collect();
    let status = |regions: &[&str]| stranger(&site, regions, &["status", "--json"]);
    let told = |ran: &Ran| ran.json()["sources"][0]["cut_short"].clone();
    let whole = status(&regions);
    assert!(told(&whole).is_null(), "{whole}");
    // WHEN one region has not got as far
    cut(&site, 1);
    for some in [&regions[..], &regions[..1], &regions[1..]] {
        let ran = status(some);
        assert!(told(&ran).is_null(), "{ran}");
    }
    // WHEN no region has the end any more
    cut(&site, 0);
    let ran = status(&regions).ends_with(2);
    // THEN status says so without an identity, with what it means and what to do
    let cut = told(&ran);
    assert!(
        cut["restored"]
            .as_str()
            .expect("a state")
            .starts_with("log:1:"),
        "{ran}"
    );
    assert_eq!(ran.json()["sources"][0]["health"], "critical", "{ran}");
    stranger(&site, &regions, &["status"]).ends_with(2).says(&[
        "CUT SHORT",
        "removed or lost in every region",
        "snapshot --base",
    ]);
    let listed = site.tool(&["drill", "list"]).ok();
    assert!(listed.out.contains("CUT SHORT"), "{listed}");
    // AND of a region alone it can't be told: the other one may have more
    let ran = status(&regions[..1]);
    assert!(told(&ran).is_null(), "{ran}");
    // AND whoever accepts it isn't told again
    let failed = drill(&site, &["--no-counts"]).ends_with(FAILED).json();
    let id = failed["evidence_id"].as_str().expect("a record");
    let sign = ["evidence", "sign-off", id, "--reviewer", "Ann"];
    let how = ["--ticket", "T-1", "--decision", "approved"];
    site.tool(&[&sign[..], &how].concat()).ok();
    let ran = status(&regions);
    assert!(told(&ran).is_null(), "{ran}");
}
