//! Claims and take-overs acted out over regions.
//!
//! Failure: a region that fails is left out and the machine decides whether enough are left.
//! Everything may be done again after a crash: claims and fences are create-only, and a claim
//! begun by the same state directory is gone on with.
//!
//! Cancellation: dropping a future leaves at most claims and fences behind, as a crash does.

use std::sync::Arc;

use futures_util::future::join_all;
use jiff::Timestamp;
use tidemark_format::heads::{ClaimHead, ClaimReason, EpochEnd, FenceHead};
use tidemark_format::sign::SigningKey;
use tidemark_format::{Epoch, LogSeq, RegionId, RegionName, SourceName, WriterId, keys};
use tidemark_host::{Rng, RngExt as _};
use tidemark_storage::{CreateStore, ErrorKind, ReadStore};

use super::inspect::{Foreign, claims, fence_at, link_at, newest_name};
use super::state::{
    Action, Decision, EpochSeen, Event, Failure, Mode, Observation, Rules, TakeOver,
};
use crate::object::Signed;
use crate::read::claim_name;
use crate::{Keyring, LedgerError, Result};

/// A region to claim and fence in.
#[derive(Debug, Clone)]
pub struct RegionHandle {
    /// Its name, for people.
    pub name: RegionName,
    /// Its own id: claims go in this order, the same on every host.
    pub id: RegionId,
    /// Its failure domain.
    pub domain: String,
    /// Reads `meta/`.
    pub read: Arc<dyn ReadStore>,
    /// Creates.
    pub create: Arc<dyn CreateStore>,
}

/// Who claims.
#[derive(Debug)]
pub struct Writer<'a> {
    /// The source.
    pub source: &'a SourceName,
    /// The state directory.
    pub writer: WriterId,
    /// The host, for people.
    pub host: &'a str,
    /// Signs claims and fences.
    pub key: &'a SigningKey,
    /// Whose signatures count.
    pub keyring: &'a Keyring,
    /// Makes put-ids.
    pub rng: &'a dyn Rng,
    /// Now, for people.
    pub now: Timestamp,
}

/// An epoch that is ours now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The epoch: to be written to the state directory before anything is shipped under it.
    pub epoch: Epoch,
    /// The writer that claimed it: to be written beside it. A take-over makes a new one, so that
    /// of two clones of one state directory neither takes the other's claim for its own.
    pub writer: WriterId,
    /// What object 0 must say; none for a source without a log.
    pub follows: Option<EpochEnd>,
    /// Regions that hold the claim. The others must be [`join`]ed before anything is written there.
    pub joined: Vec<RegionName>,
}

/// Claims a source that nobody ever claimed. A claim that the same state directory began is gone
/// on with, as long as nothing was written under it.
///
/// # Errors
/// [`LedgerError::Fenced`] when somebody did, [`LedgerError::TooFewRegions`].
pub async fn claim_new(
    regions: &[RegionHandle],
    durable_in: usize,
    writer: &Writer<'_>,
) -> Result<Claimed> {
    Run::new(regions, durable_in, writer, Mode::New, writer.writer)
        .drive()
        .await
}

/// Takes a source over from whoever writes it, because a person said so.
///
/// # Errors
/// [`LedgerError::Fenced`] when somebody else takes it over at this moment,
/// [`LedgerError::TooFewRegions`].
pub async fn take_over(
    regions: &[RegionHandle],
    durable_in: usize,
    writer: &Writer<'_>,
) -> Result<Claimed> {
    let me: WriterId = writer.rng.id();
    Run::new(regions, durable_in, writer, Mode::TakeOver, me)
        .drive()
        .await
}

/// Brings claim and fences to a region that was away when the epoch was claimed. To be done before
/// anything is written there under `epoch`.
///
/// # Errors
/// [`LedgerError::Fenced`] when another writer has it there; the region's.
pub async fn join(region: &RegionHandle, epoch: Epoch, writer: &Writer<'_>) -> Result<()> {
    let seen = observe(region, writer).await?;
    if let Some(later) = seen.keys().next_back().filter(|later| **later > epoch) {
        return Err(foreign(region, writer, *later).await);
    }
    let reason = if epoch == Epoch(1) {
        ClaimReason::New
    } else {
        ClaimReason::TakeOver
    };
    if !claim(region, writer, writer.writer, (epoch, reason)).await? {
        return Err(foreign(region, writer, epoch).await);
    }
    for (old, seen) in seen.range(..epoch) {
        let mut at = seen.next;
        loop {
            match fence(region, writer, (*old, at), (epoch, writer.writer)).await? {
                Fenced::Stands => break,
                Fenced::Occupied => at = at.next(),
                Fenced::Outrun(by) => return Err(foreign(region, writer, by).await),
            }
        }
    }
    Ok(())
}

