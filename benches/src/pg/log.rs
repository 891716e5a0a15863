//! Log objects as the witnesses before the servers saw them: up to where each reaches, by its signed
//! head, and when it was durable in every region.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use tidemark_format::postgres::Lsn;

use crate::pg::load::Commit;
use crate::region::Region;

/// A prefix of the log that every region held.
#[derive(Clone, Copy, Debug)]
struct Durable {
    /// Its end.
    end: Lsn,
    /// Nanoseconds since 1970 when the last region had acknowledged it.
    at: u64,
}

/// For each commit the seconds until all the log up to it was durable in all the regions.
pub(crate) fn exposures(commits: &[Commit], regions: &[Region]) -> Result<Vec<f64>> {
    let prefixes = durable(regions)?;
    let mut seconds = Vec::with_capacity(commits.len());
    for commit in commits {
        let holds = prefixes.partition_point(|prefix| prefix.end < commit.lsn);
        let prefix = prefixes.get(holds).with_context(|| {
            format!(
                "the regions don't hold the log up to {}, a commit",
                commit.lsn
            )
        })?;
        seconds.push(prefix.at.saturating_sub(commit.at) as f64 / 1e9);
    }
    Ok(seconds)
}

/// Prefixes of the log by their end, as they became durable everywhere.
fn durable(regions: &[Region]) -> Result<Vec<Durable>> {
    let mut found: BTreeMap<u64, (Durable, usize)> = BTreeMap::new();
    for region in regions {
        for (request, head) in region.log_objects()? {
            let seq = head["seq"]
                .as_u64()
                .with_context(|| format!("no seq in {head}"))?;
            let end: Lsn = head["facts"]["postgres"]["end"]
                .as_str()
                .with_context(|| format!("no end in {head}"))?
                .parse()?;
            let at = request.answered_at;
            let (known, regions) = found.entry(seq).or_insert((Durable { end, at }, 0));
            ensure!(known.end == end, "object {seq} is not the same everywhere");
            known.at = known.at.max(at);
            *regions += 1;
        }
    }
    // An object is of use once all before it are there.
    let mut latest = 0;
    let mut prefixes = Vec::with_capacity(found.len());
    let first = found.keys().next().copied().unwrap_or_default();
    for (expected, (seq, (mut object, held))) in (first..).zip(found) {
        if held < regions.len() {
            break;
        }
        ensure!(seq == expected, "object {expected} is nowhere");
        latest = object.at.max(latest);
        object.at = latest;
        prefixes.push(object);
    }
    Ok(prefixes)
}

/// How long creating a log object took, a share of them at most so long, in milliseconds.
pub(crate) fn create_ms(regions: &[Region], since: u64, share: f64) -> Result<f64> {
    let mut all = Vec::new();
    for region in regions {
        for (request, _) in region.log_objects()? {
            if request.answered_at >= since {
                let took = request.answered.duration_since(request.asked);
                all.push(took.as_secs_f64() * 1e3);
            }
        }
    }
    all.sort_by(f64::total_cmp);
    Ok(crate::report::percentile(&all, share))
}
