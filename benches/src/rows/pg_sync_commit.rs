//! PostgreSQL: how long a commit takes while the agent is its synchronous standby and answers once both
//! of two regions hold the log.
//!
//! A commit that comes while an object is on its way waits for that and for its own: twice the create,
//! which the witnesses before the servers measure in the same run.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tidemark_testkit::postgres::Cluster;

use crate::Setting;
use crate::load::now;
use crate::pg::load::{commits, latency_ms};
use crate::pg::{cluster, log};
use crate::region::{Provider, WAIT_MAX};
use crate::report::{Measure, Row, Runs};
use crate::rows::Originals;
use crate::subject::Tidemark;

const SECONDS: f64 = 20.0;
/// Sessions and their commits a second: some always meet an object on its way.
const CLIENTS: (u32, u32) = (16, 100);
/// Creates that a commit waits for.
const CREATES: f64 = 2.0;
const GOAL_MS: f64 = 20.0;
const POLL: Duration = Duration::from_millis(100);
/// What the agent calls itself: its slot's name.
const STANDBY: &str = "tidemark_app";

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let cluster = cluster::start(setting, &[])?;
    let (one, two) = (Provider::start()?, Provider::start()?);
    let regions = [one.region("app"), two.region("app")];
    let keys = [("ship_every", "\"1s\""), ("ack", "\"regions\"")];
    let (home, conninfo) = (originals.path().join("t"), cluster::conninfo(&cluster));
    let subject = Tidemark::prepare_postgres(setting, &home, &conninfo, &regions, &keys)?;
    let mut agent = subject.start_protected()?;
    let [mut above, mut with, mut without, mut create] = [(); 4].map(|()| Runs::default());
    for _ in 0..setting.pairs {
        wait_for_standby(&cluster, false)?;
        let alone = commits(setting, &cluster, CLIENTS, SECONDS / 2.0)?;
        without.push(latency_ms(&alone, 0.99));
        wait_for_standby(&cluster, true)?;
        let since = now()?;
        let beside = commits(setting, &cluster, CLIENTS, SECONDS)?;
        agent.must_run()?;
        let (commit, one) = (
            latency_ms(&beside, 0.99),
            log::create_ms(&regions, since, 0.99)?,
        );
        above.push(commit - CREATES * one);
        with.push(commit);
        create.push(one);
    }
    wait_for_standby(&cluster, false)?;
    agent.stop()?;
    Ok(Row {
        name: "pg-sync-commit",
        pairs: setting.pairs,
        setting: format!(
            "PostgreSQL {}, {}; {} commits a second over {} sessions for {SECONDS} s, the agent as \
             synchronous standby with `ack = \"regions\"` and two S3 regions. p99 of a commit {:.1} ms \
             (not synchronous {:.1} ms), p99 of creating a log object in the same run {:.1} ms; medians.",
            cluster::MAJOR,
            cluster::size(setting),
            CLIENTS.1,
            CLIENTS.0,
            with.median(),
            without.median(),
            create.median(),
        ),
        measures: vec![Measure::at_most(
            "p99 of a commit less 2 × the create's p99",
            &above,
            GOAL_MS,
            "ms",
        )],
    })
}

/// Makes commits wait for the agent, or not.
fn wait_for_standby(cluster: &Cluster, wait: bool) -> Result<()> {
    let name = if wait { STANDBY } else { "" };
    cluster.try_sql(&format!(
        "ALTER SYSTEM SET synchronous_standby_names = '{name}'; SELECT pg_reload_conf(); CHECKPOINT"
    ))?;
    let started = Instant::now();
    let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    while cluster.try_sql(sql)? != u32::from(wait).to_string() {
        ensure!(started.elapsed() < WAIT_MAX, "the agent is no standby");
        std::thread::sleep(POLL);
    }
    Ok(())
}
