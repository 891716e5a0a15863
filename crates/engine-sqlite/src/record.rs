//! The local record beside a sealed object: from records the page map is brought up to date.
//!
//! ```text
//! u32 LE length ‖ JSON [`Snapshot`] ‖ (page number u32 LE ‖ digest, 16 bytes)* ‖ BLAKE3 of all before
//! ```
//!
//! Plain, because it never leaves the machine, and without a byte of page content.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_format::LogSeq;
use tidemark_format::pages::PageDigest;

use crate::behind::Look;
use crate::error::SqliteError;
use crate::stamp::Stamp;
use crate::tail::Cursor;
use crate::witness::Witnesses;

const ENTRY_BYTES: usize = 20;
const HASH_BYTES: usize = 32;

/// Where capture stood after a cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// The cut.
    pub(crate) seq: LogSeq,
    /// Which digest key its digests are under.
    pub(crate) key_id: [u8; 8],
    /// The newest base's number then.
    pub(crate) tag: u32,
    /// Size of the database in pages after it.
    pub(crate) pages: u32,
    /// Whether the cut ends at a state the database was in.
    pub(crate) restorable: bool,
    /// It is a piece of a catch-up, which must run again from its start.
    pub(crate) catching_up: bool,
    /// Where in the WAL capture stood.
    pub(crate) cursor: Option<Cursor>,
    /// Frames up to this one were captured before; until it is reached again nothing is restorable.
    pub(crate) rewound_from: u32,
    /// The cut ends within a transaction.
    pub(crate) open_transaction: bool,
    /// What a database without WAL looked like.
    pub(crate) stamp: Option<Stamp>,
    /// The digest of the whole, where it is known (hex).
    pub(crate) digest: Option<String>,
    /// The newest commit seen.
    pub(crate) last_commit: Option<Timestamp>,
    /// What the file of a database in WAL mode looked like; records from before it was noted lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) look: Option<Look>,
    /// Pages by which a file that was written behind the log is told.
    #[serde(default)]
    pub(crate) witnesses: Witnesses,
}

impl Snapshot {
    /// Whether both are of one cut, whenever the file was looked at.
    pub(crate) fn is_same_cut(&self, other: &Self) -> bool {
        (self.seq, self.key_id, self.cursor) == (other.seq, other.key_id, other.cursor)
            && self.digest == other.digest
    }
}

/// Writes a record.
pub(crate) fn encode(
    snapshot: &Snapshot,
    entries: &[(u32, PageDigest)],
) -> Result<Vec<u8>, SqliteError> {
    let head = serde_json::to_vec(snapshot)
        .map_err(|_never| SqliteError::Contract("a snapshot did not serialise"))?;
    let mut out = Vec::with_capacity(head.len() + entries.len() * ENTRY_BYTES + 64);
    out.extend_from_slice(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&head);
    for (number, digest) in entries {
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&digest.to_bytes());
    }
    let hash = blake3::hash(&out);
    out.extend_from_slice(hash.as_bytes());
    Ok(out)
}

/// Reads a record; `name` stands in the error.
pub(crate) fn decode(
    bytes: &[u8],
    name: &Path,
) -> Result<(Snapshot, Vec<(u32, PageDigest)>), SqliteError> {
    let damaged = |why: &str| SqliteError::State {
        path: name.to_path_buf(),
        why: why.to_owned(),
    };
    let Some((body, hash)) = bytes.split_last_chunk::<HASH_BYTES>() else {
        return Err(damaged("a record is too short"));
    };
    if blake3::hash(body).as_bytes() != hash {
        return Err(damaged("a record's hash is wrong"));
    }
    let Some((length, rest)) = body.split_first_chunk::<4>() else {
        return Err(damaged("a record is too short"));
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let Some((head, entries)) = rest.split_at_checked(length) else {
        return Err(damaged("a record is too short"));
    };
    let snapshot = serde_json::from_slice(head)
        .map_err(|error| damaged(&format!("a record of another version: {error}")))?;
    let (entries, tail) = entries.as_chunks::<ENTRY_BYTES>();
    if !tail.is_empty() {
        return Err(damaged("a record ends within an entry"));
    }
    Ok((snapshot, entries.iter().map(decode_entry).collect()))
}

fn decode_entry(bytes: &[u8; ENTRY_BYTES]) -> (u32, PageDigest) {
    let (number, digest) = bytes.split_at(4);
    (
        u32::from_le_bytes(number.first_chunk::<4>().copied().unwrap_or_default()),
        PageDigest::from_bytes(digest.first_chunk::<16>().copied().unwrap_or_default()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_from_before_the_file_was_looked_at_is_still_read() {
        let head = br#"{"seq":7,"key_id":[1,2,3,4,5,6,7,8],"tag":2,"pages":9,"restorable":true,
            "catching_up":false,"cursor":{"salts":[1,2],"frame":3,"checksum":[4,5]},"rewound_from":0,
            "open_transaction":false,"stamp":null,"digest":null,"last_commit":null}"#;
        let mut bytes = u32::try_from(head.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend_from_slice(head);
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        let (snapshot, entries) = decode(&bytes, Path::new("record")).unwrap();
        assert_eq!((snapshot.seq, snapshot.look), (LogSeq(7), None));
        assert_eq!(snapshot.witnesses, Witnesses::default());
        assert!(entries.is_empty());
        // What is written now is read again as it is.
        let again = encode(&snapshot, &entries).unwrap();
        assert_eq!(decode(&again, Path::new("record")).unwrap().0, snapshot);
    }
}
