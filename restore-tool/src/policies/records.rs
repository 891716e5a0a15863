//! Facts from evidence: drills, restores, reviews, the record of uses. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tidemark_format::SourceName;
use tidemark_planner::objectives::{
    AccessLog, DrillFact, DrillVerdict, Facts, ReturnFact, ReviewFact,
};

use crate::evidence::chain::{Chain, Standing, Weight};
use crate::evidence::drills::{Drill, Verdict};
use crate::evidence::record::{ACCESS, Record};
use crate::evidence::rows::{Kind, Row, Selection};

/// What a record of the list of keys, made for a review, is called.
pub const KEYS_LIST: &str = "keys-list";
/// What a restore's record is called.
const RESTORE: &str = "restore";
/// A decision that lets something count.
const APPROVED: &str = "approved";
/// Scenarios that are none.
const PLAIN: [&str; 2] = ["", "none"];

/// Adds what evidence says of a source, and of the repository as a whole.
pub(super) fn add(facts: &mut Facts, chains: &[Chain], source: &SourceName) {
    let all = Selection {
        kind: Kind::All,
        ..Selection::default()
    };
    let rows = all.rows(chains);
    facts.drills = rows.iter().filter_map(|row| drill(row, source)).collect();
    facts.drills.sort_by_key(|drill| drill.at);
    facts.returns = rows
        .iter()
        .filter_map(|row| handed_back(row, source))
        .collect();
    facts.reviews = rows.iter().filter_map(review).collect();
    facts.access = access(&rows, chains);
}

fn of_seconds(seconds: Option<f64>) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds?.max(0.0)).ok()
}

fn drill(row: &Row<'_>, source: &SourceName) -> Option<DrillFact> {
    let drill = row
        .drill
        .as_ref()
        .filter(|drill| drill.source.as_ref() == Some(source))?;
    let record = row.record;
    Some(DrillFact {
        id: drill.id.clone(),
        at: drill.declared_at.unwrap_or(drill.at),
        verdict: match drill.verdict {
            Some(Verdict::Pass) => DrillVerdict::Pass,
            Some(Verdict::PassWithExceptions) => DrillVerdict::PassWithExceptions,
            Some(Verdict::Fail) => DrillVerdict::Fail,
            // A record without a verdict that we know has shown nothing.
            Some(Verdict::Inconclusive) | None => DrillVerdict::Inconclusive,
        },
        because: because(drill, record),
        discounted: drill.doubt.clone(),
        segregated: drill.segregated,
        scenario: drill
            .scenario
            .clone()
            .filter(|one| !PLAIN.contains(&one.as_str())),
        rto: of_seconds(drill.rto_seconds),
        rto_projected: of_seconds(drill.rto_projected_seconds)
            .max(of_seconds(worst_replay(record))),
        pitr_error: of_seconds(drill.pitr_error_ms.map(|ms| ms.abs() / 1000.0)),
        egress_refused: egress_refused(record),
        destroyed: destroyed(drill, record),
        rows_exported: record
            .field("/handling/rows_exported")
            .and_then(Value::as_u64),
        signed_off: approved(row),
    })
}

/// Who approved a record last, and who had rejected it before.
fn approved(row: &Row<'_>) -> Option<String> {
    let decision = row.decision().filter(|one| one.decision == APPROVED)?;
    let reviewer = decision.reviewer.clone();
    Some(match rejected(row) {
        Some(before) => format!("{reviewer}, after it was rejected {before}"),
        None => reviewer,
    })
}

/// The newest decision that counts and that another one replaced, if it was no approval.
fn rejected(row: &Row<'_>) -> Option<String> {
    let counting = row.decisions.iter().rev().filter(|one| one.counts());
    let before = counting.skip(1).find(|one| one.decision != APPROVED)?;
    Some(format!(
        "by {} at {} ({})",
        before.reviewer,
        before.at.strftime("%Y-%m-%d %H:%M:%S UTC"),
        before.ticket
    ))
}

/// How long it would take with as much log to replay as ever lies between two images.
fn worst_replay(record: &Record) -> Option<f64> {
    record
        .field("/timing/rto_projected_worst_replay_s")?
        .as_f64()
}

