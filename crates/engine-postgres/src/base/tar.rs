//! A reader of tar archives that come in pieces of any size.
//!
//! Pure. Reads ustar with GNU's and pax's long names, octal and base-256 numbers; takes an archive
//! that simply ends (as servers before 15 send it) as well as one that ends in blocks of zeros.
//! What it can't read is an error, never a guess.
//!
//! **Bounds.** It keeps one header block, and a long name of at most [`LONG_BYTES_MAX`].

use tidemark_format::postgres::layout::is_safe_path;

const BLOCK: usize = 512;
/// Longer names and extended headers are refused.
pub(crate) const LONG_BYTES_MAX: usize = 64 << 10;

/// An archive that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the archive that the server sends is not valid at byte {at}: {why}")]
pub struct TarError {
    /// Bytes before it.
    pub at: u64,
    /// What is wrong.
    pub why: &'static str,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Link,
}

/// An entry's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Relative and safe; of a folder without the slash. The archive's own top has an empty one.
    pub(crate) path: String,
    pub(crate) kind: Kind,
    /// Bytes of data that follow.
    pub(crate) bytes: u64,
    /// Permission bits.
    pub(crate) mode: u32,
    /// What a link points at.
    pub(crate) target: String,
}

/// What comes, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    Entry(Entry),
    /// Bytes of the entry before.
    Data(&'a [u8]),
    /// The entry is whole.
    EntryEnd,
    /// The name of an entry is no text or leads out of the archive: it is left out.
    Skipped(String),
}

/// What a long header is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Long {
    Name,
    Link,
    Pax,
    /// Global pax headers say nothing that is needed.
    Ignored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Long {
        kind: Long,
        left: u64,
    },
    Data {
        left: u64,
        wanted: bool,
    },
    /// Up to the next block; `ends` an entry.
    Padding {
        left: u64,
        ends: bool,
    },
    Done,
}

/// The reader.
#[derive(Debug)]
pub(crate) struct Tar {
    state: State,
    block: Vec<u8>,
    long: Vec<u8>,
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    /// Bytes of the entry that is being read.
    entry_bytes: u64,
    at: u64,
}

impl Tar {
    pub(crate) const fn new() -> Self {
        Self {
            state: State::Header,
            block: Vec::new(),
            long: Vec::new(),
            name: None,
            target: None,
            size: None,
            entry_bytes: 0,
            at: 0,
        }
    }

    const fn bad(&self, why: &'static str) -> TarError {
        TarError { at: self.at, why }
    }

