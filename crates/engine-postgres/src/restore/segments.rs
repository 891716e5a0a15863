//! The log's files in `pg_wal`: segments of exactly their size, and histories.
//!
//! A segment has its full size from its first byte on, zeros where nothing was written: a server refuses
//! any other size, and takes zeros for the end. Where the log begins inside a segment, the headers of the
//! segment's first page and of that page are made up, for a server looks at them before anything else.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use tidemark_format::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};

use super::error::RestoreError;
use super::feed;
use super::files::Files;
use crate::wal::{PAGE_BYTES, Version};

const FOLDER: &str = "pg_wal";
const STATUS: &str = "pg_wal/archive_status";

/// Where the log of one timeline is needed: from the segment of `from` up to `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leg {
    pub(super) timeline: TimelineId,
    pub(super) from: Lsn,
    pub(super) to: Lsn,
}

/// The folder of the log.
#[derive(Debug)]
pub(super) struct Segments {
    files: Arc<Files>,
    size: SegmentSize,
    /// The segment that was written last.
    current: Option<(SegmentName, File)>,
}

impl Segments {
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    pub(super) const fn new(files: Arc<Files>, size: SegmentSize) -> Self {
        Self {
            files,
            size,
            current: None,
        }
    }

    pub(super) const fn size(&self) -> SegmentSize {
        self.size
    }

    fn path(&self, name: SegmentName) -> String {
        format!("{FOLDER}/{}", name.text(self.size))
    }

    fn io(
        &self,
        action: &'static str,
        path: &str,
    ) -> impl FnOnce(io::Error) -> RestoreError + use<> {
        let path = self.files.tree.join(path);
        move |source| RestoreError::io(action, &path)(source)
    }

    fn open(&mut self, name: SegmentName) -> Result<&File, RestoreError> {
        if self.current.as_ref().is_none_or(|(open, _)| *open != name) {
            let path = self.path(name);
            let file = self.files.tree.file(&path);
            let file = file.map_err(self.io("making a segment of the log", &path))?;
            self.files
                .tree
                .give(&file)
                .and_then(|()| file.set_len(self.size.bytes()))
                .map_err(self.io("sizing a segment of the log", &path))?;
            self.current = Some((name, file));
        }
        let current = self.current.as_ref().map(|(_, file)| file);
        current.ok_or(RestoreError::Contract("no segment is open"))
    }

    /// Writes log at its place.
    pub(super) fn write(
        &mut self,
        timeline: TimelineId,
        mut at: Lsn,
        mut bytes: &[u8],
    ) -> Result<(), RestoreError> {
        while !bytes.is_empty() {
            let room = self.size.bytes().saturating_sub(self.size.offset(at));
            let now = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            let (here, rest) = bytes.split_at(now);
            let name = SegmentName::of(timeline, at, self.size);
            let offset = self.size.offset(at);
            let written = self.open(name)?.write_all_at(here, offset);
            written.map_err(self.io("writing the log", &self.path(name)))?;
            at = at.plus(u64::try_from(now).unwrap_or(u64::MAX));
            bytes = rest;
        }
        Ok(())
    }

