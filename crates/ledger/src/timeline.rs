//! One source as all regions together show it: for every place of the log the first good copy.
//!
//! A place that is missing or damaged in one region is filled from the next. What a region lacks is
//! not lost: it stands in [`Place::troubles`] and ends up in the report. Links are checked again over
//! the merged log, so that good objects from two regions can't be joined into a chain that never was.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use tidemark_format::heads::{BaseHead, LogHead, PointHead};
use tidemark_format::{BaseNumber, Epoch, LogSeq, PointSeq, RegionName, SourceName};

use crate::history::{
    CaughtUp, EpochHistory, Freshness, LogState, SourceHistory, Standing, Trouble, whole_chains,
};
use crate::{LedgerError, Result, Verified};

/// How a region lacks an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Nothing is there.
    Absent,
    /// Nothing is there yet: the region is fed more slowly, and shows nothing that comes later.
    Behind,
    /// What is there was signed by the source's agent, and is cut or has grown.
    Cut,
    /// What is there is good, and follows another object than the one before it here.
    Unlinked,
    /// What is there is whole, and signed by somebody whose signature doesn't count.
    Foreign,
    /// What is there can't be read: bit rot, or anything.
    Unreadable,
}

impl Lack {
    /// Whether something is there, and wrong.
    #[must_use]
    pub const fn is_damage(self) -> bool {
        match self {
            Self::Absent | Self::Behind => false,
            Self::Cut | Self::Unlinked | Self::Foreign | Self::Unreadable => true,
        }
    }

    const fn of(error: &LedgerError) -> Self {
        match error {
            LedgerError::Size { .. } => Self::Cut,
            LedgerError::Chain { .. } => Self::Unlinked,
            LedgerError::UnknownSigner { .. }
            | LedgerError::WrongRole { .. }
            | LedgerError::Revoked { .. } => Self::Foreign,
            _ => Self::Unreadable,
        }
    }
}

/// The fact of a source's last recovery point.
const RETIRED: &str = "retired";

/// The engine of PostgreSQL servers, as heads name it.
pub const POSTGRESQL: &str = "postgresql";

/// Why a region has no good copy of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceTrouble {
    /// The region.
    pub region: RegionName,
    /// How it lacks it.
    pub lack: Lack,
    /// In words.
    pub why: String,
}

/// One place of the merged log.
#[derive(Debug, Clone)]
pub struct Place {
    /// The place.
    pub seq: LogSeq,
    /// The first good copy's head.
    pub found: Option<Verified<LogHead>>,
    /// Regions that lack it.
    pub troubles: Vec<PlaceTrouble>,
}

impl Place {
    /// What the regions that lack it said, in one line; empty if all have it.
    #[must_use]
    pub fn told(&self) -> String {
        Self::line(self.troubles.iter())
    }

    /// The same of regions that have lost it: one that is merely behind has lost nothing.
    #[must_use]
    pub fn told_lost(&self) -> String {
        let lost = |one: &&PlaceTrouble| one.lack != Lack::Behind;
        Self::line(self.troubles.iter().filter(lost))
    }

    /// Whether something is there in some region, and good in none.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.found.is_none() && self.troubles.iter().any(|one| one.lack.is_damage())
    }

    fn line<'a>(troubles: impl Iterator<Item = &'a PlaceTrouble>) -> String {
        let all = troubles.map(|one| format!("{}: {}", one.region, one.why));
        all.collect::<Vec<_>>().join("; ")
    }
}

/// One epoch of the merged history.
#[derive(Debug, Clone)]
pub struct EpochView {
    /// The epoch.
    pub epoch: Epoch,
    /// Where it stands.
    pub standing: Standing,
    /// Log objects that some region has, with their sizes.
    pub names: BTreeMap<LogSeq, u64>,
    /// Recovery points, oldest first.
    pub points: Vec<Verified<PointHead>>,
    /// Bases, by generation and number.
    pub bases: Vec<Verified<BaseHead>>,
    /// The writer's host, if the claim is readable.
    pub host: Option<String>,
}

/// A source's merged history.
#[derive(Debug)]
pub struct Timeline {
    source: SourceName,
    regions: Vec<RegionName>,
    histories: Vec<SourceHistory>,
    /// Regions that have nothing of this source.
    pub lacking: Vec<RegionName>,
    /// Regions that failed while this source was read.
    pub failed: Vec<(RegionName, LedgerError)>,
    epochs: Vec<EpochView>,
}

