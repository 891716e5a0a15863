//! From error to code: the one place that decides how a command ends and what a person is told to
//! do. Exhaustive on purpose: a new error must be given a code here.

use tidemark_engine::{Error as EngineError, ErrorKind as EngineKind};
use tidemark_engine_postgres::restore::RestoreError;
use tidemark_host::codes::{self, Code};
use tidemark_ledger::{LedgerError, LedgerErrorKind};
use tidemark_open::{Error as OpenError, ErrorKind as OpenKind};
use tidemark_storage::ErrorKind as StoreKind;

use crate::error::Error;
use crate::sandbox::SandboxError;
use crate::target::TargetError;

/// The code of an error; its exit code is how the command ends.
#[must_use]
pub fn code(error: &Error) -> Code {
    match error {
        Error::Ledger(error) => ledger(error),
        Error::Open(error) => open(error),
        Error::Storage(error) => storage(error.kind()),
        Error::Engine(error) => engine_said(error),
        Error::Target(error) => target(error),
        Error::Config(error) => error.code(),
        Error::File(error) if error.is_full() => codes::DISK_FULL,
        Error::File(_) | Error::Io { .. } | Error::Man(_) | Error::Cpu(_) => codes::FAILED,
        Error::Log(_) => codes::USAGE,
        Error::RegionUrl(_) | Error::NoRegion | Error::TargetText(_) | Error::CodeUnknown(_) => {
            codes::USAGE
        }
        Error::Time(_) => codes::TIME_UNCLEAR,
        Error::NotRecoverable(error) => error.code(),
        Error::AllRegionsFailed { first, .. } => code(first),
        Error::DamagedOnTheWay { damage, .. } => code(damage),
        Error::BareFolder { .. } => codes::NO_REPOSITORY,
        Error::NobodyEnrolled { .. } => codes::NO_REPOSITORY,
        Error::NoIdentity => codes::NO_IDENTITY,
        Error::SourceUnclear { .. } => codes::SOURCE_UNCLEAR,
        Error::NoSource { .. } => codes::NO_SOURCE,
        Error::MixedRepositories { .. } => codes::USAGE,
        Error::Stale(_) => codes::STALE_REGION,
        Error::Damaged { .. } => codes::DAMAGED,
        Error::LogUnknown(_) => codes::MISSING_OBJECT,
        Error::EngineUnknown { .. } => codes::FAILED,
        Error::NotConfirmed { .. } => codes::NOT_CONFIRMED,
        Error::Declined => codes::NOT_CONFIRMED,
        Error::Passphrase(_) => codes::USAGE,
        Error::KeyUnknown(_) => codes::NO_SUCH_KEY,
        Error::NothingWritten => codes::NO_SOURCE,
        Error::KeyFileExists(_) => codes::USAGE,
        Error::WrongRoot { .. } | Error::OtherRepository { .. } => codes::WRONG_ROOT,
        Error::ConfigExists(_) => codes::TARGET_EXISTS,
        Error::DrillsOwned { .. } => codes::STATE_IN_USE,
        Error::NoStateFolder => codes::USAGE,
        Error::RegionSilent { .. } | Error::RegionsSilent => codes::REGION_AWAY,
        Error::Schedule(_) => codes::CONFIG_INVALID,
        Error::Interrupted => codes::INTERRUPTED,
        Error::Unproved(_) => codes::WRONG_DIGEST,
        Error::Sandbox(error) => sandbox(error),
    }
}

