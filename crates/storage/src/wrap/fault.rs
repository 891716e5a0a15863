//! A store with scripted, seeded faults, for tests.
//!
//! A rule says which calls it strikes (operation, key prefix, the nth or with a probability) and
//! what it does: fail before, **do it and then fail** (a lost response), delay, hang until
//! released, damage what is read, show a stale listing, say "full" or "denied". The same seed and
//! the same order of calls give the same faults. Rules are tried in order; the first that strikes
//! wins.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_format::{Key, PutId};
use tidemark_host::{Rng, RngExt, TestRng};
use tokio::sync::watch;

use crate::{
    CreateStore, Created, DeleteStore, Error, ListPage, ObjectInfo, Op, Place, ReadStore, Result,
    Version,
};

/// What a rule does to a call that it strikes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing reaches the store; the answer is "unreachable".
    FailBefore,
    /// The store does it; the answer is lost.
    DoThenFail,
    /// It happens later.
    Delay(Duration),
    /// It waits until [`FaultControl::release`], then happens.
    HangUntilReleased,
    /// Reads return the first half.
    Truncate,
    /// Reads return one bit flipped in the middle.
    Flip,
    /// Listings leave out the newest key of a page, as an eventually consistent store does.
    StaleList,
    /// The answer is "full".
    OutOfSpace,
    /// The answer is "denied" for writes, "unknown" for reads.
    Refuse,
    /// Reads answer "missing".
    Missing,
}

/// Which of the calls that match a rule are struck.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// Every one.
    Always,
    /// The nth, counted from one, and no other.
    Nth(u64),
    /// The first n.
    First(u64),
    /// Each with this probability.
    Probability(f64),
}

#[derive(Debug)]
struct Rule {
    op: Option<Op>,
    prefix: String,
    when: When,
    fault: Fault,
    matched: u64,
}

#[derive(Debug)]
struct State {
    rules: Vec<Rule>,
    struck: u64,
}

/// Adds and removes the rules of a [`Faulty`] store, also while it is in use. Clones are the same.
#[derive(Debug, Clone)]
pub struct FaultControl {
    state: Arc<Mutex<State>>,
    rng: Arc<TestRng>,
    released: watch::Sender<u64>,
}

impl FaultControl {
    /// No rules; probabilities are drawn from `seed`.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                rules: Vec::new(),
                struck: 0,
            })),
            rng: Arc::new(TestRng::seeded(seed)),
            released: watch::Sender::new(0),
        }
    }

    /// Adds a rule: `op` (or every one) on keys, or listed prefixes, that begin with `prefix`.
    pub fn add(&self, op: impl Into<Option<Op>>, prefix: &str, when: When, fault: Fault) {
        let rule = Rule {
            op: op.into(),
            prefix: prefix.to_owned(),
            when,
            fault,
            matched: 0,
        };
        self.lock().rules.push(rule);
    }

    /// Takes every rule away. Calls that hang go on hanging until released.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// Lets every hanging call go on.
    pub fn release(&self) {
        self.released
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// How many calls have been struck.
    #[must_use]
    pub fn struck(&self) -> u64 {
        self.lock().struck
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strike(&self, op: Op, key: &str) -> Option<Fault> {
        let mut state = self.lock();
        let mut chosen = None;
        for rule in &mut state.rules {
            if rule.op.is_some_and(|wanted| wanted != op) || !key.starts_with(&rule.prefix) {
                continue;
            }
            rule.matched = rule.matched.saturating_add(1);
            let strikes = match rule.when {
                When::Always => true,
                When::Nth(nth) => rule.matched == nth,
                When::First(count) => rule.matched <= count,
                When::Probability(probability) => self.draw() < probability,
            };
            if strikes && chosen.is_none() {
                chosen = Some(rule.fault.clone());
            }
        }
        if chosen.is_some() {
            state.struck = state.struck.saturating_add(1);
        }
        chosen
    }

    /// From 0 up to and without 1.
    fn draw(&self) -> f64 {
        let mut bytes = [0; 4];
        self.rng.fill(&mut bytes);
        f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }

    /// A number for choosing a damaged bit.
    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).unwrap_or(0)
    }
}

/// A store on which [`FaultControl`]'s rules strike.
#[derive(Debug, Clone)]
pub struct Faulty<S> {
    inner: S,
    control: FaultControl,
}

fn place() -> Place {
    Place::new("a store with injected faults")
}

fn injected(op: Op, key: &str) -> Error {
    Error::unreachable(&place(), op, key, "injected fault", None)
}

impl<S> Faulty<S> {
    /// Lets `control` strike calls of `inner`.
    #[must_use]
    pub const fn new(inner: S, control: FaultControl) -> Self {
        Self { inner, control }
    }

