//! What a base's layout lists besides files: folders, modes, tablespaces, links, what was left out.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_format::postgres::layout::{BranchPosition, Layout, Link, Tablespace};

use super::error::BaseError;
use super::outside::Outside;
use super::pages::BadPages;
use super::server::Server;

/// Unusual modes, links and names that are listed one by one: a base's layout stays small.
const LISTED_MAX: usize = 1000;
/// The file that every database's folder has.
const VERSION_FILE: &str = "/PG_VERSION";

/// The tablespace `pg_default`, whose databases stand in `base`.
const DEFAULT_SPACE: u32 = 1663;

/// The lists, while a base is taken.
#[derive(Debug, Default)]
pub(super) struct Listing {
    tablespaces: Vec<Tablespace>,
    folders: Vec<String>,
    /// Of files and of folders, once the first came.
    usual: Option<(u32, u32)>,
    modes: BTreeMap<String, u32>,
    links: Vec<Link>,
    skipped: BTreeMap<String, String>,
    /// Folders of databases that came.
    databases: BTreeSet<String>,
}

impl Listing {
    /// A tablespace is there. One inside the data directory, which PostgreSQL has for its own tests only,
    /// is refused: no server replays onto a copy of it.
    pub(super) fn tablespace(&mut self, oid: u32, location: &str) -> Result<(), BaseError> {
        if !location.starts_with('/') {
            return Err(BaseError::InPlace { oid });
        }
        self.tablespaces.push(Tablespace {
            oid,
            location: location.to_owned(),
        });
        Ok(())
    }

    /// A folder is there.
    pub(super) fn folder(&mut self, path: String, mode: u32) {
        self.folders.push(path.clone());
        self.mode(path, mode, true);
    }

    /// A file is there.
    pub(super) fn file(&mut self, path: &str, mode: u32) {
        if let Some(folder) = path.strip_suffix(VERSION_FILE) {
            self.databases.insert(folder.to_owned());
        }
        self.mode(path.to_owned(), mode, false);
    }

    fn mode(&mut self, path: String, mode: u32, folder: bool) {
        // A cluster's files are all readable for its group, or none is: the first one tells.
        let usual = *self.usual.get_or_insert(if mode & 0o040 == 0 {
            (0o600, 0o700)
        } else {
            (0o640, 0o750)
        });
        let usual = if folder { usual.1 } else { usual.0 };
        if mode != usual && self.modes.len() < LISTED_MAX {
            self.modes.insert(path, mode);
        }
    }

    /// A symbolic link is there.
    pub(super) fn link(&mut self, path: String, target: String) {
        // Those of tablespaces are listed as such.
        let of_tablespace = path.starts_with("pg_tblspc/");
        if !of_tablespace && self.links.len() < LISTED_MAX {
            self.links.push(Link { path, target });
        }
    }

    /// Something is left out.
    pub(super) fn skip(&mut self, name: String, why: &str) {
        if self.skipped.len() < LISTED_MAX {
            self.skipped.insert(name, why.to_owned());
        }
    }

    /// What is neither file nor folder, and no data, is left out.
    pub(super) fn leave_out(&mut self, path: String) {
        self.skip(path, "it is neither file nor folder");
    }

    /// What people should know of what was left out; the server's sockets and messages are nothing to miss.
    pub(super) fn left_out(&self) -> Option<String> {
        let is_missed = |path: &&String| {
            let name = path.rsplit('/').next().unwrap_or_default();
            !(name.starts_with(".s.PGSQL.") || matches!(path.as_str(), "log" | "pg_log"))
        };
        let missed: Vec<&str> = self
            .skipped
            .keys()
            .filter(is_missed)
            .map(String::as_str)
            .collect();
        (!missed.is_empty()).then(|| missed.join(", "))
    }

    /// Whether a tablespace came.
    pub(super) fn has_space(&self, oid: u32) -> bool {
        self.tablespaces.iter().any(|space| space.oid == oid)
    }

