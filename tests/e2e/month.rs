//! A month of scheduled drills on a host that has the restore tool, an identity of its own and one region, and
//! nothing else: what the month's report says, and what each thing that breaks meanwhile looks like.
//!
//! **Time.** Every program's wall clock is the machine's and an offset that stands in a file (libfaketime); the
//! test moves it on from each night's drill to the next evening. All waits are real. The drills' daemon is one
//! process for all of the month. The agent is started anew each evening, on a machine that says that it has been
//! up for as long (a time namespace) and is another one than the drills' (another machine-id): so every night
//! has a state that is seconds old, and the weeks between are not captured. Clauses about every instant of a
//! month are therefore not for this test: they fail here, as they must.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rusqlite::Connection;
use serde_json::Value;
use tidemark_testkit::FakeTime;
use tidemark_tests::{eventually, program};

use crate::objects::objects;
use crate::process::{Daemon, Ran, SOON, is_root, now, skip};
use crate::site::Site;
use crate::writer;

const DAY: i64 = 86_400;
/// Days before today on which the month begins.
const AGO: i64 = 29;
/// Seconds from midnight to the evening's backup, and to a moment after the drill's slot. A backup takes
/// some seconds, and is over before that slot on a machine that is many times slower.
const BACKUP: i64 = 3 * 3_600 - 300;
const DRILL: i64 = 3 * 3_600 + 5;
/// A drill on a busy machine.
const DRILLED_WITHIN: Duration = Duration::from_secs(180);
const PRESETS: [&str; 5] = ["tasklexa", "heretask", "soc2", "loadster", "xaasware"];

/// The wall clock of all programs.
struct Calendar {
    file: PathBuf,
    midnight: Timestamp,
    offset: Cell<i64>,
    first: i64,
}

impl Calendar {
    fn new(folder: &Path) -> Self {
        let day = now().as_second() / DAY - AGO;
        let midnight = Timestamp::from_second(day * DAY).expect("a day");
        let mut calendar = Self {
            file: folder.join("clock"),
            midnight,
            offset: Cell::new(i64::MIN),
            first: 0,
        };
        calendar.set(0, 0);
        calendar.first = calendar.offset.get();
        calendar
    }

    /// Sets the clock to seconds after a day's midnight.
    fn set(&self, day: i64, second: i64) {
        let at = self.midnight.as_second() + day * DAY + second;
        let offset = at - now().as_second();
        assert!(offset >= self.offset.get(), "time goes on");
        self.offset.set(offset);
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{offset:+}\n")).expect("a clock");
        std::fs::rename(&new, &self.file).expect("it is set");
    }

    /// Seconds by which the clock was moved so far.
    fn passed(&self) -> i64 {
        self.offset.get() - self.first
    }

    fn now(&self) -> Timestamp {
        now() + SignedDuration::from_secs(self.offset.get())
    }

    /// A day as a command takes it.
    fn date(&self, day: i64) -> String {
        let at = self.midnight + SignedDuration::from_secs(day * DAY);
        at.strftime("%Y-%m-%d").to_string()
    }

    fn day_of_month(&self, day: i64) -> i8 {
        let at = self.midnight + SignedDuration::from_secs(day * DAY);
        at.to_zoned(TimeZone::UTC).day()
    }
}

/// The host of drills.
struct Host<'a> {
    calendar: &'a Calendar,
    folder: PathBuf,
    time: Vec<(String, String)>,
    /// The key that signs its records.
    signer: String,
}

