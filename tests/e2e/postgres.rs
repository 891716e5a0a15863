//! PostgreSQL under the two shipped programs: protected from the first base on, through kills of the
//! agent and a fail-over, with commits that wait for the regions, and let go of.

use std::time::Duration;

use serde_json::Value;
use tidemark_testkit::postgres::{MAJORS, Options, Postgres, Stop};
use tidemark_tests::eventually;

use crate::pg_site::{PgSite, ROLE, SLOT, load, slot};
use crate::process::{long, now, pass};
use crate::site::Agent;

/// Until the agent has noticed something on the server, on a busy machine.
const NOTICED_WITHIN: Duration = Duration::from_secs(180);

/// The newest server; the engine's own suites run on all.
fn newest() -> Option<Postgres> {
    Postgres::of(MAJORS[MAJORS.len() - 1])
}

/// Windows of what can be restored from the regions: one for each life of the source.
fn lives(site: &PgSite) -> usize {
    let listed = site.site.tool(&["list", "--json"]).ok().json();
    let windows = listed["sources"][0]["windows"].as_array();
    windows.expect("windows").len()
}

#[test]
fn cluster_is_protected_through_kills_of_the_agent_and_let_go_of() {
    for postgres in Postgres::all() {
        let site = PgSite::new(&postgres, &Options::default());
        site.load(0..50);
        let mut daemon = site.start_protected();
        let live = site.live();
        assert_eq!(live["engine"], "postgresql");
        assert!(live["database_bytes"].as_u64() > Some(1 << 20), "{live}");
        assert!(
            live["position"].as_str().is_some_and(|at| at.contains('/')),
            "{live}"
        );
        eventually("it streams", NOTICED_WITHIN, || {
            site.slot().filter(|(active, _)| *active)
        });
        // Killed in the middle of writes; nothing that was committed meanwhile may be missed.
        for round in 1..4_u32 {
            site.load(round * 100..round * 100 + 50);
            daemon.kill();
            site.load(round * 100 + 50..round * 100 + 99);
            daemon = site.site.start();
            site.wait_protected();
        }
        eventually("nothing is wrong", NOTICED_WITHIN, || {
            site.site.status().alerts().is_empty().then_some(())
        });
        assert_eq!(lives(&site), 1, "a kill is no reason for a new life");
        site.site
            .agent(&["retire", "--yes", "--json"])
            .ok()
            .says(&[SLOT]);
        assert_eq!(site.slot(), None, "a retired source leaves no slot behind");
        daemon.terminate();
    }
}

#[test]
fn server_that_stops_is_waited_for_and_goes_on() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    let daemon = site.start_protected();
    site.cluster.stop(Stop::Fast).unwrap();
    eventually(
        "the agent says that the server is away",
        NOTICED_WITHIN,
        || {
            let alerts = site.site.status().alerts();
            alerts
                .iter()
                .any(|code| code.contains("TM0109") || code.starts_with("postgresql."))
                .then_some(())
        },
    );
    site.cluster.start_again().unwrap();
    site.load(0..20);
    site.wait_protected();
    eventually("the alert is taken back", NOTICED_WITHIN, || {
        site.site.status().alerts().is_empty().then_some(())
    });
    assert_eq!(lives(&site), 1, "a restart of the server is no new life");
    daemon.terminate();
}

#[test]
fn failover_is_followed_by_the_connection_string() {
    let Some(postgres) = newest() else { return };
    let (site, standby) = PgSite::pair(&postgres);
    let daemon = site.start_protected();
    site.load(0..100);
    site.wait_protected();
    site.fail_over(&standby);
    load(&standby, 100..200);
    site.wait_protected();
    eventually(
        "the agent has its slot on the new primary",
        NOTICED_WITHIN,
        || slot(&standby).filter(|(active, _)| *active),
    );
    assert_eq!(
        lives(&site),
        1,
        "a promotion that lost nothing is no new life"
    );
    daemon.terminate();
}

