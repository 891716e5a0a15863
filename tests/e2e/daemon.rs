//! The schedule of drills as it runs on hosts: two daemons of the shipped program with identities of their
//! own share it by the repository alone. Each slot is run once; what a killed one had begun, the other does;
//! every run is on record.
//!
//! It takes as long as a few slots of a few seconds each: the schedule is what is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tidemark_format::KeyId;
use tidemark_format::envelope::Envelope;
use tidemark_format::heads::{DrillClaimHead, DrillStep};
use tidemark_testkit::postgres::Options;
use tidemark_tests::eventually;

use crate::pg_restore::newest;
use crate::pg_site::PgSite;
use crate::process::{Daemon, Ran, SOON};
use crate::site::Site;
use crate::writer::write;

/// A few slots and their drills, on a slow and busy machine.
const SLOTS_WITHIN: Duration = Duration::from_secs(300);
/// Slots that are run in peace.
const IN_PEACE: usize = 3;

/// Makes a drill last a while.
const SLOW: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 4000000) \
                    SELECT count(*) FROM c";

/// A drill host: a config, a state directory and an identity of its own.
struct Host<'a> {
    site: &'a Site,
    folder: PathBuf,
}

impl<'a> Host<'a> {
    /// With an identity made for it; `root` enrols it.
    fn new(site: &'a Site, name: &str) -> Self {
        let folder = site.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        let host = Self { site, folder };
        let config = std::fs::read_to_string(&site.config).unwrap();
        let recipient = config.split('"').find(|word| word.starts_with("tmr1"));
        let identity = host.path("identity");
        let recipient = recipient.expect("a recipient in the agent's config");
        let made = site.tool(&[
            "keys",
            "new",
            "--repository",
            recipient,
            "--out",
            &identity,
            "--json",
        ]);
        let public = made.ok().json()["recipient"].as_str().unwrap().to_owned();
        let root = format!("{}.root", site.identity.display());
        let enrol = [
            "keys",
            "enrol",
            "--recipient",
            &public,
            "--name",
            name,
            "--root",
            &root,
        ];
        site.tool(&enrol).ok();
        host
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Writes its config: every few seconds a drill of `app` that takes a while.
    fn schedule(&self, crontab: &str) {
        self.schedule_drill(
            crontab,
            &format!(
                "source = \"app\"\nfull = false\n[[drill.assert]]\nid = \"slow\"\nsql = \"{SLOW}\"\n\
                 expect = 4000000\n"
            ),
        );
    }

    /// Writes its config: a drill called `often`, of which `rest` says the rest.
    fn schedule_drill(&self, crontab: &str, rest: &str) {
        let mut text = format!(
            "identity = \"{}\"\nstate_dir = \"{}\"\n",
            self.path("identity"),
            self.path("state"),
        );
        for (number, region) in self.site.regions.iter().enumerate() {
            text.push_str(&format!(
                "[[region]]\nname = \"region-{number}\"\nurl = \"{region}\"\n"
            ));
        }
        let scratch = self.path("scratch");
        std::fs::create_dir_all(&scratch).unwrap();
        text.push_str(&format!(
            "[drills]\nlook_every = \"1s\"\nclaim_for = \"2s\"\nretry_after = \"1s\"\nallow_source_host = true\n\
             metrics_file = \"{}\"\nscratch = \"{scratch}\"\n\
             [[drill]]\nname = \"often\"\nschedule = \"{crontab}\"\n{rest}",
            self.path("drills.prom"),
        ));
        std::fs::write(self.folder.join("restore.toml"), text).unwrap();
    }

    fn run(&self, words: &[&str]) -> Ran {
        let mut command = self.site.command("tidemark-restore");
        command.args(words).arg("--config");
        Ran::of(command.arg(self.folder.join("restore.toml")))
    }

    fn start(&self) -> Daemon {
        let log = self.site.fresh("drill-log");
        let mut command = self.site.command("tidemark-restore");
        command.arg("run").arg("--config");
        command.arg(self.folder.join("restore.toml"));
        Daemon::start(&mut command, &log)
    }
}

/// The steps of all slots, as a region holds them.
fn steps(site: &Site) -> BTreeMap<Timestamp, Vec<(KeyId, DrillClaimHead)>> {
    let mut slots: BTreeMap<Timestamp, Vec<(KeyId, DrillClaimHead)>> = BTreeMap::new();
    let folder = site.region_folder(0).join("meta/drill/often");
    for slot in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let mut names: Vec<PathBuf> = std::fs::read_dir(slot.path())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        names.sort();
        for name in names {
            let bytes = std::fs::read(&name).unwrap_or_default();
            // One that is being written has another name.
            let Ok((envelope, head)) = Envelope::open::<DrillClaimHead>(&bytes) else {
                continue;
            };
            slots
                .entry(head.slot)
                .or_default()
                .push((envelope.signer.id(), head));
        }
    }
    slots
}

