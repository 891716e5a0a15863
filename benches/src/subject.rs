//! Tidemark under measurement: the two shipped programs, by their command line and config alone.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Setting;
use crate::process::{self, Running, Usage};
use crate::region::{Region, WAIT_MAX};

/// Where every recovery point of a source is: the first says that all before it can be restored.
const POINT: &str = "/meta/point/";
/// Where an agent answers, below its home.
const SOCKET: &str = ".tidemark/control.sock";
const POLL: Duration = Duration::from_millis(20);

/// An agent with its config, not running by itself.
#[derive(Debug)]
pub(crate) struct Tidemark {
    programs: PathBuf,
    home: PathBuf,
    regions: Vec<Region>,
}

impl Tidemark {
    /// Writes a config for `database` and `regions`, with `keys` set in it.
    pub(crate) fn prepare(
        setting: &Setting,
        home: &Path,
        database: &Path,
        regions: &[Region],
        keys: &[(&str, &str)],
    ) -> Result<Self> {
        let source = [OsStr::new("--sqlite"), database.as_os_str()];
        Self::prepare_for(setting, home, source, regions, keys)
    }

    /// The same for the cluster that a connection string leads to.
    pub(crate) fn prepare_postgres(
        setting: &Setting,
        home: &Path,
        conninfo: &str,
        regions: &[Region],
        keys: &[(&str, &str)],
    ) -> Result<Self> {
        let source = [OsStr::new("--postgres"), OsStr::new(conninfo)];
        Self::prepare_for(setting, home, source, regions, keys)
    }

    fn prepare_for(
        setting: &Setting,
        home: &Path,
        source: [&OsStr; 2],
        regions: &[Region],
        keys: &[(&str, &str)],
    ) -> Result<Self> {
        std::fs::create_dir_all(home)?;
        let subject = Self {
            programs: setting.programs.clone(),
            home: home.to_owned(),
            regions: regions.into(),
        };
        // Each provider has credentials of its own.
        let profiles: String = regions.iter().map(Region::profile).collect();
        std::fs::write(subject.credentials(), profiles)?;
        let mut init = subject.command("tidemark-agent");
        init.arg("init").args(source).args(["--name", "app"]);
        for region in regions {
            init.args(["--region", &region.url()]);
        }
        init.arg("--identity")
            .arg(subject.identity())
            .arg("--config")
            .arg(subject.config());
        process::run(&mut init)?;
        subject.configure(keys)?;
        Ok(subject)
    }

    /// Sets keys of the config.
    pub(crate) fn configure(&self, keys: &[(&str, &str)]) -> Result<()> {
        let mut text = std::fs::read_to_string(self.config())?;
        for (key, value) in keys {
            text = set(&text, key, value);
        }
        std::fs::write(self.config(), text)?;
        Ok(())
    }

    /// Protects more databases with the same agent.
    pub(crate) fn add_sources(&self, databases: &[PathBuf]) -> Result<()> {
        let mut text = std::fs::read_to_string(self.config())?;
        for (number, database) in databases.iter().enumerate() {
            let path = database.display();
            write!(
                text,
                "\n[[source]]\nname = \"extra-{number}\"\nsqlite = \"{path}\"\n"
            )?;
        }
        std::fs::write(self.config(), text)?;
        Ok(())
    }

    /// Starts the agent.
    pub(crate) fn start(&self) -> Result<Running> {
        let mut run = self.command("tidemark-agent");
        run.arg("run").arg("--config").arg(self.config());
        Running::start(&mut run, &self.home.join("agent.log"))
    }

    /// Starts the agent and waits until it answers: commands do by themselves what no agent does.
    pub(crate) fn start_answering(&self) -> Result<Running> {
        let mut agent = self.start()?;
        let started = Instant::now();
        while UnixStream::connect(self.home.join(SOCKET)).is_err() {
            agent.must_run()?;
            ensure!(started.elapsed() < WAIT_MAX, "the agent doesn't answer");
            std::thread::sleep(POLL);
        }
        Ok(agent)
    }

    /// Starts the agent and waits until the first region can restore.
    pub(crate) fn start_protected(&self) -> Result<Running> {
        let mut agent = self.start()?;
        for region in &self.regions {
            region.wait_for(POINT, &mut agent)?;
        }
        Ok(agent)
    }

