//! What can go wrong around a drill: a sandbox with a way out, a scratch that stays, a process that is
//! killed, a disk that fills up, a region or a key that goes in the middle. Every one is named, none passes, and
//! nothing of the restored database is left lying about.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value;
use tidemark_testkit::FakeTime;
use tidemark_testkit::s3::S3Server;
use tidemark_tests::eventually;

use crate::drill::{EXCEPTIONS, FAILED, PASSED, drill, drill_from, newest_record, protected};
use crate::objects::objects;
use crate::process::{Daemon, Ran, SOON, is_root, long, now, pass, skip};
use crate::s3::{Bucket, Cloud};
use crate::site::Site;
use crate::space::SmallDisk;

const KEY: i32 = 12;
/// How often a drill is cut.
const CUTS: u32 = 8;
const CUTS_LONG: u32 = 200;
/// How slow the clock of a source is.
const BEHIND: SignedDuration = SignedDuration::from_mins(5);
/// How many drills are begun to hold one of them.
const HOLDS: u32 = 50;
/// Between two looks at a drill that is to be held.
const BLINK: Duration = Duration::from_millis(1);

/// The words of a drill from all regions of a site.
fn command(site: &Site, words: &[&str]) -> Command {
    let mut command = site.command("tidemark-restore");
    command.args(["drill", "run", "--allow-source-host", "--json"]);
    for region in &site.regions {
        command.args(["--region", region]);
    }
    command.arg("--identity").arg(&site.identity).args(words);
    command
}

/// A drill that runs beside the test.
pub(crate) fn begun(site: &Site, words: &[&str]) -> Daemon {
    Daemon::start(&mut command(site, words), &site.fresh("drill-log"))
}

#[test]
fn a_wrong_clock_of_the_source_is_told_by_the_regions_and_corrected() {
    let (Some(server), Some(fake)) = (S3Server::shared(), FakeTime::find()) else {
        return;
    };
    if !is_root() {
        skip("only root can give the agent a machine-id of its own");
        return;
    }
    let bucket = Bucket::new(server, true);
    // In clear: the certificate was made a moment ago, and the agent's clock is before that.
    let endpoint = format!("http://127.0.0.1:{}&insecure=1", server.http_port());
    let cloud = Cloud::new(&[(&bucket, endpoint)]);
    let site = &cloud.site;
    // GIVEN an agent on another machine, whose clock is five minutes slow
    let id = site.path("machine-id");
    std::fs::write(&id, "0123456789abcdef0123456789abcdef\n").unwrap();
    let mut agent = site.command("tidemark-agent");
    agent.arg("run").arg("--config").arg(&site.config);
    agent.envs(fake.environment(now() - BEHIND, 1));
    let bind = "mount --bind \"$0\" /etc/machine-id && exec \"$@\"";
    let id = id.display().to_string();
    let words = ["unshare", "--mount", "sh", "-c", bind, &id];
    let mut daemon = Daemon::start(&mut within(&words, &agent), &site.path("slow-log"));
    let socket = site.path("host/.tidemark/control.sock");
    eventually("the daemon listens", SOON, || {
        daemon.assert_running();
        std::os::unix::net::UnixStream::connect(&socket).ok()
    });
    crate::writer::write(&site.database, 20);
    site.wait_shipped_to(1, now() - BEHIND);
    site.agent(&["snapshot"]).ok();
    daemon.kill();
    // WHEN it is drilled by a host whose clock is right
    let ran = drill_from(site, &[&cloud.restore[0]], &["--rpo", "4m"]);
    let report = ran.json();
    // THEN the difference is an exception that names it, and no loss of five minutes is made of it
    assert_eq!(ran.code, EXCEPTIONS, "{ran}");
    let skew = check(&report, "clock.skew");
    assert_eq!(skew["status"], "warned", "{ran}");
    assert!(skew["actual"].as_str().unwrap().contains("behind"), "{ran}");
    assert!(
        report["exceptions"].to_string().contains("clock skew"),
        "{ran}"
    );
    assert_eq!(report["rpo_met"], true, "{ran}");
    assert!(report["loss"]["lost_ms"].as_u64() < Some(240_000), "{ran}");
    let apart = &report["environment"]["segregated_from_source"];
    assert_eq!(apart["value"], true, "{ran}");
}

