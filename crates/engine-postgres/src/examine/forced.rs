//! The settings that a restored server is asked under: given on the command line, where no file
//! overrides them, and read back from the server itself.

use std::collections::BTreeMap;

use tidemark_engine::examine::{Finding, LEVEL_LOGICAL, Status};

/// What must hold while a server is asked, whatever its major version.
const FORCED: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("archive_mode", "off"),
    ("archive_command", "/bin/false"),
    ("restore_command", ""),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("synchronous_standby_names", ""),
    ("max_wal_senders", "0"),
    ("max_logical_replication_workers", "0"),
    ("max_sync_workers_per_subscription", "0"),
    ("max_worker_processes", "4"),
    ("autovacuum", "off"),
    ("jit", "off"),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("default_transaction_read_only", "on"),
    ("ssl", "off"),
    ("fsync", "off"),
    ("dynamic_shared_memory_type", SHARED_MEMORY),
    ("restart_after_crash", "off"),
    // What a failed statement says may hold values: it is told to the one who asked, and to no log.
    ("log_min_error_statement", "panic"),
    ("log_error_verbosity", "terse"),
    ("log_min_messages", "fatal"),
    ("log_statement", "none"),
    ("log_min_duration_statement", "-1"),
];

/// In the data directory, so that nothing of it stays when that is thrown away.
const SHARED_MEMORY: &str = "mmap";

/// Not of every major version.
const SINCE: &[(u16, &str, &str)] = &[(15, "archive_library", ""), (17, "event_triggers", "off")];

/// What no server changes on its own, so that it is not asked back.
const NOT_ASKED_BACK: [&str; 1] = ["fsync"];

/// The settings for a server of `major` that may load `libraries`.
pub(super) fn settings(major: u16, libraries: &[String]) -> Vec<(String, String)> {
    let mut settings: Vec<(String, String)> = FORCED
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let known = SINCE.iter().filter(|(since, ..)| *since <= major);
    settings.extend(known.map(|(_, name, value)| ((*name).to_owned(), (*value).to_owned())));
    settings.extend(preload(libraries));
    settings
}

/// What a server that replays is given beside what it always is.
pub(super) fn replaying(libraries: &[String]) -> Vec<(String, String)> {
    let mut settings = preload(libraries);
    let memory = ("dynamic_shared_memory_type", SHARED_MEMORY);
    settings.push((memory.0.to_owned(), memory.1.to_owned()));
    settings
}

/// What loads `libraries` with the server.
fn preload(libraries: &[String]) -> Vec<(String, String)> {
    vec![("shared_preload_libraries".to_owned(), libraries.join(","))]
}

/// Of the libraries that the source loads, those that are allowed, in the source's order.
pub(super) fn reduced(loads: &[String], allowed: &[String]) -> Vec<String> {
    let may = |library: &&String| allowed.contains(library);
    loads.iter().filter(may).cloned().collect()
}

/// Whether what the server says is in force is what was forced.
pub(super) fn compare(forced: &[(String, String)], in_force: &BTreeMap<String, String>) -> Finding {
    let mut others = Vec::new();
    for (name, value) in forced {
        if NOT_ASKED_BACK.contains(&name.as_str()) {
            continue;
        }
        match in_force.get(name) {
            // A command that is switched off is not shown.
            Some(found)
                if found == value || (name == "archive_command" && found == "(disabled)") => {}
            Some(_) => others.push(format!("{name} is not {value:?}")),
            None => others.push(format!("{name} can't be asked")),
        }
    }
    let name = "nothing of the source's settings is in force, and nothing can leave";
    if others.is_empty() {
        return Finding::new(LEVEL_LOGICAL, "postgres.settings", name, Status::Passed)
            .actual(format!("{} settings read back", forced.len()));
    }
    Finding::new(LEVEL_LOGICAL, "postgres.settings", name, Status::Failed).why(others.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_force(major: u16) -> BTreeMap<String, String> {
        settings(major, &[]).into_iter().collect()
    }

    #[test]
    fn each_major_gets_what_it_knows() {
        let knows = |major, name: &str| settings(major, &[]).iter().any(|(own, _)| own == name);
        assert!(!knows(14, "archive_library") && knows(15, "archive_library"));
        assert!(!knows(16, "event_triggers") && knows(17, "event_triggers"));
    }

    #[test]
    fn only_libraries_that_are_allowed_and_loaded_are_loaded() {
        let words = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let kept = reduced(
            &words("pg_cron,timescaledb,auditor"),
            &words("timescaledb,other"),
        );
        assert_eq!(kept, ["timescaledb"]);
        assert_eq!(preload(&kept)[0].1, "timescaledb");
    }

    #[test]
    fn a_setting_of_the_sources_in_force_is_named_without_its_value() {
        let forced = settings(17, &[]);
        let mut found = in_force(17);
        found.insert("archive_command".to_owned(), "(disabled)".to_owned());
        assert_eq!(compare(&forced, &found).status, Status::Passed);
        found.insert(
            "primary_conninfo".to_owned(),
            "host=prod password=x".to_owned(),
        );
        let finding = compare(&forced, &found);
        assert_eq!(finding.status, Status::Failed);
        let why = finding.why.expect("a reason");
        assert!(
            why.contains("primary_conninfo") && !why.contains("password"),
            "{why}"
        );
        found.remove("archive_mode");
        let why = compare(&forced, &found).why.expect("a reason");
        assert!(why.contains("archive_mode can't be asked"), "{why}");
    }
}
