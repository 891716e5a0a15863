//! The shipped programs as children: one-shot commands with what they printed, and the daemon.
//!
//! A child inherits none of what would turn it to another repository, key or service manager. A
//! daemon dies with its value, so that a failed test leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tidemark_host::{Clock as _, Monotonic, SystemClock};
use tidemark_tests::{eventually, program};

/// What a child must not inherit.
const NOT_INHERITED: [&str; 9] = [
    "TIDEMARK_REGION",
    "TIDEMARK_IDENTITY",
    "TIDEMARK_DROP_IN",
    "TIDEMARK_LOG",
    "STATE_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "AWS_PROFILE",
];
/// Starting, draining and ending never take longer. On a quiet machine the longest of these waits take
/// some seconds; one that is five times slower, shared by two tests, and keeps a process from its core for
/// a while, needs all of it. Nobody waits longer for what comes sooner.
pub(crate) const SOON: Duration = Duration::from_secs(120);

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

/// Lets time pass where time itself is the subject: between two commits, before a kill.
pub(crate) fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// Whether hours are allowed.
pub(crate) fn long() -> bool {
    std::env::var_os("TIDEMARK_LONG").is_some_and(|value| value == "1")
}

/// Whether this is root: some bad inputs need another user or a mount.
pub(crate) fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        uid.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
    })
}

/// Says loudly that something could not be shown here; a failure where everything must be shown.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub(crate) fn skip(reason: &str) {
    let required = std::env::var_os("TIDEMARK_REQUIRE_SERVERS").is_some_and(|v| v == "1");
    assert!(!required, "{reason}");
    eprintln!("SKIPPED: {reason}");
}

/// Prints how long the test took when dropped.
#[derive(Debug)]
pub(crate) struct Timed(Monotonic);

impl Timed {
    pub(crate) fn start() -> Self {
        Self(SystemClock.monotonic())
    }

    pub(crate) fn so_far(&self) -> Duration {
        SystemClock.monotonic().since(self.0)
    }
}

impl Drop for Timed {
    #[expect(clippy::print_stderr, reason = "each test says how long it took")]
    fn drop(&mut self) {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("a test");
        eprintln!("TIME {name}: {:.1} s", self.so_far().as_secs_f64());
    }
}

/// A command of a shipped program, with a clean environment.
pub(crate) fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    for variable in NOT_INHERITED {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    // What the restore tool keeps of its evidence must not come to lie in the home of who tests.
    command.env("XDG_STATE_HOME", "/dev/null");
    command
}

/// A command that ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) words: String,
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

impl Ran {
    /// Runs `command` to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let timed = SystemClock.monotonic();
        let output = command
            .output()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            words: words(command),
            code: code_of(output.status),
            out: text(&output.stdout),
            err: text(&output.stderr),
            took: SystemClock.monotonic().since(timed),
        }
    }

    /// It must have ended well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.ends_with(0)
    }

    /// It must have ended with `code`.
    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// It must have said all of `words`, on either stream.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            let said = self.out.contains(word) || self.err.contains(word);
            assert!(said, "{word:?} isn't said by {self}");
        }
        self
    }

    /// The JSON document on its standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("no JSON ({e}): {self}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            words,
            code,
            out,
            err,
            ..
        } = self;
        write!(
            f,
            "{words}\nended with {code}\n--- out\n{out}\n--- err\n{err}"
        )
    }
}

/// A command as a person would type it.
fn words(command: &Command) -> String {
    let arguments = command.get_args().map(|word| word.to_string_lossy());
    let all: Vec<_> = std::iter::once(command.get_program().to_string_lossy())
        .chain(arguments)
        .collect();
    all.join(" ")
}

/// The exit code, or 128 and the signal, as a shell has it.
fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}

/// A running child whose output goes to a file.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`, which writes to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let file = std::fs::File::create(log).expect("a log file");
        let twin = file.try_clone().expect("a second handle");
        let child = command
            .stdout(file)
            .stderr(twin)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self {
            child,
            log: log.to_owned(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its exit code, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().expect("a child").map(code_of)
    }

    #[track_caller]
    pub(crate) fn assert_running(&mut self) {
        let ended = self.ended();
        assert!(
            ended.is_none(),
            "it ended with {ended:?} by itself:\n{}",
            self.log()
        );
    }

    /// Waits for it to end by itself.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> i32 {
        let log = self.log.clone();
        eventually(&format!("the end of {}", log.display()), SOON, || {
            self.ended()
        })
    }

    /// It ends by itself because another writer has the source; what it said.
    #[track_caller]
    pub(crate) fn wait_fenced(mut self) -> String {
        assert_eq!(self.wait(), 11, "{}", self.log());
        self.log()
    }

    /// SIGKILL: no goodbye.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(
            sent.expect("kill runs").success(),
            "no signal {name} to {pid}"
        );
    }

    /// SIGSTOP, and waits until all of its threads stand still; `false` if it ended before that.
    #[track_caller]
    pub(crate) fn hold(&mut self) -> bool {
        if self.ended().is_some() {
            return false;
        }
        // A child that has ended keeps its number until it is waited for: nobody else is meant.
        self.signal("STOP");
        let tasks = format!("/proc/{}/task", self.pid());
        eventually("it stands still", SOON, || {
            if self.ended().is_some() {
                return Some(false);
            }
            let tasks = std::fs::read_dir(&tasks).ok()?.flatten();
            let mut states = tasks.filter_map(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
                stat.rsplit_once(") ")?.1.chars().next()
            });
            states
                .all(|state| matches!(state, 'T' | 't' | 'Z' | 'X'))
                .then_some(true)
        })
    }

    /// Lets it go on after [`Self::hold`].
    pub(crate) fn go_on(&mut self) {
        if self.ended().is_none() {
            self.signal("CONT");
        }
    }

    /// SIGTERM, and a clean end.
    #[track_caller]
    pub(crate) fn terminate(mut self) {
        self.signal("TERM");
        let code = self.wait();
        assert_eq!(code, 0, "not a clean end:\n{}", self.log());
    }

    /// A number of `/proc/PID/status`, such as `VmHWM` (kB) or `Threads`.
    pub(crate) fn proc_status(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let text = text.expect("a running process");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no {field} in\n{text}"))
    }
}

impl Drop for Daemon {
    #[expect(
        clippy::print_stderr,
        reason = "what a failed test needs to be understood"
    )]
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(60);
            eprintln!(
                "--- end of {}\n{}",
                self.log.display(),
                lines[from..].join("\n")
            );
        }
    }
}
