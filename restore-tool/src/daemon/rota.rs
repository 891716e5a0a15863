//! The schedule's own view: what the config wants, what the regions show, what is to be done now.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tidemark_format::DrillName;
use tidemark_host::codes;
use tidemark_host::output::{count, instant};
use tidemark_ledger::LedgerError;
use tidemark_planner::drill::Verdict;
use tidemark_planner::rota::{self, Known, Standing, Turn};
use tokio_util::sync::CancellationToken;

use super::board::{Board, Doing, Last, Scheduled};
use super::claims::Claims;
use super::conduct::{Conduct, Outcome};
use super::notes::{Note, Notes};
use super::plan::Planned;
use super::promises::Watch;
use super::turn::{Ended, Turns};
use crate::error::{Error, Result};
use crate::evidence::book::Pen;
use crate::identity;
use crate::repository::{Settings, Tools};

/// Whom an alert about this host is about.
const HOST: &str = "host";
/// Whom an alert about all regions is about.
const REGIONS: &str = "regions";

/// A slot to be run.
#[derive(Debug, Clone)]
pub(super) struct DueNow {
    pub(super) planned: Planned,
    pub(super) slot: Timestamp,
    pub(super) attempt: u32,
}

/// What a look has shown.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// To be run now, the oldest first.
    pub(super) due: Vec<DueNow>,
    /// When something changes by itself.
    pub(super) look_again: Option<Timestamp>,
}

/// All drills, and everything that is known of them.
#[derive(Debug)]
pub(super) struct Rota {
    pub(super) settings: Settings,
    pub(super) board: Board,
    planned: Vec<Planned>,
    notes: Notes,
    claims: Claims,
    watch: Watch,
    tools: Tools,
}

impl Rota {
    /// Takes the state directory and reads the identity.
    ///
    /// # Errors
    /// No place for state, another process has it, the identity can't be used.
    pub(super) fn new(settings: Settings, board: Board, tools: &Tools) -> Result<Self> {
        let state = settings.state.as_deref().ok_or(Error::NoStateFolder)?;
        let notes = Notes::take(state)?;
        let (claims, planned) = prepare(&settings, tools)?;
        Ok(Self {
            settings,
            board,
            planned,
            notes,
            claims,
            watch: Watch::default(),
            tools: tools.clone(),
        })
    }

    /// From now on by other settings; those that can't be used leave everything as it was.
    ///
    /// # Errors
    /// Why they can't be used.
    pub(super) fn change(&mut self, settings: Settings) -> Result<()> {
        (self.claims, self.planned) = prepare(&settings, &self.tools)?;
        self.settings = settings;
        self.watch = Watch::default();
        Ok(())
    }

    /// Looks at the regions and judges every drill.
    pub(super) async fn look(&mut self) -> Looked {
        let now = self.tools.clock.now();
        let looked = self
            .claims
            .look(&self.settings, &self.planned, &self.tools)
            .await;
        match &looked {
            Ok(()) => self.board.clear(codes::REGION_AWAY, REGIONS),
            Err(error) => {
                let why = tidemark_storage::chain(error);
                let text = format!("no region can be read, so no drill is begun: {why}");
                self.board.alert(codes::REGION_AWAY, REGIONS, &text, now);
            }
        }
        self.tell_of_regions(now);
        // Nothing that it signs counts: a drill would only read what it may have no business with.
        let revoked = self.claims.revoked().is_some();
        let mut found = Looked::default();
        let mut shown = BTreeMap::new();
        for planned in &self.planned {
            let drill = &planned.drill;
            let note = self.note(planned, now);
            let standing = self.judge(planned, &note);
            let scheduled = self.scheduled(planned, &standing, looked.is_ok());
            self.tell_of_drill(&drill.name, &scheduled, now);
            shown.insert(drill.name.clone(), scheduled);
            if looked.is_err() || revoked {
                continue;
            }
            let soon = standing.look_again();
            found.look_again = found.look_again.into_iter().chain(soon).min();
            if let Turn::Due { slot, at, attempt } = standing.turn
                && at <= now
            {
                let planned = planned.clone();
                found.due.push(DueNow {
                    planned,
                    slot,
                    attempt,
                });
            }
        }
        self.board.set(shown);
        if looked.is_ok() {
            let (board, settings) = (&self.board, &self.settings);
            self.watch.look(board, settings, &self.tools).await;
        }
        found.due.sort_by_key(|due| due.slot);
        found
    }

