//! A source that lived several lives: what both programs say of the instants between them, how long an
//! alert lasts, and what stays at servers that are no longer captured.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tidemark_testkit::postgres::{MAJORS, Options, Postgres, Stop};
use tidemark_tests::eventually;

use crate::pg_site::{PgSite, ROLE, SLOT, conninfo, slot};
use crate::process::{Ran, SOON, now};
use crate::site::{Site, instant};

/// Until the agent has noticed something on the server, on a busy machine.
const NOTICED: Duration = Duration::from_secs(60);

/// The newest server; the engine's own suites run on all.
fn newest() -> Option<Postgres> {
    Postgres::of(MAJORS[MAJORS.len() - 1])
}

/// The slot is dropped while the agent is stopped, and the log that was not captured goes.
fn lose_log(site: &PgSite) {
    site.cluster
        .sql(&format!("SELECT pg_drop_replication_slot('{SLOT}')"));
    for _ in 0..3 {
        site.cluster.sql(
            "INSERT INTO load SELECT generate_series(100000, 100000); DELETE FROM load WHERE id = 100000; \
             SELECT pg_switch_wal(); CHECKPOINT",
        );
    }
}

/// What both programs' documents hold of the only source.
fn both(site: &Site) -> (Ran, Ran) {
    let agent = site.agent(&["status", "--json"]);
    let tool = site.tool(&["status", "--json"]);
    (agent, tool)
}

/// The lines of a screen that say what can be restored and what can't.
fn lines(screen: &Ran) -> Vec<String> {
    let said = screen.out.lines().map(str::trim);
    let wanted = said.filter(|line| line.starts_with("Recoverable ") || line.starts_with("Hole "));
    wanted
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Both programs say the same of what can be restored, in JSON and on the screen.
#[track_caller]
fn assert_same_words(site: &Site) -> Value {
    let (agent, tool) = both(site);
    let (ours, theirs) = (agent.json(), tool.json());
    let (ours, theirs) = (&ours["sources"][0], &theirs["sources"][0]);
    for key in ["windows", "holes", "recoverable_through", "beyond"] {
        assert_eq!(ours[key], theirs[key], "{key}: {agent}\n{tool}");
    }
    let (ours_said, theirs_said) = (site.agent(&["status"]), site.tool(&["status"]));
    assert_eq!(
        lines(&ours_said),
        lines(&theirs_said),
        "{ours_said}\n{theirs_said}"
    );
    ours.clone()
}

fn at(value: &Value) -> Timestamp {
    instant(value).unwrap_or_else(|| panic!("an instant: {value}"))
}

#[test]
fn both_programs_name_the_same_windows_and_the_hole_between_two_lives() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    let daemon = site.start_protected();
    site.load(0..20);
    site.wait_protected();
    let before = now();
    daemon.terminate();
    assert_eq!(
        assert_same_words(&site.site)["holes"],
        serde_json::json!([])
    );
    lose_log(&site);
    let stopped = site.site.agent(&["status"]);
    assert!(
        !stopped.out.contains(SLOT),
        "a slot that is gone keeps no log: {stopped}"
    );
    let mut daemon = site.site.start();
    site.wait_protected();
    site.load(20..40);
    site.wait_protected();
    // A hole is news for a day: both end with a warning, and say what it is.
    let (agent, tool) = both(&site.site);
    assert_eq!((agent.code, tool.code), (1, 1), "{agent}\n{tool}");
    for ran in [&agent, &tool] {
        assert!(ran.out.contains("another life of the database"), "{ran}");
    }
    daemon.kill();
    let said = assert_same_words(&site.site);
    let holes = said["holes"].as_array().expect("holes");
    let [hole] = &holes[..] else { panic!("{said}") };
    assert_eq!(said["windows"].as_array().map(Vec::len), Some(2), "{said}");
    let (from, to) = (at(&hole["from"]), at(&hole["to"]));
    assert!(from < to && before <= to, "{hole}");
    let screen = site.site.tool(&["status"]);
    assert_eq!(lines(&screen).len(), 3, "{screen}");
    // What is called a hole is refused, with its code, and what is called a window is not.
    let half = i64::midpoint(from.as_millisecond(), to.as_millisecond());
    let middle = Timestamp::from_millisecond(half).unwrap();
    let plan = |to: Timestamp| {
        let target = site.site.fresh("planned").display().to_string();
        site.site.tool(&[
            "plan",
            "--no-finish",
            "--to",
            &to.to_string(),
            "--target",
            &target,
        ])
    };
    plan(middle).ends_with(14).says(&["TM14", "log:"]);
    plan(from).ok();
    plan(to).ok();
}

