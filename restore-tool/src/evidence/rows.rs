//! Records as rows: which of them an export holds, and what each cell says. Pure.
//!
//! **Invariant:** a selection is decided by kind, source and time alone; failures are in it as everything else
//! is. A row whose record was signed off carries the decisions; they are records too.
//!
//! A column's name and what it says are a contract with auditors' own tools, and with `pack/verify.py`,
//! which derives every cell from the records again.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemark_format::SourceName;

use super::chain::Chain;
use super::drills::{Drill, RungState, is_drill};
use super::record::{ACCESS, DISPOSAL, Record, SIGN_OFF};
use super::reviews::{Decision, Reviews};

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
    /// Every full backup and recovery point, as the regions have them now; export alone takes it.
    Backups,
    /// What was disposed of, and on whose word.
    Disposals,
}

impl Kind {
    /// Whether a record of type `of` is one of them.
    #[must_use]
    pub fn takes(self, of: &str) -> bool {
        match self {
            Self::Drills => is_drill(of),
            Self::Access => of == ACCESS,
            Self::All => true,
            // They stand in the regions, not on record.
            Self::Backups => false,
            Self::Disposals => of == DISPOSAL,
        }
    }

    /// As it is typed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drills => "drills",
            Self::Access => "access",
            Self::All => "all",
            Self::Backups => "backups",
            Self::Disposals => "disposals",
        }
    }
}

/// What a list or an export holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selection {
    /// Which records.
    pub kind: Kind,
    /// About this source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceName>,
    /// Made at this instant or later.
    pub from: Option<Timestamp>,
    /// Made before this instant.
    pub to: Option<Timestamp>,
}

impl Selection {
    fn takes(&self, record: &Record) -> bool {
        let at = record.created_at();
        self.kind.takes(record.kind())
            && self
                .source
                .as_ref()
                .is_none_or(|source| is_of(record, source))
            && self.from.is_none_or(|from| at >= from)
            && self.to.is_none_or(|to| at < to)
    }

    /// The records of all chains that it takes, the oldest first.
    #[must_use]
    pub fn rows<'a>(&self, chains: &'a [Chain]) -> Vec<Row<'a>> {
        let all = chains
            .iter()
            .flat_map(|chain| chain.records.values().map(move |record| (chain, record)));
        let reviews = Reviews::of(chains);
        let mut rows: Vec<Row<'a>> = all
            .filter(|(_, record)| self.takes(record))
            .map(|(chain, record)| Row {
                chain,
                record,
                drill: Drill::of(chain, record),
                decisions: reviews.about(record),
            })
            .collect();
        rows.sort_by_key(|row| (row.record.created_at(), row.chain.signer, row.record.seq()));
        rows
    }
}

/// Whether a record is about a source, or about several and this one among them.
fn is_of(record: &Record, source: &SourceName) -> bool {
    let all = record.field("/sources").and_then(Value::as_array);
    let mut all = all.into_iter().flatten();
    record.text("/source/name") == Some(source.as_str())
        || all.any(|one| one.as_str() == Some(source.as_str()))
}

/// A record with what stands beside it.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    /// The chain it stands in.
    pub chain: &'a Chain,
    /// The record.
    pub record: &'a Record,
    /// What it says as a drill's record, if it is one.
    pub drill: Option<Drill>,
    /// The decisions about it, the oldest first.
    pub decisions: Vec<Decision>,
}

