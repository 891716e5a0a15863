//! Production custody: keys are made elsewhere, the database's host gets public words only, and what
//! it holds neither reads nor destroys the history.

use std::path::{Path, PathBuf};

use serde_json::Value;

use tidemark_tests::eventually;

use crate::process::{Ran, SOON};
use crate::site::{Agent, Site};
use crate::writer::{assert_committed_prefix, create, write};

/// How an agent ends whose key was revoked.
const REVOKED: i32 = 12;

/// Keys made on another host.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) identity: PathBuf,
    pub(crate) recipients: Vec<String>,
}

impl Keys {
    /// `keys new` in a folder of its own.
    pub(crate) fn new(site: &Site, name: &str) -> Self {
        let folder = site.path(name);
        std::fs::create_dir_all(&folder).expect("a folder for the keys");
        let identity = folder.join("identity");
        let mut command = site.command("tidemark-restore");
        let ran = Ran::of(command.args(["keys", "new", "--out"]).arg(&identity)).ok();
        let words = ran.out.split(|c: char| !c.is_ascii_alphanumeric());
        let mut recipients: Vec<String> = words
            .filter(|word| word.starts_with("tmr1") && word.len() > 20)
            .map(str::to_owned)
            .collect();
        recipients.dedup();
        assert!(recipients.len() >= 2, "an identity and an escrow: {ran}");
        Self {
            identity,
            recipients,
        }
    }

    pub(crate) fn escrow(&self) -> PathBuf {
        PathBuf::from(format!("{}.escrow", self.identity.display()))
    }

    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(format!("{}.root", self.identity.display()))
    }

    /// The words for `init`.
    pub(crate) fn words(&self) -> Vec<&str> {
        self.recipients
            .iter()
            .flat_map(|key| ["--recipient", key.as_str()])
            .collect()
    }

    /// What must never be on the database's host: the secret parts of every private file.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let files = [self.identity.clone(), self.escrow(), self.root()];
        let mut secrets = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file).expect("a key file");
            let words = text.split_whitespace().filter(|word| word.len() >= 40);
            let public = |word: &&str| self.recipients.iter().any(|key| key.contains(word));
            secrets.extend(words.filter(|word| !public(word)).map(str::to_owned));
        }
        assert!(!secrets.is_empty());
        secrets
    }
}

/// Every file below `folder` that holds one of `secrets`.
pub(crate) fn files_with(folder: &Path, secrets: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                let holds = |secret: &String| {
                    bytes
                        .windows(secret.len())
                        .any(|window| window == secret.as_bytes())
                };
                if secrets.iter().any(holds) {
                    found.push(path);
                }
            }
        }
    }
    found
}

/// A site whose keys were made elsewhere; the agent has asked to be enrolled.
pub(crate) fn production() -> (Site, Keys) {
    let mut site = Site::plan();
    create(&site.database);
    let keys = Keys::new(&site, "vault");
    site.init_with(&keys.words()).ok().says(&["keys enrol"]);
    site.shorten();
    site.identity.clone_from(&keys.identity);
    (site, keys)
}

/// Signs every request to be enrolled, on all regions.
#[track_caller]
pub(crate) fn enrol(site: &Site, keys: &Keys) -> Ran {
    let root = keys.root();
    site.tool(&[
        "keys",
        "enrol",
        "--all",
        "--root",
        root.to_str().expect("UTF-8"),
    ])
    .ok()
}

#[test]
fn production_keys_never_touch_the_database_host_and_either_recipient_restores() {
    let (site, keys) = production();
    enrol(&site, &keys);
    let daemon = site.start();
    let journal = write(&site.database, 120);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.terminate();
    for identity in [keys.identity.clone(), keys.escrow()] {
        let target = site.fresh("restored");
        let mut command = site.command("tidemark-restore");
        command.args([
            "restore",
            "--to",
            "latest",
            "--region",
            &site.regions[1],
            "--target",
        ]);
        Ran::of(command.arg(&target).arg("--identity").arg(identity))
            .ok()
            .says(&["proved"]);
        assert_eq!(assert_committed_prefix(&target), journal.last().unwrap().n);
    }
    let secrets = keys.secrets();
    let host = site.path("host");
    assert_eq!(files_with(&host, &secrets), Vec::<PathBuf>::new());
    for region in 0..2 {
        assert_eq!(
            files_with(&site.region_folder(region), &secrets),
            Vec::<PathBuf>::new()
        );
    }
}

