//! A base: runs of pages gathered into frames, frames sealed in parallel into packs, and the index.
//!
//! ```text
//! push → the frame being filled → CPU pool (compress, encrypt), few at a time → pack → Sealed
//! ```
//!
//! **Invariants.** A page is never split. Frames are collected in the order they were filled and
//! only when the window is full, so on a pool of the same size the same calls give the same packs,
//! whatever the threads' timing. An error leaves the writer unusable: drop
//! it; packs that were returned are garbage that no base names.
//!
//! **Bounds.** Memory: the frames in flight (1 MiB raw and sealed each), one pack under way (8 MiB,
//! two for a moment), and the runs' table.
//!
//! **Blocking.** [`BaseWriter::push`] computes or waits for the pool: call it from a thread that may
//! block. Called on one of the pool's own threads it does the work there instead of waiting.
//!
//! **What it deliberately doesn't do:** it doesn't decide which pages have changed, and it publishes
//! nothing: the base object must be created after all of its packs.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use jiff::Timestamp;
use tidemark_format::{
    BaseNumber, Epoch, Hash, Incarnation, LogSeq, ObjectId, SourceName,
    body::{BaseIndex, FileEntry, PackRef, Run},
    crypt::FRAME_RAW_MAX,
    envelope::Kind,
    heads::{BaseHead, BaseRef, Facts},
    keys,
    sign::SigningKey,
};
use tidemark_host::{Cpu, Job, Rng, RngExt};

use crate::{
    Error, Sealed, Session,
    cipher::FrameNumber,
    object::Body,
    pack::{PACK_BYTES, PACK_RAW_MAX, PackUnderWay},
};

/// Most frames that are sealed at once: more would only hold memory.
const FRAMES_IN_FLIGHT_MAX: usize = 8;
/// The largest index that readers accept.
const INDEX_BYTES_MAX: usize = 256 << 20;

/// What is known of a base when reading begins (see [`BaseHead`] for the fields).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseDraft {
    /// The source.
    pub source: SourceName,
    /// The engine.
    pub engine: String,
    /// The source's life.
    pub incarnation: Incarnation,
    /// The writer's term.
    pub epoch: Epoch,
    /// The generation.
    pub generation: LogSeq,
    /// The place in the generation.
    pub number: BaseNumber,
    /// The base it builds on; none for number 0.
    pub parent: Option<BaseRef>,
    /// The log object that is next as reading begins.
    pub start: LogSeq,
    /// When reading began.
    pub started_at: Timestamp,
    /// The key of the generation's page digests.
    pub digest_key: [u8; 32],
}

/// What is known of a base when reading has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseEnd {
    /// The first log object after which replay gives a consistent source.
    pub usable_from: LogSeq,
    /// Its link.
    pub usable_link: Hash,
    /// When the last pack was durable.
    pub finished_at: Timestamp,
    /// Bytes of the source's image.
    pub image_bytes: u64,
    /// The source's files, in the order in which runs number them.
    pub files: Vec<FileEntry>,
    /// The engine's own words.
    pub facts: Facts,
}

/// What a [`BaseWriter`] works with.
#[derive(Debug, Clone)]
pub struct BaseTools {
    /// zstd's level.
    pub level: i32,
    /// Where frames are compressed and encrypted.
    pub cpu: Cpu,
    /// The agent's key.
    pub signer: SigningKey,
    /// Randomness for names.
    pub rng: Arc<dyn Rng>,
}

/// A base whose pages are all in.
#[derive(Debug)]
pub struct FinishedBase {
    /// The last packs, to be created before the base.
    pub packs: Vec<Sealed>,
    /// The base object.
    pub base: Sealed,
    /// Its head.
    pub head: BaseHead,
}

/// A frame on its way through the pool.
#[derive(Debug)]
struct InFlight {
    done: Receiver<Done>,
    /// Kept, because a job that nobody waits for isn't run.
    _job: Option<Job<()>>,
}

#[derive(Debug)]
struct Done {
    buffers: Buffers,
    sealed: Result<(), Error>,
}

