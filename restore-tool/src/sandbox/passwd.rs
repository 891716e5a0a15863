//! The user that a sandbox made by root runs as.

/// Who has an account for this, in the order in which one is taken.
const NAMES: [&str; 3] = ["tidemark", "postgres", "nobody"];
/// What the last of them is everywhere.
const NOBODY: u32 = 65_534;

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// Somebody without any power; none if this process isn't root, and so runs it as itself.
    pub(super) fn unprivileged() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        Some(Self::among(&text))
    }

    fn among(passwd: &str) -> Self {
        let found = NAMES.iter().find_map(|name| Self::named(passwd, name));
        found.unwrap_or_else(|| Self {
            name: "nobody".to_owned(),
            uid: NOBODY,
            gid: NOBODY,
        })
    }

    fn named(passwd: &str, wanted: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| *name == wanted)?;
            let uid = fields.nth(1)?.parse().ok().filter(|uid| *uid != 0)?;
            let gid = fields.next()?.parse().ok()?;
            Some(Self {
                name: name.to_owned(),
                uid,
                gid,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n\
        postgres:x:101:104::/var/lib/postgresql:/bin/bash\n";

    #[test]
    fn an_account_made_for_databases_is_taken_before_nobody() {
        let account = Account::among(PASSWD);
        assert_eq!(
            (account.name.as_str(), account.uid, account.gid),
            ("postgres", 101, 104)
        );
        assert_eq!(Account::among("").uid, NOBODY);
    }

    #[test]
    fn root_by_another_name_is_nobody() {
        assert_eq!(Account::among("tidemark:x:0:0::/:/bin/sh\n").uid, NOBODY);
    }
}
