//! Drills that were made before, from their records.
//!
//! **Invariant:** what was found wanting measures nothing. A count that fell, a table that went, a log that
//! ended early is found again by every later drill until a person signs off the record of one that found it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tidemark_format::{Epoch, LogSeq, SourceName};
use tidemark_host::output;
use tidemark_ledger::timeline::Timeline;
use tidemark_planner::drill::{Check, CheckStatus, Earlier, Rung, expect};

use super::course::Course;
use super::request::{Request, Scenario};
use crate::evidence::chain::Chain;
use crate::evidence::drills::Drill;
use crate::evidence::record::Record;
use crate::evidence::reviews::Reviews;
use crate::evidence::shelf;
use crate::plan::Goal;
use crate::plan::RestorePlan;
use crate::repository::Repository;

/// The check that what was restored before still can be.
pub(super) const KEPT: &str = "chain.kept";
/// How a person's acceptance is written.
const APPROVED: &str = "approved";

/// What the drills of a source left behind.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Those that passed.
    pub(super) earlier: Vec<Earlier>,
    /// The furthest state that one of them restored.
    pub(super) furthest: Option<Restored>,
}

/// A state that a drill restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restored {
    /// The drill's record.
    pub(crate) id: String,
    /// When it was made.
    pub(crate) at: Timestamp,
    /// The last log object that was replayed.
    pub(crate) epoch: Epoch,
    /// See `epoch`.
    pub(crate) seq: LogSeq,
    /// The places that were read then.
    pub(crate) places: Vec<String>,
}

impl std::fmt::Display for Restored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = output::instant(self.at);
        let (epoch, seq) = (self.epoch, self.seq);
        write!(
            f,
            "what drill {} restored on {at} (log:{epoch}:{seq})",
            self.id
        )
    }
}

/// What the passed drills of a source say, read from the regions alone.
pub(super) async fn read(repository: &Repository, source: &SourceName) -> (Past, Vec<String>) {
    match shelf::read(repository, None).await {
        Ok(shelf) => (gather(&shelf.chains, source), Vec::new()),
        Err(error) => {
            let why = tidemark_storage::chain(&error);
            let note =
                format!("earlier drills could not be read, so counts are only recorded: {why}");
            (Past::default(), vec![note])
        }
    }
}

fn gather(chains: &[Chain], source: &SourceName) -> Past {
    let reviews = Reviews::of(chains);
    let is_accepted = |record: &Record| {
        let decisions = reviews.about(record);
        let last = decisions.iter().rfind(|decision| decision.counts());
        last.is_some_and(|decision| decision.decision == APPROVED)
    };
    let records = chains
        .iter()
        .flat_map(|chain| chain.records.values().map(move |record| (chain, record)));
    let own: Vec<(Drill, &Record)> = records
        .filter_map(|(chain, record)| Some((Drill::of(chain, record)?, record)))
        .filter(|(drill, _)| drill.doubt.is_none() && drill.source.as_ref() == Some(source))
        .collect();
    // Where somebody accepted that the log ends earlier, what was restored before is no measure any more.
    let shorter = own.iter().filter(|(_, record)| {
        let is_kept = |(id, status): (&str, &str)| id == KEPT && status != "passed";
        checks(record).any(is_kept) && is_accepted(record)
    });
    let shorter = shorter.map(|(drill, _)| drill.at).max();
    let passed = own.iter().filter(|(drill, _)| drill.proves());
    let furthest = passed
        .clone()
        .filter(|(drill, _)| shorter.is_none_or(|shorter| drill.at > shorter))
        .filter_map(|(drill, record)| {
            let (epoch, seq) = position(record.text("/recovery/position")?)?;
            let (id, at) = (drill.id.clone(), drill.at);
            let places = places(record);
            Some(Restored {
                id,
                at,
                epoch,
                seq,
                places,
            })
        })
        .max_by_key(|restored| (restored.epoch, restored.seq));
    let earlier = passed.map(|(_, record)| earlier(record, is_accepted(record)));
    Past {
        earlier: earlier.collect(),
        furthest,
    }
}

/// The furthest state of a source that a drill restored, unless a person accepted since that the log ends earlier.
pub(crate) fn furthest(chains: &[Chain], source: &SourceName) -> Option<Restored> {
    gather(chains, source).furthest
}