/// The agent waits for its enrolment, and everybody who is asked says what to do; the command, as
/// `status` prints it.
#[track_caller]
fn assert_waits_for_enrolment(agent: &Agent<'_>) -> String {
    let status = eventually("status says what the agent waits for", SOON, || {
        let status = agent.status();
        (status.alerts() == ["TM1208"]).then_some(status)
    });
    assert_eq!(status.state().as_deref(), Some("waiting-for-enrolment"));
    for region in status.0["regions"].as_array().unwrap() {
        assert_eq!(region["agent"], "not-enrolled", "{region}");
        assert!(region["away"].is_null(), "{region}");
    }
    let findings = &status.0["sources"][0]["judgement"]["findings"];
    let said = findings[0].as_str().unwrap();
    let command = said.split_once("run: ").unwrap().1;
    let command = command.split_once(". The agent").unwrap().0.to_owned();
    assert!(command.starts_with("tidemark-restore keys enrol "));
    agent.run(&["status"]).ends_with(2).says(&[&command]);
    agent.run(&["doctor"]).ends_with(2).says(&[&command]);
    agent.run(&["snapshot"]).ends_with(12).says(&[&command]);
    command
}

/// Types what an agent said, with the root key's file in it.
#[track_caller]
fn type_as_said(site: &Site, command: &str, keys: &Keys) {
    let root = keys.root();
    let command = command.replace("FILE.root", root.to_str().unwrap());
    let mut words = command.split(' ');
    let mut typed = site.command(words.next().unwrap());
    Ran::of(typed.args(words)).ok();
}

#[test]
fn agent_that_was_never_enrolled_says_what_to_do_and_protects_by_itself_once_it_is() {
    let (site, keys) = production();
    site.tool(&["keys", "list"])
        .ok()
        .says(&["no keyring yet", "Ask to be enrolled"]);
    let mut daemon = site.start();
    let command = assert_waits_for_enrolment(&site.first_agent());
    assert!(daemon.log().contains(&command), "{}", daemon.log());
    write(&site.database, 30);
    site.restore(&[&site.regions[0]], &["--to", "latest"])
        .refused(10, &[]);
    type_as_said(&site, &command, &keys);
    let journal = write(&site.database, 60);
    site.wait_shipped();
    site.agent(&["snapshot"]).ok();
    site.wait_well();
    daemon.assert_running();
    daemon.terminate();
    let k = assert_committed_prefix(&site.restore_latest(0).path);
    assert_eq!(k, journal.last().unwrap().n);
}

#[test]
fn agent_added_to_a_repository_waits_and_protects_by_itself_once_it_is_enrolled() {
    let (site, keys) = production();
    enrol(&site, &keys);
    let mut first = site.start();
    write(&site.database, 30);
    site.wait_shipped();
    let folder = site.path("second");
    std::fs::create_dir(&folder).unwrap();
    let database = folder.join("other.db");
    create(&database);
    let second = Agent::at(&site, folder.join("agent.toml"));
    let mut init = site.command("tidemark-agent");
    init.arg("init").arg("--sqlite").arg(&database);
    for region in &site.regions {
        init.args(["--region", region]);
    }
    init.args(keys.words()).arg("--config").arg(&second.config);
    Ran::of(&mut init).ok().says(&["keys enrol"]);
    second.shorten();
    let mut daemon = second.start();
    let command = assert_waits_for_enrolment(&second);
    site.tool(&["keys", "list"])
        .ok()
        .says(&["keyring version 1", "Ask to be enrolled"]);
    type_as_said(&site, &command, &keys);
    let journal = write(&database, 60);
    eventually("the second agent protects", 2 * SOON, || {
        (second.run(&["snapshot"]).code == 0).then_some(())
    });
    first.assert_running();
    daemon.assert_running();
    daemon.terminate();
    first.terminate();
    let words = ["--to", "latest", "--source", "other"];
    let restored = site.restore(&[&site.regions[1]], &words).ok();
    let k = assert_committed_prefix(&restored.path);
    assert_eq!(k, journal.last().unwrap().n);
}

