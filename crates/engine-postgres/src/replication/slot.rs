//! Replication slots: what keeps the server from recycling log that was not read yet.

use tidemark_format::postgres::{Lsn, TimelineId};

use super::number;
use crate::wire::{Connection, WireError, quote_identifier, quote_literal};

/// The version from which a replication connection can read a slot.
const READ_SLOT_SINCE: u16 = 15;

/// A slot, as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// `physical` or `logical`.
    pub kind: String,
    /// Log from here on is kept; none if it never was reserved, or is lost.
    pub restart: Option<Lsn>,
    /// The branch that position is on, where the server tells.
    pub timeline: Option<TimelineId>,
}

/// Reads a slot; none if there is no such slot.
///
/// On servers before 15 the connection must take ordinary SQL ([`crate::wire::Mode::Database`] or
/// [`crate::wire::Mode::Sql`]).
///
/// # Errors
/// The connection's, or the server's.
pub async fn read_slot(connection: &mut Connection, name: &str) -> Result<Option<Slot>, WireError> {
    if connection.major() >= Some(READ_SLOT_SINCE) {
        let command = format!("READ_REPLICATION_SLOT {}", quote_identifier(name));
        let set = connection.query_one(&command).await?;
        return Ok(set.value("slot_type").map(|kind| Slot {
            kind: kind.to_owned(),
            restart: number(&set, "restart_lsn"),
            timeline: number(&set, "restart_tli").map(TimelineId),
        }));
    }
    let query = format!(
        "SELECT slot_type, restart_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        quote_literal(name)
    );
    let set = connection.query_one(&query).await?;
    Ok(set.value("slot_type").map(|kind| Slot {
        kind: kind.to_owned(),
        restart: number(&set, "restart_lsn"),
        timeline: None,
    }))
}

/// Makes a physical slot that keeps log from the last checkpoint's redo position on.
///
/// Without `RESERVE_WAL` a slot keeps nothing until somebody streams from it.
///
/// # Errors
/// The connection's, or the server's: 42710 if there is one of that name, 53400 if
/// `max_replication_slots` is reached.
pub async fn create_slot(connection: &mut Connection, name: &str) -> Result<(), WireError> {
    let options = if connection.major() >= Some(READ_SLOT_SINCE) {
        "(RESERVE_WAL)"
    } else {
        "RESERVE_WAL"
    };
    let name = quote_identifier(name);
    connection
        .query(&format!(
            "CREATE_REPLICATION_SLOT {name} PHYSICAL {options}"
        ))
        .await
        .map(|_created| ())
}

/// Drops a slot, waiting until nobody uses it.
///
/// # Errors
/// The connection's, or the server's: 42704 if there is none of that name.
pub async fn drop_slot(connection: &mut Connection, name: &str) -> Result<(), WireError> {
    let name = quote_identifier(name);
    connection
        .query(&format!("DROP_REPLICATION_SLOT {name} WAIT"))
        .await
        .map(|_dropped| ())
}
