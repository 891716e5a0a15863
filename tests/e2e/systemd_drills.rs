//! The schedule of drills under a real systemd: the identity comes as a credential, READY and STATUS mean what
//! they say, a reload takes what is right, and the timer's oneshot stands aside for the daemon. Its drills run in
//! the shipped units, on a machine that holds nothing of the source's: the database in
//! `tidemark-sandbox@.service`, without network and keys, whatever becomes of the service that started it.

use std::time::Duration;

use serde_json::Value;
use tidemark_testkit::postgres::Options;
use tidemark_tests::eventually;

use crate::machine::{Blueprint, Machine};
use crate::objects::copy_folder;
use crate::pg_restore::newest;
use crate::pg_site::PgSite;
use crate::site::Site;
use crate::writer;

const UNIT: &str = "tidemark-restore.service";
const ONESHOT: &str = "tidemark-drill.service";
const SOCKET: &str = "tidemark-sandbox.socket";
const CONFIG: &str = "/etc/tidemark/restore.toml";
const SOON: Duration = Duration::from_secs(180);
/// A slot, and its drill on a busy machine.
const DRILLED_WITHIN: Duration = Duration::from_secs(300);
/// Where the service may make a scratch.
const SCRATCHES: &str = "/dev/shm/tidemark-restore /var/lib/tidemark-restore/scratch";
/// No drill waits for its end.
const ENDLESS: &str =
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c";

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
    machine.must(&["sh", "-c", "printf '[Service]\\nWatchdogSec=12\\n' > /run/systemd/system/tidemark-restore.service.d/91-quick.conf"]);
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
    crate::systemd::assert_sends_keep_alives(&machine, UNIT);
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

/// A machine with the restore tool's service, a recovery identity, a copy of one region, and a drill of `source`
/// every few seconds; nothing of it has been started.
fn drill_machine(site: &Site, blueprint: Blueprint, drill: &str) -> Machine {
    let machine = blueprint.boot();
    copy_folder(&site.region_folder(0), &machine.srv().join("region"));
    for (end, name) in [("", "identity"), (".root", "root")] {
        let from = format!("{}{end}", site.identity.display());
        std::fs::copy(from, machine.srv().join(name)).expect("a key is copied");
    }
    let config = format!(
        "[[region]]\nname = \"region-a\"\nurl = \"dir:/srv/region\"\n\
         [drills]\nlook_every = \"1s\"\nclaim_for = \"2s\"\nretry_after = \"1s\"\n\
         [[drill]]\nname = \"often\"\nschedule = \"*/5 * * * * *\"\n{drill}"
    );
    std::fs::write(machine.srv().join("restore.toml"), config).expect("a config is written");
    let drop_in = "[Service]\\nReadWritePaths=/srv/region\\nRestartSec=1\\n";
    let place = format!("/run/systemd/system/{UNIT}.d");
    for command in [
        format!("install -D -m 644 /srv/restore.toml {CONFIG}"),
        "install -D -m 600 /srv/identity /etc/credstore/tidemark.identity".to_owned(),
        "chown -R tidemark-restore:tidemark-restore /srv/region".to_owned(),
        format!("mkdir -p {place} && printf '{drop_in}' > {place}/90-test.conf"),
        "systemctl daemon-reload".to_owned(),
    ] {
        machine.must(&["sh", "-c", &command]);
    }
    machine
}

fn start(machine: &Machine) {
    let started = machine.run(&["systemctl", "start", UNIT]);
    let journal = || machine.journal(UNIT);
    assert!(started.status.success(), "no READY:\n{}", journal());
}

fn tool(machine: &Machine, words: &[&str]) -> Value {
    let own = ["tidemark-restore", "--json", "--region", "dir:/srv/region"];
    let said = machine.run(&[&own[..], words].concat()).stdout;
    serde_json::from_slice(&said).unwrap_or(Value::Null)
}

/// Records that there are, of any kind: cheap to ask.
fn records(machine: &Machine) -> usize {
    let count = "find /srv/region/meta/evidence -type f 2> /dev/null | wc -l";
    machine
        .must(&["sh", "-c", count])
        .parse()
        .expect("a number")
}

/// Drills on record: how many, and what the newest says.
fn drills(machine: &Machine) -> Option<(usize, Value)> {
    let list = tool(machine, &["evidence", "list", "--kind", "drills"]);
    let records = list["records"].as_array()?;
    let shown = tool(
        machine,
        &["evidence", "show", records.last()?["id"].as_str()?],
    );
    Some((records.len(), shown["statement"]["predicate"].clone()))
}

/// What the sandboxes said; nothing before there was one.
fn said(machine: &Machine) -> String {
    let journal = machine.run(&["journalctl", "--no-pager", "--unit", "tidemark-sandbox@*"]);
    String::from_utf8_lossy(&journal.stdout).into_owned()
}

