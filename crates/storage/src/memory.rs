//! A store in memory, for tests: honest about put-ids and, if asked, about versions.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tidemark_format::{Key, PutId};

use crate::store::slice;
use crate::{
    CreateOnly, CreateStore, Created, DeleteStore, Error, ListEntry, ListPage, ObjectInfo, Place,
    Probe, ProbeReport, ReadMode, ReadStore, Result, Version, Witness,
};

#[derive(Debug, Clone)]
struct Stored {
    body: Bytes,
    put: Option<PutId>,
    modified: Timestamp,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, Vec<Stored>>,
    ticks: i64,
}

impl State {
    /// A clock of its own: a second per write, so that tests see an order without a real clock.
    fn tick(&mut self) -> Timestamp {
        self.ticks = self.ticks.saturating_add(1);
        Timestamp::from_second(self.ticks).unwrap_or(Timestamp::MAX)
    }
}

/// Objects in memory. Clones share them.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    place: Place,
    mode: ReadMode,
    versioned: bool,
    state: Arc<Mutex<State>>,
}

impl MemoryStore {
    /// An empty store that keeps no versions; `name` stands in its errors.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            place: Place::new(&format!("memory:{name}")),
            mode: ReadMode::Plain,
            versioned: false,
            state: Arc::default(),
        }
    }

    /// An empty store in which [`Self::overwrite`] adds a version instead of replacing.
    #[must_use]
    pub fn versioned(name: &str) -> Self {
        Self {
            versioned: true,
            ..Self::new(name)
        }
    }

    /// The same objects, read in another mode.
    #[must_use]
    pub fn with_mode(&self, mode: ReadMode) -> Self {
        Self {
            mode,
            ..self.clone()
        }
    }

    /// What a thief with the agent's key does on a real store: a plain, unconditional put.
    pub fn overwrite(&self, key: &Key, body: Bytes) {
        let mut state = self.lock();
        let modified = state.tick();
        let versions = state.objects.entry(key.clone()).or_default();
        if !self.versioned {
            versions.clear();
        }
        versions.push(Stored {
            body,
            put: None,
            modified,
        });
    }

    /// Every key, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.lock().objects.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another test thread leaves the map whole: every change is one statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pick(&self, key: &Key) -> Result<Stored> {
        let state = self.lock();
        let versions = state.objects.get(key);
        let chosen = match self.mode {
            ReadMode::Plain => versions.and_then(|all| all.last()),
            ReadMode::OldestVersion => versions.and_then(|all| all.first()),
        };
        chosen
            .cloned()
            .ok_or_else(|| Error::missing(&self.place, key))
    }
}

#[async_trait]
impl ReadStore for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Bytes> {
        Ok(self.pick(key)?.body)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        Ok(slice(&self.pick(key)?.body, range))
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        let stored = self.pick(key)?;
        Ok(ObjectInfo {
            size: stored.body.len() as u64,
            modified: Some(stored.modified),
            put_id: stored.put,
        })
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&Key>,
        limit: usize,
    ) -> Result<ListPage> {
        let state = self.lock();
        let from = start_after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut matching = state
            .objects
            .range::<Key, _>((from, Bound::Unbounded))
            .filter(|(key, _)| key.as_str().starts_with(prefix));
        let entries = matching
            .by_ref()
            .take(limit)
            .filter_map(|(key, versions)| {
                let stored = match self.mode {
                    ReadMode::Plain => versions.last()?,
                    ReadMode::OldestVersion => versions.first()?,
                };
                Some(ListEntry {
                    key: key.clone(),
                    size: stored.body.len() as u64,
                    modified: Some(stored.modified),
                })
            })
            .collect();
        let more = matching.next().is_some();
        Ok(ListPage { entries, more })
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let state = self.lock();
        let below = state
            .objects
            .keys()
            .filter_map(|key| key.as_str().strip_prefix(prefix));
        let folders = below.filter_map(|rest| Some(rest.split_once('/')?.0.to_owned()));
        Ok(folders.collect::<BTreeSet<_>>().into_iter().collect())
    }

    async fn versions(&self, key: &Key) -> Result<Vec<Version>> {
        let state = self.lock();
        let all = state
            .objects
            .get(key)
            .ok_or_else(|| Error::missing(&self.place, key))?;
        let newest = all.len().saturating_sub(1);
        let list = all.iter().enumerate().rev().map(|(at, stored)| Version {
            id: self.versioned.then(|| at.to_string()),
            size: stored.body.len() as u64,
            modified: Some(stored.modified),
            latest: at == newest,
        });
        Ok(list.collect())
    }
}

#[async_trait]
impl CreateStore for MemoryStore {
    async fn create(&self, key: &Key, body: Bytes, put: &PutId) -> Result<Created> {
        let mut state = self.lock();
        if let Some(there) = state.objects.get(key).and_then(|all| all.last()) {
            if there.put == Some(*put) {
                return Ok(Created::AlreadyMine);
            }
            return Err(Error::Exists {
                place: self.place.clone(),
                key: key.to_string(),
                put_id: there.put,
            });
        }
        let modified = state.tick();
        // A copy: the caller's buffer may be part of a larger one.
        let body = Bytes::copy_from_slice(&body);
        state.objects.insert(
            key.clone(),
            vec![Stored {
                body,
                put: Some(*put),
                modified,
            }],
        );
        Ok(Created::New)
    }
}

#[async_trait]
impl DeleteStore for MemoryStore {
    async fn delete(&self, key: &Key) -> Result<()> {
        self.lock().objects.remove(key);
        Ok(())
    }
}

impl Witness for MemoryStore {
    fn date_offset(&self) -> Option<SignedDuration> {
        None
    }
}

#[async_trait]
impl Probe for MemoryStore {
    async fn probe(&self, _put: &PutId) -> Result<ProbeReport> {
        let create_only = if self.versioned {
            CreateOnly::Enforced
        } else {
            CreateOnly::Advisory
        };
        Ok(ProbeReport {
            create_only,
            because: "a store in memory".to_owned(),
            conditional_create: true,
            versioned: Some(self.versioned),
        })
    }
}
