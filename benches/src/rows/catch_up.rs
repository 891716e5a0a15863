//! What is shipped after downtime: the agent was off, a hundredth of the pages changed and were
//! checkpointed, so that no WAL tells of it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rusqlite::params;

use crate::Setting;
use crate::data::{self, Payload, Random};
use crate::region::{Region, WAIT_MAX};
use crate::report::{Measure, Row, Runs};
use crate::rows::Originals;
use crate::subject::Tidemark;

const BYTES: u64 = 256 << 20;
const CHANGED_ONE_IN: u64 = 100;
const GOAL_PERCENT: f64 = 3.0;
/// Caught up when nothing new has come for this long.
const QUIET: Duration = Duration::from_secs(5);

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let mut shipped = Runs::default();
    for number in 0..setting.pairs {
        let run = originals.run(&format!("run-{number}"), BYTES, 4096)?;
        let region = Region::Folder(run.home.join("region"));
        let (home, regions) = (run.home.join("t"), [region.clone()]);
        let keys = [("ship_every", "\"1s\"")];
        let subject = Tidemark::prepare(setting, &home, &run.database, &regions, &keys)?;
        let agent = subject.start_protected()?;
        quiet(&region)?;
        agent.stop()?;
        let (_, before) = region.held()?;
        let size = change(&run.database)?;
        let agent = subject.start()?;
        // Its first objects, then silence.
        let started = Instant::now();
        while region.held()?.1 == before {
            ensure!(started.elapsed() < WAIT_MAX, "nothing was shipped");
            std::thread::sleep(Duration::from_millis(50));
        }
        quiet(&region)?;
        agent.stop()?;
        let (_, after) = region.held()?;
        shipped.push(100.0 * after.saturating_sub(before) as f64 / size as f64);

        let target = run.home.join("back.db");
        subject.restore(&region, &target)?;
        ensure!(
            changed(&target)? == changed(&run.database)?,
            "the changes came back"
        );
    }
    Ok(Row {
        name: "catch-up",
        pairs: setting.pairs,
        setting: "A 256 MiB database; the agent stopped, 1 % of its pages changed and \
                  checkpointed, the agent started: bytes that the region gained."
            .to_owned(),
        measures: vec![Measure::at_most("shipped", &shipped, GOAL_PERCENT, "%")],
    })
}

fn quiet(region: &Region) -> Result<()> {
    let mut last = region.held()?;
    loop {
        std::thread::sleep(QUIET);
        let now = region.held()?;
        if now.1.saturating_sub(last.1) < 64 << 10 {
            return Ok(());
        }
        last = now;
    }
}

/// Changes rows until a hundredth of the pages has; answers the database's size.
fn change(database: &Path) -> Result<u64> {
    let mut database = data::open(database)?;
    let pages = data::pragma(&database, "page_count")?;
    let size = pages * data::pragma(&database, "page_size")?;
    let rows: i64 = database.query_row("SELECT max(id) FROM entry", [], |row| row.get(0))?;
    let count = i64::try_from(pages / CHANGED_ONE_IN)?;
    let transaction = database.transaction()?;
    let mut random = Random::new(3);
    for number in 0..count {
        // Far apart, so that each row is on a page of its own.
        let row = 1 + number * (rows / count);
        let sql = "UPDATE entry SET at = 1, payload = ?2 WHERE id = ?1";
        transaction.execute(sql, params![row, Payload::draw(&mut random)])?;
    }
    transaction.commit()?;
    database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);")?;
    Ok(size)
}

fn changed(database: &Path) -> Result<i64> {
    let sql = "SELECT count(*) FROM entry WHERE at = 1";
    Ok(data::open(database)?.query_row(sql, [], |row| row.get(0))?)
}
