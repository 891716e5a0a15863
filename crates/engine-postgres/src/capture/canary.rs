//! Writes canaries, on a connection of its own to the very server that the log streams from.
//!
//! The capture hands one over and goes on; what came of it is asked for later. One that is still on its way
//! is not waited for: the next is left out, and that is told.
//!
//! **Failure.** The connection is dropped with whatever went wrong on it and made again for the next canary.

use std::sync::{Arc, Mutex, PoisonError};

use tidemark_engine::canary::{Canary, CanaryForm, CanaryOutcome};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Limits;
use super::record::StateFolder;
use super::server::{Connector, LookError, within};
use super::shared::Shared;
use crate::canary;
use crate::wire::{Connection, Mode};

/// What the server calls the connection.
const APPLICATION_NAME: &str = "tidemark canary";

/// What came of the last canary, until somebody asks.
type Told = Arc<Mutex<Option<CanaryOutcome>>>;

fn tell(told: &Told, outcome: CanaryOutcome) {
    *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
}

fn failed(why: impl Into<String>) -> CanaryOutcome {
    CanaryOutcome::Failed { why: why.into() }
}

/// The server to write to, or why there is none.
fn whom(shared: &Shared) -> Result<String, CanaryOutcome> {
    let inner = shared.lock();
    if inner.is_standby() {
        let why = "a standby can't be written; the canary of its primary comes with the log";
        return Err(CanaryOutcome::NotHere {
            why: why.to_owned(),
        });
    }
    // It passes by itself once the log streams.
    inner.peer.clone().ok_or(CanaryOutcome::Busy)
}

/// The capture's end.
#[derive(Debug)]
pub(super) struct CanaryPen {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Canary>,
    told: Told,
    form: CanaryForm,
    /// The last number that was noted.
    noted: u64,
    task: JoinHandle<()>,
}

impl Drop for CanaryPen {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl CanaryPen {
    /// Begins to wait for canaries.
    pub(super) fn begin(
        form: CanaryForm,
        (shared, connector, limits): (Arc<Shared>, Connector, Limits),
        folder: &StateFolder,
        runtime: &Handle,
    ) -> Self {
        // One may wait while one is written.
        let (orders, waiting) = mpsc::channel(1);
        let told = Told::default();
        let writer = Writer {
            shared: Arc::clone(&shared),
            connector,
            limits,
            form,
            told: Arc::clone(&told),
        };
        Self {
            shared,
            orders,
            told,
            form,
            noted: folder.noted_canary(),
            task: runtime.spawn(writer.run(waiting)),
        }
    }

    /// Hands a canary over.
    pub(super) fn write(&mut self, folder: &StateFolder, canary: &Canary) {
        // Before a number is spent.
        if let Err(why_not) = whom(&self.shared) {
            tell(&self.told, why_not);
            return;
        }
        let mut canary = canary.clone();
        if self.form == CanaryForm::Message {
            canary.seq = canary.seq.max(self.noted.saturating_add(1));
            if let Err(error) = folder.note_canary(canary.seq) {
                tell(&self.told, failed(error.to_string()));
                return;
            }
            self.noted = canary.seq;
        }
        if self.orders.try_send(canary).is_err() {
            let why = "the canary before it is still on its way to the server";
            tell(&self.told, failed(why));
        }
    }

    /// What came of the last one, once.
    pub(super) fn take_told(&self) -> Option<CanaryOutcome> {
        self.told
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// The task's end.
#[derive(Debug)]
struct Writer {
    shared: Arc<Shared>,
    connector: Connector,
    limits: Limits,
    form: CanaryForm,
    told: Told,
}

impl Writer {
    async fn run(self, mut waiting: mpsc::Receiver<Canary>) {
        let mut connection = None;
        while let Some(canary) = waiting.recv().await {
            let outcome = Box::pin(self.write(&mut connection, &canary)).await;
            tell(&self.told, outcome);
            self.shared.wake();
        }
    }

    async fn write(&self, kept: &mut Option<Connection>, canary: &Canary) -> CanaryOutcome {
        let peer = match whom(&self.shared) {
            Ok(peer) => peer,
            Err(why_not) => return why_not,
        };
        let known = kept.take().filter(|known| known.peer() == peer);
        let was_kept = known.is_some();
        let mut done = self.try_write(kept, known, &peer, canary).await;
        if was_kept && done.is_err() {
            // A server may close what is idle, or somebody dropped the table.
            done = self.try_write(kept, None, &peer, canary).await;
        }
        self.outcome(done, canary)
    }

    fn outcome(&self, done: Result<u64, LookError>, canary: &Canary) -> CanaryOutcome {
        match done {
            Ok(seq) => CanaryOutcome::Written { seq, at: canary.at },
            Err(error) => failed(self.why(error)),
        }
    }

    /// Why it could not be written, and what to do.
    fn why(&self, error: LookError) -> String {
        let may_not =
            matches!(&error, LookError::Wire(error) if error.code() == Some(canary::MAY_NOT));
        let told = match error {
            LookError::ConnInfo(error) => error.to_string(),
            LookError::Wire(error) => error.to_string(),
            LookError::Stale(stale) => stale.to_string(),
            LookError::Slow { what, seconds } => {
                format!("the server did not {what} within {seconds} s")
            }
        };
        let info = self.connector.info().ok();
        let Some(info) = info.filter(|_| may_not && self.form == CanaryForm::Table) else {
            return told;
        };
        format!(
            "{told}. Run once in database {:?}, as an administrator: {}",
            info.database,
            canary::schema_statement(&info.user)
        )
    }

    /// Writes on `known`, or on a new connection, and keeps it if it can be used again.
    async fn try_write(
        &self,
        kept: &mut Option<Connection>,
        known: Option<Connection>,
        peer: &str,
        canary: &Canary,
    ) -> Result<u64, LookError> {
        let limit = self.limits.answer_max;
        let mut connection = match known {
            Some(known) => known,
            None => {
                let mut info = self.connector.info_of(peer).map_err(LookError::ConnInfo)?;
                info.application_name = Some(APPLICATION_NAME.to_owned());
                let mut new = Connection::open(&info, Mode::Sql).await?;
                if self.form == CanaryForm::Table {
                    within(limit, "make the canary's table", canary::make(&mut new)).await?;
                }
                new
            }
        };
        let seq = match self.form {
            CanaryForm::Table => {
                let adding = canary::add(&mut connection, canary);
                within(limit, "write the canary", adding).await?
            }
            CanaryForm::Message => {
                let sending = canary::send(&mut connection, canary);
                within(limit, "write the canary", sending).await?;
                canary.seq
            }
        };
        match self.form {
            CanaryForm::Table => *kept = Some(connection),
            // A message that may have been sent is never sent again: each has a connection that is fresh.
            CanaryForm::Message => connection.close().await,
        }
        Ok(seq)
    }
}