/// What trying to fence a name has shown.
enum Fenced {
    Stands,
    Occupied,
    Outrun(Epoch),
}

struct Run<'a> {
    regions: Vec<&'a RegionHandle>,
    writer: &'a Writer<'a>,
    mode: Mode,
    me: WriterId,
    rules: Rules,
    last_error: Option<LedgerError>,
}

impl<'a> Run<'a> {
    fn new(
        regions: &'a [RegionHandle],
        durable_in: usize,
        writer: &'a Writer<'a>,
        mode: Mode,
        me: WriterId,
    ) -> Self {
        let mut regions: Vec<&RegionHandle> = regions.iter().collect();
        regions.sort_by_key(|region| region.id);
        let mut names: Vec<&str> = regions
            .iter()
            .map(|region| region.domain.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        let number = |region: &&RegionHandle| names.iter().position(|name| *name == region.domain);
        let domains = regions
            .iter()
            .map(|region| number(region).unwrap_or_default())
            .collect();
        let rules = Rules::new(domains, durable_in);
        Self {
            regions,
            writer,
            mode,
            me,
            rules,
            last_error: None,
        }
    }

    async fn drive(mut self) -> Result<Claimed> {
        let mut machine = TakeOver::new(self.rules.clone(), self.mode, self.me);
        // No region at all: there is nothing to act on and nothing that would fail.
        if self.regions.is_empty() {
            return Err(self.too_few(0));
        }
        loop {
            match machine.outcome() {
                Ok(Some(decision)) => return self.finish(decision).await,
                Ok(None) => {}
                Err(Failure::TooFew { reached }) => return Err(self.too_few(reached)),
                Err(Failure::Foreign { epoch, region }) => {
                    return Err(match self.regions.get(region) {
                        Some(region) => foreign(region, self.writer, epoch).await,
                        None => self.too_few(0),
                    });
                }
            }
            let actions = machine.actions();
            let results = join_all(actions.iter().map(|action| self.act(*action, &machine))).await;
            for (action, result) in actions.iter().zip(results) {
                let (Action::Observe { region }
                | Action::Claim { region, .. }
                | Action::Fence { region, .. }) = *action;
                let event = result.unwrap_or_else(|error| {
                    self.last_error = Some(error);
                    Event::Lost { region }
                });
                machine.on(event);
            }
        }
    }

    async fn act(&self, action: Action, machine: &TakeOver) -> Result<Event> {
        match action {
            Action::Observe { region } => {
                let seen = observe(self.handle(region)?, self.writer).await?;
                Ok(Event::Observed { region, seen })
            }
            Action::Claim { region, epoch } => {
                let reason = match self.mode {
                    Mode::New => ClaimReason::New,
                    Mode::TakeOver => ClaimReason::TakeOver,
                };
                let ours =
                    claim(self.handle(region)?, self.writer, self.me, (epoch, reason)).await?;
                Ok(if ours {
                    Event::Claimed { region }
                } else {
                    Event::ClaimTaken { region }
                })
            }
            Action::Fence { region, epoch, at } => {
                let by = machine.ours().unwrap_or(epoch);
                match fence(
                    self.handle(region)?,
                    self.writer,
                    (epoch, at),
                    (by, self.me),
                )
                .await?
                {
                    Fenced::Stands => Ok(Event::Fenced { region, at }),
                    Fenced::Occupied => Ok(Event::Occupied { region, at }),
                    Fenced::Outrun(by) => Ok(Event::Outrun { region, by }),
                }
            }
        }
    }

    fn handle(&self, region: usize) -> Result<&'a RegionHandle> {
        self.regions
            .get(region)
            .copied()
            .ok_or_else(|| LedgerError::Chain {
                key: format!("region {region}"),
                why: "there is no such region".to_owned(),
            })
    }

    fn too_few(&mut self, reached: usize) -> LedgerError {
        LedgerError::TooFewRegions {
            action: match self.mode {
                Mode::New => "the claim of a new source",
                Mode::TakeOver => "a take-over",
            },
            reached,
            needed: self.rules.needed(),
            total: self.rules.total(),
            source: self.last_error.take().map(Box::new),
        }
    }

    async fn finish(&self, decision: &Decision) -> Result<Claimed> {
        let follows = match (decision.follows, decision.read_from) {
            (Some((epoch, seq)), Some(region)) => {
                let key = keys::log(self.writer.source, epoch, seq);
                let store = self.handle(region)?.read.as_ref();
                let link = link_at(store, self.writer.keyring, &key).await?;
                Some(EpochEnd {
                    epoch,
                    seq: Some(seq),
                    link: Some(link),
                })
            }
            (Some(_) | None, _) => None,
        };
        let joined = decision
            .regions
            .iter()
            .filter_map(|at| self.regions.get(*at));
        Ok(Claimed {
            epoch: decision.epoch,
            writer: self.me,
            follows,
            joined: joined.map(|region| region.name.clone()).collect(),
        })
    }
}

