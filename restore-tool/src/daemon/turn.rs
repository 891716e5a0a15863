//! One turn, from the claim to its end: the drill runs while the turn is kept.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tidemark_format::heads::{DrillStep, Facts};
use tidemark_host::RngExt as _;
use tidemark_planner::drill::Verdict;
use tidemark_planner::rota;
use tokio_util::sync::CancellationToken;

use super::claims::{Claims, Mine, Take};
use super::conduct::{Conduct, Outcome, within};
use super::notes::{Note, Notes};
use super::plan::Planned;
use crate::error::Result;
use crate::repository::{Settings, Tools};

/// A turn is renewed after this share of its time.
const RENEW_AFTER: u32 = 2;

/// What a turn needs.
pub(super) struct Turns<'a> {
    pub(super) claims: &'a mut Claims,
    pub(super) notes: &'a Notes,
    pub(super) conduct: &'a dyn Conduct,
    pub(super) settings: &'a Settings,
    pub(super) tools: &'a Tools,
}

/// What became of a turn.
#[derive(Debug)]
pub(super) enum Ended {
    /// Another host was first.
    Lost,
    /// The drill ran.
    Ran(Outcome),
    /// It was stopped by a signal, and the turn given back.
    Stopped(Outcome),
}

impl Turns<'_> {
    /// Takes the turn of a slot and runs its drill.
    ///
    /// # Errors
    /// No region takes the claim, or the note can't be kept: then nothing was run.
    pub(super) async fn run(
        &mut self,
        planned: &Planned,
        (slot, attempt): (Timestamp, u32),
        stop: &CancellationToken,
    ) -> Result<Ended> {
        let drill = &planned.drill;
        let least = drill.rules.claim_for;
        let clock = &self.tools.clock;
        let put = self.tools.rng.id();
        let note = Note {
            turn: Some(put),
            ..self
                .notes
                .load(&drill.name, &planned.schedule_text, clock.now())
        };
        // First here: a process that dies in between finds its turn again.
        self.notes.keep(&drill.name, &note)?;
        let until = later(clock.now(), least);
        let taken = self
            .claims
            .take(planned, (slot, attempt), put, until, self.tools);
        let mut mine = match taken.await? {
            Take::Won(mine) => mine,
            Take::Lost => return Ok(Ended::Lost),
        };
        let name = &drill.name;
        tracing::info!(drill = %name, source = %drill.source, slot = %slot, attempt, "drill begins");
        let outcome = self.drill(planned, slot, &mut mine, stop).await;
        let stopped = stop.is_cancelled() && outcome.verdict == Verdict::Inconclusive;
        let (step, facts) = if stopped {
            (DrillStep::Released, Facts::new())
        } else {
            (DrillStep::Ended, outcome.facts())
        };
        let said = self
            .claims
            .say(&mut mine, step, None, facts, self.tools)
            .await;
        match said {
            Ok(()) => {
                let note = Note { turn: None, ..note };
                self.notes.keep(name, &note)?;
            }
            // Its evidence stands, or waits here; the turn's time runs out, and the drill is run again.
            Err(error) => {
                let why = tidemark_storage::chain(&error);
                tracing::warn!(drill = %name, slot = %slot, error = %why, "no region took the end of the turn");
            }
        }
        Ok(if stopped {
            Ended::Stopped(outcome)
        } else {
            Ended::Ran(outcome)
        })
    }

    /// Runs the drill and keeps the turn meanwhile.
    async fn drill(
        &self,
        planned: &Planned,
        slot: Timestamp,
        mine: &mut Mine,
        stop: &CancellationToken,
    ) -> Outcome {
        let (clock, rules) = (&self.tools.clock, &planned.drill.rules);
        let request = planned.request(slot);
        let both = (self.settings, self.tools);
        let running = within(self.conduct, &request, both, rules.timeout, stop);
        let mut running = Box::pin(running);
        let began = clock.monotonic();
        let mut hold = rules.claim_for;
        loop {
            tokio::select! {
                biased;
                outcome = &mut running => return outcome,
                () = tokio::time::sleep(hold / RENEW_AFTER) => {}
            }
            hold = rota::hold(clock.monotonic().since(began), rules.claim_for);
            let until = Some(later(clock.now(), hold));
            let said = self
                .claims
                .say(mine, DrillStep::Held, until, Facts::new(), self.tools);
            tokio::select! {
                biased;
                outcome = &mut running => return outcome,
                said = said => {
                    // The drill goes on: at worst another host runs it, too.
                    if let Err(error) = said {
                        let (drill, why) = (&planned.drill.name, tidemark_storage::chain(&error));
                        tracing::warn!(drill = %drill, error = %why, "the turn could not be renewed");
                    }
                }
            }
        }
    }
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
