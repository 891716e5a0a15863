//! `policy check` over real repositories: what is on record decides each clause, and an auditor can read
//! why.

use std::time::Duration;

use serde_json::Value;
use tidemark_tests::eventually;

use crate::process::{Ran, SOON};
use crate::site::Site;
use crate::writer::write;

/// Judges a policy, which is to end with `code`.
#[track_caller]
pub(crate) fn check(site: &Site, policy: &str, code: i32) -> Value {
    let ran = site.tool(&["policy", "check", "--policy", policy, "--json"]);
    let json = ran.ends_with(code).json();
    assert_eq!(json["schema"], "tidemark-restore.policy-check");
    assert_eq!(json["version"], 1);
    json
}

/// A clause of the only source.
#[track_caller]
pub(crate) fn clause<'a>(checked: &'a Value, id: &str) -> &'a Value {
    let clauses = checked["sources"][0]["clauses"]
        .as_array()
        .expect("clauses");
    let found = clauses.iter().find(|clause| clause["id"] == id);
    found.unwrap_or_else(|| panic!("no clause {id}: {checked}"))
}

/// The clause stands so, and what was found and is to be done holds each of `words`.
#[track_caller]
pub(crate) fn stands(checked: &Value, id: &str, verdict: &str, words: &[&str]) {
    let clause = clause(checked, id);
    assert_eq!(clause["verdict"], verdict, "{clause}");
    let text = clause.to_string();
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

/// A protected database with something in it, and its agent stopped again.
fn protected() -> Site {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 50);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.terminate();
    site
}

/// Writes a policy of one's own and gives its path.
pub(crate) fn own(site: &Site, clauses: &[&str]) -> String {
    let mut text = "name = \"own\"\ntitle = \"Our own\"\n".to_owned();
    for (number, clause) in clauses.iter().enumerate() {
        text.push_str(&format!(
            "[[clause]]\nid = \"c{number}\"\ntitle = \"Clause\"\nwords = \"We do that.\"\n{clause}\n"
        ));
    }
    let path = site.fresh("policy.toml");
    std::fs::write(&path, text).expect("a policy is written");
    path.display().to_string()
}

#[test]
fn published_policies_are_judged_clause_by_clause_without_an_identity() {
    let site = protected();
    let tasklexa = check(&site, "tasklexa", 17);
    stands(
        &tasklexa,
        "rpo",
        "NOT_YET",
        &["of 3 d", "longest exposure", "RPO) of 5 minutes"],
    );
    stands(
        &tasklexa,
        "legal-maximum",
        "NOT_PROVED",
        &["declared nowhere", "meta/"],
    );
    stands(&tasklexa, "rto", "NOT_PROVED", &["no drill"]);
    stands(&tasklexa, "regions", "FAIL", &["one device are one place"]);
    stands(
        &tasklexa,
        "least-privilege",
        "FAIL",
        &["region-a", "probed", "point:1/"],
    );
    let loadster = check(&site, "loadster", 3);
    stands(&loadster, "hot-standby", "NOT_PROVED", &["standby"]);
    stands(&loadster, "daily-snapshots", "NOT_YET", &["of 30 d"]);
    stands(&loadster, "loss", "NOT_YET", &["of at most 1 d"]);
    stands(
        &loadster,
        "in-transit",
        "NOT_PROVED",
        &[
            "encrypted before it leaves",
            "a directory",
            "no connection with TLS",
        ],
    );
    stands(
        &loadster,
        "at-rest",
        "NOT_PROVED",
        &["the database itself", "AES-256-GCM", "data/session/"],
    );
    let xaasware = check(&site, "xaasware", 17);
    stands(
        &xaasware,
        "any-instant",
        "NOT_PROVED",
        &["no drill has measured"],
    );
    stands(&xaasware, "deletion", "NOT_PROVED", &["deletes nothing"]);
    // A person reads the same, and needs no key for it.
    let mut bare = site.command("tidemark-restore");
    bare.args([
        "policy",
        "check",
        "--policy",
        "soc2",
        "--region",
        &site.regions[0],
    ]);
    Ran::of(&mut bare).ends_with(17).says(&[
        "app: 11 clauses",
        "“Service data is encrypted-at-rest.”",
        "NOT YET  Restored to non-production at least annually",
        "FAIL  Least privilege",
        "basis  probed",
        "next ",
    ]);
}

