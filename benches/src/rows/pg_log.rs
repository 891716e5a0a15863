//! PostgreSQL: is the log that comes back from the repository, byte for byte, what pg_receivewal wrote
//! in the same run?
//!
//! The run: pgbench at full speed, segments switched early, the agent killed and started again, the
//! server killed and started again, the server stopped and promoted to a new timeline. Then every
//! segment and every history that pg_receivewal has is asked for with `wal-get` and compared.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tidemark_testkit::postgres::{Cluster, Owner, Stop};

use crate::Setting;
use crate::pg::cluster;
use crate::pg::load::Pgbench;
use crate::pg::receivewal::{PARTIAL, ReceiveWal};
use crate::process::Running;
use crate::region::Region;
use crate::report::{Measure, Row, Runs};
use crate::rows::{LIKE_THE_PEER, Originals};
use crate::subject::Tidemark;

/// Between two things that happen, with pgbench running.
const MOMENT: Duration = Duration::from_secs(2);
/// Longer than any run: what pgbench runs in is killed first.
const LONG: f64 = 120.0;
/// A run that compares fewer shows nothing.
const FILES_MIN: usize = 4;
const SLOT: &str = "bench";

/// What of pg_receivewal's was compared so far.
#[derive(Default)]
struct Compared {
    names: BTreeSet<String>,
    differ: Vec<String>,
}

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let cluster = cluster::start(setting, &[])?;
    let region = Region::Folder(originals.path().join("region"));
    let regions = [region.clone()];
    let (home, conninfo) = (originals.path().join("t"), cluster::conninfo(&cluster));
    let subject = Tidemark::prepare_postgres(setting, &home, &conninfo, &regions, LIKE_THE_PEER)?;
    cluster.try_sql(&format!(
        "SELECT pg_create_physical_replication_slot('{SLOT}', true)"
    ))?;
    let mut peer = ReceiveWal::start(&cluster, Some(SLOT))?;
    let mut agent = subject.start_protected()?;
    let (mut differ, mut files) = (Runs::default(), 0);
    let mut compared = Compared::default();
    for number in 0..setting.pairs {
        agent = troubles(&cluster, &subject, agent).with_context(|| format!("in run {number}"))?;
        cluster.try_sql("SELECT pg_switch_wal()")?;
        peer.wait_for_all(&cluster)?;
        subject.snapshot(false)?;
        let before = (compared.names.len(), compared.differ.len());
        compare(&subject, &region, &peer, originals.path(), &mut compared)?;
        let new = compared.names.len() - before.0;
        ensure!(new >= FILES_MIN, "run {number} compared only {new} files");
        files += new;
        differ.push((compared.differ.len() - before.1) as f64);
    }
    agent.stop()?;
    peer.stop()?;
    let which = match compared.differ.as_slice() {
        [] => String::new(),
        all => format!(" Different: {}.", all.join(", ")),
    };
    Ok(Row {
        name: "pg-log",
        pairs: setting.pairs,
        setting: format!(
            "PostgreSQL {}, {}, pgbench at full speed through pg_switch_wal, kill -9 of the agent, \
             kill -9 of the server and a promotion, each once a run: {files} segments and histories of \
             pg_receivewal compared with what wal-get hands out.{which}",
            cluster::MAJOR,
            cluster::size(setting),
        ),
        measures: vec![Measure::never_above("files that differ", &differ, 0.0, "")],
    })
}

/// Everything that a run goes through; the agent that runs in the end.
fn troubles(cluster: &Cluster, subject: &Tidemark, agent: Running) -> Result<Running> {
    let moment = || std::thread::sleep(MOMENT);
    let switch = || cluster.try_sql("SELECT pg_switch_wal()").map(drop);

    let load = Pgbench::start(cluster, None, LONG)?;
    moment();
    switch()?;
    moment();
    agent.kill()?;
    moment();
    switch()?;
    let agent = subject.start()?;
    moment();
    cluster.stop(Stop::Kill)?;
    drop(load);
    cluster.start_again()?;

    let load = Pgbench::start(cluster, None, LONG)?;
    moment();
    cluster.stop(Stop::Fast)?;
    drop(load);
    let signal = cluster.data_dir().join("standby.signal");
    std::fs::write(&signal, "")?;
    Owner::get().own(&signal)?;
    cluster.start_again()?;
    cluster.promote()?;
    Pgbench::start(cluster, None, MOMENT.as_secs_f64())?.finish()?;
    Ok(agent)
}

/// Asks for every file that pg_receivewal has and that was not compared yet.
fn compare(
    subject: &Tidemark,
    region: &Region,
    peer: &ReceiveWal,
    folder: &Path,
    compared: &mut Compared,
) -> Result<()> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(peer.folder())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    // It still writes at the newest.
    let newest = names
        .iter()
        .rfind(|name| !name.contains("history"))
        .cloned();
    names.retain(|name| Some(name) != newest.as_ref() || !name.ends_with(PARTIAL));
    let back = folder.join("back");
    for file in names {
        let name = file.trim_end_matches(PARTIAL).trim_end_matches('.');
        if !compared.names.insert(name.to_owned()) {
            continue;
        }
        subject.wal_get(region, name, &back)?;
        let theirs = std::fs::read(peer.folder().join(&file))?;
        if std::fs::read(&back)? != theirs {
            compared.differ.push(name.to_owned());
        }
        std::fs::remove_file(&back)?;
    }
    Ok(())
}
