//! What a drill is told: whose key, which state, which words, which scratch. What means nothing is refused at
//! the door, with words and without a record; what was chosen lies within what the key opens.

use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::{SignedDuration, Timestamp};

use crate::custody::Keys;
use crate::drill::{EXCEPTIONS, FAILED, PASSED, drill, protected};
use crate::drill_defects::check;
use crate::objects::{copy_folder, objects};
use crate::process::{Ran, is_root, now, skip};
use crate::site::Site;
use crate::writer;

const USAGE: i32 = 2;
const KEY: i32 = 12;

/// Everything that is kept of what was done: records in the regions, and what waits or is noted here.
fn kept(site: &Site) -> Vec<String> {
    let mut all = Vec::new();
    for region in 0..site.regions.len() {
        let records = objects(&site.region_folder(region), "meta/evidence/");
        all.extend(records.into_keys().map(|key| format!("{region}: {key}")));
    }
    let here = objects(&site.path("state-home/tidemark"), "");
    all.extend(here.into_keys().filter(|key| !key.ends_with("lock")));
    all
}

/// A command of the restore tool with this identity, on these regions.
fn with(site: &Site, identity: &Path, regions: &[String], words: &[&str]) -> Ran {
    let mut command = site.command("tidemark-restore");
    command.args(words);
    for region in regions {
        command.args(["--region", region]);
    }
    Ran::of(command.arg("--identity").arg(identity))
}

#[test]
fn an_identity_of_another_repository_is_refused_at_the_door_and_a_swapped_keyring_is_not_called_that()
 {
    let site = protected();
    let elsewhere = protected();
    let stranger = Keys::new(&site, "elsewhere").identity;
    let target = site.path("restored").display().to_string();
    let drill_words = ["drill", "run", "--allow-source-host", "--json"];
    let restore = ["restore", "--to", "latest", "--target", target.as_str()];
    let before = kept(&site);
    // GIVEN an identity of another repository: one that nobody has begun, one that is in use
    for identity in [&stranger, &elsewhere.identity] {
        for words in [
            &drill_words[..],
            &restore,
            &["plan", "--to", "latest", "--target", target.as_str()],
            &["verify"],
        ] {
            // WHEN it is given, THEN it is the wrong file, and nothing else
            let ran = with(&site, identity, &site.regions, words).ends_with(KEY);
            let file = identity.display().to_string();
            ran.says(&[
                "belongs to repository",
                "what is there (region-a, region-b)",
                &file,
                "--identity",
            ]);
        }
    }
    // AND nothing is on record or waits
    assert_eq!(kept(&site), before);
    assert!(!Path::new(&target).exists());
    // GIVEN the keyring of another repository in the place of ours, in every region
    let own = site.fresh("own-keyring");
    for region in 0..site.regions.len() {
        let place = site.region_folder(region).join("meta/keyring");
        std::fs::rename(&place, own.with_extension(region.to_string())).unwrap();
        copy_folder(&elsewhere.region_folder(0).join("meta/keyring"), &place);
    }
    // WHEN our identity is used, THEN that is told as what it is, and a drill's record says so
    let ran = drill(&site, &[]).ends_with(FAILED);
    let cause = ran.json()["causes"][0]
        .as_str()
        .expect("a cause")
        .to_owned();
    assert!(
        cause.starts_with("chain") && cause.contains("not by the root"),
        "{cause}"
    );
    assert!(!cause.contains("belongs to repository"), "{cause}");
    let ran = with(&site, &site.identity, &site.regions, &restore);
    ran.ends_with(KEY)
        .says(&["can't be trusted", "not by the root"]);
    // AND with the marker swapped, too: the claims of the sources still say whose it is
    for region in 0..site.regions.len() {
        let marker = elsewhere.region_folder(0).join("meta/region");
        std::fs::copy(marker, site.region_folder(region).join("meta/region")).unwrap();
    }
    with(&site, &site.identity, &site.regions, &restore)
        .ends_with(KEY)
        .says(&["not by the root"]);
}

