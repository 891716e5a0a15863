//! What goes into the sandbox as a file, and what comes out of it as one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_engine::examine::{Examined, Questions};
use tidemark_engine_postgres::examine::{ReplayGoal, Replayed};

use super::isolate::Tried;

/// The file with the job, in the scratch.
pub(super) const JOB: &str = "job/job.json";
/// The file with the outcome.
pub(super) const RESULT: &str = "job/result.json";
/// What the child said beside it.
pub(super) const SAID: &str = "job/said";

/// Memory of a sandbox unless told otherwise.
const MEMORY_BYTES: u64 = 4 << 30;
/// Processes: a server's, with room.
const PROCESSES: u64 = 512;
/// A day: the longest replay that a drill waits for.
const SECONDS: u64 = 86_400;

/// What the sandbox is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The engine, as heads name it.
    pub engine: String,
    /// The database: a file, or a data directory.
    pub data: PathBuf,
    /// Where a server's replay must end; without it nothing is left to replay.
    pub replay: Option<ReplayGoal>,
    /// What is asked.
    pub questions: Questions,
    /// The folder of the server's programs.
    pub pg_bin: Option<PathBuf>,
    /// Libraries that may be loaded with the server, if the source loads them; all others are not.
    pub libraries: Vec<String>,
    /// How much of the machine it may take.
    pub limits: Limits,
    /// What it must not be able to read: identities, passphrases, the credentials' folder.
    pub forbidden: Vec<PathBuf>,
    /// The rest is the parent's to fill in: the network that it is in itself.
    #[serde(default)]
    pub(super) outside_network: String,
    /// And its processes.
    #[serde(default)]
    pub(super) outside_processes: String,
    /// How the sandbox was made.
    #[serde(default)]
    pub(super) method: String,
    /// What could not be used for it.
    #[serde(default)]
    pub(super) tried: Vec<Tried>,
}

impl Job {
    /// A job that only looks.
    #[must_use]
    pub fn new(engine: &str, data: PathBuf, questions: Questions) -> Self {
        Self {
            engine: engine.to_owned(),
            data,
            replay: None,
            questions,
            pg_bin: None,
            libraries: Vec::new(),
            limits: Limits::default(),
            forbidden: Vec::new(),
            outside_network: String::new(),
            outside_processes: String::new(),
            method: String::new(),
            tried: Vec::new(),
        }
    }
}

/// How much of the machine a sandbox may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Address space of each process, in bytes.
    pub memory_bytes: u64,
    /// Processes of its user.
    pub processes: u64,
    /// The longest that all of it may take.
    pub seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: MEMORY_BYTES,
            processes: PROCESSES,
            seconds: SECONDS,
        }
    }
}

/// What the sandbox did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// How it was isolated, and the proof.
    pub isolation: Isolation,
    /// Where replay ended.
    pub replayed: Option<Replayed>,
    /// What the database answered.
    pub examined: Option<Examined>,
    /// Why it could not be asked, or not to the end.
    pub failure: Option<Failure>,
    /// What took how long, in order, without overlap: `isolate`, `replay`, `start`, `checks`.
    pub phases: Vec<Phase>,
    /// Limits as the system has them in force.
    pub limits: BTreeMap<String, String>,
}

/// Why the database could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault.
    pub cause: Cause,
    /// What happened, in words.
    pub what: String,
}

/// Whose fault it is that a database could not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Replay failed, or ended elsewhere than promised: the backup's.
    Replay,
    /// The database can't be opened, or started: the backup's.
    Database,
    /// Something could have left the sandbox, so nothing was started.
    Egress,
    /// Programs, memory, disk: this host's.
    Setup,
    /// It took longer than it may.
    Limit,
    /// The sandbox ended without an answer.
    Lost,
}

impl Cause {
    /// Whether nothing was proved about the backup, neither way.
    #[must_use]
    pub const fn is_infrastructure(self) -> bool {
        matches!(self, Self::Setup | Self::Limit | Self::Lost)
    }
}

/// A part of the sandbox's time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// When it began.
    pub began: Timestamp,
    /// How long it took.
    pub took_ms: u64,
}

