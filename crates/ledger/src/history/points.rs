//! Whether a region's recovery points follow one another, and what it means where some are missing.

use tidemark_format::heads::{PointHead, Role};
use tidemark_format::{Epoch, PointSeq, keys};
use tidemark_storage::ListEntry;

use super::SourceHistory;
use crate::object::Verified;
use crate::read::read_verified;
use crate::{LedgerError, Result};

impl SourceHistory {
    /// Points that are not here. A region that was being repaired gets none until it holds a newer base
    /// (FORMAT.md, section 7), so a hole between points that rest on different bases is a repair;
    /// on one and the same base somebody removed them.
    pub(super) async fn missing_points(
        &mut self,
        epoch: Epoch,
        names: &[(PointSeq, ListEntry)],
    ) -> Result<()> {
        for pair in names.windows(2) {
            let [(before, entry_before), (after, entry_after)] = pair else {
                continue;
            };
            if before.next() != *after {
                let beside = [entry_before.clone(), entry_after.clone()];
                if self.was_repaired(&beside).await? {
                    continue;
                }
                let key = keys::point(&self.source, epoch, before.next());
                let why = format!(
                    "recovery points {} to {after} are not all here",
                    before.next()
                );
                self.trouble(
                    &key,
                    LedgerError::Chain {
                        key: key.to_string(),
                        why,
                    },
                );
            }
        }
        Ok(())
    }

    /// Whether the points beside a hole rest on different bases. One that can't be read says so itself.
    async fn was_repaired(&self, beside: &[ListEntry; 2]) -> Result<bool> {
        let mut bases = Vec::with_capacity(beside.len());
        for entry in beside {
            let store = self.store.as_ref();
            match read_verified::<PointHead>(store, &entry.key, Some(entry.size)).await {
                Ok(point) if self.keyring.accept(&point, &[Role::Agent]).is_ok() => {
                    bases.push(point.head.base);
                }
                Ok(_) => return Ok(false),
                Err(error) if error.is_about_the_object() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(bases.first() != bases.last())
    }

    /// Points that follow one another; one that doesn't is a trouble and left out.
    pub(super) fn chained(&mut self, read: Vec<Verified<PointHead>>) -> Vec<Verified<PointHead>> {
        let mut good: Vec<Verified<PointHead>> = Vec::with_capacity(read.len());
        for point in read {
            let why = good.last().and_then(|before| unlinked(before, &point));
            match why {
                None => good.push(point),
                Some(why) => {
                    let key = point.key.to_string();
                    self.trouble(
                        &key,
                        LedgerError::Chain {
                            key: key.clone(),
                            why,
                        },
                    );
                }
            }
        }
        good
    }
}

fn unlinked(before: &Verified<PointHead>, point: &Verified<PointHead>) -> Option<String> {
    let adjacent = before.head.seq.next() == point.head.seq;
    if adjacent && point.head.prev != Some(before.link) {
        return Some(format!(
            "it does not follow recovery point {} before it",
            before.head.seq
        ));
    }
    if point.head.log_seq < before.head.log_seq {
        return Some(format!(
            "it covers log object {} and the point before it already {}",
            point.head.log_seq, before.head.log_seq
        ));
    }
    None
}
