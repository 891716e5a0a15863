//! A site to test on: a database, an agent's config as `init` writes it, regions, and the commands.
//!
//! Everything lies in one temporary folder that goes with the value; with `TIDEMARK_KEEP=1` a failed
//! test leaves it and says where.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tidemark_tests::eventually;

use crate::process::{Daemon, Ran, SOON, Timed, command, now};
use crate::status::Status;

/// Until a region holds what was committed: a second or two, on a quiet machine.
const SHIPPED_WITHIN: Duration = Duration::from_secs(180);

/// A site.
#[derive(Debug)]
pub(crate) struct Site {
    folder: Option<tempfile::TempDir>,
    root: PathBuf,
    pub(crate) database: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) identity: PathBuf,
    /// URLs, in the config's order; each region is named after the last part of its path.
    pub(crate) regions: Vec<String>,
    environment: Vec<(String, String)>,
    made: AtomicU32,
    _timed: Timed,
}

impl Site {
    /// An empty folder with two directory regions, `region-a` and `region-b`; nothing is made yet.
    pub(crate) fn plan() -> Self {
        let timed = Timed::start();
        let folder = tempfile::Builder::new()
            .prefix("tidemark-e2e-")
            .tempdir()
            .expect("a temporary folder");
        let root = folder.path().canonicalize().expect("its path");
        let app = root.join("host");
        std::fs::create_dir(&app).expect("a folder for the database");
        let regions = ["region-a", "region-b"];
        Self {
            database: app.join("app.db"),
            config: app.join("agent.toml"),
            identity: root.join("safe/identity"),
            regions: regions
                .map(|name| format!("dir:{}", root.join(name).display()))
                .to_vec(),
            environment: Vec::new(),
            made: AtomicU32::new(0),
            _timed: timed,
            folder: Some(folder),
            root,
        }
    }

    /// [`Self::plan`] with a new database of the test's writer, `init` for a trial, and short
    /// intervals: ship every 200 ms, beat and snapshot every second.
    pub(crate) fn new() -> Self {
        let site = Self::plan();
        crate::writer::create(&site.database);
        site.init();
        site
    }

    /// `init --identity` and short intervals.
    pub(crate) fn init(&self) {
        let identity = self.identity.display().to_string();
        self.init_with(&["--identity", &identity]).ok();
        self.shorten();
    }

    /// `init` for the database and the regions, with more words.
    pub(crate) fn init_with(&self, words: &[&str]) -> Ran {
        let mut command = self.command("tidemark-agent");
        command.arg("init").arg("--sqlite").arg(&self.database);
        for region in &self.regions {
            command.args(["--region", region]);
        }
        command.args(words).arg("--config").arg(&self.config);
        Ran::of(&mut command)
    }

    /// The intervals that tests use.
    pub(crate) fn shorten(&self) {
        self.first_agent().shorten();
    }

    /// Gives a key at the top of the config a value.
    pub(crate) fn set(&self, key: &str, value: &str) {
        self.first_agent().set(key, value);
    }

    /// Another agent for the same database and repository: a config and a state directory of its
    /// own, as after `init` on a second machine. Everything else is shared.
    pub(crate) fn second_agent(&self, name: &str) -> Agent<'_> {
        let folder = self.path(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let agent = Agent {
            site: self,
            config: folder.join("agent.toml"),
        };
        let mut command = self.command("tidemark-agent");
        command.arg("init").arg("--sqlite").arg(&self.database);
        for region in &self.regions {
            command.args(["--region", region]);
        }
        command.arg("--identity").arg(&self.identity);
        command.arg("--config").arg(&agent.config);
        Ran::of(&mut command).ok();
        agent.shorten();
        agent
    }

