//! The `[[source]]` tables: which database each is, what it is called, what it overrides.
//!
//! Host knows no engine: whether a connection string can be read is asked through [`Surroundings`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tidemark_format::{Hash, SourceName};
use toml::Spanned;

use super::Surroundings;
use super::agent::read_path;
use super::diagnose::{Findings, ProblemKind, Span};
use super::raw::with_settings;
use super::regions::parsed;
use super::settings::{Draft, Settings};

/// Names of slots are as long as any name in PostgreSQL.
const SLOT_NAME_MAX: usize = 63;

/// A database to protect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What it is called in the repository.
    pub name: SourceName,
    /// What it is.
    pub engine: Engine,
    /// How it is protected.
    pub settings: Settings,
}

/// A database's kind and place.
#[derive(Clone, PartialEq, Eq)]
pub enum Engine {
    /// A SQLite file.
    Sqlite {
        /// The database file, absolute.
        path: PathBuf,
    },
    /// A PostgreSQL cluster.
    Postgres {
        /// How to reach it, as written: a URL or `key=value` pairs. May hold a password.
        conninfo: String,
        /// The replication slot that keeps its log for the agent.
        slot: String,
    },
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite { path } => write!(f, "Sqlite({})", path.display()),
            Self::Postgres { conninfo, slot } => {
                write!(f, "Postgres({}, slot {slot})", without_password(conninfo))
            }
        }
    }
}

impl Engine {
    /// The SQLite file, if it is one.
    #[must_use]
    pub fn sqlite(&self) -> Option<&Path> {
        match self {
            Self::Sqlite { path } => Some(path),
            Self::Postgres { .. } => None,
        }
    }
}

with_settings! {
    /// A `[[source]]` as written.
    RawSource {
        name: Option<Spanned<String>>,
        sqlite: Option<Spanned<String>>,
        postgres: Option<Spanned<String>>,
        slot: Option<Spanned<String>>,
    }
}

/// The name of a source that got none: its file's stem, made to follow the rule for names.
#[must_use]
pub fn name_from_path(path: &Path) -> Option<SourceName> {
    name_from_words(&path.file_stem()?.to_string_lossy())
}

/// A name made of words: a cluster's (`15/main` becomes `15-main`), or a database's.
#[must_use]
pub fn name_from_words(words: &str) -> Option<SourceName> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let words = words.to_ascii_lowercase();
    let name: String = words.chars().map(plain).take(63).collect();
    SourceName::new(name.trim_matches('-')).ok()
}

/// The slot of a source that names none. Another agent that takes the source over goes on with it.
#[must_use]
pub fn slot_of(name: &SourceName) -> String {
    let plain = format!("tidemark_{}", name.as_str().replace('-', "_"));
    if plain.len() <= SLOT_NAME_MAX {
        return plain;
    }
    // Two long names that begin alike still have two slots.
    let hash = Hash::of(name.as_str().as_bytes()).to_string();
    let head: String = plain.chars().take(SLOT_NAME_MAX - 9).collect();
    let tail: String = hash.chars().take(8).collect();
    format!("{head}_{tail}")
}

/// A connection string as people may see it.
#[must_use]
pub fn without_password(conninfo: &str) -> String {
    let hidden = match conninfo.split_once("://") {
        Some((scheme, rest)) => {
            format!("{scheme}://{}", without_login(rest))
        }
        None => conninfo.to_owned(),
    };
    let Some(at) = hidden.find("password") else {
        return hidden;
    };
    // A value may be quoted and hold anything: what follows the keyword is not shown at all.
    let (before, _secret) = hidden.split_at(at);
    format!("{before}password=***")
}

/// What follows `://`, without the password in it. One that holds `/`, `?` or `@` unescaped is no password
/// to libpq, and none to show either.
fn without_login(rest: &str) -> String {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    if let Some((login, hosts)) = authority.rsplit_once('@') {
        return match login.split_once(':') {
            Some((user, _secret)) => format!("{user}:***@{hosts}{tail}"),
            None => rest.to_owned(),
        };
    }
    match (rest.split_once(':'), rest.rsplit_once('@')) {
        // Ports are digits, in lists and behind addresses in brackets.
        (Some((user, _secret)), Some((_, hosts)))
            if authority.contains(':') && !authority.contains('[') && !has_port(authority) =>
        {
            format!("{user}:***@{hosts}")
        }
        _ => rest.to_owned(),
    }
}

