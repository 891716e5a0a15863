//! What of a data directory belongs into a base, as the server itself decides for its base backups.
//!
//! Pure. Left out: what a start makes anew (`pg_internal.init`, `postmaster.pid` …), what recovery
//! empties (`pg_notify` …, the log, temporary files and relations), and all of an unlogged relation
//! but its init fork, from which recovery makes it empty.

use std::collections::HashSet;

/// Folders that are there and empty in a base, wherever they stand.
const EMPTIED: [&str; 7] = [
    "pg_stat_tmp",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
];
/// Files that are left out, wherever they stand.
const LEFT_OUT: [&str; 8] = [
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
    ".DS_Store",
];
/// Folders at the top in which the server keeps what belongs to the database, and not only settings or its
/// own log.
const DATA: [&str; 6] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_multixact",
    "pg_twophase",
    "pg_xact",
];
/// The cache of the catalogues; a process number may follow.
const CACHE: &str = "pg_internal.init";
/// Of temporary files and their folders.
const TEMPORARY: &str = "pgsql_tmp";

/// What to do with a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Folder {
    /// It and what it holds.
    Take,
    /// It alone, empty.
    Empty,
    /// Nothing of it.
    Leave,
}

/// Decides about the folder at `path`.
pub(super) fn folder(path: &str) -> Folder {
    let name = path.rsplit('/').next().unwrap_or(path);
    match path {
        // What is in the log comes as log. Two of its folders must be there.
        "pg_wal/archive_status" | "pg_wal/summaries" => Folder::Empty,
        // Links to tablespaces; these are walked on their own.
        "pg_tblspc" => Folder::Empty,
        _ if path.starts_with("pg_wal/") => Folder::Leave,
        _ if EMPTIED.contains(&name) => Folder::Empty,
        _ if name.starts_with(TEMPORARY) => Folder::Leave,
        _ => Folder::Take,
    }
}

/// Whether the file at `path` is taken; `unlogged` are the relations of its folder with an init fork.
pub(super) fn takes_file(path: &str, unlogged: &HashSet<u32>) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let left_out = LEFT_OUT.contains(&name)
        || name.starts_with(CACHE)
        || name.starts_with(TEMPORARY)
        || path.starts_with("pg_wal/")
        || path == "global/pg_control";
    if left_out {
        return false;
    }
    if !is_database_folder(path) {
        return true;
    }
    let of_unlogged = fork(name)
        .is_some_and(|(relation, fork)| fork != Some("init") && unlogged.contains(&relation));
    !of_unlogged && !is_temporary_relation(name)
}

/// Whether what stands at `path` belongs to the database: a base without it is none.
pub(super) fn is_data(path: &str) -> bool {
    let mut parts = path.split('/');
    match parts.next() {
        // Links right in there are tablespaces.
        Some("pg_tblspc") => parts.count() > 1,
        Some(top) => DATA.contains(&top),
        None => false,
    }
}

/// Whether the entry at `path` is a folder for a base even where it is a link to one, as the server has it.
pub(super) fn is_folder_elsewhere(path: &str) -> bool {
    path == "pg_wal" || (!path.contains('/') && folder(path) == Folder::Empty)
}

/// The relation of an init fork, if `name` is one's.
pub(super) fn init_fork(name: &str) -> Option<u32> {
    fork(name)
        .filter(|(_, fork)| *fork == Some("init"))
        .map(|(relation, _)| relation)
}

/// Whether the file at `path` stands among a database's relations.
fn is_database_folder(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(parts.as_slice(), ["base", _, _] | ["pg_tblspc", _, _, _, _])
}

