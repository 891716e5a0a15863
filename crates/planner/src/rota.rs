//! Whose turn a scheduled drill is: several hosts share one schedule by what stands in the repository.
//!
//! A **slot** is an instant of the schedule. A host takes a slot's turn by a claim, keeps it while the
//! drill runs, and ends it with the result, or gives it back.
//!
//! - **One run after downtime**, however many slots passed meanwhile: only the newest slot is ever run, and
//!   the others are counted ([`Standing::missed`]).
//! - **A host that died** loses its turn: when its claim's time is over by the wall clock and a margin for
//!   clocks that differ, or when this process saw nothing new for as long as the claim was to hold,
//!   whatever the clocks show. A clock that is wrong costs a second run of the drill, nothing else.
//! - **Inconclusive is not done:** the slot is tried again after a while, at most
//!   [`Rules::attempts_max`] times; then it counts as not run.
//! - **Never before it was known:** a schedule that is new here begins with the next slot, not with one from
//!   before anybody had written it down.
//!
//! Pure: what was seen comes in, what is to be done goes out.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tidemark_format::heads::DrillStep;
use tidemark_format::{DrillName, Hash, KeyId};

use crate::Schedule;

#[cfg(test)]
mod tests;

/// Hosts' clocks differ by less, or somebody is told.
const SKEW_MAX: SignedDuration = SignedDuration::from_mins(2);
/// No schedule is looked back on for longer: `@yearly` over a leap year, with room.
const LOOK_BACK_MAX: SignedDuration = SignedDuration::from_hours(24 * 366 * 9);
/// How far the first look back goes; a schedule of every second has as many slots in it.
const LOOK_BACK_FIRST: SignedDuration = SignedDuration::from_secs(64);
/// Missed slots are counted up to here.
const MISSED_MAX: u32 = 1000;
/// A turn is kept for as long as the drill has run already, but never for longer at a time: what its
/// host's death may cost.
const HOLD_MAX: Duration = Duration::from_secs(3600);

/// How a drill's turns are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A start is put off by up to so long, by each host differently.
    pub jitter: Duration,
    /// After an inconclusive run the slot is tried again so much later.
    pub retry_after: Duration,
    /// A slot that has no result by then is overdue.
    pub overdue_after: Duration,
    /// How often a slot is tried.
    pub attempts_max: u32,
}

/// A step of a turn, as somebody counted on wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number in the slot.
    pub seq: u32,
    /// What it says.
    pub step: DrillStep,
    /// Its own link.
    pub link: Hash,
    /// The link of the step that took the turn; none in that step itself.
    pub claim: Option<Hash>,
    /// When, by its signer's clock.
    pub at: Timestamp,
    /// Until when the turn is had.
    pub until: Option<Timestamp>,
    /// How long ago this process saw it first.
    pub seen_for: Duration,
    /// It is this host's own, and the process that wrote it is gone.
    pub abandoned: bool,
    /// Of an end: whether the drill came to a verdict that counts.
    pub conclusive: bool,
    /// Whether it was written under the schedule that holds now.
    pub same_schedule: bool,
}

/// What is known of a drill.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// When it is due.
    pub schedule: &'a Schedule,
    /// How turns are judged.
    pub rules: &'a Rules,
    /// The steps of each slot, in any order.
    pub slots: &'a BTreeMap<Timestamp, Vec<Step>>,
    /// Since when this host knows the drill with this schedule.
    pub since: Timestamp,
    /// Makes this host's jitter ([`seed`]).
    pub seed: u64,
}

/// How a drill stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What is to be done.
    pub turn: Turn,
    /// The next slot.
    pub next: Option<Timestamp>,
    /// The oldest slot without a result that counts, since the last one that has one.
    pub due_since: Option<Timestamp>,
    /// Slots that passed without a result before the newest one.
    pub missed: u32,
    /// Whether it should have been done by now.
    pub overdue: bool,
}

