//! How a sandbox can be made on this host: what there is, tried out, the best first.
//!
//! ```text
//! systemd-unit tidemark-sandbox@.service, which tidemark-sandbox.socket starts for each connection: other
//!              mounts, another network, the service manager's own limits; the fetching service needs no
//!              right but to connect
//! root         unshare: network, processes, mounts of its own, /run and secrets hidden, then another user
//! user         the same in a user namespace, as the same user
//! user-plain   a user namespace with a network of its own, and nothing hidden
//! ```
//!
//! Each is tried with a program that does nothing, the unit by looking for its socket; what fails is kept, with
//! the reason, for the record.

use std::ffi::OsString;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::passwd::Account;

/// Hides what is named before `--` and becomes what is named after it.
const HIDE: &str = r#"set -e
while [ "$1" != "--" ]; do
  if [ -d "$1" ]; then mount -t tmpfs -o ro,mode=755 tmpfs "$1"; else mount --bind /dev/null "$1"; fi
  shift
done
shift
exec "$@""#;
/// Sockets of the host's services lie there.
const SOCKETS: &str = "/run";
/// Where `tidemark-sandbox.socket` listens.
pub(super) const SOCKET: &str = "/run/tidemark-sandbox.sock";
/// Says that a service manager runs.
const SYSTEMD: &str = "/run/systemd/system";
const SAID_MAX: usize = 200;

/// How a sandbox is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A unit of systemd's.
    #[serde(rename = "systemd-unit")]
    Unit,
    /// By root, for another user.
    Root,
    /// In a user namespace, with secrets hidden.
    User,
    /// In a user namespace, nothing hidden.
    UserPlain,
    /// Not at all: for tests that show that this is noticed.
    #[doc(hidden)]
    None,
}

impl Method {
    /// As records write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unit => "systemd-unit",
            Self::Root => "root",
            Self::User => "user",
            Self::UserPlain => "user-plain",
            Self::None => "none",
        }
    }
}

/// A method that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// The method.
    pub method: String,
    /// What came of it.
    pub why: String,
}

impl Tried {
    pub(super) fn new(method: Method, why: impl Into<String>) -> Self {
        Self {
            method: method.name().to_owned(),
            why: why.into(),
        }
    }
}

/// What a sandbox is made for.
#[derive(Debug, Clone)]
pub(super) struct Inside {
    /// The scratch.
    pub(super) folder: PathBuf,
    /// As whom, if this process is root.
    pub(super) account: Option<Account>,
    /// What must not be seen.
    pub(super) hidden: Vec<PathBuf>,
}

/// Methods of this process, the best first.
pub(super) fn ladder(under_systemd: bool, is_root: bool) -> Vec<Method> {
    let mut methods = Vec::new();
    if under_systemd {
        methods.push(Method::Unit);
    }
    if is_root {
        methods.push(Method::Root);
    } else {
        methods.extend([Method::User, Method::UserPlain]);
    }
    methods
}

/// Whether this process is a service of systemd's, which may start another.
pub(super) fn is_under_systemd() -> bool {
    std::env::var_os("INVOCATION_ID").is_some() && Path::new(SYSTEMD).is_dir()
}

impl Inside {
    /// What stands before the program in the command that makes the sandbox.
    pub(super) fn before(&self, method: Method) -> Vec<OsString> {
        let user = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        let words: Vec<String> = match method {
            Method::Unit | Method::None => Vec::new(),
            Method::Root => {
                let (uid, gid) = self
                    .account
                    .as_ref()
                    .map_or((user, group), |account| (account.uid, account.gid));
                let last = vec![
                    "setpriv".to_owned(),
                    format!("--reuid={uid}"),
                    format!("--regid={gid}"),
                    "--clear-groups".to_owned(),
                    "--no-new-privs".to_owned(),
                    "--inh-caps=-all".to_owned(),
                    "--bounding-set=-all".to_owned(),
                    "--".to_owned(),
                ];
                return self.hiding(&[], last);
            }
            Method::User => {
                let last = vec![
                    "unshare".to_owned(),
                    "--user".to_owned(),
                    format!("--map-user={user}"),
                    format!("--map-group={group}"),
                    "--".to_owned(),
                    "setpriv".to_owned(),
                    "--no-new-privs".to_owned(),
                    "--".to_owned(),
                ];
                return self.hiding(&["--user", "--map-root-user"], last);
            }
            Method::UserPlain => ["unshare", "--user", "--map-current-user", "--net", "--"]
                .map(str::to_owned)
                .to_vec(),
        };
        words.into_iter().map(OsString::from).collect()
    }

