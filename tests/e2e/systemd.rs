//! The agent under a real systemd: the sandbox lets it do its work and nothing else, READY and the
//! watchdog mean what they say, and a restart happens exactly when it helps.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rusqlite::Connection;
use tidemark_tests::{eventually, eventually_ok, program, throughout};

use crate::machine::{Blueprint, Machine};

const UNIT: &str = "tidemark-agent.service";
const SOON: Duration = Duration::from_secs(180);
/// Three times the unit's RestartSec: by then a restart would have come.
const NO_RESTART: Duration = Duration::from_secs(6);

/// A database with a table and one row, in WAL mode.
pub(crate) fn database(path: &Path) -> Connection {
    let database = Connection::open(path).expect("a database is made");
    let made = "PRAGMA journal_mode = WAL; CREATE TABLE note (n INTEGER PRIMARY KEY, text TEXT);";
    database.execute_batch(made).expect("a table is made");
    insert(&database);
    database
}

fn insert(database: &Connection) {
    let sql = "INSERT INTO note (text) VALUES (hex(randomblob(200)))";
    database.execute(sql, []).expect("a row is inserted");
}

fn rows(path: &Path) -> i64 {
    let database = Connection::open(path).expect("the restored database opens");
    let check: String = database
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("a check");
    assert_eq!(check, "ok");
    database
        .query_row("SELECT count(*) FROM note", [], |row| row.get(0))
        .expect("a count")
}

/// A machine whose agent protects `/srv/app/app.db` of user `app` into two folders.
fn protected() -> Option<(Machine, Connection)> {
    let machine = Blueprint::new()?.boot();
    let folder = machine.srv().join("app");
    std::fs::create_dir(&folder).expect("a folder for the database");
    let database = database(&folder.join("app.db"));
    machine.must(&["mkdir", "/srv/one", "/srv/two"]);
    machine.must(&["chown", "-R", "app:app", "/srv/app", "/srv/one", "/srv/two"]);
    init(&machine, "/srv/app/app.db");
    // What the agent must not need a minute for, the test need not wait a minute for.
    let quick = "[Service]\nWatchdogSec=12\n";
    let place = "/run/systemd/system/tidemark-agent.service.d";
    let write = format!("mkdir -p {place} && printf '{quick}' > {place}/90-test.conf");
    machine.must(&["sh", "-c", &write]);
    machine.must(&["systemctl", "daemon-reload"]);
    let started = machine.run(&["systemctl", "start", UNIT]);
    assert!(
        started.status.success(),
        "no READY:\n{}",
        machine.journal(UNIT)
    );
    Some((machine, database))
}

fn init(machine: &Machine, database: &str) {
    machine.must(&[
        "tidemark-agent",
        "init",
        "--sqlite",
        database,
        "--region",
        "dir:/srv/one",
        "--region",
        "dir:/srv/two",
        "--identity",
        "/srv/identity.key",
        "--config",
        "/etc/tidemark/agent.toml",
        "--systemd",
    ]);
    let shorter = "s/^.*ship_every = .*/ship_every = \"1s\"/";
    machine.must(&["sed", "-i", shorter, "/etc/tidemark/agent.toml"]);
    machine.whatever_the_disk();
}

/// Restores the latest state on this side, from one region, and counts its rows.
fn rows_restored(machine: &Machine) -> Result<i64, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = folder.path().join("back.db");
    let restored = Command::new(program("tidemark-restore"))
        .args(["restore", "--to", "latest", "--target"])
        .arg(&target)
        .arg("--region")
        .arg(format!("dir:{}", machine.srv().join("one").display()))
        .arg("--identity")
        .arg(machine.srv().join("identity.key"))
        .output()
        .expect("tidemark-restore runs");
    if !restored.status.success() {
        let why = String::from_utf8_lossy(&restored.stderr);
        return Err(format!("{why}{}", machine.journal(UNIT)));
    }
    Ok(rows(&target))
}

/// Waits until what is written now comes back out of a region.
fn assert_protects(machine: &Machine, database: &Connection) {
    insert(database);
    let count = "SELECT count(*) FROM note";
    let written: i64 = database
        .query_row(count, [], |row| row.get(0))
        .expect("a count");
    eventually_ok("the newest row can be restored", SOON, || {
        let found = rows_restored(machine)?;
        (found == written)
            .then_some(())
            .ok_or_else(|| format!("{found} rows of {written}"))
    });
}

#[test]
fn agent_under_systemd_is_ready_when_it_says_so_and_protects_from_its_sandbox() {
    let Some((machine, database)) = protected() else {
        return;
    };
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");
    let status = machine.property(UNIT, "StatusText");
    assert!(
        status.chars().any(|c| c.is_ascii_digit()),
        "no exposure in STATUS: {status:?}"
    );
    assert_eq!(
        machine.property(UNIT, "User"),
        "app",
        "the drop-in names the database's owner"
    );
    assert_protects(&machine, &database);
    let journal = machine.journal(UNIT);
    assert!(
        !journal.contains("Operation not permitted"),
        "the sandbox is in the way:\n{journal}"
    );
    machine.must(&["systemctl", "stop", UNIT]);
    assert_eq!(
        machine.property(UNIT, "Result"),
        "success",
        "{}",
        machine.journal(UNIT)
    );
}

