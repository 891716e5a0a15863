//! How commands talk to the running daemon: one JSON line to and fro over `STATE_DIR/control.sock`.
//!
//! The socket belongs to the agent's user (mode 0660: its group may be given to the operators).
//! Whoever reaches it may pause, retire or snapshot, nothing more: no key and no data goes through
//! it. A response comes when what was asked for is true: a snapshot's when the point is durable.

mod client;
mod server;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_format::{Hash, LogSeq, PointSeq, RegionName, SourceName};

pub use client::{Client, ClientError};
pub(crate) use server::{Asked, serve};

use crate::status_live::LiveStatus;

/// The longest line that is read: a request is small, a status of a thousand sources about 1 MiB.
pub const LINE_BYTES_MAX: u64 = 16 << 20;

/// What the daemon can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How things stand.
    Status,
    /// Cut, ship and seal a recovery point now.
    Snapshot {
        /// Which source; all of them if absent.
        source: Option<SourceName>,
        /// Make a base first.
        base: bool,
        /// A name for the point.
        name: Option<String>,
        /// Give up waiting after this many milliseconds.
        wait_ms: u64,
    },
    /// Ship nothing for a while; capture goes on into the spool.
    Pause {
        /// Which source; all of them if absent.
        source: Option<SourceName>,
        /// For how many milliseconds. Past it the agent goes on by itself.
        for_ms: u64,
        /// Why, for those who wonder.
        reason: String,
    },
    /// Ship again.
    Resume {
        /// Which source; all of them if absent.
        source: Option<SourceName>,
    },
    /// Read credentials, keyring and recipients again.
    Reload {
        /// The hash of the config file as it stands now.
        config: Hash,
    },
    /// Seal a last point and let go of the database for good.
    Retire {
        /// Which source.
        source: SourceName,
    },
}

impl Request {
    /// A snapshot request that waits for `wait`.
    #[must_use]
    pub fn snapshot(
        source: Option<SourceName>,
        base: bool,
        name: Option<String>,
        wait: Duration,
    ) -> Self {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Self::Snapshot {
            source,
            base,
            name,
            wait_ms,
        }
    }
}

/// A recovery point that is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedPoint {
    /// The source.
    pub source: SourceName,
    /// Its place in the epoch.
    pub seq: PointSeq,
    /// The name it was given.
    pub name: Option<String>,
    /// The last log object it covers.
    pub log_seq: LogSeq,
    /// Everything committed up to here is in it.
    pub committed: Timestamp,
    /// The regions it is durable in by now.
    pub durable_in: Vec<RegionName>,
    /// The regions that lack it because they don't answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub away: Vec<RegionName>,
    /// What else was done, or is left to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Response {
    /// How things stand.
    Status(Box<LiveStatus>),
    /// The points that were sealed; durable in W failure domains.
    Points {
        /// One for each source.
        points: Vec<SealedPoint>,
    },
    /// Done.
    Done {
        /// What was done, for people.
        message: String,
    },
    /// Not done.
    Refused {
        /// The code that `explain` knows.
        code: String,
        /// Why.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_back_and_unknown_ones_are_refused() {
        let request = Request::snapshot(None, true, Some("x".into()), Duration::from_secs(1));
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        assert!(serde_json::from_str::<Request>(r#"{"do":"explode"}"#).is_err());
    }
}
