//! Whether bases can be read from the data directory, and what that needs: the right to start and stop
//! a backup, and to read the files. Over the network they come without either, several times slower.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Server;
use super::check::{Finding, Topic, identifier};
use super::setup::backup_grant;
use crate::conninfo::{Address, ConnInfo};

/// A group may list and pass a folder.
const GROUP_READS: u32 = 0o050;
/// Everybody may.
const ALL_READ: u32 = 0o005;

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
    /// The agent's user may read it, as far as can be told.
    pub is_readable: bool,
}

/// Looks for the server's data directory; none if it is on another machine or hidden. Read by the user
/// with the number `reader`.
pub(super) fn look(info: &ConnInfo, path: &str, reader: u32) -> Option<DataFolder> {
    if path.is_empty() || !info.addresses.iter().all(Address::is_local) {
        return None;
    }
    let meta = std::fs::metadata(path).ok()?;
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let (users, groups) = (read("/etc/passwd"), read("/etc/group"));
    let name = |names: &str, id: u32| name_of(names, id).unwrap_or_else(|| id.to_string());
    let mode = meta.mode() & 0o7777;
    let is_readable = if rustix::process::geteuid().as_raw() == reader {
        // Nobody knows it better than the system.
        File::open(Path::new(path).join("global/pg_control")).is_ok()
    } else {
        let in_group = || is_in_group(reader, meta.gid(), (&users, &groups));
        let by_group = mode & GROUP_READS == GROUP_READS && in_group();
        let by_all = mode & ALL_READ == ALL_READ;
        reader == 0 || reader == meta.uid() || by_group || by_all
    };
    Some(DataFolder {
        path: path.to_owned(),
        mode,
        user: name(&users, meta.uid()),
        group: name(&groups, meta.gid()),
        is_readable,
    })
}

/// Whether a user belongs to a group, by files such as `/etc/passwd` and `/etc/group`.
fn is_in_group(user: u32, group: u32, (users, groups): (&str, &str)) -> bool {
    let number = |line: &str, at: usize| line.split(':').nth(at)?.parse::<u32>().ok();
    let primary = |line: &str| number(line, 2) == Some(user) && number(line, 3) == Some(group);
    if users.lines().any(primary) {
        return true;
    }
    let Some(name) = name_of(users, user) else {
        return false;
    };
    let mut of_group = groups.lines().filter(|line| number(line, 2) == Some(group));
    of_group.any(|line| {
        let members = line.split(':').nth(3).unwrap_or_default();
        members.split(',').any(|member| member == name)
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
    let role = identifier(&server.user);
    let mut needs = Vec::new();
    if !server.may_back_up && !server.is_superuser {
        let grant = backup_grant(&role, server.major);
        needs.push(format!("{grant}   -- in database {}", server.database));
    }
    let Some(folder) = &server.data_folder else {
        if !server.is_here {
            return Finding::fine(
                Topic::Bases,
                "over the network: the data directory is not to be seen on this machine",
            );
        }
        // A setting that the role may not see, or a folder that this user may not even look at.
        needs.insert(0, format!("GRANT pg_monitor TO {role};"));
        needs.push("run the agent as the user that the server runs as, or let its user join that one's group".to_owned());
        return Finding::hint(
            Topic::Bases,
            "over the network, although the server is on this machine: its data directory can't be seen. Read from \
             there they come several times as fast",
            needs.join("\n"),
        );
    };
    let DataFolder {
        path, user, group, ..
    } = folder;
    if !folder.is_readable {
        needs.push(if folder.mode & GROUP_READS == GROUP_READS {
            format!("run the agent as {user}, or let its user join group {group}")
        } else {
            format!(
                "run the agent as {user}; or stop the server, chmod -R g+rX {path} (as initdb -g would have made it), \
                 and let the agent's user join group {group}"
            )
        });
    }
    if needs.is_empty() {
        return Finding::fine(Topic::Bases, format!("read from {path}"));
    }
    Finding::hint(
        Topic::Bases,
        format!("over the network; read from {path} itself they come several times as fast"),
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
                is_readable: false,
            }),
            is_here: true,
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
    fn bases_are_called_local_where_they_are_and_the_way_there_is_led_to_where_not() {
        let mut one = server(18, 0o700);
        one.may_back_up = true;
        one.data_folder.as_mut().expect("there").is_readable = true;
        let found = judge(&one);
        assert!(found.remedy.is_none(), "{found:?}");
        assert_eq!(found.found, "read from /data");
        // The right alone is missing.
        one.may_back_up = false;
        let found = judge(&one);
        let remedy = found.remedy.expect("the grant");
        assert!(
            found.found.starts_with("over the network"),
            "{}",
            found.found
        );
        assert!(
            remedy.starts_with("GRANT EXECUTE") && !remedy.contains("run the agent as"),
            "{remedy}"
        );
        // The setting is hidden: that comes first.
        one.data_folder = None;
        let remedy = judge(&one).remedy.expect("grants");
        assert!(
            remedy.starts_with("GRANT pg_monitor TO tidemark;\nGRANT EXECUTE"),
            "{remedy}"
        );
        one.is_here = false;
        let found = judge(&one);
        assert!(found.remedy.is_none() && found.found.starts_with("over the network"));
    }

    #[test]
    fn a_user_is_in_its_own_group_and_in_those_that_name_it() {
        let users =
            "root:x:0:0::/:/bin/sh\npostgres:x:104:110::/:/bin/sh\ntide:x:200:200::/:/bin/sh\n";
        let groups = "root:x:0:\nssl:x:120:postgres,tide\npostgres:x:110:tide2\n";
        let is_in = |user, group| is_in_group(user, group, (users, groups));
        assert!(is_in(104, 110) && is_in(200, 120) && is_in(104, 120));
        assert!(
            !is_in(200, 110) && !is_in(4711, 120),
            "no name, or half of one"
        );
    }

    #[test]
    fn names_are_found_by_their_numbers() {
        let text = "root:x:0:\npostgres:x:104:\n# odd\n";
        assert_eq!(name_of(text, 104).as_deref(), Some("postgres"));
        assert_eq!(name_of(text, 4), None);
    }
}
