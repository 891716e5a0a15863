//! PostgreSQL: how old is the newest commit that is not yet durable in both of two regions, from one
//! transaction a second to all that pgbench can make?
//!
//! Ground truth from outside: clients write down when each commit returned and where the server's log
//! ended just after it; the witnesses before the two servers when each log object was acknowledged; the
//! object's signed head up to where it reaches. Under full load the clients' commits are a sample of
//! pgbench's.

use std::time::Duration;

use anyhow::Result;
use tidemark_testkit::postgres::Cluster;

use crate::Setting;
use crate::pg::load::{Commit, Pgbench, commits};
use crate::pg::{cluster, log};
use crate::region::Provider;
use crate::report::{Measure, Row, Runs, percentile};
use crate::rows::Originals;
use crate::subject::Tidemark;

const SECONDS: f64 = 14.0;
const GOAL_SECONDS: f64 = 1.5;
/// Three ship intervals: by then the last commit is out.
const DRAIN: Duration = Duration::from_secs(3);
/// pgbench starts before the clients and ends after them.
const AROUND: f64 = 2.0;
/// A commit each this often beside pgbench.
const SAMPLE: (u32, u32) = (4, 40);
/// Of the commits wanted those that must have been made.
const KEPT_UP: f64 = 0.9;

/// What the clients do: in words, sessions and rate, and whether pgbench runs beside.
const LOADS: [(&str, (u32, u32), bool); 3] = [
    ("1 tx/s", (1, 1), false),
    ("200 tx/s", (4, 200), false),
    ("full pgbench load", SAMPLE, true),
];

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let cluster = cluster::start(setting, &[])?;
    let (one, two) = (Provider::start()?, Provider::start()?);
    let regions = [one.region("app"), two.region("app")];
    let keys = [("ship_every", "\"1s\"")];
    let home = originals.path().join("t");
    let conninfo = cluster::conninfo(&cluster);
    let subject = Tidemark::prepare_postgres(setting, &home, &conninfo, &regions, &keys)?;
    let mut agent = subject.start_protected()?;
    let (mut p99, mut largest, mut peak) = (
        [(); 3].map(|()| Runs::default()),
        Runs::default(),
        Runs::default(),
    );
    for _ in 0..setting.pairs {
        for (runs, (_, clients, full)) in p99.iter_mut().zip(LOADS) {
            cluster.try_sql("CHECKPOINT")?;
            let commits = if full {
                let (commits, rate) = beside_pgbench(setting, &cluster)?;
                peak.push(rate);
                commits
            } else {
                commits(setting, &cluster, clients, SECONDS)?
            };
            must_have_kept_up(&commits, clients.1)?;
            std::thread::sleep(DRAIN);
            agent.must_run()?;
            let mut seconds = log::exposures(&commits, &regions)?;
            seconds.sort_by(f64::total_cmp);
            runs.push(percentile(&seconds, 0.99));
            largest.push(percentile(&seconds, 1.0));
        }
    }
    agent.stop()?;
    Ok(Row {
        name: "pg-exposure",
        pairs: setting.pairs,
        setting: format!(
            "PostgreSQL {}, {}. Commit until durable in both of two S3 regions, each load for \
             {SECONDS} s, `ship_every = \"1s\"`; full load was {:.0} transactions a second (median), \
             sampled by {} commits a second; longest ever {:.2} s.",
            cluster::MAJOR,
            cluster::size(setting),
            peak.median(),
            SAMPLE.1,
            largest.worst()
        ),
        measures: LOADS
            .iter()
            .zip(&p99)
            .map(|((word, ..), runs)| {
                Measure::at_most(
                    &format!("p99 of the exposure, {word}"),
                    runs,
                    GOAL_SECONDS,
                    "s",
                )
            })
            .collect(),
    })
}

/// Commits sampled while pgbench makes all it can; and how many a second those are.
fn beside_pgbench(setting: &Setting, cluster: &Cluster) -> Result<(Vec<Commit>, f64)> {
    let pgbench = Pgbench::start(cluster, None, SECONDS + 2.0 * AROUND)?;
    std::thread::sleep(Duration::from_secs_f64(AROUND));
    let commits = commits(setting, cluster, SAMPLE, SECONDS)?;
    Ok((commits, pgbench.finish()?))
}

fn must_have_kept_up(commits: &[Commit], rate: u32) -> Result<()> {
    let wanted = KEPT_UP * f64::from(rate) * SECONDS;
    anyhow::ensure!(
        commits.len() as f64 >= wanted.floor(),
        "the clients made {} commits where {wanted:.0} were wanted: is the machine busy?",
        commits.len()
    );
    Ok(())
}
