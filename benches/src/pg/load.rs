//! The applications: clients that commit at a rate and write down when each commit returned, how long
//! it took and up to where the log then reached; and pgbench at full speed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tidemark_format::postgres::Lsn;
use tidemark_testkit::postgres::Cluster;

use crate::Setting;
use crate::data::Random;
use crate::load::now;
use crate::pg::client::Client;
use crate::pg::cluster;
use crate::process::Running;
use crate::report::percentile;

/// Accounts at pgbench's scale 1.
const ACCOUNTS: u64 = 100_000;
/// Sessions and threads of pgbench: enough to share the disk's flushes.
const SESSIONS: &str = "16";
const THREADS: &str = "2";

/// One commit, as the application saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    /// Nanoseconds since 1970 when it returned.
    pub(crate) at: u64,
    /// Nanoseconds that it took.
    pub(crate) took: u64,
    /// Where the server wrote its next log just after it: the commit is before it.
    pub(crate) lsn: Lsn,
}

/// Commits at `rate` a second over `clients` sessions for `seconds`, in the order in which they
/// returned.
pub(crate) fn commits(
    setting: &Setting,
    cluster: &Cluster,
    (clients, rate): (u32, u32),
    seconds: f64,
) -> Result<Vec<Commit>> {
    let accounts = cluster::scale(setting) * ACCOUNTS;
    let each = f64::from(rate) / f64::from(clients);
    let sessions: Result<Vec<Client>> = (0..clients).map(|_| Client::connect(cluster)).collect();
    let started = Instant::now();
    let mut all: Vec<Commit> = std::thread::scope(|threads| {
        let running: Vec<_> = sessions?
            .into_iter()
            .enumerate()
            .map(|(number, client)| {
                // They don't all commit at the same moment.
                let ahead = number as f64 / f64::from(rate);
                threads.spawn(move || session(client, accounts, (started, ahead, each), seconds))
            })
            .collect();
        let mut all = Vec::new();
        for thread in running {
            let done = thread.join().ok().context("a session panicked")?;
            all.extend(done?);
        }
        anyhow::Ok(all)
    })?;
    all.sort_by_key(|commit| commit.at);
    Ok(all)
}

fn session(
    mut client: Client,
    accounts: u64,
    (started, ahead, rate): (Instant, f64, f64),
    seconds: f64,
) -> Result<Vec<Commit>> {
    let mut random = Random::new(now()?);
    let mut done = Vec::new();
    loop {
        let due = ahead + done.len() as f64 / rate;
        if due >= seconds {
            return Ok(done);
        }
        std::thread::sleep(Duration::from_secs_f64(due).saturating_sub(started.elapsed()));
        let sql = format!(
            "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = {}",
            1 + random.below(accounts)
        );
        let before = Instant::now();
        client.run(&sql)?;
        let (at, took) = (now()?, u64::try_from(before.elapsed().as_nanos())?);
        let lsn = client.run("SELECT pg_current_wal_insert_lsn()")?;
        done.push(Commit {
            at,
            took,
            lsn: lsn.context("no position")?.parse()?,
        });
    }
}

/// A share of the commits took at most so many milliseconds.
pub(crate) fn latency_ms(commits: &[Commit], share: f64) -> f64 {
    let mut all: Vec<f64> = commits.iter().map(|c| c.took as f64 / 1e6).collect();
    all.sort_by(f64::total_cmp);
    percentile(&all, share)
}

/// pgbench's own transaction, as many as fit or `rate` a second.
#[derive(Debug)]
pub(crate) struct Pgbench {
    process: Running,
    output: std::path::PathBuf,
}

impl Pgbench {
    /// Starts it; it ends by itself after `seconds`.
    pub(crate) fn start(cluster: &Cluster, rate: Option<f64>, seconds: f64) -> Result<Self> {
        let output = cluster.socket_dir().join("pgbench.out");
        let mut command = cluster.command("pgbench");
        command.args(["--no-vacuum", "--client", SESSIONS, "--jobs", THREADS]);
        command.arg(format!("--time={seconds:.0}"));
        if let Some(rate) = rate {
            command.arg(format!("--rate={rate:.0}"));
        }
        Ok(Self {
            process: Running::start(&mut command, &output)?,
            output,
        })
    }

    /// Waits until it has ended; transactions a second.
    pub(crate) fn finish(self) -> Result<f64> {
        self.process.finish()?;
        let said = std::fs::read_to_string(&self.output)?;
        rate(&said).with_context(|| format!("no rate in what pgbench said:\n{said}"))
    }
}

fn rate(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_read_from_what_pgbench_says() {
        let said = "latency average = 3.1 ms\ntps = 1272.51 (without initial connection time)\n";
        assert_eq!(rate(said), Some(1272.51));
    }
}
