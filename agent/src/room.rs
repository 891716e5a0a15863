//! Whether the spool may grow, and what gives way when it may not.
//!
//! The measuring asks the file system at most once a second; the deciding ([`give_way`]) is pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidemark_format::{RegionName, SourceName};
use tidemark_host::codes::{self, Code};
use tidemark_host::{ByteSize, Clock, KeepFree, Monotonic, output};

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

    /// What stands against `bytes` more in the spool.
    #[must_use]
    pub fn shortage(&self, bytes: u64) -> Option<Shortage> {
        if self.usage.bytes().saturating_add(bytes) > self.bytes_max {
            Some(Shortage::Spool)
        } else {
            (bytes > self.free()).then_some(Shortage::Disk)
        }
    }

    /// What people are told about a shortage: the same words while it lasts. `spool_max` is the source's.
    #[must_use]
    pub fn says(&self, shortage: Shortage, spool_max: u64) -> String {
        match shortage {
            Shortage::Spool => format!(
                "the spool has reached spool_max ({}): nothing is captured until a region takes what waits; bring the \
                 regions back or raise spool_max",
                output::bytes(self.bytes_max.min(spool_max))
            ),
            Shortage::Disk => {
                let folder = self.folder.display();
                let keep = DiskRoom::of(&self.folder, self.keep_free).map_or_else(
                    |_unknown| String::new(),
                    |disk| {
                        format!(
                            " ({} have to stay free: spool_keep_free = {})",
                            output::bytes(disk.keep),
                            self.keep_free
                        )
                    },
                );
                format!(
                    "the disk that {folder} is on has no room left{keep}: nothing is captured until there is; the \
                     database goes on, and what it commits meanwhile is found then; free space on that disk, move \
                     state_dir, or lower spool_keep_free"
                )
            }
        }
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
        let free = match DiskRoom::of(&self.folder, self.keep_free) {
            Ok(disk) => disk.usable(),
            // Writing will tell.
            Err(_unknown) => u64::MAX,
        };
        *asked = Some((now, free));
        free
    }
}

/// What a file system has, and what has to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRoom {
    /// Bytes that we may still write.
    pub free: u64,
    /// Bytes of them that `spool_keep_free` leaves alone.
    pub keep: u64,
}

impl DiskRoom {
    /// Asks the file system of `folder`.
    ///
    /// # Errors
    /// The system's: the folder isn't there.
    pub fn of(folder: &Path, keep_free: KeepFree) -> std::io::Result<Self> {
        let stat = rustix::fs::statvfs(folder)?;
        // What is reserved for root, or beyond a quota, is nobody's to keep free: as df counts.
        let reserved = stat.f_bfree.saturating_sub(stat.f_bavail);
        let total = stat
            .f_blocks
            .saturating_sub(reserved)
            .saturating_mul(stat.f_frsize);
        Ok(Self {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            keep: keep_free.of(total),
        })
    }

    /// Bytes that may be written before nothing more is captured.
    #[must_use]
    pub const fn usable(self) -> u64 {
        self.free.saturating_sub(self.keep)
    }
}

/// What the spool is short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// `spool_max` is reached.
    Spool,
    /// The file system has no more than `spool_keep_free`, or nothing at all.
    Disk,
}

impl Shortage {
    /// What it is that is full.
    #[must_use]
    pub const fn what(self) -> &'static str {
        match self {
            Self::Spool => "the spool",
            Self::Disk => "the disk under the spool",
        }
    }

    /// Its code.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Spool => codes::SPOOL_FULL,
            Self::Disk => codes::DISK_FULL,
        }
    }
}

/// What waits for one region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Items.
    pub items: u64,
    /// Their bytes.
    pub bytes: u64,
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

/// Which backlog frees the most, given each source's backlogs by region. A backlog gives way up to
/// where the region that is furthest has got; where that is, is the source's driver's question.
#[must_use]
pub fn give_way(backlogs: &BTreeMap<SourceName, BTreeMap<RegionName, Backlog>>) -> GiveWay {
    let freed = backlogs.iter().filter_map(|(source, regions)| {
        let (region, largest) = regions.iter().max_by_key(|(_, waits)| waits.items)?;
        let furthest = regions.values().min_by_key(|waits| waits.items)?;
        (largest.items > furthest.items).then_some(())?;
        Some((largest.bytes.saturating_sub(furthest.bytes), source, region))
    });
    match freed.max_by_key(|(bytes, _, _)| *bytes) {
        Some((_, source, region)) => GiveWay::Backlog {
            source: source.clone(),
            region: region.clone(),
        },
        None => GiveWay::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use tidemark_host::SystemClock;

    use super::*;

    type Backlogs = BTreeMap<SourceName, BTreeMap<RegionName, Backlog>>;

    fn backlogs(of: &[(&str, &[(&str, u64)])]) -> Backlogs {
        let waits = |bytes: u64| Backlog {
            items: bytes / 10,
            bytes,
        };
        let regions = |list: &[(&str, u64)]| {
            list.iter()
                .map(|(name, bytes)| (RegionName::new(*name).unwrap(), waits(*bytes)))
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
    fn bytes_that_are_counted_differently_are_no_reason_to_give_anything_up() {
        let mut all = backlogs(&[("a", &[("x", 90), ("y", 90)])]);
        let regions = all.values_mut().next().unwrap();
        regions.values_mut().next().unwrap().bytes = 500;
        assert_eq!(give_way(&all), GiveWay::Nothing);
    }

    #[test]
    fn of_two_regions_that_are_away_each_gives_way_to_the_one_that_is_not() {
        let all = backlogs(&[("a", &[("x", 90), ("y", 90), ("z", 0)])]);
        assert!(matches!(give_way(&all), GiveWay::Backlog { .. }));
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
        assert_eq!(room(100, nothing).shortage(100), None);
        assert_eq!(room(100, nothing).shortage(101), Some(Shortage::Spool));
        let all = KeepFree::Bytes(ByteSize::bytes(u64::MAX));
        assert_eq!(room(u64::MAX, all).shortage(1), Some(Shortage::Disk));
    }
}