    /// Takes from `input` up to the next event; none: it needs more input.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, TarError> {
        loop {
            match self.state {
                State::Done => {
                    // Zeros, or whatever fills the archive's last record.
                    *input = &[];
                    return Ok(None);
                }
                State::Header => {
                    let wanted = BLOCK - self.block.len();
                    let piece = self.take(input, wanted as u64);
                    self.block.extend_from_slice(piece);
                    if self.block.len() < BLOCK {
                        return Ok(None);
                    }
                    let block = std::mem::take(&mut self.block);
                    let event = self.header(&block)?;
                    self.block = block;
                    self.block.clear();
                    if event.is_some() {
                        return Ok(event);
                    }
                }
                State::Long { kind, left } => {
                    let piece = self.take(input, left);
                    self.long.extend_from_slice(piece);
                    let left = left - piece.len() as u64;
                    self.state = State::Long { kind, left };
                    if left > 0 {
                        return Ok(None);
                    }
                    self.state = self.padding(self.long.len() as u64, false);
                    self.finish_long(kind)?;
                }
                State::Data { left: 0, .. } => {
                    self.state = self.padding(self.entry_bytes, true);
                }
                State::Data { left, wanted } => {
                    let piece = self.take(input, left);
                    if piece.is_empty() {
                        return Ok(None);
                    }
                    let left = left - piece.len() as u64;
                    self.state = State::Data { left, wanted };
                    if wanted {
                        return Ok(Some(Event::Data(piece)));
                    }
                }
                State::Padding { left: 0, ends } => {
                    self.state = State::Header;
                    if ends {
                        return Ok(Some(Event::EntryEnd));
                    }
                }
                State::Padding { left, ends } => {
                    let piece = self.take(input, left);
                    if piece.is_empty() {
                        return Ok(None);
                    }
                    let left = left - piece.len() as u64;
                    self.state = State::Padding { left, ends };
                }
            }
        }
    }

    /// The input is over.
    pub(crate) fn finish(&self) -> Result<(), TarError> {
        let long = self.name.is_some() || self.target.is_some() || self.size.is_some();
        match self.state {
            State::Done => Ok(()),
            State::Header if self.block.is_empty() && !long => Ok(()),
            _ => Err(self.bad("it ends inside an entry")),
        }
    }

    fn take<'a>(&mut self, input: &mut &'a [u8], most: u64) -> &'a [u8] {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let (piece, rest) = input.split_at(most.min(input.len()));
        *input = rest;
        self.at = self.at.saturating_add(piece.len() as u64);
        piece
    }

    const fn padding(&self, bytes: u64, ends: bool) -> State {
        let block = BLOCK as u64;
        let left = (block - bytes % block) % block;
        State::Padding { left, ends }
    }

    fn header(&mut self, block: &[u8]) -> Result<Option<Event<'static>>, TarError> {
        if block.iter().all(|byte| *byte == 0) {
            self.state = State::Done;
            return Ok(None);
        }
        let field = |from: usize, length: usize| block.get(from..from + length).unwrap_or_default();
        let number = |from, length, why| number(field(from, length)).ok_or_else(|| self.bad(why));
        let sum = number(148, 8, "a header has no checksum")?;
        if sum != checksum(block) {
            return Err(self.bad("a header's checksum is wrong"));
        }
        let bytes = number(124, 12, "an entry has no size")?;
        let kind = field(156, 1).first().copied().unwrap_or(0);
        let long = match kind {
            b'L' => Some(Long::Name),
            b'K' => Some(Long::Link),
            b'x' => Some(Long::Pax),
            b'g' => Some(Long::Ignored),
            _ => None,
        };
        if let Some(kind) = long {
            if bytes > LONG_BYTES_MAX as u64 {
                return Err(self.bad("a name is longer than any name may be"));
            }
            self.long.clear();
            self.state = State::Long { kind, left: bytes };
            return Ok(None);
        }
        let mode = number(100, 8, "an entry has no mode")? & 0o7777;
        let kind = match kind {
            b'0' | b'7' | 0 => Kind::File,
            b'5' => Kind::Folder,
            b'2' => Kind::Link,
            _ => return Err(self.bad("an entry is neither file nor folder nor symbolic link")),
        };
        let bytes = self.size.take().unwrap_or(bytes);
        let bytes = if kind == Kind::File { bytes } else { 0 };
        let name = self.name.take().unwrap_or_else(|| name(block));
        let target = self.target.take();
        let target = target.unwrap_or_else(|| until_zero(field(157, 100)).to_vec());
        self.entry_bytes = bytes;
        let path = path(&name).filter(|path| kind == Kind::Folder || !path.is_empty());
        let target = String::from_utf8(target).ok();
        self.state = State::Data {
            left: bytes,
            wanted: path.is_some(),
        };
        let (Some(path), Some(target)) = (path, target) else {
            // Its data and end still come; the caller hears of neither.
            self.state = State::Data {
                left: bytes,
                wanted: false,
            };
            let shown = String::from_utf8_lossy(&name).into_owned();
            return Ok(Some(Event::Skipped(shown)));
        };
        let mode = u32::try_from(mode).unwrap_or(0);
        Ok(Some(Event::Entry(Entry {
            path,
            kind,
            bytes,
            mode,
            target,
        })))
    }

    fn finish_long(&mut self, kind: Long) -> Result<(), TarError> {
        match kind {
            Long::Name => self.name = Some(until_zero(&self.long).to_vec()),
            Long::Link => self.target = Some(until_zero(&self.long).to_vec()),
            Long::Ignored => {}
            Long::Pax => return self.finish_pax(),
        }
        Ok(())
    }

    fn finish_pax(&mut self) -> Result<(), TarError> {
        let records = std::mem::take(&mut self.long);
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let (key, value, after) =
                pax(rest).ok_or_else(|| self.bad("an extended header is not well-formed"))?;
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.target = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok();
                    let size = size.and_then(|size| size.parse().ok());
                    let size = size.ok_or_else(|| self.bad("an extended header's size is none"))?;
                    self.size = Some(size);
                }
                _ => {}
            }
            rest = after;
        }
        self.long = records;
        Ok(())
    }
}

