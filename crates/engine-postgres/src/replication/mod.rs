//! The replication protocol: who the server is, slots, timelines, the log as a stream, base backups.
//!
//! Everything here speaks on a [`Connection`] opened with [`crate::wire::Mode::Physical`] or
//! [`crate::wire::Mode::Database`]. It decides nothing: what to stream from where, and what to tell
//! the server as flushed, is the capture's business.

mod backup;
mod slot;
mod stream;

pub use backup::{BackupEvent, BackupOptions, BaseBackup, ServerTablespace};
pub use slot::{Slot, create_slot, drop_slot, read_slot};
pub use stream::{Flushed, Started, Stream, StreamEvent, Switch, start};

use bytes::Bytes;
use tidemark_format::postgres::{Lsn, SegmentSize, TimelineId};

use crate::wire::{Connection, ResultSet, WireError};

/// Who a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The database system's identifier, given by initdb; copies of a data directory share it.
    pub system: u64,
    /// The branch that it writes, or replays.
    pub timeline: TimelineId,
    /// Up to where its log is flushed (on a standby: replayed or received).
    pub flushed: Lsn,
}

/// Asks a server who it is.
///
/// # Errors
/// The connection's, or an answer that is none.
pub async fn identify(connection: &mut Connection) -> Result<Identity, WireError> {
    const ODD: WireError = WireError::Protocol("IDENTIFY_SYSTEM was not answered as it should be");
    let set = connection.query_one("IDENTIFY_SYSTEM").await?;
    let timeline = number::<u32>(&set, "timeline").filter(|id| *id > 0);
    Ok(Identity {
        system: number(&set, "systemid").ok_or(ODD)?,
        timeline: TimelineId(timeline.ok_or(ODD)?),
        flushed: number(&set, "xlogpos").ok_or(ODD)?,
    })
}

/// Asks for a setting.
///
/// # Errors
/// The connection's, or the server's if it has no such setting.
pub async fn show(connection: &mut Connection, name: &str) -> Result<String, WireError> {
    let set = connection.query_one(&format!("SHOW {name}")).await?;
    let value = set.rows.first().and_then(|row| row.text(0));
    value
        .map(str::to_owned)
        .ok_or(WireError::Protocol("SHOW was not answered as it should be"))
}

/// Asks how long the server's segments are.
///
/// # Errors
/// The connection's, or a size that no server has.
pub async fn segment_size(connection: &mut Connection) -> Result<SegmentSize, WireError> {
    let shown = show(connection, "wal_segment_size").await?;
    let units = [("GB", 30), ("MB", 20), ("kB", 10), ("B", 0)];
    units
        .into_iter()
        .find_map(|(unit, shift)| {
            let count: u32 = shown.strip_suffix(unit)?.trim().parse().ok()?;
            SegmentSize::new(count.checked_mul(1 << shift)?)
        })
        .ok_or(WireError::Protocol(
            "wal_segment_size is not one of PostgreSQL's",
        ))
}

/// A timeline's history file, as the server has it; none for the first timeline.
///
/// # Errors
/// The connection's, or the server's if it lacks the file.
pub async fn history(
    connection: &mut Connection,
    timeline: TimelineId,
) -> Result<Option<Bytes>, WireError> {
    if timeline == TimelineId::FIRST {
        return Ok(None);
    }
    let set = connection
        .query_one(&format!("TIMELINE_HISTORY {timeline}"))
        .await?;
    let content = set.columns.iter().position(|column| column == "content");
    let row = set.rows.first();
    content
        .and_then(|content| row?.bytes(content).cloned())
        .map(Some)
        .ok_or(WireError::Protocol(
            "TIMELINE_HISTORY was not answered as it should be",
        ))
}

/// A column of the first row, read.
fn number<T: std::str::FromStr>(set: &ResultSet, column: &str) -> Option<T> {
    set.value(column)?.parse().ok()
}