/// Both ends of a frame, used again and again.
#[derive(Debug, Default)]
struct Buffers {
    raw: Vec<u8>,
    sealed: Vec<u8>,
}

/// Gathers a base's pages; see the module.
#[derive(Debug)]
pub struct BaseWriter {
    session: Session,
    draft: BaseDraft,
    tools: BaseTools,
    /// How many frames may be in flight.
    window: usize,
    filling: Buffers,
    spare: Vec<Buffers>,
    in_flight: VecDeque<InFlight>,
    /// The back one is given frames, the front one receives them.
    packs: VecDeque<PackUnderWay>,
    ready: Vec<Sealed>,
    finished: Vec<PackRef>,
    runs: Vec<Run>,
    raw_bytes: u64,
    raw_sealed: u64,
    stored_sealed: u64,
}

impl BaseWriter {
    /// Begins a base in `session`.
    #[must_use]
    pub fn new(session: &Session, draft: BaseDraft, tools: BaseTools) -> Self {
        let window = match &tools.cpu {
            Cpu::Inline => 1,
            cpu @ Cpu::Pool(_) => cpu.threads().saturating_add(1).min(FRAMES_IN_FLIGHT_MAX),
        };
        Self {
            session: session.clone(),
            draft,
            tools,
            window,
            filling: Buffers::default(),
            spare: Vec::new(),
            in_flight: VecDeque::new(),
            packs: VecDeque::new(),
            ready: Vec::new(),
            finished: Vec::new(),
            runs: Vec::new(),
            raw_bytes: 0,
            raw_sealed: 0,
            stored_sealed: 0,
        }
    }

