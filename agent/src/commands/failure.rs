//! Why a command failed, and which code and exit that is. The one place of the command line where
//! errors become codes; what each kind of error means is `policy`'s to say.

use std::path::PathBuf;

use tidemark_format::recipient::KeyTextError;
use tidemark_host::{
    Code, Exit, RegionUrlError, codes, config::ConfigError, files::FileError, lock::LockError,
    output::Console,
};
use tidemark_ledger::LedgerError;
use tidemark_storage::Error as StorageError;

use crate::{AgentError, policy};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A local file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A folder or program on this machine.
    #[error("{}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The state directory is in use.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// `meta/` in a region.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A region.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A region URL on the command line.
    #[error(transparent)]
    Url(#[from] RegionUrlError),
    /// A recovery key on the command line or in a file.
    #[error(transparent)]
    KeyText(#[from] KeyTextError),
    /// An engine refused the database.
    #[error(transparent)]
    Engine(#[from] tidemark_engine::Error),
    /// A database server that can't be protected as it is.
    #[error("{message}")]
    Server {
        /// What is wrong first.
        code: Code,
        /// Everything that is wrong, with what to do.
        message: String,
    },
    /// The daemon, or a part that commands share with it.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The daemon couldn't be asked.
    #[error(transparent)]
    Control(#[from] crate::control::ClientError),
    /// The daemon answered that it won't or can't.
    #[error("{message}")]
    Refused {
        /// The code that it gave.
        code: String,
        /// Why.
        message: String,
    },
    /// The words don't fit together.
    #[error("{0}")]
    Usage(String),
    /// The command asks and nobody can answer.
    #[error(
        "{0} asks before it acts, and there is no terminal to ask on: pass --yes if you mean it"
    )]
    NotConfirmed(&'static str),
    /// The person said no.
    #[error("nothing was changed")]
    Declined,
    /// The demo needs an empty folder.
    #[error("{} is not empty: name a new folder, or leave --dir out", .0.display())]
    NotEmpty(PathBuf),
    /// The demo needs both programs.
    #[error(
        "{} is not there: the demo needs both programs side by side; build them with \
         cargo build --release --locked", .0.display()
    )]
    NoRestoreTool(PathBuf),
    /// The demo found something wrong.
    #[error("the demo failed: {what}")]
    Demo {
        /// What.
        what: String,
    },
}

impl Failure {
    /// The code that `explain` knows.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Config(error) => error.code(),
            Self::File(error) if error.is_full() => codes::DISK_FULL,
            Self::File(_) | Self::Folder { .. } | Self::Demo { .. } => codes::FAILED,
            Self::Lock(_) => codes::STATE_IN_USE,
            Self::Ledger(error) => policy::of_ledger(error).code,
            Self::Storage(error) => policy::of_region(error.kind()).code,
            Self::Url(_) | Self::KeyText(_) | Self::Usage(_) | Self::NotEmpty(_) => codes::USAGE,
            Self::NoRestoreTool(_) => codes::USAGE,
            Self::Engine(error) => crate::source::refusal::of_engine_error(error).code,
            Self::Server { code, .. } => *code,
            Self::Agent(error) => policy::code(error),
            Self::Control(_) => codes::FAILED,
            Self::Refused { code, .. } => codes::ALL
                .iter()
                .copied()
                .find(|known| known.id == code)
                .unwrap_or(codes::FAILED),
            Self::NotConfirmed(_) | Self::Declined => codes::NOT_CONFIRMED,
        }
    }
}

/// Says on standard error what happened, its causes and where to read on; the exit code.
pub(super) fn report(failure: &Failure, console: &Console) -> Exit {
    let code = failure.code();
    if console.json {
        let causes: Vec<String> = causes(failure);
        console.event(&serde_json::json!({
            "schema": "tidemark-agent.error",
            "version": 1,
            "code": code.id,
            "exit": code.exit.code(),
            "message": failure.to_string(),
            "causes": causes,
        }));
        return code.exit;
    }
    let mut text = format!("error: {failure}\n");
    for cause in causes(failure) {
        text.push_str(&format!("  because: {cause}\n"));
    }
    text.push_str(&format!(
        "  {}: tidemark-agent explain {}",
        code.title, code.id
    ));
    console.complain(&text);
    code.exit
}

fn causes(failure: &Failure) -> Vec<String> {
    let mut causes = Vec::new();
    let mut error: &dyn std::error::Error = failure;
    while let Some(source) = error.source() {
        causes.push(source.to_string());
        error = source;
    }
    causes
}
