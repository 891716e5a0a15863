//! `~/.pgpass`: `host:port:database:user:password` a line, `*` for any, `\` before `:` and `\`.

use std::path::{Path, PathBuf};

use super::{ConnInfoError, Pairs, Result, Surroundings};

/// What a passfile holds, or why it was not used.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Passfile {
    lines: Vec<[String; 5]>,
    ignored: Option<PathBuf>,
}

impl std::fmt::Debug for Passfile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Passfile({} lines)", self.lines.len())
    }
}

impl Passfile {
    pub(super) fn load(given: &mut Pairs, around: &dyn Surroundings) -> Result<Self> {
        let named = given.remove("passfile").filter(|path| !path.is_empty());
        let is_named = named.is_some();
        let home = || around.variable("HOME").filter(|home| !home.is_empty());
        let Some(path) = named
            .map(PathBuf::from)
            .or_else(|| home().map(|home| Path::new(&home).join(".pgpass")))
        else {
            return Ok(Self::default());
        };
        let text = match around.read(&path) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(Self::default()),
            // A home folder that is hidden from a service is no reason not to connect.
            Err(error) if !is_named && error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(ConnInfoError::File {
                    path,
                    why: error.to_string(),
                });
            }
        };
        // As libpq: a password that others can read is not used.
        if around.mode(&path).is_some_and(|mode| mode & 0o077 != 0) {
            return Ok(Self {
                lines: Vec::new(),
                ignored: Some(path),
            });
        }
        Ok(Self {
            lines: text.lines().filter_map(fields).collect(),
            ignored: None,
        })
    }

    /// A passfile that was there and not used because others may read it.
    #[must_use]
    pub fn ignored(&self) -> Option<&Path> {
        self.ignored.as_deref()
    }

    /// The password of the first line that fits.
    #[must_use]
    pub fn find(&self, host: &str, port: u16, database: &str, user: &str) -> Option<&str> {
        let port = port.to_string();
        let wanted = [host, &port, database, user];
        self.lines
            .iter()
            .find(|[line @ .., _]| {
                line.iter()
                    .zip(wanted)
                    .all(|(pattern, value)| pattern == "*" || pattern == value)
            })
            .map(|[.., password]| password.as_str())
            .filter(|password| !password.is_empty())
    }
}

/// The five fields of a line; none for comments and for lines with fewer.
fn fields(line: &str) -> Option<[String; 5]> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields: Vec<String> = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let literal = match character {
            ':' if fields.len() < 5 => {
                fields.push(String::new());
                continue;
            }
            '\\' => characters.next()?,
            other => other,
        };
        fields.last_mut()?.push(literal);
    }
    fields.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passfile(text: &str) -> Passfile {
        Passfile {
            lines: text.lines().filter_map(fields).collect(),
            ignored: None,
        }
    }

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let file = passfile(
            "# a comment\ndb1:5432:*:backup:one\n*:*:replication:backup:two\n*:*:*:backup:three\nshort:line\n",
        );
        assert_eq!(file.find("db1", 5432, "x", "backup"), Some("one"));
        assert_eq!(file.find("db2", 5433, "replication", "backup"), Some("two"));
        assert_eq!(file.find("db2", 5433, "x", "backup"), Some("three"));
        assert_eq!(file.find("db2", 5433, "x", "other"), None);
    }

    #[test]
    fn colons_and_backslashes_are_escaped_and_the_password_may_have_colons() {
        let file = passfile("\\:\\:1:5432:*:*:pa:ss\\\\word");
        assert_eq!(file.find("::1", 5432, "d", "u"), Some("pa:ss\\word"));
    }
}
