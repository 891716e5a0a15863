//! SQLite's write-ahead log: headers, frames, the running checksum. Pure.
//!
//! A frame counts only if its salts are the header's and its checksum continues the chain that
//! begins at the header. Both byte orders of the checksum exist; every other number is big-endian.
//! Whether a frame is committed is not decided here: frames after the last commit may be rewritten
//! in place, so callers read no further than the wal-index says.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use tidemark_format::pages::is_page_size;

/// Bytes of the header of the file.
pub(crate) const HEADER_BYTES: usize = 32;
/// Bytes of the header of a frame.
pub(crate) const FRAME_HEADER_BYTES: usize = 24;
const MAGIC_LITTLE: u32 = 0x377f_0682;
const MAGIC_BIG: u32 = 0x377f_0683;
const VERSION: u32 = 3_007_000;

/// The byte order in which checksums read their input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    /// As x86 and ARM write it.
    Little,
    /// As big-endian machines write it.
    Big,
}

impl ByteOrder {
    /// This machine's own, in which the wal-index is written.
    #[must_use]
    pub(crate) const fn native() -> Self {
        if cfg!(target_endian = "big") {
            Self::Big
        } else {
            Self::Little
        }
    }
}

/// Two running sums.
pub(crate) type Checksum = [u32; 2];

/// Continues `seed` over `bytes`; a tail shorter than eight bytes is ignored (there is none).
#[must_use]
pub(crate) fn checksum(order: ByteOrder, seed: Checksum, bytes: &[u8]) -> Checksum {
    let [mut first, mut second] = seed;
    let (words, _tail) = bytes.as_chunks::<8>();
    for &[a, b, c, d, e, f, g, h] in words {
        let (x, y) = match order {
            ByteOrder::Little => (
                u32::from_le_bytes([a, b, c, d]),
                u32::from_le_bytes([e, f, g, h]),
            ),
            ByteOrder::Big => (
                u32::from_be_bytes([a, b, c, d]),
                u32::from_be_bytes([e, f, g, h]),
            ),
        };
        first = first.wrapping_add(x).wrapping_add(second);
        second = second.wrapping_add(y).wrapping_add(first);
    }
    [first, second]
}

/// The header of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WalHeader {
    /// How checksums are computed in this file.
    pub(crate) order: ByteOrder,
    /// Bytes per page.
    pub(crate) page_size: u32,
    /// Which life of the log this is; both change at every restart.
    pub(crate) salts: [u32; 2],
    /// Where the chain of checksums begins.
    pub(crate) checksum: Checksum,
}

impl WalHeader {
    /// Reads a header; `None` if it is not one that SQLite would accept.
    #[must_use]
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let order = match be32(bytes, 0)? {
            MAGIC_LITTLE => ByteOrder::Little,
            MAGIC_BIG => ByteOrder::Big,
            _ => return None,
        };
        let page_size = be32(bytes, 8)?;
        let sum = checksum(order, [0, 0], bytes.get(..24)?);
        let stored = [be32(bytes, 24)?, be32(bytes, 28)?];
        if be32(bytes, 4)? != VERSION || !is_page_size(page_size) || sum != stored {
            return None;
        }
        Some(Self {
            order,
            page_size,
            salts: [be32(bytes, 16)?, be32(bytes, 20)?],
            checksum: sum,
        })
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// The page that the frame holds.
    pub(crate) page: u32,
    /// In the last frame of a commit the size of the database in pages, else 0.
    pub(crate) commit_pages: u32,
    /// Must be the file's.
    pub(crate) salts: [u32; 2],
    /// The chain after this frame.
    pub(crate) checksum: Checksum,
}

impl FrameHeader {
    /// Reads a frame's header; `None` only if `bytes` is too short.
    #[must_use]
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            page: be32(bytes, 0)?,
            commit_pages: be32(bytes, 4)?,
            salts: [be32(bytes, 8)?, be32(bytes, 12)?],
            checksum: [be32(bytes, 16)?, be32(bytes, 20)?],
        })
    }
}

/// A frame that continues the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    /// Its header.
    pub(crate) header: FrameHeader,
    /// Its page.
    pub(crate) data: &'a [u8],
}

