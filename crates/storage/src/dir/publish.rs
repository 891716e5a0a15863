//! How a file comes to stand under its name: temp, fsync, no-replace rename, fsync of the folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::SystemTime;

use jiff::Timestamp;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use tidemark_format::{Key, PutId};

use super::{Inner, TEMPORARY, failed, sync_dir};
use crate::{Created, Error, Op, Result};

/// Unfinished files of this age belong to nobody: no create takes a day.
const TEMPORARY_SECONDS_MAX: i64 = 86_400;

/// Objects are never written again: even their owner's editor asks first.
const OBJECT_MODE: u32 = 0o444;

/// Bytes compared at a time with an object that is there already.
const COMPARE_BYTES: usize = 64 << 10;

enum Renamed {
    Won,
    Taken,
}

impl Inner {
    /// Stores `body` under `key`; see the module of [`super::DirStore`].
    pub(super) fn publish(&self, key: &Key, body: &[u8], put: &PutId) -> Result<Created> {
        let fail = |error: io::Error| failed(&self.place, Op::Create, key.as_str(), error);
        if !self.root_is_there() {
            return Err(fail(io::Error::from(io::ErrorKind::NotFound)));
        }
        let target = self.path(key);
        let folder = target.parent().unwrap_or(&self.root).to_owned();
        self.make_durable_dir(&folder).map_err(fail)?;
        // Most often nothing is there; when our own earlier try is, nothing needs to be written.
        if target.symlink_metadata().is_ok() {
            return self.judge_existing(key, &target, &folder, body);
        }
        let temporary = self.temporary_path(put).map_err(fail)?;
        let renamed =
            write_synced(&temporary, body).and_then(|()| rename_noreplace(&temporary, &target));
        if !matches!(renamed, Ok(Renamed::Won)) {
            // Best effort: what can't be removed now is swept when the store is next opened.
            drop(fs::remove_file(&temporary));
        }
        match renamed.map_err(fail)? {
            Renamed::Won => {
                sync_dir(&folder).map_err(fail)?;
                Ok(Created::New)
            }
            Renamed::Taken => self.judge_existing(key, &target, &folder, body),
        }
    }

    /// Equal bytes are our own earlier try, whose folder may not be durable yet.
    fn judge_existing(
        &self,
        key: &Key,
        target: &Path,
        folder: &Path,
        body: &[u8],
    ) -> Result<Created> {
        let fail = |error: io::Error| failed(&self.place, Op::Create, key.as_str(), error);
        let taken = || Error::Exists {
            place: self.place.clone(),
            key: key.to_string(),
            put_id: None,
        };
        let found = target.symlink_metadata().map_err(fail)?;
        if !found.is_file() || found.len() != body.len() as u64 {
            return Err(taken());
        }
        match same_bytes(target, body) {
            Ok(true) => {
                sync_dir(folder).map_err(fail)?;
                Ok(Created::AlreadyMine)
            }
            // What we may not read we didn't write.
            Ok(false) => Err(taken()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(taken()),
            Err(error) => Err(fail(error)),
        }
    }

    fn temporary_path(&self, put: &PutId) -> io::Result<PathBuf> {
        let folder = self.root.join(TEMPORARY);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let name = format!("{put}-{}-{}", std::process::id(), self.next_serial());
        Ok(folder.join(name))
    }

    /// Makes `folder` and fsyncs every entry up to the root, once per process: one that exists may
    /// be the work of a process that crashed before its fsync.
    fn make_durable_dir(&self, folder: &Path) -> io::Result<()> {
        {
            let known = self
                .durable_dirs
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if folder == self.root || known.contains(folder) {
                // Somebody may have removed it since; creating costs nothing then.
                if folder.is_dir() {
                    return Ok(());
                }
            }
        }
        let Some(parent) = folder.parent() else {
            return Ok(());
        };
        self.make_durable_dir(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        sync_dir(parent)?;
        self.durable_dirs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(folder.to_owned());
        Ok(())
    }

    /// See [`super::DirStore::sweep_temporary`].
    pub(super) fn sweep(&self, now: Timestamp) -> Result<usize> {
        let fail = |error: io::Error| failed(&self.place, Op::List, TEMPORARY, error);
        let entries = match fs::read_dir(self.root.join(TEMPORARY)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(fail(error)),
        };
        let mut removed = 0;
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let changed = entry.metadata().and_then(|found| found.modified());
            let old = changed.is_ok_and(|at| is_old(at, now));
            if old && fs::remove_file(entry.path()).is_ok() {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn is_old(changed: SystemTime, now: Timestamp) -> bool {
    let changed = changed
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok());
    changed.is_some_and(|at| now.as_second().saturating_sub(at) >= TEMPORARY_SECONDS_MAX)
}

fn write_synced(path: &Path, body: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OBJECT_MODE)
        .open(path)?;
    file.write_all(body)?;
    file.sync_all()
}

/// Gives `from` the name `to` unless something has it. Exactly one racer wins.
fn rename_noreplace(from: &Path, to: &Path) -> io::Result<Renamed> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(Renamed::Won),
        Err(Errno::EXIST) => Ok(Renamed::Taken),
        // File systems without the flag (NFS, some FUSE) say one of these.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_and_unlink(from, to),
        Err(error) => Err(error.into()),
    }
}

fn link_and_unlink(from: &Path, to: &Path) -> io::Result<Renamed> {
    match fs::hard_link(from, to) {
        Ok(()) => {
            fs::remove_file(from)?;
            Ok(Renamed::Won)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Renamed::Taken),
        Err(error) => Err(error),
    }
}

fn same_bytes(path: &Path, body: &[u8]) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; COMPARE_BYTES];
    let mut rest = body;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(rest.is_empty());
        }
        let (Some(ours), Some(theirs)) = (rest.get(..read), buffer.get(..read)) else {
            return Ok(false);
        };
        if ours != theirs {
            return Ok(false);
        }
        rest = rest.get(read..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_and_unlink_lets_one_racer_win_where_rename_cannot_refuse() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("1"), folder.path().join("2"));
        let target = folder.path().join("object");
        write_synced(&first, b"first").unwrap();
        write_synced(&second, b"second").unwrap();

        assert!(matches!(link_and_unlink(&first, &target), Ok(Renamed::Won)));
        assert!(matches!(
            link_and_unlink(&second, &target),
            Ok(Renamed::Taken)
        ));

        assert_eq!(fs::read(&target).unwrap(), b"first");
        assert!(!first.exists());
    }

    #[test]
    fn equal_bytes_are_told_from_longer_shorter_and_different_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        let body = vec![7u8; COMPARE_BYTES + 1];
        write_synced(&path, &body).unwrap();
        assert!(same_bytes(&path, &body).unwrap());
        assert!(!same_bytes(&path, &body[1..]).unwrap());
        assert!(!same_bytes(&path, &[&body[..], b"x"].concat()).unwrap());
        let mut flipped = body;
        flipped[COMPARE_BYTES] = 8;
        assert!(!same_bytes(&path, &flipped).unwrap());
    }
}