/// What is to be done about the newest slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing until the next one.
    Wait,
    /// It is to be run, not before `at`.
    Due {
        /// The slot.
        slot: Timestamp,
        /// When.
        at: Timestamp,
        /// Which try it is, from 1.
        attempt: u32,
    },
    /// Somebody has the turn.
    Had {
        /// The slot.
        slot: Timestamp,
        /// The claim.
        claim: Hash,
        /// Until when, by its holder's clock.
        until: Timestamp,
    },
    /// It was tried as often as it may be.
    GivenUp {
        /// The slot.
        slot: Timestamp,
    },
}

impl Standing {
    /// Judges a drill.
    #[must_use]
    pub fn judge(known: &Known<'_>, now: Timestamp) -> Self {
        let next = known.schedule.next_after(now);
        let newest = latest(known.schedule, now);
        let done = last_done(known.slots);
        let due_since = due_since(known, done, now);
        let turn = newest.map_or(Turn::Wait, |slot| turn(known, slot, done, now));
        let missed = match (newest, due_since) {
            (Some(newest), Some(first)) => between(known.schedule, first, newest),
            _ => 0,
        };
        let overdue = due_since
            .is_some_and(|since| now >= later(since, known.rules.overdue_after) && since <= now);
        Self {
            turn,
            next,
            due_since,
            missed,
            overdue,
        }
    }

    /// When to judge anew at the latest, if nothing is heard meanwhile.
    #[must_use]
    pub fn look_again(&self) -> Option<Timestamp> {
        let soon = match self.turn {
            Turn::Due { at, .. } => Some(at),
            Turn::Had { until, .. } => Some(until),
            Turn::Wait | Turn::GivenUp { .. } => None,
        };
        soon.into_iter().chain(self.next).min()
    }
}

/// What of a host's jitter is this slot's.
#[must_use]
pub fn seed(drill: &DrillName, host: KeyId) -> u64 {
    let hash = Hash::of(format!("{drill} {host}").as_bytes());
    u64::from_le_bytes(*hash.0.first_chunk().unwrap_or(&[0; 8]))
}

/// For how long a turn is had from now on: as long as the drill has run already, at least `least`.
#[must_use]
pub fn hold(ran: Duration, least: Duration) -> Duration {
    ran.min(HOLD_MAX).max(least)
}

/// The newest slot at or before `now`.
#[must_use]
pub fn latest(schedule: &Schedule, now: Timestamp) -> Option<Timestamp> {
    let mut reach = LOOK_BACK_FIRST;
    while reach <= LOOK_BACK_MAX {
        let from = now.checked_sub(reach).ok()?;
        let mut found = schedule.next_after(from).filter(|slot| *slot <= now);
        if found.is_some() {
            while let Some(slot) = found.and_then(|slot| schedule.next_after(slot))
                && slot <= now
            {
                found = Some(slot);
            }
            return found;
        }
        reach = reach.checked_mul(2)?;
    }
    None
}

/// A turn as its steps tell it.
struct Had {
    claim: Hash,
    last: Step,
}

/// The turns of a slot, in the order in which they were taken.
fn turns(steps: &[Step]) -> Vec<Had> {
    let mut steps: Vec<&Step> = steps.iter().collect();
    steps.sort_by_key(|step| (step.seq, step.at, step.link));
    let mut turns: Vec<Had> = Vec::new();
    for step in steps {
        let claim = step.claim.unwrap_or(step.link);
        match turns.iter_mut().find(|turn| turn.claim == claim) {
            // What ended stays so, whatever comes late.
            Some(turn) if matches!(turn.last.step, DrillStep::Ended | DrillStep::Released) => {}
            Some(turn) => turn.last = step.clone(),
            None => turns.push(Had {
                claim,
                last: step.clone(),
            }),
        }
    }
    turns
}

impl Had {
    fn is_done(&self) -> bool {
        self.last.step == DrillStep::Ended && self.last.conclusive
    }

    fn is_released(&self) -> bool {
        self.last.step == DrillStep::Released
    }