    /// Reads log that was written before; false if it is not there.
    pub(super) fn read(
        &self,
        timeline: TimelineId,
        mut at: Lsn,
        mut into: &mut [u8],
    ) -> Result<bool, RestoreError> {
        while !into.is_empty() {
            let room = self.size.bytes().saturating_sub(self.size.offset(at));
            let now = usize::try_from(room).unwrap_or(usize::MAX).min(into.len());
            let (here, rest) = into.split_at_mut(now);
            let path = self.path(SegmentName::of(timeline, at, self.size));
            let file = self.files.tree.existing(&path);
            let Some(file) = file.map_err(self.io("opening the log", &path))? else {
                return Ok(false);
            };
            match file.read_exact_at(here, self.size.offset(at)) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                read => read.map_err(self.io("reading the log back", &path))?,
            }
            at = at.plus(u64::try_from(now).unwrap_or(u64::MAX));
            into = rest;
        }
        Ok(true)
    }

    /// Makes up the headers before `at`, where the log begins.
    pub(super) fn begin(
        &mut self,
        timeline: TimelineId,
        at: Lsn,
        system: u64,
        version: Version,
    ) -> Result<(), RestoreError> {
        let segment = self.size.start(at);
        let page = Lsn(at.0 & !(PAGE_BYTES.wrapping_sub(1)));
        let mut pages = vec![segment];
        if page != segment {
            pages.push(page);
        }
        for page in pages {
            let long = (page == segment).then_some((system, self.size));
            let head = header(page, timeline, version, long);
            // What is there is not touched.
            let missing = usize::try_from(at.since(page)).unwrap_or(usize::MAX);
            let head = head.get(..missing).unwrap_or(&head);
            self.write(timeline, page, head)?;
        }
        Ok(())
    }

    /// A server is about to read here: nothing is marked as ready for it.
    pub(super) fn begin_feed(&self) -> Result<(), RestoreError> {
        feed::begin(&self.files.tree).map_err(self.io("making the marks of the log", FOLDER))
    }

    /// The segment at `start` is whole, and ready for a server.
    pub(super) fn feed(&self, timeline: TimelineId, start: Lsn) -> Result<(), RestoreError> {
        let name = SegmentName::of(timeline, start, self.size).text(self.size);
        let marked = feed::mark(&self.files.tree, &name);
        marked.map_err(self.io("marking a segment of the log", &name))
    }

    /// All of it is ready.
    pub(super) fn end_feed(&self) -> Result<(), RestoreError> {
        feed::end(&self.files.tree).map_err(self.io("marking the end of the log", FOLDER))
    }

    /// Writes a history.
    pub(super) fn history(&self, timeline: TimelineId, bytes: &[u8]) -> Result<(), RestoreError> {
        let path = format!("{FOLDER}/{}", timeline.history_file());
        let written = self.files.tree.write(&path, bytes);
        written.map_err(self.io("writing a timeline's history", &path))
    }

    /// The history of a timeline, if it is there.
    pub(super) fn read_history(
        &self,
        timeline: TimelineId,
    ) -> Result<Option<Vec<u8>>, RestoreError> {
        let path = format!("{FOLDER}/{}", timeline.history_file());
        let read = self.files.tree.read(&path);
        read.map_err(self.io("reading a timeline's history", &path))
    }

    /// Leaves exactly the log of `legs` and the histories of `timelines`: what else stands there is of
    /// an earlier attempt, or nobody's. Bytes past a leg's end become zeros.
    pub(super) fn tidy(
        &mut self,
        legs: &[Leg],
        timelines: &BTreeSet<TimelineId>,
    ) -> Result<(), RestoreError> {
        self.current = None;
        let keep: BTreeSet<String> = timelines.iter().map(|id| id.history_file()).collect();
        for name in self.names()? {
            let segment = SegmentName::parse(&name, self.size).ok();
            let leg = segment.and_then(|segment| {
                legs.iter().find(|leg| {
                    leg.timeline == segment.timeline
                        && self.size.start(leg.from) <= segment.start
                        && segment.start < leg.to
                })
            });
            if leg.is_none() && !keep.contains(&name) {
                let path = format!("{FOLDER}/{name}");
                let removed = self.files.tree.remove(&path);
                removed.map_err(self.io("removing a file of the log", &path))?;
                continue;
            }
            if let (Some(segment), Some(leg)) = (segment, leg) {
                self.clear_after(segment, leg.to)?;
            }
            // Wherever these came from, the archive has them.
            let path = format!("{STATUS}/{name}.done");
            let marked = self.files.tree.write(&path, &[]);
            marked.map_err(self.io("marking a file of the log", &path))?;
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, RestoreError> {
        let folder = self.files.tree.join(FOLDER);
        let list = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                if !entry.file_type()?.is_dir() {
                    names.extend(entry.file_name().into_string());
                }
            }
            Ok(names)
        };
        list().map_err(RestoreError::io("listing the log", &folder))
    }

    fn clear_after(&mut self, segment: SegmentName, end: Lsn) -> Result<(), RestoreError> {
        let path = self.path(segment);
        let next = segment.start.plus(self.size.bytes());
        let whole = self.size.bytes();
        let keep = if end < next {
            self.size.offset(end)
        } else {
            whole
        };
        // What is cut off comes back as zeros.
        let clear = |file: &File| file.set_len(keep).and_then(|()| file.set_len(whole));
        let done = clear(self.open(segment)?);
        done.map_err(self.io("clearing the end of the log", &path))
    }
}

/// A page's header, without a record that goes on.
fn header(
    page: Lsn,
    timeline: TimelineId,
    version: Version,
    long: Option<(u64, SegmentSize)>,
) -> Vec<u8> {
    const LONG: u16 = 2;
    let mut head = Vec::with_capacity(40);
    head.extend(version.magic().to_le_bytes());
    head.extend((if long.is_some() { LONG } else { 0 }).to_le_bytes());
    head.extend(timeline.0.to_le_bytes());
    head.extend(page.0.to_le_bytes());
    head.extend([0; 8]);
    if let Some((system, size)) = long {
        head.extend(system.to_le_bytes());
        head.extend(u32::try_from(size.bytes()).unwrap_or(0).to_le_bytes());
        head.extend(u32::try_from(PAGE_BYTES).unwrap_or(0).to_le_bytes());
    }
    head
}
