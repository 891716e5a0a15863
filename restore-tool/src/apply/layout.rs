//! The layout of a server's base, read by itself: which version of the server it needs, and which
//! tablespaces, before anything is written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tidemark_format::FormatError;
use tidemark_format::body::Run;
use tidemark_format::postgres::layout::{LAYOUT_PATH, Layout};
use tidemark_open::{
    Error as OpenError, FrameAt, FrameFetcher, FrameSink, OpenedBase, Opener, PackFrames, SinkError,
};

use crate::error::Result;

/// The layout's number among a base's files.
pub(super) const LAYOUT_FILE: u32 = 0;
/// One at a time: it is small.
const REQUESTS_AT_ONCE: usize = 1;

/// The layout of a base, which every base holds whole.
///
/// # Errors
/// Damage, or a base without one.
pub(super) async fn read(opener: &Arc<Opener>, base: &Arc<OpenedBase>) -> Result<Layout> {
    let unsound = |why| OpenError::Format {
        key: format!("the base number {}", base.head.number),
        source: FormatError::Invalid {
            what: "postgresql layout",
            why,
        },
    };
    let entry = base.index.files.first();
    let entry = entry.filter(|entry| entry.path == LAYOUT_PATH);
    let entry = entry.ok_or_else(|| unsound("it is not the base's first file"))?;
    let own = base.index.runs.iter().filter(|run| run.file == LAYOUT_FILE);
    let runs: Vec<Run> = own.cloned().collect();
    let mut packs: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for run in &runs {
        let frames = packs.entry(run.pack).or_default();
        if !frames.contains(&run.frame) {
            frames.push(run.frame);
        }
    }
    let wanted = packs.into_iter().map(|(pack, frames)| PackFrames {
        base: Arc::clone(base),
        pack,
        frames,
        tag: 0,
    });
    let pages: Arc<Mutex<BTreeMap<u64, Vec<u8>>>> = Arc::default();
    let taken = Arc::clone(&pages);
    let take = move |at: FrameAt, content: &[u8]| -> std::result::Result<(), SinkError> {
        for run in runs
            .iter()
            .filter(|run| (run.pack, run.frame) == (at.pack, at.frame))
        {
            let from = usize::try_from(run.offset)?;
            let bytes = u64::from(run.count).saturating_mul(u64::from(run.page_size));
            let end = from.saturating_add(usize::try_from(bytes)?);
            let bytes = content
                .get(from..end)
                .ok_or("a run of pages points outside its frame")?;
            let place = run.first.saturating_mul(u64::from(run.page_size));
            let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.insert(place, bytes.to_vec());
        }
        Ok(())
    };
    let sink: Arc<dyn FrameSink> = Arc::new(take);
    let fetcher = FrameFetcher::new(Arc::clone(opener), REQUESTS_AT_ONCE);
    fetcher.run(wanted.collect(), sink).await?;
    let pages = pages.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bytes = Vec::new();
    for (place, page) in pages.iter() {
        if u64::try_from(bytes.len()).ok() != Some(*place) {
            return Err(unsound("a part of it is missing").into());
        }
        bytes.extend_from_slice(page);
    }
    let length = usize::try_from(entry.bytes)
        .ok()
        .filter(|length| *length <= bytes.len());
    bytes.truncate(length.ok_or_else(|| unsound("a part of it is missing"))?);
    Layout::decode(&bytes).map_err(|source| {
        OpenError::Format {
            key: format!("the base number {}", base.head.number),
            source,
        }
        .into()
    })
}
