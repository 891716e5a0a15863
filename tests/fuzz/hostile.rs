//! Makes hostile inputs from sound ones, and measures what a decoder takes for them.

use std::{
    panic::RefUnwindSafe,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bolero::TypeGenerator;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What one byte of input may cost in memory. The widest are JSON facts: two characters become a
/// value of 32 bytes in a map of nodes.
const BYTES_PER_BYTE: usize = 96;
/// What a decoder may take whatever the input: buffers of a fixed size (one frame of 1 MiB, twice).
const FIXED_BYTES: usize = 4 << 20;

/// One way to spoil an input.
#[derive(Debug, Clone, TypeGenerator)]
pub(crate) struct Spoil {
    seed: u16,
    random_instead: Option<Vec<u8>>,
    cut: Option<u16>,
    flips: Vec<(u16, u8)>,
    splice: Option<(u16, Vec<u8>)>,
    repeat: Option<(u16, u8)>,
}

impl Spoil {
    fn apply(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        if let Some(random) = &self.random_instead
            && self.seed.is_multiple_of(4)
        {
            return random.clone();
        }
        let mut bytes = seeds
            .get(usize::from(self.seed) % seeds.len())
            .cloned()
            .unwrap_or_default();
        let place = |at: u16, len: usize| {
            if len == 0 {
                0
            } else {
                (usize::from(at) * 31) % len
            }
        };
        for (at, with) in self.flips.iter().take(4) {
            let at = place(*at, bytes.len());
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= with;
            }
        }
        if let Some((at, piece)) = &self.splice {
            let at = place(*at, bytes.len());
            bytes.splice(at..at, piece.iter().copied());
        }
        if let Some((at, times)) = self.repeat {
            let at = place(at, bytes.len());
            let tail = bytes
                .get(at..bytes.len().min(at + 64))
                .unwrap_or_default()
                .to_vec();
            (0..times % 16).for_each(|_| bytes.extend_from_slice(&tail));
        }
        if let Some(cut) = self.cut {
            bytes.truncate(place(cut, bytes.len()));
        }
        bytes
    }
}

/// Files of a folder of the workspace, as seeds.
pub(crate) fn files(folder: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder);
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                folders.push(path);
            } else {
                found.extend(std::fs::read(&path));
            }
        }
    }
    found
}

/// Tries `decode` on spoiled `seeds` for the configured time. Every seed is first tried as it is.
pub(crate) fn attack(name: &str, seeds: Vec<Vec<u8>>, decode: impl Fn(&[u8]) + RefUnwindSafe) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut seeds = seeds;
    seeds.extend(files(&format!("tests/fuzz/corpus/{name}")));
    assert!(
        !seeds.is_empty(),
        "{name} has no seeds: the golden files or its corpus are missing"
    );
    for seed in &seeds {
        measured(seed, &decode);
    }
    let seconds = std::env::var("TIDEMARK_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let tried = AtomicU64::new(0);
    bolero::check!()
        .with_type::<Spoil>()
        .with_test_time(Duration::from_secs(seconds.unwrap_or(1)))
        .with_iterations(usize::MAX)
        .for_each(|spoil| {
            tried.fetch_add(1, Ordering::Relaxed);
            measured(&spoil.apply(&seeds), &decode);
        });
    println!("{name}: {} hostile inputs", tried.load(Ordering::Relaxed));
    assert!(
        tried.load(Ordering::Relaxed) > 100,
        "{name}: only {} inputs were tried",
        tried.load(Ordering::Relaxed)
    );
}

fn measured(input: &[u8], decode: &impl Fn(&[u8])) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    decode(input);
    let taken = MEMORY.peak_usage().saturating_sub(before);
    let allowed = FIXED_BYTES + BYTES_PER_BYTE * input.len();
    assert!(
        taken <= allowed,
        "{} bytes of input took {taken} bytes of memory",
        input.len()
    );
}
