//! Bringing a PostgreSQL cluster back with much log after its base, until it takes writes.

use std::time::Instant;

use anyhow::{Result, ensure};
use tidemark_testkit::postgres::{Cluster, Stop};

use crate::Setting;
use crate::pg::cluster;
use crate::pg::pgbackrest::{ARCHIVING, Backup, PgBackRest};
use crate::pg::restored::Restored;
use crate::process;
use crate::region::{Provider, Region};
use crate::report::{Measure, Row, Runs};
use crate::rows::{LIKE_PGBACKREST, Originals};
use crate::subject::Tidemark;

const GOAL: f64 = 0.8;
/// The log after the base.
const LOG_BYTES: u64 = 500_000_000;
/// Seconds of load between two looks at how much log there is.
const LOAD_SECONDS: &str = "1";
/// What must come back as it was.
const CONTENT: &str = "SELECT (SELECT count(*) FROM pgbench_history), \
                       (SELECT sum(abalance) FROM pgbench_accounts), \
                       (SELECT count(*) FROM prose), (SELECT count(*) FROM blob)";

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let mut measures = Vec::new();
    for (word, is_bucket) in [("a folder", false), ("S3", true)] {
        let provider = Provider::start()?;
        let region = if is_bucket {
            provider.region("ours")
        } else {
            Region::Folder(originals.path().join("region"))
        };
        let bucket = is_bucket.then(|| provider.region("peer"));
        let home = originals.path().join(word.replace(' ', "-"));
        let protected = Protected::new(setting, &home, region, bucket.as_ref())?;
        let (mut ours, mut peers) = (Runs::default(), Runs::default());
        for _ in 0..setting.pairs {
            ours.push(protected.restore()?);
            peers.push(protected.peer_restores()?);
        }
        measures.push(Measure::ratio(
            &format!("time from {word}"),
            (&ours, &peers),
            GOAL,
            "s",
        ));
    }
    Ok(Row {
        name: "pg-restore",
        pairs: setting.pairs,
        setting: format!(
            "A PostgreSQL {} cluster of {} and {} MB of log after its base, to its latest state on a \
             tmpfs whose memory was touched before, until the server has taken a write; S3 over TLS for both. Tidemark verifies every \
             hash, recovers, proves where that ended and stops, and the server is started then; \
             pgBackRest restores and the server recovers with its restore_command. Both: zstd 3, \
             encrypted, two workers, the same server and log.",
            cluster::MAJOR,
            cluster::size(setting),
            LOG_BYTES / 1_000_000
        ),
        measures,
    })
}

/// A cluster that both sides hold, lost.
struct Protected {
    cluster: Cluster,
    subject: Tidemark,
    region: Region,
    peer: PgBackRest,
    content: String,
    bytes: u64,
}

impl Protected {
    fn new(
        setting: &Setting,
        home: &std::path::Path,
        region: Region,
        bucket: Option<&Region>,
    ) -> Result<Self> {
        let cluster = cluster::start(setting, ARCHIVING)?;
        let (conninfo, regions) = (cluster::conninfo(&cluster), [region.clone()]);
        let subject =
            Tidemark::prepare_postgres(setting, home, &conninfo, &regions, LIKE_PGBACKREST)?;
        let agent = subject.start_protected()?;
        let peer = PgBackRest::prepare(&cluster, bucket)?;
        peer.backup(Backup::Full)?;
        load(&cluster, LOG_BYTES)?;
        let content = cluster.try_sql(CONTENT)?;
        peer.catch_up()?;
        subject.snapshot(false)?;
        agent.stop()?;
        cluster.stop(Stop::Immediate)?;
        // The log comes on top of the cluster, and its segments twice.
        let bytes = setting.database + 4 * LOG_BYTES;
        Ok(Self {
            cluster,
            subject,
            region,
            peer,
            content,
            bytes,
        })
    }

    /// Seconds until what we restored takes writes.
    fn restore(&self) -> Result<f64> {
        let postgres = self.cluster.postgres();
        let restored = Restored::new(postgres, self.bytes)?;
        let started = Instant::now();
        let url = self.region.secure_url();
        self.subject
            .restore_postgres(&url, &restored.data(), postgres.bin())?;
        restored.start_until_writable()?;
        let seconds = started.elapsed().as_secs_f64();
        self.check(&restored)?;
        Ok(seconds)
    }

    /// The same for the peer.
    fn peer_restores(&self) -> Result<f64> {
        let restored = Restored::new(self.cluster.postgres(), self.bytes)?;
        let started = Instant::now();
        self.peer.restore(&restored.data())?;
        restored.start_until_writable()?;
        let seconds = started.elapsed().as_secs_f64();
        self.check(&restored)?;
        Ok(seconds)
    }

    fn check(&self, restored: &Restored) -> Result<()> {
        let content = restored.sql(CONTENT)?;
        ensure!(
            content == self.content,
            "{content} came back of {}",
            self.content
        );
        Ok(())
    }
}

/// pgbench's own load, until there is so much more log.
pub(super) fn load(cluster: &Cluster, bytes: u64) -> Result<()> {
    let began = cluster.try_sql("SELECT pg_current_wal_lsn()")?;
    let more = format!("SELECT pg_current_wal_lsn() - '{began}'::pg_lsn >= {bytes}");
    while cluster.try_sql(&more)? != "t" {
        let mut pgbench = cluster.command("pgbench");
        pgbench.env("PGOPTIONS", "-c synchronous_commit=off");
        pgbench.args(["--no-vacuum", "--jobs=2", "--client=8"]);
        process::run(pgbench.args(["--time", LOAD_SECONDS]))?;
    }
    Ok(())
}