    /// Until when it is had, if it still is.
    fn until(&self, now: Timestamp) -> Option<Timestamp> {
        let Step { step, at, .. } = self.last;
        if matches!(step, DrillStep::Ended | DrillStep::Released) || self.last.abandoned {
            return None;
        }
        let until = self.last.until.unwrap_or(at);
        let held = until.duration_since(at);
        let seen = SignedDuration::try_from(self.last.seen_for).unwrap_or(SignedDuration::MAX);
        let over = now.duration_since(until) >= SKEW_MAX || seen >= held;
        (!over).then_some(until)
    }
}

/// The newest slot that was done, and whether that was under the schedule of today.
fn last_done(slots: &BTreeMap<Timestamp, Vec<Step>>) -> Option<(Timestamp, bool)> {
    slots.iter().rev().find_map(|(slot, steps)| {
        let turns = turns(steps);
        let done = turns.iter().find(|turn| turn.is_done())?;
        Some((*slot, done.last.same_schedule))
    })
}

/// The first slot without a result, if it has passed: since the last one done, or since the drill is known.
fn due_since(
    known: &Known<'_>,
    done: Option<(Timestamp, bool)>,
    now: Timestamp,
) -> Option<Timestamp> {
    let before_since = known.since.checked_sub(SignedDuration::from_nanos(1));
    let from = match done {
        Some((slot, true)) => slot,
        Some((slot, false)) => slot.max(before_since.ok()?),
        None => before_since.ok()?,
    };
    known
        .schedule
        .next_after(from)
        .filter(|first| *first <= now)
}

fn turn(
    known: &Known<'_>,
    newest: Timestamp,
    done: Option<(Timestamp, bool)>,
    now: Timestamp,
) -> Turn {
    // A turn of an earlier slot that somebody still has: two runs at once help nobody.
    for (slot, steps) in known.slots.iter().rev() {
        for had in turns(steps) {
            if let Some(until) = had.until(now) {
                let (slot, claim) = (*slot, had.claim);
                return Turn::Had { slot, claim, until };
            }
        }
    }
    // What others have begun under this very slot, they have by the same schedule.
    let is_known = newest >= known.since || known.slots.contains_key(&newest);
    let is_ours = match done {
        Some((slot, _)) if slot >= newest => false,
        Some((_, same_schedule)) => same_schedule || is_known,
        None => is_known,
    };
    if !is_ours {
        return Turn::Wait;
    }
    let turns = known.slots.get(&newest).map(|steps| turns(steps));
    let tries: Vec<Had> = turns.unwrap_or_default();
    let tries: Vec<&Had> = tries.iter().filter(|had| !had.is_released()).collect();
    let count = u32::try_from(tries.len()).unwrap_or(u32::MAX);
    if count >= known.rules.attempts_max {
        return Turn::GivenUp { slot: newest };
    }
    let inconclusive = tries
        .iter()
        .filter(|had| had.last.step == DrillStep::Ended)
        .map(|had| later(had.last.at, known.rules.retry_after))
        .max();
    let at = match inconclusive {
        Some(again) => again,
        None if tries.is_empty() => later(newest, jitter(known, newest)),
        // Its holder died: at once.
        None => newest,
    };
    Turn::Due {
        slot: newest,
        at,
        attempt: count.saturating_add(1),
    }
}

/// This host's share of the jitter for a slot: the same whenever it is asked for.
fn jitter(known: &Known<'_>, slot: Timestamp) -> Duration {
    let hash = Hash::of(format!("{} {}", known.seed, slot.as_second()).as_bytes());
    let part = u128::from(u16::from_le_bytes([hash.0[0], hash.0[1]]));
    let nanos = known.rules.jitter.as_nanos().saturating_mul(part) >> 16;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Slots from `first` up to and without `last`.
fn between(schedule: &Schedule, first: Timestamp, last: Timestamp) -> u32 {
    let mut count = 0;
    let mut slot = Some(first);
    while let Some(at) = slot
        && at < last
        && count < MISSED_MAX
    {
        count += 1;
        slot = schedule.next_after(at);
    }
    count
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