/// Enrols another identity, and has the agent seal to it from then on.
fn enrolled_late(site: &Site) -> PathBuf {
    let listed = site.tool(&["keys", "list", "--json"]).ok().json();
    let any = listed["recipients"][0]["recipient"]
        .as_str()
        .expect("a key")
        .to_owned();
    let late = site.path("late");
    let mut new = site.command("tidemark-restore");
    new.args(["keys", "new", "--json", "--repository", &any, "--out"]);
    let made = Ran::of(new.arg(&late)).ok().json();
    let word = made["recipient"].as_str().expect("a public key").to_owned();
    let root = format!("{}.root", site.identity.display());
    let enrol = [
        "keys",
        "enrol",
        "--recipient",
        &word,
        "--name",
        "late",
        "--root",
        &root,
    ];
    site.tool(&enrol).ok();
    late
}

#[test]
fn an_identity_that_was_enrolled_late_is_drilled_with_what_it_opens() {
    let site = Site::new();
    let daemon = site.start();
    for _ in 0..3 {
        writer::write(&site.database, 25);
        site.agent(&["snapshot"]).ok();
    }
    site.wait_shipped();
    let late = enrolled_late(&site);
    site.agent(&["config", "reload"]).ok();
    for _ in 0..2 {
        writer::write(&site.database, 25);
        site.agent(&["snapshot", "--base"]).ok();
    }
    let opens_from = now();
    for _ in 0..3 {
        writer::write(&site.database, 25);
        site.agent(&["snapshot"]).ok();
    }
    site.wait_shipped();
    daemon.terminate();
    let run = ["drill", "run", "--allow-source-host", "--json", "--select"];
    let reached = |identity: &Path, select: &str| -> (Ran, Timestamp) {
        let ran = with(
            &site,
            identity,
            &site.regions,
            &[&run[..], &[select]].concat(),
        );
        assert!([PASSED, EXCEPTIONS].contains(&ran.code), "{select}: {ran}");
        let report = ran.json();
        assert_eq!(report["rung"], "logical", "{select}: {ran}");
        let reached = report["reached_at"].as_str().expect("an instant");
        let reached = reached.parse().expect("an instant");
        (ran, reached)
    };
    // GIVEN one that opens everything: the oldest state is one that the late one doesn't open
    let (_, oldest) = reached(&site.identity, "oldest");
    // WHEN the late one chooses, THEN only of what it opens, and says what it left out
    for select in ["oldest", "random", "worst-replay"] {
        let (ran, chosen) = reached(&late, select);
        assert!(chosen > oldest, "{select}: {chosen} is not after {oldest}");
        assert!(chosen <= now() && opens_from > oldest, "{select}");
        let notes = ran.json()["notes"].to_string();
        assert!(
            notes.contains("within what this identity opens"),
            "{select}: {notes}"
        );
    }
    // AND an instant that somebody names is told to be closed, not replaced by another
    let oldest = oldest.to_string();
    let words = [&run[..], &[oldest.as_str()]].concat();
    let ran = with(&site, &late, &site.regions, &words).ends_with(FAILED);
    assert!(
        ran.json()["causes"][0].to_string().contains("decrypt"),
        "{ran}"
    );
}

/// `command` on a machine that is not the source's.
fn elsewhere(site: &Site, command: &Command) -> Ran {
    let id = site.path("machine-id");
    std::fs::write(&id, "0123456789abcdef0123456789abcdef\n").unwrap();
    let bind = "mount --bind \"$0\" /etc/machine-id && exec \"$@\"";
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "sh", "-c", bind]).arg(&id);
    outer.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    Ran::of(
        outer
            .current_dir(site.path(""))
            .stdin(std::process::Stdio::null()),
    )
}

#[test]
fn a_fresh_host_is_one_without_a_config_and_the_named_remedy_makes_it_one() {
    if !is_root() {
        skip("only root can give a command a machine-id of its own");
        return;
    }
    let site = protected();
    let drill_there = |words: &[&str]| {
        let mut command = site.command("tidemark-restore");
        command.args(["drill", "run", "--json", "--scenario", "fresh-host"]);
        for region in &site.regions {
            command.args(["--region", region]);
        }
        command.arg("--identity").arg(&site.identity).args(words);
        elsewhere(&site, &command)
    };
    // GIVEN another host that has a config already
    std::fs::write(site.path("restore.toml"), "threads = 1\n").unwrap();
    let ran = drill_there(&[]).ends_with(EXCEPTIONS);
    let exceptions = ran.json()["exceptions"].to_string();
    assert!(
        exceptions.contains("a config file of this host was read"),
        "{ran}"
    );
    assert!(exceptions.contains("--config /dev/null"), "{ran}");
    assert!(
        !exceptions.contains("the host that the source runs on"),
        "{ran}"
    );
    // WHEN the remedy is followed, THEN it is a fresh host's
    let ran = drill_there(&["--config", "/dev/null"]).ends_with(PASSED);
    assert_eq!(ran.json()["rung"], "scenario", "{ran}");
    // AND on the source's own host the other half is named
    let own = drill(
        &site,
        &["--scenario", "fresh-host", "--config", "/dev/null"],
    );
    let exceptions = own.ends_with(EXCEPTIONS).json()["exceptions"].to_string();
    assert!(
        exceptions.contains("the host that the source runs on"),
        "{exceptions}"
    );
    assert!(!exceptions.contains("--config"), "{exceptions}");
}

