//! A server under pgbench is lost with its data directory, and comes back: everything that was
//! acknowledged in time, and a second that a person chose; also with a promotion in the middle.
//!
//! Beside pgbench one session commits numbered rows and keeps a journal of when each was answered.

use std::process::{Child, Stdio};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tidemark_format::postgres::Lsn;
use tidemark_testkit::postgres::{Cluster, Options, Postgres, Stop};
use tidemark_tests::eventually;

use crate::pg_load::{Row, Rows, answered_by, assert_rows_without_gap};
use crate::pg_restore::{newest, restore, start};
use crate::pg_site::{PgSite, conninfo};
use crate::process::{SOON, long, now, pass};

const SHIP_EVERY: SignedDuration = SignedDuration::from_millis(500);
const SHIP_EVERY_TEXT: &str = "\"500ms\"";
/// Of each half: before the chosen second and after it. On a slow machine it lasts until enough was done.
const HALF: Duration = Duration::from_secs(4);
const HALF_LONG: Duration = Duration::from_secs(300);
/// Rows of the journal, and transactions of pgbench, that each part has at least.
const ENOUGH: u64 = 130;

fn half() -> Duration {
    if long() { HALF_LONG } else { HALF }
}

/// What the agent promises: everything that was committed until then is in every region.
fn promised_until(site: &PgSite) -> Timestamp {
    let status = site.site.status();
    let names = status.regions();
    let safe = names.iter().map(|name| status.safe_until(name));
    safe.min().flatten().expect("something is safe everywhere")
}

/// Waits until the agent is no more than an interval behind, and says until when everything is promised.
/// Elsewhere than on a machine that keeps it from its core, that is so at any time.
#[track_caller]
fn promise_kept_up(site: &PgSite) -> Timestamp {
    let since = now();
    eventually("the agent keeps up under load", SOON, || {
        Some(promised_until(site)).filter(|until| *until + SHIP_EVERY >= since)
    })
}

/// pgbench with its own tables, and the session that keeps a journal.
struct Load {
    pgbench: Child,
    rows: Rows,
}

impl Load {
    fn prepare(cluster: &Cluster) {
        let scale = if long() { "20" } else { "2" };
        let mut command = cluster.command("pgbench");
        command.args(["--initialize", "--quiet", "--scale", scale]);
        let made = command.stdin(Stdio::null()).output().expect("pgbench runs");
        assert!(made.status.success(), "{made:?}");
    }