    /// The site's own agent.
    pub(crate) fn first_agent(&self) -> Agent<'_> {
        Agent {
            site: self,
            config: self.config.clone(),
        }
    }

    /// The state directory that `init` chose.
    pub(crate) fn state(&self) -> PathBuf {
        self.config.with_file_name(".tidemark")
    }

    /// A path in the site's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The folder of a directory region.
    pub(crate) fn region_folder(&self, number: usize) -> PathBuf {
        let url = &self.regions[number];
        PathBuf::from(url.strip_prefix("dir:").expect("a directory region"))
    }

    /// Adds to the environment of all children.
    pub(crate) fn environment(&mut self, name: &str, value: impl Into<String>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// Takes from the environment of later children what was added.
    pub(crate) fn clear_environment(&mut self) {
        self.environment.clear();
    }

    /// A command of a shipped program, in the site's environment.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = command(name);
        command.current_dir(&self.root);
        command.env("XDG_STATE_HOME", self.path("state-home"));
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command
    }

    /// A fresh name in the site's folder.
    pub(crate) fn fresh(&self, stem: &str) -> PathBuf {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.path(&format!("{stem}-{number}"))
    }

    /// Runs the agent's command `words` on the site's config.
    pub(crate) fn agent(&self, words: &[&str]) -> Ran {
        self.first_agent().run(words)
    }

    /// Starts the daemon and waits until it listens to commands.
    #[track_caller]
    pub(crate) fn start(&self) -> Daemon {
        self.first_agent().start()
    }

    /// Starts the daemon and waits for nothing.
    pub(crate) fn launch(&self) -> Daemon {
        self.first_agent().launch()
    }

    /// What `status --json` says.
    pub(crate) fn status(&self) -> Status {
        self.first_agent().status()
    }

    /// Waits until every region holds everything that is committed now.
    #[track_caller]
    pub(crate) fn wait_shipped(&self) {
        self.wait_shipped_to(self.regions.len(), now());
    }

    /// Waits until `status` has nothing to complain of; what it said. An alert goes a moment after its cause.
    #[track_caller]
    pub(crate) fn wait_well(&self) -> Ran {
        self.first_agent().wait_well()
    }

    /// Waits until `regions` of the regions hold everything that was committed by `at`.
    #[track_caller]
    pub(crate) fn wait_shipped_to(&self, regions: usize, at: Timestamp) {
        let what = format!("{regions} regions hold everything until {at}");
        eventually(&what, SHIPPED_WITHIN, || {
            let status = self.status();
            let safe = status.regions();
            let holding = safe
                .iter()
                .filter(|name| status.safe_until(name) >= Some(at));
            (holding.count() >= regions).then_some(())
        });
    }

    /// A restore command with everything but where to and from which regions.
    pub(crate) fn restore_command(&self, regions: &[&str], target: &Path) -> Command {
        let mut command = self.command("tidemark-restore");
        command.arg("restore").arg("--target").arg(target);
        for region in regions {
            command.args(["--region", region]);
        }
        command.arg("--identity").arg(&self.identity);
        command
    }

    /// Runs `restore` with `words` from `regions`; the target is a fresh one.
    pub(crate) fn restore(&self, regions: &[&str], words: &[&str]) -> Restored {
        let target = self.fresh("restored");
        let mut command = self.restore_command(regions, &target);
        command.args(words).arg("--json");
        Restored {
            ran: Ran::of(&mut command),
            path: target,
        }
    }

    /// Restores the latest state from one region, by its number.
    #[track_caller]
    pub(crate) fn restore_latest(&self, region: usize) -> Restored {
        self.restore(&[&self.regions[region]], &["--to", "latest"])
            .ok()
    }

    /// Runs another command of the restore tool on all regions, with the identity.
    pub(crate) fn tool(&self, words: &[&str]) -> Ran {
        let regions: Vec<&str> = self.regions.iter().map(String::as_str).collect();
        self.tool_on(&regions, words)
    }

    /// Runs another command of the restore tool on `regions`, with the identity.
    pub(crate) fn tool_on(&self, regions: &[&str], words: &[&str]) -> Ran {
        let mut command = self.command("tidemark-restore");
        command.args(words);
        for region in regions {
            command.args(["--region", region]);
        }
        Ran::of(command.arg("--identity").arg(&self.identity))
    }
}

impl Drop for Site {
    #[expect(clippy::print_stderr, reason = "a person asked to keep the folder")]
    fn drop(&mut self) {
        let keep = std::env::var_os("TIDEMARK_KEEP").is_some_and(|v| v == "1");
        if keep
            && std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("kept: {}", folder.keep().display());
        }
    }
}

/// One of several agents of a site.
#[derive(Debug)]
pub(crate) struct Agent<'a> {
    site: &'a Site,
    pub(crate) config: PathBuf,
}

