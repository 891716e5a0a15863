//! A machine with a real systemd, for one test: booted by `tests/boot-systemd`, gone with its value.
//!
//! `/srv` inside is the folder [`Machine::srv`] outside, the very same files, so that a test writes
//! to a database from its own process while the agent runs under systemd.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tidemark_testkit::postgres::Postgres;
use tidemark_tests::{eventually, program, root};

/// Booting takes a second on a quiet machine, and more than a minute where 20 processes want its core.
const BOOT_WITHIN: Duration = Duration::from_secs(300);

/// Units that are installed, none of them enabled.
const UNITS: &[&str] = &[
    "tidemark-agent.service",
    "tidemark-agent@.service",
    "tidemark-restore.service",
    "tidemark-sandbox.socket",
    "tidemark-sandbox@.service",
    "tidemark-drill.service",
    "tidemark-drill.timer",
];

/// A running machine.
pub(crate) struct Machine {
    work: tempfile::TempDir,
    outer: Child,
    /// systemd's process id, as seen from here.
    inner: u32,
}

/// A machine that is not running yet: files can be put into it.
pub(crate) struct Blueprint {
    work: tempfile::TempDir,
    /// The Debian that it is laid over.
    tree: PathBuf,
}

impl Blueprint {
    /// A machine with the shipped programs and units, and a user `app`; `None` where this machine
    /// cannot boot one and need not.
    pub(crate) fn new() -> Option<Self> {
        let made = as_root(&[&script(), "tree"])
            .output()
            .expect("tests/boot-systemd runs");
        if !made.status.success() {
            let reason = String::from_utf8_lossy(&made.stderr).trim().to_owned();
            skip(&reason);
            return None;
        }
        let tree = String::from_utf8_lossy(&made.stdout).trim().into();
        let blueprint = Self {
            work: tempfile::tempdir().expect("a temporary folder"),
            tree,
        };
        // The folder is mounted by root inside, and users inside pass through it.
        set_mode(blueprint.work.path(), 0o755);
        std::fs::create_dir(blueprint.work.path().join("srv")).expect("a folder for /srv");
        for name in ["tidemark-agent", "tidemark-restore"] {
            blueprint.copy(&program(name), &format!("usr/bin/{name}"), 0o755);
        }
        for unit in UNITS {
            blueprint.copy(
                &packaged(unit),
                &format!("etc/systemd/system/{unit}"),
                0o644,
            );
        }
        let places = [("sysusers", "sysusers.d"), ("tmpfiles", "tmpfiles.d")];
        for (kind, folder) in places {
            let from = packaged(&format!("tidemark.{kind}.conf"));
            blueprint.copy(&from, &format!("usr/lib/{folder}/tidemark.conf"), 0o644);
        }
        // Debian's scrubbing of snapshots runs only while no core has anything else to do, and the machine
        // is not up before it has: on one that is busy for minutes, never.
        let scrub = blueprint.place("etc/systemd/system/e2scrub_reap.service");
        std::os::unix::fs::symlink("/dev/null", scrub).expect("a unit is masked");
        blueprint.write(
            "usr/lib/sysusers.d/app.conf",
            "u app - \"The application\" /srv/app\n",
        );
        Some(blueprint)
    }

    /// Installs a PostgreSQL where Debian has it, with the libraries that it loads.
    pub(crate) fn install(&self, postgres: &Postgres) {
        let to = format!("usr/lib/postgresql/{}", postgres.major());
        let from = postgres.bin().parent().expect("a folder above bin");
        let place = self.place(&to);
        let copied = Command::new("cp").arg("-aL").arg(from).arg(&place).status();
        assert!(copied.expect("cp runs").success(), "{}", from.display());
        let said = Command::new("ldd")
            .arg(postgres.bin().join("postgres"))
            .output();
        let said = said.expect("ldd runs").stdout;
        for line in String::from_utf8_lossy(&said).lines() {
            let Some((_, library)) = line.split_once(" => /") else {
                continue;
            };
            let library = library.split(" (").next().expect("a path");
            // In Debian /lib is a link to /usr/lib.
            let inside = match library.strip_prefix("lib/") {
                Some(rest) => format!("usr/lib/{rest}"),
                None => library.to_owned(),
            };
            if self.tree.join(&inside).symlink_metadata().is_err() {
                self.copy(&Path::new("/").join(library), &inside, 0o755);
            }
        }
    }

    /// Puts a text file into the machine, named from its root.
    pub(crate) fn write(&self, path: &str, text: &str) {
        std::fs::write(self.place(path), text).expect("a file for the machine is written");
    }

    /// Where a file of the machine lies now.
    pub(crate) fn place(&self, path: &str) -> PathBuf {
        let place = self.work.path().join("host").join(path);
        std::fs::create_dir_all(place.parent().expect("a folder")).expect("a folder is made");
        place
    }

