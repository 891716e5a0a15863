//! Every full backup (base) and recovery point of a source, as its regions show them: rows of an export.
//! Pure.
//!
//! What is judged is the signed object in `meta/`: its signature, its place, what it links to. The bytes
//! that a base refers to are not read (`verify` reads them), and a backup is a hypothesis until a drill has
//! restored it: the newest that did stands beside it.
//!
//! **Invariant:** what is there and can't be believed is a row, too, and so is what is missing between
//! others; a row whose time can't be told belongs to every period.

pub mod gather;
pub mod page;
pub mod summary;

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidemark_format::{Epoch, Hash, KeyId, LogSeq, RegionName, SourceName};

use super::csv;

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A full logical image of the source.
    Base,
    /// Everything up to an instant, sealed as durable.
    RecoveryPoint,
}

impl What {
    /// As a cell says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::RecoveryPoint => "recovery_point",
        }
    }
}

/// How it stands in the regions that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Every region has a good copy.
    Whole,
    /// Some region has a good copy, another one has none.
    InPart,
    /// It builds on a base that no region has.
    Unusable,
    /// Written after another agent had taken over: it doesn't count.
    Void,
    /// No region has a good copy.
    Lost,
}

impl State {
    /// As a cell says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::InPart => "in-part",
            Self::Unusable => "unusable",
            Self::Void => "void",
            Self::Lost => "lost",
        }
    }

    /// Whether it can serve a restore.
    #[must_use]
    pub const fn counts(self) -> bool {
        matches!(self, Self::Whole | Self::InPart)
    }
}

/// Who signed a backup, and what the keyring says of that key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The key.
    pub key: KeyId,
    /// As the keyring calls it.
    pub name: String,
    /// `enrolled`, `revoked` or `not enrolled`.
    pub standing: &'static str,
}

/// A full backup or a recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Which of the two.
    pub what: What,
    /// The source.
    pub source: SourceName,
    /// Its engine.
    pub engine: String,
    /// The life of the source it belongs to.
    pub incarnation: String,
    /// The writer's term.
    pub epoch: Epoch,
    /// The generation; of a base.
    pub generation: Option<LogSeq>,
    /// The base's number in its generation, or the point's in its epoch.
    pub number: u64,
    /// The name that a person gave it.
    pub name: Option<String>,
    /// When the first page was read; of a base.
    pub begun: Option<Timestamp>,
    /// When it was sealed.
    pub sealed: Option<Timestamp>,
    /// Whether the clock that says so was synchronised, as it said itself.
    pub synchronised: Option<bool>,
    /// The earliest instant that a restore which begins with it can reach.
    pub reaches_from: Option<Timestamp>,
    /// Everything committed up to here is in it; of a point.
    pub covers_until: Option<Timestamp>,
    /// The log object with which replay begins, or the last one that the point covers.
    pub log: Option<LogSeq>,
    /// The base that it builds or rests on; a complete base builds on none.
    pub rests_on: Option<String>,
    /// Bytes of the database.
    pub image_bytes: Option<u64>,
    /// Bytes in one region: of a base its packs and its index, of a point the log since the point before it.
    pub stored_bytes: Option<u64>,
    /// Regions that have a good copy.
    pub regions: Vec<RegionName>,
    /// Regions that have none, and have what came later.
    pub without: Vec<RegionName>,
    /// Regions that have none yet: nothing later is there either.
    pub behind: Vec<RegionName>,
    /// Regions that could not be read.
    pub unread: Arc<str>,
    /// How it stands.
    pub state: State,
    /// What is wrong with a copy.
    pub doubts: Vec<String>,
    /// The newest drill that restored it.
    pub drilled: Option<Arc<str>>,
    /// Who signed it.
    pub signer: Option<Arc<Signer>>,
    /// What successors name it by.
    pub link: Option<Hash>,
    /// Its name in the regions.
    pub key: String,
}

impl Backup {
    /// As `--to` takes a point, and bases are named alike.
    #[must_use]
    pub fn id(&self) -> String {
        match self.generation {
            Some(generation) => format!("base:{}/{generation}/{}", self.epoch, self.number),
            None => format!("point:{}/{}", self.epoch, self.number),
        }
    }

    /// Whether it belongs to a period: from the first instant, before the second.
    #[must_use]
    pub fn is_in(&self, (from, to): (Option<Timestamp>, Option<Timestamp>)) -> bool {
        self.sealed
            .is_none_or(|at| from.is_none_or(|from| at >= from) && to.is_none_or(|to| at < to))
    }

    /// Whether a person should look at it.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        !self.without.is_empty() || !self.doubts.is_empty() || !self.state.counts()
    }
}

type Cell = fn(&Backup) -> String;

fn shown<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn names(regions: &[RegionName]) -> String {
    let all = regions.iter().map(RegionName::as_str);
    all.collect::<Vec<_>>().join(" ")
}

fn signed(backup: &Backup, cell: fn(&Signer) -> String) -> String {
    backup.signer.as_deref().map(cell).unwrap_or_default()
}

