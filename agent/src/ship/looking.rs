//! Looking around in a region that was greeted long ago: what the root and other writers have said
//! since, and what it means that this agent isn't believed there.
//!
//! **Cost.** Two listings in [`Tools::look_every`](super::region::Tools), however many sources there
//! are; a claim is read only where one of ours was claimed under a later epoch. With it every source is
//! looked for (`holding`).
//!
//! **Failure.** A region that doesn't answer is away, as for every other request, and is looked at
//! when it is back. A keyring that can't be believed is told and changes nothing: the last one that
//! could be goes on counting.

use std::sync::Arc;

use tidemark_format::{Epoch, SourceName};
use tidemark_host::{Monotonic, codes};
use tidemark_ledger::LedgerError;
use tokio::sync::oneshot;

use super::greet::{GreetError, Seen};
use super::link::ShipError;
use super::region::{Done, Driver};
use super::shipping::meaning;
use crate::{AgentError, enrolment, policy};

/// What an alert about the agent as a whole is about.
pub(crate) const AGENT: &str = "agent";

/// When the region is looked around next.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// When one is due; never before the region was greeted.
    due: Option<Monotonic>,
    under_way: bool,
    /// Who wants to know what comes of it: people who asked for a reload.
    asked: Vec<oneshot::Sender<String>>,
    /// Who asked before the look that is under way began: what comes of it is their answer. One that began
    /// before it was asked for may have read what was there before.
    answers: Vec<oneshot::Sender<String>>,
    /// The region is opened anew before: its credentials may have changed.
    reopen: bool,
}

impl Look {
    pub(super) const fn is_under_way(&self) -> bool {
        self.under_way
    }
}

impl Driver {
    /// The region was greeted or looked around just now.
    pub(super) fn look_later(&mut self) {
        let now = self.tools.clock.monotonic();
        self.look.due = Some(now.after(self.tools.look_every));
    }

    /// A person wants credentials, keyring and recipients read again, now.
    pub(super) fn reload(&mut self, answer: oneshot::Sender<String>) {
        self.look.asked.push(answer);
        self.look.reopen = true;
        self.look.due = Some(self.tools.clock.monotonic());
    }

    /// When the next look is due, unless an outage or the greeting comes first.
    pub(super) fn look_wake(&self) -> Option<Monotonic> {
        let due = self.look.due.filter(|_| !self.look.under_way)?;
        let retry = self.queue.outage().map(|outage| outage.retry_at);
        if self.look.reopen {
            return Some(due);
        }
        Some(retry.map_or(due, |retry| retry.max(due)))
    }

    pub(super) fn begin_look(&mut self) {
        let now = self.tools.clock.monotonic();
        if self.look_wake().is_none_or(|due| due > now) || self.greeting {
            return;
        }
        if !self.greeted && !self.look.reopen {
            return;
        }
        self.look.under_way = true;
        self.look.answers = std::mem::take(&mut self.look.asked);
        let reopen = std::mem::take(&mut self.look.reopen);
        let beat = self.beat.clone().filter(|_| !self.greeted);
        let own: Vec<(SourceName, Epoch)> = self
            .sources
            .iter()
            .filter(|(_, known)| !known.is_fenced())
            .map(|(source, known)| (source.clone(), known.epoch()))
            .collect();
        let (link, greeter) = (Arc::clone(&self.link), Arc::clone(&self.tools.greeter));
        let (greeted, beat) = beat.unzip();
        self.work.push(Box::pin(async move {
            let look = async {
                if reopen {
                    link.reopen().await?;
                }
                if let Some(beat) = &beat {
                    greeter.greet(&link, beat).await?;
                }
                link.is_the_same().await?;
                greeter.look_around(&link, &own).await
            };
            let result = look.await;
            Done::Looked { greeted, result }
        }));
    }

    pub(super) fn looked(&mut self, greeted: Option<u64>, result: Result<Seen, GreetError>) {
        self.look.under_way = false;
        let said = match &result {
            Ok(seen) => format!(
                "{}: keyring version {}, new sessions are sealed to {} recipients",
                self.link.name, seen.keyring_version, seen.recipients
            ),
            Err(error) => format!("{}: {}", self.link.name, policy::with_causes(error)),
        };
        for asked in self.look.answers.drain(..) {
            drop(asked.send(said.clone()));
        }
        match result {
            Ok(seen) => {
                if let Some(number) = greeted {
                    self.beaten = self.beaten.max(number);
                    self.greeted();
                }
                self.look_later();
                self.all_are_looked_for();
                self.believed();
                self.kept_apart(seen.apart.as_deref());
                for (source, error) in seen.fenced {
                    self.fenced(&source, &error);
                    self.release(&source);
                }
            }
            Err(error) => self.look_failed(&error),
        }
        if !self.look.asked.is_empty() {
            // It came while this look was under way, and gets one of its own.
            self.look.due = Some(self.tools.clock.monotonic());
        }
    }

    fn look_failed(&mut self, error: &GreetError) {
        if self.greeted {
            self.look_later();
        } else {
            self.look.due = None;
        }
        match error {
            GreetError::Ship(ShipError::Emptied { .. }) => {
                self.greeted = false;
                self.away(error, meaning(error));
            }
            GreetError::Ledger(LedgerError::Storage(_)) | GreetError::Ship(_) => {
                // Looked at again as soon as it answers.
                if self.greeted {
                    self.look.due = Some(self.tools.clock.monotonic());
                }
                self.away(error, meaning(error));
            }
            GreetError::Cloned(_) | GreetError::NotEnrolled { .. } | GreetError::Revoked(_) => {
                self.greeting_failed(error);
            }
            GreetError::Ledger(_) => {
                let code = meaning(error).code.id;
                let text = policy::with_causes(error);
                let now = self.tools.clock.now();
                self.tools
                    .board
                    .alert(code, self.link.name.as_str(), &text, now);
            }
        }
    }

    /// The region's keyring is believed, and names this agent.
    fn believed(&self) {
        for code in [
            codes::WRONG_ROOT,
            codes::DAMAGED,
            codes::NO_REPOSITORY,
            codes::SECRET_EXPOSED,
        ] {
            self.tools.board.clear(code.id, self.link.name.as_str());
        }
    }

    /// The region's keyring is another one than a region beside it holds, or is so no more.
    fn kept_apart(&self, why: Option<&str>) {
        let (code, about) = (codes::KEYRINGS_DISAGREE.id, self.link.name.as_str());
        match why {
            Some(why) => {
                let now = self.tools.clock.now();
                self.tools.board.alert(code, about, why, now);
            }
            None => self.tools.board.clear(code, about),
        }
    }

    /// What people are told of an agent that isn't believed; `false` if the region failed otherwise.
    pub(super) fn not_believed(&mut self, error: &GreetError) -> bool {
        match error {
            // Whether the copy can still write anything is the supervisor's to weigh.
            GreetError::Cloned(collision) => {
                let collision = collision.clone();
                drop(self.tools.fatal.send(AgentError::Cloned(collision)));
            }
            GreetError::Revoked(why) => {
                let why = why.clone();
                drop(self.tools.fatal.send(AgentError::Revoked { why }));
            }
            GreetError::NotEnrolled { command } => {
                let now = self.now();
                let text = enrolment::waiting(command);
                let board = &self.tools.board;
                board.alert(codes::NOT_ENROLLED.id, AGENT, &text, now.0);
                // The region answers: it is asked again as one that came back would be.
                self.queue.away(now, &*self.tools.rng);
                self.show_region(Some(text));
            }
            GreetError::Ledger(_) | GreetError::Ship(_) => return false,
        }
        true
    }
}
