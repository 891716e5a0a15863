//! Policies over real records: agent, recovery points, drills of the shipped program, and what an auditor
//! then reads of each clause of the published policies: held with its proof, or broken with its cause.
//!
//! The agent runs as on a host of its own (another machine-id), so that drills here are segregated.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tidemark_testkit::s3::S3Server;
use tidemark_tests::{eventually, read};

use crate::objects::{flip, objects};
use crate::policy::{check, clause, own, stands};
use crate::process::{Daemon, Ran, SOON, Timed, is_root, now, pass, skip};
use crate::s3::{Bucket, Cloud};
use crate::site::Site;
use crate::writer::{open, write};

const DAY: Duration = Duration::from_secs(86_400);
/// The published policies.
const PRESETS: [&str; 5] = ["tasklexa", "heretask", "soc2", "loadster", "xaasware"];
/// Clauses about a time that this history is younger than.
const YOUNG: [(&str, &str); 5] = [
    ("tasklexa", "rpo"),
    ("soc2", "full-backups"),
    ("loadster", "daily-snapshots"),
    ("loadster", "loss"),
    ("xaasware", "any-instant"),
];
/// Clauses whose feature comes later, and those that there is nothing to judge of.
const LATER: [(&str, &str); 8] = [
    ("heretask", "removal-of-access"),
    ("soc2", "removal-of-access"),
    ("loadster", "at-rest"),
    ("heretask", "denmark-probed"),
    ("soc2", "alerting"),
    ("soc2", "disposal"),
    ("loadster", "hot-standby"),
    ("xaasware", "deletion"),
];
/// Clauses that drills prove: each names the record.
const DRILLED: [(&str, &str); 9] = [
    ("tasklexa", "rto"),
    ("heretask", "monthly-test"),
    ("soc2", "restore-test"),
    ("soc2", "dr-plan"),
    ("soc2", "production-data"),
    ("xaasware", "any-instant"),
    ("xaasware", "dr-tests"),
    ("xaasware", "major-disaster"),
    ("xaasware", "return"),
];

/// The site's agent as it would run on another machine.
pub(crate) fn start_elsewhere(site: &Site) -> Daemon {
    let id = site.path("machine-id");
    std::fs::write(&id, "0123456789abcdef0123456789abcdef\n").expect("a machine-id");
    let agent = site.command("tidemark-agent");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg("mount --bind \"$0\" /etc/machine-id && exec \"$@\"");
    command.arg(&id).arg(agent.get_program());
    command.arg("run").arg("--config").arg(&site.config);
    command.current_dir(site.path(""));
    for (name, value) in agent.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut daemon = Daemon::start(&mut command, &site.fresh("agent-log"));
    let socket = site.state().join("control.sock");
    eventually("the daemon listens", SOON, || {
        daemon.assert_running();
        std::os::unix::net::UnixStream::connect(&socket).ok()
    });
    daemon
}

/// Runs a command of the restore tool by a config.
fn by(site: &Site, config: &Path, words: &[&str]) -> Ran {
    let mut command = site.command("tidemark-restore");
    command.args(words).arg("--config").arg(config);
    Ran::of(&mut command)
}

/// Judges a published policy over as short a time as this history has, but for its first moments: long
/// enough that the drill is in it, however long the command takes to begin.
#[track_caller]
fn in_short(site: &Site, config: &Path, preset: &str, began: Timestamp) -> Value {
    let what = format!("the history is longer than what {preset} asks for");
    eventually(&what, SOON, || {
        let over = Duration::try_from(now().duration_since(began)).ok()?;
        let checked = judged(site, config, &shortened(site, preset, over));
        let young = checked.to_string().contains("NOT_YET");
        (!young).then_some(checked)
    })
}

/// Judges a policy by a config.
#[track_caller]
fn judged(site: &Site, config: &Path, policy: &str) -> Value {
    let ran = by(
        site,
        config,
        &["policy", "check", "--policy", policy, "--json"],
    );
    assert!([0, 3, 17].contains(&ran.code), "{ran}");
    ran.json()
}