/// The next drill that is on record, if there are `known` so far.
#[track_caller]
fn next_drill(machine: &Machine, known: &mut usize) -> Value {
    let mut looked = usize::MAX;
    let (count, record) = eventually("a drill is on record", DRILLED_WITHIN, || {
        let now = records(machine);
        if now == looked {
            return None;
        }
        looked = now;
        drills(machine).filter(|(count, _)| count > known)
    });
    *known = count;
    record
}

/// Instances of the sandbox's unit that there are.
fn sandboxes(machine: &Machine) -> String {
    let list = ["systemctl", "list-units", "--all", "--plain", "--no-legend"];
    machine.must(&[&list[..], &["tidemark-sandbox@*.service"]].concat())
}

/// A unit is gone a moment after its drill.
#[track_caller]
fn wait_no_sandbox(machine: &Machine) {
    eventually("no sandbox is left", SOON, || {
        sandboxes(machine).is_empty().then_some(())
    });
}

/// Scratches that there are.
fn scratches(machine: &Machine) -> String {
    machine.must(&[
        "sh",
        "-c",
        &format!("ls -A {SCRATCHES} 2> /dev/null | grep tidemark-drill || true"),
    ])
}

/// The drill passed; its database ran in a unit of its own, which nothing left and which reached no key.
#[track_caller]
fn assert_ran_in_a_unit(machine: &Machine, record: &Value) {
    let isolation = &record["environment"]["isolation"];
    let journal = said(machine);
    assert_eq!(record["result"]["verdict"], "PASS", "{record:#}\n{journal}");
    assert_eq!(
        isolation["method"], "systemd-unit",
        "{isolation:#}\n{journal}"
    );
    let unit = isolation["unit"].as_str().expect("a unit");
    assert!(unit.starts_with("tidemark-sandbox@"), "{unit}");
    assert_eq!(
        isolation["tried"],
        Value::Array(Vec::new()),
        "{isolation:#}"
    );
    assert_eq!(isolation["netns"], true, "{isolation:#}");
    assert_eq!(isolation["egress_probe_result"], "refused", "{isolation:#}");
    assert_eq!(
        isolation["secrets_in_reach"],
        Value::Array(Vec::new()),
        "{isolation:#}"
    );
    let apart = &record["environment"]["segregated_from_source"]["value"];
    assert_eq!(*apart, true, "{record:#}");
    let teardown = &record["handling"]["teardown"];
    assert_eq!(teardown["verified_absent"], true, "{teardown:#}");
}

#[test]
fn scheduled_drill_runs_its_database_in_a_unit_without_network_and_keys() {
    let Some(blueprint) = Blueprint::new() else {
        return;
    };
    // GIVEN a protected database on another host, and a machine without polkit
    let site = Site::new();
    let agent = site.start();
    writer::write(&site.database, 50);
    site.agent(&["snapshot", "--base"]).ok();
    site.wait_shipped();
    agent.terminate();
    let machine = drill_machine(&site, blueprint, "source = \"app\"\n");
    // WHEN the service runs its schedule
    start(&machine);
    let mut known = 0;
    let record = next_drill(&machine, &mut known);
    // THEN the database ran in the other unit, and all of it is on record and verifies
    assert_ran_in_a_unit(&machine, &record);
    assert!(
        machine.run(&["pkcheck", "--version"]).status.code() != Some(0),
        "polkit is here"
    );
    let enrol = ["keys", "enrol", "--all", "--root", "/srv/root"];
    let own = ["tidemark-restore", "--region", "dir:/srv/region"];
    machine.must(&[&own[..], &enrol].concat());
    machine.must(&[&own[..], &["evidence", "verify"]].concat());
    let list = machine.must(&[&own[..], &["drill", "list", "--config", CONFIG]].concat());
    for word in ["often", "*/5 * * * * *", "PASS"] {
        assert!(list.contains(word), "no {word} in {list}");
    }
    // AND without its socket there is no drill: told as such, with what to start
    machine.must(&["systemctl", "stop", SOCKET]);
    known = drills(&machine).expect("drills").0;
    let record = eventually("a drill without a sandbox", SOON, || {
        let record = next_drill(&machine, &mut known);
        // One that was just about to ask for its sandbox may be cut off, which is no verdict.
        (record["result"]["verdict"] == "FAIL").then_some(record)
    });
    assert_eq!(record["result"]["verdict"], "FAIL", "{record:#}");
    assert!(record["result"].to_string().contains(SOCKET), "{record:#}");
    machine.must(&["systemctl", "stop", UNIT]);
    assert_eq!(scratches(&machine), "");
    wait_no_sandbox(&machine);
}

