//! Before anything runs: regions linked and greeted, records read, the shared parts made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidemark_format::RegionName;
use tidemark_format::SourceName;
use tidemark_format::heads::Facts;
use tidemark_host::codes;
use tidemark_host::config::{AgentConfig, Source};
use tidemark_host::{HostFacts, RegionUrl};
use tidemark_ledger::Trust;
use tidemark_seal::Sealed;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;

use super::claims::{self, Local};
use super::copies::weigh_at_start;
use crate::beats::Beats;
use crate::bootstrap::Components;
use crate::budget::Budget;
use crate::disk::Disk;
use crate::metrics::Metrics;
use crate::room::Room;
use crate::sessions::Sessions;
use crate::ship::greet::{GreetError, Greeter, Identity};
use crate::ship::link::RegionLink;
use crate::ship::looking::AGENT;
use crate::ship::shipping::away_text;
use crate::source::driver::Shared;
use crate::state::{SpoolUsage, StateDir};
use crate::status_live::Board;
use crate::store::ItemStore;
use crate::{AgentError, Result, enrolment};

/// Shares of `memory`: cuts on their way to the spool, items on their way to the regions, packs.
/// (Servers' log that waits to be cut has one, too: `bootstrap`.) The rest is the engines' pending
/// pages, the buffers of transfers and the program itself.
pub(super) const CUT_SHARE: u64 = 12;
const FRESH_SHARE: u64 = 16;
const PACK_SHARE: u64 = 8;
/// Bases at a time: each holds a few frames of 1 MiB and up to two packs of 8 MiB.
const BASES_AT_ONCE: usize = 2;

/// How long a region may take to be greeted before the start goes on without it.
const GREET_TIME: Duration = Duration::from_secs(10);

/// What a start has made before anything runs.
pub(super) struct Prepared {
    pub(super) greeter: Arc<Greeter>,
    pub(super) links: Vec<Arc<RegionLink>>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) board: Arc<Board>,
}

pub(super) fn trust(config: &AgentConfig) -> Result<Trust> {
    let first = config
        .recipients
        .first()
        .ok_or(tidemark_seal::Error::NoRecipients)?;
    Ok(Trust {
        repo: first.repo,
        root: config.root,
    })
}

pub(super) fn prepare(config: &AgentConfig, components: &Components) -> Result<Prepared> {
    let trust = trust(config)?;
    let machine = (Arc::clone(&components.clock), Arc::clone(&components.rng));
    let names: BTreeSet<RegionName> = components
        .regions
        .iter()
        .map(|region| region.config.name.clone())
        .collect();
    let sessions = Arc::new(Sessions::new(
        StateDir::new(&config.state_dir),
        components.signer.clone(),
        config.recipients.clone(),
        names,
        machine.clone(),
        trust.repo,
    )?);
    let identity = Identity {
        trust,
        signer: components.signer.clone(),
        writer: components.writer.writer,
        host: components.host.hostname.clone(),
        recipients: config.recipients.clone(),
        enrol: enrolment::command(components.signer.public().id(), &config.regions),
    };
    let greeter = Arc::new(Greeter::new(identity, machine.0, machine.1));
    let mut links: Vec<Arc<RegionLink>> = components
        .regions
        .iter()
        .map(|region| {
            let mut link = RegionLink::new(
                region.config.name.clone(),
                region.config.failure_domain.clone(),
                region.config.country.as_ref().map(ToString::to_string),
                Arc::clone(&region.opener),
                Arc::clone(&sessions),
            );
            if let RegionUrl::Dir(folder) = &region.config.url {
                link.directory = Some(folder.clone());
            }
            Arc::new(link)
        })
        .collect();
    // The same order on every host: two copies of one state directory meet in the same region first.
    links.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Prepared {
        greeter,
        links,
        sessions,
        board: Arc::new(Board::default()),
    })
}

/// What greeting the regions came to.
#[derive(Debug)]
pub(super) enum Greeted {
    /// Those that answered.
    By(BTreeSet<RegionName>),
    /// The beat's number was used by a copy that can't write any more: greet with the next one.
    NumberTaken,
}