impl Host<'_> {
    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// A command of the one program that is there, which knows of nothing else.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.folder.join("tidemark-restore"));
        command.env_clear().envs(self.time.iter().cloned());
        command
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &self.folder);
        command.current_dir(&self.folder).stdin(Stdio::null());
        command.args(words);
        command
    }

    /// Runs a command by the host's config.
    fn run(&self, words: &[&str]) -> Ran {
        Ran::of(
            self.command(words)
                .arg("--config")
                .arg(self.folder.join("restore.toml")),
        )
    }

    /// A drill every night, a random minute twice, and once the whole way on a new machine.
    fn configure(&self, region: &str) {
        let random = [5, 12].map(|day| self.calendar.day_of_month(day).to_string());
        let fresh = self.calendar.day_of_month(14);
        let text = format!(
            "identity = \"{identity}\"\nstate_dir = \"{state}\"\n\
             [objectives]\nrpo = \"15m\"\nrto = \"1h\"\ndrill_every = \"3d\"\n\
             [[region]]\nname = \"second\"\nurl = \"{region}\"\ncountry = \"DK\"\n\
             [drills]\nlook_every = \"1s\"\nmetrics_file = \"{metrics}\"\n\
             [[drill]]\nname = \"nightly\"\nsource = \"app\"\nschedule = \"0 3 * * *\"\n\
             [[drill.assert]]\nid = \"victims\"\nsql = \"SELECT count(*) FROM victim NOT INDEXED\"\nexpect = 3\n\
             [[drill]]\nname = \"random\"\nsource = \"app\"\nschedule = \"0 3 {random} * *\"\nselect = \"random\"\n\
             [[drill]]\nname = \"new-machine\"\nsource = \"app\"\nschedule = \"0 3 {fresh} * *\"\n\
             scenario = \"fresh-host\"\n",
            identity = self.path("identity"),
            state = self.path("state"),
            metrics = self.path("drills.prom"),
            random = random.join(","),
        );
        std::fs::write(self.folder.join("restore.toml"), text).expect("a config is written");
    }

    fn start(&self) -> Daemon {
        let mut command = self.command(&["run", "--config"]);
        command.arg(self.folder.join("restore.toml"));
        Daemon::start(&mut command, &self.folder.join("log"))
    }
}

/// The drills that ended so far, by what the daemon says.
fn ended(daemon: &Daemon) -> usize {
    let log = daemon.log();
    let words = ["drill passed", "drill failed", "drill inconclusive"];
    words.iter().map(|words| log.matches(words).count()).sum()
}

/// Everything of the story.
struct Story<'a> {
    site: &'a Site,
    calendar: &'a Calendar,
    host: Host<'a>,
}

impl Story<'_> {
    /// An evening: the application writes, and everything is in both regions. The agent as on another machine.
    fn back_up(&self, day: i64) {
        self.calendar.set(day, BACKUP);
        let up = self.calendar.passed();
        let id = self.site.path("machine-id");
        std::fs::write(&id, "0123456789abcdef0123456789abcdef\n").expect("a machine-id");
        let agent = self.site.command("tidemark-agent");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--time", "--boottime", &up.to_string()]);
        command.args(["--fork", "--kill-child", "sh", "-c"]);
        command
            .arg("mount --bind \"$0\" /etc/machine-id && exec \"$@\"")
            .arg(&id);
        command
            .arg(agent.get_program())
            .arg("run")
            .arg("--config")
            .arg(&self.site.config);
        command.current_dir(self.site.path(""));
        for (name, value) in agent.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut daemon = Daemon::start(&mut command, &self.site.fresh("agent-log"));
        let socket = self.site.state().join("control.sock");
        eventually("the agent listens", SOON, || {
            daemon.assert_running();
            std::os::unix::net::UnixStream::connect(&socket).ok()
        });
        writer::write(&self.site.database, 5);
        self.site.agent(&["snapshot"]).ok();
        self.site.wait_shipped_to(2, self.calendar.now());
        daemon.kill();
    }

    /// A night: what is due is drilled; how many drills that is.
    fn drill(&self, day: i64, daemon: &mut Daemon) -> usize {
        let before = ended(daemon);
        let due = match day {
            5 | 12 | 14 => 2,
            _ => 1,
        };
        self.calendar.set(day, DRILL);
        eventually(
            &format!("the drills of day {day} end"),
            DRILLED_WITHIN,
            || {
                daemon.assert_running();
                (ended(daemon) >= before + due).then_some(())
            },
        );
        assert_eq!(ended(daemon), before + due, "{}", daemon.log());
        due
    }

    /// A day and its night.
    fn pass(&self, day: i64, daemon: &mut Daemon) -> usize {
        self.back_up(day);
        self.drill(day, daemon)
    }

    /// The newest drill failed, and every place where somebody may look says so: with the rung, a cause that
    /// holds `word`, and what to do.
    fn assert_failed(&self, daemon: &Daemon, rung: &str, word: &str) {
        let log = daemon.log();
        let line = log.lines().rfind(|line| line.contains("drill failed"));
        let line = line.unwrap_or_else(|| panic!("no drill failed:\n{log}"));
        assert!(line.contains("TM1801") && line.contains("next="), "{line}");
        let list = self.host.run(&["drill", "list", "--json"]).json();
        let drills = list["drills"].as_array().expect("drills");
        let last = drills.iter().max_by_key(|drill| drill["at"].to_string());
        let last = last.expect("a drill");
        assert_eq!(last["verdict"], "FAIL", "{list:#}");
        let id = last["id"].as_str().expect("an id");
        let shown = self
            .host
            .run(&["evidence", "show", id, "--json"])
            .ok()
            .json();
        let predicate = &shown["statement"]["predicate"];
        let cause = predicate["result"].to_string();
        assert!(
            cause.contains(rung) && cause.contains(word),
            "{rung}, {word}: {cause}"
        );
        let status = self.host.run(&["status"]);
        assert!(status.code != 0, "{status}");
        assert!(
            status.out.contains(&format!("evidence show {id}")),
            "{status}"
        );
        let metrics = || std::fs::read_to_string(self.host.path("drills.prom")).ok();
        let alert = "tidemark_drill_alert_active{code=\"TM1801\",about=\"nightly\"} 1";
        eventually("the metrics have the alert", SOON, || {
            metrics()?.contains(alert).then_some(())
        });
    }

    /// All clauses of the published policies, by policy and id: verdict and what was found.
    #[expect(clippy::print_stderr, reason = "each clause's verdict is told")]
    fn clauses(&self) -> BTreeMap<(String, String), (String, String)> {
        let mut all = BTreeMap::new();
        for preset in PRESETS {
            let ran = self
                .host
                .run(&["policy", "check", "--policy", preset, "--json"]);
            assert!([0, 3, 17].contains(&ran.code), "{ran}");
            let checked = ran.json();
            for clause in checked["sources"][0]["clauses"]
                .as_array()
                .expect("clauses")
            {
                let text = |name: &str| clause[name].as_str().unwrap_or_default().to_owned();
                eprintln!(
                    "{preset} {} {}: {}",
                    text("verdict"),
                    text("id"),
                    text("measured")
                );
                let key = (preset.to_owned(), text("id"));
                all.insert(key, (text("verdict"), text("measured")));
            }
        }
        all
    }

    /// Revokes a key of the host's.
    fn revoke(&self, key: &str, root: &str) {
        let why = ["--reason", "laptop lost", "--yes", "--root", root];
        let words = [&["keys", "revoke", key], &why[..]].concat();
        self.site.tool(&words).ok();
    }

    /// The key that the agents seal to for the host.
    fn recipient(&self) -> String {
        let keys = self.site.tool(&["keys", "list", "--json"]).ok().json();
        let all = keys["recipients"].as_array().expect("recipients");
        let own = all.iter().find(|key| key["name"] == "drill-host");
        let own = own.unwrap_or_else(|| panic!("{keys:#}"));
        own["key"].as_str().expect("a key").to_owned()
    }
}

