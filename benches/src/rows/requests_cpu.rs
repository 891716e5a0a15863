//! Requests to S3 and CPU seconds in a minute of load, appending and updating at random.

use std::time::Duration;

use anyhow::Result;

use crate::Setting;
use crate::load::{Kind, Load};
use crate::peer::Litestream;
use crate::process::Running;
use crate::region::{Provider, Region};
use crate::report::{Measure, Row, Runs};
use crate::rows::{LIKE_THE_PEER, Originals, Run, SMALL, must_have_kept_up};
use crate::subject::Tidemark;

const RATE: u32 = 1000;
/// What is counted, and a little before and after it. Litestream compacts every 30 seconds: as often
/// as in any such time.
const COUNTED: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(4);
/// Counted times in a minute.
const PER_MINUTE: f64 = 60.0 / COUNTED.as_secs() as f64;
const GOAL_REQUESTS: f64 = 0.5;
const GOAL_CPU: f64 = 0.8;

/// A minute's cost, over the runs.
#[derive(Default)]
struct Cost {
    requests: Runs,
    cpu: Runs,
}

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let mut measures = Vec::new();
    for (kind, word) in [(Kind::Append, "appending"), (Kind::Update, "updating")] {
        let provider = Provider::start()?;
        let (mut ours, mut peers) = (Cost::default(), Cost::default());
        for number in 0..setting.pairs {
            let run = originals.run(&format!("ours-{word}-{number}"), SMALL, 4096)?;
            let region = provider.region(&format!("ours-{number}"));
            let (home, regions) = (run.home.join("t"), [region.clone()]);
            let subject =
                Tidemark::prepare(setting, &home, &run.database, &regions, LIKE_THE_PEER)?;
            ours.add(&run, kind, subject.start_protected()?, &region)?;
            drop(run);

            let run = originals.run(&format!("peer-{word}-{number}"), SMALL, 4096)?;
            let region = provider.region(&format!("peer-{number}"));
            let peer = Litestream::prepare(&run.home.join("l"), &run.database, &region)?;
            peers.add(&run, kind, peer.start_protected()?, &region)?;
        }
        let what = format!("requests a minute, {word}");
        let both = (&ours.requests, &peers.requests);
        measures.push(Measure::ratio(&what, both, GOAL_REQUESTS, ""));
        let what = format!("CPU-s a minute, {word}");
        measures.push(Measure::ratio(
            &what,
            (&ours.cpu, &peers.cpu),
            GOAL_CPU,
            "s",
        ));
    }
    Ok(Row {
        name: "requests-cpu",
        pairs: setting.pairs,
        setting: format!(
            "Per minute at {RATE} transactions a second on an 86 MiB database, S3, shipping every \
             second, counted over {} s; compression 3, encrypted.",
            COUNTED.as_secs()
        ),
        measures,
    })
}

impl Cost {
    fn add(&mut self, run: &Run, kind: Kind, agent: Running, region: &Region) -> Result<()> {
        let seconds = (COUNTED + 2 * SETTLE).as_secs_f64();
        let load = Load::start(&run.database, kind, RATE, seconds)?;
        std::thread::sleep(SETTLE);
        let (requests, usage) = (region.requests().len(), agent.usage()?);
        std::thread::sleep(COUNTED);
        let counted = region.requests().len().saturating_sub(requests);
        let cpu = agent.usage()?.cpu_seconds - usage.cpu_seconds;
        self.requests.push(PER_MINUTE * counted as f64);
        self.cpu.push(PER_MINUTE * cpu);
        must_have_kept_up(&load.finish()?, RATE, seconds)?;
        agent.stop()
    }
}
