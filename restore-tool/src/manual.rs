//! What is made of the command line's own definition: completions and man pages.

use std::path::{Path, PathBuf};

use clap_complete::Shell;

use crate::cli::{Cli, HIDDEN};

/// The man pages could not be written.
#[derive(Debug, thiserror::Error)]
#[error("can't write man pages into {}", dir.display())]
pub struct ManError {
    /// The folder.
    pub dir: PathBuf,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// The completions for a shell.
#[must_use]
pub fn completions(shell: Shell) -> String {
    tidemark_cli::completions(tidemark_cli::shown::<Cli>(HIDDEN), shell)
}

/// Writes a man page for the program and one for each command.
///
/// # Errors
/// [`ManError`] when the folder can't be made or written to.
pub fn man(dir: &Path) -> Result<(), ManError> {
    tidemark_cli::man(tidemark_cli::shown::<Cli>(HIDDEN), dir).map_err(|source| ManError {
        dir: dir.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_and_man_pages_name_every_command() {
        let bash = completions(Shell::Bash);
        let folder = tempfile::tempdir().unwrap();
        man(&folder.path().join("man1")).unwrap();
        for command in [
            "list", "plan", "restore", "verify", "status", "explain", "keys",
        ] {
            assert!(bash.contains(command));
            let page = folder
                .path()
                .join(format!("man1/tidemark-restore-{command}.1"));
            assert!(page.exists(), "{}", page.display());
        }
    }
}
