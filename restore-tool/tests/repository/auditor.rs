//! What an auditor relies on: every use of a key is on record, whatever the command; no record is lost
//! because a region did not take it; and nothing can be cut off, swapped or edited unseen.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tidemark_format::evidence::Sha256;
use tidemark_format::keys;
use tidemark_host::Exit;

use crate::world::{Ran, World};

fn world(regions: usize) -> World {
    let mut world = World::new(regions);
    world.insert(100);
    world.point(None);
    world.state = Some(world.dir.path().join("state"));
    world
}

/// Runs a command that must end well, or with exceptions.
async fn run(world: &World, words: &[&str]) -> Ran {
    let ran = world.run(words).await;
    let good = [Exit::Ok, Exit::Exceptions].contains(&ran.exit);
    assert!(good, "{words:?}: {ran:?}");
    ran
}

async fn records(world: &World) -> Vec<Value> {
    let listed = run(world, &["evidence", "list"]).await.json();
    listed["records"].as_array().unwrap().clone()
}

/// Another identity of the same repository, and its public key.
async fn another(world: &World, name: &str) -> (String, String) {
    let path = world.path(name);
    let any = run(world, &["keys", "list"]).await.json();
    let any = any["recipients"][0]["recipient"]
        .as_str()
        .unwrap()
        .to_owned();
    let words = ["keys", "new", "--repository", &any, "--out", &path];
    let made = run(world, &words).await.json();
    (path, made["recipient"].as_str().unwrap().to_owned())
}

async fn enrol(world: &World) {
    let root = world.path("root");
    run(world, &["keys", "enrol", "--all", "--root", &root]).await;
}

/// One restore; its target is removed again.
async fn restore(world: &World, reason: &str) {
    let target = world.target().display().to_string();
    let words = ["restore", "--to", "latest", "--target", &target];
    run(world, &[&words[..], &["--reason", reason]].concat()).await;
    drop(fs::remove_file(&target));
}

async fn pack(world: &World, name: &str) -> PathBuf {
    let out = world.path(name);
    let words = ["evidence", "export", "--kind", "all", "--format", "pack"];
    run(world, &[&words[..], &["--out", &out]].concat()).await;
    PathBuf::from(out)
}

/// Every signer's files of a region, by number.
fn stored(world: &World, region: usize) -> Vec<PathBuf> {
    world.regions[region].files(keys::EVIDENCE)
}

fn whats(report: &Value) -> Vec<&str> {
    let all = report["findings"].as_array().unwrap();
    all.iter()
        .map(|one| one["what"].as_str().unwrap())
        .collect()
}