/// Reads one whole frame; `None` if it doesn't continue the chain at `seed`.
#[must_use]
pub(crate) fn frame(
    order: ByteOrder,
    salts: [u32; 2],
    seed: Checksum,
    bytes: &[u8],
) -> Option<Frame<'_>> {
    let (head, data) = bytes.split_at_checked(FRAME_HEADER_BYTES)?;
    let header = FrameHeader::parse(head)?;
    let sum = checksum(order, checksum(order, seed, head.get(..8)?), data);
    let sound = header.salts == salts && header.checksum == sum && header.page > 0;
    sound.then_some(Frame { header, data })
}

/// Bytes of a frame.
#[must_use]
pub(crate) const fn frame_bytes(page_size: u32) -> u64 {
    24u64.saturating_add(page_size as u64)
}

/// Where frame `number` (from 1) begins in the file.
#[must_use]
pub(crate) const fn frame_offset(number: u32, page_size: u32) -> u64 {
    (number as u64)
        .saturating_sub(1)
        .saturating_mul(frame_bytes(page_size))
        .saturating_add(32)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*four))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    /// A log that the real SQLite wrote: `page_size`, three commits.
    fn real_wal(page_size: u32) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
             CREATE TABLE t(x); INSERT INTO t VALUES(randomblob(3000)); INSERT INTO t VALUES(1);"
        ))
        .unwrap();
        std::fs::read(folder.path().join("a.db-wal")).unwrap()
    }

    fn frames(wal: &[u8]) -> Vec<(u32, u32)> {
        let header = WalHeader::parse(wal.first_chunk().unwrap()).unwrap();
        let mut seed = header.checksum;
        let mut out = Vec::new();
        for bytes in wal[32..].chunks_exact(usize::try_from(frame_bytes(header.page_size)).unwrap())
        {
            let Some(frame) = frame(header.order, header.salts, seed, bytes) else {
                break;
            };
            seed = frame.header.checksum;
            out.push((frame.header.page, frame.header.commit_pages));
        }
        out
    }

    #[test]
    fn every_frame_of_a_real_log_continues_the_chain_at_each_page_size() {
        for page_size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
            let wal = real_wal(page_size);
            let header = WalHeader::parse(wal.first_chunk().unwrap()).unwrap();
            assert_eq!(header.page_size, page_size);
            let found = frames(&wal);
            let whole = (wal.len() - 32) / usize::try_from(frame_bytes(page_size)).unwrap();
            assert_eq!(found.len(), whole, "page size {page_size}");
            assert_eq!(found.iter().filter(|(_, commit)| *commit > 0).count(), 3);
        }
    }

    #[test]
    fn a_log_with_big_endian_checksums_is_read_as_well() {
        // GIVEN a real log, its checksums computed again as a big-endian machine would
        let mut wal = real_wal(1024);
        let pages = frames(&wal);
        wal[..4].copy_from_slice(&MAGIC_BIG.to_be_bytes());
        let mut seed = checksum(ByteOrder::Big, [0, 0], &wal[..24]);
        put(&mut wal[24..32], seed);
        for bytes in wal[32..].chunks_exact_mut(1048) {
            seed = checksum(ByteOrder::Big, seed, &bytes[..8]);
            seed = checksum(ByteOrder::Big, seed, &bytes[24..]);
            put(&mut bytes[16..24], seed);
        }
        // THEN SQLite itself would accept it, and so do we
        assert_eq!(frames(&wal), pages);
    }

    fn put(to: &mut [u8], sum: Checksum) {
        to[..4].copy_from_slice(&sum[0].to_be_bytes());
        to[4..].copy_from_slice(&sum[1].to_be_bytes());
    }

    #[test]
    fn a_flipped_bit_ends_the_chain() {
        let wal = real_wal(512);
        let all = frames(&wal).len();
        for at in (32..wal.len()).step_by(97) {
            let mut bad = wal.clone();
            bad[at] ^= 4;
            assert!(frames(&bad).len() < all, "byte {at}");
        }
        for at in 0..32 {
            let mut bad = wal.clone();
            bad[at] ^= 4;
            assert_eq!(
                WalHeader::parse(bad.first_chunk().unwrap()),
                None,
                "byte {at}"
            );
        }
    }

    #[test]
    fn short_bytes_are_no_frame() {
        for length in 0..24 {
            assert_eq!(
                frame(ByteOrder::Little, [0, 0], [0, 0], &vec![0; length]),
                None
            );
        }
    }
}
