//! A source that lived several lives: what both programs say of the instants between them, how long an
//! alert lasts, and what stays at servers that are no longer captured.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tidemark_testkit::postgres::{Cluster, MAJORS, Options, Postgres, Stop};
use tidemark_tests::eventually;

use crate::pg_site::{PgSite, ROLE, SLOT, load, slot};
use crate::policy::{check, own, stands};
use crate::process::{Ran, SOON, now};
use crate::site::{Site, instant};

/// Until the agent has noticed something on the server, on a busy machine.
const NOTICED: Duration = Duration::from_secs(180);

/// The newest server; the engine's own suites run on all.
fn newest() -> Option<Postgres> {
    Postgres::of(MAJORS[MAJORS.len() - 1])
}

/// The slot is dropped while the agent is stopped, and the log that was not captured goes.
fn lose_log(site: &PgSite) {
    site.cluster
        .sql(&format!("SELECT pg_drop_replication_slot('{SLOT}')"));
    recycle(site);
}

/// The server removes log that nothing keeps.
fn recycle(site: &PgSite) {
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
    let gone = format!("replication slot {SLOT} is gone, and the server has removed log");
    assert!(stopped.out.contains(&gone), "{stopped}");
    let mut daemon = site.site.start();
    site.wait_protected();
    site.load(20..40);
    site.wait_protected();
    // A hole is news for a day: both end with a warning, and say what it is.
    let (agent, tool) = eventually("both warn, and of nothing else", SOON, || {
        let (agent, tool) = both(&site.site);
        ((agent.code, tool.code) == (1, 1)).then_some((agent, tool))
    });
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
    // An auditor reads it, too.
    let clauses = ["kind = \"pitr\"\nwithin = \"1ms\"\nover = \"1h\""];
    let checked = check(&site.site, &own(&site.site, &clauses), 17);
    let words = ["1 span within the window can't be restored"];
    stands(&checked, "c0", "FAIL", &words);
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
    eventually("the new life has a base of its own", SOON, || {
        alerted().is_none().then_some(())
    });
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

/// How many windows can be restored, a life each.
fn windows(site: &PgSite) -> usize {
    let listed = site.site.tool(&["list", "--json"]).ok().json();
    let windows = listed["sources"][0]["windows"].as_array().cloned();
    windows.unwrap_or_default().len()
}

/// Waits until an alert stands, or is taken back.
#[track_caller]
fn wait_alert(site: &PgSite, code: &str, stands: bool) {
    eventually(&format!("{code}: {stands}"), NOTICED, || {
        let alerts = site.site.status().alerts();
        (alerts.iter().any(|alert| alert == code) == stands).then_some(())
    });
}

#[test]
fn old_primary_that_comes_back_is_told_while_the_agent_runs_and_never_gone_back_to() {
    let Some(postgres) = newest() else { return };
    // GIVEN a fail-over that was followed
    let (site, standby) = PgSite::pair(&postgres);
    let mut daemon = site.start_protected();
    site.load(0..10);
    site.wait_protected();
    site.fail_over(&standby);
    load(&standby, 10..20);
    site.wait_protected();
    eventually("the agent streams from the new primary", NOTICED, || {
        slot(&standby).filter(|(active, _)| *active)
    });
    // WHEN the old primary is started again as if nothing had happened
    site.cluster.start_again().unwrap();
    site.load(500..510);
    let at = |cluster: &Cluster| cluster.socket_dir().display().to_string();
    let (old, new) = (at(&site.cluster), at(&standby));
    // THEN it is told by its address, with the slot that it has, and the other one is what is captured
    wait_alert(&site, "server.parted", true);
    wait_alert(&site, "slot.elsewhere", true);
    let stale = format!("{old}/.s.PGSQL.{} is stale", site.cluster.port());
    let drop_it = format!("SELECT pg_drop_replication_slot('{SLOT}')");
    site.site.agent(&["status"]).says(&[&stale, &drop_it]);
    let answers = format!("{new}/.s.PGSQL.{} answers", standby.port());
    site.site
        .agent(&["doctor"])
        .ends_with(2)
        .says(&[&answers, &stale, &drop_it]);
    // AND it is not gone back to when it alone answers, not after a start of the agent either
    standby.stop(Stop::Fast).unwrap();
    wait_alert(&site, "postgresql.parted", true);
    daemon.kill();
    let daemon = site.site.start();
    let refuses = "it is not gone back to".to_owned();
    eventually("the stale server is refused", NOTICED, || {
        let status = site.site.agent(&["status"]);
        status.out.to_lowercase().contains(&refuses).then_some(())
    });
    assert_eq!(slot(&site.cluster).map(|(active, _)| active), Some(false));
    standby.start_again().unwrap();
    load(&standby, 20..30);
    site.wait_protected();
    assert_eq!(windows(&site), 1, "it is the same life");
    // WHEN it is stopped and becomes a standby, what is over is taken back, and the slot stays told
    site.cluster.stop(Stop::Fast).unwrap();
    let signal = site.cluster.data_dir().join("standby.signal");
    std::fs::write(signal, "").unwrap();
    site.cluster.start_again().unwrap();
    wait_alert(&site, "server.parted", false);
    wait_alert(&site, "slot.elsewhere", true);
    // UNTIL it is dropped, while the agent runs
    site.cluster.sql(&drop_it);
    wait_alert(&site, "slot.elsewhere", false);
    daemon.terminate();
}

#[test]
fn slot_that_went_while_the_agent_was_stopped_is_told_by_doctor_and_status() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    let daemon = site.start_protected();
    site.load(0..10);
    site.wait_protected();
    daemon.terminate();
    site.cluster
        .sql(&format!("SELECT pg_drop_replication_slot('{SLOT}')"));
    let gone = format!("{SLOT} is gone");
    site.site
        .agent(&["doctor"])
        .says(&[&gone, "start the agent now"]);
    site.site
        .agent(&["status"])
        .says(&[&gone, "Start the agent now"]);
    recycle(&site);
    let lost = ["removed log", "new incarnation"];
    site.site.agent(&["doctor"]).ends_with(2).says(&lost);
    site.site.agent(&["status"]).says(&lost);
}
