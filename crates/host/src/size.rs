//! Sizes in bytes as the config writes them: `128MiB`, `10GiB`, `1GB`, and `10%` of a file system.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a size: write a number and a unit, such as \"128MiB\", \"10GiB\" or \"500MB\""
)]
pub struct SizeError(String);

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

/// Largest first, so that [`ByteSize`] is shown in the largest unit that divides it.
const BINARY: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];
const DECIMAL: [(&str, u64); 4] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
];

impl ByteSize {
    /// `bytes` bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// `mib` times 1,048,576 bytes.
    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The size as a length in memory; the largest possible one if it doesn't fit.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    /// Exact, and reads back to the same size.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = BINARY
            .into_iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let refuse = || SizeError(text.chars().take(40).collect());
        let trimmed = text.trim();
        let digits = trimmed
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let number: u64 = number.parse().map_err(|_not_digits| refuse())?;
        let unit = unit.trim_start();
        let factor = BINARY
            .into_iter()
            .chain(DECIMAL)
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(_, factor)| factor)
            .ok_or_else(refuse)?;
        number.checked_mul(factor).map(Self).ok_or_else(refuse)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How much of a file system stays free: a size or a share of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepFree {
    /// This many hundredths of what may be used of the file system, at most so many bytes.
    Percent(u8, Option<ByteSize>),
    /// This many bytes.
    Bytes(ByteSize),
}

/// The text is neither a size nor a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither a share nor a size: write \"10%\" (0% to 90%), \"20GiB\", or \"10%, at most 20GiB\""
)]
pub struct KeepFreeError(String);

impl KeepFree {
    /// Unless configured: a share, as everybody leaves it, bounded, because a tenth of a large disk
    /// is more than an agent may insist on before it protects anything.
    pub const DEFAULT: Self = Self::Percent(10, Some(ByteSize::mib(10 << 10)));

    /// The bytes to keep free on a file system of `total` bytes.
    #[must_use]
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Percent(percent, most) => (total / 100)
                .saturating_mul(u64::from(percent))
                .min(most.map_or(u64::MAX, ByteSize::get)),
            Self::Bytes(size) => size.get(),
        }
    }
}

impl fmt::Display for KeepFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent, None) => write!(f, "{percent}%"),
            Self::Percent(percent, Some(most)) => write!(f, "{percent}%, at most {most}"),
            Self::Bytes(size) => size.fmt(f),
        }
    }
}

impl FromStr for KeepFree {
    type Err = KeepFreeError;

    fn from_str(text: &str) -> Result<Self, KeepFreeError> {
        let share = |percent: &str, most| {
            let percent = percent.trim().strip_suffix('%')?.trim_end().parse().ok()?;
            (percent <= 90).then_some(Self::Percent(percent, most))
        };
        let parsed = match text.split_once(", at most ") {
            Some((percent, most)) => most
                .parse()
                .ok()
                .and_then(|most| share(percent, Some(most))),
            None if text.contains('%') => share(text, None),
            None => text.parse().ok().map(Self::Bytes),
        };
        parsed.ok_or_else(|| KeepFreeError(text.chars().take(40).collect()))
    }
}

impl Serialize for KeepFree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_binary_and_decimal_units() {
        assert_eq!("128MiB".parse(), Ok(ByteSize::mib(128)));
        assert_eq!("10 gib".parse(), Ok(ByteSize::mib(10 * 1024)));
        assert_eq!("5MB".parse(), Ok(ByteSize::bytes(5_000_000)));
        assert_eq!("0B".parse(), Ok(ByteSize::bytes(0)));
    }

    #[test]
    fn sizes_without_unit_sign_or_sense_are_refused() {
        for bad in [
            "",
            "12",
            "-1MiB",
            "1.5GiB",
            "MiB",
            "10XiB",
            "99999999999TiB",
        ] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_shown_size_reads_back() {
        for bytes in [0, 1, 1023, 1024, 1536, 1 << 20, 5_000_000, u64::MAX] {
            let size = ByteSize::bytes(bytes);
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        assert_eq!(ByteSize::mib(128).to_string(), "128MiB");
    }

    #[test]
    fn what_stays_free_is_a_share_or_a_size() {
        assert_eq!("10%".parse::<KeepFree>().unwrap().of(5_000), 500);
        let bounded: KeepFree = "10%, at most 1KiB".parse().unwrap();
        assert_eq!((bounded.of(5_000), bounded.of(50_000)), (500, 1024));
        assert_eq!(KeepFree::DEFAULT.to_string().parse(), Ok(KeepFree::DEFAULT));
        assert_eq!("1KiB".parse::<KeepFree>().unwrap().of(5_000), 1024);
        for bad in [
            "91%",
            "%",
            "-1%",
            "ten",
            "10%, at most",
            "10%, at most ten",
            "1GiB, at most 1GiB",
        ] {
            assert!(bad.parse::<KeepFree>().is_err(), "{bad:?}");
        }
    }
}
