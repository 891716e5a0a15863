//! Small local files: written whole or not at all, and secrets read only when they are private.
//!
//! Crash consistency: [`write_atomic`] goes temp file, fsync, rename, fsync of the folder. After a
//! crash the old or the new content stands there, never a part; at most a stray `.NAME.tmp` is left,
//! which the next write of the same file replaces.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Mode of a file that only its owner may read.
pub const PRIVATE: u32 = 0o600;
/// Mode of a file that everyone may read.
pub const PUBLIC: u32 = 0o644;

/// No secret of ours is longer; a larger file is a mistake and isn't read into memory.
const PRIVATE_BYTES_MAX: u64 = 64 * 1024;

/// A local file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused an operation.
    #[error("can't {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A secret that others may read.
    #[error(
        "{} holds a secret and its mode {mode:04o} lets others read it; run: chmod 600 {}",
        path.display(), path.display()
    )]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A secret that is no plain file of a sensible size.
    #[error("{} is not a plain file of at most 64KiB: it can't be a key or a secret", path.display())]
    NotASecret {
        /// The file.
        path: PathBuf,
    },
}

impl FileError {
    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the file is simply not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the file was to be new and is there already.
    #[must_use]
    pub fn is_already_there(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    }

    /// Whether the disk or the quota is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Io { source, .. } if full.contains(&source.kind()))
    }
}

/// Replaces the file at `path` by one that holds `bytes` and has `mode`, durably.
///
/// # Errors
/// [`FileError::Io`]; the old file is then untouched.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let temp = temp_beside(path);
    let written = write_synced(&temp, bytes, mode)
        .and_then(|()| std::fs::rename(&temp, path).map_err(FileError::io("rename to", path)));
    if written.is_err() {
        // Best effort: the write's own error is what the caller must see.
        drop(std::fs::remove_file(&temp));
    }
    written?;
    sync_folder(folder_of(path))
}

/// Creates the file at `path` with `bytes` and `mode`, durably; never replaces one.
///
/// # Errors
/// [`FileError::Io`]; see [`FileError::is_already_there`].
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let temp = temp_beside(path);
    let written = write_synced(&temp, bytes, mode)
        // A hard link, unlike a rename, fails when the name is taken.
        .and_then(|()| std::fs::hard_link(&temp, path).map_err(FileError::io("create", path)));
    drop(std::fs::remove_file(&temp));
    written?;
    sync_folder(folder_of(path))
}

/// A new file that is written piece by piece, for what is too large to be held in memory. Until
/// [`NewFile::finish`] nothing stands under its name; dropped before that it leaves nothing.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    temp: PathBuf,
    file: io::BufWriter<File>,
}

impl NewFile {
    /// Begins the file that is to be `path`.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn begin(path: &Path, mode: u32) -> Result<Self, FileError> {
        let temp = temp_beside(path);
        let file = create(&temp, mode)?;
        Ok(Self {
            path: path.to_owned(),
            temp,
            file: io::BufWriter::new(file),
        })
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let path = &self.path;
        self.file
            .write_all(bytes)
            .map_err(FileError::io("write", path))
    }

    /// Gives it its name, durably; never replaces one.
    ///
    /// # Errors
    /// [`FileError::Io`]; see [`FileError::is_already_there`].
    pub fn finish(mut self) -> Result<(), FileError> {
        let path = &self.path;
        self.file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all())
            .map_err(FileError::io("write", path))?;
        // A hard link, unlike a rename, fails when the name is taken.
        std::fs::hard_link(&self.temp, path).map_err(FileError::io("create", path))?;
        sync_folder(folder_of(path))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.temp));
    }
}

/// Makes the entries of `folder` durable.
///
/// # Errors
/// [`FileError::Io`].
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(FileError::io("sync folder", folder))
}

/// Makes `folder` and its parents; those that are made get mode 0700.
///
/// # Errors
/// [`FileError::Io`].
pub fn create_private_folder(folder: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(FileError::io("create folder", folder))
}