fn ledger(error: &LedgerError) -> Code {
    match error {
        LedgerError::Revoked { .. } => codes::SIGNER_REVOKED,
        LedgerError::UnknownSigner { .. } | LedgerError::WrongRole { .. } => codes::SIGNER_UNKNOWN,
        LedgerError::Keyring { .. } => codes::WRONG_ROOT,
        LedgerError::KeyringsDisagree { .. } => codes::KEYRINGS_DISAGREE,
        LedgerError::LastRecipient { .. } => codes::LAST_RECIPIENT,
        LedgerError::Unchanged { .. } => codes::KEY_CHANGE,
        LedgerError::KeyFile { .. } => codes::KEY_FILE,
        LedgerError::KeyringOlder { .. } | LedgerError::Older { .. } => codes::STALE_REGION,
        LedgerError::Chain { .. } | LedgerError::Misplaced { .. } => codes::BROKEN_LINK,
        LedgerError::Format {
            source: tidemark_format::FormatError::Signature { .. },
            ..
        } => codes::BAD_SIGNATURE,
        LedgerError::UnknownSource { .. } => codes::NO_SOURCE,
        LedgerError::ClaimLost { .. } => codes::MISSING_OBJECT,
        LedgerError::Storage(error) => storage(error.kind()),
        LedgerError::TooFewRegions { .. } => codes::NOT_ENOUGH_REGIONS,
        other => match other.kind() {
            LedgerErrorKind::NoRepository => codes::NO_REPOSITORY,
            LedgerErrorKind::Fenced => codes::FENCED,
            LedgerErrorKind::Key => codes::NO_IDENTITY,
            LedgerErrorKind::Integrity => codes::DAMAGED,
            LedgerErrorKind::Missing => codes::MISSING_OBJECT,
            LedgerErrorKind::Region => codes::REGION_AWAY,
        },
    }
}

fn open(error: &OpenError) -> Code {
    match error {
        OpenError::WrongPassphrase => codes::WRONG_PASSPHRASE,
        OpenError::IdentityFile(tidemark_host::files::FileError::NotPrivate { .. }) => {
            codes::SECRET_EXPOSED
        }
        OpenError::IdentityFile(_)
        | OpenError::IdentityText(_)
        | OpenError::IdentityKey(_)
        | OpenError::PassphraseNeeded
        | OpenError::PassphraseCost(_) => codes::NO_IDENTITY,
        OpenError::Signer { .. } => codes::SIGNER_UNKNOWN,
        OpenError::Unlinked { .. } | OpenError::Misplaced { .. } => codes::BROKEN_LINK,
        OpenError::Format {
            source: tidemark_format::FormatError::Signature { .. },
            ..
        } => codes::BAD_SIGNATURE,
        other => match other.kind() {
            OpenKind::Key => codes::WRONG_IDENTITY,
            OpenKind::Integrity => codes::DAMAGED,
            OpenKind::Region => codes::REGION_AWAY,
            OpenKind::Missing => codes::MISSING_OBJECT,
            OpenKind::Target => target_failed(other),
            OpenKind::Invalid => codes::USAGE,
        },
    }
}

/// The fetcher's target is our own sink: its error is inside.
fn target_failed(error: &OpenError) -> Code {
    let inner = std::error::Error::source(error);
    inner
        .and_then(|cause| cause.downcast_ref::<tidemark_engine::Error>())
        .map_or(codes::FAILED, engine_said)
}

fn engine_said(error: &EngineError) -> Code {
    let of_server = error.inner::<RestoreError>();
    of_server.map_or_else(|| engine(error.kind()), |inner| server(inner, error.kind()))
}

/// A server's restore.
fn server(error: &RestoreError, kind: EngineKind) -> Code {
    match error {
        RestoreError::NotReached { .. } => codes::NO_SUCH_STATE,
        RestoreError::BeforeConsistent { .. } => codes::BEFORE_WINDOW,
        RestoreError::TablespaceTaken { .. }
        | RestoreError::TablespaceMade { .. }
        | RestoreError::Running { .. } => codes::TARGET_EXISTS,
        RestoreError::TablespaceMap { .. } => codes::USAGE,
        RestoreError::NoBinaries { .. }
        | RestoreError::WrongVersion { .. }
        | RestoreError::OwnerIsRoot { .. } => codes::NO_SERVER_PROGRAMS,
        RestoreError::Recovery { .. } | RestoreError::Hung { .. } => codes::RECOVERY_FAILED,
        RestoreError::Interrupted => codes::INTERRUPTED,
        RestoreError::Gap { .. } | RestoreError::NoLog => codes::MISSING_OBJECT,
        RestoreError::OtherSystem { .. }
        | RestoreError::OtherSegments { .. }
        | RestoreError::Overlap { .. }
        | RestoreError::NotADescendant { .. }
        | RestoreError::HistoryMissing { .. } => codes::BROKEN_LINK,
        RestoreError::Table { .. }
        | RestoreError::Run { .. }
        | RestoreError::Incomplete { .. }
        | RestoreError::Layout(_)
        | RestoreError::LayoutDiffers { .. }
        | RestoreError::Payload(_)
        | RestoreError::History(_)
        | RestoreError::Wal(_)
        | RestoreError::Control { .. } => codes::DAMAGED,
        RestoreError::EndDiffers { .. } => codes::WRONG_DIGEST,
        RestoreError::RecoveryBegun { .. }
        | RestoreError::Program { .. }
        | RestoreError::Io { .. }
        | RestoreError::Contract(_) => engine(kind),
    }
}

