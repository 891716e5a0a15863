//! The file that a restore makes, or the [`folder`] of a server.
//!
//! **Invariants.** Nothing is ever overwritten: the target must not exist when the restore begins,
//! and the last step is a rename that refuses to replace. Until then the bytes stand beside it in
//! `.NAME.tidemark-partial`, mode 0600. A target beside which a `-wal`, `-shm` or `-journal` lies is
//! refused: SQLite would replay a stranger's log into the restored database.
//!
//! **Interruption.** The partial file and its notes ([`resume`]) stay, and the next run of the same
//! restore goes on from them. One restore at a time: the partial file is locked.

mod folder;
pub mod resume;

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, RenameFlags};
use tidemark_format::envelope::MAGIC;
use tidemark_format::keys;

/// Space left free beside the restored database: the partial file's notes and a margin for others.
const SPARE_BYTES: u64 = 16 << 20;
/// What SQLite puts beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Why a target can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Something is there.
    #[error(
        "{} exists already: a restore never overwrites; move it away or name another target", .0.display()
    )]
    Exists(PathBuf),
    /// A stranger's log would be replayed into the restored database.
    #[error(
        "{} lies beside the target: SQLite would apply it to the restored database and destroy it; \
         move it away (keep it: it may hold the last commits of the lost database)", .0.display()
    )]
    Stray(PathBuf),
    /// The folder isn't there.
    #[error("the folder {} is not there: make it first", .0.display())]
    NoFolder(PathBuf),
    /// The name can't be a file's.
    #[error("{} does not name a file", .0.display())]
    NoName(PathBuf),
    /// A folder, where a file's name is needed.
    #[error(
        "{} is a folder: name the file to make, such as {}", .0.display(), .0.join("restored.db").display()
    )]
    Folder(PathBuf),
    /// A folder that holds something.
    #[error(
        "{} is not empty: a restore never overwrites; move what is in it away or name another folder", .0.display()
    )]
    NotEmpty(PathBuf),
    /// A server's data directory in use.
    #[error(
        "{} is the data directory of a server that runs, or was killed: a restore never overwrites; name another folder, \
         and keep this one (it may hold the last commits of the lost server)", .0.display()
    )]
    Running(PathBuf),
    /// A folder that is none of a server's, to be restored over.
    #[error(
        "{} is no server's data directory (there is no PG_VERSION in it), so nothing is restored over it; name the right folder, or another one without --delta", .0.display()
    )]
    NotACluster(PathBuf),
    /// A server uses what would be restored over.
    #[error(
        "a server is running in {} (process {pid}): stop it first, and see that nothing starts it again", folder.display()
    )]
    InUse {
        /// The data directory.
        folder: PathBuf,
        /// The process.
        pid: String,
    },
    /// Another cluster's data would be replaced.
    #[error(
        "{} is of the database cluster {found}, and what is to be restored is of {expected}: name the right folder, or say --other-system if that one is to be replaced",
        folder.display()
    )]
    OtherSystem {
        /// The data directory.
        folder: PathBuf,
        /// What it says.
        found: String,
        /// The source's.
        expected: String,
    },
    /// Both a data directory and what an earlier restore began beside it.
    #[error(
        "an earlier restore did not end and stands at {}: move that away, or remove it, before this folder is restored over", .0.display()
    )]
    Unfinished(PathBuf),
    /// A file system's root.
    #[error(
        "{} is where a file system is mounted, and a finished restore is put into place by a rename: name a folder in it, such as {}",
        .0.display(), .0.join("main").display()
    )]
    MountPoint(PathBuf),
    /// A folder of backups.
    #[error(
        "{} lies inside the Tidemark repository {}: a database there would be taken for a backup, or lost with it; choose a target elsewhere",
        target.display(), repository.display()
    )]
    InRepository {
        /// The target.
        target: PathBuf,
        /// The repository's folder.
        repository: PathBuf,
    },
    /// The folder can't be written to.
    #[error("can't write in {}", folder.display())]
    NotWritable {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not enough space, found before anything was written.
    #[error(
        "{} has {} free and the restore needs {}: free space or choose a target on another disk",
        folder.display(), tidemark_host::output::bytes(*free), tidemark_host::output::bytes(*needed)
    )]
    NoSpace {
        /// The folder.
        folder: PathBuf,
        /// Bytes free for us.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// Another restore writes it.
    #[error("another restore is writing {}: wait for it, or stop it first", .0.display())]
    Busy(PathBuf),
    /// The system refused.
    #[error("can't {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl TargetError {
    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the disk or the quota is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Io { source, .. } | Self::NotWritable { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::FileTooLarge
            ),
            Self::Exists(_)
            | Self::NotEmpty(_)
            | Self::Running(_)
            | Self::NotACluster(_)
            | Self::InUse { .. }
            | Self::OtherSystem { .. }
            | Self::Unfinished(_)
            | Self::MountPoint(_)
            | Self::Stray(_)
            | Self::NoFolder(_)
            | Self::NoName(_)
            | Self::Folder(_)
            | Self::InRepository { .. }
            | Self::Busy(_) => false,
        }
    }
}

