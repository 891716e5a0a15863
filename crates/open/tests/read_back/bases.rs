//! Bases: pages through packs and back, whole and by range, on any number of threads.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use tidemark_format::{
    FormatError, Hash,
    body::{BaseIndex, PackFooter, Run},
    crypt::FRAME_RAW_MAX,
    heads::PackHead,
};
use tidemark_host::Cpu;
use tidemark_open::{
    BASE_INDEX_BYTES_MAX, Error, ErrorKind, FetchStats, FrameAt, FrameFetcher, OpenedBase, Opener,
    PackFrames, SinkError, open_base, open_pack,
};
use tidemark_seal::{FinishedBase, Sealed};
use tidemark_storage::{MemoryStore, ReadStore};

use crate::world::{PAGE, World, apart, base_end, opener, pages, put, random, regions, store};

pub(crate) fn pool(threads: usize) -> Cpu {
    Cpu::pool(NonZeroUsize::new(threads).unwrap()).unwrap()
}

/// Frames by place, as a sink received them.
pub(crate) type Frames = BTreeMap<FrameAt, Vec<u8>>;

pub(crate) async fn fetch(
    opener: &Arc<Opener>,
    wanted: Vec<PackFrames>,
) -> Result<(Frames, FetchStats), Error> {
    let frames = Arc::new(Mutex::new(Frames::new()));
    let taken = Arc::clone(&frames);
    let sink = move |at: FrameAt, content: &[u8]| -> Result<(), SinkError> {
        let twice = taken.lock().unwrap().insert(at, content.to_vec());
        assert!(twice.is_none(), "{at:?} came twice");
        Ok(())
    };
    let fetcher = FrameFetcher::new(Arc::clone(opener), 4);
    let stats = fetcher.run(wanted, Arc::new(sink)).await?;
    let frames = std::mem::take(&mut *frames.lock().unwrap());
    Ok((frames, stats))
}

/// Every data frame of a base.
pub(crate) fn everything(base: &Arc<OpenedBase>) -> Vec<PackFrames> {
    let all = base
        .index
        .packs
        .iter()
        .enumerate()
        .map(|(at, pack)| PackFrames {
            base: Arc::clone(base),
            pack: u32::try_from(at).unwrap(),
            frames: (0..u32::try_from(pack.frames.len() - 1).unwrap()).collect(),
            tag: 0,
        });
    all.collect()
}

fn page_of(run: &Run, frame: &[u8], at: u32) -> Vec<u8> {
    let from = (run.offset + at * run.page_size) as usize;
    frame[from..from + run.page_size as usize].to_vec()
}

/// Puts the image together from the runs; later runs win.
pub(crate) fn image(index: &BaseIndex, frames: &Frames) -> BTreeMap<(u32, u64), Vec<u8>> {
    let mut image = BTreeMap::new();
    for run in &index.runs {
        let at = FrameAt {
            tag: 0,
            pack: run.pack,
            frame: run.frame,
        };
        for page in 0..run.count {
            image.insert(
                (run.file, run.first + u64::from(page)),
                page_of(run, &frames[&at], page),
            );
        }
    }
    image
}

pub(crate) fn assert_image(index: &BaseIndex, frames: &Frames, count: u64) {
    let image = image(index, frames);
    assert_eq!(image.len() as u64, count);
    for ((_, page), bytes) in image {
        assert!(bytes == pages(page, 1), "page {page}");
    }
}

pub(crate) async fn stored(world: &World, base: &FinishedBase, name: &str) -> MemoryStore {
    let memory = MemoryStore::new(name);
    let mut objects: Vec<&Sealed> = base.packs.iter().collect();
    objects.extend([&base.base, &world.session_object]);
    store(&memory, &objects).await;
    memory
}