    /// What happens before the call; returns the fault for what happens after it.
    async fn before(&self, op: Op, key: &str) -> Result<Option<Fault>> {
        // Subscribed before the rule is read: a release in between isn't lost.
        let mut released = self.control.released.subscribe();
        let fault = self.control.strike(op, key);
        match &fault {
            Some(Fault::FailBefore) => return Err(injected(op, key)),
            Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
            // The sender lives as long as this store: an error can't happen and ends the wait.
            Some(Fault::HangUntilReleased) => drop(released.changed().await),
            Some(Fault::OutOfSpace) => {
                return Err(Error::Full {
                    place: place(),
                    key: key.to_owned(),
                    source: None,
                });
            }
            Some(Fault::Missing) if matches!(op, Op::Get | Op::Head) => {
                return Err(Error::Missing {
                    place: place(),
                    key: key.to_owned(),
                });
            }
            Some(Fault::Refuse) => return Err(refused(op, key)),
            _ => {}
        }
        Ok(fault)
    }

    fn damage(&self, fault: Option<&Fault>, bytes: Bytes) -> Bytes {
        match fault {
            Some(Fault::Truncate) => bytes.slice(..bytes.len() / 2),
            Some(Fault::Flip) if !bytes.is_empty() => {
                let mut copy = bytes.to_vec();
                let at = self.control.below(copy.len());
                if let Some(byte) = copy.get_mut(at) {
                    *byte ^= 1;
                }
                Bytes::from(copy)
            }
            _ => bytes,
        }
    }
}

fn refused(op: Op, key: &str) -> Error {
    match op {
        Op::Get | Op::Head | Op::List => Error::Unknown {
            place: place(),
            op,
            key: key.to_owned(),
            source: None,
        },
        Op::Create | Op::Delete | Op::Probe => Error::Denied {
            place: place(),
            op,
            key: key.to_owned(),
            source: None,
        },
    }
}

fn after<T>(fault: Option<&Fault>, op: Op, key: &str, result: Result<T>) -> Result<T> {
    if fault == Some(&Fault::DoThenFail) {
        Err(injected(op, key))
    } else {
        result
    }
}

#[async_trait]
impl<S: ReadStore> ReadStore for Faulty<S> {
    async fn get(&self, key: &Key) -> Result<Bytes> {
        let fault = self.before(Op::Get, key.as_str()).await?;
        let result = self
            .inner
            .get(key)
            .await
            .map(|bytes| self.damage(fault.as_ref(), bytes));
        after(fault.as_ref(), Op::Get, key.as_str(), result)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let fault = self.before(Op::Get, key.as_str()).await?;
        let bytes = self.inner.get_range(key, range).await;
        let result = bytes.map(|bytes| self.damage(fault.as_ref(), bytes));
        after(fault.as_ref(), Op::Get, key.as_str(), result)
    }

    async fn head(&self, key: &Key) -> Result<ObjectInfo> {
        let fault = self.before(Op::Head, key.as_str()).await?;
        let result = self.inner.head(key).await;
        after(fault.as_ref(), Op::Head, key.as_str(), result)
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&Key>,
        limit: usize,
    ) -> Result<ListPage> {
        let fault = self.before(Op::List, prefix).await?;
        let mut result = self.inner.list(prefix, start_after, limit).await;
        if let (Some(Fault::StaleList), Ok(page)) = (&fault, &mut result) {
            page.entries.pop();
        }
        after(fault.as_ref(), Op::List, prefix, result)
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let fault = self.before(Op::List, prefix).await?;
        let mut result = self.inner.folders(prefix).await;
        if let (Some(Fault::StaleList), Ok(names)) = (&fault, &mut result) {
            names.pop();
        }
        after(fault.as_ref(), Op::List, prefix, result)
    }

    async fn versions(&self, key: &Key) -> Result<Vec<Version>> {
        let fault = self.before(Op::List, key.as_str()).await?;
        let result = self.inner.versions(key).await;
        after(fault.as_ref(), Op::List, key.as_str(), result)
    }
}

#[async_trait]
impl<S: CreateStore> CreateStore for Faulty<S> {
    async fn create(&self, key: &Key, body: Bytes, put: &PutId) -> Result<Created> {
        let fault = self.before(Op::Create, key.as_str()).await?;
        let result = self.inner.create(key, body, put).await;
        after(fault.as_ref(), Op::Create, key.as_str(), result)
    }
}

#[async_trait]
impl<S: DeleteStore> DeleteStore for Faulty<S> {
    async fn delete(&self, key: &Key) -> Result<()> {
        let fault = self.before(Op::Delete, key.as_str()).await?;
        let result = self.inner.delete(key).await;
        after(fault.as_ref(), Op::Delete, key.as_str(), result)
    }
}