/// Replaces a file of a pack, and its sum in the list that nobody signed.
fn change(pack: &Path, name: &str, bytes: &[u8]) {
    let sum = |bytes: &[u8]| Sha256::of(bytes).to_string();
    let (path, list) = (pack.join(name), pack.join("SHA256SUMS"));
    let sums = fs::read_to_string(&list).unwrap();
    let sums = sums.replace(&sum(&fs::read(&path).unwrap()), &sum(bytes));
    for (path, bytes) in [(&path, bytes), (&list, sums.as_bytes())] {
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// The names of a pack's files.
fn files(folder: &Path, from: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(from).unwrap().flatten() {
        if entry.path().is_dir() {
            files(folder, &entry.path(), found);
        } else {
            let name = entry.path().strip_prefix(folder).unwrap().to_owned();
            found.push(name.to_str().unwrap().to_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn every_command_that_uses_a_key_is_on_record_with_who_when_why_and_what() {
    let world = world(1);
    restore(&world, "INC-1").await;
    run(&world, &["verify", "--reason", "INC-2"]).await;
    run(&world, &["keys", "check"]).await;
    run(&world, &["keys", "list", "--for-review"]).await;
    let (_, public) = another(&world, "second").await;
    let root = world.path("root");
    let words = ["keys", "enrol", "--recipient", &public, "--root", &root];
    run(&world, &[&words[..], &["--name", "Ben"]].concat()).await;
    let listed = run(&world, &["keys", "list"]).await.json();
    let of_ben = |one: &&Value| one["name"] == "Ben";
    let recipients = listed["recipients"].as_array().unwrap();
    let ben = recipients.iter().find(of_ben).unwrap();
    let ben = ben["key"].as_str().unwrap().to_owned();
    let words = ["keys", "revoke", &ben, "--root", &root, "--yes"];
    run(&world, &[&words[..], &["--reason", "left"]].concat()).await;
    // What decrypts nothing leaves none.
    let target = world.target().display().to_string();
    for words in [
        &["list"][..],
        &["plan", "--to", "latest", "--target", &target],
        &["verify", "--quick"],
        &["policy", "check", "--policy", "soc2"],
        &["evidence", "verify"],
        &["keys", "list"],
        &["drill", "list"],
    ] {
        world.run(words).await;
    }
    let all = records(&world).await;
    let told: Vec<(&str, &str)> = all
        .iter()
        .map(|one| {
            (
                one["action"].as_str().unwrap(),
                one["reason"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("restore", "INC-1"),
        ("verify", "INC-2"),
        ("keys-check", ""),
        ("keys-list", ""),
        ("keys-enrol", ""),
        ("keys-revoke", "left"),
    ];
    // The new identity signs the record of its own making: the first of a chain of its own.
    let made = told.iter().filter(|(action, _)| *action == "keys-new");
    assert_eq!(made.count(), 1, "{told:?}");
    let rest: Vec<_> = told.into_iter().filter(|one| one.0 != "keys-new").collect();
    assert_eq!(rest, expected);
    // AND those of one source are picked by its name
    let of_app = run(&world, &["evidence", "list", "--source", "app"])
        .await
        .json();
    let of_app = of_app["records"].as_array().unwrap().iter();
    let of_app: Vec<&Value> = of_app.map(|one| &one["action"]).collect();
    assert_eq!(of_app, ["restore", "verify"]);
    let of_none = run(&world, &["evidence", "export", "--source", "nobody"]).await;
    assert_eq!(of_none.out.lines().count(), 1, "{of_none:?}");
    // AND as a table: who, when, why, what, how it ended
    let csv = run(&world, &["evidence", "export", "--kind", "access"])
        .await
        .out;
    let mut lines = csv.split("\r\n");
    let titles: Vec<&str> = lines.next().unwrap().split(',').collect();
    for title in [
        "user",
        "uid",
        "host",
        "created_at",
        "reason",
        "action",
        "outcome",
    ] {
        assert!(titles.contains(&title), "{titles:?}");
    }
    assert_eq!(lines.filter(|line| !line.is_empty()).count(), all.len());
    for one in &all {
        assert_eq!(one["outcome"], "ok", "{one}");
        assert!(one["host"] != "" && one["created_at"].is_string(), "{one}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_command_a_record_that_no_region_takes_waits_and_is_sent_by_the_next() {
    let world = world(1);
    run(&world, &["keys", "check"]).await;
    let folder = world.regions[0].path.join("meta/evidence");
    let aside = world.dir.path().join("aside");
    fs::rename(&folder, &aside).unwrap();
    fs::write(&folder, "in the way").unwrap();
    let target = world.target().display().to_string();
    let commands: [&[&str]; 4] = [
        &["restore", "--to", "latest", "--target", &target],
        &["verify"],
        &["keys", "check"],
        &["keys", "list", "--for-review"],
    ];
    for words in commands {
        let ran = world.run(words).await;
        assert_eq!(ran.exit, Exit::Ok, "{words:?}: {ran:?}");
        assert!(ran.err.contains("evidence-waits"), "{words:?}: {ran:?}");
    }
    fs::remove_file(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    let waiting = world.run(&["evidence", "verify"]).await;
    assert_eq!(waiting.exit, Exit::Exceptions, "{waiting:?}");
    assert!(whats(&waiting.json()).contains(&"waiting"), "{waiting:?}");
    enrol(&world).await;
    let all = records(&world).await;
    let actions: Vec<&str> = all
        .iter()
        .map(|one| one["action"].as_str().unwrap())
        .collect();
    let expected = [
        "keys-check",
        "restore",
        "verify",
        "keys-check",
        "keys-list",
        "keys-enrol",
    ];
    assert_eq!(actions, expected);
    let verified = world.run(&["evidence", "verify"]).await;
    assert_eq!(verified.exit, Exit::Ok, "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn what_is_cut_off_at_the_end_is_missed_by_a_review_and_by_an_earlier_pack() {
    let mut world = world(2);
    for reason in ["one", "two"] {
        restore(&world, reason).await;
    }
    // GIVEN a reviewer with an identity of their own, whom the root vouched for
    let (ann, _) = another(&world, "ann").await;
    // It opens nothing; that it was tried is on record, and asks for its signer to be vouched for.
    let tried = world.run(&["keys", "check", "--identity", &ann]).await;
    assert_eq!(tried.exit, Exit::Key, "{tried:?}");
    enrol(&world).await;
    restore(&world, "three").await;
    let all = records(&world).await;
    let newest = all.iter().find(|one| one["reason"] == "three").unwrap();
    let (id, signer) = (newest["id"].as_str().unwrap(), newest["signer"].clone());
    let earlier = pack(&world, "earlier").await;
    // WHEN that restore's record is removed in every region, and nobody's machine remembers it
    world.state = None;
    let last = |world: &World, region: usize| {
        let own = format!("meta/evidence/{}/", signer.as_str().unwrap());
        world.regions[region].files(&own).pop().unwrap()
    };
    let removed: Vec<(PathBuf, Vec<u8>)> = (0..2)
        .map(|region| last(&world, region))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    let cut = || {
        for (path, _) in &removed {
            fs::remove_file(path).unwrap();
        }
    };
    cut();
    // THEN the chain looks whole by itself, and an earlier pack shows what is gone
    let alone = world.run(&["evidence", "verify"]).await;
    assert_eq!(alone.exit, Exit::Ok, "{alone:?}");
    let since = earlier.display().to_string();
    let compared = world.run(&["evidence", "verify", "--since", &since]).await;
    assert_eq!(compared.exit, Exit::Integrity, "{compared:?}");
    let report = compared.json();
    assert_eq!(whats(&report), ["missing"], "{report}");
    assert!(compared.out.contains("the earlier pack has it"), "{report}");
    let later = pack(&world, "later").await.display().to_string();
    let words = ["evidence", "verify", &later, "--since", &since];
    assert_eq!(world.run(&words).await.exit, Exit::Integrity);
    let words = ["evidence", "verify", &since, "--since", &later];
    assert_eq!(world.run(&words).await.exit, Exit::Ok);
    // AND once somebody has signed it off, no pack is needed to miss it
    for (path, bytes) in &removed {
        fs::write(path, bytes).unwrap();
    }
    let words = ["evidence", "sign-off", id, "--reviewer", "Ann"];
    let more = [
        "--ticket",
        "T",
        "--decision",
        "approved",
        "--identity",
        &ann,
    ];
    run(&world, &[&words[..], &more].concat()).await;
    let whole = world.run(&["evidence", "verify"]).await;
    assert_eq!(whole.exit, Exit::Ok, "{whole:?}");
    cut();
    let missed = world.run(&["evidence", "verify"]).await;
    assert_eq!(missed.exit, Exit::Integrity, "{missed:?}");
    for words in ["Ann signed it off", "was cut off"] {
        assert!(missed.out.contains(words), "no {words:?}: {missed:?}");
    }
    // AND a record put a second time under the next number is no record more
    let stands = |region| stored(&world, region);
    for region in 0..2 {
        let before = last(&world, region);
        let number: u64 = before
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let twice = before.with_file_name(format!("{:016}", number + 1));
        fs::copy(&before, &twice).unwrap();
        assert!(stands(region).contains(&twice));
    }
    let twice = world.run(&["evidence", "verify"]).await;
    assert_eq!(twice.exit, Exit::Integrity, "{twice:?}");
    assert!(whats(&twice.json()).contains(&"reordered"), "{twice:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_pack_can_be_changed_unseen() {
    let world = world(1);
    restore(&world, "=1+1").await;
    enrol(&world).await;
    let pack = pack(&world, "pack").await;
    let own = pack.display().to_string();
    let verify = ["evidence", "verify", &own];
    assert_eq!(world.run(&verify).await.exit, Exit::Ok);
    let mut names = Vec::new();
    files(&pack, &pack, &mut names);
    assert!(names.len() > 10, "{names:?}");
    for name in &names {
        let path = pack.join(name);
        let bytes = fs::read(&path).unwrap();
        // What is signed, or derived from it, holds although the list of sums was corrected, too.
        let bound = name.starts_with("region/") || name.ends_with(".csv") || name.ends_with(".pem");
        for part in 0..3 {
            let mut edited = bytes.clone();
            let at = (bytes.len() - 1) * part / 2;
            edited[at] ^= 1;
            if bound {
                change(&pack, name, &edited);
            } else {
                fs::remove_file(&path).unwrap();
                fs::write(&path, &edited).unwrap();
            }
            let ran = world.run(&verify).await;
            let seen = ![Exit::Ok, Exit::Exceptions].contains(&ran.exit);
            assert!(seen, "{name} at {at} of {}: {ran:?}", bytes.len());
            if bound {
                change(&pack, name, &bytes);
            } else {
                fs::write(&path, &bytes).unwrap();
            }
        }
    }
    assert_eq!(world.run(&verify).await.exit, Exit::Ok);
    // AND the table can't be swapped for that of another export
    let words = ["evidence", "export", "--kind", "drills", "--out"];
    let other = world.path("drills.csv");
    run(&world, &[&words[..], &[&other]].concat()).await;
    let table = fs::read(pack.join("evidence.csv")).unwrap();
    assert!(String::from_utf8_lossy(&table).contains(",'=1+1,"));
    change(&pack, "evidence.csv", &fs::read(&other).unwrap());
    let meta = fs::read_to_string(pack.join("evidence.csv.meta.json")).unwrap();
    let sum = |bytes: &[u8]| Sha256::of(bytes).to_string();
    let meta = meta.replace(&sum(&table), &sum(&fs::read(&other).unwrap()));
    change(&pack, "evidence.csv.meta.json", meta.as_bytes());
    let ran = world.run(&verify).await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    assert!(
        ran.out.contains("does not say what the records say"),
        "{ran:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_removed_in_every_region_is_named_by_whoever_has_a_copy_and_put_back_aloud() {
    let world = world(2);
    for reason in ["one", "two", "three"] {
        restore(&world, reason).await;
    }
    enrol(&world).await;
    assert_eq!(world.run(&["evidence", "verify"]).await.exit, Exit::Ok);
    // WHEN the second restore's record is removed in both regions, and later ones stand there
    let all = records(&world).await;
    let second = all.iter().find(|one| one["reason"] == "two").unwrap();
    let number = format!("{:016}", second["seq"].as_u64().unwrap());
    for region in 0..2 {
        let mut own = stored(&world, region).into_iter();
        let own = own.find(|path| {
            let signer = second["signer"].as_str().unwrap();
            path.ends_with(format!("{signer}/{number}"))
        });
        fs::remove_file(own.unwrap()).unwrap();
    }
    // THEN this machine, which has a copy, says that it was removed
    let verified = world.run(&["evidence", "verify"]).await;
    assert_eq!(verified.exit, Exit::Integrity, "{verified:?}");
    assert_eq!(whats(&verified.json()), ["removed"], "{verified:?}");
    assert_eq!(verified.json()["findings"][0]["seq"], second["seq"]);
    // AND so do the clause on the record of uses, and a pack
    let heretask = world
        .run(&["policy", "check", "--policy", "heretask"])
        .await;
    let clauses = heretask.json()["sources"][0]["clauses"].clone();
    let clauses = clauses.as_array().unwrap();
    let log = clauses.iter().find(|one| one["id"] == "access-log");
    let log = log.unwrap();
    assert_eq!(log["verdict"], "FAIL", "{log}");
    assert!(log.to_string().contains("it was removed"), "{log}");
    let out = world.path("pack");
    let words = ["evidence", "export", "--kind", "all", "--format", "pack"];
    let exported = world.run(&[&words[..], &["--out", &out]].concat()).await;
    assert_eq!(exported.exit, Exit::Integrity, "{exported:?}");
    let checked = world.run(&["evidence", "verify", &out]).await;
    assert_eq!(checked.exit, Exit::Ok, "its own copy is whole: {checked:?}");
    let found = "found when it was exported";
    assert!(checked.out.contains(found), "{checked:?}");
    let by_python = std::process::Command::new("python3")
        .arg(Path::new(&out).join("verify.py"))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&by_python.stdout);
    assert!(
        printed.contains("FOUND WHEN IT WAS EXPORTED") && printed.contains("it was removed"),
        "{printed}"
    );
    // AND what the root's key is, the list of keys says as verify.py prints it
    let listed = run(&world, &["keys", "list"]).await;
    let root = listed.json()["root_public_key"].clone();
    let root = root.as_str().unwrap();
    assert!(printed.contains(&format!("of root {root}")), "{printed}");
    // AND the next record puts it back, and says so
    let next = run(&world, &["keys", "check"]).await;
    for region in ["north", "south"] {
        let told = next.err.lines().any(|line| {
            line.contains("evidence-put-back") && line.contains(&format!("\"{region}\""))
        });
        assert!(told, "{region}: {next:?}");
    }
    let verified = world.run(&["evidence", "verify"]).await;
    assert_eq!(verified.exit, Exit::Ok, "{verified:?}");
}
