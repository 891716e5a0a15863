//! Whose fault an error is: the backup's, at a rung, or this host's and its surroundings', which prove
//! nothing about the backup.

use tidemark_host::{Code, Exit, codes};
use tidemark_planner::drill::{Check, Rung};

use crate::error::Error;
use crate::policy;

/// What kept a drill from going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The rung at which the backup failed; none if it isn't the backup that failed.
    pub(super) rung: Option<Rung>,
    /// The error's code.
    pub(super) code: &'static str,
    /// What happened, with its causes.
    pub(super) text: String,
    /// How a command ends that meets it.
    pub(super) exit: Exit,
}

impl Fault {
    /// Of an error that came while what `rung` needs was being done.
    pub(super) fn of(error: &Error, rung: Rung) -> Self {
        let code = policy::code(error);
        let text = tidemark_storage::chain(error);
        // What is repeated in every message helps nobody to tell one from the other.
        let text = text.replace("nothing was delivered, because ", "");
        Self {
            rung: of_backup(error, code, rung),
            code: code.id,
            text,
            exit: code.exit,
        }
    }

    /// As a failed check, if it is the backup's.
    pub(super) fn check(&self) -> Option<Check> {
        let rung = self.rung?;
        let id = format!("{rung}.restore");
        Some(Check::of(rung, id, words(rung), false).why(format!("{} ({})", self.text, self.code)))
    }
}

/// What a rung's own check of the restore is called.
pub(super) const fn words(rung: Rung) -> &'static str {
    match rung {
        Rung::Chain => "what the restore needs, signed and linked",
        Rung::Ciphertext => "the bytes that were read, as signed",
        Rung::Decrypt => "opening them with the identity",
        Rung::Materialise => "laying out the database's files",
        Rung::Replay => "replaying the log to its end",
        Rung::Logical => "asking the database",
        Rung::Scenario => "the scenario",
    }
}

/// Keys that are about whom to believe, not about what can be opened.
const TRUST: [Code; 4] = [
    codes::SIGNER_REVOKED,
    codes::SIGNER_UNKNOWN,
    codes::WRONG_ROOT,
    codes::KEYRINGS_DISAGREE,
];

/// The rung at which an error shows the backup to be bad.
fn of_backup(error: &Error, code: Code, doing: Rung) -> Option<Rung> {
    if let Error::DamagedOnTheWay { damage, .. } = error {
        return of_backup(damage, code, doing);
    }
    let is = |one: Code| one.id == code.id;
    if matches!(error, Error::NotRecoverable(_)) && code.exit != Exit::Key {
        return Some(Rung::Chain);
    }
    if is(codes::RECOVERY_FAILED) {
        return Some(Rung::Replay);
    }
    let of_engine = matches!(error, Error::Engine(_));
    match code.exit {
        Exit::Key if TRUST.iter().any(|one| is(*one)) => Some(Rung::Chain),
        Exit::Key => Some(Rung::Decrypt),
        Exit::NotRecoverable if of_engine => Some(Rung::Replay),
        Exit::NotRecoverable | Exit::NoRepository => Some(Rung::Chain),
        Exit::Integrity if is(codes::WRONG_DIGEST) && !matches!(error, Error::Unproved(_)) => {
            Some(Rung::Materialise)
        }
        // What the engine finds wrong in what was opened: another cluster's log, a history that is missing.
        Exit::Integrity if of_engine => Some(doing.max(Rung::Replay)),
        Exit::Integrity if is(codes::DAMAGED) => Some(Rung::Ciphertext),
        Exit::Integrity => Some(Rung::Chain),
        Exit::Ok
        | Exit::Failed
        | Exit::Usage
        | Exit::Exceptions
        | Exit::Fenced
        | Exit::Space
        | Exit::Region
        | Exit::Policy
        | Exit::Drill
        | Exit::Config => None,
    }
}

#[cfg(test)]
mod tests {
    use tidemark_engine::ErrorKind;
    use tidemark_ledger::LedgerError;

    use super::*;

    fn engine(kind: ErrorKind) -> Error {
        Error::Engine(tidemark_engine::Error::new(kind, "the engine said so"))
    }

    #[test]
    fn an_error_is_the_backups_at_a_rung_or_nobodys_proof() {
        let stale = Error::Stale("region b forked".to_owned());
        let nested = Error::DamagedOnTheWay {
            what: "is damaged",
            instead: "nothing".to_owned(),
            damage: Box::new(Error::Unproved("digest".to_owned())),
        };
        let gone = Error::Ledger(LedgerError::NoRepository {
            missing: "a keyring".to_owned(),
        });
        for (error, rung) in [
            (Error::Interrupted, None),
            (engine(ErrorKind::Full), None),
            (engine(ErrorKind::Io), None),
            (engine(ErrorKind::Corrupt), Some(Rung::Materialise)),
            (stale, Some(Rung::Chain)),
            (gone, Some(Rung::Chain)),
            (Error::NoIdentity, Some(Rung::Decrypt)),
            (nested, Some(Rung::Chain)),
        ] {
            let fault = Fault::of(&error, Rung::Ciphertext);
            assert_eq!(fault.rung, rung, "{error}");
            assert_eq!(fault.check().map(|check| check.level), rung);
        }
    }

    #[test]
    fn a_fault_names_the_error_and_its_code() {
        let fault = Fault::of(&engine(ErrorKind::Corrupt), Rung::Replay);
        let said = fault.check().unwrap().sentence();
        assert!(
            said.contains("the engine said so") && said.contains("TM13"),
            "{said}"
        );
    }
}
