//! The agent of a PostgreSQL server is killed just before the fsyncs, the creates and the answers that
//! it makes: what the server was told as flushed is never missing and never goes back, and the log in
//! the regions is the server's own.
//!
//! The agent runs under `strace`, which kills it before the nth call of one kind that one of its threads
//! makes; what it did before is thereby cut after every call, too. One that is not hit in time is killed
//! by the test, which is a moment as good as any.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use tidemark_format::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
use tidemark_testkit::postgres::{Cluster, Options, Postgres, Stop};
use tidemark_testkit::sqlite::Dice;
use tidemark_tests::eventually;

use crate::objects::objects;
use crate::pg_load::{Rows, Told, Watch, assert_rows_without_gap};
use crate::pg_restore::{newest, restore, start};
use crate::pg_site::{PgSite, SLOT};
use crate::process::{Daemon, SOON, long, pass, skip};

const ROUNDS: u64 = 30;
const ROUNDS_LONG: u64 = 300;
/// Of these the first are over before there is a first base.
const ROUNDS_OF_THE_BASE: u64 = 4;
/// One that is not hit by then is killed by the test. A start takes a third of it on a quiet machine; where
/// most lives end before their cut, the next ones are longer.
const LIFE_MS_MAX: u64 = 1_600;
const LIFE_MS_LIMIT: u64 = 20_000;
/// Where a life ends: kinds of calls, and the most of them that one thread is let to make. Each folder
/// and file that is written is synced, each object gets its name by a link, each answer to the server
/// and each status reply is sent.
const CUTS: [(&str, u64); 4] = [
    ("fsync,fdatasync", 12),
    ("?rename,?renameat,renameat2,?link,linkat", 8),
    ("sendto,sendmsg,writev", 40),
    ("pwrite64,write", 60),
];

