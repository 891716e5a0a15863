//! What a server is like, asked in ordinary SQL: for `doctor`, for `init`, for the agent's start.
//!
//! [`look`] asks, [`judge`] decides what is wrong and what to do about it (pure), [`setup`] writes
//! what an administrator has to run. With [`crate::examine`] the only place where sqlx is used: capture
//! and bases speak the replication protocol on [`crate::wire`].
//!
//! **Failure.** A server that can't be reached is a finding like any other; every question has a time
//! limit. Nothing on the server is changed.

mod canary;
mod check;
mod folder;
mod login;
mod servers;
mod setup;
mod sql;

use std::time::Duration;

use tidemark_engine::canary::CanaryForm;

pub use canary::CanaryPlace;
pub use check::{Finding, Grade, Topic, judge};
pub use folder::DataFolder;
pub use setup::{hba_lines, role_statements};

use crate::capture::Followed;
use crate::conninfo::{Address, ConnInfo};
use servers::{Captured, Unreached, captured};

/// How long all questions together may take.
const LOOK_TIME: Duration = Duration::from_secs(20);

/// How long one of several servers may take over one question.
const ONE_SERVER_TIME: Duration = Duration::from_secs(5);

/// What the agent wants from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its slot.
    pub slot: String,
    /// What the server calls its connection, where the connection string doesn't say.
    pub application_name: String,
    /// Whether commits are to wait until the regions hold them.
    pub waits_for_regions: bool,
    /// How much log the slot may hold back, in bytes.
    pub slot_keep_max: u64,
    /// How canaries are to be written, if they are.
    pub canary: Option<CanaryForm>,
    /// What was captured so far.
    pub followed: Option<Followed>,
    /// The number of the user that the agent runs as.
    pub runs_as: u32,
}

/// A replication slot as the server describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotState {
    /// `physical` or `logical`.
    pub kind: String,
    /// Somebody streams from it.
    pub is_active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes of log that it holds back.
    pub held_bytes: Option<u64>,
    /// Why it is void, where the server says (17 and later).
    pub invalidation: Option<String>,
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Server {
    /// As it prints it, such as `15.20 (Debian 15.20-0+deb12u1)`.
    pub version: String,
    /// The major version.
    pub major: u16,
    /// What Debian calls the cluster, such as `15/main`; may be empty.
    pub cluster_name: String,
    /// The database of the connection.
    pub database: String,
    /// The role.
    pub user: String,
    /// It may do anything.
    pub is_superuser: bool,
    /// It may replicate.
    pub may_replicate: bool,
    /// It sees the statistics.
    pub monitors: bool,
    /// It may start and stop a backup, which a base from the data directory needs.
    pub may_back_up: bool,
    /// The data directory, if it is on this machine.
    pub data_folder: Option<DataFolder>,
    /// It replays another server's log.
    pub is_standby: bool,
    /// Settings that matter here, in the server's base units.
    pub settings: std::collections::BTreeMap<String, String>,
    /// Connections that send log now.
    pub senders: u64,
    /// Slots that exist.
    pub slots: u64,
    /// The agent's slot.
    pub slot: Option<SlotState>,
    /// Bytes of all databases that the role may ask about.
    pub database_bytes: Option<u64>,
    /// Where canaries would be written.
    pub canary: CanaryPlace,
    /// The oldest segment of log that it has, as its file is named without the timeline; none if the role
    /// may not know.
    pub oldest_log: Option<String>,
    /// The server is on this machine.
    pub is_here: bool,
}

impl SlotState {
    /// Whether the server keeps nothing for it any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost") || self.invalidation.is_some()
    }
}

impl Server {
    /// A setting as a number; none if the server has no such setting.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<i64> {
        self.settings.get(name)?.parse().ok()
    }

    /// Whether a setting is `on`; false if the server has no such setting.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        self.settings.get(name).is_some_and(|value| value == "on")
    }
}

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// What the server says of itself, if it could be asked.
    pub server: Option<Server>,
    /// The database system's identifier, if a replication connection could be made.
    pub system: Option<u64>,
    /// One for each thing that was looked at.
    pub checks: Vec<Finding>,
}

impl Findings {
    /// The worst of the checks.
    #[must_use]
    pub fn worst(&self) -> Grade {
        let grades = self.checks.iter().map(|check| check.grade);
        grades.max().unwrap_or(Grade::Fine)
    }
}

/// Asks a server for everything that protection needs.
pub async fn look(info: &ConnInfo, wanted: &Wanted) -> Findings {
    match tokio::time::timeout(LOOK_TIME, look_at(info, wanted)).await {
        Ok(findings) => findings,
        Err(_elapsed) => Findings {
            checks: vec![Finding::broken(
                Topic::Connection,
                format!("no answer within {} s", LOOK_TIME.as_secs()),
                "look whether the server hangs, and at the network between",
            )],
            ..Findings::default()
        },
    }
}

