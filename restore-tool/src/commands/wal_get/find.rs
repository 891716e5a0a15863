//! Which log objects hold a segment or a history, and what their silence means.

use std::fmt;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use tidemark_format::heads::LogHead;
use tidemark_format::postgres::{LogRange, Lsn, SegmentName, SegmentSize, TimelineId};
use tidemark_format::{FormatError, Incarnation};
use tidemark_ledger::Verified;
use tidemark_open::{Error as OpenError, Opener};
use tidemark_planner::restore::ServerLog;

use super::cache::{self, Temporary};
use crate::error::{Error, Result};
use crate::plan::Survey;

/// Objects opened at once.
const OBJECTS_AT_ONCE: usize = 8;
/// How histories' names end.
const HISTORY: &str = ".history";

/// A file that a server asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A timeline's history.
    History(TimelineId),
    /// A segment, by its name; where it lies hangs on the size of segments.
    Segment(String),
}

impl Wanted {
    pub(super) const fn is_segment(&self) -> bool {
        matches!(self, Self::Segment(_))
    }
}

impl FromStr for Wanted {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let hex = |part: &str| {
            // The server writes capitals only.
            let plain = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
            part.bytes().all(plain)
        };
        if let Some(id) = text.strip_suffix(HISTORY) {
            let id = Some(id).filter(|id| id.len() == 8 && hex(id));
            let id = id.and_then(|id| u32::from_str_radix(id, 16).ok());
            if let Some(id) = id.filter(|id| *id > 0) {
                return Ok(Self::History(TimelineId(id)));
            }
        }
        if text.len() == 24 && hex(text) {
            return Ok(Self::Segment(text.to_owned()));
        }
        Err(Error::TargetText(format!(
            "{text:?} is neither a segment of a server's log (24 digits) nor a history (00000002.history): wal-get takes %f and %p as the server gives them"
        )))
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::History(timeline) => f.write_str(&timeline.history_file()),
            Self::Segment(name) => f.write_str(name),
        }
    }
}

/// What is known of a file.
pub(super) enum Answer {
    /// There is none.
    Absent,
    /// A history's bytes.
    History(Vec<u8>),
    /// A segment, in parts.
    Segment(Parts),
}

/// Objects that together hold a segment from its start.
pub(super) struct Parts {
    segment: SegmentName,
    size: SegmentSize,
    /// How far they reach.
    end: Lsn,
    objects: Vec<Verified<LogHead>>,
}

impl Parts {
    pub(super) fn is_whole(&self) -> bool {
        self.end >= self.size.next(self.segment.start)
    }
}

/// One life's log.
pub(super) struct WalLog<'a> {
    survey: Survey<'a>,
    opener: Arc<Opener>,
    incarnation: Incarnation,
    size: Option<SegmentSize>,
}

/// An object's part of the log, as its head says.
struct Part<'a> {
    object: &'a Verified<LogHead>,
    timeline: TimelineId,
    start: Lsn,
    end: Lsn,
}

/// What an object's head says of its place. One that doesn't is read by nobody who must be sure.
fn part(object: &Verified<LogHead>) -> Result<Part<'_>> {
    let log = ServerLog::read(&object.head.facts);
    let told = log.and_then(|log| Some((log.timeline?, log.start?, log.end?)));
    let (timeline, start, end) = told.ok_or_else(|| {
        unknown(&format!(
            "{} does not say which part of the log it holds",
            object.key
        ))
    })?;
    Ok(Part {
        object,
        timeline,
        start,
        end,
    })
}

impl<'a> WalLog<'a> {
    /// The log of the life named, or of the newest.
    pub(super) async fn new(
        mut survey: Survey<'a>,
        opener: Arc<Opener>,
        incarnation: Option<Incarnation>,
    ) -> Result<Self> {
        survey.back_until(|head| head.gap.is_none()).await?;
        let newest = survey
            .heads()
            .rev()
            .find(|object| object.head.gap.is_none());
        let newest = newest.map(|object| object.head.incarnation);
        let incarnation = incarnation
            .or(newest)
            .ok_or_else(|| unknown("no log is there yet"))?;
        Ok(Self {
            survey,
            opener,
            incarnation,
            size: None,
        })
    }

