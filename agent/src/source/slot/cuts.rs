//! When a cut is made, and who waits for one.

use std::time::Duration;

use jiff::Timestamp;
use tidemark_engine::{COMPLETE_UNTIL, LogCut, Workspace};
use tidemark_host::Monotonic;

use super::{Event, RETRY_AFTER, Slot};
use crate::budget::Permit;

/// Cuts that wait to be sealed: one is being sealed while the next is made.
pub(super) const UNSEALED_MAX: usize = 2;
/// How soon a cut that found no memory free is tried again.
const BUDGET_WAIT: Duration = Duration::from_millis(5);
/// How soon a poll follows while somebody waits for a cut.
const AWAITED_POLL: Duration = Duration::from_millis(20);

/// A cut that somebody waits for: of everything that was committed when they asked.
#[derive(Debug)]
pub(super) struct Ticket {
    number: u64,
    asked: Timestamp,
    /// From then on less is enough.
    until: Option<Monotonic>,
}

impl Ticket {
    fn is_served(&self, covered: Option<Timestamp>, now: Monotonic) -> bool {
        covered >= Some(self.asked) || self.until.is_some_and(|until| now >= until)
    }
}

impl Slot {
    pub(super) fn cut_asked(&mut self, number: u64, patience: Option<Duration>) {
        let now = self.parts.clock.monotonic();
        self.tickets.push(Ticket {
            number,
            asked: self.parts.clock.now(),
            until: patience.map(|patience| now.after(patience)),
        });
        self.covered = None;
        self.force = true;
        self.next_poll = now;
    }

    pub(super) fn cut_done(&self, ticket: &Ticket) {
        self.send(Event::CutDone {
            ticket: ticket.number,
            next_seq: self.next_seq,
        });
    }

    fn cut_is_due(&self, now: Monotonic) -> bool {
        if self.force || self.cut_now {
            return true;
        }
        self.pending_bytes > 0 && self.wait_for_cut(now).is_zero()
    }

    /// Whether everything that was cut is durable, where the database waits for that: what came since is
    /// cut at once then, so that no commit waits for the timer.
    fn is_prompt(&self) -> bool {
        self.parts.prompt && self.next_seq.previous() <= self.durable
    }

    pub(super) fn wait_for_cut(&self, now: Monotonic) -> Duration {
        if self.is_prompt() {
            return Duration::ZERO;
        }
        let due = self.last_cut.map(|last| last.after(self.parts.ship_every));
        due.map_or(Duration::ZERO, |due| due.since(now))
    }

    /// Makes the cuts that are due. Returns how soon to try again if something is in the way.
    pub(super) fn cut(&mut self, now: Monotonic, work: &mut Workspace) -> Option<Duration> {
        if now < self.cut_again {
            return Some(self.cut_again.since(now));
        }
        let waits_for_generation = self.base.asked.is_some_and(|(key, _)| key.is_some());
        while self.cut_is_due(now) && !self.hold && !waits_for_generation {
            if self.unsealed.len() >= UNSEALED_MAX {
                return None;
            }
            let Some(permit) = self.parts.budget.try_take(self.pending_bytes) else {
                return Some(BUDGET_WAIT);
            };
            let capture = self.capture.as_mut()?;
            match capture.cut(self.next_seq, work) {
                Ok(Some(cut)) => self.cut_made(now, cut, permit),
                Ok(None) => {
                    // Nothing waits, or not yet: the next poll says.
                    self.pending_bytes = 0;
                    self.cuts_done(self.covered);
                }
                Err(error) if self.ending.is_some() => {
                    // It can't even give what it had: a catch-up finds it.
                    tracing::warn!(source = %self.parts.source, error = %error, "the last cut failed");
                    self.cuts_done(None);
                }
                Err(error) => {
                    self.fail(&error);
                    self.cut_again = now.after(RETRY_AFTER);
                    return Some(RETRY_AFTER);
                }
            }
        }
        None
    }

    fn cut_made(&mut self, now: Monotonic, cut: LogCut, permit: Permit) {
        let seq = self.next_seq;
        self.next_seq = seq.next();
        self.last_cut = Some(now);
        self.unsealed
            .push_back((seq, cut.first_commit.or(self.pending_since)));
        let restorable = cut.restorable;
        let said = cut.facts.get(COMPLETE_UNTIL);
        let covered = said.and_then(|fact| fact.as_str()?.parse().ok());
        let at = self.parts.clock.now();
        self.send(Event::Cut {
            seq,
            cut,
            at,
            permit,
        });
        if restorable {
            self.pending_bytes = 0;
            self.pending_since = None;
            // While ending, everything goes out: a cut that is restorable may not be the last.
            if self.ending.is_none() {
                self.cuts_done(covered);
            }
        } else {
            // A change that spans several objects: the rest follows at once.
            self.force = true;
        }
    }

    /// What is captured is cut: everything committed by `covered`. Who waits for more waits on.
    fn cuts_done(&mut self, covered: Option<Timestamp>) {
        self.force = false;
        self.cut_now = false;
        let now = self.parts.clock.monotonic();
        let tickets = std::mem::take(&mut self.tickets);
        let (served, waiting) = tickets
            .into_iter()
            .partition::<Vec<_>, _>(|ticket| ticket.is_served(covered, now));
        self.tickets = waiting;
        for ticket in served {
            self.cut_done(&ticket);
        }
        if !self.tickets.is_empty() {
            self.next_poll = self.next_poll.min(now.after(AWAITED_POLL));
        }
    }
}
