//! What the agent adds to the application's commits, while the application runs checkpoints of every
//! kind in another process.
//!
//! Each run beside the agent is compared with the one just before it without: a disk that stalls for
//! 50 ms, or an application whose own checkpoint keeps its commits waiting, is not the agent.

use anyhow::Result;

use crate::Setting;
use crate::load::{Commit, Kind, Load};
use crate::region::Region;
use crate::report::{Measure, Row, Runs, percentile};
use crate::rows::{Originals, Run, SMALL, must_have_kept_up};
use crate::subject::Tidemark;

const RATE: u32 = 200;
const SECONDS: f64 = 20.0;
const ADDED_P99_MS: f64 = 1.0;
const HELD_MS: f64 = 50.0;

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let (mut added, mut held) = (Runs::default(), Runs::default());
    let (mut alone_p99, mut longest) = (Runs::default(), [Runs::default(), Runs::default()]);
    for number in 0..setting.pairs {
        let run = originals.run(&format!("alone-{number}"), SMALL, 4096)?;
        let alone = latencies(&run)?;
        drop(run);
        let run = originals.run(&format!("beside-{number}"), SMALL, 4096)?;
        let region = Region::Folder(run.home.join("region"));
        let keys = [("ship_every", "\"1s\"")];
        let subject = Tidemark::prepare(
            setting,
            &run.home.join("t"),
            &run.database,
            &[region],
            &keys,
        )?;
        let agent = subject.start_protected()?;
        let beside = latencies(&run)?;
        agent.stop()?;
        let p99 = |all: &[f64]| percentile(all, 0.99);
        added.push(p99(&beside) - p99(&alone));
        alone_p99.push(p99(&alone));
        let both = [&alone, &beside].map(|all| percentile(all, 1.0));
        let [without, with] = both;
        held.push((with - without).max(0.0));
        for (runs, one) in longest.iter_mut().zip(both) {
            runs.push(one);
        }
    }
    let [without, with] = longest.map(|runs| runs.median());
    Ok(Row {
        name: "commit-latency",
        pairs: setting.pairs,
        setting: format!(
            "The application's commits at {RATE} a second for {SECONDS} s, while another of its \
             processes runs PASSIVE, FULL, RESTART and TRUNCATE checkpoints in turn, one a second. \
             Without the agent p99 {:.3} ms; the longest commit of a run {without:.1} ms without and \
             {with:.1} ms beside it (medians).",
            alone_p99.median(),
        ),
        measures: vec![
            Measure::at_most("added p99", &added, ADDED_P99_MS, "ms"),
            Measure::never_above("longest commit, added", &held, HELD_MS, "ms"),
        ],
    })
}

/// How long each commit took, in milliseconds, sorted.
fn latencies(run: &Run) -> Result<Vec<f64>> {
    let checkpoints = Load::start(&run.database, Kind::Checkpoint, 1, SECONDS)?;
    let commits = Load::start(&run.database, Kind::Mixed, RATE, SECONDS)?.finish()?;
    checkpoints.finish()?;
    must_have_kept_up(&commits, RATE, SECONDS)?;
    let milliseconds = |commit: &Commit| commit.took as f64 / 1e6;
    let mut all: Vec<f64> = commits.iter().map(milliseconds).collect();
    all.sort_by(f64::total_cmp);
    Ok(all)
}