/// Greets every region, one after the other.
pub(super) async fn greet_all(prepared: &Prepared, beat: &Sealed) -> Result<Greeted> {
    let mut up = BTreeSet::new();
    for link in &prepared.links {
        let greeting = tokio::time::timeout(GREET_TIME, prepared.greeter.greet(link, beat));
        match greeting.await {
            Ok(Ok(())) => {
                link.set_up(true);
                up.insert(link.name.clone());
                prepared.board.clear(codes::NOT_ENROLLED.id, AGENT);
            }
            Ok(Err(GreetError::Cloned(collision))) => {
                weigh_at_start(link, &prepared.board, *collision).await?;
                return Ok(Greeted::NumberTaken);
            }
            Ok(Err(GreetError::Revoked(why))) => return Err(AgentError::Revoked { why }),
            Ok(Err(GreetError::NotEnrolled { command })) => {
                let (board, now) = (&prepared.board, prepared.greeter.clock.now());
                let text = enrolment::waiting(&command);
                board.alert(codes::NOT_ENROLLED.id, AGENT, &text, now);
                board.region(&link.name, |live| live.last_error = Some(text));
            }
            Ok(Err(error)) => {
                let text = away_text(link, &error);
                tracing::warn!(region = %link.name, error = %text, "the region is away at the start; others go on");
                prepared
                    .board
                    .region(&link.name, |live| live.last_error = Some(text));
            }
            Err(_elapsed) => {
                tracing::warn!(region = %link.name, "the region doesn't answer at the start; others go on");
                let why = format!("no answer within {} s", GREET_TIME.as_secs());
                prepared
                    .board
                    .region(&link.name, |live| live.last_error = Some(why));
            }
        }
    }
    Ok(Greeted::By(up))
}

/// What all sources share.
pub(super) fn share(
    config: &AgentConfig,
    components: &Components,
    prepared: &Prepared,
    spool: (SpoolUsage, UnboundedSender<SourceName>),
) -> Arc<Shared> {
    let (usage, no_room) = spool;
    let state = StateDir::new(&config.state_dir);
    let memory = config.memory.get();
    let room = Room::new(
        usage,
        config.spool_max,
        config.spool_keep_free,
        state.root().to_owned(),
        Arc::clone(&components.clock),
    );
    Arc::new(Shared {
        repo: prepared.greeter.repo,
        signer: components.signer.clone(),
        state,
        clock: Arc::clone(&components.clock),
        rng: Arc::clone(&components.rng),
        cpu: components.cpu.clone(),
        sessions: Arc::clone(&prepared.sessions),
        items: Arc::new(ItemStore::new(memory / FRESH_SHARE)),
        board: Arc::clone(&prepared.board),
        metrics: Arc::new(Metrics::new()),
        disk: Disk::default(),
        base_turns: Arc::new(Semaphore::new(BASES_AT_ONCE)),
        pack_budget: Budget::new(memory / PACK_SHARE),
        room: Arc::new(room),
        facts: facts(config, &components.host),
        no_room,
    })
}

pub(super) fn facts(config: &AgentConfig, host: &HostFacts) -> Facts {
    let mut facts = Facts::new();
    facts.insert("agent_version".to_owned(), host.version.clone().into());
    facts.insert("host_id".to_owned(), host.host_id.clone().into());
    facts.insert("hostname".to_owned(), host.hostname.clone().into());
    facts.insert("kernel".to_owned(), host.kernel.clone().into());
    facts.insert("config_hash".to_owned(), config.hash.to_string().into());
    facts.extend(crate::transit::facts(config));
    facts
}

pub(super) fn beats(config: &AgentConfig, components: &Components, prepared: &Prepared) -> Beats {
    let state = StateDir::new(&config.state_dir);
    Beats {
        repo: prepared.greeter.repo,
        signer: components.signer.clone(),
        host: components.host.hostname.clone(),
        every: config.beat_every(),
        facts: facts(config, &components.host),
        path: state.writer(),
        state: components.writer.clone(),
        board: Arc::clone(&prepared.board),
        clock: Arc::clone(&components.clock),
        rng: Arc::clone(&components.rng),
    }
}

/// Loads what the state directory knows of every source. Blocks.
pub(super) fn load_all(
    config: &AgentConfig,
    usage: &SpoolUsage,
) -> Result<BTreeMap<SourceName, Option<Local>>> {
    let state = StateDir::new(&config.state_dir);
    config
        .sources
        .iter()
        .map(|source| {
            Ok((
                source.name.clone(),
                claims::load(&state, &source.name, usage)?,
            ))
        })
        .collect()
}

pub(super) fn task_ended(error: tokio::task::JoinError) -> AgentError {
    AgentError::Io {
        action: "start",
        source: std::io::Error::other(error),
    }
}

pub(super) fn last_errors(board: &Board) -> String {
    let errors: Vec<String> = board.read(|_, regions, _| {
        let errors = regions
            .iter()
            .filter_map(|(name, live)| Some((name, live.last_error.clone()?)));
        errors
            .map(|(name, error)| format!("{name}: {error}"))
            .collect()
    });
    errors.join("; ")
}

pub(super) fn with_config(
    config: &AgentConfig,
    mut loaded: BTreeMap<SourceName, Option<Local>>,
) -> Vec<(&Source, Option<Local>)> {
    let sources = config.sources.iter();
    sources
        .map(|source| (source, loaded.remove(&source.name).flatten()))
        .collect()
}