    /// Whether the folder of a database came; `space` is its tablespace.
    pub(super) fn has_database(&self, oid: u32, space: u32) -> bool {
        if space == DEFAULT_SPACE {
            return self.databases.contains(&format!("base/{oid}"));
        }
        let (above, name) = (format!("pg_tblspc/{space}/"), format!("/{oid}"));
        let mut databases = self.databases.iter();
        databases.any(|folder| folder.starts_with(&above) && folder.ends_with(&name))
    }

    /// The layout of a base that is whole.
    pub(super) fn layout(
        self,
        server: &Server,
        stop: BranchPosition,
        outside: Outside,
        bad: &BadPages,
    ) -> Layout {
        let (file_mode, folder_mode) = self.usual.unwrap_or((0o600, 0o700));
        Layout {
            version: Layout::VERSION,
            server: server.version.clone(),
            major: server.major,
            system: server.system,
            start: server.start,
            stop,
            segment_bytes: u32::try_from(server.segment.bytes()).unwrap_or(0),
            block_bytes: server.block_bytes,
            relation_segment_blocks: server.relation_segment_blocks,
            checksums: server.checksums,
            standby: server.standby,
            file_mode,
            folder_mode,
            folders: self.folders,
            modes: self.modes,
            tablespaces: self.tablespaces,
            links: self.links,
            settings: outside.listed,
            settings_notes: outside.notes,
            bad_pages: bad.listed.clone(),
            bad_pages_total: bad.total,
            skipped: self.skipped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_listed_where_they_are_not_the_clusters_own() {
        let mut listing = Listing::default();
        listing.folder("base".to_owned(), 0o750);
        listing.file("backup_label", 0o640);
        listing.file("base/1", 0o600);
        listing.folder("pg_wal".to_owned(), 0o700);
        assert_eq!(listing.usual, Some((0o640, 0o750)));
        let unusual: Vec<_> = listing.modes.into_iter().collect();
        assert_eq!(
            unusual,
            [("base/1".to_owned(), 0o600), ("pg_wal".to_owned(), 0o700)]
        );
    }

    #[test]
    fn a_tablespace_inside_the_data_directory_is_refused_with_words() {
        let mut listing = Listing::default();
        listing.tablespace(16384, "/srv/fast").unwrap();
        let refused = listing.tablespace(16385, "pg_tblspc/16385").unwrap_err();
        assert!(
            refused.to_string().contains("allow_in_place_tablespaces"),
            "{refused}"
        );
        assert_eq!(listing.tablespaces.len(), 1);
    }

    #[test]
    fn databases_are_told_by_their_folders_wherever_they_stand() {
        let mut listing = Listing::default();
        listing.file("base/5/PG_VERSION", 0o600);
        listing.file("base/6/2619", 0o600);
        listing.file("pg_tblspc/16385/PG_15_202209061/16390/PG_VERSION", 0o600);
        assert!(listing.has_database(5, 1663) && listing.has_database(16390, 16385));
        assert!(!listing.has_database(6, 1663), "without its version");
        assert!(!listing.has_database(5, 16385) && !listing.has_database(90, 16385));
    }

    #[test]
    fn of_what_was_left_out_only_what_somebody_may_miss_is_told() {
        let mut listing = Listing::default();
        listing.leave_out(".s.PGSQL.5432".to_owned());
        listing.leave_out("log".to_owned());
        assert_eq!(listing.left_out(), None);
        listing.leave_out("postgresql.conf".to_owned());
        assert_eq!(listing.left_out().as_deref(), Some("postgresql.conf"));
    }

    #[test]
    fn lists_are_bounded() {
        let mut listing = Listing::default();
        for n in 0..2 * LISTED_MAX {
            listing.link(format!("l{n}"), "x".to_owned());
            listing.skip(format!("s{n}"), "x");
        }
        assert_eq!(
            (listing.links.len(), listing.skipped.len()),
            (LISTED_MAX, LISTED_MAX)
        );
    }
}
