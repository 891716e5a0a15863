//! The payload of a SQLite log object: changed pages, newest wins, and the digest of the whole.
//!
//! ```text
//!  0   4  magic "TMSQ"
//!  4   1  version = 1      5  1  flags: bit 0 = a digest of the whole is present    6  2  zero
//!  8   4  page size (512, 1024 … 65536), u32 LE
//! 12   4  size of the database after this object, in pages, u32 LE
//! 16  32  digest key of the generation
//! 48  16  digest of the whole after this object, u128 LE; zero when absent
//! 64      varint n, then n varints: the first page's number (from 1), then the distance (at least
//!         1) from each page to the next, ascending; none beyond the size
//!  …      n × page size bytes: the pages, in that order
//! ```
//!
//! **Digest of a page**: the first 16 bytes, as u128 LE, of keyed BLAKE3 over the page's bytes and
//! then its number as u32 LE. **Digest of the whole**: the sum modulo 2^128 over every page from 1
//! to the size but the lock-byte page ([`lock_byte_page`]), which SQLite never uses and which
//! restores as zeros. A sum, so that a change costs one subtraction and one addition per page.
//!
//! Applied in the order of the log, payloads turn a base into the database: write the pages, then
//! make the file `size × page size` bytes long.

use crate::FormatError;
use crate::wire::{Reader, put_varint};

const MAGIC: &[u8; 4] = b"TMSQ";
const VERSION: u8 = 1;
const FLAG_DIGEST: u8 = 1;
const WHAT: &str = "sqlite log payload";
/// The byte of a database that SQLite locks; the page that holds it is never used.
const LOCK_BYTE: u32 = 0x4000_0000;

/// The digest of one page, or the sum of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PageDigest(pub u128);

impl PageDigest {
    /// The digest of page `number` with content `page`, under the generation's `key`.
    #[must_use]
    pub fn of(key: &[u8; 32], number: u32, page: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(page);
        hasher.update(&number.to_le_bytes());
        let hash = hasher.finalize();
        let first = hash
            .as_bytes()
            .first_chunk::<16>()
            .copied()
            .unwrap_or_default();
        Self(u128::from_le_bytes(first))
    }

    /// The sum with `other`.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// The sum without `other`.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }

    /// As it stands in persisted bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// Reads what [`Self::to_bytes`] wrote.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

/// Whether SQLite knows pages of this size.
#[must_use]
pub const fn is_page_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && bytes >= 512 && bytes <= 65536
}

/// The page that holds the lock byte, at 1 GiB.
#[must_use]
pub const fn lock_byte_page(page_size: u32) -> u32 {
    match LOCK_BYTE.checked_div(page_size) {
        Some(before) => before.saturating_add(1),
        None => u32::MAX,
    }
}

/// What stands before the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagesHead {
    /// Bytes per page.
    pub page_size: u32,
    /// Size of the database after this object, in pages.
    pub database_pages: u32,
    /// The key of the generation's page digests.
    pub digest_key: [u8; 32],
    /// The digest of the whole after this object, where it is known.
    pub digest: Option<PageDigest>,
}

/// A decoded payload; the pages stay where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPages<'a> {
    /// What stands before the pages.
    pub head: PagesHead,
    numbers: Vec<u32>,
    data: &'a [u8],
}

impl<'a> LogPages<'a> {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`FormatError`] for anything but exactly what [`PagesWriter`] writes.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, WHAT);
        if &reader.array::<4>()? != MAGIC {
            return Err(FormatError::Magic);
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        let flags = reader.u8()?;
        if flags & !FLAG_DIGEST != 0 || reader.array::<2>()? != [0, 0] {
            return Err(reader.invalid("reserved bits are set"));
        }
        let head = read_head(&mut reader, flags & FLAG_DIGEST != 0)?;
        let page_size =
            usize::try_from(head.page_size).map_err(|_small| reader.invalid("page size"))?;
        // Each page costs its number (at least one byte) and its bytes.
        let count = reader.count(page_size.saturating_add(1))?;
        let numbers = read_numbers(&mut reader, count, head.database_pages)?;
        let data = reader.bytes(count.saturating_mul(page_size))?;
        reader.finish()?;
        Ok(Self {
            head,
            numbers,
            data,
        })
    }

    /// The pages, ascending: number from 1, content.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = (u32, &'a [u8])> + '_ {
        let page_size = usize::try_from(self.head.page_size).unwrap_or(usize::MAX);
        self.numbers
            .iter()
            .copied()
            .zip(self.data.chunks_exact(page_size))
    }

    /// How many pages.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

fn read_head(reader: &mut Reader<'_>, has_digest: bool) -> Result<PagesHead, FormatError> {
    let page_size = reader.u32()?;
    if !is_page_size(page_size) {
        return Err(reader.invalid("the page size is not one of SQLite's"));
    }
    let database_pages = reader.u32()?;
    let digest_key = reader.array()?;
    let digest = PageDigest::from_bytes(reader.array()?);
    if !has_digest && digest != PageDigest::default() {
        return Err(reader.invalid("a digest stands where none is announced"));
    }
    let digest = has_digest.then_some(digest);
    Ok(PagesHead {
        page_size,
        database_pages,
        digest_key,
        digest,
    })
}