async fn look_at(info: &ConnInfo, wanted: &Wanted) -> Findings {
    let mut findings = Findings::default();
    // The protocol of ours knows several hosts and which of them is wanted: ask where it ends.
    let reached = captured(info, wanted.followed.as_ref()).await;
    let peer = match &reached {
        Ok(captured) => {
            findings.system = Some(captured.system);
            Some(captured.peer.clone())
        }
        Err(Unreached::Wire(_)) => None,
        Err(Unreached::Stale(stale)) => {
            findings.checks.push(servers::of_stale(stale));
            return findings;
        }
    };
    let server = match sql::ask(info, peer.as_deref(), &wanted.slot).await {
        Ok(mut server) => {
            let folder = server.settings.get("data_directory");
            server.data_folder = folder.and_then(|path| folder::look(info, path, wanted.runs_as));
            server.is_here = info.addresses.iter().all(Address::is_local);
            server
        }
        Err(error) => {
            findings.checks.push(match &reached {
                Err(Unreached::Wire(wire)) => check::of_connection(info, wire),
                _ => check::of_sql(info, sql::code(&error).as_deref(), &error),
            });
            return findings;
        }
    };
    findings.checks = judge(&server, wanted, info.application_name.as_deref());
    match &reached {
        Ok(captured) => findings.reached(info, &server, captured),
        Err(Unreached::Wire(error)) => {
            let refused = check::of_replication(info, error);
            // What the server refused says more than the same in its settings.
            findings
                .checks
                .retain(|check| check.topic != refused.topic || check.grade != Grade::Broken);
            findings.checks.insert(0, refused);
        }
        Err(Unreached::Stale(_)) => {}
    }
    if let Ok(captured) = &reached {
        for one in elsewhere_than(info, &wanted.slot, &captured.peer).await {
            let found = servers::of_slot(&one, &wanted.slot);
            findings.checks.push(found);
        }
    }
    findings.server = Some(server);
    findings
}

impl Findings {
    /// Adds what the connection itself tells.
    fn reached(&mut self, info: &ConnInfo, server: &Server, captured: &Captured) {
        let peer = &captured.peer;
        let said = format!(
            "{peer} answers as role {}; PostgreSQL {}",
            server.user, server.version
        );
        let connection = Finding::fine(Topic::Connection, said);
        let parted = captured.parted.as_deref().map(servers::of_parted);
        let link = login::of_link(info, peer, captured.encrypted);
        let first = [Some(connection), parted, link].into_iter().flatten();
        self.checks.splice(0..0, first);
    }
}

/// The agent's slot on the server that is captured, while no agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotNow {
    /// The slot; none if it is not there.
    pub state: Option<SlotState>,
    /// The server has removed log that was not captured.
    pub recycled: bool,
}

/// Looks for the slot; none if the server can't be asked now.
pub async fn slot(info: &ConnInfo, slot: &str, followed: Option<&Followed>) -> Option<SlotNow> {
    let asked = async {
        let captured = captured(info, followed).await.ok()?;
        let mut addresses = info.addresses.iter();
        let address = addresses.find(|address| address.to_string() == captured.peer)?;
        let (state, oldest) = sql::slot_and_log_at(info, address, slot).await.ok()?;
        let recycled = is_recycled(oldest.as_deref(), followed);
        Some(SlotNow { state, recycled })
    };
    let answer = tokio::time::timeout(ONE_SERVER_TIME, asked).await;
    answer.ok().flatten()
}

/// Whether the log that is captured next is older than the oldest that the server has.
fn is_recycled(oldest: Option<&str>, followed: Option<&Followed>) -> bool {
    let needed = followed.and_then(Followed::next_segment);
    let both = oldest.zip(needed.as_deref());
    both.is_some_and(|(oldest, needed)| needed < oldest)
}

/// Which database system answers; none if none does.
pub async fn system(info: &ConnInfo) -> Option<u64> {
    let asked = tokio::time::timeout(ONE_SERVER_TIME, captured(info, None)).await;
    asked.ok()?.ok().map(|captured| captured.system)
}

/// The agent's slot on a server that it does not capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotElsewhere {
    /// The server.
    pub peer: String,
    /// Bytes of log that it holds back there.
    pub held_bytes: Option<u64>,
}

/// Looks for the slot on the servers of a connection string that are not the one at `captured`: after a
/// fail-over the old primary still has it, and keeps log for nobody from the moment on that it is back.
/// Servers that don't answer are passed over.
async fn elsewhere_than(info: &ConnInfo, slot: &str, captured: &str) -> Vec<SlotElsewhere> {
    let mut found = Vec::new();
    for address in &info.addresses {
        let peer = address.to_string();
        if peer == captured {
            continue;
        }
        let asked = tokio::time::timeout(ONE_SERVER_TIME, sql::slot_at(info, address, slot));
        if let Ok(Ok(Some(state))) = asked.await
            && state.kind == "physical"
            && !state.is_active
            && !state.is_lost()
            && state.held_bytes.is_some()
        {
            let held_bytes = state.held_bytes;
            found.push(SlotElsewhere { peer, held_bytes });
        }
    }
    found
}

/// What the servers of a connection string with several are to one another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Others {
    /// Those that are not captured and have the slot.
    pub slots: Vec<SlotElsewhere>,
    /// Why more than one of them takes writes, in words.
    pub parted: Option<String>,
}

/// Looks at the servers that are not captured; none if the one that is can't be told now.
pub async fn others(info: &ConnInfo, slot: &str, followed: Option<&Followed>) -> Option<Others> {
    if info.addresses.len() < 2 {
        return Some(Others::default());
    }
    let captured = tokio::time::timeout(LOOK_TIME, captured(info, followed)).await;
    let captured = captured.ok()?.ok()?;
    Some(Others {
        slots: elsewhere_than(info, slot, &captured.peer).await,
        parted: captured.parted,
    })
}
