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

/// A server whose restore was killed is ended by its guard, at once; writing nothing takes a moment.
const ENDS_WITHIN_LOOKS: u32 = 500;
const ENDS_LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(20);

/// Places by the path on the server, or by the tablespace's object id, as the user gave them.
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
            let is_id = old.parse::<u32>().is_ok();
            if !(is_id || old.starts_with('/')) || !new.starts_with('/') {
                return Err(refused(
                    "write it as OLD=NEW: the tablespace's place on the server, or its object id, and the place here, both absolute",
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
        let names = |old: &str, space: &Tablespace| {
            old == plain(&space.location) || old.parse() == Ok(space.oid)
        };
        let is_known = |old: &str| layout.tablespaces.iter().any(|space| names(old, space));
        if let Some((old, new)) = self.0.iter().find(|(old, _)| !is_known(old)) {
            let why = format!(
                "there is no such tablespace; there are: {}",
                list(&layout.tablespaces)
            );
            return Err(refused(old, new, why));
        }
        let mut places: BTreeMap<u32, PathBuf> = BTreeMap::new();
        for space in &layout.tablespaces {
            let old = plain(&space.location);
            let mut mapped = self.0.iter().filter(|(known, _)| names(known, space));
            let place = mapped.next();
            if let Some((_, second)) = mapped.next() {
                let why = "this tablespace has a place already".to_owned();
                return Err(refused(old, second, why));
            }
            let place = place.map_or_else(|| PathBuf::from(old), |(_, new)| new.clone());
            if !place.is_absolute() || place.starts_with(target) || target.starts_with(&place) {
                let why = "a tablespace must have an absolute place outside the target".to_owned();
                return Err(refused(old, &place, why));
            }
            if places.values().any(|known| *known == place) {
                let why = "another tablespace goes there".to_owned();
                return Err(refused(old, &place, why));
            }
            places.insert(space.oid, place);
        }
        Ok(places)
    }
}

fn plain(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() { path } else { trimmed }
}

fn list(spaces: &[Tablespace]) -> String {
    if spaces.is_empty() {
        return "none".to_owned();
    }
    let spaces = spaces
        .iter()
        .map(|space| format!("{} ({})", plain(&space.location), space.oid));
    spaces.collect::<Vec<_>>().join(", ")
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
    /// Takes the places of the layout's tablespaces for the target `main`; with `linked` also those that
    /// a tablespace of the same id has there by a link of `main`.
    pub(super) fn take(
        main: &Tree,
        layout: &Layout,
        places: BTreeMap<u32, PathBuf>,
        owner: Option<RunAs>,
        linked: bool,
    ) -> Result<Self, RestoreError> {
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
            refuse_taken(Some(main).filter(|_| linked), &ours, location)?;
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

/// Refuses the place of a tablespace at which something is, unless `over`, the data directory that is
/// restored over, has it there by a link.
fn refuse_taken(over: Option<&Tree>, ours: &Taken, original: &str) -> Result<(), RestoreError> {
    let Taken { oid, place } = ours;
    let link = over.map(|main| std::fs::read_link(main.join(&format!("pg_tblspc/{oid}"))));
    if link.is_some_and(|link| link.is_ok_and(|to| to == *place)) || is_free(place)? {
        return Ok(());
    }
    Err(RestoreError::TablespaceTaken {
        oid: *oid,
        location: place.clone(),
        original: original.to_owned(),
    })
}

/// Checks that every tablespace of `layout` can have its place, for a data directory that will be called
/// `target`: writes nothing. `standing` is what an earlier run of the same restore left, or with `over` the
/// data directory that is restored over.
///
/// # Errors
/// [`RestoreError::TablespaceMap`], [`RestoreError::TablespaceTaken`], [`RestoreError::Io`].
pub fn check_places(
    map: &TablespaceMap,
    layout: &Layout,
    target: &Path,
    standing: Option<&Path>,
    over: bool,
) -> Result<(), RestoreError> {
    let places = map.places(layout, target)?;
    let main = standing.filter(|folder| folder.is_dir());
    let main = main.map(|folder| {
        Tree::existing_folder(folder).map_err(RestoreError::io("looking at the target", folder))
    });
    let main = main.transpose()?;
    // By its path: nothing is made where something is looked for.
    let noted = standing.and_then(|folder| std::fs::read(folder.join(TAKEN_PATH)).ok());
    let known: Vec<Taken> = noted
        .and_then(|noted| serde_json::from_slice(&noted).ok())
        .unwrap_or_default();
    for Tablespace { oid, location } in &layout.tablespaces {
        let Some(place) = places.get(oid) else {
            continue;
        };
        let ours = Taken {
            oid: *oid,
            place: place.clone(),
        };
        if !known.contains(&ours) {
            refuse_taken(main.as_ref().filter(|_| over), &ours, location)?;
        }
    }
    Ok(())
}

/// Takes the place of a tablespace that was made after the base: replay makes it there, whatever stands
/// there. Its folder has to be.
pub(super) fn take_made(
    main: &Tree,
    oid: u32,
    place: &Path,
    owner: Option<RunAs>,
) -> Result<(), RestoreError> {
    let mut taken = taken(main)?;
    if taken.iter().any(|known| known.place == place) {
        return Ok(());
    }
    if !is_free(place)? {
        return Err(RestoreError::TablespaceMade {
            oid,
            place: place.to_path_buf(),
            why: "the folder is not empty, and replay would write into it",
        });
    }
    taken.push(Taken {
        oid,
        place: place.to_path_buf(),
    });
    let note = serde_json::to_vec(&taken).unwrap_or_default();
    let path = main.join(TAKEN_PATH);
    main.write(TAKEN_PATH, &note)
        .map_err(RestoreError::io("noting the tablespaces", &path))?;
    Tree::open(place, owner)
        .map(drop)
        .map_err(RestoreError::io("making a tablespace's folder", place))
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

/// The process of the server that runs in a folder. One that an earlier run of ours started, and that is
/// gone, ends by itself within moments: that is waited for.
pub(super) fn server_in(main: &Tree) -> Result<Option<String>, RestoreError> {
    let ours = main.join(super::finish::BEGUN).is_file();
    for _ in 0..ENDS_WITHIN_LOOKS {
        match running_in(main)? {
            Some(_) if ours => std::thread::sleep(ENDS_LOOK_EVERY),
            answer => return Ok(answer),
        }
    }
    running_in(main)
}

fn running_in(main: &Tree) -> Result<Option<String>, RestoreError> {
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
        TablespaceMap::parse(["16400=/data/fast"]).expect("by its id");
        for wrong in [
            vec!["/a"],
            vec!["-1=/b"],
            vec!["a=/b"],
            vec!["/a=b"],
            vec!["/a=/b", "/a/=/c"],
            vec!["/a=/c", "/b=/c"],
        ] {
            assert!(TablespaceMap::parse(wrong.clone()).is_err(), "{wrong:?}");
        }
    }
}
