//! How the restored database is protected again: the commands, as the case is.
//!
//! How the agent will reach a restored server is told as far as its files do: where it listens is what its
//! settings say, and its roles came back with it.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use tidemark_format::postgres::layout::CONFIG_FOLDER;
use tidemark_host::output;
use tidemark_ledger::timeline::Timeline;

use super::prepare::Prepared;
use super::report::quote;
use crate::repository::Settings;

/// Beats that may stay out before an agent is taken for gone.
const BEATS_MISSED: u32 = 3;
/// And no less than this.
const GONE_AFTER: Duration = Duration::from_secs(2 * 60);

/// The commands; after a restore over a server's own folder, its agent goes on.
pub(super) fn commands(prepared: &Prepared, settings: &Settings, now: Timestamp) -> Vec<String> {
    let source = prepared.timeline.source();
    let lives = last_beat_of_a_living_agent(&prepared.timeline, now);
    if prepared.target.is_over() {
        // The same server on the same machine, and its agent's config with it.
        let same = "the agent that protected this server goes on by itself, with a base of what is there now";
        return match lives {
            Some(_) => vec![format!(
                "# nothing to do: {same}; tidemark-agent status shows when it is complete"
            )],
            None => vec![
                format!("systemctl start tidemark-agent   # {same}"),
                "tidemark-agent status".to_owned(),
            ],
        };
    }
    let [init, enrol] = init(prepared, settings, source.as_str());
    let warning = lives.map(|beat| {
        format!(
            "# only if {source} itself is lost: its agent said {} that it was there, and take-over would fence it. A copy \
             beside it takes the same init with --name {source}-copy, and no take-over",
            output::age(now, beat)
        )
    });
    let take_over = format!("tidemark-agent take-over --source {source} --yes");
    let start = "systemctl enable --now tidemark-agent".to_owned();
    let mut commands = vec![init, enrol];
    commands.extend(warning);
    commands.extend([take_over, start]);
    commands
}

/// When the source's agent last said that it was there, if that is so lately that it is.
fn last_beat_of_a_living_agent(timeline: &Timeline, now: Timestamp) -> Option<Timestamp> {
    if timeline.is_retired() {
        return None;
    }
    let beats = timeline.histories().filter_map(|(_, one)| one.caught_up());
    let newest = beats.max_by_key(|beat| beat.beat_at)?;
    let every = Duration::from_millis(newest.every_ms);
    let silent = now.duration_since(newest.beat_at);
    let gone = every.saturating_mul(BEATS_MISSED).max(GONE_AFTER);
    (silent.is_negative() || silent.unsigned_abs() <= gone).then_some(newest.beat_at)
}

/// `init` and enrolment under `name`.
fn init(prepared: &Prepared, settings: &Settings, name: &str) -> [String; 2] {
    let regions: Vec<String> = settings
        .regions
        .iter()
        .map(|region| format!("--region {}", quote(&region.url.to_string())))
        .collect();
    let recipients: Vec<String> = prepared
        .repository
        .keyring
        .recipients()
        .map(|entry| format!("--recipient {}", entry.key))
        .collect();
    let regions = regions.join(" ");
    let what = if prepared.timeline.is_divisible() {
        postgres_words(prepared.target.path())
    } else {
        let target = prepared.target.path().display().to_string();
        format!("--sqlite {}", quote(&target))
    };
    let recipients = recipients.join(" ");
    [
        format!("tidemark-agent init {what} --name {name} {regions} {recipients} --systemd"),
        format!("tidemark-restore keys enrol --all --root ROOT_KEY_FILE {regions}"),
    ]
}

/// The role that `init` proposes, and the database that every server has.
const LOGS_IN_AS: &str = "user=tidemark dbname=postgres";

/// The words of `init` for the server in `target`.
fn postgres_words(target: &Path) -> String {
    let found = |name: &str| setting(target, name);
    let mut words = Vec::new();
    let folder = found("unix_socket_directories");
    let folder = folder.as_deref().and_then(|all| all.split(',').next());
    if let Some(folder) = folder.map(str::trim).filter(|folder| !folder.is_empty()) {
        words.push(format!("host={folder}"));
    }
    let port = found("port").unwrap_or_else(|| "5432".to_owned());
    words.push(format!("port={port}"));
    words.push(LOGS_IN_AS.to_owned());
    format!("--postgres {}", quote(&words.join(" ")))
}

/// What stands last in the files that a server reads, the overriding one first.
pub(super) fn setting(target: &Path, name: &str) -> Option<String> {
    let files = [
        target.join("postgresql.auto.conf"),
        target.join("postgresql.conf"),
        target.join(CONFIG_FOLDER).join("postgresql.conf"),
    ];
    files.iter().find_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        text.lines().rev().find_map(|line| value(line, name))
    })
}

/// The value of a setting, if the line sets it.
fn value(line: &str, name: &str) -> Option<String> {
    let rest = line.trim().strip_prefix(name)?;
    let rest = rest.strip_prefix(['=', ' ', '\t'])?;
    let rest = rest.trim_start_matches(['=', ' ', '\t']);
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next()?,
        None => rest.split(['#', ' ', '\t']).next()?,
    };
    Some(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_named_where_its_settings_say_that_it_listens() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path();
        assert_eq!(
            postgres_words(target),
            "--postgres 'port=5432 user=tidemark dbname=postgres'"
        );
        let main = "#port = 1\nport = 5433  # ours\nports = 7\nunix_socket_directories = '/run/a, /run/b'\n";
        std::fs::write(target.join("postgresql.conf"), main).unwrap();
        assert_eq!(
            postgres_words(target),
            "--postgres 'host=/run/a port=5433 user=tidemark dbname=postgres'"
        );
        std::fs::write(target.join("postgresql.auto.conf"), "port = '6000'\n").unwrap();
        assert!(postgres_words(target).contains("port=6000"));
    }
}
