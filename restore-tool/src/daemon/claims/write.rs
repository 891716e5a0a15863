//! Taking, keeping, ending and giving back a turn.
//!
//! The regions are asked in the same order by every host, and whoever finds the number taken in one of them
//! has lost: so of hosts that share a region one runs the drill. Hosts that share none may both run it;
//! then both records stand, and no data is the worse for it.

use jiff::Timestamp;
use serde_json::json;
use tidemark_format::heads::{DrillClaimHead, DrillStep, Facts};
use tidemark_format::{DrillName, Hash, PutId, SourceName};
use tidemark_host::RngExt as _;
use tidemark_ledger::{LedgerError, Signed};
use tidemark_storage::ErrorKind;

use super::{Claims, Reached};
use crate::daemon::plan::Planned;
use crate::error::{Error, Result};
use crate::repository::Tools;

/// Numbers that are tried for a step when others take them.
const TRIES_MAX: u32 = 64;

/// What came of trying to take a turn.
#[derive(Debug)]
pub(in crate::daemon) enum Take {
    /// It is ours.
    Won(Mine),
    /// Somebody else was first.
    Lost,
}

/// A turn that this host has.
#[derive(Debug, Clone)]
pub(in crate::daemon) struct Mine {
    drill: DrillName,
    source: SourceName,
    schedule: String,
    slot: Timestamp,
    claim: Hash,
    next: u32,
}

/// A step that is to be written.
struct Draft<'a> {
    of: &'a Mine,
    step: DrillStep,
    claim: Option<Hash>,
    until: Option<Timestamp>,
    facts: Facts,
    put: PutId,
}

impl Claims {
    /// Takes the turn of a slot until `until`; `put` stands in the host's note already.
    ///
    /// # Errors
    /// No region takes it.
    pub(in crate::daemon) async fn take(
        &mut self,
        planned: &Planned,
        (slot, attempt): (Timestamp, u32),
        put: PutId,
        until: Timestamp,
        tools: &Tools,
    ) -> Result<Take> {
        let book = self.books.get(&planned.drill.name);
        let highest = book.and_then(|book| book.highest.get(&slot));
        let mut mine = Mine {
            drill: planned.drill.name.clone(),
            source: planned.drill.source.clone(),
            schedule: planned.schedule_text.clone(),
            slot,
            claim: Hash([0; 32]),
            next: highest.map_or(0, |seq| seq.saturating_add(1)),
        };
        let draft = Draft {
            of: &mine,
            step: DrillStep::Taken,
            claim: None,
            until: Some(until),
            facts: Facts::from_iter([("attempt".to_owned(), json!(attempt))]),
            put,
        };
        let signed = self.sign(&draft, tools)?;
        let (mut stored, mut lost, mut failed) = (0, false, None);
        for region in self.regions() {
            match create(region, &signed).await {
                Ok(true) => stored += 1,
                Ok(false) => {
                    lost = true;
                    break;
                }
                Err(error) => failed = Some(error),
            }
        }
        mine.claim = signed.link;
        mine.next = mine.next.saturating_add(1);
        if lost {
            if stored > 0 {
                // Where it was taken it must not seem had; if this fails, its time runs out.
                drop(
                    self.say(&mut mine, DrillStep::Released, None, Facts::new(), tools)
                        .await,
                );
            }
            return Ok(Take::Lost);
        }
        match (stored, failed) {
            (0, Some(error)) => Err(error.into()),
            (0, None) => Err(Error::NoRegion),
            _ => Ok(Take::Won(mine)),
        }
    }

    /// Says more of a turn that this host has.
    ///
    /// # Errors
    /// No region takes it.
    pub(in crate::daemon) async fn say(
        &self,
        mine: &mut Mine,
        step: DrillStep,
        until: Option<Timestamp>,
        facts: Facts,
        tools: &Tools,
    ) -> Result<()> {
        for _ in 0..TRIES_MAX {
            let draft = Draft {
                of: mine,
                step,
                claim: Some(mine.claim),
                until,
                facts: facts.clone(),
                put: tools.rng.id(),
            };
            let signed = self.sign(&draft, tools)?;
            mine.next = mine.next.saturating_add(1);
            let (mut stored, mut taken, mut failed) = (0, false, None);
            for region in self.regions() {
                match create(region, &signed).await {
                    Ok(true) => stored += 1,
                    Ok(false) => taken = true,
                    Err(error) => failed = Some(error),
                }
            }
            match (stored, taken, failed) {
                (0, true, _) => {}
                (0, false, Some(error)) => return Err(error.into()),
                (0, false, None) => return Err(Error::NoRegion),
                _ => return Ok(()),
            }
        }
        Err(Error::RegionsSilent)
    }

    fn regions(&self) -> &[Reached] {
        self.opened
            .as_ref()
            .map_or(&[], |opened| opened.regions.as_slice())
    }

    fn sign(&self, draft: &Draft<'_>, tools: &Tools) -> Result<Signed> {
        let head = DrillClaimHead {
            repo: self.trust.repo,
            drill: draft.of.drill.clone(),
            source: draft.of.source.clone(),
            slot: draft.of.slot,
            seq: draft.of.next,
            put: draft.put,
            step: draft.step,
            claim: draft.claim,
            at: tools.clock.now(),
            until: draft.until,
            host: self.host.clone(),
            schedule: draft.of.schedule.clone(),
            facts: draft.facts.clone(),
        };
        Ok(Signed::new(&head, &self.signer)?)
    }
}

/// Creates a step in a region; false if its number is taken there.
async fn create(region: &Reached, signed: &Signed) -> std::result::Result<bool, LedgerError> {
    match signed.create(region.store.create.as_ref()).await {
        Ok(_created) => Ok(true),
        Err(LedgerError::Storage(error)) if error.kind() == ErrorKind::Exists => Ok(false),
        Err(error) => Err(error),
    }
}
