//! How large the databases of PostgreSQL clusters are, for people: their engine sees the log go by and
//! no files, so the server is asked now and then.

use std::sync::Arc;
use std::time::Duration;

use tidemark_engine_postgres::conninfo::{ConnInfo, Process};
use tidemark_engine_postgres::probe;
use tidemark_format::SourceName;
use tidemark_host::config::{AgentConfig, Engine};
use tokio_util::sync::CancellationToken;

use super::tasks::Starting;
use crate::status_live::Board;

/// How often a server is asked that answered.
const ASK_EVERY: Duration = Duration::from_secs(600);
/// How soon one is asked again that did not.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// How long it may take over the answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

impl Starting {
    /// Starts to ask the clusters of the config.
    pub(super) fn sizes(&mut self, config: &AgentConfig) {
        for source in &config.sources {
            if let Engine::Postgres { conninfo, .. } = &source.engine {
                let board = Arc::clone(&self.shared.board);
                let ask = watch(source.name.clone(), conninfo.clone(), board);
                self.rest.spawn(until(self.stop_rest.clone(), ask));
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

async fn watch(source: SourceName, conninfo: String, board: Arc<Board>) {
    loop {
        let asked = tokio::time::timeout(ANSWER_WITHIN, size(&conninfo)).await;
        let wait = match asked.ok().flatten() {
            Some(bytes) => {
                board.source(&source, |live| live.database_bytes = Some(bytes));
                ASK_EVERY
            }
            // Why it can't be asked is the capture's to say, and `doctor`'s.
            None => ASK_AGAIN,
        };
        tokio::time::sleep(wait).await;
    }
}

async fn size(conninfo: &str) -> Option<u64> {
    let info = ConnInfo::parse(conninfo, &Process).ok()?;
    probe::database_bytes(&info).await.ok()
}
