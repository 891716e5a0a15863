//! A source's history as one region shows it.
//!
//! Loading lists the source's names once and reads the heads of claims, recovery points and bases;
//! the log's heads are read when asked for ([`SourceHistory::log`]). Only what counts is shown: the
//! epochs on the chain, each up to its end, and points and bases whose log is on it. The rest
//! stands in [`SourceHistory::troubles`], with its reason.
//!
//! **Failure:** a region that can't be reached or refuses to answer is an error of the load. An
//! object that is there and wrong is a trouble, so that one damaged object hides nothing else.

mod anchored;
mod beats;
pub mod chain;
mod freshness;
mod heads;
mod load;
mod points;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tidemark_format::heads::{BaseHead, BaseRef, ClaimHead, EpochEnd, FenceHead, PointHead};
use tidemark_format::{Epoch, Key, LogSeq, SourceName};
use tidemark_storage::ReadStore;

pub use beats::{AgentBeat, Beats, CaughtUp};
pub use chain::Standing;
pub use freshness::{Expect, Freshness, Older, Tip};
pub use heads::{Hole, HoleKind, LogEntry, LogState, holes};
pub use load::{LoadOptions, PointsWanted, whole_chains};

use crate::object::Verified;
use crate::{Keyring, LedgerError};

/// Something in this region that does not count, and why.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// The object, or where one is missing.
    pub key: String,
    /// What is wrong.
    pub error: Arc<LedgerError>,
}

/// A name of the log, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogName {
    /// Where it stands: under its own name, or a late one that repair gave it past a fence.
    pub key: Key,
    /// Bytes.
    pub size: u64,
}

/// A run of sequences that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingRun {
    /// The epoch.
    pub epoch: Epoch,
    /// The first that is missing.
    pub first: LogSeq,
    /// The last that is missing.
    pub last: LogSeq,
}

/// One epoch of a source.
#[derive(Debug, Clone)]
pub struct EpochHistory {
    /// The epoch.
    pub epoch: Epoch,
    /// Who claimed it, if the claim is here and good.
    pub claim: Option<Verified<ClaimHead>>,
    /// Where it stands on the chain.
    pub standing: Standing,
    /// The fence in its log here.
    pub fence: Option<Verified<FenceHead>>,
    /// Where the epoch before ended, as object 0 says; `None` when that can't be read here.
    pub object_zero: Option<Option<EpochEnd>>,
    /// Its log objects' names that count.
    pub names: BTreeMap<LogSeq, LogName>,
    /// Log objects past the end: void.
    pub void: BTreeMap<LogSeq, LogName>,
    /// Its recovery points that count, oldest first.
    pub points: Vec<Verified<PointHead>>,
    /// Its bases that count, by generation and number.
    pub bases: Vec<Verified<BaseHead>>,
    /// Bases that build on one that is not here, or not the one they name: another region may have it.
    pub orphans: Vec<Verified<BaseHead>>,
    /// Recovery points past the end: void.
    pub void_points: Vec<Verified<PointHead>>,
    /// Bases past the end: void.
    pub void_bases: Vec<Verified<BaseHead>>,
    /// The same of those that build on one that is not here.
    pub void_orphans: Vec<Verified<BaseHead>>,
    /// Whether its object 0 is one that a revoked key wrote afterwards: such an epoch ends nothing.
    forged: bool,
}

impl EpochHistory {
    /// The first sequence that is here.
    #[must_use]
    pub fn first_seq(&self) -> LogSeq {
        self.names.keys().next().copied().unwrap_or_default()
    }

    /// The sequence after the last that counts: of those here, or of the epoch's end or newest
    /// recovery point where that is further (what is missing before it is missing, not absent).
    #[must_use]
    pub fn next_seq(&self) -> LogSeq {
        let here = self.names.keys().next_back().map(|last| last.next());
        let sealed = self.points.last().map(|point| point.head.log_seq.next());
        let ended = match self.standing {
            Standing::Ended { last, .. } => Some(last.next()),
            Standing::Live | Standing::Claimed | Standing::EndUnknown { .. } | Standing::Void => {
                None
            }
        };
        here.max(sealed).max(ended).unwrap_or_default()
    }

    /// The first sequence from `from` on that is not here.
    #[must_use]
    pub fn dense_end(&self, from: LogSeq) -> LogSeq {
        let mut next = from;
        for seq in self.names.range(from..).map(|(seq, _)| *seq) {
            if seq != next {
                break;
            }
            next = next.next();
        }
        next
    }

