//! What an engine's refusal means here: which code it has beside what is done about it.
//!
//! The kind of an error says what the agent does ([`policy::of_engine`]); only the engine's own error
//! says what a person must do. By an exhaustive match: a new error doesn't compile until somebody has
//! said which code it has.

use tidemark_engine::{Error, ErrorKind};
use tidemark_engine_postgres::PostgresError;
use tidemark_engine_postgres::wire::WireErrorKind;
use tidemark_engine_sqlite::SqliteError;
use tidemark_host::codes::{self, Code};

use crate::policy::{self, Verdict};

/// The meaning of an engine's error.
#[must_use]
pub fn of_engine_error(error: &Error) -> Verdict {
    let verdict = policy::of_engine(error.kind());
    let own = error.inner::<SqliteError>().and_then(of_sqlite);
    let own = own.or_else(|| error.inner::<PostgresError>().and_then(of_postgres));
    let code = match (own, error.kind()) {
        (Some(code), _kind) => code,
        // Nothing is known of who must do what; the message says it.
        (None, ErrorKind::Refused) => codes::SOURCE_UNREADABLE,
        (None, _other) => verdict.code,
    };
    Verdict { code, ..verdict }
}

/// The code of those that a person mends in a way of their own.
const fn of_sqlite(error: &SqliteError) -> Option<Code> {
    match error {
        SqliteError::NotOwner { .. } => Some(codes::NOT_THE_OWNER),
        SqliteError::Network { .. } => Some(codes::NETWORK_FILE_SYSTEM),
        SqliteError::Exclusive { .. } => Some(codes::EXCLUSIVE_DATABASE),
        SqliteError::ReadOnlyFolder { .. } => Some(codes::READ_ONLY_FOLDER),
        SqliteError::NotADatabase { .. } => Some(codes::NOT_A_DATABASE),
        SqliteError::Vanished { .. }
        | SqliteError::Unreadable { .. }
        | SqliteError::Replaced { .. }
        | SqliteError::ModeChanged { .. }
        | SqliteError::PageSizeChanged { .. }
        | SqliteError::WrittenBehind { .. }
        | SqliteError::LogReplaced { .. }
        | SqliteError::BaseVoid { .. }
        | SqliteError::Busy { .. }
        | SqliteError::Sqlite { .. }
        | SqliteError::Io { .. }
        | SqliteError::StateFile(_)
        | SqliteError::State { .. }
        | SqliteError::Payload(_)
        | SqliteError::Contradiction { .. }
        | SqliteError::DigestDiffers { .. }
        | SqliteError::Stray { .. }
        | SqliteError::Integrity { .. }
        | SqliteError::Contract(_) => None,
        SqliteError::CanaryRemains { .. } => Some(codes::CANARY_REMAINS),
    }
}

/// The code of what a person mends on a server, or in how it is reached.
fn of_postgres(error: &PostgresError) -> Option<Code> {
    match error {
        PostgresError::Unreachable(_) | PostgresError::Slow { .. } => Some(codes::SERVER_AWAY),
        PostgresError::Denied(wire) if wire.kind() == WireErrorKind::Tls => Some(codes::SERVER_TLS),
        PostgresError::Denied(_) => Some(codes::SERVER_LOG_IN),
        PostgresError::Refused { .. } => Some(codes::SERVER_REFUSES),
        PostgresError::Stale(_) => Some(codes::TWO_PRIMARIES),
        PostgresError::Version { .. } => Some(codes::SERVER_VERSION),
        PostgresError::SlotBusy { .. } => Some(codes::SLOT_IN_USE),
        PostgresError::ConnInfo(_) | PostgresError::ForeignSlot { .. } => {
            Some(codes::CONNECTION_STRING)
        }
        PostgresError::Broken { .. } => Some(codes::LOG_LOST),
        PostgresError::NotRetired { .. } => Some(codes::SLOT_REMAINS),
        PostgresError::CanaryRemains { .. } => Some(codes::CANARY_REMAINS),
        PostgresError::State { .. }
        | PostgresError::Io { .. }
        | PostgresError::File(_)
        | PostgresError::Contract(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Response;

    fn verdict(error: SqliteError) -> Verdict {
        of_engine_error(&Error::from(error))
    }

    #[test]
    fn every_refusal_has_the_code_of_its_own_remedy() {
        let path = || std::path::PathBuf::from("/srv/app.db");
        let not_owner = SqliteError::NotOwner {
            path: path(),
            owner: 1,
            agent: 2,
        };
        let network = SqliteError::Network {
            path: path(),
            kind: "NFS",
        };
        for (error, id) in [
            (not_owner, "TM7806"),
            (network, "TM7807"),
            (SqliteError::Exclusive { path: path() }, "TM7808"),
            (SqliteError::ReadOnlyFolder { path: path() }, "TM7809"),
            (SqliteError::NotADatabase { path: path() }, "TM7810"),
            (SqliteError::Vanished { path: path() }, "TM0102"),
        ] {
            let verdict = verdict(error);
            assert_eq!((verdict.code.id, verdict.response), (id, Response::Alert));
        }
    }

    #[test]
    fn a_refusal_without_a_code_of_its_own_is_a_database_that_can_not_be_read() {
        let refused = Error::new(ErrorKind::Refused, "some engine's own words");
        assert_eq!(of_engine_error(&refused).code, codes::SOURCE_UNREADABLE);
    }
}
