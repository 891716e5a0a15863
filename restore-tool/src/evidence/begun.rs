//! What was begun and may never end: a note on this machine, from the moment a key is used to the moment
//! the record is stored or waits. A process that dies in between leaves it behind, and the next command
//! that leaves a record with the same identity makes the record that the note holds.
//!
//! ```text
//! STATE/evidence/SIGNER/begun/RUN/lock        held as long as the process lives, however it dies
//!                                 note.json   the record as it is to be if it doesn't end
//! ```
//!
//! **Failure.** Without a state folder there is no note; nothing here keeps a command from its work.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tidemark_format::KeyId;
use tidemark_format::evidence::Subject;
use tidemark_host::Rng;
use tidemark_host::files::{self, PRIVATE};
use tidemark_host::lock::StateLock;

use super::local;
use super::record::Draft;

const FOLDER: &str = "begun";
const NOTE: &str = "note.json";
/// The field of a record that says which run it is of, so that no run leaves two.
pub const RUN_ID: &str = "run_id";
/// How a run ended that didn't.
pub const DID_NOT_END: &str = "did-not-end";

/// What is to be recorded if the process dies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unended {
    /// The record's type.
    pub kind: String,
    /// What it is about.
    pub subject: Vec<Subject>,
    /// Its fields, with the `result` that says that it did not end.
    pub fields: Map<String, Value>,
}

impl Unended {
    /// Of a command that uses a key; `fields` are what is known by now.
    #[must_use]
    pub fn access(kind: &str, mut fields: Map<String, Value>, began_at: Timestamp) -> Self {
        let result = json!({
            "outcome": DID_NOT_END,
            "error": "the process ended before the command did: it was killed, or the machine stopped; what it had done by \
                      then is not known",
        });
        fields.insert("result".to_owned(), result);
        fields.insert("timing".to_owned(), json!({ "started_at": began_at }));
        Self {
            kind: kind.to_owned(),
            subject: Vec::new(),
            fields,
        }
    }
}

/// A run under way.
#[derive(Debug)]
pub struct Begun {
    folder: PathBuf,
    _lock: StateLock,
}

impl Begun {
    /// Notes that run `run_id` begins. None if that can't be noted.
    #[must_use]
    pub fn note(state: &Path, signer: KeyId, run_id: &str, unended: &Unended) -> Option<Self> {
        let folder = local::folder(state, signer).join(FOLDER).join(run_id);
        files::create_private_folder(&folder).ok()?;
        let lock = StateLock::take(&folder).ok()?;
        let begun = Self {
            folder,
            _lock: lock,
        };
        begun.update(unended);
        Some(begun)
    }

    /// More is known.
    pub fn update(&self, unended: &Unended) {
        let note = serde_json::to_vec(unended).unwrap_or_default();
        // What was noted before stays then.
        drop(files::write_atomic(&self.folder.join(NOTE), &note, PRIVATE));
    }

    /// It ended, and its record is stored or waits.
    pub fn ended(self) {
        // If it can't be removed, the record with its run's id tells that it ended.
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// A run whose process is gone.
#[derive(Debug)]
pub struct Left {
    run_id: String,
    unended: Unended,
    begun: Begun,
}

impl Left {
    /// The run.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Its record.
    #[must_use]
    pub fn draft(&self, now: Timestamp, rng: &dyn Rng) -> Draft {
        let Unended {
            kind,
            subject,
            fields,
        } = self.unended.clone();
        Draft::new(&kind, subject, fields, now, rng)
    }

    /// Its record is stored.
    pub fn settled(self) {
        self.begun.ended();
    }
}

/// The runs of a signer on this machine that were begun, didn't end, and whose processes are gone.
#[must_use]
pub fn left(state: &Path, signer: KeyId) -> Vec<Left> {
    let folder = local::folder(state, signer).join(FOLDER);
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut all: Vec<Left> = entries.flatten().filter_map(|entry| one(&entry)).collect();
    all.sort_by(|one, other| one.run_id.cmp(&other.run_id));
    all
}

fn one(entry: &std::fs::DirEntry) -> Option<Left> {
    let folder = entry.path();
    // Whoever lives holds it.
    let lock = StateLock::take(&folder).ok()?;
    let begun = Begun {
        folder,
        _lock: lock,
    };
    let note = std::fs::read(begun.folder.join(NOTE)).ok();
    let note = note.and_then(|note| serde_json::from_slice(&note).ok());
    let Some(unended) = note else {
        // It died before it had noted anything, and so before it had done anything.
        begun.ended();
        return None;
    };
    Some(Left {
        run_id: entry.file_name().to_string_lossy().into_owned(),
        unended,
        begun,
    })
}

#[cfg(test)]
mod tests {
    use tidemark_host::TestRng;

    use super::*;
    use crate::evidence::record::ACCESS;

    #[test]
    fn a_run_that_died_is_told_from_one_that_lives_and_one_that_ended() {
        let state = tempfile::tempdir().unwrap();
        let signer = KeyId([1; 16]);
        let fields = Map::from_iter([("action".to_owned(), "restore".into())]);
        let unended = Unended::access(ACCESS, fields, Timestamp::UNIX_EPOCH);
        let note = |run_id: &str| Begun::note(state.path(), signer, run_id, &unended).unwrap();
        let (lives, died, ended) = (note("a"), note("b"), note("c"));
        // As the kernel does with a process that was killed.
        drop(died);
        ended.ended();
        let found = left(state.path(), signer);
        let ids: Vec<&str> = found.iter().map(Left::run_id).collect();
        assert_eq!(ids, ["b"]);
        // Nobody else takes it meanwhile.
        assert!(left(state.path(), signer).is_empty());
        let draft = found[0].draft(Timestamp::UNIX_EPOCH, &TestRng::seeded(1));
        let key = tidemark_format::sign::SigningKey::from_secret(&[1; 32]);
        let record = draft.sign(0, None, tidemark_format::RepoId([1; 16]), &key);
        let record = record.unwrap();
        assert_eq!(record.text("/result/outcome"), Some(DID_NOT_END));
        assert_eq!(record.text("/action"), Some("restore"));
        found.into_iter().for_each(Left::settled);
        assert!(left(state.path(), signer).is_empty());
        lives.ended();
    }

    #[test]
    fn a_note_that_was_never_written_is_no_run() {
        let state = tempfile::tempdir().unwrap();
        let signer = KeyId([1; 16]);
        let folder = local::folder(state.path(), signer).join(FOLDER).join("a");
        std::fs::create_dir_all(&folder).unwrap();
        assert!(left(state.path(), signer).is_empty());
        assert!(!folder.exists());
    }
}