impl<'a> Agent<'a> {
    /// An agent whose config is there already.
    pub(crate) const fn at(site: &'a Site, config: PathBuf) -> Self {
        Self { site, config }
    }

    /// Runs a command on this agent's config.
    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        let mut command = self.site.command("tidemark-agent");
        Ran::of(command.args(words).arg("--config").arg(&self.config))
    }

    /// Starts its daemon and waits until it listens to commands.
    #[track_caller]
    pub(crate) fn start(&self) -> Daemon {
        let mut daemon = self.launch();
        let socket = self.config.with_file_name(".tidemark/control.sock");
        eventually("the daemon listens", SOON, || {
            daemon.assert_running();
            UnixStream::connect(&socket).ok()
        });
        daemon
    }

    /// Starts its daemon and waits for nothing.
    pub(crate) fn launch(&self) -> Daemon {
        let log = self.site.fresh("agent-log");
        let mut command = self.site.command("tidemark-agent");
        command.arg("run").arg("--config").arg(&self.config);
        Daemon::start(&mut command, &log)
    }

    /// What its `status --json` says.
    pub(crate) fn status(&self) -> Status {
        let ran = self.run(&["status", "--json"]);
        assert!(ran.code <= 3, "{ran}");
        Status(ran.json())
    }

    /// Waits until its `status` has nothing to complain of; what it said.
    #[track_caller]
    pub(crate) fn wait_well(&self) -> Ran {
        eventually("all is well", SOON, || {
            let ran = self.run(&["status"]);
            (ran.code == 0).then_some(ran)
        })
    }

    /// The intervals that tests use.
    pub(crate) fn shorten(&self) {
        self.set("ship_every", "\"200ms\"");
        self.set("snapshot_every", "\"1s\"");
        self.set("beat_every", "\"1s\"");
        // Whether a test passes must not hang on how full this machine's disk is.
        self.set("spool_keep_free", "\"64MiB\"");
    }

    /// Gives a key at the top of the config a value, as a person would: on the key's own line.
    pub(crate) fn set(&self, key: &str, value: &str) {
        let text = std::fs::read_to_string(&self.config).expect("a config");
        let mut found = false;
        let lines: Vec<String> = text
            .lines()
            .map(|line| {
                let bare = line.trim_start_matches("# ");
                if found || !bare.starts_with(&format!("{key} =")) {
                    return line.to_owned();
                }
                found = true;
                format!("{key} = {value}")
            })
            .collect();
        assert!(found, "{} has no line for {key}", self.config.display());
        std::fs::write(&self.config, lines.join("\n") + "\n").expect("a config is written");
    }
}

/// What a restore left.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) ran: Ran,
    pub(crate) path: PathBuf,
}

impl Restored {
    /// It must have gone well, with the digest of the whole equal to the source's.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.ends_with(0)
    }

    /// It must have ended with 0 or 3 as said, with the digest equal.
    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.ran.code, code, "{}", self.ran);
        assert_eq!(self.report()["proof"], "digest-equal", "{}", self.ran);
        self
    }

    /// It must have refused with `code`, said `words`, and left nothing at the target.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.ran.code, code, "{}", self.ran);
        assert!(
            !self.path.exists(),
            "something stands at the target: {}",
            self.ran
        );
        for word in words {
            let said = self.ran.err.contains(word) || self.ran.out.contains(word);
            assert!(said, "{word:?} isn't said by {}", self.ran);
        }
        self
    }

    /// Its document.
    #[track_caller]
    pub(crate) fn report(&self) -> Value {
        self.ran.json()
    }

    /// The instant that was reached.
    pub(crate) fn reached_at(&self) -> Timestamp {
        instant(&self.report()["reached"]["at"]).expect("an instant was reached")
    }

    /// The exceptions, joined.
    pub(crate) fn exceptions(&self) -> String {
        texts(&self.report()["exceptions"])
    }

    /// The notes, joined.
    pub(crate) fn notes(&self) -> String {
        texts(&self.report()["notes"])
    }
}

/// An instant of a document.
pub(crate) fn instant(value: &Value) -> Option<Timestamp> {
    value.as_str().and_then(|text| text.parse().ok())
}

fn texts(list: &Value) -> String {
    let list = list.as_array().expect("a list");
    let lines: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    lines.join("\n")
}
