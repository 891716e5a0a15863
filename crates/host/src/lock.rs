//! One daemon per state directory: an advisory lock that the kernel releases when its holder ends.
//!
//! The lock file stays when the lock is released (removing it would let two holders lock two
//! files); it carries the holder's process id for people, never for a decision.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// The state directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "{} is in use by another agent (process {holder}): two agents must not write one state directory; \
         stop that one or give this one a state_dir of its own",
        folder.display()
    )]
    Held {
        /// The state directory.
        folder: PathBuf,
        /// The holder's process id as its lock file tells it, or `unknown`.
        holder: String,
    },
    /// The system refused.
    #[error("can't lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The right to use a state directory; released when dropped.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct StateLock {
    /// Held open: closing it releases the lock.
    _file: File,
    path: PathBuf,
}

const LOCK_FILE: &str = "lock";

impl StateLock {
    /// Takes the lock of `folder`, which must exist, without waiting.
    ///
    /// # Errors
    /// [`LockError::Held`] when somebody else has it.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(LOCK_FILE);
        let io = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LockError::Held {
                    folder: folder.to_owned(),
                    holder: holder(&mut file),
                });
            }
            Err(error) => return Err(io(error.into())),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(io)?;
        Ok(Self { _file: file, path })
    }

    /// Whether somebody holds the lock of `folder` now: is a daemon alive?
    #[must_use]
    pub fn is_held(folder: &Path) -> bool {
        let Ok(file) = File::open(folder.join(LOCK_FILE)) else {
            return false;
        };
        // A shared try-lock: two who ask at once don't see each other as holders.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => false,
            Err(error) => error == rustix::io::Errno::WOULDBLOCK,
        }
    }

    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(20).read_to_string(&mut text) {
        Ok(read) if read > 0 => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!StateLock::is_held(folder.path()));
        let lock = StateLock::take(folder.path()).unwrap();
        assert!(StateLock::is_held(folder.path()));
        let refused = StateLock::take(folder.path()).unwrap_err().to_string();
        assert!(
            refused.contains(&std::process::id().to_string()),
            "{refused}"
        );
        drop(lock);
        assert!(!StateLock::is_held(folder.path()));
        drop(StateLock::take(folder.path()).unwrap());
    }
}
