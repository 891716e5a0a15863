//! What a drill of a database a third as large says a restore of all of it takes, beside what it takes.

use std::ffi::OsStr;

use anyhow::{Context, Result};
use tidemark_testkit::postgres::Stop;

use super::pg_restore;
use crate::Setting;
use crate::pg::cluster;
use crate::pg::restored::touch_memory;
use crate::region::Region;
use crate::report::{Measure, Row, Runs};
use crate::rows::{LIKE_PGBACKREST, Originals};
use crate::subject::Tidemark;

/// How far the projection may be off, in percent of what was measured.
const GOAL_PERCENT: f64 = 25.0;
/// Log after the first base, and thrice as much after the second.
const LOG_BYTES: u64 = 100_000_000;
const TIMES: u64 = 3;

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let home = originals.path().join("t");
    let region = Region::Folder(originals.path().join("region"));
    let third = Setting {
        data: setting.data.clone(),
        programs: setting.programs.clone(),
        pairs: setting.pairs,
        database: setting.database / TIMES,
    };
    let cluster = cluster::start(&third, &[])?;
    let (conninfo, regions) = (cluster::conninfo(&cluster), [region.clone()]);
    let subject = Tidemark::prepare_postgres(setting, &home, &conninfo, &regions, LIKE_PGBACKREST)?;
    let agent = subject.start_protected()?;
    pg_restore::load(&cluster, LOG_BYTES)?;
    subject.snapshot(false)?;
    let small = cluster
        .try_sql("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")?;
    // Twice the same rows again, as tables of their own.
    for copy in 2..=TIMES {
        for table in ["pgbench_accounts", "prose", "blob"] {
            cluster.try_sql(&format!(
                "CREATE TABLE {table}_{copy} (LIKE {table} INCLUDING ALL); INSERT INTO {table}_{copy} SELECT * FROM {table}"
            ))?;
        }
    }
    subject.snapshot(true)?;
    pg_restore::load(&cluster, LOG_BYTES * TIMES)?;
    subject.snapshot(false)?;
    agent.stop()?;
    cluster.stop(Stop::Immediate)?;
    let memory = setting.database + 8 * LOG_BYTES * TIMES;
    let drill = |select: &str, field: &str| -> Result<f64> {
        touch_memory(memory)?;
        let bin = cluster.postgres().bin();
        let arguments = [
            OsStr::new("--pg-bin"),
            bin.as_os_str(),
            OsStr::new("--select"),
            OsStr::new(select),
        ];
        let said = subject.drill(&region.url(), &arguments)?;
        let milliseconds = said[field].as_f64();
        milliseconds.with_context(|| format!("no {field}: {said}"))
    };
    let (mut off, mut said, mut took) = (Runs::default(), Runs::default(), Runs::default());
    for _ in 0..setting.pairs {
        let projected = drill(&small, "projected_full_ms")? / 1000.0;
        let measured = drill("latest", "rto_ms")? / 1000.0;
        off.push(100.0 * (projected / measured - 1.0).abs());
        said.push(projected);
        took.push(measured);
    }
    Ok(Row {
        name: "pg-projection",
        pairs: setting.pairs,
        setting: format!(
            "The RTO that a drill of a PostgreSQL {} cluster of {}, at an instant of its past, projects for the present, when it holds \
             {TIMES} times as much and as much more log ({:.1} s), against the RTO of a drill of the present ({:.1} s).",
            cluster::MAJOR,
            cluster::size(&third),
            said.median(),
            took.median()
        ),
        measures: vec![Measure::at_most("off by", &off, GOAL_PERCENT, "%")],
    })
}
