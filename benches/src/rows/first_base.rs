//! From the agent's start until a large database can be restored from S3 for the first time.

use anyhow::{Result, ensure};

use crate::Setting;
use crate::peer::Litestream;
use crate::region::Provider;
use crate::report::{Measure, Row, Runs};
use crate::rows::{LARGE, LIKE_THE_PEER, Originals};
use crate::subject::{Tidemark, wait_restorable};

const GOAL_TIME: f64 = 0.6;
const GOAL_CPU: f64 = 0.5;

/// Seconds and CPU seconds over the runs.
#[derive(Default)]
struct Cost {
    time: Runs,
    cpu: Runs,
}

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let (mut ours, mut peers) = (Cost::default(), Cost::default());
    for number in 0..setting.pairs {
        // A server of its own for each run: deleted space is not given back at once.
        let provider = Provider::start()?;
        let run = originals.run(&format!("ours-{number}"), LARGE, 4096)?;
        let regions = [provider.region("app")];
        let home = run.home.join("t");
        let subject = Tidemark::prepare(setting, &home, &run.database, &regions, LIKE_THE_PEER)?;
        let started = std::time::Instant::now();
        let mut agent = subject.start()?;
        let restorable = wait_restorable(&regions[0], &mut agent)?;
        ours.cpu.push(agent.usage()?.cpu_seconds);
        ours.time
            .push(restorable.duration_since(started).as_secs_f64());
        agent.stop()?;
        drop((run, provider));

        let provider = Provider::start()?;
        let run = originals.run(&format!("peer-{number}"), LARGE, 4096)?;
        let region = provider.region("app");
        let peer = Litestream::prepare(&run.home.join("l"), &run.database, &region)?;
        let started = std::time::Instant::now();
        let mut process = peer.start()?;
        let restorable = peer.wait_restorable(&mut process)?;
        peers.cpu.push(process.usage()?.cpu_seconds);
        peers
            .time
            .push(restorable.duration_since(started).as_secs_f64());
        // A part of the image would be no base.
        let held = region.created_bytes();
        ensure!(
            held >= LARGE / 4,
            "Litestream's first file came with {held} bytes in the region"
        );
        process.kill()?;
    }
    let time = Measure::ratio("time", (&ours.time, &peers.time), GOAL_TIME, "s");
    let cpu = Measure::ratio("CPU of the client", (&ours.cpu, &peers.cpu), GOAL_CPU, "s");
    Ok(Row {
        name: "first-base",
        pairs: setting.pairs,
        setting: "A 1 GiB database, from the start until S3 holds what a restore needs (Tidemark: \
                  the first recovery point; Litestream: its first file); compression 3, encrypted."
            .to_owned(),
        measures: vec![time, cpu],
    })
}
