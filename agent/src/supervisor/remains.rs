//! What a retired source left at its database: tried to be taken away again and again, after a restart too,
//! until the database lets us.

use std::sync::Arc;
use std::time::Duration;

use tidemark_engine::Engine;
use tidemark_format::SourceName;
use tidemark_host::files::{self, PRIVATE};

use super::start::Running;
use crate::source::driver::Shared;
use crate::source::slot::take_away;
use crate::state::SourceRecord;
use crate::status_live::SourceState;
use crate::{Result, policy};

/// The alert while something is left.
pub(crate) const REMAINS: &str = "slot.remains";
/// How often it is tried.
pub(super) const TRY_EVERY: Duration = Duration::from_secs(60);

impl Running {
    /// Goes on taking away what sources left that were retired before this start.
    pub(super) fn take_away_all_remains(&mut self) {
        let retired: Vec<SourceName> = self.shared.board.read(|sources, _, _| {
            let mut retired = Vec::new();
            for (name, live) in sources {
                if live.state == SourceState::Retired {
                    retired.push(name.clone());
                }
            }
            retired
        });
        for source in retired {
            self.take_away_remains(&source, Duration::ZERO);
        }
    }

    /// Goes on taking away what the source left, if it left something.
    pub(super) fn take_away_remains(&mut self, source: &SourceName, first_in: Duration) {
        let Some(engine) = self.engines.get(source) else {
            return;
        };
        let remains = Remains {
            source: source.clone(),
            engine: Arc::clone(engine),
            shared: Arc::clone(&self.shared),
        };
        let stop = self.stop_rest.clone();
        self.rest.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = remains.take_away(first_in) => {}
            }
        });
    }
}

/// A retired source.
struct Remains {
    source: SourceName,
    engine: Arc<dyn Engine>,
    shared: Arc<Shared>,
}

impl Remains {
    async fn take_away(&self, first_in: Duration) {
        let record = self.record();
        let canary = record
            .as_ref()
            .is_some_and(|record| record.canary.is_some());
        let Some(why) = record.and_then(|record| record.left_behind) else {
            return;
        };
        self.say(&why);
        let mut wait = first_in;
        loop {
            tokio::time::sleep(wait).await;
            wait = TRY_EVERY;
            let engine = Arc::clone(&self.engine);
            // It waits for a server that may not answer: no turn of those that work on files.
            match tokio::task::spawn_blocking(move || take_away(&*engine, canary)).await {
                Ok(Ok(_gone)) => break,
                Ok(Err(why)) => self.say(&why),
                // The agent ends.
                Err(_stopping) => return,
            }
        }
        match self.forget() {
            Ok(()) => self.shared.board.clear(REMAINS, self.source.as_str()),
            Err(error) => {
                tracing::warn!(source = %self.source, error = %policy::with_causes(&error), "the record of a retired source is not written");
            }
        }
    }

    fn say(&self, why: &str) {
        let about = self.source.as_str();
        let now = self.shared.clock.now();
        self.shared.board.alert(REMAINS, about, why, now);
    }

    fn record(&self) -> Option<SourceRecord> {
        // One that can't be read was told at the start.
        SourceRecord::load(&self.shared.state.record(&self.source))
            .ok()
            .flatten()
    }

    /// Nothing is left any more.
    fn forget(&self) -> Result<()> {
        if let Some(record) = self.record() {
            let record = SourceRecord {
                left_behind: None,
                ..record
            };
            let path = self.shared.state.record(&self.source);
            files::write_atomic(&path, &record.to_bytes(), PRIVATE)?;
        }
        Ok(())
    }
}