#[test]
fn commits_wait_for_the_regions_and_status_says_so() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    site.site.set("ack", "\"regions\"");
    // A timer this long would show in every commit.
    site.site.set("ship_every", "\"20s\"");
    let daemon = site.start_protected();
    site.cluster.sql(&format!(
        "ALTER SYSTEM SET synchronous_standby_names = '{SLOT}'; SELECT pg_reload_conf()"
    ));
    eventually(
        "the server takes the agent for its standby",
        NOTICED_WITHIN,
        || {
            let state = "SELECT sync_state FROM pg_stat_replication WHERE sync_state = 'sync'";
            (site.cluster.query(state) == "sync").then_some(())
        },
    );
    let began = now();
    site.load(0..10);
    let took = now().duration_since(began);
    // Each of them would wait for its own end of the interval: 200 seconds in all.
    assert!(
        took.as_secs() < 100,
        "ten commits took {took}: they waited for the timer"
    );
    // Both regions go away (they are on one device and count once): nothing is durable any more.
    let hide = |away: bool| {
        for number in 0..site.site.regions.len() {
            let region = site.site.region_folder(number);
            let hidden = site.site.path(&format!("hidden-{number}"));
            let (from, to) = if away {
                (region, hidden)
            } else {
                (hidden, region)
            };
            std::fs::rename(from, to).unwrap();
        }
    };
    hide(true);
    let hung = std::thread::scope(|threads| {
        let writer = threads.spawn(|| site.load(10..11));
        eventually("status says that commits wait", NOTICED_WITHIN, || {
            let alerts = site.site.status().alerts();
            alerts
                .iter()
                .any(|code| code == "postgresql.commits-wait")
                .then_some(())
        });
        let hung = !writer.is_finished();
        hide(false);
        hung
    });
    assert!(hung, "the commit waits while the regions are away");
    eventually("the alert is taken back", NOTICED_WITHIN, || {
        let alerts = site.site.status().alerts();
        (!alerts.iter().any(|code| code == "postgresql.commits-wait")).then_some(())
    });
    assert_eq!(site.cluster.query("SELECT count(*) FROM load"), "11");
    daemon.terminate();
}

/// Every region is away until what is returned is dropped.
struct Away<'a>(&'a PgSite);

impl<'a> Away<'a> {
    fn from(site: &'a PgSite) -> Self {
        let away = Self(site);
        away.hide(true);
        away
    }

    fn hide(&self, away: bool) {
        let site = &self.0.site;
        for number in 0..site.regions.len() {
            let (region, hidden) = (
                site.region_folder(number),
                site.path(&format!("hidden-{number}")),
            );
            let (from, to) = if away {
                (region, hidden)
            } else {
                (hidden, region)
            };
            std::fs::rename(from, to).unwrap();
        }
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.hide(false);
    }
}

/// Writes about so many megabytes of log that can't be made much smaller.
fn burst(site: &PgSite, megabytes: u32) {
    site.cluster.sql(&format!(
        "CREATE TABLE IF NOT EXISTS burst (text text); ALTER TABLE burst ALTER text SET STORAGE EXTERNAL; \
         INSERT INTO burst SELECT string_agg(encode(sha512((n * random())::text::bytea), 'base64'), '') \
         FROM generate_series(1, {megabytes} * 11000) n GROUP BY n % ({megabytes} * 100)"
    ));
}

