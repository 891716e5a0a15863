//! Trust while the agent runs: the reminder that it isn't enrolled, and the reload that people ask for.
//!
//! A reload opens every region anew (credentials and certificates are read again) and reads keyring,
//! recipients and claims at once instead of at the next look round. The config file itself is read at
//! the start only: what changed in it needs a restart, and the answer says so.

use std::time::Duration;

use tidemark_format::Hash;
use tidemark_host::{Monotonic, codes};
use tokio::sync::oneshot;

use super::Running;
use crate::AgentError;
use crate::control::Response;
use crate::ship::looking::AGENT;
use crate::ship::region::Command;

/// How often the log says that the agent is not enrolled.
const REMIND_EVERY: Duration = Duration::from_secs(60);
/// How long a reload waits for a region before it goes on without its answer.
const RELOAD_TIME: Duration = Duration::from_secs(20);

impl Running {
    /// Says once a minute what an agent that isn't enrolled waits for.
    pub(super) fn remind(&mut self, now: Monotonic) {
        let waiting = self.shared.board.message(codes::NOT_ENROLLED.id, AGENT);
        let Some(text) = waiting.filter(|_| now.since(self.reminded_at) >= REMIND_EVERY) else {
            return;
        };
        self.reminded_at = now;
        tracing::warn!("{text}");
    }

    /// Why nothing can be made durable now, if it is that the root has not signed for this agent.
    pub(super) fn not_enrolled(&self) -> Option<AgentError> {
        let waiting = self.shared.board.message(codes::NOT_ENROLLED.id, AGENT);
        let command = self.greeter.enrol.clone();
        waiting.map(|_text| AgentError::NotEnrolled { command })
    }

    /// Reads everything again that may have changed outside; the answer, if anybody wants one, says what
    /// each region showed. `config` is the hash of the file as whoever asks has read it.
    pub(super) fn reload(
        &mut self,
        config: Option<Hash>,
        answer: Option<oneshot::Sender<Response>>,
    ) {
        let waits: Vec<_> = self
            .outlets
            .iter()
            .map(|outlet| {
                let (sender, receiver) = oneshot::channel();
                drop(outlet.commands.send(Command::Reload(sender)));
                let name = outlet.link.name.clone();
                async move {
                    match tokio::time::timeout(RELOAD_TIME, receiver).await {
                        Ok(Ok(said)) => said,
                        Ok(Err(_gone)) => format!("{name}: the agent stops"),
                        Err(_elapsed) => {
                            format!("{name}: no answer within {} s", RELOAD_TIME.as_secs())
                        }
                    }
                }
            })
            .collect();
        let changed = config.is_some_and(|hash| hash != self.config);
        self.rest.spawn(async move {
            let mut lines = futures_util::future::join_all(waits).await;
            lines.push(
                if changed {
                    "the config file has changed since the agent started: restart it to apply that \
                     (systemctl restart tidemark-agent)"
                } else {
                    "a changed config file takes a restart"
                }
                .to_owned(),
            );
            let message = lines.join("\n");
            let said = message.replace('\n', "; ");
            tracing::info!(said, "credentials, keyring and recipients were read again");
            if let Some(answer) = answer {
                drop(answer.send(Response::Done { message }));
            }
        });
    }
}
