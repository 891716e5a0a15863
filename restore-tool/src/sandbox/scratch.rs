//! Where a drill's database stands: in memory, on an encrypted volume, or in a plain folder.
//!
//! **Invariants.** It is private to the one user that the database runs as. It is gone afterwards, and that
//! was looked at: no entry of its name, no process that keeps a file of it open, no volume. A scratch that
//! can't be destroyed is an error that names what is in the way.
//!
//! **Crash consistency.** A killed drill leaves its scratch. [`Scratch::adopt`] takes it over, so that the
//! next command destroys it; nothing without our mark is ever touched.

mod volume;

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemark_host::{Clock, Rng, RngExt as _};

use super::error::SandboxError;
use super::passwd::Account;
use volume::Volume;

/// What every scratch is called, with a random end.
const NAME: &str = "tidemark-drill-";
/// Stands in every scratch.
const MARK: &str = ".tidemark-scratch";
/// Where memory is a file system.
const MEMORY: &str = "/dev/shm";
/// Where a scratch goes that doesn't fit into memory, unless a service has a folder of its own.
const DISK: &str = "/var/tmp";
/// A service's scratches lie in folders that the unit of its sandbox sees, and nothing beside them: this one in
/// memory,
const SERVICE: &str = "tidemark-restore";
/// and this one in its state directory. `tidemark-sandbox@.service` names both.
const BELOW_STATE: &str = "scratch";
/// What a file system in memory says it is.
const TMPFS: u64 = 0x0102_1994;
/// Beside what is restored: the server's own files, logs, sorting.
const BESIDE_BYTES: u64 = 256 << 20;
/// A scratch in memory leaves as much for everything else.
const SHARE_OF_MEMORY: u64 = 2;
/// How long a server's last process may keep files.
const HELD_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a scratch is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Memory.
    Tmpfs,
    /// A volume whose key nobody has.
    Encrypted,
    /// A folder on a disk.
    Plain,
}

/// What scratch is wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The folder that it is made in; if none is named memory, or else a folder of the service's state directory,
    /// or else `/var/tmp`.
    pub folder: Option<PathBuf>,
    /// Bytes that are restored into it.
    pub bytes: u64,
}

/// A scratch. It is removed when this is dropped; [`Scratch::destroy`] says whether that worked.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    kind: Kind,
    account: Option<Account>,
    volume: Option<Volume>,
    is_gone: bool,
}

/// That a scratch is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destroyed {
    /// How.
    pub method: String,
    /// Whether nothing of its name is there any more, and nobody holds a file of it.
    pub verified_absent: bool,
    /// Whether the key of an encrypted volume is gone, if it was one.
    pub scratch_key_destroyed: Option<bool>,
    /// How long it took.
    pub took_ms: u64,
}

impl Scratch {
    /// Makes one where there is room.
    ///
    /// # Errors
    /// [`SandboxError::NoRoom`], [`SandboxError::Unreachable`], [`SandboxError::Io`].
    pub fn make(wanted: &Wanted, rng: &dyn Rng) -> Result<Self, SandboxError> {
        Self::make_noted(wanted, rng, |_path| {})
    }