/// Where the regions are that a drill read.
fn places(record: &Record) -> Vec<String> {
    let read = record.field("/recovery_pt/read_from");
    let read = read.and_then(|value| value.as_array());
    let all = read.into_iter().flatten();
    all.filter_map(|one| Some(one.get("target")?.as_str()?.to_owned()))
        .collect()
}

/// `log:EPOCH:SEQ`.
fn position(text: &str) -> Option<(Epoch, LogSeq)> {
    let (epoch, seq) = text.strip_prefix("log:")?.split_once(':')?;
    Some((Epoch(epoch.parse().ok()?), LogSeq(seq.parse().ok()?)))
}

/// The checks of a drill, by id, and how they ended.
fn checks(record: &Record) -> impl Iterator<Item = (&str, &str)> {
    let all = record.field("/checks").and_then(|value| value.as_array());
    all.into_iter()
        .flatten()
        .filter_map(|check| Some((check.get("id")?.as_str()?, check.get("status")?.as_str()?)))
}

fn earlier(record: &Record, is_accepted: bool) -> Earlier {
    let map = |pointer: &str| record.field(pointer).and_then(|value| value.as_object());
    let rows = map("/recovery/counts").into_iter().flatten();
    let rows: BTreeMap<&str, u64> = rows
        .filter_map(|(table, rows)| Some((table.as_str(), rows.as_u64()?)))
        .collect();
    let mut counts = BTreeMap::new();
    for (id, status) in checks(record) {
        let Some(table) = expect::counted(id) else {
            continue;
        };
        if is_accepted || matches!(status, "passed" | "recorded") {
            counts.insert(table.to_owned(), rows.get(table).copied());
        }
    }
    let collations = map("/recovery/collations").into_iter().flatten();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let reached = record.text("/recovery/reached_at");
    Earlier {
        evidence_id: record.id(),
        made_at: record.created_at(),
        reached_at: reached.and_then(|at| at.parse().ok()),
        counts,
        schema_digest: record.text("/recovery/schema_digest").map(str::to_owned),
        collations: collations
            .filter_map(|(name, version)| Some((name.clone(), text(version)?)))
            .collect(),
    }
}

