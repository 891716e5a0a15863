//! The environment and the files of this very process.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{ConnInfo, ConnInfoError, Result, Surroundings};

/// This process: its environment, its files, its user.
#[derive(Debug, Clone, Copy, Default)]
pub struct Process;

impl Surroundings for Process {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &Path) -> std::io::Result<Option<String>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            // A home folder that is hidden from a service holds no passfile for it.
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn mode(&self, path: &Path) -> Option<u32> {
        Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o777)
    }

    fn user(&self) -> Option<String> {
        let id = rustix::process::geteuid().as_raw().to_string();
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1) == Some(id.as_str())).then(|| name.to_owned())
        })
    }
}

/// What is wrong with the text itself, whatever the machine around it: a config file is checked by
/// people who can't read the agent's passfile.
///
/// # Errors
/// [`ConnInfoError`], but for a service or a file that can't be found or read here.
pub fn check_text(text: &str) -> Result<()> {
    match ConnInfo::parse(text, &Process) {
        Ok(_) | Err(ConnInfoError::Service { .. } | ConnInfoError::File { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