    /// The same; `note` is told where before anything is there, so that whoever is killed leaves nothing that
    /// nobody knows of.
    ///
    /// # Errors
    /// As [`Self::make`].
    pub fn make_noted(
        wanted: &Wanted,
        rng: &dyn Rng,
        note: impl FnOnce(&Path),
    ) -> Result<Self, SandboxError> {
        let needed = wanted
            .bytes
            .saturating_add(wanted.bytes / 8)
            .saturating_add(BESIDE_BYTES);
        let account = Account::unprivileged();
        let name = format!("{NAME}{:016x}", u64::from_le_bytes(rng.bytes()));
        let parent = place(wanted.folder.as_deref(), needed)?;
        let path = parent.join(name);
        if let Some(account) = &account {
            reachable(&parent, account)?;
        }
        let is_memory = is_tmpfs(&parent);
        note(&path);
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| not_made(&parent, source))?;
        let mut scratch = Self {
            kind: if is_memory { Kind::Tmpfs } else { Kind::Plain },
            path,
            account,
            volume: None,
            is_gone: false,
        };
        if !is_memory && let Some(volume) = Volume::make(&scratch.path, needed, rng) {
            scratch.kind = Kind::Encrypted;
            scratch.volume = Some(volume);
        }
        scratch.furnish()?;
        Ok(scratch)
    }

    fn furnish(&self) -> Result<(), SandboxError> {
        // A volume's own root is open to all.
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o700))
            .map_err(SandboxError::io("close the scratch to others", &self.path))?;
        self.mark()
            .map_err(SandboxError::io("mark the scratch", &self.path))?;
        for folder in [self.path.clone(), self.job()] {
            if folder != self.path {
                let made = DirBuilder::new().mode(0o700).create(&folder);
                made.map_err(SandboxError::io("make the scratch", &folder))?;
            }
            self.give(&folder)?;
        }
        Ok(())
    }

    fn mark(&self) -> std::io::Result<()> {
        let words = "A drill's scratch. It holds production data: remove it.\n";
        std::fs::write(self.path.join(MARK), words)
    }

    /// Takes over what a drill left that was killed; none if `path` is no scratch of ours.
    #[must_use]
    pub fn adopt(path: &Path) -> Option<Self> {
        let named = path.file_name()?.to_str()?.starts_with(NAME);
        let is_folder = path.symlink_metadata().is_ok_and(|there| there.is_dir());
        let volume = Volume::adopt(path);
        let marked = path.join(MARK).is_file() || volume.is_some();
        (named && is_folder && marked).then(|| Self {
            kind: match (&volume, is_tmpfs(path)) {
                (Some(_), _) => Kind::Encrypted,
                (None, true) => Kind::Tmpfs,
                (None, false) => Kind::Plain,
            },
            path: path.to_path_buf(),
            account: Account::unprivileged(),
            volume,
            is_gone: false,
        })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the database is to be called in it: nothing is there yet.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// The folder of the sandbox's own files.
    #[must_use]
    pub fn job(&self) -> PathBuf {
        self.path.join("job")
    }

    /// What it is made of.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// As records write it, with what weakens it.
    #[must_use]
    pub fn describe(&self) -> &'static str {
        match self.kind {
            Kind::Tmpfs if swaps() => "memory, which this host may swap to a disk",
            Kind::Tmpfs => "memory",
            Kind::Encrypted => "a volume encrypted with a key that nobody kept",
            Kind::Plain => "a folder on a disk, not encrypted by us",
        }
    }

    pub(super) const fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    /// Gives a file or folder, and what is in it, to the user that the database runs as.
    pub(super) fn give(&self, path: &Path) -> Result<(), SandboxError> {
        let Some(account) = &self.account else {
            return Ok(());
        };
        let io = || SandboxError::io("give to another user", path);
        let there = path.symlink_metadata().map_err(io())?;
        if there.uid() != account.uid || there.gid() != account.gid {
            std::os::unix::fs::lchown(path, Some(account.uid), Some(account.gid)).map_err(io())?;
        }
        if !there.is_dir() {
            return Ok(());
        }
        for entry in std::fs::read_dir(path).map_err(io())? {
            self.give(&entry.map_err(io())?.path())?;
        }
        Ok(())
    }

    /// Whether a process has a file of it open.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !holders(&self.path).is_empty()
    }

    /// Leaves it to whoever comes later.
    pub fn forget(mut self) {
        self.is_gone = true;
    }

    /// Removes it, and looks whether it is gone. Blocks.
    ///
    /// # Errors
    /// [`SandboxError::NotDestroyed`] with what is in the way.
    pub fn destroy(mut self, clock: &dyn Clock) -> Result<Destroyed, SandboxError> {
        let began = clock.monotonic();
        let not = |why: String| SandboxError::NotDestroyed {
            path: self.path.clone(),
            why,
        };
        // Not again when this is dropped: the error says what to do.
        self.is_gone = true;
        let mut held = holders(&self.path);
        while !held.is_empty() && clock.monotonic().since(began) < HELD_MAX {
            std::thread::sleep(LOOK_EVERY);
            held = holders(&self.path);
        }
        if !held.is_empty() {
            let processes: Vec<String> = held.iter().map(u32::to_string).collect();
            return Err(not(format!(
                "process {} still uses it",
                processes.join(", ")
            )));
        }
        let mut scratch_key_destroyed = None;
        if let Some(volume) = self.volume.take() {
            volume.close().map_err(not)?;
            scratch_key_destroyed = Some(true);
        }
        let mounts = mounts_below(&self.path);
        let removed = clear(&self.path, &mounts);
        if removed.is_err() || self.path.symlink_metadata().is_ok() {
            // So that the next command finds it by its mark, and tries again.
            self.mark().ok();
            return Err(not(match (mounts.first(), removed) {
                (Some(mount), _) => format!(
                    "{} is mounted in it, and what is there was left alone: unmount it",
                    mount.display()
                ),
                (None, Err(error)) => error.to_string(),
                (None, Ok(())) => "it is still there".to_owned(),
            }));
        }
        let took = clock.monotonic().since(began);
        Ok(Destroyed {
            method: match self.kind {
                Kind::Tmpfs => "removed from memory",
                Kind::Encrypted => "volume closed, its key gone with it, image removed",
                Kind::Plain => "files removed; the disk may keep their blocks until it reuses them",
            }
            .to_owned(),
            verified_absent: true,
            scratch_key_destroyed,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_gone {
            return;
        }
        // Whoever wanted to know whether it is gone called `destroy`.
        if let Some(volume) = self.volume.take() {
            volume.close().ok();
        }
        clear(&self.path, &mounts_below(&self.path)).ok();
    }
}

/// Why no scratch could be made in a folder: most often nobody let this user, or this service, write there.
fn not_made(folder: &Path, source: std::io::Error) -> SandboxError {
    match source.kind() {
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => SandboxError::NotWritable {
            folder: folder.to_path_buf(),
            source,
        },
        _ => SandboxError::io("make the scratch", folder)(source),
    }
}

/// Where a scratch of this size fits.
fn place(named: Option<&Path>, needed: u64) -> Result<PathBuf, SandboxError> {
    if let Some(folder) = named {
        std::fs::create_dir_all(folder).map_err(|source| not_made(folder, source))?;
        let folder = folder
            .canonicalize()
            .map_err(SandboxError::io("look at the folder", folder))?;
        let free = room(&folder)?;
        return if free >= needed {
            Ok(folder)
        } else {
            Err(SandboxError::NoRoom {
                path: folder,
                free,
                needed,
            })
        };
    }
    let state = tidemark_host::config::state_directory();
    let memory = Path::new(MEMORY);
    let fits = is_tmpfs(memory)
        && room(memory).is_ok_and(|free| free >= needed)
        && available_memory() / SHARE_OF_MEMORY >= needed;
    if fits {
        match state.is_some() {
            false => return Ok(memory.to_path_buf()),
            // Somebody else's by that name is no reason not to drill.
            true => {
                if let Some(own) = own_folder(&memory.join(SERVICE)) {
                    return Ok(own);
                }
            }
        }
    }
    let disk = state.map_or_else(|| DISK.into(), |state| state.join(BELOW_STATE));
    place(Some(&disk), needed)
}

/// A folder that is this user's alone, made if it isn't there. Others may pass through root's: as root a restored
/// server runs as another user.
fn own_folder(path: &Path) -> Option<PathBuf> {
    let user = rustix::process::geteuid();
    let mode = if user.is_root() { 0o711 } else { 0o700 };
    // Whether there was one already shows in what is there.
    if DirBuilder::new().mode(mode).create(path).is_ok() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).ok()?;
    }
    let there = path.symlink_metadata().ok()?;
    let is_ours = there.is_dir()
        && there.uid() == user.as_raw()
        && there.permissions().mode() & 0o777 == mode;
    is_ours.then(|| path.to_path_buf())
}