    /// A drill's note, kept when it is new: from then on the drill is known here.
    fn note(&self, planned: &Planned, now: Timestamp) -> Note {
        let name = &planned.drill.name;
        let note = self.notes.load(name, &planned.schedule_text, now);
        if note.since == now
            && let Err(error) = self.notes.keep(name, &note)
        {
            let why = tidemark_storage::chain(&error);
            tracing::warn!(drill = %name, error = %why, "since when this drill is known could not be noted");
        }
        note
    }

    fn judge(&self, planned: &Planned, note: &Note) -> Standing {
        let clock = &self.tools.clock;
        let slots = self.claims.steps(planned, note.turn, clock.monotonic());
        let known = Known {
            schedule: &planned.schedule,
            rules: &planned.rules,
            slots: &slots,
            since: note.since,
            seed: rota::seed(&planned.drill.name, self.claims.own()),
        };
        Standing::judge(&known, clock.now())
    }

    fn scheduled(&self, planned: &Planned, standing: &Standing, known: bool) -> Scheduled {
        let name = &planned.drill.name;
        let (last, passed_at) = self.claims.results(name);
        // Before a region was read nobody knows what was done.
        let is_read = self.claims.is_open();
        let doing = match standing.turn {
            _ if !known => Doing::Unknown,
            Turn::Wait => Doing::Waiting,
            Turn::Due { at, .. } => Doing::Due { at },
            Turn::Had { claim, .. } => Doing::Elsewhere {
                host: self
                    .claims
                    .holder(name, claim)
                    .unwrap_or("another host")
                    .to_owned(),
            },
            Turn::GivenUp { .. } => Doing::GivenUp,
        };
        Scheduled {
            source: planned.drill.source.clone(),
            schedule: planned.schedule_text.clone(),
            doing,
            next: standing.next,
            due_since: standing.due_since.filter(|_| is_read),
            missed: if is_read { standing.missed } else { 0 },
            overdue: standing.overdue && is_read,
            last: last.map(|last| Last {
                slot: last.slot,
                at: last.at,
                host: last.host,
                verdict: last.verdict.name().to_owned(),
                evidence_id: last.evidence_id,
                rto_ms: last.rto_ms,
                rpo_ms: last.rpo_ms,
            }),
            passed_at,
        }
    }

    fn tell_of_regions(&self, now: Timestamp) {
        let away = self.claims.away();
        for (region, why) in away {
            let text = format!("region {region} can't be read: {why}");
            self.board
                .alert(codes::REGION_AWAY, region.as_str(), &text, now);
        }
        self.board.clear_but(codes::REGION_AWAY, |about| {
            about == REGIONS || away.keys().any(|region| region.as_str() == about)
        });
        match self.claims.revoked() {
            Some(error) => {
                let text = format!(
                    "no drill is run here any more: {error}. If this host is to drill again: move identity and \
                     state_dir away, run tidemark-restore keys new, and enrol what it makes where the root key is"
                );
                self.board.alert(codes::SIGNER_REVOKED, HOST, &text, now);
            }
            None => self.board.clear(codes::SIGNER_REVOKED, HOST),
        }
        if self.claims.is_enrolled() {
            self.board.clear(codes::NOT_ENROLLED, HOST);
        } else if self.claims.is_open() {
            let enrol = tidemark_cli::enrol_command(self.claims.own(), &self.settings.regions);
            let text = format!(
                "nobody has vouched for this host's key yet: other hosts don't believe its turns, and its records \
                 prove nothing. Where the root key is: {enrol}"
            );
            self.board.alert(codes::NOT_ENROLLED, HOST, &text, now);
        }
    }

    fn tell_of_drill(&self, name: &DrillName, drill: &Scheduled, now: Timestamp) {
        let about = name.as_str();
        let failed = drill
            .last
            .as_ref()
            .filter(|last| last.verdict == Verdict::Fail.name());
        match failed {
            Some(last) => {
                let text = failed_text(name, drill, last);
                self.board.alert(codes::DRILL_FAILED, about, &text, now);
            }
            None => self.board.clear(codes::DRILL_FAILED, about),
        }
        match drill.due_since.filter(|_| drill.overdue) {
            Some(since) => {
                let text = overdue_text(name, drill, since);
                self.board.alert(codes::DRILL_OVERDUE, about, &text, now);
            }
            None => self.board.clear(codes::DRILL_OVERDUE, about),
        }
    }