async fn read_back(world: &World, base: &FinishedBase, cpu: Cpu) -> (Arc<Opener>, Arc<OpenedBase>) {
    let memory: Arc<dyn ReadStore> = Arc::new(stored(world, base, "a").await);
    let opener = opener(world, regions(vec![("a", memory)]), cpu);
    let opened = opener.base(&base.base.key, base.base.link).await.unwrap();
    (opener, Arc::new(opened))
}

#[tokio::test]
async fn a_base_reads_back_page_by_page_on_any_number_of_threads() {
    for (cpu, count) in [
        (Cpu::Inline, 0),
        (Cpu::Inline, 1),
        (Cpu::Inline, 700),
        (pool(3), 6000),
    ] {
        let world = World::new();
        let base = world.base(cpu.clone(), count);
        assert_eq!(base.head.changed_bytes, count * u64::from(PAGE));
        assert_eq!(base.head.packs as usize, base.packs.len());
        let sizes: u64 = base.packs.iter().map(|pack| pack.bytes.len() as u64).sum();
        assert_eq!(base.head.stored_bytes, sizes);
        let (opener, opened) = read_back(&world, &base, cpu).await;
        let (frames, stats) = fetch(&opener, everything(&opened)).await.unwrap();
        assert_image(&opened.index, &frames, count);
        assert_eq!(
            stats.requests as usize,
            base.packs.len(),
            "one read for each pack"
        );
        assert_eq!(stats.raw_bytes, count * u64::from(PAGE));
    }
}

#[test]
fn packs_are_of_about_eight_mebibytes_whatever_the_data() {
    let world = World::new();
    for (level, content) in [(1, random(1 << 20)), (1, vec![7; 1 << 20])] {
        let mut tools = world.tools(pool(2));
        tools.level = level;
        let draft = crate::world::base_draft();
        let mut writer = tidemark_seal::BaseWriter::new(&world.session, draft, tools);
        let mut packs = Vec::new();
        for at in 0..100 {
            packs.extend(writer.push(0, at * 256, PAGE, &content).unwrap());
        }
        let mut finished = writer.finish(base_end(25_600)).unwrap();
        packs.append(&mut finished.packs);
        let sizes: Vec<usize> = packs.iter().map(|pack| pack.bytes.len()).collect();
        assert!(sizes.iter().all(|size| *size < 13 << 20), "{sizes:?}");
        if content[0] != content[1] {
            assert!((10..=16).contains(&sizes.len()), "{sizes:?}");
        } else {
            // What compresses to nothing is cut by raw bytes.
            assert_eq!(sizes.len(), 2, "{sizes:?}");
        }
    }
}

#[test]
fn the_same_calls_give_the_same_packs_whatever_the_threads_do() {
    let made = || World::new().base(pool(3), 5000);
    let (one, two) = (made(), made());
    assert_eq!(one.packs, two.packs);
    assert_eq!(one.base, two.base);
}

#[test]
fn a_writer_on_the_pools_own_thread_does_not_wait_for_itself() {
    let cpu = pool(1);
    let inner = cpu.clone();
    let base = cpu.install(|| World::new().base(inner, 1000));
    assert_eq!(base.head.changed_bytes, 1000 * u64::from(PAGE));
}

#[test]
fn neighbours_become_one_run_and_pages_are_never_split() {
    let world = World::new();
    let mut writer = world.base_writer(Cpu::Inline);
    // 3,000-byte pages don't divide a frame.
    let size = 3000;
    let per_frame = FRAME_RAW_MAX / size;
    let bytes = vec![1; (per_frame + 10) * size];
    writer.push(0, 0, 3000, &bytes[..5 * size]).unwrap();
    writer.push(0, 5, 3000, &bytes[5 * size..]).unwrap();
    writer.push(0, 9000, 512, &[2; 1024]).unwrap();
    writer.push(1, 9002, 512, &[3; 512]).unwrap();
    let mut end = base_end(1);
    end.files.push(end.files[0].clone());
    let finished = writer.finish(end).unwrap();
    let secret = world.secret();
    let base = &finished.base;
    let (_, index) = open_base(&base.key, &base.bytes, &secret, BASE_INDEX_BYTES_MAX).unwrap();
    let runs: Vec<_> = index
        .runs
        .iter()
        .map(|run| (run.file, run.first, run.count, run.frame, run.offset))
        .collect();
    let whole = u32::try_from(per_frame).unwrap();
    let expected = [
        (0, 0, whole, 0, 0),
        (0, u64::from(whole), 10, 1, 0),
        (0, 9000, 2, 1, 30_000),
        (1, 9002, 1, 1, 31_024),
    ];
    assert_eq!(runs, expected);
}