#[test]
fn full_spool_leaves_the_log_on_the_server_up_to_slot_keep_max() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    site.site.set("spool_max", "\"16MiB\"");
    site.site.set("spool_keep_free", "\"1MiB\"");
    site.site.set("slot_keep_max", "\"64MiB\"");
    let mut daemon = site.start_protected();
    let alert = |code: &str| {
        eventually(&format!("{code} is told"), NOTICED_WITHIN, || {
            let alerts = site.site.status().alerts();
            alerts.iter().any(|told| told.contains(code)).then_some(())
        });
    };
    // GIVEN regions that are away, and more log than the spool may hold
    let away = Away::from(&site);
    burst(&site, 40);
    alert("TM1501");
    // THEN the rest waits on the server, and nothing is given up
    let waiting = now();
    while now().duration_since(waiting).as_secs() < 4 {
        let status = site.site.status();
        assert!(!status.alerts().iter().any(|code| code == "log.gap"));
        assert!(status.0["daemon"]["spool_bytes"].as_u64() <= Some(16 << 20));
    }
    assert!(site.slot().is_some());
    drop(away);
    site.wait_protected();
    assert_eq!(lives(&site), 1, "nothing is missing: it is the same life");
    // WHEN the server would have to keep more than it may
    let away = Away::from(&site);
    burst(&site, 130);
    alert("postgresql.slot-keep-max");
    eventually("the slot is let go of", NOTICED_WITHIN, || {
        site.slot().is_none().then_some(())
    });
    daemon.assert_running();
    // THEN a new life begins by itself once the regions are back
    drop(away);
    eventually("a slot is made", NOTICED_WITHIN, || site.slot());
    site.wait_protected();
    assert_eq!(lives(&site), 2, "what is missing is not hidden");
    eventually("nothing is wrong any more", NOTICED_WITHIN, || {
        site.site.status().alerts().is_empty().then_some(())
    });
    let most = daemon.proc_status("VmHWM");
    assert!(most < 128 << 10, "{most} KiB");
    daemon.terminate();
}

#[test]
fn idle_server_costs_no_object_but_the_beat() {
    let Some(postgres) = newest() else { return };
    // Checkpoints are made as often as a server allows, and tables are looked at every second.
    let options = Options::default()
        .with("checkpoint_timeout", "30s")
        .with("autovacuum_naptime", "1s");
    let site = PgSite::new(&postgres, &options);
    let daemon = site.start_protected();
    site.load(0..50);
    site.wait_protected();
    // The server's statistics of what was written are a transaction of its own.
    let through = || {
        let status = site.site.status();
        let regions = status.regions();
        regions
            .iter()
            .filter_map(|name| status.log_through(name))
            .max()
    };
    let mut last = through();
    let mut since = now();
    eventually("it comes to rest", NOTICED_WITHIN * 2, || {
        let newest = through();
        if newest != last {
            (last, since) = (newest, now());
        }
        (now().duration_since(since).as_secs() >= 5).then_some(())
    });
    let seconds = if long() { 75 } else { 10 };
    let begun = now();
    while now().duration_since(begun).as_secs() < seconds {
        site.cluster.sql("CHECKPOINT");
        assert_eq!(through(), last, "a log object of an idle server");
        pass(Duration::from_millis(500));
    }
    // All is known to be safe all the same, and the next commit goes out at once.
    site.wait_protected();
    assert_eq!(through(), last);
    site.load(50..51);
    site.wait_protected();
    assert!(through() > last);
    daemon.terminate();
}

#[test]
fn slot_that_is_dropped_begins_a_new_life_by_itself() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    let daemon = site.start_protected();
    site.load(0..20);
    site.wait_protected();
    daemon.terminate();
    site.cluster
        .sql(&format!("SELECT pg_drop_replication_slot('{SLOT}')"));
    // The log that was not captured goes.
    for _ in 0..3 {
        site.cluster.sql("INSERT INTO load SELECT generate_series(100000, 100000); DELETE FROM load WHERE id = 100000; SELECT pg_switch_wal(); CHECKPOINT");
    }
    let daemon = site.site.start();
    site.wait_protected();
    eventually("it streams again", NOTICED_WITHIN, || {
        site.slot().filter(|(active, _)| *active)
    });
    assert_eq!(lives(&site), 2, "what is missing is not hidden");
    eventually("the new life has a base of its own", NOTICED_WITHIN, || {
        let alerts = site.site.status().alerts();
        (!alerts.contains(&"log.lost".to_owned())).then_some(())
    });
    daemon.terminate();
}

