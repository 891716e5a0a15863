//! A copy of this state directory (a cloned or restored machine) has used a beat name of ours. Does it
//! run and may it write, or was it a stray beat of a copy that can't write any more?
//!
//! **Invariant.** At most one of the two goes on. An agent goes on past a foreign beat only if, in the
//! region where they met, its own log of every source it writes reaches past the end that the beat
//! names: the name that the copy would have to write next is taken there, by us and for ever, so the
//! copy has ended as fenced or ends at its next object. The copy in turn sees its own end behind ours
//! and never passes this test. A beat that names an earlier epoch than ours was made by a copy that our
//! own take-over has fenced: what it writes is void. Whatever isn't proven so ends this agent, as it
//! always did.
//!
//! Beats alone prove nothing: the names of log objects do, which are dense and created once.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_format::heads::BeatHead;
use tidemark_format::{KeyId, RegionName, SourceName};
use tidemark_host::codes;
use tidemark_host::output::instant;
use tidemark_ledger::read_verified;

use super::start::Running;
use crate::ship::greet::Collision;
use crate::ship::link::RegionLink;
use crate::ship::looking::AGENT;
use crate::status_live::{Board, LiveSource, SourceState};
use crate::{AgentError, Result};

/// How long the region may take to show the beat.
const READ_TIME: Duration = Duration::from_secs(10);

impl Running {
    /// Goes on past a copy that can't write any more, with an alert.
    ///
    /// # Errors
    /// [`AgentError::Cloned`] unless that is proven.
    pub(super) async fn weigh_copy(&mut self, collision: Collision) -> Result<()> {
        let link = self.links.iter().find(|one| one.name == collision.region);
        let beat = match link.filter(|link| link.is_up()) {
            Some(link) => read(link, &collision).await,
            None => None,
        };
        let Some(beat) = beat.filter(|beat| beat.repo == self.greeter.repo) else {
            return Err(AgentError::Cloned(Box::new(collision)));
        };
        let collision = said(collision, &beat);
        let region = &collision.region;
        let board = &self.shared.board;
        if !board.read(|sources, _, _| can_write_nothing(&beat, region, sources)) {
            return Err(AgentError::Cloned(Box::new(collision)));
        }
        let text = format!(
            "a copy of this machine or of its state directory was started with this agent's own key ({}). It can't write: \
             this agent's log has gone on since the copy was made, so this agent goes on. On the copy stop the agent, \
             move config and state_dir away and run tidemark-agent init, which makes a new key",
            collision.why
        );
        let now = self.shared.clock.now();
        board.alert(codes::FOREIGN_WRITER.id, AGENT, &text, now);
        Ok(())
    }
}

/// Whether an agent that starts goes on past a beat: past the last ones of a copy that was still running
/// when this agent took its sources over.
///
/// # Errors
/// [`AgentError::Cloned`], with what stands there in words if the region shows it.
pub(super) async fn weigh_at_start(
    link: &RegionLink,
    board: &Board,
    collision: Collision,
) -> Result<()> {
    let Some(beat) = read(link, &collision).await else {
        return Err(AgentError::Cloned(Box::new(collision)));
    };
    let collision = said(collision, &beat);
    // Of what this agent has written nothing is known here yet but the epochs.
    if !board.read(|sources, _, _| can_write_nothing(&beat, &collision.region, sources)) {
        return Err(AgentError::Cloned(Box::new(collision)));
    }
    tracing::warn!(
        "a copy of this machine or of its state directory ran with this agent's own key ({}); it is fenced",
        collision.why
    );
    Ok(())
}

async fn read(link: &RegionLink, collision: &Collision) -> Option<BeatHead> {
    let stores = link.open_stores()?;
    let beat = read_verified::<BeatHead>(&*stores.meta, &collision.key, None);
    let beat = tokio::time::timeout(READ_TIME, beat).await.ok()?;
    beat.ok().map(|beat| beat.head)
}

fn said(collision: Collision, beat: &BeatHead) -> Collision {
    let why = format!(
        "beat {} in region {} is host {}'s, last seen {}",
        beat.number,
        collision.region,
        beat.host,
        instant(beat.at)
    );
    Collision { why, ..collision }
}

/// Whether whoever made `beat` can write no log object of any of our sources any more.
fn can_write_nothing(
    beat: &BeatHead,
    region: &RegionName,
    sources: &BTreeMap<SourceName, LiveSource>,
) -> bool {
    let ours = sources
        .iter()
        .filter(|(_, live)| !matches!(live.state, SourceState::Retired | SourceState::Fenced));
    let mut any = false;
    for (name, live) in ours {
        any = true;
        // A source that its beat doesn't name it has not claimed, or it was fenced there or retired.
        let Some(theirs) = beat.sources.iter().find(|one| one.source == *name) else {
            continue;
        };
        let there = live.lanes.get(region).and_then(|lane| lane.log_through);
        let is_fenced = theirs.epoch < live.epoch;
        let is_behind = theirs.epoch == live.epoch && theirs.log_seq < there;
        if !is_fenced && !is_behind {
            return false;
        }
    }
    // A source that only the copy has is one that this agent knows nothing of.
    let mut known = beat.sources.iter();
    any && known.all(|one| sources.contains_key(&one.source))
}