/// `TIDEMARK_SEED=N` repeats a run.
fn seed() -> u64 {
    let given = std::env::var("TIDEMARK_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    given.unwrap_or(20_261_122)
}

/// Whether system calls can be cut here.
fn strace_works() -> bool {
    let tried = Command::new("strace").args(["-qq", "true"]).output();
    let works = tried.is_ok_and(|tried| tried.status.success());
    if !works {
        skip("strace is missing, or may not trace here (a container needs CAP_SYS_PTRACE)");
    }
    works
}

/// A site whose segments are small, so that many are begun and ended.
struct Story {
    site: PgSite,
    dice: Dice,
    /// Every log object ever seen, by region and name.
    seen: BTreeMap<(usize, String), blake3::Hash>,
    hit: u64,
    missed: u64,
    life_ms: u64,
}

impl Story {
    fn begin(postgres: &Postgres, seed: u64) -> Self {
        let options = Options {
            segment_megabytes: 1,
            ..Options::default().with("wal_keep_size", "8GB")
        };
        Self {
            site: PgSite::new(postgres, &options),
            dice: Dice::new(seed),
            seen: BTreeMap::new(),
            hit: 0,
            missed: 0,
            life_ms: LIFE_MS_MAX,
        }
    }

    fn chance(&mut self, of: usize) -> usize {
        let of = u64::try_from(of).expect("few");
        usize::try_from(self.dice.below(of)).expect("few")
    }

    /// One life of the agent, from its start to its death.
    fn live_and_die(&mut self) -> String {
        let (calls, most) = CUTS[self.chance(CUTS.len())];
        let nth = 1 + self.dice.below(most);
        let cut = format!("{calls} {nth}");
        let mut daemon = self.launch(calls, nth);
        let life = Duration::from_millis(self.life_ms / 2 + self.dice.below(self.life_ms / 2));
        let mut lived = Duration::ZERO;
        let step = Duration::from_millis(20);
        while lived < life {
            if let Some(code) = daemon.ended() {
                assert_eq!(code, 137, "it ended by itself:\n{}", daemon.log());
                self.hit += 1;
                return cut;
            }
            pass(step);
            lived += step;
        }
        daemon.kill();
        self.missed += 1;
        if self.missed > self.hit + 3 {
            self.life_ms = (self.life_ms * 3 / 2).min(LIFE_MS_LIMIT);
        }
        format!("{cut}, not reached")
    }

    /// The agent as a child of the test's own, with strace beside it.
    fn launch(&self, calls: &str, nth: u64) -> Daemon {
        let log = self.site.site.fresh("agent-log");
        let agent = self.site.site.command("tidemark-agent");
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-qq", "-o", "/dev/null"]);
        command.args(["-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:signal=KILL:when={nth}")]);
        command.arg("--").arg(agent.get_program());
        command
            .arg("run")
            .arg("--config")
            .arg(&self.site.site.config);
        for (name, value) in agent.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null());
        Daemon::start(&mut command, &log)
    }

    /// No log object ever changes, and the regions have the same under each name.
    fn check_objects(&mut self, when: &str) {
        let mut by_name: BTreeMap<String, blake3::Hash> = BTreeMap::new();
        for region in 0..self.site.site.regions.len() {
            let folder = self.site.site.region_folder(region);
            for (name, path) in objects(&folder, "meta/log/") {
                let hash = blake3::hash(&std::fs::read(path).unwrap());
                let before = *self.seen.entry((region, name.clone())).or_insert(hash);
                assert_eq!(before, hash, "{when}: {name} changed in region {region}");
                let other = *by_name.entry(name.clone()).or_insert(hash);
                assert_eq!(other, hash, "{when}: the regions have two different {name}");
            }
        }
        let gone = self
            .seen
            .keys()
            .find(|(_, name)| !by_name.contains_key(name));
        assert_eq!(gone, None, "{when}: it was there");
    }

    /// Where the log ends that a restore from all regions would replay.
    fn shipped_to(&self) -> Lsn {
        let list = self.site.site.tool(&["list", "--json"]).ok().json();
        let windows = list["sources"][0]["windows"].as_array().expect("windows");
        let to = windows.last().map(|window| window["to"]["lsn"].clone());
        let to = to.as_ref().and_then(serde_json::Value::as_str);
        to.and_then(|to| to.parse().ok()).unwrap_or(Lsn(0))
    }

    /// The agent runs undisturbed until everything is in every region.
    fn settle(&self) {
        self.site.start_protected().terminate();
    }
}

/// Every segment from `from` on, out of the repository, is what the server wrote.
fn assert_log_is_the_servers(site: &PgSite, from: Lsn, to: Lsn) {
    let segment = SegmentSize::new(1 << 20).expect("a size");
    let target = site.site.path("segment");
    let mut at = segment.start(from);
    let mut compared = 0;
    while at < to {
        let name = SegmentName::of(TimelineId::FIRST, at, segment).text(segment);
        let path = target.display().to_string();
        site.site
            .tool(&["wal-get", &name, &path, "--prefetch", "0"])
            .ok();
        let ours = std::fs::read(&target).unwrap();
        let theirs = std::fs::read(site.cluster.data_dir().join("pg_wal").join(&name)).unwrap();
        assert_eq!(ours.len(), theirs.len(), "{name}");
        let end = usize::try_from(segment.next(at).min(to).since(at)).expect("fits");
        assert!(ours[..end] == theirs[..end], "{name} differs");
        compared += 1;
        at = segment.next(at);
    }
    assert!(compared > 3, "only {compared} segments were written");
}

fn restored(site: &PgSite) -> Cluster {
    let (ran, cluster) = restore(site, &["--to", "latest"]);
    let report = ran.ok().json();
    assert_eq!(report["proof"], "replayed", "{report}");
    start(&cluster);
    cluster
}

fn rounds() -> u64 {
    if long() { ROUNDS_LONG } else { ROUNDS }
}

