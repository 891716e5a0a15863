//! Why there was no sandbox, or none that is gone.

use std::path::{Path, PathBuf};

/// An error of the sandbox itself: what happened, what it means, what to do.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// This host is none that a drill may run on.
    #[error(
        "{why}: a drill must not run where production does; run it on another host, or add --allow-source-host for a trial on one machine, which is recorded as not segregated"
    )]
    Refused {
        /// What was found.
        why: String,
    },
    /// Nothing isolates here.
    #[error(
        "this host offers no isolation for the restored database ({tried}); run it as root, or as tidemark-restore.service with tidemark-sandbox.socket started, or allow user namespaces"
    )]
    NoIsolation {
        /// What was tried, and what came of it.
        tried: String,
    },
    /// No room.
    #[error(
        "{}: {free} bytes are free, and the scratch of this drill needs {needed}; name a folder with more room (scratch)",
        path.display()
    )]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// What is free there.
        free: u64,
        /// What is needed.
        needed: u64,
    },
    /// The user that the database is to run as can't get there.
    #[error(
        "{}: user {user}, as whom the restored database runs, can't pass through it; name another folder for the scratch",
        path.display()
    )]
    Unreachable {
        /// The folder in the way.
        path: PathBuf,
        /// The user.
        user: String,
    },
    /// A scratch can't be made there by this user, or in this service.
    #[error(
        "{}: no scratch can be made there: it is for the user that runs the drill to write to, and under systemd the service must be allowed to as well: systemctl edit tidemark-restore with [Service] ReadWritePaths={}, and systemctl edit tidemark-sandbox@ with [Service] BindPaths={}; or name no scratch at all",
        folder.display(), folder.display(), folder.display()
    )]
    NotWritable {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The scratch is not gone.
    #[error(
        "{}: the scratch of this drill could not be destroyed ({why}); it holds production data: remove it by hand",
        path.display()
    )]
    NotDestroyed {
        /// Where it is.
        path: PathBuf,
        /// What is in the way.
        why: String,
    },
    /// It was told to end.
    #[error("stopped; the sandbox has ended")]
    Interrupted,
    /// The system.
    #[error("{}: can't {action}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl SandboxError {
    pub(super) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(std::io::Error) -> Self + use<'a> {
        move |source| Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }
}
