//! A cluster of a test's own.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Owner, Postgres};
use crate::{ports, tls};

/// How long a server may take to start.
const START_MAX: Duration = Duration::from_secs(180);
/// How long a server may take to stop.
const STOP_MAX: Duration = Duration::from_secs(180);
/// Names the socket of clusters that don't listen on loopback.
const PORT: u16 = 5432;
const POLL: Duration = Duration::from_millis(20);

/// Ends whatever server runs in the folder when the pipe on standard input closes, then the folder.
const GUARD: &str = r#"cat >/dev/null
read -r pid <"$1/data/postmaster.pid" && kill -QUIT "$pid"
for n in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" || break; sleep 0.1; done
kill -KILL "$pid"; rm -rf "$1""#;

/// How a cluster is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Megabytes of a segment of the log.
    pub segment_megabytes: u32,
    /// Whether pages carry checksums.
    pub checksums: bool,
    /// Whether it also listens on loopback, with TLS: `ca.pem` in [`Cluster::socket_dir`] vouches for it.
    pub tcp: bool,
    /// Lines of `postgresql.conf` in addition to what every test needs.
    pub settings: Vec<(String, String)>,
    /// Environment of the server, and of nothing else: a clock of its own.
    pub environment: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_megabytes: 16,
            checksums: true,
            tcp: false,
            settings: Vec::new(),
            environment: Vec::new(),
        }
    }
}

impl Options {
    /// With one more setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Waits for nobody, ends cleanly: the walsenders' clients get everything first.
    Fast,
    /// As if it had crashed: recovery at the next start.
    Immediate,
    /// `kill -9`, of the server and all its children.
    Kill,
}

/// A cluster and its server. Both go when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    postgres: Postgres,
    dir: PathBuf,
    port: u16,
    environment: Vec<(String, String)>,
    guard: Child,
}

/// A server that stands still; it goes on when this is dropped.
#[derive(Debug)]
pub struct Frozen {
    processes: Vec<rustix::process::Pid>,
}

impl Frozen {
    fn signal(&self, signal: rustix::process::Signal) {
        for process in &self.processes {
            // One that is gone meanwhile is gone.
            rustix::process::kill_process(*process, signal).unwrap_or_default();
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal(rustix::process::Signal::CONT);
    }
}

impl Cluster {
    /// Makes a cluster and starts its server.
    ///
    /// # Errors
    /// If initdb or the server fails; with the server's log.
    pub fn start(postgres: &Postgres, options: &Options) -> Result<Self> {
        let mut cluster = Self::empty(postgres)?;
        let template = template(postgres, options)?;
        run(Owner::get()
            .command("cp")
            .arg("-a")
            .arg(template)
            .arg(cluster.data_dir()))?;
        if options.tcp {
            cluster.listen()?;
        }
        cluster.configure(&options.settings)?;
        cluster.environment.clone_from(&options.environment);
        cluster.start_again()?;
        Ok(cluster)
    }

