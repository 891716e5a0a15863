//! Whether a region still holds what was durable there: it may have been put back to an earlier state under a
//! running agent (a snapshot of a volume, a share that was restored), or somebody removed objects.
//!
//! **Invariant.** A lane says that the log is there without a hole only as far as this was seen or this very
//! process created it since. What is gone is never called durable again: the lane begins anew with a complete
//! base.
//!
//! **Cost.** A source and region are looked at as often as the region is looked around, and before a snapshot
//! is answered: one request for the log (a listing from the last object that was seen there, or a HEAD if
//! nothing came since) and a HEAD of the newest base.
//!
//! **Failure.** A listing may be late and a marker may be gone: an object counts as gone once two HEADs,
//! [`LOOK_AGAIN`] apart, say so in a region that still has its marker. A region that doesn't answer is away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tidemark_format::heads::LogHead;
use tidemark_format::{Epoch, Hash, Key, LogSeq, SourceName, keys};
use tidemark_ledger::fencing::newest_name;
use tidemark_ledger::{LedgerError, read_verified};
use tidemark_storage::{ErrorKind, ReadStore};

use super::greet::GreetError;
use super::lane::Lane;
use super::link::{RegionLink, ShipError};
use super::region::{Done, Driver, Found, Known, Report};
use super::shipping::meaning;

/// The alert that says so, until every source is whole there again.
pub(super) const ROLLED_BACK: &str = "place.rolled-back";

/// How long after an object wasn't found it is looked for again: a store may show late what it has.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Names in one listing.
const PAGE: usize = 1000;
/// Sources that are looked at in one region at a time.
const AT_ONCE: usize = 8;

/// When a source is looked for in a region, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The log was seen there without a hole up to here.
    seen: Option<LogSeq>,
    due: bool,
    under_way: bool,
    /// The requests that wait for the next look, and for the one that is under way.
    asked: Vec<u64>,
    answers: Vec<u64>,
}

impl Watch {
    /// Of a lane as this process found it: what it ships from now on is still to be seen.
    pub(super) fn of(lane: &Lane) -> Self {
        Self {
            seen: Some(lane.log_through.unwrap_or(lane.unbroken_from)),
            ..Self::default()
        }
    }

    pub(super) const fn look_soon(&mut self) {
        self.due = true;
    }
}

/// What was found.
#[derive(Debug)]
pub(super) enum Holding {
    /// Everything, the log up to here.
    All(Option<LogSeq>),
    /// Something is gone.
    Lost(Loss),
}

/// What a region lacks that was durable there.
#[derive(Debug, Clone)]
pub(super) struct Loss {
    /// What was looked for and isn't there.
    pub(super) gone: Key,
    /// The first log object that is gone, unless only the base is.
    pub(super) log: Option<LogSeq>,
    /// Up to which instant everything committed is in what is left.
    pub(super) until: Option<Timestamp>,
    /// The newest log object there, by which the region is known again.
    pub(super) newest: Option<(LogSeq, Hash)>,
}

impl Driver {
    /// Every source is looked for, as soon as that may be.
    pub(super) fn all_are_looked_for(&mut self) {
        for known in self.sources.values_mut() {
            known.watch.look_soon();
        }
    }

    /// Somebody waits for what is found of a source.
    pub(super) fn look_for(&mut self, source: &SourceName, ticket: u64) {
        let away = !self.greeted || self.queue.outage().is_some();
        let Some(known) = self.sources.get_mut(source) else {
            return;
        };
        known.watch.asked.push(ticket);
        known.watch.due = true;
        if away {
            self.cannot_be_looked_for();
        }
    }

    /// The region is away: who waits is told so.
    pub(super) fn cannot_be_looked_for(&mut self) {
        for known in self.sources.values_mut() {
            let waiting = std::mem::take(&mut known.watch.asked);
            known.tell(&self.link, waiting, Found::Away);
        }
    }

    pub(super) fn begin_watches(&mut self) {
        let under_way = self.sources.values().filter(|one| one.watch.under_way);
        let room = AT_ONCE.saturating_sub(under_way.count());
        let queue = &self.queue;
        if queue.outage().is_some() {
            return;
        }
        let due = self.sources.iter_mut();
        let due = due.filter(|(_, one)| one.watch.due && !one.watch.under_way);
        let due = due.filter(|(_, one)| one.checked && !one.is_fenced());
        for (source, known) in due.take(room) {
            known.watch.due = false;
            let Some(lane) = queue.lane(source).cloned() else {
                continue;
            };
            known.watch.under_way = true;
            known.watch.answers = std::mem::take(&mut known.watch.asked);
            let (link, source) = (Arc::clone(&self.link), source.clone());
            let (epoch, seen) = (known.epoch(), known.watch.seen);
            let us = self.tools.greeter.signer.public();
            self.work.push(Box::pin(async move {
                let look = Look {
                    link: &link,
                    source: &source,
                    epoch,
                    lane: &lane,
                };
                let result = look.whole(seen).await;
                let result = match result {
                    Ok(Holding::Lost(loss)) => look.newest(&us, loss).await.map(Holding::Lost),
                    other => other,
                };
                Done::Watched {
                    source,
                    lane: Box::new(lane),
                    result,
                }
            }));
        }
    }

