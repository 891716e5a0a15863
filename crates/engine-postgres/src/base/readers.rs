//! Threads that read a data directory's files for a base, a mebibyte at a time: read, check, digest.
//!
//! This is what keeps a core busy, or waits for a disk; the walk itself only hands out pieces and
//! takes them back in the order in which it handed them out. Pieces go round the threads in turn, so
//! that order needs no numbers.
//!
//! **Bounds.** [`AHEAD`] pieces a thread. **Cancellation.** A thread ends when nobody gives it pieces.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope};
use std::time::Duration;

use super::checksum::{self, PAGE_BYTES, Verdict};
use super::digests::{Digest, digest};
use super::error::BaseError;
use super::pages::Checks;

/// Read at once.
pub(super) const READ_BYTES: usize = 1 << 20;
/// Pieces that a thread has: one that it works on, one that waits.
const AHEAD: usize = 2;
/// A torn page is whole again as soon as the write that tore it is over.
const AGAIN_MAX: u32 = 5;
pub(super) const AGAIN_WAIT: Duration = Duration::from_millis(10);

/// A piece of a file that is to be read.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) file: Arc<File>,
    /// Where it begins: at a page.
    pub(super) at: u64,
    /// How long it is, at most [`READ_BYTES`].
    pub(super) bytes: usize,
    /// The segment of a relation, whose pages are checked.
    pub(super) segment: Option<u32>,
    /// A buffer of a piece before, to be used again: fresh memory costs as much as the reading.
    pub(super) spare: Vec<u8>,
}

/// A piece that was read.
#[derive(Debug)]
pub(super) struct Piece {
    /// Its true length.
    pub(super) length: usize,
    /// Its bytes, the last page filled up with zeros.
    pub(super) bytes: Vec<u8>,
    /// Of every page.
    pub(super) digests: Vec<Digest>,
    /// Numbers in the file of the pages that are wrong, whenever they are read.
    pub(super) bad: Vec<u64>,
}

/// What all pieces are looked at with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) key: [u8; 32],
    pub(super) checks: Option<Checks>,
}

#[derive(Debug)]
struct Reader {
    wanted: SyncSender<Wanted>,
    done: Receiver<std::io::Result<Piece>>,
}

/// The threads.
#[derive(Debug)]
pub(super) struct Readers {
    readers: Vec<Reader>,
    /// Pieces given out so far; they go round.
    given: usize,
    /// Pieces taken back.
    taken: usize,
}

impl Readers {
    /// Starts `threads` of them.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        threads: usize,
        look: Look,
    ) -> std::io::Result<Self> {
        let mut readers = Vec::new();
        for number in 0..threads.max(1) {
            let (wanted, orders) = sync_channel::<Wanted>(AHEAD);
            let (results, done) = sync_channel(AHEAD);
            // Ends once nobody gives or takes pieces.
            let work = move || {
                let mut read = orders.into_iter().map(|wanted| look.at(wanted));
                while read.next().is_some_and(|piece| results.send(piece).is_ok()) {}
            };
            let thread = Builder::new().name(format!("base-{number}"));
            thread.spawn_scoped(scope, work)?;
            readers.push(Reader { wanted, done });
        }
        Ok(Self {
            readers,
            given: 0,
            taken: 0,
        })
    }

    /// Whether no more pieces may be given before one is taken.
    pub(super) fn are_busy(&self) -> bool {
        self.given - self.taken >= self.readers.len() * AHEAD
    }

    /// Gives them a piece; they must not be busy.
    pub(super) fn give(&mut self, wanted: Wanted) -> Result<(), BaseError> {
        let turn = self.given % self.readers.len();
        let reader = self.readers.get(turn).ok_or(BaseError::Stopped)?;
        let sent = reader.wanted.send(wanted);
        sent.map_err(|_it_panicked| BaseError::Stopped)?;
        self.given += 1;
        Ok(())
    }

    /// The oldest piece, once it is read.
    pub(super) fn take(&mut self) -> Result<std::io::Result<Piece>, BaseError> {
        let turn = self.taken % self.readers.len();
        let reader = self.readers.get(turn).ok_or(BaseError::Stopped)?;
        let piece = reader.done.recv();
        let piece = piece.map_err(|_it_panicked| BaseError::Stopped)?;
        self.taken += 1;
        Ok(piece)
    }
}