#[test]
fn an_own_policy_holds_until_the_agent_dies_and_remembers_that_it_did() {
    let site = protected();
    let daemon = site.start();
    let holds = own(
        &site,
        &[
            "kind = \"rpo\"\nwithin = \"1h\"\nover = \"2s\"",
            "kind = \"kept-at-most\"\nwithin = \"1d\"",
            "kind = \"snapshots\"\nevery = \"1h\"\nover = \"2s\"",
            "kind = \"full-backups\"\nevery = \"1d\"\nover = \"2s\"",
            "kind = \"encrypted-at-rest\"",
        ],
    );
    eventually("the history is two seconds old", SOON, || {
        let ran = site.tool(&["policy", "check", "--policy", &holds]);
        (ran.code == 0).then_some(())
    });
    let kept = own(&site, &["kind = \"kept-at-most\"\nwithin = \"1s\""]);
    let checked = check(&site, &kept, 17);
    stands(&checked, "c0", "FAIL", &["older than 1 s"]);
    // WHEN the agent is gone for longer than is promised
    daemon.terminate();
    let strict = own(&site, &["kind = \"rpo\"\nwithin = \"4s\"\nover = \"1h\""]);
    // On a slow machine there may have been a longer one before: this one lasts until it is the longest.
    let lasting = eventually("the exposure is longer than four seconds", SOON, || {
        let ran = site.tool(&["policy", "check", "--policy", &strict, "--json"]);
        (ran.code == 17 && ran.out.contains("it lasts")).then(|| ran.json())
    });
    stands(
        &lasting,
        "c0",
        "FAIL",
        &["nothing new was safe in any region", "it lasts"],
    );
    // THEN the window remembers it although the agent is back
    let daemon = site.start();
    write(&site.database, 5);
    site.wait_shipped();
    let over = check(&site, &strict, 17);
    stands(&over, "c0", "FAIL", &["it is over"]);
    daemon.terminate();
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
fn keys_are_reviewed_and_people_and_places_are_declared() {
    let site = protected();
    let root = format!("{}.root", site.identity.display());
    site.tool(&["keys", "list", "--for-review"])
        .ok()
        .says(&["goes on record"]);
    site.tool(&["keys", "enrol", "--all", "--root", &root]).ok();
    let soc2 = check(&site, "soc2", 17);
    stands(
        &soc2,
        "access-review",
        "NOT_PROVED",
        &["nobody has signed it off"],
    );
    stands(
        &soc2,
        "removal-of-access",
        "NOT_PROVED",
        &["nobody's access was removed"],
    );
    let listed = site
        .tool(&["evidence", "list", "--kind", "access", "--json"])
        .ok()
        .json();
    let records = listed["records"].as_array().expect("records");
    let record = records
        .iter()
        .find(|record| record["action"] == "keys-list");
    let id = record.expect("the list is on record")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let review = [
        "--reviewer",
        "Ann",
        "--ticket",
        "T-1",
        "--decision",
        "approved",
    ];
    let words = [&["evidence", "sign-off", &id][..], &review].concat();
    site.tool(&words).ok();
    let soc2 = check(&site, "soc2", 17);
    stands(&soc2, "access-review", "PASS", &["reviewed by Ann", &id]);
    // AND what the config declares is called that
    let keys = site.tool(&["keys", "list", "--json"]).ok().json();
    let holders = keys["recipients"].as_array().expect("recipients");
    let names: Vec<&str> = holders
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    let judged = |people: &[&str], country: &str| {
        let mut text = format!("[objectives]\npeople = {people:?}\nmachines = [\"nobody\"]\n");
        for (region, name) in site.regions.iter().zip(["a", "b"]) {
            text.push_str(&format!(
                "[[region]]\nname = \"{name}\"\nurl = \"{region}\"\ncountry = \"{country}\"\n"
            ));
        }
        let config = site.fresh("restore.toml");
        std::fs::write(&config, text).expect("a config is written");
        let mut command = site.command("tidemark-restore");
        command
            .args([
                "policy", "check", "--policy", "heretask", "--json", "--config",
            ])
            .arg(&config);
        let ran = Ran::of(&mut command);
        (ran.code, ran.json())
    };
    let (code, danish) = judged(&names, "DK");
    assert_eq!(code, 3, "{danish}");
    stands(
        &danish,
        "denmark",
        "PASS",
        &["by its label alone", "declared", "restore.toml"],
    );
    stands(
        &danish,
        "denmark-probed",
        "NOT_PROVED",
        &["labels alone are not proof"],
    );
    stands(&danish, "named-people", "PASS", &["can decrypt"]);
    stands(&danish, "access-log", "PASS", &["tool-recorded"]);
    stands(
        &danish,
        "monthly-test",
        "NOT_YET",
        &["no drill that counts yet"],
    );
    let (code, swedish) = judged(&["Nobody"], "SE");
    assert_eq!(code, 17, "{swedish}");
    stands(
        &swedish,
        "denmark",
        "FAIL",
        &["a is in SE", "only DK is allowed"],
    );
    stands(&swedish, "named-people", "FAIL", &["keys revoke"]);
}

#[test]
fn a_policy_that_can_not_be_used_is_refused_with_its_place() {
    let site = protected();
    let wrong = own(
        &site,
        &["kind = \"rpo\"\nwithin = \"5m\"\nover = \"3d\"\nwithn = \"5m\""],
    );
    site.tool(&["policy", "check", "--policy", &wrong])
        .ends_with(78)
        .says(&[
            "unknown key `withn`",
            ":10:1",
            "^^^^^",
            "did you mean within?",
        ]);
    site.tool(&["policy", "check", "--policy", "sox"])
        .ends_with(2)
        .says(&["tasklexa, heretask, soc2, loadster, xaasware"]);
    site.tool(&["policy", "check"])
        .ends_with(2)
        .says(&["nothing is promised"]);
}

#[test]
fn an_objective_at_risk_is_told_before_and_when_it_breaks() {
    use std::io::{Read as _, Write as _};
    let site = Site::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    site.set("metrics", &format!("\"127.0.0.1:{port}\""));
    site.set("rpo", "\"8s\"");
    let daemon = site.start();
    write(&site.database, 5);
    site.wait_shipped();
    let at_risk = || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        let ask = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(ask).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let line = text
            .lines()
            .find(|line| line.starts_with("tidemark_objective_at_risk{"))?;
        assert!(
            line.contains("source=\"app\"") && line.contains("objective=\"rpo\""),
            "{line}"
        );
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    eventually("nothing is at risk", SOON, || {
        (at_risk() == Some(0.0)).then_some(())
    });
    // WHEN both regions are away
    let away = |number: usize| site.region_folder(number).with_extension("away");
    for number in [0, 1] {
        std::fs::rename(site.region_folder(number), away(number)).unwrap();
    }
    write(&site.database, 5);
    // THEN it is told before the promise is broken, and when it is
    let alerted = |code: &str| {
        eventually(code, Duration::from_secs(60), || {
            site.status()
                .alerts()
                .contains(&code.to_owned())
                .then_some(())
        });
    };
    alerted("TM1702");
    assert_eq!(at_risk(), Some(1.0));
    alerted("TM1703");
    let log = daemon.log();
    let risk = log.find("TM1702").expect("an event of the risk");
    assert!(
        log.find("TM1703").is_some_and(|broken| risk < broken),
        "{log}"
    );
    // AND it ends by itself
    for number in [0, 1] {
        std::fs::rename(away(number), site.region_folder(number)).unwrap();
    }
    eventually(
        "nothing is at risk any more",
        Duration::from_secs(60),
        || (at_risk() == Some(0.0)).then_some(()),
    );
    daemon.terminate();
}