    pub(super) fn watched(
        &mut self,
        source: &SourceName,
        before: &Lane,
        result: Result<Holding, GreetError>,
    ) {
        let Some(known) = self.sources.get_mut(source) else {
            return;
        };
        known.watch.under_way = false;
        let waiting = std::mem::take(&mut known.watch.answers);
        match result {
            Ok(Holding::All(through)) => {
                // Of a log that has nothing there yet everything is still to be seen.
                known.watch.seen = through.or(Some(before.unbroken_from));
                known.tell(&self.link, waiting, Found::There);
            }
            Ok(Holding::Lost(loss)) => {
                let Some(lane) = self.queue.rolled_back(source, before, &loss) else {
                    // It is another lane since: looked at again.
                    known.watch.due = true;
                    known.watch.asked.extend(waiting);
                    return;
                };
                known.watch.seen = Some(lane.unbroken_from);
                known.checked = false;
                self.link.sessions().are_lost_in(&self.link.name);
                self.report(source, lane);
                self.release(source);
                self.say_rolled_back(source, Some(&loss));
                if let Some(known) = self.sources.get(source) {
                    known.tell(&self.link, waiting, Found::Gone);
                }
            }
            Err(error) => {
                known.tell(&self.link, waiting, Found::Away);
                self.greeted &= !matches!(error, GreetError::Ship(ShipError::Emptied { .. }));
                self.away(&error, meaning(&error));
            }
        }
    }

    /// Tells people, until the region is whole again.
    pub(super) fn say_rolled_back(&self, source: &SourceName, loss: Option<&Loss>) {
        let what = match loss {
            Some(Loss {
                gone,
                until: Some(until),
                ..
            }) => format!("{gone} is not there any more; what is left of {source} ends at {until}"),
            Some(Loss { gone, .. }) => format!("{gone} is not there any more"),
            None => format!("objects of {source} are not there any more"),
        };
        let text = format!(
            "the region lost what was durable in it: {what}. It was put back to an earlier state, or somebody removed \
             objects. What is gone counts as durable here no more; a complete base, which is made now, repairs the \
             region. What was committed in between can be restored from another region only"
        );
        let now = self.tools.clock.now();
        let about = self.link.name.as_str();
        tracing::error!(region = about, source = %source, "{text}");
        self.tools.board.alert(ROLLED_BACK, about, &text, now);
    }
}

impl Known {
    fn tell(&self, link: &RegionLink, tickets: Vec<u64>, found: Found) {
        for ticket in tickets {
            let region = link.name.clone();
            let report = Report::Found {
                region,
                ticket,
                found,
            };
            self.send(report);
        }
    }
}

/// A look at one source in one region.
#[derive(Debug, Clone, Copy)]
struct Look<'a> {
    link: &'a RegionLink,
    source: &'a SourceName,
    epoch: Epoch,
    lane: &'a Lane,
}

