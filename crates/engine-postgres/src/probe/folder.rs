//! Whether bases can be read from the data directory, and what that needs: the right to start and stop
//! a backup, and to read the files. Over the network they come without either, several times slower.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;

use super::Server;
use super::check::{Finding, Topic, identifier};
use super::setup::backup_grant;
use crate::conninfo::{Address, ConnInfo};

/// A group may list and pass a folder.
const GROUP_READS: u32 = 0o050;

/// The data directory as this machine shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFolder {
    /// Where the server says it is.
    pub path: String,
    /// Its permissions.
    pub mode: u32,
    /// Its owner's name, or number.
    pub user: String,
    /// Its group's name, or number.
    pub group: String,
}

/// Looks for the server's data directory; none if it is on another machine or hidden.
pub(super) fn look(info: &ConnInfo, path: &str) -> Option<DataFolder> {
    let is_here = |address: &Address| match address {
        Address::Unix { .. } => true,
        Address::Tcp { host, at, .. } => {
            let loopback = |at: &IpAddr| at.is_loopback();
            host == "localhost" || at.as_ref().is_some_and(loopback)
        }
    };
    if path.is_empty() || !info.addresses.iter().all(is_here) {
        return None;
    }
    let meta = std::fs::metadata(path).ok()?;
    let name = |file: &str, id: u32| {
        let names = std::fs::read_to_string(file).unwrap_or_default();
        name_of(&names, id).unwrap_or_else(|| id.to_string())
    };
    Some(DataFolder {
        path: path.to_owned(),
        mode: meta.mode() & 0o7777,
        user: name("/etc/passwd", meta.uid()),
        group: name("/etc/group", meta.gid()),
    })
}

/// The name with a number in a file such as `/etc/group`.
fn name_of(text: &str, id: u32) -> Option<String> {
    let id = id.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    })
}

/// How bases will come, and what would have them read from the data directory.
pub(super) fn judge(server: &Server) -> Finding {
    let Some(folder) = &server.data_folder else {
        return Finding::fine(
            Topic::Bases,
            "over the network: the data directory is not to be seen on this machine",
        );
    };
    let DataFolder {
        path, user, group, ..
    } = folder;
    let mut needs = Vec::new();
    if !server.may_back_up && !server.is_superuser {
        let grant = backup_grant(&identifier(&server.user), server.major);
        needs.push(format!("{grant}   -- in database {}", server.database));
    }
    if folder.mode & GROUP_READS != GROUP_READS {
        needs.push(format!(
            "run the agent as {user}; or stop the server, chmod -R g+rX {path} (as initdb -g would have made it), \
             and let the agent's user join group {group}"
        ));
    } else if !needs.is_empty() {
        needs.push(format!(
            "run the agent as {user}, or let its user join group {group}"
        ));
    }
    if needs.is_empty() {
        return Finding::fine(
            Topic::Bases,
            format!("read from {path} by an agent that runs as {user} or in group {group}"),
        );
    }
    Finding::hint(
        Topic::Bases,
        format!(
            "over the network, unless the agent may read {path} itself, which is several times as fast"
        ),
        needs.join("\n"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Grade;

    fn server(major: u16, mode: u32) -> Server {
        Server {
            major,
            user: "tidemark".to_owned(),
            database: "postgres".to_owned(),
            data_folder: Some(DataFolder {
                path: "/data".to_owned(),
                mode,
                user: "pgowner".to_owned(),
                group: "pggroup".to_owned(),
            }),
            ..Server::default()
        }
    }

    #[test]
    fn the_grants_are_those_of_the_version_and_the_group_is_named() {
        let found = judge(&server(14, 0o700));
        let remedy = found.remedy.expect("something is missing");
        assert_eq!(found.grade, Grade::Fine, "bases come over the network then");
        assert!(
            remedy.starts_with(
                "GRANT EXECUTE ON FUNCTION pg_start_backup(text, boolean, boolean), \
                 pg_stop_backup(boolean, boolean) TO tidemark;   -- in database postgres\n"
            ),
            "{remedy}"
        );
        for word in [
            "run the agent as pgowner",
            "chmod -R g+rX /data",
            "initdb -g",
            "group pggroup",
        ] {
            assert!(remedy.contains(word), "{remedy}");
        }
        let remedy = judge(&server(15, 0o750)).remedy.expect("the grant");
        assert!(
            remedy.contains("pg_backup_start(text, boolean), pg_backup_stop(boolean) TO tidemark;"),
            "{remedy}"
        );
        assert!(!remedy.contains("chmod"), "{remedy}");
    }

    #[test]
    fn nothing_is_asked_for_where_nothing_is_missing_or_the_server_is_elsewhere() {
        let mut one = server(18, 0o750);
        one.may_back_up = true;
        let found = judge(&one);
        assert!(found.remedy.is_none() && found.found.contains("group pggroup"));
        one.data_folder = None;
        assert!(judge(&one).found.starts_with("over the network"));
    }

    #[test]
    fn names_are_found_by_their_numbers() {
        let text = "root:x:0:\npostgres:x:104:\n# odd\n";
        assert_eq!(name_of(text, 104).as_deref(), Some("postgres"));
        assert_eq!(name_of(text, 4), None);
    }
}
