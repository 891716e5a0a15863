//! Evidence from a restore to an auditor's desk: records, reviews, exports, and a pack that is verified
//! without any program of ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tidemark_tests::eventually;

use crate::objects::copy_folder;
use crate::process::{SOON, skip};
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
