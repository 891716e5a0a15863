//! Why a restored cluster could not be asked.

use super::ask::is_short;
use crate::restore::RestoreError;

/// An error of the examination; what is merely wrong with the database is a finding.
#[derive(Debug, thiserror::Error)]
pub enum ExamineError {
    /// The data directory can't be used, or the server's programs are missing.
    #[error("the restored data directory can't be examined")]
    Open(#[source] RestoreError),
    /// Replay failed, or ended elsewhere than promised.
    #[error("replay did not end where the restore promised")]
    Replay(#[source] RestoreError),
    /// The replayed server does not start.
    #[error("the restored server does not start")]
    Start(#[source] RestoreError),
    /// The server runs and does not answer.
    #[error("the restored server runs and can't be asked")]
    Ask(#[from] sqlx::Error),
    /// The positions that replay is to end at can't be read.
    #[error("where replay is to end can't be read: this is a bug")]
    Goal,
    /// The system refuses what asking needs.
    #[error("the system refuses what asking a server needs")]
    Runtime(#[source] std::io::Error),
    /// It was told to end.
    #[error("stopped")]
    Interrupted,
}

/// What a full disk or exhausted memory looks like in a server's log.
const EXHAUSTED: [&str; 4] = [
    "No space left on device",
    "out of memory",
    "Cannot allocate memory",
    "could not map anonymous shared memory",
];

impl ExamineError {
    /// Whether it says something about this machine, and nothing about the database.
    #[must_use]
    pub fn is_infrastructure(&self) -> bool {
        match self {
            Self::Open(error) | Self::Replay(error) | Self::Start(error) => match error {
                RestoreError::NoBinaries { .. }
                | RestoreError::WrongVersion { .. }
                | RestoreError::OwnerIsRoot { .. }
                | RestoreError::Program { .. }
                | RestoreError::Running { .. }
                | RestoreError::Hung { .. }
                | RestoreError::Interrupted
                | RestoreError::Io { .. } => true,
                RestoreError::Recovery { log, .. } => {
                    EXHAUSTED.iter().any(|words| log.contains(words))
                }
                _ => false,
            },
            Self::Ask(error) => is_short(error),
            Self::Goal | Self::Runtime(_) | Self::Interrupted => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_no_verdict_on_the_backup() {
        let recovery = |log: &str| {
            ExamineError::Replay(RestoreError::Recovery {
                why: "ended".to_owned(),
                log: log.to_owned(),
            })
        };
        assert!(
            recovery("FATAL: could not extend file: No space left on device").is_infrastructure()
        );
        assert!(!recovery("PANIC: could not locate a valid checkpoint record").is_infrastructure());
        assert!(ExamineError::Interrupted.is_infrastructure());
    }
}
