//! Two writers never interleave: exactly one goes on, the other ends with 11, and nothing that was
//! acknowledged is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_format::envelope::Kind;
use tidemark_tests::{eventually, throughout};

use crate::objects::{copy_folder, kind, objects, read};
use crate::process::{Daemon, SOON, now, pass};
use crate::site::{Agent, Site};
use crate::writer::{Habits, Writer, assert_committed_prefix, finished_by};

const FENCED: i32 = 11;
/// Long enough that an agent that is going to stop has stopped.
const A_WHILE: Duration = Duration::from_secs(3);

/// Whether two regions hold two different log objects under one name.
#[track_caller]
fn assert_no_name_holds_two_log_objects(site: &Site) {
    let mut seen: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for region in 0..site.regions.len() {
        for (key, path) in objects(&site.region_folder(region), "meta/log/") {
            let bytes = read(&path);
            if kind(&bytes) != Some(Kind::Log) {
                continue;
            }
            if let Some(other) = seen.insert(key.clone(), bytes.clone()) {
                assert!(other == bytes, "{key} is not the same in every region");
            }
        }
    }
    assert!(!seen.is_empty());
}

/// Exactly one ends, with 11; the other is returned.
#[track_caller]
fn assert_one_is_fenced(mut one: Daemon, mut other: Daemon) -> (Daemon, String) {
    eventually("one of two agents ends", SOON, || {
        (one.ended().is_some() || other.ended().is_some()).then_some(())
    });
    let (mut ended, mut running) = if one.ended().is_some() {
        (one, other)
    } else {
        (other, one)
    };
    assert_eq!(ended.ended(), Some(FENCED), "{}", ended.log());
    throughout("the other agent runs", A_WHILE, || {
        running.ended().is_none()
    });
    running.assert_running();
    let said = ended.log();
    (running, said)
}

/// The agent has shipped something of its own since it was started.
#[track_caller]
fn wait_protecting(site: &Site, agent: &Agent<'_>) {
    agent.run(&["snapshot"]).ok();
    site.wait_shipped();
}

#[test]
fn two_agents_started_together_on_a_new_source_leave_exactly_one() {
    for _ in 0..3 {
        let site = Site::new();
        let second = site.second_agent("second");
        let writer = Writer::start(&site.database, &Habits::default());
        let (running, said) = assert_one_is_fenced(site.launch(), second.launch());
        assert!(said.contains("take-over"), "{said}");
        site.wait_shipped();
        running.terminate();
        let journal = writer.stop();
        assert_no_name_holds_two_log_objects(&site);
        for region in 0..2 {
            let k = assert_committed_prefix(&site.restore_latest(region).path);
            assert!(k > 0 && k <= journal.last().unwrap().n);
        }
    }
}

#[test]
fn second_agent_on_a_protected_source_is_refused_and_told_whose_it_is() {
    let site = Site::new();
    let second = site.second_agent("second");
    let writer = Writer::start(&site.database, &Habits::default());
    let mut first = site.start();
    wait_protecting(&site, &site.first_agent());
    let mut late = second.launch();
    assert_eq!(late.wait(), FENCED, "{}", late.log());
    let said = late.log();
    assert!(
        said.contains("take-over") && said.contains("epoch 1"),
        "{said}"
    );
    second.run(&["snapshot"]).ends_with(FENCED);
    first.assert_running();
    site.wait_shipped();
    first.terminate();
    drop(writer);
    assert_no_name_holds_two_log_objects(&site);
}

#[test]
fn take_over_fences_the_old_agent_and_keeps_all_that_it_had_acknowledged() {
    let site = Site::new();
    let second = site.second_agent("second");
    let writer = Writer::start(
        &site.database,
        &Habits {
            per_second: 150,
            checkpoints: Some(7),
        },
    );
    let mut first = site.start();
    wait_protecting(&site, &site.first_agent());
    for _ in 0..3 {
        pass(Duration::from_millis(700));
        site.wait_shipped();
    }
    let before = site.status();
    let durable = ["region-a", "region-b"]
        .map(|name| before.safe_until(name))
        .into_iter()
        .min();
    let durable = durable
        .flatten()
        .expect("something is durable in both regions");
    let through = before
        .log_through("region-a")
        .min(before.log_through("region-b"))
        .unwrap();
    second.run(&["take-over"]).ends_with(2).says(&["--yes"]);
    second.run(&["take-over", "--yes"]).ok();
    assert_eq!(first.wait(), FENCED, "{}", first.log());
    let new = second.start();
    wait_protecting(&site, &second);
    assert_eq!(site.status().epoch("region-a"), Some(2));
    site.launch().wait_fenced();
    new.terminate();
    let journal = writer.stop();
    assert_no_name_holds_two_log_objects(&site);
    let promised = finished_by(&journal, durable);
    for region in 0..2 {
        let url = site.regions[region].as_str();
        let old = site
            .restore(&[url], &["--to", &format!("log:1:{through}")])
            .ok();
        let k = assert_committed_prefix(&old.path);
        assert!(
            k >= promised,
            "{promised} was acknowledged, {k} came back from region {region}"
        );
        let newest = site.restore_latest(region);
        assert_eq!(newest.report()["reached"]["epoch"], 2);
        assert!(assert_committed_prefix(&newest.path) >= k);
    }
}