#[test]
fn pages_that_do_not_fit_are_refused() {
    let world = World::new();
    let mut writer = world.base_writer(Cpu::Inline);
    for (size, bytes) in [(0, 0), (4096, 4095), (2 << 20, 2 << 20)] {
        let refused = writer.push(0, 0, size, &vec![0; bytes]);
        assert!(
            matches!(refused, Err(tidemark_seal::Error::Pages(_))),
            "{size}"
        );
    }
    writer.push(1, 0, PAGE, &pages(0, 1)).unwrap();
    assert!(writer.finish(base_end(1)).is_err(), "file 1 isn't listed");
}

#[test]
fn a_pack_explains_itself_without_its_base() {
    let world = World::new();
    let base = world.base(pool(2), 5000);
    let secret = world.secret();
    let mut found = BTreeMap::new();
    for pack in &base.packs {
        let mut frames = Vec::new();
        let opened = open_pack(&pack.key, &pack.bytes, &secret, |_, content| {
            frames.push(content.to_vec());
        })
        .unwrap();
        for run in &opened.footer.runs {
            for at in 0..run.count {
                let page = run.first + u64::from(at);
                found.insert(page, page_of(run, &frames[run.frame as usize], at));
            }
        }
    }
    assert_eq!(found.len(), 5000);
    assert!(found.iter().all(|(page, bytes)| *bytes == pages(*page, 1)));
}

#[test]
fn a_changed_cut_or_renamed_pack_is_refused() {
    let world = World::new();
    let base = world.base(Cpu::Inline, 3);
    let (pack, secret) = (&base.packs[0], world.secret());
    let open = |bytes: &[u8]| open_pack(&pack.key, bytes, &secret, |_, _| ());
    // Signed anew after each change: header, frames and footer answer for themselves.
    let (head, body) = apart::<PackHead>(pack);
    let resigned = |body: &[u8]| {
        let mut head: PackHead = head.clone();
        head.body_len = body.len() as u64;
        head.body_hash = Hash::of(body);
        world.resign(&head, body)
    };
    assert!(open(&resigned(&body)).is_ok());
    for at in 0..body.len() {
        let mut changed = body.clone();
        changed[at] ^= 1 << (at % 8);
        assert_eq!(
            open(&resigned(&changed)).unwrap_err().kind(),
            ErrorKind::Integrity,
            "{at}"
        );
    }
    // Without its footer it ends at a frame's border.
    let footer = usize::try_from(last_frame(&world, &base)).unwrap();
    let prefix = pack.bytes.len() - body.len();
    assert!(open(&resigned(&body[..footer - prefix])).is_err());
    let other = World::seeded(2).base(Cpu::Inline, 1);
    assert!(open_pack(&other.packs[0].key, &pack.bytes, &secret, |_, _| ()).is_err());
}

fn last_frame(world: &World, base: &FinishedBase) -> u64 {
    let object = &base.base;
    let opened = open_base(
        &object.key,
        &object.bytes,
        &world.secret(),
        BASE_INDEX_BYTES_MAX,
    );
    opened.unwrap().1.packs[0].frames.last().unwrap().offset
}

