//! Which epochs count, and where each ended: pure, over what one or several regions show.
//!
//! Object 0 of an epoch names where the epoch before ended: that decides. Where no region read has
//! that object any more, the fences do: an epoch ended at the highest fence minus one (the lowest
//! would cut off acknowledged objects, see `fencing`). Everything past the end is void.

use std::collections::BTreeMap;

use tidemark_format::heads::EpochEnd;
use tidemark_format::{Epoch, Hash, LogSeq};

/// What is known of one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EpochSigns {
    /// Whether any log object of it is there.
    pub has_log: bool,
    /// What its object 0 says, if that could be read: `Some(None)` when it follows nothing.
    pub object_zero: Option<Option<EpochEnd>>,
    /// The highest fence seen in its log.
    pub fence: Option<LogSeq>,
}

impl EpochSigns {
    /// Adds what another region shows.
    pub fn merge(&mut self, other: &Self) {
        self.has_log |= other.has_log;
        if self.object_zero.is_none() {
            self.object_zero.clone_from(&other.object_zero);
        }
        self.fence = self.fence.max(other.fence);
    }
}

/// Where an epoch stands on the source's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The newest epoch with a log.
    Live,
    /// Claimed, and nothing was written under it yet.
    Claimed,
    /// Ended: what is past `last` is void.
    Ended {
        /// Its last valid object.
        last: LogSeq,
        /// The link of that object, if the successor names it.
        link: Option<Hash>,
        /// The epoch that followed.
        by: Epoch,
    },
    /// A later epoch follows, and nothing that could be read says where this one ended: it counts
    /// up to its newest recovery point and no further.
    EndUnknown {
        /// The epoch that followed.
        by: Epoch,
    },
    /// Not on the chain: a later epoch passed over it.
    Void,
}

/// Where every epoch stands.
#[must_use]
pub fn standings(epochs: &BTreeMap<Epoch, EpochSigns>) -> BTreeMap<Epoch, Standing> {
    let mut standing: BTreeMap<Epoch, Standing> = epochs
        .keys()
        .map(|epoch| (*epoch, Standing::Claimed))
        .collect();
    let Some(newest) = with_log(epochs, None) else {
        return standing;
    };
    standing.insert(newest, Standing::Live);
    let mut current = newest;
    // Goes down the chain: each turn settles all epochs from `current` down to its predecessor.
    loop {
        let (before, ended) = match epochs
            .get(&current)
            .and_then(|signs| signs.object_zero.as_ref())
        {
            // A chain goes down only: anything else is a forgery and ends it here.
            Some(Some(end)) if end.epoch < current => (Some(end.epoch), ended_by(end, current)),
            Some(_first) => (None, Standing::Void),
            None => {
                let before = with_log(epochs, Some(current));
                let fence = before
                    .and_then(|epoch| epochs.get(&epoch))
                    .and_then(|s| s.fence);
                (before, ended_at_fence(fence, current))
            }
        };
        for (epoch, state) in standing.range_mut(..current) {
            if before.is_none_or(|before| *epoch > before) {
                *state = Standing::Void;
            }
        }
        let Some(before) = before.filter(|before| epochs.contains_key(before)) else {
            break;
        };
        standing.insert(before, ended);
        current = before;
    }
    standing
}

fn ended_by(end: &EpochEnd, by: Epoch) -> Standing {
    match end.seq {
        Some(last) => Standing::Ended {
            last,
            link: end.link,
            by,
        },
        None => Standing::Void,
    }
}

fn ended_at_fence(fence: Option<LogSeq>, by: Epoch) -> Standing {
    match fence {
        None => Standing::EndUnknown { by },
        Some(fence) => fence
            .previous()
            .map_or(Standing::Void, |last| Standing::Ended {
                last,
                link: None,
                by,
            }),
    }
}

/// The highest epoch below `below` that has a log.
fn with_log(epochs: &BTreeMap<Epoch, EpochSigns>, below: Option<Epoch>) -> Option<Epoch> {
    let mut found = epochs
        .iter()
        .rev()
        .filter(|(_, signs)| signs.has_log)
        .map(|(epoch, _)| *epoch);
    found.find(|epoch| below.is_none_or(|below| *epoch < below))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(fence: Option<u64>) -> EpochSigns {
        EpochSigns {
            has_log: true,
            object_zero: Some(None),
            fence: fence.map(LogSeq),
        }
    }

    fn follows(epoch: u32, seq: Option<u64>) -> EpochSigns {
        let link = seq.map(|_| Hash([7; 32]));
        let end = EpochEnd {
            epoch: Epoch(epoch),
            seq: seq.map(LogSeq),
            link,
        };
        EpochSigns {
            has_log: true,
            object_zero: Some(Some(end)),
            fence: None,
        }
    }

    fn of<const N: usize>(epochs: [(u32, EpochSigns); N]) -> BTreeMap<u32, Standing> {
        let epochs = epochs
            .into_iter()
            .map(|(epoch, signs)| (Epoch(epoch), signs))
            .collect();
        standings(&epochs)
            .into_iter()
            .map(|(epoch, standing)| (epoch.0, standing))
            .collect()
    }

    fn ended(last: u64, by: u32) -> Standing {
        Standing::Ended {
            last: LogSeq(last),
            link: Some(Hash([7; 32])),
            by: Epoch(by),
        }
    }

    #[test]
    fn a_lone_epoch_is_live_and_a_claim_without_log_ends_nothing() {
        let standing = of([(1, first(None)), (2, EpochSigns::default())]);
        assert_eq!(standing[&1], Standing::Live);
        assert_eq!(standing[&2], Standing::Claimed);
    }

    #[test]
    fn object_zero_says_where_the_epoch_before_ended_whatever_this_regions_fence_says() {
        let standing = of([(1, first(Some(4))), (2, follows(1, Some(6)))]);
        assert_eq!(standing[&1], ended(6, 2));
        assert_eq!(standing[&2], Standing::Live);
    }

    #[test]
    fn an_epoch_that_was_passed_over_is_void() {
        let standing = of([
            (1, first(None)),
            (2, follows(1, Some(9))),
            (3, follows(1, Some(6))),
        ]);
        assert_eq!(standing[&1], ended(6, 3));
        assert_eq!(standing[&2], Standing::Void);
    }

    #[test]
    fn without_object_zero_the_highest_fence_of_the_regions_read_decides() {
        let gone = EpochSigns {
            has_log: true,
            ..EpochSigns::default()
        };
        let mut signs = first(Some(4));
        signs.merge(&first(Some(7)));
        let standing = of([(1, signs), (2, gone.clone())]);
        assert_eq!(
            standing[&1],
            Standing::Ended {
                last: LogSeq(6),
                link: None,
                by: Epoch(2)
            }
        );
        let standing = of([(1, first(None)), (2, gone)]);
        assert_eq!(standing[&1], Standing::EndUnknown { by: Epoch(2) });
    }

    #[test]
    fn a_chain_that_points_upwards_is_not_followed() {
        let standing = of([(1, first(None)), (2, follows(2, Some(1)))]);
        assert_eq!(standing[&1], Standing::Void);
    }
}
