//! A target that is a folder: a server's data directory.
//!
//! **Invariants.** What is restored stands in `.NAME.tidemark-partial` beside the target, mode 0700,
//! until the last step, a rename. It replaces an empty folder of that name and nothing else: the system
//! itself refuses any other. The partial folder is locked as the partial file of other sources is.
//!
//! **Restoring over** a data directory begins by giving it the partial folder's name: nothing finds it at
//! its place before it is whole again, and an interrupted one is gone on with like any other.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{Target, TargetError, libc_nofollow};

/// What a server's data directory is opened with.
const MODE: u32 = 0o700;
/// Stands in a data directory while a server runs in it, and after it was killed.
const RUNNING: &str = "postmaster.pid";
/// Stands in every data directory.
const VERSION: &str = "PG_VERSION";

/// Checks that `path` may become a data directory.
pub(super) fn check(path: &Path, parent: &Path) -> Result<(), TargetError> {
    let Ok(there) = path.symlink_metadata() else {
        return Ok(());
    };
    if !there.is_dir() {
        return Err(TargetError::Exists(path.to_owned()));
    }
    let mut entries = std::fs::read_dir(path).map_err(TargetError::io("look into", path))?;
    if path.join(RUNNING).symlink_metadata().is_ok() {
        return Err(TargetError::Running(path.to_owned()));
    }
    if entries.next().is_some() {
        return Err(TargetError::NotEmpty(path.to_owned()));
    }
    let around = std::fs::metadata(parent).map_err(TargetError::io("look at", parent))?;
    if around.dev() != there.dev() {
        return Err(TargetError::MountPoint(path.to_owned()));
    }
    Ok(())
}

/// Checks that what is at `path` may be restored over; whether anything is there.
pub(super) fn check_existing(path: &Path, parent: &Path) -> Result<bool, TargetError> {
    let Ok(there) = path.symlink_metadata() else {
        return Ok(false);
    };
    if !there.is_dir() {
        return Err(TargetError::Exists(path.to_owned()));
    }
    let mut entries = std::fs::read_dir(path).map_err(TargetError::io("look into", path))?;
    if entries.next().is_none() {
        return Ok(false);
    }
    if !path.join(VERSION).is_file() {
        return Err(TargetError::NotACluster(path.to_owned()));
    }
    let around = std::fs::metadata(parent).map_err(TargetError::io("look at", parent))?;
    if around.dev() != there.dev() {
        return Err(TargetError::MountPoint(path.to_owned()));
    }
    Ok(true)
}

/// Opens the partial folder, made if it isn't there.
pub(super) fn open(path: &Path) -> Result<File, TargetError> {
    let made = DirBuilder::new().mode(MODE).create(path);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(TargetError::io("create", path)(error));
        }
        Ok(()) | Err(_) => {}
    }
    OpenOptions::new()
        .read(true)
        .custom_flags(libc_nofollow())
        .open(path)
        .map_err(TargetError::io("open", path))
}

/// Bytes that a folder's files take on the disk. What vanishes meanwhile takes none.
pub(super) fn used(path: &Path) -> u64 {
    let mut waiting: Vec<PathBuf> = vec![path.to_owned()];
    let mut used = 0_u64;
    while let Some(folder) = waiting.pop() {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries {
            // Of a link itself: a tablespace elsewhere takes nothing here.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                waiting.push(entry.path());
            } else {
                used = used.saturating_add(meta.blocks().saturating_mul(512));
            }
        }
    }
    used
}

/// Gives the finished folder its name.
pub(super) fn rename(target: &Target) -> Result<(), TargetError> {
    std::fs::rename(&target.partial, &target.path).map_err(|error| match error.kind() {
        io::ErrorKind::DirectoryNotEmpty
        | io::ErrorKind::AlreadyExists
        | io::ErrorKind::NotADirectory => TargetError::Exists(target.path.clone()),
        _ => TargetError::io("name", &target.path)(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &Path) -> Result<Target, TargetError> {
        Target::look(path)?.into_folder()
    }

    #[test]
    fn a_new_name_and_an_empty_folder_will_do_and_a_full_one_will_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main");
        target(&path).unwrap();
        target(&folder.path().join("main/")).unwrap();
        std::fs::create_dir(&path).unwrap();
        target(&path).unwrap();
        std::fs::write(path.join("precious"), b"").unwrap();
        assert!(matches!(target(&path), Err(TargetError::NotEmpty(_))));
        std::fs::write(path.join(RUNNING), b"1").unwrap();
        assert!(matches!(target(&path), Err(TargetError::Running(_))));
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(target(&file), Err(TargetError::Exists(_))));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &link).unwrap();
        assert!(matches!(target(&link), Err(TargetError::Exists(_))));
    }

    #[test]
    fn publishing_replaces_an_empty_folder_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main");
        std::fs::create_dir(&path).unwrap();
        let target = target(&path).unwrap();
        let partial = target.open_partial().unwrap();
        assert!(matches!(target.open_partial(), Err(TargetError::Busy(_))));
        std::fs::write(target.partial_path().join("PG_VERSION"), b"15\n").unwrap();
        partial.sync().unwrap();
        std::fs::write(path.join("somebody"), b"").unwrap();
        assert!(matches!(
            target.publish(&partial),
            Err(TargetError::Exists(_))
        ));
        std::fs::remove_file(path.join("somebody")).unwrap();
        target.publish(&partial).unwrap();
        assert!(path.join("PG_VERSION").exists() && !target.partial_path().exists());
    }

    #[test]
    fn a_data_directory_is_restored_over_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main");
        let existing = || Target::look(&path)?.into_existing();
        assert!(!existing().unwrap().is_over(), "one is made");
        std::fs::create_dir(&path).unwrap();
        assert!(!existing().unwrap().is_over(), "an empty folder");
        std::fs::write(path.join("precious"), b"").unwrap();
        assert!(matches!(existing(), Err(TargetError::NotACluster(_))));
        std::fs::write(path.join(VERSION), b"15\n").unwrap();
        let target = existing().unwrap();
        assert!(target.is_over());
        assert_eq!(target.existing(), Some(path.as_path()));
        // Beside the rest of another restore it stays where it is.
        std::fs::create_dir(target.partial_path()).unwrap();
        let refused = target.take_over();
        assert!(matches!(refused, Err(TargetError::Unfinished(_))));
        assert!(path.join("precious").exists());
        std::fs::remove_dir(target.partial_path()).unwrap();
        target.take_over().unwrap();
        assert!(!path.exists() && target.partial_path().join("precious").exists());
        // What was taken is found again, by the same process and by a later one.
        target.take_over().unwrap();
        let again = existing().unwrap();
        assert!(again.is_over());
        assert_eq!(again.existing(), Some(target.partial_path()));
        let partial = again.open_partial().unwrap();
        again.publish(&partial).unwrap();
        assert!(path.join("precious").exists());
    }

    #[test]
    fn what_an_interrupted_run_left_counts_as_space() {
        let folder = tempfile::tempdir().unwrap();
        let target = target(&folder.path().join("main")).unwrap();
        let _partial = target.open_partial().unwrap();
        let inside = target.partial_path().join("base/1");
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::write(inside.join("1259"), vec![7; 1 << 20]).unwrap();
        assert!(used(target.partial_path()) >= 1 << 20);
    }
}