fn verdict(head: &DrillClaimHead) -> Option<&str> {
    head.facts.get("verdict").and_then(Value::as_str)
}

/// Slots that came to a result.
fn done(site: &Site) -> BTreeSet<Timestamp> {
    let slots = steps(site).into_iter();
    let done = slots.filter(|(_, steps)| {
        steps
            .iter()
            .any(|(_, head)| verdict(head).is_some_and(|verdict| verdict != "INCONCLUSIVE"))
    });
    done.map(|(slot, _)| slot).collect()
}

fn count(daemon: &Daemon, words: &str) -> usize {
    daemon.log().matches(words).count()
}

/// Whether a drill runs in it right now.
fn is_drilling(daemon: &Daemon) -> bool {
    let ended = ["drill passed", "drill failed", "drill inconclusive"];
    let ended: usize = ended.iter().map(|words| count(daemon, words)).sum();
    count(daemon, "drill begins") > ended
}

/// A daemon that stands still in the middle of a drill, the slot, and whose turn that is: one at a time has it.
fn in_the_middle(hosts: &[Host<'_>], daemons: &mut [Daemon]) -> (usize, Timestamp, KeyId) {
    let site = hosts[0].site;
    let has_scratch = |number: usize| {
        let scratch = std::fs::read_dir(hosts[number].path("scratch"));
        scratch.is_ok_and(|mut entries| entries.next().is_some())
    };
    eventually("a drill stands still in its middle", SLOTS_WITHIN, || {
        let mut all = daemons.iter().enumerate();
        let (victim, _) = all.find(|(number, one)| is_drilling(one) && has_scratch(*number))?;
        let is_held = daemons[victim].hold() && has_scratch(victim);
        let turn = steps(site).into_iter().next_back();
        let turn = turn.and_then(|(slot, steps)| {
            let (signer, last) = steps.last()?;
            (!is_over(last.step)).then_some((slot, *signer))
        });
        match turn {
            Some((slot, signer)) if is_held && is_drilling(&daemons[victim]) => {
                Some((victim, slot, signer))
            }
            _ => {
                daemons[victim].go_on();
                None
            }
        }
    })
}

fn is_over(step: DrillStep) -> bool {
    matches!(step, DrillStep::Ended | DrillStep::Released)
}

/// Every record of a drill, by slot and signer.
fn records(site: &Site) -> Vec<(Timestamp, String)> {
    let folder = site.region_folder(0).join("meta/evidence");
    let mut all = Vec::new();
    for signer in std::fs::read_dir(folder).unwrap().flatten() {
        for record in std::fs::read_dir(signer.path()).unwrap().flatten() {
            let bytes = std::fs::read(record.path()).unwrap();
            let Ok(record) = tidemark_format::evidence::Unverified::parse(&bytes) else {
                continue;
            };
            let body = Value::Object(record.statement.predicate.rest);
            let slot = body.pointer("/plan/slot").and_then(Value::as_str);
            if body["type"] == "restore_drill"
                && let Some(slot) = slot.and_then(|slot| slot.parse().ok())
            {
                all.push((slot, signer.file_name().to_string_lossy().into_owned()));
            }
        }
    }
    all.sort();
    all
}

#[test]
fn two_hosts_run_every_slot_once_and_what_a_killed_one_had_begun_the_other_does() {
    // GIVEN a protected database, and two hosts with identities of their own
    let site = Site::new();
    let hosts = ["one", "two"].map(|name| Host::new(&site, name));
    let agent = site.start();
    write(&site.database, 50);
    site.agent(&["snapshot", "--base"]).ok();
    site.wait_shipped();
    for host in &hosts {
        host.schedule("0 0 1 1 *");
        // Nothing is due.
        host.run(&["drill", "run", "--due"]).ok().says(&["often"]);
        host.schedule("*/8 * * * * *");
        host.run(&["config", "check"]).ok();
    }
    let root = format!("{}.root", site.identity.display());
    site.tool(&["keys", "enrol", "--all", "--root", &root]).ok();
    // WHEN both run the schedule
    let mut daemons = [hosts[0].start(), hosts[1].start()];
    eventually("a few slots are done", SLOTS_WITHIN, || {
        daemons.iter_mut().for_each(Daemon::assert_running);
        (done(&site).len() >= IN_PEACE).then_some(())
    });
    // AND one of them is killed in the middle of a drill
    let (victim, slot, dead) = in_the_middle(&hosts, &mut daemons);
    daemons[victim].kill();
    // THEN the other one does the slot, or the next one if that has come meanwhile
    eventually("the slot or its successor is done", SLOTS_WITHIN, || {
        daemons[1 - victim].assert_running();
        done(&site).last().filter(|last| **last >= slot).copied()
    });
    let later = steps(&site).split_off(&slot);
    let mut heirs = later.values().flatten();
    assert!(heirs.any(|(signer, _)| *signer != dead), "{later:?}");
    // AND the dead one's successor goes on beside it
    daemons[victim] = hosts[victim].start();
    let so_far = done(&site).len();
    eventually("more slots are done", SLOTS_WITHIN, || {
        (done(&site).len() > so_far + 1 && count(&daemons[victim], "drill begins") > 0)
            .then_some(())
    });
    let [one, two] = daemons;
    one.terminate();
    two.terminate();
    // AND no slot was run twice, and every turn that was taken is on record
    let records = records(&site);
    for (slot, steps) in steps(&site) {
        let ended = steps.iter().filter_map(|(_, head)| verdict(head));
        let ended = ended.filter(|verdict| *verdict != "INCONCLUSIVE");
        assert!(ended.count() <= 1, "{slot} was run twice: {steps:?}");
        for (signer, _) in steps
            .iter()
            .filter(|(_, head)| head.step == DrillStep::Taken)
        {
            let entry = (slot, signer.to_string());
            assert!(
                records.contains(&entry),
                "{entry:?} is not among {records:?}"
            );
        }
    }
    site.tool(&["evidence", "verify"]).ok();
    let metrics = std::fs::read_to_string(hosts[1 - victim].path("drills.prom")).unwrap();
    for word in [
        "tidemark_drill_last_verdict{",
        "tidemark_drill_rto_seconds{",
        "tidemark_drill_due{",
    ] {
        assert!(metrics.contains(word), "no {word} in {metrics}");
    }
    drop(agent);
}

#[test]
fn a_server_is_drilled_when_it_is_due_and_everything_shows_it() {
    // GIVEN a protected server, and a host with a drill of it that nobody has run
    let Some(postgres) = newest() else { return };
    let made = PgSite::new(&postgres, &Options::default());
    let site = &made.site;
    // Before the agent begins: it opens what is sealed from now on.
    let host = Host::new(site, "one");
    made.load(0..100);
    let agent = made.start_protected();
    made.load(100..120);
    made.wait_protected();
    agent.terminate();
    let bin = postgres.bin().display();
    let rest = format!(
        "source = \"main\"\nfull = false\npg_bin = \"{bin}\"\n[[drill.assert]]\nid = \"rows\"\n\
         sql = \"SELECT count(*) FROM load\"\nexpect = 120\n"
    );
    host.schedule_drill("0 0 1 1 *", &rest);
    host.run(&["drill", "run", "--due"]).ok().says(&["often"]);
    host.run(&["drill", "list"])
        .ok()
        .says(&["often", "main", "0 0 1 1 *", "never"]);
    let root = format!("{}.root", site.identity.display());
    site.tool(&["keys", "enrol", "--all", "--root", &root]).ok();
    // WHEN it becomes due
    host.schedule_drill("*/5 * * * * *", &rest);
    let mut daemon = host.start();
    let slot = eventually("a slot is done", SLOTS_WITHIN, || {
        daemon.assert_running();
        done(site).first().copied()
    });
    let said = daemon.log();
    daemon.terminate();
    // THEN the turn was taken, the server replayed and asked, and the record is of that slot
    let ended = steps(site)[&slot]
        .iter()
        .find_map(|(_, head)| verdict(head).map(str::to_owned));
    assert_eq!(ended.as_deref(), Some("PASS"), "{said}");
    assert!(records(site).iter().any(|(of, _)| *of == slot), "{slot}");
    site.tool(&["evidence", "verify"]).ok();
    // It may have been told to end in the middle of the next slot's drill, which another run then does.
    let list = eventually("the last drill ran to its end", SLOTS_WITHIN, || {
        let list = host.run(&["drill", "list", "--json"]).ok().json();
        if list["scheduled"][0]["last"]["verdict"] == "PASS" {
            return Some(list);
        }
        host.run(&["drill", "run", "--due"]);
        None
    });
    let entry = &list["scheduled"][0];
    assert_eq!(entry["name"], "often", "{list:#}");
    assert_eq!(entry["source"], "main", "{list:#}");
    assert_eq!(entry["last"]["verdict"], "PASS", "{list:#}");
    assert_eq!(entry["overdue"], false, "{list:#}");
    assert!(entry["next"].is_string(), "{list:#}");
    let drill = &list["drills"][0];
    assert_eq!(drill["reached"], "logical", "{list:#}");
    // AND it shows where people look
    let status = host.run(&["status"]);
    assert!(status.out.contains("yes, "), "{status}");
    assert!(status.out.contains("up to logical"), "{status}");
    let metrics = std::fs::read_to_string(host.path("drills.prom")).unwrap();
    assert!(metrics.contains("drill=\"often\""), "{metrics}");
}

#[test]
fn sighup_reads_the_config_again_and_one_that_is_wrong_changes_nothing() {
    let site = Site::new();
    let agent = site.start();
    write(&site.database, 5);
    site.wait_shipped();
    let host = Host::new(&site, "one");
    host.schedule("0 0 1 1 *");
    let mut daemon = host.start();
    eventually("it owns the schedule", SOON, || {
        daemon.assert_running();
        (count(&daemon, "ready") > 0).then_some(())
    });
    // A second one on the same state directory is refused, with the first one's number.
    let refused = host.run(&["drill", "run", "--due"]);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(refused.err.contains(&daemon.pid().to_string()), "{refused}");
    let config = host.folder.join("restore.toml");
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, good.replace("often", "Often")).unwrap();
    daemon.signal("HUP");
    eventually("the wrong config is told", SOON, || {
        daemon.assert_running();
        (count(&daemon, "TM7802") > 0).then_some(())
    });
    std::fs::write(&config, good.replace("often", "seldom")).unwrap();
    daemon.signal("HUP");
    eventually("the right one is read", SOON, || {
        daemon.assert_running();
        let metrics = std::fs::read_to_string(host.path("drills.prom")).ok()?;
        metrics.contains("drill=\"seldom\"").then_some(())
    });
    daemon.terminate();
    drop(agent);
}