impl Row<'_> {
    /// The newest decision that counts.
    #[must_use]
    pub fn decision(&self) -> Option<&Decision> {
        self.decisions.iter().rfind(|decision| decision.counts())
    }
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
    ("reviewer", |row| {
        reviewed(row, "/review/reviewer", |one| one.reviewer.clone())
    }),
    ("ticket", |row| {
        reviewed(row, "/review/ticket", |one| one.ticket.clone())
    }),
    ("decision", |row| {
        reviewed(row, "/review/decision", |one| one.decision.clone())
    }),
    ("reviewed_at", |row| {
        let newest = row.decision();
        newest.map(|one| one.at.to_string()).unwrap_or_default()
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
    ("verdict", |row| row.record.cell("/result/verdict")),
    ("scenario", |row| row.record.cell("/plan/scenario")),
    ("trigger", |row| row.record.cell("/plan/trigger")),
    ("selection", |row| row.record.cell("/recovery_pt/selection")),
    ("target_time", |row| {
        row.record.cell("/recovery_pt/target_time")
    }),
    ("declared_at", |row| row.record.cell("/timing/declared_at")),
    ("last_recovered_commit_at", |row| {
        row.record.cell("/recovery/last_recovered_commit_at")
    }),
    ("rpo_measured_s", |row| {
        row.record.cell("/recovery/rpo_measured_s")
    }),
    ("rpo_target_s", |row| {
        row.record.cell("/objectives/rpo_target_s")
    }),
    ("rpo_met", |row| row.record.cell("/result/rpo_met")),
    ("rto_measured_s", |row| {
        row.record.cell("/timing/rto_measured_s")
    }),
    ("rto_projected_full_s", |row| {
        row.record.cell("/timing/rto_projected_full_s")
    }),
    ("rto_target_s", |row| {
        row.record.cell("/objectives/rto_target_s")
    }),
    ("rto_met", |row| row.record.cell("/result/rto_met")),
    ("pitr_error_ms", |row| {
        row.record.cell("/recovery/pitr_error_ms")
    }),
    ("pitr_precision_target_s", |row| {
        row.record.cell("/objectives/pitr_precision_target_s")
    }),
    ("pitr_met", |row| row.record.cell("/result/pitr_met")),
    ("proved_rungs", |row| {
        of_drill(row, |drill| {
            // A rung over one that was not proved is none.
            let climbed = drill.rungs.iter();
            let climbed = climbed.take_while(|(_, state)| state.is_climbed());
            let proved = climbed.filter(|(_, state)| *state == RungState::Proved);
            let words: Vec<&str> = proved.map(|(rung, _)| rung.name()).collect();
            words.join(" ")
        })
    }),
    ("checks_passed", |row| {
        of_drill(row, |drill| drill.checks.passed.to_string())
    }),
    ("checks_failed", |row| {
        of_drill(row, |drill| drill.checks.failed.to_string())
    }),
    ("checks_warned", |row| {
        of_drill(row, |drill| drill.checks.warned.to_string())
    }),
    ("checks_recorded", |row| {
        of_drill(row, |drill| drill.checks.recorded.to_string())
    }),
    ("checks_not_run", |row| {
        of_drill(row, |drill| drill.checks.not_run.to_string())
    }),
    ("fixes", |row| listed(row.record, &["/fixes"])),
    ("exceptions", |row| {
        listed(row.record, &["/result/exceptions", "/exceptions"])
    }),
    ("segregated", |row| {
        of_drill(row, |drill| drill.segregated.to_string())
    }),
    ("sandbox_host", |row| row.record.cell("/environment/host")),
    ("isolation", |row| {
        row.record.cell("/environment/isolation/netns")
    }),
    ("egress_probe", |row| {
        row.record
            .cell("/environment/isolation/egress_probe_result")
    }),
    ("scratch_verified_absent", |row| {
        row.record.cell("/handling/teardown/verified_absent")
    }),
    ("next_due", |row| row.record.cell("/governance/next_due")),
    ("decisions", |row| {
        let all = row.decisions.iter().map(Decision::sentence);
        all.collect::<Vec<_>>().join("; ")
    }),
    ("causes", |row| listed(row.record, &["/result/causes"])),
];

/// A review's own cells, or those of the decision that counts about a record.
fn reviewed(row: &Row<'_>, pointer: &str, cell: fn(&Decision) -> String) -> String {
    if row.record.kind() == SIGN_OFF {
        return row.record.cell(pointer);
    }
    row.decision().map(cell).unwrap_or_default()
}

/// What only a drill's record says.
fn of_drill(row: &Row<'_>, cell: fn(&Drill) -> String) -> String {
    row.drill.as_ref().map(cell).unwrap_or_default()
}

/// A list of sentences, from the first of several places that has one.
fn listed(record: &Record, pointers: &[&str]) -> String {
    let mut found = pointers
        .iter()
        .filter_map(|pointer| record.field(pointer)?.as_array());
    let all = found.find(|all| !all.is_empty()).into_iter().flatten();
    let shown = all.map(|value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    shown.collect::<Vec<_>>().join("; ")
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
    // A drill's stand with its recovery point.
    let drills = format!("/recovery_pt{pointer}");
    let found = record.field(pointer).or_else(|| record.field(&drills));
    let all = found.and_then(Value::as_array);
    let names = all
        .into_iter()
        .flatten()
        .filter_map(|one| one.get("region").and_then(Value::as_str));
    names.collect::<Vec<_>>().join(" ")
}