#[test]
fn agent_killed_before_any_fsync_create_or_answer_loses_nothing_that_the_server_was_told() {
    let Some(postgres) = newest().filter(|_| strace_works()) else {
        return;
    };
    let seed = seed();
    eprintln!("TIDEMARK_SEED={seed}");
    let mut story = Story::begin(&postgres, seed);
    let mut watch = Watch::start(&story.site.cluster);
    let rows = Rows::start(&story.site.cluster, 1);
    // On a busy machine many a life ends before its cut is reached.
    let enough = |hit: u64| hit * 2 > rounds();
    let wanted = |round: &u64, hit: u64| *round < rounds() || !enough(hit) && *round < 3 * rounds();
    let mut numbers = 0..;
    while let Some(round) = numbers.next().filter(|round| wanted(round, story.hit)) {
        if round == ROUNDS_OF_THE_BASE {
            story.settle();
        }
        let cut = story.live_and_die();
        let when = format!("round {round}, {cut}");
        story.check_objects(&when);
        watch.told();
        if round % 8 == 5 {
            story.site.cluster.sql("SELECT pg_switch_wal()");
        }
    }
    eprintln!("{} of {} cuts were reached", story.hit, rounds());
    assert!(enough(story.hit), "only {} cuts", story.hit);
    let journal = rows.stop();
    story.settle();
    story.check_objects("at the end");
    let told = watch.stop();
    everything_is_there(&story, told, journal.last().expect("rows").id);
}

/// The log in the regions is the server's from its slot's beginning to what it was told and beyond, and
/// every row comes back.
fn everything_is_there(story: &Story, told: Told, last: u64) {
    assert!(told.looks > 100, "{told:?}");
    let shipped = story.shipped_to();
    assert!(shipped >= told.flushed, "{shipped} {told:?}");
    let verified = story.site.site.tool(&["verify", "--json"]).ok().json();
    let damages = verified["damages"].as_array().map(Vec::len);
    assert_eq!(damages, Some(0), "{verified}");
    let from = told.kept_from.expect("a slot");
    assert_log_is_the_servers(&story.site, from, shipped);
    let cluster = restored(&story.site);
    assert_eq!(assert_rows_without_gap(&cluster), last);
}

#[test]
fn agent_killed_while_commits_wait_for_the_regions_loses_none_that_returned() {
    let Some(postgres) = newest().filter(|_| strace_works()) else {
        return;
    };
    let seed = seed();
    eprintln!("TIDEMARK_SEED={seed}");
    let mut story = Story::begin(&postgres, seed);
    story.site.site.set("ack", "\"regions\"");
    story.settle();
    story.site.cluster.sql(&format!(
        "ALTER SYSTEM SET synchronous_standby_names = '{SLOT}'; SELECT pg_reload_conf()"
    ));
    let mut watch = Watch::start(&story.site.cluster);
    let rows = Rows::start(&story.site.cluster, 1);
    // Each life of the agent lets some commits return, and keeps the next one waiting.
    // On a slow machine more lives are needed, and longer ones.
    let wanted =
        |round: &u64, last: u64| *round < rounds() / 2 || last <= 10 && *round < 3 * rounds();
    let mut numbers = 0..;
    while let Some(round) = numbers.next().filter(|round| wanted(round, rows.last())) {
        if round >= rounds() / 2 {
            story.life_ms = (story.life_ms * 3 / 2).min(LIFE_MS_LIMIT);
        }
        let cut = story.live_and_die();
        let when = format!("round {round}, {cut}");
        story.check_objects(&when);
        let (told, shipped) = (watch.told(), story.shipped_to());
        assert!(shipped >= told.flushed, "{when}: {shipped} {told:?}");
    }
    // The last life ends together with the server.
    let daemon = story.site.site.launch();
    let before = rows.last();
    assert!(before > 10, "the lives let only {before} commits return");
    eventually("commits return", SOON, || {
        (rows.last() > before + 20).then_some(())
    });
    drop(daemon);
    story.site.cluster.stop(Stop::Kill).unwrap();
    drop(watch);
    let journal = rows.stop();
    let answered = journal.last().expect("rows").id;
    let cluster = restored(&story.site);
    let there = assert_rows_without_gap(&cluster);
    assert!(there >= answered, "{answered} returned, {there} came back");
}