/// A target that was looked at and may be used.
#[derive(Debug, Clone)]
pub struct Target {
    path: PathBuf,
    folder: PathBuf,
    partial: PathBuf,
    shape: Shape,
    /// A data directory that is there is restored over.
    over: bool,
}

/// What stands at the target in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    File,
    Folder,
}

/// The partial file or folder, locked as long as this is there.
#[derive(Debug)]
pub struct Partial {
    handle: File,
    path: PathBuf,
    shape: Shape,
}

impl Partial {
    /// Makes durable what was written.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn sync(&self) -> Result<(), TargetError> {
        match self.shape {
            Shape::File => self.handle.sync_data(),
            // Hundreds of thousands of files: the whole file system at once.
            Shape::Folder => rustix::fs::syncfs(&self.handle).map_err(io::Error::from),
        }
        .map_err(TargetError::io("sync", &self.path))
    }

    /// Throws away what was written into a file.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn empty(&self) -> Result<(), TargetError> {
        self.handle
            .set_len(0)
            .map_err(TargetError::io("empty", &self.path))
    }
}

impl Target {
    /// Checks everything about the file `path` that can be known before writing, and writes nothing.
    ///
    /// # Errors
    /// [`TargetError`] with the remedy.
    pub fn check(path: &Path) -> Result<Self, TargetError> {
        Self::look(path)?.into_file()
    }

    /// Checks what is the same for a file and for a folder.
    ///
    /// # Errors
    /// [`TargetError`] with the remedy.
    pub fn look(path: &Path) -> Result<Self, TargetError> {
        let path = std::path::absolute(path).map_err(TargetError::io("find", path))?;
        let name = path
            .file_name()
            .ok_or_else(|| TargetError::NoName(path.clone()))?;
        let folder = path
            .parent()
            .ok_or_else(|| TargetError::NoName(path.clone()))?
            .to_owned();
        if !folder.is_dir() {
            return Err(TargetError::NoFolder(folder));
        }
        // A dangling link is something, too.
        if path
            .symlink_metadata()
            .is_ok_and(|there| !there.is_dir() && !path.is_dir())
        {
            return Err(TargetError::Exists(path));
        }
        if let Some(repository) = repository_around(&folder) {
            return Err(TargetError::InRepository {
                target: path,
                repository,
            });
        }
        rustix::fs::access(
            &folder,
            rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
        )
        .map_err(|errno| TargetError::NotWritable {
            folder: folder.clone(),
            source: errno.into(),
        })?;
        let mut partial = std::ffi::OsString::from(".");
        partial.push(name);
        partial.push(".tidemark-partial");
        let partial = folder.join(partial);
        Ok(Self {
            path,
            folder,
            partial,
            shape: Shape::File,
            over: false,
        })
    }

