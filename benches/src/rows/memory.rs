//! The most memory the agent ever holds: a large database, its base under load, one region away.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::Setting;
use crate::load::{Kind, Load};
use crate::peer::Litestream;
use crate::region::Region;
use crate::report::{Measure, Row, Runs};
use crate::rows::{LARGE, LIKE_THE_PEER, Originals};
use crate::subject::{Tidemark, wait_restorable};

const RATE: u32 = 1000;
const SECONDS: f64 = 60.0;
const GOAL_MIB: f64 = 64.0;
const MIB: f64 = 1_048_576.0;
/// The load runs before the base begins.
const AHEAD: Duration = Duration::from_secs(1);

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new()?;
    let mut measures = Vec::new();
    for page_size in [4096, 512] {
        let mut held = Runs::default();
        for number in 0..setting.pairs {
            let run = originals.run(&format!("ours-{page_size}-{number}"), LARGE, page_size)?;
            let here = Region::Folder(run.home.join("region"));
            let away = Region::Folder(run.home.join("away"));
            let (home, regions) = (run.home.join("t"), [here.clone(), away.clone()]);
            let keys = [LIKE_THE_PEER, &[("durable_in", "1")]].concat();
            let subject = Tidemark::prepare(setting, &home, &run.database, &regions, &keys)?;
            unmount(&away)?;
            let load = Load::start(&run.database, Kind::Mixed, RATE, SECONDS)?;
            std::thread::sleep(AHEAD);
            let mut agent = subject.start()?;
            wait_restorable(&here, &mut agent)?;
            load.finish()?;
            held.push(agent.usage()?.memory_bytes as f64 / MIB);
            agent.stop()?;
        }
        let what = format!("VmHWM at page size {page_size}");
        measures.push(Measure::never_above(&what, &held, GOAL_MIB, "MiB"));
    }
    let peer = peer_holds(&originals)?;
    Ok(Row {
        name: "memory",
        setting: format!(
            "The agent on a 1 GiB database: first base while the application makes {RATE} \
             transactions a second for {SECONDS} s, one of two regions away all the time. \
             Litestream, one region, page size 4096: {peer:.0} MiB."
        ),
        measures,
    })
}

/// A disk that is not mounted: the folder is gone.
fn unmount(region: &Region) -> Result<()> {
    if let Region::Folder(path) = region {
        let hidden: PathBuf = path.with_extension("unmounted");
        std::fs::rename(path, hidden)?;
    }
    Ok(())
}

/// The same for the peer, once: it is no goal, only a measure of the task.
fn peer_holds(originals: &Originals) -> Result<f64> {
    let run = originals.run("peer", LARGE, 4096)?;
    let region = Region::Folder(run.home.join("region"));
    let peer = Litestream::prepare(&run.home.join("l"), &run.database, &region)?;
    let load = Load::start(&run.database, Kind::Mixed, RATE, SECONDS)?;
    std::thread::sleep(AHEAD);
    let process = peer.start_protected()?;
    load.finish()?;
    let held = process.usage()?.memory_bytes as f64 / MIB;
    process.kill()?;
    Ok(held)
}
