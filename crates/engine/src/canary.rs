//! The canary: a mark that the agent leaves in the database now and then, if it is told to.
//!
//! A drill reads it back from the restored database and from nothing else, so it shows what commit times
//! can't: up to when the database really goes, whoever is wrong about the clock or the log.
//!
//! # Invariants
//!
//! - Numbers go up by one, and none is ever used for two canaries of one life of a source. A number whose
//!   writing was interrupted where that can't be told afterwards is left out.
//! - The instant in a canary is not after the commit that wrote it, by the agent's clock.
//! - A canary is never worth waiting for: a busy database gets none this time.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::examine::CanarySeen;

/// Canaries that stay in a table, the newest among them: enough to see that they are dense.
pub const CANARIES_KEPT: u64 = 8;

/// What the table of a file is called, and the prefix of messages.
pub const CANARY_NAME: &str = "tidemark_canary";

/// How a canary is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryForm {
    /// Rows of a table of its own.
    Table,
    /// Messages in the database's log, for engines that have such a thing; no table is needed.
    Message,
}

impl CanaryForm {
    /// As config and facts write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Message => "message",
        }
    }
}

/// One canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Its number; what the caller gives is the least that it may be.
    pub seq: u64,
    /// When it was made, by the agent's clock.
    pub at: Timestamp,
    /// Random, so that nobody can write the next one in advance.
    pub nonce: String,
}

/// What came of a canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CanaryOutcome {
    /// It is committed.
    Written {
        /// Its number.
        seq: u64,
        /// The instant in it.
        at: Timestamp,
    },
    /// Not now: somebody else writes, or no server is connected yet. Nothing was written, no number spent,
    /// and a moment later it may go.
    Busy,
    /// This database can't be written, and that is as it should be: a standby.
    NotHere {
        /// Why, for people.
        why: String,
    },
    /// It was not written, as far as one can tell.
    Failed {
        /// Why, and what to do.
        why: String,
    },
}

/// The newest of the canaries that were found in a database; none if there are none.
#[must_use]
pub fn newest(found: &[(u64, Timestamp)]) -> Option<CanarySeen> {
    let (seq, at) = found.iter().copied().max()?;
    Some(CanarySeen {
        seq,
        at,
        next_absent: !found
            .iter()
            .any(|(other, _)| Some(*other) == seq.checked_add(1)),
        rows: u64::try_from(found.len()).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_newest_canary_is_the_one_with_the_highest_number() {
        assert_eq!(newest(&[]), None);
        // A clock that was set back makes a later canary look older: numbers decide.
        let seen = newest(&[(7, at(90)), (8, at(60)), (6, at(30))]).unwrap();
        assert_eq!((seen.seq, seen.at, seen.rows), (8, at(60), 3));
        assert!(seen.next_absent);
    }

    #[test]
    fn forms_are_called_as_the_config_calls_them() {
        for form in [CanaryForm::Table, CanaryForm::Message] {
            let json = serde_json::to_string(&form).unwrap();
            assert_eq!(json, format!("\"{}\"", form.name()));
        }
    }
}
