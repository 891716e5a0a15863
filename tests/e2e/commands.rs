//! The agent's other commands, and those of the restore tool that need no disaster.

use std::time::Duration;

use tidemark_tests::{eventually, throughout};

use crate::process::{Daemon, Ran, SOON, Timed, command, now, pass};
use crate::site::Site;
use crate::writer::{Habits, Writer, assert_committed_prefix, write};

const PROGRAMS: [&str; 2] = ["tidemark-agent", "tidemark-restore"];

#[test]
fn pause_keeps_changes_in_the_spool_and_resume_ships_them() {
    let site = Site::new();
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    site.agent(&["pause", "--for", "10m"]).ends_with(2);
    site.agent(&["pause", "--for", "10m", "--reason", "migration"])
        .ok();
    assert_eq!(site.status().state().as_deref(), Some("paused"));
    let through = || site.status().log_through("region-a");
    let before = through();
    write(&site.database, 40);
    throughout("nothing is shipped", Duration::from_secs(2), || {
        through() == before
    });
    site.agent(&["resume"]).ok();
    site.wait_shipped();
    assert!(through() > before);
    site.agent(&["pause", "--for", "2s", "--reason", "short"])
        .ok();
    write(&site.database, 40);
    // It goes on by itself.
    site.wait_shipped();
    daemon.terminate();
    assert_eq!(assert_committed_prefix(&site.restore_latest(0).path), 80);
    site.agent(&["resume"])
        .ends_with(1)
        .says(&["no agent runs"]);
}

#[test]
fn agent_that_is_stopped_by_a_signal_is_named_and_loses_nothing_once_it_goes_on() {
    let site = Site::new();
    let writer = Writer::start(&site.database, &Habits::default());
    let mut daemon = site.start();
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.signal("STOP");
    let stopped = now();
    let pid = daemon.pid().to_string();
    for command in ["status", "doctor"] {
        let told = site.agent(&[command]).ends_with(2).says(&[
            "does not answer",
            &pid,
            "systemctl restart",
        ]);
        // It would wait for ever for an answer.
        assert!(told.took < SOON, "{told}");
    }
    site.agent(&["snapshot"])
        .ends_with(1)
        .says(&["does not answer"]);
    eventually("the application goes on meanwhile", SOON, || {
        let journal = writer.journal();
        let last = journal.last().map(|commit| commit.n)?;
        (last > crate::writer::finished_by(&journal, stopped) + 200).then_some(())
    });
    daemon.signal("CONT");
    site.agent(&["snapshot"]).ok();
    let journal = writer.stop();
    site.wait_shipped();
    daemon.assert_running();
    site.wait_well();
    daemon.terminate();
    for region in 0..2 {
        let k = assert_committed_prefix(&site.restore_latest(region).path);
        assert_eq!(k, journal.last().unwrap().n);
    }
}

#[test]
fn region_that_missed_a_base_gets_a_complete_one_by_itself_and_restores_alone() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 30);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    let (region, hidden) = (site.region_folder(1), site.fresh("hidden"));
    std::fs::rename(&region, &hidden).unwrap();
    write(&site.database, 30);
    // Durable as asked for, with an exception that a script hears of.
    let sealed = site.agent(&["snapshot", "--base"]).ends_with(3);
    sealed.says(&["durable in region-a; not yet in region-b", "doesn't answer"]);
    let sealed = site.agent(&["snapshot", "--json"]).ends_with(3).json();
    assert_eq!(sealed["points"][0]["away"][0], "region-b");
    std::fs::rename(&hidden, &region).unwrap();
    let named = |status: &crate::status::Status| status.point("region-a");
    write(&site.database, 30);
    // Nobody asks for it.
    eventually(
        "region-b has the newest recovery points again",
        SOON * 4,
        || {
            let status = site.status();
            let (a, b) = (named(&status)?, status.point("region-b")?);
            (b == a).then_some(())
        },
    );
    site.wait_shipped();
    site.wait_well();
    daemon.terminate();
    let restored = site.restore_latest(1);
    assert_eq!(assert_committed_prefix(&restored.path), 90);
    assert_eq!(restored.report()["sealed"], true);
}

#[test]
fn region_whose_folder_is_missing_says_how_to_make_it() {
    let site = Site::new();
    let folder = site.path("third");
    let text = std::fs::read_to_string(&site.config).unwrap();
    let third = format!(
        "[[region]]\nname = \"third\"\nurl = \"dir:{}\"\n\n[[source]]",
        folder.display()
    );
    std::fs::write(&site.config, text.replacen("[[source]]", &third, 1)).unwrap();
    let daemon = site.start();
    let make = format!("mkdir -p {}", folder.display());
    eventually("the agent says how", SOON, || {
        daemon.log().contains(&make).then_some(())
    });
    site.agent(&["doctor"]).ends_with(2).says(&["third", &make]);
    let typed = std::process::Command::new("sh")
        .args(["-c", &make])
        .status();
    assert!(typed.unwrap().success());
    write(&site.database, 30);
    site.wait_shipped_to(3, now());
    daemon.terminate();
    let url = format!("dir:{}", folder.display());
    let restored = site.restore(&[&url], &["--to", "latest"]).ok();
    assert_eq!(assert_committed_prefix(&restored.path), 30);
}

