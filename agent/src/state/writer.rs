//! Who a state directory is: its writer id, and the last beat it may have written.
//!
//! Beats have dense, contended names: a copy of this directory that runs elsewhere (a cloned or
//! restored server) meets a foreign put-id under its next number and stops before it writes a log
//! object. So the number is made durable before the beat is created, and never used again.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tidemark_format::WriterId;
use tidemark_host::files::{self, FileError};
use tidemark_host::{Rng, RngExt as _};

use super::source::RecordError;

/// What `writer.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterState {
    /// This state directory.
    pub writer: WriterId,
    /// The number of the last beat that may have been created; 0 for none.
    pub last_beat: u64,
}

impl WriterState {
    /// Reads the file, or makes a new writer if there is none.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn load_or_new(path: &Path, rng: &dyn Rng) -> Result<Self, RecordError> {
        match files::read_text(path) {
            Ok(text) => serde_json::from_str(&text).map_err(|source| RecordError::Damaged {
                path: path.to_owned(),
                source,
            }),
            Err(error) if error.is_not_found() => {
                let state = Self {
                    writer: rng.id(),
                    last_beat: 0,
                };
                state.store(path)?;
                Ok(state)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the file, durably.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn store(&self, path: &Path) -> Result<(), FileError> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        files::write_atomic(path, &text, files::PRIVATE)
    }
}

#[cfg(test)]
mod tests {
    use tidemark_host::TestRng;

    use super::*;

    #[test]
    fn a_directory_keeps_its_writer_and_its_last_beat() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("writer.json");
        let mut state = WriterState::load_or_new(&path, &TestRng::seeded(1)).unwrap();
        state.last_beat = 7;
        state.store(&path).unwrap();
        assert_eq!(
            WriterState::load_or_new(&path, &TestRng::seeded(2)).unwrap(),
            state
        );
    }
}
