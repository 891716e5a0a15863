//! How old is the newest commit that is not yet durable in both of two regions?
//!
//! Ground truth from outside: the application writes down when each commit returned, the witnesses
//! before the two servers when each log object was acknowledged, and the object's signed head says
//! how many transactions it holds. The count must come out exactly.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Setting;
use crate::load::{Commit, Kind, Load};
use crate::region::{Provider, Region};
use crate::report::{Measure, Row, Runs, percentile};
use crate::rows::{Originals, SMALL, must_have_kept_up};
use crate::subject::Tidemark;

const RATE: u32 = 200;
const SECONDS: f64 = 25.0;
const GOAL_SECONDS: f64 = 1.2;
/// Three ship intervals: by then the last commit is out.
const DRAIN: Duration = Duration::from_secs(3);

pub(super) fn measure(setting: &Setting) -> Result<Row> {
    let originals = Originals::new(setting)?;
    let (mut p99, mut largest) = (Runs::default(), Runs::default());
    for number in 0..setting.pairs {
        let (one, two) = (Provider::start()?, Provider::start()?);
        let regions = [one.region("app"), two.region("app")];
        let run = originals.run(&format!("run-{number}"), SMALL, 4096)?;
        let keys = [("ship_every", "\"1s\"")];
        let subject =
            Tidemark::prepare(setting, &run.home.join("t"), &run.database, &regions, &keys)?;
        let agent = subject.start_protected()?;
        let commits = Load::start(&run.database, Kind::Mixed, RATE, SECONDS)?.finish()?;
        must_have_kept_up(&commits, RATE, SECONDS)?;
        std::thread::sleep(DRAIN);
        agent.stop()?;
        let mut seconds = exposures(&commits, &regions)?;
        seconds.sort_by(f64::total_cmp);
        p99.push(percentile(&seconds, 0.99));
        largest.push(percentile(&seconds, 1.0));
    }
    Ok(Row {
        name: "exposure-p99",
        pairs: setting.pairs,
        setting: format!(
            "Commit until durable in both of two S3 regions, {RATE} transactions a second for \
             {SECONDS} s on an 86 MiB database, `ship_every = \"1s\"`; longest ever {:.2} s.",
            largest.worst()
        ),
        measures: vec![Measure::at_most(
            "p99 of the exposure",
            &p99,
            GOAL_SECONDS,
            "s",
        )],
    })
}

/// For each commit the seconds until it was durable everywhere.
fn exposures(commits: &[Commit], regions: &[Region]) -> Result<Vec<f64>> {
    let mut durable: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (number, region) in regions.iter().enumerate() {
        for (sequence, transactions, at) in log_objects(region)? {
            let known = durable.get(&sequence);
            ensure!(
                number == 0 || known.is_some_and(|(count, _)| *count == transactions),
                "object {sequence} is not the same in both regions"
            );
            let at = known.map_or(at, |(_, before)| at.max(*before));
            durable.insert(sequence, (transactions, at));
        }
    }
    let mut seconds = Vec::with_capacity(commits.len());
    let mut waiting = commits.iter();
    let total: u64 = durable.values().map(|(count, _)| count).sum();
    ensure!(
        total == commits.len() as u64,
        "the log objects count {total} transactions, the application made {}",
        commits.len()
    );
    for (count, at) in durable.values() {
        for _ in 0..*count {
            let commit = waiting.next().context("a commit for each transaction")?;
            seconds.push(at.saturating_sub(commit.at) as f64 / 1e9);
        }
    }
    Ok(seconds)
}

/// Sequence, transactions and time of acknowledgement of each log object.
fn log_objects(region: &Region) -> Result<Vec<(u64, u64, u64)>> {
    let objects = region.log_objects()?.into_iter();
    objects
        .map(|(request, head)| {
            let number = |name: &str| {
                head[name]
                    .as_u64()
                    .with_context(|| format!("no {name} in {head}"))
            };
            Ok((number("seq")?, number("transactions")?, request.answered_at))
        })
        .collect()
}