#[test]
fn snapshot_returns_when_the_point_is_durable_with_and_without_a_daemon() {
    let site = Site::new();
    site.set("ship_every", "\"1h\"");
    site.set("snapshot_every", "\"1h\"");
    write(&site.database, 30);
    let once = site.agent(&["snapshot", "--json"]).ok().json();
    let places = once["points"][0]["durable_in"]
        .as_array()
        .map_or(0, Vec::len);
    // Two folders of one disk are one failure domain: one of them is as durable as it gets.
    assert!(places >= 1, "{once}");
    assert_eq!(assert_committed_prefix(&site.restore_latest(0).path), 30);
    let daemon = site.start();
    write(&site.database, 30);
    eventually("the daemon answers", SOON, || site.status().state());
    let sealed = site.agent(&["snapshot", "--json"]).ok().json();
    assert!(
        sealed["points"][0]["seq"].as_u64() > once["points"][0]["seq"].as_u64(),
        "{sealed}"
    );
    for region in 0..2 {
        assert_eq!(
            assert_committed_prefix(&site.restore_latest(region).path),
            60
        );
    }
    let bases = || crate::objects::keys(&site.region_folder(0), "meta/base/").len();
    let before = bases();
    site.agent(&["snapshot", "--base"]).ok();
    assert_eq!(bases(), before + 1);
    daemon.terminate();
    assert_eq!(assert_committed_prefix(&site.restore_latest(1).path), 60);
}

#[test]
fn retire_asks_seals_a_last_point_and_leaves_the_history_restorable() {
    let site = Site::new();
    let mut daemon = site.start();
    site.agent(&["snapshot"]).ok();
    write(&site.database, 30);
    site.agent(&["retire"]).ends_with(2).says(&["--yes"]);
    site.agent(&["retire", "--yes"]).ok();
    // It was the only source. Ending now would only make the service manager start it again.
    let says_so = |daemon: &mut Daemon| {
        let status = site.status();
        daemon.assert_running();
        (status.state().as_deref() == Some("retired")).then_some(())
    };
    eventually("it is retired", SOON, || says_so(&mut daemon));
    write(&site.database, 30);
    pass(Duration::from_secs(1));
    daemon.assert_running();
    daemon.terminate();
    let mut again = site.start();
    eventually("it is still retired", SOON, || says_so(&mut again));
    site.agent(&["snapshot"]).ends_with(1);
    again.assert_running();
    again.terminate();
    for region in 0..2 {
        let restored = site.restore_latest(region);
        assert_eq!(assert_committed_prefix(&restored.path), 30);
        assert_eq!(restored.report()["sealed"], true);
    }
}

#[test]
fn status_tells_the_same_from_storage_with_the_daemon_alive_and_dead() {
    let site = Site::new();
    let before = site.agent(&["status"]);
    assert_ne!(before.code, 0, "{before}");
    let mut daemon = site.start();
    write(&site.database, 30);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    let well = eventually("all is well", SOON, || {
        let ran = site.agent(&["status"]);
        (ran.code == 0).then_some(ran)
    });
    well.says(&["HEALTHY", "region-a", "region-b", "nothing to do"]);
    daemon.kill();
    let dead = site
        .agent(&["status"])
        .ends_with(2)
        .says(&["not running", "Recoverable"]);
    assert!(dead.out.contains("region-a"), "{dead}");
    let tool = site.tool(&["status", "--json"]);
    assert!(tool.code <= 3, "{tool}");
    assert_eq!(tool.json()["schema"], "tidemark-restore.status");
}

#[test]
fn doctor_checks_all_that_protection_needs_and_names_remedies() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    let ran = site.agent(&["doctor"]);
    assert!(ran.code <= 1, "{ran}");
    let json = site.agent(&["doctor", "--json"]).json();
    assert_eq!(json["schema"], "tidemark-agent.doctor");
    daemon.terminate();
    std::fs::rename(site.region_folder(0), site.path("hidden")).unwrap();
    let ran = site.agent(&["doctor"]);
    assert!(ran.code == 1 || ran.code == 2, "{ran}");
    ran.says(&["region-a", "→"]);
}

#[test]
fn config_show_prints_every_key_and_reads_back() {
    let site = Site::new();
    let shown = site.agent(&["config", "show"]).ok();
    for key in [
        "ship_every = \"200ms\"",
        "wal_max",
        "spool_max",
        "recipients",
        "[[region]]",
    ] {
        assert!(shown.out.contains(key), "{key}: {shown}");
    }
    let copy = site.path("shown.toml");
    std::fs::write(&copy, &shown.out).unwrap();
    let mut check = site.command("tidemark-agent");
    Ran::of(check.args(["config", "check"]).arg(&copy)).ok();
    let tool = site.path("restore.toml");
    std::fs::write(&tool, "regionn = 1\n").unwrap();
    let mut check = site.command("tidemark-restore");
    Ran::of(check.args(["config", "check"]).arg(&tool))
        .ends_with(78)
        .says(&["regionn", ":1"]);
}