/// Reads a secret, and refuses one that its group or others may read.
///
/// Of a systemd credential (`$CREDENTIALS_DIRECTORY`) the group bits are not judged: systemd lets the
/// service's user read it by an access list, which shows there, and closes the folder itself.
///
/// # Errors
/// [`FileError::NotPrivate`] with the remedy, [`FileError::NotASecret`], [`FileError::Io`].
pub fn read_private(path: &Path) -> Result<Vec<u8>, FileError> {
    // Check what was opened, not what the name meant a moment before.
    let file = File::open(path).map_err(FileError::io("open", path))?;
    let meta = file.metadata().map_err(FileError::io("look at", path))?;
    if !meta.is_file() || meta.len() > PRIVATE_BYTES_MAX {
        return Err(FileError::NotASecret {
            path: path.to_owned(),
        });
    }
    let mode = meta.mode() & 0o7777;
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    if mode & forbidden_bits(path, credentials.as_deref()) != 0 {
        return Err(FileError::NotPrivate {
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = Vec::new();
    file.take(PRIVATE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(FileError::io("read", path))?;
    Ok(bytes)
}

/// The permission bits that a secret at `path` must not have.
fn forbidden_bits(path: &Path, credentials: Option<&Path>) -> u32 {
    match credentials {
        Some(folder) if folder.is_absolute() && path.starts_with(folder) => 0o007,
        _ => 0o077,
    }
}

/// Reads a file as text.
///
/// # Errors
/// [`FileError::Io`], also when it isn't UTF-8.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    std::fs::read_to_string(path).map_err(FileError::io("read", path))
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let mut file = create(path, mode)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(FileError::io("write", path))
}

fn create(path: &Path, mode: u32) -> Result<File, FileError> {
    // A stray one of a crash goes; then only a new file will do: in a folder that others may write
    // to, a file or link of theirs must not receive a secret.
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(FileError::io("remove", path)(error));
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(FileError::io("create", path))?;
    // The umask may have taken bits away.
    file.set_permissions(std::fs::Permissions::from_mode(mode))
        .map_err(FileError::io("write", path))?;
    Ok(file)
}

fn temp_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    folder_of(path).join(format!(".{name}.tmp"))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_the_mode_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write_atomic(&path, b"one", PUBLIC).unwrap();
        write_atomic(&path, b"two", PRIVATE).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no temp file stays"
        );
    }

    #[test]
    fn a_new_file_never_replaces_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_new(&path, b"first", PRIVATE).unwrap();
        let refused = write_new(&path, b"second", PRIVATE).unwrap_err();
        assert!(refused.is_already_there(), "{refused}");
        assert_eq!(read_private(&path).unwrap(), b"first");
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no temp file stays"
        );
    }

    #[test]
    fn a_file_in_pieces_stands_whole_or_not_at_all_and_never_replaces_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table");
        let left = || std::fs::read_dir(folder.path()).unwrap().count();
        let mut dropped = NewFile::begin(&path, PRIVATE).unwrap();
        dropped.write(b"half").unwrap();
        drop(dropped);
        assert_eq!(left(), 0, "nothing stays of one that was not finished");
        let mut file = NewFile::begin(&path, PRIVATE).unwrap();
        for piece in [&b"one,"[..], b"two"] {
            file.write(piece).unwrap();
            assert!(!path.exists());
        }
        file.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one,two");
        let second = NewFile::begin(&path, PRIVATE).unwrap();
        assert!(second.finish().unwrap_err().is_already_there());
        assert_eq!(left(), 1, "no temp file stays");
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        write_new(&path, b"secret", 0o640).unwrap();
        let refused = read_private(&path).unwrap_err().to_string();
        assert!(
            refused.contains("0640") && refused.contains("chmod 600"),
            "{refused}"
        );
    }

    #[test]
    fn a_secret_that_is_a_folder_or_huge_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            read_private(folder.path()),
            Err(FileError::NotASecret { .. })
        ));
        let huge = folder.path().join("huge");
        write_new(&huge, &vec![0; 70_000], PRIVATE).unwrap();
        assert!(matches!(
            read_private(&huge),
            Err(FileError::NotASecret { .. })
        ));
        assert!(
            read_private(&folder.path().join("none"))
                .unwrap_err()
                .is_not_found()
        );
    }
    #[test]
    fn a_secret_never_goes_through_a_link_that_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        std::fs::write(&elsewhere, b"").unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path().join(".key.tmp")).unwrap();
        write_new(&folder.path().join("key"), b"secret", PRIVATE).unwrap();
        assert_eq!(std::fs::read(&elsewhere).unwrap(), b"");
        assert_eq!(read_private(&folder.path().join("key")).unwrap(), b"secret");
    }

    #[test]
    fn of_a_systemd_credential_only_the_bits_of_others_are_judged() {
        let credentials = Some(Path::new("/run/credentials/tidemark-agent.service"));
        let inside = Path::new("/run/credentials/tidemark-agent.service/s3");
        assert_eq!(forbidden_bits(inside, credentials), 0o007);
        assert_eq!(
            forbidden_bits(Path::new("/etc/tidemark/identity"), credentials),
            0o077
        );
        assert_eq!(forbidden_bits(inside, None), 0o077);
        assert_eq!(forbidden_bits(Path::new("any"), Some(Path::new(""))), 0o077);
    }
}
