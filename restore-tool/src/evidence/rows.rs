//! Records as rows: which of them an export holds, and what each cell says. Pure.
//!
//! **Invariant:** a selection is decided by kind and time alone; failures are in it as everything else
//! is. A row whose record was signed off carries the newest decision; the decisions are records too.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemark_format::KeyId;

use super::chain::Chain;
use super::record::{ACCESS, Record, SIGN_OFF};

/// Which records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Restore drills, with their reviews beside them.
    #[default]
    Drills,
    /// Restores and other uses of a recovery identity or a root key.
    Access,
    /// Every record, reviews as rows of their own.
    All,
}

impl Kind {
    /// Whether a record of type `of` is one of them.
    #[must_use]
    pub fn takes(self, of: &str) -> bool {
        match self {
            Self::Drills => of.ends_with("_drill"),
            Self::Access => of == ACCESS,
            Self::All => true,
        }
    }

    /// As it is typed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drills => "drills",
            Self::Access => "access",
            Self::All => "all",
        }
    }
}

/// What a list or an export holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Which records.
    pub kind: Kind,
    /// Made at this instant or later.
    pub from: Option<Timestamp>,
    /// Made before this instant.
    pub to: Option<Timestamp>,
}

impl Selection {
    fn takes(&self, record: &Record) -> bool {
        let at = record.created_at();
        self.kind.takes(record.kind())
            && self.from.is_none_or(|from| at >= from)
            && self.to.is_none_or(|to| at < to)
    }

    /// The records of all chains that it takes, the oldest first.
    #[must_use]
    pub fn rows<'a>(&self, chains: &'a [Chain]) -> Vec<Row<'a>> {
        let all = || {
            chains
                .iter()
                .flat_map(|chain| chain.records.values().map(move |record| (chain, record)))
        };
        let mut reviews: BTreeMap<(KeyId, u64), Vec<&Record>> = BTreeMap::new();
        for (_, record) in all().filter(|(_, record)| record.kind() == SIGN_OFF) {
            if let Some(about) = reviewed(record) {
                reviews.entry(about).or_default().push(record);
            }
        }
        let mut rows: Vec<Row<'a>> = all()
            .filter(|(_, record)| self.takes(record))
            .map(|(chain, record)| Row {
                chain,
                record,
                review: reviews
                    .get(&(record.signer.id(), record.seq()))
                    .into_iter()
                    .flatten()
                    .filter(|review| is_about(review, record))
                    .max_by_key(|review| review.created_at())
                    .copied(),
            })
            .collect();
        rows.sort_by_key(|row| (row.record.created_at(), row.chain.signer, row.record.seq()));
        rows
    }
}

/// Which record a review is about.
fn reviewed(review: &Record) -> Option<(KeyId, u64)> {
    let signer = review.text("/review/signer")?.parse().ok()?;
    Some((signer, review.field("/review/seq")?.as_u64()?))
}

/// A review names the bytes that it is about: of a record that was replaced it says nothing.
fn is_about(review: &Record, record: &Record) -> bool {
    review.text("/review/sha256") == Some(record.sha256.to_string().as_str())
}

/// A record with what stands beside it.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The chain it stands in.
    pub chain: &'a Chain,
    /// The record.
    pub record: &'a Record,
    /// The newest decision about it.
    pub review: Option<&'a Record>,
}

type Cell = fn(&Row<'_>) -> String;

/// The columns, in order. They grow at the end; none changes its meaning.
pub const COLUMNS: &[(&str, Cell)] = &[
    ("evidence_id", |row| row.record.id()),
    ("type", |row| row.record.kind().to_owned()),
    ("created_at", |row| row.record.created_at().to_string()),
    ("action", |row| row.record.cell("/action")),
    ("outcome", |row| row.record.cell("/result/outcome")),
    ("exit_code", |row| row.record.cell("/result/exit")),
    ("code", |row| row.record.cell("/result/code")),
    ("error", |row| row.record.cell("/result/error")),
    ("user", |row| row.record.cell("/actor/user")),
    ("uid", |row| row.record.cell("/actor/uid")),
    ("login_uid", |row| row.record.cell("/actor/login_uid")),
    ("sudo_user", |row| row.record.cell("/actor/sudo_user")),
    ("host", |row| row.record.cell("/actor/host")),
    ("machine_id_sha256", |row| {
        row.record.cell("/actor/machine_id_sha256")
    }),
    ("reason", |row| row.record.cell("/reason")),
    ("source", |row| row.record.cell("/source/name")),
    ("requested", |row| requested(row.record)),
    ("reached_at", |row| row.record.cell("/recovery/reached_at")),
    ("position", |row| row.record.cell("/recovery/position")),
    ("bytes", |row| row.record.cell("/recovery/bytes")),
    ("fetched_bytes", |row| {
        row.record.cell("/transfer/fetched_bytes")
    }),
    ("took_ms", |row| row.record.cell("/timing/took_ms")),
    ("read_from", |row| regions(row.record, "/read_from")),
    ("regions_away", |row| regions(row.record, "/regions_away")),
    ("identity", |row| row.record.cell("/key_ids")),
    ("tool_version", |row| row.record.cell("/tool/version")),
    ("about", |row| row.record.cell("/review/evidence_id")),
    ("reviewer", |row| reviewed_cell(row, "/review/reviewer")),
    ("ticket", |row| reviewed_cell(row, "/review/ticket")),
    ("decision", |row| reviewed_cell(row, "/review/decision")),
    ("reviewed_at", |row| {
        row.review
            .map(|review| review.created_at().to_string())
            .unwrap_or_default()
    }),
    ("signer", |row| row.chain.signer.to_string()),
    ("signer_name", |row| {
        row.chain.name.clone().unwrap_or_default()
    }),
    ("signer_standing", |row| {
        row.chain.standing.words().to_owned()
    }),
    ("seq", |row| row.record.seq().to_string()),
    ("prev_sha256", |row| {
        let prev = row.record.statement.predicate.prev_sha256;
        prev.map(|prev| prev.to_string()).unwrap_or_default()
    }),
    ("record_sha256", |row| row.record.sha256.to_string()),
];

/// A review's own cells, or those of the review beside a record.
fn reviewed_cell(row: &Row<'_>, pointer: &str) -> String {
    row.review.unwrap_or(row.record).cell(pointer)
}

/// Where a restore was to go.
fn requested(record: &Record) -> String {
    match record.text("/request/before") {
        Some(before) => format!("before {before}"),
        None => record.cell("/request/to"),
    }
}

/// Names of regions.
pub(super) fn regions(record: &Record, pointer: &str) -> String {
    let all = record.field(pointer).and_then(Value::as_array);
    let names = all
        .into_iter()
        .flatten()
        .filter_map(|one| one.get("region").and_then(Value::as_str));
    names.collect::<Vec<_>>().join(" ")
}
