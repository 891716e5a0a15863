//! Restoring over a data directory that is there: what is right in it is kept.
//!
//! Pages are compared with the base's before they are written, and files that don't belong go. The
//! directory has no `pg_control` under its name from the first step to the last, so that no server starts
//! on what is half of one state and half of another, and no log of its own: that comes from the chain.
//!
//! **Failure.** Every step may be repeated, by this process or a later one.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use tidemark_format::body::FileEntry;

use super::control::Control;
use super::error::RestoreError;
use super::files::{CONTROL_HIDDEN, CONTROL_PATH, FOLDERS, PAGE, SPACES};
use super::spaces::{self, TAKEN_PATH};
use super::tree::Tree;

const LOG_FOLDER: &str = "pg_wal";
const NOTES_FOLDER: &str = ".tidemark";
/// What tells a server how to start. All of it is of the directory's own life.
const SIGNALS: [&str; 6] = [
    "recovery.signal",
    "standby.signal",
    "backup_label",
    "tablespace_map",
    "postmaster.opts",
    "postmaster.pid",
];

/// A data directory that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// The cluster that it is of, as far as it says so.
    pub system: Option<u64>,
    /// The process of the server that runs in it.
    pub running: Option<String>,
}

/// Looks at a data directory, or at what an earlier restore made of one.
///
/// # Errors
/// [`RestoreError::Io`].
pub fn look(folder: &Path) -> Result<Existing, RestoreError> {
    let tree =
        Tree::existing_folder(folder).map_err(RestoreError::io("looking at the target", folder))?;
    let mut system = None;
    for name in [CONTROL_PATH, CONTROL_HIDDEN] {
        // By its path: nothing is made where something is looked for.
        let bytes = std::fs::read(folder.join(name)).ok();
        let control = bytes.and_then(|bytes| Control::parse(&bytes).ok());
        system = system.or_else(|| control.map(|control| control.system));
    }
    Ok(Existing {
        system,
        running: spaces::server_in(&tree)?,
    })
}

/// Makes a data directory, or what an unfinished restore left of one, the ground of a new restore: no
/// server starts in it any more, and none of its log is left. Its other files stay until they are
/// compared ([`TargetOptions::compare`](super::TargetOptions::compare)).
///
/// # Errors
/// [`RestoreError::Running`], [`RestoreError::Io`].
pub fn adopt(folder: &Path) -> Result<(), RestoreError> {
    let tree =
        Tree::existing_folder(folder).map_err(RestoreError::io("looking at the target", folder))?;
    if let Some(pid) = spaces::server_in(&tree)? {
        return Err(RestoreError::Running {
            folder: folder.to_path_buf(),
            pid,
        });
    }
    disarm(&tree).map_err(RestoreError::io("preparing the target", folder))
}

fn disarm(tree: &Tree) -> io::Result<()> {
    tree.rename(CONTROL_PATH, CONTROL_HIDDEN)?;
    for name in SIGNALS {
        tree.remove(name)?;
    }
    empty(tree, LOG_FOLDER, |_| false)?;
    empty(tree, NOTES_FOLDER, |path| path == TAKEN_PATH)
}

/// Removes what is in a folder, but for files to `keep`; or a link in the folder's place.
fn empty(tree: &Tree, folder: &str, keep: impl Fn(&str) -> bool) -> io::Result<()> {
    let path = tree.join(folder);
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(there) if !there.is_dir() => return tree.remove(folder),
        Ok(_) => {}
    }
    for entry in std::fs::read_dir(&path)? {
        let entry = entry?;
        let name = entry.file_name();
        let inside = format!("{folder}/{}", name.to_string_lossy());
        if !keep(&inside) {
            remove(&entry)?;
        }
    }
    Ok(())
}

/// Removes an entry of a folder with all that is in it; links are not followed.
fn remove(entry: &std::fs::DirEntry) -> io::Result<()> {
    if entry.file_type()?.is_dir() {
        std::fs::remove_dir_all(entry.path())
    } else {
        std::fs::remove_file(entry.path())
    }
}

/// What a folder is to hold.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    files: HashSet<&'a str>,
    folders: HashSet<&'a str>,
}

