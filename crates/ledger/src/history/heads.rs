//! Heads of log objects, read by their first bytes and only when asked for.
//!
//! Every head is checked for structure, signature, role and place, its size against the listing,
//! and its link against its neighbours. What fails is a [`LogState::Damaged`] with the reason, never
//! left out.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use tidemark_format::heads::{FenceHead, LogHead, Role};
use tidemark_format::{Epoch, Hash, Key, LogSeq};
use tidemark_storage::ErrorKind;

use super::{EpochHistory, SourceHistory, Standing};
use crate::object::Verified;
use crate::read::{check_size, head_bytes, verify_head};
use crate::{LedgerError, Result};

/// Requests under way at once while heads are read.
pub(super) const HEADS_IN_FLIGHT: usize = 32;

/// What stands at one place of the log.
#[derive(Debug, Clone)]
pub enum LogState {
    /// A log object (a gap object if its head says so).
    Object(Arc<Verified<LogHead>>),
    /// Nothing.
    Missing,
    /// Something that can't be believed.
    Damaged(Arc<LedgerError>),
}

impl LogState {
    /// The object, if it is one.
    #[must_use]
    pub fn object(&self) -> Option<&Verified<LogHead>> {
        match self {
            Self::Object(object) => Some(object),
            Self::Missing | Self::Damaged(_) => None,
        }
    }
}

/// One place of the log.
#[derive(Debug, Clone)]
pub struct LogEntry {
    /// The place.
    pub seq: LogSeq,
    /// What stands there.
    pub state: LogState,
}

/// Why a run of the log can't be replayed.
#[derive(Debug, Clone)]
pub enum HoleKind {
    /// Nothing is there.
    Missing,
    /// A signed gap: shipped nowhere, and why.
    Gap(String),
    /// What is there can't be believed.
    Damaged(Arc<LedgerError>),
}

/// A run of the log that can't be replayed. A signed gap or a damaged object is a run of one.
#[derive(Debug, Clone)]
pub struct Hole {
    /// The epoch.
    pub epoch: Epoch,
    /// The first place.
    pub first: LogSeq,
    /// The last.
    pub last: LogSeq,
    /// Why.
    pub kind: HoleKind,
}

/// The holes among `entries` of one epoch's log.
#[must_use]
pub fn holes(epoch: Epoch, entries: &[LogEntry]) -> Vec<Hole> {
    let mut holes: Vec<Hole> = Vec::new();
    for entry in entries {
        let kind = match &entry.state {
            LogState::Object(object) => match &object.head.gap {
                None => continue,
                Some(gap) => HoleKind::Gap(gap.reason.clone()),
            },
            LogState::Damaged(error) => HoleKind::Damaged(Arc::clone(error)),
            LogState::Missing => HoleKind::Missing,
        };
        match holes.last_mut() {
            Some(Hole {
                last,
                kind: HoleKind::Missing,
                ..
            }) if matches!(kind, HoleKind::Missing) && last.next() == entry.seq => {
                *last = entry.seq;
            }
            Some(_) | None => {
                holes.push(Hole {
                    epoch,
                    first: entry.seq,
                    last: entry.seq,
                    kind,
                });
            }
        }
    }
    holes
}

/// What a dense name of the log holds.
#[derive(Debug, Clone)]
pub(super) enum AtName {
    Log(Box<Verified<LogHead>>),
    Fence(Box<Verified<FenceHead>>),
}

impl SourceHistory {
    /// The log of `epoch` over `range`, one entry for each sequence, links checked. Sequences past
    /// the epoch's end are left out.
    ///
    /// # Errors
    /// The region's. What is wrong with an object stands in its entry.
    pub async fn log(&self, epoch: Epoch, range: Range<LogSeq>) -> Result<Vec<LogEntry>> {
        let Some(history) = self.epochs.get(&epoch) else {
            return Ok(Vec::new());
        };
        let end = history.next_seq().min(range.end);
        let mut entries = self.raw(history, range.start, end).await?;
        let anchor = self.anchor_past(history, &entries);
        if let Some(anchor) = anchor.filter(|anchor| anchor.next() > end) {
            entries.extend(self.raw(history, end, anchor.next()).await?);
        }
        self.check_links(history, &mut entries);
        self.refuse_past_anchors(history, &mut entries).await?;
        entries.truncate(span(range.start, end));
        Ok(entries)
    }

    /// The whole log of `epoch` that counts.
    ///
    /// # Errors
    /// The region's.
    pub async fn whole_log(&self, epoch: Epoch) -> Result<Vec<LogEntry>> {
        let Some(history) = self.epochs.get(&epoch) else {
            return Ok(Vec::new());
        };
        self.log(epoch, history.first_seq()..history.next_seq())
            .await
    }

    /// The unsealed tail of the newest epoch: signed, linked objects past the newest recovery
    /// point, up to the first that is missing or damaged.
    ///
    /// # Errors
    /// The region's.
    pub async fn tail(&self) -> Result<Vec<LogEntry>> {
        let Some(history) = self.newest() else {
            return Ok(Vec::new());
        };
        let sealed = history.points.last().map(|point| point.head.log_seq);
        let start = sealed.map_or_else(|| history.first_seq(), LogSeq::next);
        // One before the start, so that the first one's link is checked too.
        let from = start.previous().unwrap_or(start);
        let end = history.dense_end(start);
        let mut entries = self.log(history.epoch, from..end).await?;
        entries.retain(|entry| entry.seq >= start);
        let whole = entries
            .iter()
            .position(|entry| entry.state.object().is_none());
        entries.truncate(whole.unwrap_or(entries.len()));
        Ok(entries)
    }

