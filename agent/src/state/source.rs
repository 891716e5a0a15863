//! Where a source stands: its epoch, the ends of its log, bases and points, and every region's lane.
//!
//! Plain data with pure transitions; the spool is its journal. A record read after a crash may be
//! older than the spool: [`SourceRecord::replay`] applies the items it doesn't know, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_engine::canary::CanaryForm;
use tidemark_format::heads::{BaseHead, BaseRef, EpochEnd, LogHead, PointHead};
use tidemark_format::{
    BaseNumber, Epoch, Hash, Incarnation, KeyId, LogSeq, PointSeq, RegionName, SourceName, WriterId,
};
use tidemark_host::files::{self, FileError};

use super::item::{Item, ItemHead};
use super::spool::Order;
use crate::ship::lane::Lane;

/// A file of the state directory could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// It can't be read as what it should be.
    #[error(
        "{} is damaged: the state of this agent is lost; if no other agent writes its sources, move the file away \
         and run `tidemark-agent take-over`",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        #[source]
        source: serde_json::Error,
    },
}

/// The end of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogTail {
    /// The next object's place.
    pub next: LogSeq,
    /// The link of the last object.
    pub link: Option<Hash>,
    /// The latest instant that stands in any object so far: nothing later says an earlier one.
    pub latest: Option<Timestamp>,
    /// The last object that can be restored to.
    pub restorable: Option<Restorable>,
    /// Records up to here are no longer needed by the engine.
    pub map_synced: Option<LogSeq>,
    /// Records of items before this one are no longer needed by the engine.
    #[serde(default)]
    pub synced_order: Order,
}

/// A log object that can be restored to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restorable {
    /// Its place.
    pub seq: LogSeq,
    /// Its link.
    pub link: Hash,
    /// Everything committed up to this instant is in the log up to it.
    pub committed: Timestamp,
}

/// The generation that is open.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// The object that opened it, or will.
    pub opened: LogSeq,
    /// When.
    pub at: Timestamp,
    /// The key of its page digests.
    #[serde(with = "hex_key")]
    pub digest_key: [u8; 32],
    /// The next base's place in it.
    pub next_base: BaseNumber,
    /// Who could open its first base; not known of a generation that an older program opened.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub readers: BTreeSet<KeyId>,
    /// It was opened because a region lacked what the bases before it build on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repairs: bool,
}

impl Generation {
    /// Whether one of `readers` can't open what this generation's bases build on.
    #[must_use]
    pub fn is_closed_to(&self, readers: &BTreeSet<KeyId>) -> bool {
        !self.readers.is_empty() && !readers.is_subset(&self.readers)
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("opened", &self.opened)
            .field("next_base", &self.next_base)
            .finish_non_exhaustive()
    }
}

/// The newest base that was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// What others name it by.
    pub reference: BaseRef,
    /// Where replay onto it starts.
    pub start: LogSeq,
    /// From where on it is usable.
    pub usable_from: LogSeq,
    /// When it was finished.
    pub finished_at: Timestamp,
}

/// The end of the points.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PointTail {
    /// The next point's place.
    pub next: PointSeq,
    /// The link of the last one.
    pub link: Option<Hash>,
    /// The log object that the last one covers.
    pub log_seq: Option<LogSeq>,
    /// When it was sealed.
    pub at: Option<Timestamp>,
}

/// A pause that a person asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when.
    pub since: Timestamp,
    /// Until when it was meant to last; past it the agent alerts and goes on.
    pub until: Timestamp,
    /// Why.
    pub reason: String,
}

/// A range that is being given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivingUp {
    /// Its first commit.
    pub since: Option<Timestamp>,
}

/// The last time that the log of a server did not go on where it was captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLost {
    /// When that was found.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// The life that began then has a base of its own.
    #[serde(default)]
    pub mended: bool,
}

/// The last canary that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryTail {
    /// How.
    pub form: CanaryForm,
    /// Its number.
    pub seq: u64,
    /// The instant in it.
    pub at: Timestamp,
}