impl<'a> Wanted<'a> {
    /// Of the data directory.
    pub(super) fn of_main(table: &'a [FileEntry]) -> Self {
        let paths = table.iter().map(|entry| match entry.path.as_str() {
            CONTROL_PATH => CONTROL_HIDDEN,
            path => path,
        });
        let mut wanted = Self::of(paths);
        wanted.folders.extend(FOLDERS);
        wanted
    }

    /// Of a tablespace's own folder.
    pub(super) fn of_space(table: &'a [FileEntry], oid: u32) -> Self {
        let inside = move |entry: &'a FileEntry| {
            let rest = entry.path.strip_prefix(SPACES)?;
            let (of, inside) = rest.split_once('/')?;
            (of.parse() == Ok(oid)).then_some(inside)
        };
        Self::of(table.iter().filter_map(inside))
    }

    fn of(paths: impl Iterator<Item = &'a str>) -> Self {
        let files: HashSet<&str> = paths.filter(|path| !path.is_empty()).collect();
        let mut folders = HashSet::new();
        for path in &files {
            let mut path = *path;
            while let Some((above, _)) = path.rsplit_once('/') {
                // What is above that is known, too.
                if !folders.insert(above) {
                    break;
                }
                path = above;
            }
        }
        Self { files, folders }
    }

    /// Removes from the data directory what is not wanted. Left alone are the log and our notes, which
    /// are made anew, and the links of tablespaces.
    pub(super) fn prune_main(&self, tree: &Tree) -> io::Result<()> {
        let skip = |path: &str| {
            let space = path.strip_prefix(SPACES);
            let space = space.is_some_and(|oid| oid.parse::<u32>().is_ok());
            let link = space && tree.join(path).is_symlink();
            link || [LOG_FOLDER, NOTES_FOLDER].contains(&path)
        };
        self.prune(tree.path(), "", &skip)
    }

    /// Removes from a tablespace's folder what is not wanted. The one folder that a server makes there is
    /// looked at, and no other.
    pub(super) fn prune_space(&self, tree: &Tree) -> io::Result<()> {
        self.prune(tree.path(), "", &|path| !path.starts_with("PG_"))
    }

    fn prune(&self, root: &Path, folder: &str, skip: &dyn Fn(&str) -> bool) -> io::Result<()> {
        for entry in std::fs::read_dir(root.join(folder))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                remove(&entry)?;
                continue;
            };
            let path = if folder.is_empty() {
                name
            } else {
                format!("{folder}/{name}")
            };
            if skip(&path) {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() && self.folders.contains(path.as_str()) {
                self.prune(root, &path, skip)?;
            } else if !kind.is_file() || !self.files.contains(path.as_str()) {
                remove(&entry)?;
            }
        }
        Ok(())
    }
}

