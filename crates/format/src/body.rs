//! What stands inside the encrypted bodies of packs and bases.
//!
//! A **pack** is frames of raw page bytes; its last frame is the footer ([`PackFooter`]): which
//! pages stand in which frame. So a pack explains itself even without its base.
//!
//! A **base**'s body is its [`BaseIndex`]: the digest key of the generation, the files, the packs
//! with their frames' places, and every run of changed pages. Restore needs only this to fetch the
//! frames it wants by range.

use crate::{
    FormatError, Hash, ObjectId,
    wire::{Reader, put_text, put_varint},
};

/// The first byte of both tables.
const TABLE_VERSION: u8 = 1;

/// A run of pages that stand one after the other in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Index into the base's files.
    pub file: u32,
    /// The first page, counted from 0.
    pub first: u64,
    /// How many pages.
    pub count: u32,
    /// Bytes per page.
    pub page_size: u32,
    /// Index into the base's packs (0 in a footer).
    pub pack: u32,
    /// The frame in the pack.
    pub frame: u32,
    /// Where in the frame's content the first page begins.
    pub offset: u32,
}

/// Where a frame stands in its pack object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePlace {
    /// The offset of its length field from the object's first byte.
    pub offset: u64,
    /// Ciphertext bytes with the tag, without the length field.
    pub sealed: u32,
    /// Bytes of content.
    pub raw: u32,
}

/// A pack as a base refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRef {
    /// The pack's name.
    pub object: ObjectId,
    /// The session that sealed it.
    pub session: crate::SessionId,
    /// The pack's link, which covers its body through the head.
    pub link: Hash,
    /// The object's size.
    pub size: u64,
    /// Its frames, footer included (the footer is last).
    pub frames: Vec<FramePlace>,
}

/// A file of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its path inside the source; `main` for a SQLite database.
    pub path: String,
    /// Its length in bytes when the base ended.
    pub bytes: u64,
}

/// The body of a base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseIndex {
    /// The key of the generation's page digests.
    pub digest_key: [u8; 32],
    /// The source's files.
    pub files: Vec<FileEntry>,
    /// The packs of this base.
    pub packs: Vec<PackRef>,
    /// Every run of pages it holds, in the order they were stored.
    pub runs: Vec<Run>,
}

impl BaseIndex {
    /// The bytes of the body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![TABLE_VERSION];
        out.extend_from_slice(&self.digest_key);
        put_count(&mut out, self.files.len());
        for file in &self.files {
            put_text(&mut out, &file.path);
            put_varint(&mut out, file.bytes);
        }
        put_count(&mut out, self.packs.len());
        for pack in &self.packs {
            out.extend_from_slice(&pack.object.0);
            out.extend_from_slice(&pack.session.0);
            out.extend_from_slice(&pack.link.0);
            put_varint(&mut out, pack.size);
            put_frames(&mut out, &pack.frames);
        }
        put_runs(&mut out, &self.runs);
        out
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`FormatError`] when it isn't one, or a run points outside its tables.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, "base index");
        version(&mut reader)?;
        let digest_key = reader.array()?;
        let n = reader.count(2)?;
        let mut files = Vec::with_capacity(n.min(1024));
        for _ in 0..n {
            files.push(FileEntry {
                path: reader.text()?.to_owned(),
                bytes: reader.varint()?,
            });
        }
        let n = reader.count(66)?;
        let mut packs = Vec::with_capacity(n.min(1024));
        for _ in 0..n {
            packs.push(PackRef {
                object: ObjectId(reader.array()?),
                session: crate::SessionId(reader.array()?),
                link: Hash(reader.array()?),
                size: reader.varint()?,
                frames: frames(&mut reader)?,
            });
        }
        let runs = runs(&mut reader)?;
        for run in &runs {
            let file_known = usize::try_from(run.file).is_ok_and(|at| at < files.len());
            let pack = usize::try_from(run.pack).ok().and_then(|at| packs.get(at));
            check_run(
                run,
                file_known,
                pack.map(|pack| pack.frames.as_slice()),
                &reader,
            )?;
        }
        reader.finish()?;
        Ok(Self {
            digest_key,
            files,
            packs,
            runs,
        })
    }
}

/// The last frame of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackFooter {
    /// Raw bytes of each frame before the footer.
    pub frames: Vec<u32>,
    /// What stands in them.
    pub runs: Vec<Run>,
}

impl PackFooter {
    /// The bytes of the frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![TABLE_VERSION];
        put_count(&mut out, self.frames.len());
        for raw in &self.frames {
            put_varint(&mut out, u64::from(*raw));
        }
        put_runs(&mut out, &self.runs);
        out
    }

    /// Reads a footer.
    ///
    /// # Errors
    /// [`FormatError`] when it isn't one, or a run points outside its frames.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, "pack footer");
        version(&mut reader)?;
        let n = reader.count(1)?;
        let mut frames = Vec::with_capacity(n);
        for _ in 0..n {
            frames.push(reader.varint32()?);
        }
        let runs = runs(&mut reader)?;
        let places: Vec<FramePlace> = frames
            .iter()
            .map(|raw| FramePlace {
                offset: 0,
                sealed: 0,
                raw: *raw,
            })
            .collect();
        for run in &runs {
            check_run(run, true, (run.pack == 0).then_some(&places), &reader)?;
        }
        reader.finish()?;
        Ok(Self { frames, runs })
    }
}