#[tokio::test]
async fn a_few_frames_are_fetched_by_range_and_neighbours_together() {
    let world = World::new();
    let base = world.base(pool(2), 5000);
    let (opener, opened) = read_back(&world, &base, pool(2)).await;
    let pack = &opened.index.packs[0];
    assert!(pack.frames.len() > 8, "{}", pack.frames.len());
    let want = |frames: Vec<u32>| {
        vec![PackFrames {
            base: Arc::clone(&opened),
            pack: 0,
            frames,
            tag: 5,
        }]
    };
    let (frames, stats) = fetch(&opener, want(vec![6, 2, 1, 2])).await.unwrap();
    let got: Vec<_> = frames.keys().map(|at| (at.tag, at.frame)).collect();
    assert_eq!(got, [(5, 1), (5, 2), (5, 6)]);
    assert_eq!(stats.requests, 2, "1 and 2 together, 6 alone");
    let stored: u64 = [1, 2, 6]
        .iter()
        .map(|at| u64::from(pack.frames[*at].sealed) + 4)
        .sum();
    assert_eq!(stats.stored_bytes, stored);
    // The footer is not data, and what isn't listed isn't there.
    let footer = u32::try_from(pack.frames.len() - 1).unwrap();
    for wrong in [footer, 1000] {
        let error = fetch(&opener, want(vec![wrong])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
    }
}

#[tokio::test]
async fn a_sink_that_fails_ends_the_fetch_with_its_error() {
    let world = World::new();
    let base = world.base(Cpu::Inline, 700);
    let (opener, opened) = read_back(&world, &base, Cpu::Inline).await;
    let sink = |_: FrameAt, _: &[u8]| -> Result<(), SinkError> { Err("the disk is full".into()) };
    let fetcher = FrameFetcher::new(opener, 2);
    let error = fetcher
        .run(everything(&opened), Arc::new(sink))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Target);
    assert!(tidemark_storage::chain(&error).contains("the disk is full"));
}

#[tokio::test]
async fn a_pack_swapped_for_another_of_the_same_base_is_refused() {
    let world = World::new();
    let base = world.base(pool(2), 5000);
    let memory = MemoryStore::new("a");
    store(&memory, &[&base.base, &world.session_object]).await;
    put(&memory, &base.packs[0], base.packs[1].bytes.to_vec()).await;
    put(&memory, &base.packs[1], base.packs[0].bytes.to_vec()).await;
    let opener = opener(&world, regions(vec![("a", Arc::new(memory))]), pool(2));
    let opened = Arc::new(opener.base(&base.base.key, base.base.link).await.unwrap());
    let mut wanted = everything(&opened);
    wanted.truncate(2);
    let error = fetch(&opener, wanted.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
    wanted[0].frames.truncate(2);
    let error = fetch(&opener, wanted).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "by range too: {error}");
}

#[test]
fn an_index_that_describes_impossible_packs_is_refused() {
    let world = World::new();
    let base = world.base(Cpu::Inline, 3);
    let secret = world.secret();
    let object = &base.base;
    let (_, index) = open_base(&object.key, &object.bytes, &secret, BASE_INDEX_BYTES_MAX).unwrap();
    let changes: [fn(&mut BaseIndex); 5] = [
        |index| index.packs[0].size += 1,
        |index| index.packs[0].frames[0].raw = u32::MAX,
        |index| index.packs[0].frames[1].offset = 0,
        |index| index.packs.clear(),
        |index| index.runs[0].frame = 1,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut wrong = index.clone();
        change(&mut wrong);
        let bytes = crate::hostile::base_with_index(&world, &base, &wrong.encode());
        let refused = open_base(&object.key, &bytes, &secret, BASE_INDEX_BYTES_MAX);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Integrity, "{at}");
    }
    let bytes = crate::hostile::base_with_index(&world, &base, &index.encode());
    assert!(open_base(&object.key, &bytes, &secret, BASE_INDEX_BYTES_MAX).is_ok());
    assert!(matches!(
        PackFooter::decode(&[2]),
        Err(FormatError::Version(2))
    ));
}
