//! Whether the spool may grow, and what gives way when it may not.
//!
//! The measuring asks the file system at most once a second; the deciding ([`give_way`]) is pure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidemark_format::{RegionName, SourceName};
use tidemark_host::{ByteSize, Clock, KeepFree, Monotonic};

use crate::state::SpoolUsage;

/// How long an answer of the file system is believed.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The spool's bounds.
#[derive(Debug)]
pub struct Room {
    usage: SpoolUsage,
    bytes_max: u64,
    keep_free: KeepFree,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    asked: Mutex<Option<(Monotonic, u64)>>,
}

impl Room {
    /// Bounds for the spools below `folder`.
    #[must_use]
    pub fn new(
        usage: SpoolUsage,
        bytes_max: ByteSize,
        keep_free: KeepFree,
        folder: PathBuf,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let bytes_max = bytes_max.get();
        Self {
            usage,
            bytes_max,
            keep_free,
            folder,
            clock,
            asked: Mutex::default(),
        }
    }

    /// What all spools hold, as it is counted.
    #[must_use]
    pub const fn usage(&self) -> &SpoolUsage {
        &self.usage
    }

    /// The most that all spools may hold.
    #[must_use]
    pub const fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Whether `bytes` more may be spooled.
    #[must_use]
    pub fn has(&self, bytes: u64) -> bool {
        self.usage.bytes().saturating_add(bytes) <= self.bytes_max && bytes <= self.free()
    }

    /// Bytes that the file system can give without falling below what stays free.
    fn free(&self) -> u64 {
        let now = self.clock.monotonic();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, free)) = *asked
            && now.since(at) < ASK_EVERY
        {
            return free;
        }
        let free = match rustix::fs::statvfs(&self.folder) {
            Ok(stat) => {
                let total = stat.f_blocks.saturating_mul(stat.f_frsize);
                let free = stat.f_bavail.saturating_mul(stat.f_frsize);
                free.saturating_sub(self.keep_free.of(total))
            }
            // Writing will tell.
            Err(_unknown) => u64::MAX,
        };
        *asked = Some((now, free));
        free
    }
}

/// What gives way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GiveWay {
    /// This region's backlog of this source: another region has it.
    Backlog {
        /// The source.
        source: SourceName,
        /// The region.
        region: RegionName,
    },
    /// Nothing that is durable anywhere: what waits was shipped nowhere.
    Nothing,
}

/// Which backlog frees the most, given each source's backlogs by region. Giving a region's backlog
/// up frees what no other region still needs.
#[must_use]
pub fn give_way(backlogs: &BTreeMap<SourceName, BTreeMap<RegionName, u64>>) -> GiveWay {
    let freed = backlogs.iter().filter_map(|(source, regions)| {
        let (region, largest) = regions.iter().max_by_key(|(_, bytes)| **bytes)?;
        let others = regions.iter().filter(|(name, _)| *name != region);
        let second = others.map(|(_, bytes)| *bytes).max()?;
        Some((largest.saturating_sub(second), source, region))
    });
    match freed.max_by_key(|(bytes, _, _)| *bytes) {
        Some((bytes, source, region)) if bytes > 0 => GiveWay::Backlog {
            source: source.clone(),
            region: region.clone(),
        },
        _ => GiveWay::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use tidemark_host::SystemClock;

    use super::*;

    fn backlogs(of: &[(&str, &[(&str, u64)])]) -> BTreeMap<SourceName, BTreeMap<RegionName, u64>> {
        let regions = |list: &[(&str, u64)]| {
            list.iter()
                .map(|(name, bytes)| (RegionName::new(*name).unwrap(), *bytes))
                .collect()
        };
        of.iter()
            .map(|(name, list)| (SourceName::new(*name).unwrap(), regions(list)))
            .collect()
    }

    #[test]
    fn the_backlog_that_frees_the_most_gives_way() {
        let all = backlogs(&[
            ("a", &[("x", 10), ("y", 90)]),
            ("b", &[("x", 500), ("y", 480)]),
        ]);
        let expected = GiveWay::Backlog {
            source: SourceName::new("a").unwrap(),
            region: RegionName::new("y").unwrap(),
        };
        assert_eq!(give_way(&all), expected);
    }

    #[test]
    fn what_was_shipped_nowhere_does_not_give_way_silently() {
        assert_eq!(
            give_way(&backlogs(&[("a", &[("x", 90), ("y", 90)])])),
            GiveWay::Nothing
        );
        assert_eq!(
            give_way(&backlogs(&[("a", &[("x", 90)])])),
            GiveWay::Nothing
        );
        assert_eq!(give_way(&BTreeMap::new()), GiveWay::Nothing);
    }

    #[test]
    fn the_spool_is_bounded_by_its_maximum_and_by_what_stays_free() {
        let folder = std::env::temp_dir();
        let room = |max, keep| {
            let usage = SpoolUsage::default();
            Room::new(
                usage,
                ByteSize::bytes(max),
                keep,
                folder.clone(),
                SystemClock::shared(),
            )
        };
        let nothing = KeepFree::Bytes(ByteSize::bytes(0));
        assert!(room(100, nothing).has(100));
        assert!(!room(100, nothing).has(101));
        assert!(!room(u64::MAX, KeepFree::Bytes(ByteSize::bytes(u64::MAX))).has(1));
    }
}
