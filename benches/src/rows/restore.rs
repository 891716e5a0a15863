//! Bringing a large database back, from S3 and from a folder, every hash checked.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Setting;
use crate::data;
use crate::peer::Litestream;
use crate::region::{Provider, Region};
use crate::report::{Measure, Row, Runs};
use crate::rows::{LARGE, LIKE_THE_PEER, Originals};
use crate::subject::Tidemark;

const GOAL: f64 = 0.5;
/// Litestream writes its image a second time at its highest level: let both come to rest.
const SETTLE: Duration = Duration::from_secs(20);

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let mut measures = Vec::new();
    for (word, is_bucket) in [("S3", true), ("a folder", false)] {
        let provider = Provider::start()?;
        let region = |side: &str| {
            if is_bucket {
                provider.region(side)
            } else {
                Region::Folder(originals.path().join(format!("region-{side}")))
            }
        };
        let run = originals.run(if is_bucket { "s3" } else { "folder" }, LARGE, 4096)?;
        let (home, mine) = (run.home.join("t"), region("ours"));
        let regions = [mine.clone()];
        let subject = Tidemark::prepare(setting, &home, &run.database, &regions, LIKE_THE_PEER)?;
        let agent = subject.start_protected()?;
        std::thread::sleep(SETTLE);
        agent.stop()?;
        let peer = Litestream::prepare(&run.home.join("l"), &run.database, &region("peer"))?;
        let process = peer.start_protected()?;
        std::thread::sleep(SETTLE);
        process.stop()?;
        let rows = count(&run.database)?;
        let (mut ours, mut peers) = (Runs::default(), Runs::default());
        let target = run.home.join("back.db");
        for _ in 0..setting.pairs {
            ours.push(subject.restore(&mine, &target)?.seconds);
            check_and_remove(&target, rows)?;
            peers.push(peer.restore(&target)?.seconds);
            check_and_remove(&target, rows)?;
        }
        measures.push(Measure::ratio(
            &format!("time from {word}"),
            (&ours, &peers),
            GOAL,
            "s",
        ));
    }
    Ok(Row {
        name: "restore",
        pairs: setting.pairs,
        setting:
            "A 1 GiB database to its latest state; Tidemark verifies every hash and decrypts, \
                  Litestream runs with its defaults."
                .to_owned(),
        measures,
    })
}

fn count(database: &Path) -> Result<i64> {
    Ok(data::open(database)?.query_row("SELECT count(*) FROM entry", [], |row| row.get(0))?)
}

fn check_and_remove(target: &Path, rows: i64) -> Result<()> {
    ensure!(count(target)? == rows, "not everything came back");
    for suffix in ["", "-wal", "-shm"] {
        let mut file = target.as_os_str().to_owned();
        file.push(suffix);
        drop(std::fs::remove_file(&file));
    }
    Ok(())
}
