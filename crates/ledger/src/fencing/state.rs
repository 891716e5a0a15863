//! The claim and the take-over as a state machine: pure, so that a test can explore all of it.
//!
//! [`TakeOver::actions`] says what may be done now, in any order; [`TakeOver::on`] takes what came
//! of one of them. An action that was begun twice does no harm.

use std::collections::BTreeMap;

use tidemark_format::{Epoch, LogSeq, WriterId};

/// How many failure domains there are and how many make durable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rules {
    /// The failure domain of each region, as a number from 0.
    domains: Vec<usize>,
    /// W.
    durable_in: usize,
}

impl Rules {
    /// Rules for regions in the given failure domains, of which `durable_in` make durable (at least
    /// one, at most as many as there are).
    #[must_use]
    pub fn new(domains: Vec<usize>, durable_in: usize) -> Self {
        let mut rules = Self {
            domains,
            durable_in,
        };
        rules.durable_in = durable_in.clamp(1, rules.total().max(1));
        rules
    }

    /// How many failure domains there are: N.
    #[must_use]
    pub fn total(&self) -> usize {
        let mut domains = self.domains.clone();
        domains.sort_unstable();
        domains.dedup();
        domains.len()
    }

    /// How many domains a claim or a fence needs: N − W + 1.
    #[must_use]
    pub fn needed(&self) -> usize {
        self.total()
            .saturating_sub(self.durable_in)
            .saturating_add(1)
    }

    /// How many domains are wholly among the regions for which `done` holds. A domain counts only
    /// whole: an acknowledgement needs just one of its regions.
    #[must_use]
    pub fn whole_domains(&self, done: impl Fn(usize) -> bool) -> usize {
        let mut whole: BTreeMap<usize, bool> = BTreeMap::new();
        for (region, domain) in self.domains.iter().enumerate() {
            *whole.entry(*domain).or_insert(true) &= done(region);
        }
        whole.values().filter(|whole| **whole).count()
    }

    fn regions(&self) -> std::ops::Range<usize> {
        0..self.domains.len()
    }
}

/// What a region shows of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct EpochSeen {
    /// Who claimed it here; none if its claim isn't here or can't be read.
    pub writer: Option<WriterId>,
    /// The next free sequence of its log; with a fence, where that stands.
    pub next: LogSeq,
    /// Whether a fence stands there.
    pub fenced: bool,
}

/// What a region shows of a source.
pub type Observation = BTreeMap<Epoch, EpochSeen>;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The first claim of a source: fails if anybody ever claimed it.
    New,
    /// A take-over, asked for by a person.
    TakeOver,
}

/// Something to do in one region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Find out what it shows.
    Observe {
        /// The region.
        region: usize,
    },
    /// Create the claim.
    Claim {
        /// The region.
        region: usize,
        /// The epoch.
        epoch: Epoch,
    },
    /// Create a fence.
    Fence {
        /// The region.
        region: usize,
        /// The epoch to end.
        epoch: Epoch,
        /// Where.
        at: LogSeq,
    },
}

/// What came of an action.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The region shows this.
    Observed {
        /// The region.
        region: usize,
        /// What it shows.
        seen: Observation,
    },
    /// The claim is there, and ours.
    Claimed {
        /// The region.
        region: usize,
    },
    /// Another writer holds the claim.
    ClaimTaken {
        /// The region.
        region: usize,
    },
    /// A fence stands there: ours, or that of an earlier take-over.
    Fenced {
        /// The region.
        region: usize,
        /// Where.
        at: LogSeq,
    },
    /// A log object stands there: the old writer was faster.
    Occupied {
        /// The region.
        region: usize,
        /// Where.
        at: LogSeq,
    },
    /// A later epoch than ours has fenced here.
    Outrun {
        /// The region.
        region: usize,
        /// The later epoch.
        by: Epoch,
    },
    /// The region failed and is left out from now on.
    Lost {
        /// The region.
        region: usize,
    },
}

/// Why it can't go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Fewer failure domains than needed can be used; trying again is safe.
    TooFew {
        /// How many can.
        reached: usize,
    },
    /// Another writer has the source, or takes it over at this moment.
    Foreign {
        /// Its epoch.
        epoch: Epoch,
        /// The region that shows it.
        region: usize,
    },
}

/// Where a successor starts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decision {
    /// The epoch that is ours now.
    pub epoch: Epoch,
    /// The epoch before and its last object; none if nothing was ever written.
    pub follows: Option<(Epoch, LogSeq)>,
    /// A region that holds that object, to read its link from.
    pub read_from: Option<usize>,
    /// Regions that hold our claim and the fences.
    pub regions: Vec<usize>,
}