impl Timeline {
    /// Merges what the regions show; at least one history.
    #[must_use]
    pub fn merge(
        source: SourceName,
        loaded: Vec<(RegionName, SourceHistory)>,
        lacking: Vec<RegionName>,
        failed: Vec<(RegionName, LedgerError)>,
    ) -> Self {
        let (regions, mut histories): (Vec<_>, Vec<_>) = loaded.into_iter().unzip();
        SourceHistory::settle(&mut histories);
        let mut merged: BTreeMap<Epoch, Merging> = BTreeMap::new();
        for history in &histories {
            for epoch in history.epochs() {
                merged
                    .entry(epoch.epoch)
                    .or_insert_with(|| Merging::new(epoch.standing.clone()))
                    .add(epoch);
            }
        }
        // After every region's own: a base here may build on one that another region has.
        for epoch in histories.iter().flat_map(SourceHistory::epochs) {
            if let Some(merging) = merged.get_mut(&epoch.epoch) {
                merging.bases(&epoch.orphans);
            }
        }
        let epochs = merged
            .into_iter()
            .map(|(epoch, merging)| merging.done(epoch))
            .collect();
        Self {
            source,
            regions,
            histories,
            lacking,
            failed,
            epochs,
        }
    }

    /// What was merged, region by region, for one who asks more of it.
    #[must_use]
    pub fn into_histories(self) -> Vec<(RegionName, SourceHistory)> {
        self.regions.into_iter().zip(self.histories).collect()
    }

    /// The source.
    #[must_use]
    pub const fn source(&self) -> &SourceName {
        &self.source
    }

    /// Epochs on the chain, oldest first.
    #[must_use]
    pub fn epochs(&self) -> &[EpochView] {
        &self.epochs
    }

    /// An epoch on the chain.
    #[must_use]
    pub fn epoch(&self, epoch: Epoch) -> Option<&EpochView> {
        self.epochs.iter().find(|view| view.epoch == epoch)
    }

    /// Every region's own history.
    pub fn histories(&self) -> impl Iterator<Item = (&RegionName, &SourceHistory)> {
        self.regions.iter().zip(&self.histories)
    }

    /// Whether the regions are equally new.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        let own = self
            .histories()
            .map(|(name, history)| (name.clone(), history.tip()));
        let none = self.lacking.iter().map(|name| (name.clone(), None));
        Freshness::compare(&own.chain(none).collect::<Vec<_>>())
    }

    /// The newest recovery point of all regions.
    #[must_use]
    pub fn newest_point(&self) -> Option<&Verified<PointHead>> {
        self.epochs.iter().rev().find_map(|view| view.points.last())
    }

    /// What the newest beat of all regions says.
    #[must_use]
    pub fn caught_up(&self) -> Option<&CaughtUp> {
        self.beats().max_by_key(|beat| beat.beat_at)
    }

    /// What each region's newest beat says.
    pub fn beats(&self) -> impl Iterator<Item = &CaughtUp> {
        self.histories.iter().filter_map(SourceHistory::caught_up)
    }

    /// Objects that don't count in some region, and why.
    pub fn troubles(&self) -> impl Iterator<Item = (&RegionName, &Trouble)> {
        self.histories()
            .flat_map(|(region, history)| history.troubles().iter().map(move |one| (region, one)))
    }

    /// The engine and what the newest point or base says of the source.
    #[must_use]
    pub fn engine(&self) -> Option<&str> {
        let point = self.newest_point().map(|point| point.head.engine.as_str());
        let base = || self.epochs.iter().rev().find_map(|v| v.bases.last());
        point.or_else(|| base().map(|base| base.head.engine.as_str()))
    }

    /// Whether the source is at rest: the newest recovery point is its last, sealed when it was retired,
    /// and nothing was captured since.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        let Some(view) = self.epochs.last() else {
            return false;
        };
        let last = view.names.keys().next_back();
        view.points.last().is_some_and(|point| {
            let said = point.head.facts.get(RETIRED);
            said.is_some_and(|said| *said == true)
                && last.is_none_or(|last| *last <= point.head.log_seq)
        })
    }

    /// Whether replay may end inside a log object.
    #[must_use]
    pub fn is_divisible(&self) -> bool {
        self.engine() == Some(POSTGRESQL)
    }

    /// The merged log of an epoch over `range`: one place for every sequence.
    ///
    /// # Errors
    /// When no region can be read.
    pub async fn log(&self, epoch: Epoch, range: Range<LogSeq>) -> Result<Vec<Place>> {
        let mut places: Vec<Place> = (range.start.0..range.end.0)
            .map(|seq| Place {
                seq: LogSeq(seq),
                found: None,
                troubles: Vec::new(),
            })
            .collect();
        let mut first_error = None;
        let mut answered = false;
        for (region, history) in self.histories() {
            for span in unfilled(&places) {
                match history.log(epoch, span.clone()).await {
                    Ok(entries) => {
                        answered = true;
                        let states: BTreeMap<LogSeq, LogState> = entries
                            .into_iter()
                            .map(|entry| (entry.seq, entry.state))
                            .collect();
                        let end = end_of(history, epoch);
                        fill(&mut places, &span, (region, end), states);
                    }
                    Err(error) => first_error = first_error.or(Some(error)),
                }
            }
        }
        match first_error {
            Some(error) if !answered => return Err(error),
            _ => {}
        }
        self.check_links(epoch, &mut places).await?;
        Ok(places)
    }

    /// Objects that don't follow the one before: another region may hold the one that does.
    async fn check_links(&self, epoch: Epoch, places: &mut [Place]) -> Result<()> {
        let mut before = None;
        for place in places {
            if let (Some(link), Some(found)) = (before, &place.found)
                && found.head.prev != Some(link)
            {
                let replaced = self.following(epoch, place.seq, link).await?;
                if replaced.is_none() {
                    place.troubles.push(PlaceTrouble {
                        region: self.regions.first().cloned().unwrap_or_else(unnamed),
                        lack: Lack::Unlinked,
                        why: "it does not follow the object before it".to_owned(),
                    });
                }
                place.found = replaced;
            }
            before = place.found.as_ref().map(|found| found.link);
        }
        Ok(())
    }

    async fn following(
        &self,
        epoch: Epoch,
        seq: LogSeq,
        link: tidemark_format::Hash,
    ) -> Result<Option<Verified<LogHead>>> {
        for history in &self.histories {
            let entries = history.log(epoch, seq..seq.next()).await?;
            let object = entries.first().and_then(|entry| entry.state.object());
            if let Some(object) = object.filter(|object| object.head.prev == Some(link)) {
                return Ok(Some(object.clone()));
            }
        }
        Ok(None)
    }
}