#[test]
fn idle_agent_notices_a_take_over_by_itself_and_goes_on_with_its_other_source() {
    let site = Site::new();
    let second = site.second_agent("second");
    let other = site.path("host").join("other.db");
    crate::writer::create(&other);
    let add = ["init", "--sqlite", other.to_str().unwrap()];
    site.agent(&add).ok();
    let mut first = site.start();
    crate::writer::write(&site.database, 30);
    wait_protecting(&site, &site.first_agent());
    second.run(&["take-over", "--yes"]).ok();
    // Nothing is committed any more: nothing would be refused.
    eventually("the idle agent notices", SOON, || {
        (site.status().alerts() == ["TM1101"]).then_some(())
    });
    let said = site.agent(&["status"]).ends_with(2);
    let said = said.says(&["has taken app over", "epoch 2", "take-over --source app"]);
    assert!(said.out.contains("fenced"), "{said}");
    first.assert_running();
    site.agent(&["snapshot", "--source", "other"]).ok();
    // With every source taken it ends, so that somebody looks. Told to look, it does so at once.
    second.run(&add).ok();
    second
        .run(&["take-over", "--source", "other", "--yes"])
        .ok();
    first.signal("HUP");
    assert_eq!(first.wait(), FENCED, "{}", first.log());
    site.agent(&["status"])
        .ends_with(2)
        .says(&["has taken app over", "has taken other over"]);
    let new = second.start();
    crate::writer::write(&site.database, 30);
    wait_protecting(&site, &second);
    second.wait_well();
    new.terminate();
    assert_no_name_holds_two_log_objects(&site);
}

#[test]
fn cloned_machine_leaves_exactly_one_of_the_two_running() {
    for _ in 0..3 {
        let site = Site::new();
        let mut daemon = site.start();
        wait_protecting(&site, &site.first_agent());
        crate::writer::write(&site.database, 50);
        site.wait_shipped();
        daemon.kill();
        // The whole host is copied: database, config, state.
        let clone = site.path("clone");
        copy_folder(&site.path("host"), &clone);
        let moved = |file: &str| {
            let text = std::fs::read_to_string(clone.join(file)).unwrap();
            let (from, to) = (site.path("host"), clone.clone());
            let text = text.replace(from.to_str().unwrap(), to.to_str().unwrap());
            std::fs::write(clone.join(file), text).unwrap();
        };
        moved("agent.toml");
        let twin = Agent::at(&site, clone.join("agent.toml"));
        let writers = [
            Writer::start(&site.database, &Habits::default()),
            Writer::start(
                &clone.join("app.db"),
                &Habits {
                    per_second: 140,
                    checkpoints: Some(3),
                },
            ),
        ];
        let (running, said) = assert_one_is_fenced(site.launch(), twin.launch());
        assert!(said.contains("take-over"), "{said}");
        drop(running);
        drop(writers);
        assert_no_name_holds_two_log_objects(&site);
        for region in 0..2 {
            assert!(assert_committed_prefix(&site.restore_latest(region).path) >= 50);
        }
    }
}

#[test]
fn restored_old_state_is_refused_until_an_explicit_take_over() {
    let site = Site::new();
    let daemon = site.start();
    crate::writer::write(&site.database, 30);
    wait_protecting(&site, &site.first_agent());
    daemon.terminate();
    let old = site.path("old-state");
    copy_folder(&site.state(), &old);
    let daemon = site.start();
    crate::writer::write(&site.database, 30);
    site.wait_shipped();
    daemon.terminate();
    std::fs::remove_dir_all(site.state()).unwrap();
    copy_folder(&old, &site.state());
    let said = site.launch().wait_fenced();
    assert!(said.contains("take-over"), "{said}");
    for region in 0..2 {
        assert_eq!(
            assert_committed_prefix(&site.restore_latest(region).path),
            60
        );
    }
    site.agent(&["take-over", "--yes"]).ok();
    let daemon = site.start();
    crate::writer::write(&site.database, 30);
    wait_protecting(&site, &site.first_agent());
    daemon.terminate();
    for region in 0..2 {
        let newest = site.restore_latest(region);
        assert_eq!(assert_committed_prefix(&newest.path), 90);
        assert_eq!(newest.report()["reached"]["epoch"], 2);
    }
}