/// How the end follows from the fences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum EndRule {
    #[default]
    HighestFence,
    /// Wrong: the mutation that the model must notice.
    #[cfg(test)]
    LowestFence,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Region {
    seen: Option<Observation>,
    claimed: bool,
    lost: bool,
    /// Fences that stand, by epoch.
    fences: BTreeMap<Epoch, LogSeq>,
    /// Where to try next, by epoch, if further than what was seen.
    tries: BTreeMap<Epoch, LogSeq>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    Observing,
    Claiming(Epoch),
    Fencing { ours: Epoch, old: Epoch },
    Done(Decision),
    Failed(Failure),
}

/// A claim or take-over under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TakeOver {
    rules: Rules,
    mode: Mode,
    me: WriterId,
    rule: EndRule,
    regions: Vec<Region>,
    phase: Phase,
}

impl TakeOver {
    /// A claim or take-over by `me`, with nothing done yet.
    #[must_use]
    pub fn new(rules: Rules, mode: Mode, me: WriterId) -> Self {
        let regions = rules.regions().map(|_| Region::default()).collect();
        Self {
            rules,
            mode,
            me,
            rule: EndRule::HighestFence,
            regions,
            phase: Phase::Observing,
        }
    }

    /// The wrong machine, which ends an epoch at its lowest fence.
    #[cfg(test)]
    pub(super) fn with_lowest_fence(mut self) -> Self {
        self.rule = EndRule::LowestFence;
        self
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The [`Failure`] it ended with.
    pub fn outcome(&self) -> Result<Option<&Decision>, Failure> {
        match &self.phase {
            Phase::Done(decision) => Ok(Some(decision)),
            Phase::Failed(failure) => Err(*failure),
            Phase::Observing | Phase::Claiming(_) | Phase::Fencing { .. } => Ok(None),
        }
    }

    /// The epoch that is being claimed, once that is decided.
    #[must_use]
    pub fn ours(&self) -> Option<Epoch> {
        match &self.phase {
            Phase::Claiming(epoch) | Phase::Fencing { ours: epoch, .. } => Some(*epoch),
            Phase::Done(decision) => Some(decision.epoch),
            Phase::Observing | Phase::Failed(_) => None,
        }
    }

    /// What may be done now.
    #[must_use]
    pub fn actions(&self) -> Vec<Action> {
        let alive = self.rules.regions().filter(|region| !self.lost(*region));
        match &self.phase {
            Phase::Observing => alive
                .filter(|region| self.at(*region).is_some_and(|r| r.seen.is_none()))
                .map(|region| Action::Observe { region })
                .collect(),
            // One after the other: of two at once, one loses at the first region.
            Phase::Claiming(epoch) => alive
                .filter(|region| !self.claimed(*region))
                .map(|region| Action::Claim {
                    region,
                    epoch: *epoch,
                })
                .take(1)
                .collect(),
            Phase::Fencing { old, .. } => alive
                .filter(|region| !self.fenced(*region, *old))
                .map(|region| Action::Fence {
                    region,
                    epoch: *old,
                    at: self.aim(region, *old),
                })
                .collect(),
            Phase::Done(_) | Phase::Failed(_) => Vec::new(),
        }
    }

    /// Takes what came of an action.
    pub fn on(&mut self, event: Event) {
        if matches!(self.phase, Phase::Done(_) | Phase::Failed(_)) {
            return;
        }
        match event {
            Event::Observed { region, seen } => self.change(region, |r| r.seen = Some(seen)),
            Event::Claimed { region } => self.change(region, |r| r.claimed = true),
            Event::Lost { region } => self.change(region, |r| r.lost = true),
            Event::ClaimTaken { region } => {
                if let Phase::Claiming(epoch) = self.phase {
                    self.phase = Phase::Failed(Failure::Foreign { epoch, region });
                }
            }
            Event::Outrun { region, by } => {
                self.phase = Phase::Failed(Failure::Foreign { epoch: by, region });
            }
            Event::Fenced { region, at } => {
                if let Phase::Fencing { old, .. } = self.phase {
                    self.change(region, |r| {
                        r.fences.insert(old, at);
                    });
                }
            }
            Event::Occupied { region, at } => {
                if let Phase::Fencing { old, .. } = self.phase {
                    self.change(region, |r| {
                        r.tries.insert(old, at.next());
                    });
                }
            }
        }
        self.advance();
    }

    fn at(&self, region: usize) -> Option<&Region> {
        self.regions.get(region)
    }

    fn change(&mut self, region: usize, change: impl FnOnce(&mut Region)) {
        if let Some(region) = self.regions.get_mut(region) {
            change(region);
        }
    }

    fn lost(&self, region: usize) -> bool {
        self.at(region).is_none_or(|region| region.lost)
    }

    fn claimed(&self, region: usize) -> bool {
        self.at(region).is_some_and(|region| region.claimed)
    }

    fn fenced(&self, region: usize, epoch: Epoch) -> bool {
        self.at(region)
            .is_some_and(|region| region.fences.contains_key(&epoch))
    }

    fn aim(&self, region: usize, epoch: Epoch) -> LogSeq {
        let Some(region) = self.at(region) else {
            return LogSeq(0);
        };
        let seen = region
            .seen
            .as_ref()
            .and_then(|seen| seen.get(&epoch))
            .map(|seen| seen.next);
        seen.max(region.tries.get(&epoch).copied())
            .unwrap_or_default()
    }

    /// Goes to the next phase as soon as the present one is done.
    fn advance(&mut self) {
        while self.actions().is_empty() {
            self.phase = match &self.phase {
                Phase::Observing => self.after_observing(),
                Phase::Claiming(epoch) => self.after_claiming(*epoch),
                Phase::Fencing { ours, old } => self.after_fencing(*ours, *old),
                Phase::Done(_) | Phase::Failed(_) => return,
            };
        }
    }

    fn enough(&self, done: impl Fn(usize) -> bool) -> Result<(), Phase> {
        let reached = self
            .rules
            .whole_domains(|region| !self.lost(region) && done(region));
        if reached >= self.rules.needed() {
            Ok(())
        } else {
            Err(Phase::Failed(Failure::TooFew { reached }))
        }
    }

    fn after_observing(&self) -> Phase {
        if let Err(failed) = self.enough(|_| true) {
            return failed;
        }
        match self.highest() {
            None => Phase::Claiming(Epoch(1)),
            // Begun before and interrupted: nothing was written under it.
            Some((epoch, _)) if self.begun_by_me(epoch) => Phase::Claiming(epoch),
            Some((epoch, region)) if self.mode == Mode::New => {
                Phase::Failed(Failure::Foreign { epoch, region })
            }
            Some((epoch, _)) => Phase::Claiming(epoch.next()),
        }
    }

    fn after_claiming(&self, ours: Epoch) -> Phase {
        if let Err(failed) = self.enough(|region| self.claimed(region)) {
            return failed;
        }
        self.fence_below(ours, ours)
    }

    fn after_fencing(&self, ours: Epoch, old: Epoch) -> Phase {
        if let Err(failed) = self.enough(|region| self.claimed(region) && self.fenced(region, old))
        {
            return failed;
        }
        let fences = self
            .regions
            .iter()
            .enumerate()
            .filter(|(_, region)| !region.lost);
        let fences = fences.filter_map(|(at, region)| Some((*region.fences.get(&old)?, at)));
        let end = match self.rule {
            EndRule::HighestFence => fences.max(),
            #[cfg(test)]
            EndRule::LowestFence => fences.min(),
        };
        match end.and_then(|(fence, region)| Some((fence.previous()?, region))) {
            Some((last, region)) => self.decided(ours, Some((old, last)), Some(region)),
            // Nothing was written under it: the epoch before it goes on the chain.
            None => self.fence_below(ours, old),
        }
    }

    fn fence_below(&self, ours: Epoch, below: Epoch) -> Phase {
        let seen = self
            .regions
            .iter()
            .filter_map(|region| region.seen.as_ref());
        match seen
            .flat_map(BTreeMap::keys)
            .filter(|epoch| **epoch < below)
            .max()
        {
            Some(old) => Phase::Fencing { ours, old: *old },
            None => self.decided(ours, None, None),
        }
    }

    fn decided(
        &self,
        epoch: Epoch,
        follows: Option<(Epoch, LogSeq)>,
        read_from: Option<usize>,
    ) -> Phase {
        let regions = self
            .rules
            .regions()
            .filter(|at| self.claimed(*at) && !self.lost(*at));
        Phase::Done(Decision {
            epoch,
            follows,
            read_from,
            regions: regions.collect(),
        })
    }

    /// The highest epoch that any region shows, and one that does.
    fn highest(&self) -> Option<(Epoch, usize)> {
        let seen = self.regions.iter().enumerate();
        seen.filter_map(|(at, region)| Some((*region.seen.as_ref()?.keys().next_back()?, at)))
            .max()
    }

    fn begun_by_me(&self, epoch: Epoch) -> bool {
        let mut shown = self
            .regions
            .iter()
            .filter_map(|region| region.seen.as_ref()?.get(&epoch));
        let untouched = |seen: &EpochSeen| {
            seen.writer.is_none_or(|writer| writer == self.me)
                && seen.next == LogSeq(0)
                && !seen.fenced
        };
        let mine = |seen: &EpochSeen| seen.writer == Some(self.me);
        shown.clone().any(mine) && shown.all(untouched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_counts_only_whole() {
        let rules = Rules::new(vec![0, 0, 1], 2);
        assert_eq!((rules.total(), rules.needed()), (2, 1));
        assert_eq!(rules.whole_domains(|region| region == 0), 0);
        assert_eq!(rules.whole_domains(|region| region != 2), 1);
    }

    #[test]
    fn durable_in_is_kept_within_what_there_is() {
        assert_eq!(Rules::new(vec![0], 2).needed(), 1);
        assert_eq!(Rules::new(vec![0, 1], 0).needed(), 2);
    }
}