/// Whether what follows each `:` is a port.
fn has_port(hosts: &str) -> bool {
    let port = |host: &str| {
        let port = host.split_once(':').map_or("", |(_, port)| port);
        port.bytes().all(|byte| byte.is_ascii_digit())
    };
    hosts.split(',').all(port)
}

/// The database that a connection string names, as far as its text says.
fn database_in(conninfo: &str) -> Option<&str> {
    let Some((_scheme, rest)) = conninfo.split_once("://") else {
        let (_, value) = conninfo.split_once("dbname=")?;
        let value = value.split_whitespace().next()?.trim_matches('\'');
        return Some(value).filter(|name| !name.is_empty());
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = place.split_once('/').map_or("", |(_, path)| path);
    let named = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("dbname="));
    named.or(Some(path)).filter(|name| !name.is_empty())
}

/// A source and the places of its name and its database.
type Placed = (Source, Span, Span);

/// What the sources of one file have in common while they are checked.
pub(super) struct Sources<'a, 'f> {
    pub(super) draft: Draft,
    pub(super) domains: usize,
    pub(super) folder: &'a Path,
    pub(super) around: &'a Surroundings<'a>,
    pub(super) findings: &'a mut Findings<'f>,
}

impl Sources<'_, '_> {
    pub(super) fn check(&mut self, raw: Vec<Spanned<RawSource>>) -> Vec<Source> {
        if raw.is_empty() {
            self.findings.value(
                &None,
                "there is no [[source]]: name at least one database to protect",
            );
        }
        let mut names = BTreeMap::new();
        let mut places = BTreeMap::new();
        let mut checked = Vec::new();
        for source in raw {
            let table: Span = Some(source.span());
            let Some((source, name_at, place_at)) = self.check_one(source.into_inner(), &table)
            else {
                continue;
            };
            if names.insert(source.name.clone(), ()).is_some() {
                let message = format!("two sources are named `{}`", source.name);
                self.findings.add(
                    ProblemKind::Value,
                    &name_at,
                    message,
                    Some("give one of them another name".to_owned()),
                );
            }
            let place = match &source.engine {
                Engine::Sqlite { path } => path.to_string_lossy().into_owned(),
                Engine::Postgres { conninfo, .. } => conninfo.clone(),
            };
            if let Some(first) = places.insert(place, source.name.clone()) {
                let message = format!("this is the database of source `{first}` already");
                self.findings.value(&place_at, message);
            }
            checked.push(source);
        }
        checked
    }

    fn check_one(&mut self, mut raw: RawSource, table: &Span) -> Option<Placed> {
        let mut draft = self.draft.clone();
        draft.apply(raw.take_settings(), self.findings);
        draft.check(
            self.domains,
            raw.sqlite.as_ref().map(|_| table),
            self.around,
            self.findings,
        );
        if let (Some(sqlite), Some(postgres)) = (&raw.sqlite, &raw.postgres) {
            let later = sqlite.span().start.max(postgres.span().start);
            let span = [sqlite.span(), postgres.span()]
                .into_iter()
                .find(|span| span.start == later);
            self.findings.conflict(
                &span,
                "a source is one database: this one names a SQLite file and a PostgreSQL cluster",
                "write a [[source]] for each",
            );
            return None;
        }
        match (raw.sqlite.take(), raw.postgres.take()) {
            (Some(sqlite), _) => self.sqlite(&raw, &sqlite, draft),
            (None, Some(postgres)) => self.postgres(&raw, &postgres, draft),
            (None, None) => {
                let message = "this needs sqlite = \"/path/of/the.db\" or postgres = \"postgres://user@host/database\"";
                self.findings.value(table, message);
                None
            }
        }
    }

    fn sqlite(
        &mut self,
        raw: &RawSource,
        sqlite: &Spanned<String>,
        draft: Draft,
    ) -> Option<Placed> {
        let path_at = Some(sqlite.span());
        if let Some(slot) = &raw.slot {
            let message = "slot is for PostgreSQL: a SQLite file has none";
            self.findings.value(&Some(slot.span()), message);
        }
        let path = match read_path(self.folder, sqlite.get_ref()) {
            Ok(path) => path,
            Err(why) => {
                self.findings.value(&path_at, why);
                return None;
            }
        };
        let (name, name_at) = self.name(raw, &path_at, "path", || name_from_path(&path))?;
        let source = Source {
            name,
            engine: Engine::Sqlite { path },
            settings: draft.settle(),
        };
        Some((source, name_at, path_at))
    }

