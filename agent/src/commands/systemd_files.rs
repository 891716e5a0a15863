//! The drop-in that `init --systemd` writes: the database owner's user, and the folders it may write.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use tidemark_host::{RegionUrl, config::AgentConfig, config::Engine};

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
}

impl DropIn {
    /// The drop-in for a config whose databases belong to `user` and `group`.
    pub(super) fn of(config: &AgentConfig, user: &str, group: &str) -> Self {
        let databases = config
            .sources
            .iter()
            .filter_map(|source| match &source.engine {
                Engine::Sqlite { path } => path.parent().map(Path::to_owned),
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
        }
    }

    /// The file's text. Paths with a space are quoted as systemd wants it.
    pub(super) fn render(&self) -> String {
        let mut text = format!(
            "# Written by tidemark-agent init --systemd.\n\n[Service]\n\
             # The owner of the database files: SQLite's -wal and -shm must stay theirs.\n\
             User={}\nGroup={}\n",
            self.user, self.group
        );
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
        }
        .render()
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