fn room(folder: &Path) -> Result<u64, SandboxError> {
    let stat = rustix::fs::statvfs(folder)
        .map_err(|error| SandboxError::io("measure the folder", folder)(error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn is_tmpfs(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|stat| u64::try_from(stat.f_type).ok() == Some(TMPFS))
}

fn available_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0).saturating_mul(1024)
}

/// Whether memory may go to a disk.
fn swaps() -> bool {
    let text = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    text.lines().nth(1).is_some()
}

/// Every folder up to the root must let the user through.
fn reachable(folder: &Path, account: &Account) -> Result<(), SandboxError> {
    for above in folder.ancestors() {
        let there = above
            .metadata()
            .map_err(SandboxError::io("look at the folder", above))?;
        let mode = there.permissions().mode();
        let passes = mode & 0o001 != 0
            || (there.uid() == account.uid && mode & 0o100 != 0)
            || (there.gid() == account.gid && mode & 0o010 != 0);
        if !passes {
            return Err(SandboxError::Unreachable {
                path: above.to_path_buf(),
                user: account.name.clone(),
            });
        }
    }
    Ok(())
}

/// Processes, this one aside, that have a file below `path` open or stand in it, as far as this user may see.
fn holders(path: &Path) -> Vec<u32> {
    let own = std::process::id();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|process| *process != own && holds(*process, path))
        .collect()
}

