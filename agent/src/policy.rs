//! What every error means here: try again, tell somebody, or stop; and with which code.
//!
//! The only place that decides this, by exhaustive matches: a new kind of error doesn't compile
//! until somebody has said what it means.

use std::error::Error as StdError;

use tidemark_engine::ErrorKind as EngineKind;
use tidemark_host::codes::{self, Code};
use tidemark_ledger::{LedgerError, LedgerErrorKind};
use tidemark_storage::ErrorKind as StorageKind;

use crate::AgentError;

/// What is done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// Try again after a wait, in silence: this passes.
    Retry,
    /// Try again after a wait, and tell people: this needs somebody.
    Alert,
    /// Stop what failed: going on could do harm or is of no use.
    Stop,
}

/// An error's meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What is done.
    pub response: Response,
    /// What `explain` says about it.
    pub code: Code,
}

const fn verdict(response: Response, code: Code) -> Verdict {
    Verdict { response, code }
}

/// A region failed while shipping.
#[must_use]
pub const fn of_region(kind: StorageKind) -> Verdict {
    match kind {
        StorageKind::Unreachable => verdict(Response::Retry, codes::REGION_AWAY),
        StorageKind::Missing => verdict(Response::Alert, codes::NO_REPOSITORY),
        StorageKind::Unknown | StorageKind::Denied => {
            verdict(Response::Alert, codes::REGION_DENIED)
        }
        StorageKind::Full => verdict(Response::Alert, codes::DISK_FULL),
        StorageKind::Corrupt => verdict(Response::Alert, codes::DAMAGED),
        StorageKind::Invalid => verdict(Response::Alert, codes::REGION_AWAY),
        StorageKind::Exists => verdict(Response::Stop, codes::FOREIGN_WRITER),
    }
}

/// An engine failed while capturing. "Stop" stops one source; others go on.
#[must_use]
pub const fn of_engine(kind: EngineKind) -> Verdict {
    match kind {
        EngineKind::Retry => verdict(Response::Retry, codes::SOURCE_UNREADABLE),
        EngineKind::Reopen => verdict(Response::Retry, codes::SOURCE_UNREADABLE),
        EngineKind::Vanished | EngineKind::Io => verdict(Response::Alert, codes::SOURCE_UNREADABLE),
        // A person must act; the agent looks again now and then, so that acting is enough.
        EngineKind::Refused => verdict(Response::Alert, codes::NOT_THE_OWNER),
        EngineKind::Corrupt => verdict(Response::Alert, codes::DAMAGED),
        EngineKind::Full => verdict(Response::Alert, codes::DISK_FULL),
        EngineKind::Bug => verdict(Response::Alert, codes::FAILED),
    }
}

/// Reading or writing `meta/` failed.
#[must_use]
pub fn of_ledger(error: &LedgerError) -> Verdict {
    if let LedgerError::Storage(error) = error {
        return of_region(error.kind());
    }
    match error.kind() {
        LedgerErrorKind::NoRepository => verdict(Response::Alert, codes::NO_REPOSITORY),
        LedgerErrorKind::Fenced => verdict(Response::Stop, codes::FENCED),
        LedgerErrorKind::Key => verdict(Response::Alert, key_code(error)),
        LedgerErrorKind::Integrity => verdict(Response::Alert, codes::DAMAGED),
        LedgerErrorKind::Missing => verdict(Response::Alert, codes::NO_SOURCE),
        LedgerErrorKind::Region => verdict(Response::Retry, codes::NOT_ENOUGH_REGIONS),
    }
}

const fn key_code(error: &LedgerError) -> Code {
    match error {
        LedgerError::UnknownSigner { .. } => codes::SIGNER_UNKNOWN,
        LedgerError::Revoked { .. } => codes::SIGNER_REVOKED,
        LedgerError::Keyring { .. } => codes::WRONG_ROOT,
        LedgerError::KeyringsDisagree { .. } => codes::KEYRINGS_DISAGREE,
        LedgerError::LastRecipient { .. } => codes::LAST_RECIPIENT,
        LedgerError::Unchanged { .. } => codes::KEY_CHANGE,
        LedgerError::KeyFile { .. } => codes::KEY_FILE,
        _ => codes::SECRET_EXPOSED,
    }
}

/// The code with which a command or the daemon ends on `error`.
#[must_use]
pub fn code(error: &AgentError) -> Code {
    match error {
        AgentError::Fenced { .. } => codes::FENCED,
        AgentError::Cloned(_) => codes::FOREIGN_WRITER,
        AgentError::NotEnrolled { .. } => codes::NOT_ENROLLED,
        AgentError::Revoked { .. } => codes::AGENT_REVOKED,
        AgentError::NoRegion { .. } => codes::REGION_AWAY,
        AgentError::SigningKey { .. } => codes::CONFIG_INVALID,
        AgentError::UnknownSource { .. } => codes::NO_SOURCE,
        AgentError::Lock(_) => codes::STATE_IN_USE,
        AgentError::Record(_) => codes::NEWER_CHAIN,
        AgentError::Spool(error) if error.is_full() => codes::DISK_FULL,
        AgentError::File(error) if error.is_full() => codes::DISK_FULL,
        AgentError::Spool(_) | AgentError::File(_) | AgentError::Io { .. } => codes::FAILED,
        AgentError::Ledger(error) => of_ledger(error).code,
        AgentError::Storage(error) => of_region(error.kind()).code,
        AgentError::Seal(error) => match error.kind() {
            tidemark_seal::ErrorKind::Config => codes::CONFIG_INVALID,
            tidemark_seal::ErrorKind::Bug => codes::FAILED,
        },
        AgentError::Engine { source, .. } => crate::source::refusal::of_engine_error(source).code,
        AgentError::Cpu(_) | AgentError::Refused(_) => codes::FAILED,
        AgentError::Stopping => codes::INTERRUPTED,
        AgentError::Late { .. } => codes::NOT_ENOUGH_REGIONS,
        AgentError::Halted { code, .. } => *code,
        AgentError::NoRoom { shortage, .. } => shortage.code(),
    }
}

/// An error with its causes, one after the other: as an alert or a status line shows it.
#[must_use]
pub fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tidemark_host::Exit;

    use super::*;

    #[test]
    fn fenced_and_wrong_config_end_with_codes_that_systemd_does_not_restart() {
        let collision = crate::ship::greet::Collision {
            region: "a".parse().unwrap(),
            key: tidemark_format::keys::region(),
            why: "a beat".into(),
        };
        let cloned = AgentError::Cloned(Box::new(collision));
        assert_eq!(code(&cloned).exit, Exit::Fenced);
        let error = AgentError::SigningKey {
            path: "/x".into(),
            why: "gone".into(),
        };
        assert_eq!(code(&error).exit, Exit::Config);
    }

    #[test]
    fn a_region_that_is_away_is_tried_again_in_silence_and_a_foreign_object_stops() {
        assert_eq!(
            of_region(StorageKind::Unreachable).response,
            Response::Retry
        );
        assert_eq!(of_region(StorageKind::Exists).response, Response::Stop);
        assert_eq!(of_region(StorageKind::Full).response, Response::Alert);
    }
}