    /// Runs a drill that is due; nothing if another host was first.
    ///
    /// # Errors
    /// Its turn could not be taken.
    pub(super) async fn run(
        &mut self,
        due: &DueNow,
        conduct: &dyn Conduct,
        stop: &CancellationToken,
    ) -> Result<Option<Outcome>> {
        let name = &due.planned.drill.name;
        let since = self.tools.clock.now();
        self.board.doing(name, Doing::Running { since });
        let mut turns = Turns {
            claims: &mut self.claims,
            notes: &self.notes,
            conduct,
            settings: &self.settings,
            tools: &self.tools,
        };
        let ended = turns.run(&due.planned, (due.slot, due.attempt), stop);
        let ended = ended.await?;
        Ok(match ended {
            Ended::Lost => {
                tracing::debug!(drill = %name, slot = %due.slot, "another host was first");
                None
            }
            Ended::Ran(outcome) => {
                tell(due, &outcome);
                if outcome.verdict == Verdict::Fail {
                    // It was just told, with more than the alert says.
                    let why = outcome.why.as_deref().unwrap_or_default();
                    let now = self.tools.clock.now();
                    self.board
                        .told(codes::DRILL_FAILED, name.as_str(), why, now);
                }
                Some(outcome)
            }
            Ended::Stopped(outcome) => {
                tracing::info!(drill = %name, slot = %due.slot, "stopped; the turn is given back");
                Some(outcome)
            }
        })
    }

    /// Why this host may drill no more, if its key was revoked.
    pub(super) fn revoked(&self) -> Option<LedgerError> {
        self.claims.revoked()
    }

    /// The drills' own names, as they are planned.
    pub(super) fn names(&self) -> impl Iterator<Item = &DrillName> {
        self.planned.iter().map(|planned| &planned.drill.name)
    }
}

fn prepare(settings: &Settings, tools: &Tools) -> Result<(Claims, Vec<Planned>)> {
    let identity = identity::load(settings, &tools.console)?;
    let pen = Pen::of(&identity);
    let host = tidemark_host::HostFacts::gather().hostname;
    let claims = Claims::new(pen.key, pen.trust, pen.name, host);
    let drills = settings.drills.drills.iter().cloned().map(Planned::new);
    let planned = drills.collect::<std::result::Result<Vec<_>, _>>();
    Ok((claims, planned.map_err(Error::Schedule)?))
}

fn failed_text(name: &DrillName, drill: &Scheduled, last: &Last) -> String {
    let show = last.evidence_id.as_ref().map_or_else(
        || "tidemark-restore evidence list".to_owned(),
        |id| format!("tidemark-restore evidence show {id}"),
    );
    format!(
        "drill {name} of {} failed at {} on {}: {show} says at which rung and why",
        drill.source,
        instant(last.at),
        last.host,
    )
}

fn overdue_text(name: &DrillName, drill: &Scheduled, since: Timestamp) -> String {
    let slots = usize::try_from(drill.missed).unwrap_or(usize::MAX);
    let slots = count(slots.saturating_add(1), "slot");
    let why = match &drill.doing {
        Doing::GivenUp => "every try of the newest one came to nothing",
        Doing::Unknown => "the regions can't be read",
        Doing::Elsewhere { .. } => "another host has the turn",
        Doing::Running { .. } => "it runs now",
        Doing::Due { .. } => "it waits for its turn",
        Doing::Waiting => "nobody ran it",
    };
    format!(
        "drill {name} of {} has been due since {}, {slots} without a result ({why}): until one passes nothing is \
         proved. By hand: tidemark-restore drill run --source {}",
        drill.source,
        instant(since),
        drill.source,
    )
}

/// Logs how a drill ended, with what to do next.
fn tell(due: &DueNow, outcome: &Outcome) {
    let drill = &due.planned.drill;
    let (name, source, slot) = (&drill.name, &drill.source, due.slot);
    let record = outcome.evidence_id.as_deref().unwrap_or_default();
    let why = outcome.why.as_deref().unwrap_or_default();
    let code = outcome.code.map_or("", |code| code.id);
    let next = outcome.code.map_or("", |code| code.action);
    let next = match &outcome.evidence_id {
        Some(id) => next.replace("evidence show ID", &format!("evidence show {id}")),
        None => next.to_owned(),
    };
    let (rto_ms, rpo_ms) = (outcome.rto_ms, outcome.rpo_ms);
    match outcome.verdict {
        Verdict::Pass => {
            tracing::info!(drill = %name, source = %source, slot = %slot, evidence = record, rto_ms, rpo_ms, "drill passed");
        }
        Verdict::PassWithExceptions => {
            tracing::warn!(code, drill = %name, source = %source, slot = %slot, evidence = record, rto_ms, rpo_ms, why, next, "drill passed with exceptions");
        }
        Verdict::Fail => {
            tracing::error!(code, drill = %name, source = %source, slot = %slot, evidence = record, rto_ms, rpo_ms, why, next, "drill failed");
        }
        Verdict::Inconclusive => {
            tracing::warn!(code, drill = %name, source = %source, slot = %slot, evidence = record, why, next, "drill inconclusive: it counts as not done");
        }
    }
}
