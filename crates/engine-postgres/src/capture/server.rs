//! Asking a server what it is, and making its slot: what both opening and reconnecting need.
//!
//! Every question has a time limit. A dropped question only costs its connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemark_format::postgres::TimelineId;

use super::buffer::Histories;
use super::plan::View;
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
        let mut info = self.info()?;
        if let Some(at) = info.addresses.iter().position(|a| a.to_string() == peer) {
            info.addresses = vec![info.addresses.swap_remove(at)];
            info.target = crate::conninfo::TargetSession::Any;
        }
        Ok(info)
    }
}

/// Why a server could not be looked at.
#[derive(Debug)]
pub(crate) enum LookError {
    ConnInfo(ConnInfoError),
    Wire(WireError),
    Slow { what: &'static str, seconds: u64 },
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

/// Connects and asks everything that a decision needs.
pub(crate) async fn look(
    connector: &Connector,
    slot: &str,
    limit: Duration,
) -> Result<Looked, LookError> {
    let info = connector.info().map_err(LookError::ConnInfo)?;
    // Every address has a limit of its own.
    let mut connection = Connection::open(&info, Mode::Physical).await?;
    let info = connector
        .info_of(connection.peer())
        .map_err(LookError::ConnInfo)?;
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
    let identity = replication::identify(connection).await?;
    let segment = replication::segment_size(connection).await?;
    let standby = replication::show(connection, IN_RECOVERY).await? == "on";
    let history = history(connection, identity.timeline).await?;
    let slot = slot_of(connection, info, slot).await?;
    Ok(View {
        identity,
        segment,
        standby,
        history,
        slot,
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
