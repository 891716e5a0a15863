//! Several regions read as one: the fastest healthy one first, the next when a copy is bad.
//!
//! What a region gave wrongly, or didn't give, is remembered: a restore ends with a list of what
//! to repair. A region that didn't answer is asked last for a while, never left out: it may be the
//! only one with a good copy.
//!
//! **Cancellation.** Every future may be dropped; nothing is lost but the answer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tidemark_format::{FormatError, Key, RegionName, keys};
use tidemark_host::{Clock, Monotonic};
use tidemark_storage::ReadStore;

use crate::{Attempt, Error, ErrorKind, Result, error::store_kind};

/// How long a region that didn't answer is asked last; doubled with every failure in a row.
const COOL_DOWN: Duration = Duration::from_secs(15);
/// Doublings of [`COOL_DOWN`].
const COOL_DOWN_DOUBLINGS_MAX: u32 = 4;
/// How long [`RegionSet::measure`] waits for the slowest region.
const MEASURE_WAIT: Duration = Duration::from_secs(5);
/// Distinct damages kept in memory; the rest is counted.
const DAMAGES_MAX: usize = 10_000;
/// Bytes that cost about as much as a request's latency: makes answers of all sizes comparable.
const BYTES_PER_REQUEST: u64 = 1 << 20;

/// A region as the read path sees it.
#[derive(Debug, Clone)]
pub struct RegionReader {
    /// Its name.
    pub name: RegionName,
    /// Its store.
    pub store: Arc<dyn ReadStore>,
}

/// What was wrong with a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DamageKind {
    /// It isn't there.
    Missing,
    /// It is changed, cut or another object.
    Corrupt,
    /// The region could not be asked.
    Unreachable,
}

/// A copy that couldn't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The region.
    pub region: RegionName,
    /// The object.
    pub key: Key,
    /// What was wrong.
    pub kind: DamageKind,
    /// In words.
    pub why: String,
}

/// An object, and the region whose copy was good.
#[derive(Debug, Clone)]
pub struct Fetched<T> {
    /// What the check made of it.
    pub value: T,
    /// The bytes.
    pub bytes: Bytes,
    /// Where they came from.
    pub region: RegionName,
}

#[derive(Debug, Default, Clone, Copy)]
struct Pace {
    /// Nanoseconds for a request of [`BYTES_PER_REQUEST`], a moving average; none before the first.
    cost: Option<u64>,
    failures: u32,
    rest_until: Option<Monotonic>,
}

#[derive(Debug, Default)]
struct State {
    paces: Vec<Pace>,
    damages: BTreeMap<(RegionName, Key, DamageKind), String>,
    more_damages: u64,
}

/// The regions of a repository.
#[derive(Debug)]
pub struct RegionSet {
    regions: Vec<RegionReader>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

impl RegionSet {
    /// Reads from `regions`; until speeds are known, in this order.
    ///
    /// # Errors
    /// [`Error::NoRegions`] when there is none.
    pub fn new(regions: Vec<RegionReader>, clock: Arc<dyn Clock>) -> Result<Self> {
        if regions.is_empty() {
            return Err(Error::NoRegions);
        }
        let paces = vec![Pace::default(); regions.len()];
        Ok(Self {
            regions,
            clock,
            state: Mutex::new(State {
                paces,
                ..State::default()
            }),
        })
    }

    /// The regions, in the order given.
    #[must_use]
    pub fn regions(&self) -> &[RegionReader] {
        &self.regions
    }

    /// Reads every region's marker at once, to learn which answers and how fast. Returns the names
    /// of those that didn't; a missing marker is an answer.
    pub async fn measure(&self) -> Vec<RegionName> {
        let marker = keys::region();
        let one = async |at: usize, region: &RegionReader| {
            let began = self.clock.monotonic();
            let answer = tokio::time::timeout(MEASURE_WAIT, region.store.get(&marker)).await;
            let answered = match answer {
                Ok(Ok(_)) => true,
                Ok(Err(error)) => store_kind(error.kind()) != ErrorKind::Region,
                Err(_late) => false,
            };
            self.note(at, began, answered.then_some(0));
            (!answered).then(|| region.name.clone())
        };
        let all = self
            .regions
            .iter()
            .enumerate()
            .map(|(at, region)| one(at, region));
        join_all(all).await.into_iter().flatten().collect()
    }

    /// The object, from the first region whose copy passes `check`.
    ///
    /// # Errors
    /// [`Error::NoGoodCopy`].
    pub async fn fetch(
        &self,
        key: &Key,
        check: impl Fn(&[u8]) -> std::result::Result<(), FormatError>,
    ) -> Result<(Bytes, RegionName)> {
        let fetched = self
            .fetch_with(key, |bytes| check(bytes).map_err(Error::format(key)))
            .await?;
        Ok((fetched.bytes, fetched.region))
    }

    /// What `check` makes of the object, from the first region whose copy passes.
    ///
    /// # Errors
    /// [`Error::NoGoodCopy`]; an error of `check` that isn't of kind `Integrity` at once.
    pub async fn fetch_with<T>(
        &self,
        key: &Key,
        check: impl Fn(&Bytes) -> Result<T>,
    ) -> Result<Fetched<T>> {
        let mut copies = self.copies(key);
        while let Some((at, bytes)) = copies.next(None).await {
            match check(&bytes) {
                Ok(value) => {
                    let region = copies.name(at);
                    return Ok(Fetched {
                        value,
                        bytes,
                        region,
                    });
                }
                Err(error) => copies.refuse(at, error)?,
            }
        }
        Err(copies.into_error())
    }