/// The columns, in order. They grow at the end; none changes its meaning.
pub const COLUMNS: &[(&str, Cell)] = &[
    ("kind", |row| row.what.name().to_owned()),
    ("source", |row| row.source.to_string()),
    ("engine", |row| row.engine.clone()),
    ("incarnation", |row| row.incarnation.clone()),
    ("id", Backup::id),
    ("epoch", |row| row.epoch.to_string()),
    ("generation", |row| shown(row.generation)),
    ("number", |row| row.number.to_string()),
    ("name", |row| shown(row.name.as_deref())),
    ("begun_at", |row| shown(row.begun)),
    ("sealed_at", |row| shown(row.sealed)),
    ("time_basis", |row| time_basis(row).to_owned()),
    ("reaches_from", |row| shown(row.reaches_from)),
    ("covers_until", |row| shown(row.covers_until)),
    ("log", |row| {
        shown(row.log.map(|log| format!("log:{}:{log}", row.epoch)))
    }),
    ("stored_as", |row| stored_as(row).to_owned()),
    ("rests_on", |row| shown(row.rests_on.as_deref())),
    ("image_bytes", |row| shown(row.image_bytes)),
    ("stored_bytes", |row| shown(row.stored_bytes)),
    ("state", |row| row.state.name().to_owned()),
    ("regions", |row| names(&row.regions)),
    ("regions_without", |row| names(&row.without)),
    ("regions_behind", |row| names(&row.behind)),
    ("regions_unread", |row| row.unread.to_string()),
    ("doubts", |row| row.doubts.join("; ")),
    ("drilled", |row| shown(row.drilled.as_deref())),
    ("signer", |row| signed(row, |one| one.key.to_string())),
    ("signer_name", |row| signed(row, |one| one.name.clone())),
    ("signer_standing", |row| {
        signed(row, |one| one.standing.to_owned())
    }),
    ("link", |row| shown(row.link)),
    ("key", |row| row.key.clone()),
];

/// Whose clock says when it was.
fn time_basis(backup: &Backup) -> &'static str {
    match (backup.sealed, backup.synchronised) {
        (None, _) => "",
        (Some(_), Some(true)) => "agent's clock, synchronised",
        (Some(_), Some(false)) => "agent's clock, not synchronised",
        (Some(_), None) => "agent's clock",
    }
}

fn stored_as(backup: &Backup) -> &'static str {
    match (backup.what, &backup.link, &backup.rests_on) {
        (_, None, _) => "",
        (What::RecoveryPoint, ..) => "log",
        (What::Base, _, None) => "complete",
        (What::Base, _, Some(_)) => "changed pages",
    }
}

/// The line above the rows of a CSV.
pub fn header(out: &mut String) {
    let titles = COLUMNS.iter().map(|(title, _)| (*title).to_owned());
    csv::line(out, titles);
}

/// A row of a CSV.
pub fn row(backup: &Backup, out: &mut String) {
    csv::line(out, COLUMNS.iter().map(|(_, cell)| cell(backup)));
}

/// The same as an object, without what is empty.
#[must_use]
pub fn object(backup: &Backup) -> Value {
    let mut object = Map::new();
    object.insert("schema".to_owned(), "tidemark-backup".into());
    object.insert("version".to_owned(), 1.into());
    for (title, cell) in COLUMNS {
        let cell = cell(backup);
        if !cell.is_empty() {
            object.insert((*title).to_owned(), cell.into());
        }
    }
    Value::Object(object)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A base or a point of source `app`, sealed at an instant.
    pub(in crate::evidence) fn backup(what: What, number: u64, sealed: &str) -> Backup {
        Backup {
            what,
            source: SourceName::new("app").unwrap(),
            engine: "sqlite".to_owned(),
            incarnation: "life".to_owned(),
            epoch: Epoch(1),
            generation: (what == What::Base).then_some(LogSeq(0)),
            number,
            name: None,
            begun: None,
            sealed: Some(sealed.parse().unwrap()),
            synchronised: None,
            reaches_from: None,
            covers_until: None,
            log: Some(LogSeq(7)),
            rests_on: None,
            image_bytes: None,
            stored_bytes: Some(10),
            regions: vec![RegionName::new("north").unwrap()],
            without: Vec::new(),
            behind: Vec::new(),
            unread: Arc::from(""),
            state: State::Whole,
            doubts: Vec::new(),
            drilled: None,
            signer: None,
            link: Some(Hash([1; 32])),
            key: "meta/x".to_owned(),
        }
    }

    #[test]
    fn a_period_includes_its_beginning_and_not_its_end_and_what_has_no_time_is_in_every_one() {
        let mut one = backup(What::Base, 0, "2026-11-01T00:00:00Z");
        let at = |text: &str| Some(text.parse().unwrap());
        assert!(one.is_in((None, None)));
        assert!(one.is_in((at("2026-11-01T00:00:00Z"), None)));
        assert!(!one.is_in((None, at("2026-11-01T00:00:00Z"))));
        one.sealed = None;
        assert!(one.is_in((None, at("2020-01-01T00:00:00Z"))));
    }

    #[test]
    fn a_row_has_every_column_and_no_cell_is_a_formula() {
        let mut text = String::new();
        header(&mut text);
        let mut point = backup(What::RecoveryPoint, 3, "2026-11-01T00:00:00Z");
        point.name = Some("=before, \"it\"".to_owned());
        point.synchronised = Some(false);
        row(&point, &mut text);
        assert!(
            text.starts_with("kind,source,engine,incarnation,id,")
                && text.contains("\r\nrecovery_point,app,sqlite,life,point:1/3,1,,3,\"'=before, \"\"it\"\"\",,2026-11-01T00:00:00Z,\
                                  \"agent's clock, not synchronised\","),
            "{text}"
        );
        let said = object(&backup(What::Base, 0, "2026-11-01T00:00:00Z"));
        assert_eq!(said["stored_as"], "complete");
        assert_eq!(said["id"], "base:1/0/0");
        assert!(said.get("doubts").is_none(), "{said}");
    }
}