fn holds(process: u32, path: &Path) -> bool {
    let leads = |link: PathBuf| std::fs::read_link(link).is_ok_and(|to| to.starts_with(path));
    if leads(format!("/proc/{process}/cwd").into()) {
        return true;
    }
    let open = std::fs::read_dir(format!("/proc/{process}/fd"));
    open.into_iter()
        .flatten()
        .flatten()
        .any(|entry| leads(entry.path()))
}

/// Where something is mounted below `path`, in this process's view.
fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = text.lines().filter_map(|line| line.split(' ').nth(4));
    let below = places.map(|place| PathBuf::from(unescaped(place)));
    below
        .filter(|place| place != path && place.starts_with(path))
        .collect()
}

/// A path as the system lists mounts: blanks and backslashes stand as octal numbers.
fn unescaped(place: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(place.to_owned(), |text, (code, character)| {
        text.replace(code, character)
    })
}

/// Removes a scratch, its mark last: whoever is killed meanwhile leaves one that is known.
fn clear(path: &Path, mounts: &[PathBuf]) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path(), mounts)?;
        } else if entry.file_name() != MARK && !mounts.contains(&entry.path()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    if !mounts.is_empty() {
        return Ok(());
    }
    match std::fs::remove_file(path.join(MARK)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => std::fs::remove_dir(path),
    }
}

/// Removes a folder with all that is in it, but for what is mounted there: that may be somebody's
/// precious data. What a server closed to itself is opened first.
fn remove(path: &Path, mounts: &[PathBuf]) -> std::io::Result<()> {
    if mounts.iter().any(|mount| mount == path) {
        return Ok(());
    }
    if mounts.iter().any(|mount| mount.starts_with(path)) {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                remove(&entry.path(), mounts)?;
            } else if !mounts.contains(&entry.path()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        return Ok(());
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            open_up(path);
            std::fs::remove_dir_all(path)
        }
        removed => removed,
    }
}