    fn postgres(
        &mut self,
        raw: &RawSource,
        postgres: &Spanned<String>,
        draft: Draft,
    ) -> Option<Placed> {
        let at = Some(postgres.span());
        let conninfo = postgres.get_ref();
        if conninfo.trim().is_empty() {
            let message = "this names no server: postgres = \"postgres://user@host/database\"";
            self.findings.value(&at, message);
            return None;
        }
        if let Err(why) = (self.around.check_postgres)(conninfo) {
            self.findings.value(&at, why);
            return None;
        }
        let from_text = || database_in(conninfo).and_then(name_from_words);
        let (name, name_at) = self.name(raw, &at, "connection string", from_text)?;
        let slot = match &raw.slot {
            Some(slot) => slot_name(slot, self.findings)?,
            None => slot_of(&name),
        };
        let engine = Engine::Postgres {
            conninfo: conninfo.clone(),
            slot,
        };
        let source = Source {
            name,
            engine,
            settings: draft.settle(),
        };
        Some((source, name_at, at))
    }

    /// The name that is given, or one made of the database's place.
    fn name(
        &mut self,
        raw: &RawSource,
        place_at: &Span,
        what: &str,
        made: impl FnOnce() -> Option<SourceName>,
    ) -> Option<(SourceName, Span)> {
        if let Some(name) = &raw.name {
            return Some((parsed(name, self.findings)?, Some(name.span())));
        }
        let Some(name) = made() else {
            let message = format!("no name can be made of this {what}: add name = \"…\"");
            self.findings.value(place_at, message);
            return None;
        };
        Some((name, place_at.clone()))
    }
}

/// A slot's name, by PostgreSQL's own rule.
fn slot_name(slot: &Spanned<String>, findings: &mut Findings<'_>) -> Option<String> {
    let name = slot.get_ref();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.is_empty() && name.len() <= SLOT_NAME_MAX && name.chars().all(plain) {
        return Some(name.clone());
    }
    let message = format!(
        "{name:?} is no name for a slot: lower-case letters, digits and '_', at most {SLOT_NAME_MAX}"
    );
    findings.value(&Some(slot.span()), message);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (text, shown) in [
            ("postgres://a:secret@h/db", "postgres://a:***@h/db"),
            (
                "postgres://a@h/db?sslmode=require",
                "postgres://a@h/db?sslmode=require",
            ),
            (
                "postgres:///db?password=x&host=/run",
                "postgres:///db?password=***",
            ),
            ("host=h password='a b' user=x", "host=h password=***"),
            ("postgres://a:p@w@h:5432", "postgres://a:***@h:5432"),
            ("postgres://a:p/secret@h/db", "postgres://a:***@h/db"),
            ("postgres://a:p?secret@h/db", "postgres://a:***@h/db"),
            (
                "postgres://h:5432,i:5433/d@b",
                "postgres://h:5432,i:5433/d@b",
            ),
        ] {
            assert_eq!(without_password(text), shown);
            let engine = Engine::Postgres {
                conninfo: text.to_owned(),
                slot: "s".to_owned(),
            };
            assert!(!format!("{engine:?}").contains("secret"));
        }
    }

    #[test]
    fn the_database_is_found_in_either_form() {
        for (text, database) in [
            ("postgres://a@h:1/shop", Some("shop")),
            ("postgres:///?host=/run&dbname=shop", Some("shop")),
            ("postgres://h", None),
            ("host=h dbname=shop user=x", Some("shop")),
            ("host=h", None),
        ] {
            assert_eq!(database_in(text), database, "{text}");
        }
    }

    #[test]
    fn clusters_and_slots_get_names_that_follow_the_rules() {
        assert_eq!(name_from_words("15/main").unwrap().as_str(), "15-main");
        assert_eq!(slot_of(&"15-main".parse().unwrap()), "tidemark_15_main");
    }
}