/// A check of a report.
pub(crate) fn check<'a>(report: &'a Value, id: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("checks");
    let found = checks.iter().find(|check| check["id"] == id);
    found.unwrap_or_else(|| panic!("no {id} in {report:#}"))
}

/// What a drill that has ended printed.
pub(crate) fn report(daemon: &Daemon) -> Value {
    let log = daemon.log();
    let documents = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let mut reports =
        documents.filter(|document: &Value| document["schema"] == "tidemark-restore.drill");
    reports.next().unwrap_or_else(|| panic!("no report: {log}"))
}

/// The scratches that drills of this site have noted, and that are there: each is noted before it is made.
fn scratches(site: &Site) -> Vec<PathBuf> {
    let notes = objects(&site.path("state-home/tidemark/drills"), "").into_iter();
    let noted = notes.filter(|(key, _)| key.ends_with("/scratch"));
    let paths = noted.filter_map(|(_, note)| std::fs::read_to_string(note).ok());
    paths
        .map(PathBuf::from)
        .filter(|path| path.exists())
        .collect()
}

/// A drill that stands still while it lays out its scratch or waits for its sandbox, and that scratch.
pub(crate) fn held(site: &Site, words: &[&str]) -> (Daemon, PathBuf) {
    let (daemon, scratch, ()) = held_when(site, words, |scratch| {
        // Neither is there any more once the scratch is being destroyed.
        let laid_out = scratch.join(".data.tidemark-partial").exists();
        (laid_out || !processes_of(scratch).is_empty()).then_some(())
    });
    (daemon, scratch)
}

/// A drill that stands still (SIGSTOP) while it has a scratch in which `look` finds something, and before
/// its sandbox has answered. A small drill takes a fifth of a second and a test may be kept from its core
/// for longer: one that was missed goes to its end, and the next one is begun.
pub(crate) fn held_when<T>(
    site: &Site,
    words: &[&str],
    look: impl Fn(&Path) -> Option<T>,
) -> (Daemon, PathBuf, T) {
    for _ in 0..HOLDS {
        let mut daemon = begun(site, words);
        let found = |scratch: &PathBuf| {
            let found = look(scratch)?;
            (!scratch.join("job/result.json").exists()).then_some(found)
        };
        let now = || {
            let there = scratches(site).into_iter();
            there.rev().find(|scratch| found(scratch).is_some())
        };
        let mut seen = None;
        while seen.is_none() && daemon.ended().is_none() {
            seen = now();
            pass(BLINK);
        }
        if let Some(scratch) = seen
            && daemon.hold()
            && let Some(there) = found(&scratch)
        {
            return (daemon, scratch, there);
        }
        daemon.go_on();
        daemon.wait();
    }
    panic!("{HOLDS} drills ended before one could be held");
}

/// Processes whose words name a path: number and words.
pub(crate) fn processes_of(path: &Path) -> Vec<(u32, String)> {
    let name = path.display().to_string();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let words = all.filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let words = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some((number, String::from_utf8_lossy(&words).replace('\0', " ")))
    });
    words.filter(|(_, words)| words.contains(&name)).collect()
}

/// `command` inside another one, with its environment.
fn within(words: &[&str], inner: &Command) -> Command {
    let mut outer = Command::new(words[0]);
    outer.args(&words[1..]).arg(inner.get_program());
    outer.args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(folder) = inner.get_current_dir() {
        outer.current_dir(folder);
    }
    outer.stdin(std::process::Stdio::null());
    outer
}

