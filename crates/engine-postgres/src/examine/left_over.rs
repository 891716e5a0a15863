//! Settings of the source that lie in the restored directory: found, told, kept from taking effect.
//!
//! Pure: reads the text of configuration files as a server does, without following what they include.

use std::collections::BTreeMap;

use tidemark_engine::examine::{Finding, LEVEL_LOGICAL, Status};
use tidemark_format::Hash;

/// Would make whoever starts the directory reach for production.
const CONNECTS: &[&str] = &["primary_conninfo", "restore_command"];
/// Would run, load or open something there, or send something away.
const ACTS: &[&str] = &[
    "archive_cleanup_command",
    "archive_command",
    "archive_library",
    "archive_mode",
    "cluster_name",
    "dynamic_library_path",
    "external_pid_file",
    "include",
    "include_dir",
    "include_if_exists",
    "listen_addresses",
    "local_preload_libraries",
    "primary_slot_name",
    "recovery_end_command",
    "session_preload_libraries",
    "shared_preload_libraries",
    "ssl_passphrase_command",
    "synchronous_standby_names",
];

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct LeftOver {
    /// File and name → digest of the value.
    pub(super) found: BTreeMap<String, String>,
    /// Those that connect, by name.
    pub(super) connects: Vec<String>,
}

impl LeftOver {
    /// One more, from inside the database.
    pub(super) fn push(&mut self, place: &str, name: &str, value: &str, connects: bool) {
        let key = format!("{place}: {name}");
        if connects {
            self.connects.push(key.clone());
        }
        self.found.insert(key, digest(value));
    }

    pub(super) fn finding(&self) -> Finding {
        let status = if self.connects.is_empty() {
            Status::Recorded
        } else {
            Status::Warned
        };
        let finding = Finding::new(
            LEVEL_LOGICAL,
            "postgres.left_over",
            "settings of the source's that lie in the restored files, and did not take effect here",
            status,
        )
        .actual(self.found.len().to_string());
        if self.connects.is_empty() {
            return finding;
        }
        finding.why(format!(
            "whoever starts this database elsewhere connects to production: {}; remove them before",
            self.connects.join(", ")
        ))
    }
}

fn digest(value: &str) -> String {
    format!("blake3:{}", Hash::of(value.as_bytes()))
}

/// Looks through the files.
pub(super) fn look(files: &[(&'static str, String)]) -> LeftOver {
    let mut left = LeftOver::default();
    for (file, text) in files {
        for (name, value) in parse(text) {
            let connects = CONNECTS.contains(&name.as_str());
            if !value.is_empty() && (connects || ACTS.contains(&name.as_str())) {
                left.push(file, &name, &value, connects);
            }
        }
    }
    left
}

/// Libraries that the source loads with its server: the last word counts.
pub(super) fn libraries(files: &[(&'static str, String)]) -> Vec<String> {
    let mut all = files.iter().rev().flat_map(|(_, text)| {
        let lines = parse(text);
        lines.into_iter().rev()
    });
    let last = all.find(|(name, _)| name == "shared_preload_libraries");
    let value = last.map(|(_, value)| value).unwrap_or_default();
    value
        .split(',')
        .map(|library| library.trim().trim_matches('"').to_owned())
        .filter(|library| !library.is_empty())
        .collect()
}

/// `name = value` of every line; names in lower case, values without their quotes.
fn parse(text: &str) -> Vec<(String, String)> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.')))
        .unwrap_or(line.len());
    let (name, rest) = line.split_at_checked(end)?;
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    Some((name.to_ascii_lowercase(), value(rest)))
}

fn value(text: &str) -> String {
    let Some(quoted) = text.strip_prefix('\'') else {
        let word = text.split(|c: char| c.is_whitespace() || c == '#').next();
        return word.unwrap_or_default().to_owned();
    };
    let mut value = String::new();
    let mut chars = quoted.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'\'') => {
                chars.next();
                value.push('\'');
            }
            '\'' => break,
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = "# a comment\n#archive_command = 'no'\nlisten_addresses = '*'\t# all\n\
        Archive_Command 'cp %p ''/mnt/x''/%f'\nwork_mem = 4MB\narchive_mode=on\nlisten_addresses = ''\n";

    #[test]
    fn lines_are_read_as_a_server_reads_them() {
        assert_eq!(
            parse(CONF),
            [
                ("listen_addresses", "*"),
                ("archive_command", "cp %p '/mnt/x'/%f"),
                ("work_mem", "4MB"),
                ("archive_mode", "on"),
                ("listen_addresses", ""),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn what_acts_is_told_by_a_digest_and_what_connects_is_an_exception() {
        let auto = "primary_conninfo = 'host=prod password=secret'\n".to_owned();
        let mut left = look(&[("postgresql.conf", CONF.to_owned())]);
        assert_eq!(left.finding().status, Status::Recorded);
        assert_eq!(left.found.len(), 3, "{left:?}");
        left = look(&[
            ("postgresql.conf", CONF.to_owned()),
            ("postgresql.auto.conf", auto),
        ]);
        let finding = left.finding();
        assert_eq!(finding.status, Status::Warned);
        let why = finding.why.expect("a reason");
        assert!(
            why.contains("postgresql.auto.conf: primary_conninfo"),
            "{why}"
        );
        let all = format!("{left:?}{why}");
        assert!(!all.contains("secret"), "{all}");
    }

    #[test]
    fn the_last_word_on_libraries_counts() {
        let files = [
            (
                "postgresql.conf",
                "shared_preload_libraries = 'a, b'\n".to_owned(),
            ),
            (
                "postgresql.auto.conf",
                "shared_preload_libraries = 'pg_cron, \"timescaledb\"'\n".to_owned(),
            ),
        ];
        assert_eq!(libraries(&files), ["pg_cron", "timescaledb"]);
        assert!(libraries(&[]).is_empty());
    }
}
