//! Loading a source's history from one region, and settling several regions' together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt as _};
use tidemark_format::heads::{BaseHead, ClaimHead, PointHead, Role};
use tidemark_format::{Epoch, LogSeq, PointSeq, SourceName, keys};
use tidemark_storage::{ListEntry, ReadStore};

use super::beats::Beats;
use super::chain::{EpochSigns, Standing, standings};
use super::heads::{AtName, HEADS_IN_FLIGHT, LogState};
use super::{EpochHistory, LogName, SourceHistory};
use crate::object::{Placed, Verified};
use crate::read::{claim_name, list_all, read_verified, source_names};
use crate::{Keyring, LedgerError, Result};

/// How many recovery points to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PointsWanted {
    /// All: for lists, plans and verification.
    #[default]
    All,
    /// The newest few of each epoch: for status and freshness.
    Newest(usize),
}

impl PointsWanted {
    /// For an overview that people wait for: a day of them. Each costs a request, and a month has 8,640;
    /// of an older window they tell no more than how long nothing was committed after its end.
    pub const OVERVIEW: Self = Self::Newest(288);
}

/// What to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// Recovery points.
    pub points: PointsWanted,
}

/// A source's names, as listed.
struct Listing {
    claims: Vec<ListEntry>,
    log: Vec<ListEntry>,
    late: Vec<ListEntry>,
    points: Vec<ListEntry>,
    bases: Vec<ListEntry>,
}

impl Listing {
    async fn read(store: &dyn ReadStore, source: &SourceName) -> Result<Self> {
        let [log, late, points, bases] = keys::all_epochs(source);
        let prefixes = [keys::claims(source), log, late, points, bases];
        let all = try_join_all(prefixes.iter().map(|prefix| list_all(store, prefix))).await?;
        let mut all = all.into_iter();
        let mut next = || all.next().unwrap_or_default();
        Ok(Self {
            claims: next(),
            log: next(),
            late: next(),
            points: next(),
            bases: next(),
        })
    }

    fn is_empty(&self) -> bool {
        let parts = [&self.claims, &self.log, &self.points, &self.bases];
        parts.into_iter().all(Vec::is_empty)
    }
}