#[test]
fn init_writes_a_config_that_the_schedule_runs_by() {
    let site = Site::new();
    let agent = site.start();
    write(&site.database, 5);
    site.wait_shipped();
    let config = site.path("restore.toml").display().to_string();
    let words = ["init", "--schedule", "0 3 * * *", "--config", &config];
    let made = site
        .tool(&words)
        .ok()
        .says(&["drills: app", "config check"]);
    assert!(made.out.contains("systemctl enable"), "{made}");
    let mut check = site.command("tidemark-restore");
    Ran::of(check.args(["config", "check", "--config", &config])).ok();
    let mut due = site.command("tidemark-restore");
    let due = Ran::of(due.args(["drill", "run", "--due", "--json", "--config", &config])).ok();
    let drill = &due.json()["drills"][0];
    assert_eq!(
        (&drill["name"], &drill["doing"]["is"]),
        (&"app".into(), &"waiting".into())
    );
    let again = site.tool(&words);
    assert_eq!(again.code, 2, "{again}");
    assert!(again.err.contains("is not replaced"), "{again}");
    let bad = site.path("bad.toml").display().to_string();
    let refused = site.tool(&["init", "--schedule", "sometimes", "--config", &bad]);
    assert_eq!(refused.code, 2, "{refused}");
    drop(agent);
}
