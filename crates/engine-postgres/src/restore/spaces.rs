//! Tablespaces: where each one goes on this machine.
//!
//! A place is taken only if it is empty or missing, and noted before the first file is written to it,
//! so that an interrupted restore knows its own folder again and nothing of anybody else's is touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidemark_format::postgres::layout::{Layout, Tablespace};

use super::error::RestoreError;
use super::tree::{RunAs, Tree};

/// Where the places that were taken are noted.
pub(super) const TAKEN_PATH: &str = ".tidemark/tablespaces";

/// Places by the path of the server, as the user gave them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TablespaceMap(Vec<(String, PathBuf)>);

impl TablespaceMap {
    /// Reads `OLD=NEW` of every option.
    ///
    /// # Errors
    /// [`RestoreError::TablespaceMap`]: not of that form, a relative place, one given twice.
    pub fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Result<Self, RestoreError> {
        let mut map: Vec<(String, PathBuf)> = Vec::new();
        for option in options {
            let (old, new) = option.split_once('=').unwrap_or((option, ""));
            let old = plain(old);
            let refused = |why: &str| RestoreError::TablespaceMap {
                old: old.to_owned(),
                new: new.to_owned(),
                why: why.to_owned(),
            };
            if !old.starts_with('/') || !new.starts_with('/') {
                return Err(refused(
                    "write it as OLD=NEW, both absolute: the tablespace's place on the server and the one here",
                ));
            }
            if map.iter().any(|(known, _)| known == old) {
                return Err(refused("this tablespace has a place already"));
            }
            if map.iter().any(|(_, known)| known == Path::new(new)) {
                return Err(refused("another tablespace goes there"));
            }
            map.push((old.to_owned(), PathBuf::from(new)));
        }
        Ok(Self(map))
    }

    /// Where each tablespace of the layout goes, by its object id.
    ///
    /// # Errors
    /// [`RestoreError::TablespaceMap`]: a place inside the target, two in one place, a mapping of a
    /// tablespace that there is not.
    pub(super) fn places(
        &self,
        layout: &Layout,
        target: &Path,
    ) -> Result<BTreeMap<u32, PathBuf>, RestoreError> {
        let refused = |old: &str, new: &Path, why: String| RestoreError::TablespaceMap {
            old: old.to_owned(),
            new: new.display().to_string(),
            why,
        };
        let originals: Vec<&str> = layout
            .tablespaces
            .iter()
            .map(|space| plain(&space.location))
            .collect();
        if let Some((old, new)) = self
            .0
            .iter()
            .find(|(old, _)| !originals.contains(&old.as_str()))
        {
            let why = format!("no tablespace was there; there are: {}", list(&originals));
            return Err(refused(old, new, why));
        }
        let mut places: BTreeMap<u32, PathBuf> = BTreeMap::new();
        for Tablespace { oid, location } in &layout.tablespaces {
            let old = plain(location);
            let mapped = self.0.iter().find(|(known, _)| known == old);
            let place = mapped.map_or_else(|| PathBuf::from(old), |(_, new)| new.clone());
            if !place.is_absolute() || place.starts_with(target) || target.starts_with(&place) {
                let why = "a tablespace must have an absolute place outside the target".to_owned();
                return Err(refused(old, &place, why));
            }
            if places.values().any(|known| *known == place) {
                let why = "another tablespace goes there".to_owned();
                return Err(refused(old, &place, why));
            }
            places.insert(*oid, place);
        }
        Ok(places)
    }
}

fn plain(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() { path } else { trimmed }
}

fn list(originals: &[&str]) -> String {
    if originals.is_empty() {
        "none".to_owned()
    } else {
        originals.join(", ")
    }
}

/// A place that this restore took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Taken {
    oid: u32,
    place: PathBuf,
}

/// The tablespaces' folders, open.
#[derive(Debug, Default)]
pub(super) struct Spaces {
    by_oid: BTreeMap<u32, Tree>,
}