/// A table whose index will still have what the table has not.
fn victims(database: &Path) {
    let app = Connection::open(database).unwrap();
    app.execute_batch(
        "CREATE TABLE victim(id INTEGER PRIMARY KEY, name TEXT); CREATE INDEX victim_name ON victim(name); \
         INSERT INTO victim VALUES (1, 'a'), (2, 'b'), (3, 'c')",
    )
    .unwrap();
}

/// Deletes a row behind the database's back: every page stays as it should be.
fn delete_behind(database: &Path) {
    for step in [
        "PRAGMA writable_schema = ON; \
         CREATE TABLE hidden AS SELECT * FROM sqlite_schema WHERE name = 'victim_name'; \
         DELETE FROM sqlite_schema WHERE name = 'victim_name'",
        "DELETE FROM victim WHERE id = 2; PRAGMA writable_schema = ON; \
         INSERT INTO sqlite_schema SELECT * FROM hidden; DROP TABLE hidden",
    ] {
        Connection::open(database)
            .unwrap()
            .execute_batch(step)
            .unwrap();
    }
}

/// Puts it back.
fn mend(database: &Path) {
    let app = Connection::open(database).unwrap();
    app.execute_batch("REINDEX; INSERT INTO victim VALUES (2, 'b')")
        .unwrap();
}

/// The pack's own recipe, as an auditor runs it.
fn assert_verifies(pack: &Path) {
    let text = std::fs::read_to_string(pack.join("HOWTO.md")).expect("a recipe");
    let scripts: Vec<&str> = text
        .split("```sh\n")
        .skip(1)
        .filter_map(|block| block.split("\n```").next())
        .collect();
    assert_eq!(scripts.len(), 2, "{scripts:?}");
    for script in scripts {
        let mut command = Command::new("sh");
        let ran = Ran::of(command.args(["-e", "-c", script]).current_dir(pack));
        assert_eq!(ran.code, 0, "{ran}");
    }
}

