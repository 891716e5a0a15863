//! A connection string that means the same to another user: what this process's environment added to
//! it stands in it, and its password stands elsewhere.

use std::path::Path;

use super::{ConnInfo, Password, Result, Surroundings, parse};

/// A connection string for a config file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Without a password; what was given, if that was complete.
    pub text: String,
    /// The password that was in it or in the environment: one line of a passfile.
    pub passfile_line: Option<String>,
}

/// Settles a connection string; a password goes into the passfile at `passfile`.
///
/// # Errors
/// As [`ConnInfo::parse`].
pub fn settle(text: &str, around: &dyn Surroundings, passfile: &Path) -> Result<Settled> {
    let info = ConnInfo::parse(text, around)?;
    let mut pairs = parse::read(text)?;
    let mut changed = false;
    let by_service = pairs.contains_key("service");
    for (key, variable) in parse::VARIABLES {
        let given = around.variable(variable).filter(|value| !value.is_empty());
        if let (Some(value), false) = (given, pairs.contains_key(*key)) {
            pairs.insert((*key).to_owned(), value);
            changed = true;
        }
    }
    if !by_service && !pairs.contains_key("user") {
        pairs.insert("user".to_owned(), info.user.clone());
        changed = true;
    }
    let password = pairs.remove("password").filter(|given| !given.is_empty());
    let passfile_line = password.map(Password).map(|password| {
        changed = true;
        pairs.insert("passfile".to_owned(), passfile.display().to_string());
        format!(
            "*:*:*:{}:{}",
            escaped(&info.user),
            escaped(password.reveal())
        )
    });
    let text = if changed {
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(key, value)| format!("{key}={}", quoted(value)))
            .collect();
        pairs.join(" ")
    } else {
        text.trim().to_owned()
    };
    Ok(Settled {
        text,
        passfile_line,
    })
}

/// A value of `key=value`.
fn quoted(value: &str) -> String {
    let is_plain =
        !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '\'' || c == '\\');
    if is_plain {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A field of a passfile.
fn escaped(field: &str) -> String {
    field.replace('\\', "\\\\").replace(':', "\\:")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Around(BTreeMap<&'static str, &'static str>);

    impl Surroundings for Around {
        fn variable(&self, name: &str) -> Option<String> {
            self.0.get(name).map(|value| (*value).to_owned())
        }
        fn read(&self, _path: &Path) -> std::io::Result<Option<String>> {
            Ok(None)
        }
        fn mode(&self, _path: &Path) -> Option<u32> {
            None
        }
        fn user(&self) -> Option<String> {
            Some("root".to_owned())
        }
    }

    fn settled(text: &str, environment: &[(&'static str, &'static str)]) -> Settled {
        let around = Around(environment.iter().copied().collect());
        let settled = settle(text, &around, Path::new("/state/app.pgpass")).expect("valid");
        let empty = Around(BTreeMap::new());
        let (before, after) = (
            ConnInfo::parse(text, &around).expect("valid"),
            ConnInfo::parse(&settled.text, &empty).expect("what is settled is valid"),
        );
        assert_eq!(before.addresses, after.addresses);
        assert_eq!((before.user, before.database), (after.user, after.database));
        settled
    }

    #[test]
    fn what_is_complete_stays_as_it_was_written() {
        let text = "postgres://tidemark@db1,db2/shop?target_session_attrs=primary";
        assert_eq!(settled(text, &[]).text, text);
    }

    #[test]
    fn what_the_environment_and_the_user_added_stands_in_it() {
        let found = settled("", &[("PGHOST", "/run/pg"), ("PGDATABASE", "a b")]);
        assert_eq!(found.text, "dbname='a b' host=/run/pg user=root");
        let service = settle(
            "postgres://a@h/d",
            &Around([("PGPORT", "5433")].into()),
            Path::new("/p"),
        );
        assert_eq!(
            service.expect("valid").text,
            "dbname=d host=h port=5433 user=a"
        );
    }

    #[test]
    fn a_password_goes_into_a_passfile() {
        let found = settled("postgres://a:p%3Aw%5C@h/d", &[]);
        assert_eq!(
            found.text,
            "dbname=d host=h passfile=/state/app.pgpass user=a"
        );
        let line = found.passfile_line.expect("a line");
        assert_eq!(line, "*:*:*:a:p\\:w\\\\");
        let mut given = BTreeMap::from([("passfile".to_owned(), "/p".to_owned())]);
        struct File(String);
        impl Surroundings for File {
            fn variable(&self, _name: &str) -> Option<String> {
                None
            }
            fn read(&self, _path: &Path) -> std::io::Result<Option<String>> {
                Ok(Some(self.0.clone()))
            }
            fn mode(&self, _path: &Path) -> Option<u32> {
                Some(0o600)
            }
            fn user(&self) -> Option<String> {
                None
            }
        }
        let file = super::super::Passfile::load(&mut given, &File(line)).expect("readable");
        assert_eq!(file.find("h", 5432, "d", "a"), Some("p:w\\"));
    }
}