#[test]
fn by_hand_a_drill_asks_what_the_config_asks_of_its_source_and_no_other() {
    let site = protected();
    let config = |tolerance: &str| {
        format!(
            "[[drill]]\nname = \"nightly\"\nsource = \"app\"\nschedule = \"0 3 * * *\"\n\
             [[drill.assert]]\nid = \"rows\"\nsql = \"SELECT count(*) FROM ledger\"\nexpect = 95\n{tolerance}\
             [[drill.assert]]\nid = \"few\"\nsql = \"SELECT count(*) FROM ledger\"\nat_least = 1\n\
             [[drill]]\nname = \"other\"\nsource = \"crm\"\nschedule = \"0 3 * * *\"\n\
             [[drill.assert]]\nid = \"of-another\"\nsql = \"SELECT count(*) FROM no_such_table\"\nexpect = 1\n"
        )
    };
    let asked = |tolerance: &str| {
        std::fs::write(site.path("restore.toml"), config(tolerance)).unwrap();
        drill(&site, &["--source", "app"])
    };
    // GIVEN 100 rows where 95 are expected: within the tolerance
    let ran = asked("tolerance = \"10%\"\n").ends_with(PASSED);
    let report = ran.json();
    for id in ["assertion.rows", "assertion.few"] {
        assert_eq!(check(&report, id)["status"], "passed", "{ran}");
    }
    assert!(!report.to_string().contains("of-another"), "{ran}");
    assert!(
        report["notes"]
            .to_string()
            .contains("2 assertions of the config"),
        "{ran}"
    );
    // GIVEN none: the drill fails, by hand as on its schedule
    let ran = asked("").ends_with(FAILED);
    assert_eq!(
        check(&ran.json(), "assertion.rows")["status"],
        "failed",
        "{ran}"
    );
    assert!(
        ran.json()["causes"][0].to_string().contains("rows"),
        "{ran}"
    );
}

#[test]
fn what_means_nothing_is_refused_with_words_and_no_record_of_a_drill_that_never_was() {
    let site = protected();
    let drills = || -> usize {
        let listed = site.tool(&["evidence", "list", "--kind", "drills", "--json"]);
        let records = listed.json()["records"].as_array().map(Vec::len);
        records.unwrap_or_default()
    };
    let to_come = now() + SignedDuration::from_hours(1);
    let before_all = "2001-01-01T00:00:00Z";
    for (words, said) in [
        (
            ["--select".to_owned(), to_come.to_string()],
            "no drill was made",
        ),
        (
            ["--select".to_owned(), "log:1:99999".to_owned()],
            "no drill was made",
        ),
        (
            ["--select".to_owned(), "log:77:1".to_owned()],
            "no drill was made",
        ),
        (
            ["--select".to_owned(), "newest-ish".to_owned()],
            "is not a time",
        ),
        (
            ["--scenario".to_owned(), format!("as-of={to_come}")],
            "still to come",
        ),
        (
            ["--scenario".to_owned(), format!("as-of={before_all}")],
            "choose a later instant",
        ),
        (
            ["--scenario".to_owned(), "as-of=some-day".to_owned()],
            "is not a time",
        ),
        (
            ["--scenario".to_owned(), "as-off".to_owned()],
            "is no scenario",
        ),
    ] {
        let words = [words[0].as_str(), words[1].as_str()];
        let ran = drill(&site, &words).ends_with(USAGE).says(&[said]);
        assert!(!ran.out.contains("\"verdict\""), "{ran}");
        assert_eq!(drills(), 0, "{words:?}");
    }
    // An instant that is past and was never kept is no mistyped one: the promised window isn't there.
    drill(&site, &["--select", before_all]).ends_with(FAILED);
    assert_eq!(drills(), 1);
}
