//! The server's own programs: found by major version, checked before anything depends on them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::RestoreError;

/// A folder with the programs of a major version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    bin: PathBuf,
    version: String,
    major: u16,
}

impl Binaries {
    /// Finds the programs of `major`: in `given` if there is one, and nowhere else then; otherwise in
    /// the folders of `search` (as in `PATH`), where distributions install them, and where
    /// `pg_config` says.
    ///
    /// # Errors
    /// [`RestoreError::NoBinaries`], [`RestoreError::WrongVersion`] for a given folder.
    pub fn find(
        major: u16,
        given: Option<&Path>,
        search: Option<OsString>,
    ) -> Result<Self, RestoreError> {
        if let Some(bin) = given {
            return Self::at(bin, major);
        }
        let search = search.unwrap_or_default();
        let mut folders: Vec<PathBuf> = std::env::split_paths(&search).collect();
        folders.push(format!("/usr/lib/postgresql/{major}/bin").into());
        folders.push(format!("/usr/pgsql-{major}/bin").into());
        folders.push("/usr/local/pgsql/bin".into());
        folders.extend(configured(&folders));
        let mut others: Vec<String> = Vec::new();
        for bin in &folders {
            let Some(version) = version_of(bin) else {
                continue;
            };
            if major_of(&version) == Some(major) {
                return Ok(Self {
                    bin: bin.clone(),
                    version,
                    major,
                });
            }
            others.push(format!("{} has {version}", bin.display()));
        }
        others.dedup();
        let looked = if others.is_empty() {
            format!("looked in PATH, /usr/lib/postgresql/{major}/bin and /usr/pgsql-{major}/bin")
        } else {
            others.join(", ")
        };
        Err(RestoreError::NoBinaries { major, looked })
    }

    fn at(bin: &Path, major: u16) -> Result<Self, RestoreError> {
        // The server runs elsewhere: a relative folder would mean another one there.
        let bin = bin.canonicalize().unwrap_or_else(|_| bin.to_path_buf());
        let Some(version) = version_of(&bin) else {
            return Err(RestoreError::NoBinaries {
                major,
                looked: format!("{} holds no program postgres that runs", bin.display()),
            });
        };
        if major_of(&version) == Some(major) {
            Ok(Self {
                bin,
                version,
                major,
            })
        } else {
            Err(RestoreError::WrongVersion {
                bin,
                found: version,
                major,
            })
        }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.bin
    }

    /// The version in the server's own words, such as `15.19`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// As in `PostgreSQL 17`.
    #[must_use]
    pub const fn major(&self) -> u16 {
        self.major
    }

    /// One of the programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// Where `pg_config` says that the programs are.
fn configured(folders: &[PathBuf]) -> Option<PathBuf> {
    let program = folders
        .iter()
        .map(|folder| folder.join("pg_config"))
        .find(|program| program.is_file())?;
    let text = output(&program, "--bindir")?;
    Some(PathBuf::from(text.trim()))
}

/// What `postgres --version` says: the version alone.
fn version_of(bin: &Path) -> Option<String> {
    let program = bin.join("postgres");
    if !program.is_file() {
        return None;
    }
    version_in(&output(&program, "--version")?)
}

fn output(program: &Path, argument: &str) -> Option<String> {
    let output = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `postgres (PostgreSQL) 15.19 (Debian 15.19-0+deb12u1)`.
fn version_in(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("(PostgreSQL)")?;
    rest.split_whitespace().next().map(str::to_owned)
}

/// `15` of `15.19`, `19` of `19beta1`.
fn major_of(version: &str) -> Option<u16> {
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a program that says it is this version.
    fn pretender(version: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        // Written by another process: a child of some other test may hold what this one has open, and
        // a program can't be run while anybody has it open for writing.
        let script = format!(
            "printf '#!/bin/sh\necho \"postgres (PostgreSQL) {version} (a build)\"\n' >\"$0\"; chmod 755 \"$0\""
        );
        let mut writer = Command::new("sh");
        writer
            .arg("-c")
            .arg(script)
            .arg(dir.path().join("postgres"));
        assert!(writer.status().expect("it runs").success());
        dir
    }

    #[test]
    fn versions_are_read_as_servers_say_them() {
        let debian = "postgres (PostgreSQL) 15.19 (Debian 15.19-0+deb12u1)\n";
        assert_eq!(version_in(debian).as_deref(), Some("15.19"));
        assert_eq!(version_in("mysqld 8"), None);
        assert_eq!(major_of("15.19"), Some(15));
        assert_eq!(major_of("19beta1"), Some(19));
        assert_eq!(major_of("devel"), None);
    }

    #[test]
    fn the_right_major_is_found_among_others_on_the_path() {
        let (other, right) = (pretender("97.2"), pretender("98.1"));
        let search = std::env::join_paths([other.path(), right.path()]).expect("a path");
        let found = Binaries::find(98, None, Some(search.clone())).expect("found");
        assert_eq!(found.folder(), right.path());
        assert_eq!((found.version(), found.major()), ("98.1", 98));
        let error = Binaries::find(99, None, Some(search)).expect_err("not there");
        let text = error.to_string();
        assert!(
            text.contains("PostgreSQL 99") && text.contains("97.2"),
            "{text}"
        );
        assert!(
            text.contains("--pg-bin") && text.contains("postgresql-99"),
            "{text}"
        );
    }

    #[test]
    fn a_given_folder_is_the_only_one_that_counts() {
        let (other, empty) = (pretender("97.2"), tempfile::tempdir().expect("a folder"));
        let error = Binaries::find(98, Some(other.path()), None).expect_err("another version");
        assert!(matches!(error, RestoreError::WrongVersion { ref found, .. } if found == "97.2"));
        let error = Binaries::find(98, Some(empty.path()), None).expect_err("nothing there");
        assert!(matches!(error, RestoreError::NoBinaries { .. }));
    }
}
