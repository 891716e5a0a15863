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

/// A connection whose TLS anybody between could take away.
pub(super) fn of_link(info: &ConnInfo, peer: &str, encrypted: bool) -> Option<Finding> {
    let mut addresses = info.addresses.iter();
    let address = addresses.find(|address| address.to_string() == peer)?;
    if !info.leaves_tls_to_chance(address) {
        return None;
    }
    let found = if encrypted {
        format!(
            "the connection to {peer} is encrypted by chance: with sslmode=prefer, which holds where nothing is \
             written, it would go on without TLS if somebody between took that away, and no certificate is checked"
        )
    } else {
        format!(
            "the connection to {peer} is not encrypted (sslmode=prefer, and the server has no TLS): whoever is \
             between reads the log, and sees what the password is proved with"
        )
    };
    let remedy = "sslmode=verify-full sslrootcert=FILE in the connection string, with ssl = on and a certificate on \
                  the server; or sslmode=disable, if the network between is trusted";
    Some(Finding::look(Topic::Tls, found, remedy))
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

    #[test]
    fn tls_that_is_left_to_chance_is_told_for_servers_elsewhere_only() {
        let link = |text: &str, encrypted| {
            let info = ConnInfo::parse(text, &Process).expect("valid");
            let peer = info.addresses[0].to_string();
            of_link(&info, &peer, encrypted)
        };
        for encrypted in [false, true] {
            let found = link("host=db1 user=x sslmode=prefer", encrypted).expect("told");
            let (text, remedy) = (found.found, found.remedy.expect("a remedy"));
            assert_eq!(text.contains("is not encrypted"), !encrypted, "{text}");
            assert!(remedy.contains("verify-full"), "{remedy}");
            for quiet in [
                "host=localhost user=x sslmode=prefer",
                "host=/run user=x sslmode=prefer",
                "host=db1 user=x sslmode=disable",
                "host=db1 user=x sslmode=require",
            ] {
                assert_eq!(link(quiet, encrypted), None, "{quiet}");
            }
        }
    }
}
