//! The lower rungs, region by region: what the restore needs is looked at in every region given, not only
//! in the one that it is read from.
//!
//! **Invariant:** damage in any region is told, even where another one had a good copy: it is one failure
//! away from being a loss.
//!
//! Heads are read whole. Bodies of regions that the restore did not read from are read up to
//! [`BODIES_BYTES_MAX`] each; beyond that a random sample of that many bytes is, and the check says so.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use tidemark_format::envelope::{Envelope, Head};
use tidemark_format::heads::{BaseHead, LogHead, PackHead};
use tidemark_format::{FormatError, Hash, Key, LogSeq, RegionName, keys};
use tidemark_host::{Rng, RngExt as _, output};
use tidemark_ledger::history::{LogState, SourceHistory, Standing};
use tidemark_ledger::timeline::Timeline;
use tidemark_open::Opener;
use tidemark_planner::drill::{Check, CheckStatus, Rung};
use tidemark_storage::{ErrorKind, ReadStore};

use crate::error::Result;
use crate::plan::RestorePlan;
use crate::repository::Repository;

/// Bodies read of a region that the restore did not read from.
const BODIES_BYTES_MAX: u64 = 1 << 30;
/// Objects read at once: packs of 8 MiB.
const OBJECTS_AT_ONCE: usize = 4;

/// What was found of a set of objects in the regions.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) checks: Vec<Check>,
    pub(super) damages: Vec<String>,
    /// What is no damage and yet not as it should be.
    pub(super) exceptions: Vec<String>,
}

/// Every head that the plan needs, and every name of the log, in every region.
///
/// # Errors
/// A region stops answering.
pub(super) async fn chain(timeline: &Timeline, plan: &RestorePlan) -> Result<Found> {
    let mut found = Found::default();
    for (region, history) in timeline.histories() {
        let mut bad = of_region(region, history, plan).await?;
        let objects = plan.bases.len().saturating_add(plan.log.len());
        let name = format!("heads and names in region {region}");
        let mut check = Check::of(Rung::Chain, format!("chain.{region}"), name, true)
            .actual(output::count(objects, "object"));
        if !bad.is_empty() {
            check.status = CheckStatus::Warned;
            check.why = Some(damaged(bad.len()));
        }
        found.checks.push(check);
        found.damages.append(&mut bad);
    }
    for region in &timeline.lacking {
        found
            .damages
            .push(format!("region {region} has nothing of this source"));
    }
    Ok(found)
}

fn damaged(objects: usize) -> String {
    let objects = output::count(objects, "object");
    format!("{objects} damaged or missing, listed as damage")
}

async fn of_region(
    region: &RegionName,
    history: &SourceHistory,
    plan: &RestorePlan,
) -> Result<Vec<String>> {
    let mut bad: BTreeSet<String> = BTreeSet::new();
    for trouble in history.troubles() {
        let why = tidemark_storage::chain(trouble.error.as_ref());
        bad.insert(format!("{} in region {region}: {why}", trouble.key));
    }
    let newest = history.newest_point();
    for epoch in history.epochs() {
        // Past the newest recovery point a region may merely be behind.
        let sealed = newest.filter(|point| point.head.epoch == epoch.epoch);
        let counts = |seq: LogSeq| match sealed {
            Some(point) => seq <= point.head.log_seq,
            None => epoch.standing != Standing::Live,
        };
        for run in epoch.missing().iter().filter(|run| counts(run.first)) {
            let key = keys::log(history.source(), run.epoch, run.first);
            let more = run.last.0.saturating_sub(run.first.0);
            let more = match more {
                0 => String::new(),
                more => format!(" (and {more} after it)"),
            };
            bad.insert(format!("{key} in region {region}: it is not there{more}"));
        }
    }
    let (Some(first), Some(last)) = (plan.log.first(), plan.log.last()) else {
        return Ok(bad.into_iter().collect());
    };
    let range = first.head.seq..last.head.seq.next();
    for entry in history.log(first.head.epoch, range).await? {
        let key = keys::log(history.source(), first.head.epoch, entry.seq);
        // What is missing was told as a run of names, as far as it isn't merely late.
        if let LogState::Damaged(error) = &entry.state {
            let why = tidemark_storage::chain(error.as_ref());
            bad.insert(format!("{key} in region {region}: {why}"));
        }
    }
    for base in &plan.bases {
        let mut own = history
            .epochs()
            .flat_map(|epoch| epoch.bases.iter().chain(&epoch.orphans));
        if !own.any(|one| one.link == base.link) {
            let named = newest.is_some_and(|point| point.head.base.link == base.link);
            let told = bad.iter().any(|line| line.contains(base.key.as_str()));
            if named && !told {
                bad.insert(format!("{} in region {region}: it is not there", base.key));
            }
        }
    }
    Ok(bad.into_iter().collect())
}

/// An object whose body is to be as signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Body {
    key: Key,
    link: Hash,
    size: u64,
    kind: BodyKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyKind {
    Log,
    Base,
    Pack,
}

/// Every object with a body that the plan needs.
///
/// # Errors
/// A base can't be read any more.
pub(super) async fn bodies(opener: &Opener, plan: &RestorePlan) -> Result<Vec<Body>> {
    let log = plan.log.iter().map(|object| Body {
        key: object.key.clone(),
        link: object.link,
        size: object.size,
        kind: BodyKind::Log,
    });
    let mut all: Vec<Body> = log.collect();
    for base in &plan.bases {
        all.push(Body {
            key: base.key.clone(),
            link: base.link,
            size: base.size,
            kind: BodyKind::Base,
        });
        let opened = opener.base(&base.key, base.link).await?;
        let head = &opened.head;
        all.extend(opened.index.packs.iter().map(|pack| Body {
            key: keys::pack(&head.source, head.epoch, head.generation, pack.object),
            link: pack.link,
            size: pack.size,
            kind: BodyKind::Pack,
        }));
    }
    Ok(all)
}

