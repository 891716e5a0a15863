//! Databases that can't be read as they stand: of the wrong kind, the wrong owner, without rights, in a
//! folder that can't be written, under odd names. Each says which, nothing is written, other sources go
//! on, and putting it right is enough.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tidemark_tests::{eventually, program};

use crate::process::{Daemon, Ran, SOON, is_root, pass, skip};
use crate::site::Site;
use crate::writer::{assert_committed_prefix, create, write};

const USAGE: i32 = 2;
const NOBODY: u32 = 65_534;

/// The codes of the alerts about one source.
fn codes(site: &Site, source: &str) -> Vec<String> {
    let status = site.status();
    let alerts = status.0["daemon"]["alerts"].as_array().cloned();
    let about = |alert: &&Value| alert["about"] == source;
    let alerts = alerts.unwrap_or_default();
    let found = alerts.iter().filter(about);
    found
        .filter_map(|alert| Some(alert["code"].as_str()?.to_owned()))
        .collect()
}

#[track_caller]
fn wait_code(site: &Site, source: &str, code: &str) {
    eventually(&format!("{code} about {source}"), SOON, || {
        (codes(site, source) == [format!("source.{code}")]).then_some(())
    });
}

/// Soon: at once when the file changed, not only when the longest wait is over.
#[track_caller]
fn wait_captured(site: &Site, source: &str) {
    eventually(&format!("{source} is captured"), SOON, || {
        codes(site, source).is_empty().then_some(())
    });
}

fn add_source(site: &Site, name: &str, path: &Path) {
    let config = std::fs::read_to_string(&site.config).unwrap();
    let path = path.display();
    let more = format!("\n[[source]]\nname = \"{name}\"\nsqlite = \"{path}\"\n");
    std::fs::write(&site.config, config + &more).unwrap();
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_is_no_database_is_named_left_alone_and_taken_up_once_one_is_there() {
    let site = Site::new();
    let place = |name: &str| site.path(&format!("host/{name}"));
    std::fs::create_dir(place("folder")).unwrap();
    let made = Command::new("mkfifo").arg(place("pipe")).status();
    assert!(made.expect("mkfifo runs").success());
    std::fs::write(place("empty"), "").unwrap();
    symlink(place("nowhere"), place("dangling")).unwrap();
    create(&place("real.db"));
    symlink(place("real.db"), place("link")).unwrap();
    let odd = [
        ("folder", "TM7810"),
        ("pipe", "TM7810"),
        ("empty", "TM0102"),
        ("dangling", "TM0102"),
    ];
    for (name, _) in odd {
        add_source(&site, name, &place(name));
    }
    add_source(&site, "device", Path::new("/dev/null"));
    add_source(&site, "link", &place("link"));
    let mut daemon = site.start();
    for (name, code) in odd {
        wait_code(&site, name, code);
    }
    wait_code(&site, "device", "TM7810");
    write(&site.database, 20);
    write(&place("real.db"), 10);
    for source in ["app", "link"] {
        site.agent(&["snapshot", "--source", source]).ok();
    }
    let restored = site
        .restore(&[&site.regions[0]], &["--to", "latest", "--source", "link"])
        .ok();
    assert_eq!(assert_committed_prefix(&restored.path), 10);
    assert_eq!(std::fs::metadata(place("empty")).unwrap().len(), 0);
    std::fs::remove_file(place("pipe")).unwrap();
    for name in ["pipe", "empty", "nowhere"] {
        create(&place(name));
    }
    for name in ["pipe", "empty", "dangling"] {
        wait_captured(&site, name);
        site.agent(&["snapshot", "--source", name]).ok();
    }
    daemon.assert_running();
    daemon.terminate();
}

#[test]
fn init_refuses_what_is_no_file_and_names_that_no_config_can_hold() {
    let mut site = Site::plan();
    let identity = site.identity.display().to_string();
    let folder = site.path("host/folder");
    std::fs::create_dir(&folder).unwrap();
    let pipe = site.path("host/pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    let odd = site.path("host").join(OsStr::from_bytes(b"caf\xe9.db"));
    create(&odd);
    for (path, word) in [
        (folder, "not a file"),
        (pipe, "not a file"),
        (odd, "UTF-8"),
        (PathBuf::from("/dev/null"), "not a file"),
    ] {
        site.database = path;
        site.init_with(&["--identity", &identity, "--name", "app"])
            .ends_with(USAGE)
            .says(&[word]);
        assert!(!site.config.exists() && !site.identity.exists());
    }
}

#[test]
fn database_with_spaces_a_newline_and_letters_of_all_kinds_in_its_path_comes_back() {
    let mut site = Site::plan();
    let folder = site.path("host/två mappar\n\"och\" en'rad %n $HOME");
    std::fs::create_dir(&folder).unwrap();
    site.database = folder.join("データ #1;\\ &.db");
    create(&site.database);
    let identity = site.identity.display().to_string();
    site.init_with(&["--identity", &identity, "--name", "app"])
        .ok();
    site.shorten();
    let daemon = site.start();
    write(&site.database, 30);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    let status = site.agent(&["status"]);
    assert!(status.code <= 1, "{status}");
    daemon.terminate();
    let restored = site.restore_latest(1);
    assert_eq!(assert_committed_prefix(&restored.path), 30);
    let target = folder.join("zurück\n.db");
    let mut again = site.restore_command(&[&site.regions[0]], &target);
    Ran::of(again.args(["--to", "latest"])).ok();
    assert_eq!(assert_committed_prefix(&target), 30);
}

/// A site of user nobody, with a copy of the agent that nobody may run, in whatever folder it was built.
struct Nobodys {
    site: Site,
    agent: PathBuf,
}

impl Nobodys {
    fn new() -> Option<Self> {
        if !is_root() {
            skip("only root can run an agent as somebody else");
            return None;
        }
        let mut site = Site::plan();
        let data = site.path("data");
        std::fs::create_dir(&data).unwrap();
        site.database = data.join("app.db");
        create(&site.database);
        write(&site.database, 10);
        site.init();
        let agent = site.path("tidemark-agent");
        std::fs::copy(program("tidemark-agent"), &agent).unwrap();
        give_away(&site.path(""));
        Some(Self { site, agent })
    }

    /// Starts the daemon as nobody and waits until it listens.
    fn start(&self) -> Daemon {
        let model = self.site.command("tidemark-agent");
        let mut command = Command::new(&self.agent);
        for (name, value) in model.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.args(["run", "--config"]).arg(&self.site.config);
        command.current_dir(self.site.path(""));
        command.uid(NOBODY).gid(NOBODY);
        let log = self.site.fresh("agent-log");
        let mut daemon = Daemon::start(&mut command, &log);
        let socket = self.site.state().join("control.sock");
        eventually("the daemon listens", SOON, || {
            daemon.assert_running();
            std::os::unix::net::UnixStream::connect(&socket).ok()
        });
        daemon
    }
}

/// Everything below `path` is nobody's from now on.
fn give_away(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            give_away(&entry.unwrap().path());
        }
    }
}

