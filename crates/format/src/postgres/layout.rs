//! The layout of a base of PostgreSQL: what the files' pages and lengths don't say.
//!
//! It is file 0 of every base, path [`LAYOUT_PATH`], JSON, and rewritten whole: the newest base's
//! layout holds for the whole chain. Beside it a base's files are:
//!
//! - the data directory, by paths relative to it, as the server's own base backup sends it
//!   (`backup_label` and `global/pg_control` are ordinary files);
//! - tablespaces under `pg_tblspc/OID/…`; the links themselves are not there, [`Layout::tablespaces`]
//!   says where they pointed;
//! - settings that live outside the data directory under [`CONFIG_FOLDER`], which no server reads from
//!   there: [`Layout::settings`] says where each one belongs.
//!
//! A file's bytes are cut into units of [`UNIT_BYTES`], the last one padded with zeros; its true length
//! stands in the base's file table. A reader keeps to paths for which [`is_safe_path`] holds.
//!
//! Unknown keys are skipped, absent ones have their default: later versions may add some.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Lsn, SegmentSize, TimelineId};
use crate::FormatError;

/// The layout's own path.
pub const LAYOUT_PATH: &str = ".tidemark/layout";
/// Where settings from outside the data directory are kept.
pub const CONFIG_FOLDER: &str = "tidemark-config";
/// The unit in which files are compared and stored: PostgreSQL's own page size.
pub const UNIT_BYTES: u32 = 8192;
/// No file system takes a longer path.
pub const PATH_BYTES_MAX: usize = 4096;

const VERSION: u32 = 1;
const WHAT: &str = "postgresql layout";

/// A position on a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchPosition {
    /// The branch.
    #[serde(with = "timeline")]
    pub timeline: TimelineId,
    /// Where on it.
    #[serde(with = "text")]
    pub lsn: Lsn,
}

/// A tablespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its object id, which names its folder below `pg_tblspc`.
    pub oid: u32,
    /// Where it was on the server.
    pub location: String,
}

/// A symbolic link that the server keeps in its data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its path.
    pub path: String,
    /// What it points at.
    pub target: String,
}

/// A file of settings that lives outside the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideFile {
    /// Where it was on the server.
    pub source: String,
    /// Its path in the base, below [`CONFIG_FOLDER`]; none if it could not be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Why it could not be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// A page that was wrong on the server itself when the base was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadPage {
    /// The file's number.
    pub file: u32,
    /// The page in it, from 0.
    pub page: u64,
}

/// What a base's files alone don't say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Of this structure: 1.
    pub version: u32,
    /// The server's version in its own words, such as `15.19`.
    pub server: String,
    /// Its major version.
    pub major: u16,
    /// The database system's identifier, as text: JSON's numbers don't reach that far everywhere.
    #[serde(with = "text")]
    pub system: u64,
    /// Replay starts here.
    pub start: BranchPosition,
    /// Replay is consistent from here on.
    pub stop: BranchPosition,
    /// Bytes of a segment of the log.
    pub segment_bytes: u32,
    /// Bytes of a page of the server's.
    pub block_bytes: u32,
    /// Pages of a file of a relation; what exceeds it goes on in the next file.
    pub relation_segment_blocks: u64,
    /// Whether pages carry checksums.
    pub checksums: bool,
    /// Whether the server was a standby.
    pub standby: bool,
    /// Permission bits of files that are not in `modes`.
    pub file_mode: u32,
    /// Permission bits of folders that are not in `modes`.
    pub folder_mode: u32,
    /// Every folder below the data directory, those of tablespaces included; parents come first.
    pub folders: Vec<String>,
    /// Unusual permission bits, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub modes: BTreeMap<String, u32>,
    /// Tablespaces outside the data directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tablespaces: Vec<Tablespace>,
    /// Symbolic links other than those of tablespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// Settings outside the data directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<OutsideFile>,
    /// Why the list of such settings may be incomplete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings_notes: Vec<String>,
    /// Pages whose checksum was wrong on the server: the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad_pages: Vec<BadPage>,
    /// How many there were.
    #[serde(default)]
    pub bad_pages_total: u64,
    /// Files that are not in the base, with the reason each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, String>,
}

impl Layout {
    /// The version that is written.
    pub const VERSION: u32 = VERSION;

    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Maps have text keys and nothing here can fail to be written.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`FormatError`] if it is no layout, or names what a restore may not follow.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let layout: Self = serde_json::from_slice(bytes).map_err(|error| FormatError::Head {
            what: WHAT,
            why: error.to_string(),
        })?;
        let invalid = |why| FormatError::Invalid { what: WHAT, why };
        if layout.version != VERSION {
            return Err(FormatError::Version(
                u8::try_from(layout.version).unwrap_or(u8::MAX),
            ));
        }
        if SegmentSize::new(layout.segment_bytes).is_none() {
            return Err(invalid("the segment size is not one of PostgreSQL's"));
        }
        let (start, stop) = (layout.start, layout.stop);
        let branches = start.timeline.0 > 0 && start.timeline == stop.timeline;
        if !branches || start.lsn >= stop.lsn {
            return Err(invalid("the base does not end after its start"));
        }
        let modes = layout.modes.values();
        let mut modes = modes.copied().chain([layout.file_mode, layout.folder_mode]);
        let unusual = modes.any(|mode| mode > 0o7777);
        drop(modes);
        if unusual {
            return Err(invalid("permission bits are not in range"));
        }
        let links = layout.links.iter().map(|link| &link.path);
        let settings = layout.settings.iter().filter_map(|file| file.path.as_ref());
        let mut paths = layout.folders.iter().chain(links).chain(settings);
        if !paths.all(|path| is_safe_path(path)) {
            return Err(invalid("a path leaves the data directory"));
        }
        Ok(layout)
    }

    /// Permission bits of the file or folder `path`.
    #[must_use]
    pub fn mode(&self, path: &str, folder: bool) -> u32 {
        let usual = if folder {
            self.folder_mode
        } else {
            self.file_mode
        };
        self.modes.get(path).copied().unwrap_or(usual)
    }
}