#[test]
fn explain_knows_every_code_and_completions_and_man_pages_are_written() {
    let _timed = Timed::start();
    for program in PROGRAMS {
        let run = |words: &[&str]| Ran::of(command(program).args(words));
        let all = run(&["explain"]).ok();
        for exit in [0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 17, 18, 78] {
            run(&["explain", &exit.to_string()])
                .ok()
                .says(&["exit code"]);
        }
        for word in all
            .out
            .split_whitespace()
            .filter(|word| word.starts_with("TM"))
        {
            run(&["explain", word])
                .ok()
                .says(&["What it means", "What to do"]);
        }
        run(&["explain", "TM9999"]).ends_with(2);
        for shell in ["bash", "zsh", "fish"] {
            run(&["completions", shell]).ok().says(&[program]);
        }
        let folder = tempfile::tempdir().unwrap();
        let pages = folder.path().join("man1");
        run(&["man", pages.to_str().unwrap()]).ok();
        let names: Vec<String> = std::fs::read_dir(&pages)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(names.contains(&format!("{program}.1")), "{names:?}");
        assert!(names.len() > 5, "{names:?}");
        run(&["no-such-command"]).ends_with(2);
        run(&["--version"]).ok().says(&["0.1.0"]);
    }
}

#[test]
fn errors_under_json_are_one_object_with_code_and_exit() {
    let site = Site::plan();
    let ran = site.agent(&["status", "--json"]).ends_with(78);
    let last = ran.err.lines().last().expect("an error");
    let error: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(error["schema"], "tidemark-agent.error");
    assert_eq!(error["exit"], 78);
    let empty = site.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let mut list = site.command("tidemark-restore");
    let ran = Ran::of(list.args([
        "list",
        "--json",
        "--region",
        &format!("dir:{}", empty.display()),
    ]));
    let ran = ran.ends_with(10);
    let last = ran.err.lines().last().expect("an error");
    let error: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(error["exit"], 10, "{ran}");
}

#[test]
fn bases_come_on_their_schedule_and_restores_start_from_the_newest() {
    let site = Site::new();
    site.set("base_schedule", "\"*/2 * * * * *\"");
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    let bases = || crate::objects::keys(&site.region_folder(1), "meta/base/").len();
    let before = bases();
    for _ in 0..3 {
        write(&site.database, 20);
        let more = bases();
        eventually("the schedule makes a base", SOON, || {
            (bases() > more).then_some(())
        });
    }
    assert!(bases() >= before + 3);
    site.wait_shipped_to(2, now());
    daemon.terminate();
    let restored = site.restore_latest(1);
    assert_eq!(assert_committed_prefix(&restored.path), 60);
}

#[test]
fn metrics_are_open_metrics_on_loopback() {
    use std::io::{Read as _, Write as _};
    let site = Site::new();
    // Below what the system takes for outgoing connections, and below the test servers' own.
    let mut ports = (0..2_000_u32).map(|step| 10_000 + (std::process::id() + step) % 2_000);
    let port = ports.find_map(|port| {
        let port = u16::try_from(port).ok()?;
        std::net::TcpListener::bind(("127.0.0.1", port)).ok()?;
        Some(port)
    });
    let port = port.expect("a free port");
    site.set("metrics", &format!("\"127.0.0.1:{port}\""));
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    let text = eventually("metrics are served", SOON, || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.contains("# EOF").then_some(text)
    });
    for word in [
        "application/openmetrics-text",
        "region=\"region-a\"",
        "source=\"app\"",
        "spool",
    ] {
        assert!(text.contains(word), "{word}:\n{text}");
    }
    daemon.terminate();
    site.set("metrics", "\"0.0.0.0:9187\"");
    site.agent(&["config", "check"])
        .ends_with(78)
        .says(&["loopback"]);
}

#[test]
fn region_whose_disk_is_not_mounted_is_told_as_that_and_not_as_one_that_nobody_enrolled() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 5);
    site.wait_shipped();
    daemon.terminate();
    // GIVEN a mount point without its disk
    let region = site.region_folder(1);
    let disk = site.path("disk");
    std::fs::rename(&region, &disk).unwrap();
    std::fs::create_dir(&region).unwrap();
    // THEN both programs say so, and nothing of keys
    for ran in [site.agent(&["status"]), site.tool(&["status"])] {
        assert!(ran.out.contains("mount"), "{ran}");
        assert!(!ran.out.contains("keys enrol"), "{ran}");
    }
    // AND once it is mounted all is well again
    std::fs::remove_dir(&region).unwrap();
    std::fs::rename(&disk, &region).unwrap();
    let ran = site.agent(&["status"]);
    assert!(!ran.out.contains("mount"), "{ran}");
}