    /// Bytes of pages taken so far.
    #[must_use]
    pub const fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Takes the pages of `file` from `first` on: `bytes` is a whole number of pages. Returns the
    /// packs that are complete, to be created in every region.
    ///
    /// # Errors
    /// [`Error::Pages`] when sizes don't fit; otherwise only bugs.
    pub fn push(
        &mut self,
        file: u32,
        first: u64,
        page_size: u32,
        bytes: &[u8],
    ) -> Result<Vec<Sealed>, Error> {
        let size = usize::try_from(page_size).unwrap_or(usize::MAX);
        if size == 0 || size > FRAME_RAW_MAX {
            return Err(Error::Pages("a page is empty or larger than a frame"));
        }
        if !bytes.len().is_multiple_of(size) {
            return Err(Error::Pages("the bytes are not a whole number of pages"));
        }
        let mut next = first;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = FRAME_RAW_MAX.saturating_sub(self.filling.raw.len()) / size;
            if room == 0 {
                self.dispatch()?;
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(room * size));
            let count = u32::try_from(now.len() / size).unwrap_or(u32::MAX);
            self.fill(file, next, page_size, count, now)?;
            next = next
                .checked_add(u64::from(count))
                .ok_or(Error::Pages("too many pages"))?;
            rest = later;
        }
        Ok(mem::take(&mut self.ready))
    }

    /// Ends the base.
    ///
    /// # Errors
    /// [`Error::Pages`] when a run names a file that `end` doesn't list; otherwise only bugs.
    pub fn finish(mut self, end: BaseEnd) -> Result<FinishedBase, Error> {
        if !self.filling.raw.is_empty() {
            self.dispatch()?;
        }
        if let Some(pack) = self.packs.back_mut() {
            pack.closed = true;
        }
        while !self.in_flight.is_empty() {
            self.collect()?;
        }
        self.finish_front()?;
        let unknown = |run: &Run| usize::try_from(run.file).is_ok_and(|at| at >= end.files.len());
        if self.runs.iter().any(unknown) {
            return Err(Error::Pages("a run names a file that isn't listed"));
        }
        let packs = mem::take(&mut self.ready);
        let (base, head) = self.index(end)?;
        Ok(FinishedBase { packs, base, head })
    }

    /// Copies pages into the frame being filled and notes the run.
    fn fill(
        &mut self,
        file: u32,
        first: u64,
        page_size: u32,
        count: u32,
        pages: &[u8],
    ) -> Result<(), Error> {
        if self.packs.back().is_none_or(|pack| pack.closed) {
            let first_run = self.runs.len();
            let pack = PackUnderWay::new(&self.session, &self.draft, &self.tools, first_run);
            self.packs.push_back(pack);
        }
        let number = self
            .finished
            .len()
            .saturating_add(self.packs.len())
            .saturating_sub(1);
        let frame = self.packs.back().map_or(0, |pack| pack.dispatched);
        let offset = self.filling.raw.len();
        let run = Run {
            file,
            first,
            count,
            page_size,
            pack: u32::try_from(number).map_err(|_huge| Error::Pages("too many packs"))?,
            frame,
            offset: u32::try_from(offset).map_err(|_huge| Error::Pages("a frame is too large"))?,
        };
        if !self.runs.last_mut().is_some_and(|last| extend(last, &run)) {
            self.runs.push(run);
        }
        if self.filling.raw.capacity() == 0 {
            self.filling.raw.reserve_exact(FRAME_RAW_MAX);
        }
        self.filling.raw.extend_from_slice(pages);
        self.raw_bytes = self
            .raw_bytes
            .saturating_add(u64::try_from(pages.len()).unwrap_or(0));
        Ok(())
    }

    /// Hands the filled frame to the pool, and closes its pack if it is large enough.
    fn dispatch(&mut self) -> Result<(), Error> {
        while self.in_flight.len() >= self.window {
            self.collect()?;
        }
        let fresh = self.spare.pop().unwrap_or_default();
        let buffers = mem::replace(&mut self.filling, fresh);
        let ratio = (self.stored_sealed, self.raw_sealed);
        let Some(pack) = self.packs.back_mut() else {
            return Ok(());
        };
        let place = FrameNumber {
            number: pack.dispatched,
            last: false,
        };
        pack.dispatched = pack.dispatched.saturating_add(1);
        let raw = u64::try_from(buffers.raw.len()).unwrap_or(u64::MAX);
        pack.raw_dispatched = pack.raw_dispatched.saturating_add(raw);
        let expected = pack
            .stored()
            .saturating_add(scaled(pack.raw_under_way(), ratio));
        pack.closed = expected >= PACK_BYTES || pack.raw_dispatched >= PACK_RAW_MAX;
        let (key, level) = (Arc::clone(&pack.key), self.tools.level);
        let seal = move || {
            let mut buffers = buffers;
            buffers.sealed.clear();
            let sealed = key.append_frame(&mut buffers.sealed, &buffers.raw, place, level);
            Done { buffers, sealed }
        };
        self.in_flight.push_back(start(&self.tools.cpu, seal));
        Ok(())
    }

    /// Waits for the oldest frame and puts it into its pack.
    fn collect(&mut self) -> Result<(), Error> {
        let Some(oldest) = self.in_flight.pop_front() else {
            return Ok(());
        };
        let Done {
            mut buffers,
            sealed,
        } = oldest.done.recv().map_err(|_gone| Error::WorkerGone)?;
        sealed?;
        if let Some(pack) = self.packs.front_mut() {
            pack.arrive(
                &buffers.sealed,
                u32::try_from(buffers.raw.len()).unwrap_or(u32::MAX),
            );
        }
        let add = |sum: u64, len: usize| sum.saturating_add(u64::try_from(len).unwrap_or(0));
        self.raw_sealed = add(self.raw_sealed, buffers.raw.len());
        self.stored_sealed = add(self.stored_sealed, buffers.sealed.len());
        buffers.raw.clear();
        self.spare.push(buffers);
        self.finish_front()
    }

    /// Turns the front pack into an object once all of it is there.
    fn finish_front(&mut self) -> Result<(), Error> {
        if !self.packs.front().is_some_and(PackUnderWay::is_complete) {
            return Ok(());
        }
        let Some(pack) = self.packs.pop_front() else {
            return Ok(());
        };
        let next = self
            .packs
            .front()
            .map_or(self.runs.len(), |pack| pack.first_run);
        let runs = self.runs.get(pack.first_run..next).unwrap_or_default();
        let (object, reference) = pack.finish(&self.session, &self.draft, &self.tools, runs)?;
        self.ready.push(object);
        self.finished.push(reference);
        Ok(())
    }

    fn index(self, end: BaseEnd) -> Result<(Sealed, BaseHead), Error> {
        let Self {
            session,
            draft,
            tools,
            finished,
            runs,
            raw_bytes,
            ..
        } = self;
        let stored = finished.iter().map(|pack| pack.size).sum();
        let packs =
            u32::try_from(finished.len()).map_err(|_huge| Error::Pages("too many packs"))?;
        let index = BaseIndex {
            digest_key: draft.digest_key,
            files: end.files,
            packs: finished,
            runs,
        };
        let index = index.encode();
        if index.len() > INDEX_BYTES_MAX {
            let (bytes, max) = (index.len(), INDEX_BYTES_MAX);
            return Err(Error::TooLarge {
                what: "base index",
                bytes,
                max,
            });
        }
        let object: ObjectId = tools.rng.id();
        let key = session.object_key(Kind::Base, &draft.source, draft.incarnation, object);
        let mut body = Body::new(&key, index.len() / 2);
        body.append_all(&key, &index, tools.level)?;
        let head = BaseHead {
            repo: session.repo(),
            source: draft.source,
            engine: draft.engine,
            incarnation: draft.incarnation,
            epoch: draft.epoch,
            generation: draft.generation,
            number: draft.number,
            put: tools.rng.id(),
            parent: draft.parent,
            start: draft.start,
            usable_from: end.usable_from,
            usable_link: end.usable_link,
            started_at: draft.started_at,
            finished_at: end.finished_at,
            image_bytes: end.image_bytes,
            changed_bytes: raw_bytes,
            stored_bytes: stored,
            packs,
            session: session.id(),
            object,
            facts: end.facts,
            body_len: u64::try_from(body.bytes().len()).unwrap_or(u64::MAX),
            body_hash: Hash::of(body.bytes()),
        };
        let name = keys::base(&head.source, head.epoch, head.generation, head.number);
        let (sealed, _before_body) = body.finish(name, head.put, &head, &tools.signer)?;
        Ok((sealed, head))
    }
}

