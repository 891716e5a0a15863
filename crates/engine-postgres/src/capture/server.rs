//! Asking a server what it is, and making its slot: what both opening and reconnecting need.
//!
//! Every question has a time limit. A dropped question only costs its connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemark_format::postgres::TimelineId;

use super::buffer::Histories;
use super::plan::{Sought, View, choose};
use super::pulse::IN_RECOVERY;
use crate::conninfo::{ConnInfo, ConnInfoError, Surroundings};
use crate::replication::{self, Slot};
use crate::timeline::History;
use crate::wire::{Connection, Mode, WireError};

/// The code of "no such file": log or a history that the server doesn't have any more.
pub(super) const NO_FILE: &str = "58P01";
/// The version from which a replication connection can read a slot.
const READ_SLOT_SINCE: u16 = 15;

/// How to reach the server.
#[derive(Clone)]
pub(crate) struct Connector {
    text: String,
    /// What the server calls us unless the connection string says.
    name: String,
    around: Arc<dyn Surroundings + Send + Sync>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text may hold a password.
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    pub(crate) fn new(
        text: String,
        name: String,
        around: Arc<dyn Surroundings + Send + Sync>,
    ) -> Self {
        Self { text, name, around }
    }

    /// Read anew each time: a password may have changed in the passfile.
    pub(crate) fn info(&self) -> Result<ConnInfo, ConnInfoError> {
        let mut info = ConnInfo::parse(&self.text, &*self.around)?;
        info.application_name
            .get_or_insert_with(|| self.name.clone());
        Ok(info)
    }

    /// As [`Self::info`], to the one server that `peer` names.
    pub(crate) fn info_of(&self, peer: &str) -> Result<ConnInfo, ConnInfoError> {
        self.info().map(|info| only(info, peer))
    }
}

/// The connection string, to the one server that `peer` names.
pub(crate) fn only(mut info: ConnInfo, peer: &str) -> ConnInfo {
    if let Some(at) = info.addresses.iter().position(|a| a.to_string() == peer) {
        info.addresses = vec![info.addresses.swap_remove(at)];
        info.target = crate::conninfo::TargetSession::Any;
    }
    info
}

/// Why a server could not be looked at.
#[derive(Debug)]
pub(crate) enum LookError {
    ConnInfo(ConnInfoError),
    Wire(WireError),
    Slow { what: &'static str, seconds: u64 },
    Stale(Stale),
}

/// Only servers answer that are on older timelines than what was captured last.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{peer} is on timeline {timeline}, and timeline {followed} was captured last: as a rule it is the primary of before a fail-over, up again. It is not gone back to: nothing is captured until a server on timeline {followed} or a newer one answers. Bring that one back and stop {peer}; or, if {peer} is right, leave only it in the connection string and restart the agent"
)]
pub struct Stale {
    /// The newest of them.
    pub peer: String,
    /// Its timeline.
    pub timeline: TimelineId,
    /// What was captured.
    pub followed: TimelineId,
}

impl From<WireError> for LookError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// A server that was looked at, with the connection to stream on.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) connection: Connection,
    pub(crate) view: View,
    pub(crate) version: Option<String>,
    pub(crate) info: ConnInfo,
}

/// Runs `work`, but no longer than `limit`.
pub(crate) async fn within<T, E>(
    limit: Duration,
    what: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, LookError>
where
    LookError: From<E>,
{
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(LookError::from),
        Err(_elapsed) => Err(LookError::Slow {
            what,
            seconds: limit.as_secs(),
        }),
    }
}

/// Connects and asks everything that a decision needs. Of several servers the one that is to be captured.
pub(crate) async fn look(
    connector: &Connector,
    slot: &str,
    limit: Duration,
    sought: &Sought,
) -> Result<Looked, LookError> {
    let info = connector.info().map_err(LookError::ConnInfo)?;
    let mut found = survey(&info, slot, limit).await?;
    let views: Vec<(&str, &View)> = found
        .iter()
        .map(|looked| (looked.connection.peer(), &looked.view))
        .collect();
    let index = chosen(&info, &views, sought).map_err(LookError::Stale)?;
    let looked = found.swap_remove(index);
    for other in found {
        other.connection.close().await;
    }
    Ok(looked)
}

