//! The parallel way to a base's pages: few, large ranged reads; decryption on every core.
//!
//! ```text
//! wanted frames → requests (a whole pack, or neighbours up to 8 MiB) → at most N at once
//!   and 40 MiB of them → CPU pool: check, decrypt, decompress → sink, in any order, each frame once
//! ```
//!
//! **Invariants.** A sink sees only content whose tag, number and length were checked, and each
//! wanted frame exactly once. A pack that is read whole is also checked against the hash in the
//! base's index. A frame that is bad in one region is fetched from the next, alone.
//!
//! **Bounds.** Memory: [`IN_FLIGHT_BYTES`] of stored frames, from the request until they are opened, and a
//! frame per pool thread. Requests are planned a pack at a time.
//!
//! **Cancellation.** Dropping the future stops the requests; frames under way may still reach the sink.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};
use tidemark_format::{
    Key,
    body::{FramePlace, PackRef},
    crypt::{FRAME_LEN, FRAME_RAW_MAX},
    envelope::{Envelope, Kind},
    heads::PackHead,
    keys,
};
use tidemark_storage::{Watcher, watched};
use tokio::sync::Semaphore;

use crate::{
    Error, OpenedBase, Opener, Result,
    bodies::Owner,
    cipher::{FrameNumber, ObjectKey},
};

/// Most bytes of a ranged read; one frame is always read whole.
const RANGE_BYTES: u64 = 8 << 20;
/// Stored bytes that are asked for or wait for the pool: five whole packs fill a link.
pub const IN_FLIGHT_BYTES: u32 = 40 << 20;
/// Unwanted bytes between two wanted frames that are read rather than asked for separately.
const HOLE_BYTES: u64 = 256 << 10;

thread_local! {
    /// Where a frame's content stands while the sink looks at it.
    static CONTENT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why a sink couldn't take a frame.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Which frame a sink is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameAt {
    /// The caller's mark (which of several bases, say).
    pub tag: usize,
    /// Index of the pack in its base.
    pub pack: u32,
    /// The frame in the pack.
    pub frame: u32,
}

/// Takes frames: on the pool's threads, several at once, in any order. It may write to disk.
pub trait FrameSink: Send + Sync {
    /// Takes the content of a frame.
    ///
    /// # Errors
    /// Whatever keeps it from doing so: the whole fetch then ends with [`Error::Target`].
    fn frame(&self, at: FrameAt, content: &[u8]) -> std::result::Result<(), SinkError>;

    /// About so many more bytes of content have arrived, for a progress bar: told while a request is
    /// under way, and over all of them as much as the wanted frames hold.
    fn arrived(&self, _bytes: u64) {}
}

/// What has arrived of one request, counted as content.
struct Arriving {
    sink: Arc<dyn FrameSink>,
    stored: u64,
    raw: u64,
    got: AtomicU64,
    told: AtomicU64,
}

impl Arriving {
    fn of(request: &Request, sink: &Arc<dyn FrameSink>) -> Arc<Self> {
        let frames = request.frames.iter();
        let raw = frames.filter_map(|frame| Some(u64::from(request.pack.place(*frame)?.raw)));
        Arc::new(Self {
            sink: Arc::clone(sink),
            stored: request.range.end.saturating_sub(request.range.start).max(1),
            raw: raw.fold(0, u64::saturating_add),
            got: AtomicU64::new(0),
            told: AtomicU64::new(0),
        })
    }

    /// So many stored bytes more; those of a second try don't count twice over.
    fn more(&self, bytes: u64) {
        let got = self.got.fetch_add(bytes, Ordering::Relaxed);
        let got = got.saturating_add(bytes).min(self.stored);
        let share = u128::from(got) * u128::from(self.raw) / u128::from(self.stored);
        self.tell(u64::try_from(share).unwrap_or(self.raw));
    }

    fn all(&self) {
        self.tell(self.raw);
    }

    fn tell(&self, share: u64) {
        let before = self.told.fetch_max(share, Ordering::Relaxed);
        if share > before {
            self.sink.arrived(share - before);
        }
    }
}