    /// Checks that a file may be made there.
    ///
    /// # Errors
    /// [`TargetError`] with the remedy.
    pub fn into_file(self) -> Result<Self, TargetError> {
        let path = &self.path;
        if path.is_dir() || path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(TargetError::Folder(self.path));
        }
        if path.symlink_metadata().is_ok() {
            return Err(TargetError::Exists(self.path));
        }
        self.refuse_companions()?;
        Ok(Self {
            shape: Shape::File,
            ..self
        })
    }

    /// Checks that a server's data directory may be made there.
    ///
    /// # Errors
    /// [`TargetError`] with the remedy.
    pub fn into_folder(self) -> Result<Self, TargetError> {
        // Without a slash at its end.
        let path: PathBuf = self.path.components().collect();
        folder::check(&path, &self.folder)?;
        Ok(Self {
            path,
            shape: Shape::Folder,
            ..self
        })
    }

    /// Checks that the data directory there may be restored over, or what an earlier such restore made of
    /// it. Where neither is, one is made.
    ///
    /// # Errors
    /// [`TargetError`] with the remedy.
    pub fn into_existing(self) -> Result<Self, TargetError> {
        // Without a slash at its end.
        let path: PathBuf = self.path.components().collect();
        let over = folder::check_existing(&path, &self.folder)? || self.partial.is_dir();
        if !over {
            return Self { path, ..self }.into_folder();
        }
        Ok(Self {
            path,
            shape: Shape::Folder,
            over,
            ..self
        })
    }

    /// Whether what is there is restored over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The data directory that is restored over, wherever it stands by now.
    #[must_use]
    pub fn existing(&self) -> Option<&Path> {
        let path = if self.path.is_dir() {
            &self.path
        } else {
            &self.partial
        };
        self.over.then_some(path)
    }

    /// Takes the data directory that is restored over from its place: until the last step it stands where
    /// a new one would.
    ///
    /// # Errors
    /// [`TargetError::Unfinished`], [`TargetError::Io`].
    pub fn take_over(&self) -> Result<(), TargetError> {
        if !self.over || self.path.symlink_metadata().is_err() {
            return Ok(());
        }
        let cwd = rustix::fs::CWD;
        // Of another restore, whatever they say.
        drop(std::fs::remove_file(self.notes_path()));
        rustix::fs::renameat_with(cwd, &self.path, cwd, &self.partial, RenameFlags::NOREPLACE)
            .map_err(|errno| match errno {
                rustix::io::Errno::EXIST => TargetError::Unfinished(self.partial.clone()),
                errno => TargetError::io("move", &self.path)(errno.into()),
            })?;
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(TargetError::io("sync", &self.folder))
    }

    /// Whether it is a server's data directory.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.shape == Shape::Folder
    }

    /// What SQLite would take for the database's own.
    fn refuse_companions(&self) -> Result<(), TargetError> {
        for suffix in COMPANIONS {
            let mut stray = self.path.clone().into_os_string();
            stray.push(suffix);
            let stray = PathBuf::from(stray);
            if stray.symlink_metadata().is_ok() {
                return Err(TargetError::Stray(stray));
            }
        }
        Ok(())
    }

    /// Where the database will stand.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it stands while it is being written.
    #[must_use]
    pub fn partial_path(&self) -> &Path {
        &self.partial
    }

    /// Where the notes for resuming stand.
    #[must_use]
    pub fn notes_path(&self) -> PathBuf {
        let mut name = self.partial.clone().into_os_string();
        name.push(".json");
        PathBuf::from(name)
    }

    /// Bytes free for us on the target's disk.
    ///
    /// # Errors
    /// [`TargetError::Io`].
    pub fn free_bytes(&self) -> Result<u64, TargetError> {
        let stat = rustix::fs::statvfs(&self.folder).map_err(|errno| TargetError::Io {
            action: "ask for the free space of",
            path: self.folder.clone(),
            source: errno.into(),
        })?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Checks that `image_bytes` fit; what an interrupted run has written counts.
    ///
    /// # Errors
    /// [`TargetError::NoSpace`].
    pub fn check_space(&self, image_bytes: u64) -> Result<(), TargetError> {
        let free = self.free_bytes()?;
        let have = match self.shape {
            Shape::File => {
                std::fs::metadata(&self.partial).map_or(0, |meta| meta.blocks().saturating_mul(512))
            }
            Shape::Folder => {
                let over = self.existing().filter(|path| *path != self.partial);
                folder::used(&self.partial).saturating_add(over.map_or(0, folder::used))
            }
        };
        let needed = image_bytes.saturating_add(SPARE_BYTES);
        if free.saturating_add(have) < needed {
            return Err(TargetError::NoSpace {
                folder: self.folder.clone(),
                free,
                needed,
            });
        }
        Ok(())
    }

    /// Opens and locks the partial file or folder, made if it isn't there. The lock is held as long as
    /// what is returned.
    ///
    /// # Errors
    /// [`TargetError::Busy`] when another restore has it.
    pub fn open_partial(&self) -> Result<Partial, TargetError> {
        let handle = match self.shape {
            Shape::File => OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc_nofollow())
                .open(&self.partial)
                .map_err(TargetError::io("create", &self.partial))?,
            Shape::Folder => folder::open(&self.partial)?,
        };
        match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                if self.is_folder() {
                    // The server that ends recovery runs as whom it belongs to.
                    self.adopt_owner(&handle)?;
                }
                Ok(Partial {
                    handle,
                    path: self.partial.clone(),
                    shape: self.shape,
                })
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Err(TargetError::Busy(self.partial.clone())),
            Err(errno) => Err(TargetError::io("lock", &self.partial)(errno.into())),
        }
    }

    /// Gives the finished database its name: owner, rename without replacing, fsync of the folder;
    /// then the notes go. The bytes must be fsynced already.
    ///
    /// # Errors
    /// [`TargetError::Exists`] when somebody took the name meanwhile: the partial file then stays.
    pub fn publish(&self, partial: &Partial) -> Result<(), TargetError> {
        self.adopt_owner(&partial.handle)?;
        match self.shape {
            Shape::File => {
                self.refuse_companions()?;
                self.rename()?;
            }
            Shape::Folder => folder::rename(self)?,
        }
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(TargetError::io("sync", &self.folder))?;
        // The database is in place; a leftover of notes harms nobody.
        drop(std::fs::remove_file(self.notes_path()));
        Ok(())
    }

    fn rename(&self) -> Result<(), TargetError> {
        let cwd = rustix::fs::CWD;
        let renamed =
            rustix::fs::renameat_with(cwd, &self.partial, cwd, &self.path, RenameFlags::NOREPLACE);
        match renamed {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::EXIST) => Err(TargetError::Exists(self.path.clone())),
            // File systems without it: a hard link refuses a taken name as well.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                std::fs::hard_link(&self.partial, &self.path)
                    .and_then(|()| std::fs::remove_file(&self.partial))
                    .map_err(|error| match error.kind() {
                        io::ErrorKind::AlreadyExists => TargetError::Exists(self.path.clone()),
                        _ => TargetError::io("name", &self.path)(error),
                    })
            }
            Err(errno) => Err(TargetError::io("name", &self.path)(errno.into())),
        }
    }

    /// Root restores for somebody: the owner of the folder, whose application must open the file.
    fn adopt_owner(&self, file: &File) -> Result<(), TargetError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let folder =
            std::fs::metadata(&self.folder).map_err(TargetError::io("look at", &self.folder))?;
        std::os::unix::fs::fchown(file, Some(folder.uid()), Some(folder.gid()))
            .map_err(TargetError::io("give to the folder's owner", &self.partial))
    }
}

