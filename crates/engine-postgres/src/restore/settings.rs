//! The settings of the run that finishes a restore.
//!
//! They are given on the command line, where nothing in a file overrides them.

use std::path::Path;

use tidemark_format::postgres::TimelineId;

use super::control::Control;
use super::feed;
use super::stop::StopFound;

/// Prepared transactions that the log may bring, whatever the limit was when the base was made.
const PREPARED_MIN: u32 = 1000;
const MEGABYTE: u64 = 1 << 20;

/// What tells a server where to stop, whoever starts it.
pub(super) fn target(found: &StopFound) -> Vec<(String, String)> {
    // The log is in its place already: nothing is ever fetched.
    goal("false", &found.start.to_string(), found.timeline)
}

/// What makes a server replay what it is fed on `timeline`, to the end of that.
pub(super) fn fed(timeline: TimelineId) -> Vec<(String, String)> {
    goal(feed::command(), "", timeline)
}

fn goal(command: &str, lsn: &str, timeline: TimelineId) -> Vec<(String, String)> {
    let timeline = timeline.to_string();
    owned(&[
        ("restore_command", command),
        ("recovery_target", ""),
        ("recovery_target_name", ""),
        ("recovery_target_time", ""),
        ("recovery_target_xid", ""),
        ("recovery_target_lsn", lsn),
        ("recovery_target_inclusive", "on"),
        ("recovery_target_timeline", &timeline),
        ("recovery_target_action", "promote"),
        ("recovery_min_apply_delay", "0"),
        ("primary_conninfo", ""),
        ("primary_slot_name", ""),
    ])
}

fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// Everything for a run of ours to this goal, with its private files in `folder`.
pub(super) fn run(
    goal: Vec<(String, String)>,
    control: &Control,
    major: u16,
    folder: &Path,
) -> Vec<(String, String)> {
    let mut settings = goal;
    let file = |name: &str| folder.join(name).display().to_string();
    let flag = |on: bool| if on { "on" } else { "off" }.to_owned();
    settings.extend([
        ("config_file".to_owned(), file("postgresql.conf")),
        ("hba_file".to_owned(), file("pg_hba.conf")),
        ("ident_file".to_owned(), file("pg_ident.conf")),
        (
            "unix_socket_directories".to_owned(),
            folder.display().to_string(),
        ),
        (
            "wal_level".to_owned(),
            if control.wal_level >= 2 {
                "logical"
            } else {
                "replica"
            }
            .to_owned(),
        ),
        ("wal_log_hints".to_owned(), flag(control.wal_log_hints)),
        // Without it the server would drop the times it has kept.
        (
            "track_commit_timestamp".to_owned(),
            flag(control.track_commit_timestamp),
        ),
        (
            "max_connections".to_owned(),
            control.max_connections.to_string(),
        ),
        (
            "max_worker_processes".to_owned(),
            control.max_worker_processes.to_string(),
        ),
        (
            "max_prepared_transactions".to_owned(),
            control
                .max_prepared_transactions
                .max(PREPARED_MIN)
                .to_string(),
        ),
        (
            "max_locks_per_transaction".to_owned(),
            control.max_locks_per_transaction.to_string(),
        ),
        // At least two segments.
        (
            "min_wal_size".to_owned(),
            format!(
                "{}MB",
                (u64::from(control.segment_bytes) * 2 / MEGABYTE).max(80)
            ),
        ),
        (
            "shared_buffers".to_owned(),
            format!("{}MB", buffer_megabytes()),
        ),
    ]);
    settings.extend(owned(SAFE));
    if major >= 17 {
        settings.extend(owned(&[("summarize_wal", "off")]));
    }
    settings
}

/// Nothing gets out and nothing runs beside recovery.
const SAFE: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("unix_socket_permissions", "0700"),
    ("port", "5432"),
    ("ssl", "off"),
    ("shared_preload_libraries", ""),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("jit", "off"),
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("hot_standby", "off"),
    ("max_wal_senders", "0"),
    ("max_logical_replication_workers", "0"),
    ("synchronous_standby_names", ""),
    ("autovacuum", "off"),
    ("restart_after_crash", "off"),
    // An interrupted run is begun anew, and a finished one is synced as a whole.
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "on"),
    ("checkpoint_timeout", "1d"),
    ("max_wal_size", "1TB"),
    ("wal_recycle", "off"),
    ("huge_pages", "off"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_line_prefix", "%m [%p] "),
    ("log_timezone", "UTC"),
    ("timezone", "UTC"),
    ("lc_messages", "C"),
    ("update_process_title", "on"),
    ("cluster_name", ""),
];

/// A quarter of the memory that is free now, within bounds.
fn buffer_megabytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0);
    (kilobytes.saturating_mul(1024) / 4 / MEGABYTE).clamp(32, 1024)
}

/// Lines for `postgresql.auto.conf`, between marks that find them again.
pub(super) fn block(settings: &[(String, String)]) -> String {
    let mut text = format!("{BEGIN}\n");
    for (name, value) in settings {
        text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
    }
    text.push_str(END);
    text.push('\n');
    text
}

const BEGIN: &str = "# tidemark: recovery begins";
const END: &str = "# tidemark: recovery ends";

/// `text` without such lines.
pub(super) fn without_block(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.split_inclusive('\n') {
        match line.trim_end() {
            BEGIN => inside = true,
            END if inside => inside = false,
            _ if inside => {}
            _ => kept.push_str(line),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_are_found_again_and_the_sources_stay() {
        let source = "# Do not edit\nwork_mem = '8MB'\n";
        let ours = block(&[("restore_command".to_owned(), "echo 'x'".to_owned())]);
        assert!(ours.contains("restore_command = 'echo ''x'''\n"));
        assert_eq!(without_block(&format!("{source}{ours}")), source);
        assert_eq!(without_block(source), source);
    }
}