    /// What is known of a file.
    pub(super) async fn answer(&mut self, wanted: &Wanted) -> Result<Answer> {
        match wanted {
            Wanted::History(timeline) => self.history(*timeline).await,
            Wanted::Segment(name) => self.segment(name).await,
        }
    }

    /// The history that a server asks for next, where the segment named is not there.
    pub(super) async fn history_after(&mut self, wanted: &Wanted) -> Result<Option<Wanted>> {
        let Wanted::Segment(name) = wanted else {
            return Ok(None);
        };
        let size = self.segment_size().await?;
        let timeline = parse(name, size)?.timeline;
        let next = TimelineId(timeline.0.saturating_add(1));
        Ok(Some(Wanted::History(next)))
    }

    /// The segment behind one.
    pub(super) async fn next(&mut self, wanted: &Wanted) -> Result<Wanted> {
        let Wanted::Segment(name) = wanted else {
            return Err(unknown("only segments follow each other"));
        };
        let size = self.segment_size().await?;
        let segment = parse(name, size)?;
        let next = SegmentName {
            start: size.next(segment.start),
            ..segment
        };
        Ok(Wanted::Segment(next.text(size)))
    }

    /// As the newest payload says: heads don't.
    async fn segment_size(&mut self) -> Result<SegmentSize> {
        if let Some(size) = self.size {
            return Ok(size);
        }
        let newest = self.objects().last();
        let newest = newest.ok_or_else(|| unknown("this life of the server has no log here"))?;
        let opened = self.opener.log(&newest.key, newest.link).await?;
        let size = decoded(&newest.key, &opened.payload)?.segment;
        self.size = Some(size);
        Ok(size)
    }

    /// Objects of this life, oldest first.
    fn objects(&self) -> impl DoubleEndedIterator<Item = &Verified<LogHead>> {
        let life = self.incarnation;
        let all = self.survey.heads();
        all.filter(move |object| object.head.incarnation == life && object.head.gap.is_none())
    }