/// A copy of a published policy that looks back no further than a moment, and for instants as far as `over`.
fn shortened(site: &Site, preset: &str, over: Duration) -> String {
    let text = read(format!("config/policies/{preset}.toml"));
    let mut kind = String::new();
    let lines = text.lines().map(|line| {
        if let Some(word) = line.strip_prefix("kind = ") {
            kind = word.trim_matches('"').to_owned();
        }
        match kind.as_str() {
            _ if !line.starts_with("over = ") => line.to_owned(),
            "rpo" | "full-backups" | "snapshots" => "over = \"1s\"".to_owned(),
            "pitr" => format!("over = \"{}ms\"", over.as_millis()),
            _ => line.to_owned(),
        }
    });
    let text: Vec<String> = lines.collect();
    let path = site.fresh("policy.toml");
    std::fs::write(&path, text.join("\n")).expect("a policy is written");
    path.display().to_string()
}

/// One drill by a config; the id of its record.
#[track_caller]
fn drill(site: &Site, config: &Path, words: &[&str]) -> String {
    let own = ["drill", "run", "--json"];
    let ran = by(site, config, &[&own, words].concat()).ok();
    let report = ran.json();
    assert_eq!(report["verdict"], "PASS", "{ran}");
    let segregated = &report["environment"]["segregated_from_source"]["value"];
    assert_eq!(segregated, true, "{ran}");
    report["evidence_id"].as_str().expect("an id").to_owned()
}

#[track_caller]
fn sign_off(site: &Site, config: &Path, id: &str, decision: &str) {
    let words = ["evidence", "sign-off", id, "--reviewer", "Ann"];
    let more = ["--ticket", "T-7", "--decision", decision];
    by(site, config, &[&words[..], &more].concat()).ok();
}

/// The record of the list of keys that waits for a review.
#[track_caller]
fn key_list(site: &Site, config: &Path) -> String {
    by(site, config, &["keys", "list", "--for-review"]).ok();
    let words = ["evidence", "list", "--kind", "access", "--json"];
    let listed = by(site, config, &words).json();
    let records = listed["records"].as_array().expect("records");
    let own = |record: &&Value| record["action"] == "keys-list";
    let newest = records.iter().rfind(own).expect("the list is on record");
    newest["id"].as_str().expect("an id").to_owned()
}

/// A restore host's config: regions with what a person declares of them.
fn config(site: &Site, regions: &[(&str, &str, &str)], objectives: &str) -> std::path::PathBuf {
    let mut text = format!(
        "identity = \"{}\"\nstate_dir = \"{}\"\n[objectives]\n{objectives}\n",
        site.identity.display(),
        site.path("state-home/tidemark").display()
    );
    for (name, url, country) in regions {
        text.push_str(&format!(
            "[[region]]\nname = \"{name}\"\nurl = \"{url}\"\ncountry = \"{country}\"\nfailure_domain = \"{name}\"\n"
        ));
    }
    let path = site.fresh("restore.toml");
    std::fs::write(&path, text).expect("a config is written");
    path
}

/// The names of who can decrypt.
fn holders(site: &Site, config: &Path) -> Vec<String> {
    let keys = by(site, config, &["keys", "list", "--json"]).ok().json();
    let holders = keys["recipients"].as_array().expect("recipients");
    let names = holders.iter().filter_map(|one| one["name"].as_str());
    names.map(str::to_owned).collect()
}

