//! Facts about regions, keys and sessions.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use futures_util::stream::{self, StreamExt as _};
use tidemark_format::envelope::{Envelope, Kind};
use tidemark_format::heads::{Facts as OpenFacts, PointHead, Role, SessionHead};
use tidemark_format::{Key, keys};
use tidemark_host::RegionUrl;
use tidemark_ledger::timeline::Timeline;
use tidemark_ledger::{Keyring, Subject, Verified, list_all, read_marker};
use tidemark_planner::objectives::{Facts, Holder, RegionFact, SessionFact, Transport};
use tidemark_storage::ListEntry;

use crate::error::Result;
use crate::repository::{OpenRegion, Repository, Settings};

/// The newest sessions that are looked at: an agent begins one a day.
const SESSIONS_MAX: usize = 200;
/// Heads read at once.
const AT_ONCE: usize = 16;

/// Facts of a recovery point: places that the agent reaches unencrypted.
const PLAIN_HTTP: &str = "plain_http";

/// Adds what regions, keyring and sessions say.
///
/// # Errors
/// A region stops answering.
pub(super) async fn add(
    facts: &mut Facts,
    repository: &Repository,
    timeline: &Timeline,
    settings: &Settings,
) -> Result<()> {
    let failed = timeline.failed.iter();
    let failed = failed.map(|(name, error)| format!("{name}: {}", tidemark_storage::chain(error)));
    let away = repository.away.iter();
    let away = away.map(|away| format!("{}: {}", away.name, tidemark_storage::chain(&away.error)));
    facts.away = away.chain(failed).collect();
    for region in &repository.regions {
        facts.regions.push(of_region(region, timeline).await);
    }
    facts.declared_in = settings.config_file.as_ref().map(|file| declared_in(file));
    facts.keyring_version = repository.keyring.version();
    facts.holders = repository
        .keyring
        .head()
        .recipients
        .iter()
        .map(|entry| Holder {
            key: entry.key.id().to_string(),
            name: entry.name.clone(),
            revoked_at: entry.revoked.as_ref().map(|revoked| revoked.at),
        })
        .collect();
    facts.sessions = sessions(repository).await?;
    Ok(())
}

/// A config and the day on which somebody last wrote it.
fn declared_in(file: &std::path::Path) -> String {
    let written = std::fs::metadata(file)
        .and_then(|found| found.modified())
        .ok();
    let written = written.and_then(|time| jiff::Timestamp::try_from(time).ok());
    match written {
        Some(at) => format!("{} of {}", file.display(), at.strftime("%Y-%m-%d")),
        None => file.display().to_string(),
    }
}

async fn of_region(region: &OpenRegion, timeline: &Timeline) -> RegionFact {
    let config = &region.config;
    let history = timeline
        .histories()
        .find(|(name, _)| *name == region.name());
    let history = history.map(|(_, history)| history);
    let point = history.and_then(|history| history.newest_point());
    // A marker that can't be read leaves the level unknown; verify tells why.
    let marker = read_marker(region.store.read.as_ref()).await.ok().flatten();
    let level = point
        .zip(marker)
        .and_then(|(point, marker)| point.head.create_only.get(&marker.region).cloned());
    let transport = match &config.url {
        RegionUrl::Dir(_) => Transport::Directory,
        RegionUrl::S3(_) if config.url.is_plain_http() => Transport::Plain,
        RegionUrl::S3(_) => Transport::Tls,
    };
    let device = match &config.url {
        RegionUrl::Dir(path) => std::fs::metadata(path).ok().map(|found| found.dev()),
        RegionUrl::S3(_) => None,
    };
    let place = config.url.place();
    RegionFact {
        name: config.name.to_string(),
        country: config.country.as_ref().map(ToString::to_string),
        domain_named: config.domain_named,
        failure_domain: config.failure_domain.clone(),
        device,
        transport,
        agent_plain: point.and_then(|point| plain(&point.head.facts, &place)),
        create_only: level,
        probed_by: point.map(named),
        committed: point.map(|point| point.head.committed),
        place,
    }
}

fn named(point: &Verified<PointHead>) -> String {
    format!("point:{}/{}", point.head.epoch, point.head.seq)
}

/// Whether the agent reaches a place unencrypted, as it signs.
fn plain(facts: &OpenFacts, place: &str) -> Option<bool> {
    let list = facts.get(PLAIN_HTTP)?.as_array()?;
    Some(list.iter().any(|one| one.as_str() == Some(place)))
}

/// A session that an agent of the keyring signed.
fn session(key: &Key, bytes: &[u8], keyring: &Keyring) -> Option<SessionFact> {
    let (envelope, head) = Envelope::open::<SessionHead>(bytes).ok()?;
    let subject = Subject::dated(Kind::Session, head.at);
    keyring
        .check(&envelope.signer, &[Role::Agent], &subject)
        .ok()?;
    let own = head.repo == keyring.repo() && keys::session(head.session) == *key;
    own.then(|| SessionFact {
        key: key.to_string(),
        at: head.at,
        sealed_to: head
            .recipients
            .iter()
            .map(|one| one.recipient.to_string())
            .collect(),
    })
}

/// The newest sessions of every region, once each.
async fn sessions(repository: &Repository) -> Result<Vec<SessionFact>> {
    let mut found: BTreeMap<String, SessionFact> = BTreeMap::new();
    for region in &repository.regions {
        let store = region.store.read.as_ref();
        // A credential that reads no data/ sees no sessions: then nothing is said of them.
        let Ok(mut entries) = list_all(store, keys::SESSIONS).await else {
            continue;
        };
        entries.sort_by_key(|entry| entry.modified);
        let older = entries.len().saturating_sub(SESSIONS_MAX);
        let newest: Vec<ListEntry> = entries.split_off(older);
        let reads = newest
            .into_iter()
            .filter(|entry| !found.contains_key(entry.key.as_str()));
        let reads: Vec<ListEntry> = reads.collect();
        let reads = reads.into_iter().map(|entry| async move {
            let read = store.get(&entry.key).await;
            (entry.key, read)
        });
        let mut reads = stream::iter(reads).buffer_unordered(AT_ONCE);
        while let Some((key, read)) = reads.next().await {
            // One that can't be read, or isn't an agent's, opens nothing.
            let fact = read
                .ok()
                .and_then(|bytes| session(&key, &bytes, &repository.keyring));
            found.extend(fact.map(|fact| (fact.key.clone(), fact)));
        }
    }
    let mut all: Vec<SessionFact> = found.into_values().collect();
    all.sort_by_key(|session| session.at);
    Ok(all)
}
