//! Files at their place and files ahead of it: temporary name, sync, rename, and never half a segment.
//!
//! The folder belongs to nobody but this command. Whatever goes wrong in it costs a request and no more.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use tidemark_host::files;

use super::folder_of;
use crate::error::Result;
use crate::target::TargetError;

/// The folder beside the place where the server wants its files: a name that no server reads.
const FOLDER: &str = ".tidemark-wal-get";
const LOCK: &str = "lock";
const ABSENT: &str = ".absent";
/// When the key's use was last put on record.
const RECORDED: &str = "recorded";
/// Of a segment's name.
const DIGITS: usize = 24;
/// Of which the first are the timeline's.
const TIMELINE_DIGITS: usize = 8;

/// What the folder knows of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// It is here.
    File,
    /// A moment ago there was none.
    Absent,
}

/// The folder of files fetched ahead.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The one beside `path`, made if it isn't there.
    pub(super) fn beside(path: &Path) -> Result<Self> {
        let folder = folder_of(path).join(FOLDER);
        files::create_private_folder(&folder)?;
        Ok(Self { folder })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn holds(&self, name: &str) -> bool {
        self.path(name).is_file()
    }

    pub(super) fn look(&self, name: &str, now: Timestamp, retry_seconds: u64) -> Option<Held> {
        if self.holds(name) {
            return Some(Held::File);
        }
        let note = files::read_text(&self.path(&format!("{name}{ABSENT}"))).ok()?;
        let noted: Timestamp = note.trim().parse().ok()?;
        let age = now.duration_since(noted);
        let fresh = !age.is_negative() && age.unsigned_abs().as_secs() < retry_seconds;
        fresh.then_some(Held::Absent)
    }

    /// Moves a file to where the server wants it.
    pub(super) fn take(&self, name: &str, to: &Path) -> Result<()> {
        let from = self.path(name);
        std::fs::rename(&from, to).map_err(failed("move a segment to", to))?;
        files::sync_folder(folder_of(to))?;
        Ok(())
    }

    /// Notes that there is no such file. If the note is lost, it is asked for again.
    pub(super) fn note_absent(&self, name: &str, now: Timestamp) {
        let note = self.path(&format!("{name}{ABSENT}"));
        drop(std::fs::write(note, now.to_string()));
    }

    /// Whether the key's use was not put on record for so long.
    pub(super) fn is_unrecorded(&self, now: Timestamp, seconds: u64) -> bool {
        let noted = files::read_text(&self.path(RECORDED)).ok();
        let noted: Option<Timestamp> = noted.and_then(|text| text.trim().parse().ok());
        noted.is_none_or(|at| now.duration_since(at).unsigned_abs().as_secs() >= seconds)
    }

    /// Notes that it was. If the note is lost, there is one more record.
    pub(super) fn note_recorded(&self, now: Timestamp) {
        drop(std::fs::write(self.path(RECORDED), now.to_string()));
    }

    /// Whole segments that are here.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.segments().count()).unwrap_or(u32::MAX)
    }

    /// Takes away what replay has passed: segments of the same timeline before `name`.
    pub(super) fn forget_before(&self, name: &str) {
        let timeline = name.get(..TIMELINE_DIGITS);
        for held in self.segments() {
            if held.get(..TIMELINE_DIGITS) == timeline && held.as_str() < name {
                drop(std::fs::remove_file(self.path(&held)));
            }
        }
    }

    fn segments(&self) -> impl Iterator<Item = String> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten();
        entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let plain = name.bytes().all(|byte| byte.is_ascii_hexdigit());
            (plain && name.len() == DIGITS).then_some(name)
        })
    }

    /// The right to fetch ahead, held as long as the file is open; none if another process has it.
    pub(super) fn lock(&self) -> Result<Option<File>> {
        let path = self.path(LOCK);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(failed("lock", &path)(errno.into())),
        }
    }
}

/// Makes a file at `path` by way of a temporary one, synced before it gets its name.
pub(super) fn put(path: &Path, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let temporary = Temporary::beside(path)?;
    let mut file = temporary.file.try_clone().map_err(failed("write", path))?;
    fill(&mut file)?;
    temporary.publish(path)
}

pub(super) fn write_all(file: &mut File, bytes: &[u8]) -> Result<()> {
    file.write_all(bytes)
        .map_err(failed("write", Path::new("a history")))
}

/// A file that has no name yet; it goes if it never gets one.
pub(super) struct Temporary {
    pub(super) file: File,
    path: PathBuf,
    named: bool,
}

impl Temporary {
    pub(super) fn beside(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Of this process alone: another one may fetch the same file ahead.
        let own = std::process::id();
        let path = folder_of(path).join(format!(".tidemark-{name}.{own}"));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(failed("create", &path))?;
        Ok(Self {
            file,
            path,
            named: false,
        })
    }

    pub(super) fn publish(mut self, path: &Path) -> Result<()> {
        self.file.sync_all().map_err(failed("sync", &self.path))?;
        std::fs::rename(&self.path, path).map_err(failed("name", path))?;
        self.named = true;
        files::sync_folder(folder_of(path))?;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.named {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

pub(super) fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> crate::error::Error + use<'a> {
    move |source| {
        TargetError::Io {
            action,
            path: path.to_owned(),
            source,
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "000000010000000000000003";

    fn now(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    #[test]
    fn an_answer_no_such_file_holds_for_a_moment() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::beside(&folder.path().join("RECOVERYXLOG")).unwrap();
        assert_eq!(cache.look(ONE, now(0), 5), None);
        cache.note_absent(ONE, now(0));
        assert_eq!(cache.look(ONE, now(4), 5), Some(Held::Absent));
        assert_eq!(cache.look(ONE, now(5), 5), None);
        assert_eq!(cache.look(ONE, now(-1), 5), None, "the clock was set back");
    }

    #[test]
    fn a_file_gets_its_name_when_it_is_whole_and_leaves_nothing_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("RECOVERYXLOG");
        let cut = put(&to, |file| {
            write_all(file, b"half").unwrap();
            Err(crate::error::Error::Interrupted)
        });
        assert!(cut.is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        put(&to, |file| write_all(file, b"whole")).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"whole");
    }

    #[test]
    fn what_was_fetched_ahead_is_moved_and_what_replay_passed_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("RECOVERYXLOG");
        let cache = Cache::beside(&to).unwrap();
        for number in 3..7 {
            let name = format!("0000000100000000000000{number:02}");
            put(&cache.path(&name), |file| write_all(file, name.as_bytes())).unwrap();
        }
        let lock = cache.lock().unwrap();
        assert!(lock.is_some() && cache.lock().unwrap().is_none());
        assert_eq!(cache.count(), 4);
        cache.take("000000010000000000000005", &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"000000010000000000000005");
        cache.forget_before("000000010000000000000005");
        assert_eq!(cache.count(), 1);
        assert_eq!(
            cache.look("000000010000000000000006", now(0), 5),
            Some(Held::File)
        );
    }
}