#[test]
fn scratch_of_ones_own_is_used_with_both_drop_ins_and_without_one_the_drill_says_which() {
    let Some(blueprint) = Blueprint::new() else {
        return;
    };
    let site = Site::new();
    let agent = site.start();
    writer::write(&site.database, 5);
    site.agent(&["snapshot", "--base"]).ok();
    site.wait_shipped();
    agent.terminate();
    // GIVEN a config that names a folder, and the units as they are shipped
    let drill = "source = \"app\"\nscratch = \"/srv/scratch\"\n";
    let machine = drill_machine(&site, blueprint, drill);
    machine.must(&[
        "install",
        "-d",
        "-m",
        "700",
        "-o",
        "tidemark-restore",
        "/srv/scratch",
    ]);
    let mut known = 0;
    let next = |known: &mut usize| {
        start(&machine);
        let record = next_drill(&machine, known);
        machine.must(&["systemctl", "stop", UNIT]);
        *known = drills(&machine).expect("drills").0;
        record
    };
    let allow = |unit: &str, line: &str| {
        let place = format!("/run/systemd/system/{unit}.d");
        let write = format!(
            "mkdir -p {place} && printf '[Service]\\n{line}\\n' > {place}/91-scratch.conf && systemctl daemon-reload"
        );
        machine.must(&["sh", "-c", &write]);
    };
    // THEN the drill proves nothing, and says both lines
    let record = next(&mut known);
    let said = record["result"].to_string();
    assert_eq!(record["result"]["verdict"], "INCONCLUSIVE", "{record:#}");
    for word in [
        "ReadWritePaths=/srv/scratch",
        "BindPaths=/srv/scratch",
        "tidemark-sandbox@",
    ] {
        assert!(said.contains(word), "no {word} in {said}");
    }
    // AND with the service's alone, it says the other one
    allow(UNIT, "ReadWritePaths=/srv/scratch");
    let record = next(&mut known);
    assert_ne!(record["result"]["verdict"], "PASS", "{record:#}");
    let said = record["result"].to_string();
    assert!(said.contains("BindPaths=/srv/scratch"), "{said}");
    // AND with both it is used, and nothing stays there
    allow("tidemark-sandbox@.service", "BindPaths=/srv/scratch");
    let record = next(&mut known);
    assert_ran_in_a_unit(&machine, &record);
    let place = record["environment"]["scratch_path"].as_str();
    assert!(
        place.is_some_and(|place| place.starts_with("/srv/scratch/")),
        "{record:#}"
    );
    assert_eq!(machine.must(&["ls", "-A", "/srv/scratch"]), "");
}

#[test]
fn killed_drill_leaves_no_process_no_scratch_and_an_inconclusive_record() {
    let Some(blueprint) = Blueprint::new() else {
        return;
    };
    let site = Site::new();
    let agent = site.start();
    writer::write(&site.database, 5);
    site.wait_shipped();
    agent.terminate();
    // GIVEN a drill that would never end
    let assert =
        format!("source = \"app\"\n[[drill.assert]]\nid = \"endless\"\nsql = \"{ENDLESS}\"\n");
    let machine = drill_machine(&site, blueprint, &assert);
    start(&machine);
    eventually("a drill is in its sandbox", SOON, || {
        sandboxes(&machine).contains("running").then_some(())
    });
    assert!(scratches(&machine).contains("tidemark-drill-"));
    // WHEN the service is killed
    machine.signal(UNIT, "SIGKILL");
    eventually("it is started again", SOON, || {
        (machine.property(UNIT, "NRestarts") == "1").then_some(())
    });
    // THEN what it had begun is on record by its next start, and the scratch is gone
    let record = next_drill(&machine, &mut 0);
    assert_eq!(record["result"]["verdict"], "INCONCLUSIVE", "{record:#}");
    let path = record["environment"]["scratch_path"].as_str();
    let gone = || path.is_none_or(|path| !machine.run(&["test", "-e", path]).status.success());
    eventually("its scratch is gone", SOON, || gone().then_some(()));
    // AND of the service that is stopped in the middle nothing is left either
    machine.must(&["systemctl", "stop", UNIT]);
    wait_no_sandbox(&machine);
    assert_eq!(scratches(&machine), "");
}

#[test]
fn scheduled_drill_of_a_server_replays_and_asks_it_in_the_unit() {
    let (Some(postgres), Some(blueprint)) = (newest(), Blueprint::new()) else {
        return;
    };
    let site = PgSite::new(&postgres, &Options::default());
    site.load(0..100);
    let agent = site.start_protected();
    site.load(100..150);
    site.wait_protected();
    agent.terminate();
    blueprint.install(&postgres);
    let assert = "source = \"main\"\n[[drill.assert]]\nid = \"rows\"\nsql = \"SELECT count(*) FROM load\"\nexpect = 150\n";
    let machine = drill_machine(&site.site, blueprint, assert);
    start(&machine);
    let record = next_drill(&machine, &mut 0);
    assert_ran_in_a_unit(&machine, &record);
    let isolation = &record["environment"]["isolation"];
    assert_eq!(isolation["listen_addresses"], "", "{isolation:#}");
    assert_eq!(isolation["archive_mode"], "off", "{isolation:#}");
    let checks = record["checks"].as_array().expect("checks");
    for id in ["replay.end", "assertion.rows"] {
        let check = checks.iter().find(|check| check["id"] == id);
        assert_eq!(check.expect(id)["status"], "passed", "{record:#}");
    }
    machine.must(&["systemctl", "stop", UNIT]);
    assert_eq!(scratches(&machine), "");
    wait_no_sandbox(&machine);
}
