//! Bytes that a region holds after a short load, first image included.

use std::time::Duration;

use anyhow::Result;

use crate::Setting;
use crate::load::{Kind, Load};
use crate::peer::Litestream;
use crate::process::Running;
use crate::region::Region;
use crate::report::{Measure, Row, Runs};
use crate::rows::{LIKE_THE_PEER, Originals, Run, SMALL, must_have_kept_up};
use crate::subject::Tidemark;

const RATE: u32 = 100;
const SECONDS: f64 = 25.0;
const GOAL: f64 = 0.5;
/// Two ship intervals.
const DRAIN: Duration = Duration::from_secs(2);
const MIB: f64 = 1_048_576.0;

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let (mut ours, mut peers) = (Runs::default(), Runs::default());
    for number in 0..setting.pairs {
        let run = originals.run(&format!("ours-{number}"), SMALL, 4096)?;
        let region = Region::Folder(run.home.join("region"));
        let (home, regions) = (run.home.join("t"), [region.clone()]);
        let subject = Tidemark::prepare(setting, &home, &run.database, &regions, LIKE_THE_PEER)?;
        ours.push(held_after(&run, subject.start_protected()?, &region)?);
        drop(run);

        let run = originals.run(&format!("peer-{number}"), SMALL, 4096)?;
        let region = Region::Folder(run.home.join("region"));
        let peer = Litestream::prepare(&run.home.join("l"), &run.database, &region)?;
        peers.push(held_after(&run, peer.start_protected()?, &region)?);
    }
    Ok(Row {
        name: "bytes",
        pairs: setting.pairs,
        setting: format!(
            "What the region (a folder) holds after {SECONDS} s at {RATE} transactions a second, \
             appending and updating, on an 86 MiB database; compression 3, encrypted."
        ),
        measures: vec![Measure::ratio(
            "MiB in the region",
            (&ours, &peers),
            GOAL,
            "MiB",
        )],
    })
}

fn held_after(run: &Run, agent: Running, region: &Region) -> Result<f64> {
    let commits = Load::start(&run.database, Kind::Mixed, RATE, SECONDS)?.finish()?;
    must_have_kept_up(&commits, RATE, SECONDS)?;
    std::thread::sleep(DRAIN);
    agent.stop()?;
    Ok(region.held()?.1 as f64 / MIB)
}