/// Why a drill ended as it did, in its record's own words.
fn because(drill: &Drill, record: &Record) -> String {
    let causes = record.field("/result/causes").and_then(Value::as_array);
    let causes = causes.into_iter().flatten().filter_map(Value::as_str);
    let causes: Vec<&str> = causes.take(3).collect();
    if !causes.is_empty() {
        return causes.join("; ");
    }
    let own = drill.exceptions.iter().chain(&drill.fixes);
    let own: Vec<&str> = own.map(String::as_str).take(3).collect();
    if !own.is_empty() {
        return own.join("; ");
    }
    let failed = record.field("/checks").and_then(Value::as_array);
    let failed = failed
        .into_iter()
        .flatten()
        .find(|check| check["status"] == "failed");
    let told = failed.and_then(|check| {
        let name = check["name"].as_str()?;
        Some(match check["why"].as_str() {
            Some(why) => format!("{name}: {why}"),
            None => name.to_owned(),
        })
    });
    told.unwrap_or_else(|| record.cell("/result/error_code"))
}

/// Whether what was restored is gone. A drill that failed before anything ran in its scratch had nothing to
/// isolate: that the empty folder is gone asks for no probe.
fn destroyed(drill: &Drill, record: &Record) -> Option<bool> {
    let ran = record
        .field("/environment/isolation")
        .is_some_and(|isolation| !isolation.is_null());
    let passed = matches!(
        drill.verdict,
        Some(Verdict::Pass | Verdict::PassWithExceptions)
    );
    drill.destroyed.filter(|gone| ran || passed || !gone)
}

/// What a try to reach the network from inside came to. A text that says nothing known says nothing.
fn egress_refused(record: &Record) -> Option<bool> {
    let field = record.field("/environment/isolation/egress_probe_result")?;
    match field {
        Value::Bool(reached) => Some(!reached),
        Value::String(text) => {
            let text = text.to_ascii_lowercase();
            let refused = ["refused", "unreachable", "blocked", "failed", "none"];
            let reached = ["reached", "connected", "open", "succeeded"];
            if refused.iter().any(|word| text.contains(word)) {
                Some(true)
            } else if reached.iter().any(|word| text.contains(word)) {
                Some(false)
            } else {
                None
            }
        }
        _ => None,
    }
}

fn is_access(row: &Row<'_>, action: &str) -> bool {
    row.record.kind() == ACCESS && row.record.text("/action") == Some(action)
}

fn handed_back(row: &Row<'_>, source: &SourceName) -> Option<ReturnFact> {
    let own = row.record.text("/source/name") == Some(source.as_str());
    (is_access(row, RESTORE) && own && row.chain.doubt(row.record).is_none()).then(|| ReturnFact {
        id: row.record.id(),
        at: row.record.created_at(),
        worked: row
            .record
            .text("/result/outcome")
            .is_some_and(|outcome| matches!(outcome, "ok" | "exceptions")),
    })
}

fn review(row: &Row<'_>) -> Option<ReviewFact> {
    if !is_access(row, KEYS_LIST) {
        return None;
    }
    let version = row
        .record
        .field("/keyring/version")
        .and_then(Value::as_u64)?;
    let decision = row.decision();
    Some(ReviewFact {
        id: row.record.id(),
        keyring_version: u32::try_from(version).ok()?,
        at: decision.map(|decision| decision.at),
        reviewer: decision
            .map(|decision| decision.reviewer.clone())
            .unwrap_or_default(),
        approved: decision.is_some_and(|decision| decision.decision == APPROVED),
        same_identity: decision.is_some_and(|decision| decision.signer == row.chain.signer),
        rejected: rejected(row),
        discounted: row.chain.doubt(row.record),
    })
}

fn access(rows: &[Row<'_>], chains: &[Chain]) -> AccessLog {
    let uses: Vec<&Row<'_>> = rows
        .iter()
        .filter(|row| row.record.kind() == ACCESS)
        .collect();
    let findings = chains.iter().flat_map(|chain| &chain.findings);
    let broken = findings.filter(|finding| finding.weight == Weight::Integrity);
    // What a revoked signer wrote before counts; what it wrote later is a finding.
    let vouched =
        |row: &&&Row<'_>| matches!(row.chain.standing, Standing::Enrolled | Standing::Revoked);
    let unvouched: Vec<_> = uses.iter().filter(|row| !vouched(row)).collect();
    let strangers: BTreeSet<String> = unvouched
        .iter()
        .map(|row| row.chain.signer.to_string())
        .collect();
    AccessLog {
        unvouched: unvouched.len(),
        strangers: strangers.into_iter().collect(),
        records: uses.len(),
        first: uses.iter().map(|row| row.record.created_at()).min(),
        last: uses.iter().map(|row| row.record.created_at()).max(),
        broken: broken
            .map(crate::evidence::chain::Finding::sentence)
            .collect(),
    }
}
