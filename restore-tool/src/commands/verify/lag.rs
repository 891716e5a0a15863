//! Whether every region has the newest recovery point. What a region holds may be whole and still be
//! old: nothing in it tells, only another region does.

use jiff::Timestamp;
use tidemark_format::keys;
use tidemark_host::output;
use tidemark_ledger::history::{LoadOptions, Older, PointsWanted, Tip};

use super::{DamageFound, VerifyReport};
use tidemark_ledger::timeline::Timeline;

use crate::error::Result;
use crate::repository::{Repository, Tools};

/// To find the point that another region had when the check began.
const NEWEST_POINTS: usize = 16;

/// Notes regions that still lack what another one had when the check began; a fork is damage.
pub(super) async fn tell(
    repository: &Repository,
    timeline: &Timeline,
    tools: &Tools,
    report: &mut VerifyReport,
) -> Result<()> {
    let source = timeline.source();
    let freshness = timeline.freshness();
    for region in freshness.forked {
        let key = freshness.newest.as_ref().map_or_else(
            || format!("source {source}"),
            |tip| keys::point(source, tip.epoch, tip.point).to_string(),
        );
        report.damages.push(DamageFound {
            region,
            object: key,
            why: "another region holds a different recovery point under the same name: don't restore from this one alone"
                .to_owned(),
        });
    }
    if freshness.older.is_empty() {
        return Ok(());
    }
    // Regions are read one after the other and fed meanwhile: a moment's difference is none.
    let points = PointsWanted::Newest(NEWEST_POINTS);
    let later = repository.timeline(source, &LoadOptions { points }).await?;
    for older in freshness.older {
        let mut histories = later.histories();
        let now = histories.find(|(name, _)| **name == older.region);
        let tip = now.and_then(|(_, history)| history.tip());
        if tip.as_ref().is_none_or(|tip| is_before(tip, &older)) {
            let words = words(&older, tip.as_ref(), tools.clock.now());
            report.exceptions.push(format!("{source}: {words}"));
        }
    }
    Ok(())
}

fn is_before(tip: &Tip, older: &Older) -> bool {
    let elsewhere = &older.newest_elsewhere;
    (tip.epoch, tip.point) < (elsewhere.epoch, elsewhere.point)
}

/// Which region, since when, and what to do.
fn words(older: &Older, here: Option<&Tip>, now: Timestamp) -> String {
    let (region, elsewhere) = (&older.region, &older.newest_elsewhere);
    let name = |tip: &Tip| {
        let (epoch, point) = (tip.epoch, tip.point);
        format!(
            "point:{epoch}/{point} of {}",
            output::instant(tip.committed)
        )
    };
    let here = here.map_or_else(
        || "holds no recovery point".to_owned(),
        |tip| {
            let age = output::age(now, tip.committed);
            format!("ends at {} ({age})", name(tip))
        },
    );
    format!(
        "region {region} is whole as far as it goes and lags: it {here}, and another region has {}. Restore from that one, or from both. If the agent feeds {region}, it catches up by itself: tidemark-agent status on its host says what it waits for; if nobody took it out of the config, it may have been rolled back",
        name(elsewhere)
    )
}
