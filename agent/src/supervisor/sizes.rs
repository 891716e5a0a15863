//! What PostgreSQL clusters are like, for people: how large they are (their engine sees the log go by and
//! no files), what in their settings stands against protection, and whether another server of the connection
//! string still has our slot. The servers are asked at the start, and now and then.

use std::sync::Arc;
use std::time::Duration;

use tidemark_engine_postgres::conninfo::{ConnInfo, Process};
use tidemark_engine_postgres::probe::{self, Findings, Grade, Wanted};
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
/// A server that is not captured has our slot.
const ELSEWHERE: &str = "slot.elsewhere";

impl Starting {
    /// Starts to ask the clusters of the config.
    pub(super) fn sizes(&mut self, config: &AgentConfig) {
        for source in &config.sources {
            if let Engine::Postgres { conninfo, slot } = &source.engine {
                let watched = Watched {
                    source: source.name.clone(),
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
    conninfo: String,
    wanted: Wanted,
    board: Arc<Board>,
    clock: Arc<dyn Clock>,
}

impl Watched {
    async fn watch(self) {
        loop {
            let wait = match ConnInfo::parse(&self.conninfo, &Process) {
                Ok(info) => {
                    self.elsewhere(&info).await;
                    self.found(&probe::look(&info, &self.wanted).await)
                }
                Err(_unreadable) => ASK_AGAIN,
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Says of other servers of the connection string that they keep log for our slot.
    async fn elsewhere(&self, info: &ConnInfo) {
        let (about, slot) = (self.source.as_str(), &self.wanted.slot);
        let found = probe::elsewhere(info, slot).await;
        let lines: Vec<String> = found
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
        if lines.is_empty() {
            self.board.clear(ELSEWHERE, about);
        } else {
            let now = self.clock.now();
            self.board.alert(ELSEWHERE, about, &lines.join(" "), now);
        }
    }

    /// Says what was found; how soon to ask again.
    fn found(&self, found: &Findings) -> Duration {
        // Why it can't be asked is the capture's to say, and `doctor`'s; what it said before may be mended.
        let Some(server) = &found.server else {
            self.board.clear(SETUP, self.source.as_str());
            return ASK_AGAIN;
        };
        if let Some(bytes) = server.database_bytes {
            self.board
                .source(&self.source, |live| live.database_bytes = Some(bytes));
        }
        let broken = found.checks.iter().filter(|one| one.grade == Grade::Broken);
        let lines: Vec<String> = broken
            .map(|one| {
                let remedy = one.remedy.as_deref().unwrap_or_default();
                format!("{}: {}; {remedy}", one.topic.name(), one.found)
            })
            .collect();
        if lines.is_empty() {
            self.board.clear(SETUP, self.source.as_str());
            return ASK_EVERY;
        }
        let (about, text) = (self.source.as_str(), lines.join("; "));
        self.board.alert(SETUP, about, &text, self.clock.now());
        ASK_AGAIN
    }
}