/// Two keep-alives arrive, and no restart was needed for that.
#[track_caller]
pub(crate) fn assert_sends_keep_alives(machine: &Machine, unit: &str) {
    let last = || machine.property(unit, "WatchdogTimestampMonotonic");
    for _ in 0..2 {
        let before = last();
        eventually("it sends its keep-alive", SOON, || {
            (last() != before).then_some(())
        });
    }
    assert_eq!(machine.property(unit, "NRestarts"), "0");
}

#[test]
fn agent_that_is_killed_or_hangs_is_started_again_and_goes_on() {
    let Some((machine, database)) = protected() else {
        return;
    };
    let restarts = || machine.property(UNIT, "NRestarts");
    let is_back = |count: &str| {
        (restarts() == count && machine.property(UNIT, "ActiveState") == "active").then_some(())
    };
    assert_sends_keep_alives(&machine, UNIT);
    machine.signal(UNIT, "SIGKILL");
    eventually("the agent is back after kill -9", SOON, || is_back("1"));
    assert_protects(&machine, &database);
    machine.signal(UNIT, "SIGSTOP");
    eventually("the agent is back after it hung", SOON, || is_back("2"));
    assert!(
        machine.journal(UNIT).contains("Watchdog timeout"),
        "{}",
        machine.journal(UNIT)
    );
    assert_protects(&machine, &database);
}

#[test]
fn agent_with_a_wrong_config_is_not_started_again() {
    let Some((machine, _database)) = protected() else {
        return;
    };
    machine.must(&[
        "sed",
        "-i",
        "1i no_such_key = 1",
        "/etc/tidemark/agent.toml",
    ]);
    let reload = machine.run(&["systemctl", "reload", UNIT]);
    assert!(!reload.status.success(), "a reload checks the config first");
    assert_eq!(
        machine.property(UNIT, "ActiveState"),
        "active",
        "a bad file hurts nothing running"
    );
    machine.signal(UNIT, "SIGKILL");
    eventually("the agent stops with 78", SOON, || {
        (machine.property(UNIT, "ExecMainStatus") == "78").then_some(())
    });
    throughout("it stays stopped", NO_RESTART, || {
        machine.property(UNIT, "NRestarts") == "1"
    });
    assert_eq!(machine.property(UNIT, "ActiveState"), "failed");
    let journal = machine.journal(UNIT);
    assert!(
        journal.contains("no_such_key"),
        "the journal names the key:\n{journal}"
    );
}

#[test]
fn agent_whose_last_source_was_retired_stays_and_says_that_there_is_nothing_to_protect() {
    let Some((machine, database)) = protected() else {
        return;
    };
    assert_protects(&machine, &database);
    machine.must(&["tidemark-agent", "retire", "--yes"]);
    let idle = || {
        let status = machine.property(UNIT, "StatusText");
        status.starts_with("nothing to protect")
    };
    eventually("STATUS says so", SOON, || idle().then_some(()));
    let stays = || machine.property(UNIT, "NRestarts") == "0" && idle();
    throughout("it is not started again and again", NO_RESTART, stays);
    machine.must(&["systemctl", "restart", UNIT]);
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");
    throughout("nor after a restart", NO_RESTART, stays);
}

#[test]
fn database_below_home_is_reached_by_the_drop_in_that_init_writes() {
    let Some(blueprint) = Blueprint::new() else {
        return;
    };
    drop(database(&blueprint.place("home/app/data/app.db")));
    blueprint.write("home/app/private", "nobody's business\n");
    let machine = blueprint.boot();
    machine.must(&["mkdir", "/srv/one", "/srv/two"]);
    machine.must(&[
        "chown",
        "-R",
        "app:app",
        "/home/app",
        "/srv/one",
        "/srv/two",
    ]);
    init(&machine, "/home/app/data/app.db");
    machine.must(&["systemctl", "daemon-reload"]);
    let started = machine.run(&["systemctl", "start", UNIT]);
    assert!(
        started.status.success(),
        "no READY:\n{}",
        machine.journal(UNIT)
    );
    eventually_ok("the row can be restored", SOON, || {
        let found = rows_restored(&machine)?;
        (found == 1)
            .then_some(())
            .ok_or_else(|| format!("{found} rows"))
    });
    let agent = machine.property(UNIT, "MainPID");
    let seen = machine.must(&["ls", &format!("/proc/{agent}/root/home/app")]);
    assert_eq!(seen, "data", "the rest of /home stays hidden");
}
