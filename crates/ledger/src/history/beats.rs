//! The agents' beats: what says that a source without news is idle and not stuck.
//!
//! One object per agent holds all its sources, newest first in a listing, so the newest of every
//! agent is one request each, read once for all sources. A beat counts only for the newest epoch
//! and only from the key that claimed it.

use std::sync::Arc;

use jiff::Timestamp;
use tidemark_format::heads::{BeatHead, BeatSource, Role};
use tidemark_format::sign::PublicKey;
use tidemark_format::{Epoch, Hash, LogSeq, keys};
use tidemark_storage::ReadStore;

use super::{SourceHistory, Trouble};
use crate::object::Verified;
use crate::read::read_verified;
use crate::{Keyring, Result};

/// Beats looked at per agent when the newest is damaged.
const BEATS_TRIED: usize = 3;

/// An agent's newest beat.
#[derive(Debug, Clone)]
pub struct AgentBeat {
    /// The agent's name in the keyring.
    pub agent: String,
    /// The beat.
    pub beat: Verified<BeatHead>,
}

/// The newest beat of every agent.
#[derive(Debug, Clone, Default)]
pub struct Beats {
    /// One for each agent that ever beat here.
    pub agents: Vec<AgentBeat>,
    /// Damaged ones.
    pub troubles: Vec<Trouble>,
}

impl Beats {
    /// Reads the newest beat of every agent in the keyring.
    ///
    /// # Errors
    /// The region's.
    pub async fn load(store: &dyn ReadStore, keyring: &Keyring) -> Result<Self> {
        let mut found = Self::default();
        for member in keyring
            .members()
            .iter()
            .filter(|member| member.role == Role::Agent)
        {
            let page = store
                .list(&keys::beats(member.key.id()), None, BEATS_TRIED)
                .await?;
            for entry in page.entries {
                let read = read_verified::<BeatHead>(store, &entry.key, Some(entry.size)).await;
                match read
                    .and_then(|beat| keyring.accept(&beat, &[Role::Agent]).map(|_| beat.clone()))
                {
                    Ok(beat) => {
                        found.agents.push(AgentBeat {
                            agent: member.name.clone(),
                            beat,
                        });
                        break;
                    }
                    Err(error) if error.is_about_the_object() => found.troubles.push(Trouble {
                        key: entry.key.to_string(),
                        error: Arc::new(error),
                    }),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }

    /// The number of `signer`'s newest beat.
    #[must_use]
    pub fn newest_of(&self, signer: &PublicKey) -> Option<u64> {
        let own = self.agents.iter().filter(|a| a.beat.signer == *signer);
        own.map(|agent| agent.beat.head.number).max()
    }

    /// What `signer`'s newest beat says of a source.
    fn of(&self, signer: &PublicKey, history: &SourceHistory) -> Option<(&AgentBeat, &BeatSource)> {
        let agent = self
            .agents
            .iter()
            .find(|agent| agent.beat.signer == *signer)?;
        let sources = &agent.beat.head.sources;
        sources
            .iter()
            .find(|beat| beat.source == *history.source())
            .map(|beat| (agent, beat))
    }
}

/// What a beat proves of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaughtUp {
    /// The epoch that it is about: the newest.
    pub epoch: Epoch,
    /// Nothing newer than `log_seq` was committed up to this instant; `None` while the agent can't
    /// say so.
    pub at: Option<Timestamp>,
    /// The last log object then.
    pub log_seq: LogSeq,
    /// Its link.
    pub log_link: Hash,
    /// When the agent beat.
    pub beat_at: Timestamp,
    /// How often it means to, in milliseconds.
    pub every_ms: u64,
    /// Why it can't say that it is caught up.
    pub trouble: Option<String>,
    /// Whether the log object it names is in this region: if not, the region is behind.
    pub here: bool,
}

impl SourceHistory {
    /// Takes from `beats` what counts for this source.
    pub(super) async fn apply_beats(&mut self, beats: &Beats) -> Result<()> {
        let Some(newest) = self.newest() else {
            return Ok(());
        };
        let epoch = newest.epoch;
        let Some(writer) = newest.claim.as_ref().map(|claim| claim.signer) else {
            return Ok(());
        };
        let Some((agent, beat)) = beats.of(&writer, self) else {
            return Ok(());
        };
        let (Some(log_seq), Some(log_link)) = (beat.log_seq, beat.log_link) else {
            return Ok(());
        };
        if beat.epoch != epoch {
            return Ok(());
        }
        let mut caught_up = CaughtUp {
            epoch,
            at: beat.caught_up_at,
            log_seq,
            log_link,
            beat_at: agent.beat.head.at,
            every_ms: agent.beat.head.every_ms,
            trouble: beat.trouble.clone(),
            here: false,
        };
        let entries = self.log(epoch, log_seq..log_seq.next()).await?;
        let found = entries.first().and_then(|entry| entry.state.object());
        caught_up.here = found.is_some_and(|object| object.link == log_link);
        self.caught_up = Some(caught_up);
        Ok(())
    }
}
