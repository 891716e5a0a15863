//! How this agent stands with the root and with other writers, as a region shows it: for `status` and
//! `doctor`, which must say it with the daemon dead.

use jiff::Timestamp;
use tidemark_format::sign::PublicKey;
use tidemark_format::{Epoch, RegionId, RegionName, SourceName};
use tidemark_host::config::AgentConfig;
use tidemark_host::output::instant;
use tidemark_ledger::{Keyring, LedgerError, Trust, custody};
use tidemark_storage::ReadStore;

use crate::bootstrap;
use crate::state::{SourceRecord, StateDir};

/// How an agent stands with the root.
pub(super) enum Standing {
    Enrolled,
    NotEnrolled,
    Revoked { why: String },
}

/// The keyring of a region, if it has one, and how `agent` stands in it.
pub(super) async fn standing(
    store: &dyn ReadStore,
    trust: &Trust,
    agent: Option<PublicKey>,
) -> tidemark_ledger::Result<(Option<Keyring>, Standing)> {
    let keyring = match Keyring::load(store, trust).await {
        Ok(keyring) => keyring,
        // A region without a keyring has enrolled nobody.
        Err(LedgerError::NoRepository { .. }) => return Ok((None, Standing::NotEnrolled)),
        Err(error) => return Err(error),
    };
    let standing = match agent.map(|key| custody::is_enrolled(&keyring, &key)) {
        None | Some(Ok(true)) => Standing::Enrolled,
        Some(Ok(false)) => Standing::NotEnrolled,
        Some(Err(error)) => Standing::Revoked {
            why: error.to_string(),
        },
    };
    Ok((Some(keyring), standing))
}

/// This agent's public key, if its file can be read here.
pub(super) fn agent_key(config: &AgentConfig) -> Option<PublicKey> {
    let path = StateDir::new(&config.state_dir).agent_key();
    let signer = bootstrap::load_signing_key(&path).ok()?;
    Some(signer.public())
}

/// The epoch that the state directory has of a source, if it can be read here.
pub(super) fn own_epoch(config: &AgentConfig, source: &SourceName) -> Option<Epoch> {
    let path = StateDir::new(&config.state_dir).record(source);
    SourceRecord::load(&path)
        .ok()
        .flatten()
        .map(|record| record.epoch)
}

/// The id by which the state directory knows a region, if it can be read here.
pub(super) fn known_region(config: &AgentConfig, region: &RegionName) -> Option<RegionId> {
    let state = StateDir::new(&config.state_dir);
    config.sources.iter().find_map(|source| {
        let record = SourceRecord::load(&state.record(&source.name)).ok()??;
        record.lanes.get(region)?.region
    })
}

/// What people are told of a place without a marker that is known to have had one.
pub(super) fn not_the_region(place: &str, known: RegionId) -> String {
    format!(
        "{place} holds no region: it is known as region {known}, and its marker is not there. An unmounted disk looks \
         like that: mount it, and the agent goes on by itself. If it was emptied on purpose, give the region another \
         name in agent.toml and restart the agent"
    )
}

/// What people are told of a source that another agent has taken over.
pub(super) fn taken_over(
    source: &SourceName,
    own: Epoch,
    (epoch, host, since): (Epoch, &str, Timestamp),
) -> String {
    format!(
        "another agent ({host}) has taken {source} over on {}, with epoch {epoch}; this one has {own} and must not write it \
         any more. If the other is right, remove the source here. If this host is the right one, stop the other and run: \
         tidemark-agent take-over --source {source}",
        instant(since)
    )
}

/// What people are told of a revoked agent.
pub(super) fn revoked(why: &str) -> String {
    format!(
        "this agent's key was revoked, so nothing that it writes counts any more ({why}). If this host is to be protected \
         again: move config and state_dir away and run tidemark-agent init, which makes a new key; it has to be enrolled"
    )
}
