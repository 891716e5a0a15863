//! What is lost when the agent and the source's disk vanish at the same moment.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Setting;
use crate::data::{self, Random};
use crate::load::{Commit, Kind, Load, now};
use crate::peer::Litestream;
use crate::process::Running;
use crate::region::Provider;
use crate::report::{Measure, Row, Runs};
use crate::rows::{LIKE_THE_PEER, Originals, Run, SMALL};
use crate::subject::Tidemark;

const RATE: u32 = 1000;
/// Longer than it takes until the moment of loss.
const SECONDS: f64 = 60.0;
const GOAL_SECONDS: f64 = 1.2;

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let provider = Provider::start()?;
    let mut random = Random::new(11);
    let (mut ours, mut peers) = (Runs::default(), Runs::default());
    for number in 0..setting.pairs {
        // Anywhere between two shipments; the same moment for both sides of a pair.
        let moment = Duration::from_millis(10_000 + random.below(1_000));

        let run = originals.run(&format!("ours-{number}"), SMALL, 4096)?;
        let region = provider.region(&format!("ours-{number}"));
        let (home, regions) = (run.home.join("t"), [region.clone()]);
        let subject = Tidemark::prepare(setting, &home, &run.database, &regions, LIKE_THE_PEER)?;
        let (commits, gone) = vanish(&run, subject.start_protected()?, moment)?;
        let target = run.home.join("back.db");
        subject.restore(&region, &target)?;
        ours.push(lost(&commits, gone, &target)?);
        drop(run);

        let run = originals.run(&format!("peer-{number}"), SMALL, 4096)?;
        let region = provider.region(&format!("peer-{number}"));
        let peer = Litestream::prepare(&run.home.join("l"), &run.database, &region)?;
        let (commits, gone) = vanish(&run, peer.start_protected()?, moment)?;
        let target = run.home.join("back.db");
        peer.restore(&target)?;
        peers.push(lost(&commits, gone, &target)?);
    }
    Ok(Row {
        name: "loss",
        pairs: setting.pairs,
        setting: format!(
            "Agent and application killed at once at {RATE} transactions a second, \
             `ship_every = \"1s\"`, S3: from the last commit that came back to the kill. Litestream \
             lost {:.2} s (median).",
            peers.median()
        ),
        measures: vec![Measure::at_most("lost", &ours, GOAL_SECONDS, "s")],
    })
}

/// Loads, kills both at `moment`; answers what was committed and when it ended.
fn vanish(run: &Run, agent: Running, moment: Duration) -> Result<(Vec<Commit>, u64)> {
    let load = Load::start(&run.database, Kind::Append, RATE, SECONDS)?;
    std::thread::sleep(moment);
    agent.kill()?;
    let gone = now()?;
    Ok((load.kill()?, gone))
}

/// Seconds of commits that did not come back.
fn lost(commits: &[Commit], gone: u64, target: &Path) -> Result<f64> {
    let sql = "SELECT max(id) FROM entry";
    let last: i64 = data::open(target)?.query_row(sql, [], |row| row.get(0))?;
    let last = u64::try_from(last)?;
    let back = commits
        .iter()
        .take_while(|commit| commit.at <= gone)
        .filter(|c| c.row <= last);
    let newest = back.last().context("nothing of the load came back")?;
    Ok(gone.saturating_sub(newest.at) as f64 / 1e9)
}