/// Whether `path` is relative and stays below the folder that it is joined to: no empty, `.` or `..`
/// component, no zero byte, not longer than any file system takes.
#[must_use]
pub fn is_safe_path(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    path.len() <= PATH_BYTES_MAX && !path.contains('\0') && path.split('/').all(plain)
}

/// As text.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?
            .parse()
            .map_err(Error::custom)
    }
}

/// As a number.
mod timeline {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::TimelineId;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    pub(super) fn serialize<S: Serializer>(
        value: &TimelineId,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(value.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<TimelineId, D::Error> {
        u32::deserialize(deserializer).map(TimelineId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout() -> Layout {
        let at = |lsn| BranchPosition {
            timeline: TimelineId(2),
            lsn: Lsn(lsn),
        };
        Layout {
            version: VERSION,
            server: "15.19".to_owned(),
            major: 15,
            system: u64::MAX - 1,
            start: at(0x0300_0028),
            stop: at(0x0300_0100),
            segment_bytes: 16 << 20,
            block_bytes: 8192,
            relation_segment_blocks: 131_072,
            checksums: true,
            standby: false,
            file_mode: 0o600,
            folder_mode: 0o700,
            folders: vec!["base".to_owned(), "base/1".to_owned()],
            modes: BTreeMap::from([("base/1".to_owned(), 0o755)]),
            tablespaces: vec![Tablespace {
                oid: 16384,
                location: "/srv/fast".to_owned(),
            }],
            links: Vec::new(),
            settings: vec![OutsideFile {
                source: "/etc/postgresql/15/main/postgresql.conf".to_owned(),
                path: Some("tidemark-config/postgresql.conf".to_owned()),
                missing: None,
            }],
            settings_notes: Vec::new(),
            bad_pages: vec![BadPage { file: 7, page: 3 }],
            bad_pages_total: 1,
            skipped: BTreeMap::new(),
        }
    }

    #[test]
    fn a_layout_reads_back() {
        assert_eq!(Layout::decode(&layout().encode()), Ok(layout()));
        assert_eq!(layout().mode("base/1", true), 0o755);
        assert_eq!(layout().mode("base/1/1259", false), 0o600);
    }

    #[test]
    fn keys_of_later_versions_are_skipped() {
        let text = String::from_utf8(layout().encode()).unwrap();
        let later = text.replacen('{', "{ \"later\": [1, 2],", 1);
        assert_eq!(Layout::decode(later.as_bytes()), Ok(layout()));
    }

    #[test]
    fn layouts_that_a_restore_may_not_follow_are_refused() {
        let spoiled = |spoil: fn(&mut Layout)| {
            let mut layout = layout();
            spoil(&mut layout);
            Layout::decode(&layout.encode())
        };
        assert_eq!(
            spoiled(|layout| layout.version = 2),
            Err(FormatError::Version(2))
        );
        assert!(spoiled(|layout| layout.segment_bytes = 3).is_err());
        assert!(spoiled(|layout| layout.stop.lsn = layout.start.lsn).is_err());
        assert!(spoiled(|layout| layout.stop.timeline = TimelineId(3)).is_err());
        assert!(spoiled(|layout| layout.file_mode = 0o10000).is_err());
        assert!(spoiled(|layout| layout.folders.push("../x".to_owned())).is_err());
        assert!(spoiled(|layout| layout.settings[0].path = Some("/etc/x".to_owned())).is_err());
    }

    #[test]
    fn only_paths_below_a_folder_are_safe() {
        for path in [
            "a",
            "a/b",
            "base/1/1259_vm.1",
            ".tidemark/layout",
            "..a/b..",
        ] {
            assert!(is_safe_path(path), "{path}");
        }
        for path in ["", "/a", "a/", "a//b", "./a", "a/..", "../a", "a\0b"] {
            assert!(!is_safe_path(path), "{path}");
        }
        assert!(!is_safe_path(&"a/".repeat(4096)));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..900) {
            drop(Layout::decode(&bytes));
            let mut good = layout().encode();
            if let Some(rest) = good.get_mut(at..) {
                for (to, from) in rest.iter_mut().zip(&bytes) {
                    *to = *from;
                }
            }
            drop(Layout::decode(&good));
        }
    }
}
