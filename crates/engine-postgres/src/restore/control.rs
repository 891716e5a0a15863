//! `global/pg_control`: what a recovery has to know of the server it comes from.
//!
//! The layout of versions 14 to 18 on little-endian machines; it is refused unless its checksum is right.

use crc_fast::CrcAlgorithm;
use jiff::Timestamp;
use tidemark_format::postgres::TimelineId;

/// What is needed of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) system: u64,
    /// Whether the server was stopped cleanly.
    pub(super) is_shut_down: bool,
    /// Whether it is, or was stopped, in the middle of replaying an archive.
    pub(super) is_replaying: bool,
    /// When its last checkpoint was made, by its own clock.
    pub(super) checkpoint_at: Option<Timestamp>,
    /// The branch it is on.
    pub(super) timeline: TimelineId,
    pub(super) wal_level: u32,
    pub(super) wal_log_hints: bool,
    pub(super) max_connections: u32,
    pub(super) max_worker_processes: u32,
    pub(super) max_prepared_transactions: u32,
    pub(super) max_locks_per_transaction: u32,
    pub(super) track_commit_timestamp: bool,
    pub(super) block_bytes: u32,
    pub(super) segment_bytes: u32,
    /// Blocks of a relation's file, before its next one begins.
    pub(super) relation_file_blocks: u32,
    /// Whether pages carry checksums.
    pub(super) data_checksums: bool,
}

/// `pg_control_version` of 14 to 16.
const VERSION_14: u32 = 1300;
/// Of 17.
const VERSION_17: u32 = 1700;
/// Of 18.
const VERSION_18: u32 = 1800;
/// `DB_SHUTDOWNED`.
const SHUT_DOWN: u32 = 1;
/// `DB_SHUTDOWNED_IN_RECOVERY`, `DB_IN_ARCHIVE_RECOVERY`.
const REPLAYING: [u32; 2] = [2, 5];

impl Control {
    /// Reads the file.
    ///
    /// # Errors
    /// In words.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        const SHORT: &str = "it is cut";
        let u32_at = |at: usize| -> Result<u32, &'static str> {
            let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
            Ok(u32::from_le_bytes(*field.ok_or(SHORT)?))
        };
        let u64_at = |at: usize| -> Result<u64, &'static str> {
            let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
            Ok(u64::from_le_bytes(*field.ok_or(SHORT)?))
        };
        let flag_at = |at: usize| Ok::<_, &'static str>(*bytes.get(at).ok_or(SHORT)? != 0);
        let checksum_at = match u32_at(8)? {
            VERSION_14 | VERSION_17 => 288,
            VERSION_18 => 292,
            _ => return Err("its version is of no PostgreSQL from 14 to 18"),
        };
        let covered = bytes.get(..checksum_at).ok_or(SHORT)?;
        let checksum = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, covered);
        if checksum != u64::from(u32_at(checksum_at)?) {
            return Err("its checksum does not fit its bytes");
        }
        Ok(Self {
            system: u64_at(0)?,
            is_shut_down: u32_at(16)? == SHUT_DOWN,
            is_replaying: REPLAYING.contains(&u32_at(16)?),
            checkpoint_at: Timestamp::from_second(u64_at(104)?.cast_signed()).ok(),
            timeline: TimelineId(u32_at(48)?),
            wal_level: u32_at(172)?,
            wal_log_hints: flag_at(176)?,
            max_connections: u32_at(180)?,
            max_worker_processes: u32_at(184)?,
            max_prepared_transactions: u32_at(192)?,
            max_locks_per_transaction: u32_at(196)?,
            track_commit_timestamp: flag_at(200)?,
            block_bytes: u32_at(216)?,
            segment_bytes: u32_at(228)?,
            relation_file_blocks: u32_at(220)?,
            data_checksums: u32_at(252)? != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
        let checksum = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &bytes[..at]);
        let checksum = u32::try_from(checksum).expect("32 bits");
        bytes[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_file_is_read_only_if_its_checksum_is_right() {
        for (version, at) in [(VERSION_14, 288), (VERSION_17, 288), (VERSION_18, 292)] {
            let mut bytes = vec![0; 8192];
            bytes[..8].copy_from_slice(&77_u64.to_le_bytes());
            bytes[8..12].copy_from_slice(&version.to_le_bytes());
            bytes[48] = 3;
            let good = sealed(bytes, at);
            let control = Control::parse(&good).expect("sound");
            assert_eq!((control.system, control.timeline), (77, TimelineId(3)));
            let mut bad = good.clone();
            bad[100] ^= 1;
            assert!(Control::parse(&bad).is_err());
            assert!(Control::parse(&good[..200]).is_err());
        }
        assert!(Control::parse(&[0; 8192]).is_err());
    }
}