impl Look<'_> {
    fn key(&self, seq: LogSeq) -> Key {
        keys::log(self.source, self.epoch, seq)
    }

    /// Whether all that the lane names is there: the log from `seen` on, and the base.
    async fn whole(&self, seen: Option<LogSeq>) -> Result<Holding, GreetError> {
        let stores = self.link.stores().await?;
        let meta = &*stores.meta;
        loop {
            let log = self.first_gone(meta, seen).await?;
            let gone = match log {
                Some(seq) => Some(self.key(seq)),
                None => self.base_gone(meta).await?,
            };
            let Some(gone) = gone else {
                return Ok(Holding::All(self.lane.log_through));
            };
            tokio::time::sleep(LOOK_AGAIN).await;
            self.link.is_the_same().await?;
            if is_gone(meta, &gone).await? {
                let until = self.until(meta, log).await?;
                return Ok(Holding::Lost(Loss {
                    gone,
                    log,
                    until,
                    newest: None,
                }));
            }
            // The store showed it late: what comes after it is looked for, too.
        }
    }

    /// The first log object that the lane names and that is gone.
    async fn first_gone(
        &self,
        meta: &dyn ReadStore,
        seen: Option<LogSeq>,
    ) -> Result<Option<LogSeq>, GreetError> {
        let Some(through) = self.lane.log_through else {
            return Ok(None);
        };
        let from = seen.unwrap_or(through).max(self.lane.unbroken_from);
        let from = from.min(through);
        let listed = if from == through {
            BTreeSet::new()
        } else {
            self.names(meta, from, through).await?
        };
        for seq in (from.0..=through.0).map(LogSeq) {
            let key = self.key(seq);
            if !listed.contains(&key) && is_gone(meta, &key).await? {
                return Ok(Some(seq));
            }
        }
        Ok(None)
    }

    async fn names(
        &self,
        meta: &dyn ReadStore,
        from: LogSeq,
        through: LogSeq,
    ) -> Result<BTreeSet<Key>, GreetError> {
        let (prefix, last) = (keys::logs(self.source, self.epoch), self.key(through));
        let mut after = from.previous().map(|before| self.key(before));
        let mut names = BTreeSet::new();
        loop {
            let page = meta.list(&prefix, after.as_ref(), PAGE).await?;
            names.extend(page.entries.into_iter().map(|entry| entry.key));
            let newest = names.last().cloned();
            if !page.more || newest == after || newest.as_ref() >= Some(&last) {
                return Ok(names);
            }
            after = newest;
        }
    }

    async fn base_gone(&self, meta: &dyn ReadStore) -> Result<Option<Key>, GreetError> {
        let Some(base) = self.lane.base.map(|held| held.reference) else {
            return Ok(None);
        };
        let key = keys::base(self.source, self.epoch, base.generation, base.number);
        Ok(is_gone(meta, &key).await?.then_some(key))
    }

    /// Where what is left ends: at the log object before the first that is gone; at the begin of the base, if only
    /// that is.
    async fn until(
        &self,
        meta: &dyn ReadStore,
        log: Option<LogSeq>,
    ) -> Result<Option<Timestamp>, GreetError> {
        let last = match log {
            Some(gone) => self.last_before(meta, gone).await?,
            None => self.lane.base.map(|held| held.start),
        };
        let Some(last) = last else { return Ok(None) };
        let head = read_log(meta, &self.key(last)).await?;
        Ok(head.map(|found| {
            let LogHead {
                last_commit,
                captured_at,
                ..
            } = found.head;
            last_commit.unwrap_or(captured_at)
        }))
    }

    /// The last object of the unbroken log before one that is gone.
    async fn last_before(
        &self,
        meta: &dyn ReadStore,
        gone: LogSeq,
    ) -> Result<Option<LogSeq>, GreetError> {
        let (mut low, mut high) = (self.lane.unbroken_from.0, gone.0);
        while low < high {
            let middle = low + (high - low) / 2;
            if is_gone(meta, &self.key(LogSeq(middle))).await? {
                high = middle;
            } else {
                low = middle.saturating_add(1);
            }
        }
        Ok(LogSeq(low)
            .previous()
            .filter(|last| *last >= self.lane.unbroken_from))
    }

    /// Adds the newest log object that is there, if it is ours.
    async fn newest(
        &self,
        us: &tidemark_format::sign::PublicKey,
        loss: Loss,
    ) -> Result<Loss, GreetError> {
        let stores = self.link.stores().await?;
        let meta = &*stores.meta;
        let prefix = keys::logs(self.source, self.epoch);
        let newest = newest_name(meta, &prefix, |seq| self.key(LogSeq(seq))).await?;
        let Some(newest) = newest.map(LogSeq) else {
            return Ok(loss);
        };
        let found = read_log(meta, &self.key(newest)).await?;
        let ours =
            found.filter(|found| found.signer == *us && Some(newest) <= self.lane.log_through);
        Ok(Loss {
            newest: ours.map(|found| (newest, found.link)),
            ..loss
        })
    }
}

/// A log object; `None` if what stands there can't be read as one.
async fn read_log(
    meta: &dyn ReadStore,
    key: &Key,
) -> Result<Option<tidemark_ledger::Verified<LogHead>>, GreetError> {
    match read_verified::<LogHead>(meta, key, None).await {
        Ok(found) => Ok(Some(found)),
        Err(LedgerError::Storage(error)) if error.kind() != ErrorKind::Missing => Err(error.into()),
        Err(_other) => Ok(None),
    }
}

async fn is_gone(meta: &dyn ReadStore, key: &Key) -> Result<bool, GreetError> {
    match meta.head(key).await {
        Ok(_there) => Ok(false),
        Err(error) if error.kind() == ErrorKind::Missing => Ok(true),
        Err(error) => Err(error.into()),
    }
}
