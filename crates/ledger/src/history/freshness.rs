//! Is a region as new as the others? A store that was rolled back shows only good, signed, linked
//! objects: nothing in it tells, only another region or a number noted elsewhere does.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use tidemark_format::{Epoch, Hash, LogSeq, PointSeq, RegionName};

use super::SourceHistory;
use crate::{LedgerError, Result};

/// The newest recovery point of a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tip {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its place in the epoch.
    pub point: PointSeq,
    /// Its link.
    pub link: Hash,
    /// The last log object it covers.
    pub log_seq: LogSeq,
    /// Everything committed up to here is covered.
    pub committed: Timestamp,
}

impl Tip {
    const fn order(&self) -> (Epoch, PointSeq) {
        (self.epoch, self.point)
    }
}

impl fmt::Display for Tip {
    /// As `--expect` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.point, self.link)
    }
}

/// A region that lacks what another one has: rolled back, or not caught up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Older {
    /// The region.
    pub region: RegionName,
    /// The newest point there.
    pub newest_here: Option<Tip>,
    /// The newest point elsewhere.
    pub newest_elsewhere: Tip,
}

/// What comparing the regions has shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Freshness {
    /// The newest point of all regions.
    pub newest: Option<Tip>,
    /// Regions that have it.
    pub fresh: Vec<RegionName>,
    /// Regions that don't.
    pub older: Vec<Older>,
    /// Regions that hold another point under the same name: a fork, never to be used.
    pub forked: Vec<RegionName>,
    /// Whether two regions could be compared at all; from one alone freshness can't be proved.
    pub compared: bool,
}

impl Freshness {
    /// Compares the newest points of several regions.
    #[must_use]
    pub fn compare(tips: &[(RegionName, Option<Tip>)]) -> Self {
        let newest = tips
            .iter()
            .filter_map(|(_, tip)| tip.clone())
            .max_by_key(Tip::order);
        let mut found = Self {
            compared: tips.len() > 1,
            ..Self::default()
        };
        let Some(best) = &newest else { return found };
        for (region, tip) in tips {
            match tip {
                Some(tip) if tip.order() == best.order() && tip.link == best.link => {
                    found.fresh.push(region.clone());
                }
                Some(tip) if tip.order() == best.order() => found.forked.push(region.clone()),
                Some(_) | None => found.older.push(Older {
                    region: region.clone(),
                    newest_here: tip.clone(),
                    newest_elsewhere: best.clone(),
                }),
            }
        }
        found.newest = newest;
        found
    }

    /// Why `region` must not be used alone, if so.
    ///
    /// # Errors
    /// [`LedgerError::Older`], or [`LedgerError::Chain`] for a fork.
    pub fn check(&self, region: &RegionName) -> Result<()> {
        if self.forked.contains(region) {
            return Err(LedgerError::Chain {
                key: format!("the newest recovery point of region {region}"),
                why: "another region holds a different one under the same name".to_owned(),
            });
        }
        let Some(older) = self.older.iter().find(|older| older.region == *region) else {
            return Ok(());
        };
        let here = older.newest_here.as_ref().map_or_else(
            || "has no recovery point".to_owned(),
            |tip| format!("ends at point {} of {}", tip.point, tip.committed),
        );
        let elsewhere = &older.newest_elsewhere;
        Err(LedgerError::Older {
            why: format!(
                "{region} {here}, another region at point {} of {}",
                elsewhere.point, elsewhere.committed
            ),
        })
    }
}

/// `SEQ:HASH`: a recovery point noted elsewhere that a region must have. The hash may be cut to its
/// first eight digits or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    seq: PointSeq,
    hash: String,
}

/// Fewer digits could be met by chance.
const EXPECT_DIGITS_MIN: usize = 8;

impl FromStr for Expect {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(seq, hash)| {
            let hash = hash.to_ascii_lowercase();
            let hex = hash.bytes().all(|digit| digit.is_ascii_hexdigit());
            let fits = (EXPECT_DIGITS_MIN..=2 * Hash::LEN).contains(&hash.len());
            (hex && fits).then_some(Self {
                seq: PointSeq(seq.parse().ok()?),
                hash,
            })
        });
        parsed.ok_or_else(|| {
            format!(
                "expected SEQ:HASH, e.g. 1042:9f86d081, with at least {EXPECT_DIGITS_MIN} hex digits, got {text:?}"
            )
        })
    }
}

impl Expect {
    /// Checks that the region behind `history` has the expected point.
    ///
    /// # Errors
    /// [`LedgerError::Older`].
    pub fn check(&self, history: &SourceHistory) -> Result<()> {
        let has = history
            .epochs()
            .flat_map(|epoch| &epoch.points)
            .any(|point| {
                point.head.seq == self.seq && point.link.to_string().starts_with(&self.hash)
            });
        if has {
            return Ok(());
        }
        let newest = history.newest_point().map_or_else(
            || "it has no recovery point".to_owned(),
            |point| format!("its newest is {}:{}", point.head.seq, point.link.short()),
        );
        Err(LedgerError::Older {
            why: format!(
                "it lacks recovery point {}:{}, {newest}",
                self.seq, self.hash
            ),
        })
    }
}