impl<F> FrameSink for F
where
    F: Fn(FrameAt, &[u8]) -> std::result::Result<(), SinkError> + Send + Sync,
{
    fn frame(&self, at: FrameAt, content: &[u8]) -> std::result::Result<(), SinkError> {
        self(at, content)
    }
}

/// Frames wanted of one pack.
#[derive(Debug, Clone)]
pub struct PackFrames {
    /// The base that lists the pack.
    pub base: Arc<OpenedBase>,
    /// The pack's index in it.
    pub pack: u32,
    /// The frames; the order doesn't matter.
    pub frames: Vec<u32>,
    /// Handed back in [`FrameAt`].
    pub tag: usize,
}

/// What a fetch took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FetchStats {
    /// Reads.
    pub requests: u64,
    /// Bytes read, as stored.
    pub stored_bytes: u64,
    /// Bytes handed to the sink.
    pub raw_bytes: u64,
    /// Frames handed to the sink.
    pub frames: u64,
}

impl FetchStats {
    const fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            stored_bytes: self.stored_bytes.saturating_add(other.stored_bytes),
            raw_bytes: self.raw_bytes.saturating_add(other.raw_bytes),
            frames: self.frames.saturating_add(other.frames),
        }
    }
}

/// One read.
struct Request {
    key: Key,
    pack: Arc<PackAt>,
    range: Range<u64>,
    /// The whole object: its hash is checked.
    whole: bool,
    frames: Vec<u32>,
}

impl Request {
    /// What it takes of [`IN_FLIGHT_BYTES`]; one that is larger takes all.
    fn room(&self) -> u32 {
        let bytes = self.range.end.saturating_sub(self.range.start);
        u32::try_from(bytes).map_or(IN_FLIGHT_BYTES, |bytes| bytes.min(IN_FLIGHT_BYTES))
    }
}

/// A wanted pack.
struct PackAt {
    base: Arc<OpenedBase>,
    pack: u32,
    tag: usize,
}

impl PackAt {
    fn reference(&self) -> Option<&PackRef> {
        self.base.index.packs.get(usize::try_from(self.pack).ok()?)
    }

    fn place(&self, frame: u32) -> Option<FramePlace> {
        self.reference()?
            .frames
            .get(usize::try_from(frame).ok()?)
            .copied()
    }
}

/// Fetches the frames of bases in parallel.
#[derive(Debug)]
pub struct FrameFetcher {
    opener: Arc<Opener>,
    requests: usize,
}

impl FrameFetcher {
    /// Fetches with at most `requests` reads at once, and at most [`IN_FLIGHT_BYTES`].
    #[must_use]
    pub fn new(opener: Arc<Opener>, requests: usize) -> Self {
        Self {
            opener,
            requests: requests.max(1),
        }
    }

    /// Hands every wanted frame to `sink`.
    ///
    /// # Errors
    /// The first one: [`Error::NoGoodCopy`], of kind `Key`, or [`Error::Target`].
    pub async fn run(
        &self,
        wanted: Vec<PackFrames>,
        sink: Arc<dyn FrameSink>,
    ) -> Result<FetchStats> {
        let room = Semaphore::new(usize::try_from(IN_FLIGHT_BYTES).unwrap_or(usize::MAX));
        stream::iter(wanted)
            .map(plan)
            .flat_map(|planned| {
                let (requests, failed) = match planned {
                    Ok(requests) => (requests, None),
                    Err(error) => (Vec::new(), Some(Err(error))),
                };
                stream::iter(requests.into_iter().map(Ok).chain(failed))
            })
            .map(async |request| {
                let request = request?;
                let _room = room.acquire_many(request.room()).await;
                self.request(request, Arc::clone(&sink)).await
            })
            .buffer_unordered(self.requests)
            .try_fold(FetchStats::default(), async |sum, one| Ok(sum.plus(one)))
            .await
    }