/// What a region shows of the source: every claimed name, also one that doesn't count (its name
/// can't be had any more), with the next free sequence of its log.
async fn observe(region: &RegionHandle, writer: &Writer<'_>) -> Result<Observation> {
    let store = region.read.as_ref();
    let listed = crate::read::list_all(store, &keys::claims(writer.source)).await?;
    let good = claims(store, writer.keyring, writer.source).await?;
    let mut seen = Observation::new();
    for entry in listed {
        let Some((_source, epoch)) = claim_name(&entry.key) else {
            continue;
        };
        let by = good.iter().find(|claim| claim.head.epoch == epoch);
        let mut shown = EpochSeen {
            writer: by.map(|claim| claim.head.writer),
            ..EpochSeen::default()
        };
        let name = |seq| keys::log(writer.source, epoch, LogSeq(seq));
        let prefix = keys::logs(writer.source, epoch);
        if let Some(last) = newest_name(store, &prefix, name).await? {
            let fence = fence_at(store, writer.keyring, &name(last)).await;
            shown.fenced = match fence {
                Ok(fence) => fence.is_some(),
                // Whatever stands there, the next name is free.
                Err(error) if error.is_about_the_object() => false,
                Err(error) => return Err(error),
            };
            shown.next = if shown.fenced {
                LogSeq(last)
            } else {
                LogSeq(last).next()
            };
        }
        seen.insert(epoch, shown);
    }
    Ok(seen)
}

/// Creates our claim; `false` when it is another's.
async fn claim(
    region: &RegionHandle,
    writer: &Writer<'_>,
    me: WriterId,
    (epoch, reason): (Epoch, ClaimReason),
) -> Result<bool> {
    let head = ClaimHead {
        repo: writer.keyring.repo(),
        source: writer.source.clone(),
        epoch,
        writer: me,
        host: writer.host.to_owned(),
        put: writer.rng.id(),
        at: writer.now,
        reason,
    };
    match Signed::new(&head, writer.key)?
        .create(region.create.as_ref())
        .await
    {
        Ok(_created) => Ok(true),
        Err(LedgerError::Storage(error)) if error.kind() == ErrorKind::Exists => {
            let all = claims(region.read.as_ref(), writer.keyring, writer.source).await?;
            let held = all.iter().find(|claim| claim.head.epoch == epoch);
            Ok(held.is_some_and(|claim| claim.head.writer == me))
        }
        Err(error) => Err(error),
    }
}

/// Fences a name for our epoch.
async fn fence(
    region: &RegionHandle,
    writer: &Writer<'_>,
    (epoch, seq): (Epoch, LogSeq),
    (ours, me): (Epoch, WriterId),
) -> Result<Fenced> {
    let head = FenceHead {
        repo: writer.keyring.repo(),
        source: writer.source.clone(),
        epoch,
        seq,
        put: writer.rng.id(),
        by_epoch: ours,
        by_writer: me,
        at: writer.now,
    };
    let signed = Signed::new(&head, writer.key)?;
    match signed.create(region.create.as_ref()).await {
        Ok(_created) => Ok(Fenced::Stands),
        Err(LedgerError::Storage(error)) if error.kind() == ErrorKind::Exists => {
            let held = fence_at(region.read.as_ref(), writer.keyring, &signed.key).await;
            match held {
                Ok(Some(fence)) if fence.by_epoch > ours => Ok(Fenced::Outrun(fence.by_epoch)),
                Ok(Some(_)) => Ok(Fenced::Stands),
                Ok(None) => Ok(Fenced::Occupied),
                Err(error) if error.is_about_the_object() => Ok(Fenced::Occupied),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// The error that names who has the source; if even that can't be read, the reason why.
async fn foreign(region: &RegionHandle, writer: &Writer<'_>, epoch: Epoch) -> LedgerError {
    let all = match claims(region.read.as_ref(), writer.keyring, writer.source).await {
        Ok(all) => all,
        Err(error) => return error,
    };
    let unknown = || Foreign {
        epoch,
        writer: WriterId([0; 16]),
        host: String::new(),
        since: Timestamp::UNIX_EPOCH,
        newest: None,
    };
    let claim = all
        .iter()
        .rfind(|claim| claim.head.epoch == epoch)
        .or_else(|| all.last());
    let found = claim.map_or_else(unknown, |claim| Foreign {
        epoch: claim.head.epoch,
        writer: claim.head.writer,
        host: claim.head.host.clone(),
        since: claim.head.at,
        newest: None,
    });
    found.error(writer.source)
}
