//! What PostgreSQL clusters are like, for people: how large they are (their engine sees the log go by and
//! no files), what in their settings stands against protection, and whether another server of the connection
//! string still has our slot. The servers are asked at the start, and now and then.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemark_engine_postgres::Followed;
use tidemark_engine_postgres::conninfo::{ConnInfo, Process};
use tidemark_engine_postgres::probe::{
    self, Finding, Findings, Grade, Others, Server, Topic, Wanted,
};
use tidemark_format::SourceName;
use tidemark_host::Clock;
use tidemark_host::config::{Ack, AgentConfig, Engine, Source};
use tokio_util::sync::CancellationToken;

use super::tasks::Starting;
use crate::source::canary;
use crate::status_live::Board;

/// How often a server is asked that answered.
const ASK_EVERY: Duration = Duration::from_secs(600);
/// How soon one is asked again that did not, or that is not as it should be.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// What stands against protection, as an alert.
const SETUP: &str = "server.setup";
/// How often the other servers of a connection string are looked at: one may come back at any moment.
const ASK_OTHERS: Duration = Duration::from_secs(5);
/// Anybody between could take TLS away.
const LINK: &str = "server.link";
/// Several servers take writes.
const PARTED: &str = "server.parted";
/// A server that is not captured has our slot.
const ELSEWHERE: &str = "slot.elsewhere";

impl Starting {
    /// Starts to ask the clusters of the config.
    pub(super) fn sizes(&mut self, config: &AgentConfig) {
        for source in &config.sources {
            if let Engine::Postgres { conninfo, slot } = &source.engine {
                let watched = Watched {
                    source: source.name.clone(),
                    folder: self.shared.state.engine(&source.name),
                    conninfo: conninfo.clone(),
                    wanted: wanted(source, slot),
                    board: Arc::clone(&self.shared.board),
                    clock: Arc::clone(&self.shared.clock),
                };
                self.rest
                    .spawn(until(self.stop_rest.clone(), watched.watch()));
            }
        }
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// What the agent wants from the server of a source.
fn wanted(source: &Source, slot: &str) -> Wanted {
    Wanted {
        slot: slot.to_owned(),
        application_name: slot.to_owned(),
        waits_for_regions: source.settings.ack == Ack::Regions,
        slot_keep_max: source.settings.slot_keep_max.get(),
        canary: canary::form(&source.settings),
        followed: None,
        runs_as: rustix::process::geteuid().as_raw(),
    }
}

struct Watched {
    source: SourceName,
    /// The engine's own folder.
    folder: PathBuf,
    conninfo: String,
    wanted: Wanted,
    board: Arc<Board>,
    clock: Arc<dyn Clock>,
}

impl Watched {
    async fn watch(mut self) {
        let mut wait = Duration::ZERO;
        loop {
            let Ok(info) = ConnInfo::parse(&self.conninfo, &Process) else {
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            };
            self.wanted.followed = Followed::load(&self.folder);
            self.others(&info).await;
            if wait.is_zero() {
                wait = self.found(&probe::look(&info, &self.wanted).await);
            }
            let several = info.addresses.len() > 1;
            let next = if several { wait.min(ASK_OTHERS) } else { wait };
            tokio::time::sleep(next).await;
            wait = wait.saturating_sub(next);
        }
    }

    fn say(&self, code: &str, text: Option<&str>) {
        let about = self.source.as_str();
        match text {
            Some(text) => self.board.alert(code, about, text, self.clock.now()),
            None => self.board.clear(code, about),
        }
    }

    /// Says of other servers of the connection string that they keep log for our slot, or take writes, too.
    async fn others(&self, info: &ConnInfo) {
        let slot = &self.wanted.slot;
        let found = probe::others(info, slot, self.wanted.followed.as_ref()).await;
        // Who is captured can't be told now: what was said before stays.
        let Some(Others { slots, parted }) = found else {
            return;
        };
        let lines: Vec<String> = slots
            .iter()
            .map(|one| {
                let held = one.held_bytes.map_or_else(String::new, |held| {
                    format!(" ({} by now)", tidemark_host::output::bytes(held))
                });
                format!(
                    "{} is not captured, has replication slot {slot} and keeps its log for it{held}: as a rule it was \
                     the primary before a fail-over. On that server: SELECT pg_drop_replication_slot('{slot}');",
                    one.peer
                )
            })
            .collect();
        let lines = (!lines.is_empty()).then(|| lines.join(" "));
        self.say(ELSEWHERE, lines.as_deref());
        self.say(PARTED, parted.as_deref());
    }

    /// Says what was found; how soon to ask again.
    fn found(&self, found: &Findings) -> Duration {
        let server = found.server.as_ref();
        if let Some(bytes) = server.and_then(|server| server.database_bytes) {
            self.board
                .source(&self.source, |live| live.database_bytes = Some(bytes));
        }
        if server.is_some() {
            let mut checks = found.checks.iter();
            let open = checks.find(|one| one.topic == Topic::Tls && one.grade == Grade::Look);
            let line = open.map(line);
            self.say(LINK, line.as_deref());
        }
        let broken = found.checks.iter();
        let broken = broken.filter(|one| one.grade == Grade::Broken && is_said_here(one, server));
        let lines: Vec<String> = broken.map(line).collect();
        if lines.is_empty() {
            self.say(SETUP, None);
            return if server.is_some() {
                ASK_EVERY
            } else {
                ASK_AGAIN
            };
        }
        self.say(SETUP, Some(&lines.join("; ")));
        ASK_AGAIN
    }
}

/// Whether nobody else says it: why a server can't be asked is the capture's to say, and `doctor`'s; so is
/// what comes of a slot that is gone. What the server said before may be mended.
fn is_said_here(one: &Finding, server: Option<&Server>) -> bool {
    match one.topic {
        Topic::Servers => false,
        Topic::Database => true,
        Topic::Slot => server.is_some_and(|server| server.slot.is_some()),
        _ => server.is_some(),
    }
}

fn line(one: &Finding) -> String {
    let remedy = one.remedy.as_deref().unwrap_or_default();
    format!("{}: {}; {remedy}", one.topic.name(), one.found)
}
