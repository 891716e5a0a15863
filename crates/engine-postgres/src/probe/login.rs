//! What a server that doesn't let the agent in is told about: a wrong password and a missing role or line
//! of pg_hba.conf have different remedies.

use super::check::{Finding, Topic, identifier};
use crate::conninfo::ConnInfo;

/// The code of a wrong password.
const WRONG_PASSWORD: &str = "28P01";

/// The server refused the log-in with `code`.
pub(super) fn refused(info: &ConnInfo, code: Option<&str>, text: String) -> Finding {
    if code == Some(WRONG_PASSWORD) {
        return wrong_password(info, &text);
    }
    Finding::broken(Topic::LogIn, text, log_in_remedy(info))
}

/// The role is there, pg_hba.conf lets it in, and what it says is not its password.
fn wrong_password(info: &ConnInfo, text: &str) -> Finding {
    let mut remedy = format!(
        "correct it in the connection string or the passfile, or give the role another one: \\password {}",
        identifier(&info.user)
    );
    remedy.push_str(&ignored_passfile(info));
    let found = format!("password refused for role {}: {text}", info.user);
    Finding::broken(Topic::LogIn, found, remedy)
}

/// A passfile that is there and that nobody reads.
fn ignored_passfile(info: &ConnInfo) -> String {
    let ignored = info.passfile.ignored();
    ignored.map_or_else(String::new, |path| {
        format!(
            "\n{} is not used because others may read it: chmod 600",
            path.display()
        )
    })
}

fn log_in_remedy(info: &ConnInfo) -> String {
    let mut text =
        "if the role is missing or has another password, run as a superuser:\n".to_owned();
    text.push_str(&super::role_statements(&info.user).join("\n"));
    text.push_str("\nand in pg_hba.conf, then SELECT pg_reload_conf():\n");
    text.push_str(&super::hba_lines(info).join("\n"));
    text.push_str(&ignored_passfile(info));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conninfo::Process;

    #[test]
    fn a_wrong_password_is_told_first_and_alone() {
        let info = ConnInfo::parse("host=db1 user=tidemark password=x", &Process).expect("valid");
        let found = refused(&info, Some("28P01"), "the server says no".to_owned());
        assert!(
            found
                .found
                .starts_with("password refused for role tidemark"),
            "{found:?}"
        );
        let remedy = found.remedy.expect("a remedy");
        assert!(
            !remedy.contains("CREATE ROLE") && !remedy.contains("pg_hba"),
            "{remedy}"
        );
        let other = refused(&info, Some("28000"), "the server says no".to_owned());
        assert!(
            other
                .remedy
                .expect("a remedy")
                .contains("CREATE ROLE tidemark")
        );
    }
}