    /// Heads without their links checked, from the cache where they are known.
    async fn raw(
        &self,
        history: &EpochHistory,
        start: LogSeq,
        end: LogSeq,
    ) -> Result<Vec<LogEntry>> {
        let wanted = (start.0..end.0).map(LogSeq);
        let reads = stream::iter(wanted).map(|seq| async move {
            let state = self.state_at(history, seq).await?;
            Ok(LogEntry { seq, state })
        });
        let read: Vec<Result<LogEntry>> = reads.buffered(HEADS_IN_FLIGHT).collect().await;
        read.into_iter().collect()
    }

    pub(super) async fn state_at(&self, history: &EpochHistory, seq: LogSeq) -> Result<LogState> {
        if let Some(known) = self.cached(history.epoch, seq) {
            return Ok(known);
        }
        let Some(name) = history.names.get(&seq) else {
            return Ok(LogState::Missing);
        };
        let state = match self.read_name(&name.key, Some(name.size)).await {
            Ok(AtName::Log(object)) => LogState::Object(Arc::new(*object)),
            Ok(AtName::Fence(fence)) => LogState::Damaged(Arc::new(LedgerError::Chain {
                key: fence.key.to_string(),
                why: "a fence stands where the chain goes on".to_owned(),
            })),
            Err(error) if is_missing(&error) => LogState::Missing,
            Err(error) if error.is_about_the_object() => LogState::Damaged(Arc::new(error)),
            Err(error) => return Err(error),
        };
        self.remember(history.epoch, seq, &state);
        Ok(state)
    }

    /// Reads what stands at a dense name of the log.
    pub(super) async fn read_name(&self, key: &Key, listed: Option<u64>) -> Result<AtName> {
        let bytes = head_bytes(self.store.as_ref(), key).await?;
        match verify_head::<LogHead>(key, &bytes, None) {
            Ok(object) => {
                // Before the size: that one is cut says something of the log only if it is ours.
                self.keyring.accept(&object, &[Role::Agent])?;
                check_size(&object, listed)?;
                Ok(AtName::Log(Box::new(object)))
            }
            Err(LedgerError::Format {
                source: tidemark_format::FormatError::Kind { .. },
                ..
            }) => {
                let fence = verify_head::<FenceHead>(key, &bytes, listed)?;
                self.keyring.accept(&fence, &[Role::Agent, Role::Keeper])?;
                Ok(AtName::Fence(Box::new(fence)))
            }
            Err(error) => Err(error),
        }
    }

    /// The furthest anchor that revoked signers among `entries` must be linked to.
    fn anchor_past(&self, history: &EpochHistory, entries: &[LogEntry]) -> Option<LogSeq> {
        let objects = entries.iter().filter_map(|entry| entry.state.object());
        let anchors = objects.filter_map(|object| {
            let all = self
                .keyring
                .log_anchors(&object.signer, &self.source, history.epoch);
            all.map(|last| last.seq).max()
        });
        anchors.max()
    }

    fn check_links(&self, history: &EpochHistory, entries: &mut [LogEntry]) {
        let mut expected = expected_links(history);
        let signers = entries.iter().filter_map(|entry| entry.state.object());
        for object in signers {
            let anchors = self
                .keyring
                .log_anchors(&object.signer, &self.source, history.epoch);
            expected.extend(anchors.map(|last| (last.seq, last.link)));
        }
        let mut before: Option<(LogSeq, Hash)> = None;
        for entry in entries {
            let LogState::Object(object) = &entry.state else {
                before = None;
                continue;
            };
            let link = object.link;
            let why = broken(object, before, expected.get(&entry.seq).copied());
            before = Some((entry.seq, link));
            if let Some(why) = why {
                let key = object.key.to_string();
                entry.state = LogState::Damaged(Arc::new(LedgerError::Chain { key, why }));
            }
        }
    }
}

/// Links that others name: recovery points, bases, and the next epoch's first object.
fn expected_links(history: &EpochHistory) -> BTreeMap<LogSeq, Hash> {
    let points = history
        .points
        .iter()
        .map(|point| (point.head.log_seq, point.head.log_link));
    let bases = history
        .bases
        .iter()
        .map(|base| (base.head.usable_from, base.head.usable_link));
    let mut expected: BTreeMap<LogSeq, Hash> = bases.chain(points).collect();
    if let Standing::Ended {
        last,
        link: Some(link),
        ..
    } = &history.standing
    {
        expected.insert(*last, *link);
    }
    expected
}

fn broken(
    object: &Verified<LogHead>,
    before: Option<(LogSeq, Hash)>,
    expected: Option<Hash>,
) -> Option<String> {
    let seq = object.head.seq;
    if expected.is_some_and(|link| link != object.link) {
        return Some("it is not the object that a recovery point, a base, the next epoch or the keyring names".to_owned());
    }
    match (before, object.head.prev) {
        (Some((_, link)), Some(prev)) if link == prev => None,
        (Some((place, _)), _) => Some(format!("it does not follow the object {place} before it")),
        (None, None) if seq == LogSeq(0) => None,
        (None, None) => Some("it names no object before it".to_owned()),
        (None, Some(_)) if seq == LogSeq(0) => {
            Some("it is the first of its epoch and names one before it".to_owned())
        }
        (None, Some(_)) => None,
    }
}

fn is_missing(error: &LedgerError) -> bool {
    matches!(error, LedgerError::Storage(error) if error.kind() == ErrorKind::Missing)
}

fn span(start: LogSeq, end: LogSeq) -> usize {
    usize::try_from(end.0.saturating_sub(start.0)).unwrap_or(usize::MAX)
}