/// Joins `run` to `last` where both follow each other in the file and in the frame.
fn extend(last: &mut Run, run: &Run) -> bool {
    let follows = last.first.checked_add(u64::from(last.count)) == Some(run.first);
    let behind = u64::from(last.offset) + u64::from(last.count) * u64::from(last.page_size);
    let same = (last.file, last.page_size, last.pack, last.frame)
        == (run.file, run.page_size, run.pack, run.frame);
    let joined = last.count.checked_add(run.count);
    match joined {
        Some(count) if same && follows && behind == u64::from(run.offset) => {
            last.count = count;
            true
        }
        _ => false,
    }
}

/// What `raw` bytes will take when the ones before took `stored` of `of`.
fn scaled(raw: u64, (stored, of): (u64, u64)) -> u64 {
    let scaled = u128::from(raw) * u128::from(stored);
    scaled
        .checked_div(u128::from(of))
        .map_or(raw, |bytes| u64::try_from(bytes).unwrap_or(raw))
}

fn start(cpu: &Cpu, seal: impl FnOnce() -> Done + Send + 'static) -> InFlight {
    let (sender, done) = channel();
    let work = move || {
        // The writer may be gone: then nobody wants the frame.
        drop(sender.send(seal()));
    };
    let on_the_pool = matches!(cpu, Cpu::Pool(pool) if pool.current_thread_index().is_some());
    if on_the_pool {
        // Waiting here for a thread of the same pool could wait for ever.
        work();
        return InFlight { done, _job: None };
    }
    InFlight {
        done,
        _job: Some(cpu.run(work)),
    }
}