/// Protects a database with canaries for a moment; when there was something to restore, and an instant
/// between two writes.
fn protect(site: &Site) -> (Timestamp, String) {
    site.set("canary", "\"table\"");
    site.set("canary_every", "\"1s\"");
    let agent = start_elsewhere(site);
    write(&site.database, 30);
    site.agent(&["snapshot", "--base"]).ok();
    let began = now();
    let canaries = || -> i64 {
        let asked = open(&site.database);
        let asked = asked.query_row("SELECT max(seq) FROM tidemark_canary", [], |row| row.get(0));
        asked.unwrap_or_default()
    };
    eventually("canaries are written", SOON, || {
        (canaries() > 1).then_some(())
    });
    let between = now();
    pass(Duration::from_millis(1200));
    write(&site.database, 30);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    agent.terminate();
    (began, between.to_string())
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
fn every_clause_that_can_be_decided_passes_by_real_records_and_fails_by_real_means() {
    let _timed = Timed::start();
    if !is_root() {
        skip("only root lets an agent have a machine-id of its own");
        return;
    }
    let Some(server) = S3Server::shared() else {
        return;
    };
    // GIVEN a database in two buckets that keep versions, reached over TLS, and in a third that does
    // neither; and an agent on a host of its own
    let buckets = [
        Bucket::new(server, true),
        Bucket::new(server, true),
        Bucket::new(server, false),
    ];
    let (tls, plain) = (
        server.https_endpoint(),
        format!("{}&insecure=1", server.endpoint()),
    );
    let cloud = Cloud::new(&[
        (&buckets[0], tls.clone()),
        (&buckets[1], tls.clone()),
        (&buckets[2], plain),
    ]);
    let site = &cloud.site;
    let (began, between) = protect(site);
    let urls: Vec<String> = buckets
        .iter()
        .map(|bucket| bucket.url(&tls, "restore"))
        .collect();
    let good = [("a", urls[0].as_str(), "DK"), ("b", urls[1].as_str(), "DK")];
    let bare = config(site, &good, "kept_at_most = \"90d\"");
    let names = holders(site, &bare);
    assert_eq!(names.len(), 2, "{names:?}");
    let promised = format!("people = {names:?}\nkept_at_most = \"90d\"");
    let host = config(site, &good, &promised);
    // Nothing was drilled or reviewed yet.
    let before = judged(site, &host, "soc2");
    stands(&before, "access-review", "NOT_PROVED", &["no review"]);
    stands(
        &before,
        "restore-test",
        "NOT_YET",
        &["no drill that counts"],
    );
    // WHEN drills have run, somebody has looked at them, and at who has access
    let drilled = [
        drill(site, &host, &["--select", &between, "--precision", "1m"]),
        drill(site, &host, &["--scenario", "without-region=a"]),
    ];
    let root = cloud.keys.root().display().to_string();
    by(site, &host, &["keys", "enrol", "--all", "--root", &root]).ok();
    sign_off(site, &host, &drilled[1], "approved");
    let review = key_list(site, &host);
    sign_off(site, &host, &review, "approved");
    // THEN every clause of every policy is decided, and each that a drill proves names its record
    for preset in PRESETS {
        let young = judged(site, &host, preset);
        let checked = in_short(site, &host, preset, began);
        for one in checked["sources"][0]["clauses"]
            .as_array()
            .expect("clauses")
        {
            let id = one["id"].as_str().expect("an id");
            let verdict = if LATER.contains(&(preset, id)) {
                "NOT_PROVED"
            } else {
                "PASS"
            };
            assert_eq!(one["verdict"], verdict, "{preset}: {one}");
            assert_ne!(one["measured"], "", "{preset}: {one}");
            let as_published = clause(&young, id);
            let verdict = if YOUNG.contains(&(preset, id)) {
                "NOT_YET"
            } else {
                verdict
            };
            assert_eq!(as_published["verdict"], verdict, "{preset}: {as_published}");
            if DRILLED.contains(&(preset, id)) {
                let proof = one["proof"].to_string();
                let named = drilled.iter().any(|id| proof.contains(id));
                assert!(named, "{preset}: {one}");
            }
        }
    }
    let xaasware = judged(site, &host, "xaasware");
    stands(
        &xaasware,
        "any-instant",
        "NOT_YET",
        &["measured", &drilled[0]],
    );
    stands(&xaasware, "unseen", "PASS", &["probed", "was destroyed"]);
    let tasklexa = judged(site, &host, "tasklexa");
    stands(
        &tasklexa,
        "least-privilege",
        "PASS",
        &["probed", "2 regions"],
    );
    stands(&tasklexa, "regions", "PASS", &["declared", "restore.toml"]);
    // AND a third bucket, in which a stolen key could overwrite and to which the agent goes unencrypted,
    // is found by what the agent signed, although this host goes there over TLS
    let three = [good[0], good[1], ("c", urls[2].as_str(), "SE")];
    let wider = config(site, &three, &promised);
    let tasklexa = judged(site, &wider, "tasklexa");
    let words = ["overwrite what is in c", "config/iam/agent-policy.json"];
    stands(&tasklexa, "least-privilege", "FAIL", &words);
    let heretask = judged(site, &wider, "heretask");
    stands(&heretask, "in-transit", "FAIL", &["plain http leads to c"]);
    stands(&heretask, "denmark", "FAIL", &["c is in SE"]);
    // AND a region that is missing, a person too many, a review that was rejected, a time that drills don't
    // keep, drills further apart than promised, and what is kept too long
    let alone = config(site, &good[..1], "people = [\"Ann\"]");
    let tasklexa = judged(site, &alone, "tasklexa");
    stands(&tasklexa, "regions", "FAIL", &["1 place of at least 2"]);
    stands(
        &tasklexa,
        "legal-maximum",
        "NOT_PROVED",
        &["declared nowhere"],
    );
    let heretask = judged(site, &alone, "heretask");
    stands(
        &heretask,
        "named-people",
        "FAIL",
        &[&names[0], "keys revoke"],
    );
    let strict = own(
        site,
        &[
            "kind = \"rto\"\nwithin = \"1ms\"\nover = \"1h\"",
            "kind = \"drill\"\nevery = \"10ms\"\nover = \"1h\"",
            "kind = \"kept-at-most\"\nwithin = \"1s\"",
            "kind = \"named-people\"\npeople_max = 1",
            "kind = \"pitr\"\nwithin = \"1ms\"\nover = \"1h\"",
        ],
    );
    let checked = judged(site, &host, &strict);
    stands(&checked, "c0", "FAIL", &["at most 1 ms", &drilled[1]]);
    stands(
        &checked,
        "c1",
        "FAIL",
        &["no drill that counts in", &drilled[1]],
    );
    stands(&checked, "c2", "FAIL", &["older than 1 s", "meta/"]);
    stands(
        &checked,
        "c3",
        "FAIL",
        &["2 people can decrypt, of at most 1"],
    );
    stands(&checked, "c4", "FAIL", &["more than 1 ms"]);
    let again = key_list(site, &host);
    sign_off(site, &host, &again, "rejected");
    let soc2 = judged(site, &host, "soc2");
    stands(&soc2, "access-review", "FAIL", &["was rejected", &again]);
    assert_eq!(by(site, &host, &["evidence", "verify"]).code, 0);
}

/// The daemon of drills tells of a promise that is at risk before it is broken, and `status` what is proved
/// and promised.
fn promises_are_watched(site: &Site, began: Timestamp) {
    let metrics = site.path("drills.prom");
    let config = site.path("watched.toml");
    let promise = |kept: Duration| {
        let text = format!(
            "identity = \"{}\"\nstate_dir = \"{}\"\n[objectives]\nrto = \"1h\"\ndrill_every = \"30d\"\n\
             kept_at_most = \"{}ms\"\n[[region]]\nname = \"a\"\nurl = \"{}\"\n\
             [drills]\nlook_every = \"1s\"\nmetrics_file = \"{}\"\n\
             [[drill]]\nname = \"yearly\"\nsource = \"app\"\nschedule = \"0 0 1 1 *\"\n",
            site.identity.display(),
            site.path("state-home/tidemark").display(),
            kept.as_millis(),
            site.regions[0],
            metrics.display(),
        );
        std::fs::write(&config, text).expect("a config is written");
    };
    let at_risk = |value: u8| {
        let of = "{source=\"app\",objective=\"kept_at_most\"}";
        let line = format!("tidemark_drill_objective_at_risk{of} {value}");
        eventually(&line, SOON, || {
            let text = std::fs::read_to_string(&metrics).ok()?;
            text.lines().any(|one| one == line).then_some(())
        });
    };
    promise(DAY);
    let mut command = site.command("tidemark-restore");
    command.args(["run", "--config"]).arg(&config);
    let daemon = Daemon::start(&mut command, &site.fresh("watch-log"));
    at_risk(0);
    assert!(!daemon.log().contains("TM170"), "{}", daemon.log());
    let status = by(site, &config, &["status"]);
    for words in ["yes, ", "RTO 1 h", "a drill every 30 d"] {
        assert!(status.out.contains(words), "no {words:?}: {status}");
    }
    // How old the oldest object is goes on growing: what is promised follows it until it was seen.
    for (share, code) in [(1.12, "TM1702"), (0.5, "TM1703")] {
        eventually(code, SOON, || {
            let age = Duration::try_from(now().duration_since(began)).ok()?;
            promise(age.mul_f64(share));
            daemon.signal("HUP");
            let told = || {
                pass(Duration::from_millis(50));
                daemon.log().contains(code)
            };
            (0..30).any(|_| told()).then_some(())
        });
        at_risk(1);
    }
    let log = daemon.log();
    assert!(
        log.contains("is promised of app: the oldest object is"),
        "{log}"
    );
    promise(DAY);
    daemon.signal("HUP");
    at_risk(0);
    daemon.terminate();
}

#[test]
fn a_drill_that_failed_or_ran_beside_its_source_proves_nothing_and_is_named() {
    let _timed = Timed::start();
    if !is_root() {
        skip("only root lets an agent have a machine-id of its own");
        return;
    }
    let site = Site::new();
    let began = now();
    let agent = start_elsewhere(&site);
    write(&site.database, 30);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    agent.terminate();
    let root = format!("{}.root", site.identity.display());
    site.tool(&["drill", "run"]).ok();
    site.tool(&["keys", "enrol", "--all", "--root", &root]).ok();
    let every = "kind = \"drill\"\nevery = \"1h\"\nover = \"1h\"";
    let mine = own(
        &site,
        &[every, "kind = \"rto\"\nwithin = \"1h\"\nover = \"1h\""],
    );
    check(&site, &mine, 0);
    promises_are_watched(&site, began);
    // WHEN every copy of a pack is damaged, and a drill finds it
    for number in [0, 1] {
        let packs = objects(&site.region_folder(number), "data/pack/");
        flip(packs.into_values().next().expect("a pack").as_path());
    }
    let failed = site.tool(&["drill", "run", "--json"]).ends_with(18).json();
    let id = failed["evidence_id"].as_str().expect("an id");
    // THEN the newest drill is what counts for the time to be back, and what handing back rests on
    let checked = check(&site, &mine, 17);
    stands(
        &checked,
        "c0",
        "FAIL",
        &[
            "the newest drill",
            "failed: ciphertext",
            "1 drill before it passed",
        ],
    );
    let show = format!("evidence show {id}");
    stands(&checked, "c1", "FAIL", &["failed: ciphertext", id, &show]);
    let xaasware = check(&site, "xaasware", 17);
    stands(&xaasware, "return", "FAIL", &["failed", &show]);
    // AND of a source whose only drill ran on its own host nothing is proved
    let other = Site::new();
    let agent = other.start();
    write(&other.database, 5);
    other.agent(&["snapshot"]).ok();
    other.wait_shipped();
    agent.terminate();
    crate::drill::drill(&other, &[]).ok();
    let root = format!("{}.root", other.identity.display());
    other
        .tool(&["keys", "enrol", "--all", "--root", &root])
        .ok();
    let soc2 = check(&other, "soc2", 17);
    let beside = ["ran on the source's own host"];
    stands(&soc2, "restore-test", "NOT_YET", &beside);
    stands(&soc2, "production-data", "NOT_PROVED", &beside);
    let xaasware = check(&other, "xaasware", 17);
    stands(&xaasware, "dr-tests", "NOT_YET", &beside);
}