/// The directory region in which `folder` lies, links resolved: one has a marker at its root.
fn repository_around(folder: &Path) -> Option<PathBuf> {
    let real = folder.canonicalize().ok()?;
    let marker = keys::region();
    let is_root = |root: &&Path| {
        let mut magic = [0; MAGIC.len()];
        let read =
            File::open(root.join(marker.as_str())).and_then(|mut file| file.read_exact(&mut magic));
        read.is_ok() && magic == MAGIC
    };
    real.ancestors().find(is_root).map(Path::to_owned)
}

/// The partial file is opened by name in a folder that others may write to: a link put there must
/// not lead us elsewhere.
fn libc_nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_exists_or_dangles_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(Target::check(&path), Err(TargetError::Exists(_))));
        let link = folder.path().join("link.db");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(matches!(Target::check(&link), Err(TargetError::Exists(_))));
    }

    #[test]
    fn a_folder_is_no_target_whether_it_is_there_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none/");
        for path in [folder.path(), missing.as_path()] {
            let refused = Target::check(path).unwrap_err();
            assert!(matches!(refused, TargetError::Folder(_)), "{refused}");
            assert!(refused.to_string().contains("restored.db"), "{refused}");
        }
    }

    #[test]
    fn a_target_inside_a_repository_is_refused_also_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let region = folder.path().join("region");
        std::fs::create_dir_all(region.join("data/pack")).unwrap();
        std::fs::create_dir_all(region.join("meta")).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&region, &link).unwrap();
        let inside = ["region/app.db", "region/data/pack/app.db", "link/app.db"];
        for path in inside {
            Target::check(&folder.path().join(path)).unwrap();
        }
        std::fs::write(region.join("meta/region"), b"TIDEMARK and more").unwrap();
        for path in inside {
            let refused = Target::check(&folder.path().join(path)).unwrap_err();
            assert!(
                matches!(refused, TargetError::InRepository { .. }),
                "{refused}"
            );
        }
        Target::check(&folder.path().join("app.db")).unwrap();
    }

    #[test]
    fn a_stray_log_beside_the_target_is_refused_by_name() {
        for suffix in COMPANIONS {
            let folder = tempfile::tempdir().unwrap();
            let stray = folder.path().join(format!("app.db{suffix}"));
            std::fs::write(&stray, b"").unwrap();
            let refused = Target::check(&folder.path().join("app.db")).unwrap_err();
            assert!(refused.to_string().contains(suffix), "{refused}");
        }
    }

    #[test]
    fn a_missing_folder_and_too_little_space_are_told_before_writing() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none/app.db");
        assert!(matches!(
            Target::check(&missing),
            Err(TargetError::NoFolder(_))
        ));
        let target = Target::check(&folder.path().join("app.db")).unwrap();
        target.check_space(0).unwrap();
        let refused = target.check_space(u64::MAX / 2).unwrap_err();
        assert!(refused.is_full(), "{refused}");
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "nothing was written"
        );
    }

    #[test]
    fn publishing_never_replaces_and_only_one_restore_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let target = Target::check(&path).unwrap();
        let file = target.open_partial().unwrap();
        assert!(matches!(target.open_partial(), Err(TargetError::Busy(_))));
        std::fs::write(&path, b"somebody else's").unwrap();
        assert!(matches!(target.publish(&file), Err(TargetError::Exists(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
        std::fs::remove_file(&path).unwrap();
        target.publish(&file).unwrap();
        assert!(path.exists() && !target.partial_path().exists());
    }
}
