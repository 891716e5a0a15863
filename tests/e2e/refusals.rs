//! What is refused before anything is touched: each with its own exit code and words.

use std::path::Path;

use tidemark_tests::eventually;

use crate::custody::Keys;
use crate::objects::copy_folder;
use crate::process::{Ran, SOON, now};
use crate::site::Site;
use crate::writer::{assert_committed_prefix, create, write};

const USAGE: i32 = 2;
const NO_REPOSITORY: i32 = 10;
const REGION: i32 = 16;
const POLICY: i32 = 17;
const CONFIG: i32 = 78;

/// The line of the config that begins with `text`, from 1.
fn line_of(site: &Site, text: &str) -> String {
    let config = std::fs::read_to_string(&site.config).unwrap();
    let line = config
        .lines()
        .position(|line| line.starts_with(text))
        .unwrap();
    format!(":{}", line + 1)
}

#[test]
fn unknown_config_key_is_marked_with_its_line_by_every_command() {
    let site = Site::new();
    site.agent(&["config", "check"]).ok().says(&["is right"]);
    site.set("beat_every", "\"1s\"\nship_evry = \"1s\"");
    let line = line_of(&site, "ship_evry");
    for words in [
        &["config", "check"][..],
        &["run"],
        &["status"],
        &["snapshot"],
        &["doctor"],
    ] {
        let ran = site.agent(words).ends_with(CONFIG);
        ran.says(&["ship_evry", &line, "ship_every", "^"]);
    }
}

#[test]
fn impossible_values_and_contradictions_in_the_config_are_refused() {
    for (key, value, words) in [
        ("ship_every", "\"10ms\"", &["ship_every", "100ms"][..]),
        ("spool_max", "\"much\"", &["spool_max", "much"]),
        ("durable_in", "3", &["durable_in"]),
        (
            "recoverable_for",
            "\"89d\"",
            &["recoverable_for", "retain_max"],
        ),
        ("base_schedule", "\"61 * * * *\"", &["base_schedule", "61"]),
        ("ack", "\"regions\"", &["ack", "SQLite"]),
        ("rpo", "\"1s\"", &["rpo"]),
    ] {
        let site = Site::new();
        site.set(key, value);
        site.agent(&["config", "check"])
            .ends_with(CONFIG)
            .says(words);
        site.agent(&["run"]).ends_with(CONFIG).says(words);
    }
}

#[test]
fn region_outside_the_residency_list_keeps_the_agent_from_starting() {
    let site = Site::new();
    site.set("residency", "[\"DK\"]");
    let ran = site.agent(&["run"]);
    assert!([POLICY, CONFIG].contains(&ran.code), "{ran}");
    ran.says(&["region-a", "residency"]);
}

#[test]
fn missing_config_names_how_to_make_one() {
    let site = Site::plan();
    site.agent(&["run"]).ends_with(CONFIG).says(&["agent.toml"]);
    let mut bare = site.command("tidemark-agent");
    bare.current_dir(site.path("host"));
    if !Path::new("/etc/tidemark/agent.toml").exists() {
        Ran::of(bare.arg("status"))
            .ends_with(CONFIG)
            .says(&["init"]);
    }
}

#[test]
fn init_refuses_what_can_not_work_and_writes_nothing() {
    let mut site = Site::plan();
    let identity = site.identity.display().to_string();
    let words = ["--identity", identity.as_str()];
    site.init_with(&words).says(&["app.db"]);
    assert!(!site.config.exists() && !site.identity.exists());
    create(&site.database);
    site.init_with(&[]).ends_with(USAGE).says(&["keys new"]);
    site.init_with(&["--recipient", "tmr1nonsense"])
        .ends_with(USAGE);
    let regions = std::mem::take(&mut site.regions);
    site.init_with(&words).ends_with(USAGE).says(&["--region"]);
    site.regions = vec!["s3://bucket/p?endpoint=http://127.0.0.1:1&region=x".to_owned()];
    site.init_with(&words)
        .ends_with(USAGE)
        .says(&["insecure=1"]);
    site.regions = vec!["s3://bucket/p?endpoint=http://127.0.0.1:1&region=x&insecure=1".to_owned()];
    site.environment("AWS_ACCESS_KEY_ID", "x");
    site.environment("AWS_SECRET_ACCESS_KEY", "x");
    site.init_with(&words).ends_with(REGION);
    assert!(!site.config.exists());
    site.regions = vec![regions[0].clone(), regions[0].clone()];
    let twice = site.init_with(&words);
    assert!([USAGE, CONFIG].contains(&twice.code), "{twice}");
    assert!(!site.config.exists());
    site.regions = regions;
    site.init_with(&words).ok();
    let again = site.init_with(&words);
    assert_ne!(again.code, 0, "the same source twice: {again}");
}

#[test]
fn agent_starts_with_one_region_away_and_catches_up_when_it_comes() {
    let site = Site::new();
    let (region, hidden) = (site.region_folder(0), site.path("hidden"));
    std::fs::rename(&region, &hidden).unwrap();
    let mut daemon = site.start();
    let journal = write(&site.database, 60);
    site.wait_shipped_to(1, now());
    let status = site.agent(&["status"]);
    assert!(status.code == 1 || status.code == 2, "{status}");
    let status = status.says(&["region-a"]);
    assert!(status.out.contains("can't be read"), "{status}");
    std::fs::rename(&hidden, &region).unwrap();
    site.wait_shipped();
    daemon.assert_running();
    daemon.terminate();
    let k = assert_committed_prefix(&site.restore_latest(0).path);
    assert_eq!(k, journal.last().unwrap().n);
}