#[test]
fn recipient_that_is_revoked_reads_nothing_that_is_written_from_the_reload_on() {
    let (site, keys) = production();
    enrol(&site, &keys);
    let daemon = site.start();
    let before = write(&site.database, 60);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    let through = site.status().log_through("region-a").unwrap();
    let listed = site.tool(&["keys", "list", "--json"]).ok().json();
    let recipients = listed["recipients"].as_array().unwrap();
    let of_identity = |entry: &&Value| entry["recipient"] == keys.recipients[0].as_str();
    let lost = recipients.iter().find(of_identity).unwrap()["key"].clone();
    let root = keys.root();
    let words = ["keys", "revoke", lost.as_str().unwrap(), "--reason", "lost"];
    let signed = ["--root", root.to_str().unwrap(), "--yes"];
    site.tool(&[&words[..], &signed[..]].concat()).ok();
    site.agent(&["config", "reload"])
        .ok()
        .says(&["keyring version 2", "1 recipient"]);
    let after = write(&site.database, 60);
    site.agent(&["snapshot", "--base"]).ok();
    site.wait_shipped();
    daemon.terminate();
    let escrow = keys.escrow();
    let with = |identity: &Path, to: &str| {
        let target = site.fresh("restored");
        let mut command = site.command("tidemark-restore");
        command.args(["restore", "--to", to, "--region", &site.regions[0]]);
        command.arg("--target").arg(&target);
        let ran = Ran::of(command.arg("--identity").arg(identity));
        (ran, target)
    };
    let (ran, target) = with(&escrow, "latest");
    ran.ok();
    assert_eq!(assert_committed_prefix(&target), after.last().unwrap().n);
    let (ran, target) = with(&keys.identity, "latest");
    ran.ends_with(12);
    assert!(!target.exists());
    // What was written while it was a recipient stays readable to it.
    let (ran, target) = with(&keys.identity, &format!("log:1:{through}"));
    assert!(ran.code == 0 || ran.code == 3, "{ran}");
    assert_eq!(assert_committed_prefix(&target), before.last().unwrap().n);
}

#[test]
fn agent_whose_key_is_revoked_stops_and_what_it_signed_since_is_refused() {
    let (site, keys) = production();
    enrol(&site, &keys);
    let mut daemon = site.start();
    let before = write(&site.database, 60);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    let agent = agent_key(&site);
    let root = keys.root();
    let words = [
        "keys",
        "revoke",
        &agent,
        "--reason",
        "stolen",
        "--root",
        root.to_str().unwrap(),
    ];
    site.tool(&words).ends_with(2).says(&["--yes"]);
    site.tool(&[&words[..], &["--yes"]].concat()).ok();
    // Until its next look round the regions it goes on signing, as a thief with its key would.
    write(&site.database, 60);
    assert_eq!(daemon.wait(), REVOKED, "{}", daemon.log());
    assert!(daemon.log().contains("stolen"), "{}", daemon.log());
    let mut again = site.launch();
    assert_eq!(again.wait(), REVOKED, "{}", again.log());
    site.agent(&["status"])
        .ends_with(2)
        .says(&["was revoked", "stolen", "tidemark-agent init"]);
    site.agent(&["doctor"]).ends_with(2).says(&["stolen"]);
    let restored = site.restore(&[&site.regions[0]], &["--to", "latest"]);
    if restored.ran.code <= 3 {
        let k = assert_committed_prefix(&restored.path);
        assert_eq!(k, before.last().unwrap().n, "{}", restored.ran);
    } else {
        assert!([12, 13].contains(&restored.ran.code), "{}", restored.ran);
        restored.refused(restored_code(&site), &["revoked", "stolen"]);
    }
    let listed = site.tool(&["keys", "list"]).says(&["REVOKED", "stolen"]);
    assert!(listed.code == 0 || listed.code == 3, "{listed}");
}

#[test]
fn hang_up_has_the_agent_read_the_keyring_again() {
    let (site, keys) = production();
    let daemon = site.start();
    assert_waits_for_enrolment(&site.first_agent());
    enrol(&site, &keys);
    daemon.signal("HUP");
    eventually("the agent has read the keyring", SOON, || {
        let log = daemon.log();
        (log.contains("keyring version 1")).then_some(())
    });
    site.agent(&["snapshot"]).ok();
    site.agent(&["config", "reload"])
        .ok()
        .says(&["region-a: keyring version 1", "region-b: keyring version 1"]);
    daemon.terminate();
    site.agent(&["config", "reload"])
        .ends_with(1)
        .says(&["no agent runs"]);
}

fn restored_code(site: &Site) -> i32 {
    site.restore(&[&site.regions[0]], &["--to", "latest"])
        .ran
        .code
}

/// The agent's key id, as `status --json` has it.
fn agent_key(site: &Site) -> String {
    let status = site.status();
    let key: &Value = &status.0["daemon"]["agent"];
    key.as_str().expect("the daemon's key").to_owned()
}

