//! This machine's own copy of the records that it wrote: what no region has yet waits here, and the rest
//! tells the next number even when the region that has the newest record is away.
//!
//! ```text
//! STATE/evidence/SIGNER/lock                         one writer at a time
//!                      /0000000000000007.json         stored in a region at least
//!                      /0000000000000008.waiting.json stored in none yet: its number may change
//!                      /begun/…                       runs that have not ended yet (super::begun)
//! ```
//!
//! Nothing here is needed to restore or to verify; losing it loses only what waits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tidemark_format::KeyId;
use tidemark_host::files::{self, FileError, PRIVATE};
use tidemark_host::lock::StateLock;

use super::chain::Place;

const FOLDER: &str = "evidence";
const KEPT: &str = ".json";
const WAITING: &str = ".waiting.json";
/// Records kept: at one a day, eleven years of them.
const KEPT_MAX: usize = 4096;
/// How often a lock that somebody holds is tried again.
const LOCK_AGAIN: Duration = Duration::from_millis(50);

/// Where a signer's records are on this machine.
pub(super) fn folder(state: &Path, signer: KeyId) -> PathBuf {
    state.join(FOLDER).join(signer.to_string())
}

/// One signer's records on this machine.
#[derive(Debug)]
pub(super) struct Local {
    folder: PathBuf,
}

/// Records by number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Copies {
    /// A region has them.
    pub(super) kept: BTreeMap<u64, Bytes>,
    /// No region has them; their numbers are a guess.
    pub(super) waiting: BTreeMap<u64, Bytes>,
}

impl Local {
    /// The signers that have written here.
    pub(super) fn signers(state: &Path) -> Vec<KeyId> {
        let Ok(entries) = std::fs::read_dir(state.join(FOLDER)) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    pub(super) fn at(state: &Path, signer: KeyId) -> Self {
        Self {
            folder: folder(state, signer),
        }
    }

    /// The same, made if it isn't there.
    pub(super) fn make(state: &Path, signer: KeyId) -> Result<Self, FileError> {
        let local = Self::at(state, signer);
        files::create_private_folder(&local.folder)?;
        Ok(local)
    }

    /// Waits for its turn, at most so long. Without one records are written all the same: who loses
    /// the race for a number takes the next.
    pub(super) async fn lock(&self, at_most: Duration) -> Option<StateLock> {
        let turn = async {
            loop {
                if let Ok(lock) = StateLock::take(&self.folder) {
                    return lock;
                }
                tokio::time::sleep(LOCK_AGAIN).await;
            }
        };
        tokio::time::timeout(at_most, turn).await.ok()
    }

    /// Everything here.
    pub(super) fn read(&self) -> Copies {
        let mut all = Copies::default();
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return all;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some((seq, waits)) = name.to_str().and_then(number_of) else {
                continue;
            };
            if let Ok(bytes) = std::fs::read(entry.path()) {
                let map = if waits {
                    &mut all.waiting
                } else {
                    &mut all.kept
                };
                map.insert(seq, bytes.into());
            }
        }
        all
    }

    /// What is in regions, as a place beside them; how many records wait.
    pub(super) fn place(&self) -> (Option<Place>, usize) {
        let copies = self.read();
        let place = (!copies.kept.is_empty()).then(|| Place {
            name: "this machine".to_owned(),
            is_local: true,
            records: copies.kept,
            ..Place::default()
        });
        (place, copies.waiting.len())
    }

    /// Keeps a record that a region has.
    pub(super) fn keep(&self, seq: u64, bytes: &[u8]) -> Result<(), FileError> {
        files::write_atomic(&self.path(seq, KEPT), bytes, PRIVATE)?;
        self.prune();
        Ok(())
    }

    /// Lets a record wait.
    pub(super) fn wait(&self, seq: u64, bytes: &[u8]) -> Result<PathBuf, FileError> {
        let path = self.path(seq, WAITING);
        files::write_atomic(&path, bytes, PRIVATE)?;
        Ok(path)
    }

    /// What waited under this number was stored.
    pub(super) fn sent(&self, seq: u64) {
        // If it can't be removed it is found to be stored next time.
        drop(std::fs::remove_file(self.path(seq, WAITING)));
    }

    fn path(&self, seq: u64, ending: &str) -> PathBuf {
        self.folder.join(format!("{seq:016}{ending}"))
    }

    fn prune(&self) {
        for seq in self.read().kept.into_keys().rev().skip(KEPT_MAX) {
            drop(std::fs::remove_file(self.path(seq, KEPT)));
        }
    }
}

fn number_of(name: &str) -> Option<(u64, bool)> {
    let (digits, waits) = match name.strip_suffix(WAITING) {
        Some(digits) => (digits, true),
        None => (name.strip_suffix(KEPT)?, false),
    };
    let fits = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| digits.parse().ok())
        .flatten()
        .map(|seq| (seq, waits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_told_from_what_is_kept() {
        let state = tempfile::tempdir().unwrap();
        let signer = KeyId([1; 16]);
        let local = Local::make(state.path(), signer).unwrap();
        local.keep(7, b"seven").unwrap();
        local.wait(8, b"eight").unwrap();
        std::fs::write(local.folder.join("notes.txt"), "x").unwrap();
        local.wait(7, b"another seven").unwrap();
        let copies = local.read();
        assert_eq!(copies.kept, BTreeMap::from([(7, "seven".into())]));
        let waiting = [(7, "another seven".into()), (8, "eight".into())];
        assert_eq!(copies.waiting, BTreeMap::from(waiting));
        local.keep(8, b"eight").unwrap();
        local.sent(8);
        local.sent(7);
        assert_eq!(local.read().kept.len(), 2);
        assert!(local.read().waiting.is_empty());
        assert_eq!(Local::signers(state.path()), [signer]);
    }
}