/// A relation's number and fork: `1259`, `1259.1`, `1259_fsm.2`.
fn fork(name: &str) -> Option<(u32, Option<&str>)> {
    let (name, segment) = match name.split_once('.') {
        Some((name, segment)) => (name, Some(segment)),
        None => (name, None),
    };
    if segment.is_some_and(|segment| segment.parse::<u32>().is_err()) {
        return None;
    }
    match name.split_once('_') {
        Some((number, fork)) if matches!(fork, "fsm" | "vm" | "init") => {
            Some((number.parse().ok()?, Some(fork)))
        }
        Some(_) => None,
        None => Some((name.parse().ok()?, None)),
    }
}

/// `t3_16384`, with fork and segment: a session's own, gone with it.
fn is_temporary_relation(name: &str) -> bool {
    let Some((session, relation)) = name.strip_prefix('t').and_then(|rest| rest.split_once('_'))
    else {
        return false;
    };
    session.parse::<u32>().is_ok() && fork(relation).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_emptied_or_left_as_the_server_does() {
        for path in [
            "base",
            "base/1",
            "pg_wal",
            "global",
            "log",
            "pg_stat",
            "pg_tblspc/1/PG_15_2",
        ] {
            assert_eq!(folder(path), Folder::Take, "{path}");
        }
        for path in [
            "pg_replslot",
            "pg_notify",
            "pg_wal/archive_status",
            "pg_tblspc",
        ] {
            assert_eq!(folder(path), Folder::Empty, "{path}");
        }
        for path in [
            "base/pgsql_tmp",
            "pg_wal/x",
            "base/pgsql_tmp/pgsql_tmp1.0.fileset",
        ] {
            assert_eq!(folder(path), Folder::Leave, "{path}");
        }
    }

    #[test]
    fn files_are_taken_unless_a_start_or_recovery_makes_them_anew() {
        let unlogged = HashSet::from([16400]);
        for path in [
            "PG_VERSION",
            "postgresql.auto.conf",
            "global/1262",
            "base/1/1259",
            "base/1/16400_init",
            "base/1/16401",
            "pg_xact/0000",
            "base/1/t_not_temporary",
            "postmaster.pid.old",
        ] {
            assert!(takes_file(path, &unlogged), "{path}");
        }
        for path in [
            "postmaster.pid",
            "backup_label",
            "global/pg_control",
            "global/pg_internal.init",
            "base/1/pg_internal.init.42",
            "base/1/16400",
            "base/1/16400.1",
            "base/1/16400_fsm",
            "base/1/t3_16402",
            "base/1/t3_16402_vm.1",
            "pg_tblspc/5/PG_15_2/1/t12_5",
            "pg_wal/000000010000000000000001",
            "base/pgsql_tmp/pgsql_tmp12.0",
        ] {
            assert!(!takes_file(path, &unlogged), "{path}");
        }
    }

    #[test]
    fn data_is_told_from_settings_and_from_what_the_server_empties() {
        for path in [
            "base",
            "base/16384",
            "base/5/2619",
            "pg_xact",
            "pg_multixact/members",
            "global/1262",
            "pg_tblspc/16385/PG_15_202209061",
            "pg_tblspc/16385/PG_15_202209061/5/16400",
        ] {
            assert!(is_data(path), "{path}");
        }
        for path in [
            "",
            "log",
            "postgresql.conf",
            "pg_tblspc",
            "pg_tblspc/16385",
            "pg_wal",
            "pg_wal/x",
        ] {
            assert!(!is_data(path), "{path}");
        }
        for path in ["pg_wal", "pg_stat_tmp", "pg_replslot", "pg_tblspc"] {
            assert!(is_folder_elsewhere(path), "{path}");
        }
        for path in ["base", "log", "x/pg_stat_tmp"] {
            assert!(!is_folder_elsewhere(path), "{path}");
        }
    }

    #[test]
    fn init_forks_tell_unlogged_relations() {
        assert_eq!(init_fork("16400_init"), Some(16400));
        assert_eq!(init_fork("16400_init.1"), Some(16400));
        assert_eq!(init_fork("16400_fsm"), None);
        assert_eq!(init_fork("16400"), None);
    }
}