#[test]
fn identity_of_another_repository_is_refused_by_name() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    daemon.terminate();
    let other = Keys::new(&site, "elsewhere");
    let target = site.fresh("restored");
    let mut command = site.command("tidemark-restore");
    command.args([
        "restore",
        "--to",
        "latest",
        "--region",
        &site.regions[0],
        "--target",
    ]);
    Ran::of(command.arg(&target).arg("--identity").arg(&other.identity))
        .ends_with(12)
        .says(&["belongs to repository", "root"]);
    assert!(!target.exists());
    // Of this repository, and no recipient: made by somebody who knows the root alone.
    let mut without = site.command("tidemark-restore");
    without.args([
        "restore",
        "--to",
        "latest",
        "--region",
        &site.regions[0],
        "--target",
    ]);
    Ran::of(without.arg(&target))
        .ends_with(12)
        .says(&["--identity"]);
}

/// The keyrings of a region, as they lie there.
fn keyrings(site: &Site, region: usize) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let folder = site.region_folder(region).join("meta/keyring");
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .expect("keyrings")
        .map(|entry| entry.expect("an entry"))
        .map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap()))
        .collect();
    found.sort();
    found
}

/// `restore` from one region with `identity`.
fn restore_with(site: &Site, identity: &Path, region: usize, to: &str) -> (Ran, PathBuf) {
    let target = site.fresh("restored");
    let mut command = site.command("tidemark-restore");
    command.args(["restore", "--to", to, "--region", &site.regions[region]]);
    command.arg("--target").arg(&target);
    (Ran::of(command.arg("--identity").arg(identity)), target)
}

#[test]
fn trial_signs_one_keyring_for_all_regions_and_a_revocation_leaves_each_readable_alone() {
    let site = Site::new();
    assert_eq!(keyrings(&site, 0).len(), 1);
    assert_eq!(keyrings(&site, 0), keyrings(&site, 1));
    let daemon = site.start();
    let journal = write(&site.database, 60);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    let doctor = site.agent(&["doctor"]);
    doctor.says(&["the same in every region", "2 recovery identities"]);
    let listed = site.tool(&["keys", "list", "--json"]).ok().json();
    let recipients = listed["recipients"].as_array().unwrap();
    let escrow = recipients.iter().find(|entry| entry["name"] == "escrow");
    let escrow = escrow.unwrap()["key"].as_str().unwrap().to_owned();
    let root = format!("{}.root", site.identity.display());
    let words = ["keys", "revoke", &escrow[..8], "--reason", "trial"];
    site.tool(&[&words[..], &["--root", &root, "--yes"]].concat())
        .ok();
    site.agent(&["config", "reload"])
        .ok()
        .says(&["region-a: keyring version 2", "region-b: keyring version 2"]);
    site.agent(&["doctor"])
        .says(&["only one recovery identity"]);
    daemon.terminate();
    assert_eq!(keyrings(&site, 0).len(), 2);
    assert_eq!(keyrings(&site, 0), keyrings(&site, 1));
    for region in 0..2 {
        let restored = site.restore_latest(region);
        let k = assert_committed_prefix(&restored.path);
        assert_eq!(k, journal.last().unwrap().n);
    }
    site.tool(&["verify"]).ok();
}

#[test]
fn keyrings_that_differ_between_regions_are_told_and_init_builds_on_none_of_them() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    // Versions that were signed while the other region was away.
    let root = format!("{}.root", site.identity.display());
    let listed = site.tool(&["keys", "list", "--json"]).ok().json();
    let any = listed["recipients"][0]["recipient"]
        .as_str()
        .unwrap()
        .to_owned();
    for region in 0..2 {
        let file = site.path(&format!("drill-{region}"));
        let mut new = site.command("tidemark-restore");
        new.args(["keys", "new", "--json", "--repository", &any, "--out"]);
        let made = Ran::of(new.arg(&file)).ok().json();
        let word = made["recipient"].as_str().unwrap();
        let enrol = ["keys", "enrol", "--recipient", word, "--root", &root];
        site.tool_on(&[&site.regions[region]], &enrol).ok();
    }
    daemon.terminate();
    let before = [keyrings(&site, 0), keyrings(&site, 1)];
    assert_ne!(before[0], before[1]);
    let daemon = site.start();
    write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    site.agent(&["config", "reload"]).ok();
    eventually("the agent tells", SOON, || {
        site.status()
            .alerts()
            .contains(&"TM1211".to_owned())
            .then_some(())
    });
    daemon.terminate();
    site.agent(&["doctor"])
        .ends_with(2)
        .says(&["from version 2 on", "explain TM1211"]);
    site.tool(&["verify", "--quick"])
        .ends_with(13)
        .says(&["meta/keyring/00000002"]);
    // Another host of the same trial.
    let identity = site.identity.display().to_string();
    let config = site.path("another.toml");
    let mut init = site.command("tidemark-agent");
    init.arg("init").arg("--sqlite").arg(&site.database);
    for region in &site.regions {
        init.args(["--region", region]);
    }
    init.args(["--identity", &identity])
        .arg("--config")
        .arg(&config);
    Ran::of(&mut init)
        .ends_with(12)
        .says(&["from version 2 on", "TM1211"]);
    assert!(!config.exists());
    assert_eq!([keyrings(&site, 0), keyrings(&site, 1)], before);
    for region in 0..2 {
        assert_eq!(
            assert_committed_prefix(&site.restore_latest(region).path),
            40
        );
    }
}

