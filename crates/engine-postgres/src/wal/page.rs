//! Headers of the log's pages.

use tidemark_format::postgres::{Lsn, SegmentSize, TimelineId};

/// Bytes of a page of the log (`XLOG_BLCKSZ`; other sizes are compiled by nobody).
pub const PAGE_BYTES: u64 = 8192;
/// The first page of a segment says more.
pub(super) const LONG_BYTES: usize = 40;
const SHORT_BYTES: usize = 24;

const FIRST_IS_CONTINUATION: u16 = 0x01;
const LONG: u16 = 0x02;
const FIRST_IS_OVERWRITE: u16 = 0x08;
const KNOWN_FLAGS: u16 = 0x0F;

/// A major version of the server, told from the magic of its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u16);

impl Version {
    const fn of_magic(magic: u16) -> Option<Self> {
        match magic {
            0xD106 => Some(Self(13)),
            0xD10D => Some(Self(14)),
            0xD110 => Some(Self(15)),
            0xD113 => Some(Self(16)),
            0xD116 => Some(Self(17)),
            0xD118 => Some(Self(18)),
            _ => None,
        }
    }

    /// The version of servers of `major`, if their log can be read.
    #[must_use]
    pub const fn of_major(major: u16) -> Option<Self> {
        match major {
            13..=18 => Some(Self(major)),
            _ => None,
        }
    }

    /// What the headers of its pages begin with.
    #[must_use]
    pub const fn magic(self) -> u16 {
        match self.0 {
            13 => 0xD106,
            14 => 0xD10D,
            15 => 0xD110,
            16 => 0xD113,
            17 => 0xD116,
            _ => 0xD118,
        }
    }

    /// As in `PostgreSQL 17`.
    #[must_use]
    pub const fn major(self) -> u16 {
        self.0
    }
}

/// A page's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageHead {
    pub(super) version: Version,
    pub(super) timeline: TimelineId,
    pub(super) address: Lsn,
    /// Bytes of the record that began on an earlier page, if the page begins with its rest.
    pub(super) continues: Option<u32>,
    /// The record that began on an earlier page was never finished, and is void.
    pub(super) overwrites: bool,
    /// In a segment's first page: the system's identifier and the segment's size.
    pub(super) system: Option<(u64, u32)>,
}

/// Bytes of the header of the page that starts at `page`.
pub(super) const fn head_bytes(page: Lsn, segment: SegmentSize) -> usize {
    if segment.offset(page) == 0 {
        LONG_BYTES
    } else {
        SHORT_BYTES
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Reads the header of the page that starts at `page`, of as many bytes as [`head_bytes`] says.
pub(super) fn parse(
    bytes: &[u8],
    page: Lsn,
    segment: SegmentSize,
) -> Result<PageHead, &'static str> {
    const SHORT: &str = "the page's header is cut";
    let version = u16_at(bytes, 0)
        .ok_or(SHORT)
        .map(Version::of_magic)?
        .ok_or("the page's magic is of no PostgreSQL from 13 to 18 (a stale or foreign page)")?;
    let flags = u16_at(bytes, 2).ok_or(SHORT)?;
    let timeline = u32_at(bytes, 4).ok_or(SHORT)?;
    let address = Lsn(u64_at(bytes, 8).ok_or(SHORT)?);
    let rest = u32_at(bytes, 16).ok_or(SHORT)?;
    if flags & !KNOWN_FLAGS != 0 {
        return Err("the page's header has unknown flags");
    }
    if address != page {
        return Err("the page belongs to another place (a recycled segment's stale bytes)");
    }
    let long = flags & LONG != 0;
    if long != (head_bytes(page, segment) == LONG_BYTES) {
        return Err("the page's header has the wrong length for its place (another segment size?)");
    }
    let system = if long {
        let id = u64_at(bytes, 24).ok_or(SHORT)?;
        let size = u32_at(bytes, 32).ok_or(SHORT)?;
        if u64::from(size) != segment.bytes() {
            return Err("the page names another segment size");
        }
        if u32_at(bytes, 36).map(u64::from) != Some(PAGE_BYTES) {
            return Err("the log's page size is not 8192 bytes");
        }
        Some((id, size))
    } else {
        None
    };
    let continues = flags & FIRST_IS_CONTINUATION != 0;
    if continues != (rest != 0) && flags & FIRST_IS_OVERWRITE == 0 {
        return Err("the page's header contradicts itself");
    }
    Ok(PageHead {
        version,
        timeline: TimelineId(timeline),
        address,
        continues: continues.then_some(rest),
        overwrites: flags & FIRST_IS_OVERWRITE != 0,
        system,
    })
}