fn cause(report: &Value) -> &str {
    report["causes"][0].as_str().expect("a cause")
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// An `unshare` that leaves the sandbox in the host's network.
const FORGETS_THE_NETWORK: &str = r#"#!/bin/sh
for word do shift; [ "$word" = --net ] || set -- "$@" "$word"; done
exec REAL "$@"
"#;

/// One after which something on the host gives every new network a way out.
const ADDS_A_WAY_OUT: &str = r#"#!/bin/sh
options=
while [ "$1" != -- ]; do options="$options $1"; shift; done
shift
exec REAL $options -- /bin/sh -c 'ip link add way0 type veth peer name way1 && ip addr add 10.9.9.2/24 dev way0 &&
ip link set way0 up && ip link set way1 up && ip route add default via 10.9.9.1; exec "$@"' sh "$@"
"#;

/// Hosts on which a sandbox would have a way out: what is wrong with them, the words that make one of this
/// host for a command, and what the verdict names.
fn leaks(site: &Site) -> [(&'static str, Vec<String>, &'static str); 3] {
    let real = site.path("real-unshare");
    std::fs::copy("/usr/bin/unshare", &real).unwrap();
    let real = real.display().to_string();
    let there = |script: &str| -> Vec<String> {
        let place = site.fresh("unshare");
        std::fs::write(&place, script.replace("REAL", &real)).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&place, open).unwrap();
        let bind = "mount --bind \"$0\" /usr/bin/unshare && exec \"$@\"";
        let place = place.display().to_string();
        let words = [real.as_str(), "--mount", "sh", "-c", bind, &place];
        words.map(str::to_owned).to_vec()
    };
    let container = "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin --";
    let container = container.split(' ').map(str::to_owned).collect();
    [
        (
            "the host's own network",
            there(FORGETS_THE_NETWORK),
            "shares the host's",
        ),
        ("an interface with a route", there(ADDS_A_WAY_OUT), "way0"),
        (
            "a container that may make no network",
            container,
            "offers no isolation",
        ),
    ]
}

#[test]
fn a_sandbox_with_a_way_out_fails_the_drill_before_anything_is_started() {
    if !is_root() {
        skip("only root can put another unshare in the place of the system's, for itself alone");
        return;
    }
    let veth = "ip link add way0 type veth peer name way1";
    if !succeeds(Command::new("unshare").args(["--net", "sh", "-c", veth])) {
        skip("no pair of network interfaces can be made here");
        return;
    }
    let site = protected();
    let cases = leaks(&site);
    for (what, words, named) in &cases {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ran = Ran::of(&mut within(&words, &command(&site, &[])));
        // THEN it fails, and its first cause is that
        assert_eq!(ran.code, FAILED, "{what}: {ran}");
        let report = ran.json();
        assert_eq!(report["verdict"], "FAIL", "{what}: {ran}");
        let cause = cause(&report);
        assert!(
            cause.starts_with("the sandbox was not sealed") && cause.contains(named),
            "{what}: {cause}"
        );
        // AND the database was not even opened there
        let asked = report["checks"].as_array().unwrap().iter();
        let asked: Vec<&Value> = asked.filter(|check| check["level"] == "logical").collect();
        assert!(asked.is_empty(), "{what}: {asked:?}");
        assert_eq!(
            report["handling"]["teardown"]["verified_absent"], true,
            "{what}: {ran}"
        );
        // AND the record says how it was isolated, or that it wasn't
        let isolation = &report["environment"]["isolation"];
        assert_ne!(
            isolation["egress_probe_result"], "refused",
            "{what}: {isolation:#}"
        );
        let record = newest_record(&site).to_string();
        assert!(record.contains("not sealed"), "{what}: {record}");
    }
    drill_from(&site, &[&site.regions[0]], &[]).ends_with(PASSED);
}

