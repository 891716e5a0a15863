//! The first base of a PostgreSQL cluster whose files can be read, into a folder.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use tidemark_testkit::postgres::Cluster;

use crate::Setting;
use crate::pg::cluster;
use crate::pg::pgbackrest::{ARCHIVING, Backup, PgBackRest};
use crate::region::Region;
use crate::report::{Measure, Row, Runs};
use crate::rows::{LIKE_PGBACKREST, Originals};
use crate::subject::{Tidemark, wait_restorable};

const GOAL_TIME: f64 = 0.75;

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let cluster = cluster::start(setting, ARCHIVING)?;
    let (mut ours, mut peers) = (Runs::default(), Runs::default());
    for number in 0..setting.pairs {
        let home = originals.path().join(format!("ours-{number}"));
        ours.push(base(setting, &cluster, &home)?);
        std::fs::remove_dir_all(&home)?;
        let peer = PgBackRest::prepare(&cluster, None)?;
        cluster::settle()?;
        peers.push(peer.backup(Backup::Full)?.seconds);
        peer.detach(&cluster)?;
    }
    Ok(Row {
        name: "pg-first-base",
        pairs: setting.pairs,
        setting: format!(
            "A PostgreSQL {} cluster of {}, agent on its host, into a folder: from the agent's start \
             until the first recovery point, against a full backup of pgBackRest. Both: zstd 3, \
             encrypted, page checksums verified, two workers, a checkpoint at once.",
            cluster::MAJOR,
            cluster::size(setting)
        ),
        measures: vec![Measure::ratio("time", (&ours, &peers), GOAL_TIME, "s")],
    })
}

/// Seconds from the agent's start until the first recovery point.
fn base(setting: &Setting, cluster: &Cluster, home: &Path) -> Result<f64> {
    let region = Region::Folder(home.join("region"));
    let conninfo = cluster::conninfo(cluster);
    let regions = [region.clone()];
    let subject = Tidemark::prepare_postgres(setting, home, &conninfo, &regions, LIKE_PGBACKREST)?;
    cluster::settle()?;
    let started = Instant::now();
    let mut agent = subject.start()?;
    let restorable = wait_restorable(&region, &mut agent)?;
    let seconds = restorable.duration_since(started).as_secs_f64();
    subject.retire()?;
    agent.stop()?;
    Ok(seconds)
}