/// Where a source stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// The source.
    pub source: SourceName,
    /// The writer's term.
    pub epoch: Epoch,
    /// Who claimed it: the state directory, or the new writer that a take-over made of it.
    pub writer: WriterId,
    /// For object 0 of every epoch but the first.
    pub follows: Option<EpochEnd>,
    /// The life of the source that is captured.
    pub incarnation: Option<Incarnation>,
    /// The next item's place in the spool.
    pub next_order: Order,
    /// The log.
    pub log: LogTail,
    /// The open generation.
    pub generation: Option<Generation>,
    /// The newest base.
    pub base: Option<Published>,
    /// The points.
    pub point: PointTail,
    /// Every region's lane.
    pub lanes: BTreeMap<RegionName, Lane>,
    /// Set while a person wants nothing shipped.
    #[serde(default)]
    pub paused: Option<Pause>,
    /// Set while what was shipped nowhere is being given up: whatever stands in the spool from
    /// `next_order` on is void, and a gap takes the log's next place.
    #[serde(default)]
    pub giving_up: Option<GivingUp>,
    /// Set once the source is retired: its last point is sealed and nothing is captured any more.
    #[serde(default)]
    pub retired: Option<Timestamp>,
    /// What could not be taken away at the database then, and how to do it by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_behind: Option<String>,
    /// The last time that the log of a server did not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_lost: Option<LogLost>,
    /// The last canary, while the database has something of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryTail>,
}

impl SourceRecord {
    /// The record of an epoch that was just claimed.
    #[must_use]
    pub fn claimed(
        source: SourceName,
        epoch: Epoch,
        writer: WriterId,
        follows: Option<EpochEnd>,
    ) -> Self {
        Self {
            source,
            epoch,
            writer,
            follows,
            incarnation: None,
            next_order: 0,
            log: LogTail::default(),
            generation: None,
            base: None,
            point: PointTail::default(),
            lanes: BTreeMap::new(),
            paused: None,
            giving_up: None,
            retired: None,
            left_behind: None,
            log_lost: None,
            canary: None,
        }
    }

