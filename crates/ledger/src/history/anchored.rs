//! What of a revoked key's objects hangs on the anchors that its revocation names.
//!
//! A revocation lists, for each region that was read then, the last log object of an epoch, the
//! last recovery point, the last base of a generation. Of a region that holds one of them only
//! what links up to the furthest it holds counts: neither what was put in place of an object that
//! the region had lost, nor what was added past it where another region holds more. A region that
//! holds none of them (it was away at the revocation, and behind) is believed up to the furthest
//! place that the revocation names, for it may be the only one left.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidemark_format::heads::{BaseHead, PointHead};
use tidemark_format::sign::PublicKey;
use tidemark_format::{Epoch, Hash, LogSeq};

use super::heads::{LogEntry, LogState};
use super::{EpochHistory, SourceHistory};
use crate::Result;
use crate::object::{Placed, Verified};

impl SourceHistory {
    /// Leaves out the points of one epoch, oldest first, that don't hang on an anchor.
    pub(super) fn anchored_points(
        &mut self,
        epoch: Epoch,
        read: Vec<Verified<PointHead>>,
    ) -> Vec<Verified<PointHead>> {
        let mut refused = BTreeSet::new();
        for signer in signers(&read) {
            let Some(anchors) = self.keyring.anchors(&signer) else {
                continue;
            };
            let own = |point: &&Verified<PointHead>| point.signer == signer;
            let listed = anchors.points.iter().filter(|last| last.epoch == epoch);
            let listed = listed.filter(|last| last.source == self.source);
            let here = listed.filter(|last| {
                let mut own = read.iter().filter(own);
                own.any(|point| (point.head.seq, point.link) == (last.seq, last.link))
            });
            let Some(held) = here.max_by_key(|last| last.seq) else {
                continue;
            };
            let mut expected = Some((held.seq, Some(held.link)));
            for point in read.iter().filter(own).rev() {
                let seq = point.head.seq;
                let replaced = expected.is_some_and(|(place, link)| {
                    place == seq && link.is_some_and(|link| link != point.link)
                });
                if seq > held.seq || replaced {
                    refused.insert(point.link);
                    continue;
                }
                expected = seq.previous().map(|before| (before, point.head.prev));
            }
        }
        self.leave_out(read, &refused)
    }

    /// Leaves out the bases that don't hang on an anchor.
    pub(super) fn anchored_bases(
        &mut self,
        read: Vec<Verified<BaseHead>>,
    ) -> Vec<Verified<BaseHead>> {
        let mut refused = BTreeSet::new();
        for signer in signers(&read) {
            let Some(anchors) = self.keyring.anchors(&signer) else {
                continue;
            };
            let own: Vec<_> = read.iter().filter(|base| base.signer == signer).collect();
            let mut wanted: Vec<Hash> = anchors.bases.iter().map(|last| last.link).collect();
            let (mut linked, mut held) = (BTreeSet::new(), BTreeSet::new());
            while let Some(link) = wanted.pop() {
                let Some(base) = own.iter().find(|base| base.link == link) else {
                    continue;
                };
                held.insert((base.head.epoch, base.head.generation));
                if linked.insert(link) {
                    wanted.extend(base.head.parent.map(|parent| parent.link));
                }
            }
            let stray = own.iter().filter(|base| {
                held.contains(&(base.head.epoch, base.head.generation))
                    && !linked.contains(&base.link)
            });
            refused.extend(stray.map(|base| base.link));
        }
        self.leave_out(read, &refused)
    }

    /// Marks the log objects past the furthest anchor that this region holds, where another one
    /// held more.
    pub(super) async fn refuse_past_anchors(
        &self,
        history: &EpochHistory,
        entries: &mut [LogEntry],
    ) -> Result<()> {
        let objects = entries.iter().filter_map(|entry| entry.state.object());
        let mut signers: Vec<PublicKey> = Vec::new();
        for object in objects {
            if !signers.contains(&object.signer) {
                signers.push(object.signer);
            }
        }
        for signer in signers {
            let Some(held) = self.held(history, &signer).await? else {
                continue;
            };
            for entry in entries.iter_mut().filter(|entry| entry.seq > held) {
                let Some(object) = entry.state.object() else {
                    continue;
                };
                if object.signer == signer {
                    let refusal = self.keyring.refusal(object);
                    entry.state = LogState::Damaged(Arc::new(refusal));
                }
            }
        }
        Ok(())
    }

    /// The furthest of several anchors that this region holds.
    async fn held(&self, history: &EpochHistory, signer: &PublicKey) -> Result<Option<LogSeq>> {
        let anchors = self
            .keyring
            .log_anchors(signer, &self.source, history.epoch);
        let mut anchors: Vec<(LogSeq, Hash)> = anchors.map(|last| (last.seq, last.link)).collect();
        if anchors.len() < 2 {
            return Ok(None);
        }
        anchors.sort_unstable();
        for (seq, link) in anchors.into_iter().rev() {
            let state = self.state_at(history, seq).await?;
            if state.object().is_some_and(|object| object.link == link) {
                return Ok(Some(seq));
            }
        }
        Ok(None)
    }

    /// Takes out of `read` what is `refused`, which becomes a trouble.
    fn leave_out<H: Placed>(
        &mut self,
        read: Vec<Verified<H>>,
        refused: &BTreeSet<Hash>,
    ) -> Vec<Verified<H>> {
        let (refused, good): (Vec<_>, Vec<_>) = read
            .into_iter()
            .partition(|object| refused.contains(&object.link));
        for object in refused {
            let refusal = self.keyring.refusal(&object);
            self.trouble(&object.key, refusal);
        }
        good
    }
}

fn signers<H>(read: &[Verified<H>]) -> Vec<PublicKey> {
    let mut all: Vec<PublicKey> = Vec::new();
    for object in read {
        if !all.contains(&object.signer) {
            all.push(object.signer);
        }
    }
    all
}