const fn storage(kind: StoreKind) -> Code {
    match kind {
        StoreKind::Missing => codes::MISSING_OBJECT,
        StoreKind::Unknown | StoreKind::Denied => codes::REGION_DENIED,
        StoreKind::Corrupt => codes::DAMAGED,
        StoreKind::Exists | StoreKind::Unreachable | StoreKind::Full | StoreKind::Invalid => {
            codes::REGION_AWAY
        }
    }
}

const fn engine(kind: EngineKind) -> Code {
    match kind {
        EngineKind::Corrupt => codes::WRONG_DIGEST,
        EngineKind::Full => codes::DISK_FULL,
        EngineKind::Retry
        | EngineKind::Reopen
        | EngineKind::Vanished
        | EngineKind::Refused
        | EngineKind::Io
        | EngineKind::Bug => codes::FAILED,
    }
}

fn sandbox(error: &SandboxError) -> Code {
    match error {
        SandboxError::Refused { .. } => codes::DRILL_NOT_HERE,
        SandboxError::NoIsolation { .. } => codes::DRILL_INCONCLUSIVE,
        SandboxError::NoRoom { .. } => codes::DISK_FULL,
        SandboxError::Unreachable { .. } | SandboxError::NotWritable { .. } => codes::USAGE,
        SandboxError::NotDestroyed { .. } => codes::SCRATCH_REMAINS,
        SandboxError::Interrupted => codes::INTERRUPTED,
        SandboxError::Io { .. } => codes::FAILED,
    }
}

fn target(error: &TargetError) -> Code {
    if error.is_full() {
        return codes::DISK_FULL;
    }
    match error {
        TargetError::Exists(_)
        | TargetError::NotEmpty(_)
        | TargetError::Running(_)
        | TargetError::InUse { .. }
        | TargetError::OtherSystem { .. }
        | TargetError::Unfinished(_)
        | TargetError::Stray(_) => codes::TARGET_EXISTS,
        TargetError::NoFolder(_)
        | TargetError::NoName(_)
        | TargetError::Folder(_)
        | TargetError::NotACluster(_)
        | TargetError::MountPoint(_)
        | TargetError::InRepository { .. } => codes::USAGE,
        TargetError::NotWritable { .. }
        | TargetError::NoSpace { .. }
        | TargetError::Busy(_)
        | TargetError::Io { .. } => codes::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use tidemark_host::Exit;

    use super::*;

    #[test]
    fn errors_end_with_the_codes_that_scripts_rely_on() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let cases = [
            (Error::NoRegion, Exit::Usage),
            (Error::NoIdentity, Exit::Key),
            (Error::Stale(String::new()), Exit::Integrity),
            (Error::Target(TargetError::Exists("/x".into())), Exit::Usage),
            (
                Error::Target(TargetError::Io {
                    action: "write",
                    path: "/x".into(),
                    source: full,
                }),
                Exit::Space,
            ),
            (
                Error::Engine(tidemark_engine::Error::new(EngineKind::Full, "full")),
                Exit::Space,
            ),
            (Error::Open(OpenError::WrongPassphrase), Exit::Key),
            (
                Error::Open(OpenError::Target(Box::new(tidemark_engine::Error::new(
                    EngineKind::Full,
                    "full",
                )))),
                Exit::Space,
            ),
            (
                Error::Ledger(LedgerError::NoRepository {
                    missing: String::new(),
                }),
                Exit::NoRepository,
            ),
        ];
        for (error, exit) in cases {
            assert_eq!(code(&error).exit, exit, "{error}");
        }
    }
}
