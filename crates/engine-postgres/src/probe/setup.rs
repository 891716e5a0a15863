//! What an administrator runs once, so that the agent may read the log: a role and its way in.

use super::check::identifier;
use crate::conninfo::{Address, ConnInfo, SslMode};

/// Statements that make the role, with what it needs and nothing more.
#[must_use]
pub fn role_statements(user: &str) -> Vec<String> {
    let role = identifier(user);
    vec![
        format!(
            "CREATE ROLE {role} LOGIN REPLICATION;   -- and \\password {role}, unless it logs in by peer"
        ),
        format!("GRANT pg_monitor TO {role};"),
        format!(
            "{}   -- for bases that are read from the data directory, in the database that the agent connects to",
            backup_grant(&role, 15)
        ),
    ]
}

/// The statement that lets a role take bases from the data directory; functions were renamed in 15.
pub(super) fn backup_grant(role: &str, major: u16) -> String {
    let functions = if major < 15 {
        "pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean)"
    } else {
        "pg_backup_start(text, boolean), pg_backup_stop(boolean)"
    };
    format!("GRANT EXECUTE ON FUNCTION {functions} TO {role};")
}

/// Lines of `pg_hba.conf` that let it in: for replication, and for the database that is asked about
/// the server.
#[must_use]
pub fn hba_lines(info: &ConnInfo) -> Vec<String> {
    let user = quoted(&info.user);
    let database = quoted(&info.database);
    let is_local = |address: &Address| matches!(address, Address::Unix { .. });
    let mut lines = Vec::new();
    if info.addresses.iter().any(is_local) {
        lines.push(format!("local    replication  {user}  peer"));
        lines.push(format!("local    {database}  {user}  peer"));
    }
    if !info.addresses.iter().all(is_local) {
        let kind = match info.ssl {
            SslMode::Disable | SslMode::Allow => "host   ",
            SslMode::Prefer | SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
                "hostssl"
            }
        };
        let from = "ADDRESS-OF-THIS-HOST/32";
        lines.push(format!(
            "{kind}  replication  {user}  {from}  scram-sha-256"
        ));
        lines.push(format!("{kind}  {database}  {user}  {from}  scram-sha-256"));
    }
    lines
}

/// A name as `pg_hba.conf` takes it: its keywords lose their meaning in quotes.
fn quoted(name: &str) -> String {
    let is_plain = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let is_keyword = matches!(
        name,
        "all" | "replication" | "sameuser" | "samerole" | "samegroup"
    );
    if is_plain && !is_keyword {
        name.to_owned()
    } else {
        format!("\"{name}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conninfo::{ConnInfoError, Surroundings};

    struct Nothing;

    impl Surroundings for Nothing {
        fn variable(&self, _name: &str) -> Option<String> {
            None
        }
        fn read(&self, _path: &std::path::Path) -> std::io::Result<Option<String>> {
            Ok(None)
        }
        fn mode(&self, _path: &std::path::Path) -> Option<u32> {
            None
        }
        fn user(&self) -> Option<String> {
            None
        }
    }

    fn lines(text: &str) -> Result<String, ConnInfoError> {
        ConnInfo::parse(text, &Nothing).map(|info| hba_lines(&info).join("\n"))
    }

    #[test]
    fn the_way_in_is_that_of_the_connection_string() {
        let local = lines("postgres://tidemark@/all?host=/run").expect("valid");
        assert!(
            local.starts_with("local    replication  tidemark  peer"),
            "{local}"
        );
        assert!(
            local.contains("local    \"all\"  tidemark  peer"),
            "{local}"
        );
        let remote = lines("postgres://tidemark@db1/shop?sslmode=require").expect("valid");
        assert!(
            remote.starts_with("hostssl  replication  tidemark  ADDRESS"),
            "{remote}"
        );
        let open = lines("host=db1 user=tidemark sslmode=disable").expect("valid");
        assert!(open.starts_with("host     replication"), "{open}");
    }

    #[test]
    fn the_role_may_log_in_and_replicate() {
        let statements = role_statements("Tide mark").join("\n");
        assert!(statements.contains("CREATE ROLE \"Tide mark\" LOGIN REPLICATION;"));
        assert!(statements.contains("GRANT pg_monitor TO \"Tide mark\";"));
        assert!(statements.contains("pg_backup_stop(boolean) TO \"Tide mark\";"));
    }
}
