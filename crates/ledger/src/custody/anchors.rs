//! What a key to be revoked has signed by then: written into the keyring, so that whoever has the
//! key afterwards can't make anything count by writing an old date into it.
//!
//! All readable regions are asked. Where they hold different last objects each is listed, the
//! furthest first: what one region lacks can't be forged there up to what another one holds
//! ([`crate::history`] says how they are read).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use tidemark_format::heads::{
    Anchors, BaseAnchor, ClaimAnchor, FenceAnchor, PointAnchor, ValidUntil,
};
use tidemark_format::sign::PublicKey;
use tidemark_format::{BaseNumber, Epoch, Hash, LogSeq};

use crate::Result;
use crate::history::{EpochHistory, SourceHistory, Standing};

/// What a key to be revoked has written and stays valid: for every epoch it wrote, the last log
/// object that counts in each of the regions read, the furthest first.
///
/// # Errors
/// The regions'; an object that should count and is damaged is not one: the last good one before
/// it is taken.
pub async fn valid_until(histories: &[SourceHistory], key: &PublicKey) -> Result<Vec<ValidUntil>> {
    let mut found: BTreeMap<(Epoch, Reverse<LogSeq>, Hash), ValidUntil> = BTreeMap::new();
    for history in histories {
        let epochs: Vec<Epoch> = history.epochs().map(|epoch| epoch.epoch).collect();
        for epoch in epochs {
            if let Some(last) = last_by(history, epoch, key).await? {
                found.insert((last.epoch, Reverse(last.seq), last.link), last);
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Adds to `signed` what `key` has signed besides the log in the regions of `histories`, which are
/// all of one source.
pub fn anchors(histories: &[SourceHistory], key: &PublicKey, signed: &mut Anchors) {
    let mut points = BTreeSet::new();
    let mut bases = BTreeSet::new();
    let mut singles = BTreeSet::new();
    let Some(source) = histories.first().map(SourceHistory::source) else {
        return;
    };
    for epoch in histories.iter().flat_map(SourceHistory::all_epochs) {
        let last = last_point(epoch, key);
        points.extend(last.map(|(seq, link)| (epoch.epoch, Reverse(seq), link)));
        let last = last_bases(epoch, key).into_iter();
        bases.extend(
            last.map(|(generation, (number, link))| {
                (epoch.epoch, generation, Reverse(number), link)
            }),
        );
        let claim = epoch.claim.as_ref().filter(|claim| claim.signer == *key);
        singles.extend(claim.map(|claim| (epoch.epoch, None, claim.link)));
        let fence = epoch.fence.as_ref().filter(|fence| fence.signer == *key);
        singles.extend(fence.map(|fence| (epoch.epoch, Some(fence.head.seq), fence.link)));
    }
    let points = points.into_iter().map(|(epoch, seq, link)| PointAnchor {
        source: source.clone(),
        epoch,
        seq: seq.0,
        link,
    });
    signed.points.extend(points);
    let bases = bases.into_iter();
    let bases = bases.map(|(epoch, generation, number, link)| BaseAnchor {
        source: source.clone(),
        epoch,
        generation,
        number: number.0,
        link,
    });
    signed.bases.extend(bases);
    for (epoch, fenced_at, link) in singles {
        let source = source.clone();
        match fenced_at {
            None => signed.claims.push(ClaimAnchor {
                source,
                epoch,
                link,
            }),
            Some(seq) => signed.fences.push(FenceAnchor {
                source,
                epoch,
                seq,
                link,
            }),
        }
    }
}

/// The last recovery point of an epoch by `key`; void ones count, for they are void by their own
/// epoch's end.
fn last_point(epoch: &EpochHistory, key: &PublicKey) -> Option<(tidemark_format::PointSeq, Hash)> {
    let all = epoch.points.iter().chain(&epoch.void_points);
    let own = all.filter(|point| point.signer == *key);
    own.map(|point| (point.head.seq, point.link)).max()
}

fn last_bases(epoch: &EpochHistory, key: &PublicKey) -> BTreeMap<LogSeq, (BaseNumber, Hash)> {
    let mut last: BTreeMap<LogSeq, (BaseNumber, Hash)> = BTreeMap::new();
    let whole = epoch.bases.iter().chain(&epoch.void_bases);
    let all = whole.chain(&epoch.orphans).chain(&epoch.void_orphans);
    for base in all.filter(|base| base.signer == *key) {
        let entry = (base.head.number, base.link);
        let known = last.entry(base.head.generation).or_insert(entry);
        *known = (*known).max(entry);
    }
    last
}

/// The last good object of an epoch, if `key` wrote the epoch.
async fn last_by(
    history: &SourceHistory,
    epoch: Epoch,
    key: &PublicKey,
) -> Result<Option<ValidUntil>> {
    let Some(shown) = history.epoch(epoch) else {
        return Ok(None);
    };
    let wrote = shown
        .claim
        .as_ref()
        .is_some_and(|claim| claim.signer == *key);
    if !wrote {
        return Ok(None);
    }
    // Past the newest point only what is dense counts; an ended epoch counts to its end.
    let sealed = shown
        .points
        .last()
        .map_or_else(|| shown.first_seq(), |point| point.head.log_seq);
    let mut end = match shown.standing {
        Standing::Ended { last, .. } => last.next(),
        Standing::Live | Standing::EndUnknown { .. } | Standing::Claimed | Standing::Void => {
            shown.dense_end(sealed)
        }
    };
    while let Some(seq) = end.previous() {
        let entries = history.log(epoch, seq..LogSeq(end.0)).await?;
        if let Some(object) = entries.first().and_then(|entry| entry.state.object())
            && object.signer == *key
        {
            let source = history.source().clone();
            return Ok(Some(ValidUntil {
                source,
                epoch,
                seq,
                link: object.link,
            }));
        }
        end = seq;
    }
    Ok(None)
}