impl Past {
    /// Whether the newest state is at least what a drill restored before.
    pub(super) fn kept(
        &self,
        request: &Request,
        goal: &Goal,
        plan: &RestorePlan,
        timeline: &Timeline,
        course: &mut Course,
    ) {
        let as_of = matches!(request.scenario, Some(Scenario::AsOf(_)));
        let (Goal::Latest, Some(furthest)) = (goal, &self.furthest) else {
            return;
        };
        if as_of {
            return;
        }
        let end = match timeline.epoch(furthest.epoch) {
            _ if furthest.epoch >= plan.end.epoch => Some((plan.end.epoch, plan.end.seq)),
            // An epoch that was disposed of is no loss of its end.
            view => view.and_then(|view| {
                let (last, _) = view.names.last_key_value()?;
                Some((view.epoch, *last))
            }),
        };
        let Some((epoch, seq)) = end else { return };
        let check = |status| {
            Check::new(Rung::Chain, KEPT, "what earlier drills restored", status)
                .expected(format!("log:{}:{} or later", furthest.epoch, furthest.seq))
                .actual(format!("log:{epoch}:{seq}"))
        };
        if (epoch, seq) >= (furthest.epoch, furthest.seq) {
            course.check(check(CheckStatus::Passed));
            return;
        }
        let all_read = request.scenario.is_none() && course.unread == 0;
        course.check(if all_read {
            check(CheckStatus::Failed).why(format!(
                "{furthest} is in no region any more: the end of the log was removed or lost"
            ))
        } else {
            check(CheckStatus::Warned).why(format!(
                "{furthest} is in none of the regions that were read"
            ))
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidemark_format::RepoId;
    use tidemark_format::sign::SigningKey;
    use tidemark_host::TestRng;

    use super::*;
    use crate::evidence::drills::tests::chain;
    use crate::evidence::record::{Draft, SIGN_OFF};

    #[test]
    fn a_position_is_read_as_it_is_written() {
        assert_eq!(position("log:1:129"), Some((Epoch(1), LogSeq(129))));
        for text in ["", "log:1", "log:a:1", "point:1/2"] {
            assert_eq!(position(text), None, "{text}");
        }
    }

    /// Appends a record, an hour after the one before.
    fn append(chain: &mut Chain, kind: &str, fields: &Value) {
        let key = SigningKey::from_secret(&[7; 32]);
        let last = chain.records.values().next_back();
        let prev = last.map(|record| record.sha256);
        let now = last.map_or(Timestamp::UNIX_EPOCH, Record::created_at);
        let now = now
            .checked_add(jiff::SignedDuration::from_hours(1))
            .unwrap();
        let seq = chain.records.len() as u64;
        let rng = TestRng::seeded(seq);
        let fields = fields.as_object().unwrap().clone();
        let draft = Draft::new(kind, vec![], fields, now, &rng);
        let record = draft.sign(seq, prev, RepoId([1; 16]), &key).unwrap();
        chain.records.insert(seq, record);
    }

    fn drill(chain: &mut Chain, verdict: &str, seq: u64, rows: Option<u64>, checks: &Value) {
        let counts = rows.map_or_else(|| json!({}), |rows| json!({ "orders": rows }));
        let reached = format!("2026-11-23T00:00:{seq:02}Z");
        let fields = json!({
            "source": { "name": "app" },
            "recovery": { "position": format!("log:1:{seq}"), "counts": counts, "reached_at": reached },
            "checks": checks,
            "result": { "verdict": verdict },
        });
        append(chain, "restore_drill", &fields);
    }

    fn sign_off(chain: &mut Chain, decision: &str) {
        let record = chain.records.values().next_back().unwrap();
        let about = json!({ "review": {
            "signer": chain.signer.to_string(), "seq": record.seq(), "sha256": record.sha256.to_string(),
            "reviewer": "Ann", "ticket": "T-1", "decision": decision,
        }});
        append(chain, SIGN_OFF, &about);
    }

    fn count(status: &str) -> Value {
        json!([{ "id": "count.orders", "level": "logical", "status": status }])
    }

    fn rows(chain: &Chain) -> Vec<Option<Option<u64>>> {
        let past = gather(std::slice::from_ref(chain), &"app".parse().unwrap());
        let all = past.earlier.iter();
        all.map(|drill| drill.counts.get("orders").copied())
            .collect()
    }

    #[test]
    fn a_count_that_fell_measures_nothing_until_a_person_approves_its_record() {
        let mut chain = chain(&[]);
        drill(&mut chain, "PASS", 1, Some(2500), &count("recorded"));
        drill(
            &mut chain,
            "PASS_WITH_EXCEPTIONS",
            2,
            Some(1300),
            &count("warned"),
        );
        assert_eq!(rows(&chain), [Some(Some(2500)), None]);
        sign_off(&mut chain, "rejected");
        assert_eq!(rows(&chain), [Some(Some(2500)), None]);
        drill(
            &mut chain,
            "PASS_WITH_EXCEPTIONS",
            3,
            None,
            &count("warned"),
        );
        sign_off(&mut chain, "approved");
        assert_eq!(rows(&chain), [Some(Some(2500)), None, Some(None)]);
        // What was not counted says nothing.
        drill(&mut chain, "PASS", 4, None, &json!([]));
        assert_eq!(rows(&chain)[3], None);
    }

    #[test]
    fn the_furthest_state_that_was_restored_counts_until_a_person_accepts_less() {
        let mut chain = chain(&[]);
        let furthest = |chain: &Chain| {
            let past = gather(std::slice::from_ref(chain), &"app".parse().unwrap());
            past.furthest.map(|restored| restored.seq.0)
        };
        assert_eq!(furthest(&chain), None);
        drill(&mut chain, "PASS", 29, None, &json!([]));
        drill(&mut chain, "INCONCLUSIVE", 35, None, &json!([]));
        let ended = json!([{ "id": KEPT, "level": "chain", "status": "failed" }]);
        drill(&mut chain, "FAIL", 21, None, &ended);
        assert_eq!(furthest(&chain), Some(29));
        sign_off(&mut chain, "approved");
        drill(&mut chain, "PASS", 22, None, &json!([]));
        assert_eq!(furthest(&chain), Some(22));
    }
}
