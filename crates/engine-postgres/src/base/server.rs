//! What is asked of a server before a base of it is taken.

use tidemark_format::postgres::SegmentSize;
use tidemark_format::postgres::layout::BranchPosition;

use super::error::BaseError;
use crate::replication;
use crate::wire::{Connection, WireError};

/// What is known about the server.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) system: u64,
    pub(super) version: String,
    pub(super) major: u16,
    pub(super) standby: bool,
    pub(super) checksums: bool,
    pub(super) block_bytes: u32,
    pub(super) relation_segment_blocks: u64,
    pub(super) segment: SegmentSize,
    /// Where replay onto the base starts; until it began, where the server is.
    pub(super) start: BranchPosition,
}

/// Asks on a connection for replication.
pub(super) async fn ask(connection: &mut Connection) -> Result<Server, BaseError> {
    let identity = replication::identify(connection).await?;
    let segment = replication::segment_size(connection).await?;
    let block = replication::show(connection, "block_size").await?;
    let relation = replication::show(connection, "segment_size").await?;
    let checksums = replication::show(connection, "data_checksums").await?;
    let standby = match connection.parameter("in_hot_standby") {
        Some(told) => told == "on",
        None => replication::show(connection, "in_hot_standby").await? == "on",
    };
    let odd = BaseError::Wire(WireError::Protocol("the server's page size is not one"));
    let block_bytes: u32 = block.parse().ok().filter(|bytes| *bytes > 0).ok_or(odd)?;
    let odd = BaseError::Wire(WireError::Protocol("the server's segment_size is not one"));
    let relation = size(&relation).ok_or(odd)?;
    let version = connection.parameter("server_version").unwrap_or_default();
    Ok(Server {
        system: identity.system,
        version: version.to_owned(),
        major: connection.major().unwrap_or(0),
        standby,
        checksums: checksums == "on",
        block_bytes,
        relation_segment_blocks: relation / u64::from(block_bytes),
        segment,
        start: BranchPosition {
            timeline: identity.timeline,
            lsn: identity.flushed,
        },
    })
}

/// A size as the server shows it.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text.strip_prefix(digits)?.trim() {
        "" | "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    let count: u64 = digits.parse().ok()?;
    count.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_the_server_shows_them() {
        assert_eq!(size("1GB"), Some(1 << 30));
        assert_eq!(size("512MB"), Some(512 << 20));
        assert_eq!(size("8192"), Some(8192));
        assert_eq!(size("8kB"), Some(8192));
        assert_eq!(size("GB"), None);
        assert_eq!(size("1 parsec"), None);
    }
}
