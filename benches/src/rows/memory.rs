//! The most memory the agent ever holds: a large database, its base into S3 under load, another region
//! away.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Setting;
use crate::load::{Kind, Load};
use crate::peer::Litestream;
use crate::region::Provider;
use crate::report::{Measure, Row, Runs};
use crate::rows::{LARGE, LIKE_THE_PEER, Originals, must_have_kept_up};
use crate::subject::{Tidemark, wait_restorable};

const RATE: u32 = 1000;
/// The load goes on until the base is there, and for this long at least.
const LOAD_MIN: Duration = Duration::from_secs(20);
/// Longer than any base here takes.
const LOAD_MAX_SECONDS: f64 = 600.0;
const GOAL_MIB: f64 = 64.0;
const MIB: f64 = 1_048_576.0;
/// The load runs before the base begins.
const AHEAD: Duration = Duration::from_secs(1);

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let mut measures = Vec::new();
    for page_size in [4096, 512] {
        let mut held = Runs::default();
        for number in 0..setting.pairs {
            let run = originals.run(&format!("ours-{page_size}-{number}"), LARGE, page_size)?;
            let provider = Provider::start()?;
            let (here, away) = (provider.region("here"), provider.region_apart("away")?);
            let (home, regions) = (run.home.join("t"), [here.clone(), away.clone()]);
            let subject =
                Tidemark::prepare(setting, &home, &run.database, &regions, LIKE_THE_PEER)?;
            away.cut_off()?;
            let load = Load::start(&run.database, Kind::Mixed, RATE, LOAD_MAX_SECONDS)?;
            let started = Instant::now();
            std::thread::sleep(AHEAD);
            let mut agent = subject.start()?;
            wait_restorable(&here, &mut agent)?;
            std::thread::sleep(LOAD_MIN.saturating_sub(started.elapsed()));
            let seconds = started.elapsed().as_secs_f64();
            must_have_kept_up(&load.kill()?, RATE, seconds)?;
            held.push(agent.usage()?.memory_bytes as f64 / MIB);
            // Asked to end it would wait for the region that is away.
            agent.kill()?;
        }
        let what = format!("VmHWM at page size {page_size}");
        measures.push(Measure::never_above(&what, &held, GOAL_MIB, "MiB"));
    }
    let peer = peer_holds(&originals)?;
    Ok(Row {
        name: "memory",
        pairs: setting.pairs,
        setting: format!(
            "The agent on a 1 GiB database: first base while the application makes {RATE} \
             transactions a second, one of two S3 regions away all the time. Litestream, one region, page size 4096: {peer:.0} MiB."
        ),
        measures,
    })
}

/// The same for the peer, once: it is no goal, only a measure of the task.
fn peer_holds(originals: &Originals) -> Result<f64> {
    let run = originals.run("peer", LARGE, 4096)?;
    let provider = Provider::start()?;
    let region = provider.region("peer");
    let peer = Litestream::prepare(&run.home.join("l"), &run.database, &region)?;
    let load = Load::start(&run.database, Kind::Mixed, RATE, LOAD_MAX_SECONDS)?;
    let started = Instant::now();
    std::thread::sleep(AHEAD);
    let process = peer.start_protected()?;
    std::thread::sleep(LOAD_MIN.saturating_sub(started.elapsed()));
    load.kill()?;
    let held = process.usage()?.memory_bytes as f64 / MIB;
    process.kill()?;
    Ok(held)
}
