//! What the database hears of the regions, where it waits for them (`ack = "regions"`): up to where as
//! many failure domains as make "durable" hold its log. The engine says when commits wait for too long.
//!
//! **Invariant.** Nothing is called durable that fewer hold. A region counts as far as it holds the log
//! without a hole from what was durable before, or from a base of its own on.

use tidemark_format::LogSeq;
use tidemark_host::config::Ack;

use super::driver::Driver;
use super::slot::Command;
use crate::ship::lane::Lane;
use crate::ship::quorum;

/// What the capture that is open was told: everything up to here is durable.
#[derive(Debug, Default)]
pub(super) struct Acks(Option<LogSeq>);

/// How far a region counts, when everything up to `before` is durable.
fn counts(lane: &Lane, before: Option<LogSeq>) -> Option<LogSeq> {
    let from = before.map_or(LogSeq(0), LogSeq::next);
    let mended = lane
        .base
        .is_some_and(|held| held.start >= lane.unbroken_from);
    lane.log_through
        .filter(|_| !lane.parted && lane.lost.is_none() && (lane.unbroken_from <= from || mended))
}

impl Driver {
    /// A capture was opened: it knows nothing of the regions.
    pub(super) fn acknowledge_anew(&mut self) {
        self.acks = Acks::default();
        self.acknowledge();
    }

    /// Tells the slot what has become durable.
    pub(super) fn acknowledge(&mut self) {
        if self.parts.settings.ack != Ack::Regions {
            return;
        }
        let (domains, unseen) = (self.domains(), self.unseen());
        let Acks(before) = self.acks;
        let lanes = self.record.lanes.iter();
        let lanes = lanes.filter(|(name, _)| !unseen.contains(*name));
        let reached = lanes.map(|(name, lane)| {
            let domain = domains.get(name).map_or("", String::as_str);
            (domain, counts(lane, before))
        });
        let reached = quorum::reached(reached, self.width(&domains));
        if let Some(through) = reached.filter(|_| reached > before) {
            self.acks = Acks(reached);
            self.parts.slot.tell(Command::Durable(through));
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemark_format::BaseNumber;
    use tidemark_format::heads::BaseRef;

    use super::*;
    use crate::ship::lane::HeldBase;

    fn lane(unbroken_from: u64, through: u64, base: Option<u64>) -> Lane {
        Lane {
            unbroken_from: LogSeq(unbroken_from),
            log_through: Some(LogSeq(through)),
            base: base.map(|start| HeldBase {
                reference: BaseRef {
                    generation: LogSeq(0),
                    number: BaseNumber(0),
                    link: tidemark_format::Hash([0; 32]),
                },
                start: LogSeq(start),
            }),
            ..Lane::from_start()
        }
    }

    #[test]
    fn a_region_counts_as_far_as_it_has_the_log_without_a_hole() {
        assert_eq!(counts(&lane(0, 9, None), None), Some(LogSeq(9)));
        assert_eq!(counts(&lane(5, 9, None), Some(LogSeq(4))), Some(LogSeq(9)));
        assert_eq!(
            counts(&lane(6, 9, None), Some(LogSeq(4))),
            None,
            "5 is nowhere here"
        );
        assert_eq!(counts(&lane(6, 9, Some(3)), Some(LogSeq(4))), None);
        let mended = lane(6, 9, Some(7));
        assert_eq!(counts(&mended, Some(LogSeq(4))), Some(LogSeq(9)));
        let mut lost = lane(5, 9, None);
        lost.lost = Some(LogSeq(6));
        assert_eq!(counts(&lost, Some(LogSeq(4))), None, "4 is gone");
        let mut parted = lane(0, 9, None);
        parted.parted = true;
        assert_eq!(counts(&parted, None), None);
    }
}