/// One record, `LENGTH KEY=VALUE\n`, and what follows it.
fn pax(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
    let (record, after) = records.split_at_checked(length)?;
    let record = record.strip_suffix(b"\n")?.get(space + 1..)?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], after))
}

/// The sum of a header's bytes, its own checksum counted as spaces.
fn checksum(block: &[u8]) -> u64 {
    let bytes = block.iter().enumerate();
    bytes
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                u64::from(b' ')
            } else {
                u64::from(*byte)
            }
        })
        .sum()
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal text, or GNU's binary form.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if *first == 0x80 {
        let (high, low) = rest.split_at_checked(rest.len().checked_sub(8)?)?;
        let zero = high.iter().all(|byte| *byte == 0);
        return zero.then(|| low.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    let text = until_zero(field).trim_ascii();
    if text.is_empty() {
        return Some(0);
    }
    text.iter().try_fold(0u64, |sum, byte| match byte {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// The name as ustar splits it.
fn name(block: &[u8]) -> Vec<u8> {
    let name = until_zero(&block[..100]);
    // GNU's own magic has other fields where ustar has the prefix.
    let ustar = block[257..].starts_with(b"ustar\0");
    let prefix = if ustar {
        until_zero(&block[345..500])
    } else {
        &[]
    };
    if prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

/// The path of an entry; none if it is not safe. The archive's own top becomes the empty path.
fn path(name: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(name).ok()?;
    let text = text.strip_prefix("./").unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    let top = matches!(text, "" | ".");
    if top {
        return Some(String::new());
    }
    is_safe_path(text).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(name: &str, kind: u8, bytes: u64, magic: &[u8]) -> Vec<u8> {
        let mut block = vec![0u8; BLOCK];
        let head = &name.as_bytes()[..name.len().min(100)];
        block[..head.len()].copy_from_slice(head);
        block[100..108].copy_from_slice(b"0000600\0");
        block[124..136].copy_from_slice(format!("{bytes:011o} ").as_bytes());
        block[156] = kind;
        block[257..257 + magic.len()].copy_from_slice(magic);
        sign(&mut block);
        block
    }

    fn sign(block: &mut [u8]) {
        let sum = checksum(block);
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    fn padded(mut data: Vec<u8>) -> Vec<u8> {
        data.resize(data.len().next_multiple_of(BLOCK), 0);
        data
    }

    fn file(name: &str, data: &[u8]) -> Vec<u8> {
        let mut out = header(name, b'0', data.len() as u64, b"ustar\x0000");
        out.extend(padded(data.to_vec()));
        out
    }

    type Read = (Vec<(Entry, Vec<u8>)>, Vec<String>);

    /// Reads an archive given in pieces.
    fn read(archive: &[u8], piece: usize) -> Result<Read, TarError> {
        let mut tar = Tar::new();
        let (mut files, mut skipped): Read = Default::default();
        let mut open = false;
        for mut input in archive.chunks(piece.max(1)) {
            while let Some(event) = tar.next(&mut input)? {
                match event {
                    Event::Entry(entry) => {
                        files.push((entry, Vec::new()));
                        open = true;
                    }
                    Event::Data(data) => {
                        assert!(open && !data.is_empty());
                        files.last_mut().unwrap().1.extend_from_slice(data);
                    }
                    Event::EntryEnd => open = false,
                    Event::Skipped(name) => skipped.push(name),
                }
            }
            assert!(input.is_empty(), "it takes all it is given");
        }
        tar.finish()?;
        Ok((files, skipped))
    }

    fn names(archive: &[u8]) -> Vec<String> {
        let (files, _) = read(archive, 700).unwrap();
        files.into_iter().map(|(entry, _)| entry.path).collect()
    }

    #[test]
    fn files_folders_and_links_are_read_in_pieces_of_any_size() {
        let mut archive = header("base/", b'5', 0, b"ustar\x0000");
        archive.extend(file("base/1", &[7; 1300]));
        archive.extend(file("empty", b""));
        let mut link = header("link", b'2', 0, b"ustar\x0000");
        link[157..163].copy_from_slice(b"../far");
        sign(&mut link);
        archive.extend(link);
        for end in [0, 1, 2, 20] {
            let mut archive = archive.clone();
            archive.extend(vec![0; end * BLOCK]);
            for piece in [1, 511, 512, 513, 100_000] {
                let (files, skipped) = read(&archive, piece).unwrap();
                assert!(skipped.is_empty());
                assert_eq!(files.len(), 4);
                assert_eq!(files[0].0.path, "base");
                assert_eq!(files[0].0.kind, Kind::Folder);
                assert_eq!(files[1].1, vec![7; 1300]);
                assert_eq!(files[1].0.mode, 0o600);
                assert_eq!((files[2].0.bytes, &files[2].1), (0, &Vec::new()));
                assert_eq!(files[3].0.kind, Kind::Link);
                assert_eq!(files[3].0.target, "../far");
            }
        }
    }

    #[test]
    fn long_names_are_read_as_gnu_pax_and_ustar_write_them() {
        let long = "d/".repeat(100) + "file";
        let mut gnu = header("././@LongLink", b'L', long.len() as u64 + 1, b"ustar  \0");
        gnu.extend(padded([long.as_bytes(), b"\0"].concat()));
        gnu.extend(file("cut", b"x"));
        assert_eq!(names(&gnu), std::slice::from_ref(&long));
        let record = format!("path={long}\n");
        let record = format!("{} {record}", record.len() + 4);
        let mut pax = header("x", b'x', record.len() as u64, b"ustar\x0000");
        pax.extend(padded(record.into_bytes()));
        pax.extend(file("cut", b"x"));
        assert_eq!(names(&pax), [long]);
        let mut split = header("file", b'0', 0, b"ustar\x0000");
        split[345..348].copy_from_slice(b"a/b");
        sign(&mut split);
        assert_eq!(names(&split), ["a/b/file"]);
    }

    #[test]
    fn sizes_are_read_in_binary_too() {
        assert_eq!(
            number(&[0x80, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 1]),
            Some(0x0200_0001)
        );
        assert_eq!(number(&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(number(b"00000001750\0"), Some(1000));
        assert_eq!(number(b"8"), None);
    }

    #[test]
    fn names_that_lead_out_of_the_archive_are_left_out_with_their_data() {
        let mut archive = file("../x", &[1; 600]);
        archive.extend(file("/etc/passwd", b"x"));
        archive.extend(file("good", b"y"));
        let (files, skipped) = read(&archive, 100).unwrap();
        assert_eq!(skipped, ["../x", "/etc/passwd"]);
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].1, b"y");
    }

    #[test]
    fn an_archive_that_ends_inside_an_entry_is_not_whole() {
        let archive = file("f", &[1; 600]);
        for end in 1..archive.len() {
            assert!(read(&archive[..end], 512).is_err(), "{end}");
        }
        assert!(read(&[], 1).is_ok());
    }

    #[test]
    fn a_wrong_checksum_and_a_strange_entry_are_errors() {
        let mut archive = file("f", b"x");
        archive[0] = b'g';
        assert!(read(&archive, 512).is_err());
        assert!(read(&header("fifo", b'6', 0, b"ustar\x0000"), 512).is_err());
        let huge = header("x", b'x', 1 << 32, b"ustar\x0000");
        assert!(read(&huge, 512).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            piece in 1usize..700,
            keep in 0usize..2000,
        ) {
            let mut archive = file("base/1", &[7; 700]);
            archive.truncate(keep);
            archive.extend(&bytes);
            drop(read(&archive, piece));
        }

        #[test]
        fn changed_headers_never_panic_even_with_a_right_checksum(
            at in 0usize..512,
            bytes in prop::collection::vec(any::<u8>(), 1..40),
            rest in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            let mut archive = header("base/1", b'0', 700, b"ustar\x0000");
            for (to, from) in archive[at..].iter_mut().zip(&bytes) {
                *to = *from;
            }
            sign(&mut archive);
            archive.extend(rest);
            drop(read(&archive, 333));
        }

        #[test]
        fn what_was_written_is_read(
            files in prop::collection::vec(("[a-z]{1,20}(/[a-z]{1,20}){0,3}", prop::collection::vec(any::<u8>(), 0..2000)), 0..6),
            piece in 1usize..3000,
        ) {
            let archive: Vec<u8> = files.iter().flat_map(|(name, data)| file(name, data)).collect();
            let (found, _) = read(&archive, piece).unwrap();
            let found: Vec<_> = found.into_iter().map(|(entry, data)| (entry.path, data)).collect();
            prop_assert_eq!(found, files);
        }
    }
}
