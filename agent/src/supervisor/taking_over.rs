//! A take-over: sources claimed from whoever writes them, because a person said so.

use std::sync::Arc;

use tidemark_format::{KeyId, SourceName, keys};
use tidemark_host::config::AgentConfig;
use tidemark_host::lock::StateLock;
use tidemark_ledger::fencing::{Claimed, take_over as take_over_ledger};
use tidemark_storage::ReadStore;

use super::claims::{handles, store_claim};
use super::domains::domains;
use super::prepare::prepare;
use crate::bootstrap::Components;
use crate::ship::greet::{GreetError, Greeter};
use crate::ship::link::RegionLink;
use crate::state::{StateDir, WriterState};
use crate::{AgentError, Result, policy};

/// Takes sources over from whoever writes them: all of the config, or one. The daemon must not run
/// (the components hold the state directory's lock).
///
/// # Errors
/// Too few regions, another take-over at this moment, an agent that isn't enrolled.
pub async fn take_over(
    config: &AgentConfig,
    components: Components,
    source: Option<&SourceName>,
) -> Result<Vec<(SourceName, Claimed)>> {
    let chosen: Vec<_> = config
        .sources
        .iter()
        .filter(|one| source.is_none_or(|wanted| *wanted == one.name))
        .collect();
    if chosen.is_empty() {
        let known: Vec<&str> = config.sources.iter().map(|one| one.name.as_str()).collect();
        return Err(AgentError::UnknownSource {
            name: source.map_or_else(String::new, SourceName::to_string),
            known: known.join(", "),
        });
    }
    let state = StateDir::new(&config.state_dir);
    let mut taking = TakingOver::begin(config, components).await?;
    let mut taken = Vec::new();
    for source in chosen {
        let regions = handles(&taking.links, &domains(&taking.links));
        let keyring = taking
            .greeter
            .keyring()
            .ok_or_else(|| AgentError::NoRegion {
                why: "no region has shown a keyring that names this agent".to_owned(),
            })?;
        let writer = taking
            .greeter
            .as_writer(&source.name, taking.greeter.writer, &keyring);
        let claimed = take_over_ledger(&regions, source.settings.durable_in, &writer).await?;
        store_claim(&state, &source.name, &claimed)?;
        taken.push((source.name.clone(), claimed));
    }
    taking.finish().await?;
    Ok(taken)
}

/// A take-over under way: regions greeted, no beat written yet.
struct TakingOver {
    greeter: Arc<Greeter>,
    links: Vec<Arc<RegionLink>>,
    state: StateDir,
    writer: WriterState,
    agent: KeyId,
    _lock: StateLock,
}

impl TakingOver {
    /// Reaches the regions, without a beat: whoever is to be fenced may be using its numbers.
    async fn begin(config: &AgentConfig, components: Components) -> Result<Self> {
        let prepared = prepare(config, &components)?;
        let mut last = None;
        for link in &prepared.links {
            match prepared.greeter.greet_without_beat(link).await {
                Ok(()) => link.set_up(true),
                Err(GreetError::NotEnrolled { command }) => {
                    return Err(AgentError::NotEnrolled { command });
                }
                Err(GreetError::Revoked(why)) => return Err(AgentError::Revoked { why }),
                Err(error) => last = Some(policy::with_causes(&error)),
            }
        }
        if prepared.links.iter().all(|link| !link.is_up()) {
            return Err(AgentError::NoRegion {
                why: last.unwrap_or_default(),
            });
        }
        Ok(Self {
            state: StateDir::new(&config.state_dir),
            greeter: prepared.greeter,
            links: prepared.links,
            agent: components.signer.public().id(),
            writer: components.writer,
            _lock: components.lock,
        })
    }

    /// Goes on with a beat number that nobody used.
    async fn finish(&mut self) -> Result<()> {
        for link in self.links.iter().filter(|link| link.is_up()) {
            let Some(stores) = link.open_stores() else {
                continue;
            };
            let newest = newest_beat(&*stores.meta, self.agent).await?;
            self.writer.last_beat = self.writer.last_beat.max(newest);
        }
        self.writer.store(&self.state.writer())?;
        Ok(())
    }
}

async fn newest_beat(store: &dyn ReadStore, agent: KeyId) -> Result<u64> {
    let page = store.list(&keys::beats(agent), None, 1).await?;
    Ok(page
        .entries
        .first()
        .and_then(|entry| keys::beat_number(&entry.key))
        .unwrap_or(0))
}