impl Look {
    /// Reads a piece.
    fn at(self, mut wanted: Wanted) -> std::io::Result<Piece> {
        let padded = wanted.bytes.next_multiple_of(PAGE_BYTES);
        let mut bytes = std::mem::take(&mut wanted.spare);
        bytes.resize(padded, 0);
        let (piece, padding) = bytes.split_at_mut(wanted.bytes);
        padding.fill(0);
        fill(&wanted.file, piece, wanted.at)?;
        let bad = match (self.checks, wanted.segment) {
            (Some(checks), Some(segment)) => {
                let read_again = |page: &mut [u8; PAGE_BYTES], number: u64| {
                    std::thread::sleep(AGAIN_WAIT);
                    fill(&wanted.file, page, number * PAGE_BYTES as u64)
                };
                wrong_pages(piece, wanted.at, checks, segment, read_again)?
            }
            _ => Vec::new(),
        };
        let (pages, _none) = bytes.as_chunks::<PAGE_BYTES>();
        let digests = pages.iter().map(|page| digest(&self.key, page)).collect();
        Ok(Piece {
            length: wanted.bytes,
            bytes,
            digests,
            bad,
        })
    }
}

/// Looks at the whole pages of what was read from `at`; those that are wrong are read again: the
/// numbers of those that stay wrong.
fn wrong_pages(
    piece: &mut [u8],
    at: u64,
    checks: Checks,
    segment: u32,
    mut read_again: impl FnMut(&mut [u8; PAGE_BYTES], u64) -> std::io::Result<()>,
) -> std::io::Result<Vec<u64>> {
    let first = at / PAGE_BYTES as u64;
    // A relation's file may end in a part of a page after a crash: that is none.
    let (pages, _part) = piece.as_chunks_mut::<PAGE_BYTES>();
    let mut wrong = Vec::new();
    for (page, number) in pages.iter_mut().zip(first..) {
        let Some(block) = checks.block(segment, number) else {
            continue;
        };
        let mut tries = 0;
        while checksum::look(page, block, checks.start) == Verdict::Bad {
            if tries == AGAIN_MAX {
                wrong.push(number);
                break;
            }
            tries += 1;
            read_again(page, number)?;
        }
    }
    Ok(wrong)
}

