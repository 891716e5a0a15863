//! The second base of a PostgreSQL cluster, after rows everywhere were updated.

use anyhow::Result;
use tidemark_testkit::postgres::Cluster;

use crate::Setting;
use crate::pg::cluster;
use crate::pg::pgbackrest::{ARCHIVING, Backup, PgBackRest};
use crate::process;
use crate::region::Region;
use crate::report::{Measure, Row, Runs};
use crate::rows::{LIKE_PGBACKREST, Originals};
use crate::subject::Tidemark;

const GOAL_TIME: f64 = 0.7;
const GOAL_BYTES: f64 = 0.7;
const UPDATES: u32 = 60_000;
const CLIENTS: u32 = 4;
const MB: f64 = 1e6;
/// One row somewhere, in a transaction of its own.
const SCRIPT: &str = "\\set aid random(1, 100000 * :scale)
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;
";

/// Seconds and megabytes over the runs.
#[derive(Default)]
struct Cost {
    time: Runs,
    bytes: Runs,
}

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let cluster = cluster::start(setting, ARCHIVING)?;
    let (home, folder) = (
        originals.path().join("t"),
        originals.path().join("t/region"),
    );
    let (conninfo, regions) = (
        cluster::conninfo(&cluster),
        [Region::Folder(folder.clone())],
    );
    let subject = Tidemark::prepare_postgres(setting, &home, &conninfo, &regions, LIKE_PGBACKREST)?;
    let agent = subject.start_protected()?;
    let peer = PgBackRest::prepare(&cluster, None)?;
    peer.backup(Backup::Full)?;
    let (mut ours, mut peers) = (Cost::default(), Cost::default());
    let base_bytes = || -> Result<f64> {
        let parts = ["data/pack", "meta/base"].map(|part| Region::Folder(folder.join(part)).held());
        let [packs, bases] = parts;
        Ok((packs?.1 + bases?.1) as f64 / MB)
    };
    for _ in 0..setting.pairs {
        update(setting, &cluster)?;
        // What is to be compared starts when the log is shipped and the pages are on the disk.
        subject.snapshot(false)?;
        peer.catch_up()?;
        cluster.try_sql("CHECKPOINT")?;
        cluster::settle()?;
        let (before, started) = (base_bytes()?, std::time::Instant::now());
        subject.snapshot(true)?;
        ours.time.push(started.elapsed().as_secs_f64());
        ours.bytes.push(base_bytes()? - before);
        cluster::settle()?;
        peers.time.push(peer.backup(Backup::Incremental)?.seconds);
        peers.bytes.push(peer.newest_backup_bytes()? as f64 / MB);
    }
    agent.stop()?;
    peer.detach(&cluster)?;
    Ok(Row {
        name: "pg-second-base",
        pairs: setting.pairs,
        setting: format!(
            "A PostgreSQL {} cluster of {}, agent on its host, into a folder, after {UPDATES} updates of \
             random rows of pgbench's accounts: `snapshot --base` against an incremental backup of \
             pgBackRest, which copies files that changed. Both: zstd 3, encrypted, two workers, a \
             checkpoint at once. The log between the bases, which both ship, is not counted.",
            cluster::MAJOR,
            cluster::size(setting)
        ),
        measures: vec![
            Measure::ratio("time", (&ours.time, &peers.time), GOAL_TIME, "s"),
            Measure::ratio(
                "bytes of the base",
                (&ours.bytes, &peers.bytes),
                GOAL_BYTES,
                "MB",
            ),
        ],
    })
}

/// Updates random rows, each in a transaction of its own.
fn update(setting: &Setting, cluster: &Cluster) -> Result<()> {
    let script = cluster.socket_dir().join("update.sql");
    std::fs::write(&script, SCRIPT)?;
    let mut pgbench = cluster.command("pgbench");
    pgbench.env("PGOPTIONS", "-c synchronous_commit=off");
    pgbench.args(["--no-vacuum", "--jobs=2", "--file"]);
    pgbench.arg(&script);
    pgbench.arg(format!("--client={CLIENTS}"));
    pgbench.arg(format!("--transactions={}", UPDATES / CLIENTS));
    pgbench.arg(format!("--define=scale={}", cluster::scale(setting)));
    process::run(&mut pgbench).map(drop)
}