fn read_numbers(reader: &mut Reader<'_>, count: usize, size: u32) -> Result<Vec<u32>, FormatError> {
    let mut numbers = Vec::with_capacity(count);
    let mut last = 0u32;
    for _ in 0..count {
        let step = reader.varint32()?;
        last = last
            .checked_add(step)
            .filter(|number| step > 0 && *number <= size)
            .ok_or_else(|| reader.invalid("page numbers don't ascend within the database"))?;
        numbers.push(last);
    }
    Ok(numbers)
}

/// Writes a payload: the head and the numbers at once, then page after page.
#[derive(Debug)]
pub struct PagesWriter {
    out: Vec<u8>,
}

impl PagesWriter {
    /// Begins a payload that will hold the pages `numbers`, which must ascend from 1.
    #[must_use]
    pub fn new(head: &PagesHead, numbers: &[u32]) -> Self {
        let page_size = usize::try_from(head.page_size).unwrap_or(usize::MAX);
        let room = numbers
            .len()
            .saturating_mul(page_size.saturating_add(5))
            .saturating_add(80);
        let mut out = Vec::with_capacity(room);
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        out.push(if head.digest.is_some() {
            FLAG_DIGEST
        } else {
            0
        });
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&head.page_size.to_le_bytes());
        out.extend_from_slice(&head.database_pages.to_le_bytes());
        out.extend_from_slice(&head.digest_key);
        out.extend_from_slice(&head.digest.unwrap_or_default().to_bytes());
        put_varint(&mut out, u64::try_from(numbers.len()).unwrap_or(u64::MAX));
        let mut last = 0u32;
        for number in numbers {
            put_varint(&mut out, u64::from(number.wrapping_sub(last)));
            last = *number;
        }
        Self { out }
    }

    /// Appends the next page's bytes.
    pub fn page(&mut self, page: &[u8]) {
        self.out.extend_from_slice(page);
    }

    /// The payload.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn payload(numbers: &[u32], digest: Option<PageDigest>) -> Vec<u8> {
        let head = PagesHead {
            page_size: 512,
            database_pages: 1000,
            digest_key: [3; 32],
            digest,
        };
        let mut writer = PagesWriter::new(&head, numbers);
        for number in numbers {
            writer.page(&[number.to_le_bytes()[0]; 512]);
        }
        writer.finish()
    }

    #[test]
    fn a_payload_reads_back() {
        let bytes = payload(&[1, 2, 700], Some(PageDigest(77)));
        let read = LogPages::decode(&bytes).unwrap();
        assert_eq!(read.head.digest, Some(PageDigest(77)));
        assert_eq!(read.head.database_pages, 1000);
        let pages: Vec<_> = read
            .pages()
            .map(|(number, page)| (number, page[0], page.len()))
            .collect();
        assert_eq!(pages, [(1, 1, 512), (2, 2, 512), (700, 188, 512)]);
    }

    #[test]
    fn an_empty_payload_without_a_digest_reads_back() {
        let bytes = payload(&[], None);
        let read = LogPages::decode(&bytes).unwrap();
        assert!(read.is_empty() && read.head.digest.is_none());
    }

    #[test]
    fn pages_that_do_not_ascend_or_lie_outside_are_refused() {
        for bad in [&[0][..], &[5, 5], &[1001]] {
            assert!(LogPages::decode(&payload(bad, None)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_truncation_and_every_extension_is_refused() {
        let bytes = payload(&[1, 9], Some(PageDigest(1)));
        for end in 0..bytes.len() {
            assert!(LogPages::decode(&bytes[..end]).is_err(), "{end}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(LogPages::decode(&longer).is_err());
    }

    #[test]
    fn a_count_beyond_the_input_is_refused_before_anything_is_reserved() {
        let mut bytes = payload(&[], None);
        bytes.truncate(64);
        put_varint(&mut bytes, 1 << 40);
        assert!(LogPages::decode(&bytes).is_err());
    }

    #[test]
    fn the_digest_depends_on_key_number_and_content() {
        let digest = PageDigest::of(&[1; 32], 1, &[0; 512]);
        assert_ne!(digest, PageDigest::of(&[2; 32], 1, &[0; 512]));
        assert_ne!(digest, PageDigest::of(&[1; 32], 2, &[0; 512]));
        assert_ne!(digest, PageDigest::of(&[1; 32], 1, &[1; 512]));
        assert_eq!(digest.plus(PageDigest(5)).minus(PageDigest(5)), digest);
    }

    #[test]
    fn the_lock_byte_page_is_where_sqlite_puts_it() {
        assert_eq!(lock_byte_page(4096), 262_145);
        assert_eq!(lock_byte_page(512), 2_097_153);
        assert_eq!(lock_byte_page(65536), 16_385);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), keep in 0usize..80) {
            let good = payload(&[1, 4], None);
            for (to, from) in bytes.iter_mut().zip(&good).take(keep) {
                *to = *from;
            }
            if let Ok(read) = LogPages::decode(&bytes) {
                prop_assert!(read.pages().all(|(number, page)| number <= 1000 || page.len() == 512));
            }
        }
    }
}
