//! What is remembered about bases from one start of the agent to the next.
//!
//! A small file, replaced as a whole. Losing it costs a new generation with a complete base.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidemark_format::LogSeq;
use tidemark_host::files;

use super::error::BaseError;

const FILE_NAME: &str = "bases.json";
const VERSION: u32 = 1;

/// A base that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) number: u64,
    pub(crate) start: LogSeq,
    pub(crate) complete: bool,
}

/// Everything that is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// The open generation's digest key.
    pub(crate) key: Option<[u8; 32]>,
    /// The number of the next base; never used twice, so that no store is taken for another.
    pub(crate) next: u64,
    /// The newest published base of the open generation: the next one holds what differs from it.
    pub(crate) parent: Option<u64>,
    /// The base in the works.
    pub(crate) begun: Option<Begun>,
    /// Bytes of all files of the newest base.
    pub(crate) image_bytes: u64,
    /// What the newest base found wrong on the server, in words.
    pub(crate) bad_pages: Option<String>,
    /// What is in no base, in words.
    #[serde(default)]
    pub(crate) left_out: Option<String>,
}

impl State {
    const fn new() -> Self {
        Self {
            version: VERSION,
            key: None,
            next: 0,
            parent: None,
            begun: None,
            image_bytes: 0,
            bad_pages: None,
            left_out: None,
        }
    }

    fn path(folder: &Path) -> PathBuf {
        folder.join(FILE_NAME)
    }

    /// What the folder remembers; nothing if it is new or damaged.
    pub(crate) fn load(folder: &Path) -> Result<Self, BaseError> {
        let path = Self::path(folder);
        let text = match files::read_text(&path) {
            Ok(text) => text,
            Err(error) if error.is_not_found() => return Ok(Self::new()),
            Err(error) => return Err(error.into()),
        };
        match serde_json::from_str::<Self>(&text) {
            Ok(state) if state.version == VERSION => Ok(state),
            read => {
                let why = read.err().map_or_else(
                    || "it is of another version".to_owned(),
                    |error| error.to_string(),
                );
                tracing::warn!(path = %path.display(), error = why, "the state of the bases is damaged: a new generation with a complete base begins");
                Ok(Self::new())
            }
        }
    }

    /// Remembers, durably.
    pub(crate) fn store(&self, folder: &Path) -> Result<(), BaseError> {
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|_never| BaseError::Contract("the state did not serialise"))?;
        files::write_atomic(&Self::path(folder), &bytes, files::PRIVATE)?;
        Ok(())
    }
}

/// Removes every store of a base but those in `keep`, and what an interrupted one left.
pub(crate) fn sweep(folder: &Path, keep: &[u64]) {
    // Best effort: what stays is swept the next time.
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("base-"));
        let Some(number) = number else { continue };
        let kept = number.parse().is_ok_and(|number| keep.contains(&number));
        if !kept {
            drop(std::fs::remove_file(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_loaded_and_damage_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::load(folder.path()).unwrap();
        assert_eq!(state, State::new());
        state.key = Some([9; 32]);
        state.parent = Some(4);
        state.next = 6;
        state.begun = Some(Begun {
            number: 5,
            start: LogSeq(77),
            complete: false,
        });
        state.store(folder.path()).unwrap();
        assert_eq!(State::load(folder.path()).unwrap(), state);
        std::fs::write(folder.path().join(FILE_NAME), "{").unwrap();
        assert_eq!(State::load(folder.path()).unwrap(), State::new());
    }

    #[test]
    fn a_sweep_leaves_what_is_kept_and_what_is_not_a_bases() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["base-1", "base-2", "base-3.part", "other"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        sweep(folder.path(), &[2]);
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["base-2", "other"]);
    }
}