impl Nobodys {
    /// The daemon names the database with `code`, and captures it once `mend` has been done.
    #[track_caller]
    fn is_told_and_taken_up(&self, code: &str, mend: impl FnOnce(&Path)) {
        let mut daemon = self.start();
        wait_code(&self.site, "app", code);
        daemon.assert_running();
        mend(&self.site.database);
        wait_captured(&self.site, "app");
        self.site.wait_shipped();
        daemon.terminate();
        let restored = self.site.restore_latest(0);
        assert_eq!(assert_committed_prefix(&restored.path), 10);
    }
}

#[test]
fn database_without_any_rights_is_told_and_taken_up_once_it_may_be_read() {
    let Some(nobodys) = Nobodys::new() else {
        return;
    };
    mode(&nobodys.site.database, 0o000);
    nobodys.is_told_and_taken_up("TM0102", |path| mode(path, 0o600));
}

#[test]
fn database_in_a_folder_that_can_not_be_written_is_told_and_taken_up_once_it_can() {
    let Some(nobodys) = Nobodys::new() else {
        return;
    };
    let folder = nobodys.site.path("data");
    mode(&folder, 0o555);
    nobodys.is_told_and_taken_up("TM7809", |_| mode(&folder, 0o755));
}

#[test]
fn database_of_root_under_an_agent_of_somebody_else_is_told_and_taken_up_once_it_is_given_away() {
    let Some(nobodys) = Nobodys::new() else {
        return;
    };
    chown(&nobodys.site.database, Some(0), Some(0)).unwrap();
    mode(&nobodys.site.database, 0o666);
    nobodys.is_told_and_taken_up("TM7806", give_away);
}

#[test]
fn database_that_stays_away_costs_a_line_in_the_log_and_ever_rarer_tries() {
    let site = Site::new();
    add_source(&site, "late", &site.path("host/late.db"));
    let mut daemon = site.start();
    wait_code(&site, "late", "TM0102");
    let lines = |daemon: &Daemon| {
        let log = daemon.log();
        log.lines().filter(|line| line.contains("late")).count()
    };
    let before = lines(&daemon);
    // By then it was tried at 2, 6 and 14 seconds, and looked at every other second.
    pass(Duration::from_secs(15));
    assert_eq!(lines(&daemon), before, "{}", daemon.log());
    create(&site.path("host/late.db"));
    wait_captured(&site, "late");
    daemon.assert_running();
    daemon.terminate();
}