    /// Prepares a port and a certificate.
    fn listen(&mut self) -> Result<()> {
        self.port = *ports::free(1)?.first().context("no free port")?;
        tls::make(&self.dir)?;
        let key = self.dir.join("server.key");
        Owner::get().own(&key)?;
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600))?;
        let settings = format!(
            "\nport = {}\nssl = on\nssl_cert_file = '{dir}/server.pem'\nssl_key_file = '{dir}/server.key'\n",
            self.port,
            dir = self.dir.display()
        );
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(self.data_dir().join("postgresql.conf"))?;
        file.write_all(settings.as_bytes())?;
        Ok(())
    }

    /// Who may log in how: lines of `pg_hba.conf`, after one that trusts the Unix socket.
    ///
    /// # Panics
    /// If the server doesn't take them.
    pub fn set_hba(&self, lines: &str) {
        let path = self.data_dir().join("pg_hba.conf");
        let text = format!("local all all trust\nlocal replication all trust\n{lines}\n");
        std::fs::write(path, text).expect("the file is written");
        self.sql("SELECT pg_reload_conf()");
        let errors = self.query("SELECT error FROM pg_hba_file_rules WHERE error IS NOT NULL");
        assert_eq!(errors, "", "pg_hba.conf is valid");
    }

    /// A standby of this cluster, streaming, with a slot on it.
    ///
    /// # Errors
    /// If the copy or its server fails.
    pub fn standby(&self, slot: &str) -> Result<Self> {
        let cluster = Self::empty(&self.postgres)?;
        run(self
            .command("pg_basebackup")
            .args([
                "--checkpoint=fast",
                "--write-recovery-conf",
                "--create-slot",
            ])
            .arg(format!("--slot={slot}"))
            .arg("--pgdata")
            .arg(cluster.data_dir()))?;
        cluster.configure(&[])?;
        cluster.start_again()?;
        Ok(cluster)
    }

    /// A folder for a cluster, without one in it.
    ///
    /// # Errors
    /// The system's.
    pub fn empty(postgres: &Postgres) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("tidemark-pg-")
            .tempdir()?
            .keep();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))?;
        Owner::get().own(&dir)?;
        let guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            postgres: postgres.clone(),
            dir,
            port: PORT,
            environment: Vec::new(),
            guard,
        })
    }

    fn configure(&self, settings: &[(String, String)]) -> Result<()> {
        let mut text = format!(
            "\nlisten_addresses = '{}'\nunix_socket_directories = '{}'\nfsync = off\n\
             shared_buffers = 32MB\nmax_wal_senders = 10\nmax_replication_slots = 10\n\
             wal_sender_timeout = 5s\nlog_min_messages = warning\n",
            if self.port == PORT { "" } else { "127.0.0.1" },
            self.dir.display()
        );
        for (name, value) in settings {
            writeln!(text, "{name} = '{}'", value.replace('\'', "''"))?;
        }
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(self.data_dir().join("postgresql.conf"))?;
        file.write_all(text.as_bytes())?;
        Ok(())
    }

    /// Starts the server in the folder, and waits until it answers.
    ///
    /// # Errors
    /// If it doesn't; with its log.
    pub fn start_again(&self) -> Result<()> {
        let log = self.dir.join("log");
        // It takes a server whose clock isn't its own for one that was there before.
        let own_clock = !self.environment.is_empty();
        let wait = if own_clock { "--no-wait" } else { "--wait" };
        let status = self
            .postgres
            .command("pg_ctl")
            .args(["start", wait, "--silent", "--timeout=180", "--pgdata"])
            .arg(self.data_dir())
            .arg("--log")
            .arg(&log)
            .envs(self.environment.iter().cloned())
            .env("FAKETIME_ONLY_CMDS", "postgres")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        let answers = || self.try_sql("SELECT 1").is_ok();
        let looks = START_MAX.as_millis() / POLL.as_millis();
        let started = status.success()
            && (!own_clock
                || (0..looks).any(|_| {
                    std::thread::sleep(POLL);
                    answers()
                }));
        ensure!(
            started,
            "PostgreSQL {} did not start:\n{}",
            self.postgres.major(),
            self.log()
        );
        Ok(())
    }

    /// Whether the server's process is there.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.pid()
            .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
    }

    fn pid(&self) -> Option<rustix::process::Pid> {
        let file = std::fs::read_to_string(self.data_dir().join("postmaster.pid")).ok()?;
        rustix::process::Pid::from_raw(file.lines().next()?.trim().parse().ok()?)
    }

    /// Stops the server and waits for its end.
    ///
    /// # Errors
    /// If it doesn't stop.
    pub fn stop(&self, how: Stop) -> Result<()> {
        let pid = self.pid().context("the server does not run")?;
        let signal = match how {
            Stop::Fast => rustix::process::Signal::INT,
            Stop::Immediate => rustix::process::Signal::QUIT,
            Stop::Kill => rustix::process::Signal::KILL,
        };
        rustix::process::kill_process(pid, signal)?;
        let looks = STOP_MAX.as_millis() / POLL.as_millis();
        for _ in 0..looks {
            if rustix::process::test_kill_process(pid).is_err() {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        bail!("the server did not stop:\n{}", self.log())
    }

    /// Every process of the server stands still, as on a machine that hangs; until what is returned is
    /// dropped.
    ///
    /// # Errors
    /// If the server doesn't run.
    pub fn freeze(&self) -> Result<Frozen> {
        let postmaster = self.pid().context("the server does not run")?;
        let mut processes = vec![postmaster];
        // First the one that starts the others.
        rustix::process::kill_process(postmaster, rustix::process::Signal::STOP)?;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // The parent stands behind the name in brackets and the state; one that is gone has none.
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
            let parent = after.split_whitespace().nth(1);
            let parent = parent.and_then(|parent| parent.parse().ok());
            if parent == Some(postmaster.as_raw_nonzero().get()) {
                processes.extend(rustix::process::Pid::from_raw(pid));
            }
        }
        let frozen = Frozen { processes };
        frozen.signal(rustix::process::Signal::STOP);
        Ok(frozen)
    }

    /// Makes a standby a primary, and waits until it is one.
    ///
    /// # Errors
    /// If it doesn't become one.
    pub fn promote(&self) -> Result<()> {
        run(self
            .postgres
            .command("pg_ctl")
            .args(["promote", "--silent", "--wait", "--pgdata"])
            .arg(self.data_dir()))
        .map(|_| ())
    }

    /// The installed server it runs on.
    #[must_use]
    pub const fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The port, of its Unix socket and on loopback.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its Unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// A program of the server's, told where the cluster is.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.postgres.command(program);
        command
            .env("PGHOST", &self.dir)
            .env("PGPORT", self.port.to_string());
        command
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    /// What the server logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Runs statements; the rows of all of them, a line each, fields separated by `|`.
    ///
    /// # Errors
    /// The server's.
    pub fn try_sql(&self, sql: &str) -> Result<String> {
        let mut command = self.command("psql");
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
        // As a script: each statement a transaction of its own, unless it says otherwise.
        command.args(["--set", "ON_ERROR_STOP=1", "--file=-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let mut input = child.stdin.take().context("psql has no input")?;
        let text = sql.to_owned();
        let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let output = child.wait_with_output()?;
        let written = writer.join();
        ensure!(
            output.status.success() && matches!(written, Ok(Ok(()))),
            "psql failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned())
    }

    /// As [`Self::try_sql`].
    ///
    /// # Panics
    /// If the statement fails.
    #[must_use = "the rows"]
    pub fn query(&self, sql: &str) -> String {
        self.try_sql(sql).expect("the statement succeeds")
    }

    /// Runs statements that return nothing of interest.
    ///
    /// # Panics
    /// If one fails.
    pub fn sql(&self, sql: &str) {
        drop(self.query(sql));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The guard ends the server and removes the folder.
        drop(self.guard.stdin.take());
        drop(self.guard.wait());
    }
}

/// Runs a command to its end: its output, or what it said.
fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(
        output.status.success(),
        "{} failed: {}",
        command.get_program().display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A data directory as initdb makes it, made once a process and option.
fn template(postgres: &Postgres, options: &Options) -> Result<PathBuf> {
    static MADE: Mutex<Vec<(String, Cluster)>> = Mutex::new(Vec::new());
    let name = format!(
        "{}-{}-{}",
        postgres.major(),
        options.segment_megabytes,
        options.checksums
    );
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, cluster)) = made.iter().find(|(known, _)| *known == name) {
        return Ok(cluster.data_dir());
    }
    let cluster = Cluster::empty(postgres)?;
    let mut command = postgres.command("initdb");
    command
        .args([
            "--username=postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
        ])
        .arg(format!("--wal-segsize={}", options.segment_megabytes))
        .arg("--pgdata")
        .arg(cluster.data_dir());
    match (options.checksums, postgres.major()) {
        (true, ..18) => drop(command.arg("--data-checksums")),
        (false, 18..) => drop(command.arg("--no-data-checksums")),
        _ => {}
    }
    run(&mut command)?;
    let data = cluster.data_dir();
    made.push((name, cluster));
    Ok(data)
}
