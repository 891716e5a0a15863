//! A folder that files are written below, and never outside of it.
//!
//! Every step of a path is opened from the folder before it without following symbolic links, so
//! neither a path nor a link planted meanwhile leads elsewhere. What is made gets its owner at once.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use tidemark_format::postgres::layout::is_safe_path;

/// Who the files belong to, if that is not the user who writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// A folder, open.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    path: PathBuf,
    owner: Option<RunAs>,
}

const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::RDONLY);
/// What nobody but the owner may do with anything made here.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;
/// A server refuses a data directory that others may write to.
const MODE_MAX: u32 = 0o750;

impl Tree {
    /// Opens the folder, which is made if it is missing.
    pub(super) fn open(path: &Path, owner: Option<RunAs>) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match rustix::fs::mkdir(path, Mode::from_raw_mode(PRIVATE_FOLDER)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let root = rustix::fs::open(path, FOLDER, Mode::empty())?;
        let tree = Self {
            root,
            path: path.to_path_buf(),
            owner,
        };
        tree.give(&tree.root)?;
        Ok(tree)
    }

    /// Opens a folder that is there; nothing is given away.
    pub(super) fn existing_folder(path: &Path) -> io::Result<Self> {
        Ok(Self {
            root: rustix::fs::open(path, FOLDER, Mode::empty())?,
            path: path.to_path_buf(),
            owner: None,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A path below it, for messages.
    pub(super) fn join(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// Gives an open file to the owner.
    pub(super) fn give(&self, what: impl AsFd) -> io::Result<()> {
        if let Some(owner) = self.owner {
            rustix::fs::fchown(
                what,
                Some(Uid::from_raw(owner.uid)),
                Some(Gid::from_raw(owner.gid)),
            )?;
        }
        Ok(())
    }

    /// Opens the folder of `path`, making what is missing, and names the last part.
    fn parent<'a>(&self, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        if !is_safe_path(path) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path leaves its folder",
            ));
        }
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut at = self.root.try_clone()?;
        for part in folder.split('/').filter(|part| !part.is_empty()) {
            at = self.enter(&at, part)?;
        }
        Ok((at, name))
    }

    fn enter(&self, at: &OwnedFd, part: &str) -> io::Result<OwnedFd> {
        match rustix::fs::openat(at, part, FOLDER, Mode::empty()) {
            Err(Errno::NOENT) => {}
            opened => return Ok(opened?),
        }
        match rustix::fs::mkdirat(at, part, Mode::from_raw_mode(PRIVATE_FOLDER)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let made = rustix::fs::openat(at, part, FOLDER, Mode::empty())?;
        self.give(&made)?;
        Ok(made)
    }

    /// Makes a folder with all above it.
    pub(super) fn folder(&self, path: &str, mode: u32) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        let folder = self.enter(&parent, name)?;
        // An earlier run may have been another user's.
        self.give(&folder)?;
        set_mode(&File::from(folder), mode | PRIVATE_FOLDER)
    }

    /// Sets the permission bits of the folder itself.
    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        set_mode(&File::from(self.root.try_clone()?), mode | PRIVATE_FOLDER)
    }

    /// Opens a file for reading and writing; it is made, with its folders, if it is missing.
    pub(super) fn file(&self, path: &str) -> io::Result<File> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&parent, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {}
            opened => return Ok(File::from(opened?)),
        }
        let mode = Mode::from_raw_mode(PRIVATE_FILE);
        let made = rustix::fs::openat(&parent, name, flags | OFlags::CREATE, mode)?;
        self.give(&made)?;
        Ok(File::from(made))
    }

    /// Opens a file for reading, if it is there.
    pub(super) fn existing(&self, path: &str) -> io::Result<Option<File>> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&parent, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            opened => Ok(Some(File::from(opened?))),
        }
    }

    /// Removes a file, or a link, if it is there.
    pub(super) fn remove(&self, path: &str) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Renames a file, if it is there.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from_folder, from_name) = self.parent(from)?;
        let (to_folder, to_name) = self.parent(to)?;
        match rustix::fs::renameat(&from_folder, from_name, &to_folder, to_name) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a symbolic link, in place of one that is there.
    pub(super) fn link(&self, path: &str, to: &Path) -> io::Result<()> {
        self.remove(path)?;
        let (parent, name) = self.parent(path)?;
        rustix::fs::symlinkat(to, &parent, name)?;
        if let Some(owner) = self.owner {
            rustix::fs::chownat(
                &parent,
                name,
                Some(Uid::from_raw(owner.uid)),
                Some(Gid::from_raw(owner.gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
        Ok(())
    }

    /// Replaces a file's content.
    pub(super) fn write(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        let file = self.file(path)?;
        file.set_len(0)?;
        file.write_all_at(bytes, 0)
    }

    /// The content of a file, if it is there.
    pub(super) fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        use std::io::Read as _;
        let Some(mut file) = self.existing(path)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Makes everything on its file system durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.root)?)
    }

    /// Whether it is on the same device as `other`.
    pub(super) fn same_device(&self, other: &Self) -> io::Result<bool> {
        let device = |tree: &Self| rustix::fs::fstat(&tree.root).map(|stat| stat.st_dev);
        Ok(device(self)? == device(other)?)
    }
}

/// Sets permission bits, no more than a server accepts, if they are others.
pub(super) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    let mode = mode & MODE_MAX;
    if file.metadata()?.mode() & 0o7777 == mode {
        return Ok(());
    }
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().expect("a folder");
        let tree = Tree::open(&dir.path().join("tree"), None).expect("it opens");
        (dir, tree)
    }

    #[test]
    fn files_are_private_and_their_folders_are_made() {
        let (_dir, tree) = tree();
        tree.write("base/1/1259", b"pages").expect("written");
        let path = tree.path().join("base/1/1259");
        assert_eq!(std::fs::read(&path).expect("readable"), b"pages");
        let mode = |path: &Path| path.metadata().expect("there").mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&tree.path().join("base")), 0o700);
    }

    #[test]
    fn no_path_leaves_the_folder() {
        let (_dir, tree) = tree();
        for path in ["../x", "a/../../x", "/etc/x", "", "a//b", "./x"] {
            let error = tree.file(path).expect_err(path);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
        }
    }

    #[test]
    fn no_link_is_followed() {
        let (dir, tree) = tree();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).expect("made");
        std::fs::write(outside.join("file"), b"theirs").expect("written");
        std::os::unix::fs::symlink(&outside, tree.path().join("base")).expect("a link");
        std::os::unix::fs::symlink(outside.join("file"), tree.path().join("f")).expect("a link");
        assert!(tree.file("base/file").is_err());
        assert!(tree.file("f").is_err());
        assert!(tree.folder("base/new", 0o700).is_err());
        assert_eq!(
            std::fs::read(outside.join("file")).expect("there"),
            b"theirs"
        );
        assert_eq!(std::fs::read_dir(&outside).expect("there").count(), 1);
    }

    #[test]
    fn nobody_else_may_write_whatever_the_layout_says() {
        let (_dir, tree) = tree();
        tree.folder("base", 0o777).expect("made");
        let file = tree.file("base/x").expect("made");
        set_mode(&file, 0o4666).expect("set");
        let mode = |path: &str| tree.path().join(path).metadata().expect("there").mode();
        assert_eq!(mode("base") & 0o7777, 0o750);
        assert_eq!(mode("base/x") & 0o7777, 0o640);
    }
}
