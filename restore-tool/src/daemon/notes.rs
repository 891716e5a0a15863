//! What this host knows of a drill beside the repository: since when it has it in its config, and which
//! turn it took last. Losing it costs at most a wait for a dead turn's end.
//!
//! ```text
//! STATE/drills/lock        one process owns the schedule
//!             /NAME.json   a note for each drill
//! ```

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_format::{DrillName, PutId};
use tidemark_host::files::{self, FileError, PRIVATE};
use tidemark_host::lock::{LockError, StateLock};

use crate::error::{Error, Result};

const FOLDER: &str = "drills";

/// A drill's note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Its schedule, with the zone.
    pub(super) schedule: String,
    /// Since when it has that.
    pub(super) since: Timestamp,
    /// The attempt that took the last turn, unless that was ended.
    #[serde(default)]
    pub(super) turn: Option<PutId>,
}

/// The folder of the notes; held, nobody else owns the schedule on this state directory.
#[derive(Debug)]
pub(super) struct Notes {
    folder: PathBuf,
    _lock: StateLock,
}

impl Notes {
    /// Takes the folder.
    ///
    /// # Errors
    /// [`Error::DrillsOwned`] when another process has it; the disk.
    pub(super) fn take(state: &Path) -> Result<Self> {
        let folder = state.join(FOLDER);
        files::create_private_folder(&folder)?;
        match StateLock::take(&folder) {
            Ok(lock) => Ok(Self {
                folder,
                _lock: lock,
            }),
            Err(LockError::Held { folder, holder }) => Err(Error::DrillsOwned { folder, holder }),
            Err(LockError::Io { path, source }) => Err(Error::File(FileError::Io {
                action: "lock",
                path,
                source,
            })),
        }
    }

    fn path(&self, drill: &DrillName) -> PathBuf {
        place(&self.folder, drill)
    }

    /// A drill's note; one that is new or has another schedule now is known since `now`.
    pub(super) fn load(&self, drill: &DrillName, schedule: &str, now: Timestamp) -> Note {
        let bytes = std::fs::read(self.path(drill)).ok();
        let kept: Option<Note> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match kept {
            Some(note) if note.schedule == schedule => note,
            kept => Note {
                schedule: schedule.to_owned(),
                since: now,
                turn: kept.and_then(|note| note.turn),
            },
        }
    }

    /// Keeps a note.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn keep(&self, drill: &DrillName, note: &Note) -> Result<()> {
        let bytes = serde_json::to_vec(note).unwrap_or_default();
        Ok(files::write_atomic(&self.path(drill), &bytes, PRIVATE)?)
    }
}

/// Since when a host with this state directory has a drill with this schedule, as far as this user may know.
pub(super) fn since(state: &Path, drill: &DrillName, schedule: &str) -> Option<Timestamp> {
    let bytes = std::fs::read(place(&state.join(FOLDER), drill)).ok()?;
    let note: Note = serde_json::from_slice(&bytes).ok()?;
    (note.schedule == schedule).then_some(note.since)
}

fn place(folder: &Path, drill: &DrillName) -> PathBuf {
    folder.join(format!("{drill}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_kept_and_a_new_schedule_begins_anew() {
        let state = tempfile::tempdir().unwrap();
        let notes = Notes::take(state.path()).unwrap();
        let drill = DrillName::new("nightly").unwrap();
        let (first, later) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(100).unwrap());
        let mut note = notes.load(&drill, "0 3 * * * UTC", first);
        assert_eq!(note.since, first);
        note.turn = Some(PutId([1; 16]));
        notes.keep(&drill, &note).unwrap();
        assert_eq!(notes.load(&drill, "0 3 * * * UTC", later), note);
        let noted = |schedule| since(state.path(), &drill, schedule);
        assert_eq!(noted("0 3 * * * UTC"), Some(first));
        assert_eq!(noted("0 4 * * * UTC"), None);
        let changed = notes.load(&drill, "0 4 * * * UTC", later);
        assert_eq!((changed.since, changed.turn), (later, note.turn));
    }

    #[test]
    fn one_process_owns_the_schedule() {
        let state = tempfile::tempdir().unwrap();
        let _first = Notes::take(state.path()).unwrap();
        let refused = Notes::take(state.path()).unwrap_err();
        assert!(matches!(refused, Error::DrillsOwned { .. }), "{refused}");
    }
}