/// Reads from `at`; what the file doesn't have any more is zeros.
fn fill(file: &File, mut piece: &mut [u8], mut at: u64) -> std::io::Result<()> {
    while !piece.is_empty() {
        match file.read_at(piece, at) {
            Ok(0) => {
                piece.fill(0);
                return Ok(());
            }
            Ok(read) => {
                piece = piece.split_at_mut(read).1;
                at += read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidemark_format::postgres::Lsn;

    use super::*;

    const KEY: [u8; 32] = [3; 32];
    const CHECKS: Checks = Checks {
        start: Lsn(0x1000),
        segment_blocks: 131_072,
    };

    /// A page that the server may have written, at `block`.
    fn sound(block: u32) -> [u8; PAGE_BYTES] {
        let mut page = [7; PAGE_BYTES];
        page[..8].fill(0);
        page[14] = 24;
        let sum = checksum::page_checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    fn torn(block: u32) -> [u8; PAGE_BYTES] {
        let mut page = sound(block);
        page[6000] ^= 1;
        page
    }

    fn file_of(pages: &[&[u8]]) -> File {
        use std::io::Write as _;
        let mut file = tempfile::tempfile().unwrap();
        for page in pages {
            file.write_all(page).unwrap();
        }
        file
    }

    fn read(file: File, at: u64, bytes: usize) -> Piece {
        let look = Look {
            key: KEY,
            checks: Some(CHECKS),
        };
        let file = Arc::new(file);
        let segment = Some(0);
        let wanted = Wanted {
            file,
            at,
            bytes,
            segment,
            // What is left of another piece must not show.
            spare: vec![0xEE; 5 * PAGE_BYTES],
        };
        look.at(wanted).unwrap()
    }

    #[test]
    fn pieces_come_back_in_the_order_in_which_they_were_given() {
        let file = Arc::new(file_of(&[&[1; 8192], &[2; 8192], &[3; 8192], &[4; 100]]));
        let look = Look {
            key: KEY,
            checks: None,
        };
        let first: Vec<u8> = std::thread::scope(|scope| {
            let mut readers = Readers::start(scope, 3, look).unwrap();
            let mut seen = Vec::new();
            for turn in 0..100 {
                if readers.are_busy() {
                    seen.push(readers.take().unwrap().unwrap().bytes[0]);
                }
                let at = turn % 4 * 8192;
                let bytes = if turn % 4 == 3 { 100 } else { 8192 };
                let file = Arc::clone(&file);
                let segment = None;
                let wanted = Wanted {
                    file,
                    at,
                    bytes,
                    segment,
                    spare: Vec::new(),
                };
                readers.give(wanted).unwrap();
            }
            while readers.given > readers.taken {
                seen.push(readers.take().unwrap().unwrap().bytes[0]);
            }
            seen
        });
        let expected: Vec<u8> = [1, 2, 3, 4].into_iter().cycle().take(100).collect();
        assert_eq!(first, expected);
    }

    #[test]
    fn a_file_that_shrank_or_ends_in_a_part_of_a_page_is_filled_up_with_zeros() {
        let file = file_of(&[&sound(0), &[9; 100]]);
        let piece = read(file, 0, 3 * PAGE_BYTES + 5);
        assert_eq!((piece.length, piece.bytes.len()), (24_581, 4 * PAGE_BYTES));
        assert_eq!(piece.bytes[..PAGE_BYTES], sound(0));
        assert_eq!(piece.bytes[PAGE_BYTES..PAGE_BYTES + 100], [9; 100]);
        assert!(
            piece.bytes[PAGE_BYTES + 100..]
                .iter()
                .all(|byte| *byte == 0)
        );
        assert_eq!(piece.digests.len(), 4);
        assert_eq!(piece.digests[2], digest(&KEY, &[0; PAGE_BYTES]));
    }

    #[test]
    fn pages_of_zeros_are_sound_and_those_that_stay_wrong_are_told() {
        let file = file_of(&[&sound(0), &[0; PAGE_BYTES], &torn(2), &sound(3), &sound(3)]);
        assert_eq!(read(file, 0, 5 * PAGE_BYTES).bad, [2, 4]);
    }

    #[test]
    fn a_page_that_was_torn_is_read_again_until_it_is_whole() {
        let mut piece = [sound(8), torn(9), sound(10)].concat();
        let mut asked = Vec::new();
        let again = |page: &mut [u8; PAGE_BYTES], number: u64| {
            asked.push(number);
            if asked.len() == 3 {
                *page = sound(9);
            }
            Ok(())
        };
        let wrong = wrong_pages(&mut piece, 8 * 8192, CHECKS, 0, again).unwrap();
        assert_eq!((wrong, asked), (Vec::new(), vec![9, 9, 9]));
        assert_eq!(piece[PAGE_BYTES..2 * PAGE_BYTES], sound(9));
    }

    #[test]
    fn a_page_that_changed_since_the_start_needs_no_second_look() {
        let mut page = torn(0);
        page[4..8].copy_from_slice(&0x1000u32.to_le_bytes());
        let again = |_: &mut [u8; PAGE_BYTES], _: u64| panic!("replay writes it anew");
        let wrong = wrong_pages(&mut page, 0, CHECKS, 0, again).unwrap();
        assert!(wrong.is_empty());
    }
}