    async fn request(&self, request: Request, sink: Arc<dyn FrameSink>) -> Result<FetchStats> {
        let arriving = Arriving::of(&request, &sink);
        let Request {
            key,
            pack,
            range,
            whole,
            mut frames,
        } = request;
        let reference = pack.reference().ok_or_else(|| outside(&key))?;
        let secret = self.opener.session(reference.session).await?;
        let head = &pack.base.head;
        let owner = Owner {
            source: &head.source,
            incarnation: head.incarnation,
            object: reference.object,
        };
        let cipher = Arc::new(owner.key(Kind::Pack, &secret));
        let key = Arc::new(key);
        let mut stats = FetchStats::default();
        let mut copies = self.opener.regions().copies(&key);
        loop {
            let part = (!whole).then(|| range.clone());
            let watcher: Watcher = {
                let arriving = Arc::clone(&arriving);
                Arc::new(move |bytes| arriving.more(bytes))
            };
            let Some((at, bytes)) = watched(watcher, copies.next(part)).await else {
                return Err(copies.into_error());
            };
            stats.requests = stats.requests.saturating_add(1);
            stats.stored_bytes = stats.stored_bytes.saturating_add(bytes.len() as u64);
            let copy = Copy {
                key: &key,
                pack: &pack,
                cipher: &cipher,
                start: range.start,
            };
            let checked = if whole {
                self.check_whole(&copy, &bytes).await
            } else {
                Ok(())
            };
            let taken = match checked {
                Ok(()) => {
                    self.take(&copy, &bytes, &mut frames, &sink, &mut stats)
                        .await
                }
                Err(error) => Err(error),
            };
            match taken {
                Ok(()) => {
                    arriving.all();
                    return Ok(stats);
                }
                Err(error) => copies.refuse(at, error)?,
            }
        }
    }

    /// Checks a whole pack against the link that the base gives: head and body.
    async fn check_whole(&self, copy: &Copy<'_>, bytes: &Bytes) -> Result<()> {
        let expected = copy.pack.reference().ok_or_else(|| outside(copy.key))?.link;
        let (bytes, key) = (bytes.clone(), Arc::clone(copy.key));
        let check = move || {
            let envelope = Envelope::parse(&bytes).map_err(Error::format(&key))?;
            if envelope.link() != expected {
                return Err(Error::Unlinked {
                    key: key.to_string(),
                    expected,
                });
            }
            let head = envelope.head::<PackHead>().map_err(Error::format(&key))?;
            envelope.verify_body(&head).map_err(Error::format(&key))
        };
        self.opener.cpu().run(check).await
    }

    /// Opens the frames of one copy, each as a job of its own; those that are good leave `frames`.
    async fn take(
        &self,
        copy: &Copy<'_>,
        bytes: &Bytes,
        frames: &mut Vec<u32>,
        sink: &Arc<dyn FrameSink>,
        stats: &mut FetchStats,
    ) -> Result<()> {
        let mut jobs = Vec::with_capacity(frames.len());
        let mut todo = Vec::new();
        for frame in frames.iter().copied() {
            match copy.frame(frame, bytes) {
                Ok(job) => {
                    let sink = Arc::clone(sink);
                    let run = self.opener.cpu().run(move || job.open(sink.as_ref()));
                    jobs.push(async move { (frame, run.await) });
                }
                Err(error) => todo.push((frame, error)),
            }
        }
        for (frame, done) in join_all(jobs).await {
            match done {
                Ok(raw) => {
                    stats.frames = stats.frames.saturating_add(1);
                    stats.raw_bytes = stats.raw_bytes.saturating_add(raw as u64);
                }
                Err(error @ Error::Target(_)) => return Err(error),
                Err(error) => todo.push((frame, error)),
            }
        }
        *frames = todo.iter().map(|(frame, _)| *frame).collect();
        todo.pop().map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// A copy being opened.
struct Copy<'a> {
    key: &'a Arc<Key>,
    pack: &'a Arc<PackAt>,
    cipher: &'a Arc<ObjectKey>,
    /// Where in the object the bytes begin.
    start: u64,
}

impl Copy<'_> {
    /// Cuts a frame out of the bytes.
    fn frame(&self, frame: u32, bytes: &Bytes) -> Result<FrameJob> {
        let place = self.pack.place(frame).ok_or_else(|| outside(self.key))?;
        let refuse = |why| Error::Frame {
            key: self.key.to_string(),
            frame,
            why,
        };
        let cut = || refuse("is cut off");
        let from = place.offset.checked_sub(self.start).ok_or_else(cut)?;
        let from = usize::try_from(from).map_err(|_huge| cut())?;
        let sealed = usize::try_from(place.sealed).map_err(|_huge| cut())?;
        let content = from.checked_add(FRAME_LEN).ok_or_else(cut)?;
        let end = content.checked_add(sealed).ok_or_else(cut)?;
        let length = bytes.get(from..content).ok_or_else(cut)?;
        if length != place.sealed.to_le_bytes() {
            return Err(refuse("has another length than its base says"));
        }
        if bytes.len() < end {
            return Err(cut());
        }
        Ok(FrameJob {
            key: Arc::clone(self.key),
            cipher: Arc::clone(self.cipher),
            sealed: bytes.slice(content..end),
            at: FrameAt {
                tag: self.pack.tag,
                pack: self.pack.pack,
                frame,
            },
            raw: place.raw,
        })
    }
}

