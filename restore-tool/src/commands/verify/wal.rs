//! Whether a server's log goes on from object to object without a gap: signatures and links say that an
//! object follows another, and not that its bytes do.

use tidemark_engine_postgres::timeline::History;
use tidemark_format::postgres::{LogRange, Lsn, SegmentSize, TimelineId};
use tidemark_format::{Epoch, Incarnation, Key, LogSeq};
use tidemark_open::OpenedLog;
use tidemark_planner::restore::ServerLog;

use tidemark_ledger::timeline::POSTGRESQL;

/// What an object holds of a server's log: what is kept of its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    key: Key,
    place: (Epoch, LogSeq),
    life: Incarnation,
    system: u64,
    segment: SegmentSize,
    timeline: TimelineId,
    start: Lsn,
    end: Lsn,
    /// Of the timeline, where the object carries it.
    history: Option<History>,
}

impl Part {
    /// From an opened object; none of an engine that logs otherwise.
    ///
    /// # Errors
    /// What is wrong with the payload, in words.
    pub(super) fn read(key: &Key, opened: &OpenedLog) -> Result<Option<Self>, String> {
        let head = &opened.head;
        if head.engine != POSTGRESQL {
            return Ok(None);
        }
        let range = LogRange::decode(&opened.payload).map_err(|error| error.to_string())?;
        let told = ServerLog::read(&head.facts).unwrap_or_default();
        let differs = told.timeline.is_some_and(|told| told != range.timeline)
            || told.start.is_some_and(|told| told != range.start)
            || told.end.is_some_and(|told| told != range.end());
        if differs {
            return Err(format!(
                "it holds {} to {} of timeline {}, and its head says otherwise",
                range.start,
                range.end(),
                range.timeline
            ));
        }
        let mut histories = range.histories.iter();
        let own = histories.find(|file| file.timeline == range.timeline);
        let history = own.map(|file| History::parse(file.timeline, file.bytes));
        Ok(Some(Self {
            key: key.clone(),
            place: (head.epoch, head.seq),
            life: head.incarnation,
            system: range.system,
            segment: range.segment,
            timeline: range.timeline,
            start: range.start,
            end: range.end(),
            history: history.transpose().map_err(|error| error.to_string())?,
        }))
    }

    /// Why this can't be what follows `before`.
    fn breaks(&self, before: &Self) -> Option<String> {
        if (self.system, self.segment) != (before.system, before.segment) {
            return Some(
                "it is the log of another database system than the object before it".to_owned(),
            );
        }
        if self.timeline < before.timeline {
            return Some(format!(
                "it goes back from timeline {} to {}",
                before.timeline, self.timeline
            ));
        }
        if self.timeline == before.timeline {
            return (self.start != before.end).then(|| {
                format!(
                    "it begins at {} of timeline {}, and the object before it ends at {}",
                    self.start, self.timeline, before.end
                )
            });
        }
        let Some(history) = &self.history else {
            return Some(format!(
                "it begins timeline {} without its history",
                self.timeline
            ));
        };
        let left = history.left_at(before.timeline);
        let joins = left.is_some_and(|left| self.start <= before.end && before.end <= left);
        (!joins).then(|| {
            format!(
                "timeline {} does not go on from {} of timeline {}, where the object before it ends",
                self.timeline, before.end, before.timeline
            )
        })
    }
}

/// Objects that don't go on where the one before them ends, with the reason each.
pub(super) fn breaks(mut parts: Vec<Part>) -> Vec<(Key, String)> {
    parts.sort_by_key(|part| part.place);
    let pairs = parts.windows(2).filter_map(|pair| match pair {
        [before, part] => {
            let follows = before.place.0 == part.place.0
                && before.place.1.next() == part.place.1
                && before.life == part.life;
            let why = follows.then(|| part.breaks(before)).flatten()?;
            Some((part.key.clone(), why))
        }
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use tidemark_format::{SourceName, keys};

    use super::*;

    fn part(seq: u64, timeline: u32, start: u64, end: u64) -> Part {
        let source = SourceName::new("app").unwrap();
        Part {
            key: keys::log(&source, Epoch(1), LogSeq(seq)),
            place: (Epoch(1), LogSeq(seq)),
            life: Incarnation([1; 16]),
            system: 7,
            segment: SegmentSize::DEFAULT,
            timeline: TimelineId(timeline),
            start: Lsn(start),
            end: Lsn(end),
            history: None,
        }
    }

    fn told(parts: Vec<Part>) -> Vec<String> {
        breaks(parts).into_iter().map(|(_, why)| why).collect()
    }

    #[test]
    fn what_follows_begins_where_the_one_before_ends() {
        let whole = vec![
            part(1, 1, 0x100, 0x200),
            part(0, 1, 0, 0x100),
            part(2, 1, 0x200, 0x200),
        ];
        assert_eq!(told(whole.clone()), [""; 0]);
        let mut gap = whole.clone();
        gap[0].start = Lsn(0x108);
        assert!(told(gap)[0].contains("0/108"));
        let mut foreign = whole.clone();
        foreign[0].system = 8;
        assert_eq!(
            told(foreign).len(),
            2,
            "neither it nor the one behind it fits"
        );
        let mut other_life = whole;
        other_life[0].life = Incarnation([2; 16]);
        other_life[0].start = Lsn(0x700);
        assert_eq!(
            told(other_life),
            [""; 0],
            "another life begins where it likes"
        );
    }

    #[test]
    fn a_timeline_goes_on_from_where_its_history_leaves_the_one_before() {
        let history = |text: &str| Some(History::parse(TimelineId(3), text.as_bytes()).unwrap());
        let before = part(0, 1, 0x100_0000, 0x180_0000);
        let mut after = part(1, 3, 0x100_0000, 0x200_0000);
        let pair = |after: &Part| told(vec![before.clone(), after.clone()]);
        assert!(pair(&after)[0].contains("without its history"));
        after.history = history("1\t0/1900000\tpromoted\n");
        assert_eq!(pair(&after), [""; 0]);
        after.history = history("1\t0/1700000\tpromoted\n");
        assert!(
            pair(&after)[0].contains("does not go on"),
            "the fork lies before what was captured"
        );
        after.history = history("2\t0/1900000\tpromoted\n");
        assert!(pair(&after)[0].contains("does not go on"), "no descendant");
        let back = vec![part(0, 2, 0, 8), part(1, 1, 8, 16)];
        assert!(told(back)[0].contains("goes back"));
    }
}