impl SourceHistory {
    /// Loads what one region shows of `source`. The log's heads are read later, when asked for.
    ///
    /// # Errors
    /// [`LedgerError::UnknownSource`], or the region's.
    pub async fn load(
        store: Arc<dyn ReadStore>,
        keyring: Arc<Keyring>,
        source: &SourceName,
        beats: &Beats,
        options: &LoadOptions,
    ) -> Result<Self> {
        let listing = Listing::read(store.as_ref(), source).await?;
        if listing.is_empty() {
            let known = source_names(store.as_ref()).await?;
            let names: Vec<&str> = known.iter().map(SourceName::as_str).collect();
            let known = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            };
            return Err(LedgerError::UnknownSource {
                source_name: source.clone(),
                known,
            });
        }
        let mut history = Self {
            source: source.clone(),
            store,
            keyring,
            epochs: BTreeMap::new(),
            troubles: Vec::new(),
            caught_up: None,
            heads: Mutex::new(BTreeMap::new()),
        };
        history.take_names(&listing);
        history.read_claims(&listing.claims).await?;
        history.read_ends().await?;
        history.read_points(&listing.points, options.points).await?;
        history.read_bases(&listing.bases).await?;
        history.miss_claims(&listing.claims).await;
        let signs = history.signs();
        history.apply(&standings(&signs));
        history.apply_beats(beats).await?;
        Ok(history)
    }

    /// Settles where epochs ended from what several regions show: to be called once all are
    /// loaded, for one region may lack the object that says so.
    pub fn settle(histories: &mut [Self]) {
        let mut signs: BTreeMap<Epoch, EpochSigns> = BTreeMap::new();
        for history in &*histories {
            for (epoch, shown) in history.signs() {
                signs.entry(epoch).or_default().merge(&shown);
            }
        }
        let standings = standings(&signs);
        for history in histories {
            history.apply(&standings);
        }
    }

    fn entry(&mut self, epoch: Epoch) -> &mut EpochHistory {
        self.epochs.entry(epoch).or_insert_with(|| EpochHistory {
            epoch,
            claim: None,
            standing: Standing::Claimed,
            fence: None,
            object_zero: None,
            names: BTreeMap::new(),
            void: BTreeMap::new(),
            points: Vec::new(),
            bases: Vec::new(),
            orphans: Vec::new(),
            void_points: Vec::new(),
            void_bases: Vec::new(),
            void_orphans: Vec::new(),
            forged: false,
        })
    }

    fn take_names(&mut self, listing: &Listing) {
        for entry in &listing.claims {
            if let Some((_source, epoch)) = claim_name(&entry.key) {
                self.entry(epoch);
            }
        }
        // Late names last: where a fence stands in the object's place, the late copy is the object.
        for entry in listing.log.iter().chain(&listing.late) {
            if let Ok((_source, epoch, seq)) = keys::dense(&entry.key) {
                let name = LogName {
                    key: entry.key.clone(),
                    size: entry.size,
                };
                self.entry(epoch).names.insert(LogSeq(seq), name);
            }
        }
    }

    /// Heads of small objects, read at once; damaged ones become troubles.
    async fn read_all<H: Placed + Send>(
        &mut self,
        entries: &[ListEntry],
        roles: &[Role],
    ) -> Result<Vec<Verified<H>>> {
        let (store, keyring) = (Arc::clone(&self.store), Arc::clone(&self.keyring));
        let reads = entries.iter().map(|entry| {
            let (store, keyring) = (Arc::clone(&store), Arc::clone(&keyring));
            async move {
                let object =
                    read_verified::<H>(store.as_ref(), &entry.key, Some(entry.size)).await?;
                keyring.accept(&object, roles)?;
                Ok(object)
            }
        });
        let read: Vec<Result<Verified<H>>> = stream::iter(reads)
            .buffered(HEADS_IN_FLIGHT)
            .collect()
            .await;
        let mut good = Vec::with_capacity(read.len());
        for (entry, result) in entries.iter().zip(read) {
            match result {
                Ok(object) => good.push(object),
                Err(error) if error.is_about_the_object() => self.trouble(&entry.key, error),
                Err(error) => return Err(error),
            }
        }
        Ok(good)
    }

    async fn read_claims(&mut self, entries: &[ListEntry]) -> Result<()> {
        for claim in self.read_all::<ClaimHead>(entries, &[Role::Agent]).await? {
            let epoch = claim.head.epoch;
            self.entry(epoch).claim = Some(claim);
        }
        Ok(())
    }

    /// The last name of every epoch (a fence, if there is one) and its object 0.
    async fn read_ends(&mut self) -> Result<()> {
        let epochs: Vec<Epoch> = self.epochs.keys().copied().collect();
        for epoch in epochs {
            let source = self.source.clone();
            let names = &self.entry(epoch).names;
            let first = names.get(&LogSeq(0)).cloned();
            let mut own = names.iter().rev();
            let last = own.find(|(seq, name)| name.key == keys::log(&source, epoch, **seq));
            let last = last.map(|(seq, name)| (*seq, name.clone()));
            // A late copy past a fence hides its name; it stands where the late run begins.
            let late = self.first_late(epoch);
            for (seq, name) in last.into_iter().chain(late) {
                self.read_end(epoch, seq, &name).await?;
            }
            if let Some(name) = first.filter(|_| self.entry(epoch).names.contains_key(&LogSeq(0))) {
                self.read_zero(epoch, &name).await?;
            }
        }
        Ok(())
    }

    fn first_late(&mut self, epoch: Epoch) -> Option<(LogSeq, LogName)> {
        let source = self.source.clone();
        let names = &self.entry(epoch).names;
        let late = names
            .iter()
            .find(|(seq, name)| name.key != keys::log(&source, epoch, **seq));
        late.map(|(seq, name)| {
            let key = keys::log(&source, epoch, *seq);
            (
                *seq,
                LogName {
                    key,
                    size: name.size,
                },
            )
        })
    }

    async fn read_end(&mut self, epoch: Epoch, seq: LogSeq, name: &LogName) -> Result<()> {
        match self.read_name(&name.key, None).await {
            Ok(AtName::Fence(fence)) => {
                let entry = self.entry(epoch);
                if entry
                    .names
                    .get(&seq)
                    .is_some_and(|listed| listed.key == name.key)
                {
                    entry.names.remove(&seq);
                }
                entry.fence = Some(*fence);
            }
            Ok(AtName::Log(_)) => {}
            Err(error) if error.is_about_the_object() => self.trouble(&name.key, error),
            // The name under a late copy may be free.
            Err(LedgerError::Storage(error))
                if error.kind() == tidemark_storage::ErrorKind::Missing => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn read_zero(&mut self, epoch: Epoch, name: &LogName) -> Result<()> {
        match self.read_name(&name.key, Some(name.size)).await {
            Ok(AtName::Log(object)) => {
                self.entry(epoch).object_zero = Some(object.head.follows.clone());
                self.remember(epoch, LogSeq(0), &LogState::Object(Arc::new(*object)));
            }
            Ok(AtName::Fence(_)) => {}
            Err(error) if error.is_about_the_object() => {
                self.entry(epoch).forged = matches!(error, LedgerError::Revoked { .. });
                self.trouble(&name.key, error);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn read_points(&mut self, entries: &[ListEntry], wanted: PointsWanted) -> Result<()> {
        let mut named: BTreeMap<Epoch, Vec<(PointSeq, ListEntry)>> = BTreeMap::new();
        for entry in entries {
            if let Ok((_source, epoch, seq)) = keys::dense(&entry.key) {
                named
                    .entry(epoch)
                    .or_default()
                    .push((PointSeq(seq), entry.clone()));
            }
        }
        for (epoch, names) in named {
            self.missing_points(epoch, &names).await?;
            let entries: Vec<ListEntry> = names.into_iter().map(|(_, entry)| entry).collect();
            let newest = match wanted {
                PointsWanted::All => 0,
                PointsWanted::Newest(count) => entries.len().saturating_sub(count.max(1)),
            };
            let (older, newest) = entries.split_at(newest);
            let mut read = self.read_all::<PointHead>(newest, &[Role::Agent]).await?;
            // What counts may stand below what does not: another's forgeries must not hide it.
            let doubtful = |point: &Verified<_>| self.keyring.anchors(&point.signer).is_some();
            if read.len() < newest.len() || read.iter().any(doubtful) {
                let mut all = self.read_all::<PointHead>(older, &[Role::Agent]).await?;
                all.append(&mut read);
                read = all;
            }
            let read = self.anchored_points(epoch, read);
            let chained = self.chained(read);
            self.entry(epoch).points = chained;
        }
        Ok(())
    }

    async fn read_bases(&mut self, entries: &[ListEntry]) -> Result<()> {
        let read = self.read_all::<BaseHead>(entries, &[Role::Agent]).await?;
        for base in self.anchored_bases(read) {
            let epoch = base.head.epoch;
            self.entry(epoch).bases.push(base);
        }
        let epochs: Vec<Epoch> = self.epochs.keys().copied().collect();
        for epoch in epochs {
            let entry = self.entry(epoch);
            let (whole, orphans) = whole_chains(std::mem::take(&mut entry.bases));
            (entry.bases, entry.orphans) = (whole, orphans.clone());
            for base in orphans {
                let key = base.key.to_string();
                let why = orphaned(&base.head);
                self.trouble(&base.key, LedgerError::Chain { key, why });
            }
        }
        Ok(())
    }

    /// Every epoch begins with its claim in each region, before anything else of it is written there: one
    /// that has objects and no claim has lost it. A fence or a late copy is another epoch's to write.
    async fn miss_claims(&mut self, listed: &[ListEntry]) {
        let claimed: BTreeSet<Epoch> = listed
            .iter()
            .filter_map(|entry| Some(claim_name(&entry.key)?.1))
            .collect();
        let source = self.source.clone();
        let own = |history: &EpochHistory| {
            let mut names = history.names.iter();
            !history.points.is_empty()
                || !history.bases.is_empty()
                || names.any(|(seq, name)| name.key == keys::log(&source, history.epoch, *seq))
        };
        let unclaimed = self.epochs.values().filter(|history| own(history));
        let unclaimed: Vec<Epoch> = unclaimed
            .map(|history| history.epoch)
            .filter(|epoch| !claimed.contains(epoch))
            .collect();
        for epoch in unclaimed {
            let key = keys::claim(&source, epoch);
            // The listings are made side by side, and a writer may have begun between them.
            let asked = self.store.head(&key).await;
            if !asked.is_err_and(|error| error.kind() == tidemark_storage::ErrorKind::Missing) {
                continue;
            }
            self.trouble(
                &key,
                LedgerError::ClaimLost {
                    source_name: source.clone(),
                    epoch,
                },
            );
        }
    }

    /// What this region alone shows of each epoch.
    fn signs(&self) -> BTreeMap<Epoch, EpochSigns> {
        let signs = self.epochs.iter().map(|(epoch, history)| {
            let here = !history.names.is_empty() || !history.void.is_empty();
            let points = history.points.iter().chain(&history.void_points);
            let bases = history.bases.iter().chain(&history.void_bases);
            let forged = history.forged && points.count() == 0 && bases.count() == 0;
            let has_log = here && !forged;
            let fence = history.fence.as_ref().map(|fence| fence.head.seq);
            let object_zero = history.object_zero.clone();
            (
                *epoch,
                EpochSigns {
                    has_log,
                    object_zero,
                    fence,
                },
            )
        });
        signs.collect()
    }

    /// Cuts every epoch at its end. May be called again when more is known.
    fn apply(&mut self, standings: &BTreeMap<Epoch, Standing>) {
        for (epoch, history) in &mut self.epochs {
            let standing = standings.get(epoch).cloned().unwrap_or(Standing::Claimed);
            history.names.append(&mut history.void);
            history.points.append(&mut history.void_points);
            history.points.sort_by_key(|point| point.head.seq);
            history.bases.append(&mut history.void_bases);
            history
                .bases
                .sort_by_key(|base| (base.head.generation, base.head.number));
            history.orphans.append(&mut history.void_orphans);
            let end = match &standing {
                Standing::Live => None,
                Standing::Ended { last, .. } => Some(Some(*last)),
                Standing::EndUnknown { .. } => {
                    Some(history.points.last().map(|point| point.head.log_seq))
                }
                Standing::Claimed | Standing::Void => Some(None),
            };
            history.standing = standing;
            if let Some(last) = end {
                cut(history, last);
            }
        }
    }
}

/// Moves what is past `last` (everything, if there is no last) to the void.
fn cut(history: &mut EpochHistory, last: Option<LogSeq>) {
    let counts = |seq: LogSeq| last.is_some_and(|last| seq <= last);
    history.void = match last {
        Some(last) => history.names.split_off(&last.next()),
        None => std::mem::take(&mut history.names),
    };
    let points = std::mem::take(&mut history.points);
    (history.points, history.void_points) = points
        .into_iter()
        .partition(|point| counts(point.head.log_seq));
    let usable = |base: &Verified<BaseHead>| counts(base.head.usable_from);
    let bases = std::mem::take(&mut history.bases);
    (history.bases, history.void_bases) = bases.into_iter().partition(usable);
    let orphans = std::mem::take(&mut history.orphans);
    (history.orphans, history.void_orphans) = orphans.into_iter().partition(usable);
}

fn orphaned(base: &BaseHead) -> String {
    base.parent.map_or_else(
        || "it names no base that it builds on".to_owned(),
        |parent| {
            let (source, epoch) = (&base.source, base.epoch);
            let key = keys::base(source, epoch, parent.generation, parent.number);
            format!("the base it builds on, {key}, is not here")
        },
    )
}

/// Sorts bases, of one region or of several together, into those whose parents are all there and
/// those that hang in the air. Both come back by generation and number.
#[must_use]
pub fn whole_chains(
    mut bases: Vec<Verified<BaseHead>>,
) -> (Vec<Verified<BaseHead>>, Vec<Verified<BaseHead>>) {
    bases.sort_by_key(|base| (base.head.generation, base.head.number));
    let mut orphans = Vec::new();
    // Parents come first.
    let mut whole: Vec<Verified<BaseHead>> = Vec::with_capacity(bases.len());
    for base in bases {
        let has_parent = match &base.head.parent {
            None => base.head.number.0 == 0,
            Some(parent) => {
                parent.generation == base.head.generation
                    && whole
                        .iter()
                        .any(|other| other.head.reference(other.link) == *parent)
            }
        };
        if has_parent {
            whole.push(base);
        } else {
            orphans.push(base);
        }
    }
    (whole, orphans)
}