fn unnamed() -> RegionName {
    #[expect(clippy::expect_used, reason = "a constant that fits the rule")]
    RegionName::new("region").expect("a valid name")
}

/// Runs of places that nobody has filled yet.
fn unfilled(places: &[Place]) -> Vec<Range<LogSeq>> {
    let mut spans: Vec<Range<LogSeq>> = Vec::new();
    for place in places.iter().filter(|place| place.found.is_none()) {
        match spans.last_mut() {
            Some(span) if span.end == place.seq => span.end = place.seq.next(),
            _ => spans.push(place.seq..place.seq.next()),
        }
    }
    spans
}

/// The last log object of an epoch that a region has, or says that it has.
fn end_of(history: &SourceHistory, epoch: Epoch) -> Option<LogSeq> {
    let epoch = history.epoch(epoch)?;
    let named = epoch.names.keys().next_back().copied();
    let sealed = epoch.points.last().map(|point| point.head.log_seq);
    named.max(sealed)
}

fn fill(
    places: &mut [Place],
    span: &Range<LogSeq>,
    (region, end): (&RegionName, Option<LogSeq>),
    mut states: BTreeMap<LogSeq, LogState>,
) {
    for place in places.iter_mut().filter(|place| span.contains(&place.seq)) {
        let trouble = match states.remove(&place.seq) {
            Some(LogState::Object(object)) => {
                place.found = Some(Arc::unwrap_or_clone(object));
                continue;
            }
            Some(LogState::Damaged(error)) => PlaceTrouble {
                region: region.clone(),
                lack: Lack::of(&error),
                why: tidemark_storage::chain(error.as_ref()),
            },
            Some(LogState::Missing) | None => PlaceTrouble {
                region: region.clone(),
                lack: match end {
                    Some(end) if end >= place.seq => Lack::Absent,
                    Some(_) | None => Lack::Behind,
                },
                why: "it is not there".to_owned(),
            },
        };
        place.troubles.push(trouble);
    }
}

/// An epoch while regions are added.
struct Merging {
    standing: Standing,
    names: BTreeMap<LogSeq, u64>,
    points: BTreeMap<PointSeq, Verified<PointHead>>,
    bases: BTreeMap<(LogSeq, BaseNumber), Verified<BaseHead>>,
    host: Option<String>,
}

impl Merging {
    const fn new(standing: Standing) -> Self {
        Self {
            standing,
            names: BTreeMap::new(),
            points: BTreeMap::new(),
            bases: BTreeMap::new(),
            host: None,
        }
    }

    fn add(&mut self, epoch: &EpochHistory) {
        for (seq, name) in &epoch.names {
            self.names.entry(*seq).or_insert(name.size);
        }
        for point in &epoch.points {
            self.points
                .entry(point.head.seq)
                .or_insert_with(|| point.clone());
        }
        self.bases(&epoch.bases);
        if self.host.is_none() {
            self.host = epoch.claim.as_ref().map(|claim| claim.head.host.clone());
        }
    }

    /// The first of a name stays.
    fn bases(&mut self, bases: &[Verified<BaseHead>]) {
        for base in bases {
            let place = (base.head.generation, base.head.number);
            self.bases.entry(place).or_insert_with(|| base.clone());
        }
    }

    fn done(self, epoch: Epoch) -> EpochView {
        // What no region has the parent of serves nobody.
        let (bases, _orphans) = whole_chains(self.bases.into_values().collect());
        EpochView {
            epoch,
            standing: self.standing,
            names: self.names,
            points: self.points.into_values().collect(),
            bases,
            host: self.host,
        }
    }
}
