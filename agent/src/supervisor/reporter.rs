//! What is told of everything that runs: `status`, by the control socket and as metrics.

use std::sync::Arc;

use tidemark_format::{KeyId, RepoId, WriterId};

use crate::room::Room;
use crate::ship::greet::Greeter;
use crate::source::driver::Shared;
use crate::status_live::{Board, LiveStatus};

/// Makes the status that is shown.
#[derive(Debug)]
pub(super) struct Reporter {
    board: Arc<Board>,
    clock: Arc<dyn tidemark_host::Clock>,
    room: Arc<Room>,
    repo: RepoId,
    writer: WriterId,
    agent: KeyId,
}

impl Reporter {
    pub(super) fn new(shared: &Shared, greeter: &Greeter) -> Self {
        Self {
            board: Arc::clone(&shared.board),
            clock: Arc::clone(&shared.clock),
            room: Arc::clone(&shared.room),
            repo: greeter.repo,
            writer: greeter.writer,
            agent: shared.signer.public().id(),
        }
    }

    pub(super) fn status(&self) -> LiveStatus {
        let (sources, regions) = self
            .board
            .read(|sources, regions, _| (sources.clone(), regions.clone()));
        LiveStatus {
            schema: "tidemark.agent.live".to_owned(),
            version: 1,
            at: self.clock.now(),
            pid: std::process::id(),
            repo: self.repo,
            writer: self.writer,
            agent: self.agent,
            config: None,
            spool_bytes_per_s: None,
            sources,
            regions,
            spool_bytes: self.room.usage().bytes(),
            spool_max: self.room.bytes_max(),
            alerts: self.board.alerts(),
        }
    }
}