    /// What couldn't be used so far, by region and key.
    #[must_use]
    pub fn damages(&self) -> Vec<Damage> {
        let state = self.lock();
        let all = state
            .damages
            .iter()
            .map(|((region, key, kind), why)| Damage {
                region: region.clone(),
                key: key.clone(),
                kind: *kind,
                why: why.clone(),
            });
        all.collect()
    }

    /// How many damages came after the list was full.
    #[must_use]
    pub fn more_damages(&self) -> u64 {
        self.lock().more_damages
    }

    /// The copies of an object, best region first.
    pub(crate) fn copies(&self, key: &Key) -> Copies<'_> {
        let mut order = self.order();
        order.reverse();
        Copies {
            set: self,
            key: key.clone(),
            order,
            attempts: Vec::new(),
        }
    }

    fn order(&self) -> Vec<usize> {
        let now = self.clock.monotonic();
        let state = self.lock();
        let mut order: Vec<usize> = (0..self.regions.len()).collect();
        order.sort_by_key(|at| {
            let pace = state.paces.get(*at).copied().unwrap_or_default();
            let rests = pace.rest_until.is_some_and(|until| until > now);
            (rests, pace.cost.unwrap_or(u64::MAX), *at)
        });
        order
    }

    /// Notes how long an answer took; `None` when none came.
    fn note(&self, at: usize, began: Monotonic, bytes: Option<u64>) {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        let Some(pace) = state.paces.get_mut(at) else {
            return;
        };
        let Some(bytes) = bytes else {
            pace.rest_until = Some(now.after(COOL_DOWN * 2u32.pow(pace.failures)));
            pace.failures = pace.failures.saturating_add(1).min(COOL_DOWN_DOUBLINGS_MAX);
            return;
        };
        let nanos = u64::try_from(now.since(began).as_nanos()).unwrap_or(u64::MAX);
        let share = bytes.saturating_add(BYTES_PER_REQUEST);
        let cost = u128::from(nanos) * u128::from(BYTES_PER_REQUEST) / u128::from(share);
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        pace.cost = Some(pace.cost.map_or(cost, |old| old / 8 * 7 + cost / 8));
        pace.failures = 0;
        pace.rest_until = None;
    }

    fn remember(&self, at: usize, key: &Key, kind: DamageKind, why: &str) {
        let Some(region) = self.regions.get(at) else {
            return;
        };
        let mut state = self.lock();
        if state.damages.len() >= DAMAGES_MAX {
            state.more_damages = state.more_damages.saturating_add(1);
            return;
        }
        let place = (region.name.clone(), key.clone(), kind);
        state.damages.entry(place).or_insert_with(|| why.to_owned());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one statement: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One object's copies, region by region, until one is good.
#[derive(Debug)]
pub(crate) struct Copies<'a> {
    set: &'a RegionSet,
    key: Key,
    /// The best one last.
    order: Vec<usize>,
    attempts: Vec<Attempt>,
}

impl Copies<'_> {
    /// The next copy that a region hands out, or that part of it.
    pub(crate) async fn next(&mut self, range: Option<Range<u64>>) -> Option<(usize, Bytes)> {
        while let Some(at) = self.order.pop() {
            let Some(region) = self.set.regions.get(at) else {
                continue;
            };
            let began = self.set.clock.monotonic();
            let answer = match range.clone() {
                Some(range) => region.store.get_range(&self.key, range).await,
                None => region.store.get(&self.key).await,
            };
            match answer {
                Ok(bytes) => {
                    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    self.set.note(at, began, Some(len));
                    return Some((at, bytes));
                }
                Err(error) => {
                    let kind = store_kind(error.kind());
                    let answered = (kind != ErrorKind::Region).then_some(0);
                    self.set.note(at, began, answered);
                    self.failed(at, kind, tidemark_storage::chain(&error));
                }
            }
        }
        None
    }

    /// The name of the region behind an index.
    pub(crate) fn name(&self, at: usize) -> RegionName {
        self.set.regions[at].name.clone()
    }

    /// Turns a bad copy down. Gives the error back when it isn't this copy's fault.
    pub(crate) fn refuse(&mut self, at: usize, error: Error) -> Result<()> {
        let others_fault = matches!(error, Error::NoGoodCopy { .. });
        if others_fault || error.kind() != ErrorKind::Integrity {
            return Err(error);
        }
        self.failed(at, ErrorKind::Integrity, error.chain());
        Ok(())
    }

    /// What to say when no copy was good.
    pub(crate) fn into_error(self) -> Error {
        Error::NoGoodCopy {
            key: self.key.to_string(),
            attempts: self.attempts,
        }
    }

    fn failed(&mut self, at: usize, kind: ErrorKind, why: String) {
        let damage = match kind {
            ErrorKind::Missing => DamageKind::Missing,
            ErrorKind::Integrity => DamageKind::Corrupt,
            ErrorKind::Key | ErrorKind::Region | ErrorKind::Target | ErrorKind::Invalid => {
                DamageKind::Unreachable
            }
        };
        self.set.remember(at, &self.key, damage, &why);
        let region = self.name(at);
        self.attempts.push(Attempt { region, why, kind });
    }
}
