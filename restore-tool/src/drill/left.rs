//! Scratches of drills that were killed: found by a note beside a lock that dies with its process, and
//! destroyed by the next drill.
//!
//! ```text
//! STATE/drills/RUN/lock      held as long as the drill lives
//!                  scratch   where its scratch is
//! ```

use std::path::{Path, PathBuf};

use tidemark_host::Clock;
use tidemark_host::files::{self, PRIVATE};
use tidemark_host::lock::StateLock;

use crate::sandbox::Scratch;

const FOLDER: &str = "drills";
const SCRATCH: &str = "scratch";

/// A drill's note of its scratch.
#[derive(Debug)]
pub(super) struct Noted {
    folder: PathBuf,
    _lock: StateLock,
}

impl Noted {
    /// Notes where the scratch of `run` is. None where there is no place for a note.
    pub(super) fn write(state: &Path, run: &str, scratch: &Path) -> Option<Self> {
        let folder = state.join(FOLDER).join(run);
        files::create_private_folder(&folder).ok()?;
        let lock = StateLock::take(&folder).ok()?;
        let path = scratch.to_str()?;
        files::write_atomic(&folder.join(SCRATCH), path.as_bytes(), PRIVATE).ok()?;
        Some(Self {
            folder,
            _lock: lock,
        })
    }

    /// The scratch is gone.
    pub(super) fn gone(self) {
        // If it can't be removed, the next drill looks for a scratch that is not there.
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// Destroys the scratches of drills whose processes are gone; what could not be destroyed, in words. What a
/// dying sandbox still holds is waited for only by the `patient`: a restore has no time for it.
pub(crate) fn sweep(state: &Path, clock: &dyn Clock, patient: bool) -> Vec<String> {
    let entries = std::fs::read_dir(state.join(FOLDER));
    let mut left = Vec::new();
    for entry in entries.into_iter().flatten().flatten() {
        let folder = entry.path();
        // Whoever lives holds it.
        let Ok(lock) = StateLock::take(&folder) else {
            continue;
        };
        let noted = Noted {
            folder,
            _lock: lock,
        };
        let path = std::fs::read_to_string(noted.folder.join(SCRATCH)).unwrap_or_default();
        let path = Path::new(path.trim());
        match Scratch::adopt(path) {
            Some(scratch) if !patient && scratch.is_held() => {
                scratch.forget();
                left.push(format!(
                    "{}: its processes have not ended yet",
                    path.display()
                ));
            }
            Some(scratch) => match scratch.destroy(clock) {
                Ok(_destroyed) => noted.gone(),
                Err(error) => left.push(tidemark_storage::chain(&error)),
            },
            // Not ours any more, but there: nobody forgets it before a person has looked. One that was just
            // made and is empty is no loss.
            None if path.symlink_metadata().is_ok() && std::fs::remove_dir(path).is_err() => {
                left.push(format!(
                    "{}: it is there and bears no mark of ours; look at it and remove it by hand",
                    path.display()
                ));
            }
            None => noted.gone(),
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tidemark_host::{SystemClock, SystemRng};

    use super::*;
    use crate::sandbox::Wanted;

    #[test]
    fn the_scratch_of_a_dead_drill_is_destroyed_and_that_of_a_living_one_stays() {
        let state = tempfile::tempdir().unwrap();
        let place = tempfile::tempdir().unwrap();
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let make = || {
            let wanted = Wanted {
                folder: Some(place.path().to_path_buf()),
                bytes: 1,
            };
            Scratch::make(&wanted, &SystemRng).unwrap()
        };
        let (dead, living) = (make(), make());
        let (dead_path, living_path) = (dead.path().to_owned(), living.path().to_owned());
        let noted = Noted::write(state.path(), "dead", &dead_path).unwrap();
        let lives = Noted::write(state.path(), "lives", &living_path).unwrap();
        // As with a process that was killed: no one destroys, no one unlocks.
        std::mem::forget(dead);
        drop(noted);
        assert!(sweep(state.path(), &SystemClock, true).is_empty());
        assert!(!dead_path.exists() && living_path.exists());
        // AND one that can't be taken over is told, again and again, until a person has removed it
        let stripped = make();
        let path = stripped.path().to_owned();
        drop(Noted::write(state.path(), "stripped", &path).unwrap());
        stripped.forget();
        std::fs::remove_file(path.join(".tidemark-scratch")).unwrap();
        for _ in 0..2 {
            let told = sweep(state.path(), &SystemClock, false);
            assert!(told.len() == 1 && told[0].contains("by hand"), "{told:?}");
        }
        std::fs::remove_dir_all(&path).unwrap();
        assert!(sweep(state.path(), &SystemClock, false).is_empty());
        lives.gone();
        assert_eq!(
            std::fs::read_dir(state.path().join(FOLDER))
                .unwrap()
                .count(),
            0
        );
    }
}
