//! A drill of a PostgreSQL cluster, from its declaration to its record, beside the plain restore of the same state.

use std::ffi::OsStr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tidemark_testkit::postgres::{Cluster, Stop};

use super::pg_restore;
use crate::Setting;
use crate::pg::cluster;
use crate::pg::restored::{Restored, touch_memory};
use crate::region::Region;
use crate::report::{Measure, Row, Runs};
use crate::rows::{LIKE_PGBACKREST, Originals};
use crate::subject::Tidemark;

const GOAL: f64 = 1.3;
/// The log after the base.
const LOG_BYTES: u64 = 500_000_000;
/// What the server's amcheck reads: a plain restore does nothing of the kind, and the goal leaves it aside.
const AMCHECK: [&str; 2] = ["postgres.heap", "postgres.indexes"];
const MILLISECONDS: f64 = 1000.0;

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let home = originals.path().join("t");
    let region = Region::Folder(originals.path().join("region"));
    let cluster = cluster::start(setting, &[])?;
    let (conninfo, regions) = (cluster::conninfo(&cluster), [region.clone()]);
    let subject = Tidemark::prepare_postgres(setting, &home, &conninfo, &regions, LIKE_PGBACKREST)?;
    let agent = subject.start_protected()?;
    pg_restore::load(&cluster, LOG_BYTES)?;
    subject.snapshot(false)?;
    agent.stop()?;
    cluster.stop(Stop::Immediate)?;
    // The log comes on top of the cluster, and its segments twice.
    let bytes = setting.database + 4 * LOG_BYTES;
    let (mut drills, mut restores, mut amchecks) =
        (Runs::default(), Runs::default(), Runs::default());
    for _ in 0..setting.pairs {
        let (seconds, amcheck) = drill(&subject, &region, &cluster, bytes)?;
        drills.push(seconds - amcheck);
        amchecks.push(amcheck);
        let restored = Restored::new(cluster.postgres(), bytes)?;
        let bin = cluster.postgres().bin();
        let usage = subject.restore_postgres(&region.url(), &restored.data(), bin)?;
        restores.push(usage.seconds);
    }
    Ok(Row {
        name: "pg-drill",
        pairs: setting.pairs,
        setting: format!(
            "A PostgreSQL {} cluster of {} and {} MB of log after its base, from a folder into memory that was \
             touched before. The drill: restore, replay in the sandbox, every page's checksum, settings, counts of all rows, \
             schema, the record in the region, the scratch destroyed; amcheck of every table and index, beside which pages are \
             read and rows counted, takes {:.1} s and is left aside. The restore: recovered and proved, too.",
            cluster::MAJOR,
            cluster::size(setting),
            LOG_BYTES / 1_000_000,
            amchecks.median()
        ),
        measures: vec![Measure::ratio("time", (&drills, &restores), GOAL, "s")],
    })
}

/// Seconds of one drill, and of them those of amcheck.
fn drill(subject: &Tidemark, region: &Region, cluster: &Cluster, bytes: u64) -> Result<(f64, f64)> {
    touch_memory(bytes)?;
    let started = Instant::now();
    let bin = cluster.postgres().bin();
    let said = subject.drill(&region.url(), &[OsStr::new("--pg-bin"), bin.as_os_str()])?;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(
        said.pointer("/environment/scratch_kind") == Some(&Value::from("tmpfs")),
        "the scratch was not in memory: {}",
        said["environment"]
    );
    let checks = said["checks"].as_array().context("no checks")?;
    let mut amcheck = 0.0;
    for id in AMCHECK {
        let check = checks.iter().find(|check| check["id"] == id);
        let check = check.with_context(|| format!("no check {id}"))?;
        ensure!(check["status"] == "passed", "{check}");
        amcheck += check["duration_ms"].as_f64().context("no time")? / MILLISECONDS;
    }
    Ok((seconds, amcheck))
}