    /// Reads the record; `None` if there is none.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn load(path: &Path) -> Result<Option<Self>, RecordError> {
        match files::read_text(path) {
            Ok(text) => {
                serde_json::from_str(&text)
                    .map(Some)
                    .map_err(|source| RecordError::Damaged {
                        path: path.to_owned(),
                        source,
                    })
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The bytes of the record's file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// `at`, or the latest instant that already stands in the log if the clock went back: times
    /// never decrease within an epoch.
    #[must_use]
    pub fn not_before_the_log(&self, at: Timestamp) -> Timestamp {
        self.log.latest.map_or(at, |latest| latest.max(at))
    }

    /// The lane of `region`, made when it is new: a region that is there at the epoch's beginning
    /// gets everything, one that comes later what follows.
    pub fn lane(&mut self, region: &RegionName) -> &mut Lane {
        let joining = if self.next_order == 0 {
            Lane::from_start()
        } else {
            let base = self.base.map(|base| base.reference);
            Lane::joining(self.next_order, self.log.next, base)
        };
        self.lanes.entry(region.clone()).or_insert(joining)
    }

    /// A log object or gap is in the spool.
    pub fn log_sealed(&mut self, head: &LogHead, link: Hash) {
        self.next_order = self.next_order.saturating_add(1);
        self.log.next = head.seq.next();
        self.log.link = Some(link);
        let times = [self.log.latest, head.last_commit, Some(head.captured_at)];
        self.log.latest = times.into_iter().flatten().max();
        if head.restorable {
            let before = self.log.restorable.map(|last| last.committed);
            let committed = complete_until(head);
            let committed = before.map_or(committed, |before| before.max(committed));
            self.log.restorable = Some(Restorable {
                seq: head.seq,
                link,
                committed,
            });
        }
    }

    /// A base is in the spool.
    pub fn base_sealed(&mut self, head: &BaseHead, link: Hash) {
        self.next_order = self.next_order.saturating_add(1);
        if let Some(generation) = &mut self.generation
            && generation.opened == head.generation
        {
            generation.next_base = head.number.next();
        }
        self.base = Some(Published {
            reference: head.reference(link),
            start: head.start,
            usable_from: head.usable_from,
            finished_at: head.finished_at,
        });
    }

    /// A point is in the spool.
    pub fn point_sealed(&mut self, head: &PointHead, link: Hash) {
        self.next_order = self.next_order.saturating_add(1);
        self.point = PointTail {
            next: head.seq.next(),
            link: Some(link),
            log_seq: Some(head.log_seq),
            at: Some(head.at),
        };
    }

    /// Applies an item of the spool that this record may not know yet. True if it was new.
    pub fn replay(&mut self, item: &Item, head: &ItemHead) -> bool {
        if item.order < self.next_order {
            return false;
        }
        if self.giving_up.is_some() {
            if !self.is_the_gap(item.order, head) {
                return false;
            }
            self.giving_up = None;
        }
        self.next_order = item.order;
        match head {
            ItemHead::Log(head) => self.log_sealed(head, item.link),
            ItemHead::Base(head) => self.base_sealed(head, item.link),
            ItemHead::Point(head) => self.point_sealed(head, item.link),
        }
        true
    }

    /// Whether an item is the gap that ends a giving up.
    fn is_the_gap(&self, order: Order, head: &ItemHead) -> bool {
        match head {
            ItemHead::Log(head) => {
                order == self.next_order
                    && head.gap.is_some()
                    && (head.seq, head.prev) == (self.log.next, self.log.link)
            }
            ItemHead::Base(_) | ItemHead::Point(_) => false,
        }
    }

    /// Everything from `from` on is given up, having been shipped nowhere: the log goes back to
    /// `last`, and a gap takes its next place. A new generation must follow, and a new base; points
    /// go on from `point`.
    pub fn roll_back(
        &mut self,
        from: Order,
        last: Option<(LogSeq, Hash)>,
        point: Option<PointTail>,
        since: Option<Timestamp>,
    ) {
        self.next_order = from;
        self.log.next = last.map_or(LogSeq(0), |(seq, _)| seq.next());
        self.log.link = last.map(|(_, link)| link);
        self.log.restorable = self.log.restorable.filter(|end| end.seq < self.log.next);
        self.log.map_synced = None;
        self.log.synced_order = from;
        self.generation = None;
        self.base = None;
        self.giving_up = Some(GivingUp { since });
        if let Some(point) = point {
            self.point = point;
        }
    }

    /// From here on no region was ever asked to create anything: the item at a lane's cursor may have
    /// been tried, and so may anything before `found`, where the spool ended when the process began.
    #[must_use]
    pub fn first_untried(&self, found: Order) -> Order {
        let lanes = self.lanes.values();
        let tried = lanes.map(|lane| lane.cursor.saturating_add(1)).max();
        tried.unwrap_or(0).max(found).min(self.next_order)
    }

    /// Items before this one are settled in every region that the config names.
    #[must_use]
    pub fn settled(&self) -> Order {
        self.lanes
            .values()
            .filter(|lane| !lane.parted)
            .map(|lane| lane.cursor)
            .min()
            .unwrap_or(0)
    }
}

/// Up to which instant everything committed is in the log up to this object: as the engine says, or
/// by its last commit; an object without one (it opens a generation) holds all up to its capture.
fn complete_until(head: &LogHead) -> Timestamp {
    let said = head
        .facts
        .get(tidemark_engine::COMPLETE_UNTIL)
        .and_then(|fact| fact.as_str());
    let said = said.and_then(|text| text.parse().ok());
    said.or(head.last_commit).unwrap_or(head.captured_at)
}

mod hex_key {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};
    use tidemark_format::Hash;

    pub(super) fn serialize<S: Serializer>(key: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&Hash(*key))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        text.parse::<Hash>()
            .map(|hash| hash.0)
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use tidemark_format::{ObjectId, PutId, RepoId};

    use super::*;

    fn record() -> SourceRecord {
        SourceRecord::claimed(
            SourceName::new("app").unwrap(),
            Epoch(1),
            WriterId([1; 16]),
            None,
        )
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn log(seq: u64, last_commit: Option<Timestamp>, restorable: bool) -> LogHead {
        LogHead {
            repo: RepoId([0; 16]),
            source: SourceName::new("app").unwrap(),
            engine: "sqlite".into(),
            incarnation: Incarnation([0; 16]),
            epoch: Epoch(1),
            seq: LogSeq(seq),
            put: PutId([0; 16]),
            prev: None,
            follows: None,
            generation: LogSeq(0),
            restorable,
            transactions: 0,
            first_commit: last_commit,
            last_commit,
            captured_at: last_commit.unwrap_or_else(|| at(5)),
            gap: None,
            session: None,
            object: Some(ObjectId([0; 16])),
            facts: BTreeMap::new(),
            body_len: 0,
            body_hash: Hash::of(&[]),
        }
    }

    #[test]
    fn a_generation_is_closed_to_a_recipient_that_was_added_since_and_to_no_other() {
        let keys = |all: &[u8]| {
            all.iter()
                .map(|id| KeyId([*id; 16]))
                .collect::<BTreeSet<_>>()
        };
        let mut open = Generation {
            readers: keys(&[1, 2]),
            repairs: false,
            opened: LogSeq(0),
            at: Timestamp::UNIX_EPOCH,
            digest_key: [7; 32],
            next_base: BaseNumber(1),
        };
        assert!(open.is_closed_to(&keys(&[1, 2, 3])));
        assert!(!open.is_closed_to(&keys(&[1, 2])));
        assert!(!open.is_closed_to(&keys(&[2])));
        // Opened by an older program, which didn't say.
        open.readers = BTreeSet::new();
        assert!(!open.is_closed_to(&keys(&[3])));
    }

    #[test]
    fn a_record_reads_back() {
        let mut record = record();
        record.generation = Some(Generation {
            readers: BTreeSet::new(),
            repairs: false,
            opened: LogSeq(0),
            at: at(1),
            digest_key: [7; 32],
            next_base: BaseNumber(0),
        });
        record.lane(&RegionName::new("a").unwrap());
        record.log_sealed(&log(0, Some(at(9)), true), Hash::of(b"0"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        assert_eq!(SourceRecord::load(&path).unwrap(), None);
        std::fs::write(&path, record.to_bytes()).unwrap();
        assert_eq!(SourceRecord::load(&path).unwrap(), Some(record));
        std::fs::write(&path, b"{").unwrap();
        assert!(matches!(
            SourceRecord::load(&path),
            Err(RecordError::Damaged { .. })
        ));
    }

    #[test]
    fn only_the_last_piece_of_a_change_can_be_restored_to() {
        let mut record = record();
        record.log_sealed(&log(0, Some(at(10)), true), Hash::of(b"0"));
        record.log_sealed(&log(1, None, false), Hash::of(b"1"));
        assert_eq!(record.log.restorable.map(|last| last.seq), Some(LogSeq(0)));
        assert_eq!((record.log.next, record.next_order), (LogSeq(2), 2));
        record.log_sealed(&log(2, Some(at(11)), true), Hash::of(b"2"));
        assert_eq!(
            record.log.restorable.map(|last| last.committed),
            Some(at(11))
        );
    }

    #[test]
    fn an_engine_that_says_up_to_where_it_is_complete_is_believed() {
        let mut record = record();
        let mut head = log(0, Some(at(100)), true);
        head.facts.insert(
            tidemark_engine::COMPLETE_UNTIL.to_owned(),
            at(99).to_string().into(),
        );
        record.log_sealed(&head, Hash::of(b"0"));
        assert_eq!(
            record.log.restorable.map(|last| last.committed),
            Some(at(99))
        );
    }

    #[test]
    fn a_clock_that_steps_back_does_not_take_the_log_with_it() {
        let mut record = record();
        record.log_sealed(&log(0, Some(at(100)), true), Hash::of(b"0"));
        assert_eq!(record.not_before_the_log(at(50)), at(100));
        record.log_sealed(&log(1, Some(at(60)), true), Hash::of(b"1"));
        assert_eq!(record.log.latest, Some(at(100)));
        assert_eq!(
            record.log.restorable.map(|last| last.committed),
            Some(at(100))
        );
    }

    #[test]
    fn a_region_of_the_first_hour_gets_everything_and_a_late_one_what_follows() {
        let mut record = record();
        assert_eq!(record.lane(&RegionName::new("a").unwrap()).cursor, 0);
        record.log_sealed(&log(0, Some(at(1)), true), Hash::of(b"0"));
        assert_eq!(record.lane(&RegionName::new("b").unwrap()).cursor, 1);
        assert_eq!(record.settled(), 0);
    }
}