/// Writes `bytes` at `at` as far as other bytes stand there, page by page; the bytes that were right.
pub(super) fn write_differing(file: &File, bytes: &[u8], at: u64) -> io::Result<u64> {
    let mut there = vec![0; bytes.len()];
    let mut have = 0;
    while let Some(rest) = there.get_mut(have..).filter(|rest| !rest.is_empty()) {
        let place = at.saturating_add(u64::try_from(have).unwrap_or(u64::MAX));
        match file.read_at(rest, place) {
            Ok(0) => break,
            Ok(read) => have = have.saturating_add(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    there.truncate(have);
    let mut same = 0_u64;
    let mut place = at;
    // Neighbours that differ are written at once.
    let mut differing: Option<(u64, usize, usize)> = None;
    let flush = |differing: Option<(u64, usize, usize)>| match differing {
        Some((place, from, to)) => {
            file.write_all_at(bytes.get(from..to).unwrap_or_default(), place)
        }
        None => Ok(()),
    };
    let mut from = 0;
    for page in bytes.chunks(PAGE) {
        let to = from + page.len();
        let length = u64::try_from(page.len()).unwrap_or(u64::MAX);
        if there.get(from..to) == Some(page) {
            same = same.saturating_add(length);
            flush(differing.take())?;
        } else {
            differing = Some(differing.map_or((place, from, to), |(at, first, _)| (at, first, to)));
        }
        place = place.saturating_add(length);
        from = to;
    }
    flush(differing)?;
    Ok(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().expect("a folder");
        let tree = Tree::open(&dir.path().join("main"), None).expect("it opens");
        (dir, tree)
    }

    fn entry(path: &str) -> FileEntry {
        FileEntry {
            path: path.to_owned(),
            bytes: 1,
        }
    }

    #[test]
    fn only_pages_that_differ_are_written() {
        let (_dir, tree) = tree();
        let file = tree.file("base/1/1259").expect("made");
        let wanted: Vec<u8> = (0..5 * PAGE + 100)
            .map(|at| u8::try_from(at / 97 % 251).expect("small"))
            .collect();
        assert_eq!(write_differing(&file, &wanted, 0).expect("written"), 0);
        let all = u64::try_from(wanted.len()).expect("fits");
        assert_eq!(write_differing(&file, &wanted, 0).expect("nothing"), all);
        for place in [PAGE + 7, 2 * PAGE, 5 * PAGE + 99] {
            let place = u64::try_from(place).expect("fits");
            file.write_all_at(b"\xff", place).expect("damaged");
        }
        let same = write_differing(&file, &wanted, 0).expect("mended");
        assert_eq!(same, u64::try_from(3 * PAGE).expect("fits"));
        // A file that was cut.
        file.set_len(300).expect("cut");
        assert_eq!(write_differing(&file, &wanted, 0).expect("mended"), 0);
        let found = tree.read("base/1/1259").expect("readable");
        assert!(found.is_some_and(|found| found == wanted));
    }

    #[test]
    fn what_does_not_belong_goes_and_nothing_outside() {
        let (dir, tree) = tree();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).expect("made");
        std::fs::write(outside.join("theirs"), b"x").expect("written");
        for path in [
            "PG_VERSION",
            "base/1/1",
            "base/1/2",
            "base/9/1",
            "base/1/5/not a folder",
            "global/pg_control",
            "pg_wal/000000010000000000000001",
            "pg_wal/archive_status/x",
            "standby.signal",
            "stray.txt",
            ".tidemark/recovery-begun",
            ".tidemark/tablespaces",
        ] {
            tree.write(path, b"x").expect(path);
        }
        let link = |name: &str| {
            std::os::unix::fs::symlink(&outside, tree.join(name)).expect("a link");
        };
        link("link");
        tree.folder("pg_tblspc", 0o700).expect("made");
        link("pg_tblspc/16400");
        link("pg_tblspc/other");
        adopt(tree.path()).expect("adopted");
        let table = [
            "PG_VERSION",
            "base/1/1",
            "base/1/5",
            "global/pg_control",
            "x/y",
        ]
        .map(entry);
        let wanted = Wanted::of_main(&table);
        for _ in 0..2 {
            wanted.prune_main(&tree).expect("pruned");
        }
        let there = |path: &str| tree.join(path).symlink_metadata().is_ok();
        for kept in [
            "PG_VERSION",
            "base/1/1",
            "global/pg_control.tidemark",
            "pg_tblspc/16400",
            "pg_wal",
            ".tidemark/tablespaces",
        ] {
            assert!(there(kept), "{kept}");
        }
        for gone in [
            "base/1/2",
            "base/9",
            "base/1/5",
            "global/pg_control",
            "pg_wal/000000010000000000000001",
            "standby.signal",
            "stray.txt",
            ".tidemark/recovery-begun",
            "link",
            "pg_tblspc/other",
        ] {
            assert!(!there(gone), "{gone}");
        }
        assert!(outside.join("theirs").exists(), "links are not followed");
    }

    #[test]
    fn of_a_tablespace_only_the_servers_own_folder_is_looked_at() {
        let (_dir, tree) = tree();
        for path in ["PG_15_202209061/5/1", "PG_15_202209061/5/2", "lost+found/x"] {
            tree.write(path, b"x").expect(path);
        }
        let table = [
            entry("pg_tblspc/16400/PG_15_202209061/5/1"),
            entry("pg_tblspc/16401/PG_15_202209061/5/2"),
        ];
        Wanted::of_space(&table, 16400)
            .prune_space(&tree)
            .expect("pruned");
        assert!(tree.join("PG_15_202209061/5/1").exists());
        assert!(!tree.join("PG_15_202209061/5/2").exists());
        assert!(tree.join("lost+found/x").exists());
    }
}