fn open_up(folder: &Path) {
    // What can't be opened can't be removed either, and that is told then.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).ok();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use tidemark_host::{SystemClock, SystemRng};

    fn made(folder: &Path) -> Scratch {
        let wanted = Wanted {
            folder: Some(folder.to_path_buf()),
            bytes: 1000,
        };
        Scratch::make(&wanted, &SystemRng).unwrap()
    }

    /// A folder that the unprivileged user may pass through.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    #[test]
    fn a_folder_is_a_users_own_only_if_nobody_else_can_look_into_it() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        assert_eq!(own_folder(&own), Some(own.clone()));
        assert_eq!(own_folder(&own), Some(own.clone()), "it is there already");
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(own_folder(&own), None);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert_eq!(own_folder(&link), None);
    }

    #[test]
    fn a_small_scratch_is_made_of_memory_and_is_private_and_gone_afterwards() {
        let scratch = Scratch::make(&Wanted::default(), &SystemRng).unwrap();
        let path = scratch.path().to_path_buf();
        if is_tmpfs(Path::new(MEMORY)) && available_memory() > 4 * BESIDE_BYTES {
            assert_eq!(scratch.kind(), Kind::Tmpfs);
        }
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        std::fs::create_dir(scratch.data()).unwrap();
        std::fs::write(scratch.data().join("1259"), "pages").unwrap();
        let destroyed = scratch.destroy(&SystemClock).unwrap();
        assert!(destroyed.verified_absent && !path.exists());
    }

    #[test]
    fn what_a_server_closed_to_itself_is_removed_all_the_same() {
        let dir = folder();
        let scratch = made(dir.path());
        let closed = scratch.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::write(closed.join("x"), "").unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
        scratch.destroy(&SystemClock).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_scratch_that_somebody_uses_is_not_called_destroyed() {
        let dir = folder();
        let scratch = made(dir.path());
        let path = scratch.path().to_path_buf();
        let mut user = Command::new("sleep")
            .arg("600")
            .current_dir(&path)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        // The clock stands still but for what is asked of it: nobody waits ten seconds here.
        let clock = Hurried::default();
        let error = scratch.destroy(&clock).unwrap_err();
        let text = error.to_string();
        user.kill().unwrap();
        user.wait().unwrap();
        assert!(text.contains(&format!("process {}", user.id())), "{text}");
        assert!(text.contains("remove it by hand"), "{text}");
        assert!(path.exists(), "an error leaves it to people");
        let left = Scratch::adopt(&path).expect("it bears our mark");
        left.destroy(&SystemClock).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn places_of_mounts_are_read_as_they_are_called() {
        assert_eq!(unescaped("/a\\040b\\134c"), "/a b\\c");
        assert!(mounts_below(Path::new("/")).contains(&PathBuf::from("/proc")));
        assert!(mounts_below(Path::new("/proc/self/nothing")).is_empty());
    }

    #[test]
    fn nothing_without_our_mark_is_ever_taken_over() {
        let dir = folder();
        let other = dir.path().join(format!("{NAME}0"));
        std::fs::create_dir(&other).unwrap();
        assert!(Scratch::adopt(&other).is_none());
        std::fs::write(other.join(MARK), "").unwrap();
        let elsewhere = dir.path().join("precious");
        std::fs::rename(&other, &elsewhere).unwrap();
        assert!(Scratch::adopt(&elsewhere).is_none());
        assert!(Scratch::adopt(&dir.path().join("none")).is_none());
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_is_missing() {
        let dir = folder();
        let wanted = Wanted {
            folder: Some(dir.path().to_path_buf()),
            bytes: u64::MAX / 4,
        };
        let error = Scratch::make(&wanted, &SystemRng).unwrap_err();
        assert!(matches!(error, SandboxError::NoRoom { .. }), "{error}");
    }

    #[test]
    fn a_forgotten_scratch_goes_with_whoever_forgot_it() {
        let dir = folder();
        drop(made(dir.path()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn as_root_the_user_must_be_able_to_get_there() {
        let dir = folder();
        let account = Account {
            name: "nobody".to_owned(),
            uid: 65_534,
            gid: 65_534,
        };
        reachable(dir.path(), &account).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let error = reachable(dir.path(), &account).unwrap_err();
        assert!(error.to_string().contains("nobody"), "{error}");
    }

    /// Every look at it is seconds later.
    #[derive(Debug)]
    struct Hurried(tidemark_host::SimClock);

    impl Default for Hurried {
        fn default() -> Self {
            Self(tidemark_host::SimClock::at(jiff::Timestamp::UNIX_EPOCH))
        }
    }

    impl Clock for Hurried {
        fn now(&self) -> jiff::Timestamp {
            self.0.now()
        }

        fn monotonic(&self) -> tidemark_host::Monotonic {
            self.0.advance(Duration::from_secs(6));
            self.0.monotonic()
        }

        fn since_boot(&self) -> Duration {
            self.0.since_boot()
        }

        fn ntp(&self) -> tidemark_host::NtpState {
            self.0.ntp()
        }
    }
}