/// A file system of somebody's, mounted in the scratch of a drill that runs.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=1m", "tidemark-test"];
        assert!(succeeds(Command::new("mount").args(mount).arg(&path)));
        std::fs::write(path.join("precious"), "x").unwrap();
        Self(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// Something is mounted in a drill's scratch: it fails, spares that, and is cleaned up after by the next
/// command.
pub(crate) fn a_mount_stays_in_the_scratch(site: &Site, words: &[&str]) {
    if !is_root() {
        skip("only root mounts");
        return;
    }
    let (mut daemon, scratch) = held(site, words);
    let mounted = Mounted::at(scratch.join("foreign"));
    daemon.signal("CONT");
    assert_eq!(daemon.wait(), FAILED, "{}", daemon.log());
    let said = report(&daemon);
    assert_eq!(said["verdict"], "FAIL", "{said:#}");
    let cause = cause(&said);
    assert!(
        cause.starts_with("the scratch was not destroyed") && cause.contains("mounted"),
        "{cause}"
    );
    assert!(cause.contains(&scratch.display().to_string()), "{cause}");
    // What is mounted there was somebody's; what was restored is gone all the same.
    assert!(mounted.0.join("precious").exists());
    assert!(
        !scratch.join("data").exists(),
        "the database is still there"
    );
    site.tool(&["list"]).says(&["something is left", "mounted"]);
    drop(mounted);
    site.tool(&["list"]).ok();
    assert!(!scratch.exists(), "{} is still there", scratch.display());
}

#[test]
fn what_is_mounted_in_the_scratch_is_spared_and_fails_the_drill() {
    a_mount_stays_in_the_scratch(&protected(), &[]);
}

/// The drills on record, by verdict.
fn verdicts(site: &Site) -> Vec<String> {
    let list = site.tool(&["drill", "list", "--json"]).json();
    let drills = list["drills"].as_array().expect("drills").iter();
    let verdicts = drills.filter_map(|drill| drill["verdict"].as_str());
    verdicts.map(str::to_owned).collect()
}

#[test]
fn a_drill_that_is_cut_at_any_moment_never_passes_and_leaves_nothing() {
    let site = protected();
    let folder = site.path("scratch");
    std::fs::create_dir(&folder).unwrap();
    let open = || std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&folder, open()).unwrap();
    std::fs::set_permissions(site.path(""), open()).unwrap();
    let place = folder.display().to_string();
    let words = ["--scratch", place.as_str()];
    let whole = drill(&site, &words).ends_with(PASSED).took;
    let cuts = if long() { CUTS_LONG } else { CUTS };
    // Whatever the machine's speed: one is cut in its middle.
    let (mut first, scratch) = held(&site, &words);
    first.kill();
    // Those that die while their scratch is there have no record yet, of whatever they would have found.
    let mut torn = BTreeSet::from([scratch]);
    let passed = |verdicts: &[String]| verdicts.iter().filter(|is| *is == "PASS").count();
    let mut ended = passed(&verdicts(&site));
    for cut in 1..=cuts {
        // All over its time, not only where it begins.
        let mut daemon = begun(&site, &words);
        pass(whole * cut / (cuts + 1));
        if daemon.ended().is_some() {
            ended += 1;
        }
        daemon.kill();
        torn.extend(scratches(&site));
    }
    // WHEN another command runs, THEN no scratch and no process is left
    eventually("nothing is left of the scratches", SOON, || {
        site.tool(&["list"]).ok();
        let left = std::fs::read_dir(&folder).unwrap().count();
        (left == 0 && processes_of(&folder).is_empty()).then_some(())
    });
    // AND each is on record by the next drill: as what it is
    drill(&site, &words).ends_with(PASSED);
    ended += 1;
    let verdicts = verdicts(&site);
    let passed = passed(&verdicts);
    let unknown = verdicts
        .iter()
        .filter(|verdict| *verdict == "INCONCLUSIVE")
        .count();
    assert_eq!(passed + unknown, verdicts.len(), "{verdicts:?}");
    assert!(unknown >= torn.len(), "{torn:?}: {verdicts:?}");
    // Some may be killed after their record was stored.
    assert!(passed >= ended, "{ended}: {verdicts:?}");
    let root = format!("{}.root", site.identity.display());
    site.tool(&["keys", "enrol", "--all", "--root", &root]).ok();
    site.tool(&["evidence", "verify"]).ok();
}