struct FrameJob {
    key: Arc<Key>,
    cipher: Arc<ObjectKey>,
    sealed: Bytes,
    at: FrameAt,
    raw: u32,
}

impl FrameJob {
    fn open(self, sink: &dyn FrameSink) -> Result<usize> {
        // Taken out while the sink looks at it: a sink that fetches in turn finds an empty one.
        let mut content = CONTENT.take();
        content.clear();
        content.reserve(FRAME_RAW_MAX);
        // Data frames are never the last: the footer is.
        let place = FrameNumber {
            number: self.at.frame,
            last: false,
        };
        let bytes = self
            .cipher
            .open_frame(&self.key, &self.sealed, place, &mut content)?;
        if u32::try_from(bytes) != Ok(self.raw) {
            let why = "holds another number of bytes than its base says";
            return Err(Error::Frame {
                key: self.key.to_string(),
                frame: self.at.frame,
                why,
            });
        }
        let taken = sink.frame(self.at, &content).map_err(Error::Target);
        CONTENT.set(content);
        taken.map(|()| bytes)
    }
}

fn outside(key: &Key) -> Error {
    Error::Misplaced {
        key: key.to_string(),
        why: "a frame is wanted that its base doesn't list",
    }
}

/// Makes requests of the wanted frames of a pack.
fn plan(wanted: PackFrames) -> Result<Vec<Request>> {
    let PackFrames {
        base,
        pack,
        mut frames,
        tag,
    } = wanted;
    let pack = Arc::new(PackAt { base, pack, tag });
    let head = &pack.base.head;
    let reference = pack.reference().ok_or_else(|| Error::Misplaced {
        key: keys::base(&head.source, head.epoch, head.generation, head.number).to_string(),
        why: "a pack is wanted that it doesn't list",
    })?;
    let key = keys::pack(&head.source, head.epoch, head.generation, reference.object);
    frames.sort_unstable();
    frames.dedup();
    let data = reference.frames.len().saturating_sub(1);
    if frames
        .last()
        .is_some_and(|last| usize::try_from(*last).is_ok_and(|last| last >= data))
    {
        return Err(outside(&key));
    }
    if frames.len() == data && data > 0 {
        let range = 0..reference.size;
        return Ok(vec![Request {
            key,
            range,
            whole: true,
            frames,
            pack: Arc::clone(&pack),
        }]);
    }
    let mut requests = Vec::new();
    let mut open: Option<Request> = None;
    for frame in frames {
        let place = pack.place(frame).ok_or_else(|| outside(&key))?;
        let end = place
            .offset
            .saturating_add(FRAME_LEN as u64 + u64::from(place.sealed));
        if let Some(request) = open.as_mut()
            && place.offset.saturating_sub(request.range.end) <= HOLE_BYTES
            && end.saturating_sub(request.range.start) <= RANGE_BYTES
        {
            request.range.end = end;
            request.frames.push(frame);
            continue;
        }
        let next = Request {
            key: key.clone(),
            pack: Arc::clone(&pack),
            range: place.offset..end,
            whole: false,
            frames: vec![frame],
        };
        requests.extend(open.replace(next));
    }
    requests.extend(open);
    Ok(requests)
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({} {:?})", self.key, self.range)
    }
}