/// How a sandbox was isolated, as seen from inside.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Isolation {
    /// How it was made.
    pub method: String,
    /// The unit that it is, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// What could not be used, and why.
    pub tried: Vec<Tried>,
    /// Whether it has a network of its own.
    pub own_network: bool,
    /// Whether it sees no processes but its own.
    pub own_processes: bool,
    /// Interfaces that are up, loopback aside.
    pub interfaces: Vec<String>,
    /// Routes, as many as there are.
    pub routes: u64,
    /// Attempts to leave.
    pub egress: Vec<Attempt>,
    /// The user it runs as.
    pub user: u32,
    /// Whether its processes can gain no privileges.
    pub no_new_privileges: bool,
    /// Names of its environment's variables.
    pub environment: Vec<String>,
    /// What it could read and must not.
    pub secrets_in_reach: Vec<PathBuf>,
}

/// An attempt to leave the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Where to: an address that is nobody's.
    pub to: String,
    /// What the system said.
    pub said: String,
    /// Whether it refused at once, for want of a way.
    pub refused: bool,
}

impl Isolation {
    /// Why this is no isolation; none if it is one.
    #[must_use]
    pub fn broken(&self) -> Option<String> {
        if !self.own_network {
            return Some("the sandbox has no network of its own: it shares the host's".to_owned());
        }
        if let Some(name) = self.interfaces.first() {
            return Some(format!("the sandbox has a network interface: {name} is up"));
        }
        if self.routes > 0 {
            return Some(format!("the sandbox has {} routes", self.routes));
        }
        if self.egress.is_empty() {
            return Some("no attempt to leave the sandbox was made".to_owned());
        }
        if let Some(open) = self.egress.iter().find(|attempt| !attempt.refused) {
            return Some(format!(
                "an attempt to reach {} from inside was not refused: {}",
                open.to, open.said
            ));
        }
        if self.user == 0 {
            return Some("the sandbox runs as root".to_owned());
        }
        if let Some(path) = self.secrets_in_reach.first() {
            return Some(format!("the sandbox can read {}", path.display()));
        }
        None
    }
}

impl Outcome {
    /// One that only says why there is none.
    #[must_use]
    pub(super) fn failed(cause: Cause, what: impl Into<String>) -> Self {
        Self {
            failure: Some(Failure {
                cause,
                what: what.into(),
            }),
            ..Self::default()
        }
    }

    /// One that says that its time was over.
    #[must_use]
    pub(super) fn too_long(limits: &Limits) -> Self {
        let seconds = limits.seconds;
        let what = format!("it took longer than the {seconds} s that it may, and was ended");
        Self::failed(Cause::Limit, what)
    }

    /// What the child left in `folder`, if it is whole.
    pub(super) fn load(folder: &Path) -> Option<Self> {
        let bytes = std::fs::read(folder.join(RESULT)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed() -> Isolation {
        Isolation {
            own_network: true,
            user: 1000,
            egress: vec![Attempt {
                to: "192.0.2.1:443".to_owned(),
                said: "Network is unreachable".to_owned(),
                refused: true,
            }],
            ..Isolation::default()
        }
    }

    #[test]
    fn a_closed_sandbox_is_one() {
        assert_eq!(closed().broken(), None);
    }

    #[test]
    fn every_way_out_is_named() {
        let mut shared = closed();
        shared.own_network = false;
        let mut interface = closed();
        interface.interfaces.push("eth0".to_owned());
        let mut routed = closed();
        routed.routes = 2;
        let mut open = closed();
        open.egress[0].refused = false;
        let mut unprobed = closed();
        unprobed.egress.clear();
        let mut root = closed();
        root.user = 0;
        let mut keys = closed();
        keys.secrets_in_reach.push("/etc/tidemark/identity".into());
        for (isolation, word) in [
            (shared, "the host's"),
            (interface, "eth0"),
            (routed, "2 routes"),
            (open, "192.0.2.1"),
            (unprobed, "no attempt"),
            (root, "root"),
            (keys, "/etc/tidemark/identity"),
        ] {
            let why = isolation.broken().unwrap();
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn only_a_hosts_own_trouble_proves_nothing() {
        for (cause, is) in [
            (Cause::Replay, false),
            (Cause::Database, false),
            (Cause::Egress, false),
            (Cause::Setup, true),
            (Cause::Limit, true),
            (Cause::Lost, true),
        ] {
            assert_eq!(cause.is_infrastructure(), is, "{cause:?}");
        }
    }
}
