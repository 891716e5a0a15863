//! Beats of long ago: what says that nothing was committed while nothing was shipped.
//!
//! An agent beats once a minute, so a month has 43,200 beats of each. Where a time without log is to be
//! explained, the beats in it are found by bisection and only as many are read as explain it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;
use tidemark_format::heads::{BeatHead, Role};
use tidemark_format::sign::PublicKey;
use tidemark_format::{Epoch, LogSeq, SourceName, keys};
use tidemark_ledger::timeline::Timeline;
use tidemark_ledger::{Keyring, list_all, read_verified};
use tidemark_storage::{ListEntry, ReadStore};

use crate::error::Result;
use crate::repository::Repository;

/// Beats read for one time that is to be explained: a month without a commit, five minutes apart, are 16,384.
const READ_MAX: usize = 20_000;
/// Beats read at once.
const AT_ONCE: usize = 32;

/// What a beat says of a source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    pub(super) number: u64,
    pub(super) at: Timestamp,
    pub(super) caught_up_at: Timestamp,
    pub(super) epoch: Epoch,
    pub(super) log_seq: LogSeq,
}

/// The beats of the agents that wrote a source.
pub(super) struct Book {
    source: SourceName,
    keyring: Arc<Keyring>,
    writers: BTreeMap<Epoch, PublicKey>,
    shelves: Vec<Shelf>,
}

/// One agent's beats in one region, the oldest first.
struct Shelf {
    signer: PublicKey,
    store: Arc<dyn ReadStore>,
    entries: Vec<(u64, ListEntry)>,
    read: BTreeMap<usize, Option<BeatHead>>,
}

impl Book {
    /// Lists them, in the region that has most.
    ///
    /// # Errors
    /// A region stops answering.
    pub(super) async fn open(repository: &Repository, timeline: &Timeline) -> Result<Self> {
        let mut writers = BTreeMap::new();
        for (_, history) in timeline.histories() {
            for epoch in history.epochs() {
                let signer = epoch.claim.as_ref().map(|claim| claim.signer);
                writers.extend(signer.map(|signer| (epoch.epoch, signer)));
            }
        }
        let mut signers: Vec<PublicKey> = writers.values().copied().collect();
        signers.sort_unstable();
        signers.dedup();
        let mut shelves = Vec::new();
        for signer in signers {
            let mut best: Option<Shelf> = None;
            for region in &repository.regions {
                let listed =
                    list_all(region.store.read.as_ref(), &keys::beats(signer.id())).await?;
                if best
                    .as_ref()
                    .is_some_and(|best| best.entries.len() >= listed.len())
                {
                    continue;
                }
                let mut entries: Vec<(u64, ListEntry)> = listed
                    .into_iter()
                    .filter_map(|entry| Some((keys::beat_number(&entry.key)?, entry)))
                    .collect();
                entries.sort_by_key(|(number, _)| *number);
                best = Some(Shelf {
                    signer,
                    store: Arc::clone(&region.store.read),
                    entries,
                    read: BTreeMap::new(),
                });
            }
            shelves.extend(best);
        }
        Ok(Self {
            source: timeline.source().clone(),
            keyring: Arc::clone(&repository.keyring),
            writers,
            shelves,
        })
    }

    /// What beats say of the time between two instants, close enough for exposures of `finest`.
    ///
    /// # Errors
    /// A region stops answering.
    pub(super) async fn between(
        &mut self,
        from: Timestamp,
        to: Timestamp,
        finest: Duration,
    ) -> Result<Vec<Said>> {
        let mut all = Vec::new();
        for shelf in &mut self.shelves {
            let keyring = &self.keyring;
            let first = shelf.first_at(from, keyring).await?;
            let last = shelf
                .first_at(to, keyring)
                .await?
                .saturating_add(1)
                .min(shelf.entries.len());
            let read = shelf.spread((first, last), finest, keyring).await?;
            let heads = read.iter().filter_map(|at| shelf.read.get(at)?.as_ref());
            let own = |epoch: Epoch| self.writers.get(&epoch) == Some(&shelf.signer);
            all.extend(heads.filter_map(|head| said(head, &self.source, own)));
        }
        Ok(all)
    }
}