impl Spaces {
    /// Takes the places of the layout's tablespaces for the target `main`.
    pub(super) fn take(
        main: &Tree,
        layout: &Layout,
        map: &TablespaceMap,
        target: &Path,
        owner: Option<RunAs>,
    ) -> Result<Self, RestoreError> {
        let places = map.places(layout, target)?;
        let mut taken = taken(main)?;
        for Tablespace { oid, location } in &layout.tablespaces {
            let Some(place) = places.get(oid) else {
                continue;
            };
            let ours = Taken {
                oid: *oid,
                place: place.clone(),
            };
            if taken.contains(&ours) {
                continue;
            }
            if !is_free(place)? {
                return Err(RestoreError::TablespaceTaken {
                    oid: *oid,
                    location: place.clone(),
                    original: location.clone(),
                });
            }
            taken.push(ours);
        }
        let note = serde_json::to_vec(&taken).unwrap_or_default();
        let path = main.join(TAKEN_PATH);
        main.write(TAKEN_PATH, &note)
            .map_err(RestoreError::io("noting the tablespaces", &path))?;
        let mut by_oid = BTreeMap::new();
        for (oid, place) in places {
            let tree = Tree::open(&place, owner)
                .map_err(RestoreError::io("making a tablespace's folder", &place))?;
            by_oid.insert(oid, tree);
        }
        Ok(Self { by_oid })
    }

    /// The folder of a tablespace.
    pub(super) fn tree(&self, oid: u32) -> Option<&Tree> {
        self.by_oid.get(&oid)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Tree)> {
        self.by_oid.iter().map(|(oid, tree)| (*oid, tree))
    }
}

fn taken(main: &Tree) -> Result<Vec<Taken>, RestoreError> {
    let path = main.join(TAKEN_PATH);
    let bytes = main
        .read(TAKEN_PATH)
        .map_err(RestoreError::io("reading the note on tablespaces", &path))?;
    // A note cut by a crash was written before any file of theirs.
    Ok(bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default())
}

fn is_free(place: &Path) -> Result<bool, RestoreError> {
    match std::fs::read_dir(place) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(RestoreError::io("reading a tablespace's folder", place)(
            error,
        )),
    }
}

/// The process of the server that runs in a folder.
pub(super) fn server_in(main: &Tree) -> Result<Option<String>, RestoreError> {
    let pid = main
        .read("postmaster.pid")
        .map_err(RestoreError::io("looking for a server", main.path()))?;
    let pid = pid.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let pid = pid.and_then(|text| Some(text.lines().next()?.trim().to_owned()));
    // The number alone may be another process's by now: a server works in its folder.
    Ok(pid.filter(|pid| {
        let works_in = std::fs::read_link(Path::new("/proc").join(pid).join("cwd"));
        let here = main.path().canonicalize();
        matches!((works_in, here), (Ok(works_in), Ok(here)) if works_in == here)
    }))
}

/// Removes what an unfinished restore in `partial` left, tablespaces included.
///
/// # Errors
/// [`RestoreError::Running`], [`RestoreError::Io`].
pub fn discard(partial: &Path) -> Result<(), RestoreError> {
    if std::fs::symlink_metadata(partial).is_err() {
        return Ok(());
    }
    let main = Tree::open(partial, None)
        .map_err(RestoreError::io("opening the unfinished restore", partial))?;
    if let Some(pid) = server_in(&main)? {
        return Err(RestoreError::Running {
            folder: partial.to_path_buf(),
            pid,
        });
    }
    for Taken { place, .. } in taken(&main)? {
        let entries = match std::fs::read_dir(&place) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(RestoreError::io("reading a tablespace's folder", &place)(
                    error,
                ));
            }
        };
        for entry in entries {
            let entry = entry.map_err(RestoreError::io("reading a tablespace's folder", &place))?;
            // The one folder that a server makes there.
            if entry.file_name().to_string_lossy().starts_with("PG_") {
                std::fs::remove_dir_all(entry.path())
                    .map_err(RestoreError::io("emptying a tablespace's folder", &place))?;
            }
        }
    }
    std::fs::remove_dir_all(partial)
        .map_err(RestoreError::io("removing the unfinished restore", partial))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_two_absolute_paths() {
        let map = TablespaceMap::parse(["/srv/fast/=/data/fast", "/srv/slow=/data/slow"]);
        let map = map.expect("two mappings");
        assert_eq!(map.0[0], ("/srv/fast".to_owned(), "/data/fast".into()));
        for wrong in [
            vec!["/a"],
            vec!["a=/b"],
            vec!["/a=b"],
            vec!["/a=/b", "/a/=/c"],
            vec!["/a=/c", "/b=/c"],
        ] {
            assert!(TablespaceMap::parse(wrong.clone()).is_err(), "{wrong:?}");
        }
    }
}