    /// Goes on with row `first` until it is stopped or the server dies.
    fn start(cluster: &Cluster, first: u64) -> Self {
        let mut command = cluster.command("pgbench");
        command.args(["--no-vacuum", "--client=4", "--jobs=1", "--time=3600"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let pgbench = command.stderr(Stdio::null()).spawn().expect("pgbench runs");
        Self {
            pgbench,
            rows: Rows::start(cluster, first),
        }
    }

    /// Lets it go on for so long, and until enough was done since row `from`.
    #[track_caller]
    fn goes_on(&self, cluster: &Cluster, from: u64, time: Duration) {
        pass(time);
        eventually("enough was committed", SOON, || {
            let done: u64 = cluster
                .query("SELECT count(*) FROM pgbench_history")
                .parse()
                .ok()?;
            (done > ENOUGH && self.rows.last() > from + ENOUGH).then_some(())
        });
    }

    /// The journal.
    fn stop(mut self) -> Vec<Row> {
        drop(self.pgbench.kill());
        drop(self.pgbench.wait());
        self.rows.stop()
    }
}

/// What pgbench keeps in balance, and that it did anything.
#[track_caller]
fn assert_balanced(cluster: &Cluster) {
    let sums = cluster.query(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
            (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history),
            (SELECT count(*) > 100 FROM pgbench_history)",
    );
    let sums: Vec<&str> = sums.split('|').collect();
    assert!(
        sums[..4].iter().all(|sum| *sum == sums[0]) && sums[4] == "t",
        "{sums:?}"
    );
}

/// Restores, lets the server's own tools look, and says the last row that is there.
#[track_caller]
fn bring_back(site: &PgSite, target: &str) -> u64 {
    let (ran, cluster) = restore(site, &["--to", target]);
    let report = ran.ok().json();
    assert_eq!(report["proof"], "replayed", "{report}");
    start(&cluster);
    assert_balanced(&cluster);
    assert_rows_without_gap(&cluster)
}

/// A second brings back what was committed in it, and nothing that began after it.
#[track_caller]
fn assert_second(site: &PgSite, journal: &[Row], second: Timestamp) {
    let there = bring_back(site, &second.to_string());
    let answered = answered_by(journal, second);
    assert!(
        (answered..=answered + 1).contains(&there),
        "to {second}: {answered} were answered by then, {there} are there"
    );
    assert!(answered > 100, "{answered}");
}

/// The primary dies with its data directory, at once.
fn lose(cluster: &Cluster) {
    cluster.stop(Stop::Kill).expect("killed");
    std::fs::remove_dir_all(cluster.data_dir()).expect("removed");
}

#[test]
fn lost_primary_comes_back_with_all_that_was_acknowledged_and_to_a_chosen_second() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    site.site.set("ship_every", SHIP_EVERY_TEXT);
    Load::prepare(&site.cluster);
    let daemon = site.start_protected();
    let load = Load::start(&site.cluster, 1);
    load.goes_on(&site.cluster, 0, half());
    let second = now();
    pass(half());
    let until = promise_kept_up(&site);
    lose(&site.cluster);
    let journal = load.stop();
    daemon.terminate();
    let promised = answered_by(&journal, until);
    let there = bring_back(&site, "latest");
    assert!(
        there >= promised,
        "{promised} were acknowledged in time, {there} came back"
    );
    assert_second(&site, &journal, second);
}

#[test]
fn lost_pair_comes_back_from_both_sides_of_a_promotion_under_load() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::plan(&postgres, &Options::default());
    let standby = site.cluster.standby("standby").expect("a standby");
    site.init(&conninfo(&[&site.cluster, &standby])).ok();
    site.site.shorten();
    site.site.set("ship_every", SHIP_EVERY_TEXT);
    Load::prepare(&site.cluster);
    let daemon = site.start_protected();
    // GIVEN load on the primary, and a chosen second
    let load = Load::start(&site.cluster, 1);
    load.goes_on(&site.cluster, 0, half() / 2);
    let before = now();
    pass(half() / 2);
    // WHEN it is stopped, as for maintenance, and its standby goes on
    site.cluster.stop(Stop::Fast).expect("stopped");
    let mut journal = load.stop();
    let end = position(&site, &standby);
    eventually("the standby has everything", SOON, || {
        let behind = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        (standby.query(&behind) == "t").then_some(())
    });
    standby.promote().expect("promoted");
    let next = journal.last().map_or(1, |row| row.id + 1);
    // What was under way when the server stopped may have been committed without an answer.
    standby.sql(&format!("DELETE FROM load WHERE id >= {next}"));
    let load = Load::start(&standby, next);
    load.goes_on(&standby, next, half() / 2);
    let after = now();
    pass(half() / 2);
    // AND the standby is lost, too
    let until = promise_kept_up(&site);
    lose(&standby);
    journal.extend(load.stop());
    daemon.terminate();
    // THEN everything that was promised comes back, and a second on either side
    let promised = answered_by(&journal, until);
    let there = bring_back(&site, "latest");
    assert!(
        there >= promised,
        "{promised} were acknowledged in time, {there} came back"
    );
    assert_second(&site, &journal, before);
    assert_second(&site, &journal, after);
}

#[test]
fn lost_server_of_every_major_comes_back_whole() {
    // The newest is what all the others of these tests use.
    let majors = Postgres::all();
    for postgres in majors.split_last().map_or(&[][..], |(_, older)| older) {
        let site = PgSite::new(postgres, &Options::default());
        let rows = Rows::start(&site.cluster, 1);
        let daemon = site.start_protected();
        site.cluster
            .sql("CREATE INDEX ON load (text); CREATE TABLE more AS SELECT * FROM load");
        let journal = rows.stop();
        site.wait_protected();
        lose(&site.cluster);
        daemon.terminate();
        let (ran, cluster) = restore(&site, &["--to", "latest"]);
        let report = ran.ok().json();
        assert_eq!(report["proof"], "replayed", "{report}");
        start(&cluster);
        let last = journal.last().map_or(0, |row| row.id);
        assert_eq!(assert_rows_without_gap(&cluster), last);
    }
}

/// Where the log of a server ends that was stopped cleanly: after its last checkpoint.
fn position(site: &PgSite, standby: &Cluster) -> Lsn {
    let told = site
        .cluster
        .command("pg_controldata")
        .arg(site.cluster.data_dir())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Latest checkpoint location:"));
    let at = line.and_then(|at| at.trim().parse::<Lsn>().ok());
    at.unwrap_or_else(|| panic!("{text} {}", standby.log()))
}