    /// Makes a recovery point, and a base if wanted; returns when they are durable in all regions.
    pub(crate) fn snapshot(&self, base: bool) -> Result<()> {
        let mut snapshot = self.command("tidemark-agent");
        snapshot.arg("snapshot").arg("--config").arg(self.config());
        if base {
            snapshot.arg("--base");
        }
        process::run(&mut snapshot).map(drop)
    }

    /// Lets go of the source: nothing is held for it on its server.
    pub(crate) fn retire(&self) -> Result<()> {
        let mut retire = self.command("tidemark-agent");
        retire.args(["retire", "--yes", "--config"]);
        process::run(retire.arg(self.config())).map(drop)
    }

    /// Restores the latest state of a server from the region at `url`, recovery and its proof included.
    pub(crate) fn restore_postgres(&self, url: &str, target: &Path, bin: &Path) -> Result<Usage> {
        let mut restore = self.command("tidemark-restore");
        restore.args(["restore", "--to", "latest", "--target"]);
        restore.arg(target).arg("--pg-bin").arg(bin);
        restore.args(["--region", url, "--identity"]);
        restore.arg(self.identity());
        Running::start(&mut restore, &self.home.join("restore.log"))?.finish()
    }

    /// Drills the source from the region at `url`: what the drill says of itself. Its host is the source's here,
    /// which alone is an exception.
    pub(crate) fn drill(&self, url: &str, arguments: &[&OsStr]) -> Result<serde_json::Value> {
        const EXCEPTIONS: i32 = 3;
        let mut drill = self.command("tidemark-restore");
        drill.args(["drill", "run", "--json", "--allow-source-host"]);
        drill.args(arguments).args(["--region", url, "--identity"]);
        // Evidence waits on the local disk, not in the operator's home.
        drill.env("STATE_DIRECTORY", &self.home);
        let output = drill.arg(self.identity()).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success() || output.status.code() == Some(EXCEPTIONS),
            "the drill ended with {}:\n{said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_str(&said)?)
    }

    /// Puts one file of a server's log from a region at `place`.
    pub(crate) fn wal_get(&self, region: &Region, file: &str, place: &Path) -> Result<()> {
        let mut get = self.command("tidemark-restore");
        get.args(["wal-get", file])
            .arg(place)
            .args(["--prefetch", "0"]);
        get.args(["--region", &region.url(), "--identity"]);
        process::run(get.arg(self.identity())).map(drop)
    }

    /// Restores the latest state from a region.
    pub(crate) fn restore(&self, region: &Region, target: &Path) -> Result<Usage> {
        let mut restore = self.command("tidemark-restore");
        restore
            .args(["restore", "--to", "latest", "--target"])
            .arg(target);
        restore
            .args(["--region", &region.url()])
            .arg("--identity")
            .arg(self.identity());
        Running::start(&mut restore, &self.home.join("restore.log"))?.finish()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(&self.home);
        command.env("AWS_SHARED_CREDENTIALS_FILE", self.credentials());
        command
    }

    fn credentials(&self) -> PathBuf {
        self.home.join("credentials")
    }

    fn config(&self) -> PathBuf {
        self.home.join("agent.toml")
    }

    fn identity(&self) -> PathBuf {
        self.home.join("identity.key")
    }
}

/// The region's name for its first recovery point: everything captured before can be restored.
pub(crate) fn wait_restorable(region: &Region, agent: &mut Running) -> Result<Instant> {
    region.wait_for(POINT, agent).context("no recovery point")
}

/// The config with a key set, where init wrote it commented out or not.
fn set(text: &str, key: &str, value: &str) -> String {
    let is_key = |line: &str| {
        let bare = line.trim_start_matches(['#', ' ']);
        bare.strip_prefix(key)
            .is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let wanted = format!("{key} = {value}");
    match lines.iter_mut().find(|line| is_key(line)) {
        Some(line) => *line = wanted,
        None => lines.insert(0, wanted),
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_keys_that_are_commented_set_or_missing() {
        let text = "# about ship_every\n# ship_every = \"10s\"\nmemory = \"1\"\n[[region]]\n";
        let text = set(
            &set(&set(text, "ship_every", "\"1s\""), "memory", "\"2\""),
            "new",
            "3",
        );
        assert_eq!(
            text,
            "new = 3\n# about ship_every\nship_every = \"1s\"\nmemory = \"2\"\n[[region]]\n"
        );
    }
}
