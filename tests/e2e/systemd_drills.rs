//! The schedule of drills under a real systemd: the identity comes as a credential, READY and STATUS mean what
//! they say, a reload takes what is right, and the timer's oneshot stands aside for the daemon.

use std::time::Duration;

use tidemark_tests::{eventually, throughout};

use crate::machine::{Blueprint, Machine};

const UNIT: &str = "tidemark-restore.service";
const ONESHOT: &str = "tidemark-drill.service";
const CONFIG: &str = "/etc/tidemark/restore.toml";
const SOON: Duration = Duration::from_secs(60);

/// A machine that holds a repository of one source, and a config with a drill that is due once a year.
fn drill_host() -> Option<Machine> {
    let machine = Blueprint::new()?.boot();
    drop(crate::systemd::database(&machine.srv().join("app.db")));
    machine.must(&["mkdir", "/srv/one"]);
    let init = [
        "tidemark-agent",
        "init",
        "--sqlite",
        "/srv/app.db",
        "--region",
        "dir:/srv/one",
        "--identity",
        "/srv/identity.key",
        "--config",
        "/etc/tidemark/agent.toml",
    ];
    machine.must(&init);
    machine.whatever_the_disk();
    machine.must(&["tidemark-agent", "snapshot"]);
    let made = [
        "tidemark-restore",
        "init",
        "--schedule",
        "0 3 1 1 *",
        "--region",
        "dir:/srv/one",
        "--config",
        CONFIG,
    ];
    machine.must(&made);
    let credential = "install -D -m 600 /srv/identity.key /etc/credstore/tidemark.identity";
    machine.must(&["sh", "-c", credential]);
    // A directory region belongs to whoever writes it; here that was root.
    machine.must(&["chown", "-R", "tidemark-restore", "/srv/one"]);
    for unit in [UNIT, ONESHOT] {
        let place = format!("/run/systemd/system/{unit}.d");
        let drop_in = "[Service]\\nReadWritePaths=/srv/one\\n";
        let write = format!("mkdir -p {place} && printf '{drop_in}' > {place}/90-test.conf");
        machine.must(&["sh", "-c", &write]);
    }
    machine.must(&["sh", "-c", "printf '[Service]\\nWatchdogSec=5\\n' > /run/systemd/system/tidemark-restore.service.d/91-quick.conf"]);
    machine.must(&["systemctl", "daemon-reload"]);
    Some(machine)
}

#[test]
fn schedule_under_systemd_is_ready_reloads_and_is_owned_once() {
    let Some(machine) = drill_host() else {
        return;
    };
    let started = machine.run(&["systemctl", "start", UNIT]);
    assert!(
        started.status.success(),
        "no READY:\n{}",
        machine.journal(UNIT)
    );
    let status = || machine.property(UNIT, "StatusText");
    assert!(
        status().contains("app: never drilled, next "),
        "{}",
        status()
    );
    // Two watchdog periods without a restart: the keep-alives do arrive.
    throughout("it sends its keep-alive", Duration::from_secs(10), || {
        machine.property(UNIT, "NRestarts") == "0"
    });
    let aside = machine.run(&["systemctl", "start", ONESHOT]);
    assert!(!aside.status.success(), "two owners of one schedule");
    assert!(
        machine
            .journal(ONESHOT)
            .contains("owned by another process")
    );
    machine.must(&["sed", "-i", "s/^name = \"app\"/name = \"yearly\"/", CONFIG]);
    machine.must(&["systemctl", "reload", UNIT]);
    eventually("the new name is read", SOON, || {
        status().contains("yearly: ").then_some(())
    });
    machine.must(&["sed", "-i", "1i no_such_key = 1", CONFIG]);
    let refused = machine.run(&["systemctl", "reload", UNIT]);
    assert!(
        !refused.status.success(),
        "a reload checks the config first"
    );
    assert!(
        status().contains("yearly: "),
        "a bad file hurts nothing running"
    );
    machine.must(&["sed", "-i", "1d", CONFIG]);
    machine.must(&["systemctl", "stop", UNIT]);
    assert_eq!(
        machine.property(UNIT, "Result"),
        "success",
        "{}",
        machine.journal(UNIT)
    );
    // Without the daemon the timer's oneshot finds that nothing is due.
    let once = machine.run(&["systemctl", "start", ONESHOT]);
    assert!(once.status.success(), "{}", machine.journal(ONESHOT));
    let journal = machine.journal(UNIT);
    assert!(
        !journal.contains("Operation not permitted"),
        "the sandbox is in the way:\n{journal}"
    );
}