#[test]
fn init_that_fails_leaves_no_key_files_and_the_next_one_makes_them() {
    let mut site = Site::plan();
    create(&site.database);
    let identity = site.identity.display().to_string();
    // The second region's parent is a file.
    let good = std::mem::replace(
        &mut site.regions[1],
        format!("dir:{}/x", site.database.display()),
    );
    let ran = site.init_with(&["--identity", &identity]);
    assert_ne!(ran.code, 0, "{ran}");
    for file in [
        &identity,
        &format!("{identity}.escrow"),
        &format!("{identity}.root"),
    ] {
        assert!(!Path::new(file).exists(), "{file}");
    }
    assert!(!site.config.exists());
    site.regions[1] = good;
    site.init();
    assert_eq!(keyrings(&site, 0), keyrings(&site, 1));
}

#[test]
fn recipient_that_is_added_later_opens_what_is_written_from_then_on_and_can_be_revoked_alone() {
    let (site, keys) = production();
    enrol(&site, &keys);
    write(&site.database, 200);
    let daemon = site.start();
    write(&site.database, 60);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    let before = site.status().log_through("region-a").unwrap();
    // GIVEN an identity of a drill host, made there and signed by the root.
    let drill = site.path("drill.key");
    let mut new = site.command("tidemark-restore");
    new.args([
        "keys",
        "new",
        "--json",
        "--repository",
        &keys.recipients[1],
        "--out",
    ]);
    let made = Ran::of(new.arg(&drill)).ok().json();
    let word = made["recipient"].as_str().unwrap().to_owned();
    let root = keys.root();
    let signed = ["--root", root.to_str().unwrap()];
    let enrol = ["keys", "enrol", "--recipient", &word, "--name", "drill"];
    site.tool(&[&enrol[..], &signed[..]].concat())
        .ok()
        .says(&["New sessions are sealed to drill"]);
    // WHEN the agent has adopted it and written on.
    site.agent(&["config", "reload"])
        .ok()
        .says(&["keyring version 2", "3 recipients"]);
    for _ in 0..4 {
        write(&site.database, 60);
        site.agent(&["snapshot"]).ok();
    }
    site.agent(&["snapshot", "--base"]).ok();
    let after = write(&site.database, 10);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    // THEN it opens what was written since, from each region alone, and nothing from before.
    for region in 0..2 {
        let (ran, target) = restore_with(&site, &drill, region, "latest");
        ran.ok();
        assert_eq!(assert_committed_prefix(&target), after.last().unwrap().n);
    }
    let (ran, target) = restore_with(&site, &drill, 0, &format!("log:1:{before}"));
    ran.ends_with(12);
    assert!(!target.exists());
    // WHEN it is revoked, by the first digits of its key.
    let id = made["key"].as_str().unwrap();
    let revoke = [
        "keys",
        "revoke",
        &id[..10],
        "--reason",
        "drills end",
        "--yes",
    ];
    site.tool(&[&revoke[..], &signed[..]].concat()).ok();
    site.agent(&["config", "reload"])
        .ok()
        .says(&["keyring version 3", "2 recipients"]);
    let last = write(&site.database, 60);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.terminate();
    let (ran, _) = restore_with(&site, &drill, 0, "latest");
    ran.ends_with(12);
    let (ran, target) = restore_with(&site, &keys.escrow(), 1, "latest");
    ran.ok();
    assert_eq!(assert_committed_prefix(&target), last.last().unwrap().n);
}
