//! The drop-in that `init --systemd` writes: the user that may read the databases, and the folders it may
//! write.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use tidemark_engine_postgres::conninfo::{Address, ConnInfo, Process};
use tidemark_host::{
    RegionUrl,
    config::{AgentConfig, Engine, Source},
};

/// Folders that `ProtectHome=yes` hides.
const HIDDEN: [&str; 3] = ["/home", "/root", "/run/user"];

/// What a drop-in needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DropIn {
    user: String,
    group: String,
    folders: BTreeSet<PathBuf>,
    /// S3 regions: each may have a credential of its own.
    credentials: Vec<String>,
    /// A cluster's socket lies where services have a folder of their own.
    sockets_in_tmp: bool,
    /// There is a SQLite database.
    has_files: bool,
}

impl DropIn {
    /// The drop-in for a config whose databases belong to `user` and `group`.
    pub(super) fn of(config: &AgentConfig, user: &str, group: &str) -> Self {
        let databases = config
            .sources
            .iter()
            .filter_map(|source| match &source.engine {
                Engine::Sqlite { path } => path.parent().map(Path::to_owned),
                Engine::Postgres { .. } => None,
            });
        let regions = config
            .regions
            .iter()
            .filter_map(|region| match &region.url {
                RegionUrl::Dir(path) => Some(path.clone()),
                RegionUrl::S3(_) => None,
            });
        let s3 = config
            .regions
            .iter()
            .filter(|region| matches!(region.url, RegionUrl::S3(_)));
        Self {
            user: user.to_owned(),
            group: group.to_owned(),
            folders: databases.chain(regions).collect(),
            credentials: s3.map(|region| region.name.to_string()).collect(),
            sockets_in_tmp: config.sources.iter().any(has_socket_in_tmp),
            has_files: config
                .sources
                .iter()
                .any(|source| source.engine.sqlite().is_some()),
        }
    }

    /// The file's text. Paths with a space are quoted as systemd wants it.
    pub(super) fn render(&self) -> String {
        let mut text = format!(
            "# Written by tidemark-agent init --systemd.\n\n[Service]\n\
             # {}\n\
             User={}\nGroup={}\n",
            if self.has_files {
                "The owner of the database files: SQLite's -wal and -shm must stay theirs."
            } else {
                "Whom PostgreSQL lets in (peer), or who may read the passfile."
            },
            self.user,
            self.group
        );
        if self.sockets_in_tmp {
            text.push_str("# PostgreSQL's socket is in /tmp.\nPrivateTmp=no\n");
        }
        let hidden = |folder: &Path| HIDDEN.iter().any(|top| folder.starts_with(top));
        if self.folders.iter().any(|folder| hidden(folder)) {
            text.push_str(
                "# Home folders stay hidden but for those named here.\nProtectHome=tmpfs\n",
            );
        }
        for folder in &self.folders {
            let key = if hidden(folder) {
                "BindPaths"
            } else {
                "ReadWritePaths"
            };
            let path = folder.to_string_lossy().replace('%', "%%");
            let line = if path.contains(' ') {
                format!("{key}=\"-{path}\"")
            } else {
                format!("{key}=-{path}")
            };
            text.push_str(&line);
            text.push('\n');
        }
        if !self.credentials.is_empty() {
            text.push_str(
                "# Shared-credentials files, where a region has one of its own: \
                 /etc/credstore/tidemark.REGION\n",
            );
        }
        for region in &self.credentials {
            text.push_str(&format!("LoadCredential={region}:tidemark.{region}\n"));
        }
        text
    }
}

/// Whether a cluster is reached through a socket below a folder that `PrivateTmp=yes` hides.
fn has_socket_in_tmp(source: &Source) -> bool {
    let Engine::Postgres { conninfo, .. } = &source.engine else {
        return false;
    };
    let addresses = ConnInfo::parse(conninfo, &Process).map(|info| info.addresses);
    addresses.is_ok_and(|addresses| {
        addresses.iter().any(|address| match address {
            Address::Unix { folder, .. } => {
                folder.starts_with("/tmp") || folder.starts_with("/var/tmp")
            }
            Address::Tcp { .. } => false,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop_in(folders: &[&str]) -> String {
        let folders = folders.iter().map(PathBuf::from).collect();
        DropIn {
            user: "app".into(),
            group: "app".into(),
            folders,
            credentials: vec!["paris".into()],
            sockets_in_tmp: false,
            has_files: true,
        }
        .render()
    }

    #[test]
    fn a_cluster_needs_a_user_and_its_socket_and_no_folder() {
        let text = DropIn {
            user: "postgres".into(),
            group: "postgres".into(),
            folders: BTreeSet::new(),
            credentials: Vec::new(),
            sockets_in_tmp: true,
            has_files: false,
        }
        .render();
        assert!(
            text.contains("User=postgres\n") && text.contains("PrivateTmp=no\n"),
            "{text}"
        );
        assert!(
            !text.contains("SQLite") && !text.contains("ReadWritePaths"),
            "{text}"
        );
    }

    #[test]
    fn databases_and_directory_regions_may_be_written_and_nothing_else() {
        let text = drop_in(&["/srv/app", "/mnt/backup"]);
        assert!(text.contains("User=app\nGroup=app\n"));
        assert!(text.contains("ReadWritePaths=-/srv/app\n"));
        assert!(text.contains("ReadWritePaths=-/mnt/backup\n"));
        assert!(text.contains("LoadCredential=paris:tidemark.paris\n"));
        assert!(!text.contains("ProtectHome"));
    }

    #[test]
    fn a_database_in_a_home_folder_is_bound_into_an_empty_home() {
        let text = drop_in(&["/home/app/my data"]);
        assert!(text.contains("ProtectHome=tmpfs\n"));
        assert!(
            text.contains("BindPaths=\"-/home/app/my data\"\n"),
            "{text}"
        );
    }
}