    /// Runs that are missing between the first name here and the end. What retention deleted
    /// before the first is not missing.
    #[must_use]
    pub fn missing(&self) -> Vec<MissingRun> {
        let mut runs = Vec::new();
        let mut next = self.first_seq();
        let ends = self.names.keys().copied().chain([self.next_seq()]);
        for seq in ends {
            if let Some(last) = seq.previous().filter(|_| seq > next) {
                runs.push(MissingRun {
                    epoch: self.epoch,
                    first: next,
                    last,
                });
            }
            next = seq.next();
        }
        runs
    }

    /// Names past the newest recovery point that the chain does not reach, because one before them
    /// is missing.
    #[must_use]
    pub fn stray(&self) -> Vec<LogSeq> {
        let sealed = self.points.last().map(|point| point.head.log_seq.next());
        let end = self.dense_end(sealed.unwrap_or_else(|| self.first_seq()));
        self.names.range(end..).map(|(seq, _)| *seq).collect()
    }

    /// The base that a reference names.
    #[must_use]
    pub fn base(&self, wanted: &BaseRef) -> Option<&Verified<BaseHead>> {
        self.bases
            .iter()
            .find(|base| base.head.reference(base.link) == *wanted)
    }
}

/// A source's history in one region.
pub struct SourceHistory {
    source: SourceName,
    store: Arc<dyn ReadStore>,
    keyring: Arc<Keyring>,
    epochs: BTreeMap<Epoch, EpochHistory>,
    troubles: Vec<Trouble>,
    caught_up: Option<CaughtUp>,
    heads: Mutex<BTreeMap<(Epoch, LogSeq), LogState>>,
}

impl fmt::Debug for SourceHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceHistory")
            .field("source", &self.source)
            .field("epochs", &self.epochs.keys())
            .field("troubles", &self.troubles.len())
            .finish_non_exhaustive()
    }
}

impl SourceHistory {
    /// The source.
    #[must_use]
    pub const fn source(&self) -> &SourceName {
        &self.source
    }

    /// Every epoch here, those that don't count included.
    pub fn all_epochs(&self) -> impl DoubleEndedIterator<Item = &EpochHistory> {
        self.epochs.values()
    }

    /// The epochs on the chain, oldest first.
    pub fn epochs(&self) -> impl DoubleEndedIterator<Item = &EpochHistory> {
        self.epochs.values().filter(|epoch| match epoch.standing {
            Standing::Live | Standing::Ended { .. } | Standing::EndUnknown { .. } => true,
            Standing::Claimed | Standing::Void => false,
        })
    }

    /// An epoch.
    #[must_use]
    pub fn epoch(&self, epoch: Epoch) -> Option<&EpochHistory> {
        self.epochs.get(&epoch)
    }

    /// The newest epoch that has a log.
    #[must_use]
    pub fn newest(&self) -> Option<&EpochHistory> {
        self.epochs().next_back()
    }

    /// The newest recovery point.
    #[must_use]
    pub fn newest_point(&self) -> Option<&Verified<PointHead>> {
        self.epochs().rev().find_map(|epoch| epoch.points.last())
    }

    /// What does not count, and why.
    #[must_use]
    pub fn troubles(&self) -> &[Trouble] {
        &self.troubles
    }

    /// What the newest beat says of this source, if it counts: of the newest epoch, by its writer,
    /// about a log object that is here.
    #[must_use]
    pub const fn caught_up(&self) -> Option<&CaughtUp> {
        self.caught_up.as_ref()
    }

    /// Missing sequences of all epochs on the chain.
    #[must_use]
    pub fn missing(&self) -> Vec<MissingRun> {
        self.epochs().flat_map(EpochHistory::missing).collect()
    }

    /// How new this region is, to be compared with others.
    #[must_use]
    pub fn tip(&self) -> Option<Tip> {
        let newest = self.newest_point()?;
        Some(Tip {
            epoch: newest.head.epoch,
            point: newest.head.seq,
            link: newest.link,
            log_seq: newest.head.log_seq,
            committed: newest.head.committed,
        })
    }

    fn cached(&self, epoch: Epoch, seq: LogSeq) -> Option<LogState> {
        // A panic of another thread leaves the map whole: every change is one statement.
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.get(&(epoch, seq)).cloned()
    }

    fn remember(&self, epoch: Epoch, seq: LogSeq, state: &LogState) {
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.insert((epoch, seq), state.clone());
    }

    fn trouble(&mut self, key: impl ToString, error: LedgerError) {
        self.troubles.push(Trouble {
            key: key.to_string(),
            error: Arc::new(error),
        });
    }
}