#[test]
fn lost_state_is_refused_until_an_explicit_take_over() {
    let site = Site::new();
    let daemon = site.start();
    crate::writer::write(&site.database, 30);
    wait_protecting(&site, &site.first_agent());
    daemon.terminate();
    for entry in std::fs::read_dir(site.state()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(&path).unwrap();
        } else if !path.to_str().unwrap().contains("key") {
            std::fs::remove_file(&path).unwrap();
        }
    }
    let said = site.launch().wait_fenced();
    assert!(said.contains("take-over"), "{said}");
    site.agent(&["take-over", "--yes"]).ok();
    let daemon = site.start();
    crate::writer::write(&site.database, 30);
    wait_protecting(&site, &site.first_agent());
    daemon.terminate();
    assert_eq!(assert_committed_prefix(&site.restore_latest(1).path), 60);
}

#[test]
fn second_process_on_one_state_directory_is_refused_and_the_first_goes_on() {
    let site = Site::new();
    let mut first = site.start();
    wait_protecting(&site, &site.first_agent());
    let mut second = site.launch();
    assert_eq!(second.wait(), 1, "{}", second.log());
    let pid = first.pid().to_string();
    assert!(
        second.log().contains(&pid),
        "it doesn't name process {pid}: {}",
        second.log()
    );
    first.assert_running();
    first.terminate();
}

/// An agent with a copy of the site's state, on the same database.
fn clone_of<'a>(site: &'a Site, name: &str) -> Agent<'a> {
    let folder = site.path(name);
    std::fs::create_dir(&folder).unwrap();
    let state = folder.join(".tidemark");
    copy_folder(&site.state(), &state);
    let text = std::fs::read_to_string(&site.config).unwrap();
    let (from, to) = (site.state(), state);
    let text = text.replace(from.to_str().unwrap(), to.to_str().unwrap());
    let config = folder.join("agent.toml");
    std::fs::write(&config, text).unwrap();
    Agent::at(site, config)
}

#[test]
fn clone_of_the_state_ends_at_a_take_over_and_the_taker_runs_and_starts_again_cleanly() {
    let site = Site::new();
    let daemon = site.start();
    crate::writer::write(&site.database, 30);
    wait_protecting(&site, &site.first_agent());
    daemon.terminate();
    let clone = clone_of(&site, "clone");
    let mut twin = clone.start();
    crate::writer::write(&site.database, 30);
    wait_protecting(&site, &clone);
    twin.assert_running();
    // The clone goes on under the epoch that both know. A person decides.
    site.agent(&["take-over", "--yes"])
        .ok()
        .says(&["epoch 2 on"]);
    crate::writer::write(&site.database, 30);
    let said = twin.wait_fenced();
    assert!(said.contains("take-over"), "{said}");
    for _ in 0..2 {
        let mut daemon = site.start();
        crate::writer::write(&site.database, 30);
        wait_protecting(&site, &site.first_agent());
        site.wait_well();
        daemon.assert_running();
        daemon.terminate();
    }
    let mut again = clone.launch();
    assert_eq!(again.wait(), FENCED, "{}", again.log());
    assert_no_name_holds_two_log_objects(&site);
    for region in 0..2 {
        let newest = site.restore_latest(region);
        assert_eq!(assert_committed_prefix(&newest.path), 150);
        assert_eq!(newest.report()["reached"]["epoch"], 2);
    }
}

#[test]
fn region_that_lagged_at_a_take_over_says_what_it_lacks_and_serves_new_instants_again() {
    let site = Site::new();
    let second = site.second_agent("second");
    let mut first = site.start();
    crate::writer::write(&site.database, 30);
    wait_protecting(&site, &site.first_agent());
    let (region, hidden) = (site.region_folder(1), site.fresh("hidden"));
    std::fs::rename(&region, &hidden).unwrap();
    crate::writer::write(&site.database, 30);
    site.wait_shipped_to(1, now());
    // Commits carry the time when the agent saw them, and the next one proves that none was missed.
    let between = now();
    crate::writer::write(&site.database, 10);
    site.wait_shipped_to(1, now());
    first.kill();
    std::fs::rename(&hidden, &region).unwrap();
    second.run(&["take-over", "--yes"]).ok();
    let daemon = second.start();
    crate::writer::write(&site.database, 30);
    wait_protecting(&site, &second);
    // What it means and what to do: nothing, but to give a restore to between the other region, too.
    let words = [
        "region-b lagged when app was taken over",
        "log:1:",
        "restore with region-a as well",
    ];
    second.wait_well().says(&words);
    let doctor = second.run(&["doctor"]);
    assert!(doctor.code <= 1, "{doctor}");
    doctor.says(&words);
    daemon.terminate();
    let (a, b) = (site.regions[0].as_str(), site.regions[1].as_str());
    let list = site.tool_on(&[b], &["list"]).ok();
    list.says(&["Missing: log:1:", "took over"]);
    let between = between.to_string();
    let alone = site.restore(&[b], &["--to", &between]);
    alone.refused(13, &["log:1:", "is missing"]);
    let both = site.restore(&[a, b], &["--to", &between]);
    assert!(matches!(both.ran.code, 0 | 3), "{}", both.ran);
    assert_eq!(assert_committed_prefix(&both.path), 60);
    assert_eq!(assert_committed_prefix(&site.restore_latest(1).path), 100);
}
