//! Production custody: keys are made elsewhere, the database's host gets public words only, and what
//! it holds neither reads nor destroys the history.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::process::{Ran, SOON};
use crate::site::Site;
use crate::writer::{assert_committed_prefix, create, write};

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

#[test]
fn agent_that_is_not_enrolled_yet_says_so_and_protects_once_it_is() {
    let (site, keys) = production();
    let mut early = site.launch();
    tidemark_tests::eventually("the agent says what it waits for", SOON, || {
        early.log().contains("keys enrol").then_some(())
    });
    // systemd starts it again until somebody has signed; here we do.
    early.kill();
    let target = site.fresh("restored");
    let mut refused = site.restore_command(&[&site.regions[0]], &target);
    let refused = Ran::of(refused.args(["--to", "latest"]));
    assert!(refused.code != 0 && !target.exists(), "{refused}");
    enrol(&site, &keys);
    let daemon = site.start();
    let journal = write(&site.database, 60);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.terminate();
    let k = assert_committed_prefix(&site.restore_latest(0).path);
    assert_eq!(k, journal.last().unwrap().n);
}

#[test]
fn revoked_agents_objects_are_refused_from_the_revocation_on() {
    let (site, keys) = production();
    enrol(&site, &keys);
    let daemon = site.start();
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
    write(&site.database, 60);
    drop(daemon);
    // A thief with the key goes on signing; nothing of it is handed over unsaid.
    let thief = site.start();
    crate::process::pass(std::time::Duration::from_secs(3));
    drop(thief);
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
    let ran = Ran::of(command.arg(&target).arg("--identity").arg(&other.identity));
    assert!([10, 12].contains(&ran.code), "{ran}");
    assert!(ran.err.contains("root"), "{ran}");
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