    /// Everything of its own, what is hidden hidden, then `last`.
    fn hiding(&self, first: &[&str], last: Vec<String>) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["unshare".into()];
        words.extend(first.iter().map(OsString::from));
        words.extend(
            [
                "--net",
                "--ipc",
                "--uts",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--",
                "/bin/sh",
                "-c",
                HIDE,
                "sh",
            ]
            .map(OsString::from),
        );
        words.extend(self.masks().into_iter().map(PathBuf::into_os_string));
        words.push("--".into());
        words.extend(last.into_iter().map(OsString::from));
        words
    }

    /// What is hidden, none of it below another.
    fn masks(&self) -> Vec<PathBuf> {
        let mut masks: Vec<PathBuf> = Vec::new();
        let sockets = PathBuf::from(SOCKETS);
        if sockets.is_dir() && !self.folder.starts_with(&sockets) {
            masks.push(sockets);
        }
        for path in &self.hidden {
            // By its own name: a link is hidden where it leads.
            let Ok(path) = path.canonicalize() else {
                continue;
            };
            if !masks.iter().any(|mask| path.starts_with(mask)) && !self.folder.starts_with(&path) {
                masks.push(path);
            }
        }
        masks
    }

    /// Whether a method works here; why not, if it doesn't.
    pub(super) fn tried(&self, method: Method) -> Result<(), String> {
        match method {
            Method::Unit => listens(Path::new(SOCKET)),
            Method::None => Ok(()),
            Method::Root | Method::User | Method::UserPlain => {
                let mut words = self.before(method).into_iter();
                let program = words.next().unwrap_or_default();
                said_by(Command::new(program).args(words).arg("true"))
            }
        }
    }
}

/// Runs something that does nothing; what it said if it failed.
fn said_by(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().next().unwrap_or("it failed");
    Err(line.chars().take(SAID_MAX).collect())
}

/// Whether a socket is there; who may connect to it shows when that is tried.
fn listens(socket: &Path) -> Result<(), String> {
    let there = std::fs::symlink_metadata(socket);
    if there.is_ok_and(|there| there.file_type().is_socket()) {
        return Ok(());
    }
    Err(format!(
        "nobody listens at {}: systemctl start tidemark-sandbox.socket",
        socket.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(folder: &Path, hidden: Vec<PathBuf>) -> Inside {
        Inside {
            folder: folder.to_path_buf(),
            account: Some(Account {
                name: "nobody".to_owned(),
                uid: 65_534,
                gid: 65_533,
            }),
            hidden,
        }
    }

    #[test]
    fn the_best_method_comes_first_and_root_needs_no_user_namespace() {
        assert_eq!(
            ladder(true, false),
            [Method::Unit, Method::User, Method::UserPlain]
        );
        assert_eq!(ladder(false, true), [Method::Root]);
    }

    #[test]
    fn without_its_socket_there_is_no_unit_and_that_says_what_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("sock");
        let why = listens(&socket).unwrap_err();
        assert!(why.contains("tidemark-sandbox.socket"), "{why}");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        listens(&socket).unwrap();
    }

    #[test]
    fn what_lies_below_something_hidden_is_not_hidden_twice() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (key, folder) = (dir.join("key"), dir.join("job"));
        std::fs::write(&key, "k").unwrap();
        std::fs::create_dir(&folder).unwrap();
        let twice = vec![key.clone(), key.clone(), dir.join("none")];
        let masks = inside(&folder, twice).masks();
        assert_eq!(masks.iter().filter(|mask| **mask == key).count(), 1);
        // Hiding what the sandbox works in would leave it nothing to work on.
        assert!(!inside(&folder, vec![dir.clone()]).masks().contains(&dir));
    }

    #[test]
    fn root_becomes_another_user_without_a_way_back() {
        let words = inside(Path::new("/x"), Vec::new()).before(Method::Root);
        for word in [
            "--net",
            "--pid",
            "--reuid=65534",
            "--regid=65533",
            "--clear-groups",
            "--no-new-privs",
        ] {
            assert!(
                words.iter().any(|there| there == word),
                "{word} in {words:?}"
            );
        }
    }
}