#[test]
fn two_drills_of_one_source_at_once_both_count() {
    let site = protected();
    let mut both = [begun(&site, &[]), begun(&site, &[])];
    for daemon in &mut both {
        assert_eq!(daemon.wait(), PASSED, "{}", daemon.log());
        let report = report(daemon);
        assert_eq!(
            report["handling"]["teardown"]["verified_absent"], true,
            "{report:#}"
        );
    }
    assert_eq!(verdicts(&site), ["PASS", "PASS"]);
    let root = format!("{}.root", site.identity.display());
    site.tool(&["keys", "enrol", "--all", "--root", &root]).ok();
    site.tool(&["evidence", "verify"]).ok();
}

#[test]
fn a_full_disk_is_no_verdict_on_the_backup_and_costs_no_record() {
    let site = protected();
    let open = || std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(site.path(""), open()).unwrap();
    // GIVEN too little room for a scratch: that is seen before anything is read
    let folder = site.path("small");
    let Some(disk) = SmallDisk::mount(&folder, 64) else {
        return;
    };
    std::fs::set_permissions(&folder, open()).unwrap();
    let place = folder.display().to_string();
    let words = ["--scratch", place.as_str()];
    let ran = drill(&site, &words).ends_with(15);
    assert_eq!(ran.json()["verdict"], "INCONCLUSIVE", "{ran}");
    assert!(cause(&ran.json()).contains("are free"), "{ran}");
    // GIVEN room that is taken by somebody else in the middle
    disk.resize(512);
    let (mut daemon, _) = held(&site, &words);
    disk.fill("ballast");
    daemon.signal("CONT");
    let code = daemon.wait();
    let said = report(&daemon);
    // It may have laid out the small database before.
    if code == PASSED {
        assert_eq!(said["verdict"], "PASS", "{said:#}");
    } else {
        assert_eq!(said["verdict"], "INCONCLUSIVE", "{said:#}");
        assert!(cause(&said).contains("space"), "{said:#}");
    }
    assert_eq!(said["handling"]["teardown"]["verified_absent"], true);
    drop(disk);
    // GIVEN no room for what this machine keeps of its evidence
    let home = site.path("state-home");
    std::fs::rename(&home, site.path("state-home-before")).unwrap();
    let Some(disk) = SmallDisk::mount(&home, 1) else {
        return;
    };
    disk.fill("ballast");
    let before = verdicts(&site).len();
    let ran = drill(&site, &[]).ends_with(PASSED);
    assert!(ran.json()["evidence_id"].is_string(), "{ran}");
    assert_eq!(verdicts(&site).len(), before + 1, "the regions have it");
    drop(disk);
}

#[test]
fn regions_that_go_in_the_middle_leave_a_drill_without_a_verdict_or_with_the_other_one() {
    let site = protected();
    let hide = |number: usize| {
        let folder = site.region_folder(number);
        let hidden = site.fresh("hidden");
        std::fs::rename(&folder, &hidden).unwrap();
        (hidden, folder)
    };
    // GIVEN one of two: the other serves, and that is told
    let (mut daemon, _) = held(&site, &[]);
    let (hidden, folder) = hide(0);
    daemon.signal("CONT");
    let code = daemon.wait();
    let said = report(&daemon);
    std::fs::rename(hidden, folder).unwrap();
    assert_eq!(code, EXCEPTIONS, "{said:#}");
    assert!(
        said["exceptions"].to_string().contains("region-a"),
        "{said:#}"
    );
    // GIVEN both: nobody knows, and the record waits here
    let (mut daemon, _) = held(&site, &[]);
    let both = [hide(0), hide(1)];
    daemon.signal("CONT");
    let code = daemon.wait();
    let said = report(&daemon);
    for (hidden, folder) in both {
        std::fs::rename(hidden, folder).unwrap();
    }
    assert_eq!(said["handling"]["teardown"]["verified_absent"], true);
    drill(&site, &[]).ends_with(PASSED);
    // It may have read everything before: then it could not compare the regions, and says that.
    if code == EXCEPTIONS {
        let exceptions = said["exceptions"].to_string();
        assert!(exceptions.contains("region"), "{said:#}");
        assert!(verdicts(&site).contains(&"PASS_WITH_EXCEPTIONS".to_owned()));
    } else {
        assert_eq!(code, 16, "{said:#}");
        assert_eq!(said["verdict"], "INCONCLUSIVE", "{said:#}");
        assert!(verdicts(&site).contains(&"INCONCLUSIVE".to_owned()));
    }
}

