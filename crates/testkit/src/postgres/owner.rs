//! The user that owns clusters and runs servers.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Debian's id of `nobody`, for machines without a `postgres`.
const NOBODY: u32 = 65534;

/// Who runs servers: the caller, unless that is root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    ids: Option<(u32, u32)>,
}

impl Owner {
    /// The caller; as root the user `postgres` if there is one, else `nobody`.
    #[must_use]
    pub fn get() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self { ids: None };
        }
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let postgres = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let ids = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            (name == "postgres").then_some(ids)
        });
        Self {
            ids: Some(postgres.unwrap_or((NOBODY, NOBODY))),
        }
    }

    /// User and group, if they are others than the caller's.
    #[must_use]
    pub const fn ids(self) -> Option<(u32, u32)> {
        self.ids
    }

    /// A command that runs as this user.
    #[must_use]
    pub fn command(self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Some((user, group)) = self.ids {
            command.uid(user).gid(group);
        }
        command
    }

    /// Gives a file or folder to this user.
    ///
    /// # Errors
    /// The system's.
    pub fn own(self, path: &Path) -> Result<()> {
        if let Some((user, group)) = self.ids {
            std::os::unix::fs::chown(path, Some(user), Some(group))
                .with_context(|| format!("giving {} to user {user}", path.display()))?;
        }
        Ok(())
    }
}
