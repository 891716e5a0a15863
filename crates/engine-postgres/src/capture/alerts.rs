//! What keeps the log from streaming: for people, with what to do, and how soon it is tried again.

use tidemark_format::postgres::Lsn;

use super::server::Stale;
use crate::conninfo::ConnInfoError;
use crate::wal::BadWal;
use crate::wire::{WireError, WireErrorKind};

/// The server can't be reached.
const UNREACHABLE: &str = "postgresql.unreachable";
/// It doesn't let us in.
const DENIED: &str = "postgresql.denied";
/// It refuses what streaming needs.
const REFUSED: &str = "postgresql.refused";
/// Somebody else has the slot.
const SLOT_BUSY: &str = "postgresql.slot-busy";
/// No slot can be made.
const SLOT_REFUSED: &str = "postgresql.slot-refused";
/// A standby is behind where capture stands.
const WAITS: &str = "postgresql.waits";
/// Only servers on older timelines answer.
const PARTED: &str = "postgresql.parted";
/// What came is not the protocol, or not the log.
const GARBLED: &str = "postgresql.garbled";
/// The log itself is not sound.
const DAMAGED: &str = "postgresql.log-damaged";
/// The slot held more than it may.
pub(super) const KEEP_MAX: &str = "postgresql.slot-keep-max";
/// Commits wait for the regions.
pub(super) const COMMITS_WAIT: &str = "postgresql.commits-wait";

/// What keeps the log from streaming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) code: &'static str,
    pub(super) message: String,
    /// It usually passes in a moment.
    pub(super) brief: bool,
}

impl Trouble {
    fn new(code: &'static str, message: String) -> Self {
        Self {
            code,
            message,
            brief: false,
        }
    }

    /// An error of a connection.
    pub(super) fn of(error: &WireError) -> Self {
        let said = with_causes(error);
        match error.kind() {
            WireErrorKind::Gone | WireErrorKind::Busy => Self::new(
                UNREACHABLE,
                format!(
                    "the log does not stream: {said}. What is committed now is not captured until it does; it is tried again all the time. Check that the server runs and can be reached"
                ),
            ),
            WireErrorKind::Denied => Self::new(
                DENIED,
                format!(
                    "the server does not let the agent in: {said}. Nothing is captured until it does. Check the password, pg_hba.conf (a line for \"replication\") and that the role has REPLICATION and LOGIN"
                ),
            ),
            WireErrorKind::Tls => Self::new(
                DENIED,
                format!(
                    "TLS with the server can't be set up as asked: {said}. Nothing is captured until it can"
                ),
            ),
            WireErrorKind::Refused => Self::new(
                REFUSED,
                format!(
                    "the server refuses to stream its log: {said}. Nothing is captured until it does; see the server's log, and `tidemark-agent doctor` for what it must be set to"
                ),
            ),
            WireErrorKind::Protocol => Self::new(
                GARBLED,
                format!(
                    "what came from the server is not the replication protocol: {said}. It is connected to again; if this stays, something between changes the bytes, or this is no PostgreSQL"
                ),
            ),
        }
    }

    pub(super) fn of_conninfo(error: &ConnInfoError) -> Self {
        Self::new(
            UNREACHABLE,
            format!(
                "the connection string can't be used now: {error}. Nothing is captured until it can"
            ),
        )
    }

    /// Somebody else streams from the slot; often that is our own connection of before, which the server
    /// still takes for alive.
    pub(super) fn slot_busy(slot: &str, error: &WireError) -> Self {
        Self {
            brief: true,
            ..Self::new(
                SLOT_BUSY,
                format!(
                    "the replication slot {slot:?} is in use: {error}. If another agent protects this server under the same source name, stop it or give this source another name; our own connection of before is let go after wal_sender_timeout"
                ),
            )
        }
    }

    pub(super) fn slot_refused(slot: &str, error: &WireError) -> Self {
        Self::new(
            SLOT_REFUSED,
            format!(
                "the replication slot {slot:?} can't be made: {}. Nothing is captured until it can: raise max_replication_slots, or drop a slot that nobody uses",
                with_causes(error)
            ),
        )
    }

    pub(super) fn waits(reason: &str) -> Self {
        Self::new(
            WAITS,
            format!(
                "{reason}; the log streams as soon as it has. If it never does, it is another server than before"
            ),
        )
    }

    pub(super) fn parted(stale: &Stale) -> Self {
        Self::new(PARTED, stale.to_string())
    }

    pub(super) fn silent(peer: &str, seconds: u64) -> Self {
        Self::new(
            UNREACHABLE,
            format!(
                "{peer} has said nothing for {seconds} s, although it was asked: the connection is dead. It is connected to again; check the network between"
            ),
        )
    }

    pub(super) fn slow(what: &str, seconds: u64) -> Self {
        Self::new(
            UNREACHABLE,
            format!(
                "the server did not {what} within {seconds} s; it is asked again. Nothing is captured meanwhile"
            ),
        )
    }

    pub(super) fn stopped() -> Self {
        Self::new(
            UNREACHABLE,
            "the server stopped cleanly; everything up to its stop is captured, and it is connected to again until it runs".to_owned(),
        )
    }

    pub(super) fn hung_up(seconds: u64) -> Self {
        Self {
            brief: true,
            ..Self::new(
                UNREACHABLE,
                format!(
                    "the server stops and waited {seconds} s for its last bytes of log to be safe here; the connection was ended so that it can. They are read again when it runs"
                ),
            )
        }
    }

    pub(super) fn gap(expected: Lsn, came: Lsn) -> Self {
        Self::new(
            GARBLED,
            format!("the stream goes on at {came} and not at {expected}; it is begun again"),
        )
    }

    pub(super) fn damaged(bad: &BadWal) -> Self {
        Self::new(
            DAMAGED,
            format!(
                "{bad}: PostgreSQL would not replay it. It is read again; if this stays, the log is damaged on the server: check its disk, and take a base with `tidemark-agent snapshot --base`"
            ),
        )
    }

    /// The slot of the server is gone or lost at the last moment: it is looked at again.
    pub(super) fn slot_again(error: &WireError) -> Self {
        Self {
            brief: true,
            ..Self::of(error)
        }
    }
}

/// An error with its causes.
pub(super) fn with_causes(error: &WireError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
