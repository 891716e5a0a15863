//! PostgreSQL: what the agent costs the machine of the database, at half of what that can do and at all
//! of it, against pg_receivewal.
//!
//! At half, CPU seconds per gigabyte of log until all of it is durable; the peer's are pg_receivewal's
//! and those of zstd at the same level over its files. At full speed, how many transactions pgbench
//! makes beside one and beside the other, pg_receivewal not compressing. Each run begins just after a
//! checkpoint, so that both see as many page images.

use anyhow::{Context, Result};
use tidemark_testkit::postgres::Cluster;

use crate::Setting;
use crate::pg::cluster;
use crate::pg::load::Pgbench;
use crate::pg::receivewal::{ReceiveWal, bytes_between, compress};
use crate::region::Region;
use crate::report::{Measure, Row, Runs};
use crate::rows::{LIKE_THE_PEER, Originals};
use crate::subject::Tidemark;

const SECONDS: f64 = 10.0;
const GOAL_CPU: f64 = 1.2;
const GOAL_RATE: f64 = 0.92;
/// As in [`LIKE_THE_PEER`].
const LEVEL: &str = "3";
const GB: f64 = 1e9;

/// What one side costs, over the runs.
#[derive(Default)]
struct Cost {
    cpu: Runs,
    rate: Runs,
}

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let cluster = cluster::start(setting, &[])?;
    let region = Region::Folder(originals.path().join("region"));
    let subject = Tidemark::prepare_postgres(
        setting,
        &originals.path().join("t"),
        &cluster::conninfo(&cluster),
        &[region],
        LIKE_THE_PEER,
    )?;
    subject.start_protected()?.stop()?;
    let peak = Pgbench::start(&cluster, None, SECONDS)?.finish()?;
    let (mut ours, mut peers) = (Cost::default(), Cost::default());
    let mut written = Runs::default();
    for _ in 0..setting.pairs {
        let mut agent = subject.start_answering()?;
        subject.snapshot(false)?;
        let before = agent.usage()?;
        let bytes = load(&cluster, peak / 2.0)?;
        subject.snapshot(false)?;
        let cpu = agent.usage()?.cpu_seconds - before.cpu_seconds;
        ours.cpu.push(cpu / (bytes as f64 / GB));
        written.push(bytes as f64 / GB);
        ours.rate.push(flat_out(&cluster)?);
        agent.must_run()?;
        agent.stop()?;

        peers.add_receivewal(&cluster, peak / 2.0)?;
    }
    Ok(Row {
        name: "pg-cost",
        pairs: setting.pairs,
        setting: format!(
            "PostgreSQL {}, {}, pgbench with 16 sessions for {SECONDS} s each, one region in a folder on \
             the same disk, shipping every second; compression {LEVEL}, encrypted. At half of the \
             {peak:.0} transactions a second that pgbench made alone it wrote {:.2} GB of log.",
            cluster::MAJOR,
            cluster::size(setting),
            written.median(),
        ),
        measures: vec![
            Measure::ratio(
                "CPU-s per GB of log, half load",
                (&ours.cpu, &peers.cpu),
                GOAL_CPU,
                "s",
            ),
            Measure::ratio_at_least(
                "transactions a second, full load",
                (&ours.rate, &peers.rate),
                GOAL_RATE,
                "",
            ),
        ],
    })
}

impl Cost {
    fn add_receivewal(&mut self, cluster: &Cluster, rate: f64) -> Result<()> {
        let mut peer = ReceiveWal::start(cluster, None)?;
        let before = peer.usage()?;
        let bytes = load(cluster, rate)?;
        peer.wait_for_all(cluster)?;
        let cpu = peer.usage()?.cpu_seconds - before.cpu_seconds;
        let (zstd, files) = compress(peer.folder(), LEVEL, &cluster.socket_dir().join("zstd.log"))?;
        self.cpu
            .push(cpu / (bytes as f64 / GB) + zstd / (files as f64 / GB));
        self.rate.push(flat_out(cluster)?);
        let folder = peer.folder().to_owned();
        peer.stop()?;
        std::fs::remove_dir_all(folder)?;
        Ok(())
    }
}

/// pgbench at a rate; bytes of log that it wrote.
fn load(cluster: &Cluster, rate: f64) -> Result<u64> {
    cluster.try_sql("CHECKPOINT")?;
    let position = || cluster.try_sql("SELECT pg_current_wal_insert_lsn()");
    let before = position()?;
    Pgbench::start(cluster, Some(rate), SECONDS)?.finish()?;
    bytes_between(&before, &position()?).context("the log of a load")
}

fn flat_out(cluster: &Cluster) -> Result<f64> {
    cluster.try_sql("CHECKPOINT")?;
    cluster::settle()?;
    Pgbench::start(cluster, None, SECONDS)?.finish()
}
