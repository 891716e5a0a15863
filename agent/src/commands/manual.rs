//! What is made of the command line's own definition: completions and man pages.

use std::path::Path;

use clap_complete::Shell;
use tidemark_host::Exit;

use super::Failure;
use crate::cli::{Cli, HIDDEN};

/// The completions for a shell.
pub(super) fn completions(shell: Shell) -> String {
    tidemark_cli::completions(tidemark_cli::shown::<Cli>(HIDDEN), shell)
}

/// Writes a man page for the program and one for each command.
pub(super) fn man(dir: &Path) -> Result<Exit, Failure> {
    let written = tidemark_cli::man(tidemark_cli::shown::<Cli>(HIDDEN), dir);
    written.map_err(|source| Failure::Folder {
        path: dir.to_owned(),
        source,
    })?;
    Ok(Exit::Ok)
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
            "init",
            "run",
            "snapshot",
            "status",
            "doctor",
            "take-over",
            "demo",
        ] {
            assert!(bash.contains(command));
            let page = folder
                .path()
                .join(format!("man1/tidemark-agent-{command}.1"));
            assert!(page.exists(), "{}", page.display());
        }
    }
}