#[test]
fn init_refuses_a_server_that_does_not_let_the_agent_in_and_says_what_to_run() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::plan(&postgres, &Options::default());
    let refused = |conninfo: &str, code: i32, words: &[&str]| {
        site.init(conninfo).ends_with(code).says(words);
        assert!(!site.site.config.exists(), "nothing is written");
        assert!(!site.site.state().exists(), "nothing is written");
    };
    let role = format!("user={ROLE}");
    let nobody = site.conninfo().replace(&role, "user=nobody_known");
    refused(
        &nobody,
        78,
        &[
            "TM7811",
            "CREATE ROLE nobody_known LOGIN REPLICATION",
            "local    replication",
        ],
    );
    site.cluster
        .sql(&format!("ALTER ROLE {ROLE} NOREPLICATION"));
    refused(
        &site.conninfo(),
        78,
        &["TM7811", "ALTER ROLE tidemark REPLICATION;"],
    );
    site.cluster.sql(&format!("ALTER ROLE {ROLE} REPLICATION"));
    refused("host=/nowhere user=x", 1, &["TM0109", "/nowhere"]);
    let elsewhere = site.conninfo().replace("dbname=postgres", "dbname=nope");
    refused(&elsewhere, 78, &["TM7814", "there is no database \"nope\""]);
    refused("host=h colour=red", 2, &["colour"]);
    site.init(&site.conninfo())
        .ok()
        .says(&["max_slot_wal_keep_size"]);
}

#[test]
fn password_in_the_connection_string_is_kept_out_of_the_config() {
    let Some(postgres) = newest() else { return };
    let options = Options {
        tcp: true,
        ..Options::default()
    };
    let site = PgSite::plan(&postgres, &options);
    site.cluster
        .sql(&format!("ALTER ROLE {ROLE} PASSWORD 'se:cret'"));
    site.cluster.set_hba(
        "host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256",
    );
    let url = format!(
        "postgres://{ROLE}:se%3Acret@127.0.0.1:{}/postgres",
        site.cluster.port()
    );
    let said = site.init(&url).ok();
    assert!(!said.out.contains("cret"), "{said}");
    site.site.shorten();
    let config = std::fs::read_to_string(&site.site.config).unwrap();
    assert!(!config.contains("cret"), "{config}");
    let daemon = site.start_protected();
    daemon.terminate();
}

#[test]
fn doctor_has_a_statement_for_each_finding() {
    let Some(postgres) = newest() else { return };
    let options = Options::default()
        .with("max_replication_slots", "1")
        .with("idle_replication_slot_timeout", "60");
    let site = PgSite::new(&postgres, &options);
    let findings = |agent: &Agent<'_>| -> Vec<Value> {
        let said = agent.run(&["doctor", "--json"]).json();
        said["checks"].as_array().expect("checks").clone()
    };
    let about = |word: &str| {
        let all = findings(&site.site.first_agent());
        let found = all.iter().find(|check| {
            check["what"]
                .as_str()
                .is_some_and(|what| what.ends_with(word))
        });
        found
            .cloned()
            .unwrap_or_else(|| panic!("nothing on {word} in {all:?}"))
    };
    assert_eq!(about("max_slot_wal_keep_size")["grade"], "look");
    assert_eq!(about("idle_replication_slot_timeout")["grade"], "look");
    assert_eq!(about("data_checksums")["grade"], "ok");
    assert_eq!(about("slot")["grade"], "ok");
    // Bases come over the network until the role may start a backup, and then from the files.
    let bases = about("bases");
    let words = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
    assert!(
        words(&bases, "found").starts_with("over the network"),
        "{bases}"
    );
    let grant = words(&bases, "remedy");
    let grant = grant.lines().next().unwrap();
    assert!(grant.starts_with("GRANT EXECUTE ON FUNCTION"), "{bases}");
    site.cluster.sql(grant);
    let bases = about("bases");
    assert!(words(&bases, "found").starts_with("read from"), "{bases}");
    site.cluster
        .sql("SELECT pg_create_physical_replication_slot('other')");
    let full = about("max_replication_slots");
    assert_eq!(full["grade"], "broken");
    assert!(
        full["remedy"]
            .as_str()
            .unwrap()
            .contains("ALTER SYSTEM SET max_replication_slots = 6")
    );
    site.site.set("ack", "\"regions\"");
    let names = about("synchronous_standby_names");
    assert_eq!(names["grade"], "broken");
}