#[test]
fn agent_whose_only_regions_are_all_away_at_its_first_start_says_so_and_begins_when_one_comes() {
    let site = Site::new();
    let hidden: Vec<_> = (0..2)
        .map(|n| (site.region_folder(n), site.fresh("hidden")))
        .collect();
    for (region, hidden) in &hidden {
        std::fs::rename(region, hidden).unwrap();
    }
    let mut daemon = site.launch();
    let says = |daemon: &crate::process::Daemon| daemon.log().contains("region");
    eventually("it says that no region can be reached", SOON, || {
        says(&daemon).then_some(())
    });
    let status = site.agent(&["status"]);
    assert!(status.code == 2 || status.code == 3, "{status}");
    if let Some(code) = daemon.ended() {
        // systemd starts it again every two seconds.
        assert_eq!(code, REGION, "{}", daemon.log());
    }
    for (region, hidden) in &hidden {
        std::fs::rename(hidden, region).unwrap();
    }
    if daemon.ended().is_some() {
        daemon = site.start();
    }
    let journal = write(&site.database, 30);
    site.wait_shipped();
    daemon.terminate();
    let k = assert_committed_prefix(&site.restore_latest(0).path);
    assert_eq!(k, journal.last().unwrap().n);
}

#[test]
fn restore_never_overwrites_and_refuses_a_stray_log_beside_the_target() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    daemon.terminate();
    let restore = |target: &Path| {
        let mut command = site.restore_command(&[&site.regions[0]], target);
        Ran::of(command.args(["--to", "latest"]))
    };
    let taken = site.path("taken.db");
    std::fs::write(&taken, "mine").unwrap();
    restore(&taken).ends_with(USAGE).says(&["never overwrites"]);
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "mine");
    for suffix in ["-wal", "-shm", "-journal"] {
        let target = site.path(&format!("stray{suffix}.db"));
        let stray = site.path(&format!("stray{suffix}.db{suffix}"));
        std::fs::write(&stray, "theirs").unwrap();
        restore(&target).ends_with(USAGE).says(&[suffix]);
        assert!(!target.exists() && stray.exists());
    }
    restore(&site.path("no/such/folder/x.db"))
        .ends_with(USAGE)
        .says(&["folder"]);
}

#[test]
fn commands_without_a_repository_a_region_or_an_identity_say_which_is_missing() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    daemon.terminate();
    let empty = site.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let url = format!("dir:{}", empty.display());
    let elsewhere = format!("dir:{}", site.path("nowhere").display());
    let target = site.path("x.db");
    for words in [&["list"][..], &["status"], &["verify", "--quick"]] {
        let mut command = site.command("tidemark-restore");
        let ran = Ran::of(command.args(words).args(["--region", &url]));
        assert!(
            ran.code == NO_REPOSITORY || words[0] == "status" && ran.code == 3,
            "{ran}"
        );
        let mut command = site.command("tidemark-restore");
        let ran = Ran::of(command.args(words).args(["--region", &elsewhere]));
        assert!(
            ran.code == REGION || words[0] == "status" && ran.code == 3,
            "{ran}"
        );
        let mut command = site.command("tidemark-restore");
        let ran = Ran::of(command.args(words));
        assert!(
            ran.code == USAGE || words[0] == "status" && ran.code == 3,
            "{ran}"
        );
    }
    let mut command = site.restore_command(&[&url], &target);
    Ran::of(command.args(["--to", "latest"])).ends_with(NO_REPOSITORY);
    let mut command = site.restore_command(&[&elsewhere], &target);
    Ran::of(command.args(["--to", "latest"])).ends_with(REGION);
    let keys = Keys::new(&site, "vault");
    assert!(keys.identity.exists());
    let mut again = site.command("tidemark-restore");
    Ran::of(again.args(["keys", "new", "--out"]).arg(&keys.identity)).ends_with(USAGE);
}

#[test]
fn identity_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    daemon.terminate();
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&site.identity, open).unwrap();
    site.restore(&[&site.regions[0]], &["--to", "latest"])
        .refused(12, &["chmod"]);
}

#[test]
fn region_of_another_repository_is_not_written_to_and_not_mixed_in() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    daemon.terminate();
    let other = Site::new();
    std::fs::remove_dir_all(other.region_folder(0)).unwrap();
    copy_folder(&site.region_folder(0), &other.region_folder(0));
    let before = crate::objects::keys(&other.region_folder(0), "");
    let daemon = other.start();
    eventually("the agent says whose region it is", SOON, || {
        let alerts = other.status().0["daemon"]["alerts"].to_string();
        alerts.contains("belongs to repository").then_some(())
    });
    let status = other.agent(&["status"]);
    assert_ne!(status.code, 0, "{status}");
    drop(daemon);
    assert_eq!(
        crate::objects::keys(&other.region_folder(0), ""),
        before,
        "it was written to"
    );
    let mixed = site.restore(&[&site.regions[0], &other.regions[1]], &["--to", "latest"]);
    if mixed.ran.code == 3 {
        assert!(mixed.exceptions().contains("region-b"), "{}", mixed.ran);
        assert_eq!(assert_committed_prefix(&mixed.path), 20);
    } else {
        mixed.refused(USAGE, &["repository"]);
    }
}