#[test]
fn lost_log_is_told_over_a_kill_of_the_agent_until_the_new_life_has_a_base() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    let daemon = site.start_protected();
    daemon.terminate();
    lose_log(&site);
    // The log streams over the one connection; a base would need another.
    site.cluster
        .sql(&format!("ALTER ROLE {ROLE} CONNECTION LIMIT 1"));
    let mut daemon = site.site.start();
    let alerted = || {
        let alerts = site.site.status().alerts();
        alerts.contains(&"log.lost".to_owned()).then_some(())
    };
    eventually("the lost log is told", NOTICED, alerted);
    daemon.kill();
    let daemon = site.site.start();
    eventually("it is told again after a kill", NOTICED, alerted);
    let (agent, tool) = both(&site.site);
    assert!(agent.code >= 1 && tool.code >= 1, "{agent}\n{tool}");
    site.cluster
        .sql(&format!("ALTER ROLE {ROLE} CONNECTION LIMIT -1"));
    site.wait_protected();
    assert!(alerted().is_none(), "the new life has a base of its own");
    assert!(!site.live()["log_lost_at"].is_null(), "{}", site.live());
    daemon.terminate();
}

#[test]
fn slot_that_could_not_be_dropped_is_dropped_after_a_restart() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    let daemon = site.start_protected();
    site.load(0..10);
    site.wait_protected();
    site.cluster
        .sql(&format!("ALTER ROLE {ROLE} NOREPLICATION"));
    site.site.agent(&["retire", "--yes"]).ok();
    daemon.terminate();
    assert!(site.slot().is_some(), "the role may not drop it");
    let daemon = site.site.start();
    eventually("what is left is told after a restart", NOTICED, || {
        let status = site.site.status();
        let told = status.alerts().contains(&"slot.remains".to_owned());
        (told && status.state().as_deref() == Some("retired")).then_some(())
    });
    site.site.agent(&["status"]).ends_with(1).says(&[SLOT]);
    daemon.terminate();
    site.cluster.sql(&format!("ALTER ROLE {ROLE} REPLICATION"));
    let daemon = site.site.start();
    eventually("the slot is dropped", SOON, || {
        site.slot().is_none().then_some(())
    });
    let screen = eventually("nothing is left to do", SOON, || {
        let ran = site.site.agent(&["status"]);
        (ran.code == 0).then_some(ran)
    });
    screen.says(&["RETIRED", "nothing to do"]);
    site.site
        .tool(&["status"])
        .ok()
        .says(&["RETIRED", "not judged"]);
    assert_same_words(&site.site);
    daemon.terminate();
}

#[test]
fn old_primary_that_comes_back_is_told_to_keep_log_for_a_slot_that_nobody_reads() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::plan(&postgres, &Options::default());
    let standby = site.cluster.standby("standby").unwrap();
    site.init(&conninfo(&[&site.cluster, &standby])).ok();
    site.site.shorten();
    let daemon = site.start_protected();
    site.load(0..10);
    site.wait_protected();
    let end = site.cluster.query("SELECT pg_current_wal_lsn()");
    eventually("the standby has everything", SOON, || {
        let behind = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        (standby.query(&behind) == "t").then_some(())
    });
    site.cluster.stop(Stop::Kill).unwrap();
    standby.promote().unwrap();
    crate::pg_site::load(&standby, 10..20);
    site.wait_protected();
    eventually("the agent streams from the new primary", NOTICED, || {
        slot(&standby).filter(|(active, _)| *active)
    });
    daemon.terminate();
    // It comes back as a standby, with the slot that it had.
    let signal = site.cluster.data_dir().join("standby.signal");
    std::fs::write(signal, "").unwrap();
    site.cluster.start_again().unwrap();
    let daemon = site.site.start();
    eventually("the old primary's slot is told", NOTICED, || {
        let alerts = site.site.status().alerts();
        alerts.contains(&"slot.elsewhere".to_owned()).then_some(())
    });
    site.site
        .agent(&["status"])
        .says(&[&format!("SELECT pg_drop_replication_slot('{SLOT}')")]);
    site.cluster
        .sql(&format!("SELECT pg_drop_replication_slot('{SLOT}')"));
    daemon.terminate();
    let daemon = site.site.start();
    site.wait_protected();
    assert!(
        !site
            .site
            .status()
            .alerts()
            .contains(&"slot.elsewhere".to_owned()),
        "nothing is left there"
    );
    daemon.terminate();
}
