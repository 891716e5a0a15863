//! The engine's small state file: which life of the database this is and where its map stands.
//!
//! Replaced as a whole (temporary name, fsync, rename, fsync of the folder). What happened since is
//! in the records.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidemark_format::{Incarnation, LogSeq};
use tidemark_host::files;

use crate::disk;
use crate::error::SqliteError;
use crate::files::FileId;
use crate::record::Snapshot;

const FILE_NAME: &str = "engine.json";
const VERSION: u32 = 1;

/// A map and its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MapState {
    pub(crate) number: u64,
    pub(crate) key: [u8; 32],
    /// Size of the database when it was put aside.
    pub(crate) pages: u32,
}

/// A base that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BaseState {
    pub(crate) tag: u32,
    pub(crate) complete: bool,
    pub(crate) start: LogSeq,
}

/// Everything the engine remembers besides the maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) version: u32,
    pub(crate) incarnation: Incarnation,
    pub(crate) page_size: u32,
    pub(crate) file: FileId,
    pub(crate) application_id: u32,
    /// The open generation's map.
    pub(crate) map: Option<MapState>,
    /// Earlier generations' maps, until the open one's first base is done.
    pub(crate) olds: Vec<MapState>,
    /// The number of the newest base that was begun (or catch-up: it takes a number too).
    pub(crate) tag: u32,
    /// The number of the generation's newest base that is done.
    pub(crate) parent: Option<u32>,
    /// Some complete base was done in this incarnation.
    pub(crate) ever_based: bool,
    /// The base in the works.
    pub(crate) base: Option<BaseState>,
    /// After the last sealed cut that the map durably holds.
    pub(crate) sealed: Option<Snapshot>,
    /// The log under which the file was written behind SQLite's back: until it is over, some of its
    /// frames hide pages of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) behind: Option<[u32; 2]>,
}

impl State {
    pub(crate) const fn new(
        incarnation: Incarnation,
        page_size: u32,
        file: FileId,
        application_id: u32,
    ) -> Self {
        Self {
            version: VERSION,
            incarnation,
            page_size,
            file,
            application_id,
            map: None,
            olds: Vec::new(),
            tag: 0,
            parent: None,
            ever_based: false,
            base: None,
            sealed: None,
            behind: None,
        }
    }
}

/// The engine's folder.
#[derive(Debug, Clone)]
pub(crate) struct StateFolder {
    path: PathBuf,
}

impl StateFolder {
    /// Makes the folder if it is missing.
    pub(crate) fn open(path: PathBuf) -> Result<Self, SqliteError> {
        files::create_private_folder(&path)?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The state, or `None` in a new folder.
    pub(crate) fn load(&self) -> Result<Option<State>, SqliteError> {
        let path = self.path.join(FILE_NAME);
        let text = match files::read_text(&path) {
            Ok(text) => text,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match serde_json::from_str::<State>(&text) {
            Ok(state) if state.version == VERSION => Ok(Some(state)),
            Ok(_) => Err(SqliteError::State {
                path,
                why: "it is of another version".to_owned(),
            }),
            Err(error) => Err(SqliteError::State {
                path,
                why: error.to_string(),
            }),
        }
    }

    /// Replaces the state, durably.
    pub(crate) fn store(&self, state: &State) -> Result<(), SqliteError> {
        let bytes = serde_json::to_vec_pretty(state)
            .map_err(|_never| SqliteError::Contract("the state did not serialise"))?;
        disk::replace(&self.path.join(FILE_NAME), &bytes)?;
        Ok(())
    }
}