/// Reads `bodies` in every region, as far as the bound goes.
pub(super) async fn ciphertext(
    repository: &Repository,
    bodies: &[Body],
    rng: &Arc<dyn Rng>,
) -> Found {
    let mut found = Found::default();
    for region in &repository.regions {
        let name = region.name();
        let chosen = sample(bodies.to_vec(), BODIES_BYTES_MAX, rng.as_ref());
        let mut reads = stream::iter(chosen.clone())
            .map(|body| {
                let store = Arc::clone(&region.store.read);
                async move {
                    let read = read(store.as_ref(), &body).await;
                    (body, read)
                }
            })
            .buffer_unordered(OBJECTS_AT_ONCE);
        let (mut bad, mut away) = (Vec::new(), None);
        while let Some((body, read)) = reads.next().await {
            match read {
                Ok(()) => {}
                Err(Bad::Damaged(why)) => {
                    bad.push(format!("{} in region {name}: {why}", body.key));
                }
                // Each of thousands would be waited for as long; the restore has its copy.
                Err(Bad::Away(why)) => {
                    away = Some(why);
                    break;
                }
            }
        }
        drop(reads);
        bad.sort();
        let bytes: u64 = chosen.iter().map(|body| body.size).sum();
        let words = format!("bodies in region {name}");
        let mut check = Check::of(Rung::Ciphertext, format!("ciphertext.{name}"), words, true)
            .actual(format!(
                "{} of {}, {}",
                chosen.len(),
                output::count(bodies.len(), "object"),
                output::bytes(bytes)
            ));
        if !bad.is_empty() {
            check.status = CheckStatus::Warned;
            check.why = Some(damaged(bad.len()));
        } else if let Some(why) = away {
            check.status = CheckStatus::NotRun;
            check.why = Some(why.clone());
            found
                .exceptions
                .push(format!("region {name} could not be read to the end: {why}"));
        }
        found.checks.push(check);
        found.damages.append(&mut bad);
    }
    found
}

/// A random part of at most so many bytes; all, if that is no more.
fn sample(mut bodies: Vec<Body>, bytes_max: u64, rng: &dyn Rng) -> Vec<Body> {
    let all: u64 = bodies.iter().map(|body| body.size).sum();
    if all <= bytes_max {
        return bodies;
    }
    let mut left = bytes_max;
    let mut chosen = Vec::new();
    while !bodies.is_empty() {
        let count = u64::try_from(bodies.len()).unwrap_or(u64::MAX);
        let place = usize::try_from(rng.below(count)).unwrap_or(0);
        let body = bodies.swap_remove(place);
        if body.size > left {
            break;
        }
        left = left.saturating_sub(body.size);
        chosen.push(body);
    }
    chosen
}

enum Bad {
    Damaged(String),
    Away(String),
}

async fn read(store: &dyn ReadStore, body: &Body) -> std::result::Result<(), Bad> {
    let bytes = store.get(&body.key).await.map_err(|error| {
        let why = tidemark_storage::chain(&error);
        match error.kind() {
            ErrorKind::Missing => Bad::Damaged("it is not there".to_owned()),
            ErrorKind::Corrupt => Bad::Damaged(why),
            _ => Bad::Away(why),
        }
    })?;
    whole(&bytes, body).map_err(|error| Bad::Damaged(error.to_string()))
}

/// Whether an object is the one that was linked, signature and body.
fn whole(bytes: &[u8], body: &Body) -> std::result::Result<(), FormatError> {
    let link = match body.kind {
        BodyKind::Log => opened::<LogHead>(bytes)?,
        BodyKind::Base => opened::<BaseHead>(bytes)?,
        BodyKind::Pack => opened::<PackHead>(bytes)?,
    };
    if link == body.link {
        return Ok(());
    }
    Err(FormatError::Invalid {
        what: "object",
        why: "it is another one than the restore needs",
    })
}

fn opened<H: Head>(bytes: &[u8]) -> std::result::Result<Hash, FormatError> {
    let (envelope, _head) = Envelope::open::<H>(bytes)?;
    Ok(envelope.link())
}

#[cfg(test)]
mod tests {
    use tidemark_host::TestRng;

    use super::*;

    fn body(number: u64, size: u64) -> Body {
        Body {
            key: Key::new(format!("data/pack/app/1/0/{number}")).unwrap(),
            link: Hash([0; 32]),
            size,
            kind: BodyKind::Pack,
        }
    }

    #[test]
    fn what_is_small_is_read_whole_and_of_the_rest_a_part_that_fits() {
        let all: Vec<Body> = (0..100).map(|number| body(number, 10)).collect();
        let rng = TestRng::seeded(1);
        assert_eq!(sample(all.clone(), 1000, &rng).len(), 100);
        let part = sample(all.clone(), 250, &rng);
        assert_eq!(part.len(), 25);
        let other = sample(all, 250, &rng);
        assert_ne!(part, other, "another part each time");
        assert!(sample(vec![body(1, 10)], 5, &rng).is_empty());
    }
}