    fn copy(&self, from: &Path, to: &str, mode: u32) {
        let place = self.place(to);
        std::fs::copy(from, &place).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        set_mode(&place, mode);
    }

    /// Boots, and makes the users.
    pub(crate) fn boot(self) -> Machine {
        let folder = self.work.path().to_str().expect("UTF-8").to_owned();
        let outer = as_root(&[&script(), "boot", &folder])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("tests/boot-systemd boots");
        let mut machine = Machine {
            work: self.work,
            inner: 0,
            outer,
        };
        let init = || systemd_below(machine.outer.id());
        machine.inner = eventually("systemd starts in the machine", BOOT_WITHIN, init);
        // On a slow machine a unit that no test needs may have run out of its time.
        eventually("the machine is up", BOOT_WITHIN, || {
            let state = machine.run(&["systemctl", "is-system-running"]);
            let state = String::from_utf8_lossy(&state.stdout).into_owned();
            ["running", "degraded"]
                .contains(&state.trim())
                .then_some(())
        });
        machine.must(&["systemd-sysusers"]);
        machine
    }
}

impl Machine {
    /// The folder that is `/srv` inside.
    pub(crate) fn srv(&self) -> PathBuf {
        self.work.path().join("srv")
    }

    /// Runs a command inside, as root.
    pub(crate) fn run(&self, command: &[&str]) -> Output {
        let inner = self.inner.to_string();
        let enter = [
            "nsenter", "--target", &inner, "--mount", "--pid", "--uts", "--ipc", "--cgroup",
        ];
        as_root(&[&enter[..], &["--"], command].concat())
            .stdin(Stdio::null())
            .output()
            .expect("nsenter runs")
    }

    /// Runs a command inside that has to succeed; answers what it printed.
    pub(crate) fn must(&self, command: &[&str]) -> String {
        let output = self.run(command);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "{command:?}: {}\n{out}{err}",
            output.status
        );
        out.trim().to_owned()
    }

    /// Lets the agent that was initialised here work on a disk that is nearly full: whether a test
    /// passes must not hang on what else this host keeps.
    pub(crate) fn whatever_the_disk(&self) {
        let config = "/etc/tidemark/agent.toml";
        let enough = r#"s/^.*spool_keep_free = .*/spool_keep_free = "16MiB"/"#;
        self.must(&["sed", "-i", enough, config]);
        self.must(&["grep", "-q", "^spool_keep_free = ", config]);
    }

    /// A property of a unit.
    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        self.must(&["systemctl", "show", "--property", name, "--value", unit])
    }

    /// The journal of a unit, for a failing test's message.
    pub(crate) fn journal(&self, unit: &str) -> String {
        self.must(&["journalctl", "--no-pager", "--unit", unit])
    }

    /// Sends a signal to a unit's main process.
    pub(crate) fn signal(&self, unit: &str, signal: &str) {
        self.must(&[
            "systemctl",
            "kill",
            "--kill-whom=main",
            "--signal",
            signal,
            unit,
        ]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Everything inside ends with its first process; the mounts go with the last one.
        let stopped = as_root(&["kill", "-KILL", &self.inner.to_string()])
            .status()
            .is_ok();
        let ended = stopped && self.outer.wait().is_ok();
        // What services wrote belongs to users that only root may clean up after.
        let folder = self.work.path().to_str().map(str::to_owned);
        if let (true, Some(folder)) = (ended, folder) {
            drop(as_root(&["rm", "-rf", "--one-file-system", &folder]).status());
        }
    }
}

fn script() -> String {
    root()
        .join("tests/boot-systemd")
        .to_str()
        .expect("UTF-8")
        .to_owned()
}

fn packaged(file: &str) -> PathBuf {
    root().join("systemd").join(file)
}

fn set_mode(path: &Path, mode: u32) {
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).expect("a mode is set");
}

/// A command that runs as root: directly, or by sudo without a password.
fn as_root(command: &[&str]) -> Command {
    let is_root = std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        uid.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
    });
    let (first, rest) = command.split_first().expect("a command");
    if is_root {
        let mut direct = Command::new(first);
        direct.args(rest);
        return direct;
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "env"]);
    for name in ["TIDEMARK_TOOLS", "TIDEMARK_DEBIAN_MIRROR", "HOME"] {
        if let Ok(value) = std::env::var(name) {
            sudo.arg(format!("{name}={value}"));
        }
    }
    sudo.arg(first).args(rest);
    sudo
}

/// The process below `outer` that has become systemd.
fn systemd_below(outer: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
    for child in children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
    {
        let name = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        if name.trim() == "systemd" {
            return Some(child);
        }
        if let Some(found) = systemd_below(child) {
            return Some(found);
        }
    }
    None
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn skip(reason: &str) {
    let required = std::env::var_os("TIDEMARK_REQUIRE_SERVERS").is_some_and(|v| v == "1");
    assert!(!required, "no machine with a real systemd: {reason}");
    eprintln!("SKIPPED: no machine with a real systemd: {reason}");
}