/// Looks at every server that answers and has the role asked for; at least one.
pub(crate) async fn survey(
    info: &ConnInfo,
    slot: &str,
    limit: Duration,
) -> Result<Vec<Looked>, LookError> {
    // Every address has a limit of its own.
    let connections = if info.addresses.len() > 1 {
        Connection::open_all(info, Mode::Physical).await?
    } else {
        vec![Connection::open(info, Mode::Physical).await?]
    };
    let mut found = Vec::new();
    let mut failed = None;
    for connection in connections {
        match look_at(connection, info, slot, limit).await {
            Ok(looked) => found.push(looked),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// Which of the servers found is captured. The only one of a connection string is, whatever it is.
pub(crate) fn chosen(
    info: &ConnInfo,
    found: &[(&str, &View)],
    sought: &Sought,
) -> Result<usize, Stale> {
    if info.addresses.len() == 1 {
        return Ok(0);
    }
    let views: Vec<&View> = found.iter().map(|(_, view)| *view).collect();
    choose(&views, sought).ok_or_else(|| {
        let newest = found.iter().max_by_key(|(_, view)| view.identity.timeline);
        let (peer, timeline) = newest.map_or(("nobody", TimelineId::FIRST), |(peer, view)| {
            (*peer, view.identity.timeline)
        });
        Stale {
            peer: peer.to_owned(),
            timeline,
            followed: sought.newest,
        }
    })
}

async fn look_at(
    mut connection: Connection,
    info: &ConnInfo,
    slot: &str,
    limit: Duration,
) -> Result<Looked, LookError> {
    let info = only(info.clone(), connection.peer());
    let view = within(limit, "say who it is", ask(&mut connection, &info, slot)).await?;
    let version = connection.parameter("server_version").map(str::to_owned);
    Ok(Looked {
        connection,
        view,
        version,
        info,
    })
}

async fn ask(connection: &mut Connection, info: &ConnInfo, slot: &str) -> Result<View, WireError> {
    let mut view = view_of(connection).await?;
    view.slot = slot_of(connection, info, slot).await?;
    Ok(view)
}

/// What a server says about itself, without the slot.
pub(crate) async fn view_of(connection: &mut Connection) -> Result<View, WireError> {
    let identity = replication::identify(connection).await?;
    let segment = replication::segment_size(connection).await?;
    let standby = replication::show(connection, IN_RECOVERY).await? == "on";
    let history = history(connection, identity.timeline).await?;
    Ok(View {
        identity,
        segment,
        standby,
        history,
        slot: None,
    })
}

async fn history(
    connection: &mut Connection,
    timeline: TimelineId,
) -> Result<Option<History>, WireError> {
    if timeline == TimelineId::FIRST {
        return Ok(Some(History::first()));
    }
    let file = history_file(connection, timeline).await?;
    // One that can't be followed is as good as none.
    Ok(file.and_then(|file| History::parse(timeline, &file).ok()))
}

/// A history file; none if the server doesn't have it.
async fn history_file(
    connection: &mut Connection,
    timeline: TimelineId,
) -> Result<Option<Bytes>, WireError> {
    match replication::history(connection, timeline).await {
        Err(error) if error.code() == Some(NO_FILE) => Ok(None),
        told => told,
    }
}

/// The histories that lead to `timeline`, as far as the server has them.
pub(super) async fn histories(
    connection: &mut Connection,
    timeline: TimelineId,
) -> Result<Histories, WireError> {
    let Some(newest) = history_file(connection, timeline).await? else {
        return Ok(Arc::from([]));
    };
    let mut files = Vec::new();
    let ancestors = History::parse(timeline, &newest)
        .map(|history| history.forks().to_vec())
        .unwrap_or_default();
    for fork in ancestors {
        if fork.parent == TimelineId::FIRST {
            continue;
        }
        if let Some(file) = history_file(connection, fork.parent).await? {
            files.push((fork.parent, file));
        }
    }
    files.push((timeline, newest));
    Ok(Arc::from(files))
}

/// Our slot, by the connection itself where the server can, else by an ordinary one.
pub(crate) async fn slot_of(
    connection: &mut Connection,
    info: &ConnInfo,
    slot: &str,
) -> Result<Option<Slot>, WireError> {
    if connection.major() >= Some(READ_SLOT_SINCE) {
        return replication::read_slot(connection, slot).await;
    }
    let mut ordinary = Connection::open(info, Mode::Sql).await?;
    let read = replication::read_slot(&mut ordinary, slot).await;
    ordinary.close().await;
    read
}
