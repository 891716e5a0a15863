//! The most memory that the agent ever holds with a PostgreSQL cluster: bases, load, and very many files.

use std::process::Command;

use anyhow::{Result, ensure};
use tidemark_testkit::postgres::Cluster;

use crate::Setting;
use crate::pg::cluster;
use crate::pg::restored::{Restored, in_memory};
use crate::process::{self, Usage};
use crate::region::{Provider, Region};
use crate::report::{Measure, Row, Runs};
use crate::rows::{LIKE_PGBACKREST, Originals};
use crate::subject::Tidemark;

const GOAL_MIB: f64 = 128.0;
const MIB: f64 = 1_048_576.0;
/// Seconds of pgbench at its full rate between the two bases.
const LOAD_SECONDS: &str = "10";
/// Files of one more database: tables with a row, their TOAST tables and indexes.
const TABLES_EACH: u32 = 5_600;
/// Copies of that database, so that there are 200,000 files beside pgbench's and the system's own.
const COPIES: u32 = 11;
const FILES: u64 = 200_000;

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let mut measures = Vec::new();
    let mut restore_holds = Vec::new();
    for with_files in [false, true] {
        let source = Source::new(setting, with_files)?;
        let mut held = Runs::default();
        for number in 0..setting.pairs {
            let home = originals.path().join(format!("{with_files}-{number}"));
            let restores = number + 1 == setting.pairs;
            let (agent, tool) = run(setting, &source.cluster, &home, restores)?;
            held.push(agent.memory_bytes as f64 / MIB);
            restore_holds.extend(tool.map(|usage| usage.memory_bytes as f64 / MIB));
            std::fs::remove_dir_all(&home)?;
        }
        let what = if with_files {
            format!("VmHWM with {FILES} files more")
        } else {
            "VmHWM".to_owned()
        };
        measures.push(Measure::never_above(&what, &held, GOAL_MIB, "MiB"));
    }
    let restore_holds: Vec<String> = restore_holds
        .iter()
        .map(|held| format!("{held:.0} MiB"))
        .collect();
    Ok(Row {
        name: "pg-memory",
        pairs: setting.pairs,
        setting: format!(
            "The agent on a PostgreSQL {} cluster of {}, into S3: first base, pgbench at its full \
             rate for {LOAD_SECONDS} s, second base. The restore tool, no goal: {}.",
            cluster::MAJOR,
            cluster::size(setting),
            restore_holds.join(" and ")
        ),
        measures,
    })
}

/// A cluster; with very many files it is in memory, where those are made and removed quickly.
struct Source {
    // Goes first.
    cluster: Cluster,
    _memory: Option<tempfile::TempDir>,
}

impl Source {
    fn new(setting: &Setting, with_files: bool) -> Result<Self> {
        if !with_files {
            return Ok(Self {
                cluster: cluster::start(setting, &[])?,
                _memory: None,
            });
        }
        let memory = in_memory(3 * setting.database)?;
        let cluster = cluster::prepare(setting, &[])?;
        let there = memory.path().join("data");
        process::run(Command::new("mv").arg(cluster.data_dir()).arg(&there))?;
        std::os::unix::fs::symlink(there, cluster.data_dir())?;
        cluster.start_again()?;
        add_files(&cluster)?;
        Ok(Self {
            cluster,
            _memory: Some(memory),
        })
    }
}

/// What the agent used through two bases and the load between them, and the restore tool after it.
fn run(
    setting: &Setting,
    cluster: &Cluster,
    home: &std::path::Path,
    restores: bool,
) -> Result<(Usage, Option<Usage>)> {
    // A server of its own for each run: deleted space is not given back at once.
    let provider = Provider::start()?;
    let region = provider.region("app");
    let (conninfo, regions) = (cluster::conninfo(cluster), [region.clone()]);
    let subject = Tidemark::prepare_postgres(setting, home, &conninfo, &regions, LIKE_PGBACKREST)?;
    let agent = subject.start_protected()?;
    let mut pgbench = cluster.command("pgbench");
    pgbench.args(["--no-vacuum", "--jobs=2", "--client=8"]);
    process::run(pgbench.args(["--time", LOAD_SECONDS]))?;
    subject.snapshot(true)?;
    let usage = agent.usage()?;
    subject.retire()?;
    agent.stop()?;
    if !restores {
        return Ok((usage, None));
    }
    let restored = Restored::new(cluster.postgres(), 3 * setting.database)?;
    let bin = cluster.postgres().bin();
    let tool = subject.restore_postgres(&region.url(), &restored.data(), bin)?;
    Ok((usage, Some(tool)))
}

/// Adds databases of very many small files.
fn add_files(cluster: &Cluster) -> Result<()> {
    cluster.try_sql("CREATE DATABASE many")?;
    let mut psql = cluster.command("psql");
    psql.args(["--no-psqlrc", "--quiet", "--dbname=many", "--command"]);
    // Each table that is made holds a lock until the transaction ends.
    process::run(psql.arg(format!(
        "DO $$ BEGIN FOR n IN 1..{TABLES_EACH} LOOP
             EXECUTE format('CREATE TABLE t%s (text text)', n);
             EXECUTE format('INSERT INTO t%s VALUES (%L)', n, n);
             IF n % 50 = 0 THEN COMMIT; END IF;
         END LOOP; END $$"
    )))?;
    for number in 1..=COPIES {
        cluster.try_sql(&format!(
            "CREATE DATABASE many{number} TEMPLATE many STRATEGY file_copy"
        ))?;
    }
    cluster.try_sql("CHECKPOINT")?;
    let base = Region::Folder(cluster.data_dir().join("base"));
    let (files, _) = base.held()?;
    ensure!(files >= FILES, "there are only {files} files");
    Ok(())
}