    /// The same with their places.
    fn parts(&self) -> Result<Vec<Part<'_>>> {
        self.objects().map(part).collect()
    }

    async fn history(&mut self, timeline: TimelineId) -> Result<Answer> {
        // A server that waits for log asks for the next timeline's all the time: the newest head alone
        // tells that there is none.
        let life = self.incarnation;
        self.survey
            .back_until(|head| {
                let on = ServerLog::read(&head.facts).and_then(|log| log.timeline);
                head.incarnation == life && on.is_some_and(|on| on < timeline)
            })
            .await?;
        let parts = self.parts()?;
        // The first object of a timeline carries the histories that lead to it.
        let Some(first) = parts.iter().find(|part| part.timeline >= timeline) else {
            self.nothing_lost_after(None)?;
            return Ok(Answer::Absent);
        };
        let opened = self
            .opener
            .log(&first.object.key, first.object.link)
            .await?;
        let range = decoded(&first.object.key, &opened.payload)?;
        let found = range
            .histories
            .iter()
            .find(|file| file.timeline == timeline);
        match found {
            Some(file) => Ok(Answer::History(file.bytes.to_vec())),
            // The first timeline has none, and an id may have been burnt.
            None if timeline == TimelineId::FIRST || first.timeline > timeline => {
                Ok(Answer::Absent)
            }
            None => Err(unknown(&format!(
                "{} begins timeline {timeline} and does not carry its history",
                first.object.key
            ))),
        }
    }

    async fn segment(&mut self, name: &str) -> Result<Answer> {
        let size = self.segment_size().await?;
        let segment = parse(name, size)?;
        let (timeline, from, to) = (segment.timeline, segment.start, size.next(segment.start));
        let life = self.incarnation;
        self.survey
            .back_until(|head| {
                let log = ServerLog::read(&head.facts);
                let begins = log
                    .and_then(|log| log.start)
                    .is_some_and(|start| start <= from);
                head.incarnation == life && begins
            })
            .await?;
        let parts = self.parts()?;
        let own: Vec<&Part<'_>> = parts
            .iter()
            .filter(|part| part.timeline == timeline)
            .collect();
        let inside: Vec<&&Part<'_>> = own
            .iter()
            .filter(|part| part.start < to && part.end > from)
            .collect();
        let Some(first) = inside.first() else {
            let before = own.iter().any(|part| part.end <= from);
            let after = own.iter().any(|part| part.start >= to);
            if before && after {
                return Err(unknown(&format!(
                    "the objects that held {name} are missing"
                )));
            }
            if !after {
                self.nothing_lost_after(own.last().copied())?;
            }
            return Ok(Answer::Absent);
        };
        if first.start > from {
            return Err(unknown(&format!("the beginning of {name} is missing")));
        }
        let mut end = from;
        for part in &inside {
            if part.start > end {
                return Err(unknown(&format!(
                    "{name} is missing from {end} to {}",
                    part.start
                )));
            }
            end = end.max(part.end);
        }
        let behind = own.iter().any(|part| part.start >= to);
        if end < to {
            if behind {
                return Err(unknown(&format!(
                    "the end of {name} is missing, and more log follows"
                )));
            }
            self.nothing_lost_after(inside.last().map(|part| **part))?;
        }
        Ok(Answer::Segment(Parts {
            segment,
            size,
            end: end.min(to),
            objects: inside.iter().map(|part| part.object.clone()).collect(),
        }))
    }

    /// Behind the last object nothing stands that can't be read: it may go on there.
    fn nothing_lost_after(&self, last: Option<&Part<'_>>) -> Result<()> {
        let place = last.map(|part| (part.object.head.epoch, part.object.head.seq));
        let lost = self.survey.lost();
        let behind = lost
            .into_iter()
            .find(|lost| place.is_none_or(|place| *lost > place));
        behind.map_or(Ok(()), |(epoch, seq)| {
            Err(unknown(&format!(
                "log:{epoch}:{seq} can't be read, and the log may go on there"
            )))
        })
    }

    /// Writes a segment to `path`, padded with zeros to its full size.
    pub(super) async fn write(&self, parts: &Parts, path: &Path) -> Result<()> {
        let temporary = Temporary::beside(path)?;
        let (from, to) = (parts.segment.start, parts.size.next(parts.segment.start));
        temporary
            .file
            .set_len(parts.size.bytes())
            .map_err(cache::failed("size", path))?;
        let mut opened = stream::iter(&parts.objects)
            .map(|object| async move { (self.opener.log(&object.key, object.link).await, object) })
            .buffered(OBJECTS_AT_ONCE);
        while let Some((log, object)) = opened.next().await {
            let log = log?;
            let range = decoded(&object.key, &log.payload)?;
            let said = ServerLog::read(&object.head.facts);
            let same = said.is_some_and(|said| {
                (said.timeline, said.start, said.end)
                    == (Some(range.timeline), Some(range.start), Some(range.end()))
            });
            if !same {
                return Err(unknown(&format!(
                    "{} holds another part of the log than it says",
                    object.key
                )));
            }
            let first = range.start.max(from);
            let last = range.end().min(to);
            let at = |lsn: Lsn| usize::try_from(lsn.since(range.start)).unwrap_or(usize::MAX);
            let bytes = range.bytes.get(at(first)..at(last)).unwrap_or_default();
            temporary
                .file
                .write_all_at(bytes, first.since(from))
                .map_err(cache::failed("write", path))?;
        }
        temporary.publish(path)
    }
}

fn parse(name: &str, size: SegmentSize) -> Result<SegmentName> {
    SegmentName::parse(name, size).map_err(|error| Error::TargetText(error.to_string()))
}

fn decoded<'a>(key: &tidemark_format::Key, payload: &'a [u8]) -> Result<LogRange<'a>> {
    LogRange::decode(payload).map_err(|source: FormatError| {
        OpenError::Format {
            key: key.to_string(),
            source,
        }
        .into()
    })
}

/// What must not be taken for an answer.
fn unknown(why: &str) -> Error {
    Error::LogUnknown(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_server_writes_are_taken() {
        let history = Wanted::History(TimelineId(10));
        assert_eq!("0000000A.history".parse::<Wanted>().unwrap(), history);
        let segment = "000000010000000000000003".parse::<Wanted>().unwrap();
        assert!(segment.is_segment());
        assert_eq!(segment.to_string(), "000000010000000000000003");
        for text in [
            "",
            "00000000.history",
            "0000000a.history",
            "2.history",
            "00000001000000000000000",
            "00000001000000000000000a",
            "000000010000000000000003.partial",
            "000000010000000000000003.00000028.backup",
            "../../etc/passwd00000000",
        ] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
    }
}