#[test]
fn a_key_that_is_revoked_in_the_middle_proves_nothing() {
    let site = protected();
    let root = format!("{}.root", site.identity.display());
    drill(&site, &[]).ends_with(PASSED);
    site.tool(&["keys", "enrol", "--all", "--root", &root]).ok();
    // All on record, and those that count.
    let proved = || {
        let list = site.tool(&["drill", "list", "--json"]).json();
        let drills = list["drills"].as_array().expect("drills").clone();
        let counting = drills.iter().filter(|drill| drill["doubt"].is_null());
        (drills.len(), counting.count())
    };
    assert_eq!(proved(), (1, 1));
    // WHEN its signer is revoked while it runs
    let (mut daemon, _) = held(&site, &[]);
    let (all, counting) = proved();
    let keys = site.tool(&["keys", "list", "--json"]).json();
    let members = keys["members"].as_array().expect("members").iter();
    let mut drills = members.filter(|key| key["role"] == "drill");
    let id = drills.next().expect("the drill's key")["key"].clone();
    let id = id.as_str().expect("a key");
    let revoke = ["keys", "revoke", id, "--reason", "stolen"];
    let signed = ["--root", root.as_str(), "--yes"];
    site.tool(&[&revoke[..], &signed[..]].concat()).ok();
    daemon.signal("CONT");
    // THEN it says so, and its record does not count; nor does any later one
    assert_eq!(daemon.wait(), KEY, "{}", daemon.log());
    let said = report(&daemon);
    assert_eq!(said["verdict"], "INCONCLUSIVE", "{said:#}");
    assert!(cause(&said).contains("was revoked"), "{said:#}");
    assert_eq!(said["handling"]["teardown"]["verified_absent"], true);
    assert_eq!(proved(), (all + 1, counting));
    let ran = drill(&site, &[]).ends_with(KEY);
    assert!(cause(&ran.json()).contains("was revoked"), "{ran}");
    assert_eq!(proved(), (all + 2, counting));
}

#[test]
fn without_anything_to_restore_a_drill_says_so() {
    // GIVEN a repository that nobody has written to
    let site = Site::new();
    let ran = drill(&site, &[]);
    assert_ne!(ran.code, PASSED, "{ran}");
    // GIVEN a source that was retired: it can be restored for as long as its history is kept
    let site = Site::new();
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    site.agent(&["retire", "--yes"]).ok();
    daemon.terminate();
    let ran = drill(&site, &[]).ends_with(PASSED);
    assert_eq!(ran.json()["verdict"], "PASS", "{ran}");
    // GIVEN a claim without a base or a recovery point
    for region in 0..2 {
        for prefix in ["meta/point/", "meta/base/", "meta/log/", "data/"] {
            for path in objects(&site.region_folder(region), prefix).into_values() {
                std::fs::remove_file(path).unwrap();
            }
        }
    }
    let ran = drill(&site, &[]).ends_with(FAILED);
    assert_eq!(ran.json()["verdict"], "FAIL", "{ran}");
    assert!(cause(&ran.json()).starts_with("chain"), "{ran}");
}

#[test]
fn a_drill_that_takes_too_long_is_ended_and_counts_for_nothing() {
    let site = protected();
    let ran = drill(&site, &["--timeout", "1ms"]);
    assert_ne!(ran.code, PASSED, "{ran}");
    let report = ran.json();
    assert_eq!(report["verdict"], "INCONCLUSIVE", "{ran}");
    assert!(cause(&report).contains("timeout"), "{ran}");
    drill(&site, &["--timeout", "5m"]).ends_with(PASSED);
}