/// Adds to why a source is fenced that the other has this very key, where it has.
pub(super) fn own_key_words(why: String, own: KeyId) -> String {
    if !why.contains(&own.to_string()) {
        return why;
    }
    format!(
        "{why}. Key {own} is this agent's own: a copy of this machine or of its state directory has written. Decide which \
         machine has the database that your users write to; on the other one stop the agent, move config and state_dir \
         away and run `tidemark-agent init`, then run `tidemark-agent take-over` on the right one"
    )
}

#[cfg(test)]
mod tests {
    use tidemark_format::heads::{BeatSource, ClockFacts, Facts};
    use tidemark_format::{Epoch, LogSeq, PutId, RepoId};

    use super::*;
    use crate::ship::lane::Standing;
    use crate::status_live::LiveLane;

    fn region() -> RegionName {
        "a".parse().unwrap()
    }

    fn ours(sources: &[(&str, u64)]) -> BTreeMap<SourceName, LiveSource> {
        let live = |through: u64| LiveSource {
            state: SourceState::Capturing,
            epoch: Epoch(1),
            lanes: [(
                region(),
                LiveLane {
                    standing: Standing::Whole,
                    lacking_since: None,
                    behind: 0,
                    backlog_bytes: 0,
                    log_through: Some(LogSeq(through)),
                    point_through: None,
                },
            )]
            .into(),
            ..LiveSource::default()
        };
        let all = sources.iter();
        all.map(|(name, through)| (name.parse().unwrap(), live(*through)))
            .collect()
    }

    fn beat(epoch: u32, sources: &[(&str, u64)]) -> BeatHead {
        let at = jiff::Timestamp::from_second(1).unwrap();
        let source = |(name, through): &(&str, u64)| BeatSource {
            source: name.parse().unwrap(),
            epoch: Epoch(epoch),
            log_seq: Some(LogSeq(*through)),
            log_link: None,
            caught_up_at: None,
            trouble: None,
        };
        BeatHead {
            repo: RepoId([0; 16]),
            number: 2,
            put: PutId([0; 16]),
            at,
            host: "copy".into(),
            clock: ClockFacts::default(),
            every_ms: 1000,
            sources: sources.iter().map(source).collect(),
            facts: Facts::new(),
        }
    }

    fn goes_on(beat: &BeatHead, sources: &BTreeMap<SourceName, LiveSource>) -> bool {
        can_write_nothing(beat, &region(), sources)
    }

    #[test]
    fn an_agent_goes_on_only_past_a_copy_that_is_behind_in_every_source() {
        let sources = ours(&[("app", 5), ("shop", 9)]);
        assert!(goes_on(&beat(1, &[("app", 4), ("shop", 2)]), &sources));
        // Fenced in one, or in both: its last beat names what is left.
        assert!(goes_on(&beat(1, &[("app", 4)]), &sources));
        assert!(goes_on(&beat(1, &[]), &sources));
        for other in [
            beat(1, &[("app", 5), ("shop", 2)]),
            beat(1, &[("app", 6), ("shop", 2)]),
            beat(1, &[("app", 4), ("shop", 2), ("more", 1)]),
            beat(2, &[("app", 4), ("shop", 2)]),
        ] {
            assert!(!goes_on(&other, &sources), "{other:?}");
        }
        assert!(!goes_on(&beat(1, &[]), &BTreeMap::new()));
    }

    #[test]
    fn an_agent_goes_on_past_a_copy_that_it_has_fenced() {
        let mut sources = ours(&[("app", 5), ("shop", 9)]);
        for live in sources.values_mut() {
            live.epoch = Epoch(2);
            live.lanes.clear();
        }
        assert!(goes_on(&beat(1, &[("app", 50), ("shop", 2)]), &sources));
        assert!(!goes_on(&beat(2, &[("app", 1), ("shop", 2)]), &sources));
        assert!(!goes_on(&beat(3, &[("app", 1), ("shop", 2)]), &sources));
        assert!(!goes_on(&beat(1, &[("more", 1)]), &sources));
        if let Some(live) = sources.get_mut(&"shop".parse::<SourceName>().unwrap()) {
            live.epoch = Epoch(1);
        }
        assert!(!goes_on(&beat(1, &[("app", 1), ("shop", 2)]), &sources));
    }

    #[test]
    fn of_an_agent_and_its_copy_at_most_one_goes_on() {
        for mine in 0..4 {
            for theirs in 0..4 {
                let one = goes_on(&beat(1, &[("app", theirs)]), &ours(&[("app", mine)]));
                let other = goes_on(&beat(1, &[("app", mine)]), &ours(&[("app", theirs)]));
                assert!(!(one && other), "{mine} {theirs}");
            }
        }
    }
}
