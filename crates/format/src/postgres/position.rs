//! Where in PostgreSQL's log: byte positions, timelines, segments and the names of their files.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log of one timeline, written `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position `bytes` later; stays at the end of the address space instead of wrapping.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// Bytes from `earlier` to here; 0 if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The next multiple of 8 at or after here: records begin there.
    #[must_use]
    pub const fn aligned(self) -> Self {
        Self(self.0.saturating_add(7) & !7)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text that is no position, timeline or segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: expected {expected}")]
pub struct ParsePosition {
    what: &'static str,
    text: String,
    expected: &'static str,
}

fn hex(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (plain && digits.contains(&text.len()))
        .then(|| u32::from_str_radix(text, 16).ok())
        .flatten()
}

impl FromStr for Lsn {
    type Err = ParsePosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_once('/')
            .and_then(|(high, low)| Some((hex(high, 1..=8)?, hex(low, 1..=8)?)))
            .map(|(high, low)| Self(u64::from(high) << 32 | u64::from(low)))
            .ok_or_else(|| ParsePosition {
                what: "log position (LSN)",
                text: text.to_owned(),
                expected: "two hexadecimal numbers with a slash, like 16/B374D848",
            })
    }
}

/// One branch of a server's history. Promotion starts a new one; ids are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(pub u32);

impl TimelineId {
    /// The branch that every cluster begins on; it has no history file.
    pub const FIRST: Self = Self(1);

    /// The name of its history file.
    #[must_use]
    pub fn history_file(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes of one segment of the log: a power of two from 1 MiB to 1 GiB, fixed by initdb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// What initdb chooses.
    pub const DEFAULT: Self = Self(16 << 20);

    /// Checks a size.
    #[must_use]
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30 {
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        // A widening cast that `From` can't do in a const fn.
        self.0 as u64
    }

    /// How far into its segment `lsn` lies.
    #[must_use]
    pub const fn offset(self, lsn: Lsn) -> u64 {
        lsn.0 & (self.bytes().wrapping_sub(1))
    }

    /// Where the segment of `lsn` starts.
    #[must_use]
    pub const fn start(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0 & !(self.bytes().wrapping_sub(1)))
    }

    /// Where the segment after the one of `lsn` starts.
    #[must_use]
    pub const fn next(self, lsn: Lsn) -> Lsn {
        self.start(lsn).plus(self.bytes())
    }
}

/// The name of a segment's file: timeline and number, 24 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentName {
    /// The branch.
    pub timeline: TimelineId,
    /// Where the segment starts.
    pub start: Lsn,
}

impl SegmentName {
    /// The segment that holds `lsn`.
    #[must_use]
    pub const fn of(timeline: TimelineId, lsn: Lsn, size: SegmentSize) -> Self {
        Self {
            timeline,
            start: size.start(lsn),
        }
    }

    /// As the server writes it.
    #[must_use]
    pub fn text(self, size: SegmentSize) -> String {
        // The middle part counts 4 GiB, the last one segments within them: both fit 32 bits.
        let high = self.start.0 >> 32;
        let low = (self.start.0 & 0xFFFF_FFFF)
            .checked_div(size.bytes())
            .unwrap_or(0);
        format!("{:08X}{high:08X}{low:08X}", self.timeline.0)
    }

    /// Reads a name.
    ///
    /// # Errors
    /// [`ParsePosition`] if the server would not write it for segments of this size.
    pub fn parse(text: &str, size: SegmentSize) -> Result<Self, ParsePosition> {
        let part = |range| text.get(range).and_then(|part| hex(part, 8..=8));
        let parts = (text.len() == 24)
            .then(|| Some((part(0..8)?, part(8..16)?, part(16..24)?)))
            .flatten();
        parts
            .and_then(|(timeline, high, low)| {
                let low = u64::from(low).checked_mul(size.bytes())?;
                (low <= 0xFFFF_FFFF && timeline > 0).then_some(Self {
                    timeline: TimelineId(timeline),
                    start: Lsn(u64::from(high) << 32 | low),
                })
            })
            .ok_or_else(|| ParsePosition {
                what: "segment of the log",
                text: text.to_owned(),
                expected: "24 hexadecimal digits, like 000000010000000000000003",
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_written_and_read_as_the_server_does() {
        for (number, text) in [
            (0, "0/0"),
            (0x16_B374_D848, "16/B374D848"),
            (u64::MAX, "FFFFFFFF/FFFFFFFF"),
        ] {
            assert_eq!(Lsn(number).to_string(), text);
            assert_eq!(text.parse(), Ok(Lsn(number)));
        }
        assert_eq!("0/16b374d8".parse(), Ok(Lsn(0x16B3_74D8)));
        for wrong in [
            "",
            "/",
            "0",
            "0/",
            "/0",
            "0/1/2",
            "0/123456789",
            "+1/0",
            "0x1/0",
            "0/ 1",
            "g/0",
        ] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn segments_of_every_size_have_the_names_that_the_server_gives_them() {
        let size = |bytes| SegmentSize::new(bytes).expect("a size");
        let cases = [
            (16 << 20, "0/3000028", "000000010000000000000003"),
            (16 << 20, "1/FF000000", "0000000100000001000000FF"),
            (1 << 20, "0/3000028", "000000010000000000000030"),
            (64 << 20, "2/FC000000", "00000001000000020000003F"),
            (1 << 30, "2/FC000000", "000000010000000200000003"),
        ];
        for (bytes, lsn, name) in cases {
            let size = size(bytes);
            let lsn: Lsn = lsn.parse().expect("a position");
            let segment = SegmentName::of(TimelineId::FIRST, lsn, size);
            assert_eq!(segment.text(size), name);
            assert_eq!(SegmentName::parse(name, size), Ok(segment));
        }
        for wrong in [
            "00000001000000000000000",
            "000000010000000000000100",
            "00000000000000000000000A",
            "00000001000000000000000G",
            "000000010000000000000003.partial",
        ] {
            assert!(SegmentName::parse(wrong, SegmentSize::DEFAULT).is_err());
        }
        assert_eq!(SegmentSize::new(3 << 20), None);
        assert_eq!(SegmentSize::new(1 << 19), None);
        assert_eq!(SegmentSize::new(1 << 31), None);
    }

    #[test]
    fn a_segment_knows_its_bounds() {
        let size = SegmentSize::DEFAULT;
        let lsn = Lsn(0x0300_0028);
        assert_eq!(size.start(lsn), Lsn(0x0300_0000));
        assert_eq!(size.next(lsn), Lsn(0x0400_0000));
        assert_eq!(size.next(Lsn(0x0300_0000)), Lsn(0x0400_0000));
        assert_eq!(size.offset(lsn), 0x28);
        assert_eq!(Lsn(0x29).aligned(), Lsn(0x30));
        assert_eq!(Lsn(0x30).aligned(), Lsn(0x30));
    }
}