fn version(reader: &mut Reader<'_>) -> Result<(), FormatError> {
    match reader.u8()? {
        TABLE_VERSION => Ok(()),
        other => Err(FormatError::Version(other)),
    }
}

fn check_run(
    run: &Run,
    file_known: bool,
    frames: Option<&[FramePlace]>,
    reader: &Reader<'_>,
) -> Result<(), FormatError> {
    let frame = frames.and_then(|all| all.get(usize::try_from(run.frame).ok()?));
    let end = u64::from(run.count)
        .checked_mul(u64::from(run.page_size))
        .and_then(|len| len.checked_add(u64::from(run.offset)));
    let fits = frame.is_some_and(|frame| end.is_some_and(|end| end <= u64::from(frame.raw)));
    let sound = run.count > 0 && run.page_size > 0;
    let ends = run.first.checked_add(u64::from(run.count)).is_some();
    if file_known && fits && sound && ends {
        Ok(())
    } else {
        Err(reader.invalid("a run of pages points outside its file, pack or frame"))
    }
}

fn put_count(out: &mut Vec<u8>, n: usize) {
    put_varint(out, u64::try_from(n).unwrap_or(u64::MAX));
}

fn put_frames(out: &mut Vec<u8>, frames: &[FramePlace]) {
    put_count(out, frames.len());
    for frame in frames {
        put_varint(out, frame.offset);
        put_varint(out, u64::from(frame.sealed));
        put_varint(out, u64::from(frame.raw));
    }
}

fn frames(reader: &mut Reader<'_>) -> Result<Vec<FramePlace>, FormatError> {
    let n = reader.count(3)?;
    let mut frames = Vec::with_capacity(n.min(4096));
    for _ in 0..n {
        frames.push(FramePlace {
            offset: reader.varint()?,
            sealed: reader.varint32()?,
            raw: reader.varint32()?,
        });
    }
    Ok(frames)
}

fn put_runs(out: &mut Vec<u8>, runs: &[Run]) {
    put_count(out, runs.len());
    for run in runs {
        put_varint(out, u64::from(run.file));
        put_varint(out, run.first);
        put_varint(out, u64::from(run.count));
        put_varint(out, u64::from(run.page_size));
        put_varint(out, u64::from(run.pack));
        put_varint(out, u64::from(run.frame));
        put_varint(out, u64::from(run.offset));
    }
}

fn runs(reader: &mut Reader<'_>) -> Result<Vec<Run>, FormatError> {
    let n = reader.count(7)?;
    // A run is 32 bytes in memory and at least 7 here: grow with what is really read.
    let mut runs = Vec::with_capacity(n.min(reader.remaining() / 32));
    for _ in 0..n {
        runs.push(Run {
            file: reader.varint32()?,
            first: reader.varint()?,
            count: reader.varint32()?,
            page_size: reader.varint32()?,
            pack: reader.varint32()?,
            frame: reader.varint32()?,
            offset: reader.varint32()?,
        });
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> BaseIndex {
        BaseIndex {
            digest_key: [7; 32],
            files: vec![FileEntry {
                path: "main".into(),
                bytes: 8192,
            }],
            packs: vec![PackRef {
                object: ObjectId([1; 16]),
                session: crate::SessionId([2; 16]),
                link: Hash([3; 32]),
                size: 9000,
                frames: vec![FramePlace {
                    offset: 500,
                    sealed: 100,
                    raw: 8192,
                }],
            }],
            runs: vec![Run {
                file: 0,
                first: 0,
                count: 2,
                page_size: 4096,
                pack: 0,
                frame: 0,
                offset: 0,
            }],
        }
    }

    #[test]
    fn a_base_index_reads_back() {
        assert_eq!(BaseIndex::decode(&index().encode()), Ok(index()));
    }

    #[test]
    fn a_run_outside_its_frame_is_refused() {
        let mut wrong = index();
        wrong.runs[0].offset = 1;
        assert!(matches!(
            BaseIndex::decode(&wrong.encode()),
            Err(FormatError::Invalid { .. })
        ));
        let mut wrong = index();
        wrong.runs[0].pack = 1;
        assert!(BaseIndex::decode(&wrong.encode()).is_err());
    }

    #[test]
    fn a_footer_reads_back_and_every_cut_is_refused() {
        let footer = PackFooter {
            frames: vec![8192],
            runs: index().runs,
        };
        let bytes = footer.encode();
        assert_eq!(PackFooter::decode(&bytes), Ok(footer));
        for cut in 0..bytes.len() {
            assert!(PackFooter::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
