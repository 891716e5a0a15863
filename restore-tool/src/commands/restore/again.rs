//! How the agent will reach a restored server, as far as its files tell: where it listens is what its
//! settings say, and its roles came back with it.

use std::path::Path;

use tidemark_format::postgres::layout::CONFIG_FOLDER;

use super::report::quote;

/// The role that `init` proposes, and the database that every server has.
const LOGS_IN_AS: &str = "user=tidemark dbname=postgres";

/// The words of `init` for the server in `target`.
pub(super) fn postgres_words(target: &Path) -> String {
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
fn setting(target: &Path, name: &str) -> Option<String> {
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