/// The site, whose programs all go by the calendar, and the host of drills, whose keys the root has vouched for.
fn host<'a>(
    site: &Site,
    calendar: &'a Calendar,
    time: Vec<(String, String)>,
    root: &str,
) -> Host<'a> {
    let folder = site.path("drill-host");
    std::fs::create_dir(&folder).expect("a folder");
    // Who runs the restored database must get to the program.
    for open in [site.path(""), folder.clone()] {
        std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o755)).expect("open");
    }
    std::fs::copy(program("tidemark-restore"), folder.join("tidemark-restore"))
        .expect("the program");
    let mut host = Host {
        calendar,
        folder,
        time,
        signer: String::new(),
    };
    let keys = site.tool(&["keys", "list", "--json"]).ok().json();
    let any = keys["recipients"][0]["recipient"]
        .as_str()
        .expect("a key")
        .to_owned();
    let identity = host.path("identity");
    let new = [
        "keys",
        "new",
        "--repository",
        &any,
        "--out",
        &identity,
        "--json",
    ];
    let made = Ran::of(&mut host.command(&new)).ok().json();
    let public = made["recipient"].as_str().expect("a key");
    let name = ["--name", "drill-host", "--root", root];
    site.tool(&[&["keys", "enrol", "--recipient", public], &name[..]].concat())
        .ok();
    host.configure(&site.regions[1]);
    host.run(&["config", "check"]).ok();
    // Nothing is due; it asks for its key to be vouched for.
    let requests = || -> Vec<Value> {
        let keys = site.tool(&["keys", "list", "--json"]).ok().json();
        keys["requests"].as_array().expect("requests").clone()
    };
    let before = requests();
    host.run(&["drill", "run", "--due"]).ok();
    let request = requests().into_iter().find(|one| !before.contains(one));
    let key = request.expect("a request")["key"]
        .as_str()
        .expect("its key")
        .to_owned();
    site.tool(&["keys", "enrol", "--all", "--root", root]).ok();
    host.signer = key;
    host
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
fn a_month_of_scheduled_drills_on_a_host_of_its_own_satisfies_an_auditor_and_hides_nothing() {
    let Some(faketime) = FakeTime::find() else {
        return;
    };
    if !is_root() {
        skip("only root gives an agent a machine-id and a time since boot of its own");
        return;
    }
    // GIVEN a database in two regions, and a host that knows of the second one only
    let mut site = Site::plan();
    let calendar = Calendar::new(&site.path(""));
    let time = faketime.following(&calendar.file);
    for (name, value) in &time {
        site.environment(name, value);
    }
    writer::create(&site.database);
    victims(&site.database);
    site.init();
    let root = format!("{}.root", site.identity.display());
    let story = Story {
        site: &site,
        calendar: &calendar,
        host: host(&site, &calendar, time, &root),
    };
    let host = &story.host;
    let mut daemon = host.start();
    eventually("the schedule is owned", SOON, || {
        daemon.assert_running();
        daemon.log().contains("ready").then_some(())
    });
    let mut drills = 0;
    // WHEN a week goes by
    for day in 0..8 {
        drills += story.pass(day, &mut daemon);
    }
    assert_eq!(
        daemon.log().matches("drill passed").count(),
        drills,
        "{}",
        daemon.log()
    );
    // AND the pack of the newest base is deleted in the host's region
    story.back_up(8);
    let region = site.region_folder(1);
    let packs = objects(&region, "data/pack/");
    let newest = packs.into_values().next_back().expect("a pack");
    let kept = site.path("kept");
    std::fs::rename(&newest, &kept).expect("deleted");
    drills += story.drill(8, &mut daemon);
    // THEN the drill goes by the base before it, and doesn't keep that to itself
    let log = daemon.log();
    let line = log
        .lines()
        .rfind(|line| line.contains("drill passed with exceptions"));
    let name = newest.file_name().expect("a name").to_string_lossy();
    assert!(
        line.is_some_and(|line| line.contains(&*name) && line.contains("is missing")),
        "{log}"
    );
    // AND with all packs gone the next one fails, by their name
    story.back_up(9);
    let (packs, gone) = (region.join("data/pack"), site.path("gone"));
    std::fs::rename(&packs, &gone).expect("deleted");
    drills += story.drill(9, &mut daemon);
    story.assert_failed(&daemon, "chain", "data/pack/");
    std::fs::rename(&gone, &packs).expect("brought back");
    std::fs::rename(&kept, &newest).expect("brought back");
    for day in 10..18 {
        drills += story.pass(day, &mut daemon);
    }
    // AND a row that is deleted behind the database's back fails one of the next
    delete_behind(&site.database);
    drills += story.pass(18, &mut daemon);
    story.assert_failed(&daemon, "logical", "victim");
    mend(&site.database);
    for day in 19..24 {
        drills += story.pass(day, &mut daemon);
    }
    assert_eq!(
        daemon.log().matches("drill passed").count(),
        drills - 2,
        "{}",
        daemon.log()
    );
    // AND once somebody has signed off the drill on a new machine, an auditor reads of each policy what drills prove
    let list = host.run(&["drill", "list", "--json"]).json();
    let all = list["drills"].as_array().expect("drills").clone();
    let fresh = all
        .iter()
        .find(|drill| drill.to_string().contains("fresh-host"));
    let fresh = fresh.expect("the drill on a new machine")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let review = [
        "--reviewer",
        "Ann",
        "--ticket",
        "T-7",
        "--decision",
        "approved",
    ];
    host.run(&[&["evidence", "sign-off", &fresh], &review[..]].concat())
        .ok();
    let clauses = story.clauses();
    for (preset, id) in [
        ("tasklexa", "rto"),
        ("heretask", "monthly-test"),
        ("soc2", "restore-test"),
        ("soc2", "dr-plan"),
        ("soc2", "production-data"),
        ("xaasware", "dr-tests"),
        ("xaasware", "major-disaster"),
        ("xaasware", "unseen"),
    ] {
        let (verdict, measured) = &clauses[&(preset.to_owned(), id.to_owned())];
        assert_eq!(verdict, "PASS", "{preset} {id}: {measured}");
    }
    // AND when the host's recipient is revoked, it opens nothing that is written from then on
    story.revoke(&story.recipient(), &root);
    drills += story.pass(24, &mut daemon);
    story.assert_failed(&daemon, "decrypt", "identit");
    // AND when its signing key is revoked, it drills no more, and says why
    story.revoke(&host.signer, &root);
    daemon.signal("HUP");
    eventually("it knows that it was revoked", SOON, || {
        daemon.assert_running();
        daemon.log().contains("TM1203").then_some(())
    });
    story.back_up(25);
    calendar.set(25, DRILL);
    let before = ended(&daemon);
    let due = eventually("the slot is told as overdue or waits", SOON, || {
        let metrics = std::fs::read_to_string(host.path("drills.prom")).ok()?;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("tidemark_drill_due{drill=\"nightly\""))?;
        line.ends_with(" 1").then(|| line.to_owned())
    });
    assert_eq!(ended(&daemon), before, "{due}: {}", daemon.log());
    daemon.terminate();
    host.run(&["drill", "run", "--due"])
        .ends_with(12)
        .says(&["was revoked", "laptop lost"]);
    // THEN the month's report has every drill, the failed ones with their causes
    let (from, to) = (calendar.date(0), calendar.date(26));
    let export = |kind: &str, format: &str, name: &str| {
        let out = host.path(name);
        let words = ["evidence", "export", "--kind", kind, "--format", format];
        let period = ["--from", &from, "--to", &to, "--out", &out];
        host.run(&[&words[..], &period].concat()).ok();
        PathBuf::from(out)
    };
    let csv = std::fs::read_to_string(export("drills", "csv", "month.csv")).expect("a table");
    let count = |word: &str| csv.lines().filter(|line| line.contains(word)).count();
    assert_eq!(csv.lines().count(), drills + 1, "{csv}");
    assert_eq!((count(",PASS,"), count(",FAIL,")), (drills - 5, 3), "{csv}");
    // A pack that is missing, and a new machine that has a config already.
    assert_eq!(count(",PASS_WITH_EXCEPTIONS,"), 2, "{csv}");
    let html = std::fs::read_to_string(export("drills", "html", "month.html")).expect("a page");
    assert!(
        html.contains("<svg") && html.contains("FAIL"),
        "a page with plots"
    );
    for word in ["data/pack/", "victim", "decrypt"] {
        assert!(csv.contains(word) && html.contains(word), "{word}: {csv}");
    }
    assert_verifies(&export("all", "pack", "month.pack"));
    host.run(&["evidence", "verify"]).ok();
    host.run(&["evidence", "verify", &host.path("month.pack")])
        .ok();
}