/// What a beat says of a source, of an epoch that its own agent wrote.
fn said(head: &BeatHead, source: &SourceName, is_own: impl Fn(Epoch) -> bool) -> Option<Said> {
    let mut sources = head.sources.iter();
    let own = sources.find(|one| one.source == *source && is_own(one.epoch))?;
    Some(Said {
        number: head.number,
        at: head.at,
        caught_up_at: own.caught_up_at?,
        epoch: own.epoch,
        log_seq: own.log_seq?,
    })
}

impl Shelf {
    /// The first beat made at or after an instant; past the end if there is none.
    async fn first_at(&mut self, instant: Timestamp, keyring: &Keyring) -> Result<usize> {
        let (mut low, mut high) = (0, self.entries.len());
        while low < high {
            let middle = low.saturating_add(high) / 2;
            self.read_all(&[middle], keyring).await?;
            let at = self
                .read
                .get(&middle)
                .and_then(Option::as_ref)
                .map(|head| head.at);
            // One that is damaged is taken for early: the search then ends beside it.
            if at.is_none_or(|at| at < instant) {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        // The one before covers the beginning.
        Ok(low.saturating_sub(1))
    }

    /// Reads beats of a range until none are further apart than exposures of `finest` allow, or none are
    /// left between them; gives those that were read.
    async fn spread(
        &mut self,
        (first, last): (usize, usize),
        finest: Duration,
        keyring: &Keyring,
    ) -> Result<Vec<usize>> {
        let mut known: Vec<usize> = [first, last.saturating_sub(1)].into();
        known.retain(|at| (first..last).contains(at));
        known.dedup();
        self.read_all(&known, keyring).await?;
        loop {
            let between: Vec<usize> = known
                .iter()
                .zip(known.iter().skip(1))
                .filter(|(one, other)| self.are_apart(**one, **other, finest))
                .map(|(one, other)| one.midpoint(*other))
                .collect();
            if between.is_empty() || known.len().saturating_add(between.len()) > READ_MAX {
                return Ok(known);
            }
            self.read_all(&between, keyring).await?;
            known.extend(between);
            known.sort_unstable();
        }
    }

    /// Whether there are beats between two that are so far apart; a damaged one says nothing.
    fn are_apart(&self, one: usize, other: usize, finest: Duration) -> bool {
        let at = |index: usize| {
            self.read
                .get(&index)
                .and_then(Option::as_ref)
                .map(|head| head.at)
        };
        let time = at(one)
            .zip(at(other))
            .map(|(from, to)| to.duration_since(from));
        let time = time.and_then(|time| Duration::try_from(time).ok());
        // A beat says "caught up" of a moment before it was made.
        let near = time.is_some_and(|time| time < finest / 10 * 9);
        other > one.saturating_add(1) && !near
    }

    /// Reads those that are not known yet.
    async fn read_all(&mut self, wanted: &[usize], keyring: &Keyring) -> Result<()> {
        let store = Arc::clone(&self.store);
        let unknown = wanted.iter().filter(|at| !self.read.contains_key(at));
        let unknown: Vec<(usize, ListEntry)> = unknown
            .filter_map(|at| Some((*at, self.entries.get(*at)?.1.clone())))
            .collect();
        let reads = unknown.into_iter().map(|(at, entry)| {
            let store = Arc::clone(&store);
            async move {
                let read =
                    read_verified::<BeatHead>(store.as_ref(), &entry.key, Some(entry.size)).await;
                (at, read)
            }
        });
        let mut reads = stream::iter(reads).buffer_unordered(AT_ONCE);
        while let Some((at, read)) = reads.next().await {
            let head = match read {
                Ok(beat) => keyring
                    .accept(&beat, &[Role::Agent])
                    .is_ok()
                    .then_some(beat.head),
                Err(error) if error.is_about_the_object() => None,
                Err(error) => return Err(error.into()),
            };
            self.read.insert(at, head);
        }
        Ok(())
    }
}
